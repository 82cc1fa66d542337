"""A queue on Redis with sentinels, or on a cluster: URLs, what is found behind them, failovers, a slot that moves."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from redis import exceptions

from minitango import statedir
from minitango.doctor import Patient, shared
from minitango.errors import PASSING, ConfigError, StoreError
from minitango.job import Finish, JobSpec, Outcome, Result, State
from minitango.store import _redis_clients, _redis_link, _redis_way, is_redis, open_store, shown
from minitango.store._redis_errors import unconfirmed
from minitango.store._redis_url import Host, parse
from minitango.store._redis_way import SentinelWay, master_of, owner_of, way_to
from minitango.store.redis import RedisStore
from tests import redis_server, redis_several
from tests.redis_several import SERVICE, Cluster, Watched, until
from tests.support import PATIENCE, eventually

RESULT = Result(Outcome.GRADED, 1.0, 1.0)
ANSWERED = 2.0
"""Seconds within which a submission is answered, whatever became of its server."""
SLACK = 2.0
"""What a machine adds to that which others use as well."""


def spec(student: str = "ada", **more: Any) -> JobSpec:
    return JobSpec("hw", student, "s" * 64, "i" * 64, **more)


def refused(action: Any) -> StoreError:
    with pytest.raises(StoreError) as caught:
        action()
    assert caught.value.hint
    return caught.value


@pytest.fixture
def watched() -> Iterator[Watched]:
    """With three sentinels, to be hurt."""
    redis_server.need_redis()
    made = Watched(3)
    yield made
    made.remove()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """To be hurt, with a replica of the node that has the queue."""
    redis_server.need_redis()
    made = Cluster(replica=True)
    yield made
    made.remove()


@pytest.fixture
def quiet() -> Cluster:
    """That nobody hurts; slots may be moved in it."""
    redis_server.need_redis()
    made = redis_several.shared_cluster()
    made.flush()
    return made


# --- URLs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "hosts", "at", "service", "queue"),
    [
        ("redis+sentinel://h1,h2:5/mine", ["h1:26379", "h2:5"], "redis://x:1", "mine", ""),
        ("redis+sentinel://h1/mine/3?queue=cs101", ["h1:26379"], "redis://x:1/3", "mine", "cs101"),
        (
            "REDISS+Sentinel://u:p%40@h1/a.b-c?ssl_ca_certs=%2Fca.pem", ["h1:26379"],
            "rediss://u:p%40@x:1?ssl_ca_certs=%2Fca.pem", "a.b-c", "",
        ),
        ("redis+sentinel://[::1]:7,[::2]/mine", ["[::1]:7", "[::2]:26379"], "redis://x:1", "mine", ""),
        ("redis+cluster://h1,h2:7001?queue=q", ["h1:6379", "h2:7001"], "redis://x:1", "", "q"),
        ("rediss+cluster://:se%2Fcret@h1:7000,h1:7000/0", ["h1:7000"], "rediss://:se%2Fcret@x:1/0", "", ""),
    ],
)  # fmt: skip
def test_a_url_of_several_is_read(url: str, hosts: list[str], at: str, service: str, queue: str) -> None:
    place = parse(url)
    assert ([str(host) for host in place.hosts], place.at(Host("x", 1))) == (hosts, at)
    assert (place.service, place.queue) == (service, queue)
    for text in (place.shown, shown(url), place.look):
        assert "cret" not in text
        assert "p%40" not in text
    assert all(host in place.shown for host in hosts)
    assert is_redis(url)
    assert statedir.locate(url, None)[0] == url


def test_a_sentinels_own_password_is_read_and_not_shown() -> None:
    url = "redis+sentinel://u:s3cret@h1,h2/mine?sentinel_password=t0p%26secret&sentinel_user=watch&replicas=1"
    place = parse(url)
    assert place.sentinel_login == "watch:t0p%26secret@"
    assert place.sentinel_at(Host("h1", 1), "a:b@") == "redis://a:b@h1:1"
    assert place.replicas == 1
    assert place.shown == "redis+sentinel://u@h1:26379,h2:26379/mine"
    for text in (place.shown, shown(url), place.look):
        assert "s3cret" not in text
        assert "t0p" not in text


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+sentinel://h1,h2", "names no service"),
        ("redis+sentinel://h1/mine/x", "no database"),
        ("redis+sentinel://h1/mine/3?db=4", "two databases"),
        ("redis+sentinel://h1/my service", "blank"),
        ("redis+sentinel://h1/{mine}", "cannot be one"),
        ("redis+sentinel://h1,,h2/mine", "hosts cannot be read"),
        ("redis+sentinel://h1:0/mine", "hosts cannot be read"),
        ("redis+sentinel://h1:99999/mine", "hosts cannot be read"),
        ("redis+sentinel://:se/cret@h1/mine", "hosts cannot be read"),
        ("redis+sentinel://:secret@h1,:secret@h2/mine", "more than one"),
        ("redis+sentinel://h1/cret@h2/mine", "cannot be one"),
        ("redis+sentinel://h1/mine?sentinel_user=x", "no sentinel_password"),
        ("redis+sentinel://h1/mine?sentinel_password=secret&sentinel_password=secret", "twice"),
        ("redis+sentinel://h1/mine?replicas=some", "replicas"),
        ("redis+cluster://", "names no host"),
        ("redis+cluster://h1/2", "database 0 alone"),
        ("redis+cluster://h1?db=2", "database 0 alone"),
        ("redis+cluster://h1/mine", "no database"),
        ("redis+cluster://h1?sentinel_password=secret", "unknown parameter"),
        ("redis+clutter://h1:secret@h", "unknown scheme"),
        ("unix+sentinel:///run/s", "unknown scheme"),
        ("redis://h?replicas=10", "replicas"),
    ],
)
def test_a_url_of_several_that_cannot_be_used_says_why_and_tells_no_secret(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        open_store(url)
    assert caught.value.id == "store_url"
    assert "cret@" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.hint.startswith(("write redis", "use sqlite", "name the queue so"))


# --- what is found -------------------------------------------------------------------------------


def test_what_answers_is_of_another_kind(quiet: Cluster) -> None:
    server, watched = redis_server.shared(), redis_several.shared_watched()
    other = quiet.others[0].url(tcp=True)
    for url, scheme in [
        (f"redis+sentinel://127.0.0.1:{server.port}/mine", "sentinels"),
        (f"redis+cluster://127.0.0.1:{server.port}", "redis://"),
        (f"redis+cluster://127.0.0.1:{watched.sentinels[0].port}", "redis://"),
        (f"redis://127.0.0.1:{watched.sentinels[0].port}", "redis+sentinel://"),
        (other, "redis+cluster://"),
    ]:
        error = refused(lambda url=url: RedisStore(url))
        assert error.id == "redis_kind", (url, str(error))
        assert scheme in error.hint


def test_a_service_that_no_sentinel_knows() -> None:
    redis_server.need_redis()
    watched = redis_several.shared_watched()
    error = refused(lambda: RedisStore(watched.url().replace(SERVICE, "other")))
    assert error.id == "redis_service"
    assert "sentinel masters" in error.hint


def test_nobody_there_is_told_at_once() -> None:
    nobody = ",".join(f"127.0.0.1:{redis_server.free_port()}" for _ in range(3))
    for url, look in (
        (f"redis+sentinel://{nobody}/mine", "sentinel master mine"),
        (f"redis+cluster://{nobody}", "cluster nodes"),
    ):
        begun = time.monotonic()
        error = refused(lambda url=url: RedisStore(url))
        assert error.id == "store_unreachable"
        assert look in error.hint
        assert time.monotonic() - begun < ANSWERED


def test_one_sentinel_that_answers_is_enough_and_so_is_one_node(quiet: Cluster) -> None:
    gone = f"127.0.0.1:{redis_server.free_port()}"
    for url in (
        redis_several.shared_watched().url().replace("://", f"://{gone},"),
        f"redis+cluster://{gone},127.0.0.1:{quiet.others[1].port}",
    ):
        store = RedisStore(url)
        assert store.submit([spec()])
        store.close()


def test_sentinels_may_have_a_password_and_it_may_be_that_of_the_server() -> None:
    redis_server.need_redis()
    watched = Watched(password="s3cret")
    try:
        error = refused(lambda: RedisStore(watched.url()))
        assert error.id == "store_auth"
        assert "sentinel_password" in error.hint
        RedisStore(watched.url(more="sentinel_password=s3cret")).close()
        wrong = refused(lambda: RedisStore(watched.url(more="sentinel_password=wr0ng")))
        assert wrong.id == "store_auth"
        assert "wr0ng" not in str(wrong) + wrong.hint
        watched.master.client().config_set("requirepass", "s3cret")
        store = RedisStore(watched.url().replace("://", "://:s3cret@"))
        assert "s3cret" not in repr(store)
        store.close()
    finally:
        watched.remove()


@pytest.mark.parametrize(
    ("address", "more", "found"),
    [
        ([b"10.0.0.1", b"6379"], [b"name", b"m", b"config-epoch", b"7"], (Host("10.0.0.1", 6379), 7)),
        ([b"::1", b"6379"], exceptions.ResponseError("NOPERM"), (Host("::1", 6379), 0)),
        ([b"h", b"1"], [b"config-epoch", b"-1"], (Host("h", 1), 0)),
        ([b"h", b"1"], [b"config-epoch", [b"7"]], (Host("h", 1), 0)),
        (None, exceptions.ResponseError("ERR No such master with that name"), None),
        ([b"h"], [], ValueError),
        ([b"h", b"0"], [], ValueError),
        ([b"h", b"x"], [], ValueError),
        ([b"h/0?ssl=1", b"1"], [], ValueError),
        ([b"u:p@h", b"1"], [], ValueError),
        ([b"h\r\n", b"1"], [], ValueError),
        ([[b"h"], b"1"], [], ValueError),
        (b"h", [], ValueError),
        ({}, [], ValueError),
        (exceptions.ResponseError("odd"), [], exceptions.ResponseError),
    ],
)
def test_a_sentinels_answer_is_hostile_until_it_is_read(address: Any, more: Any, found: Any) -> None:
    if isinstance(found, type):
        with pytest.raises(found):
            master_of(address, more)
    else:
        assert master_of(address, more) == found


@pytest.mark.parametrize(
    ("reply", "owner"),
    [
        ([[0, 9, [b"a", 1, b"id"]], [10, 20, [b"b", 2, b"id"], [b"c", 3, b"id"]]], Host("b", 2)),
        ([[0, 16383, [None, 2, b"id"]]], Host("asked", 2)),
        ([[0, 16383, [b"", 2, b"id"]]], Host("asked", 2)),
        ([[0, 16383, [b"?", 2, b"id"]]], None),
        ([[0, 16383, [b"h", 99999, b"id"]]], None),
        ([[0, 16383, [b"h h", 1, b"id"]]], None),
        ([], None),
        ([[0, 9, [b"a", 1]]], None),
        (None, ValueError),
        (b"OK", ValueError),
        ([[0, 16383]], ValueError),
        ([[b"0", 16383, [b"a", 1]]], ValueError),
        ([[0, 16383, b"a"]], ValueError),
    ],
)
def test_a_nodes_answer_is_hostile_until_it_is_read(reply: Any, owner: Any) -> None:
    if owner is ValueError:
        with pytest.raises(ValueError, match="no slots"):
            owner_of(reply, 15, Host("asked", 9))
    else:
        assert owner_of(reply, 15, Host("asked", 9))[0] == owner


@pytest.mark.parametrize("said", [b"-MOVED 1 h:x\r\n", b"*1\r\n*1\r\n:5\r\n"])
def test_what_answers_nonsense_is_refused(said: bytes) -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with contextlib.suppress(OSError), connection:
                    while heard := connection.recv(1 << 16):
                        connection.sendall(said * max(1, heard.count(b"*")))

    threading.Thread(target=answer, daemon=True).start()
    where = f"127.0.0.1:{server.getsockname()[1]}"
    urls = [f"redis://{where}", f"redis+sentinel://{where}/mine", f"redis+cluster://{where}"]
    begun = time.monotonic()
    try:
        with ThreadPoolExecutor(3) as pool:
            for error in pool.map(lambda url: refused(lambda: RedisStore(url)), urls):
                assert error.id.startswith(("store_", "redis_"))
        assert time.monotonic() - begun < ANSWERED + SLACK
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def test_of_several_answers_that_of_the_latest_failover_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentinel was away, and names the old master."""
    way = SentinelWay(parse("redis+sentinel://h1,h2,h3/mine"))
    old, new = Host("old", 1), Host("new", 2)
    said = {"h1": (old, 3), "h2": (new, 4), "h3": (new, 4)}
    monkeypatch.setattr(way, "_ask", lambda sentinel, seconds: said[sentinel.name])
    assert way.clients().host == new


