"""Blobs of a queue in a SQLite file: the small ones in the file itself, so that a submit waits for the disk once.

Where a blob lies is told by its size alone when it is put, and by looking when it is read: a queue that an earlier
version began has all of its as files, and they stay there until no job needs them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from minitango.blobs import Blobs, Pruned, check_digest, go_on, verify
from minitango.errors import BlobError, StoreError, StoreFull
from minitango.room import check_room
from minitango.store._brought import MOST_BROUGHT, Brought
from minitango.store._database import Database, Transaction
from minitango.store._history import as_json
from minitango.store._rows import Row

MOST_INSIDE: Final = 32 << 10
"""Bytes of a blob that is kept in the queue's file. At 16 KiB that takes a third of the time of a file of its own, at
32 KiB half, from 128 KiB on it is no quicker (2 cores, ext4)."""
_BATCH: Final = 500
"""Blobs in one transaction, and those that a prune looks at together."""
_BATCH_BYTES: Final = 4 << 20

_PUT: Final = """
    INSERT INTO blobs (digest, put, data) VALUES (?, ?, ?)
    ON CONFLICT (digest) DO UPDATE SET put = max(put, excluded.put), data = excluded.data
"""
"""Marks what is there as new, and mends it; SQLite writes none of the pages that stay as they are."""
_TOUCH: Final = "UPDATE blobs SET put = max(put, ?) WHERE digest = ?"
_GET: Final = "SELECT CAST(data AS BLOB) FROM blobs WHERE digest = ?"
_BRING: Final = """
    SELECT digest, CAST(data AS BLOB) FROM blobs
    WHERE digest IN (SELECT value FROM json_each(?)) AND length(data) <= ?
"""
_OLD: Final = "SELECT seq, digest, length(data) FROM blobs WHERE seq > ? AND put < ? ORDER BY seq LIMIT ?"
_DROP: Final = """
    DELETE FROM blobs WHERE digest IN (SELECT value FROM json_each(?)) AND put < ?
    AND NOT EXISTS (SELECT 1 FROM blob_refs WHERE blob_refs.digest = blobs.digest)
    RETURNING length(data)
