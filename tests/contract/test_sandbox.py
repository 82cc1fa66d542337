"""What every sandbox must be: each sentence of the contract in `minitango/sandbox/contract.py`, and each class of
hostile program. Another sandbox adds a kind to `KINDS`, and its name to those of `conftest.py`, and nothing else.

A kind that does not work on this machine is skipped with the reason; under CI it fails.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from minitango.archive import File
from minitango.errors import ConfigError, SandboxFailed, SandboxUnavailable
from minitango.job import Limits
from minitango.sandbox import (
    CHANNELS,
    Box,
    BoxSpec,
    Bundle,
    Channel,
    ChannelClosed,
    CollectBounds,
    Collected,
    End,
    Mount,
    Sandbox,
)
from minitango.sandbox._helper import RUSH
from minitango.sandbox._seccomp import read_table
from minitango.sandbox.bubblewrap import BubblewrapSandbox
from minitango.sandbox.docker import DockerSandbox
from minitango.sandbox.fleet import Fleet, Member
from tests import docker_engine, docker_images
from tests.contract.conftest import ELSEWHERE, FLEET, WATCHED, also
from tests.support import eventually


def docker(state: str, *, mounts: bool = True) -> Sandbox:
    """`mounts`: whether the engine sees our files, as one on this machine does."""
    url = docker_engine.need_docker()
    return DockerSandbox(state, url=url, image=docker_images.python_image(), mounts=mounts)


class OwnBoxes(BubblewrapSandbox):
    """What a fleet is made of, without an engine."""

    cores = 2

    def trial(self) -> None:
        self.probe()


def fleet(state: str, *makers: Callable[[str], Any]) -> Sandbox:
    """Several places as one sandbox."""
    return Fleet([Member(f"engine{n}", make(f"{state}/{n}"), 4) for n, make in enumerate(makers)])


KINDS: dict[str, Callable[[str], Sandbox]] = {
    "bubblewrap": lambda state: BubblewrapSandbox(state=state),
    WATCHED: lambda state: BubblewrapSandbox(state=state, cgroups=False),
    "docker": docker,
    ELSEWHERE: partial(docker, mounts=False),
    FLEET: lambda state: fleet(state, *[lambda state: OwnBoxes(state=state)] * 2),
}
if os.environ.get("MINITANGO_LONG"):  # a fleet adds to its boxes the choice between them, and no more
    KINDS["fleet-of-docker"] = lambda state: fleet(state, docker, docker)

MIB = 1 << 20
LIMITS = Limits(wall=10, memory=48 * MIB, disk=16 * MIB, pids=24, output=256 << 10)
MOUNTS = (Mount("/job", writable=True), Mount("/tests"))


@pytest.fixture(scope="module", params=list(KINDS))
def sandbox(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    made = KINDS[request.param](str(tmp_path_factory.mktemp("state")))
    try:
        made.probe()
    except SandboxUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{request.param}: {error} (try: {error.hint})")
    yield made
    made.close()


class Ran:
    """What one whole life of a box came to."""

    def __init__(self, end: End, output: bytes, left: Collected) -> None:
        self.end = end
        self.output = output
        self.text = output.decode(errors="replace")
        self.files = {file.path: file.data for file in left.files}
        self.refused = dict(left.refused)


def python(code: str) -> list[str]:
    return ["python3", "-I", "-S", "-c", code]


def sh(code: str) -> list[str]:
    return ["sh", "-c", code]


def live(
    sandbox: Sandbox,
    command: list[str],
    *,
    limits: Limits = LIMITS,
    mounts: tuple[Mount, ...] = MOUNTS,
    files: dict[str, list[File]] | None = None,
    env: dict[str, str] | None = None,
    patterns: list[str] | None = None,
    bounds: CollectBounds | None = None,
    watch: Callable[[Box, bytes], None] | None = None,
) -> Ran:
    box = sandbox.open(BoxSpec(mounts, "/job", limits))
    try:
        for mount, tree in (files or {}).items():
            box.put(mount, tree)
        chunks: list[bytes] = []

        def take(chunk: bytes) -> None:
            chunks.append(chunk)
            if watch is not None:
                watch(box, chunk)

        end = box.run(command, env=env or {}, output=take)
        left = box.collect("/job", ["**"] if patterns is None else patterns, bounds or CollectBounds())
        return Ran(end, b"".join(chunks), left)
    finally:
        box.close()


def marked(marker: str) -> list[int]:
    """Processes of this machine with the marker among their arguments."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            try:
                if marker.encode() in (place / "cmdline").read_bytes():
                    found.append(int(place.name))
            except OSError:
                continue
    return found


def new_marker() -> str:
    return "marker-" + secrets.token_hex(8)


# --- the plain life of a box ---------------------------------------------------------------------


@also(WATCHED, ELSEWHERE, FLEET)
def test_a_seat_is_a_place_for_one_box_after_another_with_its_own_images(sandbox: Sandbox) -> None:
    with sandbox.seat() as place:
        assert place is not None
        image = place.prepare("")
        with contextlib.closing(place.open(BoxSpec(MOUNTS, "/job", LIMITS, image=image))) as box:
            assert box.run(["true"], env={}, output=lambda _: None).exit_status == 0
        assert live(place, ["true"]).end.exit_status == 0
    if sandbox.slots is None:
        assert sandbox.seats is None
        return
    assert 0 < sandbox.slots == sandbox.seats
    with contextlib.ExitStack() as taken:
        for _ in range(sandbox.slots):
            taken.enter_context(sandbox.seat())
        with sandbox.seat(lambda: False) as none:
            assert none is None


@also(WATCHED, ELSEWHERE, FLEET)
def test_a_command_runs_and_its_end_is_told(sandbox: Sandbox) -> None:
    ran = live(sandbox, sh("echo out; echo err >&2; exit 7"))
    assert (ran.end.exit_status, ran.end.signal, ran.end.exec_error) == (7, None, None)
    assert ran.output == b"out\nerr\n"
    assert ran.end.output_bytes == 8
    assert ran.end.limit is None
    assert not ran.end.cancelled
    assert 0 < ran.end.usage.wall < 5


@also(WATCHED)
def test_a_signal_and_a_high_exit_status_are_told_apart(sandbox: Sandbox) -> None:
    by_signal = live(sandbox, sh("kill -SEGV $$")).end
    by_status = live(sandbox, sh("exit 139")).end
    assert (by_signal.exit_status, by_signal.signal) == (None, signal.SIGSEGV)
    assert (by_status.exit_status, by_status.signal) == (139, None)


@pytest.mark.parametrize(
    ("command", "number"),
    [(["no-such-program"], errno.ENOENT), (["/job/plain"], errno.EACCES), (["/job"], errno.EACCES)],
)
def test_a_command_that_cannot_be_executed_is_not_an_exit_status(
    sandbox: Sandbox, command: list[str], number: int
) -> None:
    end = live(sandbox, command, files={"/job": [File("plain", b"echo hi\n")]}).end
    assert (end.exit_status, end.signal, end.exec_error) == (None, None, number)


def test_the_exit_status_of_a_missing_command_is_one_all_the_same(sandbox: Sandbox) -> None:
    end = live(sandbox, sh("exit 127")).end
    assert (end.exit_status, end.exec_error) == (127, None)


def test_the_command_is_found_through_the_path_that_is_given(sandbox: Sandbox) -> None:
    tool = File("bin/tool", b"#!/bin/sh\necho the tool, $1\n", executable=True)
    ran = live(sandbox, ["tool", "really"], files={"/tests": [tool]}, env={"PATH": "/tests/bin:/usr/bin:/bin"})
    assert ran.output == b"the tool, really\n"


@also(ELSEWHERE)
def test_the_environment_is_exactly_what_is_promised(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINITANGO_SECRET_KEY", "hunter2")
    ran = live(sandbox, ["/usr/bin/env", "-0"], env={"GREETING": "hello = two\nlines", "LANG": "C"})
    found = dict(entry.split("=", 1) for entry in ran.text.rstrip("\0").split("\0"))
    assert {"/usr/bin", "/bin"} <= set(found.pop("PATH").split(":"))
    assert found == {"HOME": "/job", "LANG": "C", "TMPDIR": "/tmp", "GREETING": "hello = two\nlines"}


def test_stdin_is_empty_and_the_command_starts_in_its_working_directory(sandbox: Sandbox) -> None:
    assert live(sandbox, sh("wc -c; pwd")).text.split() == ["0", "/job"]


@also(WATCHED, ELSEWHERE)
def test_python3_works_with_its_library(sandbox: Sandbox) -> None:
    ran = live(sandbox, ["python3", "-c", "import json, ssl, sqlite3, ctypes; print(json.dumps([1]))"])
    assert (ran.text, ran.end.exit_status) == ("[1]\n", 0)


@also(WATCHED)
def test_nothing_but_the_streams_is_open(sandbox: Sandbox) -> None:
    with socket.socket() as ours:
        os.set_inheritable(ours.fileno(), True)
        ran = live(sandbox, python("import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))"))
    assert ran.text == "[0, 1, 2, 3]\n"  # 3 is the listing's own


@also(ELSEWHERE, FLEET)
def test_files_go_in_and_come_out(sandbox: Sandbox) -> None:
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS))
    try:
        box.put("/job", [File("a/b/deep.txt", b"first"), File("run.sh", b"cat /job/a/b/deep.txt", executable=True)])
        box.put("/job", [File("a/b/deep.txt", b"second")])
        box.put("/tests", [File("t/expected", b"x" * 300_000)])
        script = "sh ./run.sh; wc -c < /tests/t/expected; mkdir out; cp run.sh out/; echo 1 > out/n; rm -r a"
        chunks: list[bytes] = []
        end = box.run(sh(script), env={}, output=chunks.append)
        assert end.exit_status == 0
        assert b"".join(chunks).split() == [b"second300000"]
        assert box.collect("/job", ["out/*"]).files == (
            File("out/n", b"1\n"),
            File("out/run.sh", b"cat /job/a/b/deep.txt", executable=True),
        )
        assert box.collect("/tests", ["**"]).files == (File("t/expected", b"x" * 300_000),)
    finally:
        box.close()


