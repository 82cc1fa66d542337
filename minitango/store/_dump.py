"""The SQLite store as a whole: taken out job by job, filled in one transaction, copied while others use it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from minitango.blobs import check_digest, verify
from minitango.errors import StoreError
from minitango.job import Job, State, StepOutput
from minitango.retry import Hold
from minitango.store import _keys as keys
from minitango.store import _rows as rows
from minitango.store._database import Database, Transaction, refuse_foreign
from minitango.store._rows import JOB_COLUMNS, WIDTH, Row
from minitango.store._schema import BLOBS_SINCE
from minitango.store._sqlite_errors import from_os, from_sqlite, not_a_store
from minitango.store.portable import Books, Copy, JobDump, Post, Streak, not_empty, posts_digest

_BATCH: Final = 200
_OWN: Final = (
    "due_since", "token", "solo_lease", "held", "held_since", "held_alone", "held_at", "held_mark",
)  # fmt: skip
"""Columns beside those of `Job`, in the order in which `_dumped` reads them."""
_DUMP: Final = f"""
    SELECT {JOB_COLUMNS}, {", ".join(_OWN)},
           EXISTS (SELECT 1 FROM keys WHERE keys.queue = jobs.queue AND keys.key = jobs.key AND keys.job = jobs.seq)
    FROM jobs WHERE queue = ? AND seq > ? ORDER BY seq LIMIT {_BATCH}
