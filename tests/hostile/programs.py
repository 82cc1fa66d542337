"""Programs that a hostile student might hand in, one for each class of attack, and what must become of them.

They are run in the first of two steps; the second compares `out/answer.txt` with what only it knows. A line that begins
with GOT is something that the program must not get, and `end` is printed by one that came through to its end: what is
between is told by the kernel's own words. None of them is to be run outside of a box.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MIB: Final = 1 << 20


class Program(NamedTuple):
    """One class. `code` is Python."""

    name: str
    code: str
    outcomes: tuple[str, ...] = ("graded",)
    """Which of these it must be: more than one where sandboxes rightly differ."""
    says: tuple[str, ...] = ("end",)
    """Regular expressions, each of which matches in what it printed, if the first of the outcomes is what it was."""
    refuses: tuple[str, ...] = ()
    """Files that it left and that must have been refused."""
    quick: bool = False
    """Whether it is ended by the short limit on wall time."""


TRY = r"""
import errno, os, sys, time
def attempt(name, what):
    "What is not allowed: told if it worked."
    try: result = what()
    except (OSError, MemoryError, ValueError) as error:
        print("refused", name, errno.errorcode.get(getattr(error, "errno", 0), type(error).__name__), flush=True)
        return None
    print("GOT", name, result, flush=True)
    return result
def until_refused(name, what, most=1 << 20):
    n = 0
    try:
        while n < most: what(); n += 1
    except (OSError, MemoryError) as error: why = getattr(error, "errno", None)
    else: why = None
    print(name, n, errno.errorcode.get(why, why), flush=True)
    return n
"""

LIBC = r"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    result = getattr(libc, name)(*arguments) if isinstance(name, str) else libc.syscall(name, *arguments)
    if result < 0: raise OSError(ctypes.get_errno(), "")
    return result
X86 = os.uname().machine == "x86_64"
"""

