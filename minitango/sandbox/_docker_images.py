"""The images of a Docker engine: pulled or built once, outside of any job's clock, and then named by their digest.

A name is looked at once: what it was then, it is for as long as this lives, though its tag moves.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Final

import msgspec
from msgspec import Struct

from minitango import archive, image_name
from minitango.archive import File
from minitango.errors import ConfigError, SandboxFailed, SandboxUnavailable
from minitango.sandbox._docker_build import Folder, build
from minitango.sandbox._docker_engine import Engine, Missing
from minitango.sandbox._docker_pull import missing, pull
from minitango.sandbox._docker_stream import SILENCE
from minitango.text import one_line

_MAX_VARIABLES: Final = 1000
_MAX_ENVIRONMENT: Final = 256 << 10
"""Characters of an image's environment."""
_MAX_PATH: Final = 1000
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")
_UNUSABLE: Final = re.compile("[\0\ud800-\udfff]")
_ALSO: Final = {"amd64": "386"}
"""What a machine runs besides its own."""


class _Config(Struct):
    env: list[str] | None = msgspec.field(default=None, name="Env")
    entrypoint: list[str] | None = msgspec.field(default=None, name="Entrypoint")
    command: list[str] | None = msgspec.field(default=None, name="Cmd")
    volumes: dict[str, Any] | None = msgspec.field(default=None, name="Volumes")


class _Inspected(Struct):
    id: str = msgspec.field(name="Id")
    architecture: str = msgspec.field(default="", name="Architecture")
    system: str = msgspec.field(default="", name="Os")
    config: _Config | None = msgspec.field(default=None, name="Config")


class _Version(Struct):
    architecture: str = msgspec.field(name="Arch")
    system: str = msgspec.field(name="Os")


class _Image(Struct, frozen=True):
    """What there is to know of an image. It never changes."""

    digest: str
    architecture: str
    system: str
    environment: dict[str, str]
    volumes: tuple[str, ...]
    command: tuple[str, ...]


