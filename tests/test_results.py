"""Reports: what is well written gives its score; what is odd gives none, with the place and the reason."""

import json
import re
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitango.job import LeaderboardEntry, TestResult
from minitango.results import FORMATS, MAX_REPORT, Evidence, Report, exit_code, gradescope, reader
from minitango.results.strict_json import MAX_DEPTH, MAX_KEYS, MAX_VALUES, Refused, parse

ASSIGNMENT = Path(__file__).parent.parent / "docs" / "assignment.md"
FULL = {
    "score": 44.0,
    "execution_time": 136,
    "output": "Text for the whole submission",
    "output_format": "simple_format",
    "test_output_format": "md",
    "test_name_format": "html",
    "visibility": "after_due_date",
    "stdout_visibility": "visible",
    "extra_data": {"host": ["a", 1, None, True, {"b": 0.5}], "big": 2**64 - 1},
    "tests": [
        {
            "score": 2.0,
            "max_score": 2.0,
            "status": "passed",
            "name": "Compiles",
            "name_format": "text",
            "number": "1.1",
            "output": "fine",
            "output_format": "ansi",
            "tags": ["tag1", "tag2"],
            "visibility": "visible",
            "extra_data": {"x": 1},
        },
        {"score": 1, "max_score": 98, "number": 2},
    ],
    "leaderboard": [
        {"name": "Accuracy", "value": 0.926},
        {"name": "Time", "value": 15, "order": "asc"},
        {"name": "Stars", "value": "*****"},
    ],
}


def evidence(report, *, exit_status=0, signal=None, max_score=None, bonus=False):
    if report is not None and not isinstance(report, bytes):
        report = json.dumps(report).encode()
    return Evidence(report, exit_status=exit_status, signal=signal, max_score=max_score, bonus=bonus)


def grade(report, **keywords):
    return gradescope.read(evidence(report, **keywords))


def why_not(report, **keywords):
    read = grade(report, **keywords)
    assert read.score is None
    assert read.reason
    assert "\n" not in read.reason
    assert len(read.reason) < 250
    return read.reason


def test_every_field_of_the_format_is_read():
    assert grade(FULL) == Report(
        score=44.0,
        max_score=100.0,
        feedback="Text for the whole submission",
        feedback_format="simple_format",
        visibility="after_due_date",
        stdout_visibility="visible",
        extra_data=FULL["extra_data"],
        tests=(
            TestResult(
                name="Compiles",
                number="1.1",
                score=2.0,
                max_score=2.0,
                status="passed",
                output="fine",
                output_format="ansi",
                name_format="text",
                visibility="visible",
                tags=("tag1", "tag2"),
                extra_data={"x": 1},
            ),
            TestResult(
                number="2",
                score=1.0,
                max_score=98.0,
                output_format="md",
                name_format="html",
                visibility="after_due_date",
            ),
        ),
        leaderboard=(
            LeaderboardEntry("Accuracy", 0.926),
            LeaderboardEntry("Time", 15.0, "asc"),
            LeaderboardEntry("Stars", "*****"),
        ),
    )


def test_what_is_read_can_be_kept_as_json():
    read = grade(FULL)
    assert msgspec.json.decode(msgspec.json.encode(read), type=Report) == read


def test_without_a_total_the_tests_are_summed_without_rounding_errors():
    tests = [{"score": 0.1, "max_score": 0.1}] * 10
    assert grade({"tests": tests}) == Report(
        1.0, 1.0, feedback_format="simple_format", tests=(TestResult(score=0.1, max_score=0.1),) * 10
    )
    assert grade({"tests": [{"score": 1}, {"name": "for information"}]}).score == 1.0


def test_a_total_that_rounding_put_above_the_maximum_is_the_maximum():
    read = grade({"score": 0.1 + 0.2}, max_score=0.3)
    assert read.score == 0.3
    assert read.warnings == ()


def test_the_assignments_maximum_stands_above_that_of_the_tests():
    assert grade({"tests": [{"score": 3, "max_score": 5}]}, max_score=10).max_score == 10
    assert grade({"tests": [{"score": 3, "max_score": 5}]}).max_score == 5
    assert grade({"tests": [{"score": 3, "max_score": 5}, {"score": 1}]}).max_score is None
    assert grade({"score": 3}).max_score is None


