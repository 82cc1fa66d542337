"""Where a step finds things in its box, and what it is told of it.

Our own layout, and Autolab's, whose steps know no more than their working directory:

| place | what | who may write |
|---|---|---|
| /job | the working directory: the submission, if the step sees it, and the assignment's `files` over it | the step |
| /submission | the submission as it came, if the step sees it or is guarded: MINITANGO_SUBMISSION | nobody |
| /collected | what earlier steps left, one folder a step: MINITANGO_COLLECTED | nobody |
| /report | last step only, where its report goes: MINITANGO_REPORT, if its format has a file for it | the step |

A guarded step has nothing of the student's in /job, on PATH or on PYTHONPATH, and in /submission and /collected nothing
that could be executed. It finds minitango-student and its Python module below HELPER; what that runs is in a box of its
own, with the submission in /job and what earlier steps left in /collected, and nothing of the assignment's.

A step that is root (Docker alone) may write everywhere there: what nobody may write to are files of root's in memory.

Gradescope's: /autograder is the working directory, with source/, submission/, results/, submission_metadata.json and
run_autograder. PrairieLearn's: /grade, with tests/, student/, serverFilesCourse/ and data/data.json; the step makes
results/ itself. Both report in results/results.json.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from minitango.archive import File
from minitango.assignment import Plan
from minitango.assignment.autograders import autolab, gradescope, prairielearn
from minitango.job import Lease, Limits
from minitango.results import MAX_REPORT, report_files
from minitango.sandbox import HELPER, BoxSpec, Bundle, Mount

WORK: Final = "/job"
SUBMISSION: Final = "/submission"
COLLECTED: Final = "/collected"
REPORT: Final = "/report"


class Layout(Struct, frozen=True):
    """One of the layouts above."""

    work: str = WORK
    submission: str = ""
    """Where the hand-in is, below `work`; with a `/` at its end."""
    own_copy: bool = True
    """Whether it is there a second time, as it came."""
    report: tuple[str, str] = (REPORT, "")
    """The mount that reports are in, and the folder there; with a `/` at its end."""


_OURS: Final = Layout()
_OTHERS: Final = {
    "gradescope": Layout(gradescope.HOME, "submission/", False, (gradescope.HOME, "results/")),
    "prairielearn": Layout(prairielearn.HOME, "student/", False, (prairielearn.HOME, "results/")),
}


def layout_of(plan: Plan) -> Layout:
    """How the boxes of this plan look."""
    return _OTHERS.get(plan.layout or "", _OURS)


def box_spec(
    plan: Plan, number: int, *, image: str, token: str, bundle: Bundle | None = None, limits: Limits | None = None
) -> BoxSpec:
    """The box of step `number`. `image` is what `Sandbox.prepare` gave for the step's; `bundle` has the assignment's
    files for it; `limits` instead of its own."""
    step, layout = plan.steps[number], layout_of(plan)
    mounts = [Mount(layout.work, writable=True)]
    if (step.submission and layout.own_copy) or step.guarded:
        mounts.append(Mount(SUBMISSION))
    if number > 0:
        mounts.append(Mount(COLLECTED))
    if number == len(plan.steps) - 1 and layout.report[0] == REPORT:
        mounts.append(Mount(REPORT, writable=True, size=2 * MAX_REPORT))
    return BoxSpec(
        mounts=tuple(mounts),
        workdir=layout.work,
        limits=limits or step.limits,
        network=step.network,
        root=step.root is True,
        image=image,
        bundle=bundle,
        token=token,
        helper=step.guarded,
    )


def student_spec(plan: Plan, number: int, *, image: str, token: str) -> BoxSpec:
    """The box beside guarded step `number` in which student code runs: of the same image, and without a network."""
    limits = plan.steps[number].student
    assert limits
    mounts = [Mount(WORK, writable=True), *([Mount(COLLECTED)] if number > 0 else [])]
    return BoxSpec(mounts=tuple(mounts), workdir=WORK, limits=limits, image=image, token=token, helper=True)


def student_environment(number: int) -> dict[str, str]:
    """What student code beside step `number` finds in its environment, besides what every box has."""
    return {"MINITANGO_COLLECTED": COLLECTED} if number > 0 else {}


def environment(plan: Plan, number: int) -> dict[str, str]:
    """What step `number` finds in its environment, besides what every box has."""
    step = plan.steps[number]
    env = dict(step.env)
    if layout_of(plan) is not _OURS:
        return env
    if step.submission or step.guarded:
        env["MINITANGO_SUBMISSION"] = SUBMISSION
    if number > 0:
        env["MINITANGO_COLLECTED"] = COLLECTED
    if number == len(plan.steps) - 1 and (name := report_files(plan.format).name):
        env["MINITANGO_REPORT"] = f"{REPORT}/{name}"
    if step.guarded:
        for name, ours in (("PATH", f"{HELPER}/bin"), ("PYTHONPATH", f"{HELPER}/python")):
            if name in env:
                env[name] = f"{ours}:{env[name]}"
    return env


def hand_in(plan: Plan, lease: Lease, submission: Sequence[File], own: Iterable[File]) -> tuple[list[File], list[str]]:
    """What goes into the working directory of a step that sees the submission, besides the assignment's `own` files;
    and the paths of the submission's files that give way to those."""
    layout, own = layout_of(plan), list(own)
    theirs = [File(layout.submission + file.path, file.data, file.executable) for file in submission]
    if plan.layout == "gradescope":
        theirs += [
            File("submission_metadata.json", gradescope.metadata(plan.name, plan.max_score, lease)),
            File("results/stdout", b""),  # so that the folder is there, as Gradescope has it
            File(gradescope.HARNESS, b""),
        ]
    elif plan.layout == "autolab":
        # make would take another one before the lab's Makefile
        own = [*own, *(File(name, b"") for name in autolab.MAKEFILES)]
    elif plan.layout == "prairielearn":
        theirs.append(File("data/data.json", prairielearn.data(submission, own)))
    return without_clashes(theirs, own)


def is_handed_in(plan: Plan, submission: Iterable[File], program: str) -> bool:
    """Whether the hand-in has the file that this path means, seen from the working directory."""
    layout = layout_of(plan)
    path = posixpath.normpath(posixpath.join(layout.work, program))
    folders = [f"{layout.work}/{layout.submission}", *([f"{SUBMISSION}/"] if layout.own_copy else [])]
    return any(path == folder + file.path for file in submission for folder in folders)


def without_clashes(theirs: Iterable[File], own: Iterable[File]) -> tuple[list[File], list[str]]:
    """The submission's files that can stand beside the assignment's, and the paths of those that give way."""
    files: set[str] = set()
    folders: set[str] = set()
    for file in own:
        files.add(file.path)
        folders.update(parents(file.path))
    kept: list[File] = []
    gone: list[str] = []
    for file in theirs:
        path = file.path
        clash = path in files or path in folders or any(parent in files for parent in parents(path))
        if clash:
            gone.append(path)
        else:
            kept.append(file)
    return kept, gone


def parents(path: str) -> list[str]:
    """The folders that a path of a tree is in, the outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
