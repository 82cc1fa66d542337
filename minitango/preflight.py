"""Preflight: what is wrong with an assignment is found before a student's work is run."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final

from minitango.archive import File
from minitango.assignment import Plan, PlanStep
from minitango.errors import AssignmentError, SandboxFailed
from minitango.job import Limits
from minitango.layout import box_spec
from minitango.output import HeadTail
from minitango.sandbox import Sandbox

PREFLIGHT_ENV: Final = "MINITANGO_PREFLIGHT"
"""Set for the command that only looks whether programs are there."""
TRANSIENT: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EINTR})
"""Reasons for which a command could not be executed that say nothing about it."""
_LOOK: Final = 'for p do command -v -- "$p" >/dev/null || printf "%s\\n" "$p"; done'


def check_command(sandbox: Sandbox, plan: Plan, number: int, bundle: Sequence[File]) -> None:
    """Look in a box of step `number` whether its command is there, and what its `#!` line names.

    `bundle`: the assignment's files in this step. AssignmentError says what is missing and what to do.
    """
    step = plan.steps[number]
    key = f"step {step.name}.command"
    program = step.command[0]
    if step.provided:
        programs = _interpreters(program, bundle, plan.name, key)
    elif brought_by_submission(step):
        return
    else:
        programs = (program,)
    if not programs:
        return
    box = sandbox.open(box_spec(plan, number, token="preflight", limits=Limits(wall=20)))  # noqa: S106
    try:
        said = HeadTail()
        command = ("/bin/sh", "-c", _LOOK, "preflight", *programs)
        end = box.run(command, env={PREFLIGHT_ENV: "1"}, output=said.add)
    finally:
        box.close()
    if end.exec_error in TRANSIENT:
        raise SandboxFailed(f"/bin/sh could not be executed: {os.strerror(end.exec_error)}", id="sandbox_exec")
    if end.exec_error is not None:
        raise AssignmentError(
            f"there is no /bin/sh in the sandbox of step {step.name!r}",
            file=plan.name,
            key=key,
            hint="use an image that has a shell",
            id="no_shell",
        )
    if end.exit_status != 0:
        raise SandboxFailed(f"looking for {programs[0]} in the sandbox ended with {end}", id="sandbox_preflight")
    missing = said.output("").head.decode("utf-8", "replace").split("\n")[0]
    if missing:
        own = any(file.path == missing for file in bundle)
        raise AssignmentError(
            f"{missing} is not there in the sandbox of step {step.name!r}, so no submission can be graded",
            file=plan.name,
            key=key,
            hint=f'programs are looked for in PATH: write "./{missing}"' if own else exec_hint(errno.ENOENT),
            id="command",
        )


def brought_by_submission(step: PlanStep) -> bool:
    """Whether the command is a path in the working directory that only the hand-in can provide."""
    program = step.command[0]
    return step.submission and not step.provided and "/" in program and not program.startswith("/")


def exec_hint(number: int) -> str:
    """What to do about a command that cannot be executed, by its errno."""
    if number == errno.ENOENT:
        return "install it on this machine (bubblewrap uses the host's own programs), or correct the step's command"
    if number == errno.EACCES:
        return "make the file executable (chmod +x)"
    return "check the step's command"


def _interpreters(program: str, bundle: Sequence[File], name: str, key: str) -> tuple[str, ...]:
    """The programs that a command of the assignment's own needs: what its `#!` line names."""
    path = program.removeprefix("./")
    file = next((file for file in bundle if file.path == path), None)
    if file is None:
        return ()
    if not file.executable:
        raise AssignmentError(
            f"{program} is not executable",
            file=name,
            key=key,
            hint=f'chmod +x it, or name its interpreter: ["{_interpreter(path)}", "{path}"]',
            id="command",
        )
    line = file.data[:256].split(b"\n", 1)[0]
    if not line.startswith(b"#!"):
        return ()
    if line.endswith(b"\r"):
        raise AssignmentError(
            f"{program} has Windows line ends, so its #! line names no program",
            file=name,
            key=key,
            hint=f"sed -i 's/\\r$//' {path}",
            id="command",
        )
    words = line[2:].decode("utf-8", "replace").split()
    if words and words[0].endswith("/env"):
        words = [words[0], *[w for w in words[1:] if not w.startswith("-") and "=" not in w][:1]]
        return tuple(words)
    return tuple(words[:1])


def _interpreter(path: str) -> str:
    return "python3" if path.endswith(".py") else "sh"
