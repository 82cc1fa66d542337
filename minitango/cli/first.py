"""Before hundreds of hand-ins are queued: a sample whose grade is known is tried alone, or else up to three of them."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from minitango import archive, statedir
from minitango.assignment import Assignment, Sample, Submission
from minitango.cli import details, show, verdict
from minitango.cli.doubts import evidence, on_samples, on_your_own, silent
from minitango.cli.grading import Batch
from minitango.cli.progress import Progress
from minitango.cli.settings import Settings
from minitango.cli.show import Seen
from minitango.cli.streams import tell
from minitango.cli.suspicion import alike, blames
from minitango.errors import GraderSuspected, JobDead, SampleMissed, SubmissionError
from minitango.handle import JobHandle
from minitango.job import Outcome, State
from minitango.text import one_line, plural

NOTICEABLE: Final = 2.0
"""Seconds of waiting after which it is said what is waited for."""
STRIKES: Final = 3
"""Hand-ins without a score, each graded alone, that are the grader's fault where they have one reason. Fewer may have
spoilt their own reports."""
"""The notice by which a grader blames the hand-in."""
_ALL_THE_SAME: Final = "to grade all the same, the same command with --no-preflight"


class Alone(Struct, frozen=True):
    """A hand-in that was graded before the others were queued."""

    number: int
    """Which one of the batch."""
    handle: JobHandle
    seen: Seen


class Tried(Struct, frozen=True):
    """What came of the hand-ins that were graded before the others."""

    done: Sequence[Alone] = ()
    fault: GraderSuspected | None = None
    """What there is to raise where they speak against the grader: the others are not to be queued."""


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
            hint=f"correct the grader, until {on_samples(place)} is content; {_ALL_THE_SAME}",
        )
    mark.set()


def try_handins(
    batch: Batch,
    assignment: Assignment,
    submissions: Sequence[Submission],
    numbers: Sequence[int],
    place: Path,
    shown: Progress,
    *,
    settings: Settings,
    fresh: bool,
    quiet: bool,
    ids: set[str],
) -> Tried:
    """Grade up to three of these hand-ins (by their numbers), each alone, until one clears the grader.

    They are jobs as any other, and count. `ids` is told of them. The grader is cleared by a score, by a limit that was
    passed, by its own word that the hand-in is at fault, and by two without a score for different reasons. A time limit
    that was passed without a word does not clear it; then the others are graded at once, for each may take as long.
    """
    mark = Mark(batch, assignment, None)
    done: list[Alone] = []
    if mark.is_there() and not fresh:
        return Tried()
    left = list(spread(numbers))
    while left:
        turn = left if done and _hung(batch, done[-1].seen) else left[:1]
        left = left[len(turn) :]
        handles = batch.engine.submit_many([submissions[number] for number in turn], fresh=fresh)
        ids.update(handle.id for handle in handles)
        who = _names([submissions[number].student for number in turn])
        how = "is graded first, alone," if len(turn) == 1 else "are graded"
        with _said_if_slow(f"{who} {how} before the others are queued", shown.say, quiet=quiet):
            got = batch.wait(handles, shown)
        done += [Alone(*each) for each in zip(turn, handles, got, strict=True)]
        if any(seen.job.outcome is Outcome.GRADED for seen in got):
            mark.set()
        if any(_clears(batch, seen) for seen in got):
            return Tried(done)
        if any(seen.job.state is State.DEAD for seen in got):
            break
        if not alike([each.seen.job for each in done]):
            return Tried(done)
    if len(done) == len(numbers):
        return Tried(done)  # nobody is left to be spared
    return Tried(done, _at_fault(batch, done, len(numbers), place, settings))


def spread(numbers: Sequence[int]) -> Sequence[int]:
    """The first, one in the middle and the last: neighbours in the alphabet may share more than the grader."""
    if len(numbers) <= STRIKES:
        return numbers
    return [numbers[0], numbers[len(numbers) // 2], numbers[-1]]


def _clears(batch: Batch, seen: Seen) -> bool:
    """Whether this one says by itself that the grader works."""
    if seen.job.state is not State.DONE or _hung(batch, seen):
        return False
    return seen.job.outcome is not Outcome.NO_SCORE or blames(seen.warnings)


def _hung(batch: Batch, seen: Seen) -> bool:
    """Whether it took all its time without a word."""
    return seen.job.outcome is Outcome.TIME_LIMIT and silent(batch.engine.store, seen.job)


def _names(students: Sequence[str]) -> str:
    *first, last = (one_line(student, 60) for student in students)
    return f"{', '.join(first)} and {last}" if first else last


def _at_fault(batch: Batch, done: Sequence[Alone], total: int, place: Path, settings: Settings) -> GraderSuspected:
    """Those that are `done` had no score for one reason; or one of them is dead, whatever the others had."""
    last = next((each.seen for each in done if each.seen.job.state is State.DEAD), done[-1].seen)
    for line in evidence(last.job, batch.engine.store, settings):
        tell(line)
    why = one_line(show.note(last), 300)
    if last.job.state is State.DEAD:
        which = f"{_names([last.job.student])}, graded alone before the others, could not be graded: {why}"
        blamed = "the assignment or this machine"
    else:
        who = _names([each.seen.job.student for each in done])
        how = "graded before the others" if _hung(batch, last) else "each graded alone"
        which = f"{who}, {how}, got no score for the same reason: {why}"
        blamed = "your grader"
    others = plural(total - len(done), "other hand-in")
    return GraderSuspected(
        f"{which}; probably {blamed}, not your students; {others} not queued",
        hint=f"correct it, and try it: {on_your_own(place, settings.flags)}; {_ALL_THE_SAME}",
    )


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
