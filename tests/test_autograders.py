"""Autograders of other platforms: what they are taken for, what they ask for, and where that lands."""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET, structs

from minitango import Assignment, AssignmentError, Submission, SubmissionError
from minitango.archive import File, unpack
from minitango.assignment import Plan
from minitango.assignment.autograders import gradescope, source
from minitango.blobs import Blobs
from minitango.group import group
from minitango.job import Lease, Limits, Trust
from minitango.layout import box_spec, environment, hand_in, layout_of

LAB = """

---
general:
  name: hello
  display_name: Hello
  handin_filename: hello.c
  handin_directory: handin
problems:
- name: Correctness
  description: ''
  max_score: 100.0
- name: 2
  max_score: '20'
autograder:
  autograde_timeout: 30
  autograde_image: autograding_image
  release_score: true
"""
RUN = "#!/usr/bin/env bash\ncp /autograder/submission/calculator.py /autograder/source\npython3 run_tests.py\n"
INFO: dict[str, Any] = {
    "uuid": "0d3c5b0b-9c9e-4f4e-8ad6-5f4b5dd2a6a1",
    "title": "Fibonacci",
    "type": "v3",
    "gradingMethod": "External",
    "externalGradingOptions": {
        "enabled": True,
        "image": "course/grader:1",
        "entrypoint": "/grade/tests/run.sh --fast",
        "timeout": 12,
        "environment": {"A": "b", "C": None},
    },
}

Make = Callable[..., Path]


def autolab(root: Path, *, yml: str | None = LAB, **more: str) -> Path:
    files = {"autograde-Makefile": "all:\n\ttrue\n", "autograde.tar": "a tar", **more}
    if yml is not None:
        files[f"{root.name}.yml"] = yml
    return write(root, files)


def scope(root: Path, *, setup: str | None = "apt-get install -y gcc\n", run: str = RUN, **more: str) -> Path:
    files = {"run_autograder": run, "run_tests.py": "print(1)\n", "tests/test_add.py": "", **more}
    if setup is not None:
        files["setup.sh"] = setup
    return write(root, files)


def question(root: Path, info: dict[str, Any] = INFO, **more: str) -> Path:
    files = {"info.json": json.dumps(info), "tests/run.sh": "#!/bin/sh\n", "question.html": "<p>no file</p>", **more}
    return write(root, files)


def options(**changes: Any) -> dict[str, Any]:
    return {**INFO, "externalGradingOptions": {**INFO["externalGradingOptions"], **changes}}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def zipped(folder: Path, *, top: str = "") -> Path:
    made = folder.with_suffix(".zip")
    with zipfile.ZipFile(made, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{top}{path.relative_to(folder)}")
    return made


def plan_of(assignment: Assignment, blobs: Blobs) -> Plan:
    return Plan.decode(blobs.get(assignment.pack(blobs).digest))


def bundle(plan: Plan, blobs: Blobs) -> dict[str, File]:
    return {file.path: file for file in unpack(blobs.get(plan.steps[0].bundle))}


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


# --- what it is taken for --------------------------------------------------------------------------


@pytest.mark.parametrize("make", [autolab, scope, question])
@pytest.mark.parametrize("packed", ["folder", "zip", "zip with a top folder", "tar.gz"])
def test_a_folder_and_an_archive_of_it_are_taken_for_the_same(
    make: Make, packed: str, tmp_path: Path, blobs: Blobs
) -> None:
    folder = make(tmp_path / "hello")
    place = folder
    if packed == "tar.gz":
        place = Path(shutil.make_archive(str(tmp_path / "hello"), "gztar", tmp_path, "hello"))
    elif packed != "folder":
        place = zipped(folder, top="a/b/" if "top" in packed else "")
    one, other = Assignment.load(folder), Assignment.load(place)
    assert (one.name, one.layout, one.steps) == (other.name, other.layout, other.steps)
    assert other.taken[0].startswith(f"{place}: taken for a")
    assert other.taken[1:] == one.taken[1:]
    assert one.pack(blobs) == other.pack(blobs)
    assert one.trust is Trust.SHARED
    assert one.bonus, "these platforms have no maximum that a score may not be above"


def test_what_is_none_of_them(tmp_path: Path) -> None:
    write(tmp_path / "empty", {"notes.txt": "", "info.json": "{}", "autograde.tar": ""})
    for place in (tmp_path / "empty", zipped(tmp_path / "empty")):
        with pytest.raises(AssignmentError) as caught:
            Assignment.load(place)
        assert caught.value.id == "assignment_missing"
        assert "autograde-Makefile" in caught.value.hint
        assert "run_autograder" in caught.value.hint


def test_what_could_be_two(tmp_path: Path) -> None:
    both = autolab(scope(tmp_path / "both"))
    with pytest.raises(AssignmentError) as caught:
        Assignment.load(both)
    assert caught.value.id == "layout"
    (both / "assignment.toml").write_text('layout = "gradescope"\n')
    assert Assignment.load(both).layout == "gradescope"


def test_an_archive_of_our_own_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "own", {"assignment.toml": 'name = "x"\n'})
    with pytest.raises(AssignmentError, match="is not unpacked") as caught:
        Assignment.load(zipped(tmp_path / "own"))
    assert caught.value.id == "layout"


