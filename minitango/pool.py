"""The producer thread beside the pool of consumers.

The producer is the only thread that claims. It commits what consumers made of their attempts, extends leases, passes
cancels on, and claims as many jobs as consumers are idle, and of short ones some more (`workqueue.py`). A consumer
takes one lease at a time and runs it. A thread that dies takes the pool down, and says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

from minitango.bell import Bell, wait_for
from minitango.breaker import Breaker
from minitango.errors import JobNotFound, MinitangoError, StoreError, reach_of
from minitango.failpoint import failpoint
from minitango.job import Ack, Fail, Failure, Finish, Job, Lease, Result, State
from minitango.node import Membership
from minitango.output import LiveOutput
from minitango.runner import Runner
from minitango.store import Exchanged, Store
from minitango.workqueue import Running, WorkQueue

log = logging.getLogger("minitango")

SAFETY_POLL: Final = 2.0
"""Seconds after which the producer looks by itself, whatever woke it or did not."""
SOLO_PATIENCE: Final = 30.0
"""Seconds that a job which must run alone waits for a quiet moment before one is made for it."""
OVERDUE_GRACE: Final = 60.0
"""Seconds beyond its steps' wall limits after which an attempt is taken to hang."""
HOPELESS: Final = frozenset({"store_corrupt", "store_too_new", "store_closed", "state_gone"})
"""Errors of the store that no waiting mends."""
PASSING: Final = frozenset(
    {"store_full", "store_busy", "store_unreachable", "store_unconfirmed", "redis_replica", "redis_tls"}
)
"""Errors of the store that end when somebody makes room, lets go or is back: waited for as long as it takes."""
PATIENCE: Final = 30.0
"""Seconds for which any other trouble with the store is ridden out."""
TELL_AGAIN: Final = 60.0
"""Seconds after which it is said again what an assignment waits for."""
LINGER: Final = 6.0
"""Seconds in which what was put back must have ended; else its sandbox is taken from it."""
REAP: Final = 2.0
"""Seconds between two looks for jobs of engines that are gone, where a queue is shared."""
GIVE_UP: Final = 10.0
"""Seconds for which a stopping pool goes on trying to record into a store that fails: from when it was asked to stop,
and those that ran had ended or had had their grace; however long the store failed before."""

EventKind = Literal[
    "started",
    "done",
    "dead",
    "retried",
    "cancelled",
    "released",
    "recovered",
    "lease_lost",
    "paused",
    "resumed",
    "store_trouble",
    "crashed",
    "image",
    "callback_delivered",
    "callback_failed",
    "callback_undelivered",
]


class Observer(Protocol):
    """Whom the pool tells. Called from its threads; must not raise, and must return quickly."""

    def event(self, kind: EventKind, job: Job | None = None, message: str = "") -> None: ...

    def trouble(self, whose: str, error: StoreError | None) -> None:
        """The store fails one of the engine's threads; None: it works again for that one."""

    def started(self, lease: Lease) -> None:
        """The next free consumer is to run this attempt: at once, or after some that are short."""

    def settled(self, job: Job, result: Result | None) -> None:
        """An ack was committed: the job as it is now."""

    def idle(self) -> None:
        """The last running attempt was committed."""

    def changed(self) -> None:
        """Another process may have changed the queue."""

    def crashed(self, thread: str, error: BaseException) -> None:
        """A thread died; the pool ends."""


