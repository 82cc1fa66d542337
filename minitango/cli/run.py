"""`minitango run`: grade a folder of hand-ins now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import click

from minitango.assignment import Assignment
from minitango.cli import doubts, handins, show
from minitango.cli.grading import (
    Batch,
    mixture,
    tell_of_limits,
    uncalled,
    warn_of_weak_limits,
)
from minitango.cli.handins import Refused, handin_options, name_option
from minitango.cli.interrupts import terminated_like_ctrl_c
from minitango.cli.loading import load
from minitango.cli.options import ANY_PATH, callback_options, grading_options, setup_option, state_options
from minitango.cli.records import Run
from minitango.cli.settings import Settings, settled
from minitango.cli.show import Seen
from minitango.cli.stages import Graded, How, grade
from minitango.cli.streams import out, program, tell
from minitango.errors import GraderSuspected, NothingToGrade, StoreError
from minitango.job import State
from minitango.store import Query
from minitango.text import one_line, plural

NOT_GRADED = 4


@click.command(short_help="Grade hand-ins now, and go on where an earlier run stopped.")
@click.argument("assignment", type=ANY_PATH)
@click.argument("paths", nargs=-1, type=ANY_PATH, metavar="PATH...")
@click.option("--fresh", is_flag=True, help="Grade anew what was graded before.")
@click.option("--no-preflight", is_flag=True, help="Queue all at once; try no sample or hand-in first.")
@click.option("--keep-going", is_flag=True, help="Go on where the first hand-ins speak against the grader.")
@click.option("--json", "as_json", is_flag=True, help="Print the jobs as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("-v", "--verbose", is_flag=True, help="Say which limits hold here, and how.")
@handin_options
@name_option
@setup_option
@state_options
@grading_options
@callback_options
def run(
    assignment: Path,
    paths: tuple[Path, ...],
    student: str | None,
    plain: bool,
    all_versions: bool,
    export: bool,
    called: str | None,
    fresh: bool,
    no_preflight: bool,
    keep_going: bool,
    no_setup: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **where: object,
) -> int:
    """Grade hand-ins now: each PATH is a hand-in (a file, an archive), or a folder with one entry a student.

    Interrupted, the same command goes on where it stopped: what was graded stays graded, unless the hand-in or the
    assignment changed since. A sample, or else up to three hand-ins, are tried before the others are queued. Exits 0
    when all were graded, whatever their scores; 4 when some could not be.
    """
    settings = settled(**where)
    loaded = load(assignment, image=settings.image, no_setup=no_setup, called=called)
    settings = settings.of([loaded])
    taken = handins.How(student, plain, all_versions, export)
    options = [*taken.words, *(["--name", called] if called else []), *(["--fresh"] if fresh else [])]
    settings.check_served(loaded, [*options, assignment, *(paths or ["PATH-TO-HANDINS"])])
    if not paths:
        raise NothingToGrade("no hand-ins were named", hint=f"minitango run {assignment} PATH-TO-HANDINS")
    submissions, refused = handins.gather(loaded, assignment, paths, taken)
    how = How(
        settings,
        assignment,
        fresh=fresh,
        quiet=quiet,
        preflight=not no_preflight,
        keep_going=keep_going,
        ask=not as_json and not quiet and doubts.can_ask(),
    )
    if not quiet:
        settings.tell_which()
    ids: set[str] = set()
    try:
        with terminated_like_ctrl_c():
            batch = Batch(settings, quiet=quiet, paused=True)
            interrupted = True
            try:
                warn_of_weak_limits(batch.engine)
                if verbose:
                    tell_of_limits(batch.engine)
                batch.preflight(loaded)
                handins.tell_refused(refused)
                handins.tell_twice(submissions)
                handins.tell_namesake(batch.engine, loaded, assignment)
                graded = grade(batch, loaded, submissions, how, ids=ids)
                ended = [seen.job for seen in graded.jobs]
                mixed = [*mixture(batch.engine.store, ended), *uncalled(batch.engine.store, loaded, ended)]
                interrupted = False
            finally:
                batch.close(interrupted=interrupted)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(_how_far(settings, ids, len(submissions), fresh=fresh)) from error
    jobs = graded.jobs
    if as_json:
        refusals = tuple(map(handins.record, refused))
        show.print_json(Run(jobs=tuple(map(show.record, jobs)), refused=refusals))
    elif jobs or refused:
        titles = [submissions[number].title for number in graded.numbers]
        out(_table(loaded, jobs, titles, refused, settings, left_out=len(submissions) - len(jobs)))
    for line in mixed:
        tell(line)
    if graded.stopped is not None:
        raise graded.stopped
    if graded.suspicion is not None:
        raise _stopped(graded, fresh=fresh)
    doubts.tell_where_to_look(jobs, assignment, settings, table=not as_json, samples=bool(loaded.samples))
    return 0 if all(seen.job.state is State.DONE for seen in jobs) and not refused else NOT_GRADED


def _stopped(graded: Graded, *, fresh: bool) -> GraderSuspected:
    """The run ended because of what the first ones got."""
    assert graded.suspicion is not None
    left = sum(seen.job.state is State.CANCELLED for seen in graded.jobs)
    again = "the same command without --fresh" if fresh else "the same command"
    return GraderSuspected(
        f"stopped before {left} of {plural(len(graded.jobs), 'hand-in')} {'was' if left == 1 else 'were'} begun: "
        f"{graded.suspicion.whose}",
        hint=f"correct what is wrong, and {again} grades all by it; to go on as it is: {again} with --keep-going",
    )


def _how_far(settings: Settings, ids: Collection[str], total: int, *, fresh: bool) -> str:
    """What an interrupted run comes to."""
    if not ids:
        return "interrupted: nothing was queued yet; the same command begins anew"
    again = "the same command without --fresh" if fresh else "the same command"
    try:
        with settings.open(workers=0) as engine:
            graded = sum(job.state is State.DONE for job in engine.jobs(Query(ids=tuple(ids))))
    except StoreError as error:
        return f"interrupted: how many are graded cannot be told now ({error.message}); {again} goes on"
    return f"interrupted: {graded} of {plural(total, 'hand-in')} graded; {again} goes on"


def _table(
    assignment: Assignment,
    jobs: Sequence[Seen],
    titles: Sequence[str],
    refused: Sequence[Refused],
    settings: Settings,
    *,
    left_out: int,
) -> str:
    """`left_out`: how many hand-ins were not queued."""
    several = Counter([seen.job.student for seen in jobs] + [each.student for each in refused])

    def who(student: str, title: str) -> str:
        return f"{student} ({title})" if several[student] > 1 and title else student

    rows = [
        [who(seen.job.student, title), show.outcome(seen.job), show.score(seen.job.score, seen.job.max_score),
         show.seconds(seen.job), show.note(seen)]
        for seen, title in zip(jobs, titles, strict=True)
        if seen.job.state in (State.DONE, State.DEAD)
    ]  # fmt: skip
    rows += [
        [who(each.student, each.title), "REFUSED", show.NOTHING, show.NOTHING, str(each.error)] for each in refused
    ]
    text = show.table(["student", "outcome", "score", "time", "note"], rows, fixed=("outcome", "score", "time"))
    counts = Counter(show.outcome(seen.job) for seen in jobs)
    counts.update(["REFUSED"] * len(refused))
    parts = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    parts += f", {left_out} not queued" if left_out else ""
    name = one_line(assignment.name, 60)
    total = plural(len(jobs) + left_out + len(refused), "hand-in")
    text += f"\n\n{name}: {total}: {parts}. Trust: {assignment.trust}."
    signed = [seen for seen in jobs if seen.signs]
    if signed:
        count = plural(len(signed), "hand-in")
        text += f"\nSigns of tampering in {count}: {program()} jobs show {signed[0].job.id}{settings.flags}"
    dead = [seen.job.id for seen in jobs if seen.job.state is State.DEAD]
    if dead:
        text += f"\nNot graded, for a reason that is not the student's: {program()} jobs show {dead[0]}{settings.flags}"
    return text
