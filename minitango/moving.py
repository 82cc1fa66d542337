"""A whole queue from one store to another, with its blobs, and nothing lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Final

from msgspec import Struct

from minitango import statedir
from minitango.blobs import BlobStore
from minitango.errors import ConfigError, EngineRunning
from minitango.store import Store, is_redis, open_blobs, open_store, shown
from minitango.store.portable import Books, JobDump

_BATCH: Final = 100
"""Jobs whose blobs are carried before they are."""


class Place(Struct, frozen=True):
    """Where a queue is."""

    url: str
    folder: Path
    """Its state directory: that of the queue, or of a node of it."""
    blobs: Path | None = None
    """Where its nodes share blobs; None: where the store has them."""

    @classmethod
    def of(cls, store: str, state: str | None = None, blobs: str | None = None) -> Place:
        """The place that a URL or a state directory names."""
        url, folder = statedir.locate(store, state)
        return cls(url, folder, None if blobs is None else Path(blobs).absolute())

    @property
    def file(self) -> Path | None:
        """The SQLite file; None: it is on a server."""
        return None if is_redis(self.url) else Path(self.url.partition("://")[2][1:])

    @property
    def flags(self) -> str:
        """What names it on a command line."""
        beside = self.file is not None and self.file == self.folder / "queue.db"
        return f" --state {self.folder}" if beside else f" --store '{shown(self.url)}'"


class Moved(Struct, frozen=True):
    """What was carried."""

    jobs: int
    blobs: int
    left: tuple[str, ...] = ()
    """Other queues of the source that have jobs, and were not carried."""


def open_source(place: Place) -> Store:
    """Open a queue that is there. ConfigError `no_queue`, StoreError."""
    if place.file is not None and not place.file.exists():
        raise ConfigError(
            f"there is no queue at {place.file}", hint="name its state directory, or its URL", id="no_queue"
        )
    return open_store(place.url)


def migrate(source: Place, target: Place) -> Moved:
    """Make the queue at `target` what the one at `source` is: each job with its id, number, state, attempts, result,
    outputs, key and hold, the order of the ends, and all blobs. Jobs that ran when their engine died are queued there.

    The source is only read, and stays. Nobody sees the target before it is whole; killed, it may be begun again.
    EngineRunning where somebody grades at either; ConfigError `store_not_empty` where jobs are at the target,
    `queue_moved` where somebody submits, cancels, prunes or redelivers meanwhile, `same_queue`, `no_queue`; StoreError,
    BlobError.
    """
    if source.url == target.url:
        raise ConfigError(f"{shown(source.url)} is both, FROM and TO", hint="name two places", id="same_queue")
    with ExitStack() as undo:
        here = open_source(source)
        undo.callback(here.close)
        guard(here, source, undo)
        if target.file is not None:
            statedir.make(target.folder)
        there = open_store(target.url, filling=True)
        undo.callback(there.close)
        guard(there, target, undo)
        moved = carry(
            here, there, open_blobs(here, source.folder, source.blobs), open_blobs(there, target.folder, target.blobs)
        )
        there.recover()
    return moved


def carry(here: Store, there: Store, from_blobs: BlobStore, to_blobs: BlobStore) -> Moved:
    """Fill `there` with what is here. Both are guarded."""
    carried: set[str] = set()

    def jobs() -> Iterator[JobDump]:
        waiting = here.dump()
        while batch := list(islice(waiting, _BATCH)):
            wanted = dict.fromkeys(digest for dumped in batch for digest in dumped.digests if digest not in carried)
            to_blobs.put_many(from_blobs.get(digest, keep=False) for digest in wanted)
            carried.update(wanted)
            yield from batch

    before = here.books()

    def books() -> Books:
        refuse_living(here)
        if here.books() != before:
            raise ConfigError(
                "jobs were submitted, cancelled, pruned or redelivered while the queue moved",
                hint="stop what submits, and repeat it",
                id="queue_moved",
            )
        return before

    return Moved(there.load(jobs(), books), len(carried), here.others())


def guard(store: Store, place: Place, undo: ExitStack) -> None:
    """Be sure that no engine grades there, until `undo` is closed. EngineRunning."""
    if store.shared:
        refuse_living(store)
    else:
        undo.callback(statedir.lock(place.folder))


def refuse_living(store: Store) -> None:
    """EngineRunning where a node of a shared queue is alive."""
    if not store.shared:
        return
    now = store.now()
    for node in store.nodes():
        if now - node.seen < node.good_for:
            raise EngineRunning(
                f"the node {node.name} ({node.host}, process {node.pid}) grades this queue",
                pid=node.pid,
                hint=f"stop it; one that died counts for {node.good_for:.0f} s",
            )
