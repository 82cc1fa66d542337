"""Preflight: an assignment's images are made ready, and what is wrong with it is found, before a student's work is
run."""

from __future__ import annotations

import copy
import errno
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future
from typing import Final

from minitango.archive import File
from minitango.assignment import Plan, PlanStep
from minitango.assignment.autograders import gradescope
from minitango.errors import AssignmentError, ConfigError, MinitangoError, SandboxFailed, SandboxUnavailable
from minitango.job import Limits
from minitango.layout import box_spec, layout_of
from minitango.output import HeadTail
from minitango.sandbox import Sandbox
from minitango.stopping import Stop
from minitango.threads import begin

PREFLIGHT_ENV: Final = "MINITANGO_PREFLIGHT"
"""Set for the command that only looks whether programs are there."""
TRANSIENT: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EINTR})
"""Reasons for which a command could not be executed that say nothing about it."""
_SETUP: Final = re.compile(r"\bRUN .*?: (exit code \d+.*)", re.DOTALL)
"""What went wrong with a set-up script, in an error about the Dockerfile that runs it."""
_POLL: Final = 0.1
UNFIT_FOR: Final = 60.0
"""Seconds for which one of several engines is left out for a plan that could not be graded there."""
LACKS: Final = b"minitango lacks: "
"""Begins a line with a program that is not there, among what else may be said: by the shell, or what loads it."""
_LOOK: Final = f'for p do command -v -- "$p" >/dev/null || printf "\\n{LACKS.decode()}%s\\n" "$p"; done'


