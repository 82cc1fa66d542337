"""What was kept for long enough is forgotten, by the engine itself: a few jobs at a time, beside its work."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from itertools import takewhile
from typing import Any, Final

from minitango.blobs import BlobStore
from minitango.errors import ConfigError, MinitangoError
from minitango.store import Store

log = logging.getLogger("minitango")

PAUSE: Final = 60.0
"""Seconds between two looks."""
LEAST: Final = 3600.0
"""Seconds that a job is kept at least: whoever waits for it has seen it by then."""
ON_A_SERVER: Final = 400 * 86400.0
"""Seconds that a job is kept where it is in a server's memory, unless told otherwise: a year, and its appeals."""
GRACE: Final = 3600.0
"""Seconds for which a blob is kept that no job needs: a submit may be under way."""
DAILY: Final = 86400.0
"""Seconds after which blobs are pruned though nothing was forgotten here: others forget, submits fail, and what a node
fetched is used no more. First an hour after the start."""
_BATCH: Final = 200
_ROUNDS: Final = 10
"""Batches in one look."""


def kept_for(keep: Any, *, shared: bool) -> float:
    """Seconds for which an engine keeps jobs that ended. ConfigError `keep`."""
    if keep is None:
        return ON_A_SERVER if shared else math.inf
    if not isinstance(keep, int | float) or isinstance(keep, bool) or not keep >= LEAST:
        raise ConfigError(
            f"jobs cannot be kept for {keep!r} seconds", hint="an hour is the least: 1h, 180d, forever", id="keep"
        )
    return float(keep)


class Keeper:
    """Forgets jobs that ended more than `keep` seconds ago, the first first, and then the blobs that nobody needs.
    Those go once a day in any case.

    Those stay whose callback is still to be delivered.
    """

    def __init__(
        self,
        store: Store,
        blobs: BlobStore,
        keep: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._keep = keep
        self._clock = clock
        self._stop = threading.Event()
        self._over = threading.Event()
        self._begun = False
        self._forgot: float | None = None
        """When jobs were last forgotten; None: all that was needless since is gone."""
        self._prune_at = 0.0
        self._daily_at = clock() + GRACE
        self._cursor = 0
        """The last `ended_seq` that was looked at: what has to stay keeps nothing behind it from being seen."""

    def start(self) -> None:
        """Look from now on, after a first pause. Does nothing where all is kept for ever, in a place that is one
        engine's."""
        if math.isinf(self._keep) and not self._store.shared:
            return
        threading.Thread(target=self._run, name="minitango keeper", daemon=True).start()
        self._begun = True

    def stop(self) -> None:
        """Look no more; waits for the batch of jobs or blobs that is under way."""
        self._stop.set()
        if self._begun:
            self._over.wait()

    def _run(self) -> None:
        try:
            while not self._stop.wait(PAUSE):
                try:
                    self.look()
                except MinitangoError as error:  # the producer tells of a store that is away; this can wait
                    log.info("nothing is forgotten now: %s", error)
        except Exception:  # what is old costs room; grading goes on without this
            log.exception("old jobs are not forgotten any more")
        finally:
            self._over.set()

    def look(self) -> int:
        """Forget what is old enough, at most some thousand jobs, and prune blobs where it is time. Returns how many
        jobs went. StoreError."""
        gone = 0 if math.isinf(self._keep) else self._forget(self._store.now() - self._keep)
        now = self._clock()
        if gone:
            self._forgot = now
            log.info("forgot %d jobs that ended more than %.0f days ago", gone, self._keep / 86400)
        if not self._stop.is_set() and (now >= self._daily_at or (self._forgot is not None and now >= self._prune_at)):
            self._prune_at, self._daily_at = now + GRACE, now + DAILY
            self._blobs.prune(self._store.referenced, older_than=GRACE, stop=self._stop.is_set)
            if self._forgot is not None and now - self._forgot > GRACE:  # else some of theirs may have been too young
                self._forgot = None
        return gone

    def _forget(self, before: float) -> int:
        """Forget jobs that ended before then, a few batches of them. Returns how many."""
        gone = 0
        for _ in range(_ROUNDS):
            found = self._store.ended_since(self._cursor, limit=_BATCH)
            # One whose record has lost when it ended is as old as those after it.
            old = list(takewhile(lambda job: job.ended is None or job.ended < before, found))
            while old and old[-1].ended is None and len(old) < _BATCH:
                old.pop()
            if self._stop.is_set():
                break
            gone += self._store.forget(job.id for job in old)
            if len(old) < _BATCH:  # from the beginning, next time: what had to stay may go by then
                self._cursor = 0
                break
            self._cursor = old[-1].ended_seq or 0
        return gone
