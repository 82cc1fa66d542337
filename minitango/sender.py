"""The thread that has callbacks delivered, beside the pool: it takes those that are due, each to a short-lived thread.

What is pending is the store's to know: a sender that dies loses nothing, and several on one store share the work.
"""

from __future__ import annotations

import contextlib
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from minitango import callback_url, callbacks
from minitango.bell import Bell
from minitango.breaker import Breaker
from minitango.callback_url import Callbacks
from minitango.callbacks import Call, Verdict
from minitango.errors import ConfigError, JobNotFound, StoreError
from minitango.events import EventKind
from minitango.failpoint import failpoint
from minitango.job import Job, State
from minitango.retry import MOST_DELIVERY_BACKOFF, MOST_DELIVERY_WAIT, after_delivery
from minitango.store import Errand, Store

log = logging.getLogger("minitango")

AT_ONCE: Final = 4
"""Deliveries that are under way at the same time."""
LEASE: Final = 120.0
"""Seconds after which a delivery that was not told of is another's to make: longer than one may take."""
POLL: Final = 2.0
"""Seconds between two looks for what other processes made due."""
TELL_AGAIN: Final = 60.0
"""Seconds after which it is said again that a host's callbacks fail."""
LAST_ROUND: Final = 10.0
"""Seconds in which a sender that stops goes on to deliver what is due."""
APART: Final = 0.25
"""Seconds between two callbacks that are put back for a host which is left alone: however many wait, the store is asked
for few of them at a time, and a host that is there again is not run over."""
MOST_HOSTS: Final = 1000
"""Receivers of which it is known how they fare: the latest. One that was forgotten is met like a new one."""
_ALMOST: Final = 0.05
"""Seconds until another look where our clock is a little before the store's, or another sender was faster."""
_LOOK: Final = 0.1
_NO_THREAD: Final = 1.0
"""Seconds after which one for which there was no thread is tried again."""
_LINGER: Final = 2.0
"""Seconds for a delivery that was broken off to end."""


class Tell(Protocol):
    def __call__(self, kind: EventKind, job: Job | None = None, message: str = "") -> None: ...


class _Host:
    """What is known of one receiver."""

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.trying = 0
        self.error = ""
        self.told: float | None = None
        self.turn = 0.0
        """When the last of those that were put back is due, on the sender's clock."""


