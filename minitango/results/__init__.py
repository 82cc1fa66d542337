"""What autograders leave -> a `Report`. One module a format, each a pure function of `Evidence`.

Every byte here may come from a student: a report is parsed strictly, and anything odd is no score with the
reason, never a guess, never full marks, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable
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


_READERS: Final = {"gradescope": "gradescope", "exit-code": "exit_code"}
FORMATS: Final = tuple(_READERS)
"""The formats that an assignment may name."""


def reader(format: str) -> Callable[[Evidence], Report]:
    """The reader of one of FORMATS. It never raises."""
    read: Callable[[Evidence], Report] = import_module(f"minitango.results.{_READERS[format]}").read
    return read
