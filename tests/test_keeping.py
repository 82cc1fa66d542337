"""What was kept for long enough is forgotten by the engine itself, and nothing else is."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from minitango import ConfigError, StoreError
from minitango.blobs import Blobs
from minitango.cli.settings import resolve
from minitango.job import Finish, Job, JobSpec, Outcome, Result
from minitango.keeping import GRACE, LEAST, Keeper, kept_for
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
