"""What is asked of the server that has a queue, and asked again: requests, scripts, and whether the server will do.

Knows the wire; what keys and replies mean is `redis.py`'s, which server it is `_redis_way.py`'s.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Final, cast

import msgspec
import redis
from redis.exceptions import NoScriptError

from minitango import retry
from minitango.errors import StoreError, StoreFull, StoreTooNew
from minitango.failpoint import failpoint
from minitango.job import SOLO_AFTER
from minitango.store import GOOD_FOR, UNHEARD
from minitango.store._redis_clients import ANSWER, PATIENCE, Clients
from minitango.store._redis_ears import watch
from minitango.store._redis_errors import (
    MAKE_ROOM,
    Foreign,
    elsewhere,
    filling,
    from_redis,
    is_replica,
    number_of,
    unconfirmed,
)
from minitango.store._redis_look import a_replica, check, size
from minitango.store._redis_probe import diagnosed
from minitango.store._redis_url import Place
from minitango.store._redis_way import way_to

VERSION: Final = 1
"""Of the keys and the scripts. A later one refuses to be read by this."""
ORDER_LENGTH: Final = 46
"""Letters of a job's `order`: 16 for its priority, 16 for its rank, 14 for its number."""
_CLOCK_GOOD_FOR: Final = 10.0
_SEEN_FOR: Final = 2.0
"""Seconds after which a server is looked at again: what of it may change while it answers."""
_FULL_AT: Final = 0.9
"""Of its maxmemory: beyond, nothing new is accepted."""
_CONFIRMED: Final = frozenset({"submit", "exchange", "blobs", "cancel", "forget", "hand_over", "load"})
"""Scripts whose word counts: what they did is confirmed by as many replicas as the URL asks for."""
_CONFIRM: Final = (0.9, 3.0)
"""Seconds that replicas have for it, where people wait and where nobody does: less than the server has to answer."""

Value = str | bytes | int | float

_CONSTANTS: Final = {
    "VERSION": VERSION,
    "SOLO_AFTER": SOLO_AFTER,
    "MAX_ATTEMPTS": retry.MAX_ATTEMPTS,
    "MAX_INTERRUPTIONS": retry.MAX_INTERRUPTIONS,
    "MOST_BACKOFF": retry.MOST_BACKOFF,
    "MAX_SOLO_DEATHS": retry.MAX_SOLO_DEATHS,
    "LATE_AFTER": retry.LATE_AFTER,
    "TRIAL_AMONG": retry.TRIAL_AMONG,
    "MAX_HELD": retry.MAX_HELD,
    "HELD_FOR": retry.HELD_FOR,
    "HOLD_BASE": retry.HOLD_BASE,
    "APART": retry.APART,
    "ID_AT": 4 + ORDER_LENGTH + 1,
    "ORDER_LENGTH": ORDER_LENGTH,
    "MANY_LANES": 100,
    "PROMOTE": 2000,
    "WAVE": 200,
    "REPLY_KEPT": 86_400,
    "ANSWER_KEPT": 60,
    "DEAF": 6,
    "SETTLE": 4,
    "GOOD_FOR": GOOD_FOR,
    "UNHEARD": UNHEARD,
}
"""What the scripts know as C. PROMOTE bounds what one claim or reap looks at, WAVE how many jobs that wait
together one script moves; the others are seconds."""


_ENDING: Final = """
local done, answer = pcall(main)
if not done then
  local why, refused = type(answer) == 'table' and answer.err or tostring(answer), false
  for _, word in ipairs({ 'OOM command', 'MISCONF', 'NOREPLICAS', 'READONLY', 'NOPERM' }) do
    refused = refused or string.find(why, word, 1, true) ~= nil
  end
  if not refused then pcall(books) end
  error(answer, 0)
end
books()
return answer
"""
"""A script's own part is a function, so that the books are written wherever it returns, and where it errs: a server
takes back nothing of what was done by then. Not where the server refuses what it is to write: that is said to the first
write, and what was gathered for later is of what was not done."""


def _script(verb: str) -> str:
    folder = importlib.resources.files("minitango.store") / "lua"
    constants = ", ".join(f"{name} = {value!r}" for name, value in _CONSTANTS.items())
    poison = msgspec.json.encode(retry.POISON).decode()
    head = f"local VERB, C = {verb!r}, {{ {constants}, POISON = [==[{poison}]==] }}\n"
    common, moving, own = ((folder / f"{name}.lua").read_text() for name in ("common", "moving", verb))
    return f"{head}{common}\n{moving}\nlocal function main()\n{own}\nend\n{_ENDING}"


