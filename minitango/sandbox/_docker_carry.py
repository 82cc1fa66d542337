"""How what is ours gets into a container: the supervisor, the helper, an /etc in which the job's user has a name, and
the bundle of a step.

Where the Docker engine sees our files, they are mounted, read-only. Where it does not (another machine, another mount
namespace), an image is made of each image that is used, with ours in it: one thin layer, known by digest and gone with
its owner.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import secrets
import shutil
import tarfile
import threading
import time
from collections.abc import Iterable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from minitango.archive import File
from minitango.errors import SandboxFailed, SandboxUnavailable
from minitango.sandbox._docker_engine import Engine, Missing
from minitango.sandbox._docker_owner import PREFIX, Owner
from minitango.sandbox._docker_profile import BUNDLE, HELPER_FILES, HOME, SUPERVISOR
from minitango.sandbox._frames import encode_path
from minitango.sandbox._helper import helper_files
from minitango.sandbox._spec import UIDS
from minitango.sandbox.contract import Bundle
from minitango.text import one_line

_MACHINES: Final = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}

_SLOW: Final = 10
"""How much longer a build may take than another call: a bundle may go over a slow network."""
_KEPT: Final = 600.0
"""Seconds for which a bundle that nobody asks for is kept: a box needs it only while it opens."""

_ETC: Final = {
    "passwd": "root:x:0:0:root:/:/bin/sh\n" + "".join(f"job:x:{uid}:{uid}:job:/tmp:/bin/sh\n" for uid in UIDS),
    "group": "root:x:0:\n" + "".join(f"job:x:{uid}:\n" for uid in UIDS),
    "hosts": "127.0.0.1 localhost job\n::1 localhost\n",
}
_USERS: Final = ("passwd", "group")
"""A job that is root changes to users of its image: there, these stay the image's."""


class _Config(Struct):
    triggers: list[str] | None = msgspec.field(name="OnBuild", default=None)


class _Inspected(Struct):
    config: _Config | None = msgspec.field(name="Config", default=None)


class _Made(Struct):
    id: str = msgspec.field(name="Id")


def _etc(root: bool) -> dict[str, str]:
    return {name: text for name, text in _ETC.items() if not (root and name in _USERS)}


def machine_of(architecture: str) -> str:
    """What Linux calls this architecture of Docker's. SandboxUnavailable where there is no supervisor for it."""
    machine = _MACHINES.get(architecture)
    if machine is None:
        raise SandboxUnavailable(
            f"minitango has no supervisor for a machine of the kind {one_line(architecture, 40)!r}",
            hint="use a Docker engine on x86-64 or aarch64",
            id="sandbox_machine",
        )
    return machine


def supervisor(machine: str) -> bytes:
    """The program for this machine."""
    return resources.files("minitango.sandbox.supervisor").joinpath(f"supervise-{machine}").read_bytes()