@pytest.mark.parametrize(
    ("files", "said", "hint"),
    [
        ({"autograde-Makefile": ""}, "it has autograde-Makefile, and no autograde.tar", "make autograde.tar"),
        ({"setup.sh": ""}, "it has setup.sh, and no run_autograder", "add run_autograder"),
        ({".github/classroom/autograding.json": "{}"}, "autograding.json is not understood here", "GitHub Classroom"),
        ({"nbgrader_config.py": ""}, "nbgrader_config.py is not understood here", "nbgrader's assignments"),
        ({"src/run_autograder": ""}, "there is a Gradescope autograder in src/", "name that folder: {path}/src"),
        ({"a/b/run_autograder": "", "a/c": ""}, "there is a Gradescope autograder in a/b/", "{path}/a/b"),
        ({"a/b/c/run_autograder": ""}, "no autograder that is known", "see what would be recognised"),
        ({"q/info.json": "{"}, "no autograder that is known", "see what would be recognised"),
    ],
)
def test_what_is_nearly_an_autograder_is_told_what_it_lacks(
    files: dict[str, str], said: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(AssignmentError) as caught:
        Assignment.load(write(tmp_path / "x", files))
    assert caught.value.id == "assignment_missing"
    assert said in str(caught.value)
    assert hint.format(path=tmp_path / "x") in caught.value.hint


@pytest.mark.parametrize("name", ["bad.zip", "bad.tar.gz"])
def test_an_archive_that_is_none(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(AssignmentError) as caught:
        Assignment.load(tmp_path / name)
    assert name in str(caught.value)
    assert caught.value.hint.startswith("pack the autograder again"), "it is no student who reads this"


# --- Autolab ---------------------------------------------------------------------------------------


def test_a_lab(tmp_path: Path, blobs: Blobs) -> None:
    lab = Assignment.load(autolab(tmp_path / "hello"))
    assert (lab.name, lab.format, lab.max_score) == ("hello", "autolab", None)
    assert lab.problems == {"Correctness": 100, "2": 20}
    assert lab.submission.path == "hello.c"
    (step,) = lab.steps
    assert (step.command, step.image, step.limits.wall) == (("make",), "autograding_image", 30)
    plan = plan_of(lab, blobs)
    assert (plan.layout, plan.problems) == ("autolab", lab.problems)
    assert {path: file.data for path, file in bundle(plan, blobs).items()} == {
        "Makefile": b"all:\n\ttrue\n",
        "autograde.tar": b"a tar",
    }
    spec = box_spec(plan, 0, image="", token="t")
    assert [mount.path for mount in spec.mounts] == ["/job", "/submission", "/report"]


def test_a_lab_without_a_description(tmp_path: Path) -> None:
    lab = Assignment.load(autolab(tmp_path / "hello", yml=None))
    assert (lab.name, lab.problems, lab.submission.path) == ("hello", {}, "")
    assert lab.steps[0].limits.wall == 180
    assert "keep their own names" in " ".join(lab.taken)


def test_a_lab_that_says_it_in_ruby(tmp_path: Path) -> None:
    ruby = "def assessmentInitialize(course)\n  super('hello', course)\n  @handin_filename = 'hello.py'\nend\n"
    lab = Assignment.load(autolab(tmp_path / "hello", yml=None, **{"hello.rb": ruby}))
    assert lab.submission.path == "hello.py"


@pytest.mark.parametrize(
    ("yml", "id"),
    [
        ("general: [", "yaml"),
        ("general: 3", "wrong_value"),
        ("general: {handin_filename: GNUmakefile}", "wrong_value"),
        ("problems: {a: 1}", "wrong_value"),
        (f"problems: [{{name: a, max_score: {'9' * 5000}}}]", "wrong_value"),
        ("autograder: {autograde_timeout: soon}", "wrong_value"),
        ("general: {handin_filename: ../hello.c}", "wrong_value"),
        ("general: {handin_filename: Makefile}", "wrong_value"),
        ("problems: [{name: a, max_score: .nan}]", "wrong_value"),
        ("problems: [{name: a, max_score: -1}]", "wrong_value"),
        ("autograder: {autograde_timeout: .inf}", "wrong_value"),
        ("a: &a [*a, *a]\ngeneral: {name: [x]}", "yaml"),
    ],
)
def test_a_lab_whose_description_cannot_be_used(yml: str, id: str, tmp_path: Path) -> None:
    with pytest.raises(AssignmentError) as caught:
        Assignment.load(autolab(tmp_path / "hello", yml=yml))
    assert caught.value.id == id
    assert "hello.yml" in str(caught.value)


@pytest.mark.parametrize(
    "yml",
    [
        "general: {name: 213, handin_filename: a.c, due_at: 2024-13-45}\nproblems: [{name: yes, max_score: 1}]",
        "general: {name: ~, handin_filename: }\nautograder: {autograde_image: null}\nproblems:\n",
        "general: !!int foo\nx: !!timestamp foo\ny: !ruby/object:Course {a: 1}",
    ],
)
def test_a_lab_whose_description_is_odd(yml: str, tmp_path: Path) -> None:
    if "!!int" in yml:
        with pytest.raises(AssignmentError):
            Assignment.load(autolab(tmp_path / "hello", yml=yml))
        return
    lab = Assignment.load(autolab(tmp_path / "hello", yml=yml))
    assert lab.name in ("213", "hello")
    assert lab.problems in ({"yes": 1}, {})


def test_ruby_that_is_commented_out_or_names_the_labs_own_file_says_nothing(tmp_path: Path) -> None:
    ruby = "  # handin_filename = 'old.c'\n  @handin_filename = 'new.c'\n"
    assert Assignment.load(autolab(tmp_path / "a", yml=None, **{"a.rb": ruby})).submission.path == "new.c"
    for name in ("Makefile", "autograde.tar", "a/b.c"):
        made = autolab(tmp_path / "b", yml=None, **{"b.rb": f"handin_filename = '{name}'\n"})
        assert Assignment.load(made).submission.path == ""


def test_what_a_lab_does_in_its_own_way_is_said_not_to_run(tmp_path: Path) -> None:
    ruby = "  def parseAutoresult(result)\n  end\n  # def raw_score(scores)\n  def self.modifySubmissionScores(a)\n"
    made = Assignment.load(autolab(tmp_path / "a", **{"a.rb": ruby}))
    said = "its own modifySubmissionScores and parseAutoresult in Ruby does not run here, and scores may differ by it"
    assert said in made.taken
    plain = Assignment.load(autolab(tmp_path / "b", **{"b.rb": "def assessmentInitialize(course)\nend\n"}))
    assert not any("Ruby" in line for line in plain.taken)


def test_blank_lines_and_blanks_are_read_as_fast_as_others(tmp_path: Path) -> None:
    """Patterns that try each of them from each of them are not done with these before this test is killed."""
    lines, blanks = "\n" * 500_000, " " * 500_000
    made = Assignment.load(
        scope(tmp_path / "a", run=f"#!/bin/sh\n{lines}git pull\n", setup=f"{blanks}x\necho{blanks}&\n")
    )
    assert any("asks the network (git pull)" in line for line in made.taken)
    lab = Assignment.load(autolab(tmp_path / "b", yml=None, **{"b.rb": f"{lines}@handin_filename = 'new.c'\n"}))
    assert lab.submission.path == "new.c"


@pytest.mark.parametrize("name", ["GNUmakefile", "makefile", "Makefile", "autograde.tar"])
def test_a_hand_in_brings_no_makefile_of_its_own(name: str, tmp_path: Path, blobs: Blobs) -> None:
    handed_in = tmp_path / "eve"
    write(handed_in, {"hello.c": "x", name: "all:\n\t@echo forged\n", "other.c": "y"})
    lab = Assignment.load(autolab(tmp_path / "hello"))
    assert [file.path for file in Submission(lab, student="eve", files=handed_in).bundle()] == ["hello.c"]
    free = Assignment.load(autolab(tmp_path / "free", yml=None))
    plan = plan_of(free, blobs)
    submitted = Submission(free, student="eve", files=handed_in).bundle()
    lease = Lease("job1", 1, "t", 0.0, "", "", "hello", "eve")
    files, gone = hand_in(plan, lease, submitted, bundle(plan, blobs).values())
    assert ([file.path for file in files], gone) == (["hello.c", "other.c"], [name])


def test_a_hand_in_that_is_an_archive_stays_one(tmp_path: Path) -> None:
    lab = Assignment.load(autolab(tmp_path / "hello", yml="general: {handin_filename: handin.tar}"))
    (tmp_path / "ada.tar").write_bytes(b"whatever it is")
    (file,) = Submission(lab, student="ada", files=tmp_path / "ada.tar").bundle()
    assert (file.path, file.data) == ("handin.tar", b"whatever it is")


def test_a_script_that_names_an_archive_gets_it_packed(tmp_path: Path) -> None:
    made = Assignment.load(scope(tmp_path / "calc", run="#!/bin/sh\ntar xf /autograder/submission/sub.tar.gz\n"))
    for name, data in (("ada.tgz", b"whatever it is"), ("bob.tar.gz", b"\x1f\x8b")):
        (tmp_path / name).write_bytes(data)
        (file,) = Submission(made, student="ada", files=tmp_path / name).bundle()
        assert (file.path, file.data) == ("sub.tar.gz", data)
    (tmp_path / "eve.docx").write_bytes(b"PK\x03\x04")
    named = Assignment.load(scope(tmp_path / "named"))
    with pytest.raises(SubmissionError, match="is a document"):
        Submission(named, student="eve", files=tmp_path / "eve.docx").bundle()


# --- Gradescope ------------------------------------------------------------------------------------


def test_an_autograder_with_a_set_up(tmp_path: Path, blobs: Blobs) -> None:
    made = Assignment.load(scope(tmp_path / "calc"), image="debian:12")
    assert (made.name, made.format, made.steps[0].image) == ("calc", "gradescope", "autograder/")
    assert made.submission.name == "calculator.py"
    assert made.steps[0].limits == gradescope.LIMITS
    plan = plan_of(made, blobs)
    (step,) = plan.steps
    assert step.setup is True
    assert not step.bundle, "the image has it all"
    assert isinstance(step.image_files, str)
    files = {file.path: file for file in unpack(blobs.get(step.image_files))}
    assert set(files) == {
        "Dockerfile", "autograder/run_autograder", "autograder/source/run_autograder", "autograder/source/setup.sh",
        "autograder/source/run_tests.py", "autograder/source/tests/test_add.py",
    }  # fmt: skip
    assert files["Dockerfile"].data.startswith(b"FROM debian:12\n")
    assert b"cd / && bash /autograder/source/setup.sh\n" in files["Dockerfile"].data
    assert files["autograder/run_autograder"].executable
    assert step.command[-1] == "./run_autograder"


@pytest.mark.parametrize(
    "setup", [None, "", "#!/bin/bash\n# nothing to do\nset -e\n\nexit 0\n", "echo 'set up'\n", "set -euo pipefail\n"]
)
def test_a_set_up_that_does_nothing_needs_no_image(setup: str | None, tmp_path: Path, blobs: Blobs) -> None:
    plan = plan_of(Assignment.load(scope(tmp_path / "calc", setup=setup)), blobs)
    (step,) = plan.steps
    assert not step.setup
    assert not step.image_files
    assert step.image == gradescope.BASE
    assert (step.command, step.provided) == (("./run_autograder",), True)
    assert "source/run_tests.py" in bundle(plan, blobs)


@pytest.mark.parametrize(
    "setup",
    [
        "echo $(apt-get install x)\n",
        "echo a; apt-get install\n",
        "exit 0 || make\n",
        "echo 42 > answer\n",
        "echo <(make)\n",
    ],
)
def test_a_set_up_that_may_do_something_is_run(setup: str, tmp_path: Path) -> None:
    assert Assignment.load(scope(tmp_path / "calc", setup=setup)).steps[0].image == "autograder/"
    assert Assignment.load(tmp_path / "calc", setup=False).steps[0].image == gradescope.BASE


def test_a_dockerfile_of_its_own_is_built_where_there_is_no_set_up(tmp_path: Path, blobs: Blobs) -> None:
    """Gradescope's "manual Docker configuration"."""
    folder = scope(tmp_path / "calc", setup=None, Dockerfile="FROM base:1\nADD . /autograder/grader")

    def made(**wish: Any) -> tuple[Any, dict[str, File]]:
        (step,) = plan_of(Assignment.load(folder, **wish), blobs).steps
        files = unpack(blobs.get(step.image_files)) if step.image_files else ()
        return step, {file.path: file for file in files}

    step, files = made()
    assert (step.setup, step.bundle, step.command[-1]) == (True, "", "./run_autograder")
    assert set(files) == {"Dockerfile", "run_autograder", "run_tests.py", "tests/test_add.py"}
    assert files["Dockerfile"].data.startswith(b"FROM base:1\nADD . /autograder/grader\nUSER root\n")
    step, files = made(image="ours:2")
    assert files["Dockerfile"].data.startswith(b"FROM ours:2\n")
    assert {"autograder/run_autograder", "autograder/source/run_tests.py"} < set(files)
    step, files = made(setup=False)
    assert (step.image, files) == (gradescope.BASE, {})
    write(folder, {"setup.sh": "make\n"})
    step, files = made()
    assert files["Dockerfile"].data.startswith(f"FROM {gradescope.BASE}\n".encode()), "a zip, whatever it was tried in"


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("runuser -u student -- ./a.out", "changes users (runuser)"),
        ("su - student -c ./a.out", "changes users (su)"),
        ("su student -c ./a.out", "changes users (su)"),
        ("useradd student", "makes a user (useradd), which can only be done in setup.sh"),
        ("git pull", "asks the network (git pull)"),
        ("apt-get install -y gcc", "asks the network (apt-get)"),
        ("# git pull", ""),
        ("true # git pull", ""),
        ("true #\ngit pull", "asks the network (git pull)"),
        ("echo summary of results; cp supper.txt x; ./curly", ""),
        ("su=1", ""),
    ],
)
def test_what_a_script_does_that_is_not_to_be_had_here_is_told(run: str, said: str, tmp_path: Path) -> None:
    taken = "; ".join(Assignment.load(scope(tmp_path / "calc", run=f"#!/bin/sh\n{run}\n")).taken)
    assert (said in taken) if said else ("changes users" not in taken and "network" not in taken)


