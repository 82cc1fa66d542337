"""Runner: what a step sees, and whose fault a thing is. The sandbox's inside is a function; all else is real."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from minitango import Assignment, Limits, Outcome, SandboxFailed, SandboxUnavailable, Step, Trust
from minitango import archive as archive_module
from minitango.archive import File
from minitango.assignment.plan import Plan, PlanStep
from minitango.blobs import Blobs
from minitango.job import FORMATS, Ack, Cancelled, Fail, Finish, Lease, Release, Result, Usage
from minitango.layout import without_clashes
from minitango.output import KEEP_HEAD, KEEP_TAIL, HeadTail
from minitango.preflight import LACKS, Preflight
from minitango.remarks import notices
from minitango.runner import Runner
from minitango.sandbox import BoxSpec, Collected, End
from minitango.stopping import Stop
from minitango.testing import FakeBox, FakeRun, FakeSandbox
from tests.support import PATIENCE, refuse_threads, report, scoring

Inside = Callable[[FakeRun], End]


class Case:
    """One attempt, end to end, on real blobs."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "assignment"
        self.root.mkdir()
        self.blobs = Blobs(tmp_path / "blobs")
        self.stop = Stop()
        self.sink: list[tuple[str, bytes]] = []

    def write(self, **files: str) -> None:
        for name, text in files.items():
            path = self.root / name.replace("__", "/").replace("_sh", ".sh")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def lease(self, assignment: Assignment, files: dict[str, bytes] | None = None) -> Lease:
        bundle = [File(path, data) for path, data in (files or {"answer.py": b"print(1)"}).items()]
        inputs = self.blobs.put(archive_module.pack(bundle))
        return Lease("job", 1, "token", 0.0, assignment.pack(self.blobs).digest, inputs, "hw", "ada")

    def run(
        self, inside: Inside, *steps: Step, files: dict[str, bytes] | None = None, sandbox: FakeSandbox | None = None,
        **changes: Any,
    ) -> Ack | None:  # fmt: skip
        changes.setdefault("max_score", 10)
        assignment = Assignment("hw", steps or (Step(command=("grade",)),), root=self.root, **changes)
        runner = Runner(sandbox or FakeSandbox(inside), self.blobs)
        return runner.run(self.lease(assignment, files), stop=self.stop, sink=lambda *got: self.sink.append(got))

    def result(self, inside: Inside, *steps: Step, **more: Any) -> Result:
        ack = self.run(inside, *steps, **more)
        assert isinstance(ack, Finish), ack
        return ack.result

    def failure(self, inside: Inside, *steps: Step, **more: Any) -> Fail:
        ack = self.run(inside, *steps, **more)
        assert isinstance(ack, Fail), ack
        return ack


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


TWO = (
    Step(command=("run",), collect=("out/", "log")),
    Step(command=("grade",), submission=False),
)


# --- what a step sees ---------------------------------------------------------------------------


def test_a_single_step_sees_all_and_reports(case: Case) -> None:
    case.write(grader__check_sh="the check", grader__data="42")
    seen: dict[str, Any] = {}

    def inside(run: FakeRun) -> End:
        seen.update(files=sorted(run.files), env=run.env, mounts=run.spec.mounts, command=run.command)
        return scoring(7)(run)

    result = case.result(inside, Step(command=("sh", "check.sh"), files=("grader/",), env={"LEVEL": "2"}))
    assert seen["files"] == ["/job/answer.py", "/job/check.sh", "/job/data", "/submission/answer.py"]
    assert seen["env"] == {
        "LEVEL": "2",
        "MINITANGO_SUBMISSION": "/submission",
        "MINITANGO_REPORT": "/report/results.json",
    }
    assert {(m.path, m.writable) for m in seen["mounts"]} == {("/job", True), ("/submission", False), ("/report", True)}
    assert (result.score, result.trust) == (7, Trust.SHARED)


def test_two_steps_are_separated(case: Case) -> None:
    case.write(run__runner="r", grade__expected="e")
    views: list[tuple[list[str], dict[str, str]]] = []

    def inside(run: FakeRun) -> End:
        views.append((sorted(run.files), run.env))
        if run.command == ("run",):
            run.write("/job/out/a", b"1")
            run.write("/job/log", b"l")
            run.write("/job/secret", b"s")
            return End(exit_status=0)
        assert run.read("/collected/run/out/a") == b"1"
        return scoring(9)(run)

    from msgspec.structs import replace

    result = case.result(inside, replace(TWO[0], files=("run/",)), replace(TWO[1], files=("grade/",)))
    (first, first_env), (second, second_env) = views
    assert first == ["/job/answer.py", "/job/runner", "/submission/answer.py"]
    assert first_env == {"MINITANGO_SUBMISSION": "/submission"}
    assert second == ["/collected/run/log", "/collected/run/out/a", "/job/expected"]
    assert second_env == {"MINITANGO_COLLECTED": "/collected", "MINITANGO_REPORT": "/report/results.json"}
    assert (result.score, result.trust) == (9, Trust.SEPARATED)
    assert [step.name for step in result.steps] == ["run", "grade"]


