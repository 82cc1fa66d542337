"""The supervisor, held to every sentence of its PROTOCOL.md: as pid 1 of a real namespace, with real processes."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import resource
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minitango.archive import File
from minitango.sandbox import _frames
from tests import supervised as sup
from tests.supervised import (
    BECOME,
    CPU,
    ENDED,
    EXEC,
    GID,
    GIVEN,
    JOB,
    KILLED,
    NEVER,
    NONE,
    OUTPUT,
    STATUS,
    UID,
    WALL,
    Line,
    as_root,
    emulated,
    frame,
    get_frame,
    in_bubblewrap,
    list_frame,
    look_frame,
    put_file,
    put_tree,
    run,
)
from tests.support import PATIENCE, eventually, need_bubblewrap

UNTIL_TOLD = 'trap "exit 7" USR1; echo up; while :; do sleep 0.02; done'
"""A job that ends by itself when it gets SIGUSR1."""


@pytest.fixture(params=["unprivileged", "root", "emulated"])
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Line]:
    """A supervisor that has said hello: where the job is the same user, where it is another one, and the binary of the
    other architecture."""
    if request.param == "root":
        sup.need_root()
        command = as_root()
    else:
        need_bubblewrap()
        command = emulated() if request.param == "emulated" else in_bubblewrap()
    with Line(command) as made:
        made.hello()
        yield made


@pytest.fixture
def plain() -> Iterator[Line]:
    """The same, in one way that every machine has."""
    need_bubblewrap()
    with Line(in_bubblewrap()) as made:
        made.hello()
        yield made


@pytest.fixture
def rooted(tmp_path: Path) -> Iterator[Line]:
    """The same, where the job has a user of its own."""
    sup.need_root()
    with Line(as_root()) as made:
        made.hello()
        yield made


def main_process(line: Line) -> int:
    found: list[int] = []

    def is_there() -> bool:
        found[:] = sup.children(line.pid1())
        return bool(found)

    eventually(is_there, "no process of the job")
    return found[0]


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


# --- the start ---------------------------------------------------------------------------------------


def test_it_says_what_it_sees(line: Line, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    command = as_root() if "root" in request.node.name else in_bubblewrap()
    with Line(command) as other:
        hello = other.hello()
    assert hello.version == 2
    assert hello.facts & 2 == 0, "no network but loopback"
    assert hello.facts & 16, "no_new_privs"
    assert (hello.memory, hello.pids, hello.millicores) == (0, 0, 0), "the group of this machine is not the container's"
    assert hello.capabilities == (0b1110_0000 if "root" in request.node.name else 0)


def test_loopback_is_seen_where_it_is_up(plain: Line, tmp_path: Path) -> None:
    with Line(in_bubblewrap()) as other:  # bubblewrap brings it up
        assert other.hello().facts & 1
    sup.need_root()
    with Line(as_root()) as other:  # unshare does not
        assert not other.hello().facts & 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), b"usage"),
        (("1", "2", "3"), None),
        (("-1", "2", "3"), b"-1"),
        (("1", "4294967295", "3"), b"4294967295"),
        (("1", "2", "x"), b"x"),
        (("1", "2", "3", "/job"), b"/job"),
        (("1", "2", "3", "w:job"), b"w:job"),
        (("1", "2", "3", "w:/nothing"), b"w:/nothing: No such file"),
        (("1", "2", "3", "w:/supervise"), b"Not a directory"),
        (("1", "2", "3", *["r:/given"] * 65), b"r:/given"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[str, ...], said: bytes | None) -> None:
    need_bubblewrap()
    command = in_bubblewrap("x")[:-1]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False
    )
    if said is None:
        assert (done.returncode, done.stderr) == (0, b"")
    else:
        assert (done.returncode, done.stdout) == (2, b"")
        assert said in done.stderr


def test_it_refuses_to_be_anything_but_pid_1() -> None:
    done = subprocess.run([sup.NATIVE, "1000", "1000", "0"], capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert b"not pid 1" in done.stderr


# --- files in ----------------------------------------------------------------------------------------


def test_files_arrive_whole_with_parents_and_modes(line: Line) -> None:
    large = os.urandom(300_000)
    line.say(
        put_file("a/b/large", large),
        put_file("a/tool", b"#!/bin/sh\necho tool\n", executable=1, piece=3),
        put_file("empty", b""),
        put_file("given", b"given\n", mount=GIVEN),
        put_file("large", large, mount=GIVEN),
    )
    assert line.problem() == (0, 0, "")
    end = line.sh("stat -c '%a %s %n' a a/b a/b/large a/tool empty; a/tool; sha256sum <a/b/large")
    assert end.said.splitlines()[:5] == [
        b"755 80 a",
        b"755 60 a/b",
        b"644 300000 a/b/large",
        *end.said.splitlines()[3:5],
    ]
    assert end.said.splitlines()[3:6] == [b"755 20 a/tool", b"644 0 empty", b"tool"]
    assert line.answer(get_frame("a/b/large"))[3] == large
    assert line.answer(get_frame("large", mount=GIVEN))[3] == large


def test_an_existing_file_is_replaced_and_not_written_through(plain: Line) -> None:
    plain.say(put_file("f", b"old and longer"), put_file("f", b"new"), run("cat", "f"))
    assert plain.end().said == b"new"


def test_the_job_owns_what_lies_in_its_mount_and_nothing_else(rooted: Line) -> None:
    rooted.say(put_file("d/f", b"x"), put_file("d/g", b"x", mount=GIVEN))
    assert rooted.problem()[0] == 0
    end = rooted.sh("stat -c '%u %g %n' d d/f; cd ../given && stat -c '%u %g %n' d d/g; echo y >>d/g || echo x >h")
    owned = f"{UID} {GID} "
    assert end.said.splitlines()[:4] == [f"{owned}d".encode(), f"{owned}d/f".encode(), b"0 0 d", b"0 0 d/g"]
    assert end.said.count(b"ermission denied") == 2


def test_a_tree_is_copied(tmp_path: Path) -> None:
    need_bubblewrap()
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(b"deep")
    (tmp_path / "tool").write_bytes(b"#!/bin/sh\necho tool\n")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "large").write_bytes(b"x" * 200_000)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("tool")
    os.mkfifo(tmp_path / "pipe")
    for number in range(300):
        (tmp_path / f"many-{number:0200d}").touch()
    tmp_path.chmod(0o755)
    with Line(in_bubblewrap(setup=("--ro-bind", str(tmp_path), "/bundle"))) as line:
        line.hello()
        line.say(put_tree("/bundle"), put_tree("/bundle/a", GIVEN))
        assert line.problem() == (0, 0, "")
        end = line.sh("./tool; cat a/b/f ../given/b/f; stat -c ' %a %s' large; ls | grep -c many; ls | grep -v many")
        assert end.said == b"tool\ndeepdeep 644 200000\n300\na\nlarge\ntool\n"


def test_what_went_wrong_first_is_told_once(line: Line) -> None:
    line.say(
        put_file("file", b"x"),
        put_file("file/below", b"y" * 70000),  # a file is no directory
        put_file("skipped", b"z"),
        put_tree("/nothing", GIVEN),
    )
    assert line.problem() == (errno.ENOTDIR, JOB, "file/below")
    assert line.problem() == (0, 0, "")
    line.say(put_tree("/nothing/here", GIVEN))
    assert line.problem() == (errno.ENOENT, GIVEN, "/nothing/here")
    line.say(put_file("d/f", b""), put_file("d", b""))
    assert line.problem() == (errno.EISDIR, JOB, "d")
    line.say(put_file("n" * 256, b""))
    assert line.problem() == (errno.ENAMETOOLONG, JOB, "n" * 256)
    line.say(put_file("n" * 256 + "/f", b""))
    assert line.problem() == (errno.ENAMETOOLONG, JOB, "n" * 256 + "/f")
    assert line.run("ls").said == b"d\nfile\n"


def test_a_mount_that_is_full_is_told(line: Line) -> None:
    line.say(put_file("fits", b"x"), put_file("big", b"x" * (5 << 20)), put_file("more", b"y"))
    assert line.problem() == (errno.ENOSPC, JOB, "big")
    end = line.run("true")
    assert (end.what, end.full) == (STATUS, 1)


def test_a_tree_that_is_too_deep_ends_with_an_error(tmp_path: Path) -> None:
    need_bubblewrap()
    (tmp_path / "d").joinpath(*["d"] * 64).mkdir(parents=True)
    fits = tmp_path.joinpath(*["d"] * 64) / "f"
    fits.touch()
    with Line(in_bubblewrap(setup=("--ro-bind", str(tmp_path), "/bundle"))) as line:
        line.hello()
        line.say(put_tree("/bundle"))
        assert line.problem() == (errno.ELOOP, JOB, "/".join(["d"] * 65))
        assert line.run("sh", "-c", "find . -name f | wc -l").said in (b"1\n", b"0\n")  # by the order of the directory


def test_no_link_is_followed_when_files_are_put(tmp_path: Path) -> None:
    need_bubblewrap()
    for name in ("job", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    tmp_path.chmod(0o755)
    (tmp_path / "outside" / "kept").write_text("kept")
    (tmp_path / "job" / "directory").symlink_to("/outside")
    (tmp_path / "job" / "file").symlink_to("/outside/kept")
    job = ("--bind", str(tmp_path / "job"), "/job", "--bind", str(tmp_path / "outside"), "/outside")
    with Line(in_bubblewrap(job=job)) as line:
        line.hello()
        line.say(put_file("directory/kept", b"lost"))
        assert line.problem() == (errno.ENOTDIR, JOB, "directory/kept")
        line.say(put_file("file", b"mine"), put_tree("/job/directory", GIVEN))
        assert line.problem() == (errno.ENOTDIR, GIVEN, "/job/directory")
        assert line.run("cat", "file", "/outside/kept").said == b"minekept"


# --- the command -------------------------------------------------------------------------------------


def test_how_a_command_ends_is_its_wait_status(line: Line) -> None:
    end = line.sh("echo out; echo err >&2; exit 139")
    assert (end.how, end.what, end.number) == (ENDED, STATUS, 139 << 8)
    assert end.said == b"out\nerr\n"
    assert end.output == 8
    assert end.wall > 0
    assert end.largest > 0


def test_a_signal_is_told_from_a_status(plain: Line) -> None:
    end = plain.sh("kill -SEGV $$")
    assert (end.how, end.what) == (ENDED, STATUS)
    assert os.WTERMSIG(end.number) == signal.SIGSEGV


def test_it_gets_exactly_its_words_and_its_environment(line: Line) -> None:
    script = r'for word; do printf "<%s>" "$word"; done; pwd; tr "\0" "\n" </proc/self/environ'
    end = line.run("sh", "-c", script, "zero", "", "a b", "*", b"\xff\xfe", env=("PATH=/usr/bin:/bin", "A==", "B="))
    head, *environment = end.said.split(b"\n")
    assert head.startswith(b"<><a b><*><\xff\xfe>/")
    assert head.endswith(b"/job")
    assert environment == [b"PATH=/usr/bin:/bin", b"A==", b"B=", b""]


def test_it_may_start_in_any_mount(line: Line) -> None:
    assert line.run("pwd", mount=GIVEN).said.endswith(b"/given\n")


def test_what_it_is(line: Line, request: pytest.FixtureRequest) -> None:
    script = """
        umask; cat /proc/self/oom_score_adj; readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2
        ls /proc/$$/fd; echo; cut -d' ' -f1,6 /proc/$$/stat; cat /proc/self/status
    """
    end = line.sh(script)
    assert (end.how, end.number) == (ENDED, 0), end
    mask, oom, zero, one, two, *rest = end.said.decode().splitlines()
    assert (mask, oom, zero) == ("0022", "500", "/dev/null")
    assert one == two
    assert one.startswith("pipe:")
    numbers, session = rest[: rest.index("")], rest[rest.index("") + 1]
    assert set(numbers) <= {"0", "1", "2", "10", "255"}, "10 and 255 are the shell's own"
    pid, group = session.split()
    assert pid == group, "a session of its own"
    status = dict(text.split(":\t", 1) for text in rest if ":\t" in text)
    rooted = "root" in request.node.name
    assert status["Uid"].split() == [str(UID if rooted else 1000)] * 4
    assert status["Gid"].split() == [str(GID if rooted else 1000)] * 4
    assert status["Groups"].strip() == ""
    assert status["NoNewPrivs"] == "1"
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) == 0


def test_no_descriptor_is_inherited(tmp_path: Path) -> None:
    need_bubblewrap()
    with (tmp_path / "secret").open("w+") as secret, Line(in_bubblewrap(), fds=[secret.fileno()]) as line:
        line.hello()
        end = line.run("ls", "/proc/self/fd")
        assert end.said == b"0\n1\n2\n3\n", "3 is the listing's own"


def test_descriptors_are_closed_without_close_range_too(tmp_path: Path) -> None:
    """Linux before 5.9 has no such call, nor have filters that do not know it."""
    need_bubblewrap()
    close_range = 436  # on every machine
    program = struct.pack("<HBBI", 0x20, 0, 0, 0) + struct.pack("<HBBI", 0x15, 0, 1, close_range)
    program += struct.pack("<HBBI", 0x06, 0, 0, 0x00050000 | errno.ENOSYS) + struct.pack(
        "<HBBI", 0x06, 0, 0, 0x7FFF0000
    )
    with (tmp_path / "filter").open("wb+") as filter_, (tmp_path / "secret").open("w+") as secret:
        filter_.write(program)
        filter_.seek(0)
        with contextlib.ExitStack() as many:
            fds = [many.enter_context((tmp_path / "secret").open()).fileno() for _ in range(300)]
            setup = ("--seccomp", str(filter_.fileno()))
            with Line(in_bubblewrap(setup=setup), fds=[filter_.fileno(), secret.fileno(), *fds]) as line:
                assert line.hello().facts & 32, "a filter is on"
                assert line.run("ls", "/proc/self/fd").said == b"0\n1\n2\n3\n"


def test_its_own_score_is_kept_where_it_is_higher() -> None:
    need_bubblewrap()
    command = ["sh", "-c", 'echo 700 >/proc/self/oom_score_adj; exec "$@"', "sh", *in_bubblewrap()]
    with Line(command) as line:
        line.hello()
        assert line.run("cat", "/proc/self/oom_score_adj").said == b"700\n"


# refuse getppid (110, 173) with EDOM, allow everything else
LOAD, EQUAL, RETURN, ALLOW, REFUSE = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050000
GETPPID = {"x86_64": 110, "aarch64": 173}


def test_a_filter_holds_for_the_job_alone(plain: Line) -> None:
    number = GETPPID[platform.machine()]
    refusing = [(LOAD, 0, 0, 0), (EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | errno.EDOM), (RETURN, 0, 0, ALLOW)]
    script = "print syscall($ARGV[0] + 0), ' ', $! + 0, ' '; open(F, '/proc/1/status'); print grep { /^Seccomp:/ } <F>"
    end = plain.run("perl", "-e", script, str(number), filter=refusing)
    assert end.said.split() == [b"-1", str(errno.EDOM).encode(), b"Seccomp:", b"0"]


@pytest.mark.parametrize(
    "wrong", [[(RETURN, 0, 0, 0xFF)] * 5000, [(LOAD, 0, 0, 0)], [(0xFFFF, 1, 1, 1)]], ids=["long", "endless", "unknown"]
)
def test_a_filter_that_the_kernel_refuses_is_said(plain: Line, wrong: list[tuple[int, int, int, int]]) -> None:
    end = plain.run("true", filter=wrong)
    assert (end.how, end.what, end.number) == (ENDED, BECOME, errno.EINVAL)


def test_limits_are_soft_and_hard_and_never_above_what_is_allowed(line: Line) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 4096), (resource.RLIMIT_NOFILE, NONE)]
    end = line.sh("ulimit -Sc; ulimit -Hc; ulimit -Sf; ulimit -Hf; ulimit -Hn", limits=limits)
    assert end.said.split()[:4] == [b"0", b"0", b"8", b"8"]
    assert int(end.said.split()[4]) <= hard


def test_a_limit_that_does_not_exist_is_told(line: Line) -> None:
    for_nothing = 1 << 31
    end = line.run("true", limits=[(99, 1)])
    assert (end.how, end.what, end.number) == (ENDED, BECOME, errno.EINVAL)
    with Line(in_bubblewrap()) as other:
        other.hello()
        assert other.run("true", limits=[(for_nothing, 1)])[1:3] == (BECOME, errno.EINVAL)


@pytest.mark.parametrize(
    ("word", "path", "number"),
    [
        ("nothing", "PATH=/usr/bin:/bin", errno.ENOENT),
        ("true", "PATH=", errno.ENOENT),
        ("true", "A=1", errno.ENOENT),
        ("", "PATH=/usr/bin", errno.ENOENT),
        ("./nothing", "PATH=/usr/bin", errno.ENOENT),
        ("/usr", "PATH=/usr/bin", errno.EACCES),
        ("usr", "PATH=/:/usr/bin", errno.EACCES),
        ("plain", "PATH=/job", errno.EACCES),
        ("empty", "PATH=:/usr/bin", errno.ENOEXEC),
        ("text", "PATH=/job", errno.ENOEXEC),
        ("/proc/version/x", "PATH=", errno.ENOTDIR),
        ("n" * 300, "PATH=/usr/bin", errno.ENOENT),
        ("true", "PATH=/proc/version:/" + "p" * 5000, errno.ENOENT),
    ],
)
def test_why_a_command_cannot_be_executed(plain: Line, word: str, path: str, number: int) -> None:
    plain.say(put_file("plain", b"#!/bin/sh\n"), put_file("empty", b"", executable=1))
    plain.say(put_file("text", b"echo no shell guesses", executable=1))
    end = plain.run(word, env=(path,))
    assert (end.how, end.what, os.strerror(end.number)) == (ENDED, EXEC, os.strerror(number))
    assert end.said == b""


@pytest.mark.parametrize("path", ["/nothing:/job:/usr/bin", "/proc/version:/given:/usr/bin", ":/usr/bin", "/usr/bin:"])
def test_the_path_is_walked(plain: Line, path: str) -> None:
    plain.say(put_file("true", b"not executable"), run("true", env=(f"PATH={path}",)))
    end = plain.end()
    assert (end.what, end.number) == (STATUS, 0)


def test_the_longest_command(plain: Line) -> None:
    """8 MiB of frame, all of which the kernel then refuses; and as much as it takes."""
    size = 8 * (1 << 20) - 35 - 4 - 4 - 4 - 4
    asked = run(b"/bin/true", b"x" * (size - 4 - 9), env=())
    assert struct.unpack("!I", asked[1:5])[0] <= 8 << 20
    plain.say(asked)
    end = plain.end()
    assert (end.what, end.number) == (EXEC, errno.E2BIG)
    with Line(in_bubblewrap()) as other:
        other.hello()
        end = other.run("sh", "-c", "echo $#", "sh", *["x"] * 100_000)
        assert end.said == b"100000\n"
    with Line(in_bubblewrap()) as other:
        other.hello()
        end = other.run("true", *[""] * 2_000_000)
        assert (end.what, end.number) == (EXEC, errno.E2BIG)


# --- limits ------------------------------------------------------------------------------------------


def test_the_wall_limit(line: Line) -> None:
    end = line.sh("echo before; sleep 100", wall=0.3)
    assert (end.how, end.what, os.WTERMSIG(end.number)) == (WALL, STATUS, signal.SIGKILL)
    assert end.said == b"before\n"
    assert end.wall >= 300_000


@pytest.mark.parametrize(
    "script",
    [
        "while :; do :; done",
        "(while :; do :; done) & wait",
        "(while :; do :; done) & (while :; do :; done) & sleep 100",
        "(setsid sh -c 'while :; do :; done' & ) ; sleep 100",  # an orphan's time counts, too
        "while :; do sh -c ':'; done",  # many that are short
    ],
)
def test_the_cpu_limit(plain: Line, script: str) -> None:
    end = plain.sh(script, cpu=0.3)
    assert end.how == CPU
    assert end.cpu >= 200_000


def test_the_cpu_limit_of_the_others(rooted: Line) -> None:
    assert rooted.sh("while :; do :; done", cpu=0.2).how == CPU


def test_sleeping_is_no_cpu_time(plain: Line) -> None:
    end = plain.run("sleep", "0.5", cpu=0.4)
    assert end.how == ENDED
    assert end.cpu < 400_000 < end.wall


@pytest.mark.parametrize("script", ["yes", "while :; do echo; done", "yes >&2", "yes & yes & sleep 100"])
def test_the_output_limit(plain: Line, script: str) -> None:
    end = plain.sh(script, output=100_000)
    assert end.how == OUTPUT
    assert 100_000 < end.output <= 100_000 + 65536
    assert len(end.said) == end.output


@pytest.mark.parametrize("most", [5, 6])
def test_output_counts_though_the_command_has_ended(plain: Line, most: int) -> None:
    plain.say(run("sh", "-c", 'trap "printf 456; exit 7" USR1; printf 123; while :; do sleep 0.02; done', output=most))
    plain.output(b"123")
    job = main_process(plain)
    os.kill(plain.pid1(), signal.SIGSTOP)
    os.kill(job, signal.SIGUSR1)
    eventually(lambda: is_zombie(job))
    os.kill(plain.pid1(), signal.SIGCONT)
    end = plain.end()
    assert (end.how, end.what, end.number, end.output) == (OUTPUT if most == 5 else ENDED, STATUS, 7 << 8, 6)


def test_a_kill_ends_the_run(line: Line) -> None:
    line.say(run("sh", "-c", "echo up; sleep 100"))
    line.output(b"up\n")
    line.say(frame("K"), frame("K"))
    end = line.end()
    assert (end.how, end.what, end.number) == (KILLED, STATUS, signal.SIGKILL)


@pytest.mark.parametrize("inside_a_file", [False, True])
def test_a_kill_before_the_run_ends_it_at_once(line: Line, inside_a_file: bool) -> None:
    if inside_a_file:
        line.say(frame("P", struct.pack("!HBQ", JOB, 0, 1) + b"f"), frame("K"), frame("D", b"x"))
    else:
        line.say(frame("K"))
    end = line.sh("echo never")
    assert (end.how, end.what, end.number, end.said) == (KILLED, NEVER, 0, b"")
    assert line.answer(list_frame())[0] == 0


def test_a_kill_after_the_end_is_nothing(plain: Line) -> None:
    assert plain.run("true").how == ENDED
    plain.say(frame("K"))
    assert plain.answer(list_frame())[:3] == (0, 0, {})


def test_it_says_that_it_is_alive(plain: Line) -> None:
    plain.say(run("sh", "-c", "echo up; sleep 100"))
    plain.output(b"up\n")
    start = time.monotonic()
    assert plain.frame() == ("b", b"")
    assert time.monotonic() - start > 1
    assert plain.frame() == ("b", b"")


def test_a_time_in_which_it_stood_still_is_not_charged(plain: Line) -> None:
    plain.say(run("sh", "-c", UNTIL_TOLD, wall=5))
    plain.output(b"up\n")
    job = main_process(plain)
    os.kill(plain.pid1(), signal.SIGSTOP)
    time.sleep(5.2)  # the fault itself: standing still for longer than the limit
    os.kill(plain.pid1(), signal.SIGCONT)
    plain.hear("b")  # it has seen the time
    os.kill(job, signal.SIGUSR1)
    end = plain.end()
    assert (end.how, end.number) == (ENDED, 7 << 8)
    assert end.wall > 5_000_000


def test_a_command_that_had_ended_when_the_limit_was_seen_has_ended(plain: Line) -> None:
    plain.say(run("sh", "-c", UNTIL_TOLD, wall=1))
    plain.output(b"up\n")
    job = main_process(plain)
    os.kill(plain.pid1(), signal.SIGSTOP)
    os.kill(job, signal.SIGUSR1)
    eventually(lambda: is_zombie(job))
    time.sleep(1.2)  # past the limit, by less than what is forgiven
    plain.say(frame("K"))
    os.kill(plain.pid1(), signal.SIGCONT)
    end = plain.end()
    assert (end.how, end.number) == (ENDED, 7 << 8)


def test_a_time_in_which_nobody_took_its_output_is_not_charged(plain: Line) -> None:
    flood = 'trap "exit 7" USR1; while :; do echo 0123456789012345678901234567890123456789; done'
    plain.say(run("sh", "-c", flood, wall=2, output=1 << 30))
    time.sleep(4)  # nobody reads
    os.kill(main_process(plain), signal.SIGUSR1)
    end = plain.end()
    assert (end.how, end.number) == (ENDED, 7 << 8)
    assert end.wall > 3_000_000


def test_while_nobody_takes_its_output_the_job_waits(plain: Line) -> None:
    plain.say(run("sh", "-c", "yes | head -c 3000000; echo done >&2", output=1 << 30))
    time.sleep(0.5)
    assert (peak := resident(plain.pid1())) < 2 << 20, peak
    end = plain.end()
    assert end.output == 3_000_005
    assert end.said.endswith(b"done\n")


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_its_memory_is_bounded_and_a_long_command_is_forgotten(plain: Line) -> None:
    plain.say(run("sh", "-c", "echo up; sleep 100", b"x" * 100_000, *["y" * 1000] * 1000))
    plain.output(b"up\n")
    assert resident(plain.pid1()) < 1 << 20


# --- the end of everything ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        "sleep 100 & echo left",
        "(setsid sleep 100 &) ; echo left",
        "(trap '' TERM HUP INT QUIT; exec setsid sh -c 'sleep 100; sleep 100') & echo left",
        "sleep 100 & kill -STOP $!; echo left",
        "for i in 1 2 3 4 5 6 7 8 9; do (setsid sh -c 'while :; do (sleep 0.01 &); done' &) ; done; echo left",
    ],
)
def test_nothing_survives_the_main_process_and_a_held_output_delays_nothing(line: Line, script: str) -> None:
    pid1 = line.pid1()
    end = line.sh(script)
    assert (end.how, end.number) == (ENDED, 0)
    assert end.said == b"left\n"
    assert end.wall < 10_000_000
    assert not sup.descendants(pid1), "all but pid 1 are dead and reaped when `x` has come"


@pytest.mark.parametrize("how", [WALL, KILLED])
def test_a_fork_bomb_ends(rooted: Line, how: int) -> None:
    # a shell ends where it cannot fork, and with bad luck all of them do at once; perl goes on
    bomb = "bomb() { while :; do bomb & done; }; (perl -e 'fork while 1' || bomb) 2>/dev/null & echo up; exec sleep 100"
    rooted.say(run("sh", "-c", bomb, wall=6 if how == WALL else PATIENCE, limits=[(resource.RLIMIT_NPROC, 200)]))
    said = rooted.output(b"up\n")
    eventually(lambda: len(sup.descendants(rooted.pid1())) > 50, "no bomb")
    if how == KILLED:
        rooted.say(frame("K"))
    assert rooted.end(said).how == how
    assert not sup.descendants(rooted.pid1())


def test_orphans_are_reaped_while_it_runs(plain: Line) -> None:
    plain.say(run("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do (true &) ; done; echo up; sleep 100"))
    plain.output(b"up\n")
    eventually(lambda: len(sup.children(plain.pid1())) == 1, "zombies stay")


def test_a_flood_of_orphans_delays_no_limit(plain: Line) -> None:
    script = "for i in 1 2 3; do (while :; do (true &) ; done) & done; wait"
    assert plain.sh(script, wall=0.5).how == WALL


@pytest.mark.parametrize("when", ["ready", "file", "frame", "run", "flood", "over", "answer"])
def test_the_end_of_its_stdin_is_the_end_of_all(line: Line, when: str) -> None:
    pid1 = line.pid1()
    if when == "file":
        line.say(frame("P", struct.pack("!HBQ", JOB, 0, 10) + b"f"), frame("D", b"x"))
    if when == "frame":
        line.say(run("true")[:-3])
    if when == "run":
        line.say(run("sh", "-c", "trap '' TERM; (setsid sleep 100 &) ; echo up; sleep 100"))
        line.output(b"up\n")
    if when == "flood":
        line.say(run("yes", output=1 << 40))
        eventually(lambda: bool(sup.children(pid1)))
    if when in ("over", "answer"):
        line.say(put_file("f", b"x" * (3 << 20)), run("true"))
        line.end()
    if when == "answer":
        line.say(get_frame("f", most=1 << 30))
        assert line.frame()[0] == "d"
    line.stdin.close()
    eventually(lambda: not os.path.exists(f"/proc/{pid1}"), "it lives on")
    with contextlib.suppress(AssertionError):
        assert line.status() == 0
    assert line.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("when", ["ready", "run"])
def test_it_leaves_where_nobody_can_hear_it_any_more(plain: Line, when: str) -> None:
    if when == "run":
        plain.say(run("sh", "-c", "echo up; sleep 100"))
        plain.output(b"up\n")
    plain.stdout.close()
    assert plain.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("when", ["ready", "run", "over"])
def test_quitting(line: Line, when: str) -> None:
    if when == "run":
        line.say(run("sh", "-c", "trap '' TERM; echo up; sleep 100"))
        line.output(b"up\n")
    if when == "over":
        line.run("true")
    line.say(frame("Q"))
    assert line.status() == 0


@pytest.mark.parametrize("when", ["ready", "run"])
def test_sigterm(line: Line, when: str) -> None:
    if when == "run":
        line.say(run("sh", "-c", "trap '' TERM; echo up; sleep 100"))
        line.output(b"up\n")
    os.kill(line.pid1(), signal.SIGTERM)
    assert line.status() == 143


def test_it_leaves_when_nothing_comes_for_long() -> None:
    need_bubblewrap()
    with Line(in_bubblewrap("1000", "1000", "1", "w:/job")) as line:
        line.hello()
        line.say(run("sleep", "2"))  # a run is no idleness
        assert line.end().how == ENDED
        assert line.answer(list_frame())[0] == 0
        assert line.status() == 4


def test_every_frame_postpones_that() -> None:
    need_bubblewrap()
    with Line(in_bubblewrap("1000", "1000", "1", "w:/job")) as line:
        line.hello()
        for _ in range(6):
            time.sleep(0.3)
            assert line.problem()[0] == 0
        assert line.status() == 4


# --- files out ---------------------------------------------------------------------------------------


def test_what_is_left_is_listed_looked_at_and_read(line: Line) -> None:
    script = """
        mkdir -p d/e; printf 12345 >d/f; ln d/f d/hard; ln -s /etc/passwd link; ln -s d dirlink; mkfifo pipe
        printf '#!/bin/sh' >tool; chmod 755 tool; truncate -s 1000000 sparse; : >empty
        perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => "socket", Listen => 1)'
    """
    assert line.sh(script).how == ENDED
    error, more, entries, _ = line.answer(list_frame())
    assert (error, more) == (0, 0)
    types = {name: entry.type for name, entry in entries.items()}
    assert types.pop("socket", "s") == "s"
    assert types == {"d": "d", "link": "l", "dirlink": "l", "pipe": "p", "tool": "f", "sparse": "f", "empty": "f"}
    assert entries["tool"].executable == 1
    assert entries["empty"].executable == 0
    assert (entries["sparse"].size, entries["sparse"].allocated) == (1_000_000, 0)
    assert line.answer(list_frame("d"))[2].keys() == {"e", "f", "hard"}
    assert line.answer(look_frame("d/f"))[2]["f"][:3] == ("f", 0, 5)
    assert line.answer(look_frame("d/f"))[2]["f"].links == 2
    assert line.answer(look_frame("link"))[2]["link"].type == "l"
    assert line.answer(get_frame("d/f")) == (0, 0, {}, b"12345")
    assert line.answer(get_frame("d/f", most=5)) == (0, 0, {}, b"12345")
    assert line.answer(get_frame("d/f", most=4)) == (0, 1, {}, b"1234")
    assert line.answer(get_frame("d/f", most=0)) == (0, 1, {}, b"")
    assert line.answer(get_frame("empty", most=0)) == (0, 0, {}, b"")
    for name in ("link", "d", "pipe", "dirlink"):
        assert line.answer(get_frame(name))[0] == errno.EINVAL, name
    for asked in (list_frame("nothing"), look_frame("nothing"), get_frame("d/nothing")):
        assert line.answer(asked) == (errno.ENOENT, 0, {}, b"")
    for asked in (list_frame("dirlink"), look_frame("dirlink/f"), get_frame("dirlink/f"), get_frame("d/f/x")):
        assert line.answer(asked) == (errno.ENOTDIR, 0, {}, b"")
    assert line.answer(list_frame(most=3))[1] == 1
    assert len(line.answer(list_frame(most=3))[2]) == 3
    assert line.answer(list_frame("d", most=3))[:2] == (0, 0)
    assert line.answer(list_frame(most=0)) == (0, 1, {}, b"")


def test_large_directories_and_files_come_in_pieces(line: Line) -> None:
    name = "n" * 240
    assert (
        line.sh(f"mkdir d; cd d; for i in $(seq 1000); do : >{name}$i; done; yes | head -c 2000000 >../f").how == ENDED
    )
    error, more, entries, _ = line.answer(list_frame("d"))
    assert (error, more) == (0, 0)
    assert entries.keys() == {f"{name}{number}" for number in range(1, 1001)}
    assert line.answer(get_frame("f", most=1 << 40))[3] == b"y\n" * 1_000_000
    assert len(line.answer(get_frame("f", most=1_000_000))[3]) == 1_000_000


def test_odd_names_come_as_they_are(plain: Line) -> None:
    plain.sh(r"""touch "$(printf 'new\nline')" "$(printf '\033[31m')" '...' ' '""")
    assert plain.answer(list_frame())[2].keys() == {"new\nline", "\033[31m", "...", " "}
    assert plain.answer(look_frame("..."))[0] == 0


def test_a_path_may_be_long(plain: Line) -> None:
    long = "/".join(["d" * 200] * 20)
    plain.say(put_file(f"{long}/f", b"x"))
    assert plain.problem()[0] == 0
    plain.run("true")
    assert plain.answer(get_frame(f"{long}/f"))[3] == b"x"


def test_what_the_job_locked_away_is_refused(rooted: Line, tmp_path: Path) -> None:
    rooted.say(put_file("mine", b"pid 1's", mount=GIVEN))
    script = "mkdir -m 700 d e p; for i in d e p .; do echo x >$i/f; done; chmod 0 d f; chmod 400 e; chmod 600 p/f"
    assert rooted.sh(script).how == ENDED
    assert rooted.answer(get_frame("f"))[0] == errno.EACCES
    assert rooted.answer(list_frame("d"))[0] == errno.EACCES
    assert rooted.answer(look_frame("d/f"))[0] == errno.EACCES
    assert rooted.answer(list_frame("e"))[0] == errno.EACCES
    assert rooted.answer(get_frame("p/f"))[3] == b"x\n", "what is the job's alone is read as the job"
    assert rooted.answer(get_frame("mine", mount=GIVEN))[3] == b"pid 1's"


def test_without_the_right_to_act_as_the_job_nothing_is_forced(tmp_path: Path) -> None:
    sup.need_root()
    with Line(as_root(capabilities="kill")) as line:
        assert line.hello().capabilities == 1 << 5
        line.say(put_file("f", b"x"))
        assert line.problem() == (errno.EPERM, JOB, "f")
        line.say(put_file("f", b"x", mount=GIVEN))
        assert line.problem() == (0, 0, "")
        end = line.run("true")
        assert (end.what, end.number) == (BECOME, errno.EPERM)


def test_more_capabilities_than_it_needs_are_given_up(tmp_path: Path) -> None:
    sup.need_root()
    with Line(as_root(capabilities="setuid,setgid,kill,dac_override,sys_admin")) as line:
        assert line.hello().capabilities == 0b1110_0000 | 1 << 1 | 1 << 21
        assert "CapPrm:\t00000000000000e0\nCapEff:\t00000000000000e0" in Path(f"/proc/{line.pid1()}/status").read_text()


# --- what the job cannot -----------------------------------------------------------------------------


def test_the_job_cannot_reach_pid_1(rooted: Line) -> None:
    script = """
        for n in 1 2 9 15 17 19; do kill -$n 1 2>/dev/null && echo killed; done
        cat /proc/1/environ /proc/1/maps && echo read; ls /proc/1/fd && echo listed; cat </proc/1/mem && echo opened
        readlink /proc/1/root /proc/1/cwd /proc/1/exe && echo seen; echo x >/proc/1/fd/1 && echo written
        echo 1000 >/proc/1/oom_score_adj && echo scored; echo end
    """
    end = rooted.sh(f"({script}) 2>/dev/null")
    assert end.said == b"end\n"
    assert rooted.answer(list_frame())[0] == 0, "and it lives"


def test_pid_1_is_not_dumpable(line: Line) -> None:
    line.say(put_file("f", b"x"), run("sh", "-c", "echo up; sleep 100"))
    line.output(b"up\n")
    assert os.stat(f"/proc/{line.pid1()}/environ").st_uid == 0


def test_signals_from_a_job_with_the_same_uid_do_not_end_pid_1(plain: Line) -> None:
    end = plain.sh("for n in 1 2 3 6 9 11 13 14 10 12 19 24 25; do kill -$n 1; done; echo end")
    assert end.said == b"end\n"
    assert plain.answer(list_frame())[0] == 0


# --- bad frames --------------------------------------------------------------------------------------

FILE = struct.pack("!HBQ", JOB, 0, 1)
BODY = run("true")[5:]
BAD = {
    "an unknown kind": frame("Z"),
    "a kind of its own": frame("x"),
    "no kind": b"\0\0\0\0\0",
    "too long": b"P\0\1\0\1",
    "R too long": b"R\0\x80\0\1",
    "all ones": b"\xff" * 20,
    "D without P": frame("D", b"x"),
    "empty D without P": frame("D"),
    "P in a file": frame("P", FILE + b"a") + frame("P", FILE + b"b"),
    "Y in a file": frame("P", FILE + b"a") + frame("Y"),
    "R in a file": frame("P", FILE + b"a") + run("true"),
    "D too long": frame("P", FILE + b"a") + frame("D", b"xx"),
    "D after a file": put_file("a", b"x") + frame("D", b"x"),
    "D after a failed file": put_file("a", b"x") + put_file("a/b", b"x") + frame("D", b"x"),
    "P short": frame("P", b"\0\0\0\0\0"),
    "P of an unknown mount": put_file("a", b"", mount=2),
    "P neither executable nor not": frame("P", struct.pack("!HBQ", JOB, 2, 0) + b"a"),
    "B of an unknown mount": put_tree("/usr/share", mount=2),
    "B of nothing": put_tree(""),
    "B of a relative path": put_tree("usr"),
    "B of the root": put_tree("/"),
    "B of a parent": put_tree("/usr/../job"),
    "Y with something": frame("Y", b"x"),
    "K with something": frame("K", b"x"),
    "Q with something": frame("Q", b"x"),
    "L before the run": list_frame(),
    "S before the run": look_frame("a"),
    "G before the run": get_frame("a"),
    "R empty": frame("R"),
    "R cut": frame("R", BODY[:-1]),
    "R with more": frame("R", BODY + b"\0"),
    "R in an unknown mount": run("true", mount=2),
    "R without a command": run(),
    "R with a NUL in a word": run("tr\0ue"),
    "R with a NUL in a variable": run("true", env=("A=\0",)),
    "R with a variable without a value": run("true", env=("PATH",)),
    "R with a variable without a name": run("true", env=("=x",)),
    "R with a lying count of limits": frame("R", BODY[:26] + b"\xff\xff" + BODY[28:]),
    "R with a lying count of words": frame("R", BODY[:28] + b"\xff\xff\xff\xff" + BODY[32:]),
    "R with a lying length of a word": frame("R", BODY[:32] + b"\x7f\xff\xff\xff" + BODY[36:]),
}
PATHS = ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "a/./b", "../a", "a\0b", "x" * 4097]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_frame_is_answered_and_the_end(plain: Line, bad: bytes) -> None:
    plain.say(bad)
    kind, text = plain.frame()
    assert kind == "!"
    assert text.startswith(b"frame 0x")
    assert plain.status() == 3


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("ask", [list_frame, look_frame, get_frame, put_file])
def test_a_bad_path_is_a_bad_frame(plain: Line, path: str, ask: Callable[..., bytes]) -> None:
    if ask is put_file:
        plain.say(put_file(path, b""))
    else:
        plain.run("true")
        plain.say(ask(path))
    if ask is list_frame and path == "":
        plain.hear("e")
    else:
        plain.hear("!")
        assert plain.status() == 3


@pytest.mark.parametrize("bad", [run("true"), put_file("a", b""), frame("Y"), put_tree("/usr/share"), frame("Z")])
def test_after_the_run_there_is_no_other(plain: Line, bad: bytes) -> None:
    plain.run("true")
    plain.say(bad)
    plain.hear("!")
    assert plain.status() == 3


@pytest.mark.parametrize("bad", [run("true"), put_file("a", b""), frame("Y"), list_frame(), frame("Z"), b"P\xff\0\0\0"])
def test_a_bad_frame_in_a_run_kills_it(line: Line, bad: bytes) -> None:
    pid1 = line.pid1()
    line.say(run("sh", "-c", "(setsid sleep 100 &) ; echo up; sleep 100"))
    line.output(b"up\n")
    line.say(bad)
    line.hear("!")
    assert line.status() == 3
    assert not os.path.exists(f"/proc/{pid1}")


def test_a_bad_frame_is_answered_behind_a_flood(plain: Line) -> None:
    plain.say(run("yes", output=1 << 40))
    plain.output(b"y\n" * 200_000)
    plain.say(frame("Z"))
    last = None
    while (got := plain.frame_or_end()) is not None:
        last = got
    assert last is not None
    assert last[0] in "o!"
    assert plain.process.wait(PATIENCE) == 3


def test_frames_may_come_byte_by_byte(plain: Line) -> None:
    for byte in put_file("f", b"12") + run("cat", "f"):
        plain.say(bytes([byte]))
    assert plain.end().said == b"12"


# --- the engine's end --------------------------------------------------------------------------------


def test_the_engine_writes_the_same_frames() -> None:
    files = [File(path="a/ü", data=b"x" * 70_000, executable=True), File(path="empty", data=b"")]
    ours = put_file("a/ü", b"x" * 70_000, executable=1) + put_file("empty", b"")
    assert b"".join(_frames.put(JOB, files)) == ours
    assert _frames.lay(GIVEN, "/given") == put_tree("/given", GIVEN)
    assert _frames.list_directory(JOB, "", 7) == list_frame(most=7)
    assert _frames.list_directory(GIVEN, "d", 7) == list_frame("d", 7, GIVEN)
    assert _frames.look(JOB, "d/f") == look_frame("d/f")
    assert _frames.get(JOB, "d/f", 9) == get_frame("d/f", 9)
    limits, code = {7: NONE, 4: 0}, [(LOAD, 0, 0, 4), (RETURN, 1, 2, ALLOW)]
    asked = run(
        *("sh", "-c", b"\xff"),
        env=("A=b=c", "D="),
        wall=1.5,
        cpu=0.25,
        output=9,
        limits=list(limits.items()),
        filter=code,
    )
    packed = b"".join(struct.pack("=HBBI", *one) for one in code)
    env = {"A": "b=c", "D": ""}
    words = ["sh", "-c", "\udcff"]
    assert _frames.run(JOB, words, env, wall=1.5, cpu=0.25, output=9, rlimits=limits, filter=packed) == asked


def test_the_engine_reads_what_the_supervisor_writes(plain: Line) -> None:
    need_bubblewrap()
    with Line(in_bubblewrap()) as other:
        hello = _frames.hello(other.hear("h"))
    assert (hello.version, hello.loopback, hello.other_interface, hello.no_new_privileges) == (2, True, False, True)
    assert (hello.memory, hello.pids, hello.cores, hello.cgroup, hello.capabilities) == (None, None, None, 0, 0)
    plain.say(put_file("f", b"x"), put_file("f/g", b"x"), frame("Y"))
    problem = _frames.problem(plain.hear("y"))
    assert problem == _frames.Problem(errno.ENOTDIR, JOB, "f/g")
    plain.say(run("sh", "-c", "echo out; exit 3"))
    while (got := plain.frame())[0] != "x":
        assert got == ("o", b"out\n")
    end = _frames.ended(got[1])
    assert (end.how, end.what, end.number, end.output_bytes) == ("exited", "status", 3 << 8, 4)
    assert (end.peak, end.oom_kills, end.forks_refused, end.disk_full) == (None, 0, False, False)
    assert 0 < end.wall < PATIENCE
    assert end.max_rss > 0
    plain.say(list_frame())
    assert list(_frames.entries(plain.hear("l"))) == [
        _frames.Entry(name="f", kind="f", executable=False, late=False, size=1, allocated=4096, links=1)
    ]
    assert _frames.answered(plain.hear("e")) == (0, False)


# --- control groups: as files of the same names and forms ----------------------------------------------


V1 = {
    "memory/cgroup.procs": "1\n",
    "memory/memory.limit_in_bytes": "67108864\n",
    "memory/memory.max_usage_in_bytes": "12345678\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    "cpu,cpuacct/cgroup.procs": "1\n",
    "cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
    "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    "cpu,cpuacct/cpuacct.usage": "5000000000\n",
    "pids/cgroup.procs": "1\n",
    "pids/pids.max": "99\n",
    "pids/pids.events": "max 2\n",
}
V2 = {
    "cgroup.procs": "1\n",
    "memory.max": "67108864\n",
    "memory.current": "1000000\n",
    "memory.events": "low 0\nhigh 0\nmax 7\noom 1\noom_kill 3\noom_group_kill 0\n",
    "memory.peak": "12345678\n",
    "cpu.max": "50000 100000\n",
    "cpu.stat": "usage_usec 5000000\nuser_usec 3000000\nsystem_usec 2000000\n",
    "pids.max": "99\n",
    "pids.events": "max 2\n",
}
AFTER = {
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
    "cpu,cpuacct/cpuacct.usage": "5250000000\n",
    "pids/pids.events": "max 3\n",
    "memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 5\noom_group_kill 0\n",
    "cpu.stat": "usage_usec 5250000\nuser_usec 3000000\nsystem_usec 2250000\n",
    "pids.events": "max 3\n",
}


class Group:
    """A directory that stands where a container has its control group."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.setup = ("--ro-bind", str(place), "/sys/fs/cgroup")

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.place / name
            path.parent.mkdir(exist_ok=True)
            path.with_name("new").write_text(text)
            path.with_name("new").rename(path)  # never seen empty


