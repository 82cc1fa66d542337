"""The supervisor's binaries are those of its source, byte for byte, and are shipped so.

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

import pytest
from filelock import FileLock

from tests import docker_images
from tests import supervised as sup
from tests.supervised import Line, in_bubblewrap, run
from tests.support import PATIENCE, make_package, need_bubblewrap

ROOT = Path(__file__).parent.parent


def load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_supervisor", ROOT / "bin" / "_supervisor.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()


def need_compiler() -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed (try: pip install ziglang==0.13.0)")


def compiled(machine: str, home: Path, more: tuple[str, ...] = ()) -> Path:
    """What the compiler makes of the source in `home`, now or once before."""
    need_compiler()
    how = (ROOT / "bin" / "_supervisor.py").read_text()
    asked = json.dumps([importlib.metadata.version("ziglang"), machine, how, build.manifest(home)["sources"], more])
    kept = docker_images.cache() / f"supervise-{hashlib.sha256(asked.encode()).hexdigest()[:16]}"
    with FileLock(f"{kept}.lock"):
        if not kept.exists() or os.environ.get("CI") == "true":
            made = kept.with_suffix(".made")
            build.compile_for(machine, made, home=home, more=more)
            made.replace(kept)
    return kept


def copy_home(to: Path) -> Path:
    shutil.copytree(build.HOME, to)
    return to


@pytest.mark.parametrize("machine", build.MACHINES)
def test_a_build_from_another_place_gives_the_same_bytes(machine: str, tmp_path: Path) -> None:
    made = compiled(machine, copy_home(tmp_path / "somewhere else" / "supervisor"))
    assert made.read_bytes() == (build.HOME / f"supervise-{machine}").read_bytes(), "run bin/build-supervisor"


@pytest.mark.parametrize("machine", build.MACHINES)
def test_a_binary_is_static_small_stripped_and_may_be_executed(machine: str) -> None:
    binary = build.HOME / f"supervise-{machine}"
    data = binary.read_bytes()
    assert data[:4] == b"\x7fELF"
    assert data[18] == {"x86_64": 62, "aarch64": 183}[machine]
    assert sup.is_static(binary)
    assert len(data) < 100_000
    assert b".debug" not in data
    assert b".symtab" not in data
    assert stat.S_IMODE(binary.stat().st_mode) & 0o111 == 0o111


def test_the_manifest_is_of_what_is_there() -> None:
    assert build.fault() is None


def spoil_source(home: Path) -> None:
    with (home / "wire.c").open("a") as file:
        file.write("\n")


def spoil_binary(home: Path) -> None:
    with (home / "supervise-aarch64").open("ab") as file:
        file.write(b"\0")


def add_source(home: Path) -> None:
    (home / "another.c").touch()


def remove_binary(home: Path) -> None:
    (home / "supervise-x86_64").unlink()


def remove_manifest(home: Path) -> None:
    (home / "MANIFEST.json").unlink()


def break_manifest(home: Path) -> None:
    (home / "MANIFEST.json").write_text("[]")


def lock_binary(home: Path) -> None:
    (home / "supervise-x86_64").chmod(0o644)


SPOIL = [spoil_source, spoil_binary, add_source, remove_binary, remove_manifest, break_manifest, lock_binary]


@pytest.mark.parametrize("spoil", SPOIL, ids=lambda spoil: spoil.__name__)
def test_what_does_not_match_is_noticed(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    home = copy_home(tmp_path / "supervisor")
    assert build.fault(home) is None
    spoil(home)
    assert build.fault(home)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("minitango", "bin"):
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.mark.parametrize("target", ["wheel", "sdist"])
def test_a_package_with_another_source_is_refused(checkout: Path, target: str) -> None:
    spoil_source(checkout / "minitango" / "sandbox" / "supervisor")
    done = make_package(checkout, "-t", target)
    assert done.returncode != 0
    assert "sources do not match" in done.stderr
    assert "bin/build-supervisor" in done.stderr


def test_where_nobody_takes_its_output_for_long_it_leaves(tmp_path: Path) -> None:
    """The same source with less patience than its 60 s."""
    need_bubblewrap()
    tmp_path.chmod(0o755)
    impatient = shutil.copy(compiled(os.uname().machine, build.HOME, ("-DPATIENCE=SECOND",)), tmp_path / "supervise")
    with Line(in_bubblewrap(binary=impatient)) as line:
        line.hello()
        pid1 = line.pid1()
        line.say(run("yes", output=1 << 40))
        assert line.process.wait(PATIENCE) == 5
        assert not os.path.exists(f"/proc/{pid1}")
