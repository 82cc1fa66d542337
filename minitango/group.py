"""What several students handed in together: one job, in the name of one of them, with a label that names all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

GROUP: Final = "group"
"""The label of a job that several students handed in together: all of them, as a JSON list."""


def members(labels: Mapping[str, str], student: str) -> tuple[str, ...]:
    """All who handed a job in, of whom `student` is one."""
    try:
        named = msgspec.json.decode(labels.get(GROUP, "[]"), type=tuple[str, ...])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return (student,)
    return named if student in named else (student,)


def without(labels: Mapping[str, str], student: str, name: str) -> tuple[str, dict[str, str]] | None:
    """Whose a job of `student` is, and its labels, once `name` is none of those who handed it in; None: nobody's."""
    left = tuple(member for member in members(labels, student) if member != name)
    if not left:
        return None
    others = {label: text for label, text in labels.items() if label != GROUP}
    return (student if student in left else left[0]), {**others, **group(left)}


def group(students: tuple[str, ...]) -> dict[str, str]:
    """The labels of what these handed in together. The inverse of `members`."""
    return {GROUP: msgspec.json.encode(students).decode()} if len(students) > 1 else {}
