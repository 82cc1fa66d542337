"""`minitango-student` by the letter of its PROTOCOL.md: an engine that is a few lines here, on a socket of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervised import Frame, descendants, frame, words
from tests.support import PATIENCE, need_bubblewrap

HOME = Path(__file__).parent.parent / "minitango" / "sandbox" / "helper"
NATIVE = HOME / f"minitango-student-{platform.machine()}"
STUDENT = "/minitango/bin/minitango-student"


class Call:
    """The engine's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.settimeout(PATIENCE)
        self._held = b""

    def say(self, kind: str, body: bytes = b"") -> None:
        self.socket.sendall(frame(kind, body))

    def frame_or_end(self) -> Frame | None:
        while len(self._held) < 5 or len(self._held) < 5 + int.from_bytes(self._held[1:5], "big"):
            try:
                more = self.socket.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            if not more:
                assert not self._held
                return None
            self._held += more
        end = 5 + int.from_bytes(self._held[1:5], "big")
        assert end <= 5 + 65536
        kind, body, self._held = chr(self._held[0]), self._held[5:end], self._held[end:]
        return kind, body

    def hear(self, kind: str) -> bytes:
        got = self.frame_or_end()
        assert got is not None
        assert got[0] == kind, got
        return got[1]

    def all_of(self, *kinds: str) -> dict[str, bytes]:
        """What comes up to the end, by kind; nothing else may come."""
        said = dict.fromkeys(kinds, b"")
        while got := self.frame_or_end():
            said[got[0]] += got[1]
        return said

    def end(self, how: int = 0, number: int = 0, text: str = "") -> None:
        self.say("X", struct.pack("!BI", how, number) + text.encode())


