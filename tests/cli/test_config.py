"""``transship config``: what is in force, where it comes from, and what is wrong."""

from __future__ import annotations

import os
import tomllib
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import command
from transship import config
from transship.config import sources
from transship.config.settings import SETTINGS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in the place of /etc/transship, with a file, a drop-in, and a variable beside them."""
    place = tmp_path / "etc"
    (place / "conf.d").mkdir(parents=True)
    (place / "transship.toml").write_text("[run]\njobs = 1\nstate-dir = '/srv'\n[target]\nto = 'containerd'\n")
    (place / "conf.d/10-us.toml").write_text("[run]\njobs = 2\n[service]\nusers = ['anna', 'ben']\n")
    monkeypatch.setattr(sources, "DEFAULT_FILE", place / "transship.toml")
    monkeypatch.setattr(sources, "DROP_INS", place / "conf.d")
    for variable in [name for name in os.environ if name.startswith("TRANSSHIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("TRANSSHIP_TARGET_TO", "oci:/x")
    return place


def test_show_names_every_setting_with_its_value_and_origin(usual: Path) -> None:
    ended = command("config", "show")
    assert ended.code == 0, ended.all
    shown = {line.split(" ")[0]: line for line in ended.out.splitlines() if "#" in line}
    assert shown["jobs"].split() == ["jobs", "=", "2", "#", str(usual / "conf.d/10-us.toml")]
    assert shown["state-dir"].split() == ["state-dir", "=", '"/srv"', "#", str(usual / "transship.toml")]
    assert shown["to"].split() == ["to", "=", '"oci:/x"', "#", "TRANSSHIP_TARGET_TO"]
    assert shown["namespace"].split() == ["namespace", "=", '"moby"', "#", "default"]
    assert shown["#driver"].split() == ["#driver", "is", "not", "set", "#", "default"]


def test_what_is_shown_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    copy = tmp_path / "copy.toml"
    copy.write_text(command("config", "show").out)
    assert config.read(copy, {}).settings == config.read().settings


@pytest.mark.parametrize("value", ["a\x1b[31mb", 'quo"te\\', "new\nline", "é\u2028\u202e", "\x7f", "\U0001f6a2", "#"])
def test_odd_values_are_shown_harmlessly_and_survive(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TRANSSHIP_SOURCE_DIRECTORY", f"/{value}")
    ended = command("config", "show")
    assert all(line.isprintable() for line in ended.out.split("\n"))
    assert tomllib.loads(ended.out)["source"]["directory"] == f"/{value}"


def test_a_value_that_is_not_text_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSSHIP_SOURCE_DIRECTORY", os.fsdecode(b"/caf\xe9"))
    for options in ([], ["--json"]):
        ended = command("config", "show", *options)
        assert ended.code == 0
        assert ended.out.isascii()


def test_show_as_json(usual: Path) -> None:
    ended = command("config", "show", "--json")
    assert ended.report["files"] == [str(usual / "transship.toml"), str(usual / "conf.d/10-us.toml")]
    settings = ended.report["settings"]
    assert list(settings) == list(SETTINGS)
    assert settings["run.jobs"] == {"value": 2, "origin": {"kind": "file", "name": str(usual / "conf.d/10-us.toml")}}
    assert settings["target.to"] == {"value": "oci:/x", "origin": {"kind": "variable", "name": "TRANSSHIP_TARGET_TO"}}
    assert settings["service.users"]["value"] == ["anna", "ben"]
    assert settings["log.level"] == {"value": None, "origin": {"kind": "default", "name": ""}}


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_file_of_one_s_own(tmp_path: Path, order: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[run]\njobs = 7\n")
    options = ["--config", file]
    ended = command("config", *(options if order == "before" else []), "show", "--json", *(options if order == "after" else []))
    assert ended.report["files"] == [str(file)]
    assert ended.report["settings"]["run.jobs"]["value"] == 7
    assert ended.report["settings"]["run.state-dir"]["origin"]["kind"] == "default"


def test_check_says_what_was_read(usual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = command("config", "check")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"ok: {usual / 'transship.toml'}, {usual / 'conf.d/10-us.toml'}, TRANSSHIP_TARGET_TO\n"
    monkeypatch.delenv("TRANSSHIP_TARGET_TO")
    monkeypatch.setattr(sources, "DEFAULT_FILE", usual / "none")
    monkeypatch.setattr(sources, "DROP_INS", usual / "none.d")
    assert command("config", "check").out == "ok: defaults only\n"


def test_check_names_everything_that_is_wrong(usual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (usual / "transship.toml").write_text("[run]\njobs = -1\nstate = '/x'\n")
    (usual / "conf.d/20.toml").write_text("[")
    monkeypatch.setenv("TRANSSHIP_RUN_JOB", "1")
    ended = command("config", "check")
    assert (ended.code, ended.out) == (2, "")
    for thing in (f"{usual / 'transship.toml'}: run.jobs", "'run.state'", "20.toml", "'TRANSSHIP_RUN_JOB'"):
        assert thing in ended.err


def test_check_looks_at_settings_together(usual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (usual / "conf.d/20.toml").write_text("[blobs]\nlevel = 15\n")
    assert command("config", "check").code == 0
    monkeypatch.setenv("TRANSSHIP_BLOBS_COMPRESSION", "gzip")
    monkeypatch.setenv("TRANSSHIP_TARGET_TO", "elsewhere")
    ended = command("config", "check")
    assert (ended.code, ended.out) == (2, "")
    for thing in ("blobs.level", str(usual / "conf.d/20.toml"), "no level 15", "target.to", "TRANSSHIP_TARGET_TO", "elsewhere"):
        assert thing in ended.err
    assert command("config", "show").code == 0, "how it came about can be seen"


@pytest.mark.parametrize("arguments", [(), ("dance",), ("show", "extra"), ("check", "--json")])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    ended = command("config", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "usage: transship" in ended.err


def test_every_command_heeds_the_drop_ins(usual: Path, tmp_path: Path) -> None:
    (usual / "conf.d/20.toml").write_text(f"[run]\nstate-dir = '{tmp_path / 'there'}'\n")
    assert str(tmp_path / "there") in command("status").out
