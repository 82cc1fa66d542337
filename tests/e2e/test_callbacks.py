"""Callbacks, as they are typed: given, sent, failed, looked at, asked for again, and spared by a prune."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from pathlib import Path

import pytest

from tests.e2e.conftest import CommandLine, eventually
from tests.receiver import OK, answer, receiving

pytestmark = pytest.mark.usefixtures("sandbox")


def test_from_submit_to_delivery(cli: CommandLine, hw: Path, handins: Path) -> None:
    """The receiver fails at first, for good: it is given up, listed, told of, and asked for."""
    with receiving(lambda connection, request: answer(404)) as receiver:
        private = cli("submit", hw, handins, "--callback", receiver.url())
        assert private.code == 2
        assert "error[callback_url]" in private.err
        assert "for who submits and for every worker: --callback-allow 127.0.0.1" in private.err
        env = {"MINITANGO_CALLBACK_ALLOW": "127.0.0.1", "MINITANGO_CALLBACK_SECRET": "hush"}
        submitted = cli("submit", hw, handins, "--callback", receiver.url("/graded?x=1"), "--json", env=env)
        assert submitted.code == 0, submitted
        ids = [job["id"] for job in submitted.jobs]
        assert "its callback: http://127.0.0.1" in cli("jobs", "show", ids[0]).out
        worker = cli.start("worker", "--callback-allow", "127.0.0.1", env={"MINITANGO_CALLBACK_SECRET": "hush"})
        eventually(lambda: len(cli("jobs", "list", "--delivery", "undelivered", "--json").jobs) == 3, "not given up")
        told = cli("jobs", "show", ids[0])
        assert "its callback: NOT DELIVERED to http://127.0.0.1" in told.out
        assert "after 1 try: http://127.0.0.1" in told.out
        assert "status 404" in told.out
        assert f"minitango jobs redeliver {ids[0]}" in told.out
        assert len(receiver.requests) == 3

        receiver.behave = lambda connection, request: OK
        again = cli("jobs", "redeliver", *ids)
        assert again.code == 0, again
        assert again.out.splitlines() == [
            f"{job} is to be delivered to http://127.0.0.1:{receiver.port}" for job in ids
        ]
        eventually(lambda: len(cli("jobs", "list", "--delivery", "delivered", "--json").jobs) == 3, "not delivered")
        story = cli("jobs", "show", ids[0], "--json").jobs[0]
        assert (story["callback"]["url"], story["callback"]["delivery"]) == (receiver.url("/graded?x=1"), "delivered")
        story = cli("jobs", "show", ids[0]).out
        assert re.search(
            r"its callback: delivered to \S+ at [0-9: -]+, after 1 try since it was asked for anew at ", story
        )

        sent = {request.key: request for request in receiver.requests[3:]}
        assert sorted(sent) == sorted(ids)
        scores = {request.job["student"]: request.job["score"] for request in sent.values()}
        assert scores == {"ada": 10, "bob": 10, "eve": 0}
        request = sent[ids[0]]
        signature = hmac.new(b"hush", request.body, hashlib.sha256).hexdigest()
        assert request.headers["x-minitango-signature"] == f"sha256={signature}"
        assert "origin" not in request.job["labels"], "where files are here is nobody's business"
        worker.terminate()
        ended = cli.answer(worker)
        assert ended.code == 0
        assert f"the callback of job {ids[0]} is given up" in ended.err


def test_what_is_to_be_delivered_is_not_pruned(cli: CommandLine, hw: Path, handins: Path) -> None:
    env = {"MINITANGO_CALLBACK_ALLOW": "127.0.0.1"}
    url = "http://127.0.0.1:1/"
    ids = [job["id"] for job in cli("submit", hw, handins, "--callback", url, "--json", env=env).jobs]
    assert cli("jobs", "cancel", *ids).code == 0
    assert len(cli("jobs", "list", "--delivery", "pending", "--json").jobs) == 3
    for more in ((), ("--dry-run",)):
        kept = cli("prune", "--older-than", "0s", *more)
        assert kept.out.startswith(("removed 0 jobs", "would remove 0 jobs")), kept
        assert "3 jobs stay, as their results are still to be delivered" in kept.err
        assert "minitango jobs list --delivery pending" in kept.err
    gone = cli("prune", "--student", "eve", "--yes", "--json")
    assert json.loads(gone.out)["removed"]["jobs"] == 1, "who asks for a student's end means it"
    assert len(cli("jobs", "list", "--json").jobs) == 2


def test_what_cannot_be_delivered_anew(cli: CommandLine, hw: Path, handins: Path) -> None:
    (job, *_) = cli("submit", hw, handins, "--json").jobs
    answer = cli("jobs", "redeliver", job["id"])
    assert answer.code == 2
    assert "error[no_callback]" in answer.err
    again = cli("submit", hw, handins, "--callback", "https://lms.example/x?key=1")
    assert "nothing is sent to https://lms.example for 3 of 3 hand-ins" in again.err
    assert "jobs of them from before, which have no callback; next: --fresh grades them anew" in again.err
    assert "key=1" not in again.err
    assert cli("submit", hw, handins, "--callback", "ftp://lms.example/x").code == 2


def test_a_run_sends_what_an_earlier_submit_asked_for(cli: CommandLine, hw: Path, handins: Path) -> None:
    with receiving() as receiver:
        env = {"MINITANGO_CALLBACK_ALLOW": "127.0.0.1"}
        assert cli("submit", hw, handins, "--callback", receiver.url(), env=env).code == 0
        ran = cli("run", hw, handins, "--callback-allow", "127.0.0.1")
        assert ran.code == 0, ran
        assert len(receiver.requests) == 3, "it ended when all were told"


def test_what_is_not_sent_is_said_at_submit(cli: CommandLine, hw: Path, handins: Path) -> None:
    """Jobs from before keep to their own callback, or were told of already."""
    (handins / "eve.txt").unlink()
    with receiving() as receiver:
        allow = ("--callback-allow", "127.0.0.1")
        given = ("--callback", receiver.url("/x"), *allow)
        ids = [job["id"] for job in cli("submit", hw, handins, *given, "--json").jobs]
        same = cli("submit", hw, handins, *given)
        assert "nothing is sent" not in same.err
        assert "not told again" not in same.err, "it will be told yet"
        assert f"the worker, which has to allow it, too: minitango worker {' '.join(allow)}" in same.err
        other = cli(
            "submit", hw, handins, "--callback", receiver.url("/y"), env={"MINITANGO_CALLBACK_ALLOW": "127.0.0.1"}
        )
        assert "for 2 of 2 hand-ins: there are jobs of them from before, which keep their own callbacks" in other.err
        assert "has to allow it" not in other.err, "a variable may well be the worker's, too"
        assert cli("run", hw, handins, *allow).code == 0
        again = cli("submit", hw, handins, *given)
        assert f"2 of 2 hand-ins ended before, and {receiver.url('').rstrip('/')} is not told again" in again.err
        assert f"minitango jobs redeliver {ids[0]} ..." in again.err
        assert len(receiver.requests) == 2


def test_a_worker_that_was_not_told_of_the_host_says_what_it_lacks(cli: CommandLine, hw: Path, handins: Path) -> None:
    answers = [answer(503, "Retry-After: 0"), OK]
    with receiving(lambda connection, request: answers.pop(0)) as receiver:
        (job,) = cli(
            "submit", hw, handins / "ada.txt", "--callback", receiver.url(), "--callback-allow", "127.0.0.1", "--json"
        ).jobs
        worker = cli.start("worker")

        def told() -> str:
            return cli("jobs", "show", job["id"]).out

        eventually(lambda: "for every worker: --callback-allow 127.0.0.1" in told(), "it is not said")
        assert "1 try so far: nothing can be sent to the callback" in told()
        worker.terminate()
        assert cli.answer(worker).code == 0
        assert receiver.requests == []
        assert cli("jobs", "redeliver", job["id"]).code == 0
        allowed = cli.start("worker", "--callback-allow", "127.0.0.1")
        eventually(lambda: "its callback: delivered" in told(), "it is not delivered")
        assert len(receiver.requests) == 2
        assert "after 2 tries since it was asked for anew" in told(), "each that was made, the last one too"
        allowed.kill()
