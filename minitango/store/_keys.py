"""Idempotency keys in the SQLite store: a key is its latest job's, until that has another."""

from __future__ import annotations

from typing import Final

from minitango.store._database import Transaction

_HOLDER: Final = "SELECT job FROM keys WHERE queue = ? AND key = ?"
_TAKE: Final = """
    INSERT INTO keys (queue, key, job) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET job = max(job, excluded.job)
"""
_NOTE: Final = "INSERT OR IGNORE INTO key_jobs (queue, key, job) VALUES (?, ?, ?)"
_SEVERAL: Final = "SELECT 1 FROM key_jobs WHERE queue = ? AND key = ? LIMIT 1"
_HEIR: Final = """
    INSERT INTO keys SELECT queue, key, max(job) FROM key_jobs WHERE queue = ? AND key = ? GROUP BY queue, key
"""


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
