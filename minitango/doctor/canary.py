"""Does it hold? Hostile programs, bounded ones, in the sandbox that jobs would run in: what ends them, and how soon.

Unlike `Sandbox.probe`, which looks how a limit is held, each of these passes one. A limit that does not hold costs the
machine little: 192 MiB of memory, 200 processes that sleep, 2 s of two cores, 72 MiB in memory of a disk.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from msgspec import Struct, structs

from minitango.doctor import Check, Patient, _hostile
from minitango.errors import MinitangoError
from minitango.job import Limits
from minitango.sandbox import BoxSpec, End, Guarantees, Mount, Sandbox, Survey, open_sandbox
from minitango.text import ending, human_seconds, human_size, one_line

LATE: Final = 2.0
"""Seconds after its limit within which a run has ended."""
_USUAL: Final = Limits(wall=10, memory=256 << 20, pids=64, output=64 << 10, disk=8 << 20)
_WORK: Final = "/job"
_MORE: Final = 64 << 10
"""Bytes of output that may come beyond the limit, and processes' worth of bytes that a file system rounds up by."""


class Ran(Struct, frozen=True):
    """What a canary came to."""

    end: End
    output: bytes
    seconds: float
    still: bool = True
    """Whether the files that it left stood still afterwards."""

    @property
    def lines(self) -> list[str]:
        return self.output.decode("utf-8", "backslashreplace").splitlines()


class Canary(Struct, frozen=True):
    """One hostile program."""

    name: str
    """Stable."""
    tries: str
    """What it does, for people."""
    program: str
    fault: Callable[[Ran, Limits], str]
    """In a few words what did not hold; empty where it did."""
    limits: Limits = _USUAL
    watch: str = ""
    """A file that has to stand still once the run is over."""


def _memory(ran: Ran, limits: Limits) -> str:
    if ran.end.limit == "memory" or ran.end.oom_kills or "the child was ended" in ran.lines:
        return ""
    if "went on" in ran.lines:
        return f"a program that may use {human_size(limits.memory)} used {human_size(_hostile.MOST_MEMORY)}"
    # refused rather than killed: that is a limit, too
    return "" if ran.end.exit_status == 1 and b"Error" in ran.output else _strange(ran)


def _processes(ran: Ran, limits: Limits) -> str:
    if not ran.lines or not ran.lines[-1].isdigit():
        return _strange(ran)
    started = int(ran.lines[-1])
    return "" if started <= limits.pids else f"{started} processes were started where {limits.pids} may be"


def _cpu(ran: Ran, limits: Limits) -> str:
    assert limits.cpu is not None
    return "" if ran.end.limit == "cpu" else _outlived(ran, f"{human_seconds(limits.cpu)} of CPU time")


def _time(ran: Ran, limits: Limits) -> str:
    if ran.end.limit != "wall":
        return _outlived(ran, human_seconds(limits.wall))
    over = ran.seconds - limits.wall
    return f"it took {human_seconds(over)} to end it" if over > LATE else ""


def _survivors(ran: Ran, limits: Limits) -> str:
    if ran.end.exit_status != 0:
        return _strange(ran)
    return "" if ran.still else "a process went on after the job had ended"


def _disk(ran: Ran, limits: Limits) -> str:
    written = [int(line) for line in ran.lines if line.isdigit()]
    if len(written) != 3:
        return _strange(ran)
    if max(written) > limits.disk + _MORE:
        return f"{human_size(max(written))} were written where {human_size(limits.disk)} may be"
    places = [line for line in ran.lines if not line.isdigit()]
    return f"the system can be written to: {', '.join(places)}" if places else ""


def _output(ran: Ran, limits: Limits) -> str:
    if ran.end.limit != "output":
        return _outlived(ran, f"{human_size(limits.output)} of output")
    return f"{human_size(len(ran.output))} came" if len(ran.output) > limits.output + _MORE else ""


def _nothing(ran: Ran, limits: Limits) -> str:
    if ran.end.exit_status != 0:
        return _strange(ran)
    return ", ".join(ran.lines)


def _outlived(ran: Ran, what: str) -> str:
    return f"a program went on beyond {what}" if ran.end.limit is None else _strange(ran)


def _strange(ran: Ran) -> str:
    said = f": {ran.lines[-1]}" if ran.lines else ""
    end = ran.end
    how = f"was ended by its {end.limit} limit" if end.limit else ending(end.exit_status, end.signal)
    return f"it {how}, which says nothing of this one{said}"


CANARIES: Final = (
    Canary("memory", "a memory bomb", _hostile.MEMORY, _memory, structs.replace(_USUAL, memory=64 << 20)),
    Canary(
        "memory_child",
        "a memory bomb in a child",
        _hostile.MEMORY_OF_A_CHILD,
        _memory,
        structs.replace(_USUAL, memory=64 << 20),
    ),
    Canary("pids", "a fork bomb", _hostile.PROCESSES, _processes, structs.replace(_USUAL, pids=32)),
    Canary("cpu", "two processes that never rest", _hostile.CPU, _cpu, structs.replace(_USUAL, cpu=0.5)),
    Canary("time", "a program that ignores every signal", _hostile.TIME, _time, structs.replace(_USUAL, wall=1)),
    Canary("survivors", "a daemon that wants to stay", _hostile.SURVIVORS, _survivors, watch="late"),
    Canary("disk", "files without end, and in the system", _hostile.DISK, _disk),
    Canary("output", "output without end", _hostile.OUTPUT, _output),
    Canary("network", "a way out of the box", _hostile.NETWORK, _nothing),
    Canary("kernel", "calls and files that lead out of the box", _hostile.KERNEL, _nothing),
)
"""All of them, in the order in which they are let loose."""

