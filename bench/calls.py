"""What the filter costs a system call: the same loop in a box with it and in one without, by turns. Needs gcc.

    python -m bench.calls [turns]

Prints, for a call that is always allowed (getppid), one whose arguments are looked at (ioctl) and a pair of both kinds
(mmap, munmap), the CPU nanoseconds without the filter and what it adds: median, least and most of the turns.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from minitango.archive import File
from minitango.sandbox import BoxSpec, Mount
from minitango.sandbox.bubblewrap import BubblewrapSandbox

CALLS = {
    "getppid": (200_000, "syscall(SYS_getppid)"),
    "ioctl": (200_000, "ioctl(99, 0x5401, 0)"),
    "mmap + munmap": (20_000, "munmap(mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096)"),
}
LOOP = """
    began = now();
    for (int i = 0; i < %d; i++) %s;
    printf("%%f\\n", (now() - began) / %d);
"""
SOURCE = """
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &at);
    return at.tv_sec * 1e9 + at.tv_nsec;
}
int main(void) {
    double began;
    %s
}
"""


def build() -> bytes:
    """The loops as a program that needs nothing."""
    source = SOURCE % "".join(LOOP % (times, call, times) for times, call in CALLS.values())
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "calls")
        command = ["gcc", "-D_GNU_SOURCE", "-O2", "-static", "-w", "-x", "c", "-", "-o", str(program)]
        subprocess.run(command, input=source.encode(), check=True)
        return program.read_bytes()


def turn(sandbox: BubblewrapSandbox, program: bytes) -> list[float]:
    """Nanoseconds of each call, in one box."""
    said: list[bytes] = []
    box = sandbox.open(BoxSpec((Mount("/job", writable=True),), "/job"))
    try:
        box.put("/job", [File("calls", program, executable=True)])
        assert box.run(["/job/calls"], env={}, output=said.append).exit_status == 0
    finally:
        box.close()
    return [float(line) for line in b"".join(said).split()]


def main() -> None:
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    program = build()
    with tempfile.TemporaryDirectory() as state:
        filtered, bare = (BubblewrapSandbox(state=state) for _ in range(2))
        bare._set_up()._filter = None
        pairs = [(turn(bare, program), turn(filtered, program)) for _ in range(turns)]
        for number, name in enumerate(CALLS):
            without = [one[number] for one, _ in pairs]
            added = sorted(two[number] - one[number] for one, two in pairs)
            print(
                f"{name:14} {statistics.median(without):7.0f} ns, and with the filter "
                f"{statistics.median(added):+.0f} ({added[0]:+.0f} to {added[-1]:+.0f})"
            )
        filtered.close()
        bare.close()


if __name__ == "__main__":
    main()
