"""Ctrl-C is heard, also where Python swallows what a signal's handler raises; what was half made is taken away; and it
is said what is done and what is not."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import types
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from minitango import backup as backup_module
from minitango import moving
from minitango.cli import _main, grading, interrupts
from minitango.cli.journal import Journal
from minitango.engine import GRACE, Engine
from minitango.errors import StoreError
from minitango.store._redis_dump import RedisDump
from minitango.store.sqlite import SqliteStore
from tests import redis_server
from tests.e2e.conftest import write_assignment
from tests.support import ENDING, Gate, open_engine, signals_as_before, submission

backup_command, submit_command = (sys.modules[f"minitango.cli.{name}"] for name in ("backup", "submit"))


class Thing:
    pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_that_falls_into_a_callback_of_python_ends_the_wait(
    tmp_path: Path, number: signal.Signals
) -> None:
    gate = Gate()
    with open_engine(tmp_path, gate) as engine:
        handle = engine.submit(submission())
        batch: Any = grading.Batch.__new__(grading.Batch)
        batch.engine, batch.joined, batch._running, batch._shown = engine, False, {}, None
        shown: Any = types.SimpleNamespace(running=lambda jobs: None)
        before = signal.getsignal(number)
        with interrupts.terminated_like_ctrl_c():
            thing = Thing()
            told = weakref.ref(thing, lambda gone: signal.raise_signal(number))  # as those of the import system
            del thing
            assert told() is None
            with pytest.raises(KeyboardInterrupt):
                batch.wait([handle], shown)
        assert signal.getsignal(number) == before
        with interrupts.terminated_like_ctrl_c():
            assert not interrupts.Interrupt.asked
        gate.open.set()


# --- while all is loaded ---------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("how", ["-m minitango", "-m minitango.cli", "minitango"])
def test_one_that_comes_while_all_is_loaded_ends_it_without_a_word(tmp_path: Path, how: str) -> None:
    assert _loaded_by(tmp_path, how) == (130, "")


@pytest.mark.parametrize("how", ["course.py", "-m course"])
def test_where_minitango_is_a_library_ctrl_c_is_left_to_the_program(tmp_path: Path, how: str) -> None:
    code, err = _loaded_by(tmp_path, how)
    assert code != 130
    assert err.endswith("KeyboardInterrupt\n")


def _loaded_by(folder: Path, how: str) -> tuple[int, str]:
    """Exit code and stderr of a Python that meets a Ctrl-C when a package is loaded that minitango needs."""
    (folder / "msgspec.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    (folder / "minitango").write_text("import sys\nfrom minitango.cli import main\nsys.exit(main())\n")
    (folder / "course.py").write_text("import minitango\n")
    words = how.split() if how.startswith("-m") else [str(folder / how)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    done = subprocess.run(
        [sys.executable, "-P", *words, "jobs"], cwd=folder, env=environ, capture_output=True, text=True
    )
    assert not done.stdout
    return done.returncode, done.stderr


# --- a store that fails meanwhile ------------------------------------------------------------------


class Outage:
    """Once it is on, the store of an engine that is stopped cannot be asked; notes the grace of each stop."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.on = False
        self.graces: list[float] = []
        stop = Engine.stop

        def noted(engine: Engine, *, grace: float = GRACE) -> None:
            self.graces.append(grace)
            stop(engine, grace=grace)

        patched.setattr(Engine, "stop", noted)
        for name in ("counts", "list"):
            patched.setattr(SqliteStore, name, self._failing(getattr(SqliteStore, name)))

    def _failing(self, real: Any) -> Any:
        def asked(store: SqliteStore, *arguments: Any, **more: Any) -> Any:
            if self.on:
                raise StoreError("it is away", hint="start it", id="store_unreachable")
            return real(store, *arguments, **more)

        return asked


def test_a_worker_that_is_stopped_in_an_outage_gives_the_grace(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    outage, say = Outage(monkeypatch), Journal.say

    def said(journal: Journal, id: str, *more: Any) -> None:
        say(journal, id, *more)
        if id == "ready":
            outage.on = True
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Journal, "say", said)
    assert place.typed("worker", "--grace", "7") == 0, place.err
    assert outage.graces[0] == 7
    assert "\nstopping: " in place.err  # what runs depends on whether the signal was faster


