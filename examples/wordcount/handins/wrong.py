"""Forgets punctuation, and the order of words that are equally frequent."""

import sys
from collections import Counter

for word, count in Counter(sys.stdin.read().lower().split()).most_common():
    print(word, count)
