"""The Python helper of guarded steps: values that cross, and student code that is called, on plain processes."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import math
import re
import sys
import time
from collections import Counter, namedtuple
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitango import Assignment, Limits, Step
from minitango.archive import File
from minitango.blobs import Blobs
from minitango.errors import AssignmentError
from minitango.results.strict_json import check_text
from minitango.students import Students
from tests.local_box import Listener, LocalSandbox

SOURCE = Path(__file__).parent.parent / "minitango" / "sandbox" / "helper" / "minitango_student.py"
LIMITS = Limits(wall=20.0, output=1 << 20)

Start = Callable[..., ModuleType]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minitango_student", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["minitango_student"] = module
    spec.loader.exec_module(module)
    return module


HELPER = load()
encode, decode, dumps, loads = HELPER.encode, HELPER.decode, HELPER.dumps, HELPER.loads


def crossed(value: Any) -> Any:
    """The value, once it has crossed."""
    return decode(loads(dumps(encode(value))[4:]))


# --- values ---------------------------------------------------------------------------------------

hashable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
values = st.recursive(
    hashable | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.dictionaries(st.text(max_size=2) | st.just("!"), inner, max_size=4)
        | st.sets(hashable, max_size=4)
    ),
    max_leaves=15,
)


def kinds(value: Any) -> Any:
    """The types of it, all the way down, in the order of what has one."""
    if isinstance(value, (list, tuple)):
        return type(value), [kinds(each) for each in value]
    if isinstance(value, dict):
        return dict, [(kinds(key), kinds(each)) for key, each in value.items()]
    return type(value)


@given(values)
@settings(max_examples=300, deadline=None)
def test_values_cross_as_they_are(value: Any) -> None:
    there = crossed(value)
    assert there == value
    assert kinds(there) == kinds(value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 2**53, -(2**53), 2**53 + 1, 10**4000, -(10**40), "\ud800", b""])
def test_odd_values_cross(value: Any) -> None:
    assert crossed(value) == value


def test_what_is_no_number_stays_none() -> None:
    assert math.isnan(crossed(math.nan))


class Liar(int):
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__

    def __index__(self) -> int:
        return 42


Point = namedtuple("Point", "x y")
Colour = IntEnum("Colour", "RED")


@pytest.mark.parametrize(
    ("value", "plain"),
    [(Liar(7), 7), (Point(1, 2), (1, 2)), (Colour.RED, 1), (Counter("aab"), {"a": 2, "b": 1}), (bytearray(b"x"), b"x")],
)
def test_what_is_derived_crosses_as_what_it_is_derived_from(value: Any, plain: Any) -> None:
    there = crossed(value)
    assert there == plain
    assert type(there) is type(plain)


@pytest.mark.parametrize("value", [object(), len, range(3), Path("x"), type, (n for n in ()), [1, {2: object()}]])
def test_what_is_no_plain_value_is_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot cross between a grader and student code"):
        encode(value)


def test_what_is_nested_deeply_is_refused_on_both_sides() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="more than 100 deep"):
        encode(deep)
    shallow: Any = 0
    for _ in range(101):
        shallow = [shallow]
    with pytest.raises(ValueError, match="more than 100 deep"):
        decode(shallow)
    with pytest.raises(ValueError, match="nested"):
        decode(loads(b"[" * 100_000 + b"]" * 100_000))


@pytest.mark.parametrize(
    "text",
    [
        b'{"!": "pickle", "v": "x"}',
        b'{"!": ["x"], "v": "x"}',
        b'{"!": "object", "v": 0}',
        b'{"!": "int", "v": 7}',
        b'{"!": "int", "v": "' + b"f" * 300_000 + b'"}',
        b'{"!": "float", "v": "1.5"}',
        b'{"!": "set", "v": [[1]]}',
        b'{"!": "dict", "v": [[1]]}',
        b'{"!": "dict", "v": [[[], 1]]}',
        b'{"!": "complex", "v": [1, 2]}',
        b'{"!": "bytes", "v": "a"}',
        b'{"!": "tuple"}',
        b"NaN",
        b"-Infinity",
        b"9" * 30,
        b"\xff",
        b"",
    ],
)
def test_what_is_no_value_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(loads(text))


def test_keys_that_were_made_to_collide_are_refused_at_once() -> None:
    prime = (1 << 61) - 1
    colliding = json.dumps({"!": "set", "v": [{"!": "int", "v": format(n * prime, "x")} for n in range(1, 20_000)]})
    began = time.monotonic()
    with pytest.raises(ValueError, match="made to collide"):
        decode(loads(colliding.encode()))
    assert time.monotonic() - began < 5
    assert len(crossed(set(range(100_000)))) == 100_000
    assert len(crossed({(n, n + 1) for n in range(20_000)})) == 20_000


@given(st.binary(max_size=60) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
@settings(max_examples=300, deadline=None)
def test_whatever_comes_is_a_value_or_refused(data: Any) -> None:
    with contextlib.suppress(ValueError):
        decode(loads(data if isinstance(data, bytes) else data.encode()))


def test_it_is_plain_python_of_version_3_8() -> None:
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 8))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in modules} <= set(sys.stdlib_module_names)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & {"removeprefix", "removesuffix", "bit_count", "pairwise"}


# --- student code ---------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """The helper in a step whose hand-in has these files."""
    ends: list[Callable[[], Any]] = []

    def begin(limits: Limits = LIMITS, **files: str) -> ModuleType:
        assignment = Assignment("hw", (Step(command=("grade",), guarded=True, student=limits),), max_score=1)
        plan = assignment.pack(Blobs(tmp_path / "blobs")).plan
        handin = [File(name.replace("_py", ".py"), text.encode()) for name, text in files.items()]
        sandbox = LocalSandbox(tmp_path / "boxes")
        students = Students(sandbox, plan, 0, image="", token="t", submission=handin, collected=())
        students.start()
        begin.students.append(students)  # type: ignore[attr-defined]
        listener = Listener(tmp_path / "socket", students.accept)
        monkeypatch.setattr(HELPER, "SOCKET", str(tmp_path / "socket"))

        def stop() -> None:
            listener.close()
            students.close()
            assert all(box.closed for box in sandbox.boxes)

        ends.append(stop)
        return HELPER

    begin.students = []  # type: ignore[attr-defined]
    yield begin
    for end in ends:
        end()


SOLUTION = """
import os, sys, time
ANSWER = 42
def add(a, b=1): return a + b
def same(x): return x
def shout(): print("hello", flush=False); sys.stderr.write("oops\\n")
def ask(): return input("name? ") + "/" + sys.stdin.read()
def fail(): raise KeyError("nothing \\u2603")
def leave(code): sys.exit(code)
def vanish(): os._exit(0)
def die(): os.kill(os.getpid(), 9)
def hang():
    while True: pass