def test_null_is_absent_and_unknown_keys_are_ignored():
    assert grade({"score": None, "output": None, "tests": [{"score": 1, "tags": None}], "mine": [1]}).score == 1.0


def test_a_score_of_zero_is_a_score():
    read = grade({"score": 0})
    assert (read.score, read.reason) == (0.0, "")
    assert str(grade(b'{"score": -0.0}').score) == "0.0"


def test_what_gradescopes_own_library_writes_is_read():
    # gradescope-utils: the time is a string, and a test that failed before it set its leaderboard value has none
    read = grade(
        {
            "tests": [
                {"name": "test_add (test_simple.TestSimple)", "score": 1, "max_score": 1, "status": "passed"},
                {
                    "name": "Evaluate 1+",
                    "score": 0.0,
                    "max_score": 2,
                    "status": "failed",
                    "output": "Test Failed: 1 != 2\n",
                    "tags": ["a"],
                    "number": "1.2",
                },
                {"name": "Style", "status": "passed"},
            ],
            "leaderboard": [
                {"name": "high_score", "value": 42, "order": "desc"},
                {"name": "time", "value": None, "order": "asc"},
            ],
            "visibility": "visible",
            "execution_time": "0.00",
            "score": 1.0,
        }
    )
    assert (read.score, read.max_score, read.warnings) == (1.0, 3.0, ())
    assert read.leaderboard == (LeaderboardEntry("high_score", 42.0),)


def test_the_formats_of_texts_are_those_of_the_documentation():
    read = grade({"score": 1, "output": "a", "tests": [{"output": "b"}]})
    assert (read.feedback_format, read.tests[0].output_format, read.tests[0].name_format) == (
        "simple_format",
        "text",
        "text",
    )


def test_a_byte_order_mark_is_no_matter():
    assert grade(b'\xef\xbb\xbf{"score": 3}').score == 3.0


