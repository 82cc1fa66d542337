"""What was kept for long enough is forgotten by the engine itself, and nothing else is."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from minitango import ConfigError, StoreError
from minitango.blobs import Blobs
from minitango.cli.settings import resolve
from minitango.handle import Handles
from minitango.job import Finish, Job, JobSpec, Outcome, Result
from minitango.keeping import DAILY, GRACE, LEAST, Keeper, kept_for
from minitango.store import Query, Store, open_blobs, open_store
from tests import redis_server
from tests.support import PATIENCE, age_blobs, eventually, open_engine, refuse_threads, scoring, submission

DAY = 86400.0


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "redis":
        redis_server.need_redis()
        redis_server.shared().client().flushall()
        made = open_store(redis_server.shared().url())
    else:
        made = open_store(str(tmp_path / "queue.db"))
    yield made
    made.close()


def ended(store: Store, blobs: Any, at: float, *students: str, callback: str = "") -> None:
    """Jobs that were graded at that time, each with a hand-in of its own."""
    digest = blobs.put(b"plan")
    specs = [JobSpec("hw", name, digest, blobs.put(name.encode()), callback=callback) for name in students]
    store.submit(specs, now=at)
    leases = store.exchange(claim=len(students), now=at).leases
    store.exchange([Finish(lease, Result(Outcome.GRADED, 1.0)) for lease in leases], now=at)


def students(store: Store) -> list[str]:
    return [job.student for job in store.list()]


def aged(blobs: Any, store: Store) -> None:
    """As if all blobs had been put yesterday."""
    if store.shared:
        client, key = redis_server.shared().client(), "minitango:{default}:blobs"
        client.zadd(key, dict.fromkeys(client.zrange(key, 0, -1), 1.0))
        return
    age_blobs(blobs.root.parent)


def test_what_is_old_goes_with_its_files_and_nothing_else(store: Store, tmp_path: Path) -> None:
    blobs, now = open_blobs(store, tmp_path), store.now()
    ended(store, blobs, now - 10 * DAY, *(f"old{n}" for n in range(450)))
    ended(store, blobs, now - 8 * DAY, "new")
    store.submit([JobSpec("hw", "waits", blobs.put(b"plan"), blobs.put(b"waits"))], now=now - 20 * DAY)
    aged(blobs, store)
    clock = [0.0]
    keeper = Keeper(store, blobs, 9 * DAY, clock=lambda: clock[0])
    assert keeper.look() == 450
    assert students(store) == ["new", "waits"]
    assert [blobs.has(Blobs(tmp_path / "x").put(name)) for name in (b"plan", b"new", b"waits", b"old0", b"old449")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert keeper.look() == 0


def test_a_file_that_was_too_young_goes_later(tmp_path: Path) -> None:
    store, clock = open_store(str(tmp_path / "queue.db")), [0.0]
    blobs = open_blobs(store, tmp_path)
    ended(store, blobs, store.now() - 10 * DAY, "old")
    keeper = Keeper(store, blobs, DAY, clock=lambda: clock[0])
    old = Blobs(tmp_path / "x").put(b"old")
    assert keeper.look() == 1
    assert blobs.has(old), "a submit may be under way that names it"
    aged(blobs, store)
    clock[0] += GRACE - 1
    keeper.look()
    assert blobs.has(old), "it is looked for at most once an hour"
    clock[0] += 2
    keeper.look()
    assert not blobs.has(old)
    store.close()


def test_what_somebody_has_still_to_be_told_of_stays(store: Store, tmp_path: Path) -> None:
    blobs, now = open_blobs(store, tmp_path), store.now()
    ended(store, blobs, now - 10 * DAY, *(f"s{n:03}" for n in range(300)), callback="https://x.example/")
    for errand in store.take_callbacks(300):
        if store.get(errand.job).student not in ("s000", "s299"):
            store.callback_delivered(errand)
    keeper = Keeper(store, blobs, DAY)
    assert keeper.look() == 298
    assert students(store) == ["s000", "s299"]
    assert keeper.look() == 0


def test_what_has_to_stay_keeps_nothing_behind_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More callbacks wait than one look goes through; when they are delivered, their jobs go, too."""
    monkeypatch.setattr("minitango.keeping._BATCH", 10)
    monkeypatch.setattr("minitango.keeping._ROUNDS", 2)
    blobs, now = open_blobs(store, tmp_path), store.now()
    ended(store, blobs, now - 10 * DAY, *(f"w{n:02}" for n in range(45)), callback="https://x.example/")
    ended(store, blobs, now - 9 * DAY, *(f"s{n:02}" for n in range(15)))
    ended(store, blobs, now, "new")
    keeper = Keeper(store, blobs, DAY)
    assert [keeper.look() for _ in range(5)] == [0, 0, 15, 0, 0]
    for errand in store.take_callbacks(100):
        store.callback_delivered(errand)
    assert sum(keeper.look() for _ in range(8)) == 45
    assert students(store) == ["new"]


