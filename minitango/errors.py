"""Every exception of minitango, in one tree.

    MinitangoError
    ├── ConfigError             what the instructor wrote cannot be used           exit 2
    │   ├── AssignmentError     an assignment.toml, or an Assignment built in code
    │   ├── SubmissionError     a hand-in that cannot be taken
    │   │   └── ArchiveError    an archive that is unsafe, too large or not an archive
    │   └── NothingToGrade      no hand-in was found                               exit 5
    ├── UnavailableError        something that we need is not there                exit 3
    │   ├── StoreError          the queue's store cannot be opened, read or written
    │   │   ├── StoreTooNew     written by a later minitango
    │   │   ├── StoreFull       its disk is full
    │   │   └── EngineRunning   another engine holds this state directory
    │   ├── BlobError           bytes that were accepted cannot be read back
    │   └── SandboxUnavailable  no sandbox can be had here
    ├── SandboxFailed           a sandbox broke while it graded: ours, never the student's
    ├── JobNotFound             no job has this id
    ├── GraderSuspected         what was graded speaks against the grader, not the students   exit 4
    ├── SampleMissed            a sample did not get what its assignment expects    exit 1
    ├── JobDead                 a job could not be graded, after every retry       exit 4
    └── EngineStopped           the engine was stopped, or died, before the answer came

Each has a stable `id` (documented, safe to match on; that of a class which others stand below is a fallback, and what
is raised has a closer one), a message that names the place, and a `hint`:
the next thing to type. A student's mistake is never an exception: it is an outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from pathlib import Path


class MinitangoError(Exception):
    """The root: catch this to catch everything that minitango raises on purpose."""

    id = "error"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if id is not None:
            self.id = id

    def __str__(self) -> str:
        return self.message


class ConfigError(MinitangoError):
    """What was asked for cannot be used as it stands. Retrying will not help."""

    id = "config"
    exit_code = 2


class AssignmentError(ConfigError):
    """An assignment is wrong. `file`, `key` and `line` say where, as far as they are known."""

    id = "assignment"

    def __init__(
        self,
        message: str,
        *,
        file: str = "",
        key: str = "",
        line: int | None = None,
        hint: str = "",
        id: str | None = None,
    ) -> None:
        place = file
        if line is not None:
            place += f":{line}"
        if key:
            place += f" [{key}]" if place else key
        super().__init__(f"{place}: {message}" if place else message, hint=hint, id=id)
        self.file = file
        self.key = key
        self.line = line


class SubmissionError(ConfigError):
    """A hand-in cannot be taken: missing, too large, or not what the assignment asks for."""

    id = "submission"


class ArchiveError(SubmissionError):
    """An archive is refused: unsafe names or members, too large once unpacked, or damaged."""

    id = "archive"


class NothingToGrade(ConfigError):
    """There is no hand-in where one was expected."""

    id = "nothing_to_grade"
    exit_code = 5


class UnavailableError(MinitangoError):
    """Something that the engine needs is not there now. It may be later."""

    id = "unavailable"
    exit_code = 3


class StoreError(UnavailableError):
    """The store cannot be opened, read or written."""

    id = "store"


class StoreTooNew(StoreError):
    """The store was written by a later version, and this one will not guess."""

    id = "store_too_new"


class StoreFull(StoreError):
    """The store's disk is full: nothing was accepted. `place` is what was to be written there, where it is a disk of
    this machine's."""

    id = "store_full"

    def __init__(self, message: str, *, place: Path | None = None, hint: str = "", id: str | None = None) -> None:
        super().__init__(message, hint=hint, id=id)
        self.place = place


class EngineRunning(StoreError):
    """Another engine holds this state directory; `pid` is its process, where it is known."""

    id = "engine_running"

    def __init__(self, message: str, *, pid: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.pid = pid


HOPELESS: Final = frozenset({"store_corrupt", "store_too_new", "store_closed", "state_gone"})
"""Errors of the store that no waiting mends."""
PASSING: Final = frozenset(
    {"store_full", "store_busy", "store_unreachable", "store_unconfirmed", "redis_replica", "redis_tls"}
)
"""Errors of the store that end when somebody makes room, lets go or is back: waited for as long as it takes."""


class BlobError(UnavailableError):
    """Bytes that were accepted are missing, or are no longer what was accepted."""

    id = "blob"


Reach = Literal["sandbox", "setting", "image"]
"""Whom it concerns that no sandbox can be had, and so who waits.

sandbox: everybody. Nothing is started for a while, then one job is tried.
setting: one assignment, which asks for what this sandbox is not set up to give. Its jobs wait together.
image: one assignment, whose image cannot be had now. Its jobs wait together; that others are graded says nothing.
"""

REACHES: Final[dict[str, Reach]] = {
    "sandbox_apparmor": "sandbox",
    "sandbox_busy": "sandbox",
    "sandbox_container": "sandbox",
    "sandbox_disk_full": "sandbox",
    "sandbox_docker": "sandbox",
    "sandbox_garbled": "sandbox",
    "sandbox_gone": "sandbox",
    "sandbox_hangs": "sandbox",
    "sandbox_image_gone": "image",
    "sandbox_lost": "sandbox",
    "sandbox_machine": "sandbox",
    "sandbox_missing": "sandbox",
    "sandbox_network": "setting",
    "sandbox_no_mount_namespace": "sandbox",
    "sandbox_no_setuid": "sandbox",
    "sandbox_not_isolated": "sandbox",
    "sandbox_not_linux": "sandbox",
    "sandbox_registry": "image",
    "sandbox_ssh": "sandbox",
    "sandbox_threads": "sandbox",
    "sandbox_too_old": "sandbox",
    "sandbox_unavailable": "sandbox",
    "sandbox_userns": "sandbox",
    "sandbox_weak": "sandbox",
}
"""Every id of SandboxUnavailable: the one place where it is decided whose trouble each is."""


def reach_of(id: str) -> Reach:
    """Whom an uncharged failure with this id concerns: everybody, unless it is known to be one assignment's."""
    return REACHES.get(id, "sandbox")


class SandboxUnavailable(UnavailableError):
    """No sandbox can be had on this machine; the hint says what would give one. `REACHES` has every id of it."""

    id = "sandbox_unavailable"


class SandboxFailed(MinitangoError):
    """A sandbox broke while it graded. Infrastructure: the attempt is retried, no student is charged."""

    id = "sandbox_failed"


class JobNotFound(MinitangoError):
    """No job has this id."""

    id = "job_not_found"
    exit_code = 2


class GraderSuspected(MinitangoError):
    """What was graded so far speaks against the grader, not the students: the others were left alone."""

    id = "grader_suspected"
    exit_code = 4


class SampleMissed(MinitangoError):
    """A sample did not get what its assignment expects of it: no hand-in was queued."""

    id = "sample_missed"


class JobDead(MinitangoError):
    """The engine could not grade this job, after every retry. That is never a zero."""

    id = "job_dead"
    exit_code = 4


class EngineStopped(MinitangoError):
    """The engine was stopped, or died, before the answer came. The job is safe in the store."""

    id = "engine_stopped"
