"""`minitango config`: which settings are in force, and who says so."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from minitango.cli import records, show
from minitango.cli.options import callback_options, grading_options, state_options
from minitango.cli.records import Setting, UnknownVariable
from minitango.cli.settings import resolve
from minitango.cli.settings_file import KEYS
from minitango.cli.sources import Source, of_place, shared_store, sources, variable
from minitango.cli.streams import out, tell
from minitango.statedir import locate
from minitango.store import is_redis, shown
from minitango.text import one_line

_NO_SETTINGS: Final = frozenset(
    f"MINITANGO_{name}"
    for name in (
        "PROG", "VENV", "PYTHON", "FAILPOINT", "TEST_IMAGE", "SUBMISSION", "COLLECTED", "REPORT", "CALLBACK_SECRET",
    )
)  # fmt: skip
"""Variables that others of our programs know."""


@click.group(short_help="Look at the settings: show.")
def config() -> None:
    """Look at the settings."""


@config.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@state_options
@grading_options
@callback_options
def show_config(as_json: bool, **where: Any) -> int:
    """Print every setting, its value, and where that comes from."""
    settings = explain(where, os.environ)
    unknown = unknown_variables(os.environ)
    if as_json:
        strange = tuple(UnknownVariable(name, near) for name, near in unknown.items())
        show.print_json(records.Settings(settings=tuple(settings), unknown=strange))
    else:
        rows = [[each.key, str(each.value), _said_by(each)] for each in settings]
        out(show.table(["setting", "value", "from"], rows, fixed=("setting",)))
    for name, near in unknown.items():
        meant = f": did you mean {near}?" if near else ""
        tell(f"warning: {one_line(name, 80)} is no setting of minitango's{meant}")
    return 0


def explain(flags: Mapping[str, Any], environ: Mapping[str, str]) -> list[Setting]:
    """Every setting, with what it comes to here. ConfigError where one cannot be used."""
    settings = resolve(**{key: flags.get(key) or None for key in KEYS}, environ=environ)
    found = sources(flags, environ)
    url, folder = locate(settings.store, settings.state)
    place = of_place(found)
    told = [_of_place(found, place, "store", shown(url)), _of_place(found, place, "state", str(folder))]
    if is_redis(url):  # a node's own directory, of which a server's URL says nothing
        saying = [source for source in found if source.has("state")]
        told[1] = _setting("state", str(folder), saying[:1], saying[1:])
    from minitango.sandbox.docker import DEFAULT_IMAGE

    defaults: dict[str, str | int] = {
        "sandbox": "auto",
        "image": DEFAULT_IMAGE,
        "workers": os.cpu_count() or 1,
        "blobs": "with the queue",
        "name": "made from the machine's",
        "capabilities": "none",
        "callback_allow": "none",
        "keep": "for ever; on Redis 400d",
        "require": "none",
    }
    if "," in settings.sandbox or "?" in settings.sandbox:
        defaults["workers"] = "the slots of all engines"
    actual = {key: getattr(settings, key, None) for key in defaults}
    actual["capabilities"] = ", ".join(settings.capabilities)
    actual["callback_allow"] = ", ".join(settings.callbacks.allow)
    actual["require"] = ", ".join(settings.require)
    for key, default in defaults.items():
        saying = [source for source in found if source.has(key)]
        told.append(_setting(key, actual[key] or default, saying[:1], saying[1:]))
    return told


def _of_place(found: Sequence[Source], place: Source | None, key: str, value: str) -> Setting:
    """--store and --state: what the source that decides on both does not name follows from what it does."""
    if place is None:
        return Setting(key, value, "default")
    shared = shared_store(found, place) if key == "store" else None
    if shared is not None:
        return Setting(key, value, shared.kind, shared.place(key))
    named = place if place.has(key) else None
    other = "state" if key == "store" else "store"
    over = tuple(s.place(key) for s in found if s is not place and s.values.get(key))
    return Setting(key, value, place.kind, place.place(key if named else other), over)


def _setting(key: str, value: str | int, saying: Sequence[Source], over: Sequence[Source]) -> Setting:
    if not saying:
        return Setting(key, value, "default")
    first = saying[0]
    return Setting(key, value, first.kind, first.place(key), tuple(source.place(key) for source in over))


def _said_by(setting: Setting) -> str:
    text = setting.place or "default"
    return f"{text} (not {', '.join(setting.over)})" if setting.over else text


def unknown_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """MINITANGO_* variables that mean nothing, each with the setting that was perhaps meant; empty: none is near."""
    strange = sorted(name for name in environ if name.startswith("MINITANGO_") and name not in _NO_SETTINGS)
    keys = {name: name.removeprefix("MINITANGO_").lower() for name in strange}
    near = {
        name: difflib.get_close_matches(key, KEYS, 1)
        for name, key in keys.items()
        if variable(key) != name or key not in KEYS
    }
    return {name: variable(found[0]) if found else "" for name, found in near.items()}