@also(ELSEWHERE)
def test_the_job_owns_what_is_in_writable_mounts_and_cannot_touch_the_others(sandbox: Sandbox) -> None:
    script = (
        "echo more >> /job/own/f && chmod 600 /job/own/f && mkdir /job/own/d && echo owned;"
        "for at in /tests/t /tests/new /tests /usr/x /etc/x /x /dev/x /root/x /var/x /tests/d/x; do"
        " if (echo x > $at/x || echo x > $at || chmod 777 $at) 2>/dev/null; then echo wrote $at; fi; done"
    )
    files = {"/job": [File("own/f", b"1\n")], "/tests": [File("t", b"secret"), File("d/x", b"2")]}
    assert live(sandbox, sh(script), files=files).text == "owned\n"


def test_an_unsafe_path_is_not_written(sandbox: Sandbox) -> None:
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS))
    try:
        for path in ("../x", "/etc/x", "a/../../x", "", "a//b", ".", "a/./b", "a\0b"):
            for mount in ("/job", "/tests"):
                with pytest.raises(ValueError, match="unsafe"):
                    box.put(mount, [File(path, b"x")])
        with pytest.raises(ValueError, match="not a mount"):
            box.put("/usr", [File("x", b"x")])
    finally:
        box.close()


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (Mount("/small", writable=True, size=2 * MIB), ("/small", "2 MiB", "larger size")),
        (Mount("/plain", writable=True), ("/plain", "16 MiB", "limits.disk")),
    ],
)
@also(ELSEWHERE)
def test_a_mount_too_small_for_what_is_put_there_is_the_assignments_mistake(
    sandbox: Sandbox, mount: Mount, words: tuple[str, ...]
) -> None:
    box = sandbox.open(BoxSpec((*MOUNTS, mount), "/job", LIMITS))
    try:
        with pytest.raises(ConfigError) as caught:
            box.put(mount.path, [File("big", bytes((mount.size or LIMITS.disk) + 1))])
    finally:
        box.close()
    assert caught.value.id == "disk_too_small"
    assert all(word in f"{caught.value.message} {caught.value.hint}" for word in words)


def bundle(mount: str, *files: File) -> Bundle:
    return Bundle(mount, secrets.token_hex(32), files)


@pytest.mark.parametrize("mount", ["/job", "/tests"])
@also(ELSEWHERE, FLEET)
def test_a_bundle_is_there_when_the_box_is_open(sandbox: Sandbox, mount: str) -> None:
    given = bundle(mount, File("tool", b"#!/bin/sh\necho ran\n", executable=True), File("a/b/deep", b"x" * 300_000))
    writes = f"(echo more >> {mount}/a/b/deep) 2>/dev/null && echo wrote"
    for _ in range(2):  # the second box has it whole again, whatever the first did to its own
        box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS, bundle=given))
        try:
            box.put("/job", [File("student", b"s")])
            said: list[bytes] = []
            box.run(sh(f"{mount}/tool; wc -c < {mount}/a/b/deep; cat student; {writes}"), env={}, output=said.append)
            found = {file.path: file for file in box.collect(mount, ["**"]).files}
        finally:
            box.close()
        assert b"".join(said).split() == [b"ran", b"300000", *([b"swrote"] if mount == "/job" else [b"s"])]
        assert found["tool"] == given.files[0]
        assert len(found["a/b/deep"].data) == (300_005 if mount == "/job" else 300_000)


@also(ELSEWHERE)
def test_a_bundle_that_does_not_fit_is_the_assignments_mistake(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigError) as caught:
        sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS, bundle=bundle("/job", File("big", bytes(LIMITS.disk + 1)))))
    assert caught.value.id == "disk_too_small"
    with pytest.raises(ValueError, match="not a mount"):
        sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS, bundle=bundle("/elsewhere", File("f", b""))))


@also(ELSEWHERE)
def test_mounts_may_lie_in_one_another(sandbox: Sandbox) -> None:
    mounts = (
        Mount("/auto/submission"),
        Mount("/auto", writable=True),
        Mount("/auto/results", writable=True, size=MIB),
        Mount("/given"),
        Mount("/given/inner", writable=True),
    )
    box = sandbox.open(BoxSpec(mounts, "/auto", LIMITS))
    try:
        box.put("/auto/submission", [File("main.c", b"int x;")])
        box.put("/auto", [File("run", b"r")])
        box.put("/given", [File("g", b"g")])
        script = "cat /auto/submission/main.c /auto/run /given/g; echo 1 > results/r; echo 2 > /given/inner/i"
        said: list[bytes] = []
        assert box.run(sh(script), env={}, output=said.append).exit_status == 0
        assert b"".join(said) == b"int x;rg"
        assert [file.data for file in box.collect("/auto/results", ["r"]).files] == [b"1\n"]
        assert [file.data for file in box.collect("/given/inner", ["*"]).files] == [b"2\n"]
    finally:
        box.close()


@pytest.mark.parametrize(
    "spec",
    [
        BoxSpec((Mount("job", writable=True),), "job"),
        BoxSpec((Mount("/", writable=True),), "/"),
        BoxSpec((Mount("/usr", writable=True),), "/usr"),
        BoxSpec((Mount("/proc/x", writable=True),), "/proc/x"),
        BoxSpec((Mount("/job"),), "/job"),
        BoxSpec((Mount("/job", writable=True), Mount("/job")), "/job"),
        BoxSpec((Mount("/a/../usr", writable=True),), "/a/../usr"),
        BoxSpec((Mount("/job", writable=True, size=0),), "/job"),
        BoxSpec((Mount("/job", writable=True),), "/job", Limits(pids=0)),
    ],
)
@also(FLEET)
def test_a_spec_that_no_box_can_have_is_refused(sandbox: Sandbox, spec: BoxSpec) -> None:
    with pytest.raises(ValueError, match=r"mount|directory|limits"):
        sandbox.open(spec)


def test_a_box_runs_once(sandbox: Sandbox) -> None:
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS))
    with pytest.raises(SandboxFailed):
        box.collect("/job", ["*"])
    assert box.run(["true"], env={}, output=lambda _: None).exit_status == 0
    with pytest.raises(SandboxFailed):
        box.run(["true"], env={}, output=lambda _: None)
    with pytest.raises(SandboxFailed):
        box.put("/job", [File("late", b"")])
    box.close()
    box.close()
    box.kill()


@pytest.mark.parametrize("command", [[], [""], ["a\0b"]])
def test_what_is_no_command_is_refused(sandbox: Sandbox, command: list[str]) -> None:
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS))
    try:
        with pytest.raises(ValueError, match=r"command|NUL"):
            box.run(command, env={}, output=lambda _: None)
    finally:
        box.close()


def test_a_long_command_arrives_whole(sandbox: Sandbox) -> None:
    words = [str(n) * 50 for n in range(2000)]
    assert live(sandbox, [*sh("echo $#"), "name", *words]).text == "2000\n"


@also(ELSEWHERE, FLEET)
def test_image_names_nothing_or_something_stable(sandbox: Sandbox) -> None:
    assert sandbox.image_digest("") == sandbox.image_digest("")
    assert sandbox.name


