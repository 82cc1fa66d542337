"""Settings: which source wins, and what their paths are relative to."""

from __future__ import annotations

from pathlib import Path

import pytest

from minitango.callback_url import Callbacks
from minitango.cli.config import Setting, explain, unknown_variables
from minitango.cli.settings import Settings, resolve
from minitango.cli.settings_file import KEYS
from minitango.errors import ConfigError
from minitango.statedir import locate


@pytest.mark.parametrize(
    "text", ["127.0.0.1:6379/0", "localhost:6379", "redis:/h:1/0?queue=q", "mt:secret@h/0", "sqlite://relative.db"]
)
def test_a_server_without_its_scheme_is_no_file(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the queue would be split without a word."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        locate(text, None)
    assert caught.value.id == "store_url"
    assert "secret" not in str(caught.value)
    (tmp_path / "a:b").mkdir()
    assert locate("a:b", None)[1] == tmp_path / "a:b", "one that is there"
    assert locate("./c:d", None)[1] == tmp_path / "c:d"


def test_defaults(tmp_path: Path) -> None:
    assert resolve(environ={}, folder=tmp_path) == Settings(".minitango", None, "auto", None)


def test_flags_win_over_variables_over_files(tmp_path: Path) -> None:
    (tmp_path / "minitango.toml").write_text('state = "file"\nsandbox = "of-file"\nworkers = 1\n')
    environ = {"MINITANGO_SANDBOX": "of-variable", "MINITANGO_WORKERS": "2"}
    found = resolve(workers=3, environ=environ, folder=tmp_path)
    assert found == Settings(str(tmp_path / "file"), None, "of-variable", 3)


def test_several_docker_engines(tmp_path: Path) -> None:
    (tmp_path / "minitango.toml").write_text('sandbox = ["docker+unix:///a", "docker+tcp://h:2376?slots=8"]\n')
    assert resolve(environ={}, folder=tmp_path).sandbox == "docker+unix:///a,docker+tcp://h:2376?slots=8"
    environ = {"MINITANGO_SANDBOX": "docker,docker+unix:///b"}
    assert resolve(environ=environ, folder=tmp_path).sandbox == "docker,docker+unix:///b"
    told = {each.key: each.value for each in explain({"sandbox": "docker?slots=3"}, {})}
    assert (told["sandbox"], told["workers"]) == ("docker?slots=3", "the slots of all engines")
    assert resolve(sandbox="bubblewrap", environ=environ, folder=tmp_path).sandbox == "bubblewrap"
    for wrong in ("sandbox = [3]", "sandbox = 3", "sandbox = []"):
        (tmp_path / "minitango.toml").write_text(f"{wrong}\n")
        with pytest.raises(ConfigError) as caught:
            resolve(environ={}, folder=tmp_path)
        assert caught.value.id in ("settings", "sandbox_name")


def test_the_image_of_steps_that_name_none(tmp_path: Path) -> None:
    (tmp_path / "minitango.toml").write_text('image = "of-file:1"\n')
    assert resolve(environ={}, folder=tmp_path).image == "of-file:1"
    assert resolve(environ={"MINITANGO_IMAGE": "of-variable"}, folder=tmp_path).image == "of-variable"
    assert (
        resolve(image="reg.example/x:2", environ={"MINITANGO_IMAGE": "y"}, folder=tmp_path).image == "reg.example/x:2"
    )


@pytest.mark.parametrize("name", ["gcc 14", "docker/", "https://hub.docker.com/gcc", "\x1b[2J"])
def test_what_is_no_image(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(image=name, environ={}, folder=tmp_path)
    assert caught.value.id == "image_name"
    assert str(caught.value).isprintable()


def test_hosts_that_callbacks_may_go_to(tmp_path: Path) -> None:
    (tmp_path / "minitango.toml").write_text('callback_allow = ["a.internal", "10.0.0.1"]\n')
    assert resolve(environ={}, folder=tmp_path).callbacks == Callbacks(allow=("a.internal", "10.0.0.1"))
    environ = {"MINITANGO_CALLBACK_ALLOW": "b.internal, c.internal", "MINITANGO_CALLBACK_SECRET": "hush"}
    found = resolve(environ=environ, folder=tmp_path).callbacks
    assert found == Callbacks(allow=("b.internal", "c.internal"), secret="hush")
    assert resolve(callback_allow=("D.internal",), environ=environ, folder=tmp_path).callbacks.allow == ("d.internal",)
    assert resolve(callback_allow=(), environ=environ, folder=tmp_path).callbacks == found, "no flag says nothing"
    assert unknown_variables(environ) == {}


@pytest.mark.parametrize("value", ['"a.internal"', "[1]", "true", '["http://a.internal"]'])
def test_what_is_no_list_of_hosts(tmp_path: Path, value: str) -> None:
    (tmp_path / "minitango.toml").write_text(f"callback_allow = {value}\n")
    with pytest.raises(ConfigError) as caught:
        resolve(environ={}, folder=tmp_path)
    assert caught.value.id in ("settings", "callback_url")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('[student]\nwall = "2s"\n', "student goes into assignment.toml."),
        ('[limits]\nrequire = ["memory"]\n', "limits goes into assignment.toml."),
        ('[docker]\nrequire = ["memory"]\n', "require stands by itself, above every [table]."),
        ('[sandbox]\nrequire = ["memory"]\n', "correct sandbox in minitango.toml: require = ... stands by itself"),
        ('require = "memory, pids"\n', 'correct require in minitango.toml: require = ["memory", "pids"]'),
        ("worker = 2\n", "did you mean 'workers'?"),
    ],
)
def test_a_setting_in_the_wrong_place_is_told_its_own(tmp_path: Path, text: str, hint: str) -> None:
    (tmp_path / "minitango.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve(environ={}, folder=tmp_path)
    assert caught.value.id == "settings"
    assert caught.value.hint.startswith(hint), caught.value.hint


@pytest.mark.parametrize("name", ["minitango.toml", "pyproject.toml"])
def test_a_file_that_may_have_named_the_queue_is_never_passed_over(tmp_path: Path, name: str) -> None:
    """Another queue would be begun beside it, without a word."""

    def refused(*words: str) -> None:
        with pytest.raises(ConfigError) as caught:
            resolve(environ={}, folder=tmp_path)
        assert caught.value.id == "settings"
        assert all(word in caught.value.message for word in (str(tmp_path / name), *words)), caught.value.message

    table = "[tool.minitango]\n" if name == "pyproject.toml" else ""
    file = tmp_path / name
    file.write_text(f'{table}store = "redis://h/0?queue=q"\n[x\n')
    refused("line")
    for key in ("store", "state", "blobs"):
        file.write_text(f'{table}{key} = ""\n')
        refused(f"{key} is empty")
    file.unlink()
    if name == "minitango.toml":
        file.symlink_to("/nowhere/course.toml")
        refused("a link to what is not there")
        file.unlink()
        file.mkdir()
        refused("it is no file")
    else:
        file.write_text("[x\n")
        assert resolve(environ={}, folder=tmp_path).store == ".minitango", "its own tools will complain"


def test_limits_that_are_required(tmp_path: Path) -> None:
    (tmp_path / "minitango.toml").write_text('workers = 1\nrequire = ["memory", "disc"]\n')
    for flags, environ, text in (
        ({"require": ["pids", "x"]}, {}, "--require: 'x' is no limit"),
        ({}, {"MINITANGO_REQUIRE": "pids,x"}, "MINITANGO_REQUIRE: 'x' is no limit"),
        ({}, {}, f"{tmp_path}/minitango.toml:2: 'disc' is no limit"),
        ({"require": [""]}, {}, "--require: no limit is named"),
        ({}, {"MINITANGO_REQUIRE": " , "}, "MINITANGO_REQUIRE: no limit is named"),
    ):
        with pytest.raises(ConfigError) as caught:
            resolve(**flags, environ=environ, folder=tmp_path)  # type: ignore[arg-type]
        assert caught.value.id == "require"
        assert caught.value.message.startswith(text)
    assert resolve(require=["pids, disk", "memory"], environ={}, folder=tmp_path).require == ("memory", "pids", "disk")
    (tmp_path / "minitango.toml").write_text("require = []\n")
    assert resolve(environ={}, folder=tmp_path).require == ()


def test_how_long_jobs_are_kept_is_told_where_it_was_named(tmp_path: Path) -> None:
    (tmp_path / "minitango.toml").write_text('workers = 1\nkeep = "5"\n')
    for flags, environ, place, hint in (
        ({"keep": "5"}, {}, "--keep: '5' is no duration", "--keep 180d"),
        ({"keep": "59min"}, {}, "--keep: '59min' is too short", "--keep 180d"),
        ({}, {"MINITANGO_KEEP": "5"}, "MINITANGO_KEEP: '5' is no duration", "MINITANGO_KEEP=180d"),
        ({}, {}, f"{tmp_path}/minitango.toml:2: '5' is no duration", 'keep = "180d"'),
    ):
        with pytest.raises(ConfigError) as caught:
            resolve(**flags, environ=environ, folder=tmp_path)
        assert caught.value.id == "keep"
        assert caught.value.message.startswith(place), caught.value.message
        assert caught.value.hint.startswith(hint)


def test_a_node_is_called_as_it_can_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'a b' cannot be a node's name \(MINITANGO_NAME\)") as caught:
        resolve(environ={"MINITANGO_NAME": "a b"}, folder=tmp_path)
    assert caught.value.id == "label"
    assert resolve(environ={"MINITANGO_NAME": "lab-3"}, folder=tmp_path).name == "lab-3"


def test_what_a_node_offers(tmp_path: Path) -> None:
    def offered(given: tuple[str, ...] = (), **environ: str) -> tuple[str, ...]:
        return resolve(capabilities=given, environ=environ, folder=tmp_path).capabilities

    assert offered(("gpu,large",)) == offered(("gpu", "large")) == offered(("gpu, large,", "gpu")) == ("gpu", "large")
    assert offered(MINITANGO_CAPABILITIES="large, gpu") == ("large", "gpu")
    assert offered(("x",), MINITANGO_CAPABILITIES="large, gpu") == ("x",)
    (tmp_path / "minitango.toml").write_text('capabilities = ["large", "x"]\n')
    assert offered() == ("large", "x")
    for wrong in ("", ",", "gpu,a b", "-x"):
        with pytest.raises(ConfigError) as caught:
            offered((wrong,))
        assert caught.value.id == "label"


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    assert resolve(environ={"MINITANGO_STATE": "", "MINITANGO_WORKERS": ""}, folder=tmp_path).store == ".minitango"


def test_one_source_says_where_the_queue_is(tmp_path: Path) -> None:
    (tmp_path / "minitango.toml").write_text('store = "sqlite:///course/queue.db"\nstate = "blobs"\n')
    of_file = resolve(environ={}, folder=tmp_path)
    assert of_file.store == f"sqlite:///{tmp_path}/course/queue.db"
    assert of_file.state == str(tmp_path / "blobs")
    assert resolve(environ={"MINITANGO_STATE": "there"}, folder=tmp_path).store == "there"
    by_flag = resolve(state="my state", environ={}, folder=tmp_path)
    assert (by_flag.store, by_flag.state, by_flag.flags) == ("my state", None, " --state 'my state'")


def test_a_state_directory_beside_a_queue_on_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed, it may be taken for another queue; not, where somebody else names it, too."""
    monkeypatch.chdir(tmp_path)
    url = "redis://:s3cret@h/0?queue=q"

    def found(**environ: str) -> Settings:
        return resolve(state="mine", environ=environ, folder=tmp_path)

    by_variable = found(MINITANGO_STORE=url)
    assert (by_variable.store, by_variable.state, by_variable.shared_by) == (url, "mine", "MINITANGO_STORE")
    assert by_variable.flags == "", "what is suggested is not to be typed with it"
    with pytest.raises(ConfigError) as caught:
        by_variable.check_meant("prune")
    assert caught.value.id == "queue_unclear"
    assert "--store mine in place of --state" in caught.value.hint
    assert "s3cret" not in str(caught.value) + caught.value.hint
    known = found(MINITANGO_STORE=url, MINITANGO_STATE=str(tmp_path / "mine"))
    assert (known.store, known.shared_by, known.flags) == (url, "", " --state mine")
    known.check_meant("prune")
    (tmp_path / "minitango.toml").write_text(f'store = "{url}"\n')
    assert found().shared_by == f"{tmp_path}/minitango.toml:1"
    (tmp_path / "minitango.toml").write_text(f'store = "{url}"\nstate = "mine"\n')
    assert found().shared_by == ""
    assert resolve(store="mine", environ={"MINITANGO_STORE": url}, folder=tmp_path).store == "mine"
    assert resolve(environ={"MINITANGO_STORE": url}, folder=tmp_path).shared_by == "", "nothing was typed"


def test_the_nearest_file_counts(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "minitango.toml").write_text('state = "far"\n')
    (tmp_path / "a" / "pyproject.toml").write_text('[tool.other]\nstate = "not ours"\n')
    assert resolve(environ={}, folder=below).store == str(tmp_path / "far")
    (tmp_path / "a" / "pyproject.toml").write_text('[tool.minitango]\nstate = "near"\n')
    assert resolve(environ={}, folder=below).store == str(tmp_path / "a" / "near")


def test_a_home_folder_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    (tmp_path / "minitango.toml").write_text('state = "~/grading"\n')
    assert resolve(environ={}, folder=tmp_path).store == "/home/ada/grading"


@pytest.mark.parametrize("count", ["0", "1001", "-1", "many", "1.5"])
def test_impossible_workers(tmp_path: Path, count: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(environ={"MINITANGO_WORKERS": count}, folder=tmp_path)
    assert caught.value.id == "workers"


# --- config show ----------------------------------------------------------------------------------


def told(flags: dict[str, object], environ: dict[str, str]) -> dict[str, Setting]:
    return {setting.key: setting for setting in explain(flags, environ)}


def test_every_setting_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minitango.toml").write_text('# ours\nstate = "file"\nsandbox = "docker"\n\nworkers = 1\n')
    found = told({"workers": 3, "callback_allow": ("a.internal", "b.internal")}, {"MINITANGO_SANDBOX": "bubblewrap"})
    assert list(found) == list(KEYS)
    path = tmp_path / "minitango.toml"
    assert found["store"] == Setting("store", f"sqlite:///{tmp_path}/file/queue.db", "file", f"{path}:2")
    assert found["state"] == Setting("state", f"{tmp_path}/file", "file", f"{path}:2")
    assert found["sandbox"] == Setting("sandbox", "bubblewrap", "variable", "MINITANGO_SANDBOX", (f"{path}:3",))
    assert found["image"] == Setting("image", "python:3.12-slim", "default")
    assert found["workers"] == Setting("workers", 3, "flag", "--workers", (f"{path}:5",))
    allowed = Setting("callback_allow", "a.internal, b.internal", "flag", "--callback-allow")
    assert found["callback_allow"] == allowed


def test_what_is_told_is_what_is_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.minitango]\nstore = "sqlite:///a/q.db"\nstate = "b"\n')
    for flags, environ in (
        ({}, {}),
        ({"state": "x"}, {}),
        ({}, {"MINITANGO_STATE": "y"}),
        ({"store": "sqlite:////z/q.db"}, {"MINITANGO_STATE": "y"}),
    ):
        found = told(flags, environ)
        settings = resolve(**flags, environ=environ)  # type: ignore[arg-type]
        url, state = locate(settings.store, settings.state)
        assert (found["store"].value, found["state"].value) == (url, str(state))
    assert found["state"].place == "--store", "it follows from the store"
    assert found["state"].over == ("MINITANGO_STATE", f"{tmp_path}/pyproject.toml:3")


@pytest.mark.parametrize("by", ["flag", "variable", "file"])
def test_a_servers_url_says_nothing_of_the_state_directory(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = "redis://ada:s3cret@h/0?queue=q"
    if by == "file":
        (tmp_path / "minitango.toml").write_text(f'store = "{url}"\n')
    flags: dict[str, object] = {"store": url} if by == "flag" else {}
    environ = {"MINITANGO_STORE": url} if by == "variable" else {}
    where = {"flag": "--store", "variable": "MINITANGO_STORE", "file": f"{tmp_path}/minitango.toml:1"}[by]
    found = told(flags, environ)
    assert found["store"] == Setting("store", "redis://ada:...@h/0?queue=q", by, where)
    assert found["state"] == Setting("state", f"{tmp_path}/.minitango", "default")
    found = told({**flags, "state": "mine"}, environ)
    assert (found["store"].place, found["state"].place) == (where, "--state")
    assert found["state"].value == f"{tmp_path}/mine"
    environ["MINITANGO_STATE"] = str(tmp_path / "nodes")
    found = told(flags, environ)
    assert found["state"] == Setting("state", f"{tmp_path}/nodes", "variable", "MINITANGO_STATE")
    settings = resolve(**flags, environ=environ)  # type: ignore[arg-type]
    assert (settings.store, settings.state) == (url, f"{tmp_path}/nodes")


def test_variables_that_are_no_settings() -> None:
    environ = {"MINITANGO_WORKER": "1", "MINITANGO_PROG": "x", "MINITANGO_STATE": "y", "MINITANGO_ZZZ": "", "HOME": "/"}
    assert unknown_variables(environ) == {"MINITANGO_WORKER": "MINITANGO_WORKERS", "MINITANGO_ZZZ": ""}


@pytest.mark.parametrize("text", ["workers = 1\nstate =\n\n", "workers = 1\nstate = "])
def test_a_file_that_ends_in_the_middle_names_its_last_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "minitango.toml").write_text(text)
    with pytest.raises(ConfigError, match="Invalid value") as caught:
        resolve(environ={}, folder=tmp_path)
    assert "at line " in str(caught.value)
    assert "end of document" not in str(caught.value)
