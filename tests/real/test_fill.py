"""Making trees with everything that only root can make, on real file systems."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.files.trees import ACL, CAPABILITY, OPAQUE, Listing, Node, build, descriptors, directories, listing
from tests.real.conftest import need
from transship.errors import SourceUnsupported
from transship.files.fill import Filler, FillMode
from transship.files.tree import DiskDirectory, MergedDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.real

ANYWHERE = [mode for mode in FillMode if mode is not FillMode.REFLINK]
MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", autouse=True)
def _root(request: pytest.FixtureRequest) -> None:
    need(request, "mount", "mkfs.xfs", "mkfs.btrfs", "setfacl")


@contextmanager
def mounted(*arguments: str, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", *arguments, at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


@contextmanager
def disk(mkfs: list[str], name: str) -> Iterator[Path]:
    """A file system of 600 MiB on a loop device."""
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory) / "image"
        with image.open("wb") as file:
            file.truncate(600 << 20)
        subprocess.run([*mkfs, image], check=True, stdout=subprocess.DEVNULL)
        with mounted("-o", "loop", str(image), at=Path(directory) / name) as place:
            yield place


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def reflinks(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system that can share blocks."""
    mkfs = {"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q"]}
    with disk(mkfs[request.param], request.param) as place:
        yield place


@pytest.fixture(scope="module")
def other_disk() -> Iterator[Path]:
    with disk(["mkfs.xfs", "-q"], "other") as place:
        yield place


def fill(mode: FillMode, source: Path, destination: Path) -> None:
    destination.mkdir()
    Filler(mode, False, lambda _: None).fill(DiskDirectory.open(source), destination)


def without_extents(tree: Listing) -> Listing:
    """Leave out where holes are: between file systems, and in a small file with many xattrs, they may differ."""
    return {path: {key: value for key, value in entry.items() if key != "data"} for path, entry in tree.items()}


@MANY
@given(directories(privileged=True))
def test_tree_comes_through(node: Node) -> None:
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        build(source, node)
        expected = without_extents(listing(source))
        before = descriptors()
        for mode in ANYWHERE:
            fill(mode, source, Path(name) / mode.value)
            assert without_extents(listing(Path(name) / mode.value)) == expected
        assert descriptors() == before
        assert without_extents(listing(source)) == expected


@MANY
@given(node=directories(privileged=True))
def test_tree_comes_through_to_another_disk(node: Node, other_disk: Path) -> None:
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(dir=other_disk) as other:
        source = Path(name) / "source"
        build(source, node)
        expected = without_extents(listing(source))
        for mode in ANYWHERE:
            fill(mode, source, Path(other) / mode.value)
            assert without_extents(listing(Path(other) / mode.value)) == expected


@MANY
@given(node=directories(privileged=True))
def test_tree_comes_through_as_reflinks(node: Node, reflinks: Path) -> None:
    with tempfile.TemporaryDirectory(dir=reflinks) as name:
        source = Path(name) / "source"
        build(source, node)
        expected = without_extents(listing(source))
        for mode in FillMode:
            fill(mode, source, Path(name) / mode.value)
            assert without_extents(listing(Path(name) / mode.value)) == expected


def large_file(directory: Path) -> Path:
    """A directory with a file of 64 MiB in it, on disk."""
    source = directory / "source"
    source.mkdir()
    with (source / "file").open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(1 << 20))
    os.sync()
    return source


@pytest.mark.parametrize("mode", [FillMode.AUTO, FillMode.REFLINK])
def test_reflink_takes_no_room(reflinks: Path, mode: FillMode) -> None:
    with tempfile.TemporaryDirectory(dir=reflinks) as name:
        source = large_file(Path(name))
        before = os.statvfs(reflinks).f_bfree
        fill(mode, source, Path(name) / "filled")
        os.sync()
        assert (before - os.statvfs(reflinks).f_bfree) * os.statvfs(reflinks).f_frsize < 4 << 20
        filled = Path(name) / "filled" / "file"
        assert not filled.samefile(source / "file")
        subprocess.run(["cmp", source / "file", filled], check=True)
        filled.write_bytes(b"changed")
        assert (source / "file").stat().st_size == 64 << 20


def test_copy_takes_room(reflinks: Path) -> None:
    with tempfile.TemporaryDirectory(dir=reflinks) as name:
        source = large_file(Path(name))
        before = os.statvfs(reflinks).f_bfree
        fill(FillMode.COPY, source, Path(name) / "filled")
        os.sync()
        assert (before - os.statvfs(reflinks).f_bfree) * os.statvfs(reflinks).f_frsize >= 64 << 20


