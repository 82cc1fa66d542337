"""Several real Docker engines behind one node: one dies among the jobs, and is used again when it is back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from minitango import Assignment, Engine, Event, JobHandle, Limits, Step, Submission
from minitango.errors import SandboxUnavailable
from minitango.sandbox import open_sandbox
from minitango.sandbox.docker import DockerSandbox
from minitango.sandbox.fleet import Fleet, Member
from tests.docker_engine import need_private_engines, private_engine
from tests.e2e.conftest import CommandLine, eventually
from tests.e2e.test_docker_faults import Docker

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")

STEP = Step(
    command=("sh", "-c", 'sleep 0.3; printf "{\\"score\\": %s}" "$(cat answer)" > "$MINITANGO_REPORT"'),
    limits=Limits(wall=30, memory=32 << 20),
)
OF = Assignment("fleet", (STEP,), max_score=1000)


@pytest.fixture
def two() -> Iterator[list[Docker]]:
    need_private_engines()
    with private_engine() as first, private_engine() as second:
        docker = [Docker(first), Docker(second)]
        yield docker
        for each in docker:
            eventually(lambda each=each: not each.containers(), "a container is left")  # type: ignore[misc]


def names(two: list[Docker], slots: int = 2) -> list[str]:
    return [f"docker+{docker.url}?slots={slots}" for docker in two]


def submit(engine: Engine, first: int, number: int) -> list[tuple[int, JobHandle]]:
    jobs = range(first, first + number)
    handles = engine.submit_many(Submission(OF, student=f"s{n}", files={"answer": b"%d" % n}) for n in jobs)
    return list(zip(jobs, handles, strict=True))


def wait(handles: list[tuple[int, JobHandle]]) -> None:
    for n, handle in handles:
        assert handle.result(110).score == n


@pytest.mark.timeout(180)
def test_one_engine_dies_among_twenty_jobs_and_is_used_again(two: list[Docker], tmp_path: Path) -> None:
    events: list[Event] = []
    image = two[0].image
    with Engine.open(tmp_path / "s", sandbox=names(two), image=image, on_event=events.append) as engine:
        assert engine.sandbox is not None
        assert (engine.sandbox.name, engine.sandbox.slots) == ("docker", 4)
        assert engine.store.nodes()[0].slots == 4
        handles = submit(engine, 0, 20)
        eventually(lambda: all(len(docker.alive()) >= 1 for docker in two), "one engine was never used")
        two[1].engine.kill9()
        wait(handles)
        jobs = engine.jobs()
        assert sum(job.failures for job in jobs) == 0
        assert sum(job.attempt - 1 for job in jobs) <= 3, "only what ran there when it died is run again"
        paused = [event.message for event in events if event.kind == "paused"]
        assert len(paused) == 1
        assert paused[0].startswith(f"{two[1].url} is left alone for 1 s, and the other one goes on: ")
        assert engine.sandbox.seats == 2
        two[1].engine.start()
        eventually(lambda: engine.sandbox is not None and engine.sandbox.seats == 3, "it never came back")
        assert [event.message for event in events if event.kind == "resumed"] == [
            f"{two[1].url} works again: one job is tried there, then as many as before"
        ]
        more = submit(engine, 100, 12)
        eventually(lambda: len(two[1].alive()) >= 2, "it was never used again as before")
        wait(more)
        assert sum(job.failures for job in engine.jobs()) == 0


@pytest.mark.timeout(180)
def test_an_engine_that_hangs_holds_nobody_for_long(two: list[Docker], tmp_path: Path) -> None:
    said: list[tuple[bool, str]] = []
    engines = [DockerSandbox(tmp_path, url=docker.url, image=docker.image, patience=3) for docker in two]
    members = [Member(docker.url, engine, 2) for docker, engine in zip(two, engines, strict=True)]
    made = Fleet(members, rests=lambda resting, text: said.append((resting, text)))
    with Engine.open(tmp_path, sandbox=made) as engine:
        wait(submit(engine, 0, 4))
        two[1].engine.pause()
        try:
            wait(submit(engine, 100, 12))
            assert [resting for resting, _ in said] == [True]
            assert "did not answer within 3 s" in said[0][1]
        finally:
            two[1].engine.resume()
        eventually(lambda: made.seats == 3, "it never came back")
        more = submit(engine, 200, 12)
        eventually(lambda: made.seats == 4, "it never had as many as before")
        wait(more)
        assert sum(job.failures for job in engine.jobs()) == 0


@pytest.mark.timeout(120)
def test_the_command_line_takes_several_and_says_who_is_away(two: list[Docker], cli: CommandLine) -> None:
    (cli.folder / "hw").mkdir()
    (cli.folder / "hw" / "assignment.toml").write_text(
        'name = "hw"\nformat = "exit-code"\nmax_score = 1\n'
        '[[step]]\nname = "go"\ncommand = ["true"]\nsubmission = true\n'
    )
    (cli.folder / "handins").mkdir()
    for n in range(4):
        (cli.folder / "handins" / f"s{n}.txt").write_text(f"{n}\n")
    names_ = names(two)
    (cli.folder / "minitango.toml").write_text(f"sandbox = {json.dumps(names_)}\nimage = {json.dumps(two[0].image)}\n")
    first = cli("run", "hw", "handins", "--verbose")
    assert first.code == 0, first
    assert [f"{docker.url}: 2 jobs at once" in first.err for docker in two] == [True, True]
    checks = json.loads(cli("doctor", "--json").out)["checks"]
    engines = [check for check in checks if check["name"] == "docker"]
    assert [(check["verdict"], check["facts"]["engine"], check["facts"]["slots"]) for check in engines] == [
        ("ok", docker.url, 2) for docker in two
    ]
    two[1].engine.kill9()
    answer = cli("run", "hw", "handins", "--fresh")
    assert answer.code == 0, answer
    assert f"paused: {two[1].url} is left alone" in answer.err
    verdicts = [
        check["verdict"] for check in json.loads(cli("doctor", "--json").out)["checks"] if check["name"] == "docker"
    ]
    assert verdicts == ["ok", "warning"]
    refused = cli("run", "hw", "handins", "--sandbox", f"{names_[0]},bubblewrap")
    assert refused.code == 2
    assert "error[sandbox_mixed]" in refused.err
    two[1].engine.start()


@pytest.mark.timeout(60)
def test_none_that_answers_is_no_sandbox(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="none of the 2 Docker engines can be used") as caught:
        open_sandbox(f"docker+unix://{tmp_path}/a,docker+unix://{tmp_path}/b", state=str(tmp_path))
    assert caught.value.id == "sandbox_gone"


def test_a_list_of_one_with_slots_is_a_fleet(two: list[Docker], tmp_path: Path) -> None:
    made = open_sandbox(names(two)[0], state=str(tmp_path), image=two[0].image)
    try:
        assert isinstance(made, Fleet)
        assert (made.slots, made.seats) == (2, 2)
    finally:
        made.close()
