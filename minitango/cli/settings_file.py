"""The configuration file: the nearest minitango.toml, or pyproject.toml with [tool.minitango]."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Final

from msgspec import Struct

from minitango.assignment.places import key_lines
from minitango.errors import ConfigError

KEYS: Final[Mapping[str, type | UnionType]] = {
    "store": str,
    "state": str,
    "sandbox": str | list,
    "image": str,
    "workers": int,
    "blobs": str,
    "name": str,
    "capabilities": list,
    "callback_allow": list,
    "keep": str,
    "require": list,
}
"""Every setting, and its type in a file."""


class File(Struct, frozen=True):
    """One that was found: what it says, with its paths made absolute."""

    path: Path
    values: Mapping[str, Any]

    def place(self, key: str) -> str:
        """The file, and the line of this key where that can be told."""
        prefix = ("tool", "minitango") if self.path.name == "pyproject.toml" else ()
        try:
            line = key_lines(self.path.read_text(encoding="utf-8-sig")).get((*prefix, key))
        except (OSError, ValueError):
            line = None
        return f"{self.path}:{line}" if line is not None else str(self.path)


def nearest(folder: Path) -> File | None:
    """The one in this folder, or in the first above it that has one. ConfigError `settings` where it cannot be used."""
    for place in (folder, *folder.parents):
        for name in ("minitango.toml", "pyproject.toml"):
            path = place / name
            if not _is_there(path):
                continue
            table = _read(path)
            if name == "pyproject.toml":
                tool = table.get("tool", {})
                if not isinstance(tool, dict) or "minitango" not in tool:
                    continue
                table = tool["minitango"]
            return File(path, _checked(table, path))
    return None


def _is_there(path: Path) -> bool:
    """Whether there is such a file. ConfigError `settings` where what has our own name cannot be read as one: it may
    have named the queue, and another one would be begun."""
    try:
        if path.is_file():
            return True
        if path.name == "pyproject.toml" or not os.path.lexists(path):
            return False
        why = "it is a link to what is not there" if path.is_symlink() and not path.exists() else "it is no file"
        raise ConfigError(f"{path}: {why}", hint="mend it, or remove it", id="settings")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="make it readable", id="settings") from error


def _read(path: Path) -> dict[str, Any]:
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits, too
        if path.name == "pyproject.toml" and "tool.minitango" not in text:
            return {}  # another tool's file: its own tools will complain
        end = f"(at line {text.rstrip().count(chr(10)) + 1}, the last one)"
        why = str(error).replace("(at end of document)", end)
        raise ConfigError(f"{path}: {why}", hint="correct the file", id="settings") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="make it readable", id="settings") from error


def _checked(table: Any, path: Path) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [tool.minitango] is not a table", hint="see README.md", id="settings")
    for key, value in table.items():
        if key not in KEYS:
            near, place = difflib.get_close_matches(key, KEYS, 1), _elsewhere(key, value)
            known = f"{place}known keys: {', '.join(KEYS)}"
            hint = f"did you mean {near[0]!r}?" if near and not place else known
            raise ConfigError(f"{path}: unknown key {key!r}", hint=hint, id="settings")
        if not _is(value, KEYS[key]):
            raise ConfigError(
                f"{path}: {key} is {value!r}, which is not {_WORDS[KEYS[key]]}",
                hint=f"correct {key} in {path.name}{_example(key, value)}",
                id="settings",
            )
        if value == "" and key in ("state", "store", "blobs"):
            raise ConfigError(f"{path}: {key} is empty", hint=f"name a place, or remove {key}", id="settings")
    made = dict(table)
    for key in ("state", "store", "blobs"):
        if key in made:
            made[key] = _below(path.parent, made[key])
    return made


def _elsewhere(key: str, value: Any) -> str:
    """Where a key belongs that is none of ours, with a blank after it; empty: it is known nowhere."""
    if key in ("step", "sample", "submission", "student", "guarded", "limits", "max_score", "format", "needs"):
        return f"{key} goes into assignment.toml. "
    if isinstance(value, dict):
        inside = [name for name in value if name in KEYS]
        which = f"{inside[0]} stands by itself, above every [table]" if inside else "no setting is a table"
        return f"{which}. "
    return ""


def _example(key: str, value: Any) -> str:
    """How a value is written that is of another type; empty: that is plain to see."""
    if isinstance(value, dict):
        inside = next((name for name in value if name in KEYS), "")
        return f": {inside or key} = ... stands by itself, above every [table]"
    return f": {key} = [{_quoted(value)}]" if KEYS[key] is list and isinstance(value, str) else ""


def _quoted(text: str) -> str:
    return ", ".join(f'"{word.strip()}"' for word in text.split(","))


_WORDS: Final[Mapping[type | UnionType, str]] = {
    int: "a number",
    str: "text",
    list: "a list of texts",
    str | list: "text, nor a list of texts",
}


def _is(value: Any, kind: type | UnionType) -> bool:
    texts = not isinstance(value, list) or all(isinstance(item, str) for item in value)
    return isinstance(value, kind) and texts and not isinstance(value, bool)


def _below(folder: Path, place: str) -> str:
    """A path, or a SQLite URL, of a configuration file: relative to that file, wherever we stand."""
    scheme, separator, rest = place.rpartition("://")
    if not separator:
        return str(folder / Path(rest).expanduser())
    if scheme == "sqlite" and len(rest) > 1 and rest.startswith("/"):
        return f"sqlite:///{folder / rest[1:]}"
    return place
