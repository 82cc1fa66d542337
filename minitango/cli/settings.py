"""Settings: flags, then MINITANGO_* variables, then minitango.toml or [tool.minitango], then defaults."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, structs

from minitango import image_name
from minitango.assignment import Assignment
from minitango.callback_url import Callbacks
from minitango.cli import ages
from minitango.cli.sources import Source, names_too, of_place, shared_store, sources
from minitango.cli.streams import name_queue, tell
from minitango.engine import Engine
from minitango.errors import ConfigError, StoreError
from minitango.events import Event
from minitango.node import check_label
from minitango.sandbox import LIMITS, demanded, join_names, kind_asked
from minitango.statedir import default_image, locate, sandbox_kind
from minitango.store import is_redis, shown

DEFAULT_STATE: Final = ".minitango"
MAX_WORKERS: Final = 1000
SECRET: Final = "MINITANGO_CALLBACK_SECRET"  # noqa: S105 - its name
"""The variable with what signs callbacks: no flag and no file, where others might read it."""
_MOST_WORDS: Final = 12
"""Words of a command that is suggested."""
_OF_STATE: Final = frozenset({"state", "engine_running"})
"""Errors of the state directory, which may lie elsewhere than the store."""


class Settings(Struct, frozen=True):
    """Where the queue is and how it is graded."""

    store: str
    """A store URL, or a state directory."""
    state: str | None
    sandbox: str
    """As `open_sandbox` takes it."""
    workers: int | None
    flags: str = ""
    """What has to be said again on a command line to mean this queue: empty, or with a blank before it."""
    by_store: bool = False
    """Whether the queue was named by --store, or what stands for it."""
    image: str = ""
    """Of steps that name none; empty: the sandbox's own choice."""
    default_image: bool = True
    """Whether there may be steps that name none."""
    blobs: str | None = None
    """A directory that the queue's nodes share, for files; None: they are where the store has them."""
    name: str = ""
    """This node's, among those of a queue."""
    capabilities: tuple[str, ...] = ()
    """What this node offers to assignments that need it."""
    callbacks: Callbacks = Callbacks()
    """To which hosts callbacks may go, and what signs them."""
    keep: str = ""
    """How long jobs are kept that ended; empty: as the store has it."""
    require: tuple[str, ...] = ()
    """Which limits the sandbox has to hold."""
    shared_by: str = ""
    """Who named the shared queue, where a flag named a state directory alone, which nobody else does; empty: that is
    not so."""

    def open(
        self, *, workers: int | None = None, on_event: Callable[[Event], None] | None = None, paused: bool = False
    ) -> Engine:
        """The engine on this state; `workers=0` only submits and watches, `paused` begins nothing yet."""
        wanted = self.workers if workers is None else workers
        try:
            return Engine.open(
                self.store,
                workers=wanted,
                sandbox=self.sandbox,
                image=self.image if self.image or self.default_image else None,
                state=self.state,
                name=self.name,
                capabilities=self.capabilities,
                blobs=self.blobs,
                keep=ages.keep(self.keep),
                require=self.require,
                on_event=on_event,
                paused=paused,
                callbacks=self.callbacks,
            )
        except StoreError as error:
            error.hint = self._in_our_words(error.hint, of_state=error.id in _OF_STATE)
            raise

    def of(self, assignments: Sequence[Assignment]) -> Settings:
        """The same for these assignments alone: whether any of their steps needs an image that it does not name. An
        autograder that was adopted has taken --image for its own."""
        adopted = bool(assignments) and all(assignment.layout for assignment in assignments)
        return structs.replace(
            self,
            image="" if adopted else self.image,
            default_image=any(not step.image for assignment in assignments for step in assignment.steps),
        )

    def check_joined(self, state: Path) -> None:
        """ConfigError where the engine that grades there does so in other than what was asked for."""
        kind, image = sandbox_kind(state), default_image(state)
        wanted = kind_asked(self.sandbox)
        if wanted not in ("auto", kind):
            said, other = f"--sandbox {self.sandbox}", f"grades in {kind}"
        elif self.image and self.default_image and self.image != image and kind == "docker":
            said, other = f"--image {self.image}", f"takes {image or 'its usual image'}"
        else:
            return
        raise ConfigError(
            f"the engine that runs in {state} {other}, so {said} cannot be had there now",
            hint=f"leave {said.split()[0]} out to submit to that engine, wait for its end, or use another --state DIR",
            id="engine_differs",
        )

    def check_served(self, assignment: Assignment, words: Sequence[object] = ()) -> None:
        """ConfigError where an engine of these settings would leave this assignment's jobs to others. `words`: by which
        they would be submitted; none: they cannot."""
        missing = [need for need in assignment.needs if need not in self.capabilities]
        if missing:
            raise ConfigError(
                f"{assignment.name} needs a node that offers {', '.join(missing)}, and this one does not",
                hint=f"if it does, the same with --capability {','.join(assignment.needs)}; else "
                + (f"leave it to a worker that offers it: {_submit(words)}" if words else "do it on a node that does"),
                id="capability",
            )

    def _in_our_words(self, hint: str, *, of_state: bool = False) -> str:
        """A hint that speaks of --state, where it was --store that named the place."""
        if not self.by_store or (of_state and self.state is not None):
            return hint
        return hint.replace("--state DIR", "--store URL")

    def open_existing(self, *, changes: str = "") -> Engine:
        """To look at a queue that is there, or to change it as a whole, where `changes` says in a word how: `prune`.

        ConfigError where none is; `queue_unclear` where it would be changed, and another may be meant.
        """
        url, _ = locate(self.store, self.state)
        scheme, _, rest = url.partition("://")
        if scheme == "sqlite" and not _may_exist(Path(rest[1:])):
            raise ConfigError(
                f"there is no queue at {rest[1:]}",
                hint=self._in_our_words(
                    "run something first (minitango run ASSIGNMENT PATH...), or name it with --state DIR"
                ),
                id="no_queue",
            )
        if changes:
            self.check_meant(changes)
        self.tell_which()
        return self.open(workers=0)

    def tell_which(self) -> None:
        """Say which queue is meant where a state directory was typed, and the queue is on a server all the same."""
        if self.shared_by:
            what = "that is a node's own directory, not another queue"
            tell(f"{self._which()}; --state {self.state}: {what} (for one in it: --store {self._there()})")

    def check_meant(self, verb: str) -> None:
        """ConfigError `queue_unclear` where a state directory was typed, and this verb would change a queue on a server
        that only a variable or a file names."""
        if self.shared_by:
            raise ConfigError(
                f"--state {self.state} is typed, and {self._which()}: which of them is this {verb} for?",
                hint=f"for the one in that directory: --store {self._there()} in place of --state; for the other: "
                "leave --state out",
                id="queue_unclear",
            )

    @property
    def overlooked(self) -> str:
        """A word on a queue that lies in the state directory that was typed, and is not the one that is meant; empty:
        none does."""
        file = Path(self.state or "") / "queue.db"
        if not self.shared_by or not _may_exist(file):
            return ""
        return f"{file} is another queue, which is left alone: {self._which()}"

    def _which(self) -> str:
        return f"the queue is {shown(self.store)}, as {self.shared_by} has it"

    def _there(self) -> str:
        return shlex.quote(str(self.state))