def test_links_that_stay_inside_are_what_they_lead_to(tmp_path: Path, blobs: Blobs) -> None:
    folder = scope(tmp_path / "calc", setup=None, **{"lib/data.txt": "data"})
    (folder / "linked.txt").symlink_to("lib/data.txt")
    (folder / "again").symlink_to("lib")
    files = bundle(plan_of(Assignment.load(folder), blobs), blobs)
    assert files["source/linked.txt"].data == files["source/again/data.txt"].data == b"data"
    for target, wrong in (("/etc/passwd", "file_outside"), ("nowhere", "not_regular"), (".", "archive_name")):
        (folder / "bad").symlink_to(target)
        with pytest.raises(AssignmentError) as caught:
            Assignment.load(folder)
        assert caught.value.id == wrong
        (folder / "bad").unlink()


def test_scripts_from_windows_run(tmp_path: Path, blobs: Blobs) -> None:
    plan = plan_of(Assignment.load(scope(tmp_path / "calc", run=RUN.replace("\n", "\r\n"), setup=None)), blobs)
    files = bundle(plan, blobs)
    assert files["run_autograder"].data == files["source/run_autograder"].data == RUN.encode()


def test_a_script_without_its_interpreter_is_bashs(tmp_path: Path) -> None:
    made = Assignment.load(scope(tmp_path / "calc", run="echo hello\n", setup=None))
    assert made.steps[0].command == ("bash", "run_autograder")


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("cp /autograder/submission/a.py .", "a.py"),
        ("cp /autograder/submission/a.py .; cat /autograder/submission/a.py", "a.py"),
        ("cp /autograder/submission/a.py /autograder/submission/b.py .", ""),
        ("cp /autograder/submission/*.py .", ""),
        ("# put /autograder/submission/README.md there\ncp /autograder/submission/a.py .", "a.py"),
        ("echo x > /autograder/submission/out.txt", ""),
        ("cp -r /autograder/submission/. .", ""),
    ],
)
def test_the_only_file_that_it_names_is_the_hand_ins(run: str, name: str, tmp_path: Path) -> None:
    made = Assignment.load(scope(tmp_path / "calc", run=f"#!/bin/sh\n{run}\n"))
    assert made.submission.name == name
    (tmp_path / "ada.py").write_text("x")
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob" / "main.py").write_text("x")
    (tmp_path / "bob" / "other.py").write_text("x")
    (file,) = Submission(made, student="ada", files=tmp_path / "ada.py").bundle()
    assert file.path == (name or "ada.py")
    assert [f.path for f in Submission(made, student="bob", files=tmp_path / "bob").bundle()] == ["main.py", "other.py"]


