"""Assignments and submissions: what is read, what is refused and where, what is packed, what lands."""

from __future__ import annotations

import json
import os
import string
import threading
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitango import archive, results
from minitango.archive import File
from minitango.assignment import Assignment, Plan, Sample, Step, SubmissionRule
from minitango.assignment.places import key_lines, key_text
from minitango.assignment.toml_file import SETTINGS
from minitango.blobs import Blobs
from minitango.cli.settings_file import KEYS
from minitango.errors import AssignmentError
from minitango.job import FORMATS, Limits, Outcome, Trust

WHOLE = """\
name = "hello-c"
max_score = 100
bonus = true
format = "gradescope"          # a comment

[submission]
path = "hello.c"
max_size = "64KiB"
max_files = 3

[[step]]
name = "run"
image = "gcc:14"
command = ["make", "-s",
    "autograde"]               # over two lines
files = ["grader/"]
collect = ["out/"]
network = "open"
env = { LANG = "C.UTF-8" }
limits = { wall = "500ms", cpu = 30, memory = "1GiB", pids = 64, output = "10MB", disk = 16_777_216, cpus = 0.5 }

[[step]]
submission = false
command = ["sh", "grade.sh"]

  [step.limits]
  wall = "2m"

[[sample]]
path = "samples/perfect.c"
score = 100
[[sample]]
path = "samples/loop.c"
name = "a loop"
outcome = "time_limit"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An assignment's folder, complete but for the file itself."""
    root = tmp_path / "hw1"
    for name in (
        "grader/Makefile",
        "grader/lib/util.h",
        "samples/perfect.c",
        "samples/loop.c",
        "tests/1.in",
        "tests/2.in",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    age(root)
    return root


def age(root: Path) -> None:
    """Make all below look as if it had been there for long."""
    then = time.time() - 1000
    for path in (root, *root.rglob("*")):
        os.utime(path, (then, then), follow_symlinks=False)


def load(folder: Path, text: str) -> Assignment:
    (folder / "assignment.toml").write_text(text)
    return Assignment.load(folder)


def mistake(folder: Path, text: str) -> AssignmentError:
    with pytest.raises(AssignmentError) as caught:
        load(folder, text)
    error = caught.value
    assert error.file == str(folder / "assignment.toml")
    assert error.hint
    assert str(error).startswith(error.file)
    return error


def simple(*lines: str) -> str:
    return "\n".join(('name = "hw"', *lines, "[[step]]", 'command = ["true"]', ""))


# --- the file -------------------------------------------------------------------------------------


def test_the_whole_file(folder: Path) -> None:
    assert load(folder, WHOLE) == Assignment(
        name="hello-c",
        max_score=100,
        bonus=True,
        format="gradescope",
        submission=SubmissionRule(path="hello.c", max_size=64 << 10, max_files=3),
        steps=(
            Step(
                ("make", "-s", "autograde"),
                name="run",
                image="gcc:14",
                files=("grader/",),
                collect=("out/",),
                network="open",
                env={"LANG": "C.UTF-8"},
                limits=Limits(wall=0.5, cpu=30, memory=1 << 30, pids=64, output=10**7, disk=16 << 20, cpus=0.5),
            ),
            Step(("sh", "grade.sh"), name="grade", submission=False, limits=Limits(wall=120)),
        ),
        samples=(
            Sample("samples/perfect.c", score=100, outcome=Outcome.GRADED),
            Sample("samples/loop.c", name="a loop", outcome=Outcome.TIME_LIMIT),
        ),
        root=folder,
    )


def test_the_file_itself_may_be_named(folder: Path) -> None:
    load(folder, simple())
    (folder / "assignment.toml").rename(folder / "other.toml")
    assert Assignment.load(str(folder / "other.toml")).root == folder


def test_the_root_stays_when_the_process_moves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(folder, simple())
    monkeypatch.chdir(folder.parent)
    assert Assignment.load("hw1").root == folder


def test_the_smallest(folder: Path) -> None:
    assignment = load(folder, simple())
    assert assignment.steps == (Step(("true",), name="grade"),)
    assert assignment.trust == Trust.SHARED
    assert assignment.submission == SubmissionRule()


def test_formats_have_their_readers() -> None:
    assert set(FORMATS) == set(results._READERS)
    assert all(callable(results.reader(name)) for name in FORMATS)


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        (simple("max_scor = 5"), 2, "max_scor", "unknown key 'max_scor'|did you mean 'max_score'?"),
        (simple("zzz = 5"), 2, "zzz", "unknown key|known here: name, max_score, bonus, format"),
        (simple() + "limits = {wal = 5}\n", 4, "step[0].limits.wal", "did you mean 'wall'?"),
        (simple() + "[step.limits]\n# and\nwall = 'x'\n", 6, "step[0].limits.wall", "'x' is not a duration|60s"),
        (simple() + "limits.wall = true\n", 4, "step[0].limits.wall", "true or false, not a duration"),
        (simple() + "limits.memory = '5 apples'\n", 4, "step[0].limits.memory", "is not a size|10MiB"),
        (simple() + "limits.memory = 1.5\n", 4, "step[0].limits.memory", "a number, not a size"),
        (simple() + "limits.memory = '1MiB'\n", 4, "step[0].limits.memory", "1 MiB is not in the range"),
        (simple() + "limits.wall = '25h'\n", 4, "step[0].limits.wall", "range of 10ms to 24h"),
        (simple() + "limits.wall = 0\n", 4, "step[0].limits.wall", "range"),
        (simple() + f"limits.memory = {'9' * 400}\n", 4, "step[0].limits.memory", "range"),
        (simple() + f"limits.memory = 0x{'f' * 9000}\n", 4, "step[0].limits.memory", "a huge number is not in"),
        (simple() + f"limits.memory = '{'9' * 400}MB'\n", 4, "step[0].limits.memory", "is not a size"),
        (simple() + f"limits.wall = '{'9' * 400}s'\n", 4, "step[0].limits.wall", "is not a duration"),
        (simple() + f"limits.wall = {'9' * 400}\n", 4, "step[0].limits.wall", "range"),
        (simple() + f"image = 0x{'f' * 9000}\n", 4, "step[0].image", "a number, not a string"),
        (simple(f"max_score = {'9' * 400}"), 2, "max_score", "too large a number"),
        (simple() + "limits.wall = inf\n", 4, "step[0].limits.wall", "range"),
        (simple() + "limits.cpus = nan\n", 4, "step[0].limits.cpus", "range"),
        (simple() + "limits.pids = '5'\n", 4, "step[0].limits.pids", "a string, not a whole number"),
        (simple() + "limits = 5\n", 4, "step[0].limits", "a number, not a table"),
        (simple() + "[[step.student]]\nwall = 1\n", 4, "step[0].student", "a list, not a table|say, [step.student]"),
        (simple() + "env = {'A-B' = 'x'}\n", 4, "step[0].env.A-B", "variable's name"),
        (simple() + "env = {MINITANGO_X = 'x'}\n", 4, "step[0].env.MINITANGO_X", "minitango's own"),
        (simple() + "env = {X = 5}\n", 4, "step[0].env.X", "a number, not a string"),
        (simple() + "env = {X = 'a\\u0000'}\n".replace("'", '"'), 4, "step[0].env.X", "a variable can hold"),
        (simple() + "network = 'all'\n", 4, "step[0].network", "neither none nor open"),
        (simple() + "network = []\n", 4, "step[0].network", "neither none nor open"),
        (simple() + "name = 'A b'\n", 4, "step[0].name", "a-z"),
        (simple() + "files = 'grader/'\n", 4, "step[0].files", 'a string|files = ["grader/"]'),
        (simple() + "files = ['../x']\n", 4, "step[0].files", "leads out"),
        (simple() + "files = ['/etc/passwd']\n", 4, "step[0].files", "absolute"),
        (simple() + "files = ['*/x']\n", 4, "step[0].files", "wildcard"),
        (simple() + "collect = ['a/../b']\n", 4, "step[0].collect", "leads out"),
        (simple() + "collect = ['out/']\n", 4, "step[0].collect", "last step"),
        (simple() + "submission = 'no'\n", 4, "step[0].submission", "a string, not true or false"),
        (simple() + "submission = false\n", 4, "step[0].submission", "no step sees the submission"),
        (simple("format = 'codegrade'"), 2, "format", "not supported by this version|gradescope, autolab"),
        (simple("format = 1979-05-27"), 2, "format", "a date or time, not a string"),
        (simple("format = 'exit-code'"), 1, "max_score", "is missing|max_score = 100"),
        (simple("max_score = 0"), 2, "max_score", "not a number above 0"),
        (simple("max_score = inf"), 2, "max_score", "too large a number"),
        (simple("max_score = 1e308"), 2, "max_score", "too large a number"),
        (simple("max_score = nan"), 2, "max_score", "not a number above 0"),
        (simple("max_score = -1e308"), 2, "max_score", "not a number above 0"),
        (simple("max_score = '100'"), 2, "max_score", "a string, not a number"),
        (simple("bonus = 1"), 2, "bonus", "a number, not true or false"),
        (simple("submission = 'x.c'"), 2, "submission", "a string, not a table|[submission]"),
        (simple("[submission]", "pth = 'a'"), 3, "submission.pth", "did you mean 'path'"),
        (simple("[submission]", "path = '../a'"), 3, "submission.path", "leads out"),
        (simple("[submission]", "max_size = 0"), 3, "submission.max_size", "1 byte to 1GiB"),
        (simple("[submission]", "max_files = 0"), 3, "submission.max_files", "1 to 20000"),
        ("name = 'hw'\n", None, "step", "there is no step|[[step]]"),
        ("name = 'hw'\n[step]\ncommand = ['a']\n", 2, "step", "a table, not an array|[[step]]"),
        ("name = 'hw'\n[[step]]\n", 2, "step[0]", "no command"),
        ("name = 'hw'\n[[step]]\ncommand = []\n", 3, "step[0].command", "a program as its first"),
        ("name = 'hw'\n[[step]]\ncommand = ['']\n", 3, "step[0].command", "a program as its first"),
        ("name = 'hw'\n[[step]]\ncommand = ['a', 5]\n", 3, "step[0].command", "not a list of strings"),
        ("name = 'hw'\n[[step]]\ncommand = 'make -s x'\n", 3, "step[0].command", 'command = ["make", "-s", "x"]'),
        ("name = 'hw'\n[[step]]\ncommand = 'a | b'\n", 3, "step[0].command", 'command = ["sh", "-c", "a | b"]'),
        ("name = 'hw'\n[[step]]\ncommand = \"it's\"\n", 3, "step[0].command", 'command = ["it\'s"]'),
        ("[[step]]\ncommand = ['a']\n", None, "name", "has no name"),
        ("name = ''\n[[step]]\ncommand = ['a']\n", 1, "name", "empty"),
        ("name = \"a\\nb\"\n[[step]]\ncommand = ['a']\n", 1, "name", "control"),
        ("name = 5\n[[step]]\ncommand = ['a']\n", 1, "name", 'a number, not a string|name = "5"'),
        (simple() + "[[step]]\ncommand = ['b']\nname = 'run'\n", 6, "step[1].name", "two steps are called 'run'"),
        (simple() + "[[step]]\ncommand = ['b']\nsubmission = false\n",
         6, "step[1].submission", "see nothing|collect ="),
        (simple() + "[[sample]]\npath = 'samples/loop.c'\n", 4, "sample[0]", "expects nothing"),
        (simple() + "[[sample]]\nscore = 5\n", 4, "sample[0]", "no path"),
        (simple() + "[[sample]]\npath = 'samples/lop.c'\nscore = 5\n", 5, "sample[0].path", "not there|'loop.c' meant"),
        (simple() + "[[sample]]\npath = 'samples/loop.c'\nscore = -1\n", 6, "sample[0].score", "from 0"),
        (simple() + "[[sample]]\npath = 'tests/1.in'\noutcome = 'timelimit'\n",
         6, "sample[0].outcome", "'time_limit'?"),
        (simple() + "[[sample]]\npath = 'tests/1.in'\nscore = 1\noutcome = 'no_score'\n",
         6, "sample[0].score", "has no"),
    ],
)  # fmt: skip
def test_mistakes_name_key_and_line(folder: Path, text: str, line: int | None, key: str, words: str) -> None:
    error = mistake(folder, text)
    if (key, line) == ("max_score", 1):
        line = None  # a key that is missing has no line
    assert (error.key, error.line) == (key, line)
    for word in words.split("|"):
        assert word in f"{error} {error.hint}"


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        (simple() + '[student]\nwall = "2s"\n', 4, "student is a step's: write [step.student] below its [[step]]."),
        (simple('files = ["a"]'), 2, "files is a step's: write files in its [[step]]."),
        (
            simple() + '[step.env]\n[step.student]\nfiles = ["a"]\n',
            6,
            "files is a step's: write files in its [[step]], above [step.student].",
        ),
        (simple() + "max_score = 10\n", 4, "max_score is the assignment's: move it above the first [[step]]."),
        (simple() + 'memory = "1GiB"\n', 4, "memory is a limit of a step's: limits = { memory"),
        (simple('require = ["memory"]'), 2, "require is a setting of who grades: write it into minitango.toml."),
        (simple() + 'require = ["memory"]\n', 4, "require is a setting of who grades"),
        (simple('file = ["a"]'), 2, "known here:"),
    ],
)
def test_a_key_in_the_wrong_table_is_told_its_place(folder: Path, text: str, line: int, hint: str) -> None:
    error = mistake(folder, text)
    assert (error.id, error.line) == ("unknown_key", line)
    assert error.hint.startswith(hint), error.hint


