"""Images for the tests, without a registry where this machine is a Debian or Ubuntu and we are root.

All are archives as `docker save` makes them, so that an image has the same id in every engine. The large one, a small
Debian with make, gcc, Python and pytest, is made once by debootstrap and kept beside the environment that runs the
tests.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from filelock import FileLock

from tests.docker_engine import client, need_docker, unavailable

SUITE = "bookworm"
PACKAGES = "python3,procps,busybox-static,make,gcc,libc6-dev,python3-pytest"
LEFT_OUT = (
    *("./dev/*", "./proc/*", "./sys/*", "./tmp/*", "./var/log/*", "./var/cache/apt/*", "./var/lib/apt/lists/*"),
    *("./usr/share/doc/*", "./usr/share/locale/*", "./usr/share/man/*"),
)
RECIPE = hashlib.sha256(f"1 {SUITE} {PACKAGES} {LEFT_OUT}".encode()).hexdigest()[:12]
"""Names what these say: change them, and another image is made."""
PYTHON = f"minitango-test-python:{RECIPE}"
FROM_REGISTRY = "python:3.12-slim-bookworm"
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
FOREIGN = "arm64" if MACHINE == "amd64" else "amd64"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def python_image() -> str:
    """The name of an image with bash, coreutils, perl, make, gcc, Python and pytest, in the engine of `need_docker`.

    MINITANGO_TEST_IMAGE names another. Skips the test where there is none and none can be had; fails it where CI=true.
    """
    url = need_docker()
    named = os.environ.get("MINITANGO_TEST_IMAGE")
    ours = not named and can_make()
    name = PYTHON if ours else named or FROM_REGISTRY
    with client(url, timeout=300) as engine, FileLock(cache() / "image.lock"):
        if any(name in image["RepoTags"] for image in engine.api.images(name)):
            return name
        if ours:
            need_made()
            with _archive().open("rb") as archive:
                engine.images.load(archive)
            return name
        try:
            engine.images.pull(name)
        except Exception as error:
            unavailable(f"the image {name} cannot be pulled: {error} (try: docker pull {name}, or bin/test as root)")
        return name


def busybox(url: str) -> str:
    """Give an engine an image of busybox alone (sh, no Python; 2 MB), and return its name.

    Skips the test where it cannot be made; fails it where CI=true.
    """
    if not _busybox().exists():
        if not can_make():
            unavailable("no busybox for an image (try: bin/test as root)")
        need_made()
    return load(url, f"minitango-test-busybox:{RECIPE}", busybox_layer())


def copy(name: str, url: str) -> None:
    """Give another engine the image that the engine of `need_docker` has under this name."""
    with client(need_docker(), timeout=300) as here, client(url, timeout=300) as there:
        there.images.load(here.images.get(name).save(named=True))


def load(url: str, name: str, layer: bytes, architecture: str = MACHINE) -> str:
    """Give an engine an image of this name and one layer, and return the name."""
    with client(url) as engine:
        engine.images.load(image_archive(name, layer, architecture))
    return name


def need_made() -> None:
    """Skip the test where `prepare` has not made what it makes: that takes longer than a test may. Fail it where
    CI=true."""
    if not (_archive().exists() and _busybox().exists()):
        unavailable("the image of the Docker tests is not made (try: bin/test, or python -m tests.docker_engine true)")


def busybox_layer() -> bytes:
    """The tar of a root with busybox and links to it."""
    binary = _busybox().read_bytes()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for folder in ("bin", "tmp", "etc"):
            tar.addfile(_entry(folder, tarfile.DIRTYPE, 0o755))
        program = _entry("bin/busybox", tarfile.REGTYPE, 0o755)
        program.size = len(binary)
        tar.addfile(program, io.BytesIO(binary))
        for applet in ("sh", "env", "cat", "echo", "printf", "sleep", "true", "mkdir", "ls", "touch", "yes"):
            link = _entry(f"bin/{applet}", tarfile.SYMTYPE, 0o777)
            link.linkname = "busybox"
            tar.addfile(link)
    return made.getvalue()


def empty_layer() -> bytes:
    """The tar of a root with nothing in it: no shell, no Python."""
    made = io.BytesIO()
    tarfile.open(fileobj=made, mode="w").close()
    return made.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


def image_archive(name: str, layer: bytes, architecture: str = MACHINE) -> bytes:
    """An image of one layer, as `docker load` takes it."""
    made = io.BytesIO()
    _write_archive(made, name, io.BytesIO(layer), hashlib.sha256(layer).hexdigest(), len(layer), architecture)
    return made.getvalue()


def _write_archive(
    to: io.BufferedIOBase, name: str, layer: io.BufferedIOBase, digest: str, size: int, architecture: str
) -> None:
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "2000-01-01T00:00:00Z",
            "config": {"Env": [PATH]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created": "2000-01-01T00:00:00Z", "created_by": "minitango's tests"}],
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]).encode()
    with tarfile.open(fileobj=to, mode="w") as tar:
        for path, data, length in (
            (f"{digest}/layer.tar", layer, size),
            (config_name, io.BytesIO(config), len(config)),
            ("manifest.json", io.BytesIO(manifest), len(manifest)),
        ):
            entry = _entry(path, tarfile.REGTYPE, 0o644)
            entry.size = length
            tar.addfile(entry, data)


# --- made once -----------------------------------------------------------------------------------


def can_make() -> bool:
    """Can a small Debian be made here, or is it there already?"""
    return _archive().exists() or (
        sys.platform == "linux" and os.geteuid() == 0 and shutil.which("debootstrap") is not None
    )


def prepare() -> None:
    """Make the archive of PYTHON, and the busybox from it, where they are wanted, possible and not there yet."""
    if os.environ.get("MINITANGO_TEST_IMAGE") or not can_make() or _archive().exists():
        return
    with FileLock(cache() / "make.lock"):
        if not _archive().exists():
            print("Making the image of the Docker tests (once, about half a minute)...", file=sys.stderr, flush=True)
            _make()


def _make() -> None:
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        root, layer, archive = Path(folder, "root"), Path(folder, "layer.tar"), Path(folder, "archive.tar")
        _do("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root))
        _do(
            "tar",
            "-C",
            str(root),
            *(f"--exclude={path}" for path in LEFT_OUT),
            "--numeric-owner",
            "-cf",
            str(layer),
            ".",
        )
        with layer.open("rb") as data:
            digest = hashlib.file_digest(data, "sha256").hexdigest()
            data.seek(0)
            with archive.open("wb") as to:
                _write_archive(to, PYTHON, data, digest, layer.stat().st_size, MACHINE)
        (root / "bin/busybox").replace(_busybox())
        archive.replace(_archive())


def _do(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace").splitlines()
        raise OSError("\n".join([f"{command[0]} failed:", *said[-5:]]))


def _archive() -> Path:
    return cache() / f"python-{RECIPE}.tar"


def _busybox() -> Path:
    return cache() / f"busybox-{RECIPE}"


def cache() -> Path:
    """A folder for what is made once: beside the environment that runs this, where that can be written."""
    place = Path(sys.prefix, ".cache")
    if sys.prefix == sys.base_prefix or not os.access(sys.prefix, os.W_OK):
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "minitango/images")
    place.mkdir(parents=True, exist_ok=True)
    return place
