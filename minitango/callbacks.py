"""One delivery of a callback: the result of a job, as an HTTP POST to where its submitter wants it.

The address that is connected to is the one that was looked at: a name that leads elsewhere a moment later changes
nothing. Redirects are not followed, proxies not used, certificates verified. A call ends within its time, whatever the
other side does; of its answer only the status counts, and when it asks to be called again.
"""

from __future__ import annotations

import email.utils
import hashlib
import hmac
import http.client
import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from minitango import callback_url
from minitango.callback_url import Target
from minitango.errors import ConfigError
from minitango.job import Job, Result
from minitango.record import told

WITHIN: Final = 30.0
"""Seconds for a whole delivery, from the first packet to the status."""
CONNECT: Final = 10.0
"""Seconds for a connection to one address, with its TLS."""
_ADDRESSES: Final = 4
"""Addresses of a host that are tried."""
_GOODBYE: Final = 1.0
"""Seconds for the rest of an answer: it is not used, but its sender may want to get rid of it."""
_REST: Final = 64 << 10
_CHUNK: Final = 64 << 10
_LATER: Final = frozenset({408, 425, 429})
"""Statuses of a client's mistake that pass by themselves."""
_GONE: Final = frozenset({301, 308})
"""Redirects that are meant for good: the URL is wrong."""


class Verdict(Struct, frozen=True):
    """How a delivery went."""

    error: str = ""
    """What went wrong; empty: it was delivered."""
    again: bool = True
    """Whether it may go well another time."""
    asked: float | None = None
    """The seconds after which the receiver wants to be asked again, where it said so."""
    unreachable: bool = False
    """Whether the host was not reached at all, or did not answer in time."""


def body(job: Job, result: Result | None) -> bytes:
    """What is sent: `{"schema": 1, "job": {...}}`, a `record.Told`. The same bytes for the same job and result."""
    return json.dumps(msgspec.to_builtins(told(job, result))).encode()


def headers(job: str, data: bytes, secret: str = "") -> dict[str, str]:
    """The headers that receivers may count on. `Idempotency-Key` is the same at each try of one job."""
    from minitango import __version__

    named = {
        "Content-Type": "application/json",
        "User-Agent": f"minitango/{__version__}",
        "Idempotency-Key": job,
    }
    if secret:
        signature = hmac.new(secret.encode(), data, hashlib.sha256).hexdigest()
        named["X-Minitango-Signature"] = f"sha256={signature}"
    return named