EXHAUSTION: Final = [
    Program(
        "fork-bomb",
        r"""
import os, time
while True:
    try: os.fork()
    except OSError: time.sleep(0.01)
""",
        ("time_limit",),
        (),
        quick=True,
    ),
    Program(
        "threads",
        TRY
        + r"""
import threading
wait = threading.Event()
def more(): threading.Thread(target=wait.wait, daemon=True).start()
try: until_refused("threads", more)
except RuntimeError: print("no more threads")
print("end", flush=True); os._exit(0)
""",
        says=("no more threads", "end"),
    ),
    Program(
        "memory",
        "held = []\nwhile True: held.append(bytearray(4 << 20))",
        ("memory_limit",),
        (),
    ),
    Program(
        "memory-of-a-child",
        r"""
import os
for turn in range(3):
    if not os.fork():
        held = []
        while True: held.append(bytearray(4 << 20))
    print("child", os.wait()[1], flush=True)
print("end")
""",
        ("graded", "memory_limit"),  # the latter where no control group ends the child alone
        says=("child 9", "end"),
    ),
    Program(
        "memory-of-the-kernel",
        TRY
        + r"""
import socket
def pipes():
    r, w = os.pipe(); os.set_blocking(w, False); held.append((r, w))
    try:
        while True: os.write(w, b"x" * 65536)
    except BlockingIOError: pass
def pairs():
    a, b = socket.socketpair(); a.setblocking(False); held.append((a, b))
    try:
        while True: a.send(b"x" * 65536)
    except BlockingIOError: pass
held = []
until_refused("children", os.fork, 12)
for what in (pipes, pairs): until_refused(what.__name__, what)
time.sleep(60)
""",
        ("memory_limit", "time_limit"),
        (),
        quick=True,
    ),
    Program(
        "shared-memory",
        TRY
        + LIBC
        + r"""
import mmap
def segment():
    id = call("shmget", 0, 8 << 20, 0o1600)
    libc.shmat.restype = ctypes.c_void_p
    ctypes.memset(libc.shmat(id, None, 0), 1, 8 << 20)
if until_refused("segments", segment, 100) > 8: print("GOT shared memory")
""",
        ("memory_limit", "graded"),  # the latter where it is refused, since no control group counts it
        (),
    ),
    Program(
        "disk",
        TRY
        + r"""
def fill(place):
    with open(place + "/fill", "wb", 0) as file:
        while True:
            if file.write(bytes(1 << 20)) < 1 << 20: raise OSError(errno.ENOSPC, "")
for place in ("/job", "/tmp", "/dev/shm", "/", "/var/tmp", "/run", "/dev", "/submission", "/home", "/etc", "/usr"):
    try: fill(place)
    except OSError as error: print(place, errno.errorcode[error.errno])
    try: os.unlink(place + "/fill")
    except OSError: pass
print("end")
""",
        says=(
            "/job ENOSPC",
            "/tmp ENOSPC",
            "/dev/shm ENOSPC",
            "/usr (EROFS|EACCES)",
            "/submission (EROFS|EACCES)",
            "end",
        ),
    ),
    Program(
        "a-file-too-large",
        TRY
        + r"""
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
os.mkdir("out")
fd = os.open("out/large", os.O_CREAT | os.O_WRONLY)
attempt("a file of a TiB", lambda: os.ftruncate(fd, 1 << 40))
attempt("a byte at a TiB", lambda: os.pwrite(fd, b"x", 1 << 40))
print("end")
""",
    ),
    Program(
        "a-place-without-a-bound",
        TRY
        + r"""
lines = [line.split(" - ") for line in open("/proc/self/mountinfo")]
places = {left.split()[4].encode().decode("unicode_escape") for left, _ in lines}
for top in ("/", "/var", "/run", "/dev", "/home", "/mnt", "/media", "/srv", "/opt", "/usr/local", "/sys/fs/cgroup"):
    for folder, folders, _ in os.walk(top):
        places.add(folder)
        if folder.count("/") > 2 or top == "/": folders.clear()
bounded = set()
for place in sorted(places):
    name = os.path.join(place, "hostile-new")
    try: open(name, "x").close()
    except OSError: continue
    held = os.statvfs(place)
    size = held.f_blocks * held.f_frsize
    os.unlink(name)
    bounded.add(place)
    if not 0 < size <= 8 << 20: print("GOT", size, "bytes at", place)
print(sorted(bounded))
print("end")
""",
        says=(r"\['/dev/shm', '/job', '/tmp'(, '/var/tmp')?\]", "end"),
    ),
    Program(
        "inodes",
        TRY
        + r"""
for place in ("/tmp", "/job"):
    n = 0
    def file():
        global n
        n += 1
        open(f"{place}/f{n}", "w").close()
    until_refused(place, file, 2000000)
print("end")
""",
        ("graded", "memory_limit"),
        (),
    ),
    Program(
        "descriptors",
        TRY
        + r"""
n = until_refused("descriptors", lambda: os.open("/dev/null", os.O_RDONLY))
if n > 1024: print("GOT", n)
print("end")
""",
        says=("descriptors 10[0-9][0-9] EMFILE", "end"),
    ),
    Program(
        "zombies",
        TRY
        + r"""
def zombie():
    if not os.fork(): os._exit(0)
n = until_refused("zombies", zombie)
if n > 40: print("GOT", n)
print("end")
""",
        says=("zombies [0-9]+ EAGAIN", "end"),
    ),
    Program(
        "signals-and-timers",
        TRY
        + LIBC
        + r"""
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {40})
n = until_refused("signals", lambda: call("sigqueue", os.getpid(), 40, ctypes.c_void_p(0)), 100000)
if n > 1024: print("GOT", n, "queued signals")
print("end")
""",
        says=("signals [0-9]+ EAGAIN", "end"),
    ),
    Program(
        "locked-memory-and-queues",
        TRY
        + LIBC
        + r"""
import mmap
held = mmap.mmap(-1, 1 << 20)
attempt("mlock", lambda: call("mlock", ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(held))), 1 << 20))
attempt("mlockall", lambda: call("mlockall", 3))
attempt("a message queue", lambda: call("mq_open", b"/queue", os.O_CREAT | os.O_RDWR, 0o600, None))
attempt("huge pages", lambda: mmap.mmap(-1, 2 << 20, flags=0x40022))
attempt("a huge file in memory", lambda: os.memfd_create("x", 4))
print("end")
""",
        says=("refused mlock ", "refused a message queue EMFILE", "refused huge pages ENOMEM", "end"),
    ),
    Program("flood", "import os\nwhile True: os.write(1, b'A' * 65536)", ("output_limit",), ("AAA",)),
    Program("flood-of-short-lines", "import os\nwhile True: os.write(2, b'x\\n' * 32768)", ("output_limit",), ("x\n",)),
    Program("flood-of-single-bytes", "import os\nwhile True: os.write(2, b'\\n')", ("output_limit",), ()),
    Program(
        "flood-by-many",
        "import os\nfor n in range(3): os.fork()\nwhile True: os.write(1, b'\\xff\\x00\\x1b\\xed' * 16384)",
        ("output_limit",),
        (),
    ),
    Program(
        "a-pipe-turned-against-its-reader",
        TRY
        + r"""
import fcntl
fcntl.fcntl(1, 1031, 1 << 20)
os.set_blocking(1, False)
os.write(2, b"taken")
try: print(os.read(os.open("/proc/self/fd/1", os.O_RDONLY | os.O_NONBLOCK), 100))
except OSError: pass
time.sleep(0.05)
os.set_blocking(1, True)
print("end")
""",
    ),
    Program(
        "drip",
        "import os, time\nwhile True: os.write(1, b'.'); time.sleep(0.001)",
        ("time_limit",),
        (r"\.\.\.",),
        quick=True,
    ),
]

