"""Engine, over a real store and blobs, with a sandbox whose inside is a function."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import re
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minitango import (
    Assignment,
    ConfigError,
    Engine,
    EngineRunning,
    EngineStopped,
    Event,
    JobDead,
    JobHandle,
    JobNotFound,
    Outcome,
    SandboxFailed,
    SandboxUnavailable,
    State,
    Step,
    StoreError,
    Submission,
    pool,
)
from minitango.cli.gradebook import latest
from minitango.errors import MinitangoError
from minitango.sandbox import BoxSpec, End
from minitango.store import open_store
from minitango.testing import FakeBox, FakeRun, FakeSandbox
from tests.support import PATIENCE, Gate, assignment, blobs_of, eventually, open_engine, report, scoring, submission


def test_a_submission_is_graded(tmp_path: Path) -> None:
    with open_engine(tmp_path, scoring(7)) as engine:
        result = engine.submit(submission()).result(PATIENCE)
    assert (result.outcome, result.score, result.max_score) == (Outcome.GRADED, 7, 10)
    assert result.sandbox == "fake"


def test_many_are_graded_each_for_itself(tmp_path: Path) -> None:
    def inside(run: FakeRun) -> End:
        report(run, {"score": int(run.read("/job/answer.py"))})
        return End(exit_status=0)

    with open_engine(tmp_path, inside, workers=4) as engine:
        handles = engine.submit_many(submission(f"s{n}", str(n % 11).encode()) for n in range(100))
        scores = [handle.result(PATIENCE).score for handle in handles]
    assert scores == [n % 11 for n in range(100)]


def test_handles_are_futures(tmp_path: Path) -> None:
    called = threading.Event()
    with open_engine(tmp_path, scoring(1)) as engine:
        handles = engine.submit_many(submission(f"s{n}") for n in range(5))
        handles[0].add_done_callback(lambda _: called.set())
        assert {h.id for h in engine.as_completed(handles, PATIENCE)} == {h.id for h in handles}
        done, waiting = concurrent.futures.wait(handles, PATIENCE)
        assert len(done) == 5
        assert not waiting
        assert called.wait(PATIENCE)

        async def awaited() -> float | None:
            return (await asyncio.wrap_future(engine.submit(submission("eve")))).score

        assert asyncio.run(awaited()) == 1


def test_result_can_time_out(tmp_path: Path) -> None:
    gate = Gate()
    with open_engine(tmp_path, gate) as engine:
        handle = engine.submit(submission())
        gate.wait_entered()
        assert handle.running()
        with pytest.raises(TimeoutError):
            handle.result(0.01)
        gate.open.set()
        assert handle.result(PATIENCE).score == 10
        assert not handle.running()


def test_the_same_work_is_one_job_and_fresh_makes_another(tmp_path: Path) -> None:
    runs = []

    def inside(run: FakeRun) -> End:
        runs.append(run)
        return scoring(len(runs))(run)

    with open_engine(tmp_path, inside) as engine:
        first = engine.submit(submission())
        assert first.result(PATIENCE).score == 1
        again = engine.submit(submission())
        assert (again.id, again.created, again.result(PATIENCE).score) == (first.id, False, 1)
        assert engine.submit(submission("bob")).id != first.id
        assert engine.submit(submission(text=b"other")).id != first.id
        assert engine.submit(submission(of=assignment(max_score=20))).id != first.id
        fresh = engine.submit(submission(), fresh=True)
        assert fresh.id != first.id
        fresh.result(PATIENCE)
        assert fresh.job().supersedes == first.id


class Imaged(FakeSandbox):
    """A kind of sandbox whose images have digests."""

    def __init__(self, name: str = "fake", digest: str = "sha256:old") -> None:
        super().__init__(images={"": digest})
        self.name = name


@pytest.mark.parametrize(
    ("change", "sandbox"),
    [
        ({"of": assignment(max_score=20)}, Imaged()),
        ({"student": "bob"}, Imaged()),
        ({"text": b"print(2)\n"}, Imaged()),
        ({"course": "cs101"}, Imaged()),
        ({}, Imaged("other")),
        ({}, Imaged(digest="sha256:new")),
    ],
    ids=["plan", "student", "inputs", "course", "kind of sandbox", "image"],
)
def test_what_is_not_the_same_work_has_a_key_of_its_own(
    tmp_path: Path, change: dict[str, Any], sandbox: Imaged
) -> None:
    """Each of these alone makes another job, and the same change again is that job again."""
    with open_engine(tmp_path, scoring(1), sandbox=Imaged()) as engine:
        engine.preflight(assignment())
        first = engine.submit(submission())
        assert engine.submit(submission()).id == first.id
        assert engine.submit(submission(priority=3, labels={"section": "B"}, title="x")).id == first.id
        assert first.result(PATIENCE), "it is not left for the next engine"
    with open_engine(tmp_path, scoring(1), sandbox=sandbox) as engine:
        engine.preflight(assignment())
        changed = engine.submit(submission(**change))
        assert changed.created
        assert engine.submit(submission(**change)).id == changed.id != first.id


def test_an_image_that_moved_makes_other_work(tmp_path: Path) -> None:
    """For whoever submits it; and what was submitted before the image was known is the same work as after."""
    hw = assignment(steps=(Step(command=("grade",), image="gcc:14"),))

    def submitted(**options: Any) -> str:
        with Engine.open(tmp_path, workers=0, **options) as engine:
            return engine.submit(submission(of=hw)).id

    def graded(letter: str) -> JobHandle:
        sandbox = FakeSandbox(scoring(1), images={"gcc:14": f"sha256:{letter * 64}"})
        with open_engine(tmp_path, scoring(1), sandbox=sandbox) as engine:
            engine.preflight(hw)
            handle = engine.submit(submission(of=hw))
            assert handle.result(PATIENCE)
            with Engine.open(tmp_path, workers=0) as other:
                assert other.submit(submission(of=hw)).id == handle.id
        assert submitted() == handle.id
        return handle

    unknown = submitted(sandbox=FakeSandbox())
    first = graded("a")
    assert first.id == unknown
    assert first.result().image_digest == f"sha256:{'a' * 64}"
    second = graded("b")
    assert second.id != first.id
    assert second.result().image_digest == f"sha256:{'b' * 64}"
    with open_engine(tmp_path, scoring(1), sandbox=Imaged("other")):
        pass  # whose images are its own
    assert graded("b").id == second.id
    assert graded("a").id == first.id


@pytest.mark.parametrize(
    "images", ["5", "[]", '{"fake": 5}', '{"fake": {"": 5}}', '{"fake": {"": ["a"]}}', '{"fake": {"": ["a", 5]}}']
)
def test_a_note_of_images_that_makes_no_sense(tmp_path: Path, images: str) -> None:
    with open_engine(tmp_path, scoring(1)) as engine:
        first = engine.submit(submission())
    (tmp_path / "engine.json").write_text(f'{{"sandbox": "fake", "images": {images}}}')
    with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox()) as engine:
        assert engine.submit(submission()).id == first.id


def test_what_a_sandbox_says_of_its_images_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tells: list[Callable[[str], None]] = []

    def open_sandbox(name: str, *, image: str, tell: Callable[[str], None], **_: object) -> FakeSandbox:
        assert (name, image) == ("docker", "gcc:14")
        tell("pulling gcc:14")
        tells.append(tell)
        return FakeSandbox(scoring(1))

    monkeypatch.setattr("minitango.engine.open_sandbox", open_sandbox)
    early: list[Event] = []
    late: list[Event] = []
    with Engine.open(tmp_path, workers=1, sandbox="docker", image="gcc:14", on_event=early.append) as engine:
        engine.subscribe(late.append)
        tells[0]("pulled gcc:14")
    assert early == [Event("image", None, "pulling gcc:14"), Event("image", None, "pulled gcc:14")]
    assert late == early[1:]


def test_a_job_can_be_found_again_after_a_restart(tmp_path: Path) -> None:
    with open_engine(tmp_path, scoring(3)) as engine:
        first = engine.submit(submission()).id
        engine.drain(PATIENCE)
    with open_engine(tmp_path, scoring(9)) as engine:
        assert engine.job(first).result(PATIENCE).score == 3
        assert engine.job(first[:6]).id == first
        assert engine.submit(submission()).result(PATIENCE).score == 3
        with pytest.raises(JobNotFound):
            engine.job("nosuchjob1")


def test_queued_work_survives_an_engine_that_stops(tmp_path: Path) -> None:
    with Engine.open(tmp_path, workers=0) as engine:
        handles = engine.submit_many(submission(f"s{n}") for n in range(3))
    for handle in handles:
        with pytest.raises(EngineStopped):
            handle.result(PATIENCE)
    with open_engine(tmp_path, scoring(1)) as engine:
        assert engine.drain(PATIENCE)
        assert [engine.job(handle.id).result(0).score for handle in handles] == [1, 1, 1]


def test_stop_puts_running_jobs_back_uncharged(tmp_path: Path) -> None:
    gate = Gate()
    engine = open_engine(tmp_path, gate)
    handle = engine.submit(submission())
    gate.wait_entered()
    engine.stop(grace=0)
    with pytest.raises(EngineStopped):
        handle.result(PATIENCE)
    with open_engine(tmp_path, scoring(5)) as engine:
        assert engine.job(handle.id).result(PATIENCE).score == 5
        job = engine.store.get(handle.id)
        assert (job.attempt, job.failures, job.interruptions) == (2, 0, 0)


@pytest.mark.parametrize("kind", [SandboxFailed, SandboxUnavailable])
def test_stop_does_not_wait_for_a_sandbox_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[MinitangoError]
) -> None:
    """What opens a box cannot be killed; but the sandbox can be closed, and that is no fault of the job."""
    monkeypatch.setattr(pool, "LINGER", 0.1)
    opening, closed = threading.Event(), threading.Event()

    class Hanging(FakeSandbox):
        def open(self, spec: BoxSpec) -> FakeBox:
            if spec.token == "preflight":
                return super().open(spec)
            opening.set()
            assert closed.wait(PATIENCE)
            raise kind("the sandbox is closed")

        def close(self) -> None:
            closed.set()

    engine = Engine.open(tmp_path, sandbox=Hanging(), workers=1)
    handle = engine.submit(submission())
    assert opening.wait(PATIENCE)
    engine.stop(grace=0.05)
    with open_engine(tmp_path, scoring(5)) as engine:
        assert engine.job(handle.id).result(PATIENCE).score == 5
        assert engine.store.get(handle.id).failures == 0


def test_a_sandbox_that_cannot_be_closed_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of, once all else is closed."""
    monkeypatch.setattr(pool, "LINGER", 0.1)
    opening, closed = threading.Event(), threading.Event()

    class Hanging(FakeSandbox):
        def open(self, spec: BoxSpec) -> FakeBox:
            if spec.token == "preflight":
                return super().open(spec)
            opening.set()
            assert closed.wait(PATIENCE)
            raise SandboxFailed("the sandbox is closed")

        def close(self) -> None:
            closed.set()
            raise SandboxFailed("a box was killed, but did not die within 10 s")

    engine = Engine.open(tmp_path, sandbox=Hanging(), workers=1)
    handle = engine.submit(submission())
    assert opening.wait(PATIENCE)
    with pytest.raises(SandboxFailed, match="did not die"):
        engine.stop(grace=0.05)
    with pytest.raises(EngineStopped):
        handle.result(PATIENCE)
    with open_engine(tmp_path, scoring(5)) as engine:
        assert engine.job(handle.id).result(PATIENCE).score == 5


