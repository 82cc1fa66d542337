"""The reference is whole: every command, option, error id and key is in it, and its examples load."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import minitango
from minitango import Assignment, errors, testing
from minitango.archive import Bounds, File
from minitango.assignment import toml_file
from minitango.cli import cli
from minitango.cli.gradebook import COLUMNS
from minitango.doctor import CHECKS
from minitango.job import SCHEMA, Limits, Outcome
from minitango.sandbox import End
from minitango.store import Query
from tests import provoked

ROOT = Path(__file__).parent.parent
CLI = (ROOT / "docs" / "cli.md").read_text()
ASSIGNMENT = (ROOT / "docs" / "assignment.md").read_text()


BASES = {"archive", "blob", "config", "error", "store", "unavailable"}
"""Ids of classes that others stand below, which nothing is raised with."""


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


def test_every_command_and_option_is_documented() -> None:
    sections = dict(re.findall(r"### `minitango (\w+).*?\n(.*?)(?=\n##)", CLI, re.DOTALL))
    for path, command in commands(cli):
        section = sections[path.split()[0]]
        assert path.split()[0] == path or f"`{path}" in section, path
        for option in command.params:
            for name in set(option.opts) - {"-h", "--help"} if isinstance(option, click.Option) else ():
                assert re.search(rf"`{re.escape(name)}[ `]", section), f"{path} {name}"


def constants(node: ast.expr) -> Iterator[str]:
    """The strings that an expression may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)


def ids_in(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(kind, id) of what is raised or noted there: kind is error or warning."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign) and getattr(line.targets[0], "id", "") == "id":
                    yield from (("error", found) for found in constants(line.value))
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", "") or getattr(node.func, "id", "")
            for keyword in node.keywords:
                if keyword.arg == "id" and name != "replace":
                    yield from (("error", found) for found in constants(keyword.value))
            if name in ("Notice", "Failure") and node.args:
                kind = "warning" if name == "Notice" else "error"
                yield from ((kind, found) for found in constants(node.args[0]))
            if name == "error" and len(node.args) == 4:  # Places.error
                yield from (("error", found) for found in constants(node.args[3]))
        elif isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = (
                zip(target.elts, value.elts, strict=True)
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                else [(target, value)]
            )
            for left, right in pairs:
                if getattr(left, "id", "") == "code":
                    yield from (("error", found) for found in constants(right))


def test_every_id_is_in_its_table() -> None:
    found = {pair for path in (ROOT / "minitango").rglob("*.py") for pair in ids_in(ast.parse(path.read_text()))}
    tables = CLI.split("## Errors")[1].split("## Warnings")
    for kind, table in zip(("error", "warning"), tables, strict=True):
        documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
        assert documented == sorted(set(documented))
        assert set(documented) == {name for which, name in found if which == kind} - BASES


def strings(node: ast.AST) -> Iterator[str]:
    """Every string in a piece of a test, but for docstrings: those provoke nothing."""
    said = {
        id(inner.body[0].value)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Module | ast.ClassDef | ast.FunctionDef)
        if inner.body and isinstance(inner.body[0], ast.Expr)
    }
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and id(inner) not in said:
            yield inner.value


def named_by(tree: ast.Module, test: str) -> set[str] | None:
    """The strings of a test, its cases and the constants of its module that it uses; None: it is not there."""
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == test]
    if not found or not test.startswith("test_"):
        return None
    used = {name.id for name in ast.walk(found[0]) if isinstance(name, ast.Name)}
    pieces: list[ast.AST] = [*found]
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and used & {getattr(each, "id", "") for each in targets}:
            pieces.append(node)
    return {text for piece in pieces for text in strings(piece)}


def test_every_id_has_a_test_that_provokes_it() -> None:
    tables = CLI.split("## Errors")[1].split("## Warnings")
    for table, tests in zip(tables, (provoked.ERRORS, provoked.WARNINGS), strict=True):
        assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(tests), "in order, as they are documented"
    trees: dict[str, ast.Module] = {}
    for name, test in {**provoked.ERRORS, **provoked.WARNINGS}.items():
        file, _, function = test.partition("::")
        tree = trees.setdefault(file, ast.parse((ROOT / "tests" / file).read_text()))
        named = named_by(tree, function)
        assert named is not None, f"{name}: there is no {test}"
        printed = set(re.findall(r"\[(\w+)\\?\]", " ".join(named)))  # in a regular expression, too
        assert name in named | printed, f"{test} does not name {name}"