@pytest.mark.parametrize("kind", KINDS)
def test_a_digest_is_asked_of_nobody(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the sandbox is used, and after its end."""
    made = KINDS[kind](str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("somebody was asked"))
    assert made.image_digest("") == made.image_digest("gcc:14") == ""
    assert list(tmp_path.iterdir()) == []
    made.close()
    assert made.image_digest("") == ""


# --- how it ends -----------------------------------------------------------------------------------


@also(ELSEWHERE, FLEET)
def test_an_image_is_found_once_it_is_there(sandbox: Sandbox) -> None:
    assert sandbox.find_image("") == sandbox.prepare("")
    assert sandbox.find_image("minitango-test/no-such-image:1") == ""
    assert sandbox.find_image("docker/", [File("Dockerfile", b"FROM no-such-image\n# never built")]) == ""


@also(FLEET)
def test_a_living_engine_has_no_orphans(sandbox: Sandbox) -> None:
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS))
    try:
        assert sandbox.orphans() == 0
        assert box.run(["true"], env={}, output=lambda _: None).exit_status == 0, "looking disturbs nobody"
    finally:
        box.close()


@also(WATCHED, FLEET)
def test_kill_from_another_thread(sandbox: Sandbox) -> None:
    marker = new_marker()

    def from_elsewhere(box: Box, _: bytes) -> None:
        threading.Thread(target=box.kill).start()

    began = time.monotonic()
    end = live(sandbox, [*sh("echo up; exec sleep 1000"), marker], watch=from_elsewhere).end
    assert end.cancelled
    assert (end.signal, end.limit) == (signal.SIGKILL, None)
    assert time.monotonic() - began < 5
    assert marked(marker) == []


@also(WATCHED)
def test_kill_before_the_run(sandbox: Sandbox) -> None:
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS))
    try:
        box.kill()
        end = box.run(["touch", "/job/ran"], env={}, output=lambda _: None)
        assert end.cancelled
        assert box.collect("/job", ["*"]).files == ()
    finally:
        box.close()


@also(ELSEWHERE, FLEET)
def test_a_box_that_was_never_run_leaves_nothing(sandbox: Sandbox) -> None:
    sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS)).close()


@also(WATCHED, FLEET)
def test_a_box_outlives_the_thread_that_opened_it(sandbox: Sandbox) -> None:
    boxes: list[Box] = []
    opener = threading.Thread(target=lambda: boxes.append(sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS))))
    opener.start()
    opener.join()
    said: list[bytes] = []
    assert boxes[0].run(sh("sleep 0.1; echo alive"), env={}, output=said.append).exit_status == 0
    boxes[0].close()
    assert said == [b"alive\n"]


@also(WATCHED, FLEET)
def test_an_exception_from_the_listener_ends_the_box(sandbox: Sandbox) -> None:
    marker = new_marker()
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS))

    def fails(_: bytes) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        box.run([*sh("echo x; sleep 1000"), marker], env={}, output=fails)
    box.close()
    assert marked(marker) == []


@also(WATCHED, ELSEWHERE, FLEET)
def test_many_boxes_at_once(sandbox: Sandbox) -> None:
    outputs: list[str] = []

    def worker(number: int) -> None:
        for turn in range(2):
            ran = live(sandbox, sh("cat /tests/who"), files={"/tests": [File("who", f"{number}.{turn}\n".encode())]})
            outputs.append(ran.text)

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outputs) == sorted(f"{number}.{turn}\n" for number in range(4) for turn in range(2))


@also(WATCHED, ELSEWHERE, FLEET)
def test_no_descriptor_is_left_open(sandbox: Sandbox) -> None:
    live(sandbox, ["true"])
    before = len(os.listdir("/proc/self/fd"))
    for command in (["true"], ["no-such-program"], sh("kill -9 $$")) * 3:
        live(sandbox, command)
    # a sandbox may open one or two for itself when it comes to it, but none for each box
    assert len(os.listdir("/proc/self/fd")) <= before + 2


# --- limits ------------------------------------------------------------------------------------------


def quick(**changed: float) -> Limits:
    values = {"wall": 10, "memory": 48 * MIB, "disk": 16 * MIB, "pids": 24, "output": 256 << 10, **changed}
    return Limits(**values)  # type: ignore[arg-type]


IGNORES_ALL = """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
print("ignoring", flush=True)
while True: pass
"""


@pytest.mark.parametrize(
    "command",
    [
        ["sleep", "1000"],
        python(IGNORES_ALL),
        sh("kill -STOP -1; kill -STOP $$; sleep 1000"),
        sh("trap '' TERM INT HUP; (trap '' TERM; sleep 1000) & while :; do sleep 100; done"),
    ],
    ids=["sleeper", "ignores-every-signal", "stops-everything", "children"],
)
@also(WATCHED)
def test_the_wall_limit_ends_it(sandbox: Sandbox, command: list[str]) -> None:
    marker = new_marker()
    began = time.monotonic()
    ran = live(sandbox, [*command, marker] if command[0] != "sleep" else command, limits=quick(wall=0.6))
    assert time.monotonic() - began < 0.6 + 2 + 1
    assert ran.end.limit == "wall"
    assert ran.end.signal == signal.SIGKILL
    assert 0.6 <= ran.end.usage.wall < 2.6
    assert marked(marker) == []


@also(WATCHED)
def test_the_cpu_limit_ends_it(sandbox: Sandbox) -> None:
    end = live(sandbox, sh("(while :; do :; done) & while :; do :; done"), limits=quick(cpu=0.4, cpus=2)).end
    assert end.limit == "cpu"
    assert end.usage.cpu is not None
    assert 0.4 <= end.usage.cpu < 1.5
    assert end.usage.wall < 3


@also(WATCHED)
def test_sleeping_costs_no_cpu(sandbox: Sandbox) -> None:
    end = live(sandbox, ["sleep", "0.5"], limits=quick(cpu=0.2)).end
    assert (end.limit, end.exit_status) == (None, 0)


@also(WATCHED)
def test_the_share_of_cores_is_held_where_it_is_promised(sandbox: Sandbox) -> None:
    if sandbox.probe().cpu != "cgroup":
        pytest.skip("no control group")
    end = live(sandbox, sh("for i in 1 2 3; do (while :; do :; done) & done; wait"), limits=quick(wall=1, cpus=0.4)).end
    assert end.usage.cpu is not None
    assert end.usage.cpu < 0.8


MEMORY_BOMB = "held = []\nwhile True: held.append(bytearray(4 << 20))"


@also(WATCHED)
def test_a_memory_bomb_ends_at_its_limit(sandbox: Sandbox) -> None:
    end = live(sandbox, python(MEMORY_BOMB)).end
    assert end.limit == "memory"
    assert end.signal == signal.SIGKILL
    assert end.usage.memory is not None
    assert end.usage.memory >= LIMITS.memory // 2
    assert end.usage.wall < 8


@also(WATCHED)
def test_a_memory_bomb_that_wants_others_to_be_killed_first_ends_at_its_limit(sandbox: Sandbox) -> None:
    """Whichever process of the box the kernel takes, it was the job's memory."""
    lower = "try: open('/proc/self/oom_score_adj', 'w').write('0')\nexcept OSError: pass\n"
    end = live(sandbox, python(lower + MEMORY_BOMB)).end
    assert (end.limit, end.signal) == ("memory", signal.SIGKILL)


@pytest.mark.parametrize("how", ["put", "bundle"])
@also(WATCHED, ELSEWHERE)
def test_files_given_read_only_may_be_larger_than_what_the_job_may_hold(sandbox: Sandbox, how: str) -> None:
    given = tuple(File(f"f{n}", bytes([n]) * (4 * MIB)) for n in range(24))
    bundle = Bundle("/tests", f"sha256:large-{how}", given) if how == "bundle" else None
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS, bundle=bundle))
    try:
        if how == "put":
            for file in given:
                box.put("/tests", [file])
        said: list[bytes] = []
        end = box.run(sh("cat /tests/f* | wc -c"), env={}, output=said.append)
    finally:
        box.close()
    assert (end.exit_status, b"".join(said).split()) == (0, [b"%d" % (96 * MIB)])


@also(WATCHED)
def test_a_memory_bomb_in_a_child_does_not_escape(sandbox: Sandbox) -> None:
    code = f"import os\nif os.fork():\n print(os.wait()[1] & 127, flush=True)\nelse:\n {MEMORY_BOMB.splitlines()[0]}\n"
    code += " while True: held.append(bytearray(4 << 20))"
    ran = live(sandbox, python(code))
    if sandbox.probe().memory == "cgroup":
        # the kernel took the child alone: the command ended well, and its report counts
        assert (ran.end.exit_status, ran.end.limit, ran.text) == (0, None, "9\n")
        assert ran.end.oom_kills >= 1
    else:
        assert ran.end.limit == "memory"


@also(WATCHED)
def test_what_is_killed_for_memory_after_the_end_is_not_counted(sandbox: Sandbox) -> None:
    """What a command left goes on for a moment: whether that is enough for its memory is chance."""
    nearly = LIMITS.memory + LIMITS.disk - 24 * MIB
    code = f"""
import os, time
ready, held = os.pipe(), []
if os.fork():
    os.read(ready[0], 1)
    os._exit(0)
held.append(b"x" * {nearly})
os.write(ready[1], b"x")
time.sleep(0.008)
held.append(b"x" * {48 * MIB})
time.sleep(1)
"""
    ran = live(sandbox, python(code))
    assert (ran.end.exit_status, ran.end.limit, ran.end.oom_kills) == (0, None, 0)


@also(WATCHED)
def test_memory_shared_by_many_processes_counts_once(sandbox: Sandbox) -> None:
    code = """
import os, time
held = b"x" * (20 << 20)
for n in range(8):
    if not os.fork():
        time.sleep(0.5)
        os._exit(0)
for n in range(8): os.wait()
"""
    end = live(sandbox, python(code)).end
    assert (end.limit, end.exit_status) == (None, 0)


@also(WATCHED)
def test_shared_memory_is_counted(sandbox: Sandbox) -> None:
    code = """
import mmap, time
held = mmap.mmap(-1, 200 << 20)
for at in range(0, 200 << 20, 4096): held[at] = 1
time.sleep(1)
"""
    assert live(sandbox, python(code)).end.limit == "memory"


FORK_BOMB = """
import os, time
while True:
    try: os.fork()
    except OSError: time.sleep(0.01)
"""


