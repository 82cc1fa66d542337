"""What only the Redis store has: a server that may be away, slow, full, careless or somebody else's."""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import msgpack, structs

from minitango.errors import ConfigError, MinitangoError, StoreError, StoreFull, StoreTooNew
from minitango.events import Event
from minitango.job import SOLO_AFTER, Fail, Failure, Finish, JobSpec, Outcome, Release, Result, State, work_key
from minitango.leases import REAP
from minitango.statedir import locate
from minitango.store import Node, Query, _redis_ears, _redis_link, _redis_look, open_store, shown
from minitango.store import redis as redis_module
from minitango.store._brought import MOST_BROUGHT
from minitango.store._redis_look import a_replica
from minitango.store._redis_rows import exchanged_of
from minitango.store._redis_url import parse
from minitango.store.health import inspect_server
from minitango.store.portable import Post
from minitango.store.redis import RedisStore
from tests import redis_server
from tests.redis_server import Server
from tests.support import PATIENCE, Gate, eventually, open_engine, scoring, submission

RESULT = Result(Outcome.GRADED, 1.0, 1.0)
NODE = Node("n", "i")
IMAGE = Failure("sandbox_registry", "the image cannot be pulled now")


def spec(student: str = "ada", **more: Any) -> JobSpec:
    return JobSpec("hw", student, "s" * 64, "i" * 64, **more)


@pytest.fixture
def server() -> Server:
    redis_server.need_redis()
    shared = redis_server.shared()
    shared.client().flushall()
    return shared


@pytest.fixture
def store(server: Server) -> Iterator[RedisStore]:
    opened = RedisStore(server.url())
    yield opened
    opened.close()


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that this test may hurt."""
    redis_server.need_redis()
    made = Server()
    yield made
    made.remove()


def refused(action: Any) -> StoreError:
    with pytest.raises(StoreError) as caught:
        action()
    assert caught.value.hint
    return caught.value


def refused_config(action: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        action()
    return caught.value


# --- URLs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "server", "queue"),
    [
        ("redis://h", "redis://h", ""),
        ("redis://h:7000/2?queue=cs101", "redis://h:7000/2", "cs101"),
        ("unix:///run/redis.sock?db=3&queue=a.b-c_d", "unix:///run/redis.sock?db=3", "a.b-c_d"),
        ("rediss://u:p%40@h:1/0?ssl_ca_certs=%2Fca.pem", "rediss://u:p%40@h:1/0?ssl_ca_certs=%2Fca.pem", ""),
        ("redis://[::1]:7000/0", "redis://[::1]:7000/0", ""),
        ("REDIS://h?queue=CS101", "redis://h", "CS101"),
    ],
)
def test_a_url_is_read(url: str, server: str, queue: str) -> None:
    place = parse(url)
    assert (place.server, place.queue) == (server, queue)
    assert "p%40" not in place.shown


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://", "names no host"),
        ("unix://", "names no socket"),
        ("redis://h/x", "no database"),
        ("redis://h:port/0", "[Pp]ort"),
        ("redis://h/0?queue=a&queue=b", "twice"),
        ("redis://h/3?db=4", "two databases"),
        ("redis://h/0?socket_timeout=1", "unknown parameter 'socket_timeout'"),
        ("redis://h/0?ssl_ca_certs=/ca.pem", "no TLS: write rediss"),
        ("unix:///run/redis.sock?ssl_keyfile=/k", "no TLS: write rediss"),
        ("redis://h/0?durability=some", "durability"),
        ("redis://:se#cret@h/0", "'#'"),
        ("redis://mt:se/cret@h/0", "cannot be read"),
        ("redis://mt:s@e/cret@h/0?x=1", "."),
        ("reddis://mt:secret@h/0", "unknown scheme"),
        ("redis://h/0?password=secret", "unknown parameter"),
        ("redis://h?queue=a\r\nb", "a blank or a control character"),
    ],
)
def test_a_url_that_cannot_be_used_says_why_and_tells_no_secret(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        open_store(url)
    assert caught.value.id == "store_url"
    assert "cret" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("redis://h/cs101", "/0?queue=cs101"),
        ("rediss://u:secret@h:7000/0&queue=cs101", "/0?queue=cs101"),
        ("redis://h/2&queue=exam-1", "/2?queue=exam-1"),
        ("redis+cluster://a,b/cs101", "/0?queue=cs101"),
    ],
)
def test_a_queue_that_stands_in_the_wrong_place_is_told_the_right_one(url: str, meant: str) -> None:
    with pytest.raises(ConfigError, match="no database's number") as caught:
        open_store(url)
    assert (caught.value.id, caught.value.hint) == ("store_url", f"name the queue so: {meant}")
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://mt:s@e/cret@h", "redis://h&queue=cs101", "redis://h/0&x=1"])
def test_what_else_stands_in_the_wrong_place(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        open_store(url)
    assert "?queue=NAME" in caught.value.hint
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["redis//:secret@h", "redis//u:secret@h/0?queue=q", "redis:/:secret@h", "rediss/:secret@h", "REDIS//h", "unix//s"],
)
def test_a_colon_that_was_forgotten_makes_no_folder_of_a_password(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="names no queue") as caught:
        locate(text, None)
    assert (caught.value.id, "redis://HOST" in caught.value.hint) == ("store_url", True)
    assert "secret" not in str(caught.value) + shown(text)
    assert not list(tmp_path.iterdir())


def test_a_claim_that_finds_no_memory_changes_nothing(own: Server) -> None:
    """A place that was struck without a claim would be nobody's."""
    with contextlib.closing(RedisStore(own.url())) as store:
        ids = [one.id for one in store.submit([spec(str(n)) for n in range(3)])]
        (first,) = store.exchange(claim=1).leases
        own.client().config_set("maxmemory", 1 << 20)
        for acks in ((), [Finish(first, Result(Outcome.GRADED, score=1, max_score=1))]):
            with pytest.raises(StoreFull):
                store.exchange(acks, claim=2)
        own.client().config_set("maxmemory", 0)
        out = store.exchange([Finish(first, Result(Outcome.GRADED, score=1, max_score=1))], claim=2)
        assert {first.job, *(lease.job for lease in out.leases)} == set(ids)
        assert [job.id for job in out.settled] == [first.job]
        assert store.counts()[State.RUNNING] == 2


def test_a_password_that_ends_no_url_for_people_is_not_shown() -> None:
    for url in ("redis://u:secret?x@h/0", "redis://u:secret@h/0?queue=q", "redis://u:secret?a@h:1/0?queue=b"):
        assert "secret" not in shown(url), shown(url)
    for url in ("redis://h:1/0?queue=q", "redis://u@h/0?queue=a@b", "redis+cluster://h:1,i:2?queue=q"):
        assert shown(url) == url


def test_a_folder_that_is_called_like_a_server_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "redis").mkdir()
    for text in ("redis", "redis/cs101", "redis//", "./redis//x@y"):
        assert locate(text, None)[0].startswith("sqlite:///")
        assert shown("redis/cs101") == "redis/cs101"


@pytest.mark.parametrize(
    "url", ["redis://a,b", "rediss://mt:secret@a:6379,b:6379/0?queue=q", "redis://mt:se,cret@a,b/0", "REDIS://a:1,b:2,"]
)
def test_several_hosts_are_pointed_to_sentinels_and_clusters(url: str) -> None:
    with pytest.raises(ConfigError, match=r"several hosts, and rediss?:// is one server") as caught:
        open_store(url)
    assert caught.value.id == "store_url"
    assert "redis+sentinel://HOST1:26379,HOST2:26379/SERVICE" in caught.value.hint
    assert "redis+cluster://HOST1:6379,HOST2:6379" in caught.value.hint
    assert "cret" not in str(caught.value) + caught.value.hint
    assert parse("redis://mt:a,b@h").where == "h", "a comma of a password is none"
    assert parse("unix:///run/a,b.sock").hosts == ()


