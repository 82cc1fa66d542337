"""What an assignment is made of, as values: what is handed in, a step, a sample."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field, structs

from minitango.job import Limits, Outcome


class SubmissionRule(Struct, frozen=True):
    """What is handed in, and where it lands in the working directory of a step that sees it."""

    path: str = ""
    """A file's path (`hello.c`): the hand-in becomes this file, or holds it. A folder's, with a `/` at its end, or
    nothing, which is the working directory itself: the hand-in's files go there under their own names."""
    name: str = ""
    """What a hand-in of one file is called, whatever its own name; where `path` is a folder, or nothing."""
    max_size: int = 10 << 20
    """Bytes, unpacked."""
    max_files: int = 500


class Step(Struct, frozen=True):
    """One command in one fresh sandbox. Lists are taken for tuples."""

    command: tuple[str, ...]
    name: str = ""
    """`[a-z0-9_-]+`. By default `grade` for an only step, `run` and `grade` for two, else `step1`, `step2`, ..."""
    image: str = ""
    """A container image's name (`gcc:14`); or a folder with a Dockerfile, relative to the assignment's: `docker/`,
    `./docker`. Empty: the sandbox's own choice."""
    files: tuple[str, ...] = ()
    """The instructor's files, relative to the assignment's folder. `grader/`: the content of that folder goes into the
    working directory. `grader` or `tests/*.json`: what is named goes there under its own path."""
    submission: bool = True
    """Whether this step sees the submission."""
    guarded: bool = False
    """Whether it has student code run while it grades, each time in a sandbox beside its own (`minitango-student`).
    Only the last step; it never has the submission in its working directory, so that `submission` is False."""
    student: Limits | None = None
    """What that code may use each time; None: as much as the step itself."""
    root: bool = False
    """Whether it is root inside of its container, which it takes to change users while it grades. Only on Docker."""
    collect: tuple[str, ...] = ()
    """Patterns of files in the working directory that later steps get to see."""
    network: Literal["none", "open"] = "none"
    limits: Limits = Limits()
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("command", "files", "collect"):
            if isinstance(getattr(self, name), list):
                structs.force_setattr(self, name, tuple(getattr(self, name)))
        if self.guarded is True:
            structs.force_setattr(self, "submission", False)


class Sample(Struct, frozen=True):
    """A hand-in whose grade is known: what `minitango check` holds the assignment to."""

    path: str
    """Relative to the assignment's folder."""
    name: str = ""
    """For people; by default the path."""
    score: float | None = None
    """Expected score; then the expected outcome is `graded`."""
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        if not self.name:
            structs.force_setattr(self, "name", self.path)
        if self.score is not None and self.outcome is None:
            structs.force_setattr(self, "outcome", Outcome.GRADED)
