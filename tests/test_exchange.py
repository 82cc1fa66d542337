"""Other platforms' exports, in their real shapes, as folders and as zips: whose each hand-in is, and which files."""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from minitango import unpacking
from minitango.archive import Bounds
from minitango.errors import ArchiveError, SubmissionError
from minitango.exchange import Export, Wish, gradescope, looks_like, places, read_export, submitters
from minitango.group import members

Tree = dict[str, str]


def folder(root: Path, tree: Tree, name: str = "export") -> Path:
    for path, text in tree.items():
        (root / name / path).parent.mkdir(parents=True, exist_ok=True)
        (root / name / path).write_text(text)
    return root / name


def zipped(root: Path, tree: Tree, name: str = "export.zip") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root / name, "w") as made:
        for path, text in tree.items():
            made.writestr(path, text)
    return root / name


def read(path: Path, expected: str = "", *, all_versions: bool = False) -> Export:
    export = read_export(path, Wish(all_versions=all_versions, expected=expected))
    assert export is not None
    return export


def whose(export: Export) -> dict[str, dict[str, str]]:
    """Each hand-in's files by student and title."""
    return {
        f"{one.student}: {one.title}": {file.path: file.data.decode() for file in export.files(one)(Bounds())}
        for one in export.handed
    }


def unclear(export: Export) -> list[tuple[str, str]]:
    return [(each.title, each.error.id) for each in export.unclear]


def both(root: Path, tree: Tree) -> list[Path]:
    """The same as a folder, as a zip, and as a zip with a folder at its top."""
    wrapped = {f"top/{path}": text for path, text in tree.items()}
    return [folder(root, tree), zipped(root, tree), zipped(root, wrapped, "wrapped.zip")]


# --- Autolab ---------------------------------------------------------------------------------

HANDIN = {
    "ada@school.edu/1_hello.c": "first",
    "ada@school.edu/1_autograde.txt": "feedback",
    "ada@school.edu/2_hello.c": "second",
    "ada@school.edu/10_hello.c": "tenth",
    "ada@school.edu/annotated_10_hello.c": "// well done",
    "bob_b@cs.school.edu/1_hello.c": "bob's",
    "eve@school.edu/1_autograde.txt": "nothing is left of what was handed in",
    "archive/ada@school.edu/17_3_hello.c": "deleted",
}


def test_a_labs_own_folder_has_a_folder_for_each_student(tmp_path: Path) -> None:
    for path in both(tmp_path, HANDIN):
        export = read(path)
        assert export.what == "an Autolab export"
        assert whose(export) == {
            "ada@school.edu: ada@school.edu/10_hello.c": {"hello.c": "tenth"},
            "bob_b@cs.school.edu: bob_b@cs.school.edu/1_hello.c": {"hello.c": "bob's"},
        }
        assert (export.older, unclear(export)) == (2, [])


def test_all_versions_are_taken_where_they_are_asked_for(tmp_path: Path) -> None:
    export = read(folder(tmp_path, HANDIN), all_versions=True)
    assert [(one.student, one.version) for one in export.handed][:3] == [
        ("ada@school.edu", 1), ("ada@school.edu", 2), ("ada@school.edu", 10),
    ]  # fmt: skip
    assert (len(export.handed), export.older) == (4, 0)


def test_the_zip_of_autolab_and_older_folders_name_each_file_by_its_student(tmp_path: Path) -> None:
    tree = {
        "ada@school.edu_1_hello.c": "1",
        "ada@school.edu_12_hello.c": "12",
        "bob_b@cs.school.edu_3_hello.c": "3",
        "bob_b@cs.school.edu_3_hello_autograde.txt": "feedback",
        "eve@school.edu_eve@school.edu_2_hello.c": "2",
    }
    for path in both(tmp_path, tree):
        export = read(path)
        assert whose(export) == {
            "ada@school.edu: ada@school.edu_12_hello.c": {"hello.c": "12"},
            "bob_b@cs.school.edu: bob_b@cs.school.edu_3_hello.c": {"hello.c": "3"},
            "eve@school.edu: eve@school.edu_eve@school.edu_2_hello.c": {"hello.c": "2"},
        }
        assert export.older == 1


