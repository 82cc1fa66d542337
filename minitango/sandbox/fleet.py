"""Fleet: one sandbox made of several Docker engines.

Each box goes to the engine with the most free slots (`_roster.py`), and an attempt stays on its engine from the first
step to the last: `seat` gives the engine itself, so that images are prepared where they are used, and a result names
the digest that it really had. An engine that fails gets no box until a trial of its own has worked there, in a
thread that lives for as long as it is away.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from minitango.archive import File
from minitango.errors import MinitangoError, SandboxFailed, SandboxUnavailable
from minitango.sandbox._demand import insist
from minitango.sandbox._roster import Engine, Member, Roster, Seat, none_left
from minitango.sandbox.contract import (
    LIMITS,
    Box,
    BoxSpec,
    Calls,
    CollectBounds,
    Collected,
    End,
    Guarantees,
    Held,
    Sandbox,
)
from minitango.text import one_line, plural
from minitango.threads import begin

__all__ = ["Fleet", "Member"]

log = logging.getLogger("minitango")

PATIENCE: Final = 600.0
"""Seconds for which a seat is waited for."""
_LINGER: Final = 5.0
"""Seconds for which the end of an engine that is away is waited for: it may hang."""


class Fleet:
    """A `Sandbox`. Nothing is asked of its engines before it is used.

    As a whole it is only as good as one engine: what `prepare` gives names an image of the engine that it asked, and a
    box of that image is opened there.
    """

    name = "docker"

    def __init__(
        self,
        members: Sequence[Member],
        *,
        require: Collection[str] = (),
        rests: Callable[[bool, str], None] = lambda _, text: None,
    ) -> None:
        """`require`: LIMITS that have to hold; an engine where one does not is left alone. `rests` hears, for people,
        of an engine that is left alone from now on (True), or is used again."""
        self._require = require
        self.default_image = members[0].sandbox.default_image
        self._rests = rests
        self._roster = Roster(members, on_away=self._went_away)
        self._homes: dict[str, set[Member]] = {}
        """By an image's digest, where `prepare` of the whole had it."""
        self._lock = threading.Lock()
        self._tried: dict[Member, Guarantees] = {}
        self._ended = threading.Event()

    @property
    def slots(self) -> int | None:
        """See `Sandbox.slots`."""
        return sum(member.slots for member in self._roster.members)

    @property
    def seats(self) -> int | None:
        """See `Sandbox.seats`."""
        return self._roster.seats

    @property
    def places(self) -> tuple[Engine, ...]:
        """See `Sandbox.places`."""
        return tuple(member.sandbox for member in self._roster.members)

    @contextlib.contextmanager
    def seat(
        self, wanted: Callable[[], bool] = lambda: True, *, among: Collection[Sandbox] | None = None
    ) -> Iterator[Engine | None]:
        """See `Sandbox.seat`."""
        members = [member for member in self._roster.members if among is None or member.sandbox in among]
        seat = self._roster.take(wanted, patience=PATIENCE, among=members)
        if seat is None:
            yield None
            return
        try:
            yield seat.member.sandbox
        except BaseException as error:
            self._roster.give_back(seat, error)
            raise
        self._roster.give_back(seat)

    def probe(self) -> Guarantees:
        """See `Sandbox.probe`: what holds on all engines that work, and in the notes which those are. ConfigError where
        an address can be none."""
        with self._lock:
            if not self._tried:
                self._try_all()
            tried = dict(self._tried)
        held: dict[str, Held] = {}
        for limit in LIMITS:
            found = [getattr(one, limit) for one in tried.values()]
            held[limit] = "none" if "none" in found else found[0]
        return Guarantees(**held, notes=tuple(self._notes(tried)))

    def prepare(self, image: str, folder: Sequence[File] = ()) -> str:
        """See `Sandbox.prepare`."""
        member = self._first()
        digest = member.sandbox.prepare(image, folder)
        with self._lock:
            self._homes.setdefault(digest, set()).add(member)
        return digest

    def image_digest(self, image: str) -> str:
        """See `Sandbox.image_digest`."""
        return self._roster.members[0].sandbox.image_digest(image)

    def image_command(self, digest: str) -> tuple[str, ...]:
        """See `Sandbox.image_command`."""
        home = next(iter(self._homes.get(digest, ())), None)
        return (home or self._first()).sandbox.image_command(digest)

    def find_image(self, image: str, folder: Sequence[File] = ()) -> str:
        """See `Sandbox.find_image`: empty where an engine that works would have to fetch or build it."""
        self._first()
        digests = [member.sandbox.find_image(image, folder) for member in self._roster.well]
        return digests[0] if digests and all(digests) else ""

    def open(self, spec: BoxSpec) -> Box:
        """See `Sandbox.open`. It waits where all slots are taken; SandboxUnavailable `sandbox_busy` after minutes."""
        homes = self._homes.get(spec.image) if spec.image else None
        seat = self._roster.take(lambda: True, patience=PATIENCE, among=homes)
        assert seat is not None
        try:
            return _SeatedBox(seat.member.sandbox.open(spec), seat, self._roster)
        except BaseException as error:
            self._roster.give_back(seat, error)
            raise

    def sweep(self) -> int:
        """See `Sandbox.sweep`. An engine that is away is swept when it is back."""
        return sum(_swept(member) for member in self._roster.well)

    def orphans(self) -> int:
        """See `Sandbox.orphans`: on the engines that are not away."""
        return sum(member.sandbox.orphans() for member in self._roster.well)

    def close(self) -> None:
        """See `Sandbox.close`. Not for long for an engine that is away: its containers leave by themselves."""
        self._ended.set()
        self._roster.close()
        away = [member for member in self._roster.members if member.away]
        closing = {member: begin("close", member.sandbox.close) for member in self._roster.members}
        for member, thread in closing.items():
            thread.join(_LINGER if member in away else None)

    # --- engines that fail -----------------------------------------------------------------------------

    def _try_all(self) -> None:
        """Set all engines up, side by side. SandboxUnavailable where none works."""
        with ThreadPoolExecutor(len(self._roster.members)) as pool:
            found = dict(zip(self._roster.members, pool.map(self._try, self._roster.members), strict=True))
        errors = {member: one for member, one in found.items() if isinstance(one, SandboxUnavailable)}
        if len(errors) == len(found):
            raise none_left(list(errors.values()))
        self._tried = {member: one for member, one in found.items() if isinstance(one, Guarantees)}
        for member, error in errors.items():
            self._roster.failed(member, error)

    def _try(self, member: Member) -> Guarantees | SandboxUnavailable:
        try:
            return insist(member.sandbox, self._require)
        except SandboxUnavailable as error:
            return error

    def _notes(self, tried: Mapping[Member, Guarantees]) -> Iterator[str]:
        for member in self._roster.members:
            error = member.error if member.away else None
            slots = f"{plural(member.slots, 'job')} at once"
            yield f"{member.label}: " + (f"not used now: {error}" if error else slots)
            yield from (f"{member.label}: {note}" for note in (tried[member].notes if member in tried else ()))

    def _first(self) -> Member:
        """The first engine that is not away. SandboxUnavailable."""
        with self._lock:
            if not self._tried:
                self._try_all()
        well = self._roster.well
        if not well:
            raise self._roster.none_left()
        return well[0]

    def _went_away(self, member: Member, rest: float) -> None:
        well = len(self._roster.well)
        others = (
            f"{well} of {len(self._roster.members)} engines go on" if well else "no engine is left, no job is started"
        )
        if well == 1:
            others = "the other one goes on" if len(self._roster.members) == 2 else "one engine goes on"
        error = member.error
        hint = f"; next: {error.hint}" if error is not None and error.hint else ""
        self._rests(True, f"{member.label} is left alone for {rest:.0f} s, and {others}: {error}{hint}")
        try:
            begin(f"trial of {member.label}", self._nurse, member)
        except SandboxUnavailable:  # nobody would ever try it again: after its rest, a job is to
            self._roster.back(member)

    def _nurse(self, member: Member) -> None:
        """Try it, after longer and longer rests, until it works."""
        while not self._ended.wait(self._roster.rest(member)):
            try:
                member.sandbox.trial()
                guarantees = insist(member.sandbox, self._require)
            except MinitangoError as error:
                self._roster.failed(member, error)
            except Exception as error:  # nobody else would try it again
                log.exception("trying %s went wrong in minitango itself", member.label)
                self._roster.failed(member, SandboxFailed(one_line(repr(error), 200)))
            else:
                with self._lock:
                    self._tried[member] = guarantees
                self._roster.back(member)
                self._rests(False, f"{member.label} works again: one job is tried there, then as many as before")
                _swept(member)
                return


class _SeatedBox:
    """A box with its seat, which is free when it is closed."""

    def __init__(self, box: Box, seat: Seat, roster: Roster) -> None:
        self._box = box
        self._seat: Seat | None = seat
        self._roster = roster
        self._error: BaseException | None = None

    def put(self, mount: str, files: Iterable[File]) -> None:
        with self._noted():
            self._box.put(mount, files)

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        output: Callable[[bytes], None],
        calls: Calls | None = None,
    ) -> End:
        with self._noted():
            return self._box.run(command, env=env, output=output, calls=calls)

    def collect(self, mount: str, patterns: Sequence[str], bounds: CollectBounds = CollectBounds()) -> Collected:
        with self._noted():
            return self._box.collect(mount, patterns, bounds)

    def kill(self) -> None:
        self._box.kill()

    def close(self) -> None:
        try:
            with self._noted():
                self._box.close()
        finally:
            seat, self._seat = self._seat, None
            if seat is not None:
                self._roster.give_back(seat, self._error)

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._error = self._error or error
            raise


def _swept(member: Member) -> int:
    try:
        return member.sandbox.sweep()
    except MinitangoError as error:
        log.warning("%s cannot be swept now: %s", member.label, error)
        return 0
