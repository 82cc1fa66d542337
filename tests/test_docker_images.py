"""Images: pulled or built once, by a real engine from a real registry; and what a false engine may say."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from minitango import Assignment, Engine, Event, Step, image_name
from minitango.archive import File
from minitango.errors import AssignmentError, ConfigError, MinitangoError, SandboxFailed, SandboxUnavailable
from minitango.sandbox._docker_engine import Engine as DockerEngine
from minitango.sandbox._docker_engine import Place
from minitango.sandbox._docker_images import Images
from minitango.sandbox._docker_pull import _Pull, failed
from minitango.sandbox._docker_stream import Message, Progress
from minitango.sandbox.docker import DockerSandbox
from tests.certificates import make
from tests.docker_engine import PrivateEngine, client, need_docker, need_private_engines, unavailable
from tests.docker_images import FOREIGN, MACHINE, busybox_layer, empty_layer, image_archive, need_made
from tests.docker_proxy import VERSION
from tests.support import PATIENCE, eventually, submission

LOGIN = {"username": "ada", "password": "secret"}
HTPASSWD = "ada:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


class Here:
    """The engine that answers here, and what a test makes in it, which ends with the test."""

    def __init__(self, url: str) -> None:
        self.said: list[str] = []
        self._close = contextlib.ExitStack()
        self.engine = DockerEngine(Place(url, "the test"))
        self._close.callback(self.engine.close)
        self.api: Any = self._close.enter_context(client(url)).api
        self._names: set[str] = set()
        self._label = f"minitango-test={uuid.uuid4().hex}"  # which what is built from it has, too

    def images(self, default: str = "", **more: Any) -> Images:
        made = Images(self.engine, tell=self.said.append, default=default, **more)
        self._close.callback(made.close)
        return made

    def name(self, registry: str = "") -> str:
        """A name of nothing, so far."""
        name = f"{registry}{'/' if registry else ''}mt-test/{uuid.uuid4().hex[:12]}:1"
        self._names.add(name)
        return name

    def make(self, name: str = "", *, layer: bytes | None = None, variables: tuple[str, ...] = ()) -> str:
        """A new image under this name; returns the name."""
        name = name or self.name()
        repository, _, tag = name.rpartition(":")
        changes = [f"ENV WHICH={uuid.uuid4().hex}", f"LABEL {self._label}", *(f"ENV {each}" for each in variables)]
        said = self.api.import_image_from_data(layer or empty_layer(), repository=repository, tag=tag, changes=changes)
        self.api.tag(json.loads(said.splitlines()[-1])["status"], repository, tag)  # Podman 4.3 gives it no name
        return name

    def push(self, name: str, login: dict[str, str] | None = None) -> str:
        """Move the image of this name into its registry; returns its id."""
        digest = self.id(name)
        for message in self.api.push(name, stream=True, decode=True, auth_config=login):
            assert "error" not in message, message
        self.remove(name)
        return digest

    def remove(self, name: str) -> None:
        self.api.remove_image(name, force=True)

    def _is_clean(self) -> bool:
        """Remove what is left; nothing was, if this is True. What is in use, or built from, goes later."""
        found = self.api.images(all=True, quiet=True, filters={"label": self._label})
        for image in found:
            self.is_removed(image)
        return not found

    def is_removed(self, digest: str) -> bool:
        """Remove the image with all its names, if nothing is made of it any more."""
        with contextlib.suppress(Exception):
            self.remove(digest)
        return not any(image == digest for image in self.api.images(all=True, quiet=True))

    def id(self, name: str) -> str:
        return str(self.api.inspect_image(name)["Id"])

    def close(self) -> None:
        for name in self._names:
            with contextlib.suppress(Exception):
                self.remove(name)
        eventually(self._is_clean, "images of the test are left")
        self._close.close()


@pytest.fixture
def here() -> Iterator[Here]:
    made = Here(need_docker())
    with contextlib.closing(made):
        yield made


class Registry:
    """A registry of our own on this machine. `login`: for those alone who know LOGIN."""

    def __init__(self, folder: Path, *, login: bool = False) -> None:
        self.host = f"127.0.0.1:{_free_port()}"
        (folder / "htpasswd").write_text(HTPASSWD)
        settings: dict[str, Any] = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": self.host},
        }
        if login:
            settings["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
        (folder / "config.yml").write_text(json.dumps(settings))  # which is YAML, too
        self._process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._answers, "the registry does not start")

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the registry ended"
        host, _, port = self.host.partition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5):
            return True
        return False

    def close(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Callable[..., Registry]]:
    if shutil.which("docker-registry") is None:
        unavailable("docker-registry is not installed (try: apt-get install docker-registry)")
    with contextlib.ExitStack() as stack:

        def start(**more: Any) -> Registry:
            return stack.enter_context(contextlib.closing(Registry(tmp_path, **more)))

        yield start


@pytest.fixture
def mute() -> Iterator[str]:
    """The host of a registry that takes connections, and says nothing until the test is over."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(server.accept()[0])

        threading.Thread(target=take, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.close()


# --- pulling -------------------------------------------------------------------------------------


def test_an_image_is_pulled_once(here: Here, registry: Callable[..., Registry]) -> None:
    name = here.make(here.name(registry().host), layer=_layer_of(5_000_000), variables=("LEVEL=2",))
    pushed = here.push(name)
    images = here.images()
    assert images.digest(name) == ""
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(images.prepare, [name] * 4)) == {pushed}
    assert here.said[0] == f"pulling {name}"
    assert here.said[-1].startswith(f"pulled {name} in ")
    assert len([line for line in here.said if line.startswith("pulled")]) == 1
    assert images.digest(name) == pushed
    assert images.environment(pushed)["LEVEL"] == "2"
    assert images.architecture(pushed) == MACHINE
    here.said.clear()
    assert images.prepare(name) == pushed
    assert here.said == []


