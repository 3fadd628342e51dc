"""Changes taken back: exactly, after a kill too, and not what others have made since."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.files.kill import calls_of, killed_after
from tests.real.trees import differences, listing
from transship.errors import JournalError
from transship.files.changes import Copy, Directory, File, HardLink, Move, SymbolicLink
from transship.files.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.real.trees import Tree
    from transship.files.changes import Change

pytestmark = pytest.mark.usefixtures("as_root")

KEY = "image:sha256:0123"
LONG_AGO = 1_385_057_021_123_456_789


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory: where there are many changes, a disk would be slow to write them out."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        yield Path(place)


@pytest.fixture
def root(place: Path) -> Path:
    """A tree in which everything has its own mode, owner and time."""
    root = place / "root"
    (root / "old" / "layer").mkdir(parents=True)
    (root / "old" / "layer" / "file").write_bytes(b"in the layer")
    (root / "data").write_bytes(b"data")
    (root / "stale").write_bytes(b"stale")
    (root / "mode").write_bytes(b"mode")
    (root / "link").symlink_to("data")
    (root / "linked").symlink_to("/var/lib/docker/old/layer")
    for number, path in enumerate(sorted(root.rglob("*"))):
        os.lchown(path, 10 + number, 20 + number)
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o4711)
    for number, path in enumerate(sorted([root, *root.rglob("*")], reverse=True)):
        os.utime(path, ns=(LONG_AGO, LONG_AGO + number), follow_symlinks=False)
    return root


@pytest.fixture
def changes(place: Path) -> list[Change]:
    """One of each kind, and more."""
    (place / "original").write_bytes(b"original" * 1000)
    return [
        Directory("new", 0o700),
        Directory("new/sub", 0o755, (5, 6)),
        File("new/sub/file", b"content", 0o600),
        File("stale", b"fresh", 0o600),
        File("mode", b"mode", 0o600),
        File("link", b"was a link", 0o644),
        Copy("new/copy", place / "original", 0o640),
        HardLink("new/hard", "data"),
        SymbolicLink("new/soft", "/nowhere/at all"),
        Move("linked", "old/layer"),
    ]


def ledger_of(root: Path) -> Ledger:
    """Return the ledger of a tree, which has the times of its directories."""
    ledger = Ledger(root, root.with_name(f"{root.name}-undo"))
    ledger.remember_times(["", "old", "not there"])
    return ledger


def take_back(ledger: Ledger, *keys: str) -> None:
    for key in keys:
        assert ledger.take_back(key)
    ledger.restore_times()


def copied(root: Path, name: str) -> Path:
    """Copy a tree, links and directories with their owners and times."""
    copy = root.with_name(name)
    shutil.copytree(root, copy, symlinks=True)
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        os.lchown(copy / path.relative_to(root), status.st_uid, status.st_gid)
        if not path.is_symlink():
            (copy / path.relative_to(root)).chmod(status.st_mode)
        os.utime(copy / path.relative_to(root), ns=(LONG_AGO, status.st_mtime_ns), follow_symlinks=False)
    return copy


def timeless(tree: Tree) -> Tree:
    return {name: [*entry[:6], *entry[7:]] for name, entry in tree.items()}


def test_all_is_as_it_was(root: Path, changes: list[Change]) -> None:
    before = listing(root)
    ledger = ledger_of(root)
    assert not ledger.knows(KEY)
    assert ledger.make(KEY, changes)
    assert ledger.knows(KEY)
    assert all(change.is_made(root) for change in changes)
    take_back(ledger, KEY)
    assert differences(listing(root), before) == {}
    assert not ledger.knows(KEY)


def test_what_was_made_already_is_not_on_the_page(root: Path) -> None:
    ledger = ledger_of(root)
    assert not ledger.make(KEY, [Directory("old", 0o755), File("stale", b"stale", 0o4711)])
    assert not ledger.knows(KEY)
    assert ledger.take_back(KEY)
    assert (root / "stale").read_bytes() == b"stale"


def test_killed_anywhere_it_is_ended_or_taken_back(root: Path, changes: list[Change]) -> None:
    before = listing(root)
    whole = copied(root, "whole")
    calls = calls_of(lambda: Ledger(whole, whole.with_name("whole-undo")).make(KEY, changes))
    assert calls > 30
    for count in range(calls):
        killed = copied(root, f"killed-{count}")
        assert differences(listing(killed), before) == {}
        ledger = ledger_of(killed)
        with killed_after(count):
            ledger.make(KEY, changes)
        if count % 2:
            assert ledger.make(KEY, changes)
            assert timeless(listing(killed)) == timeless(listing(whole)), count
        take_back(ledger, KEY)
        assert differences(listing(killed), before) == {}, count


def test_killed_while_it_is_taken_back(root: Path, changes: list[Change]) -> None:
    before = listing(root)
    whole = copied(root, "whole")
    ledger = ledger_of(whole)
    ledger.make(KEY, changes)
    calls = calls_of(lambda: take_back(ledger, KEY))
    assert calls > 20
    for count in range(calls):
        killed = copied(root, f"killed-{count}")
        ledger = ledger_of(killed)
        ledger.make(KEY, changes)
        with killed_after(count):
            take_back(ledger, KEY)
        take_back(ledger, KEY)
        assert differences(listing(killed), before) == {}, count


def test_a_page_may_change_and_knows_how_it_was_at_first(root: Path) -> None:
    before = listing(root)
    ledger = ledger_of(root)
    for text in (b"one", b"two", b"three"):
        assert ledger.make(KEY, [File("stale", text, 0o600), File("more", text, 0o600)])
    take_back(ledger, KEY)
    assert differences(listing(root), before) == {}


def test_killed_while_a_page_changes(root: Path) -> None:
    before = listing(root)
    for count in range(12):
        killed = copied(root, f"killed-{count}")
        ledger = ledger_of(killed)
        ledger.make(KEY, [File("stale", b"one", 0o600), File("more", b"one", 0o600)])
        with killed_after(count):
            ledger.make(KEY, [File("stale", b"two", 0o600), File("more", b"two", 0o600)])
        take_back(ledger, KEY)
        assert differences(listing(killed), before) == {}, count


def test_pages_are_taken_back_one_by_one(root: Path) -> None:
    before = listing(root)
    ledger = ledger_of(root)
    ledger.make("one", [Directory("d", 0o700), File("d/one", b"1", 0o600)])
    ledger.make("two", [Directory("d", 0o700), File("d/two", b"2", 0o600)])
    assert not ledger.take_back("one")  # something is in the directory
    assert not (root / "d/one").exists()
    assert (root / "d/two").read_bytes() == b"2"
    take_back(ledger, "two", "one")
    assert differences(listing(root), before) == {}


def rewrite(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"by somebody else")


def point_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


def put_something_into(path: Path) -> None:
    (path / "something").write_bytes(b"by somebody else")


@pytest.mark.parametrize(
    ("change", "meddle"),
    [
        (File("new", b"ours", 0o600), rewrite),
        (File("stale", b"ours", 0o600), rewrite),
        (File("stale", b"ours", 0o600), point_elsewhere),
        (File("link", b"ours", 0o600), rewrite),
        (HardLink("new", "data"), rewrite),
        (SymbolicLink("new", "ours"), point_elsewhere),
        (SymbolicLink("new", "ours"), rewrite),
        (Directory("new", 0o700), put_something_into),
        (Directory("new", 0o700), lambda path: (path.rmdir(), path.write_bytes(b""))),
        (Move("new", "old/layer"), lambda path: (path.parent / "old/layer").mkdir()),
    ],
)
def test_what_somebody_has_changed_since_is_kept(root: Path, change: Change, meddle: object) -> None:
    ledger = ledger_of(root)
    ledger.make(KEY, [change])
    assert callable(meddle)
    meddle(root / change.path)
    before = listing(root)
    assert not ledger.take_back(KEY)
    assert differences(listing(root), before) == {}
    assert ledger.knows(KEY)


def test_what_somebody_has_removed_since_comes_back_if_it_was_there(root: Path) -> None:
    before = listing(root)
    ledger = ledger_of(root)
    ledger.make(KEY, [File("stale", b"ours", 0o600), File("new", b"ours", 0o600), SymbolicLink("link", "ours")])
    for name in ("stale", "new", "link"):
        (root / name).unlink()
    take_back(ledger, KEY)
    assert differences(listing(root), before) == {}


@pytest.mark.parametrize("change", [File("old", b"", 0o600), Move("old", "data"), HardLink("old", "data")])
def test_a_directory_in_the_way_stops_it_before_anything_is_changed(root: Path, change: Change) -> None:
    before = listing(root)
    ledger = ledger_of(root)
    with pytest.raises(FileExistsError, match="in the way"):
        ledger.make(KEY, [File("stale", b"ours", 0o600), change])
    assert differences(listing(root), before) == {}
    assert ledger.take_back(KEY)


@pytest.mark.parametrize("link", [None, "/var/lib/docker/old/layer"])
def test_a_link_that_stands_for_a_move_is_taken_back(root: Path, tmp_path: Path, link: str | None) -> None:
    assert tmp_path.stat().st_dev != root.stat().st_dev
    (root / "other").symlink_to(tmp_path)
    if link is not None:
        (root / "other/layer").symlink_to(link)
    before = listing(root), listing(tmp_path)
    ledger = Ledger(root, root.with_name("undo"))
    ledger.remember_times(["", "old", "other/"])
    ledger.make(KEY, [Move("other/layer", "old/layer")])
    assert (root / "other/layer").is_symlink()
    assert ledger.take_back(KEY)
    ledger.restore_times()
    after = listing(root), timeless(listing(tmp_path))
    assert after == (before[0], timeless(before[1]))


def test_times_are_those_of_the_first_time(root: Path) -> None:
    before = listing(root)
    ledger = ledger_of(root)
    (root / "x").touch()
    (root / "x").unlink()
    ledger.remember_times([""])
    ledger.restore_times()
    assert differences(listing(root), before) == {}


@pytest.mark.parametrize("damage", [b"{", b"[1]", b'[{"path": "x"}]', b'[{"path": 1, "kind": "File"}]'])
def test_a_damaged_page_is_named(root: Path, damage: bytes) -> None:
    ledger = ledger_of(root)
    ledger.make(KEY, [File("stale", b"ours", 0o600)])
    [page] = root.with_name("root-undo").glob("*/entries.json")
    page.write_bytes(damage)
    with pytest.raises(JournalError, match=f"{page} is damaged"):
        ledger.take_back(KEY)
    assert (root / "stale").read_bytes() == b"ours"
