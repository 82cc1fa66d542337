"""PrairieLearn's results.json: the score that PrairieLearn gives, and its own words where it gives none."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitango.job import TestResult
from minitango.results import Evidence, Report, prairielearn
from minitango.results.prairielearn import MAX_RESULTS

# https://docs.prairielearn.com/externalGrading/#grading-results
DOCUMENTED = {
    "gradable": True,
    "score": 0.25,
    "message": "Tests completed successfully.",
    "output": "Running tests...\nTest 1 passed\nTest 2 failed!\n...",
    "images": [
        {"label": "First Image", "url": "data:image/png;base64,..."},
        {"label": "Second Image", "url": "data:image/jpeg;base64,..."},
    ],
    "tests": [
        {
            "name": "Test 1",
            "description": "Tests that a thing does a thing.",
            "points": 1,
            "max_points": 1,
            "message": "No errors!",
            "output": "Running test...\nYour output matched the expected output!",
        },
        {
            "name": "Test 2",
            "description": "Like Test 1, but harder, you'll probably fail it.",
            "points": 0,
            "max_points": 3,
            "message": "Make sure that your code is doing the thing correctly.",
            "output": "Running test...\nYour output did not match the expected output.",
            "images": [{"label": "First Image", "url": "data:image/gif;base64,..."}],
        },
    ],
}


def evidence(report, **more):
    if report is not None and not isinstance(report, bytes):
        report = json.dumps(report).encode()
    more.setdefault("exit_status", 0)
    return Evidence(report, **more)


def grade(report, **more):
    return prairielearn.read(evidence(report, **more))


def why_not(report, **more):
    read = grade(report, **more)
    assert read.score is None
    assert read.reason
    assert "\n" not in read.reason
    assert len(read.reason) < 350
    return read.reason


def ids(read):
    return [warning.id for warning in read.warnings]


def test_the_documented_example_is_read():
    read = grade(DOCUMENTED, max_score=20.0)
    assert read == Report(
        score=5.0,
        max_score=20.0,
        tests=(
            TestResult(
                name="Test 1",
                score=1.0,
                max_score=1.0,
                output="Tests that a thing does a thing.\n\nNo errors!\n\n"
                "Running test...\nYour output matched the expected output!",
                output_format="ansi",
            ),
            TestResult(
                name="Test 2",
                score=0.0,
                max_score=3.0,
                output="Like Test 1, but harder, you'll probably fail it.\n\n"
                "Make sure that your code is doing the thing correctly.\n\n"
                "Running test...\nYour output did not match the expected output.",
                output_format="ansi",
            ),
        ),
        feedback="Tests completed successfully.\n\nRunning tests...\nTest 1 passed\nTest 2 failed!\n...",
        feedback_format="ansi",
        extra_data={"images": 2},
    )
    assert msgspec.json.decode(msgspec.json.encode(read), type=Report) == read


@pytest.mark.parametrize(
    ("report", "percent"),
    [
        ({"score": 0.25}, 25),
        ({"score": 1}, 100),
        ({"score": 0}, 0),
        (b'{"score": -0.0}', 0),
        ({"score": 0.5, "gradable": True}, 50),
        ({"score": 0.5, "gradable": None, "succeeded": None}, 50),
        ({"score": 0.5, "gradable": "false"}, 50),  # JavaScript takes a string for true
        ({"score": 0.5, "gradable": [], "succeeded": {}}, 50),
        # what decides is `score`, whatever the tests say
        ({"score": 0.5, "tests": [{"name": "a", "points": 0, "max_points": 1}]}, 50),
        # the Python grader's report, and its last-ditch one: that counts as an attempt with 0
        ({"tests": [], "score": 0.75, "succeeded": True, "gradable": True, "max_points": 4, "images": []}, 75),
        ({"score": 0.0, "succeeded": False, "output": "Traceback"}, 0),
        ({"score": 1.0, "succeeded": False}, 0),
        ({"succeeded": False, "message": "Your code could not be processed by the autograder."}, 0),
        # the R grader writes null as {}
        ({"tests": [{"name": "a", "max_points": 1, "points": 1, "output": ""}], "score": 1, "images": {}}, 100),
        (b'{"score": 0.5, "output": "\xff"}', 50),
        (b'{"score": 0.5, "output": "a\\u0000b"}', 50),
    ],
)
def test_the_score_is_that_of_prairielearn(report, percent):
    read = grade(report)
    assert (str(read.score), read.max_score, read.warnings) == (str(float(percent)), 100.0, ())
    assert grade(report, max_score=8.0).score == percent * 8 / 100


def test_signs_of_a_report_that_is_none():
    assert ids(grade({"score": 1.01})) == ["score_above_max"]
    assert ids(grade({"score": -1})) == []
    assert ids(grade({"score": 1}, exit_status=1)) == ["grader_exit"]
    assert ids(grade({"score": 1}, exit_status=None, signal=9)) == ["grader_exit"]
    assert ids(grade(None, exit_status=1)) == [], "it left none"


def test_a_grader_that_says_it_did_not_succeed_gives_zero_and_says_so():
    assert "did not succeed" in grade({"score": 1, "succeeded": False}).reason


@pytest.mark.parametrize(
    ("report", "ids"),
    [
        ({"gradable": False, "format_errors": "a ( is missing"}, ["not_gradable"]),
        ({"gradable": False, "format_errors": []}, []),
        ({"gradable": False, "message": "no file"}, []),
        ({"gradable": True, "score": 1, "format_errors": ["one"]}, []),
    ],
)
def test_a_hand_in_that_the_grader_blames_is_told_by_a_notice(report, ids):
    assert [notice.id for notice in grade(report).warnings] == ids


def test_texts_are_as_prairielearn_keeps_them():
    assert grade(b'{"score": 1, "output": "\xff \\u0000"}').feedback == "\ufffd \\u0000"
    read = grade({"score": 1, "format_errors": ["one", 2], "message": "done"})
    assert (read.score, read.feedback) == (100.0, "Error: one\n\nError: 2\n\ndone")


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ({"gradable": False}, "Invalid, not gradable"),
        ({"gradable": False, "score": 1}, "Invalid, not gradable"),
        ({"gradable": 0, "score": 1}, "Invalid, not gradable"),
        ({"gradable": False, "format_errors": "a ( is missing"}, "Invalid, not gradable: a ( is missing"),
        ({"gradable": False, "format_errors": ["one", "two"]}, "Invalid, not gradable: one; two"),
        ({"gradable": False, "format_errors": [{"a": 1}]}, 'Invalid, not gradable: {"a": 1}'),
        ({"gradable": False, "format_errors": 3, "message": "no file"}, "Invalid, not gradable: no file"),
        ({"gradable": False, "succeeded": False}, "Invalid, not gradable"),
        ({"score": "0.5"}, 'score "0.5" was not a number.'),
        ({"score": [0.5]}, 'score "[0.5]" was not a number.'),
        ({"score": True}, 'score "true" was not a number.'),
        ({"score": "x" * 5000}, 'score "xxxxxx'),
        ({"score": "1", "gradable": False}, 'score "1" was not a number.'),
        ({"score": 1.5}, "score is out of range"),
        ({"score": -0.1}, "score is out of range"),
        ({"score": 1.0000000000000002}, "score is out of range"),
        ({"score": 100}, "score is out of range"),
        ({}, "score was not provided"),
        ({"score": None}, "score was not provided"),
        ({"tests": [{"name": "a", "points": 1, "max_points": 1}]}, "score was not provided"),
        (b"null", "results did not contain 'results' object: results.json is null"),
        (b"[]", "results did not contain 'results' object: results.json is a list"),
        (b"", "Could not parse the grading results: not JSON at line 1, column 1"),
        (b'{"score": 1', "Could not parse the grading results: not JSON"),
        (b'{"score": NaN}', "Could not parse the grading results: NaN is no number"),
        (b'{"score": 1e999}', "score is out of range. It is inf"),
        (b'\xef\xbb\xbf{"score": 1}', "Could not parse the grading results: it begins with a byte order mark"),
        (b'{"score": 1, "output": "\0"}', "Could not parse the grading results: not JSON"),
        (b"[" * 1000, "Could not parse the grading results: it is nested deeper than 400 levels"),
        (b'{"score": 1}' + b" " * MAX_RESULTS, "The grading results were larger than 1MB."),
        (None, "Could not read grading results: the last step ended with exit status 0 and left no results.json"),
    ],
)
def test_what_prairielearn_refuses_is_no_score_with_its_reason(report, words):
    assert words in why_not(report)


@pytest.mark.parametrize(
    ("beside", "warnings"),
    [
        (b'"extra": {"k": 1, "k": 2}', ["key_twice"]),
        (b'"score": 0, "score": 1', ["key_twice"]),
        (b'"big": 1e400, "bigger": -' + b"9" * 500, []),
        (b'"tests": [{"points": 1e400}]', ["report_part"]),
        (b'"long": 0.' + b"3" * 500, []),
        (b'"deep": ' + b"[" * 390 + b"]" * 390, []),
        (b'"many": [' + b"0," * 300_000 + b"0]", []),
        (b'"wide": {' + b",".join(b'"%d":0' % n for n in range(60_000)) + b"}", []),
        (b'"words": [' + b'"",' * 300_000 + b'""]', []),
    ],
    ids=["twice", "score", "large", "points", "digits", "deep", "many", "wide", "words"],
)
def test_what_lies_beside_the_score_decides_nothing(beside, warnings):
    read = grade(b"{" + beside + (b"}" if b'"score"' in beside else b', "score": 1}'))
    assert (read.score, ids(read)) == (100.0, warnings)
    assert len(beside) < MAX_RESULTS


def test_what_is_nested_as_deeply_as_it_may_be_can_be_shown():
    deep = b"[" * 390 + b"1e400" + b"]" * 390
    read = grade(b'{"gradable": false, "format_errors": [' + deep + b"]}")
    assert read.reason.startswith("Invalid, not gradable: [[[")


def test_a_megabyte_is_taken():
    assert grade(b'{"score": 1}'.ljust(MAX_RESULTS)).score == 100.0


@pytest.mark.parametrize(("exit_status", "signal", "words"), [(1, None, "exit status 1"), (None, 9, "SIGKILL")])
def test_a_grader_that_ended_badly_is_not_read(exit_status, signal, words):
    why = why_not({"score": 1}, exit_status=exit_status, signal=signal)
    assert why.startswith("Grading failed!")
    assert words in why


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ({"tests": {}}, "tests: expected a list, got an object"),
        ({"tests": ["a"]}, "tests[0]: expected an object, got a string"),
        ({"tests": [{}, {"name": 3}]}, "tests[1].name: expected a string, got a number"),
        ({"tests": [{"points": "1"}]}, "tests[0].points: expected a number, got a string"),
        ({"tests": [{"max_points": True}]}, "tests[0].max_points: expected a number, got a boolean"),
        ({"tests": [{"points": 1e10}]}, "tests[0].points: 1e+10 is out of range"),
        ({"tests": [{"output": ["a"], "message": 1}]}, "tests[0].message: expected a string, got a number, and 1 more"),
        ({"tests": [{}] * 10_001}, "tests: 10,001 items, at most 10,000"),
        ({"message": {}}, "message: expected a string, got an object"),
        ({"output": "\ud800"}, "output: a string holds half of a surrogate pair"),
    ],
)
def test_what_cannot_be_shown_is_left_out_and_the_score_stands(part, place):
    read = grade({"score": 0.5, **part})
    assert (read.score, ids(read)) == (50.0, ["report_part"])
    assert place in read.warnings[0].message
    assert len(read.tests) <= 10_000
    msgspec.json.encode(read)


@settings(deadline=None)  # other tests share the machine
@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_read_without_an_exception(report):
    read = grade(report)
    assert read.score is None
    assert read.reason


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*DOCUMENTED, *DOCUMENTED["tests"][0]]), inner, max_size=6)
    ),
    max_leaves=20,
)


@settings(deadline=None)  # other tests share the machine
@given(
    st.dictionaries(st.sampled_from([*DOCUMENTED, "format_errors", "succeeded"]), values),
    st.none() | st.floats(0, 1),
    st.none() | st.just(10.0),
)
def test_any_values_in_the_known_keys_are_read_without_an_exception(report, score, max_score):
    read = grade({**report, "score": score} if score is not None else report, max_score=max_score)
    assert read.score is not None or read.reason
    assert read.score is None or 0 <= read.score <= (max_score or 100.0)
    assert msgspec.json.decode(msgspec.json.encode(read), type=Report) == read


@settings(deadline=None)  # other tests share the machine
@given(st.data())
def test_a_mutated_report_is_read_without_an_exception(data):
    report = bytearray(json.dumps(DOCUMENTED).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(report)))
        report[at : at + data.draw(st.integers(0, 8))] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"NaN", b"1e999", b"null", b"true", b"\\u0000", b'"', b"[", b"}"])
        )
    read = grade(bytes(report))
    assert read.score is not None or read.reason
    assert read.score is None or 0 <= read.score <= 100
    msgspec.json.encode(read)
