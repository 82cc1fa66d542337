"""For the tests of tools that are built on minitango: a sandbox whose inside is a function, and a clock that waits.

    def inside(run: FakeRun) -> End:
        run.write("/report/results.json", b'{"score": 7}')
        run.print(b"hello\\n")
        return End(exit_status=0)

    with Engine.open(tmp_path, sandbox=FakeSandbox(inside)) as engine: ...

In a guarded step the function is called for the grader, and again, in a box of its own, for each of its calls:

    def inside(run: FakeRun) -> End:
        if run.command == ("./program",):                      # the student's
            run.print(run.input.upper())
            return End(exit_status=0)
        done = run.student("./program", input=b"hello")        # the grader's: what `minitango-student ./program` does
        run.write("/report/results.json", b'{"score": %d}' % (done.stdout == b"HELLO"))
        return End(exit_status=0)

The queue, the blobs, the runner and the readers are the real ones.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from minitango.archive import File, pack
from minitango.errors import ConfigError
from minitango.preflight import PREFLIGHT_ENV
from minitango.sandbox import BoxSpec, Calls, ChannelClosed, CollectBounds, Collected, End, Guarantees, OnePlace
from minitango.students import INSIDE, frames
from minitango.students.calling import REFUSED, Called, call
from minitango.students.frames import BadCall


class FakeChannel:
    """A `Channel`, and the other side of it: two ends of a pair of sockets."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    @classmethod
    def pair(cls) -> tuple[FakeChannel, FakeChannel]:
        """Both ends: what one sends, the other receives."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def recv(self, most: int = 65536) -> bytes:
        """See `Channel.recv`."""
        try:
            return self._end.recv(most)
        except OSError:
            return b""

    def send(self, data: bytes) -> None:
        """See `Channel.send`."""
        try:
            self._end.sendall(data)
        except OSError as error:
            raise ChannelClosed from error

    def shutdown(self) -> None:
        """See `Channel.shutdown`."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """See `Channel.close`."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)  # wakes who waits, which closing alone does not
        self._end.close()


class FakeRun:
    """What the function sees of one run: the command, its environment, the files, and a flag for being killed."""

    def __init__(
        self,
        spec: BoxSpec,
        command: Sequence[str],
        env: Mapping[str, str],
        files: dict[str, File],
        output: Callable[[bytes], None],
        killed: threading.Event,
        connect: Callable[[], FakeChannel] | None = None,
        input: bytes = b"",
    ) -> None:
        self._connect = connect
        self.input = input
        """What student code reads from its standard input; of other runs nothing."""
        self.spec = spec
        self.command = tuple(command)
        self.env = dict(env)
        self.files = files
        self.killed = killed
        self._output = output

    def read(self, path: str) -> bytes:
        """The bytes of a file in the box, by absolute path. KeyError if there is none."""
        return self.files[path].data

    def write(self, path: str, data: bytes) -> None:
        """Leave a file in the box."""
        self.files[path] = File(path, data)

    def print(self, data: bytes) -> None:
        """Print, as the command would."""
        self._output(data)

    def student(
        self,
        *command: str,
        input: bytes = b"",
        time: float | None = None,
        give: Iterable[File] = (),
        take: Sequence[str] = (),
    ) -> Called:
        """Have student code run in a box of its own, as `minitango-student` does for the grader of a guarded step."""
        if self._connect is None:
            raise RuntimeError("this step is not guarded")
        channel = self._connect()
        try:
            return call(channel, command, input=input, time=time, give=tuple(give), take=take)
        finally:
            channel.close()


Inside = Callable[[FakeRun], End]


