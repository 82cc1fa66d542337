"""What a student sees: nothing of a hidden test, nothing of ours, and no markup that is not the page's own."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitango.feedback import HandIn, is_page, page, student_view
from minitango.job import (
    Failure,
    Job,
    LeaderboardEntry,
    Notice,
    Outcome,
    Result,
    State,
    StepOutput,
    StepReport,
    TestResult,
    Usage,
)

SEEN = TestResult("adds", "1", 3, 4, "failed", "3 is not 4", tags=("tag-secret",), extra_data={"key": "extra-secret"})
HIDDEN = TestResult("name-secret", "number-secret", 5.25, 7.75, "failed", "output-secret", visibility="hidden")
SECRETS = ("secret", "5.25", "7.75", "8.25", "11.75", "sha256", "/srv")


def result(**changes: object) -> Result:
    values: dict[str, object] = {
        "outcome": Outcome.GRADED,
        "score": 8.25,
        "max_score": 11.75,
        "reason": "2 of 2 tests failed: secret",
        "tests": (SEEN, HIDDEN),
        "feedback": "well begun",
        "leaderboard": (LeaderboardEntry("secret", 8.25),),
        "extra_data": {"seed": "secret"},
        "warnings": (Notice("disk_full", "secret"),),
        "steps": (StepReport("run", exit_status=1, image="secret", image_digest="sha256:secret"),),
        "usage": Usage(wall=1),
        "sandbox": "docker-secret",
        "image_digest": "sha256:secret",
    }
    return Result(**{**values, **changes})  # type: ignore[arg-type]


def job(**changes: object) -> Job:
    values = {
        "id": "j1", "seq": 1, "state": State.DONE, "assignment": "hw", "student": "ada", "spec": "secret",
        "inputs": "secret", "title": "/srv/course/handins/ada.py",
    }  # fmt: skip
    return Job(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("visibility", ["hidden", "after_due_date", "after_published", "something-new"])
def test_nothing_of_a_test_that_is_not_visible(visibility: str) -> None:
    found = result(tests=(SEEN, msgspec.structs.replace(HIDDEN, visibility=visibility)))
    view = student_view(found)
    assert [test.name for test in view.tests] == ["adds"]
    assert view.tests[0].output == "3 is not 4"
    assert (view.score, view.max_score) == (None, None)
    text = page("ada", [HandIn(job(), found, (StepOutput("run", b"stdout-secret"),))])
    assert "3 of 4" in text
    assert "well begun" in text
    for shown in (msgspec.json.encode(view).decode(), text):
        for secret in SECRETS:
            assert secret not in shown, shown


def test_the_score_where_all_is_visible() -> None:
    view = student_view(result(tests=(SEEN,), score=3, max_score=4))
    assert (view.score, view.max_score) == (3, 4)
    assert "**Score: 3 of 4**" in page("ada", [HandIn(job(), result(tests=(SEEN,), score=3, max_score=4))])


def test_what_a_test_that_is_visible_shows() -> None:
    """All but its tags and data: whoever shows it elsewhere has to know what its texts are written in."""
    seen = msgspec.structs.replace(SEEN, output_format="md", name_format="html")
    view = student_view(result(tests=(seen,), feedback_format="md"))
    assert view.tests == (msgspec.structs.replace(seen, tags=(), extra_data={}),)
    assert (view.feedback, view.feedback_format) == ("well begun", "md")
    hidden = student_view(result(tests=(seen,), feedback_format="md", visibility="hidden"))
    assert (hidden.feedback, hidden.feedback_format) == ("", "text")


def test_a_report_that_is_hidden_as_a_whole() -> None:
    found = result(tests=(SEEN, HIDDEN), visibility="hidden", stdout_visibility="visible")
    text = page("ada", [HandIn(job(), found, (StepOutput("run", b"stdout-secret"),))])
    for word in (*SECRETS, "well begun"):
        assert word not in text
    assert "adds" in text, "its own word stands above the report's"
    assert student_view(result(tests=(SEEN,), visibility="after_published")).score is None


def test_output_is_shown_only_where_the_report_says_so() -> None:
    outputs = (StepOutput("run", b"hello\n", b"the end", 5000),)
    shown = page("ada", [HandIn(job(), result(stdout_visibility="visible"), outputs)])
    assert "hello" in shown
    assert "4.9 KiB left out" in shown
    assert "the end" in shown
    for visibility in ("hidden", "after_due_date", "after_published"):
        assert "hello" not in page("ada", [HandIn(job(), result(stdout_visibility=visibility), outputs)])


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.GRADED])
def test_why_there_is_no_score_in_words_of_our_own(outcome: Outcome) -> None:
    view = student_view(result(outcome=outcome, score=None, tests=()))
    assert view.reason
    assert "secret" not in view.reason
    assert f"**No score**: {view.reason}." in page(
        "ada", [HandIn(job(), result(outcome=outcome, score=None, tests=()))]
    )


def test_what_could_not_be_graded_is_nobodys_fault() -> None:
    dead = job(state=State.DEAD, failure=Failure("sandbox_failed", "secret", "secret"))
    text = page("ada", [HandIn(dead), HandIn(job(state=State.QUEUED))])
    assert "It is not graded, for no fault of yours." in text
    assert "It waits to be graded." in text
    assert "secret" not in text
    assert "0" not in text.replace("1970-01-01 00:00:00", "")


@given(st.text(max_size=200), st.text(max_size=200))
def test_a_page_is_known_by_its_beginning(student: str, assignment: str) -> None:
    text = page(student, [HandIn(job(assignment=assignment), result())])
    assert is_page(text[:4096])
    assert not is_page("\n" + text)
    assert not is_page(text.replace("Handed in", "Written"))


@given(st.text(max_size=60), st.text(max_size=60))
def test_texts_are_never_markup(name: str, output: str) -> None:
    found = result(tests=(TestResult(name, output=f"```\n# out\n{output}"),), feedback="<script>\n```\n[x](http://y)")
    text = page("# [me](x)\n<b>", [HandIn(job(), found)])
    inside = ""
    for line in text.split("\n"):
        if inside:
            inside = "" if line == inside else inside
        elif line.startswith("```"):
            inside = line.removesuffix("text")
        else:
            assert "<b>" not in line
            assert "](" not in line
            assert line.strip() != "# out"
    assert not inside