@pytest.mark.parametrize("name", ["", "a b", "{x}", "-x", "a/b", "x" * 65, "é"])
def test_a_queues_name_is_checked(server: Server, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisStore(server.url(), queue=name)
    assert caught.value.id == "queue_name"


def test_a_queue_whose_name_was_left_out_is_not_the_usual_one() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("redis://h?queue=")
    assert caught.value.id == "queue_name"


def test_a_queue_is_named_once(server: Server) -> None:
    with pytest.raises(ConfigError, match=r"'two'.*'one'"):
        RedisStore(server.url("one"), queue="two")
    store = open_store(server.url("one"), queue="one")
    store.submit([spec()])
    store.close()
    assert {key.split(b":")[1] for key in server.client().scan_iter()} == {b"{one}"}, "one slot of a cluster"


def test_without_the_package_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['redis'] = None; from minitango.store import open_store\n"
        "from minitango import ConfigError\n"
        "try: open_store('redis://h')\n"
        "except ConfigError as error: print(error.id); print(error.hint)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == ["redis_missing", "pip install 'minitango[redis]'"]


# --- a server that cannot be used -----------------------------------------------------------------


def test_nobody_there_is_told_at_once() -> None:
    begun = time.monotonic()
    error = refused(lambda: RedisStore(f"redis://127.0.0.1:{redis_server.free_port()}"))
    assert error.id == "store_unreachable"
    assert "redis-cli" in error.hint
    assert time.monotonic() - begun < 2
    assert refused(lambda: RedisStore("unix:///nowhere/redis.sock")).id == "store_unreachable"


def test_a_password_is_needed_and_is_never_shown(own: Server) -> None:
    own.client().config_set("requirepass", "s3cret")
    error = refused(lambda: RedisStore(own.url(tcp=True)))
    assert error.id == "store_auth"
    wrong = refused(lambda: RedisStore(f"redis://:wr0ng@127.0.0.1:{own.port}/0"))
    assert wrong.id == "store_auth"
    assert "wr0ng" not in str(wrong) + wrong.hint
    store = RedisStore(f"redis://:s3cret@127.0.0.1:{own.port}/0")
    assert store.submit([spec()])
    assert "s3cret" not in repr(store)
    own.process and own.process.kill()
    error = refused(lambda: store.submit([spec()]))
    assert "s3cret" not in str(error) + error.hint
    store.close()


@pytest.mark.parametrize("lacks", [["resetchannels"], ["-publish"], ["-time"]])
def test_a_user_who_may_not_do_all_that_scripts_do_is_refused_before_they_write(own: Server, lacks: list[str]) -> None:
    """Redis 7 gives a user no channels unless told to."""
    client = own.client()
    rules = ["reset", "on", ">pw", "~minitango:*", "&minitango:*", "+@all"]
    client.execute_command("ACL", "SETUSER", "course", *rules, *lacks)
    url = f"unix://course:pw@{own.socket}"
    with contextlib.closing(RedisStore(url)) as store:
        for action in (lambda: store.submit([spec()]), lambda: store.exchange(claim=1), lambda: store.beat(NODE)):
            error = refused(action)
            assert error.id == "store_auth"
            assert "acl setuser USER" in (error.hint or "")
            assert not client.keys("*")
    assert refused(lambda: inspect_server(url)).id == "store_auth", "doctor says so"
    client.execute_command("ACL", "SETUSER", "course", *rules)
    assert inspect_server(url).counts[State.QUEUED] == 0
    with contextlib.closing(RedisStore(url)) as store:
        (made,) = store.submit([spec(key="k")])
        client.execute_command("ACL", "SETUSER", "course", "resetchannels")
        (lease,) = store.exchange(claim=1).leases
        assert lease.job == made.id, "what was done before nobody could be told is done"
        client.execute_command("ACL", "SETUSER", "course", "-zadd")
        assert refused(lambda: store.submit([spec("bob")])).id == "store_auth"


def test_a_server_that_throws_jobs_away_is_refused(own: Server) -> None:
    own.client().config_set("maxmemory", "100mb")
    own.client().config_set("maxmemory-policy", "allkeys-lru")
    error = refused(lambda: RedisStore(own.url()))
    assert error.id == "redis_evicts"
    assert "noeviction" in error.hint
    RedisStore(own.url() + "?durability=any").close()
    own.client().config_set("maxmemory-policy", "volatile-lru")
    RedisStore(own.url()).close()


def test_a_server_that_keeps_nothing_is_told_of_or_refused(own: Server) -> None:
    own.client().config_set("appendonly", "no")
    store = RedisStore(own.url())
    (remark,) = store.remarks
    assert "appendonly" in remark
    store.close()
    assert refused(lambda: RedisStore(own.url() + "?durability=require")).id == "redis_not_durable"
    careless = RedisStore(own.url() + "?durability=any")
    assert careless.remarks == ()
    careless.close()
    own.client().config_set("appendonly", "yes")
    sure = RedisStore(own.url() + "?durability=require")
    assert sure.remarks == ()
    sure.close()


def test_a_full_server_accepts_nothing_more_but_takes_results(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_link, "_SEEN_FOR", 0.0)
    store = RedisStore(own.url())
    store.submit([spec(str(n)) for n in range(3)])
    (lease,) = store.exchange(claim=1).leases
    client = own.client()
    used = int(client.info("memory")["used_memory"])
    client.config_set("maxmemory", int(used / 0.95))
    with pytest.raises(StoreFull, match="nearly full") as caught:
        store.submit([spec("more")])
    assert caught.value.id == "store_full"
    assert store.exchange([Finish(lease, RESULT)]).settled[0].state is State.DONE
    client.config_set("maxmemory", 1 << 20)
    monkeypatch.setattr(_redis_link, "_FULL_AT", 100.0)
    with pytest.raises(StoreFull, match="memory"):
        store.submit([spec("more")])
    assert store.counts() == {**dict.fromkeys(State, 0), State.QUEUED: 2, State.DONE: 1}
    client.config_set("maxmemory", 0)
    assert store.submit([spec("more")]), "and goes on by itself"
    store.close()


def test_a_full_server_is_told_who_is_alive_and_whose_jobs_are_whose(own: Server) -> None:
    """A worker starts, keeps what it has and takes back what it had; nothing is accepted or recorded."""
    store = RedisStore(own.url())
    store.submit([spec(str(n)) for n in range(3)])
    kept, lost = store.exchange(claim=2, node="a", lease_for=1.0).leases
    own.client().config_set("maxmemory", 1 << 20)
    other = RedisStore(own.url("other"))
    assert "is full: nothing is accepted or recorded until there is room; next: " in other.remarks[-1]
    for each in (store, other):
        assert each.beat(Node("a", "i")) is False
        assert [node.name for node in each.nodes()] == ["a"]
        with pytest.raises(StoreFull):
            each.submit([spec("more")])
    assert store.extend([kept, lost]) == ()
    assert {job.id for job in store.recover(node="a")} == {kept.job, lost.job}
    for action in (lambda: store.exchange(claim=1), lambda: store.exchange([Finish(kept, RESULT)])):
        with pytest.raises(StoreFull):
            action()
    own.client().config_set("maxmemory", 0)
    assert store.exchange([Finish(kept, RESULT)]).refused == (kept,)
    other.close()
    store.close()


def test_a_server_that_became_a_replica_takes_no_writes_and_it_is_said(own: Server) -> None:
    store = RedisStore(own.url())
    port = redis_server.free_port()
    own.client().replicaof("127.0.0.1", str(port))
    for action in (lambda: store.submit([spec()]), lambda: store.exchange(claim=1), store.reap):
        error = refused(action)
        assert error.id == "redis_replica"
        assert f"127.0.0.1:{port}" in str(error)
    assert store.unheard, "it may have been done before"
    own.client().replicaof("no", "one")
    assert store.submit([spec()])
    store.close()


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("more", ["", "?queue=cs101&durability=any"])
def test_a_replica_is_refused_and_its_master_named(own: Server, writable: bool, more: str) -> None:
    """Also one that takes writes: it forgets them when its master says so."""
    port = redis_server.free_port()
    own.client().replicaof("127.0.0.1", str(port))
    own.client().config_set("replica-read-only", "no" if writable else "yes")
    error = refused(lambda: RedisStore(own.url(tcp=True) + more))
    assert error.id == "redis_replica"
    assert f"replica of 127.0.0.1:{port}" in str(error)
    url = shlex.split(error.hint.partition(";")[0])[-1]
    assert url == f"redis://127.0.0.1:{port}/0{more}"
    own.client().config_set("replica-serve-stale-data", "no")
    assert refused(lambda: RedisStore(own.url() + more)).id == "redis_replica", "one that has nothing to tell"


def test_a_master_of_which_nothing_sensible_is_said() -> None:
    error = a_replica({"role": "slave", "master_host": "x; rm -rf", "master_port": 1}, parse("redis://u:secret@h"))
    assert "rm -rf" not in str(error) + error.hint
    assert "redis-cli -u redis://u@h info replication" in error.hint
    named = a_replica({"master_host": "m", "master_port": 7}, parse("redis://u:secret@h/3?replicas=1"))
    assert "redis://u:PASSWORD@m:7/3?replicas=1" in named.hint
    assert "redis://m:7?db=3" in a_replica({"master_host": "m", "master_port": 7}, parse("unix:///s?db=3")).hint


def test_a_worker_whose_server_became_a_replica_says_so_and_waits(own: Server, tmp_path: Path) -> None:
    """Once, however many of its threads meet it, and with the next thing to type; what runs is recorded afterwards."""
    told: list[Event] = []
    gate = Gate()
    with open_engine(own.url(), gate, state=tmp_path, workers=1, on_event=told.append) as engine:
        handle = engine.submit(submission("ada"))
        gate.wait_entered()
        own.client().replicaof("127.0.0.1", str(redis_server.free_port()))
        eventually(lambda: "store_trouble" in [event.kind for event in told])
        gate.open.set()
        time.sleep(3 * REAP)  # all of its threads have met it
        own.client().replicaof("no", "one")
        assert handle.result(PATIENCE).score == 10
        eventually(lambda: "resumed" in [event.kind for event in told])
    troubles = [event.message for event in told if event.kind == "store_trouble"]
    assert len(troubles) == 1
    assert "is a replica of 127.0.0.1" in troubles[0]
    assert "; next: name its master: --store" in troubles[0]
    assert [event.kind for event in told].count("resumed") == 1


def test_a_replica_that_takes_writes_is_given_none(own: Server, tmp_path: Path) -> None:
    """It became one while workers ran, and forgets what it is told when its master says so."""
    told: list[Event] = []
    with (
        contextlib.closing(RedisStore(own.url())) as store,
        open_engine(own.url(), scoring(1), state=tmp_path, workers=1, on_event=told.append),
    ):
        own.client().config_set("replica-read-only", "no")
        own.client().replicaof("127.0.0.1", str(redis_server.free_port()))
        eventually(lambda: "store_trouble" in [event.kind for event in told])
        assert "is a replica of 127.0.0.1" in next(event.message for event in told if event.kind == "store_trouble")
        before = own.client().dbsize()
        for action in (lambda: store.submit([spec()]), lambda: store.exchange(claim=1), lambda: store.cancel("a" * 10)):
            error = refused(action)
            assert error.id == "redis_replica"
            assert "; next: name its master: --store" in f"{error}; next: {error.hint}"
        assert own.client().dbsize() == before
        own.client().replicaof("no", "one")
        assert store.submit([spec()])[0].created, "it is looked at again at once"
        eventually(lambda: "resumed" in [event.kind for event in told])


def test_an_idle_worker_does_not_take_its_silence_for_a_store_that_works(own: Server, tmp_path: Path) -> None:
    told: list[Event] = []
    with open_engine(own.url(), scoring(1), state=tmp_path, workers=1, on_event=told.append, paused=True):
        own.client().replicaof("127.0.0.1", str(redis_server.free_port()))
        eventually(lambda: "store_trouble" in [event.kind for event in told])
        time.sleep(2 * REAP)
        assert [event.kind for event in told] == ["store_trouble"]
        own.client().replicaof("no", "one")
        eventually(lambda: "resumed" in [event.kind for event in told])


def test_a_queue_of_a_later_version_is_left_alone(server: Server, store: RedisStore) -> None:
    server.client().hset("minitango:{default}:meta", "version", "99")
    for action in (lambda: RedisStore(server.url()), lambda: store.submit([spec()]), lambda: store.exchange(claim=1)):
        error = refused(action)
        assert isinstance(error, StoreTooNew), "also one that was open when it came"
        assert "99" in str(error)


def test_an_old_server_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_look, "OLDEST", (99, 0))
    assert refused(lambda: RedisStore(server.url())).id == "redis_too_old"


