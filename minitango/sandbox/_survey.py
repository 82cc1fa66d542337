"""Which sandboxes there are on this machine, each tried in a box: for `minitango doctor`."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from minitango.errors import MinitangoError
from minitango.sandbox._demand import insist
from minitango.sandbox._named import KINDS, Address, parse
from minitango.sandbox.contract import Sandbox
from minitango.sandbox.docker import DEFAULT_IMAGE, DockerSandbox
from minitango.sandbox.opening import Survey, Surveyed

_AT_ONCE: Final = 8
"""Engines that are looked at side by side: one that hangs takes all its time."""


def survey(
    name: str,
    *,
    state: Path,
    image: str,
    last: str,
    images: tuple[str, ...],
    require: tuple[str, ...],
    sweep: bool,
    patience: float,
) -> Survey:
    """See `minitango.sandbox.opening.survey`."""
    asked = parse(name)
    several = asked.counted
    with tempfile.TemporaryDirectory(prefix="minitango-doctor-") as private, ThreadPoolExecutor(_AT_ONCE) as pool:
        look = partial(
            _look,
            state=state,
            private=Path(private),
            image=image,
            images=images,
            require=require,
            sweep=sweep,
            patience=patience,
        )
        engines = pool.map(lambda engine: look("docker", engine, several=several), asked.engines)
        kinds = (*engines, look("bubblewrap", Address(), several=False))
    best = {found.kind: found for found in sorted(kinds, key=lambda found: found.error is None)}
    chosen, why = _choose(best, asked.kind, name, last, image)
    return Survey(kinds, chosen, why, name if asked.kind != "auto" else chosen)


def _look(
    kind: str,
    address: Address,
    *,
    several: bool,
    state: Path,
    private: Path,
    image: str,
    images: tuple[str, ...],
    require: tuple[str, ...],
    sweep: bool,
    patience: float,
) -> Surveyed:
    """What there is of one kind. Whatever is tried is noted in `private`, not in the state."""
    url, label = address.url, address.label if several else ""
    trial = _make(kind, url, private if kind == "bubblewrap" else _place(state, private), image, patience)
    left = _make(kind, url, state, image, patience) if kind == "bubblewrap" else trial
    try:
        guarantees = insist(trial, require)
        found = {name: trial.find_image(name) for name in {image, *images}}
        orphans = left.orphans()
        swept = left.sweep() if sweep and orphans else 0
        cores = trial.cores if several and isinstance(trial, DockerSandbox) else 0
    except MinitangoError as error:
        return Surveyed(kind, error=error, orphans=_orphans(left) if kind == "bubblewrap" else 0, engine=label)
    finally:
        trial.close()
        left.close()
    return Surveyed(
        kind, guarantees, images=found, orphans=orphans, swept=swept, engine=label, slots=address.slots or cores or 0
    )


def _orphans(sandbox: Sandbox) -> int:
    try:
        return sandbox.orphans()
    except (MinitangoError, ImportError):  # a system without the kind of locks that tell it
        return 0


def _place(state: Path, private: Path) -> Path:
    """Where an engine's containers are noted. Only who has a state's own name can tell which of them were its."""
    known = state / "docker"
    return state if (known / "state").exists() and os.access(known, os.W_OK) else private


def _make(kind: str, url: str, state: Path, image: str, patience: float) -> Sandbox:
    if kind == "docker":
        return DockerSandbox(state, url=url, image=image or DEFAULT_IMAGE, patience=patience)
    from minitango.sandbox.bubblewrap import BubblewrapSandbox

    return BubblewrapSandbox(state=str(state))


def _choose(found: dict[str, Surveyed], asked: str, name: str, last: str, image: str) -> tuple[str, str]:
    """What `_choose.open_named` would come to."""
    works = [kind for kind in KINDS if found[kind].error is None]
    if asked != "auto":
        return (asked if asked in works else ""), f"{name} is asked for"
    if last in KINDS:
        return (last if last in works else ""), f"what is here was graded in {last}, and auto keeps to it"
    if "docker" in works and found["docker"].images.get(image):
        return "docker", "auto takes Docker where an engine answers, a box works and the usual image is there"
    if "docker" in works:
        other = ", else bubblewrap" if "bubblewrap" in works else ""
        return "docker", f"auto takes Docker if the usual image can be pulled{other}"
    return ("bubblewrap" if works else ""), "auto takes bubblewrap where Docker cannot be used"
