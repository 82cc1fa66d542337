"""JUnit XML: what runners write gives the share that passed; what is odd, or could hide a failure, gives none."""

import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitango.job import TestResult
from minitango.results import MAX_REPORT, Evidence, Report, junit
from minitango.results.junit import MAX_DEPTH, MAX_ELEMENTS, MAX_NAME, MAX_OUTPUT

PYTEST = b"""<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" errors="1"
failures="1" skipped="2" tests="5" time="0.04" timestamp="2024-01-01T00:00:00+00:00" hostname="h">
<testcase classname="test_it" name="test_good" time="0.000"><system-out>hello
</system-out></testcase>
<testcase classname="test_it" name="test_bad" time="0.000"><failure message="assert 1 == 2">def test_bad():
&gt;       assert 1 == 2
E       assert 1 == 2</failure></testcase>
<testcase classname="test_it" name="test_skip" time="0.000"><skipped type="pytest.skip" message="not now">x.py:9
</skipped></testcase>
<testcase classname="test_it" name="test_xfail" time="0.000"><skipped type="pytest.xfail" message="" />
</testcase>
<testcase classname="test_it" name="test_setup" time="0.000"><error message="failed on setup">E</error>
</testcase></testsuite></testsuites>"""
SUREFIRE = b"""<?xml version="1.0" encoding="UTF-8"?>
<testsuite xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" version="3.0"
 xsi:noNamespaceSchemaLocation="https://maven.apache.org/surefire/maven-surefire-plugin/xsd/surefire-test-report-3.0.xsd"
 name="edu.ListTest" time="0.05" tests="3" errors="0" skipped="0" failures="1">
  <properties><property name="java.version" value="17"/></properties>
  <testcase name="adds" classname="edu.ListTest" time="0.02"/>
  <testcase name="removes" classname="edu.ListTest" time="0.001">
    <failure message="expected: &lt;1&gt; but was: &lt;2&gt;" type="AssertionFailedError"><![CDATA[at ListTest.java:9]]>
    </failure>
    <rerunFailure message="again" type="AssertionFailedError"><stackTrace>at</stackTrace></rerunFailure>
    <system-err><![CDATA[warned]]></system-err>
  </testcase>
  <testcase name="flaky" classname="edu.ListTest"><flakyFailure message="once" type="x"/></testcase>
</testsuite>"""
GTEST = b"""<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="4" failures="1" disabled="1" errors="0" time="0.035" name="AllTests">
  <testsuite name="MathTest" tests="3" failures="1" disabled="1" errors="0" time="0.015">
    <testcase name="Addition" status="run" result="completed" time="0.007" classname="MathTest">
      <failure message="Value of: add(1, 1)&#x0A;  Actual: 3&#x0A;Expected: 2" type="">...</failure>
    </testcase>
    <testcase name="Subtraction" status="run" result="completed" time="0.005" classname="MathTest"/>
    <testcase name="DISABLED_Root" status="notrun" result="suppressed" time="0" classname="MathTest"/>
  </testsuite>
  <testsuite name="LogicTest" tests="1"><testcase name="And" status="run" classname="LogicTest"/></testsuite>
</testsuites>"""
GOOD = b'<testsuite><testcase name="a"/><testcase name="b"/></testsuite>'


def evidence(*files, names=None, **more):
    more.setdefault("exit_status", 0)
    names = names or [f"{n}.xml" for n in range(len(files))]
    return Evidence(None, reports=tuple(zip(names, files, strict=True)), **more)


def grade(*files, **more):
    return junit.read(evidence(*files, **more))


def why_not(*files, **more):
    read = grade(*files, **more)
    assert read.score is None
    assert read.reason
    assert "\n" not in read.reason
    assert len(read.reason) < 250
    return read.reason


def ids(read):
    return [warning.id for warning in read.warnings]


def suite(*cases):
    return b"<testsuites><testsuite>" + b"".join(cases) + b"</testsuite></testsuites>"


@pytest.mark.parametrize(
    ("report", "passed", "tests"),
    [(PYTEST, 1, 5), (SUREFIRE, 2, 3), (GTEST, 2, 4), (GOOD, 2, 2)],
    ids=["pytest", "surefire", "gtest", "small"],
)
def test_what_runners_write_gives_the_share_that_passed(report, passed, tests):
    read = grade(report, exit_status=0 if passed == tests else 1)
    assert (read.score, read.max_score, len(read.tests)) == (float(passed), float(tests), tests)
    assert (read.reason, read.warnings) == ("", ())
    assert grade(report, max_score=60.0).score == pytest.approx(60 * passed / tests)
    assert msgspec.json.decode(msgspec.json.encode(read), type=Report) == read


