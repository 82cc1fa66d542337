"""The conversation with a supervisor: frames as the paper has them, and whatever else may come from a container."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import resource
import socket
import ssl
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitango.archive import File
from minitango.errors import ConfigError, MinitangoError, SandboxFailed, SandboxUnavailable
from minitango.job import Limits
from minitango.sandbox import (
    BoxSpec,
    Bundle,
    CollectBounds,
    End,
    Mount,
    _docker_box,
    _docker_line,
    _docker_stream,
    _frames,
)
from minitango.sandbox._docker_box import DockerBox
from minitango.sandbox._docker_line import Bell, Line, LineLost, LineSilent
from minitango.sandbox._frames import BadFrame, Reader
from tests.certificates import make
from tests.support import PATIENCE, eventually

NONE = (1 << 64) - 1


def frame(kind: str, body: bytes = b"") -> bytes:
    return struct.pack("!BI", ord(kind), len(body)) + body


def piece(data: bytes, stream: int = 1) -> bytes:
    """A piece of a stream, as Docker frames it."""
    return struct.pack("!BxxxI", stream, len(data)) + data


HELLO = struct.pack("!HIQQQQ", 1, 1 | 4 | 16, 64 << 20, 17, 500, 0xE0)


def end(how: int = 0, what: int = 0, number: int = 0, output: int = 0) -> bytes:
    return struct.pack("!BBIQQQQQIBB", how, what, number, 1_500_000, 250_000, 4096, 2048, output, 0, 0, 0)


def entry(name: bytes, kind: bytes = b"f", size: int = 3) -> bytes:
    return struct.pack("!cBQQIH", kind, 1, size, 4096, 1, len(name)) + name


# --- frames, as in the paper -----------------------------------------------------------------------


def test_hello() -> None:
    hello = _frames.hello(HELLO)
    assert (hello.version, hello.loopback, hello.other_interface, hello.cgroup) == (1, True, False, 1)
    assert (hello.no_new_privileges, hello.seccomp, hello.capabilities) == (True, False, 0xE0)
    assert (hello.memory, hello.pids, hello.cores) == (64 << 20, 17, 0.5)
    unknown = _frames.hello(struct.pack("!HIQQQQ", 7, 2 | 8 | 32, 0, NONE, NONE, 0))
    assert (unknown.version, unknown.loopback, unknown.other_interface, unknown.cgroup) == (7, False, True, 2)
    assert (unknown.memory, unknown.pids, unknown.cores) == (None, float("inf"), float("inf"))
    assert (unknown.no_new_privileges, unknown.seccomp) == (False, True)


def test_an_end() -> None:
    ended = _frames.ended(struct.pack("!BBIQQQQQIBB", 1, 0, 9, 2_000_000, 500_000, 0, 7, 11, 2, 1, 1))
    assert (ended.how, ended.what, ended.number, ended.wall, ended.cpu) == ("wall", "status", 9, 2.0, 0.5)
    assert (ended.peak, ended.max_rss, ended.output_bytes, ended.oom_kills) == (None, 7, 11, 2)
    assert (ended.forks_refused, ended.disk_full) == (True, True)


def test_what_failed() -> None:
    assert _frames.problem(struct.pack("!IH", 0, 0)) is None
    assert _frames.problem(struct.pack("!IH", 28, 3) + b"a/b\xff") == _frames.Problem(28, 3, "a/b\\xff")


def test_a_listing() -> None:
    found = list(_frames.entries(entry(b"a") + entry("ü☃".encode(), b"d", 0) + entry(b"\xff", b"p", 1)))
    assert [(one.name, one.kind, one.executable) for one in found] == [
        ("a", "f", True),
        ("ü☃", "d", True),
        ("\udcff", "p", True),
    ]
    assert (found[0].size, found[0].allocated, found[0].links) == (3, 4096, 1)
    raw = bytearray(entry(b"a"))
    flags = {}
    for raw[1] in range(4):
        (one,) = _frames.entries(bytes(raw))
        flags[raw[1]] = one.executable, one.late
    assert flags == {0: (False, False), 1: (True, False), 2: (False, True), 3: (True, True)}
    raw[1] = 4
    with pytest.raises(BadFrame):
        list(_frames.entries(bytes(raw)))


def test_an_answers_end() -> None:
    assert _frames.answered(struct.pack("!IB", 40, 1)) == (40, True)
    assert _frames.os_error(40).errno == errno.ELOOP


def test_files_are_cut_into_frames() -> None:
    data = os.urandom(_frames.PIECE + 5)
    sent = list(_frames.put(2, [File("a/ü", data, executable=True), File("empty", b"")]))
    assert sent[0] == frame("P", struct.pack("!HBQ", 2, 1, len(data)) + "a/ü".encode())
    assert sent[1:3] == [frame("D", data[: _frames.PIECE]), frame("D", data[_frames.PIECE :])]
    assert sent[3:] == [frame("P", struct.pack("!HBQ", 2, 0, 0) + b"empty")]


def test_questions() -> None:
    assert _frames.list_directory(1, "", 9) == frame("L", struct.pack("!HI", 1, 9))
    assert _frames.list_directory(1, "a/b", 9) == frame("L", struct.pack("!HI", 1, 9) + b"a/b")
    assert _frames.look(1, "a\udcff") == frame("S", struct.pack("!H", 1) + b"a\xff")
    assert _frames.get(1, "a", 1 << 40) == frame("G", struct.pack("!HQ", 1, 1 << 40) + b"a")
    assert _frames.lay(3, "/x") == frame("B", struct.pack("!H", 3) + b"/x")


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", ".", "a/..", "../a", "a\0b"])
def test_an_unsafe_path_is_not_asked_for(path: str) -> None:
    with pytest.raises(ValueError, match="unsafe path"):
        _frames.look(0, path)
    with pytest.raises(ValueError, match="unsafe path"):
        list(_frames.put(0, [File(path, b"")]))


def test_a_path_is_bounded() -> None:
    """As the supervisor bounds it, who would answer a longer one by leaving."""
    longest = "/".join(["ü" * 1023 + "a"] * 2)
    assert len(longest.encode()) == _frames.MAX_PATH - 1
    assert _frames.look(0, longest + "a") == frame("S", b"\0\0" + longest.encode() + b"a")
    for ask in (_frames.look, lambda mount, path: list(_frames.put(mount, [File(path, b"")]))):
        with pytest.raises(ValueError, match="4096 bytes"):
            ask(0, longest + "ab")


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "h": _frames.hello,
    "y": _frames.problem,
    "x": _frames.ended,
    "l": lambda body: list(_frames.entries(body)),
    "e": _frames.answered,
}


@given(st.sampled_from(sorted(DECODERS)), st.binary(max_size=200))
@settings(deadline=None)
def test_any_body_is_understood_or_refused(kind: str, body: bytes) -> None:
    with contextlib.suppress(BadFrame):
        DECODERS[kind](body)


@given(st.integers(0, 255), st.integers(0, 255))
def test_an_end_of_an_unknown_kind_is_refused(how: int, what: int) -> None:
    body = end(how, what)
    if how < 5 and what < 5:
        assert _frames.ended(body)
    else:
        with pytest.raises(BadFrame):
            _frames.ended(body)


@pytest.mark.parametrize("name", [b"", b"a/b", b"a\0", b".", b".."])
def test_a_name_that_is_none_is_refused(name: bytes) -> None:
    with pytest.raises(BadFrame):
        list(_frames.entries(entry(name)))


frames = st.lists(st.tuples(st.sampled_from("hyobxlde!"), st.binary(max_size=300)), max_size=8)


def cut(data: bytes, places: list[int]) -> Iterator[bytes]:
    """The same bytes in pieces."""
    at = 0
    for size in places:
        yield data[at : at + size]
        at += size
    yield data[at:]


@given(frames, st.lists(st.integers(1, 50), max_size=40))
@settings(deadline=None)
def test_frames_arrive_however_they_are_cut(sent: list[tuple[str, bytes]], places: list[int]) -> None:
    reader = Reader()
    stream = b"".join(frame(kind, body) for kind, body in sent)
    got = [(one.kind, one.body) for data in cut(stream, places) for one in reader.feed(data)]
    assert got == sent


def test_a_frame_that_is_too_long_is_not_waited_for() -> None:
    with pytest.raises(BadFrame, match="65537 bytes"):
        list(Reader().feed(struct.pack("!BI", ord("o"), _frames.PIECE + 1)))


# --- the line --------------------------------------------------------------------------------------


class Ends:
    """A line, and its far end in the test's hands."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        self.bell = Bell()
        self.line = Line(near, self.bell)

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *_: object) -> None:
        self.line.close()
        self.line.close()
        self.bell.close()
        self.far.close()

    def say(self, *frames: bytes) -> None:
        self.far.sendall(b"".join(piece(one) for one in frames))


