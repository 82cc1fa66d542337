"""The first program inside a bubblewrap box, and the words that it and the engine exchange.

It is pid 1 of the box. It says that it is up, waits for the command on its stdin (end-of-file there means that
the engine died: it leaves, and nothing runs), starts it, reaps every orphan, and reports how the command ended on
a pipe that the command cannot reach: close-on-exec, and pid 1 is not dumpable, so `/proc/1/fd` is closed to the
job. Only then does it exit, upon which the kernel kills whatever is left in the box.

    engine -> box    u32 length, then u32 argc and u32-framed strings: rlimits ("4=0 7=1024"), argv, KEY=VALUE;
                     numbers are big-endian
    box -> engine    "R\\n"                                   up, waiting
                     "L <errno>\\n"                           a limit could not be set
                     "E <errno>\\n"                           the command could not be executed
                     "F <errno>\\n"                           no process could be forked for it
                     "X <wait status> <user us> <system us> <max rss KiB> <ended> <others>\\n"

`ended` is when it had, in nanoseconds on the clock of files; `others` is 1 where it left processes behind. Then pid 1
waits for LINGER before it exits, unless they end first: who goes on writing to a file is seen by its ctime, which
ticks every 1 to 10 ms.

Perl is in every Debian and Ubuntu and starts in 1.4 ms, python3 in 6 to 15; both speak the same words.
"""

from __future__ import annotations

import platform
import re
import struct
from collections.abc import Mapping, Sequence

from msgspec import Struct

# argv: status fd, numbers of prctl, wait4, prlimit64 and clock_gettime. Pid 1 asks to be the last one that the kernel
# kills for memory (a job may only raise its own score), and does so before it stops being dumpable: /proc/1 is root's
# then.
PERL = r"""
my ($fd, $prctl, $wait4, $prlimit, $gettime) = @ARGV;
open(my $say, ">&=", $fd) or exit 120;
fcntl($say, 2, 1);
syswrite($say, "R\n");
sub take {
    my ($want, $got) = ($_[0], "");
    while (length($got) < $want) { sysread(STDIN, $got, $want - length($got), length($got)) or exit 0 }
    return $got;
}
my ($argc, $limits, @words) = unpack("N (N/a)*", take(unpack("N", take(4))));
for (split(/ /, $limits)) {
    my ($which, $most) = split(/=/);
    my $pair = pack("QQ", $most, $most);
    syscall($prlimit + 0, 0, $which + 0, $pair, 0) == 0 or do { syswrite($say, "L " . ($! + 0) . "\n"); exit 1 };
}
my ($h, $oom, @keep);
for my $n (3 .. 31) { if (open($h, "<&=", $n)) { fcntl($h, 2, 1); push(@keep, $h); undef $h } }
if (open($oom, ">", "/proc/self/oom_score_adj")) { syswrite($oom, "500") }
syscall($prctl + 0, 4, 0, 0, 0, 0);
pipe(my $failed, my $fail) or exit 121;
my $pid = fork();
if (!defined $pid) { syswrite($say, "F " . ($! + 0) . "\n"); exit 1 }
if (!$pid) {
    open(STDIN, "<", "/dev/null");
    %ENV = ();
    for (@words[$argc .. $#words]) { my ($k, $v) = split(/=/, $_, 2); $ENV{$k} = $v }
    my @argv = @words[0 .. $argc - 1];
    no warnings;
    exec { $argv[0] } @argv;
    syswrite($fail, $! + 0);
    exit 127;
}
syswrite($oom, "0") if $oom;
close($fail); close(STDIN); close(STDOUT); close(STDERR);
my $errno = "";
sysread($failed, $errno, 16);
if (length $errno) { syswrite($say, "E $errno\n"); exit 1 }
while (1) {
    my ($status, $usage) = (pack("i", 0), "\0" x 256);
    my $gone = syscall($wait4 + 0, -1, $status, 0, $usage);
    if ($gone == $pid) {
        my ($us, $uus, $ss, $sus, $rss) = unpack("q5", $usage);
        my ($user, $system) = ($us * 1000000 + $uus, $ss * 1000000 + $sus);
        my $time = "\0" x 16;
        syscall($gettime + 0, 0, $time);
        my ($seconds, $nano) = unpack("qq", $time);
        1 while waitpid(-1, 1) > 0;
        my $others = kill(0, -1) ? 1 : 0;
        my $ended = sprintf("%d%09d", $seconds, $nano);
        syswrite($say, "X " . unpack("i", $status) . " $user $system $rss $ended $others\n");
        for (1 .. 5) {
            1 while waitpid(-1, 1) > 0;
            last unless kill(0, -1);
            select(undef, undef, undef, 0.005);
        }
        exit 0;
    }
    exit 122 if $gone < 0 and $! != 4;
}
"""

