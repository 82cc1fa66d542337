"""Blobs of a queue in a SQLite file: small ones in it, larger ones beside it, those of an earlier version found."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from minitango import archive
from minitango.backup import FORMAT, Label, _digest_of, backup, restore
from minitango.blobs import Blobs, Pruned
from minitango.engine import Engine
from minitango.errors import BlobError, JobDead, StoreError, StoreFull
from minitango.events import Event
from minitango.job import JobSpec, State
from minitango.moving import Place, migrate
from minitango.store import Store, _database, _schema, _sqlite_blobs, open_blobs, open_store, settle_copy
from minitango.store._brought import MOST_BROUGHT
from minitango.store._sqlite_blobs import MOST_INSIDE, SqliteBlobs
from minitango.store.sqlite import SqliteStore
from minitango.testing import FakeSandbox
from tests.support import PATIENCE, age_blobs, assignment, blobs_of, eventually, scoring, submission

HOUR = 3600.0
SMALL, LARGE = b"int main(void) { return 0; }\n", bytes(range(256)) * (MOST_INSIDE // 256) + b"!"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(state: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(state / "queue.db")
    yield opened
    opened.close()


@pytest.fixture
def blobs(store: SqliteStore, state: Path) -> SqliteBlobs:
    return store.blobs(state / "blobs")


def nothing(_: list[str]) -> set[str]:
    return set()


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files(blobs: SqliteBlobs) -> list[str]:
    return sorted(path.name for path in blobs.root.rglob("*") if path.is_file())


def rows(state: Path) -> dict[str, bytes]:
    db = sqlite3.connect(state / "queue.db")
    found: dict[str, bytes] = dict(db.execute("SELECT digest, data FROM blobs ORDER BY digest"))
    db.close()
    return found


def execute(state: Path, sql: str, *values: object) -> None:
    db = sqlite3.connect(state / "queue.db", isolation_level=None)
    db.execute(sql, values)
    db.close()


# --- where they are ---------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"x", LARGE[:-1], LARGE, LARGE * 9])
def test_small_ones_are_in_the_queues_file_and_larger_ones_beside_it(
    state: Path, blobs: SqliteBlobs, data: bytes
) -> None:
    digest = blobs.put(data)
    assert digest == digest_of(data)
    assert blobs.has(digest)
    assert blobs.get(digest) == data
    inside = len(data) <= MOST_INSIDE
    assert list(rows(state)) == ([digest] if inside else [])
    assert files(blobs) == ([] if inside else [digest])
    assert blobs.path(digest) == (state / "queue.db" if inside else state / "blobs" / digest[:2] / digest)
    assert blobs.touch(digest)


def test_many_in_order_and_each_once(state: Path, blobs: SqliteBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_blobs, "_BATCH", 7)
    data = [b"%d" % (n % 30) if n % 3 else LARGE + b"%d" % (n % 30) for n in range(90)]
    assert blobs.put_many(iter(data)) == [digest_of(each) for each in data]
    assert (len(rows(state)), len(files(blobs))) == (20, 10)
    assert blobs.put_many([]) == []


def test_a_long_stream_is_not_gathered_in_memory(
    state: Path, blobs: SqliteBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_blobs, "_BATCH_BYTES", 1000)
    there: list[int] = []

    def produce() -> Iterator[bytes]:
        for n in range(30):
            there.append(len(rows(state)))
            yield b"%500d" % n

    assert len(set(blobs.put_many(produce()))) == 30
    assert all(n - kept <= 3 for n, kept in enumerate(there))


@pytest.mark.parametrize("bad", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_digest(blobs: SqliteBlobs, bad: str) -> None:
    for verb in (blobs.get, blobs.has, blobs.path, blobs.touch):
        with pytest.raises(ValueError, match="not a SHA-256"):
            verb(bad)


def test_what_is_not_there_is_said(blobs: SqliteBlobs) -> None:
    missing = "0" * 64
    assert not blobs.has(missing)
    assert not blobs.touch(missing)
    with pytest.raises(BlobError) as caught:
        blobs.get(missing)
    assert caught.value.id == "blob_missing"
    assert caught.value.hint


@pytest.mark.parametrize("damage", [b"y", b"", b"x" * 9000, "x", 7])
def test_damage_is_found_and_mended_by_the_next_put(state: Path, blobs: SqliteBlobs, damage: object) -> None:
    digest = blobs.put(b"xx")
    execute(state, "UPDATE blobs SET data = ?", damage)
    with pytest.raises(BlobError) as caught:
        blobs.get(digest)
    assert caught.value.id == "blob_corrupt"
    assert str(state / "queue.db") in str(caught.value)
    assert blobs.put(b"xx") == digest
    assert blobs.get(digest) == b"xx"


def test_a_table_that_cannot_be_read_fails_the_job_and_not_the_queue(state: Path, blobs: SqliteBlobs) -> None:
    digest = blobs.put(b"x")
    execute(state, "DROP TABLE blobs")
    with pytest.raises(BlobError) as caught:
        blobs.get(digest)
    assert caught.value.id == "blob_unreadable"
    assert isinstance(caught.value.__cause__, StoreError)


def test_a_shared_directory_has_all_of_them(store: SqliteStore, state: Path, tmp_path: Path) -> None:
    shared = open_blobs(store, state, tmp_path / "nfs")
    assert isinstance(shared, Blobs)
    digest = shared.put(SMALL)
    assert rows(state) == {}
    assert shared.path(digest).is_relative_to(tmp_path / "nfs")


def outage(engine: Engine, told: list[Event]) -> None:
    """Wait until the engine rests over blobs that it does not get; nobody is charged for that."""
    eventually(lambda: "paused" in [event.kind for event in told], "it does not rest")
    eventually(lambda: any(job.failure for job in engine.jobs()), "it does not record why")
    assert [job.failures for job in engine.jobs()] == [0] * 6


@pytest.mark.parametrize("mounted", [False, True])
def test_a_directory_that_is_not_mounted_costs_nobody(tmp_path: Path, mounted: bool) -> None:
    """It is an empty one meanwhile, or there is none at all."""
    nfs, told, sandbox = tmp_path / "nfs", [], FakeSandbox(scoring(4))
    with Engine.open(tmp_path, blobs=nfs, workers=2, sandbox=sandbox, paused=True, on_event=told.append) as engine:
        handles = [engine.submit(submission(f"s{n}", b"s%d" % n)) for n in range(6)]
        nfs.rename(tmp_path / "away")
        if mounted:
            nfs.mkdir()
        engine.resume()
        outage(engine, told)
        failed = next(job.failure for job in engine.jobs() if job.failure)
        assert failed.id == "blob_elsewhere"
        assert f"{nfs} is not that one, or is not mounted" in failed.message
        (tmp_path / "away").rename(nfs)
        assert [handle.result(PATIENCE).score for handle in handles] == [4] * 6


def test_what_cannot_be_read_for_now_costs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Event] = []
    with Engine.open(tmp_path, workers=2, sandbox=FakeSandbox(scoring(4)), paused=True, on_event=told.append) as engine:
        handles = [engine.submit(submission(f"s{n}", b"s%d" % n)) for n in range(6)]
        assert isinstance(engine.blobs, SqliteBlobs)
        with monkeypatch.context() as patch:

            def read(digest: str) -> bytes:
                raise StoreError("disk I/O error", id="store_io")

            patch.setattr(engine.blobs, "_read", read)
            patch.setattr(engine.blobs, "bring", lambda digests: None)
            engine.resume()
            outage(engine, told)
            assert {job.failure.id for job in engine.jobs() if job.failure} == {"blob_unreadable"}
        assert [handle.result(PATIENCE).score for handle in handles] == [4] * 6


@pytest.mark.parametrize("spoil", ["gone", "damaged"])
@pytest.mark.parametrize("folder", [True, False])
def test_a_file_that_is_gone_or_damaged_costs_its_own_job_alone(
    tmp_path: Path, folder: bool, spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minitango.retry.backoff", lambda n, **_: 0.001)
    told: list[str] = []
    with Engine.open(
        tmp_path, blobs=tmp_path / "nfs" if folder else None, workers=2, sandbox=FakeSandbox(scoring(4)), paused=True,
        on_event=lambda event: told.append(event.kind),
    ) as engine:  # fmt: skip
        handles = [engine.submit(submission(f"s{n}", b"s%d" % n)) for n in range(6)]
        digest = handles[0].job().inputs
        if not folder:
            execute(tmp_path, "UPDATE blobs SET data = ?, digest = ? WHERE digest = ?", b"other",
                    digest if spoil == "damaged" else "0" * 64, digest)  # fmt: skip
        elif spoil == "damaged":
            (tmp_path / "nfs" / digest[:2] / digest).write_bytes(b"other")
        else:
            (tmp_path / "nfs" / digest[:2] / digest).unlink()
        engine.resume()
        assert [handle.result(PATIENCE).score for handle in handles[1:]] == [4] * 5
        with pytest.raises(JobDead, match="blob"):
            handles[0].result(PATIENCE)
        assert handles[0].job().failures == 3
    assert "paused" not in told


def test_queues_of_one_file_share_them(store: SqliteStore, state: Path, blobs: SqliteBlobs, tmp_path: Path) -> None:
    """Whatever their state directories are."""
    other = SqliteStore(state / "queue.db", queue="other")
    theirs = open_blobs(other, tmp_path / "elsewhere")
    digest = blobs.put(SMALL)
    other.submit([JobSpec("hw", "ada", digest, digest)])
    assert theirs.get(digest) == SMALL
    assert blobs.prune(store.referenced, now=time.time() + 2 * HOUR).count == 0
    other.close()


# --- the disk ---------------------------------------------------------------------------------


def test_a_put_is_durable_when_it_returns_and_one_ahead_with_the_next_commit(
    store: SqliteStore, state: Path, blobs: SqliteBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fdatasync

    def note(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", note)
    level = lambda: store._db._writer.execute("PRAGMA synchronous").fetchone()[0]  # noqa: E731
    blobs.put_many([b"1", b"2"])
    assert (level(), synced) == (1, [f"{state}/queue.db-wal"]), "NORMAL, and one sync for all"
    (digest,) = blobs.put_many([b"3"], ahead=True)
    assert len(synced) == 1
    store.submit([JobSpec("hw", "ada", digest, digest)])
    assert level() == 2, "FULL: the jobs, and what came before them in the log"


def test_a_submit_waits_for_the_disk_once(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd: calls.append(os.readlink(f"/proc/self/fd/{fd}")))
    levels: list[tuple[str, bool]] = []
    transact = _database.Database.transact

    def noted(self: object, verb: str, *rest: object, **more: bool) -> object:
        levels.append((verb, more.get("ahead", False)))
        return transact(self, verb, *rest, **more)  # type: ignore[arg-type, misc]

    with Engine.open(state, workers=0) as engine:
        engine.submit(submission("first"))
        calls.clear()
        monkeypatch.setattr(_database.Database, "transact", noted)
        engine.submit(submission("second"))
    assert [verb for verb, ahead in levels if not ahead] == ["submit"]
    assert ("put", True) in levels
    assert calls == [], "SQLite itself waits, in the commit of the submit"


def test_a_disk_that_is_nearly_full_takes_no_more(
    state: Path, blobs: SqliteBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there already can be submitted again, as that takes no room."""
    kept = blobs.put(SMALL)
    monkeypatch.setattr("minitango.room.reserve", lambda total: 1 << 80)
    with pytest.raises(StoreFull, match="nearly full"):
        blobs.put_many([SMALL, b"more"])
    with pytest.raises(StoreFull, match="nearly full"):
        blobs.put(LARGE)
    assert blobs.put(SMALL) == kept
    assert list(rows(state)) == [kept]
    assert files(blobs) == []


