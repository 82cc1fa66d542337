"""The examples grade as their samples and READMEs say: in both sandboxes, and those of other platforms unmodified.

Each sample of each example in both is the long form (MINITANGO_LONG=1).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from minitango import Assignment
from minitango.assignment.submission import find_handins
from tests.docker_engine import client, need_docker, unavailable
from tests.docker_images import python_image
from tests.e2e.conftest import ROOT, Answer, CommandLine

FOLDER = ROOT / "examples"
EXAMPLES = sorted(path.parent.name for path in FOLDER.glob("*/assignment.toml"))
GRADED_ELSEWHERE = ("wordcount",)
"""By the tests of README.md, and by test_docker.py."""
ADOPTED = {
    "calculator-gradescope": "autograder",
    "fib-prairielearn": "course/questions/fib",
    "hello-autolab": "lab",
}
"""Where the autograder of another platform is."""
TOOLS = {"hello-autolab": ("gcc", "make"), "matrix-c": ("gcc", "make"), "junit-pytest": ("pytest",)}
LONG = ("looping", "forking", "memory", "slow")
"""Hand-ins that take seconds: what ends them is the same with and without an assignment.toml."""
FEW = ("right", "folder", "wrong")
IN_BOTH = EXAMPLES if os.environ.get("MINITANGO_LONG") else ["calculator-gradescope", "matrix-c"]
"""Whose every sample is graded in both sandboxes. Of the others the short form grades in the second what has a way of
its own there: a few hand-ins of the platform's autograder, or of calls."""
IN_DOCKER = ("junit-pytest",)
"""Whose one sandbox is Docker: in bubblewrap few machines have what it needs."""

Verdicts = dict[str, tuple[object, ...]]
"""Of each hand-in: state, outcome, score, maximum."""


def name_of(handin: str) -> str:
    """`handins/right.c` is `right`."""
    return Path(handin).name.split(".")[0]


def verdicts(graded: Sequence[dict[str, Any]]) -> Verdicts:
    """Of each hand-in what became of it."""
    return {name_of(job["student"]): (job["state"], job["outcome"], job["score"], job["max_score"]) for job in graded}


def expected(example: str) -> dict[str, object]:
    """Of each sample the score, else the outcome."""
    samples = Assignment.load(FOLDER / example).samples
    return {name_of(s.path): str(s.outcome) if s.score is None else s.score for s in samples}


def handins(example: str, to: Path, names: Sequence[str] = FEW) -> Path:
    """A new folder with these hand-ins of an example."""
    to.mkdir()
    for handin in find_handins([FOLDER / example / "handins"]):
        if handin.student in names:
            (shutil.copytree if handin.path.is_dir() else shutil.copy)(handin.path, to / handin.path.name)
    return to


def readme(example: str) -> str:
    return (FOLDER / example / "README.md").read_text()


def commands(example: str) -> list[list[str]]:
    """The words of each command line of minitango's in its README."""
    return [shlex.split(line, comments=True) for line in re.findall(r"^    (bin/minitango .*)$", readme(example), re.M)]


def need_tools(example: str) -> None:
    """Skip what this machine lacks for bubblewrap. A pytest for all users is nothing that CI has to have."""
    path = os.pathsep.join([f"{sys.base_prefix}/bin", "/usr/local/bin", "/usr/bin", "/bin"])
    missing = [tool for tool in TOOLS.get(example, ()) if shutil.which(tool, path=path) is None]
    if missing == ["pytest"]:
        pytest.skip("bubblewrap's boxes have this machine's programs, and pytest is not one (try: apt install pytest)")
    elif missing:
        unavailable(f"{' and '.join(missing)} must be there (try: apt-get install {' '.join(missing)})")


@pytest.fixture
def docker() -> dict[str, str]:
    """The environment that names the engine."""
    return {"DOCKER_HOST": need_docker()}


@pytest.fixture
def image(docker: dict[str, str]) -> str:
    return python_image()


