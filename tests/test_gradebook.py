"""The gradebook: which job counts, and that nobody's dead job becomes a zero."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from msgspec import structs

from minitango.cli.files import write_whole
from minitango.cli.gradebook import COLUMNS, Entry, as_csv, as_json, as_junit, iso, latest
from minitango.errors import ConfigError
from minitango.job import Failure, Job, Notice, Outcome, Result, State, Trust, Usage


def job(seq: int = 1, student: str = "ada", state: State = State.DONE, **changes: object) -> Job:
    values: dict[str, object] = {"id": f"j{seq}", "assignment": "hw", "spec": "", "inputs": ""}
    if state is State.DONE:
        values |= {"outcome": Outcome.GRADED, "score": 7.0, "max_score": 8.0, "trust": Trust.SHARED, "wall": 1.23456}
    return Job(seq=seq, student=student, state=state, **{**values, **changes})  # type: ignore[arg-type]


RESULT = Result(
    Outcome.GRADED,
    usage=Usage(1.2, 0.5, 1 << 20),
    sandbox="docker",
    image_digest="sha256:ab",
    warnings=(Notice("w", "x"),),
)
DEAD = job(2, "bob", State.DEAD, failure=Failure("command", '=cmd("make")'), ended=1e9)
SLOW = job(3, "eve", outcome=Outcome.TIME_LIMIT, score=None, reason="too slow")
WAITS = job(4, "zoe", State.QUEUED)


def rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True))


def test_a_row_has_it_all() -> None:
    data = as_csv([Entry(job(submitted=0.0, ended=86399.9, attempt=2), RESULT)])
    assert data.split(b"\r\n")[0].decode().split(",") == list(COLUMNS)
    assert data.endswith(b"\r\n")
    (row,) = rows(data)
    assert row == {
        "student": "ada", "assignment": "hw", "course": "", "title": "", "state": "done", "outcome": "graded",
        "score": "7", "max_score": "8", "percent": "87.5", "trust": "shared", "reason": "", "warnings": "w: x",
        "submitted": "1970-01-01T00:00:00Z", "ended": "1970-01-01T23:59:59Z", "wall": "1.235", "cpu": "0.5",
        "memory": "1048576", "attempts": "2", "sandbox": "docker", "image_digest": "sha256:ab", "id": "j1",
        "signs": "",
    }  # fmt: skip


def test_signs_of_tampering_are_in_every_form() -> None:
    odd = structs.replace(
        RESULT, warnings=(Notice("report_late", "=late"), Notice("w", "]]>"), Notice("grader_exit", "x"))
    )
    (row,) = rows(as_csv([Entry(job(), odd)]))
    assert (row["signs"], row["warnings"]) == ("report_late grader_exit", "report_late: =late; w: ]]>; grader_exit: x")
    (found,) = json.loads(as_json([Entry(job(), odd)]))["jobs"]
    assert found["signs"] == ["report_late", "grader_exit"]
    case = ET.fromstring(as_junit([Entry(job(), odd)])).find("*/testcase")
    assert case is not None
    assert [each.get("value") for each in case.iter("property") if each.get("name") == "sign"] == found["signs"]
    said = "sign of tampering [report_late]: =late\nwarning [w]: ]]>\nsign of tampering [grader_exit]: x"
    assert case.findtext("system-out") == said
    assert rows(as_csv([Entry(job(trust=Trust.SEPARATED), odd)]))[0]["signs"] == ""


def test_what_has_no_score_has_none_and_never_a_zero() -> None:
    entries = [Entry(DEAD), Entry(SLOW), Entry(WAITS)]
    for row in rows(as_csv(entries)):
        assert (row["score"], row["percent"]) == ("", "")
    assert [row["state"] for row in rows(as_csv(entries))] == ["dead", "done", "queued"]
    for found in json.loads(as_json(entries))["jobs"]:
        assert found["score"] is found["percent"] is None
    assert all(each.get("name") != "score" for each in ET.fromstring(as_junit(entries)).iter("property"))


def test_a_zero_that_was_earned_stays_one() -> None:
    (row,) = rows(as_csv([Entry(job(score=0.0))]))
    assert (row["score"], row["percent"]) == ("0", "0")
    (row,) = rows(as_csv([Entry(job(score=0.0, max_score=0.0))]))
    assert (row["score"], row["percent"]) == ("0", "")


def test_text_is_no_formula_and_numbers_are_numbers() -> None:
    (row,) = rows(as_csv([Entry(job(student="=1+1", title="-2", score=-1.5, max_score=None))]))
    assert (row["student"], row["title"], row["score"]) == ("'=1+1", "-2", "-1.5")
    (row,) = rows(as_csv([Entry(DEAD)]))
    assert row["reason"] == '\'=cmd("make")'


def test_excel_gets_its_mark_once() -> None:
    plain, marked = as_csv([Entry(SLOW)]), as_csv([Entry(SLOW)], excel=True)
    assert marked == b"\xef\xbb\xbf" + plain


def test_the_newest_graded_job_counts() -> None:
    first, second = job(1), job(5)
    found = latest([first, DEAD, SLOW, WAITS, second])
    assert [each.id for each in found.jobs] == ["j2", "j3", "j4", "j5"]
    assert found.overtaken == ()


@pytest.mark.parametrize("state", [State.DEAD, State.QUEUED, State.RUNNING, State.CANCELLED])
def test_a_grade_stands_until_the_next_one(state: State) -> None:
    newer = job(9, state=state)
    found = latest([job(1), newer])
    assert [each.id for each in found.jobs] == ["j1"]
    assert found.overtaken == (newer,)


def test_students_of_two_courses_or_assignments_are_two() -> None:
    assert len(latest([job(1), job(2, course="b"), job(3, assignment="hw2")]).jobs) == 3


def test_what_a_gradebook_needs_besides_is_in_json() -> None:
    (found, without) = json.loads(as_json([Entry(job(course="cs1"), RESULT), Entry(WAITS)]))["jobs"]
    keys = ("course", "percent", "cpu", "memory", "sandbox", "image_digest")
    assert [found[key] for key in keys] == ["cs1", 87.5, 0.5, 1 << 20, "docker", "sha256:ab"]
    assert [without[key] for key in keys] == ["", None, None, None, "", ""]
    assert [each["id"] for each in found["warnings"]] == ["w"]


def test_a_junit_case_names_its_assignment() -> None:
    root = ET.fromstring(as_junit([Entry(job(assignment="a\x1b")), Entry(job(2, assignment="b"))]))
    assert [(suite.get("name"), suite[0].get("classname")) for suite in root] == [(r"a\x1b",) * 2, ("b",) * 2]
    assert [case.get("time") for case in root.iter("testcase")] == ["1.235", "1.235"]


def test_junit_tells_a_student_from_us() -> None:
    root = ET.fromstring(as_junit([Entry(job(student="\x1b&<")), Entry(DEAD), Entry(SLOW), Entry(WAITS)]))
    (suite,) = root
    assert {key: suite.get(key) for key in ("name", "tests", "failures", "errors", "skipped")} == {
        "name": "hw", "tests": "4", "failures": "1", "errors": "1", "skipped": "1",
    }  # fmt: skip
    ada, bob, eve, zoe = suite
    assert ada.get("name") == r"\x1b&<"
    assert {each.get("name"): each.get("value") for each in ada.iter("property")} == {
        "id": "j1", "score": "7", "max_score": "8", "trust": "shared",
    }  # fmt: skip
    assert [child.tag for child in ada] == ["properties"]
    assert [(case.find(tag) is not None) for case, tag in ((bob, "error"), (eve, "failure"), (zoe, "skipped"))] == [
        True,
        True,
        True,
    ]
    assert (eve.find("failure").get("type"), bob.find("error").get("type")) == ("time_limit", "command")  # type: ignore[union-attr]


def test_no_time_is_no_text() -> None:
    assert iso(None) == ""


def test_what_was_handed_in_last_counts() -> None:
    old, new = job(1, handed=9.0, handed_seq=3), job(2)
    assert latest([old, new]).jobs == (old,)
    assert latest([old, new, job(4)]).jobs == (job(4),)
    dead = job(5, state=State.DEAD)
    assert (latest([old, dead]).jobs, latest([old, dead]).overtaken) == ((old,), (dead,))
    again = job(2, state=State.DEAD, handed_seq=9)
    assert (latest([old, again, dead]).jobs, latest([old, again, dead]).overtaken) == ((old,), (again,))


# --- files --------------------------------------------------------------------------------------


def test_a_file_is_written_whole_and_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "grades.csv"
    write_whole(path, b"one", "-o FILE")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    write_whole(path, b"two", "-o FILE")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "grades.csv")
    write_whole(tmp_path / "link", b"one", "-o FILE")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "grades.csv").read_bytes() == b"one"


def test_what_is_no_file_is_written_to() -> None:
    write_whole(Path("/dev/null"), b"one", "-o FILE")
    assert Path("/dev/null").is_char_device()


def test_a_write_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "grades.csv"
    path.write_bytes(b"old")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError) as caught:
        write_whole(path, b"new", "-o FILE")
    hint = f"free some space (df -h {path}), or choose another -o FILE"
    assert (caught.value.id, caught.value.hint) == ("output", hint)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write_whole(tmp_path, b"", "-o FILE")
    assert caught.value.id == "output"
    with pytest.raises(ConfigError):
        write_whole(tmp_path / "no" / "such", b"", "-o FILE")
