"""Autolab's scores line, the last line that an autograder prints -> Report.

`{"scores": {"Correctness": 20}, "scoreboard": [20, 3]}`, and before it, if it likes, a line of formatted feedback. As
its documentation has it (https://docs.autolabproject.com/lab/#writing-autograders,
https://docs.autolabproject.com/features/formatted-feedback/), and read as its code reads it:
https://github.com/autolab/Autolab/blob/master/app/helpers/assessment_autograde_core.rb (`saveAutograde`,
`parseAutoresult`), app/controllers/assessments_controller.rb (`parseFeedback`), app/models/submission.rb (`raw_score`).
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from minitango.job import LeaderboardEntry, Notice, TestResult
from minitango.results import Evidence, Report
from minitango.results.fields import MAX_ITEMS, kind_of, text_of
from minitango.results.points import MAX_POINTS, bad_ending, tests_above, within
from minitango.results.strict_json import Refused, parse
from minitango.text import ending, one_line

BLANK: Final = b"\0\t\n\v\f\r "
"""What Ruby's `rstrip` takes away."""

# Autolab: gsub(/([a-zA-Z0-9]+):/, '"\1":'). Here in linear time: a run of letters is looked at once, from its start.
_BARE_KEY: Final = re.compile(rb"(?<![a-zA-Z0-9])([a-zA-Z0-9]++):")
_SCORES_LINE: Final = re.compile(rb'^[^\S\n]*+\{[^\n]*?(?<![a-zA-Z0-9_])scores"?[^\S\n]*+:[^\S\n]*+\{', re.MULTILINE)
_OF_MAKE: Final = re.compile(rb"make(?:\[[0-9]++\])?: [^\n]*+")
"""A line that make itself says of a driver that exits with an error."""
_MAKE_STOPS: Final = re.compile(rb"make(?:\[[0-9]++\])?: \*\*\* ")
_NEAR: Final = 4096
"""Bytes at the end in which it is looked for what was said before that."""
# What Ruby's `to_f` takes of a string.
_DIGITS: Final = "[0-9]++(?:_[0-9]++)*+"
_NUMBER: Final = re.compile(rf"[ \t\n\v\f\r]*+[+-]?(?:{_DIGITS}(?:\.{_DIGITS})?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?")
_NO_NUMBERS: Final = ("NaN", "Infinity", "-Infinity")
_ELIDED: Final = b"\n...[excess bytes elided]...\n"


def read(evidence: Evidence) -> Report:
    """The sum of the problems' scores, or None with the reason. Never raises, whatever was printed.

    The last line that is not blank must be a scores line, whole; how the step ended is only a warning, as on Autolab. A
    problem's score may be above its own maximum, or below 0; a total below 0 is 0. Of a key that stands twice the last
    value counts, as Ruby's reader has it. Where problems are declared, those that are not named count 0, and a name
    that is none of theirs counts nothing: Autolab saves the others' scores and then stops, before it has taken the
    scoreboard. Where it has none of theirs, there is no score. The maximum is the assignment's, else the sum of the
    problems' if each has one. A total above it without `bonus` is no score.
    """
    printed = evidence.ending.rstrip(BLANK)
    start = printed.rfind(b"\n") + 1
    line, before = _sent(printed[start:]), printed[:start]
    warnings: list[Notice] = []
    most = _maximum(evidence)
    if not line and evidence.whole:
        how = ending(evidence.exit_status, evidence.signal)
        return Report(None, most, f"The Autograder returned no output: the last step {how}")
    if not evidence.whole and not start:
        return Report(None, most, "no scores line: the last line is longer than what is kept of the output")
    try:
        scores, scoreboard = _autoresult(line, warnings)
        problems, unknown = _problems(scores, evidence)
    except Refused as refused:
        reason = f"An error occurred while parsing the autoresult: {refused}"
        if not _SCORES_LINE.search(before):
            reason += _before_make(printed)
        else:
            text = "a scores line was found earlier, but it is not the last line"
            reason += f"; {text}"
            if not _is_ended_by_make(printed):
                warnings.append(Notice("score_line_not_last", text))
        return Report(None, most, reason, warnings=tuple(warnings))

    # whatever its scores are: the hand-in prints there, too, and can end the grader after it did
    warnings += bad_ending(evidence.exit_status, evidence.signal, "a scores line", tests=())
    if unknown:
        left = "" if scoreboard is None else ", and the scoreboard was left out"
        warnings.append(Notice("problem_unknown", f"{_not_defined(unknown)}: they count nothing{left}"))
        scoreboard = None
    tests, before = _presentation(before, evidence.whole, warnings)
    if not evidence.whole:
        before = evidence.output[: -len(evidence.ending)] + _ELIDED + before
    if _SCORES_LINE.search(before):
        text = "more than one scores line was printed, and the last one counts: the hand-in may have printed one"
        warnings.append(Notice("score_line_twice", text))
    total = max(math.fsum(problem.score for problem in problems if problem.score is not None), 0.0)
    score, reason = within(total, most, evidence.bonus)
    if score is None:
        warnings.append(Notice("score_above_max", reason))
    if not evidence.bonus:
        warnings += tests_above(problems)
    return Report(
        score=score,
        max_score=most,
        reason=reason,
        tests=(*problems, *tests),
        feedback=before.rstrip(BLANK).decode("utf-8", "backslashreplace").replace("\0", "\\x00"),
        leaderboard=_leaderboard(scoreboard, warnings),
        warnings=tuple(warnings),
    )