def test_what_is_there_is_not_pulled(here: Here) -> None:
    name = here.make()
    assert here.images().prepare(name) == here.id(name)
    assert here.images(default=name).prepare("") == here.id(name)
    assert here.images().prepare(here.id(name)) == here.id(name)
    assert here.said == []


def test_a_tag_that_moves_changes_nothing(here: Here) -> None:
    name = here.make()
    images = here.images()
    first = images.prepare(name)
    here.make(name)
    assert here.id(name) != first
    assert images.prepare(name) == images.digest(name) == first
    assert here.images().prepare(name) == here.id(name)
    here.api.remove_image(first)


def test_an_image_that_was_removed_is_pulled_again(here: Here, registry: Callable[..., Registry]) -> None:
    name = here.make(here.name(registry().host))
    here.push(name)
    images = here.images()
    first = images.prepare(name)
    here.remove(name)
    second = here.push(here.make(name))
    assert images.prepare(name) == images.digest(name) == second != first
    with pytest.raises(SandboxUnavailable) as caught:
        here.images().environment(first)
    assert caught.value.id == "sandbox_image_gone"


def test_a_tag_that_is_not_there(here: Here, registry: Callable[..., Registry]) -> None:
    name = here.make(here.name(registry().host))
    here.push(name)
    missing = name.removesuffix("1") + "99"
    error = refused(here.images(), missing, "image_missing")
    assert f"there is no image {missing}: " in str(error)
    assert f"docker pull {missing}" in error.hint
    assert here.images().digest(missing) == ""


def test_a_private_image_wants_a_login(
    here: Here, registry: Callable[..., Registry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = registry(login=True).host
    name = here.make(here.name(host))
    pushed = here.push(name, LOGIN)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    error = refused(here.images(), name, "image_missing")
    assert f"docker login {host}" in error.hint
    word = base64.b64encode(f"{LOGIN['username']}:{LOGIN['password']}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": word}}}))
    with contextlib.closing(DockerEngine(here.engine.place)) as engine:
        assert Images(engine, tell=here.said.append, default="").prepare(name) == pushed


