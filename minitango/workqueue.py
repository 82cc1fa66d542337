"""Between the producer and its consumers: leases one way, what became of them the other.

Where attempts take a few milliseconds, a consumer that waited for the store after each would do little else. So short
jobs are claimed ahead: as many as the consumers are through with in AHEAD seconds, by how long attempts took of late.
They wait for whichever consumer is free first, and go back to the store, uncharged, where none is.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Collection
from typing import Final

from minitango.job import Ack, Fail, Lease, Release
from minitango.stopping import Stop

AHEAD: Final = 0.01
"""Seconds of work that may wait for the consumers."""
MOST_AHEAD: Final = 8
"""Jobs that may wait for each consumer, however short they are."""
STALE: Final = 1.0
"""Seconds for which no consumer came for what waits, before it goes back to the store."""
GATHER: Final = 0.002
"""Seconds for which short jobs are waited for, so that several ends are one commit. Short is what takes no longer."""
_GLANCE: Final = 0.0003
"""Seconds between two looks at what ended meanwhile: to be woken by each costs more than they do."""
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
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._waiting: queue.SimpleQueue[Running | None] = queue.SimpleQueue()
        self._moved = 0.0
        """When one was last given or taken."""
        self._usual = _UNKNOWN
        """Seconds that attempts have taken of late."""
        self.running: dict[str, Running] = {}
        """Every attempt whose end was not committed, by its token; also those that wait."""
        self.ended: deque[tuple[Lease, Ack | None]] = deque()
        """What consumers made of theirs, in that order, until it is committed. None: the lease was lost."""

    def give(self, running: Running) -> None:
        """Have the next free consumer run this."""
        self.running[running.lease.token] = running
        self._moved = time.monotonic()
        self._waiting.put(running)

    def take(self) -> Running | None:
        """The next attempt, once there is one. None: no more come, for this consumer."""
        running = self._waiting.get()
        self._moved = time.monotonic()
        return running

    def end(self, running: Running, ack: Ack | None) -> None:
        """What became of an attempt that was taken. Where it was given no sandbox, or no image, what waits goes back:
        it is for the producer to say whether another is tried."""
        if running.stop.begun is not None:
            self._usual += (time.monotonic() - running.stop.begun - self._usual) / 8
        self.ended.append((running.lease, ack))
        if isinstance(ack, Fail) and not ack.charge:
            self.put_back()

    def dismiss(self) -> None:
        """Each consumer ends once it has done what it was given."""
        for _ in range(self._workers):
            self._waiting.put(None)

    @property
    def busy(self) -> int:
        """How many consumers have something to do."""
        return min(self._workers, len(self.running))

    def room(self, now: float, still: Collection[Running], *, ahead: bool) -> int:
        """How many more to claim beside those that are `still` under way: one for each idle consumer, and `ahead` some
        that wait. Those in one go, once fewer than half of them are left."""
        more = self._ahead(now, still) if ahead else 0
        if more and self._waiting.qsize() > more // 2:
            return 0
        return max(0, self._workers + more - len(still))

    def _ahead(self, now: float, still: Collection[Running]) -> int:
        each = min(MOST_AHEAD, int(AHEAD / max(self._usual, AHEAD / MOST_AHEAD)))
        if not each:
            return 0
        return each * max(0, self._workers - sum(running.long(now) for running in still))

    def stale_in(self, now: float) -> float | None:
        """Seconds until what waits has waited for too long, at most 0 where it has; None where nothing waits."""
        return None if self._waiting.empty() else self._moved + STALE - now

    def put_back(self, *, stale: bool = False) -> None:
        """End what waits, uncharged. `stale`: the consumers were busy for long, so claim nothing ahead until attempts
        are known to be short again."""
        if stale:
            self._usual = _UNKNOWN
        while True:
            try:
                running = self._waiting.get_nowait()
            except queue.Empty:
                return
            if running is None:  # they are dismissed: nothing comes after this
                self._waiting.put(None)
                return
            running.stop.request("release")
            self.ended.append((running.lease, None if running.stop.why == "lost" else Release(running.lease)))

    def gather(self) -> None:
        """Wait a moment for those that are about to end: a commit costs as much as several short jobs."""
        if self._usual > GATHER or not self.ended:
            return
        until = time.monotonic() + GATHER
        while 2 * len(self.ended) < len(self.running) and time.monotonic() < until:
            time.sleep(_GLANCE)
