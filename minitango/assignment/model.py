"""An assignment as a value, the same whether it came from a file or was built in code."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field, structs

from minitango.assignment.checks import check
from minitango.assignment.parts import Sample, Step, SubmissionRule
from minitango.assignment.places import NOWHERE, Places
from minitango.assignment.plan import PackCache, Packed, holds
from minitango.blobs import BlobStore
from minitango.job import Trust

if TYPE_CHECKING:
    from minitango.assignment.autograders import Wish


class Assignment(Struct, frozen=True, dict=True):
    """How to grade. `validate` says what is wrong with it; `load` and `pack` call it.

    Steps without a name get their default one. `root` is the folder that `Step.files` and `Sample.path` are
    relative to.
    """

    name: str
    steps: tuple[Step, ...]
    format: str = "gradescope"
    """What the last step reports in: one of `job.FORMATS`."""
    max_score: float | None = None
    """None: the report decides."""
    bonus: bool = False
    """Whether a score may be above the maximum."""
    submission: SubmissionRule = SubmissionRule()
    samples: tuple[Sample, ...] = ()
    root: Path = Path()
    layout: str = ""
    """Whose autograder it is, unmodified: one of `job.LAYOUTS`. Then the one step's files are that autograder's."""
    autograder: str = ""
    """The folder or archive with that autograder, relative to `root`; empty: `root` itself."""
    setup: bool = True
    """Whether that autograder's set-up script has to be run, if it has one."""
    needs: tuple[str, ...] = ()
    """What a node must offer to grade it (`Engine.open(capabilities=...)`): any labels, such as gpu."""
    problems: dict[str, float] = field(default_factory=dict)
    """Autolab's: each problem and its maximum. Empty: those that the report names."""

    def __post_init__(self) -> None:
        steps = list(self.steps)
        names = {1: ["grade"], 2: ["run", "grade"]}.get(len(steps), [f"step{n + 1}" for n in range(len(steps))])
        for n, step in enumerate(steps):
            if not step.name:
                steps[n] = structs.replace(step, name=names[n])
        structs.force_setattr(self, "steps", tuple(steps))
        structs.force_setattr(self, "samples", tuple(self.samples))
        structs.force_setattr(self, "needs", tuple(self.needs))
        structs.force_setattr(self, "root", Path(self.root))

    @cached_property
    def _places(self) -> Places:
        """Where each key is in the file that it was loaded from, which puts its own here."""
        return NOWHERE

    @cached_property
    def _packed(self) -> PackCache:
        return PackCache()

    @cached_property
    def taken(self) -> tuple[str, ...]:
        """For people: what another platform's autograder was taken for, and what was taken from where."""
        return ()

    @cached_property
    def _wish(self) -> Wish | None:
        """What `load` was told about the autograder of another platform, which puts it here."""
        return None

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, image: str = "", setup: bool = True) -> Assignment:
        """Read an `assignment.toml`, or that of a folder. AssignmentError names the file, the key and the line.

        Or adopt an unmodified autograder of Autolab, Gradescope or PrairieLearn: a folder or an archive without an
        `assignment.toml`; `taken` then says what it was taken for. `image` stands in for the one that it asks for;
        without `setup` its set-up script counts as done.
        """
        from minitango.assignment.loading import load

        return load(Path(path), image=image, setup=setup)

    def validate(self, places: Places = NOWHERE) -> None:
        """AssignmentError for the first thing that is wrong; `places` says where in a file it was written."""
        check(self, places)

    @property
    def trust(self) -> Trust:
        """Guarded: the step that reports is. Separated: it does not see the submission, and one before it does; but not
        with `autolab`, where the score is a line that is printed, as what the submission left may be, too."""
        *earlier, last = self.steps
        if last.guarded:
            return Trust.GUARDED
        separated = not last.submission and any(step.submission for step in earlier) and self.format != "autolab"
        return Trust.SEPARATED if separated else Trust.SHARED

    def holds(self, path: Path) -> bool:
        """Whether this file or folder is among those that `pack` takes: every sandbox of this assignment has it.

        What is in an autograder's archive is not looked at. AssignmentError where `files` names what is not there.
        """
        return holds(self, path)

    def pack(self, blobs: BlobStore) -> Packed:
        """Put all that grading needs of this assignment into blobs: durable once a job that names them is, and
        spared by a prune for its grace.

        Files are read again only when one of them changed on disk, so this is cheap to call for each submission.
        AssignmentError: the assignment is not valid, or its files cannot be read. StoreError, StoreFull.
        """
        return self._packed.pack(self, blobs)
