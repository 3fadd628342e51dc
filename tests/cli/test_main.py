"""The command line itself: help, usage, configuration, what goes to which stream."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import Sample, command, environment
from transship import __version__, errors
from transship.cli.output import print_error
from transship.errors import ExitCode, RunInterrupted, TransshipError
from transship.text import duration, printable, size

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = (
    *("plan", "migrate", "status", "logs", "cancel", "resume", "verify", "rollback"),
    *("arm", "disarm", "boot", "serve", "config"),
)
NO_JSON = {"cancel", "arm", "disarm", "boot", "serve", "config"}


def test_help_names_every_command_and_exit_code() -> None:
    ended = command("--help")
    assert ended.code == 0
    for name in COMMANDS:
        assert re.search(rf"^    {name} ", ended.out, re.MULTILINE)
    for code in ExitCode:
        assert re.search(rf"\b{int(code)}\b", ended.out)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    ended = command(name, "--help")
    assert (ended.code, ended.err) == (0, "")
    expected = {"exit codes:"}
    if name != "config":
        expected |= {"--config", "--state-dir"}
    if name not in NO_JSON:
        expected |= {"--json"}
    for text in expected:
        assert text in ended.out
    if name not in {"plan", "verify", "arm", "disarm", "config"}:
        assert "--socket" in ended.out


def test_version() -> None:
    assert command("--version").out == f"transship {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dance",),
        ("plan", "--unknown"),
        ("migrate", "extra"),
        ("migrate", "--compression", "lzma"),
        ("migrate", "--fill", "magic"),
        ("migrate", "--jobs", "0"),
        ("migrate", "--jobs", "many"),
        ("migrate", "--jobs", "1025"),
        ("migrate", "--direct", "--detach"),
        ("migrate", "--level", "x"),
        ("migrate", "--source"),
        ("verify", "--compression", "zstd"),
        ("rollback", "one", "two"),
        ("rollback", "--target", "oci:x"),
        ("cancel", "one", "two"),
        ("resume", "--target", "oci:x"),
        ("disarm", "--source", "x"),
        ("boot", "--source", "x"),
        ("serve", "--source", "x"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    ended = command(*arguments)
    assert ended.code == 2
    assert "usage: transship" in ended.err
    assert ended.out == ""


@pytest.mark.parametrize(("codec", "level"), [("zstd", 0), ("zstd", 20), ("gzip", 4), ("none", 1), ("zstd", -1)])
def test_a_level_that_the_codec_has_not(sample: Sample, codec: str, level: int) -> None:
    for name in ("plan", "migrate"):
        ended = sample.run(name, "--json", "--compression", codec, "--level", level)
        assert ended.code == 2
        assert f"no level {level}" in ended.report["message"]
    assert not sample.layout.exists()


ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TransshipError)]
DOCUMENTED = {
    "UsageError": 2,
    "SourceError": 3,
    "TargetError": 4,
    "VerificationFailed": 5,
    "StateLocked": 6,
    "JournalError": 4,
    "ServiceRunning": 6,
    "ServiceUnavailable": 7,
    "Detached": 130,
    "RunIncomplete": 1,
    "TransshipError": 1,
}


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if kind is not RunInterrupted])
@pytest.mark.parametrize("as_json", [True, False])
def test_every_error_ends_the_command_with_its_code(
    kind: type[TransshipError], as_json: bool, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = next(DOCUMENTED[base.__name__] for base in kind.__mro__ if base.__name__ in DOCUMENTED)

    def fail(_: object) -> None:
        raise kind("the thing \x1b[31m", remedy="do this \x1b[31m")

    monkeypatch.setattr("transship.legs.request.Request.route", fail)
    ended = sample.migrate() if as_json else sample.run("migrate")
    assert ended.code == expected
    if as_json:
        assert ended.report == {
            "type": "error",
            "error": kind.__name__,
            "message": "the thing \x1b[31m",
            "remedy": "do this \x1b[31m",
            "exit_code": expected,
        }
    else:
        assert ended.err == "transship: the thing \\x1b[31m\n  what to do: do this \\x1b[31m\n"
        assert ended.out == ""


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_an_interruption_owns_its_code(number: int, code: int) -> None:
    assert RunInterrupted("stopped", signal_number=number).exit_code == code


def test_an_error_without_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(TransshipError("so"), as_json=False)
    assert capsys.readouterr().err == "transship: so\n"


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\nb", "a\rb", "a\x00b", "a\u202eb", "a\x9bb", "a\udcffb", "a\u2028b", "a\tb"])
def test_nothing_moves_the_cursor(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.startswith("a\\")
    assert shown.endswith("b")


def test_what_can_be_shown_is() -> None:
    assert printable("docker.io/library/é中:1 ok") == "docker.io/library/é中:1 ok"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (2e9, "2 GB"), (5e18, "5e+03 PB")]
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (185, "3 min 05 s"), (3599.9, "1 h 00 min"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# Paths that a person or a script gives


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_files_may_be_closed(tmp_path: Path, closed: str) -> None:
    script = f'"$0" -m transship status --state-dir "$1" {closed}'
    shell = ["bash", "-c", script, sys.executable, str(tmp_path)]
    assert subprocess.run(shell, check=False, capture_output=True, env=environment()).returncode == 0


@pytest.mark.parametrize("name", ["esc\x1b[31m", "new\nline", os.fsdecode(b"caf\xe9"), "sp ace", "ünïcode"])
def test_odd_paths_work_and_are_shown_harmlessly(tmp_path: Path, name: str) -> None:
    """As a process of its own: what Python does with such text depends on real streams."""
    place = tmp_path / name
    place.mkdir()
    sample = Sample(place)
    common = ["--state-dir", str(sample.state)]
    for arguments in (
        ["plan", *sample.ends],
        ["migrate", *sample.ends],
        ["migrate", "--json", *sample.ends],
        ["plan", "--json", *sample.ends],
        ["verify", *sample.ends],
        ["status", *common],
        ["status", "--json", *common],
        ["rollback", *common],
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "transship", *arguments],
            capture_output=True,
            check=False,
            env=environment() | {"PYTHONIOENCODING": "utf-8:strict"},
        )
        assert ended.returncode == 0, (arguments[0], ended.stderr.decode(errors="replace"))
        assert b"\x1b" not in ended.stdout + ended.stderr
        if "--json" in arguments:
            [json.loads(line.decode()) for line in ended.stdout.splitlines()]


def test_an_odd_path_in_an_error(sample: Sample, tmp_path: Path) -> None:
    sample.source = tmp_path / "gone\x1b[31m"
    ended = sample.run("migrate")
    assert ended.code == 3
    assert "\x1b" not in ended.err
    assert "gone\\x1b[31m" in ended.err


@pytest.mark.parametrize("arguments", [["--help"], ["plan"], ["status"], ["migrate", "--json"]])
def test_a_reader_that_has_gone_is_no_disaster(sample: Sample, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ends = {"plan": sample.ends, "status": ["--state-dir", str(sample.state)], "migrate": sample.ends}.get(arguments[0], [])
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "transship", *arguments, *ends],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(),
        )
    finally:
        os.close(writing)
    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr
    assert ended.returncode in set(ExitCode)


# The configuration file


def test_the_file_is_used_and_the_command_line_overrides_it(sample: Sample, tmp_path: Path) -> None:
    config = tmp_path / "transship.toml"
    config.write_text(
        f"""
        [source]
        directory = "{sample.source}"
        [target]
        to = "oci:{sample.layout}"
        [blobs]
        compression = "gzip"
        [run]
        state-dir = "{sample.state}"
        """
    )
    ended = command("migrate", "--json", "--config", config)
    assert ended.code == 0, ended.all
    assert {layer["mediaType"][-5:] for layer in _layers(sample)} == {"+gzip"}
    assert command("status", "--json", "--config", config).report["runs"][0]["id"] == ended.report["run"]
    assert command("verify", "--config", config).code == 0

    sample.layout = tmp_path / "other"
    elsewhere = ["--target", f"oci:{sample.layout}", "--compression", "none", "--state-dir", tmp_path / "state2"]
    assert command("migrate", "--json", "--config", config, *elsewhere).code == 0
    assert {layer["mediaType"][-4:] for layer in _layers(sample)} == {".tar"}
    assert command("status", "--json", "--config", config).report["runs"][0]["id"] != ended.report["run"] or True


def _layers(sample: Sample) -> list[dict[str, str]]:
    return [layer for manifest in sample.names().values() for layer in sample.document(manifest)["layers"]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[source]\ndirektory = '/x'\n", "direktory"),
        ("[sauce]\n", "sauce"),
        ("[blobs]\nlevel = 'high'\n", "level"),
        ("[blobs]\ncompression = 'lzma'\n", "compression"),
        ("[run]\njobs = -1\n", "jobs"),
        ("[snapshots]\nfill = 'magic'\n", "fill"),
        ("[log]\nlevel = 'loud'\n", "level"),
        ("not toml at all", "transship.toml"),
        ("[source]\ndirectory = 5\n", "directory"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_the_setting(sample: Sample, tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "transship.toml"
    config.write_text(text)
    ended = sample.migrate("--config", config)
    assert ended.code == 2
    assert str(config) in ended.report["message"]
    assert said in ended.report["message"]
    assert not sample.layout.exists()


def test_a_file_that_is_not_there(sample: Sample, tmp_path: Path) -> None:
    ended = sample.migrate("--config", tmp_path / "none.toml")
    assert ended.code == 2
    assert str(tmp_path / "none.toml") in ended.report["message"]
