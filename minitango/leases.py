"""The watch over what runs: its leases are kept, what is to end is told so, and what others left is taken back."""

from __future__ import annotations

import time
from typing import Final

from minitango.errors import JobNotFound, StoreError
from minitango.events import Observer, became
from minitango.job import Lease
from minitango.store import Store
from minitango.workqueue import WorkQueue

REAP: Final = 2.0
"""Seconds between two looks for jobs of engines that are gone, where a queue is shared."""


class LeaseWatch:
    """One pool's. For its producer; `now` is monotonic seconds. StoreError: what was not done is done the next time."""

    def __init__(self, store: Store, work: WorkQueue, observer: Observer, *, lease_for: float) -> None:
        """`lease_for`: seconds; leases are extended at a third of that."""
        self._store = store
        self._work = work
        self._observer = observer
        self._lease_for = lease_for
        self._extend_at = time.monotonic() + lease_for / 3
        self._reap_at = 0.0

    def due_in(self, now: float) -> float:
        """Seconds until `look` is due at the latest."""
        return self._extend_at - now

    def look(self, now: float) -> None:
        """Extend what is to be extended, end what lost its lease or hangs, and take back what engines left that are
        gone."""
        reap = self._store.shared and now >= self._reap_at
        if now >= self._extend_at or (reap and self._work.running):  # a closed lid must not cost us our own
            self._extend(now)
        for running in self._work.running.values():
            if running.overdue(now):
                running.stop.request("overdue")
        if reap:
            for job in self._store.reap():
                self._observer.settled(job, None)
                self._observer.event(became(job, taken_back=True), job)
            self._reap_at = now + REAP  # not before: where it failed, the store does not work again until it does not

    def _extend(self, now: float) -> None:
        lost = self._store.extend([r.lease for r in self._work.running.values()], lease_for=self._lease_for)
        self._extend_at = now + self._lease_for / 3
        for lease in lost:
            running = self._work.running.get(lease.token)
            if running is not None and running.stop.why != "lost":
                running.stop.request("lost")
                self.lost(lease, "was taken over; it ends")

    def pass_cancels_on(self) -> None:
        """Tell what runs and was cancelled meanwhile, here or elsewhere."""
        if not self._work.running:
            return
        wanted = set(self._store.cancel_requested())
        for running in self._work.running.values():
            if running.lease.job in wanted:
                running.stop.request("cancel")

    def lost(self, lease: Lease, why: str) -> None:
        """Tell that an attempt's word does not count any more, `why` being what became of it; or, where that is known,
        that the whole job is gone."""
        text = f"attempt {lease.attempt} of job {lease.job} {why}"
        try:
            self._store.get(lease.job)
        except JobNotFound:
            text = (
                f"job {lease.job} is gone from the queue, which was emptied, or whose server came back without it; "
                "next: submit its work again"
            )
        except StoreError:
            pass  # it is not known
        self._observer.event("lease_lost", None, text)
