"""``make install`` and ``make uninstall``."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.real.install import ROOT, make

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.real.machine import Machine

pytestmark = pytest.mark.real


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir() or path.is_symlink()}


def test_what_is_installed(installed: Path) -> None:
    prefix = "usr/local/"
    home = f"{prefix}lib/transship/"
    assert {name for name in files(installed) if not name.startswith(home)} == {
        "etc/transship/transship.toml",
        *(
            f"{prefix}{name}"
            for name in (
                "bin/transship",
                "lib/systemd/system/transship.socket",
                "lib/systemd/system/transship.service",
                "lib/systemd/system/transship-boot.service",
                "lib/sysusers.d/transship.conf",
                "lib/tmpfiles.d/transship.conf",
                "share/bash-completion/completions/transship",
                "share/fish/vendor_completions.d/transship.fish",
                "share/man/man1/transship.1",
                "share/transship/openapi.json",
                "share/zsh/site-functions/_transship",
            )
        ),
    }


def test_nothing_tells_where_it_was_made(installed: Path) -> None:
    for place in (str(installed), str(ROOT)):
        found = subprocess.run(["grep", "-rlF", place, installed], capture_output=True, text=True, check=False)
        assert (found.returncode, found.stdout) == (1, "")
    links = [path.readlink() for path in installed.rglob("*") if path.is_symlink()]
    assert not [link for link in links if str(link).startswith(str(installed))]


def test_others_may_read_it(installed: Path) -> None:
    for path in installed.rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o004, path


def test_upgrade_below_another_prefix_and_away_again(tmp_path: Path) -> None:
    stage, project = tmp_path / "stage", tmp_path / "project"
    config = stage / "opt/etc/transship/transship.toml"
    theirs = stage / "opt/ship/lib/systemd/system/theirs.service"
    old = stage / "opt/ship/lib/transship/lib/old.py"
    for path in (project / "file", config, theirs, old):
        path.parent.mkdir(parents=True)
        path.touch()
    config.write_text("# mine\n")
    where = ("PREFIX=/opt/ship", "SYSCONFDIR=/opt/etc")

    make("install", stage, project, *where)
    assert config.read_text() == "# mine\n"
    assert not old.exists()
    unit = (stage / "opt/ship/lib/systemd/system/transship.service").read_text()
    assert "\nExecStart=/opt/ship/bin/transship serve\n" in unit
    assert "/opt/ship/lib/transship/bin/python" in (stage / "opt/ship/bin/transship").read_text()
    assert not list(stage.glob("usr"))

    for _ in range(2):
        make("uninstall", stage, project, *where)
        assert files(stage) == {str(path.relative_to(stage)) for path in (config, theirs)}


def test_away_from_a_host_that_runs_it(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    machine.write("/opt/project/share/install", (ROOT / "share" / "install").read_text(), 0o755)
    machine.enable("transship.service", "transship-boot.service")
    machine.boot()
    assert machine.show("transship.socket", "ActiveState") == machine.show("transship.service", "ActiveState") == "active"

    where = ["DESTDIR=", "PREFIX=/usr/local", "SYSCONFDIR=/etc"]
    machine.run("env", *where, "/opt/project/share/install", "uninstall").expect()
    assert machine.run("pgrep", "--full", "transship serve").code == 1
    assert machine.run("systemctl", "list-unit-files", "--no-legend", "transship*").stdout == ""
    assert machine.run("systemctl", "--failed", "--no-legend").stdout == ""
    kept = machine.run("find", "/usr/local", "/etc", "/var/lib", "-xdev", "-name", "*transship*").expect().stdout.split()
    assert sorted(kept) == ["/etc/transship", "/etc/transship/transship.toml", "/var/lib/transship"]
