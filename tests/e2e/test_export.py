"""`minitango export`: the gradebook of a real run."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.e2e.conftest import PATIENCE, TOML, CommandLine, environment, write_assignment

pytestmark = pytest.mark.usefixtures("sandbox")

REPORT = """
name = "tests"
max_score = 10
[[step]]
command = ["sh", "grade.sh"]
files = ["grade.sh"]
"""

GRADE = """
echo printed-secret
cat > $MINITANGO_REPORT <<'EOF'
{"score": 6, "output": "well begun", "extra_data": {"seed": "extra-secret"}, "tests": [
  {"name": "adds", "score": 4, "max_score": 5, "output": "3 is not 4"},
  {"name": "name-secret", "score": 2, "max_score": 5, "output": "output-secret", "visibility": "hidden"}]}
EOF
"""


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_the_gradebook(cli: CommandLine, hw: Path, handins: Path) -> None:
    (handins / "=1+1.txt").write_text("ok")
    assert cli("run", hw, handins).code == 0
    answer = cli("export")
    assert answer.code == 0, answer
    assert answer.err == ""
    assert {row["student"]: row["score"] for row in rows(answer.out)} == {
        "ada": "10", "bob": "10", "eve": "0", "'=1+1": "10",
    }  # fmt: skip
    (handins / "eve.txt").write_text("ok")
    assert cli("run", hw, handins).code == 0
    assert [row["score"] for row in rows(cli("export", "--student", "eve").out)] == ["10"]
    assert [row["score"] for row in rows(cli("export", "--student", "eve", "--all").out)] == ["0", "10"]
    assert cli("export", "--excel").out.startswith("\ufeffstudent,")


def test_what_was_handed_in_last_counts_though_it_was_graded_before(cli: CommandLine, hw: Path, handins: Path) -> None:
    for text in ("ok", "no", "ok"):
        (handins / "eve.txt").write_text(text)
        run = cli("run", hw, handins / "eve.txt", "--json")
    assert "1 of 1 hand-in graded before" in run.err
    assert (run.jobs[0]["score"], len(cli("jobs", "list", "--json").jobs)) == (10, 2)
    answer = cli("export")
    assert ([row["id"] for row in rows(answer.out)], answer.err) == ([run.jobs[0]["id"]], "")
    assert cli("export", "--feedback", "feedback").code == 0
    assert "**Score: 10 of 10**" in (cli.folder / "feedback" / "eve.md").read_text()


def test_the_assignment_as_it_is_now_counts(cli: CommandLine, hw: Path, handins: Path) -> None:
    for most in (10, 100, 10):
        (hw / "assignment.toml").write_text(TOML.replace("max_score = 10", f"max_score = {most}"))
        assert cli("run", hw, handins).code == 0
    assert {row["max_score"] for row in rows(cli("export").out)} == {"10"}


def test_of_several_hand_ins_of_one_run_the_last_one_counts(cli: CommandLine) -> None:
    """Though it was tried, and graded, before the one before it was queued."""
    grade = """n=$(cat "$MINITANGO_SUBMISSION"/*.txt); [ "$n" ] && echo '{"score": '$n'}' > $MINITANGO_REPORT"""
    hw = write_assignment(cli.folder / "hw", REPORT, grade)
    handins = [cli.folder / f"h{n}" / f"{student}.txt" for n, student in enumerate(("ada", "ada", "ada", "bob"))]
    for path, text in zip(handins, ("", "4\n", "6\n", "5\n"), strict=True):
        path.parent.mkdir()
        path.write_text(text)
    answer = cli("run", hw, *handins, "--json")
    assert [job["score"] for job in answer.jobs] == [None, 4, 6, 5]
    assert {row["student"]: row["score"] for row in rows(cli("export").out)} == {"ada": "6", "bob": "5"}
    assert len(cli("jobs", "list", "--json").jobs) == 4


def test_what_could_not_be_graded_is_no_zero(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("run", hw, handins).code == 0
    (hw / "assignment.toml").write_text((hw / "assignment.toml").read_text().replace('"sh", "grade.sh"', '"no-such"'))
    (handins / "eve.txt").unlink()
    (handins / "new.txt").write_text("ok")
    assert cli("submit", hw, handins).code == 0
    found = {row["student"]: row for row in rows(cli("export").out)}
    assert (found["new"]["score"], found["new"]["state"]) == ("", "queued")
    assert (found["ada"]["score"], found["ada"]["state"]) == ("10", "done")
    said = cli("export").err
    assert "1 job of these is not graded yet, and has no score: minitango jobs show " in said
    assert "2 students handed in again since, and that is queued, so the grade before it stands" in said
    (handins / "newer.txt").write_text("ok")
    assert cli("submit", hw, handins).code == 0
    assert "2 jobs of these are not graded yet, and have no score: minitango jobs show " in cli("export").err


def test_json_and_junit(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("run", hw, handins).code == 0
    answer = cli("export", "--format", "json", "--assignment", "hw")
    assert [(job["student"], job["percent"], job["sandbox"]) for job in answer.jobs] == [
        ("ada", 100.0, "bubblewrap"),
        ("bob", 100.0, "bubblewrap"),
        ("eve", 0.0, "bubblewrap"),
    ]
    answer = cli("export", "--format", "junit", "-o", "grades.xml")
    assert (answer.code, answer.out, answer.err) == (0, "", "3 jobs in grades.xml\n")
    assert len(list(ET.parse(cli.folder / "grades.xml").iter("testcase"))) == 3
    refused = cli("export", "-o", handins)
    assert refused.code == 2
    assert "error[output]" in refused.err
    assert "next: name a file: -o FILE" in refused.err
    assert "error[usage]" in cli("export", "--format", "json", "--excel").err


def test_who_is_not_there_is_told(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert "error[no_queue]" in cli("export").err
    assert cli("run", hw, handins).code == 0
    answer = cli("export", "--student", "adda")
    assert (answer.code, answer.err) == (0, "no job of student 'adda': did you mean 'ada'?\n")
    assert rows(answer.out) == []
    assert "no job of assignment 'x'" in cli("export", "--assignment", "x").err


def test_feedback_has_nothing_that_is_hidden(cli: CommandLine) -> None:
    hw = write_assignment(cli.folder / "hw", REPORT, GRADE)
    (cli.folder / "handins").mkdir()
    for student in ("ada", "b%20[x](y)"):
        (cli.folder / "handins" / f"{student}.txt").write_text("hello")
    assert cli("run", hw, "handins").code == 0
    answer = cli("export", "--feedback", "feedback")
    assert (answer.code, answer.out, answer.err) == (0, "", "feedback for 2 students in feedback\n")
    folder = cli.folder / "feedback"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(list(folder.iterdir())) == 2
    ada = (folder / "ada.md").read_text()
    assert "### adds (4 of 5)" in ada
    assert "3 is not 4" in ada
    assert "well begun" in ada
    for path in folder.iterdir():
        text = path.read_text()
        for secret in ("secret", "6", "/job", str(cli.folder)):
            assert secret not in text.replace("2026", "").split("Handed in")[1].split("\n", 1)[1], text
    (folder / ".DS_Store").write_text("of somebody's desktop")
    shown = json.loads(cli("export", "--feedback", "feedback", "--format", "json").out)
    assert [job["score"] for job in shown["jobs"]] == [6.0, 6.0]


@pytest.mark.parametrize(
    "name", ["answer.c", "eve.md", "README.md", "folder.md/"], ids=["source", "essay", "readme", "folder"]
)
def test_feedback_does_not_lie_among_other_files(cli: CommandLine, hw: Path, handins: Path, name: str) -> None:
    assert cli("run", hw, handins / "ada.txt").code == 0
    assert cli("export", "--feedback", "feedback").code == 0
    other = cli.folder / "feedback" / name
    if name.endswith("/"):
        other.mkdir()
    else:
        other.write_text("# My essay\n\n## How it began\n\nIt was a dark and stormy night.\n")
    before = (cli.folder / "feedback" / "ada.md").stat().st_mtime_ns
    answer = cli("export", "--feedback", "feedback")
    assert answer.code == 2, answer
    assert f"error[output]: feedback holds {name.rstrip('/')}, which is no feedback" in answer.err
    assert "next: name a new folder, or one that only --feedback wrote to" in answer.err
    assert (cli.folder / "feedback" / "ada.md").stat().st_mtime_ns == before
    refused = cli("export", "--feedback", handins)
    assert f"{handins} holds ada.txt and more, which is no feedback" in refused.err


def test_on_a_terminal_lines_end_as_a_terminal_has_them(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("run", hw, handins).code == 0
    assert "\r\n" in cli("export").out
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        cli.command("export"), cwd=cli.folder, env=environment(), stdin=subprocess.DEVNULL, stdout=theirs
    )
    os.close(theirs)
    drawn = b""
    try:
        while data := os.read(ours, 65536):
            drawn += data
    except OSError:  # EIO: the other end was closed
        pass
    os.close(ours)
    assert process.wait(PATIENCE) == 0
    assert b"\r\n" in drawn
    assert b"\r\r\n" not in drawn, "the terminal adds one of its own"


def test_what_was_taken_back_stands_in_nobodys_way(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("run", hw, handins).code == 0
    (handins / "eve.txt").write_text("ok")
    job = cli("submit", hw, handins / "eve.txt", "--json").jobs[0]
    assert "1 student handed in again since, and that is queued" in cli("export").err
    assert cli("jobs", "cancel", job["id"]).code == 0
    assert cli("export").err == ""
    assert cli("prune", "--older-than", "0s").code == 0
    assert cli("export").err == "the queue is empty\n"


def test_who_could_not_be_graded_is_told_of(cli: CommandLine, handins: Path) -> None:
    hw = write_assignment(cli.folder / "hw", TOML.replace("8MiB", "1MiB"))
    (handins / "ada.txt").write_bytes(os.urandom(3 << 20))
    assert cli("run", hw, handins, "--no-preflight").code == 4
    answer = cli("export", "--feedback", "feedback", "-o", "grades.csv")
    assert "1 job of these could not be graded, and has no score: minitango jobs show " in answer.err
    assert {row["student"]: row["score"] for row in rows((cli.folder / "grades.csv").read_text())} == {
        "ada": "", "bob": "10", "eve": "0",
    }  # fmt: skip
    assert answer.out == ""
