"""A PrairieLearn question with external grading: info.json names image and entrypoint, tests/ is what grades.

https://prairielearn.readthedocs.io/en/latest/externalGrading/; what is put where follows PrairieLearn's own
`buildDirectory` (apps/prairielearn/src/lib/externalGraderCommon.ts).
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from minitango.archive import File
from minitango.assignment.autograders import Adopted, Wish
from minitango.assignment.autograders.source import Source
from minitango.assignment.checks import BUILT_IMAGE
from minitango.assignment.parts import SubmissionRule
from minitango.job import Limits
from minitango.text import one_line

INFO: Final = "info.json"
SERVER: Final = "server.py"
HOME: Final = "/grade"
TIMEOUT: Final = 30.0
"""Seconds, where the question says none."""
LIMITS: Final = Limits(memory=2 << 30, pids=1024, disk=1 << 30)
"""PrairieLearn's own."""
_OWN: Final = re.compile(r"(?:docker\.io/)?prairielearn/grader-[a-z0-9-]+")
"""PrairieLearn's own graders: they are root, and become another user for what the student wrote. Where they cannot,
they give everybody 0. See graders/ of https://github.com/PrairieLearn/PrairieLearn."""
_WRITES: Final = re.compile(r"(?:docker\.io/)?prairielearn/grader-(?:c|java)(?:[:@].*)?")
_DOCKERFILE: Final = """\
FROM {image}
RUN if [ -d /cgrader ]; then cd /cgrader && ln -sf /tmp/PAUSE PAUSE && ln -sf PAUSE pause && ln -sf PAUSE Pause; fi
RUN if [ -d /home/sbuser ]; then rm -rf /home/sbuser && ln -s /tmp /home/sbuser; fi
"""
"""Their system is read-only here. That for C makes a program /cgrader/PAUSE before anything else; that for Java has the
student's program run in /home/sbuser, and puts the files there that it reads."""
_EXTERNAL: Final = re.compile(r'"externalGradingOptions"|"gradingMethod"\s*:\s*"External"')
_FUNCTION: Final = re.compile(r"^def (generate|prepare|parse)\b", re.MULTILINE)
_FOLDERS: Final = ("serverFilesCourse", "shared", "tests", "student")
"""They are always there."""
_ELEMENTS: Final = {"pl-file-editor": "file-name", "pl-file-upload": "file-names"}
_VARIABLES: Final = "pl-external-grader-variables"
"""The element that names what goes between setup code and the student's: graders read it as a parameter."""
PARAMS: Final = "data/params.json"
"""Where the parameters that question.html makes lie beside the question's files, for `data`."""


class _Options(Struct, rename="camel"):
    enabled: bool = True
    image: str = ""
    entrypoint: str | list[str] = ""
    timeout: float | None = None
    enable_networking: bool = False
    server_files_course: list[str] | None = None
    environment: dict[str, str | None] | None = None


class _Workspace(Struct, rename="camel"):
    graded_files: list[str] = []


class _Info(Struct):
    title: str = ""
    grading_method: str = msgspec.field(name="gradingMethod", default="Internal")
    external: _Options | None = msgspec.field(name="externalGradingOptions", default=None)
    workspace: _Workspace | None = msgspec.field(name="workspaceOptions", default=None)


def looks(source: Source) -> bool:
    """Whether this is such a question."""
    return source.has(INFO) and _EXTERNAL.search(source.text(INFO)) is not None


def damage(source: Source) -> str:
    """What is wrong with info.json such that nobody can say what it is of; empty where nothing is, or none is there."""
    if not source.has(INFO):
        return ""
    text = source.text(INFO)
    try:
        return "" if isinstance(msgspec.json.decode(text), dict) else "is no JSON object"
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        return f"cannot be read: {error}" if text.strip() else "is empty"


