"""One bubblewrap box: from its start, over one run, to nothing."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from minitango.archive import File
from minitango.errors import SandboxFailed, SandboxUnavailable
from minitango.job import Usage
from minitango.sandbox._cgroup import Group
from minitango.sandbox._collect import Patterns, collect
from minitango.sandbox._helper import SOCKET
from minitango.sandbox._host import acting_as, parent_of
from minitango.sandbox._inside import encode_go, first_program
from minitango.sandbox._meter import GroupMeter, Meter, WatchMeter
from minitango.sandbox._profile import arguments, environment, rlimits
from minitango.sandbox._remedy import too_small
from minitango.sandbox._sockets import Listener
from minitango.sandbox._spec import writable
from minitango.sandbox._supervise import Ended, Supervisor, is_dead, kill, wait_dead
from minitango.sandbox._tickets import Ticket, kill_named
from minitango.sandbox._tree import tree_at, write_tree
from minitango.sandbox._watch import Watcher, is_full
from minitango.sandbox.contract import BoxSpec, Calls, CollectBounds, Collected, End, Mount

if TYPE_CHECKING:
    from minitango.sandbox._setting import Setting

_UP: Final = 10.0
"""Seconds that a box has to come up."""
_SIGKILL: Final = 9

T = TypeVar("T")


class BubblewrapBox:
    """A `Box`. Made by `BubblewrapSandbox.open`, in order: files, group, bwrap, descriptors."""

    def __init__(
        self, setting: Setting, ticket: Ticket, spec: BoxSpec, closed: Callable[[BubblewrapBox], None]
    ) -> None:
        self._setting = setting
        self._ticket = ticket
        self._spec = spec
        self._closed = closed
        self._state: Literal["open", "over", "closed"] = "open"
        self._stop = -1
        self._lock = threading.Lock()  # between kill and the end of what it writes to
        self._busy = threading.Lock()  # one verb at a time; close, from any thread, waits for it
        self._fds: list[int] = []
        self._mounts: dict[str, int] = {}
        self._trees: list[int] = []
        self._listener: Listener | None = None
        self._group: Group | None = None
        self._meter: Meter | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor = -1
        self._pid1 = -1
        self._main_ended: int | None = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    # --- coming up ---------------------------------------------------------------------------------

    def _start(self) -> None:
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        staged = self._stage()
        helper = self._stage_helper() if self._spec.helper else None
        theirs: list[int] = []
        try:
            self._go = self._pipe(theirs, write=True)
            self._status, self._output, info = (self._pipe(theirs, write=False) for _ in range(3))
            go, status, output, info_fd = theirs
            seccomp = self._setting.seccomp_fd()
            theirs += [seccomp] if seccomp >= 0 else []
            layout = self._setting.layout(self._spec.network)
            command = arguments(
                self._ticket.name, self._spec, layout, staged, helper=helper, info_fd=info_fd, seccomp_fd=seccomp
            )
            command += first_program(perl=self._setting.perl, python=self._setting.python, status_fd=status)
            self._process = self._setting.start(
                command, uid=self._ticket.uid, stdin=go, output=output, keep=[fd for fd in theirs[1:] if fd != output]
            )
        finally:
            for fd in theirs:
                os.close(fd)
        self._monitor = os.pidfd_open(self._process.pid)
        self._fds.append(self._monitor)
        for fd in (self._status, self._output, info):
            os.set_blocking(fd, False)
        if self._setting.groups is not None:  # while bwrap is busy
            self._group = self._setting.groups.make(self._ticket.name, self._spec.limits)
        deadline = time.monotonic() + _UP
        pid = self._pid = self._child(info, deadline)
        try:
            self._pid1 = os.pidfd_open(pid)
            self._fds.append(self._pid1)
            if parent_of(pid) != self._process.pid:
                raise self._failure("its first process was gone at once")
            if self._group is not None:
                self._group.add(pid)  # may wait for the kernel some ms: better while bwrap still mounts
        except ProcessLookupError as error:
            raise self._failure("its first process was gone at once") from error
        if self._wait(self._status, deadline, 2) != b"R\n":
            raise self._failure("its first process did not come up")
        self._hold(pid)
        if is_dead(self._pid1):  # then what was opened by its number may be another's
            raise self._failure("its first process died")
        self._ticket.started(self._process.pid, pid)

    def _pipe(self, theirs: list[int], *, write: bool) -> int:
        """A pipe to the box, or from it: our end, while the other one goes to `theirs`."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        ours, other = (write_end, read_end) if write else (read_end, write_end)
        self._fds.append(ours)
        theirs.append(other)
        return ours

    def _stage(self) -> dict[str, str]:
        """Make the directories behind the read-only mounts, and in them a place for each mount that lies inside."""
        staged: dict[str, str] = {}
        for number, mount in enumerate(self._spec.mounts):
            if mount.writable:
                continue
            handle, source = self._setting.staging(self._ticket, number)
            self._fds.append(handle)
            staged[mount.path] = source
            self._mounts[mount.path] = handle
        for path, handle in self._mounts.items():
            for inner in self._spec.mounts:
                if inner.path.startswith(path + "/"):
                    at = os.dup(handle)
                    for name in inner.path[len(path) + 1 :].split("/"):
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(name, dir_fd=at)
                            os.chmod(name, 0o755, dir_fd=at)  # noqa: S103
                        at, above = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at), at
                        os.close(above)
                    os.close(at)
        return staged

    def _stage_helper(self) -> tuple[str, str]:
        """Make the socket. Where it is, after what the boxes share of HELPER."""
        handle, source = self._setting.staging(self._ticket, len(self._spec.mounts))
        self._fds.append(handle)
        self._listener = Listener(handle)
        return self._setting.helper(), f"{source}/{SOCKET}"

    def _child(self, info: int, deadline: float) -> int:
        text = b""
        while not text.rstrip().endswith(b"}"):
            more = self._wait(info, deadline, 4096)
            if not more:
                raise self._failure("bwrap did not start")
            text += more
        return int(json.loads(text)["child-pid"])

    def _wait(self, fd: int, deadline: float, size: int) -> bytes:
        """Read from a box that comes up; empty where it ended or took too long."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        with contextlib.suppress(BlockingIOError):
            return os.read(fd, size)
        return b""

    def _failure(self, what: str) -> SandboxFailed:
        """The error of a box that did not come up, with what bwrap had to say."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.kill()
            with contextlib.suppress(SandboxFailed):
                wait_dead(self._monitor, 2)
        said = b""
        with contextlib.suppress(BlockingIOError):
            said = os.read(self._output, 4096)
        text = " ".join("".join(c if c.isprintable() else " " for c in said.decode("utf-8", "replace")).split())[:500]
        return SandboxFailed(f"a box could not be started: {text or what}", id="sandbox_start")

    def _hold(self, pid: int) -> None:
        """Put pid 1, which waits for the command, under the limits, and keep hold of its directories."""
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fds.append(root)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        for mount in writable(self._spec):
            fd = os.open(mount.path[1:], flags, dir_fd=root)
            self._fds.append(fd)
            self._trees.append(fd)
            if mount in self._spec.mounts:
                self._mounts[mount.path] = fd
        if self._group is not None:
            self._meter = GroupMeter(self._group, self._spec.limits)
        else:
            proc = os.open("proc", flags, dir_fd=root)
            self._fds.append(proc)
            self._meter = WatchMeter(Watcher(proc, self._trees), self._spec.limits)

    # --- the verbs -----------------------------------------------------------------------------------

    def put(self, mount: str, files: Iterable[File]) -> None:
        """See `Box.put`."""
        place = self._mount(mount)
        try:
            with self._busy, acting_as(self._ticket.uid if place.writable else None):
                if self._state != "open":
                    raise SandboxFailed("files cannot be put into a box that has run or is closed")
                write_tree(self._mounts[mount], files)
        except OSError as error:
            failed = SandboxFailed(f"a file could not be put into {mount}: {error.strerror}", id="sandbox_put")
            limits = self._spec.limits
            full = too_small(error, place, limits) if place.writable else self._setting.no_staging(error)
            raise full or failed from error

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        output: Callable[[bytes], None],
        calls: Calls | None = None,
    ) -> End:
        """See `Box.run`."""
        listener = self._listener
        if calls is not None and listener is None:
            raise ValueError("a box without a helper has no calls")
        defaults = environment(self._spec, self._setting.layout(self._spec.network))
        limits = rlimits(self._spec, watched=self._group is None, count_processes=self._setting.nproc)
        message = encode_go(command, {**defaults, **env}, limits)
        with self._busy:
            if self._state != "open":
                raise SandboxFailed("a box runs once")
            self._state = "over"
            raised: list[BaseException] = []

            def noting(listener: Callable[[T], None]) -> Callable[[T], None]:
                def call(what: T) -> None:
                    try:
                        listener(what)
                    except BaseException as error:
                        raised.append(error)  # the listener's own, to go through as it is
                        raise

                return call

            try:
                if listener is not None:
                    listener.listen(noting(calls) if calls is not None else None)
                return self._end(self._supervise(message, noting(output)))
            except OSError as error:
                if error in raised:
                    raise
                raise SandboxFailed(f"a box could not be watched: {error}") from error
            finally:
                if listener is not None:
                    listener.end()

    def _supervise(self, message: bytes, output: Callable[[bytes], None]) -> Ended:
        limits = self._spec.limits
        assert self._meter is not None
        supervisor = Supervisor(
            pid1=self._pid1,
            status=self._status,
            output=self._output,
            stop=self._stop,
            wall=limits.wall,
            output_limit=limits.output,
            meter=self._meter,
            deliver=output,
            listener=self._listener,
        )
        if not self._stopped():
            self._send(message)
        ended = supervisor.run()
        wait_dead(self._monitor, 10)
        self._main_ended = ended.main
        return ended

    def collect(self, mount: str, patterns: Sequence[str], bounds: CollectBounds = CollectBounds()) -> Collected:
        """See `Box.collect`."""
        uid = self._ticket.uid if self._mount(mount).writable else None
        wanted = Patterns(patterns)
        try:
            with self._busy, acting_as(uid):
                if self._state != "over":
                    raise SandboxFailed("files are collected after the run, and before the box is closed")
                with tree_at(self._mounts[mount], ended=self._main_ended) as tree:
                    return collect(tree, wanted, bounds)
        except OSError as error:
            raise SandboxFailed(f"what the job left in {mount} cannot be read: {error.strerror}") from error

    def kill(self) -> None:
        """See `Box.kill`."""
        with self._lock:
            if self._stop >= 0:
                os.eventfd_write(self._stop, 1)

    def close(self) -> None:
        """See `Box.close`."""
        self.kill()
        with self._busy:
            if self._state != "closed":
                self._state = "closed"
                self._dispose()

    def _dispose(self) -> None:
        with self._lock:
            if self._stop >= 0:
                os.close(self._stop)
            self._stop = -1
        failure: SandboxFailed | None = None
        try:
            self._bury()
        except SandboxFailed as error:
            failure = error
        if self._listener is not None:
            self._listener.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        try:
            if self._group is not None:
                self._group.remove()
        except SandboxFailed as error:
            failure = failure or error
        self._setting.unstage(self._ticket, len(self._spec.mounts) + self._spec.helper)
        self._setting.finish(self._ticket, clean=failure is None)
        self._closed(self)
        if failure is not None:
            raise failure

    def _bury(self) -> None:
        if self._process is None:
            return
        if self._pid1 >= 0:
            kill(self._pid1)
            wait_dead(self._pid1, 10)
        else:
            self._process.kill()
            kill_named({self._ticket.name})
        if self._monitor >= 0:
            wait_dead(self._monitor, 10)
        self._process.wait()

    def check_host_uid(self) -> None:
        """SandboxUnavailable if, on the host, the box runs as root though it was told to be somebody else."""
        if self._ticket.uid is None:
            return
        status = Path(f"/proc/{self._pid}/status").read_text()
        uids = {int(word) for line in status.splitlines() if line.startswith("Uid:") for word in line.split()[1:]}
        if uids != {self._ticket.uid}:
            raise SandboxUnavailable(
                f"on the host, a box runs with the uids {sorted(uids)}, not with {self._ticket.uid}",
                hint="run minitango as a normal user",
                id="sandbox_not_isolated",
            )

    def _death(self) -> SandboxFailed:
        """The error of a box whose pid 1 died during the run, and not by us."""
        assert self._process is not None
        if self._process.wait() < 0:  # bwrap itself, which no job can reach, was killed, and pid 1 with it
            return SandboxFailed("a box was killed from outside", id="sandbox_died")
        # maybe by what runs in it: no sign that the sandbox is broken, and no reason to hold back other jobs
        return SandboxFailed("the box's first process died, and nobody here killed it", id="box_killed")

    # --- helpers ---------------------------------------------------------------------------------------

    def _mount(self, path: str) -> Mount:
        for mount in self._spec.mounts:
            if mount.path == path:
                return mount
        raise ValueError(f"{path!r} is not a mount of this box")

    def _stopped(self) -> bool:
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        return bool(poll.poll(0))

    def _send(self, message: bytes) -> None:
        """Start the command. A box that does not take it ends the run: pid 1 tells why, or is dead."""
        os.set_blocking(self._go, False)
        poll = select.poll()
        poll.register(self._go, select.POLLOUT)
        left = memoryview(message)
        while left:
            if not poll.poll(_UP * 1000):
                raise SandboxFailed("the box's first process does not take its command")
            try:
                left = left[os.write(self._go, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return

    def _end(self, ended: Ended) -> End:
        status = ended.status
        assert self._meter is not None
        totals = self._meter.totals(status)
        for what, number in (
            ("no process could be started", status.fork_error if status else None),
            ("a limit could not be set", status.limit_error if status else None),
        ):
            if number is not None:
                raise SandboxFailed(f"{what} in the box: {os.strerror(number)}")
        exit_status, signal, exec_error = None, None, status.exec_error if status else None
        limit = ended.limit
        if limit != "output" and status is not None:
            limit = None  # pid 1 could still speak: the command had ended by itself when the limit was seen
        if limit is None and not ended.cancelled and self._meter.ended_by_memory(status, totals):
            limit = "memory"
        if status is not None and status.wait is not None:
            if os.WIFEXITED(status.wait):
                exit_status = os.WEXITSTATUS(status.wait)
            else:
                signal = os.WTERMSIG(status.wait)
        elif exec_error is None:
            if limit is None and not ended.cancelled:
                raise self._death()
            signal = _SIGKILL
        return End(
            exit_status=exit_status,
            signal=signal,
            exec_error=exec_error,
            limit=limit,
            cancelled=ended.cancelled,
            usage=Usage(wall=ended.wall, cpu=totals.cpu, memory=totals.memory),
            output_bytes=ended.output_bytes,
            oom_kills=totals.oom_kills,
            disk_full=any(is_full(tree) for tree in self._trees),
            pids_limit=totals.forks_refused,
        )
