"""What an engine tells those who asked to hear of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, Literal, Protocol

from msgspec import Struct

from minitango.errors import MinitangoError, StoreError
from minitango.job import Failure, Job, Lease, Result, State

log = logging.getLogger("minitango")

_BY_ITSELF: Final = frozenset({"store_unreachable", "store_busy"})
"""Troubles with the store that one outage goes through, in any order: the first tells of all."""

EventKind = Literal[
    "started",
    "done",
    "dead",
    "retried",
    "cancelled",
    "released",
    "recovered",
    "lease_lost",
    "paused",
    "resumed",
    "store_trouble",
    "crashed",
    "image",
    "callback_delivered",
    "callback_failed",
    "callback_undelivered",
]


class Event(Struct, frozen=True):
    """Something that happened, for people and logs: `job` as it is after it, where a job is concerned.

    started, done, dead, retried, cancelled, released, recovered: of a job; callback_delivered, callback_failed (it is
    tried again; not each time it is told) and callback_undelivered (given up): of its callback. lease_lost, paused,
    resumed, store_trouble, crashed: of the engine; image: what the sandbox says of its images, how far a pull is among
    it.
    `message` says more.
    """

    kind: EventKind
    job: Job | None = None
    message: str = ""


class Telling:
    """Those who hear of an engine's events. Safe from any thread; one who fails is noted, and told of the next."""

    def __init__(self, first: Callable[[Event], None] | None = None) -> None:
        self._hearers: list[Callable[[Event], None]] = [] if first is None else [first]

    def __bool__(self) -> bool:
        """Whether anybody hears."""
        return bool(self._hearers)

    def add(self, hearer: Callable[[Event], None]) -> Callable[[], None]:
        """Tell this one, too; returns what ends that."""
        self._hearers.append(hearer)

        def leave() -> None:
            if hearer in self._hearers:
                self._hearers.remove(hearer)

        return leave

    def tell(self, kind: EventKind, job: Job | None = None, message: str = "") -> None:
        event = Event(kind, job, message)
        for hearer in list(self._hearers):
            try:
                hearer(event)
            except Exception:
                log.exception("a subscriber failed on %s", kind)

    def image(self, message: str) -> None:
        """For a sandbox, which may have much to say before its engine is there."""
        self.tell("image", None, message)

    def rest(self, resting: bool, message: str) -> None:
        """For a sandbox of several engines: one of them rests, or is back."""
        self.tell("paused" if resting else "resumed", None, message)


class Troubles:
    """The troubles that an engine's threads have with its store, as one: told when the first of them meets it, and when
    none has any more. What a person has to do something else about is told anew. Safe from any thread."""

    def __init__(self, tell: Callable[[EventKind, Job | None, str], None]) -> None:
        self._tell = tell
        self._lock = threading.RLock()
        self._whose: set[str] = set()
        self._told: set[str] = set()

    def meet(self, whose: str, error: StoreError) -> None:
        """The store fails this one."""
        with self._lock:
            news = not self._whose or error.id not in self._told | _BY_ITSELF
            self._whose.add(whose)
            self._told.add(error.id)
            if news:
                self._tell("store_trouble", None, said(error))

    def over(self, whose: str) -> None:
        """It works again for this one, if it failed it before."""
        with self._lock:
            if whose not in self._whose:
                return
            self._whose.discard(whose)
            if not self._whose:
                self._told.clear()
                self._tell("resumed", None, "the store works again")


class Observer(Protocol):
    """Whom the pool tells. Called from its threads; must not raise, and must return quickly."""

    def event(self, kind: EventKind, job: Job | None = None, message: str = "") -> None: ...

    def trouble(self, whose: str, error: StoreError | None) -> None:
        """The store fails one of the engine's threads; None: it works again for that one."""

    def started(self, lease: Lease) -> None:
        """The next free consumer is to run this attempt: at once, or after some that are short."""

    def settled(self, job: Job, result: Result | None) -> None:
        """An ack was committed: the job as it is now."""

    def idle(self) -> None:
        """The last running attempt was committed."""

    def changed(self) -> None:
        """Another process may have changed the queue."""

    def crashed(self, thread: str, error: BaseException) -> None:
        """A thread died; the pool ends."""


def said(wrong: Failure | MinitangoError) -> str:
    """What went wrong, and what a person can do about it."""
    return f"{wrong.message}; next: {wrong.hint}" if wrong.hint else wrong.message


def became(job: Job, *, taken_back: bool = False) -> EventKind:
    """What became of a job whose attempt was recorded, or that was taken back from an engine that is gone."""
    match job.state:
        case State.DONE:
            return "done"
        case State.DEAD:
            return "dead"
        case State.CANCELLED:
            return "cancelled"
    if taken_back:
        return "recovered"
    return "retried" if job.due is not None else "released"