TIME: Final = [
    Program("sleeper", "import time\ntime.sleep(1e6)", ("time_limit",), (), quick=True),
    Program(
        "ignores-every-signal",
        r"""
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
""",
        ("time_limit",),
        (),
        quick=True,
    ),
    Program(
        "stops-everything",
        r"""
import os, signal
if os.fork(): os.kill(-1, signal.SIGSTOP); os.kill(os.getpid(), signal.SIGSTOP)
import time
time.sleep(1e6)
""",
        ("time_limit",),
        (),
        quick=True,
    ),
    Program(
        "many-hogs",
        "import os\nfor n in range(15):\n    if not os.fork(): break\nwhile True: pass",
        ("time_limit",),
        (),
        quick=True,
    ),
    Program(
        "a-tracer-that-holds-all",
        TRY
        + LIBC
        + r"""
child = os.fork()
if not child: time.sleep(1e6)
call("ptrace", 16, child, 0, 0); os.waitpid(child, 0)
if not os.fork():
    call("ptrace", 16, os.getppid(), 0, 0)
    time.sleep(1e6)
time.sleep(1e6)
""",
        ("time_limit",),
        (),
        quick=True,
    ),
    Program(
        "a-daemon-that-holds-the-output",
        r"""
import os, signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
if not os.fork():
    os.setsid()
    if not os.fork():
        while True: time.sleep(0.01); os.makedirs("/job/out", exist_ok=True); open("/job/out/late", "a").write("x")
    os._exit(0)
time.sleep(0.1)
print("end")
""",
    ),
    Program(
        "kills-all-there-is",
        TRY
        + r"""
import signal
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGSEGV):
    try: os.kill(1, number)
    except PermissionError: print("refused")
time.sleep(0.05)
print("on", flush=True)
os.kill(-1, signal.SIGKILL)
print("end")
""",
        says=("on",),
    ),
]

