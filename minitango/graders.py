"""What grades here, beside the hand-in: which images are known, and so what makes two submissions the same work."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from minitango import identity, statedir
from minitango.errors import StoreError

if TYPE_CHECKING:
    from minitango.assignment import Assignment, Plan

log = logging.getLogger("minitango")


class Graders:
    """Of one engine. Safe from any thread."""

    def __init__(self, state: Path, kind: str, *, grades: bool, shared: bool) -> None:
        """`kind` of sandbox; `grades`: this engine does, and notes what it learns; `shared`: others grade, too."""
        self._state = state
        self._kind = kind
        self._grades = grades
        self._shared = shared
        self._images = statedir.known_images(state, kind)
        self._lock = threading.Lock()

    def images(self) -> statedir.Images:
        """As the engine that grades here last knew them."""
        if not self._grades:
            return statedir.known_images(self._state, self._kind)
        with self._lock:
            return dict(self._images)

    def of(self, assignment: Assignment, plan: str, images: statedir.Images) -> tuple[str, ...]:
        """What grades by this plan, as `work_key` takes it, with these images known."""
        if self._shared:
            return identity.grader(plan, identity.ANYWHERE, [], {})
        return identity.grader(plan, self._kind, [step.image for step in assignment.steps], images)

    def by(self, spec: str, plan: Plan) -> tuple[str, ...]:
        """What grades here by this plan, now that its images are had; empty: what it was submitted for."""
        if self._shared:
            return ()
        return identity.grader(spec, self._kind, [step.image for step in plan.steps], self.images())

    def note(self, name: str, digest: str) -> None:
        """An image was prepared."""
        with self._lock:
            first, now = self._images.pop(name, (digest, ""))
            self._images[name] = first, digest  # the latest are last
            if now == digest:
                return
            try:
                statedir.introduce(self._state, self._kind, self._images)
            except StoreError as error:  # only those who submit elsewhere would have liked to know
                log.warning("%s", error)
