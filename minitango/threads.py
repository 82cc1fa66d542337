"""Threads of ours, where work for a job needs one, and what it means that the machine has none left."""

from __future__ import annotations

import threading
from collections.abc import Callable

from minitango.errors import SandboxUnavailable


def begin(name: str, work: Callable[..., object], *words: object) -> threading.Thread:
    """A thread of ours that has been started. As `start`."""
    thread = threading.Thread(target=work, args=words, name=f"minitango {name}", daemon=True)
    start(thread)
    return thread


def start(thread: threading.Thread) -> None:
    """Start it. SandboxUnavailable `sandbox_threads` where there may be no more: nobody's fault, and it passes. Whoever
    waits for what the thread was to do is to be told: it never begins."""
    try:
        thread.start()
    except RuntimeError as error:
        raise SandboxUnavailable(
            f"this machine, or what minitango runs under, has no more threads: {error}",
            hint="fewer --workers, or pids for each step; or a higher limit (ulimit -u, systemd's TasksMax, docker's "
            "--pids-limit)",
            id="sandbox_threads",
        ) from error