class Pool:
    """Threads that grade, over a store. `start` once, `stop` once."""

    def __init__(
        self,
        store: Store,
        runner: Runner,
        observer: Observer,
        *,
        lease_for: float,
        state: Path,
        member: Membership,
        look_after: Callable[[], None] = lambda: None,
        paused: bool = False,
    ) -> None:
        """`look_after` raises StoreError where the ground is gone that this stands on. It is called now and then."""
        self._store = store
        self._runner = runner
        self._observer = observer
        self._workers = member.node.slots
        self._lease_for = lease_for
        self._state = state
        self._member = member
        self._node = member.node.name
        self._capabilities = member.node.capabilities
        self._untold: deque[tuple[Sequence[Ack], Exchanged]] = deque()
        """What was recorded, and may not be on the disk yet."""
        self._bell = Bell()
        self._bell.ring()  # there may be work from before
        self._work = WorkQueue(self._workers, self._bell.ring, beside=store.shared)
        self._changed = True
        self._stopping = False
        self._releasing = False
        self._paused = paused
        self._resting = False
        self._error: BaseException | None = None
        self._over: list[threading.Event] = []
        """Set when a thread of ours ended, the producer's first. Not `Thread.join`: one that a signal interrupts takes
        the thread for ended, up to Python 3.12."""
        self._idents: set[int] = set()
        self._judged = 0
        """How many of the acks the breaker has heard of: a round that the store failed is gone through again."""
        self._breaker = Breaker()
        self._waiting: dict[str, float] = {}
        """Plans whose jobs wait for something of their own, and when that was last told."""
        self._next_due: float | None = None
        self._look_for_solo = 0.0
        self._look_after_place = look_after
        self._look_at_place = 0.0
        self._extend_at = 0.0
        self._reap_at = 0.0
        self._trouble_since: float | None = None
        self._try_until = 0.0
        """When a pool that stops gives a store up that fails, on the monotonic clock."""

    def start(self) -> None:
        """Start the producer and the consumers."""
        LiveOutput.clear(self._state)
        self._spawn("producer", self._produce)
        for number in range(self._workers):
            self._spawn(f"consumer {number + 1}", self._consume)

    def wake(self, *, changed: bool = False) -> None:
        """There may be work now. `changed`: another process may have moved jobs, or a cancel was asked for."""
        if changed:
            self._changed = True
        self._bell.ring()

    def pause(self) -> None:
        """Claim nothing until `resume`; what runs goes on. Does not wait; for any thread."""
        self._resting = False
        self._paused = True
        self._bell.ring()

    def resume(self) -> None:
        """Claim again."""
        self._paused = False
        self._bell.ring()

    @property
    def node(self) -> str:
        return self._node

    @property
    def resting(self) -> bool:
        """Whether it is paused, and the last word of all that ran was recorded and told."""
        return self._paused and self._resting

    @property
    def busy(self) -> bool:
        """Whether there is an attempt whose end was not recorded."""
        return bool(self._work.running)

    def request_stop(self, *, release: bool = False) -> None:
        """Claim nothing from now on; with `release`, put running jobs back soon. Does not wait; for any thread, and
        for signal handlers."""
        if not self._stopping or (release and not self._releasing):
            self._try_until = time.monotonic() + GIVE_UP
        self._stopping = True
        self._releasing = self._releasing or release
        self._bell.ring()

    def stop(self, grace: float, *, force: Callable[[], None] = lambda: None) -> None:
        """Stop, give running jobs `grace` seconds, put the others back uncharged, wait until all threads ended.

        A store that fails meanwhile is tried for GIVE_UP seconds more; then the pool ends with its error.

        `force` ends whatever a job may be waiting for that was to be put back and still goes on: it may be called.

        RuntimeError from one of the pool's own threads (a done-callback, a subscriber): it cannot wait for itself.
        The pool stops all the same.
        """
        self.request_stop(release=grace <= 0)
        if threading.get_ident() in self._idents:
            raise RuntimeError("an engine cannot be waited for by one of its own threads: use request_stop")
        if self._over and not wait_for(self._over[0], max(0.0, grace)):
            self.request_stop(release=True)
        if self._over and not wait_for(self._over[0], LINGER):
            try:
                force()
            except MinitangoError as error:  # whoever closes it again is told
                log.warning("the sandbox could not be closed: %s", error)
        for over in self._over:
            wait_for(over)

    def join(self) -> None:
        """Wait until the producer ends: because it was told to, or because a thread died."""
        for over in self._over[:1]:
            wait_for(over)

    # --- threads ------------------------------------------------------------------------------

    def _spawn(self, name: str, target: Callable[[], None]) -> None:
        over = threading.Event()

        def run() -> None:
            try:
                self._idents.add(threading.get_ident())
                target()
            except BaseException as error:  # a thread of ours must never die in silence
                self._crash(name, error)
            finally:
                over.set()
                self._idents.discard(threading.get_ident())

        threading.Thread(target=run, name=f"minitango {name}", daemon=True).start()
        self._over.append(over)

    def _crash(self, name: str, error: BaseException) -> None:
        """End everything, in the open. The jobs that ran are still running in the store, until an engine recovers."""
        first = self._error is None
        self._error = self._error or error
        self._stopping = self._releasing = True
        if not isinstance(error, MinitangoError):  # a mistake of ours
            log.critical("the engine's %s died: %r; the engine stops", name, error, exc_info=error)
        self._release_all()
        self._work.dismiss()
        self._bell.ring()
        if first:
            self._observer.crashed(name, error)

    def _release_all(self) -> None:
        for running in list(self._work.running.values()):
            running.stop.request("release")

    def _consume(self) -> None:
        while (running := self._work.take()) is not None:
            with LiveOutput(self._state, running.lease.job) as live:
                ack = self._runner.run(running.lease, stop=running.stop, sink=live.write)
            self._work.end(running, ack)

    def _produce(self) -> None:
        self._extend_at = time.monotonic() + self._lease_for / 3
        while self._error is None:
            self._bell.wait(self._patience())
            if not self._stopping:
                self._work.gather(self._bell.wait)
            now = time.monotonic()
            paused = self._paused  # what is asked for later is heard in the next round
            try:
                self._look_after(now)
                self._exchange(now, paused=paused)
                self._trouble_over()
                self._resting = paused and not self._work.running
            except StoreError as error:
                self._trouble(now, error)
            if (
                self._stopping
                and not self._work.running
                and (not (self._store.unheard or self._untold) or self._gives_up())
            ):
                break
        self._work.dismiss()

    def _patience(self) -> float:
        """Seconds to sleep if nothing wakes the producer."""
        now = time.monotonic()
        if self._trouble_since is not None:
            return 0.2
        waits = [SAFETY_POLL, self._extend_at - now]
        rest = self._breaker.wait(now)
        if rest:
            waits.append(rest)
        look = self._work.look_in(now)
        if look is not None:
            waits.append(look)
        if self._next_due is not None:
            waits.append(self._next_due - self._store.now())
        return max(0.0, min(waits))

    # --- what the producer does in a round -----------------------------------------------------

    def _look_after(self, now: float) -> None:
        """Pass on what others changed, keep the leases, and end what hangs."""
        if self._releasing:  # before anything that a store may fail
            self._release_all()
        if now >= self._look_at_place:
            self._look_after_place()
            self._look_at_place = now + SAFETY_POLL
        self._member.look(self._work.busy, changed=self._changed, told=self._rests)
        self._work.look(now)
        if self._stopping or self._paused or self._member.resting:
            self._work.put_back(all=False)
        if self._changed:
            self._changed = False
            try:
                self._observer.changed()
                self._pass_cancels_on()
            except StoreError:
                self._changed = True  # to be looked at again
                raise
        reap = self._store.shared and now >= self._reap_at
        if now >= self._extend_at or (reap and self._work.running):  # a closed lid must not cost us our own
            lost = self._store.extend([r.lease for r in self._work.running.values()], lease_for=self._lease_for)
            self._extend_at = now + self._lease_for / 3
            for lease in lost:
                running_ = self._work.running.get(lease.token)
                if running_ is not None and running_.stop.why != "lost":
                    running_.stop.request("lost")
                    self._tell_lost(lease, "was taken over; it ends")
        for running in self._work.running.values():
            if running.overdue(now):
                running.stop.request("overdue")
        if reap:
            for job in self._store.reap():
                self._observer.settled(job, None)
                self._observer.event(taken_back(job), job)
            self._reap_at = now + REAP  # not before: where it failed, the store does not work again until it does not

    def _rests(self, on: bool, why: str) -> None:
        self._observer.event("paused" if on else "resumed", None, why)

    def _pass_cancels_on(self) -> None:
        if not self._work.running:
            return
        wanted = set(self._store.cancel_requested())
        for running in self._work.running.values():
            if running.lease.job in wanted:
                running.stop.request("cancel")

    def _exchange(self, now: float, *, paused: bool) -> None:
        """Commit what consumers handed over, claim for those that are idle, and tell everyone."""
        self._tell_all()
        handed = list(self._work.ended)
        over = {lease.token for lease, _ in handed}
        still = [running for running in self._work.running.values() if running.lease.token not in over]
        acks = [ack for _, ack in handed if ack is not None]
        for _, ack in handed[self._judged :]:  # before claiming: what opens the breaker is to hold this claim back
            self._judge_sandbox(ack, now)
        self._judged = len(handed)
        claim, solo = (0, False) if paused else self._wanted(now, still)
        out = Exchanged()
        if acks or claim or self._store.unheard:
            failpoint("engine.before_exchange")
            out = self._claim(acks, claim, solo=solo)
            failpoint("engine.after_exchange")
        # committed: only now are the consumers' words taken from their list
        self._judged = 0
        if acks or out.settled:
            self._untold.append((acks, out))
        for lease, _ in handed:
            self._work.ended.popleft()
            self._work.running.pop(lease.token, None)
        self._admit(out.leases)
        self._tell_all()  # it waits for the disk, while the new ones are under way
        if claim and not solo and not out.leases and not self._work.running:
            quiet = self._claim((), 1, solo=True)
            if quiet.settled:
                self._untold.append(((), quiet))
            self._admit(quiet.leases)
        if handed and not self._work.running:
            self._observer.idle()
        self._next_due = self._store.next_due() if len(out.leases) < claim else None

    def _claim(self, acks: Sequence[Ack], n: int, *, solo: bool) -> Exchanged:
        return self._store.exchange(
            acks,
            claim=n,
            solo=solo,
            trial=self._breaker.resting,
            node=self._node,
            capabilities=self._capabilities,
            lease_for=self._lease_for,
            ahead=True,
        )

    def _admit(self, leases: Sequence[Lease]) -> None:
        """Give new leases to consumers. First all of them, then the telling: a lease must not get lost on the way."""
        some = [Running(lease, self._runner.wall_limit(lease.spec) + OVERDUE_GRACE) for lease in leases]
        if self._stopping:  # asked for while the claim was under way
            for running in some:
                running.stop.request("release")
        self._work.give(some)
        for lease in leases:
            self._observer.started(lease)

    def _tell_all(self) -> None:
        """Tell what was recorded, once it is on the disk."""
        if self._untold:
            self._store.sync()
            while self._untold:
                self._tell(*self._untold.popleft())

    def _tell(self, acks: Sequence[Ack], out: Exchanged) -> None:
        for lease in out.refused:
            self._tell_lost(lease, "had been taken over; its word was refused")
        results = {ack.lease.job: ack.result for ack in acks if isinstance(ack, Finish)}
        for job in out.settled:
            self._observer.settled(job, results.get(job.id))
            self._observer.event(_event_of(job), job)

    def _tell_lost(self, lease: Lease, why: str) -> None:
        said = f"attempt {lease.attempt} of job {lease.job} {why}"
        try:
            self._store.get(lease.job)
        except JobNotFound:
            said = (
                f"job {lease.job} is gone from the queue, which was emptied, or whose server came back without it; "
                "next: submit its work again"
            )
        except StoreError:
            pass  # it is not known
        self._observer.event("lease_lost", None, said)

    def _wanted(self, now: float, still: Sequence[Running]) -> tuple[int, bool]:
        """How many jobs to claim, and whether it is the turn of one that must run alone."""
        if self._stopping or self._member.resting or any(running.lease.solo for running in still):
            return 0, False
        seats = self._runner.seats
        allowed = self._breaker.allowed(now, len(still))
        room = self._work.room(now, still, ahead=seats is None and allowed is None)
        if seats is not None:
            room = max(0, min(room, seats - len(still)))
        if allowed is not None:
            room = min(room, allowed)
        if now >= self._look_for_solo:
            since = self._store.solo_since(capabilities=self._capabilities)
            if since is not None and self._store.now() - since > SOLO_PATIENCE:
                return (0, False) if still else (min(room, 1), True)
            self._look_for_solo = now + SAFETY_POLL
        return max(0, room), False

    def _judge_sandbox(self, ack: Ack | None, now: float) -> None:
        if isinstance(ack, Finish):
            if self._breaker.succeeded():
                self._observer.event("resumed", None, "the sandbox works again")
            if self._waiting.pop(ack.lease.spec, None) is not None:
                self._observer.event("resumed", None, f"{ack.lease.assignment} is graded again")
        elif isinstance(ack, Fail) and not ack.charge and reach_of(ack.failure.id) != "sandbox":
            # One assignment's trouble: the store has its jobs wait, and the sandbox is there for the others.
            told = self._waiting.get(ack.lease.spec)
            if told is None or now - told >= TELL_AGAIN:
                self._waiting[ack.lease.spec] = now
                self._observer.event("paused", None, f"jobs of {ack.lease.assignment} wait: {said(ack.failure)}")
        elif (
            isinstance(ack, Fail)
            and self._runner.seats is None  # else it sees itself to what fails, and the others go on
            and ack.failure.id.startswith(("sandbox", "blob_") if not ack.charge else "sandbox")
            and self._breaker.failed(now, certain=not ack.charge)
        ):
            self._work.put_back()
            self._bell.ring()
            rest = self._breaker.wait(now) or 0.0
            self._observer.event("paused", None, f"no job is started for {rest:.0f} s: {said(ack.failure)}")

    def _trouble(self, now: float, error: StoreError) -> None:
        """The store failed: nothing of the round happened, every word is kept and said again."""
        if error.id in HOPELESS:
            raise error
        have_grace = not self._releasing and len(self._work.running) > len(self._work.ended)
        if self._trouble_since is None or have_grace:
            self._try_until = time.monotonic() + GIVE_UP
        if self._trouble_since is None:
            self._trouble_since = now
        self._observer.trouble("producer", error)
        if error.id not in PASSING and now - self._trouble_since > PATIENCE:
            raise error
        if self.busy and self._gives_up():
            raise error

    def _gives_up(self) -> bool:
        """Whether it is to stop, and the store has failed for too long since then. What it did and did not tell (a
        claim, say) is found out from our silence; only where we have a word for it, something is lost by that."""
        return self._stopping and self._trouble_since is not None and time.monotonic() > self._try_until

    def _trouble_over(self) -> None:
        if self._trouble_since is not None:
            self._trouble_since = None
            self._observer.trouble("producer", None)


def said(wrong: Failure | MinitangoError) -> str:
    """What went wrong, and what a person can do about it."""
    return f"{wrong.message}; next: {wrong.hint}" if wrong.hint else wrong.message


def taken_back(job: Job) -> EventKind:
    """What became of a job that was taken from an engine that is gone."""
    match job.state:
        case State.DEAD:
            return "dead"
        case State.CANCELLED:
            return "cancelled"
        case _:
            return "recovered"


def _event_of(job: Job) -> EventKind:
    match job.state:
        case State.DONE:
            return "done"
        case State.DEAD:
            return "dead"
        case State.CANCELLED:
            return "cancelled"
        case _:
            return "retried" if job.due is not None else "released"
