"""The filter of system calls, run as the kernel would run it: on either machine, whatever this one is."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path
from typing import NamedTuple

import pytest

from minitango.sandbox import _seccomp
from minitango.sandbox._seccomp import build_filter, read_table

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = list(AUDIT)
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
EPERM, ENOSYS, NO_FAMILY = REFUSE | errno.EPERM, REFUSE | errno.ENOSYS, REFUSE | errno.EAFNOSUPPORT
NO_TYPE, NO_PROTOCOL, NO_MEMORY = REFUSE | 94, REFUSE | errno.EPROTONOSUPPORT, REFUSE | errno.ENOMEM
HIGH = 1 << 32
"""A bit that the kernel does not look at in the arguments that are tested."""


class Verdict(NamedTuple):
    answer: int
    steps: int
    looked_at_arguments: bool


def run(program: bytes, number: int, audit: int, *arguments: int) -> Verdict:
    """What the kernel's machine makes of a call."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *arguments, *(0 for _ in range(6 - len(arguments))))
    code = [struct.unpack("=HBBI", program[at : at + 8]) for at in range(0, len(program), 8)]
    at, value, steps, looked = 0, 0, 0, False
    while True:
        operation, then, otherwise, k = code[at]
        at += 1
        steps += 1
        if operation == 0x06:
            return Verdict(k, steps, looked)
        if operation == 0x20:
            assert k % 4 == 0
            value = struct.unpack("=I", data[k : k + 4])[0]
            looked = looked or k > 4
        elif operation == 0x54:
            value &= k
        elif operation == 0x05:
            at += k
        else:
            at += then if {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[operation] else otherwise


def answer(machine: str, name: str, *arguments: int, count_memory: bool = False) -> int:
    program = build_filter(count_memory=count_memory, machine=machine)
    assert program is not None
    return run(program, read_table(machine)[name][0], AUDIT[machine], *arguments).answer


# --- the table ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_the_numbers_are_the_kernels(machine: str, header: str) -> None:
    if not Path(header).exists():
        pytest.skip("the kernel's headers are not installed (try: apt-get install linux-libc-dev)")
    text = Path(header).read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\s*$", text, re.M)}
    known["newfstatat"] = known.get("newfstatat", known.get("fstatat", -1))
    table = read_table(machine)
    newest = max(number for number in known.values() if number < 1000)
    assert len(table) > 280
    for name, (number, _) in table.items():
        assert known.get(name) == number or number > newest or name in ("uretprobe", "uprobe"), name


@pytest.mark.parametrize("machine", MACHINES)
def test_a_number_is_one_call(machine: str) -> None:
    table = read_table(machine)
    assert len({number for number, _ in table.values()}) == len(table)
    assert {answer for _, answer in table.values()} == {"allow", "refuse", "quiet", "depends"}
    assert {name for name, (_, answer) in table.items() if answer == "depends"} == set(_seccomp._DEPENDS)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_number_is_answered_as_the_table_says(machine: str) -> None:
    program = build_filter(count_memory=False, machine=machine)
    assert program is not None
    words = dict(read_table(machine).values())
    expected = {"allow": ALLOW, "refuse": EPERM, "quiet": REFUSE}
    for number in [*range(1200), 0x3FFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF]:
        verdict = run(program, number, AUDIT[machine])
        if words.get(number) != "depends":
            assert verdict.answer == expected.get(words.get(number, ""), ENOSYS), number


@pytest.mark.parametrize("machine", MACHINES)
def test_a_call_is_answered_quickly(machine: str) -> None:
    """And what is always allowed without a look at its arguments: the kernel remembers that, and asks no more."""
    program = build_filter(count_memory=False, machine=machine)
    assert program is not None
    assert len(program) // 8 < 1000
    for name, (number, word) in read_table(machine).items():
        verdict = run(program, number, AUDIT[machine])
        assert verdict.steps <= 24, name
        assert word == "depends" or not verdict.looked_at_arguments, name


@pytest.mark.parametrize("machine", MACHINES)
def test_other_tables_are_closed(machine: str) -> None:
    program = build_filter(count_memory=False, machine=machine)
    assert program is not None
    for audit in (0x40000003, 0x40000028, 0x8000003E, *(AUDIT[other] for other in MACHINES if other != machine)):
        for number in (0, 1, 2, 4, 11, 59, 120, 221):
            assert run(program, number, audit).answer == ENOSYS
    for number in (0, 1, 59, 520, 545):
        assert run(program, 0x40000000 | number, AUDIT[machine]).answer == ENOSYS, "x32"


def test_of_an_unknown_machine_there_is_no_filter() -> None:
    assert build_filter(count_memory=False, machine="pdp11") is None


# --- what is refused, and what is not ------------------------------------------------------------------------

FORBIDDEN = """
    unshare setns mount umount2 pivot_root move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr
    chroot keyctl add_key request_key bpf userfaultfd perf_event_open io_uring_setup io_uring_enter
    io_uring_register memfd_secret open_by_handle_at kexec_load kexec_file_load init_module finit_module
    delete_module reboot swapon swapoff acct quotactl syslog settimeofday clock_settime clock_adjtime adjtimex
    sethostname setdomainname fanotify_init kcmp pidfd_getfd vhangup
"""
NEEDED = """
    read write openat close fstat lseek mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn pread64
    readv writev sched_yield mremap madvise dup nanosleep getpid sendto recvfrom bind listen connect execve
    exit wait4 kill uname fcntl flock fsync getcwd chdir getdents64 futex set_robust_list rseq getrandom
    epoll_create1 epoll_ctl epoll_pwait eventfd2 timerfd_create signalfd4 inotify_init1 pipe2 statx faccessat2
    close_range copy_file_range openat2 membarrier seccomp landlock_create_ruleset clock_gettime
    clock_nanosleep prctl setuid setgid setgroups setresuid capset umask ppoll pidfd_open waitid sendfile
    splice shmat semop msgsnd mincore getcpu sched_getaffinity getrlimit timer_create
"""


@pytest.mark.parametrize("machine", MACHINES)
def test_what_no_job_gets(machine: str) -> None:
    for name in FORBIDDEN.split():
        assert answer(machine, name) == EPERM, name
    assert {"clone3", "io_setup", "mbind", "name_to_handle_at", "remap_file_pages"}.isdisjoint(read_table(machine))
    program = build_filter(count_memory=False, machine=machine)
    assert program is not None
    assert run(program, 435, AUDIT[machine]).answer == ENOSYS, "clone3, on every machine"


@pytest.mark.parametrize("machine", MACHINES)
def test_what_every_job_gets(machine: str) -> None:
    for name in NEEDED.split():
        assert answer(machine, name, *[0xFFFFFFFF] * 6) == ALLOW, name


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("shift", [17, 25, 26, 27, 28, 29, 30])
def test_no_new_namespace(machine: str, shift: int) -> None:
    assert answer(machine, "clone", 1 << shift | 17) == EPERM
    assert answer(machine, "clone", 1 << shift | HIGH) == EPERM
    assert answer(machine, "clone", 0x003D0F00) == ALLOW, "a thread"
    assert answer(machine, "clone", 17) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("family", "type", "protocol", "expected"),
    [
        (1, 1, 0, ALLOW),
        (1, 5 | 0o2000000, 0, ALLOW),
        (2, 1, 0, ALLOW),
        (2, 2 | 0o4000, 17, ALLOW),
        (10, 1 | 0o2004000, 6, ALLOW),
        (HIGH | 2, HIGH | 1, HIGH | 6, ALLOW),
        (2, 3, 255, EPERM),
        (10, 3 | 0o2000000, 58, EPERM),
        (2, 5, 132, NO_TYPE),
        (2, 6, 33, NO_TYPE),
        (2, 10, 0, NO_TYPE),
        (2, 1, 132, NO_PROTOCOL),
        (2, 1, 262, NO_PROTOCOL),
        (10, 2, 58, NO_PROTOCOL),
        *((family, 2, 0, NO_FAMILY) for family in (0, 3, 4, 9, 15, 16, 17, 21, 29, 38, 40, 44, 0xFFFFFFFF)),
    ],
)
def test_which_sockets_there_are(machine: str, family: int, type: int, protocol: int, expected: int) -> None:
    assert answer(machine, "socket", family, type, protocol) == expected
    if family != 1:
        assert answer(machine, "socketpair", family, type, protocol) == NO_FAMILY
    assert answer(machine, "socketpair", 1, 1, 0) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_nothing_is_put_on_top_of_tcp(machine: str) -> None:
    tcp, udp, ulp, no_delay = 6, 17, 31, 1
    no_option = REFUSE | errno.ENOPROTOOPT
    assert answer(machine, "setsockopt", 3, tcp, ulp) == answer(machine, "setsockopt", 3, HIGH | tcp, ulp) == no_option
    for level, option in ((tcp, no_delay), (udp, ulp), (1, ulp), (0, ulp)):
        assert answer(machine, "setsockopt", 3, level, option) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "index"),
    [
        *((f"sched_set{what}", 0) for what in ("affinity", "attr", "param", "scheduler")),
        *(("prlimit64", 0), ("process_vm_readv", 0), ("process_vm_writev", 0), ("ptrace", 1)),
    ],
)
def test_pid_1_is_kept_from_the_job(machine: str, name: str, index: int) -> None:
    for pid, expected in ((0, ALLOW), (1, EPERM), (2, ALLOW), (HIGH, ALLOW), (7 << 32 | 1, EPERM)):
        assert answer(machine, name, *([16] * index), pid) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_the_limit_on_core_files_is_kept_and_every_other_may_be_set(machine: str) -> None:
    core, files = 4, 7
    assert answer(machine, "setrlimit", core, 0x7FFF0000) == answer(machine, "setrlimit", HIGH | core) == REFUSE
    assert answer(machine, "setrlimit", files, 0x7FFF0000) == ALLOW
    for new in (1, 0x7FFF0000, 0x7FFF << 32, 0xFFFF_FFFF_FFFF_FFFF):
        assert answer(machine, "prlimit64", 0, core, new) == REFUSE
        assert answer(machine, "prlimit64", 0, files, new) == ALLOW
        assert answer(machine, "prlimit64", 1, core, new) == EPERM
    assert answer(machine, "prlimit64", 0, core, 0, 0x7FFF0000) == ALLOW, "asking"


