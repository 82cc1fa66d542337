"""Grading a batch to its end: shared by `run` and `check`."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent import futures
from typing import Final

from msgspec import structs

from minitango.assignment import Assignment
from minitango.cli import show
from minitango.cli.interrupts import Interrupt
from minitango.cli.progress import Images, Progress, describe
from minitango.cli.settings import Settings
from minitango.cli.streams import as_called, tell
from minitango.engine import Engine
from minitango.errors import EngineRunning, EngineStopped, JobNotFound, StoreError
from minitango.events import Event
from minitango.handle import JobHandle
from minitango.job import Job, Result, State, Trust
from minitango.sandbox import LIMITS, weak
from minitango.statedir import locate
from minitango.store import History, Query
from minitango.text import one_line

TAKE_OVER: Final = 1.0
"""Seconds between looks whether the engine that we submitted to is still there."""
_QUIETLY: Final = 0.05
"""Seconds between looks whether an engine that was paused has come to rest."""
CTRL_C_GRACE: Final = 5.0
"""Seconds that running jobs get after the first Ctrl-C."""


class Batch:
    """An engine of our own, or the one that runs already, and the jobs that we wait for."""

    def __init__(
        self, settings: Settings, *, temporary: bool = False, quiet: bool = False, paused: bool = False
    ) -> None:
        """`temporary`: nothing is kept, so that nobody is to be told that jobs stay queued. `paused`: an engine of our
        own begins nothing before its `resume`."""
        self._settings = settings
        self._temporary = temporary
        self._images = Images(quiet=quiet)
        self._shown: Progress | None = None
        self._running: dict[str, Job] = {}
        self.engine, self.joined = self._open(paused=paused)

    def _open(self, *, paused: bool) -> tuple[Engine, bool]:
        try:
            return self._settings.open(on_event=self._event, paused=paused), False
        except EngineRunning as error:
            self._settings.check_joined(locate(self._settings.store, self._settings.state)[1])
            tell(f"{error}: submitting to it")
            return self._settings.open(workers=0, on_event=self._event), True

    def _event(self, event: Event) -> None:
        """From the engine's threads."""
        shown, job, text = self._shown, event.job, describe(event)
        if event.kind == "image":
            (shown.image if shown is not None else self._images)(event.message)
            return
        if job is not None and event.kind == "started":
            self._running[job.id] = job
        elif job is not None:
            self._running.pop(job.id, None)
        if text and shown is not None:
            shown.say(text)
        elif text:
            self._images.clear()
            tell(text)
        if shown is not None and job is not None:
            shown.running(list(self._running.values()))

    def preflight(self, assignment: Assignment) -> None:
        """As `Engine.preflight`."""
        try:
            self.engine.preflight(assignment)
        finally:
            self._images.clear()

    def wait(
        self,
        handles: Sequence[JobHandle],
        shown: Progress,
        *,
        doubt: Callable[[Sequence[Job]], bool] = lambda ended: False,
    ) -> list[show.Seen]:
        """Wait until every job has ended, showing each; returns the jobs in the order of `handles`.

        What had ended before is not shown. If the engine that we submitted to goes away, its place is taken.
        EngineStopped if ours dies.

        `doubt` is asked whenever a job ended, with all that ended here so far. Once it says so, our engine is paused;
        what runs goes on to its end, and if that does not change the answer, this returns, the engine still paused,
        with jobs that are queued. An engine that is another's is not paused.
        """
        self._shown = shown
        shown.running(list(self._running.values()))
        order = [handle.id for handle in handles]
        before = {handle.id for handle in handles if handle.ended_before}
        jobs: dict[str, show.Seen] = {}
        # what each was when last looked at, should somebody prune it
        gone = {job: seen for job in order if (seen := self._see(job)) is not None}
        finished: queue.SimpleQueue[futures.Future[Result]] = queue.SimpleQueue()
        waiting = self._listen(handles, finished)
        paused = False
        while waiting:
            try:
                handle = finished.get(timeout=_QUIETLY if paused else TAKE_OVER)
            except queue.Empty:
                handle = None
            if Interrupt.asked:
                raise KeyboardInterrupt
            if isinstance(handle, JobHandle) and waiting.get(handle.id) is handle:
                _raise_if_nothing_is_to_come(handle)
                del waiting[handle.id]
                jobs[handle.id] = self._see(handle.id) or _as_it_ended(gone[handle.id], handle)
                if handle.id not in before:
                    shown.ended(jobs[handle.id])
                    if waiting and not paused and self._doubtful(doubt, jobs, before):
                        self.engine.pause()
                        paused = True
            elif self.joined and self._take_over():
                waiting = self._listen([self.engine.job(job) for job in waiting], finished)
            elif self.joined:
                shown.running(self.engine.jobs(Query(states=(State.RUNNING,), limit=20)))
            elif paused and self.engine.resting and finished.empty():
                if self._doubtful(doubt, jobs, before):
                    break
                self.engine.resume()
                paused = False
        return [jobs.get(job) or self._see(job) or gone[job] for job in order]

    def _see(self, id: str) -> show.Seen | None:
        """The job as it is; None where a prune removed it meanwhile."""
        try:
            return show.see(self.engine.store, self.engine.store.get(id))
        except JobNotFound:
            return None

    def _doubtful(
        self, doubt: Callable[[Sequence[Job]], bool], jobs: Mapping[str, show.Seen], before: Container[str]
    ) -> bool:
        return doubt([seen.job for name, seen in jobs.items() if name not in before]) and not self.joined

    @staticmethod
    def _listen(
        handles: Sequence[JobHandle], finished: queue.SimpleQueue[futures.Future[Result]]
    ) -> dict[str, JobHandle]:
        waiting = {handle.id: handle for handle in handles}
        for handle in waiting.values():
            handle.add_done_callback(finished.put)
        return waiting

    def _take_over(self) -> bool:
        try:
            engine = self._settings.open(on_event=self._event)
        except EngineRunning:
            return False
        tell("the engine that was grading is gone: going on in its place")
        old, self.engine, self.joined = self.engine, engine, False
        old.stop(grace=0)
        return True

    def close(self, *, interrupted: bool) -> None:
        """Stop. After an interruption running jobs get a few seconds, and a second Ctrl-C ends that."""
        if not interrupted:
            self.engine.stop()
            return
        if not self.joined and may_run(self.engine):
            others = "" if self._temporary else ", the others stay queued"
            tell(f"stopping: running jobs get a few seconds{others} (Ctrl-C again: at once)")
        try:
            self.engine.stop(grace=CTRL_C_GRACE)
        except KeyboardInterrupt:
            self.engine.stop(grace=0)


