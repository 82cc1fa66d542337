"""Durations as people write them: `30d`, `12h`, `2w`."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import click

from minitango.errors import ConfigError
from minitango.keeping import kept_for

_UNITS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_AGE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(s|min|h|d|w)")


def age(text: str) -> float:
    """A duration such as `30d` in seconds. click.BadParameter for what is none."""
    found = _AGE.fullmatch(text.strip())
    if found is not None:
        return float(found[1]) * _UNITS[found[2]]
    if re.fullmatch(r"[0-9.]+ ?[mM]", text):
        raise click.BadParameter(f"{text!r} may be minutes or months: write 30min or 180d")
    raise click.BadParameter(f"{text!r} is no duration: write one such as 30d, 12h or 2w")


def keep(text: Any, place: str = "keep") -> float | None:
    """The setting `keep` in seconds; None: it is not set. `place` is where it stands: a flag, a variable, a file.
    ConfigError `keep`."""
    if not text:
        return None
    if text == "forever":
        return math.inf
    written = {"--": "--keep 180d, or --keep forever", "MI": "MINITANGO_KEEP=180d, or forever"}
    hint = written.get(place[:2], 'keep = "180d", or keep = "forever"')
    try:
        return kept_for(age(text), shared=False)
    except click.BadParameter as error:
        raise ConfigError(f"{place}: {error.message}", hint=hint, id="keep") from error
    except ConfigError as error:
        text = f"{place}: {text!r} is too short: jobs that ended are kept for an hour at least"
        raise ConfigError(text, hint=hint, id="keep") from error
