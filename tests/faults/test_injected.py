"""An exception at any line of the producer and of a consumer: the engine says so and ends, and nothing is stuck.

No thread dies in silence, no lock is left held, and the next engine grades all that there is, once.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minitango import EngineStopped
from minitango.attempt import Attempt
from minitango.breaker import Breaker
from minitango.node import Membership
from minitango.pool import Pool
from minitango.runner import Runner
from minitango.sandbox import End
from minitango.stopping import Stop
from minitango.store import open_store
from minitango.testing import FakeRun
from tests.faults.child import assignment, hand_ins
from tests.faults.harness import LONG, Place, check, done, eventually
from tests.support import PATIENCE, need_bubblewrap, open_engine

ROOT = Path(__file__).parents[2]
JOBS = range(1, 5)
THREADS = {
    "minitango producer": (Pool, Membership, Breaker, Stop),
    "minitango consumer 1": (Pool, Runner, Attempt, Stop),
}

LAST = ("Pool._crash", "Pool._spawn.<locals>.run")
"""What catches all else. It cannot catch itself."""


class Injected(BaseException):
    """What nobody expects."""


def codes(of: Any) -> Iterator[types.CodeType]:
    """The code of everything in a class, and of what is within it."""
    waiting = [function.__code__ for _, function in inspect.getmembers(of, inspect.isfunction)]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [each for each in code.co_consts if isinstance(each, types.CodeType)]


class Fault:
    """Raises once, in the thread of this name: where it comes to a line for the first time for the n-th time."""

    def __init__(self, thread: str, nth: int) -> None:
        self._thread = thread
        self._codes = {code for each in THREADS[thread] for code in codes(each) if code.co_qualname not in LAST}
        self._nth = nth
        self._been: set[tuple[types.CodeType, int]] = set()
        self.at = ""

    def __call__(self, frame: types.FrameType, event: str, arg: object) -> Any:
        if threading.current_thread().name != self._thread or self.at:
            return None
        if frame.f_code not in self._codes:
            return None
        if event == "line":
            place = frame.f_code, frame.f_lineno
            if place not in self._been:
                self._been.add(place)
                if len(self._been) == self._nth:
                    self.at = f"{frame.f_code.co_qualname}, line {frame.f_lineno}"
                    raise Injected(self.at)
        return self


@pytest.mark.timeout(1200 if LONG else 200)
@pytest.mark.parametrize(("thread", "step"), [("minitango producer", 7), ("minitango consumer 1", 7)])
def test_an_exception_at_any_line(place: Place, tmp_path: Path, thread: str, step: int) -> None:
    nth, struck = 1, 0
    while inject(place, tmp_path / f"{nth}", Fault(thread, nth)):
        nth += 1 if LONG else step
        struck += 1
    assert struck > 5, "it has hardly been anywhere"


def inject(place: Place, folder: Path, fault: Fault) -> bool:
    """Grade with this fault; False: that line was not reached."""
    if place.kind == "redis":
        place.server.client().flushall()
        url = place.url
    else:
        url = f"sqlite:///{folder}/queue.db"
    work = hand_ins(assignment(), JOBS)
    events: list[str] = []
    threading.settrace(fault)
    try:
        engine = open_engine(url, answering, state=folder, on_event=lambda event: events.append(event.kind))
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
    try:
        with contextlib.suppress(EngineStopped):
            for handle in engine.submit_many(work):
                handle.result(PATIENCE)
    finally:
        stopping = threading.Thread(target=engine.stop, kwargs={"grace": 0.0}, daemon=True)
        stopping.start()
        stopping.join(PATIENCE)
    assert not stopping.is_alive(), f"{fault.at}: it cannot be stopped"
    assert not [each.name for each in threading.enumerate() if each.name.startswith("minitango")], fault.at
    assert isinstance(engine.error, Injected | None)
    assert ("crashed" in events) == (engine.error is not None), f"{fault.at}: it died in silence"
    store = open_store(url)
    with contextlib.closing(store):
        if engine.error is None:
            check(store, JOBS, charged=True)
        with open_engine(url, answering, state=folder) as again:
            for handle in again.submit_many(work):
                handle.result(PATIENCE)
        check(store, JOBS, charged=True)
    return bool(fault.at)


def answering(run: FakeRun) -> End:
    run.write(run.env["MINITANGO_REPORT"], b'{"score": %s}' % run.read("/job/answer"))
    return End(exit_status=0)


BROKEN = """
import sys
from minitango.pool import Pool
def broken(self, *args):
    raise RuntimeError("broken on purpose")
setattr(Pool, sys.argv.pop(1), broken)
from minitango.cli import main
main()
"""


@pytest.mark.parametrize("where", ["_admit", "_consume", "_tell"])
def test_a_worker_that_breaks_says_so_and_exits_with_an_error(place: Place, where: str) -> None:
    need_bubblewrap()
    place.submit([3])
    words = ["worker", "--store", place.url, "--state", str(place.state()), "--sandbox", "bubblewrap"]
    ended = subprocess.run(
        [sys.executable, "-P", "-c", BROKEN, where, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode not in (0, 130), ended
    assert "broken on purpose" in ended.stderr
    assert "safe in the store" in ended.stderr
    child = place.node()
    eventually(lambda: done(place.store()) == 1, "the next one does not grade it")
    child.signal(signal.SIGTERM)
    assert child.wait() == 0
    check(place.store(), [3])
