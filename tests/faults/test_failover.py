"""Servers that take over from another while nodes grade: a replica that is promoted, a slot that is moved."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minitango import Engine, JobHandle
from minitango.errors import StoreError
from tests import redis_server
from tests.faults.child import assignment, hand_ins
from tests.faults.harness import SLACK, Place, check, done, eventually
from tests.redis_several import Cluster, Watched

ANSWERED = 2.0
"""Seconds within which a submit is answered, whoever has the queue."""


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Watched, Place]]:
    """Whose replica confirms what is accepted and recorded."""
    redis_server.need_redis()
    servers = Watched(3)
    place = Place("redis", tmp_path, servers.url(more="replicas=1"))
    yield servers, place
    place.close()
    servers.remove()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Cluster, Place]]:
    redis_server.need_redis()
    servers = Cluster(replica=True)
    place = Place("redis", tmp_path, servers.url())
    yield servers, place
    place.close()
    servers.remove()


def under_way(place: Place) -> tuple[Engine, list[JobHandle]]:
    """Have two nodes grade what somebody submitted, and be in the middle of it."""
    for name in ("one", "two"):
        place.node(name, seconds=0.2)
    store, course = place.store(), place.submitter()
    handles = course.submit_many(hand_ins(assignment(), range(40)))
    eventually(lambda: done(store) >= 8, "they grade nothing")
    return course, handles


def goes_on(place: Place, course: Engine, handles: list[JobHandle]) -> None:
    """Nothing that was accepted is lost, nothing is done twice, and more is accepted, each try answered in time."""
    gone = time.monotonic()
    for number in range(40, 43):
        while True:
            tried = time.monotonic()
            try:
                handles += course.submit_many(hand_ins(assignment(), [number]))
                break
            except StoreError:
                assert time.monotonic() - tried < ANSWERED + SLACK
                assert time.monotonic() - gone < 30, "nobody takes over"
                time.sleep(0.05)
    for handle in handles:
        handle.result(60)
    found = check(place.store(), range(43))
    assert sum(job.interruptions for job in found) == 0, "a server that dies interrupts nobody"
    assert {job.attempt for job in found} == {1}


@pytest.mark.timeout(200)
def test_a_master_is_killed_that_records(watched: tuple[Watched, Place]) -> None:
    """Whatever it did and its replica has not got was told to nobody. It comes back, and confirms in its turn."""
    servers, place = watched
    begun = under_way(place)
    servers.master.kill()
    servers.promoted()
    servers.master.start()
    servers.demoted()
    goes_on(place, *begun)


@pytest.mark.timeout(200)
def test_a_clusters_node_is_killed_whose_replica_has_all(cluster: tuple[Cluster, Place]) -> None:
    servers, place = cluster
    begun = under_way(place)
    servers.owner.client().client_pause(5000, all=False)  # it answers nobody what its replica has not got
    servers.caught_up()
    servers.owner.kill()
    goes_on(place, *begun)


@pytest.mark.timeout(200)
def test_the_slot_of_a_queue_is_moved_while_nodes_grade(cluster: tuple[Cluster, Place]) -> None:
    """It stands still meanwhile: what ran ends, and is recorded."""
    servers, place = cluster
    begun = under_way(place)
    moving = threading.Thread(target=servers.migrate, args=(servers.others[0],), kwargs={"pause": 0.05})
    moving.start()
    goes_on(place, *begun)
    moving.join(60)
