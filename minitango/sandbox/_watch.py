"""What holds a box's limits where no control group can be had: looking at its processes, often.

It reads the box's own /proc, so that it sees exactly the box's processes. Between two looks a process can take
more than it may: what it touches in a hundredth of a second. No rlimit helps, for they bound addresses, of which
sanitizers take terabytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICK: Final = os.sysconf("SC_CLK_TCK")
_INODE: Final = 1024
"""Bytes of kernel memory that a file in a tmpfs takes, whatever it holds."""


class Look(Struct, frozen=True):
    """What a box uses now."""

    memory: int
    """Bytes: the processes' own, and what the writable directories hold."""
    cpu: float
    processes: int


class Watcher:
    """Sums up a box. `proc` is a descriptor of its /proc, `trees` of its writable directories: the caller's."""

    def __init__(self, proc: int, trees: Sequence[int]) -> None:
        self._proc = proc
        self._trees = trees
        self.peak = 0
        self.cpu = 0.0
        self.most_processes = 0

    def look(self, limit: int) -> Look:
        """What is used now. Resident pages are cheap to read but count what processes share many times over; where
        their sum passes `limit`, each process's fair share of them is read instead."""
        pids = [name for name in _names(self._proc) if name.isdigit()]
        held = sum(_held(tree) for tree in self._trees)
        ticks = 0
        resident: dict[str, int] = {}
        for pid in pids:
            try:
                resident[pid] = int(_read(self._proc, f"{pid}/statm").split(b" ", 2)[1]) * _PAGE
                stat = _read(self._proc, f"{pid}/stat")
                # a process's own and those of the children that it has waited for
                ticks += sum(int(word) for word in stat[stat.rindex(b")") + 2 :].split()[11:15])
            except (OSError, ValueError, IndexError):
                continue  # it ended
        memory = sum(resident.values()) + held
        if memory > limit:
            memory = sum(self._fair_share(pid, most) for pid, most in resident.items()) + held
        self.peak = max(self.peak, memory)
        self.cpu = max(self.cpu, ticks / _TICK)
        self.most_processes = max(self.most_processes, len(pids))
        return Look(memory=memory, cpu=self.cpu, processes=len(pids))

    def _fair_share(self, pid: str, resident: int) -> int:
        try:
            text = _read(self._proc, f"{pid}/smaps_rollup")
        except OSError:
            return 0  # it ended, or it is pid 1, which is ours and small
        for line in text.splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) << 10
        return resident


def _held(tree: int) -> int:
    try:
        use = os.fstatvfs(tree)
    except OSError:
        return 0
    return (use.f_blocks - use.f_bfree) * use.f_frsize + (use.f_files - use.f_ffree) * _INODE


def is_full(tree: int) -> bool:
    """Whether less than 1 % (or a page) of a directory's bytes, or no file, is left."""
    use = os.fstatvfs(tree)
    return use.f_bfree <= use.f_blocks // 100 or (use.f_files > 0 and use.f_ffree == 0)


def _names(directory: int) -> list[str]:
    return os.listdir(directory)


def _read(directory: int, path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(fd, 8192)
    finally:
        os.close(fd)
