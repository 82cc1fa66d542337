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
from typing import Final

from minitango.bell import Bell, wait_for
from minitango.claiming import Claiming
from minitango.errors import HOPELESS, PASSING, MinitangoError, StoreError
from minitango.events import Observer, became
from minitango.failpoint import failpoint
from minitango.job import Ack, Finish, Lease
from minitango.leases import LeaseWatch
from minitango.node import Membership
from minitango.output import LiveOutput
from minitango.runner import Runner
from minitango.store import Exchanged, Store
from minitango.workqueue import Running, WorkQueue

log = logging.getLogger("minitango")

SAFETY_POLL: Final = 2.0
"""Seconds after which the producer looks by itself, whatever woke it or did not."""
OVERDUE_GRACE: Final = 60.0
"""Seconds beyond its steps' wall limits after which an attempt is taken to hang."""
PATIENCE: Final = 30.0
"""Seconds for which any other trouble with the store is ridden out."""
LINGER: Final = 6.0
"""Seconds in which what was put back must have ended; else its sandbox is taken from it."""
GIVE_UP: Final = 10.0
"""Seconds for which a stopping pool goes on trying to record into a store that fails: from when it was asked to stop,
and those that ran had ended or had had their grace; however long the store failed before."""


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
        self._leases = LeaseWatch(store, self._work, observer, lease_for=lease_for)
        self._claiming = Claiming(store, runner, self._work, observer, capabilities=member.node.capabilities)
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
        """How many of the acks were judged: a round that the store failed is gone through again."""
        self._next_due: float | None = None
        self._look_after_place = look_after
        self._look_at_place = 0.0
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

        A store that fails meanwhile is tried as long, and for GIVE_UP seconds more; then the pool ends with its error.

        `force` ends whatever a job may be waiting for that was to be put back and still goes on: it may be called.

        RuntimeError from one of the pool's own threads (a done-callback, a subscriber): it cannot wait for itself.
        The pool stops all the same.
        """
        self.request_stop(release=grace <= 0)
        if not self._releasing:
            self._try_until = max(self._try_until, time.monotonic() + grace)
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
        waits = [SAFETY_POLL, self._leases.due_in(now)]
        rest = self._claiming.due_in(now)
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
                self._leases.pass_cancels_on()
            except StoreError:
                self._changed = True  # to be looked at again
                raise
        self._leases.look(now)

    def _rests(self, on: bool, why: str) -> None:
        self._observer.event("paused" if on else "resumed", None, why)

    def _exchange(self, now: float, *, paused: bool) -> None:
        """Commit what consumers handed over, claim for those that are idle, and tell everyone."""
        self._tell_all()
        handed = list(self._work.ended)
        over = {lease.token for lease, _ in handed}
        still = [running for running in self._work.running.values() if running.lease.token not in over]
        acks = [ack for _, ack in handed if ack is not None]
        for _, ack in handed[self._judged :]:  # before claiming: what opens the breaker is to hold this claim back
            if self._claiming.judge(ack, now):
                self._work.put_back()
                self._bell.ring()
        self._judged = len(handed)
        claim, solo = 0, False
        if not (paused or self._stopping or self._member.resting):
            claim, solo = self._claiming.wanted(now, still)
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
            trial=self._claiming.trial,
            node=self._node,
            capabilities=self._capabilities,
            lease_for=self._lease_for,
            ahead=True,
        )

    def _admit(self, leases: Sequence[Lease]) -> None:
        """Give new leases to consumers. First all of them, then the telling: a lease must not get lost on the way.

        What must run alone, and would have others beside it, goes back before it begins; and so does what would be
        beside it. Its claim may be heard of late."""
        some = [Running(lease, self._runner.wall_limit(lease.spec) + OVERDUE_GRACE) for lease in leases]
        beside = [running.lease for running in self._work.running.values()]
        alone = any(lease.solo for lease in beside)
        several = len(beside) + len(some) > 1
        for running in some:
            if self._stopping or alone or (several and running.lease.solo):  # a stop: asked for during the claim
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
            self._leases.lost(lease, "had been taken over; its word was refused")
        results = {ack.lease.job: ack.result for ack in acks if isinstance(ack, Finish)}
        for job in out.settled:
            self._observer.settled(job, results.get(job.id))
            self._observer.event(became(job), job)

    def _trouble(self, now: float, error: StoreError) -> None:
        """The store failed: nothing of the round happened, every word is kept and said again."""
        if error.id in HOPELESS:
            raise error
        have_grace = not self._releasing and len(self._work.running) > len(self._work.ended)
        if self._trouble_since is None or have_grace:
            self._try_until = max(self._try_until, time.monotonic() + GIVE_UP)
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
