"""This machine as far as grading needs it: Python and its packages, the state directory, the disk under it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import stat
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from minitango.doctor import Check
from minitango.room import PRUNE, free_some, reserve
from minitango.store.health import sqlite_version
from minitango.text import human_size, plural

PACKAGES: Final = ("msgspec", "filelock", "docker", "pyyaml", "click", "rich")
OLDEST_PYTHON: Final = (3, 11)
NETWORK: Final = re.compile(
    r"(nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|coda|glusterfs|gpfs|lustre|beegfs|ocfs2|gfs2|davfs|vboxsf|prl_fs|drvfs"
    r"|fuse\.(?!portal|lxcfs|snapfuse|gvfsd).+|fuse)"
)
"""Types of file systems whose locks, or whose memory that processes share, are not those of a local disk."""
LITTLE: Final = 1 << 30
"""Bytes free on the disk of the queue, beyond what is kept for results."""


def python() -> Check:
    """Python, and the packages that are needed."""
    sqlite, new_enough = sqlite_version()
    versions = {name: _version(name) for name in PACKAGES}
    facts = {"python": platform.python_version(), "sqlite": sqlite, "packages": versions}
    missing = [name for name, version in versions.items() if not version]
    text = f"Python {platform.python_version()}, SQLite {sqlite}, " + ", ".join(
        f"{name} {version or 'MISSING'}" for name, version in versions.items()
    )
    if sys.version_info < OLDEST_PYTHON:
        return Check("python", "failed", text, "use Python 3.11 or later", facts=facts)
    if not new_enough:
        return Check("python", "failed", text, "use a Python that was built with SQLite 3.35 or later", facts=facts)
    if missing:
        return Check("python", "failed", text, f"pip install {' '.join(missing)}", facts=facts)
    return Check("python", "ok", text, facts=facts)


def _version(package: str) -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return ""


def place(state: Path) -> Iterator[Check]:
    """The state directory, the file system that it is on, and the room there."""
    yield _directory(state)
    there = next((path for path in (state, *state.parents) if path.exists()), Path("/"))
    yield _file_system(there)
    yield _disk(there)


def _directory(state: Path) -> Check:
    word = shlex.quote(str(state))
    try:
        found = state.stat()
    except FileNotFoundError:
        return _not_there(state)
    except OSError as error:
        return Check("state", "failed", f"{state}: {error.strerror}", "choose another --state DIR")
    facts = {"path": str(state), "mode": f"{stat.S_IMODE(found.st_mode):04o}", "owner": found.st_uid}
    if not stat.S_ISDIR(found.st_mode):
        return Check("state", "failed", f"{state} is no directory", "choose another --state DIR", facts=facts)
    if not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        text, hint = f"{state} cannot be written by this user", f"chown -R $USER {word}, or choose another --state DIR"
        return Check("state", "failed", text, hint, facts=facts)
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        text = f"{state} belongs to user {found.st_uid}, and this is user {os.geteuid()}"
        hint = "run as that user: files that are made now cannot be used by the other"
        return Check("state", "warning", text, hint, facts=facts)
    if stat.S_IMODE(found.st_mode) & 0o077:
        text = f"{state} is open to others (mode {facts['mode']}): it holds hand-ins and grades"
        return Check("state", "warning", text, f"chmod 700 {word}", facts=facts)
    return Check("state", "ok", f"{state}, for this user alone", facts=facts)


def _not_there(state: Path) -> Check:
    facts = {"path": str(state), "mode": None, "owner": None}
    above = next((path for path in state.parents if path.exists()), Path("/"))
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return Check("state", "ok", f"{state} is not there yet: it is made when something is submitted", facts=facts)
    text = f"{state} is not there, and cannot be made: {above} cannot be written"
    return Check("state", "failed", text, "choose another --state DIR", facts=facts)


def _file_system(there: Path) -> Check:
    kind, mounted = file_system(there)
    facts = {"type": kind, "mounted": mounted}
    if not kind:
        return Check("file_system", "ok", f"what file system {there} is on cannot be told here", facts=facts)
    if NETWORK.fullmatch(kind):
        text = f"{there} is on {kind} (mounted at {mounted}): SQLite may lose what is written there by two machines"
        return Check("file_system", "warning", text, "choose a --state DIR on a local disk", facts=facts)
    if kind in ("tmpfs", "ramfs"):
        text = f"{there} is on {kind}, in memory: a restart of the machine loses all"
        return Check("file_system", "warning", text, "choose a --state DIR on a disk", facts=facts)
    return Check("file_system", "ok", f"{kind}, mounted at {mounted}", facts=facts)


def file_system(path: Path, mounts: str | None = None) -> tuple[str, str]:
    """The type of the file system that a path is on, and where that is mounted; empty where it cannot be told.
    `mounts` is what /proc/self/mounts has."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text(errors="replace")
        except OSError:
            return "", ""
    path = path.resolve()
    best = ("", "")
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        where = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[1])
        # the last of two that are mounted at one place is on top
        if (path == Path(where) or Path(where) in path.parents) and len(where) >= len(best[1]):
            best = (fields[2], where)
    return best


def _disk(there: Path) -> Check:
    if not hasattr(os, "statvfs"):
        return Check("disk", "ok", "how much room there is cannot be told here")
    try:
        disk = os.statvfs(there)
    except OSError as error:
        return Check("disk", "failed", f"{there}: {error.strerror}", "choose another --state DIR")
    free, nodes = disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None
    facts = {"free": free, "files": nodes}
    hint = f"{free_some(there)}, or make room in this queue: {PRUNE}"
    text = f"{human_size(free)} free"
    if disk.f_flag & getattr(os, "ST_RDONLY", 0):
        return Check(
            "disk", "failed", f"{there} is on a disk that is read-only", "choose another --state DIR", facts=facts
        )
    kept = reserve(disk.f_blocks * disk.f_frsize)
    if free < kept or (nodes is not None and nodes < 100):
        what = text if free < kept else f"room for {plural(nodes or 0, 'file')}"
        return Check("disk", "failed", f"{what} on the disk of {there}: submits will be refused", hint, facts=facts)
    if free < kept + LITTLE:
        return Check("disk", "warning", f"{text} on the disk of {there}", hint, facts=facts)
    return Check("disk", "ok", text, facts=facts)
