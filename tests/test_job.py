"""The state machine and the decisions, as pure values."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitango.breaker import Breaker
from minitango.job import SOLO_AFTER, TRANSITIONS, Job, Outcome, Result, State, TestResult
from minitango.retry import (
    HELD_FOR,
    MAX_ATTEMPTS,
    MAX_HELD,
    MAX_INTERRUPTIONS,
    MAX_SOLO_DEATHS,
    Hold,
    Next,
    after_failure,
    after_hold,
    after_interruption,
    backoff,
)
from minitango.stopping import Stop


def test_failures_are_retried_later_and_later_and_then_dead() -> None:
    first, second, third = (after_failure(n) for n in (1, 2, 3))
    assert first.state is second.state is State.QUEUED
    assert 0 < first.delay < second.delay
    assert third.state is State.DEAD
    assert MAX_ATTEMPTS == 3


def test_a_failure_that_cannot_be_mended_by_retrying_is_dead_at_once() -> None:
    assert after_failure(1, retry=False).state is State.DEAD


def test_interruptions_are_free() -> None:
    assert after_interruption(0, died=True) == after_interruption(0, died=False)
    assert after_interruption(0, died=True).state is State.QUEUED
    assert after_interruption(100, died=False).state is State.QUEUED, "an orderly stop speaks against nobody"


def test_only_deaths_while_alone_make_a_job_dead() -> None:
    assert [after_interruption(n, died=True).state for n in range(1, MAX_SOLO_DEATHS + 1)] == [
        State.QUEUED,
        State.QUEUED,
        State.DEAD,
    ]


def test_many_interruptions_and_a_death_alone_are_enough() -> None:
    assert after_interruption(1, died=True, interruptions=MAX_INTERRUPTIONS - 1).state is State.QUEUED
    assert after_interruption(1, died=True, interruptions=MAX_INTERRUPTIONS).state is State.DEAD
    assert after_interruption(0, died=True, interruptions=100).state is State.QUEUED


ALONE = Hold(MAX_HELD + 1, since=0.0, alone=True)
"""What is charged a moment after HELD_FOR."""


def test_an_uncharged_failure_is_charged_when_all_speaks_against_the_job() -> None:
    after, charged = after_hold(ALONE, now=HELD_FOR + 1, failures=0)
    assert (after.state, charged) == (State.QUEUED, True)
    assert after_hold(ALONE, now=HELD_FOR + 1, failures=MAX_ATTEMPTS - 1)[0].state is State.DEAD


@pytest.mark.parametrize(
    ("changed", "others", "now"),
    [
        ({"times": MAX_HELD}, False, HELD_FOR + 1),
        ({"alone": False}, False, HELD_FOR + 1),
        ({}, True, HELD_FOR + 1),
        ({}, False, HELD_FOR),
        ({}, False, -1.0),
    ],
)
def test_and_is_not_where_anything_speaks_for_it(changed: dict[str, int], others: bool, now: float) -> None:
    hold = msgspec.structs.replace(ALONE, **changed)
    after, charged = after_hold(hold, now=now, failures=MAX_ATTEMPTS - 1, others=others)
    assert (after.state, charged) == (State.QUEUED, False)


def test_those_that_wait_together_wait_less_than_a_minute_in_all() -> None:
    delays = [after_hold(Hold(n), now=0, failures=0, together=True)[0] for n in (1, 2, 3, 4, 5, 99)]
    assert delays == [Next(State.QUEUED, delay) for delay in (2, 4, 8, 16, 30, 30)]
    assert after_hold(Hold(99), now=0, failures=0)[0].delay == 60


@given(st.integers(1, 10_000))
def test_backoff_rises_to_its_most(n: int) -> None:
    assert 0 < backoff(n) <= backoff(n + 1) <= 60


def test_every_decision_is_an_edge() -> None:
    edges = {(t.source, t.target) for t in TRANSITIONS}
    assert (State.RUNNING, after_hold(Hold(1), now=0, failures=0)[0].state) in edges
    for state in (after_failure(1).state, after_failure(9).state, after_interruption(9, died=True).state):
        assert (State.RUNNING, state) in edges


def test_a_job_is_run_alone_after_two_interruptions() -> None:
    job = Job("id", 1, State.QUEUED, "hw", "ada", "s", "i", interruptions=SOLO_AFTER - 1)
    assert not job.solo
    assert msgspec.structs.replace(job, interruptions=SOLO_AFTER).solo


def test_results_go_through_json_unchanged() -> None:
    result = Result(Outcome.GRADED, score=1.5, tests=(TestResult("t", score=1, extra_data={"a": [1]}),))
    data = msgspec.json.encode(result)
    assert msgspec.json.decode(data, type=Result) == result


def test_records_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Result(Outcome.GRADED).score = 100  # type: ignore[misc]


# --- breaker ------------------------------------------------------------------------------------


def test_a_breaker_opens_after_failures_in_a_row() -> None:
    breaker = Breaker(after=3, base=1)
    assert not breaker.failed(0.0)
    breaker.succeeded()
    assert [breaker.failed(0.0) for _ in range(3)] == [False, False, True]
    assert breaker.allowed(0.5, running=0) == 0
    assert breaker.wait(0.5) == 0.5


def test_a_breaker_lets_one_try_at_a_time_and_rests_longer() -> None:
    breaker = Breaker(after=3, base=1)
    breaker.failed(0.0, certain=True)
    assert breaker.allowed(1.0, running=0) == 1
    assert breaker.allowed(1.0, running=1) == 0
    assert breaker.failed(1.0)
    assert breaker.wait(1.0) == 2
    assert breaker.succeeded()
    assert breaker.allowed(1.0, running=5) is None
    assert not breaker.succeeded()


def test_failures_of_what_was_under_way_do_not_lengthen_the_rest() -> None:
    breaker = Breaker(after=1, base=1)
    breaker.failed(0.0)
    assert not breaker.failed(0.1)
    assert breaker.wait(0.1) == 0.9


# --- stop ---------------------------------------------------------------------------------------


class Target:
    kills = 0

    def kill(self) -> None:
        self.kills += 1


def test_the_first_reason_stands_and_what_is_attached_is_killed() -> None:
    stop, early, late = Stop(), Target(), Target()
    stop.attach(early)
    stop.request("cancel")
    stop.request("release")
    assert stop.why == "cancel"
    assert early.kills
    stop.attach(late)
    assert late.kills == 1
    stop.attach(None)
