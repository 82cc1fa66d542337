"""Which sandbox a name means on this machine, whether it holds what it has to, and which ones there are at all.

What does it is loaded when it is asked for: most processes open no sandbox.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from minitango.errors import MinitangoError
from minitango.sandbox.contract import Guarantees, Sandbox


class Surveyed(Struct, frozen=True):
    """What was found of one kind of sandbox, or of one of several Docker engines. Either `guarantees` or `error` is
    set."""

    kind: str
    guarantees: Guarantees | None = None
    error: MinitangoError | None = None
    images: Mapping[str, str] = {}
    """The digest of each image that was asked for; empty where it is not there."""
    orphans: int = 0
    """Boxes of dead engines."""
    swept: int = 0
    """How many of them were removed."""
    engine: str = ""
    """Which one, for people, where several engines were named."""
    slots: int = 0
    """Boxes that it may have at once; 0: nobody counts."""


class Survey(Struct, frozen=True):
    """Which sandboxes there are here, and which one a name takes."""

    kinds: tuple[Surveyed, ...]
    chosen: str
    """The kind that would be taken; empty: none works."""
    why: str
    name: str = ""
    """What opens it: as `open_sandbox` takes it."""


def survey(
    name: str = "auto",
    *,
    state: Path,
    image: str = "",
    last: str = "",
    images: Iterable[str] = (),
    require: Collection[str] = (),
    sweep: bool = False,
    patience: float = 10.0,
) -> Survey:
    """Try every kind of sandbox, each in a box of its own, and say what `open_sandbox(name, last=last)` would take.

    Nothing is fetched or built, and nothing is left in `state`, whose boxes of dead engines are counted; `sweep`
    removes them. Of one that does not hold what is in `require` it is the `error`. `images` are looked for, and `image`
    (empty: the usual one), which steps get that name none. `patience`: the seconds that a Docker engine has for an
    answer. ConfigError for a name that is none.
    """
    from minitango.sandbox import _survey

    return _survey.survey(
        name,
        state=state,
        image=image,
        last=last,
        images=tuple(images),
        require=demanded(require),
        sweep=sweep,
        patience=patience,
    )


def kind_of(name: str = "auto", *, last: str = "") -> str:
    """The `Sandbox.name` that `open_sandbox(name, last=last)` would give here, most likely, without opening one."""
    from minitango.sandbox import _choose

    return _choose.kind_of(name, last)


def kind_asked(name: str) -> str:
    """The kind that a name asks for; `auto`: none. ConfigError for a name that is none."""
    from minitango.sandbox._named import parse

    return parse(name).kind


def join_names(names: str | Sequence[str]) -> str:
    """One name for several Docker engines, as `open_sandbox` takes it. ConfigError `sandbox_name`."""
    from minitango.sandbox._named import join

    return join(names)


def open_sandbox(
    name: str = "auto",
    *,
    state: str | None = None,
    image: str | None = "",
    last: str = "",
    require: Collection[str] = (),
    tell: Callable[[str], None] = lambda _: None,
    rests: Callable[[bool, str], None] = lambda _, text: None,
) -> Sandbox:
    """The sandbox that `name` asks for, probed: it works when this returns.

    `auto`, `bubblewrap`, `docker`, or `docker+URL` with the URL of an engine; or several engines by commas, each with
    `?slots=N` for the boxes that it may have at once (one a core unless given), which make one sandbox together: an
    engine that fails is left alone for a while, and the others go on. `state` is a directory in which it may note what
    it started, for `sweep` after a crash. `require`: LIMITS that have to hold, on each of several engines. `image` is
    for steps that name none (None: there are none). `tell` hears, for people, what takes long and what was chosen;
    `rests`, which engine of several is left alone from now on (True), or is used again.

    `auto` takes Docker where an engine answers, a box works in it and `image` is there or can be fetched; else
    bubblewrap where that works, but not in place of an `image` that was named; and never runs anything unisolated.
    Where `last` names the kind that was used before, it takes that one or none. SandboxUnavailable says what would
    help; ConfigError for a name that is none.
    """
    from minitango.sandbox import _choose

    wanted = demanded(require)
    return _choose.open_named(name, state=state, image=image, last=last, require=wanted, tell=tell, rests=rests)


def demanded(names: Iterable[str]) -> tuple[str, ...]:
    """Limits that are required, each once, as LIMITS has them. ConfigError `require` for what is none."""
    from minitango.sandbox import _demand

    return _demand.demanded(names)


def insist(sandbox: Sandbox, require: Collection[str]) -> Guarantees:
    """What holds there, as `Sandbox.probe` has it. SandboxUnavailable `sandbox_weak` where something does not that is
    required; it names what would help."""
    from minitango.sandbox import _demand

    return _demand.insist(sandbox, require)


def weak(held: Guarantees) -> tuple[str, ...]:
    """Those of LIMITS that do not hold."""
    from minitango.sandbox import _demand

    return _demand.weak(held)
