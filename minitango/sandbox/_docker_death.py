"""What ended a container whose supervisor had no time to say it: the job's own memory, or somebody else."""

from __future__ import annotations

import itertools
import re
import time
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Struct

from minitango.errors import MinitangoError, SandboxFailed, SandboxUnavailable
from minitango.job import Usage
from minitango.sandbox import End
from minitango.sandbox._docker_engine import Engine, Missing

_SETTLE: Final = 2.0
"""Seconds after which a container whose line broke either has ended, or goes on without us."""
_MOST: Final = 1000
"""Events that are looked at."""
_TOLD: Final = (0, 128 + 15)
"""Exit codes of a supervisor that was told to leave."""


class _State(Struct):
    running: bool = msgspec.field(name="Running", default=False)
    exit_code: int | None = msgspec.field(name="ExitCode", default=None)
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)


class _Inspected(Struct):
    state: _State = msgspec.field(name="State")


class _Clock(Struct):
    now: str = msgspec.field(name="SystemTime", default="")


class _Actor(Struct):
    attributes: dict[str, str] = msgspec.field(name="Attributes", default_factory=dict)


class _Event(Struct):
    action: str = msgspec.field(name="Action", default="")
    actor: _Actor = msgspec.field(name="Actor", default_factory=_Actor)


def died(engine: Engine, name: str, id: str) -> End | MinitangoError:
    """The job's end where the kernel killed it for memory; else the error to raise: SandboxUnavailable `sandbox_lost`
    where the whole engine had a part in it, SandboxFailed `box_killed` where this container alone was killed."""
    try:
        state = _state(engine, name)
        if state.running:
            return _lost("the line to a container broke")
        events = _events(engine, id)
    except (SandboxFailed, SandboxUnavailable) as error:
        return error
    actions = {event.action for event in events}
    if "oom" in actions or state.oom_killed:
        return End(signal=9, limit="memory", usage=Usage(), oom_kills=1)
    if "start" not in actions:
        return _lost("the Docker engine was restarted while a job ran")
    code = next((_exit_code(event) for event in events if event.action == "die"), state.exit_code)
    if "stop" in actions or code in _TOLD:
        return _lost("a container was told to stop")
    return SandboxFailed(f"a container was killed from outside (exit code {code})", id="box_killed")


def _lost(what: str) -> SandboxUnavailable:
    return SandboxUnavailable(what, hint="the job is run again", id="sandbox_lost")


def _state(engine: Engine, name: str) -> _State:
    """Docker's word on it, once it has ended; nothing where it is gone already."""
    deadline = time.monotonic() + _SETTLE
    while True:
        try:
            state = engine.ask(lambda api: api.inspect_container(name), _Inspected).state
        except Missing:
            return _State()
        if not state.running or time.monotonic() > deadline:
            return state
        time.sleep(0.05)


def _events(engine: Engine, id: str) -> list[_Event]:
    """What the engine remembers of a container: its own memory, which a restart empties."""
    until = _seconds(engine.ask(lambda api: api.info(), _Clock).now) + 1
    return engine.ask(partial(_read_events, id=id, until=until), list[_Event])


def _read_events(api: Any, *, id: str, until: int) -> Any:
    stream = api.events(since=1, until=until, filters={"container": id}, decode=True)
    return list(itertools.islice(stream, _MOST))


def _exit_code(event: _Event) -> int | None:
    code = event.actor.attributes.get("exitCode", "")
    return int(code) if re.fullmatch("[0-9]{1,5}", code) else None


def _seconds(time_stamp: str) -> int:
    """Of Docker's own clock: an RFC 3339 time with more digits than Python reads."""
    try:
        return int(datetime.fromisoformat(time_stamp.split(".")[0].rstrip("Z") + "+00:00").timestamp())
    except ValueError:
        return int(time.time())
