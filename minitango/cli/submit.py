"""`minitango submit`: put hand-ins into the queue, for the engine that runs there, or runs there later."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import structs

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
from minitango.cli.loading import load
from minitango.cli.options import ANY_PATH, callback_options, image_option, setup_option, state_options
from minitango.cli.records import Jobs
from minitango.cli.run import NOT_GRADED
from minitango.cli.settings import settled
from minitango.cli.streams import out, tell
from minitango.errors import ConfigError, NothingToGrade
from minitango.text import one_line, plural


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
            tell(f"warning: {text}")
        handles = engine.submit_many(submissions, fresh=fresh)
        jobs = [show.see(engine.store, handle.job()) for handle in handles]
    tell_refused(refused)
    tell_graded_before(sum(h.ended_before and h.exception() is None for h in handles), len(handles))
    old = sum(not h.created for h in handles)
    if callback and old:
        tell(f"{old} of {plural(len(handles), 'hand-in')} had a job before: it tells whom it was given then")
    if as_json:
        show.print_json(Jobs(jobs=tuple(map(show.record, jobs))))
    else:
        for seen in jobs:
            out(f"{seen.job.id}  {one_line(seen.job.student, 200)}")
    return NOT_GRADED if refused else 0
