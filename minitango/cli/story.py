"""One job's whole story: what happened when, how each step went, where its inputs are, what to do next."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct, UnsetType, structs

from minitango import archive, statedir
from minitango.assignment import Plan, PlanStep
from minitango.cli import details, doubts, show
from minitango.cli.handins import origin
from minitango.cli.records import CallbackRecord, Event, FileRecord, InputsRecord, StepRecord, StoryRecord
from minitango.cli.show import Seen
from minitango.cli.streams import as_called
from minitango.engine import Engine
from minitango.errors import MinitangoError
from minitango.job import Attempt, Delivery, Job, Outcome, Result, State, StepOutput, StepReport, serves
from minitango.store import Callback
from minitango.text import for_terminal, human_seconds, human_size, one_line, plural

MOST_TESTS: Final = 20
"""Tests that are shown where not all are asked for."""
_MOST_FILES: Final = 8
_ANEW: Final = 0.01
"""Seconds after its end from which on a callback was asked for by somebody, and is not due to the end itself."""
_ENDS: Final = {
    "finish": "graded",
    "fail": "failed",
    "release": "was put back, as the engine stopped",
    "recover": "was interrupted: the engine died",
    "reap": "was interrupted: the engine was not heard of any more",
    "cancelled": "was cancelled",
}
_OF_THE_MACHINE: Final = ("sandbox_", "image_", "docker_", "store", "blob")
"""How ids of failures begin that `doctor` looks into."""


class Inputs(Struct, frozen=True):
    """What was handed in, as it is kept."""

    path: str
    files: tuple[tuple[str, int], ...] = ()
    """Path and size of each."""
    trouble: str = ""


class Story(Struct, frozen=True):
    """All that is known of one job."""

    job: Job
    result: Result | None
    attempts: Sequence[Attempt]
    outputs: Sequence[StepOutput]
    plan: Plan | None
    """None where it cannot be read any more."""
    inputs: Inputs
    callback: Callback | None
    events: tuple[Event, ...]
    next: tuple[str, ...]
    """What to do, in words with a command in them."""


def of(engine: Engine, job: Job, flags: str) -> Story:
    """The story of a job; `flags` are what a command needs to name this queue."""
    store = engine.store
    result, attempts, outputs = store.result(job.id), store.attempts(job.id), store.outputs(job.id)
    try:
        plan = Plan.decode(engine.blobs.get(job.spec))
    except MinitangoError:
        plan = None
    events = tuple(_events(job, attempts, store.now()))
    alone = not job.state.terminal and not is_graded(engine, job.lane if job.state is State.QUEUED else "")
    following = tuple(_next(job, result, outputs, flags, alone=alone))
    callback = store.callback(job.id)
    return Story(job, result, attempts, outputs, plan, _inputs(engine, job), callback, events, following)


def is_graded(engine: Engine, lane: str = "") -> bool:
    """Whether an engine grades this queue now, and jobs of this lane."""
    if not engine.store.shared:
        there = statedir.running(engine.state) is not None
        return there and (not lane or any(serves(node.capabilities, lane) for node in engine.store.nodes()))
    now = engine.store.now()
    return any(now - node.seen < node.good_for and serves(node.capabilities, lane) for node in engine.store.nodes())


def _inputs(engine: Engine, job: Job) -> Inputs:
    path = str(engine.blobs.path(job.inputs))
    try:
        files = archive.unpack(engine.blobs.get(job.inputs))
    except MinitangoError as error:
        return Inputs(path, trouble=str(error))
    return Inputs(path, tuple((file.path, len(file.data)) for file in files))


def _events(job: Job, attempts: Sequence[Attempt], now: float) -> Iterator[Event]:
    """In the order in which they happened."""
    yield Event(job.submitted, "submitted", "submitted")
    since = job.submitted
    for attempt in attempts:
        waited = max(0.0, attempt.started - since)
        how = "queued for" if attempt is attempts[0] else "waited to be tried again for"
        text = f"attempt {attempt.number} on {one_line(attempt.node, 60)} begins, {how} {human_seconds(waited)}"
        yield Event(attempt.started, "began", text, waited)
        if attempt.ended is None:
            ran = max(0.0, now - attempt.started)
            yield Event(now, "now", f"attempt {attempt.number} is running for {human_seconds(ran)}", ran)
            return
        ran = max(0.0, attempt.ended - attempt.started)
        ended = _ENDS.get(attempt.ended_by or "", one_line(attempt.ended_by or "ended", 40))
        text = f"attempt {attempt.number} {ended}, ran {human_seconds(ran)}"
        yield Event(attempt.ended, "ended", text, ran, attempt.failure)
        since = attempt.ended
    if job.state is State.QUEUED:
        waited = max(0.0, now - since)
        yield Event(now, "now", f"waits for {human_seconds(waited)}", waited)
        if job.due is not None:
            yield Event(job.due, "due", "to be tried again", max(0.0, job.due - now))
    elif job.ended is not None and not attempts:
        waited = max(0.0, job.ended - since)
        why = f": {one_line(job.reason, 300)}" if job.reason else ""
        yield Event(job.ended, "cancelled", f"{job.state}, queued for {human_seconds(waited)}{why}", waited)


def _next(job: Job, result: Result | None, outputs: Sequence[StepOutput], flags: str, *, alone: bool) -> Iterator[str]:
    logs = f"minitango jobs logs {job.id}{flags}"
    if job.state is State.DEAD:
        failure = job.failure
        if failure is not None and failure.id.startswith(_OF_THE_MACHINE):
            yield f"next: look what is the matter here: minitango doctor{flags}"
        hint = f" ({failure.hint})" if failure and failure.hint else ""
        yield f"next: mend the cause{hint}, then: minitango jobs retry {job.id}{flags}"
    elif job.state is State.CANCELLED:
        yield f"next: to grade it by the assignment as it was then: minitango jobs retry {job.id}{flags}"
    elif alone:
        needs = f" --capability {job.lane}" if job.lane else ""
        who = f"no engine that offers {job.lane} runs here" if needs else "no engine runs here"
        yield f"next: {who}: minitango worker{flags}{needs}"
    elif not job.state.terminal:
        yield f"next: minitango jobs logs -f {job.id}{flags}"
    if job.delivery is Delivery.UNDELIVERED:
        yield f"next: its result was not delivered: minitango jobs redeliver {job.id}{flags}"
    if job.state is State.DONE and any(output.head for output in outputs):
        yield f"its output: {logs}"
    if result is not None and not _full(result):
        place = origin(job)
        samples = f"or, where it has samples: {doubts.on_samples(place)}"
        yield f"is it the grader? On a solution of your own: {doubts.on_your_own(place, flags)} ({samples})"


def _full(result: Result) -> bool:
    """Whether nobody will ask why."""
    if result.outcome is not Outcome.GRADED or result.score is None:
        return False
    return result.max_score is None or result.score >= result.max_score


# --- in words ---------------------------------------------------------------------------------


def lines(told: Story, *, all_tests: bool = False) -> list[str]:
    """The story for people. `all_tests`: also those that passed, each with its output."""
    job, result = told.job, told.result
    seen = Seen(job, result.warnings if result is not None else ())
    student = one_line(job.student, 80)
    text = [f"job {job.id}: {one_line(job.assignment, 80)}, {student} ({one_line(job.title, 80)})"]
    verdict = show.outcome(job)
    if job.score is not None:
        verdict += f", {show.score(job.score, job.max_score)}"
    text.append(f"{verdict}{f': {one_line(show.note(seen), 300)}' if show.note(seen) else ''}")
    text += ["", "what happened", *(f"  {line}" for event in told.events for line in _event(event))]
    if result is not None:
        text += ["", "steps", *(f"  {line}" for line in _steps(told, result))]
        if result.tests:
            text += ["", "tests", *(f"  {line}" for line in _tests(result, all_tests=all_tests))]
        if result.feedback:
            text += ["", "feedback", *(f"  {line}" for line in for_terminal(result.feedback).splitlines())]
    place = origin(job)
    text += ["", *_kept(told), *([f"its assignment: {one_line(str(place), 300)}"] if place is not None else [])]
    text += _callback(told)
    text += [as_called(line) for line in told.next]
    return text


def _at(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _event(event: Event) -> list[str]:
    line = f"{_at(event.at)}  {event.text}"
    failure = event.failure
    if failure is None:
        return [line]
    hint = [f"{'':21}next: {one_line(as_called(failure.hint), 300)}"] if failure.hint else []
    return [f"{line}: error[{failure.id}]: {one_line(failure.message, 300)}", *hint]


def _steps(told: Story, result: Result) -> list[str]:
    planned = _planned(told.plan)
    text = []
    for report in result.steps:
        step = planned.get(report.name)
        text.append(details.step(report, step.limits if step is not None else None))
        if step is not None:
            text.append(f"  command: {one_line(shlex.join(step.command) or 'what its image runs by itself', 200)}")
            text += _student_code(step, report)
        text += [f"  not taken: {one_line(path, 80)}: {one_line(why, 200)}" for path, why in report.refused[:5]]
    seen = Seen(told.job, result.warnings)
    text += [one_line(show.warning(notice, seen), 400) for notice in result.warnings]
    image = f"; image: {one_line(result.image_digest, 100)}" if result.image_digest else ""
    return [*text, f"trust: {result.trust}; sandbox: {one_line(result.sandbox, 40)}{image}"]


def _student_code(step: PlanStep, report: StepReport) -> list[str]:
    """What a guarded step's student code may use each time, or that there was none."""
    if isinstance(step.student, UnsetType):
        return []
    if not report.calls:
        return ["  student code: no call; a grader that runs the hand-in by itself runs it beside the tests"]
    limits = step.student
    return [f"  student code: each call at most {human_seconds(limits.wall)} and {human_size(limits.memory)}"]


