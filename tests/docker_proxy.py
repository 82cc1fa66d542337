"""A false Docker engine, or a true one behind somebody who tampers with what it says.

It listens on a Unix socket, and does with each request what the first rule that fits it says, else what the true engine
behind it would do.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from tests.support import PATIENCE

VERSION = {"ApiVersion": "1.41", "Arch": "amd64", "Os": "linux"}

Act = Callable[["Request"], None]
Change = Callable[[bytes], bytes | None]
"""What becomes of a piece that the engine sent; None: the connection ends."""


class Request:
    """One request, and the two connections that it is about."""

    def __init__(self, proxy: Proxy, client: socket.socket, head: bytes) -> None:
        self.proxy = proxy
        self.client = client
        self.head = head

    def engine(self) -> socket.socket:
        """A connection to the true engine, to which this request was sent; it answers no second one."""
        made = socket.socket(socket.AF_UNIX)
        made.connect(self.proxy.behind)
        upgrade = re.search(rb"\r\nupgrade:", self.head, re.IGNORECASE)
        made.sendall(self.head if upgrade else self.head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        return made


class Proxy:
    """A context: outside of it nothing of it is left."""

    def __init__(self, behind: str = "", *rules: tuple[str, Act]) -> None:
        """`behind` is the URL of a true engine. A rule is a pattern for `METHOD /path`, and what is done then."""
        self.behind = behind.removeprefix("unix://")
        self.rules = list(rules)
        self.seen: list[str] = []
        self.closing = threading.Event()
        self._folder = tempfile.mkdtemp(prefix="mt-proxy-")
        self.url = f"unix://{self._folder}/docker.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._folder}/docker.sock")
        self._listener.listen(64)
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()
        shutil.rmtree(self._folder)

    def _serve(self) -> None:
        while not self.closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._answer, args=(client,)))
            self._threads[-1].start()

    def _answer(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not self._readable(client):
                    return
                piece = client.recv(65536)
                if not piece:
                    return
                head += piece
            what = b" ".join(head.split(b"\r\n", 1)[0].split()[:2]).decode()
            self.seen.append(what)
            act = next((act for pattern, act in self.rules if re.search(pattern, what)), relay())
            act(Request(self, client, head))

    def _readable(self, *socks: socket.socket) -> list[socket.socket]:
        """Those that can be read; none of them when the proxy closes."""
        while not self.closing.is_set():
            ready = select.select(socks, [], [], 0.02)[0]
            if ready:
                return list(ready)
        return []

    def between(self, client: socket.socket, engine: socket.socket, change: Change, *, deaf: bool = False) -> None:
        """Carry bytes both ways until one side ends. `deaf`: what the client sends is never read."""
        sides = {engine: client} if deaf else {client: engine, engine: client}
        while sides:
            ready = self._readable(*sides)
            if not ready:
                return
            for side in ready:
                piece = side.recv(65536)
                if not piece:
                    with contextlib.suppress(OSError):
                        sides[side].shutdown(socket.SHUT_WR)
                    if side is engine:
                        return
                    del sides[side]
                    continue
                changed = change(piece) if side is engine else piece
                if changed is None:
                    return
                sides[side].sendall(changed)


# --- what may be done ------------------------------------------------------------------------------


def relay(change: Change = lambda piece: piece, *, deaf: bool = False) -> Act:
    """What the true engine says, changed."""

    def act(request: Request) -> None:
        if not request.proxy.behind:
            say(404, {"message": "no such thing"})(request)
            return
        with request.engine() as engine:
            request.proxy.between(request.client, engine, change, deaf=deaf)

    return act


def send(answer: bytes) -> Act:
    """These bytes, then the end."""
    return lambda request: request.client.sendall(answer)


def say(status: int, body: Any) -> Act:
    """A JSON answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} So\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return send(f"{head}Connection: close\r\n\r\n".encode() + data)


def hang(request: Request) -> None:
    """Nothing, for as long as the client waits."""
    while request.proxy._readable(request.client):
        if not request.client.recv(65536):
            return


def dribble(answer: bytes, pause: float = 0.05) -> Act:
    """These bytes, one at a time."""

    def act(request: Request) -> None:
        for byte in answer:
            request.client.sendall(bytes([byte]))
            if request.proxy.closing.wait(pause):
                return

    return act


def flood(head: bytes, piece: bytes) -> Act:
    """A beginning, and then the same without end."""

    def act(request: Request) -> None:
        request.client.sendall(head)
        while not request.proxy.closing.is_set():
            request.client.sendall(piece)

    return act


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """No thread and no descriptor more than before."""
    import gc
    import os

    from tests.support import eventually

    gc.collect()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    eventually(lambda: threading.active_count() <= threads, f"threads: {threading.enumerate()}")
    assert len(os.listdir("/proc/self/fd")) <= descriptors
