"""Prints without end."""

while True:
    print("the 1\n" * 1000)
