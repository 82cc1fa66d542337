"""Which sentences of a sandbox's contract are shown in which places.

Each is, in both kinds of sandbox. What is made of them, or made another way, is the same code but for a part: there
only what goes through that part is tried, in the short form. `MINITANGO_LONG=1` tries all everywhere.
"""

from __future__ import annotations

import os

import pytest

BOTH = ("bubblewrap", "docker")
WATCHED = "bubblewrap-watched"
"""Other limits, other ways to end and to count, another filter of system calls."""
ELSEWHERE = "docker-elsewhere"
"""Other ways in for files of ours: the supervisor, the helper, /etc, bundles."""
FLEET = "fleet"
"""Another sandbox around the boxes: which of several opens one, and what it then passes on."""


def also(*places: str) -> pytest.MarkDecorator:
    """That a test is of these places too, beside BOTH."""
    return pytest.mark.also(*places)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("MINITANGO_LONG"):
        return
    left_out = [item for item in items if _is_elsewhere(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def _is_elsewhere(item: pytest.Item) -> bool:
    """Whether this is a test of a place where another has shown the same."""
    call = getattr(item, "callspec", None)
    if call is None or item.path.parent.name != "contract" or "sandbox" not in call.params:
        return False
    marks = [place for mark in item.iter_markers("also") for place in mark.args]
    return call.params["sandbox"] not in (*BOTH, *marks)
