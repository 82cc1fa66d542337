"""The command line as an instructor uses it: real processes, a real sandbox, a real terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import termios
import time
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from minitango.job import Job, State
from minitango.store import open_store
from tests.e2e.conftest import GRADE, PATIENCE, ROOT, TOML, CommandLine, environment, eventually, write_assignment

pytestmark = pytest.mark.usefixtures("sandbox")

JOB_KEYS = {
    "id", "assignment", "student", "title", "state", "outcome", "score", "max_score", "trust", "reason", "warnings",
    "attempts", "failures", "interruptions", "submitted", "started", "ended", "wall", "supersedes", "error",
    "signs",
}  # fmt: skip

SAMPLES = """
[[sample]]
path = "right.txt"
score = 10
[[sample]]
path = "wrong.txt"
name = "a wrong one"
score = {wrong}
"""


def queue(cli: CommandLine, state: str = ".minitango") -> dict[str, Job]:
    """The jobs as the store has them, by student; the latest of each. Empty where there is no queue yet."""
    path = cli.folder / state / "queue.db"
    if not path.exists():
        return {}
    store = open_store(f"sqlite:///{path}")
    try:
        return {job.student: job for job in store.list()}
    finally:
        store.close()


def running(cli: CommandLine, student: str) -> None:
    """Wait until this student's hand-in is being graded."""
    eventually(
        lambda: student in (jobs := queue(cli)) and jobs[student].state is State.RUNNING, f"{student} is never graded"
    )


def samples(folder: Path, wrong: int = 0) -> Path:
    write_assignment(folder, TOML + SAMPLES.format(wrong=wrong))
    (folder / "right.txt").write_text("ok")
    (folder / "wrong.txt").write_text("no")
    return folder


# --- run --------------------------------------------------------------------------------------


def test_run_prints_a_table(cli: CommandLine, hw: Path, handins: Path) -> None:
    answer = cli("run", hw, handins, "--sandbox", "bubblewrap")
    assert answer.code == 0, answer
    lines = answer.out.splitlines()
    assert lines[0].split() == ["student", "outcome", "score", "time", "note"]
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["ada", "graded", "10/10"],
        ["bob", "graded", "10/10"],
        ["eve", "graded", "0/10"],
    ]
    assert lines[-1] == "hw: 3 hand-ins: 3 graded. Trust: shared."
    *ended, see = answer.err.splitlines()
    assert sorted(line.split(":")[0].split()[-1] for line in ended) == ["ada", "bob", "eve"]
    eve = queue(cli)["eve"].id
    assert see == f"see why: minitango jobs show {eve} (ids: minitango jobs)"
    (handins / "eve.txt").unlink()
    assert "see why" not in cli("run", hw, handins).err


def test_a_zero_of_an_unknown_maximum_may_be_asked_about(cli: CommandLine, handins: Path) -> None:
    toml = TOML.replace("exit-code", "gradescope").replace("max_score = 10\n", "")
    hw = write_assignment(cli.folder / "hw", toml, "echo '{\"score\": 0}' > $MINITANGO_REPORT")
    assert "see why: minitango jobs show " in cli("run", hw, handins / "ada.txt").err


def test_the_smallest_assignment_of_the_reference(cli: CommandLine) -> None:
    """It grades hand-ins of any name."""
    text = (ROOT / "docs" / "assignment.md").read_text()
    hw = write_assignment(cli.folder / "hw", text.split("```toml\n")[1].split("```")[0])
    (cli.folder / "handins").mkdir()
    for student, says in (("ada", "hello"), ("bob", "bye")):
        (cli.folder / "handins" / f"{student}.py").write_text(f"print({says!r})\n")
    answer = cli("run", hw, "handins", "--json")
    assert [(job["student"], job["score"]) for job in answer.jobs] == [("ada", 10.0), ("bob", 0.0)], answer


def test_two_hand_ins_of_one_student_are_told_apart(cli: CommandLine, hw: Path, handins: Path) -> None:
    (cli.folder / "second").mkdir()
    (cli.folder / "second" / "bob.txt").write_text("no")
    answer = cli("run", hw, handins, "second")
    assert answer.code == 0, answer
    assert [line.split("  ")[0] for line in answer.out.splitlines()[1:5]] == [
        "ada",
        "bob (handins/bob.txt)",
        "eve",
        "bob (second/bob.txt)",
    ]


