"""What a runner needs to know of an assignment, as blobs: fixed when a submission is taken."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType, field, structs

from minitango import archive, image_name
from minitango.archive import File
from minitango.assignment.checks import image_folder
from minitango.assignment.files import gather, named, sources
from minitango.assignment.guarded import check_files
from minitango.blobs import BlobStore
from minitango.errors import AssignmentError
from minitango.job import SCHEMA, Limits, Trust

if TYPE_CHECKING:
    from minitango.assignment.model import Assignment
    from minitango.assignment.parts import Step


PLAN_SCHEMA: Final = 2
"""The latest version of a plan. One that the first version can say is written as such: it keeps its digest."""


class PlanStep(Struct, frozen=True):
    """One step, its files as a bundle's digest."""

    name: str
    command: tuple[str, ...]
    """Empty: what its image runs by itself."""
    image: str = ""
    image_files: str | UnsetType = UNSET
    """Digest of the folder that `image` is, as `archive.pack` has it. Unset where it is a name: then it is not written,
    so that plans keep the digests that they had before there was this key."""
    bundle: str = ""
    """Digest of the instructor's files as `archive.pack` has them; empty: there are none."""
    submission: bool = True
    collect: tuple[str, ...] = ()
    network: Literal["none", "open"] = "none"
    limits: Limits = Limits()
    env: dict[str, str] = field(default_factory=dict)
    provided: bool = False
    """Whether the command's first word is one of the instructor's files."""
    setup: bool | UnsetType = UNSET
    """Whether the image has what a set-up script made, so that nothing else will do. Unset: it has not."""
    root: bool | UnsetType = UNSET
    """Whether it is root in its container. Unset: it is not."""
    student: Limits | UnsetType = UNSET
    """What student code may use each time that this step, which is guarded, has it run. Unset: it is not guarded."""

    @property
    def guarded(self) -> bool:
        """Whether student code is run beside it while it grades."""
        return self.student is not UNSET


class Plan(Struct, frozen=True):
    """An assignment as it was when a submission was taken. The same assignment always gives the same bytes."""

    name: str
    format: str
    max_score: float | None
    bonus: bool
    trust: Trust
    steps: tuple[PlanStep, ...]
    layout: str | UnsetType = UNSET
    """One of LAYOUTS; unset: our own."""
    problems: dict[str, float] | UnsetType = UNSET
    """Autolab's, with their maxima; unset: those that the report names."""
    schema: int = SCHEMA
    """That of a guarded plan is PLAN_SCHEMA, so that a minitango which does not know of that refuses it as too new."""

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def decode(cls, data: bytes) -> Plan:
        """The plan that `encode` wrote. AssignmentError: not one, or one of a later version."""
        try:
            if msgspec.json.decode(data, type=_Schema).schema > PLAN_SCHEMA:
                raise AssignmentError("this plan was written by a later minitango", hint="upgrade", id="plan_too_new")
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise AssignmentError(f"not a plan: {error}", hint="submit the work again", id="plan") from error


class _Schema(Struct):
    schema: int


class Packed(Struct, frozen=True):
    """An assignment in blobs."""

    plan: Plan
    digest: str
    """Of the plan's canonical JSON."""
    refs: tuple[str, ...]
    """The bundles that the plan names, each once."""


_Signature = tuple[tuple[str, int, int, int, int], ...]

_JUST_NOW: Final = 50_000_000
"""Nanoseconds in which a file may change twice without its time of change telling."""


class PackCache:
    """What an assignment was packed to, for each blob directory, while its files stay as they were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Path, tuple[_Signature, Packed]] = {}

    def pack(self, assignment: Assignment, blobs: BlobStore) -> Packed:
        """As `Assignment.pack`."""
        with self._lock:
            kept = self._kept.get(blobs.root)
            if kept and _signature(path for path, *_ in kept[0]) == kept[0]:
                packed = kept[1]
                if all(blobs.touch(digest) for digest in (packed.digest, *packed.refs)):
                    return packed
            self._kept.pop(blobs.root, None)
            assignment.validate(assignment._places)
            if assignment.holds(blobs.root):
                raise AssignmentError(
                    f"the state {blobs.root} lies among the assignment's own files: every sandbox would have all "
                    "hand-ins in it",
                    file=str(assignment.root),
                    hint="choose another --state DIR, outside of that folder",
                    id="not_apart",
                )
            # looked at before it is read: a change in between shows next time
            looked = time.time_ns()
            before = _signature(_sources(assignment))
            seen = time.time_ns()
            packed = _pack(assignment, blobs)
            if before is not None and not _is_fresh(before, looked, seen):
                self._kept[blobs.root] = before, packed
            return packed


def _sources(assignment: Assignment) -> list[str]:
    """Every file and folder that packing this assignment reads."""
    if assignment.layout:
        from minitango.assignment import adopting

        return [str(path) for path in adopting.again(assignment)[1]]
    return [
        str(path)
        for n, step in enumerate(assignment.steps)
        for key, entries in (("files", step.files), ("image", _image_folder(step)))
        for path in sources(assignment.root, entries, ("step", n, key), assignment._places)
    ]


def holds(assignment: Assignment, path: Path) -> bool:
    """See `Assignment.holds`."""
    real = Path(os.path.realpath(path))
    for place in map(os.path.realpath, _taken_whole(assignment)):
        if real.is_relative_to(place) and not archive.is_ignored(str(real.relative_to(place))):
            return True
    return False


def _taken_whole(assignment: Assignment) -> Iterator[Path]:
    """The files and folders that packing this assignment takes with all that is in them."""
    if assignment.layout:
        from minitango.assignment import autograders

        folder = autograders.whole(assignment.layout)
        if folder is not None:
            yield assignment.root / assignment.autograder / folder
        return
    for n, step in enumerate(assignment.steps):
        for key, entries in (("files", step.files), ("image", _image_folder(step))):
            yield from named(assignment.root, entries, ("step", n, key), assignment._places)


def _image_folder(step: Step) -> tuple[str, ...]:
    """What `gather` is to take of the folder that the step's image is; nothing where it is a name."""
    return (f"{image_folder(step.image)}/",) if image_name.is_folder(step.image) else ()


