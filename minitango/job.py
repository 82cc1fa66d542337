"""The values at the centre: a job, its states, and what grading found.

Everything here is frozen and pure: no clock, no file, no thread. The state machine is data
(`TRANSITIONS`); what becomes of a job whose attempt was not graded is decided in `retry`. Records cross
borders as JSON only; the ones that are kept carry `schema`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct, field

from minitango.group import members

_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

SCHEMA: Final = 1
"""Version of every record that is kept or printed as JSON."""

FORMATS: Final = ("gradescope", "autolab", "prairielearn", "junit", "exit-code")
"""What an assignment's last step may report in. Each has its reader in `results`."""

LAYOUTS: Final = ("autolab", "gradescope", "prairielearn")
"""The platforms whose autograders run as they are. Each has its module in `assignment.autograders`."""

ORIGIN: Final = "origin"
"""The label of a job that says where its assignment was: an absolute path."""

TURN: Final = "retry.turn"
"""The label of a job that stands in place of another: that one's `turn`, as long as this is not handed in again."""

SOLO_AFTER: Final = 2
"""Interruptions after which a job is run alone: it may be what kills its engines."""


class State(StrEnum):
    """Where a job is in the queue."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether a job stays in it for good."""
        return self in TERMINAL


TERMINAL: Final = frozenset({State.DONE, State.DEAD, State.CANCELLED})


class Delivery(StrEnum):
    """Where the callback of a job that has ended is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"
    """Given up: nobody tries it again unless asked to."""


class Outcome(StrEnum):
    """What grading found, of a job that is done. Only `graded` has a score."""

    GRADED = "graded"
    NO_SCORE = "no_score"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"


class Trust(StrEnum):
    """How far a score is out of the reach of the code that it grades."""

    SEPARATED = "separated"
    """The step that reported did not get the submission, only files that an earlier step left, none executable."""
    GUARDED = "guarded"
    """The step that reported had student code run while it graded, each time in a sandbox beside its own."""
    SHARED = "shared"
    """Grader and submission shared a sandbox, or the score was a printed line, as what the submission left may be: a
    hostile submission could have forged it."""


class Transition(Struct, frozen=True):
    """One edge of the state machine. `source` is None where a job begins."""

    source: State | None
    verb: str
    target: State
    when: str = ""


TRANSITIONS: Final[tuple[Transition, ...]] = (
    Transition(None, "submit", State.QUEUED),
    Transition(State.QUEUED, "claim", State.RUNNING, "due; a new attempt and token"),
    Transition(State.QUEUED, "cancel", State.CANCELLED),
    Transition(State.RUNNING, "finish", State.DONE),
    Transition(State.RUNNING, "fail", State.QUEUED, "attempts left, or uncharged; due later"),
    Transition(State.RUNNING, "fail", State.DEAD, "no attempts left, or retrying cannot help"),
    Transition(State.RUNNING, "release", State.QUEUED, "engine stops; uncharged"),
    Transition(State.RUNNING, "recover", State.QUEUED, "engine died; uncharged"),
    Transition(State.RUNNING, "recover", State.DEAD, "for the third time in a row while run alone"),
    Transition(State.RUNNING, "reap", State.QUEUED, "lease lapsed; uncharged"),
    Transition(State.RUNNING, "reap", State.DEAD, "for the third time in a row while run alone"),
    Transition(State.RUNNING, "cancelled", State.CANCELLED, "cancel was requested"),
)
"""Every edge there is. `retry` and `regrade` are no edges: they submit a new job that names the old one."""


# --- limits and usage -------------------------------------------------------------------------


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What one step may use. Seconds and bytes."""

    wall: float = 60.0
    cpu: float | None = None
    """CPU seconds of all processes together; None: bounded by `wall` and the share of cores alone."""
    memory: int = 512 << 20
    pids: int = 128
    output: int = 1 << 20
    """Bytes of stdout and stderr together, after which the step is ended."""
    disk: int = 256 << 20
    """Bytes of the writable directories together, held in memory on top of `memory`."""
    cpus: float = 1.0
    """Share of cores, where the sandbox can hold it."""


class Usage(Struct, frozen=True):
    """What a step, or a whole job, used. None: not known in this sandbox."""

    wall: float = 0.0
    cpu: float | None = None
    memory: int | None = None
    """Peak bytes, the writable directories included where the sandbox counts them."""


class Notice(Struct, frozen=True):
    """Something that a person should know, though it decided nothing. `id` is stable."""

    id: str
    message: str


SIGNS: Final = frozenset(
    {"grader_exit", "report_late", "score_above_max", "score_line_not_last", "score_line_twice", "test_twice"}
)
"""Ids of what may be a sign of tampering, where grader and hand-in shared a sandbox: honest graders hardly ever give
rise to them."""


