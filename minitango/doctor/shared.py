"""A queue on a Redis server: the server and what it keeps, its clock, the nodes, the jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from minitango.doctor import Check, Patient
from minitango.doctor.queue import in_want, jobs, unserved, worker
from minitango.errors import MinitangoError, StoreError
from minitango.node import overdue
from minitango.store.health import ServerHealth, inspect_server
from minitango.text import human_seconds, human_size, one_line, plural

SLOW: Final = 0.02
"""Seconds for a question and its answer, at the median, beyond which every job is felt to wait."""
NEARLY_FULL: Final = 0.8
SKEWED: Final = 60.0


def look(patient: Patient) -> Iterator[Check]:
    """The store, the clock, the nodes and the jobs."""
    try:
        health = inspect_server(patient.url)
    except StoreError as error:
        yield Check("store", "failed", error.message, error.hint, facts={"error": error.id})
        return
    yield _store(health)
    yield _files(patient)
    yield _clock(health)
    yield _nodes(patient, health)
    yield jobs(patient, health.counts)


def _store(health: ServerHealth) -> Check:
    facts = {
        "server": health.server,
        "queue": health.queue,
        "policy": health.policy,
        "memory": health.memory,
        "max_memory": health.max_memory,
        "appends": health.appends,
        "fsync": health.fsync,
        "latency": health.latency,
        "replicas": health.replicas,
        "confirmed": health.confirmed,
    }
    most = f" of {human_size(health.max_memory)}" if health.max_memory else ""
    keeps = "keeps what it accepts when it dies" if health.appends else "loses what it accepted when it dies"
    text = (
        f"{health.shown}, queue {health.queue}: Redis {one_line(health.server, 40)}, "
        f"{human_size(health.memory)}{most} used, answers in {human_seconds(health.latency)}, {keeps}"
    )
    cli = health.cli
    if not health.appends:
        return Check("store", "warning", text, f"{cli} config set appendonly yes, and in its redis.conf", facts=facts)
    if health.fsync == "no":
        hint = f"{cli} config set appendfsync everysec, and in its redis.conf"
        return Check("store", "warning", f"{text}, but not when its machine does", hint, facts=facts)
    if health.max_memory and health.policy != "noeviction":
        hint = f"{cli} config set maxmemory-policy noeviction, and in its redis.conf"
        return Check("store", "warning", f"{text}; its policy when full is {health.policy}", hint, facts=facts)
    if health.max_memory and health.memory > NEARLY_FULL * health.max_memory:
        hint = "raise its maxmemory, or make room in this queue: minitango prune --older-than 30d"
        return Check("store", "warning", f"{text}; it is nearly full, and then accepts nothing more", hint, facts=facts)
    if health.replicas < health.confirmed:
        text = (
            f"{text}; replicas that follow it: {health.replicas}; nothing is accepted until {health.confirmed} have it"
        )
        return Check("store", "warning", text, f"start them, and look: {cli} info replication", facts=facts)
    if health.fails_over and not health.replicas:
        text = f"{text}; no replica follows it, and nobody takes over when it dies"
        return Check("store", "warning", text, f"start one, and look: {cli} info replication", facts=facts)
    if health.fails_over and not health.confirmed and not health.wants_replicas:
        text = f"{text}; what it accepted last is lost when a replica takes over that has not got it yet"
        hint = (
            f"add replicas=1 to the store's URL on every machine, or bound it: {cli} config set min-replicas-to-write 1"
        )
        return Check("store", "warning", text, hint, facts=facts)
    if health.latency > SLOW:
        hint = f"{cli} --latency; is it near, and its machine idle?"
        return Check("store", "warning", f"{text}; that is slow", hint, facts=facts)
    return Check("store", "ok", text, facts=facts)


def _files(patient: Patient) -> Check:
    """Whether they are where this machine looks for them."""
    from minitango.store import open_blobs, open_store

    try:
        with contextlib.closing(open_store(patient.url)) as store:
            open_blobs(store, patient.state, patient.blobs, agreed=True)
    except MinitangoError as error:
        return Check("files", "failed", error.message, error.hint, facts={"error": error.id})
    where = "on the server" if patient.blobs is None else f"in {patient.blobs}"
    return Check("files", "ok", f"the files of the queue are {where}", facts={"directory": str(patient.blobs or "")})


def _clock(health: ServerHealth) -> Check:
    facts = {"ahead": health.ahead}
    if abs(health.ahead) > SKEWED:
        which = "ahead of" if health.ahead > 0 else "behind"
        off = human_seconds(abs(health.ahead))
        text = f"the server's clock is {off} {which} this machine's; leases go by the server's"
        return Check("clock", "warning", text, "set the clock that is wrong (timedatectl)", facts=facts)
    return Check("clock", "ok", "the server's clock and this machine's agree", facts=facts)


def _nodes(patient: Patient, health: ServerHealth) -> Check:
    alive = [node for node in health.nodes if health.now - node.seen < node.good_for]
    lost = [node for node in health.nodes if node not in alive]
    taking = [node for node in alive if not node.draining]
    facts = {"alive": [node.name for node in alive], "lost": [node.name for node in lost]}
    missing = unserved(health.waiting, [node.capabilities for node in taking])
    slots = plural(sum(node.slots for node in alive), "job")
    text = f"{plural(len(alive), 'node', 'grade')}, {slots} at once" if alive else "nobody grades"
    if missing and taking:
        lane, count = next(iter(missing.items()))
        hint = worker(patient.flags, [lane])
        return Check("engine", "warning", f"{text}; {in_want(lane, count)}", hint, facts=facts)
    if missing:
        held = "; all are drained" if alive else ""
        hint = f"minitango nodes resume {alive[0].name}" if alive else worker(patient.flags, missing)
        waiting = plural(sum(missing.values()), "job", "wait")
        return Check("engine", "warning", f"{text}{held}, and {waiting}", hint, facts=facts)
    late = [node for node in alive if overdue(node, health.now)]
    if late:
        silent = human_seconds(health.now - late[0].seen)
        names = ", ".join(one_line(node.name, 64) for node in late[:5])
        text = f"{text}; overdue, perhaps dead: {names}, not heard of for {silent}"
        return Check("engine", "warning", text, "look again in half a minute", facts=facts)
    if lost:
        names = ", ".join(one_line(node.name, 64) for node in lost[:5])
        hint = f"start it again, or: minitango nodes forget {one_line(lost[0].name, 64)}"
        return Check("engine", "warning", f"{text}; lost: {names}", hint, facts=facts)
    return Check("engine", "ok", text, facts=facts)
