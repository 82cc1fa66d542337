"""What the SQLite store costs: python bench/store.py [--quick] [--repeats N]. With `--redis`: what claims cost on a
Redis server with an append-only file, however many are queued.

Every number is durable: `synchronous=FULL`, one fsync a commit. Where huey is installed, its SQLite storage does
the comparable work beside it, with fsync on, in turns, so that both meet the same moods of the machine; ratios
are taken within each turn. Data and JSON differ: huey moves opaque bytes, the store moves whole jobs with their
results.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.engine import redis_server
from minitango.job import Fail, Failure, Finish, JobSpec, Outcome, Result, StepOutput, StepReport, TestResult, Usage
from minitango.store import Store
from minitango.store.redis import RedisStore
from minitango.store.sqlite import SqliteStore

RESULT = Result(
    Outcome.GRADED,
    score=87.5,
    max_score=100,
    tests=tuple(TestResult(name=f"test {n}", score=12.5, max_score=12.5, output="ok\n") for n in range(8)),
    steps=(
        StepReport("run", 0, usage=Usage(1.2, 0.9, 40 << 20)),
        StepReport("grade", 0, usage=Usage(0.2, 0.1, 1 << 20)),
    ),
    usage=Usage(1.4, 1.0, 40 << 20),
    sandbox="bubblewrap",
)
OUTPUTS = (StepOutput("run", b"x" * 200),)


def specs(n: int) -> list[JobSpec]:
    return [
        JobSpec("hw1", f"student{i}", "5" * 64, os.urandom(32).hex(), key=os.urandom(16).hex(), refs=("b" * 64,))
        for i in range(n)
    ]


def show(name: str, values: list[float], unit: str, places: int = 0) -> None:
    middle = statistics.median(values)
    print(f"{name:58} {middle:12,.{places}f} {unit:10} ({min(values):,.{places}f} to {max(values):,.{places}f})")


def rate(n: int, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return n / (time.perf_counter() - start)


def drain(store: SqliteStore, batch: int) -> None:
    leases = store.exchange(claim=batch).leases
    while leases:
        leases = store.exchange([Finish(lease, RESULT, OUTPUTS) for lease in leases], claim=batch).leases


def one_by_one(store: SqliteStore, jobs: list[JobSpec]) -> None:
    for spec in jobs:
        store.submit([spec])


def throughput(folder: Path, n: int, repeats: int) -> None:
    print(f"\nThroughput, one thread, {n:,} jobs, {repeats} repeats: median (least to most)")
    try:
        from huey.storage import SqliteStorage
    except ImportError:
        SqliteStorage = None  # noqa: N806
        print("(huey is not installed: no comparison)")
    ours: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {}
    few = n // 4
    for repeat in range(repeats):
        store = SqliteStore(folder / f"throughput{repeat}.db")
        for name, count, work in (
            (
                "submit, 1,000 a call",
                n,
                lambda jobs, store=store: [store.submit(jobs[i : i + 1000]) for i in range(0, n, 1000)],
            ),
            ("submit, one a call", few, lambda jobs, store=store: one_by_one(store, jobs)),
        ):
            jobs = specs(count)
            ours.setdefault(name, []).append(rate(count, lambda work=work, jobs=jobs: work(jobs)))
        for batch in (1, 4, 64):
            missing = n - sum(store.counts()[state] for state in store.counts() if not state.terminal)
            store.submit(specs(max(missing, 0)))
            queued = sum(store.counts()[state] for state in store.counts() if not state.terminal)
            name = f"finish + claim, {batch} a commit"
            ours.setdefault(name, []).append(rate(queued, lambda batch=batch, store=store: drain(store, batch)))
        store.close()
        if SqliteStorage is not None:
            peer = SqliteStorage(filename=str(folder / f"huey{repeat}.db"), fsync=True)
            data = os.urandom(300)
            theirs.setdefault("submit, one a call", []).append(
                rate(few, lambda peer=peer, data=data: [peer.enqueue(data) for _ in range(few)])
            )

            def work(peer: object = peer) -> None:
                while peer.dequeue() is not None:  # type: ignore[attr-defined]
                    peer.put_data(os.urandom(8).hex().encode(), b"r" * 600)  # type: ignore[attr-defined]

            theirs.setdefault("finish + claim, 1 a commit", []).append(rate(few, work))
            peer.close()
    for name, values in ours.items():
        show(name, values, "jobs/s")
        if name in theirs:
            show("  huey: " + ("enqueue" if "submit" in name else "dequeue, put_data"), theirs[name], "jobs/s")
            ratios = [mine / other for mine, other in zip(values, theirs[name], strict=True)]
            show("  ratio", ratios, "x", 2)


@contextlib.contextmanager
def sqlite_store(folder: Path, clock: Callable[[], float]) -> Iterator[Store]:
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        contextlib.closing(SqliteStore(Path(name) / "queue.db", clock=clock)) as store,
    ):
        yield store


@contextlib.contextmanager
def redis_store(folder: Path, clock: Callable[[], float]) -> Iterator[Store]:
    with redis_server() as socket, contextlib.closing(RedisStore(f"unix://{socket}", clock=clock)) as store:
        yield store


Opened = Callable[[Path, Callable[[], float]], contextlib.AbstractContextManager[Store]]


def claim_cost(opened: Opened, folder: Path, sizes: tuple[int, ...], waiting: int, repeats: int) -> None:
    print(f"\nOne claim of 4 jobs and their finish, each a commit or a script, {repeats} repeats")
    for size in sizes:
        for not_due in (0, waiting):
            with opened(folder, lambda: 1000.0) as store:
                _claim_cost(store, size, not_due, repeats)


def _claim_cost(store: Store, size: int, not_due: int, repeats: int) -> None:
    for _ in range(0, not_due, 1000):
        store.submit(specs(1000))
        leases = store.exchange(claim=1000).leases
        store.exchange([Fail(lease, Failure("x", "x")) for lease in leases])
    for _ in range(0, size, 10_000):
        store.submit(specs(min(size, 10_000)))
    claims, finishes = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        leases = store.exchange(claim=4).leases
        middle = time.perf_counter()
        store.exchange([Finish(lease, RESULT, OUTPUTS) for lease in leases])
        claims.append((middle - start) * 1e6)
        finishes.append((time.perf_counter() - middle) * 1e6)
    start = time.perf_counter()
    store.counts()
    counts = (time.perf_counter() - start) * 1e6
    tail = f", {not_due:,} not due yet" if not_due else ""
    show(f"claim, {size:,} queued{tail}", claims, "us")
    show("  finish", finishes, "us")
    print(f"  counts: {counts:.0f} us")


def idle_watch(folder: Path, seconds: float) -> None:
    store = SqliteStore(folder / "watch.db")
    stop = store.watch(lambda: None)
    before = time.process_time()
    time.sleep(seconds)
    used = time.process_time() - before
    stop()
    store.close()
    print(f"\nAn idle watch: {100 * used / seconds:.2f} % of a core, over {seconds:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--redis", action="store_true", help="what claims cost on a Redis server, and nothing else")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="minitango-bench-") as name:
        folder = Path(name)
        sizes, waiting = ((1000, 20_000), 5000) if args.quick else ((1000, 1_000_000), 100_000)
        if args.redis:
            claim_cost(redis_store, folder, sizes, waiting, 50)
            return
        throughput(folder, 2000 if args.quick else 8000, args.repeats)
        claim_cost(sqlite_store, folder, sizes, waiting, 50)
        idle_watch(folder, 3 if args.quick else 20)


if __name__ == "__main__":
    main()
