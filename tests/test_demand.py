"""Which limits have to hold: what is refused where they do not, and what is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from minitango import Engine
from minitango.cli import grading
from minitango.errors import ConfigError, SandboxUnavailable
from minitango.sandbox import LIMITS, Guarantees, Sandbox, _choose, demanded, insist, weak
from minitango.sandbox.fleet import Fleet, Member
from minitango.testing import FakeSandbox

ALL = Guarantees("cgroup", "cgroup", "cgroup", "tmpfs", "namespace")
WATCHED = Guarantees("watched", "rlimit", "watched", "tmpfs", "namespace")
NO_MEMORY = Guarantees("none", "cgroup", "cgroup", "tmpfs", "namespace", notes=("a rootless engine needs cgroup v2",))


class Holding(FakeSandbox):
    """A sandbox that holds so much."""

    def __init__(self, held: Guarantees, name: str = "docker") -> None:
        super().__init__()
        self.held = held
        self.name = name
        self.cores = 1
        self.closed = False

    def probe(self) -> Guarantees:
        return self.held

    def trial(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def test_what_is_no_limit() -> None:
    assert demanded(["pids", "memory", "pids"]) == ("memory", "pids")
    assert demanded(LIMITS) == LIMITS
    for wrong, hint in (("memroy", "did you mean memory?"), ("x", "use some of: memory, pids, cpu, disk, network")):
        with pytest.raises(ConfigError) as caught:
            demanded(["pids", wrong])
        assert (caught.value.id, caught.value.hint) == ("require", hint)


def test_an_engine_refuses_a_sandbox_that_does_not_hold_what_is_required(tmp_path: Path) -> None:
    sandbox = Holding(NO_MEMORY)
    with pytest.raises(SandboxUnavailable) as caught:
        Engine.open(tmp_path / "a", sandbox=sandbox, require=["memory", "network"])
    assert caught.value.id == "sandbox_weak"
    assert caught.value.message == "in docker here the limit on memory does not hold, and require says that it must"
    assert caught.value.hint.startswith("a rootless engine needs cgroup v2; or grade in another sandbox")
    assert sandbox.closed
    for require in (["network", "pids"], []):
        Engine.open(tmp_path / "b", sandbox=Holding(NO_MEMORY), require=require).stop()
    with pytest.raises(ConfigError, match="no limit"):
        Engine.open(tmp_path / "c", workers=0, require=["everything"])


def test_several_that_do_not_hold_are_all_named() -> None:
    with pytest.raises(SandboxUnavailable, match="the limits on memory, pids, cpu, disk, network do not hold"):
        insist(Holding(Guarantees()), LIMITS)
    assert weak(Guarantees()) == LIMITS
    assert weak(ALL) == ()
    assert insist(Holding(Guarantees("watched")), ["memory"]).memory == "watched"


def test_auto_takes_the_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Holding] = {}

    def make(kind: str, **_: object) -> Sandbox:
        made[kind] = Holding(NO_MEMORY if kind == "docker" else ALL, kind)
        return made[kind]

    monkeypatch.setattr(_choose, "_make", make)
    told: list[str] = []

    def opened(name: str, *require: str, last: str = "") -> str:
        return _choose.open_named(
            name, state=None, image=None, last=last, require=require, tell=told.append, rests=lambda *_: None
        ).name

    assert opened("auto") == "docker"
    assert opened("auto", "memory") == "bubblewrap"
    assert made["docker"].closed
    assert "Docker is not used, but bubblewrap: in docker here the limit on memory does not hold" in told[-1]
    for name, last in (("docker", ""), ("auto", "docker")):
        with pytest.raises(SandboxUnavailable, match="the limit on memory does not hold"):
            opened(name, "memory", last=last)


def test_of_several_engines_the_weak_one_is_left_alone() -> None:
    rested: list[tuple[bool, str]] = []
    members = [Member("weak", Holding(NO_MEMORY), 1), Member("strong", Holding(ALL), 1)]
    fleet = Fleet(members, require=["memory"], rests=lambda *told: rested.append(told))
    try:
        assert fleet.probe().memory == "cgroup"
        for _ in range(2):
            with fleet.seat() as place:
                assert place is members[1].sandbox
        assert "weak is left alone" in rested[0][1]
    finally:
        fleet.close()
    fleet = Fleet([Member("weak", Holding(NO_MEMORY), 1)], require=["memory"])
    with pytest.raises(SandboxUnavailable) as caught:
        fleet.probe()
    assert caught.value.id == "sandbox_weak"
    fleet.close()


@pytest.mark.parametrize(("held", "lines"), [(ALL, 0), (WATCHED, 0), (NO_MEMORY, 2)])
def test_a_limit_that_does_not_hold_is_told_of(held: Guarantees, lines: int, tmp_path: Path) -> None:
    said: list[str] = []
    with Engine.open(tmp_path, sandbox=Holding(held), paused=True) as engine:
        grading.warn_of_weak_limits(engine, said.append)
    assert len(said) == lines
    if said:
        assert said[0] == "warning: in docker here the limit on memory does not hold: a rootless engine needs cgroup v2"
        assert said[1].endswith("to refuse such a sandbox: --require memory")
