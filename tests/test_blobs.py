"""Blobs: durable, stored once, verified, and pruned beside puts without a lock."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitango.blobs import Blobs, Pruned
from minitango.errors import BlobError, StoreError, StoreFull

HOUR = 3600.0


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "state" / "blobs")


def age(blobs: Blobs, digest: str, seconds: float = 2 * HOUR) -> None:
    then = time.time() - seconds
    os.utime(blobs.path(digest), (then, then))


def nothing(_: list[str]) -> set[str]:
    return set()


def files(blobs: Blobs) -> list[str]:
    return sorted(path.name for path in blobs.root.rglob("*") if path.is_file())


def test_put_and_get(blobs: Blobs) -> None:
    data = b"int main(void) { return 0; }\n"
    digest = blobs.put(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert blobs.get(digest) == data
    assert blobs.has(digest)
    assert blobs.path(digest) == blobs.root / digest[:2] / digest
    assert files(blobs) == [digest]


def test_many_in_order_and_once(blobs: Blobs) -> None:
    data = [b"%d" % (n % 300) for n in range(900)]
    digests = blobs.put_many(iter(data))
    assert digests == [hashlib.sha256(d).hexdigest() for d in data]
    assert len(files(blobs)) == 300
    assert blobs.put_many([]) == []


@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=5000))
def test_any_bytes(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    blobs = Blobs(tmp_path_factory.mktemp("blobs"))
    assert blobs.get(blobs.put(data)) == data


def test_for_the_owner_alone(blobs: Blobs) -> None:
    old = os.umask(0)
    try:
        path = blobs.path(blobs.put(b"x"))
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (path.parent, blobs.root, blobs.root.parent, blobs.root / "tmp"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("bad", ["", "../../etc/passwd", "A" * 64, "g" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n"])
def test_what_is_no_digest_touches_no_path(blobs: Blobs, bad: str) -> None:
    for verb in (blobs.get, blobs.has, blobs.path, blobs.touch):
        with pytest.raises(ValueError, match="not a SHA-256"):
            verb(bad)


def test_missing(blobs: Blobs) -> None:
    digest = "0" * 64
    assert not blobs.has(digest)
    assert not blobs.touch(digest)
    with pytest.raises(BlobError, match=digest) as caught:
        blobs.get(digest)
    assert caught.value.id == "blob_missing"
    assert caught.value.hint


def test_a_blob_that_cannot_be_read_is_written_anew(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = blobs.put(b"x")
    number = blobs.path(digest).stat().st_ino

    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, "bad sector")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", fail)
        assert blobs.put(b"x") == digest
    assert blobs.get(digest) == b"x"
    assert blobs.path(digest).stat().st_ino != number


@pytest.mark.parametrize("damage", [b"y", b"", b"xx", b"x" * 100])
def test_damage_is_found_and_mended_by_the_next_put(blobs: Blobs, damage: bytes) -> None:
    digest = blobs.put(b"x")
    blobs.path(digest).write_bytes(damage)
    with pytest.raises(BlobError) as caught:
        blobs.get(digest)
    assert caught.value.id == "blob_corrupt"
    assert str(blobs.path(digest)) in str(caught.value)
    assert blobs.put(b"x") == digest
    assert blobs.get(digest) == b"x"


def test_unreadable_is_ours_with_its_cause(blobs: Blobs) -> None:
    digest = blobs.put(b"x")
    blobs.path(digest).unlink()
    blobs.path(digest).mkdir()
    with pytest.raises(BlobError) as caught:
        blobs.get(digest)
    assert caught.value.id == "blob_unreadable"
    assert isinstance(caught.value.__cause__, IsADirectoryError)


# --- what a loss of power would leave -------------------------------------------------------------


class Disk:
    """What is forced to disk, and what is renamed, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, Path]] = []
        fsync, rename, replace = os.fsync, os.rename, os.replace

        def noted_fsync(file: int) -> None:
            kind = "folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file"
            self.calls.append((kind, Path(f"/proc/self/fd/{file}").readlink()))
            fsync(file)

        def noted_rename(source: Path, target: Path) -> None:
            rename(source, target)
            self.calls.append(("rename", Path(target)))

        def noted_replace(source: Path, target: Path) -> None:
            replace(source, target)
            self.calls.append(("rename", Path(target)))

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "rename", noted_rename)
        monkeypatch.setattr(os, "replace", noted_replace)

    def where(self, kind: str, path: Path | None = None) -> list[int]:
        return [n for n, call in enumerate(self.calls) if call[0] == kind and path in (None, call[1])]