def test_a_forged_report_of_an_earlier_step_is_not_looked_at(case: Case) -> None:
    def inside(run: FakeRun) -> End:
        if run.command == ("run",):
            run.write("/report/results.json", b'{"score": 10}')
            run.write("/job/results.json", b'{"score": 10}')
            run.print(b'{"score": 10}')
            return End(exit_status=0)
        return End(exit_status=0)

    result = case.result(inside, *TWO)
    assert (result.outcome, result.score) == (Outcome.NO_SCORE, None)
    assert result.reason


def test_the_assignments_files_win_over_the_hand_ins(case: Case) -> None:
    case.write(check_sh="real", lib__x="real")
    seen: dict[str, bytes] = {}

    def inside(run: FakeRun) -> End:
        seen.update({path: file.data for path, file in run.files.items() if path.startswith("/job/")})
        return scoring(1)(run)

    theirs = {"check.sh": b"forged", "lib": b"a file where a folder must be", "answer.py": b"mine"}
    result = case.result(inside, Step(command=("x",), files=("check.sh", "lib")), files=theirs)
    assert seen == {"/job/check.sh": b"real", "/job/lib/x": b"real", "/job/answer.py": b"mine"}
    assert [notice.id for notice in result.warnings] == ["shadowed_files"]


@given(
    theirs=st.sets(st.sampled_from(["a", "b", "a/b", "a/c", "b/c/d", "c", "a/b/c"])),
    own=st.sets(st.sampled_from(["a", "b/c", "d", "a/b"])),
)
def test_without_clashes_leaves_a_tree(theirs: set[str], own: set[str]) -> None:
    own = {path for path in own if not any(other.startswith(path + "/") for other in own)}
    theirs = {path for path in theirs if not any(other.startswith(path + "/") for other in theirs)}
    kept, gone = without_clashes([File(p, b"") for p in sorted(theirs)], [File(p, b"") for p in own])
    assert {file.path for file in kept} | set(gone) == theirs
    together = {file.path for file in kept} | own
    for path in together:
        assert not any(other.startswith(path + "/") for other in together), "a file stands where a folder must be"
    assert not {file.path for file in kept} & own


# --- outcomes: the student's side ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "outcome", "words"),
    [
        ("wall", Outcome.TIME_LIMIT, "longer than 5 s"),
        ("cpu", Outcome.TIME_LIMIT, "more than 3 s of CPU"),
        ("memory", Outcome.MEMORY_LIMIT, "more than 64 MiB of memory"),
        ("output", Outcome.OUTPUT_LIMIT, "printed more than 1 MiB"),
    ],
)
def test_a_limit_ends_the_job_and_no_report_counts(case: Case, limit: Any, outcome: Outcome, words: str) -> None:
    def inside(run: FakeRun) -> End:
        report(run, {"score": 10})
        return End(signal=9, limit=limit)

    result = case.result(inside, Step(command=("x",), limits=Limits(wall=5, cpu=3, memory=64 << 20)))
    assert (result.outcome, result.score) == (outcome, None)
    assert words in result.reason


def test_a_limit_in_an_earlier_step_ends_the_job_there(case: Case) -> None:
    ran: list[tuple[str, ...]] = []

    def inside(run: FakeRun) -> End:
        ran.append(run.command)
        return End(signal=9, limit="wall")

    assert case.result(inside, *TWO).outcome is Outcome.TIME_LIMIT
    assert ran == [("run",)]


def test_a_crash_in_an_earlier_step_is_left_to_the_grader(case: Case) -> None:
    def inside(run: FakeRun) -> End:
        return End(signal=11) if run.command == ("run",) else scoring(0)(run)

    result = case.result(inside, *TWO)
    assert (result.outcome, result.score) == (Outcome.GRADED, 0)
    assert result.steps[0].signal == 11


def test_nothing_reported_is_no_score_with_its_reason(case: Case) -> None:
    result = case.result(lambda run: End(exit_status=0))
    assert (result.outcome, result.score, result.max_score) == (Outcome.NO_SCORE, None, 10)
    assert "results.json" in result.reason


def test_no_score_is_told_with_the_last_line_once(case: Case) -> None:
    def inside(run: FakeRun) -> End:
        run.print(b"Traceback:\nModuleNotFoundError: No module named 'gradescope_utils'\n")
        return End(exit_status=1)

    told = "ModuleNotFoundError: No module named 'gradescope_utils'"
    reason = case.result(inside).reason
    assert reason == f"no report: the last step ended with exit status 1 and left no results.json: {told}"
    assert case.result(inside, format="autolab", max_score=None).reason.count(told) == 1


