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
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from minitango import statedir
from minitango.errors import ConfigError
from minitango.job import is_label
from minitango.store import Node, Store

BEAT: Final = 5.0
"""Seconds between two signs of life, where a queue is shared."""
GOOD_FOR: Final = 30.0
"""Seconds without one after which a node is taken to be gone. Its jobs go by their leases."""
MISSED: Final = 2
"""Signs of life that a node may miss before it is overdue."""
_SOON: Final = 0.5
_MOST_BEFORE: Final = 50
"""Instances that are noted: of starts in a row that were killed before they were through."""


def check_label(label: Any, what: str) -> str:
    """A node's name, or something that it offers. ConfigError `label`."""
    if not is_label(label):
        raise ConfigError(
            f"{str(label)[:80]!r} cannot be {what}",
            hint="take up to 64 letters, digits, '.', '_' and '-', such as gpu or lab-3",
            id="label",
        )
    return str(label)


def identify(store: Store, folder: Path, wanted: str, beat: Callable[[str, str, Collection[str]], None]) -> None:
    """Find this node's name and its new instance, and have them known. Call it while holding the directory's lock.

    The name is `wanted`, else the one that it had here before, else the machine's with something after it. A directory
    that was copied to another machine, or beside an engine that is alive, gets another name. `beat` has a name and an
    instance known to the store, as one that comes after these instances, or raises ConfigError `node_taken`, which goes
    on to the caller where the name was wanted.

    The instance is noted before it is known, and with all that came before until it is: whenever we are killed, what
    the store knows of us is here.
    """
    host = machine()
    last = statedir.last_node(folder)
    instance = secrets.token_hex(8)
    before = [one for one in (last.get("instance", ""), *last.get("before", "").split()) if one][:_MOST_BEFORE]

    def known_as(name: str) -> None:
        note = {"name": name, "host": host, "instance": instance}
        statedir.note_node(folder, {**note, "before": " ".join(before)})
        try:
            beat(name, instance, before)
        except ConfigError:
            statedir.note_node(folder, last)
            raise
        statedir.note_node(folder, note)

    name = wanted or _before(last)
    if name:
        try:
            return known_as(name)
        except ConfigError as error:
            if wanted or error.id != "node_taken":
                raise
    if not store.shared:  # who has the machine's name there is dead: we hold the lock
        before += [node.instance for node in store.nodes() if node.name == host]
        return known_as(host)
    return known_as(f"{host[:48]}-{secrets.token_hex(2)}")


def expected(folder: Path, wanted: str) -> str:
    """The name that a node here is going to have, as far as it can be told before the others are asked: of the first
    start on a queue that is shared, the machine's, with which it begins."""
    return wanted or _before(statedir.last_node(folder)) or machine()


def machine() -> str:
    """This machine's name, as a label."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()).strip("-.")[:60] or "node"


def _before(last: Mapping[str, str]) -> str:
    """The name of this directory's last node; empty where that was on another machine."""
    return last.get("name", "") if last.get("host") == machine() else ""


def overdue(node: Node, now: float) -> bool:
    """Whether a node of a shared queue that is not lost yet missed more than MISSED signs of life: perhaps it is dead.
    `now` is by the store's clock."""
    return MISSED * BEAT * node.good_for / GOOD_FOR < now - node.seen < node.good_for


class Membership:
    """One engine's place among the nodes of its queue. For the producer, but for `leave`."""

    def __init__(self, store: Store, node: Node) -> None:
        self.node = node
        self.draining = False
        self.replaced = False
        """Whether another engine has taken this one's name, while nothing was heard of it."""
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
        made: list[Membership] = []

        def beat(called: str, instance: str, after: Collection[str]) -> None:
            node = Node(
                called, instance, host=socket.gethostname(), pid=os.getpid(), version=__version__, slots=workers,
                sandbox=sandbox, capabilities=offered, started=store.now(), good_for=GOOD_FOR,
            )  # fmt: skip
            member = cls(store, node)
            member.draining = store.beat(node, after=after)
            made.append(member)

        identify(store, folder, name, beat)
        return made[0]

    def look(self, running: int, *, changed: bool, told: Callable[[bool, str], None]) -> None:
        """Give a sign of life when it is time, and see whether we are to begin nothing, since we are drained or another
        has our name: `told` hears of a change, and why. StoreError."""
        now = time.monotonic()
        before, why = (self.draining, self.replaced), ""
        if self._store.shared:
            if changed:
                self._beat_at = min(self._beat_at, self._looked + _SOON)
            if now < self._beat_at:
                return
            try:
                self.draining = self._store.beat(structs.replace(self.node, running=running))
                self.replaced = False
            except ConfigError as error:
                if error.id != "node_taken":
                    raise
                self.replaced, why = True, f"{error}: this one begins no job; next: {error.hint}"
            self._beat_at = now + BEAT
        elif changed:  # one engine alone: its lock says that it is alive
            self.draining = any(node.draining for node in self._store.nodes() if node.name == self.node.name)
        self._looked = now
        if (self.draining, self.replaced) == before:
            return
        if self.draining and not self.replaced:
            why = (
                f"the node {self.node.name} is drained: it begins no job; next: minitango nodes resume {self.node.name}"
            )
        told(self.resting, why or f"the node {self.node.name} takes jobs again")

    @property
    def resting(self) -> bool:
        """Whether no job is to be begun."""
        return self.draining or self.replaced

    def leave(self) -> None:
        """Be no node any more. StoreError."""
        self._store.leave(self.node.name, self.node.instance)
