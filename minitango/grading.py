"""What an engine that grades does beside taking submissions: it is a node of its queue, its pool runs jobs, callbacks
are delivered, and what was kept for long enough is forgotten."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection
from pathlib import Path

from minitango import statedir
from minitango.blobs import BlobStore
from minitango.callback_url import Callbacks
from minitango.errors import StoreError
from minitango.events import Observer, became
from minitango.keeping import Keeper, kept_for
from minitango.node import Membership
from minitango.pool import Pool
from minitango.runner import Runner
from minitango.sandbox import Sandbox
from minitango.store import Store

log = logging.getLogger("minitango")


class Grading:
    """The threads of one engine that grades. `start` once; `stop` as often as one likes.

    The state directory's lock is held meanwhile.
    """

    def __init__(
        self,
        observer: Observer,
        store: Store,
        blobs: BlobStore,
        sandbox: Sandbox,
        runner: Runner,
        *,
        state: Path,
        name: str,
        workers: int,
        capabilities: Collection[str],
        lease_for: float,
        keep: float | None,
        paused: bool,
        callbacks: Callbacks,
    ) -> None:
        """Becomes a node, and starts nothing yet. ConfigError, StoreError."""
        from minitango.sender import Sender  # with all of TLS: only where something is sent

        self._observer = observer
        self._store = store
        self._sandbox = sandbox
        self._keeper = Keeper(store, blobs, kept_for(keep, shared=store.shared))
        there = statedir.watch_over(state)

        def look_after() -> None:
            there()
            store.look_after()

        # Last of what can fail: `start` is what takes it back.
        self._member = Membership.join(
            store, state, name=name, workers=workers, sandbox=sandbox.name, capabilities=capabilities
        )
        self._pool = Pool(
            store, runner, observer, member=self._member, lease_for=lease_for, state=state, look_after=look_after,
            paused=paused,
        )  # fmt: skip
        self._sender = Sender(store, callbacks, observer.event, observer.trouble)

    def start(self, undo: contextlib.ExitStack) -> None:
        """Take back what a dead engine left here, and start the threads; `undo` ends them, and the membership."""
        undo.callback(self._leave)
        swept = self._sandbox.sweep()
        if swept:
            log.info("removed %d sandboxes that a dead engine left", swept)
        # Others that share the queue are alive; of this node there is no other while the directory is locked.
        for job in self._store.recover(node=self.node if self._store.shared else None):
            self._observer.event(became(job, taken_back=True), job)
        undo.callback(self._keeper.stop)
        undo.callback(self._pool.stop, 0.0)
        self._pool.start()
        undo.callback(self._sender.stop, 0.0)
        self._sender.start()
        self._keeper.start()

    def _leave(self) -> None:
        try:
            self._member.leave()
        except StoreError as error:  # what it would have told is told by our silence, later
            if self._store.shared:
                log.warning("this node could not sign off, and is taken for lost in a while: %s", error)

    @property
    def node(self) -> str:
        """The name under which it grades."""
        return self._member.node.name

    # --- told by the engine -----------------------------------------------------------------------

    def wake(self, *, changed: bool = False) -> None:
        """As `Pool.wake`."""
        self._pool.wake(changed=changed)

    def deliver(self) -> None:
        """A callback may be due."""
        self._sender.wake()

    def pause(self) -> None:
        self._pool.pause()

    def resume(self) -> None:
        self._pool.resume()

    @property
    def resting(self) -> bool:
        return self._pool.resting

    @property
    def busy(self) -> bool:
        return self._pool.busy

    def request_stop(self, *, release: bool = False) -> None:
        """As `Pool.request_stop`; with `release`, no callback is begun any more either."""
        self._pool.request_stop(release=release)
        if release:
            self._sender.request_stop()

    def stop(self, grace: float) -> None:
        """As `Pool.stop`; what is left of `grace` is the callbacks'."""
        deadline = time.monotonic() + grace
        self._pool.stop(grace, force=self._sandbox.close)
        self._sender.stop(deadline - time.monotonic())

    def join(self) -> None:
        """As `Pool.join`."""
        self._pool.join()
