"""A store looked at from outside: opened as it is, nothing made, moved to a later version or written."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

from minitango.errors import StoreError
from minitango.job import State
from minitango.store import Node
from minitango.store import _rows as rows
from minitango.store._database import OLDEST_SQLITE, refuse_foreign
from minitango.store._schema import MIGRATIONS
from minitango.store._sqlite_errors import from_sqlite
from minitango.store.health import Health

_WAIT: Final = 5.0
"""Seconds for another process's transaction."""
_STEPS: Final = 10_000
"""Of SQLite's machine between two looks at the clock."""


def library() -> tuple[str, bool]:
    """SQLite's version, and whether it will do."""
    return sqlite3.sqlite_version, sqlite3.sqlite_version_info >= OLDEST_SQLITE


def inspect(path: Path, *, now: float, ahead: float, patience: float) -> Health | None:
    """See `minitango.store.health.inspect_store`."""
    if not path.exists():
        return None
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=_WAIT, isolation_level=None)
        ) as db:
            version = refuse_foreign(db, path)
            ((journal,),) = db.execute("PRAGMA journal_mode").fetchall()
            _write(db)
            (free, pages, size) = db.execute(
                "SELECT freelist_count, page_count, page_size FROM pragma_freelist_count, pragma_page_count, "
                "pragma_page_size"
            ).fetchone()
            counts = dict(db.execute("SELECT state, sum(n) FROM counts GROUP BY state").fetchall()) if version else {}
            current = version == len(MIGRATIONS)
            early = _from_the_future(db, now + ahead) if version else 0
            return Health(
                path=str(path),
                version=version,
                current=current,
                journal=str(journal),
                trouble=_check(db, patience),
                counts={state: int(counts.get(state.value, 0)) for state in State},
                from_the_future=early,
                bytes=pages * size,
                free=free * size,
                waiting=_waiting(db) if current else {},
                nodes=_nodes(db) if current else (),
            )
    except sqlite3.Error as error:
        raise from_sqlite(error, path) from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", hint=f"ls -l {path}", id="store_io") from error


def _waiting(db: sqlite3.Connection) -> dict[str, int]:
    return dict(db.execute("SELECT lane, count(*) FROM jobs WHERE state = 'queued' GROUP BY lane").fetchall())


def _nodes(db: sqlite3.Connection) -> tuple[Node, ...]:
    found = db.execute(
        "SELECT record, seen, drained.name IS NOT NULL FROM nodes LEFT JOIN drained USING (queue, name) ORDER BY seen"
    )
    return tuple(rows.node_of(*row) for row in found)


def _write(db: sqlite3.Connection) -> None:
    """Write something, and take it back."""
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("CREATE TABLE doctor_was_here (x)")
    finally:
        db.execute("ROLLBACK")


def _from_the_future(db: sqlite3.Connection, limit: float) -> int:
    ((count,),) = db.execute(
        "SELECT count(*) FROM jobs WHERE submitted > :limit OR started > :limit OR ended > :limit "
        "OR (state = 'running' AND expires > :limit + 3600)",
        {"limit": limit},
    ).fetchall()
    return int(count)


def _check(db: sqlite3.Connection, patience: float) -> str | None:
    """SQLite's own quick check; empty: all is well; None: it was not through in time."""
    deadline = time.monotonic() + patience
    db.set_progress_handler(lambda: int(time.monotonic() > deadline), _STEPS)
    try:
        ((said, *_),) = db.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
            return None
        raise
    finally:
        db.set_progress_handler(None, 0)
    return "" if said == "ok" else str(said)
