"""`minitango backup`, `restore` and `migrate`: while an engine grades, whole or not at all, and back again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import redis_server
from tests.e2e.conftest import CommandLine, environment, eventually
from tests.redis_server import Server
from tests.support import blobs_of

pytestmark = pytest.mark.usefixtures("sandbox")

BUBBLEWRAP = {"MINITANGO_SANDBOX": "bubblewrap"}


@pytest.fixture
def server() -> Iterator[Server]:
    redis_server.need_redis()
    made = Server()
    yield made
    made.remove()


def jobs(cli: CommandLine, *where: str) -> dict[str, dict[str, Any]]:
    answer = cli("jobs", "--json", *where)
    assert answer.code == 0, answer
    return {job["id"]: job for job in answer.jobs}


def states(found: dict[str, dict[str, Any]]) -> list[str]:
    return sorted(job["state"] for job in found.values())


def graded(cli: CommandLine, hw: Path, handins: Path, *where: str) -> dict[str, dict[str, Any]]:
    """Two hand-ins that are graded, one of which is large: a file of its own in the state directory."""
    (handins / "eve.txt").unlink()
    (handins / "ada.txt").write_text("ok\n" + "." * (1 << 16))
    assert cli("run", hw, handins, *where, env=BUBBLEWRAP).code == 0
    return jobs(cli, *where)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dest", ["kept", "kept.tar"])
def test_beside_a_running_engine(cli: CommandLine, hw: Path, handins: Path, dest: str) -> None:
    before = graded(cli, hw, handins)
    (cli.folder / "late").mkdir()
    for name, text in (("zoe", "wait 600"), ("yan", "ok")):
        (cli.folder / "late" / f"{name}.txt").write_text(text)
    worker = cli.start("worker", "--workers", "1", env=BUBBLEWRAP)
    assert cli("submit", hw, "late/zoe.txt", env=BUBBLEWRAP).code == 0
    eventually(lambda: "running" in states(jobs(cli)), "it is not taken up")
    assert cli("submit", hw, "late/yan.txt", env=BUBBLEWRAP).code == 0
    answer = cli("backup", dest)
    assert answer.code == 0, answer
    assert answer.out.startswith(f"{dest}: 4 jobs (1 queued, 1 running, 2 done), ")
    assert worker.poll() is None
    worker.kill()
    worker.wait()
    kept = cli.folder / dest
    assert kept.stat().st_mode & 0o777 == (0o600 if dest.endswith(".tar") else 0o700)
    assert not [name for name in os.listdir(cli.folder) if name.startswith(".minitango-")]
    shutil.rmtree(cli.folder / ".minitango")
    restored = cli("restore", dest)
    assert restored.code == 0, restored
    assert restored.out.startswith("4 jobs and ")
    assert f"minitango worker --store {cli.folder}/.minitango" in restored.err
    assert (cli.folder / ".minitango").stat().st_mode & 0o777 == 0o700
    after = jobs(cli)
    assert states(after) == ["done", "done", "queued", "queued"], "nobody runs it here"
    assert {one: after[one] for one in before} == before
    (stuck,) = [one for one, job in after.items() if job["interruptions"]]
    worker = cli.start("worker", "--workers", "2", env=BUBBLEWRAP)
    eventually(lambda: states(jobs(cli)) == ["done", "done", "done", "running"], "it does not go on")
    assert jobs(cli)[stuck]["interruptions"] == 1
    again = cli("run", hw, handins, "--json", env=BUBBLEWRAP)
    assert {job["id"] for job in again.jobs} == set(before), "what was graded is not graded anew"
    worker.kill()


def test_a_backup_is_a_state_directory(cli: CommandLine, hw: Path, handins: Path) -> None:
    before = graded(cli, hw, handins)
    assert cli("backup", "kept").code == 0
    assert files(cli.folder / "kept") == {"queue.db", "backup.json", "engine.json", "tried.json"} & files(
        cli.folder / "kept"
    ) | {name for name in files(cli.folder / ".minitango") if name.startswith("blobs/")}
    assert blobs_of(cli.folder / "kept") == blobs_of(cli.folder / ".minitango")
    assert len(blobs_of(cli.folder / "kept")) > len(files(cli.folder / "kept" / "blobs")) == 1, "small and large"
    assert jobs(cli, "--state", "kept") == before


def test_a_backup_that_was_looked_at_is_whole(cli: CommandLine, hw: Path, handins: Path) -> None:
    before = graded(cli, hw, handins)
    assert cli("backup", "kept").code == 0
    for command in (["jobs"], ["export"], ["nodes"]):
        assert cli(*command, "--state", "kept").code == 0
    answer = cli("restore", "kept", "--state", "again")
    assert answer.code == 0, answer
    assert set(jobs(cli, "--state", "again")) == set(before)


def test_what_is_refused(cli: CommandLine, hw: Path, handins: Path) -> None:
    graded(cli, hw, handins)
    assert cli("backup", "kept").code == 0
    (cli.folder / "rubbish.tar").write_bytes(b"no tar file at all")
    with tarfile.open(cli.folder / "other.tar", "w") as tar:
        tar.add(handins, "handins")
    for command, error in (
        (["backup", "kept"], "backup_exists"),
        (["backup", "no/such/folder/kept"], "output"),
        (["backup", "new", "--state", "nowhere"], "no_queue"),
        (["restore", "kept"], "store_not_empty"),
        (["restore", "nothing"], "backup_missing"),
        (["restore", "handins", "--state", "new"], "backup_missing"),
        (["restore", ".minitango", "--state", "new"], "backup_missing"),
        (["restore", "rubbish.tar", "--state", "new"], "backup_damaged"),
        (["restore", "other.tar", "--state", "new"], "backup_damaged"),
        (["migrate", "nowhere", "new"], "no_queue"),
        (["migrate", ".minitango", ".minitango"], "same_queue"),
        (["migrate", ".minitango", "kept"], "store_not_empty"),
    ):
        answer = cli(*command)
        assert f"error[{error}]" in answer.err, answer
        assert "next:" in answer.err
        assert answer.code in (2, 3)
    assert not (cli.folder / "new").exists(), "nothing is made of what is no backup"
    assert "a state directory" in cli("restore", ".minitango", "--state", "new").err
    assert not (cli.folder / "nowhere" / "queue.db").exists()
    worker = cli.start("worker", env=BUBBLEWRAP)
    eventually(lambda: b"grading in" in (cli.folder / "err0").read_bytes(), "the worker does not start")
    assert "error[engine_running]" in cli("restore", "kept").err
    assert "error[engine_running]" in cli("migrate", ".minitango", "other").err
    worker.kill()


def test_a_full_disk_is_said_of_what_was_typed(cli: CommandLine, hw: Path) -> None:
    """And the folder whose disk is to be looked at is there when somebody does."""
    within = ["unshare", "-m" if os.geteuid() == 0 else "-Urm", "sh", "-c"]
    (cli.folder / "tiny").mkdir()
    mount = f"mount -t tmpfs -o size=4m tmpfs {cli.folder}/tiny"
    if shutil.which("unshare") is None or subprocess.run([*within, mount], capture_output=True).returncode:
        pytest.skip("no file system of our own can be mounted here")
    (cli.folder / "large").mkdir()
    for n in range(8):
        (cli.folder / "large" / f"s{n}.txt").write_bytes(os.urandom(600_000))
    assert cli("submit", hw, "large").code == 0
    assert cli("backup", "kept").code == 0
    assert cli("backup", "kept.tar").code == 0

    def on_a_disk(left: str, *words: str) -> None:
        """`left`: what is done with the disk first."""
        command = shlex.join(str(word) for word in cli.command(*words))
        answer = cli(within=[*within, f'{mount}; {left}; {command}; code=$?; find tiny >found; exit "$code"'])
        tiny = cli.folder / "tiny"
        typed = next(word for word in words if word.startswith("tiny/"))
        assert answer.code == 3, answer
        made = "backup" if words[0] == "backup" else "queue"
        assert answer.err.splitlines()[-2:] == [
            f"error[store_full]: the disk of {cli.folder / typed} is full: no {made} was made",
            f"  next: free some space (df -h {tiny}), then repeat",
        ]
        assert set((cli.folder / "found").read_text().split()) <= {"tiny", "tiny/fill"}

    for left in ("true", "head -c 5000000 /dev/zero >tiny/fill 2>/dev/null"):
        on_a_disk(left, "backup", "tiny/kept")
        on_a_disk(left, "backup", "tiny/kept.tar")
        on_a_disk(left, "restore", "kept", "--state", "tiny/new")
        on_a_disk(left, "restore", "kept.tar", "--state", "tiny/new")
        on_a_disk(left, "migrate", ".minitango", "tiny/new")


def test_a_copy_to_a_full_disk_does_not_speak_of_what_is_copied(tmp_path: Path) -> None:
    """As Python does: the error of a copy names where it came from."""
    from minitango.errors import StoreFull
    from minitango.moving import workplace

    with (
        pytest.raises(StoreFull, match=f"the disk of {tmp_path / 'new'} is full") as caught,
        workplace(tmp_path, tmp_path / "new", "nothing was made"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/kept/queue.db")
    assert f"df -h {tmp_path})" in caught.value.hint


def tampered(cli: CommandLine, how: str) -> None:
    """Spoil the backup `kept`."""
    kept = cli.folder / "kept"
    blob = next(path for path in (kept / "blobs").rglob("*") if path.is_file())
    match how:
        case "a blob is gone":
            blob.unlink()
        case "a blob has other bytes":
            blob.write_bytes(b"other")
        case "the database has other bytes":
            data = bytearray((kept / "queue.db").read_bytes())
            data[5000] ^= 1
            (kept / "queue.db").write_bytes(data)
        case "of a later version":
            label = json.loads((kept / "backup.json").read_text())
            (kept / "backup.json").write_text(json.dumps({**label, "format": 99}))
        case "no label":
            (kept / "backup.json").write_text("[]")


@pytest.mark.parametrize(
    ("how", "id"),
    [
        ("a blob is gone", "blob_missing"),
        ("a blob has other bytes", "blob_corrupt"),
        ("the database has other bytes", "backup_damaged"),
        ("of a later version", "backup_unknown"),
        ("no label", "backup_damaged"),
    ],
)
def test_a_backup_that_was_spoilt_makes_no_queue(cli: CommandLine, hw: Path, handins: Path, how: str, id: str) -> None:
    """It is called by its own name, and nothing is left of the attempt: as a folder, and as a tar file."""
    graded(cli, hw, handins)
    assert cli("backup", "kept").code == 0
    tampered(cli, how)
    with tarfile.open(cli.folder / "kept.tar", "w") as tar:
        for name in sorted(files(cli.folder / "kept"), key=lambda name: name != "backup.json"):
            tar.add(cli.folder / "kept" / name, name)
    (cli.folder / "old").mkdir()
    (cli.folder / "old" / "mine.txt").write_text("x")
    for source in ("kept", "kept.tar"):
        for state in ("new/er", "old"):
            answer = cli("restore", source, "--state", state)
            assert f"error[{id}]" in answer.err, answer
            assert f"{cli.folder}/{source}" in answer.err
            assert ".minitango-" not in answer.err
            assert "next: " in answer.err
            assert not (cli.folder / "new").exists()
            assert files(cli.folder / "old") - {"engine.lock"} == {"mine.txt"}
            assert not [path for path in (cli.folder / "old").iterdir() if path.is_dir()]


def test_what_does_not_move_leaves_nothing(cli: CommandLine, server: Server, hw: Path, handins: Path) -> None:
    """A blob is missing that is needed last: neither a folder nor a server keeps what came before it."""
    before = graded(cli, hw, handins)
    assert cli("backup", "kept").code == 0
    tampered(cli, "a blob is gone")
    url = server.url("cs101", tcp=True)
    for words in (
        ["restore", "kept", "--store", url],
        ["migrate", "kept", url],
        ["migrate", "kept", "new"],
        ["migrate", "kept", "sqlite:///some/where/queue.db"],
    ):
        answer = cli(*words)
        assert "error[blob_missing]" in answer.err, answer
        assert not list(cli.folder.glob("new*"))
        assert not (cli.folder / "some").exists()
        assert not list(cli.folder.rglob(".minitango-*"))
        keys = {key.rpartition(b"}:")[2] for key in server.client().scan_iter()}
        assert keys <= {b"meta"}, keys
    assert "error[no_queue]" in cli("migrate", url, "new").err
    shutil.rmtree(cli.folder / "kept")
    moved = cli("migrate", ".minitango", url)
    assert moved.code == 0, moved
    assert re.fullmatch(r"\d+ jobs? and \d+ files? copied\n", moved.out), "FROM is as it was"
    assert jobs(cli, "--store", url) == before


@pytest.mark.parametrize("new", [True, False])
def test_one_that_fails_takes_only_its_own_away(tmp_path: Path, new: bool) -> None:
    """What somebody writes into the directory meanwhile stays, and what a queue had there before."""
    from minitango.blobs import Blobs
    from minitango.moving import Place, new_place

    folder = tmp_path / "cs101" / "state"
    kept = {"hw9/grade.py", "blobs/README", "blobs/ab/notes"}
    if not new:
        Blobs(folder / "blobs").put(b"before")
        kept |= files(folder) | {"engine.lock"}

    def fails() -> None:
        for n in range(3):
            Blobs(folder / "blobs").put(bytes([n]))
        (folder / "engine.json").write_text("{}")
        for name in ("hw9/grade.py", "blobs/README", "blobs/ab/notes"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("written meanwhile")
        raise InterruptedError

    with pytest.raises(InterruptedError), new_place(Place.of(str(folder))):
        fails()
    assert files(folder) == kept
    folders = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir()}
    assert folders - {"blobs/tmp"} == {"hw9", "blobs", *(str(Path(name).parent) for name in kept)} - {"."}


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "blobs/aa/" + "b" * 63, "queue.db"])
def test_a_tar_that_holds_something_else_is_refused(cli: CommandLine, name: str) -> None:
    with tarfile.open(cli.folder / "kept.tar", "w") as tar:
        for each in (name, name):
            tar.addfile(tarfile.TarInfo(each))
    answer = cli("restore", "kept.tar", "--state", "new")
    assert "error[backup_damaged]" in answer.err, answer
    assert not (cli.folder / "evil").exists()
    (cli.folder / "kept.tar").write_bytes(b"no tar")
    assert "error[backup_damaged]" in cli("restore", "kept.tar", "--state", "new").err


def killed(cli: CommandLine, failpoint: str, *words: str) -> None:
    environ = environment(MINITANGO_FAILPOINT=failpoint)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "minitango.cli", *words], cwd=cli.folder, env=environ, capture_output=True
    )
    assert done.returncode == -9, done.stderr


def test_one_that_is_killed_leaves_nothing_and_is_repeated(cli: CommandLine, hw: Path, handins: Path) -> None:
    before = graded(cli, hw, handins)
    killed(cli, "backup.before_rename", "backup", "kept")
    assert not (cli.folder / "kept").exists()
    assert cli("backup", "kept").code == 0
    for failpoint in ("blobs.before_rename", "store.put.before_commit", "moving.before_link"):
        killed(cli, failpoint, "restore", "kept", "--state", "new")
        assert "error[no_queue]" in cli("jobs", "--state", "new").err
    assert cli("restore", "kept", "--state", "new").code == 0
    assert jobs(cli, "--state", "new") == before


def test_to_redis_and_back(cli: CommandLine, server: Server, hw: Path, handins: Path) -> None:
    before = graded(cli, hw, handins)
    (cli.folder / "late.txt").write_text("ok")
    assert cli("submit", hw, "late.txt", env=BUBBLEWRAP).code == 0
    before = jobs(cli)
    url = server.url("cs101", tcp=True)
    for words in (["backup", "new.tar", "--store", url], ["migrate", url, "new"]):
        answer = cli(*words)
        assert answer.code == 2, "a queue whose name is misspelt is no empty one"
        assert "error[no_queue]" in answer.err
        assert "?queue=" in answer.err
    assert not list(cli.folder.glob("new*"))
    killed(cli, "store.load.after_commit:2", "migrate", ".minitango", url)
    assert "error[store_filling]" in cli("jobs", "--store", url).err
    answer = cli("migrate", ".minitango", url)
    assert (answer.code, answer.out.startswith("3 jobs and ")) == (0, True), answer
    assert jobs(cli, "--store", url) == before
    worker = cli.start("worker", "--store", url, "--state", "node", env=BUBBLEWRAP)
    eventually(lambda: states(jobs(cli, "--store", url)) == ["done"] * 3, "it is not graded there")
    assert "error[engine_running]" in cli("migrate", url, "back").err
    worker.terminate()
    worker.wait()
    after = jobs(cli, "--store", url)
    assert cli("backup", "kept.tar", "--store", url).code == 0
    for failpoint in ("store.load.before_commit", "store.load.after_commit", "moving.before_link"):
        killed(cli, failpoint, "migrate", url, "back")
        assert "error[no_queue]" in cli("jobs", "--state", "back").err, failpoint
    assert cli("migrate", url, "back").code == 0
    assert cli("restore", "kept.tar", "--state", "fourth").code == 0
    other = server.url("cs102", tcp=True)
    assert cli("restore", "kept.tar", "--store", other).code == 0
    for where in (("--state", "back"), ("--state", "fourth"), ("--store", other)):
        assert jobs(cli, *where) == after
        for one in after:
            shown = cli("jobs", "show", one, "--json", *where).jobs[0]
            assert shown["inputs"]["trouble"] == "", "the files are there"
    assert "error[store_not_empty]" in cli("restore", "kept.tar", "--store", other).err
    retried = cli("jobs", "retry", next(iter(after)), "--state", "back", env=BUBBLEWRAP)
    assert retried.code == 0, retried


def test_a_node_that_is_alive_at_the_other_end(tmp_path: Path, server: Server) -> None:
    from minitango.errors import EngineRunning
    from minitango.moving import Place, migrate
    from minitango.store import Node, open_store

    for folder in ("a", "b"):
        open_store(str(tmp_path / folder / "queue.db")).close()
    there = open_store(server.url("cs101"))
    there.beat(Node("n1", "i", host="lab", pid=7, good_for=30.0))
    with pytest.raises(EngineRunning, match="n1") as caught:
        migrate(Place.of(str(tmp_path / "a")), Place.of(server.url("cs101")))
    assert caught.value.pid == 7
    there.beat(Node("n1", "i", good_for=30.0), now=there.now() - 31)
    assert migrate(Place.of(str(tmp_path / "a")), Place.of(server.url("cs101"))).jobs == 0
    there.close()


def test_files_in_folders_that_nodes_share(cli: CommandLine, server: Server, hw: Path, handins: Path) -> None:
    before = graded(cli, hw, handins)
    url = server.url("cs101", tcp=True)
    assert cli("migrate", ".minitango", url, "--to-blobs", "shared").code == 0
    there = [Path(name) for name in files(cli.folder / "shared")]
    assert {path.name for path in there if path.parent.name != "queues"} == blobs_of(cli.folder / ".minitango")
    (cli.folder / ".minitango").rename(cli.folder / "was")
    assert "error[blobs_differ]" in cli("migrate", url, "back").err
    assert cli("migrate", url, "back", "--from-blobs", "shared").code == 0
    assert cli("backup", "kept", "--store", url, "--blobs", "shared").code == 0
    assert jobs(cli, "--state", "back") == jobs(cli, "--state", "kept") == before


def test_a_submit_while_it_moves_is_not_lost(tmp_path: Path) -> None:
    from minitango.errors import ConfigError
    from minitango.job import JobSpec
    from minitango.moving import Place, carry
    from minitango.store import open_blobs, open_store

    here, there = open_store(str(tmp_path / "a" / "queue.db")), open_store(str(tmp_path / "b" / "queue.db"))
    blobs = open_blobs(here, tmp_path / "a")
    digest = blobs.put(b"x")
    spec = JobSpec("hw", "ada", digest, digest)
    here.submit([spec])
    original = here.dump

    def meanwhile() -> Any:
        yield from original()
        here.submit([spec])

    here.dump = meanwhile  # type: ignore[method-assign]
    with pytest.raises(ConfigError) as caught:
        carry(here, there, blobs, open_blobs(there, tmp_path / "b"))
    assert caught.value.id == "queue_moved"
    assert there.list() == []
    here.dump = original  # type: ignore[method-assign]
    assert carry(here, there, blobs, open_blobs(there, tmp_path / "b")).jobs == 2
    assert Place.of(str(tmp_path / "a")).file == tmp_path / "a" / "queue.db"
    here.close()
    there.close()


@pytest.mark.parametrize("what", ["redeliver", "forget", "cancel"])
def test_other_changes_while_it_moves_are_not_lost(tmp_path: Path, what: str) -> None:
    from minitango import ConfigError
    from minitango.job import Finish, JobSpec, Outcome, Result
    from minitango.moving import carry
    from minitango.store import open_blobs, open_store

    here, there = open_store(str(tmp_path / "a" / "queue.db")), open_store(str(tmp_path / "b" / "queue.db"))
    blobs = open_blobs(here, tmp_path / "a")
    digest = blobs.put(b"x")
    specs = [JobSpec("hw", "ada", digest, digest, callback="https://x.example/")] * 2
    ended, runs = [one.id for one in here.submit(specs)]
    here.exchange([Finish(here.exchange(claim=2).leases[0], Result(Outcome.GRADED, 1.0))])
    here.callback_delivered(here.take_callbacks(1)[0])
    original = here.dump

    def meanwhile() -> Any:
        yield from original()
        if what == "redeliver":
            here.redeliver(ended)
        elif what == "forget":
            here.forget([ended])
        else:
            here.cancel(runs)

    here.dump = meanwhile  # type: ignore[method-assign]
    with pytest.raises(ConfigError) as caught:
        carry(here, there, blobs, open_blobs(there, tmp_path / "b"))
    assert caught.value.id == "queue_moved"
    here.close()
    there.close()


def test_queues_that_are_not_carried_are_named(cli: CommandLine, server: Server, hw: Path, handins: Path) -> None:
    from minitango.job import JobSpec
    from minitango.store import open_store

    graded(cli, hw, handins)
    other = open_store(str(cli.folder / ".minitango" / "queue.db"), queue="exams")
    other.submit([JobSpec("hw", "ada", "5" * 64, "1" * 64)])
    other.close()
    answer = cli("migrate", ".minitango", server.url("carried"))
    assert answer.code == 0, answer
    assert "warning: only the queue 'default' was carried; these stay where they were: 'exams'" in answer.err


def test_a_job_that_is_forgotten_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blob may be gone: then the copy begins anew, without it."""
    from minitango.backup import backup
    from minitango.blobs import Blobs
    from minitango.job import JobSpec
    from minitango.moving import Place
    from minitango.store import open_store

    folder = tmp_path / "state"
    store, blobs = open_store(str(folder / "queue.db")), Blobs(folder / "blobs")
    digests = [blobs.put(bytes([n])) for n in range(2)]
    ids = [store.submit([JobSpec("hw", "ada", digest, digest)])[0].id for digest in digests]
    original = Blobs.get

    def meanwhile(self: Blobs, digest: str, *, keep: bool = True) -> bytes:
        if self.root == blobs.root and digest == digests[0] and blobs.has(digest):
            store.cancel(ids[0])
            store.forget([ids[0]])
            blobs.path(digest).unlink()
        return original(self, digest, keep=keep)

    monkeypatch.setattr(Blobs, "get", meanwhile)
    label = backup(Place.of(str(folder)), tmp_path / "kept")
    assert (sum(label.jobs.values()), label.blobs) == (1, 1)
    assert files(tmp_path / "kept") == {"queue.db", "backup.json", f"blobs/{digests[1][:2]}/{digests[1]}"}
    store.close()


