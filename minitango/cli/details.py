"""What there is to say of one result: how its steps ended, which tests failed, what was printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from minitango.cli import show
from minitango.job import Result, StepOutput, StepReport, TestResult
from minitango.text import for_terminal, human_seconds, human_size, one_line, signal_name

LINES: Final = 15
"""Lines of a step's output that are shown, the last ones."""
WIDTH: Final = 200
"""Characters of such a line."""
TEST_LINES: Final = 10
"""Lines of a test's output that are shown, the first ones."""


def step(report: StepReport) -> str:
    """How one step ended, and what it used."""
    usage = report.usage
    used = [human_seconds(usage.wall)]
    if usage.cpu is not None:
        used.append(f"cpu {human_seconds(usage.cpu)}")
    if usage.memory is not None:
        used.append(f"memory {human_size(usage.memory)}")
    used.append(f"printed {human_size(report.output_bytes)}")
    return f"{report.name}: {_end(report)}; {', '.join(used)}{_image(report)}"


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
    return f"exit status {report.exit_status}"


def test(found: TestResult) -> list[str]:
    """One test: its points and name, and below them the beginning of what it says."""
    hidden = f" [{found.visibility}]" if found.visibility != "visible" else ""
    first = f"{show.score(found.score, found.max_score):>8}  {one_line(found.name, 100)}{hidden}"
    return [first, *(f"          {line}" for line in for_terminal(found.output).splitlines()[:TEST_LINES])]


def failed(found: TestResult) -> bool:
    """Whether a test says that it failed, or earned less than it could."""
    if found.status is not None:
        return found.status == "failed"
    return found.score is not None and found.max_score is not None and found.score < found.max_score


def why(result: Result, outputs: Sequence[StepOutput]) -> list[str]:
    """What tells why a grade is what it is: the tests that failed, and the end of what each step printed."""
    lines = []
    tests = [found for found in result.tests if failed(found)]
    if tests:
        lines.append(f"{len(tests)} of {show.plural(len(result.tests), 'test')} failed")
        lines += [f"  {line}" for found in tests for line in test(found)]
    if result.feedback:
        lines += ["feedback", *(f"  {line}" for line in _last(result.feedback.encode("utf-8", "backslashreplace")))]
    printed = {output.step: output for output in outputs}
    for report in result.steps:
        output = printed.get(report.name)
        tail = _last(output.head + output.tail) if output is not None else []
        lines.append(f"step {report.name}: {_end(report)}; " + ("it printed" if tail else "it printed nothing"))
        lines += [f"  {line}" for line in tail]
    return lines


def _last(data: bytes) -> list[str]:
    """The last lines, safe on a terminal. The first of them says where some are left out."""
    near = data[-LINES * WIDTH * 4 :]
    lines = for_terminal(near.removesuffix(b"\n")).split("\n")
    left_out = len(near) < len(data) or len(lines) > LINES
    shown = [line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines[-LINES:]]
    return (["..."] if left_out else []) + shown if data else []
