"""`minitango prune`: what goes, what stays, and that nothing goes unasked."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from minitango.cli.ages import age as seconds_of
from minitango.job import State
from minitango.store import open_store
from tests.e2e.conftest import PATIENCE, CommandLine, environment, eventually
from tests.support import age_blobs, blobs_of

pytestmark = pytest.mark.usefixtures("sandbox")


def students(cli: CommandLine) -> list[str]:
    store = open_store(f"sqlite:///{cli.folder}/.minitango/queue.db")
    try:
        return [job.student for job in store.list()]
    finally:
        store.close()


def blobs(cli: CommandLine) -> set[str]:
    return blobs_of(cli.folder / ".minitango")


def age(cli: CommandLine) -> None:
    """As if all files had been put yesterday."""
    age_blobs(cli.folder / ".minitango")


@pytest.mark.parametrize("times", [1, 9000], ids=["in the queue's file", "in a file of its own"])
def test_one_student_goes_and_leaves_nothing(cli: CommandLine, hw: Path, handins: Path, times: int) -> None:
    (handins / "eve.txt").write_text("no" + " eve-was-here" * times)
    assert cli("run", hw, handins).code == 0
    age(cli)
    dry = cli("prune", "--student", "eve", "--dry-run")
    assert (dry.code, dry.err) == (0, ""), dry
    assert dry.out.splitlines()[0] == "would remove 1 job"
    assert "would remove 1 file that no job needs" in dry.out
    assert students(cli) == ["ada", "bob", "eve"]
    refused = cli("prune", "--student", "eve")
    assert refused.code == 2
    assert "error[confirm]: this would remove 1 job of 'eve', with all results and files" in refused.err
    assert "--yes" in refused.err
    assert students(cli) == ["ada", "bob", "eve"]
    answer = cli("prune", "--student", "eve", "--yes")
    assert answer.code == 0, answer
    assert answer.out.splitlines()[0] == "removed 1 job"
    assert "removed 1 file that no job needs" in answer.out
    assert answer.err == ""
    assert students(cli) == ["ada", "bob"]
    left = b"".join(path.read_bytes() for path in (cli.folder / ".minitango").rglob("*") if path.is_file())
    assert b"eve" not in left
    assert b"ada" in left
    # the others stay graded
    (handins / "eve.txt").unlink()
    assert "2 of 2 hand-ins graded before" in cli("run", hw, handins).err


def test_files_of_the_last_hour_stay_and_it_says_so(cli: CommandLine, hw: Path, handins: Path) -> None:
    (handins / "eve.txt").write_text("no " + "eve " * 5000)
    assert cli("run", hw, handins).code == 0
    before = blobs(cli)
    answer = cli("prune", "--student", "eve", "--yes", "--json")
    assert json.loads(answer.out)["removed"]["kept"] == 1
    assert "1 file of the last 1 h 00 min that no job needs" in answer.err
    assert blobs(cli) == before
    age(cli)
    answer = cli("prune")
    assert "removed 1 file" in answer.out
    assert "the queue's file is smaller by" in answer.out, "what was in it leaves no free pages"
    assert len(blobs(cli)) == len(before) - 1
    assert students(cli) == ["ada", "bob"]


def test_only_what_is_old_goes(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("run", hw, handins).code == 0
    assert cli("prune", "--older-than", "1d").out.startswith("removed 0 jobs\n")
    assert len(students(cli)) == 3
    assert cli("prune", "--older-than", "1d", "--student", "ada").out.startswith("removed 0 jobs\n"), "nothing to ask"
    assert cli("prune", "--older-than", "0s", "--student", "ada", "--yes").out.startswith("removed 1 job\n")
    assert cli("submit", hw, handins, "--fresh").code == 0
    assert cli("prune", "--older-than", "0s").out.startswith("removed 2 jobs\n")
    assert sorted(students(cli)) == ["ada", "bob", "eve"], "what is queued stays"


def test_a_student_with_work_in_the_queue(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("submit", hw, handins).code == 0
    refused = cli("prune", "--student", "eve", "--yes")
    assert refused.code == 2
    assert "error[student_busy]" in refused.err
    hint = refused.err.split("next: minitango ")[1].split(";")[0]
    assert cli(*hint.split()).code == 0
    assert cli("prune", "--student", "eve", "--yes").out.startswith("removed 1 job\n")
    unknown = cli("prune", "--student", "eva", "--yes")
    assert unknown.code == 2
    assert "error[student_unknown]" in unknown.err
    assert "minitango jobs list" in unknown.err


@pytest.mark.parametrize(("answer", "left"), [(b"y\n", 2), (b"n\n", 3)])
def test_on_a_terminal_it_asks(cli: CommandLine, hw: Path, handins: Path, answer: bytes, left: int) -> None:
    assert cli("submit", hw, handins).code == 0
    eve = json.loads(cli("jobs", "list", "--student", "eve", "--json").out)["jobs"][0]["id"]
    assert cli("jobs", "cancel", eve).code == 0
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        cli.command("prune", "--student", "eve"),
        cwd=cli.folder,
        env=environment(),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.write(ours, answer)
    _, said = process.communicate(timeout=PATIENCE)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0, said
    assert b"remove 1 job of 'eve', with all results and files? [y/N]" in said
    assert len(students(cli)) == left


def test_beside_a_running_engine(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("run", hw, handins).code == 0
    (cli.folder / "slow").mkdir()
    (cli.folder / "slow" / "zoe.txt").write_text("wait 60")
    worker = cli.start("worker")
    assert cli("submit", hw, "slow").code == 0
    store = open_store(f"sqlite:///{cli.folder}/.minitango/queue.db")
    try:
        eventually(lambda: store.counts()[State.RUNNING] == 1, "it never runs")
    finally:
        store.close()
    age(cli)
    answer = cli("prune", "--older-than", "0s")
    assert answer.code == 0, answer
    assert answer.out.startswith("removed 3 jobs\n")
    assert f"another engine (process {worker.pid}) is grading" in answer.err
    assert "keeps its size" in answer.err
    assert students(cli) == ["zoe"]
    assert worker.poll() is None


def test_beside_a_run_it_ends_no_run(cli: CommandLine, hw: Path, handins: Path) -> None:
    """What was pruned as soon as it ended is in the run's table all the same."""
    for name in ("ada", "bob", "eve"):
        (handins / f"{name}.txt").write_text("wait 1")
    process = cli.start("run", hw, handins, "--workers", "1", "--no-preflight", "--keep-going", "--json")
    while process.poll() is None:
        cli("prune", "--older-than", "0s", "--yes")
    answer = cli.answer(process)
    assert answer.code == 0, answer
    assert [(job["state"], job["outcome"], job["score"]) for job in answer.jobs] == [("done", "graded", 0)] * 3


def test_the_state_directory_is_closed_to_others(cli: CommandLine, hw: Path, handins: Path) -> None:
    old = os.umask(0o022)
    try:
        assert cli("run", hw, handins).code == 0
        age(cli)
        assert cli("prune", "--older-than", "0s").code == 0
    finally:
        os.umask(old)
    state = cli.folder / ".minitango"
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "queue.db").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2592000), ("12h", 43200), ("2w", 1209600), ("1.5h", 5400), ("30 min", 1800)]
)
def test_ages(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


def test_what_is_no_age(cli: CommandLine) -> None:
    for text, said in (
        ("6m", "minutes or months"),
        ("soon", "one such as 30d"),
        ("-1d", "one such as 30d"),
        ("5", "30d"),
    ):
        answer = cli("prune", "--older-than", text)
        assert answer.code == 2
        assert said in answer.err
