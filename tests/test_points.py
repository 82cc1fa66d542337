"""How many tests failed, and how many earned a part."""

from __future__ import annotations

import pytest

from minitango.job import TestResult
from minitango.results.points import failed, partly, tally


def a_test(score: float | None = None, most: float | None = None, status: str | None = None) -> TestResult:
    return TestResult("t", score=score, max_score=most, status=status)


FULL, PART, NONE, BELOW = a_test(5, 5), a_test(2, 5), a_test(0, 5), a_test(-1, 5)
PASSED, FAILED, MUTE, OPEN = a_test(2, 5, "passed"), a_test(2, 5, "failed"), a_test(), a_test(0)


@pytest.mark.parametrize(
    ("tests", "text"),
    [
        ([], ""),
        ([FULL, PASSED, MUTE, OPEN], ""),
        ([NONE], "1 of 1 test failed"),
        ([NONE, FULL, MUTE], "1 of 2 tests failed"),
        ([BELOW, FAILED, PASSED], "2 of 3 tests failed"),
        ([PART, FULL], "1 of 2 tests earned part of its points"),
        ([PART, PART], "2 of 2 tests earned part of their points"),
        ([NONE, PART, FULL, FULL], "1 of 4 tests failed, 1 earned part of its points"),
        ([NONE, PART, PART], "1 of 3 tests failed, 2 earned part of their points"),
    ],
)
def test_partial_credit_is_no_failure(tests: list[TestResult], text: str) -> None:
    assert tally(tests) == text


def test_a_test_is_one_or_the_other() -> None:
    assert [failed(each) for each in (FULL, PART, NONE, BELOW, PASSED, FAILED, MUTE, OPEN)] == [
        False, False, True, True, False, True, False, False,
    ]  # fmt: skip
    assert [partly(each) for each in (FULL, PART, NONE, BELOW, PASSED, FAILED, MUTE, OPEN)] == [
        False, True, False, False, False, False, False, False,
    ]  # fmt: skip
