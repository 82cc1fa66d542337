"""What can befall a Docker engine, done to a real one: each job gets its grade, nobody is charged, nothing is left.

Each test has a daemon of its own. Longer forms run with MINITANGO_LONG=1.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound

from minitango import Assignment, Engine, JobHandle, Limits, Step, Submission
from minitango.archive import File
from minitango.errors import SandboxFailed, SandboxUnavailable
from minitango.job import Job
from minitango.sandbox import BoxSpec, Mount
from minitango.sandbox._docker_box import DockerBox
from minitango.sandbox._docker_containers import Containers
from minitango.sandbox.docker import DockerSandbox
from minitango.store import open_store
from tests import docker_images
from tests.docker_engine import PrivateEngine, client, need_private_engines, private_engine
from tests.e2e.conftest import PATIENCE, CommandLine, eventually
from tests.faults.harness import Place, check, make_place

# The SDK leaves a socket to the garbage collector where it cannot connect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")

LONG = bool(os.environ.get("MINITANGO_LONG"))
OURS = "minitango.owner"
"""The label of what is ours."""


class Docker:
    """A private engine with an image, and the eyes to see what is in it."""

    def __init__(self, engine: PrivateEngine) -> None:
        self.engine = engine
        self.url = engine.url
        self.image = docker_images.busybox(engine.url)
        self._images = self._image_ids()

    def containers(self) -> list[dict[str, Any]]:
        """All that are there, whatever their state."""
        with client(self.url) as api:
            return [container for container in api.api.containers(all=True) if self._is_there(api, container["Id"])]

    def _is_there(self, api: Any, id: str) -> bool:
        """A daemon that was killed may list, without a name, what it has removed already."""
        try:
            api.api.inspect_container(id)
        except NotFound:
            return False
        return True

    def alive(self) -> list[dict[str, Any]]:
        """Those that were started: one that was not, because whoever made it was killed, is swept by the next."""
        return [container for container in self.containers() if container["State"] != "created"]

    def _image_ids(self) -> set[str]:
        with client(self.url) as api:
            return {image["Id"] for image in api.api.images(all=True)}

    def left(self) -> list[str]:
        """What of ours is left there, and in this process."""
        with client(self.url) as api:
            volumes = [volume["Name"] for volume in api.api.volumes()["Volumes"] or ()]
        threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("minitango")]
        containers = [f"{container['Names']} {container['Status']}" for container in self.containers()]
        return [*containers, *volumes, *(self._image_ids() - self._images), *threads]


@pytest.fixture
def docker(caplog: pytest.LogCaptureFixture) -> Iterator[Docker]:
    """An engine with nothing in it but an image, in which nothing more may be at the end."""
    need_private_engines()
    with private_engine() as engine:
        docker = Docker(engine)
        yield docker
        try:
            eventually(lambda: not docker.left(), "something is left")
        except AssertionError as error:
            raise AssertionError(f"left: {docker.left()}") from error
        caplog.get_records("call").clear()  # with the errors that were logged, and all that they hold
        gc.collect()  # under this test's filter of warnings


class Course:
    """An engine that grades in one Docker engine, and hand-ins that take a while."""

    def __init__(self, engine: Engine, store: str) -> None:
        self.engine = engine
        self._store = store
        self._seconds = ""

    def submit(self, jobs: int, seconds: float) -> list[JobHandle]:
        """Hand-ins whose scores are their numbers, as `check` expects them."""
        self._seconds = f"{seconds}{secrets.randbelow(10**6):06}"  # so that they are found among all processes
        script = f'sleep {self._seconds}; printf "{{\\"score\\": %s}}" "$(cat answer)" > "$MINITANGO_REPORT"'
        step = Step(command=("sh", "-c", script), limits=Limits(wall=30, memory=32 << 20))
        assignment = Assignment("faults", (step,), max_score=1000)
        return self.engine.submit_many(
            Submission(assignment, student=f"s{n}", files={"answer": b"%d" % n}) for n in range(jobs)
        )

    def wait_running(self, number: int) -> None:
        eventually(lambda: running(self._seconds) >= number, f"{number} jobs never ran at once")

    def jobs(self) -> list[Job]:
        with contextlib.closing(open_store(self._store)) as store:
            return store.list()

    def attempts(self) -> int:
        return sum(job.attempt for job in self.jobs())


@contextlib.contextmanager
def grading(docker: Docker, state: Path, store: str = "", **more: Any) -> Iterator[Course]:
    sandbox = DockerSandbox(state, url=docker.url, image=docker.image, **more)
    store = store or f"sqlite:///{state}/queue.db"
    with Engine.open(store, state=state, workers=2, sandbox=sandbox) as engine:
        yield Course(engine, store)


def running(seconds: str) -> int:
    """How many jobs that sleep exactly so long do so at this moment, anywhere on this machine."""
    wanted = f"sleep\0{seconds}\0".encode()
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found += (process / "cmdline").read_bytes() == wanted
    return found


def wait(handles: list[JobHandle]) -> None:
    for handle in handles:
        assert handle.exception(timeout=110) is None


@pytest.fixture(params=["sqlite", "redis"])
def store(request: Any, tmp_path: Path) -> Iterator[str]:
    """The URL of either store."""
    with contextlib.closing(make_place(request.param, tmp_path / "place")) as place:
        yield place.url


def checked(where: Path | str, jobs: int) -> None:
    """Every job has its one result, the right one, and no failure was charged."""
    store = open_store(str(where / "queue.db") if isinstance(where, Path) else where)
    try:
        check(store, range(jobs))
    finally:
        store.close()


def test_ours_is_killed_again_and_again(docker: Docker, tmp_path: Path) -> None:
    jobs, kills = (60, 20) if LONG else (8, 3)
    place = Place("sqlite", tmp_path)
    how = {"jobs": jobs, "sandbox": "docker", "image": docker.image, "seconds": 0.05, "DOCKER_HOST": docker.url}
    chance = random.Random(13)
    for _ in range(kills):
        child = place.start(**how)
        child.expect("open")
        eventually(lambda: bool(docker.containers()), "no container was started")
        time.sleep(chance.uniform(0.0, 0.4))  # the fault's moment is the point of this test
        child.kill()
        eventually(lambda: not docker.alive(), "a container outlived its engine")
    place.finish(**how)
    checked(place.state(), jobs)
    owners = [path.name for path in (place.state() / "docker").iterdir() if path.name != "state"]
    assert owners == [], "the sweep left what dead engines had"


def test_the_daemon_is_killed_in_mid_run(docker: Docker, tmp_path: Path, store: str) -> None:
    with grading(docker, tmp_path, store) as course:
        handles = course.submit(4, 1.0)
        course.wait_running(2)
        docker.engine.kill9()
        docker.engine.start()
        wait(handles)
        assert course.attempts() >= 4 + 2, "those that ran were run again"
    checked(store, 4)


@pytest.mark.parametrize("back", [False, True])
def test_the_daemon_is_killed_while_a_container_comes_up(
    docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    """Between the start of a container and the first word of what is in it: nobody's fault, whatever is there then."""
    armed, started, go_on = threading.Event(), threading.Event(), threading.Event()
    hello = Containers._hello

    def wait_for_the_kill(self: Containers, line: Any, name: str, id: str) -> Any:
        if armed.is_set():
            armed.clear()
            assert line.next(PATIENCE)  # as if it were on its way
            started.set()
            assert go_on.wait(PATIENCE)
        return hello(self, line, name, id)

    monkeypatch.setattr(Containers, "_hello", wait_for_the_kill)
    with grading(docker, tmp_path) as course:
        wait(course.submit(1, 0.1))  # what it looks at before the first is over
        armed.set()
        (handle,) = course.submit(1, 0.2)
        assert started.wait(PATIENCE)
        docker.engine.kill9()
        if back:
            docker.engine.start()
        go_on.set()
        if not back:
            eventually(lambda: course.jobs()[1].failure is not None, "nothing was put back")
            docker.engine.start()
        wait([handle])
        assert [job.failures for job in course.jobs()] == [0, 0]


