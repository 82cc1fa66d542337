"""Random expressions with their values, as JSON: always the same ones. setup.sh has them made once, into the image.

Where it was not run, run_tests.py makes them for each submission.
"""

import json
import random
from fractions import Fraction

COUNT = 200


def expression(rng, depth):
    """A text and its value; None where it divides by zero."""
    if depth == 0 or rng.random() < 0.2:
        number = rng.randrange(100)
        return str(number), Fraction(number)
    sign = rng.choice("+-*/")
    (left, a), (right, b) = expression(rng, depth - 1), expression(rng, depth - 1)
    text = f"({left}) {sign} ({right})"
    if a is None or b is None or (sign == "/" and b == 0):
        return text, None
    return text, {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[sign]


def make():
    """Pairs of a text and its value."""
    rng, made = random.Random(1), []
    while len(made) < COUNT:
        text, value = expression(rng, 3)
        if value is not None:
            made.append([text, float(value)])
    return made


if __name__ == "__main__":
    print(json.dumps(make()))