def test_an_empty_report_is_no_score_with_its_reason(case: Case) -> None:
    def inside(run: FakeRun) -> End:
        run.write("/report/results.json", b"")
        return End(exit_status=0)

    result = case.result(inside)
    assert (result.outcome, result.score) == (Outcome.NO_SCORE, None)
    assert "0 bytes" in result.reason


def test_a_hand_ins_own_command_that_is_not_there_is_no_score(case: Case) -> None:
    result = case.result(lambda run: End(exec_error=errno.ENOENT), Step(command=("./a.out",)))
    assert result.outcome is Outcome.NO_SCORE
    assert result.reason == "there is no ./a.out: neither the assignment's files nor the hand-in has it"


@pytest.mark.parametrize("command", ["./answer.py", "../job/answer.py", "../submission/answer.py"])
@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES])
def test_a_hand_ins_own_command_that_does_not_work_is_no_score(case: Case, command: str, number: int) -> None:
    """It is there; what its first line names may be missing."""
    result = case.result(lambda run: End(exec_error=number), Step(command=(command,)))
    assert result.outcome is Outcome.NO_SCORE
    assert result.reason.startswith(f"the hand-in's {command} in step 'grade' could not be executed: ")


class Refusing(FakeSandbox):
    """A sandbox that refuses every file that it is asked to take out."""

    def open(self, spec: BoxSpec) -> FakeBox:
        box = super().open(spec)
        box.collect = lambda mount, patterns, bounds=None: Collected((), (("results.json", "a symbolic link"),))  # type: ignore[method-assign, assignment]
        return box


def test_a_refused_report_is_no_score_and_says_why(case: Case) -> None:
    result = case.result(scoring(1), sandbox=Refusing(scoring(1)))
    assert result.outcome is Outcome.NO_SCORE
    assert "a symbolic link" in result.reason


class Late(FakeSandbox):
    """What is collected was written after the main process."""

    def open(self, spec: BoxSpec) -> FakeBox:
        box = super().open(spec)
        taken = box.collect
        box.collect = lambda *a: Collected(taken(*a).files, late=("results.json",))  # type: ignore[method-assign]
        return box


def test_a_report_that_is_written_after_the_grader_has_ended(case: Case) -> None:
    result = case.result(scoring(7), sandbox=Late(scoring(7)))
    assert result.score == 7, "a sign decides nothing"
    (notice,) = result.warnings
    assert notice.id == "report_late"
    assert notice.message == "the report results.json was written to after the main process of its step had ended"


def test_refused_files_of_a_step_are_a_warning(case: Case) -> None:
    result = case.result(scoring(1), *TWO, sandbox=Refusing(scoring(1)))
    assert result.warnings[0].id == "refused_files"
    assert result.steps[0].refused == (("results.json", "a symbolic link"),)


def test_what_a_box_noticed_becomes_warnings(case: Case) -> None:
    def inside(run: FakeRun) -> End:
        scoring(3)(run)
        return End(exit_status=0, oom_kills=1, disk_full=True, pids_limit=True)

    result = case.result(inside)
    assert result.score == 3
    assert [notice.id for notice in result.warnings] == ["memory_kill", "disk_full", "pids_limit"]


def test_one_that_was_called_off_did_not_go_on_to_its_own_end() -> None:
    assert [notice.id for notice in notices("it", End(oom_kills=1))] == ["memory_kill"]
    assert notices("it", End(oom_kills=1, cancelled=True)) == []


def test_usage_adds_up(case: Case) -> None:
    def inside(run: FakeRun) -> End:
        scoring(1)(run)
        known = run.command == ("run",)
        return End(exit_status=0, usage=Usage(wall=1.5, cpu=1.0 if known else None, memory=100 if known else 300))

    usage = case.result(inside, *TWO).usage
    assert (usage.wall, usage.cpu, usage.memory) == (3.0, None, 300)


# --- the assignment's side ----------------------------------------------------------------------


@pytest.mark.parametrize("command", ["gcc", "/opt/grade"])
def test_a_command_that_is_not_there_is_the_assignments_fault(case: Case, command: str) -> None:
    failed = case.failure(lambda run: End(exec_error=errno.ENOENT), Step(command=(command,)))
    assert not failed.retry
    assert failed.failure.id == "command"
    assert failed.failure.hint


def test_a_script_that_is_not_executable_is_found_before_a_box_is_opened(case: Case) -> None:
    case.write(grade_sh="#!/bin/sh\n")
    sandbox = FakeSandbox(scoring(1))
    failed = case.failure(scoring(1), Step(command=("./grade.sh",), files=("grade.sh",)), sandbox=sandbox)
    assert "chmod +x" in failed.failure.hint
    assert not failed.retry
    assert sandbox.opened == 0


