"""Other platforms' exports as they come, through the real command line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Answer, CommandLine
from tests.e2e.test_bad_input import refused
from tests.test_exchange import METADATA, Tree, folder, zipped

pytestmark = pytest.mark.usefixtures("sandbox")

PLATFORMS: dict[str, tuple[Tree, str, dict[str, float]]] = {
    "autolab": (
        {
            "ada@school.edu_1_answer.txt": "no",
            "ada@school.edu_2_answer.txt": "ok",
            "bob@school.edu_1_answer.txt": "no",
        },
        "taken for an Autolab export: 2 submissions; 1 older version left out (--all-versions grades them, too)",
        {"ada@school.edu": 10, "bob@school.edu": 0},
    ),
    "autolab-folder": (
        {"ada@school.edu/1_answer.txt": "no", "ada@school.edu/2_answer.txt": "ok", "bob@school.edu/1_answer.txt": "no"},
        "taken for an Autolab export: 2 submissions; 1 older version left out (--all-versions grades them, too)",
        {"ada@school.edu": 10, "bob@school.edu": 0},
    ),
    "gradescope": (
        {
            "assignment_7_export/submission_metadata.yml": METADATA,
            "assignment_7_export/submission_101/answer.txt": "ok",
            "assignment_7_export/submission_102/answer.txt": "no",
        },
        "taken for a Gradescope export: 2 submissions\n",
        {"0017": 10, "bob@school.edu": 0},
    ),
    "canvas": (
        {"lovelaceada_34_208490284_answer.txt": "ok", "bob_LATE_35_208490286_answer-1.txt": "no"},
        "taken for a Canvas export: 2 submissions\n",
        {"34": 10, "35": 0},
    ),
    "moodle": (
        {
            "Ada Lovelace_10321_assignsubmission_file/answer.txt": "ok",
            "Bob_10322_assignsubmission_file/mine.txt": "no",
        },
        "taken for a Moodle export: 2 submissions\n",
        {"Ada Lovelace": 10, "Bob": 0},
    ),
}


def scores(answer: Answer) -> dict[str, float]:
    return {job["student"]: job["score"] for job in answer.jobs}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_an_export_is_graded_as_it_comes(platform: str, cli: CommandLine, hw: Path, tmp_path: Path) -> None:
    tree, said, expected = PLATFORMS[platform]
    answer = cli("run", hw, zipped(tmp_path, tree), "--json")
    assert answer.code == 0, answer
    assert f"export.zip: {said}" in answer.err
    assert scores(answer) == expected
    again = cli("run", hw, folder(tmp_path, tree), "--export", "--json")  # unpacked, it is the same work
    assert "2 of 2 hand-ins graded before" in again.err, again
    assert [job["id"] for job in again.jobs] == [job["id"] for job in answer.jobs]


def test_all_versions_are_graded_where_that_is_asked_for(cli: CommandLine, hw: Path, tmp_path: Path) -> None:
    answer = cli("run", hw, zipped(tmp_path, PLATFORMS["autolab"][0]), "--all-versions", "--json")
    assert [(job["student"], job["score"]) for job in answer.jobs] == [
        ("ada@school.edu", 0), ("ada@school.edu", 10), ("bob@school.edu", 0),
    ]  # fmt: skip
    assert "ada@school.edu handed in 2 times: each is graded" in answer.err


@pytest.mark.parametrize("order", [[(), ("--all-versions",)], [("--all-versions",), ()], [("--all-versions",)]])
def test_the_latest_version_counts_whichever_was_graded_first(
    cli: CommandLine, hw: Path, tmp_path: Path, order: list[tuple[str, ...]]
) -> None:
    tree = {"ada@school.edu_1_answer.txt": "ok", "ada@school.edu_10_answer.txt": "no"}
    for words in order:
        assert cli("run", hw, zipped(tmp_path, tree), *words).code == 0
    assert [row["score"] for row in csv.DictReader(io.StringIO(cli("export").out))] == ["0"]


def test_plain_takes_each_entry_for_a_hand_in(cli: CommandLine, hw: Path, tmp_path: Path) -> None:
    answer = cli("submit", hw, folder(tmp_path, PLATFORMS["autolab"][0]), "--plain", "--json")
    assert "taken for" not in answer.err
    assert [job["student"] for job in answer.jobs] == [
        "ada@school.edu_1_answer", "ada@school.edu_2_answer", "bob@school.edu_1_answer",
    ]  # fmt: skip


POSES: dict[str, Tree] = {
    "gradescope": {
        "submission_metadata.yml": "answer.txt:\n  :submitters:\n  - :sid: ada\n",
        "answer.txt": "no",
    },
    "autolab": {"ada@school.edu_9_answer.txt": "no"},
}


@pytest.mark.parametrize("pose", POSES)
def test_what_a_student_hands_in_is_theirs_whatever_it_looks_like(
    pose: str, cli: CommandLine, hw: Path, tmp_path: Path
) -> None:
    theirs = POSES[pose]
    handins = folder(tmp_path, {f"mallory/{path}": text for path, text in theirs.items()}, "handins")
    packed = zipped(tmp_path / "packed", theirs, "mallory.zip")
    (tmp_path / "ada.txt").write_text("ok")

    def students(*paths: Path) -> tuple[list[str], str]:
        answer = cli("run", hw, *paths, "--json")
        refused = [each["student"] for each in json.loads(answer.out)["refused"]]  # two files, where one is asked for
        return [job["student"] for job in answer.jobs] + refused, answer.err

    # the first to hand in, by a folder and by a zip in a folder
    for path in (handins, packed.parent):
        found, said = students(path)
        assert found == ["mallory"]
        assert "taken for a" not in said.replace("taken for what", "")
        assert ("--export" in said) is (path == handins)
    # a zip among others, as a shell makes of handins/*
    found, said = students(tmp_path / "ada.txt", packed)
    assert sorted(found) == ["ada", "mallory"]
    assert "mallory.zip: looks like a" in said
    assert "is taken for what students handed in; if it was you who exported it: --export" in said


def test_several_exports_are_said_to_be_some(cli: CommandLine, hw: Path, tmp_path: Path) -> None:
    one = zipped(tmp_path, PLATFORMS["gradescope"][0], "one.zip")
    two = zipped(tmp_path, PLATFORMS["canvas"][0], "two.zip")
    answer = cli("run", hw, one, two, "--export", "--json")
    assert scores(answer) == {"0017": 10, "bob@school.edu": 0, "34": 10, "35": 0}
    none = tmp_path / "none"
    none.mkdir()
    (none / "ada.txt").write_text("ok\n")
    refused(cli("run", hw, one, none, "--export"), 2, "export", "is no export that is known", "without --export")
    for flag in ("--plain", "--student=ada"):
        refused(cli("submit", hw, one, "--export", flag), 2, "usage", "--export goes with", "leave one of them out")


def test_with_a_name_a_path_is_that_students(cli: CommandLine, hw: Path, tmp_path: Path) -> None:
    tree = {"ada@school.edu_1_answer.txt": "no"}
    answer = cli("submit", hw, zipped(tmp_path, tree), "--student", "ada", "--json")
    assert [job["student"] for job in answer.jobs] == ["ada"]


def test_what_does_not_say_whose_it_is_is_listed_as_refused(cli: CommandLine, hw: Path, tmp_path: Path) -> None:
    tree = {**PLATFORMS["canvas"][0], "answer.txt": "ok"}
    answer = cli("run", hw, folder(tmp_path, tree))
    assert answer.code == 4, answer
    assert "refused[export_name]: answer.txt: answer.txt: the name does not say whose it is" in answer.err
    assert "  next: download them again, or grade this one alone with --student NAME" in answer.err
    assert "1 REFUSED" in answer.out


def test_an_export_that_cannot_be_read_is_one_error(cli: CommandLine, hw: Path, tmp_path: Path) -> None:
    place = folder(tmp_path, {"submission_metadata.yml": "submission_1: {", "submission_1/answer.txt": "ok"})
    refused(cli("run", hw, place), 2, "export", "submission_metadata.yml: not YAML at line", "--plain")
    assert cli("submit", hw, place, "--plain").code == 0


def test_everybody_of_a_group_gets_its_grade(cli: CommandLine, hw: Path, tmp_path: Path) -> None:
    assert cli("run", hw, zipped(tmp_path, PLATFORMS["gradescope"][0])).code == 0

    def rows(*words: str) -> list[tuple[str, str, str]]:
        found = csv.DictReader(io.StringIO(cli("export", *words).out))
        return [(row["student"], row["score"], row["title"]) for row in found]

    theirs = [("bob@school.edu", "0", "submission_102"), ("Eve", "0", "submission_102")]
    assert rows() == [("0017", "10", "submission_101"), *theirs]
    assert rows("--student", "Eve") == theirs[1:]
    assert [job["title"] for job in json.loads(cli("jobs", "list", "--student", "Eve", "--json").out)["jobs"]] == [
        "submission_102"
    ]
    assert "no job of student 'eve'" in cli("jobs", "list", "--student", "eve").err
    assert cli("export", "--feedback", tmp_path / "feedback").code == 0
    pages = sorted(path.name for path in (tmp_path / "feedback").iterdir())
    assert [page.partition("~")[0].removesuffix(".md") for page in pages] == ["0017", "Eve", "bob@school.edu"]


def test_who_comes_to_a_group_later_has_its_grade_too(cli: CommandLine, hw: Path, tmp_path: Path) -> None:
    """And a grader of Gradescope's is told of all of them."""
    tree = {"submission_1/answer.txt": "ok", "submission_metadata.yml": ""}
    for names in (["ada"], ["ada", "bob"], ["bob", "ada"], ["bob"]):
        lines = ["submission_1:", "  :submitters:", *(f"  - :name: {name}" for name in names)]
        tree["submission_metadata.yml"] = "\n".join(lines) + "\n"
        place = folder(tmp_path / "-".join(names), tree)
        assert cli("run", hw, place, "--no-preflight").code == 0
    found = csv.DictReader(io.StringIO(cli("export", "--all").out))
    assert [row["student"] for row in found] == ["ada", "ada", "bob", "bob"]
    assert len(cli("jobs", "list", "--json").jobs) == 3, "the order of their names is no matter"


