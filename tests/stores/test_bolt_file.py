"""bbolt files on disk: locked as bbolt does it, replaced wholly or not at all."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.files.kill import calls_of, killed_after
from tests.files.trees import descriptors
from tests.formats.bolt.databases import Made, held
from transship.errors import SourceBusy, SourceCorrupt, SourceError, SourceMissing, TargetExists, TargetUnavailable
from transship.formats.bolt.check import check
from transship.stores import bolt_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from transship.formats.bolt.reader import Database
    from transship.formats.bolt.writer import Content

SOME = Made({b"bucket": Made({b"key": b"value"}, 3)})
OTHER = Made({b"other": Made({b"%04d" % number: bytes(100) for number in range(1000)})})


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.db"
    bolt_file.create(path, SOME)
    return path


@contextmanager
def locked(path: Path, operation: int) -> Iterator[None]:
    """Hold a lock as another program does."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def read(path: Path) -> Made:
    with bolt_file.opened(path) as database:
        return held(database.root)


def rewrite(path: Path, change: Callable[[Database], Content]) -> None:
    with bolt_file.held(path) as file:
        file.commit(change(file.database))


def other(_: Database) -> Made:
    return OTHER


def test_create(file: Path) -> None:
    assert read(file) == SOME
    assert file.stat().st_mode & 0o7777 == 0o600
    assert list(file.parent.iterdir()) == [file]
    with pytest.raises(TargetExists):
        bolt_file.create(file, OTHER)
    assert read(file) == SOME
    assert list(file.parent.iterdir()) == [file]


def test_create_killed(tmp_path: Path) -> None:
    """Nothing is left of it once it was done again."""

    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name / "file.db"

    for calls in range(calls_of(lambda: bolt_file.create(make("first"), SOME)) - 1):
        path = make(str(calls))
        with killed_after(calls):
            bolt_file.create(path, SOME)
        if not path.exists():
            bolt_file.create(path, SOME)
        assert read(path) == SOME
        assert list(path.parent.iterdir()) == [path]


def test_rewrite(file: Path) -> None:
    file.chmod(0o640)
    rewrite(file, lambda _: OTHER)
    assert read(file) == OTHER
    rewrite(file, lambda database: database.root)
    assert read(file) == OTHER
    assert file.stat().st_mode & 0o7777 == 0o640
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.usefixtures("as_root")
def test_rewrite_keeps_the_owner(file: Path) -> None:
    os.chown(file, 12, 34)
    rewrite(file, other)
    assert (file.stat().st_uid, file.stat().st_gid) == (12, 34)


def test_open_by_who_may_write(file: Path) -> None:
    with locked(file, fcntl.LOCK_EX):
        with pytest.raises(SourceBusy), bolt_file.opened(file):
            pass
        with pytest.raises(SourceBusy):
            rewrite(file, other)
    assert read(file) == SOME


def test_open_by_who_reads(file: Path) -> None:
    with locked(file, fcntl.LOCK_SH):
        assert read(file) == SOME
        with pytest.raises(SourceBusy):
            rewrite(file, other)


def test_lock_is_held_as_long_as_needed(file: Path) -> None:
    with bolt_file.opened(file):
        with locked(file, fcntl.LOCK_SH):
            pass
        with pytest.raises(BlockingIOError), locked(file, fcntl.LOCK_EX):
            pass

    def change(database: Database) -> Made:
        with pytest.raises(BlockingIOError), locked(file, fcntl.LOCK_SH):
            pass
        return held(database.root)

    rewrite(file, change)
    with locked(file, fcntl.LOCK_EX):
        pass