def test_windows_line_ends_in_a_script_are_named(case: Case) -> None:
    case.write(grade_sh="#!/bin/sh\r\necho hi\r\n")
    (case.root / "grade.sh").chmod(0o755)
    failed = case.failure(scoring(1), Step(command=("./grade.sh",), files=("grade.sh",)))
    assert "Windows line ends" in failed.failure.message


def test_preflight_happens_once_an_assignment(case: Case) -> None:
    sandbox = FakeSandbox(scoring(1))
    runner = Runner(sandbox, case.blobs)
    assignment = Assignment("hw", (Step(command=("grade",)),), root=case.root)
    for _ in range(3):
        runner.run(case.lease(assignment), stop=Stop())
    assert sandbox.opened == 1 + 3


def test_without_a_thread_for_it_nobody_is_charged_and_nobody_waits(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_threads(monkeypatch, "minitango preflight")
    runner = Runner(FakeSandbox(scoring(1)), case.blobs)
    lease = case.lease(Assignment("hw", (Step(command=("grade",)),), root=case.root))
    failed = runner.run(lease, stop=Stop())
    assert isinstance(failed, Fail)
    assert (failed.failure.id, failed.charge) == ("sandbox_threads", False)
    with ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(runner.run, lease, stop=case.stop).result(PATIENCE), Finish)


# --- images -------------------------------------------------------------------------------------

A, B = (f"sha256:{letter * 64}" for letter in "ab")


def test_every_box_gets_the_digest_and_the_result_has_it(case: Case) -> None:
    seen: list[str] = []

    def inside(run: FakeRun) -> End:
        seen.append(run.spec.image)
        return scoring(1)(run)

    sandbox = FakeSandbox(inside, images={"gcc:14": A, "": B})
    result = case.result(
        inside,
        Step(command=("run",), image="gcc:14", collect=("out",)),
        Step(command=("grade",), submission=False),
        sandbox=sandbox,
    )
    assert seen == [A, B]
    assert [(step.image, step.image_digest) for step in result.steps] == [("gcc:14", A), ("", B)]
    assert result.image_digest == B


def test_a_folder_of_the_assignment_is_prepared_from_its_files(case: Case) -> None:
    case.write(docker__Dockerfile="FROM gcc:14", docker__setup_sh="true")
    prepared: list[tuple[str, list[str]]] = []

    class Building(FakeSandbox):
        def prepare(self, image: str, folder: Sequence[File] = ()) -> str:
            prepared.append((image, [file.path for file in folder]))
            return super().prepare(image, folder)

    result = case.result(scoring(1), Step(command=("a",), image="docker/"), sandbox=Building(scoring(1), images={}))
    assert prepared == [("docker/", ["Dockerfile", "setup.sh"])]
    assert result.steps[0].image == "docker/"
    assert result.image_digest.startswith("sha256:")


def test_a_sandbox_without_images_takes_no_notice(case: Case) -> None:
    result = case.result(scoring(1), Step(command=("a",), image="gcc:14"))
    assert (result.steps[0].image, result.image_digest) == ("", "")


def test_an_image_that_cannot_be_had_is_the_assignments_fault(case: Case) -> None:
    sandbox = FakeSandbox(scoring(1), images={"": A})
    failed = case.failure(scoring(1), Step(command=("a",), image="gcc:99"), sandbox=sandbox)
    assert not failed.retry
    assert failed.failure.id == "image_missing"
    assert "hw [step grade.image]: there is no image 'gcc:99'" in failed.failure.message
    assert sandbox.opened == 0
    none = case.failure(scoring(1), sandbox=FakeSandbox(scoring(1), images={}))
    assert "--image" in none.failure.hint


class Registry(FakeSandbox):
    """Images that are pulled when the gate opens; each opening of a box may find them gone."""

    def __init__(self, *script: Exception | None) -> None:
        super().__init__(scoring(1), images={"": A})
        self.asked = 0
        self.asking = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.script = list(script)

    def prepare(self, image: str, folder: Sequence[File] = ()) -> str:
        self.asked += 1
        self.asking.release()
        assert self.gate.wait(PATIENCE)
        return super().prepare(image, folder)

    def open(self, spec: BoxSpec) -> FakeBox:
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error
        return super().open(spec)


def gone() -> SandboxUnavailable:
    return SandboxUnavailable("the image is not there any more", id="sandbox_image_gone")