def signs_in(warnings: Iterable[Notice], trust: Trust | None) -> tuple[Notice, ...]:
    """Those that may be signs of tampering. None where the score was out of the hand-in's reach: it is the grader's own
    doing then, whatever it is."""
    return tuple(notice for notice in warnings if notice.id in SIGNS) if trust is Trust.SHARED else ()


# --- results ----------------------------------------------------------------------------------


class TestResult(Struct, frozen=True, omit_defaults=True):
    """One test of a report, in Gradescope's words."""

    __test__ = False

    name: str = ""
    number: str = ""
    score: float | None = None
    max_score: float | None = None
    status: str | None = None
    output: str = ""
    output_format: str = "text"
    name_format: str = "text"
    visibility: str = "visible"
    tags: tuple[str, ...] = ()
    extra_data: dict[str, Any] = field(default_factory=dict)


class LeaderboardEntry(Struct, frozen=True, omit_defaults=True):
    """A value that a grader gives for a leaderboard, in Gradescope's words."""

    name: str
    value: float | str
    order: str = "desc"


class StepReport(Struct, frozen=True, omit_defaults=True):
    """How one step ended. Exactly one of `exit_status` and `signal` is set, unless the step never started."""

    name: str
    exit_status: int | None = None
    signal: int | None = None
    limit: str | None = None
    """The limit that ended it: wall, cpu, memory, output."""
    usage: Usage = Usage()
    output_bytes: int = 0
    """All that it wrote, kept or not."""
    refused: tuple[tuple[str, str], ...] = ()
    """Files that it left and that were not taken: (path, reason)."""
    image: str = ""
    """As the assignment names it; empty where it names none, or the sandbox has no images."""
    image_digest: str = ""
    """What that was; empty where the sandbox has no images."""
    calls: int = 0
    """How often a guarded step had student code run; what that used is in `usage`."""


class Result(Struct, frozen=True, omit_defaults=True):
    """What grading found. `score` is None unless the outcome is graded."""

    outcome: Outcome
    score: float | None = None
    max_score: float | None = None
    trust: Trust = Trust.SHARED
    reason: str = ""
    """A few words on what went wrong; empty for a plain grade."""
    tests: tuple[TestResult, ...] = ()
    feedback: str = ""
    feedback_format: str = "text"
    visibility: str = "visible"
    stdout_visibility: str = "hidden"
    leaderboard: tuple[LeaderboardEntry, ...] = ()
    extra_data: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[Notice, ...] = ()
    steps: tuple[StepReport, ...] = ()
    usage: Usage = Usage()
    sandbox: str = ""
    image_digest: str = ""
    """Of the last step."""
    schema: int = field(default_factory=lambda: SCHEMA)  # by a function, so that it is never left out as the usual
    """The version of this record; always there."""


class Failure(Struct, frozen=True, omit_defaults=True):
    """Why an attempt, or a dead job, was not graded: an error's id, message and next step."""

    id: str
    message: str
    hint: str = ""


# --- the queue's records ----------------------------------------------------------------------


class JobSpec(Struct, frozen=True, omit_defaults=True):
    """What submit writes: everything about a job that never changes. Digests name blobs."""

    assignment: str
    student: str
    spec: str
    """Digest of the assignment's canonical JSON."""
    inputs: str
    """Digest of the submission's bundle."""
    key: str | None = None
    """Idempotency: one live or done job per key in a queue. None: never the same as another."""
    course: str = ""
    title: str = ""
    """What the hand-in is called: a file's name, for people."""
    priority: int = 0
    """Higher first."""
    rank: int = 0
    """Among equals in priority: lower first, then in order of submission."""
    lane: str = ""
    """What a node must offer to be given it: as `lane_of` writes it."""
    labels: dict[str, str] = field(default_factory=dict)
    supersedes: str | None = None
    refs: tuple[str, ...] = ()
    """Every other blob that grading needs: kept while the job is."""
    callback: str = ""
    """The URL that is told how the job ended; empty: none."""


