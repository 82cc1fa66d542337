"""The binaries of our programs in C are those of their source, byte for byte, and are shipped so.

What the compiler makes of one source is kept beside the environment, as the compiler's first run takes long. Where
CI=true it is made anew.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from filelock import FileLock

from tests import docker_images
from tests import supervised as sup
from tests.supervised import Line, in_bubblewrap, run
from tests.support import PATIENCE, make_package, need_bubblewrap

ROOT = Path(__file__).parent.parent


def load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_programs", ROOT / "bin" / "_programs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()
Program = Any
"""One of `build.PROGRAMS`."""


def need_compiler() -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed (try: pip install ziglang==0.13.0)")


def compiled(program: Program, machine: str, more: tuple[str, ...] = ()) -> Path:
    """What the compiler makes of this source, now or once before."""
    need_compiler()
    how = (ROOT / "bin" / "_programs.py").read_text()
    asked = json.dumps([importlib.metadata.version("ziglang"), machine, how, program.manifest()["sources"], more])
    kept = docker_images.cache() / f"{program.name}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}"
    with FileLock(f"{kept}.lock"):
        if not kept.exists() or os.environ.get("CI") == "true":
            made = kept.with_suffix(".made")
            program.compile_for(machine, made, more=more)
            made.replace(kept)
    return kept


def copy_home(program: Program, to: Path) -> Program:
    return program._replace(home=Path(shutil.copytree(program.home, to)))


each_program = pytest.mark.parametrize("program", build.PROGRAMS, ids=lambda program: program.name)


@each_program
@pytest.mark.parametrize("machine", build.MACHINES)
def test_a_build_from_another_place_gives_the_same_bytes(program: Program, machine: str, tmp_path: Path) -> None:
    made = compiled(copy_home(program, tmp_path / "somewhere else" / "program"), machine)
    assert made.read_bytes() == program.binary(machine).read_bytes(), "run bin/build-programs"


@each_program
@pytest.mark.parametrize("machine", build.MACHINES)
def test_a_binary_is_static_small_stripped_and_may_be_executed(program: Program, machine: str) -> None:
    binary = program.binary(machine)
    data = binary.read_bytes()
    assert data[:4] == b"\x7fELF"
    assert data[18] == {"x86_64": 62, "aarch64": 183}[machine]
    assert sup.is_static(binary)
    assert len(data) < 100_000
    assert b".debug" not in data
    assert b".symtab" not in data
    assert stat.S_IMODE(binary.stat().st_mode) & 0o111 == 0o111


@each_program
def test_the_manifest_is_of_what_is_there(program: Program) -> None:
    assert program.fault() is None


def spoil_source(program: Program) -> None:
    with (program.home / "wire.c").open("a") as file:
        file.write("\n")


def spoil_binary(program: Program) -> None:
    with program.binary("aarch64").open("ab") as file:
        file.write(b"\0")


def add_source(program: Program) -> None:
    (program.home / "another.c").touch()


def remove_binary(program: Program) -> None:
    program.binary("x86_64").unlink()


def remove_manifest(program: Program) -> None:
    (program.home / "MANIFEST.json").unlink()


def break_manifest(program: Program) -> None:
    (program.home / "MANIFEST.json").write_text("[]")


def lock_binary(program: Program) -> None:
    program.binary("x86_64").chmod(0o644)


SPOIL = [spoil_source, spoil_binary, add_source, remove_binary, remove_manifest, break_manifest, lock_binary]


@each_program
@pytest.mark.parametrize("spoil", SPOIL, ids=lambda spoil: spoil.__name__)
def test_what_does_not_match_is_noticed(program: Program, spoil: Callable[[Program], None], tmp_path: Path) -> None:
    copy = copy_home(program, tmp_path / "program")
    assert copy.fault() is None
    spoil(copy)
    assert copy.fault()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("minitango", "bin"):
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.mark.parametrize(("target", "name"), [("wheel", "supervisor"), ("sdist", "helper")])
def test_a_package_with_another_source_is_refused(checkout: Path, target: str, name: str) -> None:
    spoil_source(build.SUPERVISOR._replace(home=checkout / "minitango" / "sandbox" / name))
    done = make_package(checkout, "-t", target)
    assert done.returncode != 0
    assert "the sources of" in done.stderr
    assert "bin/build-programs" in done.stderr


def test_where_nobody_takes_its_output_for_long_it_leaves(tmp_path: Path) -> None:
    """The same source with less patience than its 60 s."""
    need_bubblewrap()
    tmp_path.chmod(0o755)
    made = compiled(build.SUPERVISOR, os.uname().machine, ("-DPATIENCE=SECOND",))
    impatient = shutil.copy(made, tmp_path / "supervise")
    with Line(in_bubblewrap(binary=impatient)) as line:
        line.hello()
        pid1 = line.pid1()
        line.say(run("yes", output=1 << 40))
        assert line.process.wait(PATIENCE) == 5
        assert not os.path.exists(f"/proc/{pid1}")
