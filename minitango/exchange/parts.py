"""The values that the platforms' modules speak in."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from minitango.errors import SubmissionError


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
