"""A life with every write in it, to be ended at any of them.

    python -m tests.faults.story STORE STATE

Each verb of the store that writes, and each write of blobs, is done at least once. What was accepted is said.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from minitango import Engine
from minitango.job import State
from minitango.store import open_store
from minitango.testing import FakeSandbox
from tests.faults.child import Inside, assignment, hand_ins, say

JOBS = 4
CANCELLED = 3
FORGOTTEN = 4
"""Another job, of an earlier course, which is forgotten in the end."""


def main(words: Sequence[str]) -> int:
    url, state = words
    store = open_store(url)
    with Engine.open(
        url, state=state, workers=2, sandbox=FakeSandbox(Inside(0.12, "")), lease_for=0.3, name="node", paused=True
    ) as engine:
        kept = engine.submit_many(hand_ins(assignment(), range(JOBS)))
        say("accepted")
        (old,) = engine.submit_many(hand_ins(assignment(name="old"), [FORGOTTEN]))
        say("accepted old")
        store.drain("node")
        store.drain("node", False)
        engine.cancel(kept[CANCELLED].id)
        say("cancelled")
        engine.resume()
        for handle in (*kept[:CANCELLED], old):
            handle.exception()
        store.reap()
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
