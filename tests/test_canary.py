"""The canaries: each limit holds in each sandbox, and where nothing holds, each of them says so and harms nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from minitango.doctor import Check, Patient, canary
from minitango.doctor.canary import CANARIES, Canary
from minitango.errors import SandboxFailed
from minitango.sandbox import BoxSpec, CollectBounds, Collected, End, Sandbox, Survey, Surveyed
from minitango.sandbox.bubblewrap import BubblewrapSandbox
from minitango.sandbox.docker import DockerSandbox
from minitango.testing import FakeBox, FakeRun, FakeSandbox
from tests.docker_engine import need_docker
from tests.docker_images import python_image
from tests.support import need_bubblewrap


def loose(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[Check]:
    """What all of them say of this sandbox."""
    monkeypatch.setattr(canary, "open_sandbox", lambda *a, **k: sandbox)
    found = Survey((Surveyed(sandbox.name), Surveyed("other")), sandbox.name, "it is", sandbox.name)
    return list(canary.look(Patient("", Path(), **changes), found))


@pytest.fixture(params=["bubblewrap", "bubblewrap-watched", "docker"])
def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sandbox]:
    made: Sandbox
    if request.param == "docker":
        made = DockerSandbox(tmp_path, url=need_docker(), image=python_image())
    else:
        need_bubblewrap()
        made = BubblewrapSandbox(state=str(tmp_path), cgroups=request.param == "bubblewrap")
    yield made
    made.close()


def test_everything_holds(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = loose(sandbox, monkeypatch)
    assert [check.text for check in checks if check.verdict != "ok"] == []
    assert [check.facts["canary"] for check in checks] == [each.name for each in CANARIES]
    assert all(check.facts["held"] and check.facts["seconds"] < 5 for check in checks)


# --- where nothing holds -----------------------------------------------------------------------------------------


def unconfined(run: FakeRun) -> End:
    """The program itself, on this machine, in a folder of its own: it must be as harmless as it says."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, *run.command[1:]], cwd=folder, capture_output=True, timeout=60)
    run.print(done.stdout + done.stderr)
    return End(exit_status=done.returncode)


NOTHING_HOLDS = {
    "memory": "a program that may use 64 MiB used 192 MiB",
    "memory_child": "a program that may use 64 MiB used 192 MiB",
    "pids": "200 processes were started where 32 may be",
    "cpu": "a program went on beyond 0.5 s of CPU time",
    "disk": "24 MiB were written where 8 MiB may be",
    "output": "a program went on beyond 64 KiB of output",
}


@pytest.mark.parametrize("name", NOTHING_HOLDS)
def test_what_does_not_hold_is_seen_and_harms_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "CANARIES", [each for each in CANARIES if each.name == name])
    before = {*os.listdir("/"), *os.listdir("/tmp"), *os.listdir("/dev/shm")}
    (check,) = loose(FakeSandbox(unconfined), monkeypatch)
    left = {*os.listdir("/"), *os.listdir("/tmp"), *os.listdir("/dev/shm")} - before
    assert not [path for path in left if "canary" in path]
    assert (check.verdict, check.facts["held"]) == ("failed", False)
    assert f"{name} DOES NOT HOLD: " in check.text
    assert NOTHING_HOLDS[name] in check.text
    assert check.next.startswith("take another sandbox")


def says(name: str, output: bytes = b"", monkeypatch: pytest.MonkeyPatch | None = None, **end: Any) -> str:
    """What one of them says of such an end."""
    (found,) = [each for each in CANARIES if each.name == name]
    return found.fault(canary.Ran(End(**(end or {"exit_status": 0})), output, 1.0), found.limits)