@pytest.mark.parametrize(
    ("report", "place"),
    [
        ([], "the top level: expected an object, got a list"),
        (b"null", "the top level: expected an object, got null"),
        ({"score": "five"}, "score: expected a number, got a string"),
        ({"score": "5 "}, "score: expected a number, got a string"),
        ({"score": "1e3"}, "score: expected a number, got a string"),
        ({"score": "-1"}, "score is -1, below 0"),
        ({"score": "9" * 99}, "score: 1e+99 is out of range"),
        ({"score": "9" * 101}, "score: expected a number, got a string"),
        ({"score": True}, "score: expected a number, got a boolean"),
        ({"score": 1e10}, "score: 1e+10 is out of range"),
        ({"score": -1}, "score is -1, below 0"),
        ({"tests": [{"score": 1}, {"score": -2}]}, "score is -1, below 0"),
        ({"score": 1, "output": ["a"]}, "output: expected a string, got a list"),
        ({"score": 1, "visibility": "hiden"}, 'visibility: "hiden" is none of visible, hidden'),
        ({"score": 1, "output_format": "rtf"}, 'output_format: "rtf" is none of text'),
        ({"score": 1, "extra_data": []}, "extra_data: expected an object, got a list"),
        ({"score": 1, "tests": {}}, "tests: expected a list, got an object"),
        ({"score": 1, "tests": [{}, 3]}, "tests[1]: expected an object, got a number"),
        ({"tests": [{}, {}, {}, {"score": False}]}, "tests[3].score: expected a number, got a boolean"),
        ({"tests": [{"score": 1, "max_score": -1}]}, "tests[0].max_score: -1 is below 0"),
        ({"tests": [{"score": 1, "status": "ok"}]}, 'tests[0].status: "ok" is none of passed, failed'),
        ({"tests": [{"score": 1, "tags": ["a", 1]}]}, "tests[0].tags[1]: expected a string, got a number"),
        ({"tests": [{"score": 1, "number": False}]}, "tests[0].number: expected a string, got a boolean"),
        ({"tests": [{"score": 1}] * 10_001}, "tests: 10,001 items, at most 10,000"),
        ({"score": 1, "leaderboard": [{"name": "a", "value": True}]}, "leaderboard[0].value: expected a number"),
        ({"score": 1, "leaderboard": [{"name": "a", "value": 1, "order": "up"}]}, 'leaderboard[0].order: "up"'),
        ({}, "no score: neither at the top nor in a test"),
        ({"tests": []}, "no score: neither at the top nor in a test"),
        ({"tests": [{"max_score": 1}]}, "no score: neither at the top nor in a test"),
        (b'{"score": NaN}', "NaN is no number"),
        (b'{"score": -Infinity}', "-Infinity is no number"),
        (b'{"score": 1e999}', "the number 1e999 is too large"),
        (b'{"score": ' + b"1" * 5000 + b"}", "a number of 5000 characters"),
        (b'{"score": 0.' + b"1" * 5000 + b"}", "a number of 5002 characters"),
        (b'{"score": 18446744073709551616}', "is out of range"),
        (b'{"score": 1, "score": 100}', 'the key "score" stands twice'),
        (b'{"tests": [{"score": 1, "max_score": 1, "max_score": 2}]}', 'the key "max_score" stands twice'),
        (b'{"score": 1, "tests": [], "tests": []}', 'the key "tests" stands twice'),
        (b'{"score": 1, "visibility": "hidden", "visibility": "visible"}', 'the key "visibility" stands twice'),
        (b'{"score": 1} {"score": 2}', "not JSON at line 1, column 14"),
        (b'{"score": 1, "output": "\n"}', "not JSON at line 1"),
        (b'{"score": 1', "not JSON"),
        (b'\xff\xfe{\x00"\x00', "not JSON at line 1"),
        (b"\xef\xbb\xbf" * 2 + b'{"score": 1}', "not JSON"),
        (b" \n", "not JSON"),
    ],
)
def test_what_is_odd_is_no_score_and_the_place_is_named(report, place):
    assert place in why_not(report)


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"a\0b", "a\ufffdb"),
        (b"a\\u0000b", "a\ufffdb"),
        (b"\\ud800", "\ufffd"),
        (b"\\ud83d\\ude00 \xc5\x82", "\U0001f600 \u0142"),
    ],
)
def test_what_a_hand_in_printed_costs_no_score(printed, shown):
    """Graders pass it on, whatever its bytes are."""
    read = grade(b'{"score": 1, "output": "%b", "extra_data": {"%b": ["%b"]}}' % (printed, printed, printed))
    assert (read.score, read.feedback, read.extra_data) == (1, shown, {shown: [shown]})


def test_points_may_be_a_text_and_a_name_a_number():
    read = grade({"score": "7.5", "tests": [{"name": 3, "score": "+2", "max_score": "10."}]})
    (test,) = read.tests
    assert (read.score, read.max_score, test.name, test.score, test.max_score) == (7.5, 10, "3", 2, 10)


def test_of_a_key_that_decides_nothing_the_last_value_counts_with_a_warning():
    read = grade(b'{"stdout_visibility": "visible", "score": 1, "stdout_visibility": "hidden"}')
    assert (read.score, read.stdout_visibility) == (1, "hidden")
    assert [notice.id for notice in read.warnings] == ["key_twice"]
    assert '"stdout_visibility" stands twice' in read.warnings[0].message


@pytest.mark.parametrize(
    ("exit_status", "signal", "words"),
    [
        (0, None, "the last step ended with exit status 0"),
        (1, None, "the last step ended with exit status 1"),
        (None, 11, "the last step was killed by SIGSEGV"),
        (None, None, "the last step did not start"),
    ],
)
def test_no_report_names_how_the_step_ended(exit_status, signal, words):
    assert why_not(None, exit_status=exit_status, signal=signal) == f"no report: {words} and left no results.json"
    empty = why_not(b"", exit_status=exit_status, signal=signal)
    assert empty == f"the report results.json is empty (0 bytes); {words}"


@pytest.mark.parametrize(("exit_status", "signal"), [(1, None), (None, 9)])
def test_a_report_beside_a_bad_ending_counts_with_a_warning(exit_status, signal):
    read = grade({"score": 3}, exit_status=exit_status, signal=signal)
    assert read.score == 3.0
    assert [warning.id for warning in read.warnings] == ["grader_exit"]


