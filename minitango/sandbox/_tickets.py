"""Who has which box: names, uids, and the records by which a later engine finds what a dead one left.

STATE/boxes/ENGINE/lock        held with flock as long as the engine lives: the proof of life
STATE/boxes/ENGINE/NAME.json   one line before a box starts (its control groups), one when it is up (its processes)
STATE/boxes/ENGINE/staging/    files behind read-only mounts, where they are not kept in memory
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import itertools
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Final

from minitango.errors import SandboxFailed, SandboxUnavailable
from minitango.sandbox._cgroup import PREFIX, remove_group
from minitango.sandbox._host import start_time
from minitango.sandbox._spec import UIDS

log = logging.getLogger("minitango")

_UNFINISHED: Final = 60.0
"""Seconds after which a directory that has no lock will get none."""


class Uids:
    """Host uids for live boxes, one each, no two alike on this machine.

    A uid is claimed by a name in the kernel's abstract socket space: taken by one process at a time, and free again
    when that process is gone, however it went.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, socket.socket] = {}
        self._free: list[int] = []
        start = secrets.randbelow(len(UIDS))
        self._untried: Iterator[int] = iter([*UIDS[start:], *UIDS[:start]])

    def take(self) -> int:
        """A uid that no other live box has. SandboxFailed where all are taken."""
        with self._lock:
            if self._free:
                return self._free.pop()
            for uid in self._untried:
                claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                try:
                    claim.bind(f"\0minitango-uid-{uid}")
                except OSError:
                    claim.close()
                    continue
                self._held[uid] = claim
                return uid
        raise SandboxFailed(f"all {len(UIDS)} uids for boxes are in use", hint="run fewer workers at once")

    def give_back(self, uid: int) -> None:
        """The box is dead to its last process: another may have its uid."""
        with self._lock:
            self._free.append(uid)

    def close(self) -> None:
        for claim in self._held.values():
            claim.close()
        self._held.clear()
        self._free.clear()


class Ticket:
    """One box's name, uid and record."""

    def __init__(self, name: str, uid: int | None, record: str, line: dict[str, object]) -> None:
        self.name = name
        self.uid = uid
        """The host uid to become; None: our own."""
        self._record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._path = record
        try:
            self._note(line)
        except OSError:
            self.close(clean=True)
            raise

    def started(self, *pids: int) -> None:
        """Note the box's processes. OSError where that cannot be written."""
        self._note({"processes": [[pid, start_time(pid)] for pid in pids], "namespace": _here()})

    def close(self, *, clean: bool) -> None:
        """Forget the box, if nothing of it is left; otherwise leave the record for `sweep`."""
        os.close(self._record)
        if clean:
            with contextlib.suppress(FileNotFoundError):  # the state directory was removed: nobody will look for it
                os.unlink(self._path)  # noqa: PTH108  # once for each job: without a Path in between

    def _note(self, line: dict[str, object]) -> None:
        text = json.dumps(line).encode() + b"\n"
        if os.write(self._record, text) < len(text):  # the last bytes of a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Registry:
    """This engine's records, and the way to those of dead ones."""

    def __init__(self, boxes: Path) -> None:
        """`boxes` is STATE/boxes; it is made, closed to others. SandboxUnavailable where that cannot be."""
        self._boxes = boxes
        try:
            boxes.mkdir(mode=0o700, parents=True, exist_ok=True)
            if boxes.stat().st_uid != os.geteuid():
                raise SandboxUnavailable(
                    f"{boxes} belongs to another user", hint="name a state directory of your own: --state DIR"
                )
            self._lock, self.home = self._settle()
        except OSError as error:
            raise SandboxUnavailable(
                f"boxes cannot be recorded in {boxes}: {error.strerror}",
                hint="name a state directory that can be written: --state DIR",
            ) from error
        self._home = str(self.home)
        self._prefix = f"{PREFIX}{self.home.name}"
        self._numbers = itertools.count(1)

    def _settle(self) -> tuple[int, Path]:
        while True:
            home = self._boxes / f"{os.getpid()}-{secrets.token_hex(4)}"
            home.mkdir(mode=0o700)
            try:
                lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:  # a sweeper took it for one that was never finished
                continue
            if _try_lock(lock) and home.exists():
                return lock, home
            os.close(lock)  # a sweeper was quicker than we, and has taken it for a dead one's

    def ticket(self, uid: int | None, groups: tuple[str, ...], name: str, token: str) -> Ticket:
        """The record of a box that is about to start. OSError where it cannot be written."""
        return Ticket(name, uid, f"{self._home}/{name}.json", {"token": token, "groups": groups})

    def new_name(self) -> str:
        return f"{self._prefix}-{next(self._numbers)}"

    def sweep(self) -> int:
        """Remove what engines that are dead left behind; how many boxes that were."""
        return sum(_sweep(home) for home in self._homes())

    def _homes(self) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            for home in sorted(self._boxes.iterdir()):
                if home != self.home and home.is_dir():
                    yield home

    def close(self) -> None:
        """Give up the proof of life; and the directory, if every box was closed well."""
        if not any(self.home.glob("*.json")):
            shutil.rmtree(self.home, ignore_errors=True)
        os.close(self._lock)


