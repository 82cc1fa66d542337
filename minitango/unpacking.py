"""Hostile archives, unpacked in memory: zip by the standard library, tar by a reader of our own.

tarfile is not used: it ends quietly at a damaged member (files would go missing from a hand-in, unnoticed), and some
versions of it can be sent round in circles by a negative size. A strict reader of what a tree of files needs is short.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from minitango.archive import (
    RATIO_FROM,
    Bounds,
    File,
    check_path,
    is_ignored,
    overhead,
    parents,
    shown,
    too_large,
    too_many,
)
from minitango.errors import ArchiveError
from minitango.text import one_line

BLOCK: Final = 512
MAX_STREAMS: Final = 256
"""Compressed streams in a row in one file; each costs a copy of what follows it."""
MAX_MEMBERS: Final = 200_000
"""Files in a zip of many trees."""
_PIECE: Final = 256 << 10
_REPACK: Final = "pack it again, as a plain zip or tar.gz of regular files"

_UTF8: Final = 0x800
"""Flag of a zip's member."""
_UNIX: Final = (3, 19)
"""Hosts that made a zip's member: Unix, macOS."""
_OTHERS: Final = {
    b"Rar!\x1a\x07": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
}


def unpacked(data: bytes, bounds: Bounds) -> tuple[File, ...]:
    """The files of an archive, in order of path. ArchiveError: anything else, as `archive.read_archive` says."""
    if not data:
        raise ArchiveError("the archive is empty (0 bytes)", hint="hand it in again", id="archive_empty")
    grown = _Tree(bounds, packed=len(data))
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        _read_zip(data, grown)
    elif data.startswith(b"\x1f\x8b"):
        _read_tar(_decompressed(data, "gzip", bounds), grown)
    elif data.startswith(b"\xfd7zXZ\x00"):
        _read_tar(_decompressed(data, "xz", bounds), grown)
    elif data.startswith(b"BZh"):
        _read_tar(_decompressed(data, "bzip2", bounds), grown)
    elif _is_header(data[:BLOCK]) or not data[:BLOCK].strip(b"\0"):
        _read_tar(data, grown)
    else:
        what = next((what for magic, what in _OTHERS.items() if data.startswith(magic)), "no archive that is known")
        raise ArchiveError(f"it is {what}", hint="hand in a zip, tar, tar.gz, tar.xz or tar.bz2", id="archive_unknown")
    if not grown.files:
        raise ArchiveError("the archive holds no file", hint="hand it in again", id="archive_empty")
    return tuple(sorted(grown.files, key=lambda file: file.path))


class Members:
    """A zip on disk that holds many trees. Each is read alone, so that one that is not to be taken spoils no other.

    `names` are those of its files, at most MAX_MEMBERS. ArchiveError: it is no zip that can be
    read, or holds more. It is opened once, and its directory read once, however many trees are read; closed with this.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._archive = zipfile.ZipFile(path)
            found = [(_zip_name(info), info) for info in self._archive.infolist()]
            found = [(name, info) for name, info in found if not name.endswith("/")]
        except Exception as error:  # as below
            raise _damaged(error) from error
        if len(found) > MAX_MEMBERS:
            raise too_many("members", MAX_MEMBERS)
        self.names = tuple(name for name, _ in found)
        self._called: dict[str, list[zipfile.ZipInfo]] = {}
        for name, info in found:
            self._called.setdefault(name, []).append(info)

    def read(self, wanted: Mapping[str, str], bounds: Bounds) -> tuple[File, ...]:
        """The members that are named, each under the path that it is to have, in order of path. ArchiveError as
        `archive.read_archive`."""
        try:
            members = [info for name in wanted for info in self._called.get(name, ())]
            grown = _Tree(bounds, packed=sum(info.compress_size for info in members))
            for info in members:
                _read_zip_member(self._archive, info, grown, wanted[_zip_name(info)])
        except ArchiveError:
            raise
        except Exception as error:  # as below
            raise _damaged(error) from error
        return tuple(sorted(grown.files, key=lambda file: file.path))


class _Tree:
    """The files so far, and how much more may come."""

    def __init__(self, bounds: Bounds, packed: int) -> None:
        self.bounds = bounds
        self.files: list[File] = []
        self.left = bounds.bytes
        self._packed = packed
        self._entries = 0
        self._file_keys: dict[str, str] = {}
        self._folder_keys: dict[str, str] = {}

    def enter(self, name: str) -> str | None:
        """The clean path of the next member; None where it is ignored."""
        self._entries += 1
        if self._entries > self.bounds.entries:
            raise too_many("members", self.bounds.entries)
        while name.startswith("./"):
            name = name[2:]
        name = name.removesuffix("/")
        if name in ("", ".") or is_ignored(name):
            return None
        return check_path(name)

    def folder(self, path: str) -> None:
        for folder in (*parents(path), path):
            self._folder_keys.setdefault(_fold(folder), folder)
            self._check_clash(_fold(folder))

    def file(self, path: str, data: bytes, executable: bool) -> None:
        if len(self.files) == self.bounds.files:
            raise too_many("files", self.bounds.files)
        self.left -= len(data)
        self.check_size(0)
        key = _fold(path)
        if key in self._file_keys:
            other = self._file_keys[key]
            what = "is there twice" if other == path else f"differs from {shown(other)} in case or Unicode form alone"
            raise ArchiveError(f"the name {shown(path)} {what}", hint=_REPACK, id="archive_twins")
        self._file_keys[key] = path
        for folder in parents(path):
            self._folder_keys.setdefault(_fold(folder), folder)
            self._check_clash(_fold(folder))
        self._check_clash(key)
        self.files.append(File(path, data, executable))

    def check_size(self, coming: int) -> None:
        """ArchiveError if `coming` more bytes are too many."""
        if coming > self.left:
            raise too_large("unpacked, it", None, self.bounds.bytes)
        check_ratio(self.bounds.bytes - self.left + coming, self._packed, self.bounds)

    def _check_clash(self, key: str) -> None:
        if key in self._file_keys and key in self._folder_keys:
            raise ArchiveError(
                f"the name {shown(self._file_keys[key])} is both a file and a folder", hint=_REPACK, id="archive_twins"
            )


def _fold(path: str) -> str:
    """What file systems that ignore case or Unicode form make of a path."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def check_ratio(size: int, packed: int, bounds: Bounds) -> None:
    if size > RATIO_FROM and size > bounds.ratio * packed:
        raise ArchiveError(
            f"it grows more than {bounds.ratio} times while it is unpacked, as a zip bomb does",
            hint="hand in source files alone",
            id="archive_bomb",
        )


