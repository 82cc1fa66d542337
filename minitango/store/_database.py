"""One SQLite file that is a minitango store: opened, checked, migrated, and used in whole transactions.

Knows files and locks; what the tables mean is `sqlite.py`'s.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from minitango.errors import ConfigError, StoreError, StoreTooNew
from minitango.failpoint import failpoint
from minitango.job import TRANSITIONS, State
from minitango.store._rows import Row, new_token
from minitango.store._schema import APPLICATION_ID, MIGRATIONS
from minitango.store._sqlite_errors import from_os, from_sqlite, gone, is_busy, is_io, not_a_store, unsynced

OLDEST_SQLITE: Final = (3, 35, 0)
"""The first library with RETURNING."""
BUSY_TIMEOUT: Final = 60.0
"""Seconds to wait for another process's transaction, which takes milliseconds."""
LOG_PATIENCE: Final = 2.0
"""Seconds for which a log is tried to be emptied while others read from it."""
WATCH_INTERVAL: Final = 0.07
"""Seconds. Under the 100 ms that are promised; what a poll costs is waking up (its query takes 2 us)."""
SMALLEST_PAGE: Final = 512
"""Bytes. SQLite takes a file with fewer for an empty one, and would write over it."""

_EDGES: Final = frozenset((edge.source, edge.verb, edge.target) for edge in TRANSITIONS)

_making: Final = threading.Lock()
"""POSIX drops a process's locks of a file when it closes any descriptor of it. So the one that creates the file is
closed before another thread of this process can have SQLite open it."""

T = TypeVar("T")


class Transaction:
    """A write transaction under way. It keeps the books (counts, the order of ends) of what it moves."""

    def __init__(self, connection: sqlite3.Connection, queue: str, now: float) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.now = now
        self._queue = queue
        self._moved: dict[State, int] = {}
        self._ended_seq: int | None = None
        self._later: dict[str, list[Sequence[object]]] = {}

    def later(self, statement: str, row: Sequence[object]) -> None:
        """Execute this before the commit, with all other rows of the same statement: for what nobody reads before."""
        self._later.setdefault(statement, []).append(row)

    def move(self, source: State | None, verb: str, target: State, n: int = 1) -> None:
        """Count `n` jobs from one state to another. Every change of a state passes here, and must be an edge."""
        if (source, verb, target) not in _EDGES:
            raise AssertionError(f"{source} --{verb}--> {target} is no edge of the state machine")
        if source is not None:
            self._moved[source] = self._moved.get(source, 0) - n
        self._moved[target] = self._moved.get(target, 0) + n

    def drop(self, state: State) -> None:
        """Count one job that is forgotten."""
        self._moved[state] = self._moved.get(state, 0) - 1

    def arrive(self, state: State) -> None:
        """Count one job that comes from another store, as it is."""
        self._moved[state] = self._moved.get(state, 0) + 1

    def next_ended(self) -> int:
        """The number of the next job that ends. Taken under the write lock, so seen in its order."""
        self._ended_seq = self.last_ended() + 1
        return self._ended_seq

    def last_ended(self) -> int:
        """The number of the last job that ended, in this transaction or before it."""
        if self._ended_seq is not None:
            return self._ended_seq
        ((value,),) = self.execute("SELECT value FROM meta WHERE name = 'ended_seq'").fetchall()
        return int(value)

    def flush(self) -> None:
        """Write what was left for later, and the books."""
        for statement, rows in self._later.items():
            self.executemany(statement, rows)
        if self._ended_seq is not None:
            self.execute("UPDATE meta SET value = ? WHERE name = 'ended_seq'", (self._ended_seq,))
        for state, n in self._moved.items():
            if n:
                self.execute(
                    "INSERT INTO counts (queue, state, n) VALUES (?, ?, ?) "
                    "ON CONFLICT (queue, state) DO UPDATE SET n = n + excluded.n",
                    (self._queue, state.value, n),
                )