@pytest.mark.parametrize("number", ENDING)
def test_a_run_that_is_interrupted_in_an_outage_gives_the_grace_and_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    outage = Outage(monkeypatch)

    def wait(batch: grading.Batch, *_: Any, **__: Any) -> Any:
        outage.on = True
        signal.raise_signal(number)

    monkeypatch.setattr(grading.Batch, "wait", wait)
    assert place.typed("run", "hw", "bob.txt", "--no-preflight") == 130, place.err
    assert outage.graces[0] == grading.CTRL_C_GRACE
    stopping, interrupted = place.err.splitlines()[-2:]
    assert stopping.startswith("stopping: running jobs get a few seconds")
    assert interrupted == ("interrupted: how many are graded cannot be told now (it is away); the same command goes on")


# --- commands that are whole or not at all --------------------------------------------------------


class Place:
    """A folder with an assignment, two hand-ins, and a queue that has one of them."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], patched: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.out = self.err = ""
        self._capsys = capsys
        self._patched = patched

    def typed(self, *words: str) -> int:
        """Type a command, with the signals as a shell leaves them; its exit code."""
        for number in ENDING:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
        self._capsys.readouterr()
        code = _main(list(words))
        self.out, self.err = self._capsys.readouterr()
        return code

    def when(self, what: Any, name: str, *, after: bool = False, number: int = signal.SIGINT, times: int = 1) -> None:
        """Have a signal come when this is called, or when it was."""
        original = getattr(what, name)

        def called(*arguments: Any, **more: Any) -> Any:
            if not after:
                self._send(number, times)
            made = original(*arguments, **more)
            if after:
                self._send(number, times)
            return made

        self._patched.setattr(what, name, called)

    @staticmethod
    def _send(number: int, times: int) -> None:
        for _ in range(times):
            signal.raise_signal(number)

    @property
    def things(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def students(self, *where: str) -> list[str]:
        assert self.typed("jobs", "--json", *where) == 0, self.err
        return sorted(job["student"] for job in json.loads(self.out)["jobs"])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    for name in os.environ:
        if name.startswith("MINITANGO_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MINITANGO_SANDBOX", "bubblewrap")
    monkeypatch.chdir(tmp_path)
    write_assignment(tmp_path / "hw")
    for student in ("ada", "bob"):
        (tmp_path / f"{student}.txt").write_text("ok" + "." * 100_000)
    made = Place(tmp_path, capsys, monkeypatch)
    with signals_as_before():
        assert made.typed("submit", "hw", "ada.txt") == 0, made.err
        yield made


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("dest", ["kept", "kept.tar"])
def test_an_interrupted_backup_is_not_there(place: Place, dest: str, number: int) -> None:
    before = place.things
    place.when(backup_module, "settle_copy", number=number)
    assert place.typed("backup", dest) == 130
    assert place.err == f"interrupted: no backup was made, {dest} is as it was; the same command begins anew\n"
    assert (place.things, place.out) == (before, "")


def test_one_that_is_interrupted_when_it_is_there_says_so(place: Place) -> None:
    place.when(backup_module, "sync", after=True)
    assert place.typed("backup", "kept.tar") == 130
    assert place.err == "interrupted: kept.tar is there, and whole, all the same\n"
    assert place.typed("restore", "kept.tar", "--state", "new") == 0
    assert place.students("--state", "new") == ["ada"]


def test_a_second_ctrl_c_that_follows_at_once_leaves_no_half_behind(place: Place) -> None:
    before = place.things
    place.when(moving.shutil, "rmtree", times=3)
    place.when(backup_module, "settle_copy")
    assert place.typed("backup", "kept") == 130
    assert "no backup was made" in place.err
    assert place.things == before


def test_one_that_comes_when_all_is_done_changes_nothing(place: Place) -> None:
    place.when(backup_command, "out")
    assert place.typed("backup", "kept") == 0
    assert place.out.startswith("kept: 1 job")
    assert place.err == ""


def test_an_interrupted_restore_leaves_nothing(place: Place) -> None:
    assert place.typed("backup", "kept") == 0
    before = place.things
    place.when(backup_module, "put_in_place")
    assert place.typed("restore", "kept", "--state", "new") == 130
    file = place.folder / "new" / "queue.db"
    assert place.err == f"interrupted: nothing was carried, {file} is as it was; the same command begins anew\n"
    assert place.things == before


def test_one_that_is_interrupted_when_the_queue_is_there_says_so(place: Place) -> None:
    assert place.typed("backup", "kept") == 0
    place.when(backup_module, "put_in_place", after=True)
    assert place.typed("restore", "kept", "--state", "new") == 130
    new = place.folder / "new"
    assert place.err == f"interrupted: {new}/queue.db is whole all the same; next: minitango jobs --store {new}\n"
    assert place.students("--state", "new") == ["ada"]


@pytest.mark.parametrize("words", [("restore", "kept", "--store", "new"), ("migrate", ".minitango", "new")])
def test_the_next_command_reaches_what_was_made_whatever_a_variable_names(
    place: Place, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    assert place.typed("backup", "kept") == 0
    monkeypatch.setenv("MINITANGO_STORE", "redis://127.0.0.1:1/0")
    assert place.typed(*words) == 0, place.err
    (typed,) = re.findall(r"next: minitango (jobs .*?);", place.err)
    assert place.students(*shlex.split(typed)[1:]) == ["ada"]


def test_the_next_command_names_the_folder_with_the_files(place: Place) -> None:
    assert place.typed("backup", "kept") == 0
    assert place.typed("restore", "kept", "--store", "new", "--blobs", "our files") == 0, place.err
    where = f"--store {place.folder}/new --blobs '{place.folder}/our files'"
    assert place.err == f"next: minitango jobs {where}; then minitango worker {where}\n"


def test_an_interrupted_migration_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    redis_server.need_redis()
    server = redis_server.Server()
    try:
        url = server.url("cs101", tcp=True)
        with monkeypatch.context() as patched:
            place._patched = patched
            place.when(RedisDump, "_arguments")
            assert place.typed("migrate", ".minitango", url) == 130
            said = f"interrupted: nothing was carried, {url} is as it was; the same command begins anew\n"
            assert place.err == said
            assert {key.rpartition(b"}:")[2] for key in server.client().scan_iter()} == {b"meta"}
            patched.setattr(RedisDump, "_clear", lambda *_: (_ for _ in ()).throw(StoreError("gone")))
            assert place.typed("migrate", ".minitango", url) == 130
            assert f"{url} is half filled, and nobody can use it before the same command" in place.err
        with monkeypatch.context() as patched:
            place._patched = patched
            patched.setattr(RedisDump, "_fill", lambda *_: server.kill())
            place.when(RedisDump, "_fill", after=True)
            assert place.typed("migrate", ".minitango", url) == 130
            assert f"whether {url} is whole cannot be told now (Redis at " in place.err
        assert place.students() == ["ada"], "where it came from is as it was"
    finally:
        server.remove()


def test_an_interrupted_submit_says_whether_it_was_done(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for fresh in ((), ("--fresh",)):
        with monkeypatch.context() as patched:
            place._patched = patched
            place.when(SqliteStore, "submit")
            assert place.typed("submit", "hw", "bob.txt", *fresh) == 130
        assert place.err == "interrupted: nothing was queued; the same command begins anew\n"
        assert place.students() == ["ada"]
    with monkeypatch.context() as patched:
        place._patched = patched
        place.when(SqliteStore, "submit", after=True)
        assert place.typed("submit", "hw", "bob.txt", "--state", ".minitango") == 130
    where = " --state .minitango"
    queued = f"queued all the same; next: minitango jobs{where}, and minitango worker{where} unless one runs"
    assert place.err == f"interrupted: the hand-ins are {queued}\n"
    assert (place.out, place.students()) == ("", ["ada", "bob"])
    with monkeypatch.context() as patched:
        place._patched = patched
        place.when(submit_command, "load")
        assert place.typed("submit", "hw", "bob.txt", "--state", "never") == 130
    assert place.err == "interrupted: nothing was queued; the same command begins anew\n"
    assert "never" not in place.things


def test_what_others_submit_meanwhile_is_not_taken_for_what_was_interrupted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same assignment, and another version of the same student's."""
    submit = SqliteStore.submit

    def meanwhile(self: SqliteStore, specs: Any, **more: Any) -> Any:
        other, version = replace(specs[0], student="eve", key="e"), replace(specs[0], inputs="b" * 64, key="b")
        submit(self, [other, version])
        signal.raise_signal(signal.SIGINT)
        return submit(self, specs, **more)

    monkeypatch.setattr(SqliteStore, "submit", meanwhile)
    assert place.typed("submit", "hw", "bob.txt") == 130
    assert place.err == "interrupted: nothing was queued; the same command begins anew\n"
    assert place.students() == ["ada", "bob", "eve"]