@pytest.mark.parametrize("need", ["a b", "a,b", "", "-x", "é", "x" * 65])
def test_what_no_node_can_offer_is_not_asked_for(folder: Path, need: str) -> None:
    """Its jobs would wait for ever."""
    error = mistake(folder, simple(f'needs = ["gpu", "{need}"]'))
    assert (error.id, error.line) == ("assignment", 2)
    assert "is nothing that a node could offer" in error.message
    assert 'needs = ["gpu"]' in error.hint


def test_the_settings_that_are_told_from_keys_are_those_that_there_are() -> None:
    assert KEYS.keys() - {"name", "image"} == SETTINGS


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("name = hw\n", 1, "column 8"),
        ("name = 'a'\nname = 'b'\n", 2, "overwrite"),
        ("name = 'a'\nx = [1,\n", 2, "at end of document"),
        ("\nname = \n\n", 2, "Invalid value"),
        ("name =", 1, "Invalid value"),
        ("x = " + "9" * 9000, None, "Exceeds the limit"),
        ("x = " + "[" * 5000 + "]" * 5000, None, "nested too deeply"),
    ],
)
def test_what_is_not_toml(folder: Path, text: str, line: int | None, word: str) -> None:
    error = mistake(folder, text)
    assert error.id == "toml"
    assert error.line == line
    assert word in str(error)