def test_a_master_that_answers_and_is_none_any_more_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be cut off from its sentinels, and not from us: what it accepts would be lost."""
    assert SentinelWay._sure_for <= 2.0, "what is accepted until then is lost"
    monkeypatch.setattr(SentinelWay, "_sure_for", 0.2)
    old, new = Host("old", 1), Host("new", 2)
    way = SentinelWay(parse("redis+sentinel://h1/mine"))
    answer = [(old, 1)]
    monkeypatch.setattr(way, "_ask", lambda sentinel, seconds: answer[0])
    assert way.clients().host == old
    answer[0] = (new, 2)
    assert way.clients().host == old
    time.sleep(0.25)
    assert way.clients().host == new
    assert way.turn == 2


def test_of_answers_of_equal_age_the_server_that_is_known_stays_unless_it_is_doubted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sentinels that may not say since when: one was away, and names the old master."""
    monkeypatch.setattr(SentinelWay, "_sure_for", 0.05)
    monkeypatch.setattr(_redis_way, "_PAUSE", 0.0)
    one, other = Host("one", 1), Host("other", 2)
    way = SentinelWay(parse("redis+sentinel://h1,h2/mine"))
    said = {"h1": (one, 0), "h2": (other, 0)}
    monkeypatch.setattr(way, "_ask", lambda sentinel, seconds: said[sentinel.name])
    clients = way.clients()
    assert clients.host == one
    said.update({"h1": (other, 0), "h2": (one, 0)})
    time.sleep(0.1)
    assert way.clients() is clients, "nothing speaks against it"
    for answers in (said, {"h1": (one, 0), "h2": (other, 0)}):
        monkeypatch.setattr(way, "_ask", lambda sentinel, seconds, answers=answers: answers[sentinel.name])
        before = way.clients()
        way.doubt(before, exceptions.ConnectionError())
        assert way.clients().host != before.host, "somebody names another"