class Place:
    """Where the helper runs: a sandbox with our socket, and a directory of ours as its working directory."""

    def __init__(self, home: Path, *, bare: bool = False) -> None:
        """`bare`: nothing else is there at all."""
        self.work = home / "work"
        self.given = home / "given"
        for folder in (self.work, self.given, self.given / "bin"):
            folder.mkdir()
            folder.chmod(0o777)
        shutil.copy(NATIVE, self.given / "bin" / "minitango-student")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.given / "socket"))
        os.chmod(self.given / "socket", 0o666)
        self.listener.settimeout(PATIENCE)
        self.listener.listen()
        self.bare = bare
        self._calls: list[Call] = []
        self._started: list[subprocess.Popen[bytes]] = []

    def command(self, *arguments: str) -> list[str]:
        system: list[str] = []
        if not self.bare:
            for name in ("usr", "bin", "lib", "lib64"):
                if os.path.islink(f"/{name}"):
                    system += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
                elif os.path.isdir(f"/{name}"):
                    system += ["--ro-bind", f"/{name}", f"/{name}"]
        return [
            *("bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--uid", "1000"),
            *("--gid", "1000", *system, "--proc", "/proc", "--dev", "/dev", "--ro-bind", str(self.given), "/minitango"),
            *(
                "--bind",
                str(self.work),
                "/place",
                "--chdir",
                "/place",
                "--setenv",
                "PATH",
                "/minitango/bin:/usr/bin:/bin",
            ),
            *arguments,
        ]

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        return self.start_with(STUDENT, *arguments, stdin=stdin)

    def start_with(self, *command: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self.command(*command), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._started.append(process)
        return process

    def call(self) -> Call:
        self._calls.append(Call(self.listener.accept()[0]))
        return self._calls[-1]

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
        for call in self._calls:
            call.socket.close()
        self.listener.close()


@contextlib.contextmanager
def a_place(*, bare: bool = False) -> Iterator[Place]:
    need_bubblewrap()
    with tempfile.TemporaryDirectory() as home:  # its path is short enough for a socket's
        os.chmod(home, 0o755)
        with contextlib.closing(Place(Path(home), bare=bare)) as made:
            yield made


@pytest.fixture
def place() -> Iterator[Place]:
    with a_place() as made:
        yield made


def over(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Its exit status, stdout and stderr."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


# --- the grader's side ---------------------------------------------------------------------------------


def test_what_is_asked_for_is_said(place: Place) -> None:
    (place.work / "a file").write_bytes(b"x" * 100_000)
    (place.work / "empty").touch()
    options = ["--time", "2.5", "--give=a file:in put", "--give", "empty", "--take", "out/*", "--into=back", "--"]
    process = place.start(*options, "./prog", "--time", "", "ü")
    call = place.call()
    options_said = words(["time=2.5", "give=in put", "give=empty", "take=out/*"])
    assert call.hear("R") == options_said + words(["./prog", "--time", "", "ü"])
    assert call.hear("G") == b"in put"
    assert b"".join(iter(lambda: call.hear("G"), b"")) == b"x" * 100_000
    assert call.hear("G") == b"empty"
    assert call.hear("G") == b""
    assert call.hear("E") == b""
    call.end(number=3)
    assert over(process) == (3, b"", b"")


def test_streams_go_both_ways_at_once_and_whole(place: Place) -> None:
    data = os.urandom(1 << 20) * 4
    process = place.start("cat", stdin=subprocess.PIPE)
    call = place.call()
    call.hear("R")

    def engine() -> None:
        number = 0
        while (got := call.frame_or_end()) and got[0] == "I":
            call.say("Oe"[number % 2], got[1])
            number += 1
        assert got == ("E", b"")
        call.end()

    thread = threading.Thread(target=engine)
    thread.start()
    out, err = process.communicate(data, timeout=PATIENCE)
    thread.join()
    assert process.returncode == 0
    assert len(out) + len(err) == len(data)
    assert out[:1000] == data[:1000] or err[:1000] == data[:1000]


ENDS = [
    ((0, 0, ""), 0, ""),
    ((0, 77, "not shown"), 77, ""),
    ((1, signal.SIGSEGV, ""), 139, "ended by signal 11 (Segmentation fault)"),
    ((2, 0, "wall 2 s"), 124, "took longer than 2 s"),
    ((2, 0, "wall"), 124, "took longer than it may"),
    ((2, 0, "cpu 1 s"), 125, "used more CPU time than 1 s"),
    ((2, 0, "memory 64 MiB"), 125, "needed more memory than 64 MiB"),
    ((2, 0, "output"), 125, "printed more than it may"),
    ((3, errno.ENOENT, ""), 127, "./prog: No such file or directory"),
    ((3, errno.EACCES, ""), 126, "./prog: Permission denied"),
    ((4, 0, "more than 8 at\x1b once"), 125, "more than 8 at? once"),
    ((5, 0, "no command is named"), 125, "no command is named"),
    ((9, 0, ""), 125, "the engine makes no sense"),
]


@pytest.mark.parametrize(("end", "status", "said"), ENDS)
def test_it_ends_as_the_program_did_and_says_why(
    place: Place, end: tuple[int, int, str], status: int, said: str
) -> None:
    process = place.start("./prog")
    call = place.call()
    call.say("O", b"out")
    call.end(*end)
    assert over(process) == (status, b"out", f"minitango-student: {said}\n".encode() if said else b"")
    if end[0] < 9:
        process = place.start("--quiet", "./prog")
        place.call().end(*end)
        assert over(process) == (status, b"", b"")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "which command?"),
        (["--"], "which command?"),
        (["--nothing", "x"], "--nothing: no such option"),
        (["--time"], "--time: its value is missing"),
        (["--time=", "x"], "--time: its value is missing"),
        (["--time", "soon", "x"], "--time soon: not a number"),
        (["--time", "0", "x"], "--time 0: not a number"),
        (["--time", "1e999", "x"], "--time 1e999: not a number"),
        (["--give", "nothing", "x"], "--give nothing: No such file"),
        (["--give", "/dev/zero", "x"], "--give /dev/zero: not a file"),
        (["--give", ".", "x"], "--give .: not a file"),
        (["--take", "x", "x"], "--take needs --into"),
        (["--into", "/usr/x", "x"], "--into /usr/x: Read-only"),
        (["x" * 70_000], "longer than 64 KiB"),
    ],
)
def test_what_cannot_be_asked_for_is_said_before_anything_runs(place: Place, arguments: list[str], said: str) -> None:
    process = place.start(*arguments)
    if any(word in said for word in ("which", "no such option", "missing", "not a number", "needs --into")):
        call = place.call()  # nobody but who wrote the grader can do something about it, and that is told
        assert said in call.hear("B").decode()
        time.sleep(0.05)
        assert process.poll() is None, "it waits until it was heard, as the grader may end at once"
        call.end(5, 0, said)
    status, out, err = over(process)
    assert (status, out) == (125, b"")
    assert err.decode().startswith("minitango-student: ")
    assert said in err.decode()
    assert err.count(b"\n") == 1


