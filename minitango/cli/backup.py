"""`minitango backup` and `minitango restore`: a queue while it is used, kept elsewhere; and a queue from that."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from minitango.backup import backup as make_backup
from minitango.backup import restore as make_queue
from minitango.cli.interrupts import whole_or_told
from minitango.cli.migrate import how_far, tell_of_left
from minitango.cli.options import ANY_PATH, state_options
from minitango.cli.settings import Settings, settled
from minitango.cli.streams import as_called, out, tell
from minitango.job import State
from minitango.moving import Place
from minitango.text import plural


def place_of(settings: Settings) -> Place:
    """Where the queue of these settings is."""
    return Place.of(settings.store, settings.state, settings.blobs)


def counted(counts: Mapping[State, int]) -> str:
    """Jobs by state, in words."""
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "none"


@click.command(short_help="Copy the queue with its files, while it is used, to a new folder or .tar.")
@click.argument("dest", type=ANY_PATH)
@state_options
def backup(dest: Path, **where: object) -> int:
    """Copy the queue with its files to DEST, a new folder, or a new file where it ends in .tar.

    Safe beside a running engine, which does not wait. DEST is there whole and verified, or not at all.
    """
    settings = settled(**where)
    settings.tell_which()
    before = os.path.lexists(dest)
    with whole_or_told(lambda: _how_far(dest, before)):
        label = make_backup(place_of(settings), dest.absolute())
    jobs = plural(sum(label.jobs.values()), "job")
    out(f"{dest}: {jobs} ({counted(label.jobs)}), {plural(label.blobs, 'file')}")
    return 0


def _how_far(dest: Path, before: bool) -> str:
    """What an interrupted backup comes to; `before`: whether something was there before it."""
    if not before and os.path.lexists(dest):
        return f"{dest} is there, and whole, all the same"
    return f"no backup was made, {dest} is as it was; the same command begins anew"


@click.command(short_help="Make a queue of a backup, where none is.")
@click.argument("src", type=ANY_PATH)
@state_options
def restore(src: Path, **where: object) -> int:
    """Make a queue of the backup SRC, a folder or a .tar, at --state or --store, where there is none.

    Every file is verified. Jobs that ran when the backup was made are graded again.
    """
    settings = settled(**where)
    settings.check_meant("restore")
    place = place_of(settings)
    with whole_or_told(lambda: how_far(place)):
        moved = make_queue(src.absolute(), place)
    out(f"{plural(moved.jobs, 'job')} and {plural(moved.blobs, 'file')} restored to {place}")
    tell_of_left(moved)
    tell(as_called(f"next: minitango jobs{place.flags}; then minitango worker{place.flags}"))
    return 0
