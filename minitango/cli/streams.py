"""stdout for data, stderr for people. A stream that is closed, broken or cannot encode never costs a grade.

Nothing else prints. What is printed here cannot move a terminal's cursor, colour or retitle it, whoever it comes from,
and so does not depend on whether each of the many who print thought of that.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Final, TextIO

from minitango.errors import UnavailableError
from minitango.text import for_terminal

_GONE = frozenset({errno.EPIPE, errno.EIO, errno.EBADF})
"""Nobody reads any more: the pipe's other end was closed, or the terminal hung up."""


_closed: list[str] = []
"""What is to be told of a standard output that was closed when we started, until it is told."""


_terminals: list[TextIO] = []
"""The streams that were a terminal's when we started."""


_OURSELVES: Final = re.compile(
    r"(?<![\w./-])minitango "
    r"(?:(?:init|check|backup|restore|migrate)\b|(?P<of_queue>run|submit|worker|export|prune|doctor|config(?: show)?|"
    r"jobs(?: (?:list|show|logs|cancel|retry|redeliver))?|nodes(?: (?:list|drain|resume|forget))?)\b)"
)
"""A command of ours, as a text has it, and where that goes by a queue, its verbs."""
_ENDS: Final = re.compile(r"[;,)](?:\s|$)|$")
"""Where a command ends in a text."""
_HAS_FLAGS: Final = re.compile(r"--(?:store|state|help)\b")

_typed: list[str] = [""]
"""The options that were typed to say which queue is meant, as they are to be typed again, with a blank before each."""


def program() -> str:
    """What to type to call us: `minitango`, or the path that bin/minitango says it was called by."""
    called = os.environ.get("MINITANGO_PROG")
    return shlex.quote(called) if called else "minitango"


def name_queue(flags: str) -> None:
    """Have what is suggested from now on reach the queue that these options name: ` --state course`, or nothing."""
    _typed[0] = flags


def as_called(text: str) -> str:
    """A text with commands in it, such as a hint, as they are to be typed here: by the name that we were called by, and
    with the options that were typed to say which queue is meant, where a command of it names none."""
    return _OURSELVES.sub(_as_called, text)


def _as_called(found: re.Match[str]) -> str:
    command = f"{program()} {found[0].removeprefix('minitango ')}"
    end = _ENDS.search(found.string, found.end())
    rest = found.string[found.end() : end.start() if end else None]
    if found["of_queue"] in (None, "config") or _HAS_FLAGS.search(rest):
        return command
    return command + _typed[0]


def prepare() -> None:
    """Make the three streams usable, whatever they were started as. Call it first."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed, so that the next file opened, say the queue, would get its number
            os.open(os.devnull, os.O_RDWR)
            if number == 1:
                _closed.append("warning: the standard output is closed: what was to be printed there is lost")
    logging.lastResort = _Told(logging.WARNING)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as we live
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            if stream.isatty():
                _terminals.append(stream)


class _Told(logging.Handler):
    """What is logged and nobody else takes, for people."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(self.format(record))


def out(text: str) -> None:
    """Print data, control characters as escapes. A reader that had enough (`| head`) is no error; a disk that is full
    is. That there was no output from the start is told."""
    while _closed:
        tell(_closed.pop())
    try:
        print(for_terminal(text), flush=True)
    except OSError as error:
        _failed(error)


def _failed(error: OSError) -> None:
    drop(sys.stdout)
    if error.errno not in _GONE:
        raise UnavailableError(
            f"the standard output cannot be written: {error.strerror}",
            hint="what was graded is kept: send the output elsewhere and repeat the command",
            id="stdout",
        ) from error


def out_bytes(data: bytes) -> None:
    """Print what a program printed. On a terminal, control characters are shown, not obeyed; into a pipe or a file
    the bytes go as they came."""
    if not data:
        return
    try:
        if sys.stdout.isatty():
            print(for_terminal(data), end="", flush=True)
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    except OSError as error:
        _failed(error)


def tell(text: str) -> None:
    """Print for people, control characters as escapes. Never raises for a stream that fails: what is told is told in
    the store, too."""
    write(f"{for_terminal(text)}\n")


def write(text: str) -> None:
    """As `tell`, of a part of a line, as it is: it may have control sequences of ours."""
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except OSError:
        drop(sys.stderr)


def drop(stream: TextIO) -> None:
    """Send what else comes to a stream nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def drop_lost_terminal() -> None:
    """After a hang-up: stop writing to a terminal that is no longer there."""
    for stream in (sys.stdout, sys.stderr):
        if stream in _terminals and not stream.isatty():
            drop(stream)
