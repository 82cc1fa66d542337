"""What a queue needs of submissions: their files in blobs, and a `JobSpec` for each."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from minitango import archive, identity, statedir
from minitango.assignment import Packed, Submission
from minitango.blobs import BlobStore
from minitango.callback_url import Callbacks
from minitango.errors import ConfigError
from minitango.graders import Graders
from minitango.job import JobSpec, lane_of, work_key

if TYPE_CHECKING:
    from minitango.assignment import Assignment

REPACK: Final = 60.0
"""Seconds after which an assignment is packed again in the middle of many submissions: well within a prune's grace."""
LATE: Final = 600.0
"""Seconds after which what was put first is looked for again before its job is: well within a prune's grace."""


class Intake:
    """Turns submissions into specs. Safe from any thread."""

    def __init__(self, blobs: BlobStore, graders: Graders, callbacks: Callbacks) -> None:
        self._blobs = blobs
        self._graders = graders
        self._callbacks = callbacks

    def take(self, submissions: Iterable[Submission]) -> list[JobSpec]:
        """Have all files of these submissions, and of their assignments, in blobs: durable once their jobs are, and
        spared by a prune for its grace, however long this takes. Few bundles at a time are in memory; an assignment is
        read once, or once a REPACK.

        ConfigError, SubmissionError, ArchiveError, AssignmentError, StoreError, StoreFull.
        """
        taken: list[tuple[Submission, Packed]] = []
        packs: dict[int, tuple[float, Packed]] = {}  # by the id of objects that `taken` holds

        def packed_of(assignment: Assignment) -> Packed:
            now = time.monotonic()
            at, packed = packs.get(id(assignment), (-math.inf, None))
            if packed is None or now - at > REPACK:
                packed = assignment.pack(self._blobs)
                packs[id(assignment)] = now, packed
            return packed

        def bundles() -> Iterator[bytes]:
            for submission in submissions:
                if not isinstance(submission, Submission):
                    text = f"{type(submission).__name__} is not a Submission"
                    raise ConfigError(
                        text, hint="Submission(assignment, student=..., files=...)", id="not_a_submission"
                    )
                if submission.callback:
                    self._callbacks.check(submission.callback)
                taken.append((submission, packed_of(submission.assignment)))
                yield archive.pack(submission.bundle())

        begun = time.monotonic()
        digests = self._blobs.put_many(bundles(), ahead=True)
        while time.monotonic() - begun > LATE:
            begun = time.monotonic()
            self._put_again(taken, digests)
        images = self._graders.images()
        return [
            JobSpec(
                assignment=submission.assignment.name,
                student=submission.student,
                spec=packed.digest,
                inputs=digest,
                key=self._key(submission, packed, digest, images),
                course=submission.course,
                title=submission.title,
                priority=submission.priority,
                lane=lane_of(submission.assignment.needs),
                labels=dict(submission.labels),
                refs=packed.refs,
                callback=submission.callback,
            )
            for (submission, packed), digest in zip(taken, digests, strict=True)
        ]

    def _put_again(self, taken: list[tuple[Submission, Packed]], digests: list[str]) -> None:
        """Have it all in blobs as if it had been put now, also what a prune has removed meanwhile. Changes both lists
        where that is other than it was: an assignment that was changed, and pruned as it was, is as it is now."""
        there = {digest for digest in dict.fromkeys(digests) if self._blobs.touch(digest)}
        gone = [at for at, digest in enumerate(digests) if digest not in there]
        again = self._blobs.put_many((archive.pack(taken[at][0].bundle()) for at in gone), ahead=True)
        for at, digest in zip(gone, again, strict=True):
            digests[at] = digest
        packs: dict[tuple[int, str], Packed] = {}
        for at, (submission, packed) in enumerate(taken):
            assignment, which = submission.assignment, (id(submission.assignment), packed.digest)
            if which not in packs:
                kept = all(self._blobs.touch(digest) for digest in (packed.digest, *packed.refs))
                packs[which] = packed if kept else assignment.pack(self._blobs)
            taken[at] = submission, packs[which]

    def works(self, submissions: Sequence[Submission]) -> list[identity.Work]:
        """What these submissions are to a queue, without anything of them in blobs but their assignments."""
        images = self._graders.images()
        works = []
        for submission in submissions:
            inputs = identity.inputs_of(submission)
            key = self._key(submission, submission.assignment.pack(self._blobs), inputs, images)
            works.append(identity.Work(key, submission, inputs))
        return works

    def fingerprint(self, assignment: Assignment) -> str:
        """See `Engine.fingerprint`."""
        parts = self._graders.of(assignment, assignment.pack(self._blobs).digest, self._graders.images())
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _key(self, submission: Submission, packed: Packed, inputs: str, images: statedir.Images) -> str:
        grader = self._graders.of(submission.assignment, packed.digest, images)
        return work_key(grader, submission.course, submission.student, inputs, submission.labels)