def with_image(example: str, to: Path, image: str) -> Path:
    """A copy of an example in which every image that it names is this one."""
    copy = shutil.copytree(FOLDER / example, to / example)
    for pattern, file in ((r'^(image = )".*?"', "assignment.toml"), (r'("image": )".*?"', "info.json")):
        for path in copy.rglob(file):
            path.write_text(re.sub(pattern, rf'\1"{image}"', path.read_text(), flags=re.M))
    return copy


# --- what is written of them -----------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_table_of_its_readme_has_every_hand_in_and_what_it_gets(example: str) -> None:
    table = readme(example).split("| hand-in | gets | because |\n|---|---|---|\n")[1].split("\n\n")[0]
    said: dict[str, object] = {}
    for names, gets in re.findall(r"^\| (.*?) \| (.*?) \|", table, re.M):
        for name in re.findall("`(.*?)`", names):
            assert (FOLDER / example / "handins" / name).exists(), name
            said[name_of(name)] = float(gets) if gets.isdigit() else gets
    assert said == expected(example)
    assert {handin.student for handin in find_handins([FOLDER / example / "handins"])} == set(said)


@pytest.mark.parametrize("example", EXAMPLES)
def test_its_readme_says_how_to_run_and_to_check_it(example: str) -> None:
    """These are the commands that the tests below run."""
    autograder = f"/{ADOPTED[example]}" if example in ADOPTED else ""
    run = ["bin/minitango", "run", f"examples/{example}{autograder}", f"examples/{example}/handins"]
    if (FOLDER / example / "autograder/setup.sh").exists():
        run.append("--no-setup")
    assert commands(example) == [run, ["bin/minitango", "check", f"examples/{example}"]]


@pytest.mark.parametrize("example", EXAMPLES)
def test_its_readme_is_honest_about_who_can_forge_a_score(example: str) -> None:
    trust = Assignment.load(FOLDER / example).trust
    assert re.search(rf'"trust":\s"{trust}"', readme(example))
    row = next(line for line in (FOLDER / "README.md").read_text().splitlines() if f"]({example}/)" in line)
    assert row.split(" | ")[2] == ("students" if trust == "shared" else "nobody")


def test_autograde_tar_holds_src_and_nothing_else() -> None:
    lab = FOLDER / "hello-autolab/lab"
    with tarfile.open(lab / "autograde.tar") as tar:
        packed = {m.name: (m.isdir(), b"" if m.isdir() else tar.extractfile(m).read()) for m in tar}  # type: ignore[union-attr]
    there = [lab / "src", *(lab / "src").rglob("*")]
    assert packed == {str(p.relative_to(lab)): (p.is_dir(), b"" if p.is_dir() else p.read_bytes()) for p in there}, (
        "autograde.tar is not what src/ is: make it again, as examples/hello-autolab/README.md says"
    )


def test_autograde_tar_is_made_as_its_readme_says(tmp_path: Path) -> None:
    (command,) = re.findall(r"^    (tar .*)$", readme("hello-autolab"), re.M)
    if b"GNU tar" not in subprocess.run(["tar", "--version"], capture_output=True).stdout:
        pytest.skip("this tar is not GNU's")
    shutil.copytree(FOLDER / "hello-autolab", tmp_path / "examples/hello-autolab")
    made = tmp_path / "examples/hello-autolab/lab/autograde.tar"
    made.unlink()
    subprocess.run(shlex.split(command), cwd=tmp_path, check=True)
    assert made.read_bytes() == (FOLDER / "hello-autolab/lab/autograde.tar").read_bytes()


# --- graded ----------------------------------------------------------------------------------------


