"""What the canaries run: hostile programs in Python, each bounded well below what would harm a laptop whose sandbox
holds nothing. They print what they came to, where they are let.
"""

from __future__ import annotations

from typing import Final

HELD_FOR: Final = 1.0
"""Seconds for which memory is held: who watches it has time to see."""
MOST_MEMORY: Final = 192 << 20
MOST_PROCESSES: Final = 200
MOST_DISK: Final = 24 << 20
"""Bytes in each directory."""
MOST_OUTPUT: Final = 8 << 20

_EAT: Final = f"""
import mmap, time
def eat():
    held = []
    for _ in range({MOST_MEMORY} >> 22):
        piece = mmap.mmap(-1, 4 << 20)
        for at in range(0, 4 << 20, 4096):
            piece[at] = 1
        held.append(piece)
    time.sleep({HELD_FOR})
"""

MEMORY: Final = f"""{_EAT}
eat()
print("went on")
"""

MEMORY_OF_A_CHILD: Final = f"""{_EAT}
import os
child = os.fork()
if child == 0:
    eat()
    os._exit(0)
print("went on" if os.waitpid(child, 0)[1] == 0 else "the child was ended")
"""

PROCESSES: Final = f"""
import os, time
started = 0
try:
    while started < {MOST_PROCESSES}:
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)
        started += 1
except OSError:
    pass
print(started, flush=True)
os._exit(0)
"""

CPU: Final = """
import os, time
for _ in range(2):
    if os.fork() == 0:
        while time.process_time() < 2:
            pass
        os._exit(0)
os.wait()
os.wait()
print("went on")
"""

TIME: Final = """
import os, signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
end = time.monotonic() + 8
if os.fork() == 0:
    os.setsid()
while time.monotonic() < end:
    time.sleep(1)
print("went on")
"""

SURVIVORS: Final = """
import os, signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        end = time.monotonic() + 8
        while time.monotonic() < end:
            with open("late", "a") as file:
                file.write("x")
            time.sleep(0.005)
    os._exit(0)
time.sleep(0.3)
"""

DISK: Final = f"""
import os
for place in (".", "/tmp", "/dev/shm"):
    written = 0
    try:
        with open(place + "/minitango-canary", "xb", buffering=0) as file:
            while written < {MOST_DISK}:
                written += file.write(bytes(1 << 20))
    except OSError:
        pass
    print(written)
for place in (".", "/tmp", "/dev/shm"):
    try:
        os.unlink(place + "/minitango-canary")
    except OSError:
        pass
for place in ("/", "/usr", "/etc", "/var", "/opt", "/bin", "/root"):
    try:
        open(place + "/minitango-canary", "xb").close()
        os.unlink(place + "/minitango-canary")
        print(place)
    except OSError:
        pass
"""

OUTPUT: Final = f"""
import os
for _ in range({MOST_OUTPUT} >> 16):
    os.write(1, bytes(1 << 16))
"""

# A connected UDP socket sends nothing: it only asks whether there is a way. The addresses are one that is nobody's
# (RFC 5737) and that of cloud metadata.
NETWORK: Final = """
import socket
with open("/proc/net/route") as routes, open("/proc/net/ipv6_route") as others:
    names = [line.split()[0] for line in [*routes][1:]] + [line.split()[-1] for line in others]
for name in sorted({*names} - {"lo"}):
    print("interface", name)
for address in ("192.0.2.1", "169.254.169.254", "2001:db8::1"):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asked:
            asked.connect((address, 9))
        print("route", address)
    except OSError:
        pass
"""

# Each call is made so that it comes to nothing where it is let through, and its error tells the two apart.
KERNEL: Final = """
import ctypes, errno, os, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
X86 = {"mount": 165, "keyctl": 250, "bpf": 321, "io_uring_setup": 425, "open_by_handle_at": 304, "unshare": 272,
       "setns": 308, "perf_event_open": 298, "userfaultfd": 323}
ARM = {"mount": 40, "keyctl": 219, "bpf": 280, "io_uring_setup": 425, "open_by_handle_at": 265, "unshare": 97,
       "setns": 268, "perf_event_open": 241, "userfaultfd": 282}
numbers = {"x86_64": X86, "aarch64": ARM}.get(platform.machine(), {})
NO = (errno.EPERM, errno.EACCES, errno.ENOSYS)
def call(name, *words):
    if name not in numbers:
        return
    ctypes.set_errno(0)
    got = libc.syscall(ctypes.c_long(numbers[name]), *(ctypes.c_long(word) for word in words))
    if got >= 0 or ctypes.get_errno() not in NO:
        print(name)
def new(flags, what):
    if os.fork() == 0:
        if libc.unshare(flags) == 0:
            print("a new", what, "namespace", flush=True)
        os._exit(0)
    os.wait()
new(0x10000000, "user")
new(0x00020000, "mount")
new(0x20000000, "process")
call("mount", 0, 0, 0, 0, 0)
call("keyctl", 0, -3, 0)
call("bpf", 0, 0, 0)
call("io_uring_setup", 1, 0)
call("open_by_handle_at", -1, 0, 0)
call("perf_event_open", 0, 0, -1, -1, 0)
call("userfaultfd", 0xffff)
for family, kind, what in ((40, 1, "VSOCK"), (17, 3, "PACKET"), (2, 3, "raw INET"), (38, 5, "ALG")):
    try:
        socket.socket(family, kind, 1 if family == 2 else 0).close()
        print("a socket of", what)
    except OSError:
        pass
for path, flags in (("/proc/1/environ", os.O_RDONLY), ("/proc/1/mem", os.O_RDONLY), ("/proc/kcore", os.O_RDONLY),
                    ("/proc/sys/kernel/core_pattern", os.O_WRONLY), ("/proc/sysrq-trigger", os.O_WRONLY),
                    ("/var/run/docker.sock", os.O_RDWR)):
    try:
        os.close(os.open(path, flags))
        print("opened", path)
    except OSError:
        pass
if os.getuid() == 0:
    print("is root")
with open("/proc/self/status") as status:
    told = dict(line.split(":", 1) for line in status if ":" in line)
if int(told["CapEff"], 16) or int(told["CapPrm"], 16):
    print("has capabilities", told["CapPrm"].strip())
if told.get("NoNewPrivs", "1").strip() != "1":
    print("may gain privileges")
"""
