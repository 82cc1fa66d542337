"""One job's story: durations, attempts, limits that were near, tests, and what to do next."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest
from msgspec import structs

from minitango import Engine, Limits, Step, Usage
from minitango.cli import details, show, story
from minitango.cli.records import Stories
from minitango.errors import SandboxFailed
from minitango.job import Attempt, Failure, Job, Outcome, Result, State, StepReport, Trust
from minitango.sandbox import End
from minitango.testing import FakeRun, FakeSandbox
from tests.support import PATIENCE, assignment, eventually, open_engine, report, scoring, submission

MIB = 1 << 20
LIMITS = Limits(wall=10, cpu=5, memory=80 * MIB, disk=20 * MIB, output=1000)


def job(**changes: object) -> Job:
    values = {"id": "j1", "seq": 1, "state": State.DONE, "assignment": "hw", "student": "ada", "spec": "", "inputs": ""}
    return Job(**{**values, **changes})  # type: ignore[arg-type]


def graded(
    tmp_path: Path,
    body: dict[str, object],
    usage: Usage = Usage(),
    labels: dict[str, str] | None = None,
    **end: object,
) -> story.Story:
    def inside(run: FakeRun) -> End:
        run.print(b"hello\n")
        report(run, body)
        return End(**{"exit_status": 0, "usage": usage, **end})  # type: ignore[arg-type]

    hw = assignment(steps=(Step(command=("sh", "grade.sh\x1b"), limits=LIMITS),))
    with open_engine(tmp_path, inside) as engine:
        handle = engine.submit(submission(of=hw, labels=labels or {}))
        handle.result(PATIENCE)
        return story.of(engine, handle.job(), " --state here")


# --- when -------------------------------------------------------------------------------------


def texts(found: Job, attempts: list[Attempt], now: float) -> list[str]:
    return [event.text for event in story._events(found, attempts, now)]


def test_how_long_each_thing_took() -> None:
    failed = Failure("sandbox_died", "it was killed", "look at dmesg")
    attempts = [
        Attempt("j1", 1, "here", 105, 107, "fail", failed),
        Attempt("j1", 2, "there", 170, 171, "recover"),
        Attempt("j1", 3, "here", 172, 174.5, "finish"),
    ]
    found = list(story._events(job(submitted=100.0, ended=174.5), attempts, 999))
    assert [event.text for event in found] == [
        "submitted",
        "attempt 1 on here begins, queued for 5 s",
        "attempt 1 failed, ran 2 s",
        "attempt 2 on there begins, waited to be tried again for 1 min 03 s",
        "attempt 2 was interrupted: the engine died, ran 1 s",
        "attempt 3 on here begins, waited to be tried again for 1 s",
        "attempt 3 graded, ran 2.5 s",
    ]
    assert [event.seconds for event in found] == [None, 5, 2, 63, 1, 1, 2.5]
    line, hint = story._event(found[2])
    assert line.endswith("attempt 1 failed, ran 2 s: error[sandbox_died]: it was killed")
    assert hint.strip() == "next: look at dmesg"


def test_what_has_not_ended_yet() -> None:
    waits = job(state=State.QUEUED, submitted=100.0, due=170.0)
    assert texts(waits, [], 160) == ["submitted", "waits for 1 min 00 s", "to be tried again"]
    runs = job(state=State.RUNNING, submitted=100.0)
    assert texts(runs, [Attempt("j1", 1, "here", 101)], 111)[-1] == "attempt 1 is running for 10 s"
    gone = job(state=State.CANCELLED, submitted=100.0, ended=130.0)
    assert texts(gone, [], 999) == ["submitted", "cancelled, queued for 30 s"]
    paused = job(state=State.CANCELLED, submitted=100.0, ended=130.0, reason="the run was paused\x1b")
    assert texts(paused, [], 999)[-1] == r"cancelled, queued for 30 s: the run was paused\x1b"


def test_a_clock_that_was_set_back_makes_no_negative_durations() -> None:
    found = list(story._events(job(submitted=100.0), [Attempt("j1", 1, "here", 50, 40, "finish")], 10))
    assert all(event.seconds is None or event.seconds >= 0 for event in found)


# --- how --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("memory", "mark"), [(79, ""), (80, " (80%: near its limit)"), (100, " (100%: at its limit)")])
def test_what_was_near_a_limit_is_marked(memory: int, mark: str) -> None:
    ran = StepReport("run", exit_status=0, usage=Usage(1, 0.5, memory * MIB), output_bytes=10)
    assert details.step(ran, LIMITS) == (
        "run: exit status 0; 1 s of 10 s, cpu 0.5 s of 5 s, "
        f"memory and files {memory} MiB of 100 MiB{mark}, printed 10 B of 1000 B"
    )
    assert [each.what for each in details.used(ran, LIMITS) if each.near] == (["memory"] if mark else [])


def test_a_step_that_was_not_started_has_no_exit_status() -> None:
    report = StepReport("run")
    assert details.step(report) == "run: was not started; 0 ms, printed 0 B"
    result = Result(Outcome.NO_SCORE, None, None, Trust.SHARED, steps=(report,))
    assert details.why(result, ()) == ["step run: was not started; it printed nothing"]


def test_without_limits_there_is_no_mark() -> None:
    ran = StepReport("run", exit_status=0, usage=Usage(1, 0.5, 1 << 40))
    assert "limit" not in details.step(ran)
    assert "limit" not in details.step(ran, Limits(cpu=None, memory=1 << 50))


def test_the_whole_story(tmp_path: Path) -> None:
    told = graded(tmp_path, {"score": 4, "output": "so so\x1b"}, Usage(9, None, 10 * MIB), output_bytes=6)
    text = "\n".join(story.lines(told))
    assert text.isprintable() or "\x1b" not in text
    assert "grade: exit status 0; 9 s of 10 s (90%: near its limit), memory and files 10 MiB of 100 MiB" in text
    assert r"    command: sh 'grade.sh\x1b'" in text, "as a shell would take it"
    assert "feedback\n  so so" in text
    assert "trust: shared; sandbox: fake" in text
    path = tmp_path / "queue.db"
    assert f"its hand-in: 1 file, 9 B (answer.py), packed in {path}" in text
    assert f"its output: minitango jobs logs {told.job.id} --state here" in text
    own = "On a solution of your own: minitango run ASSIGNMENT MY-SOLUTION --student me --fresh --state here"
    assert f"{own} (or, where it has samples: minitango check ASSIGNMENT)" in text
    body = json.loads(show.encode(Stories(jobs=(story.record(told),))))["jobs"][0]
    assert body["steps"] == [
        {"name": "grade", "command": ["sh", "grade.sh\x1b"], "limits": body["steps"][0]["limits"], "near": ["wall"]}
    ]
    assert body["steps"][0]["limits"]["memory"] == 80 * MIB
    assert body["inputs"] == {"path": str(path), "files": [{"path": "answer.py", "size": 9}], "trouble": ""}
    assert [event["what"] for event in body["timeline"]] == ["submitted", "began", "ended"]
    assert body["next"] == list(told.next)
    assert body["origin"] == ""
    assert "its assignment:" not in text


def test_where_the_assignment_was_makes_the_commands_whole(tmp_path: Path) -> None:
    told = graded(tmp_path, {"score": 4}, labels={"origin": "/my course/hw"})
    own = "On a solution of your own: minitango run '/my course/hw' MY-SOLUTION --student me --fresh --state here"
    text = "\n".join(story.lines(told))
    assert f"{own} (or, where it has samples: minitango check '/my course/hw')" in text
    assert "its assignment: /my course/hw" in text
    assert story.record(told).origin == "/my course/hw"


def test_full_marks_ask_nothing(tmp_path: Path) -> None:
    assert [line.split(":")[0] for line in graded(tmp_path, {"score": 10}).next] == ["its output"]


def test_inputs_and_plan_that_are_gone_are_told(tmp_path: Path) -> None:
    told = graded(tmp_path, {"score": 10})
    with contextlib.closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as db:
        db.execute("DELETE FROM blobs")
    with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox()) as engine:
        told = story.of(engine, told.job, "")
    assert told.plan is None
    text = "\n".join(story.lines(told))
    assert "its hand-in cannot be read: the blob" in text
    assert "grade: exit status 0; 0 ms, printed 0 B" in text
    assert story.record(told).steps[0].limits is None


# --- tests ------------------------------------------------------------------------------------


def test_failed_tests_come_first(tmp_path: Path) -> None:
    tests = [{"name": f"good {n}", "score": 1, "max_score": 1, "output": "fine"} for n in range(30)]
    tests.insert(7, {"name": "bad", "score": 0, "max_score": 1, "output": "\n".join(f"line {n}" for n in range(12))})
    told = graded(tmp_path, {"score": 3, "tests": tests})
    text = story.lines(told)
    start = text.index("tests")
    assert text[start + 1].endswith("0/1  bad")
    assert text[start + 2].strip() == "line 0"
    assert text[start + 11].strip() == "line 9", "the first lines"
    assert text[start + 12].endswith("1/1  good 0")
    assert text[start + 31] == "  ... and 11 tests more: --all-tests shows all"
    assert "fine" not in "\n".join(text)
    whole = story.lines(told, all_tests=True)
    assert sum("good" in line for line in whole) == 30
    assert sum("fine" in line for line in whole) == 30
    assert "--all-tests" not in "\n".join(whole)


# --- what next --------------------------------------------------------------------------------


def advice(found: Job, *, alone: bool = False) -> list[str]:
    return list(story._next(found, None, (), " --state here", alone=alone))


def test_what_to_do_next() -> None:
    dead = job(state=State.DEAD, failure=Failure("sandbox_gone", "no engine", "start Docker"))
    assert advice(dead) == [
        "next: look what is the matter here: minitango doctor --state here",
        "next: mend the cause (start Docker), then: minitango jobs retry j1 --state here",
    ]
    wrong = job(state=State.DEAD, failure=Failure("command", "make is not there"))
    assert advice(wrong) == ["next: mend the cause, then: minitango jobs retry j1 --state here"]
    assert advice(job(state=State.QUEUED), alone=True) == ["next: no engine runs here: minitango worker --state here"]
    assert advice(job(state=State.RUNNING)) == ["next: minitango jobs logs -f j1 --state here"]
    assert "jobs retry j1" in advice(job(state=State.CANCELLED))[0]
    assert advice(job(outcome=Outcome.GRADED)) == []


def test_a_queued_job_names_the_worker_only_where_none_runs(tmp_path: Path) -> None:
    with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox()) as engine:
        handle = engine.submit(submission())
        assert "minitango worker" in story.of(engine, handle.job(), "").next[0]


def test_a_queued_job_names_the_worker_that_offers_what_it_needs(tmp_path: Path) -> None:
    needy = submission(of=structs.replace(assignment(), needs=("gpu",)))
    with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox()) as engine:
        handle = engine.submit(needy)
        hint = "next: no engine that offers gpu runs here: minitango worker --state here --capability gpu"
        assert story.of(engine, handle.job(), " --state here").next[0] == hint
        with open_engine(tmp_path, scoring(1)):
            assert story.of(engine, handle.job(), " --state here").next[0] == hint
        with open_engine(tmp_path, scoring(1), capabilities=["gpu"]):
            assert handle.result(PATIENCE).score == 1


def test_an_attempt_that_failed_tells_why(tmp_path: Path) -> None:
    def broken(run: FakeRun) -> End:
        raise SandboxFailed("the box broke\x07", hint="minitango doctor", id="sandbox_died")

    with open_engine(tmp_path, broken) as engine:
        handle = engine.submit(submission())
        store = engine.store
        eventually(lambda: bool(found := store.attempts(handle.id)) and found[0].ended is not None)
        text = "\n".join(story.lines(story.of(engine, handle.job(), "")))
    assert r"attempt 1 failed, ran" in text
    assert r"error[sandbox_died]: the box broke\x07" in text
    assert "next: minitango doctor" in text
