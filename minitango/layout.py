"""Where a step finds things in its box, and what it is told of it.

| place | what | who may write |
|---|---|---|
| /job | the working directory: the submission, if the step sees it, and the assignment's `files` over it | the step |
| /submission | the submission as it came, if the step sees it: MINITANGO_SUBMISSION | nobody |
| /collected | what earlier steps left, one folder a step: MINITANGO_COLLECTED | nobody |
| /report | last step only, where its report goes: MINITANGO_REPORT, if its format has a file for it | the step |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from minitango.archive import File
from minitango.assignment import Plan
from minitango.job import Limits
from minitango.results import MAX_REPORT, report_files
from minitango.sandbox import BoxSpec, Bundle, Mount

WORK: Final = "/job"
SUBMISSION: Final = "/submission"
COLLECTED: Final = "/collected"
REPORT: Final = "/report"


def box_spec(
    plan: Plan, number: int, *, image: str, token: str, bundle: Bundle | None = None, limits: Limits | None = None
) -> BoxSpec:
    """The box of step `number`. `image` is what `Sandbox.prepare` gave for the step's; `bundle` has the assignment's
    files for it; `limits` instead of its own."""
    step = plan.steps[number]
    mounts = [Mount(WORK, writable=True)]
    if step.submission:
        mounts.append(Mount(SUBMISSION))
    if number > 0:
        mounts.append(Mount(COLLECTED))
    if number == len(plan.steps) - 1:
        mounts.append(Mount(REPORT, writable=True, size=2 * MAX_REPORT))
    return BoxSpec(
        mounts=tuple(mounts),
        workdir=WORK,
        limits=limits or step.limits,
        network=step.network,
        image=image,
        bundle=bundle,
        token=token,
    )


def environment(plan: Plan, number: int) -> dict[str, str]:
    """What step `number` finds in its environment, besides what every box has."""
    step = plan.steps[number]
    env = dict(step.env)
    if step.submission:
        env["MINITANGO_SUBMISSION"] = SUBMISSION
    if number > 0:
        env["MINITANGO_COLLECTED"] = COLLECTED
    if number == len(plan.steps) - 1 and (name := report_files(plan.format).name):
        env["MINITANGO_REPORT"] = f"{REPORT}/{name}"
    return env


def without_clashes(theirs: Iterable[File], own: Iterable[File]) -> tuple[list[File], list[str]]:
    """The submission's files that can stand beside the assignment's, and the paths of those that give way."""
    files: set[str] = set()
    folders: set[str] = set()
    for file in own:
        files.add(file.path)
        folders.update(_parents(file.path))
    kept: list[File] = []
    gone: list[str] = []
    for file in theirs:
        path = file.path
        clash = path in files or path in folders or any(parent in files for parent in _parents(path))
        if clash:
            gone.append(path)
        else:
            kept.append(file)
    return kept, gone


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
