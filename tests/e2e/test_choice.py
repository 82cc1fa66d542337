"""What is graded in what: said where it was left open, and never other than was asked for."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import TOML, CommandLine, eventually, write_assignment

pytestmark = pytest.mark.usefixtures("sandbox")

NOWHERE = {"DOCKER_HOST": ""}
"""No engine, and nobody who said that there is one."""


def test_what_auto_took_is_said_once(cli: CommandLine, hw: Path, handins: Path) -> None:
    first = cli("run", hw, handins, env=NOWHERE)
    assert "grading in bubblewrap" in first.err
    assert "grading in" not in cli("run", hw, handins, env=NOWHERE).err
    assert "grading in" not in cli("run", hw, handins, "--state", "other", "--quiet", env=NOWHERE).err


def test_a_worker_that_is_refused_says_that_alone(cli: CommandLine) -> None:
    for words in (["--name", "a b"], ["--state", "other", "--metrics", "192.0.2.1:99"]):
        answer = cli("worker", *words, env=NOWHERE)
        assert answer.code == 2, answer
        assert answer.err.startswith("error["), answer
    worker = cli.start("worker", "--state", "third", env=NOWHERE)
    eventually(lambda: b"grading in bubblewrap" in (cli.folder / "err0").read_bytes(), "it does not say what in")
    worker.terminate()
    assert worker.wait() == 0


def test_an_engine_that_somebody_named_is_missed(cli: CommandLine, hw: Path, handins: Path) -> None:
    answer = cli("run", hw, handins)
    assert answer.code == 0, answer
    assert "Docker is not used, but bubblewrap: the Docker engine at unix:///no/docker.sock" in answer.err


def test_no_sandbox_without_images_for_an_image_that_was_named(cli: CommandLine, hw: Path, handins: Path) -> None:
    answer = cli("run", hw, handins, "--image", "course:1")
    assert answer.code == 3, answer
    assert "error[sandbox_gone]" in answer.err
    assert "leave --image out" in answer.err
    assert not answer.out


@pytest.mark.parametrize(
    ("flags", "said"),
    [(("--sandbox", "docker"), "grades in bubblewrap"), (("--sandbox", "docker+unix:///x/y"), "grades in bubblewrap")],
)
def test_an_engine_beside_which_grades_in_something_else(
    cli: CommandLine, hw: Path, handins: Path, flags: tuple[str, ...], said: str
) -> None:
    worker = cli.start("worker", "--sandbox", "bubblewrap")
    eventually(lambda: b"grading in" in (cli.folder / "err0").read_bytes(), "the worker never came up")
    answer = cli("run", hw, handins, *flags)
    assert answer.code == 2, answer
    assert "error[engine_differs]" in answer.err
    assert said in answer.err
    same = cli("run", hw, handins, "--sandbox", "bubblewrap")
    assert same.code == 0, same
    worker.terminate()
    assert cli.answer(worker).code == 0


def test_an_image_is_no_matter_of_a_submission(cli: CommandLine, hw: Path, handins: Path) -> None:
    answer = cli("submit", hw, handins, "--image", "course:1")
    assert (answer.code, "error[usage]" in answer.err, "minitango worker" in answer.err) == (2, True, True), answer
    assert cli("jobs").code == 2, "nothing was queued"


def test_jobs_alone_has_json(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("submit", hw, handins).code == 0
    assert len(cli("jobs", "--json").jobs) == 3
    assert json.loads(cli("jobs", "--json").out) == json.loads(cli("jobs", "list", "--json").out)
    wrong = cli("jobs", "--json", "show", "x")
    assert (wrong.code, "jobs show --json" in wrong.err) == (2, True), wrong


def test_jobs_alone_has_every_option_of_the_list(cli: CommandLine, hw: Path, handins: Path) -> None:
    other = write_assignment(cli.folder / "other place" / "hw2", TOML.replace('"hw"', '"second"'))
    ids = [cli("submit", each, handins, "--json", "--state", "q").jobs for each in (hw, other)]
    where = ("--state", "q", "--json")
    for words in (
        ("--assignment", "second"),
        ("--assignment=second",),
        ("--assignment", str(other)),
        ("--assignment", "other place/hw2/"),
        ("--assignment", "other place/hw2/assignment.toml"),
        ("-n3",),
        ("-n", "3", "--state-is", "queued"),
    ):
        for typed in (("jobs", *words, *where), ("jobs", *where, *words), ("jobs", "list", *words, *where)):
            assert [job["id"] for job in cli(*typed).jobs] == [job["id"] for job in ids[1]], typed
    exported = cli("export", "--assignment", "other place/hw2", "--state", "q", "--format", "json")
    assert {job["assignment"] for job in json.loads(exported.out)["jobs"]} == {"second"}
    assert cli("jobs", "--student", "show", "--state", "q").err == "no job of student 'show'\n", "a value is no verb"
    misspelt = cli("jobs", "--assignment", "secnd", "--state", "q")
    assert misspelt.err == "no job of assignment 'secnd': did you mean 'second'?\n"
    assert cli("jobs", "--assignment", "second", "--state-is", "dead", "--state", "q").err == ""
    assert cli("submit", other, handins, "--name", "third", "--state", "q").code == 0
    several = cli("jobs", "--assignment", "other place/hw2", "--state", "q")
    assert (several.code, "'second', 'third'" in several.err, "--assignment second" in several.err) == (2, True, True)
    assert len(cli("jobs", "cancel", "--assignment", "hw", "--state", "q").out.splitlines()) == 3


def test_an_interruption_while_python_loads_is_none_of_its_business(cli: CommandLine) -> None:
    """However early it comes: no traceback."""
    import signal
    import subprocess
    import sys

    from tests.e2e.conftest import ROOT, environment

    script = (ROOT / "bin" / "minitango").read_text()
    code = script.split(" -P -S -c '", 1)[1].split('\' "$@"')[0]
    for delay in (0.0, 0.05, 0.1, 0.2, 0.4):
        started = subprocess.Popen(
            [sys.executable, "-P", "-S", "-c", code, "worker", "--sandbox", "bubblewrap"],
            cwd=cli.folder,
            env=environment(),
            stderr=subprocess.PIPE,
        )
        time.sleep(delay)
        started.send_signal(signal.SIGINT)
        try:
            _, err = started.communicate(timeout=60)
        finally:
            started.kill()
        assert b"Traceback" not in err, err.decode()
        assert started.returncode in (130, -signal.SIGINT), "the latter before Python heeds it"