LOOKING: Final = [
    Program(
        "process-walk",
        TRY
        + r"""
for pid in filter(str.isdigit, os.listdir("/proc")):
    if pid == str(os.getpid()): continue
    for what in ("environ", "maps", "mem", "stack", "syscall", "auxv"):
        try: open(f"/proc/{pid}/{what}", "rb").read(1); print("GOT", pid, what)
        except OSError: pass
    for what in ("root", "cwd", "exe"):
        try: print("GOT", pid, what, os.readlink(f"/proc/{pid}/{what}"))
        except OSError: pass
    for what in ("fd", "map_files", "fdinfo"):
        try: print("GOT", pid, what, os.listdir(f"/proc/{pid}/{what}"))
        except OSError: pass
    words = open(f"/proc/{pid}/cmdline").read()
    if "secret" in words or "pytest" in words: print("GOT", words)
for place in ("kcore", "kmsg", "sysrq-trigger", "1/root/etc/shadow", "vmallocinfo", "slabinfo"):
    try: open("/proc/" + place, "rb").read(1); print("GOT", place)
    except OSError: pass
try: keys = open("/proc/keys").read()
except OSError: keys = ""
if keys: print("GOT", keys)
for folder, _, files in os.walk("/proc/sys"):
    for name in files:
        try: open(os.path.join(folder, name), "r+b"); print("GOT", folder, name)
        except OSError: pass
print("end")
""",
    ),
    Program(
        "system-walk",
        TRY
        + r"""
deadline = time.monotonic() + 1
for top in ("/sys/fs/cgroup", "/sys/kernel", "/sys/firmware"):
    for folder, folders, files in os.walk(top):
        if time.monotonic() > deadline: break
        for name in [*files, "new"]:
            flags = os.O_WRONLY | (os.O_CREAT if name == "new" else 0)
            try: os.open(os.path.join(folder, name), flags); print("GOT", folder, name)
            except OSError: pass
        try: os.mkdir(folder + "/minitango-hostile"); print("GOT", folder)
        except OSError: pass
for place in ("sda", "vda", "mem", "kmsg", "fuse", "kvm", "net/tun", "loop-control", "snapshot", "vsock", "vhost-net"):
    try: os.open("/dev/" + place, os.O_RDONLY); print("GOT", place)
    except OSError: pass
print("end")
""",
    ),
    Program(
        "hunt",
        TRY
        + r"""
import re, socket
wanted = re.compile(rb"hostile-secret-[0-9a-f]{16}")
def look(place):
    try:
        with open(place, "rb") as file:
            for found in wanted.findall(file.read(1 << 20)): print("GOT", place, found)
    except (OSError, ValueError): pass
deadline = time.monotonic() + 1
if wanted.search(str(os.environ).encode()): print("GOT the environment")
for top in sorted(set(os.listdir("/")) - {"usr", "proc", "sys", "dev"}):
    for folder, _, files in os.walk("/" + top):
        if time.monotonic() > deadline: break
        for name in files:
            if name != "answer.py": look(os.path.join(folder, name))
for folder in ("/collected", "/report", "/grade", "/tests", "/autograder", "/solution", "/run/secrets"):
    try: print("GOT", folder, os.listdir(folder))
    except OSError: pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    for what in ("environ", "cmdline"): look(f"/proc/{pid}/{what}")
for place in ("docker.sock", "containerd/containerd.sock", "podman/podman.sock", "systemd/private", "redis/redis.sock",
              "dbus/system_bus_socket"):
    for folder in ("/run/", "/var/run/"):
        attempt("a socket", lambda: socket.socket(socket.AF_UNIX).connect(folder + place))
print("end")
""",
    ),
    Program(
        "network",
        TRY
        + r"""
import socket
host, port = "HOST-PORT".split(":")
def reach(family, kind, address):
    with socket.socket(family, kind) as s:
        s.settimeout(0.3)
        if kind == socket.SOCK_DGRAM:
            s.connect(address); s.send(b"x"); s.recv(1)
        else: s.connect(address)
port = int(port)
for address in (("127.0.0.1", port), (host, port), ("169.254.169.254", 80), ("172.17.0.1", 2375), ("1.1.1.1", 53)):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        attempt(f"{address}", lambda: reach(socket.AF_INET, kind, address))
attempt("fd00:ec2::254", lambda: reach(socket.AF_INET6, socket.SOCK_STREAM, ("fd00:ec2::254", 80)))
attempt("::1", lambda: reach(socket.AF_INET6, socket.SOCK_STREAM, ("::1", port)))
attempt("an abstract name", lambda: socket.socket(socket.AF_UNIX).connect(f"\0minitango-hostile-{port}"))
attempt("a name", lambda: socket.getaddrinfo("example.com", 80))
# raw, packet, netlink (routes, and the kernel's events), crypto, VSOCK, SCTP, DCCP, CAN, Bluetooth, XDP, X.25
for words in ((2, 3, 1), (2, 3, 255), (10, 3, 58), (17, 3, 768), (17, 2, 0), (16, 3, 0), (16, 3, 15), (38, 5, 0),
              (40, 1, 0), (2, 5, 132), (2, 1, 132), (2, 6, 33), (29, 3, 1), (31, 3, 0), (44, 3, 0), (9, 5, 0)):
    attempt(f"family {words}", lambda: socket.socket(*words))
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as s:
    attempt("TLS of the kernel", lambda: s.setsockopt(socket.IPPROTO_TCP, 31, b"tls"))
routes = open("/proc/net/route").read().splitlines()[1:]
if routes: print("GOT", routes)
print("end")
""",
    ),
]

