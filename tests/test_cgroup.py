"""Control groups: real ones where this machine gives them, and version 2's files in a plain directory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minitango.errors import SandboxFailed
from minitango.job import Limits
from minitango.sandbox._cgroup import (
    _LEAF,
    Groups,
    GroupsV1,
    GroupsV2,
    GroupV2,
    Hierarchy,
    _base_v2,
    _trial_name,
    find_cgroups,
    hierarchies,
    remove_deserted,
    remove_group,
)
from minitango.sandbox._inside import Status
from minitango.sandbox._meter import GroupMeter, Totals, WatchMeter
from minitango.sandbox._watch import Watcher


@pytest.fixture
def groups() -> Groups:
    found = find_cgroups()
    if found is None:
        pytest.skip("no control groups can be had here")
    return found


def name() -> str:
    return f"minitango-test-{os.getpid()}-{time.monotonic_ns()}"


def test_a_group_holds_counts_and_goes(groups: Groups) -> None:
    ours = name()
    paths = groups.paths(ours)
    group = groups.make(ours, Limits(memory=16 << 20, disk=16 << 20, pids=5))
    try:
        assert all(Path(path).is_dir() for path in paths)
        command = ["sh", "-c", "read x; (head -c 100000000 /dev/zero | tail -c 90000000) >/dev/null; read x"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            group.add(process.pid)
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
            deadline = time.monotonic() + 20
            while group.oom_kills() == 0 and time.monotonic() < deadline:
                time.sleep(0.01)
            process.kill()
        assert group.oom_kills() > 0
        peak = group.peak()
        assert peak is None or 16 << 20 < peak <= 32 << 20
        cpu = group.cpu()
        assert cpu is None or cpu > 0
        assert not group.forks_refused()
    finally:
        group.remove()
    assert not any(Path(path).exists() for path in paths)
    group.remove()


def test_forks_beyond_the_limit_are_counted(groups: Groups) -> None:
    group = groups.make(name(), Limits(pids=2))
    try:
        script = "read x; sleep 5 & sleep 5 & sleep 5 & sleep 5 & wait"
        with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            group.add(process.pid)
            process.communicate(b"\n")
        assert process.returncode != 0
        assert group.forks_refused()
    finally:
        group.remove()


def test_removing_kills_what_is_inside(groups: Groups) -> None:
    ours = name()
    group = groups.make(ours, Limits())
    with subprocess.Popen(["sleep", "100"]) as process:
        group.add(process.pid)
        for path in groups.paths(ours):
            remove_group(path)
        assert process.wait(10) == -9


def test_deserted_groups_are_removed_and_others_are_not(tmp_path: Path) -> None:
    groups = GroupsV2(str(tmp_path))
    for group in ("minitango-empty", "minitango-used", "others-empty"):
        (tmp_path / group).mkdir()
    (tmp_path / "minitango-used" / "stands for a process").touch()
    remove_deserted(groups, older=3600)
    assert len(list(tmp_path.iterdir())) == 3
    remove_deserted(groups, older=-1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["minitango-used", "others-empty"]


def test_a_trial_that_was_killed_in_the_middle_is_removed(tmp_path: Path) -> None:
    code = "from minitango.sandbox._cgroup import _trial_name; print(_trial_name())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    dead, alive = done.stdout.strip(), _trial_name()
    elsewhere = "-".join([*dead.split("-")[:2], "1", *dead.split("-")[3:]])  # its number is of another namespace
    for group in (dead, alive, elsewhere, "minitango-try"):
        (tmp_path / group).mkdir()
    remove_deserted(GroupsV2(str(tmp_path)))
    assert {path.name for path in tmp_path.iterdir()} == {alive, elsewhere, "minitango-try"}


def test_a_trial_leaves_nothing(groups: Groups) -> None:
    assert find_cgroups() is not None
    for path in groups.paths(""):
        assert not list(Path(path).glob(f"minitango-try-*-{os.getpid()}-*"))


def test_a_group_that_cannot_be_removed_is_told(tmp_path: Path) -> None:
    (tmp_path / "group" / "child").mkdir(parents=True)
    with pytest.raises(SandboxFailed, match="cannot be removed"):
        remove_group(str(tmp_path / "group"), patience=0.02)
    remove_group(str(tmp_path / "never was"))


def test_no_second_group_of_one_name_harms_the_first(groups: Groups) -> None:
    ours = name()
    group = groups.make(ours, Limits())
    try:
        with subprocess.Popen(["sleep", "100"]) as process:
            group.add(process.pid)
            with pytest.raises(SandboxFailed):
                groups.make(ours, Limits())
            assert process.poll() is None
            process.kill()
    finally:
        group.remove()


# --- where we stand ------------------------------------------------------------------------------------

MOUNTS = """\
31 23 0:28 / {root} rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / {root}/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/abc {root}/memory rw,relatime master:3 - cgroup cgroup rw,memory
39 31 0:36 / {root}/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / {root}/unified rw,relatime - cgroup2 cgroup2 rw
"""
OWN = "4:memory:/docker/abc/mine\n8:pids:/elsewhere\n2:cpu,cpuacct:/\n1:name=systemd:/x\n0::/scope\n"


def test_our_place_is_found_in_each_hierarchy(tmp_path: Path) -> None:
    for place in ("cpu,cpuacct", "memory/mine", "pids", "unified/scope"):
        (tmp_path / place).mkdir(parents=True)
    known = hierarchies(MOUNTS.format(root=tmp_path), OWN)
    assert {controller: hierarchy.own for controller, hierarchy in known.items()} == {
        "cpu": f"{tmp_path}/cpu,cpuacct",
        "cpuacct": f"{tmp_path}/cpu,cpuacct",
        "memory": f"{tmp_path}/memory/mine",
        "pids": f"{tmp_path}/pids",  # the path leads outside this mount: its root is where we are
        "unified": f"{tmp_path}/unified/scope",
    }


def test_controllers_of_one_hierarchy_share_a_directory() -> None:
    groups = GroupsV1({"memory": "/m", "pids": "/p", "cpu": "/c", "cpuacct": "/c"})
    assert groups.paths("box") == ("/m/box", "/p/box", "/c/box")


# --- version 2, in a directory that stands for it --------------------------------------------------------


def unified(place: Path, *, controllers: str = "cpu memory pids", passed_on: str = "", procs: str = "") -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "cgroup.controllers").write_text(controllers + "\n")
    (place / "cgroup.subtree_control").write_text(passed_on + "\n")
    (place / "cgroup.procs").write_text(procs)
    return place


def test_a_delegated_group_that_holds_only_us_is_ours(tmp_path: Path) -> None:
    scope = unified(tmp_path / "scope", procs=f"{os.getpid()}\n")
    (scope / _LEAF).mkdir()
    (scope / _LEAF / "cgroup.procs").touch()
    assert _base_v2(Hierarchy(str(tmp_path), str(scope))) == str(scope)
    assert (scope / _LEAF / "cgroup.procs").read_text() == str(os.getpid())
    assert (scope / "cgroup.subtree_control").read_text().startswith("+memory +pids")
    (scope / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (scope / "cgroup.procs").write_text("")
    assert _base_v2(Hierarchy(str(tmp_path), str(scope / _LEAF))) == str(scope)  # a second sandbox of this engine


def test_a_group_that_holds_others_is_left_alone(tmp_path: Path) -> None:
    unified(tmp_path, passed_on="cpu memory pids")
    service = unified(tmp_path / "slice" / "service", procs=f"1\n{os.getpid()}\n")
    unified(tmp_path / "slice", passed_on="cpu")
    assert _base_v2(Hierarchy(str(tmp_path), str(service))) == str(tmp_path)
    assert not (service / _LEAF).exists()


def test_where_nothing_is_passed_on_there_is_no_group(tmp_path: Path) -> None:
    unified(tmp_path, passed_on="")
    service = unified(tmp_path / "service", controllers="cpu", procs=f"{os.getpid()}\n")
    assert _base_v2(Hierarchy(str(tmp_path), str(service))) is None


def group_v2(base: Path) -> tuple[GroupV2, Path]:
    place = base / "box"
    place.mkdir()
    for file in ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "cgroup.procs"):
        (place / file).touch()
    (place / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (place / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n")
    (place / "pids.events").write_text("max 3\n")
    return GroupV2(str(base), "box"), place


def test_version_2_is_written_and_read(tmp_path: Path) -> None:
    group, place = group_v2(tmp_path)
    group.limit(Limits(memory=1 << 20, disk=2 << 20, pids=7, cpus=0.5))
    group.add(42)
    written = {
        file: (place / file).read_text() for file in ("memory.max", "memory.swap.max", "pids.max", "cgroup.procs")
    }
    assert written == {"memory.max": str(3 << 20), "memory.swap.max": "0", "pids.max": "8", "cgroup.procs": "42"}
    assert (place / "cpu.max").read_text() == "50000 100000"
    assert (group.cpu(), group.oom_kills(), group.forks_refused()) == (1.5, 1, True)
    assert group.peak() is None
    (place / "memory.peak").write_text("12345\n")
    assert group.peak() == 12345


def test_version_2_groups_that_cannot_be_made_are_our_failure(tmp_path: Path) -> None:
    groups = GroupsV2(str(tmp_path / "nowhere"))
    assert groups.paths("box") == (f"{tmp_path}/nowhere/box",)
    with pytest.raises(SandboxFailed, match="could not be made"):
        groups.make("box", Limits())


# --- what a meter makes of it ------------------------------------------------------------------------------


def test_the_cpu_limit_is_asked_for_when_it_can_be_reached(tmp_path: Path) -> None:
    group, place = group_v2(tmp_path)
    idle, spent, left = (GroupMeter(group, limits) for limits in (Limits(), Limits(cpu=1), Limits(cpu=2, cpus=0.5)))
    (place / "cpu.stat").write_text("usage_usec 2500000\n")  # one second more than when it came up
    assert idle.check() == (None, float("inf"))
    assert spent.check() == ("cpu", 0.0)
    assert left.check() == (None, 2.0)
    assert left.totals(None).cpu == 1.0


@pytest.mark.parametrize(
    ("status", "kills", "expected"),
    [
        (Status(wait=9), 1, True),
        (Status(wait=9), 0, False),
        (Status(wait=0), 1, False),
        (Status(wait=256), 1, False),
        (None, 1, True),
        (None, 0, False),
        (Status(exec_error=2), 1, False),
    ],
)
def test_memory_ended_it_only_if_the_kernel_killed_the_command(
    tmp_path: Path, status: Status | None, kills: int, expected: bool
) -> None:
    group, _ = group_v2(tmp_path)
    assert GroupMeter(group, Limits()).ended_by_memory(status, Totals(oom_kills=kills)) is expected


def test_kills_after_the_main_process_ended_are_not_counted(tmp_path: Path) -> None:
    group, place = group_v2(tmp_path)
    meter = GroupMeter(group, Limits())
    (place / "memory.events").write_text("oom_kill 2\n")
    assert meter.totals(None).oom_kills == 2
    meter.main_ended()
    (place / "memory.events").write_text("oom_kill 5\n")
    assert meter.totals(None).oom_kills == 2


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status(wait=256, max_rss=31 << 20), True),
        (Status(wait=0, max_rss=31 << 20), False),
        (Status(wait=256, max_rss=29 << 20), False),
        (None, False),
    ],
)
def test_a_watcher_takes_the_kernels_word_for_a_peak(tmp_path: Path, status: Status | None, expected: bool) -> None:
    place = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        meter = WatchMeter(Watcher(place, []), Limits(memory=20 << 20, disk=10 << 20))
        assert meter.ended_by_memory(status, Totals()) is expected
    finally:
        os.close(place)
