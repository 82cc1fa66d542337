"""Immutable bytes in a directory, named by their SHA-256.

    ROOT/ab/abcdef...                    a blob
    ROOT/ab/abcdef....<random>.aside     a blob that a prune is about to delete, and may yet bring back
    ROOT/tmp/<pid>.<random>              a blob while it is written

Any number of threads and processes may put, get and prune at once; there is no lock. What makes that safe: a put
of a blob that is there first marks it as new (its mtime) and then looks whether it is still there; a prune first
takes it aside and then looks at that mark. Whichever comes second sees what the other did.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from minitango.errors import BlobError, StoreError
from minitango.failpoint import failpoint
from minitango.room import FULL, check_room, full

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_FOLDER: Final = re.compile(r"[0-9a-f]{2}")
_ASIDE: Final = ".aside"
_BATCH: Final = 200
"""Blobs that a prune takes aside at a time, and files that a put keeps open before it forces them to disk."""
_BATCH_BYTES: Final = 64 << 20
_TEMP_GRACE: Final = 3600.0
"""Seconds after which a temporary file has no writer any more."""


def check_digest(digest: str) -> None:
    """ValueError for what is no digest."""
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"not a SHA-256 in lower-case hex: {digest[:80]!r}")


def verify(digest: str, data: bytes, place: str | Path) -> None:
    """BlobError `blob_corrupt` where the bytes that a file holds for this digest are others."""
    if hashlib.sha256(data).hexdigest() != digest:
        raise BlobError(
            f"the blob {digest} is damaged: {place} holds other bytes ({len(data)})",
            hint="check the disk, then submit the same work again: that mends the blob",
            id="blob_corrupt",
        )


class Pruned(Struct, frozen=True):
    """What a prune removed."""

    count: int = 0
    bytes: int = 0


def go_on() -> bool:
    """What a prune asks that nobody stops."""
    return False


class BlobStore(Protocol):
    """Where blobs are. `Blobs` is one in a directory; each verb's promise is written there."""

    @property
    def root(self) -> Path:
        """A directory of its own on this machine: the blobs, some of them, or a cache of them."""
        ...

    def path(self, digest: str) -> Path:
        """The file on this machine that a blob is in, if it is there. ValueError for what is no digest."""
        ...

    def put(self, data: bytes) -> str: ...
    def put_many(self, blobs: Iterable[bytes], *, ahead: bool = False) -> list[str]:
        """`ahead`: durable once the next commit of the store is that they are of, where they are in the same file."""
        ...

    def get(self, digest: str, *, keep: bool = True) -> bytes:
        """`keep`: in this machine's cache, where there is one."""
        ...

    def has(self, digest: str) -> bool: ...
    def touch(self, digest: str) -> bool: ...
    def prune(
        self,
        referenced: Callable[[list[str]], set[str]],
        *,
        older_than: float = 3600.0,
        now: float | None = None,
        dry_run: bool = False,
        stop: Callable[[], bool] = go_on,
    ) -> Pruned: ...


