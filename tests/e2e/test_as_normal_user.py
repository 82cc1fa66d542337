"""The hostile classes, graded by somebody who is not root: what holds them then is not what holds them for root.

Run by root, the command line is started once more as a uid that owns nothing, from copies that it may read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from minitango.errors import SandboxUnavailable
from minitango.sandbox._setting import find_bwrap
from tests.e2e.conftest import PATIENCE, ROOT, eventually

UID = 12345
PACKAGES = ("msgspec", "filelock", "click", "rich", "markdown_it", "mdurl", "pygments")
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

TOML = """
name = "hostile"
format = "exit-code"
max_score = 10
[submission]
path = "answer.py"
[[step]]
command = ["python3", "-I", "-S", "answer.py"]
limits = { wall = "3s", memory = "48MiB", pids = 24, output = "64KiB", disk = "8MiB" }
"""

GOOD = "open('kept', 'wb').write(b'x' * 1_000_000); print('fine')"

HOSTILE = {
    "loop": "while True: pass",
    "fork bomb": """
        import os
        while True:
            try: os.fork()
            except OSError: pass
    """,
    "memory bomb": """
        kept = []
        while True:
            try: kept.append(b"x" * 1_000_000)
            except MemoryError: pass
    """,
    "output flood": "while True: print('more ' * 1000)",
    "disk fill": """
        with open("big", "wb", buffering=0) as big:
            while True: big.write(b"x" * 65536)
    """,
}


class Somebody:
    """Starts programs as a normal user, in a folder of that user's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = sys.executable
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}
        self.identity: dict[str, Any] = {}

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            **self.identity,
        )

    def become_unprivileged(self) -> None:
        """From root: another uid, and copies of all that it must read. Skips where there is no interpreter for it."""
        self.identity = {"user": UID, "group": UID, "extra_groups": []}
        self.environment["PATH"] = PATH
        library = self.folder / "library"
        library.mkdir()
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "minitango", library / "minitango", ignore=ignored)
        for name in PACKAGES:
            spec = importlib.util.find_spec(name)
            assert spec is not None, name
            for place in spec.submodule_search_locations or ():
                shutil.copytree(place, library / name, ignore=ignored)
        if shutil.which("bwrap", path=PATH) is None:  # the wheel's then, or one that only root has
            with contextlib.suppress(SandboxUnavailable):
                (library / "bin").mkdir()
                shutil.copy(find_bwrap(), library / "bin" / "bwrap")
                self.environment["PATH"] += f":{library / 'bin'}"
        subprocess.run(["chmod", "-R", "a+rX,go-w", self.folder], check=True)
        self.environment["PYTHONPATH"] = str(library)
        os.chown(self.folder, UID, UID)
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        candidates = [os.path.realpath(sys.executable), f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"]
        check = f"import sys, {', '.join(PACKAGES)}; print('%d.%d' % sys.version_info[:2])"
        said = []
        for candidate in candidates:
            try:
                answer = self.run([candidate, "-c", check])
            except OSError as error:
                said.append(f"{candidate}: {error.strerror}")
                continue
            if answer.stdout.strip() == version:
                self.python = candidate
                return
            said.append(f"{candidate}: {answer.stderr[-200:]}")
        pytest.skip(f"no Python {version} that uid {UID} can run: {'; '.join(said)}")


@pytest.fixture
def somebody() -> Iterator[Somebody]:
    folder = Path(tempfile.mkdtemp(prefix="minitango-user-"))  # not pytest's, which is closed to others
    try:
        folder.chmod(0o755)
        made = Somebody(folder)
        if os.geteuid() == 0:
            made.become_unprivileged()
        need_user_namespaces(made)
        yield made
    finally:
        shutil.rmtree(folder)


def need_user_namespaces(somebody: Somebody) -> None:
    """Ask bwrap itself, not minitango: where it works, minitango has no excuse."""
    bwrap = shutil.which("bwrap", path=somebody.environment["PATH"])
    if bwrap is None and not somebody.identity:
        with contextlib.suppress(SandboxUnavailable):
            bwrap = find_bwrap()
    if bwrap is None:
        reason = "bubblewrap is not installed"
    else:
        tried = somebody.run([bwrap, "--unshare-all", "--ro-bind", "/", "/", "true"])
        if not tried.returncode:
            return
        reason = f"a normal user may not have namespaces here: {tried.stderr.strip()}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def processes_of(uid: int) -> list[str]:
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                if place.stat().st_uid == uid:
                    found.append((place / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


def test_hostile_hand_ins_end_at_their_limit_and_the_next_is_unaffected(somebody: Somebody) -> None:
    (somebody.folder / "hw").mkdir()
    (somebody.folder / "hw" / "assignment.toml").write_text(TOML)
    handins = somebody.folder / "handins"
    handins.mkdir()
    programs = {}
    for number, (name, program) in enumerate(HOSTILE.items()):  # after each, one that is good
        programs[f"{number}a {name}"] = program
        programs[f"{number}b good"] = GOOD
    for name, program in programs.items():
        (handins / f"{name}.py").write_text(textwrap.dedent(program))
    subprocess.run(["chmod", "-R", "a+rX", somebody.folder], check=True)

    command = [somebody.python, "-P", "-m", "minitango.cli", "run", "hw", "handins"]
    # without a try of some that come later
    answer = somebody.run([*command, "--sandbox", "bubblewrap", "--workers", "1", "--no-preflight", "--json"])
    assert answer.returncode == 0, answer.stderr
    jobs = {job["student"]: job for job in json.loads(answer.stdout)["jobs"]}
    assert sorted(jobs) == sorted(programs)
    in_order = sorted(jobs.values(), key=lambda job: job["started"])
    assert [job["student"] for job in in_order] == sorted(programs), "each good one right after a hostile one"

    ends = {name.split(" ", 1)[1]: job for name, job in jobs.items() if not name.endswith("good")}
    assert ends["loop"]["outcome"] == "time_limit"
    assert ends["fork bomb"]["outcome"] == "time_limit"
    assert ends["memory bomb"]["outcome"] == "memory_limit"
    assert ends["output flood"]["outcome"] == "output_limit"
    assert (ends["disk fill"]["outcome"], ends["disk fill"]["score"]) == ("graded", 0)
    assert "disk_full" in [warning["id"] for warning in ends["disk fill"]["warnings"]]
    for name, job in jobs.items():
        assert (job["state"], job["attempts"], job["failures"]) == ("done", 1, 0), name
        if name.endswith("good"):
            assert (job["outcome"], job["score"], job["warnings"]) == ("graded", 10, []), name
    if os.geteuid() == 0:
        eventually(lambda: not processes_of(UID), "processes are left")
