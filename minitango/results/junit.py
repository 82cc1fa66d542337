"""JUnit XML, as test runners of every language write it -> Report.

There is no standard. What is read here is what the writers have in common
(https://github.com/testmoapp/junitxml, https://llg.cubic.org/docs/junit/), the words of Maven's Surefire for tests that
were run again (https://maven.apache.org/surefire/maven-surefire-plugin/xsd/surefire-test-report.xsd), and those of
GoogleTest and CTest for tests that were not run.
"""

from __future__ import annotations

import re
from typing import Final
from xml.parsers import expat

from minitango.job import Notice, TestResult
from minitango.results import MAX_REPORT, Evidence, Report
from minitango.results.fields import MAX_ITEMS
from minitango.results.points import bad_ending
from minitango.results.strict_json import Refused
from minitango.text import ending, human_size, one_line

MAX_DEPTH: Final = 64
MAX_ELEMENTS: Final = 200_000
"""Of all files together."""
MAX_OUTPUT: Final = 16 << 10
"""Characters that are kept of what one test says."""
MAX_NAME: Final = 500
ENCODINGS: Final = ("utf-8", "utf8", "utf-16", "us-ascii", "ascii", "iso-8859-1", "windows-1252")

NOT_PASSED: Final = ("failure", "error", "skipped")
SPOKEN: Final = (*NOT_PASSED, "system-out", "system-err")
SUITES: Final = ("testsuites", "testsuite")
RAN: Final = ("", "run", "completed", "passed", "pass", "success", "successful", "succeeded", "ok")
"""What `status` and `result` of a test that passed may be."""
DID_NOT_RUN: Final = ("notrun", "skipped", "suppressed", "disabled", "failed", "fail", "failure", "error")

_COUNT: Final = re.compile(r"\s*[0-9]{1,9}\s*")


def read(evidence: Evidence) -> Report:
    """The share of all tests that passed, of the maximum. Never raises, whatever the bytes are.

    Every test of every file counts the same. One that failed, broke or was skipped earns nothing, and counts. The
    maximum is the assignment's, else the number of tests. One file that cannot be read, or no test at all, is no score:
    what is missing may have been a failure.
    """
    how = ending(evidence.exit_status, evidence.signal)
    if not evidence.reports:
        return Report(None, evidence.max_score, f"no report: the last step {how} and left no *.xml")
    if sum(len(data) for _, data in evidence.reports) > MAX_REPORT:
        return Report(None, evidence.max_score, f"the reports are larger than {human_size(MAX_REPORT)}")
    found = _Found()
    for path, data in evidence.reports:
        try:
            _File(found).parse(data)
            found.file_ends(path)
        except Refused as refused:
            why = f"the report {one_line(path, 60)} cannot be used: {refused}"
            return Report(None, evidence.max_score, why)
    if not found.tests:
        return Report(None, evidence.max_score, f"no test is in the report: the last step {how}")
    passed = sum(test.status == "passed" for test in found.tests)
    found.warnings += bad_ending(evidence.exit_status, evidence.signal, "a report", tests=found.tests)
    most = float(len(found.tests)) if evidence.max_score is None else evidence.max_score
    return Report(
        score=most * (passed / len(found.tests)),
        max_score=most,
        tests=tuple(found.tests),
        warnings=tuple(found.warnings),
    )


class _Found:
    """What all files hold together."""

    def __init__(self) -> None:
        self.tests: list[TestResult] = []
        self.warnings: list[Notice] = []
        self.elements = 0
        self._before = 0
        self._verdicts: dict[str, tuple[bool, str]] = {}

    def file_ends(self, path: str) -> None:
        """What came since the last one is of this file. Two files need not speak of different tests: some writers say
        all twice. But where they do not say the same, one of them is not the runner's."""
        said: dict[str, bool] = {}
        for test in self.tests[self._before :]:
            said[test.name] = said.get(test.name, True) and test.status == "passed"
        self._before = len(self.tests)
        for name, passed in said.items():
            before, other = self._verdicts.setdefault(name, (passed, path))
            if before != passed:
                failed, good = (path, other) if before else (other, path)
                text = f"{one_line(name, 60)} failed in {one_line(failed, 60)}, and passed in {one_line(good, 60)}"
                self.warn(Notice("test_twice", text))

    def warn(self, notice: Notice) -> None:
        """The first of each id."""
        if all(warning.id != notice.id for warning in self.warnings):
            self.warnings.append(notice)


class _Suite:
    """An open suite: what it says of itself, and how many of its tests did not pass."""

    def __init__(self, attributes: dict[str, str]) -> None:
        counts = [attributes.get(key, "") for key in ("failures", "errors")]
        self.name = attributes.get("name", "")
        self.claims = sum(int(count) for count in counts if _COUNT.fullmatch(count))
        tests = attributes.get("tests", "")
        self.claimed_tests = int(tests) if _COUNT.fullmatch(tests) else 0
        self.tests = 0
        self.not_passed = 0