@pytest.mark.parametrize(
    ("data", "id", "line"),
    [
        (b"name = 'a'\n# \xff\n", "encoding", 2),
        ("name = 'a'\n".encode("utf-16"), "encoding", 1),
        (b"# " + b"x" * (2 << 20), "assignment_unreadable", None),
    ],
)
def test_what_is_not_text(folder: Path, data: bytes, id: str, line: int | None) -> None:
    (folder / "assignment.toml").write_bytes(data)
    with pytest.raises(AssignmentError) as caught:
        Assignment.load(folder)
    assert (caught.value.id, caught.value.line) == (id, line)
    assert caught.value.hint


def test_windows_line_ends(folder: Path) -> None:
    (folder / "assignment.toml").write_bytes(simple("", "zzz = 1").replace("\n", "\r\n").encode())
    with pytest.raises(AssignmentError) as caught:
        Assignment.load(folder)
    assert caught.value.line == 3


def test_a_byte_order_mark_is_no_matter(folder: Path) -> None:
    (folder / "assignment.toml").write_bytes(b"\xef\xbb\xbf" + simple("", "zzz = 1").encode())
    with pytest.raises(AssignmentError) as caught:
        Assignment.load(folder)
    assert (caught.value.id, caught.value.line) == ("unknown_key", 3)
    (folder / "assignment.toml").write_bytes(b"\xef\xbb\xbf" + simple().encode())
    assert Assignment.load(folder).name == "hw"


