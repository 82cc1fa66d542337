"""What a box with a helper has at HELPER, and what holds for its connections in every sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Final

from minitango.errors import SandboxUnavailable
from minitango.sandbox.contract import HELPER
from minitango.text import one_line

SOCKET: Final = "socket"
"""The name of the socket in HELPER."""
RUSH: Final = 200
"""Connections that are taken in a second: a flood of them must not keep us busy."""
SMALL: Final = 4096
FLURRY: Final = 40
"""Pieces smaller than SMALL that are taken in FLURRY_TIME, for the same reason."""
FLURRY_TIME: Final = 0.02
"""Seconds."""


def helper_files(machine: str) -> dict[str, tuple[int, bytes]]:
    """What lies below HELPER on a machine that Linux calls so: modes and bytes, by path. SandboxUnavailable
    `sandbox_machine` where there is no program for it."""
    folder = resources.files("minitango.sandbox.helper")
    program = folder.joinpath(f"minitango-student-{machine}")
    if not program.is_file():
        raise SandboxUnavailable(
            f"minitango has no helper for a machine of the kind {one_line(machine, 40)!r}",
            hint="grade guarded steps on x86-64 or aarch64",
            id="sandbox_machine",
        )
    files = {"bin/minitango-student": (0o755, program.read_bytes())}
    for module in folder.iterdir():
        if module.name.endswith(".py"):
            files[f"python/{module.name}"] = (0o644, module.read_bytes())
    return files


def found_by_programs(env: Mapping[str, str]) -> dict[str, str]:
    """An environment in which what lies in HELPER is found by its name: before all else, as programs and as modules."""
    path, modules = f"{HELPER}/bin", f"{HELPER}/python"
    return {
        **env,
        "PATH": f"{path}:{env['PATH']}" if env.get("PATH") else path,
        "PYTHONPATH": f"{modules}:{env['PYTHONPATH']}" if env.get("PYTHONPATH") else modules,
    }