def adopt(source: Source, wish: Wish) -> Adopted:
    """See `autograders.adopt`."""
    info = _read(source)
    options = info.external or _Options()
    image = wish.image or options.image
    root = not wish.command and bool(_OWN.fullmatch(re.split("[:@]", image)[0]))
    command = wish.command or _command(source, options)
    program = command[0] if command else ""
    shared = _of_the_course(source, options.server_files_course or [])
    files = [*source.below("tests"), *shared, *(_moved(file) for file in shared)]
    files += [File(f"{name}/.keep", b"") for name in _FOLDERS if not any(f.path.startswith(f"{name}/") for f in files)]
    if program.startswith(f"{HOME}/"):
        path = program.removeprefix(f"{HOME}/")
        files = [File(f.path, f.data, f.executable or f.path == path) for f in files]
        if all(file.path != path for file in files):
            raise source.error(
                f"the entrypoint {program} is not there", f"add {path}, or correct it", id="file_missing", path=INFO,
                key="externalGradingOptions.entrypoint",
            )  # fmt: skip
    timeout = options.timeout if options.timeout is not None else TIMEOUT
    page = _page(source)
    if page.params:
        files.append(File(PARAMS, json.dumps(page.params).encode()))
    asks, handins = "question.html asks for", page.handins
    if not handins and info.workspace is not None:
        asks, handins = "its workspace is graded by", info.workspace.graded_files
        handins = [name for name in handins if name.strip(".") and not any(letter in name for letter in "/*?[{!")]
    taken = [f"in Docker its image is {image}" + ("" if wish.image else " (--image names another)")] if image else []
    if not options.enabled or info.grading_method != "External":
        why = f"its gradingMethod is {one_line(info.grading_method, 40)}" if options.enabled else "enabled is false"
        taken.append(f"PrairieLearn would not run this grader now, as {why} in {INFO}")
    layered = not wish.command and _WRITES.fullmatch(image) is not None
    if layered:
        taken.append("a layer on top of that lets its grader write where it does")
    if root:
        taken.append("it is root inside of its container, as that image changes users while it grades (docs/trust.md)")
    unset = sorted(name for name, value in (options.environment or {}).items() if value is None)
    if unset:
        taken.append(f"what its image sets stays set, though the question takes it away: {', '.join(unset)}")
    if len(handins) == 1:
        taken.append(f"a hand-in of one file becomes {one_line(handins[0], 60)}, which {asks}")
    if functions := _of_the_server(source):
        taken.append(f"its {SERVER} is not run here ({', '.join(functions)}), and scores may differ by it")
    return Adopted(
        layout="prairielearn",
        name=info.title or source.name,
        command=command,
        files=tuple(files),
        home=HOME,
        format="prairielearn",
        submission=SubmissionRule(name=handins[0] if len(handins) == 1 else ""),
        image=BUILT_IMAGE if layered else image,
        image_files=(File("Dockerfile", _DOCKERFILE.format(image=image).encode()),) if layered else (),
        limits=msgspec.structs.replace(LIMITS, wall=timeout),
        root=root,
        network="open" if options.enable_networking else "none",
        env={name: value for name, value in (options.environment or {}).items() if value is not None},
        taken=tuple(taken),
    )


def _moved(file: File) -> File:
    """The same where PrairieLearn once had it, and still has it."""
    return File("shared/" + file.path.removeprefix("serverFilesCourse/"), file.data, file.executable)


def _read(source: Source) -> _Info:
    try:
        info = msgspec.json.decode(source.text(INFO), type=_Info)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise source.error(str(error), "correct it", id="json", path=INFO) from error
    options = info.external
    timeout = options.timeout if options is not None else None
    if timeout is not None and not (math.isfinite(timeout) and 0.01 <= timeout <= 86_400):
        raise source.error(
            f"the time-out is {timeout}", "write a number of seconds", id="wrong_value", path=INFO,
            key="externalGradingOptions.timeout",
        )  # fmt: skip
    return info


