"""Autolab's scores line: what its documentation shows gives the score that Autolab gives, all else a reason."""

import json
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitango.job import LeaderboardEntry, TestResult
from minitango.results import Evidence, Report, autolab

PROBLEMS = (("Correctness", 20.0), ("TA/Design/Readability", 40.0))
SCORES = b'{"scores": {"Correctness": 20, "TA/Design/Readability": 40}}'
STAGES = {
    "_presentation": "semantic",
    "stages": ["Build", "Test", "Timing"],
    "Test": {"Add Things": {"passed": True}, "Return Values": {"passed": False, "hint": "You need to return 1"}},
    "Build": {"compile": {"passed": True}, "link": {"passed": True}},
    "Timing": {"Stage 1 (ms)": 10, "Stage 2 (ms)": 20},
}


def evidence(output, *, elided=False, head=b"", **more):
    more.setdefault("exit_status", 0)
    return Evidence(None, output=head + output, ending=output, whole=not elided, **more)


def grade(output, **more):
    return autolab.read(evidence(output, **more))


def why_not(output, **more):
    read = grade(output, **more)
    assert read.score is None
    assert read.reason
    assert "\n" not in read.reason
    assert len(read.reason) < 350
    return read.reason


def test_where_make_says_that_it_stops_what_was_said_before_is_told():
    stops = b"make[1]: *** [all] Error 1\n\nmake: *** [Makefile:4: all] Error 2\n"
    assert "; before it: mv: cannot stat" in why_not(b"tar\nmv: cannot stat 'fibo.cpp': No such file\n" + stops)
    assert "; before it: make: ./run.sh: Permission denied" in why_not(b"make: ./run.sh: Permission denied\n" + stops)
    for printed in (stops, b"Segmentation fault\n", b"make: nothing to be done\n", SCORES + b"\n" + stops):
        assert "before it" not in why_not(printed)
    assert len(why_not(b"x" * 10_000 + b"\n" + stops)) < 350


def ids(read):
    return [warning.id for warning in read.warnings]


# --- what the documentation shows -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "score"),
    [
        # https://docs.autolabproject.com/lab/: the Hello Lab, right and wrong, and the examples of an autoresult
        (b'Success: ./hello runs with an exit status of 0\n{"scores": {"Correctness": 100}}\n', 100),
        (b'Failure: Unable to compile hello.c (return status = 2)\n{"scores": {"Correctness": 0}}\n', 0),
        (b'{ "scores": { "Prob1": 10, "Prob2": 5 } }\n', 15),
        (b'{ "scores": { "Prob1": 10, "Prob2": 5 }, "scoreboard": [10, 5, 15] }\n', 15),
        # https://docs.autolabproject.com/features/formatted-feedback/
        (b'{ "scores": { "Correctness": 20, "TA/Design/Readability": 40 } }\n', 60),
        (b'{"_presentation": "semantic"}\n' + SCORES + b"\n", 60),
        (json.dumps(STAGES).encode() + b"\n" + SCORES + b"\n", 60),
        # https://docs.autolabproject.com/features/scoreboards/
        (b'{"scores": {"autograded": 97}, "scoreboard": [97, 128]}', 97),
        # what Autolab's code takes, too: bare keys, blank lines after, other line ends, numbers in strings
        (b"{scores: {Correctness:20, Style: 1.5}}", 21.5),
        (b'one\r\n {"scores": {"a": 1}} \r\n\r\n \t\0\n', 1),
        (b'{"scores": {"a": "7.5", "b": null}}', 7.5),
        (b'{"scores": {"a": 10, "penalty": -3}}', 7),
        (b'{"scores": {"a": 1, "penalty": -3}}', 0),
        (b'{"scores": {"a": -0.0}}', 0),
        ('{"scores": {"Übung 1": 3}}'.encode(), 3),
    ],
)
def test_what_is_well_written_gives_autolabs_score(output, score):
    read = grade(output)
    assert (str(read.score), read.reason, read.warnings) == (str(float(score)), "", ())


