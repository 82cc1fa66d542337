"""`minitango jobs`: what is queued, running and done; one job's story; its output; cancel, retry, redeliver."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import click

from minitango import callback_url
from minitango.cli import show, story
from minitango.cli.handins import assignment_meant, jobs_of, tell_none
from minitango.cli.numbers import between
from minitango.cli.options import state_options
from minitango.cli.records import Jobs, Stories
from minitango.cli.streams import out, out_bytes, program, tell
from minitango.cli.verbs import Verbs, queue_of
from minitango.engine import Engine
from minitango.errors import ConfigError, JobNotFound
from minitango.job import Delivery, Job, State, StepOutput
from minitango.output import live_path
from minitango.store import Query
from minitango.text import human_size, one_line

POLL = 0.1
MIN_ID = 4
"""Characters that an id may be shortened to."""


@click.group(cls=Verbs, of_other="show", short_help="Look at the queue: list, show, logs, cancel, retry, redeliver.")
@state_options
def jobs(**where: object) -> None:
    """Look at the queue: list, show, logs, cancel, retry, redeliver. Alone, or with options, it is `jobs list`."""
    click.get_current_context().obj = where


def _find(engine: Engine, id: str) -> Job:
    """The job of this id, or of an id that begins so."""
    try:
        return engine.store.get(id)
    except JobNotFound as error:
        if len(id) >= MIN_ID:
            raise
        raise JobNotFound(str(error), hint=f"give {MIN_ID} characters or more; {error.hint}") from error


@jobs.command("list")
@click.option(
    "--state-is", "states", multiple=True, type=click.Choice([str(s) for s in State]), help="Only these; repeatable."
)
@click.option(
    "--delivery", multiple=True, type=click.Choice([str(d) for d in Delivery]), help="Only callbacks that are so."
)
@click.option("--assignment", metavar="NAME", help="Only this assignment's.")
@click.option("--student", metavar="NAME", help="Only this student's, of a group's too.")
@click.option("-n", "--limit", callback=between(1), metavar="N", help="Only the latest N.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@state_options
def list_jobs(
    states: tuple[str, ...] = (),
    delivery: tuple[str, ...] = (),
    assignment: str | None = None,
    student: str | None = None,
    limit: int | None = None,
    as_json: bool = False,
    **where: object,
) -> int:
    """List jobs, in the order in which they were submitted."""
    settings = queue_of(where)
    with settings.open_existing() as engine:
        assignment = None if assignment is None else assignment_meant(engine, assignment)
        query = Query(
            states=tuple(State(s) for s in states),
            delivery=tuple(Delivery(d) for d in delivery),
            assignment=assignment,
            limit=limit,
            newest_first=True,
        )
        jobs = engine.jobs(query) if student is None else jobs_of(engine, student, query)
        found = [show.see(engine.store, job) for job in reversed(jobs)]
        counts = engine.store.counts()
        if not found and (assignment, student) != (None, None) and any(counts.values()):
            tell_none(engine, assignment, student)
    if as_json:
        show.print_json(Jobs(jobs=tuple(map(show.record, found))))
        return 0
    rows = [
        [j.id, str(j.state), j.assignment, j.student, show.outcome(j) if j.state.terminal else show.NOTHING,
         show.score(j.score, j.max_score), show.seconds(j), str(j.attempt), show.note(seen)]
        for seen, j in ((seen, seen.job) for seen in found)
    ]  # fmt: skip
    head = ["job", "state", "assignment", "student", "outcome", "score", "time", "attempt", "note"]
    total = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    if not total:
        out("the queue is empty")
        return 0
    text = (
        show.table(head, rows, fixed=("job", "state", "outcome", "score", "time", "attempt")) + "\n\n" if rows else ""
    )
    out(f"{text}in the queue: {total}")
    return 0


@jobs.command("show")
@click.argument("id", metavar="ID")
@click.option("--all-tests", is_flag=True, help="Every test with its output, also those that passed.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON, the result whole.")
@state_options
def show_job(id: str, all_tests: bool, as_json: bool, **where: object) -> int:
    """Tell one job's story: what happened when, how it was graded, what to do next. ID may be shortened."""
    settings = queue_of(where)
    with settings.open_existing() as engine:
        told = story.of(engine, _find(engine, id), settings.flags)
    if as_json:
        show.print_json(Stories(jobs=(story.record(told),)))
    else:
        out("\n".join(story.lines(told, all_tests=all_tests)))
    return 0


