"""`minitango init`: a working assignment to begin with."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import click

from minitango.cli.loading import check_name
from minitango.cli.options import ANY_PATH
from minitango.cli.streams import out, program, tell
from minitango.errors import ConfigError
from minitango.room import FULL, free_some
from minitango.text import one_line, plural

SCAFFOLDS: Final = Path(__file__).parent.parent / "scaffolds"
KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "two-step": ("two-step common python", "a two-step assignment: no student can reach answers or score"),
    "c": ("c common", "a two-step assignment for C: no student can reach answers or score"),
    "guarded": ("guarded common", "unit tests for Python functions: no student can reach tests or score"),
    "autolab": ("autolab common python", "an autograder of Autolab's kind"),
    "gradescope": ("gradescope common python", "an autograder of Gradescope's kind"),
    "prairielearn": ("prairielearn common python", "a PrairieLearn question with external grading"),
}
"""Of each kind the folders of SCAFFOLDS that it is made of, and what it is."""
_QUOTED: Final = (".toml", ".json")
"""Suffixes of templates in which a word stands between quotes."""
_MOST_SHOWN: Final = 10


@click.command(short_help="Make a working assignment to begin with.")
@click.argument("folder", type=ANY_PATH, default=Path(), required=False)
@click.option("--kind", type=click.Choice(list(KINDS)), default="two-step", show_default=True, help="What to make.")
@click.option("--name", metavar="NAME", help="What the assignment is called (default: the folder's name).")
def init(folder: Path, kind: str, name: str | None) -> int:
    """Make an assignment in FOLDER (this one, unless named): grader, samples, README and a place for hand-ins.

    It works as it is; change it bit by bit, and let `minitango check` say whether it still does. Nothing that is there
    is overwritten. Prints the files that were made.
    """
    layers, what = KINDS[kind]
    place = _where(folder)
    called = name if name is not None else place.name
    check_name(called, hint="give another --name" if name is not None else "say what it is to be called, with --name")
    words = {
        "name": called,
        "folder": shlex.quote(place.name),
        "handins": shlex.quote(f"{place.name}/handins"),
        "uuid": str(uuid.uuid4()),
    }
    with tempfile.TemporaryDirectory(prefix="minitango-init-") as made:
        for layer in layers.split():
            _render(SCAFFOLDS / layer, Path(made), words)
        if kind == "autolab":
            _pack(Path(made) / "autograder" / "src", Path(made) / "autograder" / "autograde.tar")
        files = sorted(path.relative_to(made) for path in Path(made).rglob("*") if path.is_file())
        _refuse_to_overwrite(folder, files)
        _copy(Path(made), folder, files)
    for path in files:
        out(one_line(str(folder / path), 1000))
    here, handins = shlex.quote(str(folder)), shlex.quote(str(folder / "handins"))
    samples = shlex.quote(str(folder / "samples"))
    tell(f"made {one_line(called, 100)}: {what} ({plural(len(files), 'file')})")
    tell(f"  next: {program()} check {here}  # do its samples get what they should?")
    tell(f"        {program()} run {here} {samples}  # what grading looks like")
    tell(f"        {program()} run {here} {handins}  # once hand-ins are there")
    return 0


def _where(folder: Path) -> Path:
    try:
        return folder.absolute().resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        text = f"{folder} cannot be found: {error}"
        raise ConfigError(text, hint="cd to a folder that is there, or name one", id="init_unwritable") from error


def _render(source: Path, target: Path, words: Mapping[str, str]) -> None:
    """Copy a template's files, with what is to stand for each {{word}}."""
    for path in sorted(source.rglob("*")):
        if not path.is_file() or "__pycache__" in path.parts:
            continue
        quote = _in_quotes if path.suffix in _QUOTED else str
        text = path.read_text("utf-8")
        for word, value in words.items():
            text = text.replace(f"{{{{{word}}}}}", quote(value))
        new = target / path.relative_to(source)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, "utf-8")
        # what a package manager made of the file's mode is not to be relied on
        new.chmod(0o755 if text.startswith("#!") else 0o644)


def _in_quotes(text: str) -> str:
    """The text as it stands between the quotes of a string, in TOML as in JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _pack(source: Path, target: Path) -> None:
    """A tar archive of a folder that says nothing of who made it, or when."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(source, source.name, filter=anonymous)


def _refuse_to_overwrite(folder: Path, files: list[Path]) -> None:
    """ConfigError, with what is in the way."""
    inside = {parent for path in files for parent in path.parents}
    in_the_way = sorted(
        [folder / parent for parent in inside if os.path.lexists(folder / parent) and not (folder / parent).is_dir()]
        + [folder / path for path in files if os.path.lexists(folder / path)]
    )
    if in_the_way:
        shown = ", ".join(one_line(str(path), 200) for path in in_the_way[:_MOST_SHOWN])
        more = len(in_the_way) - _MOST_SHOWN
        raise ConfigError(
            f"nothing was made, as this is in the way: {shown}" + (f" and {more} more" if more > 0 else ""),
            hint="name another folder, or move it away",
            id="init_exists",
        )


def _copy(source: Path, folder: Path, files: list[Path]) -> None:
    """Copy all, or none: what was made is taken away again where something goes wrong. ConfigError."""
    try:
        with contextlib.ExitStack() as undo:
            for path in files:
                for parent in reversed((folder / path).parents):
                    if not parent.is_dir():
                        parent.mkdir()
                        undo.callback(_forget, parent.rmdir)
                with (folder / path).open("xb") as new:
                    undo.callback(_forget, (folder / path).unlink)
                    new.write((source / path).read_bytes())
                shutil.copymode(source / path, folder / path)
            undo.pop_all()
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder} cannot be made: {error.strerror}",
            hint=f"{free_some(folder)}, or name another folder"
            if error.errno in FULL
            else "name another folder, or correct its permissions",
            id="init_unwritable",
        ) from error


def _forget(remove: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        remove()
