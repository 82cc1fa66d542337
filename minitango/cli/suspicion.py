"""Do these results look like a broken grader, and not like students who did badly? Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from minitango.job import Job, Notice, Outcome, State

ENOUGH: Final = 5
"""Hand-ins that have to end alike before a run is paused."""
HANGING: Final = 3
"""As many are enough where each took all its time without a word: every further one costs as much again."""
_NOT_GRADABLE: Final = "not_gradable"
ALIKE: Final = 3
"""Hand-ins that have to end alike before it is said of a run that is over."""


_NUMBER: Final = re.compile(r"[0-9][0-9a-fA-F.]*")
"""What differs from run to run in what a program prints: times, processes, temporary names."""


class Suspicion(Struct, frozen=True):
    """So many jobs ended alike, and none of them earned anything."""

    count: int
    job: Job
    """The first of them, which stands for all."""

    @property
    def whose(self) -> str:
        """Who is suspected, and who is not."""
        if self.job.state is State.DEAD:
            return "probably the assignment or this machine, not your students"
        return "probably your grader, not your students"


def suspicion(
    ended: Sequence[Job],
    before: Sequence[Job] = (),
    *,
    enough: int,
    silent: Callable[[Job], bool] = lambda job: False,
    blamed: Callable[[Job], bool] = lambda job: False,
) -> Suspicion | None:
    """What speaks against the grader: at least `enough` jobs ended, all for the same reason, and none earned anything.
    HANGING are enough where all passed the time limit and were `silent` in the step that did.

    `before`: jobs of the same assignment that ended in earlier runs. They are not counted, but one of them that earned
    something clears the grader; and so does any that is `blamed`: whose grader itself says that the hand-in is at
    fault. Jobs that were cancelled say nothing. `silent` and `blamed` are asked only where it matters.
    """
    said = [job for job in ended if job.state is not State.CANCELLED]
    if len(said) < min(enough, HANGING) or not alike(said) or not all(map(earned_nothing, said)):
        return None
    if any(map(clears, before)):
        return None
    if len(said) < enough and not all(job.outcome is Outcome.TIME_LIMIT and silent(job) for job in said):
        return None
    if any(map(blamed, (*said, *before))):
        return None
    return Suspicion(len(said), said[0])


def clears(job: Job) -> bool:
    """Whether this one alone shows that its grader can give points."""
    return job.state is State.DONE and not earned_nothing(job)


def blames(warnings: Sequence[Notice]) -> bool:
    """Whether a grader says by these that it is the hand-in that is at fault."""
    return any(notice.id == _NOT_GRADABLE for notice in warnings)


def alike(ended: Sequence[Job]) -> bool:
    """Whether they all ended in the same way, for the same reason."""
    return len({_how(job) for job in ended}) <= 1


def earned_nothing(job: Job) -> bool:
    """Whether it ended without a score, or with 0 where more could be had. One that was cancelled did not."""
    if job.outcome is Outcome.GRADED:
        # without a maximum, a reason says that something failed: as where unittest cannot import its tests
        return job.score == 0 and (job.max_score is not None or job.reason != "")
    return job.state in (State.DONE, State.DEAD)


def _how(job: Job) -> tuple[object, ...]:
    """What makes two ends alike."""
    failure = job.failure.id if job.failure is not None and job.state is State.DEAD else ""
    return job.state, job.outcome, _NUMBER.sub("#", job.reason), failure


def full_marks(job: Job) -> bool:
    """Whether there is nothing to ask about its grade."""
    if job.outcome is not Outcome.GRADED or job.score is None:
        return False
    enough = job.score > 0 if job.max_score is None else job.score >= job.max_score
    return job.warnings == 0 and enough
