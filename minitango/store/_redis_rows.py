"""Hashes of the Redis store <-> the records of `job.py`. What comes from a server is hostile until it is read here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from minitango.errors import ConfigError, StoreError
from minitango.job import Attempt, Job, JobSpec, Lease, StepOutput
from minitango.store import UNHEARD, Callback, Errand, Node
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
_piecewise: Final = msgspec.msgpack.Decoder(tuple[list[int], list[dict[str, msgspec.Raw]], list[msgspec.Raw]])
"""The same, each record for itself."""
_row: Final = msgspec.msgpack.Decoder(list[str])
_pieces: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_value: Final = msgspec.msgpack.Decoder(str | int | float)

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


class Heard(NamedTuple):
    """What exchange.lua replied."""

    refused: list[int]
    """The numbers of acks that were refused."""
    settled: tuple[Job, ...]
    leases: tuple[Lease, ...]
    damaged: tuple[tuple[Lease, StoreError], ...]
    """Leases of jobs whose records cannot be read, with no more than what tells which they are, and why."""
    brought: Mapping[str, bytes]
    """Blobs that came with leases, by their digests."""
    waves: bool
    """Whether queued jobs are left to be moved."""
    unread: int
    """How many of the records in it could not be read whole."""


def exchanged_of(reply: Any, acks: int) -> Heard:
    """What exchange.lua replies to so many acks. StoreError `record_damaged` where it is no such reply; a record in it
    that is damaged costs no other."""
    spoilt: list[tuple[Lease, StoreError]] = []
    try:
        packed, *more = reply
        waves = len(more) > 1 and bool(msgspec.convert(more[1], int))
        blobs = msgspec.convert(more[0], list[bytes]) if more else []
        settled: list[dict[str, Any]]
        claimed: Any
        try:
            refused, settled, claimed = _exchanged.decode(packed)
        except rows.UNREADABLE:
            refused, pieces, claimed = _piecewise.decode(packed)
            settled = [{name: _lenient(value) for name, value in piece.items()} for piece in pieces]
    except (TypeError, ValueError, *rows.UNREADABLE) as error:
        raise damaged("what was exchanged", error) from error
    if not all(0 <= at < acks for at in refused):
        raise damaged("what was exchanged", ValueError(f"it refuses {refused}, of {acks}"))
    jobs = tuple(_readable(fields) for fields in settled)
    unread = sum(not whole for _, whole in jobs)
    leases: list[Lease] = []
    brought: dict[str, bytes] = {}
    for at, row in enumerate(claimed):
        try:
            lease = _lease_of(_row.decode(row) if isinstance(row, msgspec.Raw) else row)
        except (StoreError, *rows.UNREADABLE) as error:
            unread += 1
            if (bare := _bare(row)) is not None:  # else its lease lapses
                spoilt.append((bare, damaged(f"job {bare.job}", error)))
        else:
            leases.append(lease)
            if at < len(blobs) and blobs[at]:
                brought[lease.inputs] = blobs[at]
    return Heard(
        refused, tuple(job for job, _ in jobs), tuple(leases), tuple(spoilt), brought, waves, unread
    )  # fmt: skip


def _bare(row: list[str] | msgspec.Raw) -> Lease | None:
    """What tells which lease it is, of one that cannot be read."""
    try:
        values = [_lenient(value) for value in _pieces.decode(row)[:3]] if isinstance(row, msgspec.Raw) else row[:3]
        job, attempt, token = values
        return Lease(job, int(attempt), token, 0.0, "", "", "", "") if rows.is_id(job) else None
    except (TypeError, ValueError, *rows.UNREADABLE):
        return None


def _lenient(value: msgspec.Raw) -> Any:
    """A value of a reply; of a text that is no Unicode what is."""
    try:
        return _value.decode(value)
    except rows.UNREADABLE:
        data = bytes(value)
        return data[{0xD9: 2, 0xDA: 3, 0xDB: 5}.get(data[0], 1) :].decode("utf-8", "replace")


def readable(raw: Raw) -> Job:
    """As `job_of`; of a record that is damaged, what can be read of it. For verbs that are about more jobs than this
    one: who asks for it alone is told."""
    return _readable(
        {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in raw.items()}
    )[0]


def _readable(fields: dict[str, Any]) -> tuple[Job, bool]:
    """The job, and whether that is the whole of it. Changes what it is given."""
    texts: dict[str, Any] = {name: fields[name] for name in ("labels", "failure") if name in fields}
    try:
        return _job_of(fields), True
    except StoreError:
        fields |= texts
    left: dict[str, Any] = {**dict.fromkeys(("id", "assignment", "student", "spec", "inputs"), ""), "seq": 0}
    left["state"] = "dead"
    for name in Job.__struct_fields__:
        if name in fields:
            with suppress(StoreError):
                _job_of({**left, name: fields[name]})
                left[name] = fields[name]
    return _job_of(left), False


def from_flat(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """A hash, from its fields and values in turns."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _lease_of(row: Sequence[str]) -> Lease:
    """From: id, attempt, token, expires, spec, inputs, assignment, student, solo, submitted, course, labels."""
    try:
        job, attempt, token, expires, spec, inputs, assignment, student, solo, submitted, course, labels = row
        whose = (spec, inputs, assignment, student, solo == "1", _real(submitted), course, rows.labels_of(labels))
        lease = Lease(job, int(attempt), token, _real(expires), *whose)
    except ValueError as error:
        raise damaged("a lease", error) from error
    if not (spec and inputs and assignment and student):
        raise damaged("a lease", ValueError("it does not say what is to be graded"))
    return lease


def node_of(name: bytes, record: bytes, seen: float, draining: bool) -> Node:
    """The node of this name. One whose record was damaged is lost, until it says a word again: that writes it anew."""
    called = name.decode("utf-8", "replace")
    with suppress(StoreError):
        node = rows.node_of(record, seen, draining)
        if node.name == called and 0 <= node.good_for <= UNHEARD:
            return node
    return Node(called, "", good_for=0.0, seen=seen, draining=draining)


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
