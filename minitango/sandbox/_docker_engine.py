"""The border to a Docker engine (or Podman's socket): one way to call it.

Nothing that it does is trusted: every call has a deadline, and whatever goes wrong becomes one of ours here. The docker
SDK is imported by this module alone, at first use.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import re
import ssl
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from minitango.errors import ConfigError, MinitangoError, SandboxFailed, SandboxUnavailable
from minitango.sandbox._docker_place import DEFAULT, Place, config_folder, is_no_socket, usual_sockets
from minitango.text import one_line

if TYPE_CHECKING:
    from minitango.sandbox._docker_http import Budget, Door, Haste
    from minitango.sandbox._docker_ssh import Tunnel

T = TypeVar("T")

PATIENCE: Final = 30.0
"""Seconds that a call may take."""
_OLDEST: Final = (1, 41)
"""Of the API: Docker 20.10."""
_AWAY: Final = (502, 503, 504)
"""What stands in front of an engine says that it is not there."""


class Missing(SandboxFailed):
    """The engine does not know this container or image."""

    id = "sandbox_not_found"


class Refused(SandboxFailed):
    """The engine understood, and will not."""

    id = "sandbox_refused"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _Kept:
    """A thread's client. It is closed with the last reference to this, which that thread has."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.close = weakref.finalize(self, client.close)
        self.close.atexit = False


