"""Blobs on the Redis server of a queue, so that its nodes need no shared disk; and what each node keeps of them.

A blob is stored once, in chunks. It is there for others when its last chunk is: chunks of a writer that died expire.
What is fetched is kept in a directory of this machine, by its digest, and verified each time that it is read.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from minitango.blobs import Blobs, Pruned, go_on
from minitango.errors import BlobError, ConfigError, StoreError, StoreFull
from minitango.store._brought import Brought
from minitango.store._redis_folder import SERVER, check, noted
from minitango.store._redis_link import Link, Value
from minitango.store._shared_folder import elsewhere

CHUNK: Final = 512 << 10
"""Bytes. A server that sends or takes one serves the others between."""
MAX_BLOB: Final = 256 << 20
"""Bytes of one blob: all of them are in the server's memory."""
_UNSEALED: Final = 3600
"""Seconds that chunks are kept whose blob is not complete."""
_AT_ONCE: Final = 8
"""Chunks in one request."""
_KEPT: Final = 14 * 86400.0
"""Seconds for which this machine keeps what it does not use."""
_BATCH: Final = 200
"""Blobs in one request."""
_BATCH_BYTES: Final = 4 << 20
_SMALL: Final = 64 << 10
"""Bytes of a blob that is written together with others."""
_MOST_FRESH: Final = 20_000
"""Blobs that were written here, and that no job names yet, of which that is remembered."""


class _Fresh(NamedTuple):
    number: int
    thread: int
    sealed: str
    """When that was, as the server has it."""


