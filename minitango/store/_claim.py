"""Claiming in the SQLite store: which jobs are next, and that they run."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from minitango.job import State, serves
from minitango.retry import MOST_BACKOFF, TRIAL_AMONG
from minitango.store._database import Transaction
from minitango.store._rows import Row, is_ordered

_PROMOTE: Final = """
    UPDATE jobs SET due = NULL WHERE seq IN (
        SELECT seq FROM jobs INDEXED BY jobs_due
        WHERE queue = :queue AND state = 'queued' AND due IS NOT NULL AND due <= :now
        UNION ALL
        SELECT seq FROM jobs INDEXED BY jobs_due
        WHERE queue = :queue AND state = 'queued' AND due IS NOT NULL AND due > :now + :most)
"""
_CLAIM: Final = """
    UPDATE jobs SET state = 'running', attempt = attempt + 1, token = new_token(), node = ?, started = ?,
                    expires = ?, solo_lease = solo
    WHERE seq IN (
        SELECT seq FROM (%s) ORDER BY late, priority DESC, rank, seq LIMIT ?)
    RETURNING id, attempt, token, expires, spec, inputs, assignment, student, solo_lease, submitted, course,
              labels, seq, priority, rank, late
"""
_LANES: Final = """
    SELECT lane FROM lanes WHERE queue = :queue
    AND NOT EXISTS (SELECT 1 FROM drained WHERE queue = :queue AND name = :node)
    AND EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_ready WHERE jobs.queue = :queue AND solo = :solo
                AND jobs.lane = lanes.lane AND state = 'queued' AND due IS NULL)
"""
_MOST_LANES: Final = 400
"""Lanes that one claim looks at: SQLite joins no more than 500 SELECTs. The others come when these are empty."""
_FIRST_OF_LANE: Final = """
    SELECT * FROM (
        SELECT seq, late, priority, rank FROM jobs INDEXED BY jobs_ready
        WHERE queue = ? AND solo = ? AND lane = ? AND state = 'queued' AND due IS NULL
        ORDER BY late, priority DESC, rank, seq LIMIT ?)
"""
_UNHELD_OF_LANE: Final = """
    SELECT * FROM (
        SELECT seq, late, priority, rank FROM (
            SELECT seq, late, priority, rank, held FROM jobs INDEXED BY jobs_ready
            WHERE queue = ? AND solo = ? AND lane = ? AND state = 'queued' AND due IS NULL
            ORDER BY late, priority DESC, rank, seq LIMIT ?)
        WHERE held = 0 ORDER BY late, priority DESC, rank, seq LIMIT ?)
"""


def claim(
    tx: Transaction,
    queue: str,
    n: int,
    *,
    solo: bool,
    trial: bool,
    node: str,
    capabilities: Collection[str],
    lease_for: float,
) -> list[Row]:
    """Claim as `Queue.exchange` says. Returns rows for `lease_of`, in the order of the claim."""
    tx.execute(_PROMOTE, {"queue": queue, "now": tx.now, "most": MOST_BACKOFF + 1})
    most = 1 if solo else n
    lanes = tx.execute(_LANES, {"queue": queue, "node": node, "solo": solo})
    served = [lane for (lane,) in lanes if serves(capabilities, lane)][:_MOST_LANES]
    if not served:
        return []
    claimed: list[Row] = []
    looks: list[tuple[str, tuple[int, ...]]] = [(_FIRST_OF_LANE, (most,))]
    if trial and not solo:
        looks.insert(0, (_UNHELD_OF_LANE, (TRIAL_AMONG, most)))
    for of_lane, bounds in looks:
        first = " UNION ALL ".join([of_lane] * len(served))
        places = [value for lane in served for value in (queue, solo, lane, *bounds)]
        claimed = tx.execute(_CLAIM % first, (node, tx.now, tx.now + lease_for, *places, most)).fetchall()
        if claimed:
            break
    # RETURNING promises no order. Those that have none are damaged, and become no leases.
    lost = [row for row in claimed if not is_ordered(row)]
    claimed = sorted(filter(is_ordered, claimed), key=lambda row: (row[15], -row[13], row[14], row[12])) + lost
    tx.executemany(  # instead of one of that number, which is there where the row's own was damaged
        "INSERT OR REPLACE INTO attempts (job, number, node, started) VALUES (?, ?, ?, ?)",
        [(row[12], row[1], node, tx.now) for row in claimed],
    )
    tx.move(State.QUEUED, "claim", State.RUNNING, len(claimed))
    return claimed
