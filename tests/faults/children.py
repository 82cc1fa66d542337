"""Engines as processes that start at once: each is a fork of one that has everything loaded.

To be killed, stopped, and put into a network namespace of their own. None outlives the process that started it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PATIENCE = 60.0
"""Seconds after which a test gives up on a process. Never waited out when things go well."""
REQUEST = 1 << 17
_DIE_WITH_PARENT = 1
_NEW_NET = 0x40000000


class Child:
    """A process. It is alone in having what it says on its standard output."""

    def __init__(self, pid: int, out: int, status: int) -> None:
        self.pid = pid
        self.code: int | None = None
        """As `Popen.returncode`."""
        self.lines: list[str] = []
        """What it has said, as far as it was read."""
        self._out: int | None = out
        self._status = status
        self._partial = b""

    def line(self, timeout: float = PATIENCE) -> str:
        """The next line that it says; empty when it has ended."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._partial and self._out is not None:
            if not select.select([self._out], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"it said nothing more after {self.lines[-3:]}")
            data = os.read(self._out, 1 << 16)
            self._partial += data
            if not data:
                os.close(self._out)
                self._out = None
        line, _, self._partial = self._partial.partition(b"\n")
        self.lines.append(line.decode())
        return self.lines[-1]

    def expect(self, *wanted: str, timeout: float = PATIENCE) -> None:
        """Read until it has said each of these, in this order."""
        deadline = time.monotonic() + timeout
        for each in wanted:
            while (said := self.line(max(0.0, deadline - time.monotonic()))) != each:
                assert said, f"it ended without saying {each!r}: {self.lines[-5:]}"

    def signal(self, number: int) -> None:
        if not self.ended(0):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As `kill -9`, and wait for its end."""
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def ended(self, timeout: float) -> bool:
        if self.code is None and select.select([self._status], [], [], timeout)[0]:
            said = os.read(self._status, 100)
            os.close(self._status)
            self.code = int(said) if said else -signal.SIGKILL
        return self.code is not None

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit code, once it has ended; negative: the signal."""
        if not self.ended(timeout):
            raise TimeoutError(f"process {self.pid} goes on after {self.lines[-3:]}")
        assert self.code is not None
        return self.code

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.ended(PATIENCE)
        if self._out is not None:
            os.close(self._out)
            self._out = None


class Nursery:
    """The process that others are forked from."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.faults.children", str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(self, which: str, words: Sequence[str], *, netns: str = "", **env: str) -> Child:
        """Start `tests.faults.WHICH.main(words)`; `netns` is the network namespace that it is to be in."""
        (out, theirs_out), (status, theirs_status) = os.pipe(), os.pipe()
        try:
            request = json.dumps([which, list(words), netns, env]).encode()
            socket.send_fds(self._line, [request], [theirs_out, theirs_status])
        finally:
            os.close(theirs_out)
            os.close(theirs_status)
        pid = b""
        while not pid.endswith(b"\n"):
            data = os.read(status, 1)
            assert data, "no process to fork"
            pid += data
        return Child(int(pid), out, status)

    def close(self) -> None:
        self._line.close()
        self._process.wait()


@functools.cache
def nursery() -> Nursery:
    """The one of this process."""
    made = Nursery()
    atexit.register(made.close)
    return made


def _serve(line: socket.socket) -> Callable[[], int]:
    """Fork for each request; returns, in what was forked, what that process is to do."""
    while True:
        request, fds, _, _ = socket.recv_fds(line, REQUEST, 2)
        if not request:
            sys.exit(0)
        if os.fork() == 0:  # this one waits for the next one's end, and tells of it
            line.close()
            return _begin(*fds, *json.loads(request))
        for fd in fds:
            os.close(fd)


def _begin(out: int, status: int, which: str, words: list[str], netns: str, env: dict[str, str]) -> Callable[[], int]:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid:
        os.close(out)
        os.write(status, b"%d\n" % pid)
        _, ended = os.waitpid(pid, 0)
        os.write(status, b"%d" % os.waitstatus_to_exitcode(ended))
        os._exit(0)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    os.close(status)
    os.dup2(out, 1)
    os.close(out)
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if netns:
        with open(f"/run/netns/{netns}") as space:
            assert libc.setns(space.fileno(), _NEW_NET) == 0, os.strerror(ctypes.get_errno())
    from minitango import failpoint

    failpoint._wanted, _, count = env.get("MINITANGO_FAILPOINT", "").partition(":")
    failpoint._left = int(count or 1)
    return functools.partial(importlib.import_module(f"tests.faults.{which}").main, words)


def load() -> None:
    """All that an engine needs, so that no fork has to."""
    for module in ("minitango.sandbox.bubblewrap", "minitango.store.redis", "tests.faults.child", "tests.faults.story"):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    load()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C ends the tests, and they end this
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.exit(_serve(socket.socket(fileno=int(sys.argv[1])))())
