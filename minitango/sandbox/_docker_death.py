"""What ended a container whose supervisor had no time to say it: the job's own memory, or somebody else."""

from __future__ import annotations

import contextlib
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
from minitango.sandbox._docker_engine import Engine, Missing
from minitango.sandbox.contract import End

_SETTLE: Final = 2.0
"""Seconds after which a container whose line broke either has ended, or goes on without us."""
_MOST: Final = 1000
"""Events that are looked at."""
_REMEMBERED: Final = 256
"""Events that Docker remembers, of all containers together; then it forgets the oldest."""
_TOLD: Final = (0, 128 + 15)
"""Exit codes of a supervisor that was told to leave."""
_SIGKILLED: Final = 128 + 9
_NEAR: Final = 2.0
"""Seconds between the kernel's kill for memory and the end of the container that came of it, as events tell it."""
_STAMP: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)?")


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
    nanoseconds: int = msgspec.field(name="timeNano", default=0)

    @property
    def at(self) -> float:
        return self.nanoseconds / 1e9


def died(engine: Engine, name: str, id: str) -> End | MinitangoError:
    """The job's end where the kernel killed it for memory; else the error to raise: SandboxUnavailable `sandbox_lost`
    where the whole engine had a part in it, SandboxFailed `box_killed` where this container alone was killed."""
    try:
        state = _state(engine, name)
        if state.running:
            return _lost("the line to a container broke")
        try:
            events = _events(engine, id)
        except (SandboxFailed, SandboxUnavailable):
            if state.oom_killed and state.exit_code == _SIGKILLED:
                return _out_of_memory()
            raise
        actions = {event.action for event in events}
        die = next((event for event in events if event.action == "die"), None)
        code = _exit_code(die) if die is not None else state.exit_code
        if "stop" in actions or code in _TOLD or _was_killed(events, "15", "SIGTERM"):
            return _lost("a container was told to stop")
        if not _was_killed(events, "9", "SIGKILL") and _ran_out_of_memory(state, events, die, code):
            return _out_of_memory()
        # What an engine had a part in is gone from its memory. What it forgot because much happened since is not: then
        # its memory is full, and the end is still in it.
        if "start" not in actions and (die is None or not _forgets(engine)):
            return _lost("the Docker engine was restarted while a job ran")
    except (SandboxFailed, SandboxUnavailable) as error:
        return error
    return SandboxFailed(f"a container was killed from outside (exit code {code})", id="box_killed")


def _out_of_memory() -> End:
    return End(signal=_SIGKILLED - 128, limit="memory", usage=Usage(), oom_kills=1)


def _was_killed(events: list[_Event], *signals: str) -> bool:
    """Whether somebody told the engine to send one of these signals. It tells of no kill that is the kernel's own."""
    return any(event.action == "kill" and event.actor.attributes.get("signal") in signals for event in events)


def _ran_out_of_memory(state: _State, events: list[_Event], die: _Event | None, code: int | None) -> bool:
    """Whether the kernel killed the supervisor for memory: the job's, as the supervisor's own is bounded.

    A child that was killed so leaves an event, and `OOMKilled`, too, though the job went on.
    """
    if code not in (_SIGKILLED, None):
        return False
    killed = [event.at for event in events if event.action == "oom"]
    if not killed or die is None:
        return bool(killed) or state.oom_killed
    return any(abs(die.at - at) <= _NEAR for at in killed)  # either may be told first


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
    return engine.ask(partial(_read_events, filters={"container": id}, until=until), list[_Event])


def _forgets(engine: Engine) -> bool:
    """Whether the engine's memory of events is full."""
    until = _seconds(engine.ask(lambda api: api.info(), _Clock).now)
    return len(engine.ask(partial(_read_events, filters={}, until=until), list[_Event])) >= _REMEMBERED


def _read_events(api: Any, *, filters: dict[str, str], until: int) -> Any:
    stream = api.events(since=1, until=until, filters=filters, decode=True)
    return list(itertools.islice(stream, _MOST))


def _exit_code(event: _Event) -> int | None:
    code = event.actor.attributes.get("exitCode", "")
    return int(code) if re.fullmatch("[0-9]{1,5}", code) else None


def _seconds(time_stamp: str) -> int:
    """Of Docker's own clock, wherever it is: an RFC 3339 time with more digits than Python reads."""
    found = _STAMP.fullmatch(time_stamp)
    if found is not None:
        with contextlib.suppress(ValueError):
            zone = found[2] if found[2] not in (None, "Z") else "+00:00"
            return int(datetime.fromisoformat(found[1] + zone).timestamp())
    return int(time.time())