def _maximum(evidence: Evidence) -> float | None:
    if evidence.max_score is not None:
        return evidence.max_score
    maxima = [most for _, most in evidence.problems if most is not None]
    return math.fsum(maxima) if maxima and len(maxima) == len(evidence.problems) else None


def _sent(line: bytes) -> bytes:
    """Autolab's worker leaves out what is no UTF-8."""
    return line.decode("utf-8", "ignore").encode()


def _is_ended_by_make(printed: bytes) -> bool:
    """Whether nothing but make's own lines follows a line that may have scores. Each line is looked at once."""
    end = len(printed)
    while (start := printed.rfind(b"\n", 0, end)) >= 0 and _OF_MAKE.fullmatch(printed, start + 1, end):
        above = printed.rfind(b"\n", 0, start) + 1
        if printed[above:start].rstrip(b"\t\v\f\r ").endswith(b"}"):
            return True
        end = start
    return False


# --- the scores line -------------------------------------------------------------------------------


def _autoresult(line: bytes, warnings: list[Notice]) -> tuple[dict[str, Any], Any]:
    """The scores by problem, and the scoreboard as it stands."""
    quoted = _BARE_KEY.sub(rb'"\1":', line)
    repeated: list[str] = []
    try:
        value = parse(quoted, mark=False, repeated=repeated)
    except Refused as refused:
        if quoted != line and _is_json(line):
            broken = next(_BARE_KEY.finditer(line))[0]
            text = f"Autolab puts quotes around every word before a colon, even in a string: {one_line(broken, 40)}"
            raise Refused(f"{text} is broken by it") from None
        if b"{" not in line[:8]:
            raise Refused(f"the last line that was printed has no scores: {one_line(line, 80)}") from None
        raise Refused(str(refused)) from None
    if not isinstance(value, dict):
        raise Refused(f"it is {kind_of(value)}, where an object with scores is due")
    scores = value.get("scores")
    if scores is None or scores is False:
        raise Refused("Missing 'scores' object in the autoresult")
    if not isinstance(scores, dict):
        raise Refused(f"scores: expected an object, got {kind_of(scores)}")
    if not scores:
        raise Refused("Empty autoresult string")
    if len(scores) > MAX_ITEMS:
        raise Refused(f"scores: {len(scores):,} problems, at most {MAX_ITEMS:,}")
    if repeated:
        text = f'the key "{one_line(repeated[0], 40)}" stands twice in the scores line, and the last value counts'
        warnings.append(Notice("key_twice", text))
    return scores, value.get("scoreboard")


def _before_make(printed: bytes) -> str:
    """What was printed before make said that it stops, which hardly ever says why."""
    lines = [line for line in printed[-_NEAR:].split(b"\n") if line.strip()]
    said = next((line for line in reversed(lines) if not _MAKE_STOPS.match(line)), b"")
    return f"; before it: {one_line(said.decode('utf-8', 'replace'), 80)}" if said and said != lines[-1] else ""


def _is_json(line: bytes) -> bool:
    try:
        parse(line)
    except Refused:
        return False
    return True


def _problem(name: str, value: Any, most: float | None) -> TestResult:
    """One problem. null leaves the problem ungraded."""
    place = f'scores."{one_line(name, 40)}"'
    text_of(place, name)
    value = _cast(value)
    if value is not None and not isinstance(value, int | float):
        raise Refused(f"{place}: expected a number, got {kind_of(value)}")
    if value is not None and abs(value) > MAX_POINTS:
        raise Refused(f"{place}: {value:g} is out of range")
    return TestResult(name=name, score=None if value is None else float(value), max_score=most)


