"""Keeps everything, for ever."""


def evaluate(text):
    kept = []
    while True:
        try:
            kept.append(b"x" * 1_000_000)
        except MemoryError:
            pass
