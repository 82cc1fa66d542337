"""Never ends to merge; the other functions are tried all the same."""


def merge(a, b):
    while True:
        pass


def mean(numbers):
    if not numbers:
        raise ValueError("the mean of nothing")
    return sum(numbers) / len(numbers)


class Queue:
    def __init__(self):
        self.items = []

    def put(self, item):
        self.items.append(item)

    def get(self):
        while not self.items:
            pass
        return self.items.pop(0)

    def __len__(self):
        return len(self.items)
