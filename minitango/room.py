"""Whether a disk has room for more work: what is nearly full is kept for the results of what was accepted."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Final

from minitango.errors import StoreFull
from minitango.text import human_size

_LEAST: Final = 64 << 20
_MOST: Final = 1 << 30


def reserve(total: int) -> int:
    """Bytes of a disk of this size that nothing new is to use: a hundredth, from 64 MiB to 1 GiB; never more than an
    eighth."""
    return min(max(_LEAST, total // 100), _MOST, total // 8)


def check_room(folder: Path) -> None:
    """Refuse new work where the disk of this folder, which need not be there yet, is nearly full. StoreFull.

    It is looked at each time anew, so that work is taken again as soon as there is room.
    """
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        disk = os.statvfs(folder)
    except OSError:
        return  # whoever writes there says what is the matter
    left = disk.f_bavail * disk.f_frsize
    if left < reserve(disk.f_blocks * disk.f_frsize):
        raise StoreFull(
            f"the disk of {folder} is nearly full ({human_size(left)} left): what is left is for the results of what "
            "is queued",
            hint=f"free some space (df -h {shlex.quote(str(folder))}), "
            "or make room in this queue: minitango prune --older-than 30d",
        )
