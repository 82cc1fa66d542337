"""Idempotency keys in the SQLite store: a key is its latest job's, until that has another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from minitango.store._database import Transaction

_HOLDER: Final = "SELECT job FROM keys WHERE queue = ? AND key = ?"
_TAKE: Final = """
    INSERT INTO keys (queue, key, job) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET job = max(job, excluded.job)
"""
_NOTE: Final = "INSERT OR IGNORE INTO key_jobs (queue, key, job) VALUES (?, ?, ?)"
_SEVERAL: Final = "SELECT 1 FROM key_jobs WHERE queue = ? AND key = ? LIMIT 1"
_LATEST: Final = """
    SELECT keys.job, jobs.id, jobs.state, jobs.cancel_requested, jobs.failure, jobs.lane
    FROM keys LEFT JOIN jobs ON jobs.seq = keys.job WHERE keys.queue = ? AND keys.key = ?
"""
_HEIR: Final = """
    INSERT INTO keys SELECT queue, key, max(job) FROM key_jobs WHERE queue = ? AND key = ? GROUP BY queue, key
"""


class Latest(NamedTuple):
    """The latest job of a key."""

    seq: int = 0
    """Its number; 0: there is none."""
    id: str | None = None
    state: str = ""
    going: int = 0
    """Whether its cancel was requested."""
    failure: str | None = None
    lane: str | None = None


_NONE: Final = Latest()


def latest(tx: Transaction, queue: str, key: str) -> Latest:
    """The latest job of a key, or none."""
    found = tx.execute(_LATEST, (queue, key)).fetchone()
    return _NONE if found is None else Latest._make(found)


def take_many(tx: Transaction, queue: str, new: Sequence[tuple[str, int, Latest]]) -> None:
    """As `take`, for jobs whose keys' latest ones are known; each key once."""
    notes = []
    for key, job, before in new:
        if before.seq:
            notes += [(queue, key, before.seq), (queue, key, job)]
        elif tx.execute(_SEVERAL, (queue, key)).fetchone() is not None:
            notes.append((queue, key, job))
    if notes:
        tx.executemany(_NOTE, notes)
    tx.executemany(_TAKE, [(queue, key, job) for key, job, _ in new])


def take(tx: Transaction, queue: str, key: str, job: int) -> None:
    """This job, by its number, has this key from now on."""
    holder = tx.execute(_HOLDER, (queue, key)).fetchone()
    if holder is not None:
        tx.executemany(_NOTE, [(queue, key, holder[0]), (queue, key, job)])
    elif tx.execute(_SEVERAL, (queue, key)).fetchone() is not None:
        tx.execute(_NOTE, (queue, key, job))
    tx.execute(_TAKE, (queue, key, job))


def leave(tx: Transaction, queue: str, key: str, job: int) -> None:
    """This job has this key no more; the latest of the others that have it holds it."""
    tx.execute("DELETE FROM key_jobs WHERE queue = ? AND key = ? AND job = ?", (queue, key, job))
    if tx.execute("DELETE FROM keys WHERE queue = ? AND key = ? AND job = ?", (queue, key, job)).rowcount:
        tx.execute(_HEIR, (queue, key))


def arrive(tx: Transaction, queue: str, key: str, job: int, *, holder: bool) -> None:
    """This job comes from another store with its key; `holder`: as its latest. They come by their numbers."""
    if holder:
        take(tx, queue, key, job)
    else:
        tx.execute(_NOTE, (queue, key, job))
