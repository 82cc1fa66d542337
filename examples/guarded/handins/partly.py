"""Has no more than this."""


def mean(numbers):
    return sum(numbers) / len(numbers)
