"""What a person sees while jobs are graded: a bar and who is being graded on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

from minitango.cli import show
from minitango.engine import Event
from minitango.job import Job
from minitango.text import one_line


class Progress(Protocol):
    """Told of each job as it begins and ends. Safe to call from any thread."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def event(self, event: Event) -> None: ...

    def ended(self, job: Job) -> None: ...


def progress(total: int, what: str, *, quiet: bool = False) -> Progress:
    """The right one for where stderr goes."""
    if quiet:
        return _Silent()
    return _Bar(total, what) if sys.stderr.isatty() else _Lines(total)


_ENGINE_EVENTS = frozenset({"paused", "resumed", "store_trouble", "lease_lost", "crashed"})


class _Silent:
    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None: ...

    def event(self, event: Event) -> None: ...

    def ended(self, job: Job) -> None: ...


class _Lines(_Silent):
    """A line a job: for logs and CI."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def event(self, event: Event) -> None:
        text = describe(event)
        if text:
            print(text, file=sys.stderr, flush=True)

    def ended(self, job: Job) -> None:
        with self._lock:
            self._done += 1
            width = len(str(self._total))
            text = f"[{self._done:>{width}}/{self._total}] {one_line(job.student, 40)}: {summary(job)}"
            print(text, file=sys.stderr, flush=True)


class _Bar(_Silent):
    """A bar and the students that are being graded now, drawn by rich."""

    def __init__(self, total: int, what: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._console = Console(stderr=True, highlight=False, markup=False)
        self._bar: Any = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(one_line(what, 30), total=total, now="")
        self._now: dict[str, str] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def event(self, event: Event) -> None:
        with self._lock:
            if event.job is not None and event.kind == "started":
                self._now[event.job.id] = one_line(event.job.student, 16)
            elif event.job is not None:
                self._now.pop(event.job.id, None)
            text = describe(event)
            if text:
                self._console.print(text)
            self._draw()

    def ended(self, job: Job) -> None:
        with self._lock:
            self._now.pop(job.id, None)
            self._bar.advance(self._task)
            self._draw()

    def _draw(self) -> None:
        names = list(self._now.values())
        more = f" +{len(names) - 4}" if len(names) > 4 else ""
        self._bar.update(self._task, now=", ".join(names[:4]) + more)


def summary(job: Job) -> str:
    """What became of a job, in a line."""
    parts = [show.outcome(job)]
    if job.score is not None:
        parts.append(show.score(job.score, job.max_score))
    if job.wall is not None:
        parts.append(show.seconds(job))
    note = show.note(job)
    return "  ".join(parts) + (f"  ({one_line(note, 200)})" if note else "")


def describe(event: Event) -> str:
    """A line for what a person must hear of while jobs go on; empty for what is everyday."""
    if event.kind in _ENGINE_EVENTS:
        return f"{event.kind.replace('_', ' ')}: {one_line(event.message, 300)}"
    job = event.job
    if job is not None and event.kind == "retried" and job.failure is not None:
        return f"{one_line(job.student, 40)}: attempt {job.attempt} failed, will be tried again: " + one_line(
            job.failure.message, 200
        )
    if job is not None and event.kind == "recovered":
        return f"{one_line(job.student, 40)}: was interrupted, goes back to the queue"
    return ""


EventSink = Callable[[Event], None]