def test_faults_that_need_a_broken_sandbox() -> None:
    assert says("network", b"route 192.0.2.1\ninterface eth0\n") == "route 192.0.2.1, interface eth0"
    assert says("kernel", b"bpf\nopened /proc/1/mem\n") == "bpf, opened /proc/1/mem"
    assert says("time", b"went on\n") == "a program went on beyond 1 s"
    (late,) = [each for each in CANARIES if each.name == "time"]
    ended = canary.Ran(End(signal=9, limit="wall"), b"", 4.5)
    assert late.fault(ended, late.limits) == "it took 3.5 s to end it"
    assert late.fault(structs.replace(ended, seconds=2.9), late.limits) == ""
    assert says("disk", b"1\n2\n3\n/usr\n") == "the system can be written to: /usr"
    assert says("disk", b"1\n2\n") == "it ended with exit status 0, which says nothing of this one: 2"
    (stay,) = [each for each in CANARIES if each.name == "survivors"]
    gone = canary.Ran(End(exit_status=0), b"", 0.3, still=False)
    assert stay.fault(gone, stay.limits) == "a process went on after the job had ended"
    assert says("output", bytes(1 << 20), signal=9, limit="output") == "1 MiB came"
    assert "its memory limit, which says nothing" in says("cpu", signal=9, limit="memory")


def test_memory_that_is_refused_is_held() -> None:
    assert says("memory", b"MemoryError\n", exit_status=1) == ""
    assert "which says nothing" in says("memory", b"", exit_status=1)


class Restless(FakeSandbox):
    """Its files go on growing after a run."""

    def open(self, spec: BoxSpec) -> FakeBox:
        box = super().open(spec)
        turns = iter(range(99))

        def collect(mount: str, patterns: object, bounds: object = CollectBounds()) -> Collected:
            from minitango.archive import File

            return Collected((File("late", b"x" * next(turns)),))

        box.collect = collect  # type: ignore[method-assign, assignment]
        return box


def test_a_daemon_that_goes_on_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "CANARIES", [each for each in CANARIES if each.watch])
    (check,) = loose(Restless(), monkeypatch)
    assert "a process went on after the job had ended" in check.text


def test_where_they_cannot_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is pulled unasked; an image without Python is no sandbox that does not hold."""
    absent = FakeSandbox(images={})
    absent.default_image = "python:3.12-slim"
    (check,) = loose(absent, monkeypatch)
    assert (check.verdict, "not tried, as its image is not there: python" in check.text) == ("warning", True)
    for inside in (
        lambda run: End(exec_error=2),
        lambda run: run.print(b"ModuleNotFoundError: No module named 'ctypes'\n") or End(exit_status=1),
    ):
        (check,) = loose(FakeSandbox(inside), monkeypatch)
        assert (check.verdict, check.facts["tried"]) == ("warning", False)

    def broken(run: FakeRun) -> End:
        raise SandboxFailed("the engine is gone", hint="start it")

    checks = loose(FakeSandbox(broken), monkeypatch)
    assert {(check.verdict, check.next) for check in checks} == {("failed", "start it")}
    (check,) = canary.look(Patient("", Path()), Survey((), "", "nothing works"))
    assert check.verdict == "failed"


def test_a_remedy_stands_beside_each_that_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = FakeSandbox(lambda run: run.print(b"went on\n") or End(exit_status=0))
    sandbox.name = "bubblewrap"
    hints = {check.facts["canary"]: check.next for check in loose(sandbox, monkeypatch)}
    assert hints["memory"] == hints["memory_child"] == hints["pids"] == canary._CGROUPS
    assert hints["network"].startswith("take another sandbox")


def test_no_program_can_do_more_than_the_docs_say() -> None:
    text = (Path(__file__).parent.parent / "docs" / "sandboxes.md").read_text()
    most = canary._hostile
    said = re.search(
        r"it takes (\d+) MiB of memory, (\d+) processes that sleep, two cores for (\d+) s and (\d+) MiB", text
    )
    assert said is not None
    assert [int(number) for number in said.groups()] == [
        most.MOST_MEMORY >> 20,
        most.MOST_PROCESSES,
        2,
        3 * most.MOST_DISK >> 20,
    ]
    assert all(isinstance(each, Canary) for each in CANARIES)
