"""Where jobs would run: the sandboxes that there are, the one that is taken, its images, what dead engines left, and
whether an assignment can be graded in it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import to_builtins

from minitango import archive, image_name, statedir
from minitango.assignment import Plan
from minitango.blobs import Blobs
from minitango.doctor import Check, Patient, canary
from minitango.errors import MinitangoError
from minitango.runner import Runner
from minitango.sandbox import LIMITS, Sandbox, Survey, Surveyed, kind_asked, open_sandbox, survey, weak
from minitango.sandbox.docker import DEFAULT_IMAGE
from minitango.text import one_line


def look(patient: Patient) -> Iterator[Check]:
    """Every kind of sandbox in a check of its own, then what they come to together."""
    last = statedir.sandbox_kind(patient.state)
    names = _images(patient)
    found = survey(
        patient.sandbox,
        state=patient.state,
        image=patient.image,
        last=last,
        images=names,
        require=patient.require,
        sweep=patient.fix,
    )
    kinds = {each.kind: each for each in sorted(found.kinds, key=lambda each: each.error is None)}
    asked = found.chosen or next((kind for kind in (kind_asked(patient.sandbox), last) if kind in kinds), "")
    for each in found.kinds:
        preferred = patient.sandbox == "auto" and not last and each.kind == "docker"
        spared = bool(each.engine) and each.kind == found.chosen  # the other engines go on without it
        yield _kind(each, needed=each.kind == asked, others=bool(found.chosen), preferred=preferred, spared=spared)
    yield _chosen(found, kinds, patient)
    if found.chosen:
        working = [each for each in found.kinds if each.kind == found.chosen and each.error is None]
        yield _images_there(working, [patient.image, *names])
    yield _orphans(found.kinds, patient)
    if patient.assignment is not None:
        yield _preflight(patient, found)
    if patient.canary:
        yield from canary.look(patient, found)


def _images(patient: Patient) -> list[str]:
    """The names of images that engines here used, and that the assignment names."""
    known = statedir.known_images(patient.state, "docker")
    steps = patient.assignment.steps if patient.assignment is not None else ()
    named = [step.image for step in steps]  # a folder's name is no image's
    return [name for name in dict.fromkeys([*known, *named]) if name and not image_name.problem(name)]


def _kind(found: Surveyed, *, needed: bool, others: bool, preferred: bool = False, spared: bool = False) -> Check:
    """One kind, or one of several engines. That it is not there is nothing bad where another is taken; but of one that
    is preferred, and is there and does not work, a person wants to know. `spared`: others of its kind work."""
    held, error = found.guarantees, found.error
    which = f"{found.engine}: " if found.engine else ""
    of = {"engine": found.engine, "slots": found.slots} if found.engine else {}
    if held is not None:
        limits = ", ".join(f"{name} {getattr(held, name)}" for name in LIMITS)
        loose = weak(held)
        slots = f", {found.slots} at once" if found.slots else ""
        text = f"{which}a box runs{slots}; limits held by: {limits}"
        facts = {"works": True, "limits": to_builtins(held), **of}
        if loose and needed:
            hint = held.notes[0] if held.notes else "see docs/sandboxes.md"
            return Check(found.kind, "warning", text, hint, held.notes[1:], facts)
        return Check(found.kind, "ok", text, notes=held.notes, facts=facts)
    assert error is not None
    facts = {"works": False, "error": error.id, "hint": error.hint, **of}
    if spared:
        return Check(found.kind, "warning", f"left alone, others go on: {error.message}", error.hint, facts=facts)
    if needed or not others:
        return Check(found.kind, "failed", error.message, error.hint, facts=facts)
    if preferred and error.id != "sandbox_gone":
        return Check(found.kind, "warning", f"not used: {error.message}", error.hint, facts=facts)
    return Check(found.kind, "ok", f"not usable, and not needed: {error.message}", facts=facts)


def _chosen(found: Survey, kinds: dict[str, Surveyed], patient: Patient) -> Check:
    facts = {"asked": patient.sandbox, "chosen": found.chosen, "why": found.why}
    if found.chosen:
        return Check("sandbox", "ok", f"{found.chosen} is taken: {found.why}", facts=facts)
    works = [each.kind for each in found.kinds if each.error is None]
    if works:
        hint = f"mend it as said above, or grade in the other from now on: --sandbox {works[0]}"
    else:
        errors = {kind: each.error for kind, each in kinds.items() if each.error is not None}
        hint = "; or ".join(f"for {kind}: {error.hint}" for kind, error in errors.items() if error.hint)
    return Check("sandbox", "failed", f"nothing can be graded here: {found.why}", hint, facts=facts)


def _images_there(engines: Sequence[Surveyed], names: Sequence[str]) -> Check:
    """The images of all engines that boxes go to."""
    first, *others = engines
    if first.kind != "docker":
        return Check("images", "ok", f"none needed: {first.kind} has the programs of this machine")
    there = {name or DEFAULT_IMAGE: first.images.get(name, "") for name in names}
    facts = {"images": there}
    for each in engines:
        missing = [name or DEFAULT_IMAGE for name in names if not each.images.get(name)]
        if missing:
            which = f"{each.engine}: " if each.engine else ""
            shown = ", ".join(one_line(name, 100) for name in missing)
            text = f"{which}not there yet: {shown}; a run pulls what it needs first"
            host = f"DOCKER_HOST={each.engine} " if "://" in each.engine else ""
            return Check("images", "warning", text, f"{host}docker pull {missing[0]}", facts=facts)
    for each in others:
        other = next((name for name in names if each.images.get(name) != first.images.get(name)), None)
        if other is not None:
            name = other or DEFAULT_IMAGE
            text = f"{one_line(name, 100)} is another image on {each.engine} than on {first.engine}: grades may differ"
            return Check("images", "warning", text, f"docker pull {name}, on each of them", facts=facts)
    shown = ", ".join(
        f"{one_line(name, 100)} ({digest.removeprefix('sha256:')[:12]})" for name, digest in there.items()
    )
    return Check("images", "ok", f"there: {shown}", facts=facts)


def _orphans(kinds: Sequence[Surveyed], patient: Patient) -> Check:
    boxes, swept = sum(each.orphans for each in kinds), sum(each.swept for each in kinds)
    states = statedir.abandoned()
    facts = {
        kind: {
            "left": sum(each.orphans for each in kinds if each.kind == kind),
            "swept": sum(each.swept for each in kinds if each.kind == kind),
        }
        for kind in dict.fromkeys(each.kind for each in kinds)
    }
    facts["check"] = {"left": len(states), "swept": len(states) if patient.fix else 0}
    if patient.fix:
        for state in states:
            statedir.discard(state)
    if swept or (patient.fix and states):
        text = f"removed {_left(swept, len(states))} that dead engines left"
        return Check("orphans", "ok", text, facts=facts)
    if boxes or states:
        after = "the next engine that starts here" if boxes else "the next check"
        hint = f"minitango doctor --fix{patient.flags} removes them, and so does {after}"
        return Check("orphans", "warning", f"{_left(boxes, len(states))} that dead engines left", hint, facts=facts)
    return Check("orphans", "ok", "nothing is left of dead engines", facts=facts)


def _left(boxes: int, states: int) -> str:
    counts = ((boxes, "box", "boxes"), (states, "state of a check", "states of checks"))
    return " and ".join(f"{count} {one if count == 1 else several}" for count, one, several in counts if count)


def _preflight(patient: Patient, found: Survey) -> Check:
    """Whether the assignment's commands are there. What would have to be fetched or built is, where `fix` is."""
    assert patient.assignment is not None
    name = one_line(patient.assignment.name, 80)
    if not found.chosen:
        return Check("assignment", "failed", f"{name} cannot be tried without a sandbox", "see above")
    wanted = found.name or found.chosen
    try:
        with tempfile.TemporaryDirectory(prefix="minitango-doctor-") as private:
            blobs = Blobs(Path(private) / "blobs")
            packed = patient.assignment.pack(blobs)
            sandbox = open_sandbox(wanted, state=private, image=patient.image)
            try:
                absent = "" if patient.fix else _absent(sandbox, packed.plan, blobs)
                if absent:
                    text = f"{name} was not tried: {one_line(absent, 100)} would have to be pulled or built first"
                    return Check("assignment", "warning", text, "the same command with --fix does so")
                Runner(sandbox, blobs).preflight(packed.digest)
            finally:
                sandbox.close()
    except MinitangoError as error:
        return Check("assignment", "failed", error.message, error.hint, facts={"error": error.id})
    return Check("assignment", "ok", f"{name} can be graded in {found.chosen}: its commands are there")


def _absent(sandbox: Sandbox, plan: Plan, blobs: Blobs) -> str:
    """The first image of the plan that a run would have to fetch or build; empty where there is none. One that is built
    from a folder is known by the folder's files, as they are now."""
    if not sandbox.default_image:
        return ""
    for step in plan.steps:
        folder = archive.unpack(blobs.get(step.image_files)) if step.image_files else ()
        if not sandbox.find_image(step.image, folder):
            return step.image or sandbox.default_image
    return ""
