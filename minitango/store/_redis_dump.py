"""The Redis store as a whole: taken out in batches while others use it, filled in batches while nobody may."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

from minitango.errors import StoreError, reach_of
from minitango.job import Delivery, Job
from minitango.retry import POISON, Hold
from minitango.store import _redis_rows as redis_rows
from minitango.store import _rows as rows
from minitango.store._redis_errors import not_whole, number_of
from minitango.store._redis_history import RedisHistory
from minitango.store._redis_link import Value
from minitango.store.portable import Books, JobDump, Post, Streak, not_empty, posts_digest
from minitango.text import plural

log = logging.getLogger("minitango")

_OUT: Final = 20
"""Jobs in one reply, each with what its steps printed."""
_IN: Final = 50
_IN_BYTES: Final = 1 << 20
"""In one request: the server serves others between."""
_PIECE: Final = 1000
"""Of what the books tell of, in one reply."""
_NAMED: Final = 5
"""Jobs that are lost, in what is said of them."""
_STAYS: Final = (b"meta", b"blobs", b"nodes", b"seen", b"drain")


class RedisDump(RedisHistory):
    """`Portable` over one queue of a server."""

    def books(self) -> Books:
        # The numbers come first, and in pieces what may be many, as the server serves nobody while it writes a reply.
        # A change meanwhile is in them, or missed as places shift, and then found in those that are read later.
        def ask(client: Any) -> tuple[list[Any], set[bytes], dict[bytes, float]]:
            pipe = client.pipeline(transaction=False)
            pipe.hmget(self._key("meta"), "seq", "ended_seq")
            pipe.smembers(self._key("drain"))
            pipe.zcard(self._key("jobs"))
            numbers = pipe.execute()
            cancels = set(client.sscan_iter(self._key("cancels"), count=_PIECE))
            posts: dict[bytes, float] = {}
            start = 0
            while piece := client.zrange(self._key("outbox"), start, start + _PIECE - 1, withscores=True):
                posts.update(piece)
                start += _PIECE
            return numbers, cancels, posts

        ((seq, ended), drained, jobs), cancels, posts = self._link.call("read", ask)
        place = self._link.place
        return Books(
            number_of("seq", seq, place), number_of("ended_seq", ended, place), _sorted(drained), int(jobs),
            _sorted(cancels),
            posts_digest((job.decode(), due) for job, due in posts.items()),
        )  # fmt: skip

    def others(self) -> tuple[str, ...]:
        return ()  # each queue on a server is a place

    def dump(self) -> Iterator[JobDump]:
        with self._link.telling_who():
            yield from self._dump()

    def _dump(self) -> Iterator[JobDump]:
        said = self._link.call("read", lambda client: client.hget(self._key("meta"), "seq"))
        top = number_of("seq", said, self._link.place)
        low, lost = "-inf", []
        while page := self._page("jobs", low, str(top), newest_first=False):
            ids = iter([one for one, _ in page])
            while batch := list(islice(ids, _OUT)):
                for reply in self._link.run("dump", [str(top), *batch], patient=True):
                    if len(reply) == 1:
                        lost.append(reply[0].decode("utf-8", "replace"))
                    else:
                        yield _dumped(*reply)
            low = f"({page[-1][1]:.0f}"
        if lost:
            more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
            log.warning(
                "%s lost from the queue %r on Redis at %s, and left out, as nothing is left there but the id (%s%s); "
                "next: restore the server's data from a backup",
                plural(len(lost), "job", "are"), self.queue, self._link.place.shown, ", ".join(lost[:_NAMED]), more,
            )  # fmt: skip

    def load(self, jobs: Iterable[JobDump], books: Callable[[], Books]) -> int:
        with self._link.telling_who():
            return self._load(jobs, books)

    def _load(self, jobs: Iterable[JobDump], books: Callable[[], Books]) -> int:
        token = secrets.token_hex(8)
        begun = int(self._link.run("load", ["begin", token, self._blobs_way], patient=True))
        if not begun:
            raise not_empty(f"the queue {self.queue} on {self._link.place.shown}")
        with self._blobs_for_nothing():
            try:
                if begun > 1:
                    self._clear(token)
                    self._link.run("load", ["cleared", token], patient=True)
                return self._fill(token, jobs, books)
            except BaseException:
                with suppress(StoreError):  # what is left is cleared away by the next one
                    self._link.call("open", lambda client: client.ping())  # or else all this is waited for
                    self._clear(token)
                    self._link.run("load", ["abandon", token], patient=True)
                raise

    def _blobs_for_nothing(self) -> AbstractContextManager[None]:
        """Where this ends with an exception, files that were put meanwhile for jobs which are not here leave again."""
        return nullcontext()

    def _fill(self, token: str, jobs: Iterable[JobDump], books: Callable[[], Books]) -> int:
        count = size = 0
        batch: list[Value] = []
        for dumped in jobs:
            said = self._arguments(dumped)
            batch += said
            size += sum(len(value) for value in said if isinstance(value, bytes | str))
            count += 1
            if count % _IN == 0 or size > _IN_BYTES:
                self._link.run("load", ["jobs", token, *batch], patient=True)
                batch, size = [], 0
        if batch:
            self._link.run("load", ["jobs", token, *batch], patient=True)
        kept = books()
        end: list[Value] = ["end", token, str(count), str(kept.seq), str(kept.ended_seq), *kept.drained]
        there = int(self._link.run("load", end, patient=True))
        if there >= 0:
            raise not_whole(self._link.place, self._link.queue, there, count)
        return count

    def _clear(self, token: str) -> None:
        """Remove what was filled in, by us or by somebody who died, as long as it is ours to fill. Blobs stay: they are
        what they are."""
        prefix = self._key("").encode()

        def clear(client: Any) -> None:
            for keys in _in_turn(client.scan_iter(prefix + b"*", count=1000), 500):
                names = [key.removeprefix(prefix) for key in keys]
                if gone := [name for name in names if not _stays(name)]:
                    self._link.run("load", ["clear", token, *gone], patient=True)
            client.exists(self._key("nowhere"))  # raises where the server has not, or not all of, this queue any more

        self._link.call("load", clear, patient=True)

    def _arguments(self, dumped: JobDump) -> list[Value]:
        """One job for load.lua."""
        fields = {**redis_rows.fields_of(dumped.job, self.queue, dumped.digests), **_own(dumped)}
        attempts: list[Value] = []
        for one in dumped.attempts:
            attempts += [f"{one.number}:node", one.node, f"{one.number}:started", redis_rows.number(one.started)]
            if one.ended is not None:
                attempts += [
                    f"{one.number}:ended",
                    redis_rows.number(one.ended),
                    f"{one.number}:by",
                    one.ended_by or "",
                ]
            if one.failure is not None:
                attempts += [f"{one.number}:failure", rows.to_json(one.failure)]
        outputs: list[Value] = []
        for output in dumped.outputs:
            outputs += [output.step, output.head, output.tail, str(output.elided)]
        flat: list[Value] = [value for pair in fields.items() for value in pair]
        post = _said_of(dumped.post) if dumped.post is not None else []
        due = redis_rows.number(dumped.post.due) if dumped.post is not None else ""
        return [
            str(len(flat)), *flat, str(len(attempts)), *attempts, dumped.result or b"", str(len(outputs)), *outputs,
            str(len(post)), *post, due, "1" if dumped.holder else "0",
        ]  # fmt: skip

    def snapshot(self, path: Path) -> None:
        from minitango.store.sqlite import SqliteStore

        with closing(SqliteStore(path)) as copy:
            copy.load(self.dump(), self.books)


def _in_turn(keys: Iterable[bytes], n: int) -> Iterator[list[bytes]]:
    waiting = iter(keys)
    while batch := list(islice(waiting, n)):
        yield batch


def _sorted(names: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(sorted(name.decode() for name in names))


def _stays(name: bytes) -> bool:
    return name in _STAYS or name.startswith((b"b:", b"last:"))


def _own(dumped: JobDump) -> dict[str, Value]:
    """What a job's hash has beside the fields of `Job`."""
    job, streak = dumped.job, dumped.streak
    own: dict[str, Value] = {"due_since": redis_rows.number(dumped.due_since)}
    if job.failure is not None:
        own["failure_id"] = job.failure.id
        if job.failure.id != POISON.id:
            own["reach"] = reach_of(job.failure.id)
    if dumped.token is not None:
        own["token"] = dumped.token
    if dumped.solo_lease:
        own["solo_lease"] = "1"
    if streak is not None:
        own |= {
            "held": str(streak.times), "held_since": redis_rows.number(streak.since),
            "held_at": redis_rows.number(streak.at), "held_mark": str(streak.mark),
            "late": str(Hold(streak.times, streak.since, streak.alone).late),
        }  # fmt: skip
        if streak.alone:
            own["held_alone"] = "1"
    return own