@pytest.mark.parametrize(("grade", "alike"), [("false", True), ("kill -9 $$", True), (GRADE, False)])
def test_a_grader_that_fails_all_is_suspected(
    cli: CommandLine, hw: Path, handins: Path, grade: str, alike: bool
) -> None:
    (hw / "grade.sh").write_text(grade)
    answer = cli("run", hw, handins, "--state", "here", "--no-preflight")
    assert answer.code == 0, answer
    said = "all 3 hand-ins ended alike: probably your grader, not your students"
    assert (said in answer.err) is alike
    own = f"on a solution of your own: minitango run {hw} MY-SOLUTION --student me --fresh --state here\n"
    assert (own in answer.err) is alike
    assert ("see why" in answer.err) is not alike
    look = re.findall(r"minitango (jobs show \w+ --state here)", answer.err)[-1]
    assert cli(*look.split()).code == 0
    assert (said in cli("run", hw, handins, "--state", "here", "--json").err) is alike
    (handins / "ada.txt").unlink()
    assert said not in cli("run", hw, handins, "--state", "here").err


def test_hints_say_what_is_to_be_typed(cli: CommandLine, hw: Path, handins: Path) -> None:
    as_was_called = {"MINITANGO_PROG": "../course tools/bin/minitango"}
    typed = "'../course tools/bin/minitango'"
    assert "minitango run hw1 handins/" in cli("--help").out
    assert f"{typed} run hw1 handins/" in cli("--help", env=as_was_called).out
    assert f"Usage: {typed} run" in cli("run", "--help", env=as_was_called).out
    assert f"next: {typed} run --help" in cli("run", env=as_was_called).err
    assert f"next: {typed} run hw PATH" in cli("run", "hw", env=as_was_called).err
    assert f"({typed} run ASSIGNMENT PATH...)" in cli("jobs", env=as_was_called).err
    ran = cli("run", hw, handins, env=as_was_called)
    assert f"see why: {typed} jobs show" in ran.err
    assert "minitango jobs" not in ran.err.replace(typed, "")
    assert f"see the ids: {typed} jobs list" in cli("jobs", "show", "zzzz", env=as_was_called).err
    eve = queue(cli)["eve"].id
    assert f"its output: {typed} jobs logs {eve}" in cli("jobs", "show", eve, env=as_was_called).out


