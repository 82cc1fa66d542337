"""Nodes: several engines on one queue, who takes what from whom, and what a node is called."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs

from minitango import leases, statedir
from minitango import node as node_module
from minitango.engine import Engine
from minitango.errors import ConfigError, JobNotFound, StoreError
from minitango.events import Event
from minitango.job import State
from minitango.node import Membership
from minitango.sandbox import End
from minitango.store import Node, Query, _redis_link, open_store
from minitango.store.redis import RedisStore
from minitango.testing import FakeRun, FakeSandbox
from tests import redis_server
from tests.contract.test_store import Clock
from tests.redis_server import Server
from tests.support import PATIENCE, Gate, assignment, eventually, open_engine, scoring, submission


@pytest.fixture
def server() -> Server:
    redis_server.need_redis()
    redis_server.shared().client().flushall()
    return redis_server.shared()


@pytest.fixture
def own() -> Iterator[Server]:
    redis_server.need_redis()
    made = Server()
    yield made
    made.remove()


def node(server: Server, tmp_path: Path, name: str, inside: Any = None, **options: Any) -> Engine:
    return open_engine(server.url(), inside or scoring(10), state=tmp_path / name, name=name, **options)


def students(text: bytes = b"x") -> list[Any]:
    return [submission(f"s{n}", b"%d" % n) for n in range(40)]


# --- grading together --------------------------------------------------------------------------


def test_two_nodes_share_the_work(server: Server, tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def meet(run: FakeRun) -> End:
        both.wait(20)
        return scoring(10)(run)

    with (
        node(server, tmp_path, "a", meet, workers=1) as one,
        node(server, tmp_path, "b", meet, workers=1) as two,
        Engine.open(server.url(), workers=0, state=tmp_path / "c") as submitter,
    ):
        handles = submitter.submit_many([submission("ada"), submission("bob")])
        assert [handle.result(20).score for handle in handles] == [10, 10]
        assert {one.store.attempts(handle.id)[0].node for handle in handles} == {"a", "b"}
        assert [(each.name, each.slots) for each in two.store.nodes()] == [("a", 1), ("b", 1)]
    assert open_store(server.url()).nodes() == [], "who stops in good order is off the list"


def test_results_come_to_whoever_waits_for_them(server: Server, tmp_path: Path) -> None:
    with node(server, tmp_path, "a"), Engine.open(server.url(), workers=0, state=tmp_path / "c") as submitter:
        handles = submitter.submit_many(students())
        assert {handle.result(30).score for handle in handles} == {10}
        assert [handle.id for handle in submitter.submit_many(students())] == [handle.id for handle in handles]


def test_a_node_takes_what_it_offers(server: Server, tmp_path: Path) -> None:
    gpu = assignment("cuda", needs=("gpu", "large"))
    with node(server, tmp_path, "plain") as plain:
        waits = plain.submit(submission(of=gpu))
        assert plain.submit(submission()).result(20).score == 10
        assert waits.job().state is State.QUEUED
        assert waits.job().lane == "gpu,large"
        with node(server, tmp_path, "big", capabilities=["large", "gpu", "gpu"]) as big:
            assert waits.result(20).score == 10
            assert big.store.attempts(waits.id)[0].node == "big"
            assert [each.capabilities for each in big.store.nodes()] == [("gpu", "large"), ()]


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_drained_node_begins_nothing_and_ends_what_it_has(kind: str, tmp_path: Path, request: Any) -> None:
    where = f"sqlite:///{tmp_path}/a/queue.db" if kind == "sqlite" else request.getfixturevalue("server").url()
    events: list[Event] = []
    gate = Gate()
    with open_engine(where, gate, state=tmp_path / "a", name="a", workers=1, on_event=events.append) as engine:
        first = engine.submit(submission("ada"))
        gate.wait_entered()
        other = open_store(where)
        assert other.drain("a")
        eventually(lambda: [event.kind for event in events if event.kind == "paused"] == ["paused"])
        second = engine.submit(submission("bob"))
        gate.open.set()
        assert first.result(20).score == 10
        time.sleep(0.3)
        assert second.job().state is State.QUEUED
        other.drain("a", False)
        assert second.result(20).score == 10
        other.drain("a")
        other.close()
    with open_engine(where, scoring(10), state=tmp_path / "a", name="a") as engine:
        handle = engine.submit(submission("eve"))
        time.sleep(0.3)
        assert handle.job().state is State.QUEUED, "after a restart, too"
        engine.store.drain("a", False)
        assert handle.result(20).score == 10


# --- nodes that are gone -----------------------------------------------------------------------


def test_the_jobs_of_a_dead_node_go_to_others_when_their_leases_lapse(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "REAP", 0.05)
    monkeypatch.setitem(_redis_link._CONSTANTS, "SETTLE", 0)
    dead = RedisStore(server.url())
    events: list[Event] = []
    with node(server, tmp_path, "alive", lease_for=1.0, on_event=events.append, paused=True) as engine:
        handle = engine.submit(submission())
        (lease,) = dead.exchange(claim=1, node="dead", lease_for=1.0).leases
        begun = time.monotonic()
        engine.resume()
        assert handle.result(30).score == 10
        assert time.monotonic() - begun > 0.9, "not before"
        assert [each.ended_by for each in dead.attempts(handle.id)] == ["reap", "finish"]
        assert dead.extend([lease]) == (lease,)
        assert "recovered" in [event.kind for event in events]
        job = engine.store.get(handle.id)
        assert (job.failures, job.interruptions) == (0, 1)
    dead.close()


def test_a_node_takes_its_own_jobs_back_at_once_and_leaves_those_of_others(server: Server, tmp_path: Path) -> None:
    with node(server, tmp_path, "a", paused=True) as engine:
        engine.submit_many([submission("ada"), submission("bob")])
    killed = RedisStore(server.url())
    (mine,) = killed.exchange(claim=1, node="a", lease_for=600).leases
    (other,) = killed.exchange(claim=1, node="b", lease_for=600).leases
    with node(server, tmp_path, "a") as engine:
        assert engine.job(mine.job).result(20).score == 10
        assert engine.store.get(other.job).state is State.RUNNING
    killed.close()


def test_a_slow_node_is_refused_and_ends_what_it_runs(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had been stopped past its leases: the others have its job, and it hears of it."""
    gate, events = Gate(), []
    with node(server, tmp_path, "slow", gate, workers=1, lease_for=0.6, on_event=events.append) as slow:
        handle = slow.submit(submission())
        gate.wait_entered()
        monkeypatch.setattr(slow.store, "extend", lambda *a, **k: ())  # it sleeps
        monkeypatch.setattr(slow.store, "reap", list)
        other = RedisStore(server.url())
        eventually(lambda: bool(other.reap()))
        (lease,) = other.exchange(claim=1, node="other", lease_for=60).leases
        monkeypatch.undo()
        eventually(lambda: not slow._grading._pool._work.running)  # type: ignore[union-attr]
        assert other.get(handle.id).state is State.RUNNING, "its word did not count"
        assert other.extend([lease], lease_for=60) == ()
        other.close()


