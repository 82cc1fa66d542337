"""What students write is safe wherever it is shown: each sink in one place, and nothing that prints goes around it."""

from __future__ import annotations

import ast
import contextlib
import csv
import io
import json
import logging
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import minitango
from minitango import Assignment, Engine, MinitangoError, Step, Submission
from minitango.cli import _main, streams
from minitango.sandbox import End
from minitango.testing import FakeRun, FakeSandbox
from tests.support import report, signals_as_before

PACKAGE = Path(minitango.__file__).parent
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
FORMULA = ("=", "+", "-", "@", "\t", "\uff1d", "\uff0b", "\uff0d", "\uff20")
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


# --- who prints --------------------------------------------------------------------------------------------------


PRINTING = {"print", "echo", "click.echo", "click.secho"}
STREAMS = {
    *("sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer", "sys.stderr.buffer"),
    *("sys.__stdout__", "sys.__stderr__", "logging.StreamHandler", "logging.basicConfig"),
}


def prints(tree: ast.Module) -> Iterator[int]:
    """Lines that print by themselves, or take a stream to print to."""
    for node in ast.walk(tree):
        called = isinstance(node, ast.Call) and ast.unparse(node.func) in PRINTING
        if called or (isinstance(node, ast.Attribute) and ast.unparse(node) in STREAMS):
            assert isinstance(node, ast.expr)
            yield node.lineno


def test_nothing_prints_but_the_one_place_for_it() -> None:
    found = {
        str(path.relative_to(PACKAGE)): [*prints(ast.parse(path.read_text()))]
        for path in PACKAGE.rglob("*.py")
        if "scaffolds" not in path.parts
    }
    assert [name for name, lines in found.items() if lines] == ["cli/streams.py"]


def test_what_prints_is_found() -> None:
    assert [*prints(ast.parse("print(1)\nx = sys.stdout.buffer\nclick.echo('a')\nlogging.basicConfig()"))] == [
        1,
        2,
        3,
        4,
    ]


# --- the one place -----------------------------------------------------------------------------------------------


class Screen(io.TextIOWrapper):
    """A standard stream that remembers, and may be a terminal's."""

    def __init__(self, *, terminal: bool) -> None:
        self.kept = io.BytesIO()
        super().__init__(self.kept, encoding="utf-8", errors="backslashreplace", write_through=True)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def fileno(self) -> int:
        raise OSError("no descriptor")

    @property
    def text(self) -> str:
        self.flush()
        return self.kept.getvalue().decode("utf-8")


@contextlib.contextmanager
def screens(*, terminal: bool) -> Iterator[tuple[Screen, Screen]]:
    out, err = Screen(terminal=terminal), Screen(terminal=terminal)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        yield out, err


NASTY = [
    "\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\r", "\n", "\t", "\0", "\x7f", "\u202e", "\u2066", "\u2028", "\x85",
    "\ud800", "=cmd()", "+1", "-1+1", "@SUM", "\uff1d1", "]]>", "</script>", "<img src=x>", "&lt;", "`", "```", "](http://a)",
    "'", '"', ",", ";", "|", "\\", "%s", "{0}", "[bold]", "é", "日本", "a",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(NASTY) | st.text(max_size=4), max_size=5).map("".join)


@given(TEXTS)
def test_whatever_is_told_or_printed_moves_nothing(text: str) -> None:
    with screens(terminal=True) as (out, err):
        streams.out(text)
        streams.tell(text)
        streams.out_bytes(text.encode("utf-8", "surrogatepass"))
        assert UNSAFE.search(out.text) is None
        assert UNSAFE.search(err.text) is None


@given(TEXTS)
def test_whatever_is_logged_is_one_safe_line(text: str) -> None:
    kept: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(self.format(record))

    logger, handler = logging.getLogger("minitango"), Kept()
    logger.addHandler(handler)
    try:
        logger.warning("job %s: %s", text, "x" * 9999)
    finally:
        logger.removeHandler(handler)
    assert UNSAFE.search(kept[0]) is None
    assert "\n" not in kept[0]
    assert len(kept[0]) <= 4000


def test_what_nobody_takes_of_the_log_goes_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "lastResort", None)
    with screens(terminal=True) as (_, err):
        streams.prepare()
        assert logging.lastResort is not None
        try:
            raise ValueError("\x1b[31m")
        except ValueError:
            record = logging.LogRecord("minitango", 40, "", 1, "went \x1b wrong", (), sys.exc_info())
        logging.lastResort.handle(record)
        assert "went \\x1b wrong" in err.text
        assert "ValueError: \\x1b[31m" in err.text


# --- through the command line ------------------------------------------------------------------------------------


class Hostile:
    """One hand-in whose every text is hostile, graded."""

    def __init__(self, draw: st.DrawFn) -> None:
        text = lambda: draw(TEXTS)  # noqa: E731
        self.student, self.course, self.title, self.assignment = text(), text(), text(), text()
        self.output = (text() + "\n" + text()).encode("utf-8", "surrogatepass")
        test = {"name": text(), "score": 0, "max_score": 1, "output": text(), "visibility": "visible"}
        self.report = {"score": 1, "output": text(), "tests": [test], "stdout_visibility": "visible"}
        self.refused = text()


