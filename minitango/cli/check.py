"""`minitango check`: is the assignment right? Its samples are graded and held to what they should get."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import click
from msgspec import Struct, structs

from minitango import statedir
from minitango.assignment import Assignment, Sample, Submission
from minitango.cli import details, show, verdict
from minitango.cli.files import check_writable, write_whole
from minitango.cli.grading import Batch, nobody_called, tell_of_limits
from minitango.cli.interrupts import terminated_like_ctrl_c
from minitango.cli.loading import load
from minitango.cli.options import ANY_PATH, grading_options, setup_option
from minitango.cli.progress import progress
from minitango.cli.records import Expected, SampleRecord, Samples
from minitango.cli.settings import Settings, settled
from minitango.cli.show import Seen
from minitango.cli.streams import as_called, out, tell
from minitango.errors import NothingToGrade
from minitango.job import Outcome, State, Trust
from minitango.store import History
from minitango.text import for_junit, for_terminal, one_line, plural

MISSED = 1
NOT_GRADED = 4
_JUNIT: Final = "--junit FILE"


class Checked(Struct, frozen=True):
    """One sample, what became of it, and in words what is wrong; `wrong` and `output` are empty where it held."""

    assignment: Assignment
    sample: Sample
    seen: Seen
    wrong: str
    output: str
    """What tells why: tests that failed, and the end of what each step printed."""
    calls: int = 0
    """How often a guarded step had student code run."""


@click.command(short_help="Grade an assignment's samples and hold them to what is expected.")
@click.argument("assignments", nargs=-1, required=True, type=ANY_PATH, metavar="ASSIGNMENT...")
@click.option("--junit", metavar="FILE", type=ANY_PATH, help="Write the verdicts as JUnit XML, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("-v", "--verbose", is_flag=True, help="Say which limits hold here, and how.")
@setup_option
@grading_options
def check(
    assignments: tuple[Path, ...],
    junit: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    no_setup: bool,
    **where: object,
) -> int:
    """Grade the samples of each ASSIGNMENT and hold them to the score or outcome that assignment.toml expects.

    For CI: exits 1 if one misses. Uses a temporary state of its own: nothing is kept, nothing is reused.
    """
    settings = settled(**where)
    loaded = [load(path, image=settings.image, no_setup=no_setup) for path in assignments]
    for assignment, path in zip(loaded, assignments, strict=True):
        if not assignment.samples:
            raise NothingToGrade(
                f"{path} has no samples",
                hint="add [[sample]] with a path and a score or outcome to its assignment.toml",
            )
        settings.check_served(assignment)
    if junit is not None:
        check_writable(junit, _JUNIT, id="junit")  # better to hear it now
    for left in statedir.abandoned():
        statedir.discard(left)
    with tempfile.TemporaryDirectory(prefix=statedir.PRIVATE) as state:
        private = structs.replace(settings, store=state, state=None, blobs=None, flags="", by_store=False).of(loaded)
        checked = _grade(private, loaded, quiet=quiet, verbose=verbose)
    if junit is not None:
        write_whole(junit, _junit(checked), _JUNIT, private=False, id="junit")
    if as_json:
        show.print_json(Samples(samples=tuple(map(_record, checked))))
    else:
        out(_table(checked))
    if not quiet:
        for line in _advice(loaded, checked):
            tell(line)
    if any(each.seen.job.state is not State.DONE for each in checked):
        return NOT_GRADED
    return MISSED if any(each.wrong for each in checked) else 0


def _grade(settings: Settings, assignments: Sequence[Assignment], *, quiet: bool, verbose: bool) -> list[Checked]:
    cases = [(assignment, sample) for assignment in assignments for sample in assignment.samples]
    submissions = [
        Submission(
            assignment, student=verdict.title(sample), files=assignment.root / sample.path, labels={"sample": str(n)}
        )
        for n, (assignment, sample) in enumerate(cases)
    ]
    with terminated_like_ctrl_c():
        batch = Batch(settings, temporary=True, quiet=quiet)
        interrupted = True
        try:
            if verbose:
                tell_of_limits(batch.engine)
            for assignment in assignments:
                batch.preflight(assignment)
            handles = [batch.engine.submit(submission, fresh=True) for submission in submissions]
            with progress(len(handles), "samples", quiet=quiet) as shown:
                jobs = batch.wait(handles, shown)
            checked = [
                _held(assignment, sample, seen, batch.engine.store)
                for (assignment, sample), seen in zip(cases, jobs, strict=True)
            ]
            interrupted = False
        finally:
            batch.close(interrupted=interrupted)
    return checked


def _held(assignment: Assignment, sample: Sample, seen: Seen, store: History) -> Checked:
    """The sample, held to what is expected. What it printed is read now: its state is gone in a moment."""
    wrong = _wrong(sample, seen)
    result = store.result(seen.job.id) if wrong or assignment.trust is Trust.GUARDED else None
    calls = sum(step.calls for step in result.steps) if result is not None else 0
    lines = details.why(result, store.outputs(seen.job.id)) if wrong and result is not None else []
    if wrong and result is None and seen.job.failure is not None:
        lines = [f"next: {as_called(seen.job.failure.hint)}"] if seen.job.failure.hint else []
    return Checked(assignment, sample, seen, wrong, for_terminal("\n".join(lines)), calls)


def _advice(assignments: Sequence[Assignment], checked: Sequence[Checked]) -> list[str]:
    """What would make these grades harder to forge."""
    lines = []
    for assignment in assignments:
        name = one_line(assignment.name, 60)
        if assignment.trust is Trust.SHARED and not assignment.steps[-1].submission:
            lines.append(
                f"{name}: trust: shared: the last line that is printed has the scores, and what a hand-in left may be "
                'printed, too; a report is out of its reach: format = "gradescope" or "junit" (docs/trust.md)'
            )
        elif assignment.trust is Trust.SHARED and not assignment.layout:
            lines.append(
                f"{name}: trust: shared: a hand-in can read its tests and forge its score; two steps keep both out of "
                "its reach, and for unit tests a guarded one (docs/trust.md)"
            )
        done = [each for each in checked if each.assignment is assignment and each.seen.job.state is State.DONE]
        if assignment.trust is Trust.GUARDED and done and not any(each.calls for each in done):
            lines.append(nobody_called(assignment, "sample"))
    return lines


def _wrong(sample: Sample, seen: Seen) -> str:
    job = seen.job
    if job.state is not State.DONE:
        return f"could not be graded: {show.note(seen)}"
    return verdict.wrong(sample, outcome=job.outcome, score=job.score, reason=job.reason)


def _table(checked: Sequence[Checked]) -> str:
    rows = []
    for each in checked:
        job = each.seen.job
        got = show.score(job.score, None) if job.outcome is Outcome.GRADED else show.outcome(job)
        word = "MISSED" if each.wrong else "ok"
        note = each.wrong or show.note(each.seen)
        rows.append([each.assignment.name, verdict.title(each.sample), verdict.expected(each.sample), got, word, note])
    head = ["assignment", "sample", "expected", "got", "verdict", "note"]
    text = show.table(head, rows, fixed=("expected", "got", "verdict"))
    for each in checked:
        if each.wrong:
            name = f"{one_line(each.assignment.name, 60)}, {one_line(verdict.title(each.sample), 60)}"
            text += f"\n\n{name}: {one_line(each.wrong, 300)}"
            text += "".join(f"\n  {line}" for line in each.output.splitlines())
    missed = sum(bool(each.wrong) for each in checked)
    return f"{text}\n\n{plural(len(checked), 'sample')}: {len(checked) - missed} as expected, {missed} missed."


def _record(each: Checked) -> SampleRecord:
    sample = each.sample
    return SampleRecord(
        **structs.asdict(show.record(each.seen)),
        sample=verdict.title(sample),
        expected=Expected(sample.score, sample.outcome),
        ok=not each.wrong,
        wrong=each.wrong,
        output=each.output,
    )


def _junit(checked: Sequence[Checked]) -> bytes:
    """One suite an assignment, one case a sample. A sample that could not be graded is an error, not a failure."""
    root = ET.Element("testsuites")
    suites: dict[str, ET.Element] = {}
    for each in checked:
        name = each.assignment.name
        if name not in suites:
            suites[name] = ET.SubElement(root, "testsuite", name=for_junit(name))
        case = ET.SubElement(
            suites[name],
            "testcase",
            classname=for_junit(name),
            name=for_junit(verdict.title(each.sample)),
            time=f"{each.seen.job.wall or 0:.3f}",
        )
        if each.wrong:
            kind = "failure" if each.seen.job.state is State.DONE else "error"
            ET.SubElement(case, kind, message=for_junit(each.wrong)).text = for_junit(each.output)
    for suite in suites.values():
        suite.set("tests", str(len(suite)))
        suite.set("failures", str(len(suite.findall("testcase/failure"))))
        suite.set("errors", str(len(suite.findall("testcase/error"))))
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"