def test_stop_lets_running_jobs_end_within_the_grace(tmp_path: Path) -> None:
    gate = Gate()
    engine = open_engine(tmp_path, gate, workers=1)
    first, second = engine.submit_many([submission("a"), submission("b")])
    gate.wait_entered()
    stopping = threading.Thread(target=engine.stop, kwargs={"grace": PATIENCE})
    stopping.start()
    gate.open.set()
    stopping.join(PATIENCE)
    assert first.result(0).score == 10
    with pytest.raises(EngineStopped):
        second.result(0)
    engine.stop()  # again: nothing happens
    with pytest.raises(EngineStopped):
        engine.submit(submission())


def test_an_exception_that_leaves_the_block_puts_running_jobs_back_at_once(tmp_path: Path) -> None:
    gate = Gate()  # that nobody opens: a grace would be waited out

    def course() -> None:
        with open_engine(tmp_path, gate) as engine:
            engine.submit(submission())
            gate.wait_entered()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        course()
    with Engine.open(tmp_path, workers=0) as engine:
        (job,) = engine.jobs()
        assert (job.state, job.failures, job.interruptions) == (State.QUEUED, 0, 0)
        assert [attempt.ended_by for attempt in engine.store.attempts(job.id)] == ["release"]


def test_one_engine_a_state(tmp_path: Path) -> None:
    with open_engine(tmp_path, scoring(1)) as engine:
        with pytest.raises(EngineRunning) as caught:
            open_engine(tmp_path, scoring(2))
        assert caught.value.pid is not None
        with Engine.open(tmp_path, workers=0) as other:
            assert other.submit(submission()).result(PATIENCE).score == 1
        assert engine.drain(PATIENCE)
    with open_engine(tmp_path, scoring(1)):
        pass


