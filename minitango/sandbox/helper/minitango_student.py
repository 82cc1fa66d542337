r"""Student code, called from a grader and out of its reach: each `run`, and each `Student`, has a sandbox of its own.

    from minitango_student import Student, StudentError, StudentTimeout, run

    with Student("solution") as student:           # imports solution.py there
        assert student.call("add", 1, 2) == 3       # arguments and answers cross as plain values
        stack = student.make("Stack")               # an object that stays there
        stack.call("push", 1)
    done = run(["./prog", "x"], input=b"1 2\n", timeout=5)
    assert (done.stdout, done.returncode) == (b"3\n", 0)

Works in a guarded step of minitango alone (`guarded = true`). Python 3.8 or later, and nothing else. What crosses:
None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset and dict, as exactly these types, 100 deep at
most. Of all that comes from there a student may have chosen every byte: compare it, and never run or unpickle it.
"""

from __future__ import annotations

import binascii
import collections
import contextlib
import json
import math
import os
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # what is loaded here, each start of student code waits for
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

SOCKET = "/minitango/socket"
FRAME = 65536
MOST = 16 << 20
"""Bytes of one answer."""
DEPTH = 100
SHOWN = 8000
"""Characters that are kept of a message, and of a traceback."""
PRINTED = 1 << 16
"""Bytes that are kept of what a call printed."""
_EXACT = 1 << 53
"""From here on an integer is not a number of JSON."""
_HERE = os.path.abspath(__file__)  # noqa: PTH100 - pathlib costs milliseconds


class StudentError(Exception):
    """Student code raised, ended its process, or passed a limit. `type` is the name of what it raised (or `Ended`),
    `message` and `traceback` are its words, cut; `limit` is wall, cpu, memory or output, where one ended it."""

    def __init__(self, type: str, message: str, traceback: str = "", limit: str = "") -> None:
        super().__init__(f"{type}: {message}")
        self.type, self.message, self.traceback, self.limit = type, message, traceback, limit


class StudentTimeout(StudentError):
    """It took too long, and was ended."""


class GraderError(Exception):
    """The grader asked for what can never be had, such as a ninth call at once. It ends the step: no student pays."""


# --- values, as they cross ------------------------------------------------------------------------


def encode(value: Any, depth: int = 0, to: Student | None = None) -> Any:
    """The value as JSON has it, with tags for what JSON has not. A value of a class of one's own that is derived from
    such a type goes as that type. TypeError: it cannot cross; ValueError: it is too deep, or an object of another
    `Student` than it goes to; StudentError: such an object is gone."""
    if depth > DEPTH:
        raise ValueError(f"the value is nested more than {DEPTH} deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int.__index__(value)
        return number if -_EXACT <= number <= _EXACT else {"!": "int", "v": format(number, "x")}
    if isinstance(value, float):
        real = float.__float__(value)
        return real if math.isfinite(real) else {"!": "float", "v": float.__repr__(real)}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (bytes, bytearray)):
        return {"!": "bytes", "v": _base64(value)}
    if isinstance(value, complex):
        return {"!": "complex", "v": [encode(value.real), encode(value.imag)]}
    if isinstance(value, list):
        return [encode(each, depth + 1, to) for each in list.__iter__(value)]
    kinds: tuple[Any, ...] = (tuple, set, frozenset)
    for kind in kinds:
        if isinstance(value, kind):
            return {"!": kind.__name__, "v": [encode(each, depth + 1, to) for each in kind.__iter__(value)]}
    if isinstance(value, dict):
        pairs = list(dict.items(value))
        if all(type(key) is str and key != "!" for key, _ in pairs):
            return {key: encode(each, depth + 1, to) for key, each in pairs}
        return {"!": "dict", "v": [[encode(key, depth + 1, to), encode(each, depth + 1, to)] for key, each in pairs]}
    if isinstance(value, Remote):
        return {"!": "object", "v": value._number_for(to)}
    raise TypeError(f"a {type(value).__name__} cannot cross between a grader and student code: give a plain value")


