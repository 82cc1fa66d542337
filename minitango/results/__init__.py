"""What autograders leave -> a `Report`. One module a format, each a pure function of `Evidence`.

Every byte here may come from a student: a report is parsed strictly, and anything odd is no score with the
reason, never a guess, never full marks, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any, Final

from msgspec import Struct, field

from minitango.job import LeaderboardEntry, Notice, TestResult

MAX_REPORT: Final = 8 << 20
"""Bytes that a report may have."""


class Evidence(Struct, frozen=True):
    """What the last step left behind. It ended by itself: no limit ended it."""

    report: bytes | None
    """The bytes of the report file; None where there is none. At most MAX_REPORT + 1."""
    exit_status: int | None
    signal: int | None = None
    output: bytes = b""
    """What it printed, head and tail, as it came."""
    ending: bytes = b""
    """The last of what it printed, without a gap."""
    whole: bool = True
    """Whether `ending` is all that it printed."""
    reports: tuple[tuple[str, bytes], ...] = ()
    """Path and bytes of each report file, by path, where a format has several. At most MAX_REPORT together."""
    problems: tuple[tuple[str, float | None], ...] = ()
    """Names and maxima of the problems that are declared; empty: those that the report names."""
    max_score: float | None = None
    """The assignment's; None where the report decides."""
    bonus: bool = False
    """Whether a score may be above the maximum."""


class Report(Struct, frozen=True):
    """What the evidence says. Where `score` is None, `reason` says why; beside a score it is a word on it.

    Texts are as the report has them, unescaped: each sink makes them safe (`minitango.text`).
    """

    score: float | None
    max_score: float | None = None
    reason: str = ""
    tests: tuple[TestResult, ...] = ()
    feedback: str = ""
    feedback_format: str = "text"
    visibility: str = "visible"
    stdout_visibility: str = "hidden"
    leaderboard: tuple[LeaderboardEntry, ...] = ()
    extra_data: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[Notice, ...] = ()


class ReportFiles(Struct, frozen=True):
    """What a format's last step leaves in its report folder."""

    name: str = ""
    """The file that it is told to write; empty: it reports without one."""
    patterns: tuple[str, ...] = ()
    """Which files are taken, as `Box.collect` has patterns."""
    most: int = 1
    """How many files are taken."""

    def fits(self, path: str) -> bool:
        """Whether this is a file that was asked for, rather than one in a folder of that name."""
        return path == self.name if self.most == 1 else any(fnmatchcase(path, pattern) for pattern in self.patterns)


_RESULTS_JSON: Final = ReportFiles("results.json", ("results.json",))
_READERS: Final = {
    "gradescope": ("gradescope", _RESULTS_JSON),
    "autolab": ("autolab", ReportFiles()),
    "prairielearn": ("prairielearn", _RESULTS_JSON),
    "junit": ("junit", ReportFiles("results.xml", ("*.xml", "**/*.xml"), 500)),
    "exit-code": ("exit_code", ReportFiles()),
}
FORMATS: Final = tuple(_READERS)
"""The formats that an assignment may name."""


def reader(format: str) -> Callable[[Evidence], Report]:
    """The reader of one of FORMATS. It never raises."""
    read: Callable[[Evidence], Report] = import_module(f"minitango.results.{_READERS[format][0]}").read
    return read


def report_files(format: str) -> ReportFiles:
    """What the last step of an assignment in one of FORMATS leaves."""
    return _READERS[format][1]