def test_a_submit_from_another_process_is_graded_at_once(tmp_path: Path) -> None:
    script = """
        import sys
        from minitango import Engine
        from tests.support import submission
        with Engine.open(sys.argv[1], workers=0) as engine:
            print(engine.submit(submission("far")).result(20).score)
    """
    with open_engine(tmp_path, scoring(4)):
        out = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    assert out.stdout.strip() == "4.0"


# --- cancel -------------------------------------------------------------------------------------


def test_cancel_of_a_queued_job(tmp_path: Path) -> None:
    with Engine.open(tmp_path, workers=0) as engine:
        handle = engine.submit(submission())
        assert handle.cancel()
        assert handle.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            handle.result(0)
        assert handle.job().state is State.CANCELLED
        assert not engine.store.counts()[State.QUEUED]
        anew = engine.submit(submission())
        assert anew.id != handle.id


def test_cancel_of_a_running_job_kills_its_box(tmp_path: Path) -> None:
    gate = Gate()
    with open_engine(tmp_path, gate) as engine:
        handle = engine.submit(submission())
        gate.wait_entered()
        assert handle.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            handle.result(PATIENCE)
        assert handle.job().state is State.CANCELLED
        assert engine.store.result(handle.id) is None


def test_cancel_from_another_engine(tmp_path: Path) -> None:
    gate = Gate()
    with open_engine(tmp_path, gate) as engine:
        handle = engine.submit(submission())
        gate.wait_entered()
        with Engine.open(tmp_path, workers=0) as other:
            assert other.cancel(handle.id).cancel_requested
        with pytest.raises(concurrent.futures.CancelledError):
            handle.result(PATIENCE)