class Database:
    """An open store file: one connection that writes and one that reads, each behind a lock of its own.

    So threads may share it, and no read waits for a commit. Not to be used across a fork.
    """

    def __init__(self, path: str | Path, queue: str, clock: Callable[[], float]) -> None:
        self.path = Path(path).absolute()
        self._queue = queue
        self._clock = clock
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._watchers: list[Callable[[], None]] = []
        self._ahead = False
        self._within: tuple[int, Transaction] | None = None
        """The transaction under way, and the thread whose it is."""
        self._unsafe = False
        """Whether the disk failed a `sync` or a commit, and no `sync` succeeded since."""
        self._log = _Log(self.path)
        self._identity: tuple[int, int] | None = None
        """Which file it is: the device's number, and its own."""
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StoreError(
                f"SQLite {sqlite3.sqlite_version} is too old: minitango needs 3.35 or later",
                hint="use a Python that was built with a newer SQLite",
                id="sqlite_too_old",
            )
        try:
            with _making:
                _make_file(self.path)
        except OSError as error:
            raise from_os(error, self.path) from error
        self._writer = self.connect()
        self._identity = self._identify()
        try:
            _check_and_migrate(self._writer, self.path)
            self._writer.execute("PRAGMA busy_timeout = 0")  # `_begin` waits
            self._reader = self.connect()
            self._reader.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            self._writer.close()
            raise from_sqlite(error, self.path) from error
        except BaseException:
            self._writer.close()
            raise

    def connect(self) -> sqlite3.Connection:
        """One more connection to the file, for whoever closes it. StoreError."""
        try:
            connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA secure_delete = ON")  # always: what an UPDATE moved leaves traces, too
                connection.execute("PRAGMA cache_size = -16000")
                connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
                connection.create_function("new_token", 0, new_token)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise from_sqlite(error, self.path) from error
        return connection

    def look_after(self) -> None:
        """See `Upkeep.look_after`."""
        if self._identify() != self._identity:
            raise gone(self.path)

    def _identify(self) -> tuple[int, int] | None:
        """Which file is at our path; None: none is. What a disk says else is told by who reads it."""
        try:
            status = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return self._identity
        return status.st_dev, status.st_ino

    def transact(
        self, verb: str, body: Callable[[Transaction], T], now: float | None = None, *, ahead: bool = False
    ) -> T:
        """Run `body` in one transaction: durable and whole when this returns, undone when it raises. `ahead`: durable
        once `sync` has returned, or a later transaction without it. From within a `body` it is part of that one."""
        if self._is_within():
            assert self._within is not None
            return body(self._within[1])
        if self._unsafe and not ahead:
            self.sync()  # else it would stand in the log behind what may be lost
        with self._write_lock:
            try:
                try:
                    answer = self._transacted(verb, body, now, ahead=ahead)
                except sqlite3.OperationalError as error:
                    if not bears_any_text(self._writer, error):
                        raise
                    answer = self._transacted(verb, body, now, ahead=ahead)
            except sqlite3.Error as error:
                self._unsafe = self._unsafe or is_io(error)
                raise from_sqlite(error, self.path) from error
            except (UnicodeEncodeError, OverflowError) as error:
                raise ConfigError(
                    f"a value cannot be stored: {error}",
                    hint="text must be Unicode, and integers must have 64 bits at most",
                    id="not_storable",
                ) from error
        failpoint(f"store.{verb}.after_commit")
        return answer

    def _transacted(self, verb: str, body: Callable[[Transaction], T], now: float | None, *, ahead: bool) -> T:
        writer = self._writer
        try:
            if ahead is not self._ahead:
                writer.execute(f"PRAGMA synchronous = {'NORMAL' if ahead else 'FULL'}")
                self._ahead = ahead
            _begin(writer)
            transaction = Transaction(writer, self._queue, self._clock() if now is None else now)
            self._within = threading.get_ident(), transaction
            try:
                answer = body(transaction)
            finally:
                self._within = None
            transaction.flush()
            failpoint(f"store.{verb}.before_commit")
            writer.execute("COMMIT")
        except BaseException:
            # Also for KeyboardInterrupt, wherever it fell: no lock of the file outlives this frame.
            with suppress(sqlite3.Error):
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
            raise
        return answer

    def _is_within(self) -> bool:
        """Whether this thread is in the midst of a transaction."""
        within = self._within
        return within is not None and within[0] == threading.get_ident()

    def sync(self) -> None:
        """Wait until what was committed `ahead` has reached the disk. StoreError. Within a transaction there is nothing
        to wait for: its commit is to come."""
        if self._is_within():
            return
        try:
            if self._unsafe:  # the kernel may have let go of what it could not write: read it, and write it elsewhere
                if not self.empty_log():
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))  # noqa: TRY301
            else:
                self._log.sync()
            self._unsafe = False
        except OSError as error:
            self._unsafe = True
            raise unsynced(error, self.path) from error

    def read(self, sql: str, *parameters: object) -> list[Row]:
        """The rows of one SELECT, all from one moment."""
        try:
            with self._read_lock:
                try:
                    return self._reader.execute(sql, parameters).fetchall()
                except sqlite3.OperationalError as error:
                    if not bears_any_text(self._reader, error):
                        raise
                    return self._reader.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise from_sqlite(error, self.path) from error
        except (UnicodeEncodeError, OverflowError):
            return []  # what cannot be stored is not there

    def empty_log(self) -> bool:
        """Write the log into the file and cut it off, so that what was overwritten is in neither. Others may be reading
        from it, so this is tried for a while; False: in vain."""
        deadline = time.monotonic() + LOG_PATIENCE
        try:
            with self._write_lock:
                while self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    if time.monotonic() > deadline:
                        return False
                    time.sleep(random.uniform(0.001, 0.01))  # noqa: S311 - no secret
        except sqlite3.Error as error:
            raise from_sqlite(error, self.path) from error
        return True

    def shrink(self) -> int:
        """Write the file anew without its free pages, and the log away. Returns the bytes that were freed."""
        before = self._size()
        try:
            with self._write_lock:
                _patiently(self._writer, "VACUUM")
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            raise from_sqlite(error, self.path) from error
        return max(0, before - self._size())

    def _size(self) -> int:
        """Bytes of the file and its log."""
        size = 0
        for path in (self.path, Path(f"{self.path}-wal")):
            with suppress(OSError):
                size += path.stat().st_size
        return size

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed`, which must not raise, soon after each commit of another connection to the file."""
        stopping = threading.Event()
        connection = self.connect()
        try:
            ((seen,),) = connection.execute("PRAGMA data_version").fetchall()
        except sqlite3.Error as error:
            connection.close()
            raise from_sqlite(error, self.path) from error

        def poll() -> None:
            nonlocal connection, seen
            while not stopping.wait(WATCH_INTERVAL):
                try:
                    ((version,),) = connection.execute("PRAGMA data_version").fetchall()
                except (sqlite3.Error, StoreError):
                    # It may be over soon, and changes may have been missed: begin anew, and say so.
                    connection.close()
                    with suppress(StoreError):
                        connection = self.connect()
                    version = None
                if version != seen:
                    seen = version
                    changed()
            connection.close()

        thread = threading.Thread(target=poll, name="minitango-watch", daemon=True)
        thread.start()

        def stop() -> None:
            stopping.set()
            with suppress(ValueError):
                self._watchers.remove(stop)
            if thread is not threading.current_thread():
                thread.join()

        self._watchers.append(stop)
        return stop

    def close(self) -> None:
        """Stop the watchers and let the file go. Idempotent."""
        while self._watchers:
            self._watchers[-1]()
        with self._read_lock:
            self._reader.close()
        with self._write_lock:
            self._writer.close()
        self._log.close()


class _Log:
    """The write-ahead log, beside SQLite, which holds no lock on this file: closing a descriptor of it is safe."""

    def __init__(self, path: Path) -> None:
        self._path = Path(f"{path}-wal")
        self._lock = threading.Lock()
        self._fd = -1

    def sync(self) -> None:
        """Have on the disk what was written to it. OSError."""
        with self._lock:
            if self._fd < 0 or os.fstat(self._fd).st_nlink == 0:  # SQLite removes it with the last connection
                self._let_go()
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(folder)  # its name, too
                finally:
                    os.close(folder)
            _to_disk(self._fd)

    def close(self) -> None:
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _to_disk(fd: int) -> None:
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def _begin(db: sqlite3.Connection) -> None:
    """Take the file's write lock, waiting for our turn."""
    _patiently(db, "BEGIN IMMEDIATE")


def _patiently(db: sqlite3.Connection, statement: str) -> None:
    """Execute what needs the file's write lock, waiting for our turn.

    SQLite's own wait sleeps up to 100 ms at a time, deaf to Ctrl-C, while whoever came last takes the lock. Short
    random sleeps give each of many processes its share.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            db.execute(statement)
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.0003, 0.002))  # noqa: S311 - no secret
        else:
            return


def _make_file(path: Path) -> None:
    """Have a file there that only its owner may read, as its folder: it holds grades."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        found = path.stat()
    except FileNotFoundError:
        with suppress(FileExistsError):  # another process made it just now
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    if 0 < found.st_size < SMALLEST_PAGE:
        raise not_a_store(path, "no SQLite file")


def _check_and_migrate(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that is not ours, or too new; else bring it to the present. Two processes may do so at once."""
    refuse_foreign(db, path)
    _set_wal(db)
    while True:
        db.execute("BEGIN IMMEDIATE")
        try:
            version = refuse_foreign(db, path)
            if version == len(MIGRATIONS):
                # Nothing to do, but to find out now whether the file can be written. BEGIN does not.
                db.execute("UPDATE meta SET value = value WHERE 0")
                return
            for statement in MIGRATIONS[version]:
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {version + 1}")
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")


def refuse_foreign(db: sqlite3.Connection, path: Path) -> int:
    """The file's version, in one read. 0: it is empty."""
    application, version, tables = db.execute(
        "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version), "
        "(SELECT count(*) FROM sqlite_master)"
    ).fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise not_a_store(path, "another program's SQLite file")
    if version > len(MIGRATIONS):
        raise StoreTooNew(
            f"{path} was written by a later minitango (store version {version}; this one knows {len(MIGRATIONS)})",
            hint="upgrade minitango, or choose another place with --state DIR",
        )
    return int(version)


def _set_wal(db: sqlite3.Connection) -> None:
    """Readers beside one writer. The mode stays in the file, so only its first opener changes it."""
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # SQLite does not wait for this lock by itself where two openers stand in each other's way.
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


def bears_any_text(connection: sqlite3.Connection, error: sqlite3.Error) -> bool:
    """Whether it is worth to ask again what met this: a text was damaged so that it is none, and from now on such a one
    is read as far as it can be. Not from the beginning, as each text that is read costs more then."""
    if "decode to UTF-8" not in str(error) or connection.text_factory is not str:
        return False
    connection.text_factory = _any_text
    return True


def _any_text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