def test_reflink_asked_for_where_there_is_none(tmp_path: Path, other_disk: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("x")
    with tempfile.TemporaryDirectory(dir=other_disk) as other, pytest.raises(OSError, match="cross-device"):
        fill(FillMode.REFLINK, source, Path(other) / "filled")


def test_links_to_another_disk_become_copies(tmp_path: Path, other_disk: Path) -> None:
    source = large_file(tmp_path)
    (source / "small").write_text("x")
    for mode in ANYWHERE:
        with tempfile.TemporaryDirectory(dir=other_disk) as other:
            fill(mode, source, Path(other) / "filled")
            assert without_extents(listing(Path(other) / "filled")) == without_extents(listing(source))


def test_nothing_leaks_from_the_parent(tmp_path: Path) -> None:
    """What is made in a directory with the setgid bit and a default ACL takes over neither its group nor its ACL."""
    source = tmp_path / "source"
    (source / "directory" / "deeper").mkdir(parents=True)
    for directory in (source, source / "directory"):
        (directory / "file").write_text("x")
        os.mkfifo(directory / "fifo")
        os.mknod(directory / "whiteout", stat.S_IFCHR, 0)
        (directory / "link").symlink_to("x")
    parent = tmp_path / "parent"
    parent.mkdir()
    os.chown(parent, 0, 1234)
    parent.chmod(0o2770)
    subprocess.run(["setfacl", "-m", "d:u:4321:rwx,d:g:99:rwx", parent], check=True)
    for mode in ANYWHERE:
        fill(mode, source, parent / mode.value)
        assert listing(parent / mode.value) == listing(source)


def test_lists_of_access_from_xfs_arrive_once(tmp_path: Path, other_disk: Path) -> None:
    """xfs shows them under names of its own as well."""
    with tempfile.TemporaryDirectory(dir=other_disk) as other:
        source = Path(other) / "source"
        (source / "directory").mkdir(parents=True)
        os.setxattr(source / "directory", "system.posix_acl_default", ACL)
        assert "trusted.SGI_ACL_DEFAULT" in os.listxattr(source / "directory")
        fill(FillMode.AUTO, source, tmp_path / "filled")
    assert os.listxattr(tmp_path / "filled" / "directory") == ["system.posix_acl_default"]


def test_umask_does_not_show(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir(mode=0o777)
    (source / "directory").mkdir()
    (source / "directory").chmod(0o777)
    (source / "file").touch()
    (source / "file").chmod(0o666)
    os.mkfifo(source / "fifo")
    (source / "fifo").chmod(0o666)
    before = os.umask(0o077)
    try:
        for mode in ANYWHERE:
            fill(mode, source, tmp_path / mode.value)
    finally:
        os.umask(before)
    for mode in ANYWHERE:
        assert listing(tmp_path / mode.value) == listing(source)


def test_source_is_left_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(bytes(100_000))
    os.setxattr(source / "file", "security.capability", CAPABILITY)
    os.setxattr(source / "file", "system.posix_acl_access", ACL)
    (source / "file").chmod(0o4660)
    expected = listing(source)
    for mode in ANYWHERE:
        fill(mode, source, tmp_path / mode.value)
        assert listing(source) == expected
        assert listing(tmp_path / mode.value) == expected


# Merged directories, against overlayfs itself.


@st.composite
def layers(draw: st.DrawFn) -> list[Node]:
    """Diffs on top of each other, of few names, so that they meet; the topmost first."""
    count = draw(st.integers(1, 4))
    return [draw(_layer(number, 3)) for number in range(count)]


@st.composite
def _layer(draw: st.DrawFn, number: int, depth: int) -> Node:
    children: dict[bytes, Node] = {}
    for name in draw(st.sets(st.sampled_from([b"a", b"b", b"c", b"\xff"]), max_size=4)):
        kind = draw(
            st.sampled_from(["directory", "directory", "opaque", "file", "file", "whiteout", "whiteout", "link", "device"])
        )
        if kind in {"directory", "opaque"} and depth > 0:
            child = draw(_layer(number, depth - 1))
            if kind == "opaque":
                child.xattrs[OPAQUE] = b"y"
        elif kind == "whiteout":
            child = Node(stat.S_IFCHR, mode=0)
        elif kind == "link":
            child = Node(stat.S_IFLNK, target=b"%d" % number)
        elif kind == "device":
            child = Node(stat.S_IFCHR, device=os.makedev(1, 3 + number))
        else:
            child = Node(stat.S_IFREG, mode=0o640 + number, pieces={0: b"%d" % number}, links=[b"same-%d" % number])
            child.xattrs = draw(st.sampled_from([{}, {"trusted.overlay.origin": b"x"}, {"user.a": b"%d" % number}]))
        children[name] = child
    xattrs = {"user.layer": b"%d" % number, "trusted.overlay.impure": b"y"}
    return Node(stat.S_IFDIR, mode=0o700 + number, owner=(number, 0), mtime=number * 10**9, children=children, xattrs=xattrs)


@MANY
@given(layers())
def test_merged_is_what_overlayfs_shows(diffs: list[Node]) -> None:
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / str(number) for number in range(len(diffs))]
        for path, node in zip(paths, diffs, strict=True):
            build(path, node)
        (Path(name) / "empty").mkdir()  # overlayfs wants two at least
        with mounted(
            "-t",
            "overlay",
            "-o",
            f"lowerdir={':'.join(map(str, [*paths, Path(name) / 'empty']))}",
            "overlay",
            at=Path(name) / "mnt",
        ) as place:
            expected = without_extents(listing(place))
        before = descriptors()
        for mode in ANYWHERE:
            filled = Path(name) / mode.value
            filled.mkdir()
            Filler(mode, True, lambda _: None).fill(MergedDirectory.open(paths), filled)
            found = listing(filled, overlay_xattrs=mode is FillMode.COPY)
            assert without_extents(found) == expected
        assert descriptors() == before


@pytest.mark.parametrize("xattr", ["trusted.overlay.redirect", "trusted.overlay.metacopy"])
def test_content_elsewhere_is_refused(tmp_path: Path, xattr: str) -> None:
    for name in ("one", "two", "filled"):
        (tmp_path / name / "directory").mkdir(parents=True)
    place = tmp_path / "one" / "directory"
    if xattr.endswith("metacopy"):
        place /= "file"
        place.touch()
    os.setxattr(place, xattr, b"x")
    (tmp_path / "filled" / "directory").rmdir()
    before = descriptors()
    with pytest.raises(SourceUnsupported, match=xattr):
        Filler(FillMode.COPY, True, lambda _: None).fill(
            MergedDirectory.open([tmp_path / "one", tmp_path / "two"]), tmp_path / "filled"
        )
    assert descriptors() == before
