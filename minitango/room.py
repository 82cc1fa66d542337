"""Whether a disk has room for more work: what is nearly full is kept for the results of what was accepted."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path
from typing import Final

from minitango.errors import StoreFull
from minitango.text import human_size

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says where a disk, or what somebody may use of it, is full."""
_LEAST: Final = 64 << 20
_MOST: Final = 1 << 30

PRUNE: Final = "minitango prune --older-than 30d"
"""What makes room in a queue."""


def reserve(total: int) -> int:
    """Bytes of a disk of this size that nothing new is to use: a hundredth, from 64 MiB to 1 GiB; never more than an
    eighth."""
    return min(max(_LEAST, total // 100), _MOST, total // 8)


def check_room(folder: Path) -> None:
    """Refuse new work where the disk of this folder, which need not be there yet, is nearly full. StoreFull.

    It is looked at each time anew, so that work is taken again as soon as there is room.
    """
    try:
        folder = _standing(folder)
        disk = os.statvfs(folder)
    except OSError:
        return  # whoever writes there says what is the matter
    left = disk.f_bavail * disk.f_frsize
    if left < reserve(disk.f_blocks * disk.f_frsize):
        raise StoreFull(
            f"the disk of {folder} is nearly full ({human_size(left)} left): what is left is for the results of what "
            "is queued",
            place=folder,
            hint=f"{free_some(folder)}, or make room in this queue: {PRUNE}",
        )


def full(place: Path, so: str, *, queue: bool = False) -> StoreFull:
    """That the disk of a place is full, and so what; `queue`: a queue's, in which room can be made, too."""
    then = f"or make room in its queue: {PRUNE}" if queue else "then repeat"
    return StoreFull(f"the disk of {place} is full: {so}", place=place, hint=f"{free_some(place)}, {then}")


def free_some(place: Path) -> str:
    """What to do where the disk of a place is full, whether that is there yet or not."""
    return f"free some space (df -h {shlex.quote(str(_standing(place)))})"


def _standing(place: Path) -> Path:
    """The place, or the nearest folder above it that is there."""
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    return place
