"""Many at once: processes that claim, cancels that meet results, and stops that meet both."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from minitango.bell import wait_for
from minitango.job import State
from minitango.sandbox import End
from minitango.store import Query
from minitango.testing import FakeRun
from tests.e2e.conftest import environment
from tests.faults.child import assignment, hand_ins
from tests.faults.harness import LONG, SLACK, Place, done, eventually, leftovers, running
from tests.support import need_bubblewrap, open_engine

ROOT = Path(__file__).parents[2]

GRADER = """
import sys
from minitango.job import Finish, JobSpec, Outcome, Result
from minitango.store import open_store
store = open_store(sys.argv[1])
store.submit([JobSpec("hw", sys.argv[2], "s", "i") for _ in range(int(sys.argv[3]))])
mine, acks = [], []
print("ready", flush=True)
sys.stdin.readline()
while True:
    done = store.exchange(acks, claim=3, node=sys.argv[2])
    assert not done.refused
    mine += [lease.job for lease in done.leases]
    acks = [Finish(lease, Result(Outcome.GRADED, 1, 1)) for lease in done.leases]
    if not acks:
        break
print(*mine)
"""


@pytest.mark.timeout(300)
def test_sixteen_processes_never_claim_a_job_twice_nor_find_it_locked(place: Place) -> None:
    each, processes = (625 if LONG else 50), 16
    store = place.store()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", GRADER, place.url, f"node{n}", str(each)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for n in range(processes)
    ]  # fmt: skip
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [child.communicate(timeout=100) for child in children]
    assert [error for _, error in answers if error] == []
    claimed = [job_id for out, _ in answers for job_id in out.split()]
    assert len(claimed) == len(set(claimed)) == each * processes
    assert len({out for out, _ in answers}) > 3, "they did run at the same time"
    jobs = store.list()
    assert len(jobs) == each * processes
    assert {(job.state, job.attempt) for job in jobs} == {(State.DONE, 1)}
    assert sorted(job.ended_seq or 0 for job in jobs) == list(range(1, len(jobs) + 1))


@pytest.mark.timeout(300)
def test_cancels_that_race_results(place: Place) -> None:
    """Each job ends once, as what was first; whoever waits for it hears the same; its box has ended."""
    jobs = 1000 if LONG else 100
    chance = random.Random(29)
    inside: set[object] = set()

    def briefly(run: FakeRun) -> End:
        inside.add(run)
        run.killed.wait(chance.uniform(0.0, 0.006))
        run.write(run.env["MINITANGO_REPORT"], b'{"score": %s}' % run.read("/job/answer"))
        inside.discard(run)
        return End(exit_status=0)

    settled: list[str] = []
    with (
        open_engine(
            place.url,
            briefly,
            state=place.state(),
            workers=4,
            on_event=lambda event: settled.append(event.job.id) if event.job and event.job.state.terminal else None,
        ) as engine,
        contextlib.closing(place),
    ):
        handles = engine.submit_many(hand_ins(assignment(), range(jobs)))
        other = place.submitter()
        for number, handle in enumerate(handles):
            if number % 8 == 0:
                eventually(lambda handle=handle: handle.job().state is not State.QUEUED, "it does not begin")  # type: ignore[misc]
            (engine if number % 2 else other).cancel(handle.id)
        heard = {}
        for handle in handles:
            with contextlib.suppress(CancelledError):
                heard[handle.id] = handle.result(60).score
        eventually(lambda: not inside, "a box goes on", timeout=5 + SLACK)
        store = engine.store
        found = store.list()
        states = [job.state for job in found]
        assert set(states) == {State.DONE, State.CANCELLED}, "the race was run"
        assert {job.id for job in found if job.state is State.DONE} == set(heard)
        assert sorted(job.ended_seq or 0 for job in found) == list(range(1, jobs + 1))
        for job in found:
            result = store.result(job.id)
            assert (result is not None) == (job.state is State.DONE)
            assert not result or result.score == heard[job.id] == int(job.student[1:])
            ends = [each.ended_by for each in store.attempts(job.id)]
            assert ends in ([], ["finish" if result else "cancelled"])
        assert store.cancel_requested() == []
        assert len(set(settled)) == len(settled), "an end was told twice"


# --- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_stop(place: Place, number: signal.Signals) -> None:
    """Nothing more is begun; what can end within the grace is recorded, the rest goes back uncharged."""
    need_bubblewrap()
    store = place.store()
    words = ["worker", "--store", place.url, "--state", str(place.state()), "--sandbox", "bubblewrap", "--workers", "2"]
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "minitango.cli", *words, "--grace", "3"],
        env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        course = place.submitter()
        (long,) = course.submit_many(hand_ins(assignment(19), [1]))
        quick = course.submit_many(hand_ins(assignment(1.0), range(2, 20)))
        eventually(lambda: done(store) >= 2, "it does not grade")

        def just_begun() -> bool:
            """Whether a quick one is under way that has most of its time before it: between two of them none is."""
            return any(
                job.id != long.id and job.started is not None and store.now() - job.started < 0.3
                for job in running(store)
            )

        eventually(just_begun, "it does not go on")
        told = store.now()
        worker.send_signal(number)
        _, said = worker.communicate(timeout=60)
        took = store.now() - told
    finally:
        worker.kill()
        worker.wait()
    assert worker.returncode == (130 if number == signal.SIGINT else 0), said
    assert 3 - 1 < took < 3 + 2 * SLACK
    attempts = [each for job in store.list() for each in store.attempts(job.id)]
    assert max(each.started for each in attempts) < told + 1.0, "it went on claiming"
    assert max(each.ended or 0.0 for each in attempts if each.ended_by == "finish") > told, "what ran was not let end"
    assert running(store) == []
    assert [each.ended_by for each in store.attempts(long.id)] == ["release"]
    assert {(job.failures, job.interruptions) for job in store.list()} == {(0, 0)}
    assert not leftovers(place.state(), [worker.pid])
    ended = {job.id for job in store.list(Query(states=(State.DONE,)))}
    course.cancel(long.id)
    place.node(workers=4)
    for handle in quick:
        handle.result(60)
    assert {job.state for job in store.list()} == {State.DONE, State.CANCELLED}
    assert {store.get(one).attempt for one in ended} == {1}, "graded once"


def test_twice_means_at_once(place: Place) -> None:
    need_bubblewrap()
    store = place.store()
    words = ["worker", "--store", place.url, "--state", str(place.state()), "--sandbox", "bubblewrap", "--workers", "2"]
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "minitango.cli", *words, "--grace", "60"],
        env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        place.submit([1, 2], seconds=19)
        eventually(lambda: len(place.printed()) == 0 and len(running(store)) == 2, "it does not grade")
        worker.send_signal(signal.SIGTERM)
        assert worker.stderr is not None
        while not worker.stderr.readline().count("stopping: "):  # two at once would be one
            assert worker.poll() is None
        begun = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)
        assert time.monotonic() - begun < 2 + SLACK
    finally:
        worker.kill()
        worker.wait()
    assert worker.returncode == 0
    assert {(job.state, job.failures, job.interruptions) for job in store.list()} == {(State.QUEUED, 0, 0)}
    assert not leftovers(place.state(), [worker.pid])


def test_a_signal_that_interrupts_another_thread_is_heard() -> None:
    """The system may choose which; Python runs the handler once the main thread goes on."""
    heard = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.set())
    other = threading.Timer(0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
    try:
        other.start()
        begun = time.monotonic()
        assert wait_for(heard, 30)
        assert time.monotonic() - begun < 10
    finally:
        other.join()
        signal.signal(signal.SIGUSR1, before)
    begun = time.monotonic()
    assert not wait_for(threading.Event(), 1.2), "and it goes on waiting"
    assert time.monotonic() - begun >= 1.2
