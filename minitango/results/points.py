"""Scores as numbers: their bounds, and what is above a maximum."""

from __future__ import annotations

import math
from typing import Final

from minitango.job import Notice, TestResult

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