POWER: Final = [
    Program(
        "kernel",
        TRY
        + LIBC
        + r"""
for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
    attempt(f"unshare {flag:x}", lambda: call("unshare", flag))
    if flag != 0x80: attempt(f"clone {flag:x}", lambda: call(56 if X86 else 220, flag | 17, 0, 0, 0, 0))
attempt("clone3", lambda: call(435, ctypes.byref((ctypes.c_uint64 * 11)(0x10000000)), 88))
attempt("setns", lambda: call("setns", os.open("/proc/self/ns/user", os.O_RDONLY), 0))
attempt("mount", lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, b""))
attempt("bind", lambda: call("mount", b"/", b"/tmp", b"", 4096, b""))
attempt("remount", lambda: call("mount", b"none", b"/usr", b"", 32, b""))
attempt("umount", lambda: call("umount2", b"/tmp", 2))
attempt("fsopen", lambda: call(430, b"tmpfs", 0))
attempt("open_tree", lambda: call(428, -100, b"/", 1))
attempt("pivot_root", lambda: call(155 if X86 else 41, b"/tmp", b"/tmp"))
attempt("chroot", lambda: call("chroot", b"/tmp"))
attempt("keyctl", lambda: call(250 if X86 else 219, 0, -3, 1))
attempt("add_key", lambda: call(248 if X86 else 217, b"user", b"name", b"x", 1, -3))
attempt("bpf", lambda: call(321 if X86 else 280, 0, ctypes.byref((ctypes.c_uint64 * 16)(2)), 128))
attempt("io_uring", lambda: call(425, 1, ctypes.byref((ctypes.c_uint64 * 15)())))
attempt("userfaultfd", lambda: call(323 if X86 else 282, 1))
attempt("perf_event_open", lambda: call(298 if X86 else 241, ctypes.byref((ctypes.c_uint64 * 16)(1)), 0, -1, -1, 0))
attempt("memfd_secret", lambda: call(447, 0))
attempt("open_by_handle_at", lambda: call(304 if X86 else 265, -100, ctypes.byref((ctypes.c_uint64 * 16)(8)), 0))
attempt("kexec_load", lambda: call(246 if X86 else 104, 0, 0, 0, 0))
attempt("init_module", lambda: call(175 if X86 else 105, 0, 0, b""))
attempt("fanotify_init", lambda: call(300 if X86 else 262, 0x200, 0))
attempt("syslog", lambda: call("klogctl", 3, ctypes.create_string_buffer(10), 10))
attempt("pidfd_getfd", lambda: call(438, call(434, os.getppid(), 0), 0, 0))
attempt("io_setup", lambda: call(206 if X86 else 0, 1000, ctypes.byref(ctypes.c_uint64())))
attempt("personality", lambda: call("personality", 0x0400000))
attempt("ptrace of process 1", lambda: call("ptrace", 16, 1, 0, 0))
attempt("process 1's memory", lambda: call("process_vm_readv", 1, None, 0, None, 0, 0))
attempt("sethostname", lambda: call("sethostname", b"x", 1))
attempt("swapon", lambda: call("swapon", b"/tmp/x", 0))
attempt("reboot", lambda: call("reboot", 0))
attempt("settimeofday", lambda: call("settimeofday", ctypes.byref((ctypes.c_long * 2)(1, 1)), None))
attempt("a device", lambda: os.mknod("/tmp/disk", 0o60666, os.makedev(8, 0)))
attempt("iopl", lambda: call(172, 3) if X86 else call("chroot", b"/"))
attempt("x32", lambda: call(0x40000000 + 39) if X86 else call("chroot", b"/"))
attempt("a call of tomorrow", lambda: call(777))
if os.sysconf("SC_PAGESIZE") and os.uname().nodename != "job": print("GOT the host's name")
os.sync()
print("end")
""",
        says=(
            "refused unshare 10000000 EPERM",
            "refused clone3 ENOSYS",
            "refused keyctl EPERM",
            "refused io_uring EPERM",
            "end",
        ),
    ),
    Program(
        "32-bit-calls",
        TRY
        + r"""
import ctypes, mmap
if os.uname().machine == "x86_64":
    # mov eax, 20 (getpid, for 32 bits); int 0x80; ret
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    print("GOT" if result >= 0 else "refused", result, flush=True)
print("end", flush=True)
os._exit(0)
""",
    ),
    Program(
        "becoming-another-user",
        TRY
        + r"""
import shutil, stat, subprocess
attempt("setuid", lambda: os.setuid(0))
attempt("setgid", lambda: os.setgid(0))
attempt("setgroups", lambda: os.setgroups([0]))
attempt("setresuid", lambda: os.setresuid(1, 1, 1))
attempt("chown", lambda: os.chown("/tmp", 0, 0))
shutil.copy("/bin/sh", "/tmp/sh")
os.chmod("/tmp/sh", 0o6755)
for program in ("/tmp/sh", "/usr/bin/mount", "/usr/bin/newgrp", "/usr/bin/sudo", "/usr/bin/pkexec"):
    command = [program, "-c", "id -u"]
    try: said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=5).stdout
    except (OSError, subprocess.TimeoutExpired): continue
    if said.strip() == b"0": print("GOT", program)
for line in open("/proc/self/status"):
    name, _, value = line.partition(":")
    if name in ("CapInh", "CapPrm", "CapEff", "CapAmb") and int(value, 16): print("GOT", line)
    if name == "NoNewPrivs" and int(value) != 1: print("GOT", line)
    if name == "Seccomp" and int(value) != 2: print("GOT", line)
    if name in ("Uid", "Gid") and 0 in map(int, value.split()): print("GOT", line)
    if name == "Groups" and "0" in value.split(): print("GOT", line)
print("end")
""",
    ),
    Program(
        "priorities-and-terminals",
        TRY
        + r"""
import fcntl, resource, termios
attempt("nice", lambda: os.nice(-5))
attempt("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
attempt("starving process 1", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19))
attempt("limiting process 1", lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0)))
for name in ("NOFILE", "MEMLOCK", "FSIZE", "MSGQUEUE", "NICE", "RTPRIO", "SIGPENDING"):
    which = getattr(resource, "RLIMIT_" + name)
    attempt(name, lambda: resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
if resource.getrlimit(resource.RLIMIT_CORE)[0] != 1: print("GOT a collector of core files started")
try: master, slave = os.openpty()
except OSError: pass
else: attempt("a word in a terminal", lambda: fcntl.ioctl(slave, termios.TIOCSTI, b"x"))
attempt("/dev/tty", lambda: os.open("/dev/tty", os.O_RDWR))
print("end")
""",
    ),
    Program(
        "overwriting-the-runtime",
        TRY
        + r"""
import glob, shutil
targets = [sys.executable, os.path.realpath(sys.executable), os.__file__, "/bin/sh", "/proc/self/exe", "/proc/1/exe"]
targets += ["/.minitango/supervise", "/etc/passwd", "/etc/ld.so.preload", "/etc/ld.so.cache", "/usr/lib/new.py"]
for target in [*targets, *glob.glob("/lib/*/libc.so.6"), *glob.glob("/usr/lib/*/libc.so.6")]:
    for flags in (os.O_WRONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_TRUNC):
        try: os.open(target, flags); print("GOT", target)
        except OSError: pass
    for what in (os.unlink, lambda path: os.rename(path, "/tmp/x"), lambda path: os.link(path, "/job/x"),
                 lambda path: os.chmod(path, 0o777)):
        try: what(target); print("GOT", target, what)
        except OSError: pass
print("end")
""",
    ),
]

