"""What only the kernel's own interface gives, and the thread that is the parent of every box.

Linux only; imported with the sandbox, never with `minitango.sandbox`.
"""

from __future__ import annotations

import ctypes
import os
import queue
import resource
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from minitango.errors import SandboxFailed, SandboxUnavailable
from minitango.sandbox._spec import CORE

T = TypeVar("T")

_CLONE_NEWNS: Final = 0x00020000
_CLONE_FILES: Final = 0x00000400
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_SLAVE = 2, 4, 4096, 16384, 1 << 19
_COVERED: Final = ("/mnt", "/media", "/srv", "/opt")

_libc = ctypes.CDLL(None, use_errno=True)
_core_lock = threading.Lock()


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _check(result, f"mount {target}")


class PrivatePlace:
    """A directory that exists only for the thread that made it, and for the processes which that thread starts.

    Root's boxes run as a uid that must not reach root's home, where the interpreter may live, and their files must
    not show on the host. Here they are bound, and kept in memory. It vanishes with the thread's last process.
    """

    def __init__(self, show: Sequence[str]) -> None:
        """Call in the thread that starts the boxes. `show` are directories to be bound, each with all below it, at
        their own paths below this place: what refers to its neighbour still finds it."""
        _check(_libc.unshare(_CLONE_NEWNS), "unshare")
        _mount("none", "/", "none", _MS_REC | _MS_SLAVE)
        # by descriptor, for the mount may cover them
        handles = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in show}
        try:
            self.path = next((place for place in _COVERED if Path(place).is_dir()), "/tmp")  # noqa: S108
            _mount("minitango", self.path, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755")
            for path, handle in handles.items():
                target = Path(self.shown(path))
                for directory in (*reversed(target.parents), target):
                    if not directory.exists():
                        directory.mkdir()
                        directory.chmod(0o755)
                _mount(f"/proc/self/fd/{handle}", str(target), "none", _MS_BIND | _MS_REC)
        finally:
            for handle in handles.values():
                os.close(handle)

    def shown(self, path: str) -> str:
        """Where a directory that was to be shown, or what lies in it, is to be found."""
        return f"{self.path}/shown{path}"


class ParentThread:
    """One thread that lives as long as the sandbox and starts every box.

    `--die-with-parent` is the kernel's PR_SET_PDEATHSIG, which fires when the parent *thread* ends: a consumer
    thread that goes away must not take boxes along. A mount namespace, too, is a thread's own.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="minitango-boxes", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], T], timeout: float = 30.0) -> T:
        """Run `work` in the thread, and give what it gives or raises."""
        future: Future[T] = Future()
        self._work.put((work, future))
        try:
            return future.result(timeout)
        except TimeoutError as error:
            raise SandboxFailed(f"bwrap could not be started within {timeout:g} s") from error

    def close(self) -> None:
        """End the thread; every box that it started dies with it."""
        self._work.put(None)
        self._thread.join(timeout=10)

    def _loop(self) -> None:
        while (item := self._work.get()) is not None:
            work, future = item
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            del item, work, future


def close_by_exit(holder: socket.socket) -> None:
    """Close a socket in which there are files of a job's, and wait for none of them: what the exit of a thread closes
    does not linger. So a thread of its own, with descriptors of its own, is the last to have it."""
    apart, closed = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            _check(_libc.unshare(_CLONE_FILES), "unshare")
        except OSError:  # who may not, waits; but in this thread
            threading.Thread(target=holder.close, name="minitango-close", daemon=True).start()
            closed.set()
        apart.set()
        closed.wait()

    thread = threading.Thread(target=hold, name="minitango-close", daemon=True)
    thread.start()
    apart.wait()
    if not closed.is_set():
        holder.close()
        closed.set()
    thread.join()


@contextmanager
def acting_as(uid: int | None) -> Iterator[None]:
    """Touch files with no more rights than this uid has (this thread only); None: as we are.

    With a file-system uid that is not root's the kernel also takes away root's powers over files.
    """
    if uid is None:
        yield
        return
    _libc.setfsgid(uid)
    _libc.setfsuid(uid)
    try:
        if _libc.setfsuid(-1) != uid:
            raise SandboxFailed(f"could not act as uid {uid}")
        yield
    finally:
        _libc.setfsuid(os.geteuid())
        _libc.setfsgid(os.getegid())


@contextmanager
def as_dumping_no_core() -> Iterator[None]:
    """Start processes that leave no core file. The limit is this process's own as long as that takes: a box's filter
    lets nobody set it any more, and to set another process's, root needs a right that it may not have."""
    with _core_lock:
        soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (CORE if hard == resource.RLIM_INFINITY else min(CORE, hard), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def private_place_refused(error: OSError) -> SandboxUnavailable:
    """What to say where root may not make a mount namespace."""
    return SandboxUnavailable(
        f"running as root, but without the right to make a mount namespace: {error}",
        hint="run minitango as a normal user, or give the container --cap-add SYS_ADMIN "
        "--security-opt seccomp=unconfined --security-opt apparmor=unconfined",
        id="sandbox_no_mount_namespace",
    )


def _stat(pid: int, field: int) -> int | None:
    """A field of /proc/PID/stat, counted from the one after the name; None where there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        stat = os.read(fd, 4096)
    except OSError:
        return None
    finally:
        os.close(fd)
    return int(stat[stat.rindex(b")") + 2 :].split()[field])


def start_time(pid: int) -> int | None:
    """When a process started, in ticks since boot: with its pid, it names it for good. None: there is none."""
    return _stat(pid, 19)


def parent_of(pid: int) -> int | None:
    """A process's parent; None where there is no such process."""
    return _stat(pid, 1)
