"""Where a step runs: isolated, limited, once. A docstring here is the contract; `tests/contract/` holds
every sandbox to it.

A `Sandbox` makes boxes; a `Box` runs one command, once. Opening, putting files in, running, collecting and
closing are separate verbs, so that a box can be started before its job is known:

    box = sandbox.open(BoxSpec(...))      # ready: every process it needs is up, nothing of the job runs
    box.put("/job", files)                # any number of times
    end = box.run(command, ...)           # once; when it returns, every process in the box is dead
    left = box.collect("/job", ["*.txt"]) # after run
    box.close()                           # always; nothing is left

Whose fault a thing is: a command that ends badly is an `End`. An error of ours, or of the sandbox's engine, is
SandboxFailed: the attempt is retried and no student is charged. SandboxUnavailable: this machine cannot give
such a box at all, or cannot now.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Literal, Protocol, Self

from msgspec import Struct

from minitango.archive import File
from minitango.job import Limits, Usage


class Mount(Struct, frozen=True):
    """A directory of the box. Files are put into it from outside; the job may write there if `writable`."""

    path: str
    writable: bool = False
    size: int | None = None
    """Bytes it may hold, where writable; None: the limits' `disk`."""


class Bundle(Struct, frozen=True):
    """Files that every box of a step has. By digest, so that a sandbox can keep them at hand."""

    mount: str
    """Where they lie: a path of the spec's mounts."""
    digest: str
    """What identifies them: equal digests, equal files."""
    files: tuple[File, ...]


class BoxSpec(Struct, frozen=True):
    """All that must be known to start a box. Nothing here depends on a submission."""

    mounts: tuple[Mount, ...]
    workdir: str
    """One of the writable mounts; the command starts there, and it is its HOME."""
    limits: Limits = Limits()
    network: Literal["none", "open"] = "none"
    """none: localhost only."""
    image: str = ""
    bundle: Bundle | None = None
    """Is there when the box is open, as if it had been `put`."""
    root: bool = False
    """The job is root in its box, with what it takes to become another user there (CHOWN, DAC_OVERRIDE, FOWNER, SETUID,
    SETGID, KILL), and with no more: no new privileges, the same filter, limits and read-only system as any job. It
    can write to mounts that others can only read."""
    token: str = ""
    """Names the attempt, so that a leftover can be told and swept."""
    helper: bool = False
    """HELPER is there: read-only, with what a program needs to call us, and a socket on which `run` listens."""


HELPER: Final = "/minitango"
"""Where a box has what we give to programs in it: `bin/minitango-student`, `python/minitango_student.py`, `socket`. No
mount of a spec lies there."""
CHANNELS: Final = 16
"""Connections that programs of one box may have to us at once."""


class ChannelClosed(Exception):
    """Nobody can take any more what is sent over this channel."""


class Channel(Protocol):
    """One connection that a program in a box made to us, by HELPER/socket. Verbs are called from any thread; `recv` and
    `send` by one thread each at the same time. What comes is the job's, and hostile; no channel can raise anything
    else than it says here."""

    def recv(self, most: int = 65536) -> bytes:
        """Wait for bytes, at most so many. Empty at the end, once all that came before was given: the other side shut
        down or is gone or sent open files along, the box is over, or `close` was called."""
        ...

    def send(self, data: bytes) -> None:
        """Returns when all is on its way: where the other side reads slowly, it waits, and holds little. ChannelClosed
        where nobody can take it any more; some of it may have arrived."""
        ...

    def shutdown(self) -> None:
        """Nothing more is sent: the other side reads its end. Never raises; `recv` goes on."""
        ...

    def close(self) -> None:
        """End it both ways, and wake who waits for it. What was sent before still arrives. Idempotent, never raises."""
        ...


Calls = Callable[[Channel], None]
"""Takes one connection and returns at once. What it raises ends the box, and goes through `run`."""


class End(Struct, frozen=True):
    """How the command ended. One of `exit_status`, `signal` and `exec_error` is set, the others are None."""

    exit_status: int | None = None
    signal: int | None = None
    exec_error: int | None = None
    """errno with which the command could not be executed: nothing of it ran."""
    limit: Literal["wall", "cpu", "memory", "output"] | None = None
    """The limit that ended it; then it was killed, by us or by the kernel on our behalf. `output` also where it had
    ended by itself before all that it wrote was read, and that was more than it may."""
    cancelled: bool = False
    usage: Usage = Usage()
    output_bytes: int = 0
    oom_kills: int = 0
    """Processes that the kernel killed for memory before the command's end, which may have been a good one."""
    disk_full: bool = False
    """A writable mount was full, or nearly, at the end."""
    pids_limit: bool = False
    """A fork was refused at the limit, where the sandbox can know it."""