def test_an_image_that_is_gone_is_prepared_again(case: Case) -> None:
    sandbox = Registry(None, None, gone())  # its command is looked for, one job is run, and then it is removed
    runner = Runner(sandbox, case.blobs)
    lease = case.lease(Assignment("hw", (Step(command=("a",)),), root=case.root))
    assert isinstance(runner.run(lease, stop=Stop()), Finish)
    lost = runner.run(lease, stop=Stop())
    assert isinstance(lost, Fail)
    assert (lost.retry, lost.charge) == (True, False)
    assert sandbox.asked == 1
    assert isinstance(runner.run(lease, stop=Stop()), Finish)
    assert sandbox.asked == 2


def test_an_image_is_prepared_once_for_all_who_wait(case: Case) -> None:
    sandbox = Registry()
    sandbox.gate.clear()
    heard: list[tuple[str, str]] = []
    runner = Runner(sandbox, case.blobs, on_image=lambda *image: heard.append(image))
    lease = case.lease(Assignment("hw", (Step(command=("a",)),), root=case.root))
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(runner.run, lease, stop=Stop()) for _ in range(4)]
        assert sandbox.asking.acquire(timeout=PATIENCE)
        sandbox.gate.set()
        assert all(isinstance(run.result(PATIENCE), Finish) for run in runs)
    assert sandbox.asked == 1
    assert heard == [("", A)]


def test_who_waits_for_an_image_can_be_stopped(case: Case) -> None:
    sandbox = Registry()
    sandbox.gate.clear()
    lease = case.lease(Assignment("hw", (Step(command=("a",)),), root=case.root))
    runner = Runner(sandbox, case.blobs)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(runner.run, lease, stop=case.stop)
        assert sandbox.asking.acquire(timeout=PATIENCE)
        assert case.stop.begun is None, "its time has not begun"
        case.stop.request("release")
        assert isinstance(run.result(PATIENCE), Release)
        sandbox.gate.set()
    later = Stop()
    assert isinstance(runner.run(lease, stop=later), Finish)
    assert later.begun is not None
    assert sandbox.asked == 1


@pytest.mark.parametrize(
    ("images", "image", "words"),
    [
        (None, "gcc:14", "install it on this machine"),
        ({"gcc:14": A}, "gcc:14", "name an image that has it"),
        ({"": A}, "", "name an image that has it"),
    ],
)
def test_what_to_do_about_a_missing_command(case: Case, images: dict[str, str] | None, image: str, words: str) -> None:
    def inside(run: FakeRun) -> End:
        return End(exec_error=errno.ENOENT)

    failed = case.failure(inside, Step(command=("make",), image=image), sandbox=FakeSandbox(inside, images=images))
    assert failed.failure.id == "command"
    assert words in failed.failure.hint


class Bare(FakeSandbox):
    """A box without a shell, or one that lacks the command."""

    def __init__(self, images: dict[str, str] | None, *, shell: bool = True, end: End | None = None) -> None:
        """`end`: how the look for commands ends."""
        super().__init__(scoring(1), images=images)
        self.end = end or (End(exit_status=0) if shell else End(exec_error=errno.ENOENT))
        self.default_image = "python:3.12-slim" if images is not None else ""

    def open(self, spec: BoxSpec) -> FakeBox:
        box = super().open(spec)

        def run(command: Any, *, env: Any, output: Callable[[bytes], None], calls: Any = None) -> End:
            if self.end.exec_error is None:
                output(b"ERROR: ld.so: object 'x.so' from LD_PRELOAD cannot be preloaded: ignored.\n")
                output(b"\n" + LACKS + b"make\n")
            return self.end

        box.run = run  # type: ignore[method-assign]
        return box


@pytest.mark.parametrize(
    ("images", "image", "place"),
    [
        (None, "gcc:14", "the sandbox of step 'grade'"),
        ({"gcc:14": A}, "gcc:14", "the image gcc:14 of step 'grade'"),
        ({"": A}, "", "the image python:3.12-slim that step 'grade' gets, as it names none"),
    ],
)
def test_what_an_image_lacks_is_said_of_the_image(
    case: Case, images: dict[str, str] | None, image: str, place: str
) -> None:
    step = Step(command=("make",), image=image)
    failed = case.failure(scoring(1), step, sandbox=Bare(images, shell=False))
    assert failed.failure.id == "no_shell"
    assert f"there is no /bin/sh in {place}" in failed.failure.message
    failed = case.failure(scoring(1), step, sandbox=Bare(images, shell=True))
    assert failed.failure.id == "command"
    assert f"make is not there in {place}" in failed.failure.message


# --- our side -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "id"),
    [
        (End(exit_status=2), "sandbox_preflight"),
        (End(limit="wall"), "sandbox_preflight"),
        (End(exec_error=errno.EAGAIN), "sandbox_exec"),
    ],
)
def test_a_look_for_commands_that_goes_wrong_says_nothing_of_them(case: Case, end: End, id: str) -> None:
    failed = case.failure(scoring(1), Step(command=("make",)), sandbox=Bare(None, end=end))
    assert (failed.failure.id, failed.retry) == (id, True)


