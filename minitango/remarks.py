"""A word for people on what went wrong, where the report itself says none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from minitango.job import Notice, StepOutput, StepReport
from minitango.results import Report
from minitango.results.points import tally
from minitango.sandbox import End
from minitango.text import ending, one_line

_ENOUGH: Final = 60
"""Characters by which a line is known again."""


def remark(report: Report, most: float | None, steps: Sequence[StepReport], outputs: Sequence[StepOutput]) -> str:
    """The report's own reason; else, of less than full marks, the step that ended badly, or how many tests failed.

    The last line that a step printed goes along: it is most often the error.
    """
    full = report.score is not None and (report.score > 0 if most is None else report.score >= most)
    if full:
        # of no points at all nobody knows whether they are full marks
        return report.reason or ("" if most else tally(report.tests))
    bad = [(step, output) for step, output in zip(steps, outputs, strict=False) if _ended_badly(step)]
    if report.reason:
        # of the last step, which gave the reason
        said = _last_line(bad[-1][1]) if bad and bad[-1][0] is steps[-1] else ""
        return report.reason if said[2:_ENOUGH] in report.reason else f"{report.reason}{said}"
    if bad:
        step, output = bad[0]
        return f"step {step.name!r} {ending(step.exit_status, step.signal)}{_last_line(output)}"
    return tally(report.tests)


def _ended_badly(step: StepReport) -> bool:
    return step.limit is None and (step.signal is not None or step.exit_status not in (0, None))


def _last_line(output: StepOutput) -> str:
    lines = (output.tail or output.head)[-4096:].decode("utf-8", "backslashreplace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    last = said[-1] if said else ""
    if not any(map(str.isalnum, last)):  # a compiler points at a place below what it says
        last = next((line for line in reversed(said) if "error" in line.lower()), last)
    return f": {one_line(last, 100)}" if last else ""


def notices(who: str, end: End) -> list[Notice]:
    """What a person should know of how a step went, though it decided nothing; `who` is that step, in words."""
    found = []
    if end.oom_kills and end.limit is None and not end.cancelled:
        text = f"{who}: a process was killed for memory, though the step went on to its own end"
        found.append(Notice("memory_kill", text))
    if end.disk_full:
        found.append(Notice("disk_full", f"{who} filled its disk"))
    if end.pids_limit:
        found.append(Notice("pids_limit", f"{who} ran into its limit of processes"))
    return found
