"""Building an image from a folder with a Dockerfile, by the engine's classic builder."""

from __future__ import annotations

import io
import re
import shlex
import tarfile
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, Final

from msgspec import Struct

from minitango.archive import File
from minitango.errors import AssignmentError, SandboxUnavailable
from minitango.sandbox._docker_engine import Engine, Missing, Refused
from minitango.sandbox._docker_pull import failed
from minitango.sandbox._docker_stream import SILENCE, Silent, check_disk, follow
from minitango.text import human_seconds, one_line

DOCKERFILE: Final = "Dockerfile"
LABEL: Final = "minitango.build"
_STEP: Final = re.compile(r"STEP (\d{1,4})(?:/(\d{1,4}))? ?: (.*)", re.IGNORECASE)
_NOISE: Final = re.compile(r"-+> |Removing intermediate container |$")
_EXIT: Final = re.compile(r"The command '.*' returned a non-zero code: ([0-9]{1,3})", re.DOTALL)
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]{0,20}m")
"""The engine puts it around what a step wrote to stderr."""
_PARSE_LINE: Final = re.compile(r"parse error (?:on )?line (\d{1,6})")
_KEPT: Final = 3
"""Lines of what a step printed that go into an error."""
_LINE: Final = 4096
_IN_MEMORY: Final = 8 << 20


class Folder(Struct, frozen=True):
    """What is built: the files of a folder of the assignment, by that folder's name."""

    name: str
    files: Sequence[File]
    digest: str
    """Of the files and the platform."""

    @property
    def tag(self) -> str:
        """Under which its image is kept."""
        return f"minitango/build:{self.digest}"


def build(
    engine: Engine, folder: Folder, *, tell: Callable[[str], None], closed: threading.Event, silence: float = SILENCE
) -> None:
    """Have the engine build the folder's image and tag it.

    AssignmentError `image_build`, with the Dockerfile's line where it is known; SandboxUnavailable `sandbox_registry`
    where the image that it is built from cannot be pulled now; and what `follow` raises but Silent.
    """
    began = time.monotonic()
    steps = _Steps(folder, tell)
    tell(one_line(f"building {folder.name}", 120))
    with _context(folder.files) as context:
        try:
            for message in follow(
                engine,
                lambda api: api.build(
                    fileobj=context,
                    custom_context=True,
                    tag=folder.tag,
                    labels={LABEL: folder.digest},
                    rm=True,
                    forcerm=True,
                ),
                closed=closed,
                silence=silence,
            ):
                steps.printed(message.stream or "")
                if message.error is not None:
                    raise steps.failed(engine, message.error)
        except (Missing, Refused) as error:
            raise steps.failed(engine, str(error).removeprefix(f"{engine}: ")) from error
        except Silent as error:
            raise steps.failed(engine, f"nothing was printed for {human_seconds(silence)}") from error
    tell(one_line(f"built {folder.name} in {human_seconds(time.monotonic() - began)}", 120))


class _Steps:
    """Where a build is, and the last lines that its step printed."""

    def __init__(self, folder: Folder, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._rest = ""
        self._instruction = ""
        self._where = ""
        self._last: deque[str] = deque(maxlen=_KEPT)

    def printed(self, text: str) -> None:
        *lines, rest = (self._rest + text).split("\n")
        self._rest = rest[-_LINE:]
        for line in lines:
            line = _COLOUR.sub("", line[:_LINE])
            found = _STEP.match(line)
            if found is not None:
                self._instruction = found[3]
                self._where = f"step {found[1]} of {found[2]}" if found[2] else f"step {found[1]}"
                self._last.clear()
                self._tell(one_line(f"building {self._folder.name}: {self._where}: {found[3]}", 120))
            elif not _NOISE.match(line.strip()):
                self._last.append(one_line(line.strip()[-200:], 200))

    def failed(self, engine: Engine, said: str) -> AssignmentError | SandboxUnavailable:
        """The error for what the engine said at this step."""
        check_disk(engine, said)
        words = self._instruction.split()
        if words[:1] == ["FROM"] or words[:1] == ["from"]:
            source = failed(engine, next((word for word in words[1:] if not word.startswith("--")), "?"), said)
            if isinstance(source, SandboxUnavailable):
                return source
        ended = _EXIT.fullmatch(said)
        text = f"exit code {ended[1]}" if ended else one_line(said.strip(), 300)
        if self._where:
            text = f"{self._where}, {one_line(self._instruction, 100)}: {text}"
        if self._rest.strip():
            self.printed("\n")
        if self._last:
            text += f"; it printed: {' | '.join(self._last)}"
        parsed = _PARSE_LINE.search(said)
        return AssignmentError(
            text,
            file=f"{self._folder.name}{DOCKERFILE}",
            line=int(parsed[1]) if parsed else self._line(),
            hint="correct it; to see all that is printed, in the assignment's folder: "
            f"docker build {shlex.quote(self._folder.name)}",
            id="image_build",
        )

    def _line(self) -> int | None:
        """The line of the Dockerfile where the instruction begins, if one line alone begins as it does."""
        data = next((file.data for file in self._folder.files if file.path == DOCKERFILE), b"")
        wanted = _squeezed(self._instruction)
        found = [
            number
            for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1)
            if (begin := _squeezed(line.strip().removesuffix("\\"))) and wanted.startswith(begin)
        ]
        return found[0] if len(found) == 1 else None


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _context(files: Sequence[File]) -> IO[bytes]:
    """The folder as a tar. The same files give the same bytes, so that the engine's cache of layers is of use."""
    made = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed by the caller
    with tarfile.open(fileobj=made, mode="w") as tar:
        for file in files:
            entry = tarfile.TarInfo(file.path)
            entry.size = len(file.data)
            entry.mode = 0o755 if file.executable else 0o644
            tar.addfile(entry, io.BytesIO(file.data))
    made.seek(0)
    return made
