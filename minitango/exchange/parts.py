"""The values that the platforms' modules speak in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct, field

from minitango.errors import SubmissionError

GROUP: Final = "group"
"""The label of a job that several students handed in together: all of them, as a JSON list."""


class Wish(Struct, frozen=True):
    """What whoever reads an export has to say about it."""

    all_versions: bool = False
    """Not only each student's latest."""
    expected: str = ""
    """What a hand-in's file is called, where the assignment says that."""
    sure: bool = False
    """That this is an export: said by whoever made it, not told by its look. Then a folder's only folder may be it."""


class Handed(Struct, frozen=True):
    """One hand-in of an export."""

    student: str
    title: str
    files: Mapping[str, str]
    """Where each of its files is in the export -> the path that it had when it was handed in."""
    version: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


class Unclear(Struct, frozen=True):
    """A hand-in of which the export does not say whose it is, or that has no files."""

    student: str
    """Who it is, or what it is called there."""
    title: str
    error: SubmissionError


def unclear(title: str, why: str, hint: str) -> Unclear:
    """An entry of an export of which nobody can say whose it is."""
    return Unclear(title, title, SubmissionError(f"{title}: {why}", hint=hint, id="export_name"))


def nothing(student: str, title: str) -> Unclear:
    """A hand-in without files."""
    error = SubmissionError(f"{title} is empty", hint="hand in at least one file", id="submission_empty")
    return Unclear(student, title, error)


def members(labels: Mapping[str, str], student: str) -> tuple[str, ...]:
    """All who handed a job in, of whom `student` is one."""
    try:
        named = msgspec.json.decode(labels.get(GROUP, "[]"), type=tuple[str, ...])
    except msgspec.DecodeError:
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
