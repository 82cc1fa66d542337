"""`minitango nodes`: who grades this queue; have one take no more jobs, or some again; forget one that is gone."""

from __future__ import annotations

import click

from minitango import statedir
from minitango.cli import show
from minitango.cli.options import state_options
from minitango.cli.records import NodeRecord, NodeRecords
from minitango.cli.settings import Settings
from minitango.cli.streams import out, program, tell
from minitango.cli.verbs import Verbs, queue_of
from minitango.engine import Engine
from minitango.errors import ConfigError
from minitango.job import State
from minitango.node import overdue
from minitango.store import Node, Query
from minitango.text import human_seconds, one_line, plural


@click.group(cls=Verbs, short_help="Look at who grades this queue: list, drain, resume, forget.")
@state_options
def nodes(**where: object) -> None:
    """Look at who grades this queue: list, drain, resume, forget. Alone, or with options, it is `nodes list`."""
    click.get_current_context().obj = where


@nodes.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@state_options
def list_nodes(as_json: bool = False, **where: object) -> int:
    """List the nodes of this queue, what each grades and offers, and when it was last heard of."""
    settings = queue_of(where)
    with settings.open_existing() as engine:
        now = engine.store.now()
        running = engine.jobs(Query(states=(State.RUNNING,)))
        known = engine.store.nodes()
        found = [_record(engine, node, now, sum(job.node == node.name for job in running)) for node in known]
        lost_in = {node.name: node.good_for - (now - node.seen) for node in known}
        queued = engine.store.counts()[State.QUEUED]
        away = sorted(set(engine.store.books().drained) - {node.name for node in found})
    if as_json:
        show.print_json(NodeRecords(nodes=tuple(found)))
        return 0
    if found:
        titles = ["node", "state", "jobs", "sandbox", "offers", "heard of", "host"]
        out(show.table(titles, [_row(node) for node in found], fixed=("node", "state")))
    if away:
        names = one_line(", ".join(away), 200)
        back = f"{program()} nodes resume {one_line(away[0], 64)}{settings.flags}"
        tell(f"drained, and not here: {names}; next: {back}")
    for node in found:
        if node.state == "overdue":
            name, silent, rest = one_line(node.name, 64), human_seconds(node.silent), human_seconds(lost_in[node.name])
            tell(f"{name} is overdue: nothing was heard of it for {silent}; it is taken for lost in {rest}")
    if not any(node.state in ("ready", "draining", "overdue") for node in found):
        tell(f"nobody grades here, and {plural(queued, 'job')} queued; next: {program()} worker{settings.flags}")
    return 0


def _record(engine: Engine, node: Node, now: float, running: int) -> NodeRecord:
    silent = max(0.0, now - node.seen)
    # of a queue that is not shared the state directory's lock is the sign of life
    alive = silent < node.good_for if engine.store.shared else statedir.running(engine.state) is not None
    if not alive:
        state = "lost"
    elif engine.store.shared and overdue(node, now):
        state = "overdue"
    else:
        state = "ready" if not node.draining else "draining" if running else "drained"
    return NodeRecord(
        name=node.name,
        state=state,
        running=running,
        slots=node.slots,
        sandbox=node.sandbox,
        capabilities=node.capabilities,
        seen=node.seen,
        silent=silent,
        host=node.host,
        pid=node.pid,
        version=node.version,
        started=node.started,
    )


def _row(node: NodeRecord) -> list[str]:
    return [
        one_line(node.name, 64),
        node.state,
        f"{node.running}/{node.slots}",
        one_line(node.sandbox, 20),
        one_line(", ".join(node.capabilities) or "-", 60),
        f"{human_seconds(node.silent)} ago",
        f"{one_line(node.host, 40)}:{node.pid}",
    ]


@nodes.command()
@click.argument("name")
@state_options
def drain(name: str, **where: object) -> int:
    """Have a node begin no more jobs, now and after a restart; what it grades goes on to its end."""
    return _tell_node(name, where, on=True)


@nodes.command()
@click.argument("name")
@state_options
def resume(name: str, **where: object) -> int:
    """Have a node that was drained take jobs again."""
    return _tell_node(name, where, on=False)


def _tell_node(name: str, where: dict[str, object], *, on: bool) -> int:
    settings = queue_of(where)
    with settings.open_existing() as engine:
        if not engine.store.drain(name, on):
            raise _unknown(engine, name, settings)
    if on:
        tell(f"{name} begins no more jobs; see: {program()} nodes{settings.flags}")
    else:
        tell(f"{name} takes jobs again")
    return 0


@nodes.command()
@click.argument("name")
@state_options
def forget(name: str, **where: object) -> int:
    """Take a node that is gone off the list. Its jobs need no help: they go back when their leases lapse."""
    settings = queue_of(where)
    with settings.open_existing() as engine:
        node = next((node for node in engine.store.nodes() if node.name == name), None)
        if node is None:
            if not engine.store.drain(name, False):  # one that left, and was drained
                raise _unknown(engine, name, settings)
        elif (found := _record(engine, node, engine.store.now(), 0)).state != "lost":
            raise _alive(found, node.good_for, shared=engine.store.shared)
        else:
            engine.store.drain(name, False)
            engine.store.leave(name)
    tell(f"{name} is off the list")
    return 0


def _alive(node: NodeRecord, good_for: float, *, shared: bool) -> ConfigError:
    stop = f"stop it (process {node.pid} on {node.host}), or: minitango nodes drain {node.name}"
    if not shared:  # its directory's lock says so, now
        return ConfigError(f"node {node.name} is alive", hint=stop, id="node_alive")
    rest = human_seconds(max(1.0, good_for - node.silent))
    return ConfigError(
        f"node {node.name} was last heard of {human_seconds(node.silent)} ago, and counts as alive for "
        f"{human_seconds(good_for)} after that",
        hint=f"if it died, the same command again in {rest}; else {stop}",
        id="node_alive",
    )


def _unknown(engine: Engine, name: str, settings: Settings) -> ConfigError:
    names = [node.name for node in engine.store.nodes()]
    known = f"there are {', '.join(names)}" if names else "there is none yet"
    return ConfigError(
        f"no node is called {name!r}: {known}", hint=f"minitango nodes{settings.flags}", id="node_unknown"
    )
