"""Which files are no hand-in for what an assignment asks for: told by name and first bytes, so that none is taken for
source and earns a zero."""

from __future__ import annotations

import re
from typing import Final

from minitango.archive import File, is_archive_name, shown
from minitango.errors import SubmissionError

_PACKED: Final = re.compile(
    r"\.(rar|7z|zipx|gz|bz2|xz|zst|lz|lz4|lzma|z|cab|arj|ace|lzh|lha|sit|sitx|alz|iso|dmg)\Z", re.IGNORECASE
)
"""Archives, or files that are compressed, which are not unpacked here."""
_OFFICE: Final = re.compile(r"\.(docx?|odt|pages|pdf|rtf)\Z", re.IGNORECASE)
_MAGIC: Final = ((b"Rar!\x1a\x07", "a RAR archive"), (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"))
"""What these are, whatever they are called."""
_DISGUISED: Final = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b\x08", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
)
"""What may also be the right file, such as a .jar: refused only if its name does not end as is asked for."""


def check_kind(file: File, path: str, place: str) -> None:
    """Refuse the only file of a hand-in if it is an archive that is not unpacked, or a document where source is due.

    `path` is the rule's: a file, a folder with `/` at its end, or empty. SubmissionError `submission_kind`.
    """
    one_file = bool(path) and not path.endswith("/")
    suffix, wanted = _suffix(file.path), _suffix(path) if one_file else ""
    what = next((what for magic, what in _MAGIC if file.data.startswith(magic)), "")
    alike = suffix == wanted or (is_archive_name(file.path) and is_archive_name(path))
    if one_file and alike and (not what or _PACKED.search(path)):
        return
    if not what and (_PACKED.search(file.path) or (one_file and is_archive_name(file.path))):
        what = f"a {suffix} file"
    if not what and one_file:
        if _OFFICE.search(file.path):
            what = f"a document ({suffix})"
        else:
            what = next((what for magic, what in _DISGUISED if file.data.startswith(magic)), "")
    if what:
        name = shown(file.path)
        raise SubmissionError(
            f"{place} is {what}" if name == place else f"{place} holds {name} alone, which is {what}",
            hint=f"ask for {path}, or a zip of it" if one_file else "ask for a zip of the files",
            id="submission_kind",
        )


def _suffix(path: str) -> str:
    """As pathlib has it, in lower case."""
    stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if stem and dot and suffix else ""