def test_a_real_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.room.reserve", lambda total: 0)
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    store = SqliteStore(mount / "queue.db")
    try:
        blobs = store.blobs(mount / "blobs")
        kept = blobs.put(SMALL)
        with pytest.raises(StoreFull):
            blobs.put_many([os.urandom(20_000) for _ in range(200)])
        assert blobs.get(kept) == SMALL
        store.submit([JobSpec("hw", "ada", kept, kept)])
    finally:
        store.close()
        subprocess.run(["umount", mount], check=True)


KILLED = """
import sys
from minitango.job import JobSpec
from minitango.store.sqlite import SqliteStore
store = SqliteStore(sys.argv[1] + "/queue.db")
blobs = store.blobs(store._db.path.parent / "blobs")
spec, inputs = blobs.put_many([b"plan", b"inputs"], ahead=True)
store.submit([JobSpec("hw", "ada", spec, inputs)])
"""


@pytest.mark.parametrize(
    ("failpoint", "blobs_there", "jobs_there"),
    [
        ("store.put.before_commit", 0, 0),
        ("store.put.after_commit", 2, 0),
        ("store.submit.before_commit", 2, 0),
        ("store.submit.after_commit", 2, 1),
    ],
)
def test_killed_between_blobs_and_jobs(state: Path, failpoint: str, blobs_there: int, jobs_there: int) -> None:
    """Never a job without its blobs; blobs without a job are pruned."""
    env = {**os.environ, "MINITANGO_FAILPOINT": failpoint}
    ended = subprocess.run([sys.executable, "-c", KILLED, state], env=env, check=False)
    assert ended.returncode == -signal.SIGKILL
    store = SqliteStore(state / "queue.db")
    blobs = store.blobs(state / "blobs")
    assert (len(rows(state)), len(store.list())) == (blobs_there, jobs_there)
    blobs.prune(store.referenced, now=time.time() + 2 * HOUR)
    assert len(rows(state)) == (2 if jobs_there else 0)
    store.close()