@jobs.command("logs")
@click.argument("id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on printing while the job runs.")
@state_options
def logs(id: str, follow: bool, **where: object) -> int:
    """Print what a job's steps printed. ID may be shortened."""
    settings = queue_of(where)
    with settings.open_existing() as engine:
        job = _find(engine, id)
        shown = _follow(engine, job) if follow else 0
        job = engine.store.get(job.id)
        if not job.state.terminal and not follow:
            _copy(live_path(engine.state, job.id), 0)
            tell(f"job {job.id} is {job.state}; to follow it: {program()} jobs logs -f {job.id}{settings.flags}")
        elif job.state is not State.DONE and job.state.terminal:
            why = f": {one_line(job.failure.message, 300)}" if job.failure else ""
            tell(f"job {job.id} is {job.state}{why}")
        _print_outputs(engine.store.outputs(job.id), shown)
    return 0


def _follow(engine: Engine, job: Job) -> int:
    """Print the running job's output as it comes, until it ends. Returns how many bytes were printed."""
    if job.state is State.QUEUED:
        tell(f"job {job.id} is queued: waiting for it to start")
    ended = threading.Event()
    engine.job(job.id).add_done_callback(lambda _: ended.set())
    path = live_path(engine.state, job.id)
    shown, attempt = 0, job.attempt
    while not ended.is_set():
        shown = _copy(path, shown)
        ended.wait(POLL)
        latest = engine.store.get(job.id)
        if latest.attempt != attempt:  # a new attempt starts its output anew
            attempt, shown = latest.attempt, 0
    return shown


def _copy(path: Path, start: int) -> int:
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
    except FileNotFoundError:
        return start
    out_bytes(data)
    return start + len(data)


def _print_outputs(outputs: Sequence[StepOutput], skip: int) -> None:
    """Print the recorded output, but for the first `skip` bytes, which were shown while it ran."""
    for output in outputs:
        for data in (output.head, output.tail):
            if data is output.tail and output.elided:
                if skip < len(output.head) + output.elided:
                    out_bytes(f"\n... {human_size(output.elided)} left out ...\n".encode())
                skip = max(0, skip - output.elided)
            out_bytes(data[skip:])
            skip = max(0, skip - len(data))


@jobs.command("cancel")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--assignment", metavar="NAME", help="All of this assignment that are queued.")
@state_options
def cancel(ids: tuple[str, ...], assignment: str | None, **where: object) -> int:
    """Cancel jobs: a queued one at once, a running one as soon as its sandbox is gone."""
    if not ids and assignment is None:
        raise ConfigError("no job was named", hint="minitango jobs cancel ID, or --assignment NAME", id="usage")
    with queue_of(where).open_existing(changes="cancel" if assignment is not None else "") as engine:
        found = [_find(engine, given).id for given in ids]  # all or none
        if assignment is not None:
            assignment = assignment_meant(engine, assignment)
            queued = engine.jobs(Query(states=(State.QUEUED,), assignment=assignment))
            if not queued:
                tell(f"no job of assignment {one_line(assignment, 200)!r} is queued")
            found += [job.id for job in queued if job.id not in found]
        for job in map(engine.cancel, found):
            state = "is being cancelled" if job.state is State.RUNNING else f"is {job.state}"
            out(f"{job.id} {state}")
    return 0


@jobs.command("retry")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@state_options
def retry(ids: tuple[str, ...], **where: object) -> int:
    """Grade the same inputs again, as new jobs. Prints the new ids."""
    settings = queue_of(where)
    with settings.open_existing() as engine:
        found = [_find(engine, given).id for given in ids]
        for old in found:
            out(f"{engine.retry(old).id} is queued, in place of {old}")
    tell(f"next: {program()} worker{settings.flags} grades what is queued, unless an engine runs already")
    return 0


@jobs.command("redeliver")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@state_options
def redeliver(ids: tuple[str, ...], **where: object) -> int:
    """Send the results of jobs to their callbacks, those too that were given up or delivered before."""
    settings = queue_of(where)
    with settings.open_existing() as engine:
        found = [_find(engine, given).id for given in ids]
        for job in map(engine.redeliver, found):
            out(f"{job.id} is to be delivered to {callback_url.parse(job.callback, callback_url.ANYWHERE).shown}")
        alone = not story.is_graded(engine)
    if alone:
        tell(f"next: no engine runs here: {program()} worker{settings.flags}")
    return 0
