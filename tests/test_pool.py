"""Pool and breaker: who is claimed when, what is run alone, and how attempts, leases and the engine come to an end.

A real store and real threads. Waits are cut short by shortening the pool's constants, or are made so long that only
the one timer under test can end them.
"""

from __future__ import annotations

import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from minitango import (
    Assignment,
    Engine,
    EngineStopped,
    Event,
    JobDead,
    Limits,
    SandboxFailed,
    SandboxUnavailable,
    State,
    Step,
    StoreError,
)
from minitango.breaker import Breaker
from minitango.job import SOLO_AFTER, Fail, Failure
from minitango.sandbox import End
from minitango.testing import FakeRun, FakeSandbox
from tests.support import PATIENCE, Gate, assignment, eventually, open_engine, scoring, submission

NEVER = 3600.0
"""Seconds that no test waits for."""


class Rounds:
    """Lets whole rounds of an engine's producer pass. Each round looks at what ended, before it claims."""

    def __init__(self, engine: Engine, ended: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._engine = engine
        self._ended = ended
        self._looks = threading.Semaphore(0)
        real = engine.store.ended_since

        def counted(cursor: int, *, limit: int = 1000) -> Any:
            self._looks.release()
            return real(cursor, limit=limit)

        monkeypatch.setattr(engine.store, "ended_since", counted)

    def pass_by(self) -> None:
        """Return when a round that began after this call is over: what it would claim, it has claimed."""
        while self._looks.acquire(blocking=False):
            pass
        for _ in range(3):  # a round that was under way, a whole one, the beginning of the next
            self._engine.cancel(self._ended)  # which changes nothing, but wakes the producer
            assert self._looks.acquire(timeout=PATIENCE), "the producer is stuck"


def prepare(where: Path, *, suspect: bool = False) -> str:
    """A queue with one cancelled job, whose id is returned, and perhaps one job that was interrupted twice."""
    with Engine.open(where, workers=0, sandbox=FakeSandbox()) as engine:
        if suspect:
            engine.submit(submission("suspect", b"suspect"))
            for _ in range(2):
                assert len(engine.store.exchange(claim=1).leases) == 1
                engine.store.recover()
        ended = engine.submit(submission("bystander"))
        assert ended.cancel()
        return ended.id


def who(run: FakeRun) -> str:
    return run.read("/job/answer.py").decode()


def in_state(engine: Engine, state: State) -> set[str]:
    return {job.student for job in engine.jobs() if job.state is state}


def in_time(work: Callable[[], None]) -> None:
    """Do this, which may hang, in a thread that may be left behind; what it raises goes through."""
    ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run() -> None:
        try:
            work()
            ended.set_result(None)
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    ended.result(PATIENCE)


@pytest.fixture
def no_polls(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The producer wakes for what it has to do, never just to look. The result: options of `Engine.open`."""
    monkeypatch.setattr("minitango.pool.SAFETY_POLL", NEVER)
    return {"lease_for": NEVER}


# --- run alone ----------------------------------------------------------------------------------


def test_a_job_interrupted_twice_is_run_alone_and_others_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = prepare(tmp_path, suspect=True)
    pair = threading.Barrier(2, timeout=PATIENCE)
    gate = Gate()
    order: list[str] = []

    def inside(run: FakeRun) -> End:
        order.append(who(run))
        if who(run) == "suspect":
            return gate(run)
        pair.wait()
        return scoring(1)(run)

    with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox()) as engine:
        engine.submit_many([submission("a", b"a"), submission("b", b"b")])
    with open_engine(tmp_path, inside, workers=3) as engine:
        rounds = Rounds(engine, ended, monkeypatch)
        gate.wait_entered()
        assert sorted(order[:2]) == ["a", "b"], "they met at the barrier, before the suspect's quiet moment"
        late = engine.submit_many([submission("c", b"c"), submission("d", b"d")])
        rounds.pass_by()
        assert in_state(engine, State.RUNNING) == {"suspect"}
        assert in_state(engine, State.QUEUED) == {"c", "d"}
        gate.open.set()
        assert [handle.result(PATIENCE).score for handle in late] == [1, 1]
        assert in_state(engine, State.DONE) == {"suspect", "a", "b", "c", "d"}


def test_a_suspect_is_not_started_beside_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = prepare(tmp_path, suspect=True)
    with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox()) as engine:
        engine.submit(submission("a", b"a"))
    gate = Gate()
    with open_engine(tmp_path, gate, workers=3) as engine:
        rounds = Rounds(engine, ended, monkeypatch)
        gate.wait_entered()
        rounds.pass_by()
        assert in_state(engine, State.RUNNING) == {"a"}
        assert in_state(engine, State.QUEUED) == {"suspect"}
        gate.open.set()
        assert engine.drain(PATIENCE)


class Alone:
    """The inside of sandboxes that each wait to be let go, by who is in them; and who was ever in at once."""

    def __init__(self, *names: str) -> None:
        self.gates = {name: Gate() for name in names}
        self.together: set[str] = set()
        self._now: set[str] = set()

    def __call__(self, run: FakeRun) -> End:
        self._now.add(who(run))
        if len(self._now) > 1:
            self.together |= self._now
        try:
            return self.gates[who(run)](run)
        finally:
            self._now.discard(who(run))


def test_what_must_run_alone_and_is_heard_of_with_others_goes_back_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a claim may be whose answer was lost."""
    prepare(tmp_path, suspect=True)
    inside = Alone("a", "suspect")
    with open_engine(tmp_path, inside, workers=3, paused=True) as engine:
        engine.submit(submission("a", b"a"))
        (suspect,) = [job.id for job in engine.jobs() if job.student == "suspect"]
        real, late = engine.store.exchange, [True]

        def exchange(acks: Any = (), **more: Any) -> Any:
            out = real(acks, **more)
            if out.leases and late:
                late.pop()
                more_of_them = real(**{**more, "claim": 1, "solo": True}).leases
                assert [lease.solo for lease in more_of_them] == [True]
                return structs.replace(out, leases=(*out.leases, *more_of_them))
            return out

        monkeypatch.setattr(engine.store, "exchange", exchange)
        engine.resume()
        inside.gates["a"].wait_entered()
        eventually(lambda: in_state(engine, State.RUNNING) == {"a"}, "it did not go back")
        inside.gates["a"].open.set()
        inside.gates["suspect"].wait_entered()
        inside.gates["suspect"].open.set()
        assert engine.job(suspect).result(PATIENCE).score == 10
        assert not inside.together
        assert [one.ended_by for one in engine.store.attempts(suspect)][-2:] == ["release", "finish"]
        assert engine.store.get(suspect).interruptions == SOLO_AFTER, "it was charged nothing"


def test_others_that_are_heard_of_while_one_must_run_alone_go_back_before_they_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, suspect=True)
    inside = Alone("a", "b", "suspect")
    with open_engine(tmp_path, inside, workers=3) as engine:
        inside.gates["suspect"].wait_entered()
        others = engine.submit_many([submission("a", b"a"), submission("b", b"b")])
        real, late = engine.store.exchange, [True]

        def exchange(acks: Any = (), **more: Any) -> Any:
            if late:
                late.pop()
                monkeypatch.setattr(engine.store, "unheard", False, raising=False)
                return real(acks, **{**more, "claim": 2})
            return real(acks, **more)

        monkeypatch.setattr(engine.store, "exchange", exchange)
        monkeypatch.setattr(engine.store, "unheard", True, raising=False)
        engine._grading.wake()  # type: ignore[union-attr]
        eventually(lambda: all(engine.store.attempts(other.id) for other in others))
        eventually(lambda: in_state(engine, State.RUNNING) == {"suspect"}, "they did not go back")
        for gate in inside.gates.values():
            gate.open.set()
        assert [other.result(PATIENCE).score for other in others] == [10, 10]
        assert "suspect" not in inside.together
        for other in others:
            assert [one.ended_by for one in engine.store.attempts(other.id)] == ["release", "finish"]


def test_a_suspect_that_waited_long_gets_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet moment is made for it: nothing is started until those that run are done, then it runs before others."""
    ended = prepare(tmp_path, suspect=True)
    monkeypatch.setattr("minitango.pool.SAFETY_POLL", 0.01)
    monkeypatch.setattr("minitango.claiming.LOOK_FOR_SOLO", 0.01)
    with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox()) as engine:
        engine.submit(submission("a", b"a"))
    gate = Gate()
    order: list[str] = []

    def inside(run: FakeRun) -> End:
        order.append(who(run))
        return gate(run) if who(run) in ("a", "suspect") else scoring(1)(run)

    with open_engine(tmp_path, inside, workers=3) as engine:
        rounds = Rounds(engine, ended, monkeypatch)
        gate.wait_entered()
        looked = threading.Semaphore(0)
        real = engine.store.solo_since

        def solo_since(**offered: Any) -> float | None:
            looked.release()
            return real(**offered)

        monkeypatch.setattr(engine.store, "solo_since", solo_since)
        monkeypatch.setattr("minitango.claiming.SOLO_PATIENCE", -1.0)
        for _ in range(2):  # a look that began before this may still have seen the long patience
            assert looked.acquire(timeout=PATIENCE), "nobody looks after those that wait to run alone"
        engine.submit_many(submission(f"s{n}", b"s%d" % n) for n in range(4))
        rounds.pass_by()
        assert in_state(engine, State.RUNNING) == {"a"}, "room is being made"
        gate.open.set()
        assert engine.drain(PATIENCE)
    assert order[:2] == ["a", "suspect"]
    assert len(order) == 6


def test_a_suspect_within_its_patience_lets_others_go_first(tmp_path: Path) -> None:
    prepare(tmp_path, suspect=True)
    order: list[str] = []

    def inside(run: FakeRun) -> End:
        order.append(who(run))
        return scoring(1)(run)

    with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox()) as engine:
        engine.submit_many(submission(f"s{n}", b"s%d" % n) for n in range(5))
    with open_engine(tmp_path, inside, workers=2) as engine:
        assert engine.drain(PATIENCE)
    assert order[-1] == "suspect"
    assert len(order) == 6


# --- the breaker ----------------------------------------------------------------------------------


def test_breaker_opens_after_three_in_a_row() -> None:
    breaker = Breaker(after=3, base=1)
    assert not breaker.failed(0)
    assert not breaker.failed(0)
    assert not breaker.succeeded(), "it was not open"
    assert not breaker.failed(0)
    assert not breaker.failed(0)
    assert (breaker.allowed(0, 5), breaker.wait(0)) == (None, None)
    assert breaker.failed(0)
    assert breaker.resting


def test_breaker_rests_tries_once_and_rests_longer() -> None:
    breaker = Breaker(base=1, most=3)
    assert breaker.failed(10, certain=True)
    assert (breaker.allowed(10.9, 0), breaker.wait(10)) == (0, 1)
    assert not breaker.failed(10.5, certain=True), "it was under way already"
    assert (breaker.allowed(11, 0), breaker.allowed(11, 1), breaker.wait(11)) == (1, 0, 0)
    assert breaker.failed(11)
    assert breaker.wait(11) == 2
    assert breaker.failed(13)
    assert breaker.wait(13) == 3, "never more than the most"
    assert breaker.succeeded()
    assert (breaker.resting, breaker.allowed(13, 3)) == (False, None)
    assert breaker.failed(20, certain=True)
    assert breaker.wait(20) == 1, "a success forgives all"


class Scripted(FakeSandbox):
    """A sandbox whose n-th opening does what the n-th entry says: raise it, call it, or (None, or later) just open."""

    def __init__(self, *script: Exception | Callable[[], None] | None) -> None:
        super().__init__(scoring(1))
        self.script = list(script)
        self.opens = 0
        self._lock = threading.Lock()

    def open(self, spec: Any) -> Any:
        if spec.token == "preflight":
            return super().open(spec)
        with self._lock:
            self.opens += 1
            act = self.script.pop(0) if self.script else None
        if isinstance(act, Exception):
            raise act
        if act is not None:
            act()
        return super().open(spec)


def away() -> SandboxUnavailable:
    return SandboxUnavailable("away")


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.retry.backoff", lambda n, **_: 0.001)


def test_nothing_is_claimed_while_the_sandbox_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = prepare(tmp_path)
    monkeypatch.setattr("minitango.breaker.backoff", lambda n, **_: NEVER)
    paused = threading.Event()
    sandbox = Scripted(away())
    told: list[str] = []

    def listen(event: Event) -> None:
        told.append(event.kind)
        if event.kind == "paused":
            paused.set()

    with open_engine(tmp_path, scoring(0), sandbox=sandbox, workers=3, on_event=listen) as engine:
        rounds = Rounds(engine, ended, monkeypatch)
        engine.submit(submission("first"))
        assert paused.wait(PATIENCE)
        engine.submit_many(submission(f"s{n}") for n in range(4))
        rounds.pass_by()
        assert not in_state(engine, State.RUNNING)
        assert in_state(engine, State.QUEUED) == {"first", "s0", "s1", "s2", "s3"}
        assert sandbox.opens == 1
    assert told.count("started") == 1


def test_after_a_rest_one_is_tried_and_only_success_lets_others_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = prepare(tmp_path)
    monkeypatch.setattr("minitango.breaker.backoff", lambda n, **_: 0.0)
    trying = [threading.Semaphore(0) for _ in range(2)]
    go_on = [threading.Event() for _ in range(2)]

    def trial(number: int, then: Exception | None) -> Callable[[], None]:
        def act() -> None:
            trying[number].release()
            assert go_on[number].wait(PATIENCE)
            if then is not None:
                raise then

        return act

    # away; a try that ends in a failure which says nothing of sandboxes; a try that succeeds
    sandbox = Scripted(away(), trial(0, RuntimeError("a mistake of ours")), trial(1, None))
    together = threading.Barrier(2, timeout=PATIENCE)
    told: list[str] = []

    def inside(run: FakeRun) -> End:
        if who(run) == "pair":
            together.wait()
        return scoring(1)(run)

    sandbox._inside = inside
    with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox()) as engine:
        engine.submit(submission("first", priority=9))
    with open_engine(tmp_path, inside, sandbox=sandbox, workers=3, on_event=lambda e: told.append(e.kind)) as engine:
        rounds = Rounds(engine, ended, monkeypatch)
        eventually(lambda: "paused" in told)
        engine.submit_many(submission(f"s{n}", priority=5) for n in range(2))
        pair = engine.submit_many(submission(f"p{n}", b"pair") for n in range(2))
        for number, opens in ((0, 2), (1, 3)):
            assert trying[number].acquire(timeout=PATIENCE)
            rounds.pass_by()
            assert len(in_state(engine, State.RUNNING)) == 1, "one try at a time"
            assert sandbox.opens == opens
            assert "resumed" not in told
            go_on[number].set()
        assert [handle.result(PATIENCE).score for handle in pair] == [1, 1], "and then they run side by side"
        assert told.count("resumed") == 1


def test_a_rest_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_polls: dict[str, float]) -> None:
    monkeypatch.setattr("minitango.breaker.backoff", lambda n, **_: 0.4)
    paused = threading.Event()

    def listen(event: Event) -> None:
        if event.kind == "paused":
            paused.set()

    sandbox = Scripted(away())
    with open_engine(tmp_path, scoring(0), sandbox=sandbox, workers=1, on_event=listen, **no_polls) as engine:
        first = engine.submit(submission("a"))
        assert paused.wait(PATIENCE)
        first.cancel()  # lest it be waited for: it is due in a second
        assert engine.submit(submission("b")).result(PATIENCE).score == 1


def broken_by(sandbox: FakeSandbox, where: Path) -> list[str]:
    """The events of an engine in which one job is tried, with this sandbox, until it has ended."""
    told: list[str] = []
    with open_engine(where, scoring(0), sandbox=sandbox, workers=1, on_event=lambda e: told.append(e.kind)) as engine:
        for handle in engine.submit_many(submission(f"s{n}") for n in range(2)):
            assert handle.exception(PATIENCE) is None or isinstance(handle.exception(), JobDead)
    return told


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (lambda: SandboxFailed("broke"), True),
        (lambda: SandboxFailed("broke", id="sandbox_overdue"), True),
        (lambda: StoreError("a blob cannot be read", id="blob_unreadable"), False),
        (lambda: RuntimeError("a mistake of ours"), False),
    ],
)
def test_only_what_sandboxes_do_rests_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception], opens: bool
) -> None:
    monkeypatch.setattr("minitango.breaker.backoff", lambda n, **_: 0.001)
    told = broken_by(Scripted(*(error() for _ in range(4))), tmp_path)
    assert ("paused" in told) is opens
    assert ("resumed" in told) is opens


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.usefixtures("quick_retries")
def test_a_failure_counts_once_however_often_the_store_fails_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with open_engine(
        tmp_path, scoring(1), sandbox=Scripted(SandboxFailed("once")), on_event=lambda event: told.append(event.kind)
    ) as engine:
        failures, real = [StoreError("it is away", id="store_unreachable")] * 3, engine.store.exchange

        def exchange(acks: Any = (), **more: Any) -> Any:
            if acks and failures:
                raise failures.pop()
            return real(acks, **more)

        monkeypatch.setattr(engine.store, "exchange", exchange)
        assert engine.submit(submission()).result(PATIENCE).score == 1
        assert not failures
    assert "retried" in told
    assert "paused" not in told, "it failed once, not three times in a row"


def test_two_failures_of_a_sandbox_are_no_reason_to_rest(tmp_path: Path) -> None:
    assert "paused" not in broken_by(Scripted(*(SandboxFailed("broke") for _ in range(2))), tmp_path)


# --- one job's trouble, or one assignment's -------------------------------------------------------


class Partial(FakeSandbox):
    """A sandbox that cannot have the image `away` until it is `back`, and in which a box that gets the bytes `bad`
    hangs."""

    def __init__(self) -> None:
        super().__init__(scoring(1), images={"": "sha256:0", "there": "sha256:1", "away": "sha256:2"})
        self.back = threading.Event()
        self.asked = 0

    def prepare(self, image: str, folder: Any = ()) -> str:
        if image == "away" and not self.back.is_set():
            self.asked += 1
            raise SandboxUnavailable("the image cannot be pulled now", hint="look at it", id="sandbox_registry")
        return super().prepare(image, folder)

    def open(self, spec: Any) -> Any:
        box = super().open(spec)
        put = box.put

        def look(mount: str, files: Any) -> None:
            files = tuple(files)
            if any(file.data == b"bad" for file in files):
                raise SandboxUnavailable("a container says nothing", hint="look at it", id="sandbox_hangs")
            put(mount, files)

        box.put = look  # type: ignore[method-assign]
        return box


def of_image(image: str) -> Assignment:
    step = Step(command=("grade",), limits=Limits(wall=5), image=image)
    return Assignment(f"needs {image}", (step,), max_score=10)


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_that_wait_for_an_image_keep_nobody_waiting(tmp_path: Path, workers: int) -> None:
    told: list[Event] = []
    sandbox = Partial()
    with Engine.open(tmp_path, workers=0, sandbox=sandbox) as engine:
        engine.submit_many(submission(f"w{n}", of=of_image("away"), priority=9) for n in range(20))
        engine.submit_many(submission(f"s{n}", of=of_image("there")) for n in range(20))
    with open_engine(tmp_path, scoring(0), sandbox=sandbox, workers=workers, on_event=told.append) as engine:
        eventually(lambda: len(in_state(engine, State.DONE)) == 20, "others wait as well")
        assert in_state(engine, State.DONE) == {f"s{n}" for n in range(20)}
        assert sandbox.asked <= workers + 2, "each of them is tried"
        assert all(job.failures == 0 for job in engine.jobs())
    said = [event.message for event in told if event.kind == "paused"]
    assert said == ["jobs of needs away wait: the image cannot be pulled now; next: look at it"]


@pytest.mark.usefixtures("quick_retries")
def test_when_the_image_is_there_all_that_waited_are_graded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.retry.HELD_FOR", 0.0)
    told: list[str] = []
    sandbox = Partial()
    with open_engine(
        tmp_path, scoring(0), sandbox=sandbox, workers=2, on_event=lambda event: told.append(event.message)
    ) as engine:
        handles = engine.submit_many(submission(f"w{n}", of=of_image("away")) for n in range(20))
        eventually(lambda: sandbox.asked > 20, "it is not tried again and again")
        assert engine.submit(submission("s", of=of_image("there"))).result(PATIENCE).score == 1
        sandbox.back.set()
        assert [handle.result(PATIENCE).score for handle in handles] == [1] * 20, "none waits for half a minute"
        assert all(job.failures == 0 for job in engine.jobs())
        tried = [job.attempt for job in engine.jobs()]
        assert sum(attempt > 2 for attempt in tried) <= 2, "one is tried for all"
    assert "needs away is graded again" in told


def test_a_job_that_must_run_alone_and_not_here_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minitango.claiming.SOLO_PATIENCE", -1.0)
    with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox()) as engine:
        engine.submit(submission("suspect", of=assignment(needs=("gpu",))))
        for _ in range(SOLO_AFTER):
            assert engine.store.exchange(claim=1, capabilities=["gpu"]).leases
            engine.store.recover()
        assert engine.store.solo_since(capabilities=["gpu"]) is not None
    with open_engine(tmp_path, scoring(1)) as engine:
        assert engine.submit(submission("s")).result(PATIENCE).score == 1


def test_a_sandbox_that_failed_is_tried_with_jobs_that_were_not_held(tmp_path: Path) -> None:
    """Though those that were are due, and first: many that are the reason would keep it away for long, in turns."""
    tried: list[str] = []
    sandbox = Partial()
    with Engine.open(tmp_path, workers=0, sandbox=sandbox) as engine:
        engine.submit_many(submission(f"b{n}", b"bad", priority=9) for n in range(3))
        for _ in range(3):
            (lease,) = engine.store.exchange(claim=1, node="x").leases
            engine.store.exchange([Fail(lease, Failure("sandbox_hangs", "x"), charge=False)])
        engine.submit(submission("s"))
        time.sleep(max(job.due or 0 for job in engine.jobs()) - time.time())

    def told(event: Event) -> None:
        if event.kind == "started" and event.job is not None:
            tried.append(event.job.student)

    with open_engine(tmp_path, scoring(0), sandbox=sandbox, workers=1, on_event=told) as engine:
        eventually(lambda: in_state(engine, State.DONE) == {"s"}, "others wait as well")
    assert tried[:2] == ["b0", "s"]


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_that_make_the_sandbox_fail_keep_nobody_waiting(tmp_path: Path, workers: int) -> None:
    """As many as there are workers, and first in the queue. In real time: a rest is a second, and a back-off longer."""
    told: list[Event] = []
    with Engine.open(tmp_path, workers=0, sandbox=Partial()) as engine:
        engine.submit_many(submission(f"b{n}", b"bad", priority=9) for n in range(workers))
        engine.submit_many(submission(f"s{n}") for n in range(10))
    with open_engine(tmp_path, scoring(0), sandbox=Partial(), workers=workers, on_event=told.append) as engine:
        eventually(lambda: len(in_state(engine, State.DONE)) == 10, "others wait as well")
    assert told[0].kind == "started"
    assert "no job is started for 1 s: a container says nothing; next: look at it" in [one.message for one in told]


@pytest.mark.usefixtures("quick_retries")
def test_a_job_that_alone_never_gets_a_sandbox_is_not_graded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.breaker.backoff", lambda n, **_: 0.001)
    monkeypatch.setattr("minitango.retry.HELD_FOR", 0.2)
    with open_engine(tmp_path, scoring(0), sandbox=Partial(), workers=1) as engine:
        bad = engine.submit(submission("bad", b"bad"))
        eventually(lambda: bad.job().attempt > 0)
        assert engine.submit(submission("ada")).result(PATIENCE).score == 1
        with pytest.raises(JobDead, match="says nothing"):
            bad.result(PATIENCE)
        assert (bad.job().failures, bad.job().score, bad.job().outcome) == (3, None, None)
        assert bad.job().attempt >= 5 + 3


@pytest.mark.usefixtures("quick_retries")
def test_a_sandbox_that_is_away_burns_no_job_however_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.breaker.backoff", lambda n, **_: 0.001)
    monkeypatch.setattr("minitango.retry.HELD_FOR", 0.0)
    sandbox = Scripted(None, None, *(away() for _ in range(60)))
    with open_engine(tmp_path, scoring(0), sandbox=sandbox, workers=2) as engine:
        handles = engine.submit_many(submission(f"s{n}") for n in range(6))
        assert [handle.result(PATIENCE).score for handle in handles] == [1] * 6
        assert all(handle.job().failures == 0 for handle in handles)


# --- leases, limits, clocks -----------------------------------------------------------------------


def test_an_overdue_attempt_is_ended_and_is_a_failure_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.retry.backoff", lambda n, **_: 0.001)
    monkeypatch.setattr("minitango.breaker.backoff", lambda n, **_: 0.001)
    monkeypatch.setattr("minitango.pool.SAFETY_POLL", 0.01)
    monkeypatch.setattr("minitango.pool.OVERDUE_GRACE", -NEVER)
    gate = Gate()  # that nobody opens
    with open_engine(tmp_path, gate, workers=1) as engine:
        handle = engine.submit(submission())
        with pytest.raises(JobDead, match="did not end in time"):
            handle.result(PATIENCE)
        job = handle.job()
        assert (job.failures, job.attempt, job.outcome, job.score) == (3, 3, None, None)
        assert [a.failure.id for a in engine.store.attempts(job.id) if a.failure] == ["sandbox_overdue"] * 3


def test_an_attempt_within_its_time_is_let_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is overdue by its steps' own limits and the grace together, not by either."""
    ended = prepare(tmp_path)
    monkeypatch.setattr("minitango.pool.OVERDUE_GRACE", 0.0)  # the step's own limit is 5 s
    gate = Gate(4)
    with open_engine(tmp_path, gate, workers=1) as engine:
        rounds = Rounds(engine, ended, monkeypatch)
        handle = engine.submit(submission())
        gate.wait_entered()
        rounds.pass_by()
        gate.open.set()
        assert handle.result(PATIENCE).score == 4
        assert handle.job().attempt == 1


class Pulling(FakeSandbox):
    """A sandbox whose image takes its time."""

    def __init__(self) -> None:
        super().__init__(scoring(4))
        self.asked = threading.Event()
        self.there = threading.Event()

    def prepare(self, image: str, folder: Any = ()) -> str:
        self.asked.set()
        assert self.there.wait(PATIENCE)
        return ""


def test_the_time_that_an_image_takes_is_not_the_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = prepare(tmp_path)
    monkeypatch.setattr("minitango.pool.OVERDUE_GRACE", -NEVER)  # overdue as soon as it has begun
    sandbox = Pulling()
    with Engine.open(tmp_path, workers=1, sandbox=sandbox) as engine:
        rounds = Rounds(engine, ended, monkeypatch)
        handle = engine.submit(submission())
        assert sandbox.asked.wait(PATIENCE)
        rounds.pass_by()
        assert engine._grading is not None
        assert [running.stop.why for running in engine._grading._pool._work.running.values()] == [None]
        assert handle.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            handle.result(PATIENCE)
        assert (handle.job().attempt, handle.job().failures) == (1, 0)
        sandbox.there.set()


def test_leases_are_extended(tmp_path: Path) -> None:
    gate = Gate()
    with open_engine(tmp_path, gate, lease_for=0.06) as engine:
        handle = engine.submit(submission())
        gate.wait_entered()
        first = handle.job().expires
        assert first is not None
        seen: list[float] = []

        def later() -> bool:
            expires = handle.job().expires
            assert expires is not None
            seen.append(expires)
            return expires > first

        eventually(later, "the lease was never extended")
        assert seen[-1] <= engine.store.now() + 0.06
        gate.open.set()
        assert handle.result(PATIENCE).score == 10
        assert handle.job().attempt == 1


def test_a_lease_lost_at_its_extension_ends_the_attempt(tmp_path: Path) -> None:
    gate = Gate(3)
    runs: list[FakeRun] = []

    def inside(run: FakeRun) -> End:
        runs.append(run)
        return gate(run)

    with open_engine(tmp_path, inside, workers=1, lease_for=0.06) as engine:
        handle = engine.submit(submission())
        gate.wait_entered()
        engine.store.recover()  # as another engine would, had it proven this one dead
        assert runs[0].killed.wait(PATIENCE), "the attempt went on though its job was another's"
        gate.wait_entered()
        gate.open.set()
        assert handle.result(PATIENCE).score == 3
        assert [a.ended_by for a in engine.store.attempts(handle.id)] == ["recover", "finish"]


def test_a_job_that_backs_off_starts_when_it_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_polls: dict[str, float]
) -> None:
    monkeypatch.setattr("minitango.retry.backoff", lambda n, **_: 0.3)
    sandbox = Scripted(SandboxFailed("broke"))
    with open_engine(tmp_path, scoring(0), sandbox=sandbox, workers=1, **no_polls) as engine:
        handle = engine.submit(submission())
        assert handle.result(PATIENCE).score == 1
        failed, again = engine.store.attempts(handle.id)
        assert failed.ended is not None
        assert again.started >= failed.ended + 0.3