def orphans(boxes: Path) -> int:
    """How many boxes engines that are dead left records of below STATE/boxes. Removes nothing."""
    found = 0
    with contextlib.suppress(OSError):
        for home in boxes.iterdir():
            with contextlib.suppress(OSError):
                lock = os.open(home / "lock", os.O_RDWR | os.O_CLOEXEC)
                try:
                    found += len(list(home.glob("*.json"))) if _try_lock(lock) else 0
                finally:
                    os.close(lock)
    return found


def _sweep(home: Path) -> int:
    try:
        lock = os.open(home / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # being made, or being swept; or its engine died between the directory and the lock
        with contextlib.suppress(OSError):
            if time.time() - home.stat().st_mtime > _UNFINISHED:
                home.rmdir()  # only if it is empty
        return 0
    try:
        if not _try_lock(lock):
            return 0
        records = sorted(home.glob("*.json"))
        gone = [record for record in records if _is_cleaned_up(record)]
        if records:
            kill_named({record.stem for record in records if record.stem.startswith(PREFIX)})
        if len(gone) == len(records):
            shutil.rmtree(home, ignore_errors=True)
        for record in gone:
            record.unlink(missing_ok=True)
        return len(gone)
    finally:
        os.close(lock)


def _is_cleaned_up(record: Path) -> bool:
    """Whether nothing is left of what a record names. What the kernel holds keeps no engine from starting: it stays for
    the next sweep."""
    try:
        _clean_up(record)
    except (SandboxFailed, OSError) as error:
        log.warning("what a dead engine left stays for now: %s", error)
        return False
    return True


def _clean_up(record: Path) -> None:
    """Kill what a record names, and remove its groups. A process is named by pid and start time, so that nobody who
    got its pid later is struck. What is none of these was damaged, and names nothing."""
    noted: dict[str, object] = {}
    for line in record.read_bytes().splitlines():
        with contextlib.suppress(ValueError, RecursionError):  # the engine died while it wrote
            found = json.loads(line)
            noted.update(found if isinstance(found, dict) else {})
    processes, groups = noted.get("processes", []), noted.get("groups", [])
    if isinstance(processes, list) and noted.get("namespace") == _here():
        for one in processes:
            match one:
                case [int(pid), int(started)] if pid > 1 and start_time(pid) == started:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
    if isinstance(groups, list):
        for group in groups:
            if isinstance(group, str) and "\0" not in group:
                remove_group(group)


def kill_named(names: Set[str]) -> None:
    """Kill every bwrap that starts a box of one of these names.

    `--die-with-parent` has a gap: where the engine dies just after bwrap has made its child and before it has told
    the child who it is, bwrap's first process dies and the child waits for ever, with nothing of a job in it. Its pid
    nobody knew yet; but its arguments hold the name.
    """
    wanted = {os.fsencode(name) for name in names}
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    for pid in pids:
        with contextlib.suppress(OSError):
            if not wanted.isdisjoint(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")):
                os.kill(pid, signal.SIGKILL)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@functools.cache
def _here() -> list[str]:
    """In which pid namespace of which boot pids are meant."""
    return [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), str(Path("/proc/self/ns/pid").readlink())]