def test_a_login_that_cannot_be_read(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text('{"credsStore": "no-such-helper"}')
    with contextlib.closing(DockerEngine(here.engine.place)) as engine:
        images = Images(engine, tell=here.said.append, default="")
        error = refused(images, f"127.0.0.1:{_free_port()}/grader:1", "image_login")
    assert "no-such-helper" in str(error)


def test_a_registry_that_is_away(here: Here) -> None:
    name = f"127.0.0.1:{_free_port()}/grader:1"
    with pytest.raises(SandboxUnavailable) as caught:
        here.images().prepare(name)
    assert caught.value.id == "sandbox_registry"
    assert "connection refused" in str(caught.value)
    assert f"docker pull {name}" in caught.value.hint


def test_a_registry_that_says_nothing(here: Here, mute: str) -> None:
    with pytest.raises(SandboxUnavailable) as caught:
        here.images(silence=0.3).prepare(f"{mute}/grader:1")
    assert caught.value.id == "sandbox_registry"
    assert "nothing came for 0.3 s" in str(caught.value)


def test_closing_ends_a_pull(here: Here, mute: str) -> None:
    images = here.images()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(images.prepare, f"{mute}/grader:1")
        eventually(lambda: bool(here.said))
        images.close()
        with pytest.raises(SandboxFailed, match="closed"):
            waiting.result(PATIENCE)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"])
def test_closing_ends_the_thread_of_a_pull_of_which_nothing_is_heard(said: bytes, secure: bool, tmp_path: Path) -> None:
    began, stop = threading.Event(), threading.Event()

    class Mute(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            body = json.dumps(VERSION if "version" in self.path else {"message": "no such image"}).encode()
            self.send_response(200 if "version" in self.path else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.wfile.write(said)
            self.wfile.flush()
            began.set()
            stop.wait(10 * PATIENCE)

    certificates = make(tmp_path / "certs")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mute)
    server.daemon_threads = True
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = Place(f"tcp://127.0.0.1:{server.server_address[1]}", "the test", str(certificates) if secure else "")
    with server, contextlib.closing(DockerEngine(place)) as engine, ThreadPoolExecutor(1) as pool:
        images = Images(engine, tell=print, default="")
        waiting = pool.submit(images.prepare, "gcc:14")
        try:
            assert began.wait(PATIENCE)
            assert streams()
            images.close()
            with pytest.raises(SandboxFailed, match="closed"):
                waiting.result(PATIENCE)
            eventually(lambda: not streams(), "a thread is left")
        finally:
            stop.set()
            server.shutdown()


def test_an_engine_that_stops_answering_is_noticed(mute: str) -> None:
    need_private_engines()
    said: list[str] = []
    with (
        PrivateEngine() as private,
        contextlib.closing(DockerEngine(Place(private.url, "the test"), patience=0.5)) as engine,
    ):
        images = Images(engine, tell=said.append, default="")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(images.prepare, f"{mute}/grader:1")
            eventually(lambda: bool(said))
            private.pause()
            with pytest.raises(SandboxUnavailable) as caught:
                waiting.result(PATIENCE)
        private.resume()
    assert caught.value.id == "sandbox_hangs", caught.value
    eventually(lambda: not streams(), "a thread is left")


def streams() -> list[threading.Thread]:
    """Those who read what engines say at length."""
    return [thread for thread in threading.enumerate() if "docker stream" in thread.name]


def test_an_engine_that_is_not_there() -> None:
    with contextlib.closing(DockerEngine(Place(f"http://127.0.0.1:{_free_port()}", "the test"))) as engine:
        images = Images(engine, tell=print, default="python:3.12-slim")
        with pytest.raises(SandboxUnavailable):
            images.prepare("gcc:14")
        assert images.digest("gcc:14") == images.digest("") == ""


def test_an_image_for_another_machine(here: Here) -> None:
    name = here.name()
    here.api.load_image(image_archive(name, empty_layer(), FOREIGN))
    error = refused(here.images(), name, "image_arch")
    assert f"is for linux/{FOREIGN}" in str(error)
    assert f"linux/{MACHINE}" in str(error)
    assert f"docker pull --platform linux/{MACHINE} {name}" in error.hint


def test_an_id_that_is_not_there(here: Here) -> None:
    refused(here.images(), f"sha256:{'0' * 64}", "image_missing")
    assert here.said == []


def refused(images: Images, name: str, id: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        images.prepare(name)
    assert caught.value.id == id
    assert caught.value.hint
    return caught.value


def _layer_of(size: int) -> bytes:
    """A layer that does not compress."""
    import io
    import os
    import tarfile

    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        entry = tarfile.TarInfo("data")
        entry.size = size
        tar.addfile(entry, io.BytesIO(os.urandom(size)))
    return made.getvalue()


# --- building ------------------------------------------------------------------------------------


def folder(*lines: str, **files: bytes) -> list[File]:
    """A folder with a Dockerfile."""
    text = "\n".join([*lines, ""])
    return [File("Dockerfile", text.encode()), *(File(name, data) for name, data in files.items())]


@pytest.fixture
def shell(here: Here) -> str:
    """An image with a shell."""
    need_made()
    try:
        return here.make(layer=busybox_layer())
    except OSError as error:
        unavailable(f"there is no busybox for an image: {error}")
        raise


def test_a_folder_is_built_once(here: Here, shell: str) -> None:
    files = folder(f"FROM {shell}", "COPY data /data", 'RUN test "$(cat /data)" = 42', "ENV ANSWER=42", data=b"42")
    images = here.images()
    built = images.prepare("docker/", files)
    assert images.environment(built)["ANSWER"] == "42"
    assert here.said[0] == "building docker/"
    assert f"building docker/: step 1 of 5: FROM {shell}" in here.said
    assert here.said[-1].startswith("built docker/ in ")
    here.said.clear()
    assert images.prepare("docker/", files) == built
    assert here.images().prepare("./other", files) == built
    assert here.said == []
    changed = folder(f"FROM {shell}", "COPY data /data", data=b"43")
    assert images.prepare("docker/", changed) != built


def test_a_built_image_that_was_removed_is_built_again(here: Here, shell: str) -> None:
    files = folder(f"FROM {shell}", "ENV ANSWER=42")
    images = here.images()
    here.remove(images.prepare("docker/", files))
    assert images.environment(images.prepare("docker/", files))["ANSWER"] == "42"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("RUN echo so far; echo; printf 'then this'; false", ["step 2 of ", "exit code 1", "so far | then this"]),
        ("RAN echo", ["unknown instruction: RAN"]),
        ("COPY nothing /", ["step 2 of ", "nothing"]),
        ("RUN echo '\x1b]0;title\x07'; false", [r"\x1b]0;title\x07"]),
    ],
    ids=["a step fails", "no Dockerfile", "a file is not there", "hostile words"],
)
def test_a_dockerfile_that_does_not_build(here: Here, shell: str, line: str, words: list[str]) -> None:
    with pytest.raises(AssignmentError) as caught:
        here.images().prepare("docker/", folder(f"FROM {shell}", line))
    error = caught.value
    assert (error.id, error.file, error.line) == ("image_build", "docker/Dockerfile", 2)
    assert all(word in str(error) for word in words), str(error)
    assert str(error).isprintable()
    assert error.hint.endswith("in the assignment's folder: docker build docker/")


def test_a_build_from_an_image_that_cannot_be_had(here: Here, registry: Callable[..., Registry]) -> None:
    away = folder(f"FROM --platform=linux/{MACHINE} 127.0.0.1:{_free_port()}/base:1")
    with pytest.raises(SandboxUnavailable) as caught:
        here.images().prepare("docker/", away)
    assert caught.value.id == "sandbox_registry"
    missing = f"{registry().host}/base:1"
    with pytest.raises(AssignmentError, match=missing) as refused:
        here.images().prepare("docker/", folder(f"FROM {missing}"))
    assert (refused.value.id, refused.value.line) == ("image_build", 1)


def test_a_build_that_prints_nothing_for_too_long(here: Here, shell: str) -> None:
    with pytest.raises(AssignmentError, match=r"step 2 of .*, RUN sleep 2: nothing was printed for 0\.8 s"):
        here.images(silence=0.8).prepare("docker/", folder(f"FROM {shell}", "RUN sleep 2"))
    eventually(lambda: not streams(), "a thread is left")


# --- with all the rest ----------------------------------------------------------------------------


def test_an_image_that_goes_in_the_middle_of_a_run_is_fetched_again(
    here: Here, shell: str, registry: Callable[..., Registry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minitango.breaker.backoff", lambda n, **_: 0.01)
    name = here.name(registry().host)
    here.api.tag(shell, name)
    digest = here.push(name)
    here.remove(shell)
    hw = Assignment("hw", (Step(("true",), image=name),), format="exit-code", max_score=1)
    events: list[Event] = []
    sandbox = DockerSandbox(tmp_path, url=here.engine.place.url, tell=here.said.append)
    with Engine.open(tmp_path, workers=1, sandbox=sandbox, on_event=events.append) as engine:
        assert engine.submit(submission("ada", of=hw)).result(PATIENCE).image_digest == digest
        eventually(lambda: here.is_removed(digest), "the image is in use")
        second = engine.submit(submission("bob", of=hw))
        assert second.result(PATIENCE).image_digest == digest
        assert (second.job().attempt, second.job().failures) == (2, 0)
    assert [line for line in here.said if line == f"pulling {name}"] == [f"pulling {name}"] * 2


# --- what cannot be believed ----------------------------------------------------------------------


class FalseEngine:
    """An engine that says what the test wants it to say. `bodies` are by the end of a path; bytes are a long answer."""

    def __init__(self) -> None:
        self.bodies: dict[str, Any] = {
            "/version": {"ApiVersion": "1.41", "Os": "linux", "Arch": "amd64"},
            "/_ping": "OK",
        }
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                body = next((bodies[end] for end in bodies if path.endswith(end)), None)
                if callable(body):
                    body = body()
                if isinstance(body, bytes):
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    for piece in (body[n : n + 7000] for n in range(0, len(body), 7000)):
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    self.wfile.write(b"0\r\n\r\n")
                    return
                data = json.dumps({"message": "No such image"} if body is None else body).encode()
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_HEAD = _answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def false() -> Iterator[FalseEngine]:
    made = FalseEngine()
    with contextlib.closing(made):
        yield made


@pytest.fixture
def asked(false: FalseEngine) -> Iterator[tuple[Images, list[str]]]:
    said: list[str] = []
    with contextlib.closing(DockerEngine(Place(false.url, "the test"))) as engine:
        yield Images(engine, tell=said.append, default="", silence=PATIENCE), said


DIGEST = f"sha256:{'ab' * 32}"


def inspected(**changes: Any) -> dict[str, Any]:
    return {"Id": DIGEST, "Os": "linux", "Architecture": "amd64", "Config": {"Env": []}, **changes}


@pytest.mark.parametrize(
    "answer",
    [
        "text",
        [],
        inspected(Id=7),
        inspected(Id="../../etc"),
        inspected(Id=""),
        inspected(Config={"Env": "A=b"}),
        inspected(Config={"Env": [1]}),
    ],
)
def test_an_answer_that_makes_no_sense(false: FalseEngine, asked: tuple[Images, list[str]], answer: object) -> None:
    false.bodies["/json"] = answer
    with pytest.raises((SandboxUnavailable, SandboxFailed)) as caught:
        asked[0].prepare("gcc:14")
    assert caught.value.id in ("sandbox_garbled", "sandbox_failed")


def test_an_environment_that_no_process_can_have(false: FalseEngine, asked: tuple[Images, list[str]]) -> None:
    odd = ["A=1", "B=x\0y", "=x", "C", "D E=1", "LD\x1b=1", "F=\ud800", "A=2", "G=é\n"]
    false.bodies["/json"] = inspected(Config={"Env": odd})
    assert asked[0].environment(asked[0].prepare("gcc:14")) == {"A": "2", "C": "", "G": "é\n"}
    false.bodies["/json"] = inspected(Id=f"sha256:{'cd' * 32}", Config={"Env": ["A=1", "B=" + "x" * (1 << 20)]})
    assert asked[0].environment(asked[0].prepare("gcc:15")) == {"A": "1"}


def test_an_image_without_a_configuration(false: FalseEngine, asked: tuple[Images, list[str]]) -> None:
    false.bodies["/json"] = {"Id": "ab" * 32}  # as Podman has it
    assert asked[0].environment(asked[0].prepare("gcc:14")) == {}
    assert asked[0].digest("gcc:14") == DIGEST


def test_progress_that_makes_no_sense(false: FalseEngine, asked: tuple[Images, list[str]]) -> None:
    lines = [
        b"no JSON",
        b'{"status": 7}',
        b'{"status": "Downloading", "id": "a", "progressDetail": {"current": -5, "total": "x"}}',
        b'{"status": "Downloading", "id": "b", "progressDetail": {"current": 5, "total": 2}}',
        b"\xff\xfe\x00",
        b'{"status": "\\u001b[2J"}',
        b'{"status": "' + b"x" * 20_000 + b'"}',
        b"",
    ]
    false.bodies["/images/create"] = lambda: _then(false, {"/json": inspected()}, b"\r\n".join(lines))
    assert asked[0].prepare("gcc:14") == DIGEST
    assert all(line.isprintable() for line in asked[1])


def test_a_message_without_an_end(false: FalseEngine, asked: tuple[Images, list[str]]) -> None:
    false.bodies["/images/create"] = b'{"status": "' + b"x" * (3 << 20)
    with pytest.raises(SandboxFailed, match="message of more than"):
        asked[0].prepare("gcc:14")


def test_an_error_in_the_stream_is_safe_to_show(false: FalseEngine, asked: tuple[Images, list[str]]) -> None:
    false.bodies["/images/create"] = b'{"error": "manifest unknown \\u001b]0;title\\u0007' + b"x" * 9000 + b'"}\n'
    error = refused(asked[0], "gcc:14", "image_missing")
    assert str(error).isprintable()
    assert len(str(error)) < 500


def test_a_pull_that_brings_nothing(false: FalseEngine, asked: tuple[Images, list[str]]) -> None:
    false.bodies["/images/create"] = b'{"status": "done"}\n'
    with pytest.raises(SandboxFailed, match="and then that it is not"):
        asked[0].prepare("gcc:14")


def test_a_full_disk(false: FalseEngine, asked: tuple[Images, list[str]]) -> None:
    false.bodies["/images/create"] = b'{"error": "write /var/lib/docker/tmp/x: no space left on device"}\n'
    with pytest.raises(SandboxUnavailable) as caught:
        asked[0].prepare("gcc:14")
    assert caught.value.id == "sandbox_disk_full"


def _then(false: FalseEngine, changes: dict[str, Any], body: bytes) -> bytes:
    false.bodies.update(changes)
    return body


# --- words ---------------------------------------------------------------------------------------

REFUSALS = [
    ("manifest for gcc:99 not found: manifest unknown: manifest unknown", "image_missing"),
    ("pull access denied for x, repository does not exist or may require 'docker login': denied", "image_missing"),
    ('Head "https://ghcr.io/v2/a/b/manifests/1": unauthorized', "image_missing"),
    ("Get https://reg/v2/a/manifests/1: no basic auth credentials", "image_missing"),
    ('failed to resolve reference "docker.io/library/gcc:99": docker.io/library/gcc:99: not found', "image_missing"),
    (
        "initializing source docker://quay.io/a/b:1: reading manifest 1 in quay.io/a/b: manifest unknown",
        "image_missing",
    ),
    ("no matching manifest for linux/arm64/v8 in the manifest list entries", "image_arch"),
    ("no match for platform in manifest: not found", "image_arch"),
    ('Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: no such host', "sandbox_registry"),
    ('Get "https://registry-1.docker.io/v2/": net/http: TLS handshake timeout', "sandbox_registry"),
    ("toomanyrequests: You have reached your pull rate limit", "sandbox_registry"),
    ("received unexpected HTTP status: 503 Service Unavailable", "sandbox_registry"),
    ('Get "https://reg/v2/": x509: certificate signed by unknown authority', "sandbox_registry"),
    ("something that nobody has heard of", "sandbox_registry"),
]


@pytest.mark.parametrize(("said", "id"), REFUSALS)
def test_what_engines_say_of_a_pull(said: str, id: str) -> None:
    error: MinitangoError = failed(DockerEngine(Place("unix:///none", "the test")), "reg.example/gcc:99", said)
    assert error.id == id
    assert isinstance(error, SandboxUnavailable if id == "sandbox_registry" else ConfigError)
    assert said[:40] in str(error)


def test_progress_in_words() -> None:
    pull = _Pull("gcc:14")

    def after(status: str, layer: str, current: int | None = None, total: int | None = None) -> str:
        pull.add(Message(status=status, id=layer, progress=Progress(current, total)))
        return pull.text()

    assert pull.text() == "pulling gcc:14"
    assert after("Pulling fs layer", "a") == "pulling gcc:14"
    assert after("Downloading", "a", 10_000_000, 40_000_000) == "pulling gcc:14: 10 of 40 MB"
    assert after("Downloading", "b", 0, 80_000_000) == "pulling gcc:14: 10 of 120 MB"
    assert after("Download complete", "a") == "pulling gcc:14: 40 of 120 MB"
    assert after("Download complete", "b") == "pulling gcc:14"
    assert after("Extracting", "a", 5_000_000, 9_000_000) == "pulling gcc:14: unpacking 5.0 of 9.0 MB"


@pytest.mark.parametrize(
    "name",
    [
        *("gcc", "gcc:14", "python:3.12-slim", "ghcr.io/course/grader:2", "127.0.0.1:5000/a/b__c:1", "[::1]:5000/x"),
        *("localhost/x", "a.b/c--d", "Reg.example/x", "0" * 64, "sha256:" + "0" * 64),
        *("gcc@sha256:" + "a" * 64, "gcc:14@sha256:" + "a" * 64),
    ],
)
def test_names(name: str) -> None:
    assert image_name.problem(name) == ""


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "gcc:", "gcc 14", "gcc:14\n", "-gcc", "Gcc", "Course/x", "https://hub.docker.com/gcc", "a//b", "/a"),
        *("gcc:14:15", "gcc@14", "gcc;rm", "../x", "\x1b[2J", "x@sha256:abc", "é"),
        *(pytest.param(name, id=f"{len(name)} long") for name in ("gcc:" + "1" * 129, "a" * 256, "a" * 100_000)),
    ],
)
def test_names_of_nothing(name: str) -> None:
    assert image_name.problem(name)
    images = Images(DockerEngine(Place("unix:///none", "the test")), tell=print, default=name)
    error = refused(images, name, "image_name")
    assert str(error).isprintable()
    assert len(str(error)) < 300


def test_folders_and_registries() -> None:
    assert [image_name.is_folder(name) for name in ("docker/", "./docker", "gcc:14", "a/b")] == [
        True,
        True,
        False,
        False,
    ]
    registries = {
        "gcc:14": "",
        "course/x": "",
        "ghcr.io/a/b": "ghcr.io",
        "localhost/x": "localhost",
        "h:5000/x:1": "h:5000",
    }
    assert {name: image_name.registry(name) for name in registries} == registries
