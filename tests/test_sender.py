"""The sender, over real stores and real receivers; only the hours are a test's own."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minitango import Callbacks, ConfigError, Delivery, Event, sender
from minitango.callbacks import Call, Verdict
from minitango.errors import JobNotFound, MinitangoError, StoreError
from minitango.job import Finish, Job, JobSpec, Outcome, Result, State
from minitango.retry import DELIVER_FOR, MIN_DELIVERIES, MOST_DELIVERY_BACKOFF, MOST_DELIVERY_WAIT, after_delivery
from minitango.sender import Sender
from minitango.store import Errand, Query, Store, open_store
from minitango.store.redis import RedisStore
from minitango.store.sqlite import SqliteStore
from tests import redis_server
from tests.contract.test_store import Clock
from tests.receiver import OK, Receiver, Request, answer, hang, receiving
from tests.support import PATIENCE, eventually, open_engine, refuse_threads, scoring, submission

ROOT = Path(__file__).parent.parent
HERE = Callbacks(allow=("127.0.0.1",))
RESULT = Result(Outcome.GRADED, 1.0, 1.0)


# --- how long it is tried -----------------------------------------------------------------------


def test_the_back_off_doubles_to_ten_minutes() -> None:
    waits = [after_delivery(n, lasting=0, chance=0.5) for n in range(1, 14)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600]
    assert after_delivery(3, lasting=0, chance=0) == 3
    assert after_delivery(3, lasting=0, chance=1) == 5


def test_it_is_given_up_after_days_and_many_tries() -> None:
    over = DELIVER_FOR + 1
    assert after_delivery(MIN_DELIVERIES, lasting=over, chance=0.5) is None
    assert after_delivery(MIN_DELIVERIES - 1, lasting=over, chance=0.5) == MOST_DELIVERY_BACKOFF, "it was away itself"
    assert after_delivery(10_000, lasting=DELIVER_FOR, chance=0.5) == MOST_DELIVERY_BACKOFF


def test_a_receiver_may_ask_for_more_within_bounds() -> None:
    assert after_delivery(1, lasting=0, chance=0.5, asked=120) == 120
    assert after_delivery(10, lasting=0, chance=0.5, asked=1) == 512
    assert after_delivery(1, lasting=0, chance=0.5, asked=1e9) == MOST_DELIVERY_WAIT


# --- a sender, a store, and a clock that is a test's --------------------------------------------


def url_of(kind: str, path: Path) -> str:
    """A fresh place for a queue."""
    if kind == "sqlite":
        return f"sqlite:///{path}/queue.db"
    redis_server.need_redis()
    redis_server.shared().client().flushall()
    return redis_server.shared().url("callbacks")


def store_of(kind: str, path: Path, clock: Callable[[], float], url: str = "") -> Store:
    if kind == "sqlite":
        return SqliteStore(path / "queue.db", clock=clock)
    return RedisStore(url or url_of(kind, path), clock=clock)


KINDS = ["sqlite", "redis"]


class Bench:
    """A sender over a store whose clock only this moves; `post` stands for the network unless it is real."""

    def __init__(
        self, path: Path, post: Callable[[Call, Errand, bytes], Verdict] | None = None, *, kind: str = "sqlite"
    ) -> None:
        self.clock = Clock()
        self.store = store_of(kind, path, self.clock)
        self.told: list[tuple[str, str]] = []
        self.troubles: list[str | None] = []
        self.sender = Sender(self.store, HERE, self.tell, self.trouble, post=post, chance=lambda: 0.5, clock=self.clock)

    def tell(self, kind: str, job: Job | None = None, message: str = "") -> None:
        self.told.append((kind, message))

    def trouble(self, whose: str, error: StoreError | None) -> None:
        assert whose == "sender"
        self.troubles.append(None if error is None else str(error))

    def job(self, url: str, student: str = "ada") -> str:
        (made,) = self.store.submit([JobSpec("hw", student, "s", "i", callback=url)])
        (lease,) = self.store.exchange(claim=1).leases
        self.store.exchange([Finish(lease, RESULT)])
        self.sender.wake()
        return made.id

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.sender.wake()

    def tries(self, id: str) -> int:
        told = self.store.callback(id)
        assert told is not None
        return told.tries

    def delivery(self, id: str) -> Delivery | None:
        return self.store.get(id).delivery

    def close(self) -> None:
        self.sender.stop(0)
        self.store.close()


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, kind=request.param)
    made.sender.start()
    yield made
    made.close()


def test_a_receiver_that_is_down_and_then_fails_has_it_in_the_end(bench: Bench) -> None:
    """Ten minutes without anybody there, then 500s, then well: delivered once, the job's state unaffected."""
    with receiving() as gone:
        port = gone.port
    job_id = bench.job(f"http://127.0.0.1:{port}/graded")
    before = bench.store.get(job_id)
    began = bench.clock.time

    def gap() -> float:
        """Seconds until the next try; while one is under way, until that lapses."""
        told = bench.store.callback(job_id)
        assert told is not None
        assert told.due is not None
        return told.due - bench.clock.time

    for n in range(1, 11):
        eventually(lambda n=n: bench.tries(job_id) == n, f"try {n} was not made")  # type: ignore[misc]
        eventually(lambda n=n: round(gap()) == 2 ** (n - 1), f"try {n + 1} comes at another time")  # type: ignore[misc]
        assert "Connection refused" in bench.store.callback(job_id).error  # type: ignore[union-attr]
        bench.pass_time(gap() - 0.01)
        if n < 10:
            bench.pass_time(0.02)
    assert bench.clock.time - began > 600
    failing = Receiver(lambda connection, request: answer(500), port=port)
    bench.pass_time(0.02)
    for n in (11, 12):
        eventually(lambda n=n: bench.tries(job_id) == n, f"try {n} was not made")  # type: ignore[misc]
        assert "status 500" in bench.store.callback(job_id).error  # type: ignore[union-attr]
        assert bench.delivery(job_id) is Delivery.PENDING
        bench.pass_time(601)
    failing.behave = lambda connection, request: OK
    bench.pass_time(601)
    eventually(lambda: bench.delivery(job_id) is Delivery.DELIVERED, "it was not delivered")
    keys = [request.key for request in failing.requests]
    assert len(keys) >= 3
    assert set(keys) == {job_id}, "the key is stable"
    assert len({request.body for request in failing.requests}) == 1
    bench.pass_time(1e5)
    after = bench.store.get(job_id)
    assert (after.state, after.ended, after.score, after.failures) == (State.DONE, before.ended, 1.0, 0)
    eventually(lambda: [kind for kind, _ in bench.told if kind != "callback_failed"] == ["callback_delivered"])
    failing.close()