def test_help_needs_no_engine(place: Place) -> None:
    place.listener.close()
    status, out, err = over(place.start("--help"))
    assert (status, err) == (0, b"")
    assert b"--take PATTERN" in out


def test_where_there_is_no_engine_it_says_so(place: Place) -> None:
    place.listener.close()
    status, _, err = over(place.start("./prog"))
    assert status == 125
    assert b"only a box of a guarded step has it" in err
    (place.given / "socket").unlink()
    assert over(place.start("./prog"))[0] == 125


@pytest.mark.parametrize("said", [b"", frame("O", b"some"), b"O", b"O\xff\xff\xff\xff", frame("?"), frame("X", b"1")])
def test_an_engine_that_goes_or_makes_no_sense_ends_it(place: Place, said: bytes) -> None:
    process = place.start("./prog")
    call = place.call()
    call.hear("R")
    call.socket.sendall(said)
    call.socket.close()
    status, out, err = over(process)
    assert (status, out) == (125, b"some" if b"some" in said else b"")
    assert err.count(b"\n") == 1


def test_a_file_that_does_not_come_is_named(place: Place) -> None:
    name = b"out/a\x1b[2J"
    for more, said in ((), b"minitango-student: out/a?[2J was not taken: it is too large\n"), (("--quiet",), b""):
        process = place.start(*more, "--take", "out/*", "--into", "got", "./prog")
        call = place.call()
        call.hear("R")
        call.say("N", struct.pack("!I", len(name)) + name + b"it is too large")
        call.end(0, 0, "")
        assert over(process) == (125, b"", said)