@pytest.mark.parametrize(
    ("name", "expected", "who"),
    [
        ("3_ada@school.edu_my_hello.c", "", ("ada@school.edu", "my_hello.c")),
        ("3_a_l@school.edu_my_hello.c", "my_hello.c", ("a_l@school.edu", "my_hello.c")),
        ("3_my_ada@school.edu_hello_world.c", "my_hello_world.c", ("ada@school.edu", "my_hello_world.c")),
        ("3_my_a_l@school.edu_hello_world.c", "my_hello_world.c", ("a_l@school.edu", "my_hello_world.c")),
        ("3_ada@school.edu_my_hello.c", "answer.txt", ("ada@school.edu", "my_hello.c")),
        ("3_ada@school.edu_1_x.c", "1_x.c", ("ada@school.edu", "1_x.c")),
        ("3_ada@school.edu_1_x.c", "x.c", ("3_ada@school.edu", "x.c")),
        ("ada@school.edu_3_ada@school.edu_my_hello.c", "my_hello.c", ("ada@school.edu", "my_hello.c")),
        # whose it is, nobody can tell
        ("3_my_ada@school.edu_hello_world.c", "", None),
        ("3_ada@school.edu_1_x.c", "", None),
    ],
)
def test_an_address_in_the_middle_of_a_name(
    name: str, expected: str, who: tuple[str, str] | None, tmp_path: Path
) -> None:
    export = read(zipped(tmp_path, {name: "x"}), expected)
    if who is None:
        assert (whose(export), unclear(export)) == ({}, [(name, "export_name")])
        assert "handin/ folder" in export.unclear[0].error.hint
    else:
        assert whose(export) == {f"{who[0]}: {name}": {who[1]: "x"}}


def test_what_does_not_say_whose_it_is_is_refused_by_name_and_the_others_are_taken(tmp_path: Path) -> None:
    tree = {"ada@school.edu_1_a.c": "", "bob@school.edu_1_a.c": "", "eve_1_a.c": "", "x@y.edu_latest_a.c": ""}
    tree["eve@school.edu_1_a.c"] = ""
    export = read(folder(tmp_path, tree))
    assert len(export.handed) == 3
    assert unclear(export) == [("eve_1_a.c", "export_name"), ("x@y.edu_latest_a.c", "export_name")]
    assert str(export.unclear[0].error).startswith("eve_1_a.c: the name does not say whose it is")


# --- Gradescope ------------------------------------------------------------------------------

METADATA = """---
submission_101:
  :submitters:
  - :name: Ada Lovelace
    :sid: '0017'
    :email: ada@school.edu
  :created_at: 2024-10-01 12:00:00.000000000 Z
  :score: 8.0
  :status: processed
  :results:
    tests:
    - score: 2.0
      output: "a: b"
submission_102:
  :submitters:
  - :name: Bob
    :sid:
    :email: bob@school.edu
  - :name: Eve
    :sid: ~
    :email: ''
  :created_at: !ruby/object:ActiveSupport::TimeWithZone
    utc: 2024-10-01 12:00:00 Z
"""
EXPORT = {
    "submission_metadata.yml": METADATA,
    "submission_101/calculator.py": "ada's",
    "submission_101/README.md": "notes",
    "submission_101/lib/parser.py": "parser",
    "submission_102/calculator.py": "theirs",
}


def test_gradescope_says_whose_each_folder_is(tmp_path: Path) -> None:
    for path in both(tmp_path, EXPORT):
        export = read(path)
        assert export.what == "a Gradescope export"
        assert whose(export) == {
            "0017: submission_101": {"README.md": "notes", "calculator.py": "ada's", "lib/parser.py": "parser"},
            "bob@school.edu: submission_102": {"calculator.py": "theirs"},
        }
        assert unclear(export) == []


