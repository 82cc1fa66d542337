"""The reading half of the Redis store: jobs, results and outputs, as they were recorded."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from minitango.errors import JobNotFound
from minitango.job import Attempt, Job, JobSpec, Result, State, StepOutput
from minitango.store import Query
from minitango.store import _redis_rows as redis_rows
from minitango.store import _rows as rows
from minitango.store._history import not_found
from minitango.store._redis_errors import number_of
from minitango.store._redis_link import Link

_BATCH: Final = 500
"""Jobs that are read at once: the server serves others between."""


class RedisHistory:
    """`History` over one queue of a server. What one call gives was read in batches: jobs may move between them."""

    def __init__(self, link: Link) -> None:
        self.queue = link.queue
        self._blobs_way = ""
        """Where its files are, as far as that was said here: `_redis_folder`."""
        self._link = link

    def get(self, id: str) -> Job:
        if rows.is_id(id):
            raw = self._link.call("get", lambda client: client.hgetall(self._key("j:" + id)))
            if raw:
                return redis_rows.job_of(raw)
        elif rows.is_prefix(id):
            found = self._link.call(
                "get", lambda client: client.zrangebylex(self._key("ids"), f"[{id}", f"[{id}~", start=0, num=2)
            )
            if len(found) > 1:
                raise JobNotFound(f"several jobs begin with {id}", hint="type more of the id", id="job_ambiguous")
            if found:
                return self.get(found[0].decode())
        raise not_found(id)

    def spec(self, id: str) -> JobSpec:
        raw, _ = self._of(id, lambda pipe: pipe.ping())
        return redis_rows.spec_of(raw)

    def result(self, id: str) -> Result | None:
        _, data = self._of(id, lambda pipe: pipe.get(self._key("r:" + id)))
        return None if data is None else rows.result_of(data)

    def outputs(self, id: str) -> list[StepOutput]:
        _, items = self._of(id, lambda pipe: pipe.lrange(self._key("o:" + id), 0, -1))
        return redis_rows.outputs_of(id, items)

    def attempts(self, id: str) -> list[Attempt]:
        _, raw = self._of(id, lambda pipe: pipe.hgetall(self._key("a:" + id)))
        return redis_rows.attempts_of(id, raw)

    def _of(self, id: str, ask: Any) -> tuple[Any, ...]:
        """A job's hash, and each thing more that is asked of it. Unknown id: JobNotFound."""
        if not rows.is_id(id):
            raise not_found(id)

        def both(pipe: Any) -> None:
            pipe.hgetall(self._key("j:" + id))
            ask(pipe)

        raw, *more = self._link.pipeline(both)
        if not raw:
            raise not_found(id)
        return raw, *more

    def ended_since(self, cursor: int, *, limit: int = 1000) -> list[Job]:
        found: builtins.list[Job] = []
        low, most = f"({cursor}", limit
        while most > 0 and len(found) < limit:
            page = self._link.call("read", partial(_page, key=self._key("ended"), low=low, most=most))
            numbers = {one.decode("ascii", "replace"): int(number) for one, number in page}
            for job in map(redis_rows.readable, self._read([one for one, _ in page])):
                # It is what the next call goes on from, also where the record has lost it.
                found.append(job if job.ended_seq is not None else replace(job, ended_seq=numbers.get(job.id)))
            if len(page) < most:
                break
            low, most = f"({page[-1][1]:.0f}", _BATCH  # nothing is left of some of them
        return found[:limit]

    def last_ended(self) -> int:
        said = self._link.call("read", lambda client: client.hget(self._key("meta"), "ended_seq"))
        return number_of("ended_seq", said, self._link.place)

    def list(self, query: Query = Query()) -> list[Job]:
        left = query.limit
        found: list[Job] = []
        for raw in self._candidates(query):
            if left is not None and len(found) >= max(left, 0):
                break
            job = redis_rows.job_of(raw)
            if (
                (not query.states or job.state in query.states)
                and query.assignment in (None, job.assignment)
                and query.student in (None, job.student)
                and (not query.delivery or job.delivery in query.delivery)
                and (query.ended_before is None or (job.ended is not None and job.ended < query.ended_before))
            ):
                found.append(job)
        return found

    def _candidates(self, query: Query) -> Iterator[dict[bytes, bytes]]:
        """The hashes of jobs among which those are that match, in their order."""
        if query.ids is not None:
            asked = [one.encode() for one in dict.fromkeys(query.ids) if rows.is_id(one)]
            yield from self._in_order(asked, query)
            return
        if set(query.states) == {State.RUNNING}:  # as many as nodes have slots, however long the queue is
            ids = self._link.call("read", lambda client: client.zrange(self._key("running"), 0, -1))
            yield from self._in_order(ids, query)
            return
        if query.student is not None:
            index = f"of:s:{rows.clean_text(query.student)}"
        elif query.assignment is not None:
            index = f"of:a:{rows.clean_text(query.assignment)}"
        else:
            index = "jobs"
        # By number, not by place: what is forgotten meanwhile moves the places.
        low, high = "-inf", "+inf"
        while True:
            ids = self._page(index, low, high, query.newest_first)
            if not ids:
                return
            yield from self._read([one for one, _ in ids])
            if query.newest_first:
                high = f"({ids[-1][1]:.0f}"
            else:
                low = f"({ids[-1][1]:.0f}"

    def _in_order(self, ids: Sequence[bytes], query: Query) -> builtins.list[dict[bytes, bytes]]:
        return sorted(self._read(ids), key=lambda raw: redis_rows.readable(raw).seq, reverse=query.newest_first)

    def _page(self, index: str, low: str, high: str, newest_first: bool) -> builtins.list[tuple[bytes, float]]:
        key = self._key(index)

        def ask(client: Any) -> Any:
            if newest_first:
                return client.zrevrangebyscore(key, high, low, start=0, num=_BATCH, withscores=True)
            return client.zrangebyscore(key, low, high, start=0, num=_BATCH, withscores=True)

        found: builtins.list[tuple[bytes, float]] = self._link.call("read", ask)
        return found

    def _read(self, ids: Sequence[bytes]) -> builtins.list[dict[bytes, bytes]]:
        """The hashes of these jobs, in this order, but for those that are not there."""
        found: builtins.list[dict[bytes, bytes]] = []
        prefix = self._key("j:").encode()
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]

            def ask(pipe: Any, batch: Sequence[bytes] = batch) -> None:
                for one in batch:
                    pipe.hgetall(prefix + one)

            found += [raw for raw in self._link.pipeline(ask) if raw]
        return found

    def _key(self, name: str) -> str:
        return self._link.key(name)


def _page(client: Any, *, key: str, low: str, most: int) -> list[tuple[bytes, float]]:
    found: list[tuple[bytes, float]] = client.zrangebyscore(key, low, "+inf", start=0, num=most, withscores=True)
    return found
