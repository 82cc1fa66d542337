"""`minitango worker`: the engine, until it is stopped."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final

import click

from minitango.bell import HEARD
from minitango.cli import show
from minitango.cli.grading import tell_of_limits, warn_of_weak_limits
from minitango.cli.hurrying import hurry
from minitango.cli.interrupts import INTERRUPTED
from minitango.cli.journal import LEVELS, Journal, journal
from minitango.cli.numbers import between
from minitango.cli.options import callback_options, grading_options, state_options
from minitango.cli.progress import Images, describe, summary
from minitango.cli.settings import Settings, settled
from minitango.cli.streams import as_called, drop_lost_terminal
from minitango.cli.watching import Watch
from minitango.engine import GRACE, Engine
from minitango.errors import ConfigError, MinitangoError, StoreFull
from minitango.events import Event, Troubles
from minitango.job import State
from minitango.metrics import Metrics
from minitango.node import expected
from minitango.statedir import locate
from minitango.store import shown
from minitango.text import one_line, plural

MAX_GRACE: Final = 7 * 86_400
SIGNED_OFF: Final = 15
"""Seconds after which, or so, a worker that runs nothing has ended though its queue's server hangs: what it asked of
that last is waited for, and then that it signs off."""
LOOK: Final = 3.0
"""Seconds until a worker that could not begin, for want of room in the store, tries again."""


@click.command(short_help="Grade what is queued, and what comes, until it is stopped.")
@click.option(
    "--grace",
    type=str,
    callback=between(0, MAX_GRACE, measures="seconds"),
    default=GRACE,
    show_default=True,
    metavar="SECONDS",
    help="What running jobs get to end in after the first signal.",
)
@click.option("-q", "--quiet", is_flag=True, help="Only what a person must hear of.")
@click.option("-v", "--verbose", is_flag=True, help="Say which limits hold here, and how.")
@click.option("--name", metavar="NAME", help="This node's name on its queue (default: made from the machine's).")
@click.option(
    "--log",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What is said on stderr: lines for people, or an object a line.",
)
@click.option("--metrics", metavar="HOST:PORT", help="Serve metrics for Prometheus there; a port alone: on 127.0.0.1.")
@click.option(
    "--keep", metavar="AGE", help="Forget jobs that ended longer ago: 180d, forever (default; on Redis 400d)."
)
@state_options
@grading_options
@callback_options
def worker(grace: float, quiet: bool, verbose: bool, log: str, metrics: str | None, **where: object) -> int:
    """Grade what is queued, and what comes, until SIGTERM or Ctrl-C.

    At the first signal nothing more is begun and running jobs get the grace; at the second they go back to the queue
    at once. Nothing is lost either way. Where the first hand-ins of an assignment all fail in the same way, it says so.
    """
    with journal(log) as said:
        try:
            settings = settled(**where)
            said.node = expected(locate(settings.store, settings.state)[1], settings.name)
            return _work(settings, said, grace, address(metrics), quiet=quiet, verbose=verbose)
        except MinitangoError as error:
            return said.failed(error)


def _work(
    settings: Settings,
    said: Journal,
    grace: float,
    metrics: tuple[str, int] | None,
    *,
    quiet: bool,
    verbose: bool,
) -> int:
    received: list[int] = []
    ending: queue.SimpleQueue[None] = queue.SimpleQueue()  # unlike an Event, safe in signal handlers
    again: queue.SimpleQueue[None] = queue.SimpleQueue()
    opened: list[Engine] = []
    images = Images(quiet=quiet)
    watch = Watch(settings)
    measured: list[Metrics] = []
    held: list[Event] | None = []
    """What is graded in, until it is sure that this worker grades: one that is refused says that alone."""

    def say(event: Event) -> None:
        if held is not None and event.kind == "image" and not images.is_progress(event.message):
            held.append(event)
            return
        if event.kind == "crashed":
            ending.put(None)
        for each in measured:
            each.hear(event)
        text = images.line(event.message) if event.kind == "image" else describe(event)
        if not text and not quiet and event.kind != "callback_delivered":
            text = _line(event, opened)
        if text:
            said.event(event.kind, LEVELS[event.kind], text, event.job)
        if opened and event.job is not None and event.kind in ("done", "dead"):
            for line in watch.ended(opened[0].store, event.job):
                said.event("grader_suspected", "warning", line)

    if settings.overlooked:
        said.say("store", "warning", settings.overlooked)
    engine = _open(settings, say)
    opened.append(engine)
    said.node = engine.node
    with ExitStack() as undo:

        def stop(number: int, frame: object) -> None:
            drop_lost_terminal()
            received.append(number)
            engine.request_stop(release=len(received) > 1)
            ending.put(None)
            if len(received) > 1:
                again.put(None)

        def leave() -> None:
            text = "the queue does not answer, and this node leaves all the same: it is taken for lost in a while"
            said.say("stopping", "warning", f"{text}, and what it graded goes back to the queue then")
            os._exit(INTERRUPTED)  # what runs in sandboxes ends with us

        heeded = [
            number
            for number in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
            if signal.getsignal(number) is not signal.SIG_IGN  # nohup, or `&` in a script
        ]
        for number in heeded:
            undo.callback(signal.signal, number, signal.signal(number, stop))
        undo.callback(engine.stop, grace=0)
        served = ""
        if metrics is not None:
            made = Metrics(engine)
            served = made.serve(*metrics)
            undo.callback(made.close)
            engine.on_box = made.box_opened
            measured.append(made)
        taken, held = held or [], None
        for event in taken:
            say(event)
        engine.resume()  # not before a signal would be heeded
        warn_of_weak_limits(engine, lambda text: said.say("limits", "warning", text))
        if verbose:
            tell_of_limits(engine, lambda text: said.say("limits", "info", text))
        if not quiet:
            assert engine.sandbox is not None
            waiting = plural(engine.store.counts()[State.QUEUED], "job")
            where = f"as node {engine.node} of {shown(settings.store)} " if engine.store.shared else ""
            said.say("ready", "info", f"grading in {engine.state} {where}with {engine.sandbox.name}; {waiting} queued")
            for text in engine.store.remarks:
                said.say("store", "warning", as_called(text))
            if served:
                said.say("metrics", "info", f"metrics at {served}")
        while True:
            with suppress(queue.Empty):
                ending.get(timeout=HEARD)  # not without end: see `HEARD`
                break
        if received:
            hurry(engine.store, again, leave)
            if not quiet:
                how_long = f", in some {SIGNED_OFF} s where the queue does not answer" if engine.store.shared else ""
                what = f"running jobs get {grace:g} s" if engine.busy else f"this node signs off{how_long}"
                said.say("stopping", "info", f"stopping: {what} (a second signal: at once)")
        engine.stop(grace=grace)
        engine.wait()
    return INTERRUPTED if signal.SIGINT in received else 0


def _open(settings: Settings, say: Callable[[Event], None]) -> Engine:
    """The engine, once it can be noted that it is there: where the store has no room for that, it is waited for."""
    troubles = Troubles(lambda kind, job, message: say(Event(kind, job, message)))
    while True:
        try:
            engine = settings.open(on_event=say, paused=True)
        except StoreFull as error:
            troubles.meet("worker", error)
            time.sleep(LOOK)
        else:
            troubles.over("worker")
            return engine


def address(text: str | None) -> tuple[str, int] | None:
    """The host and the port of HOST:PORT, or of a port alone. ConfigError `metrics`."""
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--metrics {text[:80]!r} names no port", hint="--metrics 127.0.0.1:9464", id="metrics")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def _line(event: Event, opened: list[Engine]) -> str:
    job = event.job
    if job is None:
        return ""
    if event.kind == "started":
        became = "started"
    else:
        became = summary(show.see(opened[0].store, job) if opened else show.Seen(job))
    return f"{job.id} {one_line(job.assignment, 40)}/{one_line(job.student, 40)}: {became}"
