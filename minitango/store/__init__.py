"""Durable queue state, behind small protocols. A docstring here is the contract: `tests/contract/`
holds every store to it.

Rules that hold for every verb:

- When a verb returns, what it did is durable (it survives `kill -9` and loss of power; with Redis, as far as the
  server is told to keep it), whole, and seen by every process. When it raises, nothing of it happened; where a network
  is between, `store_unreachable` can also mean that it is not known, and to say the same again is safe.
- A store object is one queue: every verb sees the jobs of its queue only. Ids, `ended_seq` and `referenced` are
  of the whole place: the SQLite file, which has its blobs in it and beside it, or the one queue on a Redis server,
  which has its own.
- A store may be used from any thread. Any number of processes may submit to one store and watch it.
- Time is a parameter: `now` is seconds since the epoch; None asks the store's own clock (the host's for
  SQLite, `TIME` for Redis).
- Verbs of a running attempt carry its `Lease`. One whose (job, attempt, token) is no longer the current one is
  refused, and changes nothing: a fence on the token, not on the state.
- A verb that is given an id takes the whole id, but for `get`. Unknown id: JobNotFound.
- One record that is damaged holds up no other. Who asks for its job is told (`record_damaged`); where jobs are moved,
  or followed, what can be read of it stands for it; where it would be claimed it becomes dead, for that reason.
- Foreign exceptions become `StoreError`, `StoreFull` or `StoreTooNew`, with the cause kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from msgspec import Struct

from minitango.blobs import Blobs, BlobStore
from minitango.errors import ConfigError
from minitango.job import Ack, Attempt, Delivery, Job, JobSpec, Lease, Result, State, StepOutput
from minitango.store.portable import Copy, Portable


class Submitted(Struct, frozen=True):
    """What became of one spec. `created` is False where a job with the same key was there already."""

    id: str
    created: bool
    state: State


class Exchanged(Struct, frozen=True):
    """What one exchange did."""

    refused: tuple[Lease, ...] = ()
    """Leases of acks that were stale: those attempts' words were not recorded."""
    settled: tuple[Job, ...] = ()
    """Jobs whose acks were taken, as they are now, in the order of the acks; then those that were to be claimed, and
    are dead since their records cannot be read."""
    leases: tuple[Lease, ...] = ()
    """New leases, in claim order."""


class Query(Struct, frozen=True):
    """Which jobs to list; unset fields do not filter."""

    states: tuple[State, ...] = ()
    assignment: str | None = None
    student: str | None = None
    ids: tuple[str, ...] | None = None
    ended_before: float | None = None
    """Only jobs that ended before this."""
    limit: int | None = None
    newest_first: bool = False
    delivery: tuple[Delivery, ...] = ()
    """Only jobs whose callback is there."""


class Errand(Struct, frozen=True):
    """The right to try one delivery: every word on how it went carries it, and a stale one is refused."""

    job: str
    token: str
    """New with each taking, never reused."""
    url: str
    tries: int
    """How many were made before this one, since the job ended or was asked for anew."""
    since: float
    """When that was."""


class Callback(Struct, frozen=True):
    """What became of a job's callback so far."""

    url: str
    delivery: Delivery
    tries: int
    """That were told of, since `since`."""
    since: float
    """When the job ended, or its delivery was last asked for anew."""
    due: float | None
    """When it is tried next, or a try under way lapses; None unless it is pending."""
    trying: bool
    """Whether somebody took it, and has not said how it went."""
    settled: float | None
    """When it was delivered, or given up."""
    error: str
    """What the latest try that went wrong met; empty where none did."""


