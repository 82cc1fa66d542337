"""What a `BoxSpec` means in every sandbox: which are allowed, what is writable, and how much there may be of it."""

from __future__ import annotations

import getpass
import os
import posixpath
import tempfile
from pathlib import Path
from typing import Final

from minitango.job import Limits
from minitango.sandbox.contract import HELPER, BoxSpec, Mount

UIDS: Final = range(60706, 61106)
"""Uids that jobs may have where they are real ones: systemd leaves them unused, and no user is ever made there."""
NOFILE: Final = 1024
"""Descriptors that a process may have open."""
SIGPENDING: Final = 1024
"""Signals and timers that may wait for a job's processes: in bubblewrap without root, of all that their user has."""
CORE: Final = 1
"""Bytes of a core file: none is written. At 0, where the host has a collector of core files, each crash would start it
there, as root and outside of all limits (core(5), on pipes); 1 is the kernel's word for nothing at all."""
TMP: Final = ("/tmp", "/dev/shm")  # noqa: S108
"""Directories that every box has, all may write to, and that vanish with it."""
_SHM: Final = 64 << 20
_TAKEN: Final = ("/proc", "/sys", "/dev", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc")


def writable(spec: BoxSpec) -> list[Mount]:
    """Every sized directory of a box: the spec's, and /tmp and /dev/shm, where the spec does not name them."""
    named = {mount.path for mount in spec.mounts}
    own = [
        Mount(path, writable=True, size=min(_SHM, spec.limits.disk) if path == "/dev/shm" else None)  # noqa: S108
        for path in TMP
        if path not in named
    ]
    return [mount for mount in spec.mounts if mount.writable] + own


def check_spec(spec: BoxSpec) -> None:
    """ValueError where no box can be like this."""
    paths = [mount.path for mount in spec.mounts]
    for path in paths:
        if not path.startswith("/") or posixpath.normpath(path) != path or path == "/" or "\0" in path:
            raise ValueError(f"a mount must be an absolute, plain path, not {path!r}")
        if any(path == taken or path.startswith(taken + "/") for taken in _TAKEN) and path != "/dev/shm":  # noqa: S108
            raise ValueError(f"a mount cannot lie at {path}: the box has its own there")
        if spec.helper and (path == HELPER or path.startswith(HELPER + "/")):
            raise ValueError(f"a mount cannot lie at {path}: what calls us is there")
    if len(set(paths)) != len(paths):
        raise ValueError("two mounts have the same path")
    if not any(mount.path == spec.workdir and mount.writable for mount in spec.mounts):
        raise ValueError(f"the working directory {spec.workdir!r} is not a writable mount")
    if spec.bundle is not None and spec.bundle.mount not in paths:
        raise ValueError(f"the bundle's {spec.bundle.mount!r} is not a mount of this box")
    limits = spec.limits
    if any(mount.size is not None and mount.size <= 0 for mount in spec.mounts):
        raise ValueError("the size of a mount must be positive")
    if min(limits.wall, limits.memory, limits.pids, limits.disk, limits.cpus) <= 0 or limits.output < 0:
        raise ValueError("limits must be positive")


def total_memory(limits: Limits) -> int:
    """Bytes that processes and writable directories may hold together."""
    return limits.memory + limits.disk


def largest_file(spec: BoxSpec) -> int:
    """Bytes that a file in the box may have: more than any of its directories has room for."""
    return max([spec.limits.disk, *(mount.size or 0 for mount in spec.mounts)]) + (1 << 20)


def default_state() -> Path:
    """Where boxes are recorded if nobody named a state directory: one place for each user, gone with the boot."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime, "minitango")
    user = os.geteuid() if hasattr(os, "geteuid") else getpass.getuser()
    return Path(tempfile.gettempdir(), f"minitango-{user}")
