"""The system calls that a job gets: a seccomp filter, for bwrap's `--seccomp` and for the supervisor of a container,
which adds it to the one that the container has.

An allow-list. `syscalls.txt` has the calls; here is what is answered to those that depend on their arguments, and how
all of it becomes a program for the kernel. Namespaces, dropped capabilities and no_new_privs do the isolating; this
leaves the kernel's lesser known parts, in which holes have been found again and again, unreachable, and keeps what
would undo the limits from a job. Compilers, virtual machines, debuggers and sanitizers work.

The kernel asks the program at every call, so it is a tree: no call passes more than about twenty instructions. Since
Linux 5.11 it remembers which calls are allowed whatever their arguments, and does not ask for those at all.
"""

from __future__ import annotations

import errno
import platform
import struct
from functools import cache
from pathlib import Path
from typing import Final

_TABLE: Final = Path(__file__).with_name("syscalls.txt")
_AUDIT: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32: Final = 0x40000000
"""From here on x86-64 has a second set of numbers."""

_LOAD, _JUMP, _EQUAL, _AT_LEAST, _ANY_OF, _AND, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
"""Where in what the kernel shows these are. Of an argument, the lower half: of most that are tested here the kernel
looks at no more. Both machines are little-endian."""
_FARTHEST: Final = 255
"""Instructions that a test can jump over."""

Code = list[tuple[int, int, int, int]]
"""Instructions: code, how many to skip where the test holds, where it does not, constant."""


def _load(at: int) -> Code:
    return [(_LOAD, 0, 0, at)]


def _argument(index: int) -> Code:
    return _load(_ARGUMENTS + 8 * index)


def _where(test: int, constant: int, then: Code) -> Code:
    """Where the test holds, `then`, which ends with an answer; otherwise go on."""
    return [(test, 0, len(then), constant), *then]


def _refuse(error: int) -> Code:
    return [(_RETURN, 0, 0, 0x00050000 | error)]


_ALLOW: Final[Code] = [(_RETURN, 0, 0, 0x7FFF0000)]
_EPERM: Final = _refuse(errno.EPERM)
_ENOSYS: Final = _refuse(errno.ENOSYS)
_QUIET: Final = _refuse(0)
_ANSWERS: Final = {"allow": _ALLOW, "refuse": _EPERM, "quiet": _QUIET}


# --- what depends on arguments ------------------------------------------------------------------------------

_NEW_NAMESPACES: Final = 0x7E020000
_CLONE: Final = _argument(0) + _where(_ANY_OF, _NEW_NAMESPACES, _EPERM) + _ALLOW

# Pid 1 of a box is ours, and in bubblewrap of the job's uid: a job could starve it, or have the kernel kill it. A
# thread's affinity and priority are set by the thread's number, 0 for itself.
_PID_1: Final = 1


def _not_pid_1(index: int) -> Code:
    return _argument(index) + _where(_EQUAL, _PID_1, _EPERM) + _ALLOW


_PRIO_PROCESS: Final = 0
_PRIORITY: Final[Code] = [  # by group or by user, pid 1 would be among those that are meant
    *_argument(0),
    (_EQUAL, 1, 0, _PRIO_PROCESS),
    *_EPERM,
    *_not_pid_1(1),
]

# The limit on core files stays 1 (`_spec.CORE` says why). Sanitizers set it to 0, and give up where they cannot.
_CORE: Final = 4
_ANY: Final = 0xFFFFFFFF
_SETRLIMIT: Final = _argument(0) + _where(_EQUAL, _CORE, _QUIET) + _ALLOW
_PRLIMIT: Final[Code] = [
    *_argument(0),
    *_where(_EQUAL, _PID_1, _EPERM),
    *_argument(1),
    (_EQUAL, 1, 0, _CORE),
    *_ALLOW,
    *_argument(2),  # where the new limit is; nowhere: it asks for the old one
    *_where(_ANY_OF, _ANY, _QUIET),
    *_load(_ARGUMENTS + 8 * 2 + 4),
    *_where(_ANY_OF, _ANY, _QUIET),
    *_ALLOW,
]

# Of the families that programs need, no raw packets, and none of the protocols that the kernel would load a module for.
_UNIX, _INET, _INET6 = 1, 2, 10
_STREAM, _DATAGRAM, _RAW = 1, 2, 3
_PROTOCOLS: Final = (0, 6, 17)  # whatever the type says, TCP, UDP
_SOCKET: Final[Code] = [
    *_argument(0),
    *_where(_EQUAL, _UNIX, _ALLOW),
    (_EQUAL, 2, 0, _INET),
    (_EQUAL, 1, 0, _INET6),
    *_refuse(errno.EAFNOSUPPORT),
    *_argument(1),
    (_AND, 0, 0, 0xF),  # beside it are flags
    *_where(_EQUAL, _RAW, _EPERM),
    (_EQUAL, 2, 0, _STREAM),
    (_EQUAL, 1, 0, _DATAGRAM),
    *_refuse(94),  # ESOCKTNOSUPPORT: not every system that this is read on has it
    *_argument(2),
    *(step for protocol in _PROTOCOLS for step in _where(_EQUAL, protocol, _ALLOW)),
    *_refuse(errno.EPROTONOSUPPORT),
]
_SOCKETPAIR: Final = _argument(0) + _where(_EQUAL, _UNIX, _ALLOW) + _refuse(errno.EAFNOSUPPORT)