def _cast(value: Any) -> Any:
    """As Autolab's database has it, of floats: true is 1, a blank string nothing, and of another string counts the
    number that it begins with, else 0."""
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, str) or value in _NO_NUMBERS:
        return value
    found = _NUMBER.match(value)
    return (float(found[0].replace("_", "")) if found else 0.0) if value.strip() else None


def _problems(scores: dict[str, Any], evidence: Evidence) -> tuple[tuple[TestResult, ...], list[str]]:
    """The problems, and the names that are none of those that are declared. Refused where nothing is scored."""
    maxima = dict(evidence.problems)
    unknown = [name for name in scores if maxima and name not in maxima]
    if len(unknown) == len(scores):
        raise Refused(_not_defined(unknown))
    known = {name: value for name, value in scores.items() if not maxima or name in maxima}
    if all(_cast(value) is None for value in known.values()):
        raise Refused("scores: no problem has a score")
    return tuple(_problem(name, value, maxima.get(name)) for name, value in known.items()), unknown


def _not_defined(names: list[str]) -> str:
    listed = ", ".join(one_line(name, 40) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return f'Problems "{listed}" found in autograder result, but not defined by assessment'


def _leaderboard(scoreboard: Any, warnings: list[Notice]) -> tuple[LeaderboardEntry, ...]:
    """Its columns by number: their names are not in the report."""
    if scoreboard is None:
        return ()
    try:
        return tuple(LeaderboardEntry(f"{n}", value) for n, value in enumerate(_columns(scoreboard), 1))
    except Refused as refused:
        warnings.append(Notice("report_part", f"the scoreboard was left out: {refused}"))
        return ()


def _columns(scoreboard: Any) -> list[float | str]:
    if not isinstance(scoreboard, list):
        raise Refused(f"expected a list, got {kind_of(scoreboard)}")
    if len(scoreboard) > MAX_ITEMS:
        raise Refused(f"{len(scoreboard):,} columns, at most {MAX_ITEMS:,}")
    return [_cell(f"[{index}]", value) for index, value in enumerate(scoreboard)]


def _cell(place: str, value: Any) -> float | str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return text_of(place, value)


# --- formatted feedback ----------------------------------------------------------------------------


def _presentation(before: bytes, whole: bool, warnings: list[Notice]) -> tuple[list[TestResult], bytes]:
    """The stages of the line right before the scores line, and what was printed before that.

    Where that line is none, or none that can be read, there are no stages and it stays with the rest.
    """
    above = before[:-1]
    start = above.rfind(b"\n") + 1
    line = above[start:]
    if b'"_presentation"' not in line or (not whole and not start):
        return [], before
    try:
        value = parse(_sent(line))
        if not isinstance(value, dict) or value.get("_presentation") != "semantic":
            return [], before
        return _stages(value), above[:start]
    except Refused as refused:
        text = f"the formatted feedback before the scores line was left out: {refused}"
        warnings.append(Notice("report_part", text))
        return [], before


def _stages(value: dict[str, Any]) -> list[TestResult]:
    """Each stage's tests; of a stage that has none, its values, for information."""
    stages = value.get("stages", [])
    if not isinstance(stages, list):
        raise Refused(f"stages: expected a list, got {kind_of(stages)}")
    found: list[TestResult] = []
    for name in stages:
        stage = value.get(text_of("stages", name))
        if not isinstance(stage, dict):
            raise Refused(f'the stage "{one_line(name, 40)}": expected an object, got {kind_of(stage)}')
        entries = {key: entry for key, entry in stage.items() if not key.startswith("_")}
        tests = all(isinstance(entry, dict) for entry in entries.values())
        order = stage.get("_order", list(stage))
        if not isinstance(order, list) or len(found) + len(order) > MAX_ITEMS:
            raise Refused(f'the stage "{one_line(name, 40)}": its _order is no list, or a long one')
        for key in order:
            if text_of("_order", key).startswith("_"):
                continue
            if key not in entries:
                raise Refused(f'the stage "{one_line(name, 40)}" has no "{one_line(key, 40)}"')
            found.append(_stage_entry(f"{name}: {key}", entries[key], tests))
    return found


def _stage_entry(name: str, entry: Any, test: bool) -> TestResult:
    """A test passes by what Ruby takes for true; its hint is for those who failed it."""
    if not test:
        return TestResult(name=name, output=_shown(entry))
    passed = entry.get("passed") is not None and entry["passed"] is not False
    hint = entry.get("hint")
    return TestResult(
        name=name,
        status="passed" if passed else "failed",
        output="" if passed or hint is None else _shown(hint),
    )


def _shown(value: Any) -> str:
    return text_of("a value", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