@pytest.fixture
def ends() -> Iterator[Ends]:
    with Ends() as made:
        yield made


def test_frames_come_over_a_line(ends: Ends) -> None:
    ends.say(frame("h", HELLO), frame("b") + frame("o", b"out")[:4])
    ends.far.sendall(piece(b"complaint", stream=2) + piece(frame("o", b"out")[4:]))
    got = [ends.line.next(PATIENCE) for _ in range(3)]
    assert [(one.kind, one.body) for one in got if one is not None] == [("h", HELLO), ("b", b""), ("o", b"out")]
    assert ends.line.said == b"complaint"
    assert ends.line.next(0.01) is None


def test_what_is_said_on_stderr_is_bounded(ends: Ends) -> None:
    ends.far.sendall(piece(b"x" * 60_000 + b"the end", stream=2) + piece(frame("b")))
    assert ends.line.next(PATIENCE) is not None
    assert len(ends.line.said) == 4096
    assert ends.line.said.endswith(b"the end")


@pytest.mark.parametrize(
    "bytes_",
    [b"HTTP/1.1 200 OK\r\n", piece(b"", stream=0), piece(frame("?")), struct.pack("!BxxxI", 1, 1 << 31), b""],
    ids=["http", "stdin", "kind", "long", "end"],
)
def test_a_stream_that_makes_no_sense_is_lost(ends: Ends, bytes_: bytes) -> None:
    ends.far.sendall(bytes_)
    ends.far.shutdown(socket.SHUT_WR)
    with pytest.raises(LineLost):
        ends.line.next(PATIENCE)


