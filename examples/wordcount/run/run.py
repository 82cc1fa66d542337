"""Step "run": sees the hand-in and none of the answers. Runs it once for each input and keeps what it prints.

    inputs/CASE.txt -> out/CASE.txt, and the exit status in out/CASE.status

Nothing here guards anything: the sandbox's limits hold whatever the program does, and the program may do to `out/`
what it likes, for it can only put its own answers there.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

out = Path("out")
out.mkdir(exist_ok=True)
for case in sorted(Path("inputs").glob("*.txt")):
    print(f"--- {case.stem}", flush=True)
    with case.open("rb") as text, (out / case.name).open("wb") as kept:
        program = subprocess.Popen([sys.executable, "wordcount.py"], stdin=text, stdout=subprocess.PIPE)
        # It is also the output of this step: to be read in the logs, and for the output limit to end a flood.
        while piece := program.stdout.read1(65536):
            kept.write(piece)
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        status = program.wait()
    (out / f"{case.stem}.status").write_text(str(status))
    if status == -signal.SIGKILL:
        # Most likely the kernel, for its memory. End as it did, so that the outcome says so and not "graded".
        os.kill(os.getpid(), signal.SIGKILL)
