"""Files into and out of a directory that is known by a descriptor. No path is ever resolved by the kernel beyond
one name, no link is ever followed, and nothing recurses: what lies in the directory may be hostile.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from minitango.archive import File
from minitango.errors import SandboxFailed
from minitango.sandbox import CollectBounds, Collected

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK: Final = 1 << 20
_SPARSE_FROM: Final = 64 << 10
_MOST_REFUSALS: Final = 200


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


# --- patterns --------------------------------------------------------------------------------------

_ALL: Final = -1
"""The state in which everything below is taken."""


class Patterns:
    """Several patterns as one machine that reads a path name by name: it says which directories are worth a look.

    A state is a set of (pattern, how many of its parts are matched).
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns: list[tuple[str, ...]] = []
        for pattern in patterns:
            body = pattern.rstrip("/")
            while body.startswith("./"):
                body = body[2:]
            parts = () if body in ("", ".") else tuple(part for part in body.split("/") if part != ".")
            if pattern.startswith("/") or ".." in parts or "" in parts or "\0" in pattern:
                raise ValueError(f"unsafe pattern: {pattern!r}")
            self._patterns.append((*parts, "**") if pattern.endswith("/") else parts)
        self._compiled = {
            part: re.compile(fnmatch.translate(part)) for parts in self._patterns for part in parts if part != "**"
        }

    def start(self) -> frozenset[tuple[int, int]]:
        return self._close({(number, 0) for number in range(len(self._patterns))})

    def step(self, state: frozenset[tuple[int, int]], name: str) -> frozenset[tuple[int, int]]:
        """The state after one more name of a path; empty where no pattern can match any more."""
        after: set[tuple[int, int]] = set()
        for number, at in state:
            if at == _ALL:
                after.add((number, _ALL))
                continue
            part = self._patterns[number][at] if at < len(self._patterns[number]) else None
            if part == "**":
                after.add((number, at))
                if at + 1 == len(self._patterns[number]):
                    after.add((number, _ALL))
            elif part is not None and self._compiled[part].match(name):
                after.add((number, at + 1))
        return self._close(after)

    def matched(self, state: frozenset[tuple[int, int]]) -> bool:
        """Whether a file whose path led here is taken."""
        return any(at in (_ALL, len(self._patterns[number])) for number, at in state)

    def literal(self, state: frozenset[tuple[int, int]]) -> list[str] | None:
        """The only names of use in a directory in this state; None where it must be listed."""
        names: set[str] = set()
        for number, at in state:
            if at == _ALL:
                return None
            part = self._patterns[number][at] if at < len(self._patterns[number]) else None
            if part is None:
                continue
            if part == "**" or any(sign in part for sign in "*?["):
                return None
            names.add(part)
        return sorted(names)

    def inside(self, state: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]]:
        """The state in a directory whose path led to `state`: one that is named takes all below it."""
        return frozenset((number, _ALL if at == len(self._patterns[number]) else at) for number, at in state)

    def _close(self, state: set[tuple[int, int]]) -> frozenset[tuple[int, int]]:
        """`**` may also stand for no name at all, but at the end it stands for what lies below."""
        for number, at in list(state):
            parts = self._patterns[number]
            while 0 <= at < len(parts) - 1 and parts[at] == "**":
                at += 1
                state.add((number, at))
        return frozenset(state)


# --- collecting ------------------------------------------------------------------------------------


class _Found:
    """What a walk came upon."""

    def __init__(self, bounds: CollectBounds) -> None:
        self._bounds = bounds
        self.entries = 0
        self.files: list[str] = []
        self.refused: list[tuple[str, str]] = []
        self._unnamed = 0

    def refuse(self, path: str, reason: str) -> None:
        if len(self.refused) < _MOST_REFUSALS:
            self.refused.append((printable(path)[: self._bounds.path * 2], reason))
        else:
            self._unnamed += 1

    def refusals(self) -> tuple[tuple[str, str], ...]:
        more = [("", f"{self._unnamed} more were refused")] if self._unnamed else []
        return (*sorted(self.refused), *more)


_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def name_fault(name: str) -> str | None:
    """What is wrong with one name of a path; None if nothing is."""
    for char in name:
        category = unicodedata.category(char)
        if category == "Cs":
            return "its name is not UTF-8"
        if category in ("Cc", "Zl", "Zp"):
            return "its name has a control character"
        if char in _BIDI:
            return "its name has a text-direction control"
    return None


