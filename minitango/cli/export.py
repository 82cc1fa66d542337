"""`minitango export`: the gradebook, and what each student may read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from minitango.cli import gradebook
from minitango.cli.files import make_folder, write_whole
from minitango.cli.gradebook import Entry
from minitango.cli.handins import assignment_meant, tell_none
from minitango.cli.options import ANY_PATH, state_options
from minitango.cli.settings import settled
from minitango.cli.streams import out_bytes, program, tell
from minitango.engine import Engine
from minitango.errors import ConfigError
from minitango.feedback import HandIn, is_page, page
from minitango.job import State
from minitango.store import Query
from minitango.text import file_name, one_line, plural

FORMATS = ("csv", "json", "junit")
_BEGINNING: Final = 4096
"""Characters of a file by which feedback is known."""


@click.command(short_help="Print the grades as CSV, JSON or JUnit XML, or write feedback for students.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="What to print: csv (default), json or junit.")
@click.option("-o", "--output", metavar="FILE", type=ANY_PATH, help="Write to this file, whole or not at all.")
@click.option("--assignment", metavar="NAME", help="Only this assignment's.")
@click.option("--student", metavar="NAME", help="Only this student's.")
@click.option(
    "--latest/--all",
    default=True,
    help="Of each student and assignment what was handed in last of what is graded (default), or every job.",
)
@click.option("--excel", is_flag=True, help="Begin the CSV with the mark by which Excel knows UTF-8.")
@click.option("--feedback", metavar="DIR", type=ANY_PATH, help="Write a Markdown file a student, to hand out.")
@state_options
def export(
    form: str | None,
    output: Path | None,
    assignment: str | None,
    student: str | None,
    latest: bool,
    excel: bool,
    feedback: Path | None,
    **where: object,
) -> int:
    """Print the grades: a row a student and assignment.

    What could not be graded has an empty score, never 0. With --feedback alone nothing is printed: it writes what each
    student may see, without hidden tests.
    """
    settings = settled(**where)
    if excel and form not in (None, "csv"):
        raise ConfigError("--excel goes with --format csv", hint="leave one of them out", id="usage")
    with settings.open_existing() as engine:
        assignment = None if assignment is None else assignment_meant(engine, assignment)
        everybody = gradebook.of_everybody(engine.jobs(Query(assignment=assignment)))
        found = [job for job in everybody if student in (None, job.student)]
        chosen = gradebook.latest(found) if latest else gradebook.Latest(tuple(found), ())
        entries = [Entry(job, engine.store.result(job.id)) for job in chosen.jobs]
        if not found:
            tell_none(engine, assignment, student)
        if feedback is not None:
            _write_feedback(engine, entries, feedback)
    if feedback is None or form is not None or output is not None:
        data = _encoded(entries, form or "csv", excel=excel)
        if output is not None:
            write_whole(output, data, "-o FILE")
            tell(f"{plural(len(entries), 'job')} in {one_line(str(output), 300)}")
        else:
            out_bytes(data.replace(b"\r\n", b"\n") if sys.stdout.isatty() else data)
    _tell_of_others(entries, chosen, settings.flags)
    return 0


def _encoded(entries: Sequence[Entry], form: str, *, excel: bool) -> bytes:
    if form == "csv":
        return gradebook.as_csv(entries, excel=excel)
    return gradebook.as_json(entries) if form == "json" else gradebook.as_junit(entries)


def _write_feedback(engine: Engine, entries: Sequence[Entry], folder: Path) -> None:
    """A file a student, each written whole."""
    make_folder(folder, "--feedback DIR")
    _refuse_foreign(folder)
    students: dict[str, list[Entry]] = {}
    for entry in entries:
        students.setdefault(entry.job.student, []).append(entry)
    for student, theirs in students.items():
        handins = [HandIn(each.job, each.result, engine.store.outputs(each.job.id)) for each in theirs]
        text = page(student, handins).encode("utf-8", "replace")
        write_whole(folder / f"{file_name(student)}.md", text, "--feedback DIR")
    tell(f"feedback for {plural(len(students), 'student')} in {one_line(str(folder), 300)}")


def _refuse_foreign(folder: Path) -> None:
    """ConfigError where the folder holds files that are not feedback of an earlier export: it may be that of the
    hand-ins, which feedback would lie between, or replace. Hidden files are nobody's."""
    try:
        foreign = sorted(path.name for path in folder.iterdir() if path.name[:1] != "." and not _is_ours(path))
    except OSError as error:
        raise ConfigError(
            f"the folder {folder} cannot be read: {error.strerror or error}",
            hint="choose another --feedback DIR",
            id="output",
        ) from error
    if foreign:
        raise ConfigError(
            f"{folder} holds {one_line(foreign[0], 80)}{' and more' if len(foreign) > 1 else ''}, which is no feedback",
            hint="name a new folder, or one that only --feedback wrote to",
            id="output",
        )


def _is_ours(path: Path) -> bool:
    if path.suffix != ".md" or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return is_page(file.read(_BEGINNING))


def _tell_of_others(entries: Sequence[Entry], chosen: gradebook.Latest, flags: str) -> None:
    """What the numbers alone do not say: who has no grade, and whose newer hand-in does not count yet."""
    for states, one, several in (
        ((State.DEAD,), "could not be graded, and has no score", "could not be graded, and have no score"),
        (
            (State.QUEUED, State.RUNNING),
            "is not graded yet, and has no score",
            "are not graded yet, and have no score",
        ),
    ):
        jobs = list({entry.job.id: entry.job for entry in entries if entry.job.state in states}.values())
        if jobs:
            words = f"{plural(len(jobs), 'job')} of these {one if len(jobs) == 1 else several}"
            tell(f"{words}: {program()} jobs show {jobs[0].id}{flags}")
    waiting = [job for job in chosen.overtaken if job.state is not State.CANCELLED]
    if waiting:
        first = waiting[0]
        tell(
            f"{plural(len(waiting), 'student')} handed in again since, and that is {first.state}, so the grade "
            f"before it stands: {program()} jobs show {first.id}{flags}"
        )
