"""`minitango prune`: what is old, or one student's, and what nobody needs any more, is removed for good."""

from __future__ import annotations

import difflib
import functools
import sys
import time
from collections.abc import Sequence

import click
from msgspec import Struct

from minitango import statedir
from minitango.blobs import Pruned
from minitango.cli import records, show
from minitango.cli.ages import age
from minitango.cli.handins import jobs_of
from minitango.cli.options import state_options
from minitango.cli.records import Removed
from minitango.cli.settings import settled
from minitango.cli.streams import out, program, tell
from minitango.engine import Engine
from minitango.errors import ConfigError, EngineRunning, StoreFull
from minitango.group import members, without
from minitango.job import TERMINAL, Delivery, Job, State
from minitango.keeping import GRACE
from minitango.store import Query
from minitango.text import human_seconds, human_size, one_line, plural


def _age(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    return None if text is None else age(text)


@click.command(short_help="Remove old jobs, or one student's, and files that nobody needs.")
@click.option("--older-than", callback=_age, metavar="AGE", help="Remove jobs that ended longer ago: 30d, 12h, 2w.")
@click.option("--student", metavar="NAME", help="Remove what is there of this student.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Remove nothing; say how much it would be.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@state_options
def prune(
    older_than: float | None, student: str | None, yes: bool, dry_run: bool, as_json: bool, **where: object
) -> int:
    """Remove what is old, or one student's, for good: jobs that have ended, with their results and outputs, and then
    files that no job needs. Alone it removes such files only. A job that a student handed in with others stays
    theirs, without the student's name.

    Safe beside a running engine. Nothing that is queued or running is removed, nor by its age what is still to be
    delivered to a callback.
    """
    settings = settled(**where)
    with settings.open_existing(changes="" if dry_run else "prune") as engine:
        chosen = _chosen(engine, older_than, student, settings.flags)
        ask = student is not None and (chosen.gone or chosen.kept) and not dry_run and not yes
        if student is not None and ask and not _confirmed(student, chosen):
            tell("nothing was removed")
            return 0
        removed = _dry(engine, chosen) if dry_run else _remove(engine, chosen)
        shared = engine.store.shared
    if as_json:
        show.print_json(records.Prune(removed=removed))
    else:
        out("\n".join(_words(removed, shared)))
    if removed.kept and not dry_run:
        stay, them = ("stays", "it") if removed.kept == 1 else ("stay", "them")
        tell(
            f"{plural(removed.kept, 'file')} of the last {human_seconds(GRACE)} that no job needs {stay}, as a submit "
            f"may be under way: {program()} prune{settings.flags} removes {them} later"
        )
    return 0


class _Chosen(Struct, frozen=True):
    """What is to be done."""

    gone: tuple[Job, ...] = ()
    undelivered: bool = False
    """Whether those go, too, whose callback is still to be delivered: all of a student, whatever it is."""
    kept: tuple[tuple[Job, str, dict[str, str]], ...] = ()
    """Jobs that others handed in, too; whose each is from now on, and with which labels."""


def _chosen(engine: Engine, older_than: float | None, student: str | None, flags: str) -> _Chosen:
    """The jobs that are to go. ConfigError where not all of a student can go, or there is no such student."""
    if older_than is None and student is None:
        return _Chosen()
    query = Query(states=tuple(TERMINAL), ended_before=None if older_than is None else engine.store.now() - older_than)
    found = engine.jobs(query) if student is None else jobs_of(engine, student, query)
    if older_than is not None:  # old as it is, somebody waits for it
        waiting = sum(job.delivery is Delivery.PENDING for job in found)
        if waiting:
            whose = "its result is" if waiting == 1 else "their results are"
            tell(
                f"{plural(waiting, 'job', 'stay')}, as {whose} still to be delivered: "
                f"{program()} jobs list --delivery pending{flags}"
            )
        found = [job for job in found if job.delivery is not Delivery.PENDING]
    if student is None:
        return _Chosen(gone=tuple(found))
    left = [(job, without(job.labels, job.student, student)) for job in found]
    chosen = _Chosen(
        gone=tuple(job for job, others in left if others is None),
        undelivered=older_than is None,
        kept=tuple((job, *others) for job, others in left if others is not None),
    )
    if older_than is not None:
        return chosen
    busy = jobs_of(engine, student, Query(states=(State.QUEUED, State.RUNNING)))
    if busy:
        ids = " ".join(job.id for job in busy[:10])
        raise ConfigError(
            f"{plural(len(busy), 'job')} of {one_line(student, 80)!r} not ended yet",
            hint=f"minitango jobs cancel {ids}{flags}; then the same command again",
            id="student_busy",
        )
    if not found:
        known = {name for job in engine.jobs() for name in members(job.labels, job.student)}
        near = difflib.get_close_matches(student, known, 1)
        meant = f"did you mean {one_line(near[0], 80)!r}? see " if near else ""
        raise ConfigError(
            f"there is no job of student {one_line(student, 80)!r}",
            hint=f"{meant}minitango jobs list{flags}",
            id="student_unknown",
        )
    return chosen


def _confirmed(student: str, chosen: _Chosen) -> bool:
    what = f"{plural(len(chosen.gone), 'job')} of {one_line(student, 80)!r}, with all results and files"
    if chosen.kept:
        others = sorted({name for job, theirs, labels in chosen.kept for name in members(labels, theirs)})
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        names = ", ".join(one_line(name, 80) for name in others[:3])
        what += f", and the name from {plural(len(chosen.kept), 'job')} of {names}{more}"
    if not sys.stdin.isatty():
        raise ConfigError(
            f"this would remove {what}", hint="repeat it with --yes, or look first: --dry-run", id="confirm"
        )
    return click.confirm(f"remove {what}?", err=True)


def _dry(engine: Engine, chosen: _Chosen) -> Removed:
    jobs = chosen.gone
    needed = functools.partial(engine.store.referenced, without=[job.id for job in jobs])
    files = engine.blobs.prune(needed, older_than=GRACE, dry_run=True)
    young = _young(engine, jobs) - files.count
    return Removed(True, len(jobs), files.count, files.bytes, young, 0, len(chosen.kept))


def _remove(engine: Engine, chosen: _Chosen) -> Removed:
    kept = sum(engine.store.hand_over(job.id, student, labels) for job, student, labels in chosen.kept)
    count = engine.store.forget((job.id for job in chosen.gone), undelivered=chosen.undelivered)
    files: Pruned = engine.prune(older_than=GRACE)
    freed = _shrink(engine) if count or kept or files.count else 0
    return Removed(False, count, files.count, files.bytes, _young(engine, ()), freed, kept)


def _young(engine: Engine, jobs: Sequence[Job]) -> int:
    """How many files no job needs, whatever their age."""
    needed = functools.partial(engine.store.referenced, without=[job.id for job in jobs])
    return engine.blobs.prune(needed, now=time.time() + 2 * GRACE, older_than=GRACE, dry_run=True).count


def _shrink(engine: Engine) -> int:
    """Give room back to the disk; of a queue in a file not while an engine runs, which would have to wait."""
    if engine.store.shared:
        return engine.store.shrink()
    try:
        # without the directory no engine is in it, and none is made for this
        release = statedir.lock(engine.state) if engine.state.is_dir() else lambda: None
    except EngineRunning as error:
        tell(f"{error}: the queue's file keeps its size, and its free room is used again")
        return 0
    try:
        return engine.store.shrink()
    except StoreFull as error:
        tell(f"the queue's file keeps its size: {one_line(str(error), 200)}")
        return 0
    finally:
        release()


def _words(removed: Removed, shared: bool) -> list[str]:
    verb = "would remove" if removed.dry_run else "removed"
    lines = [
        f"{verb} {plural(removed.jobs, 'job')}",
        f"{verb} {plural(removed.files, 'file')} that no job needs ({human_size(removed.bytes)})",
    ]
    if removed.handed_over:
        verb = "would take" if removed.dry_run else "took"
        lines.append(f"{verb} the name out of {plural(removed.handed_over, 'job')} that others handed in, too")
    what = "the server's append-only file" if shared else "the queue's file"
    return lines + ([f"{what} is smaller by {human_size(removed.freed)}"] if removed.freed else [])
