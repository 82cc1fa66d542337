"""One call: student code is run in a box for a program in the grader's."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final, Literal, Protocol

from msgspec.structs import replace

from minitango.archive import File
from minitango.errors import SandboxFailed
from minitango.job import Limits
from minitango.layout import WORK
from minitango.sandbox import Box, Calls, Channel, ChannelClosed, CollectBounds, End
from minitango.students import frames
from minitango.students.frames import BadCall, Ending, How, Misuse, Request
from minitango.text import human_seconds, human_size, one_line
from minitango.threads import begin, start

_NOT_EXECUTED: Final = 127
"""The exit status beside an errno with which a command could not be executed."""
_ERRNO: Final = 4
"""Bytes of it."""
_GOODBYE: Final = 2.0
"""Seconds for a caller to take its leave, once it was told the end."""


class Step(Protocol):
    """What a call needs of the step that it belongs to."""

    @property
    def limits(self) -> Limits:
        """What student code may use in one call."""
        ...

    def box(self) -> AbstractContextManager[Box]:
        """A box with the submission in it, that no call has had, and that is closed afterwards. Raises what the sandbox
        raises; ChannelClosed where all is over."""
        ...

    def in_the_way(self, given: Iterable[File]) -> str:
        """Why these files cannot be beside the submission's; empty: they can, in place of those of their names."""
        ...

    def run(self, box: Box, accept: Calls) -> End:
        """Run what waits for a request in this box, whose own output is nothing to anybody."""
        ...

    def turn(self, call: Call) -> None:
        """Wait until this call may go on, as others have ended. BadCall, Misuse: it may not."""
        ...

    def told(self, call: Call) -> None:
        """The caller is about to be told the end, or has left: another one may take its turn."""
        ...

    def misused(self, why: str) -> None:
        """The grader has a mistake, for which no hand-in is to pay."""
        ...


