"""Canvas's `Download Submissions`: a zip of all files, each named by whom it is from.

    lovelaceada_340934_208490284_hello.c          name, the user's id, the file's id, the file's own name
    lovelaceada_LATE_340934_208490284_hello.c     handed in late
    anon_Xb3q9_208490284_hello.c                  where students are anonymous
    lovelaceada_340934_text.html                  written online; or _link.html

https://github.com/instructure/canvas-lms/blob/master/lib/content_zipper.rb (`get_filename`, `add_upload_submission`).
"""

from __future__ import annotations

import re
from typing import Final

from minitango.exchange.parts import Handed, Unclear, Wish, unclear
from minitango.exchange.places import Place

WHAT: Final = "a Canvas export"
_NAME: Final = re.compile(
    r"(?:(?P<name>\w+?)_(?:LATE_|late_)?(?P<id>[0-9]{1,18})|anon_(?:LATE_|late_)?(?P<anonymous>[A-Za-z0-9]{5}))_"
    r"(?:(?P<attachment>[0-9]{4,18})_(?P<file>[^/]+)|(?P<online>text|link)\.html)"
)


def looks(place: Place) -> bool:
    """See `exchange._Platform`. Most entries are named so; and as others, too, may write dates so, no two names have
    one user's id, and no two files one id."""
    tops = place.tops()
    if any(tops.values()):
        return False
    found = [match for match in map(_NAME.fullmatch, tops) if match]
    owners = {(match["name"], match["id"]) for match in found if match["id"]}
    attachments = [match["attachment"] for match in found if match["attachment"]]
    return (
        len(found) > len(tops) / 2
        and len({number for _, number in owners}) == len(owners)
        and len(set(attachments)) == len(attachments)
    )


def read(place: Place, wish: Wish) -> tuple[list[Handed], list[Unclear]]:
    """See `exchange._Platform`. Students are their ids, as in the gradebook's column `ID`: names are no longer whole,
    and two may be one."""
    theirs: dict[str, tuple[str, dict[str, str]]] = {}
    doubtful: list[Unclear] = []
    for top in place.tops():
        found = _NAME.fullmatch(top)
        if found is None:
            hint = "download them again, or grade this one alone with --student NAME"
            doubtful.append(unclear(top, "the name does not say whose it is", hint))
            continue
        student = found["id"] or f"anon_{found['anonymous']}"
        _, files = theirs.setdefault(student, (found["name"] or student, {}))
        files[top] = found["file"] or f"{found['online']}.html"
    return [Handed(student, name, files, labels={"name": name}) for student, (name, files) in theirs.items()], doubtful
