"""For all questions of this course: calls a function of the student's, within bounds."""

import ast
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HOME = Path("/grade/student")
CPU_SECONDS = 1
SECONDS = 3
MEMORY = 256 << 20
PRINTED = 64 << 10
CALL = """
import sys
answer = sys.stdout
sys.stdout = sys.stderr
module, function, argument = sys.argv[1:]
sys.path.insert(0, ".")
try:
    print(repr(getattr(__import__(module), function)(int(argument))), file=answer)
except BaseException as error:
    print(type(error).__name__, file=answer)
    sys.exit(1)
"""


class Failed(Exception):
    """The student's program did not return."""

    def __init__(self, name, text):
        super().__init__(text)
        self.name = name


def problem_in(file):
    """Why a file is no Python; empty where it is."""
    path = HOME / file
    if not path.is_file():
        return "it is not there"
    try:
        ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        return f"it is no Python: {error}"
    return ""


_slow = False


def call(module, function, argument):
    """repr() of what the function returns. Failed: it did not, or not in time."""
    global _slow
    if _slow:
        raise Failed("", "not run, as an earlier call took too long")
    with tempfile.TemporaryFile() as said:
        program = subprocess.Popen(
            [sys.executable, "-c", CALL, module, function, str(argument)],
            cwd=HOME,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.DEVNULL,
            preexec_fn=_bound,
            start_new_session=True,
        )
        try:
            status = program.wait(SECONDS)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)  # and whatever it started
            program.wait()
        said.seek(0)
        answer = said.read(PRINTED).decode("utf-8", "replace").strip()
    if status == -signal.SIGKILL:
        _slow = True
        raise Failed("", f"{function}({argument}) took too long")
    if status != 0:
        raise Failed(answer, f"{function}({argument}) raised {answer}" if answer else "your program crashed")
    return answer


def _bound():
    bounds = {resource.RLIMIT_CPU: CPU_SECONDS, resource.RLIMIT_AS: MEMORY, resource.RLIMIT_FSIZE: PRINTED}
    for which, most in bounds.items():
        resource.setrlimit(which, (most, most))
