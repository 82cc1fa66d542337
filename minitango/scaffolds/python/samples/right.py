"""Prints the sum of the numbers on standard input, one a line. Blank lines do not count."""

import sys

print(sum(int(line) for line in sys.stdin if line.strip()))
