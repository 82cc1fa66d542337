"""What a person sees while jobs are graded: a bar and who is being graded on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Protocol

from rich.cells import cell_len

from minitango.cli import show
from minitango.cli.show import Seen
from minitango.cli.streams import as_called, tell, write
from minitango.events import Event
from minitango.job import Job
from minitango.text import for_terminal, one_line


class Progress(Protocol):
    """Told of each job as it begins and ends. Safe to call from any thread."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, text: str) -> None:
        """A line that a person must read."""

    def image(self, text: str) -> None:
        """What the sandbox says of its images."""

    def running(self, jobs: Iterable[Job]) -> None:
        """What is being graded now."""

    def ended(self, seen: Seen) -> None: ...


def progress(total: int, what: str, *, quiet: bool = False, done: int = 0) -> Progress:
    """The right one for where stderr goes. `quiet`: only what a person must hear of; `done`: what has ended already."""
    if quiet or not total:
        return _Silent()
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False)
    if not sys.stderr.isatty() or console.is_dumb_terminal:
        return _Lines(total, done)
    return _Bar(console, total, what, done)


UNDER_WAY = ("pulling ", "building ")
"""How a line begins that another will soon take the place of."""
DONE = ("pulled ", "built ")
CHOSEN = "grading in "


class Images:
    """What the sandbox says of its images, where there is no bar: one line that is written over on a terminal, a line
    now and then elsewhere. `quiet`: only what is not progress."""

    PAUSE = 10.0
    """Seconds between two lines of progress on one image."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._lock = threading.Lock()
        self._open = False
        self._what = ""
        self._next = 0.0

    def __call__(self, text: str) -> None:
        """Show it."""
        with self._lock:
            if self._live and not self._quiet and text.startswith(UNDER_WAY):
                self._open = True
                write("\r\x1b[K" + one_line(text, shutil.get_terminal_size().columns - 1))
                return
            self._clear()
            line = self.line(text)
            if line:
                tell(line)

    def line(self, text: str) -> str:
        """The text where it is to be a line of its own; nothing where it is progress that comes too soon."""
        if self._quiet and (self.is_progress(text) or text.startswith(CHOSEN)):
            return ""
        if text.startswith(UNDER_WAY):
            now, what = time.monotonic(), text.partition(": ")[0]
            if what == self._what and now < self._next:
                return ""
            self._what, self._next = what, now + self.PAUSE
        return one_line(text, 500)

    @staticmethod
    def is_progress(text: str) -> bool:
        """Whether it says how far an image is, and not what is graded in."""
        return text.startswith((*UNDER_WAY, *DONE))

    def clear(self) -> None:
        """Take the line away: something else is to be written."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        if self._open:
            self._open = False
            write("\r\x1b[K")


_ENGINE_EVENTS = frozenset({"paused", "resumed", "store_trouble", "lease_lost", "crashed"})


class _Silent:
    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        tell(text)

    def image(self, text: str) -> None:
        if not text.startswith((*UNDER_WAY, *DONE)):
            tell(text)

    def running(self, jobs: Iterable[Job]) -> None: ...

    def ended(self, seen: Seen) -> None: ...


class _Lines(_Silent):
    """A line a job: for logs and CI."""

    def __init__(self, total: int, done: int = 0) -> None:
        self._total = total
        self._done = done
        self._lock = threading.Lock()
        self._image = Images()

    def image(self, text: str) -> None:
        self._image(text)

    def ended(self, seen: Seen) -> None:
        with self._lock:
            self._done += 1
            width = len(str(self._total))
            tell(f"[{self._done:>{width}}/{self._total}] {one_line(seen.job.student, 40)}: {summary(seen)}")


class _Bar(_Silent):
    """A bar and the students that are being graded now, drawn by rich."""

    def __init__(self, console: Any, total: int, what: str, done: int = 0) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        self._console = console
        self._bar: Any = RichProgress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[now]}", markup=False, table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(one_line(what, 16), total=total, completed=done, now="")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._bar.stop()

    def say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._console.print(for_terminal(text), soft_wrap=True)

    def image(self, text: str) -> None:
        if text.startswith(UNDER_WAY):
            self._bar.update(self._task, now=one_line(text, max(self._room(), 16)))
        else:
            self.say(text)

    def _room(self) -> int:
        # what the other columns take is about 50 cells
        return int(self._console.width) - 52

    def running(self, jobs: Iterable[Job]) -> None:
        self._bar.update(self._task, now=_names([job.student for job in jobs], self._room()))

    def ended(self, seen: Seen) -> None:
        self._bar.advance(self._task)


def _names(students: list[str], room: int) -> str:
    """As many as fit, at least one, and how many more there are."""
    text = ""
    for n, student in enumerate(students):
        longer = f"{text}, {one_line(student, 16)}" if text else one_line(student, 16)
        if n and cell_len(longer) > room - 4:
            return f"{text} +{len(students) - n}"
        text = longer
    return text


def summary(seen: Seen) -> str:
    """What became of a job, in a line."""
    job = seen.job
    parts = [show.outcome(job)]
    if job.score is not None:
        parts.append(show.score(job.score, job.max_score))
    if job.wall is not None:
        parts.append(show.seconds(job))
    note = show.note(seen)
    return "  ".join(parts) + (f"  ({one_line(note, 200)})" if note else "")


def describe(event: Event) -> str:
    """A line for what a person must hear of while jobs go on; empty for what is everyday."""
    if event.kind in _ENGINE_EVENTS:
        return f"{event.kind.replace('_', ' ')}: {one_line(as_called(event.message), 600)}"
    if event.kind in ("callback_failed", "callback_undelivered"):
        return one_line(as_called(event.message), 800)
    job = event.job
    if job is not None and event.kind == "retried" and job.failure is not None:
        return f"{one_line(job.student, 40)}: attempt {job.attempt} failed, will be tried again: " + one_line(
            job.failure.message, 200
        )
    if job is not None and event.kind == "recovered":
        return f"{one_line(job.student, 40)}: was interrupted, goes back to the queue"
    return ""
