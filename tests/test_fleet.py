"""Several engines as one sandbox: who gets the next box, who is left alone and tried again, and what becomes of jobs
meanwhile. With fakes; real Docker engines are in `tests/contract` and `tests/e2e/test_fleet.py`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from minitango import Engine, Event, JobDead, Outcome, SandboxFailed, SandboxUnavailable, State, Step, statedir
from minitango.breaker import Breaker
from minitango.errors import ConfigError
from minitango.job import Limits
from minitango.sandbox import BoxSpec, End, Guarantees, Mount, join_names, kind_asked, kind_of
from minitango.sandbox._named import Address, parse
from minitango.sandbox._roster import Roster
from minitango.sandbox.fleet import Fleet, Member
from minitango.testing import FakeBox, FakeRun, FakeSandbox, Inside
from tests.support import PATIENCE, Gate, assignment, eventually, refuse_threads, scoring, submission

SPEC = BoxSpec((Mount("/job", writable=True),), "/job")
GONE = SandboxUnavailable("the engine is gone", hint="start it", id="sandbox_gone")


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "engines", "counted"),
    [
        ("docker", [Address()], False),
        ("docker+unix:///a/b", [Address("unix:///a/b")], False),
        ("docker?slots=3", [Address("", 3)], True),
        ("docker+tcp://h:2376?slots=8", [Address("tcp://h:2376", 8)], True),
        (
            "docker+unix:///a, docker+tcp://h:2376?slots=8,docker+ssh://u@h",
            [Address("unix:///a"), Address("tcp://h:2376", 8), Address("ssh://u@h")],
            True,
        ),
        ("docker,docker+unix:///a", [Address(), Address("unix:///a")], True),
    ],
)
def test_a_name_says_which_engines(name: str, engines: list[Address], counted: bool) -> None:
    found = parse(name)
    assert (found.kind, list(found.engines), found.counted) == ("docker", engines, counted)
    assert kind_of(name) == kind_asked(name) == "docker"


@pytest.mark.parametrize(
    ("name", "id", "said"),
    [
        ("docker+unix:///a,bubblewrap", "sandbox_mixed", "bubblewrap cannot be one of several"),
        ("auto,docker", "sandbox_mixed", "auto cannot be one of several"),
        ("docker+unix:///a,docker+unix:///a?slots=2", "sandbox_name", "named twice"),
        ("docker,docker", "sandbox_name", "named twice"),
        ("docker+unix:///a,", "sandbox_name", "unknown sandbox ''"),
        ("docker+unix:///a?slots=0", "sandbox_name", "'0' boxes"),
        ("docker+unix:///a?slots=1001", "sandbox_name", "'1001' boxes"),
        ("docker+unix:///a?slots=many", "sandbox_name", "'many' boxes"),
        ("bubblewrap?slots=2", "sandbox_name", "unknown sandbox"),
        ("podman", "sandbox_name", "unknown sandbox 'podman'"),
        ("docker+nowhere", "sandbox_name", "unknown sandbox"),
    ],
)
def test_what_is_no_name(name: str, id: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Engine.open(tmp_path, sandbox=name)
    assert (caught.value.id, caught.value.exit_code) == (id, 2)
    assert said in caught.value.message
    assert caught.value.hint


def test_a_list_of_names_is_one_name() -> None:
    assert join_names(["docker+unix:///a", "docker+unix:///b?slots=2"]) == "docker+unix:///a,docker+unix:///b?slots=2"
    assert join_names("docker") == "docker"
    for wrong in ([], ["docker", 3], ["docker+unix:///a,docker+unix:///b"]):
        with pytest.raises(ConfigError) as caught:
            join_names(wrong)  # type: ignore[arg-type]
        assert caught.value.id == "sandbox_name"


# --- who gets the next box -------------------------------------------------------------------------


class FakeEngine(FakeSandbox):
    """An engine whose boxes come up unless it is told what to raise."""

    def __init__(self, inside: Inside | None = None, *, cores: int | None = None, **more: Any) -> None:
        super().__init__(inside, **more)
        self.cores = cores
        self.error: Exception | None = None
        self.open_now = 0
        self.most = 0
        self.trials = 0
        self.closed = False
        self.swept = 0
        self._counting = threading.Lock()

    def probe(self) -> Guarantees:
        self._check()
        return Guarantees("cgroup", "cgroup", "cgroup", "tmpfs", "namespace")

    def trial(self) -> None:
        self.trials += 1
        self._check()

    def open(self, spec: BoxSpec) -> FakeBox:
        self._check()
        with self._counting:
            self.open_now += 1
            self.most = max(self.most, self.open_now)
        engine = self

        class Box(FakeBox):
            def close(self) -> None:
                super().close()
                with engine._counting:
                    engine.open_now -= 1

        self.opened += 1
        return Box(spec, self._inside)

    def sweep(self) -> int:
        self.swept += 1
        return 1

    def close(self) -> None:
        self.closed = True

    def _check(self) -> None:
        if self.error is not None:
            raise self.error


def member(label: str, slots: int | None, engine: FakeEngine | None = None, *, rest: float = 0.01) -> Member:
    made = Member(label, engine or FakeEngine(), slots)
    made.breaker = Breaker(base=rest, most=rest)
    return made


def always() -> bool:
    return True


class Ward:
    """A roster on a clock that is moved by hand, and what it said of members that went away."""

    def __init__(self, *slots: int) -> None:
        self.now = 100.0
        self.away: list[tuple[str, float]] = []
        self.members = [member("abc"[n], each) for n, each in enumerate(slots)]
        for each in self.members:
            each.breaker = Breaker(base=1.0, most=30.0)
        self.roster = Roster(
            self.members, on_away=lambda who, rest: self.away.append((who.label, rest)), clock=lambda: self.now
        )

    def take(self, patience: float = 0.0) -> Any:
        seat = self.roster.take(always, patience=patience)
        assert seat is not None
        return seat

    def seated(self, number: int) -> str:
        return "".join(self.take().member.label for _ in range(number))


def test_the_engine_with_the_most_free_slots_is_next_and_equals_take_turns() -> None:
    ward = Ward(2, 4, 2)
    assert ward.roster.seats == 8
    assert ward.seated(8) == "bbacbacb"
    assert [each.used for each in ward.members] == [2, 4, 2]
    with pytest.raises(SandboxUnavailable) as caught:
        ward.take()
    assert caught.value.id == "sandbox_busy"
    assert ward.roster.seats == 8, "those that are taken are among them"


def test_equals_take_turns_where_little_is_asked_for() -> None:
    ward = Ward(2, 2)
    served = ""
    for _ in range(4):
        seat = ward.take()
        served += seat.member.label
        ward.roster.give_back(seat)
    assert served == "abab"


def test_slots_that_nobody_named_are_the_engines_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert member("a", 3, FakeEngine(cores=16)).slots == 3
    assert member("a", None, FakeEngine(cores=16)).slots == 16
    assert member("a", None, FakeEngine()).slots == 5, "before it was asked, as many as we have ourselves"


def test_who_finds_all_taken_waits_until_one_is_free() -> None:
    ward = Ward(1, 1)
    seats = [ward.take(), ward.take()]
    got: list[str] = []
    waiting = threading.Thread(target=lambda: got.append(ward.take(PATIENCE).member.label))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    ward.roster.give_back(seats[1])
    waiting.join(PATIENCE)
    assert got == [seats[1].member.label]


def test_who_waits_can_be_told_to_stop() -> None:
    ward = Ward(1)
    ward.take()
    wanted = threading.Event()
    got: list[Any] = []
    waiting = threading.Thread(
        target=lambda: got.append(ward.roster.take(lambda: not wanted.is_set(), patience=PATIENCE))
    )
    waiting.start()
    wanted.set()
    waiting.join(PATIENCE)
    assert got == [None]


def test_who_waits_for_a_sandbox_that_is_closed_hears_of_it() -> None:
    ward = Ward(1)
    ward.take()
    ward.roster.close()
    with pytest.raises(SandboxFailed, match="closed"):
        ward.take(PATIENCE)


# --- who is left alone -----------------------------------------------------------------------------


def test_an_engine_that_fails_is_left_alone_and_the_others_go_on() -> None:
    ward = Ward(4, 2)
    first, second = ward.take(), ward.take()
    assert (first.member.label, second.member.label) == ("a", "a")
    ward.roster.give_back(first, GONE)
    assert ward.away == [("a", 1.0)]
    assert ward.roster.seats == 1 + 2, "one box is still there"
    assert ward.seated(2) == "bb"
    ward.roster.give_back(second, GONE)
    assert ward.away == [("a", 1.0)], "what was under way when it failed says nothing new"


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (GONE, 1),
        (SandboxFailed("broke", id="sandbox_start"), 3),
        (SandboxUnavailable("no image", id="sandbox_registry"), None),
        (SandboxUnavailable("no network", id="sandbox_network"), None),
        (SandboxFailed("by its own job", id="box_killed"), None),
        (ConfigError("no such command", id="command"), None),
        (RuntimeError("ours"), None),
    ],
)
def test_what_speaks_against_an_engine(error: Exception, times: int | None) -> None:
    ward = Ward(8)
    for n in range(1, 5):
        if ward.members[0].away:
            break
        ward.roster.give_back(ward.take(), error)
        assert ward.members[0].away is (n == times)


def test_what_went_well_in_between_clears_it() -> None:
    ward = Ward(8)
    broke = SandboxFailed("broke", id="sandbox_start")
    for error in (broke, broke, None, broke, broke):
        ward.roster.give_back(ward.take(), error)
    assert not ward.away


def test_an_engine_that_is_back_gets_one_job_and_then_as_many_as_before() -> None:
    ward = Ward(3)
    old = ward.take()
    ward.roster.give_back(ward.take(), GONE)
    with pytest.raises(SandboxUnavailable, match="the engine is gone"):
        ward.take(PATIENCE)
    ward.roster.give_back(old)
    ward.now += 1.0
    with pytest.raises(SandboxUnavailable, match="the engine is gone"):
        ward.take(PATIENCE)  # its time is over, but nobody has tried it
    ward.roster.back(ward.members[0])
    assert ward.roster.seats == 1, "what had begun before it failed is no proof"
    seat = ward.take()
    with pytest.raises(SandboxUnavailable) as caught:
        ward.take()
    assert caught.value.id == "sandbox_busy"
    ward.roster.give_back(seat)
    assert ward.roster.seats == 3


def test_one_that_fails_its_one_job_rests_longer() -> None:
    ward = Ward(3)
    for rest in (1.0, 2.0, 4.0):
        ward.roster.give_back(ward.take(), GONE)
        assert ward.away[-1] == ("a", rest)
        ward.now += rest
        ward.roster.back(ward.members[0])
    ward.roster.give_back(ward.take(), GONE)
    ward.now += 8.0
    ward.roster.failed(ward.members[0], GONE)
    assert ward.roster.rest(ward.members[0]) == 16.0
    assert len(ward.away) == 4, "of a trial that failed nobody hears again"


def test_where_all_are_away_each_says_why() -> None:
    ward = Ward(1, 1)
    ward.roster.failed(ward.members[0], GONE)
    ward.roster.failed(ward.members[1], SandboxUnavailable("it hangs", hint="restart it", id="sandbox_hangs"))
    assert ward.roster.seats == 0
    with pytest.raises(SandboxUnavailable) as caught:
        ward.take(PATIENCE)
    assert caught.value.message == "none of the 2 Docker engines can be used: the engine is gone; it hangs"
    assert (caught.value.id, caught.value.hint) == ("sandbox_gone", "start it; or restart it")


# --- the fleet -------------------------------------------------------------------------------------


class Fleetly:
    """A fleet of fakes, and what it says."""

    def __init__(self, *engines: FakeEngine, slots: Sequence[int] = (2, 2)) -> None:
        self.engines = engines
        self.said: list[tuple[bool, str]] = []
        self.members = [member("ab"[n], slots[n], engine) for n, engine in enumerate(engines)]
        self.fleet = Fleet(self.members, rests=lambda resting, text: self.said.append((resting, text)))


@pytest.fixture
def make() -> Iterator[Callable[..., Fleetly]]:
    made: list[Fleetly] = []

    def make(*engines: FakeEngine, **more: Any) -> Fleetly:
        made.append(Fleetly(*engines, **more))
        return made[-1]

    yield make
    for each in made:
        each.fleet.close()


def test_an_engine_that_is_not_there_at_the_start_joins_later(make: Callable[..., Fleetly]) -> None:
    a, b = FakeEngine(), FakeEngine()
    b.error = GONE
    two = make(a, b)
    held = two.fleet.probe()
    assert (held.memory, held.disk) == ("cgroup", "tmpfs")
    assert held.notes == ("a: 2 jobs at once", "b: not used now: the engine is gone")
    assert two.fleet.seats == 2
    assert two.fleet.slots == 4
    assert two.said == [
        (True, "b is left alone for 0 s, and the other one goes on: the engine is gone; next: start it")
    ]
    eventually(lambda: b.trials > 1, "it was never tried again")
    b.error = None
    eventually(lambda: len(two.said) == 2, "it never came back")
    assert two.said[1] == (False, "b works again: one job is tried there, then as many as before")
    assert two.fleet.seats == 3
    eventually(lambda: b.swept == 1, "what it had left was never swept")
    assert two.fleet.probe().notes == ("a: 2 jobs at once", "b: 2 jobs at once")


def test_an_engine_for_whose_trial_there_is_no_thread_is_tried_with_a_job(
    make: Callable[..., Fleetly], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_threads(monkeypatch, "minitango trial of a")
    one = make(FakeEngine(), slots=(2,))
    one.fleet.probe()
    for error in (GONE, None):
        one.engines[0].error = error
        with contextlib.suppress(SandboxUnavailable), one.fleet.seat() as place:
            assert place is not None
            place.open(SPEC).close()
    assert one.fleet.seats == 2


def test_no_engine_at_the_start_is_no_sandbox(make: Callable[..., Fleetly]) -> None:
    a, b = FakeEngine(), FakeEngine()
    a.error = b.error = GONE
    two = make(a, b)
    with pytest.raises(SandboxUnavailable, match="none of the 2 Docker engines"):
        two.fleet.probe()
    assert two.said == []
    a.error = None
    assert two.fleet.probe().memory == "cgroup"


def test_an_address_that_can_be_none_is_an_error_whatever_the_others_do(make: Callable[..., Fleetly]) -> None:
    b = FakeEngine()
    b.error = ConfigError("no address", id="docker_url")
    with pytest.raises(ConfigError, match="no address"):
        make(FakeEngine(), b).fleet.probe()


def test_what_does_not_hold_on_one_engine_does_not_hold(
    make: Callable[..., Fleetly], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = FakeEngine(), FakeEngine()
    monkeypatch.setattr(a, "probe", lambda: Guarantees("cgroup", "none", "cgroup", "tmpfs", "namespace"))
    monkeypatch.setattr(b, "probe", lambda: Guarantees("none", "cgroup", "cgroup", "tmpfs", "namespace", ("weak",)))
    held = make(a, b).fleet.probe()
    assert (held.memory, held.pids, held.cpu) == ("none", "none", "cgroup")
    assert held.notes[-1] == "b: weak"


def test_a_box_holds_its_slot_until_it_is_closed(make: Callable[..., Fleetly]) -> None:
    two = make(FakeEngine(), FakeEngine(), slots=(1, 1))
    boxes = [two.fleet.open(SPEC), two.fleet.open(SPEC)]
    assert [engine.open_now for engine in two.engines] == [1, 1]
    third: list[Any] = []
    waiting = threading.Thread(target=lambda: third.append(two.fleet.open(SPEC)))
    waiting.start()
    boxes[0].close()
    boxes[0].close()
    waiting.join(PATIENCE)
    third[0].close()
    boxes[1].close()
    assert [engine.most for engine in two.engines] == [1, 1]
    assert [each.used for each in two.members] == [0, 0], "a second close gives nothing back"


def test_a_box_that_cannot_be_closed_gives_its_slot_back(
    make: Callable[..., Fleetly], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(box: FakeBox) -> None:
        raise SandboxFailed("it does not end", id="sandbox_hangs")

    one = make(FakeEngine(), slots=(1,))
    box = one.fleet.open(SPEC)
    with monkeypatch.context() as patch:
        patch.setattr(FakeBox, "close", failing)
        with pytest.raises(SandboxFailed, match="it does not end"):
            box.close()
    assert [each.used for each in one.members] == [0]
    one.fleet.open(SPEC).close()


def test_a_box_that_fails_speaks_against_its_engine(make: Callable[..., Fleetly]) -> None:
    def lost(run: FakeRun) -> End:
        raise GONE

    two = make(FakeEngine(lost), FakeEngine(lost))
    box = two.fleet.open(SPEC)
    with pytest.raises(SandboxUnavailable):
        box.run(["true"], env={}, output=lambda _: None)
    box.close()
    assert [each.failures for each in two.members] == [1, 0]


def test_a_box_of_an_image_is_opened_where_it_was_prepared(make: Callable[..., Fleetly]) -> None:
    a, b = FakeEngine(images={"x": "sha256:a"}), FakeEngine(images={"x": "sha256:b"})
    two = make(a, b)
    digest = two.fleet.prepare("x")
    assert digest == "sha256:a"
    boxes = [two.fleet.open(BoxSpec(SPEC.mounts, "/job", image=digest)) for _ in range(2)]
    assert (a.opened, b.opened) == (2, 0)
    for box in boxes:
        box.close()
    assert two.fleet.image_digest("x") == "sha256:a"
    assert two.fleet.find_image("x") == "sha256:a"


def test_close_ends_all(make: Callable[..., Fleetly]) -> None:
    a, b = FakeEngine(), FakeEngine()
    b.error = GONE
    two = make(a, b)
    two.fleet.probe()
    two.fleet.close()
    assert a.closed
    assert b.closed
    with pytest.raises(SandboxFailed):
        two.fleet.open(SPEC)
    eventually(lambda: not any("trial of b" in each.name for each in threading.enumerate()), "it is tried for ever")


def test_the_end_of_an_engine_that_hangs_is_not_waited_for_long(
    make: Callable[..., Fleetly], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minitango.sandbox.fleet._LINGER", 0.01)
    go = threading.Event()

    class Slow(FakeEngine):
        def close(self) -> None:
            assert go.wait(PATIENCE)
            super().close()

    a, b = Slow(), Slow()
    b.error = GONE
    two = make(a, b)
    two.fleet.probe()
    closing = threading.Thread(target=two.fleet.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive(), "one that is well ends in good order"
    alone = make(b, slots=(1,))
    alone.members[0].away = True
    alone.fleet.close()
    assert not b.closed
    go.set()
    closing.join(PATIENCE)
    assert a.closed


# --- jobs ------------------------------------------------------------------------------------------


def test_jobs_go_on_where_an_engine_dies_and_nobody_is_charged(tmp_path: Path, make: Callable[..., Fleetly]) -> None:
    gate = Gate()
    two = make(FakeEngine(gate), FakeEngine(gate))
    events: list[Event] = []
    with Engine.open(tmp_path, sandbox=two.fleet, on_event=events.append) as engine:
        handles = engine.submit_many(submission(f"s{n}") for n in range(12))
        for _ in range(4):
            assert gate.entered.acquire(timeout=PATIENCE)
        assert engine.store.nodes()[0].slots == 4, "as many workers as there are slots"
        two.engines[1].error = GONE
        gate.open.set()
        assert all(handle.result(PATIENCE).outcome is Outcome.GRADED for handle in handles)
        assert {handle.result().sandbox for handle in handles} == {"docker"}
        jobs = engine.jobs()
        ends = [attempt.ended_by for job in jobs for attempt in engine.store.attempts(job.id)]
    assert {job.state for job in jobs} == {State.DONE}
    assert sum(job.failures for job in jobs) == 0
    assert ends.count("finish") == 12
    assert ends.count("fail") <= 2, "no job is spent on finding out whether it is back"
    assert not [event for event in events if event.kind == "paused"], "the queue does not rest for one engine"
    assert [engine.most for engine in two.engines] == [2, 2]


def test_no_more_is_claimed_than_the_engines_that_work_can_take(tmp_path: Path, make: Callable[..., Fleetly]) -> None:
    gate = Gate()
    b = FakeEngine(gate)
    b.error = GONE
    two = make(FakeEngine(gate), b)
    two.fleet.probe()
    with Engine.open(tmp_path, sandbox=two.fleet) as engine:
        handles = engine.submit_many(submission(f"s{n}") for n in range(6))
        for _ in range(2):
            assert gate.entered.acquire(timeout=PATIENCE)
        assert [job.state for job in engine.jobs()].count(State.RUNNING) == 2
        gate.open.set()
        for handle in handles:
            handle.result(PATIENCE)


def test_a_preflight_takes_another_engine_where_one_fails(tmp_path: Path, make: Callable[..., Fleetly]) -> None:
    a, b = FakeEngine(scoring(1)), FakeEngine(scoring(1))
    two = make(a, b)
    two.fleet.probe()
    a.error = GONE
    with Engine.open(tmp_path, sandbox=two.fleet) as engine:
        engine.preflight(assignment())
        b.error = GONE
        with pytest.raises(SandboxUnavailable, match="gone"):
            engine.preflight(assignment("other"))


def test_an_attempt_stays_on_its_engine_and_names_the_image_that_it_had(
    tmp_path: Path, make: Callable[..., Fleetly]
) -> None:
    a, b = (FakeEngine(scoring(1), images={"x": f"sha256:{name}", "y": f"sha256:{name}y"}) for name in "ab")
    two = make(a, b)
    steps = tuple(
        Step(name=name, command=("go",), image=image, limits=Limits(wall=5)) for name, image in (("1", "x"), ("2", "y"))
    )
    with Engine.open(tmp_path, sandbox=two.fleet) as engine:
        handles = engine.submit_many(submission(f"s{n}", of=assignment(steps=steps)) for n in range(8))
        results = [handle.result(PATIENCE) for handle in handles]
        again = engine.submit(submission("s0", of=assignment(steps=steps)))
        assert again.id == handles[0].id, "which engine it was makes no other work of it"
    found = {tuple(step.image_digest for step in result.steps) for result in results}
    assert found == {("sha256:a", "sha256:ay"), ("sha256:b", "sha256:by")}
    assert {result.image_digest for result in results} == {"sha256:ay", "sha256:by"}
    assert statedir.known_images(tmp_path, "docker") == {"x": ("sha256:a",) * 2, "y": ("sha256:ay",) * 2}


@pytest.mark.parametrize("error", [None, SandboxUnavailable("no registry", hint="look", id="sandbox_registry")])
def test_an_image_that_one_engine_has_not_is_no_matter_where_another_has_it(
    error: Exception | None, tmp_path: Path, make: Callable[..., Fleetly], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither do the assignment's jobs wait for it, nor do they die of it; those that begin there go on elsewhere."""
    a, b = FakeEngine(scoring(1), images={"x": "sha256:a"}), FakeEngine(scoring(1), images={})
    looked: list[str] = []
    prepare = b.prepare

    def fail(image: str, folder: Any = ()) -> str:
        looked.append(image)
        if error is not None:
            raise error
        return prepare(image, folder)

    monkeypatch.setattr(b, "prepare", fail)
    two = make(a, b)
    step = Step(command=("go",), image="x", limits=Limits(wall=5))
    events: list[Event] = []
    with Engine.open(tmp_path, sandbox=two.fleet, on_event=events.append) as engine:
        handles = engine.submit_many(submission(f"s{n}", of=assignment(steps=(step,))) for n in range(8))
        assert {handle.result(PATIENCE).image_digest for handle in handles} == {"sha256:a"}
        assert {(job.attempt, job.failures) for job in engine.jobs()} == {(1, 0)}
        said = [event.message for event in events if event.kind == "image"]
        assert len(said) == 1
        assert said[0].startswith("hw is not graded on ")
        assert len(looked) <= 2, "it is left out for a while"
    assert not [event for event in events if event.kind == "paused"]


