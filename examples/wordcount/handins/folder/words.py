import re
from collections import Counter


def frequencies(text):
    counts = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