"""
"""Under the write lock: what was put again, or is needed since it was looked at, stays."""


class SqliteBlobs:
    """`BlobStore` of a queue's file, and of a directory for what is larger than MOST_INSIDE. Safe from any thread.

    Raises StoreError, StoreFull as the store does, and BlobError.
    """

    def __init__(self, db: Database, folder: Path) -> None:
        self._db = db
        self._files = Blobs(folder)
        self._brought = Brought()

    def bring(self, digests: Sequence[str]) -> None:
        """Read those of these that are in the queue's file and small, for who asks for them next, once each."""
        with suppress(StoreError):  # who asks will meet it
            found = self._db.read(_BRING, as_json(digests), MOST_BROUGHT)
            self._brought.bring((digest, bytes(data)) for digest, data in found)

    @property
    def root(self) -> Path:
        return self._files.root

    def path(self, digest: str) -> Path:
        """The file in which a blob is: the queue's, or its own."""
        path = self._files.path(digest)
        return self._db.path if self._inside(digest) else path

    def put(self, data: bytes) -> str:
        return self.put_many((data,))[0]

    def put_many(self, blobs: Iterable[bytes], *, ahead: bool = False) -> list[str]:
        """Keep these bytes, and return their digests in order: durable when it returns, each stored once.

        `ahead`: those in the queue's file are durable once its next commit is, as that of a submit which names them.

        As `Blobs.put_many`, otherwise.
        """
        digests: list[str] = []
        seen: set[str] = set()
        rows: list[tuple[str, float, bytes]] = []
        large: list[bytes] = []
        size = 0
        wrote = False
        for data in blobs:
            digest = hashlib.sha256(data).hexdigest()
            digests.append(digest)
            if digest in seen:
                continue
            seen.add(digest)
            size += len(data)
            if len(data) > MOST_INSIDE:
                large.append(data)
            else:
                rows.append((digest, time.time(), data))
            if len(rows) == _BATCH or size > _BATCH_BYTES:
                wrote |= self._write(rows, large)
                rows, large, size = [], [], 0
        wrote |= self._write(rows, large)
        if wrote and not ahead:
            self._db.sync()
        return digests

    def _write(self, rows: list[tuple[str, float, bytes]], large: list[bytes]) -> bool:
        """Keep one batch, its rows ahead of the disk. Returns whether there were rows."""
        if large:
            self._files.put_many(large)
        if not rows:
            return False
        try:
            check_room(self._db.path.parent)
        except StoreFull:
            if not all(self._read(digest) == data for digest, _, data in rows):
                raise  # else it is all there, and takes no room

        def body(tx: Transaction) -> None:
            tx.executemany(_PUT, rows)

        self._db.transact("put", body, ahead=True)
        return True

    def get(self, digest: str, *, keep: bool = True) -> bytes:
        """The bytes of this digest, verified. BlobError `blob_missing`, `blob_corrupt` or `blob_unreadable`;
        ValueError: no digest."""
        check_digest(digest)
        if (brought := self._brought.take(digest)) is not None:
            return brought
        try:
            data = self._read(digest)
        except StoreError as error:
            raise BlobError(
                f"the blob {digest} cannot be read: {error.message}", hint=error.hint, id="blob_unreadable"
            ) from error
        if data is None:
            return self._files.get(digest)
        verify(digest, data, self._db.path)
        return data

    def _read(self, digest: str) -> bytes | None:
        found = self._db.read(_GET, digest)
        return bytes(found[0][0]) if found else None

    def _inside(self, digest: str) -> bool:
        check_digest(digest)
        return bool(self._db.read("SELECT 1 FROM blobs WHERE digest = ?", digest))

    def has(self, digest: str) -> bool:
        return self._inside(digest) or self._files.has(digest)

    def touch(self, digest: str) -> bool:
        """As `Blobs.touch`; in the queue's file as durable as its next commit."""
        check_digest(digest)

        def body(tx: Transaction) -> bool:
            return bool(tx.execute(_TOUCH, (time.time(), digest)).rowcount)

        return self._db.transact("touch", body, ahead=True) or self._files.touch(digest)

    def prune(
        self,
        referenced: Callable[[list[str]], set[str]],
        *,
        older_than: float = 3600.0,
        now: float | None = None,
        dry_run: bool = False,
        stop: Callable[[], bool] = go_on,
    ) -> Pruned:
        """As `Blobs.prune`. What is deleted from the queue's file is overwritten there, as by `Upkeep.forget`."""
        now = time.time() if now is None else now
        count, size = self._prune_rows(referenced, now - older_than, dry_run, stop)
        files = self._files.prune(referenced, older_than=older_than, now=now, dry_run=dry_run, stop=stop)
        return Pruned(count + files.count, size + files.bytes)

    def _prune_rows(
        self, referenced: Callable[[list[str]], set[str]], before: float, dry_run: bool, stop: Callable[[], bool]
    ) -> tuple[int, int]:
        count = size = last = 0
        while not stop() and (found := self._db.read(_OLD, last, before, _BATCH)):
            last = found[-1][0]
            needed = referenced([digest for _, digest, _ in found])
            unneeded = {digest: length for _, digest, length in found if digest not in needed}
            sizes = list(unneeded.values())
            if unneeded and not dry_run:
                sizes = self._drop(list(unneeded), before)
            count += len(sizes)
            size += sum(sizes)
        if count and not dry_run:
            self._db.empty_log()
        return count, size

    def _drop(self, digests: list[str], before: float) -> list[int]:
        def body(tx: Transaction) -> list[Row]:
            return tx.execute(_DROP, (as_json(digests), before)).fetchall()

        return [length for (length,) in self._db.transact("drop", body)]
