"""A Docker engine on another machine, reached over ssh: each connection is one `ssh HOST docker system dial-stdio`.

The SDK's own way needs paramiko, or reads through a pipe that cannot be attached to. Here a socket in a private
directory takes our connections, and ssh gets each of them as its stdin and stdout; one master connection serves all.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from minitango.errors import ConfigError, SandboxUnavailable

_SAID: Final = 2000
"""Bytes of what ssh says that are kept."""
_LINES: Final = 3
"""Lines of it that are told."""
_STOP: Final = 5.0
"""Seconds that an ssh has to end."""


class Tunnel:
    """Open until `close`; `path` is the socket that leads to the engine."""

    def __init__(self, url: str) -> None:
        """ConfigError where the URL names no host; SandboxUnavailable without ssh."""
        parts = urlsplit(url)
        try:
            host, user, port = parts.hostname or "", parts.username or "", parts.port
        except ValueError:
            host = ""
        if not host or host.startswith("-") or user.startswith("-") or parts.password or parts.path.strip("/"):
            hint = "ssh://user@host or ssh://user@host:22"
            raise ConfigError(f"{url!r} names no ssh host", hint=hint, id="docker_url")
        ssh = shutil.which("ssh")
        if ssh is None or not hasattr(socket, "AF_UNIX"):
            hint = "sudo apt-get install openssh-client"
            raise SandboxUnavailable("ssh is not installed", hint=hint, id="sandbox_ssh")
        where = [*(["-p", str(port)] if port else []), *(["-l", user] if user else [])]
        self.command = " ".join(["ssh", *where, host, "docker version"])
        """For people to try."""
        self._folder = tempfile.mkdtemp(prefix="minitango-ssh-")
        self.path = str(Path(self._folder, "docker.sock"))
        self._ssh: list[str] = [ssh, "-T"]
        for option in ("BatchMode=yes", "ConnectTimeout=15", "ControlMaster=auto", "ControlPersist=30"):
            self._ssh += ["-o", option]
        self._ssh += ["-o", f"ControlPath={self._folder}/%C", *where]
        self._host: str = host
        self._children: list[subprocess.Popen[bytes]] = []
        self._said = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(64)
        self._errors, self._stderr = os.pipe()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="minitango-ssh", daemon=True)
        self._thread.start()

    def said(self) -> str:
        """The last that ssh, or `docker` on the other machine, had to say, each line once. Untrusted."""
        lines = [line.strip() for line in self._said.decode("utf-8", "replace").splitlines()]
        return "; ".join(list(dict.fromkeys(filter(None, lines)))[-_LINES:])

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._errors, selectors.EVENT_READ)
            while not self._closing.is_set():
                for key, _ in selector.select():
                    with contextlib.suppress(OSError):  # out of descriptors or processes: it is tried again
                        if key.fileobj is self._listener:
                            self._connect()
                        else:
                            self._said = (self._said + os.read(self._errors, _SAID))[-_SAID:]

    def _connect(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            self._children = [child for child in self._children if child.poll() is None]
            if self._closing.is_set():
                return
            command = [*self._ssh, "--", self._host, "docker", "system", "dial-stdio"]
            fd = connection.fileno()
            # a session of its own: an interrupt at the terminal is ours alone
            child = subprocess.Popen(command, stdin=fd, stdout=fd, stderr=self._stderr, start_new_session=True)
            self._children.append(child)

    def close(self) -> None:
        """End every connection. Idempotent."""
        if self._closing.is_set():
            return
        self._closing.set()
        os.write(self._stderr, b"\n")  # wakes the thread
        self._thread.join()
        self._listener.close()
        null = subprocess.DEVNULL
        master = [*self._ssh, "-O", "exit", "--", self._host]  # it would linger
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(master, stdin=null, stdout=null, stderr=null, check=False, timeout=_STOP)
        for child in self._children:
            child.terminate()
        for child in self._children:
            try:
                child.wait(_STOP)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        os.close(self._errors)
        os.close(self._stderr)
        shutil.rmtree(self._folder, ignore_errors=True)
