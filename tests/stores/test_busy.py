from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from transship.errors import SourceBusy, SourceError
from transship.stores.busy import ensure_not_in_use

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.flock(file, int(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""
SHARED, EXCLUSIVE = 1, 2


@contextmanager
def held(path: Path, kind: int = EXCLUSIVE) -> Iterator[int]:
    """Let another process hold flock on ``path``; yield its ID."""
    command = [sys.executable, "-c", HOLD, str(path), str(kind)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process.pid
        process.stdin.close()


def database(root: Path, name: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_a_root_without_databases_is_not_in_use(tmp_path: Path) -> None:
    ensure_not_in_use(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "network/files/local-kv.db",
        "volumes/metadata.db",
        "buildkit/cache.db",
        "buildkit/snapshots.db",
        "builder/fscache.db",
        "content/metadata.db",
    ],
)
def test_a_lock_on_any_database_means_in_use(tmp_path: Path, name: str) -> None:
    path = database(tmp_path, name)
    ensure_not_in_use(tmp_path)
    with held(path) as process:
        with pytest.raises(SourceBusy) as caught:
            ensure_not_in_use(tmp_path)
        assert str(path) in caught.value.message
        assert f"process {process} (" in caught.value.message
        assert "-c" in caught.value.message
        assert "stop" in caught.value.remedy
    ensure_not_in_use(tmp_path)


def test_another_reader_does_not_mean_in_use(tmp_path: Path) -> None:
    with held(database(tmp_path, "volumes/metadata.db"), SHARED):
        ensure_not_in_use(tmp_path)


def test_the_look_leaves_no_lock(tmp_path: Path) -> None:
    path = database(tmp_path, "volumes/metadata.db")
    before = len(list(Path("/proc/self/fd").iterdir()))
    ensure_not_in_use(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    with held(path):
        pass


def test_a_database_that_cannot_be_opened_is_told_of(tmp_path: Path) -> None:
    path = database(tmp_path, "volumes/metadata.db")
    path.unlink()
    path.symlink_to("elsewhere")
    with pytest.raises(SourceError, match=str(path)):
        ensure_not_in_use(tmp_path)
