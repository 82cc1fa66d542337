"""How jobs are shown: rows of a table, JSON, and words for people. Everything untrusted is made safe here."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.cells import cell_len, set_cell_size

from minitango.job import SCHEMA, Job, State
from minitango.text import human_seconds, one_line

NOTHING = "-"


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


def note(job: Job) -> str:
    """A word on what went wrong, or deserves a look."""
    if job.failure is not None and job.state is not State.DONE:
        return job.failure.message
    warnings = f"{job.warnings} warning{'s' if job.warnings > 1 else ''}" if job.warnings else ""
    return "; ".join(part for part in (job.reason, warnings) if part)


def seconds(job: Job) -> str:
    return human_seconds(job.wall) if job.wall is not None else NOTHING


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Aligned columns. On a terminal the last column is cut to fit; elsewhere nothing is."""
    lines = [list(head), *([one_line(cell, 400) for cell in row] for row in rows)]
    widths = [max(cell_len(line[n]) for line in lines) for n in range(len(head))]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * (len(head) - 1)
        widths[-1] = max(12, min(widths[-1], room))
    out = []
    for line in lines:
        cells = []
        for n, cell in enumerate(line):
            gap = " " * (widths[n] - cell_len(cell))
            if head[n] in right:
                cells.append(gap + cell)
            elif n == len(head) - 1:
                cells.append(cell if cell_len(cell) <= widths[n] else set_cell_size(cell, widths[n] - 1) + "…")
            else:
                cells.append(cell + gap)
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def as_json(job: Job) -> dict[str, Any]:
    """One job, as `--json` prints it."""
    return {
        "id": job.id,
        "assignment": job.assignment,
        "student": job.student,
        "title": job.title,
        "state": str(job.state),
        "outcome": str(job.outcome) if job.outcome is not None else None,
        "score": job.score,
        "max_score": job.max_score,
        "trust": str(job.trust) if job.trust is not None else None,
        "reason": job.reason,
        "warnings": job.warnings,
        "attempts": job.attempt,
        "failures": job.failures,
        "interruptions": job.interruptions,
        "submitted": job.submitted,
        "started": job.started,
        "ended": job.ended,
        "wall": job.wall,
        "supersedes": job.supersedes,
        "error": msgspec.to_builtins(job.failure) if job.failure is not None else None,
    }


def print_json(body: dict[str, Any]) -> None:
    print(json.dumps({"schema": SCHEMA, **body}, indent=2, ensure_ascii=True))


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
