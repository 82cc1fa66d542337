"""Between the producer and its consumers: leases one way, what became of them the other.

Where attempts take a few milliseconds, a consumer that waited for the store after each would do little else. So short
jobs are claimed ahead: as many as the consumers are through with in AHEAD seconds, by how long attempts took of late.
They wait for whichever consumer is free first, and go back to the store, uncharged, where none is.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Final

from minitango.job import Ack, Fail, Lease, Release
from minitango.stopping import Stop

AHEAD: Final = 0.01
"""Seconds of work that may wait for the consumers."""
MOST_AHEAD: Final = 8
"""Jobs that may wait for each consumer, however short they are."""
STALE: Final = 1.0
"""Seconds for which no consumer came for what waits, before it goes back to the store."""
SHORT: Final = 0.002
"""Seconds: attempts that took no longer of late are short. Several ends are one commit, and as few threads as may be
take turns: to wake one for each costs more than they do."""
GATHER: Final = 0.004
"""Seconds for which the end of a short one may wait for others."""
_GLANCE: Final = 0.001
"""Seconds between two looks whether a consumer comes on with short ones; else another one helps."""
_UNKNOWN: Final = 1.0
"""Seconds that attempts are taken to last until they are known to be short."""


class Running:
    """An attempt that a consumer has, or is about to have."""

    def __init__(self, lease: Lease, allowed: float) -> None:
        """`allowed`: seconds that it may take once it has begun."""
        self.lease = lease
        self.stop = Stop()
        self._allowed = allowed

    def overdue(self, now: float) -> bool:
        begun = self.stop.begun
        return begun is not None and now > begun + self._allowed

    def long(self, now: float) -> bool:
        """Whether it has kept its consumer for longer than what is claimed ahead may wait."""
        begun = self.stop.begun
        return begun is not None and now > begun + AHEAD


class WorkQueue:
    """What `workers` consumers are to do, and have done. `now` is monotonic seconds.

    `take` and `end` are the consumers'; all else is the producer's, but `dismiss` and `put_back`, which any thread may.

    `beside`: a server commits what ended while short ones go on, so the producer is rung when half of them ended. Else
    it would only take turns with the consumers, as one thread computes at a time: it is rung when all of them ended,
    and one consumer runs them, for as long as it comes on.
    """

    def __init__(self, workers: int, ring: Callable[[], None] = lambda: None, *, beside: bool = False) -> None:
        """`ring`: it is time for the producer to look. Called from consumers."""
        self._workers = workers
        self._ring = ring
        self._beside = beside
        self._enough = 1
        """How many of the short ones have to end before the producer is rung."""
        self._waiting: deque[Running] = deque()
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()
        """One for each consumer that is to look for something to do."""
        self._free: set[int] = set()
        """Threads of consumers that wait for a call. Who goes to wait is in here first, and looks once more; who gives
        looks in here afterwards: so either sees the other."""
        self._dismissed = False
        self._moved = 0.0
        """When one was last given or taken."""
        self._glanced = 0.0
        """What `_moved` was at the last look."""
        self._usual = _UNKNOWN
        """Seconds that attempts have taken of late."""
        self.running: dict[str, Running] = {}
        """Every attempt whose end was not committed, by its token; also those that wait."""
        self.ended: deque[tuple[Lease, Ack | None]] = deque()
        """What consumers made of theirs, in that order, until it is committed. None: the lease was lost."""

    def give(self, some: Collection[Running]) -> None:
        """Have free consumers run these, in their order. What was told to end before goes back, uncharged."""
        if not some:
            return
        for running in some:
            self.running[running.lease.token] = running
            if running.stop.why is None:
                self._waiting.append(running)
            else:
                self.ended.append((running.lease, Release(running.lease)))
                self._ring()
        self._moved = time.monotonic()
        self._enough = (len(self.running) + 1) // 2 if self._beside else len(self.running)
        if self._beside or not self._short:
            self._call(len(self._waiting))
        elif len(self._free) == self._workers:
            self._call(1)

    def _call(self, most: int) -> None:
        for _ in range(min(most, len(self._free) - self._calls.qsize())):
            self._calls.put(None)

    def take(self) -> Running | None:
        """The next attempt, once there is one. None: no more come, for this consumer."""
        me = threading.get_ident()
        while True:
            try:
                running = self._waiting.popleft()
            except IndexError:
                if self._dismissed:
                    return None
                self._free.add(me)
                if not (self._waiting or self._dismissed):
                    self._calls.get()
                self._free.discard(me)
            else:
                self._moved = time.monotonic()
                if self.ended and not self._waiting:  # it may take long: what ended is not to wait for it
                    self._ring()
                return running

    def end(self, running: Running, ack: Ack | None) -> None:
        """What became of an attempt that was taken.

        Where it was given no sandbox, or no image, what waits goes back: it is for the producer to say whether another
        is tried.
        """
        if running.stop.begun is not None:
            self._usual += (time.monotonic() - running.stop.begun - self._usual) / 8
        self.ended.append((running.lease, ack))
        if isinstance(ack, Fail) and not ack.charge:
            self.put_back()
        if not (self._short and self._waiting and len(self.ended) < self._enough):
            self._ring()

    def dismiss(self) -> None:
        """Each consumer ends once it has done what it was given."""
        self._dismissed = True
        for _ in range(self._workers):
            self._calls.put(None)

    @property
    def _short(self) -> bool:
        return self._usual <= SHORT

    @property
    def busy(self) -> int:
        """How many consumers have something to do."""
        return min(self._workers, len(self.running))

    def room(self, now: float, still: Collection[Running], *, ahead: bool) -> int:
        """How many more to claim beside those that are `still` under way: one for each idle consumer, and `ahead` some
        that wait. Those in one go, once fewer than half of them are left."""
        more = self._ahead(now, still) if ahead else 0
        if more and len(self._waiting) > more // 2:
            return 0
        return max(0, self._workers + more - len(still))

    def _ahead(self, now: float, still: Collection[Running]) -> int:
        each = min(MOST_AHEAD, int(AHEAD / max(self._usual, AHEAD / MOST_AHEAD)))
        if not each:
            return 0
        return each * max(0, self._workers - sum(running.long(now) for running in still))

    def look_in(self, now: float) -> float | None:
        """Seconds until `look` is due; None where nothing waits."""
        if not self._waiting:
            return None
        return _GLANCE if self._free else self._moved + STALE - now

    def look(self, now: float) -> None:
        """See to what waits: where no consumer came for it since the last look, another is called; where none came for
        STALE seconds, it goes back."""
        if not self._waiting:
            return
        if now > self._moved + STALE:
            self._usual = _UNKNOWN  # they are busy for long: attempts have to be short anew
            self.put_back()
        elif self._moved == self._glanced:
            self._call(1)
        self._glanced = self._moved

    def put_back(self, *, all: bool = True) -> None:
        """End what waits, uncharged. Not `all`: but for what consumers that are free are about to take."""
        while len(self._waiting) > (0 if all else len(self._free)):
            try:
                running = self._waiting.popleft() if all else self._waiting.pop()
            except IndexError:  # a consumer was quicker
                return
            running.stop.request("release")
            self.ended.append((running.lease, None if running.stop.why == "lost" else Release(running.lease)))

    def gather(self, wait: Callable[[float], None]) -> None:
        """Wait a moment for short ones that are about to end. `wait` returns when the producer is rung, or after so
        many seconds."""
        if not self._short or not self.ended:
            return
        until = time.monotonic() + GATHER
        while len(self.ended) < min(self._enough, len(self.running)):
            now = time.monotonic()
            if now >= until:
                return
            self.look(now)
            wait(_GLANCE)
