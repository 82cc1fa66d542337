"""Is no Python."""


def fib(n):
    return n if n < 2 else fib(n - 1) +
