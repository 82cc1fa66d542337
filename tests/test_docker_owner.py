"""Whose containers they are, and who is dead: what is swept hangs on it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from minitango.errors import SandboxUnavailable
from minitango.sandbox import _docker_owner
from minitango.sandbox._docker_owner import HOME, OWNER, STATE, WHERE, Owner


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Owner]:
    with contextlib.closing(Owner(tmp_path / "ours")) as owner:
        yield owner


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Owner]:
    """Of another state directory."""
    with contextlib.closing(Owner(tmp_path / "other")) as owner:
        yield owner


def killed(state: Path) -> dict[str, str]:
    """The labels of an owner that was: its lock is there, and free."""
    owner = Owner(state)
    owner._lock.release()
    return owner.labels()


def gone(state: Path) -> dict[str, str]:
    """The labels of one that closed in good order: there is no lock of it any more."""
    owner = Owner(state)
    owner.close()
    return owner.labels()


def test_a_state_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SandboxUnavailable, match=r"containers cannot be recorded in .*Not a directory") as caught:
        Owner(tmp_path / "file")
    assert caught.value.id == "sandbox_unavailable"
    assert "--state DIR" in caught.value.hint


def test_the_living_are_not_dead(ours: Owner, other: Owner, tmp_path: Path) -> None:
    with contextlib.closing(Owner(tmp_path / "ours")) as third:
        assert not ours.is_dead(ours.labels())
        assert not ours.is_dead(other.labels())
        assert not ours.is_dead(third.labels())


@pytest.mark.parametrize("end", [killed, gone])
@pytest.mark.parametrize("state", ["ours", "other"])
def test_the_dead_of_this_machine_are_known(ours: Owner, end: Any, state: str, tmp_path: Path) -> None:
    assert ours.is_dead(end(tmp_path / state))


@pytest.mark.parametrize("end", [killed, gone])
def test_of_another_machine_nobody_is_dead(ours: Owner, other: Owner, end: Any, tmp_path: Path) -> None:
    """Its paths are not ours, whatever is there under the same name."""
    elsewhere = {WHERE: "another boot"}
    assert not ours.is_dead(end(tmp_path / "other") | elsewhere)
    assert not ours.is_dead(other.labels() | elsewhere)


def test_before_the_machine_was_started_again(ours: Owner, tmp_path: Path) -> None:
    """In the state directory itself the lock tells it, wherever that is mounted now."""
    before = {WHERE: "another boot", HOME: "/elsewhere"}
    labels = killed(tmp_path / "ours")
    assert ours.is_dead(labels | before | {HOME: f"/elsewhere/{labels[OWNER]}"})
    labels = gone(tmp_path / "ours")
    assert not ours.is_dead(labels | before | {HOME: f"/elsewhere/{labels[OWNER]}"}), "it may never have been here"


def test_a_copy_of_a_state_directory_has_another_name(tmp_path: Path) -> None:
    with contextlib.closing(Owner(tmp_path / "course")) as living:
        shutil.copytree(tmp_path / "course", tmp_path / "copy")
        with contextlib.closing(Owner(tmp_path / "copy")) as owner:
            assert owner.labels()[STATE] != living.labels()[STATE]
            owner.clear()  # of what was copied
            assert not owner.is_dead(living.labels())
            assert not living.is_dead(owner.labels())
        with contextlib.closing(Owner(tmp_path / "course")) as again:
            assert again.labels()[STATE] == living.labels()[STATE]


def test_a_copy_on_another_machine_has_another_name(
    ours: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its directory has the same number there."""
    monkeypatch.setattr(_docker_owner, "_machine", lambda: "another")
    with contextlib.closing(Owner(tmp_path / "ours")) as owner:
        assert owner.labels()[STATE] != ours.labels()[STATE]


@pytest.mark.parametrize("changed", [{OWNER: ""}, {HOME: ""}, {HOME: "/elsewhere/1-ab"}, {HOME: "1-ab"}])
def test_labels_that_make_no_sense(ours: Owner, changed: dict[str, str], tmp_path: Path) -> None:
    assert not ours.is_dead({})
    assert not ours.is_dead(killed(tmp_path / "ours") | changed)


def test_what_dead_owners_left_is_cleared(ours: Owner, tmp_path: Path) -> None:
    dead = killed(tmp_path / "ours")
    with contextlib.closing(Owner(tmp_path / "ours")) as third:
        ours.clear()
        assert not Path(dead[HOME]).exists()
        assert not Path(f"{dead[HOME]}.lock").exists()
        assert third.home.is_dir()
        assert not ours.is_dead(third.labels())


def test_a_lock_is_not_removed_from_under_whoever_takes_it(
    ours: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a lock and its removal somebody may begin to live by it."""
    path = tmp_path / "ours" / "docker" / "1-ab.lock"
    path.touch()  # made, and in the next moment held
    taken = []
    remove = shutil.rmtree

    def slow(folder: Path, **more: Any) -> None:
        lock = FileLock(path, thread_local=False)
        with contextlib.suppress(Timeout):  # then it takes another name
            lock.acquire(timeout=0)
            taken.append(lock)
        remove(folder, **more)

    monkeypatch.setattr(shutil, "rmtree", slow)
    ours.clear()
    assert [path.exists() for _ in taken] == [True] * len(taken)
    assert path.exists() == bool(taken)
    for lock in taken:
        lock.release()