def test_what_the_engine_said_before_it_went_is_heard(place: Place) -> None:
    """A refusal comes while a file is still on its way, of which nobody takes more."""
    (place.work / "big").write_bytes(bytes(8 << 20))
    process = place.start("--give", "big", "./prog", stdin=subprocess.PIPE)
    call = place.call()
    call.hear("R")
    call.say("O", b"x" * 60_000)
    call.end(4, 0, "too much")
    call.socket.close()
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.stdin = None
    assert over(process) == (125, b"x" * 60_000, b"minitango-student: too much\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("busy", [False, True])
def test_a_signal_ends_the_call(place: Place, number: signal.Signals, busy: bool) -> None:
    """Also while nobody takes what it has to write."""
    process = place.start("./prog")
    call = place.call()
    call.hear("R")
    if busy:
        assert flood(call.socket.fileno(), frame("O", bytes(65536))) > 65536
        call.socket.settimeout(PATIENCE)
    [helper] = [pid for pid in descendants(process.pid) if name_of(pid) == "minitango-stude"]
    os.kill(helper, number)
    assert set(call.all_of("E")) == {"E"}  # then the end
    assert over(process)[0] == 128 + number  # bwrap's word for it


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_it_takes_no_more_than_goes_on(place: Place) -> None:
    """Neither from a stdin that the engine does not take, nor from an engine whose words nobody reads."""
    process = place.start("./prog", stdin=subprocess.PIPE)
    call = place.call()
    assert process.stdin is not None
    assert flood(process.stdin.fileno()) < 1 << 20
    assert flood(call.socket.fileno(), frame("O", bytes(65536))) < 1 << 20
    process.kill()
    process.communicate()


def flood(fd: int, data: bytes = bytes(65536)) -> int:
    """Bytes that can be written until nothing is taken for a while."""
    os.set_blocking(fd, False)
    sent = 0
    while select.select([], [fd], [], 0.3)[1]:
        with contextlib.suppress(BlockingIOError):
            sent += os.write(fd, data[sent % len(data) :])
    return sent


def test_streams_that_are_closed_are_no_trouble(place: Place) -> None:
    process = place.start_with("sh", "-c", "exec minitango-student ./prog <&- >&- 2>&-")
    call = place.call()
    assert call.hear("R") == words([]) + words(["./prog"])
    assert call.hear("E") == b""
    call.say("O", b"x")
    call.say("e", b"x")
    call.end(number=5)
    assert over(process) == (5, b"", b"")


def test_a_reader_that_goes_ends_it_like_any_program(place: Place) -> None:
    script = 'minitango-student ./prog | head -c 3; echo " ${PIPESTATUS[0]}"'
    process = place.start_with("bash", "-c", script)
    call = place.call()
    with contextlib.suppress(OSError):
        for _ in range(20):
            call.say("O", b"abc" * 10_000)
            time.sleep(0.01)
    out, _ = process.communicate(timeout=PATIENCE)
    assert out == b"abc 141\n"


# --- files that come back ------------------------------------------------------------------------------


def give_back(call: Call, name: bytes, *pieces: bytes) -> None:
    call.say("T", struct.pack("!I", len(name)) + name)
    for piece in (*pieces, b""):
        call.say("T", piece)


def test_files_come_back(place: Place) -> None:
    (place.work / "back").mkdir()
    (place.work / "back").chmod(0o777)
    (place.work / "back" / "there").write_text("before")
    process = place.start("--take", "**", "--into", "back", "./prog")
    call = place.call()
    call.hear("R")
    give_back(call, b"there", b"after")
    give_back(call, b"a/b/deep", b"x" * 65536, b"y")
    give_back(call, b"empty")
    call.end(number=2)
    assert over(process) == (2, b"", b"")
    back = place.work / "back"
    assert (back / "there").read_text() == "after"
    assert (back / "a/b/deep").read_bytes() == b"x" * 65536 + b"y"
    assert (back / "empty").read_bytes() == b""


@pytest.mark.parametrize(
    "name", [b"../x", b"/x", b"a/../../x", b"", b".", b"a//b", b"x\0y", b"x/", b"n" * 5000, b"./x"]
)
def test_a_name_that_leads_out_is_no_sense(place: Place, name: bytes) -> None:
    process = place.start("--take", "**", "--into", "back", "./prog")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may leave at the name
        give_back(place.call(), name, b"x")
    assert over(process) == (125, b"", b"minitango-student: the engine makes no sense\n")
    assert sorted(path.name for path in place.work.rglob("*")) == ["back"]


def test_no_link_is_followed_and_what_cannot_be_written_is_named(place: Place) -> None:
    back = place.work / "back"
    back.mkdir()
    back.chmod(0o777)
    (place.work / "kept").write_text("kept")
    (back / "to").symlink_to("../kept")
    (back / "out").symlink_to("..")
    (back / "folder").mkdir()
    process = place.start("--take", "**", "--into", "back", "./prog")
    call = place.call()
    give_back(call, b"to", b"new")
    give_back(call, b"out/kept", b"new")
    give_back(call, b"folder", b"new")
    call.end()
    status, _, err = over(process)
    assert status == 125
    assert b"out/kept could not be taken: Not a directory" in err
    assert (place.work / "kept").read_text() == "kept"
    assert (back / "to").read_text() == "new"


# --- the student's side --------------------------------------------------------------------------------


def inside(place: Place, *command: str) -> tuple[subprocess.Popen[bytes], Call]:
    process = place.start("--inside")
    call = place.call()
    call.say("R", words([]) + words(command))
    return process, call


def test_a_program_runs_and_its_streams_are_kept_apart(place: Place) -> None:
    process, call = inside(place, "sh", "-c", 'echo "out $1"; echo err >&2; cat; exit 7', "sh", "a b")
    call.say("I", b"in ")
    call.say("I", b"put")
    call.say("E")
    assert call.all_of("O", "e") == {"O": b"out a b\nin put", "e": b"err\n"}
    assert over(process) == (7, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_a_signal_is_its_own_too(place: Place, number: signal.Signals) -> None:
    script = "minitango-student --inside; echo $? $(ls | wc -l)"
    process = place.start_with("sh", "-c", script)
    call = place.call()
    call.say("R", words([]) + words(["sh", "-c", f"kill -{int(number)} $$"]))
    assert call.all_of("O") == {"O": b""}
    assert process.communicate(timeout=PATIENCE)[0] == f"{128 + number} 0\n".encode()


@pytest.mark.parametrize(
    ("command", "number"), [("nothing", errno.ENOENT), ("/place", errno.EACCES), ("/place/text", errno.ENOEXEC)]
)
def test_what_cannot_be_executed_is_told(place: Place, command: str, number: int) -> None:
    (place.work / "text").write_text("echo no shell is asked")
    (place.work / "text").chmod(0o755)
    process, call = inside(place, command)
    assert call.all_of("F") == {"F": struct.pack("!I", number)}
    assert over(process)[0] == 127


def test_much_goes_through_both_ways(place: Place) -> None:
    data = os.urandom(1 << 20) * 4
    process, call = inside(place, "cat")

    def feed() -> None:
        for at in range(0, len(data), 65536):
            call.say("I", data[at : at + 65536])
        call.say("E")

    thread = threading.Thread(target=feed)
    thread.start()
    said = call.all_of("O")
    thread.join()
    assert said == {"O": data}
    assert over(process)[0] == 0


def test_input_that_is_not_read_stops_us_or_is_dropped(place: Place) -> None:
    process, call = inside(place, "sh", "-c", "sleep 1; exec <&-; echo closed; sleep 0.5")
    sent = flood(call.socket.fileno(), frame("I", bytes(65536)))
    assert sent < 1 << 20
    call.socket.settimeout(PATIENCE)
    call.socket.sendall(frame("I", bytes(65536))[sent % 65541 :])  # the rest of the one that was cut
    for _ in range(40):
        call.say("I", bytes(65536))
    assert call.all_of("O") == {"O": b"closed\n"}
    assert over(process)[0] == 0


def test_what_it_left_in_its_pipes_goes_and_a_daemon_holds_nothing_up(place: Place) -> None:
    script = "(sleep 0.5; while echo late; do :; done) & head -c 50000 /dev/zero; head -c 9 /dev/zero >&2; exit 3"
    process, call = inside(place, "sh", "-c", script)
    began = time.monotonic()
    assert call.all_of("O", "e") == {"O": bytes(50_000), "e": bytes(9)}
    assert over(process)[0] == 3
    assert time.monotonic() - began < 3


def test_a_flood_by_what_outlives_the_program_does_not_hold_it(place: Place) -> None:
    process, call = inside(place, "sh", "-c", "(yes; true) & sleep 0.2; exit 3")
    call.all_of("O")
    assert over(process)[0] == 3


def test_output_that_nobody_takes_stops_the_program(place: Place) -> None:
    process, call = inside(place, "sh", "-c", "yes >&2 & exec yes")
    time.sleep(1)
    assert process.poll() is None
    call.socket.close()
    assert process.wait(PATIENCE) == 125
    process.communicate()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        frame("R"),
        frame("R", words([]) + words([])),
        frame("R", words(["time=1"]) + words(["true"])),
        frame("R", words([]) + words(["a\0b"])),
        frame("R", words([]) + words(["true"]) + b"x"),
        frame("R", words([]) + struct.pack("!I", 1 << 31)),
        frame("R", words([]) + struct.pack("!II", 1, 1 << 31)),
        frame("I", b"x"),
        b"R\xff\xff\xff\xff",
        frame("R", words([]) + words(["sleep", "9"])) + frame("?"),
        frame("R", words([]) + words(["sleep", "9"])) + b"I\0\1\0\1",
    ],
)
def test_without_a_request_that_makes_sense_it_leaves(place: Place, said: bytes) -> None:
    process = place.start("--inside")
    call = place.call()
    call.socket.sendall(said)
    call.socket.shutdown(socket.SHUT_WR)
    assert over(process)[0] == 125