def test_a_node_that_has_not_heard_of_a_failover_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the one that does not answer; another node knows better."""
    old, new = [b"old", 1, b"id"], [b"new", 2, b"id"]
    said = {"h1:6379": [[0, 16383, old]], "h2:6379": [[0, 16383, new]], "old:1": [], "new:2": []}
    asked: list[str] = []

    class Told:
        def __init__(self, url: str, seconds: float) -> None:
            self._where = url.removeprefix("redis://")

        def __enter__(self) -> Told:
            return self

        def __exit__(self, *_: object) -> None: ...

        def execute_command(self, *words: str) -> Any:
            asked.append(self._where)
            return said[self._where]

    monkeypatch.setattr(_redis_way, "Brief", Told)
    monkeypatch.setattr(_redis_way, "_PAUSE", 0.0)
    way = way_to(parse("redis+cluster://h1,h2"), "default")
    clients = way.clients()
    assert (clients.host, asked) == (Host("old", 1), ["h1:6379"])
    way.doubt(clients, exceptions.ConnectionError())
    assert way.clients().host == Host("new", 2)
    said["h1:6379"] = said["h2:6379"]
    asked.clear()
    way.doubt(way.clients(), exceptions.ConnectionError())
    assert way.clients().host == Host("new", 2), "nobody names another: it may be back"
    assert {"h1:6379", "h2:6379"} <= set(asked)


def test_the_clock_of_another_server_is_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    redis_server.need_redis()
    store = RedisStore(redis_server.shared().url())
    link, now = store._link, store.now()
    monkeypatch.setattr(link, "call", lambda verb, ask, **more: (5, 0))
    assert store.now() >= now, "between, our own runs on"
    link._way.turn += 1
    assert 5 <= store.now() < 5 + PATIENCE
    monkeypatch.undo()
    assert store.now() < 5 + PATIENCE, "once, for each server"
    store.close()


def test_sentinels_that_are_all_away_stop_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    redis_server.need_redis()
    monkeypatch.setattr(SentinelWay, "_sure_for", 0.0)
    watched = redis_several.shared_watched()
    store = RedisStore(watched.url())
    monkeypatch.setattr(store._link._way, "_known", [Host("127.0.0.1", redis_server.free_port())])
    time.sleep(0.11)
    assert store.submit([spec()])
    store.close()


# --- failovers -----------------------------------------------------------------------------------


def submits_within(store: RedisStore, student: str, patience: float = PATIENCE) -> float:
    """Submit until it is accepted; each try is answered in time. Returns the seconds that it took."""
    begun = time.monotonic()
    while True:
        tried = time.monotonic()
        with contextlib.suppress(StoreError):
            store.submit([spec(student, key=student)])
            return time.monotonic() - begun
        assert time.monotonic() - tried < ANSWERED + SLACK
        assert time.monotonic() - begun < patience, "nobody takes over"
        time.sleep(0.05)


def insists(action: Any) -> Any:
    """As an engine does: say it again until it is answered."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return action()
        except StoreError as error:
            if error.id not in PASSING or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def rides_out(url: str, hurt: Any) -> None:
    with closing(RedisStore(url)) as store, closing(RedisStore(url)) as other:
        _rides_out(store, other, hurt)


