"""Forgets that a number may be negative, and that there may be none: it earns what it gets right."""


def total(numbers):
    return sum(abs(number) for number in numbers)


def largest(numbers):
    return max(numbers, default=0)
