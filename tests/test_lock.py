"""What the tests are run with is locked, by version and hash, for each machine; and no command is a string of data."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_programs_build import ROOT

LOCK = (ROOT / "requirements-dev.lock").read_text()


def locked() -> dict[str, tuple[Requirement, list[str]]]:
    """Each package, and the hashes that its files may have."""
    found = {}
    for entry in re.split(r"\n(?=[a-z])", LOCK.strip()):
        requirement, *hashes = entry.replace("\\\n", "").split(" --hash=")
        parsed = Requirement(requirement.strip())
        assert canonicalize_name(parsed.name) not in found
        found[canonicalize_name(parsed.name)] = parsed, [each.strip() for each in hashes]
    return found


def test_each_package_has_one_version_and_the_hashes_of_its_files() -> None:
    for name, (requirement, hashes) in locked().items():
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), name
        assert requirement.url is None
        assert hashes, name
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes), name


def test_all_that_is_needed_is_locked_as_it_is_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = locked()
    for line in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        needed = Requirement(line)
        requirement, _ = found[canonicalize_name(needed.name)]
        (version,) = [each.version for each in requirement.specifier]
        assert needed.specifier.contains(version), f"bin/lock: {line}, and {version} is locked"


def test_what_must_be_built_on_the_way_has_files_for_each_machine() -> None:
    """A wheel for another machine has another hash: one hash alone is of a wheel for all, or of the source."""
    found = locked()
    for name in ("msgspec", "pyyaml", "ruff", "rpds-py", "ziglang", "mypy"):
        assert len(found[name][1]) > 5, name


# --- no shell strings --------------------------------------------------------------------------------------------

SHELLS = {"sh", "bash", "dash", "/bin/sh", "/bin/bash", "/usr/bin/sh", "/usr/bin/bash"}
STRINGS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"}
ASYNC = {"asyncio.create_subprocess_shell", "create_subprocess_shell"}


def is_constant(node: ast.AST) -> bool:
    """Text that stands there, whole, or is a module's own constant."""
    named = isinstance(node, ast.Name) and node.id.isupper()
    return named or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def shell_strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Where a shell is given something that is not written there word for word."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in STRINGS | ASYNC:
                yield node.lineno, called
            for keyword in node.keywords:
                if keyword.arg == "shell" and not (isinstance(keyword.value, ast.Constant) and not keyword.value.value):
                    yield node.lineno, "shell="
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "subprocess"):
            for name in node.names:
                if f"{node.module}.{name.name}" in STRINGS:
                    yield node.lineno, f"{node.module}.{name.name}"
        elif isinstance(node, ast.List | ast.Tuple):
            words = [each.value if isinstance(each, ast.Constant) else None for each in node.elts]
            for at, (first, second) in enumerate(pairwise(words)):
                asks = first in SHELLS and isinstance(second, str) and re.fullmatch("-[a-z]*c", second)
                if asks and not all(map(is_constant, node.elts[at + 2 : at + 3])):
                    yield node.lineno, f"{first} -c"


INSTRUCTORS = "minitango/assignment/toml_file.py"
"""A command that an assignment has as one text, not as a list, is for a shell: in its box, as its author wrote it."""


def programs() -> list[Path]:
    places = [*(ROOT / "minitango").rglob("*.py"), *(ROOT / "bin").glob("*.py"), *(ROOT / "bench").rglob("*.py")]
    examples = [path for path in (ROOT / "examples").rglob("*.py") if "handins" not in path.parts]
    return [*places, *examples, ROOT / "hatch_build.py"]


def test_no_command_is_a_string_that_was_built() -> None:
    found = [
        (str(path.relative_to(ROOT)), *each)
        for path in programs()
        for each in shell_strings(ast.parse(path.read_text()))
    ]
    assert [each for each in found if each[0] != INSTRUCTORS] == []
    assert len(found) == 1


@pytest.mark.parametrize(
    "code",
    [
        "os.system('ls')",
        "from os import popen",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=wanted)",
        "run(['sh', '-c', f'rm {name}'])",
        "run(['sh', '-c', 'rm ' + name])",
        "run(('env', '/bin/bash', '-ec', 'rm %s' % name))",
        "run(['sh', '-c', script])",
    ],
)
def test_one_that_was_built_is_found(code: str) -> None:
    assert len([*shell_strings(ast.parse(code))]) == 1


@pytest.mark.parametrize(
    "code",
    ["run(['sh', '-c', 'exec \"$@\"', 'sh', name])", "subprocess.run(command, shell=False)", "run(['sh', script])"],
)
def test_words_of_their_own_are_no_string(code: str) -> None:
    assert [*shell_strings(ast.parse(code))] == []


def test_no_script_evaluates_data() -> None:
    """In our own shell scripts and C, too."""
    for path in (ROOT / "bin").iterdir():
        if path.is_file() and path.suffix in ("", ".sh"):
            lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
            assert not [line for line in lines if re.search(r"(?:^|[;&|(]\s*|\s)eval\s", line)], path.name
    for path in (ROOT / "minitango").rglob("*.c"):
        assert not re.search(r"\b(system|popen|execlp?)\s*\(", path.read_text()), path.name


# --- the audit ---------------------------------------------------------------------------------------------------


def audited(*packages: dict[str, object], log: str = "") -> tuple[int, list[str]]:
    spec = importlib.util.spec_from_file_location("_audit", ROOT / "bin" / "_audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: tuple[int, list[str]] = module.verdict(json.dumps({"dependencies": packages}) if packages else "", log)
    return found


def test_an_audit_tells_what_is_known_from_what_nobody_could_say() -> None:
    good: dict[str, object] = {"name": "a", "version": "1", "vulns": []}
    bad: dict[str, object] = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
    unknown: dict[str, object] = {"name": "c", "skip_reason": "not found"}
    assert audited(good) == (0, ["something is known against 0 of 1 packages that were looked up"])
    code, lines = audited(good, bad, unknown)
    assert code == 1
    assert lines[0] == "b 2: PYSEC-1, mended in 2.1"
    assert audited(good, unknown)[0] == 3
    assert audited(unknown) == (3, ["nobody could be asked about 1 of 1: c"])
    assert audited(log="x\nno network\n") == (3, ["nothing was looked at: no network"])