def test_cancel_of_a_done_job_changes_nothing(tmp_path: Path) -> None:
    with open_engine(tmp_path, scoring(2)) as engine:
        handle = engine.submit(submission())
        handle.result(PATIENCE)
        assert not handle.cancel()
        assert engine.cancel(handle.id).state is State.DONE


# --- failures of ours ---------------------------------------------------------------------------


class Failing(FakeSandbox):
    """A sandbox that fails to open some times, then works."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__(scoring(8))
        self.error = error
        self.left = times

    def open(self, spec: Any) -> Any:
        if self.left > 0 and spec.token != "preflight":
            self.left -= 1
            raise self.error
        return super().open(spec)


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off without the wait: due at once, tried at once."""
    monkeypatch.setattr("minitango.retry.backoff", lambda n, **_: 0.001)
    monkeypatch.setattr("minitango.breaker.backoff", lambda n, **_: 0.001)


@pytest.mark.usefixtures("_no_waiting")
def test_a_failure_of_ours_is_tried_again(tmp_path: Path) -> None:
    events: list[str] = []
    with open_engine(tmp_path, scoring(0), sandbox=Failing(SandboxFailed("broke"), 2)) as engine:
        engine.subscribe(lambda event: events.append(event.kind))
        handle = engine.submit(submission())
        assert handle.result(PATIENCE).score == 8
        job = handle.job()
    assert (job.attempt, job.failures) == (3, 2)
    assert events.count("retried") == 2


@pytest.mark.usefixtures("_no_waiting")
def test_after_three_failures_a_job_is_dead_and_that_is_no_zero(tmp_path: Path) -> None:
    with open_engine(tmp_path, scoring(0), sandbox=Failing(SandboxFailed("broke"), 3)) as engine:
        handle = engine.submit(submission())
        with pytest.raises(JobDead, match="broke"):
            handle.result(PATIENCE)
        assert (handle.job().state, handle.job().score, handle.job().outcome) == (State.DEAD, None, None)
        retried = engine.retry(handle.id)
        assert retried.result(PATIENCE).score == 8
        assert retried.job().supersedes == handle.id


@pytest.mark.usefixtures("_no_waiting")
def test_a_sandbox_that_is_away_charges_nobody(tmp_path: Path) -> None:
    kinds: list[str] = []
    sandbox = Failing(SandboxUnavailable("away"), 12)
    with open_engine(tmp_path, scoring(0), sandbox=sandbox, workers=2) as engine:
        engine.subscribe(lambda event: kinds.append(event.kind))
        handles = engine.submit_many(submission(f"s{n}") for n in range(4))
        monkey = [handle.result(PATIENCE).score for handle in handles]
        assert monkey == [8] * 4
        assert all(handle.job().failures == 0 for handle in handles)
    assert "paused" in kinds
    assert "resumed" in kinds


def test_retry_of_a_graded_job_grades_it_again(tmp_path: Path) -> None:
    scores = iter((3, 5, 7))
    with open_engine(tmp_path, lambda run: scoring(next(scores))(run)) as engine:
        first = engine.submit(submission())
        assert first.result(PATIENCE).score == 3
        second = engine.retry(first.id)
        assert second.created
        assert second.id != first.id
        assert second.result(PATIENCE).score == 5
        assert second.job().supersedes == first.id
        assert engine.job(first.id).result(0).score == 3, "what was recorded stays"
        assert engine.submit(submission()).id == second.id, "the same work is the newer job's now"
        assert engine.retry(first.id).job().supersedes == first.id


