"""What is taken of a tree that a job left: patterns, bounds, and the reasons for what is refused. The same for every
sandbox, which only says how its tree is listed and read (`Tree`).
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from minitango.archive import File
from minitango.errors import SandboxFailed
from minitango.sandbox.contract import CollectBounds, Collected

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

FILE: Final = "a file"
DIRECTORY: Final = "a directory"
LINK: Final = "a symbolic link"
PIPE: Final = "a named pipe"
SOCKET: Final = "a socket"
DEVICE: Final = "a device"
HARD_LINK: Final = "a hard link"
NOT_REGULAR: Final = "not a regular file"
UNREADABLE: Final = "the job left it unreadable"
TOO_LARGE: Final = "too large: all files together are over the bound"
SPARSE: Final = "a sparse file"

_SPARSE_FROM: Final = 64 << 10
_MOST_REFUSALS: Final = 200


class Tree(Protocol):
    """A directory that no process changes any more. No link in it is ever followed."""

    def names(self, parents: Sequence[str], wanted: list[str] | None) -> Iterator[tuple[str, str, bool]]:
        """Names in a directory, what they are (FILE, DIRECTORY, LINK, ...), and whether they were changed after the
        main process had ended, lazily; only the wanted ones, if they are known. PermissionError where the job locked
        it; another OSError where it cannot be listed."""
        ...

    def take(self, parents: Sequence[str], name: str, most: int) -> tuple[File | None, str]:
        """Read one file of at most so many bytes, or say why not. The file's path is left to the caller."""
        ...


def fault_of(*, links: int, size: int, allocated: int, most: int) -> str:
    """Why a regular file is not taken, by its numbers; empty if it may be."""
    if links != 1:
        return HARD_LINK
    if size > most:
        return TOO_LARGE
    if size >= _SPARSE_FROM and allocated < size // 2:
        return SPARSE
    return ""


class _Found:
    """What a walk came upon."""

    def __init__(self, bounds: CollectBounds) -> None:
        self._bounds = bounds
        self.entries = 0
        self.files: list[str] = []
        self.late: set[str] = set()
        """Those that came there, or were changed, after the main process had ended."""
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


def _walk(tree: Tree, patterns: Patterns, bounds: CollectBounds, found: _Found) -> None:
    pending: list[tuple[tuple[str, ...], frozenset[tuple[int, int]], bool]] = [
        ((), patterns.inside(patterns.start()), False)
    ]
    while pending:
        parents, state, above_late = pending.pop()
        try:
            for name, kind, itself_late in tree.names(parents, patterns.literal(state)):
                found.entries += 1
                path = "/".join((*parents, name))
                if found.entries > bounds.entries:
                    found.refuse("/".join(parents), f"more than {bounds.entries} directory entries")
                    return
                after = patterns.step(state, name)
                if not after:
                    continue
                if kind == DIRECTORY:
                    fault = name_fault(name)
                    if fault is None and len(parents) + 1 >= bounds.depth:
                        fault = f"deeper than {bounds.depth} levels"
                    if fault is None and len(path) > bounds.path:
                        fault = f"its path is longer than {bounds.path} characters"
                    if fault is None:
                        # a folder may be put in the place of another, with all that is in it
                        pending.append(((*parents, name), patterns.inside(after), above_late or itself_late))
                    else:
                        found.refuse(path, fault)
                elif patterns.matched(after):
                    if kind == FILE:
                        found.files.append(path)
                        if above_late or itself_late:
                            found.late.add(path)
                    else:
                        found.refuse(path, kind)
        except PermissionError:
            found.refuse("/".join(parents), UNREADABLE)
        except OSError as error:
            found.refuse("/".join(parents), f"it cannot be listed: {error.strerror}")


def collect(tree: Tree, patterns: Patterns, bounds: CollectBounds) -> Collected:
    """What `Box.collect` promises, of this tree. SandboxFailed where it cannot be read at all."""
    found = _Found(bounds)
    _walk(tree, patterns, bounds, found)
    taken: list[File] = []
    left = bounds.bytes
    seen: dict[str, str] = {}
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
                file, fault = tree.take(parents, name, left)
            except OSError as error:
                raise SandboxFailed(f"what the job left cannot be read: {error}") from error
            if file is not None:
                taken.append(File(path=path, data=file.data, executable=file.executable))
                left -= len(file.data)
                continue
        found.refuse(path, fault)
    late = tuple(file.path for file in taken if file.path in found.late)
    return Collected(files=tuple(taken), refused=found.refusals(), late=late)
