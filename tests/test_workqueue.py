"""How much is claimed ahead of the consumers, and what becomes of it when they do not come."""

from __future__ import annotations

import time

import pytest

from minitango.job import Lease, Release
from minitango.stopping import Stop
from minitango.workqueue import AHEAD, GATHER, MOST_AHEAD, STALE, Running, WorkQueue


def running(name: str) -> Running:
    return Running(Lease(name, 1, f"token of {name}", 1e12, "spec", "inputs", "hw", name), 10.0)


def run(work: WorkQueue, seconds: float, times: int) -> None:
    """Have this many attempts end that took so long."""
    for n in range(times):
        work.give(running(f"{n} before"))
        taken = work.take()
        assert taken is not None
        taken.stop.begun = time.monotonic() - seconds
        work.end(taken, Release(taken.lease))
    work.ended.clear()
    work.running.clear()


def busy(begun: float) -> Running:
    one = running("busy")
    one.stop.begun = begun
    return one


def test_nothing_is_claimed_ahead_before_attempts_are_known_to_be_short() -> None:
    work = WorkQueue(4)
    assert work.room(0.0, [], ahead=True) == 4
    run(work, 0.0, 3)
    assert work.room(0.0, [], ahead=True) == 4


def test_short_ones_are_claimed_ahead_and_never_more_than_they_are_done_with_in_time() -> None:
    for seconds, most in ((0.0, MOST_AHEAD), (AHEAD / 2.5, 2), (AHEAD * 1.5, 0), (1.0, 0)):
        work = WorkQueue(4)
        run(work, seconds, 200)
        assert 4 <= work.room(0.0, [], ahead=True) <= 4 + 4 * most, seconds
        assert work.room(0.0, [], ahead=True) > 4 or not most
        assert work.room(0.0, [], ahead=False) == 4


def test_a_consumer_with_a_long_one_has_nothing_wait_for_it() -> None:
    work = WorkQueue(4)
    run(work, 0.0, 200)
    now = time.monotonic()
    long = busy(now - 2 * AHEAD)
    assert work.room(now, [long], ahead=True) == 3 + 3 * MOST_AHEAD
    assert work.room(now, [long] * 4, ahead=True) == 0
    assert work.room(now, [busy(now)], ahead=True) == 3 + 4 * MOST_AHEAD
    assert work.room(now, [running("that waits")], ahead=True) == 3 + 4 * MOST_AHEAD


def test_they_are_claimed_in_one_go_when_half_of_them_are_left() -> None:
    work = WorkQueue(2)
    run(work, 0.0, 200)
    waiting = [running(str(n)) for n in range(MOST_AHEAD + 1)]
    for one in waiting:
        work.give(one)
    assert work.room(0.0, waiting, ahead=True) == 0
    taken = work.take()
    assert taken is waiting[0]
    assert work.room(0.0, waiting, ahead=True) == 2 + 2 * MOST_AHEAD - len(waiting)


def test_what_waits_is_stale_when_no_consumer_came_for_long() -> None:
    work = WorkQueue(1)
    assert work.stale_in(time.monotonic()) is None
    work.give(running("a"))
    work.give(running("b"))
    given = time.monotonic()
    stale = work.stale_in(given)
    assert stale is not None
    assert 0 < stale <= STALE
    work.take()
    after = work.stale_in(given + STALE)
    assert after is not None
    assert after >= 0, "one was taken after that"
    assert (work.stale_in(time.monotonic() + STALE) or 0.0) <= 0
    work.take()
    assert work.stale_in(time.monotonic() + STALE) is None


def test_what_is_put_back_is_released_in_its_order_and_not_begun() -> None:
    work = WorkQueue(2)
    taken, waiting, lost = running("taken"), running("waiting"), running("lost")
    for one in (taken, waiting, lost):
        work.give(one)
    lost.stop.request("lost")
    assert work.take() is taken
    work.put_back()
    assert list(work.ended) == [(waiting.lease, Release(waiting.lease)), (lost.lease, None)]
    assert waiting.stop.why == "release"
    assert taken.stop.why is None
    assert set(work.running) == {one.lease.token for one in (taken, waiting, lost)}, "until it is committed"
    assert work.stale_in(1e12) is None


def test_after_a_stale_one_attempts_have_to_be_short_anew() -> None:
    work = WorkQueue(2)
    run(work, 0.0, 200)
    work.put_back()
    assert work.room(0.0, [], ahead=True) > 2
    work.put_back(stale=True)
    assert work.room(0.0, [], ahead=True) == 2


def test_those_who_are_dismissed_do_first_what_waits_and_are_dismissed_though_it_is_put_back() -> None:
    work = WorkQueue(2)
    one = running("a")
    work.give(one)
    work.dismiss()
    assert work.take() is one
    work.put_back()
    assert [work.take(), work.take()] == [None, None]


def test_busy_is_never_more_than_there_are_consumers() -> None:
    work = WorkQueue(2)
    assert work.busy == 0
    for n in range(3):
        work.give(running(str(n)))
    assert work.busy == 2


@pytest.mark.parametrize(("seconds", "waits"), [(0.0, True), (1.0, False)])
def test_short_ones_are_gathered_for_a_moment_and_long_ones_not(seconds: float, waits: bool) -> None:
    work = WorkQueue(4)
    run(work, seconds, 200)
    for n in range(4):
        work.give(running(str(n)))
    one = work.take()
    assert one is not None
    work.gather()  # nothing ended: returns at once
    work.end(one, None)
    begun = time.monotonic()
    work.gather()
    assert (time.monotonic() - begun >= GATHER) is waits
    for _ in range(2):
        more = work.take()
        assert more is not None
        work.end(more, None)
    begun = time.monotonic()
    work.gather()  # half of them ended
    assert time.monotonic() - begun < GATHER


def test_an_attempt_that_did_not_begin_is_neither_long_nor_overdue() -> None:
    one = running("a")
    assert isinstance(one.stop, Stop)
    assert not one.long(1e12)
    assert not one.overdue(1e12)
    one.stop.begun = 100.0
    assert not one.overdue(110.0)
    assert one.overdue(110.1)
    assert not one.long(100.0 + AHEAD / 2)
    assert one.long(100.0 + 2 * AHEAD)
