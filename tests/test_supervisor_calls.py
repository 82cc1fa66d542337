"""Channels of the supervisor, by the letter of its PROTOCOL.md: what its job says to the engine, and the other way."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import supervised as sup
from tests.supervised import CALLS, ENDED, KILLED, WALL, Line, calling, frame, run
from tests.support import PATIENCE, need_bubblewrap

WINDOW = 128 << 10
REST = 256 << 10
SLOTS = 16

CLIENT = """
import os, socket, sys, threading, time
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.connect("CALLS/socket")
    return s
def read(s):
    said = b""
    while piece := s.recv(1 << 16):
        said += piece
    return said
"""


@pytest.fixture(params=["unprivileged", "root", "emulated"])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    if request.param == "root":
        sup.need_root()
    else:
        need_bubblewrap()
    with Line(calling(request.param)) as made:
        made.hello()
        made.calls_at = CALLS[request.param]
        yield made


@pytest.fixture
def plain() -> Iterator[Line]:
    need_bubblewrap()
    with Line(calling("unprivileged")) as made:
        made.hello()
        made.calls_at = CALLS["unprivileged"]
        yield made


def job(line: Line, code: str, **more: float) -> None:
    """Start this program."""
    line.say(run("python3", "-I", "-S", "-c", CLIENT.replace("CALLS", line.calls_at) + code, **more))


def channel(kind: str, number: int, body: bytes = b"") -> bytes:
    return frame(kind, struct.pack("!I", number) + body)


def data(number: int, body: bytes) -> bytes:
    return channel("C", number, body)


def credit(number: int, size: int) -> bytes:
    return channel("W", number, struct.pack("!I", size))


def hear(line: Line, kind: str, number: int = 1) -> bytes:
    """What comes next of this kind, of this channel. What comes before it of others is kept."""
    for at, (found, body) in enumerate(line.kept):
        if found == kind and (kind == "o" or body[:4] == struct.pack("!I", number)):
            del line.kept[at]
            return body if kind == "o" else body[4:]
    while True:
        got = line.frame()
        assert got[0] in "oacfgwb", got
        line.kept.append(got)
        if got[0] == kind:
            return hear(line, kind, number)


def printed(line: Line, until: bytes) -> bytes:
    """Output of the job, up to where these bytes have come."""
    said = b""
    while until not in said:
        said += hear(line, "o")
    return said


def collect(line: Line, number: int, size: int) -> bytes:
    """Bytes of a channel, at least so many."""
    said = b""
    while len(said) < size:
        said += hear(line, "c", number)
    return said


def silent(line: Line, number: int) -> bool:
    """Whether nothing more comes of what this channel says, for a moment."""
    while line.speaks(0.3):
        line.kept.append(line.frame())
    return not [kind for kind, body in line.kept if kind in "cf" and body[:4] == struct.pack("!I", number)]


def ended(line: Line, seen: str = "ob") -> tuple[sup.End, list[tuple[str, bytes]]]:
    """The end, and the frames of channels before it."""
    frames = [got for got in line.kept if got[0] in "acfgw"]
    while (got := line.frame())[0] != "x":
        if got[0] in "acfgw":
            frames.append(got)
        else:
            assert got[0] in seen, got
    return sup.End._make((*struct.unpack("!BBIQQQQQIBB", got[1]), b"")), frames


# --- the plain life of a channel ---------------------------------------------------------------------


def test_both_sides_speak_and_each_ends(line: Line) -> None:
    job(
        line,
        "s = connect(); s.sendall(b'hello'); print(read(s), flush=True); s.sendall(b'bye'); s.close(); time.sleep(9)",
    )
    assert hear(line, "a") == b""
    assert collect(line, 1, 5) == b"hello"
    line.say(data(1, b"an"), data(1, b"swer"), channel("F", 1))
    printed(line, b"b'answer'\n")
    assert collect(line, 1, 3) == b"bye"
    assert hear(line, "f") == b""
    line.say(channel("X", 1), frame("K"))
    assert ended(line)[0].how == KILLED


def test_channels_are_numbered_and_one_place_is_used_again(line: Line) -> None:
    job(line, "for _ in range(20): print(read(connect()).decode(), flush=True)")
    for number in range(1, 21):
        assert hear(line, "a", number) == b""
        line.say(data(number, b"%d" % number), channel("X", number))
        printed(line, b"%d\n" % number)
    assert ended(line)[0].how == ENDED


def test_what_was_sent_before_it_is_closed_arrives(plain: Line) -> None:
    job(plain, "s = connect(); time.sleep(0.3); print(len(read(s)))")
    hear(plain, "a")
    plain.say(*[data(1, bytes(65532))] * 2, data(1, bytes(8)), channel("X", 1))
    printed(plain, b"131072\n")


def test_a_job_whose_reader_is_gone_is_told_of_once(plain: Line) -> None:
    job(plain, "s = connect(); s.close(); time.sleep(9)")
    hear(plain, "a")
    hear(plain, "f")
    plain.say(data(1, b"x"))
    hear(plain, "g")
    plain.say(*[data(1, bytes(60_000))] * 5, channel("F", 1), channel("X", 1), frame("K"))
    assert ended(plain)[0].how == KILLED


def test_it_listens_only_while_the_command_runs_and_is_out_of_the_jobs_reach() -> None:
    sup.need_root()
    with Line(calling("root")) as line:
        line.hello()
        line.calls_at = at = CALLS["root"]
        code = f"""
