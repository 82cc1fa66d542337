"""TLS to a Redis server, and what is no Redis at all: each mistake has its own words and its next step."""

from __future__ import annotations

import contextlib
import shlex
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from minitango.doctor import Patient, shared
from minitango.errors import StoreError
from minitango.job import Finish, JobSpec, Outcome, Result, State
from minitango.store import _redis_tls, open_store
from minitango.store._redis_clients import Brief
from minitango.store._redis_clients import made as made_clients
from minitango.store._redis_url import parse
from minitango.store.redis import RedisStore
from tests import certificates, redis_server
from tests.redis_server import Server, secret
from tests.redis_several import Cluster, Watched

RESULT = Result(Outcome.GRADED, 1.0, 1.0)


def spec(student: str = "ada") -> JobSpec:
    return JobSpec("hw", student, "s" * 64, "i" * 64)


def refused(url: str, id: str = "redis_tls") -> StoreError:
    begun = time.monotonic()
    with pytest.raises(StoreError) as caught:
        open_store(url)
    assert caught.value.id == id, str(caught.value)
    assert caught.value.hint
    assert time.monotonic() - begun < 4, "people wait for it"
    return caught.value


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    redis_server.need_redis()
    return certificates.make(tmp_path_factory.mktemp("tls") / "made")


@pytest.fixture(scope="module")
def server(made: Path) -> Iterator[Server]:
    """Speaks TLS alone on its port."""
    started = Server(**secret(made))
    yield started
    started.remove()


@pytest.fixture(scope="module")
def strict(made: Path) -> Iterator[Server]:
    """Wants certificates of its clients."""
    started = Server(**secret(made, "yes"))
    yield started
    started.remove()


def url_of(server: Server, **files: Path) -> str:
    asked = "&".join(f"{name}={quote(str(file), safe='')}" for name, file in files.items())
    return f"rediss://127.0.0.1:{server.port}/0" + (f"?{asked}" if asked else "")


def grades(url: str) -> None:
    """A queue that is submitted to, claimed from and recorded in."""
    store = RedisStore(url)
    store.submit([spec()])
    (lease,) = store.exchange(claim=1).leases
    assert store.exchange([Finish(lease, RESULT)]).settled[0].state is State.DONE
    store.close()


def test_a_server_that_speaks_tls(server: Server, strict: Server, made: Path) -> None:
    grades(url_of(server, ssl_ca_certs=made / "ca.pem"))
    own = {"ssl_certfile": made / "cert.pem", "ssl_keyfile": made / "key.pem"}
    grades(url_of(strict, ssl_ca_certs=made / "ca.pem", **own))


def test_sentinels_and_their_servers_speak_tls(made: Path) -> None:
    watched = Watched(tls=secret(made))
    try:
        grades(watched.url(more=f"ssl_ca_certs={made / 'ca.pem'}"))
        error = refused(watched.url())
        assert "signed by nobody" in str(error)
        plain = refused(watched.url(more="").replace("rediss", "redis"))
        assert "write rediss+sentinel:// for redis+sentinel://" in plain.hint
    finally:
        watched.remove()


def test_a_cluster_speaks_tls(made: Path) -> None:
    cluster = Cluster(tls_cluster="yes", **secret(made))
    try:
        url = cluster.url(more=f"ssl_ca_certs={made / 'ca.pem'}").replace("redis+", "rediss+")
        for queue in ("a", "b", "c"):
            grades(f"{url}&queue={queue}")
    finally:
        cluster.remove()


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_file_that_is_missing_is_told_before_anybody_is_asked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*words: object, **more: object) -> None:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(socket.socket, "connect", asked)
    missing = tmp_path / "not here.pem"
    error = refused(f"rediss://127.0.0.1:1/0?{name}={quote(str(missing), safe='')}")
    assert str(missing) in str(error)
    assert name in str(error)
    assert error.hint.endswith(f"ls -l {shlex.quote(str(missing))}")
    check = next(iter(shared.look(Patient(f"rediss://h?{name}={quote(str(missing), safe='')}", tmp_path))))
    assert (check.verdict, check.facts["error"]) == ("failed", "redis_tls")


