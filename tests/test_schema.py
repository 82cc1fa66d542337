"""The published JSON Schema is that of what is printed, and keeps its promise."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import jsonschema
import pytest

from minitango.cli import cli
from minitango.job import SCHEMA

ROOT = Path(__file__).parent.parent


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_schema", ROOT / "bin" / "_schema.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


schemas = load()


@pytest.mark.parametrize("name", schemas.DOCUMENTS)
def test_what_is_published_is_what_is_printed(name: str) -> None:
    text = (schemas.HOME / f"{name}.json").read_text()
    assert text == schemas.encode(schemas.generate(name)), "run bin/schema"
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    assert json.loads(text)["$id"] == f"urn:minitango:schema:{SCHEMA}:{name}"


def speaking(group: click.Group, path: str = "") -> Iterator[str]:
    """The commands that print JSON, as their files are called; a group that has --json hands it to its `list`."""
    for name, command in group.commands.items():
        words = {word for option in command.params for word in option.opts}
        if isinstance(command, click.Group):
            yield from speaking(command, f"{path}{name}-")
        elif words & {"--json", "--format"}:
            yield f"{path}{name}"


def test_every_command_that_prints_json_has_its_schema_and_is_named() -> None:
    names = set(speaking(cli))
    assert names == set(schemas.DOCUMENTS) - set(schemas.TITLES)
    text = (ROOT / "docs" / "cli.md").read_text()
    head = " ".join(text.partition("print one JSON document")[0].split())
    assert [name for name in names if f"`{name.replace('-', ' ')}`" not in head and name != "export"] == []
    assert {name for name in schemas.DOCUMENTS if f"schema/{name}.json" not in text} <= {"submit"}, "as jobs-list"


def test_nothing_else_is_published() -> None:
    assert {path.name for path in schemas.HOME.iterdir()} == {f"{name}.json" for name in schemas.DOCUMENTS}


def test_fields_may_be_added_and_their_words_changed() -> None:
    old = schemas.generate("run")
    new = copy.deepcopy(old)
    job = new["$defs"]["JobRecord"]
    job["properties"]["more"] = {"type": "string"}
    job["required"].append("more")
    job["properties"]["score"]["description"] = "other words"
    new["$defs"]["More"] = {"type": "object", "properties": {}}
    assert list(schemas.broken(old, new)) == []
    assert list(schemas.broken(new, old)) == ["JobRecord.more is gone", "More is gone"]


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("JobRecord", "properties", "score"), {"type": "number"}, "JobRecord.score is of another kind"),
        (("JobRecord", "required"), [], "JobRecord.id is not always there any more"),
        (("State", "enum"), ["queued"], "State has other values"),
    ],
)
def test_what_a_program_relies_on_may_not_change(path: tuple[str, ...], value: Any, fault: str) -> None:
    old = schemas.generate("run")
    new = copy.deepcopy(old)
    place = new["$defs"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert fault in schemas.broken(old, new)


def test_it_is_not_written_where_it_breaks_a_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "HOME", tmp_path / "schema")
    schemas.main([])
    path = tmp_path / "schema" / "run.json"
    published = json.loads(path.read_text())
    published["$defs"]["JobRecord"]["properties"]["grade"] = {"type": "number"}
    path.write_text(json.dumps(published))
    with pytest.raises(SystemExit) as caught:
        schemas.main([])
    assert "JobRecord.grade is gone" in str(caught.value)
    assert json.loads(path.read_text()) == published
    schemas.main(["--break"])
    assert path.read_text() == (schemas.ROOT / "docs" / "schema" / "run.json").read_text()