def _submit(words: Sequence[object]) -> str:
    """What hands these in, for whoever grades them; of very many hand-ins the first."""
    more = " ..." if len(words) > _MOST_WORDS else ""
    return f"minitango submit {shlex.join(map(str, words[:_MOST_WORDS]))}{more}"


def _may_exist(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # opening it says what is the matter
    return True


def resolve(
    *,
    store: str | None = None,
    state: str | None = None,
    sandbox: str | None = None,
    image: str | None = None,
    workers: int | None = None,
    blobs: str | None = None,
    name: str | None = None,
    capabilities: Sequence[str] | None = None,
    callback_allow: Sequence[str] | None = None,
    keep: str | None = None,
    require: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Settings from flags (None: not given), the environment and the nearest configuration file."""
    flags = {
        "store": store, "state": state, "blobs": blobs, "sandbox": sandbox, "image": image, "workers": workers,
        "name": name, "capabilities": capabilities or None, "callback_allow": callback_allow or None,
        "keep": keep, "require": require or None,
    }  # fmt: skip
    environ = os.environ if environ is None else environ
    found = sources(flags, environ, folder)

    def pick(key: str) -> Any:
        return next((source.values[key] for source in found if source.has(key)), None)

    def place_of(key: str) -> str:
        return next((source.place(key) for source in found if source.has(key)), key)

    place = of_place(found)
    where = place.values if place is not None else {}
    named_as = (
        ("store", "a place"), ("state", "a place"), ("blobs", "a place"), ("sandbox", "a sandbox"),
        ("image", "an image"), ("name", "a node"), ("keep", "an age"),
    )  # fmt: skip
    for key, what in named_as:
        if flags[key] == "":
            raise ConfigError(f"--{key} is empty", hint=f"name {what}, or leave --{key} out", id="usage")
    chosen_store, chosen_state = where.get("store"), where.get("state")
    elsewhere = shared_store(found, place)
    if elsewhere is not None:
        chosen_store = elsewhere.values["store"]
    surprising = elsewhere is not None and flags["state"] and not names_too(found, str(flags["state"]))
    if chosen_store is None:
        chosen_store, chosen_state = chosen_state or DEFAULT_STATE, None
    elif is_redis(chosen_store):
        chosen_state = pick("state")  # a node's own, whoever names it
    count, sandboxes = _number(pick("workers")), pick("sandbox")
    ages.keep(pick("keep"), place_of("keep"))  # so that what cannot be is told now
    if pick("name"):
        check_label(pick("name"), f"a node's name ({place_of('name')})")
    telling = ("store", "blobs") if surprising else ("store", "state", "blobs")
    named = [(f"--{key}", shown(str(flags[key]))) for key in telling if flags[key]]
    return Settings(
        chosen_store,
        chosen_state,
        join_names("auto" if sandboxes in (None, "") else sandboxes),
        count,
        "".join(f" {flag} {shlex.quote(str(value))}" for flag, value in named),
        bool(where.get("store")),
        _image(pick("image")),
        blobs=pick("blobs"),
        name=pick("name") or "",
        capabilities=_labels(next((source for source in found if source.has("capabilities")), None)),
        callbacks=_callbacks(pick("callback_allow"), environ.get(SECRET, "")),
        keep=pick("keep") or "",
        require=_limits(next((source for source in found if source.has("require")), None)),
        shared_by=elsewhere.place("store") if elsewhere is not None and surprising else "",
    )


def settled(**where: Any) -> Settings:
    """As `resolve`, for a command as it was typed: what is suggested from now on reaches the same queue."""
    settings = resolve(**where)
    name_queue(settings.flags)
    return settings


def _callbacks(hosts: str | Sequence[str] | None, secret: str) -> Callbacks:
    """Of a variable, hosts stand side by side, with commas or blanks between them."""
    return Callbacks(tuple(hosts.replace(",", " ").split() if isinstance(hosts, str) else hosts or ()), secret)


def _image(name: str | None) -> str:
    problem = image_name.problem(name) if name else ""
    if problem:
        text = f"{name!r} is no image's name: {problem}"
        raise ConfigError(text, hint="--image python:3.12-slim, or a name like it", id="image_name")
    return name or ""


def _labels(source: Source | None) -> tuple[str, ...]:
    """By commas, too, but in a file, which has lists."""
    if source is None:
        return ()
    found = source.values["capabilities"]
    named = [found] if isinstance(found, str) else list(found)
    if source.kind != "file":
        named = [part.strip() for each in named for part in each.split(",")]
        named = [part for part in named if part] or named[:1]  # a comma at the end names nothing
    what = f"what a node offers ({source.place('capabilities')})"
    return tuple(dict.fromkeys(check_label(label.strip(), what) for label in named))


def _limits(source: Source | None) -> tuple[str, ...]:
    """By commas, too, wherever they are named. What names none by mistake, as an empty variable of a shell, is refused:
    nothing would be required then."""
    if source is None:
        return ()
    found, place = source.values["require"], source.place("require")
    names = [found] if isinstance(found, str) else found
    try:
        limits = demanded(part.strip() for name in names for part in str(name).split(",") if part.strip())
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}", hint=error.hint, id="require") from error
    if names and not limits:
        hint = f"name some of: {', '.join(LIMITS)}; or leave it out"
        raise ConfigError(f"{place}: no limit is named", hint=hint, id="require")
    return limits


def _number(count: Any) -> int | None:
    if count is None:
        return None
    try:
        number = int(count)
    except ValueError as error:
        text = f"workers is {count!r}, not a number"
        raise ConfigError(text, hint="MINITANGO_WORKERS=4", id="workers") from error
    if not 1 <= number <= MAX_WORKERS:
        raise ConfigError(f"workers is {number}", hint=f"give 1 to {MAX_WORKERS}", id="workers")
    return number
