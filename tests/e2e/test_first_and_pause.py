"""What `run` does before hundreds are graded for nothing: one is tried alone, and a grader that fails all is paused."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from minitango.job import Job, State
from minitango.store import open_store
from tests.e2e.conftest import GRADE, PATIENCE, TOML, CommandLine, environment, eventually, write_assignment

pytestmark = pytest.mark.usefixtures("sandbox")

SAMPLES = """
[[sample]]
path = "wrong.txt"
score = 0
[[sample]]
path = "right.txt"
score = 10
"""
BROKEN = r"sleep 0.2; printf 'looking\n\033[2Jno such file\n'; false"
WITH_ONE = ("--workers", "1", "--no-preflight")


def queue(cli: CommandLine) -> list[Job]:
    store = open_store(f"sqlite:///{cli.folder / '.minitango' / 'queue.db'}")
    try:
        return store.list()
    finally:
        store.close()


def few(cli: CommandLine) -> int:
    """How many were graded before the pause: five, and what had begun before it was noticed."""
    done = count(cli, State.DONE)
    assert 5 <= done <= 8
    assert count(cli, State.QUEUED) + count(cli, State.CANCELLED) == 10 - done
    return done


def count(cli: CommandLine, state: State) -> int:
    return sum(job.state is state for job in queue(cli))


@pytest.fixture
def sampled(tmp_path: Path) -> Path:
    """An assignment with two samples, the better one last; its grader says where it was called."""
    folder = write_assignment(tmp_path / "hw", TOML + SAMPLES)
    (folder / "right.txt").write_text("ok sample")
    (folder / "wrong.txt").write_text("no")
    return folder


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(10):
        (folder / f"s{n}.txt").write_text("no\n")
    return folder


# --- the sample -------------------------------------------------------------------------------


def test_a_sample_that_misses_stops_the_run_before_anything_is_queued(
    cli: CommandLine, sampled: Path, handins: Path
) -> None:
    (sampled / "grade.sh").write_text(BROKEN)
    answer = cli("run", "hw", handins)
    assert (answer.code, answer.out) == (1, ""), answer
    assert "error[sample_missed]: hw: the sample right.txt was to get 10: scored 0 instead of 10" in answer.err
    assert "no such file" in answer.err
    assert "\\x1b[2J" in answer.err
    assert "\x1b" not in answer.err
    assert "next: correct the grader, until minitango check hw is content" in answer.err
    assert "the same command with --no-preflight" in answer.err
    assert queue(cli) == []
    assert cli("run", "hw", handins, "--no-preflight").code == 0
    assert count(cli, State.DONE) == 3


def test_a_sample_that_cannot_be_graded(cli: CommandLine, sampled: Path, handins: Path) -> None:
    (sampled / "assignment.toml").write_text((TOML + SAMPLES).replace("8MiB", "1MiB"))
    (sampled / "right.txt").write_bytes(os.urandom(3 << 20))
    answer = cli("run", "hw", handins)
    assert (answer.code, answer.out) == (4, ""), answer
    assert "error[grader_suspected]: hw: the sample right.txt could not be graded, so nothing was queued" in answer.err
    assert "disk" in answer.err
    assert "--no-preflight" in answer.err
    assert queue(cli) == []


def test_a_sample_that_cannot_be_taken(cli: CommandLine, sampled: Path, handins: Path) -> None:
    (sampled / "right.txt").write_bytes(b"x" * (11 << 20))
    answer = cli("run", "hw", handins)
    assert answer.code == 2, answer
    assert "error[too_large]: hw: the sample right.txt cannot be taken" in answer.err
    assert queue(cli) == []


def test_a_sample_leaves_no_job_and_is_tried_once(cli: CommandLine, sampled: Path, handins: Path) -> None:
    """The grader writes into a course's queue nothing; it is tried anew when something of it changed, and no sooner."""

    def tried(*words: str) -> bool:
        began = list((cli.folder / ".minitango").glob("tried.json"))
        before = began[0].stat().st_ino if began else 0
        answer = cli("run", "hw", handins, *words)
        assert answer.code == 0, answer
        assert "sample" not in answer.err + answer.out
        return (cli.folder / ".minitango" / "tried.json").stat().st_ino != before

    assert tried()
    assert {job.student for job in queue(cli)} == {"ada", "bob", "eve"}
    for student in ("yan", "zoe"):
        (handins / f"{student}.txt").write_text("ok")
    assert not tried()
    assert tried("--fresh")
    (sampled / "grade.sh").write_text(GRADE + "# changed\n")
    assert tried()
    assert len(queue(cli)) == 15


