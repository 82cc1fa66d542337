"""What a step runs where it names no command, and what it takes to be root: both are a container's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minitango import Assignment, Engine, Step, Submission
from minitango.errors import AssignmentError
from minitango.sandbox import End
from minitango.sandbox.bubblewrap import BubblewrapSandbox
from minitango.testing import FakeRun, FakeSandbox
from tests.support import need_bubblewrap
from tests.test_docker_root import SPEC

DIGEST = "sha256:" + "1" * 64


def question(root: Path, **options: object) -> Assignment:
    external = {"enabled": True, "image": "school/grader", **options}
    (root / "info.json").write_text(json.dumps({"title": "fib", "externalGradingOptions": external}))
    return Assignment.load(root)


def test_what_an_image_runs_by_itself_is_the_command(tmp_path: Path) -> None:
    ran: list[tuple[str, ...]] = []

    def inside(run: FakeRun) -> End:
        ran.append(run.command)
        run.write("/grade/results/results.json", b'{"score": 1}')
        return End(exit_status=0)

    commands = {DIGEST: ("/grader/run.sh", "--all")}
    sandbox = FakeSandbox(inside, images={"school/grader": DIGEST}, commands=commands)
    with Engine.open(tmp_path / "state", sandbox=sandbox, workers=1) as engine:
        result = engine.submit(Submission(question(tmp_path), "ada", {"fib.py": b"x"})).result(timeout=30)
    assert result.score == 100.0
    assert ran == [("/grader/run.sh", "--all")]


def refusal(sandbox: FakeSandbox, assignment: Assignment, state: Path) -> AssignmentError:
    with Engine.open(state, sandbox=sandbox, workers=1) as engine, pytest.raises(AssignmentError) as caught:
        engine.preflight(assignment)
    return caught.value


def test_an_image_that_runs_nothing_by_itself_is_an_error(tmp_path: Path) -> None:
    error = refusal(FakeSandbox(images={"school/grader": DIGEST}), question(tmp_path), tmp_path / "state")
    assert (error.id, error.key) == ("command", "step grade.command")
    assert "has no entrypoint of its own" in str(error)


def test_without_images_both_are_refused_with_the_remedy(tmp_path: Path) -> None:
    error = refusal(FakeSandbox(), question(tmp_path), tmp_path / "state")
    assert (error.id, error.hint) == ("image_needed", "--sandbox docker")
    assert "it needs what its image runs by itself" in str(error)
    rooted = Assignment(name="hw", steps=(Step(command=("true",), root=True),), format="exit-code", max_score=1)
    error = refusal(FakeSandbox(), rooted, tmp_path / "state2")
    assert (error.id, error.hint) == ("image_needed", "--sandbox docker")
    assert "it needs to be root in its container" in str(error)


def test_bubblewrap_never_makes_a_job_root(tmp_path: Path) -> None:
    need_bubblewrap()
    sandbox = BubblewrapSandbox(state=str(tmp_path))
    try:
        with pytest.raises(ValueError, match="no job is root here"):
            sandbox.open(SPEC)
        assert sandbox.image_command("") == ()
    finally:
        sandbox.close()