def test_when_the_next_is_due_is_not_asked_while_all_consumers_are_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_polls: dict[str, float]
) -> None:
    """A time that is past, of a job that nobody can begin, would have the producer go round and round."""
    monkeypatch.setattr("minitango.retry.backoff", lambda n, **_: 0.05)
    ended, gate = prepare(tmp_path), Gate()

    def inside(run: FakeRun) -> End:
        if who(run) == "breaks":
            raise SandboxFailed("broke")
        return gate(run)

    with open_engine(tmp_path, inside, workers=1, paused=True, **no_polls) as engine:
        breaks = engine.submit(submission("ada", b"breaks"))
        engine.submit(submission("bob", b"waits"))
        engine.resume()
        gate.wait_entered()
        due = engine.store.get(breaks.id).due
        assert due is not None
        eventually(lambda: engine.store.now() > due)
        asked: list[float | None] = []
        real = engine.store.next_due

        def counted() -> float | None:
            asked.append(real())
            return asked[-1]

        monkeypatch.setattr(engine.store, "next_due", counted)
        rounds = Rounds(engine, ended, monkeypatch)
        rounds.pass_by()
        assert asked == []
        gate.open.set()
        eventually(lambda: asked != [])


# --- claimed ahead --------------------------------------------------------------------------------