def test_problems_are_tests_and_what_was_printed_before_is_feedback():
    read = grade(b"line 1\n\nline 2\n" + SCORES + b"\n", problems=PROBLEMS)
    assert read == Report(
        60.0,
        60.0,
        tests=(
            TestResult(name="Correctness", score=20.0, max_score=20.0),
            TestResult(name="TA/Design/Readability", score=40.0, max_score=40.0),
        ),
        feedback="line 1\n\nline 2",
    )
    assert msgspec.json.decode(msgspec.json.encode(read), type=Report) == read


def test_formatted_feedback_becomes_tests():
    read = grade(b"raw\n" + json.dumps(STAGES).encode() + b"\n" + SCORES)
    assert read.tests[2:] == (
        TestResult(name="Build: compile", status="passed"),
        TestResult(name="Build: link", status="passed"),
        TestResult(name="Test: Add Things", status="passed"),
        TestResult(name="Test: Return Values", status="failed", output="You need to return 1"),
        TestResult(name="Timing: Stage 1 (ms)", output="10"),
        TestResult(name="Timing: Stage 2 (ms)", output="20"),
    )
    assert (read.feedback, read.warnings) == ("raw", ())


def test_a_stage_may_order_its_entries_and_keep_some_to_itself():
    stage = {"_order": ["b", "_x", "a"], "_x": 1, "a": 1, "b": 2, "c": 3}
    line = json.dumps({"_presentation": "semantic", "stages": ["S"], "S": stage}).encode()
    assert [test.name for test in grade(line + b"\n" + SCORES).tests[2:]] == ["S: b", "S: a"]


@pytest.mark.parametrize("passed", [False, None])
def test_what_ruby_takes_for_false_fails(passed):
    line = {"_presentation": "semantic", "stages": ["S"], "S": {"a": {"passed": passed}, "b": {"passed": 0}, "c": {}}}
    tests = grade(json.dumps(line).encode() + b"\n" + SCORES).tests[2:]
    assert [test.status for test in tests] == ["failed", "passed", "failed"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"feedback": "semantic"}',
        b'{"_presentation": "other", "stages": 3}',
        b'"_presentation"',
        json.dumps(STAGES).encode() + b"\n",
    ],
    ids=["none", "other", "string", "a blank line between"],
)
def test_what_is_no_formatted_feedback_is_plain_output(line):
    read = grade(line + b"\n" + SCORES)
    assert (read.score, len(read.tests), read.feedback, read.warnings) == (60.0, 2, line.decode().rstrip(), ())


@pytest.mark.parametrize(
    "line",
    [
        b'{"_presentation": "semantic"',
        b'{"_presentation": "semantic", "stages": 3}',
        b'{"_presentation": "semantic", "stages": ["S"]}',
        b'{"_presentation": "semantic", "stages": [["S"]]}',
        b'{"_presentation": "semantic", "stages": ["S"], "S": [1]}',
        b'{"_presentation": "semantic", "stages": ["S"], "S": {"_order": 1}}',
        b'{"_presentation": "semantic", "stages": ["S"], "S": {"_order": ["a"]}}',
        b'{"_presentation": "semantic", "stages": ["S"], "S": {"_order": [{}]}}',
        b'{"_presentation": "semantic", "stages": ["S"], "S": {"a\\u0000": 1}}',
        b'{"_presentation": "semantic", "stages": ["S"], "S": {"a": "\\ud800"}}',
        b'{"_presentation": "semantic", "stages": ' + json.dumps(["S"] * 10_001).encode() + b', "S": {"a": 1}}',
    ],
)
def test_formatted_feedback_that_cannot_be_read_costs_no_score(line):
    read = grade(line + b"\n" + SCORES)
    assert (read.score, len(read.tests), ids(read)) == (60.0, 2, ["report_part"])
    assert read.feedback == line.decode()


def test_the_scoreboard_is_the_leaderboard_by_column():
    read = grade(b'{"scores": {"a": 97}, "scoreboard": [97, "fast"]}')
    assert read.leaderboard == (LeaderboardEntry("1", 97.0), LeaderboardEntry("2", "fast"))
    for odd in (b"3", b"{}", b"[null]", b"[[1]]", b"[true]", b'["\\u0000"]'):
        read = grade(b'{"scores": {"a": 97}, "scoreboard": ' + odd + b"}")
        assert (read.score, read.leaderboard, ids(read)) == (97.0, (), ["report_part"])


