"""The contract of `minitango.store`: each sentence of its docstrings has a test here, and every store passes.

A new store adds a `Backend` to BACKENDS, and nothing else.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from msgspec import structs

from minitango import retry as retry_module
from minitango.errors import ConfigError, JobNotFound, StoreError
from minitango.group import group
from minitango.job import (
    SOLO_AFTER,
    TRANSITIONS,
    Ack,
    Cancelled,
    Delivery,
    Fail,
    Failure,
    Finish,
    Job,
    JobSpec,
    Lease,
    Notice,
    Outcome,
    Release,
    Result,
    State,
    StepOutput,
    StepReport,
    TestResult,
    Trust,
    Usage,
    lane_of,
    work_key,
)
from minitango.retry import (
    APART,
    HELD_FOR,
    HOLD_BASE,
    LATE_AFTER,
    MAX_ATTEMPTS,
    MAX_HELD,
    MAX_SOLO_DEATHS,
    MOST_BACKOFF,
    TRIAL_AMONG,
)
from minitango.store import UNHEARD, Errand, Node, Query, Store
from minitango.store.redis import RedisStore
from minitango.store.sqlite import SqliteStore
from tests import redis_server, redis_several

T0 = 1_800_000_000.0


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.time = T0

    def __call__(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


class Backend(Protocol):
    """A place for one store, fresh with each test."""

    clock: Clock
    failpoints: str
    """The module whose `failpoint` its verbs pass."""
    one_place: bool
    """Whether its queues share ids, the order of ends, and blobs."""

    def open(self, queue: str = "default") -> Store:
        """Open the place, as another process would: every store of it shares `clock`."""
        ...

    def url(self) -> str:
        """What `open_store` in another process calls this place."""
        ...

    def spoil(self, id: str, what: str) -> None:
        """Damage the record of a job, as a disk or a person does: its labels, or its failure."""
        ...


class SqliteBackend:
    failpoints = "minitango.store._database"
    one_place = True

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self._path = folder / "state" / "queue.db"
        self._opened: list[Store] = []

    def open(self, queue: str = "default") -> Store:
        store = SqliteStore(self._path, queue=queue, clock=self.clock)
        self._opened.append(store)
        return store

    def url(self) -> str:
        return f"sqlite:///{self._path}"

    def spoil(self, id: str, what: str) -> None:
        with contextlib.closing(sqlite3.connect(self._path)) as db, db:
            db.execute(f"UPDATE jobs SET {what} = '[1' WHERE id = ?", (id,))

    def close(self) -> None:
        for store in self._opened:
            store.close()


class RedisBackend:
    failpoints = "minitango.store._redis_link"
    one_place = False

    def __init__(self, folder: Path) -> None:
        redis_server.need_redis()
        self.clock = Clock()
        self._server = self._servers()
        self._server.flush()
        self._opened: list[Store] = []

    def _servers(self) -> redis_server.Server | redis_several.Watched | redis_several.Cluster:
        return redis_server.shared()

    def open(self, queue: str = "default") -> Store:
        store = RedisStore(self._server.url(), queue=queue, clock=self.clock)
        self._opened.append(store)
        return store

    def url(self) -> str:
        return self._server.url()

    def spoil(self, id: str, what: str) -> None:
        redis_server.shared().client().hset(f"minitango:{{default}}:j:{id}", what, "[1")

    def close(self) -> None:
        for store in self._opened:
            store.close()


class SentinelBackend(RedisBackend):
    def _servers(self) -> redis_several.Watched:
        return redis_several.shared_watched()


class ClusterBackend(RedisBackend):
    def _servers(self) -> redis_several.Cluster:
        return redis_several.shared_cluster()


BACKENDS = {
    "sqlite": SqliteBackend,
    "redis": RedisBackend,
    "sentinel": SentinelBackend,
    "cluster": ClusterBackend,
}
ON_SEVERAL = frozenset(
    {
        "test_what_is_handed_in_again_is_the_last",
        "test_claims_come_by_priority_then_rank_then_order_of_submission",
        "test_those_held_often_take_turns",
        "test_jobs_of_one_assignment_wait_for_their_image_together",
        "test_a_key_that_is_left_goes_to_the_latest_of_those_that_had_it",
        "test_a_stale_lease_is_not_extended",
        "test_three_deaths_alone_make_a_job_dead",
        "test_why_it_was_cancelled_is_kept",
        "test_every_edge_of_the_state_machine_is_walked",
        "test_a_node_is_drained_until_it_is_not",
        "test_queues_of_one_store_do_not_see_each_other",
        "test_get_refuses_an_ambiguous_beginning",
        "test_list_filters",
        "test_attempts_tell_a_jobs_story",
        "test_a_follower_misses_no_end",
        "test_what_failed_is_due_again_when_it_was_said",
        "test_many_who_take_at_once_share_them",
        "test_a_job_is_handed_over_to_those_whose_it_stays",
        "test_shrinking_changes_nothing_but_the_room",
        "test_forget_takes_any_number",
        "test_referenced_names_the_blobs_that_jobs_need",
        "test_close_may_come_twice_and_nothing_after_it",
        "test_an_exception_inside_a_verb_leaves_no_trace",
        "test_watch_tells_of_what_another_process_did",
        "test_closing_a_store_ends_its_watches",
    }
)
"""With sentinels, and on a cluster, scripts and keys are those of one server: what could differ is each script, each
kind of reading, and the channel."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        several = metafunc.function.__name__ in ON_SEVERAL
        metafunc.parametrize("place", [*BACKENDS] if several else ["sqlite", "redis"], indirect=True)


def test_those_that_run_on_several_are_there() -> None:
    assert set(globals()) >= ON_SEVERAL


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    backend = BACKENDS[request.param](tmp_path)
    yield backend
    backend.close()


@pytest.fixture
def store(place: Backend) -> Store:
    return place.open()


@pytest.fixture
def clock(place: Backend) -> Clock:
    return place.clock


# --- words for the tests ----------------------------------------------------------------------

FAILURE = Failure("sandbox_failed", "the sandbox broke", "look at it")
RESULT = Result(
    Outcome.GRADED,
    score=7.5,
    max_score=10,
    trust=Trust.SEPARATED,
    tests=(TestResult(name="one", score=7.5, output="naïve \x00 ✓"),),
    extra_data={"deep": [1, {"a": None}], "big": 2**70},
    warnings=(Notice("disk_full", "the disk was full"),),
    steps=(StepReport("test", exit_status=0, usage=Usage(1.5, 0.5, 1 << 20)),),
    usage=Usage(1.5, 0.5, 1 << 20),
)


AWAY = Failure("sandbox_gone", "the engine is away", "start it")
UNREACHED = Failure("sandbox_registry", "the image cannot be pulled now", "look at the network")
OFFLINE = Failure("sandbox_network", "containers have no network", "give them one")


def spec(student: str = "ada", **rest: object) -> JobSpec:
    return JobSpec("hw1", student, "5" * 64, "1" * 64, **rest)  # type: ignore[arg-type]


def submit(store: Store, *specs: JobSpec, fresh: bool = False) -> list[str]:
    return [one.id for one in store.submit(specs or [spec()], fresh=fresh)]


def claim(store: Store, n: int = 1, **rest: object) -> list[Lease]:
    return list(store.exchange(claim=n, **rest).leases)  # type: ignore[arg-type]


def running(store: Store, **rest: object) -> Lease:
    """A lease of a job that was submitted and claimed just now."""
    (job_id,) = submit(store, spec(**rest))  # type: ignore[arg-type]
    (lease,) = claim(store)
    assert lease.job == job_id
    return lease


def settle(store: Store, ack: Ack) -> Job:
    done = store.exchange([ack])
    assert done.refused == ()
    (job,) = done.settled
    assert job == store.get(ack.lease.job), "what an exchange tells is what the store has"
    return job


def interrupted(store: Store, times: int) -> str:
    """A job whose engines died `times` times while it was one of several."""
    (job_id,) = submit(store)
    for _ in range(times):
        claim(store)
        store.recover()
    return job_id


def in_state(store: Store, state: State) -> str:
    (job_id,) = submit(store, spec(f"in {state}"))
    if state is State.QUEUED:
        return job_id
    if state is State.CANCELLED:
        return store.cancel(job_id).id
    (lease,) = claim(store)
    if state is State.DONE:
        settle(store, Finish(lease, RESULT))
    elif state is State.DEAD:
        settle(store, Fail(lease, FAILURE, retry=False))
    return job_id


def states(store: Store) -> dict[State, int]:
    return {state: n for state, n in store.counts().items() if n}


def everything(store: Store) -> list[object]:
    """All that a store can tell."""
    jobs = store.list()
    return [
        jobs,
        store.counts(),
        store.last_ended(),
        store.next_due(),
        store.solo_since(),
        store.cancel_requested(),
        store.next_callback(),
    ] + [(store.attempts(job.id), store.result(job.id), store.outputs(job.id), store.callback(job.id)) for job in jobs]


ACKS: dict[str, Callable[[Lease], Ack]] = {
    "finish": lambda lease: Finish(lease, RESULT, (StepOutput("test", b"hello"),)),
    "fail": lambda lease: Fail(lease, FAILURE),
    "fail for good": lambda lease: Fail(lease, FAILURE, retry=False),
    "fail uncharged": lambda lease: Fail(lease, FAILURE, charge=False),
    "release": Release,
    "cancelled": Cancelled,
}

# --- the protocol ------------------------------------------------------------------------------


def test_is_a_store(store: Store) -> None:
    assert isinstance(store, Store)


def test_its_clock_is_seconds_since_the_epoch(store: Store, clock: Clock) -> None:
    assert store.now() == clock.time


# --- submit ------------------------------------------------------------------------------------


def test_a_submitted_job_is_queued_and_whole(store: Store, clock: Clock) -> None:
    whole = JobSpec(
        "hw1", "ada", "5" * 64, "1" * 64, key="k", course="15-213", title="a\nb🎉.c", priority=3, rank=-2, lane="gpu",
        labels={"section": "B"}, supersedes="0123456789", refs=("a" * 64, "b" * 64, "a" * 64),
        callback="https://lms.example/é?a=b c",
    )  # fmt: skip
    (submitted,) = store.submit([whole])

    assert submitted.created
    assert submitted.state is State.QUEUED
    job = store.get(submitted.id)
    assert (job.state, job.attempt, job.failures, job.interruptions) == (State.QUEUED, 0, 0, 0)
    assert (job.submitted, job.due, job.started, job.ended) == (clock.time, None, None, None)
    assert (job.title, job.labels, job.priority, job.rank) == ("a\nb🎉.c", {"section": "B"}, 3, -2)
    assert store.spec(submitted.id) == whole


def test_a_lease_says_what_its_job_was_submitted_with(store: Store) -> None:
    labels = {"group": '["ada", "eve"]', "section": "B"}
    submit(store, JobSpec("hw1", "ada", "5" * 64, "1" * 64, course="15-213", labels=labels), spec())
    first, second = claim(store, 2)
    assert (first.student, first.course, first.labels) == ("ada", "15-213", labels)
    assert second.labels == {}


def test_submitting_nothing_does_nothing(store: Store) -> None:
    assert store.submit([]) == []
    assert states(store) == {}


def test_submit_keeps_the_order_of_its_specs(store: Store) -> None:
    ids = submit(store, *(spec(str(n)) for n in range(50)))
    jobs = store.list()
    assert [job.id for job in jobs] == ids
    assert [job.seq for job in jobs] == sorted(job.seq for job in jobs)


def test_submit_is_all_or_nothing(store: Store) -> None:
    with pytest.raises(ConfigError) as caught:
        store.submit([spec(key="a"), spec("\ud800 is no text")])
    assert caught.value.id == "not_storable"
    assert store.list() == []
    assert states(store) == {}
    assert submit(store, spec(key="a")), "and nothing holds the key"