# argv: status fd. Where no perl is to be had, or its system call numbers are not known.
PYTHON = r"""
import os, resource, sys, time
say = int(sys.argv[1])
os.set_inheritable(say, False)
os.write(say, b"R\n")
def take(want):
    got = b""
    while len(got) < want:
        more = os.read(0, want - len(got))
        if not more:
            os._exit(0)
        got += more
    return got
def others():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except OSError:
        pass
    try:
        os.kill(-1, 0)
        return True
    except OSError:
        return False
def number(at):
    return int.from_bytes(blob[at:at + 4], "big")
blob = take(int.from_bytes(take(4), "big"))
argc, at, words = number(0) + 1, 4, []
while at < len(blob):
    size = number(at)
    words.append(blob[at + 4:at + 4 + size])
    at += 4 + size
for limit in words[0].split():
    which, most = map(int, limit.split(b"="))
    try:
        resource.setrlimit(which, (most, most))
    except OSError as error:
        os.write(say, b"L %d\n" % error.errno)
        os._exit(1)
for fd in range(3, 32):
    try:
        os.set_inheritable(fd, False)
    except OSError:
        pass
try:
    oom = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    os.write(oom, b"500")
except OSError:
    oom = -1
try:
    import ctypes
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
except Exception:
    pass
failed, fail = os.pipe()
try:
    pid = os.fork()
except OSError as error:
    os.write(say, b"F %d\n" % error.errno)
    os._exit(1)
if not pid:
    try:
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.execvpe(words[1], words[1:argc], dict(word.split(b"=", 1) for word in words[argc:]))
    except OSError as error:
        os.write(fail, b"%d" % error.errno)
    except ValueError:
        os.write(fail, b"22")
    os._exit(127)
if oom >= 0:
    os.write(oom, b"0")
os.close(fail)
for fd in (0, 1, 2):
    os.close(fd)
errno = os.read(failed, 16)
if errno:
    os.write(say, b"E " + errno + b"\n")
    os._exit(1)
while True:
    gone, status, usage = os.wait4(-1, 0)
    if gone == pid:
        times = (int(usage.ru_utime * 1000000), int(usage.ru_stime * 1000000), usage.ru_maxrss)
        ended = time.time_ns()
        os.write(say, b"X %d %d %d %d %d %d\n" % (status, *times, ended, others()))
        for _ in range(5):
            if not others():
                break
            time.sleep(0.005)
        os._exit(0)
"""

_PERL_CALLS = {"x86_64": ("157", "61", "302", "228"), "aarch64": ("167", "260", "261", "113")}
"""Numbers of prctl, wait4, prlimit64 and clock_gettime, for each machine."""

LINGER = 0.025
"""Seconds at most that processes have which the main one left."""

PERL_AT = "/usr/bin/perl"

MAX_COMMAND = 8 << 20
"""Bytes of argv and environment together; the kernel's own limit is lower."""


def perl_known() -> bool:
    """Whether the perl form can run on this machine's architecture."""
    return platform.machine() in _PERL_CALLS


def first_program(*, perl: bool, python: str, status_fd: int) -> list[str]:
    """The command line of pid 1."""
    if perl:
        return [PERL_AT, "-e", PERL, str(status_fd), *_PERL_CALLS[platform.machine()]]
    return [python, "-I", "-S", "-c", PYTHON, str(status_fd)]


def encode_go(command: Sequence[str], env: Mapping[str, str], rlimits: Mapping[int, int]) -> bytes:
    """The message that starts a command under these limits (soft and hard).

    ValueError where it cannot be one: empty, a NUL, a variable's name with `=`, too long.
    """
    if not command or not command[0]:
        raise ValueError("the command is empty")
    for name in env:
        if not name or "=" in name:
            raise ValueError(f"{name!r} cannot name an environment variable")
    limits = " ".join(f"{which}={most}" for which, most in rlimits.items())
    words = [limits, *command, *(f"{name}={value}" for name, value in env.items())]
    encoded = [word.encode("utf-8", "surrogateescape") for word in words]
    if any(b"\0" in word for word in encoded):
        raise ValueError("a command and its environment cannot hold a NUL character")
    body = struct.pack("!I", len(command)) + b"".join(struct.pack("!I", len(word)) + word for word in encoded)
    if len(body) > MAX_COMMAND:
        raise ValueError("the command and its environment are too long")
    return struct.pack("!I", len(body)) + body


class Status(Struct, frozen=True):
    """What pid 1 said at last. `wait` is a raw wait status; times in seconds, `max_rss` in bytes."""

    wait: int | None = None
    exec_error: int | None = None
    fork_error: int | None = None
    limit_error: int | None = None
    cpu: float = 0.0
    max_rss: int = 0
    ended: int | None = None
    """When the main process had, in nanoseconds on the clock of files."""
    others: bool = False
    """Whether processes lived on when it had: pid 1 waits for them a little."""


_STATUS = re.compile(
    rb"(?:E (?P<exec>\d{1,4})|F (?P<fork>\d{1,4})|L (?P<limit>\d{1,4})"
    rb"|X (?P<x>\d{1,6} \d{1,15} \d{1,15} \d{1,15} \d{1,20} [01]))\n"
)


def parse_status(text: bytes) -> Status | None:
    """Read pid 1's last line; None where it is not one, whole and alone."""
    match = _STATUS.fullmatch(text)
    if match is None:
        return None
    if match["exec"]:
        return Status(exec_error=int(match["exec"]))
    if match["fork"]:
        return Status(fork_error=int(match["fork"]))
    if match["limit"]:
        return Status(limit_error=int(match["limit"]))
    wait, user, system, rss, ended, others = (int(word) for word in match["x"].split())
    return Status(wait=wait, cpu=(user + system) / 1e6, max_rss=rss << 10, ended=ended, others=bool(others))