@pytest.mark.parametrize("pruned", [False, True])
def test_a_retry_does_not_overtake_what_was_handed_in_since(tmp_path: Path, pruned: bool) -> None:
    """Also once the job that it is in place of is gone."""
    scores = iter((3, 5, 7, 9, 1))
    with open_engine(tmp_path, lambda run: scoring(next(scores))(run), workers=1) as engine:

        def counts() -> float | None:
            if pruned:
                engine.store.forget([first.id])
            (job,) = latest(engine.jobs()).jobs
            return job.score

        first = engine.submit(submission(text=b"1"))
        second = engine.submit(submission(text=b"2"))
        assert [each.result(PATIENCE).score for each in (first, second)] == [3, 5]
        again = engine.retry(first.id)
        assert again.result(PATIENCE).score == 7
        assert counts() == 5
        assert engine.retry(again.id).result(PATIENCE).score == 9
        assert counts() == 5
        assert engine.submit(submission(text=b"1")).result(PATIENCE).score == 9
        assert counts() == 9, "it was handed in again"
        assert engine.retry(second.id).result(PATIENCE).score == 1
        assert counts() == 9


def test_retry_asks_for_a_job_that_has_ended(tmp_path: Path) -> None:
    with Engine.open(tmp_path, workers=0) as engine:
        handle = engine.submit(submission())
        with pytest.raises(ConfigError, match="queued") as caught:
            engine.retry(handle.id)
        assert caught.value.id == "not_ended"


def test_a_thread_that_dies_takes_the_engine_down_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(BaseException):
        pass

    def inside(run: FakeRun) -> End:
        raise Broken("a bug")

    events: list[Event] = []
    engine = open_engine(tmp_path, inside, on_event=events.append)
    handle = engine.submit(submission())
    with pytest.raises(EngineStopped, match="a bug"):
        handle.result(PATIENCE)
    with pytest.raises(EngineStopped):
        engine.wait()
    with pytest.raises(EngineStopped):
        engine.submit(submission("bob"))
    engine.stop()
    assert [event.kind for event in events if event.kind == "crashed"] == ["crashed"]
    assert "died" in caplog.text
    with open_engine(tmp_path, scoring(6)) as engine:  # and nothing is lost
        assert engine.job(handle.id).result(PATIENCE).score == 6


def test_the_producer_dying_takes_the_engine_down_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(tmp_path, scoring(1))
    monkeypatch.setattr(engine.store, "exchange", lambda *_, **__: 1 / 0)
    handle = engine.submit(submission())
    with pytest.raises(EngineStopped):
        handle.result(PATIENCE)
    engine.stop()


@pytest.mark.parametrize("solo", [False, True])
def test_a_record_that_is_damaged_is_told_as_dead_and_holds_nobody_up(tmp_path: Path, solo: bool) -> None:
    events: list[Event] = []
    with open_engine(tmp_path, scoring(1), on_event=events.append, paused=True) as engine:
        damaged, well = engine.submit(submission("ada")), engine.submit(submission("bob"))
        with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as db, db:
            db.execute("UPDATE jobs SET labels = '{', solo = ? WHERE id = ?", (solo, damaged.id))
        engine._observer.changed()  # it looks whether what is waited for is there
        engine.resume()
        assert well.result(PATIENCE).score == 1
        with pytest.raises(JobDead, match="damaged"):
            damaged.result(PATIENCE)
        eventually(lambda: "dead" in [event.kind for event in events])
        assert not [event for event in events if event.kind in ("store_trouble", "crashed")]


def test_store_trouble_loses_no_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(9)
    kinds: list[str] = []
    with open_engine(tmp_path, gate, on_event=lambda e: kinds.append(e.kind)) as engine:
        handle = engine.submit(submission())
        gate.wait_entered()
        real = engine.store.exchange
        left = 3

        def flaky(*args: Any, **more: Any) -> Any:
            nonlocal left
            if left:
                left -= 1
                raise StoreError("disk trouble")
            return real(*args, **more)

        monkeypatch.setattr(engine.store, "exchange", flaky)
        gate.open.set()
        assert handle.result(PATIENCE).score == 9
    assert kinds.count("store_trouble") == 1
    assert "resumed" in kinds


def test_an_exception_in_a_subscriber_goes_no_further(tmp_path: Path) -> None:
    with open_engine(tmp_path, scoring(1), on_event=lambda e: 1 / 0) as engine:
        assert engine.submit(submission()).result(PATIENCE).score == 1


# --- recovery -----------------------------------------------------------------------------------


