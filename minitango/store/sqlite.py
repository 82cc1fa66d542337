"""The store in one SQLite file: what one machine needs, and nothing to install.

A commit is one fsync (WAL, `synchronous=FULL`), and every write is one `BEGIN IMMEDIATE` transaction, so that
processes take turns and never meet `database is locked`. What becomes of a job is decided in `job.py`; here it
is written down.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from minitango.blobs import BlobStore
from minitango.errors import StoreError
from minitango.job import Ack, Cancelled, Fail, Failure, Finish, Job, JobSpec, Lease, Release, State, serves, work_key
from minitango.retry import POISON, after_failure, after_interruption
from minitango.room import check_room
from minitango.store import Exchanged, Submitted
from minitango.store import _holds as holds
from minitango.store import _keys as keys
from minitango.store import _rows as rows
from minitango.store._claim import claim as claimed
from minitango.store._database import Database, Transaction
from minitango.store._dump import SqliteDump
from minitango.store._history import SELECT, as_json, not_found
from minitango.store._nodes import SqliteNodes
from minitango.store._outbox import SqliteOutbox
from minitango.store._rows import WIDTH, Row
from minitango.store._schema import FORGET
from minitango.store._shared_folder import SharedFolder
from minitango.store._sqlite_blobs import SqliteBlobs
from minitango.store._submit import submit as submitted

FORGET_BATCH: Final = 500
"""Jobs forgotten in one transaction: others need not wait long for their turn."""

_CLEAR: Final = """
    UPDATE jobs SET solo_deaths = 0
    WHERE queue = ? AND state = 'queued' AND solo = 1 AND solo_deaths > 0
"""
_LEAVE: Final = """
    UPDATE jobs SET state = ?, due = ?, due_since = ?, solo = ?, failures = ?, interruptions = ?, solo_deaths = ?,
                    ended = ?, ended_seq = ?, outcome = ?, score = ?, max_score = ?, trust = ?, reason = ?, wall = ?,
                    warnings = ?, failure = ?, delivery = ?, token = NULL, expires = NULL, solo_lease = 0
    WHERE seq = ?
"""
_END_ATTEMPT: Final = "UPDATE attempts SET ended = ?, ended_by = ?, failure = ? WHERE job = ? AND number = ?"
_RESULT: Final = "INSERT INTO results (job, result) VALUES (?, ?)"
_OUTPUT: Final = "INSERT INTO outputs (job, position, step, head, tail, elided) VALUES (?, ?, ?, ?, ?, ?)"
_FENCE: Final = "id = ? AND queue = ? AND attempt = ? AND token = ?"
_FINISH: Final = f"""
    UPDATE jobs SET state = 'done', due = NULL, due_since = ?, ended = ?, ended_seq = ?, outcome = ?, score = ?,
                    max_score = ?, trust = ?, reason = ?, wall = ?, warnings = ?, failure = NULL, token = NULL,
                    expires = NULL, solo_lease = 0, delivery = CASE callback WHEN '' THEN NULL ELSE 'pending' END
    WHERE {_FENCE}
    RETURNING {rows.JOB_COLUMNS}, held, held_at