class Broken(FakeSandbox):
    def __init__(self, error: Exception) -> None:
        super().__init__(scoring(1))
        self.error = error

    def open(self, spec: BoxSpec) -> FakeBox:
        raise self.error


@pytest.mark.parametrize(
    ("error", "id", "retry", "charge"),
    [
        (SandboxFailed("broke"), "sandbox_failed", True, True),
        (SandboxUnavailable("away"), "sandbox_unavailable", True, False),
        (RuntimeError("a bug of ours"), "internal", True, True),
    ],
)
def test_our_failures_are_no_students_zero(case: Case, error: Exception, id: str, retry: bool, charge: bool) -> None:
    failed = case.failure(scoring(1), sandbox=Broken(error))
    assert (failed.failure.id, failed.retry, failed.charge) == (id, retry, charge)
    assert str(error) in failed.failure.message


def test_a_damaged_blob_is_our_failure(case: Case) -> None:
    assignment = Assignment("hw", (Step(command=("grade",)),), root=case.root)
    lease = case.lease(assignment)
    path = case.blobs.path(lease.inputs)
    path.chmod(0o600)
    path.write_bytes(b"other")
    ack = Runner(FakeSandbox(scoring(1)), case.blobs).run(lease, stop=Stop())
    assert isinstance(ack, Fail)
    assert ack.failure.id == "blob_corrupt"


# --- stopping -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("why", "kind"), [("cancel", Cancelled), ("release", Release), ("overdue", Fail)])
def test_a_run_that_is_told_to_stop_says_so(case: Case, why: Any, kind: type) -> None:
    entered = threading.Event()

    def inside(run: FakeRun) -> End:
        entered.set()
        assert run.killed.wait(20)
        return End(cancelled=True)

    threading.Thread(target=lambda: (entered.wait(20), case.stop.request(why))).start()
    assert isinstance(case.run(inside), kind)


def test_a_lost_lease_has_nothing_to_say(case: Case) -> None:
    case.stop.request("lost")
    assert case.run(scoring(1)) is None


def test_a_stop_between_steps_ends_it(case: Case) -> None:
    def inside(run: FakeRun) -> End:
        assert run.command == ("run",), "the second step must not begin"
        case.stop.request("release")
        return End(exit_status=0)

    assert isinstance(case.run(inside, *TWO), Release)


def test_every_box_is_closed_whatever_happens(case: Case) -> None:
    closed: list[FakeBox] = []

    class Counting(FakeSandbox):
        def open(self, spec: BoxSpec) -> FakeBox:
            box = super().open(spec)
            close = box.close
            box.close = lambda: (closed.append(box), close())[1]  # type: ignore[method-assign, func-returns-value]
            return box

    def inside(run: FakeRun) -> End:
        if run.command == ("grade",):
            raise RuntimeError("in the middle")
        return End(exit_status=0)

    sandbox = Counting(inside)
    case.failure(inside, *TWO, sandbox=sandbox)
    assert len(closed) == sandbox.opened == 4


# --- output -------------------------------------------------------------------------------------


def test_output_is_kept_by_step_and_passed_on(case: Case) -> None:
    def inside(run: FakeRun) -> End:
        run.print(b"from \x00" + run.command[0].encode())
        return scoring(1)(run)

    ack = case.run(inside, *TWO)
    assert isinstance(ack, Finish)
    assert [(out.step, out.head) for out in ack.outputs] == [("run", b"from \x00run"), ("grade", b"from \x00grade")]
    assert case.sink == [("run", b"from \x00run"), ("grade", b"from \x00grade")]


@given(st.lists(st.binary(max_size=40), max_size=40), st.integers(0, 30), st.integers(1, 30))
def test_head_and_tail_are_exact(pieces: list[bytes], head: int, tail: int) -> None:
    kept = HeadTail(head, tail)
    for piece in pieces:
        kept.add(piece)
    whole, out = b"".join(pieces), kept.output("s")
    assert out.head == whole[:head]
    assert out.head + whole[len(out.head) : len(out.head) + out.elided] + out.tail == whole
    assert len(out.tail) == min(tail, max(0, len(whole) - head))
    assert kept.total == len(whole)


