"""What must hold of a guarded step, so that its grader keeps student code where it belongs: in a sandbox of its own."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from minitango.assignment.places import Key, Places
from minitango.errors import AssignmentError
from minitango.text import human_seconds

if TYPE_CHECKING:
    from minitango.assignment.model import Assignment
    from minitango.assignment.parts import Step

HELPER_COMMAND: Final = "minitango-student"
_HELPER_MODULE: Final = "minitango_student"
_STUDENTS: Final = ("/submission", "/collected")
"""Where a guarded step finds what students wrote: to be read, never to be run."""
_RUNS_SCRIPTS: Final = re.compile(
    r"(python|pypy)[0-9.]*|(ba|da|z|k|fi)?sh|node|deno|bun|perl[0-9.]*|ruby[0-9.]*|php[0-9.]*|Rscript|lua[0-9.]*|java"
)
"""Programs that run the file which their first word names that is no option."""
_CODE_AFTER_C: Final = re.compile(r"(python|pypy)[0-9.]*|.*sh")
_RUNS_TESTS: Final = frozenset({"pytest", "py.test", "unittest", "doctest", "nose2"})
"""Programs and modules that run all that is in what they are given."""
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
                _check_program(step, (*key, "command"), places)
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
        _check_program(step, (*key, "command"), places)
        if step.student is not None and step.student.wall > step.limits.wall:
            text = f"is longer than the step itself may take, which is {human_seconds(step.limits.wall)}"
            raise places.error((*key, "student", "wall"), text, "choose less, or more in limits", "guarded")


def check_files(step: Step, paths: Iterable[str], key: Key, places: Places) -> None:
    """AssignmentError where one of a guarded step's own files would be imported in place of our module."""
    if not step.guarded:
        return
    for path in sorted(paths):
        *folders, name = path.split("/")
        if name == f"{_HELPER_MODULE}.py" or _HELPER_MODULE in folders:
            text = f"{path!r} would be imported in place of the module that is there by itself, and may be another one"
            raise places.error(key, text, "take it away, or rename it", "guarded")


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
        for place in filter(None, map(_of_students, step.env.get(name, "").split(":"))):
            raise _would_run(step, name, place, (*key, name), places)


def _check_program(step: Step, key: Key, places: Places) -> None:
    """What the command runs is the grader's own. What it reads may be the student's: other words may lead there."""
    for word in _run_by(step.command):
        place = _of_students(word)
        if place:
            raise _would_run(step, repr(word[:80]), place, key, places)


def _run_by(command: Sequence[str]) -> list[str]:
    """The words of a command that name what it runs, as far as that can be told: the program; the script of one that is
    known to run scripts, but not what that is told; all that a test runner is given."""
    program, *rest = command
    found, name = [program], posixpath.basename(program)
    if not _RUNS_SCRIPTS.fullmatch(name):
        return found + (rest if name in _RUNS_TESTS else [])
    words = iter(rest)
    for word in words:
        if word == "-m" and next(words, "") in _RUNS_TESTS:
            return found + list(words)
        if word in (("-c", "-m") if _CODE_AFTER_C.fullmatch(name) else ("-e", "-r", "-m")):
            return found  # the script is in the command itself
        if not word.startswith("-"):
            return [*found, word]
    return found


def _of_students(path: str) -> str:
    """The place with what students wrote that a path leads to, from where a step starts; empty: it leads to none."""
    whole = posixpath.normpath(path if path[:1] == "/" else f"{_WORK}/{path}")
    return next((place for place in _STUDENTS if f"/{whole.lstrip('/')}/".startswith(f"{place}/")), "")


def _would_run(step: Step, what: str, place: str, key: Key, places: Places) -> AssignmentError:
    text = f"{what} leads to {place}: what students wrote would be run in the grader's own sandbox"
    hint = f"take it away; {HELPER_COMMAND} runs it" if step.guarded else "take it away; an earlier step runs it"
    return places.error(key, text, hint, "guarded" if step.guarded else None)
