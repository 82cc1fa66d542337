"""How much is claimed ahead of the consumers, who is called for it, and what becomes of it when they do not come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from minitango.job import Fail, Failure, Lease, Release
from minitango.stopping import Stop
from minitango.workqueue import AHEAD, GATHER, MOST_AHEAD, SHORT, STALE, Running, WorkQueue
from tests.support import PATIENCE, eventually


def running(name: str) -> Running:
    return Running(Lease(name, 1, f"token of {name}", 1e12, "spec", "inputs", "hw", name), 10.0)


def run(work: WorkQueue, seconds: float, times: int) -> None:
    """Have this many attempts end that took so long."""
    for n in range(times):
        work.give([running(f"{n} before")])
        taken = work.take()
        assert taken is not None
        taken.stop.begun = time.monotonic() - seconds
        work.end(taken, Release(taken.lease))
    work.ended.clear()
    work.running.clear()


class Consumers:
    """Threads that take, and hold what they took until they are told to go on."""

    def __init__(self, work: WorkQueue, count: int) -> None:
        self.took: list[Running] = []
        self.go_on = threading.Semaphore(0)
        self._work = work
        self._threads = [threading.Thread(target=self._consume) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        eventually(lambda: len(work._free) == count)

    def _consume(self) -> None:
        while (one := self._work.take()) is not None:
            self.took.append(one)
            assert self.go_on.acquire(timeout=PATIENCE)
            self._work.end(one, Release(one.lease))

    def dismiss(self) -> None:
        self._work.dismiss()
        for _ in range(1000):
            self.go_on.release()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def never(seconds: float) -> None:
    raise AssertionError("nothing is to be waited for")


def busy(begun: float) -> Running:
    one = running("busy")
    one.stop.begun = begun
    return one


def test_no_more_are_called_than_are_free_and_not_called_yet() -> None:
    """Who is called for nothing wakes for nothing, again and again."""
    work = WorkQueue(3, beside=True)
    work._free |= {1, 2}  # two consumers that wait, and have not come yet for what they were called for
    for name, calls in (("a", 1), ("b", 2), ("c", 2)):
        work.give([running(name)])
        assert work._calls.qsize() == calls
    work._free.add(3)
    work.give([running("d")])
    assert work._calls.qsize() == 3


def test_what_was_told_to_end_before_it_is_given_goes_back_and_nobody_has_it() -> None:
    """Also where all consumers are busy, who would have come for it late."""
    rung: list[None] = []
    work = WorkQueue(1, lambda: rung.append(None))
    goes, runs = running("goes"), running("runs")
    goes.stop.request("release")
    work.give([goes, runs])
    assert list(work.ended) == [(goes.lease, Release(goes.lease))]
    assert len(rung) == 1, "it is to be committed"
    assert set(work.running) == {goes.lease.token, runs.lease.token}, "until then it is this engine's"
    assert work.take() is runs
    assert not work._waiting


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
    work.give(waiting)
    assert work.room(0.0, waiting, ahead=True) == 0
    assert work.take() is waiting[0]
    assert work.room(0.0, waiting, ahead=True) == 2 + 2 * MOST_AHEAD - len(waiting)


def test_what_no_consumer_came_for_in_long_goes_back_in_its_order_and_not_begun() -> None:
    work = WorkQueue(2)
    run(work, 0.0, 200)
    assert work.room(0.0, [], ahead=True) > 2
    assert work.look_in(time.monotonic()) is None
    taken, waiting, lost = running("taken"), running("waiting"), running("lost")
    work.give([taken, waiting, lost])
    lost.stop.request("lost")
    assert work.take() is taken
    now = time.monotonic()
    due = work.look_in(now)
    assert due is not None
    assert 0 < due <= STALE
    work.look(now + STALE / 2)
    assert not work.ended
    time.sleep(0.02)
    work.give([])  # which moves nothing
    assert (work.look_in(now) or 0.0) <= due
    work.look(now + 2 * STALE)
    assert list(work.ended) == [(waiting.lease, Release(waiting.lease)), (lost.lease, None)]
    assert waiting.stop.why == "release"
    assert taken.stop.why is None
    assert set(work.running) == {one.lease.token for one in (taken, waiting, lost)}, "until it is committed"
    assert work.look_in(now) is None
    assert work.room(0.0, [], ahead=True) == 2, "attempts have to be short anew"


def test_what_a_consumer_came_for_meanwhile_is_not_put_back() -> None:
    work = WorkQueue(1)
    work.give([running("a"), running("b")])
    given = time.monotonic()
    time.sleep(0.01)
    work.take()
    work.look(given + STALE + 0.005)
    assert not work.ended


def test_what_waits_goes_back_where_an_attempt_was_given_no_sandbox() -> None:
    for charge in (False, True):
        work = WorkQueue(1)
        work.give([running("a"), running("b")])
        one = work.take()
        assert one is not None
        work.end(one, Fail(one.lease, Failure("sandbox_gone", "gone", ""), charge=charge))
        assert len(work.ended) == (1 if charge else 2)


def test_what_a_free_consumer_is_about_to_take_may_be_left_to_it() -> None:
    work = WorkQueue(2)
    some = [running(str(n)) for n in range(4)]
    work.give(some)
    work._free.add(1)  # a thread that was not run yet
    work.put_back(all=False)
    assert [lease for lease, _ in work.ended] == [one.lease for one in reversed(some[1:])]
    assert work.take() is some[0]


def test_others_are_called_when_short_ones_turn_out_to_be_long() -> None:
    work = WorkQueue(3)
    run(work, 0.0, 200)
    consumers = Consumers(work, 3)
    work.give([running(str(n)) for n in range(9)])
    eventually(lambda: len(consumers.took) == 1)
    work._usual = 10 * SHORT
    due = work.look_in(time.monotonic())
    assert due is not None
    assert due < SHORT, "two are free, and some wait"
    consumers.dismiss()


def test_who_goes_to_wait_looks_once_more() -> None:
    """What is given between a consumer's look and its wait is not called for: it has to be seen."""

    class Giving(set[int]):
        def add(self, thread: int) -> None:
            if not work._waiting and not work._dismissed:
                work._waiting.append(late)
            super().add(thread)

    work, late = WorkQueue(1), running("late")
    work._free = Giving()
    taken: list[Running | None] = []
    thread = threading.Thread(target=lambda: taken.append(work.take()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert taken == [late]


def test_those_who_are_dismissed_do_first_what_waits() -> None:
    work = WorkQueue(2)
    one = running("a")
    work.give([one])
    work.dismiss()
    assert [work.take(), work.take(), work.take()] == [one, None, None]


def test_busy_is_never_more_than_there_are_consumers() -> None:
    work = WorkQueue(2)
    assert work.busy == 0
    work.give([running(str(n)) for n in range(3)])
    assert work.busy == 2


def test_a_consumer_is_called_for_each_attempt_that_is_not_known_to_be_short() -> None:
    work = WorkQueue(4)
    consumers = Consumers(work, 4)
    work.give([running("a"), running("b"), running("c")])
    eventually(lambda: len(consumers.took) == 3)
    work.give([running("d")])
    eventually(lambda: len(consumers.took) == 4)
    work.give([running("e")])
    consumers.go_on.release()
    eventually(lambda: len(consumers.took) == 5)
    consumers.dismiss()


def test_one_consumer_is_called_for_short_ones_and_others_where_it_does_not_come_on() -> None:
    work = WorkQueue(3)
    run(work, 0.0, 200)
    consumers = Consumers(work, 3)
    work.give([running(str(n)) for n in range(9)])
    eventually(lambda: len(consumers.took) == 1)
    work.look(time.monotonic())  # one came since the last look
    time.sleep(0.02)
    assert len(consumers.took) == 1
    for helping in (2, 3):
        work.look(time.monotonic())
        eventually(lambda helping=helping: len(consumers.took) == helping)  # type: ignore[misc]
        work.look(time.monotonic())
    work.look(time.monotonic())
    assert work._calls.empty(), "nobody is left to be called"
    consumers.dismiss()
    assert len(consumers.took) == 9


def test_where_a_server_commits_all_are_called_for_short_ones() -> None:
    work = WorkQueue(3, beside=True)
    run(work, 0.0, 200)
    consumers = Consumers(work, 3)
    work.give([running(str(n)) for n in range(9)])
    eventually(lambda: len(consumers.took) == 3)
    consumers.dismiss()


def test_nothing_that_is_given_waits_for_a_call_that_is_lost() -> None:
    """Consumers go to wait at the very moment at which something is given."""
    for beside in (True, False):
        work = WorkQueue(3, beside=beside)
        run(work, 0.0, 200)
        done = threading.Semaphore(0)

        def consume(work: WorkQueue = work, done: threading.Semaphore = done) -> None:
            while (one := work.take()) is not None:
                one.stop.begun = time.monotonic()
                work.end(one, Release(one.lease))
                done.release()

        threads = [threading.Thread(target=consume) for _ in range(3)]
        for thread in threads:
            thread.start()
        for n in range(3000):
            work.give([running(str(n))])
            assert done.acquire(timeout=PATIENCE), "it waits though consumers are idle"
        work.dismiss()
        for thread in threads:
            thread.join(PATIENCE)


@pytest.mark.parametrize(("beside", "enough"), [(False, 4), (True, 2)])
def test_the_producer_is_rung_for_short_ones_once_enough_of_them_ended(beside: bool, enough: int) -> None:
    rings: list[int] = []
    work = WorkQueue(1, lambda: rings.append(len(work.ended)), beside=beside)
    run(work, 0.0, 200)
    work.give([running(str(n)) for n in range(4)])
    rings.clear()
    for _ in range(4):
        one = work.take()
        assert one is not None
        work.end(one, None)
    assert min(rings) == min(3, enough), "at the latest before the last one begins, which may be long"
    assert rings[-1] == 4


def test_the_producer_is_rung_for_each_where_they_are_not_short() -> None:
    rings: list[int] = []
    work = WorkQueue(1, lambda: rings.append(len(work.ended)))
    run(work, SHORT * 1.5, 200)
    work.give([running(str(n)) for n in range(3)])
    one = work.take()
    assert one is not None
    rings.clear()
    work.end(one, None)
    assert rings == [1]


def rung(calls: list[float], work: WorkQueue, *ends: Callable[[], object]) -> Callable[[float], None]:
    """Waiting, in which these things happen one after the other; then time passes."""
    left = list(ends)

    def wait(seconds: float) -> None:
        calls.append(seconds)
        if left:
            left.pop(0)()
        else:
            time.sleep(seconds)

    return wait


def test_short_ones_are_gathered_for_a_moment() -> None:
    work = WorkQueue(4)
    run(work, 0.0, 200)
    some = [running(str(n)) for n in range(4)]
    work.give(some)
    work.gather(never)  # nothing ended yet
    for _ in range(4):
        work.take()
    work.end(some[0], None)
    calls: list[float] = []
    begun = time.monotonic()
    work.gather(rung(calls, work))
    assert time.monotonic() - begun >= GATHER
    calls.clear()
    work.gather(rung(calls, work, *(lambda one=one: work.end(one, None) for one in some[1:])))  # type: ignore[misc]
    assert len(calls) == 3, "all of them ended"
    work.gather(never)


def test_long_ones_are_not_waited_for() -> None:
    work = WorkQueue(4)
    run(work, SHORT * 1.5, 200)
    work.give([running(str(n)) for n in range(4)])
    one = work.take()
    assert one is not None
    work.end(one, None)
    work.gather(never)


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