def test_what_cannot_go_well_is_given_up_at_once_and_can_be_asked_for(bench: Bench) -> None:
    with receiving(lambda connection, request: answer(410)) as receiver:
        job_id = bench.job(receiver.url())
        eventually(lambda: bench.delivery(job_id) is Delivery.UNDELIVERED, "it was not given up")
        eventually(lambda: bool(bench.told), "nobody was told")
        (kind, message), *_ = bench.told
        assert kind == "callback_undelivered"
        assert "status 410" in message
        assert f"minitango jobs redeliver {job_id}" in message
        assert [job.id for job in bench.store.list(Query(delivery=(Delivery.UNDELIVERED,)))] == [job_id]
        receiver.behave = lambda connection, request: OK
        bench.store.redeliver(job_id)
        bench.sender.wake()
        eventually(lambda: bench.delivery(job_id) is Delivery.DELIVERED, "it was not delivered")
        assert len(receiver.requests) == 2


def spoil(bench: Bench, id: str, field: str, value: object) -> None:
    """Damage one field of a job's record, or its whole result."""
    if isinstance(bench.store, SqliteStore):
        with contextlib.closing(sqlite3.connect(bench.store._db.path)) as db, db:
            if field == "result":
                db.execute("UPDATE results SET result = ?", (value,))
            else:
                db.execute(f"UPDATE jobs SET {field} = ? WHERE id = ?", (value, id))
        return
    client, queue = redis_server.shared().client(), "minitango:{callbacks}:"
    if field == "result":
        client.set(f"{queue}r:{id}", str(value))
    else:
        client.hset(f"{queue}j:{id}", field, str(value))


