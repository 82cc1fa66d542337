"""docs/operations.md is true: its commands, one after the other, in a folder where a course has a queue."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tests import redis_server
from tests.e2e.conftest import ROOT, CommandLine, environment, eventually
from tests.redis_server import Server

PAPER = (ROOT / "docs" / "operations.md").read_text()
LINES = [
    line for block in re.findall(r"^```sh\n(.*?)^```", PAPER, re.DOTALL | re.MULTILINE) for line in block.splitlines()
]


@pytest.mark.usefixtures("sandbox")
def test_its_commands_do_what_it_says(cli: CommandLine, hw: Path, handins: Path) -> None:
    redis_server.need_redis()
    server = Server()
    env = {"MINITANGO_SANDBOX": "bubblewrap"}
    assert cli("run", hw, handins, env=env).code == 0
    typed = 0
    try:
        for line in LINES:
            line = line.replace("redis://queue.example.edu/0?queue=cs101", server.url("cs101", tcp=True))
            words = shlex.split(line.replace("--metrics 9464", "--metrics 127.0.0.1:0"))
            if words[0] == "export":
                name, _, value = words[1].partition("=")
                env[name] = value
            elif words[:2] == ["minitango", "worker"]:
                worker = cli.start(*words[1:], env=env)
                errors = cli.folder / f"err{cli._started.index(worker)}"
                eventually(lambda errors=errors: b"grading in" in errors.read_bytes(), f"{line} does not start")  # type: ignore[misc]
                worker.terminate()
                assert cli.answer(worker).code == 0, line
            elif words[0] == "minitango":
                answer = cli(*words[1:], env=env)
                assert answer.code == 0, f"{line}\n{answer}"
                if words[1] == "jobs":
                    assert answer.out.count("hw") >= 3, answer
            else:
                subprocess.run(words, cwd=cli.folder, check=True)
            typed += 1
    finally:
        server.remove()
    assert typed == len(LINES) > 8
    assert (cli.folder / "backups" / "2026-11-26.tar").is_file()


@pytest.mark.usefixtures("sandbox")
def test_its_backup_of_every_night_goes_on_for_ever(cli: CommandLine, hw: Path, handins: Path) -> None:
    (line,) = re.findall(r"^0 3 \* \* \* (.*)$", PAPER, re.MULTILINE)
    assert not re.search(r"(?<!\\)%", line), "cron would end the command there"
    command = line.replace("\\%", "%").replace("/srv/course", str(cli.folder))
    (form,) = re.findall(r"date \+(\S+?)\)", command)
    first = datetime(2026, 11, 26, tzinfo=UTC)
    assert len({(first + timedelta(days=n)).strftime(form) for n in range(3000)}) == 3000

    programs, backups = cli.folder / "programs", cli.folder / "backups"
    programs.mkdir()
    (programs / "minitango").write_text(f'#!/bin/sh\nexec {shlex.join(cli.command())} "$@"\n')
    (programs / "minitango").chmod(0o755)
    backups.mkdir()
    before = {"2026-11-01.tar": 15, "2026-11-14.tar": 13, "first of term.tar": 90}
    for name, days in before.items():
        (backups / name).write_bytes(b"")
        os.utime(backups / name, (time.time() - days * 86_400,) * 2)
    variables = environment(PATH=f"{programs}:{os.environ['PATH']}")
    nightly = partial(subprocess.run, ["sh", "-c", command], env=variables, capture_output=True)
    assert nightly().returncode == 2, "there is no queue yet"
    assert {path.name for path in backups.iterdir()} == set(before), "and what is old is all that there is"
    assert cli("run", hw, handins, env={"MINITANGO_SANDBOX": "bubblewrap"}).code == 0
    done = nightly()
    assert done.returncode == 0, done.stderr
    kept = {path.name for path in backups.iterdir()} - {"2026-11-14.tar", "first of term.tar"}
    assert [re.fullmatch(r"\d{4}-\d\d-\d\d\.tar", name) is not None for name in kept] == [True]
    assert "2026-11-01.tar" not in kept


def test_every_metric_is_in_it() -> None:
    """And nothing else is."""
    pytest.importorskip("prometheus_client")
    code = (ROOT / "minitango" / "metrics.py").read_text()
    made = set(re.findall(r'(?:counter|histogram)\("(\w+)"', code)) | set(
        re.findall(r'MetricFamily\("minitango_(\w+)"', code)
    )
    table = PAPER.split("| metric |")[1].split("\n\n")[0]
    told = {re.sub(r"_(total|info)$", "", name) for name in re.findall(r"`minitango_(\w+)", table)}
    assert told == made


def test_every_event_is_in_it() -> None:
    from minitango.cli.journal import LEVELS

    row = next(line for line in PAPER.splitlines() if line.startswith("| `event` |"))
    code = (ROOT / "minitango" / "cli" / "worker.py").read_text()
    said = set(re.findall(r'said\.(?:say|event)\("(\w+)"', code)) | set(LEVELS) | {"failed", "log"}
    assert set(re.findall(r"`(\w+)`", row)) - {"event", "error", "next"} == said