def test_files_that_are_not_what_they_are_to_be(made: Path, tmp_path: Path) -> None:
    other = certificates.make(tmp_path / "other")
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("no certificate")
    locked = tmp_path / "locked.pem"
    words = ["openssl", "pkey", "-in", str(made / "key.pem"), "-aes256", "-passout", "pass:x", "-out", str(locked)]
    certificates.run(*words)
    ca, cert, key = made / "ca.pem", made / "cert.pem", made / "key.pem"
    for files, said in [
        ({"ssl_ca_certs": rubbish}, "holds no certificate"),
        ({"ssl_ca_certs": tmp_path}, "cannot be read"),
        ({"ssl_ca_certs": ca, "ssl_keyfile": key}, "no ssl_certfile"),
        ({"ssl_ca_certs": ca, "ssl_certfile": cert}, "without an ssl_keyfile"),
        ({"ssl_certfile": cert, "ssl_keyfile": other / "key.pem"}, "cannot be used"),
        ({"ssl_certfile": cert, "ssl_keyfile": locked}, "cannot be used"),
        ({"ssl_certfile": rubbish, "ssl_keyfile": rubbish}, "cannot be used"),
    ]:
        asked = "&".join(f"{name}={quote(str(file), safe='')}" for name, file in files.items())
        error = refused(f"rediss://127.0.0.1:1/0?{asked}")
        assert said in str(error), files


def test_files_that_went_while_it_ran(server: Server, made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "ca.pem"
    copy.write_bytes((made / "ca.pem").read_bytes())
    store = RedisStore(url_of(server, ssl_ca_certs=copy))
    copy.unlink()
    store._link._way.clients().quick.connection_pool.disconnect()
    with pytest.raises(StoreError) as caught:
        store.counts()
    assert caught.value.id == "redis_tls"
    assert str(copy) in str(caught.value)
    store.close()


def test_who_speaks_no_tls_and_who_speaks_nothing_else(server: Server, made: Path, tmp_path: Path) -> None:
    plain = redis_server.shared()
    error = refused(f"rediss://127.0.0.1:{plain.port}/0")
    assert "speaks no TLS" in str(error)
    assert "write redis:// for rediss://" in error.hint
    error = refused(f"redis://127.0.0.1:{server.port}/0")
    assert "speaks TLS alone" in str(error)
    assert "write rediss:// for redis://" in error.hint
    error = refused(f"rediss+cluster://127.0.0.1:{plain.port}")
    assert "write redis+cluster:// for rediss+cluster://" in error.hint


def test_a_certificate_that_is_not_to_be_trusted(server: Server, made: Path, tmp_path: Path) -> None:
    error = refused(url_of(server))
    assert "signed by nobody who is known here" in str(error)
    assert "ssl_ca_certs=" in error.hint
    wrong = certificates.make(tmp_path / "wrong")
    error = refused(url_of(server, ssl_ca_certs=wrong / "ca.pem"))
    assert f"nor in {wrong / 'ca.pem'}" in str(error)
    for about, said, hint in [
        ({"name": "DNS:redis.example.edu"}, "is for another name", "subjectAltName"),
        ({"days": -1}, "has expired", "-dates"),
    ]:
        folder = certificates.make(tmp_path / said.replace(" ", "-"), **about)  # type: ignore[arg-type]
        other = Server(**secret(folder))
        try:
            error = refused(url_of(other, ssl_ca_certs=folder / "ca.pem"))
        finally:
            other.remove()
        assert said in str(error)
        assert f"-connect 127.0.0.1:{other.port} " in error.hint
        assert hint in error.hint


def test_what_a_certificate_is_wrong_by() -> None:
    place = parse("rediss://h")
    for code, said in [(9, "is of the future"), (23, "is not to be trusted: revoked")]:
        wrong = ssl.SSLCertVerificationError(1, "no")
        wrong.verify_code, wrong.verify_message = code, "revoked"
        error = _redis_tls.trouble(wrong, place)
        assert error is not None
        assert said in str(error)
    assert _redis_tls.trouble(ConnectionResetError(), place) is None


def test_a_server_that_wants_a_certificate_of_ours(strict: Server, made: Path, tmp_path: Path) -> None:
    error = refused(url_of(strict, ssl_ca_certs=made / "ca.pem"))
    assert "wants a certificate of ours" in str(error)
    assert "ssl_certfile=" in error.hint
    other = certificates.make(tmp_path / "other")
    mine = {"ssl_certfile": other / "cert.pem", "ssl_keyfile": other / "key.pem"}
    error = refused(url_of(strict, ssl_ca_certs=made / "ca.pem", **mine))
    assert f"does not take our certificate {other / 'cert.pem'}" in str(error)
    assert "-issuer" in error.hint


# --- what is no Redis -------------------------------------------------------------------------------


@contextlib.contextmanager
def says(first: bytes, answer: bytes | None, unix: Path | None = None) -> Iterator[int]:
    """Something that says this to whoever comes, and answers everything so; None: it hangs up. Its port."""
    listening = socket.create_server(("127.0.0.1", 0)) if unix is None else socket.socket(socket.AF_UNIX)
    if unix is not None:
        listening.bind(str(unix))
        listening.listen()

    def serve(line: socket.socket) -> None:
        with contextlib.suppress(OSError), line:
            line.sendall(first)
            while heard := line.recv(1 << 16):
                if answer is None:
                    return
                line.sendall(answer * max(1, heard.count(b"*")))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1] if unix is None else 0
    finally:
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()


