"""Which hand-ins there are, for `run` and `submit`: those that can be taken, and those that cannot."""

from __future__ import annotations

import difflib
import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import click
from msgspec import Struct, structs

from minitango.assignment import Assignment, Submission, find_handins
from minitango.assignment.adopting import NAME as ASSIGNMENT_FILE
from minitango.assignment.submission import Files, Handin, of_one_stem
from minitango.cli.records import Refusal
from minitango.cli.streams import as_called, tell
from minitango.engine import Engine
from minitango.errors import ConfigError, NothingToGrade, SubmissionError
from minitango.exchange import Export, Wish, looks_like, read_export
from minitango.group import members
from minitango.job import ORIGIN, Job
from minitango.record import ErrorRecord
from minitango.store import Query
from minitango.text import one_line, plural

Command = TypeVar("Command", bound=Callable[..., object])


class Refused(Struct, frozen=True):
    """A hand-in that could not be taken."""

    student: str
    title: str
    error: SubmissionError


_LOOKED_AT: Final = 1000
"""Jobs of a name that are looked at for another assignment of the same name."""


def origin(job: Job) -> Path | None:
    """Where the assignment was when this was submitted; None where that is not known."""
    path = job.labels.get(ORIGIN)
    return Path(path) if path else None


def jobs_of(engine: Engine, student: str, query: Query = Query()) -> list[Job]:
    """The jobs among these that this student handed in, alone or with others."""
    found = engine.jobs(structs.replace(query, student=None, limit=None))
    return [job for job in found if student in members(job.labels, job.student)][: query.limit]


def assignment_meant(engine: Engine, asked: str) -> str:
    """The name in the queue of an assignment that a person names: as it is called there, or by where it was when it was
    submitted, a folder, its assignment.toml or an archive. What was asked for, where neither is known.

    ConfigError `usage` where the assignment at that place has several names.
    """
    if engine.jobs(Query(assignment=asked, limit=1)) or not os.path.lexists(asked):
        return asked
    place = _folder(Path(asked))
    names = {job.assignment for job in engine.jobs() if (known := origin(job)) is not None and _folder(known) == place}
    if len(names) > 1:
        said = ", ".join(one_line(repr(name), 60) for name in sorted(names)[:5])
        raise ConfigError(
            f"the assignment in {place} has several names in the queue: {said}",
            hint=f"--assignment {shlex.quote(min(names))}, or another of them",
            id="usage",
        )
    return names.pop() if names else asked


def tell_none(engine: Engine, assignment: str | None, student: str | None) -> None:
    """Nothing was found of these: say so, and what was perhaps meant."""
    jobs = engine.jobs()
    for what, name, known in (
        ("assignment", assignment, {job.assignment for job in jobs}),
        ("student", student, {name for job in jobs for name in members(job.labels, job.student)}),
    ):
        if name is not None and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f": did you mean {one_line(repr(near[0]), 80)}?" if near else ""
            tell(f"no job of {what} {one_line(repr(name), 80)}{hint}")
            return
    if not jobs:
        tell("the queue is empty")
    elif student is not None and assignment is not None:
        tell(f"no job of student {one_line(repr(student), 80)} and assignment {one_line(repr(assignment), 80)}")


def name_option(command: Command) -> Command:
    """--name, for `settings.load`."""
    text = "What the assignment is called in the queue (default: its own name)."
    return click.option("--name", "called", metavar="NAME", help=text)(command)


def tell_namesake(engine: Engine, assignment: Assignment, place: Path) -> None:
    """Say where another assignment in the queue has the same name: the gradebook has one row a student of both."""
    for job in engine.jobs(Query(assignment=assignment.name, newest_first=True, limit=_LOOKED_AT)):
        other = origin(job)
        if other is not None and os.path.lexists(other) and _folder(other) != _folder(place):
            name = one_line(assignment.name, 60)
            tell(
                f"warning: {one_line(str(other), 200)} is called {name!r}, too, and was graded here: where a student "
                "has handed in for both, the grades hold the later one alone; to tell them apart: --name NAME"
            )
            return


def _folder(place: Path) -> Path:
    """An assignment's folder, or archive, however it was named."""
    found = Path(os.path.realpath(place))
    return found.parent if found.name == ASSIGNMENT_FILE else found


class How(Struct, frozen=True):
    """How paths are taken for hand-ins."""

    student: str | None = None
    """Whose the one path is."""
    plain: bool = False
    """No path is taken for another platform's export."""
    all_versions: bool = False
    """Of an export, not only each student's latest version."""
    export: bool = False
    """Each path is another platform's export."""

    @property
    def words(self) -> list[str]:
        """How it is said on a command line."""
        said = {"--plain": self.plain, "--all-versions": self.all_versions, "--export": self.export}
        whose = [] if self.student is None else ["--student", self.student]
        return whose + [option for option, on in said.items() if on]


def handin_options(command: Command) -> Command:
    """The options of commands that take hand-ins: the fields of `How`."""
    for option in (
        click.option(
            "--all-versions", is_flag=True, help="Of another platform's export, not only the latest versions."
        ),
        click.option("--plain", is_flag=True, help="Take no PATH for another platform's export."),
        click.option("--export", is_flag=True, help="Each PATH is another platform's export; else a lone one may be."),
        click.option("--student", metavar="NAME", help="PATH is this student's one hand-in (a folder too)."),
    ):
        command = option(command)
    return command


