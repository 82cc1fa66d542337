"""The system calls that a job does not get: a seccomp filter, for bwrap's `--seccomp` and for the supervisor of a
container, which adds it to the one that the container has.

Namespaces, dropped capabilities and no_new_privs do the isolating; this takes away the parts of the kernel where
holes have been found again and again, and what would undo the limits. A deny-list, because autograders run
compilers, virtual machines and sanitizers of which no allow-list knows. ptrace stays: debuggers and the leak
sanitizer need it, and all processes of a box are one user anyway.
"""

from __future__ import annotations

import errno
import platform
import struct
from typing import Final

# name: (x86_64, aarch64)
_DENIED: Final = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
# Memory that no process's resident size shows: refused where a watcher, not a cgroup, counts memory.
_UNCOUNTED: Final = {"memfd_create": (319, 279), "shmget": (29, 194)}
# Pid 1 of a box is ours, and of the job's uid: with these a job could starve it or have the kernel kill it. Only a
# call that names pid 1 is refused: a thread's affinity and priority are set by the thread's number.
_ON_A_PROCESS: Final = {
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
}
_SETPRIORITY: Final = (141, 140)
_PRIO_PROCESS: Final = 0
_PID_1: Final = 1
_CLONE: Final = (56, 220)
_CLONE3: Final = 435
_SOCKET: Final = (41, 198)
_SOCKETPAIR: Final = (53, 199)
_NEW_NAMESPACES: Final = 0x7E020000
_FAMILIES: Final = (1, 2, 10)  # UNIX, INET, INET6

_MACHINES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32: Final = 0x40000000

_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000


def _op(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def _case(number: int, then: list[bytes]) -> list[bytes]:
    """Where this system call is asked for, do these steps, which end with an answer; otherwise go on."""
    return [_op(_JEQ, number, 0, len(then)), *then]


def build_filter(*, count_memory: bool, machine: str | None = None) -> bytes | None:
    """The filter as the kernel reads it, for this machine or the named one; None where its numbers are not known.

    With `count_memory`, memory that a watcher cannot see is refused as well.
    """
    known = _MACHINES.get(machine or platform.machine())
    if known is None:
        return None
    column, audit = known
    denied = {**_DENIED, **(_UNCOUNTED if count_memory else {})}
    eperm = _op(_RETURN, _REFUSE | errno.EPERM)
    code = [
        _op(_LOAD, 4),
        _op(_JEQ, audit, 1, 0),
        _op(_RETURN, _REFUSE | errno.ENOSYS),  # a second set of numbers (32-bit) would pass every test below
        _op(_LOAD, 0),
        _op(_JGE, _X32, 0, 1),
        _op(_RETURN, _REFUSE | errno.ENOSYS),
        _op(_JEQ, _CLONE3, 0, 1),
        _op(_RETURN, _REFUSE | errno.ENOSYS),  # its flags are out of a filter's sight; libc falls back to clone
    ]
    for numbers in denied.values():
        code += [_op(_JEQ, numbers[column], 0, 1), eperm]
    allow = _op(_RETURN, _ALLOW)
    # pid_t is 32 bits wide: the kernel, too, looks at no more of the argument
    not_pid_1 = [_op(_JEQ, _PID_1, 0, 1), eperm, allow]
    for numbers in _ON_A_PROCESS.values():
        code += _case(numbers[column], [_op(_LOAD, 16), *not_pid_1])
    # by group or by user, pid 1 would be among those that are meant
    one_process = [_op(_LOAD, 16), _op(_JEQ, _PRIO_PROCESS, 1, 0), eperm]
    code += _case(_SETPRIORITY[column], [*one_process, _op(_LOAD, 24), *not_pid_1])
    code += [_op(_JEQ, _CLONE[column], 0, 4), _op(_LOAD, 16), _op(_JSET, _NEW_NAMESPACES, 0, 1), eperm]
    code += [_op(_RETURN, _ALLOW)]
    code += [_op(_JEQ, _SOCKET[column], 1, 0), _op(_JEQ, _SOCKETPAIR[column], 0, 5), _op(_LOAD, 16)]
    for left, family in zip(range(len(_FAMILIES), 0, -1), _FAMILIES, strict=True):
        code.append(_op(_JEQ, family, left, 0))
    code += [_op(_RETURN, _REFUSE | errno.EAFNOSUPPORT), _op(_RETURN, _ALLOW)]
    return b"".join(code)