class Blobs:
    """Content-addressed bytes below `root`, which is made when it is first needed. Safe from any thread."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self._settled: set[Path] = set()

    def path(self, digest: str) -> Path:
        """Where a blob is, if it is there. ValueError for what is no digest."""
        check_digest(digest)
        return self.root / digest[:2] / digest

    def put(self, data: bytes) -> str:
        """Keep these bytes, and return their digest. As `put_many`."""
        return self.put_many((data,))[0]

    def put_many(self, blobs: Iterable[bytes], *, ahead: bool = False) -> list[str]:
        """Keep these bytes, and return their digests in order: durable when it returns, each stored once.

        A blob that was there is compared, mended if it was damaged, and spared by `prune` for another grace.
        StoreFull, also where the disk is nearly full, or StoreError where the directory cannot be written: then no half
        blob is left.
        """
        digests: list[str] = []
        seen: set[str] = set()
        dirty: set[Path] = set()
        batch: dict[str, bytes] = {}
        size = 0
        with self._writing():
            for data in blobs:
                digest = hashlib.sha256(data).hexdigest()
                digests.append(digest)
                if digest in seen:
                    continue
                seen.add(digest)
                if self._is_intact(digest, data):
                    # it may be another writer's, who has not come to this yet
                    dirty.add(self.path(digest).parent)
                    continue
                batch[digest] = data
                size += len(data)
                if len(batch) == _BATCH or size > _BATCH_BYTES:
                    dirty |= self._write(batch)
                    batch, size = {}, 0
            dirty |= self._write(batch)
            self._settle(dirty)
        return digests

    def keep(self, digest: str, data: bytes) -> None:
        """Have these bytes, whose digest is known, at hand here: not durable, for what can be had again. StoreError."""
        with self._writing():
            path = f"{self._folder('tmp')}/{os.getpid()}.{secrets.token_hex(8)}"
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _write_all(file, data)
                os.rename(path, self._folder(digest[:2]) / digest)  # noqa: PTH104
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(path)  # noqa: PTH108
                raise
            finally:
                os.close(file)

    def get(self, digest: str, *, keep: bool = True) -> bytes:
        """The bytes of this digest, verified. BlobError `blob_missing` or `blob_corrupt`; ValueError: no digest."""
        check_digest(digest)
        path = f"{self.root}/{digest[:2]}/{digest}"
        data = self._read(path)
        if data is None:
            raise BlobError(
                f"the blob {digest} is not there: {path}",
                hint="restore the state directory from a backup, or submit the work again; "
                "where nodes share --blobs DIR, look whether this is it",
                id="blob_missing",
            )
        verify(digest, data, path)
        return data

    def has(self, digest: str) -> bool:
        """Whether a blob of this digest is there; it is not verified."""
        return os.path.isfile(self.path(digest))  # noqa: PTH113 - never raises

    def touch(self, digest: str) -> bool:
        """Spare this blob from `prune` for another grace, as a put does; False if it is not there."""
        path = self.path(digest)
        try:
            os.utime(path)
            path.stat()  # after the mark, see above
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._failed(error) from error
        return True

    def prune(
        self,
        referenced: Callable[[list[str]], set[str]],
        *,
        older_than: float = 3600.0,
        now: float | None = None,
        dry_run: bool = False,
        stop: Callable[[], bool] = go_on,
    ) -> Pruned:
        """Delete the blobs that nothing refers to and that were not put in the last `older_than` seconds.

        With `dry_run` it deletes nothing, and tells what it would. `stop` is asked before each batch: once it says
        so, the rest is left for another time.

        `referenced` gets digests and returns those that are needed. Work may be submitted meanwhile, from any
        process, as long as a reference is recorded within `older_than` seconds of the put of its blob. Also
        removes temporary files of dead writers, and brings back what an interrupted prune took aside.
        """
        now = time.time() if now is None else now
        count = size = 0
        try:
            if not dry_run:
                self._collect_temporaries(now)
            for folder in self._folders():
                if stop():
                    break
                old = self._unused(folder, now - older_than, bring_back=not dry_run)
                for start in range(0, len(old), _BATCH):
                    if stop():
                        return Pruned(count, size)
                    batch = old[start : start + _BATCH]
                    needed = referenced(batch)
                    unneeded = [digest for digest in batch if digest not in needed]
                    before = now - older_than
                    gone = self._measured(unneeded) if dry_run else self._delete(unneeded, referenced, before)
                    count += gone.count
                    size += gone.bytes
        except OSError as error:
            raise self._failed(error) from error
        return Pruned(count, size)

    # --- writing ------------------------------------------------------------------------------

    def _is_intact(self, digest: str, data: bytes) -> bool:
        """Mark a blob as new, then look whether it is there with these bytes. The order matters: see above."""
        path = self.path(digest)
        try:
            os.utime(path)
            return path.read_bytes() == data
        except OSError:  # not there, or not to be read: written anew it will be, or the writing says why not
            return False

    def _write(self, batch: dict[str, bytes]) -> set[Path]:
        """Write these blobs, forced to disk but for their names. Returns the folders that hold the names."""
        if not batch:
            return set()
        check_room(self.root)
        temporary = self._folder("tmp")
        written: dict[str, tuple[Path, int]] = {}
        try:
            for digest, data in batch.items():
                path = temporary / f"{os.getpid()}.{secrets.token_hex(8)}"
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                written[digest] = path, file
                _write_all(file, data)
            for _, file in written.values():
                os.fsync(file)
            failpoint("blobs.before_rename")
            folders = set()
            for digest, (path, _) in written.items():
                folder = self._folder(digest[:2])
                path.rename(folder / digest)
                folders.add(folder)
            failpoint("blobs.before_sync")
            return folders
        finally:
            for path, file in written.values():
                os.close(file)
                with contextlib.suppress(OSError):
                    path.unlink()

    def _folder(self, name: str) -> Path:
        """A folder of the root, made if need be."""
        folder = self.root / name
        try:
            folder.mkdir(0o700)
        except FileExistsError:
            pass
        except FileNotFoundError:
            made = [path for path in (self.root, *self.root.parents) if not path.exists()]
            self.root.mkdir(parents=True, exist_ok=True)
            for path in made:
                path.chmod(0o700)
                sync(path.parent)
            folder.mkdir(0o700, exist_ok=True)
        return folder

    def _settle(self, folders: set[Path]) -> None:
        """Make the names in these folders durable, and the folders' own, whoever made them."""
        for folder in folders:
            sync(folder)
        if not folders <= self._settled:
            sync(self.root)
            self._settled |= folders

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> StoreError:
        if error.errno in FULL:
            return full(self.root, "nothing was accepted", queue=True)
        return StoreError(
            f"cannot write to {self.root}: {error.strerror or error}",
            hint=f"make it writable (ls -ld '{self.root}'), or name another directory with --state",
            id="blobs_unwritable",
        )

    # --- reading ------------------------------------------------------------------------------

    def _read(self, path: str) -> bytes | None:
        for pause in (0.0, 0.02, None):
            try:
                with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - for each job: a Path costs as much as reading
                    return file.read()
            except FileNotFoundError:
                # A prune may have it aside this moment, or have died while it had.
                with contextlib.suppress(OSError):
                    self._bring_back(Path(path))
            except OSError as error:
                raise BlobError(
                    f"the blob {path} cannot be read: {error.strerror or error}",
                    hint=f"look at it with: ls -l '{path}'",
                    id="blob_unreadable",
                ) from error
            if pause:
                time.sleep(pause)
        return None

    # --- pruning ------------------------------------------------------------------------------

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return sorted(path for path in self.root.iterdir() if _FOLDER.fullmatch(path.name) and path.is_dir())

    def _unused(self, folder: Path, before: float, *, bring_back: bool) -> list[str]:
        """Digests in this folder that were put before then; what was left aside is brought back first."""
        for aside in folder.glob(f"*{_ASIDE}") if bring_back else ():
            _restore(aside, folder / aside.name[:64])
        old = []
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if _DIGEST.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < before:
                        old.append(entry.name)
        return sorted(old)

    def _measured(self, digests: list[str]) -> Pruned:
        sizes = []
        for digest in digests:
            with contextlib.suppress(FileNotFoundError):
                sizes.append(self.path(digest).stat().st_size)
        return Pruned(len(sizes), sum(sizes))

    def _delete(self, digests: list[str], referenced: Callable[[list[str]], set[str]], before: float) -> Pruned:
        """Take these aside, look again, and delete those that are still old and still not needed."""
        aside: dict[str, Path] = {}
        count = size = 0
        try:
            for digest in digests:
                path = self.path(digest)
                target = path.with_name(f"{digest}.{secrets.token_hex(8)}{_ASIDE}")
                with contextlib.suppress(FileNotFoundError):
                    path.rename(target)
                    aside[digest] = target
            failpoint("blobs.pruning")
            needed = referenced(list(aside)) if aside else set()
            for digest, target in list(aside.items()):
                with contextlib.suppress(FileNotFoundError):  # a reader brought it back
                    status = target.stat()
                    if digest not in needed and status.st_mtime < before:
                        target.unlink()
                        count += 1
                        size += status.st_size
                        del aside[digest]
        finally:
            for digest, target in aside.items():
                _restore(target, self.path(digest))
        return Pruned(count, size)

    def _bring_back(self, path: Path) -> None:
        for aside in path.parent.glob(f"{path.name}.*{_ASIDE}"):
            _restore(aside, path)

    def _collect_temporaries(self, now: float) -> None:
        folder = self.root / "tmp"
        if not folder.is_dir():
            return
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < now - _TEMP_GRACE:
                    path.unlink()


def _restore(aside: Path, path: Path) -> None:
    """Give a blob its name back, unless a put has written it anew."""
    with contextlib.suppress(FileNotFoundError):
        try:
            os.link(aside, path)
        except FileExistsError:
            pass
        except PermissionError:  # a file system without hard links
            if not path.exists():
                aside.rename(path)
                return
        aside.unlink()


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
