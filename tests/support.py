"""What tests of the runner and the engine share: small assignments, and waiting for things that other threads do."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minitango import Assignment, Engine, Limits, SandboxUnavailable, Step, Submission
from minitango.sandbox import End
from minitango.testing import FakeRun

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a command."""
PATIENCE = 20.0
"""Seconds after which a test gives up on another thread. Never waited out when things go well."""


def assignment(name: str = "hw", **changes: Any) -> Assignment:
    """One step, graded by whatever the fake sandbox's function does."""
    values: dict[str, Any] = {"steps": (Step(command=("grade",), limits=Limits(wall=5)),), "max_score": 10}
    return Assignment(name=name, **{**values, **changes})


def submission(
    student: str = "ada", text: bytes = b"print(1)\n", of: Assignment | None = None, **more: Any
) -> Submission:
    return Submission(of or assignment(), student=student, files={"answer.py": text}, **more)


def scoring(score: float) -> Callable[[FakeRun], End]:
    """The inside of a sandbox that reports this score, in the step that reports."""

    def inside(run: FakeRun) -> End:
        if "MINITANGO_REPORT" in run.env:
            report(run, {"score": score})
        return End(exit_status=0)

    return inside


def report(run: FakeRun, body: dict[str, Any]) -> None:
    run.write(run.env["MINITANGO_REPORT"], json.dumps(body).encode())


class Gate:
    """The inside of a sandbox that waits to be let go; it ends early if its box is killed."""

    def __init__(self, score: float = 10) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self._score = score

    def __call__(self, run: FakeRun) -> End:
        self.entered.release()
        deadline = time.monotonic() + PATIENCE
        while not self.open.wait(0.005) and not run.killed.is_set():
            assert time.monotonic() < deadline, "nobody opened the gate"
        return scoring(self._score)(run)

    def wait_entered(self) -> None:
        assert self.entered.acquire(timeout=PATIENCE), "no attempt began"


def age_blobs(state: Path, seconds: float = 86400.0) -> None:
    """As if all blobs of this state directory had been put so long ago."""
    then = time.time() - seconds
    for path in (state / "blobs").rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))
    with contextlib.closing(sqlite3.connect(state / "queue.db", isolation_level=None)) as db:
        db.execute("UPDATE blobs SET put = ?", (then,))


def blobs_of(state: Path) -> set[str]:
    """The digests of all blobs of this state directory, in files and in the queue's file."""
    files = {path.name for path in (state / "blobs").rglob("*") if path.is_file()}
    with contextlib.closing(sqlite3.connect(state / "queue.db")) as db:
        return files | {digest for (digest,) in db.execute("SELECT digest FROM blobs")}


def eventually(
    check: Callable[[], bool], what: str = "it did not come true", *, within: float = PATIENCE, every: float = 0.005
) -> None:
    """Wait for what another thread or process brings about. The time is counted in looks: a machine that is busy, or
    stood still, has as many as one that is not. AssertionError once there were enough, or six times that long."""
    most = time.monotonic() + 6 * within
    for _ in range(round(within / every)):
        if check():
            return
        if time.monotonic() > most:
            break
        threading.Event().wait(every)
    raise AssertionError(what)


def open_engine(where: Any, inside: Callable[[FakeRun], End], **options: Any) -> Engine:
    from minitango.testing import FakeSandbox

    return Engine.open(where, **{"workers": 2, "sandbox": FakeSandbox(inside), **options})


def refuse_threads(patch: pytest.MonkeyPatch, name: str, times: int = 1) -> None:
    """The machine has no thread for what is called so, so many times."""
    start, left = threading.Thread.start, times

    def refusing(thread: threading.Thread) -> None:
        nonlocal left
        if thread.name == name and left:
            left -= 1
            raise RuntimeError("can't start new thread")
        start(thread)

    patch.setattr(threading.Thread, "start", refusing)


def need_bubblewrap() -> None:
    """Skip, with the reason, where bubblewrap does not work; fail where CI=true promised it."""
    import os

    import pytest

    error = _bubblewrap_trouble()
    if error is not None:
        if os.environ.get("CI") == "true":
            raise error
        pytest.skip(f"bubblewrap: {error} (try: {error.hint})")


@functools.cache
def _bubblewrap_trouble() -> SandboxUnavailable | None:
    from minitango.sandbox import open_sandbox

    try:
        open_sandbox("bubblewrap").close()
    except SandboxUnavailable as error:
        return error
    return None


def make_package(root: Path, *targets: str) -> subprocess.CompletedProcess[str]:
    """Build the sdist and the wheel of a checkout into its `dist`, or what is named. Needs no network."""
    import importlib.util

    import pytest

    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed (try: pip install hatchling)")
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", *targets], cwd=root, capture_output=True, text=True, check=False
    )


@contextlib.contextmanager
def signals_as_before() -> Iterator[None]:
    """A command that is run in this process ends with what would end it ignored: that is heeded again after this."""
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
