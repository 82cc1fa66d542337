"""Several machines on one queue, as commands: one worker a state directory, a real Redis server, real sandboxes."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minitango.store import Node, open_store
from tests import redis_server
from tests.e2e.conftest import TOML, CommandLine, eventually, write_assignment
from tests.e2e.test_schema import printed
from tests.redis_server import Server

pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.fixture
def server() -> Iterator[Server]:
    redis_server.need_redis()
    made = Server()
    yield made
    made.remove()


@pytest.fixture
def shared(server: Server) -> dict[str, str]:
    """The environment in which the queue is on a server."""
    return {"MINITANGO_STORE": server.url("cs101", tcp=True), "MINITANGO_SANDBOX": "bubblewrap"}


@pytest.fixture
def hw(cli: CommandLine) -> Path:
    return write_assignment(cli.folder / "hw")


def handins(cli: CommandLine, *texts: str) -> Path:
    folder = cli.folder / "handins"
    folder.mkdir()
    for n, text in enumerate(texts):
        (folder / f"s{n}.txt").write_text(text + "\n")
    return folder


def nodes(cli: CommandLine, shared: dict[str, str]) -> dict[str, Any]:
    answer = cli("nodes", "--json", env=shared)
    return {node["name"]: node for node in printed("nodes-list", answer)["nodes"]}


def start(cli: CommandLine, shared: dict[str, str], name: str, *more: str) -> Any:
    worker = cli.start("worker", "--state", name, "--name", name, "--workers", "1", *more, env=shared)
    eventually(lambda: name in nodes(cli, shared), "the worker did not join")
    return worker


def test_two_nodes_a_submitter_and_one_that_dies(cli: CommandLine, shared: dict[str, str], hw: Path) -> None:
    one, two = start(cli, shared, "one"), start(cli, shared, "two", "--capability", "gpu")
    submitted = cli("submit", hw, handins(cli, "ok", "no", "wait 600", "ok", "ok"), "--json", env=shared)
    assert submitted.code == 0, submitted

    def states() -> list[str]:
        return [job["state"] for job in cli("jobs", "--json", env=shared).jobs]

    eventually(lambda: states().count("done") == 4, "the others are not graded beside the one that waits")
    (busy,) = [name for name, node in nodes(cli, shared).items() if node["running"]]
    table = cli("nodes", env=shared).out.splitlines()
    assert table[0].split()[:3] == ["node", "state", "jobs"]
    assert [line.split()[:3] for line in table[1:]] == [
        ["one", "ready", "1/1" if busy == "one" else "0/1"],
        ["two", "ready", "1/1" if busy == "two" else "0/1"],
    ]
    assert "gpu" in table[2]
    victim = {"one": one, "two": two}[busy]
    victim.kill()
    victim.wait()
    again = start(cli, shared, busy)

    def running() -> list[Any]:
        return [job for job in cli("jobs", "--json", env=shared).jobs if job["state"] == "running"]

    eventually(lambda: [job["attempts"] for job in running()] == [2], "its own job was not taken up again")
    (job,) = running()
    story = cli("jobs", "show", job["id"], env=shared).out
    assert f"attempt 1 on {busy}" in story
    cli("jobs", "cancel", job["id"], env=shared)
    eventually(lambda: states().count("cancelled") == 1, "a cancel does not reach the node")
    for worker in (one, two, again):
        worker.send_signal(signal.SIGTERM)
        worker.wait()
    answer = cli("nodes", env=shared)
    assert answer.out == ""
    assert "nobody grades here" in answer.err
    assert "minitango worker" in answer.err
    exported = cli("export", "--format", "json", env=shared)
    assert sorted(str(job["score"]) for job in json.loads(exported.out)["jobs"]) == [
        "0.0",
        "10.0",
        "10.0",
        "10.0",
        "None",
    ]


def test_drain_resume_and_forget(cli: CommandLine, shared: dict[str, str], hw: Path) -> None:
    worker = start(cli, shared, "one")
    answer = cli("nodes", "drain", "one", env=shared)
    assert answer.code == 0, answer
    eventually(lambda: nodes(cli, shared)["one"]["state"] == "drained", "it is not drained")
    cli("submit", hw, handins(cli, "ok"), env=shared)
    time.sleep(0.5)
    assert cli("jobs", "--json", env=shared).jobs[0]["state"] == "queued"
    alive = cli("nodes", "forget", "one", env=shared)
    assert (alive.code, "error[node_alive]" in alive.err) == (2, True), alive
    assert cli("nodes", "resume", "one", env=shared).code == 0
    eventually(lambda: cli("jobs", "--json", env=shared).jobs[0]["state"] == "done", "it does not go on")
    worker.kill()
    unknown = cli("nodes", "drain", "nobody", env=shared)
    assert (unknown.code, "error[node_unknown]" in unknown.err) == (2, True), unknown
    assert "one" in unknown.err


def test_a_node_that_missed_its_signs_of_life_is_overdue_and_then_lost(
    cli: CommandLine, shared: dict[str, str]
) -> None:
    with contextlib.closing(open_store(shared["MINITANGO_STORE"])) as store:
        now = store.now()
        for name, silent in (("fresh", 0.0), ("late", 12.0), ("dead", 31.0), ("idle", 12.0)):
            store.beat(Node(name, "i", good_for=30.0), now=now - silent)
        store.drain("idle")
        answer = cli("nodes", env=shared)
        table = {line.split()[0]: line.split()[1] for line in answer.out.splitlines()[1:]}
        assert table == {"fresh": "ready", "late": "overdue", "dead": "lost", "idle": "overdue"}
        assert re.search(
            r"^late is overdue: nothing was heard of it for 1\d s; it is taken for lost in 1\d s$", answer.err, re.M
        )
        assert "nobody grades here" not in answer.err
        listed = nodes(cli, shared)
        assert (listed["late"]["state"], 12 <= listed["late"]["silent"] < 25) == ("overdue", True)
        alive = cli("nodes", "forget", "late", env=shared)
        assert re.search(
            r"error\[node_alive\]: node late was last heard of 1\d s ago, and counts as alive for 30 s after that\n"
            r"  next: if it died, the same command again in 1\d s; else stop it \(process ",
            alive.err,
        ), alive.err
        assert cli("nodes", "forget", "dead", env=shared).code == 0
        store.leave("fresh")
        assert "nobody grades here" not in cli("nodes", env=shared).err, "perhaps one does"


def test_a_drained_node_that_left_is_told_of_and_taken_back(cli: CommandLine, shared: dict[str, str]) -> None:
    with contextlib.closing(open_store(shared["MINITANGO_STORE"])) as store:
        for name in ("one", "two"):
            store.beat(Node(name, "i"))
            store.drain(name)
            store.leave(name)
    answer = cli("nodes", env=shared)
    assert "drained, and not here: one, two; next: minitango nodes resume one" in answer.err, answer
    assert cli("nodes", "resume", "one", env=shared).code == 0
    assert cli("nodes", "forget", "two", env=shared).code == 0
    assert "drained" not in cli("nodes", env=shared).err


def test_run_is_a_node_for_its_time(cli: CommandLine, shared: dict[str, str], hw: Path) -> None:
    folder = handins(cli, "ok", "no")
    answer = cli("run", hw, folder, "--json", env=shared)
    assert answer.code == 0, answer
    assert [job["score"] for job in answer.jobs] == [10.0, 0.0]
    again = cli("run", hw, folder, "--state", "elsewhere", "--json", env=shared)
    assert [job["id"] for job in again.jobs] == [job["id"] for job in answer.jobs], "from another machine, too"
    local = cli("jobs", "--store", "sqlite:///queue.db", env=shared)
    assert "error[no_queue]" in local.err


def test_it_is_said_which_queue_is_looked_at_and_graded(cli: CommandLine, shared: dict[str, str]) -> None:
    url = shared["MINITANGO_STORE"]
    looked = cli("jobs", "--state", "mine", env=shared)
    assert f"the queue is {url}, as MINITANGO_STORE has it; --state mine: that is a node's own directory" in looked.err
    assert "the queue is redis" not in cli("jobs", env=shared).err, "nobody named another"
    assert "the queue is redis" not in cli("jobs", "--store", url, "--state", "mine", env=shared).err
    start(cli, shared, "one")
    ready = cli.folder / "err0"
    eventually(lambda: b"queued" in ready.read_bytes(), "it is not ready")
    assert f"grading in {cli.folder}/one as node one of {url} with bubblewrap" in ready.read_text()


def test_what_is_suggested_reaches_the_queue_that_was_typed(cli: CommandLine, server: Server, hw: Path) -> None:
    """Without its password, which a screen is not to show."""
    server.client().config_set("requirepass", "s3cret")
    url = f"redis://:s3cret@127.0.0.1:{server.port}/0?queue=cs101"
    store = ("--store", url)
    typed = f"--store 'redis://:...@127.0.0.1:{server.port}/0?queue=cs101'"
    cuda = write_assignment(cli.folder / "cuda", TOML.replace("max_score", 'needs = ["gpu"]\nmax_score', 1))
    folder = handins(cli, "ok")
    worker = cli.start("worker", *store, "--name", "one", "--state", "one", env={"MINITANGO_SANDBOX": "bubblewrap"})
    ready = cli.folder / "err0"
    eventually(lambda: b"grading in" in ready.read_bytes(), "it is not ready")
    alive = cli("nodes", "forget", "one", *store)
    assert f"minitango nodes drain {typed} one" in alive.err, alive
    assert f"minitango submit {typed}" in cli("run", cuda, folder, *store).err
    assert f"minitango jobs list {typed}" in cli("jobs", "show", "abcdef", *store).err
    assert f"minitango jobs list {typed}" in cli("jobs", *store, "show", "abcdef").err, "before the verb, too"
    unsure = cli("submit", hw, folder, "--store", f"{url}&replicas=1")
    assert "error[store_unconfirmed]" in unsure.err
    assert f"minitango doctor {typed[:-1]}&replicas=1'" in unsure.err
    assert cli("nodes", "drain", "one", *store).code == 0
    mine = f"minitango nodes resume {typed} --state one one"
    eventually(lambda: mine in ready.read_text(), "the node does not say how to go on")
    assert cli("submit", hw, folder, "--fresh", *store).code == 0
    checked = cli("doctor", *store)
    assert f"minitango nodes resume {typed} one" in checked.out, checked
    worker.send_signal(signal.SIGTERM)
    worker.wait()
    said = [alive, unsure, checked, cli("nodes", *store), cli("jobs", *store)]
    assert not any("s3cret" in answer.out + answer.err for answer in said)
    assert "s3cret" not in ready.read_text()


def test_a_prune_speaks_of_the_server_and_not_of_a_file(cli: CommandLine, shared: dict[str, str], hw: Path) -> None:
    start(cli, shared, "one")
    cli("submit", hw, handins(cli, "ok" + "." * 100_000), env=shared)
    eventually(lambda: [job["state"] for job in cli("jobs", "--json", env=shared).jobs] == ["done"], "it is not graded")
    beside = cli("prune", "--older-than", "0s", env={**shared, "MINITANGO_STATE": "one"})
    assert beside.code == 0, beside
    assert "removed 1 job\n" in beside.out
    assert "the server's append-only file is smaller by" in beside.out
    assert "queue's file" not in beside.out + beside.err
    assert "another engine" not in beside.err, "nodes do not have to wait for it"


def test_which_of_two_queues_is_meant(cli: CommandLine, shared: dict[str, str], hw: Path) -> None:
    """A state directory with a queue of its own is typed, and the variable names one on a server."""
    folder = handins(cli, "ok", "no")
    here = {"MINITANGO_SANDBOX": "bubblewrap"}
    assert cli("run", hw, folder, "--state", "mine", env=here).code == 0
    assert cli("backup", "kept", "--state", "mine").code == 0
    assert cli("submit", hw, folder / "s0.txt", env=shared).code == 0
    url = shared["MINITANGO_STORE"]
    said = f"the queue is {url}, as MINITANGO_STORE has it"
    for words in (["jobs"], ["export"], ["nodes"], ["prune", "--dry-run"], ["backup", "other"]):
        looked = cli(*words, "--state", "mine", env=shared)
        assert looked.code == 0, looked
        assert said in looked.err, words
        assert "(for one in it: --store mine)" in looked.err
    assert said in cli("submit", hw, folder, "--state", "mine", env=shared).err
    for words in (
        ["prune"],
        ["prune", "--older-than", "0s"],
        ["jobs", "cancel", "--assignment", "hw"],
        ["restore", "kept"],
    ):
        refused = cli(*words, "--state", "mine", env=shared)
        assert (refused.code, "error[queue_unclear]" in refused.err) == (2, True), refused
        assert said in refused.err
        assert "--store mine in place of --state" in refused.err
    assert [job["state"] for job in cli("jobs", "--json", env=shared).jobs] == ["queued"] * 2, "nothing was done"
    assert len(cli("jobs", "--json", "--store", "mine", env=shared).jobs) == 2
    assert cli("restore", "kept", "--store", "again", env=shared).code == 0
    assert len(cli("jobs", "--json", "--store", "again", env=shared).jobs) == 2
    assert cli("jobs", "cancel", "--assignment", "hw", env=shared).code == 0
    worker = cli.start("worker", "--quiet", "--state", "mine", env=shared)
    err = cli.folder / "err0"
    eventually(
        lambda: f"mine/queue.db is another queue, which is left alone: {said}" in err.read_text(), "it is not said"
    )
    worker.kill()


def test_a_database_that_the_server_has_not(cli: CommandLine, server: Server) -> None:
    refused = cli("jobs", "--store", f"redis://127.0.0.1:{server.port}/99")
    assert "has no such database" in refused.err
    assert "?queue=NAME" in refused.err


def test_what_is_needed_must_be_offered(cli: CommandLine, shared: dict[str, str]) -> None:
    hw = write_assignment(cli.folder / "cuda", TOML.replace("max_score", 'needs = ["gpu"]\nmax_score', 1))
    folder = handins(cli, "ok")
    for command in (["run", str(hw), str(folder)], ["check", str(hw)]):
        refused = cli(*command, env=shared)
        assert refused.code in (2, 5), refused
    assert "error[capability]" in cli("run", hw, folder, env=shared).err
    assert "--capability gpu" in cli("run", hw, folder, env=shared).err
    alone = cli("run", hw, folder / "s0.txt", "--student", "ada b", env=shared).err
    assert f"minitango submit --student 'ada b' {hw} {folder}/s0.txt\n" in alone
    there = cli("run", hw, folder, "--store", shared["MINITANGO_STORE"], env=shared).err
    assert f"minitango submit --store '{shared['MINITANGO_STORE']}' {hw} {folder}\n" in there
    assert "minitango submit" not in cli("check", hw, env=shared).err, "samples are not handed in"
    offered = cli("run", hw, folder, "--capability", "gpu", "--json", env=shared)
    assert offered.jobs[0]["score"] == 10.0
    by_variable = cli("run", hw, folder, "--fresh", "--json", env={**shared, "MINITANGO_CAPABILITIES": "large, gpu"})
    assert by_variable.jobs[0]["score"] == 10.0


def test_a_server_that_is_not_there_never_becomes_a_file(cli: CommandLine, hw: Path) -> None:
    nowhere = {"MINITANGO_STORE": f"redis://127.0.0.1:{redis_server.free_port()}/0", "MINITANGO_SANDBOX": "bubblewrap"}
    folder = handins(cli, "ok")
    begun = time.monotonic()
    for command in (["submit", str(hw), str(folder)], ["run", str(hw), str(folder)], ["jobs"], ["nodes"], ["worker"]):
        answer = cli(*command, env=nowhere)
        assert answer.code == 3, answer
        assert "error[store_unreachable]" in answer.err
        assert "redis-cli" in answer.err
    assert time.monotonic() - begun < 20
    assert not list(cli.folder.rglob("queue.db"))


def test_a_worker_starts_though_its_server_is_full(
    cli: CommandLine, shared: dict[str, str], server: Server, hw: Path
) -> None:
    assert cli("submit", hw, handins(cli, "ok"), env=shared).code == 0
    server.client().config_set("maxmemory", 1 << 20)
    worker = start(cli, shared, "one")
    eventually(lambda: "store trouble: the memory of Redis" in said(cli, 0), "it does not say what it waits for")
    assert "warning: the memory of Redis at" in said(cli, 0)
    assert "next: raise its maxmemory, or make room" in said(cli, 0)
    assert worker.poll() is None
    server.client().config_set("maxmemory", 0)
    eventually(lambda: "s0: graded" in said(cli, 0), "it does not go on")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_room_is_to_be_made_in_the_queue_that_was_typed(cli: CommandLine, server: Server, hw: Path) -> None:
    url, env = server.url("cs101", tcp=True), {"MINITANGO_SANDBOX": "bubblewrap"}
    server.client().config_set("maxmemory", 1 << 20)
    prune = f"make room in this queue: minitango prune --store '{url}' --older-than 30d"
    submitted = cli("submit", hw, handins(cli, "ok"), "--store", url, env=env)
    assert (prune in submitted.err, submitted.code) == (True, 3), submitted
    worker = cli.start("worker", "--store", url, "--state", "node", env=env)
    said = cli.folder / f"err{cli._started.index(worker)}"
    eventually(lambda: "warning: the memory" in said.read_text(), "it is not told of")
    assert prune.replace(" --older-than", " --state node --older-than") in said.read_text()


def test_a_worker_that_cannot_be_noted_says_so_and_waits(cli: CommandLine, tmp_path: Path) -> None:
    """The server takes no writes at all, as it cannot save them."""
    redis_server.need_redis()
    folder = tmp_path / "gone"
    folder.mkdir()
    server = Server(appendonly="no", save="3600 1", dir=str(folder))
    try:
        client = server.client()
        client.set("x", "y")
        folder.rmdir()
        client.bgsave()
        eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "it could be saved")
        worker = cli.start("worker", "--state", "one", "--store", server.url(), "--sandbox", "bubblewrap")
        eventually(lambda: "store trouble: Redis at" in said(cli, 0), "it does not say what it waits for")
        assert "takes no writes, as it cannot save them to its disk" in said(cli, 0)
        assert worker.poll() is None
        client.config_set("stop-writes-on-bgsave-error", "no")
        eventually(lambda: "grading in" in said(cli, 0), "it does not begin")
        assert said(cli, 0).count("store trouble") == 1
        assert "the store works again" in said(cli, 0)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait() == 0
    finally:
        server.remove()


def said(cli: CommandLine, number: int) -> str:
    """What the process of this number has written to stderr."""
    return (cli.folder / f"err{number}").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_is_stopped_though_its_server_hangs(
    cli: CommandLine, shared: dict[str, str], server: Server, number: signal.Signals
) -> None:
    """It says at once that it stops, and a node that cannot sign off is no error."""
    worker = start(cli, shared, "one")
    eventually(lambda: "queued" in said(cli, 0), "it is not ready")
    server.freeze()
    try:
        worker.send_signal(number)
        begun = time.monotonic()
        how_long = ", in some 15 s where the queue does not answer (a second signal: at once)"
        eventually(lambda: f"stopping: this node signs off{how_long}" in said(cli, 0), "not a word")
        assert time.monotonic() - begun < 1.5
        assert cli.answer(worker).code == (130 if number == signal.SIGINT else 0), said(cli, 0)
    finally:
        server.thaw()
    assert "error[" not in said(cli, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_worker_whose_server_hangs(
    cli: CommandLine, shared: dict[str, str], server: Server, hw: Path, number: signal.Signals
) -> None:
    cli("submit", hw, handins(cli, "wait 600"), env=shared)
    worker = start(cli, shared, "one")
    eventually(lambda: nodes(cli, shared)["one"]["running"] == 1, "it is not taken up")
    eventually(lambda: "queued" in said(cli, 0), "it is not ready")
    server.freeze()
    try:
        worker.send_signal(number)
        eventually(lambda: "stopping: running jobs get 30 s" in said(cli, 0), "not a word")
        worker.send_signal(number)
        begun = time.monotonic()
        assert cli.answer(worker).code == 130, said(cli, 0)
        assert time.monotonic() - begun < 1.5
    finally:
        server.thaw()
    assert "this node leaves all the same" in said(cli, 0)


def test_looking_at_a_queue_on_a_server_makes_no_folder(cli: CommandLine, shared: dict[str, str], hw: Path) -> None:
    folder = handins(cli, "ok")
    here = cli.folder / "here"
    here.mkdir()
    graded = cli("run", hw, folder, "--json", env=shared).jobs[0]["id"]
    waits = cli("submit", hw, folder, "--fresh", "--json", cwd=here, env=shared).jobs[0]["id"]
    looks = (
        ["jobs"], ["jobs", "show", graded], ["jobs", "show", waits], ["jobs", "logs", graded], ["nodes"], ["doctor"],
        ["config", "show"], ["export", "--assignment", "hw"], ["jobs", "cancel", waits], ["prune"],
    )  # fmt: skip
    for words in looks:
        answer = cli(*words, cwd=here, env=shared)
        assert answer.code == 0, answer
        assert not list(here.iterdir()), words


def test_a_password_is_printed_nowhere(cli: CommandLine, server: Server, shared: dict[str, str], hw: Path) -> None:
    server.client().config_set("requirepass", "s3cret")
    secret = {**shared, "MINITANGO_STORE": f"redis://:s3cret@127.0.0.1:{server.port}/0?queue=cs101"}
    said = [
        cli("run", hw, handins(cli, "ok"), "--verbose", env=secret),
        cli("config", "show", env=secret),
        cli("doctor", env=secret),
        cli("nodes", "--store", secret["MINITANGO_STORE"]),
        cli("jobs", "--store", secret["MINITANGO_STORE"]),
    ]
    assert [answer.code for answer in said if answer.code] == []
    assert not any("s3cret" in answer.out + answer.err for answer in said)


def test_a_server_that_keeps_nothing_is_told_of(cli: CommandLine, server: Server, shared: dict[str, str]) -> None:
    server.client().config_set("appendonly", "no")
    worker = cli.start("worker", env=shared)
    eventually(lambda: b"appendonly" in (cli.folder / "err0").read_bytes(), "it is not said")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 0
    sure = {**shared, "MINITANGO_STORE": shared["MINITANGO_STORE"] + "&durability=require"}
    assert "error[redis_not_durable]" in cli("worker", env=sure).err
