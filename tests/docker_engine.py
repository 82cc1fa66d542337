"""Docker engines for the tests: the one that answers here, and private ones that may be hurt.

    python -m tests.docker_engine COMMAND...

runs a command beside a Docker engine: the one that DOCKER_HOST names, else the machine's, else a private one that lives
as long as the command does. `bin/test` runs pytest so. Where none can be had it says why, and runs the command all the
same. Without a command it exits with 0 if an engine answers.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

START = 30.0
"""Seconds in which a daemon must answer after its start; it takes 0.2 to 2."""
STOP = 30.0
SOCKET = "unix:///var/run/docker.sock"
MOMENT = 2.0
GOING = (404, 409)
"""What is said of a container that is gone, or just going by itself."""
SHORT = 60
"""Bytes that a private engine's folder may have in its name: a socket's path has at most 108."""


def url() -> str:
    """Where the tests look for an engine."""
    return os.environ.get("DOCKER_HOST") or SOCKET


def trouble(url: str, timeout: float = 5) -> str:
    """Why no engine answers at this URL; empty if one does."""
    try:
        if url.startswith("unix://"):
            _ping(url.removeprefix("unix://"), timeout)
        else:
            with client(url, timeout) as connected:
                connected.ping()
    except Exception as error:  # whatever a library makes of it, it is the reason
        return f"no Docker engine answers at {url}: {error}"
    return ""


def _ping(path: str, timeout: float) -> None:
    connection = http.client.HTTPConnection("localhost", timeout=timeout)
    with contextlib.closing(connection), contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.settimeout(timeout)
        sock.connect(path)
        connection.sock = sock
        connection.request("GET", "/_ping")
        answer = connection.getresponse()
        if answer.status != 200:
            raise OSError(f"/_ping says {answer.status}")
        answer.read()


@contextlib.contextmanager
def client(url: str, timeout: float = 60) -> Iterator[Any]:
    """The SDK's client. The test's own view of an engine, apart from the one that is tested."""
    import docker

    made = docker.DockerClient(base_url=url, timeout=timeout)
    try:
        yield made
    finally:
        made.close()


def need_docker() -> str:
    """The URL of an engine that answers. Skips the test, with the reason, where none does; fails it where CI=true."""
    why = trouble(url())
    if why:
        unavailable(f"{why} (try: start Docker, set DOCKER_HOST, or run bin/test as root)")
    return url()


def need_private_engines() -> None:
    """Skip the test where no PrivateEngine can be started; fail it where CI=true."""
    why = cannot_start()
    if why:
        unavailable(why)


def private_engine(**environment: str) -> PrivateEngine:
    """A PrivateEngine, to be entered. OSError, with what would help, where there are none."""
    why = cannot_start()
    if why:
        raise OSError(why)
    return PrivateEngine(environment)


def unavailable(why: str) -> None:
    import pytest

    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def cannot_start() -> str:
    """Why there are no private engines here; empty if there are."""
    if os.name != "posix" or os.geteuid() != 0:
        return "a private Docker engine needs root"
    missing = [tool for tool in ("dockerd", "containerd", "setpriv") if shutil.which(tool) is None]
    return f"a private Docker engine needs {', '.join(missing)} (try: apt-get install docker.io)" if missing else ""


class PrivateEngine:
    """A Docker daemon with all that it keeps below one folder of its own; its containers have no network but localhost.

    Ends with the thread that started it. After `close` nothing is left: no container, process, mount or file.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """`environment`: what its daemon finds there besides ours."""
        self._environment = {**os.environ, **(environment or {})}
        parent = tempfile.gettempdir()
        # its name is also that of namespaces, which may not end in all that mkdtemp makes up
        self.folder = Path(parent if len(os.fsencode(parent)) < SHORT else "/tmp", f"mtd-{secrets.token_hex(4)}")
        self.folder.mkdir(mode=0o700)
        self.url = f"unix://{self.folder}/docker.sock"
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PrivateEngine:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Start the daemon, on what an earlier one left, and wait until it answers. OSError with the end of its log."""
        folder, name = self.folder, self.folder.name
        (folder / "daemon.json").write_text("{}")  # and not the machine's own
        for stale in ("pid", "exec/containerd/containerd.pid"):
            (folder / stale).unlink(missing_ok=True)  # of one that was killed, and that may not be reaped yet
        command = [
            *("setpriv", "--pdeathsig", "TERM", "--"),
            *("dockerd", "--config-file", f"{folder}/daemon.json", "-H", self.url, "-p", f"{folder}/pid"),
            *("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
            *("--bridge=none", "--iptables=false", "--ip6tables=false"),
            # where the machine has a containerd, dockerd uses that
            *("--containerd-namespace", name, "--containerd-plugins-namespace", f"{name}-plugins"),
        ]
        with (folder / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START
        while why := trouble(self.url, timeout=1):
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                said = (folder / "log").read_text(errors="replace").splitlines()
                raise OSError("\n".join([f"dockerd does not start: {why}", *said[-5:]]))
            time.sleep(0.01)

    def kill9(self) -> None:
        """End the daemon as a crash does. Containers go on until the next `start`."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the daemon in good order: it ends its containers."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """The daemon hangs: it takes connections, and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End the daemon and its containers and remove everything. Idempotent."""
        from docker.errors import APIError

        try:
            if self._daemon is not None:
                self.resume()
                if self._daemon.poll() is not None:
                    self.start()  # only a daemon knows how to take down what another one left
                with client(self.url) as connected:
                    for container in connected.api.containers(all=True, quiet=True):
                        try:
                            connected.api.remove_container(container["Id"], force=True, v=True)
                        except APIError as error:
                            if error.status_code not in GOING:
                                raise
                    if _none_left(connected):
                        self.kill9()  # in good order it takes a second, with nothing left to put in order
        finally:
            self.stop()
            self._daemon = None
            for mounted in reversed(list(self._mounts())):
                subprocess.run(["umount", "-l", mounted], check=True)
            shutil.rmtree(self.folder, ignore_errors=not self.folder.exists())

    def _signal(self, number: int) -> None:
        if self._daemon is not None and self._daemon.poll() is None:
            self._daemon.send_signal(number)

    def _end(self, number: int) -> None:
        self._signal(number)
        if self._daemon is not None:
            try:
                self._daemon.wait(STOP)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait(STOP)

    def _mounts(self) -> Iterator[str]:
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            place = line.split()[4]
            if place.startswith(f"{self.folder}/"):
                yield place


def _none_left(connected: Any) -> bool:
    """Whether no container is there any more, once those that were going have had their moment."""
    deadline = time.monotonic() + MOMENT
    while connected.api.containers(all=True, quiet=True):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def main(command: list[str]) -> int:
    """Run the command beside an engine; its exit status, or 128 and the number of the signal that ended it."""
    from tests import docker_images

    if not command:
        return int(bool(trouble(url())))

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    with contextlib.ExitStack() as stack:
        variables = {}
        why = trouble(url())
        if why:
            try:
                variables["DOCKER_HOST"] = stack.enter_context(private_engine()).url
            except OSError as error:
                print(f"{why}; {error}: what needs one is skipped, or fails where CI=true", file=sys.stderr)
            else:
                if "DOCKER_HOST" in os.environ:
                    print(f"{why}; a private one takes its place", file=sys.stderr)
        try:
            docker_images.prepare()
        except OSError as error:
            print(error, file=sys.stderr)
        return _run(command, variables)


def _run(command: list[str], variables: dict[str, str]) -> int:
    with subprocess.Popen(command, env={**os.environ, **variables}) as child:
        # Ctrl-C reaches the command by itself, and its end is ours; the others reach us alone.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda got, _: child.send_signal(got))
        status = child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
