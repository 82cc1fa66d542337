"""Gradescope's `Export Submissions`: a folder or a file for each submission, and submission_metadata.yml beside them.

That file maps each entry's name to who handed it in, with Ruby's symbols as keys:

    submission_101:
      :submitters:
      - :name: Ada Lovelace
        :sid: '1001'
        :email: ada@school.edu
      :created_at: 2024-10-01 12:00:00.000000000 Z

Gradescope has no reference of it; this is what exports hold, and what programs that read them rely on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from minitango.archive import Bounds
from minitango.errors import ArchiveError, SubmissionError
from minitango.exchange.parts import Handed, Unclear, Wish, nothing, unclear
from minitango.exchange.places import Place
from minitango.exchange.submitters import UNCLEAR, submitters
from minitango.group import group

WHAT: Final = "a Gradescope export"
METADATA: Final = "submission_metadata.yml"
MAX_METADATA: Final = 64 << 20
"""Bytes; it holds all tests' output of all submissions."""
MAX_GROUP: Final = 100
"""Students who hand in together."""
_NOBODY: Final = ("", "~", "null")
"""How YAML says that there is nothing."""
_AGAIN: Final = "export the submissions again, or take each entry for a hand-in with --plain"


def looks(place: Place) -> bool:
    """See `exchange._Platform`."""
    return place.holds(METADATA)


def read(place: Place, wish: Wish) -> tuple[list[Handed], list[Unclear]]:
    """See `exchange._Platform`. A group's hand-in is its first student's; the label GROUP names them all."""
    said = _metadata(place)
    tops = place.tops()
    handed: list[Handed] = []
    doubtful: list[Unclear] = []
    for top, is_folder in tops.items():
        students = _students(said.get(top))
        if not students:
            why = "does not say whose it is, once and clearly" if top in said else "says nothing of it"
            doubtful.append(unclear(top, f"{METADATA} {why}", "export again, or grade it alone with --student NAME"))
            continue
        paths = {path: path.removeprefix(f"{top}/") for path in place.below(top)} if is_folder else {top: top}
        if paths:
            handed.append(Handed(students[0], top, paths, labels=group(students)))
        else:
            doubtful.append(nothing(students[0], top))
    for name, entry in said.items():
        students = _students(entry)
        if name not in tops and students:
            doubtful.append(nothing(students[0], name))
    return handed, doubtful


def _metadata(place: Place) -> dict[str, object]:
    """What the file says of whose each entry is, with every value as it is written."""
    where = f"{place.where}/{METADATA}"
    try:
        (file,) = place.read({METADATA: METADATA}, Bounds(bytes=MAX_METADATA))
    except ArchiveError as error:
        raise SubmissionError(f"{where}: {error}", hint=_AGAIN, id="export") from error
    try:
        return submitters(file.data)
    except ValueError as error:
        raise SubmissionError(f"{where}{error}", hint=_AGAIN, id="export") from error


def _students(entry: object) -> tuple[str, ...]:
    """All who handed a submission in, each by what Gradescope knows them by; nobody where it does not say of each."""
    if not isinstance(entry, list) or not 0 < len(entry) <= MAX_GROUP:
        return ()
    students = [_student(submitter) for submitter in entry]
    return tuple(dict.fromkeys(students)) if all(students) else ()


def _student(submitter: object) -> str:
    """The student's id, else the address, else the name; empty for none."""
    if not isinstance(submitter, Mapping):
        return ""
    for key in (":sid", ":email", ":name"):
        value = submitter.get(key)
        if value is UNCLEAR:
            return ""
        if isinstance(value, str) and value.strip() not in _NOBODY:
            return value.strip()
    return ""
