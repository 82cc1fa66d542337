"""What the name of a sandbox says: its kind, and the Docker engines that it means, with the boxes that each may have
at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from minitango.errors import ConfigError
from minitango.text import one_line

KINDS: Final = ("docker", "bubblewrap")
"""The strongest first."""
MAX_SLOTS: Final = 1000
_SLOTS: Final = re.compile(r"(.*)\?slots=([^?]*)", re.DOTALL)
_HINT: Final = (
    "use one of: auto, bubblewrap, docker, docker+unix:///PATH, docker+tcp://HOST:2376, docker+ssh://HOST; "
    "several Docker engines by commas"
)


class Address(Struct, frozen=True):
    """One Docker engine."""

    url: str = ""
    """Empty: the one that `docker` itself would use."""
    slots: int | None = None
    """Boxes that it may have at once; None: nothing was said."""

    @property
    def label(self) -> str:
        """The engine, for people."""
        return self.url or "docker"

    @property
    def name(self) -> str:
        """What names a sandbox of this engine alone."""
        return f"docker+{self.url}" if self.url else "docker"


class Named(Struct, frozen=True):
    """What a name says."""

    kind: str
    """`auto` among them."""
    engines: tuple[Address, ...] = (Address(),)
    """Of Docker: at least one."""

    @property
    def counted(self) -> bool:
        """Whether each engine has a number of boxes of its own: there are several, or somebody said how many."""
        return len(self.engines) > 1 or self.engines[0].slots is not None


def parse(name: str) -> Named:
    """ConfigError `sandbox_name`, `sandbox_mixed`."""
    parts = [part.strip() for part in name.split(",")]
    if len(parts) == 1 and name in ("auto", "bubblewrap"):
        return Named(name)
    mixed = [part for part in parts if part in ("auto", "bubblewrap")]
    if mixed and len(set(parts)) > 1:
        raise ConfigError(
            f"the sandbox is {one_line(repr(name), 200)}: {mixed[0]} cannot be one of several",
            hint="name Docker engines alone, by commas, or one sandbox: grades of two kinds are not to be compared",
            id="sandbox_mixed",
        )
    engines = tuple(_engine(part, name) for part in parts)
    twice = next((one for n, one in enumerate(engines) if one.url in [other.url for other in engines[:n]]), None)
    if twice is not None:
        text = f"the sandbox {twice.name} is named twice"
        raise ConfigError(text, hint="name it once, with as many ?slots= as it is to have", id="sandbox_name")
    return Named("docker", engines)


def join(names: Any) -> str:
    """One name of a list of them: what `parse` takes. A name goes through as it is. ConfigError `sandbox_name`."""
    if isinstance(names, str):
        return names
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        text = f"the sandbox is {one_line(repr(names), 200)}, neither a name nor names"
        raise ConfigError(text, hint=_HINT, id="sandbox_name")
    comma = next((name for name in names if "," in name), None)
    if comma is not None:
        text = f"the sandbox {one_line(repr(comma), 200)} has a comma in it"
        raise ConfigError(text, hint="make each an entry of its own in the list", id="sandbox_name")
    return ",".join(names)


def _engine(part: str, name: str) -> Address:
    found = _SLOTS.fullmatch(part)
    plain, slots = (found[1], _slots(part, found[2])) if found else (part, None)
    kind, plus, url = plain.partition("+")
    if plain == "docker" or (kind == "docker" and plus and "://" in url):
        return Address(url, slots)
    of = "" if part == name else f" of {one_line(repr(name), 200)}"
    raise ConfigError(f"unknown sandbox {one_line(repr(part), 200)}{of}", hint=_HINT, id="sandbox_name")


def _slots(part: str, text: str) -> int:
    if re.fullmatch("[0-9]{1,6}", text, re.ASCII) and 1 <= int(text) <= MAX_SLOTS:
        return int(text)
    raise ConfigError(
        f"the sandbox {one_line(repr(part), 200)} is to have {one_line(repr(text), 40)} boxes at once",
        hint=f"give 1 to {MAX_SLOTS}: docker+tcp://HOST:2376?slots=8",
        id="sandbox_name",
    )
