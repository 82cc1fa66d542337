"""Blobs that come with what they are needed for, so that nobody asks for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

MOST_BROUGHT: Final = 16 << 10
"""Bytes of a hand-in that comes with its claim."""
_HELD: Final = 256
"""Blobs that came so, and were not asked for yet."""


class Brought:
    """What is about to be asked for, once each. Safe from any thread."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._held)

    def bring(self, blobs: Iterable[tuple[str, bytes]]) -> None:
        """Hold these, by their digests; of more than `_HELD` those that came first are dropped."""
        for digest, data in blobs:
            self._held[digest] = data
        while len(self._held) > _HELD:
            with suppress(KeyError, StopIteration, RuntimeError):  # others take from it meanwhile
                del self._held[next(iter(self._held))]

    def take(self, digest: str) -> bytes | None:
        """The bytes of this digest, verified; None where they did not come, or are others."""
        data = self._held.pop(digest, None)
        return data if data is not None and hashlib.sha256(data).hexdigest() == digest else None
