"""Forgets what is equal, the mean of nothing, and which end of a queue is which."""


def merge(a, b):
    return sorted(set(a + b))


def mean(numbers):
    return sum(numbers) / len(numbers) if numbers else 0


class Queue:
    def __init__(self):
        self.items = []

    def put(self, item):
        self.items.append(item)

    def get(self):
        return self.items.pop() if self.items else None

    def __len__(self):
        return len(self.items)
