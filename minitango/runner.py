"""Runner: a lease in, what became of it out. Step by step, each in a sandbox of its own. Knows nothing of queues.

Whose fault a thing is gets decided here, once: a student's (an outcome), the assignment's (Fail, not retried), or
ours (Fail, retried).
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import time
from collections.abc import Callable, Sequence

from msgspec import structs

from minitango import archive
from minitango.archive import File
from minitango.assignment import Plan, PlanStep
from minitango.blobs import BlobStore
from minitango.errors import (
    AssignmentError,
    BlobError,
    ConfigError,
    MinitangoError,
    SandboxFailed,
    SandboxUnavailable,
    StoreError,
    reach_of,
)
from minitango.job import (
    Ack,
    Cancelled,
    Fail,
    Failure,
    Finish,
    Lease,
    Notice,
    Outcome,
    Release,
    Result,
    StepOutput,
    StepReport,
    Usage,
)
from minitango.layout import COLLECTED, SUBMISSION, box_spec, environment, hand_in, is_handed_in, layout_of
from minitango.output import HeadTail
from minitango.preflight import TRANSIENT, Preflight, brought_by_submission, command_of, exec_hint
from minitango.remarks import notices, remark
from minitango.results import MAX_REPORT, Evidence, Report, reader, report_files
from minitango.sandbox import Box, Bundle, CollectBounds, Collected, End, Sandbox
from minitango.stopping import Stop
from minitango.text import human_seconds, human_size, one_line

log = logging.getLogger("minitango")

Sink = Callable[[str, bytes], None]
"""Called with a step's name and a piece of its output, as it comes."""


