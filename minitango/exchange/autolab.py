"""Autolab's hand-ins: the handin/ folder of a lab, and the zip of `Download All Submissions` (or `Final`).

Names are made by app/models/submission.rb (`handin_file_path`, `handin_file_filename`) and `download_filename` of
app/controllers/submissions_controller.rb, of https://github.com/autolab/Autolab:

    handin/ada@school.edu/3_hello.c                a lab's folder; 3 is the version
    handin/ada@school.edu_3_hello.c                a lab's folder on older installations
    ada@school.edu_3_hello.c                       in the zip
    3_ada@school.edu_my_hello.c                    in the zip, where the file's own name has an underscore: the address
                                                   stands before its last two parts, whatever these are

Beside them lie feedback (`3_autograde.txt`), annotated copies, and archive/ with what was deleted.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from minitango.exchange.parts import Handed, Unclear, Wish, unclear
from minitango.exchange.places import Place

WHAT: Final = "an Autolab export"
_ADDRESS: Final = r"[^/@\s]+@[A-Za-z0-9.-]+"  # a domain has no underscore: the address ends at the first
_FOLDER: Final = re.compile(_ADDRESS)
_VERSION: Final = re.compile(r"(?P<version>[0-9]{1,9})_(?P<file>[^/]+)")
_FIRST: Final = re.compile(rf"(?P<email>{_ADDRESS})_(?:(?P=email)_)?(?P<version>[0-9]{{1,9}})_(?P<file>[^/]+)")
_INSIDE: Final = re.compile(rf"(?P<version>[0-9]{{1,9}})_(?P<email>{_ADDRESS})_(?P<file>[^/_]+_[^/_]+)")
_BESIDE: Final = re.compile(r"(?:.*_)?autograde\.txt|annotated_.*|archive")
"""What else is there, and is no hand-in."""
_HINT: Final = "take the lab's own handin/ folder, or grade this one alone with --student NAME"


class _Name(Struct, frozen=True):
    email: str
    version: int
    file: str


def looks(place: Place) -> bool:
    """See `exchange._Platform`. Most entries are named so; folders named by an address hold files that begin with a
    version."""
    tops = {name: is_folder for name, is_folder in place.tops().items() if not _BESIDE.fullmatch(name)}
    fit = 0
    for name, is_folder in tops.items():
        if is_folder:
            fit += bool(_FOLDER.fullmatch(name)) and all(map(_VERSION.fullmatch, _inside(place, name)))
        else:
            fit += bool(_FIRST.fullmatch(name) or _INSIDE.fullmatch(name))
    return fit > len(tops) / 2


def read(place: Place, wish: Wish) -> tuple[list[Handed], list[Unclear]]:
    """See `exchange._Platform`. Students are their addresses: Autolab knows no other name of them."""
    handed: list[Handed] = []
    doubtful: list[Unclear] = []
    for top, is_folder in place.tops().items():
        if _BESIDE.fullmatch(top):
            continue
        names = {top: _parsed(top, wish.expected)}
        if is_folder:
            names = {f"{top}/{name}": _in_folder(top, name) for name in _inside(place, top)}
        for path, name in names.items():
            if name is None:
                doubtful.append(unclear(path, "the name does not say whose it is, or which version", _HINT))
            else:
                handed.append(Handed(name.email, path, {path: name.file}, version=name.version))
    return handed, doubtful


def _inside(place: Place, top: str) -> list[str]:
    """The names in a student's folder that are no feedback."""
    names = [path.removeprefix(f"{top}/") for path in place.below(top)]
    return [name for name in names if not _BESIDE.fullmatch(name.partition("/")[0])]


def _in_folder(email: str, name: str) -> _Name | None:
    found = _VERSION.fullmatch(name)
    return _Name(email, int(found["version"]), found["file"]) if found and _FOLDER.fullmatch(email) else None


def _parsed(name: str, expected: str) -> _Name | None:
    """What a file's name says; None where it says nothing, or could say two things."""
    readings = _with_address_inside(name, expected)
    if found := _FIRST.fullmatch(name):
        # the address has come again into a file's name with an underscore
        file = found["file"].removeprefix(f"{found['email']}_")
        readings.add(_Name(found["email"], int(found["version"]), file))
    if len(readings) > 1:
        readings = {reading for reading in readings if reading.file == expected}
    return readings.pop() if len(readings) == 1 else None


def _with_address_inside(name: str, expected: str) -> set[_Name]:
    """Of `3_a_lovelace@school.edu_my_hello.c`, only the lab says whether `a` belongs to the file's name."""
    if "_" in expected:
        tail = "_".join(expected.split("_")[-2:])
        head = expected.removesuffix(tail)
        known = re.fullmatch(rf"([0-9]{{1,9}})_{re.escape(head)}({_ADDRESS})_{re.escape(tail)}", name)
        if known:
            return {_Name(known[2], int(known[1]), expected)}
    found = _INSIDE.fullmatch(name)
    if not found or "_" in found["email"].partition("@")[0]:
        return set()
    return {_Name(found["email"], int(found["version"]), found["file"])}