def test_bytes_are_durable_before_their_name_and_names_before_the_answer(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    paths = [blobs.path(digest) for digest in blobs.put_many([b"%d" % n for n in range(5)])]
    renames = disk.where("rename")
    assert sorted(disk.calls[n][1] for n in renames) == sorted(paths)
    assert len(disk.where("file")) == 5
    assert max(disk.where("file")) < min(renames), "a name never stands for bytes that may be lost"
    for path in paths:
        (renamed,) = disk.where("rename", path)
        synced = disk.where("folder", path.parent)
        assert synced, "the folder of a name is forced to disk"
        assert max(synced) > renamed
        assert max(disk.where("folder", blobs.root)) > renamed, "so is the folder of that folder"
    assert disk.where("folder", blobs.root.parent), "and where the root itself was made"
    assert disk.where("folder", blobs.root.parent.parent)


def test_a_blob_that_another_writer_may_not_have_forced_to_disk_yet(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = blobs.put(b"x")
    disk = Disk(monkeypatch)
    other = Blobs(blobs.root)  # as another process, which did not put it
    assert other.put(b"x") == digest
    assert disk.where("file") == disk.where("rename") == []
    assert disk.where("folder", blobs.path(digest).parent)
    assert disk.where("folder", blobs.root)


# --- disks that will not --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("verb", ["write", "fsync"])
def test_full_disk_leaves_no_half_blob(blobs: Blobs, monkeypatch: pytest.MonkeyPatch, verb: str, number: int) -> None:
    kept = blobs.put(b"kept")
    calls = 0
    real: Callable[..., object] = getattr(os, verb)

    def fail(file: int, *rest: object) -> object:
        nonlocal calls
        calls += 1
        if calls >= 3:
            raise OSError(number, os.strerror(number))
        return real(file, *rest)

    monkeypatch.setattr(os, verb, fail)
    with pytest.raises(StoreFull) as caught:
        blobs.put_many([b"1", b"2", b"3", b"4"])
    assert caught.value.id == "store_full"
    assert isinstance(caught.value.__cause__, OSError)
    assert files(blobs) == [kept]
    monkeypatch.undo()
    assert len(blobs.put_many([b"1", b"2", b"3", b"4"])) == 4


def test_a_disk_that_is_nearly_full_takes_no_more(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is for results; what is there already can be submitted again, as that takes no room."""
    kept = blobs.put(b"kept")
    monkeypatch.setattr("minitango.room.reserve", lambda total: 1 << 80)
    with pytest.raises(StoreFull, match="nearly full"):
        blobs.put(b"more")
    assert blobs.put(b"kept") == kept
    assert files(blobs) == [kept]
    monkeypatch.undo()
    blobs.put(b"more")


def test_real_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitango.room.reserve", lambda total: 0)
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        blobs = Blobs(mount / "blobs")
        kept = blobs.put(b"kept")
        with pytest.raises(StoreFull):
            blobs.put_many([os.urandom(20_000) for _ in range(50)])
        assert blobs.get(kept) == b"kept"
        assert not list((blobs.root / "tmp").iterdir())
        blobs.put(b"small enough")
    finally:
        subprocess.run(["umount", mount], check=True)


def test_batches_are_bounded_in_bytes(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long stream of large blobs is not gathered in memory first."""
    monkeypatch.setattr("minitango.blobs._BATCH_BYTES", 1000)
    kept: list[int] = []

    def produce() -> Iterator[bytes]:
        for n in range(30):
            kept.append(len(files(blobs)))
            yield b"%500d" % n

    assert len(set(blobs.put_many(produce()))) == 30
    assert all(n - there <= 3 for n, there in enumerate(kept))


def test_read_only_file_system(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.raises(StoreError, match="Read-only") as caught:
            Blobs(tmp_path / "blobs").put(b"x")
        assert caught.value.id == "blobs_unwritable"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        Blobs(tmp_path / "file" / "blobs").put(b"x")
    assert caught.value.id == "blobs_unwritable"
    assert not isinstance(caught.value, StoreFull)
    assert caught.value.hint


@pytest.mark.parametrize("place", ["blobs.before_rename", "blobs.before_sync"])
def test_killed_while_putting(blobs: Blobs, place: str) -> None:
    """What is there after a kill is whole; what is left over is collected once it is old."""
    code = "import sys; from minitango.blobs import Blobs; Blobs(sys.argv[1]).put_many([b'%d' % n for n in range(5)])"
    env = {**os.environ, "MINITANGO_FAILPOINT": place}
    ended = subprocess.run([sys.executable, "-c", code, blobs.root], env=env, check=False)
    assert ended.returncode == -signal.SIGKILL
    for path in blobs.root.glob("??/*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    blobs.prune(nothing, older_than=0, now=time.time() + HOUR + 60)
    assert files(blobs) == []
    assert blobs.get(blobs.put(b"1")) == b"1"


# --- prune ----------------------------------------------------------------------------------------


def test_prune_of_nothing(blobs: Blobs) -> None:
    assert blobs.prune(nothing) == Pruned(0, 0)
    assert not blobs.root.exists()


def test_prune_takes_the_old_and_unreferenced_alone(blobs: Blobs) -> None:
    old, needed, young = blobs.put_many([b"old", b"needed", b"young"])
    age(blobs, old)
    age(blobs, needed)
    assert blobs.prune(lambda digests: {needed} & set(digests)) == Pruned(1, 3)
    assert [blobs.has(d) for d in (old, needed, young)] == [False, True, True]


def test_now_is_a_parameter(blobs: Blobs) -> None:
    digest = blobs.put(b"x")
    assert blobs.prune(nothing, older_than=HOUR, now=time.time() + HOUR - 60).count == 0
    assert blobs.prune(nothing, older_than=HOUR, now=time.time() + HOUR + 60).count == 1
    assert not blobs.has(digest)


@pytest.mark.parametrize("verb", ["put", "touch"])
def test_a_put_or_touch_spares_it(blobs: Blobs, verb: str) -> None:
    digest = blobs.put(b"x")
    age(blobs, digest)
    if verb == "put":
        blobs.put(b"x")
    else:
        assert blobs.touch(digest)
    assert blobs.prune(nothing).count == 0
    assert blobs.has(digest)


def test_put_before_it_is_taken_aside(blobs: Blobs) -> None:
    """The put falls between prune's look at the age and its rename: the look after the rename sees it."""
    digest = blobs.put(b"x")
    age(blobs, digest)

    def put_meanwhile(digests: list[str]) -> set[str]:
        if blobs.has(digest):
            blobs.put(b"x")
        return set()

    assert blobs.prune(put_meanwhile).count == 0
    assert blobs.get(digest) == b"x"
    assert files(blobs) == [digest]


def test_put_while_it_is_aside(blobs: Blobs) -> None:
    digest = blobs.put(b"x")
    age(blobs, digest)

    def put_meanwhile(digests: list[str]) -> set[str]:
        if not blobs.path(digest).exists():
            blobs.put(b"x")
        return set()

    blobs.prune(put_meanwhile)
    assert blobs.get(digest) == b"x"
    assert files(blobs) == [digest]


def test_touch_while_it_is_aside_says_no(blobs: Blobs) -> None:
    digest = blobs.put(b"x")
    age(blobs, digest)
    answers = []

    def touch_meanwhile(digests: list[str]) -> set[str]:
        answers.append(blobs.touch(digest))
        age(blobs, digest) if answers[-1] else None
        return set()

    assert blobs.prune(touch_meanwhile).count == 1
    assert answers == [True, False]


def test_reference_while_it_is_aside(blobs: Blobs) -> None:
    digest = blobs.put(b"x")
    age(blobs, digest)
    assert blobs.prune(lambda digests: set() if blobs.has(digest) else {digest}).count == 0
    assert blobs.get(digest) == b"x"


def test_get_while_it_is_aside(blobs: Blobs) -> None:
    digest = blobs.put(b"x")
    age(blobs, digest)
    read = []

    def get_meanwhile(digests: list[str]) -> set[str]:
        read.append(blobs.get(digest))
        return set()

    blobs.prune(get_meanwhile)
    assert read == [b"x", b"x"]


def test_a_dry_run_tells_what_a_prune_would_do_and_touches_nothing(blobs: Blobs) -> None:
    kept, gone = blobs.put(b"kept"), blobs.put(b"gone!")
    for digest in (kept, gone):
        os.utime(blobs.path(digest), (0, 0))
    aside = blobs.path(gone).with_name(f"{gone}.0123456789abcdef.aside")
    aside.write_bytes(b"gone!")
    before = sorted(blobs.root.rglob("*"))
    needed = lambda digests: {kept} & set(digests)  # noqa: E731
    assert blobs.prune(needed, dry_run=True) == Pruned(1, 5)
    assert sorted(blobs.root.rglob("*")) == before
    aside.unlink()
    assert blobs.prune(needed) == Pruned(1, 5)


def test_failing_referenced_deletes_nothing(blobs: Blobs) -> None:
    digests = blobs.put_many([b"%d" % n for n in range(20)])
    for digest in digests:
        age(blobs, digest)

    def fail_when_aside(_: list[str]) -> set[str]:
        if all(blobs.has(digest) for digest in digests):
            return set()
        raise StoreError("the store is away")

    with pytest.raises(StoreError, match="away"):
        blobs.prune(fail_when_aside)
    assert files(blobs) == sorted(digests)


def test_killed_while_pruning(blobs: Blobs) -> None:
    digest = blobs.put(b"x")
    age(blobs, digest)
    code = "import sys; from minitango.blobs import Blobs; Blobs(sys.argv[1]).prune(lambda digests: set())"
    env = {**os.environ, "MINITANGO_FAILPOINT": "blobs.pruning"}
    ended = subprocess.run([sys.executable, "-c", code, blobs.root], env=env, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not blobs.has(digest)
    assert blobs.get(digest) == b"x", "a reader brings it back"
    assert files(blobs) == [digest]


def test_prune_brings_back_what_a_dead_one_left(blobs: Blobs) -> None:
    digest = blobs.put(b"x")
    path = blobs.path(digest)
    path.rename(path.with_name(f"{digest}.0123.aside"))
    assert blobs.prune(nothing).count == 0
    assert files(blobs) == [digest]


def test_live_temporaries_stay(blobs: Blobs) -> None:
    blobs.put(b"x")
    mine = blobs.root / "tmp" / "1.abc"
    mine.write_bytes(b"half")
    blobs.prune(nothing, older_than=0)
    assert mine.exists()
    blobs.prune(nothing, now=time.time() + 2 * HOUR)
    assert not mine.exists()


def test_puts_and_prunes_at_once(blobs: Blobs) -> None:
    """Writers that put and then record; pruners with no grace but what is recorded. What is recorded stays.

    The grace is a tenth of a second here; a writer that took longer between put and record (a busy machine) puts
    again, as one that lost its blob must not count.
    """
    grace = 0.1
    recorded: set[str] = set()
    stop = threading.Event()
    wrong: list[object] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            wrong.append(error)
            stop.set()

    def write() -> None:
        for n in range(150):
            data = b"%d" % (n % 40)
            began = time.time()
            digest = blobs.put(data)
            recorded.add(digest)
            if time.time() - began < grace / 2:
                if blobs.get(digest) != data:
                    wrong.append(digest)
                recorded.discard(digest)

    def prune() -> None:
        while not stop.is_set():
            blobs.prune(lambda digests: recorded & set(digests), older_than=grace)

    writers = [threading.Thread(target=guarded, args=(write,)) for _ in range(3)]
    pruners = [threading.Thread(target=guarded, args=(prune,)) for _ in range(2)]
    for thread in (*writers, *pruners):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in pruners:
        thread.join()
    assert wrong == []
    assert all(len(name) == 64 for name in files(blobs)), "nothing is left aside or half written"


def test_pruners_at_once(blobs: Blobs) -> None:
    digests = blobs.put_many([b"%d" % n for n in range(400)])
    for digest in digests:
        age(blobs, digest)
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(blobs.prune(nothing).count)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == 3, "none of them failed"
    blobs.prune(nothing)  # one may have brought back what another had aside
    assert files(blobs) == []