for what in (lambda: os.unlink("{at}/socket"), lambda: os.rename("{at}/socket", "/mnt/job/s"),
             lambda: open("{at}/new", "w"), lambda: os.chmod("{at}/socket", 0),
             lambda: socket.socket(socket.AF_UNIX).bind("{at}/other")):
    try: what(); print("DONE")
    except OSError: pass
connect()
print("up")
"""
        job(line, code)
        hear(line, "a")
        assert printed(line, b"up\n") == b"up\n"


# --- windows -----------------------------------------------------------------------------------------


def test_no_more_comes_than_a_window_until_it_is_given_back(line: Line) -> None:
    job(
        line,
        "s = connect(); print('up', flush=True); s.sendall(bytes(1 << 20)); print('all', flush=True); time.sleep(99)",
    )
    hear(line, "a")
    printed(line, b"up\n")
    assert len(collect(line, 1, WINDOW)) == WINDOW
    assert silent(line, 1)
    line.say(credit(1, 1000))
    assert len(collect(line, 1, 1000)) == 1000
    assert silent(line, 1)
    left = (1 << 20) - WINDOW - 1000
    while left > 0:
        line.say(credit(1, min(left, WINDOW)))
        left -= len(collect(line, 1, min(left, WINDOW)))
    printed(line, b"all\n")


def test_no_more_is_held_than_a_window_and_what_was_taken_is_told(line: Line) -> None:
    job(line, "s = connect(); s.recv(1); time.sleep(0.5); print(len(read(s)), flush=True); time.sleep(9)")
    hear(line, "a")
    sent = taken = 0
    while sent < 2 << 20:
        while sent + 60_000 - taken <= WINDOW:
            line.say(data(1, bytes(60_000)))
            sent += 60_000
        taken += int.from_bytes(hear(line, "w"), "big")
        assert taken <= sent
    line.say(channel("F", 1))
    assert printed(line, b"\n") == b"%d\n" % (sent - 1)
    taken += sum(int.from_bytes(body[4:], "big") for kind, body in line.kept if kind == "w")
    assert sent - WINDOW // 4 <= taken <= sent


def test_its_memory_is_bounded_whoever_does_not_read(plain: Line) -> None:
    job(plain, f"kept = [connect() for _ in range({SLOTS})]; print('up', flush=True); time.sleep(99)")
    for number in range(1, SLOTS + 1):
        hear(plain, "a", number)
    printed(plain, b"up\n")
    for number in range(1, SLOTS + 1):
        plain.say(data(number, bytes(65532)), data(number, bytes(65532)))
    assert silent(plain, 1)
    assert resident(plain.pid1()) < 4 << 20


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_what_nobody_gives_back_holds_up_nothing_else(plain: Line) -> None:
    code = """
