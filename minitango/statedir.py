"""The state directory: where the queue, the blobs and the lock of one course are, and who grades there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from minitango.errors import ConfigError, EngineRunning, MinitangoError, StoreError
from minitango.room import FULL, full
from minitango.sandbox import open_sandbox
from minitango.store import check_place

_MAX_IMAGES: Final = 100
"""Images that are noted of a kind of sandbox: the latest. A name has at most about 500 characters."""
_A_LOOK: Final = 0.04
"""Seconds that the lock may be held by somebody who only looks whether it is free."""
PRIVATE: Final = "minitango-check-"
"""How the name of a state begins that a check makes for itself, in the folder for temporary files."""
_JUST_MADE: Final = 60.0
"""Seconds in which a private state may have no lock yet."""
_MAX_NOTE: Final = 256 << 10
_ELSEWHERE: Final = "choose another --state DIR"
_MAX_TRIED: Final = 200
"""Trials that are noted: the latest."""


def locate(store: str | os.PathLike[str], state: str | os.PathLike[str] | None) -> tuple[str, Path]:
    """The store's URL and the state directory, absolute. A `store` that is no URL is a state directory."""
    text = os.fspath(store)
    for name in (text, "" if state is None else os.fspath(state)):
        if "\0" in name:
            raise ConfigError(f"{name!r} cannot be the name of anything", hint="name another place", id="path")
    check_place(text)
    if "://" not in text:
        folder = Path(text).absolute()
        return f"sqlite:///{folder / 'queue.db'}", Path(state).absolute() if state is not None else folder
    scheme, _, rest = text.partition("://")
    beside = Path(rest[1:]).parent if scheme == "sqlite" else Path(".minitango")
    return text, Path(state or beside).absolute()


def make(state: Path) -> None:
    """Make the directory, for this user alone. StoreError, with a remedy, where that cannot be."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise full(state, "nothing was written") from error
        raise StoreError(
            f"the state directory {state} cannot be made: {error.strerror}",
            hint="choose another with --state DIR",
            id="state",
        ) from error


def lock(state: Path) -> Callable[[], None]:
    """Become the only engine of this directory; returns how to let go. The kernel lets go of it when we die.

    EngineRunning where another engine is alive there.
    """
    from filelock import FileLock, Timeout

    file = FileLock(state / "engine.lock", thread_local=False)
    try:
        file.acquire(timeout=_A_LOOK, poll_interval=_A_LOOK / 4)
    except Timeout as error:
        pid = _note(state).get("pid")
        pid = pid if isinstance(pid, int) else None
        if pid is None or _is_gone(pid):  # the note is an earlier engine's: who has the lock now has noted nothing
            raise EngineRunning(
                f"something else works on {state}: a restore or a migrate, or an engine that begins",
                hint="wait for its end, or use another --state DIR",
            ) from error
        raise EngineRunning(
            f"another engine (process {pid}) is grading in {state}",
            pid=pid,
            hint="submit to it, wait for it to end, or use another --state DIR",
        ) from error
    except (OSError, NotImplementedError) as error:
        raise StoreError(
            f"{state / 'engine.lock'} cannot be locked: {error}",
            hint="choose a --state DIR on a local disk that you may write to",
            id="state",
        ) from error
    return file.release


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def watch_over(state: Path) -> Callable[[], None]:
    """A call that raises StoreError `state_gone` once the directory is not the one any more whose lock we hold: it was
    removed, moved, or another is in its place. What cannot be known now is not taken for gone."""
    path = state / "engine.lock"
    try:
        held = _identity(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be looked at: {error.strerror}", hint=_ELSEWHERE, id="state") from error

    def look() -> None:
        try:
            found = _identity(path)
        except OSError:  # told by whoever reads or writes there
            return
        if found != held:
            raise StoreError(
                f"the state directory {state} is gone: it was removed, moved or replaced while this engine used it",
                hint="stop what removes it; then start again, which begins a new one",
                id="state_gone",
            )

    return look


def _identity(path: Path) -> tuple[int, int] | None:
    """None: it is not there. OSError where that cannot be known."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


class Running(Struct, frozen=True):
    """An engine that grades."""

    pid: int | None = None
    """Its process, where it is known."""


def running(state: Path) -> Running | None:
    """The engine that grades here now; None: there is none. Changes nothing, and stops no engine that starts."""
    path = state / "engine.lock"
    try:
        status = path.stat()
    except OSError:
        return None
    if not _is_held(path, status):
        return None
    pid = _note(state).get("pid")
    return Running(pid if isinstance(pid, int) else None)


def _is_held(path: Path, status: os.stat_result) -> bool:
    """Whether somebody has this lock. Linux is asked first, as it says so without that the lock has to be tried."""
    if sys.platform == "linux":
        name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        try:
            locks = Path("/proc/locks").read_text().splitlines()
        except OSError:
            locks = []
        if any(name in line.split() for line in locks):
            return True
    from filelock import FileLock, Timeout

    file = FileLock(path, thread_local=False)
    try:
        file.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
    file.release()
    return False


