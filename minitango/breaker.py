"""A breaker: after failures in a row a thing is left alone for a while, then tried once."""

from __future__ import annotations

from minitango.retry import backoff


class Breaker:
    """Pure of clocks: `now` is monotonic seconds. Not thread-safe: its owner is one thread."""

    def __init__(self, *, after: int = 3, base: float = 1.0, most: float = 30.0) -> None:
        self._after = after
        self._base = base
        self._most = most
        self._failures = 0
        self._rests = 0
        self._until = 0.0

    @property
    def resting(self) -> bool:
        """Whether it opened and no success has closed it since."""
        return self._rests > 0

    def failed(self, now: float, *, certain: bool = False) -> bool:
        """Count a failure; `certain` opens at once. True where this opened it, or kept it open for longer."""
        if self._rests and now < self._until:
            return False  # one that was under way already
        self._failures += 1
        if not (certain or self._rests or self._failures >= self._after):
            return False
        self._rests += 1
        self._until = now + backoff(self._rests, base=self._base, most=self._most)
        return True

    def succeeded(self) -> bool:
        """True where this closed it."""
        was = self.resting
        self._failures = self._rests = 0
        self._until = 0.0
        return was

    def allowed(self, now: float, running: int) -> int | None:
        """How many may start now: None for any number, 0 while it rests, 1 to try (none while a try is running)."""
        if not self._rests:
            return None
        if now < self._until:
            return 0
        return 0 if running else 1

    def wait(self, now: float) -> float | None:
        """Seconds until a try is allowed; None where nothing is to be waited for."""
        return max(0.0, self._until - now) if self._rests else None
