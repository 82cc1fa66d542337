"""What an engine tells those who asked to hear of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec import Struct

from minitango.job import Job
from minitango.pool import EventKind

log = logging.getLogger("minitango")


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