def test_where_gradescope_has_things(tmp_path: Path, blobs: Blobs) -> None:
    made = Assignment.load(scope(tmp_path / "calc", setup=None))
    plan = plan_of(made, blobs)
    spec = box_spec(plan, 0, image="", token="t")
    assert ([mount.path for mount in spec.mounts], spec.workdir) == (["/autograder"], "/autograder")
    assert layout_of(plan).report == ("/autograder", "results/")
    assert environment(plan, 0) == {}
    lease = Lease("job1", 1, "t", 0.0, "", "", "calc", "ada@example.org", submitted=1_700_000_000.0)
    files, gone = hand_in(plan, lease, [File("calculator.py", b"x", executable=True)], ())
    assert gone == []
    assert {file.path for file in files} == {
        "submission/calculator.py", "submission_metadata.json", "results/stdout", "harness.py",
    }  # fmt: skip
    said = json.loads(next(file.data for file in files if file.path == "submission_metadata.json"))
    assert datetime.strptime(said["created_at"], "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() == 1_700_000_000
    assert said["assignment_id"] == said["assignment"]["id"]
    assert said["users"][0]["email"] == said["users"][0]["name"] == "ada@example.org"
    assert said["assignment"]["title"] == "calc"
    assert said["previous_submissions"] == []
    assert isinstance(said["id"], int)
    assert (len(said["users"]), said["assignment"]["group_submission"]) == (1, False)
    together = structs.replace(lease, labels=group(("ada@example.org", "bob", "eve")))
    files, _ = hand_in(plan, together, [File("calculator.py", b"x")], ())
    said = json.loads(next(file.data for file in files if file.path == "submission_metadata.json"))
    assert [user["name"] for user in said["users"]] == ["ada@example.org", "bob", "eve"]
    assert len({user["id"] for user in said["users"]}) == 3
    assert said["assignment"]["group_submission"] is True


# --- PrairieLearn ----------------------------------------------------------------------------------


def test_a_question(tmp_path: Path, blobs: Blobs) -> None:
    html = '<pl-question-panel></pl-question-panel><pl-file-upload file-names="fib.py"></pl-file-upload>'
    made = Assignment.load(question(tmp_path / "fib", **{"question.html": html}))
    assert (made.name, made.format, made.submission.name) == ("Fibonacci", "prairielearn", "fib.py")
    (step,) = made.steps
    assert (step.command, step.image, step.network) == (("/grade/tests/run.sh", "--fast"), "course/grader:1", "none")
    assert (step.limits.wall, step.limits.memory, step.env) == (12, 2 << 30, {"A": "b"})
    plan = plan_of(made, blobs)
    files = bundle(plan, blobs)
    folders = {f"{name}/.keep" for name in ("serverFilesCourse", "shared", "student")}
    assert set(files) == {"tests/run.sh"} | folders, "the question itself is none of the student's business"
    assert files["tests/run.sh"].executable
    spec = box_spec(plan, 0, image="", token="t")
    assert ([mount.path for mount in spec.mounts], spec.workdir) == (["/grade"], "/grade")
    assert layout_of(plan).report == ("/grade", "results/")
    lease = Lease("job1", 1, "t", 0.0, "", "", "fib", "ada")
    given, _ = hand_in(plan, lease, [File("fib.py", b"\xff\0")], files.values())
    assert {file.path for file in given} == {"student/fib.py", "data/data.json"}
    said = json.loads(next(file.data for file in given if file.path == "data/data.json"))
    assert said["submitted_answers"]["_files"] == [{"name": "fib.py", "contents": "/wA="}]


def test_the_variables_that_a_question_names_are_its_parameters(tmp_path: Path, blobs: Blobs) -> None:
    """PrairieLearn's own grader for Python finds no question gradable without them."""
    html = """
    <pl-external-grader-variables params-name="names_for_user" empty="true"></pl-external-grader-variables>
    <pl-external-grader-variables params-name="names_from_user">
        <!-- what it gives -->
        <pl-variable name="x_sq" type="float">The <b>square</b> of $x$ </pl-variable>
        <pl-variable name="f" type="function"/>
    </pl-external-grader-variables>
    <pl-external-grader-variables params-name="of_the_server"></pl-external-grader-variables>
    <pl-external-grader-variables params-name="{{params.a}}">
        <pl-variable name="a" type=""/>
    </pl-external-grader-variables>
    <pl-variable name="stray" type="int"></pl-variable>
    """
    plan = plan_of(Assignment.load(question(tmp_path / "fib", **{"question.html": html})), blobs)
    lease = Lease("job1", 1, "t", 0.0, "", "", "fib", "ada")
    given, _ = hand_in(plan, lease, [File("fib.py", b"")], bundle(plan, blobs).values())
    said = json.loads(next(file.data for file in given if file.path == "data/data.json"))
    assert said["params"] == {
        "names_for_user": [],
        "names_from_user": [
            {"name": "x_sq", "type": "float", "description": "The square of $x$"},
            {"name": "f", "type": "function", "description": ""},
        ],
    }


def test_what_is_not_run_of_a_questions_server_is_told(tmp_path: Path) -> None:
    server = "import random\n\ndef generate(data):\n    data['params']['n'] = 3\n\n\ndef parse(data):\n    pass\n"
    taken = " ".join(Assignment.load(question(tmp_path / "fib", **{"server.py": server})).taken)
    assert "its server.py is not run here (generate, parse)" in taken
    plain = question(tmp_path / "plain", **{"server.py": "def grade(data):\n    # def generate\n    pass\n"})
    assert "server.py" not in " ".join(Assignment.load(plain).taken)


@pytest.mark.parametrize(
    ("graded", "html", "name"),
    [
        (["fib.py"], "<pl-workspace></pl-workspace>", "fib.py"),
        (["fib.py"], '<pl-file-editor file-name="other.py"></pl-file-editor>', "other.py"),
        (["a.c", "a.h"], "", ""),
        (["**/*.c"], "", ""),
        (["src/a.c"], "", ""),
        ([".."], "", ""),
        ([], "", ""),
    ],
)
def test_what_a_workspace_is_graded_by_is_the_hand_in(graded: list[str], html: str, name: str, tmp_path: Path) -> None:
    info = {**INFO, "workspaceOptions": {"image": "x", "port": 80, "home": "/home", "gradedFiles": graded}}
    made = Assignment.load(question(tmp_path / "fib", info, **{"question.html": html}))
    assert made.submission.name == name


def test_only_the_graders_of_prairielearns_own_that_need_it_get_a_layer(tmp_path: Path, blobs: Blobs) -> None:
    images = ("prairielearn/grader-c", "docker.io/prairielearn/grader-java:abc", "prairielearn/grader-cpp")
    for number, image in enumerate(images):
        folder = question(tmp_path / f"q{number}", options(image=image, entrypoint=""))
        (step,) = plan_of(Assignment.load(folder), blobs).steps
        if image.endswith("cpp"):
            assert (step.image, step.image_files) == (image, UNSET)
            continue
        assert isinstance(step.image_files, str)
        (file,) = unpack(blobs.get(step.image_files))
        assert file.data.startswith(f"FROM {image}\n".encode())
        assert (step.root, step.command, step.setup) == (True, (), UNSET)
        write(folder, {"assignment.toml": 'layout = "prairielearn"\n[[step]]\ncommand = ["sh", "mine.sh"]\n'})
        (step,) = plan_of(Assignment.load(folder), blobs).steps
        assert (step.image, step.image_files) == (image, UNSET)


def test_what_a_question_takes_of_its_course(tmp_path: Path, blobs: Blobs) -> None:
    write(tmp_path, {"infoCourse.json": "{}", "serverFilesCourse/lib/a.py": "a", "serverFilesCourse/b.py": "b"})
    folder = question(tmp_path / "questions" / "fib", options(serverFilesCourse=["lib/", "b.py"]))
    made = Assignment.load(folder)
    wanted = {"tests/run.sh", "student/.keep"}
    wanted |= {f"{name}/{path}" for name in ("serverFilesCourse", "shared") for path in ("lib/a.py", "b.py")}
    first = plan_of(made, blobs)
    assert set(bundle(first, blobs)) == wanted
    (tmp_path / "serverFilesCourse" / "b.py").write_text("changed")
    assert plan_of(made, blobs) != first


def test_what_is_ours_is_in_no_sandbox(tmp_path: Path, blobs: Blobs) -> None:
    """A folder that was graded in holds everybody's hand-ins, and the settings beside it may hold passwords."""
    folder = scope(tmp_path / "ag", setup=None)
    clean = bundle(plan_of(Assignment.load(folder), blobs), blobs)
    write(folder, {".minitango/queue.db": "all", "minitango.toml": "store = 'redis://:secret@host'"})
    assert bundle(plan_of(Assignment.load(folder), blobs), blobs) == clean
    assert plan_of(Assignment.load(folder), Blobs(folder / ".minitango" / "blobs"))


@pytest.mark.parametrize("layout", ["gradescope", "prairielearn", ""])
def test_a_state_among_its_files_is_refused(layout: str, tmp_path: Path) -> None:
    """Under a name of the user's choice: each pack would hold the one before."""
    folder = tmp_path / "ag"
    if layout == "gradescope":
        scope(folder, setup=None)
    elif layout == "prairielearn":
        question(folder)
    else:
        toml = 'name = "hw"\nformat = "exit-code"\nmax_score = 1\n[[step]]\ncommand = ["true"]\nfiles = ["t*"]\n'
        write(folder, {"assignment.toml": toml, "tests/a": ""})
    (tmp_path / "link").symlink_to(folder)
    inside = folder if layout == "gradescope" else folder / "tests"
    for state in (inside / "state", tmp_path / "link" / inside.relative_to(folder) / "state"):
        with pytest.raises(AssignmentError) as caught:
            Assignment.load(folder).pack(Blobs(state / "blobs"))
        assert (caught.value.id, "--state DIR" in caught.value.hint) == ("not_apart", True)
    assert plan_of(Assignment.load(folder), Blobs(tmp_path / "state" / "blobs"))
    if layout:
        autolab(tmp_path / "lab")
        assert plan_of(Assignment.load(tmp_path / "lab"), Blobs(tmp_path / "lab" / "state" / "blobs"))


def test_how_much_an_autograder_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its files together: exactly at the bounds is in them."""
    folder = write(tmp_path / "ag", {"run_autograder": "12345", "a/b": "123", "a/c": "12"})
    for bound, least, said in (("MAX_BYTES", 10, "has 5 B, more than the 4 B"), ("MAX_FILES", 3, "more than 2 files")):
        with monkeypatch.context() as patch:
            patch.setattr(source, bound, least)
            assert len(source.Source(folder).below()) == 3
            patch.setattr(source, bound, least - 1)
            with pytest.raises(AssignmentError, match=said):
                source.Source(folder).below()


def test_a_course_that_is_taken_as_a_whole(tmp_path: Path, blobs: Blobs) -> None:
    write(tmp_path, {"infoCourse.json": "{}", "serverFilesCourse/lib/a.py": "a", "serverFilesCourse/b.py": "b"})
    folder = question(tmp_path / "questions" / "fib", options(serverFilesCourse=["lib", "/", "b.py"]))
    files = bundle(plan_of(Assignment.load(folder), blobs), blobs)
    assert {path for path in files if "Course" in path} == {"serverFilesCourse/lib/a.py", "serverFilesCourse/b.py"}


def settled(folder: Path) -> None:
    """As if all below a folder had been written a minute ago: what it was packed to is kept."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            os.utime(path, (time.time() - 60, time.time() - 60))


@pytest.mark.parametrize(
    "changed", ["serverFilesCourse/lib/a.py", "questions/fib/tests/run.sh", "questions/fib/elsewhere/linked.sh"]
)
def test_a_change_is_seen_by_who_packed_it_before(changed: str, tmp_path: Path, blobs: Blobs) -> None:
    """Also of a file that lies outside of the question, or that a link leads to."""
    write(tmp_path, {"infoCourse.json": "{}", "serverFilesCourse/lib/a.py": "a"})
    folder = question(tmp_path / "questions" / "fib", options(serverFilesCourse=["lib/"]))
    write(folder, {"elsewhere/linked.sh": "linked"})
    (folder / "tests" / "more").symlink_to("../elsewhere")
    settled(tmp_path)
    made = Assignment.load(folder)
    first = plan_of(made, blobs)
    assert plan_of(made, blobs) == first
    (tmp_path / changed).write_text("changed")
    assert plan_of(made, blobs) != first


@pytest.mark.parametrize(
    ("info", "id"),
    [
        (options(entrypoint="", image=""), "missing_key"),
        (options(entrypoint="'open"), "missing_key"),
        (options(entrypoint="/grade/tests/none.sh"), "file_missing"),
        (options(timeout="soon"), "json"),
        (options(timeout=0), "wrong_value"),
        (options(serverFilesCourse=["lib/"]), "file_missing"),
    ],
)
def test_a_question_that_cannot_be_used(info: dict[str, Any], id: str, tmp_path: Path) -> None:
    with pytest.raises(AssignmentError) as caught:
        Assignment.load(question(tmp_path / "fib", info))
    assert caught.value.id == id
    assert "info.json" in str(caught.value)


def test_it_is_root_by_the_image_that_is_used(tmp_path: Path) -> None:
    """Not by one that another was named in place of."""
    own = {**INFO, "externalGradingOptions": {"image": "prairielearn/grader-python:latest"}}
    question(tmp_path / "own", own)
    question(tmp_path / "other")
    for folder, image, root in (
        ("own", "prairielearn/grader-c", True),
        ("own", "school/mine:1", False),
        ("other", "prairielearn/grader-r@sha256:" + "0" * 64, True),
        ("other", "", False),
    ):
        made = Assignment.load(tmp_path / folder, image=image)
        assert made.steps[0].root is root, (folder, image)
        assert any("it is root" in line for line in made.taken) is root


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("[]", "is no JSON object"),
        ("[" * 5000 + "]" * 5000, "cannot be read: "),
        ('{"title": ', "cannot be read: "),
    ],
    ids=["empty", "list", "deep", "cut"],
)
def test_a_question_whose_description_is_damaged(text: str, said: str, tmp_path: Path) -> None:
    write(tmp_path / "fib", {"info.json": text, "question.html": "", "tests/run.sh": ""})
    for place in (tmp_path / "fib", zipped(tmp_path / "fib")):
        with pytest.raises(AssignmentError) as caught:
            Assignment.load(place)
        assert caught.value.id == "json"
        assert "info.json: " in str(caught.value)
        assert f"by which a PrairieLearn question is known, {said}" in str(caught.value)


