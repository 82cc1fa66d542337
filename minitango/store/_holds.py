"""Jobs that failed uncharged: what the SQLite store remembers of them, and who waits with whom.

What becomes of one is decided in `retry.after_hold`; here is what that has to know, durable in the job's own row.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final

from minitango.errors import Reach, StoreError, reach_of
from minitango.job import Failure, Job
from minitango.retry import APART, Hold, Next, after_hold
from minitango.store import _rows as rows
from minitango.store._database import Transaction
from minitango.store._rows import Row

_COLUMNS: Final = "held, held_since, held_alone, held_at, held_mark"
_WRITE: Final = """
    held = :times, held_since = :since, held_alone = :alone, late = :late, held_at = :at, held_mark = :mark
"""
_MOST_TIMES: Final = 1_000_000
_OWN: Final = f"SELECT {_COLUMNS} FROM jobs WHERE seq = ?"  # noqa: S608 - constants, here and below
_HOLD: Final = f"UPDATE jobs SET {_WRITE} WHERE seq = :seq"  # noqa: S608
_FORGET: Final = "UPDATE jobs SET held = 0, held_alone = 0, late = 0 WHERE seq = ? AND held > 0"
_MATE: Final = f"""
    SELECT {_COLUMNS}, due FROM jobs INDEXED BY jobs_held
    WHERE queue = ? AND spec = ? AND state = 'queued' AND held > 0 AND typeof(held) = 'integer'
    ORDER BY held DESC, seq DESC LIMIT 1
"""  # noqa: S608
_HOLD_MATES: Final = f"""
    UPDATE jobs SET {_WRITE}, due = max(coalesce(due, 0), :due), due_since = max(due_since, :due) WHERE seq IN (
        SELECT seq FROM jobs INDEXED BY jobs_ready
        WHERE queue = :queue AND state = 'queued' AND due IS NULL AND spec = :spec
        UNION ALL
        SELECT seq FROM jobs INDEXED BY jobs_due
        WHERE queue = :queue AND state = 'queued' AND due IS NOT NULL AND spec = :spec)
"""  # noqa: S608
_FREE_MATES: Final = """
    UPDATE jobs SET held = 0, held_alone = 0, late = 0, due = NULL, due_since = min(due_since, :now) WHERE seq IN (
        SELECT seq FROM jobs INDEXED BY jobs_held
        WHERE queue = :queue AND spec = :spec AND state = 'queued' AND held > 0 AND held_at = :at)
"""
_GRADED: Final = """
    SELECT 1 FROM jobs INDEXED BY jobs_ended
    WHERE queue = ? AND ended_seq > ? AND state = 'done' AND started >= ? AND (spec = ? OR ?) LIMIT 1
"""
_OTHERS: Final = """
    SELECT failure FROM jobs INDEXED BY jobs_held
    WHERE queue = ? AND state = 'queued' AND held > 0 AND held_alone = 0 AND failure IS NOT NULL
"""


def hold(tx: Transaction, queue: str, job: Job, failure: Failure) -> tuple[Next, bool]:
    """Count an uncharged failure of a running job, and have those wait that it concerns. As `after_hold`."""
    reach = reach_of(failure.id)
    together = reach != "sandbox"
    last = tx.execute(_OWN, (job.seq,)).fetchone()
    last = last if _is_known(last) else (0, None, 0, None, None)
    mate = tx.execute(_MATE, (queue, job.spec)).fetchone() if together else None
    mate = mate if mate is not None and _is_known(mate) else None
    joins: float | None = None  # when another is due that was held after this attempt had begun: that counts once
    if mate is not None:
        if job.started is not None and mate[3] >= job.started and isinstance(mate[5], float) and mate[5] > tx.now:
            joins = mate[5]
        if joins is not None or mate[0] > last[0]:
            last = mate[:5]
    times, since, alone, at, mark = last
    if joins is None:
        alone = alone or (times > 0 and _graded(tx, queue, job, reach, mark, at))
        times, since, at, mark = times + 1, since if times else tx.now, tx.now, tx.last_ended()
    new = Hold(times, since, bool(alone))
    row = {"times": times, "since": since, "alone": new.alone, "late": new.late, "at": at, "mark": mark}
    tx.execute(_HOLD, {**row, "seq": job.seq})
    others = not together and new.alone and _others(tx, queue)
    after, charged = after_hold(new, now=tx.now, failures=job.failures, together=together, others=others)
    if joins is not None:
        after = Next(after.state, joins - tx.now)
    elif together:
        tx.execute(_HOLD_MATES, {**row, "queue": queue, "spec": job.spec, "due": tx.now + after.delay + APART})
    return after, charged


def over(tx: Transaction, queue: str, job: Job, at: float) -> None:
    """A job that was held at this time was graded: those that waited with it are due."""
    tx.execute(_FREE_MATES, {"queue": queue, "spec": job.spec, "at": at, "now": tx.now})


def forget(tx: Transaction, job: Job) -> None:
    """A running job failed otherwise: its uncharged failures are not in a row any more."""
    tx.execute(_FORGET, (job.seq,))


def _is_known(row: Row) -> bool:
    """Whether the _COLUMNS of a row can be read: a damaged one was not held, as far as others are concerned."""
    times, since, _, at, mark = row[:5]
    if times == 0:
        return True
    held = isinstance(times, int) and 0 < times < _MOST_TIMES and isinstance(mark, int)
    return held and all(isinstance(value, float) and math.isfinite(value) for value in (since, at))


def _graded(tx: Transaction, queue: str, job: Job, reach: Reach, mark: int, at: float) -> bool:
    """Whether a job was graded that was claimed since `at`: of this assignment, where it is about its image."""
    anybody = reach != "image"
    return tx.execute(_GRADED, (queue, mark, at, job.spec, anybody)).fetchone() is not None


def _others(tx: Transaction, queue: str) -> bool:
    """Whether a queued job against which nothing speaks failed for want of a sandbox as well."""
    for (text,) in tx.execute(_OTHERS, (queue,)):
        with suppress(StoreError):  # one that is damaged speaks of nothing
            failure = rows.failure_of(text)
            if failure is not None and reach_of(failure.id) == "sandbox":
                return True
    return False