class Preflight:
    """Looks plans over, each once in each place: its images are prepared, its commands are there. Safe to use from any
    thread.

    The work is done in the background, so that whoever waits for it can be told to stop.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        plan: Callable[[str], Plan],
        bundle: Callable[[str], tuple[File, ...]],
        on_image: Callable[[str, str], None],
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`plan` and `bundle` read a blob by its digest; `on_image` hears an image's name and digest when it is had, as
        `sandbox` as a whole knows it. `tell` hears, for people, where a plan cannot be graded that can be elsewhere."""
        self._sandbox = sandbox
        self._plan = plan
        self._bundle = bundle
        self._on_image = on_image
        self._lock = threading.Lock()
        self._passed: dict[tuple[Sandbox, str], tuple[str, ...]] = {}
        self._tasks: dict[tuple[Sandbox, str], Future[tuple[str, ...]]] = {}
        self._tell = tell
        self._unfit: dict[tuple[Sandbox, str], float] = {}
        """Until when a place is left out for a plan, in monotonic seconds."""
        self._untold: dict[tuple[Sandbox, str], str] = {}

    def images(self, place: Sandbox, spec: str, stop: Stop | None = None) -> tuple[str, ...] | None:
        """The digest of each step's image, of a plan that passed; None where `stop` was requested meanwhile.

        `place` is what `Sandbox.seat` gave, `spec` the plan's digest. AssignmentError says what is wrong and what
        to do; also raises what the sandbox raises. What failed is tried again with the next call.
        """
        key = place, spec
        with self._lock:
            passed = self._passed.get(key)
            if passed is not None:
                return passed
            task = self._tasks.get(key)
            if task is None:
                task = Future()
                begin("preflight", self._work, *key, task)  # first: nobody is to wait for what never begins
                self._tasks[key] = task
        while not futures.wait([task], timeout=_POLL).done:
            if stop is not None and stop.why is not None:
                return None
        return task.result()

    def fit(self, spec: str) -> tuple[Sandbox, ...]:
        """The places in which this plan may be graded, as far as is known; all, where that would be none."""
        places = self._sandbox.places
        if not self._unfit:
            return places
        now = time.monotonic()
        with self._lock:
            return tuple(place for place in places if self._unfit.get((place, spec), 0.0) <= now) or places

    def avoid(self, place: Sandbox, spec: str, error: MinitangoError) -> None:
        """Leave this place out for this plan for a while: what it needs is not there."""
        with self._lock:
            before = self._unfit.get((place, spec))
            self._unfit[place, spec] = time.monotonic() + UNFIT_FOR
            if before is None:
                hint = f"; next: {error.hint}" if error.hint else ""
                self._untold[place, spec] = f"{self._plan(spec).name} is not graded on {place}: {error.message}{hint}"
        self._tell_of_unfit(spec)

    def _tell_of_unfit(self, spec: str) -> None:
        """Once it is graded elsewhere: else it is the assignment's own mistake."""
        with self._lock:
            passed = self._untold and any((place, spec) in self._passed for place in self._sandbox.places)
            told = [self._untold.pop(key) for key in list(self._untold) if passed and key[1] == spec]
        for text in told:
            self._tell(text)

    def forget(self, place: Sandbox, spec: str) -> None:
        """Look this plan over again when it is next asked for: an image of it is not there any more."""
        with self._lock:
            self._passed.pop((place, spec), None)

    def _work(self, place: Sandbox, spec: str, task: Future[tuple[str, ...]]) -> None:
        try:
            images = self._look_over(place, self._plan(spec))
        except BaseException as error:
            with self._lock:
                del self._tasks[place, spec]
            task.set_exception(error)
            return
        with self._lock:
            self._passed[place, spec] = images
            self._unfit.pop((place, spec), None)
            del self._tasks[place, spec]
        self._tell_of_unfit(spec)
        task.set_result(images)

    def _look_over(self, place: Sandbox, plan: Plan) -> tuple[str, ...]:
        images = tuple(self._prepare(place, plan, step) for step in plan.steps)
        for number, step in enumerate(plan.steps):
            bundle = self._bundle(step.bundle) if step.bundle else ()
            check_command(place, plan, number, bundle, images[number])
        return images

    def _prepare(self, place: Sandbox, plan: Plan, step: PlanStep) -> str:
        folder = self._bundle(step.image_files) if step.image_files else ()
        try:
            digest = place.prepare(step.image, folder)
        except AssignmentError as error:
            if not step.setup or error.id != "image_build":
                raise
            if all(file.path != f"autograder/source/{gradescope.SETUP}" for file in folder):
                raise AssignmentError(
                    error.message.removeprefix(f"{step.image}{gradescope.DOCKERFILE}").lstrip(":0123456789 "),
                    file=f"{plan.name}: {gradescope.DOCKERFILE}",
                    line=error.line,
                    hint="correct it; or build it yourself, as you always do, and name that image: --image NAME",
                    id=error.id,
                ) from error
            ended = _SETUP.search(error.message)
            raise AssignmentError(
                ended[1] if ended else error.message,
                file=f"{plan.name}: setup.sh",
                hint='correct it; to try it by hand: docker run -it --rm -v "$PWD":/autograder/source IMAGE bash'
                if ended
                else "another image to build it on: --image NAME",
                id=error.id,
            ) from error
        except SandboxUnavailable as error:
            if plan.layout and error.id == "sandbox_registry":
                told = copy.copy(error)  # who else meets this one, now or later, is told in their own way
                told.hint = f"{error.hint}; or another image: --image NAME"
                raise told from error
            raise
        except ConfigError as error:
            other = "name another with --image; or: " if plan.layout else ""
            if not step.image:
                other = "name an image in the step, or another with --image; or: "
            raise AssignmentError(
                error.message, file=plan.name, key=f"step {step.name}.image", hint=f"{other}{error.hint}", id=error.id
            ) from error
        if step.setup and not digest:
            raise AssignmentError(
                "its setup.sh or Dockerfile has to be run once, into an image, and this sandbox has none",
                file=plan.name,
                hint="--sandbox docker; or, where this machine has what it would install: --no-setup, or setup = false "
                "in an assignment.toml",
                id="setup_needed",
            )
        if not digest and (step.root or not step.command):
            what = "to be root in its container" if step.root else "what its image runs by itself"
            raise AssignmentError(
                f"it needs {what}, and this sandbox has no images",
                file=plan.name,
                key=f"step {step.name}",
                hint="--sandbox docker",
                id="image_needed",
            )
        known = self._sandbox.image_digest(step.image) if digest and not folder else ""
        if known:  # of several engines the first one's: what is the same work must not hang on which of them was asked
            self._on_image(step.image, known)
        return digest


