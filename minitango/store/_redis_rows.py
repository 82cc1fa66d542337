"""Hashes of the Redis store <-> the records of `job.py`. What comes from a server is hostile until it is read here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec

from minitango.errors import ConfigError, StoreError
from minitango.job import Attempt, Job, JobSpec, Lease, StepOutput
from minitango.store import Callback, Errand
from minitango.store import _rows as rows

_TOP: Final = 1 << 63
_FLOATS: Final = ("submitted", "due", "started", "expires", "ended", "score", "max_score", "wall", "handed")
_INTS: Final = (
    "seq", "priority", "rank", "attempt", "failures", "interruptions", "solo_deaths", "ended_seq", "warnings",
    "handed_seq",
)  # fmt: skip
_ALWAYS: Final = ("id", "state", "lane", "assignment", "student", "spec", "inputs", "key", "supersedes", "node")
"""Texts that are there also where they are empty."""
_labels: Final = msgspec.json.Decoder(dict[str, str])
_exchanged: Final = msgspec.msgpack.Decoder(
    tuple[list[int], list[dict[str, str | int | float]], list[Annotated[list[str], msgspec.Meta(max_length=12)]]]
)

Raw = Mapping[bytes, bytes]


def job_of(raw: Raw) -> Job:
    """The job that a `j:` hash holds. StoreError `record_damaged`."""
    try:
        fields = {name.decode(): value.decode() for name, value in raw.items()}
    except ValueError as error:
        raise damaged(f"job {raw.get(b'id', b'?').decode('utf-8', 'replace')}", error) from error
    return _job_of(fields)


def _job_of(fields: dict[str, Any]) -> Job:
    """The job of these fields: texts, which are changed here."""
    try:
        if "labels" in fields:
            fields["labels"] = _labels.decode(fields["labels"])
        if "failure" in fields:
            fields["failure"] = rows.failure_of(fields["failure"])
        job = msgspec.convert(fields, Job, strict=False)
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        raise damaged(f"job {fields.get('id', '?')}", error) from error
    for name in _FLOATS:
        if name in fields and not math.isfinite(getattr(job, name)):
            raise damaged(f"job {job.id}", ValueError(f"{name} is {fields[name]}"))
    return job


def exchanged_of(reply: Any, acks: int) -> tuple[list[int], tuple[Job, ...], tuple[Lease, ...], Sequence[bytes], bool]:
    """What exchange.lua replies to so many acks: the numbers of those refused, the settled jobs, the leases, blobs that
    came with these, and whether queued jobs are left to be moved. StoreError `record_damaged`."""
    try:
        packed, *more = reply
        waves = len(more) > 1 and bool(msgspec.convert(more[1], int))
        refused, settled, leases = _exchanged.decode(packed)
        brought = msgspec.convert(more[0], list[bytes]) if more else []
    except (TypeError, ValueError, *rows.UNREADABLE) as error:
        raise damaged("what was exchanged", error) from error
    if not all(0 <= at < acks for at in refused):
        raise damaged("what was exchanged", ValueError(f"it refuses {refused}, of {acks}"))
    jobs, claimed = tuple(_job_of(fields) for fields in settled), tuple(_lease_of(row) for row in leases)
    return refused, jobs, claimed, brought, waves


def from_flat(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """A hash, from its fields and values in turns."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _lease_of(row: Sequence[str]) -> Lease:
    """From: id, attempt, token, expires, spec, inputs, assignment, student, solo, submitted, course, labels."""
    try:
        job, attempt, token, expires, spec, inputs, assignment, student, solo, submitted, course, labels = row
        whose = (spec, inputs, assignment, student, solo == "1", _real(submitted), course, rows.labels_of(labels))
        return Lease(job, int(attempt), token, _real(expires), *whose)
    except ValueError as error:
        raise damaged("a lease", error) from error


def submit_arguments(id: str, spec: JobSpec, queue: str) -> list[str]:
    """One job for submit.lua. ConfigError `not_storable`."""
    for name, number in (("priority", spec.priority), ("rank", spec.rank)):
        if not -_TOP < number < _TOP:
            raise ConfigError(
                f"{name} {number} cannot be stored", hint="integers must have 64 bits at most", id="not_storable"
            )
    return [
        id, order_of(spec.priority, spec.rank), text(spec.lane), text(spec.assignment), text(spec.student),
        text(spec.course), text(spec.title), text(spec.spec), text(spec.inputs), maybe(spec.key), str(spec.priority),
        str(spec.rank), maybe(spec.supersedes), rows.to_text(spec.labels) or "", text(spec.callback),
        " ".join((spec.spec, spec.inputs, *spec.refs)), queue,
    ]  # fmt: skip


