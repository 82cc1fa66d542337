"""What the commands really print is what the published schema says, and no more than that."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.e2e.conftest import ROOT, Answer, CommandLine, write_assignment
from tests.support import need_bubblewrap

TWO_STEPS = """
name = "hw"
max_score = 10
format = "gradescope"
[submission]
path = "answer.txt"
[[step]]
name = "run"
command = ["sh", "grade.sh"]
files = ["grade.sh"]
collect = ["*"]
limits = { wall = "1s" }
[[step]]
name = "grade"
command = ["sh", "report.sh"]
files = ["report.sh"]
submission = false
[[sample]]
path = "samples/ada.txt"
score = 10
[[sample]]
path = "samples/slow.txt"
outcome = "time_limit"
"""
STUDENTS = """
mkfifo pipe
read word rest < answer.txt
[ "$word" != slow ] || sleep 99
"""
REPORT = """
cat > "$MINITANGO_REPORT" <<'REPORT'
{"score": 3, "output": "so so", "leaderboard": [{"name": "speed", "value": 7}], "extra_data": {"a": [1]},
 "tests": [{"name": "one", "score": 3, "max_score": 10, "output": "no", "tags": ["x"]}, {"status": "passed"}]}
REPORT
"""


def strict(schema: Any) -> Any:
    """The same, but for fields that it does not name: those are to be published, too."""
    if isinstance(schema, dict):
        closed = {"additionalProperties": False} if "properties" in schema else {}
        return {**{key: strict(value) for key, value in schema.items()}, **closed}
    return [strict(each) for each in schema] if isinstance(schema, list) else schema


def held(name: str, document: Any) -> Any:
    """The document, which is as docs/schema/ says of this command."""
    schema = strict(json.loads((ROOT / "docs" / "schema" / f"{name}.json").read_text()))
    jsonschema.Draft202012Validator(schema).validate(document)
    return document


def printed(name: str, answer: Answer, code: int = 0) -> Any:
    assert answer.code == code, answer
    return held(name, json.loads(answer.out))


@pytest.fixture
def course(cli: CommandLine) -> Path:
    """An assignment, and hand-ins of which one is slow and one cannot be taken."""
    need_bubblewrap()
    hw = write_assignment(cli.folder / "hw", TWO_STEPS, STUDENTS)
    (hw / "report.sh").write_text(REPORT)
    for folder in (hw / "samples", cli.folder / "handins"):
        folder.mkdir()
        (folder / "ada.txt").write_text("ok")
        (folder / "slow.txt").write_text("slow")
    (cli.folder / "handins" / "eve.zip").write_bytes(b"PK\x03\x04 and no more")
    return hw


def test_run_and_what_looks_at_it(cli: CommandLine, course: Path) -> None:
    ran = printed("run", cli("run", course, "handins", "--json", "--no-preflight", "--sandbox", "bubblewrap"), 4)
    assert [job["outcome"] for job in ran["jobs"]] == ["graded", "time_limit"]
    assert [refusal["student"] for refusal in ran["refused"]] == ["eve"]
    queued = printed("submit", cli("submit", course, "handins/ada.txt", "--student", "bob", "--json"))
    cancelled = printed("submit", cli("submit", course, "handins/ada.txt", "--student", "zoe", "--json"))
    assert cli("jobs", "cancel", cancelled["jobs"][0]["id"]).code == 0
    listed = printed("jobs-list", cli("jobs", "list", "--json"))
    assert [job["state"] for job in listed["jobs"]] == ["done", "done", "queued", "cancelled"]
    for job in (*ran["jobs"], *queued["jobs"], *cancelled["jobs"]):
        shown = printed("jobs-show", cli("jobs", "show", job["id"], "--json"))["jobs"][0]
        assert (shown["result"] is None) == (job["outcome"] is None)
    grades = printed("export", cli("export", "--format", "json", "--all"))
    assert [grade["percent"] for grade in grades["jobs"]] == [30, None, None, None]
    with closing(sqlite3.connect(cli.folder / ".minitango" / "queue.db")) as db:
        kept = [held("result", json.loads(text)) for (text,) in db.execute("SELECT result FROM results ORDER BY job")]
    assert [(result["outcome"], result.get("score")) for result in kept] == [("graded", 3), ("time_limit", None)]
    assert kept[0]["steps"][0]["refused"][0][0] == "pipe"
    printed("prune", cli("prune", "--dry-run", "--json"))


def test_a_job_that_could_not_be_graded(cli: CommandLine, course: Path) -> None:
    toml = (course / "assignment.toml").read_text()
    (course / "assignment.toml").write_text(toml.replace('["sh", "grade.sh"]', '["no-such-command"]'))
    assert cli("submit", course, "handins/ada.txt").code == 0
    worker = cli.start("worker", "--sandbox", "bubblewrap")
    while not (listed := printed("jobs-list", cli("jobs", "list", "--state-is", "dead", "--json")))["jobs"]:
        assert worker.poll() is None, cli.answer(worker)
    worker.terminate()
    (job,) = listed["jobs"]
    assert (job["error"]["id"], job["score"]) == ("command", None)
    shown = printed("jobs-show", cli("jobs", "show", job["id"], "--json"))["jobs"][0]
    assert [attempt["failure"]["id"] for attempt in shown["history"]] == ["command"]
    assert printed("export", cli("export", "--format", "json"))["jobs"][0]["error"] == job["error"]


def test_check(cli: CommandLine, course: Path) -> None:
    checked = printed("check", cli("check", course, "--json", "--sandbox", "bubblewrap"), 1)
    assert [sample["ok"] for sample in checked["samples"]] == [False, True]


def test_what_needs_no_sandbox(cli: CommandLine) -> None:
    env = {"MINITANGO_WORKER": "3"}
    shown = printed("config-show", cli("config", "show", "--json", "--sandbox", "bubblewrap", env=env))
    assert [each["near"] for each in shown["unknown"]] == ["MINITANGO_WORKERS"]
    checked = cli("doctor", "--json", env=env)
    held("doctor", json.loads(checked.out))
    assert cli("jobs", "list", "--json").code == 2, "an error is no document"
