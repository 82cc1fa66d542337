"""One attempt in one place, from its first step to its last: boxes are opened, filled, run, read and closed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from minitango import archive
from minitango.archive import File
from minitango.assignment import Plan, PlanStep
from minitango.blobs import BlobStore
from minitango.errors import SandboxFailed
from minitango.job import Lease, Notice, Outcome, Result, StepOutput, StepReport, Usage
from minitango.judging import Ended, judge, read_report
from minitango.layout import COLLECTED, SUBMISSION, box_spec, environment, hand_in, layout_of
from minitango.output import HeadTail
from minitango.preflight import command_of
from minitango.remarks import notices, remark
from minitango.results import MAX_REPORT, Report, report_files
from minitango.sandbox import Box, Bundle, CollectBounds, Collected, End, Sandbox
from minitango.stopping import Stop
from minitango.students import Habits, Students, Used
from minitango.text import one_line

Sink = Callable[[str, bytes], None]
"""Called with a step's name and a piece of its output, as it comes."""


class Stopped(Exception):
    """The run was told to end."""


class Attempt:
    """One attempt, and what it has gathered so far. `grade` once."""

    def __init__(
        self,
        place: Sandbox,
        plan: Plan,
        images: Sequence[str],
        lease: Lease,
        stop: Stop,
        *,
        sink: Sink | None = None,
        on_box: Callable[[float], None] = lambda seconds: None,
        habits: Habits,
    ) -> None:
        """`images`: what each step's was prepared to in `place`. `on_box` hears how long each step waited for its box;
        `habits` says how many calls guarded steps of the plan make, and learns it."""
        self._place = place
        self._plan = plan
        self._images = images
        self._lease = lease
        self._stop = stop
        self._sink = sink
        self._on_box = on_box
        self._habits = habits
        self._reports: list[StepReport] = []
        self._notices: list[Notice] = []
        self._collected: list[File] = []
        self._submission: tuple[File, ...] = ()
        self.outputs: list[StepOutput] = []
        """What each step printed that was run."""

    def grade(self, blobs: BlobStore, bundle: Callable[[str], tuple[File, ...]], sandbox: str) -> Result:
        """Every step, and what they come to; `sandbox` is the name that the result has. Stopped where it was told to
        end; also raises what is not the student's fault."""
        plan = self._plan
        self._submission = archive.unpack(blobs.get(self._lease.inputs))
        report = Report(None)
        outcome = Outcome.NO_SCORE
        try:
            for number, step in enumerate(plan.steps):
                own = bundle(step.bundle) if step.bundle else ()
                end, left = self._run_step(number, step, own)
                if number == len(plan.steps) - 1:
                    report = read_report(plan, end, left, self.outputs[-1])
                    outcome = Outcome.NO_SCORE if report.score is None else Outcome.GRADED
        except Ended as ended:
            outcome, report = ended.outcome, Report(None, reason=ended.reason)
        most = report.max_score if report.max_score is not None else plan.max_score
        return Result(
            outcome=outcome,
            score=report.score,
            max_score=most,
            trust=plan.trust,
            reason=remark(report, most, self._reports, self.outputs),
            tests=report.tests,
            feedback=report.feedback,
            feedback_format=report.feedback_format,
            visibility=report.visibility,
            stdout_visibility=report.stdout_visibility,
            leaderboard=report.leaderboard,
            extra_data=report.extra_data,
            warnings=(*self._notices, *report.warnings),
            steps=tuple(self._reports),
            usage=_total(self._reports),
            sandbox=sandbox,
            image_digest=self._images[-1],
        )

    def _run_step(self, number: int, step: PlanStep, own: Sequence[File]) -> tuple[End, Collected]:
        """Run one step and take what it left. Raises Ended where the job ends here."""
        plan, stop = self._plan, self._stop
        if stop.why is not None:
            raise Stopped
        image, layout = self._images[number], layout_of(plan)
        bundle = Bundle(layout.work, step.bundle, tuple(own)) if step.bundle else None
        with self._students(number, step) as students:
            begun = time.monotonic()
            box = self._place.open(box_spec(plan, number, image=image, bundle=bundle, token=self._lease.token))
            try:
                self._on_box(time.monotonic() - begun)
                stop.attach(box)
                self._fill(box, number, step, own)
                kept = HeadTail()
                command = command_of(self._place, step, image)
                output = _tee(kept, step.name, self._sink)
                if students is None:
                    end, used = box.run(command, env=environment(plan, number), output=output), Used()
                else:
                    students.on_failure(box.kill)
                    end = box.run(command, env=environment(plan, number), output=output, calls=students.accept)
                    used = students.close()
                stop.attach(None)
                if end.cancelled or stop.why is not None:
                    raise Stopped
                if end.limit == "wall" and used.waited and end.usage.wall - used.waited < step.limits.wall:
                    text = f"boxes for student code took {used.waited:.0f} s of step {step.name!r}'s time to come up"
                    raise SandboxFailed(text, id="sandbox_overdue")
                self.outputs.append(kept.output(step.name))
                left = self._take(box, number, step, end)
            finally:
                stop.attach(None)
                box.close()
        self._note(step, end, left, used, image)
        judge(plan, step, end, image, self._submission, command[0])
        if number < len(plan.steps) - 1:
            self._keep(step, left)
        return end, left

    @contextlib.contextmanager
    def _students(self, number: int, step: PlanStep) -> Iterator[Students | None]:
        """What has student code run beside a guarded step, and nothing of it left afterwards; None for other steps."""
        if not step.guarded:
            yield None
            return
        students = Students(
            self._place,
            self._plan,
            number,
            image=self._images[number],
            token=self._lease.token,
            submission=self._submission,
            collected=self._collected,
            expected=self._habits.expected(self._lease.spec),
        )
        students.start()
        try:
            yield students
        except BaseException:
            with contextlib.suppress(Exception):  # what ended it says more
                students.close()
            raise

    def _fill(self, box: Box, number: int, step: PlanStep, own: Sequence[File]) -> None:
        """Put in what differs from job to job; the assignment's `own` files are there."""
        layout = layout_of(self._plan)
        if step.guarded:
            box.put(SUBMISSION, _as_data(self._submission))
        elif step.submission:
            if layout.own_copy:
                box.put(SUBMISSION, self._submission)
            theirs, shadowed = hand_in(self._plan, self._lease, self._submission, own)
            box.put(layout.work, theirs)
            if shadowed:
                names = ", ".join(one_line(path, 60) for path in shadowed[:3])
                text = f"the hand-in's {names} gave way to the assignment's own file in step {step.name!r}"
                self._notices.append(Notice("shadowed_files", text))
        if number > 0:
            last = number == len(self._plan.steps) - 1
            # what a student's step left is read where the score is made, not run
            box.put(COLLECTED, _as_data(self._collected) if last and not step.submission else self._collected)

    def _take(self, box: Box, number: int, step: PlanStep, end: End) -> Collected:
        """What the step left: of the last one its report, of others what they collect."""
        layout = layout_of(self._plan)
        if number == len(self._plan.steps) - 1:
            asked, (mount, below) = report_files(self._plan.format), layout.report
            if asked.patterns:
                bounds = CollectBounds(files=asked.most, bytes=MAX_REPORT, entries=asked.most + 1000)
                return box.collect(mount, [below + pattern for pattern in asked.patterns], bounds)
        elif step.collect and end.limit is None and end.exec_error is None:
            return box.collect(layout.work, step.collect)
        return Collected()

    def _note(self, step: PlanStep, end: End, left: Collected, used: Used, image: str) -> None:
        self._reports.append(
            StepReport(
                step.name,
                exit_status=end.exit_status,
                signal=end.signal,
                limit=end.limit,
                usage=used.added_to(end.usage),
                output_bytes=end.output_bytes,
                refused=left.refused,
                image=step.image if image else "",
                image_digest=image,
                calls=used.calls,
            )
        )
        self._notices.extend(notices(f"step {step.name!r}", end))
        self._notices.extend(used.notices)
        if step.guarded:
            self._habits.learn(self._lease.spec, used.calls)

    def _keep(self, step: PlanStep, left: Collected) -> None:
        """For the steps that come: what this one left."""
        self._collected.extend(File(f"{step.name}/{file.path}", file.data, file.executable) for file in left.files)
        if left.refused:
            path, reason = left.refused[0]
            more = f" (and {len(left.refused) - 1} more)" if len(left.refused) > 1 else ""
            text = f"step {step.name!r} left files that were not taken: {one_line(path, 80)}: {reason}{more}"
            self._notices.append(Notice("refused_files", text))
        elif step.collect and not left.files:
            text = f"step {step.name!r} left nothing of what is collected: {', '.join(step.collect)}"
            self._notices.append(Notice("nothing_collected", text))


def _as_data(files: Sequence[File]) -> list[File]:
    """The same, none executable."""
    return [File(file.path, file.data) for file in files]


def _tee(kept: HeadTail, step: str, sink: Sink | None) -> Callable[[bytes], None]:
    if sink is None:
        return kept.add

    def both(data: bytes) -> None:
        kept.add(data)
        sink(step, data)

    return both


def _total(reports: Sequence[StepReport]) -> Usage:
    cpus = [r.usage.cpu for r in reports]
    peaks = [r.usage.memory for r in reports if r.usage.memory is not None]
    known = [cpu for cpu in cpus if cpu is not None]
    return Usage(
        wall=sum(r.usage.wall for r in reports),
        cpu=sum(known) if len(known) == len(cpus) else None,
        memory=max(peaks, default=None),
    )