class Queue(Protocol):
    """The verbs that move jobs."""

    @property
    def shared(self) -> bool:
        """Whether several engines may grade this queue at once: then a lease is what tells who is alive."""
        ...

    @property
    def remarks(self) -> tuple[str, ...]:
        """What of this place weakens what is promised here, for people."""
        ...

    @property
    def unheard(self) -> bool:
        """Whether an exchange that raised may have been done all the same: what it did is told by the next one,
        whatever that is asked for. Where that is a job to be run alone, the next one claims nothing beside it."""
        ...

    def now(self) -> float:
        """The store's clock: seconds since the epoch."""
        ...

    def submit(self, specs: Sequence[JobSpec], *, fresh: bool = False, now: float | None = None) -> list[Submitted]:
        """Write a queued job for each spec, all of them or none, in their order. StoreFull already where the disk, or
        the memory, is nearly full: what is left is for the results of what was accepted. ConfigError `too_many_jobs`
        where the store takes fewer at once.

        A key that a queued, running or done job of this queue holds already gives that job instead of a new
        one, and notes in it that it was handed in again: its `turn` is after that of all that were before; one that is
        queued needs of its node what this spec says. A dead or
        cancelled job, or one that is being cancelled, does not hold its key: the new job takes it and names the old
        one in `supersedes` (unless the spec names another). A job that is dead as a poison (engines died of it) holds
        it, lest it be met again at each start. With `fresh`, a done or dead job gives its key up; a queued or running
        one keeps it. Two specs of one call with the same key are one job.
        """
        ...

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
        """Record what became of attempts, and claim up to `claim` jobs, in one commit.

        `ahead`: the store may return before what was recorded is on its disk. It outlives the death of this process
        then, but the loss of power only once `sync` has returned: tell nobody of a result before. A claim that is lost
        with the power is none, as is the attempt.

        Acks are applied in order, each by the state machine (`job.TRANSITIONS`, `after_failure`): Finish
        writes the one result and the outputs, and where it names another grader than the job was submitted for, gives
        the job the key of what was really done; Fail requeues with back-off or makes the job dead, and where
        `charge` is False holds it (see below); Release requeues it uncharged, due at once; Cancelled ends it.
        A Finish, Fail or Release of a job whose cancel was requested: Finish records the result (it won the
        race), Fail and Release end it cancelled. A stale ack is refused alone; the others stand.

        Uncharged failures in a row hold a job: it is requeued uncharged and due later each time, until it is
        charged after all (`retry.after_hold`). A charged one ends the row. Where the failure is its assignment's (its
        image, its setting: `errors.reach_of`), every queued job of the same `spec` is held with it: the longest of
        their rows, with this failure, becomes that of all, and the others are due `APART` seconds after it. Attempts
        that were under way when it was held count once. When one of them is graded, those held with it are due at once.
        A hold becomes `alone` by a job that was claimed at one of its failures or later, and graded before the next;
        where the image is what is missing, only by one of the same `spec`. `others` are queued jobs that are held for
        everybody's sandbox and not `alone`.

        Then claims, unless `node` was drained, of queued and due jobs that need no more than these `capabilities`
        (`job.serves`; a due time beyond any back-off, left by a clock that was set back, has come): those held often
        after all others (`Hold.late`), then higher priority first, then lower rank, then order of submission.
        Each becomes running with attempt + 1, a token never used before and an expiry `lease_for` seconds
        away. Jobs that are to be run alone (`Job.solo`) are left unless `solo` is True, which claims at most
        one job, and only such a job. With `trial`, by which an engine finds out whether its sandbox works again, none
        is claimed that an uncharged failure holds, where there are others among the first TRIAL_AMONG of each lane: it
        is not to be tried again and again with jobs that are the reason. The cost of a claim does not grow with the
        length of the queue, nor with the number of jobs that are not yet due.
        """
        ...

    def sync(self) -> None:
        """Wait until all that was recorded before, `ahead` too, is as durable as anything else. StoreError: it is not
        known to be; ask again."""
        ...

    def extend(
        self, leases: Sequence[Lease], *, lease_for: float = 60.0, now: float | None = None
    ) -> tuple[Lease, ...]:
        """Move the expiry of each lease to `lease_for` seconds from now. Returns those that are lost."""
        ...

    def reap(self, *, now: float | None = None) -> list[Job]:
        """Take back running jobs whose lease expired before `now`: uncharged interruptions (`after_interruption`).

        A lease is lapsed strictly after its expiry, not at it. A job whose cancel was requested ends cancelled.
        """
        ...

    def recover(self, *, node: str | None = None, now: float | None = None) -> list[Job]:
        """Take back every running job, whatever its expiry: the caller has proven that no engine holds them. With
        `node`, those that were claimed under that name.

        As `reap`, otherwise. Both return the jobs that they took back, as they are now, in order of submission.
        """
        ...

    def cancel(self, id: str, *, reason: str = "", now: float | None = None) -> Job:
        """A queued job ends cancelled; a running one gets `cancel_requested`; an ended one stays as it is.

        `reason` becomes `Job.reason`, and stays that unless the job is graded after all; the first cancel's counts.
        Returns the job as it is now. Unknown id: JobNotFound.
        """
        ...

    def cancel_requested(self) -> list[str]:
        """Ids of running jobs whose cancel was requested."""
        ...

    def next_due(self) -> float | None:
        """The earliest due time among queued jobs that carry one, solo or not; None where there is none."""
        ...

    def solo_since(self, *, capabilities: Collection[str] = ()) -> float | None:
        """Since when the longest-waiting job that is to be run alone, and needs no more than these `capabilities`, has
        been due; None where none is queued.

        A time to come, where the first of them is not due yet.
        """
        ...

    def counts(self) -> Mapping[State, int]:
        """How many jobs of this queue are in each state; every state is a key. Cost does not grow with the queue."""
        ...

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` within 100 ms, from a thread of the store's, after another process changed the queue.

        `changed` must not raise. It may be called when nothing changed, and for changes of this process.
        Returns a function that stops it; that function waits until no call is under way. Idle, it costs under
        0.3 % of a core.
        """
        ...


class History(Protocol):
    """What was, and is. Reading never blocks the verbs that move jobs."""

    def get(self, id: str) -> Job:
        """The job, or JobNotFound. An unambiguous beginning of an id, at least 4 characters, stands for it."""
        ...

    def spec(self, id: str) -> JobSpec:
        """What was submitted, whole: submitting it anew, with another key, grades the same again."""
        ...

    def result(self, id: str) -> Result | None:
        """The recorded result; None unless the job is done. Unknown id: JobNotFound."""
        ...

    def outputs(self, id: str) -> list[StepOutput]:
        """What the steps of the finished attempt printed, in their order; empty unless the job is done."""
        ...

    def attempts(self, id: str) -> list[Attempt]:
        """Every attempt, the first one first."""
        ...

    def ended_since(self, cursor: int, *, limit: int = 1000) -> list[Job]:
        """Jobs with `ended_seq` > cursor, in that order. A job that ended is never missed by a caller who
        passes the last `ended_seq` it saw: numbers become visible in their order."""
        ...

    def last_ended(self) -> int:
        """The highest `ended_seq` so far; 0 before the first."""
        ...

    # The last one: in annotations below it, its name would hide the builtin.
    def list(self, query: Query = Query()) -> list[Job]:
        """The jobs that match, in order of submission (or the reverse)."""
        ...


UNHEARD: Final = 86400.0
"""Seconds without a word after which a node is forgotten."""
GOOD_FOR: Final = 60.0
"""Seconds without a word after which a node that says nothing else of itself is taken to be gone."""


class Node(Struct, frozen=True, omit_defaults=True):
    """An engine that grades a queue, as it says of itself."""

    name: str
    instance: str
    """Another one each time that it starts."""
    host: str = ""
    pid: int = 0
    version: str = ""
    slots: int = 1
    """Jobs that it grades at once."""
    running: int = 0
    """Jobs that it grades now."""
    sandbox: str = ""
    capabilities: tuple[str, ...] = ()
    started: float = 0.0
    good_for: float = GOOD_FOR
    """Seconds without a word after which it is taken to be gone."""
    seen: float = 0.0
    """When it was last heard of, on the store's clock. The store writes it."""
    draining: bool = False
    """Whether it is to take no more jobs. The store writes it."""


def node_taken(other: Node) -> ConfigError:
    return ConfigError(
        f"another engine is alive on this queue as node {other.name!r} (on {other.host}, process {other.pid})",
        hint="give each node a --name and a --state DIR of its own",
        id="node_taken",
    )


class Nodes(Protocol):
    """Who grades a queue."""

    def beat(self, node: Node, *, after: Collection[str] = (), now: float | None = None) -> bool:
        """Note that this node is there, as it is now. Returns whether it is to take no more jobs.

        ConfigError `node_taken` where another instance has the name, was heard of in its `good_for` seconds, and is
        none of those that this one comes `after`: nothing is noted then. Nodes that have not been heard of for
        `UNHEARD` seconds are forgotten; that they were drained is not.
        """
        ...

    def leave(self, name: str, instance: str | None = None) -> bool:
        """Forget this node, if it is this instance; False: it is another one, or is not there. That it was drained is
        not forgotten."""
        ...

    def drain(self, name: str, on: bool = True) -> bool:
        """Have a node take no more jobs, now and after a restart, or take some again; False: it is not there, and was
        not drained when it was."""
        ...

    def nodes(self) -> Sequence[Node]:
        """All nodes that did not leave, by name, also those that have not been heard of for a while."""
        ...


class Upkeep(Protocol):
    """Verbs that keep the store small."""

    def forget(self, ids: Iterable[str], *, undelivered: bool = False) -> int:
        """Delete these jobs, if they have ended, with all that was recorded of them. Returns how many.

        Those stay whose callback is still to be delivered, also where `redeliver` came after whoever calls this had
        looked at them; `undelivered`: they go as well, and their results are never told.

        What was theirs is overwritten in files of the store's own: nothing of it can be read there when this returns,
        or, where another process was reading just then, as soon as the log is used anew. What a server has written to
        its files goes with `shrink`.

        Many are deleted batch by batch, each whole and durable: others take their turns between, and where this
        raises, earlier batches are gone.
        """
        ...

    def hand_over(self, id: str, student: str, labels: Mapping[str, str]) -> bool:
        """Have a job that has ended be this student's, with these labels; False: it has not ended, or is not there.

        What was there in their place is overwritten as by `forget`. Where it was another's before, it gives up its key,
        as that was made from whose it was: the same work submitted again is a new job.
        """
        ...

    def referenced(self, digests: Iterable[str], *, without: Iterable[str] = ()) -> set[str]:
        """Which of these blobs a job in the store needs (its spec, inputs or refs), whatever its queue.

        The jobs with the ids in `without` do not count: what would be needed if they were forgotten.
        """
        ...

    def shrink(self) -> int:
        """Give the room of what was forgotten back to the disk, so that nothing of it can be read there any more.

        Returns the bytes that were freed, as far as that is known. Other processes' verbs wait meanwhile, so it is not
        for beside an engine; nothing that is in the store changes. StoreFull where there is no room to do it in: then
        nothing happened.
        """
        ...

    def look_after(self) -> None:
        """StoreError `state_gone` where the file that this is was removed, moved or replaced while it was open: what is
        written to it would never be found again. `submit` looks by itself. Costs a few microseconds."""
        ...

    def close(self) -> None:
        """Let go of files and threads. Idempotent. No other verb may follow."""
        ...


class Outbox(Protocol):
    """Callbacks of jobs that ended. One is pending from the commit on in which its job ends: done, dead or cancelled.

    A delivery is a lease of its own, so several engines may send from one queue, and what a dead one took is taken by
    another. It is made once or more, never less. It changes nothing of its job but `Job.delivery`.
    """

    def take_callbacks(self, n: int, *, lease_for: float = 60.0, now: float | None = None) -> list[Errand]:
        """Up to `n` pending callbacks that are due, those due longest first, for this caller alone: for `lease_for`
        seconds none of them is due. A due time more than an hour away, left by a clock that was set back, has come."""
        ...

    def callback_delivered(self, errand: Errand, *, now: float | None = None) -> bool:
        """The receiver has it. False where the errand is stale: nothing is changed."""
        ...

    def callback_failed(
        self, errand: Errand, error: str, *, again_in: float | None, counts: bool = True, now: float | None = None
    ) -> bool:
        """This try went wrong: it is due again in so many seconds, an hour at most; None gives it up. False where the
        errand is stale: nothing is changed. `counts`: False where nothing was sent, which is no try. An empty `error`
        leaves the one before."""
        ...

    def next_callback(self) -> float | None:
        """The earliest due time of a pending callback; None where there is none. Cost does not grow with the queue."""
        ...

    def redeliver(self, id: str, *, now: float | None = None) -> Job:
        """Have a job's callback delivered, once more if it was delivered before: it is pending, due at once, with no
        tries, unless a try is under way. Returns the job as it is now. ConfigError (no_callback, not_ended) where it
        has none, or has not ended. Unknown id: JobNotFound."""
        ...

    def callback(self, id: str) -> Callback | None:
        """What became of it; None where the job has no callback, or has not ended. Unknown id: JobNotFound."""
        ...


@runtime_checkable
class Store(Queue, History, Nodes, Upkeep, Outbox, Portable, Protocol):
    """A whole store."""


def open_store(url: str, *, queue: str = "default", filling: bool = False) -> Store:
    """Open the store that `url` names: `sqlite:///relative.db`, `sqlite:////absolute.db`, a bare path, or
    `redis://HOST:PORT/DB?queue=NAME` (also `rediss://` and `unix:///SOCKET`; `redis+sentinel://HOST,HOST/SERVICE` and
    `redis+cluster://HOST,HOST`, also with `rediss`).

    Creates the file, and its folder (mode 0700), where they are missing. Raises StoreError where that
    cannot be (`store_filling`: a queue on Redis that is being filled, unless `filling`, for who fills it), StoreTooNew
    where a later version wrote it, ConfigError where the URL is not understood.
    """
    if is_redis(url):
        need_redis()
        from minitango.store.redis import RedisStore

        return RedisStore(url, queue=queue, filling=filling)
    from minitango.store.sqlite import SqliteStore

    return SqliteStore(sqlite_path(url), queue=queue)


def settle_copy(path: Path) -> Copy:
    """Look whether a copy of a SQLite store is sound, have it in one file, and tell what it holds.

    For a copy that nobody uses. StoreError `store_corrupt`, StoreTooNew.
    """
    from minitango.store._dump import settle_copy

    return settle_copy(path)


def open_blobs(store: Store, folder: Path, directory: Path | None = None, *, agreed: bool = False) -> BlobStore:
    """The blobs of this store's jobs: in `directory`, which all its nodes must share, else where the store has its own.

    `agreed`: ConfigError `blobs_differ` where a queue on Redis notes that its files are elsewhere.

    For SQLite that is its file, and `folder`/blobs for what is large; for Redis the server, and `folder`/cache keeps
    what is fetched. (Not `blobs`: a queue that was carried to a server may still lie there, with files that nobody but
    it needs.)
    """
    if store.shared:
        from minitango.store.redis import RedisStore

        if isinstance(store, RedisStore):
            blobs = store.blobs(folder / "cache", directory)
            if agreed:
                store.check_blobs()
            return blobs
    else:
        from minitango.store.sqlite import SqliteStore

        if isinstance(store, SqliteStore):
            return store.blobs(folder / "blobs", directory)
    return Blobs(directory or folder / "blobs")


def check_place(text: str) -> None:
    """ConfigError where a text that is to name a queue names none, and would be taken for a file: a server without its
    scheme, or a SQLite URL with two slashes."""
    if "://" in text:
        if text.partition("://")[0] == "sqlite":
            sqlite_path(text)
        return
    if _COLON_FORGOTTEN.match(text) and not os.path.lexists(text):
        raise ConfigError(
            f"{hidden(text)!r} names no queue: behind {text.partition('/')[0].rstrip(':')} there is no '://'",
            hint="a server is redis://HOST:PORT/DB?queue=NAME; a folder of that name is ./NAME",
            id="store_url",
        )
    before = text.partition("/")[0]
    if ":" in before and not (len(before) == 2 and before[0].isalpha()) and not os.path.lexists(text):
        raise ConfigError(
            f"{hidden(text)!r} names no queue",
            hint="a server is redis://HOST:PORT/DB?queue=NAME; a folder with ':' in its name is ./NAME",
            id="store_url",
        )


def hidden(text: str) -> str:
    """What may be a URL, for people: without what stands before the last `@`, and without values called password."""
    scheme, separator, rest = text.partition("://") if "://" in text else ("", "", text)
    if "@" in rest:
        rest = "...@" + rest.rpartition("@")[2]
    return _without(f"{scheme}{separator}{rest}")


def shown(url: str) -> str:
    """A store's URL, or whatever else stands for it, without a password in it."""
    before, separator, rest = url.partition("://")
    if not separator:
        return hidden(url) if _COLON_FORGOTTEN.match(url) else url
    before_query = rest.partition("?")[0]
    if "/" not in before_query and "@" not in before_query:  # a password may have a question mark in it
        before_query = rest
    user, at, _ = before_query.rpartition("@")
    if at and ":" in user:
        rest = f"{user.partition(':')[0]}:...@{rest[len(user) + 1 :]}"
    return f"{before}://{_without(rest)}"


