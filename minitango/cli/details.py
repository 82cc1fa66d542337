"""What there is to say of one result: how its steps ended, which tests failed, what was printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from minitango.cli import show
from minitango.job import Limits, Result, StepOutput, StepReport, TestResult
from minitango.results.points import failed, partly, tally
from minitango.text import for_terminal, human_seconds, human_size, one_line, plural, signal_name

LINES: Final = 15
"""Lines of a step's output that are shown, the last ones."""
WIDTH: Final = 200
"""Characters of such a line."""
TEST_LINES: Final = 10
"""Lines of a test's output that are shown, the first ones."""


NEAR: Final = 0.8
"""Share of a limit from which on it is marked: the next hand-in may pass it."""


class Used(Struct, frozen=True):
    """What a step used of one thing, beside its limit; seconds or bytes."""

    what: str
    used: float
    limit: float | None

    @property
    def share(self) -> float | None:
        """Of the limit; None where none is known."""
        return self.used / self.limit if self.limit else None

    @property
    def near(self) -> bool:
        return self.share is not None and self.share >= NEAR


def used(report: StepReport, limits: Limits | None = None) -> list[Used]:
    """What a step used, as far as it is known, each beside its limit. What student code used that a guarded step had
    run is in it, and has limits of its own. Files that a step writes are held in memory, and only the two together are
    measured, and limited."""
    usage = report.usage
    own = limits if not report.calls else None
    found = [
        ("wall", usage.wall, limits.wall if limits else None),
        ("cpu", usage.cpu, own.cpu if own else None),
        ("memory", usage.memory, own.memory + own.disk if own else None),
        ("output", report.output_bytes, limits.output if limits else None),
    ]
    return [Used(what, amount, limit) for what, amount, limit in found if amount is not None]


_WORDS: Final = {"wall": "", "cpu": "cpu ", "memory": "memory and files ", "output": "printed "}


def step(report: StepReport, limits: Limits | None = None) -> str:
    """How one step ended, and what it used; beside its limits, where they are known, with a mark on what is near."""
    parts = [_amount(each) for each in used(report, limits)]
    return f"{one_line(report.name, 60)}: {_end(report)}; {', '.join(parts)}{_calls(report)}{_image(report)}"


def _amount(each: Used) -> str:
    human = human_seconds if each.what in ("wall", "cpu") else _human_bytes
    text = f"{_WORDS[each.what]}{human(each.used)}"
    if each.limit is not None:
        text += f" of {human(each.limit)}"
    share = each.share
    if share is None or not each.near:
        return text
    return f"{text} ({share:.0%}: {'near' if share < 1 else 'at'} its limit)"


def _human_bytes(size: float) -> str:
    return human_size(int(size))


def _calls(report: StepReport) -> str:
    return f"; {plural(report.calls, 'call')} of student code" if report.calls else ""


def _image(report: StepReport) -> str:
    if not report.image_digest:
        return ""
    digest = show.digest(report.image_digest)
    return f"; image {one_line(report.image, 100)} ({digest})" if report.image else f"; image {digest}"


def _end(report: StepReport) -> str:
    if report.limit is not None:
        return f"ended by its {report.limit} limit"
    if report.signal is not None:
        return f"killed by {signal_name(report.signal)}"
    return "was not started" if report.exit_status is None else f"exit status {report.exit_status}"


def test(found: TestResult) -> list[str]:
    """One test: its points and name, and below them the beginning of what it says."""
    hidden = f" [{found.visibility}]" if found.visibility != "visible" else ""
    first = f"{show.score(found.score, found.max_score):>8}  {one_line(found.name, 100)}{hidden}"
    return [first, *(f"          {line}" for line in for_terminal(found.output).splitlines()[:TEST_LINES])]


def lost(found: TestResult) -> bool:
    """Whether a test failed, or earned less than it could: those are shown first."""
    return failed(found) or partly(found)


def why(result: Result, outputs: Sequence[StepOutput], *, tests: int | None = None, lines: int = LINES) -> list[str]:
    """What tells why a grade is what it is: the tests that failed, and the end of what each step printed.

    At most so many tests (None: all), and so many lines of each step.
    """
    said = []
    bad = [found for found in result.tests if lost(found)]
    if bad:
        said.append(tally(result.tests))
        said += [f"  {line}" for found in bad[:tests] for line in test(found)]
        said += ["  ..."] if tests is not None and len(bad) > tests else []
    if result.feedback:
        last = _last(result.feedback.encode("utf-8", "backslashreplace"), lines)
        said += ["feedback", *(f"  {line}" for line in last)]
    printed = {output.step: output for output in outputs}
    for report in result.steps:
        output = printed.get(report.name)
        tail = _last(output.head + output.tail, lines) if output is not None else []
        said.append(f"step {report.name}: {_end(report)}; " + ("it printed" if tail else "it printed nothing"))
        said += [f"  {line}" for line in tail]
    return said


def _last(data: bytes, most: int) -> list[str]:
    """The last lines, safe on a terminal. The first of them says where some are left out."""
    near = data[-most * WIDTH * 4 :]
    lines = for_terminal(near.removesuffix(b"\n")).split("\n")
    left_out = len(near) < len(data) or len(lines) > most
    shown = [line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines[-most:]]
    return (["..."] if left_out else []) + shown if data else []
