"""Never ends to merge what is equal, nor to wait for what is not there; all else is tried all the same."""


def merge(a, b):
    merged = []
    while a and b:
        if a[0] < b[0]:
            merged.append(a.pop(0))
        elif b[0] < a[0]:
            merged.append(b.pop(0))
    return merged + a + b


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
