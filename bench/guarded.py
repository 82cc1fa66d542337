"""What a guarded step costs beside a shared one: pairs in one run, so that a busy machine burdens both alike.

    python -m bench.guarded [pairs]                    # bubblewrap
    DOCKER_HOST=... python -m bench.guarded IMAGE [pairs]  # Docker; IMAGE must be there, and have Python

Each is a whole attempt of the runner's: a grader in Python has the hand-in run, once, and writes the report. Shared: as
a child of its own. Guarded: by `minitango-student`, by `minitango_student.run`, or by calls of a function. Prints, for
each way, the median and the 10th and 90th percentile of the wall time in milliseconds, and what it takes more than the
shared one of its kind, pair by pair.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from minitango import Assignment, Limits, Step, archive
from minitango.archive import File
from minitango.blobs import Blobs
from minitango.job import Finish, Lease
from minitango.runner import Runner
from minitango.sandbox import Sandbox
from minitango.stopping import Stop

REPORT = "import json, os; json.dump({'score': 1}, open(os.environ['MINITANGO_REPORT'], 'w'))\n"
CHILD = "import subprocess, sys\nassert subprocess.run(sys.argv[1:], capture_output=True).stdout == b'3\\n'\n"
RUN = "from minitango_student import run\nassert run(['python3', '-I', 'add.py']).stdout == b'3\\n'\n"
LOAD = "import sys; sys.path.insert(0, '.'); from add import add\n"
CALL = "from minitango_student import Student\nadd = lambda *a: student.call('add', *a)\nstudent = Student('add')\n"
WAYS = {
    "a program, shared": (CHILD, ("python3", "-I", "add.py"), False),
    "a program, by minitango-student": (CHILD, ("minitango-student", "python3", "-I", "add.py"), True),
    "a program, by run()": (RUN, (), True),
    "a function, shared": (LOAD + "assert add(1, 2) == 3\n", (), False),
    "a function, called once": (CALL + "assert add(1, 2) == 3\n", (), True),
    "a function, called 1,000 times": (CALL + "for n in range(1000): assert add(n, 2) == n + 2\n", (), True),
}
BASE = {name: name.split(",")[0] + ", shared" for name in WAYS}
HANDIN = [File("add.py", b"def add(a, b): return a + b\nif __name__ == '__main__': print(add(1, 2))\n")]


def attempt(runner: Runner, blobs: Blobs, root: Path, name: str, image: str) -> Callable[[], None]:
    """One whole attempt."""
    code, words, guarded = WAYS[name]
    folder = root / name.replace(" ", "-")
    folder.mkdir()
    (folder / "grade.py").write_text(code + REPORT)
    step = Step(
        ("python3", "grade.py", *words), files=("grade.py",), guarded=guarded, image=image, limits=Limits(wall=60)
    )
    spec = Assignment("bench", (step,), max_score=1, root=folder).pack(blobs).digest
    lease = Lease("job", 1, "token", 0.0, spec, blobs.put(archive.pack(HANDIN)), "bench", "ada")

    def once() -> None:
        ack = runner.run(lease, stop=Stop())
        assert isinstance(ack, Finish), ack
        assert ack.result.score == 1, ack

    return once


def spread(values: list[float]) -> str:
    values = sorted(values)
    return "  ".join(f"{values[int((len(values) - 1) * at)]:8.1f}" for at in (0.5, 0.1, 0.9))


def opened(image: str, state: str) -> Sandbox:
    if image:
        from minitango.sandbox.docker import DockerSandbox

        return DockerSandbox(state, image=image)
    from minitango.sandbox.bubblewrap import BubblewrapSandbox

    return BubblewrapSandbox(state=state)


def main() -> None:
    words = sys.argv[1:]
    image = words.pop(0) if words and not words[0].isdigit() else ""
    pairs = int(words[0]) if words else 30
    with tempfile.TemporaryDirectory() as state:
        sandbox = opened(image, state)
        blobs = Blobs(Path(state, "blobs"))
        runner = Runner(sandbox, blobs)
        ways = {name: attempt(runner, blobs, Path(state), name, image) for name in WAYS}
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(pairs + 2):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                if turn >= 2:
                    taken[name].append((time.perf_counter() - began) * 1000)
                time.sleep(0.2 if image else 0.02)  # what a box leaves to be done is not the next one's burden
        sandbox.close()
    print(f"{'':32}{'median':>8}  {'p10':>8}  {'p90':>8}      more than shared: median, p10, p90")
    for name, values in taken.items():
        more = [a - b for a, b in zip(values, taken[BASE[name]], strict=True)]
        print(f"{name:32}{spread(values)}      {spread(more)}")


if __name__ == "__main__":
    main()
