"""Archives: what is safe comes out whole, what is not is refused, and nothing else ever happens."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minitango import archive
from minitango.archive import Bounds, File, check_path, is_archive_name, pack, read_archive, read_tree, unpack
from minitango.errors import ArchiveError
from minitango.unpacking import Members

SMALL = Bounds(files=20, bytes=50_000, entries=60)
HELLO = (File("hello.c", b"int main;\n"), File("src/util.c", b"x" * 700), File("src/run.sh", b"#!/bin/sh\n", True))


def as_zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return out.getvalue()


def zip_with(name: str, data: bytes = b"", mode: int = 0, **fields: object) -> bytes:
    """A zip of one member, with a Unix mode and whatever other fields of ZipInfo."""
    info = zipfile.ZipInfo("placeholder")
    info.filename = name
    info.external_attr = mode << 16
    for field, value in fields.items():
        setattr(info, field, value)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr(info, data)
    return out.getvalue()


def as_tar(*members: tarfile.TarInfo | tuple[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as made:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                made.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                made.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def tar_with(name: str, type: bytes, linkname: str = "", **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = type
    info.linkname = linkname
    for field, value in fields.items():
        setattr(info, field, value)
    return as_tar(info)


def reading(tmp_path: Path, data: bytes, name: str = "ada.zip", bounds: Bounds = SMALL) -> tuple[File, ...]:
    path = tmp_path / name
    path.write_bytes(data)
    return read_archive(path, bounds)


def refusal(data: bytes, bounds: Bounds = SMALL) -> ArchiveError:
    with pytest.raises(ArchiveError) as caught:
        archive.unarchive("ada.zip", data, bounds)
    assert caught.value.message.startswith("'ada.zip': ")
    assert caught.value.hint
    return caught.value


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a/b.c",
        "...",
        ".hidden",
        "with space",
        "naïve/日本.py",
        "👩‍🔬.py",
        "a" * 240,
        "/".join("abcdefghijkl"),
        "~",
        "-rf",
    ],
)
def test_clean_paths(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/etc/passwd", "..", "../a", "a/../b", "a/..", ".", "./a", "a/./b", "a//b", "a/", "a\0b", "a\nb",
        "a\x7fb",
        "a\x85b", "a\\b", "..\\a", "C:\\x", "a\u202eb", "a\u2066b", "a\u200fb", "a\u2028b", "a\udc80b", "a" * 241,
        "é" * 128,
        "/".join("abcdefghijklm"),
    ],
)  # fmt: skip
def test_unsafe_paths(path: str) -> None:
    with pytest.raises(ArchiveError) as caught:
        check_path(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    assert caught.value.hint


@settings(max_examples=300)
@given(path=st.text(max_size=60) | st.text(alphabet="a./\\\0\n\u202e", max_size=12))
def test_a_checked_path_stays_below_its_folder(path: str) -> None:
    try:
        check_path(path)
    except ArchiveError:
        return
    assert os.path.normpath(path) == path
    assert not path.startswith(("/", "../"))
    assert ".." not in path.split("/")
    path.encode()


@pytest.mark.parametrize("name", ["a.zip", "A.ZIP", "a.tar.gz", "a.tgz", "a.Tar.XZ", "a.txz", "a.tar", "a.tar.bz2"])
def test_archive_names(name: str) -> None:
    assert is_archive_name(name)


@pytest.mark.parametrize("name", ["a.c", "zip", "a.gz", "a.docx", "a.zip.txt", ""])
def test_other_names(name: str) -> None:
    assert not is_archive_name(name)


# --- what is read ---------------------------------------------------------------------------------


def tar_of(files: tuple[File, ...], format: int) -> bytes:
    members: list[tarfile.TarInfo] = []
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as made:
        for file in files:
            info = tarfile.TarInfo(file.path)
            info.size, info.mode = len(file.data), 0o755 if file.executable else 0o644
            made.addfile(info, io.BytesIO(file.data))
            members.append(info)
    return out.getvalue()


def zip_of(files: tuple[File, ...], method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        for file in files:
            info = zipfile.ZipInfo(file.path)
            info.external_attr = (stat.S_IFREG | (0o755 if file.executable else 0o644)) << 16
            info.compress_type = method
            made.writestr(info, file.data)
    return out.getvalue()


KINDS: dict[str, Callable[[tuple[File, ...]], bytes]] = {
    "zip": lambda files: zip_of(files, zipfile.ZIP_DEFLATED),
    "zip-stored": lambda files: zip_of(files, zipfile.ZIP_STORED),
    "tar-pax": lambda files: tar_of(files, tarfile.PAX_FORMAT),
    "tar-gnu": lambda files: tar_of(files, tarfile.GNU_FORMAT),
    "tar.gz": lambda files: gzip.compress(tar_of(files, tarfile.GNU_FORMAT)),
    "tar.xz": lambda files: lzma.compress(tar_of(files, tarfile.PAX_FORMAT)),
    "tar.bz2": lambda files: bz2.compress(tar_of(files, tarfile.PAX_FORMAT)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["ada.zip", "ada.tar", "ada.tgz", "ada.tar.xz"])
def test_every_kind_whatever_its_name(tmp_path: Path, kind: str, name: str) -> None:
    assert reading(tmp_path, KINDS[kind](HELLO), name) == tuple(sorted(HELLO, key=lambda file: file.path))


names = st.text(
    alphabet=st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=("Cc", "Cf", "Zl", "Zp", "Cs")),
    min_size=1,
    max_size=40,
).filter(lambda name: name not in (".", "..") and not archive.is_ignored(name))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
trees = st.lists(
    st.builds(File, path=paths, data=st.binary(max_size=2000), executable=st.booleans()),
    max_size=6,
    unique_by=lambda file: file.path,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(files=trees)
def test_any_tree_comes_out_as_it_went_in(kind: str, files: list[File]) -> None:
    """Or is refused, where twins are in it (as some file systems see them)."""
    data = KINDS[kind](tuple(files))
    try:
        found = archive.unarchive("x", data)
    except ArchiveError as error:
        assert error.id in ("archive_twins", "archive_empty")  # noqa: PT017 - one of two ways to be right
        if error.id == "archive_empty":
            assert not files
        return
    assert found == tuple(sorted(files, key=lambda file: file.path))


def test_long_names_in_every_tar() -> None:
    name = "/".join(["folder" * 6] * 5) + "/" + "n" * 40
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        short = name[30:] if kind == tarfile.USTAR_FORMAT else name
        (found,) = archive.unarchive("x", as_tar((short.strip("/"), b"1"), format=kind))
        assert found.path == short.strip("/")


def test_leading_dots_folders_and_old_tars() -> None:
    folder = tarfile.TarInfo("./src")
    folder.type = tarfile.DIRTYPE
    data = as_tar(folder, ("./src/a.c", b"a"), ("./b.c", b"b"))
    assert [file.path for file in archive.unarchive("x", data)] == ["b.c", "src/a.c"]
    assert [file.path for file in archive.unarchive("x", as_zip({"src/": b"", "src/a.c": b"a"}))] == ["src/a.c"]


def test_git_archive_has_a_global_header() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "0" * 40}) as made:
        made.addfile(tarfile.TarInfo("a.c"))
    assert archive.unarchive("x", out.getvalue()) == (File("a.c", b""),)


def test_litter_is_left_out() -> None:
    names = [
        "a.c",
        "__MACOSX/._a.c",
        ".DS_Store",
        "src/.DS_Store",
        "._a.c",
        ".git/config",
        "__pycache__/a.pyc",
        ".gitignore",
    ]
    found = archive.unarchive("x", as_zip(dict.fromkeys(names, b"1")))
    assert [file.path for file in found] == [".gitignore", "a.c"]


def test_zip_names_with_and_without_the_utf8_flag() -> None:
    assert archive.unarchive("x", as_zip({"é.c": b""}))[0].path == "é.c"
    data = as_zip({"A.c": b""}).replace(b"A.c", b"\x82.c")  # cp437 for é
    assert archive.unarchive("x", data)[0].path == "é.c"


def unflagged(name: str, host: int) -> bytes:
    """A zip of a member whose name is UTF-8 without saying so, made on this host."""
    return zip_with("x" * len(name.encode()), b"1", create_system=host).replace(
        b"x" * len(name.encode()), name.encode()
    )


@pytest.mark.parametrize(
    ("host", "expected"), [(3, "größe.txt"), (19, "größe.txt"), (0, "gr├╢├ƒe.txt")], ids=["Unix", "macOS", "DOS"]
)
def test_zip_names_that_are_utf8_without_the_flag(tmp_path: Path, host: int, expected: str) -> None:
    data = unflagged("größe.txt", host)
    assert not zipfile.ZipFile(io.BytesIO(data)).infolist()[0].flag_bits & 0x800
    assert [file.path for file in archive.unarchive("x", data)] == [expected]
    (tmp_path / "all.zip").write_bytes(data)
    members = Members(tmp_path / "all.zip")
    assert members.names == (expected,)
    assert members.read({expected: "a"}, SMALL) == (File("a", b"1", False),)


@pytest.mark.skipif(shutil.which("zip") is None, reason="there is no zip")
def test_what_zip_packs_has_the_names_that_it_had(tmp_path: Path) -> None:
    names = {"größe.txt", "日本語.py", "a.c", "Ångström/é.c"}
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("1")
    subprocess.run(["zip", "-qr", "../ada.zip", "."], cwd=tmp_path / "in", check=True)
    assert {file.path for file in archive.unarchive("x", (tmp_path / "ada.zip").read_bytes())} == names


def test_concatenated_streams_and_padding() -> None:
    data = as_tar(("a.c", b"1"))
    pieces = gzip.compress(data[:700]) + gzip.compress(data[700:]) + b"\0" * 512
    assert archive.unarchive("x", pieces) == (File("a.c", b"1"),)


# --- what is refused ------------------------------------------------------------------------------

UNSAFE = ["../a", "/etc/passwd", "a/../../b", "a\\..\\b", "a\nb", "a\u202eb", "x" * 300, "/".join("abcdefghijklmn")]


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_names(name: str) -> None:
    for data in (zip_with(name), as_tar((name, b""))):
        error = refusal(data)
        assert error.id == "archive_name"
        assert str(error).isprintable()


def test_nul_in_a_zip_name_is_not_cut() -> None:
    assert refusal(as_zip({"a.c#evil": b""}).replace(b"#", b"\0")).id == "archive_name"


@pytest.mark.parametrize(
    ("type", "word"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "FIFO"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
        (b"Z", "unknown type"),
    ],
)
def test_special_tar_members(type: bytes, word: str) -> None:
    error = refusal(tar_with("evil", type, "/etc/passwd"))
    assert "'evil'" in error.message
    assert word in error.message


@pytest.mark.parametrize(
    ("mode", "word"), [(stat.S_IFLNK, "link"), (stat.S_IFIFO, "special"), (stat.S_IFBLK, "special")]
)
def test_special_zip_members(mode: int, word: str) -> None:
    error = refusal(zip_with("evil", b"/etc/passwd", mode | 0o777))
    assert word in error.message


def test_pax_sparse() -> None:
    info = tarfile.TarInfo("evil")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "evil"}
    assert "sparse" in refusal(as_tar(info)).message


def test_encrypted_zip() -> None:
    data = bytearray(as_zip({"a.c": b"secret"}))
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(magic) + offset
        data[at] |= 1
    assert "encrypted" in refusal(bytes(data)).message


def test_unusual_compression() -> None:
    assert "unusual" in refusal(as_zip({"a": b"x"}, zipfile.ZIP_LZMA)).message


@pytest.mark.parametrize("pair", [("a.c", "a.c"), ("A.c", "a.c"), ("e\u0301", "é"), ("STRASSE", "straße")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_twins(pair: tuple[str, str]) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name in pair:
            made.writestr(name, b"")
    for data in (out.getvalue(), as_tar(*((name, b"") for name in pair))):
        assert refusal(data).id == "archive_twins"


@pytest.mark.parametrize("pair", [("a", "a/b"), ("a/b", "a"), ("A", "a/b"), ("a/b/c", "a/b")])
def test_a_file_that_is_a_folder_too(pair: tuple[str, str]) -> None:
    assert refusal(as_tar(*((name, b"") for name in pair))).id == "archive_twins"


@pytest.mark.parametrize("data", [b"", as_zip({}), as_tar(), as_zip({"folder/": b""}), as_zip({".DS_Store": b""})])
def test_nothing_in_it(data: bytes) -> None:
    assert refusal(data).id == "archive_empty"


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"int main;", "no archive"),
        (b"Rar!\x1a\x07\x01\x00", "RAR"),
        (b"7z\xbc\xaf\x27\x1c..", "7z"),
        (b"P", "no archive"),
    ],
)
def test_unknown(data: bytes, word: str) -> None:
    error = refusal(data)
    assert error.id == "archive_unknown"
    assert word in error.message


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_is_refused(kind: str) -> None:
    """Never a part of the files: a hand-in must not be graded without some of them."""
    data = KINDS[kind](HELLO)
    end = len(data.rstrip(b"\0")) if kind.startswith("tar-") else len(data)
    for cut in sorted({*range(0, end, 97), end // 2, end - 1}):
        error = refusal(data[:cut])
        assert error.id in ("archive_damaged", "archive_unknown", "archive_empty"), cut
        assert cut == 0 or error.id != "archive_empty"


@pytest.mark.parametrize("kind", ["zip", "zip-stored", "tar.gz", "tar.xz", "tar.bz2"])
def test_flipped_content_is_found(kind: str) -> None:
    data = bytearray(KINDS[kind]((File("a.c", random.Random(1).randbytes(5000)),)))
    data[len(data) // 2] ^= 1
    assert refusal(bytes(data)).id == "archive_damaged"


def test_damaged_tar_header_in_the_middle_does_not_end_it_quietly() -> None:
    data = bytearray(as_tar(("a", b"1" * 512), ("b", b"2")))
    data[1024 + 3] ^= 1
    assert refusal(bytes(data)).id == "archive_damaged"


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-1\0", b"77777777777\0", b"12x\0"])
def test_impossible_tar_sizes(size: bytes) -> None:
    data = bytearray(as_tar(("a", b"1")))
    data[124 : 124 + len(size)] = size
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    assert refusal(bytes(data)).id == "archive_damaged"


@pytest.mark.parametrize(
    "record", [b"5 a=", b"0 a=b\n", b"999 a=b\n", b"x a=b\n", b"13 size=-512\n", b"6 a b\n", b"\xff"]
)
def test_impossible_pax_records(record: bytes) -> None:
    member = tarfile.TarInfo("PaxHeader")
    member.type, member.size = tarfile.XHDTYPE, len(record)
    data = member.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0")
    assert refusal(data + as_tar(("a", b"1"))).id == "archive_damaged"


def test_name_that_is_not_utf8() -> None:
    data = bytearray(as_tar(("abc", b"")))
    data[0] = 0xE9
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    assert "not UTF-8" in refusal(bytes(data)).message


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack_it", [as_zip, lambda files: gzip.compress(as_tar(*files.items()))])
def test_at_the_bounds_and_above(pack_it: Callable[[dict[str, bytes]], bytes]) -> None:
    most = {f"{n}": b"x" * 2500 for n in range(20)}
    assert len(archive.unarchive("x", pack_it(most), SMALL)) == 20
    assert refusal(pack_it(most | {"more": b""})).id == "too_many"
    assert refusal(pack_it(most | {"0": b"x" * 2501})).id == "too_large"


def test_too_many_entries_of_no_weight() -> None:
    assert refusal(as_zip({f"{n}/": b"" for n in range(61)})).id == "too_many"
    assert refusal(as_tar(*((f"._{n}", b"") for n in range(61)))).id == "too_many"


def test_bombs_stop_early() -> None:
    large = Bounds(bytes=64 << 20)
    zeros = bytes(40 << 20)
    for data in (as_zip({"bomb": zeros}), gzip.compress(as_tar(("bomb", zeros)), 1), lzma.compress(zeros, preset=0)):
        assert refusal(data, large).id == "archive_bomb"
        assert refusal(data, Bounds(bytes=1 << 20, files=1)).id in ("too_large", "archive_bomb")


def test_a_zip_that_lies_about_its_size() -> None:
    data = bytearray(as_zip({"bomb": bytes(200_000)}))
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(magic) + offset
        data[at : at + 4] = struct.pack("<I", 10)
    assert refusal(bytes(data)).id == "archive_damaged"


def test_overlapping_zip_members_count_each_time() -> None:
    """Many entries of one body, as in the densest known bombs."""
    one = as_zip({"a": bytes(30_000)})
    at = one.index(b"PK\x01\x02")
    end = one.index(b"PK\x05\x06")
    entry = one[at:end]
    data = one[:at] + entry * 2 + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 2, 2, len(entry) * 2, at, 0)
    assert refusal(data).id in ("archive_twins", "too_large", "archive_damaged")


def test_many_tiny_streams() -> None:
    assert refusal(gzip.compress(b"") * 1000).id == "too_many"


def test_an_archive_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.zip"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(ArchiveError, match="has 1 TiB, more than the 49 KiB"):
        read_archive(path, SMALL)


# --- hostile bytes --------------------------------------------------------------------------------

VALID = {kind: make(HELLO) for kind, make in KINDS.items()}


def survives(data: bytes) -> None:
    """Whatever comes in: files within the bounds, or ArchiveError."""
    try:
        found = archive.unarchive("x", data, SMALL)
    except ArchiveError as error:
        assert error.hint and str(error).isprintable()  # noqa: PT017, PT018 - either way is right
        return
    assert 0 < len(found) <= SMALL.files
    assert sum(len(file.data) for file in found) <= SMALL.bytes
    assert found == archive.tree(found)


MAGICS = st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08\0", b"\xfd7zXZ\0", b"BZh9", bytes(512)])


@settings(max_examples=300, deadline=None)
@given(magic=MAGICS, data=st.binary(max_size=3000))
@example(magic=b"PK\x05\x06", data=bytes(18))
@example(magic=bytes(512), data=bytes(512))
def test_random_bytes(magic: bytes, data: bytes) -> None:
    survives(magic + data)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_mutated_archives(kind: str, data: st.DataObject) -> None:
    valid = bytearray(VALID[kind])
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(valid) - 1))
        match data.draw(st.sampled_from(["set", "cut", "repeat", "insert"])):
            case "set":
                valid[at] = data.draw(st.integers(0, 255))
            case "cut":
                del valid[at : at + data.draw(st.integers(1, 600))]
            case "repeat":
                valid[at:at] = valid[at : at + data.draw(st.integers(1, 600))]
            case _:
                valid[at:at] = data.draw(st.binary(max_size=20))
        if not valid:
            break
    survives(bytes(valid))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_mutated_tar_headers_with_good_checksums(data: st.DataObject) -> None:
    tar = bytearray(VALID[data.draw(st.sampled_from(["tar-pax", "tar-gnu"]))])
    headers = [at for at in range(0, len(tar), 512) if tar[at + 257 : at + 262] == b"ustar"]
    header = data.draw(st.sampled_from(headers))
    at, width = data.draw(st.sampled_from([(0, 100), (100, 8), (124, 12), (156, 1), (257, 8), (345, 155)]))
    tar[header + at : header + at + width] = data.draw(st.binary(min_size=width, max_size=width))
    tar[header + 148 : header + 156] = b" " * 8
    tar[header + 148 : header + 156] = b"%06o\0 " % sum(tar[header : header + 512])
    survives(bytes(tar))


# --- folders --------------------------------------------------------------------------------------


def test_read_tree(tmp_path: Path) -> None:
    for file in HELLO:
        path = tmp_path / file.path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(file.data)
        path.chmod(0o755 if file.executable else 0o644)
    for litter in (".git", "__pycache__", "src/__pycache__"):
        (tmp_path / litter).mkdir()
        (tmp_path / litter / "x").write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    assert read_tree(tmp_path) == tuple(sorted(HELLO, key=lambda file: file.path))


@pytest.mark.parametrize("target", ["/etc/passwd", "a.c", "missing", "src"])
def test_links_in_a_folder(tmp_path: Path, target: str) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "a.c").write_bytes(b"")
    (tmp_path / "src" / "link").symlink_to(target)
    with pytest.raises(ArchiveError, match=r"src/link is a symbolic link"):
        read_tree(tmp_path)


def test_a_fifo_in_a_folder_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ArchiveError, match="FIFO"):
        read_tree(tmp_path)


def test_a_folder_in_bounds_and_out(tmp_path: Path) -> None:
    for n in range(20):
        (tmp_path / f"{n}").write_bytes(b"x" * 2500)
    assert len(read_tree(tmp_path, SMALL)) == 20
    (tmp_path / "more").write_bytes(b"")
    with pytest.raises(ArchiveError, match="more than 20 files"):
        read_tree(tmp_path, SMALL)
    (tmp_path / "more").unlink()
    (tmp_path / "0").write_bytes(b"x" * 2501)
    with pytest.raises(ArchiveError, match=r"more than the 49 KiB"):
        read_tree(tmp_path, SMALL)


def test_names_in_a_folder(tmp_path: Path) -> None:
    for name in (b"a\nb", b"\xff"):
        path = os.path.join(os.fsencode(tmp_path), name)
        with open(path, "wb"):
            pass
        with pytest.raises(ArchiveError) as caught:
            read_tree(tmp_path)
        assert str(caught.value).isprintable()
        os.unlink(path)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError) as caught:
        read_tree(tmp_path / "none")
    assert caught.value.id == "unreadable"
    assert isinstance(caught.value.__cause__, FileNotFoundError)


# --- bundles --------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(files=trees, shuffled=st.randoms(use_true_random=False))
def test_bundles_round_trip_and_are_canonical(files: list[File], shuffled: random.Random) -> None:
    try:
        data = pack(files)
    except ArchiveError as error:
        assert error.id == "archive_twins"  # noqa: PT017 - either way is right
        return
    assert unpack(data) == tuple(sorted(files, key=lambda file: file.path))
    shuffled.shuffle(files)
    assert pack(files) == data


@pytest.mark.parametrize(
    "files", [[File("../a", b"")], [File("a", b""), File("a", b"x")], [File("a", b""), File("a/b", b"")]]
)
def test_pack_checks(files: list[File]) -> None:
    with pytest.raises(ArchiveError):
        pack(files)
    with pytest.raises(ArchiveError):
        unpack(b"minitango-bundle 1\n" + msgspec.msgpack.encode(files))


def test_pack_takes_names_that_differ_in_case() -> None:
    assert len(unpack(pack([File("A", b""), File("a", b"")]))) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"minitango-bundle 2\n\x90",
        b"minitango-bundle 1\n",
        b"minitango-bundle 1\n\x90\x90",
        b"minitango-bundle 1\n" + msgspec.msgpack.encode([{"path": "a", "data": 1}]),
        b"minitango-bundle 1\n" + msgspec.msgpack.encode([File("b", b""), File("a", b"")]),
    ],
)
def test_what_is_no_bundle(data: bytes) -> None:
    with pytest.raises(ArchiveError) as caught:
        unpack(data)
    assert caught.value.id == "bundle"
    assert caught.value.hint


@settings(max_examples=200)
@given(data=st.binary(max_size=300), whole=st.booleans())
def test_unpack_of_anything(data: bytes, whole: bool) -> None:
    try:
        found = unpack(data if whole else b"minitango-bundle 1\n" + data)
    except ArchiveError:
        return
    assert unpack(pack(found)) == found
