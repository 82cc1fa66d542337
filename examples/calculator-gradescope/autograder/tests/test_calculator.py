"""evaluate("1 + 2") is 3. The student's module is imported by each test, so that a broken one fails them all."""

import json
import unittest
from pathlib import Path

import make_cases

from tests.points import worth


def evaluate(text):
    import calculator

    return calculator.evaluate(text)


class Calculator(unittest.TestCase):
    def check(self, text, expected):
        self.assertAlmostEqual(evaluate(text), expected, msg=f"of {text}")

    @worth(2)
    def test_1_numbers(self):
        """numbers"""
        self.check("42", 42)

    @worth(4)
    def test_2_operators(self):
        """the four operators"""
        for text, expected in (("1 + 2", 3), ("1 - 2", -1), ("3 * 4", 12), ("3 / 4", 0.75)):
            self.check(text, expected)

    @worth(4)
    def test_3_precedence(self):
        """* and / before + and -, equals from the left"""
        for text, expected in (("1 + 2 * 3", 7), ("8 - 4 / 2", 6), ("8 - 4 - 2", 2), ("8 / 4 / 2", 1)):
            self.check(text, expected)

    @worth(4)
    def test_4_parentheses(self):
        """parentheses"""
        for text, expected in (("(1 + 2) * 3", 9), ("((7))", 7), ("8 - (4 - 2)", 6)):
            self.check(text, expected)

    @worth(4, "after_due_date")
    def test_5_random(self):
        """200 random expressions"""
        prepared = Path("cases.json")
        for text, expected in json.loads(prepared.read_text()) if prepared.exists() else make_cases.make():
            self.check(text, expected)

    @worth(2, "hidden")
    def test_6_errors(self):
        """a ValueError for what is no expression"""
        for text in ("", "1 +", "(1", "1 2", "one", "__import__('os')"):
            with self.assertRaises(ValueError, msg=f"of {text!r}"):
                evaluate(text)