def _planned(plan: Plan | None) -> dict[str, PlanStep]:
    return {step.name: step for step in plan.steps} if plan is not None else {}


def _tests(result: Result, *, all_tests: bool) -> list[str]:
    """Those that failed first."""
    failed = [test for test in result.tests if details.lost(test)]
    others = [test for test in result.tests if not details.lost(test)]
    if all_tests:
        return [line for test in (*failed, *others) for line in details.test(test)]
    shown = failed[:MOST_TESTS]
    quiet = others[: MOST_TESTS - len(shown)]
    text = [line for test in shown for line in details.test(test)]
    text += [details.test(test)[0] for test in quiet]
    more = len(result.tests) - len(shown) - len(quiet)
    silent = any(test.output for test in quiet)
    if more:
        text.append(f"... and {plural(more, 'test')} more: --all-tests shows all")
    elif silent:
        text.append("... --all-tests shows what the others say")
    return text


def _kept(told: Story) -> list[str]:
    inputs = told.inputs
    if inputs.trouble:
        return [f"its hand-in cannot be read: {one_line(inputs.trouble, 300)}"]
    names = ", ".join(one_line(path, 60) for path, _ in inputs.files[:_MOST_FILES])
    more = f" and {len(inputs.files) - _MOST_FILES} more" if len(inputs.files) > _MOST_FILES else ""
    size = human_size(sum(size for _, size in inputs.files))
    count = plural(len(inputs.files), "file")
    return [f"its hand-in: {count}, {size} ({names}{more}), packed in {one_line(inputs.path, 300)}"]