def test_a_groups_hand_in_names_all_of_it(tmp_path: Path) -> None:
    alone, group = read(folder(tmp_path, EXPORT)).handed
    assert members(group.labels, group.student) == ("bob@school.edu", "Eve")
    assert members(alone.labels, alone.student) == ("0017",)
    for broken in ("", "x", "[1]", '["others"]', '"bob"'):
        assert members({"group": broken}, "bob") == ("bob",)


def test_a_submission_of_which_gradescope_says_nothing_is_refused_by_name(tmp_path: Path) -> None:
    metadata = (
        "submission_1:\n  :submitters:\n  - :name: ''\n"
        "submission_2:\n  :submitters: []\n"
        "submission_3:\n  :submitters:\n  - :sid: '3'\n"
        "submission_4: nonsense\n"
        "submission_5:\n  :submitters:\n  - :sid: '5'\n  - [x]\n"
        "submission_6:\n  :submitters:\n  - :sid: '6'\n"
    )
    tree = {f"submission_{n}/a.py": "" for n in (1, 2, 4, 5, 6, 7)}
    export = read(folder(tmp_path, {**tree, "submission_metadata.yml": metadata}))
    assert [one.student for one in export.handed] == ["6"]
    assert unclear(export) == [
        ("submission_1", "export_name"),
        ("submission_2", "export_name"),
        ("submission_3", "submission_empty"),
        ("submission_4", "export_name"),
        ("submission_5", "export_name"),
        ("submission_7", "export_name"),
    ]
    assert "submission_7: submission_metadata.yml says nothing of it" in str(export.unclear[-1].error)


def test_files_of_an_assignment_without_folders_are_hand_ins_too(tmp_path: Path) -> None:
    tree = {"submission_metadata.yml": "7.py:\n  :submitters:\n  - :sid: '7'\n", "7.py": "x"}
    assert whose(read(zipped(tmp_path, tree))) == {"7: 7.py": {"7.py": "x"}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not YAML at line"),
        ("a: " + "[" * 30_000, "not YAML"),
        ("- a\n- b\n", "does not map submissions to students"),
        ("", "does not map submissions to students"),
        ("? [a]\n: b\n", "submission_metadata.yml"),
        ("\x00", "not YAML"),
    ],
)
def test_metadata_that_cannot_be_read_is_an_error_with_its_place(text: str, words: str, tmp_path: Path) -> None:
    place = folder(tmp_path, {"submission_metadata.yml": text, "submission_1/a.py": ""})
    with pytest.raises(SubmissionError, match=words) as caught:
        read(place)
    assert caught.value.id == "export"
    assert "--plain" in caught.value.hint
    assert str(caught.value).startswith(f"{place}/submission_metadata.yml")


def test_metadata_beyond_all_bounds_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradescope, "MAX_METADATA", 100)
    with pytest.raises(SubmissionError, match="more than the 100 B") as caught:
        read(folder(tmp_path, EXPORT))
    assert caught.value.id == "export"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: " + "[" * 60 + "]" * 60, "nested deeper than 50 levels"),
        ("s:\n  :results: [" + "x, " * 500 + "x]\n", "holds more than 400 values"),
        ("s:\n  :submitters: [" + "x, " * 60 + "x]\n", "more than 50 values say whose one submission is"),
        ("- a\n", "does not map submissions to students"),
        ("*a : b\n", "does not map submissions to students"),
    ],
)
def test_metadata_costs_no_more_than_its_bounds(text: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitters, "MAX_EVENTS", 400)
    monkeypatch.setattr(submitters, "MAX_PARTS", 50)
    with pytest.raises(ValueError, match=words):
        submitters.submitters(text.encode())