def _rides_out(store: RedisStore, other: RedisStore, hurt: Any) -> None:
    """What was accepted is there, what was claimed can be recorded once, and who watches hears."""
    ids = [one.id for one in store.submit([spec(str(n), key=str(n)) for n in range(5)])]
    first, second = store.exchange(claim=2).leases
    told = threading.Event()
    stop = store.watch(told.set)
    hurt()
    submits_within(other, "later")
    assert insists(lambda: store.exchange([Finish(first, RESULT)], claim=1)).settled[0].id == first.job
    assert store.extend([second]) == ()
    assert store.exchange([Finish(first, RESULT)]).refused == (first,)
    assert [job.id for job in other.list()][:5] == ids
    assert other.counts()[State.DONE] == 1
    told.clear()

    def heard() -> bool:
        other.submit([spec()])
        return told.wait(0.3)

    since = time.monotonic()
    eventually(heard, "the watch is deaf after a failover")
    assert time.monotonic() - since < 3 + SLACK, (
        "it is told where the queue is, and need not wait until its own is dead"
    )
    stop()


def test_a_master_is_killed(watched: Watched) -> None:
    def kill() -> None:
        watched.caught_up()
        watched.master.kill()

    rides_out(watched.url(), kill)


def test_a_master_hangs_and_comes_back_as_a_replica(watched: Watched) -> None:
    """Connections to it are half open: nothing on them is ever refused."""

    def hang() -> None:
        watched.caught_up()
        watched.master.freeze()
        watched.promoted()

    rides_out(watched.url(), hang)
    third = RedisStore(watched.url())
    watched.master.thaw()
    watched.demoted()
    assert third.submit([spec("third")])[0].created
    third.close()


