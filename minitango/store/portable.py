"""A queue, whole, in no store's own form: how it goes from one store to another, and into a backup."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from minitango.blobs import check_digest
from minitango.errors import ConfigError
from minitango.job import Attempt, Job, State, StepOutput


class Streak(Struct, frozen=True):
    """A job's uncharged failures in a row, with what a store keeps of them beside `retry.Hold`."""

    times: int
    since: float
    alone: bool
    at: float
    """When the latest was."""
    mark: int
    """The last `ended_seq` at that time."""


class Post(Struct, frozen=True):
    """What became so far of the callback of a job that ended, beside `Job.delivery`."""

    since: float
    due: float | None = None
    """Of one that is pending: when it is tried next, or when the try under way lapses."""
    tries: int = 0
    token: str | None = None
    """Of the try under way."""
    settled: float | None = None
    error: str = ""


class JobDump(Struct, frozen=True):
    """One job, with all that a store knows of it."""

    job: Job
    refs: tuple[str, ...]
    due_since: float
    attempts: tuple[Attempt, ...] = ()
    result: bytes | None = None
    """JSON, as it was recorded."""
    outputs: tuple[StepOutput, ...] = ()
    streak: Streak | None = None
    """Of a job that has not ended."""
    post: Post | None = None
    token: str | None = None
    """Of the lease of a job that runs."""
    solo_lease: bool = False
    holder: bool = False
    """Whether it is the latest job of its key."""

    @property
    def digests(self) -> tuple[str, ...]:
        """The blobs that it needs."""
        return self.job.spec, self.job.inputs, *self.refs

    def checked(self) -> JobDump:
        """The same. ValueError where what is to name a blob cannot: its record was damaged."""
        for digest in self.digests:
            check_digest(digest)
        return self


class Books(Struct, frozen=True):
    """What a queue knows beside its jobs."""

    seq: int
    """The last number that was given to a job, forgotten or not."""
    ended_seq: int
    drained: tuple[str, ...] = ()
    """Nodes that are to take no more."""
    jobs: int = 0
    """How many it has."""
    cancels: tuple[str, ...] = ()
    """Running jobs whose cancel was requested, in the order of their ids."""
    posts: str = ""
    """A digest of which callbacks are pending, and when each is due; empty where none is."""


def posts_digest(due: Iterable[tuple[str, float]]) -> str:
    """`Books.posts` of jobs and due times, in any order."""
    said = sorted(f"{job} {when!r}" for job, when in due)
    return hashlib.sha256("\n".join(said).encode()).hexdigest() if said else ""


class Copy(Struct, frozen=True):
    """What a snapshot holds."""

    counts: Mapping[State, int]
    digests: tuple[str, ...]
    """The blobs that its jobs need."""
    beside: tuple[str, ...]
    """Those of them that are not in its file."""


class Portable(Protocol):
    """Verbs that take a whole queue out of a store, and into one. Nodes do not move: they are where they are."""

    def books(self) -> Books:
        """As they are now. Whoever finds them equal twice knows that nobody submitted between, nor ended, cancelled or
        forgot a job, nor asked for a delivery; a job that was claimed and is running is not seen in them."""
        ...

    def others(self) -> tuple[str, ...]:
        """The names of other queues of this place that have jobs: of all verbs here only `snapshot` knows of them."""
        ...

    def dump(self) -> Iterator[JobDump]:
        """The jobs of this queue that were there when it began, in order of submission; none waits for us meanwhile.

        With SQLite all are of one moment. With Redis each is of one, and jobs may move on between: of what moves,
        each is there as it was before or after.
        """
        ...

    def load(self, jobs: Iterable[JobDump], books: Callable[[], Books]) -> int:
        """Make this queue what was dumped, under its own name; returns how many jobs that are.

        `jobs` are in order of submission. `books` is asked when they are all in, and may still raise. Only a
        place without jobs is filled: ConfigError `store_not_empty`. Nothing can be seen before all is there: with
        SQLite it is one transaction; a queue on Redis refuses whoever opens or changes it (`store_filling`) until this
        has returned. Where this raises, the place is as it was, if it can be reached still; where it cannot, or where
        this dies, it may be begun again.
        """
        ...

    def snapshot(self, path: Path) -> None:
        """Write this place into a new SQLite store at `path`, as of one moment as far as `dump` can: with SQLite
        every queue of the file. Safe beside engines, which do not wait."""
        ...


def not_empty(shown: str) -> ConfigError:
    return ConfigError(
        f"there are jobs in {shown}", hint="name a place that is not there yet, or a new queue", id="store_not_empty"
    )
