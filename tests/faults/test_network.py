"""Networks that fail between nodes and their server: nothing is lost, nothing is recorded twice, and they find back."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minitango import Engine
from minitango.errors import StoreError
from minitango.store import Store
from tests import redis_server
from tests.faults.child import assignment, hand_ins
from tests.faults.harness import LONG, SLACK, Place, check, done, eventually, running
from tests.faults.network import Networks, Proxy, need_namespaces

LEASE = 3.0
TAKEOVER = 5.0
BACK = 5.0
"""Seconds after its network healed within which a node is heard of again."""
NODES = ["one", "two", "three"]


@pytest.fixture
def networks() -> Iterator[Networks]:
    redis_server.need_redis()
    need_namespaces()
    made = Networks(NODES)
    yield made
    made.close()


@pytest.fixture
def apart(networks: Networks, tmp_path: Path) -> Iterator[Place]:
    """A queue whose nodes are each in a network of their own. What the test asks goes by another way."""
    place = Place("redis", tmp_path, networks.server)
    yield place
    place.close()


def begin(apart: Place, networks: Networks, name: str, seconds: float, workers: int = 2) -> None:
    how = {"seconds": seconds, "workers": workers, "lease": LEASE}
    apart.node(name, url=networks.url(name), netns=networks.space(name), **how)


def seen(store: Store, name: str) -> float:
    return next(node.seen for node in store.nodes() if node.name == name)


@pytest.mark.parametrize("how", ["cut", "deafen"])
def test_a_node_that_is_cut_off(apart: Place, networks: Networks, how: str) -> None:
    """Both ways, or only what it is told. Others take its jobs over; what it has to say later is refused."""
    store = apart.store()
    for name in NODES[:2]:
        begin(apart, networks, name, seconds=1.0)
    handles = apart.submit(range(12))
    eventually(lambda: apart.printed("one"), "it does not grade")
    getattr(networks, how)("one")
    cut = store.now()
    mine = [job.id for job in running(store) if job.node == "one"]
    for handle in handles:
        handle.result(60)
    for job in mine:
        first = store.attempts(job)[0]
        assert first.ended is not None
        assert first.ended - cut < LEASE + TAKEOVER + SLACK
    if LONG:
        time.sleep(max(0.0, 60 - (store.now() - cut)))
    networks.heal("one")
    healed = store.now()
    eventually(lambda: seen(store, "one") > healed, "it does not find back", timeout=BACK + SLACK)
    more = apart.submit(range(12, 24))
    for handle in more:
        handle.result(60)
    found = check(store, range(24))
    assert "one" in {store.attempts(handle.id)[-1].node for handle in more}, "it grades again"
    taken = [each for job in found for each in store.attempts(job.id) if each.ended_by != "finish"]
    assert {each.node for each in taken} <= {"one"}, "nobody else was struck"
    assert {each.ended_by for each in taken} <= {"reap", "release"}


@pytest.mark.timeout(300)
def test_wires_that_come_and_go(apart: Place, networks: Networks) -> None:
    """Each node's, both ways or one, for a moment or past its leases."""
    jobs, times = (1500, 120) if LONG else (90, 7)
    chance = random.Random(23)
    store = apart.store()
    for name in NODES:
        begin(apart, networks, name, seconds=0.1)
    handles = apart.submit(range(jobs))
    for _ in range(times):
        name = chance.choice(NODES)
        chance.choice([networks.cut, networks.deafen])(name)
        time.sleep(chance.choice([0.05, 0.3, 1.5]))
        networks.heal(name)
    for handle in handles:
        handle.result(60)
    found = check(store, range(jobs))
    assert max(job.attempt for job in found) < 5
    healed = store.now()
    for name in NODES:
        eventually(lambda name=name: seen(store, name) > healed, "it does not find back", timeout=2 * BACK + SLACK)  # type: ignore[misc]


def accepted(course: Engine, numbers: range) -> bool:
    try:
        course.submit_many(hand_ins(assignment(), numbers))
    except StoreError as error:
        if error.id != "store_unreachable":
            raise
        return False
    return True


def test_answers_that_are_lost(shared: Place) -> None:
    """The request was done, and nobody heard: it is asked for again, and done once. Submits included."""
    jobs = 1000 if LONG else 120
    store = shared.store()
    with contextlib.closing(Proxy(shared.server)) as proxy:
        for name in NODES[:2]:
            shared.node(name, url=proxy.url, seconds=0.03, lease=10)
        course = Engine.open(proxy.url, workers=0, sandbox="bubblewrap", state=shared.state("submitter"))
        try:
            proxy.loss = 0.04
            proxy.delay = 0.002
            for n in range(0, jobs, 4):
                while not accepted(course, range(n, n + 4)):
                    pass
            eventually(lambda: done(store) == jobs, "they are not all graded")
            lost = proxy.lost
            proxy.loss = proxy.delay = 0.0
        finally:
            course.stop()
    assert lost > 10, "nothing was lost"
    found = check(store, range(jobs))
    assert [job.interruptions for job in found].count(0) == jobs, "a node that can ask again loses no lease"
