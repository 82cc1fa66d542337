"""An Autolab lab: `make` with the lab's autograde-Makefile as Makefile, beside autograde.tar and the hand-in.

The names are those of Autolab's `autogradeInputFiles` (app/helpers/assessment_autograde_core.rb); LAB.yml is what it
exports of an assessment: https://docs.autolabproject.com/lab/.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from msgspec import Struct, field

from minitango.archive import File
from minitango.assignment.autograders import Adopted, Wish
from minitango.assignment.autograders.source import Source
from minitango.assignment.parts import SubmissionRule
from minitango.errors import AssignmentError
from minitango.job import Limits
from minitango.text import one_line

MAKEFILE: Final = "autograde-Makefile"
TAR: Final = "autograde.tar"
MAKEFILES: Final = ("GNUmakefile", "makefile", "Makefile")
"""What make reads, the first that is there."""
TIMEOUT: Final = 180.0
"""Seconds, where the lab says none: Autolab's own choice for a new lab."""
_MOST_SECONDS: Final = 86_400.0
_NULL: Final = ("", "~", "null", "Null", "NULL")
_COMMENT: Final = re.compile(r"^[^\S\n]*+#.*$", re.MULTILINE)
_OVERRIDDEN: Final = re.compile(
    r"^[ \t]*def[ \t]+(?:self\.)?(autogradeInputFiles|parseAutoresult|modifySubmissionScores|raw_score)\b", re.MULTILINE
)
"""What a lab may do in its own way in LAB.rb: what is sent, how the scores line is read, what becomes of scores."""
_HANDIN_IN_RUBY: Final = re.compile(r"""handin_filename["']?\s*(?:=>|=|:)\s*["']([^"'\n]{1,200})["']""")


class _Lab(Struct):
    """What LAB.yml says, as far as it matters here."""

    name: str = ""
    handin: str = ""
    problems: dict[str, float | None] = field(default_factory=dict)
    timeout: float | None = None
    image: str = ""


def looks(source: Source) -> bool:
    """Whether this is a lab."""
    return source.has(MAKEFILE) and source.has(TAR)


def adopt(source: Source, wish: Wish) -> Adopted:
    """See `autograders.adopt`."""
    named = _yaml_of(source)
    lab = _read(source, named) if named else _Lab()
    taken = []
    handin = lab.handin or _handin_in_ruby(source)
    if handin:
        taken.append(f"each hand-in becomes {handin}")
    else:
        taken.append(
            "hand-ins keep their own names, as no LAB.yml names the one that the lab wants "
            "(an assignment.toml beside it can: path under [submission])"
        )
    if overridden := _overridden(source):
        taken.append(f"its own {' and '.join(overridden)} in Ruby does not run here, and scores may differ by it")
    problems = {} if None in lab.problems.values() else lab.problems
    timeout = lab.timeout or TIMEOUT
    image = wish.image or lab.image
    if image and not wish.image:
        taken.append(f"in Docker its image is {image} (--image names another)")
    return Adopted(
        layout="autolab",
        name=lab.name or source.name,
        command=wish.command or ("make",),
        files=(File("Makefile", source.read(MAKEFILE).data), File(TAR, source.read(TAR).data)),
        format="autolab",
        problems={name: float(most) for name, most in problems.items() if most is not None},
        submission=SubmissionRule(path=handin),
        image=image,
        limits=Limits(wall=min(timeout, _MOST_SECONDS), memory=1 << 30, pids=256, disk=512 << 20),
        taken=tuple(taken),
    )


_LONGEST: Final = 64 << 10
"""Characters of a LAB.yml: one has a few hundred, and reading it takes ten thousand times as long as looking at it."""


def _yaml_of(source: Source) -> str:
    """The file that describes the lab: LAB.yml in a folder of that name, or the only one there is."""
    found = [name for name in source.top() if name.endswith((".yml", ".yaml"))]
    own = [name for name in found if name.rpartition(".")[0] == source.name]
    return (own or found)[0] if own or len(found) == 1 else ""


