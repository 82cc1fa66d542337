"""The border to a Docker engine (or Podman's socket): where it is, and one way to call it.

Nothing that it does is trusted: every call has a deadline, and whatever goes wrong becomes one of ours here. The docker
SDK is imported by this module alone, at first use.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import Struct

from minitango.errors import ConfigError, SandboxFailed, SandboxUnavailable
from minitango.text import one_line

T = TypeVar("T")

PATIENCE: Final = 30.0
"""Seconds that a call may take."""
_OLDEST: Final = (1, 41)
"""Of the API: Docker 20.10."""


class Missing(SandboxFailed):
    """The engine does not know this container or image."""

    id = "sandbox_not_found"


class Refused(SandboxFailed):
    """The engine understood, and will not."""

    id = "sandbox_refused"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Place(Struct, frozen=True):
    """Where an engine listens."""

    url: str
    """As the SDK takes it; empty: its own default."""
    said_by: str
    """What told us, for people: `DOCKER_HOST`, the context `desktop-linux`, ..."""
    certificates: str = ""
    """A directory with ca.pem, cert.pem and key.pem, for TLS."""
    verify: bool = True


def find(url: str = "") -> Place:
    """The engine at `url`; else that of DOCKER_HOST, of Docker's current context, or at a usual socket.

    ConfigError where a context or URL cannot be used.
    """
    environ = os.environ
    if url:
        return _checked(Place(url, f"--sandbox docker+{url}", environ.get("DOCKER_CERT_PATH", "")))
    if environ.get("DOCKER_HOST"):
        verify = environ.get("DOCKER_TLS_VERIFY", "") != ""
        certificates = environ.get("DOCKER_CERT_PATH", "")
        if verify and not certificates:
            certificates = str(Path.home() / ".docker")
        return _checked(Place(environ["DOCKER_HOST"], "DOCKER_HOST", certificates, verify))
    context = environ.get("DOCKER_CONTEXT") or _current_context()
    if context and context != "default":
        return _checked(_of_context(context))
    for path in _usual_sockets():
        if path.is_socket():
            return Place(f"unix://{path}", str(path))
    return Place("", "Docker's default")


def _checked(place: Place) -> Place:
    if not re.match(r"(unix|tcp|http|https|ssh|npipe|fd)://.", place.url):
        raise ConfigError(
            f"{place.said_by}: {place.url!r} is no address of a Docker engine",
            hint="use unix:///path/docker.sock, tcp://host:2376 or ssh://user@host",
            id="docker_url",
        )
    return place


def _config_folder() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def _current_context() -> str:
    try:
        name = json.loads((_config_folder() / "config.json").read_text()).get("currentContext", "")
    except (OSError, ValueError, AttributeError, RuntimeError):
        return ""
    return name if isinstance(name, str) else ""


def _of_context(name: str) -> Place:
    digest = hashlib.sha256(name.encode()).hexdigest()
    contexts = _config_folder() / "contexts"
    try:
        endpoint = json.loads((contexts / "meta" / digest / "meta.json").read_text())["Endpoints"]["docker"]
        url, skip = str(endpoint["Host"]), bool(endpoint.get("SkipTLSVerify", False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"Docker's context {name!r} cannot be read: {error}",
            hint="docker context ls; docker context use default",
            id="docker_context",
        ) from error
    tls = contexts / "tls" / digest / "docker"
    return Place(url, f"the context {name!r}", str(tls) if tls.is_dir() else "", not skip)


def _usual_sockets() -> list[Path]:
    """Docker's, then those of rootless Docker, Docker Desktop and Podman."""
    if sys.platform == "win32":
        return []
    found = [Path("/var/run/docker.sock")]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    home = os.environ.get("HOME")
    found += [Path(runtime, "docker.sock")] if runtime else []
    found += [Path(home, ".docker/run/docker.sock"), Path(home, ".docker/desktop/docker.sock")] if home else []
    found += [Path(runtime, "podman/podman.sock")] if runtime else []
    return [*found, Path("/run/podman/podman.sock")]