class Equal:
    def __eq__(self, other): return True
    __hash__ = None
def equal(): return Equal()
class Odd(Exception):
    def __str__(self): raise Odd
def odd(): raise Odd
def huge(): raise ValueError("x" * 10**7)
def long(): return "x" * 10**7
def nested():
    deep = []
    for _ in range(10**5): deep = [deep]
    return deep
def fork():
    os.fork()
    return os.getpid()
class Stack:
    def __init__(self, *items): self.items = list(items)
    def push(self, item): self.items.append(item); return len(self.items)
    def __len__(self): return len(self.items)
def size(stack): return len(stack)
def greet(name, self=""): return name + self
class Named:
    def __init__(self, name): self.name = name
"""


def test_functions_are_called_with_values(start: Start) -> None:
    helper = start(solution_py=SOLUTION)
    with helper.Student("solution") as student:
        assert student.call("add", 1, 2) == 3
        assert student.call("add", 1, b=5) == 6
        value = [(1, {2}), {"a": None, 3: b"x"}, 10**30, "☃"]
        assert student.call("same", value) == value
        assert student.get("ANSWER") == 42


def test_what_it_prints_and_reads(start: Start) -> None:
    helper = start(solution_py=SOLUTION)
    with helper.Student("solution") as student:
        student.call("shout")
        assert student.stdout == "hello\n"
        assert student.call("ask", stdin="ada\nrest") == "ada/rest"
        assert student.stdout == "name? "
        assert student.call("ask", stdin=b"bob\n") == "bob/"
        assert student.stderr == "oops\n"


def test_objects_stay_there(start: Start) -> None:
    helper = start(solution_py=SOLUTION)
    with helper.Student("solution") as student:
        stack, other = student.make("Stack", 1), student.make("Stack")
        assert (stack.call("push", 5), stack.call("__len__"), other.call("__len__")) == (2, 2, 0)
        assert student.call("size", stack) == 2
        assert stack.get("items") == [1, 5]
        with pytest.raises(helper.StudentError, match="Ended"):
            student.call("vanish")
        with pytest.raises(helper.StudentError, match="went with the process"):
            stack.call("push", 1)
        with pytest.raises(helper.StudentError, match="went with the process"):
            student.make("Stack") and stack.call("push", 1)


def test_an_argument_may_be_called_as_ours_are(start: Start) -> None:
    helper = start(solution_py=SOLUTION)
    with helper.Student("solution") as student:
        assert student.call("greet", name="ada", self="!") == "ada!"
        assert student.make("Named", name="ada").get("name") == "ada"


def test_an_object_is_given_to_the_process_that_it_is_in_and_to_no_other(start: Start) -> None:
    helper = start(solution_py=SOLUTION)
    with helper.Student("solution") as student, helper.Student("solution") as other:
        stack, theirs = student.make("Stack", 1), other.make("Stack")
        with pytest.raises(ValueError, match="of one Student cannot be given to another"):
            other.call("size", [stack])
        assert other.call("size", theirs) == 0
        student.close()
        student.make("Stack")  # has the number that the other one had
        for args in ((stack,), ({"a": stack},)):
            with pytest.raises(helper.StudentError, match="went with the process"):
                student.call("size", *args)


@pytest.mark.parametrize(
    ("call", "type", "message"),
    [
        (("fail",), "KeyError", "nothing"),
        (("missing",), "AttributeError", "missing"),
        (("add",), "TypeError", "argument"),
        (("leave", 0), "SystemExit", "0"),
        (("vanish",), "Ended", "before it answered"),
        (("die",), "Ended", "killed by signal 9"),
        (("equal",), "TypeError", "Equal cannot cross"),
        (("odd",), "Odd", "cannot be shown"),
        (("huge",), "ValueError", "xxx"),
        (("long",), "Ended", "printed more than 1 MiB"),
        (("nested",), "ValueError", "100 deep"),
        (("same", 1, 2), "TypeError", "argument"),
    ],
)
def test_what_goes_wrong_there_is_an_error_with_its_words(start: Start, call: Any, type: str, message: str) -> None:
    helper = start(solution_py=SOLUTION)
    with helper.Student("solution") as student:
        with pytest.raises(helper.StudentError, match=message) as caught:
            student.call(*call)
        assert caught.value.type == type
        assert len(str(caught.value)) < 9000
        assert len(caught.value.traceback) <= 8000
        assert student.call("add", 1, 1) == 2, "the next call is answered"


def test_a_traceback_shows_the_students_lines_and_not_ours(start: Start) -> None:
    helper = start(solution_py=SOLUTION)
    with pytest.raises(helper.StudentError) as caught, helper.Student("solution") as student:
        student.call("fail")
    assert "in fail" in caught.value.traceback
    assert "minitango_student" not in caught.value.traceback


def test_a_call_that_takes_too_long_is_ended_and_the_next_one_is_answered(start: Start) -> None:
    helper = start(solution_py=SOLUTION)
    with helper.Student("solution") as student:
        with pytest.raises(helper.StudentTimeout, match=r"longer than 0\.3 s"):
            student.call("hang", timeout=0.3)
        assert student.call("add", 1, 1) == 2


def test_one_of_whom_there_is_always_something_to_read_is_ended_by_the_clock_all_the_same(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = start(solution_py=SOLUTION)
    wait = helper._Call.wait

    def never_idle(self: Any, deadline: float) -> bool:
        wait(self, min(deadline, time.monotonic() + 0.05))
        return True

    monkeypatch.setattr(helper._Call, "wait", never_idle)
    with helper.Student("solution") as student, pytest.raises(helper.StudentTimeout):
        student.call("hang", timeout=0.5)


@pytest.mark.parametrize(
    ("code", "type"),
    [
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import os; os._exit(0)", "Ended"),
        ("while True: pass", "Timeout"),
        ("def f(:", "SyntaxError"),
        ("import nothing_like_it", "ModuleNotFoundError"),
        ("raise RuntimeError('no')", "RuntimeError"),
    ],
)
def test_a_module_that_cannot_be_imported_says_so_for_each_call_and_costs_one(
    start: Start, code: str, type: str
) -> None:
    helper = start(solution_py=code)
    began = time.monotonic()
    with helper.Student("solution", timeout=1.0) as student:
        for _ in range(5):
            with pytest.raises(helper.StudentError) as caught:
                student.call("f")
            assert caught.value.type == type
    assert time.monotonic() - began < 4


def test_a_file_of_the_students_with_our_name_or_the_librarys_is_only_theirs(start: Start) -> None:
    shadow = "raise SystemExit('shadowed')"
    code = "import sys\ndef f(): return sys.flags.isolated"
    helper = start(solution_py=code, minitango_student_py=shadow, json_py=shadow, binascii_py=shadow)
    with helper.Student("solution") as student:
        assert student.call("f") == 1


def test_one_that_forks_answers_once(start: Start) -> None:
    helper = start(solution_py=SOLUTION)
    with helper.Student("solution") as student:
        pid = student.call("fork")
        assert student.call("fork") == pid
        assert student.call("add", 1, 1) == 2


HOSTILE = """
import json, os, struct, sys
def say(message):
    data = json.dumps(message).encode()
    for fd in range(3, 40):
        try: os.write(fd, struct.pack(">I", len(data)) + data)
        except OSError: pass
