"""`minitango init`: what it makes works, for each kind, on this machine; and it overwrites nothing."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from minitango import Assignment
from minitango.cli.init import KINDS
from tests.e2e.conftest import CommandLine

TOOLS = {"c": ("gcc", "make"), "autolab": ("make",), "gradescope": ("bash",)}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_made_grades_its_samples_as_they_should_be(cli: CommandLine, kind: str) -> None:
    missing = [tool for tool in ("python3", *TOOLS.get(kind, ())) if shutil.which(tool) is None]
    if missing and os.environ.get("CI") != "true":
        pytest.skip(f"there is no {missing[0]} here")
    made = cli("init", "hw 1", "--kind", kind)
    assert made.code == 0, made
    assert sorted(made.out.splitlines()) == sorted(f"hw 1/{path}" for path in tree(cli.folder / "hw 1"))
    assert "next: minitango check 'hw 1'" in made.err
    answer = cli("check", "hw 1", "--json")
    assert answer.code == 0, answer
    scores = [sample["score"] for sample in answer.samples]
    assert scores[0] == 10
    assert 0 < scores[1] < 10, "the wrong one is to show that parts count"
    assert {Path(sample["sample"]).stem for sample in answer.samples} >= {"right", "wrong", "crashing", "looping"}
    trust = {sample["trust"] for sample in answer.samples}
    assert trust == {{"two-step": "separated", "c": "separated", "guarded": "guarded"}.get(kind, "shared")}

    assert cli("run", "hw 1", "hw 1/handins").code == 5, "what is there is no hand-in"
    (cli.folder / "hw 1" / "handins" / "ada").write_bytes(
        (cli.folder / "hw 1" / answer.samples[0]["sample"]).read_bytes()
    )
    assert cli("run", "hw 1", "hw 1/handins", "--json").jobs[0]["score"] == 10


def test_two_steps_are_the_default_and_the_name_is_the_folders(cli: CommandLine) -> None:
    assert cli("init", "one").code == 0
    assert "next: did you mean --kind guarded?" in cli("init", "x", "--kind", "gaurded").err
    assert "init --help" in cli("init", "x", "--kind", "zzz").err
    assert cli("init", "two", "--kind", "two-step", "--name", 'Sums "1" \\ é').code == 0
    here = cli.folder / "here"
    here.mkdir()
    assert cli("init", cwd=here).code == 0
    assert [Assignment.load(cli.folder / name).name for name in ("one", "two", "here")] == [
        "one",
        'Sums "1" \\ é',
        "here",
    ]
    assert "# one\n" in (cli.folder / "one" / "README.md").read_text()
    assert "minitango run one one/handins" in (cli.folder / "one" / "README.md").read_text()
    assert "{{" not in "".join(path.read_text() for path in here.rglob("*") if path.is_file())


def test_nothing_is_overwritten(cli: CommandLine) -> None:
    folder = cli.folder / "hw"
    folder.mkdir()
    (folder / "assignment.toml").write_text("mine")
    (folder / "samples").write_text("mine")
    (folder / "grade").symlink_to("nowhere")
    (folder / "other.txt").write_text("mine")
    before = tree(folder)
    answer = cli("init", "hw")
    assert (answer.code, answer.out) == (2, ""), answer
    assert "error[init_exists]: nothing was made, as this is in the way: " in answer.err
    assert "hw/assignment.toml, hw/grade, hw/samples\n" in answer.err
    assert tree(folder) == before
    for name in ("assignment.toml", "samples", "grade"):
        (folder / name).unlink()
    assert cli("init", "hw").code == 0
    assert (folder / "other.txt").read_text() == "mine"
    again = cli("init", "hw")
    assert again.code == 2, again
    assert "and 9 more" in again.err


def test_a_file_where_the_folder_is_to_be(cli: CommandLine) -> None:
    (cli.folder / "hw").write_text("mine")
    answer = cli("init", "hw")
    assert answer.code == 2, answer
    assert "in the way: hw\n" in answer.err
    below = cli("init", "hw/below")
    assert below.code == 2, below
    assert "error[init_" in below.err


def test_where_it_cannot_write_nothing_is_left(cli: CommandLine, mortal: list[str]) -> None:
    (cli.folder / "hw").mkdir()
    (cli.folder / "hw" / "samples").mkdir(mode=0o555)
    answer = cli("init", "hw", within=mortal)
    assert answer.code == 2, answer
    assert "error[init_unwritable]: hw/samples/" in answer.err
    assert tree(cli.folder / "hw") == {}
    assert os.listdir(cli.folder / "hw") == ["samples"]


def test_on_a_full_disk_it_says_which(cli: CommandLine) -> None:
    within = ["unshare", "-m" if os.geteuid() == 0 else "-Urm", "sh", "-c"]
    mount = f"mkdir tiny && mount -t tmpfs -o size=4k tmpfs {cli.folder}/tiny"
    if shutil.which("unshare") is None or subprocess.run([*within, mount], cwd=cli.folder).returncode:
        pytest.skip("no file system of our own can be mounted here")
    answer = cli(
        within=[*within, f"{mount.partition('&&')[2]}; {shlex.join(map(str, cli.command('init', 'tiny/hw')))}"]
    )
    assert answer.code == 2, answer
    assert "error[init_unwritable]: tiny/hw" in answer.err
    assert "next: free some space (df -h tiny), or name another folder" in answer.err


@pytest.mark.parametrize("name", ["", " x", "x\ny", "x" * 101])
def test_a_name_that_no_assignment_can_have(cli: CommandLine, name: str) -> None:
    answer = cli("init", "hw", "--name", name)
    assert answer.code == 2, answer
    assert "error[usage]" in answer.err
    assert not (cli.folder / "hw").exists()


def test_what_is_executable_and_what_is_packed(cli: CommandLine) -> None:
    for kind, program in (("gradescope", "autograder/run_autograder"), ("prairielearn", "autograder/tests/run.sh")):
        assert cli("init", kind, "--kind", kind).code == 0
        assert (cli.folder / kind / program).stat().st_mode & stat.S_IXUSR
        assert not (cli.folder / kind / "assignment.toml").stat().st_mode & stat.S_IXUSR
    info = cli.folder / "prairielearn" / "autograder" / "info.json"
    first = json.loads(info.read_text())["uuid"]
    assert cli("init", "another", "--kind", "prairielearn").code == 0
    assert json.loads((cli.folder / "another" / "autograder" / "info.json").read_text())["uuid"] != first
    assert cli("init", "lab", "--kind", "autolab").code == 0
    with tarfile.open(cli.folder / "lab" / "autograder" / "autograde.tar") as packed:
        assert sorted(packed.getnames()) == ["src", "src/driver.py"]
        assert {(member.uid, member.mtime) for member in packed} == {(0, 0)}
