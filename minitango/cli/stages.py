"""The stages of a run: some are tried alone, all are queued, and where they speak against the grader it is paused."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from minitango.assignment import Assignment, Submission
from minitango.cli import doubts, first, show
from minitango.cli.grading import Batch
from minitango.cli.handins import tell_graded_before
from minitango.cli.progress import progress
from minitango.cli.settings import Settings
from minitango.cli.show import Seen
from minitango.cli.streams import tell
from minitango.cli.suspicion import ENOUGH, Suspicion, suspicion
from minitango.errors import GraderSuspected, SampleMissed
from minitango.handle import JobHandle
from minitango.identity import Found
from minitango.job import Job, Outcome, State
from minitango.text import plural

_PAUSED: Final = (
    "the run that queued it was paused and left, as its first {count} hand-ins ended alike and earned nothing; "
    "the same run command queues it anew"
)
_OUTDATED: Final = "the assignment, or what it is graded in, changed before it was graded; it was queued anew"
"""Why a job was cancelled."""


class How(Struct, frozen=True):
    """How a run was asked for."""

    settings: Settings
    place: Path
    """The assignment, as it was named."""
    fresh: bool = False
    quiet: bool = False
    preflight: bool = True
    """Whether a sample or some hand-ins are tried before the others are queued."""
    keep_going: bool = False
    """Whether to go on where the first ones speak against the grader."""
    ask: bool = False
    """Whether there may be somebody to ask then."""


class Graded(Struct, frozen=True):
    """How far a run came."""

    jobs: list[Seen]
    """In the order of their submissions."""
    numbers: Sequence[int]
    """Which submissions they are of."""
    stopped: GraderSuspected | SampleMissed | None = None
    """What speaks against the grader, where the others were not queued for it."""
    suspicion: Suspicion | None = None
    """Why some are queued still, if some are."""


def grade(
    batch: Batch, assignment: Assignment, submissions: Sequence[Submission], how: How, *, ids: set[str]
) -> Graded:
    """Grade all that was not graded before. `batch` is paused; `ids` is told the jobs that count as this run's.

    Where what was tried first speaks against the grader, the others are not queued, and it returns with what was graded
    so far.
    """
    found = batch.engine.find(submissions)
    before = {n: job for n, job in enumerate(found.jobs) if job is not None and job.state.terminal and not how.fresh}
    numbers = [n for n in range(len(submissions)) if n not in before]
    ids.update(job.id for job in before.values())
    if not how.quiet:
        tell_graded_before(sum(job.state is State.DONE for job in before.values()), len(submissions))
    tried = first.Tried()
    outdated = found.outdated
    if how.preflight and not batch.joined and len(numbers) > 1:
        sample = first.best(assignment.samples)
        if sample is not None:
            try:
                first.try_sample(batch, assignment, sample, how.place, again=how.fresh, quiet=how.quiet)
            except (GraderSuspected, SampleMissed) as error:
                return _stopped(batch, before, tried, error)
        elif not _is_tried(found, fresh=how.fresh):
            _set_aside(batch, outdated)
            outdated = ()
            batch.engine.resume()
            with progress(len(numbers), assignment.name, quiet=how.quiet) as shown:
                tried = first.try_handins(
                    batch, assignment, submissions, numbers, how.place, shown,
                    settings=how.settings, fresh=how.fresh, quiet=how.quiet, ids=ids,
                )  # fmt: skip
    if tried.fault is not None:
        return _stopped(batch, before, tried, tried.fault)
    handles = _queue_all(batch, submissions, tried, fresh=how.fresh)
    ids.update(handle.id for handle in handles)
    _set_aside(batch, outdated)
    batch.engine.resume()
    seen = {each.handle.id: each.seen for each in tried.done}
    return _follow(batch, assignment.name, handles, seen, list(before.values()), how)


def _queue_all(batch: Batch, submissions: Sequence[Submission], tried: first.Tried, *, fresh: bool) -> list[JobHandle]:
    """Submit what was not tried. Of somebody with several hand-ins, what was tried is submitted once more in its place,
    which gives the same job: the last one is the one that counts."""
    over = {each.number: each for each in tried.done}
    several = Counter(submission.student for submission in submissions)
    again = {n for n, each in over.items() if each.seen.job.state is State.DONE and several[each.seen.job.student] > 1}
    numbers = [n for n in range(len(submissions)) if n not in over or n in again]
    # Where `fresh` and anything was tried, nothing was known of any: it would say no more, but of what is done by now.
    handles = batch.engine.submit_many([submissions[n] for n in numbers], fresh=fresh and not over)
    made = dict(zip(numbers, handles, strict=True))
    made.update((n, each.handle) for n, each in over.items() if n not in made or made[n].id == each.handle.id)
    return [made[n] for n in range(len(submissions))]


def _stopped(
    batch: Batch, before: Mapping[int, Job], tried: first.Tried, error: GraderSuspected | SampleMissed
) -> Graded:
    over = {number: show.see(batch.engine.store, job) for number, job in before.items()}
    over |= {each.number: each.seen for each in tried.done}
    numbers = sorted(over)
    return Graded([over[number] for number in numbers], numbers, stopped=error)


def _is_tried(found: Found, *, fresh: bool) -> bool:
    """Whether it would be wrong, or of no use, to let one hand-in go first: the grader has shown already that it can
    grade, or others are queued, or an interruption would leave the old grades of the others standing."""
    known = [job for job in found.jobs if job is not None]
    return any(fresh or not job.state.terminal or job.outcome is Outcome.GRADED for job in known)


def _set_aside(batch: Batch, outdated: Sequence[Job]) -> None:
    """Cancel what waits to be graded by a grader that is no more. Not where somebody else may be grading by it."""
    if outdated and not batch.joined:
        for job in outdated:
            batch.engine.cancel(job.id, reason=_OUTDATED)
        queued = f"{plural(len(outdated), 'hand-in', 'were')} queued"
        tell(f"{queued} before the assignment, or what it is graded in, changed: queued anew")


def _follow(
    batch: Batch, name: str, handles: Sequence[JobHandle], seen: dict[str, Seen], before: Sequence[Job], how: How
) -> Graded:
    """Wait for all; `seen` has those that were tried. Pause where they speak against the grader, and ask."""
    tried = [each.job for each in seen.values()]
    total = sum(not handle.ended_before for handle in handles)
    careful = not how.keep_going
    warned = False

    def suspect(ended: Sequence[Job]) -> Suspicion | None:
        if not careful:
            return None
        silent, blamed = (functools.partial(look, batch.engine.store) for look in (doubts.silent, doubts.blamed))
        return suspicion([*tried, *ended], before, enough=ENOUGH, silent=silent, blamed=blamed)

    def doubt(ended: Sequence[Job]) -> bool:
        nonlocal warned
        found = suspect(ended)
        if found is not None and batch.joined and not warned:
            warned = True  # the engine is another's: it is not for us to pause it
            doubts.tell_of(found, batch.engine.store, how.settings, say=shown.say)
        return found is not None

    while True:
        waiting = [handle for handle in handles if handle.id not in seen]
        done = total - sum(not handle.ended_before for handle in waiting)
        with progress(total, name, quiet=how.quiet, done=done) as shown:
            got = batch.wait(waiting, shown, doubt=doubt)
        over = {handle.id: each for handle, each in zip(waiting, got, strict=True) if each.job.state.terminal}
        queued = len(waiting) - sum(each.job.state.terminal for each in got)
        seen |= over
        if not queued:
            return Graded([seen[handle.id] for handle in handles], range(len(handles)))
        found = suspect([seen[h.id].job for h in waiting if h.id in over and not h.ended_before])
        assert found is not None, "nothing else ends the wait"
        doubts.tell_of(found, batch.engine.store, how.settings, say=tell)
        tell(f"paused: {plural(queued, 'hand-in', 'are')} queued, and charged to nobody")
        if not how.ask or not doubts.go_on():
            # nor is a run of something else in this state to grade them: the same command queues them anew
            left = [handle.id for handle in waiting if handle.id not in seen]
            why = _PAUSED.format(count=found.count)
            seen |= {id_: show.see(batch.engine.store, batch.engine.cancel(id_, reason=why)) for id_ in left}
            return Graded([seen[handle.id] for handle in handles], range(len(handles)), suspicion=found)
        careful = False
        batch.engine.resume()
