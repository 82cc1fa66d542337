"""What an engine makes of what its threads see: subscribers are told, handles get their results, who waits goes on."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from minitango.errors import HOPELESS, PASSING, EngineStopped, MinitangoError, StoreError
from minitango.events import EventKind, Telling, Troubles, said
from minitango.handle import Handles
from minitango.job import Job, Lease, Result
from minitango.store import Store

log = logging.getLogger("minitango")

_AGAIN: Final = 0.2
"""Seconds after which what the store failed is looked at again."""


class EngineObserver:
    """An `events.Observer`. Safe from any thread."""

    def __init__(self, store: Store, handles: Handles, telling: Telling) -> None:
        self._store = store
        self._handles = handles
        self._telling = telling
        self._troubles = Troubles(self.event)
        self._moved = threading.Condition()
        self.error: BaseException | None = None
        """What killed the engine, if something did."""
        self.on_callback: Callable[[], None] = lambda: None
        """Hears that a callback may be due."""
        self.stopped = False

    # --- told by the pool and the sender ---------------------------------------------------------

    def event(self, kind: EventKind, job: Job | None = None, message: str = "") -> None:
        """Tell the subscribers."""
        if self._telling:
            self._telling.tell(kind, job, message)

    def trouble(self, whose: str, error: StoreError | None) -> None:
        """The store fails a thread, or (None) works again for it."""
        if error is None:
            self._troubles.over(whose)
        else:
            self._troubles.meet(whose, error)

    def started(self, lease: Lease) -> None:
        """An attempt begins."""
        if self._telling:
            with contextlib.suppress(StoreError):  # it is only told
                self.event("started", self._store.get(lease.job))

    def settled(self, job: Job, result: Result | None) -> None:
        """A job moved on."""
        self._handles.settle(job, result)
        if job.delivery is not None:
            self.on_callback()

    def idle(self) -> None:
        """Nothing is running any more."""
        with self._moved:
            self._moved.notify_all()

    def changed(self) -> None:
        """Another process may have moved jobs."""
        self._handles.follow()

    def crashed(self, thread: str, error: BaseException) -> None:
        """A thread died."""
        self.error = error
        stopped = self.died()
        stopped.__cause__ = error
        kind: EventKind = "crashed"
        if not isinstance(error, MinitangoError):
            why = f"the {thread} died: {error!r}"
        elif error.id in PASSING:  # it was told to stop, and tried for as long as it may
            kind, why = "store_trouble", f"what was graded is not recorded, and is graded again: {said(error)}"
        else:
            why = f"the engine stops: {said(error)}"
        if not self._telling:
            log.critical(why)
        self.event(kind, None, why)
        self._handles.fail(stopped)

    # --- for an engine ----------------------------------------------------------------------------

    def look(self) -> None:
        """As `changed`, where nothing grades: who waits is woken, and it is done again where the store fails: what
        ended would not be told of another time. From the store's own thread."""
        while not self.stopped:
            try:
                self.changed()
                self.idle()
                self.trouble("watch", None)
                return
            except StoreError as error:
                self.trouble("watch", error)
                time.sleep(_AGAIN)
            except Exception as error:
                self.crashed("watch", error)
                return

    def wait(self, seconds: float) -> None:
        """Wait for so long, or until something may have moved."""
        with self._moved:
            self._moved.wait(seconds)

    def died(self) -> EngineStopped:
        """What an engine says that `error` killed."""
        if not isinstance(self.error, MinitangoError):  # a mistake of ours
            return EngineStopped(
                f"the engine died: {self.error!r}; every job is safe in the store",
                hint="run the same command again to go on",
            )
        if self.error.id in HOPELESS:
            stopped = EngineStopped(f"the engine stopped: {self.error}", hint=self.error.hint, id=self.error.id)
        else:
            what = "every job is safe in the store, and what is not recorded is graded again"
            stopped = EngineStopped(f"the engine stopped: {self.error}; {what}", hint=self.error.hint)
        stopped.exit_code = self.error.exit_code
        return stopped
