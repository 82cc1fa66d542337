"""The house: imports go down the floors, importing is light, and the papers say what the code is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import minitango
from minitango import errors
from minitango.job import TRANSITIONS, State

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minitango"

FLOORS = [
    {"errors", "failpoint", "starting"},
    {
        "job",
        "retry",
        "blobs",
        "archive",
        "unpacking",
        "text",
        "breaker",
        "bell",
        "threads",
        "stopping",
        "output",
        "image_name",
        "callback_url",
        "record",
        "feedback",
        "group",
        "room",
    },
    {"store", "sandbox", "results", "assignment"},
    {"runner", "attempt", "judging", "layout", "preflight", "remarks", "students"},
    {
        "engine",
        "pool",
        "grading",
        "observer",
        "leases",
        "claiming",
        "workqueue",
        "node",
        "events",
        "graders",
        "handle",
        "identity",
        "intake",
        "trial",
        "statedir",
        "testing",
        "doctor",
        "moving",
        "backup",
        "keeping",
        "metrics",
        "scrape",
        "callbacks",
        "sender",
    },
    {"exchange"},
    {"", "cli", "__main__"},
]
SIDE_BY_SIDE = {"store", "sandbox", "results", "assignment"}
FOREIGN_HOMES = {
    "redis": "minitango/store/",
    "prometheus_client": "minitango/metrics.py",
    "docker": "minitango/sandbox/_docker_engine.py",
    "click": "minitango/cli/",
    "rich": "minitango/cli/",
    "sqlite3": "minitango/store/",
}


def floor(room: str) -> int:
    return next(n for n, rooms in enumerate(FLOORS) if room in rooms)


def room(module: str) -> str:
    """The room of `minitango.store.sqlite` is `store`."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module in ("minitango", "minitango.store", "minitango.sandbox", "minitango.cli"):
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def modules() -> list[Path]:
    """All but what `init` copies: those are a course's files."""
    return sorted(path for path in PACKAGE.rglob("*.py") if PACKAGE / "scaffolds" not in path.parents)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def test_every_module_has_a_floor() -> None:
    for path in modules():
        floor(room(module_name(path)))


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_imports_go_down(path: Path) -> None:
    here = room(module_name(path))
    for name in imports(path):
        if name == "minitango.__version__" or not name.startswith("minitango."):
            continue
        there = room(name)
        if there == here or not ((PACKAGE / there).exists() or (PACKAGE / f"{there}.py").exists()):
            continue
        assert floor(there) <= floor(here), f"{path.name} looks up to {name}"
        if here in SIDE_BY_SIDE:
            assert there not in SIDE_BY_SIDE, f"{here} and {there} stand side by side"