class _Case:
    """An open testcase."""

    def __init__(self, attributes: dict[str, str]) -> None:
        name, classname = attributes.get("name", ""), attributes.get("classname", "")
        self.name = f"{classname}.{name}" if classname else name
        self.states = [attributes.get(key, "").strip().lower() for key in ("status", "result")]
        self.passed = all(state in RAN for state in self.states)
        self._said: list[str] = []
        self._room = MAX_OUTPUT

    def say(self, text: str) -> None:
        if self._room > 0:
            self._said.append(text[: self._room])
            self._room -= len(text)
            if self._room < 0:
                self._said.append("\n...")

    def result(self) -> TestResult:
        return TestResult(
            name=self.name if len(self.name) <= MAX_NAME else self.name[:MAX_NAME] + "...",
            status="passed" if self.passed else "failed",
            score=1.0 if self.passed else 0.0,
            max_score=1.0,
            output="".join(self._said).strip(),
        )


class _File:
    """One file on its way through the parser. Names of elements are looked at without their prefix."""

    def __init__(self, found: _Found) -> None:
        self._found = found
        self._path: list[str] = []
        self._suites: list[_Suite] = []
        self._case: _Case | None = None
        self._spoken: str | None = None
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.XmlDeclHandler = self._declaration
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text

    def parse(self, data: bytes) -> None:
        """Refused: what is no XML, has a document type, or is no report of tests."""
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as error:
            # expat counts columns from 0
            what = expat.ErrorString(error.code)
            raise Refused(f"not XML at line {error.lineno}, column {error.offset + 1}: {what}") from None
        except ValueError as error:  # an encoding that cannot be, or a string that Python cannot hold
            if isinstance(error, Refused):
                raise
            raise Refused(f"not XML: {one_line(str(error), 80)}") from None

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.lower() not in ENCODINGS:
            raise Refused(f'its encoding "{one_line(encoding, 20)}" is none of {", ".join(ENCODINGS)}')

    def _doctype(self, name: str, system: str | None, public: str | None, subset: bool) -> None:
        # without one there are no entities but the five of XML: none that grow, none that read files
        raise Refused("it has a document type")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        self._found.elements += 1
        if self._found.elements > MAX_ELEMENTS:
            raise Refused(f"more than {MAX_ELEMENTS:,} elements")
        if len(self._path) >= MAX_DEPTH:
            raise Refused(f"it is nested deeper than {MAX_DEPTH} levels")
        parent = self._path[-1] if self._path else ""
        if not parent and name not in SUITES:
            raise Refused(f"its root is <{one_line(name, 40)}>, not <testsuites> or <testsuite>")
        if name in (*SUITES, "testcase") and parent and parent not in SUITES:
            raise Refused(f"a <{name}> in a <{one_line(parent, 40)}>")
        self._path.append(name)
        if name in SUITES:
            self._suites.append(_Suite(attributes))
        elif name == "testcase":
            self._case = _Case(attributes)
        elif (
            self._case is not None
            and self._spoken is None
            and name in SPOKEN
            and (parent == "testcase" or name in NOT_PASSED)
        ):
            self._spoken = name
            if name in NOT_PASSED:
                self._case.passed = False
            self._case.say(f"\n{attributes['message']}\n" if attributes.get("message") else "\n")
        elif name in ("failure", "error") and parent in SUITES:
            self._found.warn(Notice("test_count", f"a suite has a <{name}> that is in none of its tests"))

    def _end(self, name: str) -> None:
        name = self._path.pop()
        if name in SUITES:
            self._end_suite(self._suites.pop())
        elif name == "testcase":
            self._end_case()
        elif self._spoken == name:
            self._spoken = None

    def _text(self, text: str) -> None:
        if self._case is not None and self._spoken is not None:
            self._case.say(text)

    def _end_case(self) -> None:
        case, self._case = self._case, None
        assert case is not None
        if len(self._found.tests) >= MAX_ITEMS:
            raise Refused(f"more than {MAX_ITEMS:,} tests")
        unknown = next((state for state in case.states if state not in (*RAN, *DID_NOT_RUN)), None)
        if unknown is not None:
            text = f'{one_line(case.name, 60)} has the status "{one_line(unknown, 40)}": it counts as not passed'
            self._found.warn(Notice("test_status", text))
        self._found.tests.append(case.result())
        self._suites[-1].tests += 1
        self._suites[-1].not_passed += not case.passed

    def _end_suite(self, suite: _Suite) -> None:
        if suite.claims > suite.not_passed:
            text = f"failures and errors: {suite.claims:,}, tests that did not pass: {suite.not_passed:,}"
            self._found.warn(Notice("test_count", f"{_called(suite.name)} says: {text}"))
        elif suite.claimed_tests > suite.tests:
            text = f"tests: {suite.claimed_tests:,}, and has {suite.tests:,}"
            self._found.warn(Notice("test_count", f"{_called(suite.name)} says: {text}"))
        if self._suites:
            self._suites[-1].tests += suite.tests
            self._suites[-1].not_passed += suite.not_passed


def _called(suite: str) -> str:
    name = one_line(suite, 60)
    return f"the suite {name}" if name else "a suite without a name"
