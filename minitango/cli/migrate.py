"""`minitango migrate`: a whole queue from one store to another."""

from __future__ import annotations

import click

from minitango.cli.interrupts import whole_or_told
from minitango.cli.streams import as_called, out, tell
from minitango.errors import StoreError
from minitango.moving import Moved, Place, standing
from minitango.moving import migrate as move
from minitango.text import one_line, plural


def tell_of_left(moved: Moved) -> None:
    """Say what was not carried."""
    if moved.left:
        named = ", ".join(repr(one_line(name, 80)) for name in moved.left)
        tell(f"warning: only the queue 'default' was carried; these stay where they were: {named}")


def how_far(to: Place) -> str:
    """What is there of a queue that was to be made, where that was interrupted."""
    try:
        found = standing(to)
    except StoreError as error:
        return f"whether {to} is whole cannot be told now ({error.message}); the same command says so, or begins anew"
    if found == "whole":
        return f"{to} is whole all the same; next: minitango jobs{to.flags}"
    if found == "half":
        return f"{to} is half filled, and nobody can use it before the same command has been through"
    return f"nothing was carried, {to} is as it was; the same command begins anew"


@click.command(short_help="Carry a whole queue from one store to another, where none is.")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--from-blobs", metavar="DIR", help="A folder in which nodes of FROM share files.")
@click.option("--to-blobs", metavar="DIR", help="A folder in which nodes of TO will share files.")
def migrate(source: str, target: str, from_blobs: str | None, to_blobs: str | None) -> int:
    """Carry the queue FROM to TO. Each is a state directory, or a URL as of --store. TO must have no jobs.

    Nobody may grade at either, and nothing may be submitted meanwhile. FROM stays as it is. Interrupted, or killed,
    the same command begins anew; TO cannot be used before it is whole.
    """
    to = Place.of(target, blobs=to_blobs)
    with whole_or_told(lambda: how_far(to)):
        moved = move(Place.of(source, blobs=from_blobs), to)
    out(f"{plural(moved.jobs, 'job')} and {plural(moved.blobs, 'file')} copied")
    tell_of_left(moved)
    tell(as_called(f"next: minitango jobs{to.flags}; use it everywhere, and keep FROM until you have seen it"))
    return 0
