"""Guarded steps in real sandboxes: the whole way from the grader to student code and back, on each of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from minitango import Assignment, Limits, SandboxUnavailable, Step, Trust, archive
from minitango.archive import File
from minitango.blobs import Blobs
from minitango.job import Cancelled, Fail, Finish, Lease, Result
from minitango.runner import Runner
from minitango.sandbox import Sandbox
from minitango.sandbox.bubblewrap import BubblewrapSandbox
from minitango.stopping import Stop
from tests import docker_images
from tests.contract.conftest import FLEET, WATCHED, also
from tests.contract.test_sandbox import docker, fleet

KINDS: dict[str, Callable[[str], Sandbox]] = {
    "bubblewrap": lambda state: BubblewrapSandbox(state=state),
    WATCHED: lambda state: BubblewrapSandbox(state=state, cgroups=False),
    "docker": docker,
    FLEET: lambda state: fleet(state, docker),
}
MIB = 1 << 20
STUDENT = Limits(wall=20.0, memory=64 * MIB, disk=16 * MIB, pids=32, output=64 << 10)


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


class Course:
    """An assignment whose grader prints what the test wants to know, and the sandbox that it is graded in."""

    def __init__(self, sandbox: Sandbox, tmp_path: Path) -> None:
        self.sandbox = sandbox
        self.root = tmp_path / "hw"
        self.root.mkdir()
        self.blobs = Blobs(tmp_path / "blobs")
        self.stop = Stop()
        image = docker_images.python_image() if sandbox.name == "docker" else ""
        self.image = image

    def start(self, grader: str, handin: dict[str, str], *, before: tuple[Step, ...] = (), **step: Any) -> Any:
        (self.root / "grade").mkdir(exist_ok=True)
        name = "grade.py" if "import" in grader else "grade.sh"
        (self.root / "grade" / name).write_text(grader)
        step = {"guarded": True, "student": STUDENT, "limits": Limits(wall=60.0), **step}
        if not step["guarded"]:
            step["student"] = None
        command = ("python3" if name == "grade.py" else "sh", name)
        last = Step(command, name="grade", files=("grade/",), image=self.image, **step)
        assignment = Assignment("hw", (*before, last), format="exit-code", max_score=1, root=self.root)
        files = [File(path, text.encode(), executable=text.startswith("#!")) for path, text in handin.items()]
        spec, inputs = assignment.pack(self.blobs).digest, self.blobs.put(archive.pack(files))
        lease = Lease("job", 1, "token", 0.0, spec, inputs, "hw", "ada")
        printed: list[bytes] = []
        ack = Runner(self.sandbox, self.blobs).run(lease, stop=self.stop, sink=lambda step, data: printed.append(data))
        return ack, b"".join(printed).decode(errors="replace")

    def grade(self, grader: str, handin: dict[str, str], **more: Any) -> tuple[Result, str]:
        ack, printed = self.start(grader, handin, **more)
        assert isinstance(ack, Finish), ack
        return ack.result, printed

    def said(self, grader: str, handin: dict[str, str], **more: Any) -> list[str]:
        """The lines that the grader printed, which ended well."""
        result, printed = self.grade(grader, handin, **more)
        assert result.score == 1, printed
        assert result.trust is Trust.GUARDED
        assert self.sandbox.orphans() == 0
        return printed.splitlines()


@pytest.fixture
def course(sandbox: Sandbox, tmp_path: Path) -> Course:
    return Course(sandbox, tmp_path)


def running(marker: str) -> list[str]:
    """The command lines of processes on this machine that have this in them."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = place.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if marker in text and "pytest" not in text:
            found.append(text)
    return found


@also(WATCHED, FLEET)
def test_a_program_is_run_as_if_it_were_here(course: Course) -> None:
    grader = """
    printf 'ada' | minitango-student sh prog.sh x 'y z'; echo "status $?"
    minitango-student --quiet sh -c 'kill -9 $$' 2>/dev/null; echo "status $?"
    minitango-student ./none 2>/dev/null; echo "status $?"
    echo given > input
    minitango-student --give input:in/put --take 'out/*' --into got sh -c 'mkdir out; cat in/put > out/a'
    cat got/out/a
    """
    prog = 'read -r name; echo "hello $name"; echo "$1,$2"; exit 3'
    lines = course.said(grader, {"prog.sh": prog})
    assert lines == ["hello ada", "x,y z", "status 3", "status 137", "status 127", "given"]