class ShortThenLong:
    """Sandboxes in which attempts are over at once, until those with the text `long` come, which wait."""

    def __init__(self) -> None:
        self.gate = Gate()

    def __call__(self, run: FakeRun) -> End:
        return self.gate(run) if who(run).startswith("long") else scoring(1)(run)


def known_to_be_short(engine: Engine) -> None:
    """Have so many attempts end that more are claimed than there are consumers."""
    for handle in engine.submit_many([submission(f"s{n}", b"short %d" % n) for n in range(300)]):
        handle.result(PATIENCE)


def running_now(engine: Engine) -> int:
    return engine.store.counts()[State.RUNNING]


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts of these tests are short on any machine."""
    monkeypatch.setattr("minitango.workqueue.AHEAD", 1.0)


@pytest.mark.usefixtures("ahead")
def test_short_jobs_are_claimed_ahead_and_put_back_when_no_consumer_comes(tmp_path: Path) -> None:
    inside = ShortThenLong()
    with open_engine(tmp_path, inside, workers=2) as engine:
        known_to_be_short(engine)
        handles = engine.submit_many([submission(f"l{n}", b"long %d" % n) for n in range(8)])
        eventually(lambda: running_now(engine) > 2, "nothing was claimed ahead")
        eventually(lambda: running_now(engine) == 2, "what no consumer came for was kept")
        jobs = {job.id: job for job in engine.jobs() if job.state is State.QUEUED}
        assert len(jobs) == 6
        assert {job.failures + job.interruptions for job in jobs.values()} == {0}
        again = engine.submit(submission("late", b"short and late"))
        rounds = [running_now(engine) for _ in range(20) if not threading.Event().wait(0.02)]
        assert set(rounds) == {2}, "they would only be put back again"
        inside.gate.open.set()
        assert [handle.result(PATIENCE).score for handle in (*handles, again)] == [10] * 8 + [1]
        assert all(a.ended_by in ("finish", "release") for handle in handles for a in engine.store.attempts(handle.id))


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("how", ["stop", "pause", "drain", "cancel"])
def test_what_waits_for_a_consumer_goes_back_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr("minitango.workqueue.STALE", NEVER)
    inside = ShortThenLong()
    with open_engine(tmp_path, inside, workers=2) as engine:
        known_to_be_short(engine)
        handles = engine.submit_many([submission(f"l{n}", b"long %d" % n) for n in range(8)])
        eventually(lambda: running_now(engine) > 2)
        inside.gate.wait_entered()
        inside.gate.wait_entered()
        if how == "cancel":
            for handle in handles[2:]:
                handle.cancel()
            going = engine._grading._pool._work.running  # type: ignore[union-attr]
            eventually(lambda: sum(one.stop.why is None for one in list(going.values())) == 2)
            inside.gate.open.set()
            eventually(lambda: engine.store.counts()[State.CANCELLED] == 6)
            assert [handle.result(PATIENCE).score for handle in handles[:2]] == [10, 10]
            return
        if how == "pause":
            engine.pause()
        elif how == "drain":
            engine.store.drain(engine.node)
            engine._grading.wake(changed=True)  # type: ignore[union-attr]
        else:
            engine.request_stop()
        eventually(lambda: running_now(engine) == 2, "they wait for a consumer, and nobody else may have them")
        assert engine.store.counts()[State.QUEUED] == 6
        inside.gate.open.set()
        if how in ("pause", "drain"):
            engine.resume()
            engine.store.drain(engine.node, False)
            engine._grading.wake(changed=True)  # type: ignore[union-attr]
            assert [handle.result(PATIENCE).score for handle in handles] == [10] * 8
    if how == "stop":
        with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox()) as engine:
            assert engine.store.counts()[State.DONE] == 302, "those that ran had their time"
            assert engine.store.counts()[State.QUEUED] == 6


@pytest.mark.usefixtures("ahead")
def test_a_sandbox_that_fails_is_given_none_of_those_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_polls: dict[str, float]
) -> None:
    monkeypatch.setattr("minitango.retry.backoff", lambda n, **_: NEVER)
    monkeypatch.setattr("minitango.workqueue.STALE", NEVER)
    gone = threading.Event()
    tried: list[str] = []

    def inside(run: FakeRun) -> End:
        if who(run).startswith("short"):
            return scoring(1)(run)
        tried.append(who(run))
        gone.wait(PATIENCE)
        raise SandboxUnavailable("it is gone", hint="look", id="sandbox_gone")

    with open_engine(tmp_path, inside, workers=1, **no_polls) as engine:
        known_to_be_short(engine)
        engine.submit_many([submission(f"l{n}", b"long %d" % n) for n in range(6)])
        eventually(lambda: running_now(engine) > 1)
        gone.set()
        eventually(lambda: running_now(engine) == 0)
        assert len(tried) == 1


# --- start and stop -------------------------------------------------------------------------------


def test_live_output_of_a_dead_engine_is_cleared_at_the_start(tmp_path: Path) -> None:
    from minitango.output import live_path

    left = live_path(tmp_path, "deadbeef00")
    left.parent.mkdir()
    left.write_bytes(b"half a line")
    with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox()):
        assert left.exists(), "an engine that only watches removes nothing"
    with open_engine(tmp_path, scoring(1)):
        assert not left.exists()


def test_who_did_nothing_stops_without_an_error_though_its_store_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim of which nobody knows whether it was made: our silence tells."""
    monkeypatch.setattr("minitango.pool.GIVE_UP", 0.3)
    engine = open_engine(tmp_path, scoring(1))
    tried = threading.Event()

    def fail(*_: Any, **__: Any) -> Any:
        tried.set()
        raise StoreError("nobody answers", id="store_unreachable")

    monkeypatch.setattr(engine.store, "unheard", True, raising=False)
    monkeypatch.setattr(engine.store, "exchange", fail)
    engine._grading.wake()  # type: ignore[union-attr]
    assert tried.wait(PATIENCE)
    begun = time.monotonic()
    in_time(lambda: engine.stop(grace=0))
    assert time.monotonic() - begun < 3.0
    in_time(engine.wait)
    assert engine.error is None


