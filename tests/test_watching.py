"""What a worker makes of the first jobs of an assignment."""

from __future__ import annotations

from pathlib import Path

import pytest

from minitango import Assignment, Engine, Step
from minitango.cli import doubts
from minitango.cli.handins import How, gather, origin
from minitango.cli.settings import Settings
from minitango.cli.watching import Watch
from minitango.job import Job, State
from minitango.sandbox import End
from minitango.testing import FakeRun
from tests.support import PATIENCE, assignment, open_engine, report, submission

SETTINGS = Settings(".minitango", None, "auto", None, " --state here")
HANGS = assignment(
    steps=(Step(command=("run",), collect=("out",)), Step(command=("grade",), submission=False)), max_score=10
)


def inside(run: FakeRun) -> End:
    """The number in a hand-in is its score; one that says `hang` or `talk` takes all its time in the last step."""
    last = "MINITANGO_REPORT" in run.env
    text = next((file.data for path, file in run.files.items() if path.endswith("answer.py")), b"hang")
    if not last:
        run.print(b"begun\n")
        return End(exit_status=0)
    if text in (b"hang", b"talk"):
        if text == b"talk":
            run.print(b"case 1\n")
        return End(limit="wall")
    if text == b"blame":
        report(run, {"gradable": False, "format_errors": ["a ( is missing"]})
        return End(exit_status=0)
    report(run, {"score": int(text), "max_score": 10, "output": "x"})
    return End(exit_status=0)


class Course:
    """An engine, and the lines that its worker would say."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.watch = Watch(SETTINGS)

    def grade(self, texts: list[str], of: Assignment | None = None, begin: str = "s") -> list[str]:
        said: list[str] = []
        for n, text in enumerate(texts):
            handle = self.engine.submit(submission(f"{begin}{n}", text.encode(), of=of))
            handle.result(PATIENCE)
            said += self.watch.ended(self.engine.store, handle.job())
        return said


@pytest.fixture
def course(tmp_path: Path) -> Course:  # type: ignore[misc]
    with open_engine(tmp_path, inside, workers=1) as engine:
        yield Course(engine)


def test_five_are_told_of_once(course: Course) -> None:
    assert course.grade(["0"] * 4) == []
    first, *_, last = course.grade(["0"], begin="t")
    assert first.startswith("hw: the first 5 hand-ins ended alike, and earned nothing")
    own = "minitango run ASSIGNMENT MY-SOLUTION --student me --fresh --state here"
    assert last == f"  next: correct it, and try it: {own}", "nothing is queued that could be taken back"
    assert course.grade(["0"] * 9, begin="u") == []


@pytest.mark.parametrize("texts", [["0", "3", "0", "0", "0", "0", "0"], ["0", "talk", "0", "0", "0", "0", "0"]])
def test_a_point_or_another_reason_clears_the_grader(course: Course, texts: list[str]) -> None:
    assert course.grade(texts) == []


def test_a_grader_that_blames_the_hand_in_is_cleared(course: Course) -> None:
    of = assignment(format="prairielearn")
    assert course.grade(["blame"] * 6, of=of) == []
    assert doubts.blamed(course.engine.store, course.engine.jobs()[0])
    assert not doubts.blamed(course.engine.store, Job("none", 9, State.DONE, "hw", "ada", "", "", warnings=1))
    again = assignment(name="again", format="prairielearn")
    assert course.grade(["blame", *["2"] * 5], of=again) == [], "no score, for another reason"


def test_an_assignment_that_changed_is_another_one(course: Course) -> None:
    """What the old one gave does not clear it, and what is queued for the old one is not counted."""
    assert course.grade(["7"]) == []
    changed = assignment(steps=(Step(command=("grade",), env={"A": "1"}),))
    assert course.grade(["0"] * 5, of=changed)


def test_three_that_hang_without_a_word(course: Course) -> None:
    """The step before may have printed: it is the last one that hangs."""
    said = course.grade(["hang"] * 3, of=HANGS)
    assert said[0].startswith("hw: the first 3 hand-ins ended alike")
    jobs = course.engine.jobs()
    assert all(course.engine.store.outputs(job.id)[0].head for job in jobs)
    assert doubts.silent(course.engine.store, jobs[0])
    assert not doubts.silent(course.engine.store, Job("none", 9, State.DONE, "hw", "ada", "", ""))


def test_three_that_print_before_they_hang(course: Course) -> None:
    assert course.grade(["talk"] * 3) == []
    assert not doubts.silent(course.engine.store, course.engine.jobs()[0])


def test_where_an_assignment_was_is_noted_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ada.py").write_text("1")
    for student in (None, "ada"):
        (made,), _ = gather(assignment(), Path("hw"), [Path("ada.py")], How(student))
        job = Job("j", 1, State.DONE, "hw", "ada", "", "", labels=dict(made.labels))
        assert origin(job) == tmp_path / "hw"
    assert origin(Job("j", 1, State.DONE, "hw", "ada", "", "")) is None
