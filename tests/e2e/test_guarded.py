"""A guarded assignment on the command line: what is said of its trust, and of one that could do better."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from tests.e2e.conftest import CommandLine

pytestmark = pytest.mark.usefixtures("sandbox")


def test_its_trust_is_said_wherever_a_grade_is(cli: CommandLine) -> None:
    assert cli("init", "hw", "--kind", "guarded").code == 0
    answer = cli("run", "hw", "hw/samples/right.py", "hw/samples/forging.py", "--no-preflight")
    assert answer.code == 0, answer
    assert "Trust: guarded." in answer.out
    ids = {job["student"]: job["id"] for job in cli("jobs", "--json").jobs}
    shown = cli("jobs", "show", ids["right"])
    assert "trust: guarded; sandbox: bubblewrap" in shown.out
    assert "; 1 call of student code" in shown.out
    assert "  student code: each call at most 20 s and 128 MiB" in shown.out
    (story,) = json.loads(cli("jobs", "show", ids["forging"], "--json").out)["jobs"]
    assert (story["trust"], story["score"]) == ("guarded", 2)
    assert story["result"]["steps"][0]["calls"] == 1
    rows = list(csv.DictReader(io.StringIO(cli("export").out)))
    assert {row["trust"] for row in rows} == {"guarded"}
    assert {(row["student"], row["score"]) for row in rows} == {("right", "10"), ("forging", "2")}


def test_check_says_where_an_assignment_could_be_harder_to_forge(cli: CommandLine) -> None:
    assert cli("init", "hw", "--kind", "guarded").code == 0
    assert cli("init", "apart").code == 0
    for name in ("hw", "apart"):  # a sample that goes on for ever takes each check its limit
        file = cli.folder / name / "assignment.toml"
        file.write_text(re.sub(r'\[\[sample\]\]\npath = "samples/looping.py"\n.*\n', "", file.read_text()))
    good = cli("check", "hw", "apart")
    assert good.code == 0, good
    assert "trust" not in good.err
    grader = cli.folder / "hw/grade/grade.py"
    grader.write_text(
        "import os, sys\nsys.path.insert(0, os.environ['MINITANGO_SUBMISSION'])\nfrom stats import total\n"
        "open(os.environ['MINITANGO_REPORT'], 'w').write('{\"score\": %d}' % (10 * (total([1, 2]) == 3)))\n"
    )
    bad = cli("check", "hw")
    assert "hw: its guarded step had no student code run for any sample" in bad.err
    assert "docs/guarded.md" in bad.err
    ran = cli("run", "hw", "hw/samples/right.py", "--no-preflight")
    assert ran.code == 0
    assert "hw: its guarded step had no student code run for any hand-in" in ran.err
    assert "student code: no call; a grader that runs" in cli("jobs", "show", cli("jobs", "--json").jobs[0]["id"]).out
    file = cli.folder / "hw/assignment.toml"
    file.write_text(file.read_text().replace("guarded = true\n", "").replace("[step.student]", "[step.env]", 1))
    text = file.read_text()
    file.write_text(text.replace('wall = "20s"\nmemory = "128MiB"\n', ""))
    shared = cli("check", "hw")
    assert "hw: trust: shared: a hand-in can read its tests and forge its score" in shared.err
    assert "docs/trust.md" in shared.err
    assert "trust" not in cli("check", "hw", "--quiet").err
    file = cli.folder / "apart/assignment.toml"
    file.write_text(file.read_text().replace("max_score", 'format = "autolab"\nmax_score', 1))
    assert "apart: trust: shared: the last line that is printed has the scores" in cli("check", "apart").err