def printable(text: str) -> str:
    """A name that is safe to show and to keep as UTF-8: what is odd in it is written as an escape."""
    return "".join(
        char if name_fault(char) is None else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )


_KINDS: Final = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _names(directory: int, wanted: list[str] | None) -> Iterator[tuple[str, int]]:
    """Names and modes in a directory, lazily; only the wanted ones, if they are known."""
    if wanted is not None:
        for name in wanted:
            with contextlib.suppress(OSError):
                yield name, os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        return
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                yield entry.name, entry.stat(follow_symlinks=False).st_mode


def _walk(root: int, patterns: Patterns, bounds: CollectBounds, found: _Found) -> None:
    pending: list[tuple[tuple[str, ...], frozenset[tuple[int, int]]]] = [((), patterns.inside(patterns.start()))]
    with _Path(root) as place:
        while pending:
            parents, state = pending.pop()
            try:
                directory = place.to(parents)
                for name, mode in _names(directory, patterns.literal(state)):
                    found.entries += 1
                    path = "/".join((*parents, name))
                    if found.entries > bounds.entries:
                        found.refuse("/".join(parents), f"more than {bounds.entries} directory entries")
                        return
                    after = patterns.step(state, name)
                    if not after:
                        continue
                    if stat.S_ISDIR(mode):
                        fault = name_fault(name)
                        if fault is None and len(parents) + 1 >= bounds.depth:
                            fault = f"deeper than {bounds.depth} levels"
                        if fault is None and len(path) > bounds.path:
                            fault = f"its path is longer than {bounds.path} characters"
                        if fault is None:
                            pending.append(((*parents, name), patterns.inside(after)))
                        else:
                            found.refuse(path, fault)
                    elif patterns.matched(after):
                        if stat.S_ISREG(mode):
                            found.files.append(path)
                        else:
                            found.refuse(path, _KINDS.get(stat.S_IFMT(mode), "not a regular file"))
            except PermissionError:
                found.refuse("/".join(parents), "the job left it unreadable")
            except OSError as error:
                found.refuse("/".join(parents), f"it cannot be listed: {error.strerror}")


def _take(directory: int, name: str, left: int) -> tuple[File | None, str]:
    """Read one file, or say why not. The file's path is left to the caller."""
    try:
        fd = os.open(name, _READ, dir_fd=directory)
    except PermissionError:
        return None, "the job left it unreadable"
    except OSError as error:
        return None, "a symbolic link" if error.errno == errno.ELOOP else f"it cannot be read: {error.strerror}"
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return None, "not a regular file"
        if info.st_nlink != 1:
            return None, "a hard link"
        if info.st_size > left:
            return None, "too large: all files together are over the bound"
        if info.st_size >= _SPARSE_FROM and info.st_blocks * 512 < info.st_size // 2:
            return None, "a sparse file"
        data = bytearray()
        while len(data) < info.st_size and (chunk := os.read(fd, min(_CHUNK, info.st_size - len(data)))):
            data += chunk
        return File(path=name, data=bytes(data), executable=bool(info.st_mode & 0o100)), ""
    except OSError as error:
        return None, f"it cannot be read: {error.strerror}"
    finally:
        os.close(fd)


def read_tree(root: int, patterns: Patterns, bounds: CollectBounds) -> Collected:
    """What `Box.collect` promises, of the directory `root`. Nothing may still be changing it."""
    found = _Found(bounds)
    _walk(root, patterns, bounds, found)
    taken: list[File] = []
    left = bounds.bytes
    seen: dict[str, str] = {}
    with _Path(root) as place:
        for path in sorted(found.files):
            *parents, name = path.split("/")
            twin = seen.setdefault(unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold()), path)
            fault = name_fault(name)
            if fault is None and len(path) > bounds.path:
                fault = f"its path is longer than {bounds.path} characters"
            if fault is None and twin != path:
                fault = f"its name is the same as that of {twin}, but for case or accents"
            if fault is None and len(taken) >= bounds.files:
                fault = f"more than {bounds.files} files"
            if fault is None:
                try:
                    file, fault = _take(place.to(parents), name, left)
                except OSError as error:
                    raise SandboxFailed(f"what the job left cannot be read: {error}") from error
                if file is not None:
                    taken.append(File(path=path, data=file.data, executable=file.executable))
                    left -= len(file.data)
                    continue
            found.refuse(path, fault)
    return Collected(files=tuple(taken), refused=found.refusals())
