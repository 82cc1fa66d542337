"""What the end-to-end tests share: the real command line in a process of its own, and assignments that take no time.

A command that is run to its end is forked from a process that has it loaded (`warm`), where that makes no difference.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from minitango.errors import SandboxUnavailable
from tests import support
from tests.e2e.warm import Warm

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
"""Seconds after which a test gives up on a process. Never waited out when things go well."""

Words = str | os.PathLike[str]


def environment(**changes: str) -> dict[str, str]:
    """Our environment without settings of minitango's, with the tree to be imported, and without Docker unless named:
    what a test sees is not to depend on what this machine has."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MINITANGO_")}
    return {**kept, "PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///no/docker.sock", **changes}


class Answer:
    """How a command ended, and what it said."""

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code = code
        self.out = out.decode(errors="backslashreplace")
        self.err = err.decode(errors="backslashreplace")

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """What `--json` printed of jobs."""
        body = json.loads(self.out)
        assert body["schema"] == 1
        jobs: list[dict[str, Any]] = body["jobs"]
        return jobs

    @property
    def samples(self) -> list[dict[str, Any]]:
        """What `check --json` printed of samples."""
        samples: list[dict[str, Any]] = json.loads(self.out)["samples"]
        return samples


class CommandLine:
    """`minitango`, started in one folder."""

    def __init__(self, folder: Path, warm: Warm) -> None:
        self.folder = folder
        self._warm = warm
        self._started: list[subprocess.Popen[bytes]] = []

    def command(self, *words: Words) -> list[str]:
        return [sys.executable, "-P", "-m", "minitango.cli", *map(os.fspath, words)]

    def __call__(
        self, *words: Words, cwd: Path | None = None, env: dict[str, str] | None = None, within: Sequence[str] = ()
    ) -> Answer:
        """Run it to its end; `within` is a command that runs it, such as setpriv."""
        where, command, variables = cwd or self.folder, self.command(*words), environment(**(env or {}))
        done = None if within else self._warm.run(command[3:], where, variables, PATIENCE)
        if done is None:
            done = subprocess.run(
                [*within, *command],
                cwd=where,
                env=variables,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PATIENCE,
            )
        return Answer(done.returncode, done.stdout, done.stderr)

    def start(self, *words: Words, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
        """Start it, and end it with the test if it has not ended by itself. Its output goes to files."""
        number = len(self._started)
        with (self.folder / f"out{number}").open("wb") as out, (self.folder / f"err{number}").open("wb") as err:
            process = subprocess.Popen(
                self.command(*words),
                cwd=self.folder,
                env=environment(**(env or {})),
                **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **options},
            )
        self._started.append(process)
        return process

    def answer(self, process: subprocess.Popen[bytes]) -> Answer:
        """Wait for one that was started."""
        code = process.wait(PATIENCE)
        number = self._started.index(process)
        return Answer(code, self.said(process), (self.folder / f"err{number}").read_bytes())

    def said(self, process: subprocess.Popen[bytes]) -> bytes:
        """What one that was started has printed so far."""
        return (self.folder / f"out{self._started.index(process)}").read_bytes()

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE)


def eventually(check: Callable[[], bool], what: str) -> None:
    """Wait for what another process brings about."""
    support.eventually(check, what, within=PATIENCE, every=0.02)


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    made = Warm(environment())
    yield made
    made.close()


@pytest.fixture
def cli(tmp_path: Path, warm: Warm) -> Any:
    """The command line, in the test's own folder."""
    made = CommandLine(tmp_path, warm)
    yield made
    made.close()


@pytest.fixture(scope="session")
def _sandbox_trouble() -> str:
    from minitango.sandbox import open_sandbox

    try:
        open_sandbox("bubblewrap").close()
    except SandboxUnavailable as error:
        return f"{error} ({error.hint})"
    return ""


@pytest.fixture
def sandbox(_sandbox_trouble: str) -> None:
    """For tests that grade: skips where no sandbox works; where CI=true, that is a failure."""
    if _sandbox_trouble and os.environ.get("CI") == "true":
        pytest.fail(_sandbox_trouble)
    if _sandbox_trouble:
        pytest.skip(_sandbox_trouble)


@pytest.fixture
def mortal() -> list[str]:
    """What to run a command within so that permissions of files count, for root too."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root reads everything, and there is no setpriv to give that up")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]


TOML = """
name = "hw"
format = "exit-code"
max_score = 10
[submission]
path = "answer.txt"
[[step]]
command = ["sh", "grade.sh"]
files = ["grade.sh"]
limits = { wall = "30s", memory = "64MiB", disk = "8MiB", output = "64KiB" }
"""

GRADE = """
read word rest < answer.txt
echo "grading $word"
[ "$word" = wait ] && sleep $rest
[ "$word" = ok ]
"""


def write_assignment(folder: Path, toml: str = TOML, grade: str = GRADE) -> Path:
    """An assignment in a folder. `ok` in a hand-in earns 10 of 10, `wait N` takes N seconds, all else earns 0."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "assignment.toml").write_text(toml)
    (folder / "grade.sh").write_text(grade)
    return folder


@pytest.fixture
def hw(tmp_path: Path) -> Path:
    return write_assignment(tmp_path / "hw")


@pytest.fixture
def handins(tmp_path: Path) -> Path:
    """Three hand-ins: ada's and bob's are right, eve's is wrong."""
    folder = tmp_path / "handins"
    folder.mkdir()
    for student, text in (("ada", "ok\n"), ("bob", "ok\n"), ("eve", "no\n")):
        (folder / f"{student}.txt").write_text(text)
    return folder
