"""Calls of a guarded step: who sees what, who is at fault, and that nothing of them is left. What runs in boxes is a
function; the runner, the frames and the rules are the real ones."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitango import Assignment, Limits, SandboxFailed, SandboxUnavailable, Step, Trust
from minitango.archive import File
from minitango.job import Cancelled, Fail, Finish, Result, Usage
from minitango.sandbox import BoxSpec, ChannelClosed, Collected, End, Mount
from minitango.students import AT_ONCE, INSIDE, Habits, Students, frames
from minitango.students.calling import Called
from minitango.students.frames import BadCall, Ending, How, Request
from minitango.testing import FakeBox, FakeChannel, FakeRun, FakeSandbox
from tests.support import PATIENCE, eventually, refuse_threads, report, scoring
from tests.test_runner import Case, Inside

GUARDED = Step(command=("grade",), guarded=True, student=Limits(wall=7.0, output=1000, pids=3))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def grading(grader: Callable[[FakeRun], Any], student: Inside = lambda run: End(exit_status=0)) -> Inside:
    """The inside of both kinds of boxes; what the grader returns is the score."""

    def inside(run: FakeRun) -> End:
        if run.command != ("grade",):
            return student(run)
        score = grader(run)
        return scoring(10 if score is None else score)(run)

    return inside


class Watched(FakeSandbox):
    """Remembers its boxes, and may fail."""

    def __init__(self, inside: Inside, fails: Callable[[BoxSpec], Exception | None] = lambda spec: None) -> None:
        super().__init__(inside)
        self.boxes: list[FakeBox] = []
        self.closed: list[FakeBox] = []
        self.fails = fails

    def open(self, spec: BoxSpec) -> FakeBox:
        error = self.fails(spec)
        if error is not None:
            raise error
        box = super().open(spec)
        self.boxes.append(box)
        close = box.close

        def noted() -> None:
            close()
            self.closed.append(box)

        box.close = noted  # type: ignore[method-assign]
        return box

    def all_closed(self) -> bool:
        return len(self.boxes) == len(self.closed)


# --- who sees what --------------------------------------------------------------------------------


def test_the_grader_has_the_hand_in_to_read_and_the_student_none_of_the_tests(case: Case) -> None:
    case.write(grade__tests="secret")
    seen: dict[str, Any] = {}

    def grader(run: FakeRun) -> None:
        seen["grader"] = run.spec, sorted(run.files), run.env
        seen["executable"] = [file.path for file in run.files.values() if file.executable]
        seen["done"] = run.student("./answer.py", "x", input=b"in")

    def student(run: FakeRun) -> End:
        seen["student"] = run.spec, sorted(run.files), run.env
        seen["command"], seen["input"] = run.command, run.input
        run.print(b"out")
        return End(exit_status=3)

    first = Step(command=("run",), collect=("made",))

    def inside(run: FakeRun) -> End:
        if run.command == ("run",):
            run.files["/job/made"] = File("/job/made", b"m", executable=True)
            return End(exit_status=0)
        return grading(grader, student)(run)

    from msgspec.structs import replace

    guarded = replace(GUARDED, files=("grade/",), env={"PATH": "/opt/bin", "PYTHONPATH": "/opt/py"})
    result = case.result(inside, first, guarded)
    spec, files, env = seen["grader"]
    assert files == ["/collected/run/made", "/job/tests", "/submission/answer.py"]
    assert seen["executable"] == [], "nothing that students wrote can be executed beside the tests"
    assert (spec.helper, spec.network, {m.path for m in spec.mounts if m.writable}) == (
        True, "none", {"/job", "/report"}
    )  # fmt: skip
    assert env == {
        "MINITANGO_SUBMISSION": "/submission",
        "MINITANGO_COLLECTED": "/collected",
        "MINITANGO_REPORT": "/report/results.json",
        "PATH": "/minitango/bin:/opt/bin",
        "PYTHONPATH": "/minitango/python:/opt/py",
    }
    spec, files, env = seen["student"]
    assert files == ["/collected/run/made", "/job/answer.py"]
    assert env == {"MINITANGO_COLLECTED": "/collected"}
    assert (spec.helper, spec.network, spec.limits, spec.root) == (True, "none", GUARDED.student, False)
    assert {m.path for m in spec.mounts} == {"/job", "/collected"}
    assert (seen["command"], seen["input"]) == (("./answer.py", "x"), b"in")
    assert seen["done"] == Called(b"out", b"", 3)
    assert (result.score, result.trust, result.steps[1].calls) == (10, Trust.GUARDED, 1)


def test_the_network_of_the_grader_is_not_the_students(case: Case) -> None:
    from msgspec.structs import replace

    seen: dict[str, str] = {}

    def student(run: FakeRun) -> End:
        seen["student"] = run.spec.network
        return End(exit_status=0)

    def grader(run: FakeRun) -> None:
        seen["grader"] = run.spec.network
        run.student("x")

    case.result(grading(grader, student), replace(GUARDED, network="open"))
    assert seen == {"grader": "open", "student": "none"}


def test_what_students_print_is_no_report_and_no_output_of_the_step(case: Case) -> None:
    def student(run: FakeRun) -> End:
        run.print(b'{"score": 10}')
        run.write("/report/results.json", b'{"score": 10}')
        return End(exit_status=0)

    result = case.result(grading(lambda run: run.student("x") and 2, student), GUARDED)
    assert result.score == 2
    assert case.sink == []


@pytest.mark.parametrize("path", ["sub/answer.py", "answer.py"])
def test_files_are_given_and_taken(case: Case, path: str) -> None:
    def student(run: FakeRun) -> End:
        run.write("/job/out", run.read(f"/job/{path}") * 2)
        return End(exit_status=0)

    def grader(run: FakeRun) -> None:
        done = run.student("x", give=[File(path, b"given")], take=["out", "none"])
        assert done.files == (File("out", b"givengiven"),)

    case.result(grading(grader, student), GUARDED)


# --- how a call ends ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "called"),
    [
        (End(exit_status=0), Called(b"", b"", 0)),
        (End(signal=9), Called(b"", b"", 137)),
        (End(exit_status=0, limit="wall"), Called(b"", b"", 124, limit="wall")),
        (End(signal=9, limit="memory"), Called(b"", b"", 125, limit="memory")),
        (End(exec_error=2), Called(b"", b"", 127)),
        (End(exec_error=13), Called(b"", b"", 126)),
    ],
)
def test_how_a_call_ends_is_told_to_its_caller(case: Case, end: End, called: Called) -> None:
    found: list[Called] = []
    case.result(grading(lambda run: found.append(run.student("x")), lambda run: end), GUARDED)
    assert found == [called]


def test_what_a_student_prints_is_bounded(case: Case) -> None:
    ended = threading.Event()

    def student(run: FakeRun) -> End:
        with contextlib.suppress(ChannelClosed):
            while not run.killed.is_set():
                run.print(b"x" * 300)
        ended.set()
        return End(exit_status=0)

    found: list[Called] = []
    case.result(grading(lambda run: found.append(run.student("x")), student), GUARDED)
    assert (found[0].limit, found[0].returncode, len(found[0].stdout)) == ("output", 125, 900)
    assert ended.is_set()


def waiting(run: FakeRun) -> End:
    """Student code that never ends by itself."""
    assert run.killed.wait(PATIENCE)
    return End(exit_status=0)


def test_a_call_may_have_less_time_than_the_step_allows(case: Case) -> None:
    found: list[Called] = []
    case.result(grading(lambda run: found.append(run.student("x", time=0.05)), waiting), GUARDED)
    assert (found[0].limit, found[0].returncode) == ("wall", 124)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"give": [File("a", b""), File("a/b", b"")]}, "'a' is a file"),
        ({"give": [File("answer.py/x", b"")]}, "'answer.py' is a file"),
        ({"give": [File("a", b"x" * (frames.MAX_BYTES + 1))]}, "MiB of files are given"),
    ],
)
def test_what_this_hand_in_has_no_room_for_is_refused_and_the_grader_goes_on(
    case: Case, options: Any, why: str
) -> None:
    found: list[Called] = []
    result = case.result(grading(lambda run: found.append(run.student("x", **options))), GUARDED)
    assert (found[0].returncode, why in found[0].refused) == (125, True), found
    assert (result.score, result.steps[0].calls) == (10, 0)


def at_fault(case: Case, inside: Inside, **more: Any) -> str:
    """What is said of an attempt whose grader has a mistake: not again, and no student's zero."""
    ack = case.failure(inside, GUARDED, **more)
    assert (ack.failure.id, ack.retry) == ("student_call", False)
    assert "docs/guarded.md" in ack.failure.hint
    return ack.failure.message


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"command": ()}, "no command is named"),
        ({"command": ("",)}, "no command is named"),
        ({"time": 0.0}, "above 0"),
        ({"give": [File("../x", b"")]}, "leads out of its folder"),
        ({"give": [File("/x", b"")]}, "is absolute"),
        ({"give": [File("a", b""), File("a", b"")]}, "or one twice"),
        ({"take": ["../*"]}, "leads out of its folder"),
    ],
)
def test_what_can_never_be_asked_for_is_the_graders_mistake(case: Case, options: dict[str, Any], why: str) -> None:
    found: list[Called] = []
    command = options.pop("command", ("x",))
    message = at_fault(case, grading(lambda run: found.append(run.student(*command, **options))))
    assert why in message
    assert (found[0].returncode, why in found[0].refused) == (125, True), "which it hears as well"


