"""Control groups for boxes: version 1 as root, version 2 as root or where a part of the tree is delegated to us.

`find_cgroups` gives the strongest that works here, found by moving a process into a group; None where none does.
A group's memory holds what processes use and what the box's writable directories hold; there is no swap.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from minitango.errors import SandboxFailed
from minitango.job import Limits
from minitango.sandbox._spec import total_memory

PREFIX: Final = "minitango-"
"""How the names of groups begin."""

_PERIOD: Final = 100_000
"""Microseconds over which a share of the cores is held."""


class Group(Protocol):
    """The control group of one box. OSError where the kernel refuses."""

    def add(self, pid: int) -> None:
        """Put a process, and all that it will start, under the limits."""
        ...

    def cpu(self) -> float | None:
        """Seconds of CPU used by all processes so far."""
        ...

    def peak(self) -> int | None:
        """The most bytes that were in use at once; None where this kernel does not tell."""
        ...

    def oom_kills(self) -> int:
        """Processes that the kernel has killed for memory."""
        ...

    def forks_refused(self) -> bool:
        """Whether a fork was refused at the limit."""
        ...

    def remove(self) -> None:
        """Kill what is left, and remove the group. Idempotent."""
        ...


class Groups(Protocol):
    """Makes groups."""

    def paths(self, name: str) -> tuple[str, ...]:
        """The directories that the group of this name would have."""
        ...

    def make(self, name: str, limits: Limits) -> Group:
        """A new group of this name, which no other has, under these limits. SandboxFailed."""
        ...


def _write(path: str, value: int | str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536).decode()
    finally:
        os.close(fd)


def _count(text: str, key: str) -> int:
    """The number on the line that begins with `key`; 0 where there is none."""
    match = re.search(rf"^{key} (\d+)$", text, re.MULTILINE)
    return int(match[1]) if match else 0


def _quota(limits: Limits) -> int | None:
    """Microseconds of CPU in each period; None where all cores may be used anyway."""
    if limits.cpus >= len(os.sched_getaffinity(0)):
        return None
    return max(1000, round(limits.cpus * _PERIOD))


# A box's group holds one more process than the job may have: pid 1, which is ours.
_OURS: Final = 1


def remove_group(path: str, *, patience: float = 5.0) -> None:
    """Kill every process of the group in this directory and remove it; nothing where it is gone. SandboxFailed after
    `patience` seconds."""
    deadline = time.monotonic() + patience
    pause = 0.0005
    while True:
        try:
            os.rmdir(path)  # noqa: PTH106  # once for each job
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise SandboxFailed(f"the control group {path} cannot be removed: {error}") from error
        else:
            return
        with contextlib.suppress(OSError):
            _write(f"{path}/cgroup.kill", 1)  # version 2, Linux 5.14
        with contextlib.suppress(OSError):
            for pid in _read(f"{path}/cgroup.procs").split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
        time.sleep(pause)  # a group tells nobody that its last process is gone
        pause = min(pause * 2, 0.05)


def remove_deserted(groups: Groups, *, older: float = 60.0) -> None:
    """Remove groups like ours that have had no process for long: those of engines that died and whose records are
    gone with their state; and trial groups, once who tried is dead. The kernel refuses to remove one with a process
    in it, whoever's it is."""
    for base in {os.path.dirname(path) for path in groups.paths(PREFIX)}:  # noqa: PTH120
        with contextlib.suppress(OSError), os.scandir(base) as entries:
            for entry in entries:
                if not entry.name.startswith(PREFIX):
                    continue
                if _trier_is_dead(entry.name) or time.time() - entry.stat().st_ctime > older:
                    with contextlib.suppress(OSError):
                        os.rmdir(entry.path)  # noqa: PTH106


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116


def _trial_name() -> str:
    """A name for the group with which `find_cgroups` tries, unlike any other; it tells who tries."""
    return f"{PREFIX}try-{_pid_namespace()}-{os.getpid()}-{time.monotonic_ns()}"


def _trier_is_dead(name: str) -> bool:
    """Whether this is a trial group of a process that is no more. Elsewhere its number means another process."""
    match = re.fullmatch(rf"{PREFIX}try-(\d+)-(\d+)-\d+", name)
    return match is not None and int(match[1]) == _pid_namespace() and not Path("/proc", match[2]).exists()