def _signature(paths: Iterable[str]) -> _Signature | None:
    """What tells that a file was changed; None if one is not there."""
    try:
        return tuple(
            (path, status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode)
            for path, status in ((path, os.stat(path)) for path in paths)  # noqa: PTH116 - twice as fast
        )
    except OSError:
        return None


def _is_fresh(signature: _Signature, looked: int, seen: int) -> bool:
    """Whether something in it had just been changed when it was looked at, from `looked` to `seen`: how long reading it
    took since is no matter."""
    return any(looked - _JUST_NOW < mtime < seen + _JUST_NOW for _, mtime, *_ in signature)


def _pack(assignment: Assignment, blobs: BlobStore) -> Packed:
    if assignment.layout:
        return _pack_adopted(assignment, blobs)
    rule = assignment.submission.path
    bundles: dict[str, bytes] = {}
    steps: list[PlanStep] = []
    for n, step in enumerate(assignment.steps):
        key = ("step", n, "files")
        files = archive.tree(gather(assignment.root, step.files, key, assignment._places))
        paths = {file.path for file in files}
        if step.submission and rule in paths:
            raise assignment._places.error(
                key,
                f"the assignment's own {rule!r} lands where the submission does: everybody would get its grade",
                "rename it, or take it out of files",
                "file_over_submission",
            )
        check_files(step, paths, key, assignment._places)
        image = gather(assignment.root, _image_folder(step), ("step", n, "image"), assignment._places)
        program = step.command[0]
        steps.append(
            PlanStep(
                name=step.name,
                command=step.command,
                image=step.image,
                image_files=_bundled(image, bundles) or UNSET,
                bundle=_bundled(files, bundles),
                submission=step.submission,
                collect=step.collect,
                network=step.network,
                limits=_canonical(step.limits),
                env=step.env,
                provided="/" in program and os.path.normpath(program) in paths,
                root=step.root or UNSET,
                student=_canonical(step.student or step.limits) if step.guarded else UNSET,
            )
        )
    return _put(_plan(assignment, steps), bundles, blobs)


def _pack_adopted(assignment: Assignment, blobs: BlobStore) -> Packed:
    """The same of another platform's autograder."""
    from minitango.assignment import adopting

    adopted, _ = adopting.again(assignment)
    (step,) = assignment.steps
    bundles: dict[str, bytes] = {}
    image_files = _bundled(adopted.image_files, bundles)
    program = adopted.command[0] if adopted.command else ""
    one = PlanStep(
        name=step.name,
        command=adopted.command,
        image=adopted.image,
        image_files=image_files or UNSET,
        bundle=_bundled(archive.tree(adopted.files), bundles),
        network=step.network,
        limits=_canonical(step.limits),
        env=step.env,
        provided="/" in program
        and os.path.normpath(program.removeprefix(f"{adopted.home}/")) in {file.path for file in adopted.files},
        setup=(adopted.layout == "gradescope" and bool(image_files)) or UNSET,
        root=step.root or UNSET,
    )
    plan = _plan(assignment, [one])
    plan = structs.replace(plan, layout=assignment.layout, problems=assignment.problems or UNSET)
    return _put(plan, bundles, blobs)


def _plan(assignment: Assignment, steps: Sequence[PlanStep]) -> Plan:
    return Plan(
        name=assignment.name,
        format=assignment.format,
        max_score=None if assignment.max_score is None else float(assignment.max_score),
        bonus=assignment.bonus,
        trust=assignment.trust,
        steps=tuple(steps),
        schema=PLAN_SCHEMA if any(step.guarded for step in steps) else SCHEMA,
    )


def _put(plan: Plan, bundles: dict[str, bytes], blobs: BlobStore) -> Packed:
    *refs, digest = blobs.put_many([*bundles.values(), plan.encode()], ahead=True)
    return Packed(plan, digest, tuple(refs))


def _bundled(files: Sequence[File], bundles: dict[str, bytes]) -> str:
    """The digest of a bundle of these files, which is put among the others; empty where there are none."""
    if not files:
        return ""
    bundle = archive.pack(files)
    digest = hashlib.sha256(bundle).hexdigest()
    bundles[digest] = bundle
    return digest


def _canonical(limits: Limits) -> Limits:
    """The same limits with whole seconds as floats: 5 and 5.0 are to give the same bytes."""
    cpu = None if limits.cpu is None else float(limits.cpu)
    return structs.replace(limits, wall=float(limits.wall), cpu=cpu, cpus=float(limits.cpus))
