"""Whole systems side by side: jobs that do nothing, queued first, then drained by four threads.

    python bench/peers.py [JOBS] [--repeats N]

minitango with a sandbox that does nothing, beside huey (its consumer, 4 threads, results stored) and RQ (its worker, in
its own process and without a fork for each job), on the same durable SQLite and on one Redis server with an append-only
file. In turns, so that all meet the same moods of the machine; ratios are taken within each turn. What is not installed
is left out (pip install huey rq; apt-get install redis-server).

A job of minitango's is more than theirs: a hand-in that is read from its blob, an attempt, a report that is parsed, a
result with its outputs, usage and warnings.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
THREADS = 4


def ours(store: str, state: str, jobs: int) -> tuple[float, float]:
    from bench.engine import nothing
    from minitango import Assignment, Engine, Step, Submission
    from minitango.testing import FakeSandbox

    assignment = Assignment(name="bench", steps=(Step(command=("true",)),))
    with Engine.open(store, state=state, workers=0, sandbox=FakeSandbox(nothing)) as engine:
        begun = time.perf_counter()
        engine.submit_many(Submission(assignment, f"s{n}", {"a": b"%d" % n}) for n in range(jobs))
        submitted = time.perf_counter() - begun
    begun = time.perf_counter()
    with Engine.open(store, state=state, workers=THREADS, sandbox=FakeSandbox(nothing)) as engine:
        engine.drain()
        drained = time.perf_counter() - begun
    return jobs / submitted, jobs / drained


def huey(backend: str, place: str, jobs: int) -> tuple[float, float]:
    from huey import RedisHuey, SqliteHuey
    from huey.consumer import Consumer

    logging.disable(logging.CRITICAL)
    made: Any = (
        SqliteHuey("bench", filename=place, fsync=True)
        if backend == "sqlite"
        else RedisHuey("bench", url=f"unix://{place}")
    )
    done, lock, over = [0], threading.Lock(), threading.Event()

    @made.task()
    def nothing(n: int) -> int:
        with lock:
            done[0] += 1
            if done[0] == jobs:
                over.set()
        return n

    begun = time.perf_counter()
    for n in range(jobs):
        nothing(n)
    submitted = time.perf_counter() - begun
    consumer = Consumer(made, workers=THREADS, worker_type="thread", initial_delay=0.001, max_delay=0.01)
    begun = time.perf_counter()
    consumer.start()
    over.wait()
    drained = time.perf_counter() - begun
    return jobs / submitted, jobs / drained


def rq(place: str, jobs: int) -> tuple[float, float]:
    import redis
    from rq import Queue, SimpleWorker

    logging.disable(logging.CRITICAL)
    connection = redis.Redis(unix_socket_path=place)
    queue = Queue("bench", connection=connection)
    begun = time.perf_counter()
    for n in range(jobs):
        queue.enqueue(abs, n)
    submitted = time.perf_counter() - begun
    begun = time.perf_counter()
    SimpleWorker([queue], connection=connection).work(burst=True, logging_level="CRITICAL")
    return jobs / submitted, jobs / (time.perf_counter() - begun)


def alone(system: str, place: str, jobs: int) -> tuple[float, float]:
    """Measure one system in a process of its own."""
    out = subprocess.run(
        [sys.executable, __file__, str(jobs), "--only", system, "--place", place],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )
    submitted, drained = json.loads(out.stdout.splitlines()[-1])
    return submitted, drained


def one(system: str, place: str, jobs: int) -> tuple[float, float]:
    match system.split("-"):
        case ["minitango", "sqlite"]:
            return ours(f"sqlite:///{place}/queue.db", f"{place}/state", jobs)
        case ["minitango", "redis"]:
            with tempfile.TemporaryDirectory() as state:
                return ours(f"unix://{place}", state, jobs)
        case ["huey", "sqlite"]:
            return huey("sqlite", f"{place}/huey.db", jobs)
        case ["huey", "redis"]:
            return huey("redis", place, jobs)
        case _:
            return rq(place, jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", type=int, nargs="?", default=3000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--fsync", default="everysec", help="Redis' appendfsync")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(one(args.only, args.place, args.jobs)))
        return
    has = {name: importlib.util.find_spec(name) is not None for name in ("huey", "rq")}
    kinds: list[tuple[str, list[str]]] = [("sqlite", ["minitango", *(["huey"] if has["huey"] else [])])]
    kinds.append(("redis", ["minitango", *(name for name in ("huey", "rq") if has[name])]))
    for kind, systems in kinds:
        rates: dict[str, list[tuple[float, float]]] = {system: [] for system in systems}
        for _ in range(args.repeats):
            for system in systems:
                rates[system].append(_measured(kind, system, args))
        print(f"\n{kind}, {args.jobs:,} jobs, {args.repeats} turns: median (least to most)")
        views: list[tuple[str, Callable[[tuple[float, float]], float]]] = [
            ("graded", lambda turn: turn[1]),
            ("queued", lambda turn: turn[0]),
            ("both", lambda turn: 1 / (1 / turn[0] + 1 / turn[1])),
        ]
        for what, rate in views:
            mine = [rate(turn) for turn in rates["minitango"]]
            for system in systems:
                theirs = [rate(turn) for turn in rates[system]]
                _show(f"{what}: {system}", theirs, "jobs/s", 0)
                if system != "minitango":
                    _show(
                        f"  minitango beside {system}", [a / b for a, b in zip(mine, theirs, strict=True)], "times", 2
                    )


def _measured(kind: str, system: str, args: Any) -> tuple[float, float]:
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            return alone(f"{system}-sqlite", folder, args.jobs)
    from bench.engine import redis_server

    with redis_server(args.fsync) as place:
        return alone(f"{system}-redis", place, args.jobs)


def _show(name: str, values: list[float], unit: str, places: int) -> None:
    middle = statistics.median(values)
    print(f"{name:40} {middle:10,.{places}f} {unit:7} ({min(values):,.{places}f} to {max(values):,.{places}f})")


if __name__ == "__main__":
    main()
