"""Which sandboxes there are on this machine, each tried in a box: for `minitango doctor`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from minitango.errors import MinitangoError
from minitango.sandbox import Sandbox, Survey, Surveyed
from minitango.sandbox._choose import KINDS, parse


def survey(
    name: str, *, state: Path, image: str, last: str, images: tuple[str, ...], sweep: bool, patience: float
) -> Survey:
    """See `minitango.sandbox.survey`."""
    asked, url = parse(name)
    with tempfile.TemporaryDirectory(prefix="minitango-doctor-") as private:
        kinds = tuple(
            _look(
                kind,
                url,
                state=state,
                private=Path(private),
                image=image,
                images=images,
                sweep=sweep,
                patience=patience,
            )
            for kind in KINDS
        )
    chosen, why = _choose({found.kind: found for found in kinds}, asked, name, last, image)
    return Survey(kinds, chosen, why, url)


def _look(
    kind: str,
    url: str,
    *,
    state: Path,
    private: Path,
    image: str,
    images: tuple[str, ...],
    sweep: bool,
    patience: float,
) -> Surveyed:
    """What there is of one kind. Whatever is tried is noted in `private`, not in the state."""
    trial = _make(kind, url, private if kind == "bubblewrap" else _place(state, private), image, patience)
    left = _make(kind, url, state, image, patience) if kind == "bubblewrap" else trial
    try:
        guarantees = trial.probe()
        found = {name: trial.find_image(name) for name in {image, *images}}
        orphans = left.orphans()
        swept = left.sweep() if sweep and orphans else 0
    except MinitangoError as error:
        return Surveyed(kind, error=error, orphans=_orphans(left) if kind == "bubblewrap" else 0)
    finally:
        trial.close()
        left.close()
    return Surveyed(kind, guarantees, images=found, orphans=orphans, swept=swept)


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
        from minitango.sandbox.docker import DEFAULT_IMAGE, DockerSandbox

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