def early():
    for n in range(1000): say({"id": str(n), "stdout": "", "value": 42})
    return 1
def bare(data):
    for fd in range(3, 40):
        try: os.write(fd, data)
        except OSError: pass
def add(a, b): return a + b
"""


def test_answers_that_were_not_asked_for_are_dropped(start: Start) -> None:
    helper = start(solution_py=HOSTILE)
    with helper.Student("solution") as student:
        assert student.call("early") == 1
        assert student.call("add", 1, 2) == 3


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\x01x",
        b"\0\0\0\x02[]",
        b"\0\0\0\x02{}",
        b"\0\x01\x86\xa0" + b"[" * 100_000,
        b"\0\0\0\x04null",
    ],
)
def test_what_is_no_answer_ends_the_process_and_nothing_else(start: Start, data: bytes) -> None:
    helper = start(solution_py=HOSTILE)
    with helper.Student("solution") as student:
        with pytest.raises(helper.StudentError) as caught:
            student.call("bare", data)
        assert caught.value.type == "Garbled"
        assert student.call("add", 1, 2) == 3


@pytest.mark.parametrize(
    "answer",
    [
        {"value": {"!": "pickle", "v": ""}, "stdout": ""},
        {"value": 1},
        {"value": 1, "stdout": [[]]},
        {"error": {"type": 1, "message": "", "traceback": ""}, "stdout": ""},
        {"error": [], "stdout": ""},
        {"stdout": ""},
    ],
)
def test_an_answer_that_is_forged_must_be_one(start: Start, answer: dict[str, Any]) -> None:
    code = f"""