def test_it_does_little_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.keeping._BATCH", 10)
    monkeypatch.setattr("minitango.keeping._ROUNDS", 2)
    store, blobs = open_store(str(tmp_path / "queue.db")), Blobs(tmp_path / "blobs")
    ended(store, blobs, store.now() - 10 * DAY, *(f"s{n:02}" for n in range(35)))
    keeper = Keeper(store, blobs, DAY)
    assert [keeper.look() for _ in range(3)] == [20, 15, 0]
    store.close()


def lose(ids: list[str]) -> None:
    """A server lost the records of these jobs, and not their places."""
    redis_server.shared().client().delete(*(f"minitango:{{default}}:j:{one}" for one in ids))


@pytest.mark.parametrize("store", ["redis"], indirect=True)
def test_places_of_which_the_jobs_are_lost_stop_nobody(store: Store, tmp_path: Path) -> None:
    blobs, now = open_blobs(store, tmp_path), store.now()
    handles = Handles(store, store.cancel)
    ended(store, blobs, now - 10 * DAY, *(f"s{n:04}" for n in range(900)))
    jobs = store.list()
    lose([job.id for job in jobs[:650]])
    assert [job.student for job in store.ended_since(0, limit=200)] == [f"s{n:04}" for n in range(650, 850)]
    assert [job.student for job in store.ended_since(5, limit=1)] == ["s0650"]
    assert len(store.ended_since(0)) == 250
    waited = handles.get(store.submit([JobSpec("hw", "new", "s", "i")])[0].id)
    (lease,) = store.exchange(claim=1).leases
    store.exchange([Finish(lease, Result(Outcome.GRADED, 7.0))])
    handles.follow()
    assert waited.result(0).score == 7
    keeper = Keeper(store, blobs, DAY)
    assert keeper.look() == 250
    assert students(store) == ["new"]
    client = redis_server.shared().client()
    assert [client.zcard(f"minitango:{{default}}:{place}") for place in ("ended", "jobs", "ids")] == [1, 1, 1]


