"""One Docker engine as a place for boxes: connected, tried out, and all that a sandbox needs of it put together."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct, structs

from minitango.errors import SandboxFailed, SandboxUnavailable
from minitango.job import Limits
from minitango.sandbox._docker_carry import Carrier, archive
from minitango.sandbox._docker_containers import Containers
from minitango.sandbox._docker_engine import Engine
from minitango.sandbox._docker_images import Images
from minitango.sandbox._docker_owner import Owner
from minitango.sandbox._docker_place import find
from minitango.sandbox._docker_profile import SUPERVISOR, Features, memory_of
from minitango.sandbox._frames import Hello
from minitango.sandbox.contract import BoxSpec, Guarantees, Held, Mount
from minitango.text import one_line

T = TypeVar("T")

_TRIAL: Final = Limits(wall=20, memory=64 << 20, disk=8 << 20, pids=16, output=64 << 10, cpus=0.5)
_CAPABILITIES: Final = 1 << 5 | 1 << 6 | 1 << 7
"""KILL, SETGID and SETUID: all that the supervisor may have."""
_NOT_PID_1: Final = 2
"""Exit status of a supervisor that is started as a job."""


class _Part(Struct):
    name: str = msgspec.field(name="Name", default="")


class _Version(Struct):
    machine: str = msgspec.field(name="Arch", default="")
    parts: list[_Part] | None = msgspec.field(name="Components", default=None)


class _Info(Struct):
    cores: int = msgspec.field(name="NCPU", default=1)
    memory_limit: bool = msgspec.field(name="MemoryLimit", default=True)
    pids_limit: bool | None = msgspec.field(name="PidsLimit", default=True)
    cgroups: str = msgspec.field(name="CgroupVersion", default="")
    system: str = msgspec.field(name="OSType", default="linux")


class Yard:
    """Made once for each sandbox. SandboxUnavailable where no box comes up on this engine."""

    def __init__(
        self, state: Path, url: str, *, image: str, tell: Callable[[str], None], mounts: bool, patience: float
    ) -> None:
        self.engine = Engine(find(url), patience=patience)
        with contextlib.ExitStack() as undo:
            undo.callback(self.engine.close)
            try:
                self._set_up(state, image, tell, mounts, undo)
            except SandboxFailed as error:
                raise SandboxUnavailable(
                    f"{self.engine} does not give a container that works: {error}",
                    hint="look at: docker info; docker run --rm --network none IMAGE true",
                    id="sandbox_docker",
                ) from error
            self._undo = undo.pop_all()

    def _set_up(
        self, state: Path, image: str, tell: Callable[[str], None], mounts: bool, undo: contextlib.ExitStack
    ) -> None:
        version = self.engine.ask(lambda api: api.version(), _Version)
        info = self.engine.ask(lambda api: api.info(), _Info)
        _check_platform(self.engine, info)
        owner = Owner(state)
        undo.callback(owner.close)
        self._carrier = Carrier(self.engine, owner, version.machine)
        self._carrier.mounts = mounts
        undo.callback(self._carrier.close)
        self.images = Images(self.engine, tell=tell, default=image)
        undo.callback(self.images.close)
        self.containers = Containers(self.engine, owner, self._carrier, _features(version, info))
        undo.callback(self.containers.close)
        self._labels = owner.labels()
        self.guarantees = self._with_trial_image(self._try_out)

    def try_again(self) -> None:
        """Run a command in a box. SandboxUnavailable, SandboxFailed."""
        self._with_trial_image(self._one_box)

    def close(self) -> None:
        """Let go of everything: boxes, threads, connections."""
        self._undo.close()

    # --- trying out ----------------------------------------------------------------------------------

    def _with_trial_image(self, work: Callable[[], T]) -> T:
        self._trial = self.engine.call(partial(_import_trial, labels=self._labels))
        try:
            return work()
        finally:
            with contextlib.suppress(SandboxFailed, SandboxUnavailable):
                self.containers.settle()
                self.engine.call(partial(_remove_image, id=self._trial))

    def _try_out(self) -> Guarantees:
        hello = self._first_box()
        if not _is_alone(hello) and self.containers.features.network_disabled:
            # an engine that leaves a container without network quite alone: libnetwork's `none` brings loopback up
            self.containers.features = structs.replace(self.containers.features, network_disabled=False)
            hello = self._one_box()
        self._check_isolation(hello)
        notes: list[str] = []
        found: dict[str, Held] = {}
        for name, what, holds in (
            ("memory", "memory", hello.memory == memory_of(_TRIAL)),
            ("pids", "processes", hello.pids == _TRIAL.pids + 1),
            ("cpu", "cores", hello.cores is not None and abs(hello.cores - _TRIAL.cpus) < 0.01),
        ):
            found[name] = "cgroup" if holds else "none"
            if not holds:
                notes.append(f"the limit on {what} does not hold here: a rootless engine needs cgroup v2 and systemd")
        if found["memory"] == "none":
            if self.containers.features.podman:  # whose tmpfs bounds their bytes alone
                notes.append("the number of files in a job's directories has no limit here")
        elif not self.containers.enlarges:
            notes.append("files given to a job read-only count as its memory: the engine cannot enlarge a container's")
        if not hello.seccomp:
            notes.append("the engine does not filter system calls")
        return Guarantees(**found, disk="tmpfs", network="namespace", notes=tuple(notes))

    def _first_box(self) -> Hello:
        """A box that works; where our files are not seen, one of an image that has them."""
        if self._carrier.mounts:
            try:
                return self._one_box()
            except SandboxFailed:
                self._carrier.mounts = False
        return self._one_box()

    def _one_box(self) -> Hello:
        spec = BoxSpec((Mount("/job", writable=True),), "/job", _TRIAL, token="probe")  # noqa: S106
        box, hello = self.containers.open(spec, self._trial, {})
        try:
            box.enlarge(memory_of(_TRIAL))
            end = box.run([SUPERVISOR], env={}, output=lambda _: None)
        finally:
            box.close()
        if end.exit_status != _NOT_PID_1:
            raise SandboxFailed(f"a trial command did not work: {end}")
        return hello

    def _check_isolation(self, hello: Hello) -> None:
        faults = []
        if not _is_alone(hello):
            faults.append("a network other than localhost" if hello.other_interface else "no localhost")
        if hello.capabilities & ~_CAPABILITIES:
            faults.append(f"capabilities {hello.capabilities:x}")
        if not hello.no_new_privileges:
            faults.append("a way to new privileges")
        if faults:
            raise SandboxUnavailable(
                f"a container of {self.engine} has {', '.join(faults)}",
                hint="use another engine, or --sandbox bubblewrap",
                id="sandbox_not_isolated",
            )


def _features(version: _Version, info: _Info) -> Features:
    """What the engine says of itself. What matters for safety is tried, not believed."""
    podman = any("podman" in part.name.lower() for part in version.parts or [])
    return Features(
        cores=max(1, info.cores),
        podman=podman,
        network_disabled=not podman,
        limits=info.memory_limit and info.pids_limit is not False,
        private_cgroup=info.cgroups == "2",
    )


def _is_alone(hello: Hello) -> bool:
    """Whether there is localhost in the container, and no other network."""
    return hello.loopback and not hello.other_interface


def _check_platform(engine: Engine, info: _Info) -> None:
    if info.system not in ("linux", ""):
        system, hint = one_line(info.system, 20), "switch it to Linux containers"
        raise SandboxUnavailable(f"{engine} runs {system} containers", hint=hint, id="sandbox_not_linux")


def _import_trial(api: Any, *, labels: dict[str, str]) -> str:
    """An image with nothing in it, so that trying needs no registry."""
    said = api.import_image_from_data(archive({"etc/.minitango": (0o644, b"")}), changes=_label(labels))
    return str(json.loads(said.splitlines()[-1])["status"])


def _label(labels: dict[str, str]) -> list[str]:
    return [f"LABEL {key}={json.dumps(value)}" for key, value in labels.items()]


def _remove_image(api: Any, *, id: str) -> None:
    api.remove_image(id, force=True)