import json, os, struct, sys
def forge():
    frame = sys._getframe()
    while "words" not in frame.f_locals: frame = frame.f_back
    data = json.dumps(dict({answer!r}, id=frame.f_locals["words"]["id"])).encode()
    for fd in range(3, 40):
        try: os.write(fd, struct.pack(">I", len(data)) + data)
        except OSError: pass
    os._exit(0)
"""
    helper = start(solution_py=code)
    with helper.Student("solution") as student:
        with pytest.raises(helper.StudentError) as caught:
            student.call("forge")
        assert caught.value.type == "Garbled"


def test_words_of_an_error_can_be_put_into_any_report(start: Start) -> None:
    helper = start(
        solution_py="class E(Exception): pass\ndef f(): raise E('a\\0b\\ud800c\\U0001f600\\u00e9\\ud83d\\ude00')"
    )
    with helper.Student("solution") as student, pytest.raises(helper.StudentError) as caught:
        student.call("f")
    assert caught.value.message == "a\ufffdb\ufffdc\U0001f600\u00e9\U0001f600"
    assert caught.value.type == "E"
    for words in (caught.value.message, caught.value.traceback):
        check_text(words)


@pytest.mark.parametrize(("number", "code"), [(2, 127), (13, 126), (0, 126), (1 << 31, 126), ((1 << 32) - 1, 126)])
def test_whatever_number_says_why_it_could_not_be_executed_is_an_end(number: int, code: int) -> None:
    """What starts student code is of the same user, so that the number may be of the student's making."""
    returncode, limit, reason = HELPER._said((3, number, ""))
    assert (returncode, limit) == (code, "")
    assert reason.startswith("could not be executed: ")