def test_an_id_is_opaque_and_unlike_the_others(store: Store) -> None:
    ids = submit(store, *[spec()] * 300)
    assert len(set(ids)) == 300
    assert all(len(job_id) == 10 and set(job_id) <= set("0123456789abcdefghjkmnpqrstvwxyz") for job_id in ids)


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.DONE])
def test_a_key_that_is_held_gives_the_job_that_holds_it(store: Store, state: State) -> None:
    (first,) = submit(store, spec(key="k"))
    if state is not State.QUEUED:
        (lease,) = claim(store)
        if state is State.DONE:
            settle(store, Finish(lease, RESULT))
    (again,) = store.submit([spec("another", key="k")])
    assert (again.id, again.created, again.state) == (first, False, state)
    assert len(store.list()) == 1


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.DONE])
def test_what_is_handed_in_again_is_the_last(place: Backend, store: Store, clock: Clock, state: State) -> None:
    first, second = submit(store, spec(key="right"), spec(key="wrong"))
    if state is not State.QUEUED:
        leases = claim(store, 2)
        if state is State.DONE:
            for lease in leases:
                settle(store, Finish(lease, RESULT))
    before = store.get(second)
    assert (before.turn, before.handed, before.handed_seq) == (before.seq, None, None)
    clock.advance(5)
    submit(store, spec(key="right"))
    again = place.open().get(first)
    assert (again.handed, again.submitted, again.state) == (T0 + 5, T0, state)
    assert again.turn > before.turn > again.seq
    (third,) = submit(store, spec())
    assert store.get(third).turn > again.turn, "a new job comes after it"
    assert store.submit([spec(key="wrong"), spec(key="right")])[1].id == first
    assert [job.id for job in sorted(store.list(), key=lambda job: job.turn)] == [third, second, first]
    assert [job.id for job in store.list()] == [first, second, third]


@pytest.mark.parametrize("solo", [False, True])
@pytest.mark.parametrize("wait", [False, True])
def test_what_is_handed_in_again_waits_for_what_it_needs_now(
    store: Store, clock: Clock, solo: bool, wait: bool
) -> None:
    """Else nobody would ever grade what is queued for a node that there is not, though its assignment was corrected."""
    for _ in range(SOLO_AFTER if solo else 0):
        submit(store, spec(key="k", lane="gpu"))
        store.exchange(claim=1, solo=False, capabilities=["gpu"])
        store.recover()
    (job,) = submit(store, spec(key="k", lane="gpu"))
    if wait:
        (lease,) = store.exchange(claim=1, solo=solo, capabilities=["gpu"]).leases
        settle(store, Fail(lease, Failure("sandbox_failed", "no")))
    assert store.exchange(claim=1, solo=solo).leases == ()
    assert submit(store, spec(key="k", lane="fpga"), spec(key="k")) == [job, job]
    clock.advance(3600)
    assert store.exchange(claim=1, solo=solo, capabilities=["fpga"]).leases[0].job == job
    assert store.get(job).lane == ""
    assert submit(store, spec(key="k", lane="gpu")) == [job]
    assert store.get(job).lane == "", "what runs has what it needed"


def test_a_key_that_was_given_up_is_not_handed_in_again(store: Store) -> None:
    lease = running(store, key="k")
    settle(store, Finish(lease, RESULT))
    submit(store, spec(key="k"), fresh=True)
    assert store.get(lease.job).handed is None


@pytest.mark.parametrize("state", [State.DEAD, State.CANCELLED])
def test_a_dead_or_cancelled_job_gives_its_key_up(store: Store, state: State) -> None:
    (first,) = submit(store, spec(key="k"))
    if state is State.DEAD:
        settle(store, Fail(claim(store)[0], FAILURE, retry=False))
    else:
        store.cancel(first)
    (again,) = store.submit([spec(key="k")])
    assert again.created
    assert store.get(again.id).supersedes == first
    assert store.get(first).key == "k", "it remembers the key that it had"


def test_a_spec_that_names_what_it_supersedes_is_believed(store: Store) -> None:
    (first,) = submit(store, spec(key="k"))
    store.cancel(first)
    (again,) = submit(store, spec(key="k", supersedes="elsewhere1"))
    assert store.get(again).supersedes == "elsewhere1"


def test_fresh_takes_the_key_of_a_done_job(store: Store) -> None:
    lease = running(store, key="k")
    settle(store, Finish(lease, RESULT))
    (again,) = store.submit([spec(key="k")], fresh=True)
    assert again.created
    assert store.get(again.id).supersedes == lease.job
    store.cancel(again.id)
    (third,) = store.submit([spec(key="k")])
    assert third.created, "the done job does not get its key back"
    assert store.get(third.id).supersedes == again.id


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_fresh_leaves_a_queued_or_running_job_its_key(store: Store, state: State) -> None:
    (first,) = submit(store, spec(key="k"))
    if state is State.RUNNING:
        claim(store)
    (again,) = store.submit([spec(key="k")], fresh=True)
    assert (again.id, again.created, again.state) == (first, False, state)


@pytest.mark.parametrize("fresh", [False, True])
def test_two_specs_of_one_call_with_one_key_are_one_job(store: Store, fresh: bool) -> None:
    one, other, two = store.submit([spec(key="k"), spec(key="j"), spec(key="k")], fresh=fresh)
    assert (one.id, one.created, two.created) == (two.id, True, False)
    assert other.id != one.id
    assert store.get(one.id).turn > store.get(other.id).turn, "its work was handed in once more, and last"
    (later,) = submit(store, spec(key="l"))
    assert store.get(later).turn > store.get(one.id).turn


def test_without_a_key_nothing_is_the_same(store: Store) -> None:
    assert len(set(submit(store, spec(), spec()))) == 2


def test_a_forgotten_job_holds_no_key(store: Store) -> None:
    lease = running(store, key="k")
    settle(store, Finish(lease, RESULT))
    store.forget([lease.job])
    (again,) = store.submit([spec(key="k")])
    assert again.created
    assert store.get(again.id).supersedes is None