def test_one_hand_in_is_not_tried_before(cli: CommandLine, sampled: Path, handins: Path) -> None:
    (sampled / "grade.sh").write_text(BROKEN)
    assert cli("run", "hw", handins / "ada.txt").code == 0
    assert not (cli.folder / ".minitango" / "tried.json").exists()


def test_a_sample_that_takes_its_time_is_told_of_and_can_be_interrupted(
    cli: CommandLine, sampled: Path, handins: Path
) -> None:
    (sampled / "right.txt").write_text("wait 29")
    process = cli.start("run", "hw", handins)
    told = b"the sample right.txt is graded before anything is queued (--no-preflight: all at once)"
    eventually(lambda: told in (cli.folder / "err0").read_bytes(), "it does not say what it waits for")
    process.send_signal(signal.SIGINT)
    answer = cli.answer(process)
    assert answer.code == 130, answer
    assert "interrupted: nothing was queued yet; the same command begins anew" in answer.err
    assert "Traceback" not in answer.err
    assert queue(cli) == []


# --- the first hand-in ------------------------------------------------------------------------


def test_the_first_hand_in_is_graded_alone_and_counts(cli: CommandLine, hw: Path, handins: Path) -> None:
    (handins / "ada.txt").write_text("wait 3")
    process = cli.start("run", hw, handins, "--workers", "4")
    told = b"ada is graded first, alone, before the others are queued"
    eventually(lambda: told in (cli.folder / "err0").read_bytes(), "it does not say what it waits for")
    assert [job.student for job in queue(cli)] == ["ada"]
    answer = cli.answer(process)
    assert answer.code == 0, answer
    assert "hw: 3 hand-ins: 3 graded." in answer.out
    assert "graded before" not in answer.err
    assert next(line for line in answer.err.splitlines() if line.startswith("[")).startswith("[1/3] ada:")
    assert {job.attempt for job in queue(cli)} == {1}


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
def test_hand_ins_without_a_score_stop_the_run(cli: CommandLine, hw: Path, many: Path, fresh: list[str]) -> None:
    (hw / "grade.sh").write_text("echo on my way; kill -9 $$")
    answer = cli("run", hw, many, *fresh)
    assert answer.code == 4, answer
    reason = "no verdict"
    assert f"s0, s5 and s9, each graded alone, got no score for the same reason: {reason}" in answer.err
    assert "probably your grader, not your students; 7 other hand-ins not queued" in answer.err
    assert "    on my way\n" in answer.err
    assert f"try it: minitango run {hw} MY-SOLUTION --student me --fresh; " in answer.err
    first, _, last = queue(cli)
    assert f"minitango jobs show {last.id}" in answer.err
    assert first.outcome == "no_score"
    assert [line.split()[:2] for line in answer.out.splitlines()[1:4]] == [[s, "no_score"] for s in ("s0", "s5", "s9")]
    assert answer.out.splitlines()[-1] == "hw: 10 hand-ins: 3 no_score, 7 not queued. Trust: shared."
    (hw / "grade.sh").write_text(GRADE)
    assert cli("run", hw, many, "--keep-going").code == 0


def test_a_run_that_the_first_stop_prints_them_as_json(cli: CommandLine, hw: Path, many: Path) -> None:
    (hw / "grade.sh").write_text("kill -9 $$")
    (many / "bad.rar").write_bytes(b"Rar!\x1a\x07\x00")
    answer = cli("run", hw, many, "--json")
    assert answer.code == 4, answer
    assert [(job["student"], job["outcome"]) for job in answer.jobs] == [(s, "no_score") for s in ("s0", "s5", "s9")]
    assert [each["student"] for each in json.loads(answer.out)["refused"]] == ["bad"]
    again = cli("run", hw, many, "--json")
    assert len(again.jobs) == 6, "three more, beside those of before"