@pytest.mark.parametrize(("field", "value"), [("labels", "{not json"), ("result", b"{not json")])
def test_a_job_whose_record_is_damaged_is_given_up(bench: Bench, field: str, value: object) -> None:
    """Or its job could never be forgotten. Others are delivered."""
    with receiving() as receiver:
        bench.sender._begin, begin = lambda errand: None, bench.sender._begin  # type: ignore[method-assign]
        damaged = bench.job(receiver.url())
        eventually(lambda: getattr(bench.store.callback(damaged), "trying", False))
        spoil(bench, damaged, field, value)
        bench.sender._begin = begin  # type: ignore[method-assign]
        whole = bench.job(receiver.url(), "bob")
        bench.pass_time(sender.LEASE + 1)
        eventually(lambda: bench.delivery(whole) is Delivery.DELIVERED, "it was not delivered")
        eventually(lambda: "callback_undelivered" in dict(bench.told), "nobody was told")
        assert damaged in dict(bench.told)["callback_undelivered"]
        assert bench.store.next_callback() is None
        assert [request.key for request in receiver.requests] == [whole]
        assert bench.store.forget([damaged]) == 1


def test_what_cannot_be_written_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def body(job: Job, result: Result | None) -> bytes:
        raise TypeError("a mistake of ours")

    monkeypatch.setattr("minitango.callbacks.body", body)
    with receiving() as receiver:
        job_id = bench.job(receiver.url())
        eventually(lambda: bench.delivery(job_id) is Delivery.UNDELIVERED, "it was not given up")
        assert "TypeError: a mistake of ours" in bench.store.callback(job_id).error  # type: ignore[union-attr]
        monkeypatch.undo()
        bench.store.redeliver(job_id)
        bench.sender.wake()
        eventually(lambda: bench.delivery(job_id) is Delivery.DELIVERED, "it was not delivered")


@pytest.mark.parametrize("column", ["tries", "since", "callback"])
@pytest.mark.parametrize("value", ["x", b"\xff", 1e300, 2**62, -1])
def test_what_is_damaged_of_a_callback_in_a_file_stops_no_other(tmp_path: Path, column: str, value: object) -> None:
    bench = Bench(tmp_path)
    with receiving() as receiver:
        damaged, whole = bench.job(receiver.url()), bench.job(receiver.url(), "bob")
        table = "jobs" if column == "callback" else "outbox"
        with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as db, db:
            db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = 1", (value,))
        bench.sender.start()
        eventually(lambda: bench.delivery(whole) is Delivery.DELIVERED, "it was not delivered")
        if column != "callback":
            eventually(lambda: bench.delivery(damaged) is Delivery.DELIVERED, "it was not delivered")
            told = bench.store.callback(damaged)
            assert told is not None
            known = column == "since" and value == -1  # a time, if an early one
            assert (told.tries, told.since) == (1, -1 if known else bench.clock.time)
    bench.close()


def test_it_is_given_up_after_three_days(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda call, errand, data: Verdict("status 503"))
    bench.sender.start()
    job_id = bench.job("http://lms.example/x")
    n = 0
    while bench.delivery(job_id) is Delivery.PENDING:
        n += 1
        tried = n
        eventually(lambda: bench.tries(job_id) == tried)  # noqa: B023
        bench.pass_time(DELIVER_FOR / 30)
        assert n < 60
    assert bench.tries(job_id) == 31 + 1
    bench.close()


def test_a_receiver_is_asked_when_it_wants_to_be(bench: Bench) -> None:
    with receiving(lambda connection, request: answer(429, "Retry-After: 100")) as receiver:
        job_id = bench.job(receiver.url())
        eventually(lambda: bench.tries(job_id) == 1)
        assert bench.store.next_callback() == bench.clock.time + 100


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_due_further_off_than_anything_can_be_is_due_now(tmp_path: Path, kind: str) -> None:
    """A clock that was set back since left it so."""
    sent: queue.SimpleQueue[str] = queue.SimpleQueue()

    def post(call: Call, errand: Errand, data: bytes) -> Verdict:
        sent.put(errand.job)
        return Verdict()

    bench = Bench(tmp_path, post, kind=kind)
    job_id = bench.job("http://lms.example/x")
    bench.clock.advance(-MOST_DELIVERY_WAIT - 1)
    due = bench.store.next_callback()
    assert due is not None
    assert due > bench.clock() + MOST_DELIVERY_WAIT
    bench.sender.start()
    assert sent.get(timeout=PATIENCE) == job_id
    eventually(lambda: bench.delivery(job_id) is Delivery.DELIVERED)
    bench.close()