def test_functions_are_called_and_values_come_back(course: Course) -> None:
    grader = """
from minitango_student import Student, StudentError, run
student = Student("solution")
print(student.call("add", 1, 2), student.call("add", (1,), (2,)))
print([student.call("add", n, n) for n in range(200)] == [2 * n for n in range(200)])
try: student.call("add", 1, None)
except StudentError as error: print(error.type)
print(student.call("big"), len(student.call("long")))
print(run(["cat", "solution.py"]).stdout.startswith(b"def add"))
"""
    code = "def add(a, b): return a + b\ndef big(): return 2**100\ndef long(): return 'x' * 50_000\n"
    assert course.said(grader, {"solution.py": code}) == ["3 (1, 2)", "True", "TypeError", f"{2**100} 50000", "True"]


def test_what_student_code_finds_is_the_hand_in_and_nothing_of_the_tests(course: Course) -> None:
    look = """
    ls -A /job; echo "in $PWD"; ls -d /report /submission /collected 2>/dev/null; ls /minitango; id -u
    env | grep -c MINITANGO_; echo x > made && rm made && echo writable; ls /proc | grep -c '^[0-9]'
    (echo x > /minitango/x) 2>/dev/null || echo sealed
    """
    lines = course.said("minitango-student sh look.sh", {"look.sh": look})
    assert lines[:6] == ["look.sh", "in /job", "bin", "python", "socket", lines[5]]
    assert int(lines[5]) != 0
    assert lines[6] == "0"
    assert lines[7] == "writable"
    assert int(lines[8]) < 10, "nobody else's processes are there"
    assert lines[9] == "sealed"


def test_what_the_grader_finds_of_the_student_s_is_to_be_read_alone(course: Course) -> None:
    grader = """
    ls -A /job; cat "$MINITANGO_SUBMISSION/prog"
    test -x "$MINITANGO_SUBMISSION/prog" || echo "not executable"
    (echo x > "$MINITANGO_SUBMISSION/prog") 2>/dev/null || echo sealed
    (echo x > /minitango/bin/minitango-student) 2>/dev/null || echo sealed
    rm -f /minitango/socket 2>/dev/null || echo sealed
    minitango-student ./prog
    """
    lines = course.said(grader, {"prog": "#!/bin/sh\necho run\n"})
    assert lines == [
        "grade.sh", "#!/bin/sh", "echo run", "not executable", "sealed", "sealed", "sealed", "run"
    ]  # fmt: skip


@also(FLEET)
def test_what_an_earlier_step_made_can_be_run_there(course: Course) -> None:
    made = Step(
        ("sh", "-c", "printf '#!/bin/sh\\necho built\\n' > prog; chmod +x prog"),
        name="build", collect=("prog",), image=course.image,
    )  # fmt: skip
    grader = 'test -x "$MINITANGO_COLLECTED/build/prog" && exit 1; minitango-student "$MINITANGO_COLLECTED/build/prog"'
    assert course.said(grader, {"x": ""}, before=(made,)) == ["built"]


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("--time 0.5 sleep 30", 124, "took longer than 0.5 s"),
        ("sh -c 'yes'", 125, "64 KiB"),
        ("python3 -c \"x = b'1' * (200 << 20)\"", 125, "64 MiB"),
    ],
)
@also(WATCHED)
def test_a_limit_ends_the_student_and_not_the_grader(course: Course, command: str, status: int, words: str) -> None:
    lines = course.said(f'minitango-student {command} 2>said >/dev/null; echo "$?"; cat said', {"x": ""})
    assert lines[0] == str(status)
    assert words in lines[-1], lines


def test_what_can_never_be_asked_for_is_no_students_zero(course: Course) -> None:
    for line in ("minitango-student --time 0 ./x", 'minitango-student --give "$0:../x" ./x', 'minitango-student ""'):
        ack, _ = course.start(f"{line}; exit 1", {"x": ""})
        assert isinstance(ack, Fail), (line, ack)
        assert (ack.failure.id, ack.retry, ack.charge) == ("student_call", False, True), line
    ack, _ = course.start("from minitango_student import Student\nStudent('x.py')", {"x.py": ""})
    assert isinstance(ack, Fail)
    assert "is 'x' meant?" in ack.failure.message


