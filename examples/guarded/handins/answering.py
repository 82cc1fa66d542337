"""Answers before it is asked, twice, and in the name of others: on every descriptor that it has."""

import json
import os
import struct


def mean(numbers):
    return sum(numbers) / len(numbers)


def say(message):
    data = json.dumps(message).encode()
    for fd in range(1, 64):
        try:
            os.write(fd, struct.pack(">I", len(data)) + data)
        except OSError:
            pass


def merge(a, b):
    for answer in (True, 10, [1, 2, 3, 4, 9], {"!": "object", "v": 0}, {"!": "pickle", "v": "cos"}):
        for name in ("0", "1", "", None, "*"):
            say({"id": name, "value": answer, "stdout": ""})
    if os.fork() == 0:
        return [5, 6]
    os._exit(0)
