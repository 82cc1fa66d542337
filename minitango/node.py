"""What this engine is to the others on its queue: a name, a sign of life, and whether it is to take more jobs.

A node is a state directory: its name is kept there, so that an engine that starts again takes its own jobs back at
once, and leaves those of the others to their leases.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from minitango import statedir
from minitango.errors import ConfigError
from minitango.store import Node, Store

BEAT: Final = 5.0
"""Seconds between two signs of life, where a queue is shared."""
GOOD_FOR: Final = 30.0
"""Seconds without one after which a node is taken to be gone. Its jobs go by their leases."""
_SOON: Final = 0.5
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_label(label: Any, what: str) -> str:
    """A node's name, or something that it offers. ConfigError `label`."""
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise ConfigError(
            f"{str(label)[:80]!r} cannot be {what}",
            hint="take up to 64 letters, digits, '.', '_' and '-', such as gpu or lab-3",
            id="label",
        )
    return label


def identify(store: Store, folder: Path, wanted: str = "") -> tuple[str, str]:
    """This node's name and its new instance. Call it while holding the state directory's lock.

    The name is `wanted`, else the one that it had here before, else the machine's with something after it. A directory
    that was copied to another machine, or beside an engine that is alive, gets another name. ConfigError `node_taken`:
    an engine of another state directory is alive under the wanted name.
    """
    host = _label(socket.gethostname())
    last = statedir.last_node(folder)
    instance = secrets.token_hex(8)
    living = {node.name: node for node in store.nodes() if store.now() - node.seen < node.good_for}
    name = wanted or (last.get("name", "") if last.get("host") == host else "")
    if name in living and living[name].instance != last.get("instance"):
        if wanted:
            other = living[name]
            raise ConfigError(
                f"another engine is alive on this queue as node {name!r} (on {other.host}, process {other.pid})",
                hint="give each node a --name and a --state DIR of its own",
                id="node_taken",
            )
        name = ""
    if not name:
        name = f"{host[:48]}-{secrets.token_hex(2)}" if store.shared else host
    statedir.note_node(folder, {"name": name, "host": host, "instance": instance})
    return name, instance


def _label(host: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", host).strip("-.")[:60] or "node"


class Membership:
    """One engine's place among the nodes of its queue. For the producer, but for `leave`."""

    def __init__(self, store: Store, node: Node) -> None:
        self.node = node
        self.draining = False
        self._store = store
        self._beat_at = 0.0
        self._looked = 0.0

    @classmethod
    def join(
        cls,
        store: Store,
        folder: Path,
        *,
        name: str,
        workers: int,
        sandbox: str,
        capabilities: Collection[str],
    ) -> Membership:
        """Become a node, and be known as one. ConfigError, StoreError."""
        from minitango import __version__

        offered = tuple(sorted({check_label(label, "what a node offers") for label in capabilities}))
        if name:
            check_label(name, "a node's name")
        called, instance = identify(store, folder, name)
        node = Node(
            called, instance, host=socket.gethostname(), pid=os.getpid(), version=__version__, slots=workers,
            sandbox=sandbox, capabilities=offered, started=store.now(), good_for=GOOD_FOR,
        )  # fmt: skip
        member = cls(store, node)
        member.draining = store.beat(node)
        return member

    def look(self, running: int, *, changed: bool, told: Callable[[bool], None]) -> None:
        """Give a sign of life when it is time, and see whether we are drained: `told` hears of a change. StoreError."""
        now = time.monotonic()
        before = self.draining
        if self._store.shared:
            if changed:
                self._beat_at = min(self._beat_at, self._looked + _SOON)
            if now < self._beat_at:
                return
            self.draining = self._store.beat(structs.replace(self.node, running=running))
            self._beat_at = now + BEAT
        elif changed:  # one engine alone: its lock says that it is alive
            self.draining = any(node.draining for node in self._store.nodes() if node.name == self.node.name)
        self._looked = now
        if self.draining != before:
            told(self.draining)

    def leave(self) -> None:
        """Be no node any more. StoreError."""
        self._store.leave(self.node.name, self.node.instance)
