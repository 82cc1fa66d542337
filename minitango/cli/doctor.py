"""`minitango doctor`: is all here that a night of grading needs?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from minitango.cli import show
from minitango.cli.config import explain, unknown_variables
from minitango.cli.loading import load
from minitango.cli.options import ANY_PATH, grading_options, setup_option, state_options
from minitango.cli.records import Checkup
from minitango.cli.settings import Settings, settled
from minitango.cli.sources import variable
from minitango.cli.streams import as_called, out
from minitango.doctor import Check, Patient, examine
from minitango.errors import ConfigError, MinitangoError
from minitango.sandbox import kind_of
from minitango.statedir import locate
from minitango.text import one_line, plural

FAILED: Final = 3
_WORDS: Final = {"ok": "ok", "warning": "warning", "failed": "FAILED"}
_WIDE: Final = 1000
_OF_VARIABLES: Final = {
    "workers": ("workers",), "image_name": ("image",), "sandbox_name": ("sandbox",), "keep": ("keep",),
    "require": ("require",), "label": ("name", "capabilities"), "callback_url": ("callback_allow",),
}  # fmt: skip
"""Ids of errors, and the settings of which a variable may be at fault: of several, the one that the error names."""
_ANY: Final = "bubblewrap"
"""What `kind_of` is to take for `auto`, so that it asks no Docker engine: only the name is looked at."""


@click.command(short_help="Look whether all is here that grading needs, and say what to do where it is not.")
@click.argument("assignment", type=ANY_PATH, required=False)
@click.option("--fix", is_flag=True, help="Remove what dead engines left, and fetch what ASSIGNMENT needs.")
@click.option("--canary", is_flag=True, help="Let hostile programs loose in the sandbox, and say which limits hold.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@setup_option
@state_options
@grading_options
def doctor(assignment: Path | None, fix: bool, canary: bool, as_json: bool, no_setup: bool, **where: Any) -> int:
    """Check Python, the settings, the state directory, the queue and the sandboxes: a line each, and what would help.

    With ASSIGNMENT also whether its commands are there. Changes nothing without --fix, and does not disturb an engine
    that runs. With --canary it lets hostile programs loose, which are bounded, and takes some seconds. Exits 3 if
    something fails that grading needs.
    """
    settings, unusable_settings, environ = _resolved(where)
    url, state = locate(settings.store, settings.state)
    checks: list[Check] = []

    def say(check: Check) -> None:
        checks.append(check)
        if not as_json:
            out("\n".join(_lines(check)))

    for check in unusable_settings:
        say(check)
    if not unusable_settings:
        say(_settings(where, environ))
    loaded = None
    unusable: Check | None = None
    if assignment is not None:
        try:
            loaded = load(assignment, image=settings.image, no_setup=no_setup)
        except MinitangoError as error:
            unusable = Check("assignment", "failed", error.message, error.hint, facts={"error": error.id})
    patient = Patient(
        url,
        state,
        settings.sandbox,
        settings.image,
        settings.flags,
        loaded,
        fix,
        settings.require,
        blobs=None if settings.blobs is None else Path(settings.blobs).absolute(),
        canary=canary,
    )
    for check in examine(patient):
        say(check)
    if unusable is not None:
        say(unusable)
    failed = [check for check in checks if check.verdict == "failed"]
    warned = [check for check in checks if check.verdict == "warning"]
    if as_json:
        show.print_json(Checkup(ok=not failed, checks=tuple(checks)))
    else:
        out(f"\n{_summary(len(failed), len(warned))}")
    return FAILED if failed else 0


def _resolved(where: dict[str, Any]) -> tuple[Settings, list[Check], dict[str, str]]:
    """The settings without those variables that cannot be used, a check for each of these, and the variables that are
    left. ConfigError for what was typed, or stands in a file: the mistake is at hand there."""
    environ = dict(os.environ)
    checks: list[Check] = []
    while True:
        try:
            settings = settled(**where, environ=environ)
            kind_of(settings.sandbox, last=_ANY)
            return settings, checks, environ
        except ConfigError as error:
            keys = _OF_VARIABLES.get(error.id, ())
            key = next((key for key in keys if len(keys) == 1 or variable(key) in error.message), "")
            name = variable(key)
            if where.get(key) not in (None, ()) or not environ.get(name):
                raise
            hint = f"correct it ({error.hint}), or: unset {name}"
            said = error.message.removesuffix(f" ({name})")
            text = said if said.startswith(f"{name}: ") else f"{name}: {said}"
            checks.append(Check("settings", "failed", text, hint, facts={"error": error.id}))
            del environ[name]


def _settings(where: dict[str, Any], environ: dict[str, str]) -> Check:
    told = explain(where, environ)
    text = ", ".join(f"{each.key} {each.value} ({each.place})" for each in told if each.place) or "all by default"
    facts = {each.key: each.value for each in told}
    strange = unknown_variables(environ)
    if strange:
        (name, near), *_ = strange.items()
        hint = f"did you mean {near}?" if near else f"unset {name}"
        return Check("settings", "warning", f"{name} is no setting of minitango's; {text}", hint, facts=facts)
    return Check("settings", "ok", text, facts=facts)


def _lines(check: Check) -> Iterator[str]:
    yield f"{_WORDS[check.verdict]:<7}  {check.name:<11}  {one_line(check.text, _WIDE)}"
    if check.next:
        yield f"{'':9}next: {one_line(as_called(check.next), _WIDE)}"
    yield from (f"{'':9}{one_line(note, _WIDE)}" for note in check.notes)


def _summary(failed: int, warned: int) -> str:
    words = f" ({plural(warned, 'warning')})" if warned else ""
    if failed:
        return f"{plural(failed, 'check')} failed{words}: grading does not work here before that is mended"
    return f"all that grading needs is here{words}"