def command_of(sandbox: Sandbox, step: PlanStep, image: str) -> tuple[str, ...]:
    """What a step runs: its own command, or what its image runs by itself. `image`: what that was prepared to.

    AssignmentError where there is neither.
    """
    command = step.command or sandbox.image_command(image)
    if not command:
        raise AssignmentError(
            f"no command is named, and {place(step, image, sandbox.default_image)} has no entrypoint of its own",
            key=f"step {step.name}.command",
            hint="name one: for PrairieLearn, entrypoint in info.json",
            id="command",
        )
    return command


def check_command(sandbox: Sandbox, plan: Plan, number: int, bundle: Sequence[File], image: str) -> None:
    """Look in a box of step `number` whether its command is there, and what its `#!` line names.

    `bundle`: the assignment's files in this step; `image`: what its image was prepared to. AssignmentError says what is
    missing and what to do.
    """
    step = plan.steps[number]
    key = f"step {step.name}.command"
    program = command_of(sandbox, step, image)[0]
    if step.provided:
        path = program.removeprefix(f"{layout_of(plan).work}/").removeprefix("./")
        programs = _interpreters(path, bundle, plan.name, key)
    elif brought_by_submission(step):
        return
    else:
        programs = (program,)
    if not programs:
        return
    box = sandbox.open(box_spec(plan, number, image=image, token="preflight", limits=Limits(wall=20)))  # noqa: S106
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
            f"there is no /bin/sh in {place(step, image, sandbox.default_image)}",
            file=plan.name,
            key=key,
            hint="use an image that has a shell: a full or a -slim one, not a distroless one",
            id="no_shell",
        )
    if end.exit_status != 0:
        raise SandboxFailed(f"looking for {programs[0]} in the sandbox ended with {end}", id="sandbox_preflight")
    lines = (line for line in said.output("").head.split(b"\n") if line.startswith(LACKS))
    missing = next(lines, b"").removeprefix(LACKS).decode("utf-8", "replace")
    if missing:
        own = any(file.path == missing for file in bundle)
        raise AssignmentError(
            f"{missing} is not there in {place(step, image, sandbox.default_image)}, so no submission can be graded",
            file=plan.name,
            key=key,
            hint=f'programs are looked for in PATH: write "./{missing}"' if own else exec_hint(errno.ENOENT, image),
            id="command",
        )


def brought_by_submission(step: PlanStep) -> bool:
    """Whether the command is a path in the working directory that only the hand-in can provide."""
    program = step.command[0] if step.command else ""
    return step.submission and not step.provided and "/" in program and not program.startswith("/")


def place(step: PlanStep, image: str, default: str) -> str:
    """Where a step runs, in words; `image` is what its image was prepared to, `default` the sandbox's own choice."""
    if not image:
        return f"the sandbox of step {step.name!r}"
    if not step.image:
        return f"the image{f' {default}' if default else ''} that step {step.name!r} gets, as it names none"
    return f"the image {step.image} of step {step.name!r}"


def exec_hint(number: int, image: str) -> str:
    """What to do about a command that cannot be executed, by its errno."""
    if number == errno.ENOENT and image:
        return "name an image that has it, or build one (a folder with a Dockerfile), or correct the step's command"
    if number == errno.ENOENT:
        return "install it on this machine (bubblewrap uses the host's own programs), or correct the step's command"
    if number == errno.EACCES:
        return "make the file executable (chmod +x)"
    return "check the step's command"


def _interpreters(path: str, bundle: Sequence[File], name: str, key: str) -> tuple[str, ...]:
    """The programs that a command of the assignment's own needs: what its `#!` line names."""
    file = next((file for file in bundle if file.path == path), None)
    if file is None:
        return ()
    if not file.executable:
        raise AssignmentError(
            f"{path} is not executable",
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
            f"{path} has Windows line ends, so its #! line names no program",
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
