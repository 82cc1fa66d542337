"""The state directory: closed to others, and who grades there can be asked without a disturbance."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from minitango import statedir
from minitango.errors import EngineRunning, EngineStopped, StoreError
from tests import redis_server
from tests.support import PATIENCE, Gate, open_engine, submission

HOLD = """
import sys, time
from pathlib import Path
from minitango import statedir
held = statedir.lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        statedir.make(tmp_path / "state")
    finally:
        os.umask(old)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kernel", [True, False])
def test_who_grades_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool) -> None:
    if not kernel:  # as on a system without /proc
        read = Path.read_text
        monkeypatch.setattr(Path, "read_text", lambda path, *a, **k: "" if str(path) == "/proc/locks" else read(path))
    assert statedir.running(tmp_path / "nowhere") is None
    assert statedir.running(tmp_path) is None
    assert not list(tmp_path.iterdir()), "looking makes nothing"
    with open_engine(tmp_path, Gate()):
        found = statedir.running(tmp_path)
        assert found is not None
        assert found.pid == os.getpid()
    assert statedir.running(tmp_path) is None


def test_an_engine_of_another_process(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert statedir.running(tmp_path) == statedir.Running(None), "who it is was not noted"
        with pytest.raises(EngineRunning) as caught:
            statedir.lock(tmp_path)
        assert caught.value.id == "engine_running"
        said = f"something else works on {tmp_path}: a restore or a migrate, or an engine that begins"
        assert (caught.value.message, caught.value.pid) == (said, None)
        (tmp_path / "engine.json").write_text(json.dumps({"pid": 2**31 - 2}))
        with pytest.raises(EngineRunning, match="something else works"):
            statedir.lock(tmp_path)
        (tmp_path / "engine.json").write_text(json.dumps({"pid": process.pid}))
        with pytest.raises(EngineRunning, match=rf"another engine \(process {process.pid}\) is grading") as caught:
            statedir.lock(tmp_path)
        assert caught.value.pid == process.pid
        process.kill()
    assert statedir.running(tmp_path) is None


def test_who_only_looks_keeps_no_engine_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statedir, "_A_LOOK", 10.0)
    looker = FileLock(tmp_path / "engine.lock", thread_local=False)
    looker.acquire()
    timer = threading.Timer(0.05, looker.release)
    timer.start()
    statedir.lock(tmp_path)()
    timer.join()


def test_what_killed_checks_left_is_found_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def made(name: str, age: float = 100.0) -> Path:
        state = tmp_path / name
        (state / "live").mkdir(parents=True)
        then = time.time() - age
        os.utime(state, (then, then))
        return state

    left = made("minitango-check-a")
    made("minitango-init-b")
    made("minitango-check-young", age=5.0)
    (tmp_path / "minitango-check-file").write_text("")
    (tmp_path / "minitango-check-link").symlink_to(left)
    alive = made("minitango-check-alive")
    release = statedir.lock(alive)
    os.utime(alive, (1.0, 1.0))
    assert statedir.abandoned() == [left]
    release()
    assert statedir.abandoned() == [left, alive]
    for state in statedir.abandoned():
        statedir.discard(state)
    assert not left.exists()
    assert not alive.exists()


@pytest.mark.parametrize("how", ["removed", "moved", "made anew"])
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_an_engine_whose_directory_went_says_so_and_stops(tmp_path: Path, kind: str, how: str) -> None:
    """It does not go on grading into a file that nobody finds again, nor beside an engine that holds another lock."""
    state, events, gate = tmp_path / "state", [], Gate()
    store = str(state)
    if kind == "redis":
        redis_server.need_redis()
        redis_server.shared().flush()
        store = redis_server.shared().url()
    engine = open_engine(store, gate, state=state, on_event=events.append)
    handle = engine.submit(submission())
    gate.wait_entered()
    if how == "moved":
        state.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(state)
    if how == "made anew":
        open_engine(tmp_path / "state", Gate()).stop()
    with pytest.raises(EngineStopped, match="removed, moved or replaced") as caught:
        handle.result(PATIENCE)
    assert (caught.value.id, caught.value.exit_code) == ("state_gone", 3)
    assert caught.value.hint
    with pytest.raises(EngineStopped, match="the engine stopped: the state directory"):
        engine.wait()
    with pytest.raises(EngineStopped) as caught:
        engine.submit(submission("late"))
    assert caught.value.id == "state_gone"
    (crashed,) = (event.message for event in events if event.kind == "crashed")
    assert "the engine stops: the state directory" in crashed
    assert "; next: " in crashed
    engine.stop(grace=0)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ELOOP])
def test_a_directory_that_cannot_be_looked_at_for_a_while_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    state, real, failing = tmp_path / "state", Path.stat, False

    def stat(path: Path, **more: Any) -> os.stat_result:
        if failing and path.name == "engine.lock":
            raise OSError(number, os.strerror(number), str(path))
        return real(path, **more)

    monkeypatch.setattr(Path, "stat", stat)
    statedir.make(state)
    release = statedir.lock(state)
    look = statedir.watch_over(state)
    failing = True
    look()
    with pytest.raises(StoreError, match=r"engine\.lock cannot be looked at") as caught:
        statedir.watch_over(state)
    assert (caught.value.id, caught.value.hint) == ("state", "choose another --state DIR")
    failing = False
    look()
    release()
    shutil.rmtree(state)
    with pytest.raises(StoreError) as caught:
        look()
    assert caught.value.id == "state_gone"