class Images:
    """The images of one engine. Safe to use from any thread."""

    def __init__(self, engine: Engine, *, tell: Callable[[str], None], default: str, silence: float = SILENCE) -> None:
        """`tell` hears, in a line, how a pull or a build goes on; `default` is the image of steps that name none."""
        self._engine = engine
        self._tell = tell
        self._default = default
        self._silence = silence
        self._lock = threading.Lock()
        self._digests: dict[str, str] = {}
        self._images: dict[str, _Image] = {}
        self._tasks: dict[str, Future[str]] = {}
        self._platform: tuple[str, str] | None = None
        self._closed = threading.Event()

    def prepare(self, image: str, folder: Sequence[File] = ()) -> str:
        """See `Sandbox.prepare`. Calls for one image at the same time do the work once, and end alike."""
        source = self._source(image, folder)
        name = source.tag if isinstance(source, Folder) else source
        with self._lock:
            task = self._tasks.get(name)
            ours = task is None
            if task is None:
                task = self._tasks[name] = Future()
        if not ours:
            return task.result()
        try:
            digest = self._have(source, name)
        except BaseException as error:
            one_of_ours = isinstance(error, Exception)
            task.set_exception(error if one_of_ours else SandboxFailed(f"preparing {name} was interrupted"))
            raise
        else:
            task.set_result(digest)
            return digest
        finally:
            with self._lock:
                del self._tasks[name]

    def find(self, image: str, folder: Sequence[File] = ()) -> str:
        """See `Sandbox.find_image`."""
        source = self._source(image, folder)
        found = self._inspect(source.tag if isinstance(source, Folder) else source)
        return found.digest if found is not None else ""

    def digest(self, image: str) -> str:
        """See `Sandbox.image_digest`."""
        return self._digests.get(image or self._default, "")

    def environment(self, digest: str) -> dict[str, str]:
        """The image's own variables. SandboxUnavailable `sandbox_image_gone` where it is not there any more."""
        return dict(self._known(digest).environment)

    def command(self, digest: str) -> tuple[str, ...]:
        """See `Sandbox.image_command`."""
        return self._known(digest).command

    def volumes(self, digest: str) -> tuple[str, ...]:
        """The directories that the image declares to be volumes: each would be a disk of its own. As `environment`."""
        return self._known(digest).volumes

    def architecture(self, digest: str) -> str:
        """The image's machine in Docker's words: `amd64`, `arm64`. As `environment`."""
        return self._known(digest).architecture

    def close(self) -> None:
        """End what is being pulled or built: who waits for it gets SandboxFailed."""
        self._closed.set()

    # --- preparing ----------------------------------------------------------------------------------

    def _source(self, image: str, folder: Sequence[File]) -> str | Folder:
        if folder:
            platform = "/".join(self._engine_platform())
            digest = hashlib.sha256(platform.encode() + b"\n" + archive.pack(folder)).hexdigest()
            return Folder(image.removesuffix("/") + "/", folder, digest)
        name = image or self._default
        problem = image_name.problem(name)
        if problem:
            raise ConfigError(
                f"{one_line(repr(name), 120)} is no image's name: {problem}",
                hint="name one such as gcc:14 in assignment.toml" if image else "name one such as --image gcc:14",
                id="image_name",
            )
        return name

    def _have(self, source: str | Folder, name: str) -> str:
        """The digest of what the name was when it was first looked at; it is there when this returns."""
        known = self._digests.get(name)
        if known and self._inspect(known) is not None:
            return known
        found = self._inspect(name)
        if found is None:
            self._digests.pop(name, None)
            if isinstance(source, Folder):
                build(self._engine, source, tell=self._tell, closed=self._closed, silence=self._silence)
            elif image_name.is_id(source):
                raise missing(
                    source, "an id names only what this engine has", "name it as its registry does, such as gcc:14"
                )
            else:
                pull(self._engine, source, tell=self._tell, closed=self._closed, silence=self._silence)
            found = self._inspect(name)
        if found is None:
            raise SandboxFailed(f"{self._engine} says that the image {name} is there, and then that it is not")
        self._check_platform(source if isinstance(source, str) else source.name, found)
        self._digests[name] = found.digest
        return found.digest

    def _check_platform(self, name: str, image: _Image) -> None:
        system, machine = self._engine_platform()
        if image.system in ("", system) and image.architecture in ("", machine, _ALSO.get(machine)):
            return
        raise ConfigError(
            f"the image {name} is for {image.system}/{image.architecture}, and the engine's machine is "
            f"{system}/{machine}",
            hint=f"docker pull --platform {system}/{machine} {name}, or name another image",
            id="image_arch",
        )

    def _engine_platform(self) -> tuple[str, str]:
        """The engine's operating system and machine, in Docker's words."""
        if self._platform is None:
            version = self._engine.ask(lambda api: api.version(api_version=False), _Version)
            self._platform = one_line(version.system, 40), one_line(version.architecture, 40)
        return self._platform

    # --- asking --------------------------------------------------------------------------------------

    def _known(self, digest: str) -> _Image:
        image = self._images.get(digest) or self._inspect(digest)
        if image is None:
            raise SandboxUnavailable(
                f"the image {one_line(digest, 80)} is not there any more",
                hint="it is pulled or built again with the next attempt",
                id="sandbox_image_gone",
            )
        return image

    def _inspect(self, name: str) -> _Image | None:
        """What the engine has under this name or digest, now."""
        try:
            found = self._engine.ask(lambda api: api.inspect_image(name), _Inspected)
        except Missing:
            self._images.pop(name, None)
            return None
        digest = found.id if ":" in found.id else f"sha256:{found.id}"
        if not image_name.is_id(digest):
            raise SandboxFailed(f"{self._engine} calls the image {name} {one_line(repr(digest), 80)}")
        config = found.config or _Config()
        image = _Image(
            digest,
            one_line(found.architecture, 40),
            one_line(found.system, 40),
            _environment(config.env or []),
            _volumes(config.volumes or {}),
            _command([*(config.entrypoint or []), *(config.command or [])]),
        )
        self._images[digest] = image
        return image


def _command(words: Sequence[str]) -> tuple[str, ...]:
    """The words, where a process can be given them."""
    usable = len(words) <= _MAX_VARIABLES and sum(map(len, words)) <= _MAX_ENVIRONMENT
    return tuple(words) if usable and not any(map(_UNUSABLE.search, words)) and any(words[:1]) else ()


def _volumes(declared: Iterable[str]) -> tuple[str, ...]:
    plain = (
        path for path in declared if path.startswith("/") and len(path) <= _MAX_PATH and not _UNUSABLE.search(path)
    )
    return tuple(sorted({posixpath.normpath(path) for path in plain} - {"/"}))[:_MAX_VARIABLES]


def _environment(variables: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE, as far as a process can have them."""
    found: dict[str, str] = {}
    room = _MAX_ENVIRONMENT
    for variable in variables[:_MAX_VARIABLES]:
        name, _, value = variable.partition("=")
        room -= len(variable)
        if room < 0:
            break
        if _VARIABLE.fullmatch(name) and not _UNUSABLE.search(value):
            found[name] = value
    return found
