"""Blobs on a Redis server: stored once, in chunks, verified, kept on each node, and pruned beside puts."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minitango import JobDead
from minitango.backup import backup
from minitango.blobs import Blobs
from minitango.engine import Engine
from minitango.errors import BlobError, ConfigError, StoreFull
from minitango.job import JobSpec
from minitango.moving import Place, migrate
from minitango.store import _redis_blobs, _redis_link, open_blobs, open_store
from minitango.store._redis_blobs import CHUNK, RedisBlobs
from minitango.store.redis import RedisStore
from tests import redis_server
from tests.support import PATIENCE, assignment, eventually, open_engine, scoring, submission

HOUR = 3600.0
BEYOND_SMALL = b"data" * 20_000
LARGE = bytes(range(256)) * (CHUNK // 100)


@pytest.fixture
def store() -> Iterator[RedisStore]:
    redis_server.need_redis()
    redis_server.shared().client().flushall()
    opened = RedisStore(redis_server.shared().url())
    yield opened
    opened.close()


@pytest.fixture
def blobs(store: RedisStore, tmp_path: Path) -> RedisBlobs:
    return store.blobs(tmp_path / "one")


@pytest.fixture
def other(store: RedisStore, tmp_path: Path) -> RedisBlobs:
    return store.blobs(tmp_path / "other")


def keys() -> list[bytes]:
    return sorted(key for key in redis_server.shared().client().scan_iter() if b":b:" in key)


@pytest.mark.parametrize("data", [b"", b"x", LARGE[:CHUNK], LARGE[: CHUNK + 1], LARGE * 9])
def test_what_one_node_puts_another_gets(blobs: RedisBlobs, other: RedisBlobs, data: bytes) -> None:
    digest = blobs.put(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert other.has(digest)
    assert other.get(digest) == data
    assert other.path(digest).read_bytes() == data, "and keeps it"


def test_each_is_stored_once(blobs: RedisBlobs, other: RedisBlobs) -> None:
    first = blobs.put_many([b"a", b"b", b"a", LARGE])
    before = keys()
    assert other.put_many([LARGE, b"b", b"a"]) == [first[3], first[1], first[0]]
    assert keys() == before
    assert len(before) == 2 + 2 + 1 + -(-len(LARGE) // CHUNK)


def test_what_is_kept_is_not_asked_for_again_and_is_verified(blobs: RedisBlobs, other: RedisBlobs) -> None:
    digest = blobs.put(b"data")
    other.get(digest)
    client = redis_server.shared().client()
    client.set(f"minitango:{{default}}:b:{digest}:0", b"else")
    assert other.get(digest) == b"data", "from here"
    path = other.path(digest)
    path.chmod(0o600)
    path.write_bytes(b"spoilt")
    with pytest.raises(BlobError) as caught:
        other.get(digest)
    assert caught.value.id == "blob_corrupt"
    client.set(f"minitango:{{default}}:b:{digest}:0", b"data")
    assert other.get(digest) == b"data"


def test_what_is_not_there_is_said(blobs: RedisBlobs) -> None:
    digest = blobs.put(LARGE)
    client = redis_server.shared().client()
    client.delete(f"minitango:{{default}}:b:{digest}:1")
    for missing in (digest, "0" * 64):
        with pytest.raises(BlobError) as caught:
            blobs.get(missing)
        assert caught.value.id == "blob_missing"
        assert caught.value.hint
    assert not blobs.touch("0" * 64)
    assert not blobs.has("0" * 64)
    with pytest.raises(ValueError, match="SHA-256"):
        blobs.get("../../etc/passwd")


@pytest.mark.parametrize("lie", [{"size": "x"}, {"chunks": "999999999"}, {"size": str(1 << 60)}])
def test_a_server_is_not_believed(blobs: RedisBlobs, lie: dict[str, str]) -> None:
    digest = blobs.put(b"data")
    redis_server.shared().client().hset(f"minitango:{{default}}:b:{digest}", mapping=lie)
    with pytest.raises(BlobError):
        blobs.get(digest)


def test_too_large_is_refused_with_the_way_out(blobs: RedisBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_blobs, "MAX_BLOB", 1000)
    with pytest.raises(ConfigError) as caught:
        blobs.put_many([b"small", b"x" * 1001])
    assert caught.value.id == "blob_too_large"
    assert "--blobs" in caught.value.hint
    assert blobs.put(b"x" * 1000)


def test_a_full_server_takes_none(blobs: RedisBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_link, "_SEEN_FOR", 0.0)
    client = redis_server.shared().client()
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.95))
    try:
        with pytest.raises(StoreFull):
            blobs.put(b"data")
    finally:
        client.config_set("maxmemory", 0)


def test_small_ones_are_there_at_once_whole_and_for_good(blobs: RedisBlobs, other: RedisBlobs) -> None:
    datas = [b"", b"a", b"\xff" * 9, b"x" * (64 << 10)]
    digests = blobs.put_many(datas)
    assert [other.get(digest) for digest in digests] == datas
    client = redis_server.shared().client()
    assert all(client.ttl(key) == -1 for key in keys())
    stored = len(keys())
    assert other.put_many(datas) == digests, "again, from elsewhere"
    assert len(keys()) == stored


def test_what_is_refused_for_memory_leaves_nothing(
    store: RedisStore, blobs: RedisBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = blobs.put(b"kept")
    before = keys()
    link = blobs._link
    monkeypatch.setattr(link, "_seen", time.monotonic() + HOUR)
    monkeypatch.setattr(link, "_memory_left", 1000)
    with pytest.raises(StoreFull):
        blobs.put(b"y" * 1001)
    assert keys() == before, "a hand-in that has no room is not begun"
    monkeypatch.setattr(_redis_blobs, "_BATCH", 2)

    def grader_beside() -> Iterator[bytes]:
        yield b"kept"
        yield b"one"
        blobs.put_many([b"of the assignment"])
        yield LARGE

    with pytest.raises(StoreFull):
        blobs.put_many(grader_beside())
    assert keys() == before, "nor is what came before it kept"

    inputs, shared, mine = blobs.put_many([b"inputs", b"shared", b"mine"])
    other = RedisBlobs(link, blobs.root)
    other.put(b"shared")
    monkeypatch.setattr(link, "_memory_left", -1)
    spec = JobSpec(assignment="hw", student="ada", spec=kept, inputs=inputs, refs=(shared, mine))
    with pytest.raises(StoreFull):
        store.submit([spec])
    assert not blobs.has(inputs)
    assert not blobs.has(mine)
    assert blobs.has(shared), "others have put it since"
    monkeypatch.setattr(link, "_memory_left", 1 << 30)
    inputs, mine = blobs.put_many([b"inputs", b"mine"])
    store.submit([spec])
    assert not blobs._fresh, "what a job names is not remembered for long"
    monkeypatch.setattr(link, "_memory_left", -1)
    with pytest.raises(StoreFull):
        store.submit([spec])
    assert all(map(blobs.has, (inputs, mine, kept))), "a job has them"


def test_chunks_whose_writer_died_expire(blobs: RedisBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    class Died(BaseException):
        pass

    def die(verb: str, arguments: object, **options: object) -> object:
        if verb == "blobs" and arguments[1] == "seal":  # type: ignore[index]
            raise Died
        return run(verb, arguments, **options)  # type: ignore[arg-type]

    run = blobs._link.run
    monkeypatch.setattr(blobs._link, "run", die)
    with pytest.raises(Died):
        blobs.put(BEYOND_SMALL)
    (chunk,) = keys()
    assert 0 < redis_server.shared().client().ttl(chunk) <= 3600
    monkeypatch.undo()
    digest = hashlib.sha256(BEYOND_SMALL).hexdigest()
    assert not blobs.has(digest), "half a blob is none"
    assert blobs.put(BEYOND_SMALL) == digest
    assert redis_server.shared().client().ttl(chunk) == -1


def test_a_second_writer_that_dies_takes_nothing_with_it(
    blobs: RedisBlobs, other: RedisBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both found it missing; one sealed it, the other wrote its chunks once more and died before it sealed them."""
    run = other._link.run
    client = redis_server.shared().client()

    class Died(BaseException):
        pass

    def late(verb: str, arguments: object, **options: object) -> object:
        if arguments[1] == "touch":  # type: ignore[index]
            answer = run(verb, arguments, **options)  # type: ignore[arg-type]
            monkeypatch.undo()
            blobs.put(LARGE)
            monkeypatch.setattr(other._link, "run", die)
            return answer
        return run(verb, arguments, **options)  # type: ignore[arg-type]

    def die(verb: str, arguments: object, **options: object) -> object:
        raise Died

    monkeypatch.setattr(other._link, "run", late)
    with pytest.raises(Died):
        other.put(LARGE)
    monkeypatch.undo()
    digest = hashlib.sha256(LARGE).hexdigest()
    assert {client.ttl(key) for key in keys() if digest.encode() in key} == {-1}
    assert blobs.get(digest) == LARGE


