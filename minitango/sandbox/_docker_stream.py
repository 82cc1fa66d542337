"""A long answer of a Docker engine (a pull, a build), message by message.

It is read by a thread of its own, so that whoever waits for it can ask meanwhile whether the engine is still there, and
can leave: the connection is cut then, which ends the thread, whatever the engine does.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from minitango import threads
from minitango.errors import SandboxFailed, SandboxUnavailable
from minitango.sandbox._docker_engine import Engine, cut
from minitango.text import one_line

SILENCE: Final = 600.0
"""Seconds for which a living engine may say nothing: a step of a build can be long, and print nothing."""
_POLL: Final = 0.25
_MOST: Final = 1 << 20
"""Bytes in one message."""
_AHEAD: Final = 256
"""Pieces that are read before they are asked for."""


class Silent(Exception):
    """The engine lives, and yet nothing came for too long."""


class Progress(Struct, frozen=True):
    """Bytes of one layer."""

    current: int | None = None
    total: int | None = None


class Message(Struct, frozen=True):
    """What an engine says while it pulls or builds. Untrusted text; what is not there is None."""

    status: str | None = None
    id: str | None = None
    stream: str | None = None
    """What a build prints, in pieces of any length."""
    error: str | None = None
    progress: Progress | None = msgspec.field(default=None, name="progressDetail")


_decoder: Final = msgspec.json.Decoder(Message)


def follow(
    engine: Engine,
    begin: Callable[[Any], Iterable[Any]],
    *,
    closed: threading.Event,
    silence: float = SILENCE,
) -> Iterator[Message]:
    """The messages of the answer that `begin` starts. What is no message is left out.

    Raises as `Engine.call`; also where the engine does not answer a ping while nothing comes. Silent after `silence`
    seconds in which it does; SandboxFailed once `closed` is set.
    """
    pieces: queue.Queue[bytes | Exception | None] = queue.Queue(_AHEAD)
    left = threading.Event()
    clients: list[Any] = []
    threads.begin("docker stream", _read, engine, begin, pieces, left, clients)
    try:
        yield from messages(_pieces(engine, pieces, closed, silence))
    finally:
        left.set()
        for client in clients:
            cut(client)


def messages(pieces: Iterable[bytes]) -> Iterator[Message]:
    """The messages in an answer, a line each. What is no message is left out; SandboxFailed for one without end."""
    for line in _lines(pieces):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield _decoder.decode(line)


def _read(
    engine: Engine,
    begin: Callable[[Any], Iterable[Any]],
    pieces: queue.Queue[bytes | Exception | None],
    left: threading.Event,
    clients: list[Any],
) -> None:
    """Fill the queue: pieces, then None, or the error that ended it. `clients` gets the one that it is read with."""

    def copy(api: Any) -> None:
        clients.append(api)
        if left.is_set():  # before it could be cut
            return
        for piece in begin(api):
            if not _put(pieces, piece.encode() if isinstance(piece, str) else piece, left):
                return

    end: Exception | None = None
    try:
        engine.call(copy, patience=math.inf)
    except Exception as error:  # for whoever waits, to be raised there
        end = error
    _put(pieces, end, left)
    engine.drop()


def _put(pieces: queue.Queue[bytes | Exception | None], piece: bytes | Exception | None, left: threading.Event) -> bool:
    """False where nobody waits for it any more."""
    while not left.is_set():
        with contextlib.suppress(queue.Full):
            pieces.put(piece, timeout=_POLL)
            return True
    return False


def _pieces(
    engine: Engine, pieces: queue.Queue[bytes | Exception | None], closed: threading.Event, silence: float
) -> Iterator[bytes]:
    heard = asked = time.monotonic()
    while True:
        if closed.is_set():
            raise SandboxFailed("the sandbox is closed")
        try:
            piece = pieces.get(timeout=_POLL)
        except queue.Empty:
            now = time.monotonic()
            if now - heard >= silence:
                raise Silent from None
            if now - max(heard, asked) >= engine.patience:
                engine.call(lambda api: api.ping(), again=True)
                asked = time.monotonic()
            continue
        if piece is None:
            return
        if isinstance(piece, Exception):
            raise piece
        heard = time.monotonic()
        yield piece


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = bytearray()  # what a line has so far, of however many pieces: each byte is copied once
    for piece in pieces:
        first, *lines = piece.split(b"\n")
        rest += first
        if lines:
            yield bytes(rest)
            *whole, last = lines
            yield from whole
            rest = bytearray(last)
        if len(rest) > _MOST:
            raise SandboxFailed(f"the Docker engine sent a message of more than {_MOST} bytes")
    if rest:
        yield bytes(rest)


def check_disk(engine: Engine, said: str) -> None:
    """SandboxUnavailable where an engine's word is that its disk is full."""
    if "no space left on device" in said:
        raise SandboxUnavailable(
            f"{engine}: {one_line(said, 300)}",
            hint="make room on its disk, for example: docker system prune",
            id="sandbox_disk_full",
        )


class Teller:
    """Passes on what is said of one piece of work, at most twice a second, safe on one line."""

    PAUSE: Final = 0.5

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._next = 0.0

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self.PAUSE
            self._tell(one_line(text, 120))
