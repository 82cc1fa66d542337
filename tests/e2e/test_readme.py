"""The README is true: its commands run, its assignment grades, its Python works, its table is what is printed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minitango import Assignment
from tests.support import need_bubblewrap

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("bin/minitango")]


@pytest.fixture(autouse=True)
def _sandbox() -> None:
    need_bubblewrap()


def run(line: str, state: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "MINITANGO_STATE": str(state)}
    return subprocess.run(shlex.split(line, comments=True), cwd=ROOT, env=environ, capture_output=True, text=True)


def test_the_first_two_commands_are_run_and_test() -> None:
    first = blocks("sh")[0].split("\n")
    assert first[:2] == ["bin/minitango run examples/wordcount examples/wordcount/handins", "bin/test"]


def test_the_commands_run_and_the_table_is_what_they_print(tmp_path: Path) -> None:
    printed = ""
    for line in COMMANDS:
        done = run(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        printed = printed or done.stdout
    shown = re.findall(r"```\n(student .*?)```", README, re.DOTALL)[0]
    assert _without_times(printed) == _without_times(shown)


def _without_times(table: str) -> list[str]:
    """Times, and what only some machines notice, differ; the rest does not."""
    lines = re.sub(r"\d+(\.\d+)? m?s(?=\s|$)", "T", table).splitlines()
    return [re.sub(r"\s+", " ", line.split(";")[0]).strip() for line in lines if line.strip()]


def test_the_assignment_grades(tmp_path: Path) -> None:
    folder = tmp_path / "hello"
    (folder / "grader").mkdir(parents=True)
    (folder / "samples").mkdir()
    (folder / "assignment.toml").write_text(blocks("toml")[0])
    (folder / "samples" / "right.py").write_text("print('hello')\n")
    (folder / "grader" / "grade.py").write_text(
        "import os\n"
        "said = open(os.environ['MINITANGO_COLLECTED'] + '/run/out.txt').read()\n"
        "open(os.environ['MINITANGO_REPORT'], 'w').write('{\"score\": %d}' % (10 * (said == 'hello\\n')))\n"
    )
    assert Assignment.load(folder).trust == "separated"
    done = run(f"bin/minitango check {folder}", tmp_path / "state")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_python_works(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[0]], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "graded 10.0 separated\n"), done.stderr


def test_every_file_that_the_papers_link_to_is_there() -> None:
    for paper in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", paper.read_text()):
            assert (paper.parent / target).exists(), f"{paper.name} links to {target}"