def test_the_daemon_hangs(docker: Docker, tmp_path: Path) -> None:
    patience = 30.0 if LONG else 2.0
    with grading(docker, tmp_path, patience=patience) as course:
        handles = course.submit(6, 1.0)
        course.wait_running(2)
        docker.engine.pause()
        try:
            time.sleep(patience * 2.5)  # every call that is under way ends in this time, and the claiming with it
            claimed = course.attempts()
            assert claimed <= 4, "it goes on claiming"
            assert all(job.failures == 0 for job in course.jobs())
        finally:
            docker.engine.resume()
        wait(handles)
        assert course.attempts() >= 6 + 2, "those that ran were run again"
    checked(tmp_path, 6)


@pytest.mark.timeout(400)
def test_the_daemon_is_away_with_jobs_queued(docker: Docker, tmp_path: Path) -> None:
    away, jobs = (60.0, 50) if LONG else (4.0, 12)
    with grading(docker, tmp_path) as course:
        handles = course.submit(jobs, 0.01)
        handles[3].result(timeout=60)
        docker.engine.stop()
        time.sleep(away)
        assert not handles[-1].done()
        docker.engine.start()
        wait(handles)
        assert course.attempts() < jobs + 20, "it tried again and again meanwhile"
    checked(tmp_path, jobs)