def test_of_metadata_only_the_submitters_are_kept(tmp_path: Path) -> None:
    tests = "".join(f"    - output: {'x' * 200} {n}\n" for n in range(2000))
    text = f"s1:\n  :submitters:\n  - :sid: '1'\n  :results:\n    tests:\n{tests}s2: [':submitters']\n"
    data = text.encode()
    tracemalloc.start()
    assert submitters.submitters(data) == {"s1": [{":sid": "1"}], "s2": None}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(data) / 4


def test_what_the_metadata_says_by_another_name_is_what_that_stands_for(tmp_path: Path) -> None:
    metadata = (
        "s1:\n  :title: &t Ada\n  :submitters: &all\n  - &one\n    :sid: &id '1'\n"
        "s2:\n  :submitters: *all\n"
        "s3:\n  :submitters:\n  - *one\n  - :sid: '3'\n"
        "s4:\n  :submitters:\n  - :sid: *t\n"
    )
    tree = {f"s{n}/a.py": "" for n in range(1, 5)}
    export = read(folder(tmp_path, {**tree, "submission_metadata.yml": metadata}))
    found = {one.title: members(one.labels, one.student) for one in export.handed}
    assert found == {"s1": ("1",), "s2": ("1",), "s3": ("1", "3"), "s4": ("Ada",)}


def test_what_says_two_things_says_nothing(tmp_path: Path) -> None:
    metadata = (
        "s1:\n  :submitters:\n  - :sid: ada\n"
        "s1:\n  :submitters:\n  - :sid: bob\n"
        "s2:\n  :submitters:\n  - :sid: ada\n  :submitters:\n  - :sid: bob\n"
        "s3:\n  :submitters:\n  - :sid: ada\n    :sid: bob\n    :email: eve@school.edu\n"
        f"s4:\n  :submitters:\n  - :sid: {'x' * 1001}\n    :email: eve@school.edu\n"
        "s5:\n  :results: &far\n  - :sid: ada\n  :submitters: *far\n"
    )
    tree = {f"s{n}/a.py": "" for n in range(1, 6)}
    export = read(folder(tmp_path, {**tree, "submission_metadata.yml": metadata}))
    assert not export.handed
    assert unclear(export) == [(f"s{n}", "export_name") for n in range(1, 6)]
    assert "does not say whose it is, once and clearly" in str(export.unclear[0].error)


def test_metadata_that_refers_to_itself_a_billion_times_is_read_as_it_stands(tmp_path: Path) -> None:
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    lines += ["submission_1:", "  :submitters: *a29"]
    export = read(folder(tmp_path, {"submission_metadata.yml": "\n".join(lines), "submission_1/a.py": ""}))
    assert unclear(export) == [("submission_1", "export_name")]


# --- Canvas and Moodle -------------------------------------------------------------------------


def test_canvas_names_each_file_by_its_student(tmp_path: Path) -> None:
    tree = {
        "lovelaceada_340934_208490284_hello.c": "ada's",
        "lovelaceada_340934_208490285_util_1_2.h": "header",
        "müllerbob_b_LATE_340935_208490286_hello-1.c": "bob's",
        "evil_eve_340936_text.html": "<p>none",
    }
    for path in both(tmp_path, tree):
        export = read(path)
        assert export.what == "a Canvas export"
        assert whose(export) == {
            "340934: lovelaceada": {"hello.c": "ada's", "util_1_2.h": "header"},
            "340935: müllerbob_b": {"hello-1.c": "bob's"},
            "340936: evil_eve": {"text.html": "<p>none"},
        }
    assert export.handed[0].labels == {"name": "lovelaceada"}
    anonymous = read(zipped(tmp_path, {"anon_Xb3q9_208490284_hello.c": "x"}))
    assert whose(anonymous) == {"anon_Xb3q9: anon_Xb3q9": {"hello.c": "x"}}


