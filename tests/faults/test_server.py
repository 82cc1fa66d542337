"""What can befall the store beneath engines that run: its server dies, is away, is full; its disk is full."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minitango.errors import StoreError, StoreFull
from minitango.job import State
from tests.faults.child import assignment, hand_ins
from tests.faults.harness import LONG, SLACK, Place, check, done, eventually, make_place, running

ANSWERED = 2.0
"""Seconds within which a submit fails while the server is away."""
BACK = 5.0
"""Seconds within which all goes on when it is back."""


@pytest.mark.timeout(900 if LONG else 200)
def test_the_server_is_killed_again_and_again(own: Place) -> None:
    """kill -9 of a server with an append-only file, while two nodes grade and somebody submits."""
    kills = 40 if LONG else 5
    chance = random.Random(3)
    nodes = [own.node(name, seconds=0.02, tell=True) for name in ("one", "two")]
    course = own.submitter()
    accepted: list[int] = []
    for number in range(kills):
        kill_at = time.monotonic() + chance.uniform(0.1, 0.6)
        while time.monotonic() < kill_at:
            course.submit_many(hand_ins(assignment(), [len(accepted)]))
            accepted.append(len(accepted))
        own.server.kill()
        with pytest.raises(StoreError) as caught:
            course.submit_many(hand_ins(assignment(), [len(accepted)]))
        assert caught.value.id == "store_unreachable"
        own.server.start()
        back = time.monotonic()
        course.submit_many(hand_ins(assignment(), [len(accepted)]))[0].result(60)
        accepted.append(len(accepted))
        assert time.monotonic() - back < BACK + SLACK, f"after kill {number}"
    store = own.store()
    eventually(lambda: done(store) == len(accepted), "some were accepted, and are not graded")
    found = check(store, accepted)
    assert sum(job.interruptions for job in found) == 0, "a server that dies interrupts nobody"
    for node in nodes:
        node.signal(signal.SIGTERM)
        assert node.wait() == 0


@pytest.mark.timeout(400 if LONG else 120)
def test_the_server_is_away(own: Place) -> None:
    """For longer than the leases are good for: what ran is recorded, and is run only once."""
    away = 60.0 if LONG else 7.0  # more than `DEAF`: from then on nobody is reaped for a while
    node = own.node("one", seconds=1.0, workers=3, lease=3.0)
    own.node("two", seconds=1.0, workers=1, lease=3.0)
    course = own.submitter()
    handles = course.submit_many(hand_ins(assignment(), range(8)))
    store = own.store()
    eventually(lambda: len(own.printed("one") + own.printed("two")) == 4, "they do not run")
    ran = {job.id for job in running(store)}
    own.server.kill()
    gone = time.monotonic()
    for n in range(100, 103):
        begun = time.monotonic()
        with pytest.raises(StoreError) as caught:
            course.submit_many(hand_ins(assignment(), [n]))
        assert caught.value.id == "store_unreachable"
        assert time.monotonic() - begun < ANSWERED + SLACK
    time.sleep(max(0.0, away - (time.monotonic() - gone)))
    own.server.start()
    assert eventually(lambda: done(store) >= 4, "what ran was not recorded") < BACK + SLACK
    for handle in handles:
        handle.result(60)
    found = check(store, range(8))
    assert {job.attempt for job in found if job.id in ran} == {1}, "they were not run again"
    assert not node.ended(0)


def test_the_servers_memory_is_full_while_jobs_run(own: Place) -> None:
    """Nearly full: nothing new is accepted, and what is queued is graded. Full: it waits, and goes on by itself."""
    jobs = 80  # enough for what has to be noticed meanwhile
    server, store = own.server, own.store()
    course = own.submitter()
    handles = course.submit_many(hand_ins(assignment(), range(jobs)))
    node = own.node(seconds=0.15, tell=True)
    handles[0].result(60)
    used = int(server.client().info("memory")["used_memory"])
    most = max(int(used / 0.92), used + (2 << 20))
    ballast = int(most * 0.93) - used
    server.client().set("ballast", b"x" * max(ballast, 1))
    server.client().config_set("maxmemory", most)

    def refused() -> bool:
        try:
            course.submit_many(hand_ins(assignment(), [1000]))
        except StoreFull:
            return True
        return False

    eventually(refused, "it is nearly full, and takes more")
    before = done(store)
    eventually(lambda: done(store) > before + 5, "it is nearly full, and records no result")

    server.client().config_set("maxmemory", 1 << 20)
    node.expect("store_trouble")
    time.sleep(0.5)
    server.client().config_set("maxmemory", 0)
    node.expect("resumed")
    for handle in handles:
        handle.result(60)
    eventually(lambda: not refused(), "there is room, and it takes nothing")
    numbers = [*range(jobs), 1000]
    eventually(lambda: done(store) == len(numbers), "it is not graded")
    assert {job.attempt for job in check(store, numbers)} == {1}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB of one's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or libc.mount(b"tmpfs", bytes(disk), b"tmpfs", 0, b"size=4m") != 0:
        pytest.skip("mounting a small disk takes root")
    yield disk
    libc.umount2(bytes(disk), 2)


def test_the_disk_is_full_while_jobs_run(small_disk: Path) -> None:
    """A submit is refused whole; what runs keeps its results, and all goes on by itself when there is room."""
    place = make_place("sqlite", small_disk)
    try:
        course = place.submitter()
        handles = course.submit_many(hand_ins(assignment(), range(40)))
        node = place.node(seconds=0.1, tell=True)
        handles[0].result(60)
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(b"x" * 4096)
                except OSError:
                    break
        with pytest.raises(StoreFull):  # noqa: PT012 - what is free within the file may take some
            for n in range(1000, 3000, 100):
                course.submit_many(hand_ins(assignment(), range(n, n + 100)))
        store = place.store()
        accepted = len(store.list())
        eventually(lambda: "store_trouble" in node.lines or node.line(), "it notices nothing", timeout=30)
        ballast.unlink()
        for handle in handles:
            handle.result(60)
        course.submit_many(hand_ins(assignment(), [7777]))[0].result(60)
        eventually(lambda: store.counts()[State.DONE] == accepted + 1, "it does not go on")
        found = check(store, [int(job.student[1:]) for job in store.list()])
        assert {job.attempt for job in found} == {1}
    finally:
        place.close()
