"""Handles: whatever comes between a submit, a job's end, a cancel and a stop, a handle gives the job's one answer.

Over a real store. Jobs are ended by a second store object, as another process would; who tells the handles, and when,
is the test's own choice.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from minitango import Engine, EngineStopped, JobDead, JobNotFound, Outcome, Result, State, StoreError
from minitango.events import Event, Telling
from minitango.handle import Handles, JobHandle
from minitango.job import Cancelled, Fail, Failure, Finish, Job, JobSpec, Lease
from minitango.observer import EngineObserver
from minitango.store import Store, Submitted, open_store
from tests import redis_server
from tests.support import PATIENCE, eventually, open_engine, scoring, submission

GRADED = Result(Outcome.GRADED, score=7, max_score=10)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"{tmp_path}/queue.db")
    yield opened
    opened.close()


@pytest.fixture
def elsewhere(tmp_path: Path, store: Store) -> Iterator[Store]:
    """The same store, as another process has it."""
    opened = open_store(f"{tmp_path}/queue.db")
    yield opened
    opened.close()


@pytest.fixture
def handles(store: Store) -> Handles:
    return Handles(store, store.cancel)


def spec(student: str = "ada", **more: Any) -> JobSpec:
    return JobSpec("hw", student, spec="a" * 64, inputs="b" * 64, **more)


def claim(store: Store) -> Lease:
    (lease,) = store.exchange(claim=1).leases
    return lease


def finish(store: Store, result: Result = GRADED) -> None:
    """Grade the job that is next."""
    (job,) = store.exchange([Finish(claim(store), result)]).settled
    assert job.state is State.DONE


# --- between submit and the handle's being known --------------------------------------------------


@pytest.mark.parametrize("verb", ["follow", "settle"])
def test_a_job_that_ends_before_its_handle_is_known_resolves(
    store: Store, elsewhere: Store, handles: Handles, verb: str
) -> None:
    """It is graded while `submit` has not returned yet, and its end is told at that very moment."""
    threads: list[threading.Thread] = []

    def write() -> Sequence[Submitted]:
        written = store.submit([spec()])
        finish(elsewhere)
        job = elsewhere.get(written[0].id)
        tell = handles.follow if verb == "follow" else lambda: handles.settle(job, GRADED)
        threads.append(threading.Thread(target=tell, daemon=True))
        threads[0].start()
        threads[0].join(PATIENCE)
        assert not threads[0].is_alive(), "who tells of ends does not wait for a submission"
        return written

    (handle,) = handles.submit(write)
    assert handle.result(PATIENCE) == GRADED
    assert not handles._early


@pytest.mark.parametrize("verb", ["follow", "settle"])
def test_of_two_submissions_at_once_each_hears_of_its_own(
    store: Store, elsewhere: Store, handles: Handles, verb: str
) -> None:
    inner: list[JobHandle] = []

    def write() -> Sequence[Submitted]:
        written = store.submit([spec("outer")])
        inner.extend(handles.submit(lambda: store.submit([spec("inner")])))
        for _ in range(2):
            finish(elsewhere)
        if verb == "follow":
            handles.follow()
        else:
            for one in (inner[0].id, written[0].id):
                handles.settle(elsewhere.get(one), GRADED)
        return written

    (outer,) = handles.submit(write)
    assert outer.result(PATIENCE) == inner[0].result(PATIENCE) == GRADED


def test_a_submission_beside_a_server_that_went_back_in_time_resolves(
    store: Store, elsewhere: Store, handles: Handles
) -> None:
    def write() -> Sequence[Submitted]:
        written = store.submit([spec()])
        finish(elsewhere)
        handles._cursor, handles._last = 99, "a job that is no more"
        handles.follow()
        return written

    (handle,) = handles.submit(write)
    assert handle.result(PATIENCE) == GRADED


def test_a_submission_that_fails_leaves_nothing_behind(store: Store, elsewhere: Store, handles: Handles) -> None:
    def write() -> Sequence[Submitted]:
        store.submit([spec()])
        finish(elsewhere)
        handles.follow()
        raise StoreError("gone", id="store_io")

    with pytest.raises(StoreError):
        handles.submit(write)
    assert not handles._early
    (handle,) = handles.submit(lambda: store.submit([spec("bob")]))
    finish(elsewhere)
    handles.follow()
    assert handle.result(PATIENCE) == GRADED


def test_a_job_that_another_engine_ends_at_once_resolves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_engine(tmp_path, scoring(6), workers=1), Engine.open(tmp_path, workers=0) as watcher:
        real = watcher.store.submit

        def slow(*args: Any, **more: Any) -> list[Submitted]:
            written = real(*args, **more)
            eventually(lambda: watcher.store.get(written[0].id).state is State.DONE)
            return written

        monkeypatch.setattr(watcher.store, "submit", slow)
        assert watcher.submit(submission()).result(PATIENCE).score == 6


def test_the_same_work_done_before_resolves_at_once(store: Store, elsewhere: Store, handles: Handles) -> None:
    (first,) = handles.submit(lambda: store.submit([spec(key="k")]))
    assert (first.created, first.ended_before, first.done()) == (True, False, False)
    finish(elsewhere)
    (again,) = handles.submit(lambda: store.submit([spec(key="k")]))
    assert (again.id, again.created, again.ended_before) == (first.id, False, True)
    assert again.result(0) == GRADED
    assert handles.get(first.id).result(0) == GRADED
    handles.follow()
    assert first.result(0) == GRADED


# --- how a job ends -------------------------------------------------------------------------------


def test_each_way_to_end(store: Store, elsewhere: Store, handles: Handles) -> None:
    done, dead, cancelled, waiting = handles.submit(lambda: store.submit([spec(s) for s in "abcd"]))
    finish(elsewhere)
    elsewhere.exchange([Fail(claim(elsewhere), Failure("x", "it broke", "mend it"), retry=False)])
    lease = claim(elsewhere)
    elsewhere.cancel(lease.job)
    elsewhere.exchange([Cancelled(lease)])
    handles.follow()
    assert done.result(0) == GRADED
    with pytest.raises(JobDead, match="it broke") as caught:
        dead.result(0)
    assert (caught.value.id, caught.value.hint) == ("job_dead", "mend it")
    assert cancelled.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        cancelled.result(0)
    assert not waiting.done()


def test_every_handle_of_a_job_resolves(store: Store, elsewhere: Store, handles: Handles) -> None:
    (first,) = handles.submit(lambda: store.submit([spec()]))
    second = handles.get(first.id)
    finish(elsewhere)
    handles.settle(store.get(first.id))
    assert first.result(0) == second.result(0) == GRADED


def test_following_goes_on_to_the_last_that_ended(
    store: Store, elsewhere: Store, handles: Handles, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = handles.submit(lambda: store.submit([spec(str(n)) for n in range(5)]))
    real = store.ended_since
    monkeypatch.setattr(store, "ended_since", lambda cursor: real(cursor, limit=2))
    for n in range(5):
        finish(elsewhere, Result(Outcome.GRADED, score=n))
    handles.follow()
    assert [handle.result(0).score for handle in made] == list(range(5))


@pytest.mark.parametrize("opened", ["before", "after"])
@pytest.mark.parametrize("again", [0, 1, 2, 3])
def test_a_server_that_went_back_in_time_leaves_no_handle_waiting(opened: str, again: int) -> None:
    """It lost what two jobs ended with; `again` of the four that it has left end before that is noticed."""
    redis_server.need_redis()
    redis_server.shared().client().flushall()
    client, url = redis_server.shared().client(), redis_server.shared().url()
    with contextlib.closing(open_store(url)) as store, contextlib.closing(open_store(url)) as elsewhere:
        handles = Handles(store, store.cancel)
        made = handles.submit(lambda: store.submit([spec(str(n)) for n in range(6)]))
        finish(elsewhere)
        handles.follow()
        before = {key: client.dump(key) for key in client.scan_iter()}
        (late,) = handles.submit(lambda: store.submit([spec("late")]))
        finish(elsewhere)
        finish(elsewhere)
        handles.follow()
        waiting = made[3:]
        if opened == "after":
            handles = Handles(store, store.cancel)
            *waiting, late = [handles.get(handle.id) for handle in [*waiting, late]]
        client.flushall()
        for key, value in before.items():
            client.restore(key, 0, value)
        leases = [claim(elsewhere) for _ in range(5)]
        for lease in leases[5 - again :]:
            elsewhere.exchange([Finish(lease, GRADED)])
        handles.follow()
        assert [handle.done() for handle in waiting] == [False] * (3 - again) + [True] * again
        with pytest.raises(JobNotFound):
            late.result(0)
        for lease in leases[: 5 - again]:
            elsewhere.exchange([Finish(lease, GRADED)])
        handles.follow()
        assert [handle.result(0) for handle in waiting] == [GRADED] * 3


def test_a_server_that_lost_all_before_any_job_had_ended_leaves_no_handle_waiting() -> None:
    redis_server.need_redis()
    client, url = redis_server.shared().client(), redis_server.shared().url()
    client.flushall()
    with contextlib.closing(open_store(url)) as store:
        handles = Handles(store, store.cancel)
        (lost,) = handles.submit(lambda: store.submit([spec("a")]))
        handles.follow()
        assert not lost.done()
        client.flushall()
        handles.follow()
        with pytest.raises(JobNotFound):
            lost.result(0)


def test_a_last_job_that_was_forgotten_is_no_reason_to_look_at_all_again_and_again(
    store: Store, elsewhere: Store, handles: Handles, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = handles.submit(lambda: store.submit([spec("a"), spec("b")]))
    finish(elsewhere)
    handles.follow()
    elsewhere.forget([first.id])
    handles.follow()
    monkeypatch.setattr(store, "get", None)
    handles.follow()
    assert not second.done()
    finish(elsewhere)
    handles.follow()
    assert second.result(0) == GRADED


@pytest.mark.parametrize(("verb", "then"), [("follow", "follow"), ("settle", "settle"), ("settle", "follow")])
def test_a_store_that_fails_for_a_moment_loses_no_handle(
    store: Store, elsewhere: Store, handles: Handles, monkeypatch: pytest.MonkeyPatch, verb: str, then: str
) -> None:
    first, second = made = handles.submit(lambda: store.submit([spec("a"), spec("b")]))
    finish(elsewhere)
    finish(elsewhere)
    tell: Callable[[], None] = handles.follow
    if verb == "settle":

        def tell() -> None:
            for handle in made:
                handles.settle(store.get(handle.id))

    real = store.result

    def flaky(id: str) -> Result | None:
        if id == second.id:
            raise StoreError("disk trouble")
        return real(id)

    with monkeypatch.context() as patched:
        patched.setattr(store, "result", flaky)
        with pytest.raises(StoreError, match="disk trouble"):
            tell()
        assert not second.done()
    tell() if then == verb else handles.follow()
    assert [handle.result(0) for handle in (first, second)] == [GRADED, GRADED]


def test_what_ended_while_the_store_failed_is_looked_for_again_where_nothing_grades(
    store: Store, elsewhere: Store, handles: Handles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch does not tell of it another time. Whoever waits for the queue is woken, once that is known."""
    monkeypatch.setattr("minitango.observer._AGAIN", 0.0)
    told: list[Event] = []
    observer = EngineObserver(store, handles, Telling(told.append))
    (handle,) = handles.submit(lambda: store.submit([spec()]))
    finish(elsewhere)
    real, failures, woken = store.ended_since, [StoreError("it is away", id="store_busy")] * 2, list[bool]()

    def failing(cursor: int, *, limit: int = 1000) -> list[Job]:
        if failures:
            raise failures.pop()
        return real(cursor, limit=limit)

    monkeypatch.setattr(store, "ended_since", failing)
    monkeypatch.setattr(observer, "idle", lambda: woken.append(handle.done()))
    observer.look()
    assert handle.result(0) == GRADED
    assert woken == [True]
    assert [event.kind for event in told] == ["store_trouble", "resumed"]


