"""A record on a Redis server that was damaged, field by field: it stops nobody, and costs no other job anything."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest
from msgspec import structs

from minitango.errors import JobNotFound, StoreError
from minitango.job import Cancelled, Fail, Failure, Finish, JobSpec, Lease, Outcome, Result, State
from minitango.store._redis_look import check
from minitango.store.redis import RedisStore
from tests import redis_server

P: Final = "minitango:{q}:"
RESULT: Final = Result(Outcome.GRADED, 1.0, 1.0)
IMAGE: Final = Failure("sandbox_registry", "the image cannot be pulled now")
TEXTS: Final = (
    "id", "state", "order", "lane", "assignment", "student", "spec", "inputs", "refs", "key", "token", "node",
    "solo_lease", "held_alone", "failure", "reach", "callback",
)  # fmt: skip
NUMBERS: Final = (
    "seq", "attempt", "due", "due_since", "submitted", "started", "expires", "failures", "interruptions",
    "solo_deaths", "late", "held", "held_at", "held_since", "held_mark",
)  # fmt: skip
VALUES: Final = (None, "", "x", "-1", "nan", "9" * 400)
OFFERED: Final = ["gpu", *filter(None, VALUES)]
"""By the last nodes: a lane may say anything."""


def spec(student: str, **more: Any) -> JobSpec:
    return JobSpec("hw", student, "5" * 64, "1" * 64, **more)


class Queue:
    """A queue with one job that is to be damaged, `one`, and others, among them one that runs."""

    def __init__(self, state: str) -> None:
        self.server = redis_server.shared()
        self.client = self.server.client()
        self.client.flushall()
        self.now = 10_000.0
        self.store = RedisStore(self.server.url("q"), clock=lambda: self.now)
        self.graded: Counter[str] = Counter()
        (made,) = self.store.submit([spec("one", key="k", callback="https://x.example/")])
        self.one = made.id
        self.lease: Lease | None = None
        getattr(self, state)()
        (made,) = self.store.submit([spec("beside", priority=9)])
        self.beside = next(lease for lease in self.store.exchange(claim=1, node="b").leases if lease.job == made.id)
        self.store.submit([spec("other"), spec("gpu", lane="gpu")])

    def queued(self) -> None:
        pass

    def running(self) -> None:
        (self.lease,) = self.store.exchange(claim=1, node="n").leases

    def solo(self) -> None:
        for _ in range(2):
            self.store.exchange(claim=1, node="n")
            self.store.recover()
        assert self.store.solo_since() is not None

    def running_alone(self) -> None:
        self.solo()
        (self.lease,) = self.store.exchange(claim=1, solo=True, node="n").leases

    def due(self) -> None:
        self.running()
        assert self.lease is not None
        self.store.exchange([Fail(self.lease, Failure("x", "no"))])
        self.lease = None

    def held(self) -> None:
        self.store.submit([spec("mate")])
        self.running()
        assert self.lease is not None
        self.store.exchange([Fail(self.lease, IMAGE, charge=False)])
        self.lease = None

    def held_before(self) -> None:
        self.held()
        self.now += 100
        self.running()

    def ended(self) -> None:
        self.running()
        assert self.lease is not None
        self.settle([Finish(self.lease, RESULT)])
        self.lease = None

    def died(self) -> None:
        self.running()
        assert self.lease is not None
        self.store.exchange([Fail(self.lease, Failure("x", "no"), retry=False)])
        self.lease = None

    def cancelled(self) -> None:
        self.store.cancel(self.one)

    # ------------------------------------------------------------------------------------------

    def damage(self, field: str, value: str | None) -> None:
        if value is None:
            self.client.hdel(f"{P}j:{self.one}", field)
        else:
            self.client.hset(f"{P}j:{self.one}", field, value)

    def settle(self, acks: list[Any], **more: Any) -> tuple[Lease, ...]:
        done = self.store.exchange(acks, **more)
        refused = {lease.token for lease in done.refused}
        self.graded.update(ack.lease.job for ack in acks if isinstance(ack, Finish) and ack.lease.token not in refused)
        return done.leases

    def look(self) -> None:
        self.store.next_due()
        self.store.solo_since()
        self.store.cancel_requested()
        self.store.ended_since(0)
        self.agree()

    def agree(self) -> None:
        """What is counted is what there is, by each job's own word, or by the indexes where that was damaged."""
        running = {one.decode() for one in self.client.zrange(P + "running", 0, -1)}
        ended = {one.decode() for one in self.client.zrange(P + "ended", 0, -1)}
        jobs = {one.decode() for one in self.client.zrange(P + "jobs", 0, -1)}
        counts = self.store.counts()
        assert counts[State.RUNNING] == len(running)
        assert counts[State.QUEUED] == len(jobs) - len(running) - len(ended)
        assert sum(counts[state] for state in State if state.terminal) == len(ended)
        said = Counter(self.client.hget(f"{P}j:{job}", "state") for job in ended if job != self.one)
        for state in State:
            if state.terminal:
                assert said[state.value.encode()] <= counts[state] <= said[state.value.encode()] + 1

    def grade_all(self) -> None:
        for _ in range(40):
            self.now += 400
            self.store.reap()
            solo = self.store.solo_since(capabilities=OFFERED) is not None
            leases = [
                *self.settle([], claim=9, node="b", capabilities=OFFERED),
                *(self.settle([], claim=1, node="b", capabilities=OFFERED, solo=True) if solo else ()),
            ]
            assert len({lease.job for lease in leases}) == len(leases), "nobody is graded twice at once"
            self.settle([Finish(lease, RESULT) for lease in leases])
            self.look()
            if not leases and not self.store.counts()[State.QUEUED] + self.store.counts()[State.RUNNING]:
                return
        raise AssertionError(f"never done: {self.store.counts()}")