class _Made(ABC):
    """What both versions share: directories, made with all or none, removed together."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = tuple(paths)

    def make(self, limits: Limits) -> None:
        """SandboxFailed, and nothing is left of what was made."""
        made: list[str] = []
        try:
            for path in self.paths:
                os.mkdir(path, 0o755)  # noqa: PTH102  # once for each job
                made.append(path)
            self.limit(limits)
        except OSError as error:
            for path in made:
                remove_group(path)
            raise SandboxFailed(f"a control group could not be made: {error}") from error

    @abstractmethod
    def limit(self, limits: Limits) -> None:
        """Write the limits. OSError."""

    def add(self, pid: int) -> None:
        for path in self.paths:
            _write(f"{path}/cgroup.procs", pid)

    def remove(self) -> None:
        for path in self.paths:
            remove_group(path)


# --- version 1 ------------------------------------------------------------------------------------


def _paths_v1(bases: dict[str, str], name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f"{base}/{name}" for base in bases.values()))  # cpu and cpuacct are often one


class GroupV1(_Made):
    """One directory in each hierarchy."""

    def __init__(self, bases: dict[str, str], name: str) -> None:
        super().__init__(_paths_v1(bases, name))
        self._at = {controller: f"{base}/{name}" for controller, base in bases.items()}

    def limit(self, limits: Limits) -> None:
        memory = self._at["memory"]
        _write(f"{memory}/memory.limit_in_bytes", total_memory(limits))
        with contextlib.suppress(OSError):
            _write(f"{memory}/memory.swappiness", 0)
        with contextlib.suppress(OSError):  # not there where swap is not accounted
            _write(f"{memory}/memory.memsw.limit_in_bytes", total_memory(limits))
        with contextlib.suppress(OSError):  # what sockets hold counts apart here, and without a limit not at all
            _write(f"{memory}/memory.kmem.tcp.limit_in_bytes", total_memory(limits))
        _write(f"{self._at['pids']}/pids.max", limits.pids + _OURS)
        quota = _quota(limits)
        if quota is not None and "cpu" in self._at:
            _write(f"{self._at['cpu']}/cpu.cfs_period_us", _PERIOD)
            _write(f"{self._at['cpu']}/cpu.cfs_quota_us", quota)

    def cpu(self) -> float | None:
        if "cpuacct" not in self._at:
            return None
        return int(_read(f"{self._at['cpuacct']}/cpuacct.usage")) / 1e9

    def peak(self) -> int | None:
        return int(_read(f"{self._at['memory']}/memory.max_usage_in_bytes"))

    def oom_kills(self) -> int:
        return _count(_read(f"{self._at['memory']}/memory.oom_control"), "oom_kill")

    def forks_refused(self) -> bool:
        return _count(_read(f"{self._at['pids']}/pids.events"), "max") > 0


class GroupsV1:
    """`bases` has, for each controller, the directory below which groups are made."""

    def __init__(self, bases: dict[str, str]) -> None:
        self.bases = bases

    def paths(self, name: str) -> tuple[str, ...]:
        return _paths_v1(self.bases, name)

    def make(self, name: str, limits: Limits) -> Group:
        group = GroupV1(self.bases, name)
        group.make(limits)
        return group


# --- version 2 ------------------------------------------------------------------------------------


class GroupV2(_Made):
    """One directory in the unified hierarchy."""

    def __init__(self, base: str, name: str) -> None:
        super().__init__([f"{base}/{name}"])
        self._path = self.paths[0]

    def limit(self, limits: Limits) -> None:
        _write(f"{self._path}/memory.max", total_memory(limits))
        with contextlib.suppress(OSError):  # not there where the kernel knows no swap
            _write(f"{self._path}/memory.swap.max", 0)
        _write(f"{self._path}/pids.max", limits.pids + _OURS)
        quota = _quota(limits)
        if quota is not None:
            with contextlib.suppress(OSError):  # the cpu controller is not always delegated
                _write(f"{self._path}/cpu.max", f"{quota} {_PERIOD}")

    def cpu(self) -> float | None:
        return _count(_read(f"{self._path}/cpu.stat"), "usage_usec") / 1e6

    def peak(self) -> int | None:
        try:
            return int(_read(f"{self._path}/memory.peak"))
        except FileNotFoundError:  # before Linux 5.19
            return None

    def oom_kills(self) -> int:
        return _count(_read(f"{self._path}/memory.events"), "oom_kill")

    def forks_refused(self) -> bool:
        return _count(_read(f"{self._path}/pids.events"), "max") > 0


class GroupsV2:
    """`base` is a directory whose children have the memory and pids controllers."""

    def __init__(self, base: str) -> None:
        self.base = base

    def paths(self, name: str) -> tuple[str, ...]:
        return (f"{self.base}/{name}",)

    def make(self, name: str, limits: Limits) -> Group:
        group = GroupV2(self.base, name)
        group.make(limits)
        return group


# --- finding ---------------------------------------------------------------------------------------


class Hierarchy:
    """A mounted hierarchy: where, its controllers (v2: none named), and where this process stands in it."""

    def __init__(self, mount: str, own: str) -> None:
        self.mount = mount
        self.own = own


def hierarchies(mountinfo: str, own: str) -> dict[str, Hierarchy]:
    """What /proc/self/mountinfo and /proc/self/cgroup say, by controller; `unified` is version 2's.

    In a container whose cgroup namespace is the host's, the own path leads outside the mount: then the mount's own
    root is where we stand.
    """
    at: dict[str, str] = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else ["unified"]:
            at[controller] = path
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        root, mount = left.split(" ")[3:5]
        kind, _, options = right.split(" ", 2)
        names = ["unified"] if kind == "cgroup2" else options.split(",") if kind == "cgroup" else []
        for name in names:
            if name not in at or name in found:
                continue
            path = at[name]
            inner = path.removeprefix(root) if root != "/" and (path + "/").startswith(root + "/") else path
            place = f"{mount}/{inner.strip('/')}".rstrip("/")
            found[name] = Hierarchy(mount, place if Path(place).is_dir() else mount)
    return found


_LEAF: Final = "minitango-engine"


def _base_v2(unified: Hierarchy) -> str | None:
    """A directory in which groups with memory and pids can be made, as near to us as can be; None where there is none.

    No group below the root may both hold processes and pass controllers on. Where ours holds only us (a delegated
    scope or service), we move into a leaf; otherwise the nearest ancestor that already passes them on will do.
    """
    wanted = {"memory", "pids"}
    place = Path(unified.own)
    if place.name == _LEAF and str(place) != unified.mount:  # we moved there before
        place = place.parent
    with contextlib.suppress(OSError):
        available = set((place / "cgroup.controllers").read_text().split())
        inside = {int(pid) for pid in (place / "cgroup.procs").read_text().split()}
        if wanted <= available and inside == {os.getpid()} and os.access(place / "cgroup.subtree_control", os.W_OK):
            (place / _LEAF).mkdir(exist_ok=True)
            _write(str(place / _LEAF / "cgroup.procs"), os.getpid())
            with contextlib.suppress(OSError):
                _write(str(place / "cgroup.subtree_control"), "+cpu")
            _write(str(place / "cgroup.subtree_control"), "+memory +pids")
            return str(place)
    while True:
        with contextlib.suppress(OSError):
            passed_on = set((place / "cgroup.subtree_control").read_text().split())
            if wanted <= passed_on and os.access(place, os.W_OK):
                return str(place)
        if str(place) == unified.mount or place == place.parent:
            return None
        place = place.parent


def _candidates(known: dict[str, Hierarchy]) -> Iterable[Groups]:
    if {"memory", "pids"} <= known.keys():
        wanted = ("memory", "pids", "cpu", "cpuacct")
        yield GroupsV1({name: known[name].own for name in wanted if name in known})
    if "unified" in known and (base := _base_v2(known["unified"])) is not None:
        yield GroupsV2(base)


def find_cgroups() -> Groups | None:
    """The groups that can be had here, proven by moving a process into one; None where there are none."""
    try:
        known = hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    except (OSError, ValueError):
        return None
    for groups in _candidates(known):
        with contextlib.suppress(OSError, SandboxFailed):
            group = groups.make(_trial_name(), Limits())
            try:
                with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
                    group.add(child.pid)
            finally:
                group.remove()
            return groups
    return None