"""  # noqa: S608 - constants, here and below
_COLUMNS: Final = (*Job.__struct_fields__, *_OWN, "solo", "late")
_POST: Final = "SELECT since, due, tries, token, settled, error FROM outbox WHERE job = ?"
_INSERT: Final = f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608

_UNNEEDED: Final = "DELETE FROM blobs WHERE NOT EXISTS (SELECT 1 FROM blob_refs WHERE blob_refs.digest = blobs.digest)"


class SqliteDump:
    """`Portable` over one queue of an open file."""

    queue: str
    _db: Database

    def books(self) -> Books:
        ((seq, ended),) = self._db.read(
            "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'jobs'), 0), "
            "(SELECT value FROM meta WHERE name = 'ended_seq')"
        )
        drained = self._db.read("SELECT name FROM drained WHERE queue = ? ORDER BY name", self.queue)
        ((jobs,),) = self._db.read("SELECT coalesce(sum(n), 0) FROM counts WHERE queue = ?", self.queue)
        cancels = self._db.read(
            "SELECT id FROM jobs INDEXED BY jobs_running WHERE queue = ? AND state = 'running' AND cancel_requested "
            "ORDER BY id",
            self.queue,
        )
        posts = self._db.read(
            "SELECT id, outbox.due FROM outbox JOIN jobs ON seq = job "
            "WHERE outbox.queue = ? AND outbox.due IS NOT NULL",
            self.queue,
        )
        return Books(
            int(seq), int(ended), tuple(name for (name,) in drained), int(jobs), tuple(job for (job,) in cancels),
            posts_digest((job, float(due)) for job, due in posts),
        )  # fmt: skip

    def others(self) -> tuple[str, ...]:
        found = self._db.read(
            "SELECT queue FROM counts WHERE queue <> ? GROUP BY queue HAVING sum(n) > 0 ORDER BY queue", self.queue
        )
        return tuple(name for (name,) in found)

    def dump(self) -> Iterator[JobDump]:
        try:
            with closing(self._db.connect()) as db:
                db.execute("PRAGMA query_only = ON")
                db.execute("BEGIN")
                last = 0
                while found := db.execute(_DUMP, (self.queue, last)).fetchall():
                    for row in found:
                        dumped = _dumped(db, row)
                        last = dumped.job.seq
                        yield dumped
        except sqlite3.Error as error:
            raise from_sqlite(error, self._db.path) from error

    def load(self, jobs: Iterable[JobDump], books: Callable[[], Books]) -> int:
        def body(tx: Transaction) -> int:
            if tx.execute("SELECT 1 FROM jobs LIMIT 1").fetchone():
                raise not_empty(str(self._db.path))
            count = 0
            for dumped in jobs:
                self._load(tx, dumped)
                count += 1
            kept = books()
            tx.execute("UPDATE meta SET value = max(value, ?) WHERE name = 'ended_seq'", (kept.ended_seq,))
            if not tx.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'jobs'", (kept.seq,)).rowcount:
                tx.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('jobs', ?)", (kept.seq,))
            tx.executemany(
                "INSERT OR IGNORE INTO drained (queue, name) VALUES (?, ?)",
                [(self.queue, name) for name in kept.drained],
            )
            return count

        count = self._db.transact("load", body)
        self._db.empty_log()
        return count

    def _load(self, tx: Transaction, dumped: JobDump) -> None:
        job, streak = replace(dumped.job, queue=self.queue), dumped.streak or Streak(0, 0.0, False, 0.0, 0)
        values: dict[str, Any] = {
            **{name: getattr(job, name) for name in Job.__struct_fields__},
            "labels": rows.to_text(job.labels),
            "failure": rows.to_text(job.failure),
            "due_since": dumped.due_since,
            "token": dumped.token,
            "solo_lease": dumped.solo_lease,
            "held": streak.times,
            "held_since": streak.since,
            "held_alone": streak.alone,
            "held_at": streak.at,
            "held_mark": streak.mark,
            "solo": job.solo,
            "late": Hold(streak.times, streak.since, streak.alone).late,
        }
        tx.execute(_INSERT, [values[name] for name in _COLUMNS])
        tx.executemany(
            "INSERT INTO blob_refs (job, position, digest) VALUES (?, ?, ?)",
            [(job.seq, at, digest) for at, digest in enumerate(dumped.digests)],
        )
        tx.executemany(
            "INSERT INTO attempts (job, number, node, started, ended, ended_by, failure) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (job.seq, one.number, one.node, one.started, one.ended, one.ended_by, rows.to_text(one.failure))
                for one in dumped.attempts
            ],
        )
        if dumped.result is not None:
            tx.execute("INSERT INTO results (job, result) VALUES (?, ?)", (job.seq, dumped.result))
        tx.executemany(
            "INSERT INTO outputs (job, position, step, head, tail, elided) VALUES (?, ?, ?, ?, ?, ?)",
            [(job.seq, at, one.step, one.head, one.tail, one.elided) for at, one in enumerate(dumped.outputs)],
        )
        if dumped.post is not None:
            post = dumped.post
            tx.execute(
                "INSERT INTO outbox (job, queue, due, since, tries, token, settled, error) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (job.seq, self.queue, post.due, post.since, post.tries, post.token, post.settled, post.error),
            )
        if job.key is not None:
            keys.arrive(tx, self.queue, job.key, job.seq, holder=dumped.holder)
        tx.execute("INSERT OR IGNORE INTO lanes (queue, lane) VALUES (?, ?)", (self.queue, job.lane))
        tx.arrive(job.state)

    def snapshot(self, path: Path) -> None:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            with closing(self._db.connect()) as here, closing(sqlite3.connect(path, isolation_level=None)) as there:
                here.backup(there)
                there.execute("PRAGMA secure_delete = ON")
                there.execute("DELETE FROM nodes")  # they are where they are
                there.execute(_UNNEEDED)
        except sqlite3.Error as error:
            raise from_sqlite(error, path) from error
        except OSError as error:
            raise from_os(error, path) from error


def _dumped(db: sqlite3.Connection, row: Row) -> JobDump:
    job = rows.job_of(row)
    due_since, token, solo_lease, times, since, alone, at, mark, holder = row[WIDTH:]
    digests = db.execute("SELECT digest FROM blob_refs WHERE job = ? AND position > 1 ORDER BY position", (job.seq,))
    attempts = db.execute(
        "SELECT number, node, started, ended, ended_by, failure FROM attempts WHERE job = ? ORDER BY number",
        (job.seq,),
    )
    result = db.execute("SELECT result FROM results WHERE job = ?", (job.seq,)).fetchone()
    outputs = db.execute("SELECT step, head, tail, elided FROM outputs WHERE job = ? ORDER BY position", (job.seq,))
    post = db.execute(
        "SELECT since, due, tries, token, settled, error FROM outbox WHERE job = ?", (job.seq,)
    ).fetchone()
    held = times and not job.state.terminal
    dumped = JobDump(
        job=job,
        refs=tuple(digest for (digest,) in digests),
        due_since=due_since,
        attempts=tuple(rows.attempt_of(job.id, attempt) for attempt in attempts),
        result=None if result is None else bytes(result[0]),
        outputs=tuple(StepOutput(*output) for output in outputs),
        streak=Streak(times, since, bool(alone), at, mark) if held else None,
        post=None if post is None else Post(*post),
        token=token,
        solo_lease=bool(solo_lease),
        holder=bool(holder),
    )
    try:
        return dumped.checked()
    except ValueError as error:
        raise rows.damaged(f"job {job.id}", error) from error


def settle_copy(path: Path) -> Copy:
    """See `minitango.store.settle_copy`."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            version = refuse_foreign(db, path)
            if not version:
                raise not_a_store(path, "an empty file")
            ((said, *_),) = db.execute("PRAGMA integrity_check(1)").fetchall()
            if said != "ok":
                raise StoreError(f"{path} is damaged: {said}", hint="take another backup", id="store_corrupt")
            db.execute("PRAGMA journal_mode = DELETE").fetchall()
            counts = dict(db.execute("SELECT state, sum(n) FROM counts GROUP BY state").fetchall())
            digests = db.execute("SELECT DISTINCT digest FROM blob_refs ORDER BY digest").fetchall()
            for (digest,) in digests:
                _check(db, digest)
            inside = _verified(db, path) if version >= BLOBS_SINCE else set()
            return Copy(
                {state: int(counts.get(state, 0)) for state in State},
                tuple(digest for (digest,) in digests),
                tuple(digest for (digest,) in digests if digest not in inside),
            )
    except sqlite3.Error as error:
        raise from_sqlite(error, path) from error


def _check(db: sqlite3.Connection, digest: object) -> None:
    """StoreError `record_damaged`, which names a job, where what is to be a digest is none."""
    try:
        check_digest(str(digest))
    except ValueError as error:
        ((job,),) = db.execute(
            "SELECT coalesce((SELECT jobs.id FROM blob_refs JOIN jobs ON seq = job WHERE digest IS ? LIMIT 1), '?')",
            (digest,),
        ).fetchall()
        raise rows.damaged(f"job {job}", error) from error


def _verified(db: sqlite3.Connection, path: Path) -> set[str]:
    """The digests of the blobs in a file, each of which was read. BlobError `blob_corrupt`."""
    digests = set()
    for digest, data in db.execute("SELECT digest, CAST(data AS BLOB) FROM blobs"):
        verify(digest, data, path)
        digests.add(digest)
    return digests