def test_a_stop_gives_up_on_a_store_that_fails_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.pool.GIVE_UP", 0.01)
    gate = Gate()
    events: list[Event] = []
    engine = open_engine(tmp_path, gate, on_event=events.append)
    handle = engine.submit(submission())
    gate.wait_entered()

    def fail(*_: Any, **__: Any) -> Any:
        raise StoreError("the disk is on fire", hint="put it out", id="store_full")  # which alone would be waited out

    monkeypatch.setattr(engine.store, "exchange", fail)
    gate.open.set()
    in_time(lambda: engine.stop(grace=0))
    assert isinstance(engine.error, StoreError)
    with pytest.raises(EngineStopped, match="on fire"):
        handle.result(0)
    with pytest.raises(EngineStopped) as caught:
        in_time(engine.wait)
    assert caught.value.id == "engine_stopped"
    assert caught.value.__cause__ is engine.error
    assert (caught.value.exit_code, caught.value.hint) == (3, "put it out")
    assert "StoreError(" not in str(caught.value)
    assert "crashed" not in {event.kind for event in events}, "it was told to stop"
    said = "what was graded is not recorded, and is graded again: the disk is on fire; next: put it out"
    assert (events[-1].kind, events[-1].message) == ("store_trouble", said)
    with open_engine(tmp_path, scoring(2)) as after:  # and nothing is lost
        assert after.job(handle.id).result(PATIENCE).score == 2


