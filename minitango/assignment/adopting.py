"""Another platform's autograder -> Assignment: alone, or with an assignment.toml beside it that says more."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from msgspec import structs

from minitango.assignment import autograders, toml_file
from minitango.assignment.autograders import Adopted, Wish
from minitango.assignment.autograders.source import Source
from minitango.assignment.checks import BUILT_IMAGE, inside
from minitango.assignment.model import Assignment
from minitango.assignment.parts import Step
from minitango.assignment.places import Key, Places
from minitango.assignment.toml_file import Reader
from minitango.text import one_line

NAME: Final = "assignment.toml"


def alone(source: Source, wish: Wish) -> Assignment:
    """The assignment of an autograder that has no `assignment.toml`."""
    if source.has(NAME):
        raise source.error(
            f"an archive with an {NAME} in it is not unpacked", "unpack it, and name its folder", id="layout"
        )
    layout = autograders.recognised(source)
    if not layout:
        raise autograders.unknown(source)
    adopted = autograders.adopt(layout, source, wish)
    archive = source.path.name if source.is_archive else ""
    root = source.path.absolute().parent if archive else source.path.absolute()
    assignment = _of(adopted, {"name": _clean(adopted.name), "autograder": archive}, root=root)
    vars(assignment)["_wish"] = wish
    vars(assignment)["taken"] = (f"{source.path}: taken for {autograders.what(layout)}", *adopted.taken)
    assignment.validate(Places(str(source.path)))
    return assignment


def beside(reader: Reader, value: dict[str, Any], root: Path, wish: Wish) -> Assignment:
    """Another platform's autograder, and what is said of it beside it."""
    layout = reader.layout(value["layout"], ("layout",))
    said = reader.table(value, (), {**toml_file._ASSIGNMENT, "submission": _rule, "step": _step})
    if said.pop("format", None) is not None:
        text = f"{layout} says the format itself"
        raise reader.places.error(("format",), text, "take format away", "layout")
    place = said.get("autograder", "")
    if place:
        inside(root, place, ("autograder",), reader.places)
    source = _source(root, place)
    step = said.get("step", {})
    own = wish._replace(
        image=step.get("image") or wish.image,
        setup=wish.setup and said.get("setup", True),
        command=step.get("command", ()),
    )
    adopted = autograders.adopt(layout, source, own)
    step.pop("image", None)
    step.pop("command", None)
    del said["layout"]
    said.setdefault("name", _clean(adopted.name))
    if "sample" in said:
        said["samples"] = said.pop("sample")
    assignment = _of(adopted, said, root=root)
    vars(assignment)["_wish"] = own
    vars(assignment)["taken"] = (f"{source.path}: {autograders.what(layout)}", *adopted.taken)
    return assignment


def _rule(reader: Reader, value: Any, key: Key) -> dict[str, Any]:
    return reader.table(value, key, toml_file._RULE)


def _step(reader: Reader, value: Any, key: Key) -> dict[str, Any]:
    """What may be said of the one step that an autograder has."""
    tables = reader.tables(value, key)
    if len(tables) != 1:
        raise reader.places.error(key, "an autograder has one step", "take the others away", "layout")
    for name in ("files", "submission", "collect"):
        if isinstance(tables[0], dict) and name in tables[0]:
            raise reader.places.error((*key, 0, name), "the layout decides this", f"take {name} away", "layout")
    return reader.table(tables[0], (*key, 0), {**toml_file._STEP, "limits": _limits})


def _limits(reader: Reader, value: Any, key: Key) -> dict[str, Any]:
    return reader.table(value, key, toml_file._LIMITS)


def again(assignment: Assignment) -> tuple[Adopted, list[Path]]:
    """What the autograder of an assignment with a layout asks for now, and the files that say so."""
    step = assignment.steps[0]
    wish = assignment._wish or Wish("" if step.image == BUILT_IMAGE else step.image, assignment.setup)
    source = _source(assignment.root, assignment.autograder)
    return autograders.adopt(assignment.layout, source, wish), source.used


def _source(root: Path, place: str) -> Source:
    return Source(root / place, without=frozenset() if place else frozenset({NAME}))


def _of(adopted: Adopted, said: dict[str, Any], *, root: Path) -> Assignment:
    """The assignment of an autograder, as far as nothing else is said of it."""
    rule, step = said.pop("submission", {}), said.pop("step", {})
    if rule.get("path"):
        rule.setdefault("name", "")
    asked = Step(
        command=adopted.command,
        image=adopted.image,
        limits=adopted.limits,
        root=adopted.root,
        network=adopted.network,
        env=adopted.env,
    )
    limits = structs.replace(adopted.limits, **step.pop("limits", {}))
    step["env"] = {**adopted.env, **step.get("env", {})}
    own: dict[str, Any] = {"bonus": True, "problems": adopted.problems, "max_score": adopted.max_score}
    return Assignment(
        **{**own, **said},
        steps=(structs.replace(asked, **{**step, "limits": limits}),),
        format=adopted.format,
        submission=structs.replace(adopted.submission, **rule),
        root=root,
        layout=adopted.layout,
    )


def _clean(name: str) -> str:
    """A name that somebody else chose, as an assignment may have it."""
    return one_line(name, 90).strip() or "autograder"
