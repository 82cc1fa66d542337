"""Which of several engines the next box goes to: each has a number of slots, and one that fails is left alone.

An engine is in one of three states. It is *well*: as many boxes as it has slots. It is *away*: none, from the failure
that opened its breaker until a trial, with a box that is nobody's job, has worked there. Then it is *on trial*: one job
at a time, until one of them went well. So no job is spent on finding out whether an engine is back.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, Protocol

from minitango.breaker import Breaker
from minitango.errors import MinitangoError, SandboxFailed, SandboxUnavailable, reach_of
from minitango.sandbox.contract import Sandbox

_POLL: Final = 0.1
"""Seconds after which one who waits is asked whether that is still wanted."""


class Engine(Sandbox, Protocol):
    """A sandbox that can be one of several."""

    @property
    def cores(self) -> int | None:
        """Those of its machine; None while nothing is known of it."""
        ...

    def trial(self) -> None:
        """Run a command in a box of it, now, whatever was found before. SandboxUnavailable, SandboxFailed."""
        ...


class Member:
    """One engine, and what is known of it. All but its names is the roster's."""

    def __init__(self, label: str, sandbox: Engine, slots: int | None = None) -> None:
        """`label`: the engine, for people. `slots`: boxes that it may have at once; None: one for each of its cores."""
        self.label = label
        self.sandbox = sandbox
        self.breaker = Breaker()
        self.used = 0
        self.away = False
        self.failures = 0
        """How often it went away. A box from before says nothing of it any more."""
        self.error: MinitangoError | None = None
        """Why it was left alone when it was last."""
        self.served = 0
        """When it was last given a box, as a number that grows."""
        self._slots = slots

    @property
    def slots(self) -> int:
        """Boxes at once, where it is well."""
        return self._slots or self.sandbox.cores or os.cpu_count() or 1


class Seat:
    """The right to one box at a time on one engine."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.failures = member.failures


class Roster:
    """Gives seats, and takes them back with what became of them. Thread-safe."""

    def __init__(
        self,
        members: Sequence[Member],
        *,
        on_away: Callable[[Member, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_away` hears of a member that went away, and for how many seconds it is left alone, in the thread that
        found out. `clock`: monotonic seconds."""
        self.members = tuple(members)
        self._on_away = on_away
        self._clock = clock
        self._numbers = itertools.count(1)
        self._moved = threading.Condition()
        self._closed = False

    @property
    def seats(self) -> int:
        """How many boxes there may be now, with those that there are."""
        with self._moved:
            return sum(member.used + max(0, self._free(member)) for member in self.members)

    @property
    def well(self) -> list[Member]:
        """Those that are not away."""
        return [member for member in self.members if not member.away]

    def take(
        self, wanted: Callable[[], bool], *, patience: float, among: Collection[Member] | None = None
    ) -> Seat | None:
        """A seat on the engine with the most free ones; of equals, the one that waited longest. Waits where all are
        taken; None once `wanted` says no.

        SandboxUnavailable: what was wrong with the engines (`among`, or all), where all are away; `sandbox_busy` where
        all are taken still after `patience` seconds.
        """
        deadline = time.monotonic() + patience
        members = [member for member in self.members if among is None or member in among]
        with self._moved:
            while True:
                if self._closed:
                    raise SandboxFailed("the sandbox is closed")
                if not wanted():
                    return None
                best = max(members, key=lambda member: (self._free(member), -member.served))
                if self._free(best) > 0:
                    best.used += 1
                    best.served = next(self._numbers)
                    return Seat(best)
                if all(member.away for member in members):
                    raise self.none_left(members)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise SandboxUnavailable(
                        f"every place for a box was taken for {patience:.0f} s",
                        hint="it is tried again; more places: ?slots=N at a Docker engine, or one more engine",
                        id="sandbox_busy",
                    )
                self._moved.wait(min(_POLL, left))

    def none_left(self, among: Iterable[Member] = ()) -> SandboxUnavailable:
        """What to raise where all of these, or simply all, are away."""
        return none_left([member.error for member in among or self.members if member.error is not None])

    def give_back(self, seat: Seat, error: BaseException | None = None) -> None:
        """The seat is free again. `error`: what ended its use; None: it went well."""
        member, rest = seat.member, None
        with self._moved:
            member.used -= 1
            if seat.failures == member.failures and not self._closed:
                if error is None:
                    member.breaker.succeeded()
                elif isinstance(error, MinitangoError) and _speaks_against_the_engine(error):
                    rest = self._fail(member, error, certain=isinstance(error, SandboxUnavailable))
            self._moved.notify_all()
        if rest is not None:
            self._on_away(member, rest)

    def failed(self, member: Member, error: MinitangoError) -> None:
        """Setting it up, or a trial, went wrong."""
        with self._moved:
            before = member.away
            rest = None if self._closed else self._fail(member, error, certain=True)
            self._moved.notify_all()
        if rest is not None and not before:
            self._on_away(member, rest)

    def rest(self, member: Member) -> float:
        """Seconds until it may be tried again."""
        with self._moved:
            return member.breaker.wait(self._clock()) or 0.0

    def back(self, member: Member) -> None:
        """A trial of it went well."""
        with self._moved:
            member.away = False
            self._moved.notify_all()

    def close(self) -> None:
        """Whoever waits, or comes, gets SandboxFailed."""
        with self._moved:
            self._closed = True
            self._moved.notify_all()

    def _free(self, member: Member) -> int:
        if member.away:
            return 0
        allowed = member.breaker.allowed(self._clock(), member.used)
        return member.slots - member.used if allowed is None else allowed

    def _fail(self, member: Member, error: MinitangoError, *, certain: bool) -> float | None:
        """The seconds of its rest, where it was not resting already."""
        now = self._clock()
        if not member.breaker.failed(now, certain=certain):
            return None
        member.away = True
        member.failures += 1
        member.error = error
        return member.breaker.wait(now) or 0.0


def none_left(errors: Sequence[MinitangoError]) -> SandboxUnavailable:
    """What to raise where every engine failed: the first one's trouble, with what the others have to say."""
    first, *others = errors
    if not others:
        return SandboxUnavailable(first.message, hint=first.hint, id=first.id)
    said = "; ".join(error.message for error in errors)
    hints = "; or ".join(dict.fromkeys(error.hint for error in errors if error.hint))
    text = f"none of the {len(errors)} Docker engines can be used: {said}"
    return SandboxUnavailable(text, hint=hints, id=first.id)


def _speaks_against_the_engine(error: MinitangoError) -> bool:
    if isinstance(error, SandboxUnavailable):
        return reach_of(error.id) == "sandbox"
    return isinstance(error, SandboxFailed) and error.id.startswith("sandbox")  # not what a job did to its own box