class Call:
    """One call, from its request to its end. Three threads have a part in it: its own, which runs the box; one that
    reads what the caller sends; one that reads what the student's side sends."""

    def __init__(self, caller: Channel, step: Step) -> None:
        self._caller = caller
        self._step = step
        self._lock = threading.Lock()
        self._box: Box | None = None
        self._over = False
        self._ending: Ending | None = None
        """What ended it, where that was one of us."""
        self._errno: int | None = None
        self._inside: Channel | None = None
        self._connected = threading.Event()
        self._asked = threading.Event()

    def end(self) -> None:
        """Kill what runs, and wake whoever waits. From any thread, at any time."""
        with self._lock:
            self._over = True
        self._kill()
        self._connected.set()
        self._asked.set()
        self._caller.close()

    def serve(self) -> None:
        """All of it. Raises what the sandbox raises, and nothing for what comes over a channel."""
        incoming = frames.read(self._caller)
        try:
            try:
                self._step.turn(self)
                got = frames.request(incoming)
                if got is not None:
                    self._run(*got, incoming)
            except BadCall as error:
                if isinstance(error, Misuse):  # before its caller hears of it, and may end
                    self._step.misused(str(error))
                leave = begin("call in", self._drain)
                self._tell(_refused(error))
                leave.join(_GOODBYE)
        except ChannelClosed:
            pass  # its caller is gone, or all is over

    def _run(self, request: Request, given: Sequence[File], incoming: Iterator[tuple[str, bytes]]) -> None:
        why = self._step.in_the_way(given)
        if why:
            raise BadCall(f"a file cannot be given: {why}")
        with self._step.box() as box:
            with self._lock:
                self._box = box
                over = self._over
            try:
                if over:
                    raise ChannelClosed
                if given:
                    box.put(WORK, given)
                reader = begin("call in", self._feed, incoming)
                ending = self._outcome(self._run_box(request, box))
                if request.take and ending.how is not How.LIMIT:
                    bounds = CollectBounds(files=frames.MAX_FILES, bytes=frames.MAX_BYTES)
                    left = box.collect(WORK, request.take, bounds)
                    for file in left.files:
                        frames.send_file(self._caller, "T", file)
                    for path, reason in left.refused[: frames.MAX_FILES]:
                        frames.send_refused(self._caller, path, reason)
                self._tell(ending)
                reader.join(_GOODBYE)
            finally:
                with self._lock:
                    self._box = None

    def _run_box(self, request: Request, box: Box) -> End:
        pump = begin("call out", self._pump, request)
        timer = self._timer(request.time)
        try:
            end = self._step.run(box, self._accept)
        except BaseException:
            if self._inside is not None:
                self._inside.close()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._connected.set()
            pump.join()
            self._asked.set()
        return end

    def _timer(self, seconds: float | None) -> threading.Timer | None:
        """What ends it after its own time, which begins now; None where the box ends it earlier."""
        if seconds is None or seconds >= self._step.limits.wall:
            return None
        timer = threading.Timer(seconds, self._stop, [_passed("wall", replace(self._step.limits, wall=seconds))])
        timer.daemon = True
        start(timer)
        return timer

    def _outcome(self, end: End) -> Ending:
        if self._ending is not None:
            return self._ending
        if end.limit is not None:
            return _passed(end.limit, self._step.limits)
        if end.cancelled:
            raise ChannelClosed
        if end.exec_error is not None or self._inside is None:
            raise SandboxFailed("what starts student code in its box did not come up", id="sandbox_exec")
        if self._errno is not None and end.exit_status == _NOT_EXECUTED:
            return Ending(How.NOT_EXECUTED, self._errno)
        if end.signal is not None:
            return Ending(How.SIGNALLED, end.signal)
        return Ending(How.EXITED, end.exit_status or 0)

    def _tell(self, ending: Ending) -> None:
        self._step.told(self)
        frames.send(self._caller, "X", ending.encode())
        self._caller.shutdown()

    # --- the other threads ------------------------------------------------------------------------

    def _accept(self, channel: Channel) -> None:
        """The first connection of the student's box is of ours, made before anything of the student's runs."""
        with self._lock:
            ours = self._inside is None and not self._over
            if ours:
                self._inside = channel
        if ours:
            self._connected.set()
        else:
            channel.close()

    def _pump(self, request: Request) -> None:
        """From the student's side to the caller, until that side ends."""
        self._connected.wait()
        inside = self._inside
        if inside is None:
            return
        left = self._step.limits.output
        try:
            frames.send(inside, "R", Request(request.words).encode())
            self._asked.set()
            for kind, data in frames.read(inside):
                if kind == "F" and len(data) == _ERRNO and self._errno is None:
                    self._errno = int.from_bytes(data, "big")
                elif kind in ("O", "e") and data:  # empty ones would be work without end that no limit counts
                    left -= len(data)
                    if left < 0:
                        self._stop(_passed("output", self._step.limits))
                        break
                    frames.send(self._caller, kind, data)
                else:
                    raise BadCall(f"the student's side said {kind!r}")  # noqa: TRY301
        except BadCall as error:  # by student code that took hold of what started it
            self._stop(_refused(error))
        except ChannelClosed:
            pass  # that side has ended, of which the box tells; or the caller is gone, of which its reader hears
        finally:
            self._asked.set()
            inside.close()

    def _feed(self, incoming: Iterator[tuple[str, bytes]]) -> None:
        """From the caller to the student's side, until the caller is gone: then what runs for it is killed."""
        heard = True
        try:
            for kind, data in incoming:
                if kind not in ("I", "E"):
                    raise BadCall(f"{kind!r} does not follow a request")  # noqa: TRY301
                self._asked.wait()
                if heard and self._inside is not None:
                    try:
                        frames.send(self._inside, kind, data)
                    except ChannelClosed:
                        heard = False  # what is for nobody is read all the same: its caller may wait for that
        except BadCall as error:
            self._stop(_refused(error))
            self._drain()
        self._step.told(self)
        self._kill()

    def _drain(self) -> None:
        while self._caller.recv():
            pass

    def _stop(self, ending: Ending) -> None:
        """End it, and say this of it, unless there was something to be said before."""
        with self._lock:
            self._ending = self._ending or ending
        self._kill()

    def _kill(self) -> None:
        with self._lock:
            box = self._box
        if box is not None:
            box.kill()


def _passed(limit: Literal["wall", "cpu", "memory", "output"], limits: Limits) -> Ending:
    """The end by a limit, with how much that is."""
    amount = {
        "wall": human_seconds(limits.wall),
        "cpu": human_seconds(limits.cpu or 0),
        "memory": human_size(limits.memory),
        "output": human_size(limits.output),
    }
    return Ending(How.LIMIT, text=f"{limit} {amount[limit]}")


def _refused(error: BadCall) -> Ending:
    how = How.MISUSED if isinstance(error, Misuse) else How.REFUSED
    return Ending(how, text=one_line(str(error), frames.MAX_REASON))