def test_a_sample_that_stops_the_run_leaves_a_json_document(cli: CommandLine, sampled: Path, handins: Path) -> None:
    (sampled / "grade.sh").write_text(BROKEN)
    answer = cli("run", "hw", handins, "--json")
    assert (answer.code, answer.jobs, json.loads(answer.out)["refused"]) == (1, [], [])


@pytest.mark.parametrize(
    ("bad", "tried"),
    [
        ({"s0": "spoil", "s1": "spoil"}, ["s0", "s5"]),
        ({"s0": "spoil", "s5": "spoil"}, ["s0", "s5", "s9"]),
        ({"s0": "spoil", "s5": "other", "s9": "spoil"}, ["s0", "s5"]),
    ],
)
def test_bad_hand_ins_do_not_accuse_a_healthy_grader(
    cli: CommandLine, hw: Path, many: Path, bad: dict[str, str], tried: list[str]
) -> None:
    """One score clears it, and so do different reasons."""
    kills = "grep -q spoil answer.txt && kill -9 $$; grep -q other answer.txt && kill -15 $$"
    (hw / "grade.sh").write_text(f"{kills}; {GRADE}")
    for n in range(10):
        (many / f"s{n}.txt").write_text(bad.get(f"s{n}", "ok"))
    answer = cli("run", hw, many, "--json", "--workers", "1")
    assert answer.code == 0, answer
    assert [job["student"] for job in answer.jobs if job["outcome"] == "no_score"] == sorted(bad)
    assert [job.student for job in queue(cli)][: len(tried)] == tried
    assert len(queue(cli)) == 10


def test_a_grader_that_blames_the_hand_in_is_cleared(cli: CommandLine, hw: Path, many: Path) -> None:
    says = """printf '{"gradable": false, "format_errors": ["a ( is missing"]}' >"$MINITANGO_REPORT"\n"""
    (hw / "grade.sh").write_text(says)
    (hw / "assignment.toml").write_text(TOML.replace("exit-code", "prairielearn"))
    for n in range(4, 10):
        (many / f"s{n}.txt").unlink()
    answer = cli("run", hw, many, "--json")
    assert answer.code == 0, answer
    assert [[each["id"] for each in job["warnings"]] for job in answer.jobs] == [["not_gradable"]] * 4
    (hw / "grade.sh").write_text(says.replace('"format_errors"', '"message"'))
    answer = cli("run", hw, many)
    assert answer.code == 4, answer
    assert "s0, s2 and s3, each graded alone, got no score for the same reason: Invalid, not gradable" in answer.err


def test_a_grader_that_blames_all_hand_ins_is_not_suspected(cli: CommandLine, hw: Path, many: Path) -> None:
    says = """printf '{"gradable": false, "format_errors": ["a ( is missing"]}' >"$MINITANGO_REPORT"\n"""
    (hw / "grade.sh").write_text(says)
    (hw / "assignment.toml").write_text(TOML.replace("exit-code", "prairielearn"))
    answer = cli("run", hw, many, "--no-preflight", "--json")
    assert answer.code == 0, answer
    assert len(answer.jobs) == 10
    assert "your grader" not in answer.err
    (hw / "grade.sh").write_text(says.replace('"format_errors"', '"message"'))
    answer = cli("run", hw, many, "--no-preflight")
    assert (answer.code, "hand-ins ended alike, and earned nothing" in answer.err) == (4, True), answer


def test_who_had_another_end_is_not_named_with_one_that_is_dead(cli: CommandLine, handins: Path) -> None:
    hw = write_assignment(cli.folder / "hw", TOML.replace("8MiB", "1MiB"), "kill -9 $$")
    (handins / "bob.txt").write_bytes(os.urandom(3 << 20))
    answer = cli("run", hw, handins, "--json")
    assert answer.code == 4, answer
    assert "error[grader_suspected]: bob, graded alone before the others, could not be graded: " in answer.err
    assert "1 other hand-in not queued" in answer.err
    assert [(job["student"], job["state"]) for job in answer.jobs] == [("ada", "done"), ("bob", "dead")]


