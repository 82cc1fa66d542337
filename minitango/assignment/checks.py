"""What must hold of an assignment before anything is graded by it. Pure, but for a look at the files that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minitango import image_name
from minitango.archive import check_path
from minitango.assignment.guarded import check_guarded
from minitango.assignment.places import Key, Places
from minitango.errors import ArchiveError
from minitango.job import FORMATS, Limits, Outcome, is_label
from minitango.text import human_size

if TYPE_CHECKING:
    from minitango.assignment.model import Assignment
    from minitango.assignment.parts import Sample, Step, SubmissionRule

MAX_STEPS: Final = 20
DOCKERFILE: Final = "Dockerfile"
BUILT_IMAGE: Final = "autograder/"
"""What the image of a layout is called that is built from its set-up script: no folder of that name is there."""
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_STEP_NAME: Final = re.compile(r"[a-z0-9_-]{1,40}")
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DAY: Final = 86_400.0

_LIMITS: Final[dict[str, tuple[float, float, str]]] = {
    "wall": (0.01, _DAY, "10ms to 24h"),
    "cpu": (0.01, _DAY, "10ms to 24h"),
    "memory": (16 << 20, 1 << 40, "16MiB to 1024GiB"),
    "pids": (1, 65_536, "1 to 65536"),
    "output": (1, 1 << 30, "1 byte to 1GiB"),
    "disk": (1 << 20, 1 << 40, "1MiB to 1024GiB"),
    "cpus": (0.01, 1024, "0.01 to 1024"),
}


def check(assignment: Assignment, places: Places) -> None:
    """AssignmentError for the first thing that is wrong."""
    _check_name(assignment.name, places)
    if assignment.format not in FORMATS:
        raise places.error(
            ("format",),
            f"the format {assignment.format!r} is not supported by this version",
            f"use one of: {', '.join(FORMATS)}",
        )
    _check_score(assignment, places)
    _check_problems(assignment.problems, places)
    for need in assignment.needs:
        if not is_label(need):
            text = f"{_repr(need)} is nothing that a node could offer"
            raise places.error(("needs",), text, 'letters, digits, ".", "_" and "-": needs = ["gpu"]')
    _check_rule(assignment.submission, places)
    if not assignment.steps:
        hint = 'write [[step]] and below it, say, command = ["python3", "grade.py"]'
        raise places.error(("step",), "there is no step, so nothing is graded", hint)
    if len(assignment.steps) > MAX_STEPS:
        raise places.error(("step",), f"there are more than {MAX_STEPS} steps", "merge some of them")
    for n, step in enumerate(assignment.steps):
        _check_step(step, assignment.root, assignment.layout, ("step", n), places)
    _check_flow(assignment.steps, places)
    check_guarded(assignment, places)
    for n, sample in enumerate(assignment.samples):
        _check_sample(sample, assignment.root, ("sample", n), places)


def _check_name(name: object, places: Places) -> None:
    if not isinstance(name, str) or not name.strip():
        raise places.error(("name",), "the name is missing or empty", 'name = "hw1"')
    if len(name) > 100:
        raise places.error(("name",), f"the name has {len(name)} characters, and may have 100", 'name = "hw1"')
    if _CONTROL.search(name) or name != name.strip():
        raise places.error(("name",), f"the name {name!r} has control characters or outer spaces", 'name = "hw1"')


def _check_score(assignment: Assignment, places: Places) -> None:
    score = assignment.max_score
    if not isinstance(assignment.bonus, bool):
        raise places.error(("bonus",), f"is {assignment.bonus!r}, not true or false", "bonus = true")
    if score is None:
        if assignment.format == "exit-code":
            text = "is missing: with exit-code, a step that ends with status 0 earns it"
            raise places.error(("max_score",), text, "max_score = 100")
    elif not _is_number(score) or score <= 0:
        huge = isinstance(score, int | float) and not isinstance(score, bool) and score > 0  # not NaN
        what = "too large a number" if huge else "not a number above 0"
        raise places.error(("max_score",), f"is {_repr(score)}, {what}", "max_score = 100")


def _check_problems(problems: object, places: Places) -> None:
    if not isinstance(problems, dict):
        raise places.error(("problems",), "is not a table of numbers", "problems = { Correctness = 100 }")
    for name, most in problems.items():
        if not isinstance(name, str) or not _is_text(name) or not _is_number(most) or most < 0:
            text = f"{_repr(name)} has the maximum {_repr(most)}, not a number from 0"
            raise places.error(("problems", str(name)), text, "problems = { Correctness = 100 }")


def _check_rule(rule: SubmissionRule, places: Places) -> None:
    key = ("submission", "path")
    if not isinstance(rule.path, str):
        raise places.error(key, f"is {rule.path!r}, not a path", 'path = "hello.c"')
    if rule.path:
        _check_clean(rule.path.removesuffix("/"), key, places)
    key = ("submission", "name")
    if not isinstance(rule.name, str):
        raise places.error(key, f"is {rule.name!r}, not a file's name", 'name = "hello.c"')
    if rule.name:
        _check_clean(rule.name, key, places)
        if rule.path and not rule.path.endswith("/"):
            text = f"path says already that a hand-in becomes {rule.path!r}"
            raise places.error(key, text, "take name away, or let path be a folder")
    if not _is_whole(rule.max_size) or not 1 <= rule.max_size <= 1 << 30:
        raise places.error(("submission", "max_size"), "is not a size of 1 byte to 1GiB", 'max_size = "10MiB"')
    if not _is_whole(rule.max_files) or not 1 <= rule.max_files <= 20_000:
        raise places.error(("submission", "max_files"), "is not a whole number of 1 to 20000", "max_files = 500")


def _check_step(step: Step, root: Path, layout: str, key: Key, places: Places) -> None:
    if not isinstance(step.name, str) or not _STEP_NAME.fullmatch(step.name):
        text = f"{step.name!r} is not 1 to 40 of a-z, 0-9, _ and -"
        raise places.error((*key, "name"), text, 'name = "grade"')
    if not layout or step.image != BUILT_IMAGE:
        _check_image(step.image, root, (*key, "image"), places)
    if not isinstance(step.submission, bool):
        raise places.error((*key, "submission"), f"is {step.submission!r}, not true or false", "submission = false")
    if step.network not in ("none", "open"):
        text = f"{step.network!r} is neither none nor open"
        raise places.error((*key, "network"), text, 'use "none" (localhost only) or "open"')
    for name in ("root", "guarded"):
        if not isinstance(getattr(step, name), bool):
            text = f"is {getattr(step, name)!r}, not true or false"
            raise places.error((*key, name), text, f"{name} = true")
    if step.command or layout != "prairielearn":  # whose questions may leave it to their image
        _check_command(step.command, (*key, "command"), places)
    for name, example in (("files", 'files = ["grader/"]'), ("collect", 'collect = ["out/"]')):
        patterns = getattr(step, name)
        if not _is_words(patterns):
            raise places.error((*key, name), "is not a list of strings", example)
        for pattern in patterns:
            _check_clean(pattern.removesuffix("/"), (*key, name), places)
    for pattern in step.files:
        folder = pattern.removesuffix("/").rpartition("/")[0]
        if any(letter in folder for letter in "*?["):
            text = f"{pattern!r} has a wildcard before its last component"
            raise places.error((*key, "files"), text, "name the folders; only the last component may be a pattern")
    _check_limits(step.limits, (*key, "limits"), places)
    if step.student is not None:
        _check_limits(step.student, (*key, "student"), places)
    _check_env(step.env, (*key, "env"), places)


def _check_image(image: Any, root: Path, key: Key, places: Places) -> None:
    example = 'image = "gcc:14", or a folder with a Dockerfile: image = "docker/"'
    if not isinstance(image, str):
        raise places.error(key, f"{_repr(image)} is not an image's name", example)
    if not image:
        return
    if not image_name.is_folder(image):
        problem = image_name.problem(image)
        if problem:
            raise places.error(key, f"{image[:80]!r} is no image's name: {problem}", example, "image_name")
        return
    folder = image_folder(image)
    real = inside(root, folder, key, places)
    if not real.is_dir():
        raise places.error(key, f"{image!r} is a file, not a folder", example, "image_name")
    if not (real / DOCKERFILE).is_file():
        raise places.error(
            key,
            f"there is no {DOCKERFILE} in {image!r}",
            f"write {folder}/{DOCKERFILE}, or name an image",
            "file_missing",
        )


def image_folder(image: str) -> str:
    """The folder that an image's name is (see `image_name.is_folder`), as a path below the assignment's."""
    return image.removeprefix("./").removesuffix("/")


def _check_command(command: Any, key: Key, places: Places) -> None:
    example = 'command = ["python3", "grade.py"]'
    if not _is_words(command) or not command or not command[0]:
        raise places.error(key, "is not a list of strings with a program as its first", example)
    for word in command:
        if "\0" in word or not _is_text(word) or len(word) > 100_000:
            raise places.error(key, f"{word[:80]!r} cannot be a program's argument", example)


def _check_limits(limits: Limits, key: Key, places: Places) -> None:
    for name, (least, most, text) in _LIMITS.items():
        value = getattr(limits, name)
        if name == "cpu" and value is None:
            continue
        whole = name in ("memory", "pids", "output", "disk")
        if not (_is_whole(value) if whole else _is_number(value)) or not least <= value <= most:
            what = human_size(value) if name in ("memory", "output", "disk") and _is_whole(value) else _repr(value)
            raise places.error((*key, name), f"{what} is not in the range of {text}", f"choose {text}")


def _check_env(env: object, key: Key, places: Places) -> None:
    if not isinstance(env, dict):
        raise places.error(key, "is not a table of strings", 'env = { LANG = "C.UTF-8" }')
    for name, value in env.items():
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            raise places.error((*key, str(name)), f"{name!r} cannot be a variable's name", "use letters, digits and _")
        if name.startswith("MINITANGO_"):
            raise places.error((*key, name), f"{name} is minitango's own", "choose another name")
        if not isinstance(value, str) or "\0" in value or not _is_text(value) or len(value) > 100_000:
            raise places.error((*key, name), "is not a string that a variable can hold", f'{name} = "text"')


def _check_flow(steps: tuple[Step, ...], places: Places) -> None:
    """The submission gets in, and from each step to the ones that need what it left."""
    names: set[str] = set()
    for n, step in enumerate(steps):
        if step.name in names:
            raise places.error(("step", n, "name"), f"two steps are called {step.name!r}", "name each differently")
        names.add(step.name)
    if not any(step.submission or step.guarded for step in steps):
        raise places.error(
            ("step", 0, "submission"), "no step sees the submission", "take submission = false away from one"
        )
    last = len(steps) - 1
    if steps[last].collect:
        raise places.error(
            ("step", last, "collect"),
            "collects files from the last step, which no step comes after",
            "take collect away; the last step's report is taken as it is",
        )
    for n in range(1, len(steps)):
        if not steps[n].submission and not steps[n].guarded and not any(step.collect for step in steps[:n]):
            raise places.error(
                ("step", n, "submission"),
                f"step {steps[n].name!r} can see nothing of the submission: it has submission = false, and no step "
                "before it collects anything",
                f'write collect = ["out/"] in step {steps[n - 1].name!r}, and have it leave its output there',
            )


def _check_sample(sample: Sample, root: Path, key: Key, places: Places) -> None:
    if not isinstance(sample.path, str) or not sample.path:
        raise places.error((*key, "path"), "is missing", 'path = "samples/perfect.c"')
    inside(root, sample.path, (*key, "path"), places)
    if not isinstance(sample.name, str) or _CONTROL.search(sample.name):
        raise places.error((*key, "name"), f"{sample.name!r} is not a line of text", 'name = "perfect"')
    if sample.outcome is None:
        text = f"the sample {sample.path!r} expects nothing"
        raise places.error(key, text, 'write score = 100 or outcome = "time_limit" below it')
    if sample.outcome not in tuple(Outcome):
        text = f"{sample.outcome!r} is no outcome"
        raise places.error((*key, "outcome"), text, f"use one of: {', '.join(Outcome)}")
    if sample.score is not None:
        if not _is_number(sample.score) or sample.score < 0:
            raise places.error((*key, "score"), f"is {_repr(sample.score)}, not a number from 0", "score = 100")
        if sample.outcome != Outcome.GRADED:
            text = f"a sample with the outcome {sample.outcome} has no score"
            raise places.error((*key, "score"), text, "take score or outcome away")


def inside(root: Path, path: str, key: Key, places: Places) -> Path:
    """Where `root / path` really is: it exists, and is inside the assignment's folder, through links too."""
    _check_clean(path.removesuffix("/"), key, places)
    try:
        real = (root / path).resolve(strict=True)
        home = root.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        near = _neighbours(root / path)
        text = f"{path!r} is not there in {root}" if isinstance(error, FileNotFoundError) else f"{path!r}: {error}"
        raise places.error(key, text, near or f"look at it with: ls -l '{root}'", "file_missing") from error
    if not real.is_relative_to(home):
        raise places.error(
            key, f"{path!r} is a link that leaves the assignment's folder", "put a copy in its place", "file_outside"
        )
    return real


def _neighbours(path: Path) -> str:
    """A hint at what is there instead of a missing file."""
    import difflib

    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"is {near[0]!r} meant?" if near else ""


def _check_clean(path: str, key: Key, places: Places) -> None:
    try:
        check_path(path)
    except ArchiveError as error:
        raise places.error(key, error.message, "name a path inside the folder, such as grader/tests.json") from error


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _repr(value: object) -> str:
    try:
        return repr(value)[:80]
    except ValueError:  # Python does not write out an integer of thousands of digits
        return "a huge number"


def _is_words(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(word, str) for word in value)


def _is_text(value: str) -> bool:
    """Whether it can be encoded at all: no lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)