def test_what_was_answered_counts_though_the_process_has_ended_since(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, threading\ndef f(n):\n    threading.Timer(n, os._exit, [0]).start()\n    return 7\n"
    helper = start(solution_py=code)
    wait = helper._Call.wait

    def all_of_it(self: Any, deadline: float) -> bool:
        while self.ending is None:
            wait(self, deadline)
        return True

    with helper.Student("solution") as student:
        assert student.call("f", 60) == 7
        monkeypatch.setattr(helper._Call, "wait", all_of_it)
        assert student.call("f", 0.1) == 7


def test_what_cannot_be_given_is_the_graders_own_mistake(start: Start) -> None:
    helper = start(solution_py=SOLUTION)
    with helper.Student("solution") as student:
        with pytest.raises(TypeError, match="cannot cross"):
            student.call("add", object())
        assert student.call("add", 1) == 2


# --- programs -------------------------------------------------------------------------------------


def test_a_program_runs_among_the_hand_in_s_files(start: Start) -> None:
    helper = start(data="7")
    done = helper.run(["sh", "-c", "cat; cat data; echo no >&2; exit 3"], input="6")
    assert (done.stdout, done.stderr, done.returncode, done.limit, done.reason) == (b"67", b"no\n", 3, "", "")


def test_files_are_given_and_taken(start: Start) -> None:
    helper = start(data="7")
    done = helper.run(
        ["sh", "-c", "cat in/a data; mkdir out; echo x > out/b; touch out/empty"],
        give={"in/a": "1", "data": b"2"},
        take=["out/*"],
    )
    assert done.stdout == b"12"
    assert done.files == {"out/b": b"x\n", "out/empty": b""}
    assert helper.run(["cat", "data"]).stdout == b"7", "each run has the hand-in as it came"


@pytest.mark.parametrize(
    ("command", "more", "code", "limit", "reason"),
    [
        (["sh", "-c", "kill -11 $$"], {}, -11, "", "signal 11"),
        (["sleep", "9"], {"timeout": 0.2}, 124, "wall", "longer than 0.2 s"),
        (["yes"], {}, 125, "output", "more than 1 MiB"),
        (["./nothing"], {}, 127, "", "No such file"),
        (["./data"], {}, 126, "", "Permission denied"),
        (["true"], {"give": {"data/x": b""}}, 125, "refused", "'data' is a file"),
        (["true"], {"give": {"x": b"0" * (9 << 20)}}, 125, "refused", "MiB"),
        (["sh", "-c", "mkdir out; head -c 9000000 /dev/zero > out/a"], {"take": ["out/*"]}, 0, "", "out/a was not"),
    ],
)
def test_how_a_program_ended_is_told(
    start: Start, command: list[str], more: Any, code: int, limit: str, reason: str
) -> None:
    done = start(data="7").run(command, **more)
    assert (done.returncode, done.limit) == (code, limit)
    assert reason in done.reason


@pytest.mark.parametrize(
    ("command", "more", "message"),
    [
        ("cat data", {}, "a command is a list of texts, and not one text: 'cat data'"),
        (["cat"], {"take": "out"}, "take is a list of texts"),
        (["cat"], {"input": 5}, "not a int"),
        (["cat"], {"give": {"x": 5}}, "not a int"),
        (["cat"], {"give": {"../x": b""}}, "leads out"),
        (["cat"], {"take": ["/etc/passwd"]}, "absolute"),
        (["cat"], {"timeout": 0}, "above 0, not 0"),
        ([], {}, "no command"),
    ],
)
def test_what_cannot_be_asked_for_is_the_graders_own_mistake(
    start: Start, command: Any, more: Any, message: str
) -> None:
    helper = start(data="7", solution_py=SOLUTION)
    with pytest.raises((TypeError, ValueError, helper.GraderError), match=message):
        helper.run(command, **more)
    assert re.search(message, at_fault(start))


def at_fault(start: Start) -> str:
    """What is said of the grader, whatever becomes of its tests."""
    (students,) = start.students  # type: ignore[attr-defined]
    with pytest.raises(AssignmentError) as caught:
        students.close()
    assert caught.value.id == "student_call"
    return str(caught.value)


@pytest.mark.parametrize(
    ("module", "more", "message"),
    [
        (None, {}, "name of a module, such as 'solution', and not None"),
        ("solution.py", {}, "not of a file: 'solution.py' .is 'solution' meant.."),
        ("./lib/solution.py", {}, "is 'lib.solution' meant"),
        ("", {}, "not of a file: ''"),
        ("solution", {"timeout": 0}, "above 0, not 0"),
        ("solution", {"timeout": math.nan}, "above 0, not nan"),
        ("solution", {"timeout": "2"}, "not '2'"),
    ],
)
def test_a_student_that_cannot_be_is_the_graders_own_mistake(
    start: Start, module: Any, more: Any, message: str
) -> None:
    helper = start(solution_py=SOLUTION)
    with pytest.raises((TypeError, ValueError), match=message):
        helper.Student(module, **more)
    assert re.search(message, at_fault(start))


def test_a_call_that_cannot_be_is_the_graders_own_mistake(start: Start) -> None:
    helper = start(solution_py=SOLUTION)
    with helper.Student("solution") as student:
        with pytest.raises(ValueError, match="above 0"):
            student.call("add", 1, timeout=0)
        with pytest.raises(TypeError, match="not a int"):
            student.call("ask", stdin=5)
    assert "above 0" in at_fault(start), "the first of them"


def test_what_is_no_mistake_of_the_graders_stays_the_students(start: Start) -> None:
    helper = start(solution_py="import os; os._exit(0)")
    for _ in range(2):
        with pytest.raises(helper.StudentError):
            helper.Student("solution").call("add")


def test_where_nobody_listens_it_says_what_is_amiss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(HELPER, "SOCKET", str(tmp_path / "none"))
    with pytest.raises(RuntimeError, match="is the step guarded"):
        HELPER.run(["true"])
