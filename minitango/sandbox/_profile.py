"""What a box looks like from inside: the command line of bwrap, and the few files of its /etc."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from minitango.sandbox._helper import SOCKET, found_by_programs
from minitango.sandbox._spec import CORE, NOFILE, SIGPENDING, TMP, largest_file, writable
from minitango.sandbox.contract import HELPER, BoxSpec

UID: Final = 1000
"""Who the job is inside its box."""

_ROOT_LINKS: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")

# Of the host's /etc: what the loader, Java, fonts and scripting languages need to work. World-readable parts only.
_ETC_COPIED: Final = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "localtime",
    "timezone",
    "mime.types",
    "services",
    "protocols",
    "magic",
    "fonts",
    "perl",
    "R",
)
_ETC_COPIED_LIKE: Final = ("java-*", "python3*")
_ETC_OPEN: Final = ("resolv.conf", "ssl", "ca-certificates", "pki", "crypto-policies")


class Layout(Struct, frozen=True):
    """Where the parts of a box are, as the process that becomes bwrap sees them."""

    bwrap: str
    usr: tuple[str, ...]
    """bwrap's arguments for the host's /usr, and /bin and its like as the host has them."""
    proc: tuple[str, ...]
    """Those for what of /proc is not to be written, or not to be seen."""
    etc: str
    prefix: str | None
    """The interpreter's prefix, at its own path inside; None where it lies below /usr."""
    prefix_source: str | None
    disable_userns: bool
    """Whether this bwrap has --disable-userns."""


def environment(spec: BoxSpec, layout: Layout) -> dict[str, str]:
    """What every command finds in its environment, unless it is given something else."""
    path = "/usr/local/bin:/usr/bin:/bin"
    if layout.prefix is not None:
        path = f"{layout.prefix}/bin:{path}"
    env = {"PATH": path, "HOME": spec.workdir, "LANG": "C.UTF-8", "TMPDIR": "/tmp"}  # noqa: S108
    return found_by_programs(env) if spec.helper else env


def rlimits(spec: BoxSpec, *, watched: bool, count_processes: bool) -> dict[int, int]:
    """What every process of the job is bound by, never more than we are ourselves.

    `watched`: no control group holds processes; `count_processes`: RLIMIT_NPROC counts the box's alone.
    """
    bounds = {
        resource.RLIMIT_CORE: CORE,  # with a filter, a box comes with it (`Setting.start`), and this changes nothing
        resource.RLIMIT_NOFILE: NOFILE,
        resource.RLIMIT_MEMLOCK: 64 << 10,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: SIGPENDING,
        # those of a desktop's sound, which its user has: with them a job takes the cores before all others
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_FSIZE: largest_file(spec),
    }
    if watched and count_processes:
        bounds[resource.RLIMIT_NPROC] = spec.limits.pids + 1  # and pid 1
    for which, most in bounds.items():
        hard = resource.getrlimit(which)[1]
        bounds[which] = most if hard == resource.RLIM_INFINITY else min(most, hard)
    return bounds


def usr_arguments() -> tuple[str, ...]:
    """What `Layout.usr` holds, of this machine."""
    words = ["--ro-bind", "/usr", "/usr"]
    for name in _ROOT_LINKS:
        place = Path("/", name)
        if place.is_symlink():
            words += ["--symlink", str(place.readlink()), str(place)]
        elif place.is_dir():
            words += ["--ro-bind", str(place), str(place)]
    return tuple(words)


def proc_arguments() -> tuple[str, ...]:
    """What `Layout.proc` holds, of this machine."""
    # where the bounds on a box's own namespaces are, its user's to change; bwrap covers it for root alone
    words = ["--ro-bind", "/proc/sys", "/proc/sys"]
    if Path("/proc/keys").exists():  # a box has the session of its engine, whose keys are named there
        words += ["--ro-bind", "/dev/null", "/proc/keys"]
    return tuple(words)