@pytest.mark.parametrize("code", ["EPERM", "EOPNOTSUPP", "EMLINK", "ENOSYS"])
def test_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """As on FAT, exFAT and many shares: a .tar is made all the same, and a queue of it, and nothing is replaced."""
    from minitango.backup import backup, restore
    from minitango.errors import ConfigError
    from minitango.failpoint import failpoint
    from minitango.job import JobSpec
    from minitango.moving import Place
    from minitango.store import open_blobs, open_store

    def refuses(made: Path, name: Path) -> None:
        raise OSError(getattr(errno, code), "refused", str(made), None, str(name))

    monkeypatch.setattr(os, "link", refuses)
    place, kept, new = Place.of(str(tmp_path / "state")), tmp_path / "kept.tar", Place.of(str(tmp_path / "new"))
    with contextlib.closing(open_store(place.url)) as store:
        digest = open_blobs(store, place.folder).put(b"x")
        store.submit([JobSpec("hw", "ada", digest, digest)])
    backup(place, kept)
    assert (kept.stat().st_mode & 0o777, kept.stat().st_nlink) == (0o600, 1)
    restore(kept, new)
    assert {"kept.tar", "new", "state"} == set(os.listdir(tmp_path))
    assert files(new.folder) == {"queue.db", "engine.lock"}

    def meanwhile(name: str) -> None:
        failpoint(name)
        if name == "backup.before_rename":
            (tmp_path / "another.tar").write_text("written meanwhile")

    monkeypatch.setattr("minitango.backup.failpoint", meanwhile)
    with pytest.raises(ConfigError) as caught:
        backup(place, tmp_path / "another.tar")
    assert caught.value.id == "backup_exists"
    assert (tmp_path / "another.tar").read_text() == "written meanwhile"


def test_a_disk_that_fails_is_not_one_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from minitango.moving import give_name

    def fails(made: Path, name: Path) -> None:
        raise OSError(errno.EIO, "the disk")

    monkeypatch.setattr(os, "link", fails)
    (tmp_path / "made").touch()
    with pytest.raises(OSError, match="the disk"):
        give_name(tmp_path / "made", tmp_path / "name")
    assert os.listdir(tmp_path) == ["made"]


@pytest.mark.parametrize("where", ["file", "row"])
def test_a_blob_that_is_damaged_is_told(cli: CommandLine, hw: Path, handins: Path, where: str) -> None:
    graded(cli, hw, handins)
    if where == "file":
        blob = next(path for path in (cli.folder / ".minitango" / "blobs").rglob("*") if path.is_file())
        blob.write_bytes(b"rot")
    else:
        with contextlib.closing(sqlite3.connect(cli.folder / ".minitango" / "queue.db", isolation_level=None)) as db:
            db.execute("UPDATE blobs SET data = x'00' WHERE seq = 1")
    answer = cli("backup", "kept")
    assert (answer.code, "error[blob_corrupt]" in answer.err) == (3, True), answer
    assert not (cli.folder / "kept").exists()
