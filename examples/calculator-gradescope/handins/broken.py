"""Is no Python."""


def evaluate(text)
    return int(text)
