"""Every class of hostile hand-in, on each sandbox, with an honest one that is graded beside it.

Each ends within its limits and with the outcome that it must have, gets nothing that it must not, earns nothing,
leaves nothing behind, and does its neighbour no harm. What attacks the engine's own edges instead is with those:
archives in `test_archive.py`, reports in `test_results*.py`, addresses of callbacks in `test_callback_url.py`, what is
kept in Redis in `test_store_redis.py`, ids in `contract/test_store.py`, what is shown in `test_text.py`.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minitango import JobHandle, Outcome, Result, SandboxUnavailable
from tests.docker_engine import url
from tests.hostile.place import DISK, KINDS, MEMORY, OUTPUT, WALL, Place
from tests.hostile.programs import PROGRAMS, Program
from tests.support import eventually

LATE = 2.0
"""Seconds after its limit within which a step has ended."""
END = 60.0


@pytest.fixture(scope="module", params=list(KINDS))
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        try:
            made = Place(request.param, tmp_path_factory.mktemp("hostile"), stack)
        except SandboxUnavailable as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"{request.param}: {error} (try: {error.hint})")
        patch.setenv("MINITANGO_SECRET", made.secret)
        yield made


def printed(handle: JobHandle) -> str:
    """What the program of this job printed, as far as it is kept."""
    return "".join((one.head + one.tail).decode(errors="replace") for one in handle.outputs()[:1])


def check_neighbour(handle: JobHandle) -> None:
    result = handle.result(END)
    assert (result.outcome, result.score, printed(handle)) == (Outcome.GRADED, 10, "499500\n"), result


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_it_is_contained(place: Place, program: Program) -> None:
    began = time.monotonic()
    hostile = place.submit(program.name, program.code, quick=program.quick)
    neighbour = place.submit_neighbour(f"beside-{program.name}")
    result = hostile.result(END)
    took = time.monotonic() - began
    text = printed(hostile)

    assert "GOT" not in text
    assert place.secret not in text
    assert result.outcome in program.outcomes, (result, text)
    assert not result.score
    for pattern in program.says if result.outcome == program.outcomes[0] else ():
        assert re.search(rf"^.*{pattern}", text, re.MULTILINE), text
    check_bounds(program, result, took)
    assert set(program.refuses) <= {path.removeprefix("out/") for path, _ in result.steps[0].refused} | {""}
    assert all(path.isprintable() and reason.isprintable() for path, reason in result.steps[0].refused)
    assert len(str(result.steps[0].refused)) < 100_000

    check_neighbour(neighbour)
    eventually(lambda: not place.survivors(), f"they live: {place.survivors()}")
    place.wait_until_clean()


def check_bounds(program: Program, result: Result, took: float) -> None:
    step = result.steps[0]
    assert step.usage.wall < WALL[program.quick] + LATE
    assert took < step.usage.wall + END / 2  # the rest is two boxes, of which the second may wait for a seat
    if result.outcome is Outcome.TIME_LIMIT:
        assert step.usage.cpu is None or step.usage.cpu < WALL[True] * 1.5 + LATE, "a share of one core"
    assert step.output_bytes <= OUTPUT + (64 << 10) or result.outcome is Outcome.OUTPUT_LIMIT
    assert step.output_bytes <= OUTPUT + (1 << 20)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_what_sockets_hold_is_the_jobs_memory(place: Place, kind: str) -> None:
    """Which the kernel counts apart, and on some machines nowhere."""
    if place.kind == "docker" and not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("an engine on cgroup v1 counts nothing of it")
    if place.kind == "bubblewrap" and place.sandbox.probe().memory != "cgroup":
        pytest.skip("no control group")
    handle = place.submit(f"sockets-{kind}", SOCKETS.replace("KIND", kind))
    result = handle.result(END)
    if result.outcome is Outcome.MEMORY_LIMIT:
        return
    assert result.outcome is Outcome.GRADED, printed(handle)
    held = int(re.findall(r"held (\d+)", printed(handle))[-1])
    assert 0 < held <= 2 * (MEMORY + DISK), "the kernel leaves each socket a little, whatever the limit says"


SOCKETS = """
import socket
pairs = []
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(900 if "KIND" == "udp" else 450):
    if "KIND" == "udp":
        a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind(("127.0.0.1", 0))
        one.connect(a.getsockname()); b = one
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            b = socket.create_connection(server.getsockname()); a = server.accept()[0]
    a.setblocking(False); b.setblocking(False); pairs.append((a, b))
    try:
        for turn in range(8 if b is one else 30): b.send(b"x" * 50000)
    except OSError: pass
held = 0
for a, b in pairs:
    try:
        while data := a.recv(1 << 20): held += len(data)
    except OSError: pass
print("held", held)
"""


# --- the engine's own memory ---------------------------------------------------------------------------------

MOST = 32 << 20
FLOOD = 40 << 20
"""Bytes: were they all kept, it would show."""
OWN = """
import contextlib, pathlib, sys
from tests.hostile.place import Place
from tests.hostile.test_hostile import FLOOD
def status(name):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(name))
with contextlib.ExitStack() as stack:
    place = Place(sys.argv[1], pathlib.Path(sys.argv[2]), stack, output=FLOOD)
    for n in range(3): place.submit(f"warm{n}", "print('end')").result(60)
    for number, code in enumerate(sys.argv[3:]):
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        result = place.submit(f"flood{number}", code).result(60)
        print(number, result.outcome.value, result.steps[0].output_bytes, status("VmHWM") - before)
"""
FLOODS = {
    "output": "import os\nwhile True: os.write(1, b'A' * 65536); os.write(2, b'x\\n' * 32768)",
    "files": "import os\nos.mkdir('out')\nfor n in range(5000): open('out/' + 'f' * 200 + str(n), 'w').close()",
    "folders": "import os\nos.mkdir('out')\nfor n in range(2000): os.mkdir('out/' + 'd' * 200 + str(n))",
    "answer": "import os\nos.mkdir('out')\nopen('out/answer.txt', 'w').write('x' * (7 << 20))",
}


def test_a_flood_does_not_swell_the_engine(tmp_path: Path, place: Place) -> None:
    command = [sys.executable, "-P", "-c", OWN, place.kind, str(tmp_path / "own"), *FLOODS.values()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "DOCKER_HOST": url()}
    (tmp_path / "own").mkdir()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert (lines[0][1], int(lines[0][2]) > FLOOD) == ("output_limit", True)
    assert len(lines) == len(FLOODS)
    for name, line in zip(FLOODS, lines, strict=True):
        assert int(line[3]) < MOST, name
