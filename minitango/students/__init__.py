"""Student code that a guarded step has run while it grades: each call in a box beside the grader's, of its own.

What may be student code's fault is told to the caller: a limit, a command that is not there. What is the sandbox's is
ours, and what can never be called is the grader's: its box is killed, and the attempt fails as a whole, so that it is
no student's zero.

call     one call
frames   what is spoken on a channel
calling  the other side of it
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Final

from msgspec import Struct

from minitango.archive import File
from minitango.assignment import Plan
from minitango.errors import AssignmentError, SandboxUnavailable
from minitango.job import Limits, Notice, Usage
from minitango.layout import COLLECTED, WORK, parents, student_environment, student_spec
from minitango.remarks import notices
from minitango.sandbox import HELPER, Box, Calls, Channel, ChannelClosed, End, Sandbox
from minitango.students.call import Call
from minitango.students.frames import BadCall, Misuse
from minitango.threads import begin

AT_ONCE: Final = 8
"""Calls that one attempt may have open at once."""
MOST: Final = 1000
"""Calls that one attempt may make."""
MAKE_WAY: Final = 2.0
"""Seconds for which a call waits for others to end, where AT_ONCE are open: that a caller has left may not be heard
yet."""
PATIENCE: Final = 5.0
"""Seconds in which a box is there even on a busy machine."""
INSIDE: Final = (f"{HELPER}/bin/minitango-student", "--inside")
"""What runs in a student's box, and there starts what was asked for."""
_PLANS: Final = 64


class Habits:
    """How many calls the attempts of each plan make: so many boxes are opened before they are asked for. Safe to use
    from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: OrderedDict[str, int] = OrderedDict()

    def expected(self, spec: str) -> int:
        """Of a plan, by its digest, what the last attempt made; MOST where none has been seen."""
        with self._lock:
            return self._calls.get(spec, MOST)

    def learn(self, spec: str, made: int) -> None:
        """An attempt has made so many."""
        with self._lock:
            self._calls[spec] = made
            self._calls.move_to_end(spec)
            while len(self._calls) > _PLANS:
                self._calls.popitem(last=False)


class Used(Struct, frozen=True):
    """What the calls of a step came to."""

    calls: int = 0
    cpu: float | None = 0.0
    """Seconds, of all together; None: not known."""
    memory: int | None = 0
    """Peak bytes of the largest; None: not known."""
    notices: tuple[Notice, ...] = ()
    waited: float = 0.0
    """Seconds, beyond what is usual, for which calls waited for their boxes: the grader's time, spent by us."""

    def added_to(self, usage: Usage) -> Usage:
        """The step's own usage with theirs: CPU time added, and of the memory what was most."""
        cpu = None if usage.cpu is None or self.cpu is None else usage.cpu + self.cpu
        memory = None if usage.memory is None or self.memory is None else max(usage.memory, self.memory)
        return Usage(wall=usage.wall, cpu=cpu, memory=memory)