@pytest.fixture
def group(tmp_path: Path) -> Group:
    need_bubblewrap()
    tmp_path.chmod(0o755)
    return Group(tmp_path)


@pytest.mark.parametrize(("files", "version"), [(V1, 4), (V2, 8)])
def test_both_versions_are_read(group: Group, files: dict[str, str], version: int) -> None:
    group.write(files)
    with Line(in_bubblewrap(setup=group.setup)) as line:
        hello = line.hello()
        assert (hello.memory, hello.pids, hello.millicores) == (64 << 20, 99, 500)
        assert hello.facts & 12 == version
        line.say(run("sh", "-c", UNTIL_TOLD))
        said = line.output(b"up\n")
        group.write({name: text for name, text in AFTER.items() if name in files})
        os.kill(main_process(line), signal.SIGUSR1)
        end = line.end(said)
        assert (end.cpu, end.peak, end.oom_kills, end.fork_refused) == (250_000, 12_345_678, 2, 1)


@pytest.mark.parametrize(
    ("files", "gone"),
    [
        (
            V1 | {"memory/memory.limit_in_bytes": "9223372036854771712\n", "pids/pids.max": "max\n"},
            "memory/memory.oom_control",
        ),
        (V1 | {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n"}, "pids/pids.events"),
        (V2 | {"memory.max": "max\n", "pids.max": "max\n", "cpu.max": "max 100000\n"}, "memory.events"),
    ],
)
def test_no_limit_is_told_from_an_unknown_one(group: Group, files: dict[str, str], gone: str) -> None:
    group.write({name: text for name, text in files.items() if name != gone})
    with Line(in_bubblewrap(setup=group.setup)) as line:
        hello = line.hello()
        limits = (hello.memory, hello.pids, hello.millicores)
        assert NONE in limits
        assert set(limits) <= {NONE, 64 << 20, 99, 500}
        end = line.run("true")
        assert (end.oom_kills, end.fork_refused) == (0, 0)


@pytest.mark.parametrize(
    "files",
    [
        V2 | {"cgroup.procs": "0\n1\n"},  # with somebody from outside
        V2 | {"cgroup.procs": "11\n"},
        {name: text for name, text in V2.items() if name != "cgroup.procs"},
        V1 | {f"{name}/release_agent": "" for name in ("memory", "cpu,cpuacct", "pids")},  # the whole machine
    ],
)
def test_a_group_of_others_is_not_believed(group: Group, files: dict[str, str]) -> None:
    group.write(files)
    with Line(in_bubblewrap(setup=group.setup)) as line:
        hello = line.hello()
        assert (hello.memory, hello.pids, hello.millicores, hello.facts & 12) == (0, 0, 0, 0)
        end = line.run("true")
        assert end.peak == 0
        assert end.cpu < 5_000_000


def test_the_peak_is_sampled_where_the_kernel_does_not_keep_it(group: Group) -> None:
    group.write({name: text for name, text in V2.items() if name != "memory.peak"})
    with Line(in_bubblewrap(setup=group.setup)) as line:
        line.hello()
        line.say(run("sh", "-c", UNTIL_TOLD))
        said = line.output(b"up\n")
        group.write({"memory.current": "7654321\n"})
        line.hear("b")
        group.write({"memory.current": "1000\n"})
        os.kill(main_process(line), signal.SIGUSR1)
        assert line.end(said).peak == 7_654_321


@pytest.mark.parametrize("files", [V1, V2])
def test_the_cpu_limit_is_held_by_the_group_s_account(group: Group, files: dict[str, str]) -> None:
    group.write(files)
    with Line(in_bubblewrap(setup=group.setup)) as line:
        line.hello()
        line.say(run("sh", "-c", "echo up; sleep 100", cpu=0.25))
        said = line.output(b"up\n")
        group.write({name: text for name, text in AFTER.items() if name in files})
        assert line.end(said).how == CPU


# --- what Docker gives it ----------------------------------------------------------------------------


@pytest.fixture
def docker(request: pytest.FixtureRequest) -> Callable[..., contextlib.AbstractContextManager[Line]]:
    from tests.docker_images import python_image

    if shutil.which("docker") is None:
        pytest.skip("the docker command is not installed")
    image = python_image()
    name = f"minitango-test-supervisor-{os.getpid()}-{time.monotonic_ns()}"
    return lambda *options: sup.in_docker(*options, image=image, name=name)


def test_the_limits_of_a_container_are_seen(docker: Callable[..., contextlib.AbstractContextManager[Line]]) -> None:
    with docker("--memory", "64m", "--memory-swap", "64m", "--pids-limit", "50", "--cpus", "1.5") as line:
        hello = line.hello()
        assert (hello.memory, hello.pids, hello.millicores) == (64 << 20, 50, 1500)
        assert bool(hello.facts & 4) != bool(hello.facts & 8)
        assert hello.facts & 48 == 48, "no_new_privs, and Docker's filter"
        assert not hello.facts & 2
        assert hello.capabilities == 0b1110_0000
        end = line.sh("id -u; id -g; id -G; head -c 20000000 /dev/zero | tail -c 10000000 >/dev/null")
        assert end.said == f"{UID}\n{GID}\n{GID}\n".encode()
        assert 10_000_000 < end.peak <= 64 << 20
        assert end.cpu > 0
        assert (end.oom_kills, end.fork_refused, end.full) == (0, 0, 0)


def test_a_container_without_limits(docker: Callable[..., contextlib.AbstractContextManager[Line]]) -> None:
    with docker() as line:
        hello = line.hello()
        assert (hello.memory, hello.millicores) == (NONE, NONE)
        end = line.sh("while :; do :; done", cpu=0.3)
        assert end.how == CPU
        assert end.cpu >= 300_000


def test_what_the_control_group_refused_is_told(docker: Callable[..., contextlib.AbstractContextManager[Line]]) -> None:
    with docker("--memory", "64m", "--memory-swap", "64m", "--pids-limit", "20") as line:
        line.hello()
        script = "perl -e '$x = \"x\" x 200_000_000'; for i in $(seq 30); do sleep 9 & done"
        end = line.sh(f"({script}); head -c 5000000 /dev/zero >big; echo end")
        assert end.said.endswith(b"end\n")
        assert end.how == ENDED
        assert end.oom_kills >= 1
        assert end.fork_refused == 1
        assert end.full == 1