class Engine:
    """One Docker engine, called from any thread."""

    def __init__(self, place: Place, *, patience: float = PATIENCE) -> None:
        """`patience`: seconds that a call may take."""
        self.place = place
        self.patience = patience
        self._local = threading.local()
        self._lock = threading.Lock()
        self._all: weakref.WeakSet[_Kept] = weakref.WeakSet()
        self._door: Door | None = None
        self._haste: Haste | None = None
        self._hurry = math.inf
        self._tunnel: Tunnel | None = None
        self._version = ""
        self._closed = False

    def __str__(self) -> str:
        return f"the Docker engine at {self.place.url or self.place.said_by}"

    def call(self, verb: Callable[[Any], T], *, again: bool = False, patience: float | None = None) -> T:
        """What `verb` gives, within `patience` seconds (None: the engine's), which may be inf.

        `again`: it may be tried twice, where a kept connection turns out to be dead. Missing, Refused: the engine's own
        answers. SandboxUnavailable `sandbox_gone` where it cannot be reached, `sandbox_hangs` where it does not answer
        in time, `sandbox_garbled` where it answers as no engine does.
        """
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        try:
            return self._try(verb, deadline)
        except SandboxUnavailable as error:
            if not again or error.id != "sandbox_gone":
                raise
        return self._try(verb, deadline)

    def hurry(self, seconds: float) -> None:
        """All calls but streams, also those that are under way, are to be over in this time, whatever their patience:
        they cannot help any more."""
        with self._lock:
            self._hurry = min(self._hurry, time.monotonic() + seconds)
            if self._haste is not None:
                self._haste.deadline = self._hurry

    def ask(self, verb: Callable[[Any], Any], kind: type[T], *, again: bool = True) -> T:
        """What `verb` gives, as a `kind`. `again`, and what is raised, as with `call`."""
        said = self.call(verb, again=again)
        try:
            return msgspec.convert(said, kind)
        except msgspec.ValidationError as error:
            raise self._garbled(error) from error

    def _try(self, verb: Callable[[Any], T], deadline: float) -> T:
        from docker.errors import APIError

        before = sys.exc_info()[1]
        try:
            return verb(self._client(deadline))
        except MinitangoError:
            raise
        except APIError as error:
            raise self._answer(error) from error
        except Exception as error:  # whatever the SDK, and what is below it, makes of hostile bytes
            self.drop()
            raise (self._hangs() if time.monotonic() >= deadline else self._broken(error, before)) from error

    def _broken(self, error: Exception, before: BaseException | None) -> SandboxUnavailable:
        """What became of a call that ended with neither an answer nor the engine's own error. `before`: what was being
        handled when it began, which has no part in it."""
        causes = list(_causes(error, before))
        if any(isinstance(cause, TimeoutError) or "timed out" in str(cause) for cause in causes):
            return self._hangs()
        root = causes[-1]
        if isinstance(root, http.client.IncompleteRead) or (isinstance(root, OSError) and not _is_of_the_sdk(root)):
            return self.gone(root)
        if any(_broke_off(cause) for cause in causes):
            return self.gone()
        nonsense = (cause for cause in causes if isinstance(cause, ValueError | http.client.HTTPException))
        return self._garbled(next(nonsense, error))

    def _answer(self, error: Any) -> SandboxFailed | SandboxUnavailable:
        status = error.status_code or 500
        explained = error.explanation or str(error)
        said = one_line(explained.decode("utf-8", "replace") if isinstance(explained, bytes) else str(explained), 500)
        if status == 404:
            return Missing(f"{self}: {said}")
        if "no space left on device" in said:
            hint = "make room on its disk, for example: docker system prune"
            return SandboxUnavailable(f"{self}: {said}", hint=hint, id="sandbox_disk_full")
        if status in _AWAY:
            return self.gone(error)
        return Refused(f"{self}: {said}", status)

    def gone(self, error: BaseException | None = None) -> SandboxUnavailable:
        """The error for an engine that cannot be reached."""
        text = (one_line(str(error), 300) if error is not None else "") or "the connection ended"
        podman = "podman" in self.place.url
        hint = "start Docker (sudo systemctl start docker, or Docker Desktop), or use another --sandbox"
        if podman:
            hint = "start Podman's socket (systemctl --user start podman.socket), or use another --sandbox"
        if self._tunnel is not None:
            text = one_line(self._tunnel.said(), 300) or text
            hint = f"try: {self._tunnel.command}"
        elif is_no_socket(self.place.url):
            text = "that is no socket"
            hint = "name the socket of an engine, such as unix:///var/run/docker.sock (see: docker context ls)"
        elif any(isinstance(cause, ssl.SSLError) for cause in _causes(error)):
            hint = f"look at ca.pem, cert.pem and key.pem in {self.place.certificates or 'DOCKER_CERT_PATH'}"
        elif "ermission denied" in text and podman:
            hint = "use Podman of your own: --sandbox docker+unix://$XDG_RUNTIME_DIR/podman/podman.sock"
        elif "ermission denied" in text:
            hint = "sudo usermod -aG docker $USER, then log in again; or use rootless Docker"
        named = self.place.said_by if self.place.said_by == DEFAULT else f"named by {self.place.said_by}"
        return SandboxUnavailable(f"{self} ({named}) cannot be reached: {text}", hint=hint, id="sandbox_gone")

    def _hangs(self) -> SandboxUnavailable:
        text = f"{self} did not answer within {self.patience:g} s"
        return SandboxUnavailable(text, hint="restart Docker (sudo systemctl restart docker)", id="sandbox_hangs")

    def _garbled(self, error: object) -> SandboxUnavailable:
        return SandboxUnavailable(
            f"{self} answers as no Docker engine does: {one_line(str(error), 200)}",
            hint="see what listens there: docker version",
            id="sandbox_garbled",
        )

    # --- connections ---------------------------------------------------------------------------------

    def _client(self, deadline: float) -> Any:
        """This thread's client, for a call that ends at `deadline`."""
        if self._closed:
            raise SandboxFailed("the sandbox is closed")
        kept: _Kept | None = getattr(self._local, "kept", None)
        if kept is None:
            kept = _Kept(self._connect(deadline))
            with self._lock:
                if not self._closed:
                    self._all.add(kept)
                    self._local.kept = kept
                    return kept.client
            kept.close()
            raise SandboxFailed("the sandbox is closed")
        _start(kept.client, deadline)
        return kept.client

    def _connect(self, deadline: float) -> Any:
        if not self._version:
            client = self._new_client(".".join(str(n) for n in _OLDEST), deadline)
            with contextlib.closing(client):
                self._version = self._agree(client)
        return self._new_client(self._version, deadline)

    def _agree(self, client: Any) -> str:
        """The version of the API to speak: the engine's own."""
        from docker.errors import APIError

        try:
            said = client.version(api_version=False)
        except APIError as error:
            garbled = self._garbled(self._answer(error))
            if "HTTPS server" in garbled.message:
                garbled.hint = "it wants TLS: set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to where ca.pem is"
            raise garbled from error
        version = str(said.get("ApiVersion", "")) if isinstance(said, dict) else ""
        if not re.fullmatch(r"\d{1,3}\.\d{1,3}", version):
            raise self._garbled("it names no version of its API")
        if tuple(int(n) for n in version.split(".")) < _OLDEST:
            raise SandboxUnavailable(
                f"{self} is too old: it speaks version {version} of the API",
                hint=f"Docker 20.10 or later is needed (version {'.'.join(str(n) for n in _OLDEST)})",
                id="sandbox_too_old",
            )
        return version

    def _new_client(self, version: str, deadline: float) -> Any:
        from docker import APIClient

        from minitango.sandbox._docker_http import Adapter, Haste

        door = self._find_door()
        url = self.place.url if door is None else "unix:///engine"  # the adapter knows better
        try:
            client = APIClient(base_url=url or None, version=version, timeout=self.patience)
        except Exception as error:
            raise ConfigError(
                f"Docker's settings in {config_folder()} cannot be used: {one_line(str(error), 200)}",
                hint="docker version",
                id="docker_config",
            ) from error
        if door is not None:
            client.adapters.clear()
            with self._lock:
                if self._haste is None:
                    self._haste = Haste()
                    self._haste.deadline = self._hurry
            client.mount("http+docker://", Adapter(door, self.patience, self._haste))
            client.trust_env = False  # no proxy, no password
            client.max_redirects = 0
        _start(client, deadline)
        return client

    def _find_door(self) -> Door | None:
        """How the engine is reached; None: by what the SDK has for Windows' pipes."""
        from minitango.sandbox._docker_http import Door, tls

        place = self.place
        with self._lock:
            if self._door is not None:
                return self._door
            if place.url.startswith("npipe:") or (not place.url and sys.platform == "win32"):
                return None
            if place.url.startswith("ssh:"):
                from minitango.sandbox._docker_ssh import Tunnel

                self._tunnel = Tunnel(place.url)
                self._door = Door(self._tunnel.path)
            elif place.url.startswith("unix:") or not place.url:
                self._door = Door(place.url.removeprefix("unix://") or usual_sockets()[0].as_posix())
            else:
                parts = urlsplit(place.url)
                try:
                    secure = parts.scheme == "https" or (place.certificates and parts.scheme == "tcp")
                    context = tls(place.certificates, verify=place.verify) if secure else None
                except OSError as error:
                    raise ConfigError(
                        f"{place.said_by}: the certificates in {place.certificates} cannot be used: {error}",
                        hint="ca.pem, cert.pem and key.pem are needed there",
                        id="docker_tls",
                    ) from error
                self._door = Door((str(parts.hostname), parts.port or (2376 if secure else 2375)), context)
            return self._door

    def drop(self) -> None:
        """Let go of this thread's connections, which may be dead."""
        kept: _Kept | None = getattr(self._local, "kept", None)
        if kept is not None:
            self._local.kept = None
            kept.close()

    def close(self) -> None:
        """Let go of everything, calls that are under way included. Idempotent."""
        self.hurry(0.0)
        with self._lock:
            self._closed = True
            every = list(self._all)
            tunnel, self._tunnel = self._tunnel, None
        for kept in every:
            kept.close()
        if tunnel is not None:
            tunnel.close()


