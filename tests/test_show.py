"""How jobs are shown: numbers, notes, and tables that fit."""

from __future__ import annotations

import os

import pytest
from rich.cells import cell_len

from minitango.cli import show
from minitango.cli.progress import _names
from minitango.job import Failure, Job, Notice, Outcome, State


def job(**changes: object) -> Job:
    values = {"id": "j1", "seq": 1, "state": State.DONE, "assignment": "hw", "student": "ada", "spec": "", "inputs": ""}
    return Job(**{**values, **changes})  # type: ignore[arg-type]


def test_scores() -> None:
    assert [show.number(value) for value in (7, 7.5, 1 / 3, 0, 1e6, -1.5)] == [
        "7",
        "7.5",
        "0.33",
        "0",
        "1000000",
        "-1.5",
    ]
    assert (show.score(7, 10), show.score(7, None), show.score(None, 10)) == ("7/10", "7", "-")


def test_a_dead_job_is_never_taken_for_a_grade() -> None:
    dead = job(state=State.DEAD, failure=Failure("command", "make is not there"))
    assert show.outcome(dead) == "NOT GRADED"
    assert show.note(show.Seen(dead)) == "make is not there"
    body = show.as_json(show.Seen(dead))
    assert (body["score"], body["error"]) == (None, {"id": "command", "message": "make is not there", "hint": ""})


def test_a_note_has_the_reason_and_the_first_warning() -> None:
    done = job(outcome=Outcome.TIME_LIMIT, reason="too slow")
    one, two = Notice("a", "first"), Notice("b", "second")
    assert show.note(show.Seen(done)) == "too slow"
    assert show.note(show.Seen(done, (one,))) == "too slow; warning: first"
    assert show.note(show.Seen(done, (one, two))) == "too slow; warning: first (and 1 more)"


def test_columns_are_aligned_by_what_a_terminal_shows() -> None:
    lines = show.table(["student", "score"], [["日本", "7"], ["new\nline", "10/10"]]).splitlines()
    assert lines == ["student    score", "日本           7", "new\\nline  10/10"]


@pytest.mark.parametrize("columns", [60, 80, 110])
def test_a_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((columns, 24)))
    rows = [["x" * 200, "graded", "10/10", "n" * 300], ["日本語" * 30, "time_limit", "-", ""]]
    text = show.table(["student", "outcome", "score", "note"], rows, fixed=("outcome", "score"))
    assert max(cell_len(line) for line in text.splitlines()) <= columns
    assert "time_limit" in text
    assert "10/10" in text


def test_nothing_is_cut_where_nobody_looks() -> None:
    assert "n" * 300 in show.table(["student", "note"], [["ada", "n" * 300]])


def test_names_of_running_students_fit() -> None:
    assert _names([], 20) == ""
    assert _names(["ada", "bob"], 20) == "ada, bob"
    assert _names(["ada", "bob", "eve", "zoe"], 16) == "ada, bob +2"
    assert _names(["x" * 99], 5) == "x" * 15 + "…"
