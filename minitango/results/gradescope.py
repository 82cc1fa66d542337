"""Gradescope's results.json -> Report.

The format is that of Gradescope's documentation, "Autograder Specifications":
https://gradescope-autograders.readthedocs.io/en/latest/specs/, and what Gradescope's own library writes:
https://github.com/gradescope/gradescope-utils. As its harness reads the file, bytes that are no UTF-8, and NUL, are
U+FFFD. Where they are silent: a key with null counts as absent, unknown keys are ignored, points may be a text that is
a number, a known key of a wrong type or value refuses the whole report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

from minitango.job import LeaderboardEntry, Notice, TestResult
from minitango.results import MAX_REPORT, Evidence, Report
from minitango.results.fields import Object, text_of
from minitango.results.points import bad_ending, tests_above, within
from minitango.results.strict_json import Refused, mended, parse
from minitango.text import ending, human_size, one_line

VISIBILITIES: Final = ("visible", "hidden", "after_due_date", "after_published")
TEXT_FORMATS: Final = ("text", "html", "simple_format", "md", "ansi")
STATUSES: Final = ("passed", "failed")
ORDERS: Final = ("asc", "desc")
_ONCE: Final = ("score", "max_score", "tests", "visibility")
"""Keys that decide: a grader that glues its report together may let a hand-in's output write them once more."""


def read(evidence: Evidence) -> Report:
    """The report's score, or None with the reason. Never raises, whatever the bytes are.

    A top-level score stands above the sum of the tests' scores. The maximum is the assignment's, else the sum of
    the tests' if each has one. A total below 0, or above the maximum without `bonus`, is no score; a single test
    may be above its own maximum, or below 0 as a penalty. A report beside a bad ending counts, with a warning; that a
    runner exits with an error where a test failed is the rule. Of a key that stands twice the last value counts, with a
    warning; one that decides what is earned or shown refuses the report.
    """
    how = ending(evidence.exit_status, evidence.signal)
    if evidence.report is None:
        return Report(None, evidence.max_score, f"no report: the last step {how} and left no results.json")
    if not evidence.report:
        return Report(None, evidence.max_score, f"the report results.json is empty (0 bytes); the last step {how}")
    if len(evidence.report) > MAX_REPORT:
        return Report(None, evidence.max_score, f"the report results.json is larger than {human_size(MAX_REPORT)}")
    repeated: list[str] = []
    try:
        top = mended(parse(_read(evidence.report), repeated=repeated))
        return _report(Object("", top), evidence, _twice(repeated))
    except Refused as refused:
        why = f"the report results.json cannot be used: {refused}"
        warnings = bad_ending(evidence.exit_status, evidence.signal, "a report", tests=())
        return Report(None, evidence.max_score, why, warnings=tuple(warnings))


def _read(report: bytes) -> bytes:
    """What Gradescope's harness parses of it: graders pass on what hand-ins print."""
    return report.decode("utf-8", "replace").replace("\0", "\ufffd").encode()


def _twice(repeated: list[str]) -> list[Notice]:
    if not repeated:
        return []
    for key in repeated:
        if key in _ONCE:
            raise Refused(f'the key "{key}" stands twice in one object')
    text = f'the key "{one_line(repeated[0], 40)}" stands twice in results.json, and the last value counts'
    return [Notice("key_twice", text)]


def _report(top: Object, evidence: Evidence, warnings: list[Notice]) -> Report:
    # `execution_time` is not read: the sandbox measures it, and gradescope-utils writes it as a string
    visibility = top.choice("visibility", VISIBILITIES, "visible")
    output_format = top.choice("test_output_format", TEXT_FORMATS, "text")
    name_format = top.choice("test_name_format", TEXT_FORMATS, "text")
    tests = tuple(_test(test, visibility, output_format, name_format) for test in top.objects("tests"))

    total = top.points("score")
    if total is None:
        scores = [test.score for test in tests if test.score is not None]
        total = math.fsum(scores) if scores else None
    most = _sum_of_maxima(tests) if evidence.max_score is None else evidence.max_score
    if total is None:
        score, reason = None, "the report results.json has no score: neither at the top nor in a test"
    else:
        score, reason = within(total, most, evidence.bonus)
    # nobody forges nothing: graders end so where what was handed in does not compile
    short = score is not None and (score < most if most is not None else score == 0)
    warnings += bad_ending(evidence.exit_status, evidence.signal, "a report", tests=tests, short=short)
    if total is not None and most is not None and total > most and score is None:
        warnings.append(Notice("score_above_max", reason))
    if not evidence.bonus:
        warnings += tests_above(tests)
    return Report(
        score=score,
        max_score=most,
        reason=reason,
        tests=tests,
        feedback=top.text("output"),
        feedback_format=top.choice("output_format", TEXT_FORMATS, "simple_format"),
        visibility=visibility,
        stdout_visibility=top.choice("stdout_visibility", VISIBILITIES, "hidden"),
        leaderboard=tuple(_leaderboard(top.objects("leaderboard"))),
        extra_data=top.mapping("extra_data"),
        warnings=tuple(warnings),
    )


def _test(test: Object, visibility: str, output_format: str, name_format: str) -> TestResult:
    most = test.points("max_score")
    if most is not None and most < 0:
        raise Refused(f"{test.place('max_score')}: {most:g} is below 0")
    return TestResult(
        name=test.label("name"),
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


def _leaderboard(entries: Iterable[Object]) -> Iterator[LeaderboardEntry]:
    """Without those that have no value: gradescope-utils writes null where a test failed before it set one."""
    for entry in entries:
        name, value = entry.text("name"), entry.value("value")
        if value is None:
            continue
        value = text_of(entry.place("value"), value) if isinstance(value, str) else entry.number("value")
        assert value is not None
        yield LeaderboardEntry(name, value, entry.choice("order", ORDERS, "desc"))


def _sum_of_maxima(tests: tuple[TestResult, ...]) -> float | None:
    """None unless each test that counts has one. A test with neither score nor maximum is there for information."""
    counting = [test for test in tests if test.score is not None or test.max_score is not None]
    maxima = [test.max_score for test in counting if test.max_score is not None]
    return math.fsum(maxima) if maxima and len(maxima) == len(counting) else None
