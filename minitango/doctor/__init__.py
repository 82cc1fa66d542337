"""What is the matter with this machine, this state directory and its queue, before a night of grading.

Every check looks, and changes nothing; only where `fix` is asked for is something removed, and images are fetched. A
running engine is not disturbed.

machine    Python and what it has; the state directory and its disk
queue      the store, the clock, the engine, the jobs; shared, the same of a queue on Redis
boxes      the sandboxes, which one is taken, images, what dead engines left, one assignment's preflight
canary     hostile programs, let loose in the sandbox that is taken
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct, field

if TYPE_CHECKING:
    from minitango.assignment import Assignment

CHECKS: Final = (
    "python", "state", "file_system", "disk", "store", "files", "clock", "engine", "jobs", "docker", "bubblewrap",
    "sandbox", "images", "orphans", "assignment", "canary",
)  # fmt: skip
"""Every check's name, stable, in the order in which they are made. `settings` is the command line's own."""


class Check(Struct, frozen=True):
    """What one check found."""

    name: str
    verdict: Literal["ok", "warning", "failed"]
    """failed: grading needs it, and it is not so."""
    text: str
    next: str = ""
    """What would help; empty where nothing has to."""
    notes: tuple[str, ...] = ()
    """More for people."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The same for programs."""


class Patient(Struct, frozen=True):
    """What is looked at."""

    url: str
    """The store's."""
    state: Path
    sandbox: str = "auto"
    image: str = ""
    flags: str = ""
    """What a command needs to name this queue."""
    assignment: Assignment | None = None
    fix: bool = False
    require: tuple[str, ...] = ()
    """Limits that have to hold."""
    blobs: Path | None = None
    """The directory of the queue's files, if one was named."""
    canary: bool = False
    """Whether hostile programs are to be let loose in the sandbox that is taken."""


def examine(patient: Patient, *, now: float | None = None) -> Iterator[Check]:
    """Make every check, in the order of CHECKS, and yield what each finds as soon as it has. Never raises for what is
    wrong there: that is what a check says. ConfigError for a sandbox or a store that cannot be meant."""
    from minitango.doctor import boxes, machine, queue, shared
    from minitango.store import is_redis

    now = time.time() if now is None else now
    yield machine.python()
    yield from machine.place(patient.state)
    yield from shared.look(patient) if is_redis(patient.url) else queue.look(patient, now)
    yield from boxes.look(patient)
