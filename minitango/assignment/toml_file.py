"""assignment.toml -> Assignment, with errors that name the file, the key and the line."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from minitango.archive import read_file
from minitango.assignment.model import Assignment, Sample, Step, SubmissionRule
from minitango.assignment.places import Key, Places, key_lines
from minitango.errors import ArchiveError, AssignmentError
from minitango.job import Limits, Outcome

NAME: Final = "assignment.toml"
MAX_SIZE: Final = 1 << 20

_DURATION: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(ms|s|m|h)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(B|kB|KB|MB|GB|KiB|MiB|GiB)")
_BYTES: Final = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30
}  # fmt: skip


def load(path: Path) -> Assignment:
    """The assignment of this file, or of the `assignment.toml` in this folder."""
    file = _find(path)
    text = _text(file)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: an integer of thousands of digits, too
        raise _malformed(file, error) from error
    reader = _Reader(Places(str(file), key_lines(text.replace("\r\n", "\n"))))
    assignment = reader.assignment(table, file.parent.absolute())
    vars(assignment)["_places"] = reader.places  # for what is found wrong only when its files are read
    assignment.validate(reader.places)
    return assignment


def _find(path: Path) -> Path:
    def missing(message: str, hint: str) -> AssignmentError:
        return AssignmentError(message, file=str(path), hint=hint, id="assignment_missing")

    other = f"name a folder that holds an {NAME}, or the file itself"
    try:
        folder = stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise missing(f"there is no such file or folder: {why}", other) from error
    if folder:
        file = path / NAME
        try:
            there = file.exists()
        except PermissionError:
            there = True  # reading it will say what is wrong
        if there:
            return file
        near = sorted(path.glob(f"*/{NAME}"))
        hint = f"name the assignment's folder: {near[0].parent}" if near else f"write {file}, or name another folder"
        raise missing(f"there is no {NAME} in this folder", hint)
    if path.suffix != ".toml":
        raise missing("this is not a .toml file", other)
    return path


def _text(file: Path) -> str:
    try:
        data, _ = read_file(file.resolve(), MAX_SIZE)
    except ArchiveError as error:
        hint = error.hint if error.id != "too_large" else "keep data in files of their own"
        cause = error.__cause__
        text = f"cannot be read: {cause.strerror}" if isinstance(cause, OSError) else error.message
        raise AssignmentError(text, file=str(file), hint=hint, id="assignment_unreadable") from error
    data = data.removeprefix(b"\xef\xbb\xbf")  # Windows' editors write it
    hint = "save it as UTF-8"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise AssignmentError("it is UTF-16", file=str(file), line=1, hint=hint, id="encoding")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AssignmentError("it is not UTF-8", file=str(file), line=line, hint=hint, id="encoding") from error


def _malformed(file: Path, error: Exception) -> AssignmentError:
    text = "values are nested too deeply" if isinstance(error, RecursionError) else str(error)
    found = re.search(r" \(at line (\d+), column (\d+)\)", text)
    line = int(found[1]) if found else None
    message = "not TOML: " + (text.replace(found[0], f" at column {found[2]}") if found else text)
    hint = 'correct this line; text is in quotes, as in name = "hw1", and a list in brackets, as in ["make", "-s"]'
    return AssignmentError(message, file=str(file), line=line, hint=hint, id="toml")


_Convert = Callable[["_Reader", Any, Key], Any]


class _Reader:
    """Turns tables into values. Each method takes a value and its key, and raises AssignmentError at its place."""

    def __init__(self, places: Places) -> None:
        self.places = places

    def table(self, value: Any, key: Key, fields: Mapping[str, _Convert]) -> dict[str, Any]:
        """The converted values of those fields that are there."""
        if not isinstance(value, dict):
            raise self.wrong(value, key, "a table", f"[{key[-1]}]")
        for name in value:
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1)
                meant = f"did you mean {near[0]!r}? " if near else ""
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

    def rule(self, value: Any, key: Key) -> SubmissionRule:
        return SubmissionRule(**self.table(value, key, _RULE))

    def steps(self, value: Any, key: Key) -> tuple[Step, ...]:
        steps = []
        for n, inner in enumerate(self.tables(value, key)):
            read = self.table(inner, (*key, n), _STEP)
            if "command" not in read:
                hint = 'write, say, command = ["python3", "grade.py"]'
                raise self.places.error((*key, n), "this step has no command", hint, "missing_key")
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
            raise self.wrong(value, key, "an array of tables", f"[[{key[-1]}]]")
        return value

    def assignment(self, value: dict[str, Any], root: Path) -> Assignment:
        read = self.table(value, (), _ASSIGNMENT)
        if "name" not in read:
            raise self.places.error(("name",), "the assignment has no name", 'write, say, name = "hw1"', "missing_key")
        return Assignment(steps=read.pop("step", ()), samples=read.pop("sample", ()), root=root, **read)


_LIMITS: Final[dict[str, _Convert]] = {
    "wall": _Reader.duration,
    "cpu": _Reader.duration,
    "memory": _Reader.size,
    "pids": _Reader.whole,
    "output": _Reader.size,
    "disk": _Reader.size,
    "cpus": _Reader.number,
}
_RULE: Final[dict[str, _Convert]] = {"path": _Reader.string, "max_size": _Reader.size, "max_files": _Reader.whole}
_STEP: Final[dict[str, _Convert]] = {
    "name": _Reader.string,
    "image": _Reader.string,
    "command": _Reader.command,
    "files": _Reader.strings,
    "submission": _Reader.boolean,
    "collect": _Reader.strings,
    "network": _Reader.network,
    "limits": _Reader.limits,
    "env": _Reader.env,
}
_SAMPLE: Final[dict[str, _Convert]] = {
    "path": _Reader.string,
    "name": _Reader.string,
    "score": _Reader.number,
    "outcome": _Reader.outcome,
}
_ASSIGNMENT: Final[dict[str, _Convert]] = {
    "name": _Reader.string,
    "max_score": _Reader.number,
    "bonus": _Reader.boolean,
    "format": _Reader.string,
    "submission": _Reader.rule,
    "step": _Reader.steps,
    "sample": _Reader.samples,
}


_KINDS: Final = {
    "bool": "true or false",
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "dict": "a table",
    "list": "a list",
}


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