_DOCKER: Final = "docker info names what the engine cannot hold; a rootless one needs cgroup v2 and systemd"
_CGROUPS: Final = "start minitango as root, or with: systemd-run --user --scope -p Delegate=yes ..."
_REMEDIES: Final = {
    ("docker", "memory"): _DOCKER,
    ("docker", "pids"): _DOCKER,
    ("bubblewrap", "memory"): _CGROUPS,
    ("bubblewrap", "pids"): _CGROUPS,
    ("bubblewrap", "cpu"): _CGROUPS,
    ("docker", "kernel"): "start the engine without --security-opt seccomp=unconfined, and update it",
}
_OTHERWISE: Final = (
    "take another sandbox (--sandbox NAME), or grade nothing here that you do not trust; see SECURITY.md"
)


def look(patient: Patient, found: Survey) -> Iterator[Check]:
    """Let all of them loose in the sandbox that is taken, in each of its engines one after the other, and yield what
    became of each. In boxes of their own: an engine that runs is not disturbed, but for the load."""
    if not found.chosen:
        yield Check("canary", "failed", "there is no sandbox to try", "see above", facts={"held": False})
        return
    labels = [each.engine for each in found.kinds if each.kind == found.chosen]
    try:
        with tempfile.TemporaryDirectory(prefix="minitango-doctor-") as private:
            sandbox = open_sandbox(found.name or found.chosen, state=private, image=patient.image)
            try:
                for place, label in zip(sandbox.places, labels, strict=True):
                    yield from _engine(place, label, patient)
            finally:
                sandbox.close()
    except MinitangoError as error:
        yield Check("canary", "failed", error.message, error.hint, facts={"held": False, "error": error.id})


def _engine(place: Sandbox, label: str, patient: Patient) -> Iterator[Check]:
    which = f"{place.name} {label}" if label else place.name
    facts = {"sandbox": place.name, "engine": label}
    try:
        held = place.probe()
        image = place.prepare("") if patient.fix else place.find_image("")
    except MinitangoError as error:
        yield Check("canary", "failed", f"{which}: {error.message}", error.hint, facts=facts | {"error": error.id})
        return
    if place.default_image and not image:
        text = f"{which}: not tried, as its image is not there: {one_line(place.default_image, 100)}"
        hint = "the same command with --fix pulls it; or --image NAME of one that is there and has python3"
        yield Check("canary", "warning", text, hint, facts=facts)
        return
    for canary in CANARIES:
        check = _try(canary, place, image, which, facts, held)
        yield check
        if "tried" in check.facts and not check.facts["tried"]:
            return  # what one cannot run in, none can


def _try(canary: Canary, place: Sandbox, image: str, which: str, facts: dict[str, Any], held: Guarantees) -> Check:
    """Let one of them loose, and say what became of it."""
    about = {**facts, "canary": canary.name}
    try:
        ran = _run(canary, place, image)
    except MinitangoError as error:
        text = f"{which}: {canary.name}: {error.message}"
        return Check("canary", "failed", text, error.hint, facts={**about, "held": False, "error": error.id})
    if ran.end.exec_error is not None or b"No module named 'ctypes'" in ran.output:
        text = f"{which}: not tried, as there is no whole python3 in {one_line(place.default_image, 100) or 'a box'}"
        return Check("canary", "warning", text, "--image NAME of one that has it", facts={**about, "tried": False})
    fault = canary.fault(ran, canary.limits)
    usage = ran.end.usage
    about |= {"held": not fault, "seconds": round(ran.seconds, 3), "peak": usage.memory}
    if not fault:
        text = f"{which}: {canary.name} holds: {canary.tries}, over after {human_seconds(ran.seconds)}"
        if canary.name.startswith("memory") and usage.memory:
            text += f" at {human_size(usage.memory)}"
        return Check("canary", "ok", text, facts=about)
    text = f"{which}: {canary.name} DOES NOT HOLD: {canary.tries}: {one_line(fault, 300)}"
    limit = canary.name.partition("_")[0]
    hint = _REMEDIES.get((place.name, limit), _OTHERWISE)
    return Check("canary", "failed", text, hint, held.notes, about)


def _run(canary: Canary, place: Sandbox, image: str) -> Ran:
    spec = BoxSpec((Mount(_WORK, writable=True),), _WORK, canary.limits, image=image, token="canary")  # noqa: S106
    said: list[bytes] = []
    box = place.open(spec)
    try:
        began = time.monotonic()
        end = box.run(("python3", "-I", "-S", "-c", canary.program), env={}, output=said.append)
        seconds = time.monotonic() - began
        still = True
        if canary.watch and end.limit is None and end.exec_error is None:
            before = box.collect(_WORK, [canary.watch])
            time.sleep(0.1)  # many of the daemon's own turns
            still = before.files == box.collect(_WORK, [canary.watch]).files
    finally:
        box.close()
    return Ran(end, b"".join(said), seconds, still)
