"""Roman numerals; the signs are in a module of their own."""

from signs import SIGNS


def to_roman(number):
    if not 1 <= number <= 3999:
        raise ValueError(f"{number} is not from 1 to 3999")
    written = ""
    for value, sign in SIGNS:
        count, number = divmod(number, value)
        written += sign * count
    return written