def test_a_stop_tries_to_record_for_as_long_as_it_would_have_waited_for_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minitango.pool.GIVE_UP", 0.01)
    engine = open_engine(tmp_path, scoring(1), paused=True)
    handle = engine.submit(submission())
    real, tries = engine.store.exchange, 0

    def fail(acks: Any = (), **more: Any) -> Any:
        nonlocal tries
        tries += bool(acks)
        if acks and tries < 4:
            raise StoreError("nobody answers", id="store_unreachable")
        return real(acks, **more)

    monkeypatch.setattr(engine.store, "exchange", fail)
    engine.resume()
    eventually(lambda: tries > 0)
    in_time(lambda: engine.stop(grace=PATIENCE))
    assert engine.error is None
    assert handle.result(0).score == 1


def test_when_a_thread_dies_what_runs_is_ended_and_taken_up_by_the_next_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would record what became of it: it must not go on for as long as it may."""
    gate, runs = Gate(), list[FakeRun]()

    def inside(run: FakeRun) -> End:
        runs.append(run)
        return gate(run)

    engine = open_engine(tmp_path, inside)
    handle = engine.submit(submission())
    gate.wait_entered()

    def die() -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(engine._grading._pool._observer, "changed", die)  # type: ignore[union-attr]
    engine._grading.wake(changed=True)  # type: ignore[union-attr]
    assert runs[0].killed.wait(PATIENCE), "it goes on"
    with pytest.raises(EngineStopped, match="a mistake of ours"):
        in_time(engine.wait)
    in_time(lambda: engine.stop(grace=PATIENCE))
    with open_engine(tmp_path, scoring(2)) as after:
        assert after.job(handle.id).result(PATIENCE).score == 2
        assert [one.ended_by for one in after.store.attempts(handle.id)] == ["recover", "finish"]


def test_who_waits_for_a_queue_to_be_empty_is_woken_by_the_last_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = {name: Gate() for name in ("a", "b")}
    woken: queue.SimpleQueue[set[str]] = queue.SimpleQueue()
    with open_engine(tmp_path, lambda run: gates[who(run)](run)) as engine:
        monkeypatch.setattr(engine._observer, "idle", lambda: woken.put(in_state(engine, State.DONE)))
        first, last = engine.submit(submission("a", b"a")), engine.submit(submission("b", b"b"))
        for gate in gates.values():
            gate.wait_entered()
        gates["a"].open.set()
        assert first.result(PATIENCE).score == 10
        gates["b"].open.set()
        assert last.result(PATIENCE).score == 10
        assert woken.get(timeout=PATIENCE) == {"a", "b"}, "not while one runs"


def test_what_does_not_end_when_it_is_put_back_has_its_sandbox_taken_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minitango.pool.LINGER", 0.0)
    begun, closed, ended = (threading.Event() for _ in range(3))

    class Stubborn(FakeSandbox):
        def close(self) -> None:
            closed.set()
            super().close()

    def inside(run: FakeRun) -> End:
        begun.set()
        assert run.killed.wait(PATIENCE)  # which is of no use
        if closed.wait(PATIENCE):
            ended.set()
        raise SandboxFailed("it was closed")

    engine = open_engine(tmp_path, inside, sandbox=Stubborn(inside))
    engine.submit(submission())
    assert begun.wait(PATIENCE)
    in_time(lambda: engine.stop(grace=0))
    assert ended.is_set(), "it was waited for, and nothing ended it"
    with Engine.open(tmp_path, workers=0) as after:
        (job,) = after.jobs()
        assert (job.state, job.failures, job.interruptions) == (State.QUEUED, 0, 0)


def test_what_is_claimed_while_a_stop_is_asked_for_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = FakeSandbox(scoring(1))
    engine = open_engine(tmp_path, scoring(1), sandbox=sandbox, paused=True)
    handles = engine.submit_many([submission(f"s{n}") for n in range(2)])
    engine.preflight(assignment())
    opened, real = sandbox.opened, engine.store.exchange

    def exchange(*args: Any, **more: Any) -> Any:
        out = real(*args, **more)
        if out.leases:
            engine.request_stop()
        return out

    monkeypatch.setattr(engine.store, "exchange", exchange)
    engine.resume()
    in_time(engine.wait)
    engine.stop()
    assert sandbox.opened == opened, "nothing is begun once a stop was asked for"
    with Engine.open(tmp_path, workers=0) as after:
        for handle in handles:
            (attempt,) = after.store.attempts(handle.id)
            assert attempt.ended_by == "release"
            assert after.job(handle.id).job().state is State.QUEUED


@pytest.mark.parametrize(("grace", "ends"), [(0.0, False), (1.3, False), (PATIENCE, True)])
def test_a_stop_in_a_long_outage_gives_the_grace_and_tries_as_long_as_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grace: float, ends: bool
) -> None:
    monkeypatch.setattr("minitango.pool.GIVE_UP", 3.0)
    gate, long_is_over = Gate(), threading.Event()
    away, back, tries = threading.Event(), threading.Event(), threading.Semaphore(0)
    begun = threading.Event()

    def inside(run: FakeRun) -> End:
        if b"long" not in run.read("/job/answer.py"):
            begun.set()
            assert away.wait(PATIENCE)
            return scoring(1)(run)
        end = gate(run)
        long_is_over.set()
        return end

    engine = open_engine(tmp_path, inside)
    real = engine.store.exchange

    def exchange(*args: Any, **more: Any) -> Any:
        if away.is_set() and not back.is_set():
            tries.release()
            raise StoreError("it is away", id="store_unreachable")
        return real(*args, **more)

    def tried() -> None:
        while tries.acquire(blocking=False):
            pass
        assert tries.acquire(timeout=PATIENCE), "it is not tried any more"

    monkeypatch.setattr(engine.store, "exchange", exchange)
    long, short = engine.submit(submission("long", b"long")), engine.submit(submission("short"))
    gate.wait_entered()
    assert begun.wait(PATIENCE)
    away.set()
    tried()
    time.sleep(3.2)  # for longer than a stop tries
    stop = threading.Thread(target=engine.stop, kwargs={"grace": grace})
    stop.start()
    if ends:
        time.sleep(3.2)
        gate.open.set()
    assert long_is_over.wait(PATIENCE)
    tried()
    back.set()
    stop.join(PATIENCE)
    assert engine.error is None
    with Engine.open(tmp_path, workers=0) as after:
        assert after.job(short.id).job().state is State.DONE
        assert after.job(long.id).job().state is (State.DONE if ends else State.QUEUED)
        assert after.job(long.id).job().interruptions == 0


# --- the disk -------------------------------------------------------------------------------------


def test_nobody_is_told_of_a_result_before_it_is_on_the_disk_and_others_run_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(run: FakeRun) -> End:
        ran.put(run.spec.token)
        return scoring(1)(run)

    with open_engine(tmp_path, run, workers=1) as engine:
        syncing, disk, sync = threading.Event(), threading.Event(), engine.store.sync

        def slow() -> None:
            syncing.set()
            assert disk.wait(PATIENCE)
            sync()

        monkeypatch.setattr(engine.store, "sync", slow)
        engine.pause()
        eventually(lambda: engine._grading is not None and engine._grading.resting)
        first, second = engine.submit(submission("one")), engine.submit(submission("two"))
        engine.resume()
        ran.get(timeout=PATIENCE)
        assert syncing.wait(PATIENCE)
        ran.get(timeout=PATIENCE)  # the second one's attempt did not wait for the first one's disk
        assert not first.done()
        disk.set()
        assert first.result(PATIENCE).score == second.result(PATIENCE).score == 1


def test_a_result_whose_disk_failed_is_told_once_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_engine(tmp_path, scoring(1)) as engine:
        told: list[Event] = []
        engine.subscribe(told.append)
        failures, sync = [StoreError("the disk was pulled", id="store_io")] * 2, engine.store.sync

        def fail() -> None:
            if failures:
                raise failures.pop()
            sync()

        monkeypatch.setattr(engine.store, "sync", fail)
        handle = engine.submit(submission())
        assert handle.result(PATIENCE).score == 1
        in_time(engine.drain)
    assert not failures
    kinds = [event.kind for event in told]
    assert kinds.count("done") == 1
    assert kinds.index("store_trouble") < kinds.index("resumed") < len(kinds)
    assert kinds.index("store_trouble") < kinds.index("done")


def test_a_result_whose_disk_failed_is_told_though_the_engine_is_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with open_engine(tmp_path, scoring(1), on_event=lambda event: told.append(event.kind)) as engine:
        failures, sync = [StoreError("the disk was pulled", id="store_io")], engine.store.sync

        def fail() -> None:
            if failures:
                engine.request_stop()
                raise failures.pop()
            sync()

        monkeypatch.setattr(engine.store, "sync", fail)
        handle = engine.submit(submission())
        in_time(engine.wait)
        assert handle.result(0).score == 1
    assert not failures
    assert "done" in told


def test_what_others_changed_while_the_store_failed_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_polls: dict[str, float]
) -> None:
    """It is told of once."""
    with open_engine(tmp_path, scoring(1), **no_polls) as engine:
        looks: queue.SimpleQueue[bool] = queue.SimpleQueue()
        failures, changed = [StoreError("it is away", id="store_busy")] * 2, engine._observer.changed

        def fail() -> None:
            looks.put(bool(failures))
            if failures:
                raise failures.pop()
            changed()

        monkeypatch.setattr(engine._observer, "changed", fail)
        engine._grading.wake(changed=True)  # type: ignore[union-attr]
        assert [looks.get(timeout=PATIENCE) for _ in range(3)] == [True, True, False]
