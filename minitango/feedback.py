"""What a student may see of a result, and a page of it. Pure: values in, values and text out.

As with Gradescope, a score is withheld together with the tests: beside the points of the tests that are shown, it would
tell those of the others.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from minitango.job import Job, Outcome, Result, State, StepOutput, TestResult
from minitango.text import for_markdown, human_size, markdown_block

VISIBLE: Final = "visible"
_HANDED_IN: Final = "Handed in: "
_PAGE: Final = re.compile(rf"# [^\n]*\n\n## [^\n]*\n\n{_HANDED_IN}")

_WHY: Final = {
    Outcome.NO_SCORE: "the grader could give no score",
    Outcome.TIME_LIMIT: "it took longer than it may",
    Outcome.MEMORY_LIMIT: "it used more memory than it may",
    Outcome.OUTPUT_LIMIT: "it printed more than it may",
}


def student_view(result: Result) -> Result:
    """The result without anything that its student may not see, whatever the report says elsewhere.

    Tests that are not visible now (`hidden`, `after_due_date`, `after_published`) are gone with their names, outputs
    and points, and the score with them; a report that is not visible as a whole shows no more than tests that are, by
    their own word. Gone in any case: what is for the course or for us (`extra_data`, tags, steps, warnings, reasons,
    sandbox, image). What a step printed may be shown where `stdout_visibility` of the answer is `visible`, and nowhere
    else.
    """
    whole = result.visibility == VISIBLE
    tests = tuple(_shown(test) for test in result.tests if test.visibility == VISIBLE)
    told = whole and len(tests) == len(result.tests)
    return Result(
        outcome=result.outcome,
        score=result.score if told else None,
        max_score=result.max_score if told else None,
        trust=result.trust,
        reason=_WHY.get(result.outcome, ""),
        tests=tests,
        feedback=result.feedback if whole else "",
        feedback_format=result.feedback_format if whole else "text",
        visibility=result.visibility,
        stdout_visibility=VISIBLE if whole and result.stdout_visibility == VISIBLE else "hidden",
        leaderboard=result.leaderboard if told else (),
        usage=result.usage,
    )


def _shown(test: TestResult) -> TestResult:
    return TestResult(
        name=test.name,
        number=test.number,
        score=test.score,
        max_score=test.max_score,
        status=test.status,
        output=test.output,
        output_format=test.output_format,
        name_format=test.name_format,
    )


class HandIn(Struct, frozen=True):
    """One job of a student, with what was recorded of it."""

    job: Job
    result: Result | None = None
    outputs: Sequence[StepOutput] = ()


def page(student: str, handins: Sequence[HandIn]) -> str:
    """A student's feedback as Markdown: what `student_view` leaves, and of a job that could not be graded that it was
    not. Texts of graders and programs are shown as they are, never as markup."""
    lines = [f"# {for_markdown(student)}"]
    for handin in handins:
        lines += ["", *_section(handin)]
    return "\n".join(lines) + "\n"


def is_page(text: str) -> bool:
    """Whether this is what `page` wrote, by its first lines."""
    return _PAGE.match(text) is not None


def _section(handin: HandIn) -> list[str]:
    job = handin.job
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(job.submitted))
    name = job.title.replace("\\", "/").rstrip("/").rpartition("/")[2]  # where it lay on our disk is nobody's business
    lines = [f"## {for_markdown(job.assignment)}", "", f"{_HANDED_IN}{for_markdown(name) or 'yes'}, {when}", ""]
    if job.state is not State.DONE or handin.result is None:
        waiting = not job.state.terminal
        return [*lines, "It waits to be graded." if waiting else "It is not graded, for no fault of yours."]
    view = student_view(handin.result)
    lines.append(_verdict(view))
    for test in view.tests:
        lines += ["", *_test(test)]
    if view.feedback.strip():
        lines += ["", "### Feedback", "", markdown_block(view.feedback)]
    if view.stdout_visibility == VISIBLE:
        for output in handin.outputs:
            lines += _output(output)
    return lines


def _verdict(view: Result) -> str:
    if view.outcome is not Outcome.GRADED:
        return f"**No score**: {view.reason}."
    if view.score is None:
        return "Graded. The score is not shown, as there are tests that are not."
    return f"**Score: {_points(view.score, view.max_score)}**"


def _test(test: TestResult) -> list[str]:
    parts = [test.status] if test.status else []
    parts += [_points(test.score, test.max_score)] if test.score is not None else []
    title = " ".join(filter(None, (test.number, test.name))) or "test"
    lines = [f"### {for_markdown(title)}" + (f" ({', '.join(map(for_markdown, parts))})" if parts else "")]
    return [*lines, "", markdown_block(test.output)] if test.output.strip() else lines


def _output(output: StepOutput) -> list[str]:
    if not output.head:
        return []
    lines = ["", f"### What it printed ({for_markdown(output.step)})", "", markdown_block(output.head)]
    if output.elided:
        lines += ["", f"{human_size(output.elided)} left out", ""]
    return [*lines, "", markdown_block(output.tail)] if output.tail else lines


def _points(score: float, most: float | None) -> str:
    return f"{score:.10g} of {most:.10g}" if most is not None else f"{score:.10g}"