def test_no_such_file(folder: Path) -> None:
    for path, word in [(folder, "no assignment.toml"), (folder / "none", "no such"), (folder / "tests/1.in", ".toml")]:
        with pytest.raises(AssignmentError, match=word) as caught:
            Assignment.load(path)
        assert caught.value.id == "assignment_missing"
        assert str(path) in str(caught.value)
    for name in ("n" * 300, "a\0b"):
        with pytest.raises(AssignmentError):
            Assignment.load(folder / name)
    load(folder, simple())
    with pytest.raises(AssignmentError) as caught:
        Assignment.load(folder.parent)
    assert str(folder) in caught.value.hint


def test_a_folder_called_assignment_toml(folder: Path) -> None:
    (folder / "assignment.toml").mkdir()
    with pytest.raises(AssignmentError, match="is a folder") as caught:
        Assignment.load(folder)
    assert caught.value.id == "assignment_unreadable"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_files_are_mistakes_of_the_instructor(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = bytearray(WHOLE.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 20))] = data.draw(
            st.sampled_from([b"", b"=", b"'", b'"', b"[", b"]", b"{", b"}", b"\n", b"#", b"9" * 400, b"true", b"\xff"])
        )
    file = tmp_path_factory.mktemp("hw") / "assignment.toml"
    file.write_bytes(raw)
    with pytest.raises(AssignmentError) as caught:
        Assignment.load(file)  # its samples are not there, so that even a harmless change is a mistake
    assert caught.value.hint


# --- lines of keys --------------------------------------------------------------------------------


def walk(value: Any, key: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    """Every key of a document but for those in inline tables, which begin with `in`."""
    found: set[tuple[str | int, ...]] = set()
    if isinstance(value, dict):
        for name, inner in value.items():
            if not name.startswith("in"):
                found |= {(*key, name)} | walk(inner, (*key, name))
    elif isinstance(value, list) and value and all(isinstance(v, dict) and "inline" not in v for v in value):
        for n, inner in enumerate(value):
            found |= {(*key, n)} | walk(inner, (*key, n))
    return found


bare = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=5)
weird = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=5)
keys = (bare | weird).filter(lambda name: not name.startswith("in"))
tricky = st.sampled_from(
    [
        '"""a\n[x]\nb = 1"""',
        "'''\n[[y]]\n'''",
        '"""quotes "" \\""""""',
        "''''a'''''",
        '""""""',
        "''''''",
        '"\\"]#"',
        "'#]'",
        "[\n1, # ]\n2,\n]",
    ]
)
scalars = st.one_of(
    st.integers(0, 9).map(str),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12).map(json.dumps),
    st.text(string.printable, max_size=12).map(json.dumps).filter(lambda text: "\x7f" not in text),
    tricky,
)
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3).map(lambda items: "[" + ", # x ]\n ".join(items) + "\n]"),
    scalars.filter(lambda text: not text.startswith("[")).map(lambda text: "{ inline = " + text + " }"),
)


def quoted(name: str) -> str:
    return key_text((name,)) if name.isascii() else json.dumps(name, ensure_ascii=False)


indents = st.sampled_from(["", " ", "\t"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    text = ""
    seen: set[str] = set()
    for kind in draw(st.lists(st.sampled_from(["pair", "pair", "table", "array", "sub", "comment"]), max_size=12)):
        name = draw(keys)
        match kind:
            case "pair":
                dotted = ".".join(quoted(part) for part in draw(st.lists(keys, min_size=1, max_size=3)))
                text += f"{draw(indents)}{dotted} = {draw(values)}  # {name!r}\n"
            case "table":
                text += f"[{quoted(name)} . {quoted(draw(keys))}]\n"
            case "array":
                again = draw(st.sampled_from(sorted(seen))) if seen and draw(st.booleans()) else name
                seen.add(again)
                text += f"[[ {quoted(again)} ]] # [[x]]\n"
            case "sub":
                if seen:
                    text += f"[{quoted(draw(st.sampled_from(sorted(seen))))}.{quoted(name)}]\n"
            case _:
                text += f"\n# {name!r} = [\n"
    return text


@settings(max_examples=400, deadline=None)
@given(text=documents())
def test_key_lines_agrees_with_tomllib(text: str) -> None:
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        key_lines(text)
        return
    lines = key_lines(text)
    assert set(lines) == walk(parsed)
    count = text.count("\n") + 1
    source = text.split("\n")
    for line in lines.values():
        assert 1 <= line <= count
        assert source[line - 1].strip()


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=80) | st.text(alphabet="[]{}=\"'.#\n\\a ", max_size=80))
def test_key_lines_takes_anything(text: str) -> None:
    for line in key_lines(text).values():
        assert 1 <= line <= text.count("\n") + 1


def test_key_lines_of_the_whole_file() -> None:
    lines = {key_text(key): line for key, line in key_lines(WHOLE).items()}
    assert lines["name"] == 1
    assert lines["submission"] == 6
    assert lines["step[0].command"] == 14
    assert lines["step[0].files"] == 16
    assert lines["step[1]"] == 22
    assert lines["step[1].limits.wall"] == 27
    assert lines["sample[1].outcome"] == 35


# --- values built in code -------------------------------------------------------------------------


def test_in_code_as_in_the_file(folder: Path) -> None:
    step = Step(command=["true"], files=["grader/"], collect=[])  # type: ignore[arg-type]
    assert step == Step(("true",), files=("grader/",))
    with pytest.raises(AssignmentError) as caught:
        Assignment("hw", (Step(("true",), limits=Limits(wall=-1)),), root=folder).validate()
    assert (caught.value.file, caught.value.key, caught.value.line) == ("", "step[0].limits.wall", None)


