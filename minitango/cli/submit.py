"""`minitango submit`: put hand-ins into the queue, for the engine that runs there, or runs there later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from msgspec import structs

from minitango.assignment import Submission
from minitango.callback_url import ANYWHERE, parse
from minitango.cli import show
from minitango.cli.handins import (
    How,
    gather,
    handin_options,
    name_option,
    tell_graded_before,
    tell_namesake,
    tell_refused,
)
from minitango.cli.interrupts import whole_or_told
from minitango.cli.loading import load
from minitango.cli.options import ANY_PATH, callback_options, image_option, setup_option, state_options
from minitango.cli.records import Jobs
from minitango.cli.run import NOT_GRADED
from minitango.cli.settings import Settings, settled
from minitango.cli.streams import as_called, out, program, tell
from minitango.engine import Engine
from minitango.errors import ConfigError, MinitangoError, NothingToGrade
from minitango.identity import inputs_of
from minitango.job import Job
from minitango.store import Query
from minitango.text import one_line, plural

_LOOKED_AT: Final = 1000
"""Jobs that are looked at, the latest, for whether an interrupted submit was done."""


@click.command(short_help="Queue hand-ins and return; a worker grades them.")
@click.argument("assignment", type=ANY_PATH)
@click.argument("paths", nargs=-1, type=ANY_PATH, metavar="PATH...")
@click.option("--fresh", is_flag=True, help="Grade anew what was graded before.")
@click.option("--callback", metavar="URL", help="Send each result there, when there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print the jobs as JSON.")
@handin_options
@name_option
@setup_option
@image_option
@callback_options
@state_options
def submit(
    assignment: Path,
    paths: tuple[Path, ...],
    student: str | None,
    plain: bool,
    all_versions: bool,
    export: bool,
    called: str | None,
    fresh: bool,
    callback: str | None,
    as_json: bool,
    no_setup: bool,
    **where: object,
) -> int:
    """Queue hand-ins and return; each PATH as in `run`. Prints a job id and a student on each line.

    They are durable, and their files fixed, when this returns. `minitango worker` grades them, and says where the
    first ones speak against the grader.
    """
    settings = settled(**where)
    begun: list[tuple[Sequence[Submission], float]] = []
    with whole_or_told(lambda: _how_far(settings, begun)):
        loaded = load(assignment, image=settings.image, no_setup=no_setup, called=called)
        if where["image"] and not loaded.layout:
            raise ConfigError(
                "--image is a matter of whoever grades, not of what is submitted",
                hint="give it to: minitango worker, or name the image in a step of assignment.toml",
                id="usage",
            )
        if not paths:
            raise NothingToGrade("no hand-ins were named", hint=f"minitango submit {assignment} PATH-TO-HANDINS")
        submissions, refused = gather(loaded, assignment, paths, How(student, plain, all_versions, export))
        if callback is not None:
            settings.callbacks.check(callback)
            submissions = [structs.replace(submission, callback=callback) for submission in submissions]
        settings.tell_which()
        with settings.open(workers=0) as engine:
            tell_namesake(engine, loaded, assignment)
            for text in engine.store.remarks:
                tell(as_called(f"warning: {text}"))
            begun.append((submissions, engine.store.now()))
            handles = engine.submit_many(submissions, fresh=fresh)
            jobs = [show.see(engine.store, handle.job()) for handle in handles]
    tell_refused(refused)
    tell_graded_before(sum(h.ended_before and h.exception() is None for h in handles), len(handles))
    if callback:
        old = [seen.job for seen, handle in zip(jobs, handles, strict=True) if not handle.created]
        _tell_of_callbacks(callback, settings, old, len(handles), typed=bool(where["callback_allow"]))
    if as_json:
        show.print_json(Jobs(jobs=tuple(map(show.record, jobs))))
    else:
        for seen in jobs:
            out(f"{seen.job.id}  {one_line(seen.job.student, 200)}")
    return NOT_GRADED if refused else 0


def _how_far(settings: Settings, begun: Sequence[tuple[Sequence[Submission], float]]) -> str:
    """What an interrupted submit comes to; `begun`: what it was to add, and since when, if it came so far. All of its
    hand-ins are queued at once, or none."""
    new = False
    try:
        for submissions, since in begun:
            with settings.open(workers=0) as engine:
                new = new or _is_queued(engine, submissions, since)
    except MinitangoError as error:
        return f"whether the hand-ins are queued cannot be told now ({error.message}); next: minitango jobs"
    if new:
        return "the hand-ins are queued all the same; next: minitango jobs, and minitango worker unless one runs"
    return "nothing was queued; the same command begins anew"


def _is_queued(engine: Engine, submissions: Sequence[Submission], since: float) -> bool:
    """Whether a job was made of one of these since then: others may submit to the same assignment, and for the same
    students. Only the files of those are read of whom there are new jobs. StoreError, SubmissionError, ArchiveError."""
    made: set[tuple[str, str]] = set()
    for name in {submission.assignment.name for submission in submissions}:
        latest = engine.jobs(Query(assignment=name, newest_first=True, limit=_LOOKED_AT))
        made |= {(job.student, job.inputs) for job in latest if job.submitted >= since}
    students = {student for student, _ in made}
    return any(
        (submission.student, inputs_of(submission)) in made
        for submission in submissions
        if submission.student in students
    )


def _tell_of_callbacks(callback: str, settings: Settings, old: Sequence[Job], of: int, *, typed: bool) -> None:
    """Say whom the worker has to allow, and which results are not sent as it was asked: those of jobs from before."""
    target = parse(callback, ANYWHERE)
    if typed and target.host in settings.callbacks.allow:
        worker = as_called(f"minitango worker --callback-allow {target.host}")
        tell(f"callbacks to {target.host} are sent by the worker, which has to allow it, too: {worker}")
    others = [job for job in old if job.callback != callback]
    if others:
        whom = "which keep their own callbacks" if any(job.callback for job in others) else "which have no callback"
        tell(
            f"warning: nothing is sent to {target.shown} for {len(others)} of {plural(of, 'hand-in')}: there are jobs "
            f"of them from before, {whom}; next: --fresh grades them anew, and tells {target.shown}"
        )
    told = [job for job in old if job.callback == callback and job.state.terminal]
    if told:
        again = f"{program()} jobs redeliver {told[0].id}{' ...' if told[1:] else ''}{settings.flags}"
        tell(
            f"{len(told)} of {plural(of, 'hand-in')} ended before, and {target.shown} is not told again unless asked: "
            f"{again}"
        )
