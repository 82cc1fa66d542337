"""Redis servers for the tests: real, private, each on a socket and a port of its own, with an append-only file.

They may be hurt: killed, stopped, filled. One is shared by the tests of a process that only need a server.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

START = 20.0
BINARY = os.environ.get("MINITANGO_REDIS_SERVER", "redis-server")


def need_redis() -> None:
    """Skip, with the reason, where there is no server to start; fail where CI=true promised one."""
    if shutil.which(BINARY) is None:
        reason = "redis-server is not installed (try: apt-get install redis-server)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def free_port() -> int:
    with contextlib.closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def secret(certificates: Path, clients: str = "no") -> dict[str, str]:
    """Options of a server that speaks TLS alone at its port. `clients`: whether it wants certificates of theirs."""
    return {
        "port": "0",
        "tls_port": "PORT",
        "tls_cert_file": str(certificates / "cert.pem"),
        "tls_key_file": str(certificates / "key.pem"),
        "tls_ca_cert_file": str(certificates / "ca.pem"),
        "tls_auth_clients": clients,
        "tls_replication": "yes",
    }


class Server:
    """One server in a folder of its own; `options` are lines of its configuration (PORT: its port), `within` a command
    that runs it."""

    flags: tuple[str, ...] = ()

    def __init__(self, *within: str, **options: str) -> None:
        self.within = within
        self.folder = Path(tempfile.mkdtemp(prefix="mt-redis-"))
        self.socket = self.folder / "s"
        self.port = self.choose_port()
        self.options = {"appendonly": "yes", "appendfsync": "everysec", "save": '""', **options}
        self.process: subprocess.Popen[bytes] | None = None
        atexit.register(self.remove)
        self.start()

    def url(self, queue: str = "", tcp: bool = False) -> str:
        where = f"redis://127.0.0.1:{self.port}/0" if tcp else f"unix://{self.socket}"
        return where + (f"?queue={queue}" if queue else "")

    def choose_port(self) -> int:
        return free_port()

    def start(self) -> None:
        lines = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket),
            "dir": str(self.folder),
            "loglevel": "warning",
            "logfile": str(self.folder / "log"),
            **{name.replace("_", "-"): value.replace("PORT", str(self.port)) for name, value in self.options.items()},
        }
        config = self.folder / "redis.conf"
        config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        self.process = subprocess.Popen(
            [*self.within, BINARY, str(config), *self.flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START
        while True:
            try:
                if self.client().ping():
                    return
            except Exception:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.01)

    def client(self):  # type: ignore[no-untyped-def]
        import redis

        return redis.Redis(unix_socket_path=str(self.socket))

    def flush(self) -> None:
        self.client().flushall()

    def kill(self) -> None:
        """As `kill -9`."""
        self._signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()
        self.socket.unlink(missing_ok=True)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def remove(self) -> None:
        atexit.unregister(self.remove)
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@functools.cache
def shared() -> Server:
    """The server that the tests of this process share. Whoever takes it empties it first."""
    return Server()
