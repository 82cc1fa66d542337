"""Errors of Redis and of the way to it become ours, each with the next thing to do."""

from __future__ import annotations

import re

import redis
from redis import exceptions

from minitango.errors import StoreError, StoreFull, StoreTooNew

_INSIDE = re.compile(r"@user_script: ?[0-9]+: -?([A-Z]+) ")


def from_redis(error: redis.RedisError | OSError, shown: str, *, unsure: str = "") -> StoreError:
    """`shown` names the server; `unsure` says what is not known now."""
    said = str(error)
    inside = _INSIDE.search(said)  # Redis 6 wraps what a command in a script said
    word = inside[1] if inside else said.split(" ", 1)[0]
    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError) or word in (
        "NOAUTH",
        "WRONGPASS",
        "NOPERM",
    ):
        return StoreError(
            f"Redis at {shown} does not let us in: {said}",
            hint="name a user that may use all of minitango:*: redis://USER:PASSWORD@HOST",
            id="store_auth",
        )
    if (
        isinstance(error, exceptions.OutOfMemoryError)
        or word == "OOM"
        or "command not allowed when used memory" in said
    ):
        return StoreFull(
            f"the memory of Redis at {shown} is full: nothing was written",
            hint="raise its maxmemory, or make room: minitango prune --older-than 30d",
        )
    if word == "MISCONF":
        return StoreFull(
            f"Redis at {shown} takes no writes, as it cannot save them to its disk: {said}",
            hint="make room on its disk, and look at its log",
        )
    if word == "TOONEW":
        return StoreTooNew(
            f"the queue on Redis at {shown} was written by a later minitango (store version {said.split()[-1]})",
            hint="upgrade minitango here, or name another queue: ?queue=NAME",
        )
    if word == "FILLING":
        return filling(shown)
    if word in ("READONLY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "LOADING", "BUSY", "TRYAGAIN") or isinstance(
        error,
        exceptions.BusyLoadingError | exceptions.ReadOnlyError | exceptions.TryAgainError | exceptions.ClusterDownError,
    ):
        return StoreError(
            f"Redis at {shown} cannot take this now: {said}{unsure}",
            hint="wait for it, or look at its log",
            id="store_busy",
        )
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError):
        return StoreError(
            f"Redis at {shown} does not answer: {said}{unsure}",
            hint=f"is it running, and can it be reached from here? redis-cli -u {shown} ping",
            id="store_unreachable",
        )
    if word == "WRONGTYPE" or "Error running script" in said or "user_script" in said:
        return StoreError(
            f"what Redis at {shown} holds below minitango: is not what a queue of ours is: {said}",
            hint="name another queue with ?queue=NAME, or restore it from a backup",
            id="store_corrupt",
        )
    if "DB index is out of range" in said or "invalid DB index" in said:
        return StoreError(
            f"Redis at {shown} has no such database: {said}",
            hint="leave the number out of the URL, and tell queues apart by ?queue=NAME; or raise its `databases`",
            id="store_io",
        )
    return StoreError(f"Redis at {shown} refused: {said}", hint="look at its log", id="store_io")


def filling(shown: str) -> StoreError:
    return StoreError(
        f"the queue on Redis at {shown} is being filled by a migrate or a restore, or that died",
        hint="wait for its end; if it died, repeat it: minitango migrate FROM TO",
        id="store_filling",
    )


def not_whole(shown: str, there: int, carried: int) -> StoreError:
    return StoreError(
        f"{carried} jobs were carried to the queue on Redis at {shown}, and {there} are there: it stays closed",
        hint="see that nobody else fills it, and repeat it: minitango migrate FROM TO",
        id="store_filling",
    )