@pytest.mark.parametrize(
    "step",
    [
        Step("make"),  # type: ignore[arg-type]
        Step((5,)),  # type: ignore[arg-type]
        Step(("a\0b",)),
        Step(("a\udc80",)),
        Step(("a",), files="grader/"),  # type: ignore[arg-type]
        Step(("a",), limits=Limits(memory=1.5)),  # type: ignore[arg-type]
        Step(("a",), limits=Limits(pids=True)),
        Step(("a",), limits=Limits(cpu=float("nan"))),
        Step(("a",), env={"A": 5}),  # type: ignore[dict-item]
        Step(("a",), env=[]),  # type: ignore[arg-type]
        Step(("a",), image="a\nb"),
        Step(("a",), network="maybe"),  # type: ignore[arg-type]
    ],
)
def test_bad_steps_in_code(step: Step) -> None:
    with pytest.raises(AssignmentError) as caught:
        Assignment("hw", (step,)).validate()
    assert caught.value.hint


def test_default_names_of_steps() -> None:
    step = Step(("a",))
    for count, names in [(1, ["grade"]), (2, ["run", "grade"]), (3, ["step1", "step2", "step3"])]:
        assert [s.name for s in Assignment("hw", (step,) * count).steps] == names


def test_trust() -> None:
    see, blind = Step(("a",), collect=("out/",)), Step(("b",), submission=False)
    assert Assignment("hw", (see, blind)).trust == Trust.SEPARATED
    assert Assignment("hw", (see, see)).trust == Trust.SHARED
    assert Assignment("hw", (see, blind), format="autolab").trust == Trust.SHARED, "what is printed is its report"
    assert Assignment("hw", (see,)).trust == Trust.SHARED
    assert Assignment("hw", (Step(("a",), guarded=True),)).trust == Trust.GUARDED
    assert Assignment("hw", (see, Step(("b",), guarded=True))).trust == Trust.GUARDED


# --- guarded steps --------------------------------------------------------------------------------

GUARDED = """name = "hw"
[[step]]
command = ["python3", "grade.py"]
guarded = true
limits = { wall = "30s", memory = "64MiB" }
"""


def test_a_guarded_step_and_what_its_students_may_use(folder: Path) -> None:
    (step,) = load(folder, GUARDED + '[step.student]\nwall = "2s"\npids = 5\n').steps
    assert (step.guarded, step.submission) == (True, False)
    assert step.student == Limits(wall=2.0, memory=64 << 20, pids=5), "what is not said is as the step's own"
    assert load(folder, GUARDED).steps[0].student is None
    assert Step(("a",), guarded=True, submission=True).submission is False


def test_the_plan_of_a_guarded_step(folder: Path) -> None:
    blobs = Blobs(folder.parent / "blobs")
    found = load(folder, GUARDED).pack(blobs)
    plan = Plan.decode(blobs.get(found.digest))
    assert plan == found.plan
    assert plan.trust == Trust.GUARDED
    assert plan.steps[0].guarded
    assert plan.steps[0].student == plan.steps[0].limits
    assert json.loads(blobs.get(found.digest))["schema"] == 2, "who does not know of guarded steps is to refuse it"
    less = load(folder, GUARDED + "[step.student]\npids = 5\n").pack(blobs)
    open_ = load(folder, GUARDED.replace("guarded = true\n", "")).pack(blobs)
    assert len({found.digest, less.digest, open_.digest}) == 3, "each is graded anew"
    assert not open_.plan.steps[0].guarded


@pytest.mark.parametrize(
    ("text", "key", "line", "words"),
    [
        (GUARDED + "submission = true\n", "step[0].submission", 6, "never has the hand-in|MINITANGO_SUBMISSION"),
        (GUARDED + '[step.student]\nnetwork = "open"\n', "step[0].student.network", 7, "never has a network"),
        (GUARDED + '[step.student]\nwall = "31s"\n', "step[0].student.wall", 7, "which is 30 s"),
        (GUARDED + "root = true\n", "step[0].root", 6, "never root"),
        (GUARDED + 'env = { PATH = "/bin:/submission/x" }\n', "step[0].env.PATH", 6, "leads to /submission"),
        (GUARDED + '[step.env]\nPYTHONPATH = "/collected"\n', "step[0].env.PYTHONPATH", 7, "leads to /collected"),
        (GUARDED + 'env = { PATH = "/bin:/tmp/..//submission" }\n', "step[0].env.PATH", 6, "leads to /submission"),
        (GUARDED + 'env = { PATH = "//submission/bin" }\n', "step[0].env.PATH", 6, "leads to /submission"),
        (GUARDED + 'env = { PYTHONPATH = "../collected" }\n', "step[0].env.PYTHONPATH", 6, "leads to /collected"),
        (GUARDED.replace('"python3", "grade.py"', '"/collected/build/x"'), "step[0].command", 3, "leads to /collected"),
        (GUARDED.replace('"grade.py"', '"../submission/x.py", "a"'), "step[0].command", 3, "leads to /submission"),
        (GUARDED.replace('"grade.py"', '"-m", "pytest", "/submission"'), "step[0].command", 3, "minitango-student"),
        ('format = "autolab"\n' + GUARDED, "format", 1, "last line|write a report"),
        (
            'format = "exit-code"\nmax_score = 1\n' + GUARDED.replace('"python3"', '"minitango-student"'),
            "step[0].command", 5, "the student's own exit status",
        ),
        (GUARDED + '[[step]]\ncommand = ["b"]\n', "step[0].guarded", 4, "only the last one"),
        (simple() + "[step.student]\npids = 5\n", "step[0].student", 4, "is not guarded|write guarded = true"),
    ],
)  # fmt: skip
def test_what_a_guarded_step_cannot_have(folder: Path, text: str, key: str, line: int, words: str) -> None:
    error = mistake(folder, text)
    assert (error.id, error.key, error.line) == ("guarded", key, line), error
    for word in words.split("|"):
        assert word in f"{error.message} {error.hint}"


