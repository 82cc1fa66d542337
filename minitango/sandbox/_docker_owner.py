"""Whose containers these are: name and proof of life of an engine of ours, and how those of dead ones are told.

STATE/docker/OWNER.lock    held as long as the engine lives
STATE/docker/OWNER/        what is shown in its containers

STATE/docker/state         a random word; the name of this state directory is made of it, and of which directory it is

Each container carries labels with its owner and where that owner's lock is. An owner is dead if its lock is free, as
seen by an engine of the same state directory, or of the same machine; or gone, as seen by one of the same machine.
Where nobody here can tell, it is left alone: a Docker engine may be shared by many machines, a path be the same on each
of them, and a state directory be a copy of another that is in use.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import secrets
import shutil
import sys
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from filelock import BaseFileLock, FileLock, Timeout

from minitango.errors import SandboxUnavailable

OWNER: Final = "minitango.owner"
HOME: Final = "minitango.home"
WHERE: Final = "minitango.where"
STATE: Final = "minitango.state"
TOKEN: Final = "minitango.token"  # noqa: S105
"""Labels of what is ours."""
PREFIX: Final = "minitango-"
"""How the names of containers begin; the owner's follows."""


class Owner:
    """This engine, as Docker's labels name it. Alive until `close`, or until its process dies."""

    def __init__(self, state: Path) -> None:
        """Settle below STATE/docker. SandboxUnavailable where that cannot be."""
        self._all = (state / "docker").absolute()
        try:
            self._all.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._state = _state(self._all)
            self.name, self._lock = self._settle()
            self.home = self._all / self.name
            self.home.mkdir(mode=0o755)
            self.home.chmod(0o755)  # whatever the umask
        except OSError as error:
            raise SandboxUnavailable(
                f"containers cannot be recorded in {self._all}: {error}",
                hint="name a state directory that can be written: --state DIR",
            ) from error

    def _settle(self) -> tuple[str, BaseFileLock]:
        while True:
            name = f"{os.getpid()}-{secrets.token_hex(4)}"
            lock = FileLock(self._all / f"{name}.lock", thread_local=False)
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
                if Path(lock.lock_file).exists():
                    return name, lock
            lock.release()  # another has taken it for a dead one's, in the moment before it was locked

    def labels(self) -> dict[str, str]:
        return {OWNER: self.name, HOME: str(self.home), WHERE: here(), STATE: self._state}

    def is_dead(self, labels: Mapping[str, str]) -> bool:
        """Whether the owner that these labels name is certainly dead."""
        name, home = labels.get(OWNER, ""), Path(labels.get(HOME, ""))
        if not name or name == self.name or home.name != name or not home.is_absolute():
            return False
        near = labels.get(WHERE) == here()
        if labels.get(STATE) == self._state:
            held = _held(self._all / f"{name}.lock")  # wherever it was mounted then
        else:
            held = _held(Path(f"{home}.lock")) if near else True
        return near if held is None else not held

    def clear(self) -> None:
        """Remove what dead owners of this state directory left in it."""
        for path in self._all.glob("*.lock"):
            home = path.with_suffix("")
            if home == self.home:
                continue
            lock = FileLock(path, thread_local=False)
            with contextlib.suppress(Timeout, OSError):
                lock.acquire(timeout=0)
                try:
                    shutil.rmtree(home, ignore_errors=True)
                    path.unlink()  # while it is held: whoever begins to live takes it, and looks, or does not get it
                finally:
                    lock.release()

    def close(self) -> None:
        """Give up the proof of life, and the directory."""
        shutil.rmtree(self.home, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path(self._lock.lock_file).unlink()
        self._lock.release()


def _state(folder: Path) -> str:
    """The name of a state directory: the same for as long as it stays where it is, and another for each copy of it."""
    path = folder / "state"
    if not path.exists():
        word = secrets.token_hex(16)
        made = folder / word
        made.write_text(word)
        with contextlib.suppress(FileExistsError):  # another engine's, in the same moment
            os.link(made, path)
        made.unlink()
    found = folder.stat()
    which = f"{path.read_text()} {_machine()} {found.st_dev}:{found.st_ino}"
    return hashlib.sha256(which.encode()).hexdigest()[:32]


def _machine() -> str:
    """Which machine this is, across its boots; empty where it does not say."""
    with contextlib.suppress(OSError):
        return Path("/etc/machine-id").read_text().strip()
    return f"{uuid.getnode():x}" if sys.platform != "linux" else ""


def _held(path: Path) -> bool | None:
    """Whether this lock is held, or cannot be tried; None where it is gone."""
    lock = FileLock(path, thread_local=False)
    try:
        if not path.exists():
            return None
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


@cache
def here() -> str:
    """In which machine, boot and process namespace a path and a lock are meant."""
    if sys.platform != "linux":
        return f"{platform.node()} {uuid.getnode():x}"
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        spaces = [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("pid", "mnt")]
        return " ".join([boot, *spaces])
    return platform.node()