"""  # noqa: S608 - constants
"""The fence, what is found, and the end, in one statement: it is what a queue does most."""
_RUNNING: Final = "INDEXED BY jobs_running WHERE queue = :queue AND state = 'running'"


class SqliteStore(SqliteOutbox, SqliteNodes, SqliteDump):
    """`Store` in one SQLite file. Threads may share it; a process that forks opens its own.

    One store object is one queue of its file. The file and its folder are created where they are missing, for
    their owner's eyes only. `clock` tells the time wherever `now` is None.

    Raises StoreError (ids store_path, store_readonly, store_corrupt, store_busy, store_io, sqlite_too_old),
    StoreFull or StoreTooNew, from here and from every verb.
    """

    FINISH = _FINISH
    shared = False
    remarks = ()
    unheard = False

    def __init__(self, path: str | Path, *, queue: str = "default", clock: Callable[[], float] = time.time) -> None:
        super().__init__(Database(path, queue, clock), queue)
        self._clock = clock
        self._blobs: SqliteBlobs | None = None
        """What hand-ins are brought to when they are claimed."""

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._db.path)!r}, queue={self.queue!r})"

    # --- Queue ------------------------------------------------------------------------------------

    def now(self) -> float:
        return self._clock()

    def submit(self, specs: Sequence[JobSpec], *, fresh: bool = False, now: float | None = None) -> list[Submitted]:
        if not specs:
            return []
        self._db.look_after()
        check_room(self._db.path.parent)
        return self._db.transact("submit", lambda tx: submitted(tx, self.queue, specs, fresh=fresh), now)

    def exchange(
        self,
        acks: Sequence[Ack] = (),
        *,
        claim: int = 0,
        solo: bool = False,
        trial: bool = False,
        node: str = "",
        capabilities: Collection[str] = (),
        lease_for: float = 60.0,
        ahead: bool = False,
        now: float | None = None,
    ) -> Exchanged:
        if not acks and claim <= 0:
            return Exchanged()

        def body(tx: Transaction) -> Exchanged:
            refused, settled = [], []
            for ack in acks:
                job = self._finish(tx, ack) if isinstance(ack, Finish) else self._settle(tx, ack)
                if job is None:
                    refused.append(ack.lease)
                else:
                    settled.append(job)
            leases: list[Lease] = []
            if claim > 0:
                for row in claimed(
                    tx,
                    self.queue,
                    claim,
                    solo=solo,
                    trial=trial,
                    node=node,
                    capabilities=capabilities,
                    lease_for=lease_for,
                ):
                    try:
                        leases.append(rows.lease_of(row))
                    except StoreError as error:
                        settled.append(self._give_up(tx, row, error))
            return Exchanged(tuple(refused), tuple(settled), tuple(leases))

        out = self._db.transact("exchange", body, now, ahead=ahead)
        if len(out.leases) > 1 and self._blobs is not None:
            self._blobs.bring([lease.inputs for lease in out.leases])
        return out

    def sync(self) -> None:
        self._db.sync()

    def _held(self, tx: Transaction, lease: Lease) -> Row | None:
        """The fence: the job's row, if this lease is its current one. A token is gone when its attempt ends."""
        found: Row | None = tx.execute(
            f"{SELECT} WHERE {_FENCE}", (lease.job, self.queue, lease.attempt, lease.token)
        ).fetchone()
        return found

    def _settle(self, tx: Transaction, ack: Fail | Release | Cancelled) -> Job | None:
        row = self._held(tx, ack.lease)
        if row is None:
            return None
        job = rows.readable(row)
        match ack:
            case Cancelled():
                return self._leave(tx, job, "cancelled", State.CANCELLED)
            case Fail() if job.cancel_requested:
                return self._leave(tx, job, "cancelled", State.CANCELLED, failure=ack.failure)
            case Release() if job.cancel_requested:
                return self._leave(tx, job, "cancelled", State.CANCELLED)
            case Fail(charge=False):
                after, charged = holds.hold(tx, self.queue, job, ack.failure)
                job = replace(job, failures=job.failures + charged, failure=ack.failure)
                return self._leave(tx, job, "fail", after.state, delay=after.delay, failure=ack.failure)
            case Fail():
                holds.forget(tx, job)
                job = replace(job, failures=job.failures + 1, failure=ack.failure)
                after = after_failure(job.failures, retry=ack.retry)
                return self._leave(tx, job, "fail", after.state, delay=after.delay, failure=ack.failure)
            case Release():
                after = after_interruption(job.solo_deaths, died=False)
                return self._leave(tx, job, "release", after.state, delay=after.delay)

    def _finish(self, tx: Transaction, ack: Finish) -> Job | None:
        result, lease = ack.result, ack.lease
        found = tx.execute(
            self.FINISH,
            (tx.now, tx.now, tx.last_ended() + 1, result.outcome, result.score, result.max_score, result.trust,
             rows.clean_text(result.reason), result.usage.wall, len(result.warnings),
             lease.job, self.queue, lease.attempt, lease.token),
        ).fetchone()  # fmt: skip
        if found is None:
            return None
        job = rows.readable(found)
        tx.next_ended()
        tx.move(State.RUNNING, "finish", State.DONE)
        if found[WIDTH]:
            holds.over(tx, self.queue, job, found[WIDTH + 1])
        tx.later(_RESULT, (job.seq, rows.to_json(result)))
        for at, output in enumerate(ack.outputs):
            step = rows.clean_text(output.step)
            tx.later(_OUTPUT, (job.seq, at, step, output.head, output.tail, output.elided))
        tx.later(_END_ATTEMPT, (tx.now, "finish", None, job.seq, job.attempt))
        if job.callback:
            self._post(tx, job)
        if ack.grader and job.key is not None:
            key = work_key(ack.grader, job.course, job.student, job.inputs, job.labels)
            job = self._with_key(tx, job, key)
        return job

    def _with_key(self, tx: Transaction, job: Job, key: str) -> Job:
        """The job with the key of the work that was done, where that is other than what was submitted."""
        if key == job.key:
            return job
        assert job.key is not None
        tx.execute("UPDATE jobs SET key = ? WHERE seq = ?", (key, job.seq))
        keys.leave(tx, self.queue, job.key, job.seq)
        keys.take(tx, self.queue, key, job.seq)
        return replace(job, key=key)

    def _interrupt(self, tx: Transaction, row: Row, verb: str) -> Job:
        """Take a running job back from an engine that died."""
        job = rows.readable(row)
        if job.cancel_requested:
            return self._leave(tx, job, "cancelled", State.CANCELLED)
        job = replace(job, interruptions=job.interruptions + 1, solo_deaths=job.solo_deaths + (row[WIDTH] == 1))
        after = after_interruption(job.solo_deaths, died=True, interruptions=job.interruptions)
        if after.state is State.DEAD:
            job = replace(job, failure=POISON)
        return self._leave(tx, job, verb, after.state, delay=after.delay)

    def _leave(
        self,
        tx: Transaction,
        job: Job,
        verb: str,
        target: State,
        *,
        delay: float = 0.0,
        failure: Failure | None = None,
    ) -> Job:
        """Write a job that leaves its state for `target`, with the new values in `job`; `failure` is its attempt's."""
        tx.move(job.state, verb, target)
        if job.state is State.RUNNING:
            tx.execute(_END_ATTEMPT, (tx.now, verb, rows.to_text(failure), job.seq, job.attempt))
        ended = target.terminal
        job = replace(
            job,
            state=target,
            due=tx.now + delay if delay and not ended else None,
            expires=None,
            ended=tx.now if ended else None,
            ended_seq=tx.next_ended() if ended else None,
            delivery=self._post(tx, job) if ended and job.callback else None,
        )
        tx.execute(
            _LEAVE,
            (target.value, job.due, tx.now + delay, job.solo, job.failures, job.interruptions, job.solo_deaths,
             job.ended, job.ended_seq, job.outcome, job.score, job.max_score, job.trust, job.reason, job.wall,
             job.warnings, rows.to_text(job.failure), job.delivery, job.seq),
        )  # fmt: skip
        return job

    def _give_up(self, tx: Transaction, claimed: Row, error: StoreError) -> Job:
        """A job that was claimed, and whose record cannot be read: the others are not to wait for it."""
        row = tx.execute(f"{SELECT} WHERE seq = ?", (claimed[12],)).fetchone()
        job, failure = rows.readable(row), rows.unreadable(error)
        holds.forget(tx, job)
        job = replace(job, failures=job.failures + 1, failure=failure)
        return self._leave(tx, job, "fail", State.DEAD, failure=failure)

    def extend(
        self, leases: Sequence[Lease], *, lease_for: float = 60.0, now: float | None = None
    ) -> tuple[Lease, ...]:
        if not leases:
            return ()

        def body(tx: Transaction) -> tuple[Lease, ...]:
            lost = []
            for lease in leases:
                if self._held(tx, lease) is None:
                    lost.append(lease)
                else:
                    tx.execute("UPDATE jobs SET expires = ? WHERE id = ?", (tx.now + lease_for, lease.job))
            return tuple(lost)

        return self._db.transact("extend", body, now)

    def reap(self, *, now: float | None = None) -> list[Job]:
        def body(tx: Transaction) -> list[Job]:
            lapsed = tx.execute(
                f"{SELECT} {_RUNNING} AND expires < :now ORDER BY seq", {"queue": self.queue, "now": tx.now}
            ).fetchall()
            return [self._interrupt(tx, row, "reap") for row in lapsed]

        return self._db.transact("reap", body, now)

    def recover(self, *, node: str | None = None, now: float | None = None) -> list[Job]:
        def body(tx: Transaction) -> list[Job]:
            whose = "AND (node = :node OR :node IS NULL)"
            wanted = {"queue": self.queue, "node": node}
            running = tx.execute(f"{SELECT} {_RUNNING} {whose} ORDER BY seq", wanted).fetchall()
            if running:
                tx.execute(_CLEAR, (self.queue,))
            return [self._interrupt(tx, row, "recover") for row in running]

        return self._db.transact("recover", body, now)

    def cancel(self, id: str, *, reason: str = "", now: float | None = None) -> Job:
        def body(tx: Transaction) -> Job:
            row = tx.execute(f"{SELECT} WHERE id = ? AND queue = ?", (id, self.queue)).fetchone()
            if row is None:
                raise not_found(id)
            job = rows.readable(row)
            if job.state is State.QUEUED:
                return self._leave(tx, replace(job, reason=rows.clean_text(reason)), "cancel", State.CANCELLED)
            if job.state is State.RUNNING and not job.cancel_requested:
                job = replace(job, cancel_requested=True, reason=rows.clean_text(reason))
                tx.execute("UPDATE jobs SET cancel_requested = 1, reason = ? WHERE seq = ?", (job.reason, job.seq))
                return job
            return job

        return self._db.transact("cancel", body, now)

    def cancel_requested(self) -> list[str]:
        found = self._db.read(
            "SELECT id FROM jobs INDEXED BY jobs_to_cancel "
            "WHERE queue = ? AND state = 'running' AND cancel_requested = 1 ORDER BY seq",
            self.queue,
        )
        return [row[0] for row in found]

    def next_due(self) -> float | None:
        ((due,),) = self._db.read(
            "SELECT min(due) FROM jobs INDEXED BY jobs_due WHERE queue = ? AND state = 'queued' AND due IS NOT NULL",
            self.queue,
        )
        return None if due is None else _time(due)

    def solo_since(self, *, capabilities: Collection[str] = ()) -> float | None:
        waiting = self._db.read(
            "SELECT due_since, lane FROM jobs INDEXED BY jobs_solo WHERE queue = ? AND state = 'queued' AND solo = 1 "
            "ORDER BY due_since",
            self.queue,
        )
        return next((_time(since) for since, lane in waiting if serves(capabilities, str(lane))), None)

    def counts(self) -> Mapping[State, int]:
        found: dict[str, int] = dict(self._db.read("SELECT state, n FROM counts WHERE queue = ?", self.queue))
        return {state: found.get(state.value, 0) for state in State}

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        return self._db.watch(changed)

    # --- Upkeep -----------------------------------------------------------------------------------

    def forget(self, ids: Iterable[str], *, undelivered: bool = False) -> int:
        waiting = iter(ids)
        forgotten = 0
        while batch := list(islice(waiting, FORGET_BATCH)):
            forgotten += self._db.transact("forget", partial(self._forget, batch, undelivered))
        if forgotten:
            self._db.empty_log()
        return forgotten

    def _forget(self, ids: Sequence[str], undelivered: bool, tx: Transaction) -> int:
        gone = tx.execute(
            "DELETE FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND queue = ? "
            "AND state IN ('done', 'dead', 'cancelled') "
            "AND (? OR NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.job = jobs.seq AND outbox.due IS NOT NULL)) "
            "RETURNING seq, state, key",
            (as_json(ids), self.queue, undelivered),
        ).fetchall()
        for statement in FORGET:
            tx.executemany(statement, [(seq,) for seq, _, _ in gone])
        tx.executemany(
            "DELETE FROM keys WHERE queue = ? AND key = ? AND job = ?",
            [(self.queue, key, seq) for seq, _, key in gone if key is not None],
        )
        for _, state, _ in gone:
            tx.drop(State(state))
        return len(gone)

    def hand_over(self, id: str, student: str, labels: Mapping[str, str]) -> bool:
        def body(tx: Transaction) -> bool:
            row = tx.execute(f"{SELECT} WHERE id = ? AND queue = ?", (id, self.queue)).fetchone()
            job = None if row is None else rows.readable(row)
            if job is None or not job.state.terminal:
                return False
            name = rows.clean_text(student)
            key = job.key if name == job.student else None
            if key is None:
                gone = "DELETE FROM keys WHERE queue = ? AND key = ? AND job = ?"
                tx.execute(gone, (self.queue, job.key, job.seq))
            tx.execute(
                "UPDATE jobs SET student = ?, labels = ?, key = ? WHERE seq = ?",
                (name, rows.to_text(dict(labels)), key, job.seq),
            )
            return True

        done = self._db.transact("hand_over", body)
        if done:
            self._db.empty_log()
        return done

    def referenced(self, digests: Iterable[str], *, without: Iterable[str] = ()) -> set[str]:
        found = self._db.read(
            "WITH gone AS (SELECT seq FROM jobs WHERE id IN (SELECT value FROM json_each(?))) "
            "SELECT value FROM json_each(?) "
            "WHERE EXISTS (SELECT 1 FROM blob_refs WHERE digest = value AND job NOT IN gone)",
            as_json(list(without)),
            as_json(list(digests)),
        )
        return {digest for (digest,) in found}

    def shrink(self) -> int:
        return self._db.shrink()

    def blobs(self, folder: Path, directory: Path | None = None) -> BlobStore:
        """The blobs of this file's jobs: all in a `directory` that was named for them; else small ones are in it, and
        `folder` is for the others."""
        if directory is not None:
            return SharedFolder(directory, self._identity)
        self._blobs = SqliteBlobs(self._db, folder)
        return self._blobs

    def _identity(self) -> str:
        """Of this file, and of every copy of it."""

        def body(tx: Transaction) -> str:
            found = tx.execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()
            value = found[0] if found is not None else secrets.randbits(62)
            if found is None:
                tx.execute("INSERT INTO meta (name, value) VALUES ('identity', ?)", (value,))
            return f"{value:016x}"

        return self._db.transact("identity", body)

    def look_after(self) -> None:
        self._db.look_after()

    def close(self) -> None:
        self._db.close()


def _time(found: object) -> float:
    """When something is due; at once, where that is damaged: a claim looks at it then."""
    return found if isinstance(found, float) and math.isfinite(found) else 0.0
