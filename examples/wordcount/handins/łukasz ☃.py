"""Count the words of standard input: the most frequent first, equals in alphabetical order."""

import re
import sys
from collections import Counter

counts = Counter(re.findall(r"[^\W\d_]+", sys.stdin.read().lower()))
for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
    print(word, count)
