"""Step "grade": sees the answers and what step "run" left, and none of the student's code. Writes the report.

What was collected is data of a stranger: it is compared, and never run or believed.
"""

import json
import os
from pathlib import Path

POINTS = 2
HIDDEN_UNTIL_DUE = {"accents"}


def compare(case, left):
    """None where all is right, else a few words for the student that do not give the answer away."""
    answer, status = left / case.name, left / f"{case.stem}.status"
    if not answer.is_file() or not status.is_file():
        return "your program was not run to its end on this input"
    if status.read_bytes() != b"0":
        return "your program crashed, or ended with an exit status other than 0"
    text = answer.read_text("utf-8", errors="replace")
    if not text:
        return "your program printed nothing"
    expected, actual = case.read_text("utf-8").rstrip("\n").split("\n"), text.rstrip("\n").split("\n")
    for number, (right, line) in enumerate(zip(expected, actual), 1):
        if line != right:
            return f"line {number} is wrong: {line[:60]!r}"
    if len(actual) != len(expected):
        return f"your program printed {len(actual)} lines, not {len(expected)}"
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
passed = sum(test["status"] == "passed" for test in tests)
report = {"output": f"{passed} of {len(tests)} inputs are counted right.", "tests": tests}
Path(os.environ["MINITANGO_REPORT"]).write_text(json.dumps(report))