# --- a server that is away -----------------------------------------------------------------------


def test_running_jobs_end_and_are_recorded_when_the_server_is_back(own: Server, tmp_path: Path) -> None:
    gate, events = Gate(), []
    with node(own, tmp_path, "a", gate, workers=2, on_event=events.append) as engine:
        running = engine.submit_many([submission("ada"), submission("bob")])
        queued = engine.submit(submission("eve"))
        gate.wait_entered()
        gate.wait_entered()
        time.sleep(1.2)  # appendfsync everysec
        own.kill()
        begun = time.monotonic()
        with pytest.raises(StoreError) as caught:
            engine.submit(submission("late"))
        assert caught.value.id == "store_unreachable"
        assert time.monotonic() - begun < 4
        gate.open.set()
        eventually(lambda: "store_trouble" in [event.kind for event in events])
        time.sleep(0.5)
        own.start()
        assert [handle.result(30).score for handle in [*running, queued]] == [10, 10, 10]
        assert {job.failures + job.interruptions for job in engine.jobs()} == {0}
        assert engine.error is None


def test_an_engine_that_is_open_says_soon_that_the_server_hangs(own: Server, tmp_path: Path) -> None:
    with Engine.open(own.url(), workers=0, state=tmp_path / "a") as engine:
        engine.submit(submission("ada"))
        own.freeze()
        begun = time.monotonic()
        with pytest.raises(StoreError) as caught:
            engine.submit(submission("bob"))
        assert caught.value.id == "store_unreachable"
        assert time.monotonic() - begun < 4, "2 s, and what a machine under load adds"
        own.thaw()