def test_a_question_that_only_says_that_it_is_graded_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "fib", {"info.json": '{"gradingMethod":"External"}'})
    with pytest.raises(AssignmentError, match=r"externalGradingOptions\.entrypoint") as caught:
        Assignment.load(tmp_path / "fib")
    assert caught.value.id == "missing_key"


@pytest.mark.parametrize(
    ("info", "why"),
    [
        (options(enabled=False), "enabled is false"),
        ({**INFO, "gradingMethod": "Internal"}, "its gradingMethod is Internal"),
        ({key: value for key, value in INFO.items() if key != "gradingMethod"}, "its gradingMethod is Internal"),
        (INFO, ""),
    ],
    ids=["disabled", "internal", "unsaid", "external"],
)
def test_a_question_that_prairielearn_would_not_grade_so(info: dict[str, Any], why: str, tmp_path: Path) -> None:
    said = [
        line for line in Assignment.load(question(tmp_path / "fib", info)).taken if "PrairieLearn would not" in line
    ]
    assert said == ([f"PrairieLearn would not run this grader now, as {why} in info.json"] if why else [])


@pytest.mark.parametrize("image", ["prairielearn/grader-python", "docker.io/prairielearn/grader-r:latest"])
def test_graders_that_change_users_are_root_in_their_container_and_that_is_said(
    image: str, tmp_path: Path, blobs: Blobs
) -> None:
    made = Assignment.load(question(tmp_path / "fib", options(image=image, entrypoint="")))
    (step,) = plan_of(made, blobs).steps
    assert (step.root, step.command, step.image, step.provided) == (True, (), image, False)
    assert any("it is root inside of its container" in line for line in made.taken)
    write(tmp_path / "fib", {"assignment.toml": 'layout = "prairielearn"\n[[step]]\ncommand = ["sh", "mine.sh"]\n'})
    mine = Assignment.load(tmp_path / "fib")
    assert (mine.steps[0].command, mine.steps[0].root) == (("sh", "mine.sh"), False)
    assert plan_of(mine, blobs).steps[0].root is UNSET
    write(tmp_path / "fib", {"assignment.toml": 'layout = "prairielearn"\n[[step]]\nroot = false\n'})
    assert Assignment.load(tmp_path / "fib").steps[0].root is False