class Collected(Struct, frozen=True):
    """What was taken out, and what was not, with the reason."""

    files: tuple[File, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    late: tuple[str, ...] = ()
    """Paths of those files that were changed, or put there, after the main process had ended by itself. A change in the
    very moment of its end may be missed; none is told of that was before."""


class CollectBounds(Struct, frozen=True):
    files: int = 500
    bytes: int = 32 << 20
    """All files together, by apparent size."""
    depth: int = 12
    entries: int = 20_000
    """Directory entries looked at, of any kind."""
    path: int = 240
    """Characters in a path."""


LIMITS: Final = ("memory", "pids", "cpu", "disk", "network")
"""What a sandbox should hold: the names in `Guarantees`, and those that may be required."""

Held = Literal["cgroup", "rlimit", "watched", "namespace", "tmpfs", "none"]


class Guarantees(Struct, frozen=True):
    """Which limit is held by what, on this machine, now: found by trying, not assumed."""

    memory: Held = "none"
    pids: Held = "none"
    cpu: Held = "none"
    disk: Held = "none"
    network: Held = "none"
    notes: tuple[str, ...] = ()
    """For people: what is weaker than it could be, and what would mend it."""


class Box(Protocol):
    """One use of one sandbox. Verbs are called from one thread, except `kill`, which any thread may call."""

    def put(self, mount: str, files: Iterable[File]) -> None:
        """Write these files below `mount` (a path of the spec's mounts), before `run`.

        Parents are made as needed; an existing file is replaced. In a writable mount the job owns them.
        ValueError for an unsafe path. ConfigError `disk_too_small` where a writable mount is too small for them:
        trying again will not help. SandboxUnavailable where the machine's own disk is full; SandboxFailed where they
        cannot be written for another reason.
        """
        ...

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        output: Callable[[bytes], None],
        calls: Calls | None = None,
    ) -> End:
        """Run the command, found through PATH, with exactly this environment and PATH, HOME, LANG, TMPDIR
        (which `env` may override), stdin empty, and wait for its main process.

        stdout and stderr arrive together, in order, through `output`, called from a single thread while it
        runs, in chunks of at most 64 KiB; never after `run` has returned; and nothing beyond the output limit
        plus one chunk. When the main process has ended, or a limit is passed, or `kill` was called, **every**
        process of the box is killed; `run` returns when all are dead, within 2 s of a limit. Processes that
        outlive the main one have some 25 ms, in which a file that they go on writing to becomes `Collected.late`; that
        they hold the output delays nothing further. A time in which we stood still (stopped, or with
        an `output` that did not return) is not charged to the wall limit, but for a second or two. ValueError for what
        can be no command: empty, or with a NUL. What `output` raises ends the box, and goes through.

        `calls`, of a box with a `helper`, is told each connection that a program makes to HELPER/socket, from a thread
        of the sandbox's, which must not be held up: whoever uses the channel has a thread of their own. There are
        CHANNELS at once, each counted until we close it; one more is closed at once, and so is each where there is no
        `calls`. When `run` returns, each channel is at its end. Nothing that goes over one is output.
        """
        ...

    def collect(self, mount: str, patterns: Sequence[str], bounds: CollectBounds = CollectBounds()) -> Collected:
        """Take files that the job left below `mount`, after `run`: regular files only, links never followed, names
        clean, in bounds; what is refused is named with its reason. A pattern is a path below the mount, with
        `*`, `?` and `[]` inside a name and `**` for any depth; one that ends in `/`, or names a directory, takes
        all below it. Paths in the answer are relative to the mount, in sorted order.
        """
        ...

    def kill(self) -> None:
        """End the run: its `End.cancelled` is True. Before `run`: `run` then returns at once. Never raises."""
        ...

    def close(self) -> None:
        """Remove all that the box had: processes, cgroups, directories. Idempotent, from any state, never raises
        for what is already gone."""
        ...


