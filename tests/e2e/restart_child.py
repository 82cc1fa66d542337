"""An engine in a process of its own, to be killed.

    python -m tests.e2e.restart_child STATE JOBS SANDBOX WORKERS [IMAGE [SECONDS]]

Says `open`, submits JOBS hand-ins (the same ones each time: the second start finds them), says `queued`, grades until
all have ended, says `all ended` and leaves. SANDBOX: `fake` takes 20 ms a job; `bubblewrap` and `docker` are the real
ones, in which a job takes SECONDS.
"""

from __future__ import annotations

import sys
import threading

from minitango import Assignment, Engine, Limits, Step, Submission
from minitango.sandbox import End
from minitango.testing import FakeRun, FakeSandbox


def inside(run: FakeRun) -> End:
    threading.Event().wait(0.02)
    run.write(run.env["MINITANGO_REPORT"], b'{"score": %s}' % run.read("/job/answer"))
    return End(exit_status=0)


def main(state: str, jobs: int, sandbox: str, workers: int, image: str = "", seconds: str = "0.05") -> None:
    script = f'sleep {seconds}; printf "{{\\"score\\": %s}}" "$(cat answer)" > "$MINITANGO_REPORT"'
    step = Step(command=("sh", "-c", script), limits=Limits(wall=20, memory=64 << 20), image=image)
    assignment = Assignment("restart", (step,), max_score=1000)
    box = FakeSandbox(inside) if sandbox == "fake" else sandbox
    with Engine.open(state, workers=workers, sandbox=box) as engine:
        print("open", flush=True)
        handles = engine.submit_many(
            Submission(assignment, student=f"s{n}", files={"answer": b"%d" % n}) for n in range(jobs)
        )
        print("queued", flush=True)
        for handle in handles:
            handle.exception()
    print("all ended", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