def test_an_entrypoint_that_is_not_named_is_the_images_own(tmp_path: Path, blobs: Blobs) -> None:
    made = Assignment.load(question(tmp_path / "fib", options(image="school/grader", entrypoint="")))
    (step,) = plan_of(made, blobs).steps
    assert (step.command, step.root) == ((), UNSET)
    assert not any("root inside" in line for line in made.taken)


def test_a_variable_that_a_question_takes_away_is_said_to_stay(tmp_path: Path) -> None:
    made = Assignment.load(question(tmp_path / "fib", options(environment={"A": "b", "C": None, "B": None})))
    assert made.steps[0].env == {"A": "b"}
    assert "what its image sets stays set, though the question takes it away: B, C" in made.taken
    assert not any(
        "stays set" in line for line in Assignment.load(question(tmp_path / "x", options(environment={}))).taken
    )


def test_a_question_may_open_the_network(tmp_path: Path) -> None:
    (step,) = Assignment.load(question(tmp_path / "fib", options(enableNetworking=True))).steps
    assert step.network == "open"


# --- with an assignment.toml beside it -------------------------------------------------------------


def test_more_can_be_said_beside_it(tmp_path: Path, blobs: Blobs) -> None:
    scope(tmp_path / "calc" / "autograder")
    write(tmp_path / "calc", {
        "assignment.toml": """
            name = "calculator"
            layout = "gradescope"
            autograder = "autograder"
            setup = false
            max_score = 20
            bonus = false
            [submission]
            name = "calc.py"
            max_size = "1MiB"
            [[step]]
            image = "python:3.12"
            limits = { wall = "5s" }
            env = { X = "1" }
            [[sample]]
            path = "good.py"
            score = 20
        """,
        "good.py": "",
    })  # fmt: skip
    made = Assignment.load(tmp_path / "calc")
    (step,) = made.steps
    assert (made.name, made.max_score, made.bonus, len(made.samples)) == ("calculator", 20, False, 1)
    assert (made.submission.name, made.submission.max_size) == ("calc.py", 1 << 20)
    assert (step.image, step.env) == ("python:3.12", {"X": "1"})
    assert (step.limits.wall, step.limits.memory) == (5, gradescope.LIMITS.memory)
    assert "source/run_tests.py" in bundle(plan_of(made, blobs), blobs)
    assert Assignment.load(tmp_path / "calc", image="other:1").steps[0].image == "python:3.12"


