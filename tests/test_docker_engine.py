"""The border to a Docker engine: which one is meant, and what becomes of whatever it may answer."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import gzip
import json
import os
import queue
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from minitango.errors import ConfigError, MinitangoError, SandboxFailed, SandboxUnavailable
from minitango.sandbox import _docker_http, _docker_place
from minitango.sandbox._docker_death import died
from minitango.sandbox._docker_engine import Engine, Missing, Refused
from minitango.sandbox._docker_place import Place, find, usual_sockets
from minitango.sandbox.docker import DockerSandbox
from tests import docker_engine
from tests.certificates import make
from tests.docker_engine import need_docker
from tests.docker_proxy import VERSION, Act, Proxy, Request, dribble, flood, hang, nothing_left, say, send
from tests.support import PATIENCE, eventually

HERE = docker_engine.url()
SHORT = 0.4
"""Seconds of patience with an engine that will never answer."""


@pytest.fixture(autouse=True)
def _no_engine_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))


# --- which engine is meant -------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["unix:///run/a.sock", "tcp://host:2375", "ssh://me@host:22", "https://[::1]:2376"])
def test_the_engine_of_docker_host(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", url)
    assert find() == Place(url, "DOCKER_HOST")


def test_a_url_goes_before_docker_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://other:2375")
    assert find("unix:///run/a.sock").url == "unix:///run/a.sock"


@pytest.mark.parametrize(
    "url",
    ["rubbish", "unix://", "tcp://", "tcp://:2375", "tcp://host:port", "tcp://host:99999", "ftp://host", "ssh://"],
)
def test_what_is_no_address(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", url)
    with pytest.raises(ConfigError, match=r"DOCKER_HOST: .* is no address of a Docker engine") as caught:
        find()
    assert caught.value.id == "docker_url"
    assert "tcp://host:2376" in caught.value.hint


@pytest.mark.parametrize(
    ("variables", "certificates", "verify"),
    [
        ({}, "", True),
        ({"DOCKER_CERT_PATH": "/certs"}, "/certs", False),
        ({"DOCKER_CERT_PATH": "/certs", "DOCKER_TLS_VERIFY": "1"}, "/certs", True),
        ({"DOCKER_TLS_VERIFY": "1"}, "CONFIG", True),
    ],
)
def test_certificates_are_found_as_docker_finds_them(
    variables: dict[str, str], certificates: str, verify: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for place in (find("tcp://host:2376"), _named(monkeypatch, "tcp://host:2376")):
        assert place.certificates == certificates.replace("CONFIG", str(tmp_path / "config"))
        assert place.verify == verify


def _named(monkeypatch: pytest.MonkeyPatch, url: str) -> Place:
    monkeypatch.setenv("DOCKER_HOST", url)
    return find()


@pytest.fixture
def contexts(tmp_path: Path) -> Path:
    """The settings of Docker's own client, with two contexts that it made."""
    if shutil.which("docker") is None:
        pytest.skip("the docker command is not installed (try: apt-get install docker-cli)")
    certificates = make(tmp_path / "certs")
    docker = ["docker", "--config", str(tmp_path / "config"), "context"]
    secure = f"host=tcp://host:2376,ca={certificates}/ca.pem,cert={certificates}/cert.pem,key={certificates}/key.pem"
    for command in (
        [*docker, "create", "near", "--docker", "host=unix:///run/near.sock"],
        [*docker, "create", "far", "--docker", f"{secure},skip-tls-verify=true"],
        [*docker, "use", "near"],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return tmp_path / "config"


def test_contexts(contexts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find() == Place("unix:///run/near.sock", "the context 'near'")
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    far = find()
    assert (far.url, far.said_by, far.verify) == ("tcp://host:2376", "the context 'far'", False)
    assert sorted(os.listdir(far.certificates)) == ["ca.pem", "cert.pem", "key.pem"]
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/other.sock")
    assert find().url == "unix:///run/other.sock"


def test_the_default_context_is_none(contexts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    monkeypatch.setattr(_docker_place, "usual_sockets", list)
    assert find() == Place("unix:///var/run/docker.sock", "Docker's default")


def test_a_context_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "no/such\nthing")
    with pytest.raises(ConfigError, match=r"Docker's context 'no/such\\nthing' cannot be read") as caught:
        find()
    assert caught.value.id == "docker_context"
    assert "docker context ls" in caught.value.hint


@pytest.mark.parametrize("meta", ["", "[]", "{}", '{"Endpoints": {"docker": null}}', '{"Endpoints": {"docker": {}}}'])
def test_a_context_that_makes_no_sense(meta: str, contexts: Path) -> None:
    for path in contexts.glob("contexts/meta/*/meta.json"):
        path.write_text(meta)
    with pytest.raises(ConfigError) as caught:
        find()
    assert caught.value.id == "docker_context"


@pytest.mark.parametrize("config", ["", "{}", '{"currentContext": null}', '{"currentContext": ""}'])
def test_settings_that_name_no_context(config: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text(config)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(tmp_path / "d.sock"))
        monkeypatch.setattr(_docker_place, "usual_sockets", lambda: [tmp_path / "none", tmp_path / "d.sock"])
        assert find() == Place(f"unix://{tmp_path}/d.sock", f"{tmp_path}/d.sock")


@pytest.mark.parametrize(
    "config", [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"currentContext": 3}', b"currentContext: a"]
)
def test_settings_that_cannot_be_read(config: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another context in them we would grade on another engine."""
    path = tmp_path / "config" / "config.json"
    path.parent.mkdir()
    path.write_bytes(config)
    with pytest.raises(ConfigError) as caught:
        find()
    assert caught.value.id == "docker_config"
    assert str(path) in caught.value.message
    monkeypatch.setenv("DOCKER_HOST", "tcp://host:2375")
    assert find().url == "tcp://host:2375"


def test_usual_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("HOME", "/home/ada")
    assert [str(path) for path in usual_sockets()] == [
        "/var/run/docker.sock",
        "/run/user/7/docker.sock",
        "/home/ada/.docker/run/docker.sock",
        "/home/ada/.docker/desktop/docker.sock",
        "/run/user/7/podman/podman.sock",
        "/run/podman/podman.sock",
    ]


def test_a_usual_socket_that_we_may_use_goes_before_one_that_we_may_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paths = [tmp_path / "roots.sock", tmp_path / "ours.sock"]
    monkeypatch.setattr(_docker_place, "usual_sockets", lambda: paths)
    with socket.socket(socket.AF_UNIX) as roots, socket.socket(socket.AF_UNIX) as ours:
        roots.bind(str(paths[0]))
        ours.bind(str(paths[1]))
        assert find().said_by == str(paths[0])
        monkeypatch.setattr(os, "access", lambda path, _: path == paths[1])
        assert find().said_by == str(paths[1])
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert find().said_by == str(paths[0])  # for its own words


def test_a_usual_socket_in_a_directory_that_is_not_for_us(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "podman").mkdir(mode=0o000)
    monkeypatch.setattr(_docker_place, "usual_sockets", lambda: [tmp_path / "podman/podman.sock"])

    def look() -> Place:
        if os.geteuid() == 0:
            ctypes.CDLL(None).setfsuid(65534)  # of this thread alone
        return find()

    with ThreadPoolExecutor(1) as other:
        assert other.submit(look).result(PATIENCE).said_by == "Docker's default"


# --- one that is not there, or not for us ----------------------------------------------------------


@pytest.fixture(params=["nothing", "a dead socket", "a port", "a name"])
def dead(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "d.sock"
    with contextlib.ExitStack() as stack:
        if request.param == "a port":
            taken = stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))  # and nobody listens
            yield f"tcp://127.0.0.1:{taken.getsockname()[1]}"
            return
        if request.param == "a name":
            yield "tcp://no-such-host.invalid:2375"
            return
        if request.param == "a dead socket":
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        yield f"unix://{path}"


def test_nobody_listens(dead: str) -> None:
    with nothing_left(), contextlib.closing(Engine(find(dead), patience=PATIENCE)) as engine:
        with pytest.raises(SandboxUnavailable, match="cannot be reached") as caught:
            engine.call(lambda api: api.ping(), again=True)
        assert caught.value.id == "sandbox_gone"
        assert "start Docker" in caught.value.hint


@pytest.mark.parametrize("kind", ["a file", "a folder"])
def test_what_is_no_socket(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "d.sock"
    path.mkdir() if kind == "a folder" else path.write_text("")
    with contextlib.closing(Engine(find(f"unix://{path}"))) as engine, pytest.raises(SandboxUnavailable) as caught:
        engine.call(lambda api: api.ping())
    assert caught.value.id == "sandbox_gone"
    assert str(caught.value).endswith("cannot be reached: that is no socket")
    assert "unix:///var/run/docker.sock" in caught.value.hint


def test_the_default_is_named_by_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_docker_place, "usual_sockets", list)
    with contextlib.closing(Engine(find())) as engine:
        path = "unix:///var/run/docker.sock"
        assert str(engine.gone()).startswith(f"the Docker engine at {path} (Docker's default) cannot be reached")


def test_podman_has_remedies_of_its_own(tmp_path: Path) -> None:
    with contextlib.closing(Engine(find(f"unix://{tmp_path}/podman.sock"))) as engine:
        with pytest.raises(SandboxUnavailable) as caught:
            engine.call(lambda api: api.ping())
        assert "systemctl --user start podman.socket" in caught.value.hint
        assert "podman/podman.sock" in engine.gone(PermissionError(13, "Permission denied")).hint


def test_permission_denied(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"

    def ask() -> str:
        if os.geteuid() == 0:
            ctypes.CDLL(None).setfsuid(65534)  # of this thread alone
        with contextlib.closing(Engine(find(f"unix://{path}"))) as engine, pytest.raises(SandboxUnavailable) as caught:
            engine.call(lambda api: api.ping())
        assert "Permission denied" in str(caught.value)
        return caught.value.hint

    with socket.socket(socket.AF_UNIX) as listening, ThreadPoolExecutor(1) as other:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0o000)
        assert "usermod -aG docker" in other.submit(ask).result(PATIENCE)


@pytest.mark.parametrize("known", [True, False], ids=["a stranger's", "none"])
def test_an_engine_that_does_not_take_our_certificate(known: bool, tmp_path: Path) -> None:
    """It says so after the handshake, in TLS 1.3."""
    right, wrong = make(tmp_path / "right"), make(tmp_path / "wrong")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(right / "cert.pem", right / "key.pem")
    context.load_verify_locations(right / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    shutil.copy(right / "ca.pem", wrong)
    if not known:
        (wrong / "cert.pem").unlink()

    def refuse(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(ssl.SSLError), context.wrap_socket(connection, server_side=True):
            pass

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as other:
        refusing = other.submit(refuse, server)
        place = Place(f"tcp://127.0.0.1:{server.getsockname()[1]}", "the test", str(wrong))
        with contextlib.closing(Engine(place)) as engine, pytest.raises(SandboxUnavailable) as caught:
            engine.call(lambda api: api.info())
        refusing.result(PATIENCE)
    assert caught.value.id == "sandbox_gone"
    assert caught.value.hint == f"look at ca.pem, cert.pem and key.pem in {wrong}"


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem"])
def test_certificates_that_are_none(name: str, tmp_path: Path) -> None:
    certificates = make(tmp_path / "certs")
    (certificates / name).write_text("rubbish")
    with (
        nothing_left(),
        contextlib.closing(Engine(Place("tcp://127.0.0.1:2376", "the test", str(certificates)))) as engine,
        pytest.raises(ConfigError, match=f"the test: the certificates in {certificates} cannot be used") as caught,
    ):
        engine.call(lambda api: api.info())
    assert caught.value.id == "docker_tls"
    assert "ca.pem, cert.pem and key.pem" in caught.value.hint


def test_an_engine_that_wants_tls() -> None:
    words = {"message": "Client sent an HTTP request to an HTTPS server."}
    with (
        Proxy("", (".*", say(400, words))) as proxy,
        contextlib.closing(Engine(Place(proxy.url, "the test"))) as engine,
        pytest.raises(SandboxUnavailable, match="HTTPS server") as caught,
    ):
        engine.call(lambda api: api.info())
    assert "DOCKER_TLS_VERIFY=1" in caught.value.hint


def test_what_ssh_has_against_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(
        "#!/bin/sh\nprintf '@@@@@\\r\\nBEWARE\\r\\nThe key changed.\\r\\nHost key verification failed.\\r\\n' >&2\n"
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with (
        nothing_left(),
        contextlib.closing(Engine(Place("ssh://ada@host:23", "the test"))) as engine,
        pytest.raises(SandboxUnavailable) as caught,
    ):
        engine.call(lambda api: api.info(), again=True)
    assert caught.value.id == "sandbox_gone"
    assert str(caught.value).endswith("reached: BEWARE; The key changed.; Host key verification failed.")
    assert caught.value.hint == "try: ssh -p 23 -l ada host docker version"


def test_a_machine_without_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        nothing_left(),
        contextlib.closing(Engine(Place("ssh://ada@host", "the test"))) as engine,
        pytest.raises(SandboxUnavailable, match="ssh is not installed") as caught,
    ):
        engine.call(lambda api: api.info())
    assert caught.value.id == "sandbox_ssh"
    assert "openssh-client" in caught.value.hint


# --- one that misbehaves ---------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n"
PACKED = gzip.compress(b"0" * 1000)

GARBLED: dict[str, Act] = {
    "no HTTP": send(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "no JSON": say(200, b"<html>welcome</html>"),
    "no UTF-8": say(200, b"\xff\xfe\xfd"),
    "deep": say(200, b"[" * 100_000),
    "an error that is no object": say(500, [1, 2]),
    "compressed": send(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(PACKED) + PACKED
    ),
    "elsewhere": send(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"),
    "many headers": send(OK + b"".join(b"A%d: b\r\n" % n for n in range(200)) + b"\r\n0123456789"),
    "a long header": send(OK + b"A: " + b"a" * 70_000 + b"\r\n\r\n0123456789"),
    "a bad length": send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
}
GONE: dict[str, Act] = {
    "nothing": send(b""),
    "half a header": send(b"HTTP/1.1 200 OK\r\nConte"),
    "a head alone": send(b"HTTP/1.1 200 OK\r\n\r\n"),
    "pieces without an end": send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n"),
    "half a body": send(OK + b"\r\n01234"),
    "half a piece": send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc"),
    "503": say(503, {"message": "starting"}),
    "502": say(502, b"Bad Gateway"),
}
HANGING: dict[str, Act] = {
    "nothing": hang,
    "a header a byte a time": dribble(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100),
    "a body a byte a time": dribble(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b" " * 1000),
    "pieces a byte a time": dribble(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 200),
    "half a body": lambda request: (send(OK + b"\r\n01234")(request), hang(request))[0],
}


@contextlib.contextmanager
def engine_that(act: Act, *, patience: float = PATIENCE) -> Iterator[Engine]:
    """One that says well what it is, and then does this."""
    rules = (("GET (/v[0-9.]+)?/version", say(200, VERSION)), (".*", act))
    with (
        nothing_left(),
        Proxy("", *rules) as proxy,
        contextlib.closing(Engine(Place(proxy.url, "the test"), patience=patience)) as engine,
    ):
        yield engine


@pytest.mark.parametrize("act", GARBLED.values(), ids=GARBLED)
def test_an_answer_that_is_none(act: Act) -> None:
    with engine_that(act) as engine, pytest.raises(SandboxUnavailable, match="as no Docker engine does") as caught:
        engine.call(lambda api: api.info(), again=True)
    assert caught.value.id == "sandbox_garbled"
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("act", GONE.values(), ids=GONE)
def test_an_answer_that_breaks_off(act: Act) -> None:
    with engine_that(act) as engine, pytest.raises(SandboxUnavailable, match="cannot be reached") as caught:
        engine.call(lambda api: api.info(), again=True)
    assert caught.value.id == "sandbox_gone"


@pytest.mark.parametrize("act", GONE.values(), ids=GONE)
def test_an_answer_that_breaks_off_while_something_else_is_handled(act: Act) -> None:
    with engine_that(act) as engine:
        try:
            raise queue.Empty
        except queue.Empty:  # as whoever waits for a stream does, before it asks
            with pytest.raises(SandboxUnavailable, match="cannot be reached") as caught:
                engine.call(lambda api: api.info())
    assert caught.value.id == "sandbox_gone"


@pytest.mark.parametrize("act", HANGING.values(), ids=HANGING)
def test_an_answer_that_does_not_end(act: Act) -> None:
    began = time.monotonic()
    with engine_that(act, patience=SHORT) as engine:
        with pytest.raises(SandboxUnavailable, match=rf"did not answer within {SHORT} s") as caught:
            engine.call(lambda api: api.info(), again=True)
        assert time.monotonic() - began < PATIENCE / 2
    assert caught.value.id == "sandbox_hangs"
    assert "restart Docker" in caught.value.hint


@pytest.mark.parametrize("when", ["under way", "later"])
def test_calls_that_must_be_over(when: str) -> None:
    with engine_that(hang, patience=10 * PATIENCE) as engine, ThreadPoolExecutor(1) as other:
        began = time.monotonic()
        if when == "under way":
            threading.Timer(0.3, engine.hurry, [0.1]).start()
        else:
            engine.hurry(0.1)
        with pytest.raises(SandboxUnavailable) as caught:
            other.submit(engine.call, lambda api: api.info()).result()
        assert caught.value.id == "sandbox_hangs"
        assert time.monotonic() - began < PATIENCE / 2


def test_a_first_word_that_never_comes() -> None:
    with (
        nothing_left(),
        Proxy("", (".*", hang)) as proxy,
        contextlib.closing(Engine(Place(proxy.url, "the test"), patience=SHORT)) as engine,
        pytest.raises(SandboxUnavailable) as caught,
    ):
        engine.call(lambda api: api.info())
    assert caught.value.id == "sandbox_hangs"


def test_an_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_docker_http, "MOST", 4 << 20)
    endless = flood(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536)
    with engine_that(endless) as engine, pytest.raises(SandboxUnavailable, match="more than 4194304 bytes") as caught:
        engine.call(lambda api: api.info())
    assert caught.value.id == "sandbox_garbled"


def test_what_the_engine_itself_will_not_do() -> None:
    with (
        engine_that(say(500, {"message": "no\nway \x1b[31m"})) as engine,
        pytest.raises(Refused, match=r"no\\nway \\x1b\[31m") as refused,
    ):
        engine.call(lambda api: api.info())
    assert (refused.value.status, refused.value.id) == (500, "sandbox_refused")
    with (
        engine_that(say(404, {"message": "No such container"})) as engine,
        pytest.raises(Missing, match="No such") as missing,
    ):
        engine.call(lambda api: api.info())
    assert missing.value.id == "sandbox_not_found"
    with (
        engine_that(say(500, {"message": "write /x: no space left on device"})) as engine,
        pytest.raises(SandboxUnavailable) as full,
    ):
        engine.call(lambda api: api.info())
    assert full.value.id == "sandbox_disk_full"


@pytest.mark.parametrize(
    ("version", "id"),
    [
        ({}, "sandbox_garbled"),
        ([], "sandbox_garbled"),
        ({"ApiVersion": None}, "sandbox_garbled"),
        ({"ApiVersion": "../../x"}, "sandbox_garbled"),
        ({"ApiVersion": "1.40"}, "sandbox_too_old"),
        ({"ApiVersion": "1.9"}, "sandbox_too_old"),
    ],
)
def test_an_engine_that_cannot_be_spoken_to(version: object, id: str) -> None:
    with (
        nothing_left(),
        Proxy("", (".*", say(200, version))) as proxy,
        contextlib.closing(Engine(Place(proxy.url, "the test"))) as engine,
        pytest.raises(MinitangoError) as caught,
    ):
        engine.call(lambda api: api.info())
    assert isinstance(caught.value, SandboxUnavailable)
    assert caught.value.id == id


def test_no_password_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `requests` would tell those of ~/.netrc."""
    (tmp_path / "netrc").write_text("default login ada password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    heads = []

    def note(request: Request) -> None:
        heads.append(request.head)
        say(200, {})(request)

    with engine_that(note) as engine:
        engine.call(lambda api: api.info())
    assert heads
    assert b"authorization" not in heads[0].lower()


def test_its_own_version_is_spoken() -> None:
    with (
        Proxy("", ("/version$", say(200, {"ApiVersion": "1.52"})), ("/v1.52/info", say(200, {"NCPU": 3}))) as proxy,
        contextlib.closing(Engine(Place(proxy.url, "the test"))) as engine,
    ):
        assert engine.call(lambda api: api.info()) == {"NCPU": 3}


def test_an_answer_of_another_shape() -> None:
    class Info(msgspec.Struct):
        cores: int = msgspec.field(name="NCPU")

    with engine_that(say(200, {"NCPU": 3})) as engine:
        assert engine.ask(lambda api: api.info(), Info) == Info(3)
    for body in ({}, [], {"NCPU": "many"}, None):
        with engine_that(say(200, body)) as engine, pytest.raises(SandboxUnavailable) as caught:
            engine.ask(lambda api: api.info(), Info)
        assert caught.value.id == "sandbox_garbled"


def test_a_kept_connection_that_died_is_made_again() -> None:
    body = json.dumps({"NCPU": 1}).encode()
    kept = send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    with engine_that(kept) as engine:
        for _ in range(3):  # each time it is closed without a word, right after the answer
            assert engine.call(lambda api: api.info(), again=True) == {"NCPU": 1}


def test_threads_do_not_share_a_connection_and_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", HERE)
    url = need_docker()
    with nothing_left(), contextlib.closing(Engine(Place(url, "the test"))) as engine:
        clients = []
        threads = [
            threading.Thread(target=lambda: clients.append(engine.call(lambda api: (api.ping(), api)[1])))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len({id(client) for client in clients}) == 8
        clients.clear()


def test_a_thread_takes_its_connection_with_it() -> None:
    body = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

    def answer(request: Request) -> None:
        request.client.sendall(body)
        hang(request)  # the connection is kept

    with engine_that(answer) as engine:
        engine.call(lambda api: api.info())
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(30):
            thread = threading.Thread(target=engine.call, args=(lambda api: api.info(),))
            thread.start()
            thread.join(PATIENCE)
        # the other end of each is closed by the thread that serves it
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= before, "descriptors are left")


def test_a_closed_engine_is_asked_nothing() -> None:
    with Proxy("", ("/version$", say(200, VERSION)), (".*", say(200, {}))) as proxy:
        engine = Engine(Place(proxy.url, "the test"))
        engine.call(lambda api: api.info())
        engine.close()
        engine.close()
        asked = len(proxy.seen)
        with pytest.raises(SandboxFailed, match="closed"):
            engine.call(lambda api: api.info())
        assert len(proxy.seen) == asked


@pytest.mark.parametrize("config", ["[]", '{"auths": 3}', '{"proxies": {"default": 3}}'])
def test_settings_that_make_no_sense(config: str, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text(config)
    with (
        Proxy("", (".*", say(200, VERSION))) as proxy,
        contextlib.closing(Engine(Place(proxy.url, "test"))) as engine,
        pytest.raises(ConfigError, match=f"Docker's settings in {tmp_path}/config cannot be used") as caught,
    ):
        engine.call(lambda api: api.version())
    assert (caught.value.id, caught.value.hint) == ("docker_config", "docker version")


@pytest.mark.parametrize("act", [*GARBLED.values(), say(500, {"message": "no"}), say(404, {"message": "no"})])
def test_a_sandbox_there_is_unavailable(act: Act, tmp_path: Path) -> None:
    """Whatever it is that does not work there: nobody is charged."""
    with (
        nothing_left(),
        Proxy("", ("/version", say(200, VERSION)), (".*", act)) as proxy,
        contextlib.closing(DockerSandbox(tmp_path, url=proxy.url, patience=PATIENCE)) as sandbox,
        pytest.raises(SandboxUnavailable),
    ):
        sandbox.probe()


@pytest.mark.parametrize(
    ("version", "info", "id"),
    [
        (VERSION, say(200, {"OSType": "windows"}), "sandbox_not_linux"),
        ({**VERSION, "Arch": "s390x"}, say(200, {}), "sandbox_machine"),
        (VERSION, say(500, {"message": "no"}), "sandbox_docker"),
        (VERSION, say(200, {}), "sandbox_docker"),  # and nothing else that is asked of it
    ],
)
def test_an_engine_that_gives_no_container(version: object, info: Act, id: str, tmp_path: Path) -> None:
    with (
        nothing_left(),
        Proxy("", ("/version", say(200, version)), ("/info", info), (".*", say(500, {"message": "no"}))) as proxy,
        contextlib.closing(DockerSandbox(tmp_path, url=proxy.url, patience=PATIENCE)) as sandbox,
        pytest.raises(SandboxUnavailable) as caught,
    ):
        sandbox.probe()
    assert caught.value.id == id
    assert caught.value.hint


STARTED = {"Action": "start"}


@pytest.mark.parametrize(
    ("events", "id"),
    [
        ([], "sandbox_lost"),  # it remembers nothing: it was restarted
        ([STARTED, {"Action": "stop"}], "sandbox_lost"),
        ([STARTED, {"Action": "die", "Actor": {"Attributes": {"exitCode": "143"}}}], "sandbox_lost"),
        ([STARTED, {"Action": "die", "Actor": {"Attributes": {"exitCode": "137"}}}], "box_killed"),
    ],
)
def test_who_ended_a_container(events: list[object], id: str) -> None:
    lines = [json.dumps(event).encode() + b"\n" for event in events]
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in [*lines, b""])
    rules = (
        ("/version$", say(200, VERSION)),
        ("/info", say(200, {"SystemTime": "2030-01-01T00:00:00.123456789Z"})),
        ("/events", send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces)),
    )
    with Proxy("", *rules) as proxy, contextlib.closing(Engine(Place(proxy.url, "the test"))) as engine:
        ended = died(engine, "minitango-1", "f" * 64)
    assert isinstance(ended, SandboxUnavailable if id == "sandbox_lost" else SandboxFailed)
    assert ended.id == id
