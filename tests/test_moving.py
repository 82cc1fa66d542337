"""A queue that is carried, or copied: what is put in place is whole, who grades is not carried away from, and what is
copied stays until it is."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from minitango.backup import backup
from minitango.blobs import Blobs, BlobStore
from minitango.errors import EngineRunning, StoreError
from minitango.job import JobSpec, State
from minitango.keeping import GRACE
from minitango.moving import Place, carry, migrate, put_in_place, refuse_living
from minitango.store import Node, Store, open_blobs, open_store
from tests import redis_server
from tests.support import age_blobs

NODE = Node("n1", "i1", host="h", pid=7)


def filled(store: Store, blobs: BlobStore, *datas: bytes) -> list[str]:
    return [store.submit([JobSpec("hw", "ada", blobs.put(data), blobs.put(data))])[0].id for data in datas]


# --- what is put in place ---------------------------------------------------------------------------


def test_what_is_put_in_place_is_one_file_with_all_that_was_in_its_log(tmp_path: Path) -> None:
    made, file = tmp_path / "work" / "queue.db", tmp_path / "state" / "queue.db"
    for folder in (made.parent, file.parent):
        folder.mkdir()
    with contextlib.closing(open_store(str(tmp_path / "queue.db"))) as store:
        (job,) = filled(store, Blobs(tmp_path / "blobs"), b"x")
        for name in ("queue.db", "queue.db-wal"):  # as of somebody who died
            shutil.copyfile(tmp_path / name, made.parent / name)
    put_in_place(made, file)
    assert [path.name for path in file.parent.iterdir()] == ["queue.db"]
    with contextlib.closing(open_store(str(file))) as there:
        assert [found.id for found in there.list()] == [job]


def test_what_is_not_sound_is_not_put_in_place(tmp_path: Path) -> None:
    made, file = tmp_path / "made.db", tmp_path / "queue.db"
    with contextlib.closing(open_store(str(made))) as store:
        filled(store, Blobs(tmp_path / "blobs"), b"x")
    with contextlib.closing(sqlite3.connect(made)) as db, db:
        db.execute("UPDATE blob_refs SET digest = '../x'")
    with pytest.raises(StoreError) as caught:
        put_in_place(made, file)
    assert caught.value.id == "record_damaged"
    assert not file.exists()


# --- who grades -------------------------------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[Callable[[str], Store]]:
    redis_server.need_redis()
    redis_server.shared().client().flushall()
    with contextlib.ExitStack() as opened:
        yield lambda queue: opened.enter_context(contextlib.closing(open_store(redis_server.shared().url(queue))))


def test_a_node_that_was_heard_of_lately_grades_the_queue(shared: Callable[[str], Store]) -> None:
    store = shared("here")
    now = store.now()
    store.beat(NODE, now=now - NODE.good_for - 1)
    refuse_living(store)
    store.beat(NODE, now=now)
    with pytest.raises(EngineRunning) as caught:
        refuse_living(store)
    assert caught.value.pid == 7
    assert "the node n1 (h, process 7) grades this queue" in str(caught.value)
    assert f"one that died counts for {NODE.good_for:.0f} s" in caught.value.hint
    store.beat(structs.replace(NODE, good_for=50_000.0), now=now - 40_000.0)
    with pytest.raises(EngineRunning):
        refuse_living(store)


def test_of_a_queue_in_a_file_its_lock_says_who_grades_it(tmp_path: Path) -> None:
    """Not what a node, of which it is a copy perhaps, last noted there."""
    with contextlib.closing(open_store(str(tmp_path / "queue.db"))) as store:
        store.beat(NODE)
        refuse_living(store)


def test_a_node_that_comes_while_a_queue_is_carried_ends_that(shared: Callable[[str], Store], tmp_path: Path) -> None:
    here, there = shared("here"), shared("there")
    blobs = open_blobs(here, tmp_path / "a")
    filled(here, blobs, b"x")
    original = here.dump

    def meanwhile() -> Iterator[object]:
        yield from original()
        here.beat(NODE)

    here.dump = meanwhile  # type: ignore[method-assign, assignment]
    with pytest.raises(EngineRunning):
        carry(here, there, blobs, open_blobs(there, tmp_path / "b"))
    assert there.list() == []
    here.leave("n1")
    here.dump = original  # type: ignore[method-assign]
    assert carry(here, there, blobs, open_blobs(there, tmp_path / "b")).jobs == 1


@pytest.mark.parametrize("kind", ["redis", "a file that is there", "a file that is not"])
def test_jobs_that_ran_when_their_engine_died_are_queued_where_they_are_carried_to(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """An engine there would leave them to leases of nodes that never were on that queue."""
    source = Place.of(str(tmp_path / "a"))
    if kind == "redis":
        request.getfixturevalue("shared")
        target = Place.of(redis_server.shared().url("there"), str(tmp_path / "b"))
    else:
        target = Place.of(str(tmp_path / "b"))
        if kind == "a file that is there":
            open_store(target.url).close()
    with contextlib.closing(open_store(source.url)) as here:
        ran, waits = filled(here, open_blobs(here, source.folder), b"x", b"y")
        (lease,) = here.exchange(claim=1, node="n1", lease_for=3600.0).leases
        assert lease.job == ran
    assert migrate(source, target).jobs == 2
    with contextlib.closing(open_store(target.url)) as there:
        assert [(job.id, job.state, job.interruptions) for job in there.list()] == [
            (ran, State.QUEUED, 1), (waits, State.QUEUED, 0),
        ]  # fmt: skip
        assert [one.ended_by for one in there.attempts(ran)] == ["recover"]
    with contextlib.closing(open_store(source.url)) as here:
        assert here.get(ran).state is State.RUNNING, "the source is only read"


# --- a backup beside a prune ------------------------------------------------------------------------


def test_a_prune_takes_nothing_of_what_is_being_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its jobs were forgotten meanwhile, and its files are old: all of the moment of the snapshot is copied."""
    folder = tmp_path / "state"
    with contextlib.closing(open_store(str(folder / "queue.db"))) as store:
        blobs = open_blobs(store, folder)
        datas = [bytes([n]) * 100_000 for n in range(3)]
        ids = filled(store, blobs, *datas)
        age_blobs(folder)
        original, pruned = Blobs.get, []

        def meanwhile(self: Blobs, digest: str, *, keep: bool = True) -> bytes:
            if not pruned:
                for job in ids:
                    store.cancel(job)
                assert store.forget(ids) == 3
                pruned.append(blobs.prune(store.referenced, older_than=GRACE))
            return original(self, digest, keep=keep)

        monkeypatch.setattr(Blobs, "get", meanwhile)
        label = backup(Place.of(str(folder)), tmp_path / "kept")
    assert [one.count for one in pruned] == [0]
    assert (sum(label.jobs.values()), label.blobs) == (3, 3)
