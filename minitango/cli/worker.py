"""`minitango worker`: the engine, until it is stopped."""

from __future__ import annotations

import queue
import signal
import time

import click

from minitango.cli import show
from minitango.cli.grading import warn_of_weak_limits
from minitango.cli.progress import Images, describe, summary
from minitango.cli.settings import callback_options, grading_options, resolve, state_options
from minitango.cli.streams import drop_lost_terminal, tell
from minitango.cli.watching import Watch
from minitango.engine import GRACE, Engine, Event
from minitango.job import State
from minitango.text import one_line

INTERRUPTED = 130


@click.command(short_help="Grade what is queued, and what comes, until it is stopped.")
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=GRACE,
    show_default=True,
    metavar="SECONDS",
    help="What running jobs get to end in after the first signal.",
)
@click.option("-q", "--quiet", is_flag=True, help="Only what a person must hear of.")
@click.option("-v", "--verbose", is_flag=True, help="Say which limits hold here, and how.")
@click.option("--name", metavar="NAME", help="This node's name on its queue (default: made from the machine's).")
@state_options
@grading_options
@callback_options
def worker(grace: float, quiet: bool, verbose: bool, **where: object) -> int:
    """Grade what is queued, and what comes, until SIGTERM or Ctrl-C.

    At the first signal nothing more is begun and running jobs get the grace; at the second they go back to the queue
    at once. Nothing is lost either way. Where the first hand-ins of an assignment all fail in the same way, it says so.
    """
    settings = resolve(**where)  # type: ignore[arg-type]
    received: list[int] = []
    ending: queue.SimpleQueue[None] = queue.SimpleQueue()  # unlike an Event, safe in signal handlers
    opened: list[Engine] = []
    images = Images(quiet=quiet)
    watch = Watch(settings)

    def say(event: Event) -> None:
        if event.kind == "crashed":
            ending.put(None)
        text = images.line(event.message) if event.kind == "image" else describe(event)
        if not text and not quiet and event.kind != "callback_delivered":
            text = _line(event, opened)
        lines = [text] if text else []
        if opened and event.job is not None and event.kind in ("done", "dead"):
            lines += watch.ended(opened[0].store, event.job)
        for line in lines:
            tell(f"{time.strftime('%H:%M:%S')} {line}")

    engine = settings.open(on_event=say, paused=True)
    opened.append(engine)

    def stop(number: int, frame: object) -> None:
        drop_lost_terminal()
        received.append(number)
        engine.request_stop(release=len(received) > 1)
        ending.put(None)

    heeded = [
        number
        for number in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup, or `&` in a script
    ]
    old = {number: signal.signal(number, stop) for number in heeded}
    try:
        engine.resume()  # not before a signal would be heeded
        if verbose:
            warn_of_weak_limits(engine)
        if not quiet:
            assert engine.sandbox is not None
            waiting = show.plural(engine.store.counts()[State.QUEUED], "job")
            where_ = f"as node {engine.node} " if engine.store.shared else ""
            tell(f"grading in {engine.state} {where_}with {engine.sandbox.name}; {waiting} queued")
            for text in engine.store.remarks:
                tell(f"warning: {text}")
        ending.get()
        if received and not quiet and engine.store.counts()[State.RUNNING]:
            tell(f"stopping: running jobs get {grace:g} s (a second signal: at once)")
        engine.stop(grace=grace)
        engine.wait()
    finally:
        engine.stop(grace=0)
        for number, handler in old.items():
            signal.signal(number, handler)
    return INTERRUPTED if signal.SIGINT in received else 0


def _line(event: Event, opened: list[Engine]) -> str:
    job = event.job
    if job is None:
        return ""
    if event.kind == "started":
        became = "started"
    else:
        became = summary(show.see(opened[0].store, job) if opened else show.Seen(job))
    return f"{job.id} {one_line(job.assignment, 40)}/{one_line(job.student, 40)}: {became}"
