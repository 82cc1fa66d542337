"""How what is ours gets into a container: the supervisor, and an /etc in which the job's user has a name.

Where the Docker engine sees our files, they are mounted, read-only. Where it does not (another machine, another mount
namespace), an image is made of each image that is used, with ours in it: one thin layer, known by digest and gone with
its owner.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from functools import partial
from importlib import resources
from typing import Any, Final, Literal

from minitango.errors import SandboxFailed, SandboxUnavailable
from minitango.sandbox._docker_engine import Engine, Missing
from minitango.sandbox._docker_owner import Owner
from minitango.sandbox._docker_profile import HOME
from minitango.sandbox._spec import UIDS
from minitango.text import one_line

_MACHINES: Final = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}

_ETC: Final = {
    "passwd": "root:x:0:0:root:/:/bin/sh\n" + "".join(f"job:x:{uid}:{uid}:job:/tmp:/bin/sh\n" for uid in UIDS),
    "group": "root:x:0:\n" + "".join(f"job:x:{uid}:\n" for uid in UIDS),
    "hosts": "127.0.0.1 localhost job\n::1 localhost\n",
}


def supervisor(architecture: str) -> bytes:
    """The program for this architecture, as Docker names it. SandboxUnavailable where there is none."""
    machine = _MACHINES.get(architecture)
    if machine is None:
        raise SandboxUnavailable(
            f"minitango has no supervisor for a machine of the kind {one_line(architecture, 40)!r}",
            hint="use a Docker engine on x86-64 or aarch64",
            id="sandbox_machine",
        )
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
        self.program = supervisor(architecture)
        self._lock = threading.Lock()
        self._images: dict[str, str] = {}
        try:
            (owner.home / "bin").mkdir()
            (owner.home / "bin").chmod(0o755)
            self._write("bin/supervise", 0o755, self.program)
            for name, text in _ETC.items():
                self._write(name, 0o644, text.encode())
        except OSError as error:
            raise SandboxUnavailable(
                f"{owner.home}: {error.strerror}",
                hint="make room, or choose another --state DIR",
                id="sandbox_disk_full",
            ) from error

    def _write(self, name: str, mode: int, data: bytes) -> None:
        path = self._owner.home / name
        path.write_bytes(data)
        path.chmod(mode)

    def binds(self, network: Literal["none", "open"]) -> list[tuple[str, str]]:
        """What to mount into a container, read-only: (path on the host, path inside)."""
        if not self.mounts:
            return []
        home = self._owner.home
        names = [name for name in _ETC if network == "none" or name != "hosts"]
        return [(str(home / "bin"), HOME), *((str(home / name), f"/etc/{name}") for name in names)]

    def image(self, digest: str) -> str:
        """What to make a container of, where this image is asked for. Missing where it is not there any more."""
        if self.mounts:
            return digest
        with self._lock:
            if digest not in self._images:
                self._images[digest] = self._derive(digest)
            return self._images[digest]

    def forget(self, digest: str) -> None:
        """What `image` gave for it is not there any more."""
        with self._lock:
            self._images.pop(digest, None)

    def _derive(self, digest: str) -> str:
        files = {"root" + HOME + "/supervise": (0o755, self.program)}
        files |= {f"root/etc/{name}": (0o644, text.encode()) for name, text in _ETC.items()}
        files["Dockerfile"] = (0o644, f"FROM {digest}\nCOPY root/ /\n".encode())
        context = archive(files)
        tag = f"minitango/carry:{self._owner.name}-{hashlib.sha256(digest.encode()).hexdigest()[:16]}"
        said = self._engine.call(
            lambda api: list(
                api.build(
                    fileobj=io.BytesIO(context),
                    custom_context=True,
                    tag=tag,
                    labels=self._owner.labels(),
                    rm=True,
                    forcerm=True,
                    decode=True,
                )
            )
        )
        for line in said:
            if isinstance(line, dict) and line.get("error"):
                text = one_line(str(line["error"]), 300)
                if "o such image" in text or "not found" in text or "not exist" in text:
                    raise Missing(text)
                raise SandboxFailed(f"the supervisor could not be added to {digest}: {text}", id="sandbox_start")
        return str(self._engine.call(lambda api: api.inspect_image(tag), again=True)["Id"])

    def close(self) -> None:
        """Remove the images that were made, as far as the engine lets us."""
        with self._lock:
            images, self._images = list(self._images.values()), {}
        for image in images:
            try:
                self._engine.call(partial(_remove, image=image))
            except (SandboxFailed, SandboxUnavailable):
                continue


def _remove(api: Any, *, image: str) -> None:
    api.remove_image(image, force=True)