def test_containers_end_by_another_hand(docker: Docker, tmp_path: Path) -> None:
    """A failure of ours, and no more than one: the student's own memory or limits had no part in it."""
    with grading(docker, tmp_path) as course:
        handles = course.submit(2, 2.0)
        course.wait_running(2)
        one, other = docker.containers()
        with client(docker.url) as api:
            api.api.remove_container(one["Id"], force=True)
            api.api.kill(other["Id"])
        wait(handles)
        assert [handle.result().score for handle in handles] == [0, 1]
        assert [handle.result().outcome for handle in handles] == ["graded"] * 2
        assert [(job.attempt, job.failures) for job in course.jobs()] == [(2, 1)] * 2


SPEC = BoxSpec((Mount("/job", writable=True),), "/job", Limits(wall=30, memory=32 << 20, disk=8 << 20))


def kill(api: Any, container: str) -> None:
    api.kill(container)


def remove(api: Any, container: str) -> None:
    api.remove_container(container, force=True)


@contextlib.contextmanager
def hurting(docker: Docker, ready: Callable[[], object], hurt: Callable[[Any, str], None]) -> Iterator[None]:
    """What is done to each container once it is `ready`, from another thread."""

    def do() -> None:
        ready()
        with client(docker.url) as api:
            for container in docker.containers():
                hurt(api.api, container["Id"])

    thread = threading.Thread(target=do)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_a_daemon_anywhere_on_earth_tells_how_a_container_died(tmp_path: Path, zone: str) -> None:
    need_private_engines()
    with private_engine(TZ=zone) as engine:
        docker = Docker(engine)
        with client(engine.url) as api:
            assert not api.info()["SystemTime"].endswith("Z"), "it has the zone"
        with contextlib.closing(DockerSandbox(tmp_path, url=docker.url, image=docker.image)) as sandbox:
            began = time.monotonic()
            for hurt in (kill, remove):
                box = sandbox.open(SPEC)
                with hurting(docker, lambda: time.sleep(0.2), hurt), pytest.raises(SandboxFailed) as caught:
                    box.run(["sleep", "25"], env={}, output=lambda _: None)
                assert caught.value.id == "box_killed"
                box.close()
            assert time.monotonic() - began < 15


GROW = "x=................; while :; do x=$x$x; done"


def test_a_kill_by_hand_is_not_the_memory_of_a_child_that_the_kernel_took_before(
    docker: Docker, tmp_path: Path
) -> None:
    """OOMKilled is true, and there is an event; and an engine that has forgotten the start was not restarted."""

    def forget(api: Any, container: str) -> None:
        other = api.create_container(docker.image, ["true"], network_disabled=True)
        for _ in range(300):  # it remembers 256 events
            api.rename(other, f"again-{secrets.token_hex(4)}")
        api.remove_container(other)
        api.kill(container)

    with contextlib.closing(DockerSandbox(tmp_path, url=docker.url, image=docker.image)) as sandbox:
        for command, hurt in ((f"sh -c '{GROW}'; echo $?; sleep 25", kill), ("echo 137; sleep 25", forget)):
            box = sandbox.open(SPEC)
            said: list[bytes] = []
            told = partial(eventually, lambda: b"137\n" in b"".join(said), "nothing was killed")  # noqa: B023
            with hurting(docker, told, hurt), pytest.raises(SandboxFailed) as caught:
                box.run(["sh", "-c", command], env={}, output=said.append)
            assert b"137\n" in b"".join(said)
            assert caught.value.id == "box_killed"
            box.close()