def abandoned() -> list[Path]:
    """Private states of checks that were killed: this user's, with no engine in them."""
    found = []
    for path in Path(tempfile.gettempdir()).glob(f"{PRIVATE}*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            ours = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
            if ours and stat.S_ISDIR(status.st_mode) and time.time() - status.st_mtime > _JUST_MADE:
                found += [] if running(path) else [path]
    return sorted(found)


def discard(state: Path) -> None:
    """Remove a state that no engine is in, and what its boxes left. What cannot be removed stays."""
    kind = sandbox_kind(state)
    if kind:
        with contextlib.suppress(MinitangoError):
            sandbox = open_sandbox(kind, state=str(state))
            try:
                sandbox.sweep()
            finally:
                sandbox.close()
    shutil.rmtree(state, ignore_errors=True)


Images = dict[str, tuple[str, str]]
"""By an image's name: the digest that it had when it was first met here, and the one that it has now."""


def introduce(state: Path, sandbox: str, images: Images | None = None, *, image: str | None = None) -> None:
    """Note who grades here, in what kind of sandbox, what images are known to it, and the one for steps that name none,
    as it was named (None: as before), for processes that only submit."""
    old = _note(state)
    note = {"pid": os.getpid(), "sandbox": sandbox, "images": old.get("images", {})}
    note["image"] = old.get("image", "") if image is None else image
    if images is not None:
        note["images"] = {**_by_kind(note), sandbox: dict(list(images.items())[-_MAX_IMAGES:])}
    file = state / "engine.json"
    try:
        file.with_suffix(".new").write_text(json.dumps(note))
        file.with_suffix(".new").replace(file)  # whoever reads it finds it whole
    except OSError as error:
        raise StoreError(
            f"{file} cannot be written: {error.strerror}",
            hint=_ELSEWHERE,
            id="state",
        ) from error


def sandbox_kind(state: Path) -> str:
    """The kind of sandbox of the latest engine here; empty before the first."""
    return str(_note(state).get("sandbox", ""))


def default_image(state: Path) -> str:
    """The image that the latest engine here was told to take for steps that name none; empty: the usual one."""
    return str(_note(state).get("image", ""))


def known_images(state: Path, sandbox: str) -> Images:
    """The images that an engine here noted of this kind of sandbox."""
    found = _by_kind(_note(state)).get(sandbox)
    if not isinstance(found, dict):
        return {}
    return {
        name: (pair[0], pair[1])
        for name, pair in found.items()
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(digest, str) for digest in pair)
    }


def _by_kind(note: dict[str, Any]) -> dict[str, Any]:
    images = note.get("images")
    return images if isinstance(images, dict) else {}


def last_node(state: Path) -> dict[str, str]:
    """What `note_node` noted here last; empty where this directory is a copy of the one that it was noted in."""
    file = state / "node.json"
    found = _read(file)
    if not isinstance(found, dict):
        return {}
    inode = found.pop("inode", None)
    with contextlib.suppress(OSError):
        if inode is not None and inode != file.stat().st_ino:
            return {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def note_node(state: Path, node: Mapping[str, str]) -> None:
    """Note which node of its queue this directory is. StoreError.

    The note names its own inode, so that a copy of it is known for one. The device's number is not noted: it may be
    another after the machine starts again.
    """
    file = state / "node.json"
    try:
        with file.with_suffix(".new").open("w") as new:
            json.dump({**node, "inode": os.fstat(new.fileno()).st_ino}, new)
        file.with_suffix(".new").replace(file)
    except OSError as error:
        raise StoreError(f"{file} cannot be written: {error.strerror}", hint=_ELSEWHERE, id="state") from error


def tried(state: Path) -> list[str]:
    """The trials that `note_tried` noted here, the latest last."""
    marks = _read(state / "tried.json")
    return [mark for mark in marks if isinstance(mark, str)] if isinstance(marks, list) else []


def note_tried(state: Path, mark: str) -> None:
    """Note that this was tried here, and went well. Where it cannot be written, it will be tried again."""
    marks = [*(other for other in tried(state) if other != mark), mark][-_MAX_TRIED:]
    file = state / "tried.json"
    with contextlib.suppress(OSError):
        file.with_suffix(".new").write_text(json.dumps(marks))
        file.with_suffix(".new").replace(file)


def _note(state: Path) -> dict[str, Any]:
    found = _read(state / "engine.json")
    return found if isinstance(found, dict) else {}


def _read(file: Path) -> Any:
    """What a file of ours says; None where it is not there, or says nothing that can be read."""
    try:
        with file.open("rb") as opened:
            return json.loads(opened.read(_MAX_NOTE))
    except (OSError, ValueError, RecursionError):
        return None
