"""How many jobs a pool takes next, by what its sandbox makes of them and by what must run alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from minitango.breaker import Breaker
from minitango.errors import reach_of
from minitango.events import Observer, said
from minitango.job import Ack, Fail, Finish
from minitango.runner import Runner
from minitango.store import Store
from minitango.workqueue import Running, WorkQueue

SOLO_PATIENCE: Final = 30.0
"""Seconds that a job which must run alone waits for a quiet moment before one is made for it."""
LOOK_FOR_SOLO: Final = 2.0
"""Seconds between two looks for one that waits."""
TELL_AGAIN: Final = 60.0
"""Seconds after which it is said again what an assignment waits for."""


class Claiming:
    """One pool's. For its producer; `now` is monotonic seconds.

    A sandbox that fails is left alone for a while (`breaker.py`), then tried with one job; one that counts its seats
    sees to that by itself. What only one assignment's jobs meet, as an image that is not there, holds no others back.
    """

    def __init__(
        self, store: Store, runner: Runner, work: WorkQueue, observer: Observer, *, capabilities: Collection[str]
    ) -> None:
        self._store = store
        self._runner = runner
        self._work = work
        self._observer = observer
        self._capabilities = capabilities
        self._breaker = Breaker()
        self._waiting: dict[str, float] = {}
        """Plans whose jobs wait for something of their own, and when that was last told."""
        self._look_for_solo = 0.0

    @property
    def trial(self) -> bool:
        """Whether what is claimed next shows if the sandbox works again."""
        return self._breaker.resting

    def due_in(self, now: float) -> float | None:
        """Seconds until the sandbox is to be tried again; None or 0 where that is not what is waited for."""
        return self._breaker.wait(now)

    def wanted(self, now: float, still: Sequence[Running]) -> tuple[int, bool]:
        """How many jobs to claim beside those that are `still` under way, and whether it is the turn of one that must
        run alone."""
        if any(running.lease.solo for running in still):
            return 0, False
        seats = self._runner.seats
        allowed = self._breaker.allowed(now, len(still))
        room = self._work.room(now, still, ahead=seats is None and allowed is None)
        if seats is not None:
            room = max(0, min(room, seats - len(still)))
        if allowed is not None:
            room = min(room, allowed)
        if now >= self._look_for_solo:
            since = self._store.solo_since(capabilities=self._capabilities)
            if since is not None and self._store.now() - since > SOLO_PATIENCE:
                return (0, False) if still else (min(room, 1), True)
            self._look_for_solo = now + LOOK_FOR_SOLO
        return max(0, room), False

    def judge(self, ack: Ack | None, now: float) -> bool:
        """Hear what became of an attempt, in their order. Whether the sandbox is left alone now because of it."""
        if isinstance(ack, Finish):
            if self._breaker.succeeded():
                self._observer.event("resumed", None, "the sandbox works again")
            if self._waiting.pop(ack.lease.spec, None) is not None:
                self._observer.event("resumed", None, f"{ack.lease.assignment} is graded again")
            return False
        if not isinstance(ack, Fail):
            return False
        if not ack.charge and reach_of(ack.failure.id) != "sandbox":
            # One assignment's trouble: the store has its jobs wait, and the sandbox is there for the others.
            told = self._waiting.get(ack.lease.spec)
            if told is None or now - told >= TELL_AGAIN:
                self._waiting[ack.lease.spec] = now
                self._observer.event("paused", None, f"jobs of {ack.lease.assignment} wait: {said(ack.failure)}")
            return False
        if (
            self._runner.seats is not None  # it sees itself to what fails, and the others go on
            or not ack.failure.id.startswith(("sandbox", "blob_") if not ack.charge else "sandbox")
            or not self._breaker.failed(now, certain=not ack.charge)
        ):
            return False
        rest = self._breaker.wait(now) or 0.0
        self._observer.event("paused", None, f"no job is started for {rest:.0f} s: {said(ack.failure)}")
        return True