@pytest.mark.parametrize("machine", MACHINES)
def test_pid_1_keeps_its_priority(machine: str) -> None:
    process, group, user = range(3)
    for which, who, expected in (
        (process, 0, ALLOW),
        (process, 1, EPERM),
        (process, 2, ALLOW),
        (group, 0, EPERM),
        (user, 0, EPERM),
        (user, 1000, EPERM),
    ):
        assert answer(machine, "setpriority", which, who) == expected
    assert answer(machine, "ioprio_set", 1, 1) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_a_terminal_is_not_written_to_from_behind(machine: str) -> None:
    for command in (0x5412, 0x541C, HIGH | 0x5412, 0xFFFFFFFF_00005412):
        assert answer(machine, "ioctl", 0, command) == EPERM
    for command in (0x5401, 0x5413, 0x5411):
        assert answer(machine, "ioctl", 0x5412, command) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_a_debugger_may_have_addresses_that_are_not_random_and_no_more(machine: str) -> None:
    for persona, expected in ((0xFFFFFFFF, ALLOW), (0, ALLOW), (0x0040000, ALLOW), (0x0400000, EPERM), (8, EPERM)):
        assert answer(machine, "personality", persona) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_huge_pages_are_nobodys(machine: str) -> None:
    assert answer(machine, "mmap", 0, 4096, 3, 0x22) == ALLOW
    assert answer(machine, "mmap", 0, 4096, 3, 0x40022) == NO_MEMORY
    assert answer(machine, "memfd_create", 0, 1) == ALLOW
    assert answer(machine, "memfd_create", 0, 5) == NO_MEMORY
    assert answer(machine, "shmget", 0, 4096, 0o1600) == ALLOW
    assert answer(machine, "shmget", 0, 4096, 0o5600) == NO_MEMORY


@pytest.mark.parametrize("machine", MACHINES)
def test_uncounted_memory_is_refused_where_a_watcher_counts(machine: str) -> None:
    for name in ("memfd_create", "shmget", "msgget", "semget"):
        assert answer(machine, name, count_memory=True) == EPERM
        assert answer(machine, name) == ALLOW
