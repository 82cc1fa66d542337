def merge(a, b):
    merged = []
    i = j = 0
    while i < len(a) and j < len(b):
        if b[j] < a[i]:
            merged.append(b[j])
            j += 1
        else:
            merged.append(a[i])
            i += 1
    return merged + a[i:] + b[j:]


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
        return self.items.pop(0)

    def __len__(self):
        return len(self.items)
