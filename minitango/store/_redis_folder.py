"""Where the files of a queue on Redis are: on its server, or in a directory that its nodes share.

The queue notes which, as whoever submitted first to it had it, so that who differs is told, and does not look for files
where they are not.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from minitango.blobs import Pruned, go_on
from minitango.errors import ConfigError
from minitango.store._redis_link import Link
from minitango.store._shared_folder import SharedFolder

SERVER: Final = "server"
_FOLDER: Final = "directory "


def way_of(directory: Path | None) -> str:
    """The note of a queue whose files are there. A directory may have another path on another machine."""
    return SERVER if directory is None else f"{_FOLDER}{directory}"


def noted(link: Link) -> str:
    """What the queue notes; empty: nothing yet, or no job is left for which it counts. StoreError."""

    def ask(pipe: Any) -> None:
        pipe.hget(link.key("meta"), "blobs")
        pipe.exists(link.key("jobs"))

    found, jobs = link.pipeline(ask)
    return found.decode("utf-8", "replace") if found is not None and jobs else ""


def check(note: str, mine: str) -> None:
    """ConfigError `blobs_differ` where the queue notes another way than ours."""
    if not note or note.partition(" ")[0] == mine.partition(" ")[0]:
        return
    if note == SERVER:
        folder = mine.removeprefix(_FOLDER)
        raise ConfigError(
            f"the files of this queue are on its server, and not in a directory such as {folder}",
            hint="leave --blobs (MINITANGO_BLOBS, blobs in minitango.toml) out; or carry the queue to another: "
            f"minitango migrate FROM TO --to-blobs {shlex.quote(folder)}",
            id="blobs_differ",
        )
    raise ConfigError(
        f"the files of this queue are in a directory that its nodes share ({_place(note)}), and none was named here",
        hint="name it as it is called on this machine: --blobs DIR, MINITANGO_BLOBS, or blobs in minitango.toml",
        id="blobs_differ",
    )


def _known(link: Link) -> str:
    """The queue's identity; empty where it has none yet."""
    (found,) = link.pipeline(lambda pipe: pipe.hget(link.key("meta"), "identity"))
    return "" if found is None else str(found.decode("ascii", "replace"))


def _identity(link: Link) -> str:
    """Of the queue: whoever asks first gives it one."""

    def give(pipe: Any) -> None:
        pipe.hsetnx(link.key("meta"), "identity", secrets.token_hex(8))

    known = _known(link)
    if known:
        return known
    link.pipeline(give)
    return _known(link)


def _place(note: str) -> str:
    return f"{note.removeprefix(_FOLDER)}, where it was first submitted to"


class FolderBlobs(SharedFolder):
    """`BlobStore` in a directory that all nodes of a queue share. As `Blobs`; what is not there may be elsewhere."""

    def __init__(self, root: Path, link: Link) -> None:
        super().__init__(root, lambda: _identity(link))
        self._link = link

    def check(self) -> None:
        """ConfigError `blobs_differ` where the queue has its files elsewhere, or in another directory. StoreError."""
        note = noted(self._link)
        check(note, way_of(self.root))
        if note and _known(self._link) and not self.is_marked():
            raise self._differs(f"the files of this queue are in a directory that its nodes share ({_place(note)})")

    def put_many(self, blobs: Iterable[bytes], *, ahead: bool = False) -> list[str]:
        """ConfigError `blobs_differ`, as `check`, before this has put anything there."""
        if not self.marked:
            self.check()
        return super().put_many(blobs, ahead=ahead)

    def prune(
        self,
        referenced: Callable[[list[str]], set[str]],
        *,
        older_than: float = 3600.0,
        now: float | None = None,
        dry_run: bool = False,
        stop: Callable[[], bool] = go_on,
    ) -> Pruned:
        """ConfigError `blobs_differ` where the queue has its files elsewhere: it needs none of these, and somebody else
        may."""
        self.check()
        return super().prune(referenced, older_than=older_than, now=now, dry_run=dry_run, stop=stop)