def test_a_host_that_hangs_does_not_keep_others_waiting(tmp_path: Path) -> None:
    """It is left alone after a few tries; what is for it is put back, and no try is counted."""
    hung: list[Call] = []

    def post(call: Call, errand: Errand, data: bytes) -> Verdict:
        if "hang" not in errand.url:
            return Verdict()
        hung.append(call)
        return Verdict("it did not answer", unreachable=True)

    bench = Bench(tmp_path, post)
    waiting = [bench.job("http://hang.example/x", f"s{n}") for n in range(30)]
    good = bench.job("http://lms.example/x")
    bench.sender.start()
    eventually(lambda: bench.delivery(good) is Delivery.DELIVERED)
    assert len(hung) < 10
    put_back = [job_id for job_id in waiting if bench.tries(job_id) == 0]
    assert len(put_back) > 20
    assert bench.store.callback(put_back[0]).error == "it did not answer"  # type: ignore[union-attr]
    bench.close()


def test_many_callbacks_for_a_dead_host_leave_the_store_in_peace(tmp_path: Path) -> None:
    """Each is looked at again within minutes, and few of them at a time."""
    tried: list[str] = []

    def post(call: Call, errand: Errand, data: bytes) -> Verdict:
        tried.append(errand.job)
        return Verdict("nobody is there", unreachable=True)

    bench = Bench(tmp_path, post)
    store, n = bench.store, 400
    store.submit([JobSpec("hw", f"s{i}", "s", "i", callback="https://dead.example/x") for i in range(n)])
    while leases := store.exchange(claim=100).leases:
        store.exchange([Finish(lease, RESULT) for lease in leases])
    ids = [job.id for job in store.list()]
    bench.sender.start()
    began = bench.clock.time

    def dues() -> list[float]:
        told = [store.callback(job_id) for job_id in ids]
        return sorted(one.due - began for one in told if one is not None and one.due is not None and not one.trying)

    eventually(lambda: len(dues()) == n and dues()[0] > 0, "they are not put back")
    at = dues()
    assert len(tried) < 10
    assert all(sum(start <= due < start + 10 for due in at) <= 10 / sender.APART + 10 for start in range(0, 700, 10))
    assert at[-1] <= MOST_DELIVERY_BACKOFF
    bench.close()


def test_receivers_without_number_are_not_all_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for those that are being tried, and for the latest."""
    monkeypatch.setattr(sender, "MOST_HOSTS", 5)
    let_go, hung, dead = threading.Event(), threading.Event(), 0

    def post(call: Call, errand: Errand, data: bytes) -> Verdict:
        nonlocal dead
        if "hangs" in errand.url:
            hung.set()
            assert let_go.wait(PATIENCE)
        dead += "dead" in errand.url
        return Verdict("nobody is there", unreachable=True) if "dead" in errand.url else Verdict()

    bench = Bench(tmp_path, post)
    slow = bench.job("https://hangs.example/x", "slow")
    bench.sender.start()
    assert hung.wait(PATIENCE)
    for n in range(10):
        gone, good = bench.job("https://dead.example/x", f"d{n}"), bench.job(f"https://lms{n}.example/x", f"g{n}")
        eventually(lambda: bench.delivery(good) is Delivery.DELIVERED)  # noqa: B023
        eventually(lambda: bench.store.callback(gone).error != "")  # type: ignore[union-attr]  # noqa: B023
    assert dead == 3, "it is left alone, and known to be, though others came since"
    hosts = set(bench.sender._hosts)
    assert len(hosts) == 5
    assert {"https://hangs.example", "https://dead.example", "https://lms9.example"} <= hosts
    let_go.set()
    eventually(lambda: bench.delivery(slow) is Delivery.DELIVERED)
    bench.close()


def test_few_are_under_way_at_once_and_all_come(bench: Bench) -> None:
    lock, most, now = threading.Lock(), [0], [0]

    def behave(connection: Any, request: Request) -> bytes:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1
        return OK

    with receiving(behave) as receiver:
        ids = [bench.job(receiver.url(), f"s{n}") for n in range(40)]
        eventually(lambda: all(bench.delivery(job_id) is Delivery.DELIVERED for job_id in ids))
        assert sorted(request.key for request in receiver.requests) == sorted(ids)
    assert 1 < most[0] <= sender.AT_ONCE


def test_it_goes_on_after_a_store_that_failed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "POLL", 0.01)
    away = [True]
    real = bench.store.next_callback

    def failing() -> float | None:
        if away[0]:
            raise StoreError("it is away", id="store_unreachable")
        return real()

    monkeypatch.setattr(bench.store, "next_callback", failing)
    with receiving() as receiver:
        bench.job(receiver.url())
        eventually(lambda: "it is away" in bench.troubles)
        away[0] = False
        receiver.wait(1)
    assert bench.troubles[-1] is None


def test_a_delivery_for_which_there_is_no_thread_takes_no_other_ones_place(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else none would ever be sent again, once there had been none for so many as may be under way at once."""
    monkeypatch.setattr(sender, "POLL", 0.01)
    refuse_threads(monkeypatch, "minitango callback", 2 * sender.AT_ONCE)
    with receiving() as receiver:
        ids = [bench.job(receiver.url(), f"s{n}") for n in range(3 * sender.AT_ONCE)]
        eventually(lambda: len(receiver.requests) == sender.AT_ONCE)
        bench.pass_time(2)
        eventually(lambda: all(bench.delivery(job_id) is Delivery.DELIVERED for job_id in ids))


