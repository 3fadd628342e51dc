"""What tests of several rooms use: stores that real daemons wrote, and what is known of them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable

DOCKER_DATA = Path(__file__).parent / "data" / "docker"


@pytest.fixture(scope="session")
def as_root() -> None:
    """What asks for this needs root, to make devices and other users' files: elsewhere than in CI it is skipped without."""
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("not root")


@pytest.fixture(scope="session")
def docker_fixture(as_root: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:  # noqa: ARG001
    """Unpack a store of tests/data/docker by name, like ``overlay2``, once, and return its data root: for reading only."""
    unpacked: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if name not in unpacked:
            unpacked[name] = tmp_path_factory.mktemp(f"docker-{name}")
            unpack_archive(docker_data(f"{name}.tar.zst"), unpacked[name])
        return unpacked[name] / "root"

    return unpack


@pytest.fixture(scope="session")
def facts() -> Callable[[str], dict[str, Any]]:
    """Return what is known of a store, by the same names: see tests/data/docker/README.md."""

    def load(name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(docker_data(f"{name}.facts.json").read_bytes())
        return loaded

    return load


def docker_data(name: str) -> Path:
    """Return the path of a file in tests/data/docker; ``name`` is without the version of Docker."""
    [path] = DOCKER_DATA.glob(f"docker-*.[0-9]*-{name}")
    return path


def unpack_archive(archive: Path, directory: Path) -> None:
    """Unpack a .tar.zst with everything that is in it: owners, modes, times, xattrs, devices. Needs root."""
    keep = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--same-owner"]
    with archive.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as tar:
        with subprocess.Popen(["tar", "-C", str(directory), *keep, "-xpf", "-"], stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            while chunk := tar.read(1 << 20):
                process.stdin.write(chunk)
        assert process.returncode == 0
