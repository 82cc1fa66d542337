"""Named places where a test may kill this process, to prove that nothing is lost there.

`MINITANGO_FAILPOINT=store.exchange.before_commit:3` kills the process, as `kill -9` would, when that place
is reached for the third time. Unset, a failpoint costs one comparison.
"""

from __future__ import annotations

import os
import signal

_wanted, _, _count = os.environ.get("MINITANGO_FAILPOINT", "").partition(":")
_left = int(_count or 1)


def failpoint(name: str) -> None:
    """Die here if a test asked for it."""
    global _left
    if _wanted and name == _wanted:
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
