"""Runner: a lease in, what became of it out. Step by step, each in a sandbox of its own. Knows nothing of queues.

Whose fault a thing is gets decided here, once: a student's (an outcome), the assignment's (Fail, not retried), or
ours (Fail, retried).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

from minitango import archive
from minitango.archive import File
from minitango.assignment import Plan
from minitango.attempt import Attempt, Sink, Stopped
from minitango.blobs import BlobStore, check_digest
from minitango.errors import (
    BlobError,
    ConfigError,
    MinitangoError,
    SandboxFailed,
    SandboxUnavailable,
    StoreError,
    reach_of,
)
from minitango.job import Ack, Cancelled, Fail, Failure, Finish, Lease, Release
from minitango.preflight import Preflight
from minitango.sandbox import Sandbox
from minitango.stopping import Stop
from minitango.students import Habits
from minitango.text import one_line

log = logging.getLogger("minitango")


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
        self._habits = Habits()
        self._bundle = functools.lru_cache(maxsize=8)(self._load_bundle)
        self._preflight = Preflight(sandbox, plan=self._plan, bundle=self._bundle, on_image=on_image, tell=tell)

    def run(self, lease: Lease, *, stop: Stop, sink: Sink | None = None) -> Ack | None:
        """Grade what the lease names. Never raises for anything that a submission, an assignment or a sandbox does.

        None: the lease was lost, there is nothing to say. When this returns, no process of the attempt is left.
        """
        try:
            _check(lease)
            while True:
                fit = self._preflight.fit(lease.spec)
                with self._sandbox.seat(lambda: stop.why is None, among=fit) as place:
                    if place is None:
                        return self._stopped(lease, stop)
                    images = self._images(place, lease.spec, stop, others=len(fit) > 1)
                    if images is not None:
                        return self._run(place, images, lease, stop, sink)
        except Stopped:
            return self._stopped(lease, stop)
        except SandboxUnavailable as error:
            if error.id == "sandbox_busy":
                return Release(lease)  # it has seen no sandbox, so that nothing speaks against either
            return Fail(lease, _failure(error), charge=False)
        except ConfigError as error:
            return Fail(lease, _failure(error), retry=False)
        except BlobError as error:
            # What cannot be read now, or is not where this node looks, speaks against no job; what is gone from its own
            # place does. Where several nodes look, bytes may be damaged on the way to one of them alone.
            charge = error.id == "blob_missing" or (error.id == "blob_corrupt" and not self._shared)
            return Fail(lease, _failure(error), charge=charge)
        except StoreError as error:
            if error.id == "record_damaged":
                return Fail(lease, _failure(error), retry=False)
            # what is to be graded is on a server that is away
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
        except (MinitangoError, ValueError):
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
            raise Stopped
        return images

    def _run(self, place: Sandbox, images: Sequence[str], lease: Lease, stop: Stop, sink: Sink | None) -> Finish:
        """Grade it there, from the first step to the last."""
        try:
            stop.begin()
            plan = self._plan(lease.spec)
            attempt = Attempt(place, plan, images, lease, stop, sink=sink, on_box=self._on_box, habits=self._habits)
            result = attempt.grade(self._blobs, self._bundle, self._sandbox.name)
        except SandboxUnavailable as error:
            if error.id == "sandbox_image_gone":
                self._preflight.forget(place, lease.spec)
            raise
        except Stopped:
            if stop.why in (None, "overdue"):
                raise SandboxFailed("the sandbox did not end in time and was killed", id="sandbox_overdue") from None
            raise
        return Finish(lease, result, tuple(attempt.outputs), self._grader(lease.spec, plan))

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


def _check(lease: Lease) -> None:
    """StoreError `record_damaged` where a lease cannot name what is to be graded."""
    try:
        check_digest(lease.spec)
        check_digest(lease.inputs)
    except ValueError as error:
        raise StoreError(
            f"the record of job {lease.job} in the store is damaged: {error}",
            hint="submit the same work again, it is graded anew",
            id="record_damaged",
        ) from error


def _failure(error: MinitangoError) -> Failure:
    return Failure(error.id, one_line(str(error), 1000), error.hint)