class Link:
    """Connections to one queue's server. Threads share it; a process that forks opens its own."""

    def __init__(self, place: Place, queue: str, *, filling: bool = False) -> None:
        """Connects, and looks at the server. `filling`: for who fills the queue. StoreError, StoreTooNew."""
        self.place = place
        self.queue = queue
        self._filling = filling
        self.prefix = f"minitango:{{{queue}}}:"
        self._scripts: dict[str, tuple[str, str]] = {}
        self._loaded: dict[int, set[str]] = {}
        """By turn, the scripts that its server was told."""
        self._watchers: list[Callable[[], None]] = []
        self._closed = False
        self._clock_offset = 0.0
        self._clock_read = -_CLOCK_GOOD_FOR
        self._clock_of = 0
        self._way = way_to(place, queue)
        self._looked_at = 0
        self._tried: int | None = None
        self._seen = 0.0
        self._memory_left = math.inf
        self.remarks: tuple[str, ...] = ()
        """What the server is told that weakens what a store promises."""
        try:
            self._look()
        except BaseException as error:
            self.close()
            if isinstance(error, StoreError):
                raise diagnosed(place, error, self._way.host) from error.__cause__
            raise

    def _look(self) -> None:
        """Look at the server: it must be new enough, keep what it is given, and its queue not be too new."""
        self._looked_at = self._way.turn
        info: dict[str, Any] = self.call("open", lambda client: client.info())
        self.remarks = check(info, self.place, self._way.cli)
        self._take_in(info)
        wrote, loading = self.call("open", lambda client: client.hmget(self.key("meta"), "version", "loading"))
        version = number_of("version", wrote, self.place)
        if version > VERSION:
            raise StoreTooNew(
                f"the queue {self.queue!r} on Redis at {self.place.shown} was written by a later minitango "
                f"(store version {version}; this one knows {VERSION})",
                hint="upgrade minitango here, or name another queue: ?queue=NAME",
            )
        if loading is not None and not self._filling:
            raise filling(self.place, self.queue)

    def check_room(self, size: int = 0) -> None:
        """Refuse new work of `size` bytes where the server would have less memory left than what is under way may need.
        StoreFull. What it lets pass is taken to be used, until the server is asked again. Another server than last time
        is looked at as in the beginning."""
        if self._way.turn != self._looked_at:
            self._look()
        self._see()
        self._memory_left -= size
        if self._memory_left < 0:
            self._memory_left += size
            raise StoreFull(
                f"the memory of Redis at {self.place.shown} is nearly full: what is left is for the results of what is "
                "queued",
                hint=MAKE_ROOM,
            )

    def _see(self, *, patient: bool = False) -> None:
        """Look at the server now and then. StoreError `redis_replica` where it became one: also one that takes writes,
        which are lost when it hears of its master."""
        if time.monotonic() - self._seen <= _SEEN_FOR:
            return

        def ask(pipe: Any) -> None:
            pipe.info("memory")
            pipe.info("replication")

        memory, replication = self.pipeline(ask, patient=patient)
        if isinstance(replication, dict) and replication.get("role") == "slave" and self.place.kind == "server":
            raise a_replica(replication, self.place)
        self._take_in(memory)

    def try_out(self, *, patient: bool = False) -> None:
        """Whether we may do what scripts do beside reading and writing our keys; once with each server, before it runs
        one: of a script that is refused something, what it did by then stays done. StoreError `store_auth`."""
        turn = self._way.turn
        if self._tried == turn:
            return

        def ask(pipe: Any) -> None:
            pipe.time()
            pipe.publish(self.key("changed"), "")

        self.pipeline(ask, patient=patient)
        self._tried = turn

    def _take_in(self, info: Any) -> None:
        most = size(info, "maxmemory")
        self._memory_left = most * _FULL_AT - size(info, "used_memory") if most else math.inf
        self._seen = time.monotonic()

    def key(self, name: str) -> str:
        return self.prefix + name

    @property
    def turn(self) -> int:
        """Goes up when the queue turns out to be on another server."""
        return self._way.turn

    @property
    def cli(self) -> str:
        """What to type to speak to the server that has the queue."""
        return self._way.cli

    @contextmanager
    def telling_who(self) -> Iterator[None]:
        """What fails in here as nobody answers is told with what can be said of who is there: a second more."""
        try:
            yield
        except StoreError as error:
            other = diagnosed(self.place, error, self._way.host)
            if other is error:
                raise
            raise other from error

    # --- asking -----------------------------------------------------------------------------------

    def call(self, verb: str, ask: Callable[[redis.Redis], Any], *, patient: bool = False) -> Any:
        """What `ask` gets of a client. For what may be asked twice: it is where the connection had gone stale, and of
        the server that has the queue now."""
        return self._ask(ask, patient=patient, repeats=True)

    def _once(self, ask: Callable[[redis.Redis], Any], *, patient: bool) -> Any:
        """The same for what may be done only once: it is asked again where it was not done for sure."""
        return self._ask(ask, patient=patient, repeats=False)

    def _ask(self, ask: Callable[[redis.Redis], Any], *, patient: bool, repeats: bool) -> Any:
        deadline = time.monotonic() + (PATIENCE if patient else ANSWER)
        while True:
            if self._closed:
                raise StoreError(f"the store on Redis at {self.place.shown} was closed", id="store_closed")
            clients: Clients | None = None
            try:
                clients = self._way.clients()
                return ask(clients.steady if patient else clients.quick)
            except redis.AuthenticationError as error:
                raise from_redis(error, self.place, self.queue) from error
            except (redis.RedisError, OSError, ValueError) as error:
                if self._closed and repeats:
                    continue
                if not self._may_go_better(clients, error, deadline, patient=patient, repeats=repeats):
                    if clients is not None and not self._way.several and is_replica(error):
                        raise self._demoted(clients) from error
                    raise from_redis(error, self.place, self.queue) from error

    def _demoted(self, clients: Clients) -> StoreError:
        """The one server that was named has become a replica."""
        info: dict[str, Any] = {}
        with suppress(redis.RedisError, OSError, ValueError):
            info = clients.quick.info("replication")
        return a_replica(info, self.place)

    def _may_go_better(
        self, clients: Clients | None, error: Foreign, deadline: float, *, patient: bool, repeats: bool
    ) -> bool:
        """Whether what met this is to be asked again; waits for a moment where that helps."""
        late = time.monotonic() + 0.1 > deadline
        if clients is not None:
            self._way.doubt(clients, error)
        if self._way.several and elsewhere(error):
            if not late and not self._is_another_than(clients):
                time.sleep(0.05)
            return not late
        if not repeats or not isinstance(error, redis.ConnectionError | redis.TimeoutError):
            return False
        if isinstance(error, redis.TimeoutError) or late or _is_down(error):
            # waiting does not help; another server might, but not people who have waited already
            return (patient or not late) and self._is_another_than(clients)
        time.sleep(0.05)
        return True

    def _is_another_than(self, clients: Clients | None) -> bool:
        """Whether the queue turns out to be on another server."""
        with suppress(redis.RedisError, OSError, StoreError):
            return clients is not None and self._way.clients() is not clients
        return False

    def run(self, verb: str, arguments: Sequence[Value], *, patient: bool = False, repeats: bool = True) -> Any:
        """Run a script. `repeats`: it may be run twice where no answer came; else StoreError says at once.

        StoreError `store_unconfirmed`: it ran, and fewer replicas than the URL asks for have what it did.
        """
        if verb not in self._scripts:
            text = _script(verb)
            self._scripts[verb] = text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        text, digest = self._scripts[verb]
        self._see(patient=patient)
        self.try_out(patient=patient)
        failpoint(f"store.{verb}.before_commit")
        keys = [self.key("meta"), *self._way.keys(self.prefix)]
        wait = 0
        if self.place.replicas and verb in _CONFIRMED:
            wait = int(_CONFIRM[patient] * 1000)

        def ask(client: redis.Redis) -> Any:
            if wait and verb not in self._loaded.setdefault(self.turn, set()):
                client.script_load(text)  # what is not known is waited for as well
                self._loaded[self.turn].add(verb)
            try:
                return self._evaluate(client, ["EVALSHA", digest, len(keys), *keys, *arguments], wait)
            except NoScriptError:  # it was restarted, or is another one
                return self._evaluate(client, ["EVAL", text, len(keys), *keys, *arguments], wait)

        answer = self.call(verb, ask, patient=patient) if repeats else self._once(ask, patient=patient)
        failpoint(f"store.{verb}.after_commit")
        return answer

    def _evaluate(self, client: redis.Redis, command: Sequence[Value], wait: int) -> Any:
        """The answer to a command. `wait`: milliseconds in which as many replicas must have what it wrote as the URL
        asks for; 0: that is not asked."""
        if not wait:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]
        pipe = client.pipeline(transaction=False)  # one connection: what was written on it is waited for
        pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        pipe.execute_command("WAIT", self.place.replicas, wait)  # type: ignore[no-untyped-call]
        answer, reached = pipe.execute(raise_on_error=False)
        if isinstance(answer, Exception):
            raise answer
        if not isinstance(reached, int) or reached < self.place.replicas:
            raise unconfirmed(self.place, reached if isinstance(reached, int) else 0)
        return answer

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
                return max(0, size(before, "aof_current_size") - size(after, "aof_current_size"))
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
        if time.monotonic() - self._clock_read > _CLOCK_GOOD_FOR or self._clock_of != self._way.turn:
            with suppress(StoreError) if self._clock_offset else nullcontext():
                seconds, micros = self.call("now", lambda client: client.time())
                self._clock_offset = float(seconds) + float(micros) / 1e6 - time.monotonic()
            self._clock_read, self._clock_of = time.monotonic(), self._way.turn
        return time.monotonic() + self._clock_offset

    # --- watching ---------------------------------------------------------------------------------

    def watch(self, changed: Callable[[], None], *, own: str) -> Callable[[], None]:
        """See `_redis_ears.watch`. Ends with this link at the latest."""
        stop_ears = watch(self, changed, own=own)

        def stop() -> None:
            with suppress(ValueError):
                self._watchers.remove(stop)
            stop_ears()

        self._watchers.append(stop)
        return stop

    def close(self) -> None:
        """Stop the watchers and let the connections go. Idempotent."""
        while self._watchers:
            self._watchers[-1]()
        self._closed = True
        self._way.close()


def _is_down(error: BaseException) -> bool:
    """Whether nobody is there at all: waiting some milliseconds does not help."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConnectionRefusedError | FileNotFoundError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None
