"""What a worker says while it runs, and every command where it fails: lines for people, or for programs objects."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final, Literal

from minitango.cli.streams import as_called, tell
from minitango.errors import MinitangoError
from minitango.events import EventKind
from minitango.job import Job
from minitango.node import machine

Level = Literal["info", "warning", "error", "critical"]

LEVELS: Final[dict[EventKind, Level]] = {
    "started": "info",
    "done": "info",
    "dead": "error",
    "retried": "warning",
    "cancelled": "info",
    "released": "info",
    "recovered": "warning",
    "lease_lost": "warning",
    "paused": "warning",
    "resumed": "info",
    "store_trouble": "error",
    "crashed": "critical",
    "image": "info",
    "callback_delivered": "info",
    "callback_failed": "warning",
    "callback_undelivered": "error",
}
"""How much a person has to care about each event."""
DIED: Final = 70
"""The exit code after a mistake of ours."""
_OUR_MISTAKE: Final = "this is a mistake of minitango's own"
_MOST: Final = 4000
"""Characters of a message."""


class Journal:
    """Lines for people: events with the time before them. Safe from any thread."""

    node = ""
    """Who speaks: this machine, until more is known."""

    def event(self, event: str, level: Level, text: str, job: Job | None = None) -> None:
        """Something happened, at this moment."""
        tell(f"{time.strftime('%H:%M:%S')} {text}")

    def say(self, event: str, level: Level, text: str) -> None:
        """Something that is to be known of this worker."""
        tell(f"warning: {text}" if level == "warning" else text)

    def failed(self, error: MinitangoError) -> int:
        """It cannot work: what, where, and what to do next. Returns the exit code."""
        tell(f"error[{error.id}]: {error}" + (f"\n  next: {as_called(error.hint)}" if error.hint else ""))
        return error.exit_code

    def died(self, trace: str) -> int:
        """It made a mistake of ours, with this traceback. Returns the exit code."""
        tell(f"{trace}\nerror[internal]: {_OUR_MISTAKE}\n  next: please report it, with the above")
        return DIED

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None: ...


class JsonJournal(Journal):
    """An object a line, of ASCII alone: no name and no output of a program can break a line, or a terminal. What
    minitango logs goes the same way, inside of its `with` block."""

    def __init__(self) -> None:
        self._handler = _Handler(self)
        self.node = machine()

    def event(self, event: str, level: Level, text: str, job: Job | None = None) -> None:
        self._write(event, level, text, **(_of(job) if job is not None else {}))

    def say(self, event: str, level: Level, text: str) -> None:
        self._write(event, level, text)

    def failed(self, error: MinitangoError) -> int:
        self._write("failed", "critical", str(error), error=error.id, next=as_called(error.hint))
        return error.exit_code

    def died(self, trace: str) -> int:
        text = f"{_OUR_MISTAKE}: {trace.strip()[-_MOST // 2 :]}"
        self._write("failed", "critical", text, error="internal", next="please report it")
        return DIED

    def _write(self, event: str, level: str, text: str, **more: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": now, "level": level, "event": event, "node": self.node, "message": text[:_MOST], **more}
        tell(json.dumps(line, ensure_ascii=True, allow_nan=False).replace("\x7f", r"\u007f"))

    def __enter__(self) -> JsonJournal:
        logger = logging.getLogger("minitango")
        logger.addHandler(self._handler)
        logger.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger("minitango")
        logger.removeHandler(self._handler)
        logger.propagate = True


class _Handler(logging.Handler):
    """What minitango logs, as lines of the journal."""

    def __init__(self, journal: JsonJournal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._journal._write("log", record.levelname.lower(), self.format(record))


def journal(form: str) -> Journal:
    """The one of `--log`: text or json."""
    return JsonJournal() if form == "json" else Journal()


def form_of(words: Sequence[str]) -> str:
    """The form that these words of a command line ask for, also where they cannot be read: by `worker --log`."""
    found = "text"
    for before, word in pairwise(["", *words]):
        found = word if before == "--log" else word[len("--log=") :] if word.startswith("--log=") else found
    return found if words[:1] == ["worker"] else "text"


def _of(job: Job) -> dict[str, Any]:
    """What a line says of a job."""
    said: dict[str, Any] = {
        "job": job.id,
        "assignment": job.assignment,
        "student": job.student,
        "state": job.state.value,
        "attempt": job.attempt,
    }
    if job.outcome is not None:
        said["outcome"] = job.outcome.value
    if job.wall is not None:
        said["wall"] = round(job.wall, 3)
    if job.failure is not None:
        said["error"] = job.failure.id
    return said