class Sender:
    """Delivers the callbacks of one queue. `start` once, `stop` once."""

    def __init__(
        self,
        store: Store,
        how: Callbacks,
        tell: Tell,
        trouble: Callable[[str, StoreError | None], None],
        *,
        post: Callable[[Call, Errand, bytes], Verdict] | None = None,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` and `trouble` (`pool.Observer`) are called from threads of this one. `post` stands for the network,
        in tests; `clock` tells how long a host is left alone."""
        self._store = store
        self._how = how
        self._tell = tell
        self._trouble = trouble
        self._post = post or self._over_http
        self._chance = chance
        self._clock = clock
        self._tls: ssl.SSLContext | None = None
        self._bell = Bell()
        self._bell.ring()  # there may be some from before
        self._lock = threading.Lock()
        self._under_way: set[Call] = set()
        self._hosts: dict[str, _Host] = {}
        self._wait = 0.0
        self._until: float | None = None
        """When a sender that stops begins nothing more, on the monotonic clock."""
        self._over = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="minitango sender", daemon=True).start()

    def wake(self) -> None:
        """A callback may be due now."""
        self._bell.ring()

    def request_stop(self, within: float = 0.0) -> None:
        """Begin nothing more after so many seconds. Does not wait; for any thread, and for signal handlers."""
        until = time.monotonic() + within
        self._until = until if self._until is None else min(self._until, until)
        self._bell.ring()

    def stop(self, grace: float) -> None:
        """Deliver what is due for `grace` seconds, LAST_ROUND at most, then break off what is under way: it stays
        pending. Returns soon after that at the latest. Idempotent."""
        self.request_stop(min(max(0.0, grace), LAST_ROUND))
        while not self._over.wait(_LOOK) and self._until is not None and time.monotonic() < self._until:
            pass  # it may be asked to hurry meanwhile
        with self._lock:
            calls = list(self._under_way)
        for call in calls:
            call.break_off()
        self._bell.ring()
        self._over.wait(_LINGER)  # a name that is being looked up cannot be broken off

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                self._bell.wait(self._wait)
                self._wait = POLL
                stopping = self._until is not None  # what ended before that is looked for once more
                try:
                    more = self._look()
                except Exception:  # a mistake of ours, which is to cost no callback
                    log.exception("the sender of callbacks failed; it goes on")
                    more = False
                if stopping and not more and not self._under_way:
                    return
        finally:
            self._over.set()

    def _look(self) -> bool:
        """Have what is due delivered, as many as may be at once. Whether more may be due now."""
        if self._until is not None and time.monotonic() >= self._until:
            return False
        try:
            with self._lock:
                room = AT_ONCE - len(self._under_way)
            if room <= 0:  # the bell rings when one is over
                return True
            due, now = self._store.next_callback(), self._store.now()
            errands: list[Errand] = []
            if due is not None and not now < due <= now + MOST_DELIVERY_WAIT:
                errands = self._store.take_callbacks(room, lease_for=LEASE)
                self._wait = _ALMOST
            elif due is not None:
                self._wait = min(POLL, due - now)
            self._trouble("sender", None)
        except StoreError as error:
            self._trouble("sender", error)
            return False
        for errand in errands:
            self._begin(errand)
        if errands:
            self._bell.ring()  # there may be more
        return bool(errands)

    def _begin(self, errand: Errand) -> None:
        call = Call()
        host = self._known(_host(errand.url))
        with self._lock:
            rests = host.breaker.allowed(self._clock(), host.trying) == 0
            if not rests:
                host.trying += 1
            self._under_way.add(call)
        if self._until is not None:
            call.hurry(max(0.1, self._until - time.monotonic()))
        try:
            threading.Thread(
                target=self._deliver, args=(errand, call, host, rests), name="minitango callback", daemon=True
            ).start()
        except RuntimeError as error:  # the machine has no more threads
            self._over_with(call, host, rests)
            log.warning("a callback of job %s waits: %s", errand.job, error)
            with self._recording(errand):
                self._store.callback_failed(errand, str(error), again_in=_NO_THREAD, counts=False)

    def _known(self, name: str) -> _Host:
        """What is known of this receiver, which is the latest now. Those that are being tried are not forgotten."""
        host = self._hosts.pop(name, None) or _Host()
        if len(self._hosts) >= MOST_HOSTS:
            with self._lock:
                del self._hosts[next(each for each, known in self._hosts.items() if not known.trying)]
        self._hosts[name] = host
        return host

    # --- the threads of deliveries ----------------------------------------------------------------

    def _deliver(self, errand: Errand, call: Call, host: _Host, rests: bool) -> None:
        try:
            with self._recording(errand):
                if rests:
                    self._put_back(errand, host)
                else:
                    self._try(errand, call, host)
        except Exception:
            log.exception("a delivery for job %s failed", errand.job)
        finally:
            self._over_with(call, host, rests)
            self._bell.ring()

    @staticmethod
    @contextlib.contextmanager
    def _recording(errand: Errand) -> Iterator[None]:
        """What the store does not take is said, and costs no other: that callback is due again once its lease ends."""
        try:
            yield
        except JobNotFound:
            pass  # it was pruned meanwhile
        except StoreError as error:
            log.warning("a callback of job %s was not recorded, and will be sent again: %s", errand.job, error)

    def _over_with(self, call: Call, host: _Host, rests: bool) -> None:
        with self._lock:
            self._under_way.discard(call)
            if not rests:
                host.trying -= 1

    def _put_back(self, errand: Errand, host: _Host) -> None:
        """The host was not reached just now: others' callbacks go first. Each is due after the one that was put back
        before it."""
        with self._lock:
            now = self._clock()
            rest = host.breaker.wait(now) or 0.0
            host.turn = max(now + max(1.0, rest) * (1 + self._chance()), host.turn + APART)
            again_in = host.turn - now
            if again_in > MOST_DELIVERY_BACKOFF:  # nobody waits for longer than after a try
                host.turn = now + MOST_DELIVERY_BACKOFF
                again_in = MOST_DELIVERY_BACKOFF * (1 + self._chance()) / 2
        self._store.callback_failed(errand, host.error, again_in=again_in, counts=False)

    def _try(self, errand: Errand, call: Call, host: _Host) -> None:
        try:
            data = self._body(errand.job)
        except StoreError as error:
            if error.id != "record_damaged":
                raise
            self._give_up(errand, error)
            return
        failpoint("callback.before_post")
        verdict = self._post(call, errand, data)
        failpoint("callback.after_post")
        if verdict.error and call.broken_off:
            self._store.callback_failed(errand, "the engine stopped meanwhile", again_in=0.0, counts=False)
            return
        with self._lock:
            if verdict.unreachable:
                host.breaker.failed(self._clock())
                host.error = verdict.error
            else:
                host.breaker.succeeded()
                host.turn = 0.0
        if not verdict.error:
            if self._record(lambda: self._store.callback_delivered(errand)):
                self._tell("callback_delivered", self._store.get(errand.job))
            return
        lasting = self._store.now() - errand.since
        again_in = None
        if verdict.again:
            again_in = after_delivery(errand.tries + 1, lasting=lasting, chance=self._chance(), asked=verdict.asked)
        if self._record(lambda: self._store.callback_failed(errand, verdict.error, again_in=again_in)):
            self._tell_of_failure(errand, verdict, host, given_up=again_in is None)

    def _body(self, id: str) -> bytes:
        """What is sent of this job. JobNotFound; StoreError, `record_damaged` also where that cannot be told."""
        job = self._store.get(id)
        result = self._store.result(id) if job.state is State.DONE else None
        try:
            return callbacks.body(job, result)
        except Exception as error:
            log.exception("what is to be told of job %s cannot be written", id)
            raise StoreError(
                f"what is to be told of job {id} cannot be written: {type(error).__name__}: {error}",
                hint="please report this as a bug",
                id="record_damaged",
            ) from error

    def _give_up(self, errand: Errand, error: StoreError) -> None:
        """Nothing can be sent, and no waiting mends that: so somebody sees it, and its job can be forgotten one day."""
        if self._record(lambda: self._store.callback_failed(errand, error.message, again_in=None)):
            text = f"the callback of job {errand.job} is given up: {error.message}"
            then = f"{error.hint}; then: minitango jobs redeliver {errand.job}"
            self._tell("callback_undelivered", None, f"{text}; next: {then}")

    def _record(self, say: Callable[[], bool]) -> bool:
        """Say it to the store, again and again while it fails, as long as the errand is ours."""
        until = time.monotonic() + LEASE / 2
        while True:
            try:
                return say()
            except StoreError as error:
                if error.id == "store_closed" or self._until is not None or time.monotonic() > until:
                    raise
                time.sleep(0.5)

    def _tell_of_failure(self, errand: Errand, verdict: Verdict, host: _Host, *, given_up: bool) -> None:
        job = self._store.get(errand.job)
        if given_up:
            text = f"the callback of job {job.id} is given up: {verdict.error}; next: minitango jobs redeliver {job.id}"
            self._tell("callback_undelivered", job, text)
            return
        now = self._clock()
        with self._lock:
            silent = host.told is not None and now - host.told < TELL_AGAIN
            host.told = host.told if silent else now
        if not silent:
            self._tell("callback_failed", job, f"callbacks fail, and are tried again: {verdict.error}")

    def _over_http(self, call: Call, errand: Errand, data: bytes) -> Verdict:
        with self._lock:
            if self._tls is None:
                self._tls = ssl.create_default_context()
        named = callbacks.headers(errand.job, data, self._how.secret)
        return call.post(errand.url, data, named, self._how.allow, self._tls)


def _host(url: str) -> str:
    """Whose trouble it is that this URL is not reached."""
    try:
        return callback_url.parse(url).shown
    except ConfigError:
        return url.split("?", maxsplit=1)[0][:200]
