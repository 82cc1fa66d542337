"""The exit status is the verdict: 0 is full marks, anything else is none."""

from __future__ import annotations

from minitango.job import Notice
from minitango.results import Evidence, Report
from minitango.text import ending


def read(evidence: Evidence) -> Report:
    """Full marks for exit status 0, zero for any other. Never raises.

    A death by a signal is no verdict of the command: no score. The maximum is the assignment's, else 1.
    """
    most = 1.0 if evidence.max_score is None else evidence.max_score
    if evidence.signal is not None or evidence.exit_status is None:
        how = ending(evidence.exit_status, evidence.signal)
        return Report(None, most, f"no verdict: the last step {how}")
    if evidence.exit_status == 0:
        return Report(most, most)
    missing = "exit status 127 is what a shell says where a command of its own was not found: is it the image's?"
    notices = (Notice("exit_127", missing),) if evidence.exit_status == 127 else ()
    return Report(0.0, most, f"the last step {ending(evidence.exit_status)}", warnings=notices)
