"""A queue on a Redis server, looked at from outside: nothing is written."""

from __future__ import annotations

import statistics
import time
from contextlib import suppress
from typing import Any

import redis

from minitango.errors import StoreError
from minitango.store._redis_errors import from_redis
from minitango.store._redis_look import size
from minitango.store._redis_url import parse
from minitango.store.health import ServerHealth
from minitango.store.redis import RedisStore

_PINGS = 20


def inspect(url: str) -> ServerHealth:
    """See `minitango.store.health.inspect_server`."""
    place = parse(url)
    store = RedisStore(url)
    try:
        link = store._link
        link.try_out()

        def look(client: redis.Redis) -> dict[str, Any]:
            took = []
            for _ in range(_PINGS):
                begun = time.perf_counter()
                client.ping()
                took.append(time.perf_counter() - begun)
            return {"latency": statistics.median(took), "slowest": max(took), **client.info()}

        info = link.call("inspect", look)
        fsync = ""
        with suppress(StoreError):  # not everywhere may one ask
            found = link.call("inspect", lambda client: client.config_get("appendfsync"))
            fsync = str(found.get("appendfsync", ""))
        waiting = {}
        for lane in link.call("inspect", lambda client: client.smembers(link.key("lanes"))):
            name = lane.decode("utf-8", "replace")
            waiting[name] = int(
                link.call("inspect", lambda client, name=name: client.zcard(link.key(f"ready:{name}")))  # type: ignore[misc]
            )
        seconds, micros = link.call("inspect", lambda client: client.time())
        return ServerHealth(
            shown=place.shown,
            queue=store.queue,
            server=str(info.get("valkey_version") or info.get("redis_version", "")),
            policy=str(info.get("maxmemory_policy", "")),
            memory=size(info, "used_memory"),
            max_memory=size(info, "maxmemory"),
            appends=bool(info.get("aof_enabled")),
            fsync=fsync,
            latency=info["latency"],
            slowest=info["slowest"],
            ahead=float(seconds) + float(micros) / 1e6 - time.time(),
            counts=store.counts(),
            nodes=tuple(store.nodes()),
            now=float(seconds) + float(micros) / 1e6,
            waiting={lane: count for lane, count in waiting.items() if count},
            cli=link.cli,
            fails_over=place.kind != "server",
            replicas=size(info, "connected_slaves"),
            confirmed=place.replicas,
            wants_replicas="min_slaves_good_slaves" in info,
        )
    except redis.RedisError as error:
        raise from_redis(error, place) from error
    finally:
        store.close()
