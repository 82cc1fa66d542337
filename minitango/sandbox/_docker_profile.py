"""What a container looks like: a `BoxSpec` as Docker's API takes it. Nothing of a submission is in it.

Root in it is the supervisor alone, with the three capabilities that it needs to become the job's user and to kill it;
and the job, with those that it takes to change users, where its step asks for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from msgspec import Struct, structs

from minitango.archive import File
from minitango.job import Limits
from minitango.sandbox._helper import found_by_programs
from minitango.sandbox._spec import CORE, NOFILE, SIGPENDING, TMP, largest_file, total_memory, writable
from minitango.sandbox.contract import HELPER, BoxSpec, Mount

HOME: Final = "/.minitango"
"""Where the supervisor, and what else is ours, is in a container."""
SUPERVISOR: Final = f"{HOME}/supervise"
BUNDLE: Final = f"{HOME}/bundle"
"""Where a step's bundle is, for the supervisor to copy it."""
HELPER_FILES: Final = f"{HOME}/helper"
"""Where what HELPER has is, likewise."""
HELPER_SIZE: Final = 2 << 20

AS_ROOT: Final = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
"""What a job that is root has besides what the supervisor has."""
IDLE: Final = 600
"""Seconds after which a supervisor to which nobody speaks leaves."""
_ROOM: Final = 8 << 20
"""Bytes on top of the job's memory: the supervisor, the kernel's own for it, and small files in read-only mounts."""
_PAGE: Final = 4096
_INODE: Final = 1024
"""Bytes of a directory's size for which it may hold one file: as much as the kernel needs for it."""
_PODMANS: Final = ("/run", "/var/tmp")  # noqa: S108
"""Where Podman puts a tmpfs that nobody asked for."""
_RLIMITS: Final = {
    "fsize": 1,
    "core": 4,
    "nofile": 7,
    "memlock": 8,
    "sigpending": 11,
    "msgqueue": 12,
    "nice": 13,
    "rtprio": 14,
}
"""Numbers of resources in Linux on x86-64 and aarch64: this may be written on another system."""
_ULIMITS: Final = {"core": CORE, "nofile": NOFILE, "msgqueue": 0}
"""Bounds on the whole container: those that any engine may set, as they are below what it has itself. Without one,
Podman raises the descriptors, where it can."""


class Features(Struct, frozen=True):
    """What an engine can do, as far as it matters here."""

    cores: int
    podman: bool = False
    """A tmpfs of Podman's cannot be made for a uid or with a bound on its files (as of 4.3), and begins with what the
    image has there unless told not to. With a read-only root come more, without a bound and for all to write."""
    network_disabled: bool = True
    """Whether a container without network has its loopback up; else libnetwork's `none` is used."""
    limits: bool = True
    """Whether memory, processes and cores can be limited (rootless on cgroup v1: no)."""
    private_cgroup: bool = False
    """Whether a container can see its own control group only (version 2)."""


def container(
    spec: BoxSpec,
    features: Features,
    *,
    image: str,
    binds: Sequence[tuple[str, str]],
    volumes: Sequence[str],
    uid: int,
    labels: dict[str, str],
) -> dict[str, Any]:
    """The body of `POST /containers/create`. `binds`: what is shown read-only, as (path on the host, path inside);
    `volumes`: directories that the image declares to be volumes. Each would be a place on the engine's disk without a
    bound, so an empty directory stands there instead: one to be written to where it is in a mount."""
    mounts = [f"{_letter(spec, mount)}:{mount.path}" for mount in spec.mounts]
    host: dict[str, Any] = {
        "AutoRemove": True,
        "ReadonlyRootfs": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "CapAdd": ["SETUID", "SETGID", "KILL", *(AS_ROOT if spec.root else ())],
        "SecurityOpt": ["no-new-privileges"],
        "IpcMode": "private",
        "ShmSize": _sizes(spec)["/dev/shm"],  # noqa: S108
        "Tmpfs": _tmpfs(spec, features, volumes, uid),
        "Mounts": [{"Type": "bind", "Source": source, "Target": target, "ReadOnly": True} for source, target in binds],
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "Init": False,
        "Ulimits": [{"Name": name, "Soft": most, "Hard": most} for name, most in _ULIMITS.items()],
        "OomScoreAdj": 0,
        **_network(spec.network, features),
    }
    if features.limits:
        host |= memory(memory_with(spec, given_at_first(spec)) or memory_of(spec.limits))
        host["PidsLimit"] = spec.limits.pids + 1  # and the supervisor
        if spec.limits.cpus < features.cores:
            host["NanoCpus"] = max(10_000_000, round(spec.limits.cpus * 1e9))
    if features.private_cgroup:
        host["CgroupnsMode"] = "private"
    return {
        "Image": image,
        "Entrypoint": [SUPERVISOR],
        "Cmd": [str(uid), str(uid), str(IDLE), *(["root"] if spec.root else []), *mounts],
        "User": "0:0",
        "WorkingDir": "/",
        "Hostname": "job",
        "Env": [],
        "Labels": labels,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "Tty": False,
        "NetworkDisabled": spec.network == "none" and features.network_disabled,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": host,
    }


