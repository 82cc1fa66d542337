"""Raises what nobody expects."""


def to_roman(number):
    return {}[number]
