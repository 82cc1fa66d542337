"""Pulling an image from its registry: progress for people, and what its failures mean."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Final

from minitango import image_name
from minitango.errors import ConfigError, MinitangoError, SandboxUnavailable
from minitango.sandbox._docker_engine import Engine, Missing, Refused
from minitango.sandbox._docker_stream import SILENCE, Message, Silent, Teller, check_disk, follow
from minitango.text import human_seconds, one_line

_MAX_LAYERS: Final = 1000

# The engine's words are all there is to tell its reasons apart: 404 and 500 are each used for several of them.
_FOREIGN: Final = re.compile(r"no match(ing manifest)? for|no match for platform|no image found in .* for architecture")
_AWAY: Final = re.compile(
    r"dial tcp|no such host|time-?out|timed out|TLS handshake|connection re|connection closed|\bEOF\b|x509"
    r"|too ?many ?requests"
    r"|request canceled|server misbehaving|unreachable|no route to host|unexpected HTTP status: 5|deadline exceeded"
    r"|HTTP response to HTTPS",
    re.IGNORECASE,
)
_PRIVATE: Final = re.compile(
    r"unauthorized|authentication required|basic auth|denied|forbidden|insufficient_scope|invalid username",
    re.IGNORECASE,
)
_MISSING: Final = re.compile(r"manifest unknown|not found|does not exist|name unknown|no such image", re.IGNORECASE)


def pull(
    engine: Engine, name: str, *, tell: Callable[[str], None], closed: threading.Event, silence: float = SILENCE
) -> None:
    """Have the engine pull this image. Raises as `failed`, and what `follow` raises but Silent."""
    began = time.monotonic()
    progress = _Pull(name)
    teller = Teller(tell)
    teller(progress.text())
    try:
        for message in follow(engine, lambda api: api.pull(name, stream=True), closed=closed, silence=silence):
            if message.error is not None:
                raise failed(engine, name, message.error)
            progress.add(message)
            teller(progress.text())
    except (Missing, Refused) as error:
        raise failed(engine, name, str(error).removeprefix(f"{engine}: ")) from error
    except SandboxUnavailable as error:
        if error.id != "sandbox_garbled" or "redential" not in error.message:
            raise
        host = image_name.registry(name)
        raise ConfigError(
            f"Docker's login for the image {name} cannot be read: {one_line(str(error.__cause__), 300)}",
            hint=f"docker login{f' {host}' if host else ''}",
            id="image_login",
        ) from error
    except Silent as error:
        raise away(name, f"nothing came for {human_seconds(silence)}") from error
    tell(one_line(f"pulled {name} in {human_seconds(time.monotonic() - began)}", 120))


class _Pull:
    """How far a pull is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loaded: dict[str, tuple[int, int]] = {}
        self._unpacked: dict[str, tuple[int, int]] = {}

    def add(self, message: Message) -> None:
        stages = {"Downloading": self._loaded, "Extracting": self._unpacked}
        layer, stage = message.id or "", stages.get(message.status or "")
        if stage is not None and message.progress is not None and len(stage) < _MAX_LAYERS:
            current, total = message.progress.current or 0, message.progress.total or 0
            if 0 <= current <= total:
                stage[layer] = current, total
        elif message.status in ("Download complete", "Pull complete"):
            for each in stages.values():
                if layer in each:
                    each[layer] = each[layer][1], each[layer][1]

    def text(self) -> str:
        """`pulling gcc:14: 43 of 120 MB`."""
        done, total = _sums(self._loaded)
        if total and done < total:
            return f"pulling {self._name}: {_megabytes(done, total)}"
        done, total = _sums(self._unpacked)
        return f"pulling {self._name}: unpacking {_megabytes(done, total)}" if total else f"pulling {self._name}"


def _sums(stage: dict[str, tuple[int, int]]) -> tuple[int, int]:
    return sum(current for current, _ in stage.values()), sum(total for _, total in stage.values())


def _megabytes(done: int, total: int) -> str:
    """In millions of bytes, as registries and Docker count."""
    digits = 1 if total < 10_000_000 else 0
    return f"{done / 1e6:.{digits}f} of {total / 1e6:.{digits}f} MB"


def failed(engine: Engine, name: str, said: str) -> MinitangoError:
    """What it means that an image could not be pulled, by what the engine said.

    ConfigError `image_arch`, `image_missing`: this name cannot be had. Anything else is taken to pass:
    SandboxUnavailable `sandbox_registry`.
    """
    check_disk(engine, said)
    said = one_line(said.strip(), 300)
    if _FOREIGN.search(said):
        return ConfigError(
            f"there is no image {name} for this engine's machine: {said}",
            hint="name another image, or one that was built for several architectures",
            id="image_arch",
        )
    if _AWAY.search(said):
        return away(name, said)
    if _PRIVATE.search(said):
        host = image_name.registry(name)
        return ConfigError(
            f"the image {name} is not there, or is private: {said}",
            hint=f"correct the image's name; if it is private: docker login{f' {host}' if host else ''}",
            id="image_missing",
        )
    if _MISSING.search(said):
        return missing(name, said)
    return away(name, said)


def missing(name: str, said: str, hint: str = "") -> ConfigError:
    return ConfigError(
        f"there is no image {name}: {said}",
        hint=hint or f"correct the image's name; to see for yourself: docker pull {name}",
        id="image_missing",
    )


def away(name: str, said: str) -> SandboxUnavailable:
    return SandboxUnavailable(
        f"the image {name} cannot be pulled now: {said}",
        hint=f"look at the network and the registry, then: docker pull {name}",
        id="sandbox_registry",
    )