def archive(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A tar of these files, by path, with their modes; and of the directories above them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        folders: set[str] = set()
        for path, (mode, data) in files.items():
            parts = path.split("/")[:-1]
            for folder in ("/".join(parts[: n + 1]) for n in range(len(parts))):
                if folder not in folders:
                    folders.add(folder)
                    info = tarfile.TarInfo(folder)
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(info)
            info = tarfile.TarInfo(path)
            info.mode, info.size = mode, len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Carrier:
    """Made once for each sandbox. Thread-safe."""

    def __init__(self, engine: Engine, owner: Owner, architecture: str) -> None:
        self._engine = engine
        self._owner = owner
        self.mounts = True
        """Whether the engine sees our files: true until the probe says otherwise."""
        self.machine = machine_of(architecture)
        self._programs = {f"{HOME}/supervise": (0o755, supervisor(self.machine))}
        for name, content in helper_files(self.machine).items():
            self._programs[f"{HELPER_FILES}/{name}"] = content
        self._lock = threading.Lock()
        self.making = ""
        """The name of the container of which an image is being made."""
        self._images: dict[tuple[str, bool, str], str] = {}
        """What was made of an image, for jobs that are root or not, with a bundle or without."""
        self._plain: list[str] = []
        """Images that were made to be built on."""
        self._bundles: dict[str, float] = {}
        """When each that is laid out was last asked for."""
        try:
            _make_folder(owner.home / "bin" / "bundle")
            for name, (mode, data) in self._programs.items():
                path = owner.home / "bin" / name.removeprefix(f"{HOME}/")
                _make_folders(owner.home / "bin", path.parent)
                _write(path, mode, data)
            for name, text in _ETC.items():
                _write(owner.home / name, 0o644, text.encode())
        except OSError as error:
            raise _no_room(owner, error) from error

    def binds(
        self, network: Literal["none", "open"], bundle: Bundle | None, *, root: bool = False
    ) -> list[tuple[str, str]]:
        """What to mount into a container, read-only: (path on the host, path inside). Good for `_KEPT` seconds. `root`:
        that is who its job is."""
        if not self.mounts:
            return []
        home = self._owner.home
        names = [name for name in _etc(root) if network == "none" or name != "hosts"]
        found = [(str(home / "bin"), HOME), *((str(home / name), f"/etc/{name}") for name in names)]
        if bundle is not None:
            found.append((str(self._laid_out(bundle)), BUNDLE))
        return found

    def _laid_out(self, bundle: Bundle) -> Path:
        """The bundle as a directory: made once, and removed when nobody has asked for it for long."""
        with self._lock:
            now = time.monotonic()
            for digest, used in list(self._bundles.items()):
                if now - used > _KEPT and digest != bundle.digest:
                    del self._bundles[digest]
                    shutil.rmtree(self._bundle_folder(digest), ignore_errors=True)
            folder = self._bundle_folder(bundle.digest)
            if bundle.digest not in self._bundles:
                try:
                    _lay_out(folder, bundle.files)
                except OSError as error:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise _no_room(self._owner, error) from error
            self._bundles[bundle.digest] = now
            return folder

    def _bundle_folder(self, digest: str) -> Path:
        return self._owner.home / f"bundle-{_short(digest)}"

    def image(self, digest: str, bundle: Bundle | None, *, root: bool = False) -> str:
        """What to make a container of, where this image is asked for. Missing where it is not there any more."""
        if self.mounts:
            return digest
        plain = (digest, root, "")
        key = (digest, root, bundle.digest if bundle is not None else "")
        with self._lock:
            if key not in self._images:
                if plain not in self._images:
                    self._images[plain] = self._derive(digest, self._own_files(root))
                if bundle is not None:
                    base = self._images[plain]
                    files = {f"root{BUNDLE}/{file.path}": _content(file) for file in bundle.files}
                    self._images[key] = self._derive(base, files or {f"root{BUNDLE}/.empty": (0o644, b"")})
            return self._images[key]

    def forget(self, digest: str) -> None:
        """What `image` gave for it is not there any more."""
        with self._lock:
            for key in [key for key in self._images if key[0] == digest]:
                del self._images[key]

    def _own_files(self, root: bool) -> dict[str, tuple[int, bytes]]:
        files = {f"root{name}": content for name, content in self._programs.items()}
        return files | {f"root/etc/{name}": (0o644, text.encode()) for name, text in _etc(root).items()}

    def _derive(self, base: str, files: dict[str, tuple[int, bytes]]) -> str:
        """An image of `base` with these files below `root/` in it. Missing where that is not there any more."""
        found = self._engine.ask(lambda api: api.inspect_image(base), _Inspected)
        if found.config is not None and found.config.triggers:
            base = self._without_triggers(base)
        context = archive({**files, "Dockerfile": (0o644, f"FROM {base}\nCOPY root/ /\n".encode())})
        labels = self._owner.labels()
        slow = _SLOW * self._engine.patience
        for line in self._engine.call(partial(_build, context=context, labels=labels), patience=slow):
            if not isinstance(line, dict):
                continue
            if line.get("error"):
                text = one_line(str(line["error"]), 300)
                if "o such image" in text:  # it went in this moment
                    raise Missing(text)
                raise SandboxFailed(f"what is ours could not be added to {base}: {text}", id="sandbox_start")
            made = line.get("aux")
            if isinstance(made, dict) and "ID" in made:
                return str(made["ID"])
        raise SandboxFailed(f"what is ours could not be added to {base}", id="sandbox_start")

    def _without_triggers(self, base: str) -> str:
        """The same image without its ONBUILD: that is for whoever builds on it, and we only add to it."""
        labels = self._owner.labels()
        self.making = f"{PREFIX}{self._owner.name}-image-{secrets.token_hex(4)}"
        config = {"Image": base, "Cmd": [SUPERVISOR], "Labels": labels, "NetworkDisabled": True}
        try:
            self._engine.call(partial(_create, config=config, name=self.making))
            try:
                made = self._engine.ask(partial(_commit, name=self.making), _Made, again=False)
            finally:
                with contextlib.suppress(SandboxFailed):  # it is swept, then
                    self._engine.call(partial(_remove_container, name=self.making))
        finally:
            self.making = ""
        self._plain.append(made.id)
        return made.id

    def close(self) -> None:
        """Remove the images that were made, as far as the engine lets us."""
        with self._lock:
            images, self._images, self._plain = [*self._plain, *self._images.values()], {}, []
        for image in reversed(images):  # what was built on another before that
            try:
                self._engine.call(partial(_remove, image=image))
            except SandboxFailed:
                continue
            except SandboxUnavailable:
                return


def _build(api: Any, *, context: bytes, labels: dict[str, str]) -> list[Any]:
    said = api.build(
        fileobj=io.BytesIO(context), custom_context=True, labels=labels, rm=True, forcerm=True, decode=True
    )
    return list(said)


def _create(api: Any, *, config: dict[str, Any], name: str) -> None:
    api.create_container_from_config(config, name)


def _commit(api: Any, *, name: str) -> Any:
    return api.commit(name)


def _remove_container(api: Any, *, name: str) -> None:
    api.remove_container(name, force=True, v=True)


def _make_folder(path: Path) -> None:
    """With its parents; whatever the umask, all may look into it: in the container we are another user."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)
    path.parent.chmod(0o755)


def _make_folders(above: Path, folder: Path) -> None:
    """Each down from `above`; whatever the umask, all may look into them."""
    for part in reversed([folder, *folder.parents]):
        if part.is_relative_to(above) and part != above:
            part.mkdir(exist_ok=True)
            part.chmod(0o755)


def _write(path: Path, mode: int, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(mode)


def _content(file: File) -> tuple[int, bytes]:
    return (0o755 if file.executable else 0o644), file.data


def _lay_out(folder: Path, files: Iterable[File]) -> None:
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    for file in files:
        encode_path(file.path)  # ValueError for an unsafe one
        *parents, name = file.path.split("/")
        place = folder.joinpath(*parents)
        _make_folders(folder, place)
        _write(place / name, *_content(file))


def _short(digest: str) -> str:
    return hashlib.sha256(digest.encode()).hexdigest()[:16]


def _no_room(owner: Owner, error: OSError) -> SandboxUnavailable:
    hint = "make room, or choose another --state DIR"
    return SandboxUnavailable(f"{owner.home}: {error.strerror}", hint=hint, id="sandbox_disk_full")


def _remove(api: Any, *, image: str) -> None:
    api.remove_image(image, force=True)
