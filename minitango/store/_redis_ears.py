"""What is told on the channel of a queue, heard: on connections that may die without a sign, of servers that change."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

import redis

from minitango.errors import StoreError
from minitango.store._redis_clients import ANSWER

QUIET: Final = 0.02
"""Seconds between two calls of a watcher: what happens meanwhile is told of at once, in one."""
PING: Final = 10.0
"""Seconds without a word after which a watcher asks whether its server is still there, and has its caller look anew."""
_LISTEN: Final = 0.5


class Line(Protocol):
    """What ears need of a link."""

    @property
    def turn(self) -> int: ...
    def key(self, name: str) -> str: ...
    def call(self, verb: str, ask: Callable[[redis.Redis], Any], *, patient: bool = False) -> Any: ...


def watch(line: Line, changed: Callable[[], None], *, own: str) -> Callable[[], None]:
    """Call `changed`, which must not raise, after each change of the queue, each time after we were deaf, and at
    least every PING seconds or so: a connection may be dead, and what was told on it lost, without a sign. Not for
    exchanges of the client `own`. Returns how to stop it."""
    stopping = threading.Event()
    ours = own.encode()
    bell = line.key(f"stop:{secrets.token_hex(8)}")
    first = line.turn, subscribe(line, bell)

    def listen() -> None:
        ears: Any
        turn, ears = first
        heard, asked = time.monotonic(), None
        while not stopping.is_set():
            try:
                if ears is None:
                    turn = line.turn
                    ears = subscribe(line, bell)
                    heard, asked = time.monotonic(), None
                    changed()  # something may have been missed
                message = ears.get_message(timeout=_LISTEN)
                now = time.monotonic()
                if message is not None:
                    heard, asked = now, None
                elif asked is not None and now - asked > ANSWER:
                    raise redis.TimeoutError("no answer to PING")
                elif turn != line.turn:
                    raise redis.ConnectionError("the queue is on another server")
                elif asked is None and now - heard > PING:
                    ears.ping()
                    asked = now
                if message is None or stopping.is_set() or message["type"] not in ("message", "pong"):
                    continue
                if message["data"] == ours:
                    continue
                changed()
                stopping.wait(QUIET)
                more = False
                while (message := ears.get_message(timeout=0)) is not None:
                    more = more or message["data"] != ours
                if more and not stopping.is_set():
                    changed()
            except (redis.RedisError, OSError, ValueError, StoreError):
                if ears is not None:
                    _quietly(ears.close)
                ears = None
                stopping.wait(0.2)
        if ears is not None:
            _quietly(ears.close)

    thread = threading.Thread(target=listen, name="minitango-watch", daemon=True)
    thread.start()

    def stop() -> None:
        stopping.set()
        with suppress(StoreError):  # else it looks by itself, soon
            line.call("watch", lambda client: client.publish(bell, ""))
        if thread is not threading.current_thread():
            thread.join()

    return stop


def subscribe(line: Line, bell: str) -> Any:
    """Listening, for sure: what is told from now on is heard."""

    def ask(client: redis.Redis) -> Any:
        ears = client.pubsub()  # type: ignore[no-untyped-call]
        try:
            ears.subscribe(line.key("changed"), bell)
            heard = [ears.get_message(timeout=ANSWER) for _ in range(2)]
        except BaseException:
            _quietly(ears.close)
            raise
        if None in heard:
            _quietly(ears.close)
            raise redis.TimeoutError("no answer to SUBSCRIBE")
        return ears

    return line.call("watch", ask)


def _quietly(close: Callable[[], None]) -> None:
    with suppress(redis.RedisError, OSError, ValueError):
        close()