def test_names_in_a_zip_made_by_linux_or_the_finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """UTF-8 without the flag that says so."""
    monkeypatch.setattr(zipfile.ZipInfo, "_encodeFilenameFlags", lambda info: (info.filename.encode(), info.flag_bits))
    export = read(zipped(tmp_path, {"Eve Müller_10323_assignsubmission_file/größe.txt": "hers"}))
    assert whose(export) == {"Eve Müller: Eve Müller_10323": {"größe.txt": "hers"}}


def test_moodle_names_each_folder_by_its_student(tmp_path: Path) -> None:
    tree = {
        "Ada Lovelace_10321_assignsubmission_file_/hello.c": "ada's",
        "Ada Lovelace_10321_assignsubmission_onlinetext_/onlinetext.html": "see the file",
        "Bob_10322_assignsubmission_file/src/hello.c": "bob's",
        "Eve Müller_10323_assignsubmission_onlinetext/onlinetext.html": "<p>mine",
        "Group A-Bob_10324_assignsubmission_file_hello.c": "a file",
        "Bob_10325_assignsubmission_file/hello.c": "another Bob's",
    }
    for path in both(tmp_path, tree):
        export = read(path)
        assert export.what == "a Moodle export"
        assert whose(export) == {
            "Ada Lovelace: Ada Lovelace_10321": {"hello.c": "ada's"},
            "Bob (10322): Bob_10322": {"src/hello.c": "bob's"},
            "Bob (10325): Bob_10325": {"hello.c": "another Bob's"},
            "Eve Müller: Eve Müller_10323": {"onlinetext.html": "<p>mine"},
            "Group A-Bob: Group A-Bob_10324": {"hello.c": "a file"},
        }
    (tmp_path / "export" / "Mallory_1_assignsubmission_file").mkdir()
    (tmp_path / "export" / "Mallory").mkdir()
    assert unclear(read(tmp_path / "export")) == [("Mallory", "export_name"), ("Mallory_1", "submission_empty")]


