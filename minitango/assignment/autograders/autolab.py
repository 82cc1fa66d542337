"""An Autolab lab: `make` with the lab's autograde-Makefile as Makefile, beside autograde.tar and the hand-in.

The names are those of Autolab's `autogradeInputFiles` (app/helpers/assessment_autograde_core.rb); LAB.yml is what it
exports of an assessment: https://docs.autolabproject.com/lab/.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import msgspec
from msgspec import Struct

from minitango.archive import File
from minitango.assignment.autograders import Adopted, Wish
from minitango.assignment.autograders.source import Source
from minitango.assignment.parts import SubmissionRule
from minitango.job import Limits

MAKEFILE: Final = "autograde-Makefile"
TAR: Final = "autograde.tar"
TIMEOUT: Final = 180.0
"""Seconds, where the lab says none: Autolab's own choice for a new lab."""
_MOST_SECONDS: Final = 86_400
_HANDIN_IN_RUBY: Final = re.compile(r"""handin_filename["']?\s*(?:=>|=|:)\s*["']([^"'\n]{1,200})["']""")


class _General(Struct):
    name: str = ""
    handin_filename: str = ""


class _Problem(Struct):
    name: str | int | float
    max_score: float | None = None


class _Autograder(Struct):
    autograde_timeout: float | None = None
    autograde_image: str = ""


class _Lab(Struct):
    general: _General | None = None
    problems: list[_Problem] | None = None
    autograder: _Autograder | None = None


def looks(source: Source) -> bool:
    """Whether this is a lab."""
    return source.has(MAKEFILE) and source.has(TAR)


def adopt(source: Source, wish: Wish) -> Adopted:
    """See `autograders.adopt`."""
    named = _yaml_of(source)
    lab = _read(source, named) if named else _Lab()
    general, autograder = lab.general or _General(), lab.autograder or _Autograder()
    taken = []
    handin = general.handin_filename or _handin_in_ruby(source)
    if handin:
        taken.append(f"each hand-in becomes {handin}")
    else:
        taken.append("hand-ins keep their own names, as no LAB.yml names the one that the lab wants")
    problems = {str(problem.name): problem.max_score for problem in lab.problems or ()}
    if any(most is None for most in problems.values()):
        problems = {}
    timeout = autograder.autograde_timeout or TIMEOUT
    image = wish.image or autograder.autograde_image
    if image and not wish.image:
        taken.append(f"its image is {image} (--image names another)")
    return Adopted(
        layout="autolab",
        name=general.name or source.name,
        command=wish.command or ("make",),
        files=(File("Makefile", source.read(MAKEFILE).data), File(TAR, source.read(TAR).data)),
        format="autolab",
        problems={name: float(most) for name, most in problems.items() if most is not None},
        submission=SubmissionRule(path=handin),
        image=image,
        limits=Limits(wall=min(float(timeout), _MOST_SECONDS), memory=1 << 30, pids=256, disk=512 << 20),
        taken=tuple(taken),
    )


def _yaml_of(source: Source) -> str:
    """The file that describes the lab: LAB.yml in a folder of that name, or the only one there is."""
    found = [name for name in source.top() if name.endswith((".yml", ".yaml"))]
    own = [name for name in found if name.rpartition(".")[0] == source.name]
    return (own or found)[0] if own or len(found) == 1 else ""


def _read(source: Source, name: str) -> _Lab:
    import yaml

    try:
        said: Any = yaml.safe_load(source.text(name))
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise source.error(
            f"not YAML{where}: {problem}", "correct it, or export the lab again", id="yaml", path=name
        ) from error
    try:
        lab = msgspec.convert(said if isinstance(said, dict) else {}, _Lab, strict=False)
    except msgspec.ValidationError as error:
        raise source.error(f"{error}", "correct it, or export the lab again", id="yaml", path=name) from error
    handin = lab.general.handin_filename if lab.general else ""
    if handin and (handin in (".", "..", "Makefile", TAR) or "/" in handin or "\0" in handin):
        raise source.error(
            f"{handin!r} cannot be a hand-in's name", "name a file of its own", id="wrong_value", path=name,
            key="general.handin_filename",
        )  # fmt: skip
    for problem in lab.problems or ():
        if problem.max_score is not None and not (math.isfinite(problem.max_score) and 0 <= problem.max_score < 1e9):
            raise source.error(
                f"the maximum of {problem.name!r} is {problem.max_score}", "write a number from 0", id="wrong_value",
                path=name, key="problems",
            )  # fmt: skip
    timeout = lab.autograder.autograde_timeout if lab.autograder else None
    if timeout is not None and not (math.isfinite(timeout) and timeout >= 0):
        raise source.error(
            f"the time-out is {timeout}", "write a number of seconds", id="wrong_value", path=name,
            key="autograder.autograde_timeout",
        )  # fmt: skip
    return lab


def _handin_in_ruby(source: Source) -> str:
    """What an older lab's LAB.rb says in words that need no Ruby to be read."""
    for name in source.top():
        if name.endswith(".rb"):
            found = _HANDIN_IN_RUBY.search(source.text(name))
            if found is not None and "/" not in found[1]:
                return found[1]
    return ""
