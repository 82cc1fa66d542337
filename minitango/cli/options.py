"""The options that several commands have, and what a path is to them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from minitango.cli.numbers import between
from minitango.cli.settings import DEFAULT_STATE, MAX_WORKERS

F = TypeVar("F", bound=Callable[..., Any])


class _AnyPath(click.Path):
    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):  # pathlib would take it for the current folder
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


ANY_PATH: Final = _AnyPath(path_type=Path, readable=False)
"""What it is, and whether it can be read, those say who read it."""


def state_options(command: F) -> F:
    """--store, --state and --blobs."""
    state = click.option("--state", metavar="DIR", help=f"Where queue, files and lock are (default {DEFAULT_STATE}/).")
    store = click.option(
        "--store", metavar="URL", help="The queue: sqlite:///course/queue.db, redis://HOST?queue=NAME."
    )
    blobs = click.option(
        "--blobs", metavar="DIR", help="A folder that all nodes share, for files (default: the queue)."
    )
    return store(state(blobs(command)))


def grading_options(command: F) -> F:
    """--sandbox, --image, --workers, --capability and --require."""
    count = between(1, MAX_WORKERS)
    workers = click.option("--workers", callback=count, metavar="N", help="Jobs at once (default: one a core).")
    sandbox = click.option("--sandbox", metavar="NAME", help="auto (default), docker, docker+URL[,...] or bubblewrap.")
    text = "What this machine offers to assignments that need it, such as gpu,large; repeatable."
    capability = click.option("--capability", "capabilities", multiple=True, metavar="LABEL", help=text)
    text = "Refuse a sandbox that does not hold this limit: memory, pids, cpu, disk, network; repeatable."
    require = click.option("--require", multiple=True, metavar="LIMIT", help=text)
    return sandbox(image_option(workers(capability(require(command)))))


def callback_options(command: F) -> F:
    """--callback-allow."""
    text = "Callbacks may go to this host, wherever it is, and to any port there; repeatable."
    return click.option("--callback-allow", multiple=True, metavar="HOST", help=text)(command)


def image_option(command: F) -> F:
    """--image."""
    text = "The container image of steps that name none, or instead of the one that an autograder names."
    return click.option("--image", metavar="NAME", help=text)(command)


def setup_option(command: F) -> F:
    """--no-setup, where an assignment may be another platform's autograder."""
    text = "Take an autograder's setup.sh for done: this machine, or --image, has what it would install."
    return click.option("--no-setup", is_flag=True, help=text)(command)
