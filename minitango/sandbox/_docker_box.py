"""One container, and the conversation with the supervisor in it: from its start, over one run, to nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

from minitango.archive import File
from minitango.errors import MinitangoError, SandboxFailed, SandboxUnavailable
from minitango.job import Usage
from minitango.sandbox import _frames
from minitango.sandbox._collect import (
    DEVICE,
    DIRECTORY,
    FILE,
    LINK,
    NOT_REGULAR,
    PIPE,
    SOCKET,
    UNREADABLE,
    Patterns,
    collect,
    fault_of,
)
from minitango.sandbox._docker_engine import PATIENCE
from minitango.sandbox._docker_line import HURRY, Bell, Line, LineLost, LineSilent
from minitango.sandbox._docker_profile import environment, given_at_first, held_by, memory_with, rlimits
from minitango.sandbox._frames import BadFrame, Frame
from minitango.sandbox._relay import Relay
from minitango.sandbox._remedy import too_small
from minitango.sandbox.contract import BoxSpec, Calls, CollectBounds, Collected, End, Mount

_LATE: Final = 1.0
"""Seconds by which a wait may be late and we still have been running."""
_BEAT: Final = 1.0
_SIGKILL: Final = 9

Died = Callable[[], End | MinitangoError]
"""Finds out how a container came to its end that said nothing: what the job's end was, or whose fault it is."""


