"""PrairieLearn's results.json -> Report.

The format is that of its documentation, https://docs.prairielearn.com/externalGrading/#grading-results; what it refuses
and what it overlooks is as in its code: https://github.com/PrairieLearn/PrairieLearn/blob/master/ with
apps/grader-host/src/index.ts (`runJob`), apps/prairielearn/src/lib/externalGraderCommon.ts (`makeGradingResult`) and
externalGrader.ts (`processGradingResult`), and apps/prairielearn/elements/pl-external-grader-results/.
"""

from __future__ import annotations

import json
from typing import Any, Final

from minitango.job import Notice, TestResult
from minitango.results import Evidence, Report
from minitango.results.fields import MAX_ITEMS, kind_of, text_of
from minitango.results.points import MAX_POINTS, bad_ending
from minitango.results.strict_json import Bounds, Refused, parse
from minitango.text import ending, one_line

MAX_RESULTS: Final = 1 << 20
"""Bytes that PrairieLearn takes."""
_BOUNDS: Final = Bounds(depth=400, values=MAX_RESULTS, keys=MAX_RESULTS, infinite=True)
"""What else lies in results.json decides nothing there, whatever it is."""


class _OutOfRange(Refused):
    """The score is above the maximum."""


PERCENT: Final = 100.0
"""The maximum where the assignment has none: PrairieLearn shows scores in percent."""


def read(evidence: Evidence) -> Report:
    """`score` (0 to 1) of the maximum, or None with PrairieLearn's reason. Never raises, whatever the bytes are.

    The maximum is the assignment's, else 100. `gradable` false is no score, and so is a score that is not there, is no
    number, or is not from 0 to 1; `succeeded` false is 0, as it is there. A grader that ended badly is not read. Tests,
    texts and images decide nothing: what of them cannot be shown is left out with a warning. Of a key that stands twice
    the last value counts, as JavaScript reads it, with a warning.
    """
    most = PERCENT if evidence.max_score is None else evidence.max_score
    repeated: list[str] = []
    try:
        results = _results(evidence, repeated)
        share, reason = _score(results)
    except _OutOfRange as refused:
        return Report(None, most, str(refused), warnings=(Notice("score_above_max", str(refused)),))
    except Refused as refused:
        odd = bad_ending(evidence.exit_status, evidence.signal, "results.json", tests=()) if evidence.report else ()
        return Report(None, most, str(refused), warnings=tuple(odd))
    shown = _Shown()
    tests = shown.tests(results.get("tests"))
    errors = [f"Error: {shown.text('format_errors', _in_words(error))}" for error in _format_errors(results)]
    feedback = shown.joined(results, ("message", "output"), "")
    images = results.get("images")
    return Report(
        score=None if share is None else share * most,
        max_score=most,
        reason=reason,
        tests=tests,
        feedback="\n\n".join([*errors, feedback] if feedback else errors),
        feedback_format="ansi",
        extra_data={"images": len(images)} if isinstance(images, list) and images else {},
        warnings=(*_not_gradable(results), *_twice(repeated), *shown.warnings()),
    )


def _results(evidence: Evidence, repeated: list[str]) -> dict[str, Any]:
    """What the grader wrote, or Refused as PrairieLearn's grader host does it."""
    how = ending(evidence.exit_status, evidence.signal)
    if evidence.signal is not None or evidence.exit_status != 0:
        raise Refused(f"Grading failed! The last step {how}: PrairieLearn reads no results then")
    if evidence.report is None:
        raise Refused(f"Could not read grading results: the last step {how} and left no results.json")
    if len(evidence.report) > MAX_RESULTS:
        raise Refused("The grading results were larger than 1MB.")
    try:
        # a byte that is no UTF-8 is U+FFFD there: graders pass on what hand-ins print
        text = evidence.report.decode("utf-8", "replace").encode()
        results = parse(text, mark=False, repeated=repeated, bounds=_BOUNDS)
    except Refused as refused:
        raise Refused(f"Could not parse the grading results: {refused}") from None
    if not isinstance(results, dict):
        raise Refused(f"results did not contain 'results' object: results.json is {kind_of(results)}")
    return results


