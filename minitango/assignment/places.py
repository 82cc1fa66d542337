"""Which line of a TOML file each key is on: tomllib reads values, but does not say where they were."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Final

from msgspec import Struct, field

from minitango.errors import AssignmentError

Key = tuple[str | int, ...]
"""The way to a value: table keys, and indices into arrays of tables, from 0."""

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
# What may follow in a key or a value: a string, a comment, or one character. A multi-line string may end with up to
# two quotes of its own before the three that close it.
_TOKEN: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}'
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|.",
    re.DOTALL,
)


_LONGEST_KEY: Final = 2000
"""Characters, with its dots and quotes."""


class Places(Struct, frozen=True):
    """Where the keys of a file are. Without a file (`NOWHERE`), errors name the key alone."""

    file: str = ""
    lines: dict[Key, int] = field(default_factory=dict)

    def line(self, key: Key) -> int | None:
        """The line of a key, from 1; that of the nearest key around it, if it has none of its own."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.lines:
                return self.lines[key[:length]]
        return None

    def error(self, key: Key, message: str, hint: str = "", id: str | None = None) -> AssignmentError:
        """An error about this key."""
        return AssignmentError(message, file=self.file, key=key_text(key), line=self.line(key), hint=hint, id=id)


NOWHERE: Final = Places()


def key_text(key: Key) -> str:
    """A key as it is written: `step[0].limits.wall`."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else json.dumps(part))
    return text


def key_lines(text: str) -> dict[Key, int]:
    """The line (from 1) of each key, table and array-of-tables element of a valid TOML document.

    What is inside an inline table or an array has no entry of its own. Text that is not TOML gives some answer.
    """
    lines: dict[Key, int] = {}
    lengths: dict[Key, int] = {}
    table: Key = ()
    at, line, counted = 0, 1, 0
    while True:
        at = _after(_BLANK, text, at)
        if at >= len(text):
            return lines
        line, counted = line + text.count("\n", counted, at), at
        if text[at] == "[":
            array = text.startswith("[[", at)
            start = at + (2 if array else 1)
            end = _key_end(text, start, "]")
            table = _resolved(_parts(text[start:end]), lengths, array=array)
            _note(lines, table, 0, line)
            at = end + (2 if array else 1)
        else:
            end = _key_end(text, at, "=")
            _note(lines, (*table, *_parts(text[at:end])), len(table), line)
            at = _value_end(text, end + 1)


def _note(lines: dict[Key, int], key: Key, known: int, line: int) -> None:
    for length in range(known + 1, len(key) + 1):
        lines.setdefault(key[:length], line)


def _resolved(parts: tuple[str, ...], lengths: dict[Key, int], *, array: bool) -> Key:
    """The table that a header opens: in each array of tables on the way, the last element."""
    key: Key = ()
    for n, part in enumerate(parts):
        key = (*key, part)
        if array and n == len(parts) - 1:
            lengths[key] = lengths.get(key, 0) + 1
        if key in lengths:
            key = (*key, lengths[key] - 1)
    return key


def _parts(text: str) -> tuple[str, ...]:
    """The parts of a dotted key, unquoted; of one that nobody writes, none: the parser's time is its length squared."""
    if len(text) > _LONGEST_KEY:
        return ()
    try:
        value: object = tomllib.loads(f"{text.strip()} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    parts = []
    while isinstance(value, dict) and value:
        part, value = next(iter(value.items()))
        parts.append(part)
    return tuple(parts)


def _tokens(text: str, at: int) -> Iterator[tuple[int, str]]:
    for found in _TOKEN.finditer(text, at):
        yield found.start(), found[0]


def _key_end(text: str, at: int, stop: str) -> int:
    """Where a key ends: at `stop`, outside of quotes."""
    return next((start for start, token in _tokens(text, at) if token in (stop, "\n")), len(text))


def _value_end(text: str, at: int) -> int:
    """Where a value ends: at the end of its line, outside of brackets and strings."""
    depth = 0
    for start, token in _tokens(text, at):
        if token in ("[", "{"):
            depth += 1
        elif token in ("]", "}"):
            depth -= 1
        elif depth <= 0 and token == "\n":  # noqa: S105 - no password
            return start
    return len(text)


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
