"""One delivery, to a real server that behaves, or does not."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from minitango import callbacks
from minitango.callbacks import Call, Verdict, body, headers
from minitango.job import Failure, Job, Notice, Outcome, Result, State, TestResult
from tests import certificates
from tests.receiver import OK, Receiver, Request, answer, hang, receiving

ROOT = Path(__file__).parent.parent
HERE = ("127.0.0.1",)
DATA = b'{"schema": 1}'


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def post(url: str, data: bytes = DATA, *, call: Call | None = None, allow: Any = HERE, secret: str = "") -> Verdict:
    tls = ssl.create_default_context()
    return (call or Call()).post(url, data, headers("0123456789", data, secret), allow, tls)


def test_what_is_sent(receiver: Receiver) -> None:
    assert post(receiver.url("/graded?course=1")) == Verdict()
    (request,) = receiver.requests
    assert request.line == "POST /graded?course=1 HTTP/1.1"
    assert request.body == DATA
    agent = request.headers.pop("user-agent")
    assert agent.startswith("minitango/0.")
    assert request.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "connection": "close",
        "content-length": str(len(DATA)),
        "accept": "*/*",
        "content-type": "application/json",
        "idempotency-key": "0123456789",
    }


def test_what_is_signed(receiver: Receiver) -> None:
    assert not post(receiver.url(), secret="hüsh").error
    expected = hmac.new("hüsh".encode(), DATA, hashlib.sha256).hexdigest()
    assert receiver.requests[0].headers["x-minitango-signature"] == f"sha256={expected}"


HIDDEN = TestResult("a\ud800", visibility="hidden")
RESULT = Result(Outcome.GRADED, 7.5, 10, tests=(HIDDEN,), warnings=(Notice("x", "y"),))
JOB = Job(
    "0123456789", 1, State.DONE, "hw1", "ada", "s", "i", course="cs1", title="é.py", attempt=1, outcome=Outcome.GRADED,
    labels={"section": "b", "origin": "/srv/hw1"}, score=7.5, max_score=10.0, wall=0.123456789, ended=5.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("job", "result"),
    [
        (JOB, RESULT),
        (Job("0123456789", 1, State.DEAD, "hw1", "ada", "s", "i", failure=Failure("poison", "it died")), None),
        (Job("0123456789", 1, State.CANCELLED, "hw1", "ada", "s", "i"), None),
    ],
)
def test_the_body_is_by_the_published_schema(job: Job, result: Result | None) -> None:
    told = json.loads(body(job, result))
    schema = json.loads((ROOT / "docs" / "schema" / "callback.json").read_text())
    jsonschema.validate(told, schema)
    assert set(told) == {"schema", "job"}
    assert set(told["job"]) == set(schema["$defs"]["ToldRecord"]["properties"])
    assert (told["schema"], told["job"]["id"], told["job"]["state"]) == (1, job.id, job.state)
    assert (told["job"]["result"] is None) == (result is None)


def test_the_body_has_what_was_submitted_and_the_whole_result() -> None:
    told = json.loads(body(JOB, RESULT))["job"]
    assert (told["course"], told["labels"], told["title"]) == ("cs1", {"section": "b"}, "é.py")
    assert told["result"]["tests"] == [{"name": "a\ud800", "visibility": "hidden"}]
    assert told["warnings"] == [{"id": "x", "message": "y"}]
    assert told["score"] == 7.5
    assert body(JOB, RESULT) == body(JOB, RESULT)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_what_counts_as_delivered(receiver: Receiver, status: int) -> None:
    receiver.behave = lambda connection, request: answer(status)
    assert post(receiver.url()) == Verdict()


LATER = [302, 303, 307, 304, 408, 425, 429, 500, 502, 503, 504, 599]
NEVER = [301, 308, 400, 401, 403, 404, 405, 410, 413, 422, 451]


@pytest.mark.parametrize("status", [*LATER, *NEVER])
def test_what_is_tried_again_and_what_is_not(receiver: Receiver, status: int) -> None:
    elsewhere = Receiver()
    receiver.behave = lambda connection, request: answer(status, f"Location: {elsewhere.url()}")
    verdict = post(receiver.url())
    elsewhere.close()
    assert (verdict.again, verdict.unreachable, verdict.asked) == (status in LATER, False, None)
    assert f"status {status}" in verdict.error
    assert (receiver.connections, elsewhere.connections) == (1, 0), "no redirect is followed"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0), (" 7 ", 7.0), ("0", 0.0), ("999999999999999999999", 999999999.0), ("-5", None), ("1.5", None),
        ("soon", None), ("", None), ("٣", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Wed, 99 Oct 9999", None),
    ],
)  # fmt: skip
def test_when_it_wants_to_be_asked_again(receiver: Receiver, value: str, seconds: float | None) -> None:
    receiver.behave = lambda connection, request: (
        f"HTTP/1.1 503 No\r\nContent-Length: 0\r\nRetry-After: {value}\r\n\r\n".encode()
    )
    assert post(receiver.url()).asked == seconds


def test_a_date_to_be_asked_again_at(receiver: Receiver) -> None:
    at = email.utils.formatdate(time.time() + 100, usegmt=True)
    receiver.behave = lambda connection, request: answer(429, f"Retry-After: {at}")
    asked = post(receiver.url()).asked
    assert asked is not None
    assert 80 < asked <= 100


# --- receivers that misbehave -------------------------------------------------------------------


def drip(connection: socket.socket, request: Request) -> None:
    """A byte now and then, for ever."""
    with contextlib.suppress(OSError):
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)


def going_on(connection: socket.socket, request: Request) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.01)


@pytest.mark.parametrize("behave", [hang, drip, going_on])
def test_who_takes_too_long(receiver: Receiver, behave: Any) -> None:
    receiver.behave = behave
    began = time.monotonic()
    verdict = post(receiver.url(), call=Call(0.4))
    assert time.monotonic() - began < 5, "it ends within its time, whatever comes"
    assert (verdict.again, verdict.unreachable) == (True, True)
    assert "did not answer within" in verdict.error


def test_who_reads_nothing(receiver: Receiver) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    verdict = post(f"http://127.0.0.1:{listener.getsockname()[1]}/", b"x" * (64 << 20), call=Call(0.4))
    listener.close()
    assert "did not answer within" in verdict.error


flooded = [0]


def flood(connection: socket.socket, request: Request) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            flooded[0] += connection.send(b"x" * 65536)


def half(connection: socket.socket, request: Request) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"


def slow_body(connection: socket.socket, request: Request) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    hang(connection, request)


def bad_chunks(connection: socket.socket, request: Request) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n"


@pytest.mark.parametrize("behave", [flood, half, slow_body, bad_chunks])
def test_the_rest_of_an_answer_decides_nothing(receiver: Receiver, behave: Any) -> None:
    receiver.behave = behave
    began = time.monotonic()
    assert post(receiver.url()) == Verdict()
    assert time.monotonic() - began < 10
    assert flooded[0] < 32 << 20, "it is not read to its end"


@pytest.mark.parametrize(
    "said",
    [
        b"", b"nonsense\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/1.1 200 " + b"x" * 70000, b"220 smtp.example\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000, b"HTTP/1.1 200 OK\r\n" + b"x" * 70000, b"\x16\x03\x01\x00\x00",
    ],
)  # fmt: skip
def test_what_is_no_answer(receiver: Receiver, said: bytes) -> None:
    receiver.behave = lambda connection, request: said
    verdict = post(receiver.url())
    assert verdict.again
    assert "gave no answer" in verdict.error
    assert verdict.error.isprintable()


def test_who_answers_before_all_was_sent() -> None:
    """And hangs up: the answer counts, where it is there to be read."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.sendall(answer(413))
        connection.close()  # with much unread: what is sent from now on is refused

    threading.Thread(target=serve, daemon=True).start()
    verdict = post(f"http://127.0.0.1:{listener.getsockname()[1]}/", b"x" * (8 << 20))
    listener.close()
    assert (verdict.again, "status 413" in verdict.error) == (False, True)


