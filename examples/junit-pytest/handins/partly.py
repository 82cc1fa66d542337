"""Knows how to add, not how to subtract, and no bounds."""


def to_roman(number):
    written = ""
    for value, sign in ((1000, "M"), (500, "D"), (100, "C"), (50, "L"), (10, "X"), (5, "V"), (1, "I")):
        written += sign * (number // value)
        number %= value
    return written