# --- what Autolab refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (b"", "The Autograder returned no output: the last step ended with exit status 0"),
        (b" \n\n\0", "The Autograder returned no output"),
        (
            b"Segmentation fault\n",
            "An error occurred while parsing the autoresult: the last line that was printed has no scores: Segm",
        ),
        (
            SCORES + b"\nmake: *** [Makefile:4: all] Error 1\n",
            "a scores line was found earlier, but it is not the last",
        ),
        (b"{scores: {a:1}}\nbye\n", "a scores line was found earlier, but it is not the last"),
        (SCORES + b" }", "not JSON at line 1, column 62"),
        (b"[]", "it is a list, where an object with scores is due"),
        (b"null", "it is null"),
        (b"{}", "Missing 'scores' object in the autoresult"),
        (b'{"scores": null}', "Missing 'scores' object in the autoresult"),
        (b'{"scores": false}', "Missing 'scores' object in the autoresult"),
        (b'{"scores": {}}', "Empty autoresult string"),
        (b'{"scores": [1]}', "scores: expected an object, got a list"),
        (b'{"scores": {"a": [1]}}', 'scores."a": expected a number, got a list'),
        (b'{"scores": {"a": {}}}', 'scores."a": expected a number, got an object'),
        (b'{"scores": {"a": "NaN"}}', 'scores."a": expected a number, got a string'),
        (b'{"scores": {"a": "1e999"}}', 'scores."a": inf is out of range'),
        (b'{"scores": {"a": " "}}', "no problem has a score"),
        (b'{"scores": {"a": null}}', "no problem has a score"),
        (b'{"scores": {"a": 1e10}}', "1e+10 is out of range"),
        (b'{"scores": {"a": NaN}}', "NaN is no number"),
        (b'{"scores": {"a\\u0000": 1}}', "a string holds a NUL"),
        (b'\xef\xbb\xbf{"scores": {"a": 1}}', "it begins with a byte order mark"),
        (b'{"scores": {my_prob: 1}}', "not JSON"),
        (b"\x1b[2J" * 5000, r"\x1b[2J"),
    ],
)
def test_what_autolab_refuses_is_no_score_with_its_reason(output, words):
    assert words in why_not(output)


@pytest.mark.parametrize(
    "line",
    [b'{"scores": {"a": 1}, "note": "time: 3"}', b'{"scores": {"Part 1: lists": 3}}', b'{"scores": {"12:30": 3}}'],
)
def test_a_string_that_autolabs_quoting_breaks_is_refused_with_a_word_on_it(line):
    json.loads(line)
    assert "Autolab puts quotes around every word before a colon, even in a string" in why_not(line)


@pytest.mark.parametrize(
    ("value", "score"),
    [
        ("true", 1), ("false", 0), ('"5"', 5), ('".5"', 0.5), ('"1e1"', 10), ('" +2.5 of 3"', 2.5), ('"3/4"', 3),
        ('"1_000"', 1000),
        ('"7."', 7), ('"1e"', 1), ('"-1e-1x"', 0), ('"ten"', 0), ('"_1"', 0), ('"\\u0665"', 0),
    ],
)  # fmt: skip
def test_a_score_that_is_no_number_is_what_autolabs_database_makes_of_it(value, score):
    read = grade(b'{"scores": {"a": ' + value.encode() + b"}}")
    assert (read.score, read.warnings) == (score, ())
    mixed = grade(b'{"scores": {"a": ' + value.encode() + b', "b": ""}}')
    assert [test.score for test in mixed.tests][1] is None


def test_what_is_no_utf8_is_left_out_of_the_lines_that_are_read():
    read = grade(
        b"\xffx\n"
        + json.dumps(STAGES).encode()[:-1]
        + b', "\xfe": 1}\n{"scores": {"a\xff": \xc35}, "note": "\xe2\x82"}'
    )
    assert (read.score, read.tests[0].name, read.feedback) == (5.0, "a", "\\xffx")
    assert len(read.tests) > 1


