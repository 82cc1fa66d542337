"""Step "grade": sees the answers and what step "run" left, and none of the student's code. Writes the report.

What was collected is data of a stranger: it is compared, and never run or believed.
"""

import json
import os
from pathlib import Path

POINTS = 2


def text(path):
    return path.read_text("utf-8", errors="replace") if path.is_file() else ""


def compare(case):
    """None where all is right, else a few words for the student."""
    status = text(left / f"{case.stem}.status").strip()
    if not status:
        return "your program was not run on this input"
    if status != "0":
        return "your program crashed, or ended with an exit status other than 0"
    # numbers are compared, not blanks
    expected, actual = ([line.split() for line in text(path).splitlines()] for path in (case, left / case.name))
    if len(actual) != len(expected):
        return f"your program printed {len(actual)} lines, not {len(expected)}"
    wrong = [number for number, (row, line) in enumerate(zip(expected, actual), 1) if row != line]
    return f"line {wrong[0]} is wrong" if wrong else None


left = Path(os.environ["MINITANGO_COLLECTED"]) / "run" / "out"
tests = []
for case in sorted(Path("expected").glob("*.txt")):
    wrong = compare(case)
    tests.append(
        {
            "name": case.stem,
            "score": 0 if wrong else POINTS,
            "max_score": POINTS,
            "status": "failed" if wrong else "passed",
            "output": wrong or "",
        }
    )
passed = sum(test["status"] == "passed" for test in tests)
said = text(left / "build.txt")[:5000]
if text(left / "build.status").strip() != "0":
    output = f"Your program does not compile:\n\n{said}"
else:
    output = f"{passed} of {len(tests)} products are right." + (f"\n\nThe compiler warns:\n\n{said}" if said else "")
Path(os.environ["MINITANGO_REPORT"]).write_text(json.dumps({"output": output, "output_format": "text", "tests": tests}))