valid = st.lists(
    st.builds(
        lambda kind, body, stream: piece(frame(kind, body), stream),
        st.sampled_from("hobx"),
        st.binary(max_size=99),
        st.sampled_from([1, 1, 2]),
    ),
    max_size=6,
).map(b"".join)


@given(
    st.one_of(st.binary(max_size=400), valid),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
    st.integers(0, 400),
)
@settings(deadline=None, max_examples=200)
def test_any_stream_gives_frames_and_then_is_lost(stream: bytes, changes: list[tuple[int, int]], length: int) -> None:
    mutated = bytearray(stream[: length or None])
    for at, value in changes:
        if at < len(mutated):
            mutated[at] = value
    with Ends() as ends:
        ends.far.sendall(mutated)
        ends.far.shutdown(socket.SHUT_WR)
        with pytest.raises(LineLost):
            _read_to_its_end(ends.line)


def _read_to_its_end(line: Line) -> None:
    while (got := line.next(PATIENCE)) is not None:
        with contextlib.suppress(BadFrame):
            DECODERS.get(got.kind, len)(got.body)


def test_a_flood_is_not_hoarded(ends: Ends) -> None:
    flood = piece(frame("o", b"x" * 60_000)) * 20 + piece(frame("b") * 10_000)

    def pour() -> None:
        with contextlib.suppress(OSError):
            while True:
                ends.far.sendall(flood)

    with ThreadPoolExecutor(1) as other:
        other.submit(pour)
        tracemalloc.start()
        try:
            for _ in range(200_000):
                assert ends.line.next(PATIENCE) is not None
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            ends.line.close()
    assert peak < 32 << 20


