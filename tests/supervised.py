"""The supervisor started as pid 1, and its frames, read and written by the letter of PROTOCOL.md.

A second reading of the paper, on purpose: nothing here comes from the engine's own end.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import select
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pytest

from tests.support import PATIENCE

HOME = Path(__file__).parent.parent / "minitango" / "sandbox" / "supervisor"
NATIVE = HOME / f"supervise-{platform.machine()}"
UID, GID = 12400 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), 23456
"""Who the job is where the supervisor is root: nobody that this machine knows, and no other test that runs at the same
time, as the system counts a user's processes wherever they are."""
JOB, GIVEN = 0, 1
"""Mounts: one that the job may write, one that it may read."""
MILLION = 1_000_000
NONE = (1 << 64) - 1

Frame = tuple[str, bytes]


class Hello(NamedTuple):
    version: int
    facts: int
    memory: int
    pids: int
    millicores: int
    capabilities: int


class End(NamedTuple):
    how: int
    what: int
    number: int
    wall: int
    cpu: int
    peak: int
    largest: int
    output: int
    oom_kills: int
    fork_refused: int
    full: int
    said: bytes
    """All that came as output."""


class Entry(NamedTuple):
    type: str
    executable: int
    size: int
    allocated: int
    links: int


ENDED, WALL, CPU, OUTPUT, KILLED = range(5)
STATUS, EXEC, FORK, BECOME, NEVER = range(5)


def frame(kind: str, body: bytes = b"") -> bytes:
    return kind.encode("latin-1") + struct.pack("!I", len(body)) + body


def put_file(path: str, data: bytes, *, mount: int = JOB, executable: int = 0, piece: int = 65536) -> bytes:
    made = frame("P", struct.pack("!HBQ", mount, executable, len(data)) + path.encode())
    return made + b"".join(frame("D", data[at : at + piece]) for at in range(0, len(data), piece))


def put_tree(directory: str, mount: int = JOB) -> bytes:
    return frame("B", struct.pack("!H", mount) + directory.encode())


def run(
    *command: str | bytes,
    env: Sequence[str] = (f"PATH={os.defpath}:/usr/sbin:/sbin",),
    mount: int = JOB,
    wall: float = PATIENCE,
    cpu: float = 0,
    output: int = 1 << 20,
    limits: Sequence[tuple[int, int]] = (),
    filter: Sequence[tuple[int, int, int, int]] = (),
) -> bytes:
    body = struct.pack("!HQQQH", mount, int(wall * MILLION), int(cpu * MILLION), output, len(limits))
    body += b"".join(struct.pack("!IQ", *limit) for limit in limits)
    body += struct.pack("!H", len(filter)) + b"".join(struct.pack("!HBBI", *one) for one in filter)
    return frame("R", body + words(command) + words(env))


def words(given: Sequence[str | bytes]) -> bytes:
    encoded = [word.encode() if isinstance(word, str) else word for word in given]
    return struct.pack("!I", len(encoded)) + b"".join(struct.pack("!I", len(word)) + word for word in encoded)


def list_frame(path: str = "", most: int = 1000, mount: int = JOB) -> bytes:
    return frame("L", struct.pack("!HI", mount, most) + path.encode())


def look_frame(path: str, mount: int = JOB) -> bytes:
    return frame("S", struct.pack("!H", mount) + path.encode())


def get_frame(path: str, most: int = 1 << 20, mount: int = JOB) -> bytes:
    return frame("G", struct.pack("!HQ", mount, most) + path.encode())


