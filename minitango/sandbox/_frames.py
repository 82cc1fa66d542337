"""What the engine and the supervisor in a container say to each other: `supervisor/PROTOCOL.md`, version 2.

What comes from the container is hostile until parsed: every frame is bounded, and what does not fit raises `BadFrame`.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from minitango.archive import File

VERSION: Final = 2
PIECE: Final = 64 << 10
"""Bytes that a frame of data or output holds at most."""
WINDOW: Final = 128 << 10
"""Bytes of a channel that are on their way, in each direction."""
REST: Final = 256 << 10
"""Bytes that may come beyond that at the end of the run."""
CHANNEL_PIECE: Final = PIECE - 4
"""Bytes of a channel that a frame holds at most."""
MAX_PATH: Final = 4096
"""Bytes of a path below a mount."""
MAX_COMMAND: Final = 8 << 20
"""Bytes of argv and environment together; the kernel's own limit is lower."""

_HEADER: Final = struct.Struct("!BI")
_FILE: Final = struct.Struct("!HBQ")
_RUN: Final = struct.Struct("!HQQQ")
_LIMIT: Final = struct.Struct("!IQ")
_INSTRUCTION_HERE: Final = struct.Struct("=HBBI")
_INSTRUCTION_THERE: Final = struct.Struct("!HBBI")
_HELLO: Final = struct.Struct("!HIQQQQ")
_END: Final = struct.Struct("!BBIQQQQQIBB")
_ENTRY: Final = struct.Struct("!cBQQIH")
_EXECUTABLE: Final = 1
_LATE: Final = 2
_TYPES: Final = (b"f", b"d", b"l", b"p", b"s", b"c")
_NUMBER: Final = struct.Struct("!I")
_CREDIT: Final = struct.Struct("!II")
_NONE: Final = (1 << 64) - 1


class BadFrame(Exception):
    """What came is no frame of this protocol, or not one that belongs here."""


class Frame(Struct, frozen=True):
    """One frame as it came."""

    kind: str
    body: bytes


class Reader:
    """Takes bytes as they come, and gives whole frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. BadFrame: nothing more can be understood."""
        self._held += data
        at = 0
        try:
            while len(self._held) - at >= _HEADER.size:
                code, length = _HEADER.unpack_from(self._held, at)
                kind = chr(code)
                if kind not in "hyobxldeacfgw!" or length > PIECE:
                    raise BadFrame(f"a frame of kind {kind!r} and {length} bytes")
                end = at + _HEADER.size + length
                if len(self._held) < end:
                    break
                yield Frame(kind, bytes(self._held[at + _HEADER.size : end]))
                at = end
        finally:
            del self._held[:at]


# --- to the supervisor -------------------------------------------------------------------------------


def frame(kind: str, body: bytes = b"") -> bytes:
    return _HEADER.pack(ord(kind), len(body)) + body


def put(mount: int, files: Iterable[File]) -> Iterator[bytes]:
    """The frames that write these files. ValueError for an unsafe path."""
    for file in files:
        yield frame("P", _FILE.pack(mount, file.executable, len(file.data)) + encode_path(file.path))
        for at in range(0, len(file.data), PIECE):
            yield frame("D", file.data[at : at + PIECE])


def run(
    mount: int,
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    wall: float,
    cpu: float | None,
    output: int,
    rlimits: Mapping[int, int],
    filter: bytes,
) -> bytes:
    """The frame that starts a command; `wall` and `cpu` in seconds, `filter` as `build_filter` gives it.

    ValueError where it cannot be one: empty, a NUL, a variable's name with `=`, too long.
    """
    if not command or not command[0]:
        raise ValueError("the command is empty")
    for name in env:
        if not name or "=" in name:
            raise ValueError(f"{name!r} cannot name an environment variable")
    limits = b"".join(_LIMIT.pack(which, most) for which, most in rlimits.items())
    body = _RUN.pack(mount, _microseconds(wall), _microseconds(cpu or 0.0), min(output, _NONE))
    instructions = [_INSTRUCTION_THERE.pack(*one) for one in _INSTRUCTION_HERE.iter_unpack(filter)]
    body += struct.pack("!H", len(rlimits)) + limits + struct.pack("!H", len(instructions)) + b"".join(instructions)
    body += _words(command) + _words([f"{name}={value}" for name, value in env.items()])
    if len(body) > MAX_COMMAND:
        raise ValueError("the command and its environment are too long")
    return frame("R", body)