def test_what_lost_a_chunk_is_mended_by_the_next_put(blobs: RedisBlobs, other: RedisBlobs) -> None:
    digest = blobs.put(LARGE)
    redis_server.shared().client().delete(f"minitango:{{default}}:b:{digest}:1")
    assert not other.touch(digest)
    assert other.put(LARGE) == digest
    assert other.get(digest) == LARGE


def test_a_prune_takes_what_is_old_and_needed_by_nobody(store: RedisStore, blobs: RedisBlobs) -> None:
    needed, old, new = blobs.put_many([b"needed", b"old", b"new"])
    store.submit([JobSpec("hw", "ada", needed, needed)])
    later = time.time() + 2 * HOUR
    client = redis_server.shared().client()
    client.zadd("minitango:{default}:blobs", {new: later})
    rehearsed = blobs.prune(store.referenced, now=later, dry_run=True)
    assert blobs.has(old)
    assert blobs.prune(store.referenced, now=later) == rehearsed
    assert (rehearsed.count, rehearsed.bytes) == (1, 3)
    assert [blobs.has(digest) for digest in (needed, old, new)] == [True, False, True]
    assert not [key for key in keys() if old.encode() in key]


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_prune_goes_through_all_page_by_page(
    store: RedisStore, blobs: RedisBlobs, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    monkeypatch.setattr(_redis_blobs, "_BATCH", 3)
    digests = blobs.put_many(b"%d" % n for n in range(20))
    client = redis_server.shared().client()
    client.zadd("minitango:{default}:blobs", {digest: 1000.0 + n // 8 for n, digest in enumerate(digests)})
    asked: list[str] = []

    def none(batch: list[str]) -> set[str]:
        asked.extend(batch)
        return set()

    assert blobs.prune(none, dry_run=dry_run).count == 20
    assert sorted(asked) == sorted(digests), "each once"
    assert client.zcard("minitango:{default}:blobs") == (20 if dry_run else 0)


def test_a_prune_spares_what_is_put_or_needed_meanwhile(store: RedisStore, blobs: RedisBlobs) -> None:
    put, needed = blobs.put_many([b"put again", b"needed at last"])
    later = time.time() + 2 * HOUR

    def meanwhile(digests: list[str]) -> set[str]:
        redis_server.shared().client().zadd("minitango:{default}:blobs", {put: later})  # as a put does, later
        store.submit([JobSpec("hw", "ada", needed, needed)])
        return set()

    assert blobs.prune(meanwhile, now=later).count == 0
    assert blobs.get(put) == b"put again"
    assert blobs.get(needed) == b"needed at last"


def test_a_node_forgets_what_it_does_not_use(store: RedisStore, blobs: RedisBlobs, other: RedisBlobs) -> None:
    used, unused = blobs.put_many([b"used", b"unused"])
    store.submit([JobSpec("hw", "ada", used, unused)])
    for digest in (used, unused):
        other.get(digest)
        long_ago = time.time() - 15 * 86400
        os.utime(other.path(digest), (long_ago, long_ago))
    other.get(used)
    other.prune(store.referenced)
    assert other.path(used).exists()
    assert not other.path(unused).exists()
    assert other.get(unused) == b"unused"


# --- a directory instead ------------------------------------------------------------------------


def differs(action: Callable[[], object]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        action()
    assert caught.value.id == "blobs_differ"
    assert caught.value.hint
    return caught.value


def test_a_shared_directory_instead(store: RedisStore, tmp_path: Path) -> None:
    shared = open_blobs(store, tmp_path / "state", tmp_path / "nfs")
    assert isinstance(shared, Blobs)
    assert shared.root == tmp_path / "nfs"
    assert isinstance(open_blobs(store, tmp_path / "state"), RedisBlobs)


@pytest.mark.parametrize("folder", [True, False])
def test_a_node_that_looks_elsewhere_than_was_submitted_to_does_not_start(
    store: RedisStore, tmp_path: Path, folder: bool
) -> None:
    url, nfs = redis_server.shared().url(), tmp_path / "n f s"
    mine, other = (nfs, None) if folder else (None, nfs)
    with Engine.open(url, workers=0, blobs=mine, state=tmp_path / "a") as course:
        handle = course.submit(submission())
        error = differs(lambda: open_engine(url, scoring(1), state=tmp_path / "b", blobs=other))
        assert error.id == "blobs_differ"
        if folder:
            assert str(nfs) in str(error)
            assert "--blobs DIR" in error.hint
        else:
            assert "on its server" in str(error)
            assert f"--to-blobs '{nfs}'" in error.hint
        with Engine.open(url, workers=0, blobs=other, state=tmp_path / "c") as looker:
            assert looker.jobs(), "who only looks may"
            before = keys()
            differs(lambda: looker.submit(submission("bob", b"else", assignment("other"))))
            assert keys() == before, "nothing of it stays"
            assert len(looker.jobs()) == 1
            with pytest.raises(BlobError, match="the files of this queue are") as caught:
                looker.blobs.get(course.jobs()[0].inputs)
            assert caught.value.id == "blob_elsewhere"
            if not folder:
                differs(lambda: looker.blobs.prune(looker.store.referenced))
        elsewhere = None if mine is None else tmp_path / "as it is called there"
        if elsewhere is not None:
            elsewhere.symlink_to(nfs)
        with open_engine(url, scoring(1), state=tmp_path / "d", blobs=elsewhere):
            assert handle.result(PATIENCE).score == 1
        for look in (
            lambda: backup(Place.of(url, blobs=None if other is None else str(other)), tmp_path / "kept"),
            lambda: migrate(
                Place.of(url, blobs=None if other is None else str(other)), Place.of(str(tmp_path / "moved"))
            ),
        ):
            differs(look)
        assert backup(Place.of(url, blobs=None if mine is None else str(mine)), tmp_path / "kept").blobs == 2


def test_a_node_that_was_first_says_where_files_are_that_it_does_not_find(store: RedisStore, tmp_path: Path) -> None:
    url, told = redis_server.shared().url(), []
    with open_engine(url, scoring(1), state=tmp_path / "a", on_event=told.append) as node:
        with Engine.open(url, workers=0, blobs=tmp_path / "nfs", state=tmp_path / "b") as course:
            course.submit(submission())
        eventually(lambda: "paused" in [event.kind for event in told])
        (job,) = node.jobs()
        assert job.failures == 0, "it is this node alone that does not see them"
    (said,) = {event.message for event in told if event.kind == "paused"}
    assert str(tmp_path / "nfs") in said
    assert "; next: name it as it is called on this machine: --blobs DIR" in said


def test_an_empty_queue_takes_files_either_way(store: RedisStore, tmp_path: Path) -> None:
    for directory in (tmp_path / "nfs", None, tmp_path / "nfs"):
        digest = open_blobs(store, tmp_path / "state", directory, agreed=True).put(b"data")
        (one,) = store.submit([JobSpec("hw", "ada", digest, digest)])
        with pytest.raises(ConfigError):
            open_blobs(store, tmp_path / "state", None if directory else tmp_path / "nfs", agreed=True)
        store.cancel(one.id)
        assert store.forget([one.id]) == 1


def test_what_is_carried_notes_where_its_files_are(store: RedisStore, tmp_path: Path) -> None:
    here = open_store(str(tmp_path / "state" / "queue.db"))
    digest = open_blobs(here, tmp_path / "state").put(b"data")
    here.submit([JobSpec("hw", "ada", digest, digest)])
    here.close()
    migrate(Place.of(str(tmp_path / "state")), Place.of(redis_server.shared().url(), blobs=str(tmp_path / "nfs")))
    differs(lambda: open_blobs(store, tmp_path / "a", agreed=True))
    open_blobs(store, tmp_path / "a", tmp_path / "nfs", agreed=True)


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_what_another_queue_needs_in_the_same_directory_stays(kind: str, tmp_path: Path) -> None:
    nfs = tmp_path / "nfs"
    url = redis_server.shared().url()
    one, other = (f"{url}?queue={name}" if kind == "redis" else tmp_path / name for name in ("one", "other"))
    with Engine.open(one, workers=0, blobs=nfs, state=tmp_path / "a") as course:
        gone = course.submit(submission("ada", b"gone"))
        gone.cancel()
        with Engine.open(one, workers=0, blobs=nfs, state=tmp_path / "c") as again:
            again.store.forget([gone.id])
            age_files(nfs)
            assert again.prune().count > 0, "a queue's own directory, whoever looks at it"
        with Engine.open(other, workers=0, blobs=nfs, state=tmp_path / "b") as stranger:
            kept = stranger.submit(submission("bob", b"kept"))
            age_files(nfs)
            for engine in (course, stranger):
                with pytest.raises(ConfigError) as caught:
                    engine.prune()
                assert caught.value.id == "blobs_shared"
            mark = shlex.split(caught.value.hint.rpartition("rm ")[2])[0]
            assert stranger.blobs.get(stranger.store.spec(kept.id).inputs)
            os.remove(mark)
            assert stranger.prune().count == 0, "it needs all that is there"


def age_files(folder: Path) -> None:
    then = time.time() - 86400
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def test_a_directory_that_is_not_the_queues_is_refused(store: RedisStore, tmp_path: Path) -> None:
    """As one whose name was mistyped, or that is not mounted. Nothing is made there."""
    url, nfs, other = redis_server.shared().url(), tmp_path / "nfs", tmp_path / "typo"
    with Engine.open(url, workers=0, blobs=nfs, state=tmp_path / "a") as course:
        course.submit(submission())
    with Engine.open(url, workers=0, blobs=other, state=tmp_path / "b") as course:
        error = differs(lambda: course.submit(submission("bob", b"else")))
        assert len(course.jobs()) == 1
    assert f"and {other} is not that one, or is not mounted" in str(error)
    assert not other.exists()
    differs(lambda: open_engine(url, scoring(1), state=tmp_path / "c", blobs=other))
    for words in error.hint.partition("takes its place: ")[2].split("; "):
        subprocess.run(shlex.split(words), check=True)
    open_engine(url, scoring(1), state=tmp_path / "c", blobs=other).stop()


@pytest.mark.parametrize("folder", [True, False])
def test_a_file_that_is_gone_costs_its_own_job_alone(
    store: RedisStore, tmp_path: Path, folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, nfs = redis_server.shared().url(), tmp_path / "nfs" if folder else None
    told: list[str] = []
    with Engine.open(url, workers=0, blobs=nfs, state=tmp_path / "a") as course:
        gone = course.submit(submission("ada", b"gone"))
        digest = course.store.spec(gone.id).inputs
        others = [course.submit(submission(f"s{n}", b"s%d" % n)) for n in range(5)]
        if nfs is None:
            client = store._link._way.clients().quick
            client.delete(*client.keys(f"*b:{digest}*"))
        else:
            (nfs / digest[:2] / digest).unlink()
        with open_engine(url, scoring(1), state=tmp_path / "b", blobs=nfs, on_event=lambda e: told.append(e.kind)):
            assert [other.result(PATIENCE).score for other in others] == [1] * 5
            with pytest.raises(JobDead, match="blob"):
                gone.result(PATIENCE)
    assert "paused" not in told


def test_what_is_touched_does_not_lapse(store: RedisStore, blobs: RedisBlobs) -> None:
    digest = blobs.put(b"x")
    key = blobs._key(digest, 0)
    client = redis_server.shared().client()
    client.expire(key, 1000)
    assert blobs.touch(digest)
    assert client.ttl(key) == -1


def test_what_another_thread_put_meanwhile_is_not_given_back(store: RedisStore, blobs: RedisBlobs) -> None:
    put: list[str] = []

    def fail() -> None:
        with blobs.given_back_on_failure():
            put.append(blobs.put(b"mine"))
            other = threading.Thread(target=lambda: put.append(blobs.put(b"theirs")))
            other.start()
            other.join()
            raise StoreFull("no room")

    with pytest.raises(StoreFull):
        fail()
    assert [blobs.has(digest) for digest in put] == [False, True]


def test_of_what_is_put_and_never_named_little_is_remembered(
    blobs: RedisBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis_blobs, "_MOST_FRESH", 10)
    blobs.put_many([b"%d" % n for n in range(50)])
    assert len(blobs._fresh) == 10