@pytest.mark.parametrize("students", [2, 3])
def test_where_nobody_is_left_nothing_is_stopped(cli: CommandLine, hw: Path, handins: Path, students: int) -> None:
    (hw / "grade.sh").write_text("kill -9 $$")
    if students == 2:
        (handins / "eve.txt").unlink()
    answer = cli("run", hw, handins, "--json")
    assert answer.code == 0, answer
    assert [job["outcome"] for job in answer.jobs] == ["no_score"] * students


def test_one_hand_in_that_spoils_its_own_report_stops_nobody(cli: CommandLine, hw: Path, handins: Path) -> None:
    (hw / "grade.sh").write_text(f"grep -q spoil answer.txt && kill -9 $$\n{GRADE}")
    (handins / "ada.txt").write_text("spoil\n")
    answer = cli("run", "hw", handins, "--json")
    assert answer.code == 0, answer
    assert [job["outcome"] for job in answer.jobs] == ["no_score", "graded", "graded"]


def test_a_first_hand_in_that_is_dead_stops_the_run(cli: CommandLine, handins: Path) -> None:
    hw = write_assignment(cli.folder / "hw", TOML.replace("8MiB", "1MiB"))
    (handins / "ada.txt").write_bytes(os.urandom(3 << 20))
    answer = cli("run", hw, handins)
    assert answer.code == 4, answer
    assert "error[grader_suspected]: ada, graded alone before the others, could not be graded: " in answer.err
    assert "2 other hand-ins not queued" in answer.err
    assert [job.state for job in queue(cli)] == ["dead"]
    assert cli("run", hw, handins, "--no-preflight").code == 4
    assert sorted(job.state for job in queue(cli)) == ["dead", "dead", "done", "done"]


