"""Boxes on Docker, where the contract of all sandboxes does not say it: odd images, memory, what a container is."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound
from msgspec import structs

from minitango import Assignment, Engine, Step
from minitango.archive import File
from minitango.errors import AssignmentError, SandboxFailed, SandboxUnavailable
from minitango.job import Limits
from minitango.sandbox import BoxSpec, Bundle, CollectBounds, Mount, _frames
from minitango.sandbox._docker_containers import Containers
from minitango.sandbox._docker_line import Line
from minitango.sandbox._docker_profile import Features, container
from minitango.sandbox._frames import Hello
from minitango.sandbox.docker import DockerSandbox
from tests import docker_engine, docker_images
from tests.docker_proxy import Proxy, say
from tests.support import eventually

MIB = 1 << 20
SPEC = BoxSpec((Mount("/job", writable=True), Mount("/tests")), "/job", Limits(wall=20, memory=64 * MIB, disk=16 * MIB))


@pytest.fixture
def url() -> str:
    return docker_engine.need_docker()


@pytest.fixture
def sandbox(url: str, tmp_path: Path) -> Iterator[DockerSandbox]:
    made = DockerSandbox(tmp_path, url=url, image=docker_images.python_image())
    yield made
    made.close()


@pytest.fixture
def odd_image(url: str) -> Iterator[str]:
    """An image that wants to be run otherwise in every way in which an image can."""
    name = f"minitango-test-odd-{os.getpid()}"
    wishes = [
        "VOLUME /data",
        "VOLUME /job",
        "VOLUME /tmp/inside",
        "USER nobody",
        'ENTRYPOINT ["/bin/false"]',
        'CMD ["never"]',
        "ENV JAVA_HOME=/opt/java HOME=/nowhere",
        "ENV PATH=/opt/java/bin:/usr/bin:/bin",
        "HEALTHCHECK CMD false",
        "WORKDIR /nowhere",
        "LABEL minitango.owner=1-00 minitango.home=/tmp/1-00",
    ]
    with docker_engine.client(url) as client:
        base = client.api.create_container(docker_images.python_image(), ["true"], network_disabled=True)
        client.api.commit(base, name, "1", changes=wishes)
        client.api.remove_container(base)
        yield f"{name}:1"
        client.api.remove_image(f"{name}:1", force=True)


@contextlib.contextmanager
def derived(url: str, *wishes: str, base: str = "") -> Iterator[str]:
    """An image with a shell whose Dockerfile ends with these lines."""
    name = f"minitango-test-derived-{os.getpid()}:1"
    dockerfile = "\n".join([f"FROM {base or docker_images.busybox(url)}", *wishes])
    with docker_engine.client(url) as client:
        client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=name, rm=True)
        try:
            yield name
        finally:
            client.api.remove_image(name, force=True)


def images_with(url: str, variable: str) -> set[str]:
    """The images, layers that nobody named among them, in which this is set."""
    found = set()
    with docker_engine.client(url) as client:
        for image in client.api.images(all=True):
            with contextlib.suppress(NotFound):  # others come and go
                if variable in (client.api.inspect_image(image["Id"])["Config"]["Env"] or []):
                    found.add(image["Id"])
    return found


def run(sandbox: DockerSandbox, script: str, spec: BoxSpec = SPEC, files: list[File] | None = None) -> str:
    box = sandbox.open(spec)
    try:
        box.put("/tests", files or [])
        said: list[bytes] = []
        box.run(["sh", "-c", script], env={}, output=said.append)
    finally:
        box.close()
    return b"".join(said).decode()


def test_what_an_image_wants_changes_nothing_but_the_environment(url: str, tmp_path: Path, odd_image: str) -> None:
    sandbox = DockerSandbox(tmp_path, url=url, image=odd_image)
    try:
        said = run(
            sandbox,
            "echo $JAVA_HOME $PATH $HOME; pwd; id -u; touch kept /tmp/kept && echo wrote;"
            " for at in /data /tmp/inside; do ls -A $at; touch $at/x 2>/dev/null && echo wrote $at; done",
        )
    finally:
        sandbox.close()
    java, path, home, pwd, uid, *more = said.split()
    assert (java, path, home, pwd) == ("/opt/java", "/opt/java/bin:/usr/bin:/bin", "/job", "/job")
    assert int(uid) >= 60_000
    assert more == ["wrote", "wrote", "/tmp/inside"]  # where everything can be written to
    with docker_engine.client(url) as client:
        assert client.api.volumes(filters={"dangling": True})["Volumes"] in (None, [])


@pytest.mark.parametrize("mounts", [True, False], ids=["here", "elsewhere"])
def test_what_an_image_wants_of_images_built_on_it_is_not_done(url: str, tmp_path: Path, mounts: bool) -> None:
    """Nor is anything left of an image in which what is ours was laid."""
    level = f"LEVEL={secrets.token_hex(4)}"
    wishes = [f"ENV {level}", "ONBUILD RUN echo triggered > /etc/triggered", "ONBUILD COPY no-such-file /"]
    with derived(url, *wishes) as image:
        before = images_with(url, level)
        sandbox = DockerSandbox(tmp_path, url=url, image=image, mounts=mounts)
        try:
            given = Bundle("/tests", "1", (File("given", b"given\n"),))
            said = run(sandbox, "ls /etc/triggered /tests; echo $LEVEL", structs.replace(SPEC, bundle=given))
            assert said.split()[-2:] == ["given", level.removeprefix("LEVEL=")]
            assert "/etc/triggered: No such file" in said
            with docker_engine.client(url) as client:
                assert bool(images_with(url, level) - before) is not mounts
                labels = {"label": [f"minitango.home={tmp_path}"]}
                assert client.api.containers(all=True, filters=labels) == []
        finally:
            sandbox.close()
        assert images_with(url, level) == before, "no image layer of ours is left"


@pytest.mark.parametrize("mounts", [True, False], ids=["here", "elsewhere"])
def test_an_image_that_goes_is_no_failure_of_the_box(url: str, tmp_path: Path, mounts: bool) -> None:
    with derived(url, "ENV WHICH=gone") as image:
        sandbox = DockerSandbox(tmp_path, url=url, image=image, mounts=mounts)
        try:
            digest = sandbox.prepare("")
            sandbox._set_up().images.environment(digest)
            with docker_engine.client(url) as client:
                client.api.remove_image(image, force=True)
            with pytest.raises(SandboxUnavailable) as caught:
                sandbox.open(structs.replace(SPEC, image=digest))
            assert caught.value.id == "sandbox_image_gone"
        finally:
            sandbox.close()
            docker_images.load(url, image, docker_images.empty_layer())


@pytest.mark.parametrize("mounts", [True, False], ids=["here", "elsewhere"])
def test_volumes_where_a_mount_is_or_what_is_ours(url: str, tmp_path: Path, mounts: bool) -> None:
    """They are as the mount around them, and bounded."""
    places = ["/job/data", "/job/data/deep", "/tests/given", "/tmp/x", "/dev/shm", "/.minitango", "/.minitango/bundle"]
    with derived(url, *(f"VOLUME {place}" for place in places)) as image:
        sandbox = DockerSandbox(tmp_path, url=url, image=image, mounts=mounts)
        given = Bundle("/tests", "1", (File("given/file", b"given\n"),))
        box = sandbox.open(structs.replace(SPEC, bundle=given))
        try:
            box.put("/job", [File("data/mine", b"mine\n")])
            said: list[bytes] = []
            script = (
                "cat data/mine /tests/given/file;"
                " for at in data data/deep /tmp/x /dev/shm; do touch $at/new || echo $at; done;"
                " touch /tests/given/new 2>/dev/null && echo given; cat /proc/mounts >&2;"
                " yes > data/big; [ $? = 0 ] && echo unbounded"
            )
            end = box.run(["sh", "-c", script], env={}, output=said.append)
            lines = b"".join(said).decode().splitlines()
            assert [line for line in lines if " " not in line] == ["mine", "given"], end
            mounted = {words[1]: words[2] for words in (line.split() for line in lines) if len(words) == 6}
            assert {mounted[place] for place in places[:5]} == {"tmpfs"}
            assert {file.path for file in box.collect("/job", ["data/**"], CollectBounds()).files} >= {
                "data/mine",
                "data/new",
                "data/deep/new",
            }
        finally:
            box.close()
            sandbox.close()
        with docker_engine.client(url) as client:
            assert client.api.volumes(filters={"dangling": True})["Volumes"] in (None, [])


def test_what_the_loader_says_is_no_missing_command(url: str, tmp_path: Path) -> None:
    """It says it in every process of an image with such a variable, that which looks for commands among them."""
    with derived(url, "ENV LD_PRELOAD=/no/such.so", base=docker_images.python_image()) as image:
        sandbox = DockerSandbox(tmp_path, url=url, image=image)
        with Engine.open(tmp_path, sandbox=sandbox) as engine:
            engine.preflight(Assignment("hw", (Step(command=("python3",)),), max_score=1))
            with pytest.raises(AssignmentError) as caught:
                engine.preflight(Assignment("hw", (Step(name="grade", command=("no-such",)),), max_score=1))
    place = f"the image {image} that step 'grade' gets, as it names none"
    assert f": no-such is not there in {place}, so no submission can be graded" in caught.value.message


def test_what_is_given_read_only_is_not_charged_to_the_job(sandbox: DockerSandbox) -> None:
    """The files are in the container's memory, which then has more of it."""
    given = [File(f"f{n}", bytes(MIB)) for n in range(60)]
    hold = "python3 -c 'held = b\"x\" * (48 << 20); print(len(held) >> 20)'"
    assert run(sandbox, f"{hold}; ls /tests | wc -l", files=given).split() == ["48", "60"]


