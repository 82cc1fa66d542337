"""A backup of a queue while it is used, and a queue from a backup.

A backup is a state directory, whatever store it was made of, as a folder or as a tar file:

    queue.db        every job, as of one moment, in one SQLite file, with the small blobs of a queue that was in one
    blobs/          every other blob that these jobs need
    engine.json     what an engine noted there, where there was a state directory; tried.json, too
    backup.json     what this is
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from msgspec import Struct

from minitango import statedir
from minitango.blobs import Blobs, sync
from minitango.errors import BlobError, ConfigError, StoreError
from minitango.failpoint import failpoint
from minitango.job import State
from minitango.moving import (
    NOTES,
    Moved,
    Place,
    carry,
    give_name,
    guard,
    new_place,
    open_source,
    put_in_place,
    sync_file,
    workplace,
)
from minitango.room import FULL
from minitango.store import open_blobs, open_store, settle_copy

FORMAT: Final = 1
"""Of backup.json. The file of a later one is refused."""
_MEMBER: Final = re.compile(r"(?:queue\.db|backup\.json|engine\.json|tried\.json|blobs/[0-9a-f]{2}/([0-9a-f]{64}))")
_TRIES: Final = 3
_CHUNK: Final = 1 << 20
_MAX_NOTE: Final = 1 << 20


class Label(Struct, frozen=True):
    """What backup.json says."""

    format: int
    minitango: str
    made: float
    jobs: Mapping[State, int]
    blobs: int
    database: str
    """SHA-256 of queue.db."""


def backup(place: Place, dest: Path) -> Label:
    """Write a backup of a queue that may be in use to `dest`, a new folder, or a new file where it ends in `.tar`.

    It is there whole and verified when this returns, for this user's eyes only, or not at all. ConfigError
    `backup_exists`, `no_queue`, `output`; StoreError, StoreFull, BlobError: then what is kept there is damaged.
    """
    from minitango import __version__

    if os.path.lexists(dest):
        raise _there_already(dest)
    with ExitStack() as undo:
        work = undo.enter_context(workplace(dest.parent, dest, "no backup was made"))
        tree = work / "backup"
        tree.mkdir(mode=0o700)
        store = open_source(place)
        undo.callback(store.close)
        blobs = open_blobs(store, place.folder, place.blobs, agreed=True)
        for left in reversed(range(_TRIES)):
            store.snapshot(tree / "queue.db")
            copy = settle_copy(tree / "queue.db")
            kept = Blobs(tree / "blobs")
            try:
                for digest in copy.beside:  # what is forgotten from now on keeps its blobs for the grace of a prune
                    blobs.touch(digest)
                kept.put_many(blobs.get(digest, keep=False) for digest in copy.beside)
            except BlobError:
                if not left:
                    raise
                # its job may have been forgotten since the snapshot
                (tree / "queue.db").unlink()
                shutil.rmtree(tree / "blobs", ignore_errors=True)
            else:
                break
        for name in NOTES:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(place.folder / name, tree / name)
        label = Label(
            FORMAT, __version__, time.time(), copy.counts, len(copy.digests), _digest_of(tree / "queue.db")
        )  # fmt: skip
        (tree / "backup.json").write_bytes(msgspec.json.encode(label))
        shutil.rmtree(tree / "blobs" / "tmp", ignore_errors=True)
        for path in (*tree.glob("*.json"), tree / "queue.db"):
            path.chmod(0o600)
            sync_file(path)
        failpoint("backup.before_rename")
        if dest.suffix == ".tar":
            _pack(tree, work / "packed", label, copy.beside)
            try:
                give_name(work / "packed", dest)
            except FileExistsError:
                raise _there_already(dest) from None
        else:
            for digest in copy.beside:
                kept.get(digest)
            sync(tree)
            tree.rename(dest)
        sync(dest.parent)
    return label


def _there_already(dest: Path) -> ConfigError:
    return ConfigError(f"{dest} is there already", hint="name a new folder, or a new .tar", id="backup_exists")


def restore(source: Path, place: Place) -> Moved:
    """Make a queue of a backup, at a place where none is; jobs that ran in it are queued there.

    Every blob is verified before the queue is there; killed, it may be begun again. EngineRunning where an engine
    grades there; ConfigError `store_not_empty`, `backup_missing`; StoreError `backup_damaged`, `backup_unknown`.
    """
    if not source.exists():
        raise ConfigError(f"there is no backup at {source}", hint="name its folder, or its .tar", id="backup_missing")
    _label_of(source) if source.is_dir() else _label_in(source)  # nothing is made for what is no backup
    file = place.file
    with ExitStack() as undo:
        undo.enter_context(new_place(place) if file is not None else _for_a_while(place.folder))
        parent = place.folder if file is None else file.parent
        work = undo.enter_context(workplace(parent, parent, "no queue was made"))
        undo.enter_context(_speaking_of(source, work))
        tree = source if source.is_dir() else _unpack(source, work / "unpacked")
        label = _label_of(tree)
        try:
            shutil.copyfile(tree / "queue.db", work / "queue.db")
        except OSError as error:
            if error.errno in FULL:
                raise  # where it was to be written
            raise _damaged(tree, f"queue.db: {error.strerror}") from error
        if _digest_of(work / "queue.db") != label.database:
            raise _damaged(tree, "queue.db has other bytes than were written")
        copy = settle_copy(work / "queue.db")
        here = open_store(f"sqlite:///{work / 'queue.db'}")
        undo.callback(here.close)
        kept = open_blobs(here, tree)
        here.recover()
        if file is None:
            there = open_store(place.url, filling=True)
            undo.callback(there.close)
            guard(there, place, undo)
            return carry(here, there, kept, open_blobs(there, place.folder, place.blobs))
        open_blobs(here, place.folder, place.blobs).put_many(kept.get(digest) for digest in copy.digests)
        here.close()
        for name in NOTES:
            if (tree / name).is_file() and not (place.folder / name).exists():
                shutil.copyfile(tree / name, place.folder / name)
        put_in_place(work / "queue.db", file)
    return Moved(sum(copy.counts.values()), len(copy.digests))


@contextlib.contextmanager
def _for_a_while(folder: Path) -> Iterator[None]:
    """Have a directory to work in, which goes again if it was not there before and nothing else came to lie in it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    statedir.make(folder)
    try:
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


