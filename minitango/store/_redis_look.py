"""Whether the server that answers will do: a Redis of its own kind, the master, new enough, one that keeps what it is
given. What it says of itself is hostile until it is read here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final

from minitango.errors import StoreError
from minitango.store._redis_errors import MAKE_ROOM
from minitango.store._redis_probe import no_redis
from minitango.store._redis_url import Place, found_host

OLDEST: Final = (6, 0)


def size(info: Any, name: str) -> int:
    """A number in what INFO says; 0 where it says none, or nonsense."""
    said = info.get(name) if isinstance(info, dict) else None
    return said if isinstance(said, int) and said > 0 else 0


def check(info: Any, place: Place, cli: str) -> tuple[str, ...]:
    """What INFO says of a server: what of it weakens what a store promises. StoreError where it will not do.

    `cli`: what to type to speak to it.
    """
    if not isinstance(info, dict) or "redis_version" not in info:
        raise no_redis(place, place.shown, "something that takes whatever it is told")
    if info.get("redis_mode") == "sentinel" and place.kind == "server":
        raise StoreError(
            f"what answers at {place.shown} is a sentinel",
            hint="write redis+sentinel://HOST:26379/SERVICE?queue=NAME, or rediss+sentinel:// for TLS",
            id="redis_kind",
        )
    if info.get("role") == "slave" and place.kind == "server":
        raise a_replica(info, place)
    version = tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:2] if part.isdigit())
    if version < OLDEST:
        raise StoreError(
            f"Redis {info.get('redis_version')} at {place.shown} is too old: minitango needs 6.0 or later",
            hint="upgrade it (Redis 6 to 8, Valkey)",
            id="redis_too_old",
        )
    remarks = () if place.durability == "any" else _check_durability(info, place, cli)
    most = size(info, "maxmemory")
    if most and size(info, "used_memory") >= most:
        full = f"the memory of Redis at {place.shown} is full: nothing is accepted or recorded until there is room"
        remarks += (f"{full}; next: {MAKE_ROOM}",)
    return remarks


def _check_durability(info: Mapping[str, Any], place: Place, cli: str) -> tuple[str, ...]:
    shown, policy = place.shown, str(info.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys") and size(info, "maxmemory"):
        raise StoreError(
            f"Redis at {shown} throws jobs away when its memory is full (maxmemory-policy {policy})",
            hint=f"{cli} config set maxmemory-policy noeviction, and the same in its redis.conf",
            id="redis_evicts",
        )
    if info.get("aof_enabled"):
        return ()
    lost = f"Redis at {shown} loses what it accepted when it dies (appendonly no)"
    hint = f"{cli} config set appendonly yes, and the same in its redis.conf"
    if place.durability == "require":
        raise StoreError(lost, hint=hint, id="redis_not_durable")
    return (f"{lost}; next: {hint}",)


def a_replica(info: Mapping[str, Any], place: Place) -> StoreError:
    """One server was named, and is a replica: what it is told it must not, or does not, keep. `info`: what INFO says of
    its replication, as far as it could be asked."""
    name, port = info.get("master_host"), info.get("master_port")
    master = found_host(str(name), port) if isinstance(port, int) else None
    if master is None:
        return StoreError(
            f"Redis at {place.shown} is a replica: it takes no writes",
            hint=f"name its master in the store's URL: {place.cli()} info replication",
            id="redis_replica",
        )
    return StoreError(
        f"Redis at {place.shown} is a replica of {master}: it takes no writes",
        hint=f"name its master: --store {shlex.quote(place.instead(master))}; where sentinels choose that, "
        "redis+sentinel://HOST:26379/SERVICE",
        id="redis_replica",
    )