def test_closing_on_a_daemon_that_hangs_does_not_wait_for_each_thing_in_turn(docker: Docker, tmp_path: Path) -> None:
    sandbox = DockerSandbox(tmp_path, url=docker.url, image=docker.image)
    boxes = [sandbox.open(SPEC) for _ in range(3)]
    boxes.pop().close()  # whose container is being looked after

    def run(box: DockerBox) -> str:
        with pytest.raises(SandboxUnavailable) as caught:
            box.run(["sleep", "25"], env={}, output=lambda _: None)
        return caught.value.id

    with ThreadPoolExecutor(2) as others:
        runs = [others.submit(run, box) for box in boxes]
        eventually(lambda: sum(container["State"] == "running" for container in docker.containers()) == 2, "none runs")
        docker.engine.pause()
        try:
            began = time.monotonic()
            sandbox.close()
            assert time.monotonic() - began < 12
        finally:
            docker.engine.resume()
        assert [one.result() for one in runs] == ["sandbox_hangs"] * 2


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_the_daemon_hangs(docker: Docker, cli: CommandLine, hw: Path, handins: Path, times: int) -> None:
    """What runs gets its few seconds, or none; then it is put back, and the end does not wait for the daemon."""
    for name in ("ada", "bob"):
        (handins / f"{name}.txt").write_text("wait 29")
    where = ("--sandbox", f"docker+{docker.url}", "--image", docker.image)
    process = cli.start("run", hw, handins, "--workers", "2", "--no-preflight", *where)
    eventually(lambda: len(docker.alive()) == 2, "none is graded")
    docker.engine.pause()
    try:
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        if times == 2:
            eventually(lambda: b"stopping" in (cli.folder / "err0").read_bytes(), "it does not say that it stops")
            process.send_signal(signal.SIGINT)
        answer = cli.answer(process)
        took = time.monotonic() - began
    finally:
        docker.engine.resume()
    assert answer.code == 130, answer
    assert "Traceback" not in answer.err
    assert took < (20 if times == 1 else 10), answer
    store = open_store(str(cli.folder / ".minitango/queue.db"))
    try:
        assert {(job.state.value, job.failures) for job in store.list()} == {("queued", 0)}
    finally:
        store.close()


def test_stopping_while_the_daemon_hangs_and_a_box_is_opened(docker: Docker, tmp_path: Path) -> None:
    with grading(docker, tmp_path) as course:
        wait(course.submit(1, 0.01))
        docker.engine.pause()
        try:
            course.submit(1, 0.01)
            eventually(lambda: course.attempts() == 2, "it is never claimed")
            began = time.monotonic()
            course.engine.stop(grace=0)
            assert time.monotonic() - began < 15
        finally:
            docker.engine.resume()
        assert {(job.state.value, job.failures) for job in course.jobs()} == {("done", 0), ("queued", 0)}


def test_engines_of_ours_share_a_daemon(docker: Docker, tmp_path: Path) -> None:
    """One sweeps what a dead one left, and nothing of one that lives."""
    seconds = f"60.{secrets.randbelow(10**6):06}"
    place = Place("sqlite", tmp_path)
    child = place.start(
        "dead", jobs=1, sandbox="docker", workers=1, image=docker.image, seconds=seconds, DOCKER_HOST=docker.url
    )
    eventually(lambda: running(seconds) == 1, "the job never ran")
    with client(docker.url) as api:
        (frozen,) = docker.containers()
        api.api.pause(frozen["Id"])  # or it would leave by itself
    child.kill()

    ours = DockerSandbox(tmp_path / "ours", url=docker.url, image=docker.image)
    theirs = DockerSandbox(tmp_path / "theirs", url=docker.url, image=docker.image)
    with contextlib.closing(ours), contextlib.closing(theirs):
        box = theirs.open(SPEC)
        box.put("/job", [File("said", b"alive\n")])
        assert ours.orphans() == 1
        assert ours.orphans() == 1, "looking removes nothing"
        assert ours.sweep() == 1
        assert ours.orphans() == 0
        assert ours.sweep() == 0
        assert [container["State"] for container in docker.containers()] == ["running"]
        said: list[bytes] = []
        assert box.run(["cat", "said"], env={}, output=said.append).exit_status == 0
        assert said == [b"alive\n"]
        box.close()