class Line:
    """One supervisor, from its start to its death. `process` is what was started; pid 1 is below it, or itself."""

    def __init__(self, command: Sequence[str], *, fds: Sequence[int] = (), container: str = "") -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, pass_fds=fds, start_new_session=True
        )
        self._container = container
        self.calls_at = ""
        """Where the socket is, for the job."""
        self.kept: list[Frame] = []
        """Frames that came before one that was waited for."""
        self._held = b""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def hello(self) -> Hello:
        kind, body = self.frame()
        assert kind == "h", (kind, body)
        return Hello(*struct.unpack("!HIQQQQ", body))

    # --- saying -----------------------------------------------------------------------------------

    def say(self, *frames: bytes) -> None:
        """Write all of it; it must be taken."""
        data = memoryview(b"".join(frames))
        deadline = time.monotonic() + PATIENCE
        os.set_blocking(self.stdin.fileno(), False)
        while data:
            assert select.select([], [self.stdin], [], max(0.0, deadline - time.monotonic()))[1], "nobody reads"
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self.stdin.fileno(), data) :]

    # --- hearing ----------------------------------------------------------------------------------

    def frame_or_end(self) -> Frame | None:
        """The next frame; None at the end of the stream. What is no frame by the paper fails the test."""
        while len(self._held) < 5 or len(self._held) < 5 + self._length():
            more = self.read()
            if not more:
                assert not self._held, f"the stream ends in mid-frame: {self._held[:80]!r}"
                return None
            self._held += more
        end = 5 + self._length()
        kind, body, self._held = chr(self._held[0]), self._held[5:end], self._held[end:]
        assert kind in "hyobxldeacfgw!", kind
        return kind, body

    def _length(self) -> int:
        length = int.from_bytes(self._held[1:5], "big")
        assert length <= 65536
        return length

    def read(self) -> bytes:
        assert select.select([self.stdout], [], [], PATIENCE)[0], "nothing comes"
        return os.read(self.stdout.fileno(), 1 << 16)

    def speaks(self, within: float) -> bool:
        """Whether more comes in these seconds, be it the end."""
        return bool(self._held) or bool(select.select([self.stdout], [], [], within)[0])

    def frame(self) -> Frame:
        got = self.frame_or_end()
        assert got is not None, f"it left with {self.process.wait(PATIENCE)}"
        return got

    def hear(self, kind: str) -> bytes:
        got = self.frame()
        assert got[0] == kind, got
        return got[1]

    def problem(self) -> tuple[int, int, str]:
        """What is answered to `Y`."""
        self.say(frame("Y"))
        body = self.hear("y")
        return *struct.unpack("!IH", body[:6]), body[6:].decode()

    def output(self, until: bytes, said: bytes = b"") -> bytes:
        """Output of the job up to where these bytes have come."""
        while until not in said:
            kind, body = self.frame()
            assert kind in "ob", (kind, body, said)
            said += body
        return said

    def end(self, said: bytes = b"") -> End:
        while True:
            kind, body = self.frame()
            if kind == "x":
                return End._make((*struct.unpack("!BBIQQQQQIBB", body), said))
            assert kind in "ob", (kind, body)
            assert kind == "o" or not body
            said += body

    def run(self, *command: str | bytes, **more: Any) -> End:
        self.say(run(*command, **more))
        return self.end()

    def sh(self, script: str, **more: Any) -> End:
        return self.run("sh", "-c", script, **more)

    def answer(self, asked: bytes) -> tuple[int, int, dict[str, Entry], bytes]:
        """errno, more, entries, bytes."""
        self.say(asked)
        entries: dict[str, Entry] = {}
        data = b""
        while True:
            kind, body = self.frame()
            if kind == "e":
                return *struct.unpack("!IB", body), entries, data
            if kind == "d":
                data += body
                continue
            assert kind == "l", (kind, body)
            while body:
                type_, executable, size, allocated, links, length = struct.unpack("!cBQQIH", body[:24])
                name, body = body[24 : 24 + length], body[24 + length :]
                assert len(name) == length > 0
                assert name.decode() not in entries
                entries[name.decode()] = Entry(type_.decode(), executable, size, allocated, links)

    # --- its end ----------------------------------------------------------------------------------

    def pid1(self) -> int:
        """Pid 1 of the namespace, as this machine numbers it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for pid in children(self.process.pid):
                if re.search(r"^NSpid:.*\t1$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE):
                    return pid
        raise AssertionError("there is no pid 1")

    def status(self) -> int:
        """How it left, of itself."""
        while self.frame_or_end() is not None:
            pass
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        for stream in (self.stdin, self.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self._container:
            subprocess.run(["docker", "rm", "-f", self._container], capture_output=True, check=False)
        self.process.wait(PATIENCE)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> set[int]:
    """All that live below this process, zombies too: below a pid 1, all of its namespace."""
    found: set[int] = set()
    todo = [pid]
    while todo:
        with contextlib.suppress(OSError):
            below = children(todo.pop())
            found.update(below)
            todo += below
    return found


# --- places ------------------------------------------------------------------------------------------


def in_bubblewrap(
    *arguments: str,
    binary: Path = NATIVE,
    before: Sequence[str] = (),
    setup: Sequence[str] = (),
    job: Sequence[str] = ("--size", str(4 << 20), "--tmpfs", "/job"),
) -> list[str]:
    """As an unprivileged user that the job shares; for any user of this machine."""
    system = [
        word
        for name in ("bin", "sbin", "lib", "lib64", "lib32")
        if os.path.islink(f"/{name}")
        for word in ("--symlink", os.readlink(f"/{name}"), f"/{name}")
    ]
    real = [
        word
        for name in ("bin", "sbin", "lib", "lib64")
        if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")
        for word in ("--ro-bind", f"/{name}", f"/{name}")
    ]
    return [
        *("bwrap", "--unshare-all", "--die-with-parent", "--as-pid-1", "--uid", "1000", "--gid", "1000"),
        *("--ro-bind", "/usr", "/usr", *system, *real, "--proc", "/proc", "--dev", "/dev", *job, "--tmpfs", "/given"),
        *("--ro-bind", str(binary), "/supervise", *setup, *before, "/supervise"),
        *(arguments or ("1000", "1000", "60", "w:/job", "r:/given")),
    ]


def as_root(
    *,
    capabilities: str = "setuid,setgid,kill",
    wrap: Sequence[str] = (),
    mounts: Sequence[str] = ("w:/mnt/job", "r:/mnt/given"),
) -> list[str]:
    """As root with a container's three capabilities, and the job as another user; where the tests are root.

    The mounts are in a mount namespace of its own, so nothing of them shows outside.
    """
    kept = "".join(f",+{name}" for name in capabilities.split(","))
    script = (
        "mount -t tmpfs -o mode=755 none /mnt && mkdir /mnt/job /mnt/given /mnt/calls && "
        f"mount -t tmpfs -o size=4m,mode=700,uid={UID},gid={GID} none /mnt/job && "
        f'exec setpriv --inh-caps=-all --bounding-set=-all{kept} --no-new-privs "$@"'
    )
    return [
        *("unshare", "--pid", "--mount-proc", "--net", "--ipc", "--fork", "--kill-child=KILL"),
        *("sh", "-c", script, "sh", *wrap, str(NATIVE), str(UID), str(GID), "60", *mounts),
    ]


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give the job a user of its own (try: sudo bin/test, or the tests with Docker)")
    for tool in ("unshare", "setpriv"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (it comes with util-linux)")


def qemu() -> str:
    """What runs the other architecture's binary; skips where it is not installed."""
    name = "qemu-aarch64-static" if platform.machine() == "x86_64" else "qemu-x86_64-static"
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (try: apt-get install qemu-user-static)")
    return found