def list_directory(mount: int, path: str, most: int) -> bytes:
    return frame("L", struct.pack("!HI", mount, most) + (encode_path(path) if path else b""))


def look(mount: int, path: str) -> bytes:
    return frame("S", struct.pack("!H", mount) + encode_path(path))


def get(mount: int, path: str, most: int) -> bytes:
    return frame("G", struct.pack("!HQ", mount, most) + encode_path(path))


def lay(mount: int, directory: str) -> bytes:
    return frame("B", struct.pack("!H", mount) + directory.encode())


def channel_data(number: int, data: bytes | memoryview) -> bytes:
    return frame("C", _NUMBER.pack(number) + data)


def channel_end(number: int) -> bytes:
    return frame("F", _NUMBER.pack(number))


def channel_close(number: int) -> bytes:
    return frame("X", _NUMBER.pack(number))


def credit(number: int, size: int) -> bytes:
    """So many bytes of a channel were read."""
    return frame("W", _CREDIT.pack(number, size))


def encode_path(path: str) -> bytes:
    """A path below a mount. ValueError where it is unsafe, or too long."""
    if any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path:
        raise ValueError(f"unsafe path: {path!r}")
    encoded = path.encode("utf-8", "surrogateescape")
    if len(encoded) > MAX_PATH:
        raise ValueError(f"a path of more than {MAX_PATH} bytes: {path[:80]!r}...")
    return encoded


def _microseconds(seconds: float) -> int:
    return min(_NONE, round(seconds * 1e6))


def _words(words: Sequence[str]) -> bytes:
    encoded = [word.encode("utf-8", "surrogateescape") for word in words]
    if any(b"\0" in word for word in encoded):
        raise ValueError("a command and its environment cannot hold a NUL character")
    return struct.pack("!I", len(encoded)) + b"".join(struct.pack("!I", len(word)) + word for word in encoded)


# --- from the supervisor -----------------------------------------------------------------------------


class Hello(Struct, frozen=True):
    """What the supervisor sees of its container. Limits: None where they are not known, inf where there are none."""

    version: int
    loopback: bool
    other_interface: bool
    cgroup: int
    """Version of the control groups that the limits were read from; 0: none was there."""
    no_new_privileges: bool
    seccomp: bool
    memory: float | None
    pids: float | None
    cores: float | None
    capabilities: int


class Problem(Struct, frozen=True):
    """The first of what failed since the last time."""

    errno: int
    mount: int
    path: str


class Ended(Struct, frozen=True):
    """How a run ended. Times in seconds, sizes in bytes."""

    how: str
    """exited, wall, cpu, output or killed."""
    what: str
    """What `number` is: status, exec, fork, limit (an errno); or never (nothing)."""
    number: int
    wall: float
    cpu: float
    peak: int | None
    max_rss: int
    output_bytes: int
    oom_kills: int
    forks_refused: bool
    disk_full: bool


class Entry(Struct, frozen=True):
    """One entry of a directory."""

    name: str
    kind: str
    """f, d, l, p, s or c, as in the paper."""
    executable: bool
    late: bool
    """It was changed after the main process had ended."""
    size: int
    allocated: int
    links: int


_HOW: Final = ("exited", "wall", "cpu", "output", "killed")
_WHAT: Final = ("status", "exec", "fork", "limit", "never")


