"""The bubblewrap sandbox: isolation by the kernel's namespaces, with no daemon and no image.

A box is the host's own /usr, read-only, a minimal /etc, the interpreter's prefix, and sized directories in memory.
The job is uid 1000 inside, and outside a uid without rights, never root. Limits are held by control groups where
they can be had, otherwise by rlimits and a watcher: `probe` tells, having tried.

How the parts lie: `_setting` what all boxes share; `_box` one box; `_supervise` its run; `_inside` its pid 1;
`_profile` what it looks like; `_seccomp` the system calls it does not get; `_cgroup` and `_watch` its limits;
`_tree` files in and out; `_tickets` names, uids, records, sweep; `_host` threads and credentials; `_remedy` what to
say where it does not work.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minitango.archive import File
from minitango.errors import SandboxFailed, SandboxUnavailable
from minitango.job import Limits
from minitango.sandbox._remedy import diagnose, not_linux
from minitango.sandbox.contract import Box, BoxSpec, End, Guarantees, Held, Mount, OnePlace

if TYPE_CHECKING:
    from minitango.sandbox._box import BubblewrapBox
    from minitango.sandbox._setting import Setting

_TRIAL = Limits(wall=20.0, memory=24 << 20, disk=8 << 20, pids=12, output=64 << 10)
_NAMESPACES = ("pid", "net", "mnt", "ipc", "user")
_TRY: Final = """
readlink /proc/self/ns/pid /proc/self/ns/net /proc/self/ns/mnt /proc/self/ns/ipc /proc/self/ns/user || exit
(for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 9 & done) 2>/dev/null
echo $?
exec "$@"
"""
"""Prints _NAMESPACES, and 0 if it had all processes that it wanted: a shell that cannot fork ends with another status.
Then it is the rest of its words."""
_HOG_PERL = ("perl", "-e", "my @held; push @held, 'x' x (1 << 20) for 1 .. 64; select(undef, undef, undef, 1)")
_HOG_PYTHON = ("python3", "-I", "-S", "-c", "import time; held = b'x' * (64 << 20); time.sleep(1)")


class BubblewrapSandbox(OnePlace):
    """A `Sandbox`. Cheap to make; the first use finds out what this machine has."""

    def __init__(
        self, *, state: str | None = None, bwrap: str | None = None, cgroups: bool = True, perl: bool = True
    ) -> None:
        """`state` is where live boxes are recorded, for `sweep`; None: a place of this user's. `bwrap` names the
        program; `cgroups=False` and `perl=False` do without what this machine may have."""
        self._state = state
        self._wanted = (bwrap, cgroups, perl)
        self._lock = threading.RLock()
        self._setting: Setting | None = None
        self._guarantees: Guarantees | None = None
        self._open: set[BubblewrapBox] = set()
        self._closed = False

    @property
    def name(self) -> str:
        return "bubblewrap"

    @property
    def default_image(self) -> str:
        """Empty: there are none."""
        return ""

    def prepare(self, image: str, folder: Sequence[File] = ()) -> str:
        """Empty: there is nothing to prepare."""
        return ""

    def image_digest(self, image: str) -> str:
        """Empty: a box has the host's own programs, whatever image is asked for."""
        return ""

    def image_command(self, digest: str) -> tuple[str, ...]:
        """Empty: there are none."""
        return ()

    def find_image(self, image: str, folder: Sequence[File] = ()) -> str:
        """Empty: there are none."""
        return ""

    def open(self, spec: BoxSpec) -> Box:
        """See `Sandbox.open`. ValueError for a spec that no box can have."""
        if spec.root:
            raise ValueError("no job is root here: a box has the host's own users")
        try:
            return self._box(spec)
        except SandboxFailed as error:
            if error.id == "sandbox_start" and not self._closed:
                self._find_out_why()
            raise

    def _find_out_why(self) -> None:
        """After a box that did not come up: SandboxUnavailable, with the remedy, if not even the smallest does."""
        setting = self._set_up()
        try:
            self._try_command(["true"])
        except SandboxFailed as error:
            if self._closed:
                return
            raise self._diagnose(error, setting) from error

    def _diagnose(self, error: SandboxFailed, setting: Setting) -> SandboxUnavailable:
        version = ".".join(str(number) for number in setting.version)
        return diagnose(error.message, bwrap=setting.bwrap, version=version)

    def _box(self, spec: BoxSpec) -> BubblewrapBox:
        from minitango.sandbox._box import BubblewrapBox
        from minitango.sandbox._spec import check_spec

        check_spec(spec)
        setting = self._set_up()
        ticket = setting.ticket(spec.token)
        try:
            box = BubblewrapBox(setting, ticket, spec, self._forget)
        except OSError as error:
            failed = SandboxFailed(f"a box could not be started: {error}", id="sandbox_start")
            raise setting.no_place(error) or failed from error
        try:
            self._remember(box)
            if spec.bundle is not None:
                box.put(spec.bundle.mount, spec.bundle.files)
        except BaseException:
            box.close()
            raise
        return box

    def _remember(self, box: BubblewrapBox) -> None:
        with self._lock:
            if self._closed:
                raise SandboxFailed("the sandbox is closed")
            self._open.add(box)

    def _forget(self, box: BubblewrapBox) -> None:
        with self._lock:
            self._open.discard(box)

    def _set_up(self) -> Setting:
        with self._lock:
            if self._closed:
                raise SandboxFailed("the sandbox is closed")
            if self._setting is None:
                if sys.platform != "linux":
                    raise not_linux(sys.platform)
                from minitango.sandbox._setting import Setting

                bwrap, cgroups, perl = self._wanted
                self._setting = Setting(self._place(), bwrap=bwrap, cgroups=cgroups, perl=perl)
            return self._setting

    def _place(self) -> Path:
        from minitango.sandbox._spec import default_state

        return Path(self._state) if self._state is not None else default_state()

    def orphans(self) -> int:
        """See `Sandbox.orphans`."""
        from minitango.sandbox._tickets import orphans

        return orphans(self._place() / "boxes")

    def sweep(self) -> int:
        """See `Sandbox.sweep`."""
        return self._set_up().sweep()

    def close(self) -> None:
        """See `Sandbox.close`."""
        with self._lock:
            self._closed = True
            setting, self._setting = self._setting, None
            boxes = list(self._open)
        failure: SandboxFailed | None = None
        try:
            for box in boxes:
                try:
                    box.close()
                except SandboxFailed as error:  # the others are to be closed all the same
                    failure = failure or error
        finally:
            if setting is not None:
                setting.close()
        if failure is not None:
            raise failure

    # --- probing ---------------------------------------------------------------------------------------

    def probe(self) -> Guarantees:
        """See `Sandbox.probe`."""
        with self._lock:
            if self._guarantees is None:
                setting = self._set_up()
                try:
                    self._guarantees = self._try(setting)
                except SandboxFailed as error:
                    raise self._diagnose(error, setting) from error
            return self._guarantees

    def _try(self, setting: Setting) -> Guarantees:
        end, forked = self._try_box(setting)
        notes = []
        by_kernel: Held = "cgroup" if setting.groups is not None else "watched"
        memory: Held = by_kernel if end.limit == "memory" else "none"
        pids: Held = "cgroup" if setting.groups is not None else "rlimit"
        if forked:
            pids = "none"
        if setting.groups is None:
            notes.append(
                "memory and CPU are held by a watcher, which a quick program can outrun for a moment, and the share of "
                "cores is not held; for control groups, start with: systemd-run --user --scope -p Delegate=yes ..."
            )
        if not setting.filtered:
            notes.append(f"system calls are not filtered on {os.uname().machine}")
        for limit, held in (("memory", memory), ("processes", pids)):
            if held == "none":
                notes.append(f"the limit on {limit} was tried, and did not hold")
        return Guarantees(
            memory=memory, pids=pids, cpu=by_kernel, disk="tmpfs", network="namespace", notes=tuple(notes)
        )

    def _try_box(self, setting: Setting) -> tuple[End, bool]:
        """How one box ended that wanted more memory than it may have, and whether it had more processes before.

        Raises where its namespaces are not new ones, or where on the host it is somebody of rights. One box tries all:
        to make one is most of what a trial takes, and every command pays for it.
        """
        outer = [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in _NAMESPACES]
        hog = _HOG_PERL if setting.perl else _HOG_PYTHON
        end, said = self._try_command(["sh", "-c", _TRY, "sh", *hog])
        inner = said.decode(errors="replace").split()
        if len(inner) != len(outer) + 1 or not inner[-1].isdigit():
            raise SandboxFailed(f"a trial command did not work: {said.decode(errors='replace').strip()[:200] or end}")
        shared = [kind for kind, a, b in zip(_NAMESPACES, inner[:-1], outer, strict=True) if a == b]
        if shared:
            raise SandboxUnavailable(
                f"a box shares its {', '.join(shared)} namespace with the host",
                hint="install a newer bubblewrap: apt-get install bubblewrap",
                id="sandbox_not_isolated",
            )
        return end, inner[-1] == "0"

    def _try_command(self, command: list[str]) -> tuple[End, bytes]:
        said: list[bytes] = []
        box = self._box(BoxSpec((Mount("/job", writable=True),), "/job", _TRIAL))
        try:
            box.check_host_uid()
            return box.run(command, env={}, output=said.append), b"".join(said)
        finally:
            box.close()
