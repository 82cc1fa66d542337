"""Images from the command line: what cannot be had is said before anything is queued, what moved is graded anew."""

from __future__ import annotations

import contextlib
import json
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker_engine import client, need_docker
from tests.docker_images import python_image
from tests.e2e.conftest import CommandLine

TOML = """
name = "hw"
format = "exit-code"
max_score = 10
[[step]]
command = ["sh", "-c", "cat answer.txt | grep ok"]
{step}
"""


@pytest.fixture(scope="module")
def docker() -> dict[str, str]:
    """The environment that asks for the engine."""
    return {"DOCKER_HOST": need_docker(), "MINITANGO_SANDBOX": "docker"}


@pytest.fixture
def api(docker: dict[str, str]) -> Iterator[Any]:
    with client(docker["DOCKER_HOST"]) as connected:
        yield connected.api


@pytest.fixture
def name(api: Any) -> Iterator[str]:
    """The name of an image with a shell, which a test may move."""
    made = f"minitango-test/{uuid.uuid4().hex[:12]}:1"
    api.tag(python_image(), made)
    yield made
    api.remove_image(made, force=True)


def assignment(cli: CommandLine, step: str) -> Path:
    folder = cli.folder / "hw"
    folder.mkdir()
    (folder / "assignment.toml").write_text(TOML.format(step=step))
    (cli.folder / "answer.txt").write_text("ok\n")
    return folder


@pytest.mark.parametrize(
    ("step", "code", "words"),
    [
        ('image = "gcc 14"', 2, "error[image_name]: hw/assignment.toml:7 [step[0].image]: 'gcc 14' is no image's name"),
        ('image = "docker/"', 2, "error[file_missing]: hw/assignment.toml:7 [step[0].image]: 'docker' is not there"),
        (f'image = "sha256:{"0" * 64}"', 2, "error[image_missing]: hw [step grade.image]: there is no image sha256:0"),
        ('image = "{away}/grader:1"', 3, "error[sandbox_registry]: the image {away}/grader:1 cannot be pulled now: "),
    ],
    ids=["name", "folder", "id", "registry"],
)
def test_an_image_that_cannot_be_had(
    cli: CommandLine, docker: dict[str, str], step: str, code: int, words: str
) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        away = f"127.0.0.1:{sock.getsockname()[1]}"
    hw = assignment(cli, step.replace("{away}", away))
    answer = cli("run", hw.name, "answer.txt", env=docker)
    assert answer.code == code, answer
    assert words.replace("{away}", away) in answer.err
    assert "\n  next: " in answer.err
    assert "job" not in cli("jobs", env=docker).out, "nothing was queued"


def test_a_dockerfile_that_does_not_build(cli: CommandLine, docker: dict[str, str], name: str) -> None:
    hw = assignment(cli, 'image = "docker/"')
    (hw / "docker").mkdir()
    (hw / "docker" / "Dockerfile").write_text(f"FROM {name}\n\nRUN echo no compiler; exit 3\n")
    answer = cli("run", hw.name, "answer.txt", env=docker)
    assert answer.code == 2, answer
    lines = answer.err.splitlines()
    assert lines[0] == "building docker/"
    assert "error[image_build]: docker/Dockerfile:3: step 2 of " in answer.err
    assert "; it printed: no compiler" in answer.err


def test_a_folder_is_built_and_graded_in(cli: CommandLine, docker: dict[str, str], api: Any, name: str) -> None:
    hw = assignment(cli, 'image = "docker/"')
    (hw / "docker").mkdir()
    (hw / "docker" / "Dockerfile").write_text(f"FROM {name}\nENV MT_TEST={name}\n")
    answer = cli("run", hw.name, "answer.txt", "--json", env=docker)
    assert answer.code == 0, answer
    assert answer.err.startswith("building docker/\n")
    [job] = answer.jobs
    assert job["score"] == 10
    shown = json.loads(cli("jobs", "show", job["id"], "--json", env=docker).out)["jobs"][0]["result"]
    digest = shown["image_digest"]
    assert f"MT_TEST={name}" in api.inspect_image(digest)["Config"]["Env"]
    assert f"; image docker/ ({digest[7:19]})" in cli("jobs", "show", job["id"], env=docker).out
    with contextlib.suppress(Exception):
        api.remove_image(digest, force=True)