class Job(Struct, frozen=True, omit_defaults=True):
    """A job as the store has it now. Times are seconds since the epoch on the store's clock."""

    id: str
    seq: int
    state: State
    assignment: str
    student: str
    spec: str
    inputs: str
    queue: str = "default"
    key: str | None = None
    course: str = ""
    title: str = ""
    priority: int = 0
    rank: int = 0
    lane: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    supersedes: str | None = None
    attempt: int = 0
    """The latest attempt's number; 0 before the first."""
    failures: int = 0
    interruptions: int = 0
    solo_deaths: int = 0
    node: str | None = None
    cancel_requested: bool = False
    submitted: float = 0.0
    due: float | None = None
    """Not before this; None: now."""
    started: float | None = None
    """When the latest attempt was claimed."""
    expires: float | None = None
    ended: float | None = None
    ended_seq: int | None = None
    """The order in which jobs ended: never reused, rises by one store-wide."""
    outcome: Outcome | None = None
    score: float | None = None
    max_score: float | None = None
    trust: Trust | None = None
    reason: str = ""
    wall: float | None = None
    warnings: int = 0
    failure: Failure | None = None
    """Why it is dead, or why its latest attempt failed."""
    callback: str = ""
    delivery: Delivery | None = None
    """None: it has no callback, or has not ended."""
    handed: float | None = None
    """When the same was last handed in again, which gave this job; None: never."""
    handed_seq: int | None = None
    """Its place then: numbers of `seq`'s row."""

    @property
    def turn(self) -> int:
        """Its place in the order of hand-ins: of a student's jobs the highest is of what was handed in last. One that
        was retried keeps it, as nobody handed anything in."""
        kept = self.labels.get(TURN, "") if self.supersedes else ""
        return self.handed_seq or (int(kept) if re.fullmatch("[0-9]{1,18}", kept) else self.seq)

    @property
    def solo(self) -> bool:
        """Whether its next attempt is to be run alone."""
        return self.interruptions >= SOLO_AFTER


def is_label(text: object) -> bool:
    """Whether a node may be called so, or offer that, and an assignment ask for it."""
    return isinstance(text, str) and _LABEL.fullmatch(text) is not None


def lane_of(needs: Iterable[str]) -> str:
    """What a job needs of its node, as its lane: each once, in order, joined by commas."""
    return ",".join(sorted(set(needs)))


def serves(capabilities: Collection[str], lane: str) -> bool:
    """Whether a node with these capabilities may be given a job of this lane."""
    return not lane or all(need in capabilities for need in lane.split(","))


def work_key(grader: Sequence[str], course: str, student: str, inputs: str, labels: Mapping[str, str] = {}) -> str:
    """The key of a job: equal for the same work. `grader` is all that decides on a grade but the hand-in, `inputs` the
    digest of the hand-in's bundle, `labels` the job's: of what several handed in together, the work is of all."""
    students = sorted(members(labels, student))
    who = student if len(students) == 1 else students
    return hashlib.sha256(json.dumps([*grader, course, who, inputs]).encode()).hexdigest()


class Attempt(Struct, frozen=True, omit_defaults=True):
    """One run of a job, for its story."""

    job: str
    number: int
    node: str
    started: float
    ended: float | None = None
    ended_by: str | None = None
    """The verb that ended it: finish, fail, release, recover, reap, cancelled."""
    failure: Failure | None = None


class Lease(Struct, frozen=True):
    """The right to run one attempt. Every verb of a running attempt carries it, and a stale one is refused."""

    job: str
    attempt: int
    token: str
    """Fencing token: new with each claim, never reused."""
    expires: float
    spec: str
    inputs: str
    assignment: str
    student: str
    solo: bool = False
    """Claimed to be run alone on its node."""
    submitted: float = 0.0
    """When the job was submitted, on the store's clock."""
    course: str = ""
    labels: dict[str, str] = field(default_factory=dict)


class StepOutput(Struct, frozen=True):
    """What a step printed, as it came: the first and the last bytes, and how many lie between."""

    step: str
    head: bytes
    tail: bytes = b""
    elided: int = 0


# --- what a runner makes of an attempt: the engine hands it to the store -----------------------


class Finish(Struct, frozen=True, tag=True):
    """The job was graded: its one result."""

    lease: Lease
    result: Result
    outputs: tuple[StepOutput, ...] = ()
    grader: tuple[str, ...] = ()
    """What graded it, as `work_key` takes it; empty: what the job was submitted for."""


class Fail(Struct, frozen=True, tag=True):
    """We could not grade it. `retry=False` where no later attempt can do better (a mistake in the assignment)."""

    lease: Lease
    failure: Failure
    retry: bool = True
    charge: bool = True
    """False: no sandbox was to be had; the job goes back and keeps its attempts (`after_hold`). Who waits with it is
    decided by the failure's id (`errors.reach_of`)."""


class Release(Struct, frozen=True, tag=True):
    """The engine stops: the job goes back, uncharged."""

    lease: Lease


class Cancelled(Struct, frozen=True, tag=True):
    """A cancel was requested, and the sandbox is gone."""

    lease: Lease


Ack = Finish | Fail | Release | Cancelled
