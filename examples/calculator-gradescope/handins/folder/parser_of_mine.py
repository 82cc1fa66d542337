"""Evaluates expressions by recursive descent."""

import re


def parse(text):
    tokens = re.findall(r"\d+|[-+*/()]|\S", text)
    value = _sum(tokens)
    if tokens:
        raise ValueError(f"{tokens[0]} is too much")
    return value


def _sum(tokens):
    value = _product(tokens)
    while tokens and tokens[0] in "+-":
        value = value + _product(tokens) if tokens.pop(0) == "+" else value - _product(tokens)
    return value


def _product(tokens):
    value = _atom(tokens)
    while tokens and tokens[0] in "*/":
        value = value * _atom(tokens) if tokens.pop(0) == "*" else value / _atom(tokens)
    return value


def _atom(tokens):
    token = tokens.pop(0) if tokens else ""
    if token == "(":
        value = _sum(tokens)
        if not tokens or tokens.pop(0) != ")":
            raise ValueError("a ) is missing")
        return value
    if not token.isdecimal():
        raise ValueError(f"{token!r} is no number")
    return int(token)
