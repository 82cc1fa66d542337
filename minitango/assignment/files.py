"""The instructor's files of a step: what `files = [...]` names, and where it lands."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from minitango.archive import Bounds, File, is_ignored, read_file, read_tree
from minitango.assignment.checks import inside
from minitango.assignment.places import NOWHERE, Key, Places
from minitango.errors import ArchiveError
from minitango.text import human_size

MAX_BYTES: Final = 256 << 20
MAX_FILES: Final = 20_000


def gather(root: Path, entries: Sequence[str], key: Key, places: Places = NOWHERE) -> tuple[File, ...]:
    """The files that the entries name, at the paths where they land, in no particular order.

    `grader/` is the content of that folder; `grader`, `tests/data.json` or `tests/*.json` is what is named, under its
    own path. AssignmentError: missing, a link, outside of `root`, more than MAX_BYTES or MAX_FILES together, or two
    that land on one path.
    """
    landed: dict[str, str] = {}
    files: list[File] = []
    left = MAX_BYTES
    for entry in entries:
        for name in _matches(root, entry, key, places):
            real = inside(root, name, key, places)
            try:
                found = _read(real, name, entry, Bounds(files=MAX_FILES - len(files), bytes=left, entries=100_000))
            except ArchiveError as error:
                hint = error.hint
                if error.id in ("too_large", "too_many"):
                    hint = f"a step's files may be {MAX_FILES} of {human_size(MAX_BYTES)} together"
                raise places.error(key, f"{entry!r}: {error.message}", hint, error.id) from error
            for file in found:
                if file.path in landed:
                    text = f"{landed[file.path]!r} and {entry!r} both bring {file.path!r}"
                    raise places.error(key, text, "take one of them away", "file_twice")
                landed[file.path] = entry
                left -= len(file.data)
            files.extend(found)
    return tuple(files)


def named(root: Path, entries: Sequence[str], key: Key, places: Places = NOWHERE) -> list[Path]:
    """The files and folders that the entries name. AssignmentError where a pattern names none."""
    return [root / name for entry in entries for name in _matches(root, entry, key, places)]


def sources(root: Path, entries: Sequence[str], key: Key, places: Places = NOWHERE) -> list[Path]:
    """Every file and folder that `gather` looks at: if none of them changed, neither did what it gives."""
    found: list[Path] = []
    for entry in entries:
        if _is_pattern(entry):
            found.append((root / entry).parent)
        for name in _matches(root, entry, key, places):
            path = root / name
            found.append(path)
            for folder, folders, files in os.walk(path):
                folders[:] = [name for name in folders if not is_ignored(name)]
                found.extend(Path(folder, name) for name in (*folders, *files) if not is_ignored(name))
    return found


def _read(path: Path, name: str, entry: str, bounds: Bounds) -> list[File]:
    if path.is_dir():
        below = "" if entry.endswith("/") else f"{name}/"
        return [File(below + file.path, file.data, file.executable) for file in read_tree(path, bounds)]
    if entry.endswith("/"):
        raise ArchiveError("it is a file, not a folder", hint=f"take the / away: {name!r}", id="file_missing")
    data, executable = read_file(path, bounds.bytes)
    return [File(name, data, executable)]


def _matches(root: Path, entry: str, key: Key, places: Places) -> Iterator[str]:
    """The paths below root that an entry names. They exist where it is a pattern."""
    clean = entry.removesuffix("/")
    if not _is_pattern(clean):
        yield clean
        return
    folder, _, pattern = clean.rpartition("/")
    if folder:
        inside(root, folder, key, places)
    try:
        names = sorted(os.listdir(root / folder))  # noqa: PTH208 - names are wanted, not paths
    except OSError as error:
        raise places.error(
            key, f"{entry!r}: {error.strerror}", "name a folder that is there", "file_missing"
        ) from error
    found = [
        name
        for name in names
        if fnmatch.fnmatchcase(name, pattern)
        and not is_ignored(name)
        and (pattern.startswith(".") or not name.startswith("."))
    ]
    if not found:
        raise places.error(key, f"{entry!r} matches nothing in {root}", "correct the pattern", "file_missing")
    for name in found:
        yield f"{folder}/{name}" if folder else name


def _is_pattern(entry: str) -> bool:
    return any(letter in entry for letter in "*?[")
