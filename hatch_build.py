"""A package is not built with programs in C that are not those of the source: `bin/build-programs` makes them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProgramsHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """RuntimeError, with what to type, where the binaries are missing or not those of the source."""
        root = Path(self.root)
        spec = importlib.util.spec_from_file_location("_programs", root / "bin" / "_programs.py")
        if spec is None or spec.loader is None:
            raise RuntimeError("bin/_programs.py is missing: build from a whole checkout, or from the sdist")
        programs = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(programs)
        for program in programs.PROGRAMS:
            fault = program.fault()
            if fault is not None:
                raise RuntimeError(f"{fault} (try: bin/build-programs)")
