"""Untrusted text, made safe for each place where it is shown; and sizes, times and endings in words.

Bytes are kept as they came. They are made safe here, at the sink, once: terminal, one line, XML, CSV, Markdown, and
the name of a file.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import re
import signal
from typing import Final

# Escape sequences start in C0 and C1. The bidirectional controls reorder what is shown; the two separators
# break lines in some viewers; a lone surrogate cannot be encoded at all.
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_CONTROLS: Final = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_BIDI}\ud800-\udfff]")
_CONTROLS_AND_BREAKS: Final = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029{_BIDI}\ud800-\udfff]")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a cell begins that a spreadsheet may execute; the last four are the wide forms, which some take for the same."""
_NUMBER: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_TO_QUOTE: Final = re.compile(r'[",;\t\r\n]|^ | $')
_MARKUP: Final = re.compile(r"[\\`*_{}\[\]()<>#+.!|~&$:@/-]")
_NO_NAME: Final = re.compile(r"[^\w.@+ -]")
_MAX_LOG: Final = 4000
"""Characters of a message in a log."""
_MAX_NAME: Final = 100
"""Characters of a file's name; each takes up to four bytes of the 255 that a file system has."""
_OF_ONE: Final = {"have": "has", "are": "is", "were": "was", "do": "does", "go": "goes"}
"""Verbs that are not as others of one."""
_SHORT: Final = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}


def for_terminal(text: str | bytes) -> str:
    """Nothing in the answer can move the cursor, colour, retitle or reorder a terminal; newline and tab stay.

    A control character is shown as its escape (`\\x1b`, `\\u202e`), a byte that is no UTF-8 as `\\xNN`.
    """
    return _CONTROLS.sub(_escape, _decoded(text))


def one_line(text: str | bytes, width: int = 200) -> str:
    """One line of at most `width` characters (at least 1), safe on a terminal and in a log. Cut with `…`."""
    width = max(width, 1)
    # An escape is longer than what it stands for, so nothing past this can be part of the answer.
    head = text[: 4 * (width + 1)] if isinstance(text, bytes) else text[: width + 1]
    line = _CONTROLS_AND_BREAKS.sub(_escape, _decoded(head))
    return line if len(line) <= width else line[: width - 1] + "…"


def safe_record(record: logging.LogRecord) -> bool:
    """Make what a record says one line that is safe in a log, wherever it goes: a filter of our logger."""
    record.msg, record.args = one_line(record.getMessage(), _MAX_LOG), ()
    return True


def for_junit(text: str | bytes) -> str:
    """Text that any XML 1.0 document can hold: illegal characters are shown as escapes.

    Markup (`<`, `&`) is left for the XML writer, which must escape it.
    """
    return _not_xml().sub(_escape, _decoded(text))


def for_csv(text: str | bytes) -> str:
    """One cell of a CSV file (RFC 4180), quoted where need be, that every spreadsheet takes for text.

    What would be a formula gets an apostrophe before it; a plain number, also one below 0, stays one. Line breaks and
    tabs stay; other control characters are shown as escapes. A cell with a semicolon is quoted, too: some spreadsheets
    split there.
    """
    cell = for_terminal(text)
    if cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell):
        cell = f"'{cell}"
    return '"' + cell.replace('"', '""') + '"' if _TO_QUOTE.search(cell) else cell


def for_markdown(text: str | bytes, width: int = 200) -> str:
    """One line for a Markdown document, in which nothing is markup: no link, image, HTML or emphasis."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text, width))


def markdown_block(text: str | bytes) -> str:
    """Lines for a Markdown document, shown as they are; nothing in them can end the block."""
    body = for_terminal(text).strip("\n")
    longest = max((len(run) for run in re.findall("`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{body}\n{fence}"


def file_name(text: str) -> str:
    """A file's name, safe on every system, that people recognise as `text`: two that differ never get the same one,
    not even where a file system takes capitals and small letters for alike."""
    plain = _NO_NAME.sub("_", text).strip(" .")[:_MAX_NAME]
    if plain and plain == text and plain == plain.casefold() and not _reserved(plain):
        return plain
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain or '_'}~{mark}"


def _reserved(name: str) -> bool:
    """Whether Windows takes it for a device."""
    return re.fullmatch(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", name) is not None


def plural(count: int, word: str, verb: str = "") -> str:
    """`1 job`, `2 jobs`, `0 jobs`, `2 tries`; with a verb, as it is said of several: `1 job waits`, `2 jobs wait`."""
    said = f"{count} {word if count == 1 else _with_s(word)}"
    if not verb:
        return said
    return f"{said} {_OF_ONE.get(verb) or _with_s(verb) if count == 1 else verb}"


def _with_s(word: str) -> str:
    return f"{word[:-1]}ies" if re.search("[^aeiou]y$", word) else f"{word}s"


def human_size(size: int) -> str:
    """Bytes for people: `312 B`, `1.5 KiB`, `128 MiB`."""
    if size < 1024:
        return f"{size} B"
    value, unit = size / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if value < 1023.5:  # more would be rounded to 1024
            break
        value, unit = value / 1024, larger
    digits = f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
    return f"{digits.removesuffix('.0')} {unit}"


def human_seconds(seconds: float) -> str:
    """A duration for people: `8 ms`, `0.4 s`, `12 s`, `2 min 05 s`, `1 h 03 min`."""
    seconds = max(seconds, 0.0)
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def signal_name(number: int) -> str:
    """`SIGSEGV` for 11; `signal 77` for a number without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def ending(exit_status: int | None, signal: int | None = None) -> str:
    """How a command ended, to stand after "it": `ended with exit status 1`, `was killed by SIGSEGV`."""
    if signal is not None:
        return f"was killed by {signal_name(signal)}"
    if exit_status is None:
        return "did not start"
    # a shell passes on the death of its command as 128 + the signal's number
    shell = f" ({signal_name(exit_status - 128)})" if 128 < exit_status < 160 else ""
    return f"ended with exit status {exit_status}{shell}"


def _decoded(text: str | bytes) -> str:
    return text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


@functools.cache
def _not_xml() -> re.Pattern[str]:
    """What XML 1.0 cannot hold. Compiled when first needed: its wide ranges take 5 ms."""
    return re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