CALLS = {"unprivileged": "/calls", "emulated": "/calls", "root": "/mnt/calls"}
"""Where the socket is in each of the places in which a supervisor runs."""


def calling(place: str, *mounts: str, binary: Path = NATIVE) -> list[str]:
    """One with a socket, in one of these places; with other mounts than usual, if they are named."""
    if place == "root":
        return as_root(mounts=("w:/mnt/job", "r:/mnt/given", "s:/mnt/calls"))
    arguments = ("1000", "1000", "60", *(mounts or ("w:/job", "r:/given", "s:/calls")))
    setup = ("--tmpfs", "/calls")
    return (
        emulated(*arguments, setup=setup)
        if place == "emulated"
        else in_bubblewrap(*arguments, binary=binary, setup=setup)
    )


def emulated(*arguments: str, setup: Sequence[str] = ()) -> list[str]:
    """The other architecture's binary, under bubblewrap as everything else; its job is of this machine."""
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    setup = ("--ro-bind", qemu(), "/qemu", *setup)
    return in_bubblewrap(*arguments, binary=HOME / f"supervise-{other}", setup=setup, before=("/qemu",))


@contextlib.contextmanager
def in_docker(*options: str, image: str, name: str) -> Iterator[Line]:
    """As Docker starts it, with the limits and capabilities of a real box."""
    fixed = [
        *("--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--cap-add", "SETUID", "--cap-add", "SETGID", "--cap-add", "KILL", "--user", "0:0"),
        *("--tmpfs", f"/job:exec,size=4m,mode=700,uid={UID},gid={GID}", "--tmpfs", "/given:mode=755"),
        *("-v", f"{NATIVE}:/supervise:ro", "--entrypoint", "/supervise", "--name", name),
    ]
    arguments = (str(UID), str(GID), "60", "w:/job", "r:/given")
    with Line(["docker", "run", "-i", "--rm", *fixed, *options, image, *arguments], container=name) as line:
        yield line


def is_static(binary: Path) -> bool:
    """Whether an ELF file asks for no interpreter."""
    data = binary.read_bytes()
    offset, size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
    return all(struct.unpack_from("<I", data, offset + at * size)[0] != 3 for at in range(count))
