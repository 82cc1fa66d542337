"""Job handles: futures over jobs that are recorded in a store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures

from minitango.errors import EngineStopped, JobDead, JobNotFound, StoreError
from minitango.job import Job, Result, State, StepOutput
from minitango.store import Store, Submitted


class JobHandle(futures.Future[Result]):
    """A job, as a future: `result()` waits for its Result.

    It raises JobDead where the job could not be graded, CancelledError where it was cancelled, EngineStopped where
    the engine stopped first (the job is safe in the store), JobNotFound where the store's server lost the job. Unlike
    a plain future, it can be had again, by `engine.job(id)`, in another process or after a restart. Works with
    `concurrent.futures.wait`, `as_completed` and `asyncio.wrap_future`.
    """

    def __init__(
        self, id: str, store: Store, cancel: Callable[[str], Job], *, created: bool, ended_before: bool
    ) -> None:
        super().__init__()
        self.id = id
        self.created = created
        """Whether submitting made a new job; False where the same work was there already."""
        self.ended_before = ended_before
        """Whether the job had ended when this handle was made."""
        self._store = store
        self._cancel_job = cancel

    def __repr__(self) -> str:
        return f"<JobHandle {self.id}>"

    def job(self) -> Job:
        """The job as the store has it now."""
        return self._store.get(self.id)

    def running(self) -> bool:
        """Whether an attempt is running now, here or in another process."""
        return not self.done() and self.job().state is State.RUNNING

    def cancel(self) -> bool:
        """Cancel the job: at once if it is queued, soon if it is running. False if it had ended otherwise."""
        if self.done():
            return self.cancelled()
        job = self._cancel_job(self.id)
        return job.state is State.CANCELLED or (job.cancel_requested and not job.state.terminal)

    def outputs(self) -> list[StepOutput]:
        """What the steps printed; empty unless the job is done."""
        return self._store.outputs(self.id)

    def settle(self, job: Job, result: Result | StoreError | None) -> None:
        """Resolve from a job that has ended: if it is done, with its result, or why that cannot be read."""
        if self.done():
            return
        if job.state is State.CANCELLED:
            super().cancel()
            self.set_running_or_notify_cancel()
            return
        if job.state is State.DONE:
            if isinstance(result, Result):
                self.set_result(result)
            else:
                gone = StoreError(f"the result of job {job.id} is gone from the store", id="record_damaged")
                self.set_exception(result or gone)
            return
        text, hint = (job.failure.message, job.failure.hint) if job.failure else ("no reason was recorded", "")
        self.set_exception(JobDead(f"job {job.id} ({job.student}) could not be graded: {text}", hint=hint))


class Handles:
    """The handles that wait, by job. No job can end unseen between its submit and its handle's being known."""

    def __init__(self, store: Store, cancel: Callable[[str], Job]) -> None:
        self._store = store
        self._cancel = cancel
        self._lock = threading.RLock()
        self._waiting: dict[str, list[JobHandle]] = {}
        self._writing = 0
        """Submissions under way: their jobs may end before their handles are made."""
        self._early: dict[str, Job] = {}
        """Jobs that nobody waited for and that ended meanwhile."""
        self._missed = False
        """Whether there may have been others."""
        self._cursor = store.last_ended()
        self._last = "".join(job.id for job in store.ended_since(self._cursor - 1, limit=1))
        """The job that ended with this number; empty where it is not known, since it was forgotten or is another
        queue's."""
        self._over: EngineStopped | None = None

    def submit(self, write: Callable[[], Sequence[Submitted]]) -> list[JobHandle]:
        """Submit by calling `write`, and make a handle for each job. Raises what `write` raises, and nothing once that
        has returned: what cannot be read then of a job that has ended is its handle's to say."""
        with self._lock:
            self._writing += 1
        try:
            written = write()
            with self._lock:
                made = [(s, self._make(s.id, created=s.created, state=s.state)) for s in written]
                early = {s.id: job for s in written if (job := self._early.get(s.id)) is not None}
                missed = self._missed
        finally:
            with self._lock:
                self._writing -= 1
                if not self._writing:
                    self._early.clear()
                    self._missed = False
        for submitted, handle in made:
            one, ended = submitted.id, submitted.state.terminal
            if not (ended or missed or one in early):
                continue
            try:
                job = early.get(one) or self._store.get(one)
                self.settle(job)
                if ended:
                    handle.settle(job, self._result(one, job.state))
            except (StoreError, JobNotFound) as error:
                self._give_up(one, handle, error)
        return [handle for _, handle in made]

    def _give_up(self, id: str, handle: JobHandle, error: Exception) -> None:
        """What became of a job that has ended cannot be read: whoever waits for it is told, as nobody else tells."""
        with self._lock:
            handles = [*self._waiting.pop(id, ()), handle]
        for each in handles:
            if not each.done():
                each.set_exception(error)

    def get(self, id: str) -> JobHandle:
        """A handle for a job that is there already. JobNotFound."""
        with self._lock:
            job = self._store.get(id)
            handle = self._make(job.id, created=False, state=job.state)
        if job.state.terminal:
            handle.settle(job, self._result(job.id, job.state))
        return handle

    def _make(self, id: str, *, created: bool, state: State) -> JobHandle:
        handle = JobHandle(id, self._store, self._cancel, created=created, ended_before=state.terminal)
        if not state.terminal:
            if self._over is not None:  # nobody will tell of its end any more
                handle.set_exception(self._over)
            else:
                self._waiting.setdefault(id, []).append(handle)
        return handle

    def _result(self, id: str, state: State) -> Result | StoreError | None:
        """The job's result; the error, as a value, where that one record is damaged."""
        try:
            return self._store.result(id) if state is State.DONE else None
        except StoreError as error:
            if error.id != "record_damaged":
                raise
            return error

    def follow(self) -> None:
        """Settle the handles of all jobs that ended since the last call, whoever ended them.

        StoreError: nothing is lost, the next call goes on from there.
        """
        while True:
            with self._lock:
                cursor, last, ended, lost = self._news()
                if self._writing:
                    self._early.update({job.id: job for job in ended})
                # everything is read before a handle is let go of
                found = [(job, self._result(job.id, job.state)) for job in ended if job.id in self._waiting]
                self._cursor, self._last = cursor, last
                taken = [(self._waiting.pop(job.id, ()), job, result) for job, result in found]
                gone = [(handle, error) for one, error in lost.items() for handle in self._waiting.pop(one, ())]
            for handles, job, result in taken:  # outside the lock: settling runs callbacks
                _settle(handles, job, result)
            for handle, error in gone:
                if not handle.done():
                    handle.set_exception(error)
            if not ended:
                return

    def _news(self) -> tuple[int, str, list[Job], dict[str, JobNotFound]]:
        """The last job that ended and its number, the jobs that ended meanwhile, and those that are gone.

        A server that lost its last second, or whose replica took over, gives numbers another time. So the last job that
        we know of has to be there still, under its number; else each job that is waited for is looked at.
        """
        ended = self._store.ended_since(self._cursor - 1)
        if ended and ended[0].ended_seq == self._cursor and self._last in ("", ended[0].id):
            return ended[-1].ended_seq or self._cursor, ended[-1].id, ended[1:], {}
        if not self._last and ended and (ended[0].ended_seq or 0) > self._cursor:
            return ended[-1].ended_seq or self._cursor, ended[-1].id, ended, {}
        cursor = self._store.last_ended()  # first: what ends from now on is told of with a later number
        if not self._last and cursor >= self._cursor and not ended and (self._cursor or self._is_there()):
            return self._cursor, "", [], {}
        self._missed = self._writing > 0
        lost: dict[str, JobNotFound] = {}
        ended, damaged = [], set()
        for one in self._waiting:
            try:
                job = self._store.get(one)
            except JobNotFound as error:
                lost[one] = error
            except StoreError as error:
                if error.id != "record_damaged":
                    raise
                damaged.add(one)
            else:
                if job.state.terminal:
                    ended.append(job)
        if damaged:
            ended += [job for job in self._all_ended() if job.id in damaged]
        return cursor, "", ended, lost

    def _all_ended(self) -> Iterator[Job]:
        """What can be read of all jobs that ended."""
        cursor = 0
        while some := self._store.ended_since(cursor):
            yield from some
            cursor = some[-1].ended_seq or cursor

    def _is_there(self) -> bool:
        """Whether the first job that is waited for is there: before any has ended, nothing else tells of a server that
        lost what it had."""
        one = next(iter(self._waiting), None)
        if one is not None:
            try:
                self._store.get(one)
            except JobNotFound:
                return False
            except StoreError as error:
                if error.id != "record_damaged":
                    raise
        return True

    def settle(self, job: Job, result: Result | None = None) -> None:
        """Settle the handles of one job, if it has ended. A result that is not given is read from the store: where that
        raises StoreError, `follow` settles them."""
        if not job.state.terminal:
            return
        with self._lock:
            waited_for = job.id in self._waiting
            found = result or (self._result(job.id, job.state) if waited_for else None)
            if job.ended_seq == self._cursor + 1:
                self._cursor, self._last = job.ended_seq, job.id  # `follow` need not read it
            if not waited_for and self._writing:
                self._early[job.id] = job
            handles = self._waiting.pop(job.id, ())
        _settle(handles, job, found)

    def fail(self, error: EngineStopped) -> None:
        """Give up waiting, now and for handles to come: the engine that would have told us is gone."""
        with self._lock:
            self._over = self._over or error
            handles = [handle for several in self._waiting.values() for handle in several]
            self._waiting.clear()
        for handle in handles:
            if not handle.done():
                handle.set_exception(error)


def _settle(handles: Iterable[JobHandle], job: Job, result: Result | StoreError | None) -> None:
    for handle in handles:
        handle.settle(job, result)