class RedisBlobs:
    """`BlobStore` on the server of a queue, with a cache in a directory. Safe from any thread.

    Raises StoreError, StoreFull as the store does, and BlobError.
    """

    def __init__(self, link: Link, cache: Path) -> None:
        self._link = link
        self._cache = Blobs(cache)
        self.brought = Brought()
        """Hand-ins that came with their claims."""
        self._written = itertools.count()
        self._fresh: dict[str, _Fresh] = {}
        """Blobs that nobody had before us, and that no job of ours names yet."""

    @property
    def root(self) -> Path:
        return self._cache.root

    def path(self, digest: str) -> Path:
        return self._cache.path(digest)

    def put(self, data: bytes) -> str:
        return self.put_many((data,))[0]

    def put_many(self, blobs: Iterable[bytes], *, ahead: bool = False) -> list[str]:
        """Keep these bytes, and return their digests in order: as safe as the server when it returns, each stored once.

        ConfigError `blob_too_large`: more than MAX_BLOB. Then what came before it is kept, which harms nobody.
        StoreFull: what was new of it has left the server again, with what this thread put meanwhile.
        """
        with self.given_back_on_failure(StoreFull):
            return self._put_many(blobs)

    @contextmanager
    def given_back_on_failure(self, failure: type[BaseException] = BaseException) -> Iterator[None]:
        """Where this ends with such an exception, what was new of what this thread put meanwhile leaves the server."""
        began, mine = next(self._written), threading.get_ident()
        try:
            yield
        except failure:
            self.give_back(
                digest for digest, fresh in list(self._fresh.items()) if fresh.number > began and fresh.thread == mine
            )
            raise

    def give_back(self, digests: Iterable[str]) -> None:
        """Have these leave the server, as far as they came by us and nobody has put, touched or named them since."""
        by_time: dict[str, list[str]] = {}
        for digest in digests:
            fresh = self._fresh.pop(digest, None)
            if fresh is not None:
                by_time.setdefault(fresh.sealed, []).append(digest)
        with suppress(StoreError):  # they go when the queue is pruned
            for sealed, ours in by_time.items():
                before = repr(math.nextafter(float(sealed), math.inf))
                self._link.run("blobs", ["", "drop", before, *ours], patient=True)

    def named(self, digests: Iterable[str]) -> None:
        """A job names these now: they stay, whatever is given back."""
        for digest in digests:
            self._fresh.pop(digest, None)

    def _put_many(self, blobs: Iterable[bytes]) -> list[str]:
        self._link.check_room()
        digests: list[str] = []
        batch: dict[str, bytes] = {}
        size = 0
        for data in blobs:
            _check_length(data)
            digest = hashlib.sha256(data).hexdigest()
            digests.append(digest)
            if digest not in batch:
                batch[digest] = data
                size += len(data)
            if len(batch) == _BATCH or size > _BATCH_BYTES:
                self._put(batch)
                batch, size = {}, 0
        self._put(batch)
        return digests

    def _put(self, batch: dict[str, bytes]) -> None:
        """Have these there, and marked as new: small ones whether they are there or not, in one request, others unless
        they are."""
        small = [value for digest, data in batch.items() if len(data) <= _SMALL for value in (digest, data)]
        if small:
            # people wait for the answer that nobody is there
            new = self._note(self._link.run("blobs", ["", "put", *small]))
            self._link.check_room(sum(len(batch[digest]) for digest in new))
        large = [digest for digest, data in batch.items() if len(data) > _SMALL]
        if large:
            there = set(self._link.run("blobs", ["", "touch", *large]))
            missing = [digest for digest in large if digest.encode() not in there]
            self._link.check_room(sum(len(batch[digest]) for digest in missing))
            for digest in missing:
                self._write(digest, batch[digest])

    def _write(self, digest: str, data: bytes) -> None:
        chunks = max(1, -(-len(data) // CHUNK))
        view = memoryview(data)
        for _ in range(2):
            for start in range(0, chunks, _AT_ONCE):

                def ask(pipe: Any, start: int = start) -> None:
                    for n in range(start, min(start + _AT_ONCE, chunks)):
                        pipe.set(self._key(digest, n), bytes(view[n * CHUNK : (n + 1) * CHUNK]), ex=_UNSEALED, nx=True)

                self._link.pipeline(ask, patient=True)
            if self._seal([digest, str(len(data)), str(chunks)]):
                return
        raise StoreError(f"the blob {digest} did not stay on the server", hint="look at its log", id="store_io")

    def _seal(self, asked: Sequence[Value]) -> set[str]:
        """Those of these (digest, size, chunks, and so on) that are there as a whole now."""
        return self._note(self._link.run("blobs", ["", "seal", *asked], patient=True))

    def _note(self, reply: list[bytes]) -> set[str]:
        """Blobs that came by us, and when."""
        *found, at = reply
        sealed = {digest.decode() for digest in found}
        mine, when = threading.get_ident(), at.decode()
        for digest in sealed:
            self._fresh[digest] = _Fresh(next(self._written), mine, when)
        while len(self._fresh) > _MOST_FRESH:
            with suppress(KeyError, StopIteration, RuntimeError):  # others take from it meanwhile
                del self._fresh[next(iter(self._fresh))]
        return sealed

    def get(self, digest: str, *, keep: bool = True) -> bytes:
        """The bytes of this digest, verified. BlobError `blob_missing` or `blob_corrupt`; ValueError: no digest."""
        if (brought := self.brought.take(digest)) is not None:
            return brought
        if self._cache.has(digest):
            try:
                data = self._cache.get(digest)
            except BlobError:
                pass  # it went, or was damaged, here: the server has it
            else:
                self._cache.touch(digest)
                return data
        try:
            data = b"".join(self._chunks(digest))
        except BlobError as error:
            raise elsewhere(lambda: check(noted(self._link), SERVER), error) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise BlobError(
                f"the blob {digest} on {self._link.place.shown} is damaged ({len(data)} bytes)",
                hint="restore the server's data from a backup",
                id="blob_corrupt",
            )
        if keep and self._cache.root.parent.is_dir():  # there is none where nobody grades
            with suppress(StoreError):  # it is only kept to be had sooner
                self._cache.keep(digest, data)
        return data

    def _chunks(self, digest: str) -> Iterator[bytes]:
        self._cache.path(digest)  # ValueError

        def begin(pipe: Any) -> None:
            pipe.hmget(self._key(digest), "size", "chunks")
            pipe.get(self._key(digest, 0))

        found, first = self._link.pipeline(begin, patient=True)
        if first is None or not all(value is not None and value.isdigit() for value in found):
            raise self._missing(digest)
        size, chunks = map(int, found)
        if size > MAX_BLOB or chunks > MAX_BLOB // CHUNK + 1:
            raise self._missing(digest)
        yield first
        for start in range(1, chunks, _AT_ONCE):

            def ask(pipe: Any, start: int = start) -> None:
                for n in range(start, min(start + _AT_ONCE, chunks)):
                    pipe.get(self._key(digest, n))

            for chunk in self._link.pipeline(ask, patient=True):
                if chunk is None:
                    raise self._missing(digest)
                yield chunk

    def _missing(self, digest: str) -> BlobError:
        return BlobError(
            f"the blob {digest} is not on {self._link.place.shown}",
            hint="restore the server's data from a backup, or submit the work again",
            id="blob_missing",
        )

    def has(self, digest: str) -> bool:
        return bool(self._link.call("blob", lambda client: client.exists(self._key(digest))))

    def touch(self, digest: str) -> bool:
        return bool(self._link.run("blobs", ["", "touch", digest]))

    def prune(
        self,
        referenced: Callable[[list[str]], set[str]],
        *,
        older_than: float = 3600.0,
        now: float | None = None,
        dry_run: bool = False,
        stop: Callable[[], bool] = go_on,
    ) -> Pruned:
        """As `Blobs.prune`; `now` is on the server's clock. Also empties this machine's cache of what was not used for
        two weeks."""
        before = (self._link.now() if now is None else now) - older_than
        count = size = 0
        for batch in self._old(before):
            if stop():
                break
            needed = referenced(batch)
            unneeded = [digest for digest in batch if digest not in needed]
            if dry_run:
                sizes = [int(found or 0) for found in self._sizes(unneeded)]
            else:
                gone = self._link.run("blobs", ["", "drop", repr(before), *unneeded], patient=True) if unneeded else []
                sizes = [int(found) for found in gone[1::2]]
            count += len(sizes)
            size += sum(sizes)
        if not dry_run:
            self._cache.prune(lambda digests: set(), older_than=_KEPT, now=max(time.time(), now or 0.0), stop=stop)
        return Pruned(count, size)

    def _old(self, before: float) -> Iterator[list[str]]:
        """Blobs that were put before then, batch by batch, each once, whatever is dropped meanwhile."""
        key, low = self._link.key("blobs"), "-inf"
        seen: set[bytes] = set()  # of the last time that was looked at: many may have it
        while True:
            found = self._link.call(
                "blob",
                partial(_page, key=key, low=low, high=f"({before!r}", most=_BATCH + len(seen)),
                patient=True,
            )
            fresh = [digest for digest, _ in found if digest not in seen]
            if not fresh:
                return
            yield [digest.decode("ascii", "replace") for digest in fresh]
            last = found[-1][1]
            seen = {digest for digest, at in found if at == last} | (seen if repr(last) == low else set())
            low = repr(last)

    def _sizes(self, digests: Sequence[str]) -> list[Any]:
        def ask(pipe: Any) -> None:
            for digest in digests:
                pipe.hget(self._key(digest), "size")

        return self._link.pipeline(ask) if digests else []

    def _key(self, digest: str, chunk: int | None = None) -> str:
        return self._link.key(f"b:{digest}" if chunk is None else f"b:{digest}:{chunk}")


def _page(client: Any, *, key: str, low: str, high: str, most: int) -> list[tuple[bytes, float]]:
    found: list[tuple[bytes, float]] = client.zrangebyscore(key, low, high, start=0, num=most, withscores=True)
    return found


def _check_length(data: bytes) -> None:
    if len(data) > MAX_BLOB:
        raise ConfigError(
            f"{len(data)} bytes are too many for a queue on Redis, which takes {MAX_BLOB >> 20} MiB at a time",
            hint="keep such files in a directory that all nodes share: --blobs DIR",
            id="blob_too_large",
        )
