"""Every border at which bytes of others come in: for each the code that reads them, as one function of bytes.

A reader returns what it made of them, or raises one of its `errors`; anything else is a hole. `tests/corpus/NAME/`
holds cases of each: those that begin with `good` are understood, those that begin with `bad` are refused.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from minitango import archive, callback_url, image_name, statedir
from minitango.archive import Bounds
from minitango.assignment import Assignment, Plan, Step, Submission, find_handins
from minitango.callbacks import Call
from minitango.errors import (
    ArchiveError,
    AssignmentError,
    ConfigError,
    JobNotFound,
    MinitangoError,
    NothingToGrade,
    SandboxFailed,
    SandboxUnavailable,
    StoreError,
    SubmissionError,
)
from minitango.exchange import read_export
from minitango.group import members
from minitango.job import Delivery, Job, JobSpec, State
from minitango.results import Evidence, Report, reader
from minitango.sandbox import _frames, kind_asked
from minitango.sandbox._inside import parse_status
from minitango.store import _redis_rows, _rows, open_store

CORPUS: Final = Path(__file__).parent / "corpus"
_listeners: dict[str, Any] = {}
"""What is made once, for all cases."""


class Border(Struct, frozen=True):
    """One of them."""

    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...] = ()
    understood: Callable[[object], bool] = lambda made: True
    """Whether what it made says that the bytes were understood, where nothing was raised."""
    slow: bool = False
    """Whether each case costs milliseconds of the machine."""


@contextlib.contextmanager
def folder(**files: bytes) -> Iterator[Path]:
    """A folder with these files; `__` in a name is a `.`."""
    with tempfile.TemporaryDirectory(prefix="minitango-border-") as made:
        for name, data in files.items():
            (Path(made) / name.replace("__", ".")).write_bytes(data)
        yield Path(made)


def lasting() -> str:
    """A folder that is there until the tests end."""
    made = tempfile.mkdtemp(prefix="mt-border-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


# --- reports -------------------------------------------------------------------------------------


def report(format: str, evidence: Callable[[bytes], Evidence]) -> Border:
    return Border(
        lambda data: reader(format)(evidence(data)),
        understood=lambda made: isinstance(made, Report) and made.score is not None,
    )


def printed(data: bytes) -> Evidence:
    return Evidence(None, exit_status=0, output=data, ending=data, max_score=100.0)


# --- what an instructor names -------------------------------------------------------------------


def assignment(data: bytes) -> object:
    with folder(assignment__toml=data) as place:
        return Assignment.load(place)


def autolab(data: bytes) -> object:
    with folder() as place:
        (place / "hello.yml").write_bytes(data)
        (place / "autograde-Makefile").write_bytes(b"all:\n")
        (place / "autograde.tar").write_bytes(bytes(10240))
        return Assignment.load(place)


def prairielearn(data: bytes) -> object:
    with folder(info__json=data) as place:
        (place / "tests").mkdir()
        (place / "tests" / "run.sh").write_bytes(b"#!/bin/sh\n")
        return Assignment.load(place)


def settings(data: bytes) -> object:
    from minitango.cli.settings import resolve

    with folder(minitango__toml=data) as place:
        return kind_asked(resolve(environ={}, folder=place).sandbox)


def docker_settings(data: bytes) -> object:
    from minitango.sandbox._docker_place import find

    with folder(config__json=data) as place, pytest_environment(DOCKER_CONFIG=str(place), DOCKER_HOST=None):
        return find()


@contextlib.contextmanager
def pytest_environment(**variables: str | None) -> Iterator[None]:
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)
        yield


# --- what is handed in, or exported ---------------------------------------------------------------


def handed_in(data: bytes) -> object:
    with folder(handin=data) as place:
        return archive.read_archive(place / "handin", Bounds())


def gradescope_export(data: bytes) -> object:
    with folder(submission_metadata__yml=data) as place:
        for name in ("submission_1", "submission_2"):
            (place / name).mkdir()
            (place / name / "hello.py").write_bytes(b"1")
        return read_export(place)


def names_of_an_export(data: bytes) -> object:
    """The lines are names in a folder."""
    with folder() as place:
        for line in data.split(b"\n")[:50]:
            with contextlib.suppress(OSError, ValueError):
                made = place / line.decode("utf-8", "surrogateescape")
                if made.parent == place:
                    made.write_bytes(b"1")
        return read_export(place)


def url(data: bytes) -> object:
    return callback_url.parse(data.decode("utf-8", "surrogateescape"), ())


def image(data: bytes) -> str:
    return image_name.problem(data.decode("utf-8", "surrogateescape"))


def handin_names(data: bytes) -> object:
    """The lines are the names in a folder of hand-ins: whose each is, and that it can be handed in as his."""
    with folder() as place:
        for line in data.split(b"\n")[:50]:
            with contextlib.suppress(OSError, ValueError):
                made = place / line.decode("utf-8", "surrogateescape")
                if made.parent == place:
                    made.write_bytes(b"1")
        found = find_handins([place])
        hw = Assignment("hw", (Step(command=("true",)),), max_score=1)
        assert len({one.student for one in found}) == len(found), "two would be one"
        return [Submission(hw, one.student, {"a": b""}, title=one.title) for one in found]


def student(data: bytes) -> object:
    hw = Assignment("hw", (Step(command=("true",)),), max_score=1)
    return Submission(hw, data.decode("utf-8", "surrogateescape"), {"a": b""})


def job_id(data: bytes) -> object:
    """What is typed to name a job."""
    if "store" not in _listeners:
        store = open_store(f"sqlite:///{lasting()}/queue.db")
        (one,) = store.submit([JobSpec("hw", "ada", "s", "i")])
        _listeners["store"] = store, one.id
    store, known = _listeners["store"]
    typed = data.decode("utf-8", "surrogateescape")
    return store.get(typed.replace("KNOWN", known))


def store_url(data: bytes) -> object:
    from minitango.store._redis_url import parse

    return parse("redis+" + data.decode("utf-8", "surrogateescape"))


def queue_name(data: bytes) -> object:
    from minitango.store._redis_url import parse

    return parse("redis://host?queue=" + data.decode("utf-8", "surrogateescape"))


# --- what stores have ------------------------------------------------------------------------------

HOME: Final = Job("j", 1, State.DONE, "hw", "ada", "s", "i", delivery=Delivery.PENDING)


def fields(data: bytes) -> list[bytes]:
    """Lines, as the items of a reply."""
    return data.split(b"\n")


def redis_hash(data: bytes) -> object:
    lines = fields(data)
    return _redis_rows.job_of(dict(zip(lines[::2], lines[1::2], strict=False)))


def redis_lease(data: bytes) -> object:
    """Lines, as texts of a lease that exchange.lua packed: UTF-8 or not."""
    lines = fields(data)
    texts = b"".join(b"\xdb" + len(line).to_bytes(4, "big") + line for line in lines)
    lease = b"\xdd" + len(lines).to_bytes(4, "big") + texts
    return _redis_rows.exchanged_of([b"\x93\x90\x90\x91" + lease], 0)


def redis_exchanged(data: bytes) -> object:
    return _redis_rows.exchanged_of([data, [b"a blob"]], 2)


def redis_attempts(data: bytes) -> object:
    lines = fields(data)
    return _redis_rows.attempts_of("j", dict(zip(lines[::2], lines[1::2], strict=False)))


def redis_callback(data: bytes) -> object:
    lines = fields(data)
    raw = dict(zip(lines[::2], lines[1::2], strict=False))
    return _redis_rows.callback_of(HOME, raw, None)


def sentinel(data: bytes) -> object:
    """Lines: the address, and what else it says of the master."""
    from minitango.store._redis_way import master_of

    lines = fields(data)
    return master_of(lines[:2], lines[2:])


def cluster_node(data: bytes) -> object:
    """What it answers to CLUSTER SLOTS, written as JSON."""
    from minitango.store._redis_url import Host
    from minitango.store._redis_way import owner_of

    def reply(value: object) -> object:
        if isinstance(value, list):
            return [reply(one) for one in value]
        return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value

    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        said = data
    return owner_of(reply(said), 5718, Host("asked", 6379))[0]


# --- what machines answer --------------------------------------------------------------------------


def frame(data: bytes) -> object:
    """What a supervisor says: the first byte is the kind of a body."""
    read: dict[bytes, Callable[[bytes], object]] = {
        b"h": _frames.hello,
        b"x": _frames.ended,
        b"y": _frames.problem,
        b"e": _frames.answered,
        b"l": lambda body: list(_frames.entries(body)),
    }
    return read.get(data[:1], lambda body: list(_frames.Reader().feed(body)))(data[1:])


class Listener:
    """A server that answers whoever comes with the same bytes, and hangs up."""

    def __init__(self, family: socket.AddressFamily, address: Any) -> None:
        self.answer = b""
        self._socket = socket.socket(family)
        self._socket.bind(address)
        self._socket.listen(16)
        self.port = self._socket.getsockname()[1] if family == socket.AF_INET else 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            caller, _ = self._socket.accept()
            with caller, contextlib.suppress(OSError):
                caller.settimeout(5)
                caller.recv(65536)
                caller.sendall(self.answer)
                caller.shutdown(socket.SHUT_WR)
                while caller.recv(65536):
                    pass


def docker(data: bytes) -> object:
    """What an engine answers to a question, whole: status, headers, body."""
    from minitango.sandbox._docker_engine import Engine
    from minitango.sandbox._docker_place import Place

    class Info(Struct):
        ID: str
        Containers: int = 0

    if "docker" not in _listeners:
        home = lasting()
        _listeners["docker"] = Listener(socket.AF_UNIX, f"{home}/s"), f"unix://{home}/s"
    listener, place = _listeners["docker"]
    with contextlib.closing(Engine(Place(place, "the test"), patience=5)) as engine:
        engine._agree = lambda client: "1.41"  # type: ignore[method-assign]
        listener.answer = data
        return engine.ask(lambda api: api.info(), Info, again=False)


def docker_stream(data: bytes) -> object:
    """What an engine says while it pulls."""
    from minitango.sandbox import _docker_stream

    return list(_docker_stream.messages([data[at : at + 4096] for at in range(0, len(data), 4096)]))


def receiver(data: bytes) -> object:
    """What answers a callback."""
    import ssl

    if "receiver" not in _listeners:
        _listeners["receiver"] = Listener(socket.AF_INET, ("127.0.0.1", 0))
    listener = _listeners["receiver"]
    listener.answer = data
    return Call(within=5).post(
        f"http://127.0.0.1:{listener.port}/", b"{}", {}, ["127.0.0.1"], ssl.create_default_context()
    )


def state_note(data: bytes) -> object:
    with folder(engine__json=data, tried__json=data) as place:
        return (
            statedir.sandbox_kind(place),
            statedir.known_images(place, "docker"),
            statedir.default_image(place),
            statedir.tried(place),
        )


def group(data: bytes) -> object:
    return members({"group": data.decode("utf-8", "replace")}, "ada")


def backup(data: bytes) -> object:
    from minitango.backup import _label_in, _label_of, _unpack

    with folder(backup__tar=data) as place:
        first = _label_in(place / "backup.tar")
        assert first == _label_of(_unpack(place / "backup.tar", place / "made"))
        return first


BORDERS: Final[dict[str, Border]] = {
    "gradescope": report("gradescope", lambda data: Evidence(data, exit_status=0)),
    "prairielearn": report("prairielearn", lambda data: Evidence(data, exit_status=0)),
    "autolab": report("autolab", printed),
    "junit": report("junit", lambda data: Evidence(None, exit_status=0, reports=(("results.xml", data),))),
    "archive": Border(handed_in, (ArchiveError,)),
    "bundle": Border(archive.unpack, (ArchiveError, MinitangoError)),
    "plan": Border(Plan.decode, (AssignmentError,)),
    "assignment": Border(assignment, (AssignmentError,)),
    "autolab-lab": Border(autolab, (AssignmentError,)),
    "prairielearn-question": Border(prairielearn, (AssignmentError,)),
    "settings": Border(settings, (ConfigError,)),
    "docker-settings": Border(docker_settings, (ConfigError, SandboxUnavailable)),
    "gradescope-export": Border(gradescope_export, (SubmissionError,), lambda made: not made.unclear),  # type: ignore[attr-defined]
    "export-names": Border(names_of_an_export, (SubmissionError,), lambda made: made is not None),
    "handin-names": Border(handin_names, (SubmissionError, NothingToGrade)),
    "student": Border(student, (SubmissionError,)),
    "job-id": Border(job_id, (JobNotFound,)),
    "queue-name": Border(queue_name, (ConfigError,)),
    "callback-url": Border(url, (ConfigError,)),
    "image-name": Border(image, (), lambda made: made == ""),
    "store-url": Border(store_url, (ConfigError,)),
    "sentinel": Border(sentinel, (ValueError,), lambda made: made is not None),
    "cluster-node": Border(cluster_node, (ValueError,), lambda made: made is not None),
    "redis-job": Border(redis_hash, (StoreError,)),
    "redis-lease": Border(redis_lease, (StoreError,), lambda made: not made.unread),  # type: ignore[attr-defined]
    "redis-exchanged": Border(redis_exchanged, (StoreError,), lambda made: not made.unread),  # type: ignore[attr-defined]
    "redis-attempts": Border(redis_attempts, (StoreError,)),
    "redis-outputs": Border(lambda data: _redis_rows.outputs_of("j", fields(data)), (StoreError,)),
    "redis-errand": Border(lambda data: _redis_rows.errand_of(fields(data)), (StoreError,)),
    "redis-callback": Border(redis_callback, (StoreError,)),
    "result": Border(_rows.result_of, (StoreError,)),
    "node": Border(lambda data: _rows.node_of(data, 0.0, False), (StoreError,)),
    "group": Border(group, understood=lambda made: made != ("ada",)),
    "state-note": Border(state_note, understood=lambda made: made != ("", {}, "", [])),
    "backup": Border(backup, (StoreError, ConfigError)),
    "frame": Border(frame, (_frames.BadFrame,)),
    "box-status": Border(parse_status, (), lambda made: made is not None),
    "docker": Border(docker, (SandboxUnavailable, SandboxFailed), slow=True),
    "docker-stream": Border(docker_stream, (SandboxFailed,), bool),
    "receiver": Border(receiver, understood=lambda made: not made.error, slow=True),  # type: ignore[attr-defined]
}