def test_an_image_that_moved_is_graded_anew(cli: CommandLine, docker: dict[str, str], api: Any, name: str) -> None:
    hw = assignment(cli, f'image = "{name}"')
    queued = cli("submit", hw.name, "answer.txt", env=docker)
    first = cli("run", hw.name, "answer.txt", "--json", env=docker).jobs[0]["id"]
    assert queued.out.split()[0] == first, "what was queued before the image was known is the same work"
    assert cli("run", hw.name, "answer.txt", "--json", env=docker).jobs[0]["id"] == first
    repository, _, tag = name.rpartition(":")
    container = api.create_container(name, ["true"])["Id"]
    moved = api.commit(container, repository=repository, tag=tag, changes="ENV MOVED=1")["Id"]
    api.remove_container(container)
    second = cli("run", hw.name, "answer.txt", "--json", env=docker).jobs[0]["id"]
    assert second != first
    assert cli("submit", hw.name, "answer.txt", env=docker).out.split()[0] == second
    shown = json.loads(cli("jobs", "show", second, "--json", env=docker).out)["jobs"][0]["result"]
    assert shown["image_digest"] == moved


OWN = """FROM {name}
WORKDIR /autograder/grader
ADD . .
RUN cp run_autograder /autograder/run_autograder && chmod 644 /autograder/run_autograder && echo 3 > points
USER nobody
"""
SCRIPT = """#!/bin/sh
cd /autograder/grader
[ -f ../harness.py ] || exit
echo "{\\"score\\": $(cat points), \\"output\\": \\"$(cat ../submission/*)\\"}" >../results/results.json
"""


def autograder(cli: CommandLine, **files: str) -> Path:
    folder = cli.folder / "calc"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_sh", ".sh")).write_text(text)
    (cli.folder / "answer.txt").write_text("ok")
    return folder


def results(cli: CommandLine, docker: dict[str, str], api: Any, answer: Any) -> dict[str, Any]:
    assert answer.code == 0, answer
    [job] = answer.jobs
    result: dict[str, Any] = json.loads(cli("jobs", "show", job["id"], "--json", env=docker).out)["jobs"][0]["result"]
    with contextlib.suppress(Exception):
        api.remove_image(result["image_digest"], force=True)
    return result


def test_a_gradescope_autograder_with_a_dockerfile_of_its_own(
    cli: CommandLine, docker: dict[str, str], api: Any, name: str
) -> None:
    folder = autograder(cli, Dockerfile=OWN.format(name=name), run_autograder=SCRIPT)
    result = results(cli, docker, api, cli("run", folder.name, "answer.txt", "--json", env=docker))
    assert (result["score"], result["feedback"]) == (3, "ok")
    refused = cli("run", folder.name, "answer.txt", "--sandbox", "bubblewrap", "--state", "another")
    assert "error[setup_needed]" in refused.err

    (folder / "Dockerfile").write_text(f"FROM {name}\nCOPY src/none /src\n")
    answer = cli("run", folder.name, "answer.txt", env=docker)
    assert answer.code == 2, answer
    assert "error[image_build]: calc: Dockerfile:2: step 2 of " in answer.err
    assert "name that image: --image NAME" in answer.err


def test_on_an_image_that_was_made_by_hand_its_own_files_count(
    cli: CommandLine, docker: dict[str, str], api: Any, name: str
) -> None:
    """As where its Dockerfile is built from another folder, or by another builder."""
    folder = autograder(cli, Dockerfile="FROM scratch\n", run_autograder=SCRIPT)
    container = api.create_container(
        name, ["sh", "-c", "mkdir -p /autograder/grader && echo 4 >/autograder/grader/points"]
    )
    api.start(container)
    api.wait(container)
    made = api.commit(container, repository="minitango-test/made", tag=uuid.uuid4().hex[:12])["Id"]
    api.remove_container(container)
    try:
        answer = cli("run", folder.name, "answer.txt", "--image", made, "--json", env=docker)
        assert results(cli, docker, api, answer)["score"] == 4
    finally:
        api.remove_image(made, force=True)


def test_a_set_up_begins_where_gradescopes_does_and_what_it_leaves_at_home_is_found(
    cli: CommandLine, docker: dict[str, str], api: Any, name: str
) -> None:
    setup = "mkdir autograder/grader && cp autograder/source/points autograder/grader/\n"
    setup += "mkdir -p ~/.tool ~/.cache && cp autograder/source/points ~/.tool/\n"
    script = SCRIPT.replace("cat points", "cat points ~/.tool/points && echo x >~/.cache")
    folder = autograder(cli, setup_sh=setup, points="5", run_autograder=script)
    answer = cli("run", folder.name, "answer.txt", "--image", name, "--json", env=docker)
    assert results(cli, docker, api, answer)["score"] == 55
