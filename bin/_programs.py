"""How our programs in C are compiled, and whether the binaries that are there are those of the source that is there."""

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
from typing import Any, NamedTuple

SANDBOX = Path(__file__).parent.parent / "minitango" / "sandbox"
MANIFEST = "MANIFEST.json"
MACHINES = ("x86_64", "aarch64")
COMPILER = "ziglang 0.13.0"
FLAGS = (
    *("-std=c11", "-D_GNU_SOURCE", "-Os", "-Wall", "-Wextra"),
    # Static, at an address of its own choice, and dead rather than confused where the source has a mistake.
    *("-static", "-fPIE", "-pie", "-fstack-protector-strong", "-fsanitize=undefined", "-fsanitize-trap=undefined"),
    *("-Wl,-z,relro", "-Wl,-z,now", "-Wl,--build-id=none", "-s"),
)


class Program(NamedTuple):
    """One program, with its source, its binaries and MANIFEST.json in one folder."""

    name: str
    home: Path

    def binary(self, machine: str) -> Path:
        return self.home / f"{self.name}-{machine}"

    def sources(self) -> list[Path]:
        return sorted([*self.home.glob("*.c"), *self.home.glob("*.h")])

    def compile_for(self, machine: str, to: Path, *, more: Iterable[str] = ()) -> None:
        """Compile for one machine. CalledProcessError holds what the compiler said.

        It happens in a directory of its own with nothing but the sources, so no path of this machine can get in.
        """
        with tempfile.TemporaryDirectory() as directory:
            for source in self.sources():
                shutil.copy(source, directory)
            names = [source.name for source in self.sources() if source.suffix == ".c"]
            command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-musl", *FLAGS, *more]
            command += [*names, "-o", self.name]
            subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True)
            shutil.copy(Path(directory) / self.name, to)
        to.chmod(0o755)

    def manifest(self) -> dict[str, Any]:
        """What MANIFEST.json has to say of the files in the folder."""
        return {
            "compiler": COMPILER,
            "flags": list(FLAGS),
            "sources": {source.name: _digest(source) for source in self.sources()},
            "binaries": {self.binary(machine).name: _digest(self.binary(machine)) for machine in MACHINES},
        }

    def fault(self) -> str | None:
        """What is wrong with the binaries, in a sentence; None: they are those of the source."""
        try:
            noted = json.loads((self.home / MANIFEST).read_bytes())
            found = self.manifest()
        except (OSError, ValueError) as error:
            return f"{self.name} has not been built: {error}"
        wrong = [key for key in found if not isinstance(noted, dict) or found[key] != noted.get(key)]
        if wrong:
            return f"the {', '.join(wrong)} of {self.name} do not match {self.home / MANIFEST}"
        locked = [name for name in found["binaries"] if not os.access(self.home / name, os.X_OK)]
        return f"{', '.join(locked)}: not executable" if locked else None


SUPERVISOR = Program("supervise", SANDBOX / "supervisor")
HELPER = Program("minitango-student", SANDBOX / "helper")
PROGRAMS = (SUPERVISOR, HELPER)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    for program in PROGRAMS:
        for machine in MACHINES:
            binary = program.binary(machine)
            try:
                program.compile_for(machine, binary)
            except subprocess.CalledProcessError as error:
                sys.exit(f"error: {program.name} cannot be compiled for {machine}:\n{error.stderr}")
            sys.stdout.write(f"{binary}: {binary.stat().st_size} bytes\n")
        (program.home / MANIFEST).write_text(json.dumps(program.manifest(), indent=2) + "\n")


if __name__ == "__main__":
    main()
