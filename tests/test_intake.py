"""What is handed in is in blobs when its job is queued, however long that took, whatever a prune removed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from minitango import Assignment, Step, Submission
from minitango.intake import LATE, REPACK
from minitango.keeping import GRACE
from tests import redis_server
from tests.support import PATIENCE, age_blobs, assignment, open_engine, scoring, submission
from tests.test_keeping import aged


def test_it_looks_again_well_within_the_grace_of_a_prune() -> None:
    assert LATE + REPACK < GRACE / 2


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("pruned", [False, True])
def test_a_prune_in_the_middle_of_a_long_submit_takes_nothing_of_it(
    kind: str, large: bool, pruned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between its end and the commit, of what was put first."""
    for module in ("store._sqlite_blobs", "store._redis_blobs", "blobs"):
        monkeypatch.setattr(f"minitango.{module}._BATCH", 1)
    clock = [0.0]
    monkeypatch.setattr("minitango.intake.time", SimpleNamespace(monotonic=lambda: clock[0]))
    if kind == "redis":
        redis_server.need_redis()
        redis_server.shared().client().flushall()
    where = redis_server.shared().url() if kind == "redis" else str(tmp_path / "state")
    first, second = graded(tmp_path / "first"), graded(tmp_path / "second")
    more = b"#" * 100_000 if large else b""
    folder = tmp_path / "ada"
    folder.mkdir()
    (folder / "answer.py").write_bytes(b"a" + more)

    with open_engine(where, scoring(7), **({"state": tmp_path / "state"} if kind == "redis" else {})) as engine:

        def handed_in() -> Iterator[Submission]:
            yield Submission(first, student="ada", files=folder)
            yield submission("bob", b"b" + more, of=second)
            clock[0] += 2 * GRACE
            aged_blobs()
            (folder / "answer.py").write_bytes(b"changed" + more)
            (first.root / "grade.py").write_text("print(2)\n")  # type: ignore[operator]
            if pruned:
                assert engine.prune(older_than=GRACE).count >= 3
            yield submission("eve", b"c" + more, of=second)

        def aged_blobs() -> None:
            if kind == "redis":
                aged(engine.blobs, engine.store)
            else:
                age_blobs(tmp_path / "state")

        real = engine.store.submit

        def pruned_just_before(*args: object, **options: object) -> object:
            engine.prune(older_than=GRACE)
            return real(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(engine.store, "submit", pruned_just_before)
        handles = engine.submit_many(handed_in())
        assert [handle.result(PATIENCE).score for handle in handles] == [7, 7, 7]


def graded(root: Path) -> Assignment:
    root.mkdir()
    (root / "grade.py").write_text(f"print({root.name!r})\n")
    return assignment(root.name, root=root, steps=(Step(command=("grade",), files=("grade.py",)),))
