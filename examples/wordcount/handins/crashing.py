"""Dies on the first word."""

import sys

counts = {}
for word in sys.stdin.read().split():
    counts[word] += 1