def test_what_is_queued_already_is_not_held_back(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("submit", hw, handins).code == 0
    (hw / "grade.sh").write_text(GRADE)
    assert cli("run", hw, handins).code == 0
    assert count(cli, State.DONE) == len(queue(cli)) == 3


# --- the pause --------------------------------------------------------------------------------


def test_a_grader_that_fails_the_first_is_paused(cli: CommandLine, hw: Path, many: Path) -> None:
    (hw / "grade.sh").write_text(BROKEN)
    answer = cli("run", "hw", many, *WITH_ONE)
    assert answer.code == 4, answer
    done = few(cli)
    alike = f"the first {done} hand-ins ended alike, and earned nothing: probably your grader, not your students"
    assert alike in answer.err
    assert "s0: graded 0/10: the last step ended with exit status 1" in answer.err
    assert "    \\x1b[2Jno such file\n" in answer.err
    assert "\x1b" not in answer.err + answer.out
    first = queue(cli)[0]
    assert f"more of it: minitango jobs show {first.id}\n" in answer.err
    assert f"paused: {10 - done} hand-ins are queued, and charged to nobody" in answer.err
    assert f"error[grader_suspected]: stopped before {10 - done} of 10 hand-ins were begun" in answer.err
    assert "the same command with --keep-going" in answer.err
    assert answer.out.splitlines()[-1] == f"hw: 10 hand-ins: {done} graded, {10 - done} cancelled. Trust: shared."
    assert len(answer.out.splitlines()) == done + 3
    assert [job.attempt for job in queue(cli)] == [1] * done + [0] * (10 - done)

    on = cli("run", "hw", many, "--keep-going", "--json")
    assert on.code == 0, on
    assert f"{done} of 10 hand-ins graded before" in on.err
    assert "all 10 hand-ins ended alike: probably your grader, not your students" in on.err
    assert [job.attempt for job in queue(cli) if job.state is State.DONE] == [1] * 10


def test_what_was_left_by_a_pause_is_no_other_runs_to_grade(
    cli: CommandLine, hw: Path, many: Path, tmp_path: Path
) -> None:
    (hw / "grade.sh").write_text(BROKEN)
    assert cli("run", "hw", many, *WITH_ONE).code == 4
    done = few(cli)
    other = write_assignment(tmp_path / "other", TOML.replace('"hw"', '"other"'))
    assert cli("run", other, many, "--no-preflight", "--keep-going").code == 0
    left = next(job for job in queue(cli) if job.state is State.CANCELLED)
    why = f"the run that queued it was paused and left, as its first {done} hand-ins ended alike and earned nothing"
    assert left.reason.startswith(why)
    assert why in cli("jobs", "show", left.id).out
    states = sorted(job.state for job in queue(cli) if job.assignment == "hw")
    assert states == ["cancelled"] * (10 - done) + ["done"] * done


def test_a_grader_that_was_corrected_grades_all_anew(cli: CommandLine, hw: Path, many: Path) -> None:
    """What waited for the broken one is not graded by it first."""
    (hw / "grade.sh").write_text(BROKEN)
    stopped = cli("run", "hw", many, *WITH_ONE, "--json")
    assert stopped.code == 4, stopped
    done = few(cli)
    left = 10 - done
    assert [job["state"] for job in stopped.jobs] == ["done"] * done + ["cancelled"] * left
    (hw / "grade.sh").write_text("grep -q no answer.txt")
    answer = cli("run", "hw", many)
    assert answer.code == 0, answer
    assert answer.out.splitlines()[-1] == "hw: 10 hand-ins: 10 graded. Trust: shared."
    assert sorted(job.state for job in queue(cli)) == ["cancelled"] * left + ["done"] * (done + 10)
    assert {job.attempt for job in queue(cli) if job.state is State.CANCELLED} == {0}


def test_what_was_queued_for_an_assignment_that_changed_says_so(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("submit", hw, handins).code == 0
    (hw / "grade.sh").write_text(f"{GRADE}# changed\n")
    assert cli("run", hw, handins).code == 0
    (why,) = {job.reason for job in queue(cli) if job.state is State.CANCELLED}
    assert why.startswith("the assignment, or what it is graded in, changed before it was graded")


def test_what_is_running_may_clear_the_grader(cli: CommandLine, hw: Path, many: Path) -> None:
    """Five of the six that run at once earn nothing; the sixth, which takes longer, does: nobody is asked."""
    (hw / "grade.sh").write_text('read word rest <answer.txt; [ "$word" = slow ] && sleep 1; [ "$word" = slow ]')
    (many / "s5.txt").write_text("slow\n")
    answer = cli("run", "hw", many, "--workers", "6")
    assert answer.code == 0, answer
    assert "earned nothing" not in answer.err
    assert count(cli, State.DONE) == 10


def test_an_earlier_grade_clears_the_grader(cli: CommandLine, hw: Path, many: Path) -> None:
    (many / "s9.txt").write_text("ok\n")
    assert cli("run", hw, many / "s9.txt").code == 0
    assert cli("run", hw, many, "--workers", "1").code == 0
    assert count(cli, State.DONE) == 10


def test_a_run_that_joins_another_only_warns(cli: CommandLine, hw: Path, many: Path) -> None:
    (hw / "grade.sh").write_text(BROKEN)
    worker = cli.start("worker", "--workers", "1")
    eventually(lambda: b"grading in" in (cli.folder / "err0").read_bytes(), "the worker does not start")
    answer = cli("run", hw, many)
    assert answer.code == 0, answer
    assert answer.err.count("ended alike, and earned nothing") == 1
    assert count(cli, State.DONE) == 10
    worker.send_signal(signal.SIGTERM)
    assert cli.answer(worker).code == 0


HANGS = """
[ "$(cat answer.txt)" = talk ] && echo "case 1"
sleep 30
"""


def test_a_grader_that_hangs_is_paused_after_three(cli: CommandLine, many: Path) -> None:
    hw = write_assignment(cli.folder / "hw", TOML.replace('wall = "30s"', 'wall = "1s"'), HANGS)
    answer = cli("run", hw, many, *WITH_ONE)
    assert answer.code == 4, answer
    done = count(cli, State.DONE)
    assert done in (3, 4), "the third, and what had begun before it was noticed"
    assert f"the first {done} hand-ins ended alike, and earned nothing: probably your grader" in answer.err
    assert "ended by its wall limit; it printed nothing" in answer.err
    assert {job.outcome for job in queue(cli) if job.state is State.DONE} == {"time_limit"}


def test_three_that_hang_stop_the_run_before_the_others_are_queued(cli: CommandLine, many: Path) -> None:
    """Each costs the whole limit: the second and the third are graded at once."""
    hw = write_assignment(cli.folder / "hw", TOML.replace('wall = "30s"', 'wall = "2s"'), HANGS)
    answer = cli("run", hw, many, "--workers", "2")
    assert answer.code == 4, answer
    reason = "step 'grade' took longer than 2 s"
    assert f"s0, s5 and s9, graded before the others, got no score for the same reason: {reason}" in answer.err
    assert "s5 and s9 are graded before the others are queued (--no-preflight: all at once)" in answer.err
    assert "probably your grader, not your students; 7 other hand-ins not queued" in answer.err
    first, second, third = queue(cli)
    assert first.ended is not None
    assert second.ended is not None
    assert third.started is not None
    assert first.ended <= third.started < second.ended


@pytest.mark.parametrize("talks", ["s0", "s7"])
def test_who_does_not_hang_or_does_so_aloud_clears_the_grader(cli: CommandLine, many: Path, talks: str) -> None:
    hw = write_assignment(cli.folder / "hw", TOML.replace('wall = "30s"', 'wall = "1s"'), HANGS)
    (many / f"{talks}.txt").write_text("talk")
    for n in range(1, 5):
        (many / f"s{n}.txt").unlink()
    answer = cli("run", hw, many, "--keep-going", "--workers", "2")
    assert answer.code == 0, answer
    assert count(cli, State.DONE) == 6


def test_programs_that_print_before_they_hang_may_be_the_students_own(cli: CommandLine, many: Path) -> None:
    hw = write_assignment(cli.folder / "hw", TOML.replace('wall = "30s"', 'wall = "0.5s"'), HANGS)
    for path in many.iterdir():
        path.write_text("talk")
    answer = cli("run", hw, many, *WITH_ONE)
    assert answer.code == 4, answer
    assert count(cli, State.DONE) >= 5


def test_hand_ins_that_cannot_be_graded_are_paused_as_well(cli: CommandLine, many: Path) -> None:
    hw = write_assignment(cli.folder / "hw", TOML.replace("8MiB", "1MiB"))
    for path in many.iterdir():
        path.write_bytes(os.urandom(3 << 20))
    answer = cli("run", hw, many, *WITH_ONE)
    assert answer.code == 4, answer
    dead = count(cli, State.DEAD)
    assert 5 <= dead <= 7
    assert count(cli, State.CANCELLED) == 10 - dead
    alike = f"the first {dead} hand-ins ended alike, and earned nothing: probably the assignment or this machine"
    assert alike in answer.err


def test_a_run_that_joins_another_tries_nothing_and_takes_nothing_back(
    cli: CommandLine, hw: Path, sampled: Path, handins: Path
) -> None:
    """Another process grades: neither its sandbox nor what it has queued are ours."""
    (handins / "ada.txt").write_text("wait 3")
    worker = cli.start("worker", "--workers", "1")
    assert cli("submit", hw, handins).code == 0
    eventually(lambda: count(cli, State.RUNNING) == 1, "the worker does not start")
    (sampled / "grade.sh").write_text(f"{GRADE}# changed\n")
    answer = cli("run", hw, handins, "--json")
    assert answer.code == 0, answer
    assert not (cli.folder / ".minitango" / "tried.json").exists()
    assert sorted(job.state for job in queue(cli)) == ["done"] * 6, "those of before the change, too"
    worker.send_signal(signal.SIGTERM)
    assert cli.answer(worker).code == 0


# --- the worker -------------------------------------------------------------------------------


def worked(cli: CommandLine, jobs: int, *words: str) -> str:
    """What a worker says until so many jobs have ended."""
    number = len(cli._started)
    worker = cli.start("worker", "--workers", "1", *words)
    eventually(lambda: sum(job.state.terminal for job in queue(cli)) == jobs, "the worker does not get on")
    worker.send_signal(signal.SIGTERM)
    assert cli.answer(worker).code == 0
    return (cli.folder / f"err{number}").read_text()


def test_a_worker_says_once_of_each_assignment_that_its_grader_may_be_broken(
    cli: CommandLine, hw: Path, many: Path
) -> None:
    (hw / "grade.sh").write_text(BROKEN)
    other = write_assignment(cli.folder / "other", TOML.replace('"hw"', '"other"'))
    good = cli.folder / "good"
    good.mkdir()
    for n in range(6):
        (good / f"t{n}.txt").write_text("ok" if n == 4 else "no")
    assert cli("submit", hw, many).code == 0
    assert cli("submit", other, good).code == 0
    said = worked(cli, 16, "--quiet")
    assert said.count("ended alike, and earned nothing") == 1
    assert "hw: the first 5 hand-ins ended alike, and earned nothing: probably your grader, not your students" in said
    assert "s0: graded 0/10: the last step ended with exit status 1: \\x1b[2Jno such file" in said
    assert "\x1b" not in said
    assert "hand-ins of it queued: the worker goes on with them" in said
    cancel = "next: minitango jobs cancel --assignment hw; correct it, and try it: minitango run"
    assert f"{cancel} {hw} MY-SOLUTION --student me --fresh; then submit them again" in said
    assert count(cli, State.DONE) == 16, "it goes on"


def test_a_worker_hears_a_student_once_and_an_earlier_grade(cli: CommandLine, hw: Path, many: Path) -> None:
    one = cli.folder / "one.txt"
    for n in range(6):
        one.write_text(f"no {n}")
        assert cli("submit", hw, one, "--student", "zoe").code == 0
    assert "earned nothing" not in worked(cli, 6)
    one.write_text("ok")
    assert cli("submit", hw, one, "--student", "yan").code == 0
    assert "earned nothing" not in worked(cli, 7)
    assert cli("submit", hw, many).code == 0
    assert "earned nothing" not in worked(cli, 17)


def test_what_is_queued_of_an_assignment_can_be_cancelled_together(cli: CommandLine, hw: Path, handins: Path) -> None:
    other = write_assignment(cli.folder / "other", TOML.replace('"hw"', '"other"'))
    assert cli("submit", hw, handins).code == 0
    assert cli("submit", other, handins).code == 0
    assert "error[usage]" in cli("jobs", "cancel").err
    assert "no job of assignment 'no' is queued" in cli("jobs", "cancel", "--assignment", "no").err
    answer = cli("jobs", "cancel", "--assignment", "hw", queue(cli)[0].id)
    assert answer.out.count("is cancelled") == 3
    assert [job.state for job in queue(cli)] == ["cancelled"] * 3 + ["queued"] * 3


# --- the question -----------------------------------------------------------------------------


def asked(cli: CommandLine, answer: bytes, *words: str) -> tuple[int, str]:
    """Run it on a terminal, answer its question; its exit code and all that it drew."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        cli.command("run", "hw", "many", *WITH_ONE, *words),
        cwd=cli.folder, env=environment(TERM="dumb"), stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, preexec_fn=lambda: _take(0),
    )  # fmt: skip
    os.close(theirs)
    drawn = b""
    answered = False
    try:
        while data := os.read(ours, 65536):
            drawn += data
            if b"go on? [y/N]" in drawn and not answered:
                answered = True
                os.write(ours, answer)
    except OSError:  # EIO: the other end was closed
        pass
    os.close(ours)
    return process.wait(PATIENCE), drawn.decode()


def _take(number: int) -> None:
    """Make this the terminal of the session."""
    import fcntl
    import termios

    fcntl.ioctl(number, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize(
    ("answer", "code"), [(b"y\n", 0), (b"n\n", 4), (b"\n", 4), (b"yesterday\n", 4), (b"\x04", 4), (b"\x03", 130)]
)
def test_at_a_terminal_it_asks(cli: CommandLine, hw: Path, many: Path, answer: bytes, code: int) -> None:
    (hw / "grade.sh").write_text(BROKEN)
    ended, drawn = asked(cli, answer)
    assert ended == code, drawn
    done = 10 if code == 0 else few(cli)
    assert count(cli, State.DONE) == done
    assert drawn.count("go on? [y/N]") == 1
    assert drawn.index("no such file") < drawn.index("go on? [y/N]")
    assert ("[10/10]" in drawn) is (code == 0)
    assert (f"interrupted: {done} of 10 hand-ins graded; the same command goes on" in drawn) is (code == 130)
    assert "Traceback" not in drawn


@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_it_asks_nobody_who_wants_no_words(cli: CommandLine, hw: Path, many: Path, option: str) -> None:
    (hw / "grade.sh").write_text(BROKEN)
    ended, drawn = asked(cli, b"", option)
    assert ended == 4, drawn
    assert "go on?" not in drawn
    assert "earned nothing" in drawn
