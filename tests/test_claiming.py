"""What a pool makes of its attempts' ends before it claims more: a sandbox rests, or one assignment's jobs wait."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from minitango.claiming import TELL_AGAIN, Claiming
from minitango.events import Event, Telling
from minitango.handle import Handles
from minitango.job import Fail, Failure, Finish, Lease, Outcome, Result
from minitango.observer import EngineObserver
from minitango.runner import Runner
from minitango.store import open_store
from minitango.workqueue import WorkQueue

RESULT = Result(Outcome.GRADED, 1.0, 1.0)


def lease(name: str, of: str = "hw") -> Lease:
    return Lease(name, 1, f"token of {name}", 1e12, f"plan of {of}", "inputs", of, name)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.told: list[Event] = []
        self.store = open_store(str(folder / "queue.db"))
        runner = cast(Runner, SimpleNamespace(seats=None))
        observer = EngineObserver(self.store, Handles(self.store, self.store.cancel), Telling(self.told.append))
        self.claiming = Claiming(self.store, runner, WorkQueue(2), observer, capabilities=())

    def said(self) -> list[tuple[str, str]]:
        said = [(event.kind, event.message) for event in self.told]
        self.told.clear()
        return said


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def waits(name: str, of: str = "hw") -> Fail:
    return Fail(lease(name, of), Failure("sandbox_registry", "its image cannot be pulled", "look"), charge=False)


def test_that_an_assignment_is_graded_again_is_told_once(bench: Bench) -> None:
    """And anew when it had to wait anew."""
    paused = ("paused", "jobs of hw wait: its image cannot be pulled; next: look")
    again = ("resumed", "hw is graded again")
    assert not bench.claiming.judge(waits("a"), 0.0)
    assert not bench.claiming.judge(waits("b"), TELL_AGAIN - 1)
    assert not bench.claiming.judge(waits("other", "lab"), 1.0)
    assert bench.said() == [paused, ("paused", "jobs of lab wait: its image cannot be pulled; next: look")]
    for n in range(5):
        assert not bench.claiming.judge(Finish(lease(f"s{n}"), RESULT), TELL_AGAIN)
    assert bench.said() == [again]
    bench.claiming.judge(waits("c"), TELL_AGAIN)
    bench.claiming.judge(Finish(lease("d"), RESULT), TELL_AGAIN)
    assert bench.said() == [paused, again]


@pytest.mark.parametrize(
    ("id", "charge", "rests"),
    [
        ("blob_unreadable", False, True),  # of several nodes, perhaps this one alone does not see the files
        ("blob_missing", True, False),  # it is gone for all
        ("blob_unreadable", True, False),
        ("sandbox_gone", False, True),
        ("internal", False, False),
    ],
)
def test_what_is_everybodys_trouble_rests_the_node(bench: Bench, id: str, charge: bool, rests: bool) -> None:
    fail = Fail(lease("a"), Failure(id, "it is not there", "look"), charge=charge)
    for _ in range(3):
        if bench.claiming.judge(fail, 0.0):
            break
    said = [("paused", "no job is started for 1 s: it is not there; next: look")]
    assert bench.said() == (said if rests else [])
    assert bench.claiming.trial is rests
    assert bench.claiming.wanted(0.0, []) == (0 if rests else 2, False)
