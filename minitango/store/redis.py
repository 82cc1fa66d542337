"""The store on a Redis server: one queue that several machines share.

Each verb that moves jobs is one script (`lua/`), so it is whole or did not happen. What becomes of a job is decided
there by the rules of `retry.py`, with its constants; the same tests hold this store and the SQLite one to them.

What is durable is the server's to say: with `appendonly yes` what was accepted survives the death of the server,
but for up to two seconds of it where its disk cannot keep up; with `appendfsync always` it all does, and the loss of
power, too.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, Final

from msgspec.msgpack import encode as packed

from minitango.blobs import BlobStore
from minitango.errors import ConfigError, StoreError, StoreFull, reach_of
from minitango.job import Ack, Cancelled, Fail, Finish, Job, JobSpec, Lease, Release, State, serves, work_key
from minitango.store import Exchanged, Node, Submitted, node_taken
from minitango.store import _redis_folder as folder
from minitango.store import _redis_rows as redis_rows
from minitango.store import _rows as rows
from minitango.store._brought import MOST_BROUGHT
from minitango.store._history import not_found
from minitango.store._redis_blobs import RedisBlobs
from minitango.store._redis_dump import RedisDump
from minitango.store._redis_errors import number_of
from minitango.store._redis_link import Link, Value
from minitango.store._redis_outbox import RedisOutbox
from minitango.store._redis_url import check_queue, parse

log = logging.getLogger("minitango")

FORGET_BATCH: Final = 200
"""Jobs forgotten in one script: the server serves others between."""
_MAX_CLAIM: Final = 10_000
MAX_SUBMIT: Final = 10_000
"""Jobs in one submission, which is one script: some seconds for which the server serves nobody else."""
_SOON: Final = 0.5
"""Seconds within which a submission that was not answered is sent again: people wait for no more than 2."""
_MANY: Final = 1000
"""Jobs in one submission from which on the server may take longer over it."""
_SOLO_AT_ONCE: Final = 100
"""Jobs that are to be run alone of which it is asked at once what they need."""
_WAVES_FOR: Final = 1.0
"""Seconds that an exchange takes at most over the jobs that wait together: then all nodes are told to go on."""
_MAYBE_DONE: Final = frozenset(
    {"store_unreachable", "store_busy", "store_full", "store_unconfirmed", "redis_replica", "redis_tls"}
)
"""Errors after which an exchange may have been done: most may be what its second try met, on a server that died after
the first, and what was not confirmed was done, but may be lost yet."""
_UNSURE: Final = "; it is not known whether this was accepted: submit it again, the same work is one job"


class RedisStore(RedisOutbox, RedisDump):
    """`Store` on a Redis server (6 to 8, or Valkey). Threads may share it; a process that forks opens its own.

    One store object is one queue: the name in the URL, else `queue`. `clock` tells the time wherever `now` is None;
    without it the server's own does.

    Raises StoreError (ids store_unreachable, store_auth, store_busy, store_corrupt, store_unconfirmed, redis_too_old,
    redis_evicts, redis_not_durable, redis_kind, redis_replica, redis_service, redis_tls, store_filling), StoreFull or
    StoreTooNew, from here and from every verb. A verb that raises `store_unreachable` did not happen, as far as that
    can be known: where it may have, its message says so. `store_unconfirmed`: it did, and fewer replicas have it than
    the URL asks for.
    """

    shared = True

    def __init__(
        self, url: str, *, queue: str = "default", clock: Callable[[], float] | None = None, filling: bool = False
    ) -> None:
        place = parse(url)
        if place.queue and queue not in ("default", place.queue):
            raise ConfigError(
                f"the queue is {queue!r}, and the store URL names {place.queue!r}",
                hint="name it in one place",
                id="store_url",
            )
        super().__init__(Link(place, check_queue(place.queue or queue), filling=filling), clock)
        self.remarks = self._link.remarks
        self._client = secrets.token_hex(8)
        self._exchanging = threading.Lock()
        self._blobs: RedisBlobs | None = None
        self._folder: folder.FolderBlobs | None = None
        self._unanswered: tuple[list[Value], list[Ack]] | None = None
        """An exchange that was sent and not answered: it may have been done."""
        self._owed = Exchanged()
        """What was answered, and the caller of `exchange` has not heard yet."""
        self._said: list[Ack] = []
        """The acks of that."""
        self._damaged: list[Fail] = []
        """Of jobs that were claimed, and whose records cannot be read."""
        self._waves = False
        """Whether an exchange has left queued jobs to be moved, as it takes no more than a batch."""

    def __repr__(self) -> str:
        return f"RedisStore({self._link.place.shown!r}, queue={self.queue!r})"

    # --- Queue ------------------------------------------------------------------------------------

    def now(self) -> float:
        return self._clock() if self._clock is not None else self._link.now()

    def submit(self, specs: Sequence[JobSpec], *, fresh: bool = False, now: float | None = None) -> list[Submitted]:
        if not specs:
            return []
        if len(specs) > MAX_SUBMIT:
            raise ConfigError(
                f"{len(specs):,} jobs in one submission are more than a queue on Redis takes at once ({MAX_SUBMIT:,})",
                hint="submit them in parts: the server serves others between",
                id="too_many_jobs",
            )
        named = [digest for spec in specs for digest in (spec.inputs, spec.spec, *spec.refs)]
        try:
            done = self._submit(specs, fresh=fresh, now=now)
        except (StoreFull, ConfigError):
            if self._blobs is not None:
                self._blobs.give_back(named)
            raise
        if self._blobs is not None:
            self._blobs.named(named)
        return done

    def _submit(self, specs: Sequence[JobSpec], *, fresh: bool, now: float | None) -> list[Submitted]:
        self._link.check_room()
        ids = self._draw(len(specs), set())
        deadline = time.monotonic() + _SOON
        again = False
        while True:
            said: list[str] = []
            for new, spec in zip(ids, specs, strict=True):
                said += redis_rows.submit_arguments(new, spec, self.queue)
            arguments = [
                self._at(now), "1" if fresh else "0", "1" if again else "0", packed(said),
                redis_rows.text(self._blobs_way),
            ]  # fmt: skip
            try:
                reply = self._link.run("submit", arguments, patient=len(specs) > _MANY, repeats=False)
            except StoreError as error:
                if error.id != "store_unreachable" or time.monotonic() > deadline:
                    if again or error.id == "store_unreachable":
                        error.message += _UNSURE
                    raise
                again = True  # the connection may have gone stale: the same ids, so that it is done once
                time.sleep(0.05)
                continue
            if reply[0] == b"elsewhere":
                folder.check(reply[1].decode("utf-8", "replace"), self._blobs_way)
            if reply[0] != b"taken":
                return [
                    Submitted(reply[at].decode(), reply[at + 1] == b"1", State(reply[at + 2].decode()))
                    for at in range(0, len(reply), 3)
                ]
            place = int(reply[1]) - 1  # one in 2**50 for each job in the queue
            (ids[place],) = self._draw(1, set(ids))

    def _draw(self, n: int, taken: set[str]) -> list[str]:
        """New ids, other than these."""
        drawn: dict[str, None] = {}
        while len(drawn) < n:
            new = rows.new_id()
            if new not in taken:
                drawn[new] = None
        return list(drawn)

    @property
    def unheard(self) -> bool:
        return self._unanswered is not None or self._owed != Exchanged() or bool(self._damaged)

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
        with self._exchanging:
            if self._unanswered is not None:
                # First what became of it: its words may be recorded, and jobs claimed for us.
                arguments, asked = self._unanswered
                self._hear(self._link.run("exchange", arguments, patient=True), asked)
            again = [ack for ack in acks if not any(ack is other for other in self._said)]
            claim = min(max(claim - len(self._owed.leases), 0), _MAX_CLAIM)
            if any(lease.solo for lease in self._owed.leases):  # it was claimed for a quiet moment: nothing beside it
                claim = 0
            if again or claim > 0:
                said = [word for ack in again for word in _said(ack)]
                tokens = [rows.new_token() for _ in range(claim)]
                arguments = [
                    self._at(now), self._client, secrets.token_hex(8), str(claim),
                    "solo" if solo else "trial" if trial else "",
                    redis_rows.text(node), repr(float(lease_for)), str(MOST_BROUGHT if self._blobs else 0),
                    packed([sorted(set(capabilities)), tokens, said]), *_printed(again),
                ]  # fmt: skip
                try:
                    self._hear(self._link.run("exchange", arguments, patient=True), again)
                except StoreError as error:
                    if error.id in _MAYBE_DONE:
                        self._unanswered = arguments, again
                    raise
            if self._damaged:
                with suppress(StoreError):  # the next exchange says it; where none comes, their leases lapse
                    self._give_up(now)
            if self._waves:
                with suppress(StoreError):  # the next exchange, whoever's it is, goes on with them
                    self._move_on(now)
            owed, self._owed, self._said = self._owed, Exchanged(), []
            return owed

    def _move_on(self, now: float | None) -> None:
        """Have batches of queued jobs moved that are to be held, or to be freed, for as long as a producer may wait;
        then all are told, to go on with them. Each batch is an exchange of nothing."""
        until = time.monotonic() + _WAVES_FOR
        nothing: list[Value] = ["0", "", "", "0", "0", packed([[], [], []])]
        while self._waves and time.monotonic() < until:
            arguments = [self._at(now), self._client, secrets.token_hex(8), *nothing]
            self._exchanged(self._link.run("exchange", arguments, patient=True), ())
        if self._waves:
            self._link.call("tell", lambda client: client.publish(self._key("changed"), ""))

    def sync(self) -> None:
        """Nothing to wait for: how durable an answer is, is the server's to say."""

    def _hear(self, reply: Any, acks: list[Ack]) -> None:
        """An exchange was answered. What it says is owed to the caller, also where the next one fails before that."""
        now, before = self._exchanged(reply, acks), self._owed
        self._owed = Exchanged(before.refused + now.refused, before.settled + now.settled, before.leases + now.leases)
        self._said = [*self._said, *acks]
        self._unanswered = None

    def _exchanged(self, reply: Any, acks: Sequence[Ack]) -> Exchanged:
        heard = redis_rows.exchanged_of(reply, len(acks))
        self._waves = heard.waves
        if heard.unread:
            log.warning("%d records of %s cannot be read whole: they were damaged", heard.unread, self)
        self._damaged += [Fail(lease, rows.unreadable(error), retry=False) for lease, error in heard.damaged]
        if self._blobs is not None:
            self._blobs.brought.bring(heard.brought.items())
        return Exchanged(tuple(acks[at].lease for at in heard.refused), heard.settled, heard.leases)

    def _give_up(self, now: float | None) -> None:
        """Have jobs be dead that were claimed and cannot be read: what we say of them is what nobody else can."""
        acks = list(self._damaged)
        said = packed([[], [], [word for ack in acks for word in _said(ack)]])
        arguments: list[Value] = [self._at(now), self._client, secrets.token_hex(8), "0", "", "", "0", "0", said]
        heard = self._exchanged(self._link.run("exchange", arguments, patient=True), acks)
        self._damaged, before = self._damaged[len(acks) :], self._owed
        self._owed = Exchanged(before.refused, before.settled + heard.settled, before.leases)

    def extend(
        self, leases: Sequence[Lease], *, lease_for: float = 60.0, now: float | None = None
    ) -> tuple[Lease, ...]:
        if not leases:
            return ()
        arguments: list[Value] = [self._at(now), repr(float(lease_for))]
        for lease in leases:
            arguments += [lease.job, str(lease.attempt), lease.token]
        lost = self._link.run("extend", arguments, patient=True)
        return tuple(leases[int(at)] for at in lost)

    def reap(self, *, now: float | None = None) -> list[Job]:
        return self._take_back([self._at(now), "reap", ""])

    def recover(self, *, node: str | None = None, now: float | None = None) -> list[Job]:
        return self._take_back([self._at(now), "recover", redis_rows.maybe(node)])

    def _take_back(self, arguments: Sequence[Value]) -> list[Job]:
        reply = self._link.run("reap", arguments, patient=True)
        return [redis_rows.readable(redis_rows.from_flat(flat)) for flat in reply]

    def cancel(self, id: str, *, reason: str = "", now: float | None = None) -> Job:
        why = rows.clean_text(reason)
        flat = self._link.run("cancel", [self._at(now), id, why]) if rows.is_id(id) else []
        if not flat:
            raise not_found(id)
        return redis_rows.readable(redis_rows.from_flat(flat))

    def cancel_requested(self) -> list[str]:
        ids = self._link.call("read", lambda client: client.smembers(self._key("cancels")))
        jobs = map(redis_rows.readable, self._read(sorted(ids)) if ids else [])
        return [job.id for job in sorted(jobs, key=lambda job: job.seq)]

    def next_due(self) -> float | None:
        found = self._link.call("read", lambda client: client.zrange(self._key("due"), 0, 0, withscores=True))
        return float(found[0][1]) if found else None

    def solo_since(self, *, capabilities: Collection[str] = ()) -> float | None:
        for start in count(0, _SOLO_AT_ONCE):
            found = self._link.call("read", partial(_slice, self._key("solo"), start))
            lanes = self._link.pipeline(partial(_lanes, self._key("j:"), [one.decode() for one, _ in found]))
            for (_, since), lane in zip(found, lanes, strict=True):
                if lane is not None and serves(capabilities, lane.decode("utf-8", "replace")):
                    return float(since)
            if len(found) < _SOLO_AT_ONCE:
                return None
        return None

    def counts(self) -> Mapping[State, int]:
        names = [f"n:{state.value}" for state in State]
        found = self._link.call("read", lambda client: client.hmget(self._key("meta"), names))
        place = self._link.place
        return {state: number_of(f"n:{state.value}", n, place) for state, n in zip(State, found, strict=True)}

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        return self._link.watch(changed, own=self._client)

    # --- Nodes ------------------------------------------------------------------------------------

    def beat(self, node: Node, *, after: Collection[str] = (), now: float | None = None) -> bool:
        said: list[Value] = [redis_rows.text(node.name), rows.to_json(node), node.instance, *after]
        answer = self._link.run("nodes", [self._at(now), "beat", *said], patient=True)
        if isinstance(answer, bytes):
            raise node_taken(redis_rows.node_of(node.name.encode(), answer, 0.0, False))
        return bool(answer)

    def leave(self, name: str, instance: str | None = None) -> bool:
        return bool(self._link.run("nodes", [self._at(None), "leave", redis_rows.text(name), instance or ""]))

    def drain(self, name: str, on: bool = True) -> bool:
        return bool(self._link.run("nodes", [self._at(None), "drain", redis_rows.text(name), "1" if on else "0"]))

    def nodes(self) -> list[Node]:
        def ask(pipe: Any) -> None:
            pipe.hgetall(self._key("nodes"))
            pipe.zrange(self._key("seen"), 0, -1, withscores=True)
            pipe.smembers(self._key("drain"))

        records, seen, drained = self._link.pipeline(ask)
        when = dict(seen)
        return [
            redis_rows.node_of(name, record, float(when.get(name, 0.0)), name in drained)
            for name, record in sorted(records.items())
        ]

    # --- Upkeep -----------------------------------------------------------------------------------

    def forget(self, ids: Iterable[str], *, undelivered: bool = False) -> int:
        waiting = (one for one in ids if rows.is_id(one))
        forgotten = 0
        while batch := list(islice(waiting, FORGET_BATCH)):
            forgotten += int(self._link.run("forget", ["1" if undelivered else "0", *batch], patient=True))
        return forgotten

    def hand_over(self, id: str, student: str, labels: Mapping[str, str]) -> bool:
        if not rows.is_id(id):
            return False
        words = [id, redis_rows.text(student), rows.to_text(dict(labels)) or ""]
        return bool(self._link.run("hand_over", words, patient=True))

    def referenced(self, digests: Iterable[str], *, without: Iterable[str] = ()) -> set[str]:
        asked = list(dict.fromkeys(digests))
        less: dict[str, int] = {}
        for raw in self._read([one.encode() for one in dict.fromkeys(without) if rows.is_id(one)]):
            for digest in raw.get(b"refs", b"").decode("ascii", "replace").split():
                less[digest] = less.get(digest, 0) + 1
        needed: set[str] = set()
        for start in range(0, len(asked), 1000):
            batch = asked[start : start + 1000]
            named = self._link.pipeline(partial(_named, self._key("refs"), batch))[0]
            needed |= {digest for digest, n in zip(batch, named, strict=True) if int(n or 0) > less.get(digest, 0)}
        return needed

    def shrink(self) -> int:
        """Memory is free as soon as jobs are forgotten; what is left of them is in the server's append-only file."""
        return self._link.rewrite_file()

    def _blobs_for_nothing(self) -> AbstractContextManager[None]:
        return nullcontext() if self._blobs is None else self._blobs.given_back_on_failure()

    def blobs(self, cache: Path, directory: Path | None = None) -> BlobStore:
        """The blobs of this queue: in a `directory` that its nodes share, or on its server, and then `cache` is one for
        what is fetched. What is submitted from now on notes which."""
        self._blobs_way = folder.way_of(directory)
        self._blobs = self._folder = None
        if directory is not None:
            self._folder = folder.FolderBlobs(directory, self._link)
            return self._folder
        self._blobs = RedisBlobs(self._link, cache)
        return self._blobs

    def check_blobs(self) -> None:
        if self._folder is not None:
            self._folder.check()
        else:
            folder.check(folder.noted(self._link), self._blobs_way)

    def look_after(self) -> None:
        """A server is looked after by others."""

    def close(self) -> None:
        self._link.close()


