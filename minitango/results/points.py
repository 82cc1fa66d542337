"""Scores as numbers: their bounds, what is above a maximum, and how many tests earned less than they could."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from minitango.job import Notice, TestResult
from minitango.text import ending, plural

MAX_POINTS: Final = 1e9
ROUNDING: Final = 1e-9


def within(total: float, most: float | None, bonus: bool) -> tuple[float | None, str]:
    """The score, or None and the reason. What only rounding puts out of bounds is put back."""
    if total < 0:
        if total > -ROUNDING:
            return 0.0, ""
        return None, f"the report's score is {total:g}, below 0"
    if most is not None and total > most and not bonus:
        if math.isclose(total, most, rel_tol=ROUNDING):
            return most, ""
        return None, f"the report's score of {total:g} is above the maximum of {most:g}, and there is no bonus"
    return total + 0.0, ""  # never -0.0


def tests_above(tests: tuple[TestResult, ...]) -> list[Notice]:
    """A word on tests above their own maximum, if there are any: it decides nothing."""
    above = [
        f"tests[{index}] scores {test.score:g} of {test.max_score:g}"
        for index, test in enumerate(tests)
        if test.score is not None
        and test.max_score is not None
        and test.score > test.max_score
        and not math.isclose(test.score, test.max_score, rel_tol=ROUNDING)
    ]
    if not above:
        return []
    more = f", and {len(above) - 1} more" if len(above) > 1 else ""
    return [Notice("test_above_max", f"a test is above its own maximum: {above[0]}{more}")]


def bad_ending(
    exit_status: int | None, signal: int | None, left: str, *, tests: Sequence[TestResult], short: bool = False
) -> list[Notice]:
    """A word where the last step `left` a report and ended badly all the same.

    An exit status that is no passed-on death is how runners say that a test failed: nothing is said where one did, or
    where the score is `short` of its maximum.
    """
    if exit_status == 0 and signal is None:
        return []
    told = exit_status is not None and exit_status <= 128
    if told and (short or any(failed(test) or partly(test) for test in tests)):
        return []
    return [Notice("grader_exit", f"the last step left {left}, but {ending(exit_status, signal)}")]


def failed(test: TestResult) -> bool:
    """Whether a test says that it failed, or earned nothing of what it could."""
    if test.status is not None:
        return test.status == "failed"
    return _short(test) and (test.score or 0.0) <= 0


def partly(test: TestResult) -> bool:
    """Whether a test that does not say how it ended earned some of its points, and not all."""
    return test.status is None and _short(test) and not failed(test)


def _short(test: TestResult) -> bool:
    return test.score is not None and test.max_score is not None and test.score < test.max_score


def tally(tests: Sequence[TestResult]) -> str:
    """`2 of 5 tests failed, 1 earned part of its points`; empty where all went well. Tests that say neither a score nor
    a status are not counted."""
    said = [test for test in tests if test.score is not None or test.status is not None]
    bad, part = sum(map(failed, said)), sum(map(partly, said))
    of = plural(len(said), "test")
    earned = f"earned part of {'its' if part == 1 else 'their'} points"
    if bad and part:
        return f"{bad} of {of} failed, {part} {earned}"
    if part:
        return f"{part} of {of} {earned}"
    return f"{bad} of {of} failed" if bad else ""
