"""Ctrl-C, SIGTERM and a terminal that is closed: what a command that is ended so leaves, and says."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from minitango.cli import streams

INTERRUPTED: Final = 130
"""The exit code."""
_AGAIN: Final = 1.0
"""Seconds within which a second Ctrl-C is the first one, typed twice: what is half made is being taken away."""


class Interrupt:
    """What a signal's handler raises is lost where it falls into what Python itself calls, as at the end of an import:
    so whoever waits looks here, too."""

    asked = False


@contextlib.contextmanager
def terminated_like_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP interrupt, as Ctrl-C does, so that the same care is taken. `nohup` stays in force."""

    def interrupt(number: int, frame: object) -> None:
        Interrupt.asked = True
        streams.drop_lost_terminal()
        raise KeyboardInterrupt

    Interrupt.asked = False
    old = _heeded_by(interrupt)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def whole_or_told(how_far: Callable[[], str]) -> Iterator[None]:
    """What is in here is ended by Ctrl-C, SIGTERM and SIGHUP, and takes away what it has half made: KeyboardInterrupt
    with what `how_far` says then of what is done, what is not, and how to go on. Once it is through they come too late.
    """
    at = -_AGAIN

    def interrupt(number: int, frame: object) -> None:
        nonlocal at
        streams.drop_lost_terminal()
        if time.monotonic() - at > _AGAIN:
            at = time.monotonic()
            raise KeyboardInterrupt

    _heeded_by(interrupt)
    try:
        yield
        ignore()
    except KeyboardInterrupt as error:
        try:
            said = how_far()
        except KeyboardInterrupt:
            said = "nobody looked how far it came; the same command tells, or begins anew"
        raise KeyboardInterrupt(streams.as_called(f"interrupted: {said}")) from error


def ignore() -> None:
    """Let no further Ctrl-C, SIGTERM or SIGHUP change how this command ends."""
    _heeded_by(signal.SIG_IGN)


def _heeded_by(handler: signal._HANDLER) -> dict[int, signal._HANDLER]:
    """Have this handle the signals that end a command, but for those that are ignored; what did so before. For the main
    thread; nothing in another."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded}
