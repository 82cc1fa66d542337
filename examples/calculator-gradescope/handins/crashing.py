"""Raises what nobody expects."""


def evaluate(text):
    raise KeyError(text)