def _callback(told: Story) -> list[str]:
    """What became of the callback. Where it goes is shown whole: it is the operator who looks."""
    job, found = told.job, told.callback
    if not job.callback:
        return []
    place = one_line(job.callback, 300)
    if found is None:
        return [f"its callback: {place}, when it has ended"]
    tries = plural(found.tries, "try")
    anew = job.ended is not None and found.since - job.ended > _ANEW
    if anew:  # those before that are not counted
        tries += f" since it was asked for anew at {_at(found.since)}"
    error = f": {one_line(found.error, 300)}" if found.error else ""
    if found.delivery is Delivery.DELIVERED and found.settled is not None:
        return [f"its callback: delivered to {place} at {_at(found.settled)}, after {tries}"]
    if found.delivery is Delivery.UNDELIVERED and found.settled is not None:
        return [f"its callback: NOT DELIVERED to {place}, given up at {_at(found.settled)} after {tries}{error}"]
    soon = "is being tried" if found.trying else f"due at {_at(found.due)}" if found.due is not None else "due"
    return [f"its callback: to be delivered to {place}, {soon}; {tries}{'' if anew else ' so far'}{error}"]


# --- in JSON ----------------------------------------------------------------------------------


def record(told: Story) -> StoryRecord:
    """The same for programs: what `jobs list` has of a job, the result whole, and the rest of the story."""
    result, planned = told.result, _planned(told.plan)
    steps = []
    for report in result.steps if result is not None else ():
        step = planned.get(report.name)
        limits = step.limits if step is not None else None
        near = tuple(each.what for each in details.used(report, limits) if each.near)
        steps.append(StepRecord(report.name, step.command if step is not None else None, limits, near))
    return StoryRecord(
        **structs.asdict(show.record(Seen(told.job, result.warnings if result is not None else ()))),
        result=result,
        history=tuple(told.attempts),
        timeline=told.events,
        callback=_callback_record(told),
        steps=tuple(steps),
        inputs=InputsRecord(
            told.inputs.path, tuple(FileRecord(path, size) for path, size in told.inputs.files), told.inputs.trouble
        ),
        origin=str(origin(told.job) or ""),
        next=tuple(as_called(line) for line in told.next),
    )


def _callback_record(told: Story) -> CallbackRecord | None:
    found = told.callback
    if found is None:
        return CallbackRecord(told.job.callback, None, 0, None, None, "") if told.job.callback else None
    return CallbackRecord(found.url, found.delivery, found.tries, found.due, found.settled, found.error)
