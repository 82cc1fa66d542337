"""Channels of a box on this machine: the connections to a socket of ours that is bound into it.

A connection is a plain stream socket, whose memory is the kernel's and bounded by it. Open files that the job sends are
never taken: to close the last descriptor of one may take as long as the job likes (a TCP socket that lingers).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from minitango.sandbox._helper import FLURRY, FLURRY_TIME, RUSH, SMALL, SOCKET
from minitango.sandbox._host import close_by_exit
from minitango.sandbox.contract import CHANNELS, Calls, ChannelClosed

_SECOND: Final = 1.0


class SocketChannel:
    """A `Channel`."""

    def __init__(self, connection: socket.socket, closed: Callable[[SocketChannel], None]) -> None:
        self._socket = connection
        self._told = closed
        self._lock = threading.Lock()
        self._users = 0
        """Threads in a call on the socket: its number must not be another's meanwhile."""
        self._closed = False
        self._flurry = (0.0, 0)
        """When the time began in which small pieces are counted, and how many came in it."""

    def recv(self, most: int = 65536) -> bytes:
        """See `Channel.recv`."""
        with self._using() as usable:
            if usable:
                with contextlib.suppress(OSError):  # the other side is gone, and left what we sent unread
                    data = _take(self._socket, most)
                    if data is None:
                        self._socket.shutdown(socket.SHUT_RD)
                    elif data:
                        self._rest(len(data))
                    return data or b""
        return b""

    def _rest(self, size: int) -> None:
        """Where many small pieces came, let the next ones gather."""
        if size >= SMALL:
            return
        now = time.monotonic()
        began, count = self._flurry
        self._flurry = (began, count + 1) if now < began + FLURRY_TIME else (now, 1)
        if self._flurry[1] >= FLURRY:
            time.sleep(max(0.0, self._flurry[0] + FLURRY_TIME - now))

    def send(self, data: bytes) -> None:
        """See `Channel.send`."""
        with self._using() as usable:
            if not usable:
                raise ChannelClosed("the channel is closed")
            try:
                self._socket.sendall(data, socket.MSG_NOSIGNAL)
            except OSError as error:
                raise ChannelClosed(f"nobody takes it any more: {error.strerror}") from error

    def shutdown(self) -> None:
        """See `Channel.shutdown`."""
        self._shut(socket.SHUT_WR)

    def end(self) -> None:
        """The box is over: what came is still to be had, and nobody waits any more."""
        self._shut(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `Channel.close`."""
        self._shut(socket.SHUT_RDWR)
        with self._lock:
            first, self._closed = not self._closed, True
            last = first and not self._users
        if last:
            _discard(self._socket)
        if first:
            self._told(self)

    def _shut(self, how: int) -> None:
        with self._using() as usable:
            if usable:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(how)

    @contextlib.contextmanager
    def _using(self) -> Iterator[bool]:
        """Keeps the socket open. Whether it is."""
        with self._lock:
            usable = not self._closed
            self._users += usable
        try:
            yield usable
        finally:
            with self._lock:
                self._users -= usable
                last = usable and self._closed and not self._users
            if last:
                _discard(self._socket)


class Listener:
    """The socket of one box, and its connections. Used by the thread that runs the box."""

    def __init__(self, directory: int) -> None:
        """Make it in this directory, for any user to connect to. OSError where that cannot be."""
        self._calls: Calls | None = None
        self._lock = threading.Lock()
        self._channels: set[SocketChannel] = set()
        self._taken: tuple[float, int] = (0.0, 0)
        """When the second began that is counted, and how many came in it."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.setblocking(False)
            self._socket.bind(f"/proc/self/fd/{directory}/{SOCKET}")  # the path itself may be too long for an address
            os.chmod(SOCKET, 0o666, dir_fd=directory)  # noqa: S103  # the box is another user
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def listen(self, calls: Calls | None) -> None:
        """From now on connections are taken."""
        self._calls = calls
        self._socket.listen(CHANNELS)

    def take(self) -> float:
        """Take one connection, if there is one. Seconds for which the next is to be left waiting."""
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return 0.0
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # else it would be skipped, with its files
        with self._lock:
            welcome = self._calls is not None and len(self._channels) < CHANNELS
            if welcome:
                connection.setblocking(True)  # whatever the default of this process is
                channel = SocketChannel(connection, self._forget)
                self._channels.add(channel)
        if welcome and self._calls is not None:
            self._calls(channel)
        else:
            _discard(connection)
        now = time.monotonic()
        began, count = self._taken
        self._taken = (began, count + 1) if now < began + _SECOND else (now, 1)
        return max(0.0, self._taken[0] + _SECOND - now) if self._taken[1] >= RUSH else 0.0

    def end(self) -> None:
        """The run is over: nothing connects any more, and every channel is at its end."""
        self._deafen()
        for channel in self._now():
            channel.end()

    def close(self) -> None:
        """Close all of it."""
        self._deafen()
        for channel in self._now():
            channel.close()

    def _deafen(self) -> None:
        for _ in range(2 * CHANNELS):  # who still waits, more than can
            try:
                _discard(self._socket.accept()[0])
            except OSError:
                break
        self._socket.close()

    def _now(self) -> list[SocketChannel]:
        with self._lock:
            return list(self._channels)

    def _forget(self, channel: SocketChannel) -> None:
        with self._lock:
            self._channels.discard(channel)


def _take(connection: socket.socket, most: int, flags: int = 0) -> bytes | None:
    """As `recv`. None where open files come along: they stay in the socket."""
    data, _, found, _ = connection.recvmsg(most, 0, socket.MSG_PEEK | flags)
    if found & socket.MSG_CTRUNC and data:
        return None
    return connection.recv(len(data), flags) if data else b""


def _discard(connection: socket.socket) -> None:
    """Close it, and what the job may have left in it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    loaded = False
    with contextlib.suppress(OSError):
        while data := _take(connection, 1 << 16, socket.MSG_DONTWAIT):
            pass  # it is bounded: nothing comes any more
        loaded = data is None
    if loaded:
        close_by_exit(connection)
    else:
        connection.close()