def test_one_of_a_group_goes_and_the_others_keep_their_grade(cli: CommandLine, hw: Path, tmp_path: Path) -> None:
    export = zipped(tmp_path, PLATFORMS["gradescope"][0])
    assert cli("run", hw, export).code == 0

    def students() -> list[str]:
        return [row["student"] for row in csv.DictReader(io.StringIO(cli("export").out))]

    def left() -> bytes:
        return b"".join(path.read_bytes() for path in (cli.folder / ".minitango").rglob("*") if path.is_file())

    assert b"Eve" in left()
    dry = cli("prune", "--student", "Eve", "--dry-run")
    assert dry.out.startswith("would remove 0 jobs\n"), dry
    assert "would take the name out of 1 job that others handed in, too" in dry.out
    assert students() == ["0017", "bob@school.edu", "Eve"]
    asked = cli("prune", "--student", "Eve")
    refused(
        asked, 2, "confirm", "0 jobs of 'Eve', with all results and files, and the name from 1 job of bob@school.edu"
    )
    gone = cli("prune", "--student", "Eve", "--yes", "--json")
    assert (json.loads(gone.out)["removed"]["jobs"], json.loads(gone.out)["removed"]["handed_over"]) == (0, 1)
    assert students() == ["0017", "bob@school.edu"]
    assert b"Eve" not in left()
    refused(cli("prune", "--student", "Eve", "--yes"), 2, "student_unknown", "there is no job of student 'Eve'")
    # the first one, too, may go; whose it is then, is the next one
    assert cli("run", hw, export, "--fresh").code == 0
    assert cli("prune", "--student", "bob@school.edu", "--yes").out.startswith("removed 1 job\n")
    assert students() == ["0017", "Eve"]
    # with the last one the hand-in goes
    assert cli("prune", "--student", "Eve", "--yes").out.startswith("removed 1 job\n")
    assert b"submission_102" not in left()


def test_a_group_whose_hand_in_waits_is_busy_for_each_of_it(cli: CommandLine, hw: Path, tmp_path: Path) -> None:
    assert cli("submit", hw, zipped(tmp_path, PLATFORMS["gradescope"][0])).code == 0
    refused(cli("prune", "--student", "Eve", "--yes"), 2, "student_busy", "1 job of 'Eve' not ended yet")
