"""How many jobs at once does a course need, so that nobody waits for long on the night of a deadline?

    python bench/capacity.py [--students N] [--minutes M] [--slots A,B,...] [--attempts K]
    python bench/capacity.py --check       # hold the model to a measured run

Simulates hand-ins that come as they do before a deadline, and one queue, first come, first served, whose jobs go to
whichever slot is free. Prints, for each number of slots, how long a student waits for the grade to begin: half of them,
19 of 20, the longest; and how long after the deadline the last one is graded.

The arrivals: of all hand-ins of the last 48 hours a share comes evenly, the others ever faster towards the deadline:
half of those within the last 3 hours, half of the rest in the 3 before, and so on. Grading times are lognormal with
the mean that is given and a spread of half of it.

`--check` runs the real engine 300 times as fast (a job of a minute sleeps for 0.2 s), with the same arrivals, and
compares the waiting times: what the model leaves out is what the engine itself costs, 300 times over.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence

HOURS = 48.0
EVENLY = 0.3
HALF_LIFE = 3.0
"""Hours."""


def arrivals(n: int, seed: int = 1) -> list[float]:
    """Seconds before the deadline (negative) at which each hand-in comes, in order."""
    draw = random.Random(seed)
    times = []
    for _ in range(n):
        if draw.random() < EVENLY:
            before = draw.uniform(0, HOURS)
        else:
            before = min(HOURS, draw.expovariate(math.log(2) / HALF_LIFE))
        times.append(-3600 * before)
    return sorted(times)


def durations(n: int, mean: float, seed: int = 2) -> list[float]:
    """Seconds that each takes to be graded."""
    draw = random.Random(seed)
    sigma = math.sqrt(math.log(1 + 0.5**2))
    return [draw.lognormvariate(math.log(mean) - sigma**2 / 2, sigma) for _ in range(n)]


def simulate(come: Sequence[float], take: Sequence[float], slots: int) -> tuple[list[float], float]:
    """Each job's wait in seconds, and when the last one ends, on the clock of `come`."""
    free = [-math.inf] * slots
    waits = []
    for at, long in zip(come, take, strict=True):
        begin = max(at, heapq.heappop(free))
        waits.append(begin - at)
        heapq.heappush(free, begin + long)
    return waits, max(free)


def measured(come: Sequence[float], take: Sequence[float], slots: int, scale: float) -> list[float]:
    """The waits of the same jobs in the real engine, `scale` times as fast, in seconds of the course."""
    from bench.engine import nothing
    from minitango import Assignment, Engine, Step, Submission
    from minitango.sandbox import End
    from minitango.testing import FakeRun, FakeSandbox

    begun: dict[bytes, float] = {}

    def inside(run: FakeRun) -> End:
        number = next(file.data for path, file in run.files.items() if path.endswith("/a"))
        begun[number] = time.monotonic()
        time.sleep(take[int(number)] / scale)
        return nothing(run)

    assignment = Assignment(name="capacity", steps=(Step(command=("true",)),))
    came: list[float] = []
    with (
        tempfile.TemporaryDirectory() as state,
        Engine.open(state, workers=slots, sandbox=FakeSandbox(inside)) as engine,
    ):
        start = time.monotonic()

        def hand_in() -> None:
            for number, at in enumerate(come):
                time.sleep(max(0.0, start + (at - come[0]) / scale - time.monotonic()))
                came.append(time.monotonic())
                engine.submit(Submission(assignment, f"s{number}", {"a": b"%d" % number}))

        thread = threading.Thread(target=hand_in)
        thread.start()
        thread.join()
        engine.drain()
    return [(begun[b"%d" % number] - at) * scale for number, at in enumerate(came)]


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def minutes(seconds: float) -> str:
    return f"{seconds / 60:8.1f} min" if seconds < 36_000 else f"{seconds / 3600:8.1f} h  "


def table(students: int, attempts: float, mean: float, slots: Sequence[int]) -> None:
    jobs = round(students * attempts)
    come, take = arrivals(jobs), durations(jobs, mean)
    print(
        f"{students:,} students, {jobs:,} hand-ins in 48 h, {mean / 60:g} min each: "
        f"{sum(take) / 3600:,.0f} h of grading"
    )
    print(f"{'at once':>8}  {'half wait':>12}  {'19 of 20':>12}  {'longest':>12}  {'after the deadline':>19}")
    for count in slots:
        waits, end = simulate(come, take, count)
        figures = (statistics.median(waits), quantile(waits, 0.95), max(waits), max(0.0, end))
        print(f"{count:8,}  " + "  ".join(minutes(figure) for figure in figures), flush=True)


def check() -> None:
    """Where the queue is idle, where it is just enough, and where it is not."""
    come, take = arrivals(400), durations(400, 60.0)
    come = [at for at in come if at > -3 * 3600]
    take = take[: len(come)]
    scale = 300.0
    print(f"{len(come)} hand-ins of the last 3 hours, a minute each, {scale:g} times as fast: seconds of the course")
    for slots in (1, 2, 4):
        model, _ = simulate(come, take, slots)
        real = measured(come, take, slots, scale)
        for name, share in (("half", 0.5), ("19 of 20", 0.95)):
            print(
                f"  {slots} at once, {name:>9}: model {quantile(model, share):8.0f}, "
                f"engine {quantile(real, share):8.0f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=1.0, help="of grading, at the mean")
    parser.add_argument("--attempts", type=float, default=2.0, help="hand-ins of a student in the last 48 hours")
    parser.add_argument("--slots", default="1,2,4,8,16,32")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check:
        check()
    else:
        table(args.students, args.attempts, 60 * args.minutes, [int(slots) for slots in args.slots.split(",")])


if __name__ == "__main__":
    main()