MARKED = """
import sys
from pathlib import Path
from minitango.store import open_blobs, open_store
state = Path(sys.argv[1])
store = open_store(str(state / "queue.db"))
open_blobs(store, state, state / "shared").put(b"x")
"""


@pytest.mark.parametrize("failpoint", ["store.identity.before_commit", "store.identity.after_commit"])
def test_killed_while_it_marks_a_directory(state: Path, failpoint: str) -> None:
    env = {**os.environ, "MINITANGO_FAILPOINT": failpoint}
    assert subprocess.run([sys.executable, "-c", MARKED, state], env=env, check=False).returncode == -signal.SIGKILL
    assert subprocess.run([sys.executable, "-c", MARKED, state], check=False).returncode == 0
    store = SqliteStore(state / "queue.db")
    blobs = open_blobs(store, state, state / "shared")
    assert len(list((state / "shared" / "queues").iterdir())) == 1
    assert blobs.prune(store.referenced, now=time.time() + 2 * HOUR).count == 1
    store.close()


def test_within_a_transaction_a_put_is_part_of_it(
    store: SqliteStore, state: Path, blobs: SqliteBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a queue is carried into a file."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)

    def body(tx: object) -> None:
        blobs.put(SMALL)
        assert rows(state) == {}
        raise KeyError

    with pytest.raises(KeyError):
        store._db.transact("load", body)
    assert rows(state) == {}
    store._db.transact("load", lambda tx: blobs.put(SMALL))
    assert list(rows(state)) == [digest_of(SMALL)]
    assert synced == [], "its commit waits for the disk"


def test_another_thread_waits_for_a_transaction_and_is_no_part_of_it(
    store: SqliteStore, state: Path, blobs: SqliteBlobs
) -> None:
    other = threading.Thread(target=blobs.put, args=(SMALL,))

    def body(tx: object) -> None:
        other.start()
        other.join(0.1)
        raise KeyError

    with pytest.raises(KeyError):
        store._db.transact("load", body)
    other.join(PATIENCE)
    assert list(rows(state)) == [digest_of(SMALL)]


# --- prune ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, MOST_INSIDE])
def test_a_prune_takes_what_is_old_and_needed_by_nobody(
    store: SqliteStore, state: Path, blobs: SqliteBlobs, size: int
) -> None:
    """In the queue's file and beside it."""
    needed, old, young = blobs.put_many([b"needed" * size, b"old" * size, b"young" * size])
    store.submit([JobSpec("hw", "ada", needed, needed)])
    age_blobs(state)
    blobs.touch(young)
    rehearsed = blobs.prune(store.referenced, dry_run=True)
    assert blobs_of(state) == {needed, old, young}
    assert blobs.prune(store.referenced) == rehearsed == Pruned(1, 3 * size)
    assert blobs_of(state) == {needed, young}


def test_now_is_a_parameter(blobs: SqliteBlobs) -> None:
    digest = blobs.put(b"x")
    assert blobs.prune(nothing, now=time.time() + HOUR - 60).count == 0
    assert blobs.prune(nothing, now=time.time() + HOUR + 60).count == 1
    assert not blobs.has(digest)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_prune_goes_through_all_page_by_page(
    blobs: SqliteBlobs, state: Path, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    monkeypatch.setattr(_sqlite_blobs, "_BATCH", 3)
    digests = blobs.put_many(b"%d" % n for n in range(20))
    asked: list[str] = []

    def every_third(batch: list[str]) -> set[str]:
        asked.extend(batch)
        return set(digests[::3]) & set(batch)

    assert blobs.prune(every_third, now=time.time() + 2 * HOUR, dry_run=dry_run).count == 13
    assert sorted(asked) == sorted(digests), "each once"
    assert len(rows(state)) == (20 if dry_run else 7)


@pytest.mark.parametrize("verb", ["put", "touch"])
def test_a_put_or_touch_spares_it(state: Path, blobs: SqliteBlobs, verb: str) -> None:
    digest = blobs.put(b"x")
    age_blobs(state)
    if verb == "put":
        blobs.put(b"x")
    else:
        assert blobs.touch(digest)
    assert blobs.prune(nothing).count == 0


def test_a_prune_spares_what_is_put_or_needed_meanwhile(store: SqliteStore, state: Path, blobs: SqliteBlobs) -> None:
    put, needed, neither = blobs.put_many([b"put again", b"needed at last", b"neither"])
    age_blobs(state)

    def meanwhile(digests: list[str]) -> set[str]:
        blobs.put(b"put again")
        store.submit([JobSpec("hw", "ada", needed, needed)])
        return set()

    assert blobs.prune(meanwhile).count == 1
    assert set(rows(state)) == {put, needed}
    assert not blobs.has(neither)


def test_failing_referenced_deletes_nothing(state: Path, blobs: SqliteBlobs) -> None:
    blobs.put_many([b"1", b"2"])
    age_blobs(state)

    def fail(_: list[str]) -> set[str]:
        raise StoreError("the store is away")

    with pytest.raises(StoreError, match="away"):
        blobs.prune(fail)
    assert len(rows(state)) == 2


def test_nothing_of_what_was_pruned_is_in_the_files(state: Path, blobs: SqliteBlobs) -> None:
    blobs.put_many([b"kept %d " % n * 200 for n in range(20)] + [b"victim %d " % n * 200 for n in range(20)])
    age_blobs(state)
    victims = {digest_of(b"victim %d " % n * 200) for n in range(20)}
    assert blobs.prune(lambda digests: set(digests) - victims).count == 20
    held = b"".join(path.read_bytes() for path in state.rglob("*") if path.is_file())
    assert b"victim" not in held
    assert b"kept" in held


def test_submits_and_prunes_at_once(store: SqliteStore, state: Path) -> None:
    """From connections of their own, as other processes have; pruners with a grace of a tenth of a second."""
    grace = 0.1
    stop = threading.Event()
    wrong: list[object] = []

    def guarded(work: Callable[[SqliteStore, SqliteBlobs], None]) -> None:
        mine = SqliteStore(state / "queue.db")
        try:
            work(mine, mine.blobs(state / "blobs"))
        except BaseException as error:
            wrong.append(error)
            stop.set()
        finally:
            mine.close()

    def write(mine: SqliteStore, blobs: SqliteBlobs) -> None:
        for n in range(60):
            data = b"%d" % (n % 20) if n % 4 else LARGE + b"%d" % (n % 20)
            began = time.time()
            (digest,) = blobs.put_many([data], ahead=True)
            (one,) = mine.submit([JobSpec("hw", "ada", digest, digest)])
            if time.time() - began < grace / 2 and blobs.get(digest) != data:
                wrong.append(digest)
            mine.cancel(one.id)
            mine.forget([one.id])

    def prune(mine: SqliteStore, blobs: SqliteBlobs) -> None:
        while not stop.is_set():
            blobs.prune(mine.referenced, older_than=grace)

    writers = [threading.Thread(target=guarded, args=(write,)) for _ in range(2)]
    pruners = [threading.Thread(target=guarded, args=(prune,)) for _ in range(2)]
    for thread in (*writers, *pruners):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in pruners:
        thread.join()
    assert wrong == []
    time.sleep(grace)
    store.blobs(state / "blobs").prune(nothing, older_than=0.0)
    assert blobs_of(state) == set()


# --- what an earlier version left -----------------------------------------------------------------


@pytest.fixture
def earlier(state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of store version 4: a queued job, whose blobs are files."""
    with monkeypatch.context() as version:
        version.setattr(_database, "MIGRATIONS", _schema.MIGRATIONS[:4])
        store, blobs = SqliteStore(state / "queue.db"), Blobs(state / "blobs")
        packed = assignment().pack(blobs)
        inputs = blobs.put(archive.pack(submission().bundle()))
        store.submit([JobSpec("hw", "ada", packed.digest, inputs, refs=packed.refs)])
        store.close()
    return state


def graded(store: Store) -> None:
    (job,) = store.list()
    assert job.state is State.DONE


def test_a_queue_of_version_4_goes_on(earlier: Path) -> None:
    before = {path.name for path in (earlier / "blobs").rglob("*") if path.is_file()}
    with Engine.open(earlier, workers=1, sandbox=FakeSandbox(scoring(4))) as engine:
        assert engine.drain(PATIENCE)
        graded(engine.store)
        assert rows(earlier) == {}, "what is there stays where it is"
        assert all(engine.blobs.has(digest) for digest in before)
        again = engine.submit(submission(), fresh=True)
        assert again.result(PATIENCE).score == 4
        assert set(rows(earlier)) == {again.job().inputs, again.job().spec}, "what is put is put where it belongs"
        engine.store.forget([job.id for job in engine.jobs() if job.id != again.id])
        age_blobs(earlier)
        engine.prune()
        assert engine.blobs.get(again.job().inputs)
        engine.store.forget([again.id])
        age_blobs(earlier)
        engine.prune()
    assert blobs_of(earlier) == set(), "files and rows"


def test_a_queue_of_version_4_is_moved_and_backed_up(earlier: Path, tmp_path: Path) -> None:
    label = backup(Place.of(str(earlier)), tmp_path / "kept")
    assert label.blobs == 2
    assert restore(tmp_path / "kept", Place.of(str(tmp_path / "new"))).jobs == 1
    assert migrate(Place.of(str(earlier)), Place.of(str(tmp_path / "moved"))).jobs == 1
    for folder in ("new", "moved"):
        assert len(rows(tmp_path / folder)) == 2, "there they are where they belong"
        with Engine.open(tmp_path / folder, workers=1, sandbox=FakeSandbox(scoring(4))) as engine:
            assert engine.drain(PATIENCE)
            graded(engine.store)


def test_a_backup_that_version_4_made_is_restored(earlier: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(earlier, kept)
    copy = settle_copy(kept / "queue.db")
    assert copy.beside == copy.digests
    label = Label(FORMAT, "0.1.0", 1.0, copy.counts, len(copy.digests), _digest_of(kept / "queue.db"))
    (kept / "backup.json").write_bytes(msgspec.json.encode(label))
    assert restore(kept, Place.of(str(tmp_path / "new"))).blobs == 2
    with Engine.open(tmp_path / "new", workers=1, sandbox=FakeSandbox(scoring(4))) as engine:
        assert engine.drain(PATIENCE)
        graded(engine.store)


# --- backup -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dest", ["kept", "kept.tar"])
def test_a_backup_has_what_its_jobs_need_and_no_more(
    store: SqliteStore, state: Path, blobs: SqliteBlobs, tmp_path: Path, dest: str
) -> None:
    small, large = blobs.put_many([SMALL, LARGE])
    gone = blobs.put_many([b"of nobody " * 100, LARGE + b"of nobody"])
    store.submit([JobSpec("hw", "ada", small, large)])
    assert backup(Place.of(str(state)), tmp_path / dest).blobs == 2
    kept = tmp_path / dest
    held = b"".join(path.read_bytes() for path in ([kept] if kept.is_file() else kept.rglob("*")) if path.is_file())
    assert b"of nobody" not in held
    assert SMALL in held
    restore(kept, Place.of(str(tmp_path / "new")))
    there = open_store(str(tmp_path / "new" / "queue.db"))
    back = open_blobs(there, tmp_path / "new")
    assert (back.get(small), back.get(large)) == (SMALL, LARGE)
    assert not any(back.has(digest) for digest in gone)
    there.close()


def test_a_backup_goes_where_nodes_share_a_folder(
    store: SqliteStore, state: Path, blobs: SqliteBlobs, tmp_path: Path
) -> None:
    small, large = blobs.put_many([SMALL, LARGE])
    store.submit([JobSpec("hw", "ada", small, large)])
    backup(Place.of(str(state)), tmp_path / "kept")
    restore(tmp_path / "kept", Place.of(str(tmp_path / "new"), blobs=str(tmp_path / "shared")))
    shared = Blobs(tmp_path / "shared")
    assert (shared.get(small), shared.get(large)) == (SMALL, LARGE)
    again = backup(Place.of(str(tmp_path / "new"), blobs=str(tmp_path / "shared")), tmp_path / "again")
    assert again.blobs == 2


@pytest.mark.parametrize(
    "again", [lambda blobs, data: blobs.put(data), lambda blobs, data: blobs.touch(digest_of(data))]
)
def test_a_clock_that_is_set_back_makes_nothing_old(
    blobs: SqliteBlobs, again: Callable[[SqliteBlobs, bytes], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    blobs.put(b"x")
    monkeypatch.setattr("minitango.store._sqlite_blobs.time", SimpleNamespace(time=lambda: now - 7200))
    assert again(blobs, b"x")
    assert blobs.prune(nothing, now=now + 60).count == 0
    assert blobs.prune(nothing, now=now + 3700).count == 1


# --- hand-ins that come with their claims ---------------------------------------------------------


def submit_of(store: SqliteStore, *digests: str) -> None:
    store.submit([JobSpec("hw", f"s{n}", digest, digest, refs=(digest,)) for n, digest in enumerate(digests)])


def test_small_hand_ins_come_with_their_claims(
    store: SqliteStore, blobs: SqliteBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = blobs.put(b"small"), blobs.put(bytes(MOST_BROUGHT + 1))
    gone = digest_of(b"never put")
    submit_of(store, small, large, gone)
    asked: list[str] = []
    read = blobs._read
    monkeypatch.setattr(blobs, "_read", lambda digest: asked.append(digest) or read(digest))
    assert [lease.inputs for lease in store.exchange(claim=3).leases] == [small, large, gone]
    assert blobs.get(small) == b"small"
    assert asked == []
    assert len(blobs.get(large)) == MOST_BROUGHT + 1
    assert blobs.get(small) == b"small", "it came once, and is read like any other then"
    assert asked == [large, small]
    with pytest.raises(BlobError):
        blobs.get(gone)


def test_what_comes_and_is_not_asked_for_is_bounded(
    store: SqliteStore, blobs: SqliteBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As hand-ins that are claimed and go back, since no consumer is free: all are read all the same."""
    monkeypatch.setattr("minitango.store._brought._HELD", 4)
    digests = [blobs.put(b"%d" % n) for n in range(10)]
    submit_of(store, *digests)
    assert len(store.exchange(claim=3).leases) == 3
    assert set(blobs._brought._held) == set(digests[:3])
    assert len(store.exchange(claim=7).leases) == 7
    assert len(blobs._brought) == 4
    assert set(blobs._brought._held) <= set(digests[3:]), "the latest"
    assert [blobs.get(digest) for digest in digests] == [b"%d" % n for n in range(10)]


def test_what_came_damaged_or_could_not_be_brought_is_read(
    store: SqliteStore, blobs: SqliteBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = [blobs.put(b"%d" % n) for n in range(4)]
    submit_of(store, *digests)
    store.exchange(claim=2)
    blobs._brought.bring([(digests[0], b"another")])
    assert [blobs.get(digest) for digest in digests[:2]] == [b"0", b"1"]

    def fail(*_: object) -> None:
        raise StoreError("it is away", id="store_busy")

    with monkeypatch.context() as patch:
        patch.setattr(store._db, "read", fail)
        assert len(store.exchange(claim=2).leases) == 2, "they are claimed all the same"
    assert not blobs._brought
    assert [blobs.get(digest) for digest in digests[2:]] == [b"2", b"3"]