# --- what is none, and what is hostile ----------------------------------------------------------


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"ada.c": "", "bob.c": ""},
        {"ada/hello.c": "", "bob/hello.c": ""},
        {"ada@school.edu/hello.c": "", "bob@school.edu/hello.c": ""},
        {"ada@school.edu.c": ""},
        {"ada@school.edu_1_a.c": "", "bob.c": "", "eve.c": ""},
        {"ada_2024_11_05.py": "", "bob_2024_11_06.py": ""},
        {"ada_2024_1105_x.py": "", "bob_2024_1106_x.py": ""},
        {"ada_1_1105_x.py": "", "bob_2_1105_x.py": ""},
        {"hello_1_2_x.c": ""},
        {"ada_1_assignsubmission.c": ""},
    ],
)
def test_ordinary_hand_ins_are_no_export(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    assert read_export(folder(tmp_path, tree)) is None
    assert read_export(zipped(tmp_path, tree)) is None


@pytest.mark.parametrize(
    "theirs",
    [
        {"submission_metadata.yml": "hello.py:\n  :submitters:\n  - :sid: ada\n", "hello.py": "mine"},
        {"ada@school.edu_9_hello.py": "mine"},
        {"ada@school.edu/9_hello.py": "mine"},
        {"lovelaceada_340934_208490284_hello.py": "mine"},
        {"Ada Lovelace_10321_assignsubmission_file/hello.py": "mine"},
    ],
)
def test_what_the_only_student_so_far_handed_in_is_no_export(theirs: Tree, tmp_path: Path) -> None:
    handins = folder(tmp_path, {f"mallory/{path}": text for path, text in theirs.items()}, "handins")
    assert read_export(handins) is None
    packed = tmp_path / "packed"
    zipped(packed, theirs, "mallory.zip")
    assert read_export(packed) is None
    # who exported it says so, and is told how
    assert looks_like(handins, 1 << 20) == read_export(handins, Wish(sure=True)).what  # type: ignore[union-attr]
    assert looks_like(packed / "mallory.zip", 1 << 20) is not None
    assert looks_like(packed / "mallory.zip", 10) is None, "too large for a hand-in, and not opened"
    assert looks_like(packed, 1 << 20) is None


def test_what_cannot_be_looked_at_looks_like_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    for name in ("none", "none.zip", "broken.zip", "\0"):
        assert looks_like(tmp_path / name, 1 << 20) is None
    place = folder(tmp_path, EXPORT)
    assert looks_like(place, 1 << 20) == "a Gradescope export"

    def deny(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("minitango.exchange.places.os.scandir", deny)
    assert looks_like(place / "submission_101", 1 << 20) is None


def test_what_is_neither_a_folder_nor_a_zip_is_no_export(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "ada.c").write_text("x")
    for name in ("broken.zip", "ada.c", "none"):
        assert read_export(tmp_path / name) is None


def test_a_zip_is_opened_once_and_each_hand_in_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {f"ada{n}@school.edu/1_hello.c": f"of {n}" for n in range(40)}
    path = zipped(tmp_path, tree)
    opened, read_members = [], []
    real_open, real_read = zipfile.ZipFile.__init__, unpacking._read_zip_member

    def counted(self: zipfile.ZipFile, *given: Any, **more: Any) -> None:
        opened.append(given)
        real_open(self, *given, **more)

    def noted(*given: Any) -> None:
        read_members.append(given)
        real_read(*given)

    monkeypatch.setattr(zipfile.ZipFile, "__init__", counted)
    monkeypatch.setattr(unpacking, "_read_zip_member", noted)
    export = read(path)
    for _ in range(3):
        assert whose(export)["ada7@school.edu: ada7@school.edu/1_hello.c"] == {"hello.c": "of 7"}
    assert (len(opened), len(read_members)) == (1, 40)
    monkeypatch.setattr(places, "KEEP", 20 * (places._EACH + 5))
    export = read(path)
    for _ in range(2):
        assert len(whose(export)) == 40
    assert len(read_members) == 40 + 40 + 20, "what there is no room for is read again"


def test_one_hand_in_that_is_not_to_be_taken_spoils_no_other(tmp_path: Path) -> None:
    path = zipped(
        tmp_path,
        {
            "submission_metadata.yml": "".join(f"s{n}:\n  :submitters:\n  - :sid: '{n}'\n" for n in range(4)),
            "s0/a.py": "good",
            "s1/../../a.py": "leads out",
            "s2/a.py": "x",
            "s2/A.py": "its twin",
            "s3/big.py": "x" * 5000,
        },
    )
    export = read(path)
    errors = {}
    for one in export.handed:
        try:
            export.files(one)(Bounds(bytes=4000))
        except ArchiveError as error:
            errors[one.student] = error.id
    assert errors == {"1": "archive_name", "2": "archive_twins", "3": "too_large"}


def test_links_in_an_unpacked_export_are_not_followed(tmp_path: Path) -> None:
    place = folder(tmp_path, EXPORT)
    (tmp_path / "secret").write_text("secret")
    os.symlink(tmp_path / "secret", place / "submission_101" / "link.py")
    os.symlink(tmp_path, place / "submission_102" / "up")
    export = read(place)
    for one in export.handed:
        with pytest.raises(ArchiveError) as caught:
            export.files(one)(Bounds())
        assert caught.value.id == "not_regular"


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(tmp_path, EXPORT)

    def deny(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("minitango.exchange.places.os.scandir", deny)
    with pytest.raises(SubmissionError, match="cannot be read") as caught:
        read_export(place)
    assert caught.value.id == "submission_unreadable"


def test_a_folder_without_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.exchange.places.MAX_MEMBERS", 2)
    with pytest.raises(SubmissionError, match="more than 2 files") as caught:
        read(folder(tmp_path, EXPORT))
    assert caught.value.id == "export"