class _Ended(Exception):
    """Grading has an answer, whichever step it came from."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


class _Stopped(Exception):
    """The run was told to end."""


class _Attempt:
    """What one attempt has gathered so far."""

    def __init__(
        self, place: Sandbox, plan: Plan, images: Sequence[str], lease: Lease, stop: Stop, sink: Sink | None
    ) -> None:
        self.place = place
        self.plan = plan
        self.images = images
        self.lease = lease
        self.stop = stop
        self.sink = sink
        self.reports: list[StepReport] = []
        self.outputs: list[StepOutput] = []
        self.notices: list[Notice] = []
        self.collected: list[File] = []


class Runner:
    """Runs attempts in one sandbox kind. Safe to use from many threads at once."""

    def __init__(
        self,
        sandbox: Sandbox,
        blobs: BlobStore,
        *,
        on_image: Callable[[str, str], None] = lambda name, digest: None,
        tell: Callable[[str], None] = lambda text: None,
        grader: Callable[[str, Plan], tuple[str, ...]] = lambda spec, plan: (),
        on_box: Callable[[float], None] = lambda seconds: None,
        shared: bool = False,
    ) -> None:
        """`on_image` hears the name and the digest of each image that was prepared, `tell`, for people, on which of
        several engines an assignment cannot be graded, and `on_box` how long each step waited for its box, all from any
        thread; `grader` says what `Finish.grader` is to have of a plan and its digest. `shared`: other nodes grade the
        same queue, so that files that are not here may be there."""
        self._on_box = on_box
        self._shared = shared
        self._grader = grader
        self._sandbox = sandbox
        self._blobs = blobs
        self._plan = functools.lru_cache(maxsize=64)(self._load_plan)
        self._bundle = functools.lru_cache(maxsize=8)(self._load_bundle)
        self._preflight = Preflight(sandbox, plan=self._plan, bundle=self._bundle, on_image=on_image, tell=tell)

    def run(self, lease: Lease, *, stop: Stop, sink: Sink | None = None) -> Ack | None:
        """Grade what the lease names. Never raises for anything that a submission, an assignment or a sandbox does.

        None: the lease was lost, there is nothing to say. When this returns, no process of the attempt is left.
        """
        try:
            while True:
                fit = self._preflight.fit(lease.spec)
                with self._sandbox.seat(lambda: stop.why is None, among=fit) as place:
                    if place is None:
                        return self._stopped(lease, stop)
                    images = self._images(place, lease.spec, stop, others=len(fit) > 1)
                    if images is not None:
                        return self._run(place, images, lease, stop, sink)
        except _Stopped:
            return self._stopped(lease, stop)
        except SandboxUnavailable as error:
            if error.id == "sandbox_busy":
                return Release(lease)  # it has seen no sandbox, so that nothing speaks against either
            return Fail(lease, _failure(error), charge=False)
        except ConfigError as error:
            return Fail(lease, _failure(error), retry=False)
        except BlobError as error:
            # Of several nodes, it may be this one alone that does not see where they are.
            return Fail(lease, _failure(error), charge=not self._shared)
        except StoreError as error:  # what is to be graded is on a server that is away
            log.warning("job %s goes back: %s", lease.job, error)
            return Release(lease)
        except MinitangoError as error:
            if stop.why == "release":  # the sandbox may have been closed over it
                return Release(lease)
            return Fail(lease, _failure(error))
        except Exception as error:  # a mistake of ours must not take the engine down, nor be a student's zero
            log.exception("grading job %s went wrong in minitango itself", lease.job)
            text = f"{type(error).__name__}: {error}"
            return Fail(lease, Failure("internal", one_line(text, 500), "please report this as a bug"))

    @property
    def seats(self) -> int | None:
        """As `Sandbox.seats`."""
        return self._sandbox.seats

    def preflight(self, spec: str) -> None:
        """Make ready what an assignment needs, and find what is wrong with it, before a student's work is run: its
        images are pulled or built, and each step's command must be there.

        `spec` is the digest of its plan. AssignmentError says what is missing. Costs a box a step, once. Of several
        engines one is enough, and one that fails meanwhile is none.
        """
        left = len(self._sandbox.places)
        while True:
            fit = self._preflight.fit(spec)
            try:
                with self._sandbox.seat(among=fit) as place:
                    assert place is not None
                    if self._images(place, spec, Stop(), others=len(fit) > 1) is not None:
                        return
            except SandboxUnavailable as error:
                left -= 1
                if not left or not self._sandbox.seats or reach_of(error.id) != "sandbox":
                    raise

    def wall_limit(self, spec: str) -> float:
        """Seconds that an attempt may take by its steps' own limits; an hour where the plan cannot be read."""
        try:
            return sum(step.limits.wall for step in self._plan(spec).steps)
        except MinitangoError:
            return 3600.0

    # --- one attempt --------------------------------------------------------------------------

    def _images(self, place: Sandbox, spec: str, stop: Stop, *, others: bool) -> tuple[str, ...] | None:
        """What the preflight there gives; None where the plan cannot be graded in this place, and there are others."""
        try:
            images = self._preflight.images(place, spec, stop)
        except (ConfigError, SandboxUnavailable) as error:
            of_the_engine = isinstance(error, SandboxUnavailable) and reach_of(error.id) == "sandbox"
            if of_the_engine or not others:
                raise
            self._preflight.avoid(place, spec, error)
            return None
        if images is None:
            raise _Stopped
        return images

    def _run(self, place: Sandbox, images: Sequence[str], lease: Lease, stop: Stop, sink: Sink | None) -> Finish:
        """Grade it there, from the first step to the last."""
        try:
            stop.begin()
            attempt = _Attempt(place, self._plan(lease.spec), images, lease, stop, sink)
            result = self._grade(attempt)
        except SandboxUnavailable as error:
            if error.id == "sandbox_image_gone":
                self._preflight.forget(place, lease.spec)
            raise
        except _Stopped:
            if stop.why in (None, "overdue"):
                raise SandboxFailed("the sandbox did not end in time and was killed", id="sandbox_overdue") from None
            raise
        return Finish(lease, result, tuple(attempt.outputs), self._grader(lease.spec, attempt.plan))

    def _grade(self, attempt: _Attempt) -> Result:
        plan = attempt.plan
        submission = archive.unpack(self._blobs.get(attempt.lease.inputs))
        report = Report(None)
        outcome = Outcome.NO_SCORE
        try:
            for number, step in enumerate(plan.steps):
                end, left = self._run_step(attempt, number, step, submission)
                if number == len(plan.steps) - 1:
                    report = self._read_report(attempt, end, left)
                    outcome = Outcome.NO_SCORE if report.score is None else Outcome.GRADED
        except _Ended as ended:
            outcome, report = ended.outcome, Report(None, reason=ended.reason)
        most = report.max_score if report.max_score is not None else plan.max_score
        return Result(
            outcome=outcome,
            score=report.score,
            max_score=most,
            trust=plan.trust,
            reason=remark(report, most, attempt.reports, attempt.outputs),
            tests=report.tests,
            feedback=report.feedback,
            feedback_format=report.feedback_format,
            visibility=report.visibility,
            stdout_visibility=report.stdout_visibility,
            leaderboard=report.leaderboard,
            extra_data=report.extra_data,
            warnings=(*attempt.notices, *report.warnings),
            steps=tuple(attempt.reports),
            usage=_total(attempt.reports),
            sandbox=self._sandbox.name,
            image_digest=attempt.images[-1],
        )

    def _run_step(
        self, attempt: _Attempt, number: int, step: PlanStep, submission: Sequence[File]
    ) -> tuple[End, Collected]:
        """Run one step and take what it left. Raises _Ended where the job ends here."""
        plan, stop = attempt.plan, attempt.stop
        last = number == len(plan.steps) - 1
        if stop.why is not None:
            raise _Stopped
        image = attempt.images[number]
        own = self._bundle(step.bundle) if step.bundle else ()
        layout = layout_of(plan)
        bundle = Bundle(layout.work, step.bundle, own) if step.bundle else None
        begun = time.monotonic()
        box = attempt.place.open(box_spec(plan, number, image=image, bundle=bundle, token=attempt.lease.token))
        try:
            self._on_box(time.monotonic() - begun)
            stop.attach(box)
            self._fill(attempt, box, number, step, submission, own)
            kept = HeadTail()
            command = command_of(attempt.place, step, image)
            end = box.run(command, env=environment(plan, number), output=_tee(kept, step.name, attempt.sink))
            stop.attach(None)
            if end.cancelled or stop.why is not None:
                raise _Stopped
            attempt.outputs.append(kept.output(step.name))
            wanted, left = step.collect, Collected()
            if last:
                asked, (mount, below) = report_files(plan.format), layout.report
                if asked.patterns:
                    bounds = CollectBounds(files=asked.most, bytes=MAX_REPORT, entries=asked.most + 1000)
                    left = box.collect(mount, [below + pattern for pattern in asked.patterns], bounds)
            elif wanted and end.limit is None and end.exec_error is None:
                left = box.collect(layout.work, wanted)
        finally:
            stop.attach(None)
            box.close()
        attempt.reports.append(
            StepReport(
                step.name,
                exit_status=end.exit_status,
                signal=end.signal,
                limit=end.limit,
                usage=end.usage,
                output_bytes=end.output_bytes,
                refused=left.refused,
                image=step.image if image else "",
                image_digest=image,
            )
        )
        attempt.notices.extend(notices(step.name, end))
        self._judge(attempt.plan, step, end, image, submission, command[0])
        if not last:
            attempt.collected.extend(
                File(f"{step.name}/{file.path}", file.data, file.executable) for file in left.files
            )
            if left.refused:
                path, reason = left.refused[0]
                more = f" (and {len(left.refused) - 1} more)" if len(left.refused) > 1 else ""
                text = f"step {step.name!r} left files that were not taken: {one_line(path, 80)}: {reason}{more}"
                attempt.notices.append(Notice("refused_files", text))
            elif step.collect and not left.files:
                text = f"step {step.name!r} left nothing of what is collected: {', '.join(step.collect)}"
                attempt.notices.append(Notice("nothing_collected", text))
        return end, left

    def _fill(
        self,
        attempt: _Attempt,
        box: Box,
        number: int,
        step: PlanStep,
        submission: Sequence[File],
        own: Sequence[File],
    ) -> None:
        """Put in what differs from job to job; the assignment's `own` files are there."""
        layout = layout_of(attempt.plan)
        if step.submission:
            if layout.own_copy:
                box.put(SUBMISSION, submission)
            theirs, shadowed = hand_in(attempt.plan, attempt.lease, submission, own)
            box.put(layout.work, theirs)
            if shadowed:
                names = ", ".join(one_line(path, 60) for path in shadowed[:3])
                text = f"the hand-in's {names} gave way to the assignment's own file in step {step.name!r}"
                attempt.notices.append(Notice("shadowed_files", text))
        if number > 0:
            files = attempt.collected
            if number == len(attempt.plan.steps) - 1 and not step.submission:
                # what a student's step left is read where the score is made, not run
                files = [File(file.path, file.data) for file in files]
            box.put(COLLECTED, files)

    def _judge(
        self, plan: Plan, step: PlanStep, end: End, image: str, submission: Sequence[File], program: str
    ) -> None:
        """Raise where this step's end is the job's end."""
        name, limits = step.name, step.limits
        if end.exec_error is not None:
            what = f"{program} in step {name!r} could not be executed: {os.strerror(end.exec_error)}"
            if end.exec_error in TRANSIENT:
                raise SandboxFailed(f"the command {what}", id="sandbox_exec")
            if brought_by_submission(step):
                absent = end.exec_error in (errno.ENOENT, errno.ENOTDIR)
                if absent and not is_handed_in(plan, submission, program):
                    neither = "neither the assignment's files nor the hand-in has it"
                    raise _Ended(Outcome.NO_SCORE, f"there is no {program}: {neither}")
                raise _Ended(Outcome.NO_SCORE, f"the hand-in's {what}")
            raise AssignmentError(
                f"the command {what}", key=f"step {name}.command", hint=exec_hint(end.exec_error, image), id="command"
            )
        if end.limit is None:
            return
        passed = {
            "wall": (Outcome.TIME_LIMIT, f"took longer than {human_seconds(limits.wall)}"),
            "cpu": (Outcome.TIME_LIMIT, f"used more than {human_seconds(limits.cpu or 0)} of CPU time"),
            "memory": (Outcome.MEMORY_LIMIT, f"used more than {human_size(limits.memory)} of memory"),
            "output": (Outcome.OUTPUT_LIMIT, f"printed more than {human_size(limits.output)}"),
        }
        outcome, text = passed[end.limit]
        raise _Ended(outcome, f"step {name!r} {text}")

    def _read_report(self, attempt: _Attempt, end: End, left: Collected) -> Report:
        if left.refused:
            path, reason = left.refused[0]
            return Report(None, reason=f"the report {one_line(path, 60)} was refused: {reason}")
        plan, output, asked = attempt.plan, attempt.outputs[-1], report_files(attempt.plan.format)
        below = layout_of(plan).report[1]
        for file in left.files:
            if not asked.fits(file.path.removeprefix(below)):
                folder = file.path.rpartition("/")[0]
                return Report(None, reason=f"the report {one_line(folder, 60)} was refused: it is a directory")
        evidence = Evidence(
            report=left.files[0].data if left.files and asked.most == 1 else None,
            reports=tuple((file.path, file.data) for file in left.files) if asked.most > 1 else (),
            exit_status=end.exit_status,
            signal=end.signal,
            output=output.head + output.tail,
            ending=output.tail if output.elided else output.head + output.tail,
            whole=not output.elided,
            problems=tuple(plan.problems.items()) if plan.problems else (),
            max_score=plan.max_score,
            bonus=plan.bonus,
        )
        report = reader(plan.format)(evidence)
        if not left.late:
            return report
        text = f"the report {one_line(left.late[0], 60)} was written to after the main process of its step had ended"
        return structs.replace(report, warnings=(*report.warnings, Notice("report_late", text)))

    def _stopped(self, lease: Lease, stop: Stop) -> Ack | None:
        match stop.why:
            case "cancel":
                return Cancelled(lease)
            case "release":
                return Release(lease)
            case _:  # lost
                return None

    # --- blobs --------------------------------------------------------------------------------

    def _load_plan(self, digest: str) -> Plan:
        return Plan.decode(self._blobs.get(digest))

    def _load_bundle(self, digest: str) -> tuple[File, ...]:
        return archive.unpack(self._blobs.get(digest))


def _tee(kept: HeadTail, step: str, sink: Sink | None) -> Callable[[bytes], None]:
    if sink is None:
        return kept.add

    def both(data: bytes) -> None:
        kept.add(data)
        sink(step, data)

    return both


def _failure(error: MinitangoError) -> Failure:
    return Failure(error.id, one_line(str(error), 1000), error.hint)


def _total(reports: Sequence[StepReport]) -> Usage:
    cpus = [r.usage.cpu for r in reports]
    peaks = [r.usage.memory for r in reports if r.usage.memory is not None]
    known = [cpu for cpu in cpus if cpu is not None]
    return Usage(
        wall=sum(r.usage.wall for r in reports),
        cpu=sum(known) if len(known) == len(cpus) else None,
        memory=max(peaks, default=None),
    )
