"""What differs between two trees, as Docker's differ saw it."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from contextlib import chdir
from pathlib import Path

import pytest

from tests.stores.docker.builder import open_files
from transship.errors import LayerMismatch, SourceCorrupt
from transship.stores.graph import changes
from transship.stores.graph.changes import Change

CAPABILITY = b"\x01\0\0\x02\0\x20" + bytes(14)
SECOND = 10**9


class Trees:
    """Two trees, which are equal until a test changes one."""

    def __init__(self, place: Path) -> None:
        self.old, self.new = place / "old", place / "new"
        for name in ("a", "a-b/f", "a.d/f", "d/e/f", "d/e/g", "d/h", "z"):
            path = self.old / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        (self.old / "link").symlink_to("a")

    def copy(self) -> Path:
        """Make the new tree, and return its path."""
        return Path(shutil.copytree(self.old, self.new, symlinks=True))

    def changes(self) -> list[str]:
        """What differs: names that are there, and ``-`` before those that are not."""
        return [f"-{os.fsdecode(each.path)}" if each.deleted else os.fsdecode(each.path) for each in self.found()]

    def found(self) -> list[Change]:
        return changes.between(self.old, self.new)


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    return Trees(tmp_path)


def test_a_copy_does_not_differ(trees: Trees) -> None:
    trees.copy()
    assert trees.changes() == []


def test_what_is_new_comes_with_the_directories_above(trees: Trees) -> None:
    (trees.copy() / "d/e/new").touch()
    assert trees.changes() == ["d", "d/e", "d/e/new"]


def test_of_a_new_directory_everything_is_new(trees: Trees) -> None:
    shutil.copytree(trees.copy() / "d", trees.new / "n")
    assert trees.changes() == ["n", "n/e", "n/e/f", "n/e/g", "n/h"]


def test_a_deletion_stands_for_all_below(trees: Trees) -> None:
    shutil.rmtree(trees.copy() / "d/e")
    (trees.new / "z").unlink()
    assert trees.changes() == ["d", "-d/e", "-z"]
    assert [each.name for each in trees.found()] == [b"d", b"d/.wh.e", b".wh.z"]


def test_paths_are_sorted_as_a_whole(trees: Trees) -> None:
    trees.old.rename(trees.new)
    trees.old.mkdir()
    (trees.new / "a").unlink()
    (trees.new / "a").mkdir()
    (trees.new / "a/f").touch()
    assert trees.changes() == [
        "a", "a-b", "a-b/f", "a.d", "a.d/f", "a/f", "d", "d/e", "d/e/f", "d/e/g", "d/h", "link", "z"
    ]  # fmt: skip


def test_names_that_are_no_text(trees: Trees) -> None:
    trees.copy()
    Path(os.fsdecode(bytes(trees.new) + b"/\xff")).touch()
    Path(os.fsdecode(bytes(trees.old) + b"/\xfe")).touch()
    assert trees.found() == [Change(b"\xfe", deleted=True), Change(b"\xff")]


def test_other_content_of_another_length(trees: Trees) -> None:
    (trees.copy() / "a").write_bytes(b"longer")
    os.utime(trees.new / "a", ns=(0, (trees.old / "a").stat().st_mtime_ns))
    assert trees.changes() == ["a"]


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        (5 * SECOND + 1, 5 * SECOND + 1, False),
        (5 * SECOND, 5 * SECOND + 1, False),
        (5 * SECOND + 1, 5 * SECOND, False),
        (5 * SECOND + 1, 5 * SECOND + 2, True),
        (5 * SECOND, 6 * SECOND, True),
        (5 * SECOND + 1, 6 * SECOND, True),
    ],
)
def test_a_time_may_have_lost_its_fraction(trees: Trees, before: int, after: int, differs: bool) -> None:
    os.utime(trees.copy() / "a", ns=(0, after))
    os.utime(trees.old / "a", ns=(0, before))
    assert trees.changes() == (["a"] if differs else [])


def test_times_of_directories_and_sockets_do_not_count(trees: Trees) -> None:
    put_socket(trees.copy() / "d/socket")
    put_socket(trees.old / "d/socket")
    os.utime(trees.new / "d", ns=(0, 0))
    os.utime(trees.new / "d/socket", ns=(0, 0))
    assert trees.changes() == []


def test_modes(trees: Trees) -> None:
    (trees.copy() / "d").chmod(0o700)
    (trees.new / "z").chmod(0o4755)
    assert trees.changes() == ["d", "z"]


@pytest.mark.usefixtures("as_root")
def test_owners(trees: Trees) -> None:
    os.chown(trees.copy() / "d", 5, -1)
    os.chown(trees.new / "z", -1, 5)
    os.chown(trees.new / "link", 5, -1, follow_symlinks=False)
    assert trees.changes() == ["d", "link", "z"]


@pytest.mark.usefixtures("as_root")
def test_numbers_of_devices(trees: Trees) -> None:
    trees.copy()
    for path, minor in ((trees.old / "same", 3), (trees.new / "same", 3), (trees.old / "other", 3), (trees.new / "other", 5)):
        os.mknod(path, stat.S_IFBLK, os.makedev(1, minor))
    assert trees.changes() == ["other"]


@pytest.mark.usefixtures("as_root")
def test_capabilities_and_no_other_attributes(trees: Trees) -> None:
    trees.copy()
    for path in (trees.old / "a", trees.new / "a", trees.old / "z", trees.new / "d/h"):
        os.setxattr(path, "security.capability", CAPABILITY)
    os.setxattr(trees.new / "d/e/f", "user.x", b"1")
    assert trees.changes() == ["d", "d/h", "z"]


def test_a_link_elsewhere(trees: Trees) -> None:
    (trees.copy() / "link").unlink()
    (trees.new / "link").symlink_to("/etc/passwd")
    assert trees.changes() == ["link"]


def test_links_to_directories_are_not_followed(trees: Trees, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/f").touch()
    trees.copy()
    for place in (trees.old, trees.new):
        (place / "out").symlink_to(tmp_path / "elsewhere")
    (trees.new / "in").symlink_to(tmp_path / "elsewhere")
    os.utime(trees.new / "out", ns=(0, 0), follow_symlinks=False)
    assert trees.changes() == ["in", "out"]
    assert [each.path for each in changes.everything(trees.new) if b"elsewhere" in each.path or b"/f" in each.path] == [
        b"a-b/f", b"a.d/f", b"d/e/f"
    ]  # fmt: skip


def test_a_directory_in_place_of_a_file(trees: Trees) -> None:
    (trees.copy() / "a").unlink()
    shutil.copytree(trees.old / "d", trees.new / "a")
    assert trees.changes() == ["a", "a/e", "a/e/f", "a/e/g", "a/h"]


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_a_file_in_place_of_a_directory_says_all(trees: Trees, kind: str) -> None:
    shutil.rmtree(trees.copy() / "d")
    match kind:
        case "file":
            (trees.new / "d").touch()
        case "link":
            (trees.new / "d").symlink_to("a-b")
        case "fifo":
            os.mkfifo(trees.new / "d")
    assert trees.changes() == ["d"]


def test_a_socket_in_place_of_a_directory_passes_for_one(trees: Trees) -> None:
    shutil.rmtree(trees.copy() / "d")
    put_socket(trees.new / "d")
    assert trees.changes() == ["d", "-d/e", "-d/h"]


def test_hard_links_of_the_same_files_are_passed_over(trees: Trees) -> None:
    """As in a layer of overlay; another file with the same name there is seen."""
    shutil.copytree(trees.old, trees.new, symlinks=True, copy_function=os.link)
    (trees.new / "d/h").unlink()
    (trees.new / "d/h").write_bytes(b"other")
    assert trees.changes() == ["d", "d/h"]


def test_a_file_named_like_a_deletion_is_refused_where_both_would_be_told(trees: Trees) -> None:
    (trees.copy() / "d/.wh.h").touch()
    assert trees.changes() == ["d", "d/.wh.h"]
    (trees.new / "d/h").unlink()
    with pytest.raises(SourceCorrupt, match=r"d/\.wh\.h"):
        trees.changes()


def test_a_missing_parent_is_named(trees: Trees) -> None:
    trees.copy()
    shutil.rmtree(trees.old)
    with pytest.raises(LayerMismatch, match=str(trees.old)):
        trees.changes()


def test_a_file_is_no_tree(trees: Trees) -> None:
    with pytest.raises(SourceCorrupt, match=f"{trees.old}/a"):
        changes.between(trees.old, trees.old / "a")


def test_a_walk_goes_down_before_it_goes_on(trees: Trees) -> None:
    assert [os.fsdecode(each.path) for each in changes.everything(trees.old)] == [
        "a", "a-b", "a-b/f", "a.d", "a.d/f", "d", "d/e", "d/e/f", "d/e/g", "d/h", "link", "z"
    ]  # fmt: skip
    (trees.old / "d.").touch()
    assert [each.path for each in changes.everything(trees.old)][-3:] == [b"d.", b"link", b"z"]


def make_deep(top: Path, depth: int, name: str) -> None:
    """Make directories in one another, by descriptors: the path of the last may be too long for any call."""
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def test_deep_trees_take_few_descriptors(trees: Trees) -> None:
    make_deep(trees.copy(), 300, "deep")
    before = open_files()
    walk = changes.everything(trees.new)
    most = max(open_files() for number, _ in enumerate(walk) if not number % 20)
    assert most < before + 15
    assert len(trees.changes()) == 300
    assert open_files() == before


def test_paths_that_docker_could_not_have_made_are_refused(trees: Trees) -> None:
    make_deep(trees.copy(), 21, "d" * 200)
    with pytest.raises(SourceCorrupt, match=r"d/d.* longer than 4095 bytes"):
        list(changes.everything(trees.new))
    with pytest.raises(SourceCorrupt, match="longer than 4095 bytes"):
        trees.changes()


def test_what_aufs_keeps_for_itself_is_left_out(tmp_path: Path) -> None:
    for name in (
        ".wh..wh.aufs",
        ".wh..wh.orph/x",
        ".wh..wh.plnk/1.2",
        ".wh..wh..opq",
        ".wh.gone",
        "n/.wh..wh..opq",
        "n/.wh..wh.sub/f",
        "n/.wh.gone",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(changes.of_aufs(tmp_path)) == [
        Change(b".wh..wh..opq"),
        Change(b".wh.gone"),
        Change(b"n"),
        Change(b"n/.wh..wh..opq"),
        Change(b"n/.wh..wh.sub"),
        Change(b"n/.wh..wh.sub/f"),
        Change(b"n/.wh.gone"),
    ]


def put_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, chdir(path.parent):  # the path of a socket must be short
        made.bind(path.name)
