"""Text for each sink: nothing in it can act on the place where it is shown."""

import csv
import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minitango
from minitango.text import (
    ending,
    file_name,
    for_csv,
    for_junit,
    for_markdown,
    for_terminal,
    human_seconds,
    human_size,
    markdown_block,
    one_line,
    plural,
    signal_name,
)

PACKAGE = Path(minitango.__file__).parent

any_text = st.text(st.characters(codec=None)) | st.binary()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\tindented", "plain\n\tindented"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("del\x7f", r"del\x7f"),
        ("over\rwritten\x08", r"over\rwritten\x08"),
        ("abc\u202edcb\u2066", r"abc\u202edcb\u2066"),
        ("\ud800", r"\ud800"),
        ("Zoë 👩\u200d💻", "Zoë 👩\u200d💻"),
        (b"caf\xc3\xa9 \xff\x00", r"café \xff\x00"),
        (b"\xc2\x9b31m", r"\x9b31m"),
    ],
)
def test_terminal(text, shown):
    assert for_terminal(text) == shown


@settings(deadline=None)  # other tests share the machine
@given(any_text)
def test_a_terminal_is_never_moved(text):
    shown = for_terminal(text)
    shown.encode("utf-8")
    assert not any(ord(c) < 0x20 and c not in "\n\t" for c in shown)
    assert not any(0x7F <= ord(c) <= 0x9F for c in shown)
    assert not set(shown) & set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@settings(deadline=None)  # other tests share the machine
@given(any_text, st.integers(-1, 60))
def test_one_line_is_one_line_and_fits(text, width):
    line = one_line(text, width)
    assert len(line) <= max(width, 1)
    assert len(line.splitlines()) <= 1
    assert line == for_terminal(line)


@settings(deadline=None)  # other tests share the machine
@given(any_text)
def test_one_line_does_not_depend_on_what_is_cut(text):
    """Looking at the head alone must not change the answer."""
    whole = one_line(text, 10_000)
    cut = one_line(text, 10)
    assert cut == whole if len(whole) <= 10 else cut == whole[:9] + "…"


def test_one_line_escapes_breaks_and_marks_the_cut():
    assert one_line("a\nb\tc") == r"a\nb\tc"
    assert one_line("a\u2028b") == r"a\u2028b"
    assert one_line("abcdef", 4) == "abc…"
    assert one_line("abcd", 4) == "abcd"


@settings(deadline=None)  # other tests share the machine
@given(any_text)
def test_junit_survives_an_xml_parser(text):
    safe = for_junit(text)
    element = ET.Element("a")
    element.text = safe
    back = ET.fromstring(ET.tostring(element, encoding="utf-8")).text or ""
    assert back == safe.replace("\r\n", "\n").replace("\r", "\n")


def test_junit_shows_what_it_replaced():
    assert for_junit("ok\x1b[0m\ufffe\x00") == r"ok\x1b[0m\ufffe\x00"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (10 * 1024 + 100, "10 KiB"),
        (1024 * 1024 - 1, "1 MiB"),
        (128 << 20, "128 MiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 40, "5 TiB"),
        (5 << 50, "5120 TiB"),
    ],
)
def test_sizes(size, words):
    assert human_size(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 ms"),
        (0.008, "8 ms"),
        (0.0999, "0.1 s"),
        (0.44, "0.4 s"),
        (5.0, "5 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3780, "1 h 03 min"),
    ],
)
def test_durations(seconds, words):
    assert human_seconds(seconds) == words


def test_counts():
    assert [plural(n, "job") for n in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]
    assert [plural(n, "job", "wait") for n in (0, 1, 2)] == ["0 jobs wait", "1 job waits", "2 jobs wait"]
    of_one = {"have": "has", "were": "was", "try": "tries", "stay": "stays"}
    assert [plural(1, "job", verb) for verb in of_one] == [f"1 job {verb}" for verb in of_one.values()]
    assert [plural(2, word) for word in ("try", "way", "hand-in")] == ["2 tries", "2 ways", "2 hand-ins"]


