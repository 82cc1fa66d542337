"""What must hold of a guarded step, so that its grader keeps student code where it belongs: in a sandbox of its own."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Final

from minitango.assignment.places import Key, Places
from minitango.text import human_seconds

if TYPE_CHECKING:
    from minitango.assignment.model import Assignment
    from minitango.assignment.parts import Step

HELPER_COMMAND: Final = "minitango-student"
_STUDENTS: Final = ("/submission", "/collected")
"""Where a guarded step finds what students wrote: to be read, never to be run."""
_WORK: Final = "/job"
"""Where it starts."""
_SEARCHED: Final = (
    "PATH",
    "PYTHONPATH",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "CLASSPATH",
    "NODE_PATH",
    "PERL5LIB",
    "RUBYLIB",
)
"""Variables that name what is run or loaded."""


def check_guarded(assignment: Assignment, places: Places) -> None:
    """AssignmentError for the first thing that is wrong with a guarded step, or with one that has `student` without, or
    where a step that scores what others left would look for programs there."""
    last = len(assignment.steps) - 1
    for n, step in enumerate(assignment.steps):
        key: Key = ("step", n)
        if not step.guarded:
            if step.student is not None:
                text = "says what student code may use, and this step is not guarded"
                raise places.error((*key, "student"), text, "write guarded = true beside it", "guarded")
            if n == last and not step.submission:
                _check_searched(step, (*key, "env"), places)
            continue
        if n != last:
            text = f"step {step.name!r} is guarded, and only the last one, which reports, can be"
            raise places.error((*key, "guarded"), text, "take guarded away from it", "guarded")
        if assignment.layout:
            text = f"an autograder of {assignment.layout}'s runs student code by itself, in its own sandbox"
            raise places.error((*key, "guarded"), text, "take guarded away, or layout", "guarded")
        if step.root:
            text = "a guarded step is never root: it needs no other user, as student code is not in its sandbox"
            raise places.error((*key, "root"), text, "take root away", "guarded")
        _check_report(assignment.format, step, key, places)
        _check_searched(step, (*key, "env"), places)
        if step.student is not None and step.student.wall > step.limits.wall:
            text = f"is longer than the step itself may take, which is {human_seconds(step.limits.wall)}"
            raise places.error((*key, "student", "wall"), text, "choose less, or more in limits", "guarded")


def _check_report(format: str, step: Step, key: Key, places: Places) -> None:
    """The score does not come by a way on which student code speaks."""
    if format == "autolab":
        text = "the last line that a guarded step prints would be its score, and what students print may go there, too"
        raise places.error(("format",), text, 'write a report: format = "gradescope" or "junit"', "guarded")
    if format == "exit-code" and posixpath.basename(step.command[0]) == HELPER_COMMAND:
        text = "the student's own exit status would be the verdict"
        hint = 'let a program of yours decide, say command = ["python3", "grade.py"]'
        raise places.error((*key, "command"), text, hint, "guarded")


def _check_searched(step: Step, key: Key, places: Places) -> None:
    for name in _SEARCHED:
        parts = [
            posixpath.normpath(f"{_WORK}/{part}" if part[:1] != "/" else part)
            for part in step.env.get(name, "").split(":")
        ]
        for place in _STUDENTS:
            if any(f"/{part.lstrip('/')}/".startswith(f"{place}/") for part in parts):
                text = f"{name} leads to {place}: what students wrote would be run in the grader's own sandbox"
                hint = (
                    f"take it away; {HELPER_COMMAND} runs it"
                    if step.guarded
                    else "take it away; an earlier step runs it"
                )
                raise places.error((*key, name), text, hint, "guarded" if step.guarded else None)
