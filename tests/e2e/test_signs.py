"""Signs of tampering, from a hand-in that tampers to where a teacher sees them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.e2e.conftest import CommandLine

pytestmark = pytest.mark.usefixtures("sandbox")

TOML = """
name = "hw"
format = "gradescope"
max_score = 10
[submission]
path = "work.py"
[[step]]
name = "grade"
command = ["python3", "-I", "grade.py"]
files = ["grade.py"]
"""

GRADE = """
import json, os, subprocess
done = subprocess.run(["python3", "work.py"], capture_output=True, timeout=20)
score = 10 if done.stdout == b"42\\n" else 0
with open(os.environ["MINITANGO_REPORT"], "w") as file:
    json.dump({"tests": [{"name": "says 42", "score": score, "max_score": 10}]}, file)
raise SystemExit(score < 10)
"""

DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    for fd in (0, 1, 2):
        os.close(fd)
    grader = os.environ["MINITANGO_REPORT"]
    while True:
        with open(grader + ".new", "w") as file:
            file.write('{"score": 10}')
        os.utime(grader + ".new", (1, 1))
        os.rename(grader + ".new", grader)
        time.sleep(0.001)
"""

KILLER = """
import os, signal
with open(os.environ["MINITANGO_REPORT"], "w") as file:
    file.write('{"score": 10}')
os.kill(os.getppid(), signal.SIGKILL)
"""


def test_a_forger_is_seen_wherever_grades_are(cli: CommandLine) -> None:
    hw, handins = cli.folder / "hw", cli.folder / "handins"
    for path, text in (
        (hw / "assignment.toml", TOML), (hw / "grade.py", GRADE), (handins / "ada.py", "print(42)\n"),
        (handins / "bob.py", "print(41)\n"), (handins / "eve.py", DAEMON), (handins / "mallory.py", KILLER),
    ):  # fmt: skip
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    env = {"MINITANGO_SANDBOX": "bubblewrap"}
    ran = cli("run", hw, handins, "--no-preflight", env=env)
    assert ran.code == 0, ran
    lines = {line.split()[0]: line for line in ran.out.splitlines() if line.strip()}
    assert "sign of tampering [grader_exit]: the last step left a report, but ended with exit status 1" in lines["eve"]
    assert "(and 1 more)" in lines["eve"]
    assert "sign of tampering [grader_exit]: the last step left a report, but was killed by SIGKILL" in lines["mallory"]
    assert "sign" not in lines["ada"] + lines["bob"], "an honest one, and one that failed"
    assert "Signs of tampering in 2 hand-ins: minitango jobs show " in ran.out

    jobs = {job["student"]: job for job in cli("jobs", "list", "--json").jobs}
    signs = {student: job["signs"] for student, job in jobs.items()}
    assert signs == {"ada": [], "bob": [], "eve": ["grader_exit", "report_late"], "mallory": ["grader_exit"]}
    shown = cli("jobs", "show", jobs["eve"]["id"]).out
    assert "sign of tampering [report_late]: the report results.json was written to after" in shown
    rows = csv.DictReader(io.StringIO(cli("export").out))
    assert {row["student"]: row["signs"].split() for row in rows} == signs
    cases = ET.fromstring(cli("export", "--format", "junit").out).iter("testcase")
    found = {
        case.get("name"): [each.get("value") for each in case.iter("property") if each.get("name") == "sign"]
        for case in cases
    }
    assert found == signs
    folder = Path(cli.folder / "feedback")
    assert cli("export", "--feedback", folder).code == 0
    assert "tampering" not in (folder / "eve.md").read_text(), "students are not told"
