"""Rows of the SQLite store <-> the records of `job.py`."""

from __future__ import annotations

import functools
import math
import secrets
from types import NoneType
from typing import Any, Final

import msgspec

from minitango.errors import StoreError
from minitango.job import Attempt, Delivery, Failure, Job, JobSpec, Lease, Outcome, Result, State, Trust
from minitango.store import Node

Row = tuple[Any, ...]

JOB_COLUMNS: Final = ", ".join(f"jobs.{name}" for name in Job.__struct_fields__)
"""What to select where `job_of` is to read it."""
WIDTH: Final = len(Job.__struct_fields__)

_AT: Final = {name: place for place, name in enumerate(Job.__struct_fields__)}
_STATE, _LABELS, _CANCEL = _AT["state"], _AT["labels"], _AT["cancel_requested"]
_OUTCOME, _TRUST, _FAILURE, _DELIVERY = _AT["outcome"], _AT["trust"], _AT["failure"], _AT["delivery"]
_STATES: Final = {state.value: state for state in State}
_OUTCOMES: Final = {None: None} | {outcome.value: outcome for outcome in Outcome}
_TRUSTS: Final = {None: None} | {trust.value: trust for trust in Trust}
_DELIVERIES: Final = {None: None} | {delivery.value: delivery for delivery in Delivery}

_COUNT: Final = 1 << 53
"""What counts further was never counted."""
_NUMBERS: Final = {"seq", "priority", "rank"}
_COUNTS: Final = {
    "attempt", "failures", "interruptions", "solo_deaths", "ended_seq", "warnings", "handed_seq",
    "cancel_requested",
}  # fmt: skip
_TIMES: Final = {"submitted", "due", "started", "expires", "ended", "score", "max_score", "wall", "handed"}
_KINDS: Final[dict[str, type]] = {
    name: int if name in _NUMBERS | _COUNTS else float if name in _TIMES else str for name in Job.__struct_fields__
}
"""What is in each column. SQLite does not hold anybody to it, nor does a disk."""
_NULL: Final = {
    "key", "supersedes", "node", "due", "started", "expires", "ended", "ended_seq", "outcome", "score", "max_score",
    "trust", "wall", "failure", "delivery", "labels", "handed", "handed_seq",
}  # fmt: skip
"""Columns that may have none."""
_BOUNDED: Final = [(_AT[name], name) for name in sorted(_COUNTS | _TIMES)]
_LEASED: Final[tuple[tuple[str, type], ...]] = (
    *(("id", str), ("attempt", int), ("token", str), ("expires", float), ("spec", str), ("inputs", str)),
    *(("assignment", str), ("student", str), ("solo_lease", int), ("submitted", float), ("course", str)),
    *(("labels", str), ("seq", int), ("priority", int), ("rank", int), ("late", int)),
)
"""The columns of a claim, and what is in them."""

_encoder: Final = msgspec.json.Encoder()
_labels: Final = msgspec.json.Decoder(dict[str, str])
_failure: Final = msgspec.json.Decoder(Failure)
_node: Final = msgspec.json.Decoder(Node)
_result: Final = msgspec.json.Decoder(Result)

_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = [first + second for first in _CROCKFORD for second in _CROCKFORD]
ID_LENGTH: Final = 10


