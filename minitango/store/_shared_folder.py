"""Blobs in a directory that somebody named for them, and may have named for another queue, too."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from minitango.blobs import Blobs, Pruned, sync
from minitango.errors import ConfigError

_MARKS: Final = "queues"
"""The folder in it in which each queue that put something there has a file, named by its identity."""


class SharedFolder(Blobs):
    """As `Blobs`. What one queue does not need another may: where several have put files here, nothing is pruned."""

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
        """Whether this queue has put files there. StoreError."""
        return self.mark().exists()

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
        return super().prune(referenced, older_than=older_than, now=now, dry_run=dry_run)