def order_of(priority: int, rank: int) -> str:
    """What stands before a job's number in its place among equals of a lane."""
    return f"{_TOP - 1 - priority:016x}{_TOP + rank:016x}"


def fields_of(job: Job, queue: str, digests: Sequence[str]) -> dict[str, str | bytes]:
    """The hash of a job that comes from another store, as the scripts would have written it."""
    fields: dict[str, str | bytes] = {
        "queue": queue, "order": f"{order_of(job.priority, job.rank)}{job.seq:014x}", "refs": " ".join(digests)
    }  # fmt: skip
    for name in Job.__struct_fields__:
        value = getattr(job, name)
        if name == "queue" or value is None or value is False or (value == 0 and name in _INTS):
            continue
        if name in _FLOATS:
            fields[name] = number(value)
        elif name in _INTS:
            fields[name] = str(value)
        elif name == "labels":
            if value:
                fields[name] = rows.to_json(value)
        elif name == "failure":
            fields[name] = rows.to_json(value)
        elif name == "cancel_requested":
            fields[name] = "1"
        elif value or name in _ALWAYS:
            fields[name] = text(str(value))
    return fields


def maybe(value: str | None) -> str:
    """An argument that tells None from empty."""
    return "" if value is None else "=" + text(value)


def text(value: str) -> str:
    """Text that can be sent. ConfigError `not_storable`."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"a value cannot be stored: {error}", hint="text must be Unicode", id="not_storable"
        ) from error
    return value


def number(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def spec_of(raw: Raw) -> JobSpec:
    job = job_of(raw)
    refs = tuple(raw.get(b"refs", b"").decode("ascii", "replace").split())
    return rows.spec_of(job, refs[2:])


def attempts_of(job: str, raw: Raw) -> list[Attempt]:
    """From an `a:` hash."""
    try:
        found: dict[int, dict[str, str]] = {}
        for key, value in raw.items():
            at, _, name = key.decode().partition(":")
            found.setdefault(int(at), {})[name] = value.decode()
        return [
            Attempt(
                job,
                at,
                one["node"],
                _real(one["started"]),
                _real(one["ended"]) if "ended" in one else None,
                one.get("by"),
                rows.failure_of(one.get("failure")),
            )
            for at, one in sorted(found.items())
        ]
    except (ValueError, KeyError) as error:
        raise damaged(f"the attempts of job {job}", error) from error


def outputs_of(job: str, items: Sequence[bytes]) -> list[StepOutput]:
    """From an `o:` list."""
    try:
        return [
            StepOutput(items[at].decode(), items[at + 1], items[at + 2], _count(items[at + 3]))
            for at in range(0, len(items), 4)
        ]
    except (ValueError, IndexError) as error:
        raise damaged(f"the outputs of job {job}", error) from error


def errand_of(row: Sequence[bytes | None]) -> Errand:
    """From: job, token, url, tries, since."""
    try:
        job, token, url, tries, since = ((item or b"").decode("utf-8", "replace") for item in row)
        return Errand(job, token, url, _count(tries), _real(since))
    except ValueError as error:
        raise damaged("a callback", error) from error


def callback_of(job: Job, raw: Raw, due: float | None) -> Callback | None:
    """From a `cb:` hash, and its place in the outbox."""
    if job.delivery is None:
        return None
    try:
        settled = _real(raw[b"settled"]) if b"settled" in raw else None
        tries, since, error = _count(raw[b"tries"]), _real(raw[b"since"]), raw.get(b"error", b"").decode()
    except (ValueError, KeyError) as wrong:
        raise damaged(f"the callback of job {job.id}", wrong) from wrong
    return Callback(job.callback, job.delivery, tries, since, due, b"token" in raw, settled, error)


def _real(text: str | bytes) -> float:
    """ValueError for what is no number, or none that has a place among others."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no number")
    return number


def _count(text: str | bytes) -> int:
    """ValueError for what is none."""
    number = int(text)
    if number < 0:
        raise ValueError(f"{number} of something")
    return number


def damaged(what: str, error: Exception) -> StoreError:
    return StoreError(
        f"the record of {what} in the store is damaged: {error}",
        hint="restore the server's data from a backup",
        id="record_damaged",
    )
