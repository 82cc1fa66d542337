"""One Redis server under many nodes: what becomes of the waits, and of the server, on the night of a deadline?

    python bench/nodes.py [--students N] [--nodes N] [--slots S] [--minutes M] [--deaths D]
    python bench/nodes.py --check       # hold the model to a measured run of real nodes

Simulates a queue on one server, which does one thing at a time: it takes a submit, tells every node of it, answers each
idle node that asks (all but the first are told that there is nothing), records what ended, and hears the heartbeats.
Arrivals and grading times are those of `capacity.py`. Nodes die, if asked for (`--deaths`, of each node a day); what
they ran is taken over when its lease has lapsed, and they come back after five minutes.

What each request costs the server is measured first, on a server of our own: its CPU time, divided by how many there
were. Prints how long jobs wait, and how busy the server is in the busiest minute.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.capacity import arrivals, durations, minutes, quantile
from bench.engine import nothing, redis_server
from minitango import Assignment, Engine, Step, Submission
from minitango.engine import LEASE_FOR
from minitango.job import Finish, JobSpec, Outcome, Result
from minitango.leases import REAP
from minitango.node import BEAT
from minitango.sandbox import End
from minitango.store import Node
from minitango.store._redis_link import QUIET
from minitango.store.redis import RedisStore
from minitango.testing import FakeRun, FakeSandbox

WAY = 0.0005
"""Seconds from a node to the server, or back."""
AWAY = 300.0
"""Seconds for which a node that died is gone."""


class Costs(NamedTuple):
    """Seconds of the server's time."""

    submit: float
    """A job that is handed in, with its files."""
    ask: float
    """An exchange that brings nothing."""
    turn: float
    """What a job adds to exchanges, claimed once and recorded once."""
    tell: float
    """A change that one node is told of."""
    beat: float
    reap: float


