"""What an attempt and those who watch over it say to each other: that it is to end early, and when its time began."""

from __future__ import annotations

import threading
import time
from typing import Literal, Protocol

Why = Literal["cancel", "release", "lost", "overdue"]
"""cancel: someone asked for it. release: the engine stops. lost: another holds the job. overdue: it will not end."""


class Killable(Protocol):
    def kill(self) -> None: ...


class Stop:
    """One attempt's stop signal. The first reason stands; whatever is attached is killed, now or when attached."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._why: Why | None = None
        self._target: Killable | None = None
        self.begun: float | None = None
        """Monotonic time of `begin`."""

    def begin(self) -> None:
        """The attempt's own time begins: what had to be prepared before, for all alike, is not charged to it."""
        self.begun = time.monotonic()

    @property
    def why(self) -> Why | None:
        """Why the run is to end; None while it may go on."""
        return self._why

    def request(self, why: Why) -> None:
        """End the run. Safe from any thread, any number of times."""
        with self._lock:
            if self._why is None:
                self._why = why
            target = self._target
        if target is not None:
            target.kill()

    def attach(self, target: Killable | None) -> None:
        """Kill this from now on; None: nothing can be killed now."""
        with self._lock:
            self._target = target
            stopped = self._why is not None
        if stopped and target is not None:
            target.kill()