def test_a_master_that_is_demoted_is_left_without_a_word(watched: Watched) -> None:
    """Nothing was down: who speaks to a replica, on a connection that is still there or on a new one, goes on."""
    store = RedisStore(watched.url())
    clients = store._link._way.clients()
    store.submit([spec()])
    watched.caught_up()
    watched.sentinels[0].client().execute_command("SENTINEL", "FAILOVER", SERVICE)
    watched.promoted()
    watched.demoted()
    with pytest.raises(exceptions.ReadOnlyError):
        clients.steady.ping()
    assert submits_within(store, "later") < ANSWERED + SLACK
    assert [job.student for job in store.list()] == ["ada", "later"]
    store.close()


def test_a_submit_is_answered_in_time_though_everybody_hangs(watched: Watched) -> None:
    """Each has its own share of the time, and together they leave some."""
    assert _redis_way._ASKING + _redis_clients.ANSWER <= ANSWERED - 0.15
    assert max(_redis_link._CONFIRM[0], _redis_way._EACH) < _redis_clients.ANSWER
    store = RedisStore(watched.url())
    store.submit([spec("before")])
    for one in (*watched.sentinels, *watched.servers):
        one.freeze()
    took = []
    for n in range(3):
        time.sleep(_redis_way.SURE_FOR)  # they are asked once more
        begun = time.monotonic()
        assert refused(lambda n=n: store.submit([spec(f"s{n}")])).id == "store_unreachable"
        took.append(time.monotonic() - begun)
    for one in (*watched.sentinels, *watched.servers):
        one.thaw()
    assert min(took) < ANSWERED, "2.01 s, where the shares make two"
    assert max(took) < ANSWERED + SLACK
    store.close()