def test_what_a_dead_engine_ran_is_run_again_uncharged(tmp_path: Path) -> None:
    with Engine.open(tmp_path, workers=0) as engine:
        handle = engine.submit(submission())
        engine.store.exchange(claim=1, node="dead")
    recovered: list[str] = []
    with open_engine(tmp_path, scoring(2), on_event=lambda e: recovered.append(e.kind)) as engine:
        assert engine.job(handle.id).result(PATIENCE).score == 2
        job = engine.store.get(handle.id)
    assert recovered[0] == "recovered"
    assert (job.failures, job.interruptions, job.attempt) == (0, 1, 2)


def test_a_poison_job_ends_dead_and_harms_nobody(tmp_path: Path) -> None:
    with Engine.open(tmp_path, workers=0) as engine:
        poison = engine.submit(submission("poison"))
        innocent = engine.submit(submission("innocent"))
        store = engine.store
        for _ in range(2):
            store.exchange(claim=2)
            store.recover()
        for _ in range(3):
            lease = store.exchange(claim=1, solo=True, now=store.now() + 100).leases[0]
            assert lease.job == poison.id
            store.recover()
        assert store.get(poison.id).state is State.DEAD
    with open_engine(tmp_path, scoring(1)) as engine:
        assert engine.job(innocent.id).result(PATIENCE).score == 1
        with pytest.raises(JobDead):
            engine.job(poison.id).result(0)


def test_a_lost_lease_ends_its_attempt_and_its_word_is_refused(tmp_path: Path) -> None:
    gate = Gate(1)
    kinds: list[str] = []
    with open_engine(tmp_path, gate, workers=1, on_event=lambda e: kinds.append(e.kind)) as engine:
        handle = engine.submit(submission())
        gate.wait_entered()
        engine.store.recover()  # as another engine would, had it proven us dead
        gate.open.set()
        assert handle.result(PATIENCE).score == 1
        assert engine.store.get(handle.id).attempt == 2
    assert "lease_lost" in kinds
    assert kinds.count("done") == 1


# --- opening ------------------------------------------------------------------------------------


