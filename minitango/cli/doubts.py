"""What a person hears where the grader is suspected: who, why, the evidence, how to go on; and a question."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from minitango.cli import details, show
from minitango.cli.settings import Settings
from minitango.cli.streams import as_called, program, tell, write
from minitango.cli.suspicion import ALIKE, Suspicion, blames, full_marks, suspicion
from minitango.errors import JobNotFound
from minitango.job import Job, State
from minitango.store import History
from minitango.text import one_line

_TESTS: Final = 3
_LINES: Final = 5
"""How much is shown of the one that stands for all."""


def tell_of(
    found: Suspicion, store: History, settings: Settings, *, say: Callable[[str], None], name: str = ""
) -> None:
    """Who is suspected, and why; `say` prints a line. `name`: the assignment's, where there may be several."""
    of = f"{name}: " if name else ""
    say(f"{of}the first {found.count} hand-ins ended alike, and earned nothing: {found.whose}")
    for line in evidence(found.job, store, settings):
        say(line)


def silent(store: History, job: Job) -> bool:
    """Whether the last step that was begun printed nothing."""
    try:
        outputs = store.outputs(job.id)
    except JobNotFound:  # pruned meanwhile: nobody knows
        return False
    return bool(outputs) and not outputs[-1].head


def blamed(store: History, job: Job) -> bool:
    """Whether its grader says that the hand-in is at fault."""
    return blames(show.see(store, job).warnings)


def evidence(job: Job, store: History, settings: Settings) -> list[str]:
    """One job: what became of it, the end of what it printed, and where there is more."""
    seen = show.see(store, job)
    points = f" {show.score(job.score, job.max_score)}" if job.score is not None else ""
    note = show.note(seen)
    lines = [f"{one_line(job.student, 60)}: {show.outcome(job)}{points}{f': {one_line(note, 300)}' if note else ''}"]
    result = show.result(store, job)
    if result is not None:
        lines += details.why(result, store.outputs(job.id), tests=_TESTS, lines=_LINES)
    elif job.failure is not None and job.failure.hint:
        lines.append(f"next: {one_line(as_called(job.failure.hint), 300)}")
    lines.append(f"more of it: {program()} jobs show {job.id}{settings.flags}")
    return [f"  {line}" for line in lines]


def on_your_own(place: Path | None, flags: str) -> str:
    """The command that shows whether a grader works, also where there are no samples; `place`: the assignment's, where
    it is known."""
    return f"minitango run {_word(place)} MY-SOLUTION --student me --fresh{flags}"


def on_samples(place: Path | None) -> str:
    """The command that tries a grader on its samples."""
    return f"minitango check {_word(place)}"


def _word(place: Path | None) -> str:
    return "ASSIGNMENT" if place is None else shlex.quote(str(place))


def tell_where_to_look(
    graded: Sequence[show.Seen], assignment: Path, settings: Settings, *, table: bool, samples: bool = True
) -> None:
    """One line on how to see why, where there is something to ask; a louder one where all ended alike with nothing.

    `samples`: whether the assignment has any."""
    jobs = [seen.job for seen in graded]
    theirs = {seen.job.id for seen in graded if blames(seen.warnings)}
    whole = all(job.state is State.DONE for job in jobs)
    found = suspicion(jobs, enough=ALIKE, blamed=lambda job: job.id in theirs) if whole else None
    asked = [job for job in jobs if job.state is State.DONE and not full_marks(job)]
    look = f"{program()} jobs show {asked[0].id}{settings.flags}" if asked else ""
    if found is not None:
        tell(f"all {found.count} hand-ins ended alike: {found.whose}")
        own = as_called(on_samples(assignment) if samples else on_your_own(assignment, settings.flags))
        tell(f"  next: {look}, and on a solution of your own: {own}")
    elif asked and table:
        tell(f"see why: {look} (ids: {program()} jobs{settings.flags})")


def can_ask() -> bool:
    """Whether there is somebody at a terminal who can answer: this process is in its foreground."""
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False


def go_on() -> bool:
    """Ask. What was typed before the question is no answer to it; a terminal that is gone says no."""
    with contextlib.suppress(Exception):  # termios has an error of its own, where there is termios
        import termios

        termios.tcflush(sys.stdin, termios.TCIFLUSH)
    write("go on? [y/N] ")
    try:
        answer = sys.stdin.readline()
    except (OSError, ValueError):
        answer = ""
    if not answer.endswith("\n"):
        tell("")
    return answer.strip().lower() in ("y", "yes")