def may_run(engine: Engine) -> bool:
    """Whether a job is running. Where the store cannot be asked, one may be: what is only said must not fail a stop."""
    try:
        return engine.store.counts()[State.RUNNING] > 0
    except StoreError:
        return True


def _as_it_ended(seen: show.Seen, handle: JobHandle) -> show.Seen:
    """A job that was pruned in the moment when it ended, of which its handle still has the result."""
    if handle.cancelled() or handle.exception() is not None:
        return seen
    result = handle.result()
    job = structs.replace(
        seen.job,
        state=State.DONE,
        outcome=result.outcome,
        score=result.score,
        max_score=result.max_score,
        trust=result.trust,
        reason=result.reason,
        wall=result.usage.wall,
        warnings=len(result.warnings),
    )
    return show.Seen(job, result.warnings)


def _raise_if_nothing_is_to_come(handle: JobHandle) -> None:
    """The engine died, or the job is gone."""
    error = None if handle.cancelled() else handle.exception()
    if isinstance(error, EngineStopped):
        raise error
    if isinstance(error, JobNotFound):
        text = f"job {handle.id} is gone: its server lost it, or somebody removed it"
        raise JobNotFound(
            text,
            hint="the same command submits it again; is the server to keep what it accepts? minitango doctor tells",
        ) from error


def uncalled(store: History, assignment: Assignment, jobs: Sequence[Job]) -> list[str]:
    """What to say where a guarded step had no student code run for anybody that it was begun for."""
    done = [job for job in jobs if job.state is State.DONE]
    if assignment.trust is not Trust.GUARDED or not done:
        return []
    last, begun = assignment.steps[-1].name, 0
    for job in done:
        result = show.result(store, job)
        if result is None or any(step.calls for step in result.steps):
            return []
        begun += result.trust is Trust.GUARDED and any(step.name == last for step in result.steps)
    return [nobody_called(assignment, "hand-in")] if begun else []


def nobody_called(assignment: Assignment, whom: str) -> str:
    """That its guarded step had no student code run for any `whom`, as a line."""
    return (
        f"{one_line(assignment.name, 60)}: its guarded step had no student code run for any {whom}: does the grader "
        "import or start it by itself? Then that runs beside the tests; it is for minitango-student to run it "
        "(docs/guarded.md)"
    )


def mixture(store: History, jobs: Sequence[Job]) -> list[str]:
    """What to say where results that stand side by side come from more than one kind of sandbox, or from images that
    changed in between; nothing where they do not."""
    results = [result for job in jobs if job.state is State.DONE and (result := show.result(store, job)) is not None]
    sandboxes = Counter(result.sandbox for result in results)
    images = Counter(", ".join(show.digest(step.image_digest) for step in result.steps) for result in results)
    if len(sandboxes) > 1:
        best = sandboxes.most_common(1)[0][0]
        return [
            f"graded in more than one kind of sandbox, which need not give the same grades: {_counts(sandboxes)}",
            f"  next: to grade all in one, the same command with: --fresh --sandbox {best}",
        ]
    if len(images) > 1 and len({len(result.steps) for result in results}) == 1:
        what = "an image changed between gradings, or is not the same on each Docker engine"
        return [
            f"{what}, which need not give the same grades: {_counts(images)}",
            "  next: to grade all with what it is now, the same command with: --fresh",
        ]
    return []


def _counts(found: Counter[str]) -> str:
    return ", ".join(f"{count} in {one_line(name or 'none', 100)}" for name, count in found.most_common())


def warn_of_weak_limits(engine: Engine, say: Callable[[str], None] = tell) -> None:
    """Say which limits do not hold here at all, if there are any. Nothing in an engine that does not grade."""
    if engine.sandbox is None:
        return
    held = engine.sandbox.probe()
    loose = weak(held)
    if loose:
        words = f"the limit on {loose[0]} does" if len(loose) == 1 else f"the limits on {', '.join(loose)} do"
        why = f": {'; '.join(held.notes)}" if held.notes else ""
        say(f"warning: in {engine.sandbox.name} here {words} not hold{why}")
        refuse = f"to refuse such a sandbox: --require {','.join(loose)}"
        say(f"  next: {as_called('minitango doctor --canary')} tries each limit; {refuse}")


def tell_of_limits(engine: Engine, say: Callable[[str], None] = tell) -> None:
    """Say which limits hold here, and what would make them hold better. Nothing in an engine that does not grade."""
    if engine.sandbox is None:
        return
    held = engine.sandbox.probe()
    words = ", ".join(f"{name} {getattr(held, name)}" for name in LIMITS)
    say(f"sandbox {engine.sandbox.name}: limits held by: {words}")
    for note in held.notes:
        say(f"  {note}")
