"""Trees of files as values."""

from __future__ import annotations

from msgspec import Struct


class File(Struct, frozen=True):
    """One regular file of a tree. `path` is relative, `/`-separated, clean (see `check_path`)."""

    path: str
    data: bytes
    executable: bool = False
