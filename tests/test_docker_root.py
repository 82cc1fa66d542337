"""Jobs that are root in their container: what that gives them, and what it does not. And PrairieLearn's own images,
which need it, by one that is shaped as theirs."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from minitango import Assignment, Engine, Submission
from minitango.archive import File
from minitango.errors import AssignmentError
from minitango.job import Limits
from minitango.sandbox import BoxSpec, Channel, Mount
from minitango.sandbox.docker import DockerSandbox
from tests import docker_engine, docker_images
from tests.contract.test_sandbox import marked, new_marker
from tests.test_docker_box import derived

MIB = 1 << 20
LIMITS = Limits(wall=20, memory=128 * MIB, disk=16 * MIB, pids=40)
SPEC = BoxSpec((Mount("/job", writable=True),), "/job", LIMITS, root=True)
CAPABILITIES = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7
"""CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID."""


def placed(path: str, text: str) -> str:
    """A line of a Dockerfile that puts an executable file there."""
    return f"RUN echo {base64.b64encode(text.encode()).decode()} | base64 -d > {path} && chmod 755 {path}"


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    url = docker_engine.need_docker()
    lines = ["RUN useradd ag && mkdir /python_autograder", placed("/python_autograder/run.sh", RUN)]
    lines += [placed("/python_autograder/main.py", MAIN), 'ENTRYPOINT ["/python_autograder/run.sh"]']
    with derived(url, *lines, base=docker_images.python_image()) as name:
        yield name


@pytest.fixture
def sandbox(image: str, tmp_path: Path) -> Iterator[DockerSandbox]:
    made = DockerSandbox(tmp_path / "docker", url=docker_engine.need_docker(), image=image)
    yield made
    made.close()


# run.sh and main.py do what graders/python/python_autograder/ of PrairieLearn does, in its order.
RUN = """#! /bin/bash
STUDENT_DIR=/grade/student
export MERGE_DIR=/grade/run
mkdir $MERGE_DIR /grade/results
mv $STUDENT_DIR/* $MERGE_DIR
mv /python_autograder/* $MERGE_DIR
mv /grade/tests/* $MERGE_DIR
rm -f "$MERGE_DIR/run.sh"
chmod -R 755 "$MERGE_DIR"
chmod 1777 "$MERGE_DIR"
export FILENAMES_DIR=$MERGE_DIR/filenames
mkdir $FILENAMES_DIR
chmod 777 $FILENAMES_DIR
mv $MERGE_DIR/test.py /grade/data/data.json $FILENAMES_DIR
chown root:root $FILENAMES_DIR/test.py
SECRET_NAME=$MERGE_DIR/secret-$RANDOM
echo -n "$SECRET_NAME" > $FILENAMES_DIR/output-fname.txt
chmod +r $FILENAMES_DIR/output-fname.txt
su -c "python3 $MERGE_DIR/main.py" ag
rm -f $MERGE_DIR/results.json /grade/results/results.json
[ -f "$SECRET_NAME" ] && mv "$SECRET_NAME" /grade/results/results.json
[ -s /grade/results/results.json ] || echo '{"succeeded": false, "score": 0.0}' > /grade/results/results.json
echo "[run] autograder completed"
"""
MAIN = """
import json, os, pwd, subprocess, sys
place = os.environ["FILENAMES_DIR"] + "/output-fname.txt"
output = open(place).read()
os.remove(place)
sys.path.insert(0, os.environ["MERGE_DIR"])
import fib
tests = [{"name": pwd.getpwuid(os.getuid()).pw_name, "points": 1, "max_points": 1}]
report = {"tests": tests, "score": float(fib.fib(10) == 55), "succeeded": True}
json.dump(report, open(output, "w"))
"""


def question(root: Path, image: str, **options: object) -> Path:
    folder = root / "fib"
    (folder / "tests").mkdir(parents=True)
    external = {"enabled": True, "image": image, **options}
    (folder / "info.json").write_text(json.dumps({"title": "fib", "externalGradingOptions": external}))
    (folder / "tests" / "test.py").write_text("# the tests")
    return folder


def graded(folder: Path, tmp_path: Path, image: str, program: bytes):  # type: ignore[no-untyped-def]
    assignment = Assignment.load(folder)
    where = f"docker+{docker_engine.need_docker()}"
    with Engine.open(tmp_path / "state", sandbox=where, workers=1) as engine:
        return engine.submit(Submission(assignment, student="ada", files={"fib.py": program})).result(timeout=100)


RIGHT = b"def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n"


def test_a_grader_that_changes_users_runs_as_it_is(image: str, tmp_path: Path) -> None:
    folder = question(tmp_path, image)
    (folder / "assignment.toml").write_text('layout = "prairielearn"\n[[step]]\nroot = true\n')
    result = graded(folder, tmp_path, image, RIGHT)
    assert (result.outcome, result.score, [test.name for test in result.tests]) == ("graded", 100.0, ["ag"]), result
    wrong = graded(folder, tmp_path, image, b"def fib(n):\n    return n\n")
    assert (wrong.outcome, wrong.score) == ("graded", 0.0)


OF_C = """#! /bin/bash
set -e
chmod -R 700 /grade
echo '#! /bin/sh' > /cgrader/PAUSE
chmod 755 /cgrader/PAUSE
mkdir /grade/results
su sbuser -c "cd / && PATH=/cgrader:$PATH pause" && echo '{"score": 1}' > /grade/results/results.json
"""
OF_JAVA = """#! /bin/bash
mkdir /grade/results
cp -r /grade/tests/. /home/sbuser 2> /dev/null
chown -R sbuser:sbuser /home/sbuser 2> /dev/null
chmod 700 /grade/*
su - sbuser -c 'grep tests test.py && echo x > new && rm new' && echo '{"score": 1}' > /grade/results/results.json
"""


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("c", ["RUN useradd sbuser && mkdir /cgrader", placed("/cgrader/entrypoint.sh", OF_C)]),
        ("java", ["RUN useradd -m sbuser && mkdir /cgrader", placed("/cgrader/entrypoint.sh", OF_JAVA)]),
    ],
)
def test_graders_that_write_into_their_own_folders_can(name: str, lines: list[str], tmp_path: Path) -> None:
    """Their system is read-only here."""
    lines = [f"FROM {docker_images.python_image()}", *lines, 'ENTRYPOINT ["/cgrader/entrypoint.sh"]']
    image = f"prairielearn/grader-{name}:test-{os.getpid()}"
    with docker_engine.client(docker_engine.need_docker()) as engine:
        engine.images.build(fileobj=io.BytesIO("\n".join(lines).encode()), tag=image, rm=True)
        try:
            result = graded(question(tmp_path, image), tmp_path, image, RIGHT)
            with contextlib.suppress(Exception):
                engine.api.remove_image(result.image_digest, force=True)
        finally:
            engine.api.remove_image(image, force=True)
    assert (result.outcome, result.score) == ("graded", 100.0), result


def test_without_being_root_it_gives_nobody_a_point(image: str, tmp_path: Path) -> None:
    """The entrypoint is the image's own here, too. It cannot become another user, and writes a report of its own."""
    result = graded(question(tmp_path, image), tmp_path, image, RIGHT)
    assert (result.outcome, result.score) == ("graded", 0.0), result
    assert result.reason == "the grader says that it did not succeed: PrairieLearn gives 0 for that"


def test_an_image_without_an_entrypoint_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    name = docker_images.busybox(docker_engine.need_docker())
    assignment = Assignment.load(question(tmp_path, name))
    where = f"docker+{docker_engine.need_docker()}"
    wanted = pytest.raises(AssignmentError, match="has no entrypoint of its own")
    with Engine.open(tmp_path / "state", sandbox=where, workers=1) as engine, wanted as caught:
        engine.preflight(assignment)
    assert caught.value.id == "command"


def run(sandbox: DockerSandbox, code: str, spec: BoxSpec = SPEC, patterns: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
    box = sandbox.open(spec)
    said = bytearray()
    try:
        end = box.run(["python3", "-I", "-c", textwrap.dedent(code)], env={}, output=said.extend)
        return end, said.decode(errors="replace"), box.collect("/job", patterns)
    finally:
        box.close()


def test_it_has_six_capabilities_and_no_way_to_more(sandbox: DockerSandbox) -> None:
    code = """
        import os, re
        said = dict(re.findall(r"(\\w+):\\s+(\\w+)", open("/proc/self/status").read()))
        print(os.getuid(), os.getgid(), *(int(said[f"Cap{n}"], 16) for n in ("Eff", "Prm", "Bnd", "Inh", "Amb")),
              said["NoNewPrivs"], said["Seccomp"])
    """
    end, said, _ = run(sandbox, code)
    assert end.exit_status == 0, said
    c = CAPABILITIES
    assert said.split() == ["0", "0", str(c), str(c), str(c), "0", "0", "1", "2"]


ATTEMPTS: list[tuple[str, set[str]]] = [
    ("open('/proc/1/fd/0', 'rb')", {"EACCES", "EPERM"}),
    ("open('/proc/1/fd/1', 'wb')", {"EACCES", "EPERM"}),
    ("os.readlink('/proc/1/fd/1')", {"EACCES", "EPERM"}),
    ("open('/proc/1/mem', 'r+b')", {"EACCES", "EPERM"}),
    ("open('/proc/1/environ').read(1)", {"EACCES", "EPERM"}),
    ("os.listdir('/proc/1/root/')", {"EACCES", "EPERM"}),
    ("syscall(101, 16, 1, 0, 0)", {"EPERM"}),  # PTRACE_ATTACH
    ("syscall(101, 0x4206, 1, 0, 0)", {"EPERM"}),  # PTRACE_SEIZE
    ("syscall(438, syscall(434, 1, 0), 0, 0)", {"EPERM"}),  # pidfd_open, pidfd_getfd
    ("syscall(165, b'none', b'/job', b'tmpfs', 0, 0)", {"EPERM"}),
    ("syscall(161, b'/job')", {"EPERM"}),  # chroot
    ("os.mknod('/job/sda', 0o60600, os.makedev(8, 0))", {"EPERM"}),
    ("syscall(272, 0x10000000)", {"EPERM"}),  # unshare
    ("open('/etc/shadow', 'a')", {"EROFS"}),
    ("open('/.minitango/supervise', 'r+b')", {"EROFS", "ETXTBSY", "EACCES"}),
    ("os.chmod('/.minitango/supervise', 0o777)", {"EROFS"}),
    ("open('/proc/sys/kernel/core_pattern', 'w').write('x')", {"EROFS", "EACCES"}),
    ("open('/proc/sysrq-trigger', 'r+').write('h')", {"EROFS", "EACCES", "ENOENT"}),
    ("open('/sys/fs/cgroup/memory.max', 'r+').write('max')", {"EROFS", "EACCES", "ENOENT"}),
    ("open('/sys/fs/cgroup/memory/memory.limit_in_bytes', 'r+').write('-1')", {"EROFS", "EACCES", "ENOENT"}),
    ("os.rename('/sys/fs/cgroup/memory', '/sys/fs/cgroup/mine')", {"EROFS", "EBUSY", "ENOENT"}),
    ("os.mkdir('/sys/fs/cgroup/memory/mine')", {"EROFS", "ENOENT"}),
    ("os.write(os.open('/proc/1/oom_score_adj', os.O_WRONLY), b'-1000')", {"EACCES", "EPERM"}),
    ("resource.setrlimit(resource.RLIMIT_NOFILE, (9999, 9999))", {"EPERM"}),
    ("resource.prlimit(1, resource.RLIMIT_NOFILE, (9, 9))", {"EPERM"}),
    ("os.setpriority(0, 1, 19)", {"EPERM"}),
    ("os.sched_setaffinity(1, {0})", {"EPERM"}),
    ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", {"EAFNOSUPPORT"}),
    ("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", {"EPERM"}),
    ("socket.create_connection(('192.0.2.1', 80), timeout=2)", {"ENETUNREACH"}),
]
"""What root may try, and how it may be refused."""
TRIALS = """
import ctypes, errno, os, resource, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def syscall(*words):
    done = libc.syscall(*words)
    if done < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return done
for attempt in ATTEMPTS:
    if os.fork():
        os.wait()
        continue
    try:
        exec(attempt)
    except ValueError as error:
        said = "EPERM" if "not allowed" in str(error) else error
    except OSError as error:
        said = errno.errorcode.get(error.errno, error)
    else:
        said = "done"
    print(f"{attempt}: {said}", flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def answers(image: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What became of each attempt, in processes of one box."""
    made = DockerSandbox(tmp_path_factory.mktemp("docker"), url=docker_engine.need_docker(), image=image)
    try:
        return run(made, TRIALS.replace("ATTEMPTS", repr([attempt for attempt, _ in ATTEMPTS])))[1].splitlines()
    finally:
        made.close()


@pytest.mark.parametrize(("attempt", "refusals"), ATTEMPTS)
def test_what_root_does_not_get(attempt: str, refusals: set[str], answers: list[str]) -> None:
    if attempt.startswith(("syscall(101", "syscall(16", "syscall(272")) and docker_images.MACHINE != "amd64":
        pytest.skip("numbers of x86-64")
    (said,) = [line.removeprefix(f"{attempt}: ") for line in answers if line.startswith(f"{attempt}: ")]
    assert said in refusals


@pytest.mark.parametrize(
    ("attempt", "refusal"),
    [
        ("open('/given/more', 'w')", "EACCES"),
        ("open('/given/old', 'a')", "EACCES"),
        ("os.remove('/given/old')", "EACCES"),
        # it may so have all of its container killed, for memory
        ("os.write(os.open('/proc/1/oom_score_adj', os.O_WRONLY), b'1000')", "EACCES"),
    ],
)
def test_what_root_may_do_where_another_may_not(attempt: str, refusal: str, sandbox: DockerSandbox) -> None:
    """The rights of files hold for all but root, whom only a mount's own would keep out: see docs/trust.md."""
    code = f"""
        import errno, os
        try:
            {attempt}
            print("done")
        except OSError as error:
            print(errno.errorcode[error.errno])
    """
    for root, wanted in ((True, "done"), (False, refusal)):
        mounts = (Mount("/job", writable=True), Mount("/given", writable=False))
        box = sandbox.open(BoxSpec(mounts, "/job", LIMITS, root=root))
        said = bytearray()
        try:
            box.put("/given", [File("old", b"as it was")])
            box.run(["python3", "-I", "-c", textwrap.dedent(code)], env={}, output=said.extend)
        finally:
            box.close()
        assert said.decode().strip() == wanted


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL", "SIGINT", "SIGSTOP", "SIGCHLD", "SIGSEGV", "SIGHUP"])
def test_no_signal_from_inside_ends_pid_1(signal: str, sandbox: DockerSandbox) -> None:
    code = f"""
        import os, signal, time, ctypes
        os.kill(1, signal.{signal})
        info = (ctypes.c_int * 32)(signal.{signal}, 0, -1)  # as if by sigqueue, from nobody
        ctypes.CDLL(None).syscall(129 if os.uname().machine == "x86_64" else 138, 1, int(signal.{signal}), info)
        time.sleep(0.3)
        print("still here")
    """
    end, said, _ = run(sandbox, code)
    assert (end.exit_status, said) == (0, "still here\n"), end


def test_whoever_it_becomes_is_dead_when_it_has_ended(sandbox: DockerSandbox) -> None:
    marker = new_marker()
    code = f"""
        import subprocess
        sleep = "import signal, time; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals());"
        sleep += "print(flush=True); time.sleep(1000)"
        for user in (0, 1000, 60000):
            words = ["python3", "-c", sleep, "{marker}"]
            made = subprocess.Popen(words, user=user, group=user, start_new_session=True, stdout=subprocess.PIPE)
            made.stdout.readline()
        print("started")
    """
    end, said, _ = run(sandbox, code)
    assert (end.exit_status, said) == (0, "started\n")
    assert marked(marker) == []


def test_what_another_user_left_is_collected_and_links_are_not_followed(sandbox: DockerSandbox) -> None:
    code = """
        import os
        os.mkdir("theirs")
        open("theirs/report.json", "w").write("{}")
        os.chmod("theirs/report.json", 0o600); os.chmod("theirs", 0o700)
        os.chown("theirs/report.json", 1000, 1000); os.chown("theirs", 1000, 1000)
        os.symlink("/etc/shadow", "shadow")
        os.symlink("/", "root")
    """
    end, said, left = run(sandbox, code, patterns=("**",))
    assert end.exit_status == 0, said
    assert [(file.path, file.data) for file in left.files] == [("theirs/report.json", b"{}")]
    assert {path for path, _ in left.refused} == {"root", "shadow"}


def test_its_limits_hold(sandbox: DockerSandbox) -> None:
    full, said, _ = run(sandbox, "open('/job/big', 'wb').write(b'x' * (20 << 20))")
    assert "No space left" in said
    assert full.disk_full
    code = """
        import os, signal
        try:
            for _ in range(100):
                os.fork() or signal.pause()
        except OSError as error:
            print(error)
    """
    _, said, _ = run(sandbox, code)
    assert "unavailable" in said
    hungry = "held = [bytearray(16 << 20) for _ in range(64)]"
    end, _, _ = run(sandbox, hungry)
    assert end.limit == "memory"
    # /dev is the engine's own, for root to write to: it counts as memory
    end, said, _ = run(sandbox, "open('/dev/big', 'wb').write(b'x' * (200 << 20))")
    assert end.limit == "memory" or "No space left" in said or "Read-only" in said


def test_a_job_that_is_not_root_has_nothing_of_it(sandbox: DockerSandbox) -> None:
    spec = BoxSpec((Mount("/job", writable=True),), "/job", LIMITS)
    code = "import os; print(os.getuid() > 0, open('/proc/self/status').read().count('0000000000000000') >= 4)"
    _, said, _ = run(sandbox, code, spec)
    assert said == "True True\n"


def test_it_calls_us_as_any_job_and_harms_its_own_socket_alone(sandbox: DockerSandbox) -> None:
    """In its box it may write to HELPER as to all that others can only read: who listens is not what lies there."""
    channels: list[Channel] = []

    def answer(channel: Channel) -> None:
        channels.append(channel)
        channel.send(b"still you")
        channel.close()

    code = """
        import os, socket
        first = socket.socket(socket.AF_UNIX); first.connect("/minitango/socket")
        os.rename("/minitango/socket", "/minitango/ours"); os.unlink("/minitango/bin/minitango-student")
        theirs = socket.socket(socket.AF_UNIX); theirs.bind("/minitango/socket")
        second = socket.socket(socket.AF_UNIX); second.connect("/minitango/ours")
        print(first.recv(99).decode(), second.recv(99).decode(), flush=True)
        os.unlink("/minitango/ours")
    """
    for _ in range(2):  # the next box has its own
        box = sandbox.open(structs.replace(SPEC, helper=True))
        said = bytearray()
        try:
            box.run(["python3", "-I", "-c", textwrap.dedent(code)], env={}, output=said.extend, calls=answer)
        finally:
            box.close()
        assert said == b"still you still you\n"
    assert len(channels) == 4
