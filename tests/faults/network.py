"""Bad networks: namespaces whose links are cut in one way or both, and a proxy that loses what was sent through it."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence

import pytest

from tests.redis_server import Server


def need_namespaces() -> None:
    """Skip, with the reason, where we may not make networks."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces take root, and ip (try: apt-get install iproute2)")
    name = f"mt-{secrets.token_hex(3)}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no network namespaces here: {tried.stderr.strip()}")
    _ip("netns", "del", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Networks:
    """A server in a network namespace, and one for each of its nodes, each with a wire to it of its own."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self._mark = secrets.token_hex(2)
        self._nodes = list(nodes)
        self._spaces: list[str] = []
        try:
            self._add("server")
            for number, node in enumerate(nodes):
                self._wire(number, node)
            self.server = Server("ip", "netns", "exec", self.space("server"), bind="0.0.0.0", protected_mode="no")
        except BaseException:
            self.close()
            raise

    def space(self, name: str) -> str:
        return f"mt-{self._mark}-{name}"

    def _add(self, name: str) -> None:
        _ip("netns", "add", self.space(name))
        self._spaces.append(self.space(name))
        _ip("-n", self.space(name), "link", "set", "lo", "up")

    def _wire(self, number: int, node: str) -> None:
        self._add(node)
        here, there = self.space("server"), self.space(node)
        _ip("-n", here, "link", "add", f"w{number}", "type", "veth", "peer", "name", "wire", "netns", there)
        _ip("-n", here, "addr", "add", f"10.77.{number}.1/30", "dev", f"w{number}")
        _ip("-n", there, "addr", "add", f"10.77.{number}.2/30", "dev", "wire")
        _ip("-n", here, "link", "set", f"w{number}", "up")
        _ip("-n", there, "link", "set", "wire", "up")

    def url(self, node: str) -> str:
        """The server, as this node sees it."""
        return f"redis://10.77.{self._nodes.index(node)}.1:{self.server.port}/0"

    def cut(self, node: str) -> None:
        """Nothing gets through."""
        _ip("-n", self.space(node), "link", "set", "wire", "down")

    def deafen(self, node: str) -> None:
        """What it says arrives, and no answer comes: they go to an address that nobody has."""
        number = self._nodes.index(node)
        wrong = ("lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev", f"w{number}")
        _ip("-n", self.space("server"), "neigh", "replace", f"10.77.{number}.2", *wrong)

    def heal(self, node: str) -> None:
        number = self._nodes.index(node)
        _ip("-n", self.space(node), "link", "set", "wire", "up")
        with contextlib.suppress(subprocess.CalledProcessError):  # it was not deaf
            _ip("-n", self.space("server"), "neigh", "del", f"10.77.{number}.2", "dev", f"w{number}")

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            self.server.remove()
        for space in reversed(self._spaces):
            _ip("netns", "del", space)


Pair = tuple[socket.socket, socket.socket]


class Proxy:
    """Between nodes and a server. While `loss` is not 0, each answer is lost that often, and its connection with it:
    the server has done what it was asked to, and nobody knows. Or the request is lost on its way there."""

    def __init__(self, server: Server) -> None:
        self._behind = str(server.socket)
        self._chance = random.Random(17)
        self._lock = threading.Lock()
        self._pairs: set[Pair] = set()
        self.loss = 0.0
        self.lost = 0
        """Answers, so far."""
        self.delay = 0.0
        """Seconds by which each answer is late."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._behind)
            except OSError:
                client.close()
                server.close()
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.add((client, server))
            for a, b, answers in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._carry, args=(a, b, answers, (client, server)), daemon=True).start()

    def _carry(self, a: socket.socket, b: socket.socket, answers: bool, pair: Pair) -> None:
        with contextlib.suppress(OSError):
            while data := a.recv(1 << 16):
                if self._lose(answers):
                    break
                if answers and self.delay:
                    threading.Event().wait(self.delay)
                b.sendall(data)
        self._drop(pair)

    def _lose(self, answers: bool) -> bool:
        with self._lock:
            lost = self._chance.random() < (self.loss if answers else self.loss / 4)
            self.lost += lost and answers
            return lost

    def _drop(self, pair: Pair) -> None:
        with self._lock:
            if pair not in self._pairs:
                return
            self._pairs.discard(pair)
        for each in pair:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in list(self._pairs):
            self._drop(pair)
