"""A whole queue from one store to another, with its blobs, and nothing lost."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from minitango import statedir
from minitango.blobs import BlobStore, sync
from minitango.errors import ConfigError, EngineRunning, StoreError, StoreFull
from minitango.failpoint import failpoint
from minitango.room import FULL, full
from minitango.store import Store, is_redis, open_blobs, open_store, settle_copy, shown
from minitango.store.portable import Books, JobDump

_BATCH: Final = 100
"""Jobs whose blobs are carried before they are."""
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})
"""What a file system says that knows no hard links."""
NOTES: Final = ("engine.json", "tried.json")
"""What an engine notes in a state directory, and a backup keeps."""


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
        """What names it on a command line, whatever queue a variable or a file names."""
        beside = self.file is not None and self.file == self.folder / "queue.db"
        shared = "" if self.blobs is None else f" --blobs {shlex.quote(str(self.blobs))}"
        return f" --store {shlex.quote(str(self.folder) if beside else shown(self.url))}{shared}"

    def __str__(self) -> str:
        """For people: its file, or its URL without a password."""
        return str(self.file or shown(self.url))


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
    store = open_store(place.url)
    if place.file is None and not store.books().seq:
        store.close()
        raise ConfigError(
            f"there is no queue at {shown(place.url)}: nothing was ever submitted to it",
            hint="look at its name in the URL (?queue=NAME)",
            id="no_queue",
        )
    return store


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
        blobs = open_blobs(here, source.folder, source.blobs, agreed=True)
        if target.file is None or target.file.exists():
            there = open_store(target.url, filling=True)
            undo.callback(there.close)
            guard(there, target, undo)
            moved = carry(here, there, blobs, open_blobs(there, target.folder, target.blobs))
            there.recover()
            return moved
        with new_place(target), workplace(target.file.parent, target.file.parent, "no queue was made") as work:
            with closing(open_store(f"sqlite:///{work / 'queue.db'}")) as there:
                moved = carry(here, there, blobs, open_blobs(there, target.folder, target.blobs))
                there.recover()
            put_in_place(work / "queue.db", target.file)
    return moved


def standing(place: Place) -> Literal["nothing", "half", "whole"]:
    """How much is there of a queue that somebody was to make at a place where none was. StoreError."""
    if place.file is not None and not place.file.exists():
        return "nothing"
    try:
        with closing(open_store(place.url)) as store:
            return "whole" if any(store.counts().values()) else "nothing"
    except StoreError as error:
        if error.id != "store_filling":
            raise
        return "half"


@contextmanager
def workplace(parent: Path, dest: Path, so: str) -> Iterator[Path]:
    """A folder for this user alone, on the disk where something is to be, which goes again: errors speak of `dest`, as
    it was named, and `so` is what it comes to that its disk is full. ConfigError `output`, StoreFull."""
    try:
        made = Path(tempfile.mkdtemp(prefix=".minitango-", dir=parent))
    except OSError as error:
        if error.errno in FULL:
            raise full(dest, so) from error
        raise ConfigError(
            f"nothing can be written to {parent}: {error.strerror}", hint="choose another place", id="output"
        ) from error
    try:
        yield made
    except StoreFull as error:
        if error.place is not None and error.place.is_relative_to(made):
            raise full(dest, so) from error
        raise
    except OSError as error:
        if error.errno in FULL:  # the error may name what was copied: nothing is written but here
            raise full(dest, so) from error
        raise ConfigError(
            f"{dest if _is_below(error.filename, made) else error.filename} cannot be written or read: "
            f"{error.strerror}",
            hint=f"look at its disk: df -h {shlex.quote(str(parent))}",
            id="output",
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _is_below(path: object, folder: Path) -> bool:
    """Whether a path that an error names is in this folder, or none is named."""
    return not isinstance(path, str | os.PathLike) or Path(path).is_relative_to(folder)


@contextmanager
def new_place(place: Place) -> Iterator[None]:
    """Have the directory of a queue that is to be in a file, and its lock. Where this ends with an exception, what we
    put there meanwhile is taken away again, and the directory, if it was not there before and nothing else came to lie
    in it; unless the queue is there.

    ConfigError `store_not_empty` where it is there already; EngineRunning, StoreError; StoreFull, which speaks of the
    directory.
    """
    try:
        with _new_place(place):
            yield
    except StoreFull as error:
        if error.place is not None and error.place.is_relative_to(place.folder):
            raise full(place.folder, "no queue was made") from error
        raise


@contextmanager
def _new_place(place: Place) -> Iterator[None]:
    assert place.file is not None
    missing = [path for path in (place.folder, *place.folder.parents) if not path.exists()]
    statedir.make(place.folder)
    release = statedir.lock(place.folder)
    try:
        if os.path.lexists(place.file):
            raise there_already(place.file)
        before = set(_ours(place.folder))
        try:
            yield
        except BaseException:
            if not os.path.lexists(place.file):
                _take_away([path for path in _ours(place.folder) if path not in before])
                if missing:
                    _take_away([place.folder / "engine.lock", *missing])
            raise
    finally:
        release()


def _ours(folder: Path) -> list[Path]:
    """What lies in a state directory and is called as what is put there for a queue, but for its file and its lock,
    each before the folder that it is in. While the lock is held, nobody but we puts there what is called so."""
    blobs = folder / "blobs"
    named = "[0-9a-f]" * 2
    found = [*blobs.glob(f"{named}/{'[0-9a-f]' * 64}"), *blobs.glob(f"tmp/{os.getpid()}.*")]
    found += [*blobs.glob(named), blobs / "tmp", blobs, *(folder / name for name in NOTES)]
    return [path for path in found if os.path.lexists(path)]


def _take_away(paths: Iterable[Path]) -> None:
    """These files, and those of the folders that nothing lies in."""
    for path in paths:
        with suppress(OSError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def put_in_place(made: Path, file: Path) -> None:
    """Have a whole store, which nobody uses yet, where others look for it, and never over another. ConfigError
    `store_not_empty`."""
    settle_copy(made)
    made.chmod(0o600)
    sync_file(made)
    failpoint("moving.before_link")
    try:
        give_name(made, file)
    except FileExistsError:
        raise there_already(file) from None
    sync(file.parent)


def give_name(made: Path, name: Path) -> None:
    """Have a file, which is whole, under this name, too, or only under this one; never over another: FileExistsError.
    Where the file system knows no hard links (FAT, SMB), what came there in the same moment may be replaced."""
    try:
        os.link(made, name)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(name)) from error
        made.rename(name)


def there_already(file: Path) -> ConfigError:
    return ConfigError(
        f"there is a queue at {file}",
        hint="name a state directory that is not there yet: --state DIR",
        id="store_not_empty",
    )


def sync_file(path: Path) -> None:
    """Have its bytes on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


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
