"""HTTP to a Docker engine, as a transport of the SDK: a whole call has a deadline, and its answer a size.

The SDK's own bounds each read alone, so that an engine which sends a byte now and then holds a thread for ever.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import time
import weakref
from pathlib import Path
from typing import Any, Final

import requests.adapters
import requests.exceptions
import urllib3.connection
import urllib3.connectionpool

MOST: Final = 64 << 20
"""Bytes of the answer to one call."""

_LOOK: Final = 0.5
"""Seconds between looks whether all is to be over."""


class NoConnection(Exception):
    """None could be made. Its cause says why."""


class Haste:
    """When all calls to one engine are to be over, those that are under way as well. Of all its clients."""

    def __init__(self) -> None:
        self.deadline = math.inf


class Budget:
    """What the call that is under way may still take. Of one client, which one thread uses."""

    def __init__(self, haste: Haste | None = None) -> None:
        self._haste = haste or Haste()
        self._deadline = math.inf
        self._bytes = 0
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._is_cut = False

    def start(self, deadline: float) -> None:
        """A call begins that must have ended at `deadline`, by the monotonic clock. inf: it is a stream, without bounds
        on its time and size but those of whoever reads it."""
        self._deadline = deadline
        self._bytes = MOST

    def add(self, sock: socket.socket) -> None:
        """The call goes over this one."""
        self._sockets.add(sock)

    def cut(self) -> None:
        """End the call, from any thread: whoever waits in it wakes, and no other begins."""
        self._is_cut = True  # for a socket that is made in this moment
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):  # it ended by itself
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below TLS, whose state the reading thread uses

    @property
    def endless(self) -> bool:
        return self._deadline == math.inf

    def left(self) -> float:
        """Seconds. TimeoutError where none are, ConnectionError where the call was cut."""
        if self._is_cut:
            raise ConnectionAbortedError("the call was given up")
        left = self._deadline if self.endless else min(self._deadline, self._haste.deadline) - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def spend(self, count: int) -> None:
        """So many bytes came. ValueError where that is too much."""
        if self._deadline < math.inf:
            self._bytes -= count
            if self._bytes < 0:
                raise ValueError(f"an answer of more than {MOST} bytes")


class _Bounded(socket.socket):
    """What `http.client` does with a socket, within a budget."""

    budget = Budget()

    def recv_into(self, *args: Any, **more: Any) -> int:
        while True:
            left = self.budget.left()
            if self.budget.endless:
                return super().recv_into(*args, **more)
            self.settimeout(min(left, _LOOK))
            try:
                count = super().recv_into(*args, **more)
            except TimeoutError:
                continue
            self.budget.spend(count)
            return count

    def sendall(self, *args: Any, **more: Any) -> None:
        left = self.budget.left()
        if not self.budget.endless:
            self.settimeout(left)
        super().sendall(*args, **more)


class _BoundedTLS(_Bounded, ssl.SSLSocket):
    """The same over TLS."""


class Door:
    """How an engine is reached: a path, or a host and port, and TLS or not."""

    def __init__(self, address: str | tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        self._tls = tls
        if tls is not None:
            tls.sslsocket_class = _BoundedTLS

    def connect(self, timeout: float, budget: Budget) -> socket.socket:
        """A new connection. NoConnection."""
        try:
            made = self._open(timeout)
        except OSError as error:
            raise NoConnection from error
        made.budget = budget
        budget.add(made)
        return made

    def _open(self, timeout: float) -> _Bounded:
        if isinstance(self.address, str):
            path = _Bounded(socket.AF_UNIX)
            try:
                path.settimeout(timeout)
                path.connect(self.address)
            except BaseException:
                path.close()
                raise
            return path
        with socket.create_connection(self.address, timeout) as plain:
            if self._tls is not None:
                secure = self._tls.wrap_socket(plain, server_hostname=self.address[0])
                assert isinstance(secure, _BoundedTLS)
                return secure
            made = _Bounded(plain.family, plain.type, plain.proto, plain.detach())
            made.settimeout(timeout)
            return made


def tls(certificates: str, *, verify: bool) -> ssl.SSLContext:
    """With ca.pem, cert.pem and key.pem, as far as they are in that directory. OSError where one cannot be used."""
    folder = Path(certificates)
    authority = folder / "ca.pem"
    own = (folder / "cert.pem", folder / "key.pem")
    known = certificates and authority.exists()
    context = ssl.create_default_context(cafile=str(authority) if known else None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificates and own[0].exists():
        context.load_cert_chain(*own)
    return context


class _Connection(urllib3.connection.HTTPConnection):
    def __init__(self, door: Door, budget: Budget, timeout: float) -> None:
        host, port = ("localhost", None) if isinstance(door.address, str) else door.address
        super().__init__(host, port, timeout=timeout)
        self._door = door
        self._budget = budget
        self._patience = timeout

    def connect(self) -> None:
        self.sock = self._door.connect(min(self._patience, self._budget.left()), self._budget)


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    def __init__(self, door: Door, budget: Budget, timeout: float) -> None:
        super().__init__("localhost", maxsize=4)
        self._door = door
        self._budget = budget
        self._patience = timeout

    def _new_conn(self) -> _Connection:
        return _Connection(self._door, self._budget, self._patience)


class Adapter(requests.adapters.HTTPAdapter):
    """A transport for the SDK's client: for its thread, over connections that are kept."""

    def __init__(self, door: Door, timeout: float, haste: Haste | None = None) -> None:
        """`timeout` in seconds, of each read and write where the call has no deadline."""
        super().__init__()
        self.budget = Budget(haste)
        self._pool = _Pool(door, self.budget, timeout)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> Any:
        return self._pool

    def get_connection(self, *_: Any, **__: Any) -> Any:
        """The same for requests before 2.32."""
        return self._pool

    def request_url(self, request: Any, proxies: Any) -> str:
        return str(request.path_url)

    def build_response(self, req: Any, resp: Any) -> Any:
        if resp.headers.get("Content-Encoding", "identity") != "identity":
            resp.close()
            raise requests.exceptions.ContentDecodingError("the answer is compressed, which nobody asked for")
        return super().build_response(req, resp)

    def close(self) -> None:
        super().close()
        self._pool.close()