def test_a_name_that_is_not_declared_counts_nothing():
    read = grade(b'{"scores": {"Correctness": 20, "Style": 1}, "scoreboard": [21]}', problems=PROBLEMS)
    assert (read.score, read.max_score, [test.name for test in read.tests]) == (20.0, 60.0, ["Correctness"])
    assert read.leaderboard == ()
    assert ids(read) == ["problem_unknown"]
    said = 'Problems "Style" found in autograder result, but not defined by assessment: they count nothing'
    assert read.warnings[0].message == f"{said}, and the scoreboard was left out"
    odd = grade(b'{"scores": {"Correctness": 20, "Style": [], "a\\u001b": 1}}', problems=PROBLEMS)
    assert (odd.score, odd.warnings[0].message.split(" found")[0]) == (20.0, r'Problems "Style, a\x1b"')
    missing = grade(b'{"scores": {"Correctness": 20}}', problems=PROBLEMS)
    assert (missing.score, missing.max_score, len(missing.tests)) == (20.0, 60.0, 1)


def test_a_report_on_no_problem_that_is_declared_is_refused_with_autolabs_reason():
    assert (
        why_not(b'{"scores": {"correctness": 20}}', problems=PROBLEMS)
        == "An error occurred while parsing the autoresult: "
        'Problems "correctness" found in autograder result, but not defined by assessment'
    )
    assert "no problem has a score" in why_not(b'{"scores": {"Correctness": null, "Style": 1}}', problems=PROBLEMS)


def test_of_a_key_that_stands_twice_the_last_value_counts_as_in_ruby():
    read = grade(b'{"scores": {"a": 1, "b": 2, "a": 100}}')
    assert (read.score, [(test.name, test.score) for test in read.tests]) == (102.0, [("a", 100.0), ("b", 2.0)])
    assert ids(read) == ["key_twice"]
    assert '"a" stands twice' in read.warnings[0].message
    assert grade(b'{"scores": {"a": 1}, "scores": {"a": 5}}').score == 5.0


def test_the_assignments_maximum_stands_above_that_of_the_problems():
    assert grade(SCORES, problems=PROBLEMS, max_score=100.0).max_score == 100.0
    assert grade(SCORES, problems=(*PROBLEMS, ("Style", None))).max_score is None
    assert grade(SCORES).max_score is None


def test_a_total_above_the_maximum_is_none_unless_there_is_bonus():
    line = b'{"scores": {"Correctness": 61}}'
    read = grade(line, problems=PROBLEMS)
    assert (read.score, ids(read)) == (None, ["score_above_max", "test_above_max"])
    assert "61 is above the maximum of 60" in read.reason
    assert grade(line, problems=PROBLEMS, bonus=True) == Report(
        61.0, 60.0, tests=(TestResult(name="Correctness", score=61.0, max_score=20.0),)
    )


@pytest.mark.parametrize(("exit_status", "signal"), [(1, None), (None, 11)])
def test_a_scores_line_beside_a_bad_ending_counts_with_a_warning(exit_status, signal):
    read = grade(SCORES, exit_status=exit_status, signal=signal)
    assert (read.score, ids(read)) == (60.0, ["grader_exit"])


@pytest.mark.parametrize("earlier", [b'{"scores": {"a": 1}}', b" {scores:{a:1}}", b'{"x": 1, "scores" : {'])
def test_a_scores_line_before_the_last_is_a_warning(earlier):
    assert ids(grade(earlier + b"\nmore\n" + SCORES)) == ["score_line_twice"]
    assert ids(grade(earlier + b"\nmore\n" + SCORES, head=b"", elided=False)) == ["score_line_twice"]
    assert ids(grade(b"more\n" + SCORES, head=earlier + b"\n", elided=True)) == ["score_line_twice"]


@pytest.mark.parametrize(
    ("after", "odd"),
    [
        (b"bye", ["score_line_not_last"]),
        (b"bye\nmake: *** [Makefile:4: all] Error 1", ["score_line_not_last"]),
        (b"remake: x", ["score_line_not_last"]),
        (b"make: *** [Makefile:4: all] Error 1\n", []),
        (b"make: *** [Makefile:4: all] Error 1\nmake: bye {}", []),
        (b"bye {}  \nmake: *** [Makefile:4: all] Error 1", []),
        (b"make: *** [Makefile:4: all] Error 1\nbye", ["score_line_not_last"]),
        (b"make[2]: *** [all] Error 1\nmake[1]: *** [all] Error 2\nmake: *** [all] Error 2", []),
    ],
)
def test_a_scores_line_that_more_output_follows_is_a_sign_unless_it_is_make_that_speaks(after, odd):
    read = grade(SCORES + b"\n" + after, exit_status=2)
    assert (read.score, ids(read)) == (None, odd)
    assert "it is not the last line" in read.reason