@also(WATCHED)
def test_a_fork_bomb_ends_at_its_limit(sandbox: Sandbox) -> None:
    marker = new_marker()
    most = 0

    def watch(box: Box, _: bytes) -> None:
        nonlocal most
        most = max(most, len(marked(marker)))

    code = "import threading, os, sys\n" + FORK_BOMB.replace("except OSError:", "except OSError: os.write(1, b'.');")
    ran = live(sandbox, [*python(code), marker], limits=quick(wall=1.0, memory=256 * MIB), watch=watch)
    assert ran.end.limit in ("wall", "output")
    assert 1 < most <= 24
    assert ran.end.pids_limit
    assert marked(marker) == []


@also(WATCHED)
def test_zombies_do_no_harm(sandbox: Sandbox) -> None:
    code = """
import os
for n in range(200):
    try:
        if not os.fork(): os._exit(0)
    except OSError:
        print("refused")
        break
"""
    ran = live(sandbox, python(code))
    assert (ran.end.exit_status, ran.text) == (0, "refused\n")


@also(WATCHED)
def test_orphans_are_reaped(sandbox: Sandbox) -> None:
    ran = live(
        sandbox, sh("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do (true &) ; done; sleep 0.3; ps ax -o stat")
    )
    assert "Z" not in ran.text


@also(WATCHED)
def test_disk_is_bounded(sandbox: Sandbox) -> None:
    code = """
for place in ("/job", "/tmp"):
    try:
        with open(place + "/fill", "wb", 0) as file:
            while True: file.write(bytes(1 << 20))
    except OSError as error: print(place, error.strerror, flush=True)
    if place == "/tmp": import os; os.unlink("/tmp/fill")
"""
    ran = live(sandbox, python(code), patterns=[])
    assert ran.text == "/job No space left on device\n/tmp No space left on device\n"
    assert ran.end.exit_status == 0
    assert ran.end.disk_full


def test_a_mount_may_have_its_own_size(sandbox: Sandbox) -> None:
    mounts = (Mount("/job", writable=True), Mount("/report", writable=True, size=MIB))
    ran = live(sandbox, sh("head -c 3000000 /dev/zero > /report/x; wc -c < /report/x"), mounts=mounts)
    assert ran.text.split()[-1] == str(MIB)
    assert ran.end.disk_full


@also(WATCHED)
def test_files_without_content_are_bounded_too(sandbox: Sandbox) -> None:
    code = """
n = 0
try:
    while True: open(f"/job/f{n}", "w").close(); n += 1
except OSError as error: print(error)
"""
    ran = live(sandbox, python(code), limits=quick(wall=8), patterns=[])
    assert ran.end.limit == "memory" or "No space left" in ran.text


@also(WATCHED)
def test_descriptors_are_bounded(sandbox: Sandbox) -> None:
    code = """
import os
n = 0
try:
    while True: os.dup(0); n += 1
except OSError as error: print(n < 5000, error.strerror)
"""
    assert live(sandbox, python(code)).text == "True Too many open files\n"


def test_no_core_is_dumped(sandbox: Sandbox) -> None:
    """Nor is the host's collector of core files started, which happens at any limit but 1: no job may change it."""
    code = """
import os, resource
print(resource.getrlimit(resource.RLIMIT_CORE)[0])
for limit in (0, resource.RLIM_INFINITY):
    for change in (resource.setrlimit, lambda *words: resource.prlimit(0, *words)):
        try: change(resource.RLIMIT_CORE, (limit, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        except (OSError, ValueError): pass
        print(resource.getrlimit(resource.RLIMIT_CORE)[0], flush=True)
os.abort()
"""
    ran = live(sandbox, python(code))
    assert ran.text == "1\n" * 5
    assert (ran.end.signal, ran.files) == (signal.SIGABRT, {})
    assert live(sandbox, sh("ulimit -c; ulimit -c 0 && ulimit -c unlimited; ulimit -c")).text.split() == ["0", "0"]


@also(WATCHED)
def test_no_job_comes_before_others(sandbox: Sandbox) -> None:
    code = """
import os, resource
for name in ("RTPRIO", "NICE", "MSGQUEUE"): print(resource.getrlimit(getattr(resource, f"RLIMIT_{name}")))
for name, most in (("SIGPENDING", 1024), ("MEMLOCK", 65536), ("NOFILE", 1024)):
    print(max(resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))) <= most)
for what in (lambda: os.nice(-1), lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))):
    try: print(what())
    except PermissionError: print("refused")
"""
    ran = live(sandbox, python(code))
    assert ran.text.splitlines() == ["(0, 0)"] * 3 + ["True"] * 3 + ["refused"] * 2


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_flood_ends_at_the_output_limit(sandbox: Sandbox, stream: str) -> None:
    ran = live(sandbox, sh(f"yes yes-yes-yes >&{stream}"))
    assert ran.end.limit == "output"
    assert LIMITS.output < len(ran.output) <= LIMITS.output + (64 << 10)
    assert ran.end.output_bytes == len(ran.output)


def test_a_flood_of_short_lines_is_cheap(sandbox: Sandbox) -> None:
    chunks = 0

    def count(box: Box, chunk: bytes) -> None:
        nonlocal chunks
        chunks += 1
        assert len(chunk) <= 64 << 10

    code = "import os\nfor n in range(60000): os.write(1, b'\\n')"
    ran = live(sandbox, python(code), watch=count)
    assert len(ran.output) == 60000
    assert chunks < 1500


def test_output_up_to_the_limit_is_no_fault(sandbox: Sandbox) -> None:
    exact = live(sandbox, sh(f"head -c {LIMITS.output} /dev/zero"))
    over = live(sandbox, sh(f"head -c {LIMITS.output + 1} /dev/zero"))
    assert (exact.end.limit, exact.end.exit_status, len(exact.output)) == (None, 0, LIMITS.output)
    assert over.end.limit == "output"


def test_output_is_delivered_while_it_runs(sandbox: Sandbox) -> None:
    arrived: list[float] = []
    live(sandbox, sh("echo one; sleep 0.4; echo two"), watch=lambda *_: arrived.append(time.monotonic()))
    assert len(arrived) == 2
    assert arrived[1] - arrived[0] > 0.2


# --- survivors -----------------------------------------------------------------------------------------

DAEMON = """
import os, signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(1, b"daemon\\n")
        while True: time.sleep(0.01); open("/job/late", "a").write("x")
    os._exit(0)
time.sleep(0.3)
"""


@also(WATCHED)
def test_a_daemon_that_holds_the_output_does_not_delay_the_end(sandbox: Sandbox) -> None:
    marker = new_marker()
    began = time.monotonic()
    ran = live(sandbox, [*python(DAEMON), marker])
    assert time.monotonic() - began < 5
    assert (ran.end.exit_status, ran.end.limit, ran.text) == (0, None, "daemon\n")
    assert marked(marker) == []


def test_the_bound_on_depth_is_exact(sandbox: Sandbox) -> None:
    """Names in a path, the file's own among them: so many are taken, and one more is not."""
    most = CollectBounds().depth
    assert most == 12
    deep = "/".join(["d"] * (most - 1))  # and a file in it makes the whole
    ran = live(sandbox, sh(f"mkdir -p {deep}/d; echo in > {deep}/f; echo out > {deep}/d/f"))
    assert ran.end.exit_status == 0
    assert ran.files == {f"{deep}/f": b"in\n"}
    assert ran.refused == {f"{deep}/d": f"deeper than {most} levels"}


@also(WATCHED)
def test_nothing_changes_any_more_when_files_are_collected(sandbox: Sandbox) -> None:
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS))
    try:
        box.run(python(DAEMON), env={}, output=lambda _: None)
        first = box.collect("/job", ["late"])
        time.sleep(0.05)  # five of the daemon's own turns, were it alive
        assert box.collect("/job", ["late"]) == first
        assert len(first.files) == 1
    finally:
        box.close()


LATECOMER = """
import ctypes, os, time
libc = ctypes.CDLL(None)
if os.fork() == 0:
    os.setsid()
    for fd in (0, 1, 2): os.close(fd)
    os.mkdir("/job/other")
    open("/job/other/inside", "w").close()
    os.mkfifo("/job/ready")
    os.open("/job/ready", os.O_RDWR)
    mine = os.getppid()
    while os.getppid() == mine: time.sleep(0.001)
    while True:
        try:
            {what}
        except OSError: pass
        time.sleep(0.001)
while not os.path.exists("/job/ready"): time.sleep(0.001)
os.mkdir("/job/place")
for path in ("report", "place/inside", "spared"): open("/job/" + path, "w").write("honest")
"""


@pytest.mark.parametrize(
    ("what", "late"),
    [
        ("pass", ()),
        ('open("/job/report", "w").write("forged")', ("report",)),
        ('open("/job/report", "w").write("forged"); os.utime("/job/report", (1, 1))', ("report",)),
        ('libc.renameat2(-100, b"/job/other", -100, b"/job/place", 2)', ("place/inside",)),
        ('open("/job/new", "w").close()', ("new",)),
    ],
)
@also(WATCHED)
def test_what_is_written_after_the_main_process_is_late(sandbox: Sandbox, what: str, late: tuple[str, ...]) -> None:
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS))
    try:
        end = box.run(python(LATECOMER.format(what=what)), env={}, output=lambda _: None)
        left = box.collect("/job", ["report", "place/inside", "spared", "new"])
    finally:
        box.close()
    assert end.exit_status == 0
    assert left.late == late


