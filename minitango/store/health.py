"""A store looked at from outside, for `doctor`."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from minitango.job import State
from minitango.store import Node, need_redis, sqlite_path


class Health(Struct, frozen=True):
    """What a store is like, looked at from outside."""

    path: str
    version: int
    current: bool
    """Whether it is of this minitango's version; else opening it brings it there."""
    journal: str
    trouble: str | None
    """What the check of the file found; empty: nothing; None: it was not through in time."""
    counts: Mapping[State, int]
    """Of all queues."""
    from_the_future: int
    """Jobs with a time, or leases with an expiry, that a clock set right could not have given."""
    bytes: int
    free: int
    """Of those, bytes that hold nothing."""
    waiting: Mapping[str, int] = {}
    """By lane, how many jobs of all queues are queued; of a file of an earlier version none are told."""
    nodes: tuple[Node, ...] = ()
    """Of all queues: who grades there, or did last."""


class ServerHealth(Struct, frozen=True):
    """What a Redis server and a queue on it are like. Bytes and seconds."""

    shown: str
    queue: str
    server: str
    """Its version."""
    policy: str
    memory: int
    max_memory: int
    """0: no bound of its own."""
    appends: bool
    """Whether it keeps an append-only file."""
    fsync: str
    """Of that file: always, everysec, no; empty: it does not say."""
    latency: float
    slowest: float
    ahead: float
    """Of this machine's clock."""
    now: float
    counts: Mapping[State, int]
    nodes: tuple[Node, ...]
    waiting: Mapping[str, int]
    """By lane, how many jobs wait to be claimed."""
    cli: str
    """What to type to speak to the server that has the queue now."""
    fails_over: bool
    """Whether another server takes over when it dies: what is accepted, and that one has not yet, is lost then."""
    replicas: int
    """Of the server, that follow it."""
    confirmed: int
    """How many of those must have what is accepted before anybody is told so."""
    wants_replicas: bool
    """Whether the server accepts nothing unless some follow it closely (min-replicas-to-write)."""


def inspect_server(url: str) -> ServerHealth:
    """Look at a queue on a Redis server. Raises StoreError, StoreTooNew and ConfigError as `open_store`."""
    need_redis()
    from minitango.store._redis_inspect import inspect

    return inspect(url)


def inspect_store(url: str, *, now: float, ahead: float = 60.0, patience: float = 10.0) -> Health | None:
    """Look at a store without opening it for use: nothing is made, migrated or left written; None: it is not there.

    Safe beside a running engine, which waits a millisecond at most. Times more than `ahead` seconds after `now` are of
    the future. The file is checked for at most `patience` seconds. Raises StoreError, StoreTooNew and ConfigError as
    `open_store`.
    """
    from minitango.store._inspect import inspect

    return inspect(sqlite_path(url), now=now, ahead=ahead, patience=patience)


def sqlite_version() -> tuple[str, bool]:
    """The version of the SQLite library here, and whether it will do."""
    from minitango.store._inspect import library

    return library()