def test_what_a_students_step_left_is_not_executable_where_the_score_is_made(case: Case) -> None:
    class Executable(FakeSandbox):
        def open(self, spec: BoxSpec) -> FakeBox:
            box = super().open(spec)
            if any(mount.path == "/report" for mount in spec.mounts):
                return box
            left = Collected((File("a.out", b"\x7fELF", executable=True),))
            box.collect = lambda mount, patterns, bounds=None: left  # type: ignore[method-assign, assignment]
            return box

    seen: list[dict[str, File]] = []

    def inside(run: FakeRun) -> End:
        seen.append(dict(run.files))
        return scoring(1)(run)

    three = (
        Step(command=("build",), collect=("a.out",)),
        Step(command=("use",), submission=False, collect=("a.out",)),
        TWO[1],
    )
    case.result(inside, *three, sandbox=Executable(inside))
    assert seen[1]["/collected/step1/a.out"].executable, "a step in between may run what was built"
    assert not seen[2]["/collected/step1/a.out"].executable


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EIO])
@pytest.mark.parametrize("command", ["gcc", "./a.out"])
def test_a_command_that_the_machine_could_not_start_is_our_failure(case: Case, number: int, command: str) -> None:
    failed = case.failure(lambda run: End(exec_error=number), Step(command=(command,)))
    assert failed.retry
    assert failed.failure.id == "sandbox_exec"


def test_a_directory_in_the_reports_place_is_no_report(case: Case) -> None:
    class Directory(FakeSandbox):
        def open(self, spec: BoxSpec) -> FakeBox:
            box = super().open(spec)
            left = Collected((File("results.json/x.json", b'{"score": 10}'),))
            box.collect = lambda mount, patterns, bounds=None: left  # type: ignore[method-assign, assignment]
            return box

    result = case.result(scoring(1), sandbox=Directory(scoring(1)))
    assert (result.outcome, result.score) == (Outcome.NO_SCORE, None)
    assert "directory" in result.reason


def test_each_format_is_told_its_own_report_file(case: Case) -> None:
    told: dict[str, str | None] = {}
    for name in FORMATS:

        def inside(run: FakeRun, name: str = name) -> End:
            told[name] = run.env.get("MINITANGO_REPORT")
            return End(exit_status=0)

        case.result(inside, format=name)
    assert told == {
        "gradescope": "/report/results.json",
        "autolab": None,
        "prairielearn": "/report/results.json",
        "junit": "/report/results.xml",
        "exit-code": None,
    }


def test_a_report_that_no_format_asked_for_decides_nothing(case: Case) -> None:
    for name in ("autolab", "exit-code"):
        refusing = Refusing(lambda run: End(exit_status=0))
        assert "refused" not in case.result(scoring(1), format=name, sandbox=refusing).reason


def test_every_xml_file_of_a_report_folder_is_read(case: Case) -> None:
    def inside(run: FakeRun) -> End:
        run.write("/report/results.xml", b"<testsuite><testcase name='a'/></testsuite>")
        run.write("/report/deep/er/b.xml", b"<testsuite><testcase name='b'><failure/></testcase></testsuite>")
        run.write("/report/notes.txt", b"no report")
        return End(exit_status=1)

    result = case.result(inside, format="junit")
    assert (result.score, [test.name for test in result.tests]) == (5, ["b", "a"])
    assert result.reason.startswith("step 'grade' ended with exit status 1")


def test_a_folder_that_is_called_like_a_report_is_refused(case: Case) -> None:
    class Directory(FakeSandbox):
        def open(self, spec: BoxSpec) -> FakeBox:
            box = super().open(spec)
            left = Collected((File("a.xml/b.xml", b"<testsuite><testcase/></testsuite>"), File("c.xml/d", b"")))
            box.collect = lambda mount, patterns, bounds=None: left  # type: ignore[method-assign, assignment]
            return box

    result = case.result(scoring(1), format="junit", sandbox=Directory(scoring(1)))
    assert (result.score, result.reason) == (None, "the report c.xml was refused: it is a directory")


@pytest.mark.parametrize(("before", "score"), [(10, 7), (KEEP_HEAD + KEEP_TAIL, 7)])
def test_a_scores_line_is_the_last_line_however_much_was_printed(case: Case, before: int, score: int) -> None:
    def inside(run: FakeRun) -> End:
        run.print(b"x" * before + b'\n{"scores": {"all": 7}}\n')
        return End(exit_status=0)

    result = case.result(inside, format="autolab")
    assert (result.score, result.max_score, result.warnings) == (score, 10, ())
    assert ("elided" in result.feedback) == (before > KEEP_HEAD)


def test_a_scores_line_that_is_cut_is_no_score(case: Case) -> None:
    def inside(run: FakeRun) -> End:
        run.print(b"x" * KEEP_HEAD + b'y{"scores": {"all": 7}' + b" " * (KEEP_TAIL - 1) + b"}")
        return End(exit_status=0)

    assert "the last line is longer than what is kept" in case.result(inside, format="autolab").reason


# --- a word on what went wrong -------------------------------------------------------------------