@pytest.mark.parametrize(
    "words",
    [["python3", "grade.py", "/submission/a.txt"], ["perl", "-e", "/submission/"], ["diff", "/collected/a"]],
)
def test_what_a_grader_reads_may_be_the_students(words: list[str]) -> None:
    Assignment("hw", (Step(tuple(words), guarded=True),), max_score=1).validate()


@pytest.mark.parametrize("path", ["minitango_student.py", "lib/minitango_student.py", "minitango_student/__init__.py"])
def test_no_file_of_the_graders_hides_the_module_that_calls(folder: Path, path: str) -> None:
    file = folder / "grade" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
    blobs = Blobs(folder.parent / "blobs")
    loaded = load(folder, GUARDED.replace("guarded = true\n", 'guarded = true\nfiles = ["grade/"]\n'))
    with pytest.raises(AssignmentError, match="would be imported in place") as caught:
        loaded.pack(blobs)
    assert (caught.value.id, caught.value.key, bool(caught.value.line)) == ("guarded", "step[0].files", True)
    load(folder, simple() + 'files = ["grade/"]\n').pack(blobs)


def test_the_step_that_scores_what_others_left_looks_for_no_programs_there() -> None:
    def score(**more: Any) -> Step:
        return Step(("b",), env={"PYTHONPATH": "/job/lib:/collected/run/out"}, **more)

    see = Step(("a",), collect=("out/",))
    with pytest.raises(
        AssignmentError, match="PYTHONPATH leads to /collected: what students wrote would be run"
    ) as caught:
        Assignment("hw", (see, score(submission=False))).validate()
    assert caught.value.key == "step[1].env.PYTHONPATH"
    for words in (("/collected/run/out",), ("bash", "-e", "../collected/run/check.sh")):
        with pytest.raises(AssignmentError, match="leads to /collected: what students wrote would be run"):
            Assignment("hw", (see, Step(words, submission=False)), max_score=1).validate()
    Assignment("hw", (see, Step(("diff", "want", "/collected/run/out"), submission=False)), max_score=1).validate()
    Assignment("hw", (see, score())).validate()


def test_an_adopted_autograder_is_not_guarded() -> None:
    one = Assignment("hw", (Step(("a",), guarded=True),), layout="gradescope")
    with pytest.raises(AssignmentError, match="runs student code by itself"):
        one.validate()


@pytest.mark.parametrize("value", ['"60x"', "0", '"25h"'])
def test_limits_of_students_are_checked_as_a_steps(folder: Path, value: str) -> None:
    assert mistake(folder, GUARDED + f"[step.student]\nwall = {value}\n").key == "step[0].student.wall"


# --- the instructor's files -----------------------------------------------------------------------


def packed(folder: Path, *files: str, **step: Any) -> dict[str, File]:
    """What lands in the working directory, by path."""
    blobs = Blobs(folder.parent / "blobs")
    plan = Assignment("hw", (Step(("true",), files=files, **step),), root=folder).pack(blobs).plan
    return {file.path: file for file in archive.unpack(blobs.get(plan.steps[0].bundle))}


@pytest.mark.parametrize(
    ("files", "landed"),
    [
        (["grader/"], ["Makefile", "lib/util.h"]),
        (["grader"], ["grader/Makefile", "grader/lib/util.h"]),
        (["tests/1.in"], ["tests/1.in"]),
        (["tests/*.in"], ["tests/1.in", "tests/2.in"]),
        (["tests/[2-9].in", "grader/lib"], ["grader/lib/util.h", "tests/2.in"]),
        (["t*", "grader/"], ["Makefile", "lib/util.h", "tests/1.in", "tests/2.in"]),
        (["grade*/"], ["Makefile", "lib/util.h"]),
    ],
)
def test_where_files_land(folder: Path, files: list[str], landed: list[str]) -> None:
    assert sorted(packed(folder, *files)) == landed


def test_contents_and_executable_bits(folder: Path) -> None:
    (folder / "grader/Makefile").chmod(0o755)
    files = packed(folder, "grader/")
    assert files["Makefile"] == File("Makefile", b"grader/Makefile", True)
    assert not files["lib/util.h"].executable


@pytest.mark.parametrize(
    ("files", "word", "id"),
    [
        (["grade/"], "is 'grader' meant?", "file_missing"),
        (["tests/*.txt"], "matches nothing", "file_missing"),
        (["nowhere/*.txt"], "not there", "file_missing"),
        (["tests/1.in/"], "a file, not a folder", "file_missing"),
        (["tests/1.in", "tests"], "both bring 'tests/1.in'", "file_twice"),
        (["outside"], "leaves the assignment's folder", "file_outside"),
        (["outside/"], "leaves the assignment's folder", "file_outside"),
        (["linked"], "is a symbolic link", "not_regular"),
        (["circle"], "circle", "file_missing"),
    ],
)
def test_files_that_cannot_be_taken(folder: Path, files: list[str], word: str, id: str) -> None:
    (folder / "outside").symlink_to("/etc")
    (folder / "linked").mkdir()
    (folder / "linked/x").symlink_to("/etc/passwd")
    (folder / "circle").symlink_to("circle")
    with pytest.raises(AssignmentError) as caught:
        packed(folder, *files)
    assert (caught.value.key, caught.value.id) == ("step[0].files", id)
    assert word in f"{caught.value} {caught.value.hint}"
    assert (caught.value.id == "file_twice") == ("both" in word)