def test_the_toml_beside_it_is_no_part_of_it(tmp_path: Path, blobs: Blobs) -> None:
    folder = write(scope(tmp_path / "calc", setup=None), {"assignment.toml": 'layout = "gradescope"\n'})
    assert "source/assignment.toml" not in bundle(plan_of(Assignment.load(folder), blobs), blobs)


def test_an_archive_may_lie_beside_it(tmp_path: Path, blobs: Blobs) -> None:
    zipped(scope(tmp_path / "a" / "autograder", setup=None))
    write(tmp_path / "a", {"assignment.toml": 'name = "x"\nlayout = "gradescope"\nautograder = "autograder.zip"\n'})
    assert "source/run_tests.py" in bundle(plan_of(Assignment.load(tmp_path / "a"), blobs), blobs)


@pytest.mark.parametrize(
    ("toml", "id", "key"),
    [
        ('layout = "moodle"', "wrong_value", "layout"),
        ('layout = "autolab"', "layout", ""),
        ('layout = "gradescope"\nformat = "junit"', "layout", "format"),
        ('layout = "gradescope"\n[[step]]\nfiles = ["a"]', "layout", "step[0].files"),
        ('layout = "gradescope"\n[[step]]\nsubmission = false', "layout", "step[0].submission"),
        ('layout = "gradescope"\n[[step]]\n[[step]]', "layout", "step"),
        ('layout = "gradescope"\nautograder = "none"', "file_missing", "autograder"),
        ('layout = "gradescope"\nautograder = "../x"', "", "autograder"),
        ('layout = "gradescope"\nproblems = 3', "wrong_type", "problems"),
        ('name = "x"\nsetup = false\n[[step]]\ncommand = ["true"]', "layout", "setup"),
        ('name = "x"\nautograder = "a"\n[[step]]\ncommand = ["true"]', "layout", "autograder"),
        ('layout = "gradescope"\n[submission]\npath = "a.py"\nname = "b.py"', "assignment", "submission.name"),
    ],
)
def test_what_cannot_be_said_beside_it(toml: str, id: str, key: str, tmp_path: Path) -> None:
    folder = write(scope(tmp_path / "calc"), {"assignment.toml": toml})
    with pytest.raises(AssignmentError) as caught:
        Assignment.load(folder)
    assert caught.value.key == key
    assert not id or caught.value.id == id