def test_an_engine_that_stops_does_not_go_on_to_look(
    store: Store, handles: Handles, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = EngineObserver(store, handles, Telling(None))

    def failing(cursor: int, *, limit: int = 1000) -> list[Job]:
        if observer.stopped:
            raise RuntimeError("it was asked again")
        observer.stopped = True
        raise StoreError("it was closed", id="store_closed")

    monkeypatch.setattr("minitango.observer._AGAIN", 0.0)
    monkeypatch.setattr(store, "ended_since", failing)
    observer.look()
    assert observer.stopped
    assert observer.error is None


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_was_accepted_is_not_said_to_have_been_refused(
    store: Store, elsewhere: Store, handles: Handles, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Its job had ended, or ended at once, and its result cannot be read now: whoever submits again by that word, as
    something fresh, would have it graded twice."""
    if when == "before":
        store.submit([spec(key="k")])
        finish(elsewhere)

    def write() -> list[Submitted]:
        made = store.submit([spec(key="k")])
        if when == "meanwhile":
            finish(elsewhere)
            handles.follow()
        return made

    def away(id: str) -> Result | None:
        raise StoreError("it is away", id="store_unreachable")

    with monkeypatch.context() as patched:
        patched.setattr(store, "result", away)
        (handle,) = handles.submit(write)
        with pytest.raises(StoreError, match="it is away"):
            handle.result(0)
    assert handles.get(handle.id).result(0) == GRADED


# --- cancel ---------------------------------------------------------------------------------------


def test_cancel_of_a_queued_job(store: Store, handles: Handles) -> None:
    (handle,) = handles.submit(lambda: store.submit([spec()]))
    assert handle.cancel()
    handles.follow()
    assert handle.cancelled()
    assert handle.cancel(), "again: it is cancelled"


def test_cancel_comes_too_late_for_a_job_that_was_done(store: Store, elsewhere: Store, handles: Handles) -> None:
    """Though its handle has not heard of it."""
    (handle,) = handles.submit(lambda: store.submit([spec()]))
    finish(elsewhere)
    assert not handle.done()
    assert not handle.cancel()
    handles.follow()
    assert handle.result(0) == GRADED
    assert not handle.cancel()
    assert not handle.cancelled()


def test_cancel_that_a_result_outran(store: Store, elsewhere: Store, handles: Handles) -> None:
    (handle,) = handles.submit(lambda: store.submit([spec()]))
    lease = claim(elsewhere)
    assert handle.cancel(), "it is asked for, and nothing speaks against it yet"
    assert not handle.done(), "it is not so before the sandbox is gone"
    elsewhere.exchange([Finish(lease, GRADED)])
    assert handle.job().cancel_requested
    assert not handle.cancel(), "the result won the race"
    handles.follow()
    assert handle.result(0) == GRADED
    assert not handle.cancel()


def test_cancel_in_an_engine_that_only_watches(tmp_path: Path) -> None:
    with (
        Engine.open(tmp_path, workers=0) as engine,
        contextlib.closing(open_store(f"{tmp_path}/queue.db")) as elsewhere,
    ):
        outrun, late = engine.submit_many([submission("a"), submission("b")])
        lease = claim(elsewhere)
        assert outrun.cancel()
        elsewhere.exchange([Finish(lease, GRADED)])
        finish(elsewhere)
        assert not late.cancel()
        assert not outrun.cancel()
        assert [handle.result(PATIENCE) for handle in (outrun, late)] == [GRADED, GRADED]


# --- the end of an engine -------------------------------------------------------------------------


def test_who_waits_when_the_engine_ends_is_told(store: Store, elsewhere: Store, handles: Handles) -> None:
    done, waiting = handles.submit(lambda: store.submit([spec("a"), spec("b")]))
    finish(elsewhere)
    handles.follow()
    error = EngineStopped("it died")
    handles.fail(error)
    assert done.result(0) == GRADED
    assert waiting.exception(0) is error


def test_who_comes_after_the_engine_ended_is_told_the_first_reason(
    store: Store, elsewhere: Store, handles: Handles
) -> None:
    (done,) = handles.submit(lambda: store.submit([spec("a")]))
    finish(elsewhere)
    handles.follow()
    died = EngineStopped("it died")
    handles.fail(died)
    handles.fail(EngineStopped("it was stopped"))
    (late,) = handles.submit(lambda: store.submit([spec("b")]))
    assert late.exception(0) is died
    assert handles.get(late.id).exception(0) is died
    assert handles.get(done.id).result(0) == GRADED, "what is known is told"


def test_what_is_settled_here_is_not_read_again(
    store: Store, elsewhere: Store, handles: Handles, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = handles.submit(lambda: store.submit([spec(str(n)) for n in range(4)]))
    for n in range(2):
        finish(elsewhere, Result(Outcome.GRADED, score=n))
        handles.settle(store.get(made[n].id))
    read: list[int] = []
    real = store.ended_since

    def note(cursor: int, **how: int) -> list[Job]:
        jobs = real(cursor, **how)
        read.append(len(jobs))
        return jobs

    monkeypatch.setattr(store, "ended_since", note)
    handles.follow()
    assert read == [1], "the last that is known, and nothing else"
    for n in (2, 3):
        finish(elsewhere, Result(Outcome.GRADED, score=n))
    handles.settle(store.get(made[3].id))  # out of order: what came between is still to be read
    handles.follow()
    assert [handle.result(0).score for handle in made] == list(range(4))


def test_a_damaged_record_among_those_that_are_looked_at_one_by_one(tmp_path: Path) -> None:
    """As after a failover, when the numbers of what ended say nothing."""
    with Engine.open(tmp_path, workers=0) as engine:
        damaged, well, queued = (engine.submit(submission(name, name.encode())) for name in ("ada", "bob", "eve"))
        for lease in engine.store.exchange(claim=2).leases:
            engine.store.exchange([Cancelled(lease)])
        with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as db, db:
            db.execute("UPDATE jobs SET labels = '{' WHERE id IN (?, ?)", (damaged.id, queued.id))
        engine._handles._cursor, engine._handles._last = 99, "another"
        engine._handles.follow()
        assert damaged.cancelled()
        assert well.cancelled()
        assert not queued.done()
