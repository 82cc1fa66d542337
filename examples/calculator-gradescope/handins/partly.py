"""Goes from the left to the right, and knows nothing of precedence and parentheses."""


def evaluate(text):
    first, *rest = text.split()
    value = int(first)
    for sign, number in zip(rest[::2], rest[1::2]):
        value = {
            "+": lambda a, b: a + b,
            "-": lambda a, b: a - b,
            "*": lambda a, b: a * b,
            "/": lambda a, b: a / b,
        }[sign](value, int(number))
    return value
