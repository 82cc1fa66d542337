"""The fields of a parsed JSON report by type: a value, or Refused with the place where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from minitango.results.points import MAX_POINTS
from minitango.results.strict_json import Refused, check_text, check_texts
from minitango.text import one_line

MAX_ITEMS: Final = 10_000
"""Of one list, and of tests in one report."""
_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]{1,100}(?:\.[0-9]{0,100})?|\.[0-9]{1,100})")


class Object:
    """A JSON object at a known place in the report: its fields by type, or Refused with the place."""

    def __init__(self, where: str, value: Any) -> None:
        self._where = where
        if not isinstance(value, dict):
            raise Refused(f"{where or 'the top level'}: expected an object, got {kind_of(value)}")
        self._fields: dict[str, Any] = value

    def place(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def value(self, key: str) -> Any:
        """As it stands; None also where the key is absent."""
        return self._fields.get(key)

    def text(self, key: str) -> str:
        value = self.value(key)
        return "" if value is None else text_of(self.place(key), value)

    def number(self, key: str) -> float | None:
        value = self.value(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused(f"{self.place(key)}: expected a number, got {kind_of(value)}")
        return float(value)

    def points(self, key: str) -> float | None:
        """A number of points, or a text that is one: autograders write "7.5", too."""
        said = self.value(key)
        value = float(said) if isinstance(said, str) and _DECIMAL.fullmatch(said) else self.number(key)
        if value is not None and abs(value) > MAX_POINTS:
            raise Refused(f"{self.place(key)}: {value:g} is out of range")
        return value

    def label(self, key: str) -> str:
        """A text, or a number as its text: autograders write "1.1" and 1."""
        value = self.value(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        return self.text(key)

    def choice(self, key: str, known: tuple[str, ...], default: str) -> str:
        if self.value(key) is None:
            return default
        value = self.text(key)
        if value not in known:
            raise Refused(f'{self.place(key)}: "{one_line(value, 40)}" is none of {", ".join(known)}')
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(text_of(place, item) for place, item in self._items(key))

    def objects(self, key: str) -> Iterator[Object]:
        return (Object(place, item) for place, item in self._items(key))

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.value(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise Refused(f"{self.place(key)}: expected an object, got {kind_of(value)}")
        try:
            check_texts(value)
        except Refused as refused:
            raise Refused(f"{self.place(key)}: {refused}") from None
        return value

    def _items(self, key: str) -> list[tuple[str, Any]]:
        value = self.value(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise Refused(f"{self.place(key)}: expected a list, got {kind_of(value)}")
        if len(value) > MAX_ITEMS:
            raise Refused(f"{self.place(key)}: {len(value):,} items, at most {MAX_ITEMS:,}")
        return [(f"{self.place(key)}[{index}]", item) for index, item in enumerate(value)]


def text_of(place: str, value: Any) -> str:
    """A string that can be stored and shown everywhere; Refused with its place where it is none."""
    if not isinstance(value, str):
        raise Refused(f"{place}: expected a string, got {kind_of(value)}")
    try:
        check_text(value)
    except Refused as refused:
        raise Refused(f"{place}: {refused}") from None
    return value


def kind_of(value: Any) -> str:
    """What a value is in JSON's words, for a sentence."""
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return kinds[type(value)]