def _read(source: Source, name: str) -> _Lab:
    import yaml

    text = source.text(name)
    if len(text) > _LONGEST:
        raise source.error(f"is longer than {_LONGEST:,} characters", "export the lab again", id="yaml", path=name)
    try:
        # every scalar as the text that it is: no tag makes an object, no date that is none an error
        said: Any = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise source.error(
            f"not YAML{where}: {problem}", "correct it, or export the lab again", id="yaml", path=name
        ) from error
    values = _Values(source, name, said if isinstance(said, dict) else {})
    handin = values.text("general", "handin_filename")
    if handin and _is_no_handin(handin):
        raise values.wrong(
            "general.handin_filename", f"{handin!r} cannot be a hand-in's name", "name a file of its own"
        )
    problems = values.table.get("problems") or []
    if not isinstance(problems, list) or not all(isinstance(problem, dict) for problem in problems):
        raise values.wrong("problems", "is not a list of problems", "export the lab again")
    names = [one.get("name", "") for one in problems]
    if not all(isinstance(each, str) for each in names):
        raise values.wrong("problems", "has a problem whose name is not a text", "write one word")
    return _Lab(
        name=values.text("general", "name"),
        handin=handin,
        problems={
            each: values.number("problems", one.get("max_score")) for each, one in zip(names, problems, strict=True)
        },
        timeout=values.number("autograder.autograde_timeout", values.section("autograder").get("autograde_timeout")),
        image=values.text("autograder", "autograde_image"),
    )


class _Values:
    """The values of a LAB.yml, all of them texts, by section and key."""

    def __init__(self, source: Source, name: str, table: dict[str, Any]) -> None:
        self._source = source
        self._name = name
        self.table = table

    def section(self, name: str) -> dict[str, Any]:
        found = self.table.get(name)
        if found in (None, *_NULL):
            return {}
        if not isinstance(found, dict):
            raise self.wrong(name, "is not a table", "export the lab again")
        return found

    def text(self, section: str, key: str) -> str:
        value = self.section(section).get(key, "")
        if not isinstance(value, str):
            raise self.wrong(f"{section}.{key}", "is not a text", "write one word")
        return "" if value in _NULL else value

    def number(self, key: str, value: Any) -> float | None:
        """From 0, and finite."""
        if value in (None, *_NULL):
            return None
        try:
            found = float(value) if isinstance(value, str) and len(value) < 100 else math.nan
        except ValueError:
            found = math.nan
        if not 0 <= found < 1e9:
            # of what is no text only that: an alias of an alias may stand for more than there is memory
            shown = one_line(value, 40) if isinstance(value, str) else "what is there"
            raise self.wrong(key, f"{shown} is no number from 0", "write a number")
        return found

    def wrong(self, key: str, what: str, hint: str) -> AssignmentError:
        return self._source.error(what, hint, id="wrong_value", path=self._name, key=key)


def _is_no_handin(name: str) -> bool:
    """Whether a hand-in cannot have this name: it is a way somewhere, or a file that make would take for the lab's."""
    return name in (".", "..", TAR, *MAKEFILES) or "/" in name or "\0" in name


def _overridden(source: Source) -> list[str]:
    """What the lab does in its own way, in Ruby."""
    scripts = [source.text(name) for name in source.top() if name.endswith(".rb")]
    return sorted({name for text in scripts for name in _OVERRIDDEN.findall(_COMMENT.sub("", text))})


def _handin_in_ruby(source: Source) -> str:
    """What an older lab's LAB.rb says in words that need no Ruby to be read."""
    for name in source.top():
        if name.endswith(".rb"):
            found = _HANDIN_IN_RUBY.search(_COMMENT.sub("", source.text(name)))
            if found is not None and not _is_no_handin(found[1]):
                return found[1]
    return ""