def test_what_is_too_large_to_be_taken_is_named(course: Course) -> None:
    grader = """
    make='mkdir out; head -c 9000000 /dev/zero > out/a; echo b > out/b'
    minitango-student --take 'out/*' --into got sh -c "$make" 2>said
    echo $?; ls got/out; cat said
    """
    lines = course.said(grader, {"x": ""}, student=structs.replace(STUDENT, disk=32 << 20))
    assert lines[:2] == ["125", "b"]
    assert lines[2].startswith("minitango-student: out/a was not taken: "), lines


@also(FLEET)
def test_calls_run_beside_one_another(course: Course) -> None:
    grader = """
    for n in 1 2 3 4 5 6 7 8; do minitango-student sh -c "sleep 0.5; echo $n" > "out$n" & done; wait
    cat out1 out2 out3 out4 out5 out6 out7 out8
    """
    assert course.said(grader, {"x": ""}) == list("12345678")


@also(WATCHED)
def test_nothing_outlives_its_call_or_the_step(course: Course) -> None:
    marker = f"sleep {100_000 + os.getpid()}"
    grader = f"""
    minitango-student sh -c 'setsid sh -c "trap \\"\\" TERM HUP; {marker}" >/dev/null 2>&1 & echo left'
    minitango-student sh -c 'setsid {marker}' >/dev/null 2>&1 &
    minitango-student sh -c 'echo up; exec {marker}' > up &
    while ! grep -q up up 2>/dev/null; do sleep 0.01; done
    echo done
    """
    assert course.said(grader, {"x": ""}) == ["left", "done"]
    assert running(marker) == []


@also(WATCHED, FLEET)
def test_a_cancel_leaves_nothing_either(course: Course) -> None:
    marker = f"sleep {200_000 + os.getpid()}"
    done: list[Any] = []
    worker = threading.Thread(target=lambda: done.append(course.start(f"minitango-student {marker}", {"x": ""})[0]))
    worker.start()
    deadline = time.monotonic() + 60
    while not running(marker):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    course.stop.request("cancel")
    worker.join(60)
    assert isinstance(done[0], Cancelled)
    assert running(marker) == []
    assert course.sandbox.orphans() == 0


HOSTILE = """
import os, signal, socket, struct, sys, time
what = sys.argv[1]
if what == "kill":
    for pid in [os.getppid(), *range(1, 300), -1]:
        try: os.kill(pid, signal.SIGKILL)
        except OSError: pass
elif what == "stop":
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(60)
elif what == "call":
    answers = []
    for n in range(40):
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(5)
            try:
                one.connect("/minitango/socket")
                words = struct.pack(">II", 0, 1) + struct.pack(">I", 2) + b"id"
                one.sendall(b"R" + struct.pack(">I", len(words)) + words + b"X" + struct.pack(">I", 5) + bytes(5))
                answers.append(one.recv(100))
            except OSError: answers.append(b"")
    print(set(answers))
elif what == "mess":
    for folder in (f"/proc/{os.getppid()}/fd", "/proc/self/fd"):
        try: names = os.listdir(folder)
        except OSError: continue
        for name in names:
            try:
                with open(f"{folder}/{name}", "wb", buffering=0) as file: file.write(os.urandom(5000))
            except (OSError, ValueError): pass
"""


@pytest.mark.parametrize("what", ["kill", "stop", "call", "mess"])
@also(WATCHED)
def test_student_code_that_attacks_what_started_it_harms_itself_alone(course: Course, what: str) -> None:
    grader = f"""
    timeout 30 minitango-student --time 3 python3 hostile.py {what} > said 2>/dev/null; echo "$?"
    minitango-student echo fine
    cat said
    """
    lines = course.said(grader, {"hostile.py": HOSTILE})
    assert "fine" in lines, "the next call is answered"
    if what == "call":
        assert lines == ["0", "fine", "{b''}"], "nobody answers there"
    if what == "stop":
        assert lines[0] == "124"


def test_a_step_that_is_not_guarded_has_none_of_it(course: Course) -> None:
    result, printed = course.grade("minitango-student true; echo $?; ls -d /minitango", {"x": ""}, guarded=False)
    assert result.trust is Trust.SHARED
    assert "127" in printed.splitlines()
    assert "/minitango\n" not in printed


@also(WATCHED)
def test_what_student_code_uses_is_counted(course: Course) -> None:
    grader = "minitango-student python3 -c 'n = sum(range(6_000_000))'; minitango-student true"
    result, _ = course.grade(grader, {"x": ""})
    assert result.steps[0].calls == 2
    assert (result.usage.cpu or 0) > 0.05
