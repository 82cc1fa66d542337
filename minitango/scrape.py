"""Where metrics are looked at: a small HTTP server that has them at one path, and nothing at any other.

Whoever reaches the port is strange to us: a connection has a thread of its own that ends with it, one that is silent is
closed, and a request is answered by its method and path alone.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

PATH: Final = "/metrics"
_PATIENCE: Final = 30.0
"""Seconds for which a connection may be silent."""

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""What answers one request, by WSGI."""


class Scrape:
    """Answers at one address until it is closed."""

    def __init__(self, host: str, port: int, metrics: App) -> None:
        """`metrics` answers a GET of PATH, from any thread. OSError, OverflowError: that address cannot be had."""
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        kind = type("Server", (_Server,), {"address_family": family})
        self._server: WSGIServer = kind((host, port), _Quiet)
        self._server.set_app(at_its_path(metrics))
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="minitango metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """As at home, but that no name is looked up for our own address, which may take as long as it likes."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, *_: object) -> None:
        """One who hung up, or sent what is no request, is nobody's news."""


class _Quiet(WSGIRequestHandler):
    timeout = _PATIENCE

    def log_message(self, *_: object) -> None:
        """Nor is who looks."""


def at_its_path(metrics: App) -> App:
    """The metrics at PATH, a word of where they are at the root, and nothing elsewhere; for GET and HEAD alone."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", "") or "/", environ["REQUEST_METHOD"]
        headers = [("Content-Type", "text/plain; charset=utf-8")]
        if path not in (PATH, "/"):
            status, body = "404 Not Found", f"nothing is here; metrics are at {PATH}\n".encode()
        elif method not in ("GET", "HEAD"):
            status, body = "405 Method Not Allowed", b"only GET and HEAD\n"
            headers.append(("Allow", "GET, HEAD"))
        elif path == "/":
            status, body = "200 OK", f"minitango: metrics for Prometheus are at {PATH}\n".encode()
        else:
            said: list[Any] = []
            body = b"".join(metrics({**environ, "REQUEST_METHOD": "GET"}, lambda *those: said.extend(those)))
            status, headers = said[0], list(said[1])
        start(status, [*headers, ("Content-Length", str(len(body)))])
        return [] if method == "HEAD" else [body]

    return answer
