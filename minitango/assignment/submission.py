"""Hand-ins: who, for which assignment, which files, where they land; and which ones there are below a path."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field, structs

from minitango import archive, callback_url
from minitango.archive import Bounds, File, is_archive_name, is_ignored, shown
from minitango.assignment.kinds import check_kind
from minitango.errors import ArchiveError, NothingToGrade, SubmissionError

if TYPE_CHECKING:
    from minitango.assignment.model import Assignment

MAX_STUDENT: Final = 200
"""Characters in a student's id."""

Files = str | Path | Mapping[str, bytes] | Callable[[Bounds], tuple[File, ...]]
"""What a hand-in's files may be given as."""

_NO_HANDIN: Final = re.compile(r"\.|README|submission_metadata\.yml\Z", re.IGNORECASE)
"""Hidden ones, notes, and what Gradescope puts beside the submissions that it exports."""
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NOT_PRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\\\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(name: str) -> str:
    """A file's name as text for people, on one line. Two different names stay different."""
    return _NOT_PRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), name)


class Submission(Struct, frozen=True):
    """One hand-in. SubmissionError for a student's id, or anything else, that cannot be kept.

    `files` is a file, a folder or an archive on disk, or a mapping of paths to bytes, which stands for a folder; or a
    function that reads them, within bounds, each time it is asked. The disk is read by `bundle`, not before.
    """

    assignment: Assignment
    student: str
    files: Files
    title: str = ""
    """What the hand-in is called; by default its file's name."""
    course: str = ""
    priority: int = 0
    """Higher first."""
    labels: Mapping[str, str] = field(default_factory=dict)
    callback: str = ""
    """An http or https URL that is sent the result when the job has ended, however it did. It is the job's: the same
    work submitted again, which is the same job, adds none. ConfigError `callback_url` where nothing can be sent there.
    """

    def __post_init__(self) -> None:
        if not isinstance(self.student, str):
            raise _bad("the student's id", self.student, "is not a string")
        if not self.student.strip():
            raise _bad("the student's id", self.student, "is empty")
        for what, text in (("the student's id", self.student), ("the course", self.course)):
            if len(text) > MAX_STUDENT:
                raise _bad(what, text, f"is longer than {MAX_STUDENT} characters")
            if _CONTROL.search(text):
                raise _bad(what, text, "has control characters")
        if not isinstance(self.files, (str, Path, Mapping)) and not callable(self.files):
            raise _bad("files", self.files, "is neither a path nor a mapping of paths to bytes")
        if isinstance(self.priority, bool) or not isinstance(self.priority, int) or abs(self.priority) > 1 << 31:
            raise _bad("the priority", self.priority, "is not a whole number of at most 32 bits")
        if self.callback:
            callback_url.parse(self.callback, callback_url.ANYWHERE)
        if not all(isinstance(text, str) for pair in self.labels.items() for text in pair):
            raise _bad("labels", dict(self.labels), "are not strings")
        title = self.title or _title(self.files)
        for name, text in (("student", self.student), ("course", self.course), ("title", printable(title))):
            # undecodable bytes of a file's name come as lone surrogates, which no store and no JSON can hold
            structs.force_setattr(self, name, text.encode("utf-8", "backslashreplace").decode())

    def bundle(self) -> tuple[File, ...]:
        """What lands in the working directory, in order of path. SubmissionError or ArchiveError: not to be taken.

        Where `SubmissionRule.path` is a folder, or empty: a folder or an archive is unpacked there, a single file keeps
        its name, or gets the rule's. Where it is a file: a single file becomes it, whatever its name; a folder or an
        archive must hold it, perhaps below one common top folder, or hold one file alone, which becomes it. A folder
        that holds one file alone is as good as that file. An archive is unpacked if its name says that it is one,
        unless the rule's path or name is an archive's too. What would be taken for source and cannot be any is refused:
        an archive of another kind, a text processor's document.
        """
        rule = self.assignment.submission
        files = self._read(Bounds(files=rule.max_files, bytes=rule.max_size))
        if not files:
            raise SubmissionError(f"{self._place()} is empty", hint="hand in at least one file", id="submission_empty")
        if len(files) == 1:
            check_kind(files[0], rule.name or rule.path, self._place())
        if rule.path and not rule.path.endswith("/"):
            files = _land_on(rule.path, files, self._place())
            if self.assignment.layout == "autolab":  # which sends that one file, whatever else was handed in
                files = tuple(file for file in files if file.path == rule.path)
        else:
            if rule.name and len(files) == 1:
                files = (File(rule.name, files[0].data, files[0].executable),)
            files = tuple(File(rule.path + file.path, file.data, file.executable) for file in files)
        return archive.tree(files)

    def _place(self) -> str:
        return shown(Path(self.files).name) if isinstance(self.files, (str, Path)) else "the hand-in"

    def _read(self, bounds: Bounds) -> tuple[File, ...]:
        if isinstance(self.files, Mapping):
            files = _from_mapping(self.files, bounds)
        elif callable(self.files):
            files = archive.tree(self.files(bounds))
        else:
            path = Path(self.files)
            if _is_folder(path):
                try:
                    files = archive.read_tree(path, bounds)
                except ArchiveError as error:
                    raise ArchiveError(f"{self._place()}: {error.message}", hint=error.hint, id=error.id) from error
            elif self._unpacks(path.name):
                return archive.read_archive(path, bounds)
            else:
                data, executable = archive.read_file(path, bounds.bytes)
                files = (File(path.name, data, executable),)
        if len(files) == 1 and "/" not in files[0].path and self._unpacks(files[0].path):
            return archive.unarchive(files[0].path, files[0].data, bounds)
        return files

    def _unpacks(self, name: str) -> bool:
        rule = self.assignment.submission
        return is_archive_name(name) and not is_archive_name(rule.path) and not is_archive_name(rule.name)


