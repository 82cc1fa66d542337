"""Prints without end, wherever it can."""

import os


def fib(n):
    while True:
        for descriptor in (1, 2):
            os.write(descriptor, b"1 1 2 3 5 8 13\n" * 1000)