def test_failure_leaves_the_old_one(file: Path) -> None:
    class Failing(Made):
        def items(self) -> Iterator[tuple[bytes, bytes]]:
            yield b"a", bytes(100_000)
            raise InterruptedError

    before = file.read_bytes()
    with pytest.raises(TargetUnavailable):
        rewrite(file, lambda _: Failing())
    with pytest.raises(ValueError, match="an empty key"):
        rewrite(file, lambda _: Made({b"": b""}))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_no_room(file: Path) -> None:
    """A limit to the size of files stands for a disk that is full."""
    script = f"""
import resource, signal
from pathlib import Path
from tests.stores.test_bolt_file import OTHER, rewrite
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
rewrite(Path({str(file)!r}), lambda _: OTHER)
"""
    before = file.read_bytes()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert "TargetUnavailable" in ended.stderr
    assert "File too large" in ended.stderr
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_killed_anywhere(file: Path) -> None:
    """However much of a commit has reached the disk: the file holds what it held before, or all that it is to hold."""
    before = file.read_bytes()
    rewrite(file, other)
    after = file.read_bytes()
    first, second = before[:4096], before[4096:8192]
    for size in range(len(before), len(after), 1000):
        file.write_bytes(first + second + after[8192:size])
        assert read(file) == SOME
    changed = 0 if after[:4096] != first else 4096
    assert after[4096 - changed : 8192 - changed] == (second, first)[changed // 4096]
    for size in range(97):
        file.write_bytes(after[: changed + size] + before[changed + size : 8192] + after[8192:])
        assert read(file) == (OTHER if size >= 80 else SOME)


def test_who_waits_for_the_lock_has_the_new_one(file: Path) -> None:
    with file.open("rb") as waiting:
        rewrite(file, other)
        assert os.fstat(waiting.fileno()).st_ino == file.stat().st_ino


def test_commit_after_commit(file: Path) -> None:
    with bolt_file.held(file) as database:
        for number in range(5):
            draft = database.draft()
            draft.made(b"bucket").put(b"%d" % number, bytes(number * 1000))
            database.commit(draft)
    held_now = read(file)
    assert set(held_now.held[b"bucket"].held) == {b"key", *(b"%d" % number for number in range(5))}  # type: ignore[union-attr]
    with bolt_file.opened(file) as whole:
        assert list(check(whole)) == []


def test_changed(file: Path) -> None:
    with bolt_file.changed(file) as draft:
        draft.made(b"more").put(b"a", b"b")
    assert read(file) == Made({**SOME.held, b"more": Made({b"a": b"b"})})
    before = file.read_bytes()
    with bolt_file.changed(file) as draft:
        draft.bucket(b"more")

    def fail() -> None:
        with bolt_file.changed(file) as draft:
            draft.delete(b"more")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert file.read_bytes() == before


def test_replaced_while_it_was_waited_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a file that nobody sees any more is worth nothing."""
    lock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        (file.parent / "new").write_bytes(file.read_bytes())
        (file.parent / "new").rename(file)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(SourceBusy, match="has just been replaced"):
        rewrite(file, other)
    monkeypatch.undo()
    assert read(file) == SOME


def test_what_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "path"
    with pytest.raises(SourceMissing), bolt_file.opened(path):
        pass
    with pytest.raises(SourceMissing):
        rewrite(path, other)
    path.write_bytes(b"")
    with pytest.raises(SourceCorrupt, match=f"{path} is empty"), bolt_file.opened(path):
        pass
    path.write_bytes(bytes(10_000))
    with pytest.raises(SourceCorrupt, match="not a bbolt file"):
        rewrite(path, other)
    assert path.read_bytes() == bytes(10_000)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SourceError, match="not a regular file"), bolt_file.opened(path):
        pass


def test_link_is_not_followed(file: Path) -> None:
    link = file.parent / "link"
    link.symlink_to(file)
    with pytest.raises(SourceError), bolt_file.opened(link):
        pass
    with pytest.raises(SourceError):
        rewrite(link, other)
    assert read(file) == SOME


def test_damage_met_on_the_way_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "file.db"
    bolt_file.create(file, OTHER)
    data = bytearray(file.read_bytes())
    data[4 * 4096] ^= 1
    file.write_bytes(data)
    with pytest.raises(SourceCorrupt, match=f"^{file}: page 4: says that it is page 5"):
        read(file)
    with pytest.raises(SourceCorrupt, match=f"^{file}: page 4: "):
        rewrite(file, lambda database: database.root)
    assert file.read_bytes() == data
    assert list(file.parent.iterdir()) == [file]
