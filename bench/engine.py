"""What the engine itself costs: durable SQLite, a sandbox that does nothing, so all that is left is ours.

    python bench/engine.py [JOBS] [--redis]

Prints jobs/s for 1, 2, 4 and 8 consumers (jobs queued first, then graded), and the latency from submit to start and to
result on an idle engine, in the same process and from another. Minimum, median and maximum over repeats. With `--redis`
on a server of its own, with an append-only file, in place of the SQLite file.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from minitango import Assignment, Engine, Step, Submission
from minitango.sandbox import End
from minitango.testing import FakeRun, FakeSandbox

REPEATS = 5
REDIS = "--redis" in sys.argv


@contextlib.contextmanager
def place() -> Iterator[tuple[str, str]]:
    """A new queue: what opens it, and a state directory."""
    with tempfile.TemporaryDirectory() as folder:
        if not REDIS:
            yield f"sqlite:///{folder}/queue.db", folder
            return
        with redis_server() as socket:
            yield f"unix://{socket}", folder


@contextlib.contextmanager
def redis_server(fsync: str = "everysec") -> Iterator[str]:
    """The socket of a server that keeps what it accepts."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "s"
        command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", folder, "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", fsync, "--loglevel", "warning"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not socket.exists():
                time.sleep(0.01)
            yield str(socket)
        finally:
            process.terminate()
            process.wait()


def nothing(run: FakeRun) -> End:
    run.write("/report/results.json", b'{"score": 1}')
    return End(exit_status=0)


def throughput(workers: int, jobs: int) -> float:
    assignment = Assignment(name="bench", steps=(Step(command=("true",)),))
    with place() as (store, state):
        with Engine.open(store, state=state, workers=0, sandbox=FakeSandbox(nothing)) as engine:
            engine.submit_many(Submission(assignment, f"s{n}", {"a": b"%d" % n}) for n in range(jobs))
        start = time.perf_counter()
        with Engine.open(store, state=state, workers=workers, sandbox=FakeSandbox(nothing)) as engine:
            engine.drain()
            return jobs / (time.perf_counter() - start)


def submitting(jobs: int) -> float:
    assignment = Assignment(name="bench", steps=(Step(command=("true",)),))
    with place() as (store, state), Engine.open(store, state=state, workers=0) as engine:
        start = time.perf_counter()
        engine.submit_many(Submission(assignment, f"s{n}", {"a": b"%d" % n}) for n in range(jobs))
        return jobs / (time.perf_counter() - start)


def latency(times: int) -> tuple[list[float], list[float]]:
    assignment = Assignment(name="bench", steps=(Step(command=("true",)),))
    started: list[float] = []

    def inside(run: FakeRun) -> End:
        started.append(time.perf_counter())
        return nothing(run)

    to_start, to_result = [], []
    with place() as (store, state), Engine.open(store, state=state, workers=2, sandbox=FakeSandbox(inside)) as engine:
        for n in range(times):
            time.sleep(0.01)
            begin = time.perf_counter()
            handle = engine.submit(Submission(assignment, f"s{n}", {"a": b"%d" % n}))
            submitted = time.perf_counter()
            handle.result(30)
            to_result.append(1e3 * (time.perf_counter() - begin))
            to_start.append(1e3 * (started[-1] - submitted))
    return to_start, to_result


def across(times: int) -> list[float]:
    """Milliseconds from the return of a submit in another process to the start of its job here."""
    script = """
        import sys, time
        from minitango import Assignment, Engine, Step, Submission
        assignment = Assignment(name="bench", steps=(Step(command=("true",)),))
        with Engine.open(sys.argv[1], state=sys.argv[2], workers=0) as engine:
            for n in range(int(sys.argv[3])):
                engine.submit(Submission(assignment, f"s{n}", {"a": b"%d" % n}))
                print(time.monotonic(), flush=True)
                time.sleep(0.1)
    """
    started: list[float] = []

    def inside(run: FakeRun) -> End:
        started.append(time.monotonic())
        return nothing(run)

    with place() as (store, state), Engine.open(store, state=state, workers=2, sandbox=FakeSandbox(inside)) as engine:
        submitter = f"{state}/submitter" if REDIS else state
        command = [sys.executable, "-c", textwrap.dedent(script), store, submitter, str(times)]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
        engine.drain(30)
    return [1e3 * (b - float(a)) for a, b in zip(out.stdout.split(), started, strict=True)]


def idle_cpu(seconds: float = 5.0) -> float:
    """Percent of a core that an idle engine uses."""
    with place() as (store, state), Engine.open(store, state=state, workers=4, sandbox=FakeSandbox(nothing)):
        time.sleep(0.5)
        before, begin = time.process_time(), time.perf_counter()
        time.sleep(seconds)
        return 100 * (time.process_time() - before) / (time.perf_counter() - begin)


def show(what: str, values: Sequence[float], unit: str) -> None:
    low, middle, high = min(values), statistics.median(values), max(values)
    print(f"{what:<44} {low:9.1f} {middle:9.1f} {high:9.1f}  {unit}", flush=True)


def repeat(measure: Callable[[], float]) -> list[float]:
    return [measure() for _ in range(REPEATS)]


def main() -> None:
    jobs = int(next((word for word in sys.argv[1:] if word.isdigit()), "2000"))
    print(f"{'':<44} {'min':>9} {'median':>9} {'max':>9}")
    show(f"submit_many, {jobs} hand-ins", repeat(lambda: submitting(jobs)), "jobs/s")
    for workers in (1, 2, 4, 8):
        show(f"graded, {workers} consumers", repeat(lambda w=workers: throughput(w, jobs)), "jobs/s")  # type: ignore[misc]
    to_start, to_result = latency(100)
    show("submit to start, same process", to_start, "ms")
    show("submit to result, same process", to_result, "ms")
    show("submit to start, other process", across(30), "ms")
    show("idle engine", [idle_cpu()], "% of a core")


if __name__ == "__main__":
    main()
