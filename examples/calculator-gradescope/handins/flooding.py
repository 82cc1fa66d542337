"""Prints without end."""


def evaluate(text):
    while True:
        print("the result is near\n" * 1000)
