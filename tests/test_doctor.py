"""Each check of `doctor` by itself: what it takes for bad, and what it says then."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from minitango import Step, statedir
from minitango.doctor import CHECKS, Check, Patient, boxes, examine, machine, queue
from minitango.errors import SandboxUnavailable, StoreError, StoreTooNew
from minitango.job import State
from minitango.sandbox import Guarantees, Survey, Surveyed, survey
from minitango.sandbox._survey import _choose
from minitango.store.health import inspect_store
from tests.support import Gate, assignment, open_engine, scoring, submission

NOW = time.time()
HELD = Guarantees("cgroup", "cgroup", "cgroup", "tmpfs", "namespace")
GONE = SandboxUnavailable("no Docker here", hint="start Docker", id="sandbox_gone")


def of(checks: object) -> dict[str, Check]:
    return {check.name: check for check in checks}  # type: ignore[attr-defined]


def patient(state: Path, **changes: object) -> Patient:
    return Patient(**{"url": f"sqlite:///{state}/queue.db", "state": state, **changes})  # type: ignore[arg-type]


def graded(state: Path, *students: str) -> None:
    with open_engine(state, scoring(1)) as engine:
        for handle in [engine.submit(submission(student)) for student in students]:
            handle.result(20)


# --- the machine ------------------------------------------------------------------------------


def test_python_and_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.python().verdict == "ok"
    monkeypatch.setattr(machine, "PACKAGES", ("msgspec", "no-such-package"))
    found = machine.python()
    assert (found.verdict, found.next) == ("failed", "pip install no-such-package")
    monkeypatch.setattr(machine, "sqlite_version", lambda: ("3.7", False))
    assert machine.python().verdict == "failed"


def test_the_state_directory(tmp_path: Path) -> None:
    state = tmp_path / "a state"
    assert of(machine.place(state))["state"].verdict == "ok"
    assert not state.exists()
    state.mkdir(mode=0o700)
    assert of(machine.place(state))["state"].verdict == "ok"
    state.chmod(0o750)
    found = of(machine.place(state))["state"]
    assert (found.verdict, found.next) == ("warning", f"chmod 700 '{state}'")
    (tmp_path / "file").write_text("")
    assert of(machine.place(tmp_path / "file"))["state"].verdict == "failed"
    assert of(machine.place(tmp_path / "file" / "below"))["state"].verdict == "failed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_state_of_somebody_else(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    os.chown(state, 12345, 12345)
    found = of(machine.place(state))["state"]
    assert found.verdict == "warning"
    assert "belongs to user 12345" in found.text


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
proc /proc proc rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/local xfs rw 0 0
host:/x /mnt/with\\040blank fuse.sshfs rw 0 0
tmpfs /run tmpfs rw 0 0
/dev/sdc1 /mnt/twice ext4 rw 0 0
server:/over /mnt/twice nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/srv/course", "ext4", False),
        ("/home/ada/.minitango", "nfs4", True),
        ("/home/local/x", "xfs", False),
        ("/homework", "ext4", False),
        ("/mnt/with blank/x", "fuse.sshfs", True),
        ("/mnt/twice/x", "nfs", True),
    ],
)
def test_which_file_system_a_path_is_on(path: str, kind: str, network: bool) -> None:
    found, _ = machine.file_system(Path(path), MOUNTS)
    assert found == kind
    assert bool(machine.NETWORK.fullmatch(found)) is network


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.rclone", "ceph", "drvfs"])
def test_a_queue_on_a_network_is_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    monkeypatch.setattr(machine, "file_system", lambda path: (kind, "/mnt"))
    found = of(machine.place(tmp_path))["file_system"]
    assert found.verdict == "warning"
    assert kind in found.text
    assert found.next == "choose a --state DIR on a local disk"


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "overlay", "apfs"])
def test_a_local_disk_is_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    monkeypatch.setattr(machine, "file_system", lambda path: (kind, "/"))
    assert of(machine.place(tmp_path))["file_system"].verdict == "ok"


@pytest.mark.parametrize(("free", "verdict"), [(10 << 30, "ok"), (1500 << 20, "warning"), (500 << 20, "failed")])
def test_room_on_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, verdict: str) -> None:
    values = (4096, 4096, 1 << 30, free // 4096, free // 4096, 10**6, 10**6, 10**6, 0, 255)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(values))
    found = of(machine.place(tmp_path))["disk"]
    assert found.verdict == verdict
    assert ("minitango prune" in found.next) is (verdict != "ok")


@pytest.mark.parametrize(
    ("files", "left", "flags", "verdict", "words"),
    [
        (10**6, 99, 0, "failed", "room for 99 files on the disk of "),
        (10**6, 100, 0, "ok", "10 GiB free"),
        (0, 0, 0, "ok", "10 GiB free"),
        (10**6, 10**6, os.ST_RDONLY, "failed", " is on a disk that is read-only"),
    ],
    ids=["few", "enough", "not-counted", "read-only"],
)
def test_what_else_a_disk_may_lack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: int, left: int, flags: int, verdict: str, words: str
) -> None:
    room = (10 << 30) // 4096
    values = (4096, 4096, 1 << 30, room, room, files, left, left, flags, 255)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(values))
    found = of(machine.place(tmp_path))["disk"]
    assert (found.verdict, words in found.text) == (verdict, True), found
    assert bool(found.next) is (verdict == "failed")


def test_a_state_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = of(machine.place(tmp_path))["state"]
    assert (found.verdict, found.text) == ("failed", f"{tmp_path} cannot be written by this user")
    assert found.next.startswith("chown -R $USER ")
    found = of(machine.place(tmp_path / "new"))["state"]
    assert (found.verdict, "cannot be made" in found.text) == ("failed", True)


# --- the store --------------------------------------------------------------------------------


def looked(tmp_path: Path, now: float = NOW) -> dict[str, Check]:
    return of(queue.look(patient(tmp_path), now))


def test_no_queue_is_no_fault(tmp_path: Path) -> None:
    found = looked(tmp_path)
    assert found["store"].verdict == found["engine"].verdict == "ok"
    assert "jobs" not in found
    assert list(tmp_path.iterdir()) == []


def test_a_queue_that_is_well(tmp_path: Path) -> None:
    graded(tmp_path, "ada", "bob")
    found = looked(tmp_path, time.time() + 1)
    assert {name: check.verdict for name, check in found.items()} == dict.fromkeys(found, "ok")
    assert found["store"].facts["journal"] == "wal"
    assert found["store"].facts["counts"]["done"] == 2
    assert found["jobs"].text == "2 done"


def test_a_store_that_is_looked_at_stays_as_it_is(tmp_path: Path) -> None:
    graded(tmp_path, "ada")
    with sqlite3.connect(tmp_path / "queue.db") as db:
        before = db.execute("SELECT * FROM sqlite_master").fetchall()
    db.close()
    data = (tmp_path / "queue.db").read_bytes()
    assert inspect_store(f"sqlite:///{tmp_path}/queue.db", now=NOW) is not None
    assert (tmp_path / "queue.db").read_bytes() == data
    with sqlite3.connect(tmp_path / "queue.db") as db:
        assert db.execute("SELECT * FROM sqlite_master").fetchall() == before
    db.close()


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for start in range(4096, len(data), 4096):
        data[start : start + 64] = b"\xff" * 64
    path.write_bytes(data)


def newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def anothers(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE x (y)")
    db.close()


@pytest.mark.parametrize("harm", [damage, newer, anothers, lambda path: path.write_bytes(b"no database at all" * 99)])
def test_a_store_that_cannot_be_used(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    graded(tmp_path, "ada")
    harm(tmp_path / "queue.db")
    found = looked(tmp_path)["store"]
    assert found.verdict == "failed"
    assert str(tmp_path) in found.text
    assert found.next


def test_errors_of_a_look_are_those_of_opening(tmp_path: Path) -> None:
    graded(tmp_path, "ada")
    newer(tmp_path / "queue.db")
    with pytest.raises(StoreTooNew):
        inspect_store(f"sqlite:///{tmp_path}/queue.db", now=NOW)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError):
        inspect_store(f"sqlite:///{tmp_path}/folder", now=NOW)


def test_a_check_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graded(tmp_path, "ada")
    monkeypatch.setattr("minitango.store._inspect._STEPS", 1)
    found = inspect_store(f"sqlite:///{tmp_path}/queue.db", now=NOW, patience=-1)
    assert found is not None
    assert found.trouble is None
    check = queue._store(patient(tmp_path), found, None)
    assert check.verdict == "warning"
    assert "quick_check" in check.next


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        ({"journal": "delete"}, "warning", "its journal is delete, not WAL"),
        ({"journal": "delete", "version": 0}, "ok", "sound"),
        ({"bytes": 100 << 20, "free": 60 << 20}, "warning", "60 MiB of it hold nothing"),
        ({"bytes": 100 << 20, "free": 40 << 20}, "ok", "sound"),
        ({"bytes": 10 << 20, "free": 9 << 20}, "ok", "sound"),
        ({"current": False}, "ok", "sound; of an earlier version, which the next engine brings up to date"),
        ({"trouble": "page 3 is lost\x1b"}, "failed", r"is damaged: page 3 is lost\x1b"),
    ],
)
def test_what_a_look_at_the_store_comes_to(
    tmp_path: Path, changes: dict[str, object], verdict: str, words: str
) -> None:
    graded(tmp_path, "ada")
    health = inspect_store(f"sqlite:///{tmp_path}/queue.db", now=NOW)
    assert health is not None
    found = queue._store(patient(tmp_path), msgspec.structs.replace(health, **changes), None)
    assert found.verdict == verdict
    assert found.text.endswith(words)
    assert bool(found.next) is (verdict != "ok")


def test_a_clock_that_cannot_be_right_without_a_queue(tmp_path: Path) -> None:
    found = looked(tmp_path, 1e9)["clock"]
    assert (found.verdict, found.next) == ("warning", "set this machine's clock (timedatectl)")
    assert "which cannot be" in found.text
    assert looked(tmp_path, NOW)["clock"].verdict == "ok"


def test_times_of_the_future(tmp_path: Path) -> None:
    graded(tmp_path, "ada")
    assert looked(tmp_path, time.time())["clock"].verdict == "ok"
    found = looked(tmp_path, time.time() - 7200)["clock"]
    assert found.verdict == "warning"
    assert "1 job has times later than that" in found.text
    assert looked(tmp_path, 1e9)["clock"].verdict == "warning"


# --- the engine and its jobs --------------------------------------------------------------------


def test_an_engine_that_grades_is_named_and_not_disturbed(tmp_path: Path) -> None:
    gate = Gate()
    with open_engine(tmp_path, gate) as engine:
        handle = engine.submit(submission())
        gate.wait_entered()
        for _ in range(3):
            found = looked(tmp_path)
            assert found["engine"].verdict == "ok"
            assert found["engine"].facts == {"running": True, "pid": os.getpid(), "sandbox": "fake"}
            assert found["store"].verdict == "ok"
        gate.open.set()
        assert handle.result(20).score == 10
        assert handle.job().attempt == 1


def test_what_waits_without_an_engine(tmp_path: Path) -> None:
    with open_engine(tmp_path, scoring(1), workers=0) as engine:
        engine.submit(submission())
    found = of(queue.look(patient(tmp_path, flags=" --state here"), NOW))
    assert found["engine"].verdict == "warning"
    assert found["engine"].next == "minitango worker --state here"


def test_what_waits_for_what_nobody_offers(tmp_path: Path) -> None:
    """With an engine and without, as of a queue on a server."""

    def found() -> Check:
        return of(queue.look(patient(tmp_path, flags=" --state here"), NOW))["engine"]

    with open_engine(tmp_path, scoring(1), capabilities=("large",)) as engine:
        engine.submit(submission(of=assignment(needs=("large",)))).result(20)
        assert found().verdict == "ok"
        for student in ("ada", "bob"):
            engine.submit(submission(student, of=assignment("cuda", needs=("gpu",))))
        check = found()
        assert check.text.endswith(" grades here, in fake; 2 jobs need a node that offers gpu, and none does")
        hint = "start it again with what they need: minitango worker --state here --capability gpu,large"
        assert (check.verdict, check.next) == ("warning", hint)
    check = found()
    assert (check.verdict, check.text) == ("warning", "none runs here, and 2 jobs wait")
    assert check.next == "minitango worker --state here --capability gpu"


def test_dead_jobs_are_warned_of(tmp_path: Path) -> None:
    graded(tmp_path, "ada")
    health = inspect_store(f"sqlite:///{tmp_path}/queue.db", now=NOW)
    assert health is not None
    counts = {**health.counts, State.DEAD: 2}
    found = queue.jobs(patient(tmp_path), counts)
    assert (found.verdict, found.next) == ("warning", "minitango jobs list --state-is dead")


# --- sandboxes --------------------------------------------------------------------------------

DOCKER, NO_DOCKER = Surveyed("docker", HELD, images={"": "sha256:ab"}), Surveyed("docker", error=GONE)
NO_IMAGE = Surveyed("docker", HELD, images={"": ""})
BWRAP = Surveyed("bubblewrap", HELD, images={"": ""})
NO_BWRAP = Surveyed("bubblewrap", error=SandboxUnavailable("no bwrap", hint="apt-get install bubblewrap"))


@pytest.mark.parametrize(
    ("kinds", "name", "last", "chosen"),
    [
        ((DOCKER, BWRAP), "auto", "", "docker"),
        ((NO_IMAGE, BWRAP), "auto", "", "docker"),
        ((NO_DOCKER, BWRAP), "auto", "", "bubblewrap"),
        ((NO_DOCKER, NO_BWRAP), "auto", "", ""),
        ((DOCKER, BWRAP), "auto", "bubblewrap", "bubblewrap"),
        ((NO_DOCKER, BWRAP), "auto", "docker", ""),
        ((DOCKER, BWRAP), "bubblewrap", "docker", "bubblewrap"),
        ((NO_DOCKER, BWRAP), "docker", "", ""),
    ],
)
def test_what_is_taken_and_whether_that_will_do(
    kinds: tuple[Surveyed, ...], name: str, last: str, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, why = _choose({each.kind: each for each in kinds}, name, name, last, "")
    assert taken == chosen
    assert why
    monkeypatch.setattr(boxes, "survey", lambda *a, **k: Survey(kinds, taken, why))
    if last:
        statedir.introduce(tmp_path, last)
    found = of(boxes.look(patient(tmp_path, sandbox=name)))
    assert found["sandbox"].verdict == ("ok" if chosen else "failed")
    assert bool(found["sandbox"].next) is not bool(chosen)
    failed = {each.kind for each in kinds if found[each.kind].verdict == "failed"}
    if chosen:
        assert not failed
    else:
        assert failed == {each.kind for each in kinds if each.error is not None and (name, last) != ("", "")}


@pytest.mark.parametrize(("id", "verdict"), [("sandbox_gone", "ok"), ("sandbox_hangs", "warning")])
def test_a_docker_that_is_there_and_does_not_work(
    id: str, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Surveyed("docker", error=SandboxUnavailable("it hangs", hint="restart Docker", id=id))
    monkeypatch.setattr(boxes, "survey", lambda *a, **k: Survey((broken, BWRAP), "bubblewrap", "it is"))
    found = of(boxes.look(patient(tmp_path)))["docker"]
    assert (found.verdict, found.facts["hint"]) == (verdict, "restart Docker")
    statedir.introduce(tmp_path, "bubblewrap")
    assert of(boxes.look(patient(tmp_path)))["docker"].verdict == "ok", "auto keeps to bubblewrap here"


def test_images_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = (Surveyed("docker", HELD, images={"": "sha256:abcdef", "gcc:14": ""}), BWRAP)
    statedir.introduce(tmp_path, "docker", {"gcc:14": ("sha256:a", "sha256:a")})
    asked: list[tuple[str, ...]] = []

    def fake(name: str, *, images: list[str], **_: object) -> Survey:
        asked.append(tuple(images))
        return Survey(kinds, "docker", "it is")

    monkeypatch.setattr(boxes, "survey", fake)
    found = of(boxes.look(patient(tmp_path)))["images"]
    assert asked == [("gcc:14",)]
    assert (found.verdict, found.next) == ("warning", "docker pull gcc:14")


def test_several_docker_engines_have_a_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not work is a warning where others go on, and so is an image that is not the same on all."""
    ours = Surveyed("docker", HELD, images={"": "sha256:a"}, engine="unix:///a", slots=2)
    theirs = Surveyed("docker", HELD, images={"": "sha256:b"}, engine="tcp://b:2376", slots=8)
    away = Surveyed("docker", error=GONE, engine="tcp://c:2376")
    name = "docker+unix:///a,docker+tcp://b:2376,docker+tcp://c:2376"
    kinds: tuple[Surveyed, ...] = (ours, theirs, away, BWRAP)
    monkeypatch.setattr(boxes, "survey", lambda *a, **k: Survey(kinds, "docker", "it is", name))
    checks = list(boxes.look(patient(tmp_path, sandbox=name)))
    engines = [check for check in checks if check.name == "docker"]
    assert [check.verdict for check in engines] == ["ok", "ok", "warning"]
    assert engines[1].text.startswith("tcp://b:2376: a box runs, 8 at once; limits held by: ")
    assert (engines[1].facts["engine"], engines[1].facts["slots"]) == ("tcp://b:2376", 8)
    assert (engines[2].text, engines[2].next) == ("left alone, others go on: no Docker here", "start Docker")
    found = of(checks)
    assert (found["sandbox"].verdict, found["images"].verdict) == ("ok", "warning")
    assert "is another image on tcp://b:2376 than on unix:///a" in found["images"].text
    kinds = (ours, Surveyed("docker", HELD, engine="tcp://b:2376", slots=8), BWRAP)
    missing = of(boxes.look(patient(tmp_path, sandbox=name)))["images"]
    assert missing.text.startswith("tcp://b:2376: not there yet: python")
    assert missing.next.startswith("DOCKER_HOST=tcp://b:2376 docker pull python")
    kinds = (away, BWRAP)
    monkeypatch.setattr(boxes, "survey", lambda *a, **k: Survey(kinds, "", "it is asked for", name))
    assert of(boxes.look(patient(tmp_path, sandbox=name)))["docker"].verdict == "failed"


