"""How jobs are shown: numbers, notes, and tables that fit."""

from __future__ import annotations

import ast
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

import minitango
from minitango import Engine
from minitango.cli import cli, details, show, streams
from minitango.cli.grading import mixture
from minitango.cli.progress import Images, _names
from minitango.cli.records import ErrorRecord
from minitango.job import Failure, Job, Limits, Notice, Outcome, State, StepReport, Trust, Usage
from minitango.testing import FakeSandbox
from tests.support import PATIENCE, open_engine, scoring, submission


def job(**changes: object) -> Job:
    values = {"id": "j1", "seq": 1, "state": State.DONE, "assignment": "hw", "student": "ada", "spec": "", "inputs": ""}
    return Job(**{**values, **changes})  # type: ignore[arg-type]


def test_scores() -> None:
    assert [show.number(value) for value in (7, 7.5, 1 / 3, 0, 1e6, -1.5)] == [
        "7",
        "7.5",
        "0.33",
        "0",
        "1000000",
        "-1.5",
    ]
    assert (show.score(7, 10), show.score(7, None), show.score(None, 10)) == ("7/10", "7", "-")


def test_a_dead_job_is_never_taken_for_a_grade() -> None:
    dead = job(state=State.DEAD, failure=Failure("command", "make is not there"))
    assert show.outcome(dead) == "NOT GRADED"
    assert show.note(show.Seen(dead)) == "make is not there"
    record = show.record(show.Seen(dead))
    assert (record.score, record.error) == (None, ErrorRecord("command", "make is not there", ""))


def test_a_note_has_the_reason_and_the_first_warning() -> None:
    done = job(outcome=Outcome.TIME_LIMIT, reason="too slow")
    one, two = Notice("a", "first"), Notice("b", "second")
    assert show.note(show.Seen(done)) == "too slow"
    assert show.note(show.Seen(done, (one,))) == "too slow; warning [a]: first"
    assert show.note(show.Seen(done, (one, two))) == "too slow; warning [a]: first (and 1 more)"


def test_signs_of_tampering_come_first_where_the_score_could_be_reached() -> None:
    warnings = Notice("disk_full", "full"), Notice("report_late", "late"), Notice("grader_exit", "bad")
    shared = show.Seen(job(outcome=Outcome.GRADED, score=1, trust=Trust.SHARED), warnings)
    assert show.note(shared) == "sign of tampering [report_late]: late (and 2 more)"
    assert show.record(shared).signs == ("report_late", "grader_exit")
    apart = show.Seen(job(outcome=Outcome.GRADED, score=1, trust=Trust.SEPARATED), warnings)
    assert show.note(apart) == "warning [disk_full]: full (and 2 more)"
    assert show.record(apart).signs == ()


def test_columns_are_aligned_by_what_a_terminal_shows() -> None:
    lines = show.table(["student", "score"], [["日本", "7"], ["new\nline", "10/10"]]).splitlines()
    assert lines == ["student    score", "日本           7", "new\\nline  10/10"]


def test_a_long_name_does_not_make_every_line_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["x" * 200, "7", "fine"], ["ada", "10", "n" * 50]]
    head, long, short = show.table(["student", "score", "note"], rows).splitlines()
    assert long == f"{'x' * 200}      7  fine"
    assert short == f"ada{' ' * 57}     10  {'n' * 50}"
    assert head == f"student{' ' * 53}  score  note"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback=(80, 24): os.terminal_size((110, 24)))
    _, long, short = show.table(["student", "score", "note"], rows).splitlines()
    assert long == f"{'x' * 50}…      7  fine", "the name is cut before the note is"
    assert short.endswith("n" * 50)


