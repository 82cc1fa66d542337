"""`minitango doctor`, as it is typed: it finds, it says what to do, and it changes nothing unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minitango.job import State
from minitango.store import open_store
from tests.docker_engine import client, need_docker
from tests.docker_images import python_image
from tests.e2e.conftest import CommandLine, eventually

pytestmark = pytest.mark.usefixtures("sandbox")


def checks(cli: CommandLine, *words: str | Path, code: int = 0, **env: str) -> dict[str, Any]:
    answer = cli("doctor", "--json", *words, env=env)
    assert answer.code == code, answer
    body = json.loads(answer.out)
    assert (body["schema"], body["ok"]) == (1, code == 0)
    return {check["name"]: check for check in body["checks"]}


def snapshot(folder: Path) -> dict[str, object]:
    return {
        str(path): (path.stat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


def test_a_fresh_machine(cli: CommandLine) -> None:
    answer = cli("doctor")
    assert answer.code == 0, answer
    assert answer.err == ""
    assert "all that grading needs is here" in answer.out.splitlines()[-1]
    words = [line.split()[:2] for line in answer.out.splitlines() if line[:1] in "owF" and line]
    assert [name for word, name in words if word in ("ok", "warning", "FAILED")][:3] == ["settings", "python", "state"]
    assert "bubblewrap is taken" in answer.out
    assert list(cli.folder.iterdir()) == []


def test_it_changes_nothing(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("run", hw, handins).code == 0
    before = snapshot(cli.folder)
    found = checks(cli, hw)
    assert found["store"]["facts"]["counts"]["done"] == 3
    assert found["assignment"]["verdict"] == "ok"
    assert "keeps to it" in found["sandbox"]["text"]
    assert snapshot(cli.folder) == before


def test_a_running_engine_goes_on(cli: CommandLine, hw: Path, handins: Path) -> None:
    (handins / "zoe.txt").write_text("wait 3")
    worker = cli.start("worker")
    assert cli("submit", hw, handins).code == 0
    store = open_store(f"sqlite:///{cli.folder}/.minitango/queue.db")
    try:
        eventually(lambda: store.counts()[State.RUNNING] > 0, "nothing runs")
        found = checks(cli)
        assert found["engine"]["facts"]["pid"] == worker.pid
        assert found["engine"]["verdict"] == "ok"
        eventually(lambda: store.counts()[State.DONE] == 4, "it was disturbed")
        assert {job.attempt for job in store.list()} == {1}
    finally:
        store.close()
    assert worker.poll() is None


def test_what_fails_is_told_with_its_remedy(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("run", hw, handins).code == 0
    (cli.folder / ".minitango" / "queue.db").write_bytes(b"x" * 9999)
    answer = cli("doctor")
    assert answer.code == 3, answer
    assert "FAILED   store        " in answer.out
    assert "next: " in answer.out.split("FAILED   store")[1]
    assert answer.out.splitlines()[-1].startswith("1 check failed")
    assert checks(cli, "--sandbox", "docker", "--state", "other", code=3)["docker"]["verdict"] == "failed"


def test_warnings_fail_nothing(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("submit", hw, handins).code == 0
    (cli.folder / ".minitango").chmod(0o755)
    answer = cli("doctor", env={"MINITANGO_WORKER": "3"})
    assert answer.code == 0, answer
    assert f"next: chmod 700 {cli.folder}/.minitango" in answer.out
    assert "next: minitango worker" in answer.out
    assert "next: did you mean MINITANGO_WORKERS?" in answer.out
    assert answer.out.splitlines()[-1] == "all that grading needs is here (3 warnings)"


def test_an_assignment_that_cannot_be_graded(cli: CommandLine, hw: Path) -> None:
    toml = (hw / "assignment.toml").read_text()
    (hw / "assignment.toml").write_text(toml.replace('"sh", "grade.sh"', '"no-such-program"'))
    found = checks(cli, hw, code=3)["assignment"]
    assert (found["verdict"], found["facts"]) == ("failed", {"error": "command"})
    assert "no-such-program" in found["text"]
    (hw / "assignment.toml").write_text(toml + "[nonsense]\n")
    assert checks(cli, hw, code=3)["assignment"]["facts"] == {"error": "unknown_key"}
    assert checks(cli, "no-such-folder", code=3)["assignment"]["verdict"] == "failed"


def test_canaries_are_let_loose_when_asked(cli: CommandLine) -> None:
    answer = cli("doctor", "--canary")
    assert answer.code == 0, answer
    told = [line for line in answer.out.splitlines() if line.startswith("ok       canary       bubblewrap: ")]
    assert len(told) == 10
    body = json.loads(cli("doctor", "--canary", "--json", "--require", "memory,pids").out)
    held = {check["facts"]["canary"]: check["facts"]["held"] for check in body["checks"] if check["name"] == "canary"}
    assert held == dict.fromkeys(held, True)
    assert {"memory", "pids", "network"} <= held.keys()
    assert "error[require]" in cli("doctor", "--require", "speed").err
    (cli.folder / "minitango.toml").write_text('require = ["memory", "speed"]\n')
    assert "minitango.toml:1: 'speed' is no limit" in cli("run", ".", ".").err
    assert "error[require]: MINITANGO_REQUIRE: 'rest'" in cli("worker", env={"MINITANGO_REQUIRE": "pids,rest"}).err


def test_settings_that_cannot_be_used_are_refused(cli: CommandLine) -> None:
    assert "error[sandbox_name]" in cli("doctor", "--sandbox", "nonsense").err
    assert "error[image_name]" in cli("doctor", "--image", "gcc 14", env={"MINITANGO_IMAGE": "gcc 14"}).err
    assert "error[usage]: --image is empty" in cli("doctor", "--image", "").err
    (cli.folder / "minitango.toml").write_text("workers = 0\n")
    assert "error[workers]" in cli("doctor").err


@pytest.mark.parametrize(
    ("name", "value", "id"),
    [
        ("MINITANGO_WORKERS", "many", "workers"),
        ("MINITANGO_WORKERS", "0", "workers"),
        ("MINITANGO_KEEP", "5", "keep"),
        ("MINITANGO_REQUIRE", "foo", "require"),
        ("MINITANGO_NAME", "a b", "label"),
        ("MINITANGO_CAPABILITIES", "a b", "label"),
        ("MINITANGO_CALLBACK_ALLOW", "http://h", "callback_url"),
        ("MINITANGO_IMAGE", "gcc 14", "image_name"),
        ("MINITANGO_SANDBOX", "nonsense", "sandbox_name"),
    ],
)
def test_a_variable_that_cannot_be_used_fails_and_the_others_are_looked_at(
    cli: CommandLine, name: str, value: str, id: str
) -> None:
    found = checks(cli, code=3, **{name: value})
    assert (found["settings"]["verdict"], found["settings"]["facts"]) == ("failed", {"error": id})
    assert found["settings"]["text"].startswith(f"{name}: ")
    assert found["settings"]["next"].endswith(f"or: unset {name}")
    assert found["sandbox"]["verdict"] == "ok"
    text = cli("doctor", env={name: value}).out
    assert text.startswith(f"FAILED   settings     {name}: ")
    assert "1 check failed" in text.splitlines()[-1]


def test_two_variables_that_cannot_be_used(cli: CommandLine) -> None:
    text = cli("doctor", env={"MINITANGO_WORKERS": "many", "MINITANGO_IMAGE": "gcc 14"}).out
    assert [line.split()[2] for line in text.splitlines() if "settings" in line] == [
        "MINITANGO_WORKERS:",
        "MINITANGO_IMAGE:",
    ]


def test_what_dead_engines_left_goes_with_fix_alone(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("run", hw, handins).code == 0
    dead = cli.folder / ".minitango" / "boxes" / "1-dead"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / "minitango-1-dead-1.json").write_text("{}\n")
    assert checks(cli, TMPDIR=str(cli.folder))["orphans"]["verdict"] == "warning"
    assert dead.exists()
    assert "removed 1 box that dead engines left" in cli("doctor", "--fix", env={"TMPDIR": str(cli.folder)}).out
    assert not dead.exists()
    assert checks(cli, TMPDIR=str(cli.folder))["orphans"]["text"] == "nothing is left of dead engines"


def test_with_docker(cli: CommandLine, hw: Path, handins: Path) -> None:
    docker = {"DOCKER_HOST": need_docker()}
    image = python_image()
    found = checks(cli, hw, "--image", image, **docker)
    assert found["docker"]["facts"]["works"] is True
    assert found["sandbox"]["facts"]["chosen"] == "docker"
    assert found["images"]["verdict"] == found["assignment"]["verdict"] == "ok"
    missing = checks(cli, hw, "--image", "minitango-test/no-such:1", "--sandbox", "docker", **docker)
    assert missing["images"]["next"] == "docker pull minitango-test/no-such:1"
    assert missing["assignment"]["verdict"] == "warning"
    assert not (cli.folder / ".minitango").exists()
    assert cli("run", hw, handins, "--image", image, env=docker).code == 0
    before = snapshot(cli.folder)
    assert checks(cli, **docker)["images"]["facts"]["images"].keys() >= {"python:3.12-slim"}
    assert snapshot(cli.folder) == before


def test_an_image_that_is_built_from_a_folder_is_known_by_its_files(cli: CommandLine, hw: Path, handins: Path) -> None:
    docker = {"DOCKER_HOST": need_docker(), "MINITANGO_SANDBOX": "docker"}
    toml = (hw / "assignment.toml").read_text()
    (hw / "assignment.toml").write_text(toml.replace("[[step]]", '[[step]]\nimage = "docker/"'))
    (hw / "docker").mkdir()
    dockerfile = hw / "docker" / "Dockerfile"
    dockerfile.write_text(f"FROM {python_image()}\nENV MT_DOCTOR={cli.folder}\n")
    unbuilt = checks(cli, hw, **docker)["assignment"]
    assert (unbuilt["verdict"], unbuilt["next"]) == ("warning", "the same command with --fix does so")
    assert "docker/ would have to be pulled or built first" in unbuilt["text"]
    try:
        assert checks(cli, hw, "--fix", **docker)["assignment"]["verdict"] == "ok"
        built = checks(cli, hw, **docker)["assignment"]
        assert (built["verdict"], built["text"]) == ("ok", "hw can be graded in docker: its commands are there")
        dockerfile.write_text(dockerfile.read_text() + "ENV CHANGED=1\n")
        assert checks(cli, hw, **docker)["assignment"]["verdict"] == "warning"
    finally:
        with client(docker["DOCKER_HOST"]) as connected:
            for image in connected.api.images(filters={"label": "minitango.build"}):
                if any("MT_DOCTOR" in each for each in connected.api.inspect_image(image["Id"])["Config"]["Env"]):
                    connected.api.remove_image(image["Id"], force=True)