@pytest.fixture
def queue() -> Iterator[Any]:
    redis_server.need_redis()
    with contextlib.ExitStack() as open_ones:
        yield lambda state: open_ones.enter_context(contextlib.closing(Opened(state)))


class Opened(Queue):
    def close(self) -> None:
        self.store.close()


def case(queue: Queue, field: str, value: str | None, *, cancel: bool) -> None:
    queue.damage(field, value)
    queue.look()
    leases = queue.settle([Finish(queue.beside, RESULT)], claim=1, node="c")
    queue.look()
    if queue.lease is not None:
        queue.store.extend([queue.lease])
    (again,) = queue.store.submit([spec("one", key="k", lane="gpu")])
    queue.look()
    if cancel:
        with contextlib.suppress(JobNotFound):
            queue.store.cancel(queue.one)
        queue.look()
    if queue.lease is not None:
        queue.settle([Fail(queue.lease, IMAGE, charge=False)])
        queue.look()
    queue.settle([Finish(lease, RESULT) for lease in leases])
    queue.store.exchange(claim=2, node="d", capabilities=["gpu"])
    queue.store.recover(node="d")
    queue.look()
    queue.grade_all()
    jobs = {one.decode() for one in queue.client.zrange(P + "jobs", 0, -1)}
    assert queue.graded.pop(queue.one, 0) <= 1
    assert dict(queue.graded) == dict.fromkeys(jobs - {queue.one}, 1)
    assert again.id in jobs
    with contextlib.suppress(StoreError):
        assert queue.store.get(queue.one).state.terminal
    assert not queue.settle([], claim=1, solo=True, capabilities=OFFERED)
    left = {key.decode().removeprefix(P).split(":")[0] for key in queue.client.scan_iter(P + "*", count=1000)}
    assert not left & {"running", "due", "solo", "ready", "alone", "cancels", "others", "waves"}
    assert queue.store.forget(jobs, undelivered=True) == len(jobs)
    assert not any(queue.store.counts().values())
    assert not list(queue.client.scan_iter(P + "j:*", count=1000))