# What puts another protocol on top of TCP (TLS, SMC), for which the kernel would load a module, too.
_SOL_TCP, _TCP_ULP = 6, 31
_SETSOCKOPT: Final[Code] = [
    *_argument(1),
    (_EQUAL, 1, 0, _SOL_TCP),
    *_ALLOW,
    *_argument(2),
    *_where(_EQUAL, _TCP_ULP, _refuse(errno.ENOPROTOOPT)),
    *_ALLOW,
]

# What a debugger and the thread sanitizer want: addresses that are not random. Else the 64-bit Linux that it is.
_NO_RANDOM_ADDRESSES, _ASK = 0x0040000, _ANY
_PERSONALITY: Final = (
    _argument(0) + _where(_EQUAL, _ASK, _ALLOW) + _where(_ANY_OF, _ANY ^ _NO_RANDOM_ADDRESSES, _EPERM) + _ALLOW
)

# Both put words into somebody's terminal.
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_IOCTL: Final = _argument(1) + _where(_EQUAL, _TIOCSTI, _EPERM) + _where(_EQUAL, _TIOCLINUX, _EPERM) + _ALLOW


def _no_huge_pages(index: int, flag: int) -> Code:
    """Those that a machine has set aside count as nobody's memory; without any it answers as this does."""
    return _argument(index) + _where(_ANY_OF, flag, _refuse(errno.ENOMEM)) + _ALLOW


_DEPENDS: Final = {
    "clone": _CLONE,
    "ioctl": _IOCTL,
    "memfd_create": _no_huge_pages(1, 0x4),
    "mmap": _no_huge_pages(3, 0x40000),
    "msgget": _ALLOW,
    "personality": _PERSONALITY,
    "prlimit64": _PRLIMIT,
    "process_vm_readv": _not_pid_1(0),
    "process_vm_writev": _not_pid_1(0),
    "ptrace": _not_pid_1(1),
    "sched_setaffinity": _not_pid_1(0),
    "sched_setattr": _not_pid_1(0),
    "sched_setparam": _not_pid_1(0),
    "sched_setscheduler": _not_pid_1(0),
    "semget": _ALLOW,
    "setpriority": _PRIORITY,
    "setrlimit": _SETRLIMIT,
    "setsockopt": _SETSOCKOPT,
    "shmget": _no_huge_pages(2, 0o4000),
    "socket": _SOCKET,
    "socketpair": _SOCKETPAIR,
}
_UNCOUNTED: Final = ("memfd_create", "msgget", "semget", "shmget")
"""Memory that no process's resident size shows: refused where a watcher, not a control group, counts memory."""


# --- the program ----------------------------------------------------------------------------------------------


def read_table(machine: str) -> dict[str, tuple[int, str]]:
    """The calls of this machine by name: their number, and the answer's word."""
    column = list(_AUDIT).index(machine)
    rows = (line.split() for line in _TABLE.read_text("ascii").splitlines() if not line.startswith("#"))
    return {name: (int(numbers[column]), answer) for name, *numbers, answer in rows if numbers[column] != "-"}


def _tree(ranges: list[tuple[int, Code]]) -> Code:
    """What to do with a number: the code of the range that it is in. Each begins at its number, the first at 0."""
    if len(ranges) == 1:
        return ranges[0][1]
    half = len(ranges) // 2
    lower, upper = _tree(ranges[:half]), _tree(ranges[half:])
    if len(lower) <= _FARTHEST:
        return [(_AT_LEAST, len(lower), 0, ranges[half][0]), *lower, *upper]
    return [(_AT_LEAST, 0, 1, ranges[half][0]), (_JUMP, 0, 0, len(lower)), *lower, *upper]


@cache
def build_filter(*, count_memory: bool, machine: str | None = None) -> bytes | None:
    """The filter as the kernel reads it, for this machine or the named one; None where its numbers are not known.

    With `count_memory`, memory that a watcher cannot see is refused as well.
    """
    machine = machine or platform.machine()
    if machine not in _AUDIT:
        return None
    calls = {}
    for name, (number, answer) in read_table(machine).items():
        calls[number] = _DEPENDS[name] if answer == "depends" else _ANSWERS[answer]
        if count_memory and name in _UNCOUNTED:
            calls[number] = _EPERM
    ranges: list[tuple[int, Code]] = []
    for number in range(max(calls) + 2):
        code = calls.get(number, _ENOSYS)
        if not ranges or ranges[-1][1] != code:
            ranges.append((number, code))
    program: Code = [
        *_load(_MACHINE),
        (_EQUAL, 1, 0, _AUDIT[machine]),
        *_ENOSYS,  # a second set of numbers (32-bit) would pass every test below
        *_load(_NUMBER),
        *_where(_AT_LEAST, _X32, _ENOSYS),
        *_tree(ranges),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