def test_submitting_what_is_graded_says_so(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("run", hw, handins).code == 0
    answer = cli("submit", hw, handins)
    assert answer.code == 0, answer
    assert answer.err == "3 of 3 hand-ins graded before (--fresh grades them again)\n"
    assert cli("submit", hw, handins, "--fresh").err == ""
    assert sorted(job.state for job in queue(cli).values()) == ["queued"] * 3


def test_run_as_json(cli: CommandLine, hw: Path, handins: Path) -> None:
    answer = cli("run", hw, handins, "--json", "--quiet", "--sandbox", "bubblewrap")
    assert answer.code == 0
    assert answer.err == ""
    assert set(json.loads(answer.out)) == {"schema", "jobs", "refused"}
    for job in answer.jobs:
        assert set(job) == JOB_KEYS
    assert [(job["student"], job["score"], job["outcome"]) for job in answer.jobs] == [
        ("ada", 10.0, "graded"),
        ("bob", 10.0, "graded"),
        ("eve", 0.0, "graded"),
    ]


def test_only_what_changed_is_graded_anew(cli: CommandLine, hw: Path, handins: Path) -> None:
    def graded_by(*words: str) -> dict[str, str]:
        answer = cli("run", hw, handins, "--json", *words)
        assert answer.code == 0, answer
        return {job["student"]: job["id"] for job in answer.jobs}

    first = graded_by()
    assert graded_by() == first
    assert len(queue(cli)) == 3

    (handins / "eve.txt").write_text("ok")
    (handins / "zoe.txt").write_text("ok")
    changed = graded_by()
    assert {student for student in changed if changed[student] != first.get(student)} == {"eve", "zoe"}
    assert queue(cli)["eve"].score == 10

    (hw / "grade.sh").write_text(GRADE + "# another grader\n")
    anew = graded_by()
    assert not set(anew.values()) & set(changed.values())

    fresh = graded_by("--fresh")
    assert not set(fresh.values()) & set(anew.values())
    assert graded_by() == fresh
    assert {job.attempt for job in queue(cli).values()} == {1}


def test_one_students_folder(cli: CommandLine, hw: Path) -> None:
    folder = cli.folder / "handed in"
    folder.mkdir()
    (folder / "answer.txt").write_text("ok")
    (folder / "notes.txt").write_text("I tried")
    answer = cli("run", hw, folder, "--student", "Ada L.", "--json")
    assert answer.code == 0, answer
    assert [(job["student"], job["score"]) for job in answer.jobs] == [("Ada L.", 10.0)]


def test_a_warning_is_told_in_words(cli: CommandLine, handins: Path) -> None:
    hw = write_assignment(cli.folder / "hw", grade="cat /dev/zero >fill 2>/dev/null; true")
    answer = cli("run", hw, handins)
    assert answer.code == 0, answer
    assert answer.out.count("warning [disk_full]: step 'grade' filled its disk") == 3
    listed = cli("jobs", "list", "--json").jobs
    assert [job["warnings"] for job in listed] == [
        [{"id": "disk_full", "message": "step 'grade' filled its disk"}],
    ] * 3


# --- interrupted ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_goes_on(cli: CommandLine, hw: Path, handins: Path, number: signal.Signals) -> None:
    """What runs gets its time, what waits stays queued; the same command grades the rest, and nothing twice."""
    (handins / "ada.txt").write_text("wait 3")
    process = cli.start("run", hw, handins, "--workers", "1", "--no-preflight")
    running(cli, "ada")
    process.send_signal(number)
    answer = cli.answer(process)
    assert answer.code == 130, answer
    assert "interrupted: 1 of 3 hand-ins graded; the same command goes on" in answer.err
    assert "Traceback" not in answer.err
    before = queue(cli)
    assert [(job.state, job.attempt) for job in before.values()] == [("done", 1), ("queued", 0), ("queued", 0)]

    again = cli("run", hw, handins, "--workers", "1")
    assert again.code == 0, again
    assert "1 of 3 hand-ins graded before" in again.err
    after = queue(cli)
    assert {job.id for job in after.values()} == {job.id for job in before.values()}
    assert {job.attempt for job in after.values()} == {1}


def test_an_interrupted_fresh_run_goes_on_without_fresh(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("run", hw, handins).code == 0
    (handins / "ada.txt").write_text("wait 1")
    process = cli.start("run", hw, handins, "--workers", "1", "--fresh")
    running(cli, "ada")
    process.send_signal(signal.SIGINT)
    answer = cli.answer(process)
    assert "1 of 3 hand-ins graded; the same command without --fresh goes on" in answer.err
    again = cli("run", hw, handins)
    assert "1 of 3 hand-ins graded before" in again.err, again
    assert {job.state for job in queue(cli).values()} == {State.DONE}


def test_what_is_cancelled_is_not_counted_as_graded(cli: CommandLine, hw: Path, handins: Path) -> None:
    (handins / "ada.txt").write_text("wait 2")
    process = cli.start("run", hw, handins, "--workers", "1", "--no-preflight")
    running(cli, "ada")
    assert cli("jobs", "cancel", queue(cli)["eve"].id).code == 0
    process.send_signal(signal.SIGINT)
    assert "interrupted: 1 of 3 hand-ins graded" in cli.answer(process).err


def test_a_second_ctrl_c_does_not_wait(cli: CommandLine, hw: Path, handins: Path) -> None:
    (handins / "ada.txt").write_text("wait 29")
    process = cli.start("run", hw, handins, "--workers", "1")
    running(cli, "ada")
    process.send_signal(signal.SIGINT)
    eventually(lambda: b"stopping" in (cli.folder / "err0").read_bytes(), "it does not say that it stops")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    answer = cli.answer(process)
    assert time.monotonic() - began < 4, "it waited for the job"
    assert answer.code == 130, answer
    assert "Traceback" not in answer.err
    ada = queue(cli)["ada"]
    assert (ada.state, ada.attempt, ada.failures) == ("queued", 1, 0)


def test_a_check_that_is_interrupted_leaves_nothing(cli: CommandLine) -> None:
    hw = samples(cli.folder / "hw")
    (hw / "right.txt").write_text("wait 29")
    place = cli.folder / "tmp"
    place.mkdir()
    process = cli.start("check", hw, env={"TMPDIR": str(place)})
    eventually(lambda: bool(list(place.glob("minitango-check-*/live/*.log"))), "no sample is graded")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    answer = cli.answer(process)
    assert answer.code == 130, answer
    assert "stay queued" not in answer.err
    assert list(place.glob("minitango-check-*")) == []


def test_what_a_killed_check_leaves_is_removed_by_the_next(cli: CommandLine) -> None:
    hw = samples(cli.folder / "hw")
    (hw / "right.txt").write_text("wait 29")
    place = cli.folder / "tmp"
    place.mkdir()
    process = cli.start("check", hw, env={"TMPDIR": str(place)})
    eventually(lambda: bool(list(place.glob("minitango-check-*/live/*.log"))), "no sample is graded")
    process.kill()
    cli.answer(process)
    (left,) = place.glob("minitango-check-*")
    os.utime(left, (1, 1))
    seen = cli("doctor", env={"TMPDIR": str(place)}).out
    assert "1 state of a check that dead engines left" in seen
    assert left.exists()
    (hw / "right.txt").write_text("ok")
    assert cli("check", hw, env={"TMPDIR": str(place)}).code == 0
    assert list(place.glob("minitango-check-*")) == []


def test_nohup_stays_in_force(cli: CommandLine, hw: Path, handins: Path) -> None:
    (handins / "ada.txt").write_text("wait 1")
    process = cli.start("run", hw, handins, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    running(cli, "ada")
    process.send_signal(signal.SIGHUP)
    assert cli.answer(process).code == 0


def test_killed_outright_the_same_command_goes_on(cli: CommandLine, hw: Path, handins: Path) -> None:
    (handins / "bob.txt").write_text("wait 1")
    process = cli.start("run", hw, handins, "--workers", "1")
    running(cli, "bob")
    process.kill()
    process.wait(PATIENCE)
    again = cli("run", hw, handins, "--json")
    assert again.code == 0, again
    assert [(job["student"], job["attempts"], job["failures"]) for job in again.jobs] == [
        ("ada", 1, 0),
        ("bob", 2, 0),
        ("eve", 1, 0),
    ]


# --- two at once ------------------------------------------------------------------------------


def test_a_second_run_follows_the_first_and_takes_over(cli: CommandLine, hw: Path, handins: Path) -> None:
    (handins / "ada.txt").write_text("wait 2")
    first = cli.start("run", hw, handins, "--workers", "1")
    running(cli, "ada")
    (cli.folder / "zoe.txt").write_text("ok")
    second = cli.start("run", hw, handins / "ada.txt", cli.folder / "zoe.txt", "--json")
    eventually(lambda: "zoe" in queue(cli), "the second run submits nothing")
    first.kill()
    answer = cli.answer(second)
    assert answer.code == 0, answer
    assert f"another engine (process {first.pid}) is grading" in answer.err
    assert "going on in its place" in answer.err
    assert [(job["student"], job["attempts"]) for job in answer.jobs] == [("ada", 2), ("zoe", 1)]


def test_a_run_beside_a_worker_follows_it(cli: CommandLine, hw: Path, handins: Path) -> None:
    worker = cli.start("worker")
    eventually(lambda: b"grading in" in (cli.folder / "err0").read_bytes(), "the worker does not start")
    answer = cli("run", hw, handins)
    assert answer.code == 0, answer
    assert "submitting to it" in answer.err
    assert "going on in its place" not in answer.err
    said = (cli.folder / "err0").read_text()
    assert all(f"{job.id} hw/{job.student}: started" in said for job in queue(cli).values())
    ids = {job.id for job in queue(cli).values()}
    assert {job["id"] for job in cli("submit", hw, handins, "--json").jobs} == ids
    worker.send_signal(signal.SIGTERM)
    assert cli.answer(worker).code == 0
    assert {job["id"] for job in cli("run", hw, handins, "--json").jobs} == ids


def test_worker_stops_at_ctrl_c(cli: CommandLine, hw: Path, handins: Path) -> None:
    (handins / "ada.txt").write_text("wait 29")
    listed = cli("submit", hw, handins)
    assert listed.code == 0
    assert [line.split()[1] for line in listed.out.splitlines()] == ["ada", "bob", "eve"]
    worker = cli.start("worker", "--workers", "1", "--grace", "0.2")
    running(cli, "ada")
    worker.send_signal(signal.SIGINT)
    answer = cli.answer(worker)
    assert answer.code == 130, answer
    assert "Traceback" not in answer.err
    assert (queue(cli)["ada"].state, queue(cli)["ada"].failures) == ("queued", 0)


# --- jobs -------------------------------------------------------------------------------------


def test_output_is_followed_and_a_job_cancelled(cli: CommandLine, hw: Path, handins: Path) -> None:
    (handins / "ada.txt").write_text("wait 29")
    ada = cli("submit", hw, handins / "ada.txt", "--json").jobs[0]["id"]
    logs = cli.start("jobs", "logs", "-f", ada)
    worker = cli.start("worker")
    eventually(lambda: b"grading wait\n" in cli.said(logs), "the output is not seen while the job runs")
    assert queue(cli)["ada"].state is State.RUNNING
    assert logs.poll() is None
    now = cli("jobs", "logs", ada)
    assert now.out == "grading wait\n"
    assert f"minitango jobs logs -f {ada}" in now.err

    assert f"{ada} is being cancelled" in cli("jobs", "cancel", ada[:5]).out
    followed = cli.answer(logs)
    assert followed.code == 0
    assert followed.out == "grading wait\n"
    assert f"job {ada} is cancelled" in followed.err
    assert queue(cli)["ada"].state is State.CANCELLED
    worker.send_signal(signal.SIGTERM)
    assert cli.answer(worker).code == 0


def test_followed_output_is_seen_within_a_second(cli: CommandLine) -> None:
    """From the moment the job prints to the moment the follower does: both clocks are this machine's."""
    hw = write_assignment(cli.folder / "hw", grade='sleep 1; date +%s.%N; read word rest <answer.txt; sleep "$rest"')
    (cli.folder / "ada.txt").write_text("wait 3")
    ada = cli("submit", hw, "ada.txt", "--json").jobs[0]["id"]
    cli.start("run", hw, "ada.txt")
    logs = cli.start("jobs", "logs", "-f", ada)
    eventually(lambda: b"\n" in cli.said(logs), "nothing is seen")
    assert time.time() - float(cli.said(logs)) < 1


def test_jobs_listed_shown_and_retried(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("run", hw, handins, "--state", "here").code == 0
    where = ("--state", "here")
    ada = queue(cli, "here")["ada"]
    assert cli("jobs", *where).out == cli("jobs", "list", *where).out
    assert [job["student"] for job in cli("jobs", "list", "--student", "bob", "--json", *where).jobs] == ["bob"]
    assert [job["student"] for job in cli("jobs", "list", "-n", "2", "--json", *where).jobs] == ["bob", "eve"]
    assert cli("jobs", "list", "--state-is", "dead", "--json", *where).jobs == []
    assert cli("jobs", "list", "--assignment", "other", "--json", *where).jobs == []

    story = cli("jobs", "show", ada.id, *where).out
    assert f"job {ada.id}: hw, ada (ada.txt)\ngraded, 10/10\n" in story
    assert "attempt 1 on" in story
    assert re.search(r"attempt 1 on \S+ begins, queued for .*\n.*attempt 1 graded, ran ", story)
    assert "grade: exit status 0" in story
    assert re.search(r" of 30 s, cpu .*, memory and files .* of 72 MiB, printed 11 B of 64 KiB", story)
    assert "command: sh grade.sh" in story
    assert f"its hand-in: 1 file, 3 B (answer.txt), packed in {cli.folder}/here/queue.db" in story
    assert "minitango check" not in story
    told = cli("jobs", "show", queue(cli, "here")["eve"].id, *where).out
    assert f"minitango check {cli.folder / 'hw'})" in told
    assert f"its assignment: {cli.folder / 'hw'}" in told
    assert f"its output: minitango jobs logs {ada.id} --state here" in story
    assert cli("jobs", "logs", ada.id, *where).out == "grading ok\n"
    (shown,) = cli("jobs", "show", ada.id, "--json", *where).jobs
    assert set(shown) == JOB_KEYS | {"result", "history", "timeline", "callback", "steps", "inputs", "origin", "next"}
    assert shown["result"]["outcome"] == "graded"
    assert [event["what"] for event in shown["timeline"]] == ["submitted", "began", "ended"]
    assert shown["steps"][0]["limits"]["wall"] == 30.0
    assert Path(shown["inputs"]["path"]).is_file()

    retried = cli("jobs", "retry", ada.id, *where)
    assert "minitango worker --state here" in retried.err
    anew = queue(cli, "here")["ada"]
    assert retried.out == f"{anew.id} is queued, in place of {ada.id}\n"
    assert (anew.state, anew.supersedes) == (State.QUEUED, ada.id)
    again = cli("jobs", "retry", anew.id, *where)
    assert (again.code, again.out) == (2, "")
    assert cli("jobs", "cancel", anew.id, *where).out == f"{anew.id} is cancelled\n"


def test_all_or_none_are_cancelled(cli: CommandLine, hw: Path, handins: Path) -> None:
    ids = [job["id"] for job in cli("submit", hw, handins, "--json").jobs]
    assert cli("jobs", "cancel", ids[0], "nonsense").code == 2
    assert {job.state for job in queue(cli).values()} == {State.QUEUED}


# --- check ------------------------------------------------------------------------------------


def test_check_holds_samples_to_what_is_expected(cli: CommandLine) -> None:
    good, bad = samples(cli.folder / "good"), samples(cli.folder / "bad", wrong=10)
    answer = cli("check", good)
    assert answer.code == 0, answer
    assert answer.out.splitlines()[-1] == "2 samples: 2 as expected, 0 missed."
    missed = cli("check", good, bad, "--junit", "report.xml")
    assert missed.code == 1, missed
    assert "scored 0 instead of 10" in missed.out
    assert missed.out.splitlines()[-1] == "4 samples: 3 as expected, 1 missed."
    (cli.folder / "any").touch()
    modes = {(cli.folder / name).stat().st_mode for name in ("any", "report.xml")}
    assert len(modes) == 1, "whoever may read any file may read what CI shows"
    suites = ET.parse(cli.folder / "report.xml").getroot()
    assert [(s.get("tests"), s.get("failures"), s.get("errors")) for s in suites] == [("4", "1", "0")]
    cases = list(suites.iter("testcase"))
    assert [case.get("name") for case in cases] == ["right.txt", "a wrong one"] * 2
    assert [case.find("failure") is not None for case in cases] == [False, False, False, True]
    assert not (cli.folder / ".minitango").exists()


def test_check_as_json(cli: CommandLine) -> None:
    answer = cli("check", samples(cli.folder / "hw", wrong=3), "--json", "--quiet")
    assert answer.code == 1
    body = json.loads(answer.out)
    assert (body["schema"], [each["ok"] for each in body["samples"]]) == (1, [True, False])
    assert body["samples"][1]["expected"] == {"score": 3.0, "outcome": "graded"}
    assert set(body["samples"][0]) == JOB_KEYS | {"sample", "expected", "ok", "wrong", "output"}
    assert [each["output"] for each in body["samples"]] == ["", "step grade: exit status 1; it printed\n  grading no"]


def test_check_shows_why_a_sample_missed(cli: CommandLine) -> None:
    """Its state is temporary: nothing else could be looked at."""
    report = '{"tests": [{"name": "fine", "score": 1, "max_score": 1}, {"name": "ties", "score": 0, "max_score": 1, '
    report += '"output": "wrong \\u001b[31morder"}]}'
    toml = TOML.replace("exit-code", "gradescope") + SAMPLES.format(wrong=10)
    grade = f"seq 40; printf '\\033[2Jbell\\n'; echo '{report}' > $MINITANGO_REPORT"
    hw = write_assignment(cli.folder / "hw", toml, grade)
    (hw / "right.txt").write_text("ok")
    (hw / "wrong.txt").write_text("no")
    answer = cli("check", hw, "--junit", "report.xml")
    assert answer.code == 1, answer
    below = answer.out[answer.out.index("hw, a wrong one: scored 1 instead of 10") :]
    assert "1 of 2 tests failed" in below
    assert "ties" in below
    assert "fine" not in below
    assert "wrong \\x1b[31morder" in below
    assert "\n    27\n" in below
    assert "\n    26\n" not in below
    assert "\\x1b[2Jbell" in below
    failures = list(ET.parse(cli.folder / "report.xml").getroot().iter("failure"))
    assert len(failures) == 2
    assert "ties" in (failures[1].text or "")


# --- terminals, pipes, locales ----------------------------------------------------------------


def on_a_terminal(cli: CommandLine, *words: str, columns: int, **env: str) -> tuple[int, str]:
    """Run it on a terminal of its own; its exit code and all that it drew."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    kept = {name: value for name, value in environment(**env).items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        cli.command(*words), cwd=cli.folder, env=kept | env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # EIO: the other end was closed
        while data := os.read(ours, 65536):
            drawn += data
    os.close(ours)
    return process.wait(PATIENCE), drawn.decode()


def test_a_terminal_shows_a_bar_and_who_is_graded(cli: CommandLine, hw: Path) -> None:
    folder = cli.folder / "handins"
    folder.mkdir()
    (folder / "\x1b[31mred.txt").write_text("ok")
    (folder / ("x" * 150 + ".txt")).write_text("no")
    (folder / "日本語学生.txt").write_text("wait 1")
    code, drawn = on_a_terminal(cli, "run", "hw", "handins", columns=80, TERM="xterm-256color")
    assert code == 0, drawn
    assert "0/3" in drawn
    assert "━" in drawn
    assert "日本語学生" in drawn.split("student", 1)[0], "nobody is shown while it runs"
    assert "\x1b[31mred" not in drawn
    table = drawn[drawn.index("student ") :].splitlines()
    assert any(line.startswith("\\x1b[31mred") for line in table)
    assert all(len(line) <= 80 for line in table), table
    assert any("…" in line and "x" in line for line in table)


def test_a_dumb_terminal_gets_plain_lines(cli: CommandLine, hw: Path, handins: Path) -> None:
    code, drawn = on_a_terminal(cli, "run", "hw", "handins", columns=80, TERM="dumb", NO_COLOR="1")
    assert code == 0
    assert "\x1b" not in drawn
    assert "[3/3]" in drawn


def test_output_on_a_terminal_is_made_harmless(cli: CommandLine) -> None:
    hw = write_assignment(cli.folder / "hw", grade=r"printf '\033]0;owned\007\033[2J'; read w <answer.txt; exit 0")
    (cli.folder / "ada.txt").write_text("ok")
    (job,) = cli("run", hw, "ada.txt", "--json").jobs
    code, drawn = on_a_terminal(cli, "jobs", "logs", job["id"], columns=80, TERM="xterm")
    assert code == 0
    assert drawn.strip() == r"\x1b]0;owned\x07\x1b[2J"
    assert cli("jobs", "logs", job["id"]).out == "\x1b]0;owned\x07\x1b[2J"


@pytest.mark.parametrize(
    "plumbing",
    [
        '"$@" | head -n 1',
        '"$@" 2>&1 | head -n 1',
        '"$@" 2>&1 | true',
        '"$@" <&-',
        '"$@" >&-',
        '"$@" 2>&-',
        '"$@" <&- >&- 2>&-',
        '"$@" 2>/dev/full',
    ],
)
def test_streams_that_are_closed_cost_no_grade(cli: CommandLine, hw: Path, handins: Path, plumbing: str) -> None:
    if "/dev/full" in plumbing and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    within = ["bash", "-c", f"set -o pipefail; {plumbing}", "bash"]
    answer = cli("run", hw, handins, within=within)
    assert answer.code == 0, answer
    assert "Traceback" not in answer.out + answer.err
    lost = "warning: the standard output is closed: what was to be printed there is lost\n"
    assert (lost in answer.err) is (plumbing == '"$@" >&-')
    assert {job.state for job in queue(cli).values()} == {State.DONE}


@pytest.mark.parametrize(
    "env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_stream_that_cannot_encode_a_name(cli: CommandLine, hw: Path, env: dict[str, str]) -> None:
    (cli.folder / "handins").mkdir()
    (cli.folder / "handins" / "łukasz ☃.txt").write_text("ok")
    for words in (["run", hw, "handins"], ["jobs"], ["run", hw, "handins", "--json"]):
        answer = cli(*words, env=env)
        assert answer.code == 0, answer
        assert "Traceback" not in answer.err
        assert re.search(r"ukasz|\\u0142", answer.out)


def test_from_another_folder_with_settings_of_the_course(cli: CommandLine, hw: Path, handins: Path) -> None:
    (cli.folder / "minitango.toml").write_text('state = "state"\nworkers = 1\n')
    below = cli.folder / "week1" / "today"
    below.mkdir(parents=True)
    assert cli("run", "../../hw", "../../handins", cwd=below).code == 0
    assert len(queue(cli, "state")) == 3
    assert len(cli("jobs", "list", "--json", cwd=below).jobs) == 3
    other = {"MINITANGO_STATE": str(cli.folder / "other")}
    assert cli("jobs", cwd=below, env=other).code == 2
    assert len(cli("jobs", "list", "--json", "--state", "../../state", cwd=below, env=other).jobs) == 3


def test_verbose_says_which_limits_hold(cli: CommandLine, hw: Path, handins: Path) -> None:
    answer = cli("run", hw, handins, "--verbose")
    assert re.search(r"sandbox bubblewrap: limits held by: memory \w+, pids \w+, cpu \w+", answer.err), answer


# --- two assignments of one name --------------------------------------------------------------


def test_another_assignment_of_the_same_name_is_told_of(cli: CommandLine, handins: Path) -> None:
    one, two = write_assignment(cli.folder / "a" / "hw"), write_assignment(cli.folder / "b" / "hw")
    assert "called" not in cli("run", one, handins).err
    assert "called" not in cli("run", "a/../a/hw/assignment.toml", handins).err, "the same one"
    (two / "grade.sh").write_text("true")
    warned = f"warning: {one} is called 'hw', too, and was graded here"
    answer = cli("run", two, handins)
    assert (answer.code, warned in answer.err) == (0, True), answer
    assert "to tell them apart: --name NAME" in answer.err
    assert warned in cli("submit", two, handins).err
    again = cli("run", two, handins, "--name", "hw b", "--json")
    assert ("called" not in again.err, {job["assignment"] for job in again.jobs}) == (True, {"hw b"})
    assert cli("export").out.count(",hw b,") == 3
    shutil.rmtree(one)
    assert "called" not in cli("run", two, handins, "--fresh").err, "it was moved"


def test_an_autograder_by_another_name(cli: CommandLine, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with zipfile.ZipFile(tmp_path / name / "autograder.zip", "w") as made:
            made.writestr("run_autograder", f"#!/bin/sh\necho '{{\"score\": 1}}' > results/results.json # {name}\n")
            made.writestr("setup.sh", "")
    (tmp_path / "ada.py").write_text("")
    first = cli("submit", "a/autograder.zip", "ada.py", "--no-setup")
    assert (first.code, "called" in first.err) == (0, False), first
    assert "is called 'autograder', too" in cli("submit", "b/autograder.zip", "ada.py", "--no-setup").err
    answer = cli("submit", "b/autograder.zip", "ada.py", "--no-setup", "--name", "hw2", "--json")
    assert ("called" in answer.err, answer.jobs[0]["assignment"]) == (False, "hw2")
    for name, words in (("", "the name is missing or empty"), ("x" * 150, "the name has 150 characters")):
        refused = cli("submit", "b/autograder.zip", "ada.py", "--no-setup", "--name", name)
        assert (refused.code, f"cannot be an assignment's name: {words}" in refused.err) == (2, True), refused


def test_two_hand_ins_of_one_stem_are_told_of(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert "suffix" not in cli("submit", hw, handins).err
    (handins / "ada.c").write_text("no")
    answer = cli("submit", hw, handins, "--json")
    assert [job["student"] for job in answer.jobs] == ["ada.c", "ada.txt", "bob", "eve"]
    assert "warning: ada.c and ada.txt have one name without their suffixes" in answer.err
    assert "each is a student of its own, 'ada.c' and 'ada.txt'" in answer.err
