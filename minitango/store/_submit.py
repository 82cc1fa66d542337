"""Submitting to the SQLite store: what is new, what is there already, and few statements for many jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from minitango.job import JobSpec, State
from minitango.retry import POISON
from minitango.store import Submitted
from minitango.store import _keys as keys
from minitango.store import _rows as rows
from minitango.store._database import Transaction
from minitango.store._rows import Row

_INSERT_JOB: Final = """
    INSERT INTO jobs (id, seq, queue, state, priority, rank, lane, due_since, submitted, assignment, student, course,
                      title, spec, inputs, key, supersedes, labels, callback)
    VALUES (?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO NOTHING
"""
_INSERT_REF: Final = "INSERT INTO blob_refs (job, position, digest) VALUES (?, ?, ?)"
_INSERT_LANE: Final = "INSERT OR IGNORE INTO lanes (queue, lane) VALUES (?, ?)"
_LAST_SEQ: Final = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'jobs'), 0)"
"""The last number of a row that the jobs' own are of, and those of work that was handed in again."""
_NOTE_SEQ: Final = "UPDATE sqlite_sequence SET seq = ? WHERE name = 'jobs'"
_NEEDS: Final = "UPDATE jobs SET lane = ? WHERE seq = ?"
_HANDED_AGAIN: Final = "UPDATE jobs SET handed = ?, handed_seq = ? WHERE seq = ?"


class _Batch:
    """What one transaction is to write."""

    def __init__(self, tx: Transaction, queue: str) -> None:
        self._tx = tx
        self._queue = queue
        self._last: int = tx.execute(_LAST_SEQ).fetchone()[0]
        self.ids: dict[int, str] = {}
        """Of new jobs, by their numbers."""
        self.by_key: dict[str, int] = {}
        """New jobs by their keys."""
        self._jobs: list[Row] = []
        self._refs: list[Row] = []
        self._keys: list[tuple[str, int, keys.Latest]] = []
        self._again: list[Row] = []
        self._lanes: set[str] = set()
        self._needs: dict[int, str] = {}

    def add(self, spec: JobSpec, supersedes: str | None, latest: keys.Latest | None) -> int:
        """A new job. Returns its number."""
        tx, queue = self._tx, self._queue
        self._last = seq = self._last + 1
        self.ids[seq] = new = rows.new_id()
        self._jobs.append(
            (new, seq, queue, spec.priority, spec.rank, spec.lane, tx.now, tx.now, spec.assignment, spec.student,
             spec.course, spec.title, spec.spec, spec.inputs, spec.key, supersedes, rows.to_text(spec.labels),
             spec.callback)
        )  # fmt: skip
        self._refs.append((seq, 0, spec.spec))
        self._refs.append((seq, 1, spec.inputs))
        for at, digest in enumerate(spec.refs, 2):
            self._refs.append((seq, at, digest))
        self._lanes.add(spec.lane)
        if spec.key is not None and latest is not None:
            self.by_key[spec.key] = seq
            self._keys.append((spec.key, seq, latest))
        return seq

    def again(self, seq: int) -> None:
        """The work of this job was handed in once more."""
        self._last += 1
        self._again.append((self._tx.now, self._last, seq))

    def needs(self, seq: int, lane: str) -> None:
        """This job, which is queued, waits for a node that offers this."""
        self._needs[seq] = lane
        self._lanes.add(lane)

    def write(self) -> None:
        tx = self._tx
        waiting = self._jobs
        while waiting and tx.executemany(_INSERT_JOB, waiting).rowcount < len(waiting):
            # An id that is taken: one in 2**50 for each job in the store.
            here = tx.execute("SELECT seq FROM jobs WHERE seq >= ?", (waiting[0][1],))
            there = {seq for (seq,) in here}
            waiting = [(rows.new_id(), *row[1:]) for row in waiting if row[1] not in there]
            self.ids.update((row[1], row[0]) for row in waiting)
        tx.executemany(_NEEDS, [(lane, seq) for seq, lane in self._needs.items()])
        tx.executemany(_INSERT_REF, self._refs)
        tx.executemany(_INSERT_LANE, [(self._queue, lane) for lane in self._lanes])
        keys.take_many(tx, self._queue, self._keys)
        if self._again:
            tx.executemany(_HANDED_AGAIN, self._again)
            tx.execute(_NOTE_SEQ, (self._last,))
        tx.move(None, "submit", State.QUEUED, len(self.ids))


def submit(tx: Transaction, queue: str, specs: Sequence[JobSpec], *, fresh: bool) -> list[Submitted]:
    """See `Queue.submit`."""
    batch = _Batch(tx, queue)
    found: list[Submitted | int] = []
    """What was there, or a new job's number; and so for its twins."""
    twins: set[int] = set()
    for at, spec in enumerate(specs):
        supersedes, latest = spec.supersedes, None
        if spec.key is not None:
            twin = batch.by_key.get(spec.key)
            if twin is not None:
                batch.again(twin)
                batch.needs(twin, spec.lane)
                twins.add(at)
                found.append(twin)
                continue
            latest = keys.latest(tx, queue, spec.key)
            if latest.id is not None:
                if _stands(latest, fresh=fresh):
                    batch.again(latest.seq)
                    if latest.state == State.QUEUED and latest.lane != spec.lane:
                        batch.needs(latest.seq, spec.lane)
                    found.append(Submitted(latest.id, False, State(latest.state)))
                    continue
                supersedes = supersedes or latest.id
        found.append(batch.add(spec, supersedes, latest))
    batch.write()
    return [
        Submitted(batch.ids[one], at not in twins, State.QUEUED) if isinstance(one, int) else one
        for at, one in enumerate(found)
    ]


def _stands(latest: keys.Latest, *, fresh: bool) -> bool:
    """Whether the latest job of a key is what a submit of the same work gives."""
    state = State(latest.state)
    if not state.terminal:
        return not latest.going
    failure = rows.failure_of(latest.failure)
    poison = state is State.DEAD and failure is not None and failure.id == POISON.id
    return not fresh and (state is State.DONE or poison)
