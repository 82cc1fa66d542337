"""Where hostile hand-ins are graded: an engine on one sandbox, and the eyes that look for what they leave."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from minitango import Assignment, Engine, JobHandle, Submission
from minitango.sandbox import Sandbox
from minitango.sandbox._docker_owner import HOME, OWNER
from minitango.sandbox.bubblewrap import BubblewrapSandbox
from minitango.sandbox.docker import DockerSandbox
from tests import docker_engine, docker_images
from tests.support import PATIENCE

WALL: dict[bool, float] = {True: 1.0, False: 30.0}
"""Seconds that a step has, of a program that is to be ended by that, and of one that is not."""
MEMORY, DISK, PIDS, OUTPUT = 64 << 20, 8 << 20, 24, 128 << 10
TOML = """
name = "{name}"
max_score = 10
format = "gradescope"
[submission]
path = "answer.py"
[[step]]
name = "run"
command = ["python3", "answer.py"]
collect = ["out/"]
limits = {{ wall = "{wall}s", memory = {memory}, disk = {disk}, pids = {pids}, output = {output}, cpus = 1.0 }}
env = {{ MARK = "{mark}" }}
[[step]]
name = "grade"
command = ["python3", "-I", "grade.py"]
submission = false
files = ["grade/"]
limits = {{ wall = "30s", memory = {memory}, disk = {disk} }}
"""
GRADE = """
import json, os, pathlib
right = pathlib.Path("expected.txt").read_text()
try: answer = pathlib.Path(os.environ["MINITANGO_COLLECTED"], "run/out/answer.txt").read_text(errors="replace")
except OSError: answer = ""
report = {"score": 10 if answer == right[-7:] else 0, "output": answer[:100]}
pathlib.Path(os.environ["MINITANGO_REPORT"]).write_text(json.dumps(report))
"""
BESIDE = """
name = "beside"
max_score = 10
format = "exit-code"
[submission]
path = "answer.py"
[[step]]
command = ["python3", "answer.py"]
limits = {{ wall = "30s", memory = {memory}, disk = {disk} }}
env = {{ MARK = "{mark}" }}
"""
NEIGHBOUR = """
import os, sys, time
code = compile("sum(range(1000))", "x", "eval")
ends = time.monotonic() + 0.1
while time.monotonic() < ends: eval(code)
with open("/tmp/mine", "x") as file: file.write("mine")
assert os.listdir("/tmp") == ["mine"] and not os.listdir("/dev/shm"), "somebody else was here"
print(sum(range(1000)))
"""
"""Ends well where nothing of anybody else's is in its way, and prints 499500."""


def bubblewrap(state: str) -> Sandbox:
    return BubblewrapSandbox(state=state)


def docker(state: str) -> Sandbox:
    return DockerSandbox(state, url=docker_engine.need_docker(), image=docker_images.python_image())


KINDS: dict[str, Callable[[str], Sandbox]] = {"bubblewrap": bubblewrap, "docker": docker}


class Place:
    """An engine with its assignments, and secrets all around it. SandboxUnavailable where there is no such sandbox."""

    def __init__(self, kind: str, folder: Path, stack: contextlib.ExitStack, *, output: int = OUTPUT) -> None:
        self.kind = kind
        self._output = output
        self.folder = folder
        self.secret = f"hostile-secret-{secrets.token_hex(8)}"
        """Is in the engine's memory, among the tests, and in a file that all may read."""
        self.mark = f"mark-{secrets.token_hex(8)}"
        """Is in the environment of whatever a job starts."""
        self.sandbox = KINDS[kind](str(folder / "sandbox"))
        stack.callback(self.sandbox.close)
        self.sandbox.probe()
        (folder / "secret").write_text(self.secret)
        (folder / "secret").chmod(0o644)
        self._listener = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
        self.port = self._listener.getsockname()[1]
        named = stack.enter_context(socket.socket(socket.AF_UNIX))
        named.bind(f"\0minitango-hostile-{self.port}")
        named.listen()
        self._assignments = {quick: self._assignment(quick) for quick in WALL}
        (folder / "beside").mkdir()
        (folder / "beside/assignment.toml").write_text(BESIDE.format(memory=MEMORY, disk=DISK, mark=self.mark))
        self._beside = Assignment.load(folder / "beside")
        self.engine = stack.enter_context(Engine.open(folder / "state", sandbox=self.sandbox, workers=2))

    def _assignment(self, quick: bool) -> Assignment:
        folder = self.folder / f"assignment-{quick}"
        (folder / "grade").mkdir(parents=True)
        (folder / "grade/grade.py").write_text(GRADE)
        (folder / "grade/expected.txt").write_text(f"{self.secret} eleven!")
        values = {"memory": MEMORY, "disk": DISK, "pids": PIDS, "output": self._output, "mark": self.mark}
        text = TOML.format(name=f"hostile-{quick}".lower(), wall=WALL[quick], **values)
        (folder / "assignment.toml").write_text(text)
        return Assignment.load(folder)

    def submit(self, student: str, code: str, *, quick: bool = False) -> JobHandle:
        code = code.replace("HOST-PORT", f"{own_address()}:{self.port}")
        return self.engine.submit(
            Submission(self._assignments[quick], student=student, files={"answer.py": code.encode()})
        )

    def submit_neighbour(self, student: str) -> JobHandle:
        """An honest hand-in, graded in one step."""
        return self.engine.submit(Submission(self._beside, student=student, files={"answer.py": NEIGHBOUR.encode()}))

    # --- what is left ---------------------------------------------------------------------------------

    def survivors(self) -> list[str]:
        """Processes on this machine that a job of ours started."""
        return list(having(self.mark.encode()))

    def boxes(self) -> list[str]:
        """Files, control groups and containers of boxes."""
        if isinstance(self.sandbox, BubblewrapSandbox):
            setting = self.sandbox._set_up()
            home = setting.registry.home
            records = [str(path) for path in home.iterdir() if path.name not in ("lock", "staging")]
            groups = setting.groups.paths("minitango-x") if setting.groups is not None else ()
            left = [child for path in groups for child in Path(path).parent.glob(f"*{home.name}*")]
            return [*records, *map(str, left), *(str(path) for path in home.glob("staging/minitango-*"))]
        with docker_engine.client(docker_engine.url()) as client:
            found = client.api.containers(all=True, filters={"label": OWNER})
        return [one["Names"][0] for one in found if one["Labels"].get(HOME, "").startswith(str(self.folder))]

    def wait_until_clean(self) -> None:
        """Nothing of a box is left; what removes itself may take a moment."""
        deadline = time.monotonic() + PATIENCE
        while left := self.boxes():
            assert time.monotonic() < deadline, left
            time.sleep(0.01)
        assert str(self.folder) not in Path("/proc/self/mountinfo").read_text()
        assert list((self.folder / "state/live").iterdir()) == []
        assert self.sandbox.orphans() == 0


def own_address() -> str:
    """An address of this machine that is not loopback, where it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(s.getsockname()[0])


def having(word: bytes) -> Iterator[str]:
    """Processes with this in their environment."""
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                if word in (place / "environ").read_bytes():
                    yield (place / "cmdline").read_bytes().decode(errors="replace")