def test_a_crash_of_an_earlier_step_is_told_with_its_last_line(case: Case) -> None:
    def inside(run: FakeRun) -> End:
        if run.command == ("run",):
            run.print(b"Traceback ...\nNameError: name 'prin' is not defined\n\n")
            run.write("/job/log", b"")
            return End(exit_status=1)
        return scoring(0)(run)

    reason = case.result(inside, *TWO).reason
    assert reason == "step 'run' ended with exit status 1: NameError: name 'prin' is not defined"


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        (b"a.c:1:10: error: expected ';'\n    1 | int main({\n      |          ^\n", "a.c:1:10: error: expected ';'"),
        (b"all is well\n------\n", "------"),
        (b"\n\n", ""),
    ],
)
def test_where_the_last_line_only_points_the_error_above_it_is_told(case: Case, printed: bytes, told: str) -> None:
    def inside(run: FakeRun) -> End:
        run.print(printed)
        return End(exit_status=2)

    reason = case.result(inside, format="exit-code").reason
    assert reason == f"the last step ended with exit status 2{told and ': '}{told}"


def test_an_exit_code_is_told_with_the_last_line(case: Case) -> None:
    def inside(run: FakeRun) -> End:
        run.print(b"main.c:3: error: expected ';'\n")
        return End(exit_status=2)

    result = case.result(inside, format="exit-code")
    assert (result.score, result.reason) == (
        0,
        "the last step ended with exit status 2: main.c:3: error: expected ';'",
    )


def test_failed_tests_are_counted_and_full_marks_need_no_word(case: Case) -> None:
    def tests(*scores: float) -> Inside:
        def inside(run: FakeRun) -> End:
            report(run, {"tests": [{"score": score, "max_score": 5} for score in scores]})
            return End(exit_status=0)

        return inside

    assert case.result(tests(5, 0)).reason == "1 of 2 tests failed"
    assert case.result(tests(5, 5)).reason == ""

    def unscored(status: str, **points: float) -> Inside:
        def inside(run: FakeRun) -> End:
            report(run, {"score": 0, "tests": [{"name": "imports", "status": status, **points}]})
            return End(exit_status=0)

        return inside

    # as unittest's tests are that cannot be imported: nobody says of how many points
    assert case.result(unscored("failed"), max_score=None).reason == "1 of 1 test failed"
    assert case.result(unscored("passed"), max_score=None).reason == ""
    assert case.result(unscored("failed", score=0, max_score=0), max_score=None).reason == "1 of 1 test failed"

    def stopped(run: FakeRun) -> End:
        report(run, {"tests": [{"name": "does not compile", "score": 0}]})
        run.print(b"a.cpp:1: error: expected ';'\n")
        return End(exit_status=1)

    result = case.result(stopped, max_score=None)
    assert result.reason.endswith("exit status 1: a.cpp:1: error: expected ';'")
    assert result.warnings == (), "nobody forges nothing"


def test_nothing_collected_is_a_warning(case: Case) -> None:
    result = case.result(scoring(3), *TWO)
    assert [notice.id for notice in result.warnings] == ["nothing_collected"]
    assert "out/, log" in result.warnings[0].message


@pytest.mark.parametrize("field", ["spec", "inputs"])
def test_a_lease_that_names_no_blob_is_of_a_damaged_record(case: Case, field: str) -> None:
    """Nobody is to report that as a mistake of ours, and no try is to follow."""
    (case.root / "x").write_text("")
    lease = structs.replace(
        case.lease(Assignment("hw", (Step(command=("grade",)),), root=case.root)), **{field: "../x"}
    )
    runner = Runner(FakeSandbox(scoring(1)), case.blobs)
    assert runner.wall_limit(lease.spec) > 0
    ack = runner.run(lease, stop=Stop())
    assert isinstance(ack, Fail)
    assert (ack.failure.id, ack.retry) == ("record_damaged", False)
    assert "job job" in ack.failure.message
    assert ack.failure.hint


def test_what_is_said_of_an_image_that_is_away_is_said_once() -> None:
    """However many assignments meet the same error, and however often."""
    away = SandboxUnavailable("it is away", hint="wait", id="sandbox_registry")

    class Away(FakeSandbox):
        def prepare(self, image: str, folder: Sequence[File] = ()) -> str:
            raise away

    step = PlanStep("grade", ("true",), image="one")
    ours = Plan("ours", "exit-code", None, False, Trust.SHARED, (step,))
    plans = {"ours": ours, "theirs": structs.replace(ours, layout="gradescope")}
    sandbox = Away(scoring(1))
    preflight = Preflight(sandbox, plan=plans.__getitem__, bundle=lambda digest: (), on_image=lambda *image: None)

    def said(spec: str) -> str:
        with pytest.raises(SandboxUnavailable) as caught:
            preflight.images(sandbox, spec)
        assert (caught.value.id, str(caught.value)) == ("sandbox_registry", "it is away")
        return caught.value.hint

    assert [said(spec) for spec in ("theirs", "theirs", "ours")] == [
        "wait; or another image: --image NAME", "wait; or another image: --image NAME", "wait",
    ]  # fmt: skip