@pytest.mark.parametrize("error", [StoreError("it is away", id="store_unreachable"), JobNotFound("it was pruned")])
def test_a_delivery_for_which_there_is_neither_thread_nor_store_keeps_no_other_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: MinitangoError
) -> None:
    bench = Bench(tmp_path)
    refuse_threads(monkeypatch, "minitango callback")

    def failing(*_: Any, **__: Any) -> Any:
        raise error

    with receiving() as receiver, monkeypatch.context() as patch:
        patch.setattr(bench.store, "callback_failed", failing)
        first, *others = [bench.job(receiver.url(), f"s{n}") for n in range(3)]
        bench.sender.start()
        eventually(lambda: all(bench.delivery(job_id) is Delivery.DELIVERED for job_id in others))
        assert bench.delivery(first) is Delivery.PENDING
        bench.pass_time(sender.LEASE)
        eventually(lambda: bench.delivery(first) is Delivery.DELIVERED)
    assert ("was not recorded" in caplog.text) is isinstance(error, StoreError)
    bench.close()


def test_a_word_that_the_store_did_not_take_is_said_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = bench.store.callback_delivered, [2]

    def failing(errand: Errand) -> bool:
        if failures[0]:
            failures[0] -= 1
            raise StoreError("it is away", id="store_unreachable")
        return real(errand)

    monkeypatch.setattr(bench.store, "callback_delivered", failing)
    with receiving() as receiver:
        job_id = bench.job(receiver.url())
        eventually(lambda: bench.delivery(job_id) is Delivery.DELIVERED)
        assert len(receiver.requests) == 1, "sent once"


def test_a_job_that_is_pruned_meanwhile_stops_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def behave(connection: Any, request: Request) -> bytes:
        if len(receiver.requests) == 1:
            bench.store.forget([request.key], undelivered=True)
        return OK

    with receiving(behave) as receiver:
        bench.job(receiver.url())
        receiver.wait(1)
        other = bench.job(receiver.url(), "bob")
        eventually(lambda: bench.delivery(other) is Delivery.DELIVERED)
    bench.sender.stop(5)
    assert caplog.records == []


def test_a_job_that_is_pruned_before_it_is_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = bench.store.take_callbacks

    def take(n: int, *, lease_for: float) -> list[Errand]:
        errands = real(n, lease_for=lease_for)
        bench.store.forget((errand.job for errand in errands), undelivered=True)
        return errands

    monkeypatch.setattr(bench.store, "take_callbacks", take)
    bench.job("http://127.0.0.1:1/")
    eventually(lambda: bench.store.list() == [] and not bench.sender._under_way)
    bench.sender.stop(5)
    assert caplog.records == []


def test_stopping_delivers_what_is_due_first(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda call, errand, data: Verdict())
    bench.sender.start()
    eventually(lambda: bench.sender._wait == sender.POLL, "it sleeps")
    bench.sender.wake = lambda: None  # type: ignore[method-assign]
    ids = [bench.job("http://lms.example/x", f"s{n}") for n in range(3 * sender.AT_ONCE)]
    bench.sender.stop(10)
    assert [bench.delivery(job_id) for job_id in ids] == [Delivery.DELIVERED] * len(ids)
    bench.store.close()