def hello(body: bytes) -> Hello:
    version, facts, memory, pids, millicores, capabilities = _unpack(_HELLO, body)
    return Hello(
        version=version,
        loopback=bool(facts & 1),
        other_interface=bool(facts & 2),
        cgroup=1 if facts & 4 else 2 if facts & 8 else 0,
        no_new_privileges=bool(facts & 16),
        seccomp=bool(facts & 32),
        memory=_limit(memory),
        pids=_limit(pids),
        cores=_limit(millicores, 1000),
        capabilities=capabilities,
    )


def problem(body: bytes) -> Problem | None:
    """None: nothing failed."""
    if len(body) < 6:
        raise BadFrame("an answer that is too short")
    errno, mount = struct.unpack_from("!IH", body)
    return Problem(errno, mount, body[6:].decode("utf-8", "backslashreplace")) if errno else None


def ended(body: bytes) -> Ended:
    how, what, number, wall, cpu, peak, rss, output, kills, refused, full = _unpack(_END, body)
    if how >= len(_HOW) or what >= len(_WHAT):
        raise BadFrame("an end of an unknown kind")
    return Ended(
        how=_HOW[how],
        what=_WHAT[what],
        number=number,
        wall=wall / 1e6,
        cpu=cpu / 1e6,
        peak=peak or None,
        max_rss=rss,
        output_bytes=output,
        oom_kills=kills,
        forks_refused=bool(refused),
        disk_full=bool(full),
    )


def entries(body: bytes) -> Iterator[Entry]:
    at = 0
    while at < len(body):
        if at + _ENTRY.size > len(body):
            raise BadFrame("an entry that is cut")
        kind, flags, size, allocated, links, length = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        name = body[at : at + length]
        if flags > _EXECUTABLE | _LATE or len(name) < length or kind not in _TYPES:
            raise BadFrame("an entry that is none")
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise BadFrame("an entry that is none")
        yield Entry(
            name=name.decode("utf-8", "surrogateescape"),
            kind=kind.decode(),
            executable=bool(flags & _EXECUTABLE),
            late=bool(flags & _LATE),
            size=size,
            allocated=allocated,
            links=links,
        )
        at += length


def answered(body: bytes) -> tuple[int, bool]:
    """The errno of an answer, and whether there was more than was asked for."""
    errno, more = _unpack(struct.Struct("!IB"), body)
    return errno, bool(more)


CHANNEL_KINDS: Final = "acfgw"


def of_channel(kind: str, body: bytes) -> tuple[int, bytes]:
    """The channel that a frame of CHANNEL_KINDS is about, and what is said of it."""
    if len(body) < _NUMBER.size or (kind in "afg" and len(body) > _NUMBER.size) or (kind == "w" and len(body) != 8):
        raise BadFrame(f"a frame {kind!r} of {len(body)} bytes")
    return _NUMBER.unpack_from(body)[0], body[_NUMBER.size :]


_ERRNO: Final = {
    11: "EAGAIN",
    35: "EDEADLK",
    36: "ENAMETOOLONG",
    38: "ENOSYS",
    39: "ENOTEMPTY",
    40: "ELOOP",
    122: "EDQUOT",
}
"""Linux's numbers that are others elsewhere."""


def local_errno(number: int) -> int:
    """What this system calls an error that Linux calls so."""
    found: int = getattr(errno, _ERRNO.get(number, ""), number)
    return found


def os_error(number: int) -> OSError:
    """The supervisor's errno as an exception."""
    local = local_errno(number)
    return OSError(local, os.strerror(local))


def _unpack(form: struct.Struct, body: bytes) -> tuple[int, ...]:
    if len(body) != form.size:
        raise BadFrame(f"a frame of {len(body)} bytes instead of {form.size}")
    return form.unpack(body)


def _limit(number: int, unit: int = 1) -> float | None:
    if number == 0:
        return None
    return float("inf") if number == _NONE else number / unit
