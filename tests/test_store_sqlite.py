"""What is special to the SQLite store: its file, its errors, its processes, its query plans."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from minitango.errors import StoreError, StoreFull, StoreTooNew
from minitango.job import (
    TRANSITIONS,
    Cancelled,
    Fail,
    Failure,
    Finish,
    JobSpec,
    Lease,
    Outcome,
    Release,
    Result,
    State,
    StepOutput,
)
from minitango.room import reserve
from minitango.store import Query, _claim, _database, _schema, open_store
from minitango.store.sqlite import SqliteStore

SPEC = JobSpec("hw", "ada", "s" * 64, "i" * 64)
RESULT = Result(Outcome.GRADED, 1, 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "queue.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


def refused(path: Path | str) -> StoreError:
    with pytest.raises(StoreError) as caught:
        SqliteStore(path)
    assert caught.value.hint
    return caught.value


# --- the file ----------------------------------------------------------------------------------


def test_file_and_folder_are_for_their_owner_alone(store: SqliteStore, path: Path) -> None:
    store.submit([SPEC])
    assert path.parent.stat().st_mode & 0o777 == 0o700
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    SqliteStore(tmp_path / "queue.db").close()
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (f"sqlite:///{tmp_path}/a.db", "sqlite:///b.db", "c/d.db", "sqlite:///:memory:", "sqlite:///e?mode=ro"):
        open_store(url).close()
    assert {file.name for file in tmp_path.iterdir()} == {"a.db", "b.db", "c", ":memory:", "e?mode=ro"}


def test_every_commit_is_on_disk(store: SqliteStore) -> None:
    """FULL is 2. What is written to the log is synced before a verb returns."""
    (journal,) = store._db._writer.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = store._db._writer.execute("PRAGMA synchronous").fetchone()
    assert (journal, synchronous) == ("wal", 2)


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    store = SqliteStore(path)
    store.submit([SPEC])
    store.close()


# --- files that cannot be one ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"name,score\nada,100\n" * 100, b"x", b"SQLite format 3\x00" + b"\xff" * 5000, b"\x00" * 8192]
)
def test_a_file_that_is_not_sqlite(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    error = refused(path)
    assert error.id == "store_corrupt"
    assert "is not a minitango store" in str(error)
    assert path.read_bytes() == content, "it is left as it was"


@pytest.mark.parametrize("script", ["CREATE TABLE grades (x)", "PRAGMA user_version = 1", "PRAGMA application_id = 7"])
def test_another_programs_file_is_left_alone(path: Path, script: str) -> None:
    path.parent.mkdir()
    db = sqlite3.connect(path)
    db.execute(script)
    db.commit()
    db.close()
    before = path.read_bytes()
    error = refused(path)
    assert error.id == "store_corrupt"
    assert "is not a minitango store" in str(error)
    assert path.read_bytes() == before


def test_a_file_that_a_later_version_wrote(path: Path) -> None:
    SqliteStore(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    error = refused(path)
    assert isinstance(error, StoreTooNew)
    assert error.id == "store_too_new"
    assert "99" in str(error)
    assert "upgrade" in error.hint


def damage(path: Path, pages: list[int]) -> None:
    data = bytearray(path.read_bytes())
    for page in pages:
        data[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    path.write_bytes(data)


def test_a_file_that_is_damaged_throughout(path: Path) -> None:
    SqliteStore(path).close()
    damage(path, list(range(2, path.stat().st_size // 4096 + 1)))
    error = refused(path)
    assert error.id == "store_corrupt"
    assert "damaged" in str(error)


def test_damage_that_is_met_later(path: Path, store: SqliteStore) -> None:
    store.submit([SPEC])
    roots = [page for (page,) in store._db.read("SELECT rootpage FROM sqlite_master")]
    store.close()
    damage(path, roots)
    store = SqliteStore(path)
    for verb in (store.list, store.recover, lambda: store.submit([SPEC]), lambda: store.exchange(claim=1)):
        with pytest.raises(StoreError) as caught:
            verb()
        assert caught.value.id == "store_corrupt"
        assert str(path) in str(caught.value)
        assert "recover" in caught.value.hint
    store.close()


@pytest.mark.parametrize(
    ("script", "verb"),
    [
        ("UPDATE jobs SET labels = '{'", "get"),
        ("UPDATE jobs SET failure = '[]'", "get"),
        ("UPDATE results SET result = x'7b'", "result"),
    ],
)
def test_one_record_that_is_damaged(path: Path, store: SqliteStore, script: str, verb: str) -> None:
    damaged, well = (job.id for job in store.submit([SPEC, SPEC]))
    (lease,) = store.exchange(claim=1).leases
    assert lease.job == damaged
    store.exchange([Finish(lease, RESULT)])
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f"{script} WHERE {'job' if 'results' in script else 'seq'} = 1")
    with pytest.raises(StoreError, match="in the store is damaged") as caught:
        getattr(store, verb)(damaged)
    assert caught.value.id == "record_damaged"
    assert "backup" in caught.value.hint
    assert store.get(well).id == well


@pytest.mark.parametrize("how", ["removed", "moved", "replaced", "emptied"])
def test_a_file_that_went_while_it_was_open(path: Path, store: SqliteStore, how: str) -> None:
    """What is written to it would never be found again."""
    store.submit([SPEC])
    store.shrink()
    store.look_after()
    match how:
        case "removed":
            path.unlink()
        case "moved":
            path.parent.rename(path.parent.with_name("elsewhere"))
        case "replaced":
            other = path.with_suffix(".new")
            other.write_bytes(path.read_bytes())
            other.replace(path)
        case _:
            shutil.rmtree(path.parent)
            path.parent.mkdir()
    for look in (store.look_after, lambda: store.submit([SPEC])):
        with pytest.raises(StoreError, match="removed, moved or replaced") as caught:
            look()
        assert caught.value.id == "state_gone"
        assert "minitango restore" in caught.value.hint


def test_a_disk_that_fails(path: Path, store: SqliteStore) -> None:
    """A bound on a file's size stands for it: the kernel refuses a write for another reason than a lack of room."""
    store.submit([SPEC])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = sum(file.stat().st_size for file in path.parent.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        with pytest.raises(StoreError) as caught:
            store.submit([structs.replace(SPEC, title="x" * most)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.id == "store_io"
    assert str(path) in caught.value.hint
    assert len(store.list()) == 1


def test_a_file_whose_tables_are_gone(path: Path) -> None:
    SqliteStore(path).close()
    db = sqlite3.connect(path)
    db.execute("DROP TABLE jobs")
    db.close()
    store = SqliteStore(path)
    with pytest.raises(StoreError) as caught:
        store.list()
    assert caught.value.id == "store_corrupt"
    store.close()


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    error = refused(tmp_path)
    assert error.id == "store_path"
    assert "directory" in str(error)


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file" / "queue.db").id == "store_path"
    assert refused(tmp_path / "file" / "deeper" / "queue.db").id == "store_path"


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    assert refused(tmp_path / ("x" * 300)).id == "store_path"


def test_a_fifo_in_place_of_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert refused(tmp_path / "fifo").id == "store_path"


def test_an_old_sqlite(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    error = refused(path)
    assert error.id == "sqlite_too_old"
    assert "3.34.1" in str(error)


AS_NOBODY = """
import json, os, sys
from minitango.store.sqlite import SqliteStore
from minitango.errors import StoreError
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    SqliteStore(sys.argv[1])
except StoreError as error:
    print(json.dumps([error.id, str(error), error.hint]))
else:
    print("[]")
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    if not all(parent.stat().st_mode & 0o001 for parent in folder.parents):
        folder.rmdir()
        pytest.skip("the folder for temporary files is closed to other users")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("folder", "file", "refused"),
    [
        (0o777, None, False),
        (0o777, 0o666, False),
        (0o555, None, True),
        (0o555, 0o666, True),
        (0o777, 0o444, True),
        (0o777, 0o000, True),
    ],
)
def test_a_place_that_cannot_be_written(public: Path, folder: int, file: int | None, refused: bool) -> None:
    """In a process without root's rights, on which permissions do not bind."""
    state = public / "state"
    state.mkdir()
    path = state / "queue.db"
    if file is not None:
        SqliteStore(path).close()
        path.chmod(file)
    state.chmod(folder)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, path], check=True, capture_output=True, text=True, timeout=60
    )
    state.chmod(0o700)
    answer = json.loads(done.stdout)
    assert bool(answer) == refused, answer
    if refused:
        error_id, message, hint = answer
        assert error_id == "store_readonly", message
        assert str(path) in message
        assert "--state" in hint


# --- a disk that is full -----------------------------------------------------------------------


def test_a_full_disk_refuses_a_submit_whole_and_goes_on_when_there_is_room(store: SqliteStore) -> None:
    """By SQLite's own limit on its file, which fails as a full disk does."""
    kept = [one.id for one in store.submit([SPEC] * 10)]
    (pages,) = store._db._writer.execute("PRAGMA page_count").fetchone()
    store._db._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFull) as caught:
        store.submit([SPEC] * 1000)
    assert caught.value.id == "store_full"
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert [job.id for job in store.list()] == kept
    assert store.counts()[State.QUEUED] == 10
    store._db._writer.execute("PRAGMA max_page_count = 1000000")
    assert len(store.submit([SPEC] * 1000)) == 1000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB of one's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or libc.mount(b"tmpfs", bytes(disk), b"tmpfs", 0, b"size=1m") != 0:
        pytest.skip("mounting a small disk takes root; max_page_count stands in for it above")
    yield disk
    libc.umount2(bytes(disk), 2)


def test_a_disk_that_is_really_full(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.room.reserve", lambda total: 0)
    store = SqliteStore(small_disk / "queue.db")
    kept = 0
    with pytest.raises(StoreFull):  # noqa: PT012 - the last of many is refused
        for _ in range(10_000):
            kept += len(store.submit([SPEC] * 20))
    assert kept > 0
    assert store.counts()[State.QUEUED] == len(store.list()) == kept
    store.close()


def test_a_disk_that_is_nearly_full_takes_results_and_no_more_work(small_disk: Path) -> None:
    store = SqliteStore(small_disk / "queue.db")
    store.submit([SPEC] * 3)
    ballast = small_disk / "ballast"
    left = os.statvfs(small_disk)
    ballast.write_bytes(b"x" * (left.f_bavail * left.f_frsize - 90_000))
    for _ in range(2):
        with pytest.raises(StoreFull, match="nearly full") as caught:
            store.submit([SPEC])
        assert caught.value.id == "store_full"
        assert "df -h" in caught.value.hint
    leases = store.exchange(claim=3).leases
    assert len(leases) == 3
    assert store.exchange([Finish(lease, RESULT) for lease in leases]).refused == ()
    assert store.counts()[State.DONE] == 3
    ballast.unlink()
    assert store.submit([SPEC])[0].created, "it takes work again by itself"
    store.close()


def test_how_much_of_a_disk_is_kept_for_results(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for total, wanted in (
        (1 << 20, 1 << 17),
        (256 << 20, 32 << 20),
        (512 << 20, 64 << 20),
        (1 << 30, 64 << 20),
        (10 << 30, (10 << 30) // 100),
        (500 << 30, 1 << 30),
    ):
        assert reserve(total) == wanted
    store = SqliteStore(path)
    disk = os.statvfs(path.parent)
    kept = reserve(disk.f_blocks * disk.f_frsize) // disk.f_frsize
    for left, taken in ((kept + 1, True), (kept - 1, False), (kept + 1, True)):
        values = list(disk)
        values[4] = left  # f_bavail
        monkeypatch.setattr("os.statvfs", lambda path, values=values: os.statvfs_result(values))
        if taken:
            store.submit([SPEC])
        else:
            with pytest.raises(StoreFull):
                store.submit([SPEC])
    store.close()


def test_no_room_for_a_new_store(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * (1 << 20))
    assert isinstance(refused(small_disk / "queue.db"), StoreFull)


# --- migrations --------------------------------------------------------------------------------


def test_openers_at_once_make_one_store(path: Path) -> None:
    """The first opening of a file is by twelve threads at once, each with connections of its own."""
    for n in range(5):
        place = path.with_name(f"{n}.db")
        barrier = threading.Barrier(12)
        opened: list[SqliteStore] = []

        def run(place: Path = place, barrier: threading.Barrier = barrier, opened: list[SqliteStore] = opened) -> None:
            barrier.wait()
            store = SqliteStore(place)
            store.submit([SPEC])
            opened.append(store)

        threads = [threading.Thread(target=run) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [store.counts()[State.QUEUED] for store in opened] == [12] * 12
        for store in opened:
            store.close()


def test_processes_at_once_make_one_store(path: Path) -> None:
    code = (
        "import sys; from minitango.store import open_store; from minitango.job import JobSpec;"
        "open_store(sys.argv[1]).submit([JobSpec('hw', 'ada', 's', 'i')])"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, f"sqlite:///{path}"]) for _ in range(8)]
    assert [child.wait(60) for child in children] == [0] * 8
    store = SqliteStore(path)
    assert store.counts()[State.QUEUED] == 8
    store.close()


def test_a_migration_is_applied_once_and_keeps_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(path)
    store.submit([SPEC])
    store.close()
    second = ("CREATE TABLE news (x)", "INSERT INTO news VALUES (1)")
    for _ in range(2):
        monkeypatch.setattr(_database, "MIGRATIONS", (*_schema.MIGRATIONS, second))
        store = SqliteStore(path)
        assert store._db.read("SELECT x FROM news") == [(1,)]
        assert len(store.list()) == 1
        store.close()
    monkeypatch.undo()
    assert isinstance(refused(path), StoreTooNew)


@pytest.mark.parametrize("version", range(1, len(_schema.MIGRATIONS)))
def test_a_queue_of_an_earlier_version_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    with monkeypatch.context() as first:
        first.setattr(_database, "MIGRATIONS", _schema.MIGRATIONS[:version])
        SqliteStore(path).close()
    db = sqlite3.connect(path)
    for number, state in enumerate(("queued", "cancelled", "queued"), 1):  # as that version wrote them
        db.execute(
            "INSERT INTO jobs (id, queue, state, priority, rank, lane, due_since, submitted, assignment, student, "
            "course, title, spec, inputs, ended, ended_seq) "
            "VALUES (?, 'default', ?, 0, 0, '', 1, 1, 'hw', 'ada', '', '', 's', 'i', ?, ?)",
            (f"abcd00000{number}", state, *((2.0, 1) if state == "cancelled" else (None, None))),
        )
    if version >= 3:
        db.execute("INSERT INTO lanes VALUES ('default', '')")
    db.execute("UPDATE meta SET value = 1 WHERE name = 'ended_seq'")
    db.execute("INSERT INTO counts VALUES ('default', 'queued', 2), ('default', 'cancelled', 1)")
    db.commit()
    db.close()
    store = SqliteStore(path)
    assert [lease.job for lease in store.exchange(claim=3).leases] == ["abcd000001", "abcd000003"]
    assert_books_are_right(store)
    assert store._db.read("PRAGMA integrity_check") == [("ok",)]
    store.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SqliteStore(path).close()
    broken = ("CREATE TABLE news (x)", "INSERT INTO nowhere VALUES (1)")
    with monkeypatch.context() as patched:
        patched.setattr(_database, "MIGRATIONS", (*_schema.MIGRATIONS, broken))
        refused(path)
    store = SqliteStore(path)
    assert store._db.read("SELECT name FROM sqlite_master WHERE name = 'news'") == []
    store.close()


# --- locks -------------------------------------------------------------------------------------


def test_a_lock_that_is_not_given_back_is_an_error_with_a_name(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_database, "BUSY_TIMEOUT", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError) as caught:
        store.submit([SPEC])
    assert caught.value.id == "store_busy"
    assert str(path) in caught.value.hint
    assert store.list() == [], "reading goes on"
    other.execute("ROLLBACK")
    other.close()
    assert store.submit([SPEC])


def test_a_lock_that_is_given_back_is_waited_for(store: SqliteStore, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, other.execute, ("ROLLBACK",))
    release.start()
    assert store.submit([SPEC])
    release.join()
    other.close()


# --- killed in the middle ----------------------------------------------------------------------

VICTIM = """
import sys
from minitango.job import Finish, JobSpec, Outcome, Result, StepOutput
from minitango.store import open_store
store = open_store(sys.argv[1])
(done, running, waiting) = store.submit([JobSpec("hw", n, "s", "i", key=n) for n in ("done", "running", "waiting")])
print("submitted", flush=True)
leases = store.exchange(claim=2).leases
print("claimed", flush=True)
store.exchange([Finish(leases[0], Result(Outcome.GRADED, 1, 1), (StepOutput("s", b"x"),))])
print("finished", flush=True)
store.cancel(waiting.id)
print("cancelled", flush=True)
store.recover()
print("recovered", flush=True)
"""
STORY = ["submitted", "claimed", "finished", "cancelled", "recovered"]
AFTER = [
    {},
    {State.QUEUED: 3},
    {State.QUEUED: 1, State.RUNNING: 2},
    {State.QUEUED: 1, State.RUNNING: 1, State.DONE: 1},
    {State.RUNNING: 1, State.DONE: 1, State.CANCELLED: 1},
    {State.QUEUED: 1, State.DONE: 1, State.CANCELLED: 1},
]


@pytest.mark.parametrize("side", ["before_commit", "after_commit"])
@pytest.mark.parametrize("step", range(5), ids=STORY)
def test_killed_at_a_commit_nothing_is_lost_and_nothing_is_half(path: Path, step: int, side: str) -> None:
    place = ["submit", "exchange:1", "exchange:2", "cancel", "recover"][step]
    verb, _, count = place.partition(":")
    child = subprocess.run(
        [sys.executable, "-c", VICTIM, f"sqlite:///{path}"],
        check=False, capture_output=True, text=True, timeout=60,
        env={**os.environ, "MINITANGO_FAILPOINT": f"store.{verb}.{side}:{count or 1}"},
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert child.stdout.split() == STORY[:step], "it died where it was told to"

    store = SqliteStore(path)
    happened = step + (side == "after_commit")
    assert {state: n for state, n in store.counts().items() if n} == AFTER[happened]
    assert_books_are_right(store)
    for job in store.list(Query(states=(State.DONE,))):
        assert store.result(job.id) == RESULT
        assert store.outputs(job.id)[0].head == b"x"
        assert store.attempts(job.id)[0].ended_by == "finish"

    # And it goes on: submitted again, taken back, graded once each.
    store.submit([JobSpec("hw", name, "s", "i", key=name) for name in ("done", "running", "waiting")])
    store.recover()
    while leases := store.exchange(claim=5).leases:
        store.exchange([Finish(lease, RESULT) for lease in leases])
    graded = [job.student for job in store.list(Query(states=(State.DONE,)))]
    assert sorted(graded) == ["done", "running", "waiting"]
    assert_books_are_right(store)
    store.close()


def assert_books_are_right(store: SqliteStore) -> None:
    """The kept counts and the last number are what a scan of the rows gives."""
    scanned: dict[str, int] = dict(store._db.read("SELECT state, count(*) FROM jobs GROUP BY state"))
    assert {state.value: n for state, n in store.counts().items() if n} == scanned
    ((highest,),) = store._db.read("SELECT coalesce(max(ended_seq), 0) FROM jobs")
    assert store.last_ended() == highest


# --- the SQL -----------------------------------------------------------------------------------


def test_every_change_of_a_state_is_an_edge(store: SqliteStore, path: Path) -> None:
    """Seen from below: a trigger writes down what the SQL did to each row."""
    db = sqlite3.connect(path)
    db.executescript(
        "CREATE TABLE seen (source TEXT, target TEXT);"
        "CREATE TRIGGER a AFTER INSERT ON jobs BEGIN INSERT INTO seen VALUES (NULL, NEW.state); END;"
        "CREATE TRIGGER b AFTER UPDATE ON jobs WHEN OLD.state <> NEW.state "
        "BEGIN INSERT INTO seen VALUES (OLD.state, NEW.state); END;"
    )
    failure = Failure("x", "x")

    def lease(**rest: object) -> Lease:
        store.submit([SPEC])
        (lease,) = store.exchange(claim=1).leases
        return lease

    store.exchange([Finish(lease(), RESULT)])
    store.exchange([Fail(lease(), failure, retry=False)])
    store.exchange([Cancelled(lease())])
    for ack in (Fail(lease(), failure), Release(lease())):
        (job,) = store.exchange([ack]).settled
        store.cancel(job.id)
    lease()
    for _ in range(5):
        store.recover(now=0)
        store.exchange(claim=1, now=1e12)
        store.exchange(claim=1, solo=True, now=1e12)
    seen = set(db.execute("SELECT source, target FROM seen").fetchall())
    db.close()
    assert seen == {(edge.source and edge.source.value, edge.target.value) for edge in TRANSITIONS}


def test_a_change_that_is_no_edge_is_undone(store: SqliteStore) -> None:
    store.submit([SPEC])
    with pytest.raises(AssertionError, match="no edge"):
        store._db.transact("submit", lambda tx: tx.move(State.DONE, "finish", State.QUEUED))
    assert_books_are_right(store)
    assert store.submit([SPEC])


def plan(store: SqliteStore, sql: str, parameters: int) -> str:
    found = store._db._writer.execute("EXPLAIN QUERY PLAN " + sql, [0] * parameters).fetchall()
    return "\n".join(row[3] for row in found)


def test_a_claim_looks_at_no_more_rows_than_it_takes(store: SqliteStore) -> None:
    """By the plan: the index gives the rows in claim order (no sort), and nothing is scanned."""
    claim = _claim._CLAIM % _claim._FIRST_OF_LANE
    assert "SCAN jobs" not in plan(store, claim, 8), "the few that are first in their lanes are all that is sorted"
    looks = (
        (_claim._FIRST_OF_LANE, 4, "jobs_ready"),
        (_claim._PROMOTE, 3, "jobs_due"),
        (_claim._LANES, 3, "jobs_ready"),
    )
    for sql, parameters, index in looks:
        text = plan(store, sql, parameters)
        assert f"INDEX {index}" in text
        assert "SCAN jobs" not in text
        assert "TEMP B-TREE" not in text


@pytest.mark.parametrize(
    ("verb", "index"),
    [
        (lambda store: store.cancel_requested(), "jobs_to_cancel"),
        (lambda store: store.next_due(), "jobs_due"),
        (lambda store: store.solo_since(), "jobs_solo"),
        (lambda store: store.ended_since(0), "jobs_ended"),
        (lambda store: store.counts(), "PRIMARY KEY"),
        (lambda store: store.referenced(["a"]), "blob_refs_digest"),
        (lambda store: store.list(Query(ids=("a",))), "sqlite_autoindex_jobs_1"),
        (lambda store: store.last_ended(), "PRIMARY KEY"),
    ],
)
def test_reads_of_the_engine_scan_nothing(
    store: SqliteStore, verb: object, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    read = store._db.read

    def spy(sql: str, *parameters: object) -> list[tuple[object, ...]]:
        asked.append((sql, len(parameters)))
        return read(sql, *parameters)

    monkeypatch.setattr(store._db, "read", spy)
    verb(store)  # type: ignore[operator]
    ((sql, parameters),) = asked
    text = plan(store, sql, parameters)
    assert index in text
    assert "SCAN jobs" not in text
    assert "SCAN blob_refs" not in text
    assert "SCAN counts" not in text


def test_a_claim_costs_the_same_among_a_hundred_times_as_many(tmp_path: Path) -> None:
    """In steps of SQLite's virtual machine, which do not depend on how busy the machine is."""

    def steps(queued: int, waiting: int) -> int:
        clock = [100.0]
        store = SqliteStore(tmp_path / f"{queued}.{waiting}.db", clock=lambda: clock[0])
        store.submit([SPEC] * waiting)
        leases = store.exchange(claim=waiting).leases
        store.exchange([Fail(lease, Failure("x", "x")) for lease in leases])
        store.submit([SPEC] * queued)
        taken = 0

        def count() -> int:
            nonlocal taken
            taken += 1
            return 0

        store._db._writer.set_progress_handler(count, 1)
        assert len(store.exchange(claim=4).leases) == 4
        store._db._writer.set_progress_handler(None, 0)
        store.close()
        return taken

    small = steps(50, 0)
    assert steps(5000, 0) <= small * 1.1
    assert steps(50, 2000) <= small * 1.1 + 20


# --- watching ----------------------------------------------------------------------------------


def test_a_watch_survives_an_error_and_tells_that_it_may_have_missed_something(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[sqlite3.Connection] = []
    connect = store._db.connect

    def spy() -> sqlite3.Connection:
        opened.append(connect())
        return opened[-1]

    monkeypatch.setattr(store._db, "connect", spy)
    called = threading.Event()
    stop = store.watch(called.set)
    opened[0].close()  # from now on its thread meets errors
    assert called.wait(10)
    called.clear()
    other = SqliteStore(path)
    other.submit([SPEC])
    assert called.wait(10)
    stop()
    other.close()


# --- what was forgotten ------------------------------------------------------------------------


def lived(store: SqliteStore, students: list[str]) -> None:
    """Jobs that wait, fail, are put back and are graded, so that their rows move in the file and grow over pages."""
    store.submit(
        [
            JobSpec(
                "hw", student, "s" * 64, f"{n:064}", key=f"k{n}", title=f"{student}.zip", labels={"of": student * 50}
            )
            for n, student in enumerate(students)
        ]
    )
    for attempt in range(4):
        leases = store.exchange(claim=1000, now=1e9 + 1000 * attempt).leases
        acks: list[Fail | Release | Finish] = []
        for n, lease in enumerate(leases):
            name = lease.student
            result = Result(Outcome.GRADED, 1, 1, feedback=f"for {name} " * 900 * (n % 3))
            outputs = (StepOutput("run", f"{name} says ".encode() * 3000 * (n % 2)),)
            words = [Fail(lease, Failure("x", f"of {name} " * 100)), Release(lease), Finish(lease, result, outputs)]
            acks.append(words[2 if attempt == 3 else n % 3])
        store.exchange(acks, now=1e9 + 1000 * attempt + 1)


@pytest.mark.parametrize("beside", [False, True])
def test_nothing_of_what_was_forgotten_is_in_the_files(store: SqliteStore, path: Path, beside: bool) -> None:
    """Beside an engine too, which holds the file open, and whose log it is as well."""
    lived(store, ["victim" if n % 7 == 3 else f"student{n}" for n in range(200)])
    theirs = [job.id for job in store.list(Query(student="victim"))]
    pruner = SqliteStore(path) if beside else store
    assert pruner.forget(theirs) == len(theirs) == 29
    held = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"victim" not in held
    assert b" says student198 says" in held
    assert [job.student for job in store.list()].count("victim") == 0
    pruner.close()


def test_nothing_of_whose_it_was_is_in_the_files(store: SqliteStore, path: Path) -> None:
    for n in range(50):
        (one,) = store.submit([JobSpec("hw", "victim", "s" * 64, f"{n:064}", labels={"group": '["victim", "other"]'})])
        store.cancel(one.id)
    for job in store.list():
        assert store.hand_over(job.id, "other", {})
    assert b"victim" not in b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert {job.student for job in store.list()} == {"other"}


def test_a_callback_of_whose_job_nothing_is_left_keeps_no_other_waiting(store: SqliteStore, path: Path) -> None:
    told = structs.replace(SPEC, callback="https://x.example/")
    lost, there = (one.id for one in store.submit([told, told]))
    for job in (lost, there):
        store.cancel(job)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM jobs WHERE id = ?", (lost,))
    assert [errand.job for errand in store.take_callbacks(9) if store.callback_delivered(errand)] == [there]
    assert store.next_callback() is None


def test_who_reads_meanwhile_keeps_nobody_from_forgetting(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_database, "LOG_PATIENCE", 0.05)
    lived(store, ["victim", "other"])
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM jobs").fetchall()
    assert store.forget([store.list()[0].id]) == 1
    assert not store._db.empty_log()
    reader.close()
    assert store._db.empty_log()
    assert b"victim" not in b"".join(file.read_bytes() for file in path.parent.iterdir())


# --- what is recorded ahead of the disk ----------------------------------------------------------------


def syncs(store: SqliteStore) -> int:
    """PRAGMA synchronous of the connection that writes."""
    return int(store._db._writer.execute("PRAGMA synchronous").fetchone()[0])


def test_what_is_recorded_ahead_is_there_at_once_and_on_the_disk_after_a_sync(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fdatasync

    def note(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", note)
    (done,) = store.submit([SPEC])
    (lease,) = store.exchange(claim=1).leases
    assert syncs(store) == 2, "FULL"
    store.exchange([Finish(lease, RESULT)], ahead=True)
    assert syncs(store) == 1, "NORMAL: SQLite itself does not wait"
    assert store.get(done.id).state is State.DONE
    assert not synced
    store.sync()
    assert synced == [f"{path}-wal"]
    store.submit([SPEC])
    assert syncs(store) == 2, "what is submitted is on the disk when it returns, whatever came before"


def test_a_log_that_could_not_be_written_is_written_elsewhere(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed sync the kernel may say that the next one succeeded, of pages that it has let go."""
    store.submit([SPEC])
    store.exchange(claim=1, ahead=True)
    log = Path(f"{path}-wal")
    assert log.stat().st_size
    with monkeypatch.context() as patch:

        def fail(fd: int) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(StoreError) as caught:
            store.sync()
        assert caught.value.id == "store_io"
    with monkeypatch.context() as patch:
        patch.setattr(store._db, "empty_log", lambda: False)
        with pytest.raises(StoreError, match="could not be brought to the disk"):
            store.sync()
    store.sync()
    assert log.stat().st_size == 0, "the whole log went into the file"
    store.exchange(claim=1, ahead=True)
    store.sync()


class Failing:
    """The connection that writes, on a disk that does not take a commit."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self._real = real

    def execute(self, sql: str, *rest: object) -> sqlite3.Cursor:
        if sql == "COMMIT":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
            raise error
        return self._real.execute(sql, *rest)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


@pytest.mark.parametrize("what", ["sync", "commit"])
def test_what_is_accepted_after_the_disk_failed_stands_behind_nothing_that_may_be_lost(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What was recorded ahead may never reach the disk then, and a log is good up to its first hole."""
    store.submit([SPEC])
    store.exchange(claim=1, ahead=True)

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        if what == "sync":
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(StoreError):
                store.sync()
        else:
            patch.setattr(store._db, "_writer", Failing(store._db._writer))
            with pytest.raises(StoreError) as caught:
                store.submit([SPEC])
            assert caught.value.id == "store_io"
    with monkeypatch.context() as patch:
        patch.setattr(store._db, "empty_log", lambda: False)
        with pytest.raises(StoreError, match="could not be brought to the disk"):
            store.submit([SPEC])
    assert len(store.list()) == 1, "nothing of it happened"
    before = Path(f"{path}-wal").stat().st_size
    store.submit([SPEC])
    assert Path(f"{path}-wal").stat().st_size <= before, "the log begins anew, with this"
    assert len(store.list()) == 2


def test_a_log_that_was_made_anew_is_found(store: SqliteStore, path: Path) -> None:
    store.submit([SPEC])
    store.sync()
    Path(f"{path}-wal").unlink()  # as the last connection of another process does
    with pytest.raises(StoreError, match=r"queue\.db-wal"):
        store.sync()
    Path(f"{path}-wal").touch()
    store._db._unsafe = False
    store.sync()