def decode(value: Any, objects: Mapping[int, Any] | None = None, depth: int = 0) -> Any:
    """What `encode` was given. ValueError for anything that it does not make."""
    if depth > DEPTH:
        raise ValueError(f"the value is nested more than {DEPTH} deep")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [decode(each, objects, depth + 1) for each in value]
    if "!" not in value:
        return {key: decode(each, objects, depth + 1) for key, each in value.items()}
    tag, inner = value["!"], value.get("v")
    if tag == "int" and isinstance(inner, str) and len(inner) <= 1 << 18:
        return int(inner, 16)
    if tag == "float" and inner in ("nan", "inf", "-inf"):
        return float(inner)
    if tag == "bytes" and isinstance(inner, str):
        return binascii.a2b_base64(inner)
    if tag == "object" and objects is not None and type(inner) is int and inner in objects:
        return objects[inner]
    if isinstance(inner, list):
        if tag == "complex" and len(inner) == 2:
            real, imaginary = (decode(each) for each in inner)
            if type(real) is float and type(imaginary) is float:
                return complex(real, imaginary)
        if tag == "tuple":
            return tuple(decode(each, objects, depth + 1) for each in inner)
        if tag in ("set", "frozenset"):
            members = _keys([decode(each, objects, depth + 1) for each in inner])
            return set(members) if tag == "set" else frozenset(members)
        if tag == "dict" and all(isinstance(pair, list) and len(pair) == 2 for pair in inner):
            keys = _keys([decode(pair[0], objects, depth + 1) for pair in inner])
            values = [decode(pair[1], objects, depth + 1) for pair in inner]
            return dict(zip(keys, values))  # noqa: B905 - Python 3.8
    raise ValueError("this is no value")


def _base64(data: bytes | bytearray) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _keys(members: list[Any]) -> list[Any]:
    """These, if they may be together in a set: hashable, and not chosen so that a set of them takes for ever."""
    try:
        most = collections.Counter(map(hash, members)).most_common(1)
    except TypeError as error:
        raise ValueError("a set or a dict holds what cannot be in it") from error
    if most and most[0][1] > 100:
        raise ValueError("a set or a dict holds values that were made to collide")
    return members


def dumps(message: Any) -> bytes:
    """A message, with its length before it."""
    data = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
    return struct.pack(">I", len(data)) + data


def loads(data: bytes) -> Any:
    """The message. ValueError for anything that is none, however deep it is."""

    def whole(digits: str) -> int:
        if len(digits) > 20:
            raise ValueError("a number has too many digits")
        return int(digits)

    def constant(name: str) -> float:
        raise ValueError(f"{name} is no number")

    try:
        return json.loads(data.decode("ascii"), parse_int=whole, parse_constant=constant)
    except RecursionError as error:
        raise ValueError("the value is nested too deeply") from error


# --- one call, as the engine takes it -------------------------------------------------------------


class Done:
    """How a program of the student's ended: what it printed, and

    `returncode`: its exit status, or the negative number of the signal that killed it; 126 or 127 where it could not be
    executed, 124 where it took too long, and 125 where another limit ended it or it was refused;
    `limit`: which limit ended it (wall, cpu, memory or output), or `refused`; empty: none;
    `reason`: why, in words; empty for a plain end;
    `files`: what was taken, by path;
    `not_taken`: what was to be taken and could not be, by path: why. It is too large, or no file, say."""

    def __init__(
        self,
        stdout: bytes,
        stderr: bytes,
        returncode: int,
        limit: str,
        reason: str,
        files: dict[str, bytes],
        not_taken: dict[str, str] | None = None,
    ) -> None:
        self.stdout, self.stderr, self.returncode = stdout, stderr, returncode
        self.limit, self.reason, self.files, self.not_taken = limit, reason, files, not_taken or {}

    def __repr__(self) -> str:
        return f"Done({self.returncode}, {self.reason or 'ended'!r}, {self.stdout[:200]!r}, {self.stderr[:200]!r})"