class Engine:
    """One Docker engine, called from any thread."""

    def __init__(self, place: Place, *, patience: float = PATIENCE) -> None:
        self.place = place
        self.patience = patience
        self._local = threading.local()
        self._lock = threading.Lock()
        self._clients: list[Any] = []
        self._version = ""
        self._url = place.url
        self._tunnel: Any = None
        self._closed = False

    def __str__(self) -> str:
        return f"the Docker engine at {self.place.url or self.place.said_by}"

    def call(self, verb: Callable[[Any], T], *, again: bool = False) -> T:
        """What `verb` gives. `again`: it may be tried twice, where a kept connection turns out to be dead.

        Missing, Refused: the engine's own answers. SandboxUnavailable `sandbox_gone` where it cannot be reached,
        `sandbox_hangs` where it does not answer in `patience` seconds.
        """
        import requests
        from docker.errors import APIError, DockerException

        try:
            return verb(self._client())
        except APIError as error:
            raise self._answer(error) from error
        except requests.exceptions.Timeout as error:
            raise self._hangs() from error
        except (requests.exceptions.RequestException, DockerException, OSError, ValueError) as error:
            if isinstance(error, TimeoutError) or "timed out" in str(error):
                raise self._hangs() from error
            self.drop()
            if again:
                return self.call(verb)
            raise self.gone(error) from error

    def _answer(self, error: Any) -> SandboxFailed | SandboxUnavailable:
        status = error.status_code or 500
        said = one_line(str(error.explanation or error), 500)
        if status == 404:
            return Missing(f"{self}: {said}")
        if "no space left on device" in said:
            hint = "make room on its disk, for example: docker system prune"
            return SandboxUnavailable(f"{self}: {said}", hint=hint, id="sandbox_disk_full")
        return Refused(f"{self}: {said}", status)

    def gone(self, error: BaseException | None = None) -> SandboxUnavailable:
        """The error for an engine that cannot be reached."""
        text = one_line(str(error), 300) if error is not None else "the connection ended"
        hint = "start Docker (sudo systemctl start docker, or Docker Desktop), or use another --sandbox"
        if "ermission denied" in text:
            hint = "sudo usermod -aG docker $USER, then log in again; or use rootless Docker"
        return SandboxUnavailable(
            f"{self} (named by {self.place.said_by}) cannot be reached: {text}", hint=hint, id="sandbox_gone"
        )

    def _hangs(self) -> SandboxUnavailable:
        self.drop()
        text = f"{self} did not answer within {self.patience:g} s"
        return SandboxUnavailable(text, hint="restart Docker (sudo systemctl restart docker)", id="sandbox_hangs")

    def _client(self) -> Any:
        client = getattr(self._local, "client", None)
        if client is None:
            client = self._connect()
            with self._lock:
                if self._closed:
                    client.close()
                    raise SandboxFailed("the sandbox is closed")
                self._clients.append(client)
            self._local.client = client
        return client

    def _connect(self) -> Any:
        from docker import APIClient
        from docker.utils import compare_version

        with self._lock:
            if self.place.url.startswith("ssh://") and self._tunnel is None:
                from minitango.sandbox._docker_ssh import Tunnel

                self._tunnel = Tunnel(self.place.url)
                self._url = self._tunnel.url
        _knock(self._url, self.patience)
        client = APIClient(
            base_url=self._url or None,
            version=self._version or "auto",
            timeout=self.patience,
            tls=self._tls(),
        )
        if not self._version:
            oldest = ".".join(str(n) for n in _OLDEST)
            if compare_version(oldest, client.api_version) < 0:
                client.close()
                raise SandboxUnavailable(
                    f"{self} is too old: it speaks version {client.api_version} of the API",
                    hint=f"Docker 20.10 or later is needed (version {oldest})",
                    id="sandbox_too_old",
                )
            self._version = client.api_version
        return client

    def _tls(self) -> Any:
        place = self.place
        if not place.certificates or not re.match(r"(tcp|https)://", place.url):
            return False
        from docker.tls import TLSConfig

        folder = Path(place.certificates)
        own = (folder / "cert.pem", folder / "key.pem")
        authority = folder / "ca.pem"
        return TLSConfig(
            client_cert=(str(own[0]), str(own[1])) if own[0].exists() else None,
            ca_cert=str(authority) if authority.exists() else None,
            verify=place.verify,
        )

    def drop(self) -> None:
        """Let go of this thread's connections, which may be dead."""
        client = getattr(self._local, "client", None)
        if client is not None:
            self._local.client = None
            with self._lock:
                if client in self._clients:
                    self._clients.remove(client)
            client.close()

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        with self._lock:
            self._closed = True
            clients, self._clients = self._clients, []
            tunnel, self._tunnel = self._tunnel, None
        for client in clients:
            client.close()
        if tunnel is not None:
            tunnel.close()


def _knock(url: str, patience: float) -> None:
    """OSError where nobody listens at a Unix socket: the SDK would find that out, too, and leave its own open."""
    if sys.platform != "win32" and (not url or url.startswith("unix://")):
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.settimeout(patience)
            knocking.connect(url.removeprefix("unix://") or "/var/run/docker.sock")