@contextlib.contextmanager
def _speaking_of(backup: Path, work: Path) -> Iterator[None]:
    """What is found wrong with what was taken out of a backup is wrong with the backup: no error names another place,
    which is gone when somebody reads it."""
    try:
        yield
    except (StoreError, BlobError) as error:
        for place in (work / "unpacked", work):
            for text in (f"{place}/", str(place)):
                error.message = error.message.replace(text, f"{backup}{'/' if text.endswith('/') else ''}")
        if isinstance(error, BlobError):
            error.hint = "take another backup"
        error.args = (error.message,)
        raise


def _label_of(tree: Path) -> Label:
    try:
        note = (tree / "backup.json").read_bytes()[:_MAX_NOTE]
    except FileNotFoundError:
        known = (tree / "queue.db").exists()
        raise ConfigError(
            f"{tree} is no backup: it has no backup.json",
            hint=f"it is a state directory: use it as it is, --state {tree}, or minitango migrate {tree} TO"
            if known
            else "name the folder, or the .tar, that minitango backup made",
            id="backup_missing",
        ) from None
    except OSError as error:
        raise _damaged(tree, f"backup.json: {error.strerror}") from error
    return _read_label(tree, note)


def _label_in(packed: Path) -> Label:
    """The label of a tar file of ours, where it is the first file."""
    try:
        with tarfile.open(packed, "r:") as tar:
            first = tar.next()
            ours = first is not None and first.isreg() and first.name == "backup.json"
            read = tar.extractfile(first) if first is not None and ours else None
            if read is None:
                raise _damaged(packed, "it does not begin with backup.json")
            return _read_label(packed, read.read(_MAX_NOTE))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _damaged(packed, str(error)) from error


def _read_label(tree: Path, note: bytes) -> Label:
    try:
        said: Any = msgspec.json.decode(note)
        if isinstance(said, dict) and isinstance(said.get("format"), int) and said["format"] > FORMAT:
            raise StoreError(
                f"{tree} was made by a later minitango ({said.get('minitango')})",
                hint="upgrade minitango",
                id="backup_unknown",
            )
        return msgspec.convert(said, Label)
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise _damaged(tree, f"backup.json: {error}") from error


def _damaged(what: Path, why: str) -> StoreError:
    return StoreError(f"{what} is no whole backup: {why}", hint="take another backup", id="backup_damaged")


_LOOKED_AT: Final = ((18, 20), (24, 28), (92, 100))
"""Bytes of a SQLite file that change where it is only opened: how it keeps its log, and how often it was written."""


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: IO[bytes]) -> str:
    """Of a database, whether it was looked at or not."""
    head = bytearray(file.read(100))
    for start, end in _LOOKED_AT:
        head[start:end] = bytes(len(head[start:end]))
    digest = hashlib.sha256(head)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


# --- tar -----------------------------------------------------------------------------------------


def _pack(tree: Path, packed: Path, label: Label, digests: tuple[str, ...]) -> None:
    """Write the folder as a tar file, and read it again."""
    names = [path for path in ("backup.json", "queue.db", *NOTES) if (tree / path).exists()]
    names += [f"blobs/{digest[:2]}/{digest}" for digest in digests]
    with packed.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in names:
                tar.add(tree / name, name, recursive=False, filter=_nobody)
        file.flush()
        os.fsync(file.fileno())
    wanted = {"queue.db": label.database, **{f"blobs/{digest[:2]}/{digest}": digest for digest in digests}}
    with tarfile.open(packed, "r:") as tar:
        for member in tar:
            wrote = tar.extractfile(member)
            assert wrote is not None
            found = _digest(wrote) if member.name == "queue.db" else hashlib.sha256(wrote.read()).hexdigest()
            if wanted.pop(member.name, None) not in (None, found):
                raise _damaged(packed, f"{member.name} has other bytes than were written")
    if wanted:
        raise _damaged(packed, f"{next(iter(wanted))} is missing")


def _nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o600
    return member


def _unpack(source: Path, folder: Path) -> Path:
    """Unpack a tar file of ours, which whoever may have written: nothing of it but what a backup has."""
    folder.mkdir(mode=0o700)
    try:
        with tarfile.open(source, "r:") as tar:
            for member in tar:
                if not member.isreg() or _MEMBER.fullmatch(member.name) is None:
                    raise _damaged(source, f"it holds {member.name[:80]!r}")
                path = folder / member.name
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                read = tar.extractfile(member)
                assert read is not None
                with path.open("xb") as file:
                    shutil.copyfileobj(read, file, _CHUNK)
    except (tarfile.TarError, EOFError, FileExistsError) as error:
        raise _damaged(source, str(error)) from error
    return folder
