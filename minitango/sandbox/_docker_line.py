"""The line to the supervisor in a container: frames over the attached stream, each wait with its deadline."""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from minitango.sandbox._frames import BadFrame, Frame, Reader

_READ: Final = 256 << 10
_GATHER: Final = 256 << 10
"""Bytes of frames that are sent together."""
_LOOK: Final = 1.0
"""Seconds between looks at the bell, where nothing is taken."""
_POLL: Final = 0.05
"""Seconds between looks at the bell, where a stream cannot be selected."""
_HEADER: Final = struct.Struct("!BxxxI")
_MOST: Final = 1 << 20
"""Bytes in one piece of the stream: engines send 32 KiB."""
_STDOUT: Final = 1
_STDERR: Final = 2
_SAID: Final = 4096
_NOT_NOW: Final = (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
HURRY: Final = 4.0
"""Seconds that the far end may be silent once somebody wants the end: it has little more to do than to say so."""


class LineLost(Exception):
    """The stream ended, or nothing of sense comes from it any more."""


class LineSilent(Exception):
    """Nothing came, or nothing was taken, within the time allowed."""


class _Stream(Protocol):
    def recv(self, most: int, /) -> bytes: ...
    def send(self, data: Any, /) -> int: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def close(self) -> None: ...


class Bell:
    """Wakes whoever waits on a line, from any thread."""

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        self.rung = False

    def ring(self) -> None:
        self.rung = True
        with contextlib.suppress(OSError):
            self._far.send(b"!")

    def wake(self) -> None:
        """As `ring`, for another reason: it is not noted."""
        with contextlib.suppress(OSError):
            self._far.send(b".")

    def fileno(self) -> int:
        return self._near.fileno()

    def quiet(self) -> None:
        """Nobody needs to be woken again; `rung` stays."""
        with contextlib.suppress(OSError):
            self._near.recv(64)

    def close(self) -> None:
        self._near.close()
        self._far.close()


class Line:
    """Used by one thread, but for `post`. What the container writes comes in Docker's own frames (no terminal)."""

    def __init__(self, attached: Any, bell: Bell, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`attached` is what the SDK's `attach_socket` gave: this object's to close."""
        self._attached = attached  # with it goes the SDK's response, and with that a TLS stream
        self._stream: _Stream = _own(attached)
        self._bell = bell
        self._clock = clock
        self._selectable = isinstance(self._stream, socket.socket)
        self._stream.settimeout(0.0 if self._selectable else _POLL)
        self._raw = bytearray()
        self._reader = Reader()
        self._ready: deque[Frame] = deque()
        self._posted: deque[bytes] = deque()
        self._leaving = memoryview(b"")
        """Of what was posted, what is being sent: nothing may come in between."""
        self.said = b""
        """What came on stderr, where only a container that does not work says anything; bounded."""

    def post(self, frame: bytes) -> None:
        """Have a frame sent by the thread that waits in `next`, while that listens to the bell. From any thread, and
        without a wait: whoever posts sees to it that this is not much."""
        self._posted.append(frame)
        self._bell.wake()

    def send(self, frames: Iterable[bytes], patience: float) -> None:
        """Send these frames, before what was posted and has not begun to go. LineLost; LineSilent where none was taken
        for `patience` seconds, or HURRY where the bell was rung."""
        gathered = bytearray(self._leaving)
        self._leaving = memoryview(b"")
        for frame in frames:
            gathered += frame
            if len(gathered) >= _GATHER:
                self._send(gathered, patience)
                gathered = bytearray()
        if gathered:
            self._send(gathered, patience)

    def _send(self, data: bytearray, patience: float) -> None:
        left = memoryview(data)
        taken = self._clock()
        while left:
            try:
                left = left[self._stream.send(left) :]
                taken = self._clock()
            except _NOT_NOW as error:
                most = min(patience, HURRY) if self._bell.rung else patience
                rest = taken + most - self._clock()
                if rest < 0:
                    raise LineSilent("nothing is taken") from error
                if self._selectable:
                    _wait_for(min(rest, _LOOK), {self._stream: selectors.EVENT_WRITE})
            except OSError as error:
                raise LineLost(str(error)) from error

    def _take_posted(self) -> Iterator[bytes]:
        size = 0
        while self._posted and size < _GATHER:
            yield self._posted[0]
            size += len(self._posted.popleft())

    def _send_posted(self) -> None:
        """As much of what was posted as is taken at once."""
        while self._leaving or self._posted:
            if not self._leaving:
                self._leaving = memoryview(b"".join(self._take_posted()))
            try:
                self._leaving = self._leaving[self._stream.send(self._leaving) :]
            except _NOT_NOW:
                return
            except OSError as error:
                raise LineLost(str(error)) from error

    def answer(self, patience: float) -> Frame | None:
        """The next frame; None after `patience` seconds, or HURRY after the bell was rung."""
        frame = self.next(patience, bell=not self._bell.rung)
        if frame is None and self._bell.rung:
            frame = self.next(min(patience, HURRY))
        return frame

    def next(self, timeout: float, *, bell: bool = False) -> Frame | None:
        """The next frame; None after `timeout` seconds, or where the bell was rung and `bell` says to listen to it."""
        deadline = self._clock() + timeout
        while not self._ready:
            if bell and self._bell.rung:
                self._bell.quiet()
                return None
            left = deadline - self._clock()
            if left <= 0:
                return None
            self._wait(left, bell=bell)
        return self._ready.popleft()

    def _wait(self, seconds: float, *, bell: bool) -> None:
        self._send_posted()
        if self._selectable and not self._decrypted():
            events = {self._stream: selectors.EVENT_READ | (selectors.EVENT_WRITE if self._leaving else 0)}
            ready = _wait_for(seconds, {**events, self._bell: selectors.EVENT_READ} if bell else events)
            if self._bell in ready and not self._bell.rung:
                self._bell.quiet()
            if not ready.get(self._stream, 0) & selectors.EVENT_READ:
                return
        try:
            data = self._stream.recv(_READ)
        except _NOT_NOW:
            return
        except OSError as error:
            raise LineLost(str(error)) from error
        if not data:
            raise LineLost("the container's stream ended")
        try:
            self._take(data)
        except BadFrame as error:
            raise LineLost(f"what the container says makes no sense: {error}") from error

    def _decrypted(self) -> int:
        """Bytes that the socket itself does not have any more."""
        return self._stream.pending() if isinstance(self._stream, ssl.SSLSocket) else 0

    def _take(self, data: bytes) -> None:
        self._raw += data
        at = 0
        while len(self._raw) - at >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._raw, at)
            if kind not in (_STDOUT, _STDERR):
                raise BadFrame(f"a stream {kind}")
            end = at + _HEADER.size + length
            if length > _MOST:
                raise BadFrame(f"a piece of {length} bytes")
            if len(self._raw) < end:
                break
            piece = bytes(self._raw[at + _HEADER.size : end])
            at = end
            if kind == _STDOUT:
                self._ready.extend(self._reader.feed(piece))
            else:
                self.said = (self.said + piece)[-_SAID:]
        del self._raw[:at]

    def close(self) -> None:
        """Hang up: the supervisor takes that for the end of the engine. Idempotent."""
        with contextlib.suppress(OSError):
            if isinstance(self._stream, socket.socket):
                self._stream.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._stream.close()
        if self._attached is not self._stream:
            self._attached.close()  # a TLS stream of the SDK's stays open as long as that is


def _own(attached: Any) -> Any:
    """A plain socket of our own, where the SDK's belongs to a response that closes it when it is collected."""
    inner = getattr(attached, "_sock", None)
    if not isinstance(attached, socket.SocketIO) or not isinstance(inner, socket.socket):
        return attached
    if isinstance(inner, ssl.SSLSocket):
        return inner
    with attached:
        return socket.socket(inner.family, inner.type, inner.proto, inner.detach())


_Selector: Final = selectors.PollSelector if hasattr(select, "poll") else selectors.SelectSelector
"""select() knows no descriptor above 1023."""


def _wait_for(seconds: float, events: Mapping[Any, int]) -> dict[Any, int]:
    """Those that are ready within this time, and for what."""
    with _Selector() as selector:
        for stream, event in events.items():
            selector.register(stream, event)
        return {key.fileobj: event for key, event in selector.select(max(0.0, seconds))}