def _damaged(why: object) -> ArchiveError:
    return ArchiveError(f"the archive is damaged: {one_line(str(why))}", hint="pack it again", id="archive_damaged")


def _refused(name: str, what: str) -> ArchiveError:
    return ArchiveError(f"the member {shown(name)} is {what}", hint=_REPACK, id="archive_member")


# --- zip --------------------------------------------------------------------------------------


def _read_zip(data: bytes, grown: _Tree) -> None:
    # The directory is parsed as a whole, whatever number of entries it claims: count them first.
    if data.count(b"PK\x01\x02") > grown.bounds.entries:
        raise too_many("members", grown.bounds.entries)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                _read_zip_member(archive, info, grown, _zip_name(info))
    except ArchiveError:
        raise
    except Exception as error:  # zipfile lets nearly any exception through when it is fed garbage
        raise _damaged(error) from error


def _zip_name(info: zipfile.ZipInfo) -> str:
    """A member's whole name; zipfile's `filename` is cut at the first NUL.

    A name without the flag for UTF-8 is code page 437 by the book, but `zip` of Linux and the Finder write UTF-8 so:
    names from hosts of their kind are UTF-8 where they can be.
    """
    name = info.orig_filename
    if info.flag_bits & _UTF8 or info.create_system not in _UNIX or name.isascii():
        return name
    try:
        return name.encode("cp437").decode()
    except UnicodeDecodeError:
        return name


def _read_zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, grown: _Tree, name: str) -> None:
    mode = info.external_attr >> 16
    path = grown.enter(name)
    if path is None:
        return
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        raise _refused(name, "a symbolic link")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(name, "a device or other special file")
    if name.endswith("/") or kind == stat.S_IFDIR:
        if info.file_size:
            raise _damaged(f"the folder {shown(name)} has content")
        grown.folder(path)
        return
    if info.flag_bits & 0x2041:
        raise _refused(name, "encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(name, f"compressed by an unusual method ({info.compress_type})")
    grown.check_size(info.file_size)  # it says so itself; what it really has is counted below
    pieces: list[bytes] = []
    size = 0
    with archive.open(info) as member:
        while piece := member.read(_PIECE):
            size += len(piece)
            grown.check_size(size)
            pieces.append(piece)
    if size != info.file_size:
        raise _damaged(f"the member {shown(name)} ends early")
    grown.file(path, b"".join(pieces), bool(mode & 0o111))


# --- compressed streams -----------------------------------------------------------------------


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _decompressor(kind: str) -> _Decompressor:
    if kind == "gzip":
        return zlib.decompressobj(wbits=31)
    if kind == "xz":
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=160 << 20)
    return bz2.BZ2Decompressor()


def _decompressed(data: bytes, kind: str, bounds: Bounds) -> bytes:
    """All streams of a compressed file, one after the other, never more than the bounds allow."""
    most = bounds.bytes + overhead(bounds)
    out: list[bytes] = []
    size, rest = 0, data
    for _ in range(MAX_STREAMS):
        stream = _decompressor(kind)
        try:
            piece = stream.decompress(rest, most + 1 - size)
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, MemoryError) as error:
            raise _damaged(error) from error
        size += len(piece)
        out.append(piece)
        check_ratio(size, len(data), bounds)
        if size > most:
            raise too_large("unpacked, it", None, bounds.bytes)
        if not stream.eof:
            raise _damaged("it ends early")
        rest = stream.unused_data.lstrip(b"\0")
        if not rest:
            return b"".join(out)
    raise too_many("compressed streams", MAX_STREAMS)


