"""Blobs in a directory that somebody named for them, and may have named for another queue, too."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from minitango.blobs import Blobs, Pruned, go_on, sync
from minitango.errors import BlobError, ConfigError

_MARKS: Final = "queues"
"""The folder in it in which each queue that put something there has a file, named by its identity."""


def elsewhere(look: Callable[[], None], error: BlobError) -> BlobError:
    """What to say of a file that is not where this node looks: `blob_elsewhere` where `look` raises ConfigError, since
    that is not the place; else the error as it is. StoreError where that cannot be asked now."""
    try:
        look()
    except ConfigError as differs:
        return BlobError(f"{error.message}; {differs.message}", hint=differs.hint, id="blob_elsewhere")
    return error


class SharedFolder(Blobs):
    """As `Blobs`. What one queue does not need another may: where several have put files here, nothing is pruned.

    What is not there is missing only where the queue's mark is: without it this is another directory, or one that is
    not mounted."""

    def __init__(self, root: Path, identity: Callable[[], str]) -> None:
        """`identity` tells which queue this is, the same for ever and from wherever it is asked. StoreError."""
        super().__init__(root)
        self._identity = identity
        self.marked = False
        """Whether we know that the mark of this queue is there."""

    def mark(self) -> Path:
        """Where the mark of this queue is to be. StoreError."""
        return self.root / _MARKS / self._identity()

    def is_marked(self) -> bool:
        """Whether this queue has put files there; False also where that cannot be seen. StoreError."""
        return os.path.exists(self.mark())  # noqa: PTH110 - never raises

    def check(self) -> None:
        """ConfigError `blobs_differ` where this queue has not put files there. StoreError."""
        if not self.is_marked():
            raise self._differs("the files of this queue are in a directory that was named for them")

    def _differs(self, where: str) -> ConfigError:
        mark = self.mark()
        return ConfigError(
            f"{where}, and {self.root} is not that one, or is not mounted",
            hint="mount it, or name it as it is called on this machine: --blobs DIR; where it is lost, and this one "
            f"takes its place: mkdir -p {shlex.quote(str(mark.parent))}; touch {shlex.quote(str(mark))}",
            id="blobs_differ",
        )

    def get(self, digest: str, *, keep: bool = True) -> bytes:
        """As `Blobs.get`; BlobError `blob_elsewhere` for what is not there where the queue's mark is not, either."""
        try:
            return super().get(digest, keep=keep)
        except BlobError as error:
            if error.id != "blob_missing":
                raise
            wrong = elsewhere(self.check, error)
            if wrong.id == "blob_missing":  # it may have been mounted between the two looks
                return super().get(digest, keep=keep)
            raise wrong from error

    def put_many(self, blobs: Iterable[bytes], *, ahead: bool = False) -> list[str]:
        if not self.marked:
            self._make_mark()
        return super().put_many(blobs, ahead=ahead)

    def _make_mark(self) -> None:
        mark = self.mark()
        with self._writing():
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
            sync(mark.parent)
            sync(self.root)
        self.marked = True

    def prune(
        self,
        referenced: Callable[[list[str]], set[str]],
        *,
        older_than: float = 3600.0,
        now: float | None = None,
        dry_run: bool = False,
        stop: Callable[[], bool] = go_on,
    ) -> Pruned:
        """ConfigError `blobs_shared` where another queue has files here, too."""
        folder = self.root / _MARKS
        others = {mark.name for mark in folder.iterdir()} - {self._identity()} if folder.is_dir() else set()
        if others:
            mark = shlex.quote(str(folder / min(others)))
            raise ConfigError(
                f"{self.root} has files of another queue, too: what this one does not need is not removed there",
                hint=f"name a directory of its own for each queue (--blobs DIR); if that queue is no more: rm {mark}",
                id="blobs_shared",
            )
        return super().prune(referenced, older_than=older_than, now=now, dry_run=dry_run, stop=stop)