def test_a_test_says_its_message_its_text_and_what_it_printed():
    good, bad, skipped, *_ = grade(PYTEST).tests
    assert good == TestResult(name="test_it.test_good", score=1.0, max_score=1.0, status="passed", output="hello")
    assert bad.output == "assert 1 == 2\ndef test_bad():\n>       assert 1 == 2\nE       assert 1 == 2"
    assert skipped == TestResult(
        name="test_it.test_skip", score=0.0, max_score=1.0, status="failed", output="not now\nx.py:9"
    )
    removes = grade(SUREFIRE).tests[1].output
    assert removes.startswith("expected: <1> but was: <2>\nat ListTest.java:9")
    assert removes.endswith("warned")


def test_every_file_counts_even_the_same_one_twice():
    read = grade(GOOD, PYTEST, GOOD)
    assert (read.score, read.max_score) == (5.0, 9.0)


def test_all_that_passed_is_the_whole_maximum_exactly():
    for most in (0.1, 0.3, 7.7, 33.3):
        assert grade(suite(*[b"<testcase/>"] * 3), max_score=most).score == most


@pytest.mark.parametrize(
    "case",
    [
        b"<testcase><failure/></testcase>",
        b"<testcase><error/></testcase>",
        b"<testcase><skipped/></testcase>",
        b'<testcase status="notrun"/>',
        b'<testcase status="run" result="skipped"/>',
        b'<testcase status="FAILED"/>',
        b"<testcase><failure><failure/></failure></testcase>",
        b"<testcase><system-out/><failure><b>x</b></failure></testcase>",
    ],
)
def test_what_failed_or_did_not_run_earns_nothing_and_counts(case):
    read = grade(suite(b"<testcase/>", case), max_score=10.0)
    assert (read.score, read.tests[1].status, read.warnings) == (5.0, "failed", ())


@pytest.mark.parametrize(
    "case",
    [
        b'<testcase status="Passed"/>',
        b'<testcase status="run" result="completed"/>',
        b"<testcase><system-out>&lt;failure/&gt;</system-out></testcase>",
        b"<testcase><system-out><failure/></system-out></testcase>",
        b'<testcase><properties><property name="a"/></properties></testcase>',
    ],
)
def test_what_passed_is_not_failed_by_what_it_printed(case):
    assert grade(suite(case)).score == 1.0


def test_an_unknown_status_has_not_passed_and_is_a_warning():
    read = grade(suite(b'<testcase name="a" status="flown"/>', b'<testcase status="\xc3\xa9"/>', b"<testcase/>"))
    assert (read.score, ids(read)) == (1.0, ["test_status"])
    assert 'a has the status "flown"' in read.warnings[0].message


def test_a_suite_that_says_it_failed_more_than_its_tests_is_a_warning():
    read = grade(b'<testsuites><testsuite name="S" failures="1" errors=" 2 "><testcase/></testsuite></testsuites>')
    assert (read.score, ids(read)) == (1.0, ["test_count"])
    assert "the suite S says: failures and errors: 3, tests that did not pass: 0" in read.warnings[0].message
    assert ids(grade(b"<testsuite><error/><testcase/></testsuite>")) == ["test_count"]
    assert ids(grade(b'<testsuite failures="many" errors="99999999999999999999"><testcase/></testsuite>')) == []


def test_two_files_that_contradict_each_other_are_a_warning():
    good, bad = b'<testcase classname="T" name="a"/>', b'<testcase classname="T" name="a"><failure/></testcase>'
    read = grade(suite(good), suite(bad), names=["x.xml", "y.xml"])
    assert (read.score, ids(read)) == (1.0, ["test_twice"])
    assert read.warnings[0].message == "T.a failed in y.xml, and passed in x.xml"
    assert ids(grade(suite(bad), suite(good))) == ["test_twice"]
    assert ids(grade(suite(good), suite(good))) == [], "TestNG says all twice"
    assert ids(grade(suite(bad, good))) == [], "parametrised tests may share a name"
    assert ids(grade(suite(bad, good), suite(bad))) == []


