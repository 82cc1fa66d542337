"""What a bubblewrap box costs beside bare bwrap: pairs in one run, so that a busy machine burdens both alike.

    python -m bench.sandbox [pairs]

Prints, for each way, the median and the 10th and 90th percentile of the wall time and of the CPU time of all
processes, in milliseconds, and the ratio to bare bwrap, pair by pair.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from minitango.archive import File
from minitango.sandbox import BoxSpec, Mount
from minitango.sandbox._profile import arguments
from minitango.sandbox.bubblewrap import BubblewrapSandbox

SPEC = BoxSpec((Mount("/job", writable=True), Mount("/tests")), "/job")
MEGABYTE = [File(f"f{n}", os.urandom(1 << 16)) for n in range(16)]


def cpu() -> float:
    """CPU seconds of this process and of the children that it has waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in both)


def minimal() -> None:
    """bwrap with hardly more than namespaces."""
    links = [word for name in ("bin", "lib", "lib64") for word in ("--symlink", f"usr/{name}", f"/{name}")]
    command = [
        "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--ro-bind",
        "/usr",
        "/usr",
        *links,
        "--",
        "/usr/bin/true",
    ]
    subprocess.run(command, check=True, env={}, stdin=subprocess.DEVNULL)


def bare(sandbox: BubblewrapSandbox) -> Callable[[], None]:
    """bwrap with the very arguments of a box, but `true` in place of our first program: no limits, nothing watched."""
    setting = sandbox._set_up()
    ticket = setting.ticket("")
    handle, source = setting.staging(ticket, 0)
    os.close(handle)

    def run() -> None:
        null, info, seccomp = os.open("/dev/null", os.O_RDWR), os.memfd_create("info"), setting.seccomp_fd()
        keep = [info, *([seccomp] if seccomp >= 0 else [])]
        words = arguments("", SPEC, setting.layout("none"), {"/tests": source}, info_fd=info, seccomp_fd=seccomp)
        process = setting.start([*words, "/usr/bin/true"], uid=ticket.uid, stdin=null, output=null, keep=keep)
        assert process.wait() == 0
        for fd in (null, *keep):
            os.close(fd)

    return run


def box(sandbox: BubblewrapSandbox, files: list[File]) -> Callable[[], None]:
    """A box's whole life."""

    def run() -> None:
        one = sandbox.open(SPEC)
        one.put("/job", files)
        end = one.run(["true"], env={}, output=lambda _: None)
        assert end.exit_status == 0
        one.collect("/job", ["*"])
        one.close()

    return run


def spread(values: list[float]) -> str:
    values = sorted(values)
    low, middle, high = (values[int(len(values) * at)] for at in (0.1, 0.5, 0.9))
    return f"{middle:7.2f} ({low:.2f} .. {high:.2f})"


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as state:
        kernel = BubblewrapSandbox(state=state)
        watched = BubblewrapSandbox(state=state, cgroups=False)
        print(f"uid {os.geteuid()}, {kernel.probe()}")
        watched.probe()
        ways: dict[str, Callable[[], None]] = {
            "fork + exec of true": lambda: subprocess.run(["/usr/bin/true"], check=True, env={}) and None,
            "bwrap, minimal": minimal,
            "bwrap, a box's arguments": bare(kernel),
            "box": box(kernel, []),
            "box, watched": box(watched, []),
            "box, 1 MB in and out": box(kernel, MEGABYTE),
        }
        walls: dict[str, list[float]] = {name: [] for name in ways}
        cpus: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(pairs + 3):
            for name, way in ways.items():
                used, began = cpu(), time.perf_counter()
                way()
                if turn >= 3:
                    walls[name].append((time.perf_counter() - began) * 1e3)
                    cpus[name].append((cpu() - used) * 1e3)
        base = walls["bwrap, a box's arguments"]
        for name in ways:
            ratios = [mine / other for mine, other in zip(walls[name], base, strict=True)]
            print(f"{name:26} wall {spread(walls[name])}  cpu {spread(cpus[name])}  ratio {spread(ratios)}")
        kernel.close()
        watched.close()


if __name__ == "__main__":
    main()