@pytest.mark.parametrize(
    ("first", "answer", "what"),
    [
        (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", "an HTTP server"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", b"", "an ssh server"),
        (b"", b"+OK\r\n", "takes whatever it is told"),
        (b"220 mail.example.edu\r\n", b"500 what?\r\n", r"220 mail.example.edu\r\n"),
        (b"", None, "hangs up"),
        (b"\x1b[2Jgo away\n", b"", r"\x1b[2Jgo away"),
    ],
)
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_what_is_no_redis_is_told_so(first: bytes, answer: bytes | None, what: str, scheme: str) -> None:
    with says(first, answer) as port:
        error = refused(f"{scheme}://127.0.0.1:{port}/0", "redis_kind")
    assert f"what answers at 127.0.0.1:{port}" in str(error).replace("rediss://", "").replace("redis://", "")
    assert "is no Redis" in str(error)
    if scheme == "redis" or b"+OK" not in (answer or b""):
        assert what in str(error)
    assert "\x1b" not in str(error)
    assert "redis-cli" in error.hint


def test_what_is_no_redis_behind_a_socket_or_among_several(tmp_path: Path) -> None:
    with says(b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", tmp_path / "s"):
        error = refused(f"unix://{tmp_path / 's'}", "redis_kind")
        assert f"at {tmp_path / 's'} is no Redis, but an HTTP server" in str(error)
    with says(b"", b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        for url in (f"redis+sentinel://127.0.0.1:{port}/mine", f"redis+cluster://127.0.0.1:{port}"):
            assert "an HTTP server" in str(refused(url, "redis_kind"))


def test_what_says_nothing_may_be_one_that_hangs() -> None:
    with says(b"", b"") as port:
        error = refused(f"redis://127.0.0.1:{port}/0", "store_unreachable")
    assert "says nothing: a Redis that hangs, or none" in str(error)
    own = Server()
    own.freeze()
    try:
        assert "says nothing" in str(refused(own.url(tcp=True), "store_unreachable"))
        assert "says nothing" in str(refused(own.url(), "store_unreachable"))
    finally:
        own.thaw()
        own.remove()


def test_a_url_in_a_hint_is_as_a_shell_takes_it() -> None:
    for url, typed in [
        ("redis://u:secret@h:7/3?queue=a&replicas=1", "redis-cli -u redis://u@h:7/3 ping"),
        ("redis://h?db=3", "redis-cli -u redis://h -n 3 ping"),
        ("redis://a%20b:secret@h", "redis-cli -u redis://a%20b@h ping"),
        ("unix:///run/a;b.sock?db=2", "redis-cli -s '/run/a;b.sock' -n 2 ping"),
        ("rediss://h/0?ssl_ca_certs=%2Fa%20b%2Fca.pem", "redis-cli -u rediss://h/0 --cacert '/a b/ca.pem' ping"),
        (
            "rediss+sentinel://h/mine?ssl_certfile=c&ssl_keyfile=k",
            "redis-cli -h h -p 26379 --tls --cert c --key k sentinel master mine",
        ),
    ]:
        assert parse(url).look == typed


def test_names_are_verified_with_every_redis_py() -> None:
    """Up to redis-py 5 they are not, unless that is asked for."""
    place = parse("rediss://127.0.0.1:1")
    clients = made_clients(place, place.server)
    for client in (clients.quick, clients.steady):
        assert client.connection_pool.connection_kwargs["ssl_check_hostname"] is True
    with Brief(place.server, 1.0) as client:
        assert client.connection_pool.connection_kwargs["ssl_check_hostname"] is True