# --- tar --------------------------------------------------------------------------------------

_OCTAL: Final = re.compile(rb" *([0-7]*)[ \0]*\Z")
_SPECIAL: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a FIFO",
    b"S": "a sparse file",
}
_MAX_EXTENSION: Final = 64 << 10
"""Bytes in a member that only says something of the next one, such as its long name."""


def _read_tar(data: bytes, grown: _Tree) -> None:
    for name, kind, mode, start, size in _members(data):
        path = grown.enter(name)
        if path is None:
            continue
        if kind == b"5" or (kind == b"0" and name.endswith("/") and not size):  # before POSIX, folders were such files
            grown.folder(path)
        elif kind in b"07":
            grown.check_size(size)
            grown.file(path, data[start : start + size], bool(mode & 0o111))
        else:
            raise _refused(name, _SPECIAL.get(kind, f"of an unknown type ({kind!r})"))


def _members(data: bytes) -> Iterator[tuple[str, bytes, int, int, int]]:
    """Name, type, mode, start and size of each member, in order. The archive must have its end mark."""
    at = 0
    extended: dict[str, bytes] = {}
    while True:
        header = data[at : at + BLOCK]
        if len(header) < BLOCK:
            raise _damaged("it ends early")
        if not header.strip(b"\0"):
            if extended:
                raise _damaged("a long name has no member")
            return
        if not _is_header(header):
            raise _damaged(f"there is no member's header at byte {at}")
        kind = header[156:157].replace(b"\0", b"0")
        extends = kind in b"xgLK"
        start, size = at + BLOCK, 0
        if extends or kind in b"07S":  # nothing follows the header of a folder or a link
            size = _number(header[124:136] if extends else extended.get("size", header[124:136]))
        if start + size > len(data):
            raise _damaged("it ends early")
        at = start + -(-size // BLOCK) * BLOCK
        if extends:
            _extend(extended, kind, data[start : start + size])
            continue
        yield _text(_name(header, extended)), kind, _number(header[100:108]), start, size
        extended = {}


def _is_header(header: bytes) -> bool:
    """Whether a block has the checksum of a tar header."""
    found = _OCTAL.match(header[148:156])
    if len(header) < BLOCK or not found or not found[1]:
        return False
    return int(found[1], 8) == sum(header) - sum(header[148:156]) + 8 * 32


def _number(field: bytes) -> int:
    """A number of a header: octal, or big-endian after a byte 0x80. Never negative."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    found = _OCTAL.match(field)
    if not found:
        raise _damaged(f"{field!r} is not a number")
    return int(found[1] or b"0", 8)


def _name(header: bytes, extended: dict[str, bytes]) -> bytes:
    if "path" in extended:
        return extended["path"]
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0]
    # GNU's own variant ("ustar  ") keeps times where POSIX keeps the beginning of a long name
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise ArchiveError(
            f"the name {shown(repr(name)[2:-1])} is not UTF-8", hint=_REPACK, id="archive_name"
        ) from error


def _extend(extended: dict[str, bytes], kind: bytes, content: bytes) -> None:
    """Take what an extension header says of the next member."""
    if len(content) > _MAX_EXTENSION:
        raise _damaged("a member's header is too long")
    if kind == b"L":
        extended["path"] = content.split(b"\0")[0]
    elif kind in b"xg":
        said = dict(_pax_records(content))
        if any(key.startswith(b"GNU.sparse.") for key in said):
            raise _refused(_text(said.get(b"GNU.sparse.name", b"")), "a sparse file")
        if kind == b"g" and (b"path" in said or b"size" in said):
            raise _damaged("one name or size for all members")
        if kind == b"x" and b"path" in said:
            extended["path"] = said[b"path"]
        if kind == b"x" and b"size" in said:
            if not re.fullmatch(rb"[0-9]{1,15}", said[b"size"]):
                raise _damaged(f"{said[b'size'][:32]!r} is not a size")
            extended["size"] = b"%o" % int(said[b"size"])


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The `LENGTH KEY=VALUE\\n` records of an extended header."""
    at = 0
    while at < len(content):
        digits, space, _ = content[at : at + 8].partition(b" ")
        if not space or not digits.isdigit():
            raise _damaged("a record of an extended header has no length")
        end = at + int(digits)
        key, equals, value = content[at + len(digits) + 1 : end].partition(b"=")
        if end > len(content) or not equals or value[-1:] != b"\n":
            raise _damaged("a record of an extended header is cut")
        yield key, value[:-1]
        at = end
