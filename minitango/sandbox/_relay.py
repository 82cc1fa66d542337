"""Channels of a box in a container: the frames in which its supervisor relays them, and the flow of each.

The supervisor says what its job sends, and takes what is for it, in windows: neither side ever holds more of a channel
than one, whoever does not read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from minitango.sandbox import _frames
from minitango.sandbox._frames import BadFrame, Frame
from minitango.sandbox.contract import CHANNELS, Calls, ChannelClosed

_FEW: Final = _frames.WINDOW // 4
"""Bytes that were taken: so many are told at once."""


class RelayedChannel:
    """A `Channel`. `post` sends a frame, from any thread, and holds what is not yet on its way."""

    def __init__(self, number: int, post: Callable[[bytes], None], closed: Callable[[int], None]) -> None:
        self._number = number
        self._post = post
        self._told = closed
        self._changed = threading.Condition()
        self._held = bytearray()
        self._unread = 0
        """Bytes that came, of which the other side does not know that they were read."""
        self._read = 0
        """Of these, what was read."""
        self._credit = _frames.WINDOW
        self._ended = False
        """Nothing more comes."""
        self._gone = False
        """Nobody takes any more."""
        self._shut = False
        self._over = False
        self._closed = False

    # --- for whoever uses it ------------------------------------------------------------------------

    def recv(self, most: int = 65536) -> bytes:
        """See `Channel.recv`."""
        with self._changed:
            while not (self._held or self._ended or self._closed):
                self._changed.wait()
            if self._closed or not self._held:
                return b""
            data = bytes(self._held[:most])
            del self._held[:most]
            self._read += len(data)
            if self._read >= _FEW and not self._ended:
                self._post(_frames.credit(self._number, self._read))
                self._unread -= self._read
                self._read = 0
            return data

    def send(self, data: bytes) -> None:
        """See `Channel.send`."""
        left = memoryview(data)
        while left:
            with self._changed:
                while not (self._credit or self._is_deaf()):
                    self._changed.wait()
                if self._is_deaf():
                    raise ChannelClosed("nobody takes it any more")
                piece = left[: min(self._credit, _frames.CHANNEL_PIECE)]
                self._credit -= len(piece)
                self._post(_frames.channel_data(self._number, piece))
            left = left[len(piece) :]

    def _is_deaf(self) -> bool:
        return self._gone or self._shut or self._over or self._closed

    def shutdown(self) -> None:
        """See `Channel.shutdown`."""
        with self._changed:
            if not self._is_deaf():
                self._post(_frames.channel_end(self._number))
            self._shut = True
            self._changed.notify_all()

    def close(self) -> None:
        """See `Channel.close`."""
        with self._changed:
            first, self._closed = not self._closed, True
            self._held.clear()
            if first and not self._over:
                self._post(_frames.channel_close(self._number))
            self._changed.notify_all()
        if first:
            self._told(self._number)

    # --- for the thread that hears the supervisor ---------------------------------------------------

    def came(self, data: bytes) -> None:
        """Bytes of the job's. BadFrame where they are more than it may send."""
        with self._changed:
            if self._closed:
                return
            self._unread += len(data)
            if self._ended or self._unread > _frames.WINDOW + _frames.REST:
                raise BadFrame("more on a channel than it may send")
            self._held += data
            self._changed.notify_all()

    def taken(self, size: int) -> None:
        """The job took so much. BadFrame where it was not sent so much."""
        with self._changed:
            self._credit += size
            if self._credit > _frames.WINDOW:
                raise BadFrame("more of a channel was taken than was sent")
            self._changed.notify_all()

    def end(self, *, hearing: bool = False, saying: bool = False, over: bool = False) -> None:
        """Nothing more comes; nobody takes any more; the box is over."""
        with self._changed:
            self._ended = self._ended or hearing or over
            self._gone = self._gone or saying
            self._over = self._over or over
            self._changed.notify_all()


class Relay:
    """The channels of one run. Frames come from the thread that runs the box."""

    def __init__(self, calls: Calls | None, post: Callable[[bytes], None]) -> None:
        self._calls = calls
        self._post = post
        self._lock = threading.Lock()
        self._channels: dict[int, RelayedChannel] = {}
        self._last = 0

    def take(self, frame: Frame) -> None:
        """One frame of a channel's. BadFrame where it makes no sense. What `calls` raises goes through."""
        number, body = _frames.of_channel(frame.kind, frame.body)
        if frame.kind == "a":
            self._open(number)
            return
        if not 0 < number <= self._last:
            raise BadFrame("a frame of no channel")
        with self._lock:
            channel = self._channels.get(number)
        if channel is None:
            return  # it was on its way when we closed it
        if frame.kind == "c":
            channel.came(body)
        elif frame.kind == "w":
            channel.taken(int.from_bytes(body, "big"))
        else:
            channel.end(hearing=frame.kind == "f", saying=frame.kind == "g")

    def _open(self, number: int) -> None:
        if number != self._last + 1:
            raise BadFrame("a channel out of order")
        self._last = number
        channel = RelayedChannel(number, self._post, self._forget)
        with self._lock:
            if len(self._channels) >= CHANNELS:
                raise BadFrame("more channels than there may be")
            self._channels[number] = channel
        if self._calls is None:
            channel.close()
        else:
            self._calls(channel)

    def _forget(self, number: int) -> None:
        with self._lock:
            self._channels.pop(number, None)

    def end(self) -> None:
        """The run is over: every channel is at its end."""
        for channel in self._now():
            channel.end(over=True)

    def close(self) -> None:
        """Close all of it, after its end."""
        for channel in self._now():
            channel.close()

    def _now(self) -> list[RelayedChannel]:
        with self._lock:
            return list(self._channels.values())
