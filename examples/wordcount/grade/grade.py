"""Step "grade": sees the answers and what step "run" left, and none of the student's code. Writes the report.

What was collected is data of a stranger: it is compared, and never run or believed.
"""

import json
import os
from pathlib import Path

POINTS = 2
HIDDEN_UNTIL_DUE = {"accents"}


def lines(path):
    return path.read_text("utf-8", errors="replace").split("\n")


def compare(case, left):
    """None where all is right, else a few words for the student that do not give the answer away."""
    answer, status = left / case.name, left / f"{case.stem}.status"
    if not answer.is_file():
        return "your program was not run to its end on this input"
    expected, actual = lines(case), lines(answer)
    if actual != expected:
        number = next((n for n, pair in enumerate(zip(expected, actual)) if pair[0] != pair[1]), None)
        if number is None:
            return f"your program printed {len(actual) - 1} lines, and {len(expected) - 1} were expected"
        return f"line {number + 1} is wrong: {actual[number][:60]!r}"
    if not status.is_file() or status.read_bytes() != b"0":
        return "the answer is right, but your program did not end with exit status 0"
    return None


left = Path(os.environ["MINITANGO_COLLECTED"]) / "run" / "out"
tests = []
for case in sorted(Path("expected").glob("*.txt")):
    wrong = compare(case, left)
    tests.append(
        {
            "name": case.stem,
            "score": 0 if wrong else POINTS,
            "max_score": POINTS,
            "status": "failed" if wrong else "passed",
            "output": wrong or "",
            "visibility": "after_due_date" if case.stem in HIDDEN_UNTIL_DUE else "visible",
        }
    )
Path(os.environ["MINITANGO_REPORT"]).write_text(json.dumps({"tests": tests}))
