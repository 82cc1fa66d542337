"""What an engine tells: of one outage once, whoever meets it."""

from __future__ import annotations

from pathlib import Path

from minitango.errors import StoreError
from minitango.events import Event, Troubles
from minitango.job import Job
from tests import redis_server
from tests.support import eventually, open_engine, scoring

AWAY = StoreError("it is away", hint="start it", id="store_unreachable")
BUSY = StoreError("it is loading", hint="wait", id="store_busy")
FULL = StoreError("it is full", hint="make room", id="store_full")


def test_one_outage_is_told_once_whoever_meets_it() -> None:
    told: list[tuple[str, str]] = []

    def tell(kind: str, job: Job | None, message: str) -> None:
        assert job is None
        told.append((kind, message))

    troubles = Troubles(tell)
    troubles.over("producer")
    assert not told
    for whose, error in [("producer", AWAY), ("sender", AWAY), ("producer", BUSY), ("producer", AWAY)]:
        troubles.meet(whose, error)
    assert told == [("store_trouble", "it is away; next: start it")]
    troubles.over("producer")
    troubles.over("producer")
    assert len(told) == 1, "it fails the other one still"
    troubles.meet("sender", FULL)
    troubles.meet("sender", FULL)
    assert told[1:] == [("store_trouble", "it is full; next: make room")], "something else is to be done"
    troubles.over("sender")
    assert told[2:] == [("resumed", "the store works again")]
    troubles.meet("watch", FULL)
    assert len(told) == 4, "another outage"
    troubles.over("watch")
    troubles.meet("producer", AWAY)
    troubles.meet("producer", FULL)
    assert told[4:] == [
        ("resumed", "the store works again"),
        ("store_trouble", "it is away; next: start it"),
        ("store_trouble", "it is full; next: make room"),
    ], "what was told in an outage before is told in this one"


def test_a_server_that_goes_and_comes_back(tmp_path: Path) -> None:
    redis_server.need_redis()
    server = redis_server.Server()
    told: list[Event] = []
    try:
        with open_engine(server.url(), scoring(1), state=tmp_path, on_event=told.append) as engine:
            server.kill()
            eventually(lambda: engine._observer._troubles._whose >= {"producer", "sender"} or engine.error is not None)
            assert engine.error is None
            server.start()
            eventually(lambda: "resumed" in [event.kind for event in told])
        assert [event.kind for event in told] == ["store_trouble", "resumed"]
        assert "; next: " in told[0].message
    finally:
        server.remove()
