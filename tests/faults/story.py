"""A life with every write in it, to be ended at any of them.

    python -m tests.faults.story STORE STATE PORT

A receiver of callbacks listens at PORT.

Each verb of the store that writes, and each write of blobs, is done at least once. What was accepted is said.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence

from msgspec import structs

from minitango import Engine, Submission, sender
from minitango.callback_url import Callbacks
from minitango.job import State
from minitango.store import Store, open_store
from minitango.testing import FakeSandbox
from tests.faults.child import Inside, assignment, hand_ins, say
from tests.receiver import Receiver

JOBS = 4
CANCELLED = 3
FORGOTTEN = 4
"""Another job, of an earlier course, which is forgotten in the end."""


def large(submission: Submission) -> Submission:
    """With so much beside it that it is kept in a file of its own."""
    return structs.replace(submission, files={**submission.files, "notes": bytes(1 << 17)})  # type: ignore[dict-item]


def delivered(store: Store, job: str) -> None:
    while (callback := store.callback(job)) is None or callback.delivery != "delivered":
        time.sleep(0.01)


def main(words: Sequence[str]) -> int:
    url, state, port = words
    sender.LEASE = 0.25  # type: ignore[misc]
    store = open_store(url)
    with (
        contextlib.closing(Receiver(port=int(port))) as receiver,
        Engine.open(
            url,
            state=state,
            workers=2,
            sandbox=FakeSandbox(Inside(0.06, "")),
            lease_for=0.15,
            name="node",
            paused=True,
            callbacks=Callbacks(allow=("127.0.0.1",)),
        ) as engine,
    ):
        first, *others = hand_ins(assignment(), range(JOBS))
        told = large(structs.replace(first, callback=f"http://127.0.0.1:{port}/"))
        kept = engine.submit_many([told, *others])
        say("accepted")
        engine.fingerprint(first.assignment)  # marks as new what its jobs need
        (old,) = engine.submit_many(map(large, hand_ins(assignment(name="old"), [FORGOTTEN])))
        say("accepted old")
        store.drain("node")
        store.drain("node", False)
        engine.cancel(kept[CANCELLED].id)
        say("cancelled")
        engine.resume()
        for handle in (*kept[:CANCELLED], old):
            handle.exception()
        delivered(store, kept[0].id)
        engine.redeliver(kept[0].id)
        delivered(store, kept[0].id)
        assert receiver.requests
        store.reap()
        store.hand_over(old.id, f"s{FORGOTTEN}", {"group": "of one"})
        if store.get(old.id).state is State.DONE:
            store.forget([old.id])
            say("forgotten")
        time.sleep(0.01)
        engine.prune(older_than=0.0)
    store.close()
    say("all ended")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