def test_open_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers"):
        Engine.open(tmp_path, workers=-1)
    with pytest.raises(ConfigError, match="unknown sandbox"):
        Engine.open(tmp_path, workers=1, sandbox="chroot")
    with pytest.raises(ConfigError, match="scheme"):
        Engine.open("postgres://x/y", state=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        Engine.open(tmp_path / "file" / "state")
    with open_engine(tmp_path, scoring(1)) as engine:  # every failure above let go of the lock
        assert engine.drain(PATIENCE)


def test_the_state_directory_is_private(tmp_path: Path) -> None:
    where = tmp_path / "course" / "state"
    with Engine.open(where, workers=0):
        assert where.stat().st_mode & 0o777 == 0o700


def test_a_store_url_names_the_file(tmp_path: Path) -> None:
    with open_engine(f"sqlite:///{tmp_path}/sub/my.db", scoring(1)) as engine:
        engine.submit(submission()).result(PATIENCE)
    assert open_store(f"{tmp_path}/sub/my.db").counts()[State.DONE] == 1
    with Engine.open(f"sqlite:///{tmp_path}/sub/my.db", workers=0) as engine:
        large = engine.blobs.path(engine.blobs.put(bytes(1 << 20)))
    assert large.is_relative_to(tmp_path / "sub" / "blobs")


def test_priority_goes_first(tmp_path: Path) -> None:
    order: list[bytes] = []

    def inside(run: FakeRun) -> End:
        order.append(run.read("/job/answer.py"))
        return scoring(1)(run)

    with Engine.open(tmp_path, workers=0) as engine:
        engine.submit_many([submission("a", b"1"), submission("b", b"2"), submission("c", b"3", priority=5)])
    with open_engine(tmp_path, inside, workers=1) as engine:
        assert engine.drain(PATIENCE)
    assert order == [b"3", b"1", b"2"]


def test_drain_gives_up_in_time(tmp_path: Path) -> None:
    with Engine.open(tmp_path, workers=0) as engine:
        engine.submit(submission())
        assert not engine.drain(0.01)


def test_idle_engine_sleeps(tmp_path: Path) -> None:
    with open_engine(tmp_path, scoring(1)) as engine:
        engine.submit(submission()).result(PATIENCE)
        rounds = 0
        assert engine._grading is not None
        real = engine._grading._pool._exchange

        def counted(now: float) -> None:
            nonlocal rounds
            rounds += 1
            real(now)

        engine._grading._pool._exchange = counted  # type: ignore[method-assign]
        threading.Event().wait(1.2)
    assert rounds <= 5, "an idle producer wakes about once a second, not in a loop"


def test_inputs_are_fixed_at_submit(tmp_path: Path) -> None:
    source = tmp_path / "answer.py"
    source.write_text("first")
    seen: list[bytes] = []

    def inside(run: FakeRun) -> End:
        seen.append(run.read("/job/answer.py"))
        return scoring(1)(run)

    with Engine.open(tmp_path / "s", workers=0) as engine:
        engine.submit(Submission(assignment(), student="ada", files=source))
    source.write_text("second")
    with open_engine(tmp_path / "s", inside) as engine:
        assert engine.drain(PATIENCE)
    assert seen == [b"first"]


def test_live_output_can_be_followed(tmp_path: Path) -> None:
    from minitango.output import live_path

    go = threading.Event()

    def inside(run: FakeRun) -> End:
        run.print(b"working\n")
        assert go.wait(PATIENCE)
        return scoring(1)(run)

    with open_engine(tmp_path, inside) as engine:
        handle = engine.submit(submission())
        path = live_path(tmp_path, handle.id)
        eventually(lambda: path.exists() and path.read_bytes() == b"working\n")
        go.set()
        handle.result(PATIENCE)
        assert handle.outputs()[0].head == b"working\n"
        eventually(lambda: not path.exists())


def test_public_names() -> None:
    import minitango
    from minitango import errors

    assert minitango.__all__ == sorted(set(minitango.__all__))
    for name in minitango.__all__:
        assert getattr(minitango, name).__module__.startswith("minitango")
        assert getattr(minitango, name).__doc__, name
    public = set(minitango.__all__)
    assert {name for name, value in vars(errors).items() if isinstance(value, type)} <= public
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    used = [name for names in re.findall(r"from minitango import ([\w, ]+)", readme) for name in names.split(", ")]
    assert len(used) >= 3
    assert set(used) <= public


def test_prune_keeps_what_jobs_need(tmp_path: Path) -> None:
    with open_engine(tmp_path, scoring(5)) as engine:
        handle = engine.submit(submission())
        handle.result(PATIENCE)
        loose = engine.blobs.put(b"needed by nobody")
        assert engine.prune(older_than=3600).count == 0, "too young"
        assert engine.prune(older_than=-1).count == 1
        assert not engine.blobs.has(loose)
        assert engine.retry(handle.id).result(PATIENCE).score == 5
        engine.store.forget([handle.id])


def test_a_thousand_submissions_share_one_bundle(tmp_path: Path) -> None:
    root = tmp_path / "assignment"
    (root / "grader").mkdir(parents=True)
    (root / "grader" / "data.bin").write_bytes(bytes(range(256)) * 4096)
    one = Assignment("big", (Step(command=("grade",), files=("grader/",)),), root=root)
    with Engine.open(tmp_path / "state", workers=0) as engine:
        handles = engine.submit_many(Submission(one, f"s{n}", {"answer": b"%d" % n}) for n in range(1000))
        assert len({handle.id for handle in handles}) == 1000
    (large,) = [path for path in (tmp_path / "state" / "blobs").rglob("*") if path.is_file()]
    assert large.stat().st_size > 1 << 20
    digests = blobs_of(tmp_path / "state")
    assert len(digests) == 1000 + 2, "a blob for each hand-in, one for the grader's files, one for the plan"


def test_what_was_only_submitted_is_not_graded_twice_by_a_run(tmp_path: Path) -> None:
    box = FakeSandbox(scoring(1))
    with Engine.open(tmp_path, workers=0, sandbox=box) as engine:
        queued = engine.submit(submission())
    with Engine.open(tmp_path, workers=1, sandbox=box) as engine:
        assert engine.submit(submission()).id == queued.id
    with Engine.open(tmp_path, workers=0) as engine:  # knows what graded here before
        assert engine.submit(submission()).id == queued.id


@pytest.mark.parametrize("workers", [-1, "2", 1.5, True, 10**6])
def test_a_wrong_number_of_workers_is_named(tmp_path: Path, workers: Any) -> None:
    with pytest.raises(ConfigError, match="workers is"):
        Engine.open(tmp_path, workers=workers)


def test_wrong_arguments_get_typed_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="store is None"):
        Engine.open(None)  # type: ignore[arg-type]
    with Engine.open(tmp_path, workers=0) as engine:
        with pytest.raises(ConfigError, match="not a Submission") as caught:
            engine.submit("ada.py")  # type: ignore[arg-type]
        assert caught.value.id == "not_a_submission"
        with pytest.raises(JobNotFound, match="5"):
            engine.job(5)  # type: ignore[arg-type]


def test_work_whose_cancel_is_under_way_is_graded_anew(tmp_path: Path) -> None:
    gate = Gate(6)
    with open_engine(tmp_path, gate) as engine:
        old = engine.submit(submission())
        gate.wait_entered()
        engine.store.cancel(old.id)
        new = engine.submit(submission())
        assert new.id != old.id
        gate.open.set()
        assert new.result(PATIENCE).score == 6


# --- what a store that stumbles, or a stop at the wrong moment, must not lose ---------------------