def _said_of(post: Post) -> list[Value]:
    """A `cb:` hash."""
    said: list[Value] = ["since", redis_rows.number(post.since), "tries", str(post.tries)]
    if post.token is not None:
        said += ["token", post.token]
    if post.settled is not None:
        said += ["settled", redis_rows.number(post.settled)]
    return [*said, "error", post.error] if post.error else said


def _post_of(job: Job, raw: dict[bytes, bytes], due: bytes) -> Post | None:
    if not raw:  # what became of it is lost: it begins anew
        return Post(since=float(due), due=float(due)) if due and job.delivery is Delivery.PENDING else None
    token = raw.get(b"token")
    return Post(
        since=float(raw[b"since"]),
        due=float(due) if due else None,
        tries=int(raw[b"tries"]),
        token=None if token is None else token.decode(),
        settled=float(raw[b"settled"]) if b"settled" in raw else None,
        error=raw.get(b"error", b"").decode(),
    )


def _dumped(
    flat: list[bytes],
    attempts: list[bytes],
    result: bytes,
    outputs: list[bytes],
    post: list[bytes],
    due: bytes,
    holder: bytes,
) -> JobDump:
    raw = redis_rows.from_flat(flat)
    job = redis_rows.job_of(raw)
    try:
        times = int(raw.get(b"held", b"0"))
        streak = None
        if times and not job.state.terminal:
            alone = raw.get(b"held_alone") == b"1"
            streak = Streak(times, float(raw[b"held_since"]), alone, float(raw[b"held_at"]), int(raw[b"held_mark"]))
        token = raw.get(b"token")
        return JobDump(
            job=job,
            refs=tuple(raw.get(b"refs", b"").decode("ascii", "replace").split())[2:],
            due_since=float(raw[b"due_since"]),
            attempts=tuple(redis_rows.attempts_of(job.id, redis_rows.from_flat(attempts))),
            result=result or None,
            outputs=tuple(redis_rows.outputs_of(job.id, outputs)),
            streak=streak,
            post=_post_of(job, redis_rows.from_flat(post), due),
            token=None if token is None else token.decode(),
            solo_lease=raw.get(b"solo_lease") == b"1",
            holder=holder == b"1",
        ).checked()
    except (ValueError, KeyError) as error:
        raise redis_rows.damaged(f"job {job.id}", error) from error