def test_what_changes_on_disk_is_packed_anew(tmp_path: Path, blobs: Blobs) -> None:
    for folder in (autolab(tmp_path / "hello"), scope(tmp_path / "calc", setup=None), question(tmp_path / "fib")):
        made = Assignment.load(folder)
        before = made.pack(blobs)
        assert made.pack(blobs) == before
        changed = next(
            folder / name for name in ("autograde.tar", "run_tests.py", "tests/run.sh") if (folder / name).exists()
        )
        changed.write_text("#!/bin/sh\n# changed\n")
        assert made.pack(blobs).digest != before.digest


def test_plans_of_our_own_layout_say_nothing_of_it(tmp_path: Path, blobs: Blobs) -> None:
    write(tmp_path / "own", {"assignment.toml": 'name = "x"\n[[step]]\ncommand = ["true"]\n'})
    data = blobs.get(Assignment.load(tmp_path / "own").pack(blobs).digest)
    assert not {"layout", "problems", "setup"} & set(json.loads(data))
    assert "setup" not in json.loads(data)["steps"][0]
    assert Plan.decode(data).steps[0].limits == Limits()


# --- what is at their edges ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../secret", "lib/../../secret", ".."])
def test_what_a_question_takes_stays_inside_of_its_course(name: str, tmp_path: Path) -> None:
    write(tmp_path, {"infoCourse.json": "{}", "serverFilesCourse/lib/a.py": "a", "secret": "s"})
    with pytest.raises(AssignmentError) as caught:
        Assignment.load(question(tmp_path / "questions" / "fib", options(serverFilesCourse=[name])))
    assert caught.value.id == "file_outside"


def test_of_several_descriptions_the_labs_own_is_read(tmp_path: Path) -> None:
    other = "general: {handin_filename: other.c}"
    made = autolab(tmp_path / "hello", **{"another.yml": other, "zz.yml": other})
    assert Assignment.load(made).submission.path == "hello.c"
    (made / "hello.yml").unlink()
    assert Assignment.load(made).submission.path == "", "two are left, and neither has its name"
    (made / "zz.yml").unlink()
    assert Assignment.load(made).submission.path == "other.c"


def test_problems_without_a_maximum_are_those_that_the_report_names(tmp_path: Path) -> None:
    yml = "problems: [{name: a, max_score: 1}, {name: b}]"
    assert Assignment.load(autolab(tmp_path / "hello", yml=yml)).problems == {}


def test_a_time_out_of_days_is_one_day(tmp_path: Path) -> None:
    yml = "autograder: {autograde_timeout: 900000}"
    assert Assignment.load(autolab(tmp_path / "hello", yml=yml)).steps[0].limits.wall == 86_400


@pytest.mark.parametrize(("layout", "make"), [("autolab", autolab), ("gradescope", scope), ("prairielearn", question)])
def test_another_command_can_be_named(layout: str, make: Make, tmp_path: Path, blobs: Blobs) -> None:
    folder = make(tmp_path / "x")
    toml = f'layout = "{layout}"\nsetup = false\n[[step]]\ncommand = ["sh", "mine.sh"]\n'
    write(folder, {"assignment.toml": toml})
    assert plan_of(Assignment.load(folder), blobs).steps[0].command == ("sh", "mine.sh")


def test_a_set_up_script_from_windows_runs(tmp_path: Path, blobs: Blobs) -> None:
    step = plan_of(Assignment.load(scope(tmp_path / "calc", setup="#!/bin/sh\r\nmake\r\n")), blobs).steps[0]
    assert isinstance(step.image_files, str)
    files = {file.path: file for file in unpack(blobs.get(step.image_files))}
    script = files["autograder/source/setup.sh"]
    assert (script.data, script.executable) == (b"#!/bin/sh\nmake\n", True)


def test_names_that_a_template_makes_up_are_none(tmp_path: Path) -> None:
    made_up = '<pl-file-upload file-names="{{params.name}}"></pl-file-upload>'
    html = f'{made_up}<pl-file-editor file-name="a.py"></pl-file-editor>'
    assert Assignment.load(question(tmp_path / "fib", **{"question.html": html})).submission.name == "a.py"
    broken = "<![foo[" + html
    assert Assignment.load(question(tmp_path / "fib2", **{"question.html": broken})).submission.name in ("", "a.py")
