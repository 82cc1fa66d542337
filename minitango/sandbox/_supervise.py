"""Watching one command from its start to the death of everything in its box."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Final

from minitango.errors import SandboxFailed
from minitango.sandbox._inside import LINGER, Status, parse_status
from minitango.sandbox._meter import Limit, Meter
from minitango.sandbox._sockets import Listener

CHUNK: Final = 64 << 10
_PATIENCE: Final = 10.0
"""Seconds that the kernel has to bury a box."""
_BEAT: Final = 1.0
"""Seconds after which the loop looks at the clock, whatever happens."""
_LATE: Final = 1.0
"""Seconds by which the loop may be late and still have been running: the machine is busy."""
_SET_BACK: Final = 1_000_000
"""Nanoseconds by which the clock of files may be set back and nobody minds."""
_SMALL: Final = 4096
_PACE: Final = 0.003
"""Seconds to let output gather, where it comes in small pieces: a flood of short lines must be cheap."""


class Ended:
    """What a run came to. `status` is None where pid 1 of the box could not tell."""

    def __init__(self) -> None:
        self.status: Status | None = None
        self.limit: Limit | None = None
        self.cancelled = False
        self.output_bytes = 0
        self.wall = 0.0
        self.main: int | None = None
        """When the main process had ended by itself, in nanoseconds on the clock of files; None: it did not, or that
        clock was set back, so that files may seem later than they are."""


class Supervisor:
    """Runs one box's loop in the calling thread. All descriptors are the caller's.

    A time in which the loop itself stood still (the engine was stopped, or did not take the output) is not charged to
    the command, which may have waited for us: the wall limit comes that much later.
    """

    def __init__(
        self,
        *,
        pid1: int,
        status: int,
        output: int,
        stop: int,
        wall: float,
        output_limit: int,
        meter: Meter,
        deliver: Callable[[bytes], None],
        listener: Listener | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pid1 = pid1
        self._status = status
        self._output = output
        self._stop = stop
        self._wall = wall
        self._output_limit = output_limit
        self._meter = meter
        self._deliver = deliver
        self._listener = listener
        self._clock = clock
        self._said = b""
        self._ended = Ended()

    def run(self) -> Ended:
        """Return when the main process has ended, a limit is passed or `stop` is raised, and nothing lives any more.

        SandboxFailed where the box will not die. Whatever is raised, the box was told to die.
        """
        started, ahead = self._clock(), _clock_of_files_ahead()
        try:
            self._until_over(started)
            self._ended.wall = self._clock() - started
            self._linger()
        finally:
            kill(self._pid1)
        wait_dead(self._pid1, _PATIENCE)
        self._hear()
        self._drain()
        status = self._ended.status = parse_status(self._said)
        if status is not None and _clock_of_files_ahead() > ahead - _SET_BACK:
            self._ended.main = status.ended
        return self._ended

    def _linger(self) -> None:
        """Leave what the main process left to pid 1 for a moment, so that who goes on writing can be seen."""
        status = parse_status(self._said)
        if status is not None:
            self._meter.main_ended()
        if status is not None and status.others and self._ended.limit is None and not self._ended.cancelled:
            with contextlib.suppress(SandboxFailed):
                wait_dead(self._pid1, 2 * LINGER)

    def _until_over(self, started: float) -> None:
        deadline = started + self._wall
        poll = select.poll()
        for fd in (self._status, self._output, self._stop, self._pid1):
            poll.register(fd, select.POLLIN)
        next_check = started + self._meter.check()[1]
        read_again: float | None = None
        last_read = 0.0
        reading = True
        listener = self._listener
        listen_again: float | None = started
        awake = started + _BEAT
        while True:
            now = self._clock()
            if now > awake + _LATE:
                deadline += now - awake
            if now >= deadline:
                self._ended.limit = "wall"
                return
            if now >= next_check:
                limit, delay = self._meter.check()
                if limit is not None:
                    self._ended.limit = limit
                    return
                now = self._clock()
                next_check = now + delay
            if read_again is not None and now >= read_again:
                poll.register(self._output, select.POLLIN)
                read_again = None
            if listener is not None and listen_again is not None and now >= listen_again:
                poll.register(listener, select.POLLIN)
                listen_again = None
            pauses = (pause for pause in (read_again, listener and listen_again) if pause)
            awake = min(deadline, next_check, now + _BEAT, *pauses)
            ready = {fd for fd, _ in poll.poll(max(0.0, (awake - now) * 1000))}
            if self._stop in ready:
                self._ended.cancelled = True
                return
            if self._output in ready and reading:
                chunk = self._read()
                if chunk is None:
                    poll.unregister(self._output)
                    reading = False
                elif self._ended.limit is not None:
                    return
                else:
                    now = self._clock()
                    if chunk < _SMALL and now - last_read < _PACE * 2:
                        poll.unregister(self._output)
                        read_again = now + _PACE
                    last_read = now
            if listener is not None and listener.fileno() in ready:
                rest = listener.take()
                if rest:
                    poll.unregister(listener)
                    listen_again = self._clock() + rest
            if self._status in ready and not self._hear():
                return
            if self._pid1 in ready:
                return

    def _hear(self) -> bool:
        """Take what pid 1 said; False once it has said all."""
        with contextlib.suppress(BlockingIOError):
            more = os.read(self._status, 256)
            self._said += more
            return bool(more) and b"\n" not in self._said and len(self._said) < 256
        return True

    def _read(self) -> int | None:
        """Deliver what is there, and say how much it was; None at the end of the stream."""
        try:
            chunk = os.read(self._output, CHUNK)
        except BlockingIOError:
            return 0
        if not chunk:
            return None
        self._ended.output_bytes += len(chunk)
        if self._ended.output_bytes > self._output_limit and self._ended.limit is None:
            self._ended.limit = "output"
        self._deliver(chunk)
        return len(chunk)

    def _drain(self) -> None:
        """Deliver what the dead left in the pipe: it is bounded, for nothing can write any more."""
        while self._ended.output_bytes <= self._output_limit and self._read():
            pass


def _clock_of_files_ahead() -> int:
    """How far it is ahead of the machine's own, in nanoseconds: that changes where somebody sets it."""
    return time.time_ns() - time.monotonic_ns()


def kill(pidfd: int) -> None:
    """Kill pid 1 of a box, and with it, by the kernel, all that lives there."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def is_dead(pidfd: int) -> bool:
    """Whether this process is dead, now."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def wait_dead(pidfd: int, patience: float) -> None:
    """Wait until this process is dead; pid 1 of a box dies after all others. SandboxFailed if it does not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(patience * 1000):
        raise SandboxFailed(f"a box was killed, but did not die within {patience:g} s")
