"""Moodle's `Download all submissions`: a folder for each student and kind of submission, or files where the box
`Download submissions in folders` is not ticked.

    Ada Lovelace_10321_assignsubmission_file/hello.c           before Moodle 4.3 with an underscore at the folder's end
    Ada Lovelace_10321_assignsubmission_file_hello.c           without folders
    Ada Lovelace_10321_assignsubmission_onlinetext/onlinetext.html

The number is the participant's in this assignment alone (mod/assign/classes/downloader.php of
https://github.com/moodle/moodle: `get_uniqueid_for_user`), an underscore in a name becomes a space, and the names of a
team's hand-ins are the team's.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from minitango.exchange.parts import Handed, Unclear, Wish, nothing, unclear
from minitango.exchange.places import Place

WHAT: Final = "a Moodle export"
_NAME: Final = re.compile(r"(?P<name>[^/_]+)_(?P<id>[0-9]{1,18})_assignsubmission_(?P<kind>[a-z]+)(?:_(?P<file>.*))?")
_FILES: Final = "file"


def looks(place: Place) -> bool:
    """See `exchange._Platform`. Most entries are named so, which nothing else is."""
    tops = place.tops()
    return sum(_NAME.fullmatch(name) is not None for name in tops) > len(tops) / 2


def read(place: Place, wish: Wish) -> tuple[list[Handed], list[Unclear]]:
    """See `exchange._Platform`. Students are their full names; two of one name have their numbers behind it. Text that
    was written online counts where no file was handed in."""
    kinds: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    doubtful: list[Unclear] = []
    for top, is_folder in place.tops().items():
        found = _NAME.fullmatch(top)
        if found is None or (not is_folder and not found["file"]):
            hint = "download them again, or grade this one alone with --student NAME"
            doubtful.append(unclear(top, "the name does not say whose it is", hint))
            continue
        files = kinds.setdefault((found["name"], found["id"]), {}).setdefault(found["kind"], {})
        if is_folder:
            files.update({path: path.removeprefix(f"{top}/") for path in place.below(top)})
        else:
            files[top] = found["file"]
    names = Counter(name for name, _ in kinds)
    handed: list[Handed] = []
    for (name, number), by_kind in kinds.items():
        student = name if names[name] == 1 else f"{name} ({number})"
        files = by_kind.get(_FILES) or next((files for files in by_kind.values() if files), {})
        if files:
            handed.append(Handed(student, f"{name}_{number}", files, labels={"participant": number}))
        else:
            doubtful.append(nothing(student, f"{name}_{number}"))
    return handed, doubtful
