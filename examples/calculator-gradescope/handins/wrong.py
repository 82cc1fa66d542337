"""Always has the same answer."""


def evaluate(text):
    return 41
