"""Which hand-ins there are, for `run` and `submit`: those that can be taken, and those that cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from minitango.assignment import Assignment, Submission, find_handins
from minitango.cli import show
from minitango.cli.records import ErrorRecord, Refusal
from minitango.cli.streams import as_called, tell
from minitango.errors import ConfigError, SubmissionError
from minitango.job import Job
from minitango.text import one_line


class Refused(Struct, frozen=True):
    """A hand-in that could not be taken."""

    student: str
    title: str
    error: SubmissionError


ORIGIN: Final = "origin"
"""The label of a job that says where its assignment was: an absolute path."""


def origin(job: Job) -> Path | None:
    """Where the assignment was when this was submitted; None where that is not known."""
    path = job.labels.get(ORIGIN)
    return Path(path) if path else None


def gather(
    assignment: Assignment, place: Path, paths: Sequence[Path], student: str | None
) -> tuple[list[Submission], list[Refused]]:
    """The hand-ins that can be taken, and those that cannot. NothingToGrade where there is none at all.

    `place`: the assignment, as it was named. It is noted in the jobs, for people, and is no part of what makes two
    submissions the same work.
    """
    labels = {ORIGIN: str(place.absolute())}
    if student is not None:
        if len(paths) != 1:
            raise ConfigError(
                "--student goes with one PATH", hint="name one hand-in, or leave --student out", id="usage"
            )
        return [Submission(assignment, student=student, files=paths[0], title=paths[0].name, labels=labels)], []
    taken: list[Submission] = []
    refused: list[Refused] = []
    for handin in find_handins(paths):
        try:
            submission = Submission(
                assignment, student=handin.student, files=handin.path, title=handin.title, labels=labels
            )
            submission.bundle()
        except SubmissionError as error:
            refused.append(Refused(handin.student, handin.title, error))
        else:
            taken.append(submission)
    return taken, refused


def tell_refused(refused: Sequence[Refused]) -> None:
    """Say which hand-ins were not taken, and what their students can do."""
    for each in refused:
        hint = f"  next: {one_line(as_called(each.error.hint), 200)}" if each.error.hint else ""
        tell(f"refused[{each.error.id}]: {one_line(each.title, 60)}: {one_line(str(each.error), 300)}{hint}")


def tell_twice(submissions: Sequence[Submission]) -> None:
    """Say who handed in more than once."""
    for student, count in Counter(submission.student for submission in submissions).items():
        if count > 1:
            tell(f"{one_line(student, 60)} handed in {count} times: each is graded")


def tell_graded_before(graded: int, of: int) -> None:
    """Say how many are not going to be graded, because that was done."""
    if graded:
        tell(f"{graded} of {show.plural(of, 'hand-in')} graded before (--fresh grades them again)")


def record(refused: Refused) -> Refusal:
    """One that was refused, as `--json` prints it."""
    error = refused.error
    return Refusal(refused.student, refused.title, ErrorRecord(error.id, str(error), error.hint))