@pytest.mark.parametrize(
    ("reached", "replicas", "said"),
    [
        (0, 1, "no replica has confirmed it in time, and one has to have it (replicas=1)"),
        (1, 2, "one replica has confirmed it in time, and 2 have to have it (replicas=2)"),
        (2, 3, "2 replicas have confirmed it in time, and 3 have to have it (replicas=3)"),
    ],
)
def test_what_is_not_confirmed_is_told_in_words(reached: int, replicas: int, said: str) -> None:
    assert said in str(unconfirmed(parse(f"redis://h?replicas={replicas}"), reached))


def test_a_clusters_node_is_killed(cluster: Cluster) -> None:
    def kill() -> None:
        cluster.caught_up()
        cluster.owner.kill()

    rides_out(cluster.url(), kill)


# --- a slot that moves ------------------------------------------------------------------------------


def test_a_slot_that_has_moved_is_found(quiet: Cluster) -> None:
    store = RedisStore(quiet.url())
    store.submit([spec("before")])
    told = threading.Event()
    stop = store.watch(told.set)
    quiet.migrate(quiet.others[0])
    quiet.others = [node for node in quiet.nodes[:3] if node is not quiet.owner]
    assert [job.student for job in store.list()] == ["before"], "read, where it is now"
    assert store.submit([spec("after")])[0].created
    assert f"-p {quiet.owner.port}" in store._link.cli
    assert store.counts()[State.QUEUED] == 2
    told.clear()
    other = RedisStore(quiet.url())
    other.submit([spec("more")])
    assert told.wait(PATIENCE)
    stop()
    other.close()
    store.close()


def test_while_a_slot_moves_nothing_is_torn(quiet: Cluster) -> None:
    """A script that begins on a node which has some of the keys would break off in its middle."""
    store = RedisStore(quiet.url())
    store.submit([spec(str(n), key=str(n)) for n in range(20)])
    (lease,) = store.exchange(claim=1).leases
    to = quiet.others[0]
    source, target = quiet.owner.client(), to.client()
    target.execute_command("CLUSTER", "SETSLOT", quiet.slot, "IMPORTING", quiet.id(quiet.owner))
    source.execute_command("CLUSTER", "SETSLOT", quiet.slot, "MIGRATING", quiet.id(to))

    def held() -> dict[bytes, Any]:
        found: dict[bytes, Any] = {}
        for client in (source, target):
            for key in client.scan_iter():
                read = {b"hash": "HGETALL", b"zset": "ZRANGE", b"set": "SMEMBERS", b"string": "GET"}

                def asking(*words: Any, client: Any = client) -> Any:
                    pipe = client.pipeline(transaction=False)
                    pipe.execute_command("ASKING")
                    pipe.execute_command(*words)
                    return pipe.execute()[1]

                kind = asking("TYPE", key)
                found[key] = asking(read[kind], key, *((0, -1) if kind == b"zset" else ()))
        return found

    before = held()
    for _ in range(2):
        begun = time.monotonic()
        error = refused(lambda: store.submit([spec("more")]))
        assert error.id == "store_busy"
        assert "is moving this queue to another of its nodes" in str(error)
        assert time.monotonic() - begun < ANSWERED + SLACK
        moved = list(source.scan_iter())[:20]
        source.execute_command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *moved)
    assert refused(store.list).id == "store_busy", "it is not taken for a queue with fewer jobs"
    assert held() == before, "nothing was written"
    done: list[Any] = []
    grading = threading.Thread(target=lambda: done.append(store.exchange([Finish(lease, RESULT)], claim=2)))
    grading.start()  # waits for the end of it
    quiet.migrate(to)
    quiet.others = [node for node in quiet.nodes[:3] if node is not quiet.owner]
    grading.join(PATIENCE)
    assert [job.id for job in done[0].settled] == [lease.job]
    assert len(done[0].leases) == 2
    assert store.counts()[State.QUEUED] == 17
    store.close()


