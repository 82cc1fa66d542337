"""Who names settings: flags, the environment, a file; and which of them says where the queue is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from minitango.cli.settings_file import KEYS, File, nearest
from minitango.errors import ConfigError
from minitango.store import is_redis


class Source(Struct, frozen=True):
    """Something that names settings: flags, the environment, a file."""

    kind: str
    """`flag`, `variable` or `file`."""
    values: Mapping[str, Any]
    file: File | None = None

    def has(self, key: str) -> bool:
        return self.values.get(key) not in (None, ())

    def place(self, key: str) -> str:
        """Where it names this key: `--state`, `MINITANGO_STATE`, `/course/minitango.toml:3`."""
        if self.file is not None:
            return self.file.place(key)
        flag = {"capabilities": "--capability"}.get(key, f"--{key.replace('_', '-')}")
        return flag if self.kind == "flag" else variable(key)


def variable(key: str) -> str:
    """The environment variable of a key."""
    return f"MINITANGO_{key.upper()}"


def sources(flags: Mapping[str, Any], environ: Mapping[str, str], folder: Path | None = None) -> list[Source]:
    """What names settings here, the strongest first."""
    file = nearest(folder or _here())
    return [
        Source("flag", flags),
        Source("variable", {key: environ.get(variable(key)) or None for key in KEYS}),
        Source("file", file.values if file is not None else {}, file),
    ]


def shared_store(found: Sequence[Source], place: Source | None) -> Source | None:
    """The source that names a queue on Redis, where the one that decides names a state directory alone: on such a queue
    that is a node's own, and a queue that others share is not left for one here by the way."""
    if place is None or place.values.get("store"):
        return None
    weaker = next((source for source in found[found.index(place) + 1 :] if source.values.get("store")), None)
    return weaker if weaker is not None and is_redis(weaker.values["store"]) else None


def of_place(found: Sequence[Source]) -> Source | None:
    """The one that says where the queue is. It says so alone: --state is not to go with the store of a file further
    up. None: no source does."""
    return next((source for source in found if source.values.get("store") or source.values.get("state")), None)


def names_too(found: Sequence[Source], state: str) -> bool:
    """Whether somebody else than a flag names this state directory, too: then it is known for a node's."""
    others = [source.values["state"] for source in found if source.kind != "flag" and source.values.get("state")]
    return any(Path(other).absolute() == Path(state).absolute() for other in others)


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        text = "the folder that this was started in is gone"
        raise ConfigError(text, hint="cd to a folder that is there", id="settings") from error
