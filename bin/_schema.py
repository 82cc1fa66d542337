"""JSON Schema of what `--json` prints, made from the classes that are printed: docs/schema/.

    python bin/_schema.py [--break]

writes the files. It refuses where a field that was published would be gone or changed: that is another schema version
(`SCHEMA` in minitango/job.py). `--break` writes all the same, for what was never released.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402 - the checkout's own package goes first

from minitango import record  # noqa: E402
from minitango.cli import records  # noqa: E402
from minitango.job import SCHEMA, Result  # noqa: E402

HOME = ROOT / "docs" / "schema"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
DOCUMENTS: dict[str, type] = {
    "run": records.Run,
    "submit": records.Jobs,
    "jobs-list": records.Jobs,
    "jobs-show": records.Stories,
    "check": records.Samples,
    "export": records.Grades,
    "nodes-list": records.NodeRecords,
    "doctor": records.Checkup,
    "config-show": records.Settings,
    "prune": records.Prune,
    "result": Result,
    "callback": record.Told,
}
"""By the name of the file, which is that of the command."""

TITLES = {
    "result": "A result, as it is kept and as `jobs show --json` has it",
    "callback": "What is sent to a callback",
}
"""Of what no command prints."""

Schema = dict[str, Any]


def generate(name: str) -> Schema:
    """The schema of one document."""
    kind = DOCUMENTS[name]
    made = msgspec.json.schema(kind)
    for struct in _structs(kind):
        _describe(made["$defs"][struct.__name__], struct)
    command = f"minitango {name.replace('-', ' ')} --json".replace("export --json", "export --format json")
    title = TITLES.get(name, command)
    whole: Schema = {"$schema": DIALECT, "$id": f"urn:minitango:schema:{SCHEMA}:{name}", "title": title, **made}
    return json.loads(json.dumps(whole))  # type: ignore[no-any-return] - a default may be a tuple


def _structs(kind: Any) -> list[type[msgspec.Struct]]:
    """Every Struct that a document of this kind may hold."""
    found: dict[str, type[msgspec.Struct]] = {}

    def look(value: Any) -> None:
        if isinstance(value, msgspec.inspect.StructType):
            if value.cls.__name__ in found:
                return
            found[value.cls.__name__] = value.cls
        if isinstance(value, msgspec.inspect.Type | msgspec.inspect.Field):
            for name in value.__struct_fields__:
                look(getattr(value, name))
        elif isinstance(value, tuple):
            for each in value:
                look(each)

    look(msgspec.inspect.type_info(kind))
    return list(found.values())


def _describe(schema: Schema, struct: type[msgspec.Struct]) -> None:
    """Say what msgspec, which thinks of reading, does not: what is always there, and what each field holds."""
    schema.pop("additionalProperties", None)  # fields may be added
    omits = struct.__struct_config__.omit_defaults
    always = [field.encode_name for field in msgspec.structs.fields(struct) if not (omits and _may_be_omitted(field))]
    schema["required"] = always
    for name in always:
        schema["properties"][name].pop("default", None)
    for name, text in _texts(struct).items():
        schema["properties"][name]["description"] = text
    for each in (schema, *schema["properties"].values()):
        if "description" in each:
            each["description"] = re.sub(r"\bNone\b", "null", each["description"])


def _may_be_omitted(field: msgspec.structs.FieldInfo) -> bool:
    """Whether msgspec leaves it out where it is the default: of what a function makes, empty containers alone."""
    return field.default is not msgspec.NODEFAULT or field.default_factory in (list, dict, set)


def _texts(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The strings below the fields of a class and of those it extends."""
    texts: dict[str, str] = {}
    for kind in reversed(struct.__mro__):
        if kind is msgspec.Struct or not issubclass(kind, msgspec.Struct):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(node, ast.ClassDef)
        for field, text in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                texts[field.target.id] = inspect.cleandoc(str(text.value.value)).replace("\n", " ")
    return texts


def encode(schema: Schema) -> str:
    """As it stands in its file."""
    return json.dumps(schema, indent=2) + "\n"


def broken(old: Schema, new: Schema) -> Iterator[str]:
    """What a program that reads `old` would miss in `new`, in words."""
    there = new.get("$defs", {})
    for name, was in old.get("$defs", {}).items():
        if name not in there:
            yield f"{name} is gone"
            continue
        now = there[name]
        for field, kind in was.get("properties", {}).items():
            if field not in now.get("properties", {}):
                yield f"{name}.{field} is gone"
            elif _bare(kind) != _bare(now["properties"][field]):
                yield f"{name}.{field} is of another kind"
            elif field in was.get("required", ()) and field not in now.get("required", ()):
                yield f"{name}.{field} is not always there any more"
        if was.get("enum") != now.get("enum"):
            yield f"{name} has other values"


def _bare(schema: Any) -> Any:
    """Without what is for people."""
    if isinstance(schema, dict):
        return {key: _bare(value) for key, value in schema.items() if key not in ("description", "title")}
    return [_bare(each) for each in schema] if isinstance(schema, list) else schema


def main(words: list[str]) -> None:
    HOME.mkdir(exist_ok=True)
    made = {HOME / f"{name}.json": generate(name) for name in DOCUMENTS}
    faults = [
        f"{path.name}: {fault}"
        for path, schema in made.items()
        if path.exists()
        for fault in broken(json.loads(path.read_text()), schema)
    ]
    if faults and words != ["--break"]:
        sys.exit("error: this is not schema version " + f"{SCHEMA} any more:\n" + "\n".join(faults))
    for path, schema in made.items():
        path.write_text(encode(schema))
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
