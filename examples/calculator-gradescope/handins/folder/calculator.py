"""Evaluates expressions; the parser is in a module of its own."""

import parser_of_mine


def evaluate(text):
    return parser_of_mine.parse(text)