class Sandbox(Protocol):
    """Makes boxes of one kind. Safe to use from any thread."""

    @property
    def name(self) -> str:
        """Short and stable: `bubblewrap`, `docker`. Part of a result and of a job's key."""
        ...

    @property
    def default_image(self) -> str:
        """The name of the image that is its own choice; empty where it has none."""
        ...

    @property
    def slots(self) -> int | None:
        """Boxes that it can have at once where all is well; None: as many as whoever uses it likes."""
        ...

    @property
    def seats(self) -> int | None:
        """Boxes that it can have at once now, with those that it has. None: it does not count, and whoever uses it is
        to leave it alone while it fails. A number: it does that itself with each of its parts; 0: with all."""
        ...

    @property
    def places(self) -> tuple[Sandbox, ...]:
        """What `seat` may give: always the same objects."""
        ...

    def seat(
        self, wanted: Callable[[], bool] = lambda: True, *, among: Collection[Sandbox] | None = None
    ) -> AbstractContextManager[Sandbox | None]:
        """Room for one box at a time, for as long as the `with` block lasts, and the sandbox to open it in: one place,
        with one set of images, whose `prepare` gives what its own `open` takes. An exception that leaves the block
        tells how that place did. `among`: one of these places, of which there is at least one.

        Where there is no room now, it waits; None as soon as `wanted` says no. SandboxUnavailable where there is none
        that can be waited for, `sandbox_busy` after some minutes.
        """
        ...

    def probe(self) -> Guarantees:
        """Open a box and run a command in it. SandboxUnavailable, with the exact remedy, if that fails. Cached."""
        ...

    def prepare(self, image: str, folder: Sequence[File] = ()) -> str:
        """Have this image here, outside of any job's clock: pulled or built once.

        `image` is an image's name, or empty for the sandbox's own choice; or, with `folder`, the name of a folder with
        a Dockerfile, whose files these are. Returns what `BoxSpec.image` then names: the image's own digest, so that a
        tag that moves changes nothing in the middle of a run; empty where the sandbox has no images. What a name was
        when it was first prepared it stays, as long as that image is there. Calls for one image at the same time do
        the work once.

        ConfigError where trying again will not help: `image_name`, `image_missing`, `image_login`, `image_arch`, and
        as AssignmentError `image_build`. SandboxUnavailable `sandbox_registry` where the registry is away.
        """
        ...

    def image_digest(self, image: str) -> str:
        """The digest that `prepare` gave for this name; empty before, and where the sandbox has no images. Of several
        places it is the first one's. Asks nobody, never raises."""
        ...

    def image_command(self, digest: str) -> tuple[str, ...]:
        """What an image runs where nothing else is named: its entrypoint, with its command's words as arguments. Empty
        where it names none, and where the sandbox has no images. `digest` is what `prepare` gave. SandboxUnavailable
        `sandbox_image_gone`."""
        ...

    def find_image(self, image: str, folder: Sequence[File] = ()) -> str:
        """The digest of what `prepare` would find here without fetching or building anything; empty where it would
        have to, and where the sandbox has no images. Changes nothing. ConfigError `image_name`."""
        ...

    def open(self, spec: BoxSpec) -> Box:
        """A fresh box, never used before, ready to run. SandboxUnavailable where no box comes up here any more,
        SandboxFailed where it was this one alone; ConfigError `disk_too_small` where its bundle does not fit;
        ValueError for a spec that no box can have (mounts that overlap the
        system's, a working directory that is not a writable mount; root, where the sandbox has no images)."""
        ...

    def sweep(self) -> int:
        """Remove what boxes of dead engines on this machine left behind: processes, cgroups, directories.
        Boxes of living engines are not touched. Returns how many boxes were removed."""
        ...

    def orphans(self) -> int:
        """How many boxes `sweep` would remove now. Removes nothing."""
        ...

    def close(self) -> None:
        """Close every box that is still open, and let go of threads. Idempotent."""
        ...


class OnePlace:
    """What a sandbox says of its room that is one place, with as many boxes as you like."""

    slots: int | None = None
    seats: int | None = None

    @property
    def places(self) -> tuple[Self]:
        """Itself."""
        return (self,)

    def seat(
        self, wanted: Callable[[], bool] = lambda: True, *, among: Collection[Sandbox] | None = None
    ) -> AbstractContextManager[Self]:
        """Itself."""
        return contextlib.nullcontext(self)