def test_keys_that_are_not_ours_are_told_of(server: Server, store: RedisStore) -> None:
    server.client().set("minitango:{default}:jobs", "something else")
    assert refused(lambda: store.submit([spec()])).id == "store_corrupt"


@pytest.mark.parametrize(
    ("field", "value"), [("seq", "x"), ("state", "odd"), ("labels", "[1"), ("failure", "{"), ("student", b"\xff")]
)
def test_a_record_is_hostile_until_it_is_read(server: Server, store: RedisStore, field: str, value: Any) -> None:
    (one,) = store.submit([spec()])
    server.client().hset(f"minitango:{{default}}:j:{one.id}", field, value)
    for action in (lambda: store.get(one.id), lambda: store.list()):
        with pytest.raises(MinitangoError) as caught:
            action()
        assert caught.value.id == "record_damaged"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("student", b"\xff"),
        ("inputs", b"\xff" * 40),
        ("labels", b"\xfe" * 300),
        ("course", b"\xfe" * 70_000),
        ("submitted", "x"),
    ],
)
def test_one_that_is_no_text_costs_the_others_nothing(
    server: Server, store: RedisStore, field: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [one.id for one in store.submit([spec(str(n), labels={"a": "b"}, course="c") for n in range(4)])]
    server.client().hset(f"minitango:{{default}}:j:{ids[1]}", field, value)
    run, away = store._link.run, [1]

    def once_away(verb: str, arguments: Any, **more: Any) -> Any:
        if arguments[3] == "0" and away:
            away.pop()
            raise StoreError("away", hint="look", id="store_unreachable")
        return run(verb, arguments, **more)

    monkeypatch.setattr(store._link, "run", once_away)
    claimed = store.exchange(claim=3)
    assert [lease.job for lease in claimed.leases] == [ids[0], ids[2]]
    assert not away
    assert store.unheard, "nobody heard that it cannot be read"
    (dead,) = store.exchange().settled
    assert (dead.id, dead.state) == (ids[1], State.DEAD)
    assert dead.failure is not None
    assert dead.failure.id == "record_damaged"
    assert ids[1] in dead.failure.message
    assert not store.unheard
    assert [job.id for job in store.ended_since(0)] == [ids[1]]
    (more,) = store.exchange(claim=3).leases
    assert more.job == ids[3]


def test_a_job_of_which_nothing_is_left_takes_nobodys_place(server: Server, store: RedisStore) -> None:
    gone, there = (one.id for one in store.submit([spec("a"), spec("b")]))
    server.client().delete(f"minitango:{{default}}:j:{gone}")
    assert store.exchange(claim=1).leases == ()
    assert [lease.job for lease in store.exchange(claim=1).leases] == [there]


def waits(store: RedisStore, lose: Any) -> None:
    """One that failed, and is due again later."""
    (lease,) = store.exchange(claim=1).leases
    store.exchange([Fail(lease, Failure("x", "no"))], now=1000.0)
    lose(lease.job)


def runs_here(store: RedisStore, lose: Any) -> None:
    lost, there = store.exchange(claim=2, node="n", now=1000.0).leases
    lose(lost.job)
    assert [job.id for job in store.recover(node="n", now=1000.0)] == [there.job]


def ran_elsewhere(store: RedisStore, lose: Any) -> None:
    lost, there = store.exchange(claim=2, node="n", now=1000.0).leases
    store.cancel(lost.job)
    lose(lost.job)
    assert [job.id for job in store.reap(now=1500.0)] == [there.job]


def is_held_with_another(store: RedisStore, lose: Any) -> None:
    (lease,) = store.exchange(claim=1, now=1000.0).leases
    lose(store.list()[1].id)
    store.exchange([Fail(lease, IMAGE, charge=False)], now=1000.0)


def was_held_with_another(store: RedisStore, lose: Any) -> None:
    """The last of them by its number, to which the next looks, as do those who free them."""
    running = store.exchange(claim=2, now=1000.0).leases
    store.exchange([Fail(running[0], IMAGE, charge=False)], now=1000.0)
    lose(*(job.id for job in store.list()[-2:]))
    (joined,) = store.exchange([Fail(running[1], IMAGE, charge=False)], now=1000.0).settled
    assert joined.due == store.list()[2].due, "it waits with those that are left"


def was_to_be_free_with_another(store: RedisStore, lose: Any) -> None:
    (lease,) = store.exchange(claim=1, now=1000.0).leases
    store.exchange([Fail(lease, IMAGE, charge=False)], now=1000.0)
    (again,) = store.exchange(claim=9, now=1002.0).leases
    lose(store.list()[-1].id)
    assert len(store.exchange([Finish(again, RESULT)], now=1002.0).settled) == 1


def had_ended(store: RedisStore, lose: Any) -> None:
    """Since another was held: whether some were graded meanwhile is looked for."""
    ours, other = store.exchange(claim=2, now=1000.0).leases
    store.exchange([Fail(ours, IMAGE, charge=False)], now=1000.0)
    store.exchange([Finish(other, RESULT)], now=1001.0)
    lose(other.job)
    (again,) = store.exchange(claim=9, now=1002.0).leases
    store.exchange([Fail(again, IMAGE, charge=False)], now=1003.0)


def had_a_key(store: RedisStore, lose: Any) -> None:
    (lost,) = store.submit([spec("key", key="k")])
    lose(lost.id)
    (made,) = store.submit([spec("key", key="k")])
    assert made.created
    assert not store.submit([spec("key", key="k")])[0].created


def had_the_key_of_what_was_done(store: RedisStore, lose: Any) -> None:
    key = work_key(("new",), "", "key", "i" * 64)
    (lost,) = store.submit([spec("key", key=key)])
    lose(lost.id)
    (made,) = store.submit([structs.replace(spec("key", key="old"), priority=9)])
    for lease in store.exchange(claim=9, now=1000.0).leases:
        store.exchange([Finish(lease, RESULT, grader=("new",))], now=1000.0)
    (again,) = store.submit([spec("key", key=key)])
    assert (again.id, again.created) == (made.id, False)


@pytest.mark.parametrize(
    "what",
    [
        waits, runs_here, ran_elsewhere, is_held_with_another, was_held_with_another, was_to_be_free_with_another,
        had_ended, had_a_key, had_the_key_of_what_was_done,
    ],
)  # fmt: skip
def test_a_job_of_which_nothing_is_left_stops_nobody(server: Server, what: Any) -> None:
    """Whatever still names it: all the others are graded."""
    lost: set[str] = set()

    def lose(*jobs: str) -> None:
        for job in jobs:
            lost.add(job)
            server.client().delete(f"minitango:{{default}}:j:{job}")

    with contextlib.closing(RedisStore(server.url(), clock=lambda: 1000.0)) as store:
        store.submit([spec(str(n)) for n in range(5)])
        what(store, lose)
        now = 2000.0
        while len(store.ended_since(0, limit=99)) < len(store.list()):
            leases = store.exchange(claim=9, now=now).leases
            store.exchange([Finish(lease, RESULT) for lease in leases], now=now)
            now += 500
            assert now < 1e5
        assert lost
        assert not {job.id for job in store.list()} & lost
        assert not [key for key in ("running", "due") if server.client().exists(f"minitango:{{default}}:{key}")]


def test_a_job_of_which_nothing_is_left_is_not_made_anew_where_the_clock_was_set_back(
    server: Server, store: RedisStore
) -> None:
    lost, there = (one.id for one in store.submit([spec("a"), spec("b")]))
    store.exchange(claim=2)
    server.client().delete(f"minitango:{{default}}:j:{lost}")
    server.client().hset("minitango:{default}:meta", "reaped", repr(store.now() + 1000))
    store.reap()
    assert not server.client().exists(f"minitango:{{default}}:j:{lost}")
    assert [job.id for job in store.recover()] == [there]


def test_a_callback_of_whose_job_nothing_is_left_keeps_no_other_waiting(server: Server) -> None:
    """Also where it is the first, fills what is asked for, or was lost while a try was under way."""

    def lose(job: str) -> None:
        server.client().delete(f"minitango:{{default}}:j:{job}")

    with contextlib.closing(RedisStore(server.url(), clock=lambda: 1000.0)) as store:
        ids = [one.id for one in store.submit([spec(str(n), callback="https://x.example/") for n in range(6)])]
        for job in ids:
            store.cancel(job)
        first, second, *_ = store.take_callbacks(2)
        for job in (first.job, second.job, *sorted(set(ids) - {first.job, second.job})[:2]):
            lose(job)
        assert not store.callback_delivered(first)
        assert not store.callback_failed(second, "no", again_in=1.0)
        there = sorted(job for job in ids if server.client().exists(f"minitango:{{default}}:j:{job}"))
        assert len(there) == 2, "nothing is made anew"
        found = [errand.job for _ in there for errand in store.take_callbacks(1)]
        assert sorted(found) == there
        lose(found[0])
        (last,) = store.take_callbacks(9, now=2000.0)
        assert last.job == found[1]
        assert store.callback_delivered(last)
        assert (store.next_callback(), store.take_callbacks(9, now=3000.0)) == (None, [])
        left = [key.decode() for key in server.client().keys("minitango:{default}:cb:*")]
        assert left == [f"minitango:{{default}}:cb:{last.job}"]


@pytest.mark.parametrize(
    "spoilt", [{}, {"tries": "x"}, {"tries": "-1"}, {"since": "nan"}, {"since": "inf"}, {"since": "x"}]
)
def test_a_callback_of_which_it_is_lost_what_became_of_it_is_delivered(
    server: Server, store: RedisStore, spoilt: dict[str, Any]
) -> None:
    blob = "a" * 64
    specs = [spec(str(n), callback="https://x.example/") for n in range(2)]
    ids = [one.id for one in store.submit([structs.replace(one, spec=blob, inputs=blob, refs=()) for one in specs])]
    for job in ids:
        store.cancel(job, now=1000.0)
    told = f"minitango:{{default}}:cb:{ids[0]}"
    server.client().hset(told, mapping=spoilt) if spoilt else server.client().delete(told)
    if not spoilt:
        posts = {dumped.job.id: dumped.post for dumped in store.dump()}
        assert posts[ids[0]] == posts[ids[1]] == Post(since=1000.0, due=1000.0), "also where it is carried elsewhere"
    taken = {errand.job: errand for errand in store.take_callbacks(2, now=1001.0)}
    assert sorted(taken) == sorted(ids)
    assert (taken[ids[0]].tries, taken[ids[0]].since) == (0, 1001.0)
    assert (taken[ids[1]].tries, taken[ids[1]].since) == (0, 1000.0)
    assert store.callback_delivered(taken[ids[0]])


def test_a_reply_that_is_none(store: RedisStore) -> None:
    for packed_ in (b"", b"\xc1", msgpack.encode([[9], [], []]), msgpack.encode([[], [], [["no id", "1", "t"]]])):
        if packed_.endswith(b"t"):
            assert exchanged_of([packed_], 0).damaged == ()
            continue
        assert refused(lambda packed_=packed_: exchanged_of([packed_], 1)).id == "record_damaged"


def test_nothing_is_ever_a_pickle(server: Server, store: RedisStore) -> None:
    (lease,) = [store.submit([spec()]), store.exchange(claim=1).leases][1]
    server.client().set(f"minitango:{{default}}:r:{lease.job}", b"\x80\x04\x95.")
    with pytest.raises(StoreError) as caught:
        store.result(lease.job)
    assert caught.value.id == "record_damaged"


# --- a server that goes away ----------------------------------------------------------------------


def test_submit_fails_soon_while_the_server_hangs_and_goes_on_after(own: Server) -> None:
    store = RedisStore(own.url())
    own.freeze()
    begun = time.monotonic()
    error = refused(lambda: store.submit([spec(key="k")]))
    took = time.monotonic() - begun
    assert error.id == "store_unreachable"
    assert took < 4, "2 s, and what a machine under load adds"
    own.thaw()
    (again,) = store.submit([spec(key="k")])
    eventually(lambda: store.counts()[State.QUEUED] == 1)
    assert store.get(again.id).state is State.QUEUED
    store.close()


def test_a_server_that_was_restarted_is_found_again(own: Server) -> None:
    store = RedisStore(own.url())
    submitted = [one.id for one in store.submit([spec(str(n)) for n in range(50)])]
    changes: list[float] = []
    stop = store.watch(lambda: changes.append(time.monotonic()))
    (lease,) = store.exchange(claim=1).leases
    time.sleep(1.2)  # appendfsync everysec
    own.kill()
    assert refused(lambda: store.submit([spec()])).id == "store_unreachable"
    own.start()
    assert store.exchange([Finish(lease, RESULT)]).settled[0].id == lease.job
    assert [job.id for job in store.list()] == submitted, "nothing that was accepted is lost"
    changes.clear()
    other = RedisStore(own.url())

    def heard() -> bool:
        other.submit([spec()])
        return bool(changes)

    eventually(heard, "the watch is deaf after a restart")
    stop()
    store.close()
    other.close()


class Firewall:
    """Passes on what goes between us and a server, until it forgets the connections that there are: then it drops in
    silence what is said on them. New ones work."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._known: set[socket.socket] = set()
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self) -> None:
        self._known.clear()

    def close(self) -> None:
        for one in [self._listening, *self._sockets]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._known |= {near, far}
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while said := source.recv(1 << 16):
                if source in self._known:
                    target.sendall(said)
            if source in self._known:
                target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_handle_is_told_though_its_watchs_connection_was_forgotten(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(_redis_ears, "PING", 0.5)
    firewall = Firewall(server.port)
    url = f"redis://127.0.0.1:{firewall.port}/0"
    with open_engine(url, scoring(1), state=tmp_path, workers=workers, paused=bool(workers)) as engine:
        other = RedisStore(server.url())
        handle = engine.submit(submission("ada"))
        (lease,) = other.exchange(claim=1, node="x").leases
        time.sleep(0.2)  # what was told of these was heard
        firewall.forget()
        other.exchange([Finish(lease, RESULT)])
        assert handle.result(PATIENCE) == RESULT
        other.close()
    firewall.close()


def test_a_watch_looks_by_itself_now_and_then(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nothing was told, and though its server answers: a word may have been lost on the way all the same."""
    monkeypatch.setattr(_redis_ears, "PING", 0.3)
    connections: list[Any] = []
    subscribe = _redis_ears.subscribe

    def counted(line: Any, bell: str) -> Any:
        connections.extend([bell] if line is store._link else [])
        return subscribe(line, bell)

    monkeypatch.setattr(_redis_ears, "subscribe", counted)
    looks: list[float] = []
    stop = store.watch(lambda: looks.append(time.monotonic()))
    eventually(lambda: len(looks) >= 3)
    stop()
    assert len(connections) == 1
    assert looks[-1] - looks[0] > 0.5


def test_a_tcp_connection_is_kept_alive(server: Server) -> None:
    store = RedisStore(server.url(tcp=True))
    clients = store._link._way.clients()
    for client in (clients.quick, clients.steady):
        connection = client.connection_pool.get_connection()
        sock = connection._sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        client.connection_pool.release(connection)
    store.close()


@pytest.mark.parametrize("id", ["store_unreachable", "store_busy"])
def test_an_exchange_whose_answer_was_lost_is_done_once(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, id: str
) -> None:
    """`store_busy`: its second try met a server that was just starting."""
    store.submit([spec(str(n)) for n in range(5)])
    first = store.exchange(claim=2).leases
    call, left = store._link.call, [1]

    def lose(verb: str, ask: Any, **options: Any) -> Any:
        answer = call(verb, ask, **options)
        if left:
            left.pop()
            raise StoreError("the answer was lost", hint="look", id=id)
        return answer

    monkeypatch.setattr(store._link, "call", lose)
    acks = [Finish(first[0], RESULT), Fail(first[1], Failure("x", "x"))]
    assert refused(lambda: store.exchange(acks, claim=2)).id == id
    more = store.exchange([*acks, Finish(first[0], RESULT)], claim=2)
    assert [job.id for job in more.settled] == [first[0].job, first[1].job], "the answer that was lost"
    assert more.refused == (first[0],), "and what is said anew is stale"
    assert len(more.leases) == 2, "those that were claimed are not lost"
    assert store.get(first[1].job).failures == 1
    assert store.counts()[State.RUNNING] == 2
    assert store.extend(more.leases) == ()


def test_what_was_claimed_is_not_lost_when_the_next_exchange_fails(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that dies, answers what it did before, and dies again."""
    store.submit([spec(str(n)) for n in range(4)])
    first = store.exchange(claim=2).leases
    call, story = store._link.call, ["lost", "answered", "refused"]

    def moody(verb: str, ask: Any, **options: Any) -> Any:
        then = story.pop(0) if story else "answered"
        answer = call(verb, ask, **options) if then != "refused" else None
        if then != "answered":
            raise StoreError(then, hint="look", id="store_unreachable")
        return answer

    monkeypatch.setattr(store._link, "call", moody)
    one, other = (Finish(lease, RESULT) for lease in first)
    refused(lambda: store.exchange([one], claim=1))
    refused(lambda: store.exchange([one, other], claim=2))
    heard = store.exchange([one, other], claim=2)
    assert not heard.refused
    assert {job.id for job in heard.settled} == {lease.job for lease in first}
    assert len(heard.leases) == 2
    assert store.counts()[State.RUNNING] == 2
    assert store.extend(heard.leases) == ()
    assert store.exchange([one]).refused == (one.lease,), "what was heard is not said again"


@pytest.mark.parametrize("story", [["lost"], ["lost", "answered", "refused"]])
def test_beside_what_must_run_alone_nothing_is_claimed_though_its_answer_was_lost(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, story: list[str]
) -> None:
    """It was claimed for a quiet moment; who hears of it asks for others by then, and may have to ask twice."""
    (suspect,) = store.submit([spec("suspect", key="s")])
    for _ in range(SOLO_AFTER):
        (over,) = store.exchange(claim=1).leases
        store.recover()
    store.submit([spec("bob", key="b"), spec("cyd", key="c")])
    call, left = store._link.call, list(story)

    def moody(verb: str, ask: Any, **options: Any) -> Any:
        then = left.pop(0) if left else "answered"
        answer = call(verb, ask, **options) if then != "refused" else None
        if then != "answered":
            raise StoreError(then, hint="look", id="store_unreachable")
        return answer

    monkeypatch.setattr(store._link, "call", moody)
    refused(lambda: store.exchange(claim=1, solo=True))
    stale = Release(over)
    if left:
        refused(lambda: store.exchange([stale], claim=3))
    heard = store.exchange([stale], claim=3)
    assert not left
    assert [(lease.job, lease.solo) for lease in heard.leases] == [(suspect.id, True)]
    assert heard.refused == (over,), "what is said meanwhile is heard"
    assert store.counts()[State.RUNNING] == 1
    assert [lease.solo for lease in store.exchange(claim=3).leases] == [False, False], "and then it goes on"


def test_a_submission_whose_answer_was_lost_is_done_once(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    (kept,) = store.submit([spec("kept", key="k")])
    once, left = store._link._once, [1]

    def lose(ask: Any, **options: Any) -> Any:
        answer = once(ask, **options)
        if left:
            left.pop()
            raise StoreError("the answer was lost", id="store_unreachable")
        return answer

    monkeypatch.setattr(store._link, "_once", lose)
    one, held, two = store.submit([spec("a"), spec("kept", key="k"), spec("b", key="l")])
    assert (one.created, held.created, two.created) == (True, False, True)
    assert held.id == kept.id
    assert [job.student for job in store.list()] == ["kept", "a", "b"]


@pytest.mark.parametrize("gone", ["kept", "new", "both"])
def test_an_answer_that_was_lost_is_the_same_though_jobs_went_meanwhile(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    (kept,) = store.submit([spec("kept", key="k")])
    store.exchange([Finish(store.exchange(claim=1).leases[0], RESULT)])
    once, answers = store._link._once, []

    def lose(ask: Any, **options: Any) -> Any:
        answers.append(once(ask, **options))
        if len(answers) > 1:
            return answers[-1]
        ids = [answers[0][0].decode()]
        store.cancel(ids[0])
        assert store.forget({"kept": [kept.id], "new": ids, "both": [kept.id, *ids]}[gone]) == 1 + (gone == "both")
        raise StoreError("the answer was lost", id="store_unreachable")

    monkeypatch.setattr(store._link, "_once", lose)
    one, held, two = store.submit([spec("a"), spec("kept", key="k"), spec("b", key="l")])
    assert answers[0] == answers[1]
    assert (held.id, held.created, held.state) == (kept.id, False, State.DONE)
    assert (one.created, two.created) == (True, True)
    assert two.state is State.QUEUED


def test_an_answer_that_was_lost_names_also_what_went_meanwhile(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, answers = store._link._once, []

    def lose(ask: Any, **options: Any) -> Any:
        answers.append(once(ask, **options))
        if len(answers) > 1:
            return answers[-1]
        gone = answers[0][0].decode()
        store.cancel(gone)
        store.forget([gone])
        raise StoreError("the answer was lost", id="store_unreachable")

    monkeypatch.setattr(store._link, "_once", lose)
    one, two = store.submit([spec("a"), spec("b")])
    assert (one.id, one.created, one.state) == (answers[0][0].decode(), True, State.CANCELLED)
    assert (two.created, two.state) == (True, State.QUEUED)


def test_a_hold_that_is_still_spreading_ends_when_one_of_those_held_is_graded(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its image is there again: those that the hold had not come to yet are not held at all."""
    monkeypatch.setitem(_redis_link._CONSTANTS, "WAVE", 5)
    monkeypatch.setattr(redis_module, "_WAVES_FOR", 0.0)
    now = [1000.0]
    store = RedisStore(server.url(), clock=lambda: now[0])
    store.submit([spec(str(n)) for n in range(2000)])
    (first,) = store.exchange(claim=1).leases
    store.exchange([Fail(first, Failure("sandbox_registry", "no image"), charge=False)])
    now[0] += 3600.0  # those that it has come to are due again
    client, waves, hold = server.client(), "minitango:{default}:waves", f"hold:{'s' * 64}"
    while not (leases := store.exchange(claim=1).leases):
        assert client.hexists(waves, hold), "it has come to all of them"
    (mate,) = leases
    assert client.hexists(waves, hold), "it is still under way"
    assert client.hexists(f"minitango:{{default}}:j:{mate.job}", "held")
    store.exchange([Finish(mate, RESULT)])
    assert not client.hexists(waves, hold)
    while client.exists(waves):
        store.exchange(claim=1, solo=True)  # claims nothing
    waiting = store.list(Query(states=(State.QUEUED,)))
    assert len(waiting) == 1999
    assert not [job.id for job in waiting if client.hexists(f"minitango:{{default}}:j:{job.id}", "held")]
    store.close()


def test_an_answer_that_is_given_again_is_a_write(server: Server, store: RedisStore) -> None:
    """Servers from 7.2 on have WAIT wait for what its own connection wrote, and a new one has written nothing."""
    run, said = store._link.run, []
    store._link.run = lambda *words, **more: said.append(words) or run(*words, **more)  # type: ignore[method-assign]
    store.submit([spec("a"), spec("b")])
    (lease,) = store.exchange(claim=1).leases
    store.exchange([Finish(lease, RESULT)])
    submitted = said[0][1]
    for verb, words in (("submit", [*submitted[:2], "1", *submitted[3:]]), said[-1]):
        before = server.client().info("persistence")["rdb_changes_since_last_save"]
        run(verb, words)
        assert server.client().info("persistence")["rdb_changes_since_last_save"] == before + 1
    assert store.counts()[State.QUEUED] == 1


def test_what_is_not_known_is_said(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RedisStore(own.url())
    store.submit([spec()])
    own.freeze()
    begun = time.monotonic()
    error = refused(lambda: store.submit([spec()]))
    assert time.monotonic() - begun < 4
    assert "not known" in str(error)
    own.thaw()
    store.close()


def test_more_jobs_than_one_script_should_take_are_refused(store: RedisStore) -> None:
    with pytest.raises(ConfigError) as caught:
        store.submit([spec()] * 10_001)
    assert caught.value.id == "too_many_jobs"
    assert caught.value.hint
    assert store.list() == []


# --- what it costs --------------------------------------------------------------------------------


def test_a_claim_costs_the_same_however_many_are_queued(server: Server, store: RedisStore) -> None:
    """By the commands that the server ran, which is what a claim costs."""

    def commands() -> int:
        return sum(int(entry["calls"]) for entry in server.client().info("commandstats").values())

    costs = []
    for n in (10, 3000):
        store.submit([spec(str(k)) for k in range(n)])
        for _ in range(2):
            before = commands()
            store.exchange(claim=4)
            cost = commands() - before
        costs.append(cost)
    assert costs[1] <= costs[0] + 4


def test_no_reply_of_the_engine_is_unbounded_and_no_keys(server: Server, store: RedisStore) -> None:
    text = "".join(_redis_link._script(verb) for verb in ("submit", "exchange", "extend", "cancel"))
    assert "'KEYS'" not in text
    assert "'SCAN'" not in text


def is_batch(verb: str, arguments: Any) -> bool:
    """Whether this is an exchange of nothing, by which more jobs are moved."""
    return verb == "exchange" and arguments[3] == "0" and arguments[8] == msgpack.encode([[], [], []])


def test_many_that_wait_for_an_image_are_moved_in_batches(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    store, other = (RedisStore(server.url(), clock=lambda: now[0]) for _ in range(2))
    with contextlib.closing(store), contextlib.closing(other):
        store.submit([spec(str(k)) for k in range(1000)])
        (another,) = store.submit([structs.replace(spec("bob"), spec="t" * 64)])
        moved: list[int] = []
        met: list[str] = []

        def waiting() -> int:
            return int(server.client().zcard("minitango:{default}:due"))

        def between(verb: str, arguments: Any, **options: Any) -> Any:
            if is_batch(verb, arguments):  # others come between, and meet only what is theirs to meet
                moved.append(waiting())
                if not met:
                    met.extend(lease.job for lease in other.exchange(claim=2000).leases)
            return run(verb, arguments, **options)

        run = store._link.run
        monkeypatch.setattr(store._link, "run", between)
        (first,) = store.exchange(claim=1).leases
        failure = Failure("sandbox_registry", "the image cannot be pulled now", "look at the network")
        store.exchange([Fail(first, failure, charge=False)])
        assert 0 < moved[0] < 500, "one script takes about a batch"
        assert met == [another.id]
        assert waiting() == 1000

        moved.clear()
        now[0] += 2
        (again,) = store.exchange(claim=2000).leases
        assert again.job == first.job, "the others wait while it is tried"
        store.exchange([Finish(again, RESULT)])
        assert 500 < moved[0] < 999
        assert waiting() == 0
        assert len(store.exchange(claim=2000).leases) == 999


def test_waves_that_a_node_left_are_ended_by_the_others(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = (RedisStore(server.url()) for _ in range(2))
    with contextlib.closing(store), contextlib.closing(other):
        store.submit([spec(str(k)) for k in range(1000)])

        def die(verb: str, arguments: Any, **options: Any) -> Any:
            if is_batch(verb, arguments):
                raise StoreError("the server is away", id="store_unreachable")
            return run(verb, arguments, **options)

        run = store._link.run
        monkeypatch.setattr(store._link, "run", die)
        (lease,) = store.exchange(claim=1).leases
        failure = Failure("sandbox_registry", "the image cannot be pulled now", "look at the network")
        assert store.exchange([Fail(lease, failure, charge=False)]).settled, "what was done is known"
        client = server.client()
        assert client.exists("minitango:{default}:waves")
        told = threading.Event()
        stop = store.watch(told.set)
        monkeypatch.setattr(redis_module, "_WAVES_FOR", 0.0)
        assert other.exchange(claim=10).leases == ()
        assert client.exists("minitango:{default}:waves"), "a producer waits no longer than it may"
        assert told.wait(PATIENCE), "and has the others go on"
        stop()
        monkeypatch.undo()
        assert other.exchange(claim=10).leases == ()
        assert not client.exists("minitango:{default}:waves")
        assert client.zcard("minitango:{default}:due") == 1000


def test_waves_begin_anew_on_another_process_of_the_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a scan stands is known to the process alone that it was asked of."""
    with contextlib.closing(RedisStore(server.url())) as store:
        store.submit([spec(str(k)) for k in range(1000)])
        monkeypatch.setattr(redis_module, "_WAVES_FOR", 0.0)
        (lease,) = store.exchange(claim=1).leases
        failure = Failure("sandbox_registry", "the image cannot be pulled now", "look at the network")
        store.exchange([Fail(lease, failure, charge=False)])
        client, key = server.client(), "minitango:{default}:waves"
        ((name, packed),) = client.hgetall(key).items()
        wave = msgpack.decode(packed)
        assert wave["process"] == client.info("server")["run_id"]
        assert wave["cursor"] != "0"
        moved = client.zcard("minitango:{default}:due")
        client.hset(key, name, msgpack.encode({**wave, "process": "another", "cursor": "7" * 12}))
        monkeypatch.undo()
        assert store.exchange(claim=10).leases == ()
        assert moved < client.zcard("minitango:{default}:due") == 1000
        assert not client.exists(key)


def test_an_idle_watch_asks_nothing(server: Server, store: RedisStore) -> None:
    stop = store.watch(lambda: None)
    before = int(server.client().info("stats")["total_commands_processed"])
    time.sleep(1.5)
    after = int(server.client().info("stats")["total_commands_processed"])
    assert after - before <= 4
    stop()


def test_lanes_that_have_no_job_are_not_kept_where_there_are_many(
    server: Server, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each claim looks at all that there are: whatever took the last job of one, it goes."""
    monkeypatch.setitem(_redis_link._CONSTANTS, "MANY_LANES", 0)

    def lanes() -> list[str]:
        return sorted(lane.decode() for lane in server.client().smembers("minitango:{default}:lanes"))

    ids = [one.id for one in store.submit([spec(name, key=name, lane=name) for name in ("a", "b", "c", "d", "lost")])]
    assert lanes() == ["a", "b", "c", "d", "lost"]
    store.cancel(ids[0])
    assert lanes() == ["b", "c", "d", "lost"], "nobody serves it"
    store.submit([spec("b", key="b", lane="e")])
    assert lanes() == ["c", "d", "e", "lost"], "it needs something else now"
    (lease,) = store.exchange(claim=9, capabilities=["c"], now=1000.0).leases
    assert lanes() == ["d", "e", "lost"]
    store.exchange([Fail(lease, Failure("x", "no"))], now=1000.0)
    assert lanes() == ["d", "e", "lost"], "it is not due"
    store.submit([spec("c", key="c", lane="f")], now=1000.0)
    assert lanes() == ["d", "e", "lost"], "it is not due, whatever it needs now"
    store.submit([spec("c", key="c", lane="c")], now=1000.0)
    assert store.exchange(claim=9, now=2000.0).leases == ()
    assert lanes() == ["c", "d", "e", "lost"]
    server.client().delete(f"minitango:{{default}}:j:{ids[4]}")
    assert store.exchange(claim=9, capabilities=["lost"], now=2000.0).leases == ()
    assert lanes() == ["c", "d", "e"], "nothing is left of its job"
    server.client().sadd("minitango:{default}:lanes", "older")
    leases = store.exchange(claim=9, capabilities=["c", "d", "e", "older"], now=2000.0).leases
    assert (len(leases), lanes()) == (3, [])
    store.exchange([Release(leases[0])])
    assert lanes() == [next(job.lane for job in store.list() if job.id == leases[0].job)]


def test_lanes_stay_listed_where_there_are_few(server: Server, store: RedisStore) -> None:
    """A node of an earlier version lists no lane when it takes a job back, and gives away only what is in one."""
    key, client = "minitango:{default}:lanes", server.client()
    store.submit([spec(lane="gpu")])
    (lease,) = store.exchange(claim=9, capabilities=["gpu"]).leases
    assert client.smembers(key) == {b"gpu"}
    store.exchange([Finish(lease, RESULT)])
    names = [f"l{n}" for n in range(150)]
    store.submit([spec(name, lane=name) for name in names])
    while leases := store.exchange(claim=9, capabilities=names).leases:
        assert {job.lane for job in store.list(Query(states=(State.QUEUED,)))} <= {
            lane.decode() for lane in client.smembers(key)
        }
        store.exchange([Finish(lease, RESULT) for lease in leases])
    assert 50 < client.scard(key) <= 100


def test_what_is_forgotten_leaves_no_key(server: Server, store: RedisStore) -> None:
    empty = set(server.client().scan_iter())
    store.submit([spec(str(n), key=f"k{n % 3}", lane="g" if n % 2 else "") for n in range(9)], fresh=True)
    while leases := store.exchange(claim=9, capabilities=["g"]).leases:
        store.exchange([Finish(lease, RESULT) for lease in leases])
    assert store.forget([job.id for job in store.list()]) == store.last_ended()
    left = {key for key in server.client().scan_iter() if b"last:" not in key} - empty
    assert left == {b"minitango:{default}:meta", b"minitango:{default}:lanes"}
    assert server.client().smembers("minitango:{default}:lanes") == {b"", b"g"}, "few are kept, for earlier versions"
    for state in State:
        assert store.counts()[state] == 0


@pytest.mark.parametrize(
    "record",
    [
        b"", b"{", b"\xff", b"[]", b"7", b"null", b'"n"', b"[" * 2000, b"{}", b'{"name":"n"}',
        b'{"name":"n","instance":"x","good_for":"y"}', b'{"name":"n","instance":{},"good_for":[]}',
        b'{"name":"n","instance":{}}', b'{"name":"n","instance":"x","good_for":1e300}',
        b'{"name":"n","instance":"x","good_for":-1}',
        b'{"name":"other","instance":"x"}', b'{"instance":"x","good_for":30}',
    ],
)  # fmt: skip
def test_a_node_whose_record_was_damaged_is_lost_until_it_says_a_word(
    server: Server, store: RedisStore, record: bytes
) -> None:
    nodes, client = "minitango:{default}:nodes", server.client()
    other = Node("m", "j")
    for node in (NODE, other):
        assert not store.beat(node)
    assert store.drain("n")
    client.hset(nodes, "n", record)
    whole, lost = store.nodes()
    assert (whole.name, whole.instance) == ("m", "j")
    assert (lost.name, lost.good_for, lost.draining) == ("n", 0.0, True)
    assert not store.beat(other)
    assert store.beat(NODE), "it is to take no more"
    assert store.nodes()[1].instance == "i"
    assert refused_config(lambda: store.beat(Node("n", "another"))).id == "node_taken"
    client.hset(nodes, "n", record)
    assert store.leave("n", "i")
    assert [node.name for node in store.nodes()] == ["m"]


def test_a_node_that_is_called_by_no_text_is_listed(server: Server, store: RedisStore) -> None:
    server.client().hset("minitango:{default}:nodes", b"\xff", b"{}")
    assert [node.good_for for node in store.nodes()] == [0.0]


def test_threads_share_a_store(store: RedisStore) -> None:
    def work(n: int) -> None:
        for k in range(20):
            store.submit([spec(f"{n}-{k}")])
            for lease in store.exchange(claim=1).leases:
                store.exchange([Finish(lease, RESULT)])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while leases := store.exchange(claim=9).leases:
        store.exchange([Finish(lease, RESULT) for lease in leases])
    assert store.counts()[State.DONE] == 120


def test_a_watch_is_told_of_others_exchanges_and_not_of_its_own(server: Server, store: RedisStore) -> None:
    other = RedisStore(server.url())
    told = threading.Event()
    stop = store.watch(told.set)
    try:
        store.submit([spec(), spec("bob")])
        assert told.wait(PATIENCE)
        time.sleep(0.1)
        told.clear()
        (lease,) = store.exchange(claim=1).leases
        store.exchange([Finish(lease, RESULT)])
        assert not told.wait(0.3)
        other.exchange(claim=1)
        assert told.wait(PATIENCE)
    finally:
        stop()
        other.close()


def test_a_small_hand_in_comes_with_its_claim(
    server: Server, store: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = store.blobs(tmp_path)
    small, large = blobs.put(b"small"), blobs.put(bytes(MOST_BROUGHT + 1))
    gone = hashlib.sha256(b"never put").hexdigest()
    store.submit([structs.replace(spec(digest), inputs=digest) for digest in (small, large, gone)])
    asked: list[str] = []
    chunks = blobs._chunks
    monkeypatch.setattr(blobs, "_chunks", lambda digest: asked.append(digest) or chunks(digest))
    leases = store.exchange(claim=3).leases
    assert [lease.inputs for lease in leases] == [small, large, gone]
    assert blobs.get(small) == b"small"
    assert asked == []
    assert len(blobs.get(large)) == MOST_BROUGHT + 1
    assert blobs.get(small) == b"small", "it came once, and is asked for like any other then"
    assert asked == [large, small]


def test_a_hand_in_that_came_damaged_is_asked_for(store: RedisStore, tmp_path: Path) -> None:
    blobs = store.blobs(tmp_path)
    digest = blobs.put(b"good")
    blobs.brought.bring([(digest, b"bad")])
    assert blobs.get(digest) == b"good"


def test_what_comes_and_is_not_asked_for_is_bounded(store: RedisStore, tmp_path: Path) -> None:
    blobs = store.blobs(tmp_path)
    blobs.brought.bring((f"{n:064x}", b"x") for n in range(1000))
    assert len(blobs.brought) == 256
    assert f"{999:064x}" in blobs.brought._held


def test_an_exchange_that_is_asked_for_again_brings_no_hand_ins_and_they_are_fetched(
    store: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = store.blobs(tmp_path)
    digest = blobs.put(b"data")
    store.submit([structs.replace(spec(), inputs=digest)])
    run = store._link.run
    lost = [True]

    def lose(verb: str, *arguments: Any, **how: Any) -> Any:
        answer = run(verb, *arguments, **how)
        if verb == "exchange" and lost.pop():
            raise StoreError("the answer was lost", id="store_unreachable")
        return answer

    monkeypatch.setattr(store._link, "run", lose)
    with pytest.raises(StoreError):
        store.exchange(claim=1)
    lost.append(False)
    (lease,) = store.exchange(claim=1).leases
    assert lease.inputs == digest
    assert not blobs.brought
    assert blobs.get(digest) == b"data"


def test_what_runs_is_listed_without_a_look_at_what_waits(server: Server, store: RedisStore) -> None:
    store.submit([spec(str(n), priority=n % 2) for n in range(1200)])
    leases = store.exchange(claim=3).leases
    before = int(server.client().info("stats")["total_commands_processed"])
    found = store.list(Query(states=(State.RUNNING,)))
    asked = int(server.client().info("stats")["total_commands_processed"]) - before
    assert [job.id for job in found] == [lease.job for lease in leases]
    assert [job.seq for job in found] == sorted(job.seq for job in found)
    assert asked < 10
    newest = store.list(Query(states=(State.RUNNING,), newest_first=True, limit=1))
    assert [job.id for job in newest] == [leases[-1].job]
    assert store.list(Query(states=(State.RUNNING,), student=leases[1].student)) == [found[1]]


def test_who_only_looks_writes_nothing(server: Server) -> None:
    looking = RedisStore(server.url())
    assert looking.list() == []
    assert looking.nodes() == []
    assert sum(looking.counts().values()) == looking.last_ended() == 0
    assert server.client().dbsize() == 0
    looking.submit([spec()])
    looking.close()
    assert server.client().hget("minitango:{default}:meta", "version") == b"1", "what was written says by whom"