def cut(client: Any) -> None:
    """End whatever this client has under way, from any thread. It is of no use any more."""
    for budget in _budgets(client):
        budget.cut()


def _start(client: Any, deadline: float) -> None:
    for budget in _budgets(client):
        budget.start(deadline)


def _budgets(client: Any) -> Iterator[Budget]:
    """None where the SDK's own adapter is used."""
    for adapter in client.adapters.values():
        budget = getattr(adapter, "budget", None)
        if budget is not None:
            yield budget


def _is_of_the_sdk(error: OSError) -> bool:
    """Whether it is an error of `requests`, all of which are OSErrors by inheritance alone."""
    return hasattr(error, "request")


def _broke_off(error: BaseException) -> bool:
    """Whether it is about an answer that ended before anything was said, or between two of its pieces."""
    return "ended prematurely" in str(error) or (isinstance(error, json.JSONDecodeError) and not error.doc)


def _causes(error: BaseException | None, before: BaseException | None = None) -> Iterator[BaseException]:
    """The error, and what led to it, to the first, but not to `before`. urllib3 keeps that of TLS as an argument
    alone."""
    while error is not None and error is not before:
        yield error
        within = next((one for one in error.args if isinstance(one, BaseException)), None)
        error = error.__cause__ or error.__context__ or within
