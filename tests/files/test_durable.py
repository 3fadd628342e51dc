"""Writing that survives."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.files.trees import descriptors
from transship.files import durable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


def test_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write_file(path, b"one")
    assert (path.read_bytes(), path.stat().st_mode & 0o7777) == (b"one", 0o644)
    durable.write_file(path, b"two" * 100_000, 0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o7777) == (b"two" * 100_000, 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    (tmp_path / "link").symlink_to("other")
    durable.write_file(tmp_path / "link", b"data")
    assert (tmp_path / "other").read_text() == "other"
    assert not (tmp_path / "link").is_symlink()


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError):
        durable.write_file(tmp_path / "directory", b"data")
    with pytest.raises(FileNotFoundError):
        durable.write_file(tmp_path / "missing" / "file", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


_WRITE_FOR_EVER = """
import sys
from pathlib import Path
from transship.files import durable
while True:
    for letter in (b"a", b"b"):
        durable.write_file(Path(sys.argv[1]), letter * 3_000_000)
        print("written", flush=True)
"""


@pytest.mark.parametrize("writes", range(1, 9))
def test_kill_leaves_old_or_new(tmp_path: Path, writes: int) -> None:
    path = tmp_path / "file"
    with subprocess.Popen([sys.executable, "-c", _WRITE_FOR_EVER, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(writes):
            process.stdout.readline()
        process.kill()
    assert path.read_bytes() in {b"a" * 3_000_000, b"b" * 3_000_000}


def test_syncs(tmp_path: Path) -> None:
    durable.sync_file_system(tmp_path)
    durable.sync_directory(tmp_path)
    for call in (durable.sync_file_system, durable.sync_directory, lambda path: durable.SharedSync(path).wait()):
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "missing")


class Syncs:
    """Stands in for the kernel's syncfs: counts, and ends when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.fail = False
        self.first_began = threading.Event()
        self.may_end = threading.Event()
        monkeypatch.setattr(durable, "sync_file_system", self._sync)

    def _sync(self, path: Path) -> None:
        self.begun += 1
        self.first_began.set()
        assert self.may_end.wait(30)
        if self.fail:
            self.fail = False
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    return Syncs(monkeypatch)


class WatchedCondition(threading.Condition):
    """Knows when so many threads wait on it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.waiting.release()
        return super().wait(timeout)


def run_together(shared: durable.SharedSync, syncs: Syncs, pool: ThreadPoolExecutor, late: int) -> list[BaseException | None]:
    """One thread syncs; ``late`` more ask while it does; then all goes on. Returns what each raised."""
    condition = shared._condition = WatchedCondition()
    futures = [pool.submit(shared.wait)]
    assert syncs.first_began.wait(30)
    futures += [pool.submit(shared.wait) for _ in range(late)]
    for _ in range(late):
        assert condition.waiting.acquire(timeout=30)
    syncs.may_end.set()
    return [future.exception(30) for future in futures]


def test_those_who_ask_during_a_sync_share_the_next(tmp_path: Path, syncs: Syncs) -> None:
    shared = durable.SharedSync(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert run_together(shared, syncs, pool, 7) == [None] * 8
    assert syncs.begun == 2
    shared.wait()
    assert syncs.begun == 3


def test_failed_sync_fails_one_and_serves_nobody(tmp_path: Path, syncs: Syncs) -> None:
    syncs.fail = True
    with ThreadPoolExecutor(4) as pool:
        raised = run_together(durable.SharedSync(tmp_path), syncs, pool, 3)
    assert [type(error) for error in raised] == [OSError, type(None), type(None), type(None)]
    assert syncs.begun == 2


def test_real_syncs_from_many_threads(tmp_path: Path) -> None:
    shared = durable.SharedSync(tmp_path)

    def work(number: int) -> None:
        (tmp_path / str(number)).write_bytes(bytes(1000))
        shared.wait()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(64)))
