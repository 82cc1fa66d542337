"""Trees of files as values: read from a folder or an archive, bounded and checked; packed into one bundle.

What is read here was made by strangers. A tree that comes out has clean, distinct paths, regular files only, and
fits its bounds; anything else is refused with ArchiveError before a byte of it is used.
"""

from __future__ import annotations

import errno
import functools
import itertools
import operator
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from minitango.errors import ArchiveError
from minitango.text import human_size, one_line

MAX_PATH: Final = 240
"""Characters in a path of a tree."""
MAX_DEPTH: Final = 12
"""Components in a path of a tree."""
MAX_NAME: Final = 255
"""Bytes in one component: what file systems take."""

SUFFIXES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tbz")
"""Names that end so are archives, in any case."""

IGNORED: Final = frozenset({".git", "__pycache__", "__MACOSX", ".DS_Store", ".minitango", "minitango.toml"})
"""Names that are never part of a tree, nor what is below them; neither are those of `_LITTER`. The last two are our
own, with everybody's hand-ins and whoever's passwords in them."""
_LITTER: Final = re.compile(r"\._|(?:Thumbs\.db|desktop\.ini|~\$.*|.*~|\..*\.swp)\Z", re.IGNORECASE | re.DOTALL)
"""What macOS, Windows, text processors and editors leave beside the files."""

# Control characters, line separators, bidirectional controls (a name must not be able to show as another one),
# lone surrogates, and the backslash, which is a separator elsewhere.
_FORBIDDEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\\\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class File(Struct, frozen=True):
    """One regular file of a tree. `path` is relative, `/`-separated, clean (see `check_path`)."""

    path: str
    data: bytes
    executable: bool = False


class Bounds(Struct, frozen=True):
    """How much a tree may be. Exactly at a bound is still in it."""

    files: int = 2000
    bytes: int = 64 << 20
    """All files together, unpacked; and an archive as it comes, but for its own headers."""
    entries: int = 20_000
    """Members or directory entries looked at, of any kind, ignored ones too."""
    ratio: int = 200
    """Unpacked over packed size, where more than RATIO_FROM bytes are unpacked."""


RATIO_FROM: Final = 4 << 20
"""Less than this many unpacked bytes may be packed as tightly as they please."""


def check_path(path: str) -> str:
    """The path itself if it is safe below any directory, else ArchiveError.

    Safe is: relative, `/`-separated, no empty, `.` or `..` component, encodable as UTF-8, no control or
    bidirectional character, no backslash, at most MAX_PATH characters, MAX_DEPTH components, MAX_NAME bytes each.
    """
    reason = _unsafe(path)
    if reason:
        hint = "rename it and try again" if "\\" not in path else "name it without \\; folders are separated by /"
        raise ArchiveError(f"the name {shown(path)} {reason}", hint=hint, id="archive_name")
    return path


def _unsafe(path: str) -> str:
    if not path:
        return "is empty"
    if len(path) > MAX_PATH:
        return f"is longer than {MAX_PATH} characters"
    return _unclean(path)


@functools.lru_cache(1024)
def _unclean(path: str) -> str:
    """The same of a path that is no longer than it may be. The names of a course are few, and looked at often."""
    if path[0] == "/":
        return "is absolute"
    found = _FORBIDDEN.search(path)
    if found:
        return f"has the character {found[0]!a}"
    parts = path.split("/")
    if ".." in parts:
        return "leads out of its folder (..)"
    if "" in parts or "." in parts:
        return "has an empty component"
    if len(parts) > MAX_DEPTH:
        return f"is more than {MAX_DEPTH} folders deep"
    if any(len(part.encode()) > MAX_NAME for part in parts):
        return f"has a component of more than {MAX_NAME} bytes"
    return ""


def shown(name: str) -> str:
    """A hostile name for an error message: its repr, on one line, cut."""
    return one_line(repr(name), 120)


def is_ignored(path: str) -> bool:
    """Whether a path is litter (see IGNORED and _LITTER): its own name or that of a folder above it."""
    return any(part in IGNORED or _LITTER.match(part) for part in path.split("/"))


def is_archive_name(name: str) -> bool:
    """Whether a file of this name is taken for an archive. What kind it is, its content decides."""
    return name.lower().endswith(SUFFIXES)


# --- bundles ----------------------------------------------------------------------------------

# A bundle is this line, then the files in order of path as MessagePack: one way to write each tree, and nothing in
# it that is not a tree. 2 us each way for a small file, where tarfile takes 25 us to write it.
_MAGIC: Final = b"minitango-bundle 1\n"
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(tuple[File, ...])


def pack(files: Iterable[File]) -> bytes:
    """One bundle of these files: the same files in any order give the same bytes. ArchiveError: not a clean tree."""
    return _MAGIC + _encoder.encode(tree(files))


def unpack(data: bytes) -> tuple[File, ...]:
    """The files of a bundle, in order of path; the inverse of `pack`. ArchiveError: not a bundle, or not as `pack`
    writes them."""
    if not data.startswith(_MAGIC):
        later = data.startswith(_MAGIC.split(b" ")[0])
        what = "a bundle of a later version" if later else "not a bundle"
        raise ArchiveError(f"{what}: it begins with {data[:24]!r}", hint="use the minitango that wrote it", id="bundle")
    try:
        files = _decoder.decode(memoryview(data)[len(_MAGIC) :])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArchiveError(f"a damaged bundle: {error}", hint="submit it again", id="bundle") from error
    if tree(files) != files:
        raise ArchiveError("a damaged bundle: its files are not in order", hint="submit it again", id="bundle")
    return files


