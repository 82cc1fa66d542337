"""Keeps everything, for ever."""


def fib(n):
    kept = []
    while True:
        kept.append(b"x" * 1_000_000)
