"""A job as programs are told of it: by `--json`, and by a callback. Versioned: fields may be added, none goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct, structs

from minitango.job import ORIGIN, SCHEMA, TURN, Job, Notice, Outcome, Result, State, Trust, signs_in


class ErrorRecord(Struct, frozen=True):
    """Why something could not be done."""

    id: str
    """One of those in docs/cli.md: stable."""
    message: str
    hint: str
    """What to do next; may be empty."""


class JobRecord(Struct, frozen=True):
    """One job."""

    id: str
    """Opaque."""
    assignment: str
    student: str
    title: str
    """What the hand-in is called: a file's name."""
    state: State
    outcome: Outcome | None
    """What grading found; null unless the state is done."""
    score: float | None
    """Null unless the outcome is graded: what could not be graded is never a 0."""
    max_score: float | None
    trust: Trust | None
    reason: str
    """A few words on what went wrong; empty for a plain grade."""
    warnings: tuple[Notice, ...]
    attempts: int
    failures: int
    """Attempts that went wrong and were charged."""
    interruptions: int
    """Attempts that were cut short by the end of their engine: not charged."""
    submitted: float
    started: float | None
    """When the latest attempt began."""
    ended: float | None
    wall: float | None
    """Seconds that the steps took."""
    supersedes: str | None
    """The id of the job in whose place this one is."""
    error: ErrorRecord | None
    """Why the job is dead, or why its latest attempt failed."""
    signs: tuple[str, ...]
    """Ids of those warnings that may be signs of tampering; empty where the score was out of the hand-in's reach."""


class Document(Struct, frozen=True, kw_only=True):
    """The whole answer of a command."""

    schema: Literal[1] = SCHEMA
    """The version of this document's schema."""


class ToldRecord(JobRecord, frozen=True):
    """One job that has ended, with all that its receiver may want to know."""

    course: str
    labels: dict[str, str]
    """As they were submitted, but for the place of the assignment on its machine."""
    result: Result | None
    """Null unless the state is done. Whole, with what is hidden from students."""


class Told(Document, frozen=True, kw_only=True):
    """The body of a callback."""

    job: ToldRecord


def of(job: Job, warnings: Sequence[Notice] = ()) -> JobRecord:
    """The record of a job, with what its result warns of."""
    failure = job.failure
    return JobRecord(
        id=job.id,
        assignment=job.assignment,
        student=job.student,
        title=job.title,
        state=job.state,
        outcome=job.outcome,
        score=job.score,
        max_score=job.max_score,
        trust=job.trust,
        reason=job.reason,
        warnings=tuple(warnings),
        attempts=job.attempt,
        failures=job.failures,
        interruptions=job.interruptions,
        submitted=job.submitted,
        started=job.started,
        ended=job.ended,
        wall=round(job.wall, 6) if job.wall is not None else None,
        supersedes=job.supersedes,
        error=ErrorRecord(failure.id, failure.message, failure.hint) if failure is not None else None,
        signs=tuple(dict.fromkeys(notice.id for notice in signs_in(warnings, job.trust))),
    )


def told(job: Job, result: Result | None) -> Told:
    """What a callback says of a job."""
    base = of(job, result.warnings if result is not None else ())
    labels = {name: value for name, value in job.labels.items() if name not in (ORIGIN, TURN)}
    return Told(job=ToldRecord(**structs.asdict(base), course=job.course, labels=labels, result=result))