@also(WATCHED)
def test_what_is_written_at_the_last_moment_is_not_late(sandbox: Sandbox) -> None:
    """Also where a file was looked at just before: then some kernels note its time more finely."""
    code = """
import os
report = os.open("/job/report", os.O_WRONLY | os.O_CREAT)
for _ in range(9):
    os.fstat(report)
    os.write(report, b"x")
os._exit(0)
"""
    for command in (python(code), sh("sleep 9 & stat . > /job/report; echo x >> /job/report")):
        for _ in range(5):
            box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS))
            try:
                assert box.run(command, env={}, output=lambda _: None).exit_status == 0
                left = box.collect("/job", ["report"])
            finally:
                box.close()
            assert ([file.path for file in left.files], left.late) == (["report"], ())


@also(WATCHED)
def test_killing_everything_inside_harms_only_itself(sandbox: Sandbox) -> None:
    ran = live(
        sandbox, sh("(kill -9 1; kill -TERM 1; kill -STOP 1) 2>/dev/null; echo on; kill -9 -1 2>/dev/null; echo never")
    )
    assert ran.text in ("on\n", "on\nnever\n")  # the shell spares itself where the kernel does
    assert ran.end.limit is None


@also(WATCHED)
def test_what_watches_the_job_is_out_of_its_reach(sandbox: Sandbox) -> None:
    code = """
import os, resource
def tried(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "done"
for which in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NOFILE):
    print(tried(lambda: resource.prlimit(1, which, (0, 0))))
print(tried(lambda: os.sched_setaffinity(1, os.sched_getaffinity(0))))
print(tried(lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))))
print(tried(lambda: os.sched_setparam(1, os.sched_param(0))))
print(tried(lambda: os.setpriority(os.PRIO_PROCESS, 1, 19)))
print(tried(lambda: os.setpriority(os.PRIO_PGRP, 0, 19)))
print(tried(lambda: os.setpriority(os.PRIO_USER, 0, 19)))
"""
    ran = live(sandbox, python(code))
    assert ran.text.split() == ["PermissionError"] * 9
    assert ran.end.exit_status == 0


@also(WATCHED)
def test_a_job_may_limit_and_place_itself(sandbox: Sandbox) -> None:
    code = """
import os, resource, threading
resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
resource.prlimit(os.getpid(), resource.RLIMIT_AS, (1 << 30, 1 << 30))
os.sched_setaffinity(0, os.sched_getaffinity(0))
os.sched_setaffinity(threading.get_native_id(), os.sched_getaffinity(0))
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
os.setpriority(os.PRIO_PROCESS, 0, 3)
"""
    ran = live(sandbox, python(code))
    assert (ran.end.exit_status, ran.text) == (0, "")
    ran = live(sandbox, sh("ulimit -t 5 && ulimit -n 20 && nice -n 5 true && ulimit -t"))
    assert (ran.end.exit_status, ran.text) == (0, "5\n")


@also(WATCHED, FLEET)
def test_the_next_box_is_unaffected(sandbox: Sandbox) -> None:
    for command in (python(FORK_BOMB), python(MEMORY_BOMB), sh("yes"), sh("kill -STOP -1")):
        live(sandbox, command, limits=quick(wall=0.4), patterns=[])
    ran = live(sandbox, sh("echo well; ls -A /job /tmp /dev/shm"))
    assert (ran.end.exit_status, ran.text.split()) == (0, ["well", "/dev/shm:", "/job:", "/tmp:"])


# --- isolation -----------------------------------------------------------------------------------------


def test_no_process_of_the_host_is_seen(sandbox: Sandbox) -> None:
    ran = live(sandbox, sh("ls -d /proc/[0-9]*; cat /proc/[0-9]*/cmdline | tr '\\0' ' '"))
    assert "pytest" not in ran.text
    assert len([line for line in ran.text.splitlines() if line.startswith("/proc/")]) <= 4


@also(ELSEWHERE)
def test_no_secret_of_the_host_is_in_the_box(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "solution").write_text("the solution")
    marker = Path("/var/tmp", new_marker())  # any place that all may read
    marker.mkdir()
    code = """
import os, sys
for place in ("/etc/shadow", "/root/.ssh", "/var/run/docker.sock", "/run/docker.sock", *sys.argv[1:],
              "/proc/1/environ", "/proc/1/fd/0", "/proc/1/mem", "/proc/1/root", "/proc/1/cwd", "/proc/kcore"):
    try:
        if os.path.isdir(place): print("READ", place, os.listdir(place))
        else:
            with open(place, "rb") as file: file.read(1); print("READ", place)
    except OSError: pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    try: print(open(f"/proc/{pid}/environ", "rb").read())
    except OSError: pass
print("looked")
"""
    monkeypatch.setenv("MINITANGO_SECRET_KEY", "hunter2")
    places = [str(tmp_path / "solution"), str(marker), str(Path.home() / ".bashrc"), str(Path(__file__))]
    try:
        ran = live(sandbox, [*python(code), *places])
    finally:
        marker.rmdir()
    assert "READ" not in ran.text
    assert "hunter2" not in ran.text
    assert ran.text.endswith("looked\n")


@also(ELSEWHERE)
def test_the_network_is_localhost_only(sandbox: Sandbox) -> None:
    code = """
import socket, threading
server = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=lambda: server.accept()[0].sendall(b"local")).start()
print(socket.create_connection(server.getsockname()).recv(9).decode(), flush=True)
for family, address in ((socket.AF_INET, ("1.1.1.1", 53)), (socket.AF_INET, ("169.254.169.254", 80)),
                        (socket.AF_INET, ("HOST", PORT)), (socket.AF_UNIX, "\\0minitango-test-HOSTPORT")):
    try:
        s = socket.socket(family); s.settimeout(2); s.connect(address); print("REACHED", address)
    except OSError: pass
for family, kind in ((socket.AF_INET, socket.SOCK_RAW), (17, socket.SOCK_RAW), (40, socket.SOCK_STREAM), (16, 3)):
    try: socket.socket(family, kind); print("OPENED", family, kind)
    except OSError: pass
"""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as named:
        port = server.getsockname()[1]
        named.bind(f"\0minitango-test-127.0.0.1{port}")
        named.listen()
        ran = live(sandbox, python(code.replace("PORT", str(port)).replace("HOST", "127.0.0.1")))
    assert ran.text == "local\n"


@also(ELSEWHERE)
def test_an_open_network_reaches_the_host(sandbox: Sandbox) -> None:
    code = """
import socket, struct
def gateways():
    yield "127.0.0.1"
    for line in open("/proc/net/route"):
        words = line.split()
        if words[1] == "00000000": yield socket.inet_ntoa(struct.pack("<I", int(words[2], 16)))
for place in gateways():
    try: socket.create_connection((place, PORT), 5); print("there")
    except OSError: pass
"""
    with socket.create_server(("0.0.0.0", 0)) as server:
        try:
            box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS, network="open"))
        except SandboxUnavailable as error:
            if error.id != "sandbox_network":  # said, where the engine has no network; and not just none
                raise
            return
        try:
            said: list[bytes] = []
            box.run(python(code.replace("PORT", str(server.getsockname()[1]))), env={}, output=said.append)
        finally:
            box.close()
    assert said == [b"there\n"]


@also(WATCHED)
def test_no_power_over_the_machine_can_be_had(sandbox: Sandbox) -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def refused(name, result):
    if result >= 0: print("DONE", name)
for flag in (0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x04000000, 0x08000000, 0x02000000):
    refused(f"unshare {flag:x}", libc.unshare(flag))
    refused(f"clone {flag:x}", libc.syscall(56 if os.uname().machine == "x86_64" else 220, flag | 17, 0, 0, 0, 0))
refused("mount", libc.mount(b"none", b"/tmp", b"tmpfs", 0, b""))
refused("remount", libc.mount(b"none", b"/usr", b"", 32, b""))
refused("umount", libc.umount2(b"/tmp", 2))
refused("chroot", libc.chroot(b"/tmp"))
refused("setuid", libc.setuid(0))
refused("keyctl", libc.syscall(250 if os.uname().machine == "x86_64" else 219, 0, -3, 1))
refused("bpf", libc.syscall(321 if os.uname().machine == "x86_64" else 280, 0, 0, 0))
refused("io_uring", libc.syscall(425, 1, 0))
refused("sethostname", libc.sethostname(b"x", 1))
refused("mknod", libc.mknod(b"/tmp/disk", 0o60666, 8 << 8))
refused("chown", libc.chown(b"/tmp", 0, 0))
for line in open("/proc/self/status"):
    if line.startswith(("CapEff", "CapPrm", "CapInh", "CapAmb")) and int(line.split()[1], 16): print(line)
    # what a program with capabilities of its own could get, were there not no_new_privs: KILL, SETGID, SETUID at most
    if line.startswith("CapBnd") and int(line.split()[1], 16) & ~0xe0: print(line)
    if line.startswith("NoNewPrivs") and line.split()[1] != "1": print(line)
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger",
             "/proc/1/oom_score_adj", "/proc/sys/user/max_user_namespaces", "/sys/fs/cgroup/cgroup.procs",
             "/etc/ld.so.preload", "/usr/bin/python3"):
    try: open(path, "w"); print("OPENED", path)
    except OSError: pass