def cleaned(text: str) -> str:
    """What may be a name: nothing that is refused."""
    return UNSAFE.sub("", text).replace("\n", "").replace("\t", "").strip()[:60].strip()


def grade(state: Path, hostile: Hostile) -> None:
    """Grade it as it is, or with what is refused of its names left out."""

    def inside(run: FakeRun) -> End:
        run.print(hostile.output)
        report(run, hostile.report)
        return End(exit_status=1)

    with Engine.open(state, sandbox=FakeSandbox(inside), workers=1) as engine:
        for clean in (lambda text: text, cleaned):
            with contextlib.suppress(MinitangoError):
                assignment = Assignment(clean(hostile.assignment) or "hw", (Step(command=("x",)),), max_score=10)
                engine.submit(
                    Submission(
                        assignment,
                        student=clean(hostile.student) or "ada",
                        files={"a.py": b""},
                        course=clean(hostile.course),
                        title=clean(hostile.title),
                    )
                ).result(60)


def commands(state: Path, ids: list[str], folder: Path) -> Iterator[list[str]]:
    at = ["--state", str(state)]
    yield ["jobs", "list", *at]
    for job in ids:
        yield ["jobs", "show", job, "--all-tests", *at]
        yield ["jobs", "logs", job, *at]
    yield ["jobs", "show", "\x1b[31m\u202e", *at]
    yield ["export", *at]
    yield ["export", "--student", "\x1b[31m\u202e=cmd()", *at]
    yield ["export", "--feedback", str(folder / "feedback"), *at]
    yield ["prune", "--dry-run", "--older-than", "1h", *at]
    yield ["run", "\x1b[31m\u202e", "b", *at]


def asked(words: list[str], *, terminal: bool) -> tuple[Screen, Screen]:
    with signals_as_before(), screens(terminal=terminal) as (out, err):
        _main(words)
    return out, err


@st.composite
def hostiles(draw: st.DrawFn) -> Hostile:
    return Hostile(draw)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(hostiles())
def test_every_command_shows_hostile_texts_safely(hostile: Hostile) -> None:
    with tempfile.TemporaryDirectory() as made:
        state, folder = Path(made) / "state", Path(made)
        grade(state, hostile)
        with Engine.open(state, workers=0) as engine:
            ids = [job.id for job in engine.jobs()]
        assert ids
        for words in commands(state, ids, folder):
            for screen in asked(words, terminal=True):
                assert UNSAFE.search(screen.text) is None, words
        at = ["--state", str(state)]
        for words in (
            ["jobs", "list", "--json"],
            *(["jobs", "show", job, "--json"] for job in ids),
            ["export", "--format", "json"],
        ):
            text = asked([*words, *at], terminal=False)[0].text
            assert text.isascii()
            assert UNSAFE.search(text) is None
            json.loads(text)
        check_csv(asked(["export", *at], terminal=False)[0].text)
        cases = ET.fromstring(asked(["export", "--format", "junit", *at], terminal=False)[0].text)
        assert len(cases.findall("*/testcase")) == len(ids)
        for page in (folder / "feedback").iterdir():
            assert UNSAFE.search(page.read_text()) is None
            assert UNSAFE.search(page.name) is None
            check_markdown(page.read_text())


def check_csv(text: str) -> None:
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert len({len(row) for row in rows}) == 1
    for cell in (cell for row in rows for cell in row):
        assert not cell.startswith(FORMULA) or NUMBER.fullmatch(cell), cell
        assert UNSAFE.search(cell) is None


def check_markdown(text: str) -> None:
    """Outside of blocks, nothing that a reader of Markdown would take for HTML or a link."""
    fence = ""
    for line in text.split("\n"):
        opened = re.match("`{3,}", line)
        if fence:
            fence = "" if line == fence else fence
        elif opened:
            fence = opened[0]
        else:
            assert re.search(r"(?<!\\)<", line) is None, line
            assert re.search(r"(?<!\\)\]\(", line) is None, line
    assert not fence


def test_what_is_handed_in_is_shown_safely_while_it_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "handins"
    folder.mkdir()
    for name in ("\x1b[31mada.zip", "b\u202eob.tar", "=cmd().zip", "new\nline.zip", "\udcff.zip"):
        (folder / name).write_bytes(b"no archive")
    (tmp_path / "hw").mkdir()
    (tmp_path / "hw" / "assignment.toml").write_text(
        'name = "hw"\nformat = "exit-code"\nmax_score = 1\n[[step]]\nname = "grade"\ncommand = ["true"]\n'
    )
    words = ["submit", str(tmp_path / "hw"), str(folder), "--state", str(tmp_path / "state")]
    for screen in asked(words, terminal=True):
        assert UNSAFE.search(screen.text) is None
    out = asked([*words, "--json"], terminal=False)[0].text
    assert out.isascii()
    json.loads(out)