ALWAYS_SEVERAL = {
    "{found.count} hand-ins", "{count} hand-ins", "{bounds.files} files", "{len(specs):,} jobs",
    "{len(self._roster.members)} engines",
}  # fmt: skip
"""Counts that are never 1."""


def test_nobody_counts_by_hand():
    nouns = "jobs|files|hand-ins|students|tests|warnings|checks|engines"
    counted = re.compile(rf"\{{(?!program|[A-Z_.]+[:}}])[^{{}}']*\}} (?:(?:other|more|old) )?(?:{nouns})\b")
    sources = [path.read_text() for path in PACKAGE.rglob("*.py") if "scaffolds" not in path.parts]
    found = {match[0] for text in sources for match in counted.finditer(text)}
    assert found == ALWAYS_SEVERAL, "the others are for `plural`"


def test_endings():
    assert signal_name(11) == "SIGSEGV"
    assert signal_name(4711) == "signal 4711"
    assert ending(3) == "ended with exit status 3"
    assert ending(139) == "ended with exit status 139 (SIGSEGV)"
    assert ending(None, 9) == "was killed by SIGKILL"
    assert ending(None) == "did not start"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("ada", "ada"),
        ("", ""),
        ("-1.5", "-1.5"),
        ("-7", "-7"),
        ("-7 points", "'-7 points"),
        ("=1+1", "'=1+1"),
        ("+49", "'+49"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", '"\'\t=1"'),
        ("\r=1", r"\r=1"),
        ("\n=1", '"\'\n=1"'),
        ("\uff1d1", "'\uff1d1"),
        ('=HYPERLINK("http://x")', '"\'=HYPERLINK(""http://x"")"'),
        ("a,b", '"a,b"'),
        ("ada;=1+1", '"ada;=1+1"'),
        ("two\nlines", '"two\nlines"'),
        ("\x1b[2J", r"\x1b[2J"),
        (b"caf\xc3\xa9\xff", r"café\xff"),
    ],
)
def test_csv(text, cell):
    assert for_csv(text) == cell


@given(st.lists(any_text, min_size=1, max_size=5))
def test_csv_is_read_back_as_one_row_without_formulas(texts):
    line = ",".join(for_csv(text) for text in texts)
    (row,) = list(csv.reader(io.StringIO(line, newline=""), strict=True)) or [[""]]
    assert len(row) == len(texts)
    for cell in row:
        assert not cell.startswith(("=", "+", "@", "\t", "\r")), cell
        assert not cell.startswith("-") or float(cell) <= 0


@given(any_text)
def test_markdown_has_no_markup(text):
    line = for_markdown(text)
    assert "\n" not in line
    assert not re.search(r"(?<!\\)(?:\\\\)*[<>\[\]`*_!|&]", line)


@given(st.text("`\n~ x", max_size=30) | any_text)
def test_a_markdown_block_holds_what_is_in_it(text):
    first, *body, last = markdown_block(text).split("\n")
    assert first == f"{last}text"
    assert set(last) == {"`"}
    assert not any(last in line for line in body)


@given(st.text(max_size=150), st.text(max_size=150))
def test_file_names_are_safe_and_differ(one, other):
    for text in (one, other):
        name = file_name(text)
        assert len(name.encode("utf-8", "surrogatepass")) <= 255 - len(".md")
        assert "/" not in name
        assert "\\" not in name
        assert name not in ("", ".", "..")
    if one != other:
        assert file_name(one).casefold() != file_name(other).casefold()


def test_file_names_that_people_recognise():
    assert file_name("ada") == "ada"
    assert file_name("łukasz ☃").startswith("łukasz _~")
    assert file_name("../../etc/passwd").startswith("_.._etc_passwd~")
    assert file_name("Ada").startswith("Ada~")
    assert file_name("nul") != "nul"