def test_no_id_of_a_base_class_is_that_of_an_error() -> None:
    """What is raised has a closer one."""
    classes = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    said = re.findall(r"`(\w+)`", CLI.split("The IDs are stable.")[1].split("belong to base classes")[0])
    assert set(said) == BASES
    for path in (ROOT / "minitango").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = (
                (getattr(node.func, "attr", "") or getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            )
            if name in classes and isinstance(node, ast.Call):
                given = any(keyword.arg == "id" for keyword in node.keywords)
                assert given or classes[name].id not in BASES, f"{path.name}:{node.lineno}: {name} without an id"


def test_every_check_of_doctor_is_documented() -> None:
    section = CLI.split("### `minitango doctor")[1].split("\n##")[0].split("| option |")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == ["settings", *CHECKS]


def test_every_column_of_the_gradebook_is_documented() -> None:
    listed = CLI.split("The columns are ")[1].split(". Times")[0]
    assert tuple(re.findall(r"`(\w+)`", listed)) == COLUMNS


def test_every_exit_code_is_documented() -> None:
    codes = re.findall(r"^\| (\d+) \|", CLI.split("## Exit codes")[1].split("##")[0], re.MULTILINE)
    assert codes == ["0", "1", "2", "3", "4", "5", "70", "130"]


@pytest.mark.parametrize(
    ("heading", "fields"),
    [
        ("At the top:", toml_file._ASSIGNMENT),
        ("`[submission]`:", toml_file._RULE),
        ("`[[step]]`:", toml_file._STEP),
        ("`limits`, of one step.", toml_file._LIMITS),
        ("`[[sample]]`, for", toml_file._SAMPLE),
    ],
)
def test_every_key_is_documented(heading: str, fields: dict[str, object]) -> None:
    table = ASSIGNMENT.split(heading, 1)[1].split("| key |", 1)[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(fields)


def test_defaults_and_outcomes_are_as_documented(tmp_path: Path) -> None:
    table = ASSIGNMENT.split("`limits`, of one step.", 1)[1]
    shown = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", table, re.MULTILINE))
    limits = ", ".join(f"{name} = {value}" for name, value in shown.items())
    text = f'name = "x"\n[[step]]\ncommand = ["true"]\nlimits = {{ {limits} }}\n'
    (tmp_path / "assignment.toml").write_text(text)
    assert Assignment.load(tmp_path).steps[0].limits == Limits()
    assert all(f"`{outcome}`" in ASSIGNMENT for outcome in Outcome)


def test_its_examples_load(tmp_path: Path) -> None:
    for name in ("samples/right.py", "samples/loop.py", "input.txt", "grade/grade.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    examples = re.findall(r"```toml\n(.*?)```", ASSIGNMENT, re.DOTALL)
    trust = []
    for text in examples:
        (tmp_path / "assignment.toml").write_text(text)
        trust.append(Assignment.load(tmp_path).trust.value)
    assert trust == ["shared", "separated", "guarded"]


def public() -> dict[str, object]:
    """What docs/stability.md says is public, by name."""
    found = {name: getattr(minitango, name) for name in minitango.__all__}
    ours = {
        name: value for name, value in vars(testing).items() if getattr(value, "__module__", "") == testing.__name__
    }
    return {**found, **ours, "Query": Query, "End": End, "File": File, "Bounds": Bounds}


def test_what_the_policy_lists_beside_the_package_is_what_is_held_to_it() -> None:
    policy = (ROOT / "docs" / "stability.md").read_text()
    listed = policy.split("- **The library**")[1].split("- **The command line**")[0]
    named = set(re.findall(r"`minitango\.\w+\.(\w+)`", listed))
    assert named == {"Query", "End", "File", "Bounds"}
    assert named <= set(public())


def test_every_public_name_is_documented() -> None:
    listed = (ROOT / "docs" / "library.md").read_text().split("## Names")[1]
    named = {name.rsplit(".", 1)[-1] for name in re.findall(r"`([\w.]+)`", listed)}
    assert set(public()) - named == set()
    tree = re.findall(r"^\| (`.*?`) \| `(\w+)` \|", listed, re.MULTILINE)
    for names, parent in tree:
        for name in re.findall(r"\w+", names):
            assert getattr(minitango, name).__bases__[0].__name__ == parent, name


def undocumented(kind: type) -> Iterator[str]:
    """Public methods and properties of a class of ours without a docstring of their own."""
    for name, value in vars(kind).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not name.startswith("_") and inspect.isfunction(function) and not function.__doc__:
            yield f"{kind.__name__}.{name}"


def test_everything_public_says_what_it_guarantees() -> None:
    bare = [name for name, value in public().items() if not (value.__doc__ or "").strip()]
    classes = [value for value in public().values() if isinstance(value, type)]
    assert [*bare, *(name for kind in classes for name in undocumented(kind))] == []


def test_each_program_of_ours_that_is_named_is_there() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("**/*.md")]
    for page in pages:
        for name in re.findall(r"(?<![\w/.])bin/[a-z-]+", page.read_text()):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_the_policy_names_what_it_is_about() -> None:
    policy = (ROOT / "docs" / "stability.md").read_text()
    assert f"version {SCHEMA}" in policy
    assert f"~= {minitango.__version__}" in policy
    for page, anchor in re.findall(r"\]\((\w+\.md)#([\w-]+)\)", policy):
        headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, anchor
