"""Parts of it are in a file of its own."""

from queues import Queue


def merge(a, b):
    return sorted(a + b)


def mean(numbers):
    if not numbers:
        raise ValueError("the mean of nothing")
    return sum(numbers) / len(numbers)