def new_id() -> str:
    """50 random bits as 10 characters of lower-case Crockford base32: says nothing, and reads well aloud."""
    bits = secrets.randbits(5 * ID_LENGTH)
    return "".join([_PAIRS[bits >> 10 * place & 1023] for place in range(ID_LENGTH // 2)])


def new_token() -> str:
    """A fencing token that was never used before: 128 random bits, in hex."""
    return secrets.token_hex(16)


def is_id(text: str) -> bool:
    """Whether an id could be this."""
    return len(text) == ID_LENGTH and all(letter in _CROCKFORD for letter in text)


def is_prefix(text: str) -> bool:
    """Whether an id could begin like this."""
    return 4 <= len(text) < ID_LENGTH and all(letter in _CROCKFORD for letter in text)


UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder makes of bytes that are no record."""


def job_of(row: Row) -> Job:
    """The job in the first WIDTH columns of a row that was selected as JOB_COLUMNS."""
    values = list(row[:WIDTH])
    if wrong := _misfit(tuple(map(type, values))) or _beyond(values):
        raise damaged(f"job {values[0]}", ValueError(f"{wrong} is {values[_AT[wrong]]!r:.100}"))
    try:
        values[_STATE] = _STATES[values[_STATE]]
        values[_LABELS] = _labels.decode(values[_LABELS]) if values[_LABELS] else {}
        values[_CANCEL] = bool(values[_CANCEL])
        values[_OUTCOME] = _OUTCOMES[values[_OUTCOME]]
        values[_TRUST] = _TRUSTS[values[_TRUST]]
        values[_DELIVERY] = _DELIVERIES[values[_DELIVERY]]
    except (KeyError, *UNREADABLE) as error:
        raise damaged(f"job {values[0]}", error) from error
    values[_FAILURE] = failure_of(values[_FAILURE])
    return Job(*values)


def readable(row: Row) -> Job:
    """As `job_of`; of a record that is damaged, what can be read of it. For verbs that are about more jobs than this
    one: who asks for it alone is told. StoreError where not even its state can be read."""
    try:
        return job_of(row)
    except StoreError:
        values = list(row[:WIDTH])
        for place, (name, kind) in enumerate(_KINDS.items()):
            value = values[place]
            if not (value is None and name in _NULL) and not _fits(name, value, kind):
                values[place] = None if name in _NULL else kind()
        for place, read in ((_LABELS, labels_of), (_FAILURE, failure_of)):
            try:
                read(values[place])
            except StoreError:
                values[place] = None
        for place, known in ((_OUTCOME, _OUTCOMES), (_TRUST, _TRUSTS), (_DELIVERY, _DELIVERIES)):
            values[place] = values[place] if values[place] in known else None
        return job_of(tuple(values))


@functools.lru_cache(maxsize=4096)
def _misfit(types: tuple[type, ...]) -> str:
    """The first column in which there is never what one of these types is; empty: none. A row has few kinds of them."""
    for (name, kind), found in zip(_KINDS.items(), types, strict=True):
        if not _is(found, kind) and not (found is NoneType and name in _NULL):
            return name
    return ""


def _beyond(values: list[Any]) -> str:
    """The first column with a number that was never one of its; empty: none."""
    for place, name in _BOUNDED:
        value = values[place]
        if value is not None and not (-math.inf < value < math.inf if name in _TIMES else 0 <= value < _COUNT):
            return name
    return ""


def _is(found: type, kind: type) -> bool:
    return found is kind or (kind is float and found is int)  # what was just written is given back as it was


def _fits(name: str, value: Any, kind: type) -> bool:
    if not _is(type(value), kind):
        return False
    return math.isfinite(value) if name in _TIMES else name not in _COUNTS or 0 <= value < _COUNT


def is_ordered(row: Row) -> bool:
    """Whether a claimed row has what tells its place among others."""
    return all(type(value) is int for value in row[12:16])


def labels_of(text: str | bytes | None) -> dict[str, str]:
    try:
        return _labels.decode(text) if text else {}
    except UNREADABLE as error:
        raise damaged("a job's labels", error) from error


def failure_of(text: str | None) -> Failure | None:
    try:
        return None if text is None else _failure.decode(text)
    except UNREADABLE as error:
        raise damaged("a failure", error) from error


def unreadable(error: StoreError) -> Failure:
    """Why a job is dead whose record cannot be read."""
    return Failure("record_damaged", error.message, "submit the same work again, it is graded anew")


def damaged(what: str, error: Exception) -> StoreError:
    return StoreError(
        f"the record of {what} in the store is damaged: {error}",
        hint="restore the state directory from a backup",
        id="record_damaged",
    )


def spec_of(job: Job, refs: tuple[str, ...]) -> JobSpec:
    """What was submitted: a job's own columns, and its refs."""
    shared = {name: getattr(job, name) for name in JobSpec.__struct_fields__ if name != "refs"}
    return JobSpec(**shared, refs=refs)


def attempt_of(job: str, row: Row) -> Attempt:
    number, node, started, ended, ended_by, failure = row
    return Attempt(job, number, node, started, ended, ended_by, failure_of(failure))


def lease_of(row: Row) -> Lease:
    """From the columns of a claim. StoreError `record_damaged`."""
    for (name, kind), value in zip(_LEASED, row, strict=True):
        if not _fits(name, value, kind) and not (name == "labels" and value is None):
            raise damaged(f"job {row[0]}", ValueError(f"{name} is {value!r:.100}"))
    job, attempt, token, expires, spec, inputs, assignment, student, solo, submitted, course, labels = row[:12]
    whose = (spec, inputs, assignment, student, bool(solo), submitted, course, labels_of(labels))
    return Lease(job, attempt, token, expires, *whose)


def result_of(data: bytes) -> Result:
    try:
        return _result.decode(data)
    except UNREADABLE as error:
        raise damaged("a result", error) from error


def node_of(record: str | bytes, seen: float, draining: bool) -> Node:
    try:
        return msgspec.structs.replace(_node.decode(record), seen=seen, draining=bool(draining))
    except UNREADABLE as error:
        raise damaged("a node", error) from error


def to_json(value: object) -> bytes:
    """JSON of a record. Text that is no Unicode (lone surrogates) is kept, with a `?` for each one."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_clean(msgspec.to_builtins(value)))


def to_text(value: object) -> str | None:
    """JSON for a column that a person may read; None for None and for an empty dict."""
    return None if value is None or value == {} else to_json(value).decode()


def clean_text(text: str) -> str:
    """Text that SQLite takes: the same, but for lone surrogates."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
