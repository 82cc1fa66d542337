"""kill -9, again and again: nothing is lost, nothing is recorded twice, nobody is charged, nothing is left.

Longer forms run with MINITANGO_LONG=1.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minitango.job import State
from minitango.sandbox._host import start_time
from minitango.store import Store, open_store
from tests.support import need_bubblewrap

ROOT = Path(__file__).parent.parent.parent
LONG = bool(os.environ.get("MINITANGO_LONG"))

FAILPOINTS = [
    "store.submit.before_commit",
    "store.submit.after_commit",
    "engine.before_exchange:3",
    "engine.after_exchange:3",
    "store.exchange.before_commit:2",
    "store.exchange.after_commit:2",
    "store.exchange.before_commit:5",
    "store.exchange.after_commit:5",
    "store.recover.before_commit",
    "store.recover.after_commit",
]


def start(state: Path, jobs: int, sandbox: str, workers: int, *more: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.restart_child", str(state), str(jobs), sandbox, str(workers), *more],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(state: Path, jobs: int, sandbox: str, workers: int, *more: str, **env: str) -> None:
    """Run once more, unharmed, to the end."""
    child = start(state, jobs, sandbox, workers, *more, **env)
    out, _ = child.communicate(timeout=110)
    assert child.returncode == 0
    assert "all ended" in out


def check(store: Store, jobs: int) -> None:
    """Every job has its one result, the right one, and no failure was charged."""
    found = store.list()
    assert len(found) == jobs, "none lost, none twice"
    for job in found:
        assert job.state is State.DONE, f"{job.student}: {job.failure}"
        result = store.result(job.id)
        assert result is not None
        assert result.score == int(job.student[1:])
        assert job.failures == 0
        attempts = store.attempts(job.id)
        assert [attempt.ended_by for attempt in attempts].count("finish") == 1
        assert [attempt.number for attempt in attempts] == list(range(1, job.attempt + 1))
    counts = store.counts()
    assert counts[State.DONE] == jobs
    assert sum(counts.values()) == jobs


@pytest.mark.timeout(1800 if LONG else 400)
def test_killed_again_and_again(tmp_path: Path) -> None:
    jobs, kills = (2000, 400) if LONG else (500, 100)
    chance = random.Random(7)
    for number in range(kills):
        child = start(tmp_path, jobs, "fake", 4)
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        if number == 0:  # however slow this machine is, the others find jobs to run
            assert child.stdout.readline() == "queued\n"
        time.sleep(chance.uniform(0.01, 0.25))  # the fault's moment is the point of this test
        child.kill()
        child.communicate()
    finish(tmp_path, jobs, "fake", 4)
    store = open_store(str(tmp_path / "queue.db"))
    check(store, jobs)
    assert sum(job.interruptions for job in store.list()) >= kills // 2, "the kills struck running jobs"
    store.close()


@pytest.mark.parametrize("place", FAILPOINTS)
def test_killed_at_each_step_of_the_way(tmp_path: Path, place: str) -> None:
    jobs = 12
    if "recover" in place:  # something must be there to recover
        child = start(tmp_path, jobs, "fake", 2, MINITANGO_FAILPOINT="engine.after_exchange:2")
        child.communicate(timeout=60)
    child = start(tmp_path, jobs, "fake", 2, MINITANGO_FAILPOINT=place)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL, "the failpoint was reached"
    finish(tmp_path, jobs, "fake", 2)
    store = open_store(str(tmp_path / "queue.db"))
    check(store, jobs)
    store.close()


def leftovers(state: Path, engine: int) -> list[str]:
    """Processes that the engine with this pid started and that are alive: by their records, and by their name."""
    found = []
    for record in (state / "boxes").rglob("*.json"):
        for line in record.read_text().splitlines():
            for pid, began in json.loads(line).get("processes", ()):
                if start_time(pid) == began:
                    found.append(f"recorded: {pid}")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"minitango-%d-" % engine in command:
            found.append(f"named: {process.name} {command[:200]!r}")
    return found


def test_killed_with_real_sandboxes(tmp_path: Path) -> None:
    need_bubblewrap()
    jobs, kills = (60, 20) if LONG else (24, 4)
    chance = random.Random(11)
    killed: list[int] = []
    for _ in range(kills):
        child = start(tmp_path, jobs, "bubblewrap", 2)
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        time.sleep(chance.uniform(0.05, 0.3))
        child.kill()
        child.communicate()
        killed.append(child.pid)
    finish(tmp_path, jobs, "bubblewrap", 2)
    store = open_store(str(tmp_path / "queue.db"))
    check(store, jobs)
    store.close()
    for pid in killed:
        assert not leftovers(tmp_path, pid), "a box outlived its engine"
    assert not list((tmp_path / "boxes").rglob("*.json")), "the sweep left nothing"