def test_a_claim_whose_answer_was_lost_goes_back_when_the_engine_stops(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with node(server, tmp_path, "a", workers=1, paused=True) as engine:
        handle = engine.submit(submission())
        store = engine.store
        assert isinstance(store, RedisStore)
        run, lost = store._link.run, threading.Event()

        def lose(verb: str, arguments: Any, **options: Any) -> Any:
            answer = run(verb, arguments, **options)
            if verb == "exchange" and not lost.is_set():
                lost.set()
                engine.request_stop()
                raise StoreError("the answer was lost", id="store_unreachable")
            return answer

        monkeypatch.setattr(store._link, "run", lose)
        engine.resume()
        assert lost.wait(20)
    again = RedisStore(server.url())
    job = again.get(handle.id)
    assert (job.state, job.interruptions) == (State.QUEUED, 0)
    again.close()


def test_nothing_is_reaped_for_a_while_after_the_server_was_away(
    own: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "REAP", 0.05)
    monkeypatch.setitem(_redis_link._CONSTANTS, "DEAF", 2)
    lasting = RedisStore(own.url())
    with node(own, tmp_path, "a", paused=True, lease_for=30) as engine:
        handle = engine.submit(submission())
        time.sleep(4.5)  # engines begin to take from others after a while
        (lease,) = lasting.exchange(claim=1, node="b", lease_for=2.0).leases
        own.freeze()
        time.sleep(4)
        own.thaw()
        time.sleep(0.3)
        assert lasting.extend([lease], lease_for=60) == (), "whoever could not speak meanwhile still has its job"
        assert handle.job().interruptions == 0
    lasting.close()


class Beats:
    """A shared store, of which only the signs of life are looked at."""

    shared = True

    def __init__(self) -> None:
        self.count = 0
        self.drained = False

    def beat(self, node: Node, **_: Any) -> bool:
        self.count += 1
        return self.drained


def test_what_others_do_has_a_node_look_soon_and_not_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a queue on which much goes on it is told many times a second."""
    clock, store, told = Clock(), Beats(), list[bool]()
    monkeypatch.setattr(node_module, "time", SimpleNamespace(monotonic=clock))
    member = Membership(cast(Any, store), Node("a", "i", host="h", pid=7))

    def look(after: float, *, changed: bool) -> int:
        clock.advance(after)
        member.look(0, changed=changed, told=lambda on, why: told.append(on))
        return store.count

    assert look(0.0, changed=True) == 1
    assert {look(0.01, changed=True) for _ in range(40)} == {1}
    store.drained = True
    assert look(0.2, changed=False) == 2, "a drain is seen within a second, though nothing more is told"
    assert told == [True]
    assert look(node_module.BEAT - 0.1, changed=False) == 2
    assert look(0.2, changed=False) == 3, "and all the same after a while"


# --- names ---------------------------------------------------------------------------------------


def known(store: RedisStore, name: str, instance: str, *, good_for: float = 60) -> None:
    store.beat(Node(name, instance, host="elsewhere", pid=7, good_for=good_for))


def join(store: RedisStore, folder: Path, name: str = "") -> Membership:
    return Membership.join(store, folder, name=name, workers=1, sandbox="fake", capabilities=())


def test_a_directory_keeps_its_name(server: Server, tmp_path: Path) -> None:
    store = RedisStore(server.url())
    first = join(store, tmp_path).node
    again = join(store, tmp_path).node
    assert again.name == first.name, "its predecessor's sign of life is still warm"
    assert again.instance != first.instance
    assert first.name.startswith(socket.gethostname().split(".")[0][:8])
    store.close()


def test_a_copied_directory_is_another_node(server: Server, tmp_path: Path) -> None:
    store = RedisStore(server.url())
    first = join(store, tmp_path).node
    store.beat(structs.replace(first, instance="the original, started again"), after=[first.instance])
    assert join(store, tmp_path).node.name != first.name
    kept = json.loads((tmp_path / "node.json").read_text())
    (tmp_path / "node.json").write_text(json.dumps({**kept, "host": "elsewhere"}))
    assert join(store, tmp_path).node.name != kept["name"], "also on another machine, where nobody tells"
    (tmp_path / "node.json").write_text("[rubbish")
    assert join(store, tmp_path).node.name
    store.close()


@pytest.mark.parametrize("how", ["cp", "shutil"])
def test_a_directory_that_was_copied_while_its_engine_lives_leaves_that_one_alone(
    server: Server, tmp_path: Path, how: str
) -> None:
    gate = Gate()
    with open_engine(server.url(), gate, state=tmp_path / "a", workers=1) as original:
        handle = original.submit(submission("ada"))
        gate.wait_entered()
        if how == "cp":
            subprocess.run(["cp", "-a", str(tmp_path / "a"), str(tmp_path / "b")], check=True)
        else:
            shutil.copytree(tmp_path / "a", tmp_path / "b")
        with open_engine(server.url(), scoring(1), state=tmp_path / "b", workers=1) as copy:
            assert copy.node != original.node
            assert handle.job().node == original.node
        gate.open.set()
        assert handle.result(20).score == 10
        assert [each.ended_by for each in original.store.attempts(handle.id)] == ["finish"]
    (tmp_path / "a").rename(tmp_path / "moved")
    store = RedisStore(server.url())
    assert join(store, tmp_path / "moved").node.name == original.node, "it is the same one"
    store.close()


class Killed(BaseException):
    """As `kill -9`, at this point."""


@pytest.mark.parametrize("at", ["before_commit", "after_commit"])
@pytest.mark.parametrize("name", ["", "lab"])
def test_an_engine_that_was_killed_while_it_became_known_keeps_its_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, name: str
) -> None:
    store = RedisStore(server.url())
    called = join(store, tmp_path, name).node.name

    def die(point: str) -> None:
        if point == f"store.nodes.{at}":
            raise Killed

    monkeypatch.setattr(_redis_link, "failpoint", die)
    for _ in range(3):
        with pytest.raises(Killed):
            join(store, tmp_path, name)
    monkeypatch.undo()
    assert join(store, tmp_path, name).node.name == called
    assert [each.name for each in store.nodes()] == [called]
    store.close()


def test_what_came_before_is_noted_until_a_node_is_known(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the store knows no other instance of it: what is noted does not grow with each start."""
    store, real = RedisStore(server.url()), RedisStore.beat
    noted: list[dict[str, str]] = []

    def beat(self: RedisStore, node: Node, **more: Any) -> bool:
        noted.append(statedir.last_node(tmp_path))
        return real(self, node, **more)

    monkeypatch.setattr(RedisStore, "beat", beat)
    instances = [join(store, tmp_path, "a").node.instance for _ in range(3)]
    assert [note.get("before") for note in noted] == ["", *instances[:2]]
    assert [note["instance"] for note in noted] == instances
    note = {"name": "a", "host": node_module.machine(), "instance": instances[-1]}
    assert statedir.last_node(tmp_path) == note
    store.close()


def test_of_two_that_start_together_under_one_name_one_is_refused(server: Server, tmp_path: Path) -> None:
    stores = [RedisStore(server.url()) for _ in range(8)]
    together = threading.Barrier(len(stores))
    joined: list[str] = []

    def start(number: int) -> None:
        (tmp_path / f"{number}").mkdir()
        together.wait(20)
        try:
            joined.append(join(stores[number], tmp_path / f"{number}", "lab").node.instance)
        except ConfigError as error:
            joined.append(error.id)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert joined.count("node_taken") == len(stores) - 1
    assert stores[0].nodes()[0].instance in joined
    for store in stores:
        store.close()


def test_a_name_that_was_refused_is_not_taken_on(server: Server, tmp_path: Path) -> None:
    store = RedisStore(server.url())
    join(store, tmp_path, "a")
    known(store, "lab", "x")
    with pytest.raises(ConfigError):
        join(store, tmp_path, "lab")
    assert join(store, tmp_path).node.name == "a"
    store.close()


def test_an_engine_whose_name_another_took_meanwhile_begins_nothing_until_it_is_free(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had been asleep for longer than its word is good for."""
    monkeypatch.setattr(node_module, "BEAT", 0.1)
    store, events = RedisStore(server.url()), list[Event]()
    with node(server, tmp_path, "a", on_event=events.append) as engine:
        (mine,) = store.nodes()
        successor = structs.replace(mine, instance="its successor", host="elsewhere")
        store.beat(successor, after=[mine.instance])
        eventually(lambda: any(event.kind == "paused" and "elsewhere" in event.message for event in events))
        handle = engine.submit(submission())
        time.sleep(0.5)
        assert handle.job().state is State.QUEUED
        assert store.nodes()[0].instance == "its successor"
        store.leave("a", "its successor")
        assert handle.result(20).score == 10
        assert [event.kind for event in events if event.kind in ("paused", "resumed")] == ["paused", "resumed"]
    store.close()


@pytest.mark.parametrize("what", ["minitango.statedir.watch_over", "minitango.grading.kept_for"])
def test_an_engine_that_does_not_start_is_no_node(
    server: Server, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **more: Any) -> Any:
        raise StoreError("it cannot be looked at", id="state")

    monkeypatch.setattr(what, fail)
    with pytest.raises(StoreError, match="cannot be looked at"):
        open_engine(server.url(), scoring(1), state=tmp_path)
    assert open_store(server.url()).nodes() == []


def test_a_wanted_name_that_is_taken_is_refused(server: Server, tmp_path: Path) -> None:
    store = RedisStore(server.url())
    known(store, "lab", "x")
    with pytest.raises(ConfigError) as caught:
        node(server, tmp_path, "lab")
    assert caught.value.id == "node_taken"
    assert "elsewhere" in str(caught.value)
    known(store, "lab", "x", good_for=0)
    node(server, tmp_path, "lab").stop(grace=0)
    store.close()


@pytest.mark.parametrize("wrong", ["", "a b", "-x", "x" * 65, 7])
def test_labels_are_checked(server: Server, tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        node(server, tmp_path, "a", capabilities=[wrong])
    assert caught.value.id == "label"


def test_only_this_instance_takes_itself_off_the_list(server: Server, tmp_path: Path) -> None:
    store = RedisStore(server.url())
    with node(server, tmp_path, "a") as engine:
        (mine,) = engine.store.nodes()
        store.beat(structs.replace(mine, instance="a later one"), after=[mine.instance])
    assert [each.instance for each in store.nodes()] == ["a later one"]
    store.close()


# --- the directory and the engine ------------------------------------------------------------------


def test_one_engine_a_state_directory(server: Server, tmp_path: Path) -> None:
    with node(server, tmp_path, "a"), pytest.raises(StoreError) as caught:
        open_engine(server.url(), scoring(1), state=tmp_path / "a", name="b")
    assert caught.value.id == "engine_running"


def test_blobs_in_a_directory_that_nodes_share(server: Server, tmp_path: Path) -> None:
    with (
        node(server, tmp_path, "a", blobs=tmp_path / "nfs"),
        Engine.open(server.url(), workers=0, state=tmp_path / "c", blobs=tmp_path / "nfs") as submitter,
    ):
        assert submitter.submit(submission()).result(20).score == 10
    assert not list(server.client().scan_iter("*:b:*"))
    assert any((tmp_path / "nfs").rglob("*"))


def test_a_node_that_does_not_see_the_files_harms_no_job(server: Server, tmp_path: Path) -> None:
    """As one whose shared directory is not mounted: it goes back, and the others grade it."""
    events: list[Event] = []
    shared = tmp_path / "nfs"
    with (
        node(server, tmp_path, "bad", blobs=tmp_path / "empty", on_event=events.append) as bad,
        Engine.open(server.url(), workers=0, state=tmp_path / "c", blobs=shared) as submitter,
    ):
        handles = submitter.submit_many(students())
        eventually(lambda: "paused" in [event.kind for event in events])
        with node(server, tmp_path, "good", blobs=shared):
            assert {handle.result(60).score for handle in handles} == {10}
        assert {job.failures for job in bad.jobs()} == {0}


def test_a_sandbox_object_is_closed_with_its_engine(server: Server, tmp_path: Path) -> None:
    sandbox = FakeSandbox(scoring(3))
    with Engine.open(server.url(), workers=1, sandbox=sandbox, state=tmp_path / "a") as engine:
        assert engine.submit(submission()).result(20).score == 3
        assert engine.jobs(Query(states=(State.DONE,)))


def test_that_a_server_lost_everything_is_told(server: Server, tmp_path: Path) -> None:
    gate, events = Gate(1), []
    with node(server, tmp_path, "a", gate, on_event=events.append) as engine:
        handle = engine.submit(submission())
        gate.wait_entered()
        server.client().flushall()
        with pytest.raises(JobNotFound):
            handle.result(PATIENCE)
        eventually(lambda: "lease_lost" in [event.kind for event in events])
        gate.open.set()
    said = [event.message for event in events if event.kind == "lease_lost"]
    assert all(f"job {handle.id} is gone from the queue" in message for message in said)
    assert "submit its work again" in said[0]
