"""JSON as a hostile program may write it -> plain values, or a refusal in a few words.

Stricter than the standard says: one meaning for each document. Time and memory are bounded before parsing.
"""

from __future__ import annotations

import json
import math
import re
from functools import partial
from typing import Any, Final, NoReturn

from msgspec import Struct

from minitango.text import one_line

MAX_DEPTH: Final = 64
MAX_VALUES: Final = 200_000
MAX_KEYS: Final = 50_000
"""In one object."""
NEAR: Final = 30
"""Characters that are shown before and after a fault."""
MAX_DIGITS: Final = 400
"""Characters in a number."""


class Bounds(Struct, frozen=True):
    """What a document may have. By default what our own formats may."""

    depth: int = MAX_DEPTH
    values: int = MAX_VALUES
    keys: int = MAX_KEYS
    infinite: bool = False
    """Numbers may be of any length, and one that a double cannot hold is infinite: as JavaScript reads them."""


_OURS: Final = Bounds()

# A string, with what follows it and is no structure, many times over. Possessive, and the closing quote optional:
# linear in any input.
_STRINGS: Final = re.compile(rb'(?:"(?:[^"\\]++|\\.)*+"?[^"\[\]{},]*+)++', re.DOTALL)
_TO_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(c for c in range(256) if c not in b"[]{}")
_UNFIT: Final = re.compile("[\0\ud800-\udfff]")


class Refused(ValueError):
    """The document is not taken; the message says why, in one line that is safe to show."""


def parse(data: bytes, *, mark: bool = True, repeated: list[str] | None = None, bounds: Bounds = _OURS) -> Any:
    """The value of a JSON document in UTF-8. Before it may be a byte order mark, unless `mark` is False.

    Refused: what is no JSON; what is beyond the bounds; a key twice in one object; NaN, Infinity and numbers that a
    double cannot hold. Strings may still hold NUL or lone surrogates: see `check_text`. With a list for `repeated`, a
    key that stands twice is noted there, and its last value counts.
    """
    if data.startswith(b"\xef\xbb\xbf"):
        if not mark:
            raise Refused("it begins with a byte order mark")
        data = data[3:]
    _check_size(data, bounds)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"not UTF-8 at byte {error.start}") from None
    made = partial(_object, repeated=repeated, most=bounds.keys)
    whole, real = (_any_int, float) if bounds.infinite else (_int, _float)
    try:
        return json.loads(text, object_pairs_hook=made, parse_int=whole, parse_float=real, parse_constant=_no_constant)
    except RecursionError:
        raise Refused("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        near = one_line(text[max(0, error.pos - NEAR) : error.pos + NEAR].strip(), 3 * NEAR)
        where = f"not JSON at line {error.lineno}, column {error.colno}"
        raise Refused(f"{where}: {error.msg}" + (f", near: {near}" if near else "")) from None


def check_text(text: str) -> None:
    """Refuse a string that cannot be stored or shown everywhere: with NUL, or half of a surrogate pair."""
    if "\0" in text:
        raise Refused("a string holds a NUL character")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Refused("a string holds half of a surrogate pair") from None


def check_texts(value: Any) -> None:
    """`check_text` for every string in a parsed value, keys included."""
    if isinstance(value, str):
        check_text(value)
    elif isinstance(value, list):
        for item in value:
            check_texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            check_text(key)
            check_texts(item)


def mended(value: Any) -> Any:
    """The same parsed value, with U+FFFD in its strings, keys included, for what `check_text` refuses."""
    if isinstance(value, str):
        return _UNFIT.sub("\ufffd", value)
    if isinstance(value, list):
        return [mended(item) for item in value]
    if isinstance(value, dict):
        return {mended(key): mended(item) for key, item in value.items()}
    return value


def _check_size(data: bytes, bounds: Bounds) -> None:
    """Bound depth and number of values without parsing, at the speed of bytes methods."""
    # A substitution keeps all that lies between two matches until its end: there must not be millions. In JSON each
    # match but the first comes after a comma or a bracket.
    skeleton, matches = _STRINGS.subn(b"", data, bounds.values)
    if matches == bounds.values or skeleton.count(b",") + skeleton.count(b"[") + skeleton.count(b"{") > bounds.values:
        raise Refused(f"it holds more than {bounds.values:,} values")
    nesting = skeleton.translate(_TO_SQUARE, _NO_BRACKETS)
    # Each round takes away the innermost level. What is left after the last is deeper, or was never closed: of
    # that the parser speaks better, where it is short enough to be no danger.
    for _ in range(bounds.depth):
        nesting, before = nesting.replace(b"[]", b""), len(nesting)
        if len(nesting) == before:
            break
    if b"[]" in nesting or len(nesting) > bounds.depth:
        raise Refused(f"it is nested deeper than {bounds.depth} levels, or its brackets are not closed")


def _object(pairs: list[tuple[str, Any]], *, repeated: list[str] | None, most: int) -> dict[str, Any]:
    if len(pairs) > most:
        raise Refused(f"an object holds more than {most:,} keys")
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen and repeated is not None:
                repeated.append(key)
            elif key in seen:
                raise Refused(f'the key "{one_line(key, 40)}" stands twice in one object')
            seen.add(key)
    return found


def _int(digits: str) -> int | float:
    # 20 characters hold every 64-bit number; int() refuses very long ones, and is slow on long ones
    if len(digits) > 20 or not -(2**63) <= (number := int(digits)) < 2**64:
        return _float(digits)  # as JavaScript and Ruby's readers have it, near enough
    return number


def _any_int(digits: str) -> int | float:
    return _int(digits) if len(digits) <= 20 else float(digits)


def _float(digits: str) -> float:
    if len(digits) > MAX_DIGITS:
        raise Refused(f"a number of {len(digits)} characters")
    number = float(digits)
    if not math.isfinite(number):
        raise Refused(f"the number {one_line(digits, 40)} is too large")
    return number


def _no_constant(name: str) -> NoReturn:
    raise Refused(f"{name} is no number")
