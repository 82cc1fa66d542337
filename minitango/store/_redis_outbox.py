"""The outbox of the Redis store: callbacks of jobs that ended, until somebody has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from minitango.job import Delivery, Job
from minitango.retry import MOST_DELIVERY_WAIT
from minitango.store import Callback, Errand
from minitango.store import _redis_rows as redis_rows
from minitango.store import _rows as rows
from minitango.store._history import not_found
from minitango.store._outbox import check_redelivery
from minitango.store._redis_history import RedisHistory
from minitango.store._redis_link import Link

_MOST: Final = 1000
"""Callbacks that are taken at once."""


class RedisOutbox(RedisHistory):
    """`Outbox` over one queue of a server."""

    def __init__(self, link: Link, clock: Callable[[], float] | None) -> None:
        super().__init__(link)
        self._clock = clock

    def _at(self, now: float | None) -> str:
        """The time for a script; empty: the server's."""
        if now is None and self._clock is not None:
            now = self._clock()
        return redis_rows.number(now)

    def take_callbacks(self, n: int, *, lease_for: float = 60.0, now: float | None = None) -> list[Errand]:
        if n <= 0:
            return []
        tokens = [rows.new_token() for _ in range(min(n, _MOST))]
        lease = repr(min(float(lease_for), MOST_DELIVERY_WAIT))
        reply = self._link.run(
            "take_callbacks", [self._at(now), repr(MOST_DELIVERY_WAIT), lease, *tokens], patient=True
        )
        return [redis_rows.errand_of(row) for row in reply]

    def callback_delivered(self, errand: Errand, *, now: float | None = None) -> bool:
        return self._tell(errand, Delivery.DELIVERED, 0.0, "", True, now)

    def callback_failed(
        self, errand: Errand, error: str, *, again_in: float | None, counts: bool = True, now: float | None = None
    ) -> bool:
        became = Delivery.UNDELIVERED if again_in is None else Delivery.PENDING
        return self._tell(errand, became, min(again_in or 0.0, MOST_DELIVERY_WAIT), error, counts, now)

    def _tell(
        self, errand: Errand, became: Delivery, delay: float, error: str, counts: bool, now: float | None
    ) -> bool:
        arguments = [
            self._at(now), errand.job, errand.token, became.value, repr(float(delay)), "1" if counts else "0",
            rows.clean_text(error),
        ]  # fmt: skip
        return bool(self._link.run("tell_callback", arguments, patient=True))

    def next_callback(self) -> float | None:
        found = self._link.call("read", lambda client: client.zrange(self._key("outbox"), 0, 0, withscores=True))
        return float(found[0][1]) if found else None

    def redeliver(self, id: str, *, now: float | None = None) -> Job:
        flat = self._link.run("redeliver", [self._at(now), id]) if rows.is_id(id) else []
        if not flat:
            raise not_found(id)
        job = redis_rows.job_of(redis_rows.from_flat(flat))
        check_redelivery(job)
        return job

    def callback(self, id: str) -> Callback | None:
        def ask(pipe: Any) -> None:
            pipe.hgetall(self._key("cb:" + id))
            pipe.zscore(self._key("outbox"), id)

        raw, told, due = self._of(id, ask)
        return redis_rows.callback_of(redis_rows.job_of(raw), told, due)
