"""Engine: what a course imports. It takes submissions into a durable store, grades them, and tells.

The work is done by a `Pool` (producer and consumers) over a `Store`; here is what people call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from minitango import archive, identity, statedir
from minitango.assignment import Submission
from minitango.blobs import BlobStore, Pruned
from minitango.callback_url import Callbacks
from minitango.errors import ConfigError, EngineStopped, JobNotFound, StoreError
from minitango.events import Event, Telling
from minitango.graders import Graders
from minitango.grading import Grading
from minitango.handle import Handles, JobHandle
from minitango.identity import Found
from minitango.intake import Intake
from minitango.job import TURN, Job, JobSpec, State
from minitango.observer import EngineObserver
from minitango.runner import Runner
from minitango.sandbox import Sandbox, demanded, insist, join_names, kind_of, open_sandbox
from minitango.store import Query, Store, is_redis, open_blobs, open_store
from minitango.trial import Trial

if TYPE_CHECKING:
    from minitango.assignment import Assignment

log = logging.getLogger("minitango")

LEASE_FOR: Final = 60.0
"""Seconds that a lease is good for; it is extended at a third of that."""
MAX_WORKERS: Final = 1000
GRACE: Final = 30.0
"""Seconds that running jobs get to end in when the engine stops."""


class Engine:
    """The grading engine. `Engine.open` is the way in; use it as a context manager.

    Thread-safe. Leaving the `with` block stops it: running jobs get GRACE seconds to end (none if an exception
    leaves the block); what is left stays in the store, and goes on when an engine is next opened there.
    """

    def __init__(
        self,
        store: Store,
        blobs: BlobStore,
        *,
        sandbox: Sandbox | None,
        sandbox_kind: str,
        state: Path,
        telling: Telling,
    ) -> None:
        """Use `Engine.open`."""
        self.store = store
        self.blobs = blobs
        self.sandbox = sandbox
        self.state = state
        self._telling = telling
        self.on_box: Callable[[float], None] = lambda seconds: None
        """Hears how long each step waited for its sandbox. Called from consumers; it must not raise."""
        self._graders = Graders(state, sandbox_kind, grades=sandbox is not None, shared=store.shared)
        self._runner = None
        if sandbox is not None:
            self._runner = Runner(
                sandbox,
                blobs,
                on_image=self._graders.note,
                tell=telling.image,
                grader=self._graders.by,
                on_box=lambda seconds: self.on_box(seconds),
                shared=store.shared,
            )
        self._grading: Grading | None = None
        self._intake = Intake(blobs, self._graders, Callbacks())
        self._handles = Handles(store, self.cancel)
        self._observer = EngineObserver(store, self._handles, telling)
        self._close_lock = threading.Lock()
        self._on_close: list[Callable[[], None]] = []

    @classmethod
    def open(
        cls,
        store: str | os.PathLike[str] = ".minitango",
        *,
        workers: int | None = None,
        sandbox: str | Sequence[str] | Sandbox = "auto",
        image: str | None = "",
        state: str | os.PathLike[str] | None = None,
        queue: str = "default",
        lease_for: float = LEASE_FOR,
        name: str = "",
        capabilities: Collection[str] = (),
        blobs: str | os.PathLike[str] | None = None,
        keep: float | None = None,
        require: Collection[str] = (),
        on_event: Callable[[Event], None] | None = None,
        paused: bool = False,
        callbacks: Callbacks = Callbacks(),
    ) -> Engine:
        """Open the engine on a store, take back what an engine that died there left, and start grading.

        `store` is a URL (`sqlite:///course/queue.db`, `redis://host/0?queue=cs101`) or a state directory (the queue is
        then its `queue.db`). `state` holds blobs, lock and live output: the store's own folder unless given. Of engines
        on one SQLite file one grades; on one Redis queue as many as you like, each with a state directory, and a `name`
        if you care. `capabilities` are what this one offers to assignments that ask for it (`needs`). `blobs` is a
        directory that all nodes share, for blobs that are to be there instead of where the store keeps them.
        `keep`: the engine forgets jobs that ended more than so many seconds ago (an hour is the least), with files that
        no job needs. None: in a file all is kept, on Redis for 400 days; math.inf: all is kept.
        `workers` consumers grade at once, one a core unless given, or as many as the sandbox has slots where it counts
        them; 0 only submits and watches, for a process beside the one that grades.
        `sandbox` is a name, or the names of several Docker engines (`docker+tcp://host:2376?slots=8`), which make one
        sandbox; or an object, which is closed with the engine; `image` is for steps that name none, where
        the sandbox has images; None: there are no such steps, so none has to be there. `require`: which limits have to
        hold in it (`memory`, `pids`, `cpu`, `disk`, `network`), or else SandboxUnavailable `sandbox_weak`.
        `on_event`: as `subscribe`, but early enough to hear what was recovered, and how images are pulled. `paused`:
        begin no job before `resume`. `callbacks`: which hosts at private addresses they may go to, and what signs them.
        Raises EngineRunning where another engine grades there already, SandboxUnavailable where nothing could be
        isolated here, StoreError, ConfigError.
        """
        if not isinstance(store, (str, os.PathLike)):
            raise ConfigError(
                f"the store is {store!r}", hint='name a folder, or a URL such as "sqlite:///queue.db"', id="store_url"
            )
        url, folder = statedir.locate(store, state)
        asked = join_names(sandbox) if isinstance(sandbox, Sequence) else sandbox
        if workers is not None and (
            not isinstance(workers, int) or isinstance(workers, bool) or not 0 <= workers <= MAX_WORKERS
        ):
            text = f"workers is {workers!r}, not a whole number from 0 to {MAX_WORKERS}"
            raise ConfigError(text, hint="0 only submits and watches", id="workers")
        wanted = demanded(require)
        with contextlib.ExitStack() as undo:
            if workers != 0 or not is_redis(url):  # of a queue on a server nothing is kept where nobody grades
                statedir.make(folder)
            opened = open_store(url, queue=queue)
            undo.callback(opened.close)
            box: Sandbox | None = None
            last = statedir.sandbox_kind(folder)
            telling = Telling(on_event)
            if workers != 0:
                undo.callback(statedir.lock(folder))
                box = (
                    asked
                    if not isinstance(asked, str)
                    else open_sandbox(
                        asked,
                        state=str(folder),
                        image=image,
                        last=last,
                        require=wanted,
                        tell=telling.image,
                        rests=telling.rest,
                    )
                )
                undo.callback(box.close)
                insist(box, wanted)
                workers = min(box.slots or os.cpu_count() or 1, MAX_WORKERS) if workers is None else workers
                statedir.introduce(folder, box.name, image=image or "")
            if box is not None:
                kind = box.name
            elif isinstance(asked, str):
                kind = (last if asked == "auto" else "") or kind_of(asked, last=last)
            else:
                kind = asked.name
            files = open_blobs(opened, folder, None if blobs is None else Path(blobs).absolute(), agreed=workers != 0)
            engine = cls(opened, files, sandbox=box, sandbox_kind=kind, state=folder, telling=telling)
            engine._intake = Intake(files, engine._graders, callbacks)
            undo.callback(opened.watch(engine._store_changed))
            if workers:
                assert box is not None
                assert engine._runner is not None
                grading = Grading(
                    engine._observer, opened, files, box, engine._runner, state=folder, name=name, workers=workers,
                    capabilities=capabilities, lease_for=lease_for, keep=keep, paused=paused, callbacks=callbacks,
                )  # fmt: skip
                engine._grading = grading
                engine._observer.on_callback = grading.deliver
                grading.start(undo)
            engine._on_close.append(undo.pop_all().close)
        return engine

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.stop(grace=GRACE if kind is None else 0.0)

    @property
    def node(self) -> str:
        """The name under which this engine grades; empty where it does not."""
        return "" if self._grading is None else self._grading.node

    @property
    def error(self) -> BaseException | None:
        """What killed the engine, if something did."""
        return self._observer.error

    # --- submitting ---------------------------------------------------------------------------

    def submit(self, submission: Submission, *, fresh: bool = False) -> JobHandle:
        """Take a submission: when this returns it is durable and its files are fixed.

        The same work (assignment, files, student, sandbox) submitted before gives the same job, graded or not,
        unless `fresh`; work whose job died or was cancelled is tried anew. Raises SubmissionError, ArchiveError,
        AssignmentError, StoreError, StoreFull: then nothing was accepted.
        """
        return self.submit_many([submission], fresh=fresh)[0]

    def submit_many(self, submissions: Iterable[Submission], *, fresh: bool = False) -> list[JobHandle]:
        """Take many at once: all of them or none, in their order, in one transaction. An assignment's files are read at
        its first submission."""
        self._check_open()
        return self._submit(self._intake.take(submissions), fresh=fresh)

    def retry(self, id: str) -> JobHandle:
        """Grade the same inputs again, as a new job that names this one, and has its place in the order of hand-ins.
        ConfigError unless this one has ended."""
        self._check_open()
        job = self.store.get(id)
        if not job.state.terminal:
            raise ConfigError(
                f"job {job.id} is {job.state}: only a job that has ended can be retried",
                hint=f"wait for it, or: minitango jobs cancel {job.id}",
                id="not_ended",
            )
        spec = self.store.spec(job.id)
        labels = {**spec.labels, TURN: str(job.turn)}
        return self._submit([structs.replace(spec, supersedes=job.id, labels=labels)], fresh=True)[0]

    def redeliver(self, id: str) -> Job:
        """Have the callback of a job that has ended delivered, also where it was given up or delivered before.

        JobNotFound; ConfigError (no_callback, not_ended).
        """
        job = self.store.redeliver(id)
        if self._grading is not None:
            self._grading.deliver()
        return job

    def _submit(self, specs: list[JobSpec], *, fresh: bool) -> list[JobHandle]:
        with self._while_open():
            handles = self._handles.submit(lambda: self.store.submit(specs, fresh=fresh))
        if self._grading is not None:
            self._grading.wake()
        return handles

    def preflight(self, assignment: Assignment) -> None:
        """Pull or build the assignment's images and look whether its commands can run here, before anything is queued.

        AssignmentError if they cannot; SandboxUnavailable. Does nothing in an engine without workers.
        """
        if self._runner is not None:
            self._runner.preflight(assignment.pack(self.blobs).digest)

    def trial(self, submission: Submission) -> Trial:
        """Grade this beside the queue, beginning now: no job is made, and nothing is kept. Leave its `with` block.

        ConfigError in an engine without workers; SubmissionError, ArchiveError, AssignmentError, StoreError.
        """
        self._check_open()
        if self._runner is None:
            raise ConfigError(
                "an engine without workers grades nothing", hint="open it with workers=1 or more", id="workers"
            )
        packed = submission.assignment.pack(self.blobs)
        (inputs,) = self.blobs.put_many([archive.pack(submission.bundle())], ahead=True)
        return Trial(self._runner, submission, packed.digest, inputs)

    def fingerprint(self, assignment: Assignment) -> str:
        """What, beside the hand-in, decides on a grade here, as one word: the assignment with its files, the kind of
        sandbox, and what its images are known to be. AssignmentError, StoreError."""
        return self._intake.fingerprint(assignment)

    def find(self, submissions: Sequence[Submission]) -> Found:
        """Which jobs there are of these hand-ins, as things are. Nothing is submitted.

        Raises what `submit` raises, but for StoreFull.
        """
        works = self._intake.works(submissions)
        names = {submission.assignment.name for submission in submissions}
        return identity.find(works, [job for name in names for job in self.jobs(Query(assignment=name))])

    # --- watching -----------------------------------------------------------------------------

    def job(self, id: str) -> JobHandle:
        """The handle of a job, by its id or an unambiguous beginning of it (4 characters or more). JobNotFound."""
        if not isinstance(id, str):
            raise JobNotFound(f"{id!r} is no job's id", hint="ids are strings, such as JobHandle.id")
        with self._while_open():
            return self._handles.get(id)

    def jobs(self, query: Query = Query()) -> list[Job]:
        """The jobs that match, in order of submission."""
        return self.store.list(query)

    @staticmethod
    def as_completed(handles: Iterable[JobHandle], timeout: float | None = None) -> Iterator[JobHandle]:
        """Yield the handles as their jobs end. TimeoutError once `timeout` seconds have passed."""
        done: Iterator[Any] = futures.as_completed(list(handles), timeout)
        return done

    def cancel(self, id: str, *, reason: str = "") -> Job:
        """Cancel a job: a queued one ends at once, a running one as soon as its sandbox is gone. JobNotFound.

        `reason` is kept with it, for who asks later why it was not graded.
        """
        job = self.store.cancel(id, reason=reason)
        self._observer.settled(job, None)
        if self._grading is not None:
            self._grading.wake(changed=True)
        return job

    def subscribe(self, on_event: Callable[[Event], None]) -> Callable[[], None]:
        """Call `on_event` for what happens in this engine, from its threads; returns how to stop that.

        It must return quickly. An exception of its own is logged, and goes no further.
        """
        return self._telling.add(on_event)

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until no job of the queue is queued or running; False once `timeout` seconds have passed.

        EngineStopped if the engine stops, or dies, meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._check_open()
            counts = self.store.counts()
            if not counts[State.QUEUED] and not counts[State.RUNNING]:
                return True
            left = 0.25 if deadline is None else min(0.25, deadline - time.monotonic())
            if left <= 0:
                return False
            self._observer.wait(left)

    def prune(self, *, older_than: float = 3600.0) -> Pruned:
        """Delete blobs that no job needs and that nobody touched for `older_than` seconds.

        Safe beside submits and grading, here and in other processes.
        """
        return self.blobs.prune(self.store.referenced, older_than=older_than)

    def wait(self) -> None:
        """Wait until the engine was told to stop. EngineStopped, with its cause, if it died."""
        if self._grading is not None:
            self._grading.join()
        if self.error is not None:
            raise self._observer.died() from self.error

    # --- pausing ------------------------------------------------------------------------------

    def pause(self) -> None:
        """Begin no job until `resume`; what runs goes on. Does not wait. Nothing in an engine without workers."""
        if self._grading is not None:
            self._grading.pause()

    def resume(self) -> None:
        """Begin jobs again."""
        if self._grading is not None:
            self._grading.resume()

    @property
    def resting(self) -> bool:
        """Whether the engine is paused and nothing runs any more: handles of what ran have their results."""
        return self._grading is not None and self._grading.resting

    @property
    def busy(self) -> bool:
        """Whether anything runs here whose end is not recorded yet. Asks nobody."""
        return self._grading is not None and self._grading.busy

    # --- stopping -----------------------------------------------------------------------------

    def request_stop(self, *, release: bool = False) -> None:
        """Begin to stop, without waiting: for signal handlers. With `release`, running jobs are put back at once."""
        if self._grading is not None:
            self._grading.request_stop(release=release)

    def stop(self, *, grace: float = GRACE) -> None:
        """Claim nothing more, give running jobs `grace` seconds to end, put the rest back uncharged, and close.

        What was not graded stays in the store; handles that still wait raise EngineStopped. Idempotent.
        """
        self._observer.stopped = True
        if self._grading is not None:
            self._grading.stop(grace)
        with self._close_lock:  # interrupted here, the next call goes on where this one was
            self._handles.fail(EngineStopped("the engine was stopped; the job is safe in the store"))
            for close in self._on_close:
                close()

    # --- inside -------------------------------------------------------------------------------

    def _store_changed(self) -> None:
        """From the store's own thread."""
        if self._grading is not None:
            self._grading.wake(changed=True)
        else:
            self._observer.look()

    def _check_open(self) -> None:
        if self.error is not None:
            raise self._observer.died() from self.error
        if self._observer.stopped:
            raise EngineStopped("the engine is stopped", hint="open it again with Engine.open")

    @contextlib.contextmanager
    def _while_open(self) -> Iterator[None]:
        """What meets a store that a stop has closed meanwhile is told of the stop."""
        try:
            yield
        except StoreError as error:
            if not self._observer.stopped:
                raise
            raise EngineStopped("the engine was stopped meanwhile; what was accepted is safe in the store") from error