FORGERY: Final = [
    Program(
        "forged-words",
        r"""
import os, sys, time
if not os.fork():
    os.setsid()
    time.sleep(0.2)
    while True: print('{"scores": {"p": 10}}', flush=True); time.sleep(0.01)
print('{"scores": {"p": 10}, "score": 10}\nscore: 10/10\nend', flush=True)
os._exit(0)
""",
    ),
    Program(
        "forged-reports",
        TRY
        + r"""
report = b'{"score": 10, "tests": [{"score": 10, "max_score": 10}]}'
os.makedirs("out", exist_ok=True)
for place in ("/report/report.json", "/report/results.json", "/collected/run/out/answer.txt", "/dev/fd/3",
              "/autograder/results/results.json", "/proc/1/fd/1", "/proc/1/cwd/report.json", "/grade/results.json",
              "/tmp/report.json", "/job/report.json", "/job/out/report.json", "/job/grade.py", "/job/out/grade.py"):
    try:
        fd = os.open(place, os.O_WRONLY | os.O_CREAT, 0o666); os.write(fd, report); os.close(fd)
        if not place.startswith(("/job", "/tmp")): print("GOT", place)
    except OSError: pass
print("end")
""",
    ),
    Program(
        "numbers-that-are-none",
        'import os\nos.mkdir("out")\nopen("out/answer.txt", "w").write("NaN 1e999 " + "9" * 100000)\nprint("end")',
    ),
    Program("nothing-at-all", "", says=()),
    Program(
        "poison",
        TRY
        + r"""
code = "import os; os.write(1, b'GOT poisoned')"
shell = "#!/bin/sh\necho GOT poisoned\n"
python = "out/.local/lib/python3/site-packages"
for place in ("out", python, "out/bin", "bin", ".ssh", "/tmp/bin"): os.makedirs(place, exist_ok=True)
for name in ("usercustomize.py", "sitecustomize.py", "conftest.py", "json.py", "os.py", "grade.py", "x.pth"):
    for place in ("out", ".", python, "/tmp"): open(f"{place}/{name}", "w").write(code)
for name in ("tar", "cat", "sh", "python3", "ls"):
    for place in ("out/bin", "bin", "out", ".", "/tmp/bin"):
        open(f"{place}/{name}", "w").write(shell); os.chmod(f"{place}/{name}", 0o755)
for name in (".profile", ".bashrc", ".bash_profile", ".pythonrc", ".gitconfig", "ld.so.preload"):
    open(name, "w").write(shell)
for place in ("/etc/ld.so.preload", "/etc/profile.d/x.sh", "/usr/local/bin/tar"):
    attempt(place, lambda: open(place, "w"))
print("end")
""",
    ),
]

