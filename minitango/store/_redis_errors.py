"""Errors of Redis and of the way to it become ours, each with the next thing to do."""

from __future__ import annotations

import re
from typing import Final

import redis
from redis import exceptions

from minitango.errors import StoreError, StoreFull, StoreTooNew
from minitango.store import _redis_tls as tls
from minitango.store._redis_url import Place
from minitango.text import one_line, plural

Foreign = redis.RedisError | OSError | ValueError
"""What redis-py raises: the last where it is told what is no answer."""
_ELSEWHERE = (
    exceptions.AskError, exceptions.ReadOnlyError, exceptions.TryAgainError, exceptions.ClusterDownError,
    exceptions.MasterDownError, exceptions.BusyLoadingError,
)  # fmt: skip
"""Also MovedError. What such a server was asked for it did not do."""
_NOT_HERE = ("READONLY", "MASTERDOWN", "CLUSTERDOWN", "LOADING", "TRYAGAIN", "MOVED", "ASK")
MAKE_ROOM: Final = "raise its maxmemory, or make room in this queue: minitango prune --older-than 30d"
_MAY_NOT = "user executing the script"
"""How a server begins to say what a script may not, as its user may not."""
_INSIDE = re.compile(r"@user_script: ?[0-9]+: -?([A-Z]+) ")


def _word(said: str) -> str:
    """What kind of error it says that it is."""
    inside = _INSIDE.search(said)  # Redis 6 wraps what a command in a script said
    return inside[1] if inside else said.split(" ", 1)[0]


def elsewhere(error: BaseException) -> bool:
    """Whether a server says that it is not, or not yet, the one to be asked: nothing was done."""
    return isinstance(error, _ELSEWHERE) or (isinstance(error, redis.ResponseError) and _word(str(error)) in _NOT_HERE)


def is_replica(error: BaseException) -> bool:
    """Whether a server says that it is a replica, which takes no writes, or has nothing to tell yet."""
    return isinstance(error, exceptions.ReadOnlyError | exceptions.MasterDownError) or (
        isinstance(error, redis.ResponseError) and _word(str(error)) in ("READONLY", "MASTERDOWN")
    )


def from_redis(error: Foreign, place: Place, queue: str = "default") -> StoreError:
    """`place` says who was asked, about this queue."""
    shown, said = place.shown, str(error)
    word = _word(said)
    if place.kind == "server" and (isinstance(error, exceptions.AskError) or word in ("MOVED", "ASK")):
        return StoreError(
            f"Redis at {shown} is a node of a cluster, and another node has this queue",
            hint="write redis+cluster:// for redis://, or rediss+cluster:// for rediss://",
            id="redis_kind",
        )
    cli = place.cli() if place.kind == "server" else "redis-cli -h HOST"
    if isinstance(error, exceptions.NoPermissionError) or word == "NOPERM" or _MAY_NOT in said:
        return StoreError(
            f"Redis at {shown} does not let us do all that we must: {said}",
            hint=f"let USER, that of the store's URL: {cli} acl setuser USER '~minitango:*' '&minitango:*' +@all",
            id="store_auth",
        )
    if isinstance(error, exceptions.AuthenticationError) or word in ("NOAUTH", "WRONGPASS"):
        return StoreError(
            f"Redis at {shown} does not let us in: {said}",
            hint=f"name a user that may use all of minitango:*: {place.scheme}://USER:PASSWORD@HOST",
            id="store_auth",
        )
    if (
        isinstance(error, exceptions.OutOfMemoryError)
        or word == "OOM"
        or "command not allowed when used memory" in said
    ):
        return StoreFull(
            f"the memory of Redis at {shown} is full: nothing was written",
            hint=MAKE_ROOM,
        )
    if word == "MISCONF":
        return StoreFull(
            f"Redis at {shown} takes no writes, as it cannot save them to its disk: {said}",
            hint="make room on its disk, and look at its log",
        )
    if word == "TOONEW":
        version = one_line(said.split()[-1], 20)
        return StoreTooNew(
            f"the queue on Redis at {shown} was written by a later minitango (store version {version})",
            hint="upgrade minitango here, or name another queue: ?queue=NAME",
        )
    if word == "FILLING":
        return filling(place, queue)
    moving = isinstance(error, exceptions.AskError | exceptions.TryAgainError) or word in ("ASK", "TRYAGAIN")
    if place.kind == "cluster" and moving:
        return StoreError(
            f"the cluster at {shown} is moving this queue to another of its nodes: it stands still until that is done",
            hint=f"wait for it, or look: {place.look}",
            id="store_busy",
        )
    if elsewhere(error) or word in ("NOREPLICAS", "BUSY"):
        return StoreError(
            f"Redis at {shown} cannot take this now: {said}",
            hint="wait for it, or look at its log",
            id="store_busy",
        )
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError):
        if (other := tls.trouble(error, place)) is not None:
            return other
        return StoreError(
            f"Redis at {shown} does not answer: {said}",
            hint=f"is it running, and can it be reached from here? {place.look}",
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


def number_of(field: str, said: bytes | None, place: Place) -> int:
    """What a queue's `meta` says in this field; 0: nothing. StoreError `store_corrupt` where that is no number."""
    try:
        return int(said or 0)
    except ValueError as error:
        wrong = one_line(repr(said), 60)
        raise StoreError(
            f"what the queue on Redis at {place.shown} says of itself is damaged: {field} is {wrong}",
            hint="restore it from a backup, or name another queue with ?queue=NAME",
            id="store_corrupt",
        ) from error


def unconfirmed(place: Place, reached: int) -> StoreError:
    have = {0: "no replica has", 1: "one replica has"}.get(reached, f"{reached} replicas have")
    need = "one has to have it" if place.replicas == 1 else f"{place.replicas} have to have it"
    return StoreError(
        f"this is written on Redis at {place.shown}, but {have} confirmed it in time, and {need} (replicas="
        f"{place.replicas}): it may have been accepted, and is lost if that server dies before",
        hint="say it again, the same work is one job; are its replicas there? minitango doctor",
        id="store_unconfirmed",
    )


def filling(place: Place, queue: str) -> StoreError:
    return StoreError(
        f"the queue {queue!r} on Redis at {place.shown} is being filled by a restore or a migrate, or that died",
        hint=f"wait for its end; if it died, {_anew(place, queue)}",
        id="store_filling",
    )


def not_whole(place: Place, queue: str, there: int, carried: int) -> StoreError:
    return StoreError(
        f"{plural(carried, 'job', 'were')} carried to the queue {queue!r} on Redis at {place.shown}, and {there} are "
        "in it: that is not used",
        hint=f"see that nobody else fills it, and {_anew(place, queue)}",
        id="store_filling",
    )


def _anew(place: Place, queue: str) -> str:
    """How a queue that is half filled is filled after all, or given up. By one command only where one server has it."""
    repeat = "repeat it, which begins anew: minitango restore SRC --store URL, or minitango migrate FROM URL"
    if place.kind != "server":
        return f"{repeat}; without SRC or FROM, name another queue: ?queue=NAME"
    cli = place.cli()
    keys = f"{cli} --scan --pattern 'minitango:{{{queue}}}:*' | xargs -d '\\n' {cli} unlink"
    return f"{repeat}; without SRC or FROM, give it up (all that is in this queue goes): {keys}"
