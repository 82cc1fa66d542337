"""What Prometheus is told: by a real engine, scraped by HTTP and read by Prometheus' own parser."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minitango import ConfigError, Engine, SandboxUnavailable, StoreError
from minitango.cli.worker import address
from minitango.job import State
from minitango.metrics import Metrics
from minitango.sandbox import End
from minitango.store import Node
from minitango.testing import FakeRun
from tests import redis_server
from tests.support import assignment, eventually, open_engine, scoring, submission

prometheus = pytest.importorskip("prometheus_client.parser")


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Any]:
    """Opens an engine that is measured, and returns it with its metrics' address."""
    opened: list[tuple[Engine, Metrics]] = []

    def serve(inside: Any, **options: Any) -> tuple[Engine, str]:
        engine = open_engine(tmp_path, inside, paused=True, **options)
        made = Metrics(engine)
        opened.append((engine, made))
        engine.subscribe(made.hear)
        engine.on_box = made.box_opened
        url = made.serve("127.0.0.1", 0)
        engine.resume()
        return engine, url

    yield serve
    for engine, made in opened:
        made.close()
        made.close()
        engine.stop(grace=0)


def scraped(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for family in prometheus.text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_what_is_counted(serving: Any) -> None:
    def inside(run: FakeRun) -> End:
        text = run.files.get("/submission/answer.py")
        if text is not None and b"slow" in text.data:
            return End(exit_status=None, limit="wall", signal=9)
        return scoring(7)(run)

    engine, url = serving(inside)
    before = scraped(url)
    assert before["minitango_outcomes_total{outcome=graded}"] == 0, "it is there from the beginning"
    handles = [engine.submit(submission(name)) for name in ("ada", "bob", "eve")]
    for handle in handles:
        handle.result(20)
    eventually(lambda: scraped(url)["minitango_outcomes_total{outcome=graded}"] == 3, "not counted")
    now = scraped(url)
    assert now["minitango_jobs{state=done}"] == 3
    assert now["minitango_jobs{state=queued}"] == 0
    assert now["minitango_wait_seconds_count"] == now["minitango_run_seconds_count"] == 3
    assert now["minitango_sandbox_start_seconds_count"] == 3
    assert now["minitango_run_seconds_sum"] < 60
    assert now["minitango_nodes{state=ready}"] == 1
    assert now["minitango_slots"] == 2
    assert now["minitango_store_up"] == 1
    assert now[f"minitango_engine_info{{node={engine.node},sandbox=fake,version={version()}}}"] == 1
    assert not any("ada" in name for name in now), "no student is named"


def test_nodes_are_counted_as_they_are_shown(tmp_path: Path) -> None:
    redis_server.need_redis()
    generate_latest = pytest.importorskip("prometheus_client").generate_latest
    store = redis_server.shared().url("counted")
    with Engine.open(store, state=tmp_path, workers=0) as engine:
        made = Metrics(engine)
        now = engine.store.now()
        for n, (name, silent) in enumerate((("a", 0), ("b", 12), ("c", 12), ("d", 60))):
            engine.store.beat(Node(name, str(n), good_for=30.0), now=now - silent)
        engine.store.beat(Node("e", "5", good_for=30.0), now=now)
        for name in ("c", "e"):
            engine.store.drain(name)
        text = generate_latest(made._registry).decode()
    found = dict(re.findall(r'minitango_nodes\{state="(\w+)"\} (\d)', text))
    assert found == {"ready": "1", "draining": "1", "overdue": "2", "lost": "1"}


def version() -> str:
    from minitango import __version__

    return __version__


def test_what_goes_wrong_is_counted(serving: Any) -> None:
    failures = [SandboxUnavailable("gone", id="sandbox_gone")]

    def inside(run: FakeRun) -> End:
        if failures:
            raise failures.pop()
        return scoring(7)(run)

    engine, url = serving(inside)
    engine.submit(submission("ada")).result(20)
    engine.pause()
    waiting = engine.submit(submission("bob", of=assignment("other")))
    assert scraped(url)["minitango_jobs{state=queued}"] == 1
    engine.cancel(waiting.id)
    now = scraped(url)
    assert now["minitango_retries_total{why=failed}"] == 1
    assert now["minitango_jobs{state=cancelled}"] == 1
    assert now["minitango_dead_total"] == 0


def test_a_store_that_is_away(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, url = serving(scoring(7))

    def away() -> dict[State, int]:
        raise StoreError("away", id="store_unreachable")

    monkeypatch.setattr(engine.store, "counts", away)
    now = scraped(url)
    assert now["minitango_store_up"] == 0
    assert "minitango_jobs{state=queued}" not in now


def asked(url: str, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()


def test_there_is_nothing_but_metrics(serving: Any) -> None:
    _, url = serving(scoring(7))
    for path in ("/nope", "/metrics/", "/metrics/x", "/favicon.ico", "/METRICS"):
        assert asked(url, path)[0] == 404, path
    status, headers, body = asked(url, "/metrics?name[]=minitango_dead_total")
    assert (status, headers["Content-Length"]) == (200, str(len(body)))
    assert b"minitango_dead_total 0.0" in body
    assert b"minitango_cancelled" not in body, "only what was asked for"
    status, headers, body = asked(url, "/")
    assert (status, body) == (200, b"minitango: metrics for Prometheus are at /metrics\n")
    for path in ("/metrics", "/"):
        status, headers, body = asked(url, path, "HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["Content-Length"]) > 0
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"):
            status, headers, _ = asked(url, path, method)
            assert (status, headers["Allow"]) == (405, "GET, HEAD"), method


def test_what_is_no_request_is_nobodys_news(serving: Any, capfd: pytest.CaptureFixture[str]) -> None:
    _, url = serving(scoring(7))
    host, _, port = url.split("/")[2].rpartition(":")
    for sent in (b"", b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET /metrics HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
    assert scraped(url)
    assert capfd.readouterr().err == ""


def test_nobody_answers_after_the_end(serving: Any) -> None:
    engine, url = serving(scoring(7))
    made = Metrics(engine)
    other = made.serve("127.0.0.1", 0)
    made.close()
    with pytest.raises(OSError):
        urllib.request.urlopen(other, timeout=5)
    assert scraped(url)


def test_an_address_that_cannot_be_had(serving: Any) -> None:
    engine, _ = serving(scoring(7))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError) as caught:
            Metrics(engine).serve("127.0.0.1", taken.getsockname()[1])
    assert caught.value.id == "metrics"


def test_without_the_package(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = serving(scoring(7))
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError) as caught:
        Metrics(engine)
    assert (caught.value.id, caught.value.hint) == ("metrics_missing", "pip install 'minitango[metrics]'")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:1", ("::1", 1)),
        (None, None),
    ],
)
def test_where(text: str | None, meant: Any) -> None:
    """Nobody but this machine is answered unless that is said."""
    assert address(text) == meant


@pytest.mark.parametrize("text", ["", "host", "host:", "1:99999", "1:²"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        address(text)
    assert caught.value.id == "metrics"
