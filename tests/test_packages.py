"""The sdist and the wheel: whole, the same from each other, and at work where they are installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import Struct

import minitango
from minitango.cli.init import KINDS
from tests.support import make_package

ROOT = Path(__file__).parent.parent
NAME = f"minitango-{minitango.__version__}"
OURS = shutil.ignore_patterns(
    ".git", ".venv", ".minitango", "__pycache__", ".*_cache", ".hypothesis", "dist", "build", "*.egg-info"
)


class Built(Struct):
    """What a checkout was made into."""

    wheel: Path
    sdist: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    root = tmp_path_factory.mktemp("checkout") / "minitango"
    shutil.copytree(ROOT, root, ignore=OURS, symlinks=True)
    done = make_package(root)
    assert done.returncode == 0, done.stderr
    [wheel], [sdist] = (root / "dist").glob("*.whl"), (root / "dist").glob("*.tar.gz")
    return Built(wheel, sdist)


def package_files() -> dict[str, bytes]:
    """All that is in the package here, by path."""
    paths = [path for path in (ROOT / "minitango").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(ROOT)): path.read_bytes() for path in paths}


def test_the_wheel_holds_the_package_and_no_more(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = [name for name in wheel.namelist() if not name.startswith(f"{NAME}.dist-info/")]
        assert {name: wheel.read(name) for name in names} == package_files()
        for name in names:
            mode = wheel.getinfo(name).external_attr >> 16
            assert bool(mode & 0o111) == bool((ROOT / name).stat().st_mode & 0o111), name
        said = wheel.read(f"{NAME}.dist-info/METADATA").decode()
        assert wheel.read(f"{NAME}.dist-info/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    head = said.split("\n\n")[0].splitlines()
    assert {f"Version: {minitango.__version__}", "Requires-Python: >=3.11", "License-Expression: MIT"} <= set(head)
    assert "Provides-Extra: bubblewrap" in head


def test_the_sdist_makes_the_same_wheel(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as sdist:
        names = {member.name.removeprefix(f"{NAME}/") for member in sdist}
    subprocess.run(["tar", "-xf", built.sdist, "-C", tmp_path], check=True)
    for needed in ("pyproject.toml", "hatch_build.py", "bin/_programs.py", "bin/test", "tests/test_packages.py"):
        assert needed in names
    assert not [name for name in names if name.split("/")[0] in (".git", ".venv", "dist")]
    done = make_package(tmp_path / NAME, "-t", "wheel")
    assert done.returncode == 0, done.stderr
    [again] = (tmp_path / NAME / "dist").glob("*.whl")
    with zipfile.ZipFile(again) as second, zipfile.ZipFile(built.wheel) as first:
        assert second.namelist() == first.namelist()
        assert [second.read(name) for name in second.namelist()] == [first.read(name) for name in first.namelist()]


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and with the dependencies that the tests have."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("pip is not in this environment (try: python -m ensurepip)")
    env = tmp_path_factory.mktemp("installed") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    python = env / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--no-compile", built.wheel], check=True)
    [site] = (env / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return env


Run = Callable[..., str]


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Runs a program of that environment, with nothing of this checkout in sight."""

    def run(program: str, *words: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MINITANGO_", "PYTHON"))}
        done = subprocess.run(
            [installed / "bin" / program, *words], cwd=tmp_path, env=kept, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_it_can_be_imported_and_is_typed(run: Run, installed: Path) -> None:
    code = "import minitango; print(minitango.__file__, minitango.__version__)"
    path, version = run("python", "-c", code).split()
    assert Path(path).is_relative_to(installed)
    assert version == minitango.__version__
    assert Path(path).with_name("py.typed").exists()


def test_the_supervisor_may_be_executed(run: Run) -> None:
    code = "from minitango.sandbox import supervisor as s; print(*s.__path__)"
    home = Path(run("python", "-c", code))
    for name in ("supervise-x86_64", "supervise-aarch64"):
        assert (home / name).read_bytes() == (ROOT / "minitango/sandbox/supervisor" / name).read_bytes()
        assert (home / name).stat().st_mode & 0o111 == 0o111


def test_its_command_line_works(run: Run, tmp_path: Path) -> None:
    assert run("minitango", "--version") == f"minitango, version {minitango.__version__}"
    for kind in KINDS:
        made = run("minitango", "init", kind, "--kind", kind).splitlines()
        assert len(made) > 3
        assert (tmp_path / kind / "assignment.toml").exists()
    assert run("minitango", "submit", "two-step", "two-step/samples", "--state", "queue")
    assert "queued" in run("minitango", "jobs", "--state", "queue")