def test_a_link_that_stays_inside(folder: Path) -> None:
    (folder / "again").symlink_to("tests/1.in")
    assert packed(folder, "again")["again"].data == b"tests/1.in"


def test_too_much(folder: Path) -> None:
    os.truncate(folder / "tests/1.in", 257 << 20)
    with pytest.raises(AssignmentError, match="more than the 256 MiB") as caught:
        packed(folder, "tests")
    assert "256 MiB together" in caught.value.hint


def test_a_file_where_the_submission_lands(folder: Path) -> None:
    rule = SubmissionRule(path="tests/1.in")
    step = Step(("true",), files=("tests",))
    with pytest.raises(AssignmentError, match="lands where the submission does") as caught:
        Assignment("hw", (step,), submission=rule, root=folder).pack(Blobs(folder.parent / "blobs"))
    assert caught.value.id == "file_over_submission"
    blind = [Step(("true",), collect=("x",)), Step(("true",), files=("tests",), submission=False)]
    Assignment("hw", tuple(blind), submission=rule, root=folder).pack(Blobs(folder.parent / "blobs"))


# --- plans ----------------------------------------------------------------------------------------


def test_the_plan_is_all_a_runner_needs(folder: Path) -> None:
    blobs = Blobs(folder.parent / "blobs")
    assignment = load(folder, WHOLE)
    found = assignment.pack(blobs)
    plan = Plan.decode(blobs.get(found.digest))
    assert plan == found.plan
    assert (plan.name, plan.max_score, plan.bonus, plan.format) == ("hello-c", 100, True, "gradescope")
    assert plan.trust == Trust.SEPARATED
    assert found.refs == (plan.steps[0].bundle,)
    assert plan.steps[1].bundle == ""
    assert plan.steps[0].limits == assignment.steps[0].limits
    assert json.loads(blobs.get(found.digest))["schema"] == 1


def test_the_same_assignment_gives_the_same_plan(folder: Path) -> None:
    blobs = Blobs(folder.parent / "blobs")
    step = Step(("true",), files=("tests", "grader"), env={"A": "1", "B": "2"}, limits=Limits(wall=5, cpus=1))
    same = Step(("true",), files=("grader", "tests/*"), env={"B": "2", "A": "1"}, limits=Limits(wall=5.0, cpus=1.0))
    one = Assignment("hw", (step,), max_score=5, root=folder).pack(blobs)
    other = Assignment("hw", (same,), max_score=5.0, root=folder).pack(blobs)
    assert one.digest == other.digest


DIGEST_OF_A_PLAIN_PLAN = "a348c9ece2f76becdf5cdef4f9b18365db81cbd05056e299ba1dd7876cdd47d0"
"""As it has been since the first version: a plan that changed would be graded again everywhere."""


def test_a_plain_plan_keeps_its_digest(folder: Path) -> None:
    plain = Assignment("hw", (Step(("true",), image="gcc:14"),), max_score=10)
    assert plain.pack(Blobs(folder.parent / "blobs")).digest == DIGEST_OF_A_PLAIN_PLAN


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "id", "words"),
    [
        ("gcc 14", "image_name", "it has a blank|gcc:14"),
        ("Gcc", "image_name", "capital letters"),
        ("https://hub.docker.com/gcc", "image_name", "leave https:// out"),
        ("docker/", "file_missing", "'docker' is not there"),
        ("grader/", "file_missing", "there is no Dockerfile in 'grader/'|write grader/Dockerfile"),
        ("./grader", "file_missing", "there is no Dockerfile in './grader'"),
        ("grader/Makefile/", "image_name", "is a file, not a folder"),
        ("./", "assignment", "is empty"),
        ("../other/", "assignment", "leads out"),
        ("outside/", "file_outside", "leaves the assignment's folder"),
    ],
)
def test_an_image_that_cannot_be_one(folder: Path, image: str, id: str, words: str) -> None:
    (folder / "outside").symlink_to(folder.parent)
    error = mistake(folder, simple() + f"image = {json.dumps(image)}\n")
    assert (error.key, error.line) == ("step[0].image", 4)
    assert error.id == id
    for word in words.split("|"):
        assert word in f"{error} {error.hint}"


@pytest.mark.parametrize("image", ["docker/", "./docker", "./docker/"])
def test_a_folder_for_an_image(folder: Path, image: str) -> None:
    blobs = Counting(folder.parent / "blobs")
    (folder / "docker").mkdir()
    for name in ("Dockerfile", "setup.sh", ".dockerignore"):
        (folder / "docker" / name).write_text(name)
    (folder / "docker/setup.sh").chmod(0o755)
    age(folder)
    assignment = load(folder, simple() + f'image = "{image}"\nfiles = ["grader/"]\n')
    found = assignment.pack(blobs)
    step = found.plan.steps[0]
    assert step.image == image
    assert isinstance(step.image_files, str)
    assert set(found.refs) == {step.bundle, step.image_files}
    files = archive.unpack(blobs.get(step.image_files))
    assert [(file.path, file.executable) for file in files] == [
        (".dockerignore", False), ("Dockerfile", False), ("setup.sh", True)
    ]  # fmt: skip
    assert Plan.decode(blobs.get(found.digest)) == found.plan
    assert assignment.pack(blobs) == found
    assert blobs.puts == 1
    (folder / "docker/setup.sh").write_text("another")
    assert assignment.pack(blobs).digest != found.digest