def test_nothing_comes(ends: Ends) -> None:
    assert ends.line.next(0.01) is None
    assert ends.line.next(0.01, bell=True) is None


def test_the_bell_wakes_whoever_waits(ends: Ends) -> None:
    threading.Timer(0.05, ends.bell.ring).start()
    assert ends.line.next(PATIENCE, bell=True) is None
    assert ends.bell.rung
    ends.say(frame("b"))
    assert ends.line.next(PATIENCE) is not None  # and without it, it rings for nobody


def test_the_bell_may_ring_often_and_late(ends: Ends) -> None:
    for _ in range(100_000):
        ends.bell.ring()
    ends.bell.close()
    ends.bell.ring()
    assert ends.bell.rung


def test_what_is_sent_arrives_whole(ends: Ends) -> None:
    data = os.urandom(3 << 20)
    with ThreadPoolExecutor(1) as other:
        got = other.submit(_read_all, ends.far, len(data))
        ends.line.send([data[: 1 << 20], b"", data[1 << 20 :]], PATIENCE)
        assert got.result(PATIENCE) == data


def _read_all(sock: socket.socket, count: int) -> bytes:
    got = io.BytesIO()
    while got.tell() < count:
        got.write(sock.recv(min(65536, count - got.tell())))
    return got.getvalue()


def test_nothing_is_taken(ends: Ends) -> None:
    with pytest.raises(LineSilent):
        ends.line.send([b"x" * (16 << 20)], 0.1)


def test_nobody_is_there_to_take_it(ends: Ends) -> None:
    ends.far.close()
    with pytest.raises(LineLost):
        ends.line.send([b"x"] * 100, PATIENCE)


