"""Changes to a tree: made, made again, and made after a kill."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.files.kill import calls_of, killed_after
from tests.real.trees import MTIME, listing
from transship.files.changes import ASIDE, Copy, Directory, File, HardLink, Move, SymbolicLink, make_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.trees import Tree
    from transship.files.changes import Change


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory: where there are many changes, a disk would be slow to write them out."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        yield Path(place)


@pytest.fixture
def root(place: Path) -> Path:
    """A tree with something to be replaced, moved and linked to."""
    root = place / "root"
    (root / "old" / "layer").mkdir(parents=True)
    (root / "old" / "layer" / "file").write_bytes(b"in the layer")
    (root / "data").write_bytes(b"data")
    (root / "stale").write_bytes(b"stale")
    (root / "link").symlink_to("data")
    (place / "original").write_bytes(b"original" * 1000)
    return root


@pytest.fixture
def changes(place: Path) -> list[Change]:
    """One of each kind, and more."""
    return [
        Directory("new", 0o700),
        Directory("new/sub", 0o1777, (5, 6)),
        File("new/sub/file", b"content", 0o4755),
        File("stale", b"fresh", 0o600),
        File("link", b"was a link", 0o644),
        Copy("new/copy", place / "original", 0o640),
        HardLink("new/hard", "data"),
        SymbolicLink("new/soft", "/nowhere/at all"),
        Move("new/layer", "old/layer"),
    ]


def shape(root: Path) -> Tree:
    """What is there, but for when it came there."""
    return {name: [*entry[:MTIME], *entry[MTIME + 1 :]] for name, entry in listing(root).items()}


@pytest.mark.usefixtures("as_root")
def test_each_kind_is_made(root: Path, changes: list[Change]) -> None:
    assert not any(change.is_made(root) for change in changes)
    make_all(root, changes)
    assert all(change.is_made(root) for change in changes)
    facts = {name: (entry[0], entry[1], entry[2], entry[3]) for name, entry in listing(root).items()}
    assert facts == {
        ".": ("d", oct(stat.S_IMODE(root.stat().st_mode)), 0, 0),
        "./data": ("f", "0o644", 0, 0),
        "./link": ("f", "0o644", 0, 0),
        "./new": ("d", "0o700", 0, 0),
        "./new/copy": ("f", "0o640", 0, 0),
        "./new/hard": ("f", "0o644", 0, 0),
        "./new/layer": ("d", "0o755", 0, 0),
        "./new/layer/file": ("f", "0o644", 0, 0),
        "./new/soft": ("l", "0o777", 0, 0),
        "./new/sub": ("d", "0o1777", 5, 6),
        "./new/sub/file": ("f", "0o4755", 0, 0),
        "./old": ("d", "0o755", 0, 0),
        "./stale": ("f", "0o600", 0, 0),
    }
    assert (root / "new/copy").read_bytes() == b"original" * 1000
    assert (root / "new/hard").samefile(root / "data")
    assert (root / "data").read_bytes() == b"data"
    assert str((root / "new/soft").readlink()) == "/nowhere/at all"


@pytest.mark.usefixtures("as_root")
def test_what_is_made_is_left_alone(root: Path, changes: list[Change]) -> None:
    make_all(root, changes)
    before = listing(root)
    make_all(root, changes)
    assert listing(root) == before


@pytest.mark.usefixtures("as_root")
def test_the_umask_has_no_say(root: Path, changes: list[Change]) -> None:
    other = shutil.copytree(root, root.with_name("other"), symlinks=True)
    make_all(root, changes)
    before = os.umask(0o077)
    try:
        make_all(other, changes)
    finally:
        os.umask(before)
    assert shape(other) == shape(root)


@pytest.mark.usefixtures("as_root")
def test_killed_anywhere_it_ends_the_same(place: Path, root: Path, changes: list[Change]) -> None:
    whole = shutil.copytree(root, place / "whole", symlinks=True)
    calls = calls_of(lambda: make_all(whole, changes, "mark"))
    assert calls > 20
    for count in range(calls):
        copy = shutil.copytree(root, place / f"killed-{count}", symlinks=True)
        with killed_after(count):
            make_all(copy, changes, "mark")
        make_all(copy, changes, "mark")
        assert shape(copy) == shape(whole), count


@pytest.mark.usefixtures("as_root")
def test_whenever_it_is_killed_a_file_is_the_old_or_the_new_one(place: Path, root: Path, changes: list[Change]) -> None:
    states = set()
    for count in range(30):
        copy = shutil.copytree(root, place / f"killed-{count}", symlinks=True)
        with killed_after(count):
            make_all(copy, changes)
        states.add((copy / "stale").read_bytes())
        assert (copy / "new/layer/file").exists() != (copy / "old/layer/file").exists()
    assert states == {b"stale", b"fresh"}


@dataclass(frozen=True)
class Broken:
    """A change that cannot be made, after ``prepared`` or before."""

    path: str
    prepared: bool

    def is_made(self, root: Path) -> bool:
        return not root

    def prepare(self, root: Path, aside: str) -> bool:
        (root / aside).write_bytes(b"half")
        if not self.prepared:
            raise OSError(28, "No space left on device", self.path)
        return True

    def make(self, root: Path, aside: str) -> None:
        raise OSError(5, "Input/output error", f"{root}/{aside}")


@pytest.mark.parametrize(("prepared", "made"), [(False, b"stale"), (True, b"fresh")])
def test_nothing_stays_aside_of_what_fails(root: Path, prepared: bool, made: bytes) -> None:
    with pytest.raises(OSError, match=r"No space|Input/output"):
        make_all(root, [File("stale", b"fresh", 0o600), Broken("broken", prepared), File("later", b"", 0o600)])
    assert (root / "stale").read_bytes() == made
    assert sorted(path.name for path in root.iterdir()) == ["data", "link", "old", "stale"]


def test_many_may_make_the_same(tmp_path: Path, root: Path) -> None:
    (tmp_path / "big").write_bytes(b"b" * 300_000)
    changes: list[Change] = [
        Directory("d", 0o750),
        Copy("d/copy", tmp_path / "big", 0o600),
        File("d/file", b"f" * 100_000, 0o600),
    ]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: make_all(root, changes), range(16)))
    assert [path.name for path in sorted((root / "d").iterdir())] == ["copy", "file"]
    assert all(change.is_made(root) for change in changes)
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o750


def test_a_directory_that_is_there_stays_as_it_is(root: Path) -> None:
    (root / "old").chmod(0o711)
    make_all(root, [Directory("old", 0o700)])
    assert stat.S_IMODE((root / "old").stat().st_mode) == 0o711


@pytest.mark.parametrize("target", ["data", "old", "nowhere"])
def test_a_directory_is_never_a_link(root: Path, target: str) -> None:
    (root / "d").symlink_to(target)
    with pytest.raises(FileExistsError):
        make_all(root, [Directory("d", 0o700), File("d/file", b"", 0o600)])
    assert not (root / "old" / "file").exists()
    assert stat.S_IMODE((root / "old").stat().st_mode) == 0o755


def test_a_link_in_place_of_a_file_is_not_followed(root: Path) -> None:
    make_all(root, [File("link", b"data", 0o644)])
    assert not (root / "link").is_symlink()
    assert (root / "data").stat().st_nlink == 1


def test_a_move_takes_the_place_of_a_link(root: Path) -> None:
    (root / "place").symlink_to("/var/lib/docker/old/layer")
    make_all(root, [Move("place", "old/layer")])
    assert not (root / "place").is_symlink()
    assert (root / "place" / "file").read_bytes() == b"in the layer"
    assert not (root / "old" / "layer").exists()


def test_a_move_does_not_take_the_place_of_a_file(root: Path) -> None:
    with pytest.raises(NotADirectoryError):
        make_all(root, [Move("data", "old/layer")])
    assert (root / "data").read_bytes() == b"data"


@pytest.fixture
def elsewhere(root: Path, tmp_path: Path) -> Path:
    """A directory on another file system, which is in the tree by a link."""
    assert tmp_path.stat().st_dev != root.stat().st_dev
    (root / "other").symlink_to(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("elsewhere")
def test_what_cannot_be_moved_is_linked_to_until_it_can(root: Path) -> None:
    move = Move("other/layer", "old/layer")
    make_all(root, [move])
    assert (root / "other/layer").readlink() == root / "old/layer"
    assert not move.is_made(root)
    before = os.lstat(root / "other/layer")
    make_all(root, [move])
    assert os.lstat(root / "other/layer") == before

    copy = shutil.copytree(root / "other", root / "own", symlinks=True)
    (root / "other").unlink()
    copy.rename(root / "other")
    make_all(root, [move])
    assert move.is_made(root)
    assert (root / "other/layer/file").read_bytes() == b"in the layer"


def test_files_on_other_file_systems_are_made_too(root: Path, elsewhere: Path) -> None:
    make_all(root, [Directory("other/d", 0o700), File("other/d/file", b"x", 0o600)])
    assert [path.name for path in (elsewhere / "d").iterdir()] == ["file"]
    assert not list(elsewhere.rglob(f"{ASIDE}*"))