@pytest.mark.parametrize(
    "state",
    ["queued", "running", "solo", "running_alone", "due", "held", "held_before", "ended", "died", "cancelled"],
)
def test_a_record_that_was_damaged_stops_nobody(queue: Any, state: str) -> None:
    cases = [(field, value, False) for field in NUMBERS for value in VALUES]
    cases += [(field, value, False) for field in TEXTS for value in VALUES[:3]]
    cases += [(field, value, True) for field in NUMBERS + TEXTS for value in VALUES[:3:2]]
    for field, value, cancel in cases:
        one = queue(state)
        try:
            case(one, field, value, cancel=cancel)
        except Exception as error:
            error.add_note(f"{state}: {field} = {str(value)[:20]}, {cancel=}")
            raise
        finally:
            one.close()


@pytest.mark.parametrize("field", ["spec", "assignment", "student", "inputs", "submitted"])
def test_a_job_of_which_it_is_lost_what_is_to_be_graded_is_dead(queue: Any, field: str) -> None:
    one = queue("queued")
    one.damage(field, None)
    leases = one.store.exchange(claim=9, node="b").leases
    assert one.one not in {lease.job for lease in leases}
    one.store.exchange()
    assert one.client.hget(f"{P}j:{one.one}", "state") == b"dead"
    assert b"record_damaged" in one.client.hget(f"{P}j:{one.one}", "failure")


def test_what_costs_nothing_is_mended_when_a_job_is_claimed(queue: Any) -> None:
    one = queue("due")
    for field in ("id", "seq", "order", "lane"):
        one.damage(field, None)
    for field in ("state", "attempt", "due", "due_since", "interruptions", "solo_deaths", "late", "held", "failures"):
        one.damage(field, "x")
    one.now += 100
    (lease,) = (lease for lease in one.settle([], claim=9, node="b") if lease.job == one.one)
    job = one.store.get(one.one)
    assert (job.id, job.seq, job.state, job.attempt, lease.attempt) == (one.one, 1, State.RUNNING, 2, 2)
    assert [attempt.number for attempt in one.store.attempts(one.one)] == [1, 2]
    one.settle([Finish(lease, RESULT)])
    assert one.store.get(one.one).state is State.DONE
    one.agree()


@pytest.mark.parametrize("field", ["held_at", "held_since", "held_mark", "held", "state"])
@pytest.mark.parametrize("value", ["x", "", None])
def test_a_hold_does_not_go_by_a_mate_whose_record_was_damaged(queue: Any, field: str, value: str | None) -> None:
    one = queue("held")
    one.one = one.client.zrevrange(f"{P}held:{'5' * 64}", 0, 0)[0].decode()  # to which others look
    one.damage(field, value)
    (lease,) = one.store.exchange(claim=1, node="b").leases
    (held,) = one.store.exchange([Fail(lease, IMAGE, charge=False)]).settled
    assert held.state is State.QUEUED
    assert held.due is not None
    one.grade_all()


@pytest.mark.parametrize(
    ("field", "value"), [("ended_seq", "x"), ("ended_seq", "0"), ("started", "x"), ("started", None)]
)
def test_a_hold_does_not_go_by_one_that_ended_and_was_damaged(queue: Any, field: str, value: str | None) -> None:
    one = queue("queued")
    ours, other = sorted(one.store.exchange(claim=2, node="b").leases, key=lambda lease: lease.job == one.one)
    one.store.exchange([Fail(ours, IMAGE, charge=False)])
    died = Fail(other, Failure("x", "no"), retry=False)
    one.store.exchange([Finish(other, RESULT) if field == "started" else died])
    one.damage(field, value)
    one.now += 100
    (again,) = one.store.exchange(claim=1, node="b").leases
    assert one.store.exchange([Fail(again, IMAGE, charge=False)]).settled[0].state is State.QUEUED


def test_what_a_script_had_done_before_it_erred_is_booked(queue: Any) -> None:
    one = queue("queued")
    one.client.set(f"{P}a:{one.one}", "no hash")
    with pytest.raises(StoreError) as caught:
        one.store.exchange([Finish(one.beside, RESULT)], claim=1, node="c")
    assert caught.value.id == "store_corrupt"
    done = one.beside.job
    assert one.store.get(done).state is State.DONE
    assert one.store.counts()[State.DONE] == 1
    assert [job.id for job in one.store.ended_since(0)] == [done]
    assert one.client.zscore(P + "running", done) is None
    assert (one.store.last_ended(), one.store.recover()) == (1, [])