def test_where_not_even_the_fixed_columns_fit_lines_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback=(80, 24): os.terminal_size((30, 24)))
    head = ["job", "student", "outcome", "note"]
    text = show.table(head, [["j" * 10, "x" * 50, "time_limit", "n" * 50]], fixed=("job", "outcome"))
    assert [cell_len(line) for line in text.splitlines()] == [30, 30]
    assert text.splitlines()[1] == f"{'j' * 10}  {'x' * 11}…  tim…"


@pytest.mark.parametrize("columns", [60, 80, 110])
def test_a_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback=(80, 24): os.terminal_size((columns, 24)))
    rows = [["x" * 200, "graded", "10/10", "n" * 300], ["日本語" * 30, "time_limit", "-", ""]]
    text = show.table(["student", "outcome", "score", "note"], rows, fixed=("outcome", "score"))
    assert max(cell_len(line) for line in text.splitlines()) <= columns
    assert "time_limit" in text
    assert "10/10" in text


def test_nothing_is_cut_where_nobody_looks() -> None:
    assert "n" * 300 in show.table(["student", "note"], [["ada", "n" * 300]])


def test_a_step_tells_its_image() -> None:
    digest = f"sha256:{'0123456789ab' * 5}0123"
    assert details.step(StepReport("run", exit_status=0)).endswith("; 0 ms, printed 0 B")
    assert details.step(StepReport("run", exit_status=0, image_digest=digest)).endswith("; image 0123456789ab")
    report = StepReport("run", exit_status=0, image="gcc:14", image_digest=digest)
    assert details.step(report).endswith("; image gcc:14 (0123456789ab)")


def test_a_guarded_step_says_how_often_it_had_student_code_run() -> None:
    """What that used is not held to the step's own limits."""
    usage = Usage(wall=1.0, cpu=9.0, memory=500 << 20)
    limits = Limits(wall=30.0, cpu=5.0, memory=256 << 20)
    text = details.step(StepReport("grade", exit_status=0, usage=usage, calls=2), limits)
    assert text == (
        "grade: exit status 0; 1 s of 30 s, cpu 9 s, memory and files 500 MiB, printed 0 B of 1 MiB; "
        "2 calls of student code"
    )
    assert "limit" in details.step(StepReport("grade", exit_status=0, usage=usage), limits)


def test_progress_of_images_in_a_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("minitango.cli.progress.time.monotonic", lambda: now[0])
    say = Images()
    for seconds in range(25):
        now[0] += 1
        say(f"pulling gcc:14: {seconds} of 24 MB")
    say("pulled gcc:14 in 24 s")
    say("building docker/: step 1 of 2: FROM gcc:14")
    assert capsys.readouterr().err.splitlines() == [
        "pulling gcc:14: 0 of 24 MB",
        "pulling gcc:14: 10 of 24 MB",
        "pulling gcc:14: 20 of 24 MB",
        "pulled gcc:14 in 24 s",
        "building docker/: step 1 of 2: FROM gcc:14",
    ]


def test_progress_of_images_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback=(80, 24): os.terminal_size((20, 24)))
    monkeypatch.setenv("TERM", "xterm")
    say = Images()
    say("pulling gcc:14")
    say("pulling gcc:14: 12 of 120 MB")
    say("pulled gcc:14 in 24 s")
    say("pulling gcc:15")
    say.clear()
    say.clear()
    lines = (
        "\r\x1b[Kpulling gcc:14",
        "\r\x1b[Kpulling gcc:14: 12…",
        "\r\x1b[Kpulled gcc:14 in 24 s\n",
        "\r\x1b[Kpulling gcc:15",
    )
    assert capsys.readouterr().err == "".join(lines) + "\r\x1b[K"


def test_quiet_is_quiet_about_progress_alone(capsys: pytest.CaptureFixture[str]) -> None:
    say = Images(quiet=True)
    for text in ("pulling gcc:14", "pulled gcc:14 in 2 s", "building docker/", "Docker is not used", "built docker/"):
        say(text)
    assert capsys.readouterr().err == "Docker is not used\n"


