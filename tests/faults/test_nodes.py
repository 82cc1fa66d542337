"""Several nodes on one queue, as processes: killed, stopped and skewed; each job has one result, and no box is left."""

from __future__ import annotations

import random
import signal
import time

import pytest

from minitango.job import State
from minitango.store import _redis_link
from minitango.store.redis import RedisStore
from tests.faults.children import Child
from tests.faults.harness import LONG, SLACK, Place, check, done, eventually, leftovers, running
from tests.support import Gate, need_bubblewrap, open_engine, submission

LEASE = 3.0
SKEW = 0.5
"""Seconds by which our reading of the server's clock may be wrong."""
TAKEOVER = 5.0
"""Seconds after a dead node's lease within which others have its jobs."""


@pytest.mark.timeout(1800 if LONG else 300)
def test_four_nodes_killed_at_random(shared: Place) -> None:
    """Two grade in bubblewrap and two in a fake, so that both boxes and speed are there."""
    need_bubblewrap()
    jobs, kills = (2000, 60) if LONG else (180, 6)
    seconds = 0.1
    chance = random.Random(5)
    store = shared.store()
    names = ["one", "two", "three", "four"]
    pids: dict[str, list[int]] = {name: [] for name in names}
    deaths: dict[str, list[float]] = {name: [] for name in names}
    begins: dict[str, list[float]] = {name: [] for name in names}
    alive: dict[str, Child] = {}

    def begin(name: str) -> None:
        alive[name] = shared.start(
            name,
            sandbox="bubblewrap" if name in names[:2] else "fake",
            seconds=seconds,
            lease=LEASE,
            grace=10,
        )
        pids[name].append(alive[name].pid)
        begins[name].append(store.now())

    for name in names:
        begin(name)
    handles = shared.submit(range(jobs), seconds)
    for kill in range(kills):
        eventually(lambda kill=kill: done(store) >= kill * (jobs // (kills + 3)), "they grade nothing more")  # type: ignore[misc]
        victim = chance.choice(sorted(alive))
        alive.pop(victim).kill()
        deaths[victim].append(store.now())
        # Some come back at once, which take their own jobs back; of others the leases lapse.
        for name in names:
            if name not in alive and (name != victim or chance.random() < 0.3) and chance.random() < 0.6:
                begin(name)
        if not alive:
            begin(victim)
    for name in names:
        if name not in alive:
            begin(name)
    for handle in handles:
        handle.result(120)
    for child in alive.values():
        child.signal(signal.SIGTERM)
    assert [child.wait() for child in alive.values()] == [0] * 4
    found = check(store, range(jobs))
    assert sum(job.interruptions for job in found) >= kills // 2, "the kills struck running jobs"
    for job in found:
        for attempt in store.attempts(job.id):
            assert attempt.ended is not None
            if attempt.ended_by in ("reap", "recover"):
                since = [at for at in deaths[attempt.node] if attempt.started - SKEW <= at <= attempt.ended + SKEW]
                assert since, "taken from a node that lives"
                assert attempt.ended - since[0] < LEASE + TAKEOVER + SLACK
    for name in names:
        assert not leftovers(shared.state(name), pids[name]), "a box outlived its node"
        assert not list((shared.state(name) / "boxes").rglob("*.json")), "the sweep left something"


def test_a_dead_nodes_jobs_are_taken_over_in_time(shared: Place) -> None:
    store = shared.store()
    victim = shared.node("dies", seconds=600, lease=LEASE, workers=3)
    shared.node("lives", lease=LEASE, workers=3, seconds=0.02)
    handles = shared.submit(range(20))
    eventually(lambda: done(store) >= 17 and len(running(store)) == 3, "they do not share")
    victim.kill()
    begun = time.monotonic()
    for handle in handles:
        handle.result(60)
    assert LEASE - 1.5 < time.monotonic() - begun < LEASE + TAKEOVER + SLACK
    assert [job.interruptions for job in check(store, range(20))].count(1) == 3


def test_a_node_that_stood_still_past_its_lease_is_refused(shared: Place) -> None:
    """Its job had ended, and is run by another when it wakes and says so."""
    store = shared.store()
    slow = shared.node("slow", stand_still=True, lease=2, workers=1, tell=True)
    (handle,) = shared.submit([7])
    slow.expect("stands still")
    shared.node("quick", seconds=2.0, lease=2, workers=1)
    eventually(lambda: shared.printed("quick"), "nobody took it over")
    slow.signal(signal.SIGCONT)
    slow.expect("lease_lost")
    assert store.get(handle.id).state is State.RUNNING
    assert handle.result(60).score == 7
    (later,) = shared.submit([8])
    later.result(60)
    slow.signal(signal.SIGTERM)
    assert slow.wait() == 0, "it lived on"
    check(store, [7, 8])
    attempts = [(each.node, each.ended_by) for each in store.attempts(handle.id)]
    assert attempts == [("slow", "reap"), ("quick", "finish")]
    assert store.outputs(handle.id)[0].head == b"quick"


def test_the_box_of_a_node_that_stood_still_is_killed_when_it_wakes(shared: Place) -> None:
    need_bubblewrap()
    store = shared.store()
    slow = shared.node("slow", sandbox="bubblewrap", lease=2, workers=1)
    (handle,) = shared.submit([7], seconds=19)
    eventually(lambda: leftovers(shared.state("slow"), [slow.pid]), "its box never began")
    slow.signal(signal.SIGSTOP)
    quick = shared.node("quick", sandbox="bubblewrap", lease=2, workers=1)
    eventually(lambda: [job.node for job in running(store)] == ["quick"], "nobody took it over")
    slow.signal(signal.SIGCONT)
    assert eventually(lambda: not leftovers(shared.state("slow"), [slow.pid]), "its box goes on") < 5 + SLACK
    assert [each.ended_by for each in store.attempts(handle.id)] == ["reap", None]
    eventually(lambda: leftovers(shared.state("quick"), [quick.pid]), "the other's box never began")
    shared.submitter().cancel(handle.id)
    assert eventually(lambda: not leftovers(shared.state("quick"), [quick.pid]), "cancelled, it goes on") < 5 + SLACK
    eventually(lambda: store.get(handle.id).state is State.CANCELLED, "it is not cancelled")


def test_nodes_whose_clocks_are_wrong(shared: Place) -> None:
    """By ten minutes, and by an hour more at a jump: leases go by the server's clock, neither early nor late."""
    store = shared.store()
    ahead = shared.node("ahead", skew=600, seconds=600, lease=LEASE, workers=2)
    behind = shared.node("behind", skew=-600, seconds=4.0, lease=LEASE, workers=2)
    handles = shared.submit(range(4))
    eventually(lambda: len(running(store)) == 4, "they do not all run")
    for child in (ahead, behind):
        child.signal(signal.SIGUSR1)
    time.sleep(1.0)
    ahead.signal(signal.SIGUSR2)
    ahead.signal(signal.SIGUSR2)
    mine = [job.id for job in running(store) if job.node == "behind"]
    eventually(lambda: done(store) == 2, "it grades nothing")
    assert [each.interruptions for each in store.list() if each.id in mine] == [0, 0], "no lease of it was reaped early"
    dead = [job.id for job in running(store)]
    assert len(dead) == 2
    ahead.kill()
    died = store.now()
    eventually(lambda: not any(job.node == "ahead" for job in running(store)), "they were not taken over")
    for job_id in dead:
        first = store.attempts(job_id)[0]
        assert first.ended is not None
        assert LEASE - 2 < first.ended - died < LEASE + TAKEOVER + SLACK
    for handle in handles:
        handle.result(60)
    check(store, range(4))


def test_a_laptop_whose_clock_jumps_keeps_its_work(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """One engine on a file, with leases shorter than its jobs: nobody reaps, whatever the clock says."""
    place = Place("sqlite", tmp_path)
    try:
        child = place.node(skew=0, seconds=1.5, lease=1.0, workers=2)
        handles = place.submit(range(4))
        store = place.store()
        eventually(lambda: len(running(store)) == 2, "they do not run")
        child.signal(signal.SIGUSR1)
        eventually(lambda: done(store) == 2, "it grades nothing")
        child.signal(signal.SIGUSR2)
        child.signal(signal.SIGUSR2)
        for handle in handles:
            handle.result(60)
        assert {job.attempt for job in check(store, range(4))} == {1}
        assert store.counts()[State.RUNNING] == 0
    finally:
        place.close()


@pytest.mark.parametrize("hours", [1, -1])
def test_a_server_whose_clock_jumps(shared: Place, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    """A node that lives keeps what it runs; what a dead one ran is taken over as if the clock had gone on."""
    off = [0]
    true_script = _redis_link._script

    def script(verb: str) -> str:
        """As it would be if the server's TIME had jumped."""
        text = true_script(verb)
        assert "call('TIME')\n" in text
        return text.replace("call('TIME')\n", f"call('TIME')\n  t[1] = t[1] + {off[0]}\n")

    monkeypatch.setattr(_redis_link, "_script", script)
    gate = Gate()
    dead, store = RedisStore(shared.url), shared.store()
    with open_engine(shared.url, gate, state=shared.state("lives"), name="lives", workers=1, lease_for=LEASE) as engine:
        mine = engine.submit(submission("ada"))
        gate.wait_entered()
        theirs = engine.submit(submission("bob"))
        (lease,) = dead.exchange(claim=1, node="dies", lease_for=LEASE).leases
        died = time.monotonic()
        time.sleep(2.5)  # it has looked for lapsed leases, so that it knows what the time was
        off[0] = hours * 3600
        for each in (engine.store, dead, store):
            each._link._scripts.clear()  # type: ignore[attr-defined]
            each._link._clock_read -= 100  # type: ignore[attr-defined]
            each._link._clock_offset += off[0]  # type: ignore[attr-defined]
        eventually(lambda: store.get(theirs.id).interruptions, "it was not taken over")
        assert time.monotonic() - died < LEASE + TAKEOVER + SLACK
        assert dead.extend([lease]) == (lease,)
        gate.open.set()
        assert [handle.result(60).score for handle in (mine, theirs)] == [10, 10]
        assert store.get(mine.id).attempt == 1, "it lives, and lost its job"
    dead.close()
