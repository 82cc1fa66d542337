"""A queue that moves from store to store in the middle of its life is the same queue: to the last lease.

The random lives of `test_store_model.py` are lived on, after a move to the other kind of store and back: the model,
which knows nothing of moves, goes on to say what is right.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from msgspec.structs import replace

from minitango.backup import backup
from minitango.errors import ConfigError, StoreError
from minitango.job import Fail, Failure, Finish, JobSpec, Outcome, Result, State, StepOutput
from minitango.moving import Place
from minitango.store import Node, Store, _redis_dump, open_blobs, open_store, settle_copy
from minitango.store.portable import Books, JobDump, posts_digest
from minitango.store.redis import RedisStore
from minitango.store.sqlite import SqliteStore
from tests import redis_server
from tests.test_store_model import SETTINGS, OutboxMachine, redis_store, sqlite_store

QUEUES = itertools.count()


def another(kind: str, folder: Path, clock: Callable[[], float]) -> Store:
    """A place where nothing was before."""
    n = next(QUEUES)
    if kind == "sqlite":
        return SqliteStore(folder / f"queue{n}.db", clock=clock)
    return RedisStore(redis_server.shared().url(), queue=f"q{n}", clock=clock)


def whole(store: Store) -> list[JobDump]:
    """All that it holds, but for the name of the queue."""
    return [replace(dumped, job=replace(dumped.job, queue="")) for dumped in store.dump()]


class MovingMachine(OutboxMachine):
    make = staticmethod(redis_store)

    @rule(to=st.booleans())
    def move(self, to: bool) -> None:
        there = another("sqlite" if to else "redis", self.folder, lambda: self.now)
        here, self.store = self.store, there
        assert there.load(here.dump(), here.books) == len(self.model.jobs)
        assert whole(there) == whole(here)
        assert there.books() == here.books()
        here.close()

    @rule(crash=st.just(False), node=st.booleans())
    def recover(self, crash: bool, node: bool) -> None:  # type: ignore[override]
        """As ever, but no store is opened anew by a name that it has no more."""
        recovered = [job.id for job in self.store.recover(node="a" if node else None)]
        assert recovered == self.model.interrupt("recover", self.now, lapsed_only=False, node="a" if node else None)


@pytest.mark.parametrize("first", [sqlite_store, redis_store])
def test_whatever_was_done_goes_on_after_a_move(first: Any) -> None:
    redis_server.need_redis()
    machine = type("Machine", (MovingMachine,), {"make": staticmethod(first)})
    run_state_machine_as_test(machine, settings=settings(SETTINGS, max_examples=40))


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("MINITANGO_LONG"), reason="the long form runs with MINITANGO_LONG=1")
def test_whatever_was_done_goes_on_after_a_move_for_long() -> None:
    redis_server.need_redis()
    run_state_machine_as_test(MovingMachine, settings=settings(SETTINGS, max_examples=1500))


# --- each by itself ------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "redis":
        redis_server.need_redis()
    return str(request.param)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], Store]]:
    made: list[Store] = []

    def make(kind: str) -> Store:
        made.append(another(kind, tmp_path, lambda: 1000.0))
        return made[-1]

    yield make
    for store in made:
        store.close()


def spec(student: str, **more: Any) -> JobSpec:
    return JobSpec("hw", student, "5" * 64, "1" * 64, **more)


def lived(store: Store) -> Store:
    """A queue with something of everything."""
    store.submit([
        spec("ada", key="a", labels={"x": "ü\n"}, course="c", title="t", refs=("e" * 64, "5" * 64), priority=-3,
             callback="https://x.example/"),
        spec("bob", key="b"), spec("eve", lane="gpu"), spec("zoe", key="z"), spec("gone"), spec("sue"),
    ])  # fmt: skip
    for _ in range(3):
        leases = {lease.student: lease for lease in store.exchange(claim=9, node="n1", capabilities=["gpu"]).leases}
        failed = [Fail(leases[name], Failure("x", "no", "hint")) for name in ("bob",) if name in leases]
        done = [
            Finish(leases[name], Result(Outcome.GRADED, 0.0, 10.0, reason="r"), (StepOutput("s", b"\xff\0", b"t", 3),))
            for name in ("ada", "gone")
            if name in leases
        ]
        held = [Fail(leases[name], Failure("sandbox_gone", "no"), charge=False) for name in ("sue",) if name in leases]
        store.exchange([*done, *failed, *held], now=1000.0)
    store.cancel(leases["eve"].job if "eve" in leases else store.list()[2].id, reason="why")
    store.forget([job.id for job in store.list() if job.student == "gone"])
    store.submit([spec("bob", key="b"), spec("ada", key="a")], fresh=True)
    store.beat(Node("n1", "i"))
    store.drain("n1")
    store.leave("n1")
    return store


@pytest.mark.parametrize("to", ["sqlite", "redis"])
def test_everything_is_there(kind: str, to: str, opened: Callable[[str], Store]) -> None:
    redis_server.need_redis()
    here, there = lived(opened(kind)), opened(to)
    assert there.load(here.dump(), here.books) == 6
    assert whole(there) == whole(here)
    assert there.books() == here.books()
    assert replace(here.books(), posts="", cancels=()) == Books(8, 2, ("n1",), 6), (
        "to hand in again takes a number, too"
    )
    assert here.books().posts
    assert len(here.books().cancels) == 1
    assert there.counts() == here.counts()
    ids = [job.id for job in here.list()]
    for each in (here, there):
        assert {job.queue for job in each.list()} == {each.queue}  # type: ignore[attr-defined]
        assert each.referenced(["1" * 64, "e" * 64, "0" * 64]) == {"1" * 64, "e" * 64}
    for one in ids:
        assert there.callback(one) == here.callback(one)
        assert there.result(one) == here.result(one)
        assert there.outputs(one) == here.outputs(one)
        assert there.attempts(one) == here.attempts(one)
        assert there.spec(one) == here.spec(one)
        assert there.get(one[:6]).id == one
    assert [one for one in ids if there.callback(one) is not None] == ids[:1]
    assert (there.result(ids[0]), there.outputs(ids[0])[0].head) == (
        Result(Outcome.GRADED, 0.0, 10.0, reason="r"),
        b"\xff\0",
    )
    for each in (here, there):
        assert each.exchange(claim=5, node="n1", now=9e3).leases == (), "it is drained there, too"
        assert each.submit([spec("x")])[0].created
        assert each.list()[-1].seq == 9, "no number is given twice"
        each.submit([spec("zoe", key="z")])
        assert len(each.list()) == 7, "its key holds"


@pytest.mark.parametrize("to", ["sqlite", "redis"])
def test_a_key_goes_to_its_heir_there_too(kind: str, to: str, opened: Callable[[str], Store]) -> None:
    """The latest job turns out to be other work; the one before it has the key again."""
    redis_server.need_redis()
    here, there = opened(kind), opened(to)
    (first,) = here.submit([spec("ada", key="a")])
    here.exchange([Finish(lease, Result(Outcome.GRADED, 1.0)) for lease in here.exchange(claim=1).leases])
    here.submit([spec("ada", key="a")], fresh=True)
    there.load(here.dump(), here.books)
    (lease,) = there.exchange(claim=1).leases
    there.exchange([Finish(lease, Result(Outcome.GRADED, 2.0), grader=("other",))])
    (again,) = there.submit([spec("ada", key="a")])
    assert (again.id, again.created) == (first.id, False)


def test_a_key_that_nobody_holds_is_free_there_too(kind: str, opened: Callable[[str], Store]) -> None:
    """Its latest job was forgotten, and an older one names it still."""
    here, there = opened("sqlite"), opened(kind)
    for _ in range(2):
        here.submit([spec("ada", key="a")], fresh=True)
        here.exchange([Finish(lease, Result(Outcome.GRADED, 1.0)) for lease in here.exchange(claim=1).leases])
    here.forget([here.list()[1].id])
    there.load(here.dump(), here.books)
    assert [dumped.holder for dumped in there.dump()] == [False]
    (again,) = there.submit([spec("ada", key="a")])
    assert again.created
    assert there.get(again.id).supersedes is None


def test_a_place_with_jobs_is_not_filled(kind: str, opened: Callable[[str], Store]) -> None:
    here, there = lived(opened("sqlite")), opened(kind)
    there.submit([spec("other")])
    before = whole(there)
    with pytest.raises(ConfigError) as caught:
        there.load(here.dump(), here.books)
    assert caught.value.id == "store_not_empty"
    assert whole(there) == before


def test_one_that_raises_leaves_nothing_and_may_be_begun_again(kind: str, opened: Callable[[str], Store]) -> None:
    here, there = lived(opened("sqlite")), opened(kind)

    def interrupted() -> Iterator[JobDump]:
        yield from itertools.islice(here.dump(), 3)
        raise InterruptedError

    def refuses() -> Books:
        raise InterruptedError

    for jobs, books in ((interrupted(), here.books), (here.dump(), refuses)):
        with pytest.raises(InterruptedError):
            there.load(jobs, books)
        assert there.list() == []
        assert there.counts() == opened(kind).counts()
        assert there.books() == Books(0, 0)
        assert there.exchange(claim=1).leases == ()
    there.load(here.dump(), here.books)
    assert whole(there) == whole(here)
    assert there.counts() == here.counts()
    assert there.submit([spec("x")])[0].created


def dying(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a process that fills this queue come to no cleaning up."""

    def dies(token: str) -> None:
        raise StoreError("it died", id="store_unreachable")

    monkeypatch.setattr(store, "_clear", dies)


