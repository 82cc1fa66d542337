"""What a careful caller does before it queues: grading beside the queue, pausing it, and finding what is in it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from minitango import (
    AssignmentError,
    ConfigError,
    Engine,
    EngineStopped,
    JobDead,
    Outcome,
    SandboxFailed,
    SandboxUnavailable,
    State,
    SubmissionError,
)
from minitango.identity import holds_its_key
from minitango.job import Failure, Job
from minitango.retry import MAX_ATTEMPTS
from minitango.sandbox import End
from minitango.statedir import note_tried, tried
from minitango.testing import FakeRun, FakeSandbox
from tests.support import PATIENCE, Gate, assignment, eventually, open_engine, scoring, submission

# --- a trial ----------------------------------------------------------------------------------


def test_a_trial_has_a_result_and_leaves_no_job(tmp_path: Path) -> None:
    def inside(run: FakeRun) -> End:
        run.print(b"here\n")
        return scoring(7)(run)

    with open_engine(tmp_path, inside, paused=True) as engine:
        with engine.trial(submission()) as trial:
            result = trial.result()
        assert (result.outcome, result.score) == (Outcome.GRADED, 7)
        assert [output.head for output in trial.outputs()] == [b"here\n"]
        assert engine.jobs() == []
        assert engine.prune(older_than=0.0).count == 2, "what a trial needed is nobody's"


@pytest.mark.parametrize("succeeds", [MAX_ATTEMPTS, MAX_ATTEMPTS + 1])
def test_a_trial_that_fails_is_tried_as_often_as_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, succeeds: int
) -> None:
    monkeypatch.setattr("minitango.retry.backoff", lambda n, **more: 0.0)
    runs = []

    def inside(run: FakeRun) -> End:
        runs.append(run)
        if len(runs) < succeeds:
            raise SandboxFailed("it broke", hint="mend it")
        return scoring(7)(run)

    with open_engine(tmp_path, inside) as engine, engine.trial(submission()) as trial:
        if succeeds <= MAX_ATTEMPTS:
            assert trial.result().score == 7
        else:
            with pytest.raises(JobDead, match="it broke") as caught:
                trial.result()
            assert (caught.value.id, caught.value.hint) == ("sandbox_failed", "mend it")
            assert trial.outputs() == []
    assert len(runs) == MAX_ATTEMPTS


def test_a_trial_that_cannot_do_better_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.retry.backoff", lambda n, **more: 0.0)
    runs = []

    def inside(run: FakeRun) -> End:
        runs.append(run)
        raise AssignmentError("make is not there", hint="install it", id="command")

    with open_engine(tmp_path, inside) as engine, engine.trial(submission()) as trial:
        with pytest.raises(JobDead, match="make is not there") as caught:
            trial.result()
        assert caught.value.id == "command"
    assert len(runs) == 1


@pytest.mark.parametrize("comes", [True, False])
def test_a_trial_waits_for_a_sandbox_longer_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comes: bool
) -> None:
    """It is charged with nothing, so that a registry that is away for a moment ends no run."""
    waits: list[int] = []
    monkeypatch.setattr("minitango.trial.backoff", lambda n: waits.append(n) or 0.0)
    runs = []

    def inside(run: FakeRun) -> End:
        runs.append(run)
        if len(runs) < 9 or not comes:
            raise SandboxUnavailable("it is away", hint="wait", id="sandbox_registry")
        return scoring(7)(run)

    with open_engine(tmp_path, inside) as engine, engine.trial(submission()) as trial:
        if comes:
            assert trial.result().score == 7
        else:
            with pytest.raises(JobDead, match="it is away"):
                trial.result()
    assert waits == list(range(1, 9 if comes else 11))


def test_what_a_trial_waited_for_is_not_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.trial.backoff", lambda n: 0.0)
    monkeypatch.setattr("minitango.retry.backoff", lambda n, **more: 0.0)
    ends = [SandboxUnavailable("away"), *[SandboxFailed("it broke")] * (MAX_ATTEMPTS - 1)]

    def inside(run: FakeRun) -> End:
        if ends:
            raise ends.pop(0)
        return scoring(7)(run)

    with open_engine(tmp_path, inside) as engine, engine.trial(submission()) as trial:
        assert trial.result().score == 7


def test_leaving_a_trial_ends_it(tmp_path: Path) -> None:
    gate = Gate()
    killed = threading.Event()

    def inside(run: FakeRun) -> End:
        end = gate(run)
        if run.killed.is_set():
            killed.set()
        return end

    with open_engine(tmp_path, inside) as engine:
        with engine.trial(submission()) as trial:
            gate.wait_entered()
            assert trial.outputs() == []
        assert killed.is_set()
        with pytest.raises(EngineStopped):
            trial.result()


def test_a_mistake_of_ours_in_a_trial_is_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object, **named: object) -> None:
        raise ZeroDivisionError

    with open_engine(tmp_path, scoring(1)) as engine:
        monkeypatch.setattr(engine._runner, "run", broken)
        with engine.trial(submission()) as trial, pytest.raises(ZeroDivisionError):
            trial.result()


def test_who_does_not_grade_tries_nothing(tmp_path: Path) -> None:
    with (
        Engine.open(tmp_path, workers=0, sandbox=FakeSandbox(scoring(1))) as engine,
        pytest.raises(ConfigError, match="without workers"),
    ):
        engine.trial(submission())
    with open_engine(tmp_path, scoring(1)) as engine, pytest.raises(SubmissionError):
        engine.trial(submission(text=b"x" * (11 << 20)))


# --- a pause ----------------------------------------------------------------------------------


def test_an_engine_that_is_opened_paused_begins_nothing_before_it_is_resumed(tmp_path: Path) -> None:
    with open_engine(tmp_path, scoring(1), paused=True) as engine:
        handles = engine.submit_many(submission(f"s{n}") for n in range(3))
        eventually(lambda: engine.resting)
        assert engine.store.counts()[State.QUEUED] == 3
        engine.resume()
        assert [handle.result(PATIENCE).score for handle in handles] == [1, 1, 1]
        assert not engine.resting


def test_what_runs_goes_on_when_the_engine_is_paused(tmp_path: Path) -> None:
    gate = Gate()
    with open_engine(tmp_path, gate, workers=1) as engine:
        first, second = engine.submit_many([submission("ada"), submission("bob")])
        gate.wait_entered()
        engine.pause()
        third = engine.submit(submission("eve"))
        assert not engine.resting
        gate.open.set()
        assert first.result(PATIENCE).score == 10
        eventually(lambda: engine.resting)
        assert first.done(), "at rest before its word was told"
        assert [engine.store.get(job.id).state for job in (second, third)] == ["queued", "queued"]
        engine.resume()
        assert second.result(PATIENCE).score == third.result(PATIENCE).score == 10


def test_an_engine_that_rests_can_be_paused_again_and_stopped(tmp_path: Path) -> None:
    with open_engine(tmp_path, scoring(1), paused=True) as engine:
        for _ in range(3):
            eventually(lambda: engine.resting)
            engine.resume()
            engine.submit(submission(), fresh=True).result(PATIENCE)
            engine.pause()
        handle = engine.submit(submission("bob"))
        assert handle.cancel()
    with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox(scoring(1))) as watching:
        watching.pause()
        watching.resume()
        assert not watching.resting


# --- finding ----------------------------------------------------------------------------------


def test_what_submitting_would_give_is_found(tmp_path: Path) -> None:
    ada, bob = submission("ada"), submission("bob")
    with open_engine(tmp_path, scoring(1), paused=True) as engine:
        assert engine.find([ada, bob]).jobs == (None, None)
        handle = engine.submit(ada)
        found = engine.find([bob, ada])
        assert [job and job.id for job in found.jobs] == [None, handle.id]
        assert engine.submit(ada).id == handle.id
        handle.cancel()
        assert engine.find([ada]).jobs == (None,)
        again = engine.submit(ada)
        engine.resume()
        again.result(PATIENCE)
        (job,) = engine.find([ada]).jobs
        assert job is not None
        assert (job.id, job.state) == (again.id, State.DONE)
        fresh = engine.submit(ada, fresh=True)
        fresh.result(PATIENCE)
        (job,) = engine.find([ada]).jobs
        assert job is not None
        assert job.id == fresh.id
        assert engine.find([]).jobs == ()


def test_what_another_grader_is_at_is_not_outdated(tmp_path: Path) -> None:
    gate = Gate()
    with open_engine(tmp_path, gate, workers=1) as engine:
        handle = engine.submit(submission("ada"))
        gate.wait_entered()
        assert engine.find([submission("ada", of=assignment(max_score=20))]).outdated == ()
        gate.open.set()
        handle.result(PATIENCE)
        assert engine.find([submission("ada", of=assignment(max_score=20))]).outdated == ()


def test_what_waits_for_another_grader_is_outdated(tmp_path: Path) -> None:
    changed = assignment(max_score=20)
    with open_engine(tmp_path, scoring(1), paused=True) as engine:
        old, done, other = engine.submit_many([submission("ada"), submission("bob"), submission("eve", b"other")])
        assert done.cancel()
        found = engine.find([submission(student, of=changed) for student in ("ada", "bob", "eve")])
        assert found.jobs == (None, None, None)
        assert [job.id for job in found.outdated] == [old.id], "eve handed in something else since: that stays"
        assert engine.find([submission("ada")]).outdated == ()
        assert engine.find([submission("ada", of=assignment("another"))]).outdated == ()
        assert engine.store.get(other.id).state is State.QUEUED


@pytest.mark.parametrize(
    ("state", "failure", "going", "holds"),
    [
        (State.QUEUED, "", False, True),
        (State.RUNNING, "", False, True),
        (State.RUNNING, "", True, False),
        (State.DONE, "", False, True),
        (State.CANCELLED, "", False, False),
        (State.DEAD, "command", False, False),
        (State.DEAD, "poison", False, True),
    ],
)
def test_which_jobs_hold_their_keys(state: State, failure: str, going: bool, holds: bool) -> None:
    job = Job(
        "j", 1, state, "hw", "ada", "", "", cancel_requested=going, failure=Failure(failure, "") if failure else None
    )
    assert holds_its_key(job) is holds


def test_a_fingerprint_is_of_all_that_grades(tmp_path: Path) -> None:
    with open_engine(tmp_path, scoring(1)) as engine:
        assert engine.fingerprint(assignment()) == engine.fingerprint(assignment())
        assert engine.fingerprint(assignment()) != engine.fingerprint(assignment(max_score=20))


# --- what was tried ---------------------------------------------------------------------------


def test_what_was_tried_is_noted(tmp_path: Path) -> None:
    assert tried(tmp_path) == []
    for mark in ("a", "b", "a"):
        note_tried(tmp_path, mark)
    assert tried(tmp_path) == ["b", "a"]
    for n in range(300):
        note_tried(tmp_path, str(n))
    assert tried(tmp_path) == [str(n) for n in range(100, 300)]
    for damage in (b"", b"{}", b"[1, null]", b"[" * 100_000, b"\xff"):
        (tmp_path / "tried.json").write_bytes(damage)
        assert tried(tmp_path) == []
    note_tried(tmp_path / "gone", "a")
