"""What `doctor` says of a queue on a Redis server: each verdict, on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from minitango.doctor import Check, Patient, shared
from minitango.job import JobSpec
from minitango.store import Node, open_blobs
from minitango.store.health import ServerHealth, inspect_server
from minitango.store.redis import RedisStore
from tests import redis_server
from tests.redis_server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    redis_server.need_redis()
    made = Server()
    yield made
    made.remove()


def look(server: Server, tmp_path: Path) -> dict[str, Check]:
    return {check.name: check for check in shared.look(Patient(server.url(), tmp_path, flags=" --store URL"))}


def test_a_good_server(server: Server, tmp_path: Path) -> None:
    store = RedisStore(server.url())
    store.beat(Node("n1", "i", slots=4))
    found = look(server, tmp_path)
    assert {name: check.verdict for name, check in found.items()} == dict.fromkeys(
        ["store", "files", "clock", "engine", "jobs"], "ok"
    )
    assert "Redis 7" in found["store"].text or "Redis 6" in found["store"].text or "Redis 8" in found["store"].text
    assert found["engine"].text == "1 node grades, 4 jobs at once"
    assert found["store"].facts["appends"] is True
    store.close()


def test_files_that_are_elsewhere(server: Server, tmp_path: Path) -> None:
    store = RedisStore(server.url())
    digest = open_blobs(store, tmp_path, tmp_path / "nfs").put(b"x")
    store.submit([JobSpec("hw", "ada", digest, digest)])
    store.close()
    patient = Patient(server.url(), tmp_path, blobs=tmp_path / "nfs")
    for blobs, verdict in ((tmp_path / "nfs", "ok"), (tmp_path / "typo", "failed"), (None, "failed")):
        found = {check.name: check for check in shared.look(structs.replace(patient, blobs=blobs))}["files"]
        assert (found.verdict, found.facts.get("error", "")) == (verdict, "" if verdict == "ok" else "blobs_differ")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"appendonly": "no"}, "appendonly yes"),
        ({"appendfsync": "no"}, "appendfsync everysec"),
        ({"maxmemory": "1gb", "maxmemory-policy": "volatile-ttl"}, "noeviction"),
    ],
)
def test_a_server_that_may_lose_things(server: Server, tmp_path: Path, settings: dict[str, str], word: str) -> None:
    for name, value in settings.items():
        server.client().config_set(name, value)
    check = look(server, tmp_path)["store"]
    assert check.verdict == "warning"
    assert word in check.next


def test_a_server_that_is_away(server: Server, tmp_path: Path) -> None:
    server.kill()
    (check,) = look(server, tmp_path).values()
    assert (check.name, check.verdict) == ("store", "failed")
    assert check.facts["error"] == "store_unreachable"


def test_a_replica(server: Server, tmp_path: Path) -> None:
    server.client().replicaof("127.0.0.1", str(redis_server.free_port()))
    (check,) = look(server, tmp_path).values()
    assert (check.name, check.verdict) == ("store", "failed")
    assert check.facts["error"] == "redis_replica"
    assert "name its master: --store redis://127.0.0.1:" in check.next


def test_nodes_and_what_waits_for_none(server: Server, tmp_path: Path) -> None:
    store = RedisStore(server.url())
    store.submit([JobSpec("hw", "ada", "s", "i")])
    assert look(server, tmp_path)["engine"].next == "minitango worker --store URL"
    store.submit([JobSpec("cuda", "ada", "s", "i", lane="gpu")])
    check = look(server, tmp_path)["engine"]
    assert (check.verdict, check.next) == ("warning", "minitango worker --store URL --capability gpu")
    store.beat(Node("n1", "i"))
    check = look(server, tmp_path)["engine"]
    assert "1 node grades, 1 job at once; 1 job needs a node that offers gpu" in check.text
    assert check.next == "minitango worker --store URL --capability gpu"
    store.drain("n1")
    assert look(server, tmp_path)["engine"].next == "minitango nodes resume n1"
    store.drain("n1", False)
    store.beat(Node("n2", "i", capabilities=("gpu",)))
    assert look(server, tmp_path)["engine"].verdict == "ok"
    store.beat(Node("n4", "i", good_for=30.0), now=store.now() - 12)
    check = look(server, tmp_path)["engine"]
    assert (check.verdict, "; overdue, perhaps dead: n4, not heard of for 1" in check.text) == ("warning", True)
    store.leave("n4")
    store.beat(Node("n3", "i", good_for=0))
    check = look(server, tmp_path)["engine"]
    assert "lost: n3" in check.text
    assert check.next.endswith("nodes forget n3")
    store.close()


def test_a_clock_that_is_off_and_a_slow_answer(server: Server) -> None:
    health = inspect_server(server.url())
    assert abs(health.ahead) < 5
    assert shared._clock(structs.replace(health, ahead=-3600.0)).verdict == "warning"
    assert shared._store(structs.replace(health, latency=0.5)).verdict == "warning"
    assert "prune" in shared._store(structs.replace(health, memory=90, max_memory=100)).next
    assert isinstance(health, ServerHealth)
