"""The guide is true: its Python runs and is typed, its commands can be typed, its YAML is YAML, and it is found."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from minitango.cli import cli
from tests.support import need_bubblewrap

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAPERS = [ROOT / "README.md", *DOCS, *sorted(ROOT.glob("examples/**/README.md"))]


def blocks(paper: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", paper.read_text(), re.DOTALL | re.MULTILINE)


PYTHON = [(paper, n, text) for paper in DOCS for n, text in enumerate(blocks(paper, "python"), 1)]


@pytest.mark.parametrize(("paper", "number", "text"), PYTHON, ids=[f"{p.stem}-{n}" for p, n, _ in PYTHON])
def test_python_runs(paper: Path, number: int, text: str, tmp_path: Path) -> None:
    need_bubblewrap()
    shutil.copytree(ROOT / "examples" / "wordcount", tmp_path / "examples" / "wordcount")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///no/docker.sock"}
    done = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stdout.lower(), done.stdout


def test_python_is_typed(tmp_path: Path) -> None:
    """Each block by itself, under strict rules, against the package as it is installed elsewhere."""
    files = []
    for paper, number, text in PYTHON:
        file = tmp_path / f"{paper.stem}_{number}.py"
        file.write_text(text)
        files.append(str(file))
    command = [
        sys.executable,
        "-P",
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--cache-dir",
        str(tmp_path / "cache"),
        *files,
    ]
    environ = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def commands() -> list[tuple[str, str]]:
    found = []
    for paper in PAPERS:
        text = paper.read_text()
        fenced = re.findall(r"^```(?:sh|console)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line for block in fenced for line in block.splitlines()] + re.findall(
            r"^    (\S.*)", text, re.MULTILINE
        )
        found += [(paper.name, line) for line in lines if re.match(r"(bin/)?minitango [a-z]", line)]
    return found


COMMANDS = commands()


@pytest.mark.parametrize(("paper", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_commands_can_be_typed(paper: str, line: str) -> None:
    """As far as click can tell without doing it: the command is there, and has these options."""
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="minitango")
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        name = words.pop(0)
        command = command.commands[name]
        context = click.Context(command, info_name=name, parent=context)
    assert command is not cli, f"{paper}: {line}"
    command.parse_args(context, words)


def test_the_first_assignment_is_what_it_says(tmp_path: Path) -> None:
    """Its commands, one after the other, in one folder; and the table that it shows."""
    need_bubblewrap()
    paper = ROOT / "docs" / "first-assignment.md"
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "MINITANGO_SANDBOX": "bubblewrap", "DOCKER_HOST": ""}
    printed = ""
    for line in "".join(blocks(paper, "sh")).splitlines():
        words = [sys.executable, "-P", "-m", "minitango.cli", *shlex.split(line)[1:]]
        done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        printed += done.stdout
    table = paper.read_text().split("```\nassignment", 1)[1].split("```")[0]
    for line in f"assignment{table}".splitlines():
        assert line in printed.splitlines()
    assert len(list((tmp_path / "feedback").iterdir())) == 4
    assert (tmp_path / "grades.csv").read_text().count("\n") == 5


def test_there_are_commands_and_python() -> None:
    assert len(COMMANDS) > 5
    assert len(PYTHON) > 5


@pytest.mark.parametrize("paper", DOCS, ids=[paper.stem for paper in DOCS])
def test_yaml_is_yaml(paper: Path) -> None:
    for text in blocks(paper, "yaml"):
        assert isinstance(yaml.safe_load(text), dict)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for paper in DOCS:
        assert paper.name == "README.md" or f"({paper.name})" in index, paper.name
    assert "docs/README.md" in (ROOT / "README.md").read_text()
