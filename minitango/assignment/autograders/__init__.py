"""Autograders that were written for another platform, unmodified: which one it is, and what it asks for.

One module a platform, each with two functions: `looks` says whether a folder or archive is one of its kind, `adopt`
turns it into what an assignment needs. What a step then finds in its sandbox, and where, is `minitango.layout`'s.

    autolab        a lab's folder: autograde-Makefile, autograde.tar, LAB.yml
    gradescope     an autograder.zip: run_autograder, setup.sh
    prairielearn   a question with external grading: info.json, tests/
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from msgspec import Struct, field

from minitango.archive import File
from minitango.assignment.autograders.source import Source
from minitango.assignment.parts import SubmissionRule
from minitango.errors import AssignmentError
from minitango.job import LAYOUTS, Limits

_WHAT: Final = {
    "autolab": "an Autolab lab",
    "gradescope": "a Gradescope autograder",
    "prairielearn": "a PrairieLearn question with external grading",
}
_WHOLE: Final = {"gradescope": "", "prairielearn": "tests"}
_SIGNS: Final = {
    "autolab": "autograde-Makefile and autograde.tar",
    "gradescope": "run_autograder",
    "prairielearn": "info.json with externalGradingOptions",
}


_WORDS: Final = (
    'write an assignment.toml; format = "exit-code" takes a command that says by its exit whether all is well'
)
_NEARLY: Final = (
    (
        "autograde-Makefile",
        "autograde.tar",
        "make autograde.tar, as where you upload it: make, or tar cf autograde.tar ...",
    ),
    ("setup.sh", "run_autograder", "add run_autograder, or write an assignment.toml"),
    (".github/classroom/autograding.json", "", f"GitHub Classroom's tests do not run here: {_WORDS}"),
    ("nbgrader_config.py", "", f"nbgrader's assignments do not run here: {_WORDS}"),
)
"""What is there, what is not there, and what to do."""
_MOST_NEAR: Final = 200
"""Folders that are looked into for one that is meant."""


class Wish(NamedTuple):
    """What whoever adopts an autograder has to say about it."""

    image: str = ""
    """An image in place of the one that it asks for."""
    setup: bool = True
    """Whether its set-up script has to be run, if there is one."""
    command: tuple[str, ...] = ()
    """A command in place of the one that it asks for."""


class Adopted(Struct, frozen=True):
    """What an autograder asks for, in our words."""

    layout: str
    name: str
    command: tuple[str, ...]
    """Empty: what its image runs by itself."""
    files: tuple[File, ...] = ()
    """What lies in the step's working directory, at its path there."""
    home: str = ""
    """That directory, where the command may name it."""
    format: str = ""
    max_score: float | None = None
    problems: dict[str, float] = field(default_factory=dict)
    """Autolab's: each problem and its maximum."""
    submission: SubmissionRule = SubmissionRule()
    image: str = ""
    image_files: tuple[File, ...] = ()
    """A Dockerfile and what it needs, where an image has to be built; `image` is then what it is called."""
    limits: Limits = Limits()
    root: bool = False
    """Whether it has to be root in its container."""
    network: Literal["none", "open"] = "none"
    env: dict[str, str] = field(default_factory=dict)
    taken: tuple[str, ...] = ()
    """For people: what was taken from where."""


def what(layout: str) -> str:
    """A layout in words: `an Autolab lab`."""
    return _WHAT[layout]


def whole(layout: str) -> str | None:
    """The folder that an autograder takes with all that is in it, from its top; None: it takes single files."""
    return _WHOLE.get(layout)


def recognised(source: Source) -> str:
    """Which of LAYOUTS it is; empty where it is none. AssignmentError where it could be several."""
    found = [layout for layout in LAYOUTS if _module(layout).looks(source)]
    if len(found) > 1:
        raise source.error(
            f"could be {' or '.join(map(what, found))}",
            f'write an assignment.toml beside it that says which: layout = "{found[0]}"',
            id="layout",
        )
    return found[0] if found else ""


def adopt(layout: str, source: Source, wish: Wish = Wish()) -> Adopted:
    """What this autograder asks for. AssignmentError says what is missing, or cannot be used."""
    module = _module(layout)
    if not module.looks(source):
        raise source.error(f"is not {what(layout)}: that has {_SIGNS[layout]}", "correct the layout", id="layout")
    make: Callable[[Source, Wish], Adopted] = module.adopt
    return make(source, wish)


def unknown(source: Source) -> AssignmentError:
    """The error for what is none of them, which says what it nearly is."""
    if why := _module("prairielearn").damage(source):
        return source.error(
            f"there is no assignment.toml beside it, and this, by which a PrairieLearn question is known, {why}",
            "correct it, or write an assignment.toml",
            id="json",
            path="info.json",
        )
    text = "there is no assignment.toml in it, and it is no autograder that is known"
    for sign, missing, hint in _NEARLY:
        if source.has(sign) and not (missing and source.has(missing)):
            without = f"; it has {sign}, and no {missing}" if missing else f"; its {sign} is not understood here"
            return source.error(text + without, hint, id="assignment_missing")
    if found := _below(source):
        below = f"; but there is {what(found[1])} in {found[0].relative_to(source.path)}/"
        return source.error(text + below, f"name that folder: {found[0]}", id="assignment_missing")
    signs = "; ".join(f"{what(layout)} by {_SIGNS[layout]}" for layout in LAYOUTS)
    return source.error(
        text, f"write an assignment.toml, or see what would be recognised: {signs}", id="assignment_missing"
    )


def _below(source: Source) -> tuple[Path, str] | None:
    """The first folder in it, at most two down, that has an autograder, and which."""
    if source.is_archive:
        return None
    try:
        near = sorted(source.path.glob("*/"))[:_MOST_NEAR]
        near += [deeper for folder in near for deeper in sorted(folder.glob("*/"))]
    except OSError:
        return None
    for folder in near[:_MOST_NEAR]:
        with contextlib.suppress(AssignmentError):
            if found := recognised(Source(folder)):
                return folder, found
    return None


def _module(layout: str) -> Any:
    return import_module(f"minitango.assignment.autograders.{layout}")
