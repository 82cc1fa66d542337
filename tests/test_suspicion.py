"""Do these results look like a broken grader?"""

from __future__ import annotations

from typing import Any

import pytest

from minitango.cli.suspicion import Suspicion, earned_nothing, full_marks, suspicion
from minitango.job import Failure, Job, Outcome, State


def job(outcome: Outcome | None = Outcome.GRADED, **changes: Any) -> Job:
    values: dict[str, Any] = {
        "state": State.DONE,
        "score": 0.0 if outcome is Outcome.GRADED else None,
        "max_score": 10.0,
    }
    values |= {"id": "j", **changes}
    return Job(seq=1, assignment="hw", student="ada", spec="", inputs="", outcome=outcome, **values)


def dead(id: str = "command") -> Job:
    return job(None, state=State.DEAD, failure=Failure(id, "words that may differ"))


ZERO = job(reason="all failed")
NOTHING = job(Outcome.NO_SCORE, reason="no report")
NUMBERED = [job(Outcome.NO_SCORE, reason=f"make[{n}]: *** /tmp/tmp{n}a: Error after 0.{n} s") for n in range(5)]
CANCELLED = job(None, state=State.CANCELLED)


@pytest.mark.parametrize(
    ("ended", "count"),
    [
        ([ZERO] * 5, 5),
        ([NOTHING] * 5, 5),
        (NUMBERED, 5),
        ([job(Outcome.TIME_LIMIT, reason="slow")] * 7, 7),
        ([dead()] * 5, 5),
        ([CANCELLED, *[ZERO] * 5], 5),
        ([ZERO] * 4, 0),
        ([CANCELLED, *[ZERO] * 4], 0),
        ([], 0),
        ([*[ZERO] * 4, NOTHING], 0),
        ([*[ZERO] * 4, job(reason="another")], 0),
        ([*[ZERO] * 9, job(score=1.0)], 0),
        ([*[ZERO] * 9, dead()], 0),
        ([*[dead()] * 4, dead("disk_too_small")], 0),
        ([job(score=10.0)] * 5, 0),
        ([job(max_score=None)] * 5, 0),
        ([job(max_score=None, reason="2 of 2 tests failed")] * 5, 5),
    ],
)
def test_suspicion(ended: list[Job], count: int) -> None:
    found = suspicion(ended, enough=5)
    assert (found.count if found else 0) == count
    assert found is None or found.job is not CANCELLED


def test_a_grade_of_before_clears_the_grader_and_is_no_evidence() -> None:
    assert suspicion([ZERO] * 4, [ZERO] * 4, enough=5) is None
    assert suspicion([ZERO] * 5, [ZERO, dead(), CANCELLED, NOTHING], enough=5)
    assert suspicion([ZERO] * 5, [job(score=0.5)], enough=5) is None


def test_a_grader_that_blames_the_hand_ins_is_cleared_by_that() -> None:
    asked: list[str] = []

    def blamed(one: Job) -> bool:
        asked.append(one.id)
        return one.id == "blamed"

    theirs = job(Outcome.NO_SCORE, reason="no report", id="blamed")
    assert suspicion([NOTHING] * 4 + [theirs], enough=5, blamed=blamed) is None
    assert suspicion([NOTHING] * 5, [theirs], enough=5, blamed=blamed) is None
    assert suspicion([NOTHING] * 5, enough=5, blamed=blamed)
    asked.clear()
    assert suspicion([NOTHING] * 4, enough=5, blamed=blamed) is None
    assert not asked, "only where it matters"


HUNG = job(Outcome.TIME_LIMIT, reason="step 'grade' took longer than 60 s")


@pytest.mark.parametrize(
    ("ended", "enough", "count"),
    [
        ([HUNG] * 3, 5, 3),
        ([CANCELLED, *[HUNG] * 4], 5, 4),
        ([HUNG] * 2, 5, 0),
        ([HUNG] * 2, 2, 2),
        ([HUNG, HUNG, ZERO], 5, 0),
        ([HUNG, HUNG, job(Outcome.TIME_LIMIT, reason="step 'run' took longer than 60 s")], 5, 0),
        ([NOTHING] * 4, 5, 0),
    ],
)
def test_three_that_hang_without_a_word_are_enough(ended: list[Job], enough: int, count: int) -> None:
    found = suspicion(ended, enough=enough, silent=lambda job: True)
    assert (found.count if found else 0) == count


def test_who_prints_before_it_hangs_is_more_likely_a_student() -> None:
    asked = iter([True, True, False])
    assert suspicion([HUNG] * 3, enough=5, silent=lambda job: next(asked)) is None
    assert suspicion([HUNG] * 5, enough=5, silent=lambda job: False)
    assert suspicion([HUNG] * 3, [job(score=1.0)], enough=5, silent=lambda job: True) is None


def test_who_is_suspected() -> None:
    assert Suspicion(5, ZERO).whose == "probably your grader, not your students"
    assert Suspicion(5, dead()).whose == "probably the assignment or this machine, not your students"


def test_what_was_cancelled_did_not_earn_nothing() -> None:
    assert not earned_nothing(CANCELLED)


@pytest.mark.parametrize(
    ("ended", "full"),
    [
        (job(score=10.0), True),
        (job(score=9.0), False),
        (job(score=3.0, max_score=None), True),
        (job(score=0.0, max_score=None), False),
        (job(score=0.0, max_score=0.0), True),
        (job(score=10.0, warnings=1), False),
        (NOTHING, False),
    ],
)
def test_whether_there_is_anything_to_ask(ended: Job, full: bool) -> None:
    """A 0 of an unknown maximum may be a fault, anything above it may be all."""
    assert full_marks(ended) is full
