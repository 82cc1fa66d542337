"""Submissions: who, which files, where they land, and which hand-ins there are."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitango.archive import File, pack
from minitango.assignment import Assignment, Step, SubmissionRule
from minitango.assignment.submission import MAX_STUDENT, Submission, find_handins, of_one_stem, printable
from minitango.errors import ArchiveError, NothingToGrade, SubmissionError


def assignment(path: str = "hello.c", **rule: int) -> Assignment:
    return Assignment("hw", (Step(("true",)),), submission=SubmissionRule(path=path, **rule))


def zipped(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name in names:
            made.writestr(name, name)
    return out.getvalue()


def tarred(*names: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as made:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            made.addfile(info, io.BytesIO(name.encode()))
    return out.getvalue()


def put(place: Path, **files: bytes) -> Path:
    """A folder with these files; `__` in a name stands for `/` and `_` for `.`."""
    for name, data in files.items():
        path = place / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return place


def lands(files: str | Path | dict[str, bytes], path: str, **rule: int) -> list[str]:
    return [file.path for file in Submission(assignment(path, **rule), "ada", files).bundle()]


# --- who ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", ["", "  ", "a\nb", "a\0", "a\x1b[31m", "x" * 201, "a\u2028b", 5])
def test_students_that_are_refused(student: str) -> None:
    with pytest.raises(SubmissionError) as caught:
        Submission(assignment(), student, {"a": b""})
    assert str(caught.value).isprintable()
    assert caught.value.hint


@pytest.mark.parametrize(
    "student", ["ada", "Ada Lovelace", "x" * 200, "ada@example.org", "👩‍💻", "阿达", "../ada", "'; --"]
)
def test_students_are_data(student: str) -> None:
    assert Submission(assignment(), student, {"a": b""}).student == student


def test_undecodable_students_become_printable() -> None:
    submission = Submission(assignment(), os.fsdecode(b"ad\xe4"), {"a": b""}, course="\udcff")
    assert submission.student == "ad\\udce4"
    assert submission.course == "\\udcff"


def test_titles() -> None:
    assert Submission(assignment(), "ada", "handins/ada.c").title == "ada.c"
    assert Submission(assignment(), "ada", Path("x\ny.c")).title == "x\\ny.c"
    assert Submission(assignment(), "ada", {"a.c": b""}).title == "a.c"
    assert Submission(assignment(), "ada", {"a.c": b"", "b.c": b""}).title == ""
    assert Submission(assignment(), "ada", "x.c", title="first try").title == "first try"


@pytest.mark.parametrize(
    "fields",
    [
        {"priority": 1 << 40},
        {"priority": True},
        {"priority": "1"},
        {"labels": {"a": 1}},
        {"course": "a\n"},
        {"files": 5},
    ],
)
def test_other_fields(fields: dict[str, object]) -> None:
    with pytest.raises(SubmissionError) as caught:
        Submission(**{"assignment": assignment(), "student": "ada", "files": "a.c", **fields})  # type: ignore[arg-type]
    assert caught.value.id == "submission"


# --- where files land -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "landed"),
    [
        ("ada.c", "hello.c", "hello.c"),
        ("ada.c", "src/hello.c", "src/hello.c"),
        ("ada.c", "", "ada.c"),
        ("ada.c", "src/", "src/ada.c"),
        ("ada.zip", "hello.zip", "hello.zip"),
        ("ada.docx", "essay.docx", "essay.docx"),
    ],
)
def test_a_single_file(tmp_path: Path, name: str, path: str, landed: str) -> None:
    (tmp_path / name).write_bytes(zipped("inside"))
    (tmp_path / name).chmod(0o755)
    submission = Submission(assignment(path), "ada", tmp_path / name)
    assert submission.bundle() == (File(landed, zipped("inside"), True),)


TREES = [
    ("hello.c", ["hello.c", "util.c"], ["hello.c", "util.c"]),
    ("hello.c", ["ada/hello.c", "ada/util.c"], ["hello.c", "util.c"]),
    ("hello.c", ["ada/hw1/hello.c", "ada/hw1/lib/util.c"], ["hello.c", "lib/util.c"]),
    ("hello.c", ["main.c"], ["hello.c"]),
    ("hello.c", ["ada/main.c"], ["hello.c"]),
    ("hello.c", ["hello.c/main.c"], ["hello.c"]),
    ("src/hello.c", ["src/hello.c", "src/util.c"], ["src/hello.c", "src/util.c"]),
    ("src/hello.c", ["ada/src/hello.c"], ["src/hello.c"]),
    ("src/hello.c", ["x.c"], ["src/hello.c"]),
    ("", ["hello.c", "lib/util.c"], ["hello.c", "lib/util.c"]),
    ("", ["ada/hello.c", "ada/util.c"], ["ada/hello.c", "ada/util.c"]),
    ("src/", ["hello.c", "lib/util.c"], ["src/hello.c", "src/lib/util.c"]),
    ("src/", ["ada/hello.c", "ada/util.c"], ["src/ada/hello.c", "src/ada/util.c"]),
]


@pytest.mark.parametrize(("path", "names", "landed"), TREES)
def test_folders_archives_and_mappings_land_alike(
    tmp_path: Path, path: str, names: list[str], landed: list[str]
) -> None:
    (tmp_path / "ada.zip").write_bytes(zipped(*names))
    (tmp_path / "ada.TAR.GZ").write_bytes(tarred(*names))
    for name in names:
        (tmp_path / "ada" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ada" / name).write_text(name)
    outer = tmp_path / "outer"
    outer.mkdir()
    (outer / "upload.zip").write_bytes(zipped(*names))
    mapping = {name: name.encode() for name in names}
    for files in (tmp_path / "ada.zip", tmp_path / "ada.TAR.GZ", str(tmp_path / "ada"), mapping, outer):
        assert lands(files, path) == landed
    assert lands({"ada.zip": zipped(*names)}, path) == landed


@pytest.mark.parametrize(
    "names", [["main.c", "util.c"], ["a/main.c", "b/hello.c"], ["x/y/main.c", "x/z/main.c"], ["HELLO.C", "util.c"]]
)
def test_the_file_is_not_in_it(names: list[str]) -> None:
    with pytest.raises(SubmissionError) as caught:
        lands(dict.fromkeys(names, b""), "hello.c")
    assert caught.value.id == "submission_file_missing"
    assert "'hello.c'" in caught.value.message
    for name in names:
        assert name in caught.value.message


def test_at_most_five_names_are_listed() -> None:
    with pytest.raises(SubmissionError, match=r"'4.c' and 3 more"):
        lands({f"{n}.c": b"" for n in range(8)}, "hello.c")


def test_empty_ones(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.zip").touch()
    (tmp_path / "empty.c").touch()
    for files in (tmp_path / "empty", {}):
        with pytest.raises(SubmissionError, match="is empty") as caught:
            lands(files, "hello.c")
        assert caught.value.id == "submission_empty"
    with pytest.raises(ArchiveError, match=r"0 bytes"):
        lands(tmp_path / "empty.zip", "hello.c")
    assert lands(tmp_path / "empty.c", "hello.c") == ["hello.c"]


def test_size_of_what_is_handed_in(tmp_path: Path) -> None:
    (tmp_path / "ada.c").write_bytes(b"x" * 1024)
    assert lands(tmp_path / "ada.c", "hello.c", max_size=1024) == ["hello.c"]
    place = put(tmp_path / "ada", hello_c=b"x" * 1024)
    for files in (tmp_path / "ada.c", place, {"a.c": b"x" * 1024}):
        with pytest.raises(ArchiveError, match=r"more than the 1023 B"):
            lands(files, "hello.c", max_size=1023)
    with pytest.raises(ArchiveError, match=r"has 1 KiB, more than the 1023 B"):
        lands(tmp_path / "ada.c", "hello.c", max_size=1023)
    (tmp_path / "ada.tar.gz").write_bytes(tarred("hello.c"))
    assert lands(tmp_path / "ada.tar.gz", "hello.c", max_size=len("hello.c")) == ["hello.c"]
    with pytest.raises(ArchiveError, match="more than the 6 B"):
        lands(tmp_path / "ada.tar.gz", "hello.c", max_size=6)


def test_number_of_files(tmp_path: Path) -> None:
    place = put(tmp_path / "ada", hello_c=b"", b_c=b"", c_c=b"")
    assert len(lands(place, "hello.c", max_files=3)) == 3
    (tmp_path / "ada.zip").write_bytes(zipped("hello.c", "b.c", "c.c"))
    for files in (place, tmp_path / "ada.zip", {"hello.c": b"", "b.c": b"", "c.c": b""}):
        with pytest.raises(ArchiveError, match="more than 2 files") as caught:
            lands(files, "hello.c", max_files=2)
        assert "max_files" in caught.value.hint


def test_missing_unreadable_and_special(tmp_path: Path) -> None:
    for name in ("none.c", "none/ada.c", "n" * 300, "a\0b"):
        for look in (lambda path: lands(path, "hello.c"), lambda path: find_handins([path])):
            with pytest.raises(SubmissionError) as caught:
                look(tmp_path / name)
            assert caught.value.id == "submission_missing"
    os.mkfifo(tmp_path / "fifo.c")
    with pytest.raises(SubmissionError, match="FIFO") as caught:
        lands(tmp_path / "fifo.c", "hello.c")
    assert caught.value.hint == "name a file, folder or archive"
    with pytest.raises(SubmissionError, match="device") as caught:
        lands("/dev/null", "hello.c")
    assert "remove" not in caught.value.hint
    with pytest.raises(SubmissionError, match="FIFO") as caught:
        lands(tmp_path, "hello.c")
    assert caught.value.hint == "remove it"


RAR, SEVEN = b"Rar!\x1a\x07\x01\x00", b"7z\xbc\xaf\x27\x1c\x00\x04"


@pytest.mark.parametrize(
    ("name", "data", "path"),
    [
        ("ada.rar", b"", "hello.c"),
        ("ada.RAR", RAR, "src/"),
        ("ada.7z", SEVEN, ""),
        ("ada.c", RAR, "hello.c"),
        ("ada", SEVEN, "hello.c"),
        ("hello.c.gz", b"\x1f\x8b\x08", "hello.c"),
        ("ada.jar", zipped("hello.c"), "hello.c"),
        ("ada.docx", zipped("word/document.xml"), "hello.c"),
        ("ada.pdf", b"%PDF-1.7", "hello.c"),
        ("ada.odt", b"", "hello.c"),
        ("ada.pages", b"", "hello.c"),
        ("ada.zip", zipped("report.doc"), "hello.c"),
        ("ada.zip", zipped("inner.zip"), "hello.c"),
        ("ada.zip", zipped("inner/all.rar"), "hello.c"),
    ],
)
def test_what_cannot_be_source_is_never_taken_for_it(tmp_path: Path, name: str, data: bytes, path: str) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_bytes(data)
    for handed_in in (tmp_path / name, tmp_path / "folder"):
        with pytest.raises(SubmissionError) as caught:
            lands(handed_in, path)
        assert caught.value.id == "submission_kind"
        assert caught.value.hint.startswith("ask for ")
        assert "zip of " in caught.value.hint


@pytest.mark.parametrize(
    ("name", "data", "path"),
    [
        ("ada.rar", RAR, "all.rar"),
        ("ada.7z", SEVEN, "all.7z"),
        ("ada.gz", b"\x1f\x8b\x08", "data.gz"),
        ("ada.tgz", b"\x1f\x8b\x08", "all.tar.gz"),
        ("ada.tar.gz", b"\x1f\x8b\x08", "all.tgz"),
        ("ada.jar", zipped("Main.class"), "main.jar"),
        ("ada.pdf", b"%PDF-1.7", "essay.pdf"),
        ("ada.pdf", b"%PDF-1.7", ""),
        ("ada.docx", zipped("word/document.xml"), "reports/"),
        ("ada.txt", b"PK", "hello.c"),
    ],
)
def test_what_is_asked_for_is_taken_whatever_it_is(tmp_path: Path, name: str, data: bytes, path: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert len(lands(tmp_path / name, path)) == 1


@pytest.mark.parametrize("target", ["/etc/passwd", "solution.c", "none", "folder"])
def test_links_are_not_followed(tmp_path: Path, target: str) -> None:
    """A link in an export of hand-ins could name the solution."""
    (tmp_path / "solution.c").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "ada.c").symlink_to(target)
    with pytest.raises(SubmissionError, match="symbolic link") as caught:
        lands(tmp_path / "ada.c", "hello.c")
    assert caught.value.hint


def test_errors_name_the_hand_in(tmp_path: Path) -> None:
    place = put(tmp_path / "ada", hello_c=b"")
    (place / "link").symlink_to("hello.c")
    (tmp_path / "ada.zip").write_bytes(zipped("../x"))
    for name in ("ada", "ada.zip"):
        with pytest.raises(ArchiveError, match=f"'{name}': "):
            lands(tmp_path / name, "hello.c")


@pytest.mark.parametrize(
    "files", [{"../a": b""}, {"a": "text"}, {5: b""}, {"a": b"", "a/b": b""}, {"a": b"", "/b": b""}]
)
def test_bad_mappings(files: dict[str, bytes]) -> None:
    with pytest.raises(SubmissionError):
        lands(files, "")


def test_names_that_cannot_land(tmp_path: Path) -> None:
    for name in (b"a\nb.c", b"\xe4.c"):
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
        path.write_bytes(b"x")
        assert lands(path, "hello.c") == ["hello.c"]
        with pytest.raises(SubmissionError) as caught:
            lands(path, "")
        assert str(caught.value).isprintable()


part = st.sampled_from(["hello.c", "a", "b", "src", "x.zip"])
tree_paths = st.lists(part, min_size=1, max_size=3).map("/".join)


@settings(max_examples=300, deadline=None)
@given(
    files=st.dictionaries(tree_paths, st.binary(max_size=5), max_size=5),
    path=st.sampled_from(["", "hello.c", "src/", "src/hello.c", "x.zip"]),
)
def test_what_lands_is_a_tree_with_the_file_in_it(files: dict[str, bytes], path: str) -> None:
    try:
        landed = Submission(assignment(path), "ada", files).bundle()
    except SubmissionError:
        return
    pack(landed)
    names = [file.path for file in landed]
    assert names == sorted(names)
    if path.endswith("/"):
        assert all(name.startswith(path) for name in names)
    elif path:
        assert path in names
    assert sorted(file.data for file in landed) == sorted(files.values())


# --- hand-ins -------------------------------------------------------------------------------------


def touch(place: Path, *names: str | bytes) -> Path:
    place.mkdir(exist_ok=True)
    for name in names:
        Path(place, os.fsdecode(name)).touch()
    return place


def test_a_folder_of_hand_ins(tmp_path: Path) -> None:
    place = touch(tmp_path / "handins", "a10.c", "a2.c", "B1.tar.gz", ".hidden", "README.md", "readme")
    touch(place, "Thumbs.db", "desktop.ini", "~$ada.docx", "a2.c~", ".a2.c.swp", "._a2.c", ".DS_Store")
    for folder in ("zoe", "ada.lovelace", "__MACOSX", ".git"):
        (place / folder).mkdir()
    found = find_handins([place])
    assert [(h.student, h.path, h.title) for h in found] == [
        ("a2", place / "a2.c", "a2.c"),
        ("a10", place / "a10.c", "a10.c"),
        ("ada.lovelace", place / "ada.lovelace", "ada.lovelace"),
        ("B1", place / "B1.tar.gz", "B1.tar.gz"),
        ("zoe", place / "zoe", "zoe"),
    ]


def test_titles_tell_hand_ins_of_one_name_apart(tmp_path: Path) -> None:
    here = touch(tmp_path / "here", "ada.c", "bob.c")
    late = touch(tmp_path / "late", "ada.c")
    (tmp_path / "other").mkdir()
    again = touch(tmp_path / "other" / "late", "ada.c")
    assert [h.title for h in find_handins([here, late])] == ["here/ada.c", "bob.c", "late/ada.c"]
    assert [h.title for h in find_handins([late, again])] == [str(late / "ada.c"), str(again / "ada.c")]


def test_files_by_name(tmp_path: Path) -> None:
    place = touch(tmp_path / "x", "ada.c", "README.zip", ".hidden")
    found = find_handins(
        [place / "README.zip", place / ".hidden", place / "ada.c", place / ".." / "x" / "ada.c", place]
    )
    assert [h.student for h in found] == ["README", ".hidden", "ada"]


@pytest.mark.parametrize(
    ("names", "students"),
    [
        (["ada.c", "ada.py"], ["ada.c", "ada.py"]),
        (["ada.c", "ada.tar.gz", "bob.c"], ["ada.c", "ada.tar.gz", "bob"]),
        (["ada.c.zip", "ada.c", "ada.py"], ["ada.c", "ada.c.zip", "ada.py"]),
        (["a\nb.c", "a\\nb.c"], ["a\\nb", "a\\\\nb"]),
        ([b"\xe4.c", "\\udce4.c"], ["\\\\udce4", "\\udce4"]),
        (["a\x1b[31m.c", "a\u202eb.c"], ["a\\x1b[31m", "a\\u202eb"]),
        (["👩‍💻.py", "é.py", "e\u0301.py"], ["e\u0301", "é", "👩‍💻"]),
        ([" .c"], [" .c"]),
    ],
)
def test_two_names_never_become_one(tmp_path: Path, names: list[str | bytes], students: list[str]) -> None:
    found = find_handins([touch(tmp_path / "x", *names)])
    assert sorted(h.student for h in found) == sorted(students)
    for handin in found:
        assert Submission(assignment(), handin.student, handin.path).student == handin.student


def test_long_names(tmp_path: Path) -> None:
    found = find_handins([touch(tmp_path / "x", "n" * 240 + "1.c", "n" * 240 + "2.c")])
    assert len({h.student for h in found}) == 2
    assert all(len(h.student) == MAX_STUDENT for h in found)


@settings(max_examples=200)
@given(names=st.lists(st.text(alphabet="a\\nx0\n\x1b\u202e\udc80é", max_size=8), min_size=2, max_size=2, unique=True))
def test_printable_is_one_to_one(names: list[str]) -> None:
    one, other = map(printable, names)
    assert one != other
    assert one.isprintable()
    one.encode()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NothingToGrade, match="x") as caught:
        find_handins([touch(tmp_path / "x", "README")])
    assert caught.value.hint
    assert caught.value.exit_code == 5
    with pytest.raises(NothingToGrade):
        find_handins([])
    with pytest.raises(SubmissionError) as missing:
        find_handins([tmp_path / "none"])
    assert missing.value.id == "submission_missing"
    assert missing.value.hint


def test_links_among_hand_ins_are_seen_and_then_refused(tmp_path: Path) -> None:
    place = touch(tmp_path / "x", "bob.c")
    (place / "ada.c").symlink_to("none")
    assert [h.student for h in find_handins([place])] == ["ada", "bob"]


def test_those_of_one_stem_are_told(tmp_path: Path) -> None:
    here, there = touch(tmp_path / "x", "ada.py", "ada.zip", "bob.py", "eve.c"), touch(tmp_path / "y", "bob.py")
    found = find_handins([here, there])
    assert [[(each.student, each.title) for each in clash] for clash in of_one_stem(found)] == [
        [("ada.py", "ada.py"), ("ada.zip", "ada.zip")]
    ]
