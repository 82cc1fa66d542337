"""Where an export's files are: in a folder, as it was unpacked, or in the zip as it came. Read alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from minitango import archive
from minitango.archive import Bounds, File, check_path, is_ignored
from minitango.assignment.submission import is_no_handin
from minitango.errors import ArchiveError, SubmissionError
from minitango.text import one_line
from minitango.unpacking import MAX_MEMBERS, Members

KEEP: Final = 64 << 20
"""Bytes of hand-ins that are kept while a run goes on."""
_EACH: Final = 1000
"""Bytes that a file costs beside its own."""


class Place(Protocol):
    """An export's files. Paths are relative to its top, and of files only."""

    where: str
    """For messages."""

    def tops(self) -> dict[str, bool]:
        """The entries at the top, but for what is no hand-in, and whether each is a folder."""
        ...

    def holds(self, name: str) -> bool:
        """Whether a file of this name is at the top, whatever `tops` thinks of it."""
        ...

    def below(self, top: str) -> list[str]:
        """The paths of all files in one of them. SubmissionError: it cannot be read, or there are too many."""
        ...

    def read(self, wanted: Mapping[str, str], bounds: Bounds) -> tuple[File, ...]:
        """These files, each under the path that it is to have, in order of it. ArchiveError as `archive.read_tree`."""
        ...


def places_in(path: Path, *, sure: bool = False) -> Iterator[Place]:
    """What may be an export: a folder, or a file that is called `.zip` and is one, and what is in a zip's only folder.
    Nothing where it is neither.

    What is in a folder's only folder may be one where that is `sure`: else it is a student's, the first to hand in, who
    would say there whose it is.
    """
    place: _Folder | _Zip
    if _is_dir(path):
        place = _Folder(path)
    elif path.name.lower().endswith(".zip") and _is_file(path):
        try:
            place = _Zip(path)
        except ArchiveError:
            return  # as a hand-in it is refused, with the reason
    else:
        return
    yield place
    tops = place.tops()
    if list(tops.values()) == [True] and (sure or isinstance(place, _Zip)):
        yield place.inside(next(iter(tops)))


def _is_dir(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - of what cannot be looked at, Path does not say no


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113


class Kept:
    """Reads hand-ins once: a run asks three times for the files of each. What there is no room for is read again."""

    def __init__(self, read: Callable[[Mapping[str, str], Bounds], tuple[File, ...]]) -> None:
        self._read = read
        self._kept: dict[tuple[tuple[tuple[str, str], ...], Bounds], tuple[File, ...]] = {}
        self._room = KEEP

    def __call__(self, wanted: Mapping[str, str], bounds: Bounds) -> tuple[File, ...]:
        """As `Place.read`."""
        key = tuple(wanted.items()), bounds
        files = self._kept.get(key)
        if files is None:
            files = self._read(wanted, bounds)
            size = sum(len(file.data) for file in files) + _EACH * len(files)
            if size <= self._room:
                self._room -= size
                self._kept[key] = files
        return files


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.where = str(path)

    def inside(self, top: str) -> _Folder:
        return _Folder(self._path / top)

    def tops(self) -> dict[str, bool]:
        with self._scanned(self._path) as found:
            return {entry.name: entry.is_dir(follow_symlinks=False) for entry in found if not is_no_handin(entry.name)}

    def holds(self, name: str) -> bool:
        return _is_file(self._path / name)

    def below(self, top: str) -> list[str]:
        found: list[str] = []
        folders = [top] if _is_dir(self._path / top) else []
        while folders:
            folder = folders.pop()
            with self._scanned(self._path / folder) as entries:
                for entry in entries:
                    if is_ignored(entry.name):
                        continue
                    (folders if entry.is_dir(follow_symlinks=False) else found).append(f"{folder}/{entry.name}")
                    if len(found) + len(folders) > MAX_MEMBERS:
                        raise SubmissionError(
                            f"{self.where} holds more than {MAX_MEMBERS} files", hint="grade it in parts", id="export"
                        )
        return sorted(found)

    def _scanned(self, folder: Path) -> os._ScandirIterator[str]:
        try:
            return os.scandir(folder)
        except OSError as error:
            place = one_line(str(folder), 200)
            raise SubmissionError(
                f"the folder {place!r} cannot be read: {error.strerror}",
                hint=f"ls -ld '{place}'",
                id="submission_unreadable",
            ) from error

    def read(self, wanted: Mapping[str, str], bounds: Bounds) -> tuple[File, ...]:
        files: list[File] = []
        left = bounds.bytes
        for path, name in wanted.items():
            if len(files) == bounds.files:
                raise archive.too_many("files", bounds.files)
            data, executable = archive.read_file(self._path / path, left)
            left -= len(data)
            files.append(File(check_path(name), data, executable))
        return archive.tree(files)


class _Zip:
    def __init__(self, path: Path, top: str = "", members: Members | None = None) -> None:
        self._path = path
        self._top = top
        self._members = members or Members(path)
        self.where = f"{path}/{top}" if top else str(path)
        self._below: dict[str, list[str]] = {}
        for name in self._members.names:
            if name.startswith(top) and not is_ignored(name):
                below = name.removeprefix(top)
                self._below.setdefault(below.partition("/")[0], []).append(below)

    def inside(self, top: str) -> _Zip:
        return _Zip(self._path, f"{self._top}{top}/", self._members)

    def tops(self) -> dict[str, bool]:
        return {name: paths != [name] for name, paths in self._below.items() if name and not is_no_handin(name)}

    def holds(self, name: str) -> bool:
        return self._below.get(name) == [name]

    def below(self, top: str) -> list[str]:
        return sorted({path for path in self._below.get(top, []) if path != top})

    def read(self, wanted: Mapping[str, str], bounds: Bounds) -> tuple[File, ...]:
        return self._members.read({self._top + path: name for path, name in wanted.items()}, bounds)