def test_what_no_engine_has_is_the_assignments_own_trouble(tmp_path: Path, make: Callable[..., Fleetly]) -> None:
    two = make(FakeEngine(images={}), FakeEngine(images={}))
    step = Step(command=("go",), image="x", limits=Limits(wall=5))
    events: list[Event] = []
    with Engine.open(tmp_path, sandbox=two.fleet, on_event=events.append) as engine:
        with pytest.raises(ConfigError) as caught:
            engine.preflight(assignment(steps=(step,)))
        assert caught.value.id == "image_missing"
        with pytest.raises(JobDead):
            engine.submit(submission(of=assignment(steps=(step,)))).result(PATIENCE)
    assert not [event for event in events if event.kind == "image"]


def test_a_job_for_which_there_is_no_place_goes_back_as_if_nothing_had_been(
    tmp_path: Path, make: Callable[..., Fleetly], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minitango.sandbox.fleet.PATIENCE", 0.02)
    two = make(FakeEngine(scoring(1)), FakeEngine(scoring(1)), slots=(1, 1))
    taken = [two.fleet.open(SPEC), two.fleet.open(SPEC)]
    events: list[Event] = []
    with Engine.open(tmp_path, sandbox=two.fleet, on_event=events.append) as engine:
        handle = engine.submit(submission())
        eventually(lambda: engine.jobs()[0].attempt > 2, "it never came back")
        for box in taken:
            box.close()
        assert handle.result(PATIENCE).score == 1
    assert {event.kind for event in events if event.job is not None} == {"started", "released", "done"}


def test_a_fleet_that_is_all_away_starts_nothing_until_one_is_back(
    tmp_path: Path, make: Callable[..., Fleetly]
) -> None:
    a, b = FakeEngine(scoring(1)), FakeEngine(scoring(1))
    two = make(a, b)
    two.fleet.probe()
    a.error = b.error = GONE
    with Engine.open(tmp_path, sandbox=two.fleet) as engine:
        handles = engine.submit_many(submission(f"s{n}") for n in range(6))
        eventually(lambda: two.fleet.seats == 0, "they were never left alone")
        assert "no engine is left, no job is started" in two.said[-1][1]
        tried = a.trials, b.trials
        eventually(lambda: a.trials > tried[0] + 3 and b.trials > tried[1] + 3, "they were never tried")
        before = sum(job.attempt for job in engine.jobs())
        assert before <= 4, "trials cost no attempt"
        b.error = None
        assert all(handle.result(PATIENCE).score == 1 for handle in handles)
        assert sum(job.failures for job in engine.jobs()) == 0
        assert (a.opened, b.opened > 0) == (0, True)


def test_a_job_that_breaks_boxes_is_charged_all_the_same(tmp_path: Path, make: Callable[..., Fleetly]) -> None:
    def broken(run: FakeRun) -> End:
        raise SandboxFailed("it broke", id="box_killed")

    two = make(FakeEngine(broken), FakeEngine(broken))
    with Engine.open(tmp_path, sandbox=two.fleet) as engine, pytest.raises(JobDead):
        engine.submit(submission()).result(PATIENCE)
