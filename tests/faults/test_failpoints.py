"""kill -9 between each pair of adjacent writes: whatever was accepted is graded, once, and the books are right."""

from __future__ import annotations

import ast
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from minitango.job import State
from minitango.store import Query, Store
from tests.faults.children import Child, nursery
from tests.faults.harness import Place, make_place
from tests.faults.story import CANCELLED, JOBS
from tests.redis_server import free_port

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "minitango"

ENGINE = ["engine.before_exchange", "engine.after_exchange", "engine.before_exchange:3", "engine.after_exchange:3"]
FILES = ["blobs.before_rename", "blobs.before_sync", "blobs.pruning"]
"""Of large blobs. Where the queue is on a server, so are they."""
CALLBACKS = ["callback.before_post", "callback.after_post"]
OUTBOX = ["take_callbacks", "tell_callback", "redeliver"]
COMMON = ["submit", "exchange", "extend", "reap", "cancel", "forget", "hand_over", *OUTBOX]
VERBS = {
    "sqlite": [*COMMON, "recover", "beat", "drain", "leave", "put", "touch", "drop"],
    "redis": [*COMMON, "nodes", "blobs"],
}
READS = {"dump"}
"""Scripts that write nothing."""
LATER = ["exchange:2", "exchange:3", "submit:2"]
"""Verbs of which a later call writes something else: results, another's job."""


def places(kind: str) -> list[str]:
    verbs = [*VERBS[kind], *LATER]
    if kind == "redis":
        verbs += ["nodes:2", "nodes:3", "blobs:2", "blobs:4", "blobs:6", "blobs:9"]
    stores = []
    for verb in verbs:
        name, _, count = verb.partition(":")
        stores += [f"store.{name}.{side}{count and ':' + count}" for side in ("before_commit", "after_commit")]
    return [*ENGINE, *CALLBACKS, *(FILES if kind == "sqlite" else []), *stores]


def in_the_source() -> Iterator[tuple[Path, str]]:
    """Each failpoint: a name, or for the stores' verbs, which are told to one place, `store.VERB.SIDE` for each."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, (ast.Name, ast.Attribute)):
                continue
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            first = node.args[0] if node.args else None
            if called == "failpoint":
                yield path, ast.unparse(first) if isinstance(first, ast.JoinedStr) else ast.literal_eval(first or node)
            elif called == "transact" or (called == "run" and "_link" in ast.unparse(node.func)):
                assert isinstance(first, ast.Constant), f"{path.name}: a verb that no test can find"
                yield path, f"verb {first.value}"


def test_no_failpoint_is_left_out() -> None:
    names = {place.partition(":")[0] for kind in VERBS for place in places(kind)}
    others = [path.read_text() for path in TESTS.rglob("test_*.py") if path != Path(__file__)]
    verbs = {"sqlite": set[str](), "redis": set[str]()}
    for path, name in in_the_source():
        if name.startswith("verb "):
            verbs["redis" if "redis" in path.name else "sqlite"].add(name.removeprefix("verb "))
        elif "{" in name:
            assert name in ("f'store.{verb}.before_commit'", "f'store.{verb}.after_commit'")
        else:
            assert name in names or any(f'"{name}"' in text for text in others), f"{name}: no test dies there"
    for kind, known in VERBS.items():
        assert set(known) <= verbs[kind]
        for verb in verbs[kind] - set(known) - READS:
            assert any(f'"store.{verb}.before_commit' in text for text in others), f"{verb}: no test dies there"


BOTH = [(kind, name) for kind in VERBS for name in places(kind)]


@pytest.mark.parametrize(("kind", "failpoint"), BOTH, ids=["-".join(both) for both in BOTH])
def test_killed_at_each_step_of_the_way(kind: str, failpoint: str, tmp_path: Path) -> None:
    with contextlib.closing(make_place(kind, tmp_path)) as place:
        _kill(place, failpoint)


def _kill(place: Place, failpoint: str) -> None:
    port = free_port()
    if "recover" in failpoint or (failpoint.startswith("store.reap") and place.kind == "redis"):
        assert live(place, port, "engine.after_exchange").code == -signal.SIGKILL, "something must be there to recover"
    killed = live(place, port, failpoint)
    assert killed.code == -signal.SIGKILL, "the failpoint was not reached"
    store = place.store()
    before = store.list()
    books_are_right(store)
    assert len(before) in (0, JOBS, JOBS + 1), "a submission is whole, or it is not there"
    assert before or "accepted" not in killed.lines
    if "cancelled" in killed.lines:
        assert before[CANCELLED].state is State.CANCELLED

    again = live(place, port)
    assert again.code == 0
    assert again.lines[-2:] == ["all ended", ""]
    books_are_right(store)
    after = store.list()
    for job in after:
        assert job.failures == 0
        if job.student == f"s{CANCELLED}":
            assert job.state is State.CANCELLED
            continue
        assert job.state is State.DONE
        result = store.result(job.id)
        assert result is not None
        assert result.score == int(job.student[1:])
        assert [each.ended_by for each in store.attempts(job.id)].count("finish") == 1
    graded = [job.student for job in after if job.state is State.DONE]
    assert graded == [f"s{n}" for n in range(JOBS) if n != CANCELLED], (
        "none lost, none twice, and the old one forgotten"
    )
    assert {job.id for job in before if job.assignment != "old"} <= {job.id for job in after}
    blobs = place.submitter().blobs
    assert all(blobs.has(job.inputs) for job in after)
    assert store.nodes() == []
    callback = store.callback(after[0].id)
    assert callback is not None
    assert callback.delivery == "delivered"


def live(place: Place, port: int, failpoint: str = "") -> Child:
    child = nursery().start("story", [place.url, str(place.state()), str(port)], MINITANGO_FAILPOINT=failpoint)
    try:
        while child.line():
            pass
        child.wait()
    finally:
        child.close()
    return child


def books_are_right(store: Store) -> None:
    """What is counted is what is there, and every end has a number of its own."""
    jobs = store.list()
    states = [job.state for job in jobs]
    assert store.counts() == {state: states.count(state) for state in State}
    ended = [job.ended_seq for job in jobs if job.state.terminal]
    assert None not in ended
    assert len(set(ended)) == len(ended)
    for state in State:
        assert {job.id for job in store.list(Query(states=(state,)))} == {job.id for job in jobs if job.state is state}