def test_an_error_exit_is_a_warning_where_no_test_failed():
    assert ids(grade(PYTEST, exit_status=134)) == ["grader_exit"], "a shell's word for SIGABRT"
    assert ids(grade(GOOD, exit_status=2)) == ["grader_exit"]
    assert ids(grade(PYTEST, exit_status=1)) == []
    assert ids(grade(PYTEST, exit_status=None, signal=11)) == ["grader_exit"]


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (b"", "not XML at line 1, column 1: no element found"),
        (b"<testsuite>", "not XML at line 1, column 12: no element found"),
        (GOOD + b"<a/>", "junk after document element"),
        (GOOD[:-1], "not XML"),
        (b"<testsuite><testcase></testsuite>", "mismatched tag"),
        (b"<testsuite>\xff</testsuite>", "not well-formed (invalid token)"),
        (b"<testsuite>\0</testsuite>", "not well-formed (invalid token)"),
        (b"<testsuite>&#xD800;</testsuite>", "reference to invalid character number"),
        (b'<testsuite a="" a=""/>', "duplicate attribute"),
        (b"<testsuite>&x;</testsuite>", "undefined entity"),
        (b"<html><testcase/></html>", "its root is <html>, not <testsuites> or <testsuite>"),
        (b"<testcase/>", "its root is <testcase>"),
        (b"<!DOCTYPE testsuite><testsuite/>", "it has a document type"),
        (b'<!DOCTYPE t SYSTEM "file:///etc/passwd"><testsuite/>', "it has a document type"),
        (b'<!DOCTYPE t [<!ENTITY a "aaaa">]><testsuite><testcase name="&a;"/></testsuite>', "it has a document type"),
        (suite(b"<testcase><testcase/></testcase>"), "a <testcase> in a <testcase>"),
        (suite(b"<testcase><system-out><testcase/></system-out></testcase>"), "a <testcase> in a <system-out>"),
        (suite(b"<properties><testsuite/></properties>"), "a <testsuite> in a <properties>"),
        (b'<?xml version="1.0" encoding="utf-7"?><testsuite/>', 'its encoding "utf-7" is none of utf-8'),
        (b'<?xml version="1.0" encoding="rot13"?><testsuite/>', 'its encoding "rot13" is none of'),
        (b'<?xml version="1.0" encoding="utf-16"?><testsuite/>', "not XML"),
        (b"<testsuite>" * (MAX_DEPTH + 1), "it is nested deeper than 64 levels"),
        (suite(b"<a/>" * MAX_ELEMENTS), "more than 200,000 elements"),
        (suite(b"<testcase/>" * 10_001), "more than 10,000 tests"),
    ],
)
def test_what_is_odd_is_no_score_and_the_file_is_named(report, words):
    why = why_not(GOOD, report, names=["a.xml", "sub/b.xml"])
    assert why.startswith("the report sub/b.xml cannot be used: ")
    assert words in why


@pytest.mark.parametrize(
    "head", [b"", b"\xef\xbb\xbf", b'<?xml version="1.0" encoding="ISO-8859-1"?>', b"<?xml version='1.0'?><!-- x -->"]
)
def test_usual_beginnings_are_read(head):
    assert grade(head + GOOD).score == 2.0


def test_other_encodings_are_decoded():
    declared = b"<?xml version='1.0' encoding='windows-1252'?>"
    assert grade(declared + b"<testsuite><testcase name='\x80'/></testsuite>").tests[0].name == "€"
    text = "<?xml version='1.0' encoding='utf-16'?><testsuite><testcase name='é'/></testsuite>"
    assert grade(text.encode("utf-16")).tests[0].name == "é"


def test_no_test_is_no_score():
    assert why_not(b"<testsuites/>") == "no test is in the report: the last step ended with exit status 0"
    assert why_not(exit_status=3) == "no report: the last step ended with exit status 3 and left no *.xml"
    assert why_not(exit_status=None, signal=11).startswith("no report: the last step was killed by SIGSEGV")


def test_bounds_hold_for_all_files_together():
    assert "larger than 8 MiB" in why_not(GOOD.ljust(MAX_REPORT - 10), GOOD)
    assert "more than 10,000 tests" in why_not(*[suite(b"<testcase/>" * 6000)] * 2)
    assert "more than 200,000 elements" in why_not(*[suite(b"<testcase/>", b"<a/>" * 120_000)] * 2)


