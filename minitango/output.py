"""What a step prints: the part of it that is kept, and a file for those who follow a running job.

The file is lost without harm: what a finished job printed is in the store.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Final

from minitango.job import StepOutput

KEEP_HEAD: Final = 128 << 10
KEEP_TAIL: Final = 128 << 10
"""Bytes kept of a step's output, from its beginning and from its end."""
MOST: Final = 4 << 20
"""Bytes of one job that can be followed."""


class HeadTail:
    """The first and the last bytes of a stream, in bounded memory."""

    def __init__(self, head: int = KEEP_HEAD, tail: int = KEEP_TAIL) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._head_room = head
        self._tail_room = tail
        self.total = 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self._head_room - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail += data
            if len(self._tail) > 2 * self._tail_room:
                del self._tail[: -self._tail_room]

    def output(self, step: str) -> StepOutput:
        tail = bytes(self._tail[-self._tail_room :])
        return StepOutput(step, bytes(self._head), tail, self.total - len(self._head) - len(tail))


def live_path(state: Path, job: str) -> Path:
    """Where a running job's output is, while it runs. `job` is a whole id, as the store gave it."""
    return state / "live" / f"{job}.log"


class LiveOutput:
    """Writes one attempt's output for followers. The file is made at the first byte, and gone at the end."""

    def __init__(self, state: Path, job: str) -> None:
        self._state, self._job = state, job
        self._fd = -1
        self._left = MOST

    def __enter__(self) -> LiveOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(OSError):
                live_path(self._state, self._job).unlink()

    def write(self, step: str, data: bytes) -> None:
        """Append; a full disk or an unwritable folder costs the followers, never the job."""
        with contextlib.suppress(OSError):
            if self._fd < 0 and self._left:
                path = live_path(self._state, self._job)
                path.parent.mkdir(mode=0o700, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
                self._fd = os.open(path, flags, 0o600)
            if self._left:
                os.write(self._fd, data[: self._left])
                self._left = max(0, self._left - len(data))

    @staticmethod
    def clear(state: Path) -> None:
        """Remove what an engine that died left."""
        for path in (state / "live").glob("*.log"):
            with contextlib.suppress(OSError):
                path.unlink()
