"""Step "run": runs the hand-in on each input, and keeps what it prints.

    inputs/CASE.txt -> out/CASE.txt, and the exit status in out/CASE.status

Nothing here guards anything: the sandbox's limits hold whatever the program does.
"""

import subprocess
import sys
from pathlib import Path

out = Path("out")
out.mkdir(exist_ok=True)
for case in sorted(Path("inputs").glob("*.txt")):
    print(f"--- {case.stem}", flush=True)
    with case.open("rb") as text, (out / case.name).open("wb") as kept:
        program = subprocess.run([sys.executable, "sum.py"], stdin=text, stdout=kept)
    (out / f"{case.stem}.status").write_text(str(program.returncode))
