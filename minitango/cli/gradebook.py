"""Jobs as a gradebook: which of them count, and as CSV, JSON or JUnit XML. Values in, bytes out.

A job that could not be graded has no score anywhere here, and never a 0.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final
from xml.etree import ElementTree as ET

from msgspec import Struct, structs

from minitango.cli import show
from minitango.cli.records import GradeRecord, Grades
from minitango.cli.show import Seen
from minitango.group import members
from minitango.job import Job, Outcome, Result, State
from minitango.text import for_csv, for_junit

COLUMNS: Final = (
    "student", "assignment", "course", "title", "state", "outcome", "score", "max_score", "percent", "trust", "reason",
    "warnings", "submitted", "ended", "wall", "cpu", "memory", "attempts", "sandbox", "image_digest", "id",
    "signs",
)  # fmt: skip


class Entry(Struct, frozen=True):
    """One job, with the result that it has if it is done."""

    job: Job
    result: Result | None = None

    @property
    def seen(self) -> Seen:
        return Seen(self.job, self.result.warnings if self.result is not None else ())

    @property
    def percent(self) -> float | None:
        """Of the maximum; None where there is no score, or nothing to earn."""
        score, most = self.job.score, self.job.max_score
        return round(100 * score / most, 2) if score is not None and most else None


class Latest(Struct, frozen=True):
    """Of each student and assignment one job: what a gradebook holds."""

    jobs: tuple[Job, ...]
    overtaken: tuple[Job, ...]
    """Newer ones that do not count as they have no result: waiting, dead or cancelled."""


def latest(jobs: Iterable[Job]) -> Latest:
    """Of each student and assignment the job of what was handed in last of that which was graded; where nothing was, of
    what was handed in last, so that nobody is missing. Of a retried one the latest. In order of submission.
    """
    newest: dict[tuple[str, str, str], Job] = {}
    graded: dict[tuple[str, str, str], Job] = {}
    for job in sorted(jobs, key=lambda job: (job.turn, job.seq)):
        key = job.course, job.assignment, job.student
        newest[key] = job
        if job.state is State.DONE:
            graded[key] = job
    chosen = sorted((graded.get(key, job) for key, job in newest.items()), key=lambda job: job.seq)
    overtaken = [job for key, job in newest.items() if key in graded and graded[key] is not job]
    return Latest(tuple(chosen), tuple(overtaken))


def of_everybody(jobs: Iterable[Job]) -> list[Job]:
    """The jobs; one that several handed in together stands there for each of them, in that one's name."""
    return [
        job if member == job.student else structs.replace(job, student=member)
        for job in jobs
        for member in members(job.labels, job.student)
    ]


def iso(when: float | None) -> str:
    """A time as ISO 8601 has it, in UTC; empty for none."""
    return "" if when is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


def as_csv(entries: Sequence[Entry], *, excel: bool = False) -> bytes:
    """RFC 4180 in UTF-8, a row an entry below one of names. `excel`: with the mark by which Excel knows UTF-8."""
    lines = [",".join(COLUMNS), *(",".join(_row(entry)) for entry in entries)]
    return ("\ufeff" if excel else "").encode() + "".join(f"{line}\r\n" for line in lines).encode("utf-8", "replace")


def _row(entry: Entry) -> list[str]:
    job, result = entry.job, entry.result
    usage = result.usage if result is not None else None
    cells: list[str | float | None] = [
        job.student, job.assignment, job.course, job.title, str(job.state), job.outcome, job.score, job.max_score,
        entry.percent, job.trust, job.failure.message if job.failure else job.reason,
        "; ".join(f"{notice.id}: {notice.message}" for notice in result.warnings) if result is not None else "",
        iso(job.submitted), iso(job.ended), _rounded(job.wall), _rounded(usage.cpu if usage else None),
        usage.memory if usage else None, job.attempt, result.sandbox if result is not None else "",
        result.image_digest if result is not None else "", job.id,
        " ".join(show.record(entry.seen).signs),
    ]  # fmt: skip
    return [_cell(cell) for cell in cells]


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    return for_csv(value) if isinstance(value, str) else f"{value:.10g}" if isinstance(value, float) else str(value)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def as_json(entries: Sequence[Entry]) -> bytes:
    """One document; each job as in `jobs show --json`, with what a gradebook needs besides."""
    return show.encode(Grades(jobs=tuple(map(_record, entries)))).encode() + b"\n"


def _record(entry: Entry) -> GradeRecord:
    result = entry.result
    return GradeRecord(
        **structs.asdict(show.record(entry.seen)),
        course=entry.job.course,
        percent=entry.percent,
        cpu=result.usage.cpu if result is not None else None,
        memory=result.usage.memory if result is not None else None,
        sandbox=result.sandbox if result is not None else "",
        image_digest=result.image_digest if result is not None else "",
    )


def as_junit(entries: Sequence[Entry]) -> bytes:
    """A suite an assignment, a case a student. A low score is no failure: that is an outcome without a score. What we
    could not grade is an error, and what waits is skipped. Scores are properties."""
    root = ET.Element("testsuites")
    suites: dict[str, ET.Element] = {}
    for entry in entries:
        job = entry.job
        name = for_junit(job.assignment)
        suite = suites.get(name)
        if suite is None:
            suite = suites[name] = ET.SubElement(root, "testsuite", name=name)
        seconds = f"{job.wall or 0:.3f}"
        case = ET.SubElement(suite, "testcase", classname=name, name=for_junit(job.student), time=seconds)
        properties = ET.SubElement(case, "properties")
        for key, value in (("id", job.id), ("score", job.score), ("max_score", job.max_score), ("trust", job.trust)):
            if value is not None:
                ET.SubElement(properties, "property", name=key, value=_cell(value) if key != "id" else job.id)
        for sign in show.record(entry.seen).signs:
            ET.SubElement(properties, "property", name="sign", value=sign)
        _verdict(case, entry)
        if entry.seen.warnings:
            said = "\n".join(show.warning(notice, entry.seen) for notice in entry.seen.warnings)
            ET.SubElement(case, "system-out").text = for_junit(said)
    for suite in suites.values():
        for count, what in (("tests", "testcase"), ("failures", "*/failure"), ("errors", "*/error"),
                            ("skipped", "*/skipped")):  # fmt: skip
            suite.set(count, str(len(suite.findall(what))))
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _verdict(case: ET.Element, entry: Entry) -> None:
    job = entry.job
    note = for_junit(show.note(entry.seen))
    if not job.state.terminal:
        ET.SubElement(case, "skipped", message=str(job.state))
    elif job.state is not State.DONE:
        ET.SubElement(case, "error", type=job.failure.id if job.failure else str(job.state), message=note)
    elif job.outcome is not Outcome.GRADED:
        ET.SubElement(case, "failure", type=str(job.outcome), message=note)
