"""What a worker makes of the first jobs of each assignment: where they all fail in the same way it says so, once."""

from __future__ import annotations

import functools
import shlex

from minitango.cli import doubts
from minitango.cli.handins import origin
from minitango.cli.settings import Settings
from minitango.cli.streams import as_called
from minitango.cli.suspicion import ENOUGH, Suspicion, alike, clears, suspicion
from minitango.errors import StoreError
from minitango.job import Job, State
from minitango.store import Query, Store
from minitango.text import one_line, plural


class Watch:
    """Hears of every job that ends here. An assignment whose files change is another one. For one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._first: dict[str, dict[str, Job]] = {}
        """By plan: of each student the first one that ended."""
        self._settled: set[str] = set()
        """Plans of which there is nothing more to say."""

    def ended(self, store: Store, job: Job) -> list[str]:
        """A job is done, or dead. Returns the lines that a person has to hear now, most often none.

        A student who hands in again and again is heard once. Whoever earned something, now or before, clears the
        grader, and so do two who failed for different reasons, and one whom the grader itself blames.
        """
        if job.spec in self._settled or job.state not in (State.DONE, State.DEAD):
            return []
        first = self._first.setdefault(job.spec, {})
        first.setdefault(job.student, job)
        told: list[str] = []
        try:
            if not clears(job) and not doubts.blamed(store, job) and alike(list(first.values())):
                found = suspicion(list(first.values()), enough=ENOUGH, silent=functools.partial(doubts.silent, store))
                if found is None:
                    return []
                told = self._words(found, store)
        except StoreError:  # with the next one that ends
            return []
        del self._first[job.spec]
        self._settled.add(job.spec)
        return told

    def _words(self, found: Suspicion, store: Store) -> list[str]:
        """Nothing where an earlier grade clears the grader."""
        job = found.job
        known = [each for each in store.list(Query(assignment=job.assignment)) if each.spec == job.spec]
        if any(map(clears, known)):
            return []
        lines: list[str] = []
        name, flags = one_line(job.assignment, 60), self._settings.flags
        doubts.tell_of(found, store, self._settings, say=lines.append, name=name)
        queued = sum(each.state is State.QUEUED for each in known)
        again = f"correct it, and try it: {doubts.on_your_own(origin(job), flags)}"
        if queued:
            cancel = f"minitango jobs cancel --assignment {shlex.quote(job.assignment)}{flags}"
            lines.append(f"  {plural(queued, 'hand-in')} of it queued: the worker goes on with them")
            again = f"{cancel}; {again}; then submit them again"
        return [*lines, f"  next: {as_called(one_line(again, 1000))}"]
