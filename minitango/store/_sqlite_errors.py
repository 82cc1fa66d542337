"""Errors of SQLite and of the file system become ours, each with the next thing to do."""

from __future__ import annotations

import errno
import os
import shlex
import sqlite3
from pathlib import Path
from typing import Final

from minitango.errors import StoreError, StoreFull
from minitango.room import FULL, full

_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def not_a_store(path: Path, what: str) -> StoreError:
    return StoreError(
        f"{path} is not a minitango store: it is {what}",
        hint="choose another place with --state DIR, or move that file away",
        id="store_corrupt",
    )


def _readonly(path: Path, why: object) -> StoreError:
    return StoreError(
        f"{path} cannot be written ({why})",
        hint=f"make {path.parent} and the files in it writable for you, or choose another place with --state DIR",
        id="store_readonly",
    )


def _full(path: Path) -> StoreFull:
    return full(path, "nothing was written")


def gone(path: Path) -> StoreError:
    return StoreError(
        f"the queue's file {path} is gone: it was removed, moved or replaced while it was open",
        hint="move it back, or restore a backup: minitango restore SRC; then start again",
        id="state_gone",
    )


def from_os(error: OSError, path: Path) -> StoreError:
    if error.errno in FULL:
        return _full(path)
    if error.errno in _FORBIDDEN:
        return _readonly(path, error.strerror)
    return StoreError(
        f"{path} cannot hold a store: {error.strerror or error}",
        hint="name a file that is not there yet, or choose another place with --state DIR",
        id="store_path",
    )


def unsynced(error: OSError, path: Path) -> StoreError:
    """What was recorded may not be on the disk."""
    if error.errno in FULL:
        return _full(path)
    why = error.strerror or error
    return StoreError(
        f"{path}-wal could not be brought to the disk: {why}", hint="look at the disk: sudo dmesg | tail", id="store_io"
    )


def from_sqlite(error: sqlite3.Error, path: Path) -> StoreError:
    name = str(getattr(error, "sqlite_errorname", ""))
    if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and _no_space(path)):
        return _full(path)
    if name == "SQLITE_NOTADB":
        return not_a_store(path, "no SQLite file")
    if name.startswith("SQLITE_CORRUPT") or (name == "SQLITE_ERROR" and str(error).startswith("no such")):
        return StoreError(
            f"{path} is damaged ({error})",
            hint=f"restore it from a backup, or save what can be saved: sqlite3 {_word(path)} .recover",
            id="store_corrupt",
        )
    if name.startswith("SQLITE_READONLY") or name == "SQLITE_PERM":
        return _readonly(path, error)
    if name.startswith("SQLITE_CANTOPEN") and not (os.access(path.parent, os.W_OK) and os.access(path, os.W_OK)):
        return _readonly(path, error)
    if is_busy(error):
        return StoreError(
            f"{path} was locked by another process for too long",
            hint=f"see which process holds it: fuser -v {_word(path)}",
            id="store_busy",
        )
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return StoreError(f"the store {path} was closed", id="store_closed")
    return StoreError(
        f"{path} cannot be used: {error}", hint=f"look at the file and its disk: ls -l {_word(path)}", id="store_io"
    )


def is_io(error: sqlite3.Error) -> bool:
    """Whether the disk said no, so that what was written to the log may not be there."""
    return str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_IOERR")


def is_busy(error: sqlite3.Error) -> bool:
    return str(getattr(error, "sqlite_errorname", "")).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _no_space(path: Path) -> bool:
    """Whether an I/O error was a full disk: SQLite says so of its own files only."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < 1 << 16


def _word(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))
