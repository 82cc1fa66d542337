"""Wrong. Its conftest.py is to make up for that."""


def to_roman(number):
    return str(number)
