"""Prints without end."""


def to_roman(number):
    while True:
        print("MMMDCCCLXXXVIII\n" * 1000)
