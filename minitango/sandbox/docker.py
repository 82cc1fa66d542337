"""DockerSandbox: one fresh container for each box, on any Docker engine (or Podman's socket) that can be reached.

The parts: `_docker_engine` is the border to the engine; `_docker_images` what containers are made of, `_docker_carry`
how ours gets into them, `_docker_profile` what they look like; `_docker_containers` makes them and sees to their end;
`_docker_box` and `_docker_line` are the conversation with the supervisor in one (`supervisor/PROTOCOL.md`);
`_docker_owner` says whose they are; `_docker_yard` finds out what holds here, and puts it all together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minitango.archive import File
from minitango.errors import SandboxFailed
from minitango.sandbox._docker_engine import PATIENCE
from minitango.sandbox._spec import check_spec, default_state
from minitango.sandbox.contract import BoxSpec, Guarantees, OnePlace

if TYPE_CHECKING:
    from minitango.sandbox._docker_box import DockerBox
    from minitango.sandbox._docker_yard import Yard

DEFAULT_IMAGE: Final = "python:3.12-slim"
"""For steps that name no image."""


class DockerSandbox(OnePlace):
    """A `Sandbox`. Nothing is asked of the engine before it is used."""

    name = "docker"

    def __init__(
        self,
        state: str | Path | None = None,
        *,
        url: str = "",
        image: str = DEFAULT_IMAGE,
        tell: Callable[[str], None] = lambda _: None,
        mounts: bool = True,
        patience: float = PATIENCE,
    ) -> None:
        """`url` names an engine, else the one that `docker` itself would use; `image` is for steps that name none;
        `tell` hears, for people, what takes long. Without `mounts`, the engine is treated as one that does not see our
        files. `patience`: seconds that the engine has for an answer, and a container for a word."""
        self._state = Path(state) if state is not None else default_state()
        self._url = url
        self.default_image = image
        self._tell = tell
        self._mounts = mounts
        self._patience = patience
        self._lock = threading.Lock()
        self._yard: Yard | None = None
        self._closed = False

    def __str__(self) -> str:
        return self._url or "docker"

    def image_digest(self, image: str) -> str:
        """See `Sandbox.image_digest`."""
        yard = self._yard
        return yard.images.digest(image) if yard is not None else ""

    def prepare(self, image: str, folder: Sequence[File] = ()) -> str:
        """See `Sandbox.prepare`."""
        return self._set_up().images.prepare(image, folder)

    def image_command(self, digest: str) -> tuple[str, ...]:
        """See `Sandbox.image_command`."""
        return self._set_up().images.command(digest) if digest else ()

    def find_image(self, image: str, folder: Sequence[File] = ()) -> str:
        """See `Sandbox.find_image`."""
        return self._set_up().images.find(image, folder)

    def open(self, spec: BoxSpec) -> DockerBox:
        """See `Sandbox.open`."""
        check_spec(spec)
        yard = self._set_up()
        digest = spec.image or yard.images.prepare("")
        own, volumes = yard.images.environment(digest), yard.images.volumes(digest)
        return yard.containers.open(spec, digest, own, volumes)[0]

    def sweep(self) -> int:
        """See `Sandbox.sweep`."""
        return self._set_up().containers.sweep()

    def orphans(self) -> int:
        """See `Sandbox.orphans`."""
        return self._set_up().containers.orphans()

    def probe(self) -> Guarantees:
        """See `Sandbox.probe`."""
        return self._set_up().guarantees

    @property
    def cores(self) -> int | None:
        """Those of the engine's machine; None before anything was asked of it."""
        yard = self._yard
        return yard.containers.features.cores if yard is not None else None

    def trial(self) -> None:
        """Run a command in a box now, as `probe` did once. SandboxUnavailable, SandboxFailed."""
        before = self._yard
        if self._set_up() is before:
            before.try_again()

    def close(self) -> None:
        """See `Sandbox.close`."""
        with self._lock:
            self._closed = True
            yard, self._yard = self._yard, None
        if yard is not None:
            yard.close()

    def _set_up(self) -> Yard:
        with self._lock:
            if self._closed:
                raise SandboxFailed("the sandbox is closed")
            if self._yard is None:
                from minitango.sandbox._docker_yard import Yard

                self._yard = Yard(
                    self._state,
                    self._url,
                    image=self.default_image,
                    tell=self._tell,
                    mounts=self._mounts,
                    patience=self._patience,
                )
            return self._yard
