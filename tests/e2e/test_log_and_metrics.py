"""`minitango worker --log json --metrics`: each line an object, whatever students are called; and numbers to scrape."""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from minitango.cli.journal import LEVELS, JsonJournal
from minitango.errors import StoreError
from minitango.job import Job, State
from minitango.text import one_line
from tests.e2e.conftest import CommandLine, eventually

EVIL = 'eve"\n{"level":"x"}\x1b[2J\u2028\u202e\x9b'


def lines(text: str) -> list[dict[str, Any]]:
    assert text.isascii()
    return [json.loads(line) for line in text.splitlines()]


def test_no_name_breaks_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    job = Job("0123456789", 1, State.DEAD, EVIL, EVIL, "s", "i")
    with JsonJournal() as journal:
        journal.node = EVIL
        journal.event("dead", "error", EVIL * 1000, job)
        logging.getLogger("minitango").warning("%s", EVIL)
        assert journal.failed(StoreError(EVIL, hint=EVIL, id="store_io")) == 3
    said = lines(capsys.readouterr().err)
    assert [line["level"] for line in said] == ["error", "warning", "critical"]
    assert (said[0]["student"], said[0]["assignment"], said[0]["node"]) == (EVIL, EVIL, EVIL)
    assert len(said[0]["message"]) == 4000
    assert said[1]["message"] == one_line(EVIL), "what is logged is one line before it comes here"
    assert (said[2]["error"], said[2]["next"]) == ("store_io", EVIL)
    logging.getLogger("minitango").warning("afterwards as ever")
    assert "{" not in capsys.readouterr().err


def test_every_event_has_a_level() -> None:
    from typing import get_args

    from minitango.events import EventKind

    assert set(LEVELS) == set(get_args(EventKind))


@pytest.mark.usefixtures("sandbox")
def test_a_worker_for_programs(cli: CommandLine, hw: Path, handins: Path) -> None:
    (handins / "eve.txt").rename(handins / '"},{\u202e.txt')
    env = {"MINITANGO_SANDBOX": "bubblewrap"}
    worker = cli.start("worker", "--log", "json", "--metrics", "127.0.0.1:0", "--verbose", env=env)
    assert cli("submit", hw, handins, env=env).code == 0

    def said() -> list[dict[str, Any]]:
        whole = (cli.folder / "err0").read_bytes().rpartition(b"\n")[0].decode()
        return lines(whole)

    eventually(lambda: sum(line["event"] == "done" for line in said()) == 3, "it is not graded, or not told")
    (at,) = [line["message"].split()[-1] for line in said() if line["event"] == "metrics"]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", at)
    text = urllib.request.urlopen(at, timeout=10).read().decode()
    assert 'minitango_outcomes_total{outcome="graded"} 3.0' in text
    assert 'minitango_jobs{state="done"} 3.0' in text
    assert "minitango_sandbox_start_seconds_count 3.0" in text
    worker.send_signal(signal.SIGTERM)
    answer = cli.answer(worker)
    assert (answer.code, answer.out) == (0, "")
    done = [line for line in said() if line["event"] == "done"]
    assert {line["student"] for line in done} == {"ada", "bob", r'"},{\u202e'}
    for line in done:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert (line["level"], line["state"], line["outcome"], line["attempt"]) == ("info", "done", "graded", 1)
        assert line["assignment"] == "hw"
        assert line["node"]
    assert {"ready", "limits", "started"} <= {line["event"] for line in said()}


def test_what_stops_it_is_a_line_too(cli: CommandLine) -> None:
    (cli.folder / ".minitango").write_text("")
    answer = cli("worker", "--log", "json")
    (line,) = lines(answer.err)
    assert (answer.code, line["event"], line["level"], line["error"]) == (3, "failed", "critical", "state")
    assert "error[state]" in cli("worker").err
    (line,) = lines(cli("worker", "--log", "json", "--metrics", "nowhere").err)
    assert line["error"] == "metrics"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--log", "json", "--workers", "abc"), "'abc' is not a whole number"),
        (("--workers", "abc", "--log=json"), "'abc' is not a whole number"),
        (("--nonsense", "--log", "json"), "no such option"),
        (("--log", "json", "word"), "unexpected extra argument"),
        (("--log", "json", "--capability", "a b"), "'a b' cannot be what a node offers"),
        (("--grace", "x", "--log", "text", "--log", "json"), "'x' is not a number of seconds"),
    ],
)
def test_a_mistake_in_its_command_line_is_a_line_too(cli: CommandLine, words: tuple[str, ...], said: str) -> None:
    answer = cli("worker", *words)
    (line,) = lines(answer.err)
    assert (answer.code, answer.out, line["event"], line["level"]) == (2, "", "failed", "critical")
    assert line["error"] in ("usage", "label")
    assert said in line["message"]
    assert (bool(line["next"]), bool(line["node"])) == (True, True)
    assert cli("worker", *(word for word in words if "json" not in word and "log" not in word)).err.startswith("error[")


def test_a_mistake_of_ours_is_a_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from minitango.cli import _main, worker

    def broken(*_: object, **__: object) -> int:
        raise ZeroDivisionError("so it is" + "\n" * 5000)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules[worker.callback.__module__], "_work", broken)
    assert _main(["worker", "--log", "json"]) == 70
    (line,) = lines(capsys.readouterr().err)
    assert (line["event"], line["error"], line["next"]) == ("failed", "internal", "please report it")
    assert "ZeroDivisionError" in line["message"]
    assert _main(["worker"]) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.usefixtures("sandbox")
def test_every_line_names_the_node_from_the_first_on(cli: CommandLine, hw: Path, handins: Path) -> None:
    (handins / "ada.txt").write_text("wait 20\n")
    worker = ("worker", "--log", "json", "--quiet")
    env = {"MINITANGO_SANDBOX": "bubblewrap"}
    assert cli("submit", hw, handins, env=env).code == 0
    first = cli.start(*worker, env=env)
    eventually(lambda: any(job["state"] == "running" for job in cli("jobs", "--json").jobs), "it begins nothing")
    first.kill()
    first.wait()
    (name,) = [node["name"] for node in json.loads(cli("nodes", "--json").out)["nodes"]]
    second = cli.start(*worker, env=env)
    err = cli.folder / "err1"
    eventually(lambda: b"recovered" in err.read_bytes().rpartition(b"\n")[0], "it takes nothing back")
    second.kill()
    second.wait()
    said = lines(err.read_bytes().rpartition(b"\n")[0].decode())
    assert said[0]["event"] == "recovered"
    assert {line["node"] for line in said} == {name}
    (line,) = lines(cli("worker", "--log", "json", "--name", "lab-3", "--require", "x").err)
    assert (line["event"], bool(line["node"])) == ("failed", True), "of what cannot even be read, the machine's"
    (cli.folder / "file").write_text("")
    (line,) = lines(cli("worker", "--log", "json", "--name", "lab-3", "--state", "file").err)
    assert (line["error"], line["node"]) == ("state", "lab-3")