def graded(tmp_path: Path, name: str, digests: tuple[str, ...]) -> list[Job]:
    """A job for each digest, graded in this kind of sandbox."""
    jobs = []
    for n, digest in enumerate(digests):
        sandbox = FakeSandbox(scoring(1), images={"": digest})
        sandbox.name = name
        with open_engine(tmp_path, scoring(1), sandbox=sandbox) as engine:
            handle = engine.submit(submission(f"{name} {n} {uuid.uuid4().hex}"))
            handle.result(PATIENCE)
            jobs.append(handle.job())
    return jobs


def test_results_of_more_than_one_kind_of_sandbox(tmp_path: Path) -> None:
    a, b = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    alike = graded(tmp_path, "docker", (a, a))
    other = graded(tmp_path, "bubblewrap", ("",))
    moved = graded(tmp_path, "docker", (b,))
    with Engine.open(tmp_path, workers=0, sandbox=FakeSandbox()) as engine:
        store = engine.store
        assert mixture(store, []) == mixture(store, alike) == mixture(store, other) == []
        kinds, what_then = mixture(store, alike + other)
        assert kinds.endswith(": 2 in docker, 1 in bubblewrap")
        assert what_then.endswith("--fresh --sandbox docker")
        images, what_then = mixture(store, alike + moved)
        assert images.endswith(f": 2 in {'a' * 12}, 1 in {'b' * 12}")
        assert what_then.endswith("--fresh")


def test_names_of_running_students_fit() -> None:
    assert _names([], 20) == ""
    assert _names(["ada", "bob"], 20) == "ada, bob"
    assert _names(["ada", "bob", "eve", "zoe"], 16) == "ada, bob +2"
    assert _names(["x" * 99], 5) == "x" * 15 + "…"


def test_each_command_in_a_hint_is_as_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINITANGO_PROG", "./bin/minitango")
    for name in cli.commands:
        assert streams.as_called(f"see minitango {name} X") == f"see ./bin/minitango {name} X"


def texts_of(path: Path) -> Iterator[str]:
    """The texts of a module but for its docstrings, with X for what is filled in, and --store F for options."""
    tree = ast.parse(path.read_text())
    left_out: set[ast.AST] = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            left_out.update(node.values)
            yield "".join(
                str(part.value)
                if isinstance(part, ast.Constant)
                else (" --store F" if "flags" in ast.unparse(part) else "X")
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out:
            yield node.value


def test_each_command_that_is_suggested_reaches_the_queue_that_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    where = " --store 'redis://h/0?queue=q' --blobs '/mnt/a b'"
    monkeypatch.setattr(streams, "_typed", [where])
    assert streams.as_called("stop it, or: minitango nodes drain n1; minitango jobs (ids)") == (
        f"stop it, or: minitango nodes drain{where} n1; minitango jobs{where} (ids)"
    )
    for same in ("minitango jobs list X --state there; then", "minitango jobs list --help", "minitango check hw1"):
        assert streams.as_called(same) == same
    of_queue = re.compile(r"(?<![\w./-])minitango (?:run|submit|worker|jobs|nodes|export|prune|doctor)\b[^;)]*")
    seen = 0
    for path in sorted(Path(minitango.__file__).parent.rglob("*.py")):
        for text in texts_of(path) if "scaffolds" not in path.parts else ():
            for command in of_queue.findall(streams.as_called(text)):
                seen += 1
                assert "--store" in command, f"{path.name}: {text}"
    assert seen > 30


def test_what_is_told_is_told_as_it_is_called() -> None:
    """A command in what is printed goes through `as_called`, or has `program()`."""
    for path in sorted((Path(minitango.__file__).parent / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("tell", "out", "say")
            ):
                for said in node.args:
                    assert isinstance(said, ast.Call) or not re.search(
                        r"[\"' ]minitango (?:worker|jobs|nodes|run|prune)\b", ast.unparse(said)
                    ), f"{path.name}:{node.lineno}"