class Students:
    """The calls of one guarded step. `start`, then `accept` for each connection, then `close`, which leaves nothing."""

    def __init__(
        self,
        place: Sandbox,
        plan: Plan,
        number: int,
        *,
        image: str,
        token: str,
        submission: Sequence[File],
        collected: Sequence[File],
        expected: int = MOST,
    ) -> None:
        """Boxes are opened in `place`; `expected`: how many calls there may well be."""
        self._place = place
        self._name = plan.steps[number].name
        self._spec = student_spec(plan, number, image=image, token=token)
        self._env = student_environment(number)
        self._submission = submission
        self._collected = collected
        self._expected = expected
        self._lock = threading.Lock()
        self._closing = False
        self._kill: Callable[[], None] = lambda: None
        self._spare: Future[Box] | None = None
        self._taken = 0
        self._made = 0
        self._calls: set[Call] = set()
        self._waiting: dict[Call, bool] = {}
        """Those whose caller is there, and has not been told the end, as they came; True: it is one too many in all."""
        self._left = threading.Condition(self._lock)
        """One of them is that no more, or all is over."""
        self._room = threading.Semaphore(AT_ONCE)
        """For boxes: one that is being closed still counts."""
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self._ends: list[End] = []
        self._over = 0.0
        """Monotonic time when the grader ended; 0: it has not."""
        self._waited = 0.0

    def start(self) -> None:
        """Begin to open the box of the first call, where there may well be one."""
        with self._lock:
            self._open_ahead()

    def on_failure(self, kill: Callable[[], None]) -> None:
        """Call this when a sandbox of ours failed: the grader waits in vain."""
        with self._lock:
            self._kill = kill
            failed = self._failure is not None
        if failed:
            kill()

    def accept(self, channel: Channel) -> None:
        """A program in the grader's box wants to call. Returns at once."""
        with self._lock:
            if self._closing:
                channel.close()
                return
            self._made += 1
            call = Call(channel, self)
            self._calls.add(call)
            self._waiting[call] = self._made > MOST
            self._threads = [each for each in self._threads if each.is_alive()] + [begin("call", self._serve, call)]

    def close(self) -> Used:
        """End every call and close every box; when this returns, no process of any is left. Raises what went wrong
        with a sandbox of ours, the first time."""
        with self._lock:
            self._closing = True
            self._left.notify_all()
            self._over = self._over or time.monotonic()
            open_calls, threads = list(self._calls), self._threads
            spare, self._spare = self._spare, None
        for call in open_calls:
            call.end()
        try:
            if spare is not None and spare.exception() is None:
                spare.result().close()
        finally:
            for each in threads:
                each.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return self._used()

    # --- what a call needs ----------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        """What student code may use in one call."""
        return self._spec.limits

    @contextlib.contextmanager
    def box(self) -> Iterator[Box]:
        """A box with the submission in it, that no call has had, and that is closed afterwards. Raises what the sandbox
        raises; ChannelClosed where all is over."""
        with self._room:
            with self._lock:
                if self._closing:
                    raise ChannelClosed
                spare, self._spare = self._spare, None
                self._taken += 1
                self._open_ahead()
            begun = time.monotonic()
            try:
                box = spare.result() if spare is not None else self._open()
            finally:
                with self._lock:
                    late = (self._over or time.monotonic()) - begun - PATIENCE
                    self._waited += max(0.0, late)
            try:
                yield box
            finally:
                box.close()

    def turn(self, call: Call) -> None:
        """Wait until this call may go on, as others have ended. BadCall, Misuse: it may not."""

        def may() -> bool:
            return self._closing or call not in self._waiting or list(self._waiting).index(call) < AT_ONCE

        with self._lock:
            if self._waiting.get(call):  # a hand-in that ends in each call has a grader make more of them
                raise BadCall(f"{MOST} calls have been made, and no more may be")
            if not self._left.wait_for(may, MAKE_WAY):
                raise Misuse(f"{AT_ONCE} calls are open, and no more may be at once")

    def told(self, call: Call) -> None:
        """The caller is about to be told the end, or has left: another one may take its turn."""
        with self._lock:
            self._waiting.pop(call, None)
            self._left.notify_all()

    def misused(self, why: str) -> None:
        """The grader has a mistake, for which no hand-in is to pay."""
        with self._lock:
            self._failure = self._failure or AssignmentError(
                f"its grader asked for a call that cannot be: {why}",
                key=f"step {self._name}",
                hint="correct the grader; what a call may ask for: docs/guarded.md",
                id="student_call",
            )

    def in_the_way(self, given: Iterable[File]) -> str:
        """Why these files cannot be beside the submission's; empty: they can, in place of those of their names."""
        files = {file.path for file in self._submission}
        folders = {folder for path in files for folder in parents(path)}
        for file in given:
            if file.path in folders:
                return f"{file.path!r} is a folder of the hand-in"
            above = next((folder for folder in parents(file.path) if folder in files), None)
            if above is not None:
                return f"{above!r} is a file, and {file.path!r} was to be below it"
            files.add(file.path)
            folders.update(parents(file.path))
        return ""

    def run(self, box: Box, accept: Calls) -> End:
        """Run what waits for a request in this box, whose own output is nothing to anybody."""
        end = box.run(INSIDE, env=self._env, output=lambda data: None, calls=accept)
        with self._lock:
            self._ends.append(end)
        return end

    def _open_ahead(self) -> None:
        if self._spare is None and not self._closing and self._taken < min(self._expected, MOST):
            spare: Future[Box] = Future()
            with contextlib.suppress(SandboxUnavailable):  # without a thread for it, who needs one opens it
                begin("spare box", self._work, spare)
                self._spare = spare

    def _work(self, spare: Future[Box]) -> None:
        try:
            spare.set_result(self._open())
        except BaseException as error:  # whoever takes it is to hear of it
            spare.set_exception(error)

    def _open(self) -> Box:
        box = self._place.open(self._spec)
        try:
            box.put(WORK, self._submission)
            if self._collected:
                box.put(COLLECTED, self._collected)
        except BaseException:
            box.close()
            raise
        return box

    def _serve(self, call: Call) -> None:
        try:
            call.serve()
        except BaseException as error:
            with self._lock:
                first = self._failure is None and not self._closing
                self._failure = error if first else self._failure
            if first:
                self._kill()
        finally:
            call.end()
            self.told(call)
            with self._lock:
                self._calls.discard(call)
                misused = isinstance(self._failure, AssignmentError)
            if misused:
                self._kill()

    def _used(self) -> Used:
        usages = [end.usage for end in self._ends]
        cpus = [usage.cpu for usage in usages if usage.cpu is not None]
        peaks = [usage.memory for usage in usages if usage.memory is not None]
        known = len(usages)
        said = [notice for end in self._ends for notice in notices(f"student code of step {self._name!r}", end)]
        return Used(
            calls=known,
            cpu=sum(cpus) if len(cpus) == known else None,
            memory=max(peaks, default=0) if len(peaks) == known else None,
            notices=tuple({notice.id: notice for notice in reversed(said)}.values()),
            waited=self._waited,
        )
