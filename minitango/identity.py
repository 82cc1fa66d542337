"""What makes two gradings the same work: the same job, done once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from msgspec import Struct

from minitango import archive, image_name
from minitango.assignment import Submission
from minitango.job import Job, State
from minitango.retry import POISON

ANYWHERE = "anywhere"
"""Stands for the kind of sandbox where several nodes share a queue: who submits does not choose who grades."""


def grader(plan: str, kind: str, names: Sequence[str], images: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    """All but the hand-in: the plan's digest, the kind of sandbox, and the steps' images as far as they moved.

    `images`: as `statedir.known_images` has them.
    """
    # What a name stands for now, nobody is asked: an engine that only submits must come to the same key, also where
    # no sandbox can be reached. What it stood for when it was first met adds nothing: what was submitted before
    # anybody knew is the same work. An image that is built is known by its files, which are in the plan.
    named = [name for name in names if not image_name.is_folder(name)]
    moved = [f"{name}={images[name][1]}" for name in named if name in images and images[name][0] != images[name][1]]
    return plan, kind, *moved


class Work(Struct, frozen=True):
    """One submission, as it would be queued."""

    key: str
    submission: Submission
    inputs: str
    """Digest of the hand-in's bundle."""


def inputs_of(submission: Submission) -> str:
    """The digest of a hand-in's bundle. SubmissionError, ArchiveError."""
    return hashlib.sha256(archive.pack(submission.bundle())).hexdigest()


class Found(Struct, frozen=True):
    """What there is of some submissions in a queue."""

    jobs: tuple[Job | None, ...]
    """For each submission the job that submitting it would give; None where that would make a new one."""
    outdated: tuple[Job, ...]
    """Queued jobs of the same hand-ins, but as another grader would grade them: the assignment changed since."""


def find(works: Sequence[Work], jobs: Sequence[Job]) -> Found:
    """Find each work's job among these, which are in order of submission."""
    latest = {job.key: job for job in jobs if job.key is not None}
    found = [latest.get(work.key) for work in works]
    keys = {work.key for work in works}
    handed_in = {_handed_in(work.submission, work.inputs) for work in works}
    return Found(
        tuple(job if job is not None and holds_its_key(job) else None for job in found),
        tuple(
            job
            for job in jobs
            if job.state is State.QUEUED
            and job.key not in keys
            and (job.assignment, job.course, job.student, job.inputs) in handed_in
        ),
    )


def _handed_in(submission: Submission, inputs: str) -> tuple[str, str, str, str]:
    return submission.assignment.name, submission.course, submission.student, inputs


def holds_its_key(job: Job) -> bool:
    """Whether submitting the same work again gives this job, as `Queue.submit` has it; `job` is its key's latest."""
    if job.state is State.DEAD:
        return job.failure is not None and job.failure.id == POISON.id
    return job.state is State.DONE or (job.state in (State.QUEUED, State.RUNNING) and not job.cancel_requested)