def gather(
    assignment: Assignment, place: Path, paths: Sequence[Path], how: How
) -> tuple[list[Submission], list[Refused]]:
    """The hand-ins that can be taken, and those that cannot. NothingToGrade where there is none at all.

    A path that stands alone is taken for another platform's export where it looks like one, and stderr says so. Of
    several each may be a student's, who can make theirs look like what they like: none is, unless `how` says that.
    `place`: the assignment, as it was named. It is noted in the jobs, for people, and is no part of what makes two
    submissions the same work.
    """
    labels = {ORIGIN: str(place.absolute())}
    if how.export and (how.plain or how.student is not None):
        raise ConfigError("--export goes with neither --plain nor --student", hint="leave one of them out", id="usage")
    if how.student is not None:
        if len(paths) != 1:
            raise ConfigError(
                "--student goes with one PATH", hint="name one hand-in, or leave --student out", id="usage"
            )
        return [Submission(assignment, student=how.student, files=paths[0], title=paths[0].name, labels=labels)], []
    _refuse_itself(assignment, place, paths)
    found = _Found(assignment, labels)
    rule = assignment.submission
    expected = (rule.path or rule.name).rpartition("/")[2]
    wish = Wish(all_versions=how.all_versions, expected=expected, sure=how.export)
    plain: list[Path] = []
    for path in paths:
        export = read_export(path, wish) if how.export or (len(paths) == 1 and not how.plain) else None
        if export is None:
            if how.export:
                raise SubmissionError(
                    f"{one_line(str(path), 200)} is no export that is known",
                    hint="without --export it is taken for hand-ins",
                    id="export",
                )
            if not how.plain:
                _tell_likeness(path, looks_like(path, rule.max_size))
            plain.append(path)
            continue
        _tell_export(path, export)
        found.refused += [Refused(each.student, each.title, each.error) for each in export.unclear]
        for one in export.handed:
            found.take(one.student, one.title, export.files(one), one.labels)
    if plain or not (found.taken or found.refused):
        handins = find_handins(plain or paths)
        for clash in of_one_stem(handins):
            _tell_clash(clash)
        for handin in handins:
            found.take(handin.student, handin.title, handin.path)
    return found.taken, found.refused


def _refuse_itself(assignment: Assignment, place: Path, paths: Sequence[Path]) -> None:
    """NothingToGrade where the assignment is named in place of its hand-ins; ConfigError `not_apart` where their folder
    is part of it."""
    for path in paths:
        if _folder(path) == _folder(place):
            folder = place.parent if place.name == ASSIGNMENT_FILE else place
            inside = folder / "handins"
            meant = inside.is_dir() and not assignment.holds(inside)
            hint = f"did you mean {inside}?" if meant else f"minitango run {place} PATH-TO-HANDINS"
            raise NothingToGrade(f"{path} is the assignment itself, and no hand-ins", hint=hint)
        # a file alone may be a solution of the course's own
        if os.path.isdir(path) and assignment.holds(path):  # noqa: PTH112 - of what cannot be looked at, Path does not say no
            raise ConfigError(
                f"{path} lies among the assignment's own files: each hand-in could read all the others",
                hint=f"move it out of {assignment.root}",
                id="not_apart",
            )


class _Found:
    """The hand-ins so far."""

    def __init__(self, assignment: Assignment, labels: Mapping[str, str]) -> None:
        self._assignment = assignment
        self._labels = labels
        self.taken: list[Submission] = []
        self.refused: list[Refused] = []

    def take(self, student: str, title: str, files: Files, labels: Mapping[str, str] = {}) -> None:
        try:
            submission = Submission(
                self._assignment, student=student, files=files, title=title, labels={**self._labels, **labels}
            )
            submission.bundle()
        except SubmissionError as error:
            self.refused.append(Refused(student, title, error))
        else:
            self.taken.append(submission)


def _tell_clash(clash: Sequence[Handin]) -> None:
    titles = " and ".join(one_line(each.title, 60) for each in clash)
    students = " and ".join(repr(one_line(each.student, 60)) for each in clash)
    tell(
        f"warning: {titles} have one name without their suffixes, so each is a student of its own, {students}; "
        "if they are of one student, take away what is not to count"
    )


def _tell_export(path: Path, export: Export) -> None:
    number = len(export.handed)
    said = f"{one_line(str(path), 200)}: taken for {export.what}: {plural(number, 'submission')}"
    if export.older:
        said += f"; {plural(export.older, 'older version')} left out (--all-versions grades them, too)"
    tell(said)


def _tell_likeness(path: Path, what: str | None) -> None:
    """Say that a path looks like what it is not taken for."""
    if what is not None:
        tell(
            f"{one_line(str(path), 200)}: looks like {what}, and is taken for what students handed in; "
            "if it was you who exported it: --export"
        )


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
        tell(f"{graded} of {plural(of, 'hand-in')} graded before (--fresh grades them again)")


def record(refused: Refused) -> Refusal:
    """One that was refused, as `--json` prints it."""
    error = refused.error
    return Refusal(refused.student, refused.title, ErrorRecord(error.id, str(error), error.hint))
