"""One grading beside the queue: the same runner, the same sandbox, and no job."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from types import TracebackType
from typing import Final

from minitango.assignment import Submission
from minitango.errors import EngineStopped, JobDead
from minitango.job import Fail, Finish, Lease, Result, State, StepOutput
from minitango.retry import Next, after_failure, backoff
from minitango.runner import Runner
from minitango.stopping import Stop

_POLL: Final = 0.1
_WAITS: Final = 10
"""Times that a trial waits for a sandbox."""


class Trial:
    """A grading that nothing is kept of. Use it as a context manager: leaving the block ends it, and waits for that.

    What goes wrong in the sandbox is tried again as a job's would be, with the same pauses; where no sandbox can be
    had, for some minutes.
    """

    def __init__(self, runner: Runner, submission: Submission, spec: str, inputs: str) -> None:
        """Use `Engine.trial`. `spec` and `inputs` are digests of blobs."""
        self._runner = runner
        self._stop = Stop()
        self._ended = threading.Event()
        self._answer: Future[Finish | Fail] = Future()
        name = uuid.uuid4().hex
        self._lease = Lease(
            job=name,
            attempt=1,
            token=name,
            expires=0.0,
            spec=spec,
            inputs=inputs,
            assignment=submission.assignment.name,
            student=submission.student,
            submitted=time.time(),
            course=submission.course,
            labels=dict(submission.labels),
        )
        threading.Thread(target=self._work, name="minitango trial", daemon=True).start()

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.request("release")
        self._ended.set()
        wait_for([self._answer])

    def result(self) -> Result:
        """Wait for what became of it; a signal may interrupt this. JobDead: it could not be graded, after every try."""
        while not wait_for([self._answer], timeout=_POLL).done:
            pass
        ack = self._answer.result()
        if isinstance(ack, Fail):
            raise JobDead(ack.failure.message, hint=ack.failure.hint, id=ack.failure.id)
        return ack.result

    def outputs(self) -> list[StepOutput]:
        """What the steps printed; empty before there is a result."""
        ack = self._answer.result() if self._answer.done() and self._answer.exception() is None else None
        return list(ack.outputs) if isinstance(ack, Finish) else []

    def _work(self) -> None:
        try:
            self._answer.set_result(self._tried())
        except BaseException as error:  # whoever waits is to hear of it
            self._answer.set_exception(error)

    def _tried(self) -> Finish | Fail:
        failures = waits = 0
        while True:
            ack = self._runner.run(self._lease, stop=self._stop)
            if isinstance(ack, Finish):
                return ack
            if not isinstance(ack, Fail):
                raise EngineStopped("the trial was ended before it had an answer")
            failures += ack.charge
            waits += not ack.charge
            next_ = after_failure(failures, retry=ack.retry) if ack.charge else Next(State.QUEUED, backoff(waits))
            if next_.state is State.DEAD or waits >= _WAITS or self._ended.wait(next_.delay):
                return ack
