"""A Docker engine on another machine, reached over ssh: each connection is one `ssh HOST docker system dial-stdio`.

The SDK's own way needs paramiko, or reads through a pipe that cannot be attached to. Here a socket in a private
directory takes the SDK's connections, and ssh gets each of them as its stdin and stdout; one master connection
serves all.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

from minitango.errors import ConfigError, SandboxUnavailable


class Tunnel:
    """Open until `close`; `url` is what the SDK connects to."""

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
        self._folder = tempfile.mkdtemp(prefix="minitango-ssh-")
        path = str(Path(self._folder, "docker.sock"))
        self.url = f"unix://{path}"
        self._ssh: list[str] = [ssh, "-T"]
        for option in ("BatchMode=yes", "ConnectTimeout=15", "ControlMaster=auto", "ControlPersist=30"):
            self._ssh += ["-o", option]
        self._ssh += ["-o", f"ControlPath={self._folder}/%C"]
        self._ssh += ["-p", str(port)] if port else []
        self._ssh += ["-l", user] if user else []
        self._host: str = host
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        self._children: list[subprocess.Popen[bytes]] = []
        self._thread = threading.Thread(target=self._serve, name="minitango-ssh", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            with connection:
                self._children = [child for child in self._children if child.poll() is None]
                command = [*self._ssh, "--", self._host, "docker", "system", "dial-stdio"]
                fd = connection.fileno()
                child = subprocess.Popen(command, stdin=fd, stdout=fd, start_new_session=True)
                self._children.append(child)

    def close(self) -> None:
        """End every connection. Idempotent."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
        self._listener.close()
        self._thread.join(5)
        null = subprocess.DEVNULL
        master = [*self._ssh, "-O", "exit", "--", self._host]  # it would linger
        subprocess.run(master, stdin=null, stdout=null, stderr=null, check=False, timeout=10)
        for child in self._children:
            child.terminate()
            child.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