@pytest.mark.parametrize(
    ("command", "provided"),
    [
        ("./Makefile", True),
        ("lib/util.h", True),
        ("./lib/../Makefile", True),
        ("Makefile", False),
        ("./none", False),
        ("/bin/sh", False),
    ],
)
def test_a_command_of_the_instructors_own(folder: Path, command: str, provided: bool) -> None:
    assignment = Assignment("hw", (Step((command,), files=("grader/",)),), root=folder)
    assert assignment.pack(Blobs(folder.parent / "blobs")).plan.steps[0].provided == provided


@pytest.mark.parametrize(
    ("data", "id"), [(b"", "plan"), (b"{}", "plan"), (b'{"schema": 2}', "plan"), (b'{"schema": 3}', "plan_too_new")]
)
def test_what_is_no_plan(data: bytes, id: str) -> None:
    with pytest.raises(AssignmentError) as caught:
        Plan.decode(data)
    assert caught.value.id == id


class Counting(Blobs):
    """Counts how often anything was put."""

    puts = 0

    def put_many(self, blobs: Any, *, ahead: bool = False) -> list[str]:
        self.puts += 1
        return super().put_many(blobs, ahead=ahead)


def test_packed_once_while_nothing_changes(folder: Path) -> None:
    blobs = Counting(folder.parent / "blobs")
    assignment = Assignment("hw", (Step(("true",), files=("grader/", "tests/*.in")),), root=folder)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(assignment.pack(blobs).digest)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert blobs.puts == 1
    elsewhere = Counting(folder.parent / "other")
    assert assignment.pack(elsewhere).digest == found[0]
    assert elsewhere.puts == 1


@pytest.mark.parametrize("change", ["content", "same size", "executable", "new file", "new match", "gone"])
def test_packed_anew_when_a_file_changes(folder: Path, change: str) -> None:
    blobs = Counting(folder.parent / "blobs")
    assignment = Assignment("hw", (Step(("true",), files=("grader/", "tests/*.in")),), root=folder)
    before = assignment.pack(blobs)
    file = folder / "grader/lib/util.h"
    match change:
        case "content":
            file.write_text("other content")
        case "same size":
            file.write_text("GRADER/lib/util.h")
        case "executable":
            file.chmod(0o755)
        case "new file":
            (folder / "grader/lib/new.h").write_text("")
        case "new match":
            (folder / "tests/3.in").write_text("")
        case _:
            file.unlink()
    after = assignment.pack(blobs)
    assert after.digest != before.digest
    assert blobs.puts == 2


def test_a_file_that_was_just_written_is_not_trusted_to_be_unchanged(folder: Path) -> None:
    blobs = Counting(folder.parent / "blobs")
    assignment = Assignment("hw", (Step(("true",), files=("grader/",)),), root=folder)
    (folder / "grader/Makefile").write_text("all:")
    assignment.pack(blobs)
    status = (folder / "grader/Makefile").stat()
    (folder / "grader/Makefile").write_text("xll:")
    os.utime(folder / "grader/Makefile", ns=(status.st_atime_ns, status.st_mtime_ns))
    plan = assignment.pack(blobs).plan
    assert b"xll:" in blobs.get(plan.steps[0].bundle)


def test_nor_on_a_slow_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is when it was looked at, not when all of it was packed."""
    now = time.time_ns
    late = 0

    class Slow(Blobs):
        def put_many(self, blobs: Iterable[bytes], *, ahead: bool = False) -> list[str]:
            nonlocal late
            late = 10**9
            return super().put_many(blobs, ahead=ahead)

    monkeypatch.setattr(time, "time_ns", lambda: now() + late)
    blobs = Slow(folder.parent / "blobs")
    assignment = Assignment("hw", (Step(("true",), files=("grader/",)),), root=folder)
    (folder / "grader/Makefile").write_text("all:")
    assignment.pack(blobs)
    status = (folder / "grader/Makefile").stat()
    (folder / "grader/Makefile").write_text("xll:")
    os.utime(folder / "grader/Makefile", ns=(status.st_atime_ns, status.st_mtime_ns))
    plan = assignment.pack(blobs).plan
    assert b"xll:" in blobs.get(plan.steps[0].bundle)


def test_pruned_blobs_are_put_again(folder: Path) -> None:
    blobs = Blobs(folder.parent / "blobs")
    assignment = Assignment("hw", (Step(("true",), files=("grader/",)),), root=folder)
    found = assignment.pack(blobs)
    assert blobs.prune(lambda _: set(), now=time.time() + 7200).count == 2
    assert assignment.pack(blobs) == found
    assert all(blobs.has(digest) for digest in (found.digest, *found.refs))


def test_packing_again_spares_the_blobs(folder: Path) -> None:
    blobs = Blobs(folder.parent / "blobs")
    assignment = Assignment("hw", (Step(("true",), files=("grader/",)),), root=folder)
    found = assignment.pack(blobs)
    for digest in (found.digest, *found.refs):
        os.utime(blobs.path(digest), (0, 0))
    assignment.pack(blobs)
    assert blobs.prune(lambda _: set()).count == 0


def test_pack_checks(folder: Path) -> None:
    with pytest.raises(AssignmentError):
        Assignment("hw", (), root=folder).pack(Blobs(folder.parent / "blobs"))


def test_a_link_that_leads_nowhere_is_named(folder: Path) -> None:
    (folder / "assignment.toml").unlink(missing_ok=True)
    (folder / "assignment.toml").symlink_to("gone.toml")
    with pytest.raises(AssignmentError, match="No such file") as caught:
        Assignment.load(folder)
    assert caught.value.id == "assignment_unreadable"
    assert caught.value.file == str(folder / "assignment.toml")