def test_stopping_breaks_off_what_hangs_and_it_stays_pending(bench: Bench) -> None:
    with receiving(hang) as receiver:
        job_id = bench.job(receiver.url())
        receiver.wait(1)
        began = time.monotonic()
        bench.sender.stop(0)
        assert time.monotonic() - began < 5
        assert (bench.delivery(job_id), bench.tries(job_id)) == (Delivery.PENDING, 0)
        assert bench.store.next_callback() == bench.clock.time, "due at once, for the next engine"
        bench.sender.stop(5)


def test_failures_are_told_of_but_not_each(bench: Bench) -> None:
    with receiving(lambda connection, request: answer(503)) as receiver:
        ids = [bench.job(receiver.url(), f"s{n}") for n in range(10)]
        eventually(lambda: all(bench.tries(job_id) for job_id in ids))
    assert [kind for kind, _ in bench.told] == ["callback_failed"]


# --- in an engine -------------------------------------------------------------------------------


def test_an_engine_sends_what_ended(tmp_path: Path) -> None:
    told: list[Event] = []
    with receiving() as receiver:
        with open_engine(tmp_path, scoring(7), callbacks=HERE, on_event=told.append) as engine:
            job = engine.submit(submission(callback=receiver.url("/x?y=z"), course="cs1", labels={"a": "b"}))
            job.result(PATIENCE)
            plain = engine.submit(submission("bob"))
            plain.result(PATIENCE)
        (request,) = receiver.requests  # leaving the engine waited for it
    assert (request.job["id"], request.job["score"], request.job["course"]) == (job.id, 7, "cs1")
    assert request.job["result"]["outcome"] == "graded"
    assert [event.job.id for event in told if event.kind == "callback_delivered" and event.job] == [job.id]
    store = open_store(f"sqlite:///{tmp_path}/queue.db")
    assert store.get(job.id).delivery is Delivery.DELIVERED
    store.close()


