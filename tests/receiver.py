"""A receiver of callbacks on a port of this machine: a real server, which can be told to misbehave."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def hang(connection: socket.socket, request: Request) -> None:
    """Say nothing, until the other side hangs up or the receiver is closed."""
    with contextlib.suppress(OSError):
        connection.recv(1)


def answer(status: int, *more: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Request:
    """What came: the first line, the headers in lower case, the body."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.line = first
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.body = body

    @property
    def key(self) -> str:
        return self.headers["idempotency-key"]

    @property
    def job(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.body)
        assert told["schema"] == 1
        job: dict[str, Any] = told["job"]
        return job


Behave = Callable[[socket.socket, Request], bytes | None]
"""Gives what is answered; None: it answered itself, or does not."""


class Receiver:
    """Listens until it is closed. `behave` may be changed at any time."""

    def __init__(
        self, behave: Behave = lambda connection, request: OK, *, certificates: Path | None = None, port: int = 0
    ) -> None:
        self.behave = behave
        self.requests: list[Request] = []
        self.connections = 0
        self.came = threading.Condition()
        self._tls = None
        if certificates is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._listen, daemon=True).start()

    def url(self, path: str = "/graded") -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}{path}"

    def wait(self, n: int, seconds: float = 20.0) -> None:
        """Until so many requests have come."""
        with self.came:
            assert self.came.wait_for(lambda: len(self.requests) >= n, seconds), f"{len(self.requests)} came"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            request = self._read(connection)
            with self.came:
                self.requests.append(request)
                self.came.notify_all()
            said = self.behave(connection, request)
            if said is not None:
                connection.sendall(said)
        except (OSError, ValueError):
            pass
        finally:
            self._open.discard(connection)
            connection.close()

    @staticmethod
    def _read(connection: socket.socket) -> Request:
        data = b""
        while b"\r\n\r\n" not in data:
            data += _more(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        request = Request(head, b"")
        while len(body) < int(request.headers["content-length"]):
            body += _more(connection)
        request.body = body
        return request


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise OSError("it hung up")
    return data


@contextmanager
def receiving(behave: Behave = lambda connection, request: OK, **more: Any) -> Iterator[Receiver]:
    receiver = Receiver(behave, **more)
    try:
        yield receiver
    finally:
        receiver.close()