class _Call:
    """A connection to the engine, and what has come over it so far."""

    def __init__(self, words: Sequence[str], options: Iterable[str], give: Mapping[str, bytes]) -> None:
        self.stdout, self.stderr = bytearray(), bytearray()
        self.files: dict[str, bytes] = {}
        self.not_taken: dict[str, str] = {}
        self.ending: tuple[int, int, str] | None = None
        self._file: tuple[str, bytearray] | None = None
        self._received, self._unsent = bytearray(), bytearray()
        import socket

        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(SOCKET)
        except OSError as error:
            self._socket.close()
            raise RuntimeError(f"student code cannot be run from here: {error} (is the step guarded?)") from error
        self._socket.setblocking(False)
        options = [*options, *(f"give={name}" for name in give)]
        self.send("R", _listed(options) + _listed(words))
        for name, data in give.items():
            self.send("G", os.fsencode(name))
            if data:
                self.send("G", data)
            self.send("G")

    def __enter__(self) -> _Call:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, kind: str, data: bytes = b"") -> None:
        """To be sent while `wait` waits."""
        for at in range(0, max(1, len(data)), FRAME):
            piece = data[at : at + FRAME]
            self._unsent += struct.pack(">BI", ord(kind), len(piece)) + piece

    def wait(self, deadline: float = math.inf) -> bool:
        """Send and receive what can be, once something can. False: by then nothing could."""
        import select

        writable = [self._socket] if self._unsent else []
        left = max(0.0, deadline - time.monotonic())
        readable, writable, _ = select.select([self._socket], writable, [], None if left == math.inf else left)
        if writable:
            try:
                del self._unsent[: self._socket.send(self._unsent[: 1 << 18])]
            except BlockingIOError:
                pass
            except OSError:
                self._unsent.clear()  # it is over there: what is still to be read says how
        if readable:
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                return True
            except OSError:
                data = b""
            if not data and self.ending is None:
                raise RuntimeError("minitango broke the call off: the step is over, or too many were open")
            self._received += data
            for kind, piece in self._frames():
                self._take(kind, piece)
        return bool(readable or writable)

    def _frames(self) -> Iterator[tuple[str, bytes]]:
        at = 0
        while len(self._received) - at >= 5:
            kind, size = struct.unpack_from(">BI", self._received, at)
            if len(self._received) - at - 5 < size:
                break
            yield chr(kind), bytes(self._received[at + 5 : at + 5 + size])
            at += 5 + size
        del self._received[:at]

    def _take(self, kind: str, data: bytes) -> None:
        if kind == "O":
            self.stdout += data
        elif kind == "e":
            self.stderr += data
        elif kind == "T" and self._file is None:
            self._file = os.fsdecode(data[4:]), bytearray()
        elif kind == "T" and self._file is not None:
            self._file[1].extend(data)
            if not data:
                self.files[self._file[0]], self._file = bytes(self._file[1]), None
        elif kind == "N":
            end = 4 + struct.unpack_from(">I", data)[0]
            self.not_taken[os.fsdecode(data[4:end])] = data[end:].decode("utf-8", "replace")
        elif kind == "X":
            self.ending = (*struct.unpack_from(">BI", data), data[5:].decode("utf-8", "replace"))


def _misused(error: Exception) -> Exception:
    """Have minitango know that the grader is at fault, which ends the step: no student is to pay for it. Returns the
    error, for who asked."""
    import socket

    told = str(error).encode("utf-8", "replace")[:1000]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(10)
        line.connect(SOCKET)
        line.sendall(struct.pack(">BI", ord("B"), len(told)) + told)
        line.shutdown(socket.SHUT_WR)
        while line.recv(FRAME):
            pass
    return error


def _seconds(value: Any) -> float:
    """A time, above 0; ValueError, TypeError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _misused(TypeError(f"a timeout is a number of seconds, not {value!r:.80}"))
    if not 0 < value < math.inf:
        raise _misused(ValueError(f"a timeout is a number of seconds above 0, not {value!r:.80}"))
    return float(value)


def _module(name: Any) -> str:
    """A module's name; ValueError, TypeError."""
    if not isinstance(name, str):
        raise _misused(TypeError(f"Student wants the name of a module, such as 'solution', and not {name!r:.80}"))
    if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
        text = f"Student wants the name of a module, and not of a file: {name!r:.80}"
        stem = name.replace("\\", "/").strip("./").replace("/", ".")
        stem = stem[:-3] if stem.endswith(".py") else stem
        near = f" (is {stem!r} meant?)" if all(part.isidentifier() for part in stem.split(".")) else ""
        raise _misused(ValueError(text + near))
    return name


