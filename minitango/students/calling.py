"""The side of a program that calls, as `minitango-student` has it: for fakes and tests."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Sequence
from typing import Final

from msgspec import Struct, structs

from minitango.archive import File
from minitango.sandbox import Channel, ChannelClosed
from minitango.students import frames
from minitango.students.frames import Ending, How, Request

LATE: Final = 124
REFUSED: Final = 125
"""Exit statuses of `minitango-student` for a limit of time, and for any other or a refusal."""


class Called(Struct, frozen=True):
    """How a call of a guarded step ended."""

    stdout: bytes
    stderr: bytes
    returncode: int
    """As of `minitango-student`: the exit status, 128 and the signal, 124 of a limit of time, 125 of any other."""
    limit: str = ""
    """Which limit ended it: wall, cpu, memory, output; empty: none."""
    refused: str = ""
    """Why it was not run; empty: it was."""
    files: tuple[File, ...] = ()
    """What was taken."""
    not_taken: tuple[tuple[str, str], ...] = ()
    """What was to be taken and could not be: a path, and why."""


def call(
    channel: Channel,
    command: Sequence[str],
    *,
    input: bytes = b"",
    time: float | None = None,
    give: Sequence[File] = (),
    take: Sequence[str] = (),
) -> Called:
    """Have this command run, with these files given, and wait for its end. RuntimeError where that never comes, as
    the caller's own box is over; BadCall where we are not understood."""
    said: dict[str, bytearray] = {"O": bytearray(), "e": bytearray()}
    taken: list[bytes] = []
    not_taken: list[tuple[str, str]] = []
    with contextlib.suppress(ChannelClosed):  # one that is refused is told so all the same
        frames.send(
            channel, "R", Request(tuple(command), time, tuple(file.path for file in give), tuple(take)).encode()
        )
        for file in give:
            frames.send_file(channel, "G", file)
        if input:
            frames.send(channel, "I", input)
        frames.send(channel, "E")
    for kind, data in frames.read(channel):
        if kind == "X":
            called = _called(Ending.decode(data), bytes(said["O"]), bytes(said["e"]), frames.taken(taken))
            return structs.replace(called, not_taken=tuple(not_taken))
        if kind == "T":
            taken.append(data)
        elif kind == "N":
            not_taken.append(frames.read_refused(data))
        else:
            said[kind] += data
    raise RuntimeError("the call was broken off")


def _called(ending: Ending, stdout: bytes, stderr: bytes, files: tuple[File, ...]) -> Called:
    match ending.how:
        case How.EXITED:
            return Called(stdout, stderr, ending.number, files=files)
        case How.SIGNALLED:
            return Called(stdout, stderr, 128 + ending.number, files=files)
        case How.LIMIT:
            limit = ending.text.partition(" ")[0]
            return Called(stdout, stderr, LATE if limit in ("wall", "cpu") else REFUSED, limit=limit)
        case How.NOT_EXECUTED:
            return Called(stdout, stderr, 127 if ending.number == errno.ENOENT else 126)
        case How.REFUSED | How.MISUSED:
            return Called(stdout, stderr, REFUSED, refused=ending.text)
