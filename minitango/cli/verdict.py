"""A sample, held to what its assignment expects of it. Pure."""

from __future__ import annotations

from typing import Final

from minitango.assignment import Sample
from minitango.cli import show
from minitango.job import Outcome

TOLERANCE: Final = 1e-6


def title(sample: Sample) -> str:
    """What it is called."""
    return sample.name or sample.path


def expected(sample: Sample) -> str:
    """What it should get: a score, or an outcome."""
    return show.number(sample.score) if sample.score is not None else str(sample.outcome)


def wrong(sample: Sample, *, outcome: Outcome | None, score: float | None, reason: str) -> str:
    """In words, how what it got differs from that; empty where it does not."""
    wanted = sample.outcome or Outcome.GRADED
    if outcome is not wanted:
        return f"{outcome} instead of {wanted}" + (f": {reason}" if reason else "")
    if sample.score is not None and (score is None or abs(score - sample.score) > TOLERANCE):
        return f"scored {_exact(score)} instead of {_exact(sample.score)}"
    return ""


def _exact(score: float | None) -> str:
    return show.NOTHING if score is None else f"{score:.10g}"