def test_what_is_cleared_is_cleared_where_the_slot_is_now(quiet: Cluster) -> None:
    """A node that gave the slot away lists none of its keys, and refuses nobody who asks for a list."""
    store = RedisStore(quiet.url(), filling=True)
    assert store._link.run("load", ["begin", "token"]) == 1
    quiet.owner.client().set("minitango:{default}:left", "by one who died")
    quiet.migrate(quiet.others[0])
    quiet.others = [node for node in quiet.nodes[:3] if node is not quiet.owner]
    store._clear("token")
    assert not quiet.owner.client().exists("minitango:{default}:left")
    store.close()


def test_every_command_takes_such_a_url(quiet: Cluster, tmp_path: Path) -> None:
    watched = redis_several.shared_watched()
    watched.flush()
    store = RedisStore(quiet.url("course"))
    digest = store.blobs(tmp_path / "cache").put(b"a hand-in, and a plan")
    store.submit([JobSpec("hw", "ada", digest, digest)])
    store.close()

    def run(*words: str) -> str:
        environ = {**os.environ, "MINITANGO_STORE": quiet.url("course")}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "minitango", *words],
            capture_output=True, text=True, cwd=tmp_path, env=environ, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        return done.stdout + done.stderr

    assert "ada" in run("jobs")
    assert "ada" in run("jobs", "--store", quiet.url("course"))
    assert "redis+cluster://" in run("doctor")
    run("backup", "kept.tar")
    assert (tmp_path / "kept.tar").exists()
    run("migrate", quiet.url("course"), watched.url("moved"))
    assert "ada" in run("jobs", "--store", watched.url("moved"))
    assert "nobody" in run("nodes", "--store", watched.url("moved")).lower()
    (tmp_path / "minitango.toml").write_text(f'store = "{watched.url("moved")}"\n')
    assert "redis+sentinel://" in run("doctor", "--store", watched.url("moved"))
    assert not (tmp_path / "redis+cluster:").exists()


# --- what replicas have ---------------------------------------------------------------------------


def test_what_replicas_have_not_got_is_said() -> None:
    redis_server.need_redis()
    watched = Watched()
    try:
        store = RedisStore(watched.url(more="replicas=1"))
        store.submit([spec(str(n), key=str(n)) for n in range(3)])
        assert watched.replica.client().hget("minitango:{default}:meta", "n:queued") == b"3", "it is there already"
        (lease,) = store.exchange(claim=1).leases
        watched.replica.freeze()
        begun = time.monotonic()
        error = refused(lambda: store.submit([spec("more", key="more")]))
        assert time.monotonic() - begun < ANSWERED + SLACK
        assert error.id == "store_unconfirmed"
        assert "no replica has confirmed it in time, and one has to have it (replicas=1)" in str(error)
        assert "may have been accepted" in str(error)
        assert refused(lambda: store.cancel(lease.job)).id == "store_unconfirmed"
        blobs = store.blobs(watched.master.folder / "cache")
        assert refused(lambda: blobs.put(b"hand-in")).id == "store_unconfirmed"
        assert store.extend([lease]) == (), "what may be lost is not waited for"
        watched.replica.thaw()
        (again,) = store.submit([spec("more", key="more")])
        assert (again.created, again.state) == (False, State.QUEUED)
        assert store.counts()[State.QUEUED] == 3
        store.close()
    finally:
        watched.remove()