def check(cli: CommandLine, example: str, *words: str, **options: Any) -> Verdicts:
    answer = cli(*words, "--workers", "4", "--quiet", "--json", **options)
    assert answer.code == 0, answer
    assert [sample for sample in answer.samples if not sample["ok"]] == []
    assert len(answer.samples) == len(expected(example))
    return verdicts(answer.samples)


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("example", [name for name in EXAMPLES if name not in GRADED_ELSEWHERE])
def test_its_samples_are_graded_alike_in_its_sandboxes(
    cli: CommandLine, example: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    seen = []
    if example in (*IN_BOTH, *IN_DOCKER):
        docker, image = request.getfixturevalue("docker"), request.getfixturevalue("image")
        in_docker = ("check", str(with_image(example, tmp_path, image)), "--sandbox", "docker", "--image", image)
        seen.append(check(cli, example, *in_docker, env=docker))
    if example in IN_BOTH or example not in IN_DOCKER:
        need_tools(example)
        words = commands(example)[1][1:]
        seen.append(check(cli, example, *words, "--sandbox", "bubblewrap", cwd=ROOT))
    assert seen[0] == seen[-1]


def assert_graded(answer: Answer, example: str, names: Sequence[str] = FEW) -> None:
    """These hand-ins were graded, and got what the example's samples say."""
    assert answer.code == 0, answer
    seen = {name: got[2] if got[1] == "graded" else got[1] for name, got in verdicts(answer.jobs).items()}
    assert seen == {name: got for name, got in expected(example).items() if name in names}
    assert len(seen) == len(names)


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("example", ADOPTED)
def test_the_autograder_alone_gives_the_same_grades(cli: CommandLine, example: str, tmp_path: Path) -> None:
    need_tools(example)
    run, autograder, _, *more = commands(example)[0][1:]
    more += ["--sandbox", "bubblewrap", "--workers", "4", "--quiet", "--json"]
    names = [name for name in expected(example) if name not in LONG]
    some = handins(example, tmp_path / "some", names)
    assert_graded(cli(run, autograder, some, *more, "--state", tmp_path / "state", cwd=ROOT), example, names)

    folder = shutil.copytree(FOLDER / example, tmp_path / example) / ADOPTED[example]
    packed = folder.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    shutil.rmtree(folder)
    assert_graded(cli(run, packed, handins(example, tmp_path / "few"), *more), example)


def test_without_an_image_its_setup_is_refused_and_the_way_out_named(cli: CommandLine, sandbox: None) -> None:
    run = [*commands("calculator-gradescope")[0][1:3], "examples/calculator-gradescope/handins/right.py"]
    answer = cli(*run, "--sandbox", "bubblewrap", "--state", cli.folder / "state", cwd=ROOT)
    assert answer.code == 2
    assert "error[setup_needed]" in answer.err
    assert "--no-setup" in answer.err


def test_in_docker_a_guarded_grader_calls_hand_ins_too(
    cli: CommandLine, docker: dict[str, str], image: str, tmp_path: Path
) -> None:
    where = ("--sandbox", "docker", "--image", image, "--workers", "4", "--quiet", "--json")
    answer = cli(
        "run", with_image("guarded", tmp_path, image), handins("guarded", tmp_path / "few"), *where, env=docker
    )
    assert_graded(answer, "guarded")


@pytest.mark.parametrize("example", ADOPTED)
def test_in_docker_the_autograder_alone_takes_the_image_that_is_named(
    cli: CommandLine, example: str, docker: dict[str, str], image: str, tmp_path: Path
) -> None:
    """And where it has a setup.sh, that is run into an image of its own."""
    autograder, few = FOLDER / example / ADOPTED[example], handins(example, tmp_path / "few")
    where = ("--sandbox", "docker", "--image", image, "--workers", "4", "--quiet", "--json")
    answer = cli("run", autograder, few, *where, "--state", "state", env=docker)
    assert_graded(answer, example)
    shown = cli("jobs", "show", answer.jobs[0]["id"], "--json", "--state", "state", env=docker)
    result = json.loads(shown.out)["jobs"][0]["result"]
    with client(docker["DOCKER_HOST"]) as engine:
        given = engine.api.inspect_image(image)["Id"]
        if not (autograder / "setup.sh").exists():
            assert result["image_digest"] == given
            return
        with contextlib.suppress(Exception):
            engine.api.remove_image(result["image_digest"], force=True)
    assert result["image_digest"] != given
    assert result["extra_data"] == {"cases": "made by setup.sh"}