class FakeBox:
    """A `Box` of a `FakeSandbox`: its files are in memory, its command is the function."""

    def __init__(self, spec: BoxSpec, inside: Inside) -> None:
        self._spec = spec
        self._inside = inside
        self._files: dict[str, File] = {}
        self._killed = threading.Event()
        self._channels: list[FakeChannel] = []

    def put(self, mount: str, files: Iterable[File]) -> None:
        """See `Box.put`; nothing is refused."""
        for file in files:
            path = f"{mount}/{file.path}"
            self._files[path] = File(path, file.data, file.executable)

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        output: Callable[[bytes], None],
        calls: Calls | None = None,
    ) -> End:
        """Call the function, unless the box was killed; the look for commands finds them all."""
        if PREFLIGHT_ENV in env:
            return End(exit_status=0)
        if self._killed.is_set():
            return End(cancelled=True)
        printed = 0

        def count(data: bytes) -> None:
            nonlocal printed
            printed += len(data)
            output(data)

        try:
            if self._spec.helper and tuple(command) == INSIDE and calls is not None:
                end = self._serve(env, self._open_channel(calls))
            else:
                connect = (lambda: self._open_channel(calls)) if self._spec.helper and calls is not None else None
                end = self._inside(FakeRun(self._spec, command, env, self._files, count, self._killed, connect))
        finally:
            for channel in self._channels:
                channel.close()
        if self._killed.is_set():
            return End(cancelled=True)
        return end

    def _open_channel(self, calls: Calls) -> FakeChannel:
        """What a program gets that connects to us."""
        ours, theirs = FakeChannel.pair()
        self._channels.append(theirs)
        if self._killed.is_set():  # who killed it may not have seen this one
            theirs.close()
        calls(ours)
        return theirs

    def _serve(self, env: Mapping[str, str], channel: FakeChannel) -> End:
        """As the program that starts student code, once it has read all its input."""
        try:
            incoming = frames.read(channel)
            got = frames.request(incoming)
            if got is None:
                return End(exit_status=REFUSED)
            read = bytearray()
            for kind, data in incoming:
                if kind == "E":
                    break
                read += data
            run = FakeRun(
                self._spec,
                got[0].words,
                env,
                self._files,
                lambda data: frames.send(channel, "O", data),
                self._killed,
                input=bytes(read),
            )
            end = self._inside(run)
            if end.exec_error is not None:
                frames.send(channel, "F", end.exec_error.to_bytes(4, "big"))
                return End(exit_status=127)
        except (BadCall, ChannelClosed):
            return End(exit_status=REFUSED)
        return end

    def collect(self, mount: str, patterns: Sequence[str], bounds: CollectBounds = CollectBounds()) -> Collected:
        """By `fnmatch` on the whole path; a pattern that ends in `/` takes all below. The real bounds do not apply."""
        found = []
        for path, file in sorted(self._files.items()):
            if not path.startswith(mount + "/"):
                continue
            name = path[len(mount) + 1 :]
            if any(fnmatch.fnmatchcase(name, p + "*" if p.endswith("/") else p) for p in patterns):
                found.append(File(name, file.data, file.executable))
        return Collected(tuple(found))

    def kill(self) -> None:
        """Set `FakeRun.killed`: the function is to look at it where it waits."""
        self._killed.set()
        for channel in tuple(self._channels):
            channel.close()

    def close(self) -> None:
        """As `kill`."""
        self._killed.set()


class FakeSandbox(OnePlace):
    """A `Sandbox` whose commands are one function. No isolation at all: for trusted test code only.

    `images` are the digests of the images that there are, by name; without it, it is a sandbox that has none.
    `commands` has what images run by themselves, by digest.
    """

    name = "fake"
    default_image = ""

    def __init__(
        self,
        inside: Inside | None = None,
        *,
        images: Mapping[str, str] | None = None,
        commands: Mapping[str, tuple[str, ...]] = {},
    ) -> None:
        self._inside = inside or (lambda run: End(exit_status=0))
        self._images = images
        self._commands = commands
        self._prepared: dict[str, str] = {}
        self.opened = 0

    def probe(self) -> Guarantees:
        """No limit holds."""
        return Guarantees(notes=("a fake for tests: nothing is isolated",))

    def prepare(self, image: str, folder: Sequence[File] = ()) -> str:
        """The digest of this name, or of a folder's files. ConfigError `image_missing` where there is none."""
        if self._images is None:
            return ""
        if folder:
            digest = f"sha256:{hashlib.sha256(pack(folder)).hexdigest()}"
        elif image in self._images:
            digest = self._images[image]
        else:
            raise ConfigError(f"there is no image {image!r}", hint="FakeSandbox(images={...})", id="image_missing")
        return self._prepared.setdefault(image, digest)

    def image_digest(self, image: str) -> str:
        """The digest of what was prepared; empty where it was not."""
        return self._prepared.get(image, "")

    def image_command(self, digest: str) -> tuple[str, ...]:
        """What `commands` has for this image's digest; empty for none."""
        return self._commands.get(digest, ())

    def open(self, spec: BoxSpec) -> FakeBox:
        """A box, counted in `opened`."""
        self.opened += 1
        box = FakeBox(spec, self._inside)
        if spec.bundle is not None:
            box.put(spec.bundle.mount, spec.bundle.files)
        return box

    def find_image(self, image: str, folder: Sequence[File] = ()) -> str:
        """The digest of what there is; empty where `prepare` would have to make it."""
        if folder and self._images is not None:
            built = f"sha256:{hashlib.sha256(pack(folder)).hexdigest()}"
            return built if built in self._prepared.values() else ""
        return "" if self._images is None else self._images.get(image, "")

    def orphans(self) -> int:
        """None: nothing outlives its process."""
        return 0

    def sweep(self) -> int:
        """Nothing to remove."""
        return 0

    def close(self) -> None:
        """Nothing to let go of."""


class FakeClock:
    """A clock that moves when told: pass it where a clock is taken."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now += seconds
