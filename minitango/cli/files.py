"""Files that a person asked for: written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from minitango.errors import ConfigError
from minitango.room import FULL, free_some

_BESIDE: Final = ".minitango-"
"""How the names of files begin that are about to be renamed."""


def write_whole(path: Path, data: bytes, option: str, *, private: bool = True, id: str = "output") -> None:
    """Write a file so that whoever reads it finds the old content or the new one, never a part.

    It is written beside its place and renamed; a new one is for its owner's eyes only, as it may hold grades, unless it
    is not `private`. What is no regular file (a pipe, /dev/stdout) is written to. ConfigError `id`: it cannot be
    written, or is a folder; `option` is what the path was given by, such as `-o FILE`.
    """
    with _writing(path, option, id):
        path = path.resolve()  # a link stays a link
        found = _mode(path)
        if found is not None and not stat.S_ISREG(found):
            path.write_bytes(data)
            return
        if found is None:
            found = 0o600 if private else 0o666 & ~_umask()
        _replace(path, data, stat.S_IMODE(found))


def check_writable(path: Path, option: str, *, id: str = "output") -> None:
    """Raise what `write_whole` would, as far as that can be told before there is anything to write."""
    with _writing(path, option, id):
        path = path.resolve()
        found = _mode(path)
        if found is None or stat.S_ISREG(found):
            number, beside = tempfile.mkstemp(dir=path.parent, prefix=_BESIDE)
            os.close(number)
            Path(beside).unlink()
        elif stat.S_ISDIR(found):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


@contextlib.contextmanager
def _writing(path: Path, option: str, id: str) -> Iterator[None]:
    try:
        yield
    except IsADirectoryError as error:
        raise ConfigError(f"{path.resolve()} is a folder", hint=f"name a file: {option}", id=id) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}", hint=another(error, path, option), id=id
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


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _replace(path: Path, data: bytes, mode: int) -> None:
    number, beside = tempfile.mkstemp(dir=path.parent, prefix=_BESIDE)
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
