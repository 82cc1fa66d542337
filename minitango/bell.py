"""Waiting that a signal can interrupt, and waking that a signal handler may do."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from typing import Final

HEARD: Final = 0.5
"""Seconds within which a signal's handler is run, whichever thread the system has interrupted."""


class Bell:
    """Wakes one thread. Ringing is safe anywhere, a signal handler that interrupts a ring included, which
    `threading.Event` is not: it would wait for its own lock."""

    def __init__(self) -> None:
        self._rings: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ring(self) -> None:
        self._rings.put(None)

    def wait(self, timeout: float) -> None:
        """Return once it was rung since the last wait, or after `timeout` seconds."""
        with contextlib.suppress(queue.Empty):
            self._rings.get(timeout=timeout)
            while True:
                self._rings.get_nowait()


def wait_for(event: threading.Event, timeout: float = math.inf) -> bool:
    """As `event.wait`, but a signal is heard meanwhile also where the system interrupted another thread by it than the
    main one, which has to go on for the handler to run."""
    deadline = time.monotonic() + timeout
    while not event.wait(min(HEARD, max(0.0, deadline - time.monotonic()))):
        if time.monotonic() >= deadline:
            return False
    return True
