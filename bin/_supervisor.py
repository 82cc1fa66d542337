"""How the supervisor is compiled, and whether the binaries that are there are those of the source that is there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent.parent / "minitango" / "sandbox" / "supervisor"
MANIFEST = "MANIFEST.json"
MACHINES = ("x86_64", "aarch64")
COMPILER = "ziglang 0.13.0"
FLAGS = (
    *("-std=c11", "-D_GNU_SOURCE", "-Os", "-Wall", "-Wextra"),
    # Static, at an address of its own choice, and dead rather than confused where the source has a mistake.
    *("-static", "-fPIE", "-pie", "-fstack-protector-strong", "-fsanitize=undefined", "-fsanitize-trap=undefined"),
    *("-Wl,-z,relro", "-Wl,-z,now", "-Wl,--build-id=none", "-s"),
)


def sources(home: Path = HOME) -> list[Path]:
    return sorted([*home.glob("*.c"), *home.glob("*.h")])


def compile_for(machine: str, to: Path, *, home: Path = HOME, more: Iterable[str] = ()) -> None:
    """Compile for one machine. CalledProcessError holds what the compiler said.

    It happens in a directory of its own with nothing but the sources, so no path of this machine can get in.
    """
    with tempfile.TemporaryDirectory() as directory:
        for source in sources(home):
            shutil.copy(source, directory)
        names = [source.name for source in sources(home) if source.suffix == ".c"]
        command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-musl", *FLAGS, *more]
        subprocess.run([*command, *names, "-o", "supervise"], cwd=directory, check=True, capture_output=True, text=True)
        shutil.copy(Path(directory) / "supervise", to)
    to.chmod(0o755)


def manifest(home: Path = HOME) -> dict[str, Any]:
    """What MANIFEST.json has to say of the files in `home`."""
    return {
        "compiler": COMPILER,
        "flags": list(FLAGS),
        "sources": {source.name: _digest(source) for source in sources(home)},
        "binaries": {f"supervise-{machine}": _digest(home / f"supervise-{machine}") for machine in MACHINES},
    }


def fault(home: Path = HOME) -> str | None:
    """What is wrong with the binaries, in a sentence; None: they are those of the source."""
    try:
        noted = json.loads((home / MANIFEST).read_bytes())
        found = manifest(home)
    except (OSError, ValueError) as error:
        return f"the supervisor has not been built: {error}"
    wrong = [key for key in found if not isinstance(noted, dict) or found[key] != noted.get(key)]
    if wrong:
        return f"the supervisor's {', '.join(wrong)} do not match {home / MANIFEST}"
    locked = [name for name in found["binaries"] if not os.access(home / name, os.X_OK)]
    return f"{', '.join(locked)}: not executable" if locked else None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    for machine in MACHINES:
        binary = HOME / f"supervise-{machine}"
        try:
            compile_for(machine, binary)
        except subprocess.CalledProcessError as error:
            sys.exit(f"error: the supervisor cannot be compiled for {machine}:\n{error.stderr}")
        sys.stdout.write(f"{binary}: {binary.stat().st_size} bytes\n")
    (HOME / MANIFEST).write_text(json.dumps(manifest(), indent=2) + "\n")


if __name__ == "__main__":
    main()
