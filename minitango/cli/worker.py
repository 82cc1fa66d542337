"""`minitango worker`: the engine, until it is stopped."""

from __future__ import annotations

import signal
import sys
import threading
import time

import click

from minitango.cli.progress import describe, summary
from minitango.cli.settings import grading_options, resolve, state_options
from minitango.cli.show import plural
from minitango.engine import GRACE, Event
from minitango.job import State
from minitango.text import one_line

INTERRUPTED = 130


@click.command()
@click.option("--grace", type=click.FloatRange(0), default=GRACE, show_default=True, metavar="SECONDS")
@click.option("-q", "--quiet", is_flag=True, help="Only what a person must hear of.")
@state_options
@grading_options
def worker(grace: float, quiet: bool, **where: object) -> int:
    """Grade what is queued, and what comes, until SIGTERM or Ctrl-C.

    At the first signal nothing more is begun and running jobs get GRACE seconds; at the second they go back to the
    queue at once. Nothing is lost either way.
    """
    settings = resolve(**where)  # type: ignore[arg-type]
    received: list[int] = []
    ending = threading.Event()

    def say(event: Event) -> None:
        if event.kind == "crashed":
            ending.set()
        text = describe(event)
        job = event.job
        if not text and job is not None and not quiet:
            who = f"{one_line(job.assignment, 40)}/{one_line(job.student, 40)}"
            text = f"{job.id} {who}: {event.kind if event.kind == 'started' else summary(job)}"
        if text:
            print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    engine = settings.open(on_event=say)

    def stop(number: int, frame: object) -> None:
        received.append(number)
        engine.request_stop(release=len(received) > 1)
        ending.set()

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert engine.sandbox is not None
        if not quiet:
            waiting = plural(engine.store.counts()[State.QUEUED], "job")
            print(
                f"grading in {engine.state} with {engine.sandbox.name}; {waiting} queued", file=sys.stderr, flush=True
            )
        ending.wait()
        engine.stop(grace=grace)
        engine.wait()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    return INTERRUPTED if signal.SIGINT in received else 0
