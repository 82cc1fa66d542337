"""Files into and out of a directory that is known by a descriptor. No path is ever resolved by the kernel beyond
one name, no link is ever followed, and nothing recurses: what lies in the directory may be hostile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from minitango.archive import File
from minitango.sandbox._collect import (
    DEVICE,
    DIRECTORY,
    FILE,
    LINK,
    NOT_REGULAR,
    PIPE,
    SOCKET,
    UNREADABLE,
    Tree,
    fault_of,
)

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK: Final = 1 << 20


class _Path:
    """Descriptors of a directory below `root` and of its parents: near places are reached by few calls."""

    def __init__(self, root: int) -> None:
        self._fds = [root]
        self._names: list[str] = []

    def to(self, names: Sequence[str], *, make: bool = False) -> int:
        """Go to this directory, from wherever it is now, and give its descriptor, which stays this object's."""
        common = 0
        while common < min(len(names), len(self._names)) and names[common] == self._names[common]:
            common += 1
        self._up(common)
        for name in names[common:]:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=self._fds[-1])
                    os.chmod(name, 0o755, dir_fd=self._fds[-1])  # noqa: S103  # whatever the umask
            self._fds.append(os.open(name, _DIRECTORY, dir_fd=self._fds[-1]))
            self._names.append(name)
        return self._fds[-1]

    def _up(self, depth: int) -> None:
        while len(self._names) > depth:
            os.close(self._fds.pop())
            self._names.pop()

    def __enter__(self) -> _Path:
        return self

    def __exit__(self, *_: object) -> None:
        self._up(0)


def _parts(path: str) -> list[str]:
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise ValueError(f"unsafe path: {path!r}")
    return parts


def write_tree(root: int, files: Iterable[File]) -> None:
    """Write files below the directory `root`; parents are made, files replaced. ValueError for an unsafe path (nothing
    after it is written), OSError where they do not fit."""
    with _Path(root) as place:
        for file in files:
            *parents, name = _parts(file.path)
            directory = place.to(parents, make=True)
            try:
                fd = os.open(name, _CREATE, 0o600, dir_fd=directory)
            except FileExistsError:
                os.unlink(name, dir_fd=directory)
                fd = os.open(name, _CREATE, 0o600, dir_fd=directory)
            try:
                left = memoryview(file.data)
                while left:
                    left = left[os.write(fd, left) :]
                os.fchmod(fd, 0o755 if file.executable else 0o644)
            finally:
                os.close(fd)


# --- reading ---------------------------------------------------------------------------------------

_KINDS: Final = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: LINK,
    stat.S_IFIFO: PIPE,
    stat.S_IFSOCK: SOCKET,
    stat.S_IFCHR: DEVICE,
    stat.S_IFBLK: DEVICE,
}


@contextlib.contextmanager
def tree_at(root: int, *, ended: int | None = None) -> Iterator[Tree]:
    """The directory `root` as a tree that is collected from. `ended`: what was changed later is late; in nanoseconds on
    the clock of files."""
    with _Path(root) as place:
        yield _DirectoryTree(place, ended)


class _DirectoryTree:
    def __init__(self, place: _Path, ended: int | None) -> None:
        self._place = place
        self._ended = ended

    def names(self, parents: Sequence[str], wanted: list[str] | None) -> Iterator[tuple[str, str, bool]]:
        """See `Tree.names`."""
        directory = self._place.to(parents)
        if wanted is not None:
            for name in wanted:
                with contextlib.suppress(OSError):
                    yield name, *self._seen(os.stat(name, dir_fd=directory, follow_symlinks=False))
            return
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    yield entry.name, *self._seen(entry.stat(follow_symlinks=False))

    def _seen(self, info: os.stat_result) -> tuple[str, bool]:
        """What it is, and whether it is late: a job can set every time of a file but its ctime."""
        kind = _KINDS.get(stat.S_IFMT(info.st_mode), NOT_REGULAR)
        return kind, self._ended is not None and info.st_ctime_ns > self._ended

    def take(self, parents: Sequence[str], name: str, most: int) -> tuple[File | None, str]:
        """See `Tree.take`."""
        directory = self._place.to(parents)
        try:
            fd = os.open(name, _READ, dir_fd=directory)
        except PermissionError:
            return None, UNREADABLE
        except OSError as error:
            return None, LINK if error.errno == errno.ELOOP else f"it cannot be read: {error.strerror}"
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                return None, NOT_REGULAR
            fault = fault_of(links=info.st_nlink, size=info.st_size, allocated=info.st_blocks * 512, most=most)
            if fault:
                return None, fault
            data = bytearray()
            while len(data) < info.st_size and (chunk := os.read(fd, min(_CHUNK, info.st_size - len(data)))):
                data += chunk
            return File(path=name, data=bytes(data), executable=bool(info.st_mode & 0o100)), ""
        except OSError as error:
            return None, f"it cannot be read: {error.strerror}"
        finally:
            os.close(fd)