def test_descriptors_above_1024() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1200:
        pytest.skip("no more descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1030 - len(os.listdir("/proc/self/fd")))]
    try:
        with Ends() as ends:
            assert ends.bell.fileno() > 1023
            ends.say(frame("b"))
            assert ends.line.next(PATIENCE, bell=True) is not None
            with pytest.raises(LineSilent):
                ends.line.send([b"x" * (16 << 20)], 0.05)
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_nothing_of_a_tls_stream_is_left_open(tmp_path: Path) -> None:
    """The SDK gives a reader of the socket, which keeps it open."""
    certificates = make(tmp_path / "certs")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    client = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    near, far = socket.socketpair()
    with ThreadPoolExecutor(1) as other, contextlib.closing(Bell()) as bell:
        shaking = other.submit(server.wrap_socket, far, server_side=True)
        secure = client.wrap_socket(near, server_hostname="127.0.0.1")
        with shaking.result(PATIENCE) as talking:
            line = Line(secure.makefile("rb", buffering=0), bell)
            talking.sendall(piece(frame("b")))
            assert line.next(PATIENCE) is not None
            line.close()
            line.close()
            assert secure.fileno() == -1


# --- a box, with the test as its supervisor --------------------------------------------------------

SPEC = BoxSpec((Mount("/job", writable=True), Mount("/tests")), "/job", Limits(wall=0.2, output=100_000, disk=1 << 20))
IMPATIENT = 0.3


class Played:
    """A box whose supervisor is played by a script: what is read of it, and what it says."""

    def __init__(
        self,
        *,
        patience: float = PATIENCE,
        died: Callable[[], End | MinitangoError] | None = None,
        spec: BoxSpec = SPEC,
    ) -> None:
        near, self.far = socket.socketpair()
        self.far.settimeout(PATIENCE)
        self.bell = Bell()
        self.well: list[bool] = []
        self.enlarged: list[int] = []
        self.box = DockerBox(
            spec,
            Line(near, self.bell),
            self.bell,
            own={},
            filter=b"",
            died=died or (lambda: SandboxFailed("it died", id="box_killed")),
            enlarge=self.enlarged.append,
            closed=lambda _, well: self.well.append(well),
            patience=patience,
        )
        self._other = ThreadPoolExecutor(1)

    def __enter__(self) -> Played:
        return self

    def __exit__(self, *_: object) -> None:
        self.box.close()
        self.box.close()
        self.far.close()
        self._other.shutdown()
        assert len(self.well) == 1

    def script(self, *lines: str | bytes) -> Future[None]:
        """Play: a string is the kind of frame to wait for, bytes are said."""
        return self._other.submit(self._play, lines)

    def script_reading(self, count: int, answer: bytes) -> Future[list[str]]:
        """Read so many frames, then say this: the kinds that were read."""

        def play() -> list[str]:
            kinds = [self._read() for _ in range(count)]
            self.far.sendall(answer)
            return kinds

        return self._other.submit(play)

    def _play(self, lines: tuple[str | bytes, ...]) -> None:
        for line in lines:
            if isinstance(line, bytes):
                self.far.sendall(line)
            else:
                while self._read() != line:
                    pass

    def _read(self) -> str:
        kind, length = struct.unpack("!BI", _read_all(self.far, 5))
        _read_all(self.far, length)
        return chr(kind)

    def run(self, output: Callable[[bytes], None] = lambda _: None) -> End:
        return self.box.run(["true"], env={}, output=output)


def said(*frames: bytes) -> bytes:
    return b"".join(piece(one) for one in frames)


def test_a_whole_life() -> None:
    with Played() as played:
        out: list[bytes] = []
        playing = played.script(
            *("Y", said(frame("y", struct.pack("!IH", 0, 0))), "R"),
            *(said(frame("b"), frame("o", b"out"), frame("x", end(number=3 << 8))), "L"),
            *(said(frame("l", entry(b"a")), frame("e", b"\0" * 5)), "G"),
            *(said(frame("d", b"abc"), frame("e", b"\0" * 5)), "Q"),
        )
        played.box.put("/job", [File("a", b"1")])
        ended = played.run(out.append)
        assert (ended.exit_status, ended.usage.wall, ended.usage.cpu) == (3, 1.5, 0.25)
        assert out == [b"out"]
        left = played.box.collect("/job", ["**"])
        assert left.files == (File("a", b"abc", executable=True),)
        played.box.close()
        playing.result(PATIENCE)
    assert played.well == [True]


def test_what_was_killed_before_it_ran_is_not_begun() -> None:
    with Played() as played:
        played.box.kill()
        kinds = played.script_reading(2, said(frame("x", end(how=4, what=4))))
        assert played.run().cancelled
        assert kinds.result(PATIENCE) == ["K", "R"]


@pytest.mark.parametrize(
    ("lines", "id"),
    [
        ((), "sandbox_hangs"),
        (("R", said(*[frame("b")] * 3)), "sandbox_hangs"),
        (("R", said(frame("h", HELLO))), "box_killed"),
        (("R", said(frame("x", b"short"))), "box_killed"),
        (("R", said(frame("!", b"I cannot"))), "box_killed"),
        (("R", said(frame("o", b"x" * 60_000), frame("o", b"x" * 60_000), frame("o", b"x" * 60_000))), "box_killed"),
        (("R", said(frame("x", end(what=2, number=11)))), "sandbox_failed"),
        (("R", said(frame("x", end(what=3, number=1)))), "sandbox_failed"),
        (("R", said(frame("x", end(what=4)))), "sandbox_failed"),
    ],
)
def test_a_run_that_is_not_told_well(lines: tuple[str | bytes, ...], id: str) -> None:
    with Played(patience=IMPATIENT) as played:
        played.script(*lines)
        with pytest.raises(MinitangoError) as caught:
            played.run()
        assert caught.value.id == id
        assert isinstance(caught.value, SandboxUnavailable if id == "sandbox_hangs" else SandboxFailed)
    assert played.well == [id == "sandbox_failed"]


def test_a_supervisor_that_only_says_that_it_lives() -> None:
    """The limit on wall time is its to keep; where it does not, the run ends all the same."""
    with Played(patience=IMPATIENT) as played:
        stop = threading.Event()

        def beat() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.02):
                    played.far.sendall(said(frame("b"), frame("o", b"")))

        beating = threading.Thread(target=beat)
        beating.start()
        with pytest.raises(SandboxUnavailable) as caught:
            played.run()
        stop.set()
        beating.join()
        assert caught.value.id == "sandbox_hangs"