for program in ("su", "mount", "passwd", "sudo"):
    os.system(f"command -v {program} >/dev/null && {program} --version >/dev/null 2>&1; id -u | grep -x 0")
print("tried")
"""
    assert live(sandbox, python(code)).text == "tried\n"


@pytest.fixture(scope="module")
def tried(sandbox: Sandbox) -> dict[str, str]:
    """What a box answers to each system call that is refused, or that is in no table: by name, the error's."""
    machine = platform.machine()
    table = read_table(machine)
    calls = {name: number for name, (number, word) in table.items() if word == "refuse"}
    calls |= {"clone3": 435, "io_pgetevents": {"x86_64": 333, "aarch64": 292}[machine], "of-tomorrow": 999}
    code = f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for name, number in {calls}.items():
    done = libc.syscall(number, 0, 0, 0, 0, 0, 0)
    print(name, errno.errorcode[ctypes.get_errno()] if done < 0 else "DONE")
"""
    return dict(line.split() for line in live(sandbox, python(code)).text.splitlines())


@also(WATCHED)
def test_a_box_has_the_filter(tried: dict[str, str]) -> None:
    assert len(tried) > 45
    assert {name for name, error in tried.items() if error == "ENOSYS"} == {"clone3", "io_pgetevents", "of-tomorrow"}
    assert set(tried.values()) == {"ENOSYS", "EPERM"}


@also(WATCHED)
def test_there_are_no_other_sockets_than_programs_need(sandbox: Sandbox) -> None:
    code = """
import socket
for family in range(60):
    for kind in (1, 2, 3, 4, 5, 6, 10):
        for protocol in (0, 1, 6, 17, 58, 132, 136, 255, 262):
            try: socket.socket(family, kind, protocol).close(); print(family, kind, protocol)
            except OSError: pass
"""
    inet = [f"{family} {kind} {protocol}" for family in (2, 10) for kind, protocol in ((1, 0), (1, 6), (2, 0), (2, 17))]
    opened = live(sandbox, python(code)).text.splitlines()
    assert [line for line in opened if not line.startswith("1 ")] == inet
    assert "1 1 0" in opened


@also(WATCHED)
def test_a_debugger_and_a_leak_finder_work(sandbox: Sandbox) -> None:
    """Which trace their own child, and their own parent, and switch core files off."""
    code = """
import ctypes, os, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
TRACEME, PEEK, CONT, ATTACH, DETACH = 0, 1, 7, 16, 17
libc.ptrace.restype = ctypes.c_long
held = ctypes.c_long(0x1234)
child = os.fork()
if not child:
    libc.ptrace(TRACEME, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(7)
os.waitpid(child, 0)
print(hex(libc.ptrace(PEEK, child, ctypes.c_void_p(ctypes.addressof(held)), 0)))
libc.ptrace(CONT, child, 0, 0)
print(os.WEXITSTATUS(os.waitpid(child, 0)[1]), flush=True)
child = os.fork()
if not child:
    parent = os.getppid()
    print(libc.ptrace(ATTACH, parent, 0, 0), os.WIFSTOPPED(os.waitpid(parent, 0)[1]), flush=True)
    libc.ptrace(DETACH, parent, 0, 0)
    os._exit(0)
os.waitpid(child, 0)
print(libc.ptrace(ATTACH, 1, 0, 0), resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
"""
    assert live(sandbox, python(code)).text.splitlines() == ["0x1234", "7", "0 True", "-1 None"]


@also(WATCHED)
def test_an_address_sanitizer_works(sandbox: Sandbox) -> None:
    if live(sandbox, sh("command -v gcc")).end.exit_status != 0:
        pytest.skip("no gcc in this box")
    source = File(
        "a.c", b"#include <stdlib.h>\nint main(int n, char **v) { char *p = malloc(9); if (n > 1) free(p); p = 0; }"
    )
    script = "gcc -fsanitize=address -o a a.c && ./a freed && ./a; echo $?"
    ran = live(sandbox, sh(script), files={"/job": [source]}, limits=quick(wall=30, memory=1 << 30, disk=64 * MIB))
    assert "detected memory leaks" in ran.text
    assert ran.text.endswith("1\n")
    assert "fatal" not in ran.text


@also(ELSEWHERE)
def test_on_the_host_the_job_is_nobody_of_rights(sandbox: Sandbox) -> None:
    marker = new_marker()
    uids: set[str] = set()

    def look(box: Box, _: bytes) -> None:
        for pid in marked(marker):
            status = Path(f"/proc/{pid}/status").read_text()
            uids.update(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:])
        box.kill()

    live(sandbox, [*sh("echo up; sleep 1000"), marker], watch=look)
    assert len(uids) == 1
    assert "0" not in uids


@also(WATCHED, ELSEWHERE)
def test_live_boxes_do_not_see_each_other(sandbox: Sandbox) -> None:
    first_up, second_done = threading.Event(), threading.Event()
    ends: list[Ran] = []

    def first() -> None:
        def up(box: Box, _: bytes) -> None:
            first_up.set()
            second_done.wait(30)
            box.kill()

        ends.append(live(sandbox, sh("echo secret > /tmp/x; echo up; sleep 1000"), watch=up))

    thread = threading.Thread(target=first)
    thread.start()
    assert first_up.wait(30)
    ran = live(sandbox, sh("ls /tmp; ps ax | grep -c '[s]leep'"))
    second_done.set()
    thread.join()
    assert ran.text == "0\n"
    assert ends[0].end.cancelled


# --- what it leaves ------------------------------------------------------------------------------------


def test_only_regular_files_are_taken(sandbox: Sandbox) -> None:
    code = """
import os, socket
os.symlink("/etc/passwd", "passwd"); os.symlink("real", "link"); os.symlink("/", "root"); os.symlink(".", "dir")
os.mkfifo("fifo"); socket.socket(socket.AF_UNIX).bind("sock"); open("real", "w").write("yes"); os.link("real", "hard")
with open("sparse", "w") as file: file.truncate(8 << 20)
os.mkdir("closed"); open("closed/in", "w"); os.chmod("closed", 0); open("mine", "w").write("1"); os.chmod("mine", 0)
open("fine", "w").write("fine")
"""
    ran = live(sandbox, python(code))
    assert ran.files == {"fine": b"fine"}
    assert {path: reason.split(":")[0] for path, reason in ran.refused.items()} == {
        "passwd": "a symbolic link",
        "link": "a symbolic link",
        "root": "a symbolic link",
        "dir": "a symbolic link",
        "fifo": "a named pipe",
        "sock": "a socket",
        "real": "a hard link",
        "hard": "a hard link",
        "sparse": "a sparse file",
        "closed": "the job left it unreadable",
        "mine": "the job left it unreadable",
    }


def test_odd_names_are_refused(sandbox: Sandbox) -> None:
    code = r"""
import os
for name in (b"new\nline", b"\xff\xfe", "txt.\u202egpj".encode(), b"\x1b]0;pwn\x07", b"tab\t", b"-rf",
             "gr\u00fcn".encode(), "gru\u0308n".encode(), b"README", b"readme",
             b"with space", b"$(x)", "\U0001f600".encode()):
    open(name, "w").close()
"""
    ran = live(sandbox, python(code))
    assert sorted(ran.files) == sorted(["-rf", "README", "gru\u0308n", "with space", "$(x)", "\U0001f600"])
    assert {path: reason for path, reason in ran.refused.items() if "same" in reason}.keys() == {"readme", "gr\u00fcn"}
    assert "new\\nline" in ran.refused
    assert "\\udcff\\udcfe" in ran.refused
    assert "txt.\\u202egpj" in ran.refused
    for path in ran.refused:
        path.encode()
        assert path.isprintable()


def test_what_is_deep_is_refused_and_stops_nothing(sandbox: Sandbox) -> None:
    code = "import os\nfor n in range(5000): os.mkdir('d'); os.chdir('d')\nopen('/job/fine', 'w').close()"
    ran = live(sandbox, python(code))
    assert list(ran.files) == ["fine"]
    assert list(ran.refused.values()) == ["deeper than 12 levels"]


def test_bounds_hold(sandbox: Sandbox) -> None:
    code = "import os\nfor n in range(30): open(f'f{n:02}', 'w').write('x' * 1000)\nopen('z' * 200, 'w')"
    few = live(sandbox, python(code), bounds=CollectBounds(files=10))
    assert sorted(few.files) == [f"f{n:02}" for n in range(10)]
    assert set(few.refused.values()) == {"more than 10 files"}
    small = live(sandbox, python(code), bounds=CollectBounds(bytes=5500, path=100))
    assert sorted(small.files) == [f"f{n:02}" for n in range(5)]
    assert small.refused["z" * 200] == "its path is longer than 100 characters"
    scarce = live(sandbox, python(code), bounds=CollectBounds(entries=12))
    assert len(scarce.files) <= 12
    assert "more than 12 directory entries" in scarce.refused.values()


def test_a_named_file_is_found_in_a_crowd(sandbox: Sandbox) -> None:
    code = "for n in range(3000): open(f'f{n}', 'w').close()\nopen('report.json', 'w').write('{}')"
    ran = live(sandbox, python(code), patterns=["report.json"], bounds=CollectBounds(entries=100))
    assert ran.files == {"report.json": b"{}"}
    assert ran.refused == {}


TREE = "mkdir -p a/b/c; for f in x.c y.c a/x.c a/n.h a/b/x.c a/b/c/deep.c .hid a/.hid; do echo $f > $f; done"


PATTERNS: list[tuple[list[str], str]] = [
    (["x.c"], "x.c"),
    (["*.c"], "x.c y.c"),
    (["[x-z].c", "?.h"], "x.c y.c"),
    (["a/*.c"], "a/x.c"),
    (["**/x.c"], "a/b/x.c a/x.c x.c"),
    (["a/**/x.c"], "a/b/x.c a/x.c"),
    (["a/b"], "a/b/c/deep.c a/b/x.c"),
    (["a/b/"], "a/b/c/deep.c a/b/x.c"),
    (["*/b/"], "a/b/c/deep.c a/b/x.c"),
    (["a/b/**"], "a/b/c/deep.c a/b/x.c"),
    (["x.c/"], ""),
    (["**"], ".hid a/.hid a/b/c/deep.c a/b/x.c a/n.h a/x.c x.c y.c"),
    (["./x.c", "a/./n.h"], "a/n.h x.c"),
    (["nothing", "a/nothing/*"], ""),
    ([], ""),
]


def test_patterns(sandbox: Sandbox) -> None:
    """Of one box: what is collected stays there, to be collected again."""
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS))
    try:
        assert box.run(sh(TREE), env={}, output=lambda _: None).exit_status == 0
        found = [
            (patterns, " ".join(file.path for file in box.collect("/job", patterns).files)) for patterns, _ in PATTERNS
        ]
    finally:
        box.close()
    assert found == PATTERNS


def test_a_pattern_stays_below_its_mount(sandbox: Sandbox) -> None:
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS))
    try:
        box.run(["true"], env={}, output=lambda _: None)
        for pattern in ("../x", "/etc/passwd", "a/../../x", "a//b"):
            with pytest.raises(ValueError, match="unsafe"):
                box.collect("/job", [pattern])
    finally:
        box.close()


# --- channels ------------------------------------------------------------------------------------------


class Called:
    """One whole life of a box with a helper, whose calls are served by `serve`, each in a thread."""

    def __init__(self, serve: Callable[[Channel], None] | None) -> None:
        self.channels: list[Channel] = []
        self.threads: list[threading.Thread] = []
        self.said: list[bytes] = []
        self.took = 0.0
        self._serve = serve

    def calls(self, channel: Channel) -> None:
        self.channels.append(channel)
        if self._serve is not None:
            self.threads.append(threading.Thread(target=self._serve, args=(channel,)))
            self.threads[-1].start()

    def run(
        self,
        sandbox: Sandbox,
        command: list[str],
        *,
        limits: Limits = LIMITS,
        watch: Callable[[Box], None] | None = None,
    ) -> End:
        """`watch` is called with the box once its first output has come."""
        box = sandbox.open(BoxSpec(MOUNTS, "/job", limits, helper=True))
        try:

            def take(chunk: bytes) -> None:
                if watch is not None and not self.said:
                    threading.Thread(target=watch, args=(box,)).start()
                self.said.append(chunk)

            began = time.monotonic()
            end = box.run(command, env={}, output=take, calls=self.calls)
            self.took = time.monotonic() - began
            for thread in self.threads:
                thread.join(5)
                assert not thread.is_alive(), "every channel is at its end"
        finally:
            box.close()
        return end

    @property
    def text(self) -> str:
        return b"".join(self.said).decode()


CONNECT = """
import os, socket, sys, threading, time
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.connect("/minitango/socket")
    return s
def read(s):
    said = b""
    while piece := s.recv(1 << 16):
        said += piece
    return said
"""


def caller(code: str) -> list[str]:
    return python(CONNECT + code)


def echo(channel: Channel) -> None:
    while data := channel.recv():
        channel.send(data)
    channel.shutdown()
    assert channel.recv() == b""
    channel.close()


@also(ELSEWHERE, FLEET)
def test_what_goes_over_a_channel_arrives_both_ways(sandbox: Sandbox) -> None:
    called = Called(echo)
    code = """
def work():
    s, data = connect(), os.urandom(1 << 20) * 4
    threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR))).start()
    print(read(s) == data)