def test_one_that_dies_leaves_a_queue_that_nobody_may_use(
    opened: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_server.need_redis()
    here, there = lived(opened("sqlite")), opened("redis")

    def interrupted() -> Iterator[JobDump]:
        yield from itertools.islice(here.dump(), 3)
        raise InterruptedError

    with monkeypatch.context() as patched:
        dying(there, patched)
        with pytest.raises(InterruptedError):
            there.load(interrupted(), here.books)
    for verb in (lambda: there.submit([spec("x")]), lambda: there.exchange(claim=1), there.reap):
        with pytest.raises(StoreError) as caught:
            verb()
        assert caught.value.id == "store_filling"
    with pytest.raises(StoreError) as caught:
        open_store(redis_server.shared().url(), queue=there.queue)  # type: ignore[attr-defined]
    assert caught.value.id == "store_filling"
    assert repr(there.queue) in caught.value.message  # type: ignore[attr-defined]
    assert "minitango restore SRC" in caught.value.hint
    assert "minitango migrate FROM" in caught.value.hint
    there.load(here.dump(), here.books)
    assert whole(there) == whole(here)
    assert there.submit([spec("x")])[0].created


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_files_of_one_that_raises_leave_the_server_again(
    size: int, tmp_path: Path, opened: Callable[[str], Store]
) -> None:
    redis_server.need_redis()
    there = opened("redis")
    blobs = open_blobs(there, tmp_path)
    (before,) = blobs.put_many([b"before"])

    def jobs() -> Iterator[JobDump]:
        blobs.put_many([b"before", b"x" * size])
        raise InterruptedError
        yield  # type: ignore[unreachable]

    with pytest.raises(InterruptedError):
        there.load(jobs(), lambda: Books(0, 0))
    client = redis_server.shared().client()
    prefix = f"minitango:{{{there.queue}}}:"  # type: ignore[attr-defined]
    assert client.zrange(prefix + "blobs", 0, -1) == [before.encode()]
    assert blobs.get(before) == b"before"
    assert {key for key in client.scan_iter(prefix + "*") if b":b:" in key} == {
        (prefix + "b:" + before).encode(),
        (prefix + "b:" + before + ":0").encode(),
    }


def test_one_whose_place_is_filled_by_another_meanwhile_leaves_that_alone(opened: Callable[[str], Store]) -> None:
    redis_server.need_redis()
    here, there = lived(opened("sqlite")), opened("redis")

    def overtaken() -> Iterator[JobDump]:
        yield from itertools.islice(here.dump(), 3)
        there.load(here.dump(), here.books)
        yield from here.dump()

    with pytest.raises(StoreError):
        there.load(overtaken(), here.books)
    assert whole(there) == whole(here)
    assert there.submit([spec("x")])[0].created


def test_one_who_was_replaced_by_somebody_who_gave_up_is_told_that_nothing_moved(
    opened: Callable[[str], Store],
) -> None:
    """By the time that he says the end, nobody fills the queue: that is no sign that he said it before."""
    redis_server.need_redis()
    here, queue = lived(opened("sqlite")), f"q{next(QUEUES)}"
    first, second = (RedisStore(redis_server.shared().url(), queue=queue, filling=True) for _ in range(2))

    def gives_up() -> Iterator[JobDump]:
        raise InterruptedError
        yield  # type: ignore[unreachable]

    def all_in() -> Books:
        with pytest.raises(InterruptedError):
            second.load(gives_up(), here.books)
        return here.books()

    with pytest.raises(StoreError) as caught:
        first.load(here.dump(), all_in)
    assert caught.value.id == "store_filling"
    assert first.list() == []
    first.load(here.dump(), here.books)
    assert whole(first) == whole(here)
    first.close()
    second.close()


def test_what_an_earlier_one_left_is_cleared_away(
    opened: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another queue is carried there this time."""
    redis_server.need_redis()
    first, second, there = opened("sqlite"), lived(opened("sqlite")), opened("redis")
    first.submit([spec(f"s{n}", key=f"k{n}", lane="gpu") for n in range(120)])

    def dies() -> Iterator[JobDump]:
        yield from itertools.islice(first.dump(), 110)
        raise InterruptedError

    with monkeypatch.context() as patched:
        dying(there, patched)
        with pytest.raises(InterruptedError):
            there.load(dies(), first.books)
    assert len(there.list()) == 100
    there.load(second.dump(), second.books)
    assert whole(there) == whole(second)
    assert there.counts() == second.counts()
    client, queue = redis_server.shared().client(), there.queue  # type: ignore[attr-defined]
    assert client.zcard(f"minitango:{{{queue}}}:ready:gpu") == 0
    assert client.hlen(f"minitango:{{{queue}}}:keys") == 3


def test_two_cannot_fill_one_queue(opened: Callable[[str], Store]) -> None:
    redis_server.need_redis()
    here, one, queue = lived(opened("sqlite")), opened("redis"), f"q{next(QUEUES)}"
    url = redis_server.shared().url()
    one = RedisStore(url, queue=queue)

    def and_another() -> Iterator[JobDump]:
        yield from here.dump()
        other = RedisStore(url, queue=queue, filling=True)
        other.load(here.dump(), here.books)
        other.close()

    with pytest.raises(StoreError):
        one.load(itertools.chain(and_another(), here.dump()), here.books)
    assert whole(one) == whole(here)
    one.close()


KILLED = """
import sys
from minitango.store import open_store
here, there = open_store(sys.argv[1]), open_store(sys.argv[2], filling=True)
there.load(here.dump(), here.books)
"""


@pytest.mark.parametrize(
    "failpoint", ["store.load.before_commit", "store.load.before_commit:3", "store.load.after_commit:2"]
)
def test_one_that_is_killed_is_begun_again(
    kind: str, failpoint: str, tmp_path: Path, opened: Callable[[str], Store]
) -> None:
    if kind == "sqlite" and ":" in failpoint:
        pytest.skip("one transaction")
    here = SqliteStore(tmp_path / "here.db")
    here.submit([spec(f"s{n}") for n in range(150)])
    url = f"sqlite:///{tmp_path}/there.db"
    if kind == "redis":
        url = redis_server.shared().url(f"q{next(QUEUES)}")
    command = [sys.executable, "-c", KILLED, f"sqlite:///{tmp_path}/here.db", url]
    died = subprocess.run(command, env={**os.environ, "MINITANGO_FAILPOINT": failpoint}, check=False)
    assert died.returncode == -9
    assert subprocess.run(command, check=False).returncode == 0
    there = open_store(url)
    assert whole(there) == whole(here)
    assert there.counts()[State.QUEUED] == 150
    here.close()
    there.close()


def test_a_snapshot_beside_those_who_write(kind: str, opened: Callable[[str], Store], tmp_path: Path) -> None:
    here = lived(opened(kind))
    before = whole(here)
    here.snapshot(tmp_path / "copy.db")
    here.submit([spec("later")])
    copy = SqliteStore(tmp_path / "copy.db")
    assert whole(copy) == before
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    copy.close()
    with pytest.raises(StoreError):
        here.snapshot(tmp_path / "no" / "folder.db") if kind == "sqlite" else opened("sqlite").snapshot(
            tmp_path / "copy.db"
        )


def test_snapshots_while_others_write(kind: str, opened: Callable[[str], Store], tmp_path: Path) -> None:
    """Jobs, counts and order of ends agree in each, whatever was written meanwhile."""
    here, over = opened(kind), threading.Event()

    def write() -> None:
        while not over.is_set():
            here.submit([spec("ada")] * 3)
            leases = here.exchange(claim=2).leases
            here.exchange([Finish(lease, Result(Outcome.GRADED, 1.0)) for lease in leases])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        sizes = []
        for n in range(8):
            here.snapshot(tmp_path / f"{n}.db")
            whole_copy = settle_copy(tmp_path / f"{n}.db")
            copy = SqliteStore(tmp_path / f"{n}.db")
            jobs = copy.list()
            sizes.append(len(jobs))
            assert whole_copy.counts == copy.counts()
            assert whole_copy.digests == (("1" * 64, "5" * 64) if jobs else ())
            assert copy.counts() == {state: sum(job.state is state for job in jobs) for state in State}
            assert all((copy.result(job.id) is not None) == (job.state is State.DONE) for job in jobs)
            if kind == "sqlite":
                assert [job.ended_seq for job in copy.ended_since(0, limit=9999)] == list(
                    range(1, copy.last_ended() + 1)
                )
            copy.close()
    finally:
        over.set()
        writer.join()
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0], "something was written meanwhile"


def test_a_key_whose_latest_job_came_after_the_dump_began(opened: Callable[[str], Store]) -> None:
    """What was there before has it, as it had it before."""
    redis_server.need_redis()
    here, there = opened("redis"), opened("sqlite")
    here.submit([spec(f"s{n}", key=f"k{n}") for n in range(60)])

    def meanwhile() -> Iterator[JobDump]:
        jobs = here.dump()
        yield next(jobs)
        here.submit([spec(f"s{n}", key=f"k{n}") for n in range(60)])
        here.cancel(here.list()[-1].id)
        here.submit([spec("s59", key="k59")])
        yield from jobs

    there.load(meanwhile(), here.books)
    assert [dumped.holder for dumped in there.dump()] == [True] * 60


@pytest.mark.parametrize("piece", [1, 1000])
def test_books_tell_of_each_change(
    kind: str, piece: int, opened: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what changes neither the last number nor the last end, too."""
    monkeypatch.setattr(_redis_dump, "_PIECE", piece)
    store = opened(kind)
    done, runs, waits = [made.id for made in store.submit([spec(n, callback="https://x.example/") for n in "abc"])]
    leases = store.exchange(claim=2).leases
    store.exchange([Finish(leases[0], Result(Outcome.GRADED, 1.0))])
    (errand,) = store.take_callbacks(1)
    store.callback_failed(errand, "no", again_in=50)
    before = store.books()
    assert store.books() == before
    assert (before.jobs, before.cancels, bool(before.posts)) == (3, (), True)
    for change in (
        lambda: store.redeliver(done),
        lambda: store.callback_delivered(store.take_callbacks(1)[0]),
        lambda: store.redeliver(done),
        lambda: store.cancel(runs),
        lambda: store.forget([done], undelivered=True),
        lambda: store.cancel(waits),
    ):
        change()
        after = store.books()
        assert after != before
        assert after == store.books()
        before = after


def test_books_are_read_in_pieces(opened: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many callbacks are pending: the server serves others between, and nobody is without an answer for it."""
    redis_server.need_redis()
    import redis

    store, client = opened("redis"), redis_server.shared().client()
    key = f"minitango:{{{store.queue}}}:"  # type: ignore[attr-defined]
    due = {f"{n:010}": n / 7 for n in range(4500)}
    client.zadd(key + "outbox", due)
    client.sadd(key + "cancels", *due)
    sizes: list[int] = []
    read = redis.Connection.read_response

    def spied(self: Any, *args: Any, **how: Any) -> Any:
        reply = read(self, *args, **how)
        if isinstance(reply, list):
            sizes.extend(len(part) for part in (reply, *reply) if isinstance(part, list))
        return reply

    monkeypatch.setattr("redis.connection.AbstractConnection.read_response", spied)
    books = store.books()
    assert books.posts == posts_digest(due.items())
    assert books.cancels == tuple(due)
    assert 1000 <= max(sizes) < 3000


def test_other_queues_of_a_file_are_named(kind: str, tmp_path: Path, opened: Callable[[str], Store]) -> None:
    store = opened(kind)
    store.submit([spec("ada")])
    assert store.others() == ()
    if kind == "sqlite":
        path = store._db.path  # type: ignore[attr-defined]
        for name in ("b", "a", "empty"):
            another_queue = SqliteStore(path, queue=name)
            (made,) = another_queue.submit([spec("ada")])
            if name == "empty":
                another_queue.cancel(made.id)
                another_queue.forget([made.id])
            another_queue.close()
        assert store.others() == ("a", "b")


def test_a_server_that_hangs_meanwhile_is_told_of_and_not_waited_for_again(
    opened: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_server.need_redis()
    monkeypatch.setattr("minitango.store._redis_clients.PATIENCE", 0.5)
    here = opened("sqlite")
    here.submit([spec("ada")])
    server = redis_server.Server()
    try:
        with contextlib.closing(RedisStore(server.url("hangs", tcp=True), filling=True)) as there:

            def hangs() -> Iterator[JobDump]:
                yield from here.dump()
                server.freeze()

            waited: list[object] = []
            monkeypatch.setattr(there, "_clear", waited.append)
            with pytest.raises(StoreError, match="takes connections, and says nothing: a Redis that hangs") as caught:
                there.load(hangs(), here.books)
            assert (caught.value.id, waited) == ("store_unreachable", [])
            with pytest.raises(StoreError, match="takes connections, and says nothing"):
                list(there.dump())
            server.thaw()
    finally:
        server.remove()


def half_filled(here: Store, queue: str) -> RedisStore:
    """A queue that somebody left half filled who died, opened to be filled anew."""

    def dies() -> Iterator[JobDump]:
        yield from itertools.islice(here.dump(), 110)
        raise InterruptedError

    there = RedisStore(redis_server.shared().url(), queue=queue, filling=True)
    with pytest.MonkeyPatch.context() as patched:
        dying(there, patched)
        with pytest.raises(InterruptedError):
            there.load(dies(), here.books)
    return there


def test_what_an_earlier_one_left_is_cleared_though_the_answer_to_its_begin_was_lost(
    opened: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_server.need_redis()
    here = opened("sqlite")
    here.submit([spec(f"s{n}") for n in range(120)])
    there = half_filled(here, f"q{next(QUEUES)}")
    here.exchange([Finish(lease, Result(Outcome.GRADED, 1.0)) for lease in here.exchange(claim=120).leases])
    link, said = there._link, []
    run = link.run

    def twice(verb: str, arguments: Any, **how: Any) -> Any:
        said.append(arguments[0])
        if arguments[0] in ("begin", "cleared", "end"):
            run(verb, arguments, **how)
        return run(verb, arguments, **how)

    monkeypatch.setattr(link, "run", twice)
    there.load(here.dump(), here.books)
    assert said[0] == "begin"
    assert said[-1] == "end"
    assert whole(there) == whole(here)
    assert there.counts() == here.counts()
    there.close()


def test_one_who_was_replaced_while_he_cleared_clears_no_more(
    opened: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two begin anew, and the first is slow."""
    redis_server.need_redis()
    here, queue = opened("sqlite"), f"q{next(QUEUES)}"
    here.submit([spec(f"s{n}") for n in range(150)])
    first = half_filled(here, queue)
    second = RedisStore(redis_server.shared().url(), queue=queue, filling=True)
    in_turn, filled, go_on = _redis_dump._in_turn, threading.Event(), threading.Event()

    def slow(keys: Any, n: int) -> Iterator[list[bytes]]:
        if threading.current_thread() is not other and other.ident is None:
            other.start()
            assert filled.wait(30)
        yield from in_turn(keys, n)

    def all_in() -> Books:
        filled.set()
        assert go_on.wait(30)
        return here.books()

    other = threading.Thread(target=lambda: second.load(here.dump(), all_in))
    monkeypatch.setattr(_redis_dump, "_in_turn", slow)
    with pytest.raises(StoreError) as caught:
        first.load(here.dump(), here.books)
    assert caught.value.id == "store_filling"
    go_on.set()
    other.join()
    assert whole(second) == whole(here)
    assert second.counts()[State.QUEUED] == 150
    first.close()
    second.close()


def test_a_queue_that_was_half_filled_can_be_given_up(
    opened: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By somebody who has not what it was to be filled from, and nothing else on the server is touched."""
    redis_server.need_redis()
    here, server = lived(opened("sqlite")), redis_server.shared()
    there, other = opened("redis"), opened("redis")
    (kept,) = other.submit([spec("ada")])

    def interrupted() -> Iterator[JobDump]:
        yield from itertools.islice(here.dump(), 3)
        raise InterruptedError

    with monkeypatch.context() as patched:
        dying(there, patched)
        with pytest.raises(InterruptedError):
            there.load(interrupted(), here.books)
    with pytest.raises(StoreError) as caught:
        open_store(server.url(tcp=True), queue=there.queue)  # type: ignore[attr-defined]
    typed = caught.value.hint.partition("give it up (all that is in this queue goes): ")[2]
    subprocess.run(["sh", "-c", typed], check=True, capture_output=True)
    with contextlib.closing(open_store(server.url(tcp=True), queue=there.queue)) as after:  # type: ignore[attr-defined]
        assert after.list() == []
        assert after.submit([spec("bob")])
    assert other.get(kept.id).student == "ada"


def test_a_queue_that_lost_jobs_while_it_was_filled_is_not_opened(opened: Callable[[str], Store]) -> None:
    redis_server.need_redis()
    here, queue = opened("sqlite"), f"q{next(QUEUES)}"
    here.submit([spec(f"s{n}") for n in range(3)])
    there = RedisStore(redis_server.shared().url(), queue=queue, filling=True)

    def loses() -> Books:
        redis_server.shared().client().zremrangebyrank(f"minitango:{{{queue}}}:jobs", 0, 0)
        return here.books()

    with pytest.raises(StoreError) as caught:
        there.load(here.dump(), loses)
    assert caught.value.id == "store_filling"
    assert "3 jobs were carried" in caught.value.message
    assert there.list() == []
    there.load(here.dump(), here.books)
    assert whole(there) == whole(here)
    there.close()


@pytest.mark.parametrize("to", ["sqlite", "redis"])
def test_a_job_of_which_nothing_is_left_is_left_out_and_told(
    to: str, opened: Callable[[str], Store], caplog: pytest.LogCaptureFixture
) -> None:
    """Also where a key names it as its latest: nobody has that key any more."""
    redis_server.need_redis()
    here, there = opened("redis"), opened(to)
    assert isinstance(here, RedisStore)
    kept = [here.submit([spec("ada", key="a")], fresh=True)[0].id, here.submit([spec("bob")])[0].id]
    here.exchange([Finish(lease, Result(Outcome.GRADED, 1.0)) for lease in here.exchange(claim=1).leases])
    lost = [here.submit([spec("ada", key="a")], fresh=True)[0].id]
    lost += [one.id for one in here.submit([spec(f"s{n}") for n in range(6)])]
    for job in lost:
        redis_server.shared().client().delete(f"minitango:{{{here.queue}}}:j:{job}")
    assert there.load(here.dump(), here.books) == len(kept)
    assert [job.id for job in there.list()] == kept
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"7 jobs are lost from the queue '{here.queue}' on Redis at ")
    assert f"({', '.join(lost[:5])} and 2 more); next: " in told
    (again,) = there.submit([spec("ada", key="a")])
    assert again.created
    assert there.get(again.id).supersedes is None


def test_a_job_that_is_forgotten_while_its_queue_moves_is_not_lost(
    opened: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.need_redis()
    here = opened("redis")
    assert isinstance(here, RedisStore)
    gone, kept = (one.id for one in here.submit([spec("ada"), spec("bob")]))
    here.cancel(gone)
    run = here._link.run

    def forgets_first(verb: str, *args: Any, **more: Any) -> Any:
        monkeypatch.undo()
        here.forget([gone])
        return run(verb, *args, **more)

    monkeypatch.setattr(here._link, "run", forgets_first)
    assert [dumped.job.id for dumped in here.dump()] == [kept]
    assert caplog.records == []


@pytest.mark.parametrize("field", ["inputs", "spec", "refs"])
def test_a_digest_that_is_none_is_told_with_its_job(
    kind: str, field: str, opened: Callable[[str], Store], tmp_path: Path
) -> None:
    """It names no blob, so that no copy with it would be whole."""
    here = opened(kind)
    well, damaged = (made.id for made in here.submit([spec("ada"), spec("bob", refs=("e" * 64,))]))
    if isinstance(here, RedisStore):
        value = f"{5:064} {1:064} ../x" if field == "refs" else "../x"
        redis_server.shared().client().hset(f"minitango:{{{here.queue}}}:j:{damaged}", field, value)
        url = redis_server.shared().url(here.queue)
    else:
        assert isinstance(here, SqliteStore)
        url = f"sqlite:///{here._db.path}"
        with contextlib.closing(sqlite3.connect(here._db.path)) as db, db:
            if field != "refs":
                db.execute(f"UPDATE jobs SET {field} = '../x' WHERE id = ?", (damaged,))
            place = ["spec", "inputs", "refs"].index(field)
            db.execute("UPDATE blob_refs SET digest = '../x' WHERE job = 2 AND position = ?", (place,))
    for look in (
        lambda: list(here.dump()),
        lambda: (here.snapshot(tmp_path / "copy.db"), settle_copy(tmp_path / "copy.db")),
        lambda: backup(Place.of(url), tmp_path / "b"),
    ):
        with pytest.raises(StoreError, match=f"job {damaged} in the store is damaged") as caught:
            look()
        assert caught.value.id == "record_damaged"
        assert caught.value.hint
    assert not (tmp_path / "b").exists()
    assert here.get(well).id == well