@pytest.mark.parametrize("state", list(State))
def test_a_count_that_is_none_is_counted_anew(queue: Any, state: State) -> None:
    one = queue("ended")
    for student in ("a", "b"):
        one.store.cancel(one.store.submit([spec(student)])[0].id)
    (lease,) = one.store.exchange(claim=1, node="c").leases
    one.store.exchange([Fail(lease, Failure("x", "no"), retry=False)])
    before = dict(one.store.counts())
    one.client.hset(P + "meta", f"n:{state.value}", "x")
    (made,) = one.store.submit([structs.replace(spec("c"), priority=9)])
    (lease,) = one.store.exchange(claim=1, node="c").leases
    assert lease.job == made.id
    match state:
        case State.DEAD:
            one.store.exchange([Fail(lease, Failure("x", "no"), retry=False)])
        case State.CANCELLED:
            one.store.cancel(made.id)
            one.store.exchange([Cancelled(lease)])
        case _:
            one.store.exchange([Finish(lease, RESULT)])
    ended = state if state.terminal else State.DONE
    assert one.store.counts() == {**before, ended: before[ended] + 1}
    one.agree()


@pytest.mark.parametrize("said", [None, "x", "nan", "1e999", "-1"])
def test_a_number_that_is_lost_is_not_given_again(queue: Any, said: str | None) -> None:
    one = queue("ended")
    for field in ("seq", "ended_seq"):
        one.client.hdel(P + "meta", field) if said is None else one.client.hset(P + "meta", field, said)
    (made,) = one.store.submit([spec("new")])
    assert one.store.get(made.id).seq == 5
    one.store.exchange([Finish(one.beside, RESULT)])
    assert [job.ended_seq for job in one.store.ended_since(0)] == [1, 2]


@pytest.mark.parametrize("said", [b"", b"x", b"\xff", b"nan", b"1e999", b"9" * 9000])
@pytest.mark.parametrize("field", ["version", "seq", "ended_seq", "n:queued", "n:done", "reaped", "settled", "blobs"])
def test_what_a_queue_says_of_itself_is_hostile(queue: Any, field: str, said: bytes) -> None:
    """Where it stops somebody, that is told; of most there is no need."""
    one = queue("queued")
    one.client.hset(P + "meta", field, said)

    def opened() -> None:
        RedisStore(one.server.url("q")).close()

    looks = [opened, one.store.counts, one.store.last_ended, one.store.books, lambda: list(one.store.dump())]
    told: list[StoreError] = []
    for action in (*looks, one.store.reap, lambda: one.store.submit([spec("x")])):
        try:
            action()
        except StoreError as error:
            told.append(error)
        assert action in looks or field == "version" or not told, "no script minds"
        while told:
            error = told.pop()
            assert error.hint
            assert len(error.message) < 400
            assert error.id == "store_corrupt" or (error.id, field) == ("store_too_new", "version")
    if field != "version":
        one.settle([Finish(one.beside, RESULT)])
        one.grade_all()


@pytest.mark.parametrize("memory", [{}, {"maxmemory": "x", "used_memory": "y"}, {"maxmemory": 1e400}, [], None])
@pytest.mark.parametrize("replication", [{}, {"role": 7}, None])
def test_a_server_that_says_nonsense_of_itself_is_used(
    queue: Any, memory: Any, replication: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = queue("queued")
    with monkeypatch.context() as patch:
        patch.setattr(one.store._link, "_seen", -1e9)
        patch.setattr(one.store._link, "pipeline", lambda *_, **__: [memory, replication])
        assert one.store.submit([spec("x")])[0].created
    info = {
        "redis_version": "7.0.1",
        "maxmemory": "x",
        "used_memory": "y",
        "aof_enabled": 1,
        "maxmemory_policy": "allkeys",
    }
    assert check(info, one.store._link.place, "redis-cli") == ()