class Clock:
    """Time as a box sees it, which a test may let pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = 0.0
        monkeypatch.setattr(_docker_box, "time", self)

    def monotonic(self) -> float:
        return time.monotonic() + self.passed


def test_what_we_stood_still_is_nobody_elses_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop that slept: neither the run's time nor the supervisor's silence is measured by it."""
    clock = Clock(monkeypatch)
    with Played(patience=1.5) as played, ThreadPoolExecutor(1) as other:
        running = other.submit(played.run)
        played.script("R").result(PATIENCE)
        clock.passed += 1000
        time.sleep(1.2)  # it has looked once, by then
        played.script(said(frame("b"))).result(PATIENCE)
        played.script(said(frame("x", end()))).result(PATIENCE)
        assert running.result(PATIENCE).exit_status == 0


def test_the_listeners_time_is_not_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    heard: list[bytes] = []

    def listen(data: bytes) -> None:
        clock.passed += 1.5
        heard.append(data)

    with Played(patience=IMPATIENT) as played:
        played.script("R", said(*[frame("o", b"1")] * 4, frame("b"), frame("x", end())))
        assert played.run(listen).exit_status == 0
    assert len(heard) == 4


LONG = BoxSpec(SPEC.mounts, "/job", Limits(wall=600, disk=1 << 20))


def test_a_kill_after_which_a_supervisor_only_says_that_it_lives() -> None:
    """It has our patience, and not what was left of the run's time."""
    with Played(patience=IMPATIENT, spec=LONG) as played:
        stop = threading.Event()

        def beat() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.02):
                    played.far.sendall(said(frame("b")))

        beating = threading.Thread(target=beat)
        beating.start()
        threading.Timer(0.05, played.box.kill).start()
        try:
            with pytest.raises(SandboxUnavailable) as caught:
                played.run()
        finally:
            stop.set()
            beating.join()
        assert caught.value.id == "sandbox_hangs"


@pytest.mark.parametrize("when", ["put", "answer", "run", "before"])
def test_whoever_wants_the_end_does_not_wait_with_our_patience(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_docker_box, _docker_line):
        monkeypatch.setattr(module, "HURRY", IMPATIENT)
    with Played(patience=10 * PATIENCE, spec=LONG) as played:
        threading.Timer(0.0 if when == "before" else 0.2, played.box.kill).start()
        if when == "before":
            eventually(lambda: played.bell.rung)
        files = [File("a", b"x" * (16 << 20 if when == "put" else 1))]
        with pytest.raises(SandboxUnavailable) as caught:
            played.run() if when in ("run", "before") else played.box.put("/job", files)
        assert caught.value.id == "sandbox_hangs"
        assert "said nothing for 0.3 s" in caught.value.message


def test_a_kill_after_the_end_rings_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with Played() as played:
        played.box.close()
        rings: list[None] = []
        monkeypatch.setattr(played.bell, "ring", lambda: rings.append(None))
        played.box.kill()
        assert rings == []


