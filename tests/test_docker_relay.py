"""Channels at the engine's end: what a supervisor may say of them, and what comes of whatever else it says."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minitango.errors import SandboxFailed
from minitango.job import Limits
from minitango.sandbox import CHANNELS, BoxSpec, Channel, ChannelClosed, Mount
from minitango.sandbox._docker_line import Bell, Line
from minitango.sandbox._frames import REST, WINDOW
from tests.certificates import make
from tests.support import PATIENCE, eventually
from tests.test_docker_line import Played, _read_all, end, frame, piece, said

SPEC = BoxSpec((Mount("/job", writable=True),), "/job", Limits(wall=20, disk=1 << 20), helper=True)


def about(kind: str, number: int, body: bytes = b"") -> bytes:
    return frame(kind, struct.pack("!I", number) + body)


OVER = frame("x", end())


class Calls(Played):
    """A box that is called, with the test as its supervisor."""

    def __init__(self, spec: BoxSpec = SPEC) -> None:
        super().__init__(spec=spec)
        self.channels: list[Channel] = []
        self.heard: list[tuple[str, bytes]] = []

    def running(self, other: ThreadPoolExecutor, calls: Callable[[Channel], None] | None = None):  # type: ignore[no-untyped-def]
        """Start the run."""
        running = other.submit(
            lambda: self.box.run(["true"], env={}, output=lambda _: None, calls=calls or self.channels.append)
        )
        assert self.hear("R")
        return running

    def hear(self, *kinds: str) -> bytes:
        """The next frame, which is of one of these kinds."""
        kind, length = struct.unpack("!BI", _read_all(self.far, 5))
        body = _read_all(self.far, length)
        assert chr(kind) in kinds, (chr(kind), kinds)
        self.heard.append((chr(kind), body))
        return body

    def say(self, *frames: bytes) -> None:
        self.far.sendall(said(*frames))

    def silent(self) -> bool:
        self.far.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            return self.far.recv(1, socket.MSG_PEEK) == b""
        self.far.settimeout(PATIENCE)
        return True

    def connected(self, count: int = 1) -> list[Channel]:
        self.say(*[about("a", number) for number in range(1, count + 1)])
        eventually(lambda: len(self.channels) == count)
        return self.channels


@pytest.fixture
def other() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as made:
        yield made


def test_a_channel_is_used_as_the_paper_says(other: ThreadPoolExecutor) -> None:
    with Calls() as played:
        running = played.running(other)
        [channel] = played.connected()
        played.say(about("c", 1, b"asked"))
        assert (channel.recv(3), channel.recv()) == (b"ask", b"ed")
        channel.send(b"answer")
        assert played.hear("C") == b"\0\0\0\1answer"
        channel.shutdown()
        channel.shutdown()
        assert played.hear("F") == b"\0\0\0\1"
        played.say(about("f", 1))
        assert channel.recv() == b""
        with pytest.raises(ChannelClosed):
            channel.send(b"more")
        channel.close()
        channel.close()
        assert played.hear("X") == b"\0\0\0\1"
        played.say(about("w", 1, struct.pack("!I", 6)), about("g", 1), OVER)  # which were on their way
        assert running.result(PATIENCE).exit_status == 0
    assert played.well == [True]


def test_no_more_is_sent_than_a_window(other: ThreadPoolExecutor) -> None:
    with Calls() as played:
        running = played.running(other)
        [channel] = played.connected()
        sending = other.submit(channel.send, bytes(300_000))
        came = 0
        while came < WINDOW:
            came += len(played.hear("C")) - 4
        assert came == WINDOW
        assert played.silent()
        played.say(about("w", 1, struct.pack("!I", 1000)))
        assert len(played.hear("C")) == 1004
        assert played.silent()
        assert not sending.done()
        played.say(about("g", 1))
        assert isinstance(sending.exception(PATIENCE), ChannelClosed)
        played.say(OVER)
        assert running.result(PATIENCE).exit_status == 0


def test_what_was_read_is_given_back(other: ThreadPoolExecutor) -> None:
    with Calls() as played:
        running = played.running(other)
        [channel] = played.connected()
        played.say(*[about("c", 1, bytes(1 << 15))] * 4)
        assert played.silent()
        got = 0
        while got < WINDOW:
            got += len(channel.recv())
        credit = 0
        while credit < WINDOW:
            number, size = struct.unpack("!II", played.hear("W"))
            assert number == 1
            credit += size
        assert credit == WINDOW
        played.say(OVER)
        assert running.result(PATIENCE).exit_status == 0


@pytest.mark.parametrize("how", ["over", "lost", "kill"])
def test_the_end_wakes_all_and_leaves_what_came(other: ThreadPoolExecutor, how: str) -> None:
    with Calls() as played:
        running = played.running(other)
        channels = played.connected(3)
        played.say(about("c", 2, b"kept"))
        sending = other.submit(channels[0].send, bytes(300_000))
        hearing = other.submit(channels[2].recv)
        if how == "lost":
            played.far.close()
            assert isinstance(running.exception(PATIENCE), SandboxFailed)
        else:
            if how == "kill":
                played.box.kill()
                while played.hear("C", "K"):
                    pass
            played.say(OVER)
            assert running.result(PATIENCE).exit_status == 0
        assert isinstance(sending.exception(PATIENCE), ChannelClosed)
        assert hearing.result(PATIENCE) == b""
        assert (channels[1].recv(), channels[1].recv()) == (b"kept", b"")
        channels[1].shutdown()
        channels[1].close()


BAD = {
    "a out of order": (about("a", 2),),
    "a again": (about("a", 1), about("a", 1)),
    "a of none": (about("a", 0),),
    "one more than there may be": tuple(about("a", number) for number in range(1, CHANNELS + 2)),
    "c of a channel to come": (about("c", 1, b"x"),),
    "c of none": (about("a", 1), about("c", 0, b"x")),
    "c after f": (about("a", 1), about("f", 1), about("c", 1, b"x")),
    "c too much": (about("a", 1), *[about("c", 1, bytes(65532))] * ((WINDOW + REST) // 65532 + 1)),
    "c short": (about("a", 1), frame("c", b"\0\0\1")),
    "w too much": (about("a", 1), about("w", 1, b"\0\0\0\1")),
    "w short": (about("a", 1), about("w", 1, b"\0\0\0")),
    "w long": (about("a", 1), about("w", 1, bytes(5))),
    "f long": (about("a", 1), about("f", 1, b"x")),
    "a long": (about("a", 1, b"x"),),
}


@pytest.mark.parametrize("frames", BAD.values(), ids=BAD.keys())
def test_what_makes_no_sense_ends_the_box(other: ThreadPoolExecutor, frames: tuple[bytes, ...]) -> None:
    with Calls() as played:
        running = played.running(other)
        played.say(*frames)
        error = running.exception(PATIENCE)
        assert isinstance(error, SandboxFailed)
        assert error.id == "box_killed"
        assert "makes no sense" in str(error)
        for channel in played.channels:
            while channel.recv():
                pass
            with pytest.raises(ChannelClosed):
                channel.send(b"x")
    assert played.well == [False]


def test_a_box_without_a_helper_has_no_channels(other: ThreadPoolExecutor) -> None:
    plain = BoxSpec(SPEC.mounts, "/job", SPEC.limits)
    with Played(spec=plain) as played:
        with pytest.raises(ValueError, match="helper"):
            played.box.run(["true"], env={}, output=lambda _: None, calls=lambda _: None)
        played.script("R", said(about("a", 1)))
        with pytest.raises(SandboxFailed, match="makes no sense"):
            played.run()


def test_where_nobody_takes_calls_each_is_closed(other: ThreadPoolExecutor) -> None:
    with Calls() as played:
        running = other.submit(lambda: played.box.run(["true"], env={}, output=lambda _: None))
        played.hear("R")
        for number in range(1, 3 * CHANNELS):
            played.say(about("a", number))
            assert played.hear("X") == struct.pack("!I", number)
        played.say(OVER)
        assert running.result(PATIENCE).exit_status == 0


def test_what_whoever_takes_calls_raises_goes_through_when_all_is_dead(other: ThreadPoolExecutor) -> None:
    with Calls() as played:
        running = played.running(other, lambda _: 1 // 0)  # type: ignore[arg-type,return-value]
        played.say(about("a", 1))
        played.hear("K")
        played.say(OVER)
        assert isinstance(running.exception(PATIENCE), ZeroDivisionError)
    assert played.well == [True]


def test_frames_of_many_threads_do_not_mix_and_a_kill_comes_through(other: ThreadPoolExecutor) -> None:
    """Though the other side takes little at a time."""
    with Calls() as played:
        played.far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        running = played.running(other)
        channels = played.connected(CHANNELS)
        for number, channel in enumerate(channels, 1):
            other.submit(channel.send, bytes([number]) * WINDOW)
        time.sleep(0.2)
        played.box.kill()
        kinds = []
        while "K" not in kinds:
            body = played.hear("C", "K")
            kinds.append(played.heard[-1][0])
            assert set(body[4:]) <= {int.from_bytes(body[:4], "big")}
        played.say(OVER)
        assert running.result(PATIENCE).exit_status == 0


def test_small_pieces_are_held_in_little(other: ThreadPoolExecutor) -> None:
    with Calls() as played:
        running = played.running(other)
        played.connected()
        tracemalloc.start()
        try:
            frames = said(*[about("c", 1, b"x")] * 10_000)
            for _ in range(12):
                played.far.sendall(frames)
            played.say(OVER)
            assert running.result(60).exit_status == 0
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 2 << 20
        assert [sum(len(got) for got in iter(channel.recv, b"")) for channel in played.channels] == [120_000]


def test_what_is_posted_goes_at_once_over_tls_too(tmp_path: Path) -> None:
    certificates = make(tmp_path / "certs")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    client = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    near, far = socket.socketpair()
    with ThreadPoolExecutor(2) as other, contextlib.closing(Bell()) as bell:
        shaking = other.submit(server.wrap_socket, far, server_side=True)
        secure = client.wrap_socket(near, server_hostname="127.0.0.1")
        with shaking.result(PATIENCE) as talking:
            line = Line(secure.makefile("rb", buffering=0), bell)
            waiting = other.submit(line.next, PATIENCE, bell=True)
            took = []
            for _ in range(5):
                time.sleep(0.07)
                began = time.monotonic()
                line.post(b"posted")
                assert talking.recv(6) == b"posted"
                took.append(time.monotonic() - began)
            assert sorted(took)[2] < 0.02
            talking.sendall(piece(frame("b")) + piece(frame("o", bytes(60_000))))
            assert waiting.result(PATIENCE).kind == "b"  # type: ignore[union-attr]
            frame_after = line.next(PATIENCE)
            assert frame_after is not None
            assert len(frame_after.body) == 60_000
            sending = threading.Thread(target=line.send, args=([bytes(4 << 20)], PATIENCE))
            sending.start()
            count = 0
            while count < 4 << 20:
                count += len(talking.recv(1 << 16))
            sending.join()
            line.close()


def test_an_end_comes_though_nothing_is_read(other: ThreadPoolExecutor) -> None:
    with Calls() as played:
        running = played.running(other)
        played.connected(CHANNELS)
        for number in range(1, CHANNELS + 1):
            played.say(*[about("c", number, bytes(65532))] * 5)
        played.say(*[about("f", number) for number in range(1, CHANNELS + 1)], OVER)
        assert running.result(PATIENCE).exit_status == 0
