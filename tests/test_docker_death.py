"""What is made of an engine's answers about a container that ended without a word."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import pytest

from minitango.errors import SandboxFailed, SandboxUnavailable
from minitango.sandbox import End
from minitango.sandbox._docker_death import died
from minitango.sandbox._docker_engine import Engine, Missing
from tests.support import PATIENCE

T = TypeVar("T")
NOW = datetime(2024, 2, 29, 23, 30, 1, tzinfo=UTC)


def event(action: str, at: float = 0.0, **attributes: str) -> dict[str, Any]:
    """As Docker tells it, `at` seconds after the container was begun."""
    seconds = NOW.timestamp() - 60 + at
    return {
        "status": action,
        "id": "id",
        "Type": "container",
        "Action": action,
        "Actor": {"ID": "id", "Attributes": {"name": "minitango-1", **attributes}},
        "time": int(seconds),
        "timeNano": int(seconds * 1e9),
    }


START = event("start")
DIE = event("die", 20.0, exitCode="137")
OOM = event("oom", 19.9)
OF_OTHERS = [event("start", 30.0)] * 255
AND_ITS_OWN = [*OF_OTHERS, DIE]
"""A full memory: what was before is forgotten."""


class Told(Engine):
    """An engine that gives recorded answers."""

    def __init__(
        self,
        events: list[dict[str, Any]] | None,
        *,
        state: dict[str, Any] | None = None,
        clock: str = "2024-02-29T23:30:01.123456789Z",
        all: list[dict[str, Any]] | None = None,
    ) -> None:
        """`events` of the container, None where they are not told; `all` that there are."""
        self._told = events
        self._state = state
        self._clock = clock
        self._all = events if all is None else all
        self.until: list[int] = []

    def ask(self, verb: Callable[[Any], Any], kind: type[T], *, again: bool = True) -> T:
        return msgspec.convert(verb(self), kind)

    def inspect_container(self, _: str) -> dict[str, Any]:
        if self._state is None:
            raise Missing("no such container")
        return {"State": self._state}

    def info(self) -> dict[str, str]:
        return {"SystemTime": self._clock}

    def events(self, *, until: int, filters: dict[str, str], **_: object) -> Iterator[dict[str, Any]]:
        self.until.append(until)
        told = self._told if filters else self._all
        if told is None:
            raise SandboxUnavailable("it hangs", id="sandbox_hangs")
        return iter(told)


def found(engine: Told) -> str:
    end = died(engine, "minitango-1", "id")
    if isinstance(end, End):
        assert (end.signal, end.oom_kills) == (9, 1)
        return str(end.limit)
    assert isinstance(end, SandboxFailed if end.id == "box_killed" else SandboxUnavailable)
    return end.id


KILL = event("kill", 19.99, signal="9")
DESTROY = event("destroy", 20.1)
EXITED = {"Running": False, "ExitCode": 137, "OOMKilled": False}
OUT_OF_MEMORY = {**EXITED, "OOMKilled": True}


@pytest.mark.parametrize(
    ("events", "state", "what"),
    [
        ([START, OOM, DIE, DESTROY], None, "memory"),
        ([START, DIE, event("oom", 20.2), DESTROY], None, "memory"),
        ([START, event("oom", 1.0), OOM, DIE], OUT_OF_MEMORY, "memory"),
        ([START, DIE], OUT_OF_MEMORY, "memory"),
        (None, OUT_OF_MEMORY, "memory"),
        ([], OUT_OF_MEMORY, "memory"),
        ([START, event("oom", 1.0), DIE], None, "box_killed"),
        ([START, event("oom", 1.0), DIE], OUT_OF_MEMORY, "box_killed"),
        ([START, event("oom", 1.0), KILL, DIE], OUT_OF_MEMORY, "box_killed"),
        ([START, OOM, KILL, DIE, DESTROY], None, "box_killed"),
        ([START, OOM, event("die", 20.0, exitCode="5")], None, "box_killed"),
        ([START, KILL, DIE, DESTROY], None, "box_killed"),
        ([START, DIE, DESTROY], None, "box_killed"),
        ([START, OOM, event("kill", 19.99, signal="15"), event("die", 20.0, exitCode="143")], None, "sandbox_lost"),
        ([START, OOM, event("kill", 9.99, signal="15"), KILL, DIE, event("stop", 20.1)], None, "sandbox_lost"),
        ([START, OOM, event("kill", 9.99, signal="15"), KILL, DIE], OUT_OF_MEMORY, "sandbox_lost"),
        ([START, event("die", 20.0, exitCode="0")], None, "sandbox_lost"),
        ([], None, "sandbox_lost"),
        ([DIE, DESTROY], None, "sandbox_lost"),
        ([], EXITED, "sandbox_lost"),
        (None, None, "sandbox_hangs"),
        (None, EXITED, "sandbox_hangs"),
        (None, {**OUT_OF_MEMORY, "ExitCode": 0}, "sandbox_hangs"),
    ],
)
def test_what_ended_a_container(events: list[dict[str, Any]] | None, state: dict[str, Any] | None, what: str) -> None:
    assert found(Told(events, state=state)) == what


@pytest.mark.parametrize(
    ("events", "all", "what"),
    [
        ([DIE], AND_ITS_OWN, "box_killed"),
        ([KILL, DIE], AND_ITS_OWN, "box_killed"),
        ([OOM, DIE], AND_ITS_OWN, "memory"),
        ([DIE], AND_ITS_OWN[1:], "sandbox_lost"),
        ([], OF_OTHERS * 2, "sandbox_lost"),
    ],
)
def test_an_engine_that_forgot_was_not_restarted(
    events: list[dict[str, Any]], all: list[dict[str, Any]], what: str
) -> None:
    """It remembers 256 events; one that was restarted, none of before."""
    assert found(Told(events, all=all)) == what


def test_a_container_that_runs_on_is_lost() -> None:
    assert found(Told([START], state={"Running": True})) == "sandbox_lost"


@pytest.mark.parametrize(
    "clock",
    [
        "2024-02-29T23:30:01.123456789Z",
        "2024-02-29T23:30:01Z",
        "2024-02-29T23:30:01",
        "2024-03-01T08:30:01.123456789+09:00",
        "2024-03-01T08:30:01+09:00",
        "2024-02-29T18:30:01.1-05:00",
        "2024-03-01T05:00:01.12345678901234+05:30",
    ],
)
def test_the_clock_of_an_engine_anywhere(clock: str) -> None:
    engine = Told([START, DIE], clock=clock)
    assert found(engine) == "box_killed"
    assert engine.until == [int(NOW.timestamp()) + 1]


@pytest.mark.parametrize("clock", ["", "yesterday", "2024-02-30T23:30:01Z", "2024-02-29T23:30:01+99:99"])
def test_an_engine_that_does_not_know_the_time(clock: str) -> None:
    engine = Told([START, DIE], clock=clock)
    assert found(engine) == "box_killed"
    assert abs(engine.until[0] - time.time()) < PATIENCE