def _listed(words: Iterable[str]) -> bytes:
    each = [os.fsencode(word) for word in words]
    return struct.pack(">I", len(each)) + b"".join(struct.pack(">I", len(word)) + word for word in each)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is missing")
    return value


def _shown(value: Any) -> str:
    """A text of the student's, cut, that can be put into any report: there, what no text may hold is �."""
    text = _text(value)[:SHOWN].replace("\0", "\ufffd")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _bytes(text: str | bytes) -> bytes:
    if isinstance(text, str):
        return text.encode()
    if not isinstance(text, (bytes, bytearray, memoryview)):  # of a number bytes() would make as many zeros
        raise _misused(TypeError(f"a text or bytes are wanted, not a {type(text).__name__}"))
    return bytes(text)


def _words(words: Iterable[str], what: str) -> list[str]:
    if isinstance(words, (str, bytes)):  # else each of its characters would be a word
        raise _misused(TypeError(f"{what} is a list of texts, and not one text: {words!r:.200}"))
    return list(words)


_LIMITS = {
    "wall": "took longer than {}",
    "cpu": "used more than {} of CPU time",
    "memory": "used more than {} of memory",
    "output": "printed more than {}",
}


def _said(ending: tuple[int, int, str]) -> tuple[int, str, str]:
    """What `Done` has of an end: returncode, limit, reason. GraderError."""
    how, number, text = ending
    if how == 5:
        raise GraderError(text)
    if how == 0:
        return number, "", ""
    if how == 1:
        return -number, "", f"was killed by signal {number}"
    if how == 2:
        limit, _, amount = text.partition(" ")
        words = _LIMITS.get(limit, "passed the limit {}").format(amount or "it may")
        return 124 if limit in ("wall", "cpu") else 125, limit, words
    if how == 3:
        why = os.strerror(number) if number < 1 << 12 else f"error {number}"  # it is the student's word
        return 127 if number == 2 else 126, "", f"could not be executed: {why}"
    return 125, "refused", text


def run(
    command: Sequence[str],
    *,
    input: str | bytes = b"",
    timeout: float | None = None,
    give: Mapping[str, str | bytes] | None = None,
    take: Sequence[str] = (),
) -> Done:
    """Run a command among the hand-in's files, and wait for its end. `input` is its standard input; `timeout`, in
    seconds, ends it before the step's own limit does; `give` has files to be put beside the hand-in's, `take` patterns
    of those to be brought back. Raises nothing for what the program does; TypeError, ValueError and GraderError for
    what cannot be asked for."""
    command = _words(command, "a command")
    options = [f"time={_seconds(timeout)!r}"] if timeout is not None else []
    options += [f"take={pattern}" for pattern in _words(take, "take")]
    with _Call(command, options, {name: _bytes(data) for name, data in (give or {}).items()}) as call:
        if input:
            call.send("I", _bytes(input))
        call.send("E")
        while call.ending is None:
            call.wait()
        code, limit, reason = _said(call.ending)
        if call.not_taken and not reason:
            path, why = min(call.not_taken.items())
            reason = f"{path} was not taken: {why}"
        return Done(bytes(call.stdout), bytes(call.stderr), code, limit, reason, call.files, call.not_taken)


# --- functions and objects ------------------------------------------------------------------------