def flood(): connect().sendall(bytes(1 << 20))
for _ in range(4): threading.Thread(target=flood, daemon=True).start()
time.sleep(0.3)
print("here", flush=True)
s = connect(); s.sendall(b"too"); print(read(s), flush=True); os._exit(4)
"""
    job(plain, code)
    came: dict[int, int] = {}
    said = b""
    while len(said) < 12:
        kind, body = plain.frame()
        number = int.from_bytes(body[:4], "big") if kind in "ac" else 0
        if kind == "c":
            came[number] = came.get(number, 0) + len(body) - 4
            if body[4:] == b"too":
                plain.say(data(number, b"yes"), channel("X", number))
        elif kind == "o":
            said += body
    assert said == b"here\nb'yes'\n"
    assert sorted(came.values()) == [3, *[WINDOW] * 4]
    end, _ = ended(plain)
    assert (end.how, end.number >> 8) == (ENDED, 4)


# --- many --------------------------------------------------------------------------------------------


def test_one_more_than_there_may_be_is_closed_at_once(line: Line) -> None:
    code = f"""
kept = [connect() for _ in range({SLOTS})]
def gone():
    try: return connect().recv(1) == b""
    except ConnectionResetError: return True
print(gone(), gone(), flush=True)
kept[3].recv(1)
s = connect()
print(s.recv(9), flush=True)
time.sleep(99)
"""
    job(line, code)
    for number in range(1, SLOTS + 1):
        hear(line, "a", number)
    printed(line, b"True True\n")
    line.say(channel("X", 4))
    hear(line, "a", SLOTS + 1)
    line.say(data(SLOTS + 1, b"welcome"))
    printed(line, b"b'welcome'\n")


def test_connections_are_taken_slowly(plain: Line) -> None:
    code = """
def flood():
    while True:
        try: connect().close()
        except OSError: pass
for _ in range(8): threading.Thread(target=flood, daemon=True).start()
time.sleep(1.5)
os._exit(0)
"""
    job(plain, code)
    began, opened = time.monotonic(), 0
    while (got := plain.frame())[0] != "x":
        if got[0] == "a":
            opened += 1
            plain.say(channel("X", opened))
            assert got[1] == struct.pack("!I", opened)
    assert 20 < opened <= 200 * (int(time.monotonic() - began) + 1)


def test_small_pieces_gather(plain: Line) -> None:
    code = """
s = connect()
s.setblocking(False)
late = time.monotonic() + 1
while time.monotonic() < late:
    try: s.send(b"x")
    except BlockingIOError: pass
"""
    job(plain, code)
    pieces = 0
    while (got := plain.frame())[0] != "x":
        if got[0] == "c":
            pieces += 1
            plain.say(credit(1, len(got[1]) - 4))
    assert 20 < pieces < 3000


# --- the end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [False, True])
def test_what_the_dead_left_comes_before_the_end_as_far_as_it_may(plain: Line, closed: bool) -> None:
    code = """
kept = [connect() for _ in range(3)]
for s in kept:
    assert s.recv(1)
    s.setblocking(False)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
    try:
        while True: s.send(bytes(4096))
    except OSError: pass