def _title(files: Files) -> str:
    if isinstance(files, (str, Path)):
        return Path(files).name
    return str(next(iter(files))) if isinstance(files, Mapping) and len(files) == 1 else ""


def _is_folder(path: Path) -> bool:
    """Whether the hand-in at this path is a folder; a link is none. SubmissionError where there is nothing."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise SubmissionError(
            f"there is no hand-in at {str(path)!r}: {why}", hint=f"ls -l '{path.parent}'", id="submission_missing"
        ) from error


def _from_mapping(files: Mapping[str, bytes], bounds: Bounds) -> tuple[File, ...]:
    for name, data in files.items():
        if not isinstance(name, str) or not isinstance(data, bytes):
            raise _bad("files", name, "does not map a path to bytes")
    size = sum(len(data) for data in files.values())
    if size > bounds.bytes:
        raise archive.too_large("the hand-in", size, bounds.bytes)
    if len(files) > bounds.files:
        raise archive.too_many("files", bounds.files)
    return archive.tree(File(name, data) for name, data in files.items())


def _land_on(path: str, files: tuple[File, ...], place: str) -> tuple[File, ...]:
    """The files such that one of them is `path`."""
    inner = files
    while all(file.path != path for file in inner):
        top = inner[0].path.partition("/")[0] + "/"
        if not all(file.path.startswith(top) for file in inner):
            break
        inner = tuple(File(file.path.removeprefix(top), file.data, file.executable) for file in inner)
    else:
        return inner
    if len(files) == 1:
        return (File(path, files[0].data, files[0].executable),)
    there = ", ".join(shown(file.path) for file in files[:5])
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    raise SubmissionError(
        f"{place} does not hold {path!r}; it holds {there}{more}",
        hint=f"hand in {path!r} alone, or a folder or archive with {path!r} in it",
        id="submission_file_missing",
    )


def _bad(what: str, value: object, why: str) -> SubmissionError:
    return SubmissionError(f"{what} {shown_value(value)} {why}", hint="correct it and submit again", id="submission")


def shown_value(value: object) -> str:
    return shown(value) if isinstance(value, str) else shown(repr(value))


# --- finding them -----------------------------------------------------------------------------


class Handin(Struct, frozen=True):
    """A hand-in on disk, for `Submission(assignment, student, path, title=title)`."""

    student: str
    path: Path
    title: str


def find_handins(paths: Sequence[Path]) -> list[Handin]:
    """The hand-ins that these paths name, each once.

    A file is one hand-in; a folder holds them: each file, folder or archive in it is one, in natural order (`a2`
    before `a10`), but for hidden ones, README*, submission_metadata.yml and what `archive.is_ignored` names. The
    student is the name without its suffix, made printable; where two different names would then be one, both keep their
    suffix. The title is the name, and more of the path where two have the same. SubmissionError: a path is not there.
    NothingToGrade: nothing was found.
    """
    found: dict[str, Path] = {}
    for path in paths:
        for handin in _below(path):
            found.setdefault(os.path.abspath(handin), handin)  # noqa: PTH100 - links are not to be resolved
    if not found:
        looked = ", ".join(repr(str(path)) for path in paths) or "no path at all"
        raise NothingToGrade(
            f"there is no hand-in in {looked}",
            hint="put the hand-ins there, one file, folder or archive a student, or name another folder",
        )
    students = _students(found.values())
    titles = _titles(list(found.values()))
    return [
        Handin(students[path.name], path, printable(title)) for path, title in zip(found.values(), titles, strict=True)
    ]


def of_one_stem(handins: Iterable[Handin]) -> list[tuple[Handin, ...]]:
    """Those of `find_handins` that keep their suffixes as students: without them, different names would be one."""
    groups: dict[str, dict[str, Handin]] = {}
    for handin in handins:
        groups.setdefault(_stem(handin.path), {}).setdefault(handin.path.name, handin)
    return [tuple(group.values()) for group in groups.values() if len(group) > 1]


def _below(path: Path) -> list[Path]:
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return [path]
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        text = f"there is no {str(path)!r}: {why}"
        raise SubmissionError(text, hint=f"ls '{path.parent}'", id="submission_missing") from error
    try:
        names = os.listdir(path)  # noqa: PTH208 - names are wanted, not paths
    except OSError as error:
        text = f"the folder {str(path)!r} cannot be read: {error.strerror}"
        raise SubmissionError(text, hint=f"ls -ld '{path}'", id="submission_unreadable") from error
    return [path / name for name in sorted(names, key=natural) if not is_no_handin(name)]


def is_no_handin(name: str) -> bool:
    """Whether an entry of a folder of hand-ins is none: hidden, notes, litter."""
    return bool(_NO_HANDIN.match(name)) or is_ignored(name)


def _titles(paths: Sequence[Path]) -> list[str]:
    """What each hand-in is called: its name, with as much of its path before it as tells it from the others."""
    titles = [path.name for path in paths]
    for longer in ([f"{path.parent.name}/{path.name}" for path in paths], [str(path) for path in paths]):
        shared = Counter(titles)
        titles = [new if shared[title] > 1 else title for title, new in zip(titles, longer, strict=True)]
    return titles


def _students(paths: Iterable[Path]) -> dict[str, str]:
    """For each name of a hand-in its student; never the same for two names."""
    students = {path.name: _stem(path) for path in paths}
    while True:
        shared = Counter(students.values())
        clash = [name for name, student in students.items() if shared[student] > 1 and student != name]
        if not clash:
            return {name: _shortened(printable(student), name) for name, student in students.items()}
        students.update((name, name) for name in clash)


def _stem(path: Path) -> str:
    """The name without its suffix, or whole if nothing else would be left."""
    name = path.name
    if path.is_dir():
        return name
    archive_suffix = max((suffix for suffix in archive.SUFFIXES if name.lower().endswith(suffix)), key=len, default="")
    stem = name[: len(name) - len(archive_suffix or path.suffix)]
    return stem if stem.strip() else name


def _shortened(student: str, name: str) -> str:
    if len(student) <= MAX_STUDENT:
        return student
    mark = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return f"{student[: MAX_STUDENT - len(mark) - 1]}~{mark}"


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers in a name by their value."""
    parts = re.split(r"([0-9]{1,18})", name)
    key = [(0, int(part), "") if n % 2 else (1, 0, part.casefold()) for n, part in enumerate(parts) if part]
    return [*key, (2, 0, name)]