def measured_costs(times: int = 2000) -> Costs:
    with redis_server() as socket:
        url = f"unix://{socket}"
        store = RedisStore(url)
        client = store._link._quick

        def cost(work: Callable[[], object]) -> float:
            before = _cpu(client)
            work()
            return _cpu(client) - before

        specs = [
            JobSpec(assignment="bench", student=f"s{n}", spec="0" * 64, inputs=f"{n:064x}", key=f"k{n}")
            for n in range(times)
        ]
        with tempfile.TemporaryDirectory() as state:
            blobs = store.blobs(Path(state))
            submit = cost(lambda: [(blobs.put_many([b"%d" % n]), store.submit([one])) for n, one in enumerate(specs)])
        result = Result(Outcome.GRADED, score=1.0, max_score=1.0)

        def turns() -> None:
            held: Sequence[Any] = ()
            for _ in range(times // 4 + 1):
                done = store.exchange([Finish(lease, result) for lease in held], claim=4, node="a")
                held = done.leases

        turn = cost(turns)
        ask = cost(lambda: [store.exchange(claim=4, node="a") for _ in range(times)]) / times
        node = Node(name="a", slots=4, sandbox="fake", instance="i", started=0.0)
        beat = cost(lambda: [store.beat(node) for _ in range(times)]) / times
        reap = cost(lambda: [store.reap() for _ in range(times)]) / times
        ears = [store.watch(lambda: None) for _ in range(20)]
        tell = cost(lambda: [client.publish(store._link.key("changed"), "") for _ in range(times)]) / times / len(ears)
        for stop in ears:
            stop()
        store.close()
    return Costs(submit / times, ask, max(0.0, turn / times - ask / 4), tell, beat, reap)


def _cpu(client: Any) -> float:
    """Seconds that the server computed so far."""
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


class Fleet:
    """The model. `run` once."""

    def __init__(
        self, come: Sequence[float], take: Sequence[float], nodes: int, slots: int, costs: Costs, deaths: float = 0.0
    ) -> None:
        """`deaths`: of each node, a second."""
        self._come, self._take, self._costs = come, take, costs
        self._slots = slots
        self._deaths = deaths
        self._draw = random.Random(3)
        own = nodes * (costs.beat / BEAT + costs.reap / REAP)
        self._slower = 1 / max(1e-3, 1 - own)
        """By how much all else takes longer, beside heartbeats and the like."""
        self.own = own
        self._free = [slots] * nodes
        self._idle = set(range(nodes))
        self._running: list[dict[int, int]] = [{} for _ in range(nodes)]
        """Of each node: job -> attempt."""
        self._alive = [True] * nodes
        self._attempt = [0] * len(come)
        self._waiting: deque[int] = deque()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._number = 0
        self._server = -math.inf
        self._waked = -math.inf
        self._left = len(come)
        self.began = [math.nan] * len(come)
        self.ended = -math.inf
        self.busy: dict[int, float] = {}
        """Minute -> seconds for which the server was busy."""
        self.died = 0

    def run(self) -> None:
        for job, at in enumerate(self._come):
            self._at(at, lambda now, job=job: self._submit(now, job))  # type: ignore[misc]
        if self._deaths:
            for node in range(len(self._free)):
                self._at(self._come[0] + self._draw.expovariate(self._deaths), lambda now, n=node: self._die(now, n))  # type: ignore[misc]
        while self._events and self._left:
            now, _, act = heapq.heappop(self._events)
            act(now)

    def _at(self, when: float, act: Callable[[float], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, act))

    def _serve(self, now: float, cost: float) -> float:
        """The server does this when it comes to it. When it is done."""
        cost *= self._slower
        self._server = max(now, self._server) + cost
        minute = int(self._server // 60)
        self.busy[minute] = self.busy.get(minute, 0.0) + cost
        return self._server

    def _submit(self, now: float, job: int) -> None:
        done = self._serve(now + WAY, self._costs.submit)
        self._at(done, lambda now: self._queue(now, job))

    def _queue(self, now: float, job: int) -> None:
        self._waiting.append(job)
        self._tell(now)

    def _tell(self, now: float) -> None:
        """Everybody hears of it; who is idle asks. Whoever has just heard waits a moment before it listens again."""
        done = self._serve(now, self._costs.tell * len(self._free))
        when = max(done + WAY, self._waked + QUIET)
        if when > self._waked:
            self._waked = when
            self._at(when, self._wake)

    def _wake(self, now: float) -> None:
        asking = list(self._idle)
        self._draw.shuffle(asking)
        for n, node in enumerate(asking):
            if not self._waiting:
                self._serve(now + WAY, self._costs.ask * (len(asking) - n))
                return
            self._claim(now, node, ended=0)

    def _claim(self, now: float, node: int, *, ended: int) -> None:
        """An exchange: `ended` are recorded, and as many claimed as there is room for."""
        count = min(self._free[node], len(self._waiting))
        done = self._serve(now + WAY, self._costs.ask + self._costs.turn * (count + ended) / 2) + WAY
        for _ in range(count):
            job = self._waiting.popleft()
            self._attempt[job] += 1
            self._running[node][job] = attempt = self._attempt[job]
            if math.isnan(self.began[job]):
                self.began[job] = done
            self._at(done + self._take[job], lambda now, j=job, a=attempt: self._end(now, node, j, a))  # type: ignore[misc]
        self._free[node] -= count
        if self._free[node]:
            self._idle.add(node)
        else:
            self._idle.discard(node)

    def _end(self, now: float, node: int, job: int, attempt: int) -> None:
        if self._running[node].get(job) != attempt:
            return  # the node died meanwhile
        del self._running[node][job]
        self._free[node] += 1
        self._left -= 1
        self.ended = now
        self._claim(now, node, ended=1)

    def _die(self, now: float, node: int) -> None:
        self.died += 1
        lost, self._running[node], self._free[node] = list(self._running[node]), {}, 0
        self._idle.discard(node)
        if lost:
            lapsed = now + self._draw.uniform(2 / 3, 1) * LEASE_FOR + self._draw.uniform(0, REAP)
            self._at(lapsed, lambda now: self._take_over(now, lost))
        self._at(now + AWAY, lambda now: self._come_back(now, node))

    def _take_over(self, now: float, lost: Sequence[int]) -> None:
        self._waiting.extendleft(reversed(lost))  # their places are those of their submission
        self._tell(self._serve(now, self._costs.reap + self._costs.turn * len(lost)))

    def _come_back(self, now: float, node: int) -> None:
        self._free[node] = self._slots
        self._claim(now, node, ended=0)
        self._at(now + self._draw.expovariate(self._deaths), lambda now: self._die(now, node))

    def waits(self) -> list[float]:
        return [began - at for began, at in zip(self.began, self._come, strict=True)]


def measured(come: Sequence[float], take: Sequence[float], nodes: int, slots: int, scale: float) -> list[float]:
    """The waits of the same jobs on real nodes, `scale` times as fast, in seconds of the course."""
    begun: dict[bytes, float] = {}

    def inside(run: FakeRun) -> End:
        number = next(file.data for path, file in run.files.items() if path.endswith("/a"))
        begun.setdefault(number, time.monotonic())
        time.sleep(take[int(number)] / scale)
        return nothing(run)

    assignment = Assignment(name="nodes", steps=(Step(command=("true",)),))
    came: list[float] = []
    with redis_server() as socket, tempfile.TemporaryDirectory() as folder:
        url = f"unix://{socket}"
        engines = [
            Engine.open(url, state=f"{folder}/{n}", workers=slots, sandbox=FakeSandbox(inside), name=f"n{n}")
            for n in range(nodes)
        ]
        with Engine.open(url, state=f"{folder}/submitter", workers=0) as submitter:
            start = time.monotonic()

            def hand_in() -> None:
                for number, at in enumerate(come):
                    time.sleep(max(0.0, start + (at - come[0]) / scale - time.monotonic()))
                    came.append(time.monotonic())
                    submitter.submit(Submission(assignment, f"s{number}", {"a": b"%d" % number}))

            thread = threading.Thread(target=hand_in)
            thread.start()
            thread.join()
            submitter.drain()
        for engine in engines:
            engine.stop()
    return [(begun[b"%d" % number] - at) * scale for number, at in enumerate(came)]


def check(costs: Costs) -> None:
    """Where the nodes are idle, where they are just enough, and where they are not."""
    come, take = arrivals(400), durations(400, 60.0)
    come = [at for at in come if at > -3 * 3600]
    take = take[: len(come)]
    scale = 300.0
    print(f"{len(come)} hand-ins of the last 3 hours, a minute each, {scale:g} times as fast: seconds of the course")
    for nodes, slots in ((1, 1), (2, 1), (4, 1), (4, 2)):
        model = Fleet(come, take, nodes, slots, Costs(*(scale * cost for cost in costs)))
        model.run()
        real = measured(come, take, nodes, slots, scale)
        for name, share in (("half", 0.5), ("19 of 20", 0.95)):
            print(
                f"  {nodes} nodes of {slots}, {name:>9}: model {quantile(model.waits(), share):8.0f}, "
                f"nodes {quantile(real, share):8.0f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=100_000)
    parser.add_argument("--attempts", type=float, default=2.0, help="hand-ins of a student in the last 48 hours")
    parser.add_argument("--minutes", type=float, default=1.0, help="of grading, at the mean")
    parser.add_argument("--nodes", default="100,130,200,500")
    parser.add_argument("--slots", type=int, default=4, help="jobs at once on each node")
    parser.add_argument("--deaths", type=float, default=0.0, help="of each node, a day")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    costs = measured_costs()
    print("of the server's time: " + ", ".join(f"{name} {1e6 * cost:.1f} us" for name, cost in costs._asdict().items()))
    if args.check:
        check(costs)
        return
    jobs = round(args.students * args.attempts)
    come, take = arrivals(jobs), durations(jobs, 60 * args.minutes)
    print(
        f"{args.students:,} students, {jobs:,} hand-ins in 48 h, {args.minutes:g} min each, {args.slots} at once a node"
    )
    heads = ("half wait", "19 of 20", "longest", "after the deadline")
    print(f"{'nodes':>6}" + "".join(f"{head:>20}" for head in heads) + f"{'server busy, at most':>22}{'deaths':>8}")
    for count in (int(nodes) for nodes in args.nodes.split(",")):
        model = Fleet(come, take, count, args.slots, costs, args.deaths / 86_400)
        model.run()
        waits = model.waits()
        figures = (statistics.median(waits), quantile(waits, 0.95), max(waits), max(0.0, model.ended))
        share = max(model.busy.values()) / 60 + model.own
        print(
            f"{count:6,}" + "".join(f"{minutes(figure):>20}" for figure in figures) + f"{share:22.0%}{model.died:8,}",
            flush=True,
        )


if __name__ == "__main__":
    main()
