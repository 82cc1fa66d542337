"""The tables of an assignment.toml -> values, with errors that name the key and the line."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from minitango.assignment.model import Assignment
from minitango.assignment.parts import Sample, Step, SubmissionRule
from minitango.assignment.places import Key, Places
from minitango.errors import AssignmentError
from minitango.job import LAYOUTS, Limits, Outcome

_DURATION: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(ms|s|m|h)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(B|kB|KB|MB|GB|KiB|MiB|GiB)")
_BYTES: Final = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30
}  # fmt: skip


Convert = Callable[["Reader", Any, Key], Any]


class Reader:
    """Turns tables into values. Each method takes a value and its key, and raises AssignmentError at its place."""

    def __init__(self, places: Places) -> None:
        self.places = places

    def table(self, value: Any, key: Key, fields: Mapping[str, Convert]) -> dict[str, Any]:
        """The converted values of those fields that are there."""
        if not isinstance(value, dict):
            raise self.wrong(value, key, "a table", f"[{_header(key)}]")
        for name in value:
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1)
                meant = _elsewhere(name, key) or (f"did you mean {near[0]!r}? " if near else "")
                known = f"known here: {', '.join(fields)}"
                raise self.places.error((*key, name), f"unknown key {name!r}", meant + known, "unknown_key")
        return {name: fields[name](self, inner, (*key, name)) for name, inner in value.items()}

    def wrong(self, value: Any, key: Key, wanted: str, example: str) -> AssignmentError:
        return self.places.error(key, f"is {_kind(value)}, not {wanted}", f"write, say, {example}", "wrong_type")

    # --- simple values ------------------------------------------------------------------------

    def string(self, value: Any, key: Key) -> str:
        if not isinstance(value, str):
            raise self.wrong(value, key, "a string", f'{key[-1]} = "{_plain(value)}"')
        return value

    def boolean(self, value: Any, key: Key) -> bool:
        if not isinstance(value, bool):
            raise self.wrong(value, key, "true or false", f"{key[-1]} = true")
        return value

    def number(self, value: Any, key: Key) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(value, key, "a number", f"{key[-1]} = 100")
        return value

    def whole(self, value: Any, key: Key) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(value, key, "a whole number", f"{key[-1]} = 100")
        return value

    def strings(self, value: Any, key: Key) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            example = json.dumps([value]) if isinstance(value, str) else '["...", "..."]'
            raise self.wrong(value, key, "a list of strings", f"{key[-1]} = {example}")
        return tuple(value)

    def command(self, value: Any, key: Key) -> tuple[str, ...]:
        if isinstance(value, str):
            raise self.wrong(value, key, "a list of strings", f"command = {json.dumps(_words(value))}")
        return self.strings(value, key)

    def duration(self, value: Any, key: Key) -> float:
        """Seconds."""
        if isinstance(value, str):
            found = _DURATION.fullmatch(value.strip())
            if found is None:
                hint = f'write {key[-1]} = "60s", "500ms", "2m", "1h", or a number of seconds'
                raise self.places.error(key, f"{value!r} is not a duration", hint, "wrong_value")
            return float(found[1]) * _SECONDS[found[2]]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(value, key, "a duration", f'{key[-1]} = "60s"')
        return value

    def size(self, value: Any, key: Key) -> int:
        """Bytes."""
        if isinstance(value, str):
            found = _SIZE.fullmatch(value.strip())
            if found is None:
                hint = f'write {key[-1]} = "10MiB", "64KiB", "1GiB", "10MB", or a number of bytes'
                raise self.places.error(key, f"{value!r} is not a size", hint, "wrong_value")
            return round(float(found[1]) * _BYTES[found[2]])
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(value, key, "a size", f'{key[-1]} = "10MiB"')
        return value

    def network(self, value: Any, key: Key) -> str:
        if value not in ("none", "open"):
            hint = 'write network = "none" (localhost only) or "open"'
            raise self.places.error(key, f"{value!r} is neither none nor open", hint, "wrong_value")
        return self.string(value, key)

    def outcome(self, value: Any, key: Key) -> Outcome:
        try:
            return Outcome(self.string(value, key))
        except ValueError as error:
            near = difflib.get_close_matches(value, list(Outcome), n=1)
            meant = f"did you mean {near[0].value!r}? " if near else ""
            hint = f"{meant}outcomes: {', '.join(Outcome)}"
            raise self.places.error(key, f"{value!r} is no outcome", hint, "wrong_value") from error

    def env(self, value: Any, key: Key) -> dict[str, str]:
        if not isinstance(value, dict):
            raise self.wrong(value, key, "a table of strings", 'env = { LANG = "C.UTF-8" }')
        return {name: self.string(inner, (*key, name)) for name, inner in value.items()}

    # --- tables -------------------------------------------------------------------------------

    def limits(self, value: Any, key: Key) -> Limits:
        return Limits(**self.table(value, key, _LIMITS))

    def student(self, value: Any, key: Key) -> dict[str, Any]:
        """Of limits those that are not the step's own."""
        if isinstance(value, dict) and "network" in value:
            text = "student code never has a network in a guarded step"
            raise self.places.error((*key, "network"), text, "take it away", "guarded")
        return self.table(value, key, _LIMITS)

    def rule(self, value: Any, key: Key) -> SubmissionRule:
        return SubmissionRule(**self.table(value, key, _RULE))

    def steps(self, value: Any, key: Key) -> tuple[Step, ...]:
        steps = []
        for n, inner in enumerate(self.tables(value, key)):
            read = self.table(inner, (*key, n), _STEP)
            if "command" not in read:
                hint = 'write, say, command = ["python3", "grade.py"]'
                raise self.places.error((*key, n), "this step has no command", hint, "missing_key")
            if read.get("guarded") and read.get("submission"):
                text = "a guarded step never has the hand-in in its working directory"
                hint = "take submission away: it is at $MINITANGO_SUBMISSION, and minitango-student runs it"
                raise self.places.error((*key, n, "submission"), text, hint, "guarded")
            if "student" in read:
                read["student"] = structs.replace(read.get("limits", Limits()), **read["student"])
            steps.append(Step(**read))
        return tuple(steps)

    def samples(self, value: Any, key: Key) -> tuple[Sample, ...]:
        samples = []
        for n, inner in enumerate(self.tables(value, key)):
            read = self.table(inner, (*key, n), _SAMPLE)
            if "path" not in read:
                hint = 'write, say, path = "samples/perfect.c"'
                raise self.places.error((*key, n), "this sample has no path", hint, "missing_key")
            samples.append(Sample(**read))
        return tuple(samples)

    def tables(self, value: Any, key: Key) -> list[Any]:
        if not isinstance(value, list):
            raise self.wrong(value, key, "an array of tables", f"[[{_header(key)}]]")
        return value

    def layout(self, value: Any, key: Key) -> str:
        if value not in LAYOUTS:
            hint = f"use one of: {', '.join(LAYOUTS)}; or leave it out"
            raise self.places.error(key, f"{value!r} is no layout", hint, "wrong_value")
        return self.string(value, key)

    def problems(self, value: Any, key: Key) -> dict[str, float]:
        if not isinstance(value, dict):
            raise self.wrong(value, key, "a table of numbers", "problems = { Correctness = 100 }")
        return {name: self.number(inner, (*key, name)) for name, inner in value.items()}

    def assignment(self, value: dict[str, Any], root: Path) -> Assignment:
        for name in ("autograder", "setup", "problems"):
            if name in value:
                text = "goes with another platform's autograder"
                raise self.places.error((name,), text, 'write layout = "autolab", or take it away', "layout")
        read = self.table(value, (), _ASSIGNMENT)
        if "name" not in read:
            raise self.places.error(("name",), "the assignment has no name", 'write, say, name = "hw1"', "missing_key")
        return Assignment(steps=read.pop("step", ()), samples=read.pop("sample", ()), root=root, **read)


