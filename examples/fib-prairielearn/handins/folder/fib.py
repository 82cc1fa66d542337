"""The n-th Fibonacci number, with the loop in a module of its own."""

from pairs import pairs


def fib(n):
    if n < 0:
        raise ValueError("n is negative")
    for m, (a, _) in enumerate(pairs()):
        if m == n:
            return a
