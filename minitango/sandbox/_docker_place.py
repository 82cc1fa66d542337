"""Where a Docker engine listens, as `docker` itself would find out."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from minitango.errors import ConfigError
from minitango.text import one_line

DEFAULT: Final = "Docker's default"
"""What names a place that nothing named."""


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
    """The engine at `url`; else that of DOCKER_HOST, of Docker's current context, or at a usual socket, of those
    that we may use if there is one.

    ConfigError where a context or URL, or Docker's own settings, cannot be used.
    """
    environ = os.environ
    if url:
        return _checked(Place(url, f"--sandbox docker+{url}", *_certificates()))
    if environ.get("DOCKER_HOST"):
        return _checked(Place(environ["DOCKER_HOST"], "DOCKER_HOST", *_certificates()))
    context = environ.get("DOCKER_CONTEXT") or _current_context()
    if context and context != "default":
        return _checked(_of_context(context))
    there = [path for path in usual_sockets() if _is_socket(path)]
    for path in (*(path for path in there if os.access(path, os.W_OK)), *there):  # ours first, before root's
        return Place(f"unix://{path}", str(path))
    return Place(
        "npipe:////./pipe/docker_engine" if sys.platform == "win32" else "unix:///var/run/docker.sock", DEFAULT
    )


def is_no_socket(url: str) -> bool:
    """Whether something else is at this address on this machine: a file, a folder."""
    path = Path(url.removeprefix("unix://"))
    try:
        return url.startswith("unix://") and path.exists() and not path.is_socket()
    except OSError:
        return False


def _is_socket(path: Path) -> bool:
    try:
        return path.is_socket()
    except OSError:  # in a directory that is not for us, as /run/podman
        return False


def _certificates() -> tuple[str, bool]:
    """Where those for TLS are, and whether the engine must have one, as `docker` takes it from the environment."""
    folder, verify = os.environ.get("DOCKER_CERT_PATH", ""), os.environ.get("DOCKER_TLS_VERIFY", "") != ""
    return folder or (str(config_folder()) if verify else ""), verify or not folder


def _checked(place: Place) -> Place:
    if not re.match(r"(unix|npipe)://.", place.url) and not _has_host(place.url):
        raise ConfigError(
            f"{place.said_by}: {one_line(repr(place.url), 200)} is no address of a Docker engine",
            hint="use unix:///path/docker.sock, tcp://host:2376 or ssh://user@host",
            id="docker_url",
        )
    return place


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("tcp", "http", "https", "ssh") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def config_folder() -> Path:
    """Where Docker's client has its settings."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def _current_context() -> str:
    """The context that Docker's client is set to; empty: none."""
    path = config_folder() / "config.json"
    try:
        text = path.read_text()
    except (OSError, RuntimeError):  # as where there are none
        return ""
    except ValueError as error:
        raise _settings(path, error) from error
    try:
        name = json.loads(text.strip() or "{}").get("currentContext") or ""
    except (ValueError, AttributeError, RecursionError) as error:
        raise _settings(path, error if isinstance(error, ValueError) else "no object") from error
    if not isinstance(name, str):
        raise _settings(path, "currentContext is no text")
    return name


def _settings(path: Path, what: object) -> ConfigError:
    return ConfigError(
        f"Docker's settings in {path} cannot be read: {one_line(str(what), 200)}",
        hint="correct the file, or move it away: docker version",
        id="docker_config",
    )


def _of_context(name: str) -> Place:
    digest = hashlib.sha256(name.encode()).hexdigest()
    try:
        contexts = config_folder() / "contexts"
        endpoint = json.loads((contexts / "meta" / digest / "meta.json").read_text())["Endpoints"]["docker"]
        url, skip = str(endpoint["Host"]), bool(endpoint.get("SkipTLSVerify", False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"Docker's context {name!r} cannot be read: {error}",
            hint="docker context ls; docker context use default",
            id="docker_context",
        ) from error
    tls = contexts / "tls" / digest / "docker"
    return Place(url, f"the context {name!r}", str(tls) if tls.is_dir() else "", not skip)


def usual_sockets() -> list[Path]:
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