def _command(source: Source, options: _Options) -> tuple[str, ...]:
    """The entrypoint that is named; nothing where that is left to the image."""
    given = options.entrypoint
    try:
        words = shlex.split(given) if isinstance(given, str) else list(given)
    except ValueError:
        words = []
    if not words and not given and options.image:
        return ()
    if not words or "\0" in "".join(words):
        raise source.error(
            "no entrypoint is named, and no image that would have one" if not given else "the entrypoint is no command",
            'name it: "entrypoint": "/grade/tests/run.sh"',
            id="missing_key",
            path=INFO,
            key="externalGradingOptions.entrypoint",
        )
    return tuple(words)


def _of_the_course(source: Source, names: list[str]) -> list[File]:
    """What the question takes of the course's serverFilesCourse/, which is further up."""
    if not names:
        return []
    course = next((Path(up) for up in source.path.absolute().parents if (up / "infoCourse.json").is_file()), None)
    if course is None:
        raise source.error(
            f"it takes {', '.join(names[:3])} of the course's serverFilesCourse, and lies in no course",
            "name the question's folder inside of its course, where infoCourse.json is further up",
            id="file_missing",
            path=INFO,
            key="externalGradingOptions.serverFilesCourse",
        )
    shared = Source(course)
    found: dict[str, File] = {}
    for name in names:
        path = f"serverFilesCourse/{name.strip('/')}"
        if ".." in path.split("/"):
            raise source.error(f"{name!r} leads out of its folder", "correct it", id="file_outside", path=INFO)
        files = [shared.read(path)] if shared.has(path) else shared.below(path)
        if not files:
            raise source.error(
                f"{name!r} is not there in {course / 'serverFilesCourse'}", "correct it", id="file_missing", path=INFO,
                key="externalGradingOptions.serverFilesCourse",
            )  # fmt: skip
        for file in files:
            found.setdefault(file.path, file)
    source.used += shared.used
    return list(found.values())


def _of_the_server(source: Source) -> list[str]:
    """What PrairieLearn runs of server.py before a submission is graded: it makes what is in data.json."""
    if not source.has(SERVER):
        return []
    return list(dict.fromkeys(_FUNCTION.findall(source.text(SERVER))))


def _page(source: Source) -> _Question:
    """What question.html says."""
    reader = _Question()
    if source.has("question.html"):
        with contextlib.suppress(AssertionError):  # html.parser's word for a marked section that is none
            reader.feed(source.text("question.html"))
    return reader


class _Question(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.params: dict[str, list[dict[str, str]]] = {}
        self._variables: list[dict[str, str]] | None = None
        self._params = ""

    @property
    def handins(self) -> list[str]:
        """The files that it asks for."""
        return [name for name in dict.fromkeys(self.names) if name and "/" not in name and "{{" not in name]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if wanted := said.get(_ELEMENTS.get(tag, "")):
            self.names += [part.strip() for part in wanted.split(",")]
        elif tag == _VARIABLES:
            self._variables, self._params = [], said.get("params-name", "")
            if said.get("empty", "").lower() in ("true", "t", "1") and "{{" not in self._params:
                self.params[self._params] = []
        elif tag == "pl-variable" and self._variables is not None:
            self._variables.append({"name": said.get("name", ""), "type": said.get("type", ""), "description": ""})
            if "{{" not in self._params:  # without a variable they are server.py's
                self.params[self._params] = self._variables

    def handle_data(self, data: str) -> None:
        if self._variables:
            self._variables[-1]["description"] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == _VARIABLES:
            for variable in self._variables or []:
                variable["description"] = variable["description"].strip()
            self._variables = None


def data(files: Sequence[File], own: Iterable[File]) -> bytes:
    """/grade/data/data.json for a hand-in of these files, as PrairieLearn writes it. `own` are the question's files."""
    params = next((file.data for file in own if file.path == PARAMS), b"{}")
    sent = [{"name": file.path, "contents": base64.b64encode(file.data).decode()} for file in files]
    return json.dumps(
        {
            "params": json.loads(params),
            "correct_answers": {},
            "submitted_answers": {"_files": sent},
            "format_errors": {},
            "partial_scores": {},
            "score": 0,
            "feedback": {},
            "variant_seed": 0,
            "options": {},
            "raw_submitted_answers": {},
            "gradable": True,
        }
    ).encode()