def test_only_images_names_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not folders, and nothing that a damaged note has."""
    asked: list[tuple[str, ...]] = []

    def fake(name: str, *, images: list[str], **_: object) -> Survey:
        asked.append(tuple(images))
        return Survey((DOCKER, BWRAP), "", "nothing works")

    monkeypatch.setattr(boxes, "survey", fake)
    pair = ("sha256:a", "sha256:a")
    statedir.introduce(tmp_path, "docker", {"gcc:14": pair, "gcc 15": pair, "": pair})
    steps = tuple(Step(command=("x",), image=image) for image in ("docker/", "gcc:14", "", "python:3.12"))
    found = of(boxes.look(patient(tmp_path, assignment=assignment(steps=steps))))
    assert asked == [("gcc:14", "python:3.12")]
    assert (found["assignment"].verdict, found["assignment"].next) == ("failed", "see above")


def test_who_asks_for_a_kind_that_does_not_work_is_told_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "survey", lambda *a, **k: Survey((NO_DOCKER, BWRAP), "", "docker is asked for"))
    found = of(boxes.look(patient(tmp_path, sandbox="docker")))["sandbox"]
    assert found.next.endswith("from now on: --sandbox bubblewrap")
    monkeypatch.setattr(boxes, "survey", lambda *a, **k: Survey((NO_DOCKER, NO_BWRAP), "", "nothing works"))
    found = of(boxes.look(patient(tmp_path)))["sandbox"]
    assert found.next == "for docker: start Docker; or for bubblewrap: apt-get install bubblewrap"


def test_limits_that_do_not_hold_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weak = Surveyed("bubblewrap", Guarantees("none", notes=("memory does not hold", "and more")))
    monkeypatch.setattr(boxes, "survey", lambda *a, **k: Survey((NO_DOCKER, weak), "bubblewrap", "it is"))
    found = of(boxes.look(patient(tmp_path)))["bubblewrap"]
    assert (found.verdict, found.next, found.notes) == ("warning", "memory does not hold", ("and more",))
    monkeypatch.setattr(boxes, "survey", lambda *a, **k: Survey((DOCKER, weak), "docker", "it is"))
    found = of(boxes.look(patient(tmp_path)))["bubblewrap"]
    assert (found.verdict, found.next) == ("ok", ""), "what is not used may be as weak as it is"


def test_orphans_are_counted_and_removed_only_when_asked(tmp_path: Path) -> None:
    dead = tmp_path / "boxes" / "1-dead"
    dead.mkdir(parents=True)
    (dead / "lock").touch()
    (dead / "minitango-1-dead-1.json").write_text("{}\n")
    found = {each.kind: each for each in survey("bubblewrap", state=tmp_path).kinds}["bubblewrap"]
    if found.error is not None:
        pytest.skip(found.error.message)
    assert (found.orphans, found.swept) == (1, 0)
    assert dead.exists()
    assert not (tmp_path / "docker").exists()
    found = {each.kind: each for each in survey("bubblewrap", state=tmp_path, sweep=True).kinds}["bubblewrap"]
    assert (found.orphans, found.swept) == (1, 1)
    assert not dead.exists()


@pytest.mark.parametrize("fix", [False, True])
def test_states_of_killed_checks_are_seen_and_removed_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fix: bool
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "minitango-check-x"
    left.mkdir()
    os.utime(left, (1, 1))
    found = boxes._orphans([Surveyed("docker", HELD, orphans=2)], patient(tmp_path, fix=fix))
    words = "removed 1 state of a check" if fix else "2 boxes and 1 state of a check"
    assert (found.text, left.exists()) == (f"{words} that dead engines left", not fix)
    assert found.facts["check"] == {"left": 1, "swept": int(fix)}


@pytest.mark.parametrize(("left", "swept", "verdict"), [(0, 0, "ok"), (2, 0, "warning"), (2, 2, "ok")])
def test_what_is_said_of_orphans(
    left: int, swept: int, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = boxes._orphans([Surveyed("docker", HELD, orphans=left, swept=swept)], patient(tmp_path))
    assert found.verdict == verdict
    assert ("minitango doctor --fix" in found.next) is (verdict == "warning")


def test_every_check_is_made_in_its_order(tmp_path: Path) -> None:
    graded(tmp_path, "ada")
    shutil.rmtree(tmp_path / "boxes", ignore_errors=True)
    names = [check.name for check in examine(patient(tmp_path, sandbox="bubblewrap", assignment=assignment()))]
    assert [name for name in CHECKS if name in names] == names
    assert set(CHECKS) - set(names) <= {"images", "canary", "files"}