workers = [threading.Thread(target=work) for _ in range(3)]
for worker in workers: worker.start()
for worker in workers: worker.join()
"""
    limits = quick(wall=30, memory=96 * MIB)
    assert called.run(sandbox, caller(code), limits=limits).exit_status == 0
    assert called.text.split() == ["True"] * 3
    assert len(called.channels) == 3


def test_each_side_may_end_before_the_other(sandbox: Sandbox) -> None:
    heard: list[bytes] = []

    def first_we(channel: Channel) -> None:
        channel.send(b"ours")
        channel.shutdown()
        heard.append(read_all(channel))
        with pytest.raises(ChannelClosed):
            channel.send(b"more")
        channel.close()

    code = "s = connect(); print(read(s).decode()); s.sendall(b'theirs'); s.close()"
    called = Called(first_we)
    assert called.run(sandbox, caller(code)).exit_status == 0
    assert (called.text, heard) == ("ours\n", [b"theirs"])

    def first_they(channel: Channel) -> None:
        heard.append(read_all(channel))
        channel.send(b"answer")
        channel.close()

    code = "s = connect(); s.sendall(b'asked'); s.shutdown(socket.SHUT_WR); print(read(s).decode())"
    called = Called(first_they)
    assert called.run(sandbox, caller(code)).exit_status == 0
    assert (called.text, heard[1:]) == ("answer\n", [b"asked"])


def read_all(channel: Channel) -> bytes:
    said = b""
    while piece := channel.recv():
        said += piece
    return said


def test_a_daemon_that_holds_a_channel_delays_no_end(sandbox: Sandbox) -> None:
    heard: list[bytes] = []
    called = Called(lambda channel: heard.append(read_all(channel)))
    code = """
kept = [connect() for _ in range(3)]
if os.fork() == 0:
    os.setsid()
    while True:
        for s in kept: s.send(b'x')
        time.sleep(0.01)
time.sleep(0.1)
"""
    assert called.run(sandbox, caller(code)).exit_status == 0
    assert called.took < 3
    assert [set(said) for said in heard] == [set(b"x")] * 3


def test_what_came_before_the_end_is_there_after_it(sandbox: Sandbox) -> None:
    called = Called(None)
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS, helper=True))
    try:
        code = "kept = [connect() for _ in range(3)]\nfor s in kept: s.recv(1), s.sendall(b'x' * 100_000)"

        def greet(channel: Channel) -> None:
            called.calls(channel)
            channel.send(b"!")

        assert box.run(caller(code), env={}, output=lambda _: None, calls=greet).exit_status == 0
        for channel in called.channels:
            assert read_all(channel) == b"x" * 100_000
            assert channel.recv() == b""
            with pytest.raises(ChannelClosed):
                channel.send(b"y" * 1_000_000)
            channel.shutdown()
            channel.close()
            channel.close()
            channel.shutdown()
            assert channel.recv() == b""
            with pytest.raises(ChannelClosed):
                channel.send(b"y")
    finally:
        box.close()
    assert len(called.channels) == 3


def test_what_was_sent_before_a_close_arrives(sandbox: Sandbox) -> None:
    def serve(channel: Channel) -> None:
        channel.send(b"x" * 300_000)
        channel.close()

    called = Called(serve)
    code = "s = connect(); time.sleep(0.2); print(len(read(s)))"
    assert called.run(sandbox, caller(code)).exit_status == 0
    assert called.text == "300000\n"


def test_what_nobody_reads_is_not_held(sandbox: Sandbox) -> None:
    """A job that never reads stops us, and one that we do not read is stopped, after little."""
    taken: list[int] = []

    def feed(channel: Channel) -> None:
        with contextlib.suppress(ChannelClosed):
            while True:
                channel.send(b"x" * 65536)
                taken.append(65536)

    called = Called(feed)
    code = """
kept = [connect() for _ in range(4)]
for s in kept: s.setblocking(False)
sent, last = 0, time.monotonic()
while time.monotonic() < last + 0.5:
    for s in kept:
        try: sent, last = sent + s.send(b'x' * 65536), time.monotonic()
        except BlockingIOError: pass
    time.sleep(0.001)
print(sent, flush=True)
time.sleep(1000)
"""
    end = called.run(sandbox, caller(code), watch=lambda box: box.kill())
    assert end.cancelled
    assert called.took < 8
    assert 4 << 16 <= int(called.text) <= 4 * MIB
    assert 4 << 16 <= sum(taken) <= 4 * MIB


def test_many_channels_at_once_and_no_more(sandbox: Sandbox) -> None:
    served = threading.Semaphore(0)

    def serve(channel: Channel) -> None:
        served.release()
        echo(channel)

    called = Called(serve)
    code = f"""
kept = [connect() for _ in range({CHANNELS})]
for n, s in enumerate(kept):
    s.sendall(b'%d' % n)
    assert s.recv(9) == b'%d' % n
try: print("one more:", connect().recv(9))
except ConnectionResetError: print("one more: b''")
kept.pop().close()
while True:
    try:
        s = connect()
        s.sendall(b'again')
        if s.recv(9) == b'again': break
    except (ConnectionResetError, BrokenPipeError): pass
    time.sleep(0.02)