def test_what_is_behind_the_front_of_the_sandbox_does_not_look_through_it() -> None:
    """The contract is below all that keeps it, and the opening of sandboxes above that."""
    front = PACKAGE / "sandbox"
    for path in front.glob("*.py"):
        if path.name != "__init__.py":
            names = {name for name in imports(path) if name.startswith("minitango.sandbox.")}
            strange = {name for name in names if not (ROOT / f"{name.replace('.', '/')}.py").exists()}
            assert strange == set(), f"{path.name} takes these from the front"
    assert not {name for name in imports(front / "contract.py") if name.startswith("minitango.sandbox")}


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_foreign_libraries_have_one_home(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    for name in imports(path):
        home = FOREIGN_HOMES.get(name.split(".")[0])
        assert home is None or place.startswith(home), f"{place} imports {name}"


def run_python(code: str) -> str:
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return out.stdout.strip()


def test_importing_is_light() -> None:
    heavy = run_python(
        "import sys, minitango; print(sorted({'redis', 'docker', 'prometheus_client', 'click', 'rich', 'sqlite3',"
        " 'filelock', 'asyncio', 'ssl', 'http.client'} & set(sys.modules)))"
    )
    assert heavy == "[]"


def test_the_diagram_is_the_state_machine() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    diagram = text.split("```mermaid")[1].split("```")[0]
    drawn = set(re.findall(r"(\S+) --> (\S+): (\w+)", diagram))
    assert drawn == {(str(t.source) if t.source else "[*]", str(t.target), t.verb) for t in TRANSITIONS}
    ends = set(re.findall(r"(\w+) --> \[\*\]", diagram))
    assert ends == {str(state) for state in State if state.terminal}


def test_terminal_states_are_left_by_nothing() -> None:
    assert not [t for t in TRANSITIONS if t.source is not None and t.source.terminal]


def test_the_error_tree_is_drawn_as_it_is() -> None:
    """Each class stands in the docstring under its parent, is public, and has an id of its own."""
    assert errors.__doc__
    parents: list[tuple[int, str]] = []
    drawn: dict[str, str] = {}
    for line in errors.__doc__.splitlines():
        found = re.match(r"    [ │├└─]*([A-Z]\w+)( |$)", line)
        if found is None:
            continue
        while parents and parents[-1][0] >= found.start(1):
            parents.pop()
        drawn[found[1]] = parents[-1][1] if parents else "Exception"
        parents.append((found.start(1), found[1]))
    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert drawn == {name: value.__bases__[0].__name__ for name, value in classes.items()}
    ids = [value.id for value in classes.values()]
    assert len(set(ids)) == len(ids)
    assert set(classes) <= set(minitango.__all__)


DEFAULTS = {
    "MinitangoError": ("error", 1),
    "ConfigError": ("config", 2),
    "AssignmentError": ("assignment", 2),
    "SubmissionError": ("submission", 2),
    "ArchiveError": ("archive", 2),
    "NothingToGrade": ("nothing_to_grade", 5),
    "UnavailableError": ("unavailable", 3),
    "StoreError": ("store", 3),
    "StoreTooNew": ("store_too_new", 3),
    "StoreFull": ("store_full", 3),
    "EngineRunning": ("engine_running", 3),
    "BlobError": ("blob", 3),
    "SandboxUnavailable": ("sandbox_unavailable", 3),
    "SandboxFailed": ("sandbox_failed", 1),
    "JobNotFound": ("job_not_found", 2),
    "GraderSuspected": ("grader_suspected", 4),
    "SampleMissed": ("sample_missed", 1),
    "JobDead": ("job_dead", 4),
    "EngineStopped": ("engine_stopped", 1),
}
"""Of each class, what an error has whose raiser says no more: the id, and the exit code."""


def test_an_error_whose_raiser_says_no_more_has_the_id_and_exit_code_of_its_class() -> None:
    """Both are stable: course tooling matches on them, and scripts on the code."""
    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    assert {name: (kind.id, kind.exit_code) for name, kind in classes.items()} == DEFAULTS
    for name, (own, code) in DEFAULTS.items():
        error = classes[name]("it went wrong")
        assert (error.id, error.exit_code, error.hint, str(error)) == (own, code, "", "it went wrong")
        if name != "EngineRunning":  # which is always one and the same
            assert (classes[name]("x", id="other").id, classes[name].id) == ("other", own)


def test_the_house_in_the_papers_is_the_house() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in PACKAGE.iterdir():
        if path.name.startswith("__") or path.name == "py.typed":
            continue
        name = path.name + "/" if path.is_dir() else path.name
        assert name in text, f"ARCHITECTURE.md does not show {name}"


def unavailable_ids(tree: ast.Module) -> Iterator[str]:
    """The ids with which SandboxUnavailable is raised in a module; those that are handed on are raised elsewhere."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "SandboxUnavailable":
            continue
        given = next((keyword.value for keyword in node.keywords if keyword.arg == "id"), None)
        if given is None:
            yield errors.SandboxUnavailable.id
        elif isinstance(given, ast.Name):  # chosen before, among what is written there
            values = [line.value for line in ast.walk(tree) if isinstance(line, ast.Assign)]
            words = [word.value for value in values for word in ast.walk(value) if isinstance(word, ast.Constant)]
            yield from (word for word in words if isinstance(word, str) and re.fullmatch("sandbox_[a-z_]+", word))
        else:
            yield from (word.value for word in ast.walk(given) if isinstance(word, ast.Constant))  # type: ignore[misc]


def test_whom_it_concerns_is_decided_for_every_way_to_be_without_a_sandbox() -> None:
    modules = (ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py"))
    assert {found for tree in modules for found in unavailable_ids(tree)} == set(errors.REACHES)
    assert {name for name, reach in errors.REACHES.items() if reach != "sandbox"} == {
        "sandbox_image_gone", "sandbox_network", "sandbox_registry"
    }  # fmt: skip
    assert all(errors.reach_of(name) == reach for name, reach in errors.REACHES.items())
    assert errors.reach_of("sandbox_news") == "sandbox"