def _without(text: str) -> str:
    """Without values called password."""
    return re.sub(r"((?:password|pass|pwd|token)=)[^&]*", r"\1...", text)


_REDIS: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


_COLON_FORGOTTEN: Final = re.compile(rf"(?:{'|'.join(map(re.escape, _REDIS))})(?::?/[^/]*@|//|:/)", re.IGNORECASE)
"""How something begins that was to be a URL of Redis, and would be taken for a folder, password and all."""


def is_redis(url: str) -> bool:
    """Whether a store URL names a queue on Redis: a server, or some of which one has it."""
    return url.partition("://")[0].lower() in _REDIS and "://" in url


def need_redis() -> None:
    """ConfigError `redis_missing` where the package is not installed."""
    import importlib.util

    try:
        found = importlib.util.find_spec("redis") is not None
    except ValueError:
        found = False
    if not found:
        raise ConfigError(
            "a store on Redis needs the package redis, which is not installed",
            hint="pip install 'minitango[redis]'",
            id="redis_missing",
        )


def sqlite_path(url: str) -> Path:
    """The file that a URL names. ConfigError."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "sqlite", "/" + url
    if scheme == "sqlite":
        if not rest.startswith("/") or rest == "/":
            raise ConfigError(
                f"the store URL {hidden(url)!r} names no file",
                hint="write sqlite:///queue.db for a file in this folder, sqlite:////srv/queue.db for an absolute path",
                id="store_url",
            )
        return Path(rest[1:])
    raise ConfigError(
        f"the store URL {hidden(url)!r} has an unknown scheme {scheme!r}",
        hint="use sqlite:///PATH or redis://HOST/DB?queue=NAME; or redis+sentinel://HOST,HOST/SERVICE, "
        "redis+cluster://HOST,HOST",
        id="store_url",
    )
