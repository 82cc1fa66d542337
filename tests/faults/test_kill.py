"""kill -9, again and again: nothing is lost, nothing is recorded twice, nobody is charged, nothing is left."""

from __future__ import annotations

import random
import signal
import time

import pytest

from minitango.job import SOLO_AFTER, State
from minitango.retry import MAX_SOLO_DEATHS
from tests.faults.harness import LONG, SLACK, Place, check, done, eventually, leftovers
from tests.support import need_bubblewrap

SOON = 5.0
"""Seconds within which an engine that starts is to have begun a job."""


@pytest.mark.timeout(1800 if LONG else 400)
def test_killed_again_and_again(place: Place) -> None:
    if place.kind == "sqlite":
        jobs, kills = (2000, 400) if LONG else (300, 25)
    else:
        jobs, kills = (2000, 400) if LONG else (150, 20)
    chance = random.Random(7)
    for number in range(kills):
        child = place.start(jobs=jobs, workers=4)
        child.expect("open")
        if number == 0:  # however slow this machine is, the others find jobs to run
            child.expect("queued")
        time.sleep(chance.uniform(0.01, 0.15))  # the fault's moment is the point of this test
        child.kill()
    place.finish(jobs, workers=4)
    found = check(place.store(), range(jobs))
    assert sum(job.interruptions for job in found) >= kills // 2, "the kills struck running jobs"


def test_work_goes_on_soon_after_each_start(place: Place) -> None:
    store = place.store()
    place.submit(range(40), seconds=0.2)
    for _ in range(4):
        before = done(store)
        begun = time.monotonic()
        child = place.node(seconds=0.2)
        eventually(lambda before=before: done(store) > before, "no job was graded after a start")  # type: ignore[misc]
        assert time.monotonic() - begun < SOON + SLACK
        child.kill()


def test_killed_with_real_sandboxes(place: Place) -> None:
    need_bubblewrap()
    jobs, kills = (60, 20) if LONG else (10, 3)
    chance = random.Random(11)
    killed: list[int] = []
    how = {"jobs": jobs, "sandbox": "bubblewrap", "seconds": 0.1}
    for _ in range(kills):
        child = place.start(**how)
        child.expect("open")
        eventually(lambda pid=child.pid: leftovers(place.state(), [pid]), "no box was started")  # type: ignore[misc]
        time.sleep(chance.uniform(0.0, 0.2))
        child.kill()
        killed.append(child.pid)
    place.finish(**how)
    found = check(place.store(), range(jobs))
    assert sum(job.interruptions for job in found) >= kills, "the kills struck running jobs"
    assert not leftovers(place.state(), killed), "a box outlived its engine"
    assert not list((place.state() / "boxes").rglob("*.json")), "the sweep left nothing"


@pytest.mark.timeout(300)
def test_a_poison_is_run_alone_and_then_given_up_and_harms_nobody(place: Place) -> None:
    """It kills its engine each time: after two deaths it is run alone, after three more it is dead."""
    jobs, poison = 12, 5
    store = place.store()
    deaths = 0
    while True:
        child = place.start(jobs=jobs, workers=3, poison=poison, seconds=0.05)
        if child.wait(100) == 0:
            break
        assert child.code == -signal.SIGKILL
        deaths += 1
        assert deaths <= SOLO_AFTER + MAX_SOLO_DEATHS
    (dead,) = [job for job in store.list() if job.student == f"s{poison}"]
    assert dead.state is State.DEAD
    assert dead.failure is not None
    assert dead.failure.id == "poison"
    assert (deaths, dead.failures, dead.interruptions) == (SOLO_AFTER + MAX_SOLO_DEATHS, 0, deaths)
    others = [job for job in store.list() if job.id != dead.id]
    assert len(others) == jobs - 1
    assert {(job.state, job.failures) for job in others} == {(State.DONE, 0)}
    alone = store.attempts(dead.id)[SOLO_AFTER:]
    for job in others:
        for attempt in store.attempts(job.id):
            for its in alone:
                assert attempt.ended is not None
                assert its.ended is not None
                assert attempt.ended <= its.started or attempt.started >= its.ended, "it was not alone"
