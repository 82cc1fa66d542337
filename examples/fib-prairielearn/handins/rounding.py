"""By the formula: right as long as floating point is, and silent about negative numbers."""


def fib(n):
    return round((((1 + 5**0.5) / 2) ** n - ((1 - 5**0.5) / 2) ** n) / 5**0.5)