def arguments(
    name: str,
    spec: BoxSpec,
    layout: Layout,
    staged: dict[str, str],
    *,
    helper: tuple[str, str] | None,
    info_fd: int,
    seccomp_fd: int,
) -> list[str]:
    """bwrap's arguments, up to and with `--`. `staged` has the source of each read-only mount, `helper` those of HELPER
    and of the socket in it.

    `name` does nothing but stand there: `kill_named` finds it.
    """
    words = [layout.bwrap, "--setenv", "MINITANGO_BOX", name]
    words += ["--unshare-all", "--unshare-user", "--uid", str(UID), "--gid", str(UID)]
    words += ["--cap-drop", "ALL", "--new-session", "--die-with-parent", "--as-pid-1", "--hostname", "job"]
    words += ["--clearenv", "--info-fd", str(info_fd)]
    if spec.network == "open":
        words.append("--share-net")
    if layout.disable_userns:
        words.append("--disable-userns")
    if seccomp_fd >= 0:
        words += ["--seccomp", str(seccomp_fd)]
    words += [*layout.usr, "--ro-bind", layout.etc, "/etc", "--proc", "/proc", *layout.proc, "--dev", "/dev"]
    if layout.prefix is not None and layout.prefix_source is not None:
        words += ["--ro-bind", layout.prefix_source, layout.prefix]
    # Parents before what lies in them. /dev is closed once /dev/shm is there, the root when all is: both are
    # writable and unbounded otherwise.
    sized = {mount.path: mount for mount in writable(spec)}
    for path in sorted({*sized, *staged}):
        if path in sized:
            mode = "1777" if path in TMP else "0755"
            size = sized[path].size
            words += ["--perms", mode, "--size", str(spec.limits.disk if size is None else size), "--tmpfs", path]
        else:
            words += ["--ro-bind", staged[path], path]
    if helper is not None:
        words += ["--ro-bind", helper[0], HELPER, "--ro-bind", helper[1], f"{HELPER}/{SOCKET}"]
    words += ["--symlink", "/tmp", "/var/tmp"]  # noqa: S108
    return [*words, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", spec.workdir, "--"]


def write_etc(place: Path, *, network: bool) -> None:
    """Make the box's /etc here: a user, a group, localhost, and what programs need of the host's."""
    files = {
        "passwd": f"root:x:0:0:root:/:/bin/sh\njob:x:{UID}:{UID}:job:/tmp:/bin/sh\n",
        "group": f"root:x:0:\njob:x:{UID}:\n",
        "hosts": "127.0.0.1 localhost job\n::1 localhost\n",
        "hostname": "job\n",
        "nsswitch.conf": f"passwd: files\ngroup: files\nhosts: files{' dns' if network else ''}\n",
    }
    place.mkdir(mode=0o755)
    for name, text in files.items():
        (place / name).write_text(text)
        (place / name).chmod(0o644)
    host = Path("/etc")
    names: list[str] = [*_ETC_COPIED, *(_ETC_OPEN if network else ())]
    names += [found.name for like in _ETC_COPIED_LIKE for found in sorted(host.glob(like))]
    for name in names:
        _copy(host / name, place / name)


def write_helper(place: Path, files: Mapping[str, tuple[int, bytes]]) -> None:
    """Make what boxes share of HELPER here, and in it a place for the socket."""
    for name, (mode, data) in {**files, SOCKET: (0o444, b"")}.items():
        path = place / name
        for folder in (place, path.parent):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        path.write_bytes(data)
        path.chmod(mode)


def _copy(source: Path, target: Path) -> None:
    """Copy what all may read: files and links and folders of them. What is not there, or closed, is left out."""
    pending: list[tuple[Path, Path, bool]] = [(source, target, True)]
    while pending:
        at, to, first = pending.pop()
        try:
            if at.is_symlink() and (not first or at.is_dir()):
                to.symlink_to(at.readlink())
            elif at.is_dir():
                to.mkdir(mode=0o755)
                to.chmod(0o755)
                pending += [(child, to / child.name, False) for child in at.iterdir()]
            elif at.is_file() and at.stat().st_mode & 0o004:
                shutil.copyfile(at, to)
                to.chmod(0o644)
        except OSError:
            continue


def sources_to_show(prefix: str | None, bwrap: str) -> Sequence[str]:
    """Directories that a uid without rights must be able to reach to start a box, apart from /usr."""
    sources = [] if prefix is None else [prefix]
    if not below_usr(bwrap):
        sources.append(str(Path(bwrap).parent))
        package = Path(bwrap).parent.parent
        libraries = package.with_name(package.name + ".libs")  # the wheel's own, found relative to the program
        sources += [str(libraries)] if libraries.is_dir() else []
    return sources


def below_usr(path: str) -> bool:
    return path == "/usr" or path.startswith("/usr/")
