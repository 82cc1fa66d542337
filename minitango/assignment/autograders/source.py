"""Where an autograder is read from: a folder or an archive, the same either way. Only what is asked for is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from minitango.archive import (
    MAX_DEPTH,
    Bounds,
    File,
    check_path,
    is_archive_name,
    is_ignored,
    read_archive,
    read_file,
)
from minitango.errors import ArchiveError, AssignmentError
from minitango.text import human_size

MAX_BYTES: Final = 256 << 20
MAX_FILES: Final = 20_000
_SMALL: Final = 1 << 20
"""Bytes of a file that is read for what it says."""


class Source:
    """A folder of an autograder's files, or an archive of them. Paths are relative to its top, separated by `/`.

    Where an archive has everything below one folder, that is its top.
    """

    def __init__(self, path: Path, *, without: frozenset[str] = frozenset()) -> None:
        """`without`: names at the top of a folder that are no part of it. AssignmentError: it cannot be read."""
        self.path = path
        self.used: list[Path] = [path]
        """What was looked at: if none of these changed, neither did what was read."""
        self._without = without
        self._archive: dict[str, File] | None = None
        if not path.is_dir():
            try:
                self._archive = _below_one_top(read_archive(path, Bounds(files=MAX_FILES, bytes=MAX_BYTES)))
            except ArchiveError as error:
                raise AssignmentError(error.message, file=str(path), hint=_hint(error), id=error.id) from error

    @property
    def is_archive(self) -> bool:
        return self._archive is not None

    @property
    def name(self) -> str:
        """What it is called: the name of its folder, or of the archive without suffixes."""
        name = self.path.absolute().name
        if self._archive is None:
            return name
        for suffix in (".zip", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tbz", ".tar"):
            if name.lower().endswith(suffix):
                return name[: -len(suffix)]
        return name

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        if self._archive is not None:
            return path in self._archive
        return path.split("/")[0] not in self._without and (self.path / path).is_file()

    def top(self) -> list[str]:
        """The names of the files at the top, in order."""
        if self._archive is not None:
            return sorted(path for path in self._archive if "/" not in path)
        try:
            names = sorted(entry.name for entry in self.path.iterdir() if entry.is_file())
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror}", f"ls -ld '{self.path}'", id="unreadable") from error
        return [name for name in names if name not in self._without and not is_ignored(name)]

    def read(self, path: str, most: int = MAX_BYTES) -> File:
        """A file of it. AssignmentError where it is not there, no regular file, or larger than `most` bytes."""
        if self._archive is not None:
            if path not in self._archive:
                raise self.error(f"there is no {path} in it", f"add {path}", id="file_missing")
            return self._archive[path]
        self.used.append(self.path / path)
        try:
            data, executable = read_file(self.path / path, most)
        except ArchiveError as error:
            raise AssignmentError(error.message, file=str(self.path / path), hint=_hint(error), id=error.id) from error
        return File(path, data, executable)

    def text(self, path: str) -> str:
        """What a small file says. AssignmentError also where it is no UTF-8."""
        data = self.read(path, _SMALL).data.removeprefix(b"\xef\xbb\xbf")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise AssignmentError(
                "it is not UTF-8", file=self.place(path), hint="save it as UTF-8", id="encoding"
            ) from error

    def below(self, folder: str = "") -> list[File]:
        """All files below a folder of it, with their paths from the top; none where there is no such folder."""
        start = f"{folder}/" if folder else ""
        if self._archive is not None:
            return [file for path, file in self._archive.items() if path.startswith(start)]
        place = self.path / folder
        if not place.is_dir():
            return []
        files: list[File] = []
        left = MAX_BYTES
        for name, entry, real in self._walk(place, folder.removesuffix("/")):
            try:
                data, executable = read_file(real, left)
                files.append(File(check_path(name), data, executable))
            except ArchiveError as error:
                raise AssignmentError(error.message, file=str(entry.parent), hint=_hint(error), id=error.id) from error
            left -= len(data)
            if len(files) > MAX_FILES:
                raise self.error(f"it has more than {MAX_FILES} files", "take what is not needed out", id="too_many")
        return sorted(files, key=lambda file: file.path)

    def _walk(self, place: Path, path: str) -> Iterator[tuple[str, Path, Path]]:
        """All files below a folder, which is `path` from the top: what each is called, where, and where it really is. A
        link that stays inside is what it leads to."""
        self.used.append(place)
        try:
            for entry in sorted(place.iterdir()):
                name = f"{path}/{entry.name}" if path else entry.name
                if is_ignored(entry.name) or name in self._without:
                    continue
                real = self._inside(entry, name) if entry.is_symlink() else entry
                if not real.is_dir():
                    self.used.append(real)
                    yield name, entry, real
                    continue
                if name.count("/") >= MAX_DEPTH:
                    raise self.error(f"{name} is too deep", f"at most {MAX_DEPTH} folders", id="too_many")
                yield from self._walk(real, name)
        except OSError as error:
            raise self.error(f"{place}: {error.strerror}", f"ls -ld '{place}'", id="unreadable") from error

    def _inside(self, link: Path, name: str) -> Path:
        try:
            real = link.resolve(strict=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
            raise self.error(f"the link {name} leads nowhere", "remove it", id="not_regular") from error
        if not real.is_relative_to(self.path.resolve()):
            raise self.error(f"the link {name} leaves its folder", "put a copy in its place", id="file_outside")
        return real

    def place(self, path: str) -> str:
        """A file of it, for messages."""
        return f"{self.path}: {path}" if self._archive is not None else str(self.path / path)

    def error(self, message: str, hint: str, *, id: str, path: str = "", key: str = "") -> AssignmentError:
        """An error about it, or about a file in it."""
        return AssignmentError(message, file=self.place(path) if path else str(self.path), key=key, hint=hint, id=id)


def is_archive(path: Path) -> bool:
    """Whether this is an archive by its name, and a file."""
    return is_archive_name(path.name) and path.is_file()


def _below_one_top(files: tuple[File, ...]) -> dict[str, File]:
    tops = {file.path.partition("/")[0] for file in files}
    if len(tops) == 1 and all("/" in file.path for file in files):
        start = f"{tops.pop()}/"
        return _below_one_top(tuple(File(f.path.removeprefix(start), f.data, f.executable) for f in files))
    return {file.path: file for file in files}


def _hint(error: ArchiveError) -> str:
    if error.id in ("too_large", "too_many"):
        return f"an autograder may be {MAX_FILES} files of {human_size(MAX_BYTES)} together"
    if error.id.startswith("archive_"):  # what is said of a hand-in is said to a student
        return "pack the autograder again, as a plain zip or tar.gz of regular files, or name its folder"
    return error.hint
