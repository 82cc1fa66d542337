"""A queue on either store, engines on it, and what must hold of it in the end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from minitango import Engine, JobHandle
from minitango.job import Job, State
from minitango.sandbox._host import start_time
from minitango.store import Query, Store, open_store
from tests import redis_server, support
from tests.faults.child import assignment, hand_ins
from tests.faults.children import PATIENCE, Child, nursery
from tests.redis_server import Server

LONG = bool(os.environ.get("MINITANGO_LONG"))
SLACK = 4.0
"""Seconds by which what has to be done within a time may be late on a machine that others use as well."""


class Place:
    """A queue, and the engines that a test started on it."""

    def __init__(self, kind: str, folder: Path, server: Server | str | None = None) -> None:
        """`server`: its own, or the URL of several."""
        self.kind = kind
        self.folder = folder
        self._server = server
        self._children: list[Child] = []
        self._opened: list[Any] = []

    @property
    def server(self) -> Server:
        assert isinstance(self._server, Server)
        return self._server

    @property
    def url(self) -> str:
        if self._server is None:
            return f"sqlite:///{self.folder}/node/queue.db"
        return self._server if isinstance(self._server, str) else self._server.url()

    def state(self, name: str = "node") -> Path:
        return self.folder / name

    def start(self, name: str = "node", *words: str, url: str = "", netns: str = "", **options: Any) -> Child:
        """Start an engine: the node of this name. `options` are those of `child`; capitals go to the environment."""
        env = {key: str(value) for key, value in options.items() if key.isupper()}
        given = {key.replace("_", "-"): value for key, value in options.items() if not key.isupper()}
        more = [f"--{key}" if value is True else f"--{key}={value}" for key, value in given.items()]
        if self.kind == "redis":
            more.append(f"--name={name}")
        where = [url or self.url, str(self.state(name))]
        child = nursery().start("child", [*where, *words, *more], netns=netns, **env)
        self._children.append(child)
        return child

    def node(self, name: str = "node", **options: Any) -> Child:
        """An engine that grades, and has said that it is open."""
        child = self.start(name, **options)
        child.expect("open")
        return child

    def finish(self, jobs: int, **options: Any) -> None:
        """Run it once more, unharmed, to the end."""
        child = self.start(jobs=jobs, **options)
        child.expect("all ended", timeout=2 * PATIENCE)
        assert child.wait() == 0

    def printed(self, name: str = "node") -> list[Path]:
        """The output of each job that runs there and has printed something."""
        return [path for path in (self.state(name) / "live").glob("*") if path.stat().st_size]

    def store(self) -> Store:
        made = open_store(self.url)
        self._opened.append(made.close)
        return made

    def submitter(self) -> Engine:
        """An engine that grades nothing."""
        state = self.state("node" if self.kind == "sqlite" else "submitter")
        made = Engine.open(self.url, workers=0, sandbox="bubblewrap", state=state)
        self._opened.append(made.stop)
        return made

    def submit(self, numbers: Iterable[int], seconds: float = 0.02) -> list[JobHandle]:
        return self.submitter().submit_many(hand_ins(assignment(seconds), numbers))

    def close(self) -> None:
        for child in self._children:
            child.close()
        for close in self._opened:
            close()


def check(store: Store, numbers: Sequence[int], *, charged: bool = False) -> list[Job]:
    """Each of these has its one result, the right one, and there is no other job; no failure was charged."""
    found = store.list()
    assert len(found) == len(numbers), "none lost, none twice"
    assert {job.student for job in found} == {f"s{n}" for n in numbers}
    for job in found:
        assert job.state is State.DONE, f"{job.student}: {job.state} {job.failure}"
        result = store.result(job.id)
        assert result is not None
        assert result.score == int(job.student[1:])
        assert charged or job.failures == 0
        attempts = store.attempts(job.id)
        assert [attempt.ended_by for attempt in attempts].count("finish") == 1
        assert [attempt.number for attempt in attempts] == list(range(1, job.attempt + 1))
    assert sorted(job.ended_seq or 0 for job in found) == list(range(1, len(found) + 1)), "each ended once"
    counts = store.counts()
    assert counts[State.DONE] == len(numbers)
    assert sum(counts.values()) == len(numbers)
    return found


def done(store: Store) -> int:
    return store.counts()[State.DONE]


def running(store: Store) -> list[Job]:
    return store.list(Query(states=(State.RUNNING,)))


def leftovers(state: Path, engines: Iterable[int]) -> list[str]:
    """Processes that engines with these pids started and that are alive: by their records, and by their name."""
    found = []
    names = [b"minitango-%d-" % engine for engine in engines]
    for record in (state / "boxes").rglob("*.json"):
        for line in record.read_text().splitlines():
            for pid, began in json.loads(line).get("processes", ()):
                if start_time(pid) == began:
                    found.append(f"recorded: {pid}")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if any(name in command for name in names):
            found.append(f"named: {process.name} {command[:200]!r}")
    return found


def eventually(check: Callable[[], object], what: str, timeout: float = PATIENCE) -> float:
    """Wait for what other processes bring about. Returns the seconds that it took."""
    begun = time.monotonic()
    support.eventually(lambda: bool(check()), what, within=timeout, every=0.01)
    return time.monotonic() - begun


def make_place(kind: str, folder: Path, server: Server | None = None) -> Place:
    if kind == "redis" and server is None:
        redis_server.need_redis()
        server = redis_server.shared()
        server.client().flushall()
    return Place(kind, folder, server)