def with_helper(spec: BoxSpec) -> BoxSpec:
    """The same, with a mount at HELPER where it has one: what is there lies in other places before."""
    if not spec.helper:
        return spec
    return structs.replace(spec, mounts=(*spec.mounts, Mount(HELPER, size=HELPER_SIZE)))


def _letter(spec: BoxSpec, mount: Mount) -> str:
    """What kind of mount this is for the supervisor."""
    if spec.helper and mount.path == HELPER:
        return "s"
    return "w" if mount.writable else "r"


def memory_of(limits: Limits) -> int:
    """Bytes that a container with a job of these limits may hold."""
    return total_memory(limits) + _ROOM


def memory(most: int) -> dict[str, Any]:
    """The limit on memory, without swap."""
    return {"Memory": most, "MemorySwap": most}


def held_by(files: Iterable[File]) -> int:
    """Bytes of memory that these files take in a mount: whole pages, and what the kernel needs for each."""
    return sum(-(-len(file.data) // _PAGE) * _PAGE + _INODE for file in files)


def given_at_first(spec: BoxSpec) -> int:
    """Bytes of memory that a bundle takes in a read-only mount."""
    if spec.bundle is None or any(mount.path == spec.bundle.mount and mount.writable for mount in spec.mounts):
        return 0
    return held_by(spec.bundle.files)


def memory_with(spec: BoxSpec, given: int) -> int | None:
    """The memory that a container needs for `given` bytes in its read-only mounts; None: it has it."""
    return None if given <= _ROOM // 2 else memory_of(spec.limits) + given


def rlimits(spec: BoxSpec) -> dict[int, int]:
    """What every process of the job is bound by."""
    bounds = {"core": CORE, "nofile": NOFILE, "memlock": 64 << 10, "msgqueue": 0, "fsize": largest_file(spec)}
    bounds |= {"sigpending": SIGPENDING, "nice": 0, "rtprio": 0}
    return {_RLIMITS[name]: most for name, most in bounds.items()}


def environment(spec: BoxSpec, own: dict[str, str]) -> dict[str, str]:
    """What every command finds in its environment, unless it is given something else: the image's `own`, and ours."""
    env = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        **own,
        "HOME": spec.workdir,
        "TMPDIR": "/tmp",  # noqa: S108
    }
    return found_by_programs(env) if spec.helper else env


def _sizes(spec: BoxSpec) -> dict[str, int]:
    return {mount.path: mount.size or spec.limits.disk for mount in writable(spec)}


def _tmpfs(spec: BoxSpec, features: Features, volumes: Sequence[str], uid: int) -> dict[str, str]:
    sizes = _sizes(spec)
    mounts = {mount.path: mount for mount in spec.mounts}
    shm = "/dev/shm"  # noqa: S108
    found: dict[str, str] = {}
    for volume in volumes:
        if _is_below(volume, HOME):
            continue  # where ours is: what is there, the engine takes for the volume
        around = max((path for path in {*sizes, *mounts} if _is_below(volume, path)), key=len, default=None)
        if around is None:
            found[volume] = "ro,nosuid,nodev,noexec,size=4096"
        elif around in sizes:
            found[volume] = _writable(around, sizes[around], features, uid)
        else:
            found[volume] = _given(mounts[around])
    if features.podman:
        found |= dict.fromkeys(_PODMANS, "rw,nosuid,nodev,noexec,mode=0755,size=4096")
    for path, size in sizes.items():
        if path == shm and path not in mounts and path not in volumes:
            continue  # the engine's own, by ShmSize
        found[path] = _writable(path, size, features, uid)
    for mount in spec.mounts:
        if not mount.writable:
            found[mount.path] = _given(mount)
    return {path: f"{words},notmpcopyup" for path, words in found.items()} if features.podman else found


def _is_below(path: str, folder: str) -> bool:
    """Whether it is in the folder, or the folder itself."""
    return path == folder or path.startswith(f"{folder}/")


def _writable(path: str, size: int, features: Features, uid: int) -> str:
    words = ["rw", "exec", "nosuid", "nodev", f"size={size}"]
    if path in TMP:
        words.append("mode=1777")
    elif features.podman:
        words.append("mode=0777")
    else:
        words += ["mode=0755", f"uid={uid}", f"gid={uid}"]
    if not features.podman:
        words.append(f"nr_inodes={max(512, size // _INODE)}")
    return ",".join(words)


def _given(mount: Mount) -> str:
    """A read-only mount, for all but a job that is root. What is put there is bounded by who puts it."""
    return f"rw,exec,nosuid,nodev,mode=0755,size={mount.size or 1 << 30}"


def _network(network: Literal["none", "open"], features: Features) -> dict[str, Any]:
    if network == "open":
        return {}
    return {} if features.network_disabled else {"NetworkMode": "none"}