@pytest.mark.parametrize(
    ("report", "exit_status", "signal", "odd"),
    [
        ({"tests": [{"score": 0, "max_score": 1}, {"score": 1, "max_score": 1}]}, 1, None, []),  # as pytest ends
        ({"tests": [{"status": "failed"}], "score": 1}, 5, None, []),
        ({"score": 3, "max_score": 4}, 1, None, ["grader_exit"]),  # no maximum that is read
        ({"tests": [{"score": 0, "name": "does not compile"}]}, 1, None, []),
        ({"tests": [{"score": 0, "name": "does not compile"}]}, 139, None, ["grader_exit"]),
        ({"tests": [{"score": 1, "max_score": 1}]}, 1, None, ["grader_exit"]),
        ({"tests": [{"score": 0, "max_score": 1}]}, 139, None, ["grader_exit"]),  # a shell's word for SIGSEGV
        ({"tests": [{"score": 0, "max_score": 1}]}, None, 9, ["grader_exit"]),
        (b"{", 1, None, ["grader_exit"]),
        (b"{", 0, None, []),
    ],
)
def test_a_runner_may_say_by_its_exit_status_that_a_test_failed(report, exit_status, signal, odd):
    read = grade(report, exit_status=exit_status, signal=signal)
    assert [warning.id for warning in read.warnings] == odd


def test_less_than_the_maximum_explains_an_error_exit_too():
    assert grade({"score": 3}, exit_status=1, max_score=4).warnings == ()
    assert [warning.id for warning in grade({"score": 4}, exit_status=1, max_score=4).warnings] == ["grader_exit"]


def test_a_score_above_the_maximum_is_none_unless_there_is_bonus():
    report = {"score": 101, "tests": [{"score": 101, "max_score": 100}]}
    read = grade(report, max_score=100)
    assert read.score is None
    assert "101 is above the maximum of 100" in read.reason
    assert [warning.id for warning in read.warnings] == ["score_above_max", "test_above_max"]
    assert read.tests, "a teacher still sees what was reported"

    read = grade(report, max_score=100, bonus=True)
    assert (read.score, read.warnings) == (101.0, ())


def test_a_test_may_be_above_its_maximum_or_a_penalty_and_the_total_decides():
    read = grade({"tests": [{"score": 12, "max_score": 10}, {"score": -3, "max_score": 10}]})
    assert read.score == 9.0
    assert [warning.id for warning in read.warnings] == ["test_above_max"]


def test_a_report_that_is_too_large_is_refused_unread():
    assert "larger than 8 MiB" in why_not(b" " * (MAX_REPORT + 1))


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" * MAX_REPORT,
        b'{"a":' * (MAX_REPORT // 5),
        b"[" * 200_000 + b"]" * 200_000,
        b"{[" * 100_000 + b"]}" * 100_000,
        b"[]," * (MAX_REPORT // 3),
        b'"' * MAX_REPORT,
        b'"' + b"\\" * (MAX_REPORT - 1),
        b'{"' + b"a" * (MAX_REPORT - 2),
        b"1" * MAX_REPORT,
        b'"",,' * (MAX_REPORT // 4),
        b'""ab' * (MAX_REPORT // 4),
        b"{" + b",".join(b'"%d":0' % number for number in range(MAX_VALUES)) + b"}",
    ],
    ids=[
        "open",
        "open objects",
        "deep",
        "deep mixed",
        "many",
        "quotes",
        "backslashes",
        "one string",
        "digits",
        "empty strings",
        "strings and letters",
        "keys",
    ],
)
def test_bombs_are_refused_and_take_little_memory(bomb):
    assert len(bomb) <= MAX_REPORT
    tracemalloc.start()
    try:
        assert why_not(bomb)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_the_number_of_values_and_keys_is_bounded():
    assert len(parse(b"[" + b",".join([b'""'] * (MAX_VALUES - 1)) + b"]")) == MAX_VALUES - 1
    with pytest.raises(Refused, match="more than 200,000 values"):
        parse(b"[" + b",".join([b'""'] * (MAX_VALUES + 1)) + b"]")
    keys = [b'"%d":""' % number for number in range(MAX_KEYS)]
    assert len(parse(b"{" + b",".join(keys) + b"}")) == MAX_KEYS
    with pytest.raises(Refused, match="more than 50,000 keys"):
        parse(b"{" + b",".join([*keys, b'"one more":""']) + b"}")


def test_the_depth_is_exact():
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    parse(deepest)
    parse(b'"' + b"[" * 1000 + b'"')
    for kind in (b"[%s]", b'{"a":%s}'):
        with pytest.raises(Refused, match="deeper than 64"):
            parse(kind % deepest)


@settings(deadline=None)  # other tests share the machine
@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_read_without_an_exception(report):
    read = grade(report)
    assert (read.score is None) == bool(read.reason)


@settings(deadline=None)  # other tests share the machine
@given(st.data())
def test_a_mutated_report_is_read_without_an_exception(data):
    report = bytearray(json.dumps(FULL, ensure_ascii=data.draw(st.booleans())).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(report)))
        report[at : at + data.draw(st.integers(0, 8))] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"NaN", b"1e999", b"null", b"true", b"\\u0000", b'"', b"[", b"}"])
        )
    read = grade(bytes(report), max_score=100)
    assert (read.score is None) == bool(read.reason)
    assert read.score is None or 0 <= read.score <= 100
    msgspec.json.encode(read)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*FULL, *FULL["tests"][0], "value", "order"]), inner, max_size=6)
    ),
    max_leaves=20,
)


