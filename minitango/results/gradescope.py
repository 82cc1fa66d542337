"""Gradescope's results.json -> Report.

The format is that of Gradescope's documentation, "Autograder Specifications":
https://gradescope-autograders.readthedocs.io/en/latest/specs/. Where it is silent: a key with null counts as
absent, unknown keys are ignored, a known key of a wrong type or value refuses the whole report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from minitango.job import LeaderboardEntry, Notice, TestResult
from minitango.results import MAX_REPORT, Evidence, Report
from minitango.results.strict_json import Refused, check_text, check_texts, parse
from minitango.text import ending, human_size, one_line

MAX_ITEMS: Final = 10_000
"""Tests, entries of the leaderboard, tags of one test."""
MAX_POINTS: Final = 1e9
ROUNDING: Final = 1e-9

VISIBILITIES: Final = ("visible", "hidden", "after_due_date", "after_published")
TEXT_FORMATS: Final = ("text", "html", "simple_format", "md", "ansi")
STATUSES: Final = ("passed", "failed")
ORDERS: Final = ("asc", "desc")


def read(evidence: Evidence) -> Report:
    """The report's score, or None with the reason. Never raises, whatever the bytes are.

    A top-level score stands above the sum of the tests' scores. The maximum is the assignment's, else the sum of
    the tests' if each has one. A total below 0, or above the maximum without `bonus`, is no score; a single test
    may be above its own maximum, or below 0 as a penalty. A report beside a bad ending counts, with a warning.
    """
    how = ending(evidence.exit_status, evidence.signal)
    if evidence.report is None:
        return Report(None, evidence.max_score, f"no report: the last step {how} and left no results.json")
    if not evidence.report:
        return Report(None, evidence.max_score, f"the report results.json is empty (0 bytes); the last step {how}")
    if len(evidence.report) > MAX_REPORT:
        return Report(None, evidence.max_score, f"the report results.json is larger than {human_size(MAX_REPORT)}")
    warnings: list[Notice] = []
    if evidence.signal is not None or evidence.exit_status != 0:
        warnings.append(Notice("grader_exit", f"the last step left a report, but {how}"))
    try:
        return _report(_Object("", parse(evidence.report)), evidence, warnings)
    except Refused as refused:
        why = f"the report results.json cannot be used: {refused}"
        return Report(None, evidence.max_score, why, warnings=tuple(warnings))


def _report(top: _Object, evidence: Evidence, warnings: list[Notice]) -> Report:
    top.number("execution_time")  # the sandbox measures it; a wrong type refuses the report like any other
    visibility = top.choice("visibility", VISIBILITIES, "visible")
    output_format = top.choice("test_output_format", TEXT_FORMATS, "text")
    name_format = top.choice("test_name_format", TEXT_FORMATS, "text")
    tests = tuple(_test(test, visibility, output_format, name_format) for test in top.objects("tests"))

    total = top.points("score")
    if total is None:
        scores = [test.score for test in tests if test.score is not None]
        total = math.fsum(scores) if scores else None
    most = _sum_of_maxima(tests) if evidence.max_score is None else evidence.max_score
    score, reason = _within(total, most, evidence.bonus)
    if total is not None and most is not None and total > most and score is None:
        warnings.append(Notice("score_above_max", reason))
    if not evidence.bonus:
        warnings += _tests_above(tests)
    return Report(
        score=score,
        max_score=most,
        reason=reason,
        tests=tests,
        feedback=top.text("output"),
        feedback_format=top.choice("output_format", TEXT_FORMATS, "text"),
        visibility=visibility,
        stdout_visibility=top.choice("stdout_visibility", VISIBILITIES, "hidden"),
        leaderboard=tuple(_entry(entry) for entry in top.objects("leaderboard")),
        extra_data=top.mapping("extra_data"),
        warnings=tuple(warnings),
    )


def _test(test: _Object, visibility: str, output_format: str, name_format: str) -> TestResult:
    most = test.points("max_score")
    if most is not None and most < 0:
        raise Refused(f"{test.place('max_score')}: {most:g} is below 0")
    return TestResult(
        name=test.text("name"),
        number=test.label("number"),
        score=test.points("score"),
        max_score=most,
        status=test.choice("status", STATUSES, "") or None,
        output=test.text("output"),
        output_format=test.choice("output_format", TEXT_FORMATS, output_format),
        name_format=test.choice("name_format", TEXT_FORMATS, name_format),
        visibility=test.choice("visibility", VISIBILITIES, visibility),
        tags=test.texts("tags"),
        extra_data=test.mapping("extra_data"),
    )


def _entry(entry: _Object) -> LeaderboardEntry:
    name, value = entry.text("name"), entry.value("value")
    if value is None:
        raise Refused(f"{entry.place('value')}: missing")
    if not isinstance(value, str):
        value = entry.number("value")
    return LeaderboardEntry(name, value, entry.choice("order", ORDERS, "desc"))


def _sum_of_maxima(tests: tuple[TestResult, ...]) -> float | None:
    maxima = [test.max_score for test in tests if test.max_score is not None]
    return math.fsum(maxima) if maxima and len(maxima) == len(tests) else None


def _within(total: float | None, most: float | None, bonus: bool) -> tuple[float | None, str]:
    """The score, or None and the reason. What only rounding puts out of bounds is put back."""
    if total is None:
        return None, "the report results.json has no score: neither at the top nor in a test"
    if total < 0:
        if total > -ROUNDING:
            return 0.0, ""
        return None, f"the report's score is {total:g}, below 0"
    if most is not None and total > most and not bonus:
        if math.isclose(total, most, rel_tol=ROUNDING):
            return most, ""
        return None, f"the report's score of {total:g} is above the maximum of {most:g}, and there is no bonus"
    return total + 0.0, ""  # never -0.0


def _tests_above(tests: tuple[TestResult, ...]) -> list[Notice]:
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


class _Object:
    """A JSON object at a known place in the report: its fields by type, or Refused with the place."""

    def __init__(self, where: str, value: Any) -> None:
        self._where = where
        if not isinstance(value, dict):
            raise Refused(f"{where or 'the top level'}: expected an object, got {_kind(value)}")
        self._fields: dict[str, Any] = value

    def place(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def value(self, key: str) -> Any:
        """As it stands; None also where the key is absent."""
        return self._fields.get(key)

    def text(self, key: str) -> str:
        value = self.value(key)
        return "" if value is None else _text(self.place(key), value)

    def number(self, key: str) -> float | None:
        value = self.value(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused(f"{self.place(key)}: expected a number, got {_kind(value)}")
        return float(value)

    def points(self, key: str) -> float | None:
        value = self.number(key)
        if value is not None and abs(value) > MAX_POINTS:
            raise Refused(f"{self.place(key)}: {value:g} is out of range")
        return value

    def label(self, key: str) -> str:
        """A text, or a number as its text: autograders write "1.1" and 1."""
        value = self.value(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        return self.text(key)

    def choice(self, key: str, known: tuple[str, ...], default: str) -> str:
        if self.value(key) is None:
            return default
        value = self.text(key)
        if value not in known:
            raise Refused(f'{self.place(key)}: "{one_line(value, 40)}" is none of {", ".join(known)}')
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(_text(place, item) for place, item in self._items(key))

    def objects(self, key: str) -> Iterator[_Object]:
        return (_Object(place, item) for place, item in self._items(key))

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.value(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise Refused(f"{self.place(key)}: expected an object, got {_kind(value)}")
        try:
            check_texts(value)
        except Refused as refused:
            raise Refused(f"{self.place(key)}: {refused}") from None
        return value

    def _items(self, key: str) -> list[tuple[str, Any]]:
        value = self.value(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise Refused(f"{self.place(key)}: expected a list, got {_kind(value)}")
        if len(value) > MAX_ITEMS:
            raise Refused(f"{self.place(key)}: {len(value):,} items, at most {MAX_ITEMS:,}")
        return [(f"{self.place(key)}[{index}]", item) for index, item in enumerate(value)]


def _text(place: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Refused(f"{place}: expected a string, got {_kind(value)}")
    try:
        check_text(value)
    except Refused as refused:
        raise Refused(f"{place}: {refused}") from None
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return kinds[type(value)]
