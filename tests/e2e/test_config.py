"""`minitango config show`, as it is typed."""

from __future__ import annotations

import json

from tests.e2e.conftest import CommandLine


def test_the_settings_and_who_says_so(cli: CommandLine) -> None:
    (cli.folder / "minitango.toml").write_text('state = "here"\n')
    answer = cli("config", "show", "--image", "gcc:14", env={"MINITANGO_WORKERS": "3", "MINITANGO_STORES": "x"})
    assert answer.code == 0, answer
    assert [line.split() for line in answer.out.splitlines()] == [
        ["setting", "value", "from"],
        ["store", f"sqlite:///{cli.folder}/here/queue.db", f"{cli.folder}/minitango.toml:1"],
        ["state", f"{cli.folder}/here", f"{cli.folder}/minitango.toml:1"],
        ["sandbox", "auto", "default"],
        ["image", "gcc:14", "--image"],
        ["workers", "3", "MINITANGO_WORKERS"],
        ["blobs", "with", "the", "queue", "default"],
        ["name", "made", "from", "the", "machine's", "default"],
        ["capabilities", "none", "default"],
        ["callback_allow", "none", "default"],
        ["keep", "for", "ever;", "on", "Redis", "400d", "default"],
        ["require", "none", "default"],
    ]
    assert answer.err == "warning: MINITANGO_STORES is no setting of minitango's: did you mean MINITANGO_STORE?\n"
    assert not (cli.folder / "here").exists()


def test_as_json(cli: CommandLine) -> None:
    body = json.loads(cli("config", "show", "--json", env={"MINITANGO_X": "1"}).out)
    assert body["schema"] == 1
    assert [setting["key"] for setting in body["settings"]] == [
        "store", "state", "sandbox", "image", "workers", "blobs", "name", "capabilities", "callback_allow", "keep",
        "require",
    ]  # fmt: skip
    assert set(body["settings"][0]) == {"key", "value", "source", "place", "over"}
    assert body["unknown"] == [{"name": "MINITANGO_X", "near": ""}]


def test_what_cannot_be_used_is_refused(cli: CommandLine) -> None:
    (cli.folder / "minitango.toml").write_text('stat = "here"\n')
    answer = cli("config", "show")
    assert answer.code == 2
    assert "error[settings]" in answer.err
    assert "did you mean 'state'?" in answer.err
