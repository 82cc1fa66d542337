"""An engine in a process of its own, to be hurt.

    python -m tests.faults.child STORE STATE [OPTIONS]

Says `open`, submits its jobs (the same ones each time: the second start finds them), says `queued`, grades until they
have ended, says `all ended` and leaves. Without jobs of its own it grades what others submit until SIGTERM, which gives
what runs `--grace` seconds. The sandbox `fake` takes `--seconds` a job; `bubblewrap` and `docker` are the real ones.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence

from minitango import Assignment, Engine, Limits, Step, Submission
from minitango.engine import LEASE_FOR, Event
from minitango.errors import EngineStopped
from minitango.sandbox import End
from minitango.store import _redis_link
from minitango.store.sqlite import SqliteStore
from minitango.testing import FakeRun, FakeSandbox


def assignment(seconds: float = 0.02, image: str = "", name: str = "restart") -> Assignment:
    """Gives each hand-in the points that its `answer` names, after so many seconds."""
    script = f'sleep {seconds}; printf "{{\\"score\\": %s}}" "$(cat answer)" > "$MINITANGO_REPORT"'
    step = Step(command=("sh", "-c", script), limits=Limits(wall=20, memory=64 << 20), image=image)
    return Assignment(name, (step,), max_score=100_000)


def hand_ins(of: Assignment, numbers: Iterable[int]) -> list[Submission]:
    return [Submission(of, student=f"s{n}", files={"answer": b"%d" % n}) for n in numbers]


class Inside:
    """What happens in a fake box. It says whose box it was; a job that is `poison` kills its engine."""

    def __init__(self, seconds: float, name: str, poison: str = "") -> None:
        self.ended = False
        self._seconds = seconds
        self._name = name
        self._poison = poison.encode()

    def __call__(self, run: FakeRun) -> End:
        answer = run.read("/job/answer")
        run.print(self._name.encode())
        run.killed.wait(self._seconds)
        if self._poison and answer == self._poison:
            os.kill(os.getpid(), signal.SIGKILL)
        run.write(run.env["MINITANGO_REPORT"], b'{"score": %s}' % answer)
        self.ended = True
        return End(exit_status=0)


def skew(seconds: float) -> None:
    """This process's clock goes wrong by so much; by another hour, up or down, with each SIGUSR1 and SIGUSR2."""
    real = time.time
    off = [seconds]
    time.time = lambda: real() + off[0]
    defaults = SqliteStore.__init__.__kwdefaults__
    assert defaults["clock"] is real
    defaults["clock"] = time.time

    def step(number: int, frame: object) -> None:
        off[0] += 3600 if number == signal.SIGUSR1 else -3600

    signal.signal(signal.SIGUSR1, step)
    signal.signal(signal.SIGUSR2, step)


def stand_still(inside: Inside) -> None:
    """Stop, as by SIGSTOP, once the first job has ended, right before that is said to the server."""
    passed = _redis_link.failpoint

    def stop(name: str) -> None:
        if name == "store.exchange.before_commit" and inside.ended:
            _redis_link.failpoint = passed  # jobs to come are like any
            say("stands still")
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # before this thread goes on

    _redis_link.failpoint = stop


def say(what: str) -> None:
    print(what, flush=True)


def tell(event: Event) -> None:
    if event.kind in ("lease_lost", "store_trouble", "resumed", "paused", "crashed", "recovered"):
        say(f"{event.kind} {event.job.student if event.job else ''}".strip())


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("state")
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--sandbox", default="fake")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--image", default="")
    parser.add_argument("--seconds", type=float, default=0.02)
    parser.add_argument("--lease", type=float, default=LEASE_FOR)
    parser.add_argument("--name", default="")
    parser.add_argument("--skew", type=float, default=None)
    parser.add_argument("--poison", default="")
    parser.add_argument("--grace", type=float, default=0.0)
    parser.add_argument("--stand-still", action="store_true")
    parser.add_argument("--tell", action="store_true")
    args = parser.parse_args(words)
    if args.skew is not None:
        skew(args.skew)
    inside = Inside(args.seconds, args.name, args.poison)
    if args.stand_still:
        stand_still(inside)
    box = FakeSandbox(inside) if args.sandbox == "fake" else args.sandbox
    engine = Engine.open(
        args.store,
        state=args.state,
        workers=args.workers,
        sandbox=box,
        lease_for=args.lease,
        name=args.name,
        on_event=tell if args.tell else None,
    )
    if not args.jobs:
        signal.signal(signal.SIGTERM, lambda number, frame: engine.request_stop())
        say("open")
        with contextlib.suppress(EngineStopped):  # said again below
            engine.wait()
        engine.stop(grace=args.grace)
        engine.wait()
        say("stopped")
        return 0
    with engine:
        say("open")
        handles = engine.submit_many(hand_ins(assignment(args.seconds, args.image), range(args.jobs)))
        say("queued")
        for handle in handles:
            handle.exception()
    say("all ended")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