class DockerBox:
    """A `Box`. Made by `DockerSandbox.open` with the line to a supervisor that has said hello."""

    def __init__(
        self,
        spec: BoxSpec,
        line: Line,
        bell: Bell,
        *,
        own: dict[str, str],
        filter: bytes,
        died: Died,
        enlarge: Callable[[int], None],
        closed: Callable[[DockerBox, bool], None],
        patience: float = PATIENCE,
    ) -> None:
        """`own` is the image's environment; `filter` the system calls that the job does not get; `enlarge` gives the
        container so much memory; `closed` is told at the end, with whether the supervisor was well. For `patience`
        seconds may the supervisor be silent, which has a word to say every 2 s while a command runs; and so long after
        its limit may a run take to end. Once it is to be killed, it may be silent for HURRY."""
        self.spec = spec
        self._line = line
        self._bell = bell
        self._own = own
        self._filter = filter
        self._died = died
        self.enlarge = enlarge
        self._closed = closed
        self._patience = patience
        self._state: Literal["open", "over", "lost", "closed"] = "open"
        self._busy = threading.Lock()  # one verb at a time; close, from any thread, waits for it
        self._end = threading.Lock()  # between kill and the end of what it rings
        self._well = True
        self._relay: Relay | None = None
        self._given = given_at_first(spec)
        self._numbers = {mount.path: number for number, mount in enumerate(spec.mounts)}

    # --- the verbs ---------------------------------------------------------------------------------

    def put(self, mount: str, files: Iterable[File]) -> None:
        """See `Box.put`."""
        place = self._mount(mount)
        files = list(files)
        frames = list(_frames.put(self._numbers[mount], files))  # ValueError before anything is sent
        with self._busy:
            if self._state != "open":
                raise SandboxFailed("files cannot be put into a box that has run or is closed")
            if not files:
                return
            self._make_room(place, files)
            self._send_files(frames)

    def lay(self, directories: Mapping[str, str]) -> None:
        """Put the files of a directory of the container into each of these mounts. Raises as `put`."""
        with self._busy:
            self._send_files([_frames.lay(self._numbers[mount], place) for mount, place in directories.items()])

    def _make_room(self, place: Mount, files: Sequence[File]) -> None:
        """Give the container the memory of what is about to come into a read-only mount: the job is not charged."""
        if place.writable:
            return
        self._given += held_by(files)
        memory = memory_with(self.spec, self._given)
        if memory is not None:
            self.enlarge(memory)

    def _send_files(self, frames: list[bytes]) -> None:
        with self._speaking():
            self._line.send(frames, self._patience)
            self._line.send([_frames.frame("Y")], self._patience)
            problem = _frames.problem(self._answer("y").body)
            if problem is not None and problem.mount >= len(self.spec.mounts):
                raise BadFrame("a problem in no mount")
        if problem is not None:
            place = self.spec.mounts[problem.mount]
            error = _frames.os_error(problem.errno)
            full = too_small(error, place, self.spec.limits)
            failed = SandboxFailed(f"a file could not be put into {place.path}: {error.strerror}", id="sandbox_put")
            raise full or failed

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        output: Callable[[bytes], None],
        calls: Calls | None = None,
    ) -> End:
        """See `Box.run`."""
        if calls is not None and not self.spec.helper:
            raise ValueError("a box without a helper has no calls")
        limits = self.spec.limits
        start = _frames.run(
            self._numbers[self.spec.workdir],
            command,
            {**environment(self.spec, self._own), **env},
            wall=limits.wall,
            cpu=limits.cpu,
            output=limits.output,
            rlimits=rlimits(self.spec),
            filter=self._filter,
        )
        with self._busy:
            if self._state != "open":
                raise SandboxFailed("a box runs once")
            self._state = "lost"  # until it is known to have ended well
            if self.spec.helper:
                self._relay = Relay(calls, self._line.post)
            try:
                killed = self._bell.rung  # already: then it must not even begin
                self._line.send([_frames.frame("K"), start] if killed else [start], self._patience)
                ended = self._follow(output, asked=killed)
            except (LineLost, BadFrame) as error:
                return self._lost(error)
            except LineSilent as error:
                self._well = False
                raise self._silent() from error
            finally:
                if self._relay is not None:
                    self._relay.end()
            self._state = "over"
            return self._told(ended)

    def _follow(self, output: Callable[[bytes], None], *, asked: bool) -> _frames.Ended:
        """Pass output on until the run is over. The supervisor keeps the limits; here is the net below it.

        `asked`: whether it has been told to end.
        """
        said = 0
        now = heard = time.monotonic()
        deadline = now + self.spec.limits.wall + self._patience
        silence = min(self._patience, HURRY) if asked else self._patience
        while True:
            frame = self._line.next(_BEAT, bell=not asked)
            before, now = now, time.monotonic()
            if now - before > _BEAT + _LATE:  # we stood still: so did our clock for the other side
                deadline += now - before
                heard = now
            if frame is None:
                if self._bell.rung and not asked:
                    asked = True
                    self._line.send([_frames.frame("K")], self._patience)
                    deadline = min(deadline, now + self._patience)
                    silence, heard = min(self._patience, HURRY), now
                elif now > heard + silence or now > deadline:
                    raise LineSilent("the supervisor says nothing more")
                continue
            heard = now
            if frame.kind == "x":
                return _frames.ended(frame.body)
            if now > deadline:
                raise LineSilent("the run does not end")
            if frame.kind == "o":
                said += len(frame.body)
                if said > self.spec.limits.output + _frames.PIECE:
                    raise BadFrame("more output than it may send")
                try:
                    output(frame.body)
                except BaseException:  # the listener's own: it goes through, once the job is dead
                    self._abandon()
                    raise
                now = time.monotonic()
                deadline += now - heard
                heard = now
            elif self._relay is not None and frame.kind in _frames.CHANNEL_KINDS:
                try:
                    self._relay.take(frame)
                except BadFrame:
                    raise
                except BaseException:  # of whoever takes the calls
                    self._abandon()
                    raise
            elif frame.kind != "b":
                raise BadFrame(f"a frame {frame.kind!r} during a run")

    def _abandon(self) -> None:
        """Kill the run, and wait until all is dead; whatever is wrong with the line shows later."""
        deadline = time.monotonic() + self._patience
        with contextlib.suppress(LineLost, LineSilent):
            self._line.send([_frames.frame("K")], self._patience)
            while time.monotonic() < deadline:
                frame = self._line.next(_BEAT)
                if frame is not None and frame.kind == "x":
                    return
        self._well = False

    def _told(self, ended: _frames.Ended) -> End:
        """What the supervisor said, as an `End`."""
        what = {"fork": "no process could be started", "limit": "a limit could not be set"}.get(ended.what)
        if what is not None:
            raise SandboxFailed(f"{what} in the box: {_frames.os_error(ended.number).strerror}")
        cancelled = ended.how == "killed"
        if ended.what == "never" and not cancelled:
            raise SandboxFailed("the box's command was never started")
        limit: Literal["wall", "cpu", "memory", "output"] | None = None
        if ended.how in ("wall", "cpu", "output"):
            limit = ended.how  # type: ignore[assignment]
        exit_status, number, exec_error = None, None, None
        if ended.what == "exec":
            exec_error = _frames.local_errno(ended.number)
        elif ended.what == "never":
            number = _SIGKILL
        elif ended.number & 0x7F == 0:
            exit_status = ended.number >> 8 & 0xFF
        else:
            number = ended.number & 0x7F
        if limit is None and not cancelled and number == _SIGKILL and ended.oom_kills:
            limit = "memory"
        return End(
            exit_status=exit_status,
            signal=number,
            exec_error=exec_error,
            limit=limit,
            cancelled=cancelled,
            usage=Usage(wall=ended.wall, cpu=ended.cpu, memory=ended.peak or ended.max_rss or None),
            output_bytes=ended.output_bytes,
            oom_kills=ended.oom_kills,
            disk_full=ended.disk_full,
            pids_limit=ended.forks_refused,
        )

    def _lost(self, error: Exception) -> End:
        """The container is gone, or makes no sense: find out whose fault it is."""
        self._well = False
        if isinstance(error, BadFrame):
            raise SandboxFailed(f"the supervisor makes no sense: {error}", id="box_killed") from error
        found = self._died()
        if isinstance(found, End):
            return found
        raise found from error

    def collect(self, mount: str, patterns: Sequence[str], bounds: CollectBounds = CollectBounds()) -> Collected:
        """See `Box.collect`."""
        self._mount(mount)
        wanted = Patterns(patterns)
        with self._busy:
            if self._state == "lost":
                return Collected()  # what was there went with the container
            if self._state != "over":
                raise SandboxFailed("files are collected after the run, and before the box is closed")
            with self._speaking():
                return collect(_Tree(self, self._numbers[mount], bounds), wanted, bounds)

    def kill(self) -> None:
        """See `Box.kill`."""
        with self._end:
            if self._state != "closed":
                self._bell.ring()

    def close(self) -> None:
        """See `Box.close`."""
        self.kill()
        with self._busy:
            with self._end:
                if self._state == "closed":
                    return
                self._state = "closed"
            if self._well:
                try:
                    self._line.send([_frames.frame("Q")], 1.0)
                except (LineLost, LineSilent):
                    self._well = False
            if self._relay is not None:
                self._relay.close()
            self._line.close()
            self._bell.close()
            self._closed(self, self._well)

    # --- the conversation ----------------------------------------------------------------------------

    def _speaking(self) -> _Speaking:
        return _Speaking(self)

    def _answer(self, *kinds: str) -> Frame:
        frame = self._line.answer(self._patience)
        if frame is None:
            raise LineSilent("no answer came")
        if frame.kind not in kinds:
            raise BadFrame(f"a frame {frame.kind!r} instead of {' or '.join(kinds)}")
        return frame

    def ask(self, request: bytes, kind: str) -> Iterator[bytes]:
        """The pieces of an answer, then nothing. OSError where the supervisor met one. Read to its end, always."""
        self._line.send([request], self._patience)
        while (frame := self._answer(kind, "e")).kind == kind:
            if not frame.body:
                raise BadFrame("an answer of nothing")
            yield frame.body
        number, _ = _frames.answered(frame.body)
        if number:
            raise _frames.os_error(number)

    def failed(self, error: Exception) -> MinitangoError:
        """What to raise where the line failed outside of a run."""
        self._well = False
        self._state = "lost"
        if isinstance(error, LineSilent):
            return self._silent()
        if isinstance(error, BadFrame):
            return SandboxFailed(f"the supervisor makes no sense: {error}", id="box_killed")
        found = self._died()
        if isinstance(found, End):
            return SandboxFailed("the container ended before its command was run", id="box_killed")
        return found

    def _silent(self) -> SandboxUnavailable:
        seconds = min(self._patience, HURRY) if self._bell.rung else self._patience
        return SandboxUnavailable(
            f"a container has said nothing for {seconds:g} s",
            hint="look at the Docker engine: docker info",
            id="sandbox_hangs",
        )

    def _mount(self, path: str) -> Mount:
        if path not in self._numbers:
            raise ValueError(f"{path!r} is not a mount of this box")
        return self.spec.mounts[self._numbers[path]]


