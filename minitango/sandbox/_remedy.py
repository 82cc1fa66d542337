"""Why a box cannot be had here, or not be filled, and the exact thing to do about it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from minitango.errors import ConfigError, SandboxUnavailable
from minitango.job import Limits
from minitango.sandbox.contract import Mount
from minitango.text import human_size

INSTALL: Final = "apt-get install bubblewrap   (or: pip install 'minitango[bubblewrap]')"

_APPARMOR: Final = (
    "printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile bwrap {bwrap} flags=(unconfined) {{ userns, }}\\n' "
    "| sudo tee /etc/apparmor.d/bwrap && sudo apparmor_parser -r /etc/apparmor.d/bwrap   "
    "(or, for every program: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0)"
)
_CONTAINER: Final = (
    "start the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined   (or with --privileged)"
)


def not_linux(platform: str) -> SandboxUnavailable:
    return SandboxUnavailable(
        f"bubblewrap needs Linux, and this is {platform}",
        hint="run minitango in a Linux machine or container",
        id="sandbox_not_linux",
    )


def not_installed() -> SandboxUnavailable:
    return SandboxUnavailable("bubblewrap (bwrap) is not installed", hint=INSTALL, id="sandbox_missing")


def gone(bwrap: str, why: str) -> SandboxUnavailable:
    """The error for a bwrap that was there, and cannot be executed now."""
    return SandboxUnavailable(f"bubblewrap ({bwrap}) cannot be started: {why}", hint=INSTALL, id="sandbox_missing")


def disk_full(error: OSError, place: str | None) -> SandboxUnavailable | None:
    """The error to raise where `error` says that this machine has no room for boxes' files; None: it does not.
    `place` is the directory in which they are; None: they are kept in memory."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    if place is None:
        what, hint = "the memory that holds read-only files is full", "run fewer workers at once, or add memory"
    else:
        what, hint = f"{place}: {error.strerror}", f"make room in {place}"
    return SandboxUnavailable(f"a box cannot be prepared: {what}", hint=hint, id="sandbox_disk_full")


def too_small(error: OSError, mount: Mount, limits: Limits) -> ConfigError | None:
    """The error to raise where files do not fit into a mount whose size the assignment chose; None: they do."""
    if error.errno != errno.ENOSPC:
        return None
    if mount.size is not None:
        limit, hint = f"the {human_size(mount.size)} of that mount", "give that mount a larger size"
    else:
        limit, hint = f"limits.disk, {human_size(limits.disk)}", "raise limits.disk"
    return ConfigError(f"what is put into {mount.path} does not fit into {limit}", hint=hint, id="disk_too_small")


def diagnose(message: str, *, bwrap: str, version: str, root: Path = Path("/")) -> SandboxUnavailable:
    """The error for a box that would not start. `message` is bwrap's own; `root` is where /proc and /run are looked
    for. The setting that forbids comes before the guess that a container does."""

    def setting(name: str) -> str:
        try:
            return (root / "proc/sys" / name).read_text().strip()
        except OSError:
            return ""

    if "nknown option" in message:
        code, hint = "sandbox_too_old", f"bwrap {version} is too old, 0.6 or later is needed: {INSTALL}"
    elif setting("kernel/unprivileged_userns_clone") == "0":
        code, hint = "sandbox_userns", "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    elif setting("user/max_user_namespaces") == "0":
        code, hint = "sandbox_userns", "sudo sysctl -w user.max_user_namespaces=15000"
    elif setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        code, hint = "sandbox_apparmor", _APPARMOR.format(bwrap=bwrap)
    elif any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")):
        code, hint = "sandbox_container", _CONTAINER
    else:
        code = "sandbox_userns"
        hint = f"in a container, {_CONTAINER}; elsewhere, see: {bwrap} --unshare-all --ro-bind / / true"
    return SandboxUnavailable(f"bubblewrap does not work here: {message}", hint=hint, id=code)
