"""The way to a queue on a Redis server: its connections, the scripts, and the channel on which changes are told.

Knows the wire; what keys and replies mean is `redis.py`'s.
"""

from __future__ import annotations

import importlib.resources
import math
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any, Final, cast

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from minitango import retry
from minitango.errors import StoreError, StoreFull, StoreTooNew
from minitango.failpoint import failpoint
from minitango.job import SOLO_AFTER
from minitango.store import GOOD_FOR, UNHEARD
from minitango.store._redis_errors import filling, from_redis
from minitango.store._redis_url import Place

VERSION: Final = 1
"""Of the keys and the scripts. A later one refuses to be read by this."""
OLDEST: Final = (6, 0)
ORDER_LENGTH: Final = 46
"""Letters of a job's `order`: 16 for its priority, 16 for its rank, 14 for its number."""
ANSWER: Final = 1.5
"""Seconds in which a verb is answered, or raises: people wait for it."""
PATIENCE: Final = 10.0
"""Seconds for what the engine does by itself, and what may take a server long."""
QUIET: Final = 0.02
"""Seconds between two calls of a watcher: what happens meanwhile is told of at once, in one."""
PING: Final = 10.0
"""Seconds without a word after which a watcher asks whether its server is still there, and has its caller look anew."""
_LISTEN: Final = 0.5
_CLOCK_GOOD_FOR: Final = 10.0
_MEMORY_GOOD_FOR: Final = 2.0
_FULL_AT: Final = 0.9
"""Of its maxmemory: beyond, nothing new is accepted."""

_KEEPALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Of idle connections, where the system can: a firewall does not forget them, and one that is dead is known to be."""

Value = str | bytes | int | float

_CONSTANTS: Final = {
    "VERSION": VERSION,
    "SOLO_AFTER": SOLO_AFTER,
    "MAX_ATTEMPTS": retry.MAX_ATTEMPTS,
    "MAX_INTERRUPTIONS": retry.MAX_INTERRUPTIONS,
    "MOST_BACKOFF": retry.MOST_BACKOFF,
    "MAX_SOLO_DEATHS": retry.MAX_SOLO_DEATHS,
    "LATE_AFTER": retry.LATE_AFTER,
    "MAX_HELD": retry.MAX_HELD,
    "HELD_FOR": retry.HELD_FOR,
    "HOLD_BASE": retry.HOLD_BASE,
    "APART": retry.APART,
    "ID_AT": 4 + ORDER_LENGTH + 1,
    "PROMOTE": 2000,
    "WAVE": 200,
    "REPLY_KEPT": 86_400,
    "DEAF": 6,
    "SETTLE": 4,
    "GOOD_FOR": GOOD_FOR,
    "UNHEARD": UNHEARD,
}
"""What the scripts know as C. PROMOTE bounds what one claim or reap looks at, WAVE how many jobs that wait
together one script moves; the others are seconds."""


def _script(verb: str) -> str:
    folder = importlib.resources.files("minitango.store") / "lua"
    constants = ", ".join(f"{name} = {value!r}" for name, value in _CONSTANTS.items())
    poison = msgspec.json.encode(retry.POISON).decode()
    head = f"local VERB, C = {verb!r}, {{ {constants}, POISON = [==[{poison}]==] }}\n"
    common, own = ((folder / f"{name}.lua").read_text() for name in ("common", verb))
    # its own part is a function, so that the books are written wherever it returns
    return f"{head}{common}\nlocal function main()\n{own}\nend\nlocal answer = main()\nbooks()\nreturn answer\n"


class Link:
    """Connections to one queue's server. Threads share it; a process that forks opens its own."""

    def __init__(self, place: Place, queue: str, *, filling: bool = False) -> None:
        """Connects, and looks at the server. `filling`: for who fills the queue. StoreError, StoreTooNew."""
        self.place = place
        self.queue = queue
        self._filling = filling
        self.prefix = f"minitango:{{{queue}}}:"
        self._scripts: dict[str, Any] = {}
        self._watchers: list[Callable[[], None]] = []
        self._closed = False
        self._clock_offset = 0.0
        self._clock_read = -_CLOCK_GOOD_FOR
        self._quick = self._client(ANSWER)
        self._steady = self._client(PATIENCE)
        self._memory_read = -_MEMORY_GOOD_FOR
        self._memory_left = math.inf
        self.remarks: tuple[str, ...] = ()
        """What the server is told that weakens what a store promises."""
        try:
            self._look()
        except BaseException:
            self.close()
            raise

    def _client(self, timeout: float) -> redis.Redis:
        lively: dict[str, Any] = {}
        if not self.place.server.startswith("unix:"):
            options = {getattr(socket, name): n for name, n in _KEEPALIVE.items() if hasattr(socket, name)}
            lively = {"socket_keepalive": True, "socket_keepalive_options": options}
        try:
            return redis.Redis.from_url(
                self.place.server,
                socket_timeout=timeout,
                socket_connect_timeout=min(timeout, ANSWER),
                retry=Retry(NoBackoff(), 0),  # what may be said twice is for us to say
                protocol=2,
                health_check_interval=0,
                client_name="minitango",
                **lively,
            )
        except (ValueError, OSError) as error:
            raise StoreError(
                f"Redis at {self.place.shown} cannot be used: {error}", hint="correct the URL", id="store_unreachable"
            ) from error

    def _look(self) -> None:
        """Look at the server: it must be new enough, keep what it is given, and its queue not be too new."""
        info: dict[str, Any] = self.call("open", lambda client: client.info())
        version = tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:2] if part.isdigit())
        if version < OLDEST:
            raise StoreError(
                f"Redis {info.get('redis_version')} at {self.place.shown} is too old: minitango needs 6.0 or later",
                hint="upgrade it (Redis 6 to 8, Valkey)",
                id="redis_too_old",
            )
        wrote, loading = self.call("open", lambda client: client.hmget(self.key("meta"), "version", "loading"))
        if wrote is not None and int(wrote) > VERSION:
            raise StoreTooNew(
                f"the queue {self.queue!r} on Redis at {self.place.shown} was written by a later minitango "
                f"(store version {int(wrote)}; this one knows {VERSION})",
                hint="upgrade minitango here, or name another queue: ?queue=NAME",
            )
        if loading is not None and not self._filling:
            raise filling(self.place.shown)
        if self.place.durability != "any":
            self._check_durability(info)

    def _check_durability(self, info: Mapping[str, Any]) -> None:
        shown, policy = self.place.shown, str(info.get("maxmemory_policy", "noeviction"))
        if policy.startswith("allkeys") and int(info.get("maxmemory", 0)):
            raise StoreError(
                f"Redis at {shown} throws jobs away when its memory is full (maxmemory-policy {policy})",
                hint=f"redis-cli -u {shown} config set maxmemory-policy noeviction, and the same in its redis.conf",
                id="redis_evicts",
            )
        if not info.get("aof_enabled"):
            lost = f"Redis at {shown} loses what it accepted when it dies (appendonly no)"
            hint = f"redis-cli -u {shown} config set appendonly yes, and the same in its redis.conf"
            if self.place.durability == "require":
                raise StoreError(lost, hint=hint, id="redis_not_durable")
            self.remarks = (f"{lost}; next: {hint}",)

    def check_room(self, size: int = 0) -> None:
        """Refuse new work of `size` bytes where the server would have less memory left than what is under way may need.
        StoreFull. What it lets pass is taken to be used, until the server is asked again."""
        if time.monotonic() - self._memory_read > _MEMORY_GOOD_FOR:
            memory = self.call("memory", lambda client: client.info("memory"))
            self._memory_read = time.monotonic()
            most = int(memory.get("maxmemory", 0))
            self._memory_left = most * _FULL_AT - int(memory.get("used_memory", 0)) if most else math.inf
        self._memory_left -= size
        if self._memory_left < 0:
            self._memory_left += size
            raise StoreFull(
                f"the memory of Redis at {self.place.shown} is nearly full: what is left is for the results of what is "
                "queued",
                hint="raise its maxmemory, or make room: minitango prune --older-than 30d",
            )

    def key(self, name: str) -> str:
        return self.prefix + name

    # --- asking -----------------------------------------------------------------------------------

    def call(self, verb: str, ask: Callable[[redis.Redis], Any], *, patient: bool = False) -> Any:
        """What `ask` gets of a client. For what may be asked twice: it is where the connection had gone stale."""
        deadline = time.monotonic() + (PATIENCE if patient else ANSWER)
        while True:
            if self._closed:
                raise StoreError(f"the store on Redis at {self.place.shown} was closed", id="store_closed")
            try:
                return ask(self._steady if patient else self._quick)
            except redis.AuthenticationError as error:
                raise from_redis(error, self.place.shown) from error
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if self._closed:
                    continue
                if isinstance(error, redis.TimeoutError) or time.monotonic() + 0.1 > deadline or _is_down(error):
                    raise from_redis(error, self.place.shown) from error
                time.sleep(0.05)
            except (redis.RedisError, OSError) as error:
                raise from_redis(error, self.place.shown) from error

    def run(self, verb: str, arguments: Sequence[Value], *, patient: bool = False, repeats: bool = True) -> Any:
        """Run a script. `repeats`: it may be run twice where no answer came; else StoreError says at once."""
        script = self._scripts.get(verb)
        if script is None:
            script = self._scripts[verb] = self._quick.register_script(_script(verb))
        failpoint(f"store.{verb}.before_commit")
        keys = [self.key("meta")]

        def ask(client: redis.Redis) -> Any:
            return script(keys=keys, args=arguments, client=client)

        answer = self.call(verb, ask, patient=patient) if repeats else self._once(ask, patient=patient)
        failpoint(f"store.{verb}.after_commit")
        return answer

    def _once(self, ask: Callable[[redis.Redis], Any], *, patient: bool) -> Any:
        if self._closed:
            raise StoreError(f"the store on Redis at {self.place.shown} was closed", id="store_closed")
        try:
            return ask(self._steady if patient else self._quick)
        except (redis.RedisError, OSError) as error:
            raise from_redis(error, self.place.shown) from error

    def rewrite_file(self) -> int:
        """Have the append-only file written anew, and wait for it. Returns the bytes by which it shrank; 0 where there
        is no such file, or where that is not for us to ask."""
        before = self.call("shrink", lambda client: client.info("persistence"))
        if not before.get("aof_enabled"):
            return 0
        with suppress(StoreError):  # one is under way, or not allowed
            self.call("shrink", lambda client: client.bgrewriteaof())
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            after = self.call("shrink", lambda client: client.info("persistence"))
            if not after.get("aof_rewrite_in_progress") and not after.get("aof_rewrite_scheduled"):
                return max(0, int(before.get("aof_current_size", 0)) - int(after.get("aof_current_size", 0)))
            time.sleep(0.02)
        return 0

    def pipeline(self, ask: Callable[[Any], None], *, patient: bool = False) -> list[Any]:
        """The replies to many requests that may be repeated, sent at once."""

        def both(client: redis.Redis) -> list[Any]:
            pipe = client.pipeline(transaction=False)
            ask(pipe)
            return pipe.execute()

        return cast("list[Any]", self.call("read", both, patient=patient))

    def now(self) -> float:
        """The server's clock. It is asked now and then; between, our own runs on from there."""
        if time.monotonic() - self._clock_read > _CLOCK_GOOD_FOR:
            with suppress(StoreError) if self._clock_offset else nullcontext():
                seconds, micros = self.call("now", lambda client: client.time())
                self._clock_offset = float(seconds) + float(micros) / 1e6 - time.monotonic()
            self._clock_read = time.monotonic()
        return time.monotonic() + self._clock_offset

    # --- watching ---------------------------------------------------------------------------------

    def watch(self, changed: Callable[[], None], *, own: str) -> Callable[[], None]:
        """Call `changed`, which must not raise, after each change of the queue, each time after we were deaf, and at
        least every PING seconds or so: a connection may be dead, and what was told on it lost, without a sign. Not for
        exchanges of the client `own`."""
        stopping = threading.Event()
        ours = own.encode()
        bell = self.key(f"stop:{secrets.token_hex(8)}")
        first = self._subscribe(bell)

        def listen() -> None:
            ears: Any = first
            heard, asked = time.monotonic(), None
            while not stopping.is_set():
                try:
                    if ears is None:
                        ears = self._subscribe(bell)
                        heard, asked = time.monotonic(), None
                        changed()  # something may have been missed
                    message = ears.get_message(timeout=_LISTEN)
                    now = time.monotonic()
                    if message is not None:
                        heard, asked = now, None
                    elif asked is not None and now - asked > ANSWER:
                        raise redis.TimeoutError("no answer to PING")
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
                except (redis.RedisError, OSError, StoreError):
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
            with suppress(ValueError):
                self._watchers.remove(stop)
            with suppress(redis.RedisError, OSError):  # else it looks by itself, soon
                self._quick.publish(bell, "")
            if thread is not threading.current_thread():
                thread.join()

        self._watchers.append(stop)
        return stop

    def _subscribe(self, bell: str) -> Any:
        """Listening, for sure: what is told from now on is heard."""

        def ask(client: redis.Redis) -> Any:
            ears = client.pubsub()  # type: ignore[no-untyped-call]
            try:
                ears.subscribe(self.key("changed"), bell)
                heard = [ears.get_message(timeout=ANSWER) for _ in range(2)]
            except BaseException:
                _quietly(ears.close)
                raise
            if None in heard:
                _quietly(ears.close)
                raise redis.TimeoutError("no answer to SUBSCRIBE")
            return ears

        return self.call("watch", ask)

    def close(self) -> None:
        """Stop the watchers and let the connections go. Idempotent."""
        while self._watchers:
            self._watchers[-1]()
        self._closed = True
        for client in (self._quick, self._steady):
            client.close()
            client.connection_pool.disconnect()


def _is_down(error: BaseException) -> bool:
    """Whether nobody is there at all: waiting some milliseconds does not help."""
    cause = error.__cause__ or error.__context__
    return isinstance(cause, ConnectionRefusedError | FileNotFoundError)


def _quietly(close: Callable[[], None]) -> None:
    with suppress(redis.RedisError, OSError, ValueError):
        close()
