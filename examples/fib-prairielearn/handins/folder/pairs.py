"""Neighbours among the Fibonacci numbers."""


def pairs():
    a, b = 0, 1
    while True:
        yield a, b
        a, b = b, a + b
