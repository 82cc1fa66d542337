"""How jobs are shown: rows of a table, JSON, and words for people. Everything untrusted is made safe here."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from rich.cells import cell_len, set_cell_size

from minitango.cli.streams import out
from minitango.errors import JobNotFound
from minitango.job import Job, Notice, Result, State, signs_in
from minitango.record import Document, JobRecord
from minitango.record import of as record_of
from minitango.store import History
from minitango.text import human_seconds, one_line

NOTHING: Final = "-"
MAX_CELL: Final = 400
"""Characters of a cell, also where the table is not cut to a terminal."""


MAX_PADDING: Final = 60
"""Columns that a cell is padded to where nothing is cut: one long name does not make every line as long."""


class Seen(Struct, frozen=True):
    """A job, with what its result warns of."""

    job: Job
    warnings: tuple[Notice, ...] = ()

    @property
    def signs(self) -> tuple[Notice, ...]:
        """Those warnings that may be signs of tampering."""
        return signs_in(self.warnings, self.job.trust)


def result(store: History, job: Job) -> Result | None:
    """The job's result; None where it has none, or where a prune removed it meanwhile."""
    try:
        return store.result(job.id)
    except JobNotFound:
        return None


def see(store: History, job: Job) -> Seen:
    """The job with its warnings; the result is read only where there are some."""
    found = result(store, job) if job.warnings else None
    return Seen(job, found.warnings if found is not None else ())


def number(value: float) -> str:
    """A score as people write it: no trailing zeros, at most two places."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def score(value: float | None, most: float | None) -> str:
    """`7/10`, `7`, or a dash where there is no score."""
    if value is None:
        return NOTHING
    return f"{number(value)}/{number(most)}" if most is not None else number(value)


def outcome(job: Job) -> str:
    """The outcome of a job that is done; the state of any other, in capitals where nobody may take it for a grade."""
    if job.state is State.DEAD:
        return "NOT GRADED"
    return str(job.outcome) if job.outcome is not None else str(job.state)


def note(seen: Seen) -> str:
    """A word on what went wrong, or deserves a look."""
    job = seen.job
    if job.failure is not None and job.state is not State.DONE:
        return job.failure.message
    parts = [job.reason] if job.reason else []
    if seen.warnings:
        first, *more = *seen.signs, *(notice for notice in seen.warnings if notice not in seen.signs)
        parts.append(warning(first, seen) + (f" (and {len(more)} more)" if more else ""))
    return "; ".join(parts)


def warning(notice: Notice, seen: Seen) -> str:
    """A warning for people, with its id; in other words where it may be a sign of tampering."""
    word = "sign of tampering" if notice in seen.signs else "warning"
    return f"{word} [{notice.id}]: {notice.message}"


def seconds(job: Job) -> str:
    return human_seconds(job.wall) if job.wall is not None else NOTHING


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, fixed: Sequence[str] = ()) -> str:
    """Aligned columns. On a terminal they are cut to fit, those that are very wide first; elsewhere nothing is, and a
    very wide cell moves the rest of its own line alone.

    `fixed` columns are never cut, unless the terminal cannot hold even those; those that hold numbers are aligned to
    the right.
    """
    lines = [list(head), *([one_line(cell, MAX_CELL) for cell in row] for row in rows)]
    widths = [max(cell_len(line[n]) for line in lines) for n in range(len(head))]
    flexible = [n for n, name in enumerate(head) if name not in fixed]
    room: int | None = None
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns
        _fit(widths, flexible, room)
    else:
        for n in flexible:
            widths[n] = min(widths[n], MAX_PADDING)
    return "\n".join(_line(head, line, widths, room) for line in lines)


def _line(head: Sequence[str], cells: Sequence[str], widths: Sequence[int], room: int | None) -> str:
    """`room`: the terminal's columns; None: there is no terminal, and nothing is cut."""
    text = "  ".join(
        _cell(cell, width, right=name in _NUMBERS, cut=room is not None)
        for name, cell, width in zip(head, cells, widths, strict=True)
    ).rstrip()
    return text if room is None or cell_len(text) <= room else set_cell_size(text, room - 1) + "…"


_NUMBERS: Final = frozenset({"score", "time", "attempt", "expected", "got"})


def _fit(widths: list[int], flexible: Sequence[int], room: int) -> None:
    """Make columns narrower until so many columns of a terminal hold them, as far as that can be."""
    excess = sum(widths) + 2 * (len(widths) - 1) - room
    last = len(widths) - 1
    others = sorted((n for n in flexible if n != last), key=lambda n: -widths[n])
    steps = [
        *((n, 40) for n in others),
        (last, 40),
        *((n, 20) for n in others),
        (last, 24),
        *((n, 12) for n in others),
        (last, 12),
    ]
    for n, least in steps:
        cut = max(0, min(excess, widths[n] - least))
        widths[n] -= cut
        excess -= cut


def _cell(text: str, width: int, *, right: bool, cut: bool) -> str:
    gap = width - cell_len(text)
    if gap < 0 and not cut:
        return text
    if gap < 0:
        return set_cell_size(text, width - 1) + "…"
    return " " * gap + text if right else text + " " * gap


def record(seen: Seen) -> JobRecord:
    """One job, as `--json` prints it."""
    return record_of(seen.job, seen.warnings)


def encode(document: Document) -> str:
    """The whole answer of a command, as one JSON document in ASCII without control characters."""
    return json.dumps(msgspec.to_builtins(document), indent=2).replace("\x7f", r"\u007f")


def print_json(document: Document) -> None:
    """Print it."""
    out(encode(document))


def digest(image: str) -> str:
    """An image's digest, as Docker shortens it: `3f2a1b4c5d6e`."""
    return one_line(image.removeprefix("sha256:"), 100)[:12]