"""
    job(plain, code)
    for number in (1, 2, 3):
        hear(plain, "a", number)
    plain.say(*[data(number, b"!") for number in (1, 2, 3)])
    if closed:
        plain.say(channel("F", 1), channel("X", 2))
    end, frames = ended(plain)
    assert end.how == ENDED
    came = dict.fromkeys((1, 2, 3), 0)
    over: list[int] = []
    for kind, body in frames:
        number = int.from_bytes(body[:4], "big")
        assert number not in over
        if kind == "f":
            over.append(number)
        elif kind == "c":
            came[number] += len(body) - 4
    assert sorted(over) == ([1, 3] if closed else [1, 2, 3])
    for number in over:
        assert 200_000 < came[number] <= WINDOW + REST


def test_a_process_that_holds_a_channel_delays_no_end(line: Line) -> None:
    code = """
s = connect()
s.recv(1)
if os.fork() == 0:
    os.setsid()
    while True: s.send(b"x" * 60000)
"""
    job(line, code)
    hear(line, "a")
    line.say(data(1, b"!"))
    began = time.monotonic()
    assert ended(line)[0].how == ENDED
    assert time.monotonic() - began < 3


def test_limits_hold_while_channels_are_full(plain: Line) -> None:
    job(plain, "s = connect(); threading.Thread(target=s.sendall, args=(bytes(1 << 24),)).start(); s.recv(1)", wall=1)
    hear(plain, "a")
    end, _ = ended(plain)
    assert end.how == WALL
    assert 0.9e6 < end.wall < 2e6


def test_after_the_end_what_was_on_its_way_is_nothing(plain: Line) -> None:
    job(plain, "connect().recv(1)")
    hear(plain, "a")
    plain.say(data(1, b"!"))
    ended(plain)
    plain.say(data(1, bytes(60_000)), credit(1, 5), channel("F", 1), channel("X", 1))
    assert plain.answer(sup.list_frame())[0] == 0
    plain.say(data(2, b"x"))
    plain.hear("!")


# --- what makes no sense -----------------------------------------------------------------------------

BAD = {
    "C too much": data(1, bytes(60_000)) * 20,
    "C after F": channel("F", 1) + data(1, b"x"),
    "C of a channel to come": data(2, b"x"),
    "C of none": data(0, b"x"),
    "C short": frame("C", b"\0\0\1"),
    "C empty": frame("C"),
    "W too much": credit(1, 1),
    "W all ones": credit(1, 0xFFFFFFFF),
    "W short": channel("W", 1, b"\0\0\0"),
    "W long": channel("W", 1, bytes(5)),
    "F long": channel("F", 1, b"x"),
    "X long": channel("X", 1, b"x"),
    "X of a channel to come": channel("X", 2),
    "a kind of its own": channel("a", 2),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_frame_of_a_channel_is_the_end(plain: Line, bad: bytes) -> None:
    job(plain, "s = connect(); time.sleep(99)")
    hear(plain, "a")
    with contextlib.suppress(BrokenPipeError):
        plain.say(bad)
    while (got := plain.frame())[0] == "w":
        pass
    assert got[0] == "!"
    assert plain.status() == 3


@pytest.mark.parametrize("kind", "CFXW")
@pytest.mark.parametrize("when", ["before", "file", "without"])
def test_where_there_is_no_channel_its_frames_are_bad(kind: str, when: str) -> None:
    need_bubblewrap()
    with Line(sup.in_bubblewrap() if when == "without" else calling("unprivileged")) as line:
        line.hello()
        if when == "file":
            line.say(frame("P", struct.pack("!HBQ", sup.JOB, 0, 2) + b"a"))
        if when == "without":
            line.say(run("sleep", "9"))
        line.say(channel(kind, 1, bytes(4) if kind == "W" else b""))
        line.hear("!")
        assert line.status() == 3


@pytest.mark.parametrize("mounts", [("s:/calls", "s:/calls"), ("s:/nothing",), ("s:calls",), ("s:/usr",)])
def test_a_socket_that_cannot_be_made_is_no_start(mounts: tuple[str, ...]) -> None:
    need_bubblewrap()
    with Line(calling("unprivileged", "w:/job", *mounts)) as line:
        assert line.frame_or_end() is None
        assert line.process.wait(PATIENCE) == 2
