"""The queue: its store, the times in it, the engine that grades it, and what its jobs came to."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from minitango import statedir
from minitango.doctor import Check, Patient
from minitango.errors import StoreError
from minitango.job import State, lane_of, serves
from minitango.statedir import Running
from minitango.store.health import Health, inspect_store
from minitango.text import human_size, one_line, plural

WASTE: Final = 0.5
"""Share of the file that may hold nothing."""
_BORN: Final = 1_750_000_000
"""Seconds since the epoch before which there was no minitango: a clock that says so is wrong."""


def look(patient: Patient, now: float) -> Iterator[Check]:
    """The store, the clock, the engine and the jobs."""
    running = statedir.running(patient.state)
    try:
        health = inspect_store(patient.url, now=now)
    except StoreError as error:
        yield Check("store", "failed", error.message, error.hint, facts={"error": error.id})
        yield _clock(None, now)
        yield _engine(patient, running, None)
        return
    yield _store(patient, health, running)
    yield _clock(health, now)
    yield _engine(patient, running, health)
    if health is not None:
        yield jobs(patient, health.counts)


def _store(patient: Patient, health: Health | None, running: Running | None) -> Check:
    if health is None:
        return Check("store", "ok", "there is no queue yet: it is made when something is submitted")
    facts = {
        "path": health.path,
        "version": health.version,
        "journal": health.journal,
        "trouble": health.trouble,
        "bytes": health.bytes,
        "free": health.free,
        "counts": {str(state): count for state, count in health.counts.items()},
    }
    if health.trouble:
        text = f"{health.path} is damaged: {one_line(health.trouble, 200)}"
        hint = f"restore it from a backup, or save what can be saved: sqlite3 {health.path} .recover"
        return Check("store", "failed", text, hint, facts=facts)
    size = f"{health.path}: {human_size(health.bytes)}, can be written"
    if health.journal != "wal" and health.version:
        hint = "stop what else uses that file; the next command of minitango's that opens it sets it right"
        return Check("store", "warning", f"{size}; its journal is {health.journal}, not WAL", hint, facts=facts)
    if health.trouble is None:
        hint = f"when nobody grades: sqlite3 {health.path} 'PRAGMA quick_check'"
        return Check("store", "warning", f"{size}; too large to be checked whole in a few seconds", hint, facts=facts)
    if health.free > 32 << 20 and health.free > WASTE * health.bytes:
        hint = f"minitango prune{patient.flags} --older-than 30d, when no engine runs"
        return Check("store", "warning", f"{size}; {human_size(health.free)} of it hold nothing", hint, facts=facts)
    old = "" if health.current else "; of an earlier version, which the next engine brings up to date"
    return Check("store", "ok", f"{size}, sound{old}", facts=facts)


def _clock(health: Health | None, now: float) -> Check:
    says = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    facts = {"now": now, "from_the_future": health.from_the_future if health is not None else 0}
    hint = "set this machine's clock (timedatectl)"
    if now < _BORN:
        return Check("clock", "warning", f"it is {says} by this machine's clock, which cannot be", hint, facts=facts)
    if health is not None and health.from_the_future:
        count = health.from_the_future
        text = f"it is {says} by this machine's clock, and {plural(count, 'job', 'have')} times later than that"
        return Check("clock", "warning", text, hint, facts=facts)
    return Check("clock", "ok", says, facts=facts)


def _engine(patient: Patient, running: Running | None, health: Health | None) -> Check:
    waiting = health.counts[State.QUEUED] + health.counts[State.RUNNING] if health is not None else 0
    kind = statedir.sandbox_kind(patient.state)
    facts = {"running": running is not None, "pid": running.pid if running is not None else None, "sandbox": kind}
    lanes = health.waiting if health is not None else {}
    if running is not None:
        who = f"process {running.pid}" if running.pid else "a process"
        text = f"{who} grades here{f', in {kind}' if kind else ''}"
        here = [node.capabilities for node in health.nodes if node.pid == running.pid] if health is not None else []
        missing = unserved(lanes, here) if here else {}  # which may not have noted yet what it offers
        if missing:
            lane = next(iter(missing))
            hint = f"start it again with what they need: {worker(patient.flags, [lane, *map(lane_of, here)])}"
            return Check("engine", "warning", f"{text}; {in_want(lane, missing[lane])}", hint, facts=facts)
        return Check("engine", "ok", text, facts=facts)
    if waiting:
        text = f"none runs here, and {plural(waiting, 'job', 'wait')}"
        return Check("engine", "warning", text, worker(patient.flags, lanes), facts=facts)
    return Check("engine", "ok", "none runs here", facts=facts)


def unserved(waiting: Mapping[str, int], offered: Sequence[Collection[str]]) -> dict[str, int]:
    """Of the jobs that wait, by lane, those that no node may be given which offers one of these."""
    return {lane: n for lane, n in waiting.items() if not any(serves(each, lane) for each in offered)}


def in_want(lane: str, count: int) -> str:
    """That so many jobs of a lane wait for a node that there is not."""
    if not lane:
        return plural(count, "job", "wait")
    return f"{plural(count, 'job', 'need')} a node that offers {lane}, and none does"


def worker(flags: str, lanes: Iterable[str]) -> str:
    """What starts a node that serves these lanes."""
    needs = lane_of(need for lane in lanes for need in lane.split(",") if need)
    return f"minitango worker{flags}" + (f" --capability {needs}" if needs else "")


def jobs(patient: Patient, found: Mapping[State, int]) -> Check:
    """What the jobs came to."""
    counts = {str(state): count for state, count in found.items()}
    text = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none"
    if found[State.DEAD]:
        hint = f"minitango jobs list --state-is dead{patient.flags}"
        return Check("jobs", "warning", f"{text}: what is dead could not be graded", hint, facts=counts)
    return Check("jobs", "ok", text, facts=counts)
