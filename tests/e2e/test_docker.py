"""Graded in containers, a hand-in gets what it gets in bubblewrap: with the real command line and engine."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.docker_engine import need_docker
from tests.docker_images import python_image
from tests.e2e.conftest import ROOT, CommandLine

pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.fixture(scope="module")
def docker() -> dict[str, str]:
    """The environment that names the engine."""
    return {"DOCKER_HOST": need_docker()}


@pytest.fixture(scope="module")
def image(docker: dict[str, str]) -> str:
    return python_image()


def verdicts(jobs: list[dict[str, Any]]) -> dict[str, tuple[object, ...]]:
    return {job["student"]: (job["state"], job["outcome"], job["score"], job["reason"]) for job in jobs}


def test_the_example_is_graded_alike(cli: CommandLine, docker: dict[str, str], image: str) -> None:
    """Its samples say what each hand-in must get; the rest that is told of them is the same as well."""
    example = cli.folder / "wordcount"
    shutil.copytree(ROOT / "examples/wordcount", example)
    toml = example / "assignment.toml"
    text = toml.read_text().replace("[[step]]", f'[[step]]\nimage = "{image}"')
    toml.write_text(text)
    seen = {}
    for sandbox in ("bubblewrap", "docker"):
        answer = cli("check", example, "--sandbox", sandbox, "--workers", "4", "--json", env=docker)
        assert answer.code == 0, answer
        seen[sandbox] = verdicts(answer.samples)
    assert len(seen["docker"]) == 14
    assert seen["docker"] == seen["bubblewrap"]


BAD = {
    "a right one": "score 10",
    "a wrong one": "score 3",
    "exits with 139": "score 4; exit 139",
    "ends by a signal": "score 4; kill -SEGV $$",
    "kills all there is": "score 4; kill -9 -1",
    "sleeps": "score 4; sleep 1000",
    "spins": "score 4; while :; do :; done",
    "fills memory": "score 4; exec python3 -c 'x = bytearray(1 << 30)'",
    "fills memory and goes on": "python3 -c 'x = bytearray(1 << 30)'; score 4",
    "floods": "score 4; yes",
    # the first shell forks once, before there are others: it must not be the one that cannot
    "forks without end": "f() { f | f & }; f & exec sleep 1000",
    "leaves a daemon that holds its output": "(trap '' TERM HUP; setsid sleep 1000) & score 4",
    "fills the disk": "cat /dev/zero > big; score 4",
    "no report": "true",
    "an empty report": ": > $R",
    "half a report": "printf '{\"score\": ' > $R",
    "a report that is no object": "echo '[10]' > $R",
    "a report of a score too high": "score 11",
    "a report of no number": "echo '{\"score\": NaN}' > $R",
    "a report of bytes": "printf '\\377\\376' > $R",
    "a report that is a link": "echo '{\"score\": 10}' > r; ln -s $PWD/r $R",
    "a report that is a folder": "mkdir $R",
    "a report that is a pipe": "mkfifo $R",
    "a report that is locked": "score 10; chmod 0 $R",
    "a report that has two names": "score 10; ln $R ${R%/*}/r",
    "a report of holes": "truncate -s 1T $R",
    "a report deeper than all": "python3 -c 'print(\"[\" * 100000)' > $R",
    "prints what is no text": "head -c 3000 /dev/urandom; printf '\\033]0;x\\007'; score 4",
    "takes its folder away": "score 4; rm -rf /job/* . 2>/dev/null; cd /; rmdir /job",
    "kills process 1": "kill -9 1; kill -TERM 1; kill -STOP 1; score 4",
}
TOML = """
name = "bad"
format = "gradescope"
max_score = 10
[submission]
path = "answer.sh"
[[step]]
image = "IMAGE"
command = ["sh", "answer.sh"]
limits = { wall = "3s", memory = "64MiB", disk = "8MiB", pids = 24, output = "64KiB" }
"""
SCORE = "R=$MINITANGO_REPORT\nscore() { echo '{\"score\": '$1'}' > $R; }\n"


def test_bad_hand_ins_get_the_same(cli: CommandLine, docker: dict[str, str], image: str) -> None:
    assignment = cli.folder / "bad"
    assignment.mkdir()
    (assignment / "assignment.toml").write_text(TOML.replace("IMAGE", image))
    handins = cli.folder / "handins"
    handins.mkdir()
    for name, script in BAD.items():
        (handins / f"{name}.sh").write_text(SCORE + script + "\n")
    seen = {}
    for sandbox in ("bubblewrap", "docker"):
        where = ("--sandbox", sandbox, "--state", sandbox)
        answer = cli(
            "run", assignment, handins, *where, "--no-preflight", "--keep-going", "--workers", "4", "--json", env=docker
        )
        assert answer.code == 0, answer
        seen[sandbox] = verdicts(answer.jobs)
    assert seen["docker"] == seen["bubblewrap"]
    assert set(seen["docker"]) == set(BAD)
    assert {outcome for _, outcome, _, _ in seen["docker"].values()} == {
        "graded", "no_score", "time_limit", "memory_limit", "output_limit",
    }  # fmt: skip
