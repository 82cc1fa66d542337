"""Step "grade": compares what step "run" left with the answers, and writes the report, Gradescope's results.json.

What was left is data of a stranger: it is compared, and never run or believed.
"""

import json
import os
from pathlib import Path

POINTS = 2


def compare(case, left):
    """A few words on what is wrong, that do not give the answer away; nothing where all is right."""
    answer, status = left / case.name, left / f"{case.stem}.status"
    if not answer.is_file() or not status.is_file():
        return "your program was not run to its end on this input"
    if status.read_bytes().strip() != b"0":
        return "your program crashed, or ended with an exit status other than 0"
    actual = answer.read_text("utf-8", errors="replace").strip()
    if actual != case.read_text("utf-8").strip():
        return f"your program printed {actual[:60]!r}" if actual else "your program printed nothing"
    return ""


def build_log(left):
    """The end of what the compiler said."""
    log = left / "build.log"
    return log.read_text("utf-8", errors="replace")[-2000:].strip() if log.is_file() else ""


left = Path(os.environ["MINITANGO_COLLECTED"]) / "run" / "out"
tests = []
for case in sorted(Path("expected").glob("*.txt")):
    wrong = compare(case, left)
    tests.append({"name": case.stem, "score": 0 if wrong else POINTS, "max_score": POINTS, "output": wrong})
report = {"tests": tests}
if not any(left.glob("*.status")):
    report["output"] = f"Your program does not compile:\n{build_log(left)}"
Path(os.environ["MINITANGO_REPORT"]).write_text(json.dumps(report))
