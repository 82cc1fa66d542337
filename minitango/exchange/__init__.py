"""Hand-ins as other platforms export them: whose each is, and which files.

What an export says is believed, and nothing else: where it does not say whose a hand-in is, that one is refused by
name, and the others are taken. So what a student packed must never be taken for one.

places       an export's files, in a folder or a zip
autolab      a lab's handin/ folder; `Download All Submissions`
gradescope   `Export Submissions`: submission_metadata.yml, which submitters reads
canvas       `Download Submissions`
moodle       `Download all submissions`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from minitango.archive import Bounds, File
from minitango.assignment.submission import natural
from minitango.errors import SubmissionError
from minitango.exchange import autolab, canvas, gradescope, moodle
from minitango.exchange.parts import Handed, Unclear, Wish
from minitango.exchange.places import Kept, Place, places_in


class _Platform(Protocol):
    """A module of this room."""

    WHAT: str
    """What is exported there, in words: `an Autolab export`."""

    def looks(self, place: Place) -> bool:
        """Whether it is such an export, as far as names tell. Cheap, and wrong about no ordinary folder."""
        ...

    def read(self, place: Place, wish: Wish) -> tuple[list[Handed], list[Unclear]]:
        """What was handed in, and what cannot be told whose it is. SubmissionError: nothing can be read."""
        ...


_PLATFORMS: Final[tuple[_Platform, ...]] = (gradescope, autolab, moodle, canvas)


class Export(Struct, frozen=True):
    """What an export holds."""

    what: str
    """`a Gradescope export`."""
    handed: tuple[Handed, ...]
    """In natural order of their titles; of a student the oldest version first."""
    unclear: tuple[Unclear, ...]
    older: int = 0
    """Versions that a newer one of the same student replaces. They are not in `handed`."""
    read: Callable[[Mapping[str, str], Bounds], tuple[File, ...]] = lambda wanted, bounds: ()

    def files(self, handed: Handed) -> Callable[[Bounds], tuple[File, ...]]:
        """What reads a hand-in's files, within bounds: for `Submission(files=...)`."""
        return partial(self.read, handed.files)


def read_export(path: Path, wish: Wish = Wish()) -> Export | None:
    """The export at this path, a folder or a zip; None where it is none that is known.

    Only for a path that is no student's hand-in. SubmissionError: it is one, and cannot be read.
    """
    platform, place = _recognised(path, sure=wish.sure)
    if platform is None or place is None:
        return None
    handed, unclear = platform.read(place, wish)
    handed.sort(key=lambda one: (natural(one.student), one.version, natural(one.title)))
    taken = handed if wish.all_versions else _latest(handed)
    return Export(
        what=platform.WHAT,
        handed=tuple(taken),
        unclear=tuple(sorted(unclear, key=lambda one: natural(one.title))),
        older=len(handed) - len(taken),
        read=Kept(place.read),
    )


def looks_like(path: Path, most: int) -> str | None:
    """What a path that is not taken for an export looks like all the same, itself or its only folder: `a Gradescope
    export`. Nothing is said of a file of more than `most` bytes, nor of what cannot be read."""
    try:
        if path.is_file() and path.stat().st_size > most:
            return None
        platform, _ = _recognised(path, sure=True)
    except (OSError, ValueError, SubmissionError):
        return None
    return None if platform is None else platform.WHAT


def _recognised(path: Path, *, sure: bool) -> tuple[_Platform, Place] | tuple[None, None]:
    places = places_in(path, sure=sure)
    seen = ((platform, place) for place in places for platform in _PLATFORMS if platform.looks(place))
    return next(seen, (None, None))


def _latest(handed: Sequence[Handed]) -> list[Handed]:
    """Of each student, the oldest version first, the newest; two of one version both stay."""
    newest = {one.student: one.version for one in handed}
    return [one for one in handed if one.version == newest[one.student]]


__all__ = ["Export", "Handed", "Unclear", "Wish", "looks_like", "read_export"]