def test_a_release_reaches_a_job_whose_claim_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(tmp_path, Gate(), workers=1)
    real = engine.store.exchange
    claiming, stopped = threading.Event(), threading.Event()

    def slow(*args: Any, **more: Any) -> Any:
        out = real(*args, **more)
        if out.leases:
            claiming.set()
            assert stopped.wait(PATIENCE)
        return out

    monkeypatch.setattr(engine.store, "exchange", slow)
    handle = engine.submit(submission())
    assert claiming.wait(PATIENCE)
    engine.request_stop(release=True)
    stopped.set()
    engine.stop(grace=PATIENCE)  # ends long before: nobody opens the gate
    with Engine.open(tmp_path, workers=0) as other:
        assert other.store.get(handle.id).state is State.QUEUED


def test_a_store_error_while_a_start_is_told_loses_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_engine(tmp_path, scoring(4), on_event=lambda _: None) as engine:
        real = engine.store.get
        failures = iter([StoreError("unreadable")])

        def flaky(id: str) -> Any:
            for error in failures:
                raise error
            return real(id)

        monkeypatch.setattr(engine.store, "get", flaky)
        assert engine.submit(submission()).result(PATIENCE).score == 4


def test_a_cancel_outlives_a_store_that_cannot_be_read_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    with open_engine(tmp_path, gate) as engine:
        handle = engine.submit(submission())
        gate.wait_entered()
        real = engine.store.cancel_requested
        failures = iter([StoreError("unreadable"), StoreError("unreadable")])

        def flaky() -> list[str]:
            for error in failures:
                raise error
            return real()

        monkeypatch.setattr(engine.store, "cancel_requested", flaky)
        handle.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            handle.result(PATIENCE)


def test_a_stop_from_one_of_its_own_threads_says_so_and_stops(tmp_path: Path) -> None:
    said: list[BaseException] = []
    over = threading.Event()
    engine = open_engine(tmp_path, scoring(1))

    def stop(_: object) -> None:
        try:
            engine.stop()
        except RuntimeError as error:
            said.append(error)
        over.set()

    gate_open = engine.submit(submission())
    gate_open.add_done_callback(stop)
    assert over.wait(PATIENCE)
    engine.wait()
    engine.stop()
    assert not said or "request_stop" in str(said[0])


def test_a_handle_made_after_a_crash_does_not_wait_for_ever(tmp_path: Path) -> None:
    class Broken(BaseException):
        pass

    def inside(run: FakeRun) -> End:
        raise Broken("a bug")

    engine = open_engine(tmp_path, inside)
    handle = engine.submit(submission())
    with pytest.raises(EngineStopped):
        handle.result(PATIENCE)
    with pytest.raises(EngineStopped):
        engine.job(handle.id).result(PATIENCE)
    engine.stop()


def test_what_was_graded_in_another_sandbox_is_not_passed_off_as_alike(tmp_path: Path) -> None:
    """Queued for one kind, graded in another: it is that other's work, and the first is still to be done."""

    class Other(FakeSandbox):
        name = "other"

    with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox()) as engine:
        queued = engine.submit(submission())
    with Engine.open(tmp_path, workers=1, sandbox=Other(scoring(3))) as engine:
        assert engine.job(queued.id).result(PATIENCE).sandbox == "other"
        assert engine.submit(submission()).id == queued.id
    with open_engine(tmp_path, scoring(7)) as engine:
        again = engine.submit(submission())
        assert again.id != queued.id
        assert (again.result(PATIENCE).score, again.result().sandbox) == (7, "fake")
        assert engine.submit(submission()).id == again.id


def test_what_was_graded_in_another_image_is_not_passed_off_as_alike(tmp_path: Path) -> None:
    def images(digest: str) -> FakeSandbox:
        return FakeSandbox(scoring(1), images={"": digest})

    with Engine.open(tmp_path, workers=1, sandbox=images("sha256:1")) as engine:
        first = engine.submit(submission("ada"))
        assert first.result(PATIENCE).image_digest == "sha256:1"
    with Engine.open(tmp_path, workers=0, sandbox=images("sha256:1")) as engine:
        queued = engine.submit(submission("bob"))
    with Engine.open(tmp_path, workers=1, sandbox=images("sha256:2")) as engine:
        assert engine.job(queued.id).result(PATIENCE).image_digest == "sha256:2"
    with Engine.open(tmp_path, workers=1, sandbox=images("sha256:1")) as engine:
        engine.preflight(assignment())
        again = engine.submit(submission("bob"))
        assert again.id != queued.id
        assert again.result(PATIENCE).image_digest == "sha256:1"
        assert engine.submit(submission("ada")).id == first.id
