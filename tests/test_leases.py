"""The watch over leases: when they are extended, what is lost is told once, and what others left is taken back.

Over a real store, with clocks that are a test's own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minitango.events import Event, Telling
from minitango.handle import Handles
from minitango.job import JobSpec, Lease, State
from minitango.leases import REAP, LeaseWatch
from minitango.observer import EngineObserver
from minitango.store.sqlite import SqliteStore
from minitango.workqueue import Running, WorkQueue
from tests.contract.test_store import Clock

LEASE_FOR = 30.0


class Shared(SqliteStore):
    """As if others were on the queue, too."""

    shared = True


class Bench:
    """A watch, and how it looks after what runs. `now` is its monotonic clock, which begins at its start."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.store = Shared(folder / "queue.db", clock=self.clock)
        self.handles = Handles(self.store, self.store.cancel)
        self.told: list[Event] = []
        self.work = WorkQueue(1)
        observer = EngineObserver(self.store, self.handles, Telling(self.told.append))
        self.now = time.monotonic()
        self.watch = LeaseWatch(self.store, self.work, observer, lease_for=LEASE_FOR)

    def run(self, student: str = "ada") -> Running:
        """An attempt that is under way here."""
        running = Running(self.claim(student), 1e9)
        self.work.give([running])
        assert self.work.take() is running
        return running

    def claim(self, student: str) -> Lease:
        self.store.submit([JobSpec("hw", student, "s" * 64, "i" * 64, key=student)])
        (lease,) = self.store.exchange(claim=1, lease_for=LEASE_FOR).leases
        return lease

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.clock.advance(seconds)

    def said(self, kind: str) -> list[str]:
        return [event.message for event in self.told if event.kind == kind]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def test_a_lease_is_extended_at_a_third_of_its_time_again_and_again(bench: Bench) -> None:
    """So that a store may be away for most of it, and the lease is still ours."""
    running = bench.run()
    for _ in range(4):
        bench.pass_time(bench.watch.due_in(bench.now))
        expires = bench.store.get(running.lease.job).expires
        assert expires is not None
        assert expires - bench.clock() > LEASE_FOR * 0.6
        bench.watch.look(bench.now)
        assert bench.store.get(running.lease.job).expires == bench.clock() + LEASE_FOR


def test_after_a_standstill_our_own_are_kept_before_others_are_taken_back(bench: Bench) -> None:
    """As when a lid was closed: the server's clock went on, and ours may not have."""
    running = bench.run()
    left = bench.claim("left by another")
    bench.clock.advance(8 * 3600)
    bench.watch.look(bench.now + 1)
    assert bench.watch.due_in(bench.now + 1) > 0
    assert bench.store.get(running.lease.job).state is State.RUNNING
    assert bench.store.get(left.job).state is State.QUEUED
    assert bench.store.extend([running.lease]) == ()
    assert running.stop.why is None


def test_others_are_looked_for_now_and_then_however_often_one_looks(bench: Bench) -> None:
    bench.watch.look(bench.now)
    left = bench.claim("left by another")
    bench.clock.advance(LEASE_FOR + 1)
    for _ in range(9):
        bench.now += REAP / 10
        bench.watch.look(bench.now)
    assert bench.store.get(left.job).state is State.RUNNING
    bench.now += REAP / 5
    bench.watch.look(bench.now)
    assert bench.store.get(left.job).state is State.QUEUED


def test_a_lease_that_was_lost_is_told_of_once(bench: Bench) -> None:
    """Though the attempt takes long to end, and its lease is asked for again meanwhile."""
    running = bench.run()
    bench.store.recover()  # as another would that took this engine for dead
    for _ in range(3):
        bench.pass_time(LEASE_FOR / 3 + 1)
        bench.watch.look(bench.now)
        assert running.stop.why == "lost"
    (said,) = bench.said("lease_lost")
    assert f"attempt 1 of job {running.lease.job} was taken over; it ends" in said


def test_who_waits_for_a_job_that_ends_as_it_is_taken_back_is_told(bench: Bench) -> None:
    """Nobody else would tell them: it is our own exchange, of which a watch hears nothing."""
    left = bench.claim("left by another")
    handle = bench.handles.get(left.job)
    bench.store.cancel(left.job)
    bench.clock.advance(LEASE_FOR + 1)
    bench.watch.look(bench.now)
    assert handle.cancelled()
    assert [event.kind for event in bench.told] == ["cancelled"]
