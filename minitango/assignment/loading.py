"""Where an assignment comes from: a folder with an assignment.toml, that file, or another platform's autograder."""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path
from typing import Final

from minitango.archive import read_file
from minitango.assignment import adopting, autograders
from minitango.assignment.autograders import Wish
from minitango.assignment.autograders.source import Source, is_archive
from minitango.assignment.model import Assignment
from minitango.assignment.places import Places, key_lines
from minitango.assignment.toml_file import Reader
from minitango.errors import ArchiveError, AssignmentError

NAME: Final = adopting.NAME
MAX_SIZE: Final = 1 << 20


def load(path: Path, *, image: str = "", setup: bool = True) -> Assignment:
    """See `Assignment.load`."""
    wish = Wish(image, setup)
    if is_archive(path):
        return adopting.alone(Source(path), wish)
    file = _find(path)
    if file is None:
        return adopting.alone(Source(path), wish)
    return _load(file, wish)


def _load(file: Path, wish: Wish) -> Assignment:
    text = _text(file)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: an integer of thousands of digits, too
        raise _malformed(file, error, text) from error
    reader = Reader(Places(str(file), key_lines(text.replace("\r\n", "\n"))))
    if "layout" in table:
        assignment = adopting.beside(reader, table, file.parent.absolute(), wish)
    else:
        assignment = reader.assignment(table, file.parent.absolute())
    vars(assignment)["_places"] = reader.places  # for what is found wrong only when its files are read
    assignment.validate(reader.places)
    return assignment


def _find(path: Path) -> Path | None:
    """The assignment.toml that is meant; None where a folder has none and yet may be somebody else's autograder."""

    def missing(message: str, hint: str) -> AssignmentError:
        return AssignmentError(message, file=str(path), hint=hint, id="assignment_missing")

    other = f"name a folder that holds an {NAME}, or the file itself"
    try:
        folder = stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise missing(f"there is no such file or folder: {why}", other) from error
    if folder:
        file = path / NAME
        try:
            file.lstat()
            there = True  # also a link that leads nowhere: reading it will say so
        except (FileNotFoundError, NotADirectoryError):
            there = False
        except OSError:
            there = True  # reading it will say what is wrong
        if there:
            return file
        near = sorted(path.glob(f"*/{NAME}"))
        if autograders.recognised(Source(path)):
            return None
        if near:
            raise missing(f"there is no {NAME} in this folder", f"name the assignment's folder: {near[0].parent}")
        return None
    if path.suffix != ".toml":
        raise missing("this is neither a .toml file nor an archive", other)
    return path


def _text(file: Path) -> str:
    try:
        data, _ = read_file(file.resolve(), MAX_SIZE)
    except ArchiveError as error:
        hint = error.hint if error.id != "too_large" else "keep data in files of their own"
        cause = error.__cause__
        text = f"cannot be read: {cause.strerror}" if isinstance(cause, OSError) else error.message
        raise AssignmentError(text, file=str(file), hint=hint, id="assignment_unreadable") from error
    data = data.removeprefix(b"\xef\xbb\xbf")  # Windows' editors write it
    hint = "save it as UTF-8"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise AssignmentError("it is UTF-16", file=str(file), line=1, hint=hint, id="encoding")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AssignmentError("it is not UTF-8", file=str(file), line=line, hint=hint, id="encoding") from error


def _malformed(file: Path, error: Exception, read: str) -> AssignmentError:
    text = "values are nested too deeply" if isinstance(error, RecursionError) else str(error)
    found = re.search(r" \(at line (\d+), column (\d+)\)", text)
    line = int(found[1]) if found else None
    if text.endswith("(at end of document)"):  # that of the last value
        line = read.rstrip().count("\n") + 1
    message = "not TOML: " + (text.replace(found[0], f" at column {found[2]}") if found else text)
    hint = 'correct this line; text is in quotes, as in name = "hw1", and a list in brackets, as in ["make", "-s"]'
    return AssignmentError(message, file=str(file), line=line, hint=hint, id="toml")
