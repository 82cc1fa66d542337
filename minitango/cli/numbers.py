"""Numbers on a command line, refused in words that say what would do."""

from __future__ import annotations

import math
from collections.abc import Callable

import click

Callback = Callable[[click.Context, click.Parameter, str | float | None], float | None]


def between(low: int, high: int | None = None, *, measures: str = "") -> Callback:
    """What makes an option's value a number from `low` to `high`, both included, or without a bound; a whole one unless
    it `measures` something of which there are fractions, such as seconds. The callback raises click.BadParameter."""
    what = f"a number of {measures}" if measures else "a whole number"
    bounds = f"from {low}" + ("" if high is None else f" to {high}")

    def convert(context: click.Context, option: click.Parameter, value: str | float | None) -> float | None:
        if value is None:
            return None
        try:
            number = float(value) if measures else int(value)
        except ValueError:
            number = math.nan
        if not (low <= number <= (math.inf if high is None else high)):
            raise click.BadParameter(f"{value!r} is not {what} {bounds}")
        return number

    return convert