@pytest.mark.parametrize("other", [b'the scores: {"a"', b'{"_scores": {}}', b'{"scores": 3}', b'{"highscores": {}}'])
def test_other_lines_are_no_scores_lines(other):
    assert grade(other + b"\n" + SCORES).warnings == ()


# --- what is kept of the output ---------------------------------------------------------------------


def test_a_last_line_that_is_cut_is_never_parsed():
    words = "no scores line: the last line is longer than what is kept of the output"
    assert why_not(SCORES, elided=True) == words
    assert why_not(b" \n" * 9, elided=True) == words
    assert why_not(b"", elided=True) == words
    assert grade(b"x\n" + SCORES, elided=True).score == 60.0


def test_formatted_feedback_that_is_cut_is_not_read():
    line = json.dumps(STAGES).encode()
    assert len(grade(line + b"\n" + SCORES, elided=True).tests) == 2
    assert len(grade(b"\n" + line + b"\n" + SCORES, elided=True).tests) == 8


def test_feedback_shows_where_output_was_left_out():
    read = grade(b"b\n" + SCORES, head=b"a", elided=True)
    assert read.feedback == "a\n...[excess bytes elided]...\nb"


def test_feedback_can_be_kept_whatever_the_bytes():
    read = grade(b"\xff\0.\n" + SCORES)
    assert read.feedback == "\\xff\\x00."


# --- whatever the bytes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unit",
    [b"a", b"1", b"{", b"[", b'"', b"a:", b"scores", b'{"scores": {', b"scores ", b"\n", b"{scores:{\n", b"\\", b" "],
)
def test_long_outputs_are_read_in_linear_time(unit):
    def seconds(output):
        start = time.thread_time()
        autolab.read(evidence(output))
        autolab.read(evidence(output + b"\n" + SCORES))
        autolab.read(evidence(b"{" + output))
        return time.thread_time() - start

    short, long = (unit * (size // len(unit)) for size in (16 << 10, 256 << 10))
    quick = max(min(seconds(short) for _ in range(3)), 1e-3)
    # sixteen times as much; quadratic would be 256 times
    assert min(seconds(long) for _ in range(3)) < 100 * quick


@settings(deadline=None)  # other tests share the machine
@given(
    st.binary() | st.text().map(str.encode),
    st.sampled_from([b"", b"\n", b"\n" + SCORES, b'\n{"scores":']),
    st.booleans(),
    st.sampled_from([(), PROBLEMS]),
)
def test_any_bytes_are_read_without_an_exception(output, end, elided, problems):
    read = grade(output + end, elided=elided, problems=problems)
    assert (read.score is None) == bool(read.reason)
    msgspec.json.encode(read)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["scores", "stages", "S", "_order", "passed", "hint", "a"]), inner, max_size=5
        )
    ),
    max_leaves=20,
)


@settings(deadline=None)  # other tests share the machine
@given(
    st.dictionaries(st.sampled_from(["stages", "S", "a", "_scores_order"]), values),
    st.dictionaries(st.sampled_from(["Correctness", "a", "b:", ""]), values),
    values,
    st.none() | st.just(10.0),
    st.booleans(),
)
def test_any_values_are_read_without_an_exception(stages, scores, scoreboard, max_score, bonus):
    lines = [{"_presentation": "semantic", **stages}, {"scores": scores, "scoreboard": scoreboard}]
    output = "\n".join(json.dumps(line) for line in lines).encode()
    read = grade(output, max_score=max_score, bonus=bonus)
    assert (read.score is None) == bool(read.reason)
    assert read.score is None or read.score >= 0
    assert bonus or max_score is None or read.score is None or read.score <= max_score
    assert msgspec.json.decode(msgspec.json.encode(read), type=Report) == read
