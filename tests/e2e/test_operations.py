"""docs/operations.md is true: its commands, one after the other, in a folder where a course has a queue."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests import redis_server
from tests.e2e.conftest import ROOT, CommandLine, eventually
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
