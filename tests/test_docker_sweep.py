"""What a sweep removes from a Docker engine, and what it must leave there."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError

from minitango.archive import File
from minitango.job import Limits
from minitango.sandbox import BoxSpec, Bundle, Mount, _docker_carry, _docker_containers
from minitango.sandbox._docker_carry import Carrier
from minitango.sandbox._docker_engine import Engine
from minitango.sandbox._docker_owner import OWNER, WHERE, Owner
from minitango.sandbox._docker_place import Place
from minitango.sandbox.docker import DockerSandbox
from tests import docker_engine, docker_images
from tests.docker_proxy import VERSION, Proxy, say
from tests.support import eventually
from tests.test_docker_owner import killed

SPEC = BoxSpec((Mount("/job", writable=True),), "/job", Limits(wall=20, memory=32 << 20))


class There:
    """What a test makes in the engine, as if others had made it. It ends with the test."""

    def __init__(self, url: str) -> None:
        self._close = contextlib.ExitStack()
        self.api: Any = self._close.enter_context(docker_engine.client(url)).api
        self.image = docker_images.busybox(url)
        self._made: list[str] = []

    def container(self, name: str, labels: dict[str, str]) -> str:
        config = {"Image": self.image, "Cmd": ["true"], "Labels": labels, "NetworkDisabled": True}
        made = self.api.create_container_from_config(config, name)["Id"]
        self._close.callback(self._remove, self.api.remove_container, made)
        return str(made)

    def named(self, labels: dict[str, str]) -> str:
        return self.container(f"minitango-{labels[OWNER]}-1", labels)

    def image_of(self, labels: dict[str, str], tag: str = "") -> str:
        changes = [f"ENV WHICH={secrets.token_hex(8)}"]
        changes += [f"LABEL {key}={json.dumps(value)}" for key, value in labels.items()]
        said = self.api.import_image_from_data(docker_images.empty_layer(), changes=changes)
        made = json.loads(said.splitlines()[-1])["status"]
        if tag:
            self.api.tag(made, tag, "1")
        self._close.callback(self._remove, self.api.remove_image, made)
        return str(made)

    def _remove(self, remove: Any, id: str) -> None:
        with contextlib.suppress(Exception):
            remove(id, force=True)

    def containers(self) -> set[str]:
        return {one["Id"] for one in self.api.containers(all=True)}

    def images(self) -> set[str]:
        return {one["Id"] for one in self.api.images(all=True)}

    def close(self) -> None:
        self._close.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An engine of these tests alone, where there can be one: on one that others use, they sweep as well."""
    if docker_engine.cannot_start():
        yield docker_engine.need_docker()
        return
    with docker_engine.private_engine() as engine:
        yield engine.url


@pytest.fixture
def there(url: str) -> Iterator[There]:
    with contextlib.closing(There(url)) as made:
        yield made


@pytest.fixture
def sandbox(url: str, there: There, tmp_path: Path) -> Iterator[DockerSandbox]:
    made = DockerSandbox(tmp_path / "ours", url=url, image=there.image)
    with contextlib.closing(made):
        yield made


def test_containers_of_the_dead_and_no_others(there: There, sandbox: DockerSandbox, tmp_path: Path) -> None:
    ours, other = killed(tmp_path / "ours"), killed(tmp_path / "other")
    dead = {there.named(ours), there.named(other)}
    with contextlib.closing(Owner(tmp_path / "living")) as living:
        elsewhere = killed(tmp_path / "far") | {WHERE: "another machine"}
        left = {
            there.named(living.labels()),
            there.named(elsewhere),
            there.container(f"mine-{secrets.token_hex(4)}", ours),  # of an image that was made of one of ours
            there.container(f"minitango-{secrets.token_hex(4)}-1", ours),
        }
        assert sandbox.orphans() == 2
        assert sandbox.sweep() == 2
        assert there.containers() >= left
        assert not there.containers() & dead


def test_images_of_the_dead_that_nobody_named(there: There, sandbox: DockerSandbox, tmp_path: Path) -> None:
    dead = there.image_of(killed(tmp_path / "ours"))
    with contextlib.closing(Owner(tmp_path / "living")) as living:
        left = {
            there.image_of(killed(tmp_path / "ours"), tag=f"minitango-test-{secrets.token_hex(4)}"),
            there.image_of(living.labels()),
            there.image_of({}),
        }
        sandbox.sweep()
        assert there.images() >= left
        assert dead not in there.images()


def test_it_is_swept_by_itself(
    there: There, sandbox: DockerSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_docker_containers, "_SWEEP", 0.2)
    sandbox.open(SPEC).close()
    dead = there.named(killed(tmp_path / "other"))
    eventually(lambda: dead not in there.containers(), "nothing is swept")


def test_a_bundle_is_there_for_as_long_as_it_is_given_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(_docker_carry, "time", SimpleNamespace(monotonic=lambda: clock.now))
    first, second = (Bundle("/tests", digest, (File("given", digest.encode()),)) for digest in ("1", "2"))
    with (
        contextlib.closing(Engine(Place("unix:///nowhere", "the test"))) as engine,
        contextlib.closing(Owner(tmp_path)) as owner,
    ):
        carrier = Carrier(engine, owner, "amd64")

        def given(bundle: Bundle) -> Path:
            return Path(carrier.binds("none", bundle)[-1][0])

        folder = given(first)
        (folder / "mark").touch()
        clock.now += 2 * _docker_carry._KEPT
        assert given(first) == folder
        assert (folder / "mark").exists(), "a container may just be made with it"
        clock.now += 0.9 * _docker_carry._KEPT
        given(second)
        assert (folder / "given").read_bytes() == b"1"
        clock.now += 0.2 * _docker_carry._KEPT
        assert (given(second) / "given").read_bytes() == b"2"
        assert not folder.exists(), "nobody has asked for it for long"
        assert (given(first) / "given").read_bytes() == b"1"


@pytest.mark.parametrize(("status", "breaks"), [(404, False), (409, False), (500, True)])
def test_a_container_that_is_just_going_breaks_no_teardown(
    status: int, breaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the private engines of these tests."""
    docker_engine.need_private_engines()
    engine = docker_engine.PrivateEngine()
    with (
        Proxy(
            "",
            ("DELETE .*/containers/", say(status, {"message": "no"})),
            ("GET .*/containers/json", say(200, [{"Id": "1"}])),
            (".*", say(200, VERSION)),
        ) as proxy,
        subprocess.Popen(["sleep", "1000"]) as sleeper,
        pytest.raises(APIError) if breaks else contextlib.nullcontext(),
    ):
        monkeypatch.setattr(engine, "url", proxy.url)
        monkeypatch.setattr(engine, "_daemon", sleeper)
        monkeypatch.setattr(docker_engine, "MOMENT", 0.05)
        engine.close()
    assert not engine.folder.exists()