@settings(deadline=None)  # other tests share the machine
@given(st.dictionaries(st.sampled_from(list(FULL)), json_values), st.none() | st.just(10.0), st.booleans())
def test_any_values_in_the_known_keys_are_read_without_an_exception(report, max_score, bonus):
    read = grade(report, max_score=max_score, bonus=bonus)
    assert (read.score is None) == bool(read.reason)
    assert read.score is None or read.score >= 0
    assert msgspec.json.decode(msgspec.json.encode(read), type=Report) == read


def test_exit_status_zero_is_full_marks_and_any_other_is_zero():
    assert exit_code.read(evidence(None, max_score=20)) == Report(20.0, 20.0)
    assert exit_code.read(evidence(None)) == Report(1.0, 1.0)
    failed = exit_code.read(evidence(b'{"score": 20}', exit_status=2, max_score=20))
    assert failed == Report(0.0, 20.0, "the last step ended with exit status 2")


def test_a_death_by_a_signal_is_no_verdict():
    read = exit_code.read(evidence(None, exit_status=None, signal=9, max_score=20))
    assert read == Report(None, 20.0, "no verdict: the last step was killed by SIGKILL")
    assert exit_code.read(evidence(None, exit_status=None)).score is None


def test_the_examples_of_the_papers_are_read():
    section = dict(re.findall(r"^### (\w+).*?\n```\w*\n(.*?)```", ASSIGNMENT.read_text(), re.MULTILINE | re.DOTALL))
    found = {
        "gradescope": grade(section["Gradescope"].encode()),
        "autolab": reader("autolab")(Evidence(None, exit_status=0, ending=section["Autolab"].encode())),
        "prairielearn": reader("prairielearn")(evidence(section["PrairieLearn"].encode())),
        "junit": reader("junit")(Evidence(None, exit_status=1, reports=(("a.xml", section["JUnit"].encode()),))),
    }
    scores = {name: (read.score, read.max_score, len(read.tests), read.warnings) for name, read in found.items()}
    assert scores == {
        "gradescope": (7.0, 10.0, 2, ()),
        "autolab": (100.0, None, 4, ()),
        "prairielearn": (25.0, 100.0, 2, ()),
        "junit": (1.0, 3.0, 3, ()),
    }


def test_each_format_has_its_reader():
    assert set(FORMATS) == {"gradescope", "autolab", "prairielearn", "junit", "exit-code"}
    assert reader("gradescope") is gradescope.read
    assert reader("exit-code") is exit_code.read
    for name in FORMATS:
        assert reader(name)(Evidence(None, exit_status=1)).max_score in (None, 1.0, 100.0)


def test_exit_status_127_deserves_a_look() -> None:
    from minitango.results.exit_code import read as read_exit

    assert [n.id for n in read_exit(Evidence(None, 127, max_score=10)).warnings] == ["exit_127"]
    assert read_exit(Evidence(None, 126, max_score=10)).warnings == ()
    assert read_exit(Evidence(None, 0, max_score=10)).warnings == ()
