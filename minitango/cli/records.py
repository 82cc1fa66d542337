"""What `--json` prints, and `export --format json`: one document a command, of schema 1.

Within a schema version fields may be added, and none is removed, renamed or of another kind. Every field of a record
here is always printed: what there is not is null, or empty. docs/schema/ is made from these classes by `bin/schema`.
Times are seconds since the epoch, durations seconds, sizes bytes.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from minitango.doctor import Check
from minitango.job import Attempt, Delivery, Failure, Limits, Outcome, Result
from minitango.record import Document, ErrorRecord, JobRecord


class GradeRecord(JobRecord, frozen=True):
    """One job in the gradebook."""

    course: str
    percent: float | None
    """Of the maximum; null where there is no score, or nothing to earn."""
    cpu: float | None
    """Seconds; null where the sandbox does not tell."""
    memory: int | None
    """Bytes at the peak; null where the sandbox does not tell."""
    sandbox: str
    image_digest: str
    """Of the last step's image; empty in a sandbox without images."""


class Expected(Struct, frozen=True):
    """What an assignment expects of a sample: a score or an outcome."""

    score: float | None
    outcome: Outcome | None


class SampleRecord(JobRecord, frozen=True):
    """One sample, and the job that graded it."""

    sample: str
    expected: Expected
    ok: bool
    wrong: str
    """In words; empty where it held."""
    output: str
    """What tells why: tests that failed, and the end of what each step printed; empty where it held."""


class Event(Struct, frozen=True):
    """Something that happened to a job, and how long what went before it took."""

    at: float
    what: Literal["submitted", "began", "ended", "due", "cancelled", "now"]
    text: str
    """For people."""
    seconds: float | None = None
    """Since what went before."""
    failure: Failure | None = None


class StepRecord(Struct, frozen=True):
    """What a step was to do, and what of it came near its limit."""

    name: str
    command: tuple[str, ...] | None
    """Null where the assignment as it was then cannot be read any more; `limits`, too."""
    limits: Limits | None
    near: tuple[str, ...]
    """Of wall, cpu, memory and output what used 80 % of its limit or more."""


class FileRecord(Struct, frozen=True):
    """One file of a hand-in."""

    path: str
    size: int


class InputsRecord(Struct, frozen=True):
    """What was handed in, as it is kept."""

    path: str
    files: tuple[FileRecord, ...]
    trouble: str
    """Why it cannot be read; empty where it can."""


class CallbackRecord(Struct, frozen=True):
    """What became of a job's callback."""

    url: str
    delivery: Delivery | None
    """Null until the job has ended; undelivered: given up."""
    tries: int
    """Since the job ended, or since its callback was last asked for anew."""
    due: float | None
    """When it is tried next; null unless it is pending."""
    settled: float | None
    """When it was delivered, or given up."""
    error: str
    """What the latest try that went wrong met; empty where none did."""


class StoryRecord(JobRecord, frozen=True):
    """One job with all that is known of it."""

    result: Result | None
    history: tuple[Attempt, ...]
    timeline: tuple[Event, ...]
    callback: CallbackRecord | None
    """Null where it has none."""
    steps: tuple[StepRecord, ...]
    inputs: InputsRecord
    origin: str
    """Where its assignment was when it was submitted; empty: not known."""
    next: tuple[str, ...]
    """What to do, in words with a command in them."""


class Refusal(Struct, frozen=True):
    """A hand-in that was not taken."""

    student: str
    title: str
    error: ErrorRecord


class Setting(Struct, frozen=True):
    """One setting as it is in force."""

    key: str
    value: str | int
    source: str
    """flag, variable, file or default."""
    place: str = ""
    """Who says so: `--state`, `MINITANGO_STATE`, `/course/minitango.toml:3`; empty: nobody."""
    over: tuple[str, ...] = ()
    """Who says otherwise, and is not heard."""


class UnknownVariable(Struct, frozen=True):
    """A variable of the environment that looks like a setting and is none."""

    name: str
    near: str
    """The setting that may be meant; empty where none is near."""


class Removed(Struct, frozen=True):
    """What a prune came to, or would."""

    dry_run: bool
    jobs: int
    files: int
    bytes: int
    """Of those files."""
    kept: int
    """Files that no job needs and that are too young to be removed."""
    freed: int
    """Bytes by which the queue's own file, or on Redis the server's append-only file, became smaller."""
    handed_over: int
    """Jobs that others handed in, too: they stay theirs, without the student's name."""


# --- documents --------------------------------------------------------------------------------


class Run(Document, frozen=True, kw_only=True):
    """What `run --json` prints."""

    jobs: tuple[JobRecord, ...]
    """In the order of the hand-ins."""
    refused: tuple[Refusal, ...]


class Jobs(Document, frozen=True, kw_only=True):
    """What `jobs list --json` and `submit --json` print."""

    jobs: tuple[JobRecord, ...]
    """In the order of their submission."""


class Stories(Document, frozen=True, kw_only=True):
    """What `jobs show --json` prints."""

    jobs: tuple[StoryRecord, ...]
    """The one that was asked for."""


class Samples(Document, frozen=True, kw_only=True):
    """What `check --json` prints."""

    samples: tuple[SampleRecord, ...]


class Grades(Document, frozen=True, kw_only=True):
    """What `export --format json` prints."""

    jobs: tuple[GradeRecord, ...]
    """In the order of their submission."""


class Checkup(Document, frozen=True, kw_only=True):
    """What `doctor --json` prints."""

    ok: bool
    """Whether nothing failed that grading needs."""
    checks: tuple[Check, ...]


class NodeRecord(Struct, frozen=True):
    """One engine that grades a queue."""

    name: str
    state: str
    """ready, draining (it grades what it has), drained, overdue (it missed more than two signs of life), or lost (not
    heard of)."""
    running: int
    slots: int
    sandbox: str
    capabilities: tuple[str, ...]
    seen: float
    """When it was last heard of, on the store's clock."""
    silent: float
    """Seconds since then."""
    host: str
    pid: int
    version: str
    started: float


class NodeRecords(Document, frozen=True, kw_only=True):
    """What `nodes list --json` prints."""

    nodes: tuple[NodeRecord, ...]


class Settings(Document, frozen=True, kw_only=True):
    """What `config show --json` prints."""

    settings: tuple[Setting, ...]
    unknown: tuple[UnknownVariable, ...]


class Prune(Document, frozen=True, kw_only=True):
    """What `prune --json` prints."""

    removed: Removed