def test_an_answer_that_is_given_again_is_confirmed_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left to write then, and so nothing that replicas would be waited for."""
    redis_server.need_redis()
    watched = Watched()
    try:
        store = RedisStore(watched.url(more="replicas=1"))
        store.submit([spec()])
        (lease,) = store.exchange(claim=1).leases
        watched.replica.freeze()
        monkeypatch.setattr("minitango.store._redis_link._CONFIRM", (0.08, 0.5))
        for _ in range(2):
            assert refused(lambda: store.exchange([Finish(lease, RESULT)])).id == "store_unconfirmed"
            store._link._way.clients().steady.connection_pool.disconnect()  # a new one has written nothing
        assert store.unheard
        watched.replica.thaw()
        monkeypatch.setattr("minitango.store._redis_link._CONFIRM", (0.9, 3.0))
        assert [job.id for job in store.exchange().settled] == [lease.job]
        assert watched.replica.client().hget("minitango:{default}:meta", "n:done") == b"1"
        run, arguments = store._link.run, []
        monkeypatch.setattr(store._link, "run", lambda *words, **how: arguments.append(words) or run(*words, **how))
        store.submit([spec("bob")])
        words = arguments[-1][1]
        watched.replica.freeze()
        monkeypatch.setattr("minitango.store._redis_link._CONFIRM", (0.08, 0.5))
        store._link._way.clients().quick.connection_pool.disconnect()
        assert refused(lambda: run("submit", [words[0], words[1], "1", words[3]])).id == "store_unconfirmed"
        store.close()
    finally:
        watched.replica.thaw()
        watched.remove()


def test_a_server_of_ones_own_confirms_nothing() -> None:
    redis_server.need_redis()
    store = RedisStore(redis_server.shared().url() + "?replicas=1")
    assert refused(lambda: store.submit([spec()])).id == "store_unconfirmed"
    store.close()


# --- doctor -----------------------------------------------------------------------------------------


def test_doctor_warns_of_what_a_failover_may_lose(tmp_path: Path) -> None:
    redis_server.need_redis()
    watched = Watched()

    def look(more: str = "") -> Any:
        return next(iter(shared.look(Patient(watched.url(more=more), tmp_path, flags=""))))

    try:
        check = look()
        assert check.verdict == "warning"
        assert "replicas=1" in check.next
        assert "min-replicas-to-write" in check.next
        assert f"redis-cli -h 127.0.0.1 -p {watched.master.port}" in check.next
        assert look("replicas=1").verdict == "ok"
        assert "until 2 have it" in look("replicas=2").text
        watched.master.client().config_set("min-replicas-to-write", 1)
        assert look().verdict == "ok"
        watched.master.client().config_set("min-replicas-to-write", 0)
        watched.replica.kill()
        until(lambda: watched.master.client().info("replication")["connected_slaves"] == 0, "it is still there")
        assert "nobody takes over" in look().text
    finally:
        watched.remove()


def test_too_few_replicas_are_an_outage(watched: Watched) -> None:
    """With min-replicas-to-write the server refuses, and nothing was done."""
    store = RedisStore(watched.url())
    watched.master.client().config_set("min-replicas-to-write", 2)
    error = refused(lambda: store.submit([spec()]))
    assert error.id == "store_busy"
    assert store.list() == []
    store.close()


def test_another_server_is_looked_at_before_it_is_given_work(watched: Watched) -> None:
    """The one that took over may keep nothing."""
    watched.replica.client().config_set("appendonly", "no")
    store = RedisStore(watched.url(more="durability=require"))
    store.submit([spec()])
    (lease,) = store.exchange(claim=1).leases
    watched.caught_up()
    watched.sentinels[0].client().execute_command("SENTINEL", "FAILOVER", SERVICE)
    watched.promoted()

    def unsafe() -> bool:
        try:
            store.submit([spec("more", key="more")])
        except StoreError as error:
            return error.id == "redis_not_durable"
        return False

    eventually(unsafe, "it is trusted")
    assert store.exchange([Finish(lease, RESULT)]).settled, "what runs is recorded all the same"
    store.close()
