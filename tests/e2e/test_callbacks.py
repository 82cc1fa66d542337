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
        assert "--callback-allow 127.0.0.1" in private.err
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
        assert re.search(r"its callback: delivered to \S+ at [0-9: -]+, after 1 try", cli("jobs", "show", ids[0]).out)

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
    again = cli("submit", hw, handins, "--callback", "https://lms.example/x")
    assert "3 of 3 hand-ins had a job before: it tells whom it was given then" in again.err
    assert cli("submit", hw, handins, "--callback", "ftp://lms.example/x").code == 2


def test_a_run_sends_what_an_earlier_submit_asked_for(cli: CommandLine, hw: Path, handins: Path) -> None:
    with receiving() as receiver:
        env = {"MINITANGO_CALLBACK_ALLOW": "127.0.0.1"}
        assert cli("submit", hw, handins, "--callback", receiver.url(), env=env).code == 0
        ran = cli("run", hw, handins, "--callback-allow", "127.0.0.1")
        assert ran.code == 0, ran
        assert len(receiver.requests) == 3, "it ended when all were told"