def _slice(key: str, start: int, client: Any) -> Any:
    return client.zrange(key, start, start + _SOLO_AT_ONCE - 1, withscores=True)


def _lanes(prefix: str, ids: Iterable[str], pipe: Any) -> None:
    for one in ids:
        pipe.hget(f"{prefix}{one}", "lane")


def _named(key: str, digests: Sequence[str], pipe: Any) -> None:
    pipe.hmget(key, digests)


def _printed(acks: Iterable[Ack]) -> Iterator[bytes]:
    """What steps printed, for exchange.lua, which takes two of these for each output."""
    for ack in acks:
        if isinstance(ack, Finish):
            for output in ack.outputs:
                yield output.head
                yield output.tail


def _said(ack: Ack) -> list[str]:
    """An ack for exchange.lua."""
    lease = ack.lease
    whose = [lease.job, str(lease.attempt), lease.token]
    match ack:
        case Finish():
            result = ack.result
            key = work_key(ack.grader, lease.course, lease.student, lease.inputs, lease.labels) if ack.grader else ""
            said = [
                "finish", *whose, rows.to_json(result).decode(), key, result.outcome.value,
                redis_rows.number(result.score),
                redis_rows.number(result.max_score), result.trust.value, rows.clean_text(result.reason),
                redis_rows.number(result.usage.wall), str(len(result.warnings)), str(len(ack.outputs)),
            ]  # fmt: skip
            for output in ack.outputs:
                said += [rows.clean_text(output.step), str(output.elided)]
            return said
        case Fail():
            failure = ack.failure
            return [
                "fail", *whose, "1" if ack.retry else "0", "1" if ack.charge else "0", rows.to_json(failure).decode(),
                rows.clean_text(failure.id), reach_of(failure.id),
            ]  # fmt: skip
        case Release():
            return ["release", *whose]
        case Cancelled():
            return ["cancelled", *whose]
