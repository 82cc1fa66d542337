"""What a program in a box and we say to each other on a channel, when student code is to be run beside it: frames.

Either way a frame is a byte for its kind, a big-endian u32 for its length, of at most MAX_FRAME, and so many bytes. Of
the program that calls ('minitango-student', or its likes in Python):

    R  what is to be run: a list of options (`time=SECONDS`, `give=NAME`, `take=PATTERN`), a list of words
    B  in place of it: what was asked for that no call can be, in words
    G  files that are given: a name, pieces of it, and an empty one at its end; as many as `give` announced
    I  standard input   E  standard input is at its end

and to it: O standard output, e standard error, T files that were taken (a name, then pieces, then an empty one), N one
that was not (a name, then why), X how it ended, which is the last. The program that starts the student's, in its box,
is sent R without options, I and E; it sends O, e, and F with an errno, where the command could not be executed.

A list is a u32 for how many there are, and each a u32 for its length, and its bytes. All that is read is hostile.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Final

from msgspec import Struct

from minitango.archive import File, check_path
from minitango.errors import ArchiveError
from minitango.sandbox import Channel

MAX_FRAME: Final = 65_536
"""Bytes that a frame carries at most; what is longer goes in pieces."""
MAX_WORDS: Final = 4096
MAX_OPTIONS: Final = 600
MAX_FILES: Final = 500
"""Files that one call may give, and take."""
MAX_BYTES: Final = 8 << 20
"""Bytes of the files that one call may give, and take."""
MAX_REASON: Final = 500
_HEAD: Final = struct.Struct(">BI")
_U32: Final = struct.Struct(">I")
_END: Final = struct.Struct(">BI")


class BadCall(Exception):
    """What came is not what is spoken here. The text is for whoever wrote the grader."""


class Misuse(BadCall):
    """What was asked for can never be had, whatever the hand-in is: the grader has a mistake."""


class How(IntEnum):
    """How a call ended."""

    EXITED = 0
    SIGNALLED = 1
    LIMIT = 2
    NOT_EXECUTED = 3
    REFUSED = 4
    MISUSED = 5


class Ending(Struct, frozen=True):
    """The end of a call: its exit status, signal or errno, and of a limit which and how much that is, of a refusal, and
    of a mistake of the grader's, why."""

    how: How
    number: int = 0
    text: str = ""

    def encode(self) -> bytes:
        """As the X frame has it."""
        return _END.pack(self.how, self.number & 0xFFFFFFFF) + self.text.encode("utf-8", "replace")[: 4 * MAX_REASON]

    @classmethod
    def decode(cls, data: bytes) -> Ending:
        """BadCall."""
        if len(data) < _END.size:
            raise BadCall("the end of a call is cut off")
        how, number = _END.unpack_from(data)
        try:
            return cls(How(how), number, data[_END.size :].decode("utf-8", "replace"))
        except ValueError as error:
            raise BadCall(f"a call cannot end with {how}") from error


class Request(Struct, frozen=True):
    """What is to be run, and what goes in and out."""

    words: tuple[str, ...]
    """Bytes that are no UTF-8 are surrogates, as the system's own calls have them."""
    time: float | None = None
    """Seconds; None: what the step allows."""
    give: tuple[str, ...] = ()
    """Clean paths, each once."""
    take: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """As the R frame has it. ValueError where it has no room."""
        options = [f"time={self.time!r}"] if self.time is not None else []
        options += [f"give={name}" for name in self.give] + [f"take={pattern}" for pattern in self.take]
        data = _list(os.fsencode(option) for option in options) + _list(os.fsencode(word) for word in self.words)
        if len(data) > MAX_FRAME:
            raise ValueError("the command is too long for a call")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """Misuse, where anything in it is not as it must be."""
        try:
            return cls._decode(data)
        except BadCall as error:
            raise Misuse(str(error)) from error

    @classmethod
    def _decode(cls, data: bytes) -> Request:
        options, at = _read_list(data, 0, MAX_OPTIONS)
        words, at = _read_list(data, at, MAX_WORDS)
        if at != len(data):
            raise BadCall("the request is longer than it says")
        if not words or not words[0] or any(b"\0" in word for word in words):
            raise BadCall("no command is named" if not words or not words[0] else "the command has a zero byte")
        time: float | None = None
        give: list[str] = []
        take: list[str] = []
        for option in options:
            name, _, value = option.decode("utf-8", "replace").partition("=")
            if name == "time" and time is None:
                time = _seconds(value)
            elif name == "give":
                give.append(_clean(value))
            elif name == "take":
                take.append(_clean(value.removesuffix("/")) + "/" * value.endswith("/"))
            else:
                raise BadCall(f"there is no option {name[:40]!r}, or it is there twice")
        if len(give) > MAX_FILES or len(set(give)) != len(give):
            raise BadCall(f"more than {MAX_FILES} files are given, or one twice")
        return cls(tuple(os.fsdecode(word) for word in words), time, tuple(give), tuple(take))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError as error:
        raise BadCall(f"{text[:40]!r} is not a number of seconds") from error
    if not math.isfinite(seconds) or seconds <= 0:
        raise BadCall(f"{text[:40]!r} is not a number of seconds above 0")
    return seconds


