"""``make install`` and ``make uninstall``, from a copy of the project: they write into the tree that they are started in."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_PARTS = ("Makefile", "README.md", "LICENSE", "pyproject.toml", "hatch_build.py", "config", "share", "src", "systemd")


def make(target: str, stage: Path, project: Path, *variables: str) -> None:
    """Run ``make target`` with DESTDIR ``stage`` in ``project``, an empty directory or one that was used for this before."""
    for name in _PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy2(ROOT / name, project)
    # Not what make, which may have started the tests, has put there.
    environment = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    command = ["make", target, f"DESTDIR={stage}", *variables]
    ended = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