class Remote:
    """Names in student code that can be called: of a module, or of an object that stayed there."""

    def __init__(self, student: Student, number: int, life: int) -> None:
        self._student, self._number, self._life = student, number, life

    def _number_for(self, student: Student | None) -> int:
        """By which it is known in the process of this one."""
        if student is not self._student:
            raise ValueError("an object of one Student cannot be given to another: make both in one")
        if self._life != student._life:
            raise StudentError("Ended", "this object went with the process that it was in")
        return self._number

    def call(
        self, name: str, /, *args: Any, timeout: float | None = None, stdin: str | bytes = b"", **kwargs: Any
    ) -> Any:
        """What this function or method returns. `timeout`: seconds, for this call; `stdin`: what it reads.
        StudentError, StudentTimeout; TypeError where an argument cannot cross, ValueError where it is of another
        `Student`."""
        return self._student._ask("call", self, name, args, kwargs, timeout, _bytes(stdin))

    def make(self, name: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Remote:
        """Call it, and keep what it returns there: an object of a class, mostly. It may be given to later calls."""
        number = self._student._ask("make", self, name, args, kwargs, timeout, b"")
        if type(number) is not int:
            raise StudentError("Garbled", "what it answered is no answer: an object has no number")
        return Remote(self._student, number, self._student._life)

    def get(self, name: str, *, timeout: float | None = None) -> Any:
        """The value of this name."""
        return self._student._ask("get", self, name, (), {}, timeout, b"")


class Student(Remote):
    """A module of the student's, imported by the first call in a process of its own. One that ended, or took too long,
    is started anew by the next call: then what it kept is gone. For one thread at a time."""

    def __init__(self, module: str, *, timeout: float = 10.0, python: str = "python3") -> None:
        """`timeout`: the seconds that a call may take where it says nothing else; so may the import. ValueError,
        TypeError: that is no module's name, or no time."""
        module, timeout = _module(module), _seconds(timeout)
        super().__init__(self, 0, 0)
        self.stdout = ""
        """What the last call that was answered printed, cut."""
        self._module, self._timeout, self._python = module, timeout, python
        self._process: _Call | None = None
        self._unimportable: StudentError | None = None

    def __enter__(self) -> Student:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its process. The next call starts another."""
        if self._process is not None:
            self._process.__exit__()
            self._process = None

    @property
    def stderr(self) -> str:
        """The last of what its process wrote to standard error."""
        return bytes(self._process.stderr[-PRINTED:]).decode("utf-8", "replace") if self._process else ""

    def _ask(
        self, do: str, target: Remote, name: str, args: Any, kwargs: Any, timeout: float | None, stdin: bytes
    ) -> Any:
        if self._process is None:
            self._start()  # which ends the life of what was made before
        words = {"do": do, "name": name, "args": encode(list(args), to=self), "kwargs": encode(dict(kwargs), to=self)}
        words["stdin"], words["object"] = _base64(stdin), target._number_for(self)
        return self._exchange(words, self._timeout if timeout is None else _seconds(timeout))

    def _start(self) -> None:
        if self._unimportable is not None:
            raise self._unimportable
        command = [self._python, "-I", _HERE, "--serve"]
        self._process = _Call(command, [], {})
        self._life += 1
        try:
            self._exchange({"do": "import", "name": self._module}, self._timeout)
        except StudentError as error:
            self.close()
            self._unimportable = error  # the next try would end alike, and take as long
            raise

    def _exchange(self, words: dict[str, Any], timeout: float) -> Any:
        process = self._process
        assert process is not None
        words["id"] = os.urandom(16).hex()  # so that nothing which was said before can be its answer
        process.send("I", dumps(words))
        deadline = time.monotonic() + timeout
        self.stdout = ""
        while True:
            try:
                answer = self._answer(process.stdout, words["id"])
                if answer is not None:
                    return self._value(answer)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self.close()
                raise StudentError("Garbled", f"what it answered is no answer: {str(error)[:200]}") from None
            if process.ending is not None:  # and what it had answered before that has been read
                break
            del process.stderr[: -2 * PRINTED]
            if not process.wait(deadline) or time.monotonic() >= deadline:
                self.close()
                raise StudentTimeout("Timeout", f"took longer than {timeout:g} s", limit="wall")
        said = process.stderr[-SHOWN:].decode("utf-8", "replace")
        self.close()
        _, limit, reason = _said(process.ending)
        kind = StudentTimeout if limit in ("wall", "cpu") else StudentError
        raise kind("Ended", reason or "its process ended before it answered", said, limit) from None

    def _answer(self, said: bytearray, id: str) -> dict[str, Any] | None:
        """The answer to this, once it is there; what else was said is dropped."""
        while len(said) >= 4:
            (size,) = struct.unpack_from(">I", said)
            if size > MOST:
                raise ValueError(f"it has {size} bytes")
            if len(said) < 4 + size:
                return None
            data = bytes(said[4 : 4 + size])
            del said[: 4 + size]
            answer: dict[str, Any] = loads(data)
            if answer["id"] == id:
                return answer
        return None

    def _value(self, answer: dict[str, Any]) -> Any:
        self.stdout = _text(answer["stdout"])[:PRINTED]
        if "error" in answer:
            raise StudentError(*(_shown(answer["error"][part]) for part in ("type", "message", "traceback")))
        return decode(answer["value"])


# --- in the student's sandbox ---------------------------------------------------------------------


def _nameless() -> int:
    """A file without a name."""
    try:
        return os.open(os.environ.get("TMPDIR", "/tmp"), os.O_TMPFILE | os.O_RDWR, 0o600)  # noqa: S108
    except OSError:  # no file system that has such files
        return os.memfd_create("minitango")


class Server:
    """Serves calls in the student's own process, on what were its standard input and output: those that student code
    sees are others. It has no say over a grade: all that it sends is the student's word."""

    def __init__(self) -> None:
        self._asked, self._answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
        self._input, self._printed = _nameless(), _nameless()
        os.dup2(self._input, 0)
        os.dup2(self._printed, 1)
        self._objects: dict[int, Any] = {}
        self._pid = os.getpid()
        sys.path.insert(0, os.getcwd())  # noqa: PTH109

    def serve(self) -> None:
        """Until nobody asks any more."""
        while True:
            head = self._asked.read(4)
            if len(head) < 4:
                os._exit(0)
            words = loads(self._asked.read(struct.unpack(">I", head)[0]))
            answer = self._outcome(words)
            if os.getpid() != self._pid:
                os._exit(0)  # student code forked, and came back here twice
            answer["stdout"], answer["id"] = self._take_printed(), words["id"]
            data = dumps(answer)
            while data:
                data = data[os.write(self._answers, data) :]

    def _outcome(self, words: dict[str, Any]) -> dict[str, Any]:
        import traceback

        try:
            return {"value": encode(self._do(words))}
        except BaseException as error:
            try:
                message = str(error)[:SHOWN]
            except BaseException:
                message = "its message cannot be shown"
            try:
                frames = error.__traceback__ and error.__traceback__.tb_next and error.__traceback__.tb_next.tb_next
                text = "".join(traceback.format_exception(type(error), error, frames, limit=-20))[-SHOWN:]
            except BaseException:
                text = ""
            return {"error": {"type": type(error).__name__[:200], "message": message, "traceback": text}}

    def _do(self, words: dict[str, Any]) -> Any:
        import importlib

        if words["do"] == "import":
            self._objects[0] = importlib.import_module(words["name"])
            return None
        self._give_input(binascii.a2b_base64(words["stdin"]))
        found: Callable[..., Any] = getattr(self._objects[words.get("object", 0)], words["name"])
        if words["do"] == "get":
            return found
        made = found(*decode(words["args"], self._objects), **decode(words["kwargs"], self._objects))
        if words["do"] == "call":
            return made
        number = len(self._objects)
        self._objects[number] = made
        return number

    def _give_input(self, data: bytes) -> None:
        os.ftruncate(self._input, 0)
        os.pwrite(self._input, data, 0)
        os.lseek(self._input, 0, os.SEEK_SET)
        sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115

    def _take_printed(self) -> str:
        with contextlib.suppress(BaseException):  # it is the student's to close it
            sys.stdout.flush()
        printed = os.pread(self._printed, PRINTED, 0)
        os.ftruncate(self._printed, 0)
        os.lseek(self._printed, 0, os.SEEK_SET)
        return printed.decode("utf-8", "replace")


if __name__ == "__main__":
    if sys.argv[1:] != ["--serve"]:
        sys.exit("import this module in a grader: see `minitango_student.__doc__`")
    Server().serve()
