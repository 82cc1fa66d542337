"""What the other tests rely on: a command that is forked is what one that is started from nothing is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import PATIENCE, CommandLine, environment
from tests.e2e.warm import Warm


def forked(warm: Warm, cli: CommandLine, *words: str, **env: str) -> tuple[int, bytes, bytes]:
    done = warm.run(cli.command(*words)[3:], cli.folder, environment(**env), PATIENCE)
    assert done is not None
    return done.returncode, done.stdout, done.stderr


def started(cli: CommandLine, *words: str, **env: str) -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        cli.command(*words),
        cwd=cli.folder,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("--help",),
        (),
        ("nonsense",),
        ("jobs",),
        ("init", "here", "--name", "☃ é"),
        ("config", "--json"),
    ],
    ids=" ".join,
)
def test_it_does_and_says_the_same(warm: Warm, cli: CommandLine, words: tuple[str, ...], tmp_path: Path) -> None:
    seen = forked(warm, cli, *words)
    made = tmp_path / "here"
    if made.exists():
        made.rename(tmp_path / "forked")
    assert seen == started(cli, *words)


def test_its_environment_and_its_folder_are_its_own(warm: Warm, cli: CommandLine, tmp_path: Path) -> None:
    plain = forked(warm, cli, "config")
    there = CommandLine(tmp_path / "there", warm)
    there.folder.mkdir()
    changed = forked(warm, there, "config", MINITANGO_WORKERS="7", MINITANGO_PROG="mt")
    assert changed == started(there, "config", MINITANGO_WORKERS="7", MINITANGO_PROG="mt")
    assert plain != changed
    assert forked(warm, cli, "config") == plain, "nothing of it is left"


@pytest.mark.parametrize("name", ["PYTHONUTF8", "LC_ALL", "TZ", "MINITANGO_FAILPOINT"])
def test_what_counts_before_its_first_line_is_left_to_a_start_from_nothing(
    warm: Warm, tmp_path: Path, name: str
) -> None:
    assert warm.run(["minitango", "--version"], tmp_path, environment(**{name: "0"}), PATIENCE) is None