print("again")
"""
    assert called.run(sandbox, caller(code)).exit_status == 0
    assert called.text == "one more: b''\nagain\n"
    assert len(called.channels) == CHANNELS + 1


@pytest.mark.parametrize("how", ["kill", "wall", "raise"])
def test_the_end_wakes_who_waits_on_a_channel(sandbox: Sandbox, how: str) -> None:
    ends: list[str] = []

    def hear(channel: Channel) -> None:
        ends.append(f"heard {channel.recv()!r}")

    def say(channel: Channel) -> None:
        try:
            channel.send(b"x" * (32 << 20))
        except ChannelClosed:
            ends.append("not taken")

    def both(channel: Channel) -> None:
        waiting = threading.Thread(target=hear, args=(channel,))
        waiting.start()
        say(channel)
        waiting.join()

    called = Called(both)
    code = "s = connect(); s.recv(1); print('up', flush=True); time.sleep(1000)"
    box = sandbox.open(BoxSpec(MOUNTS, "/job", quick(wall=1 if how == "wall" else 20), helper=True))

    def up(_: bytes) -> None:
        if how == "raise":
            raise ZeroDivisionError
        if how == "kill":
            threading.Timer(0.2, box.kill).start()

    began = time.monotonic()
    try:
        if how == "raise":
            with pytest.raises(ZeroDivisionError):
                box.run(caller(code), env={}, output=up, calls=called.calls)
        else:
            end = box.run(caller(code), env={}, output=up, calls=called.calls)
            assert (end.cancelled, end.limit) == ((True, None) if how == "kill" else (False, "wall"))
        assert time.monotonic() - began < 4
        for thread in called.threads:
            thread.join(5)
        assert sorted(ends) == ["heard b''", "not taken"]
    finally:
        box.close()


def test_close_wakes_who_waits_on_a_channel(sandbox: Sandbox) -> None:
    woken: list[bytes] = []

    def serve(channel: Channel) -> None:
        threading.Timer(0.2, channel.close).start()
        woken.append(channel.recv())

    called = Called(serve)
    assert called.run(sandbox, caller("print(read(connect()))")).exit_status == 0
    assert (woken, called.text) == ([b""], "b''\n")


@pytest.mark.parametrize("error", [ZeroDivisionError, OSError])
def test_what_whoever_takes_calls_raises_goes_through(sandbox: Sandbox, error: type[Exception]) -> None:
    def refuse(_: Channel) -> None:
        raise error

    marker = new_marker()
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS, helper=True))
    try:
        with pytest.raises(error):
            box.run([*caller("connect(); time.sleep(1000)"), marker], env={}, output=lambda _: None, calls=refuse)
    finally:
        box.close()
    assert marked(marker) == []


FLOOD = """
def flood():
    while True:
        try: connect().close()
        except OSError: pass
for _ in range(8): threading.Thread(target=flood, daemon=True).start()
print("up", flush=True)
time.sleep(1.2)
print("still", flush=True)
os._exit(3)
"""


@pytest.mark.parametrize("closes", [True, False])
def test_a_flood_of_connections_is_taken_slowly(sandbox: Sandbox, closes: bool) -> None:
    called = Called(None)
    box = sandbox.open(BoxSpec(MOUNTS, "/job", quick(wall=20), helper=True))
    said: list[bytes] = []

    def take(channel: Channel) -> None:
        called.calls(channel)
        if closes:
            channel.close()

    try:
        began, busy = time.monotonic(), time.process_time()
        end = box.run(caller(FLOOD), env={}, output=said.append, calls=take)
        assert (end.exit_status, b"".join(said)) == (3, b"up\nstill\n")
        assert time.monotonic() - began < 5
        assert time.process_time() - busy < 1
        most = RUSH * (int(time.monotonic() - began) + 1) if closes else CHANNELS
        assert CHANNELS <= len(called.channels) <= most
    finally:
        box.close()


@also(ELSEWHERE)
def test_nobody_else_can_be_what_a_box_calls(sandbox: Sandbox) -> None:
    """The job can change nothing of HELPER, as which it may run."""
    called = Called(echo)
    code = """
def refused(what, *arguments):
    try: what(*arguments); print("DONE", what.__name__, arguments)
    except OSError: pass
at = "/minitango"
for path in ("socket", "bin/minitango-student", "bin", "python", "new"):
    for what in (os.unlink, os.rmdir, os.mkdir):
        refused(what, f"{at}/{path}")
    refused(os.rename, f"{at}/{path}", "/job/moved")
    refused(os.rename, "/job", f"{at}/{path}")
    refused(os.link, f"{at}/{path}", "/job/linked")
    refused(os.symlink, "/job", f"{at}/{path}")
    refused(os.chmod, f"{at}/{path}", 0o777)
    refused(os.truncate, f"{at}/{path}", 0)
    refused(socket.socket(socket.AF_UNIX).bind, f"{at}/{path}")
refused(os.rename, at, "/elsewhere")
s = connect()
s.sendall(b"still you")
print(s.recv(99).decode())
"""
    assert called.run(sandbox, caller(code)).exit_status == 0
    assert called.text == "still you\n"


@also(ELSEWHERE, FLEET)
def test_the_helper_is_there_and_runs(sandbox: Sandbox) -> None:
    called = Called(None)
    script = "minitango-student --help | head -1; ls /minitango; exec env PATH=/job minitango-student true"
    assert called.run(sandbox, sh(f"PATH=/minitango/bin:$PATH; {script}")).exit_status == 127  # env's: not in that PATH
    lines = called.text.splitlines()
    assert lines[0].startswith("Usage: minitango-student ")
    assert {"bin", "socket"} <= set(lines[1:])


def test_a_connection_that_nobody_wants_is_at_its_end(sandbox: Sandbox) -> None:
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS, helper=True))
    code = "try: print(connect().recv(9))\nexcept ConnectionResetError: print(b'')"
    said: list[bytes] = []
    try:
        assert box.run(caller(code), env={}, output=said.append).exit_status == 0
    finally:
        box.close()
    assert said == [b"b''\n"]


@also(ELSEWHERE)
def test_a_box_without_a_helper_has_none(sandbox: Sandbox) -> None:
    box = sandbox.open(BoxSpec(MOUNTS, "/job", LIMITS))
    try:
        with pytest.raises(ValueError, match="helper"):
            box.run(["true"], env={}, output=lambda _: None, calls=lambda _: None)
        assert box.run(["ls", "/minitango"], env={}, output=lambda _: None).exit_status == 2
    finally:
        box.close()
    for path in ("/minitango", "/minitango/x"):
        with pytest.raises(ValueError, match="mount"):
            sandbox.open(BoxSpec((*MOUNTS, Mount(path)), "/job", LIMITS, helper=True))


@also(ELSEWHERE)
def test_nothing_of_a_channel_is_left(sandbox: Sandbox) -> None:
    """Neither what was left open by us, nor what the job sent along."""
    code = """
import array
kept = [connect() for _ in range(4)]
for s in kept[:2]:
    s.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno(), 0, 1, 2]))])
time.sleep(0.05)
"""
    counts = []
    for _ in range(4):
        called = Called(lambda channel: channel.recv() and None)
        assert called.run(sandbox, caller(code)).exit_status == 0
        assert len(called.channels) == 4
        del called
        counts.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
    assert counts[1] == counts[3]


@pytest.mark.parametrize("how", ["read", "unread", "refused", "waiting", "out of band"])
def test_open_files_that_a_job_sends_along_hold_nobody_up(sandbox: Sandbox, how: str) -> None:
    """To close a TCP socket may wait until what was sent over it is taken: a job may leave both ends of a connection in
    a channel, for us to close."""
    heard: list[bytes] = []

    def serve(channel: Channel) -> None:
        if how in ("read", "out of band"):
            heard.append(read_all(channel))
        elif how == "unread":
            time.sleep(0.3)
        channel.close()

    code = f"""
import array, struct
def burden(s, flags):
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1000))
    near.setblocking(False)
    try:
        while True: near.send(bytes(65536))
    except BlockingIOError: pass
    for end in (near, far):
        s.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [end.fileno()]))], flags)
    near.close(), far.close()  # which waits itself, where we were the quicker ones
how = {how!r}
threading.Timer(0.6, os._exit, [5]).start()
kept = [connect() for _ in range({CHANNELS} if how in ("refused", "waiting") else 1)]
if how == "refused":
    kept[0].recv(1)
    burden(s := connect(), 0)
elif how == "waiting":
    def rush():
        while True:
            try: burden(connect(), 0)
            except OSError: pass
    for _ in range(8): threading.Thread(target=rush, daemon=True).start()
else:
    kept[0].sendall(b"first")
    time.sleep(0.1)
    burden(kept[0], socket.MSG_OOB if how == "out of band" else 0)
time.sleep(9)
"""
    called = Called(serve if how != "refused" else lambda channel: channel.send(b"!"))
    if how == "waiting":
        called = Called(None)
    before = threading.active_count()
    assert called.run(sandbox, caller(code), limits=quick(wall=20, memory=64 * MIB)).exit_status == 5
    assert called.took < 4
    if heard:
        assert heard[0].startswith(b"first")
    eventually(lambda: threading.active_count() <= before)
    assert live(sandbox, ["true"]).end.exit_status == 0
