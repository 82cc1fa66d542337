"""Whatever comes on its stdin, the supervisor answers `!` or leaves in good order: it never hangs and never crashes.

The long form (MINITANGO_LONG=1) does the same to a build with gcc's address and undefined behaviour sanitizers.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import supervised as sup
from tests.supervised import (
    Line,
    calling,
    frame,
    get_frame,
    list_frame,
    look_frame,
    put_file,
    put_tree,
    run,
)
from tests.support import need_bubblewrap

QUIET = 0.15
"""Seconds without a word after which the rest is said."""

CALLER = """
import os, socket, sys, threading
kept = []
def call(what):
    s = socket.socket(socket.AF_UNIX)
    s.connect("/calls/socket")
    kept.append(s)
    if what == "echo":
        while piece := s.recv(9999): s.sendall(piece)
        s.shutdown(socket.SHUT_WR)
    if what == "flood": s.sendall(bytes(1 << 20))
    if what == "deaf": s.recv(1)
    if what == "close": s.close()
threads = [threading.Thread(target=call, args=(what,), daemon=True) for what in sys.argv[1].split()]
for thread in threads: thread.start()
for thread in threads: thread.join(0.3)
os._exit(0)
"""

CALLS = ["echo", "echo flood close", "flood flood deaf", "close " * 20, "deaf " * 17]

COMMANDS = [
    "echo hello; echo x >f; mkdir -p d/e; ln -s f l; mkfifo p",
    "exit 3",
    "yes | head -c 200000",
    "sleep 9 & yes",
]

numbers = st.integers(0, (1 << 64) - 1) | st.sampled_from([0, 1, 2, 255, 65535, 65536, (1 << 32) - 1, (1 << 63)])
names = st.sampled_from(["f", "d", "d/e", "l", "p", "l/x", "..", "", "f/../f", "/etc/passwd", "d//e", "\0", "n" * 300])
mounts = st.sampled_from([0, 0, 0, 1, 2, 65535])
bodies = st.binary(max_size=200)

putting = st.one_of(
    st.builds(put_file, names, bodies, mount=mounts, executable=st.integers(0, 2), piece=st.integers(1, 200)),
    st.builds(put_tree, st.sampled_from(["/usr/share/perl-openssl-defaults", "/job", "/", "/nothing", "usr"]), mounts),
    st.just(frame("Y")),
    st.just(frame("K")),
)
running = st.builds(
    lambda script, wall, cpu, output, limits: run(
        "sh", "-c", script, wall=wall / 1e6, cpu=cpu / 1e6, output=output, limits=limits
    ),
    st.sampled_from(COMMANDS),
    st.integers(0, 3_000_000),
    st.integers(0, 500_000),
    numbers,
    st.lists(st.tuples(st.sampled_from([0, 1, 2, 4, 7, 13, 99, (1 << 32) - 1]), numbers), max_size=3),
)
callers = st.builds(
    lambda what, wall: run("python3", "-I", "-S", "-c", CALLER, what, wall=wall / 1e6),
    st.sampled_from(CALLS),
    st.integers(100_000, 3_000_000),
)
channel_numbers = st.sampled_from([1, 1, 1, 2, 2, 3, 17, 0, (1 << 32) - 1])
talking = st.builds(
    lambda kind, number, body: frame(kind, struct.pack("!I", number) + body),
    st.sampled_from("CCCFXW"),
    channel_numbers,
    st.sampled_from([b"", b"", b"x", b"\0\0\0\1", b"\0\2\0\0", bytes(9000)]) | bodies,
)
asking = st.one_of(
    st.builds(list_frame, names, st.integers(0, (1 << 32) - 1), mounts),
    st.builds(look_frame, names, mounts),
    st.builds(get_frame, names, numbers, mounts),
    st.sampled_from([frame("K"), frame("Q"), frame("Y")]),
)
anything = st.one_of(
    bodies, st.builds(frame, st.sampled_from("PDBYRKLSGQCFXWhxac!\0\xff"), bodies), putting, running, asking, talking
)


class Said(bytes):
    """Shown short, where it is long and much of one byte."""

    def __repr__(self) -> str:
        runs = (f"{byte!r}*{len(list(same))}" for byte, same in itertools.groupby(self))
        return super().__repr__() if len(self) < 1000 else f"<{' '.join(runs)}>"


@st.composite
def damaged(draw: st.DrawFn, given_: st.SearchStrategy[bytes]) -> bytes:
    """Frames in order, of which some bytes are changed, left out or put in; or as they are."""
    data = bytearray(b"".join(draw(st.lists(given_, max_size=5))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2, 5]))):
        at = draw(st.integers(0, len(data)))
        what = draw(st.sampled_from(["change", "cut", "insert", "drop", "repeat"]))
        if what == "change" and at < len(data):
            data[at] = draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))
        elif what == "cut":
            del data[at:]
        elif what == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif what == "drop":
            del data[at : at + draw(st.integers(1, 8))]
        elif what == "repeat":
            data[at:at] = data[max(0, at - draw(st.integers(1, 64))) : at]
    return Said(data)


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[str, bytes]]:
    """What is said, each after a frame of this kind was heard, or silence: up to the run, in it, and after it."""
    if draw(st.integers(0, 9)) == 0:
        return [(kind, draw(damaged(anything))) for kind in ("h", "x", "")]
    kind = draw(st.sampled_from(["running", "damaged", "calling", "calling"]))
    command = draw({"running": running, "damaged": damaged(running), "calling": callers}[kind])
    said = [("h", Said(draw(damaged(putting)) + command))]
    if kind == "calling":
        said += [("a", draw(damaged(talking))) for _ in range(draw(st.integers(0, 3)))]
    return [*said, ("x", draw(damaged(asking))), ("", b"")]


def converse(command: list[str], said: list[tuple[str, bytes]]) -> None:
    with Line(command) as line:
        line.hello()
        pid1 = line.pid1()
        heard = "h"
        with contextlib.suppress(BrokenPipeError):
            for after, data in said:
                if after != "h" and heard not in ("!", after or "x"):
                    heard = read(line, until=after)
                if heard == "!":
                    break
                line.say(data)
                heard = ""
        line.stdin.close()
        status = line.status()  # by the way, everything that it said is made of frames
        assert status in (0, 3), f"it left with {status}"
        assert not os.path.exists(f"/proc/{pid1}"), "with pid 1 the whole namespace is gone"


def read(line: Line, until: str) -> str:
    """The kind of the last frame before there is silence, the end, or a frame of this kind."""
    kind = ""
    while line.speaks(QUIET) and (got := line.frame_or_end()) is not None:
        kind = got[0]
        if kind == until:
            break
    return kind


FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@given(conversations())
@settings(FUZZ, max_examples=40)
def test_whatever_it_hears_it_answers_or_leaves(said: list[tuple[str, bytes]]) -> None:
    need_bubblewrap()
    converse(calling("unprivileged"), said)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    binary = tmp_path_factory.mktemp("sanitized") / "supervise"
    binary.parent.chmod(0o755)
    flags = ["-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    done = subprocess.run(
        ["gcc", *flags, *sorted(str(path) for path in sup.HOME.glob("*.c")), "-o", str(binary)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find" in done.stderr:
        pytest.skip("gcc has no sanitizers here (try: apt-get install libasan8 libubsan1)")
    assert done.returncode == 0, done.stderr
    return binary


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("MINITANGO_LONG"), reason="the long form runs with MINITANGO_LONG=1")
@pytest.mark.timeout(1800)
@given(conversations())
@settings(FUZZ, max_examples=1500)
def test_the_same_with_sanitizers(sanitized: Path, said: list[tuple[str, bytes]]) -> None:
    need_bubblewrap()
    converse(calling("unprivileged", binary=sanitized), said)
