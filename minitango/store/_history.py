"""The reading half of the SQLite store: jobs, results and outputs, as they were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from minitango.errors import JobNotFound
from minitango.job import Attempt, Job, JobSpec, Result, StepOutput
from minitango.store import Query
from minitango.store import _rows as rows
from minitango.store._database import Database
from minitango.store._rows import JOB_COLUMNS, WIDTH, Row

SELECT: Final = f"SELECT {JOB_COLUMNS}, solo_lease FROM jobs"  # noqa: S608 - a constant
"""Rows for `job_of`; in the column after the job's own, whether its lease was claimed to be run alone."""
_GIVEN: Final = """
    ended_seq <= (SELECT value FROM meta WHERE name = 'ended_seq') AND typeof(ended_seq) = 'integer'
    AND state IN ('done', 'dead', 'cancelled')
"""
"""That a number was given to a job that ended: whoever goes on from one that is damaged sees none of the others."""


class SqliteHistory:
    """`History` over one queue of an open file."""

    def __init__(self, db: Database, queue: str) -> None:
        self.queue = queue
        self._db = db

    def get(self, id: str) -> Job:
        found = self._db.read(f"{SELECT} WHERE id = ? AND queue = ?", id, self.queue)
        if not found and rows.is_prefix(id):
            # A range, not LIKE: `~` sorts after every letter of an id.
            found = self._db.read(f"{SELECT} WHERE id > ? AND id < ? AND queue = ? LIMIT 2", id, id + "~", self.queue)
        if len(found) > 1:
            raise JobNotFound(f"several jobs begin with {id}", hint="type more of the id", id="job_ambiguous")
        if not found:
            raise not_found(id)
        return rows.job_of(found[0])

    def spec(self, id: str) -> JobSpec:
        found = self._of(id, f"{JOB_COLUMNS}, digest", "blob_refs", "AND position > 1", order="position")
        refs = tuple(row[WIDTH] for row in found if row[WIDTH] is not None)
        return rows.spec_of(rows.job_of(found[0]), refs)

    def result(self, id: str) -> Result | None:
        ((data,),) = self._of(id, "result", "results")
        return None if data is None else rows.result_of(data)

    def outputs(self, id: str) -> list[StepOutput]:
        found = self._of(id, "step, head, tail, elided", "outputs", order="position")
        return [StepOutput(*row) for row in found if row[0] is not None]

    def attempts(self, id: str) -> list[Attempt]:
        columns = "number, attempts.node, attempts.started, attempts.ended, ended_by, attempts.failure"
        found = self._of(id, columns, "attempts", order="number")
        return [rows.attempt_of(id, row) for row in found if row[0] is not None]

    def _of(self, id: str, columns: str, table: str, condition: str = "", *, order: str = "seq") -> list[Row]:
        """What a table has of one job: a row of NULLs where it has nothing. Unknown id: JobNotFound."""
        found = self._db.read(
            f"SELECT {columns} FROM jobs LEFT JOIN {table} ON {table}.job = jobs.seq {condition} "  # noqa: S608 - ours
            f"WHERE jobs.id = ? AND jobs.queue = ? ORDER BY {order}",
            id,
            self.queue,
        )
        if not found:
            raise not_found(id)
        return found

    def ended_since(self, cursor: int, *, limit: int = 1000) -> list[Job]:
        found = self._db.read(
            f"{SELECT} INDEXED BY jobs_ended WHERE queue = ? AND ended_seq > ? AND {_GIVEN} ORDER BY ended_seq LIMIT ?",
            self.queue,
            cursor,
            max(limit, 0),
        )
        return [rows.readable(row) for row in found]

    def last_ended(self) -> int:
        ((value,),) = self._db.read("SELECT value FROM meta WHERE name = 'ended_seq'")
        return int(value)

    def list(self, query: Query = Query()) -> list[Job]:
        conditions: list[str] = ["queue = ?"]
        values: list[str | float] = [self.queue]
        if query.states:
            conditions.append("state IN (SELECT value FROM json_each(?))")
            values.append(as_json(query.states))
        if query.ids is not None:
            conditions.append("id IN (SELECT value FROM json_each(?))")
            values.append(as_json(query.ids))
        if query.assignment is not None:
            conditions.append("assignment = ?")
            values.append(query.assignment)
        if query.student is not None:
            conditions.append("student = ?")
            values.append(query.student)
        if query.ended_before is not None:
            conditions.append("ended < ?")
            values.append(query.ended_before)
        if query.delivery:
            conditions.append("delivery IN (SELECT value FROM json_each(?))")
            values.append(as_json(query.delivery))
        order = "DESC" if query.newest_first else "ASC"
        found = self._db.read(
            f"{SELECT} WHERE {' AND '.join(conditions)} ORDER BY seq {order} LIMIT ?",
            *values,
            -1 if query.limit is None else max(query.limit, 0),
        )
        return [rows.job_of(row) for row in found]


def as_json(values: Sequence[str]) -> str:
    """Any number of values as one parameter, for `json_each`."""
    return rows.to_json(values).decode()


def not_found(id: str) -> JobNotFound:
    return JobNotFound(f"no job has the id {id!r}", hint="see the ids: minitango jobs list")
