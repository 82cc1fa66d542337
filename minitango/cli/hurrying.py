"""The second signal to a worker: it ends at once, also where its queue does not answer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from minitango.errors import MinitangoError
from minitango.store import Store

AT_ONCE: Final = 0.7
"""Seconds that a queue on a server has to answer in, once a worker was told a second time to end."""


def hurry(store: Store, again: queue.SimpleQueue[None], leave: Callable[[], object]) -> None:
    """Call `leave`, which is to end this process, where something comes of `again` and the queue does not answer then:
    whoever signs off waits for it, and there is nothing that a person could type to have it wait no longer. Where it
    answers, all ends in good order, and soon. A file's answer is not asked for: it is there, or nothing is."""
    if store.shared:
        threading.Thread(target=_watch, args=(store, again, leave), name="minitango hurry", daemon=True).start()


def _watch(store: Store, again: queue.SimpleQueue[None], leave: Callable[[], object]) -> None:
    again.get()
    answered = threading.Event()
    threading.Thread(target=_ask, args=(store, answered), name="minitango asks", daemon=True).start()
    if not answered.wait(AT_ONCE):
        leave()


def _ask(store: Store, answered: threading.Event) -> None:
    with suppress(MinitangoError):
        store.counts()
        answered.set()
