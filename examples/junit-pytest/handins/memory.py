"""Keeps everything, for ever."""


def to_roman(number):
    kept = []
    while True:
        try:
            kept.append(b"x" * 1_000_000)
        except MemoryError:
            pass