def test_what_a_test_says_is_bounded():
    case = b"<testcase name='%s'><failure message='%s'>%s</failure></testcase>" % ((b"a" * 20_000,) * 3)
    (test,) = grade(suite(case)).tests
    assert len(test.output) == MAX_OUTPUT + 3
    assert test.output.endswith("a\n...")
    assert test.name == "a" * MAX_NAME + "..."


@pytest.mark.parametrize(
    "bomb",
    [
        b"<testsuite>" + b"<a>" * (MAX_REPORT // 4),
        b"<testsuite>" + b"<a/>" * (MAX_REPORT // 5),
        b"<testsuite " + b" ".join(b'a%d=""' % n for n in range(500_000)) + b"/>",
        b"<testsuite a='" + b"a" * (MAX_REPORT - 100) + b"'/>",
        b"<testsuite><testcase><failure>" + b"&lt;" * (MAX_REPORT // 5),
        b"<testsuite><testcase><failure>" + b"<![CDATA[]]>" * (MAX_REPORT // 13),
        b"<testsuite><testcase><failure>" + b"<!---->" * (MAX_REPORT // 8),
        b"<testsuite><testcase><failure>" + b"\n" * (MAX_REPORT - 100),
        b"<" * MAX_REPORT,
        b"<" + b"a" * (MAX_REPORT - 1),
        b"<testsuite><!--" + b"-" * (MAX_REPORT - 100),
        b"<?" * (MAX_REPORT // 2),
    ],
    ids=[
        "open",
        "many",
        "attributes",
        "one attribute",
        "entities",
        "sections",
        "comments",
        "lines",
        "less",
        "one name",
        "hyphens",
        "instructions",
    ],
)
def test_bombs_are_refused_and_take_little_memory(bomb):
    assert len(bomb) <= MAX_REPORT
    tracemalloc.start()
    try:
        assert why_not(bomb)
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()


@settings(deadline=None)  # other tests share the machine
@given(st.lists(st.binary() | st.text().map(str.encode), max_size=3))
def test_any_bytes_are_read_without_an_exception(reports):
    read = grade(*reports)
    assert read.score is None
    assert read.reason


@settings(deadline=None)  # other tests share the machine
@given(st.sampled_from([PYTEST, SUREFIRE, GTEST]), st.data())
def test_a_mutated_report_is_read_without_an_exception(report, data):
    changed = bytearray(report)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 12))] = data.draw(
            st.binary(max_size=4)
            | st.sampled_from(
                [b"<testcase/>", b"</testcase>", b"<failure>", b"<!DOCTYPE a>", b"&a;", b"]]>", b"<![CDATA["]
            )
        )
    read = grade(bytes(changed), max_score=10.0)
    assert (read.score is None) == bool(read.reason)
    assert read.score is None or 0 <= read.score <= 10
    assert msgspec.json.decode(msgspec.json.encode(read), type=Report) == read


trees = st.recursive(
    st.sampled_from(["<failure/>", "<skipped/>", "<testcase/>", "text", '<testcase status="run"/>']),
    lambda inner: st.builds(
        lambda name, children: f"<{name}>{''.join(children)}</{name}>",
        st.sampled_from(["testsuite", "testsuites", "testcase", "failure", "system-out", "a"]),
        st.lists(inner, max_size=4),
    ),
    max_leaves=12,
)


@settings(deadline=None)  # other tests share the machine
@given(trees)
def test_any_tree_of_the_known_elements_is_read_without_an_exception(tree):
    read = grade(tree.encode())
    assert (read.score is None) == bool(read.reason)
    assert read.score is None or read.score == sum(test.status == "passed" for test in read.tests)


@pytest.mark.parametrize(
    "case",
    [b"<testcase><x:failure xmlns:x='y'/></testcase>", b"<testcase><foo><failure/></foo></testcase>"],
)
def test_a_failure_is_one_whatever_its_prefix_and_place(case: bytes) -> None:
    report = junit.read(Evidence(None, 0, reports=(("a.xml", b"<testsuite>" + case + b"</testsuite>"),)))
    assert (report.score, report.max_score) == (0, 1)


def test_a_suite_that_says_more_tests_than_it_has_is_warned_of() -> None:
    data = b'<testsuites tests="3"><testsuite tests="3"><testcase/></testsuite></testsuites>'
    report = junit.read(Evidence(None, 0, reports=(("a.xml", data),)))
    assert [notice.id for notice in report.warnings] == ["test_count"]
    whole = data.replace(b"3", b"1")
    assert junit.read(Evidence(None, 0, reports=(("a.xml", whole),))).warnings == ()
