"""What share/ holds is what the program would make of itself now, and shells understand it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from share.generate import generate

SHARE = Path(__file__).parent.parent / "share"
COMPLETIONS = SHARE / "completions"


@pytest.mark.parametrize(("name", "text"), generate().items(), ids=generate())
def test_it_is_up_to_date(name: str, text: str) -> None:
    assert (SHARE / name).read_text() == text, "make generated"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_accepts_it(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n", COMPLETIONS / f"transship.{shell}"], check=True)


def completed_by_bash(line: str, directory: Path) -> set[str]:
    """Return what bash offers for the last word of ``line``."""
    script = """
        source "$1"
        COMP_LINE=$2 COMP_POINT=${#2}
        read -ra COMP_WORDS <<<"$2"
        [[ $2 != *' ' ]] || COMP_WORDS+=('')
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _shtab_transship
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    command: list[str | Path] = ["bash", "-c", script, "bash", COMPLETIONS / "transship.bash", line]
    return set(subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.split())


def completed_by_fish(line: str, directory: Path) -> set[str]:
    script = 'source $argv[1]; complete --do-complete "$argv[2]"'
    environment = {**os.environ, "XDG_CONFIG_HOME": str(directory), "XDG_DATA_HOME": str(directory), "HOME": str(directory)}
    command: list[str | Path] = ["fish", "--no-config", "-c", script, COMPLETIONS / "transship.fish", line]
    ended = subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, env=environment)
    return {offer.partition("\t")[0] for offer in ended.stdout.splitlines()}


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_words_are_completed(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    completed = {"bash": completed_by_bash, "fish": completed_by_fish}[shell]
    place = tmp_path / "place"
    (place / "there").mkdir(parents=True)
    (place / "that.toml").touch()
    assert completed("transship mi", place) == {"migrate"}
    assert completed("transship config ", place) >= {"show", "check"}
    assert completed("transship migrate --compr", place) == {"--compression"}
    assert completed("transship migrate --compression ", place) >= {"zstd", "gzip", "none"}
    assert {name.rstrip("/") for name in completed("transship migrate --source th", place)} == {"there"}
    assert {name.rstrip("/") for name in completed("transship migrate --config th", place)} == {"there", "that.toml"}


@pytest.mark.skipif(shutil.which("man") is None, reason="no man here")
def test_the_manual_page_is_well_formed() -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}
    command: list[str | Path] = ["man", "--warnings", "--local-file", "--pager=cat", SHARE / "man" / "transship.1"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert shown.stderr == ""
    assert "transship migrate" in shown.stdout
