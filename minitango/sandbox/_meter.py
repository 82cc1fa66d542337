"""What a box uses, and whether that is too much: asked of its control group, or found by watching."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final, Literal, Protocol

from msgspec import Struct

from minitango.job import Limits
from minitango.sandbox._cgroup import Group
from minitango.sandbox._inside import Status
from minitango.sandbox._spec import total_memory
from minitango.sandbox._watch import Watcher

Limit = Literal["wall", "cpu", "memory", "output"]

_NEVER: Final = float("inf")
_SIGKILL: Final = 9


class Totals(Struct, frozen=True):
    """What a whole run came to. None where it is not known."""

    cpu: float | None = None
    memory: int | None = None
    oom_kills: int = 0
    forks_refused: bool = False


class Meter(Protocol):
    """One way of measuring a box."""

    def check(self) -> tuple[Limit | None, float]:
        """The limit that is passed now, if any, and in how many seconds to ask again (inf: never)."""
        ...

    def main_ended(self) -> None:
        """The main process has ended: processes that are killed for memory from now on are none of the run's."""
        ...

    def totals(self, status: Status | None) -> Totals:
        """What was used, all processes being dead; `status` is pid 1's last word."""
        ...

    def ended_by_memory(self, status: Status | None, totals: Totals) -> bool:
        """Whether memory ended the main process, though `check` did not say so."""
        ...


class GroupMeter:
    """The kernel holds memory and processes; CPU seconds are looked up when they could be used up at the earliest."""

    def __init__(self, group: Group, limits: Limits) -> None:
        self._group = group
        self._before = group.cpu() or 0.0  # what it took to come up is not the job's
        self._limit = limits.cpu
        self._cores = min(limits.cpus, os.cpu_count() or 1)
        self._oom_kills: int | None = None

    def check(self) -> tuple[Limit | None, float]:
        used = self._cpu() if self._limit is not None else None
        if self._limit is None or used is None:
            return None, _NEVER
        if used >= self._limit:
            return "cpu", 0.0
        return None, max(0.005, (self._limit - used) / self._cores)

    def main_ended(self) -> None:
        self._oom_kills = self._group.oom_kills()

    def totals(self, status: Status | None) -> Totals:
        cpu, memory = status.cpu if status is not None else None, None
        with contextlib.suppress(OSError):
            cpu = self._cpu()
        with contextlib.suppress(OSError):
            memory = self._group.peak()
        kills = self._group.oom_kills() if self._oom_kills is None else self._oom_kills
        return Totals(cpu=cpu, memory=memory, oom_kills=kills, forks_refused=self._group.forks_refused())

    def _cpu(self) -> float | None:
        used = self._group.cpu()
        return None if used is None else used - self._before

    def ended_by_memory(self, status: Status | None, totals: Totals) -> bool:
        """The kernel's killer struck, and the main process (or pid 1, which could not tell any more) died of it."""
        killed = status is None or (status.wait is not None and status.wait & 0x7F == _SIGKILL)
        return killed and totals.oom_kills > 0


class WatchMeter:
    """Looks at everything, as often as looking is cheap."""

    _EVERY: Final = 0.01

    def __init__(self, watcher: Watcher, limits: Limits) -> None:
        self._watcher = watcher
        self._limits = limits

    def check(self) -> tuple[Limit | None, float]:
        started = time.monotonic()
        most = total_memory(self._limits)
        try:
            look = self._watcher.look(most)
        except OSError:
            return None, self._EVERY  # the box is just ending
        if look.memory > most:
            return "memory", 0.0
        if self._limits.cpu is not None and look.cpu >= self._limits.cpu:
            return "cpu", 0.0
        return None, max(self._EVERY, 10 * (time.monotonic() - started))

    def main_ended(self) -> None:
        """Nothing: of kills it does not know."""

    def totals(self, status: Status | None) -> Totals:
        return Totals(
            cpu=max(self._watcher.cpu, status.cpu if status is not None else 0.0),
            memory=max(self._watcher.peak, status.max_rss if status is not None else 0),
            forks_refused=self._watcher.most_processes > self._limits.pids,
        )

    def ended_by_memory(self, status: Status | None, totals: Totals) -> bool:
        """The kernel says that a process had been over the limit, between two looks, and the command ended badly."""
        return status is not None and status.wait != 0 and status.max_rss > total_memory(self._limits)