def test_memory_is_given_before_the_files_that_need_it() -> None:
    bundle = Bundle("/tests", "sha256:1", (File("b", b"x" * (6 << 20)),))
    with Played(spec=BoxSpec(SPEC.mounts, "/job", Limits(memory=8 << 20, disk=1 << 20), bundle=bundle)) as played:
        at_first = (8 + 1 + 8 << 20) + (6 << 20) + 1024

        def answer() -> tuple[list[int], str]:
            seen = played._read()
            return list(played.enlarged), seen

        ok = said(frame("y", struct.pack("!IH", 0, 0)))
        for number in range(1, 3):
            seeing = played._other.submit(answer)
            played.script("Y", ok)
            played.box.put("/tests", [File(f"f{number}", b"x" * 4097)])
            enlarged, kind = seeing.result(PATIENCE)
            assert (kind, enlarged[-1]) == ("P", at_first + number * (8192 + 1024))
        played.script("Y", ok)
        played.box.put("/job", [File("f", b"x" * (1 << 20))])
        assert len(played.enlarged) == 2


@pytest.mark.parametrize("when", ["put", "run", "collect"])
def test_the_line_breaks(when: str) -> None:
    """What it was is found out; and a job's own memory is its end, but only in a run."""
    found = End(signal=9, limit="memory", oom_kills=1)
    with Played(died=lambda: found) as played:
        if when == "collect":
            played.script("R", said(frame("x", end())))
            assert played.run().exit_status == 0
        played.far.close()
        if when == "run":
            assert played.run() == found
            assert played.box.collect("/job", ["**"]).files == ()
        else:
            with pytest.raises(SandboxFailed) as caught:
                played.box.put("/job", [File("a", b"")]) if when == "put" else played.box.collect("/job", ["**"])
            assert caught.value.id == "box_killed"
    assert played.well == [False]


def test_files_that_are_not_taken() -> None:
    with Played(patience=IMPATIENT) as played, pytest.raises(SandboxUnavailable) as caught:
        played.box.put("/job", [File("a", b"x" * (16 << 20))])
    assert caught.value.id == "sandbox_hangs"


@pytest.mark.parametrize(
    ("answer", "kind", "id"),
    [
        (frame("y", struct.pack("!IH", 28, 0) + b"a"), ConfigError, "disk_too_small"),
        (frame("y", struct.pack("!IH", 13, 0) + b"a"), SandboxFailed, "sandbox_put"),
        (frame("y", b""), SandboxFailed, "box_killed"),
        (frame("x", end()), SandboxFailed, "box_killed"),
        (b"", SandboxUnavailable, "sandbox_hangs"),
    ],
)
def test_files_that_could_not_be_put(answer: bytes, kind: type[MinitangoError], id: str) -> None:
    with Played(patience=IMPATIENT) as played:
        played.script("Y", said(answer))
        with pytest.raises(kind) as caught:
            played.box.put("/job", [File("a", b"1")])
        assert caught.value.id == id


END = frame("e", struct.pack("!IB", 0, 0))
LISTED = ("L", said(frame("l", entry(b"a")), END), "G")


@pytest.mark.parametrize(
    "lines",
    [
        ("L", said(frame("l", entry(b"a", b"?")))),
        ("L", said(frame("l", b""))),
        ("L", said(*[frame("l", entry(b"a") * 50)] * 3)),
        ("L", said(frame("d", b"abc"))),
        ("L", said(frame("e", b""))),
        (*LISTED, said(frame("d", b"abcd"))),
        (*LISTED, said(frame("d", b""))),
        (*LISTED, said(frame("x", end()))),
    ],
)
def test_what_is_left_is_not_told_well(lines: tuple[str | bytes, ...]) -> None:
    with Played() as played:
        played.script("R", said(frame("x", end())), *lines)
        played.run()
        with pytest.raises(SandboxFailed) as caught:
            played.box.collect("/job", ["**"], CollectBounds(entries=100))
        assert caught.value.id == "box_killed"
    assert played.well == [False]