def test_two_threads_that_submit_one_key_make_one_job(place: Backend) -> None:
    made = []

    def run(store: Store) -> None:
        for n in range(40):
            made.append(store.submit([spec(key=f"k{n}")])[0])

    threads = [threading.Thread(target=run, args=(place.open(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 120
    assert len({one.id for one in made}) == 40
    assert sum(one.created for one in made) == 40


# --- claims ------------------------------------------------------------------------------------


def test_claims_come_by_priority_then_rank_then_order_of_submission(store: Store) -> None:
    wanted = [(p, r, n) for p in (5, 0, -5) for r in (-1, 0, 7) for n in range(2)]
    shuffled = list(wanted)
    random.Random(7).shuffle(shuffled)
    shuffled.sort(key=lambda one: one[2])
    ids = submit(store, *(spec(f"{p} {r} {n}", priority=p, rank=r) for p, r, n in shuffled))
    order = dict(zip(shuffled, ids, strict=True))
    got = [lease.job for size in (1, 5, 2, 50) for lease in claim(store, size)]
    assert got == [order[one] for one in wanted]


def test_a_claim_makes_a_job_running(store: Store, clock: Clock) -> None:
    (job_id,) = submit(store)
    clock.advance(5)
    (lease,) = claim(store, node="here", lease_for=30)
    assert (lease.job, lease.attempt, lease.expires, lease.solo) == (job_id, 1, clock.time + 30, False)
    assert (lease.spec, lease.inputs, lease.assignment, lease.student) == ("5" * 64, "1" * 64, "hw1", "ada")
    job = store.get(job_id)
    assert (job.state, job.attempt, job.node) == (State.RUNNING, 1, "here")
    assert (job.started, job.expires) == (clock.time, clock.time + 30)


def test_a_claim_takes_no_more_than_it_asks_for(store: Store) -> None:
    submit(store, *[spec()] * 5)
    assert len(claim(store, 2)) == 2
    assert store.exchange(claim=0).leases == ()
    assert len(claim(store, 9)) == 3
    assert claim(store, 9) == []


def test_each_attempt_has_a_higher_number_and_a_new_token(store: Store) -> None:
    submit(store)
    leases = []
    for _ in range(5):
        (lease,) = claim(store)
        leases.append(lease)
        settle(store, Release(lease))
    assert [lease.attempt for lease in leases] == [1, 2, 3, 4, 5]
    assert len({lease.token for lease in leases}) == 5
    assert all(len(lease.token) >= 32 for lease in leases)


def test_two_threads_claim_disjoint_jobs(place: Backend) -> None:
    submit(place.open(), *(spec(str(n)) for n in range(200)))
    got: list[str] = []

    def run(store: Store) -> None:
        while leases := claim(store, 3):
            got.extend(lease.job for lease in leases)

    shared = place.open()
    threads = [threading.Thread(target=run, args=(store,)) for store in (shared, shared, place.open())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == len(set(got)) == 200


def test_a_job_is_claimed_when_it_is_due_and_not_before(store: Store, clock: Clock) -> None:
    lease = running(store)
    job = settle(store, Fail(lease, FAILURE))
    assert job.due == clock.time + 1
    clock.advance(0.999)
    assert claim(store) == []
    clock.advance(0.001)
    assert [again.job for again in claim(store)] == [lease.job]
    assert store.get(lease.job).due is None


def test_a_job_that_became_due_takes_its_old_place(store: Store, clock: Clock) -> None:
    first = running(store)
    settle(store, Fail(first, FAILURE))
    (second,) = submit(store)
    clock.advance(1)
    assert [lease.job for lease in claim(store, 2)] == [first.job, second]


def die_alone(store: Store, clock: Clock, job: str) -> Job:
    """The engine dies while it runs this job alone."""
    clock.advance(100)
    leases = claim(store, solo=True)
    assert [lease.job for lease in leases] == [job]
    (left,) = store.recover()
    return left


def test_a_poison_holds_its_key_unless_asked_afresh(store: Store, clock: Clock) -> None:
    (poison,) = submit(store, spec(key="k"))
    for _ in range(2):
        claim(store)
        store.recover()
    assert [die_alone(store, clock, poison).state for _ in range(3)] == [State.QUEUED, State.QUEUED, State.DEAD]
    (again,) = store.submit([spec(key="k")])
    assert (again.id, again.created, again.state) == (poison, False, State.DEAD)
    (fresh,) = store.submit([spec(key="k")], fresh=True)
    assert fresh.created


def test_an_engine_death_without_a_job_clears_it(store: Store, clock: Clock) -> None:
    (suspect,) = submit(store)
    for _ in range(2):
        claim(store)
        store.recover()
    for _ in range(2):
        assert die_alone(store, clock, suspect).state is State.QUEUED
    submit(store, spec("bob"))
    claim(store)
    store.recover()  # died with bob's
    assert store.get(suspect).solo_deaths == 0
    for _ in range(2):
        assert die_alone(store, clock, suspect).state is State.QUEUED


def test_jobs_that_kill_in_turns_come_to_an_end(store: Store, clock: Clock) -> None:
    pair = submit(store, spec("a"), spec("b"))
    for _ in range(2):
        claim(store, 2)
        store.recover()
    deaths = 0
    while any(not store.get(each).state.terminal for each in pair):
        clock.advance(100)
        claim(store, solo=True)
        store.recover()
        deaths += 1
        assert deaths <= 2 * 20


def test_a_job_that_is_being_cancelled_gives_its_key_up(store: Store) -> None:
    (old,) = submit(store, spec(key="k"))
    (lease,) = claim(store)
    store.cancel(old)
    (made,) = store.submit([spec(key="k")])
    assert made.created
    assert store.get(made.id).supersedes == old
    settle(store, Cancelled(lease))
    assert store.submit([spec(key="k")])[0].id == made.id


def test_a_clock_that_was_set_back_keeps_no_job_waiting(store: Store, clock: Clock) -> None:
    lease = running(store)
    settle(store, Fail(lease, FAILURE))
    assert claim(store) == []
    clock.time -= 3600
    assert [again.job for again in claim(store)] == [lease.job]


def test_next_due_is_the_earliest(store: Store, clock: Clock) -> None:
    start = clock.time
    assert store.next_due() is None
    one, two = running(store), running(store)
    submit(store)
    assert store.next_due() is None
    settle(store, Fail(two, FAILURE))
    assert store.next_due() == start + 1
    clock.advance(0.5)
    settle(store, Fail(one, AWAY, charge=False))
    assert store.next_due() == start + 1
    clock.advance(0.5)
    assert [lease.job for lease in claim(store, 1)] == [two.job]
    assert store.next_due() == start + 0.5 + HOLD_BASE
    store.cancel(one.job)
    assert store.next_due() is None


# --- acks --------------------------------------------------------------------------------------


def test_finish_records_the_one_result(store: Store, clock: Clock) -> None:
    lease = running(store)
    outputs = (StepOutput("build", b"\x00\xff\n"), StepOutput("test", b"head", b"tail\x00", 12345))
    clock.advance(2)
    job = settle(store, Finish(lease, RESULT, outputs))
    assert (job.state, job.outcome, job.score, job.max_score) == (State.DONE, Outcome.GRADED, 7.5, 10)
    assert (job.trust, job.wall, job.warnings, job.failure) == (Trust.SEPARATED, 1.5, 1, None)
    assert (job.ended, job.expires) == (clock.time, None)
    assert store.result(lease.job) == RESULT
    assert store.outputs(lease.job) == list(outputs)


def test_a_result_without_a_score_says_why(store: Store) -> None:
    lease = running(store)
    job = settle(store, Finish(lease, Result(Outcome.TIME_LIMIT, reason="60 s")))
    assert (job.outcome, job.score, job.reason) == (Outcome.TIME_LIMIT, None, "60 s")


def test_text_that_is_no_unicode_does_not_lose_a_result(store: Store) -> None:
    lease = running(store)
    result = Result(Outcome.NO_SCORE, reason="\udcff!", feedback="a\ud800b", extra_data={"\ud800": ["\udfff"]})
    job = settle(store, Finish(lease, result, (StepOutput("\ud800", b"\x80"),)))
    assert (job.state, job.reason) == (State.DONE, "?!")
    recorded = store.result(lease.job)
    assert recorded is not None
    assert (recorded.feedback, recorded.extra_data) == ("a?b", {"?": ["?"]})
    assert store.outputs(lease.job) == [StepOutput("?", b"\x80")]


def test_a_failure_is_charged_and_comes_back_later_each_time(store: Store, clock: Clock) -> None:
    submit(store)
    delays = []
    for n in range(1, MAX_ATTEMPTS):
        (lease,) = claim(store)
        job = settle(store, Fail(lease, FAILURE))
        assert (job.state, job.failures, job.failure) == (State.QUEUED, n, FAILURE)
        assert job.due is not None
        delays.append(job.due - clock.time)
        clock.advance(delays[-1])
    assert delays == [retry_module.backoff(n) for n in range(1, MAX_ATTEMPTS)]
    (lease,) = claim(store)
    job = settle(store, Fail(lease, FAILURE))
    assert (job.state, job.failures, job.failure, job.due) == (State.DEAD, MAX_ATTEMPTS, FAILURE, None)
    assert job.ended == clock.time
    assert store.result(job.id) is None


def test_a_failure_that_cannot_be_retried_is_the_last(store: Store) -> None:
    job = settle(store, Fail(running(store), FAILURE, retry=False))
    assert (job.state, job.failure) == (State.DEAD, FAILURE)


# --- uncharged failures -------------------------------------------------------------------------


def hold(store: Store, job: str, failure: Failure = AWAY) -> Job:
    """Claim what is due, which must be this job alone, and have it fail uncharged."""
    (lease,) = claim(store, 9)
    assert lease.job == job
    return settle(store, Fail(lease, failure, charge=False))


def wait_for(clock: Clock, job: Job) -> None:
    assert job.due is not None
    clock.time = max(clock.time, job.due)


def plan(student: str, digest: str = "6") -> JobSpec:
    """Of another assignment than `spec`'s."""
    return JobSpec("hw2", student, digest * 64, "1" * 64)


def test_an_uncharged_failure_costs_no_attempt_and_comes_back_later_each_time(store: Store, clock: Clock) -> None:
    (only,) = submit(store)
    delays = []
    for _ in range(3 * MAX_ATTEMPTS):
        job = hold(store, only)
        assert (job.state, job.failures, job.interruptions, job.failure) == (State.QUEUED, 0, 0, AWAY)
        assert job.due is not None
        delays.append(job.due - clock.time)
        wait_for(clock, job)
    assert delays == [min(HOLD_BASE * 2**n, MOST_BACKOFF) for n in range(3 * MAX_ATTEMPTS)]


def test_a_job_that_failed_uncharged_lets_others_go_first(store: Store, clock: Clock) -> None:
    first, second = submit(store, spec("first"), spec("second"))
    (lease,) = claim(store)
    assert lease.job == first
    job = settle(store, Fail(lease, AWAY, charge=False))
    assert [lease.job for lease in claim(store, 9)] == [second]
    wait_for(clock, job)
    assert [lease.job for lease in claim(store, 9)] == [first]


def test_one_that_failed_uncharged_often_comes_after_all_others(store: Store, clock: Clock) -> None:
    (first,) = submit(store, spec(priority=9))
    for _ in range(LATE_AFTER - 1):
        job = hold(store, first)
        wait_for(clock, job)
    (other,) = submit(store)
    (lease,) = claim(store)
    assert lease.job == first, "not yet"
    wait_for(clock, settle(store, Fail(lease, AWAY, charge=False)))
    assert [lease.job for lease in claim(store, 2)] == [other, first]


def test_a_trial_is_made_with_one_that_was_not_held(store: Store, clock: Clock) -> None:
    """If there is any; among them the usual order counts."""
    held = submit(store, *(spec(f"h{n}", priority=9, lane=lane) for n, lane in enumerate(["", "gpu", ""])))
    settled = [settle(store, Fail(lease, AWAY, charge=False)) for lease in claim(store, 9, capabilities=["gpu"])]
    wait_for(clock, max(settled, key=lambda job: job.due or 0))
    later, other = submit(store, spec("later"), spec("first", priority=1))
    for wanted in (other, later):
        assert [lease.job for lease in claim(store, trial=True, capabilities=["gpu"])] == [wanted]
    assert [lease.job for lease in claim(store, 9, trial=True, capabilities=["gpu"])] == held, "they are not left"
    assert claim(store, trial=True) == []


def test_a_trial_looks_no_further_than_it_may(store: Store, clock: Clock) -> None:
    submit(store, *(spec(f"h{n}", priority=9) for n in range(TRIAL_AMONG)))
    leases = claim(store, TRIAL_AMONG)
    jobs = store.exchange([Fail(lease, AWAY, charge=False) for lease in leases]).settled
    wait_for(clock, max(jobs, key=lambda job: job.due or 0))
    (other,) = submit(store)
    (first,) = claim(store, trial=True)
    assert first.job == leases[0].job
    assert [lease.job for lease in claim(store, trial=True)] == [other], "one less is before it"


def test_those_held_often_take_turns(store: Store, clock: Clock) -> None:
    """Also where each takes so long to fail that there is always one that is due."""
    submit(store, *(spec(f"s{n}") for n in range(9)))
    for _ in range(90):
        (lease,) = claim(store)
        clock.advance(MOST_BACKOFF / 2)
        settle(store, Fail(lease, AWAY, charge=False))
    assert {job.attempt for job in store.list()} <= {9, 10, 11, 12}


def test_an_engine_that_is_away_for_hours_burns_nothing(store: Store, clock: Clock) -> None:
    submit(store, *(spec(f"s{n}") for n in range(30)))
    start = clock.time
    while clock.time < start + 2 * 3600:
        for lease in claim(store, 2):
            settle(store, Fail(lease, AWAY, charge=False))
        clock.advance(5)
    jobs = store.list()
    assert {job.state for job in jobs} == {State.QUEUED}
    assert {job.failures for job in jobs} == {0}
    assert min(job.attempt for job in jobs) > 80, "they take turns"


def test_an_engine_that_goes_again_and_again_burns_nothing(store: Store, clock: Clock) -> None:
    """It hits the same jobs each time; between, others are graded; and then it is away for hours."""
    submit(store, *(spec(f"s{n}") for n in range(30)))
    for rounds in (2, 2, 2, 2, 200):
        for _ in range(rounds):
            for lease in claim(store, 4):
                settle(store, Fail(lease, AWAY, charge=False))
            clock.advance(61)
        *hit, graded = claim(store, 30)
        settle(store, Finish(graded, RESULT))
        for lease in hit:
            settle(store, Release(lease))
    assert max(job.failures for job in store.list()) == 0
    assert len(store.list(Query(states=(State.QUEUED,)))) == 25


def fails_while_others_are_graded(
    store: Store, clock: Clock, failure: Failure, graded: JobSpec, *, others: bool = True
) -> Job:
    """The first job of the queue fails uncharged for two hours, or until it has ended."""
    (only,) = submit(store, spec("first"))
    start = clock.time
    job = store.get(only)
    while not job.state.terminal and clock.time < start + 7200:
        job = hold(store, only, failure)
        if others:
            submit(store, graded)
            (lease,) = claim(store)
            settle(store, Finish(lease, RESULT))
        if job.due is not None:
            wait_for(clock, job)
    return job


@pytest.mark.parametrize(
    ("failure", "graded"),
    [(AWAY, spec("bob")), (AWAY, plan("bob")), (OFFLINE, plan("bob")), (UNREACHED, spec("bob"))],
)
def test_a_job_that_alone_fails_again_and_again_comes_to_an_end(
    store: Store, clock: Clock, failure: Failure, graded: JobSpec
) -> None:
    start = clock.time
    job = fails_while_others_are_graded(store, clock, failure, graded)
    assert (job.state, job.failures, job.failure) == (State.DEAD, MAX_ATTEMPTS, failure)
    assert job.attempt > MAX_HELD + MAX_ATTEMPTS
    assert HELD_FOR < clock.time - start < HELD_FOR + 300
    assert store.result(job.id) is None


def test_one_success_of_others_is_enough(store: Store, clock: Clock) -> None:
    first, _ = submit(store, spec("first"), spec("second"))
    (lease,) = claim(store)
    job = settle(store, Fail(lease, AWAY, charge=False))
    settle(store, Finish(*claim(store), RESULT))
    while job.state is not State.DEAD:
        wait_for(clock, job)
        job = hold(store, first)
    assert clock.time - T0 < 2 * HELD_FOR


def test_what_was_under_way_when_it_failed_speaks_against_nobody(store: Store, clock: Clock) -> None:
    first, _ = submit(store, spec("first"), spec("second"))
    one, two = claim(store, 2)
    clock.advance(1)
    job = settle(store, Fail(one, AWAY, charge=False))
    settle(store, Finish(two, RESULT))
    while clock.time < T0 + 7200:
        wait_for(clock, job)
        job = hold(store, first)
        assert job.failures == 0


def test_who_was_graded_before_speaks_against_nobody_whatever_the_clock_said(store: Store, clock: Clock) -> None:
    clock.advance(100_000)
    settle(store, Finish(running(store), RESULT))
    clock.advance(-100_000)
    job = fails_while_others_are_graded(store, clock, AWAY, spec(), others=False)
    assert (job.state, job.failures) == (State.QUEUED, 0)


def test_an_image_that_cannot_be_had_burns_nothing_whoever_else_is_graded(store: Store, clock: Clock) -> None:
    job = fails_while_others_are_graded(store, clock, UNREACHED, plan("bob"))
    assert (job.state, job.failures) == (State.QUEUED, 0)


@pytest.mark.parametrize("failure", [AWAY, OFFLINE])
def test_one_that_nobody_is_graded_beside_waits(store: Store, clock: Clock, failure: Failure) -> None:
    job = fails_while_others_are_graded(store, clock, failure, plan("bob"), others=False)
    assert (job.state, job.failures) == (State.QUEUED, 0)


def test_a_failure_of_another_kind_ends_the_row(store: Store, clock: Clock) -> None:
    (only,) = submit(store)
    for _ in range(LATE_AFTER):
        wait_for(clock, hold(store, only))
    (lease,) = claim(store)
    wait_for(clock, settle(store, Fail(lease, FAILURE)))
    job = hold(store, only)
    assert job.due == clock.time + HOLD_BASE


@pytest.mark.parametrize("failure", [UNREACHED, OFFLINE])
def test_jobs_of_one_assignment_wait_for_their_image_together(store: Store, clock: Clock, failure: Failure) -> None:
    """One is tried for all, later each time; other assignments' are claimed meanwhile."""
    first, *rest = submit(store, *(plan(f"s{n}") for n in range(500)))
    (other,) = submit(store)
    (lease,) = claim(store)
    job = settle(store, Fail(lease, failure, charge=False))
    assert [lease.job for lease in claim(store, 9)] == [other]
    for n in range(1, 9):
        assert job.due == clock.time + min(HOLD_BASE * 2 ** (n - 1), MOST_BACKOFF - APART)
        assert store.next_due() == job.due
        wait_for(clock, job)
        job = hold(store, first, failure)
    assert [job.attempt for job in store.list(Query(ids=tuple(rest)))] == [0] * 499
    wait_for(clock, job)
    (lease,) = claim(store, 9)
    assert lease.job == first
    settle(store, Finish(lease, RESULT))
    assert [lease.job for lease in claim(store, 9)] == rest[:9], "its image is there: in their old order, at once"


def test_those_that_wait_together_are_due_though_the_first_never_ends(store: Store, clock: Clock) -> None:
    first, second = submit(store, plan("a"), plan("b"))
    (lease,) = claim(store)
    job = settle(store, Fail(lease, UNREACHED, charge=False))
    wait_for(clock, job)
    assert [lease.job for lease in claim(store, 9)] == [first]
    clock.advance(APART)
    assert [lease.job for lease in claim(store, 9)] == [second]


def test_a_new_job_of_an_assignment_that_waits_is_tried_once_and_waits_as_long(store: Store, clock: Clock) -> None:
    (first,) = submit(store, plan("first"))
    for _ in range(2):
        job = hold(store, first, UNREACHED)
        wait_for(clock, job)
    assert hold(store, first, UNREACHED).due == clock.time + 4 * HOLD_BASE
    clock.advance(1)
    (new,) = submit(store, plan("new"))
    assert hold(store, new, UNREACHED).due == clock.time + 8 * HOLD_BASE
    assert store.get(first).due == clock.time + 8 * HOLD_BASE + APART


def test_attempts_that_waited_for_the_same_count_once(store: Store, clock: Clock) -> None:
    submit(store, *(plan(f"s{n}") for n in range(9)))
    leases = claim(store, 8)
    clock.advance(5)
    jobs = [settle(store, Fail(lease, UNREACHED, charge=False)) for lease in leases]
    assert jobs[0].due == clock.time + HOLD_BASE
    assert {job.due for job in jobs[1:]} == {clock.time + HOLD_BASE + APART}
    wait_for(clock, jobs[0])
    assert hold(store, jobs[0].id, UNREACHED).due == clock.time + 2 * HOLD_BASE


def test_a_hold_outlives_its_store(place: Backend) -> None:
    store = place.open()
    (only,) = submit(store)
    for _ in range(2):
        job = hold(store, only)
        wait_for(place.clock, job)
        store.close()
        store = place.open()
    assert hold(store, only).due == place.clock.time + 4 * HOLD_BASE


def test_a_release_counts_nothing_and_is_due_at_once(store: Store) -> None:
    submit(store)
    for _ in range(3 * SOLO_AFTER):
        (lease,) = claim(store)
        job = settle(store, Release(lease))
        assert (job.state, job.due) == (State.QUEUED, None)
        assert (job.failures, job.interruptions, job.solo_deaths, job.solo) == (0, 0, 0, False)


def test_cancelled_ends_a_job(store: Store, clock: Clock) -> None:
    lease = running(store)
    store.cancel(lease.job)
    job = settle(store, Cancelled(lease))
    assert (job.state, job.ended, job.outcome) == (State.CANCELLED, clock.time, None)


def test_a_finish_wins_against_a_cancel(store: Store) -> None:
    lease = running(store)
    store.cancel(lease.job)
    assert settle(store, Finish(lease, RESULT)).state is State.DONE
    assert store.result(lease.job) == RESULT


def test_a_finish_by_another_grader_is_that_work(store: Store) -> None:
    wanted, other = (work_key([kind], "", "ada", "1" * 64) for kind in ("docker", "bubblewrap"))
    one = spec("ada", key=wanted)
    (job_id,) = (made.id for made in store.submit([one]))
    (lease,) = claim(store)
    assert settle(store, Finish(lease, RESULT, grader=("bubblewrap",))).key == other
    again, same = store.submit([one, structs.replace(one, key=other)])
    assert (again.created, same.created, same.id) == (True, False, job_id)
    (lease,) = claim(store)
    assert settle(store, Finish(lease, RESULT, grader=("docker",))).key == wanted
    assert [made.id for made in store.submit([one, structs.replace(one, key=other)])] == [again.id, job_id]


def test_of_what_several_handed_in_together_the_work_is_of_all(store: Store) -> None:
    labels = group(("ada", "bob"))
    wanted, other = (work_key([kind], "", "ada", "1" * 64, labels) for kind in ("docker", "bubblewrap"))
    assert wanted == work_key(["docker"], "", "bob", "1" * 64, group(("bob", "ada")))
    assert work_key(["docker"], "", "ada", "1" * 64) not in (wanted, work_key(["docker"], "", "bob", "1" * 64))
    store.submit([spec("ada", key=wanted, labels=labels)])
    (lease,) = claim(store)
    assert settle(store, Finish(lease, RESULT, grader=("bubblewrap",))).key == other


def test_a_key_is_its_latest_jobs_whoever_finishes_last(store: Store) -> None:
    one, two = (work_key([kind], "", "ada", "1" * 64) for kind in ("docker", "bubblewrap"))
    (first,) = submit(store, spec(key=one))
    (second,) = submit(store, spec(key=two))
    lease, other = claim(store, 2)
    settle(store, Finish(other, RESULT))
    settle(store, Finish(lease, RESULT, grader=("bubblewrap",)))
    assert submit(store, spec(key=two)) == [second], "the later one has it"
    (third,) = submit(store, spec(key=one))
    settle(store, Finish(claim(store)[0], RESULT))
    (fourth,) = submit(store, spec(key=one), fresh=True)
    settle(store, Finish(claim(store)[0], RESULT, grader=("bubblewrap",)))
    assert submit(store, spec(key=one)) == [third], "it goes back to the one before"
    assert submit(store, spec(key=two)) == [fourth]
    assert len({first, second, third, fourth}) == 4


def test_a_key_that_is_left_goes_to_the_latest_of_those_that_had_it(store: Store) -> None:
    """And of this queue alone, and to nobody where there is none."""
    key = work_key(["docker"], "", "ada", "1" * 64)
    made = []
    for number in range(4):
        made += submit(store, spec(key=key), fresh=True)
        grader = ("bubblewrap",) if number == 3 else ()
        settle(store, Finish(claim(store)[0], RESULT, grader=grader))
    assert submit(store, spec(key=key)) == [made[2]]
    (alone,) = submit(store, spec("bob", key="mine"))
    settle(store, Finish(claim(store)[0], RESULT, grader=("bubblewrap",)))
    assert submit(store, spec("bob", key="mine")) != [alone]


def test_a_finish_by_a_grader_gives_no_key_to_a_job_without_one(store: Store) -> None:
    store.submit([spec("ada", key=None)])
    (lease,) = claim(store)
    assert settle(store, Finish(lease, RESULT, grader=("docker",))).key is None


@pytest.mark.parametrize("ack", ["fail", "fail for good", "fail uncharged", "release"])
def test_after_a_cancel_there_is_no_other_attempt(store: Store, ack: str) -> None:
    lease = running(store)
    store.cancel(lease.job)
    job = settle(store, ACKS[ack](lease))
    assert (job.state, job.due) == (State.CANCELLED, None)
    assert states(store) == {State.CANCELLED: 1}


def test_what_is_claimed_beside_an_ack_is_taken_back_when_its_lease_lapses(store: Store, clock: Clock) -> None:
    store.submit([spec("a"), spec("b")])
    (first,) = store.exchange(claim=1).leases
    (second,) = store.exchange([Finish(first, RESULT)], claim=1, lease_for=5).leases
    clock.advance(6)
    assert [job.id for job in store.reap()] == [second.job]
    assert store.counts()[State.RUNNING] == 0


def test_acks_and_claims_go_in_one_exchange(store: Store) -> None:
    first, second = running(store), running(store)
    (third,) = submit(store)
    done = store.exchange([Finish(first, RESULT), Release(second)], claim=5)
    assert [job.id for job in done.settled] == [first.job, second.job]
    assert [lease.job for lease in done.leases] == [second.job, third], "a released job may be claimed at once"


def test_what_an_exchange_says_is_done_in_its_order(store: Store, clock: Clock) -> None:
    """A job that is put back after another had all those held that were queued does not wait with them."""
    submit(store, spec("first"), spec("second"), spec("waits"))
    first, second = claim(store, 2)
    acks = (Fail(first, UNREACHED, charge=False), Fail(second, Failure("x", "no")))
    held, failed = store.exchange(acks).settled
    assert store.get(failed.id).due == failed.due == clock.time + 1
    assert held.due is not None
    assert store.list()[2].due == held.due + APART


def test_a_job_that_was_graded_in_the_same_exchange_speaks_against_a_hold(store: Store, clock: Clock) -> None:
    held = running(store, student="held")
    store.exchange([Fail(held, AWAY, charge=False)])
    clock.advance(HOLD_BASE + 1)
    submit(store, spec("other"))
    again, other = sorted(claim(store, 2), key=lambda lease: lease.job != held.job)
    store.exchange([Finish(other, RESULT), Fail(again, AWAY, charge=False)])
    (streak,) = (dumped.streak for dumped in store.dump() if dumped.job.id == held.job)
    assert streak is not None
    assert (streak.times, streak.alone) == (2, True)


# --- the fence ---------------------------------------------------------------------------------


def stale_by_release(store: Store, clock: Clock, lease: Lease) -> None:
    settle(store, Release(lease))


def stale_by_recover(store: Store, clock: Clock, lease: Lease) -> None:
    store.recover()


def stale_by_reap(store: Store, clock: Clock, lease: Lease) -> None:
    clock.advance(1000)
    assert store.reap()


def stale_by_another_attempt(store: Store, clock: Clock, lease: Lease) -> None:
    store.recover()
    assert [again.job for again in claim(store)] == [lease.job]


def stale_by_its_own_finish(store: Store, clock: Clock, lease: Lease) -> None:
    settle(store, Finish(lease, RESULT))


def stale_by_its_end(store: Store, clock: Clock, lease: Lease) -> None:
    settle(store, Fail(lease, FAILURE, retry=False))


def stale_by_being_forgotten(store: Store, clock: Clock, lease: Lease) -> None:
    settle(store, Cancelled(lease))
    store.forget([lease.job])


STALE = [
    stale_by_release, stale_by_recover, stale_by_reap, stale_by_another_attempt, stale_by_its_own_finish,
    stale_by_its_end, stale_by_being_forgotten,
]  # fmt: skip


@pytest.mark.parametrize("ack", ACKS)
@pytest.mark.parametrize("overtake", STALE)
def test_a_stale_ack_is_refused_and_changes_nothing(
    store: Store, clock: Clock, overtake: Callable[[Store, Clock, Lease], None], ack: str
) -> None:
    lease = running(store)
    overtake(store, clock, lease)
    before = everything(store)
    done = store.exchange([ACKS[ack](lease)])
    assert (done.refused, done.settled) == ((lease,), ())
    assert everything(store) == before


@pytest.mark.parametrize("overtake", STALE)
def test_a_stale_lease_is_not_extended(
    store: Store, clock: Clock, overtake: Callable[[Store, Clock, Lease], None]
) -> None:
    lease, good = running(store), running(store)
    if overtake is stale_by_another_attempt:
        settle(store, Release(good))
    overtake(store, clock, lease)
    before = store.list(Query(ids=(lease.job,)))
    assert lease in store.extend([lease, good])
    assert store.list(Query(ids=(lease.job,))) == before


@pytest.mark.parametrize("ack", ACKS)
def test_the_fence_is_the_token_not_the_state(store: Store, ack: str) -> None:
    lease = running(store)
    forged = Lease(lease.job, lease.attempt, "0" * 32, lease.expires, "", "", "", "")
    other = Lease(lease.job, lease.attempt + 1, lease.token, lease.expires, "", "", "", "")
    assert store.exchange([ACKS[ack](forged), ACKS[ack](other)]).refused == (forged, other)
    assert store.extend([forged, other]) == (forged, other)
    assert store.get(lease.job).state is State.RUNNING


def test_an_ack_that_comes_twice_in_one_exchange_counts_once(store: Store) -> None:
    lease = running(store)
    done = store.exchange([Finish(lease, RESULT), Finish(lease, Result(Outcome.NO_SCORE)), Release(lease)])
    assert done.refused == (lease, lease)
    assert store.result(lease.job) == RESULT


def test_a_stale_ack_does_not_take_the_others_with_it(store: Store) -> None:
    stale = running(store)
    store.recover()
    (again,) = claim(store)
    good = running(store)
    done = store.exchange([Finish(stale, Result(Outcome.NO_SCORE)), Finish(good, RESULT), Finish(again, RESULT)])
    assert done.refused == (stale,)
    assert [job.id for job in done.settled] == [good.job, again.job]
    assert store.result(stale.job) == RESULT


# --- leases ------------------------------------------------------------------------------------


def test_a_lease_lapses_after_its_expiry_not_at_it(store: Store, clock: Clock) -> None:
    (job_id,) = submit(store)
    (lease,) = claim(store, lease_for=60)
    clock.time = lease.expires
    assert store.reap() == []
    clock.advance(0.001)
    (job,) = store.reap()
    assert (job.id, job.state, job.interruptions, job.failures) == (job_id, State.QUEUED, 1, 0)
    assert job == store.get(job_id)


def test_an_extended_lease_lapses_later(store: Store, clock: Clock) -> None:
    lease = running(store)
    clock.advance(59)
    assert store.extend([lease], lease_for=60) == ()
    assert store.get(lease.job).expires == clock.time + 60
    clock.advance(60)
    assert store.reap() == []
    clock.advance(1)
    assert len(store.reap()) == 1


def test_a_lapsed_lease_that_nobody_reaped_still_holds(store: Store, clock: Clock) -> None:
    lease = running(store)
    clock.advance(10_000)
    assert store.extend([lease]) == ()
    assert store.reap() == []
    clock.advance(10_000)
    assert settle(store, Finish(lease, RESULT)).state is State.DONE


def test_extending_nothing_loses_nothing(store: Store) -> None:
    assert store.extend([]) == ()


def test_time_is_a_parameter_of_each_verb(store: Store) -> None:
    (one,) = store.submit([spec()], now=100.0)
    assert store.get(one.id).submitted == 100.0
    (lease,) = store.exchange(claim=1, lease_for=10, now=200.0).leases
    assert lease.expires == 210.0
    assert store.extend([lease], lease_for=10, now=205.0) == ()
    assert store.reap(now=215.0) == []
    (job,) = store.reap(now=215.5)
    assert store.attempts(job.id)[0].ended == 215.5
    store.exchange(claim=1, now=300.0)
    assert store.recover(now=301.0)[0].interruptions == 2
    assert store.cancel(one.id, now=302.0).ended == 302.0


# --- interruptions -----------------------------------------------------------------------------


def test_recover_takes_back_every_running_job(store: Store) -> None:
    leases = [running(store) for _ in range(3)]
    (waiting,) = submit(store)
    taken = store.recover()
    assert [job.id for job in taken] == [lease.job for lease in leases]
    for job in taken:
        assert (job.state, job.interruptions, job.failures, job.due) == (State.QUEUED, 1, 0, None)
        assert job == store.get(job.id)
    assert store.get(waiting).interruptions == 0
    assert store.recover() == []


@pytest.mark.parametrize("verb", ["recover", "reap"])
def test_a_job_that_was_interrupted_twice_is_run_alone(store: Store, clock: Clock, verb: str) -> None:
    (job_id,) = submit(store)
    for _ in range(SOLO_AFTER):
        assert not store.get(job_id).solo
        assert [lease.job for lease in claim(store)] == [job_id]
        clock.advance(100)
        store.recover() if verb == "recover" else store.reap()
    assert store.get(job_id).solo
    (other,) = submit(store)
    assert [lease.job for lease in claim(store, 9)] == [other], "a plain claim leaves it"
    (lease,) = claim(store, 9, solo=True)
    assert (lease.job, lease.solo) == (job_id, True)


def test_a_solo_claim_takes_one_job_and_only_such_a_job(store: Store) -> None:
    submit(store, spec(), spec())
    assert claim(store, 5, solo=True) == []
    for _ in range(SOLO_AFTER):
        claim(store, 2)
        store.recover()
    assert len(claim(store, 5, solo=True)) == 1


def test_solo_since_is_when_the_first_of_them_became_due(store: Store, clock: Clock) -> None:
    submit(store)
    assert store.solo_since() is None
    first = interrupted(store, 0)
    claim(store, 2)
    store.recover()
    claim(store, 2)
    store.recover()
    start = clock.time
    clock.advance(50)
    assert store.solo_since() == start
    (lease,) = claim(store, solo=True)
    assert store.solo_since() == start, "there is another"
    claim(store, solo=True)
    assert store.solo_since() is None
    settle(store, Release(lease))
    assert store.solo_since() == clock.time
    assert store.get(first).solo


def test_solo_since_is_of_those_that_may_run_here(store: Store, clock: Clock) -> None:
    submit(store, *(spec(f"s{n}", lane="gpu") for n in range(150)), spec("other", lane="large"))
    for _ in range(SOLO_AFTER):
        clock.advance(1)
        assert len(claim(store, 200, capabilities=["gpu", "large"])) == 151
        store.recover()
    assert store.solo_since() is None
    assert store.solo_since(capabilities=["gpu"]) == clock.time
    assert store.solo_since(capabilities=["large"]) == clock.time


def test_three_deaths_alone_make_a_job_dead(store: Store, clock: Clock) -> None:
    job_id = interrupted(store, SOLO_AFTER)
    for n in range(1, MAX_SOLO_DEATHS):
        (lease,) = claim(store, solo=True)
        (job,) = store.recover()
        assert (job.state, job.solo_deaths) == (State.QUEUED, n)
        assert job.due is not None
        assert store.solo_since() == job.due
        assert claim(store, solo=True) == [], "it waits a little"
        clock.time = job.due
    (lease,) = claim(store, solo=True)
    (job,) = store.recover()
    assert (job.id, job.state, job.solo_deaths, job.failures) == (job_id, State.DEAD, MAX_SOLO_DEATHS, 0)
    assert job.failure is not None
    assert job.failure.id == "poison"
    assert job.failure.hint
    assert job.ended_seq == store.last_ended()
    assert store.exchange([Finish(lease, RESULT)]).refused == (lease,)


def test_a_hundred_engine_deaths_kill_no_job_that_was_not_alone(store: Store) -> None:
    submit(store, *[spec()] * 200)
    for _ in range(100):
        assert len(claim(store, 4)) == 4
        store.recover()
    jobs = store.list()
    assert states(store) == {State.QUEUED: 200}
    assert {(job.interruptions, job.solo_deaths, job.failures) for job in jobs} == {(2, 0, 0)}
    for _ in jobs:
        (lease,) = claim(store, solo=True)
        settle(store, Finish(lease, RESULT))
    assert states(store) == {State.DONE: 200}


def test_a_solo_job_that_stops_in_good_order_is_not_charged_with_a_death(store: Store) -> None:
    job_id = interrupted(store, SOLO_AFTER)
    for _ in range(2 * MAX_SOLO_DEATHS):
        (lease,) = claim(store, solo=True)
        settle(store, Release(lease))
    job = store.get(job_id)
    assert (job.state, job.solo_deaths, job.due) == (State.QUEUED, 0, None)


@pytest.mark.parametrize("verb", ["recover", "reap"])
def test_a_job_that_is_taken_back_after_a_cancel_ends_cancelled(store: Store, clock: Clock, verb: str) -> None:
    lease = running(store)
    store.cancel(lease.job)
    clock.advance(100)
    (job,) = store.recover() if verb == "recover" else store.reap()
    assert (job.id, job.state) == (lease.job, State.CANCELLED)
    assert store.cancel_requested() == []


# --- cancel ------------------------------------------------------------------------------------


def test_cancel_ends_a_queued_job(store: Store, clock: Clock) -> None:
    (job_id,) = submit(store)
    clock.advance(1)
    job = store.cancel(job_id)
    assert (job.state, job.ended) == (State.CANCELLED, clock.time)
    assert job == store.get(job_id)
    assert claim(store) == []


def test_cancel_ends_a_job_that_waits_for_its_time(store: Store, clock: Clock) -> None:
    lease = running(store)
    settle(store, Fail(lease, FAILURE))
    assert store.cancel(lease.job).state is State.CANCELLED
    assert store.next_due() is None
    clock.advance(100)
    assert claim(store) == []


def test_cancel_asks_a_running_job_to_end(store: Store) -> None:
    lease, other = running(store), running(store)
    for _ in range(2):
        job = store.cancel(lease.job)
        assert (job.state, job.cancel_requested) == (State.RUNNING, True)
        assert job == store.get(lease.job)
    assert store.cancel_requested() == [lease.job]
    assert not store.get(other.job).cancel_requested
    assert store.extend([lease]) == (), "its lease stands until the sandbox is gone"


@pytest.mark.parametrize("end", ["queued", "cancelled", "fail", "release", "recover"])
def test_why_it_was_cancelled_is_kept(store: Store, end: str) -> None:
    if end == "queued":
        (job_id,) = submit(store)
        assert store.cancel(job_id, reason="paused\ud800").reason == "paused?"
    else:
        lease = running(store)
        job_id = lease.job
        assert store.cancel(job_id, reason="paused\ud800").reason == "paused?"
        assert store.cancel(job_id, reason="another").reason == "paused?"
        if end == "recover":
            store.recover()
        else:
            settle(store, {"cancelled": Cancelled(lease), "fail": Fail(lease, FAILURE), "release": Release(lease)}[end])
    assert store.cancel(job_id, reason="another").reason == "paused?"
    found = store.get(job_id)
    assert (found.state, found.reason) == (State.CANCELLED, "paused?")


def test_a_result_that_won_the_race_has_its_own_reason(store: Store) -> None:
    lease = running(store)
    store.cancel(lease.job, reason="paused")
    settle(store, Finish(lease, Result(Outcome.NO_SCORE, reason="no report")))
    assert store.get(lease.job).reason == "no report"


@pytest.mark.parametrize("state", [State.DONE, State.DEAD, State.CANCELLED])
def test_cancel_leaves_an_ended_job_as_it_is(store: Store, state: State) -> None:
    job_id = in_state(store, state)
    before = store.get(job_id)
    assert store.cancel(job_id) == before
    assert store.get(job_id) == before


# --- counts, and the state machine ------------------------------------------------------------


def test_counts_have_every_state(store: Store) -> None:
    assert dict(store.counts()) == dict.fromkeys(State, 0)
    for state in (State.DONE, State.DEAD, State.DEAD, State.CANCELLED):
        in_state(store, state)
    in_state(store, State.RUNNING)
    submit(store, *[spec()] * 3)
    assert states(store) == {
        State.DONE: 1, State.DEAD: 2, State.CANCELLED: 1, State.RUNNING: 1, State.QUEUED: 3,
    }  # fmt: skip
    store.forget([job.id for job in store.list()])
    assert states(store) == {State.RUNNING: 1, State.QUEUED: 3}


def test_every_edge_of_the_state_machine_is_walked(store: Store, clock: Clock) -> None:
    """By the record that attempts leave: (verb, state of the job then)."""
    walked: set[tuple[State | None, str, State]] = set()
    (job_id,) = submit(store)
    walked.add((None, "submit", store.get(job_id).state))
    walked.add((State.QUEUED, "cancel", store.cancel(job_id).state))
    for make in ACKS.values():
        lease = running(store)
        walked.add((State.QUEUED, "claim", store.get(lease.job).state))
        job = settle(store, make(lease))
        walked.add((State.RUNNING, str(store.attempts(job.id)[0].ended_by), job.state))
        if not job.state.terminal:
            store.cancel(job.id)
    for verb in ("recover", "reap"):
        job_id = interrupted(store, SOLO_AFTER)
        while not store.get(job_id).state.terminal:
            clock.advance(100)
            claim(store, solo=True)
            clock.advance(100)
            (job,) = store.recover() if verb == "recover" else store.reap()
            walked.add((State.RUNNING, str(store.attempts(job_id)[-1].ended_by), job.state))
    assert walked == {(edge.source, edge.verb, edge.target) for edge in TRANSITIONS}


# --- nodes and what they offer ------------------------------------------------------------------


def test_a_job_is_given_to_a_node_that_offers_what_it_needs(store: Store) -> None:
    plain, gpu, both = submit(store, spec(), spec(lane="gpu"), spec(lane=lane_of(["large", "gpu", "large"])))
    assert claim(store, 9, capabilities=["large"])[0].job == plain
    assert claim(store, 9, capabilities=["large"]) == []
    assert [lease.job for lease in claim(store, 9, capabilities=["gpu", "more"])] == [gpu]
    assert [lease.job for lease in claim(store, 9, capabilities=["gpu", "large"])] == [both]


def test_lanes_are_one_queue_to_who_serves_them_all(store: Store) -> None:
    first, second, third, last = submit(
        store, spec(priority=2, lane="gpu"), spec(priority=1), spec(lane="gpu"), spec(priority=-1)
    )
    assert [lease.job for lease in claim(store, 3, capabilities=["gpu"])] == [first, second, third]
    assert [lease.job for lease in claim(store, 3, capabilities=["gpu"])] == [last]


def test_there_may_be_any_number_of_lanes(store: Store) -> None:
    lanes = [f"lab-{n}" for n in range(600)]
    ids = submit(store, *(spec(lane=lane) for lane in lanes))
    assert claim(store, 9) == [], "nobody serves them"
    claimed = [lease.job for _ in range(4) for lease in claim(store, 200, capabilities=lanes)]
    assert sorted(claimed) == sorted(ids)


def test_a_lane_that_was_empty_is_claimed_from_again(store: Store, clock: Clock) -> None:
    """Whatever its jobs went through when there was none: they waited, were put back, or taken from a dead engine."""
    (job_id,) = submit(store, spec(lane="gpu"))
    for _ in range(2):
        (lease,) = claim(store, 9, capabilities=["gpu"])
        assert claim(store, 9, capabilities=["gpu"]) == []
        settle(store, Fail(lease, Failure("x", "no")))
        assert claim(store, 9, capabilities=["gpu"]) == []
        clock.advance(100)
    (lease,) = claim(store, 9, capabilities=["gpu"])
    settle(store, Release(lease))
    for _ in range(SOLO_AFTER):
        assert [lease.job for lease in claim(store, 9, capabilities=["gpu"])] == [job_id]
        store.recover()
    assert claim(store, 9, capabilities=["gpu"]) == []
    assert [lease.job for lease in claim(store, solo=True, capabilities=["gpu"])] == [job_id]


def test_what_waits_for_a_node_is_no_solo_claim_either(store: Store) -> None:
    (job_id,) = submit(store, spec(lane="gpu"))
    for _ in range(SOLO_AFTER):
        claim(store, capabilities=["gpu"])
        store.recover()
    assert claim(store, solo=True) == []
    assert [lease.job for lease in claim(store, solo=True, capabilities=["gpu"])] == [job_id]


def test_nodes_are_known_while_they_are_there(store: Store, clock: Clock) -> None:
    node = Node("n1", "i1", host="h", pid=7, version="1", slots=4, sandbox="docker", capabilities=("gpu",), started=T0)
    assert store.nodes() == []
    assert store.beat(node) is False
    assert list(store.nodes()) == [structs.replace(node, seen=T0)]
    clock.advance(5)
    store.beat(Node("n0", "x"))
    store.beat(structs.replace(node, running=2))
    assert [(one.name, one.running, one.seen) for one in store.nodes()] == [("n0", 0, T0 + 5), ("n1", 2, T0 + 5)]
    assert store.leave("n1", "another instance") is False
    assert store.leave("n0") is True
    assert store.leave("n1", "i1") is True
    assert store.leave("n1", "i1") is False
    assert store.nodes() == []


def test_a_node_is_drained_until_it_is_not(place: Backend) -> None:
    store, other = place.open(), place.open("another")
    node = Node("n1", "i1")
    assert store.drain("n1") is False, "it is not there"
    store.beat(node)
    other.beat(node)
    assert store.drain("n1") is True
    assert store.drain("n1") is True
    assert store.beat(node) is True
    assert other.beat(node) is False, "another queue's node of the same name"
    assert [one.draining for one in store.nodes()] == [True]
    store.leave("n1")
    assert store.beat(structs.replace(node, instance="i2")) is True, "also after a restart"
    assert store.drain("n1", False) is True
    assert store.beat(node, after=["i2"]) is False
    assert [one.draining for one in store.nodes()] == [False]


def test_a_drained_node_that_left_can_be_resumed(store: Store) -> None:
    store.beat(Node("n1", "i1"))
    store.drain("n1")
    store.leave("n1")
    assert store.drain("n1") is True, "it is"
    assert store.drain("n1", False) is True
    assert store.books().drained == ()
    assert store.drain("n1", False) is False, "now nobody knows it"
    assert store.beat(Node("n1", "i2")) is False


def test_a_name_is_one_instances_while_it_is_heard_of(store: Store, clock: Clock) -> None:
    first = Node("n1", "i1", host="here", pid=7, good_for=30)
    store.beat(first)
    clock.advance(29)
    with pytest.raises(ConfigError, match=r"'n1'.*here.*7") as caught:
        store.beat(Node("n1", "i2"), after=["i0"])
    assert caught.value.id == "node_taken"
    assert list(store.nodes()) == [structs.replace(first, seen=T0)], "nothing was noted"
    store.beat(first)
    clock.advance(30)
    store.beat(Node("n1", "i2"))
    with pytest.raises(ConfigError):
        store.beat(first)
    clock.advance(59)
    with pytest.raises(ConfigError):
        store.beat(first)
    assert store.beat(first, after=["i0", "i2"]) is False
    with pytest.raises(ConfigError):
        store.beat(Node("n1", "i2"))
    store.leave("n1", "i1")
    assert store.beat(Node("n1", "i2")) is False


def test_nodes_that_were_not_heard_of_for_long_are_forgotten(place: Backend, clock: Clock) -> None:
    store, other = place.open(), place.open("another")
    for each in ("killed", "drained", "alive"):
        store.beat(Node(each, "i"))
    other.beat(Node("killed", "i"))
    store.drain("drained")
    clock.advance(UNHEARD)
    store.beat(Node("alive", "i"))
    assert len(store.nodes()) == 3
    clock.advance(1)
    store.beat(Node("alive", "i"))
    assert [each.name for each in store.nodes()] == ["alive"]
    assert len(other.nodes()) == 1, "another queue's"
    assert store.beat(Node("drained", "j")) is True, "what was asked for holds"


def test_a_drained_node_claims_nothing(store: Store) -> None:
    store.beat(Node("n1", "i1"))
    submit(store)
    store.drain("n1")
    assert claim(store, node="n1") == []
    assert len(claim(store, node="n2")) == 1


def test_a_drain_is_told_to_who_watches(place: Backend) -> None:
    store, other = place.open(), place.open()
    store.beat(Node("n1", "i1"))
    called = threading.Event()
    stop = store.watch(called.set)
    called.clear()
    other.drain("n1")
    assert called.wait(10)
    stop()


def test_recovering_a_node_leaves_the_others_alone(store: Store) -> None:
    submit(store, spec("a"), spec("b"), spec("c"))
    one, other, again = claim(store, node="one"), claim(store, node="other"), claim(store, node="one")
    taken = store.recover(node="one")
    assert [job.id for job in taken] == [one[0].job, again[0].job]
    assert store.recover(node="nobody") == []
    assert store.get(other[0].job).state is State.RUNNING
    assert settle(store, Finish(other[0], RESULT)).state is State.DONE


# --- damage ------------------------------------------------------------------------------------


def test_a_record_that_is_damaged_costs_the_others_of_a_claim_nothing(place: Backend, store: Store) -> None:
    ids = [one for n in range(5) for one in submit(store, spec(str(n), labels={"a": "b"}))]
    place.spoil(ids[0], "labels")
    place.spoil(ids[3], "labels")
    claimed = store.exchange(claim=5)
    assert [lease.job for lease in claimed.leases] == [ids[1], ids[2], ids[4]]
    assert [(job.id, job.state) for job in claimed.settled] == [(ids[0], State.DEAD), (ids[3], State.DEAD)]
    for job in claimed.settled:
        assert job.failure is not None
        assert job.failure.id == "record_damaged"
        assert "damaged" in job.failure.message
        assert job.failure.hint
        with pytest.raises(StoreError) as caught:
            store.get(job.id)
        assert caught.value.id == "record_damaged"
    assert states(store) == {State.RUNNING: 3, State.DEAD: 2}
    assert not store.unheard
    for lease in claimed.leases:
        assert store.exchange([Finish(lease, RESULT)]).settled[0].state is State.DONE
    assert [job.id for job in store.ended_since(0)] == [ids[0], ids[3], ids[1], ids[2], ids[4]]
    assert [one.ended_by for one in store.attempts(ids[0])] == ["fail"]
    assert store.exchange(claim=1).leases == ()


@pytest.mark.parametrize("what", ["labels", "failure"])
def test_a_record_that_is_damaged_while_it_runs_holds_nobody_up(place: Backend, store: Store, what: str) -> None:
    leases = [running(store, student=str(n)) for n in range(6)]
    for lease in leases[::2]:
        place.spoil(lease.job, what)
    acks = [Finish(leases[0], RESULT), Finish(leases[1], RESULT), Fail(leases[2], FAILURE), Fail(leases[3], FAILURE)]
    done = store.exchange(acks)
    assert done.refused == ()
    assert [job.id for job in done.settled] == [lease.job for lease in leases[:4]]
    assert [job.state for job in done.settled] == [State.DONE, State.DONE, State.QUEUED, State.QUEUED]
    assert [job.id for job in store.ended_since(0)] == [leases[0].job, leases[1].job]
    assert store.cancel(leases[4].job).cancel_requested
    assert store.cancel_requested() == [leases[4].job]
    taken = {job.id: job.state for job in store.recover()}
    assert taken == {leases[4].job: State.CANCELLED, leases[5].job: State.QUEUED}


# --- queues ------------------------------------------------------------------------------------


def test_queues_of_one_store_do_not_see_each_other(place: Backend) -> None:
    one, other = place.open("one"), place.open("other")
    (job_id,) = submit(one, spec(key="k"))
    (second,) = submit(other, spec(key="k", refs=("r" * 64,)))
    assert second != job_id
    with pytest.raises(JobNotFound):
        other.get(job_id)
    with pytest.raises(JobNotFound):
        other.cancel(job_id)
    (lease,) = claim(other, 9)
    assert lease.job == second
    assert one.exchange([Finish(lease, RESULT)]).refused == (lease,)
    assert one.recover() == []
    settle(other, Finish(lease, RESULT))
    assert states(one) == {State.QUEUED: 1}
    assert states(other) == {State.DONE: 1}
    assert one.ended_since(0) == []
    assert one.forget([second]) == 0
    assert one.referenced(["r" * 64]) == ({"r" * 64} if place.one_place else set()), "blobs are the whole place's"
    one.cancel(job_id)
    assert one.last_ended() == (2 if place.one_place else 1)


# --- history -----------------------------------------------------------------------------------


def test_get_takes_an_unambiguous_beginning(store: Store) -> None:
    (job_id,) = submit(store)
    for length in range(4, 11):
        assert store.get(job_id[:length]).id == job_id
    for wrong in (
        job_id[:3],
        "",
        job_id + "0",
        "%" * 4,
        "____",
        "-" * 10,
        job_id[:4].upper() + "!",
        "\ud800" * 5,
        "\x00" * 4,
    ):
        with pytest.raises(JobNotFound):
            store.get(wrong)


def test_get_refuses_an_ambiguous_beginning(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["abcd000000", "abcd111111"])
    monkeypatch.setattr("minitango.store._rows.new_id", lambda: next(ids))
    submit(store, spec(), spec())
    with pytest.raises(JobNotFound, match="several") as caught:
        store.get("abcd")
    assert caught.value.id == "job_ambiguous"
    assert caught.value.hint
    assert store.get("abcd1").id == "abcd111111"


def test_an_id_that_is_taken_is_drawn_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["abcd000000", "abcd000000", "abcd000000", "abcd111111"])
    monkeypatch.setattr("minitango.store._rows.new_id", lambda: next(ids))
    assert submit(store, spec("a"), spec("b")) == ["abcd000000", "abcd111111"]
    assert store.get("abcd000000").student == "a"


@pytest.mark.parametrize("verb", ["get", "spec", "result", "outputs", "attempts", "cancel"])
def test_an_unknown_id_is_not_found(store: Store, verb: str) -> None:
    with pytest.raises(JobNotFound) as caught:
        getattr(store, verb)("zzzzzzzzzz")
    assert "zzzzzzzzzz" in str(caught.value)
    assert caught.value.hint


def test_list_filters(store: Store) -> None:
    queued = in_state(store, State.QUEUED)
    store.cancel(queued)
    done = in_state(store, State.DONE)
    (ada,) = submit(store, JobSpec("hw2", "ada", "5" * 64, "1" * 64))

    def listed(**wanted: object) -> list[str]:
        return [job.id for job in store.list(Query(**wanted))]  # type: ignore[arg-type]

    assert listed() == [queued, done, ada]
    assert listed(newest_first=True) == [ada, done, queued]
    assert listed(limit=2) == [queued, done]
    assert listed(limit=1, newest_first=True) == [ada]
    assert listed(limit=0) == []
    assert listed(states=(State.DONE, State.QUEUED)) == [done, ada]
    assert listed(assignment="hw2") == listed(student="ada") == [ada]
    assert listed(assignment="hw1", student="ada") == []
    assert listed(ids=(ada, "unknown", queued)) == [queued, ada]
    assert listed(ids=()) == []
    assert listed(ids=(ada, done), states=(State.DONE,)) == [done]


def test_list_takes_any_number_of_ids(store: Store) -> None:
    (job_id,) = submit(store)
    ids = (*(f"{n:010}" for n in range(40_000)), job_id)
    assert [job.id for job in store.list(Query(ids=ids))] == [job_id]


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.DEAD, State.CANCELLED])
def test_only_a_done_job_has_a_result(store: Store, state: State) -> None:
    job_id = in_state(store, state)
    assert store.result(job_id) is None
    assert store.outputs(job_id) == []


def test_attempts_tell_a_jobs_story(store: Store, clock: Clock) -> None:
    (job_id,) = submit(store)
    assert store.attempts(job_id) == []
    (first,) = claim(store, node="a")
    clock.advance(1)
    settle(store, Fail(first, FAILURE))
    clock.advance(1)
    claim(store, node="b")
    store.recover()
    (third,) = claim(store, node="c")
    one, two, three = store.attempts(job_id)
    assert (one.number, one.node, one.started, one.ended) == (1, "a", T0, T0 + 1)
    assert (one.ended_by, one.failure) == ("fail", FAILURE)
    assert (two.number, two.node, two.ended_by, two.failure) == (2, "b", "recover", None)
    assert (three.node, three.ended, three.ended_by) == ("c", None, None)
    settle(store, Finish(third, RESULT))
    assert store.attempts(job_id)[2].ended_by == "finish"


def test_ended_since_follows_the_order_in_which_jobs_ended(store: Store) -> None:
    assert (store.ended_since(0), store.last_ended()) == ([], 0)
    ids = [in_state(store, state) for state in (State.CANCELLED, State.DONE, State.DEAD, State.DONE)]
    jobs = store.ended_since(0)
    assert [job.id for job in jobs] == ids
    assert [job.ended_seq for job in jobs] == [1, 2, 3, 4]
    assert store.last_ended() == 4
    assert [job.id for job in store.ended_since(2)] == ids[2:]
    assert [job.id for job in store.ended_since(1, limit=2)] == ids[1:3]
    assert store.ended_since(4) == []


def test_ended_seq_is_never_reused(store: Store) -> None:
    job_id = in_state(store, State.DONE)
    store.forget([job_id])
    assert store.last_ended() == 1
    assert store.get(in_state(store, State.DONE)).ended_seq == 2


def test_a_follower_misses_no_end(place: Backend) -> None:
    """Writers end jobs in several stores at once; a reader that only goes forward sees each of them, once."""
    stores = [place.open() for _ in range(3)]
    submit(stores[0], *(spec(str(n)) for n in range(150)))
    finished = threading.Event()

    def run(store: Store) -> None:
        while leases := claim(store, 2):
            store.exchange([Finish(lease, RESULT) for lease in leases])

    threads = [threading.Thread(target=run, args=(store,)) for store in stores]
    seen: list[int] = []

    def follow(store: Store) -> None:
        last = False
        while not last:
            last = finished.is_set()
            seen.extend(job.ended_seq or 0 for job in store.ended_since(seen[-1] if seen else 0, limit=7))
            last = last and len(seen) >= store.last_ended()

    follower = threading.Thread(target=follow, args=(place.open(),))
    for thread in [*threads, follower]:
        thread.start()
    for thread in threads:
        thread.join()
    finished.set()
    follower.join()
    assert seen == list(range(1, 151))


# --- outbox ------------------------------------------------------------------------------------

URL = "https://lms.example/graded?course=1"


def ended(store: Store, state: State = State.DONE, **rest: object) -> str:
    """A job with a callback that has ended."""
    (job_id,) = submit(store, spec(callback=URL, **rest))  # type: ignore[arg-type]
    if state is State.CANCELLED:
        return store.cancel(job_id).id
    (lease,) = claim(store)
    settle(store, Finish(lease, RESULT) if state is State.DONE else Fail(lease, FAILURE, retry=False))
    return job_id


def take(store: Store, n: int = 1, **rest: float) -> list[Errand]:
    return store.take_callbacks(n, **rest)


@pytest.mark.parametrize("state", [State.DONE, State.DEAD, State.CANCELLED])
def test_a_callback_is_pending_as_soon_as_its_job_ends(store: Store, clock: Clock, state: State) -> None:
    (queued,) = submit(store, spec(callback=URL, priority=-1))
    assert (store.get(queued).callback, store.get(queued).delivery) == (URL, None)
    assert store.callback(queued) is None
    assert store.next_callback() is None
    clock.advance(1)
    job_id = ended(store, state)
    job = store.get(job_id)
    assert (job.state, job.callback, job.delivery) == (state, URL, Delivery.PENDING)
    assert store.next_callback() == job.ended == clock.time
    told = store.callback(job_id)
    assert told is not None
    assert structs.astuple(told) == (URL, Delivery.PENDING, 0, clock.time, clock.time, False, None, "")
    (errand,) = take(store, 5)
    assert (errand.job, errand.url, errand.tries, errand.since) == (job_id, URL, 0, clock.time)


def test_a_cancel_of_a_running_job_and_a_poison_are_told_of_too(store: Store) -> None:
    lease = running(store, callback=URL)
    store.cancel(lease.job)
    assert store.next_callback() is None
    settle(store, Cancelled(lease))
    poison = running(store, callback=URL).job
    for _ in range(SOLO_AFTER + MAX_SOLO_DEATHS):
        store.recover()
        store.exchange(claim=1, now=store.now() + 3600)
        store.exchange(claim=1, solo=True, now=store.now() + 3600)
    assert store.get(poison).state is State.DEAD
    assert {errand.job for errand in take(store, 5)} == {lease.job, poison}


def test_a_job_without_a_callback_is_not_told_of(store: Store) -> None:
    job_id = in_state(store, State.DONE)
    assert (store.get(job_id).delivery, store.callback(job_id), store.next_callback()) == (None, None, None)
    assert take(store) == []


def test_a_job_that_goes_back_to_the_queue_is_not_told_of(store: Store) -> None:
    settle(store, Fail(running(store, callback=URL), FAILURE))
    assert store.next_callback() is None


def test_those_due_longest_are_taken_first_and_each_by_one(store: Store, clock: Clock) -> None:
    ids = []
    for n in range(5):
        ids.append(ended(store, course=str(n)))
        clock.advance(1)
    assert take(store, 0) == take(store, -1) == []
    first, second = take(store, 2), take(store, 9)
    assert [errand.job for errand in (*first, *second)] == ids
    assert len({errand.token for errand in (*first, *second)}) == 5
    assert take(store, 9) == []


def test_what_was_taken_is_due_again_when_its_lease_lapses(store: Store, clock: Clock) -> None:
    job_id = ended(store)
    (dead,) = take(store, lease_for=60)
    assert store.next_callback() == clock.time + 60
    told = store.callback(job_id)
    assert told is not None
    assert told.trying
    clock.advance(59)
    assert take(store) == []
    clock.advance(1)
    (errand,) = take(store)
    assert (errand.job, errand.tries) == (job_id, 0)
    assert errand.token != dead.token
    assert not store.callback_delivered(dead), "the word of the first is stale"
    assert not store.callback_failed(dead, "late", again_in=None)
    assert store.get(job_id).delivery is Delivery.PENDING
    assert store.callback_delivered(errand)


def test_what_was_delivered_is_not_due_any_more(store: Store, clock: Clock) -> None:
    job_id = ended(store)
    before = store.get(job_id)
    (errand,) = take(store)
    clock.advance(2)
    assert store.callback_delivered(errand)
    assert store.get(job_id) == structs.replace(before, delivery=Delivery.DELIVERED), "nothing else changed"
    assert store.next_callback() is None
    told = store.callback(job_id)
    assert told is not None
    assert structs.astuple(told) == (URL, Delivery.DELIVERED, 1, clock.time - 2, None, False, clock.time, "")
    clock.advance(1e6)
    assert take(store) == []
    assert not store.callback_delivered(errand), "once"


def test_what_failed_is_due_again_when_it_was_said(store: Store, clock: Clock) -> None:
    job_id = ended(store)
    since = clock.time
    (errand,) = take(store)
    assert store.callback_failed(errand, "it answered 503 \ud800", again_in=7.5)
    assert not store.callback_failed(errand, "again", again_in=0), "once"
    told = store.callback(job_id)
    assert told is not None
    assert structs.astuple(told) == (
        URL, Delivery.PENDING, 1, since, clock.time + 7.5, False, None, "it answered 503 ?"
    )  # fmt: skip
    assert store.next_callback() == clock.time + 7.5
    clock.advance(7.4)
    assert take(store) == []
    clock.advance(0.1)
    (errand,) = take(store)
    assert (errand.tries, errand.since) == (1, since)
    assert store.callback_failed(errand, "nothing was sent", again_in=1, counts=False)
    told = store.callback(job_id)
    assert told is not None
    assert (told.tries, told.error) == (1, "nothing was sent")
    clock.advance(1)
    (errand,) = take(store)
    assert store.callback_failed(errand, "", again_in=1, counts=False)
    told = store.callback(job_id)
    assert told is not None
    assert told.error == "nothing was sent", "nothing else was met"
    assert store.get(job_id).state is State.DONE


def test_what_was_given_up_stays_until_it_is_asked_for(store: Store, clock: Clock) -> None:
    job_id = ended(store)
    (errand,) = take(store)
    assert store.callback_failed(errand, "it answered 404", again_in=None)
    assert store.get(job_id).delivery is Delivery.UNDELIVERED
    told = store.callback(job_id)
    assert told is not None
    assert (told.due, told.settled, told.error, told.tries) == (None, clock.time, "it answered 404", 1)
    clock.advance(1e6)
    assert (take(store), store.next_callback()) == ([], None)
    job = store.redeliver(job_id)
    assert job == store.get(job_id)
    assert job.delivery is Delivery.PENDING
    told = store.callback(job_id)
    assert told is not None
    assert (told.due, told.since, told.tries, told.settled) == (clock.time, clock.time, 0, None)
    (errand,) = take(store)
    assert (errand.tries, errand.since) == (0, clock.time)


def test_what_was_delivered_can_be_delivered_once_more(store: Store) -> None:
    job_id = ended(store)
    store.callback_delivered(take(store)[0])
    store.redeliver(job_id)
    assert [errand.job for errand in take(store)] == [job_id]


def test_asking_anew_leaves_a_try_under_way_alone(store: Store, clock: Clock) -> None:
    job_id = ended(store)
    (errand,) = take(store)
    store.redeliver(job_id)
    assert take(store) == []
    assert store.callback_failed(errand, "no", again_in=100)
    store.redeliver(job_id)
    assert store.next_callback() == clock.time, "one that waits is due at once"


def test_what_cannot_be_delivered_anew(store: Store) -> None:
    (queued,) = submit(store, spec(callback=URL))
    for job_id, error in ((queued, "not_ended"), (in_state(store, State.CANCELLED), "no_callback")):
        with pytest.raises(ConfigError) as caught:
            store.redeliver(job_id)
        assert (caught.value.id, bool(caught.value.hint)) == (error, True)
    for unknown in ("0123456789", "x"):
        with pytest.raises(JobNotFound):
            store.redeliver(unknown)
        with pytest.raises(JobNotFound):
            store.callback(unknown)
    assert store.next_callback() is None


def test_no_due_time_is_more_than_an_hour_away(store: Store, clock: Clock) -> None:
    ended(store)
    (errand,) = take(store, lease_for=1e6)
    assert store.next_callback() == clock.time + 3600
    store.callback_failed(errand, "no", again_in=1e6)
    assert store.next_callback() == clock.time + 3600
    assert take(store) == []
    clock.advance(-1)
    assert len(take(store)) == 1, "that was said before the clock was set back"


def test_jobs_are_listed_by_where_their_callbacks_are(store: Store) -> None:
    pending, delivered, given_up = ended(store), ended(store), ended(store)
    in_state(store, State.DONE)
    for errand in take(store, 3):
        if errand.job == delivered:
            store.callback_delivered(errand)
        if errand.job == given_up:
            store.callback_failed(errand, "no", again_in=None)

    def listed(*wanted: Delivery) -> list[str]:
        return [job.id for job in store.list(Query(delivery=wanted))]

    assert listed(Delivery.PENDING) == [pending]
    assert listed(Delivery.DELIVERED, Delivery.UNDELIVERED) == [delivered, given_up]
    assert len(listed()) == 4


def test_a_forgotten_job_has_no_callback(store: Store) -> None:
    taken, waiting = ended(store), ended(store)
    (errand,) = take(store)
    assert store.forget([taken, waiting], undelivered=True) == 2
    assert store.next_callback() is None
    assert not store.callback_delivered(errand)
    assert not store.callback_failed(errand, "no", again_in=1)
    assert (take(store), store.next_callback()) == ([], None)


def test_what_is_still_to_be_delivered_is_not_forgotten(store: Store) -> None:
    """A redelivery that comes between a look at a job and its end is not lost."""
    taken, again = ended(store), ended(store)
    for errand in take(store, 2):
        assert errand.job == taken or store.callback_delivered(errand)
    looked_at = [job.id for job in store.list() if job.delivery is Delivery.DELIVERED]
    assert looked_at == [again]
    store.redeliver(again)
    assert store.forget([*looked_at, taken]) == 0, "a try is under way, and one is due"
    (errand,) = take(store)
    assert errand.job == again
    assert store.callback_delivered(errand)
    assert store.forget([taken, again]) == 1
    assert [job.id for job in store.list()] == [taken]


def test_a_queue_delivers_its_own_callbacks_only(place: Backend) -> None:
    here, there = place.open("here"), place.open("there")
    job_id = ended(here)
    assert (take(there), there.next_callback()) == ([], None)
    with pytest.raises(JobNotFound):
        there.redeliver(job_id)
    (errand,) = take(here)
    assert not there.callback_delivered(errand)
    assert here.callback_delivered(errand)


def test_a_retry_has_the_callback_too(store: Store) -> None:
    job_id = ended(store)
    assert store.spec(job_id).callback == URL
    (again,) = submit(store, store.spec(job_id))
    assert (store.get(again).callback, store.get(again).delivery) == (URL, None)


def test_many_who_take_at_once_share_them(place: Backend) -> None:
    store = place.open()
    ids = submit(store, *(spec(str(n), callback=URL) for n in range(60)))
    for job_id in ids:
        store.cancel(job_id)
    taken: list[str] = []

    def run(mine: Store) -> None:
        while errands := take(mine, 3):
            taken.extend(errand.job for errand in errands if mine.callback_delivered(errand))

    threads = [threading.Thread(target=run, args=(place.open(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(ids)
    assert len(store.list(Query(delivery=(Delivery.DELIVERED,)))) == 60


# --- upkeep ------------------------------------------------------------------------------------


def test_forget_deletes_ended_jobs_only(store: Store) -> None:
    ids = [in_state(store, state) for state in (State.DONE, State.DEAD, State.CANCELLED, State.RUNNING)]
    ids += submit(store)
    assert store.forget(job_id for job_id in [*ids, "unknown"]) == 3
    assert [job.id for job in store.list()] == ids[3:]
    assert store.forget(ids) == 0
    for verb in (store.get, store.result, store.outputs, store.attempts, store.spec):
        with pytest.raises(JobNotFound):
            verb(ids[0])


def test_a_job_is_handed_over_to_those_whose_it_stays(store: Store) -> None:
    labels = {"group": '["ada", "bob", "eve"]', "origin": "/hw"}
    shared = JobSpec("hw", "ada", "s" * 64, "i" * 64, key="k", labels=labels)
    (one,) = submit(store, shared)
    assert not store.hand_over(one, "bob", {}), "it has not ended"
    assert not store.hand_over("unknown", "bob", {})
    store.cancel(one)
    (two,) = submit(store, shared)
    lease = claim(store)[0]
    assert lease.job == two
    assert not store.hand_over(two, "bob", {})
    settle(store, Finish(lease, RESULT))
    less = {**labels, "group": '["ada", "bob"]'}
    assert store.hand_over(two, "ada", less)
    assert store.get(two).labels == less
    assert [submitted.created for submitted in store.submit([shared])] == [False], "whose it is, it still is"
    assert store.hand_over(two, "bob", {})
    for name, ids in (("ada", [one]), ("bob", [two])):
        assert [job.id for job in store.list(Query(student=name))] == ids
    job = store.get(two)
    assert (job.student, job.labels, job.key, job.state) == ("bob", {}, None, State.DONE)
    (again,) = store.submit([shared])
    assert again.created
    assert store.result(two) == RESULT
    assert store.forget([one, two]) == 2
    assert store.list(Query(student="bob")) == []


def test_what_ended_before_a_time_is_listed(store: Store, clock: Clock) -> None:
    early = in_state(store, State.DONE)
    clock.advance(10)
    late = in_state(store, State.DEAD)
    in_state(store, State.QUEUED)
    ended = store.get(late).ended
    assert ended is not None

    def listed(before: float) -> list[str]:
        return [job.id for job in store.list(Query(ended_before=before))]

    assert listed(ended) == [early], "before, not at"
    assert listed(ended + 0.001) == [early, late]
    assert [job.id for job in store.list(Query(ended_before=ended + 1, states=(State.DEAD,)))] == [late]
    assert listed(0) == []


def test_referenced_without_some_jobs(store: Store) -> None:
    shared, own, other = "a" * 64, "b" * 64, "c" * 64
    one, two = submit(store, spec("ada", refs=(shared, own)), spec("bob", refs=(shared, other)))
    asked = [shared, own, other]
    assert store.referenced(asked, without=[]) == set(asked)
    assert store.referenced(asked, without=[one]) == {shared, other}
    assert store.referenced(asked, without=[one, two]) == set()
    assert store.referenced(asked, without=["unknown"]) == set(asked)
    assert store.referenced(asked) == set(asked), "nothing was forgotten"


def test_shrinking_changes_nothing_but_the_room(store: Store) -> None:
    for _ in range(3):
        lease = running(store)
        settle(store, Finish(lease, RESULT, (StepOutput("test", b"secret" * 20_000),)))
    kept = in_state(store, State.QUEUED)
    gone = [job.id for job in store.list() if job.id != kept]
    assert store.forget(gone[:-1]) == 2
    before = everything(store)
    freed = store.shrink()
    assert freed > 0
    assert everything(store) == before
    assert store.shrink() == 0
    assert len(submit(store)) == 1, "it goes on"


def test_shrinking_beside_others(place: Backend) -> None:
    """What another process submits meanwhile is there, and who watches goes on."""
    one, other = place.open(), place.open()
    told = threading.Event()
    stop = one.watch(told.set)
    threads = [threading.Thread(target=lambda: submit(other)) for _ in range(4)]
    for thread in threads:
        thread.start()
    one.shrink()
    for thread in threads:
        thread.join()
    assert len(one.list()) == 4
    told.clear()
    submit(other)
    assert told.wait(20)
    stop()


def test_forget_takes_any_number(store: Store) -> None:
    ids = submit(store, *[spec()] * 1200)
    for job_id in ids[:1100]:
        store.cancel(job_id)
    assert store.forget(ids) == 1100
    assert states(store) == {State.QUEUED: 100}


def test_referenced_names_the_blobs_that_jobs_need(store: Store) -> None:
    (kept,) = submit(store, JobSpec("hw", "ada", "s" * 64, "i" * 64, refs=("r" * 64, "r" * 64)))
    (gone,) = submit(store, JobSpec("hw", "bob", "s" * 64, "j" * 64, refs=("q" * 64,)))
    everything = [letter * 64 for letter in "sirjqx"]
    assert store.referenced(everything) == {letter * 64 for letter in "sirjq"}
    store.cancel(gone)
    assert store.referenced(everything) == {letter * 64 for letter in "sirjq"}, "an ended job may be graded again"
    store.forget([gone])
    assert store.referenced(everything) == {letter * 64 for letter in "sir"}
    assert store.referenced(everything[3:]) == set()
    assert store.referenced([*(f"{n:064}" for n in range(40_000)), "s" * 64]) == {"s" * 64}
    assert store.get(kept).spec == "s" * 64


# --- durability, processes, watching ------------------------------------------------------------


def test_another_opening_sees_everything(place: Backend) -> None:
    store = place.open()
    lease = running(store, key="k")
    settle(store, Finish(lease, RESULT, (StepOutput("test", b"x"),)))
    store.close()
    again = place.open()
    assert again.result(lease.job) == RESULT
    assert again.outputs(lease.job) == [StepOutput("test", b"x")]
    assert states(again) == {State.DONE: 1}
    assert submit(again, spec(key="k")) == [lease.job]


def test_close_may_come_twice_and_nothing_after_it(place: Backend) -> None:
    store = place.open()
    store.close()
    store.close()
    for verb in (store.counts, store.recover, store.last_ended):
        with pytest.raises(StoreError) as caught:
            verb()
        assert caught.value.id == "store_closed"


def test_an_exception_inside_a_verb_leaves_no_trace(place: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    store = place.open()
    lease = running(store)

    def interrupt(name: str) -> None:
        if name.endswith("before_commit"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"{place.failpoints}.failpoint", interrupt)
        for verb in (
            lambda: store.submit([spec()]),
            lambda: store.exchange([Finish(lease, RESULT)], claim=1),
            lambda: store.recover(),
            lambda: store.cancel(lease.job),
        ):
            with pytest.raises(KeyboardInterrupt):
                verb()
    other = place.open()
    assert states(other) == {State.RUNNING: 1}
    assert not other.get(lease.job).cancel_requested
    assert submit(other), "and no lock is held"
    assert settle(store, Finish(lease, RESULT)).state is State.DONE


def test_watch_tells_of_what_another_process_did(place: Backend) -> None:
    store = place.open()
    called = threading.Event()
    stop = store.watch(called.set)
    code = (
        "import sys; from minitango.store import open_store; from minitango.job import JobSpec;"
        "open_store(sys.argv[1]).submit([JobSpec('hw', 'ada', 's', 'i')])"
    )
    subprocess.run([sys.executable, "-c", code, place.url()], check=True, timeout=60)
    assert called.wait(10)
    assert states(store) == {State.QUEUED: 1}
    stop()
    called.clear()
    submit(place.open())
    assert not called.is_set()
    stop()


def test_watch_tells_soon(place: Backend) -> None:
    store, other = place.open(), place.open()
    called = threading.Event()
    stop = store.watch(called.set)
    for _ in range(5):
        called.clear()
        submit(other)
        assert called.wait(2), "the contract says 100 ms; a machine under load gets 2 s"
    stop()


def test_closing_a_store_ends_its_watches(place: Backend) -> None:
    store = place.open()
    before = threading.active_count()
    store.watch(lambda: None)
    store.watch(lambda: None)
    store.close()
    assert threading.active_count() == before


def test_reading_does_not_wait_for_a_write(place: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    store = place.open()
    (job_id,) = submit(store)
    inside, leave = threading.Event(), threading.Event()

    def stall(name: str) -> None:
        if name == "store.cancel.before_commit":
            inside.set()
            leave.wait(30)

    monkeypatch.setattr(f"{place.failpoints}.failpoint", stall)
    writer = threading.Thread(target=store.cancel, args=(job_id,))
    writer.start()
    assert inside.wait(10)
    assert store.get(job_id).state is State.QUEUED, "read while the commit is under way, and before it"
    assert states(store) == {State.QUEUED: 1}
    leave.set()
    writer.join()
    assert store.get(job_id).state is State.CANCELLED