def test_a_grader_that_says_so_itself_is_at_fault(case: Case) -> None:
    def grader(run: FakeRun) -> int:
        assert run._connect is not None
        channel = run._connect()
        frames.send(channel, "B", b"--time soon: not a number")
        channel.shutdown()
        (last,) = frames.read(channel)
        assert Ending.decode(last[1]).how is How.MISUSED
        return 10

    assert "--time soon" in at_fault(case, grading(grader))


def test_what_is_not_taken_is_told(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    collect = FakeBox.collect
    found: list[Called] = []
    left = Collected((File("out/small", b"s"),), refused=(("out/la\udcffrge", "it is too large"),))
    monkeypatch.setattr(FakeBox, "collect", lambda box, mount, *_: left if mount == "/job" else collect(box, mount, *_))
    case.result(grading(lambda run: found.append(run.student("x", take=["out/*"]))), GUARDED)
    assert found[0].files == left.files
    assert found[0].not_taken == left.refused


def test_a_folder_of_the_hand_in_where_a_file_is_given_is_the_students_own_loss(case: Case) -> None:
    found: list[Called] = []
    inside = grading(lambda run: found.append(run.student("x", give=[File("input.txt", b"")])))
    case.result(inside, GUARDED, files={"input.txt/x": b""})
    assert "'input.txt' is a folder of the hand-in" in found[0].refused


def test_so_many_calls_at_once_and_no_more(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.students.MAKE_WAY", 0.2)
    entered = threading.Semaphore(0)
    go = threading.Event()

    def student(run: FakeRun) -> End:
        entered.release()
        assert go.wait(PATIENCE)
        return End(exit_status=0)

    def grader(run: FakeRun) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            calls = [pool.submit(run.student, "x") for _ in range(AT_ONCE)]
            for _ in calls:
                assert entered.acquire(timeout=PATIENCE)
            assert f"{AT_ONCE} calls are open" in run.student("y").refused
            go.set()
            for call in calls:
                call.exception()  # the grader is ended among them

    assert f"{AT_ONCE} calls are open" in at_fault(case, grading(grader, student))


def test_one_after_the_other_there_may_be_any_number(case: Case) -> None:
    def grader(run: FakeRun) -> None:
        assert [run.student("x").refused for _ in range(3 * AT_ONCE)] == [""] * 3 * AT_ONCE

    case.result(grading(grader), GUARDED)


def test_one_too_many_waits_a_moment_for_another_to_end(case: Case) -> None:
    """Of a caller that has left we may not have heard when the next one comes."""
    entered = threading.Semaphore(0)
    go = threading.Event()

    def student(run: FakeRun) -> End:
        entered.release()
        assert go.wait(PATIENCE)
        return End(exit_status=0)

    def grader(run: FakeRun) -> None:
        with ThreadPoolExecutor(AT_ONCE + 1) as pool:
            calls = [pool.submit(run.student, "x") for _ in range(AT_ONCE + 1)]
            for _ in range(AT_ONCE):
                assert entered.acquire(timeout=PATIENCE)
            go.set()
            assert {call.result().returncode for call in calls} == {0}

    case.result(grading(grader, student), GUARDED)


def test_a_caller_that_left_is_no_open_call_though_its_box_takes_its_time(case: Case) -> None:
    entered = threading.Semaphore(0)
    go = threading.Event()

    def student(run: FakeRun) -> End:
        entered.release()
        assert go.wait(PATIENCE)
        return End(exit_status=0)

    plan = Assignment("hw", (GUARDED,), max_score=1).pack(case.blobs).plan
    students = Students(Watched(student), plan, 0, image="", token="t", submission=(), collected=())
    for _ in range(AT_ONCE):
        ours, theirs = FakeChannel.pair()
        students.accept(ours)
        frames.send(theirs, "R", Request(("x",)).encode())
        frames.send(theirs, "E")
        assert entered.acquire(timeout=PATIENCE)
        theirs.close()
    eventually(lambda: not students._waiting)
    go.set()
    assert students.close().calls == AT_ONCE


def test_so_many_calls_in_all_and_no_more(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.students.MOST", 3)
    found: list[str] = []
    case.result(grading(lambda run: found.extend(run.student("x").refused for _ in range(5))), GUARDED)
    assert found[:3] == [""] * 3
    assert all("3 calls have been made" in why for why in found[3:])


def test_what_calls_use_counts_in_the_step(case: Case) -> None:
    ends = iter(
        [
            End(exit_status=0, usage=Usage(wall=1.0, cpu=0.5, memory=10), pids_limit=True),
            End(exit_status=0, usage=Usage(wall=1.0, cpu=0.25, memory=30), pids_limit=True),
        ]
    )

    def inside(run: FakeRun) -> End:
        if run.command != ("grade",):
            return next(ends)
        run.student("x")
        run.student("y")
        scoring(5)(run)
        return End(exit_status=0, usage=Usage(wall=2.5, cpu=1.0, memory=20))

    result = case.result(inside, GUARDED)
    assert result.steps[0].usage == Usage(wall=2.5, cpu=1.75, memory=30)
    assert result.steps[0].calls == 2
    assert [(notice.id, notice.message) for notice in result.warnings] == [
        ("pids_limit", "student code of step 'grade' ran into its limit of processes")
    ]


# --- ends that nobody waits for -------------------------------------------------------------------


def test_when_its_caller_is_gone_student_code_is_killed(case: Case) -> None:
    killed = threading.Event()
    entered = threading.Event()

    def student(run: FakeRun) -> End:
        entered.set()
        assert run.killed.wait(PATIENCE)
        killed.set()
        return End(exit_status=0)

    def grader(run: FakeRun) -> None:
        assert run._connect is not None
        channel = run._connect()
        frames.send(channel, "R", Request(("x",)).encode())
        frames.send(channel, "E")
        assert entered.wait(PATIENCE)
        channel.close()
        assert killed.wait(PATIENCE)

    assert case.result(grading(grader, student), GUARDED).score == 10


def test_a_caller_that_goes_half_way_is_not_told_of_an_end_that_was_none(case: Case) -> None:
    """What was killed for its sake has neither exit status nor signal: none is made up."""
    entered = threading.Event()

    def student(run: FakeRun) -> End:
        entered.set()
        return waiting(run)

    def grader(run: FakeRun) -> None:
        assert run._connect is not None
        channel = run._connect()
        frames.send(channel, "R", Request(("x",)).encode())
        frames.send(channel, "E")
        assert entered.wait(PATIENCE)
        channel.shutdown()
        assert list(frames.read(channel)) == []
        channel.close()

    assert case.result(grading(grader, student), GUARDED).score == 10


def test_to_close_ends_calls_whatever_becomes_of_their_channels(case: Case) -> None:
    entered = threading.Event()

    def student(run: FakeRun) -> End:
        entered.set()
        return waiting(run)

    sandbox = Watched(student)
    plan = Assignment("hw", (GUARDED,), max_score=1).pack(case.blobs).plan
    students = Students(sandbox, plan, 0, image="", token="t", submission=(), collected=())
    ours, theirs = FakeChannel.pair()
    students.accept(ours)
    frames.send(theirs, "R", Request(("x",)).encode())
    frames.send(theirs, "E")
    assert entered.wait(PATIENCE)
    with ThreadPoolExecutor(1) as pool:
        closed = pool.submit(students.close)
        assert closed.result(PATIENCE).calls == 1
    assert sandbox.all_closed()
    later, other = FakeChannel.pair()
    students.accept(later)
    assert other.recv() == b"", "it takes no more calls"
    for channel in (theirs, other):
        channel.close()


def test_when_the_grader_ends_what_it_left_running_is_killed_and_no_box_is_left(case: Case) -> None:
    entered = threading.Semaphore(0)

    def student(run: FakeRun) -> End:
        entered.release()
        return waiting(run)

    def grader(run: FakeRun) -> None:
        for _ in range(3):
            assert run._connect is not None
            channel = run._connect()
            frames.send(channel, "R", Request(("x",)).encode())
            frames.send(channel, "E")
            assert entered.acquire(timeout=PATIENCE)

    sandbox = Watched(grading(grader, student))
    result = case.result(sandbox._inside, GUARDED, sandbox=sandbox)
    assert (result.score, result.steps[0].calls) == (10, 3)
    assert sandbox.all_closed()


def test_a_cancel_ends_the_student_too(case: Case) -> None:
    entered = threading.Event()

    def student(run: FakeRun) -> End:
        entered.set()
        return waiting(run)

    def grader(run: FakeRun) -> None:
        with contextlib.suppress(RuntimeError):
            run.student("x")

    sandbox = Watched(grading(grader, student))
    with ThreadPoolExecutor(1) as pool:
        ack = pool.submit(case.run, sandbox._inside, GUARDED, sandbox=sandbox)
        assert entered.wait(PATIENCE)
        case.stop.request("cancel")
        assert isinstance(ack.result(PATIENCE), Cancelled)
    assert sandbox.all_closed()


def of_students(spec: BoxSpec) -> bool:
    return spec.limits == GUARDED.student


@pytest.mark.parametrize(
    ("error", "id", "charge"),
    [
        (SandboxFailed("no box", id="sandbox_start"), "sandbox_start", True),
        (SandboxUnavailable("no engine", id="sandbox_unavailable"), "sandbox_unavailable", False),
        (RuntimeError("a mistake of ours"), "internal", True),
    ],
)
def test_a_sandbox_that_fails_under_a_call_is_no_students_zero(
    case: Case, error: Exception, id: str, charge: bool
) -> None:
    """The grader would take it for the student's fault, and report a zero: its box is killed."""

    def grader(run: FakeRun) -> int:
        with contextlib.suppress(RuntimeError):
            run.student("x")
        return 0

    sandbox = Watched(grading(grader), lambda spec: error if of_students(spec) else None)
    ack = case.run(sandbox._inside, GUARDED, sandbox=sandbox)
    assert isinstance(ack, Fail)
    assert (ack.failure.id, ack.charge, ack.retry) == (id, charge, True)
    assert sandbox.all_closed()


def test_a_box_that_dies_under_a_call_fails_the_attempt(case: Case) -> None:
    def student(run: FakeRun) -> End:
        raise SandboxFailed("its engine is gone", id="sandbox_died")

    def grader(run: FakeRun) -> int:
        with pytest.raises(RuntimeError):
            run.student("x")
        assert run.killed.wait(PATIENCE)
        return 0

    assert case.failure(grading(grader, student), GUARDED).failure.id == "sandbox_died"


def test_where_nothing_connects_in_the_students_box_that_is_ours(case: Case) -> None:
    class Mute(FakeSandbox):
        def open(self, spec: BoxSpec) -> FakeBox:
            box = super().open(spec)
            if of_students(spec):
                box.run = lambda *_, **__: End(exit_status=0)  # type: ignore[method-assign]
            return box

    def grader(run: FakeRun) -> int:
        with contextlib.suppress(RuntimeError):
            run.student("x")
        return 0

    failure = case.failure(grading(grader), GUARDED, sandbox=Mute(grading(grader))).failure
    assert failure.id == "sandbox_exec"


@pytest.mark.parametrize("sooner", [True, False])
def test_time_that_a_sandbox_took_is_not_the_students(
    case: Case, sooner: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grader that waits for a box which hangs passes its limit, by no fault of the hand-in's."""
    monkeypatch.setattr("minitango.students.PATIENCE", 0.1)
    done = threading.Event()

    def late(spec: BoxSpec) -> None:
        if of_students(spec) and not sooner:
            assert done.wait(PATIENCE)

    def inside(run: FakeRun) -> End:
        if run.command == ("grade",):
            assert run._connect is not None
            channel = run._connect()
            frames.send(channel, "R", Request(("x",)).encode())
            threading.Event().wait(0.5)
            threading.Timer(0.2, done.set).start()
        return End(signal=9, limit="wall", usage=Usage(wall=60.0 + 0.2))

    sandbox = Watched(inside, late)
    ack = case.run(inside, GUARDED, sandbox=sandbox)
    if sooner:
        assert isinstance(ack, Finish)
        assert ack.result.outcome == "time_limit"
    else:
        assert isinstance(ack, Fail)
        assert (ack.failure.id, ack.retry) == ("sandbox_overdue", True)
    assert sandbox.all_closed()


def test_a_spare_box_that_does_not_open_harms_nobody_who_does_not_want_it(case: Case) -> None:
    fails = Watched(
        grading(lambda run: 4), lambda spec: SandboxFailed("no", id="sandbox_start") if of_students(spec) else None
    )
    assert case.result(fails._inside, GUARDED, sandbox=fails).score == 4


def test_a_spare_box_for_which_there_is_no_thread_is_opened_when_it_is_needed(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_threads(monkeypatch, "minitango spare box", 2)
    sandbox = Watched(grading(lambda run: [run.student("x").returncode for _ in range(3)].count(0)))
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(case.result, sandbox._inside, GUARDED, sandbox=sandbox)
        assert ended.result(PATIENCE).score == 3
    assert sandbox.all_closed()


@pytest.mark.parametrize("name", ["call", "call in", "call out"])
def test_a_call_for_which_there_is_no_thread_is_no_students_zero(
    name: str, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grader(run: FakeRun) -> int:
        with contextlib.suppress(RuntimeError):
            run.student("x")
        return 0

    refuse_threads(monkeypatch, f"minitango {name}")
    sandbox = Watched(grading(grader))
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(case.failure, sandbox._inside, GUARDED, sandbox=sandbox).result(PATIENCE)
    assert (ended.failure.id, ended.charge) == ("sandbox_threads", False)
    assert sandbox.all_closed()


# --- boxes that are opened ahead ------------------------------------------------------------------


def test_a_box_is_there_before_the_first_call_and_before_the_next(case: Case) -> None:
    def grader(run: FakeRun) -> None:
        eventually(lambda: sandbox.opened == 3)  # the preflight's, this one, and that of the first call
        run.student("x")
        eventually(lambda: sandbox.opened == 4)
        run.student("x")

    sandbox = Watched(grading(grader))
    case.result(sandbox._inside, GUARDED, sandbox=sandbox)
    assert sandbox.all_closed()
    spares = [box for box in sandbox.boxes if of_students(box._spec)]
    assert len(spares) == 3


def test_where_earlier_attempts_made_so_many_calls_no_more_boxes_are_opened_ahead(case: Case) -> None:
    from minitango.runner import Runner

    calls = iter([2, 2, 3, 3])
    opened: list[int] = []

    def grader(run: FakeRun) -> None:
        for _ in range(next(calls)):
            run.student("x")

    sandbox = Watched(grading(grader))
    runner = Runner(sandbox, case.blobs)
    lease = case.lease(Assignment("hw", (GUARDED,), root=case.root, max_score=10))
    for _ in range(4):
        before = sandbox.opened
        assert isinstance(runner.run(lease, stop=case.stop), Finish)
        opened.append(sandbox.opened - before - 1)
    assert opened == [3 + 1, 2, 3, 3], "the preflight's box is the first attempt's"


def test_habits_are_of_bounded_number() -> None:
    habits = Habits()
    for n in range(200):
        habits.learn(f"plan{n}", 1)
    assert habits.expected("plan199") == 1
    assert habits.expected("plan0") > 1


# --- what is spoken -------------------------------------------------------------------------------


def said(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What is read of these bytes."""
    ours, theirs = FakeChannel.pair()

    def send() -> None:
        with contextlib.suppress(ChannelClosed):
            theirs.send(data)
        theirs.close()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield from frames.read(ours)
    finally:
        ours.close()
        sender.join()


def frame(kind: str, data: bytes) -> bytes:
    return bytes([ord(kind)]) + len(data).to_bytes(4, "big") + data


@given(st.lists(st.tuples(st.sampled_from("RGIEOeTXF"), st.binary(max_size=300)), max_size=8), st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_frames_come_as_they_were_sent_or_are_said_to_be_cut_off(sent: list[tuple[str, bytes]], cut: int) -> None:
    data = b"".join(frame(*each) for each in sent)
    assert list(said(data)) == sent
    if cut and data:
        with contextlib.suppress(BadCall):
            whole = list(said(data[:-cut]))
            assert whole == sent[: len(whole)]


words = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), min_size=1)
paths = st.lists(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}", fullmatch=True), max_size=5, unique=True)


@given(words, st.none() | st.floats(0.001, 1e9), paths, paths)
@settings(max_examples=200, deadline=None)
def test_a_request_is_read_as_it_was_written(
    command: list[str], time: float | None, give: list[str], take: list[str]
) -> None:
    asked = Request(tuple(command), time, tuple(give), (*take, *(f"{path}/" for path in take)))
    assert Request.decode(asked.encode()) == asked


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadCall):
        Request.decode(data)
    with contextlib.suppress(BadCall):
        frames.request(said(frame("R", data) + data))
    with contextlib.suppress(BadCall):
        Ending.decode(data)


def test_a_frame_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadCall, match="may have 65536"):
        list(said(b"I" + (65_537).to_bytes(4, "big")))
    with pytest.raises(BadCall, match="entries"):
        Request.decode((1 << 31).to_bytes(4, "big"))


@pytest.mark.parametrize("ending", [Ending(How.EXITED, 7), Ending(How.LIMIT, text="wall"), Ending(How.REFUSED, 0, "é")])
def test_an_ending_is_read_as_it_was_written(ending: Ending) -> None:
    assert Ending.decode(ending.encode()) == ending


def test_a_fake_box_that_is_killed_while_a_channel_is_opened_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    box = FakeSandbox().open(BoxSpec(mounts=(Mount("/job"),), workdir="/job", helper=True))
    real = FakeChannel.pair

    def killed_meanwhile() -> tuple[FakeChannel, FakeChannel]:
        box.kill()
        return real()

    monkeypatch.setattr(FakeChannel, "pair", killed_meanwhile)
    ended: Future[End] = Future()
    opened: list[Any] = []

    def run() -> None:
        ended.set_result(box.run(INSIDE, env={}, output=lambda data: None, calls=opened.append))

    threading.Thread(target=run, daemon=True).start()
    assert ended.result(PATIENCE).cancelled
    opened[0].close()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\xff" * 100,
        frame("I", b"x"),
        frame("R", Request(("x",)).encode()) + frame("R", b""),
        frame("R", Request(("x",), give=("a",)).encode()) + frame("G", b"b"),
        frame("R", Request(("x",), give=("a",)).encode()) + frame("G", b"a") + frame("I", b""),
        frame("R", Request(("x",), give=("a",)).encode()) + frame("G", b"a"),
        frame("R", Request(("x",)).encode()) + frame("Z", b""),
        frame("R", Request(("x",)).encode()) + b"I\0",
    ],
)
def test_a_caller_that_says_nonsense_ends_its_own_call_and_nothing_else(case: Case, sent: bytes) -> None:
    def grader(run: FakeRun) -> None:
        assert run._connect is not None
        channel = run._connect()
        with contextlib.suppress(ChannelClosed):
            channel.send(sent)
            channel.shutdown()
        heard = list(frames.read(channel))
        assert [kind for kind, _ in heard] in ([], ["X"])
        for _, data in heard:
            assert Ending.decode(data).how is How.REFUSED
        channel.close()
        assert run.student("x").returncode == 0

    sandbox = Watched(grading(grader))
    assert case.result(sandbox._inside, GUARDED, sandbox=sandbox).score == 10
    assert sandbox.all_closed()


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff" * 100,
        frame("X", Ending(How.EXITED).encode()),
        frame("T", b"x"),
        b"O\0\0",
        frame("O", b""),  # no limit on output counts these
        frame("e", b""),
        frame("F", bytes(4)) * 2,
    ],
)
def test_a_students_side_that_says_nonsense_spoils_its_own_call_alone(case: Case, sent: bytes) -> None:
    """What starts student code there is of the same user: the student's may take hold of it."""

    class Taken(FakeBox):
        def _serve(self, env: Any, channel: FakeChannel) -> End:
            channel.recv()
            channel.send(sent)
            channel.close()
            self._killed.wait(0.5)
            return End(exit_status=0)

    class Sandbox(FakeSandbox):
        def open(self, spec: BoxSpec) -> FakeBox:
            self.opened += 1
            return Taken(spec, self._inside)

    found: list[Called] = []
    inside = grading(lambda run: found.append(run.student("x")) or 3)
    result = case.result(inside, GUARDED, sandbox=Sandbox(inside))
    assert (result.score, found[0].stdout) == (3, b"")
    assert "student's side" in found[0].refused or "frame" in found[0].refused


def test_only_the_first_connection_of_a_students_box_is_heard(case: Case) -> None:
    """It is made before anything of the student's runs."""
    heard: list[bytes] = []

    class Talkative(FakeBox):
        def run(self, command: Any, *, env: Any, output: Any, calls: Any = None) -> End:
            def accept(channel: Any) -> None:
                calls(channel)
                if of_students(self._spec):
                    ours, theirs = FakeChannel.pair()
                    calls(ours)
                    heard.append(theirs.recv())
                    theirs.close()

            return super().run(command, env=env, output=output, calls=accept)

    class Sandbox(FakeSandbox):
        def open(self, spec: BoxSpec) -> FakeBox:
            return Talkative(spec, self._inside)

    inside = grading(lambda run: run.student("x").returncode)
    assert case.result(inside, GUARDED, sandbox=Sandbox(inside)).score == 0
    assert heard == [b""]


def test_the_result_of_a_forger_is_what_its_grader_says(case: Case) -> None:
    def student(run: FakeRun) -> End:
        report(run, {"score": 10}) if "MINITANGO_REPORT" in run.env else run.print(b'{"score": 10}')
        return End(exit_status=0)

    result: Result = case.result(grading(lambda run: int(run.student("x").stdout == b"right"), student), GUARDED)
    assert result.score == 0