class Call:
    """One delivery under way. Any thread may break it off."""

    def __init__(self, within: float = WITHIN) -> None:
        self._until = time.monotonic() + within
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.broken_off = False

    def left(self, most: float = WITHIN) -> float:
        """Seconds that may still be waited, at most so many. TimeoutError where none are left."""
        left = min(most, self._until - time.monotonic())
        if self.broken_off or left <= 0:
            raise TimeoutError("it took too long")
        return left

    def hurry(self, seconds: float) -> None:
        """Have no more than this left."""
        self._until = min(self._until, time.monotonic() + seconds)

    def break_off(self) -> None:
        """End it, now or when it next waits."""
        with self._lock:
            self.broken_off = True
            if self._socket is not None:
                with suppress(OSError):  # below TLS, of which its own thread has hold
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def attach(self, connection: socket.socket) -> None:
        """What it speaks on from now on. TimeoutError where it was broken off before."""
        with self._lock:
            self._socket = connection
        self.left()

    def post(
        self, url: str, data: bytes, named: Mapping[str, str], allow: Collection[str], tls: ssl.SSLContext
    ) -> Verdict:
        """Deliver. Never raises for what a URL, a network or a receiver can do."""
        try:
            target = callback_url.parse(url, allow)
        except ConfigError as error:
            return Verdict(f"{error.message}; {error.hint}", unreachable=True)
        try:
            connection = self._connect(target, allow, tls)
        except _Refused as error:
            return Verdict(str(error), unreachable=True)
        except (OSError, ValueError) as error:
            return Verdict(f"{target.shown} cannot be reached: {_words(error)}", unreachable=True)
        try:
            with connection:
                return self._converse(connection, target, data, named)
        except TimeoutError:
            return Verdict(f"{target.shown} did not answer within {WITHIN:g} s", unreachable=True)
        except (OSError, ValueError, http.client.HTTPException) as error:
            return Verdict(f"{target.shown} gave no answer: {_words(error)}", unreachable=isinstance(error, OSError))

    def _connect(self, target: Target, allow: Collection[str], tls: ssl.SSLContext) -> socket.socket:
        """A connection to an address that was found good. OSError, or _Refused where none of them is."""
        failure: Exception | None = None
        for family, address in list(_good(target, allow))[:_ADDRESSES]:
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                self.attach(connection)
                connection.settimeout(self.left(CONNECT))
                connection.connect(address)
                if target.secure:  # an address in the host's place is verified as one
                    connection = secured = tls.wrap_socket(
                        connection, server_hostname=target.host, do_handshake_on_connect=False
                    )
                    self.attach(secured)
                    secured.settimeout(self.left(CONNECT))
                    secured.do_handshake()
                return connection
            except (OSError, ValueError) as error:
                connection.close()
                failure = error
        raise failure if failure is not None else OSError("it has no address")

    def _converse(self, connection: socket.socket, target: Target, data: bytes, named: Mapping[str, str]) -> Verdict:
        lines = [f"POST {target.path} HTTP/1.1", f"Host: {target.authority}", "Connection: close"]
        lines += [f"Content-Length: {len(data)}", "Accept: */*", *(f"{name}: {value}" for name, value in named.items())]
        wire = _Wire(self, connection)
        unsent: OSError | None = None
        try:
            wire.send(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
            wire.send(data)
        except TimeoutError:
            raise
        except OSError as error:
            unsent = error  # it may have answered before it hung up
        answer = http.client.HTTPResponse(cast("socket.socket", wire), method="POST")  # of which it takes makefile
        try:
            answer.begin()
        except (OSError, http.client.HTTPException) as error:
            raise unsent or error from error
        verdict = _judge(target, answer.status, answer.headers.get("Retry-After", ""))
        with suppress(OSError, ValueError, http.client.HTTPException):
            self.hurry(_GOODBYE)
            answer.read(_REST)
        return verdict


class _Refused(Exception):
    """No address of a host may be connected to."""


def _good(target: Target, allow: Collection[str]) -> Iterator[tuple[socket.AddressFamily, Any]]:
    """The addresses of a host to which something may be sent. OSError where it has none; _Refused: not one of them."""
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    named = target.host in allow
    refused = ""
    good = False
    for family, _, _, _, place in found:
        address = callback_url.literal(str(place[0]).partition("%")[0])
        why = "no address" if address is None else callback_url.refusal(address)
        if named or not why:
            good = True
            yield family, place
        else:
            refused = f"{place[0]}, {why}"
    if not good:
        raise _Refused(
            f"{target.shown} leads to {refused}: nothing is sent there unless the worker is started with "
            f"--callback-allow {target.host}"
        )


class _Wire:
    """A connection whose every wait ends with its call."""

    def __init__(self, call: Call, connection: socket.socket) -> None:
        self._call = call
        self._connection = connection

    def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._connection.settimeout(self._call.left())
            rest = rest[self._connection.send(rest[:_CHUNK]) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Ear(self._call, self._connection))


class _Ear(io.RawIOBase):
    def __init__(self, call: Call, connection: socket.socket) -> None:
        self._call = call
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._connection.settimeout(self._call.left())
        return self._connection.recv_into(buffer)


def _judge(target: Target, status: int, later: str) -> Verdict:
    if 200 <= status < 300:
        return Verdict()
    again = not (400 <= status < 500 and status not in _LATER) and status not in _GONE
    what = "redirects, which is not followed" if 300 <= status < 400 else "answered"
    return Verdict(f"{target.shown} {what}: status {status}", again=again, asked=_seconds(later))


def _seconds(later: str) -> float | None:
    """What a `Retry-After` header asks for: seconds, or a date."""
    text = later.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {error.verify_message}"
    if isinstance(error, http.client.RemoteDisconnected):
        return "it hung up"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
