"""`minitango run`: grade a folder of hand-ins now."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
from msgspec import Struct

from minitango.assignment import Assignment, Submission, find_handins
from minitango.cli import show
from minitango.cli.grading import Batch, terminated_like_ctrl_c
from minitango.cli.progress import Progress, progress
from minitango.cli.settings import grading_options, resolve, state_options
from minitango.errors import ConfigError, NothingToGrade, SubmissionError
from minitango.job import Job, State
from minitango.text import one_line

NOT_GRADED = 4


class Refused(Struct, frozen=True):
    """A hand-in that could not be taken."""

    student: str
    title: str
    error: SubmissionError


@click.command()
@click.argument("assignment", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--student", metavar="NAME", help="PATH is this student's one hand-in (a folder too).")
@click.option("--fresh", is_flag=True, help="Grade anew what was graded before.")
@click.option("--json", "as_json", is_flag=True, help="Print the jobs as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@state_options
@grading_options
def run(
    assignment: Path,
    paths: tuple[Path, ...],
    student: str | None,
    fresh: bool,
    as_json: bool,
    quiet: bool,
    **where: object,
) -> int:
    """Grade hand-ins now: each PATH is a hand-in (a file, an archive), or a folder with one entry a student.

    Interrupted, the same command goes on where it stopped: what was graded stays graded, unless the hand-in or the
    assignment changed since. Exits 0 when all were graded, whatever their scores; 4 when some could not be.
    """
    settings = resolve(**where)  # type: ignore[arg-type]
    loaded = Assignment.load(assignment)
    if not paths:
        raise NothingToGrade("no hand-ins were named", hint=f"minitango run {assignment} PATH-TO-HANDINS")
    submissions, refused = gather(loaded, paths, student)
    bar: list[Progress] = []
    with terminated_like_ctrl_c():
        batch = Batch(settings, lambda: bar[0] if bar else None)
        interrupted = True
        try:
            jobs = _grade(batch, loaded, submissions, refused, bar, fresh=fresh, quiet=quiet)
            interrupted = False
        finally:
            batch.close(interrupted=interrupted)
    if as_json:
        show.print_json({"jobs": [show.as_json(job) for job in jobs], "refused": [_refused_json(r) for r in refused]})
    else:
        _print_table(loaded, jobs, refused)
    graded = all(job.state is State.DONE for job in jobs)
    return 0 if graded and not refused else NOT_GRADED


def gather(
    assignment: Assignment, paths: Sequence[Path], student: str | None
) -> tuple[list[Submission], list[Refused]]:
    """The hand-ins that can be taken, and those that cannot. NothingToGrade where there is none at all."""
    if student is not None:
        if len(paths) != 1:
            raise ConfigError(
                "--student goes with one PATH", hint="name one hand-in, or leave --student out", id="usage"
            )
        return [Submission(assignment, student=student, files=paths[0], title=paths[0].name)], []
    taken: list[Submission] = []
    refused: list[Refused] = []
    for handin in find_handins(paths):
        try:
            submission = Submission(assignment, student=handin.student, files=handin.path, title=handin.title)
            submission.bundle()
        except SubmissionError as error:
            refused.append(Refused(handin.student, handin.title, error))
        else:
            taken.append(submission)
    return taken, refused


def _grade(
    batch: Batch,
    assignment: Assignment,
    submissions: Sequence[Submission],
    refused: Sequence[Refused],
    bar: list[Progress],
    *,
    fresh: bool,
    quiet: bool,
) -> list[Job]:
    for each in refused:
        print(f"refused: {one_line(each.title, 60)}: {one_line(str(each.error), 300)}", file=sys.stderr)
    batch.engine.preflight(assignment)
    handles = batch.engine.submit_many(submissions, fresh=fresh)
    already = sum(handle.done() for handle in handles)
    if already and not quiet:
        known = f"{already} of {show.plural(len(handles), 'hand-in')} graded before (--fresh grades them again)"
        print(known, file=sys.stderr)
    seen: list[Job] = []
    try:
        with progress(len(handles), assignment.name, quiet=quiet) as shown:
            bar.append(shown)

            def ended(job: Job) -> None:
                seen.append(job)
                shown.ended(job)

            return batch.wait(handles, ended)
    except KeyboardInterrupt:
        count = sum(job.state.terminal for job in seen)
        print(
            f"interrupted: {count} of {show.plural(len(handles), 'hand-in')} graded; the same command goes on",
            file=sys.stderr,
        )
        raise


def _print_table(assignment: Assignment, jobs: Sequence[Job], refused: Sequence[Refused]) -> None:
    rows = [
        [job.student, show.outcome(job), show.score(job.score, job.max_score), show.seconds(job), show.note(job)]
        for job in jobs
    ]
    rows += [[each.student, "REFUSED", show.NOTHING, show.NOTHING, str(each.error)] for each in refused]
    print(show.table(["student", "outcome", "score", "time", "note"], rows, right=("score", "time")))
    counts = Counter(show.outcome(job) for job in jobs)
    counts.update(["REFUSED"] * len(refused))
    parts = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    print(f"\n{assignment.name}: {show.plural(len(rows), 'hand-in')}: {parts}. Trust: {assignment.trust}.")
    dead = [job for job in jobs if job.state is State.DEAD]
    if dead:
        print(f"Not graded, for a reason that is not the student's: minitango jobs show {dead[0].id}")


def _refused_json(refused: Refused) -> dict[str, object]:
    error = refused.error
    return {
        "student": refused.student,
        "title": refused.title,
        "error": {"id": error.id, "message": str(error), "hint": error.hint},
    }
