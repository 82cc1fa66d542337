"""Settings: flags, then MINITANGO_* variables, then minitango.toml or [tool.minitango], then defaults."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from msgspec import Struct

from minitango.engine import Engine, Event
from minitango.errors import ConfigError
from minitango.statedir import locate

DEFAULT_STATE: Final = ".minitango"
_KEYS: Final[Mapping[str, type]] = {"store": str, "state": str, "sandbox": str, "workers": int}

F = TypeVar("F", bound=Callable[..., Any])


class Settings(Struct, frozen=True):
    """Where the queue is and how it is graded."""

    store: str
    """A store URL, or a state directory."""
    state: str | None
    sandbox: str
    workers: int | None

    def open(self, *, workers: int | None = None, on_event: Callable[[Event], None] | None = None) -> Engine:
        """The engine on this state; `workers=0` only submits and watches."""
        wanted = self.workers if workers is None else workers
        return Engine.open(self.store, workers=wanted, sandbox=self.sandbox, state=self.state, on_event=on_event)

    def open_existing(self) -> Engine:
        """To look at a queue that is there; ConfigError where none is."""
        url, _ = locate(self.store, self.state)
        scheme, _, rest = url.partition("://")
        if scheme == "sqlite" and not Path(rest[1:]).exists():
            raise ConfigError(
                f"there is no queue at {rest[1:]}",
                hint="run something first (minitango run ASSIGNMENT PATH...), or name its folder with --state DIR",
                id="no_queue",
            )
        return self.open(workers=0)


def state_options(command: F) -> F:
    """--store and --state."""
    state = click.option("--state", metavar="DIR", help=f"Where queue, files and lock are (default {DEFAULT_STATE}/).")
    store = click.option("--store", metavar="URL", help="The queue, such as sqlite:///course/queue.db.")
    return store(state(command))


def grading_options(command: F) -> F:
    """--sandbox and --workers."""
    count = click.IntRange(1, 1000)
    workers = click.option("--workers", type=count, metavar="N", help="Jobs at once (default: one a core).")
    sandbox = click.option("--sandbox", metavar="NAME", help="auto (default) or bubblewrap.")
    return sandbox(workers(command))


def resolve(
    *,
    store: str | None = None,
    state: str | None = None,
    sandbox: str | None = None,
    workers: int | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Settings from flags (None: not given), the environment and the nearest configuration file."""
    environ = os.environ if environ is None else environ
    file = _configuration(folder or Path.cwd())
    flags = {"store": store, "state": state, "sandbox": sandbox, "workers": workers}

    def pick(key: str) -> Any:
        if flags[key] is not None:
            return flags[key]
        name = f"MINITANGO_{key.upper()}"
        if environ.get(name):
            return _number(environ[name], name) if key == "workers" else environ[name]
        return file.get(key)

    chosen_state = pick("state")
    chosen_store = pick("store")
    if chosen_store is None:
        chosen_store, chosen_state = chosen_state or DEFAULT_STATE, None
    count = pick("workers")
    if count is not None and count < 1:
        raise ConfigError(f"workers is {count}", hint="give 1 or more", id="workers")
    return Settings(chosen_store, chosen_state, pick("sandbox") or "auto", count)


def _number(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{name} is {text!r}, not a number", hint=f"{name}=4", id="workers") from error


def _configuration(folder: Path) -> dict[str, Any]:
    """The nearest minitango.toml, or pyproject.toml with [tool.minitango], in this folder or one above."""
    for place in (folder, *folder.parents):
        for name in ("minitango.toml", "pyproject.toml"):
            path = place / name
            if not path.is_file():
                continue
            table = _read(path)
            if name == "pyproject.toml":
                tool = table.get("tool", {})
                if not isinstance(tool, dict) or "minitango" not in tool:
                    continue
                table = tool["minitango"]
            return _checked(table, path)
    return {}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        if path.name == "pyproject.toml":
            return {}  # another tool's file: its own tools will complain
        raise ConfigError(f"{path}: {error}", hint="correct the file", id="settings") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="make it readable", id="settings") from error


def _checked(table: Any, path: Path) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [tool.minitango] is not a table", hint="see README.md", id="settings")
    for key, value in table.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(_KEYS)}"
            raise ConfigError(f"{path}: unknown key {key!r}", hint=hint, id="settings")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise ConfigError(
                f"{path}: {key} is {value!r}, which is not {'a number' if _KEYS[key] is int else 'text'}",
                hint=f"correct {key} in {path.name}",
                id="settings",
            )
    made = dict(table)
    for key in ("state", "store"):  # relative to the file that names them, wherever we stand
        if key in made and "://" not in made[key]:
            made[key] = str(path.parent / made[key])
    return made