def test_who_is_not_there() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    verdict = post(f"http://127.0.0.1:{port}/secret?token=hush")
    assert (verdict.again, verdict.unreachable) == (True, True)
    assert "Connection refused" in verdict.error
    assert "hush" not in verdict.error, "what may be a secret is in no message"


def test_a_call_can_be_broken_off(receiver: Receiver) -> None:
    receiver.behave = hang
    call = Call()
    found: list[Verdict] = []
    thread = threading.Thread(target=lambda: found.append(post(receiver.url(), call=call)))
    thread.start()
    receiver.wait(1)
    call.break_off()
    thread.join(10)
    assert found[0].error
    before = receiver.connections
    assert post(receiver.url(), call=call).error, "and before it begins"
    assert receiver.connections == before


# --- addresses ----------------------------------------------------------------------------------


def resolves(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Have names lead to these addresses, one list at each look; returns the names that were looked up."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *args: Any, **more: Any) -> list[Any]:
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [
            (
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (one, port, 0, 0))
                if ":" in one
                else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
            )
            for one in found
        ]

    monkeypatch.setattr(callbacks.socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:7f00:1", "fe80::1%lo"])
def test_a_name_that_leads_to_a_private_address(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    resolves(monkeypatch, [address])
    verdict = post(f"http://rebind.example:{receiver.port}/")
    assert (verdict.again, verdict.unreachable) == (True, True), "the operator may allow it"
    assert verdict.error.endswith("unless the worker is started with --callback-allow rebind.example")
    assert receiver.connections == 0


def test_an_address_that_is_no_public_one_names_what_would_allow_it(receiver: Receiver) -> None:
    assert "for every worker: --callback-allow 10.1.2.3" in post("http://10.1.2.3/").error
    assert "--callback-allow localhost" in post(f"http://localhost:{receiver.port}/").error
    assert receiver.connections == 0


def test_a_name_is_looked_up_once(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it leads to a moment later is not asked: the address that was looked at is connected to."""
    monkeypatch.setattr(callbacks.callback_url, "refusal", lambda address: "" if str(address) == "127.0.0.1" else "bad")
    asked = resolves(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    assert not post(f"http://rebind.example:{receiver.port}/").error
    assert asked == ["rebind.example"]
    assert receiver.requests[0].headers["host"] == f"rebind.example:{receiver.port}"


def test_of_several_addresses_the_good_one_is_taken(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks.callback_url, "refusal", lambda address: "" if str(address) == "127.0.0.1" else "bad")
    resolves(monkeypatch, ["10.0.0.1", "::1", "127.0.0.1"])
    assert not post(f"http://several.example:{receiver.port}/").error


def test_a_host_that_is_named_may_be_anywhere(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    resolves(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    assert not post(f"http://lms.internal:{receiver.port}/", allow=("lms.internal",)).error
    assert post(f"http://other.internal:{receiver.port}/", allow=("lms.internal",)).error


def test_a_private_address_by_itself(receiver: Receiver) -> None:
    verdict = post(receiver.url(), allow=())
    assert "a loopback address" in verdict.error
    assert (verdict.again, receiver.connections) == (True, 0)


def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*args: Any, **more: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(callbacks.socket, "getaddrinfo", getaddrinfo)
    verdict = post("https://nowhere.example/")
    assert (verdict.again, verdict.error) == (
        True, "https://nowhere.example cannot be reached: Name or service not known"
    )  # fmt: skip


def test_no_proxy_is_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert not post(receiver.url()).error


# --- TLS ----------------------------------------------------------------------------------------


def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = certificates.make(tmp_path / "tls")
    with receiving(certificates=made) as receiver:
        stranger = post(receiver.url())
        assert (stranger.again, receiver.requests) == (True, [])
        assert "its certificate is not good" in stranger.error
        monkeypatch.setenv("SSL_CERT_FILE", str(made / "ca.pem"))
        assert post(receiver.url()) == Verdict()
        resolves(monkeypatch, ["127.0.0.1"])
        misled = post(f"https://lms.example:{receiver.port}/", allow=("lms.example",))
        assert "its certificate is not good: Hostname mismatch" in misled.error
        assert len(receiver.requests) == 1


def test_tls_that_is_none_and_the_other_way_round(receiver: Receiver, tmp_path: Path) -> None:
    assert "cannot be reached" in post(receiver.url().replace("http:", "https:"), call=Call(1.0)).error
    with receiving(certificates=certificates.make(tmp_path / "tls")) as secure:
        verdict = post(secure.url().replace("https:", "http:"))
        assert verdict.again
        assert verdict.error


def test_a_handshake_that_does_not_end() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    began = time.monotonic()
    verdict = post(f"https://127.0.0.1:{listener.getsockname()[1]}/", call=Call(0.3))
    listener.close()
    assert time.monotonic() - began < 5
    assert verdict.unreachable


def test_the_answer_may_come_in_pieces(receiver: Receiver) -> None:
    def behave(connection: socket.socket, request: Request) -> None:
        for at in range(0, len(OK), 5):
            connection.sendall(OK[at : at + 5])

    receiver.behave = behave
    assert post(receiver.url()) == Verdict()
