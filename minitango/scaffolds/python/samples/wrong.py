"""Forgets that a number may be negative, and a line blank: it earns what it gets right."""

import sys

print(sum(abs(int(line)) for line in sys.stdin))
