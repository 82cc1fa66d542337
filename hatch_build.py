"""A package is not built with a supervisor that is not the compiled source: `bin/build-supervisor` makes it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SupervisorHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """RuntimeError, with what to type, where the binaries are missing or not those of the source."""
        root = Path(self.root)
        spec = importlib.util.spec_from_file_location("_supervisor", root / "bin" / "_supervisor.py")
        if spec is None or spec.loader is None:
            raise RuntimeError("bin/_supervisor.py is missing: build from a whole checkout, or from the sdist")
        supervisor = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(supervisor)
        fault = supervisor.fault(root / "minitango" / "sandbox" / "supervisor")
        if fault is not None:
            raise RuntimeError(f"{fault} (try: bin/build-supervisor)")
