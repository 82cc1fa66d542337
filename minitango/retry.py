"""What becomes of a job that was not graded this time: each decision a pure function of values."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from minitango.job import Failure, State

MAX_ATTEMPTS: Final = 3
"""Infrastructure failures that a job may have before it is dead."""
MAX_INTERRUPTIONS: Final = 20
"""Interruptions in all after which one more engine death while a job is run alone makes it dead."""
MOST_BACKOFF: Final = 60.0
"""Seconds that a job waits at most before it is tried again."""
MAX_SOLO_DEATHS: Final = 3
"""Engine deaths in a row while a job was run alone that make it dead."""
LATE_AFTER: Final = 3
"""Uncharged failures in a row after which a job is claimed after all others."""
TRIAL_AMONG: Final = 256
"""Jobs among which one is looked for that was not held, to try a sandbox with that failed."""
MAX_HELD: Final = 5
"""Uncharged failures in a row that a job may have while others are graded; one more may be charged."""
HELD_FOR: Final = 600.0
"""Seconds for which they must have gone on before one is charged."""
HOLD_BASE: Final = 2.0
"""Seconds that a job waits after its first uncharged failure: longer than a breaker rests at first, so that another job
is tried then."""
APART: Final = MOST_BACKOFF / 2
"""Seconds for which one of those that wait together is tried alone, before the others are due as well."""

MOST_DELIVERY_BACKOFF: Final = 600.0
"""Seconds between two tries to deliver a callback, at most, where its receiver did not ask for more."""
MOST_DELIVERY_WAIT: Final = 3600.0
"""Seconds for which a receiver may ask."""
DELIVER_FOR: Final = 3 * 86400.0
"""Seconds after which a callback is given up..."""
MIN_DELIVERIES: Final = 20
"""...unless it was tried less often than this: its engine was away."""

POISON: Final = Failure(
    "poison",
    "three engines died while they ran this job alone",
    "look at the hand-in, and at the machine's memory (dmesg); then: minitango jobs retry",
)
"""Why a job is dead that its engines died of."""


class Next(Struct, frozen=True):
    """What becomes of a job that was not graded this time."""

    state: State
    delay: float = 0.0
    """Seconds until it is due again; of use only when queued."""


def backoff(n: int, *, base: float = 1.0, most: float = MOST_BACKOFF) -> float:
    """Seconds to wait before try `n + 1`, after the n-th went wrong: base, twice, four times, at most `most`."""
    return float(min(most, base * 2 ** min(max(n, 1) - 1, 32)))


def after_failure(failures: int, *, retry: bool = True, max_attempts: int = MAX_ATTEMPTS) -> Next:
    """Decide on a job after its `failures`-th charged failure (this one counted)."""
    if not retry or failures >= max_attempts:
        return Next(State.DEAD)
    return Next(State.QUEUED, backoff(failures))


class Hold(Struct, frozen=True):
    """A job's uncharged failures in a row."""

    times: int = 0
    since: float = 0.0
    """When the first of them was."""
    alone: bool = False
    """Whether a job that was claimed after one of them was graded before the next: it is not the sandbox alone."""

    @property
    def late(self) -> int:
        """Its place among all jobs: 0, or after those with a lower one. So those held often take turns behind the
        others, and none of them keeps another from being tried."""
        return max(0, self.times - LATE_AFTER + 1)


def after_hold(
    hold: Hold, *, now: float, failures: int, together: bool = False, others: bool = False
) -> tuple[Next, bool]:
    """Decide on a job after an uncharged failure, which `hold` has in it; True: it is charged all the same.

    It waits longer each time, so that others are tried before it. `together`: all jobs of its assignment wait, and it
    is tried before them. `failures` are those that were charged before.

    It is charged where it speaks against the job: more than MAX_HELD in a row, over more than HELD_FOR, while others
    were graded, and not where `others`, which had no such streak, fail as well at the moment. So an engine that is away
    for hours burns nothing, however many are queued: nobody is graded meanwhile. One that goes and comes again may hit
    the same job twice, but then it hits others, too.
    """
    delay = backoff(hold.times, base=HOLD_BASE, most=MOST_BACKOFF - APART if together else MOST_BACKOFF)
    if hold.alone and hold.times > MAX_HELD and now - hold.since > HELD_FOR and not others:
        return Next(after_failure(failures + 1).state, delay), True
    return Next(State.QUEUED, delay), False


def after_interruption(solo_deaths: int, *, died: bool, interruptions: int = 0) -> Next:
    """Decide on a job whose engine went away. Uncharged; both counts have this one in them, `solo_deaths` if the
    job was run alone.

    `died` is True where the engine died or vanished, False where it stopped in good order. Only deaths of engines
    that ran nothing but this job speak against it: three in a row (a death without it, in between, clears it: what
    kills engines without a job is not that job), or one more after many interruptions, so that two jobs that kill
    in turns come to an end as well. Between them it waits a while, and others go first.
    """
    if died and (solo_deaths >= MAX_SOLO_DEATHS or (solo_deaths and interruptions >= MAX_INTERRUPTIONS)):
        return Next(State.DEAD)
    return Next(State.QUEUED, backoff(solo_deaths, base=2.0) if died and solo_deaths else 0.0)


def after_delivery(tries: int, *, lasting: float, chance: float, asked: float | None = None) -> float | None:
    """Seconds until a callback is tried again after its `tries`-th try went wrong; None: it is given up.

    `lasting`: seconds since it was due first. `chance`, from 0 to 1, spreads those that failed together: by a quarter
    more or less. `asked`: the seconds that the receiver asked for.
    """
    if lasting > DELIVER_FOR and tries >= MIN_DELIVERIES:
        return None
    delay = backoff(tries, most=MOST_DELIVERY_BACKOFF) * (0.75 + chance / 2)
    return max(delay, min(asked or 0.0, MOST_DELIVERY_WAIT))
