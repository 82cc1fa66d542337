"""What a step's end means: whose fault it was, and what the last one reported. Nothing here runs anything."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from msgspec import structs

from minitango.archive import File
from minitango.assignment import Plan, PlanStep
from minitango.errors import AssignmentError, SandboxFailed
from minitango.job import Notice, Outcome, StepOutput
from minitango.layout import is_handed_in, layout_of
from minitango.preflight import TRANSIENT, brought_by_submission, exec_hint
from minitango.results import Evidence, Report, reader, report_files
from minitango.sandbox import Collected, End
from minitango.text import human_seconds, human_size, one_line


class Ended(Exception):
    """Grading has an answer, whichever step it came from."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


def judge(plan: Plan, step: PlanStep, end: End, image: str, submission: Sequence[File], program: str) -> None:
    """Raise where this step's end is the job's end: Ended, AssignmentError where the assignment is at fault, and
    SandboxFailed where we are."""
    name, limits = step.name, step.limits
    if end.exec_error is not None:
        what = f"{program} in step {name!r} could not be executed: {os.strerror(end.exec_error)}"
        if end.exec_error in TRANSIENT:
            raise SandboxFailed(f"the command {what}", id="sandbox_exec")
        if brought_by_submission(step):
            absent = end.exec_error in (errno.ENOENT, errno.ENOTDIR)
            if absent and not is_handed_in(plan, submission, program):
                neither = "neither the assignment's files nor the hand-in has it"
                raise Ended(Outcome.NO_SCORE, f"there is no {program}: {neither}")
            raise Ended(Outcome.NO_SCORE, f"the hand-in's {what}")
        raise AssignmentError(
            f"the command {what}", key=f"step {name}.command", hint=exec_hint(end.exec_error, image), id="command"
        )
    if end.limit is None:
        return
    passed = {
        "wall": (Outcome.TIME_LIMIT, f"took longer than {human_seconds(limits.wall)}"),
        "cpu": (Outcome.TIME_LIMIT, f"used more than {human_seconds(limits.cpu or 0)} of CPU time"),
        "memory": (Outcome.MEMORY_LIMIT, f"used more than {human_size(limits.memory)} of memory"),
        "output": (Outcome.OUTPUT_LIMIT, f"printed more than {human_size(limits.output)}"),
    }
    outcome, text = passed[end.limit]
    raise Ended(outcome, f"step {name!r} {text}")


def read_report(plan: Plan, end: End, left: Collected, output: StepOutput) -> Report:
    """What the last step reports: by the files that it left, what it printed, and how it ended."""
    if left.refused:
        path, reason = left.refused[0]
        return Report(None, reason=f"the report {one_line(path, 60)} was refused: {reason}")
    asked, below = report_files(plan.format), layout_of(plan).report[1]
    for file in left.files:
        if not asked.fits(file.path.removeprefix(below)):
            folder = file.path.rpartition("/")[0]
            return Report(None, reason=f"the report {one_line(folder, 60)} was refused: it is a directory")
    evidence = Evidence(
        report=left.files[0].data if left.files and asked.most == 1 else None,
        reports=tuple((file.path, file.data) for file in left.files) if asked.most > 1 else (),
        exit_status=end.exit_status,
        signal=end.signal,
        output=output.head + output.tail,
        ending=output.tail if output.elided else output.head + output.tail,
        whole=not output.elided,
        problems=tuple(plan.problems.items()) if plan.problems else (),
        max_score=plan.max_score,
        bonus=plan.bonus,
    )
    report = reader(plan.format)(evidence)
    if not left.late:
        return report
    text = f"the report {one_line(left.late[0], 60)} was written to after the main process of its step had ended"
    return structs.replace(report, warnings=(*report.warnings, Notice("report_late", text)))