LEFT: Final = [
    Program(
        "links-and-special-files",
        TRY
        + r"""
import socket
os.mkdir("out")
for name, to in (("answer.txt", "/etc/passwd"), ("environ", "/proc/self/environ"), ("root", "/"), ("self", "self"),
                 ("up", "../../../../../../etc/hostname")): os.symlink(to, "out/" + name)
os.mkfifo("out/fifo"); socket.socket(socket.AF_UNIX).bind("out/socket")
open("out/one", "w").write("1"); os.link("out/one", "out/two")
for path in ("/etc/passwd", "/submission/answer.py"): attempt("a link to " + path, lambda: os.link(path, "out/hard"))
attempt("a device", lambda: os.mknod("out/null", 0o20666, os.makedev(1, 3)))
with open("out/holes", "w") as file: file.truncate(4 << 20)
os.mkdir("out/closed"); open("out/closed/in", "w"); os.chmod("out/closed", 0)
print("end")
""",
        refuses=("answer.txt", "environ", "root", "up", "self", "fifo", "socket", "one", "two", "holes", "closed"),
    ),
    Program(
        "a-folder-that-is-a-link",
        'import os\nos.symlink("/etc", "out")\nprint("end")',
        refuses=("",),
    ),
    Program(
        "deep-and-many",
        r"""
import os
os.mkdir("out")
for n in range(1200): open(f"out/f{n:05}", "w").close()
os.mkdir("out/deep"); os.chdir("out/deep")
for n in range(1200): os.mkdir("d"); os.chdir("d")
print("end")
""",
    ),
    Program(
        "odd-names",
        r"""
import os
os.mkdir("out")
for name in (b"new\nline", b"\xff\xfe", "txt.\u202egpj".encode(), b"\x1b]0;title\x07", b"-rf", b"$(id)", b"`id`",
             b"a;id", b"README", b"readme", "gr\u00fcn".encode(), "gru\u0308n".encode(), b" ", b"...", b"a\\b",
             b"x" * 255, b"<script>", b"=cmd", b"%2e%2e", b"COM1", b"&"):
    open(b"out/" + name, "w").close()
print("end")
""",
        refuses=(r"new\nline", r"\udcff\udcfe", "readme"),
    ),
    Program(
        "swapped-while-read",
        r"""
import os, time
os.mkdir("out")
open("/tmp/file", "w").write("x")
os.symlink("/etc/passwd", "/tmp/link")
if not os.fork():
    os.setsid()
    while True:
        for name in ("/tmp/file", "/tmp/link"):
            try: os.link(name, "/tmp/new", follow_symlinks=False); os.rename("/tmp/new", "/tmp/answer.txt")
            except OSError: pass
            try: os.unlink("out/answer.txt")
            except OSError: pass
            try: os.symlink(name, "out/answer.txt")
            except OSError: pass
            try: open("out/answer.txt", "w").write("x")
            except OSError: pass
time.sleep(0.1)
print("end")
""",
    ),
    Program(
        "what-sinks-may-believe",
        r"""
import sys
sys.stdout.buffer.write(b"\x1b]0;title\x07\x1b[2J\x1b[8mhidden\x1b]52;c;ZXZpbA==\x07\x9b31m\r\x00\xff\xfe</pre><script>alert(1)</script>"
                        b"\n2026-01-01 00:00:00 graded ada 10/10\n=cmd|' /C calc'!A0\n{{7*7}}]]>\nend\n")
""",
    ),
    Program("a-crash", "import os\nprint('end', flush=True)\nos.abort()"),
]

PROGRAMS: Final = [*EXHAUSTION, *TIME, *LOOKING, *POWER, *FORGERY, *LEFT]