_LIMITS: Final[dict[str, Convert]] = {
    "wall": Reader.duration,
    "cpu": Reader.duration,
    "memory": Reader.size,
    "pids": Reader.whole,
    "output": Reader.size,
    "disk": Reader.size,
    "cpus": Reader.number,
}
_RULE: Final[dict[str, Convert]] = {
    "path": Reader.string,
    "name": Reader.string,
    "max_size": Reader.size,
    "max_files": Reader.whole,
}
_STEP: Final[dict[str, Convert]] = {
    "name": Reader.string,
    "image": Reader.string,
    "command": Reader.command,
    "files": Reader.strings,
    "submission": Reader.boolean,
    "guarded": Reader.boolean,
    "student": Reader.student,
    "root": Reader.boolean,
    "collect": Reader.strings,
    "network": Reader.network,
    "limits": Reader.limits,
    "env": Reader.env,
}
_SAMPLE: Final[dict[str, Convert]] = {
    "path": Reader.string,
    "name": Reader.string,
    "score": Reader.number,
    "outcome": Reader.outcome,
}
_ASSIGNMENT: Final[dict[str, Convert]] = {
    "name": Reader.string,
    "max_score": Reader.number,
    "bonus": Reader.boolean,
    "format": Reader.string,
    "layout": Reader.layout,
    "autograder": Reader.string,
    "setup": Reader.boolean,
    "needs": Reader.strings,
    "problems": Reader.problems,
    "submission": Reader.rule,
    "step": Reader.steps,
    "sample": Reader.samples,
}


SETTINGS: Final = frozenset(
    {"store", "state", "sandbox", "workers", "blobs", "capabilities", "callback_allow", "keep", "require"}
)
"""Keys that a configuration file has and an assignment has not."""
_KINDS: Final = {
    "bool": "true or false",
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "dict": "a table",
    "list": "a list",
}


def _elsewhere(name: str, key: Key) -> str:
    """Where a key belongs that stands in the wrong table, with a blank after it; empty: it is known nowhere."""
    if name in SETTINGS:
        return f"{name} is a setting of who grades: write it into minitango.toml. "
    if key and name in _ASSIGNMENT:
        return f"{name} is the assignment's: move it above the first [[step]]. "
    if name in _STEP and (not key or key[0] != "step" or len(key) > 2):
        example = (
            f"[step.{name}] below its [[step]]" if name in ("student", "limits", "env") else f"{name} in its [[step]]"
        )
        below = f"{example}, above [{_header(key)}]" if len(key) > 2 else example
        return f"{name} is a step's: write {below}. "
    if name in _LIMITS:
        return f"{name} is a limit of a step's: limits = {{ {name} = ... }} in its [[step]]. "
    return ""


def _header(key: Key) -> str:
    """As the header of a table names it: step.student."""
    return ".".join(part for part in key if isinstance(part, str))


def _kind(value: Any) -> str:
    return _KINDS.get(type(value).__name__, "a date or time")


def _plain(value: Any) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1 << 63
    return str(value) if number else "..."


def _words(command: str) -> list[str]:
    """A shell's command line as the list that does the same."""
    if any(letter in command for letter in "|&;<>$*`\n"):
        return ["sh", "-c", command]
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()