def _score(results: dict[str, Any]) -> tuple[float | None, str]:
    """From 0 to 1; None, or Refused, with the reason."""
    score = results.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise Refused(f'score "{one_line(_in_words(score), 40)}" was not a number.')
    if not _true(results, "gradable"):
        words = _format_errors(results) or [results.get("message")]
        why = "; ".join(one_line(_in_words(word), 100) for word in words[:3] if word)
        return None, f"Invalid, not gradable: {why}" if why else "Invalid, not gradable"
    if not _true(results, "succeeded"):
        return 0.0, "the grader says that it did not succeed: PrairieLearn gives 0 for that"
    if score is None:
        raise Refused("Error parsing external grading results: score was not provided.")
    if not 0 <= score <= 1:
        raise (_OutOfRange if score > 1 else Refused)(
            f"Error parsing external grading results: score is out of range. It is {score:g}, not from 0 to 1"
        )
    return score + 0.0, ""  # never -0.0


def _not_gradable(results: dict[str, Any]) -> tuple[Notice, ...]:
    """Said where the grader itself blames the hand-in for having no score."""
    if _true(results, "gradable") or not _format_errors(results):
        return ()
    return (Notice("not_gradable", "the grader says that it is the hand-in that cannot be graded"),)


def _twice(repeated: list[str]) -> tuple[Notice, ...]:
    if not repeated:
        return ()
    text = f'the key "{one_line(repeated[0], 40)}" stands twice in results.json, and the last value counts'
    return (Notice("key_twice", text),)


def _true(results: dict[str, Any], key: str) -> bool:
    """As JavaScript takes it. Absent and null are true."""
    value = results.get(key)
    return value is None or isinstance(value, list | dict) or bool(value)


def _format_errors(results: dict[str, Any]) -> list[Any]:
    errors = results.get("format_errors")
    if isinstance(errors, str):
        return [errors]
    return errors if isinstance(errors, list) else []


def _in_words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class _Shown:
    """The parts that are for people. What cannot be shown is noted, once, and left out."""

    def __init__(self) -> None:
        self._left_out = ""
        self._count = 0

    def warnings(self) -> tuple[Notice, ...]:
        if not self._count:
            return ()
        more = f", and {self._count - 1} more" if self._count > 1 else ""
        return (Notice("report_part", f"a part of results.json was left out: {self._left_out}{more}"),)

    def text(self, place: str, value: Any) -> str:
        """NUL is written as an escape, as PrairieLearn does it."""
        if value is None:
            return ""
        try:
            return text_of(place, value.replace("\0", "\\u0000") if isinstance(value, str) else value)
        except Refused as refused:
            self._leave_out(str(refused))
            return ""

    def joined(self, fields: dict[str, Any], keys: tuple[str, ...], place: str) -> str:
        texts = [self.text(f"{place}{key}", fields.get(key)) for key in keys]
        return "\n\n".join(text for text in texts if text)

    def tests(self, value: Any) -> tuple[TestResult, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            self._leave_out(f"tests: expected a list, got {kind_of(value)}")
            return ()
        if len(value) > MAX_ITEMS:
            self._leave_out(f"tests: {len(value):,} items, at most {MAX_ITEMS:,}")
        return tuple(self._test(f"tests[{n}]", test) for n, test in enumerate(value[:MAX_ITEMS]))

    def _test(self, place: str, test: Any) -> TestResult:
        if not isinstance(test, dict):
            self._leave_out(f"{place}: expected an object, got {kind_of(test)}")
            return TestResult()
        return TestResult(
            name=self.text(f"{place}.name", test.get("name")),
            score=self._points(f"{place}.points", test.get("points")),
            max_score=self._points(f"{place}.max_points", test.get("max_points")),
            output=self.joined(test, ("description", "message", "output"), f"{place}."),
            output_format="ansi",
        )

    def _points(self, place: str, value: Any) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._leave_out(f"{place}: expected a number, got {kind_of(value)}")
            return None
        if abs(value) > MAX_POINTS:
            self._leave_out(f"{place}: {value:g} is out of range")
            return None
        return float(value)

    def _leave_out(self, what: str) -> None:
        self._left_out = self._left_out or what
        self._count += 1
