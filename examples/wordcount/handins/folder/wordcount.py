"""In two files: words.py is beside this one."""

import sys

from words import frequencies

for word, count in frequencies(sys.stdin.read()):
    print(word, count)