@pytest.mark.parametrize("store", ["redis"], indirect=True)
def test_one_that_has_lost_its_numbers_stops_nobody(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minitango.keeping._BATCH", 10)
    blobs, now = open_blobs(store, tmp_path), store.now()
    ended(store, blobs, now - 10 * DAY, *(f"s{n:02}" for n in range(25)))
    ended(store, blobs, now, "new", "newer")
    for job in store.list():
        if job.student in ("s00", "s09", "newer"):
            client, name = redis_server.shared().client(), f"minitango:{{default}}:j:{job.id}"
            client.hset(name, mapping={"ended": "x", "ended_seq": "x"})
    assert [job.ended_seq for job in store.ended_since(0)] == list(range(1, 28))
    assert Keeper(store, blobs, DAY).look() == 25
    assert sorted(job.ended_seq or 0 for job in store.ended_since(0)) == [26, 27]


def test_what_nobody_needs_goes_once_a_day_whatever_was_forgotten(store: Store, tmp_path: Path) -> None:
    blobs, clock = open_blobs(store, tmp_path), [0.0]
    orphan = blobs.put(b"nobody's")
    aged(blobs, store)
    keeper = Keeper(store, blobs, math.inf, clock=lambda: clock[0])
    keeper.look()
    assert blobs.has(orphan), "not as soon as it starts"
    clock[0] += GRACE
    keeper.look()
    assert not blobs.has(orphan)
    second = blobs.put(b"nobody's, either")
    aged(blobs, store)
    clock[0] += DAILY - 1
    keeper.look()
    assert blobs.has(second)
    clock[0] += 1
    keeper.look()
    assert not blobs.has(second)


@pytest.mark.parametrize("store", ["redis"], indirect=True)
def test_a_node_forgets_what_it_fetched_and_uses_no_more(store: Store, tmp_path: Path) -> None:
    digest = open_blobs(store, tmp_path / "other").put(b"x" * 200_000)
    blobs, clock = open_blobs(store, tmp_path), [0.0]
    store.submit([JobSpec("hw", "ada", digest, digest)])
    assert blobs.get(digest)
    os.utime(blobs.path(digest), (1.0, 1.0))
    keeper = Keeper(store, blobs, kept_for(None, shared=True), clock=lambda: clock[0])
    clock[0] += GRACE
    keeper.look()
    assert not blobs.path(digest).exists()
    assert blobs.has(digest), "a job needs it"


def test_one_that_is_told_to_stop_leaves_the_rest_for_another_time(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("blobs", "store._sqlite_blobs", "store._redis_blobs"):
        monkeypatch.setattr(f"minitango.{place}._BATCH", 10)
    blobs, clock = open_blobs(store, tmp_path), [0.0]
    small = blobs.put_many(b"%d" % n for n in range(50))
    large = blobs.put_many(b"%d" % n * 40_000 for n in range(50))
    aged(blobs, store)
    keeper = Keeper(store, blobs, DAY, clock=lambda: clock[0])
    real, asked = store.referenced, []

    def referenced(digests: list[str]) -> set[str]:
        asked.append(digests)
        keeper.stop()
        return real(digests)

    monkeypatch.setattr(store, "referenced", referenced)
    clock[0] += GRACE
    keeper.look()
    assert len(asked) <= 2, "a batch is looked at twice"
    assert sum(blobs.has(digest) for digest in small + large) == 90


def test_an_engine_keeps_what_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.keeping.PAUSE", 0.05)
    with open_engine(tmp_path, scoring(7), keep=DAY) as engine:
        ended(engine.store, engine.blobs, engine.store.now() - 2 * DAY, "old")
        assert engine.submit(submission("ada")).result(20).score == 7
        eventually(lambda: students(engine.store) == ["ada"], "it is not forgotten")
        assert any(thread.name == "minitango keeper" for thread in threading.enumerate())
    assert not any(thread.name == "minitango keeper" for thread in threading.enumerate())


def test_trouble_with_the_store_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.keeping.PAUSE", 0.01)
    store, blobs = open_store(str(tmp_path / "queue.db")), Blobs(tmp_path / "blobs")
    ended(store, blobs, store.now() - 10 * DAY, "old")
    original, failures = store.ended_since, [StoreError("away"), StoreError("away")]

    def ended_since(cursor: int, *, limit: int = 1000) -> list[Job]:
        if failures:
            raise failures.pop()
        return original(cursor, limit=limit)

    monkeypatch.setattr(store, "ended_since", ended_since)
    keeper = Keeper(store, blobs, DAY)
    keeper.start()
    eventually(lambda: store.list(Query()) == [], "it does not try again")
    keeper.stop()
    store.close()


def test_without_a_thread_for_it_nobody_waits_for_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_threads(monkeypatch, "minitango keeper")
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="new thread"):
        pool.submit(lambda: open_engine(tmp_path, scoring(1), keep=LEAST).stop()).result(PATIENCE)
    open_engine(tmp_path, scoring(1), keep=LEAST).stop()


def test_where_all_is_kept_nobody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        begun.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)
    for keep, there in ((None, False), (math.inf, False), (LEAST, True)):
        begun.clear()
        with open_engine(tmp_path, scoring(1), keep=keep):
            assert "minitango sender" in begun
            assert ("minitango keeper" in begun) is there


def test_how_long() -> None:
    assert kept_for(None, shared=False) == math.inf
    assert kept_for(None, shared=True) == 400 * DAY
    assert kept_for(LEAST, shared=True) == 3600
    for wrong in (LEAST - 1, -1, True, math.nan, "180d"):
        with pytest.raises(ConfigError) as caught:
            kept_for(wrong, shared=False)
        assert caught.value.id == "keep"


def test_the_setting(tmp_path: Path) -> None:
    (tmp_path / "minitango.toml").write_text('keep = "180d"\n')
    assert resolve(environ={}, folder=tmp_path).keep == "180d"
    assert resolve(environ={"MINITANGO_KEEP": "forever"}, folder=tmp_path).keep == "forever"
    assert resolve(keep="2w", environ={}, folder=tmp_path).keep == "2w"
    for wrong in ("soon", "59min", "6m"):
        with pytest.raises(ConfigError) as caught:
            resolve(keep=wrong, environ={}, folder=tmp_path)
        assert caught.value.id == "keep"
