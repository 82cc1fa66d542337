"""The assignment that a command names, by its own name or by another."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from minitango.assignment import Assignment, Step
from minitango.cli.streams import tell
from minitango.errors import AssignmentError, ConfigError
from minitango.text import one_line


def load(path: Path, *, image: str, no_setup: bool, called: str | None = None) -> Assignment:
    """The assignment there, by another name if it is to be `called` so; where it is another platform's autograder, say
    what it is taken for. ConfigError: it cannot be called so."""
    assignment = Assignment.load(path, image=image, setup=not no_setup)
    if called is not None:
        check_name(called, hint="give another --name")
        assignment = _renamed(assignment, called)
    if assignment.taken:
        first, *more = assignment.taken
        tell(one_line(f"{first}: {'; '.join(more)}" if more else first, 1000))
    return assignment


def check_name(name: str, *, hint: str) -> None:
    """ConfigError where an assignment cannot be called this."""
    try:
        Assignment(name, steps=(Step(command=("true",)),)).validate()
    except AssignmentError as error:
        raise ConfigError(
            f"{one_line(name, 60)!r} cannot be an assignment's name: {error.message.removeprefix('name: ')}",
            hint=hint,
            id="usage",
        ) from error


def _renamed(assignment: Assignment, name: str) -> Assignment:
    """The same by another name, with what is known of where it was loaded from."""
    made = structs.replace(assignment, name=name)
    vars(made).update((key, value) for key, value in vars(assignment).items() if key != "_packed")
    return made