def _clean(path: str) -> str:
    try:
        return check_path(path)
    except ArchiveError as error:
        raise BadCall(error.message) from error


def _list(words: Iterable[bytes]) -> bytes:
    each = list(words)
    return _U32.pack(len(each)) + b"".join(_U32.pack(len(word)) + word for word in each)


def _read_list(data: bytes, at: int, most: int) -> tuple[list[bytes], int]:
    count, at = _number(data, at)
    if count > most:
        raise BadCall(f"a list has {count} entries, and may have {most}")
    words: list[bytes] = []
    for _ in range(count):
        size, at = _number(data, at)
        if size > len(data) - at:
            raise BadCall("the request is cut off")
        words.append(data[at : at + size])
        at += size
    return words, at


def _number(data: bytes, at: int) -> tuple[int, int]:
    if len(data) - at < _U32.size:
        raise BadCall("the request is cut off")
    return _U32.unpack_from(data, at)[0], at + _U32.size


# --- frames over a channel ----------------------------------------------------------------------


def send(channel: Channel, kind: str, data: bytes = b"") -> None:
    """Send these bytes, in as many frames as it takes; none is one empty frame. ChannelClosed."""
    for at in range(0, max(1, len(data)), MAX_FRAME):
        piece = data[at : at + MAX_FRAME]
        channel.send(_HEAD.pack(ord(kind), len(piece)) + piece)


def send_file(channel: Channel, kind: str, file: File) -> None:
    """Send a file's name and bytes. ChannelClosed."""
    name = file.path.encode("utf-8", "surrogateescape")
    send(channel, kind, _U32.pack(len(name)) + name if kind == "T" else name)
    if file.data:
        send(channel, kind, file.data)
    send(channel, kind)


def send_refused(channel: Channel, path: str, reason: str) -> None:
    """Send why a file was not taken. ChannelClosed."""
    name = path.encode("utf-8", "surrogateescape")
    send(channel, "N", _U32.pack(len(name)) + name + reason.encode("utf-8", "replace")[: 4 * MAX_REASON])


def read_refused(data: bytes) -> tuple[str, str]:
    """The file that was not taken, and why. BadCall."""
    size, begin = _number(data, 0)
    if size > len(data) - begin:
        raise BadCall("the name of a file that was not taken is cut off")
    name = data[begin : begin + size].decode("utf-8", "surrogateescape")
    return name, data[begin + size :].decode("utf-8", "replace")


def read(channel: Channel) -> Iterator[tuple[str, bytes]]:
    """What comes over a channel, until its end. BadCall for a frame that is too long, or cut off."""
    held = bytearray()
    while True:
        while len(held) >= _HEAD.size:
            kind, size = _HEAD.unpack_from(held)
            if size > MAX_FRAME:
                raise BadCall(f"a frame has {size} bytes, and may have {MAX_FRAME}")
            if len(held) < _HEAD.size + size:
                break
            data = bytes(held[_HEAD.size : _HEAD.size + size])
            del held[: _HEAD.size + size]
            yield chr(kind), data
        more = channel.recv()
        if not more:
            if held:
                raise BadCall("a frame is cut off")
            return
        held += more


def request(incoming: Iterator[tuple[str, bytes]]) -> tuple[Request, tuple[File, ...]] | None:
    """The request that a channel begins with, and the files that it gives. None: it ended before; BadCall, Misuse."""
    first = next(incoming, None)
    if first is None:
        return None
    if first[0] == "B":
        raise Misuse(first[1].decode("utf-8", "replace"))
    if first[0] != "R":
        raise BadCall("a call begins with a request")
    asked = Request.decode(first[1])
    return asked, _given(incoming, asked.give)


def _given(incoming: Iterator[tuple[str, bytes]], names: Sequence[str]) -> tuple[File, ...]:
    files: list[File] = []
    total = 0
    for name in names:
        if next(incoming, None) != ("G", name.encode()):
            raise BadCall(f"the file {name!r} does not follow")
        data = bytearray()
        for kind, piece in incoming:
            if kind != "G":
                raise BadCall(f"the file {name!r} is cut off")
            if not piece:
                break
            data += piece
            total += len(piece)
            if total > MAX_BYTES:
                raise BadCall(f"more than {MAX_BYTES >> 20} MiB of files are given")
        else:
            raise BadCall(f"the file {name!r} is cut off")
        files.append(File(name, bytes(data)))
    return tuple(files)


def taken(sent: Sequence[bytes]) -> tuple[File, ...]:
    """The files of these T frames. BadCall."""
    files: list[File] = []
    at = iter(sent)
    for first in at:
        size, begin = _number(first, 0)
        if size != len(first) - begin:
            raise BadCall("the name of a file that was taken is cut off")
        files.append(File(_clean(first[begin:].decode("utf-8", "surrogateescape")), b"".join(iter(at.__next__, b""))))
    return tuple(files)