class _Speaking:
    """Turns what goes wrong on the line into errors of ours."""

    def __init__(self, box: DockerBox) -> None:
        self._box = box

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (LineLost, LineSilent, BadFrame)):
            raise self._box.failed(error) from error


_KINDS: Final = {"f": FILE, "d": DIRECTORY, "l": LINK, "p": PIPE, "s": SOCKET, "c": DEVICE}


class _Tree:
    """A mount as a tree that is collected from, by way of the supervisor."""

    def __init__(self, box: DockerBox, mount: int, bounds: CollectBounds) -> None:
        self._box = box
        self._mount = mount
        self._most = bounds.entries + 1
        self._known: dict[str, _frames.Entry] = {}

    def names(self, parents: Sequence[str], wanted: list[str] | None) -> Iterator[tuple[str, str, bool]]:
        """See `Tree.names`."""
        if wanted is None:
            found = list(self._listed(_frames.list_directory(self._mount, _path(parents), self._most)))
        else:
            found = [entry for name in wanted for entry in self._one((*parents, name))]
        for entry in found:
            if entry.kind == "f":
                self._known["/".join((*parents, entry.name))] = entry
            yield entry.name, _KINDS.get(entry.kind, NOT_REGULAR), entry.late

    def _one(self, parts: Sequence[str]) -> list[_frames.Entry]:
        try:
            return list(self._listed(_frames.look(self._mount, _path(parts))))
        except OSError:
            return []

    def _listed(self, request: bytes) -> Iterator[_frames.Entry]:
        count = 0
        for piece in self._box.ask(request, "l"):
            for entry in _frames.entries(piece):
                count += 1
                if count > self._most:
                    raise BadFrame("more entries than were asked for")
                yield entry

    def take(self, parents: Sequence[str], name: str, most: int) -> tuple[File | None, str]:
        """See `Tree.take`."""
        entry = self._known["/".join((*parents, name))]
        fault = fault_of(links=entry.links, size=entry.size, allocated=entry.allocated, most=most)
        if fault:
            return None, fault
        data = bytearray()
        try:
            for piece in self._box.ask(_frames.get(self._mount, _path((*parents, name)), entry.size), "d"):
                data += piece
                if len(data) > entry.size:
                    raise BadFrame("more of a file than there is")
        except PermissionError:
            return None, UNREADABLE
        except OSError as error:
            return None, LINK if error.errno == errno.ELOOP else f"it cannot be read: {error.strerror}"
        return File(path=name, data=bytes(data), executable=entry.executable), ""


def _path(parts: Sequence[str]) -> str:
    """OSError where nobody can be asked for it: names that a job made come to any length together."""
    path = "/".join(parts)
    if len(path.encode("utf-8", "surrogateescape")) > _frames.MAX_PATH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return path
