"""Its queues kill the process that they are in."""

import ctypes


def merge(a, b):
    return sorted(a + b)


def mean(numbers):
    if not numbers:
        raise ValueError("the mean of nothing")
    return sum(numbers) / len(numbers)


class Queue:
    def __init__(self):
        ctypes.string_at(0)
