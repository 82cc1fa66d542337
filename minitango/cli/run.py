"""`minitango run`: grade a folder of hand-ins now."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
from msgspec import Struct

from minitango.assignment import Assignment, Submission, find_handins
from minitango.cli import show
from minitango.cli.grading import Batch, mixture, terminated_like_ctrl_c, warn_of_weak_limits
from minitango.cli.progress import progress
from minitango.cli.settings import ANY_PATH, Settings, grading_options, load, resolve, setup_option, state_options
from minitango.cli.show import Seen
from minitango.cli.streams import as_called, out, program, tell
from minitango.errors import ConfigError, NothingToGrade, SubmissionError
from minitango.handle import JobHandle
from minitango.job import Job, Outcome, State
from minitango.store import Query
from minitango.text import one_line

NOT_GRADED = 4


class Refused(Struct, frozen=True):
    """A hand-in that could not be taken."""

    student: str
    title: str
    error: SubmissionError


@click.command(short_help="Grade hand-ins now, and go on where an earlier run stopped.")
@click.argument("assignment", type=ANY_PATH)
@click.argument("paths", nargs=-1, type=ANY_PATH, metavar="PATH...")
@click.option("--student", metavar="NAME", help="PATH is this student's one hand-in (a folder too).")
@click.option("--fresh", is_flag=True, help="Grade anew what was graded before.")
@click.option("--json", "as_json", is_flag=True, help="Print the jobs as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("-v", "--verbose", is_flag=True, help="Say which limits hold here, and how.")
@setup_option
@state_options
@grading_options
def run(
    assignment: Path,
    paths: tuple[Path, ...],
    student: str | None,
    fresh: bool,
    no_setup: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **where: object,
) -> int:
    """Grade hand-ins now: each PATH is a hand-in (a file, an archive), or a folder with one entry a student.

    Interrupted, the same command goes on where it stopped: what was graded stays graded, unless the hand-in or the
    assignment changed since. Exits 0 when all were graded, whatever their scores; 4 when some could not be.
    """
    settings = resolve(**where)  # type: ignore[arg-type]
    loaded = load(assignment, image=settings.image, no_setup=no_setup)
    if not paths:
        raise NothingToGrade("no hand-ins were named", hint=f"minitango run {assignment} PATH-TO-HANDINS")
    submissions, refused = gather(loaded, paths, student)
    ids: list[str] = []
    try:
        with terminated_like_ctrl_c():
            batch = Batch(settings, quiet=quiet)
            interrupted = True
            try:
                if verbose:
                    warn_of_weak_limits(batch.engine)
                jobs = _grade(batch, loaded, submissions, refused, ids, fresh=fresh, quiet=quiet)
                mixed = mixture(batch.engine.store, [seen.job for seen in jobs])
                interrupted = False
            finally:
                batch.close(interrupted=interrupted)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(_how_far(settings, ids, fresh=fresh)) from error
    if as_json:
        show.print_json({"jobs": [show.as_json(seen) for seen in jobs], "refused": [_refused_json(r) for r in refused]})
    else:
        out(_table(loaded, jobs, [each.title for each in submissions], refused, settings))
    for line in mixed:
        tell(line)
    _tell_where_to_look([seen.job for seen in jobs], assignment, settings, table=not as_json)
    graded = all(seen.job.state is State.DONE for seen in jobs)
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
    ids: list[str],
    *,
    fresh: bool,
    quiet: bool,
) -> list[Seen]:
    batch.preflight(assignment)
    tell_refused(refused)
    _tell_twice(submissions)
    handles = batch.engine.submit_many(submissions, fresh=fresh)
    already = sum(handle.ended_before and handle.exception() is None for handle in handles)
    if not quiet:
        tell_graded_before(handles)
    ids += [handle.id for handle in handles]
    with progress(len(handles) - already, assignment.name, quiet=quiet) as shown:
        return batch.wait(handles, shown)


def tell_graded_before(handles: Sequence[JobHandle]) -> None:
    """Say how many are not going to be graded, because that was done."""
    already = sum(handle.ended_before and handle.exception() is None for handle in handles)
    if already:
        tell(f"{already} of {show.plural(len(handles), 'hand-in')} graded before (--fresh grades them again)")


def _how_far(settings: Settings, ids: Sequence[str], *, fresh: bool) -> str:
    """What an interrupted run comes to."""
    if not ids:
        return "interrupted: nothing was queued yet"
    with settings.open(workers=0) as engine:
        graded = sum(job.state is State.DONE for job in engine.jobs(Query(ids=tuple(ids))))
    again = "the same command without --fresh" if fresh else "the same command"
    return f"interrupted: {graded} of {show.plural(len(ids), 'hand-in')} graded; {again} goes on"


def tell_refused(refused: Sequence[Refused]) -> None:
    """Say which hand-ins were not taken, and what their students can do."""
    for each in refused:
        hint = f"  next: {one_line(as_called(each.error.hint), 200)}" if each.error.hint else ""
        tell(f"refused[{each.error.id}]: {one_line(each.title, 60)}: {one_line(str(each.error), 300)}{hint}")


def _tell_twice(submissions: Sequence[Submission]) -> None:
    for student, count in Counter(submission.student for submission in submissions).items():
        if count > 1:
            tell(f"{one_line(student, 60)} handed in {count} times: each is graded")


def _table(
    assignment: Assignment, jobs: Sequence[Seen], titles: Sequence[str], refused: Sequence[Refused], settings: Settings
) -> str:
    several = Counter([seen.job.student for seen in jobs] + [each.student for each in refused])

    def who(student: str, title: str) -> str:
        return f"{student} ({title})" if several[student] > 1 and title else student

    rows = [
        [who(seen.job.student, title), show.outcome(seen.job), show.score(seen.job.score, seen.job.max_score),
         show.seconds(seen.job), show.note(seen)]
        for seen, title in zip(jobs, titles, strict=True)
    ]  # fmt: skip
    rows += [
        [who(each.student, each.title), "REFUSED", show.NOTHING, show.NOTHING, str(each.error)] for each in refused
    ]
    text = show.table(["student", "outcome", "score", "time", "note"], rows, fixed=("outcome", "score", "time"))
    counts = Counter(show.outcome(seen.job) for seen in jobs)
    counts.update(["REFUSED"] * len(refused))
    parts = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    name = one_line(assignment.name, 60)
    text += f"\n\n{name}: {show.plural(len(rows), 'hand-in')}: {parts}. Trust: {assignment.trust}."
    dead = [seen.job.id for seen in jobs if seen.job.state is State.DEAD]
    if dead:
        text += f"\nNot graded, for a reason that is not the student's: {program()} jobs show {dead[0]}{settings.flags}"
    return text


ALIKE = 3
"""Hand-ins that have to end alike before the grader is suspected."""


def _tell_where_to_look(jobs: Sequence[Job], assignment: Path, settings: Settings, *, table: bool) -> None:
    """One line on how to see why, where there is something to ask; a louder one where all ended alike with nothing."""
    nothing = {(job.outcome, job.reason) for job in jobs if _earned_nothing(job)}
    asked = [job for job in jobs if job.state is State.DONE and not _full_marks(job)]
    look = f"{program()} jobs show {asked[0].id}{settings.flags}" if asked else ""
    if len(nothing) == 1 and len(jobs) >= ALIKE and all(map(_earned_nothing, jobs)):
        tell(f"all {len(jobs)} hand-ins ended alike: probably the grader, not the students")
        tell(f"  next: {look}, and on a solution of your own: {program()} check {shlex.quote(str(assignment))}")
    elif asked and table:
        tell(f"see why: {look} (ids: {program()} jobs{settings.flags})")


def _earned_nothing(job: Job) -> bool:
    if job.outcome is Outcome.GRADED:
        return job.score == 0 and job.max_score is not None
    return job.state is State.DONE


def _full_marks(job: Job) -> bool:
    if job.outcome is not Outcome.GRADED or job.score is None:
        return False
    return job.warnings == 0 and (job.max_score is None or job.score >= job.max_score)


def _refused_json(refused: Refused) -> dict[str, object]:
    error = refused.error
    return {
        "student": refused.student,
        "title": refused.title,
        "error": {"id": error.id, "message": str(error), "hint": error.hint},
    }
