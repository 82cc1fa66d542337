"""Right, but by a recursion that large numbers do not see the end of."""


def fib(n):
    if n < 0:
        raise ValueError("n is negative")
    return n if n < 2 else fib(n - 1) + fib(n - 2)
