"""Connections to one server, as a store wants them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from minitango.errors import StoreError
from minitango.store._redis_url import Host, Place

ANSWER: Final = 1.4
"""Seconds in which a verb is answered, or raises: people wait for it, two at the most, with asking where it is."""
PATIENCE: Final = 10.0
"""Seconds for what the engine does by itself, and what may take a server long."""
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Of idle connections, where the system can: a firewall does not forget them, and one that is dead is known to be."""


class Clients:
    """Of one server: `quick` for what people wait for, `steady` for what may take longer."""

    def __init__(self, url: str, *, host: Host | None = None, master: bool = False) -> None:
        self.host = host
        self.quick, self.steady = (_client(url, seconds, master=master) for seconds in (ANSWER, PATIENCE))

    def close(self, *, all: bool = True) -> None:
        """Let the connections go: `all`, or those that nobody uses."""
        for client in (self.quick, self.steady):
            with suppress(redis.RedisError, OSError):
                client.connection_pool.disconnect(inuse_connections=all)


class Brief:
    """A client for one question."""

    def __init__(self, url: str, seconds: float) -> None:
        more = {"ssl_check_hostname": True} if url.startswith("rediss:") else {}
        self._client = redis.Redis.from_url(
            url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=Retry(NoBackoff(), 0), protocol=2, **more
        )

    def __enter__(self) -> redis.Redis:
        return self._client

    def __exit__(self, *error: object) -> None:
        self._client.connection_pool.disconnect()


def made(place: Place, url: str, *, host: Host | None = None, master: bool = False) -> Clients:
    """Clients of this one. StoreError where the URL cannot be used."""
    try:
        return Clients(url, host=host, master=master)
    except (ValueError, OSError) as error:
        raise StoreError(
            f"Redis at {place.shown} cannot be used: {error}", hint="correct the URL", id="store_unreachable"
        ) from error


def _client(url: str, timeout: float, *, master: bool) -> redis.Redis:
    more: dict[str, Any] = {}
    if not url.startswith("unix:"):
        options = {getattr(socket, name): n for name, n in _KEEPALIVE.items() if hasattr(socket, name)}
        more = {"socket_keepalive": True, "socket_keepalive_options": options}
    if url.startswith("rediss:"):
        more["ssl_check_hostname"] = True  # up to redis-py 5 that has to be asked for
    if master:
        more["redis_connect_func"] = _greet_master
    # a pool of its own: with that of `from_url` a client takes connections from under others' hands when it goes
    pool = redis.ConnectionPool.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=min(timeout, ANSWER),
        retry=Retry(NoBackoff(), 0),  # what may be said twice is for us to say
        protocol=2,
        health_check_interval=0,
        client_name="minitango",
        **more,
    )
    return redis.Redis(connection_pool=pool)


def _greet_master(connection: Any) -> None:
    """Instead of redis-py's own greeting, which this begins with."""
    connection.on_connect()
    connection.send_command("ROLE")
    role: Sequence[Any] = connection.read_response()
    if not isinstance(role, list) or not role or role[0] != b"master":
        raise exceptions.ReadOnlyError("it is a replica")