def tree(files: Iterable[File]) -> tuple[File, ...]:
    """The files in order of path, if they make a tree: clean paths, no two the same, none a folder of another."""
    ordered = tuple(sorted(files, key=operator.attrgetter("path")))
    if len(ordered) == 1:
        check_path(ordered[0].path)
        return ordered
    paths = {file.path for file in ordered}
    if len(paths) < len(ordered):
        twice = next(a.path for a, b in itertools.pairwise(ordered) if a.path == b.path)
        raise ArchiveError(f"the name {shown(twice)} is there twice", hint="rename one of them", id="archive_twins")
    for path in paths:
        check_path(path)
        for parent in parents(path):
            if parent in paths:
                raise ArchiveError(
                    f"the name {shown(parent)} is both a file and a folder", hint="rename one", id="archive_twins"
                )
    return ordered


def parents(path: str) -> list[str]:
    """The folders that a path lies in, the outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


# --- from disk --------------------------------------------------------------------------------


def read_file(path: Path, most: int, *, beside: int = 0) -> tuple[bytes, bool]:
    """The content of a regular file of at most `most` bytes, and whether it is executable. Links are not followed.

    `beside` more bytes are let pass, for what an archive has beside its content. ArchiveError where it is anything
    else, is too large, or cannot be read.
    """
    # O_NONBLOCK: opening a FIFO would wait for its writer
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(path, flags)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise _special(path, status.st_mode)
            if status.st_size > most + beside:
                raise too_large(shown(path.name), status.st_size, most)
            with open(file, "rb", closefd=False) as reader:
                data = reader.read(status.st_size + 1)  # takes as much memory as is asked for
                if len(data) > status.st_size:  # it grows while it is read
                    data += reader.read(most + beside + 1 - len(data))
        finally:
            os.close(file)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _special(path, stat.S_IFLNK) from error
        raise unreadable(path, error) from error
    if len(data) > most + beside:  # it grew while it was read
        raise too_large(shown(path.name), len(data), most)
    return data, bool(status.st_mode & 0o111)


def read_tree(path: Path, bounds: Bounds = Bounds()) -> tuple[File, ...]:
    """The files below a folder, in order of path, without what is ignored (IGNORED). Empty folders leave no trace.

    ArchiveError names what is refused: a link or anything but files and folders, an unclean name, too much.
    """
    files: list[File] = []
    entries, left = 0, bounds.bytes
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(path / folder) as found:
                inside = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise unreadable(path / folder, error) from error
        for entry in inside:
            entries += 1
            if entries > bounds.entries:
                raise too_many("entries", bounds.entries)
            if is_ignored(entry.name):
                continue
            name = check_path(f"{folder}/{entry.name}" if folder else entry.name)
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
                continue
            if not entry.is_symlink() and not entry.is_file():
                raise _special(path / name, _mode(entry), hint="remove it")
            if len(files) == bounds.files:
                raise too_many("files", bounds.files)
            try:
                data, executable = read_file(path / name, left)
            except ArchiveError as error:
                if error.id == "too_large":
                    raise too_large("the folder", None, bounds.bytes) from error
                raise
            left -= len(data)
            files.append(File(name, data, executable))
    return tuple(sorted(files, key=lambda file: file.path))


def read_archive(path: Path, bounds: Bounds = Bounds()) -> tuple[File, ...]:
    """The files of a zip, tar, tar.gz, tar.xz or tar.bz2, in order of path, unpacked in memory.

    What it is, its content says. ArchiveError names the archive, the member and the reason: unsafe or twin names
    (also such as differ in case or Unicode form alone), links, devices, sparse or encrypted members, damage, more
    than the bounds allow (counted while unpacking; no header is believed), no file at all.
    """
    data, _ = read_file(path, bounds.bytes, beside=overhead(bounds))
    return unarchive(path.name, data, bounds)


def unarchive(name: str, data: bytes, bounds: Bounds = Bounds()) -> tuple[File, ...]:
    """As `read_archive`, of bytes in memory; `name` is for messages alone."""
    from minitango import unpacking

    try:
        return unpacking.unpacked(data, bounds)
    except ArchiveError as error:
        raise ArchiveError(f"{shown(name)}: {error.message}", hint=error.hint, id=error.id) from error


def overhead(bounds: Bounds) -> int:
    """Bytes that an archive may have beside its files' content."""
    return (64 << 10) + 4096 * bounds.files


# --- errors -----------------------------------------------------------------------------------


def too_large(what: str, size: int | None, most: int) -> ArchiveError:
    """`size` is None where it is only known to be more."""
    has = f"has {human_size(size)}, more" if size is not None else "has more"
    return ArchiveError(
        f"{what} {has} than the {human_size(most)} that are taken",
        hint="hand in source files alone, or raise max_size under [submission] in assignment.toml",
        id="too_large",
    )


def too_many(what: str, most: int) -> ArchiveError:
    return ArchiveError(
        f"it has more than {most} {what}",
        hint="hand in source files alone, or raise max_files under [submission] in assignment.toml",
        id="too_many",
    )


def unreadable(path: Path, error: OSError) -> ArchiveError:
    place = one_line(str(path), 200)
    return ArchiveError(
        f"{place} cannot be read: {error.strerror or error}", hint=f"look at it with: ls -ld '{place}'", id="unreadable"
    )


def _mode(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_mode
    except OSError as error:
        raise unreadable(Path(entry.path), error) from error


def _special(path: Path, mode: int, *, hint: str = "name a file, folder or archive") -> ArchiveError:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    kind = kinds.get(stat.S_IFMT(mode), "not a file")
    if kind == "a symbolic link":
        hint = "put a copy of the file in its place"
    return ArchiveError(f"{one_line(str(path), 200)} is {kind}, not a regular file", hint=hint, id="not_regular")