def test_it_needs_nothing_of_an_image() -> None:
    with a_place(bare=True) as place:
        process, call = inside(place, "minitango-student", "--help")
        assert call.all_of("O")["O"].startswith(b"Usage: minitango-student")
        assert over(process)[0] == 0


def test_both_sides_together_are_the_program(place: Place) -> None:
    """The engine does no more than to pass on."""
    grader = place.start("sh", "-c", "tr a-z A-Z; echo done >&2; exit 9", stdin=subprocess.PIPE)
    outer = place.call()
    asked = outer.hear("R")
    student = place.start("--inside")
    inner = place.call()
    inner.say("R", asked)

    def forward() -> None:
        while got := outer.frame_or_end():
            inner.say(*got)

    thread = threading.Thread(target=forward)
    thread.start()
    assert grader.stdin is not None
    grader.stdin.write(b"shout\n" * 50_000)
    grader.stdin.close()
    grader.stdin = None
    reading = threading.Thread(target=lambda: outs.append(over(grader)))
    outs: list[tuple[int, bytes, bytes]] = []
    reading.start()
    while got := inner.frame_or_end():
        outer.say(*got)
    outer.end(number=over(student)[0])
    reading.join()
    outer.socket.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert outs == [(9, b"SHOUT\n" * 50_000, b"done\n")]