def test_a_file_that_cannot_be_read_is_refused_alone() -> None:
    for number, reason in ((13, "may not be read"), (40, "link"), (5, "cannot be read")):
        with Played() as played:
            played.script("R", said(frame("x", end())), *LISTED, said(frame("e", struct.pack("!IB", number, 0))))
            played.run()
            ((name, why),) = played.box.collect("/job", ["**"]).refused
            assert name == "a"
            assert reason in why or number == 13, why


def test_what_lies_too_deep_to_be_asked_for_is_refused_alone() -> None:
    """A job makes directories in each other until no path names what is in them."""
    name = "d" * 255
    listed = [line for _ in range(17) for line in ("L", said(frame("l", entry(name.encode(), b"d")), END))]
    with Played() as played:
        playing = played.script("R", said(frame("x", end())), *listed, "Q")
        played.run()
        left = played.box.collect("/job", ["**"], CollectBounds(depth=40, path=10_000))
        ((path, why),) = left.refused
        assert path == "/".join([name] * 17)[: len(path)]
        assert why == f"it cannot be listed: {os.strerror(errno.ENAMETOOLONG)}"
        played.box.close()
        playing.result(PATIENCE)
    assert played.well == [True]


def test_a_name_that_is_too_long_is_not_there() -> None:
    with Played() as played:
        playing = played.script("R", said(frame("x", end())), "Q")
        played.run()
        assert played.box.collect("/job", ["a" * 5000]).files == ()
        played.box.close()
        playing.result(PATIENCE)
    assert played.well == [True]


def test_what_the_listener_raises_goes_through_when_all_is_dead() -> None:
    with Played() as played:
        playing = played.script(
            "R", said(frame("o", b"1")), "K", said(frame("o", b"2"), frame("x", end(how=4, what=0, number=9))), "Q"
        )
        with pytest.raises(ZeroDivisionError):
            played.run(lambda _: 1 // 0)  # type: ignore[arg-type,return-value]
        played.box.close()
        playing.result(PATIENCE)
    assert played.well == [True]


def test_what_the_listener_raises_goes_through_though_nothing_dies() -> None:
    with Played(patience=IMPATIENT) as played:
        played.script("R", said(frame("o", b"1")), "K")
        with pytest.raises(ZeroDivisionError):
            played.run(lambda _: 1 // 0)  # type: ignore[arg-type,return-value]
    assert played.well == [False]


def test_a_kill_that_is_not_answered() -> None:
    with Played(patience=IMPATIENT) as played:
        played.script("R", "K")
        threading.Timer(0.05, played.box.kill).start()
        with pytest.raises(SandboxUnavailable) as caught:
            played.run()
        assert caught.value.id == "sandbox_hangs"


def test_close_from_another_thread_ends_a_run() -> None:
    with Played() as played, ThreadPoolExecutor(1) as other:
        played.script("R", "K", said(frame("x", end(how=4, number=9))), "Q")
        running = other.submit(played.run)
        eventually(lambda: not played.far.getblocking() or True)
        played.box.close()
        assert running.result(PATIENCE).cancelled
    assert played.well == [True]


# --- a long answer ---------------------------------------------------------------------------------


def test_an_answer_in_single_bytes_is_read_as_fast_as_any() -> None:
    """What has come of a message is not gone through again with each byte more."""
    touched = [0]

    class Piece(bytes):
        def __radd__(self, before: bytes) -> Piece:
            touched[0] += len(before) + len(self)
            return Piece(bytes(before) + bytes(self))

        def split(self, *words: Any) -> list[bytes]:
            touched[0] += len(self)
            return bytes(self).split(*words)

    texts = ["x" * 5000, "", "y"]
    answer = b"".join(b'{"stream": "%s"}\n' % text.encode() for text in texts) + b'{"stream": "last"}'
    for size in (1, 7, len(answer)):
        touched[0] = 0
        pieces = [Piece(answer[at : at + size]) for at in range(0, len(answer), size)]
        assert [message.stream for message in _docker_stream.messages(pieces)] == [*texts, "last"]
        assert touched[0] <= 3 * len(answer)
