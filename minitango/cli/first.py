"""Before hundreds of hand-ins are queued: one is graded alone, a sample whose grade is known, or else the first."""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from minitango import archive, statedir
from minitango.assignment import Assignment, Sample, Submission
from minitango.cli import details, show, verdict
from minitango.cli.doubts import evidence
from minitango.cli.grading import Batch
from minitango.cli.progress import Progress
from minitango.cli.settings import Settings
from minitango.cli.show import Seen
from minitango.cli.streams import tell
from minitango.errors import GraderSuspected, JobDead, SampleMissed, SubmissionError
from minitango.handle import JobHandle
from minitango.job import Outcome, State
from minitango.text import one_line

NOTICEABLE: Final = 2.0
"""Seconds of waiting after which it is said what is waited for."""
STRIKES: Final = 2
"""Hand-ins without a score, each graded alone, that are the grader's fault. One may have spoilt its own report."""
_ALL_THE_SAME: Final = "to grade all the same, the same command with --no-preflight"


class Alone(Struct, frozen=True):
    """A hand-in that was graded before the others were queued."""

    number: int
    """Which one of the batch."""
    handle: JobHandle
    seen: Seen


def best(samples: Sequence[Sample]) -> Sample | None:
    """The sample that says most: of those that expect a score the highest one, which no broken grader gives."""
    return max(samples, key=lambda sample: -1.0 if sample.score is None else sample.score, default=None)


class Mark:
    """What was tried here: noted in the state, so that it is not tried again before something changes."""

    def __init__(
        self, batch: Batch, assignment: Assignment, sample: Submission | None, expected: object = None
    ) -> None:
        inputs = hashlib.sha256(archive.pack(sample.bundle())).hexdigest() if sample is not None else ""
        parts = (batch.engine.fingerprint(assignment), inputs, repr(expected))
        self._state = batch.engine.state
        self._mark = hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def is_there(self) -> bool:
        return self._mark in statedir.tried(self._state)

    def set(self) -> None:
        statedir.note_tried(self._state, self._mark)


def try_sample(batch: Batch, assignment: Assignment, sample: Sample, place: Path, *, again: bool, quiet: bool) -> None:
    """Grade the sample beside the queue, unless that went well before in this state, or it is to be done `again`.

    SampleMissed: it did not get what is expected. GraderSuspected: it could not be graded. What tells why is printed.
    """
    name = one_line(verdict.title(sample), 100)
    submission = Submission(assignment, student=f"sample {name}", files=assignment.root / sample.path)
    try:
        mark = Mark(batch, assignment, submission, (str(sample.outcome), sample.score))
    except SubmissionError as error:
        raise SubmissionError(
            f"{place}: the sample {name} cannot be taken: {error}",
            hint=f"correct it ({error.hint}); {_ALL_THE_SAME}",
            id=error.id,
        ) from error
    if mark.is_there() and not again:
        return
    slow = _said_if_slow(f"the sample {name} is graded before anything is queued", tell, quiet=quiet)
    try:
        with slow, batch.engine.trial(submission) as trial:
            result = trial.result()
            outputs = trial.outputs()
    except JobDead as error:
        raise GraderSuspected(
            f"{place}: the sample {name} could not be graded, so nothing was queued: {error}",
            hint="; ".join(filter(None, [error.hint, _ALL_THE_SAME])),
        ) from error
    wrong = verdict.wrong(sample, outcome=result.outcome, score=result.score, reason=result.reason)
    if wrong:
        for line in details.why(result, outputs):
            tell(f"  {line}")
        note = f" ({result.reason})" if result.reason and result.reason not in wrong else ""
        raise SampleMissed(
            f"{place}: the sample {name} was to get {verdict.expected(sample)}: {wrong}{note}; nothing was queued",
            hint=f"correct the grader, until {_check(place)} is content; {_ALL_THE_SAME}",
        )
    mark.set()


def try_handins(
    batch: Batch,
    assignment: Assignment,
    submissions: Sequence[Submission],
    numbers: Sequence[int],
    shown: Progress,
    *,
    settings: Settings,
    fresh: bool,
    quiet: bool,
    ids: set[str],
) -> list[Alone]:
    """Grade the first of these hand-ins (by their numbers) alone; a second one, where the first has no score.

    They are jobs as any other, and count. `ids` is told of them. GraderSuspected: the grader or the assignment is at
    fault, as far as can be told.
    """
    mark = Mark(batch, assignment, None)
    done: list[Alone] = []
    if mark.is_there() and not fresh:
        return done
    for number in numbers[:STRIKES]:
        (handle,) = batch.engine.submit_many([submissions[number]], fresh=fresh)
        ids.add(handle.id)
        who = one_line(submissions[number].student, 60)
        with _said_if_slow(f"{who} is graded first, alone, before the others are queued", shown.say, quiet=quiet):
            (seen,) = batch.wait([handle], shown)
        done.append(Alone(number, handle, seen))
        if seen.job.state is State.DEAD:
            break
        if seen.job.outcome is not Outcome.NO_SCORE:
            if seen.job.outcome is Outcome.GRADED:
                mark.set()
            return done
    if len(done) < len(numbers):
        raise _at_fault(batch, done, len(numbers), settings)
    return done


def _at_fault(batch: Batch, done: Sequence[Alone], total: int, settings: Settings) -> GraderSuspected:
    job = done[-1].seen.job
    dead = job.state is State.DEAD
    became = "could not be graded" if dead else "got no score"
    who = " and ".join(one_line(each.seen.job.student, 60) for each in done)
    for line in evidence(job, batch.engine.store, settings):
        tell(line)
    others = show.plural(total - len(done), "other hand-in")
    which = f"{who}, graded first and alone, {became}: {one_line(show.note(done[-1].seen), 300)}"
    blamed = "the assignment or this machine" if dead else "your grader"
    return GraderSuspected(
        f"{which}; probably {blamed}, not your students; {others} not queued",
        hint=f"correct it (a [[sample]] in assignment.toml would be tried first); {_ALL_THE_SAME}",
    )


def _check(place: Path) -> str:
    return f"minitango check {shlex.quote(str(place))}"


@contextlib.contextmanager
def _said_if_slow(text: str, say: Callable[[str], None], *, quiet: bool) -> Iterator[None]:
    if quiet:
        yield
        return
    timer = threading.Timer(NOTICEABLE, say, [f"{text} (--no-preflight: all at once)"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
