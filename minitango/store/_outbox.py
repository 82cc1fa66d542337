"""The outbox of the SQLite store: callbacks of jobs that ended, until somebody has them."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from minitango.errors import ConfigError
from minitango.job import Delivery, Job
from minitango.retry import DELIVER_FOR, MOST_DELIVERY_WAIT
from minitango.store import Callback, Errand
from minitango.store import _rows as rows
from minitango.store._database import Transaction
from minitango.store._history import SELECT, SqliteHistory, not_found
from minitango.store._rows import Row

_DUE: Final = """
    SELECT job FROM outbox INDEXED BY outbox_due
    WHERE queue = :queue AND due IS NOT NULL AND (due <= :now OR due > :now + :farthest) ORDER BY due LIMIT :n
"""
_TAKE: Final = "UPDATE outbox SET due = ?, token = ? WHERE job = ?"
_ERRAND: Final = "SELECT id, outbox.token, callback, tries, since FROM outbox JOIN jobs ON seq = job WHERE job = ?"
_SETTLE: Final = """
    UPDATE outbox SET due = ?, settled = ?, tries = tries + ?, error = coalesce(?, error), token = NULL
    WHERE job = (SELECT seq FROM jobs WHERE id = ? AND queue = ?) AND token = ?
"""

_MOST_TRIES: Final = 1_000_000
"""What counts more tries than these was never counted."""


class SqliteOutbox(SqliteHistory):
    """`Outbox` over one queue of an open file."""

    def _post(self, tx: Transaction, job: Job) -> Delivery:
        """Put the callback of a job that ends into the outbox."""
        tx.execute(
            "INSERT INTO outbox (job, queue, due, since) VALUES (?, ?, ?, ?)", (job.seq, self.queue, tx.now, tx.now)
        )
        return Delivery.PENDING

    def take_callbacks(self, n: int, *, lease_for: float = 60.0, now: float | None = None) -> list[Errand]:
        if n <= 0:
            return []

        def body(tx: Transaction) -> list[Errand]:
            wanted = {"queue": self.queue, "now": tx.now, "farthest": MOST_DELIVERY_WAIT, "n": n}
            taken = []
            for (job,) in tx.execute(_DUE, wanted).fetchall():
                tx.execute(_TAKE, (tx.now + min(lease_for, MOST_DELIVERY_WAIT), rows.new_token(), job))
                errand = tx.execute(_ERRAND, (job,)).fetchone()
                if errand is None:  # nothing is left of its job, and nobody is to be told
                    tx.execute("DELETE FROM outbox WHERE job = ?", (job,))
                else:
                    taken.append(_errand(tx, job, errand))
            return taken

        return self._db.transact("take_callbacks", body, now)

    def callback_delivered(self, errand: Errand, *, now: float | None = None) -> bool:
        return self._tell(errand, Delivery.DELIVERED, None, None, 1, now)

    def callback_failed(
        self, errand: Errand, error: str, *, again_in: float | None, counts: bool = True, now: float | None = None
    ) -> bool:
        became = Delivery.UNDELIVERED if again_in is None else Delivery.PENDING
        return self._tell(errand, became, again_in, rows.clean_text(error) or None, int(counts), now)

    def _tell(
        self, errand: Errand, became: Delivery, delay: float | None, error: str | None, tried: int, now: float | None
    ) -> bool:
        def body(tx: Transaction) -> bool:
            due = None if delay is None else tx.now + min(delay, MOST_DELIVERY_WAIT)
            settled = tx.now if delay is None else None
            whose = (errand.job, self.queue, errand.token)
            if not tx.execute(_SETTLE, (due, settled, tried, error, *whose)).rowcount:
                return False
            tx.execute("UPDATE jobs SET delivery = ? WHERE id = ?", (became.value, errand.job))
            return True

        return self._db.transact("tell_callback", body, now)

    def next_callback(self) -> float | None:
        ((due,),) = self._db.read(
            "SELECT min(due) FROM outbox INDEXED BY outbox_due WHERE queue = ? AND due IS NOT NULL", self.queue
        )
        return None if due is None else float(due)

    def redeliver(self, id: str, *, now: float | None = None) -> Job:
        def body(tx: Transaction) -> Job:
            row = tx.execute(f"{SELECT} WHERE id = ? AND queue = ?", (id, self.queue)).fetchone()
            if row is None:
                raise not_found(id)
            job = rows.job_of(row)
            check_redelivery(job)
            anew = "UPDATE outbox SET due = ?, since = ?, tries = 0, settled = NULL WHERE job = ? AND token IS NULL"
            tx.execute(anew, (tx.now, tx.now, job.seq))
            tx.execute("UPDATE jobs SET delivery = 'pending' WHERE seq = ?", (job.seq,))
            return replace(job, delivery=Delivery.PENDING)

        return self._db.transact("redeliver", body, now)

    def callback(self, id: str) -> Callback | None:
        columns = "callback, delivery, tries, since, outbox.due, outbox.token, settled, error"
        ((url, delivery, tries, since, due, token, settled, error),) = self._of(id, columns, "outbox")
        if delivery is None:
            return None
        return Callback(url, Delivery(delivery), tries, since, due, token is not None, settled, error)


def _errand(tx: Transaction, job: int, row: Row) -> Errand:
    """Where what became of a callback so far is lost, it begins anew; where its URL is, nothing can be sent, and it is
    given up as others are."""
    one, token, url, tries, since = row
    known = isinstance(tries, int) and 0 <= tries < _MOST_TRIES
    if not (known and isinstance(since, float) and since <= tx.now + DELIVER_FOR):
        tries, since = 0, tx.now
        tx.execute("UPDATE outbox SET tries = ?, since = ? WHERE job = ?", (tries, since, job))
    return Errand(one, token, url if isinstance(url, str) else "", tries, since)


def check_redelivery(job: Job) -> None:
    """ConfigError where there is nothing to be delivered."""
    if not job.callback:
        raise ConfigError(f"job {job.id} has no callback", hint="submit --callback URL gives it one", id="no_callback")
    if not job.state.terminal:
        raise ConfigError(
            f"job {job.id} is {job.state}: there is nothing to be told yet", hint="wait for its end", id="not_ended"
        )
