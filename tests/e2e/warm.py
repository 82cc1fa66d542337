"""The command line with its modules loaded already: each command is a fork of one process that has imported it.

Loading Python and minitango is most of what a short command costs, and the tests start hundreds. A fork is a process of
its own all the same, with its own environment, folder, streams and exit. What is read while Python starts, or while our
modules are loaded, is the first process's: where a test changes that (`FIRST`), the command is started from nothing.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

FIRST = ("PYTHON", "LANG", "LC_", "LD_", "TZ", "MINITANGO_FAILPOINT")
"""How names of variables begin that count before the first line of a command."""
REQUEST = 1 << 18
"""Bytes of a request: the arguments and the environment of one command."""


class Warm:
    """The process that others are forked from. To be closed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._busy = threading.Lock()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.e2e.warm", str(theirs.fileno())],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # never read: what is forked finds its streams made for pipes
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )

    def run(
        self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[bytes] | None:
        """As `subprocess.run` with nothing to read and its output captured; None where it is to be started from
        nothing: its environment differs in what counts then, or one is running here."""
        changed = {name for name, _ in self._environment.items() ^ env.items()}
        if any(name.startswith(FIRST) for name in changed) or not self._busy.acquire(blocking=False):
            return None
        try:
            return self._run(list(argv), cwd, env, timeout)
        finally:
            self._busy.release()

    def _run(
        self, argv: list[str], cwd: Path, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        request = json.dumps([argv, os.fspath(cwd), dict(env)]).encode()
        (out, theirs_out), (err, theirs_err) = os.pipe(), os.pipe()
        with open(os.devnull, "rb") as nothing:
            socket.send_fds(self._line, [request], [nothing.fileno(), theirs_out, theirs_err])
        os.close(theirs_out)
        os.close(theirs_err)
        said: dict[int, bytearray] = {out: bytearray(), err: bytearray()}
        pid = self._heard()
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as waiting:
            for stream in (out, err, self._line):
                waiting.register(stream, selectors.EVENT_READ)
            code = None
            while waiting.get_map():
                ready = waiting.select(deadline - time.monotonic())
                if not ready:
                    if code is None:
                        os.kill(pid, signal.SIGKILL)
                        self._heard()
                    raise subprocess.TimeoutExpired(argv, timeout, bytes(said[out]), bytes(said[err]))
                for key, _ in ready:
                    if key.fileobj is self._line:
                        code = self._heard()
                        waiting.unregister(self._line)
                    elif data := os.read(key.fd, 1 << 16):
                        said[key.fd] += data
                    else:
                        waiting.unregister(key.fd)
                        os.close(key.fd)
        assert code is not None
        return subprocess.CompletedProcess(argv, code, bytes(said[out]), bytes(said[err]))

    def _heard(self) -> int:
        said = self._line.recv(100)
        if not said:
            raise RuntimeError(f"no process to fork: {self._process.communicate()[1].decode(errors='replace')}")
        return int(said)

    def close(self) -> None:
        self._line.close()
        self._process.communicate()


def _serve(line: socket.socket) -> bool:
    """Fork a process for each request. Returns True in each of them, in place of what it was forked from."""
    while True:
        request, fds, _, _ = socket.recv_fds(line, REQUEST, 3)
        if not request:
            return False
        pid = os.fork()
        if pid == 0:
            line.close()
            _become(*json.loads(request), fds)
            return True
        for fd in fds:
            os.close(fd)
        line.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        line.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(argv: list[str], cwd: str, env: dict[str, str], fds: Sequence[int]) -> None:
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = argv
    signal.signal(signal.SIGINT, signal.default_int_handler)


def load() -> None:
    """What a command loads when it needs it, too: stores, sandboxes, and what prints."""
    for name in (
        *(
            "minitango.store.sqlite",
            "minitango.store.redis",
            "minitango.sandbox.bubblewrap",
            "minitango.sandbox.docker",
        ),
        *("minitango.sandbox._choose", "minitango.sandbox._box", "minitango.sandbox._setting"),
        *("minitango.sandbox._docker_containers", "minitango.sandbox._docker_death", "minitango.callbacks"),
        *("minitango.assignment.loading", "minitango.sender", "rich.console", "rich.progress", "rich.table"),
        *("docker", "encodings.ascii", "click._textwrap"),
    ):
        importlib.import_module(name)


def leave(ended: SystemExit) -> NoReturn:
    """End as the interpreter does, with threads waited for, what is registered called and what was printed written. But
    modules are not taken apart: for a fork that is to copy nearly all that it shares, and half of a short command."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended.code if isinstance(ended.code, int) else 0)


if __name__ == "__main__":
    from minitango.cli import main

    load()
    gc.collect()
    gc.freeze()  # what is loaded is not gone through again by every fork
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C ends the tests, and they end this
    if _serve(socket.socket(fileno=int(sys.argv[1]))):
        try:
            main()
        except SystemExit as error:
            leave(error)
