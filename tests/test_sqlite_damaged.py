"""Rows of a SQLite queue that are damaged: each costs its own job, and no other."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from minitango.errors import MinitangoError
from minitango.job import Ack, Fail, Failure, Finish, JobSpec, Outcome, Release, Result, State
from minitango.store import _schema
from minitango.store.sqlite import SqliteStore
from tests.contract.test_store import Clock
from tests.support import PATIENCE, open_engine, scoring, submission

SPEC = JobSpec("hw", "ada", "s" * 64, "i" * 64)
IMAGE = Failure("sandbox_registry", "the image cannot be pulled now")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


def columns() -> list[str]:
    """All of a job's, but for its state, which SQLite checks, and its queue: in another one nobody sees it."""
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        for statement in (statement for step in _schema.MIGRATIONS for statement in step):
            db.execute(statement)
        return [name for _, name, *_ in db.execute("PRAGMA table_info(jobs)") if name not in ("state", "queue")]


def write(path: Path, sql: str, *values: object) -> bool:
    """False where that cannot be in this column."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        try:
            with db:
                db.execute(sql, values)
        except sqlite3.IntegrityError:
            return False
    return True


DAMAGED: list[object] = ["x", "", b"\xff", 1e300, float("inf"), float("-inf"), 2**62, -1, 7, None]


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("column", columns())
def test_a_row_that_is_damaged_costs_its_own_job_alone(path: Path, column: str, running: bool) -> None:
    """Whatever is in a column: verbs about other jobs go on, and those about this one raise what they say."""
    clock = Clock()
    with contextlib.closing(SqliteStore(path, clock=clock)) as store:
        for n, value in enumerate(DAMAGED):
            bad, good, mate = (one.id for one in store.submit([SPEC] * 3, fresh=True))
            claimed = store.exchange(claim=3, node="n").leases if running else ()
            if not write(path, f"UPDATE jobs SET {column} = ? WHERE id = ?", value, bad):
                store.exchange([Release(lease) for lease in claimed])
                for one in (bad, good, mate):
                    store.cancel(one)
                continue
            if n % 2 and running:
                store.exchange([Fail(lease, IMAGE, charge=False) for lease in claimed])
                clock.advance(3600)
            store.recover(node=None)
            store.next_due()
            store.solo_since()
            graded: set[str] = set()
            for turn in range(12):
                out = store.exchange(claim=9, solo=turn % 2 == 1, node="n")
                assert not out.refused
                for job in out.settled:
                    assert job.failure is not None
                    assert job.failure.id == "record_damaged"
                store.next_due()
                store.extend(out.leases)
                if not turn:
                    acks: list[Ack] = [Fail(lease, IMAGE, charge=False) for lease in out.leases]
                elif turn == 1:
                    acks = [Fail(lease, Failure("internal", "x")) for lease in out.leases]
                else:
                    acks = [Finish(lease, Result(Outcome.GRADED, 1.0)) for lease in out.leases]
                    graded |= {lease.job for lease in out.leases}
                store.exchange(acks)
                clock.advance(3600)
            assert {good, mate} <= graded
            ended = {job.id for job in store.ended_since(0)}
            assert {good, mate} <= ended
            assert max(job.ended_seq or 0 for job in store.ended_since(0)) <= store.last_ended()
            store.reap()
            for verb in (store.get, store.spec, store.result, store.attempts, store.cancel):
                with contextlib.suppress(MinitangoError):
                    verb(bad)
            with contextlib.suppress(MinitangoError):
                store.list()
            assert store.forget([good, mate]) == 2
            write(path, "DELETE FROM jobs")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((column, value) for column in ("late", "priority", "rank") for value in ("x", b"\xff", 1e300)),
        *(("submitted", value) for value in ("x", b"\xff", float("inf"))),
        *((column, b"\xff") for column in ("assignment", "student", "course", "spec", "inputs", "labels")),
        ("attempt", 1e300),
        ("attempt", 2**62),
    ],
)
def test_a_claim_gives_up_a_row_that_is_damaged(path: Path, column: str, value: object) -> None:
    with contextlib.closing(SqliteStore(path)) as store:
        bad, good = (one.id for one in store.submit([SPEC, SPEC], fresh=True))
        write(path, f"UPDATE jobs SET {column} = ? WHERE id = ?", value, bad)
        out = store.exchange(claim=9)
        assert [lease.job for lease in out.leases] == [good]
        (dead,) = out.settled
        assert (dead.id, dead.state, dead.failures) == (bad, State.DEAD, 1)
        assert dead.failure is not None
        assert dead.failure.id == "record_damaged"
        assert f"{column} is" in dead.failure.message
        assert [job.id for job in store.ended_since(0)] == [bad]


@pytest.mark.parametrize("value", ["x", b"\xff", 1e300, 2**62, 1])
def test_a_number_that_was_not_given_leads_nobody_past_the_others(path: Path, value: object) -> None:
    """Of a job that has not ended."""
    with contextlib.closing(SqliteStore(path)) as store:
        bad, good = (one.id for one in store.submit([SPEC, SPEC], fresh=True))
        write(path, "UPDATE jobs SET ended_seq = ? WHERE id = ?", value, bad)
        store.cancel(good)
        assert [(job.id, job.ended_seq) for job in store.ended_since(0)] == [(good, 1)]


def test_an_engine_grades_all_others(tmp_path: Path) -> None:
    """With one damaged row for each column."""
    with open_engine(tmp_path, scoring(7), workers=0) as course:
        damaged = {name: course.submit(submission(f"bad-{name}", name.encode())).id for name in columns()}
        whole = [course.submit(submission(f"s{n}", b"%d" % n)).id for n in range(20)]
    for name, one in damaged.items():
        write(tmp_path / "queue.db", f"UPDATE jobs SET {name} = ? WHERE id = ?", b"\xff", one)
    with open_engine(tmp_path, scoring(7)) as engine:
        assert [engine.job(one).result(PATIENCE).score for one in whole] == [7] * 20
        assert engine.error is None


@pytest.mark.parametrize("column", ["id", "student", "labels", "assignment", "spec", "lane", "course", "key"])
def test_a_text_that_is_none_costs_its_own_job_alone(tmp_path: Path, column: str) -> None:
    """One bit of a text may make it none, and Python refuses all of an answer that has such a one."""
    with open_engine(tmp_path, scoring(1), paused=True) as engine:
        bad, *good = (engine.submit(submission(f"s{n}", b"%d" % n)) for n in range(3))
        assert write(tmp_path / "queue.db", f"UPDATE jobs SET {column} = CAST(x'ff41' AS TEXT) WHERE id = ?", bad.id)
        engine.resume()
        assert [handle.result(PATIENCE).score for handle in good] == [1, 1]
        assert engine.error is None
