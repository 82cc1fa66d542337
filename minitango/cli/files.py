"""Files that a person asked for: written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from minitango.errors import ConfigError
from minitango.room import FULL, free_some


def write_whole(path: Path, data: bytes, option: str) -> None:
    """Write a file so that whoever reads it finds the old content or the new one, never a part.

    It is written beside its place and renamed; a new one is for its owner's eyes only, as it may hold grades. What is
    no regular file (a pipe, /dev/stdout) is written to. ConfigError `output`: it cannot be written, or is a folder;
    `option` is what the path was given by, such as `-o FILE`.
    """
    try:
        path = path.resolve()  # a link stays a link
        found = _mode(path)
        if found is not None and stat.S_ISDIR(found):
            raise ConfigError(f"{path} is a folder", hint=f"name a file: {option}", id="output")
        if found is not None and not stat.S_ISREG(found):
            path.write_bytes(data)
            return
        _replace(path, data, 0o600 if found is None else stat.S_IMODE(found))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}", hint=another(error, path, option), id="output"
        ) from error


def another(error: OSError, path: Path, option: str) -> str:
    """What to do where a file cannot be written that `option` names."""
    return f"{free_some(path)}, or choose another {option}" if error.errno in FULL else f"choose another {option}"


def make_folder(path: Path, option: str) -> None:
    """Have a folder there, for this user alone if it is new. ConfigError `output`."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the folder {path} cannot be made: {error.strerror or error}",
            hint=another(error, path, option),
            id="output",
        ) from error


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _replace(path: Path, data: bytes, mode: int) -> None:
    number, beside = tempfile.mkstemp(dir=path.parent, prefix=".minitango-")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(mode)
        Path(beside).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(beside).unlink()
        raise
