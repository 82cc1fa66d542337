"""The submitters in Gradescope's submission_metadata.yml, which holds all output of all tests beside them.

The file is read as a stream of events, and only whose each submission is becomes a value: a hostile document costs
neither memory nor time beyond bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from minitango.text import one_line

MAX_EVENTS: Final = 3_000_000
"""Scalars, beginnings and ends. An export of 1000 submissions of 100 tests each has a million or two."""
MAX_DEPTH: Final = 50
MAX_TEXT: Final = 1000
"""Characters in what is said of a submitter."""
MAX_PARTS: Final = 5000
"""Values that the submitters of one submission are made of."""
MAX_ANCHORS: Final = 50_000

KEY: Final = ":submitters"


class _Unclear:
    """Stands for what is said twice, at too great length, or by an alias of what was not kept."""


UNCLEAR: Final = _Unclear()


def submitters(data: bytes) -> dict[str, object]:
    """What is said of the submitters of each submission: lists and mappings of texts, as they stand there.

    UNCLEAR is said of a submission that stands there twice, or says twice whose it is. ValueError, as `: not YAML at
    line 3: ...`: it is no mapping of names, or is beyond the bounds.
    """
    import yaml

    # every scalar stays a text (an id such as 0012 is no number), no tag makes anything
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        return _Reader(yaml.parse(data, Loader=loader)).whole()
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        problem = one_line(str(getattr(error, "problem", None) or error), 100)
        raise ValueError(f": not YAML{line}: {problem}") from error


class _Reader:
    """Goes through the events, once."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._left = MAX_EVENTS
        self._depth = 0
        self._anchors: dict[str, object] = {}

    def whole(self) -> dict[str, object]:
        found: dict[str, object] = {}
        kinds = ("StreamStartEvent", "DocumentStartEvent")
        event = self._next()
        while type(event).__name__ in kinds:
            event = self._next()
        if type(event).__name__ != "MappingStartEvent":
            raise ValueError(" does not map submissions to students")
        while (name := self._key()) is not None:
            said = self._submission()
            found[name] = UNCLEAR if name in found else said
        while type(self._next()).__name__ != "StreamEndEvent":  # what comes after is YAML, too
            pass
        return found

    def _next(self) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f" holds more than {MAX_EVENTS:,} values")
        event = next(self._events)
        kind = type(event).__name__
        if kind in ("MappingStartEvent", "SequenceStartEvent"):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise ValueError(f": not YAML that Gradescope writes: nested deeper than {MAX_DEPTH} levels")
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self._depth -= 1
        return event

    def _key(self) -> str | None:
        """The next key of the top; None at its end."""
        event = self._next()
        kind = type(event).__name__
        if kind == "MappingEndEvent":
            return None
        if kind != "ScalarEvent":
            raise ValueError(" does not map submissions to students")
        return str(event.value)

    def _submission(self) -> object:
        """What one says of its submitters; None where it says nothing."""
        event = self._next()
        if type(event).__name__ != "MappingStartEvent":
            self._skip(event)
            return None
        said: object = None
        while type(event := self._next()).__name__ != "MappingEndEvent":
            if type(event).__name__ == "ScalarEvent" and event.value == KEY:
                value = self._value(self._next(), [MAX_PARTS])
                said = value if said is None else UNCLEAR
            else:
                self._skip(event)
                self._skip(self._next())
        return said

    def _skip(self, event: Any) -> None:
        """Go on to the end of what begins with this event. Texts that have a name there are kept: it may come again."""
        depth = self._depth - 1
        if type(event).__name__ not in ("MappingStartEvent", "SequenceStartEvent"):
            self._scalar(event)
            return
        while self._depth > depth:
            event = self._next()
            if type(event).__name__ == "ScalarEvent" and event.anchor is not None:
                self._scalar(event)

    def _scalar(self, event: Any) -> object:
        """A text, or what an alias stands for."""
        if type(event).__name__ == "AliasEvent":
            return self._anchors.get(event.anchor, UNCLEAR)
        text = event.value if len(event.value) <= MAX_TEXT else UNCLEAR
        self._keep(event, text)
        return text

    def _value(self, event: Any, left: list[int]) -> object:
        """The value that begins with this event."""
        left[0] -= 1
        if left[0] < 0:
            raise ValueError(f": more than {MAX_PARTS:,} values say whose one submission is")
        kind = type(event).__name__
        if kind == "SequenceStartEvent":
            items: list[object] = []
            while type(item := self._next()).__name__ != "SequenceEndEvent":
                items.append(self._value(item, left))
            self._keep(event, items)
            return items
        if kind == "MappingStartEvent":
            fields: dict[str, object] = {}
            while type(key := self._next()).__name__ != "MappingEndEvent":
                name = self._value(key, left)
                value = self._value(self._next(), left)
                if isinstance(name, str):
                    fields[name] = UNCLEAR if name in fields else value
            self._keep(event, fields)
            return fields
        return self._scalar(event)

    def _keep(self, event: Any, value: object) -> None:
        if event.anchor is not None and len(self._anchors) < MAX_ANCHORS:
            self._anchors[event.anchor] = value