@pytest.mark.parametrize(
    ("seen", "what", "id"),
    [
        ({"capabilities": 0xE0 | 1 << 21}, "capabilities 2000e0", "sandbox_not_isolated"),
        ({"no_new_privileges": False}, "a way to new privileges", "sandbox_not_isolated"),
        ({"other_interface": True}, "a network other than localhost", "sandbox_not_isolated"),
        ({"loopback": False}, "no localhost", "sandbox_not_isolated"),
        ({"version": 1}, "it speaks version 1 of the protocol", "sandbox_docker"),
    ],
)
def test_an_engine_whose_containers_are_not_as_they_must_be(
    sandbox: DockerSandbox, monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any], what: str, id: str
) -> None:
    """Nothing is graded there, whatever the engine says that it does: what the supervisor sees counts."""
    hello = _frames.hello
    monkeypatch.setattr(_frames, "hello", lambda body: structs.replace(hello(body), **seen))
    with pytest.raises(SandboxUnavailable, match=what) as caught:
        sandbox.probe()
    assert caught.value.id == id


def test_a_sandbox_that_is_closed_while_a_box_opens(
    url: str, sandbox: DockerSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever closes it does not know of the box yet: it is closed by who opened it."""
    sandbox.probe()
    hello = Containers._hello

    def close_then(self: Containers, line: Line, name: str, id: str) -> Hello:
        said = hello(self, line, name, id)
        sandbox.close()
        return said

    monkeypatch.setattr(Containers, "_hello", close_then)
    with pytest.raises(SandboxFailed, match="the sandbox is closed"):
        sandbox.open(SPEC)
    with docker_engine.client(url) as client:
        labels = {"label": "minitango.owner"}
        eventually(
            lambda: (
                not [
                    one
                    for one in client.api.containers(all=True, filters=labels)
                    if str(sandbox._state) in one["Labels"]["minitango.home"]
                ]
            )
        )


def test_an_engine_that_cannot_enlarge_a_container(url: str, tmp_path: Path) -> None:
    """As Podman 4.3, which does not know the call."""
    with Proxy(url, ("POST .*/update", say(404, {"message": "Not Found"}))) as proxy:
        sandbox = DockerSandbox(tmp_path, url=proxy.url, image=docker_images.python_image())
        try:
            assert run(sandbox, "ls /tests", files=[File("f", bytes(8 * MIB))]) == "f\n"
            assert [note for note in sandbox.probe().notes if "read-only count as its memory" in note]
        finally:
            sandbox.close()


def test_on_podman_nothing_is_writable_that_was_not_asked_for() -> None:
    spec = BoxSpec((Mount("/job", writable=True), Mount("/tests")), "/job")
    podman = Features(2, podman=True, network_disabled=False)
    made = container(spec, podman, image="i", binds=[], volumes=["/data"], uid=60_800, labels={})
    host = made["HostConfig"]
    found = {path: words.split(",") for path, words in host["Tmpfs"].items()}
    assert sorted(found) == ["/data", "/job", "/run", "/tests", "/tmp", "/var/tmp"]
    assert all(any(word.startswith("size=") for word in words) for words in found.values())
    assert all("notmpcopyup" in words for words in found.values())
    assert {path for path, words in found.items() if {"mode=0777", "mode=1777"} & set(words)} == {"/job", "/tmp"}
    assert not [word for words in found.values() for word in words if word.startswith(("uid=", "gid=", "nr_inodes="))]
    assert (made["NetworkDisabled"], host["NetworkMode"]) == (False, "none")


def test_the_job_has_a_name_and_localhost_is_known(sandbox: DockerSandbox) -> None:
    code = "import getpass, os, pwd, socket; print(pwd.getpwuid(os.getuid())[0], socket.gethostbyname('localhost'))"
    assert run(sandbox, f'python3 -c "{code}"').split() == ["job", "127.0.0.1"]


def test_a_container_has_no_more_than_it_needs(url: str, sandbox: DockerSandbox) -> None:
    with docker_engine.client(url) as client:
        box = sandbox.open(SPEC)
        try:
            labels = {"label": "minitango.owner"}
            found: list[Any] = [
                client.api.inspect_container(one["Id"])
                for one in client.api.containers(filters=labels)
                if str(sandbox._state) in one["Labels"]["minitango.home"]
            ]
        finally:
            box.close()
    assert len(found) == 1
    config, host = found[0]["Config"], found[0]["HostConfig"]
    assert config["User"] == "0:0"
    assert config["NetworkDisabled"] is True
    assert config["Env"] == [one for one in config["Env"] if one.startswith("PATH=")]
    assert host["CapDrop"] == ["ALL"]
    assert sorted(host["CapAdd"]) in (["KILL", "SETGID", "SETUID"], ["CAP_KILL", "CAP_SETGID", "CAP_SETUID"])
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["Memory"] == host["MemorySwap"] == (64 + 16 + 8) * MIB
    assert host["PidsLimit"] == 129
    assert host["LogConfig"]["Type"] == "none"
    assert host["RestartPolicy"]["Name"] == "no"
    assert all(not mount["RW"] for mount in found[0]["Mounts"])
    assert config["Healthcheck"]["Test"] == ["NONE"]  # nobody but the supervisor starts anything in it
    assert host["Init"] is False  # which would be pid 1 in its place
