"""Boxes that are plain processes in a folder, without any isolation: what calls of a guarded step do is tried on them
without a sandbox. What runs in them is the tests' own."""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from minitango.archive import File
from minitango.job import Usage
from minitango.sandbox import BoxSpec, Calls, Channel, ChannelClosed, CollectBounds, Collected, End
from minitango.students import INSIDE, frames
from minitango.testing import FakeBox, FakeChannel, FakeSandbox


class LocalBox:
    """A folder; what the engine has run there is a process with that as its working directory."""

    def __init__(self, spec: BoxSpec, folder: Path) -> None:
        self.spec = spec
        self._folder = folder
        self._channel: FakeChannel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = threading.Event()
        self.closed = False

    def _path(self, mount: str) -> Path:
        return self._folder / mount[1:]

    def put(self, mount: str, files: Iterable[File]) -> None:
        for file in files:
            path = self._path(mount) / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.data)
            path.chmod(0o755 if file.executable else 0o644)

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        output: Callable[[bytes], None],
        calls: Calls | None = None,
    ) -> End:
        assert tuple(command) == INSIDE
        assert calls is not None
        ours, self._channel = FakeChannel.pair()
        calls(ours)
        began = time.monotonic()
        try:
            return self._serve(self._channel, env, began)
        finally:
            self._channel.close()

    def _serve(self, channel: FakeChannel, env: Mapping[str, str], began: float) -> End:
        incoming = frames.read(channel)
        got = frames.request(incoming)
        if got is None or self._killed.is_set():
            return End(cancelled=True)
        words = [sys.executable if got[0].words[0] == "python3" else got[0].words[0], *got[0].words[1:]]
        work = self._path(self.spec.workdir)
        work.mkdir(exist_ok=True)
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(words, cwd=work, stdin=pipe, stdout=pipe, stderr=pipe, env={**env})
        except OSError as error:
            frames.send(channel, "F", (error.errno or errno.EIO).to_bytes(4, "big"))
            return End(exit_status=127)
        if self._killed.is_set():
            self._process.kill()
        pumps = [
            threading.Thread(target=_pump, args=(stream, channel, kind), daemon=True)
            for stream, kind in ((self._process.stdout, "O"), (self._process.stderr, "e"))
        ]
        for pump in pumps:
            pump.start()
        threading.Thread(target=self._feed, args=(incoming,), daemon=True).start()
        limit = None
        try:
            code = self._process.wait(self.spec.limits.wall)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code, limit = self._process.wait(), "wall"
        for pump in pumps:
            pump.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        if self._killed.is_set():
            return End(cancelled=True)
        usage = Usage(wall=time.monotonic() - began, cpu=0.25, memory=1 << 20)
        return End(
            exit_status=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            limit=limit,  # type: ignore[arg-type]
            usage=usage,
        )

    def _feed(self, incoming: Iterator[tuple[str, bytes]]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            for kind, data in incoming:
                if kind == "E":
                    self._process.stdin.close()
                else:
                    self._process.stdin.write(data)
                    self._process.stdin.flush()

    def collect(self, mount: str, patterns: Sequence[str], bounds: CollectBounds = CollectBounds()) -> Collected:
        place = self._path(mount)
        found = {path for pattern in patterns for path in place.glob(pattern) if path.is_file()}
        large = {path for path in found if path.stat().st_size > bounds.bytes}
        return Collected(
            tuple(File(str(path.relative_to(place)), path.read_bytes()) for path in sorted(found - large)),
            refused=tuple((str(path.relative_to(place)), "it is too large") for path in sorted(large)),
        )

    def kill(self) -> None:
        self._killed.set()
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        self.kill()
        self.closed = True


def _pump(stream: object, channel: Channel, kind: str) -> None:
    with contextlib.suppress(ChannelClosed, ValueError):
        while data := stream.read1(65536):  # type: ignore[attr-defined]
            frames.send(channel, kind, data)


class LocalSandbox(FakeSandbox):
    """Opens such boxes below a folder; `boxes` are all that were opened."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.boxes: list[LocalBox] = []

    def open(self, spec: BoxSpec) -> FakeBox:
        self.opened += 1
        folder = self.folder / f"box{self.opened}"
        folder.mkdir(parents=True)
        self.boxes.append(LocalBox(spec, folder))
        return self.boxes[-1]  # type: ignore[return-value]


class Listener:
    """A socket like HELPER/socket: what connects to it, `accept` is given."""

    def __init__(self, path: Path, accept: Calls) -> None:
        self._accept = accept
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen(16)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._accept(FakeChannel(self._socket.accept()[0]))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