def test_what_ends_is_sent_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the sender to look by itself."""
    monkeypatch.setattr(sender, "POLL", 3600.0)
    with receiving() as receiver, open_engine(tmp_path, scoring(7), callbacks=HERE) as engine:
        waiting = engine._grading._sender  # type: ignore[union-attr]
        eventually(lambda: waiting._wait == 3600.0, "it does not wait")
        engine.submit(submission(callback=receiver.url())).result(PATIENCE)
        receiver.wait(1)
        engine.cancel(engine.submit(submission("bob", callback=receiver.url())).id)
        receiver.wait(2)


def test_what_is_left_of_the_grace_is_the_callbacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    with open_engine(tmp_path, scoring(7), callbacks=HERE) as engine:
        grading, clock = engine._grading, Clock()
        assert grading is not None
        stop_pool = grading._pool.stop

        def slow(grace: float, **more: Any) -> None:
            given.append(grace)
            stop_pool(0.0, **more)
            clock.advance(7.0)  # that jobs took to end

        with monkeypatch.context() as patch:
            patch.setattr("minitango.grading.time", SimpleNamespace(monotonic=clock))
            patch.setattr(grading._pool, "stop", slow)
            patch.setattr(grading._sender, "stop", given.append)
            grading.stop(10.0)
            grading.stop(5.0)
    assert given == [10.0, 3.0, 5.0, -2.0]


def test_a_job_that_was_cancelled_or_died_is_told_of(tmp_path: Path) -> None:
    def broken(run: Any) -> Any:
        raise RuntimeError("the sandbox broke")

    with receiving() as receiver, open_engine(tmp_path, broken, callbacks=HERE, paused=True) as engine:
        job = engine.submit(submission(callback=receiver.url()))
        engine.cancel(job.id)
        receiver.wait(1)
        assert (receiver.requests[0].job["state"], receiver.requests[0].job["result"]) == ("cancelled", None)


def test_a_url_that_nothing_can_be_sent_to_is_refused_at_submit(tmp_path: Path) -> None:
    with open_engine(tmp_path, scoring(7), workers=0) as engine:
        for url in ("http://127.0.0.1:8000/", "http://[::ffff:10.0.0.1]/", "https://lms.example:25/"):
            with pytest.raises(ConfigError) as caught:
                engine.submit_many([submission("bob"), submission(callback=url)])
            assert caught.value.id == "callback_url"
        assert engine.jobs() == []


def test_an_engine_without_workers_sends_nothing(tmp_path: Path) -> None:
    with receiving() as receiver:
        with open_engine(tmp_path, scoring(7), workers=0, callbacks=HERE) as engine:
            engine.cancel(engine.submit(submission(callback=receiver.url())).id)
            assert engine.store.next_callback() is not None
        assert receiver.connections == 0
        with open_engine(tmp_path, scoring(7), callbacks=HERE) as engine:
            receiver.wait(1)
            eventually(lambda: engine.jobs()[0].delivery is Delivery.DELIVERED)
            engine.redeliver(engine.jobs()[0].id)
            receiver.wait(2)


def test_what_another_process_cancels_is_sent_soon(tmp_path: Path) -> None:
    with (
        receiving() as receiver,
        open_engine(tmp_path, scoring(7), callbacks=HERE, paused=True),
        open_engine(tmp_path, scoring(7), workers=0, callbacks=HERE) as other,
    ):
        other.cancel(other.submit(submission(callback=receiver.url())).id)
        receiver.wait(1)


def test_a_receiver_that_hangs_keeps_no_job_and_no_stop_waiting(tmp_path: Path) -> None:
    with receiving(hang) as receiver:
        engine = open_engine(tmp_path, scoring(7), callbacks=HERE)
        for n in range(12):
            engine.submit(submission(f"s{n}", callback=receiver.url())).result(PATIENCE)
        began = time.monotonic()
        engine.stop(grace=0.5)
        assert time.monotonic() - began < 6
    store = open_store(f"sqlite:///{tmp_path}/queue.db")
    assert len(store.list(Query(delivery=(Delivery.PENDING,)))) == 12
    store.close()


def test_a_second_signal_does_not_wait_for_receivers(tmp_path: Path) -> None:
    with receiving(hang) as receiver:
        engine = open_engine(tmp_path, scoring(7), callbacks=HERE)
        engine.submit(submission(callback=receiver.url())).result(PATIENCE)
        receiver.wait(1)
        began = time.monotonic()
        threading.Timer(0.3, engine.request_stop, kwargs={"release": True}).start()
        engine.stop(grace=30)
        assert time.monotonic() - began < 6


CHILD = """
import sys
from minitango import Callbacks, Engine
from minitango.testing import FakeSandbox
from tests.support import scoring, submission
here = Callbacks(allow=("127.0.0.1",))
box = FakeSandbox(scoring(7))
with Engine.open(sys.argv[1], state=sys.argv[2], workers=2, sandbox=box, callbacks=here) as e:
    e.submit(submission(callback=sys.argv[3])).result(60)
    e.wait()
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("place", "sent"),
    [
        ("store.take_callbacks.before_commit", 1),  # it ended, and nobody was told
        ("store.take_callbacks.after_commit", 1),  # it was taken, and not sent
        ("callback.before_post", 1),
        ("callback.after_post", 2),  # it was sent, and that was not recorded
        ("store.tell_callback.before_commit", 2),
        ("store.tell_callback.after_commit", 1),
    ],
)
def test_killed_between_the_end_and_the_delivery(tmp_path: Path, place: str, sent: int, kind: str) -> None:
    url = url_of(kind, tmp_path)
    with receiving() as receiver:
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "MINITANGO_FAILPOINT": place}
        command = [sys.executable, "-c", CHILD, url, str(tmp_path), receiver.url()]
        child = subprocess.run(command, env=environ, timeout=60)
        assert child.returncode == -signal.SIGKILL
        store = store_of(kind, tmp_path, lambda: time.time() + sender.LEASE, url)  # the dead one's lease has lapsed
        (job,) = store.list()
        assert job.state is State.DONE
        again = Sender(store, HERE, lambda kind, job=None, message="": None, lambda whose, error: None)
        again.start()
        eventually(lambda: store.get(job.id).delivery is Delivery.DELIVERED)
        again.stop(0)
        store.close()
        assert [request.key for request in receiver.requests] == [job.id] * sent


def test_two_engines_on_one_redis_deliver_each_once(tmp_path: Path) -> None:
    url = url_of("redis", tmp_path)
    with receiving() as receiver:
        engines = [
            open_engine(url, scoring(7), state=tmp_path / name, callbacks=HERE, paused=name == "b") for name in "ab"
        ]
        handles = engines[0].submit_many(submission(f"s{n}", callback=receiver.url()) for n in range(60))
        for handle in handles:
            handle.result(PATIENCE)
        receiver.wait(60)
        for engine in engines:
            engine.stop(grace=5)
        assert sorted(request.key for request in receiver.requests) == sorted(handle.id for handle in handles)
