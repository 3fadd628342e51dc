"""Making trees, as anybody: what needs root is in tests/real/test_fill.py."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from tests.files.trees import BLOCK, Node, build, descriptors, directories, listing
from transship.files.fill import LINK_THRESHOLD, Filler, FillMode
from transship.files.tree import Child, DiskDirectory, MergedDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator

ANYWHERE = [mode for mode in FillMode if mode is not FillMode.REFLINK]
"""Modes that work on every file system."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    path = tmp_path / "destination"
    path.mkdir()
    return path


def fill(mode: FillMode, source: Path, destination: Path) -> list[int]:
    """Fill, and return what ``advance`` was told."""
    told: list[int] = []
    Filler(mode, False, told.append).fill(DiskDirectory.open(source), destination)
    return told


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(directories(privileged=False))
def test_tree_comes_through(node: Node) -> None:
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        build(source, node)
        expected = listing(source)
        before = descriptors()
        for mode in ANYWHERE:
            destination = Path(name) / mode.value
            destination.mkdir()
            told = fill(mode, source, destination)
            assert listing(destination) == expected
            assert sum(told) == sum(entry.get("size", 0) for entry in expected.values())
        assert listing(source) == expected
        assert descriptors() == before


@pytest.mark.parametrize(
    ("mode", "small", "large"),
    [
        (FillMode.COPY, False, False),
        (FillMode.LINK, False, True),
        (FillMode.LINK_ALL, True, True),
    ],
)
def test_what_is_linked(mode: FillMode, small: bool, large: bool, source: Path, destination: Path) -> None:
    (source / "small").write_bytes(bytes(LINK_THRESHOLD - 1))
    (source / "large").write_bytes(bytes(LINK_THRESHOLD))
    fill(mode, source, destination)
    assert [(destination / name).samefile(source / name) for name in ("small", "large")] == [small, large]


def test_filler_is_used_again(tmp_path: Path, source: Path) -> None:
    (source / "a").write_text("x")
    (source / "b").hardlink_to(source / "a")
    filler = Filler(FillMode.COPY, False, lambda _: None)
    for number in range(2):
        destination = tmp_path / str(number)
        destination.mkdir()
        filler.fill(DiskDirectory.open(source), destination)
        assert (destination / "a").samefile(destination / "b")
        assert listing(destination) == listing(source)


def test_hard_links_between_directories(source: Path, destination: Path) -> None:
    for name in ("one", "two/deep", "three"):
        (source / name).mkdir(parents=True)
    (source / "two" / "file").write_bytes(b"x" * 10)
    (source / "two" / "deep" / "link").symlink_to("nowhere")
    os.mkfifo(source / "fifo")
    for name in ("one", "three", "two/deep"):
        os.link(source / "two" / "file", source / name / "same")
        os.link(source / "fifo", source / name / "fifo")
        os.link(source / "two" / "deep" / "link", source / name / "same-link", follow_symlinks=False)
    for mode in ANYWHERE:
        place = destination / mode.value
        place.mkdir()
        fill(mode, source, place)
        assert listing(place) == listing(source)


def test_large_sparse_file_stays_sparse(source: Path, destination: Path) -> None:
    with (source / "sparse").open("wb") as file:
        for offset in (0, 100 << 20, (200 << 20) + 5):
            file.seek(offset)
            file.write(os.urandom(3 << 20))
        file.truncate(300 << 20)
    told = fill(FillMode.COPY, source, destination)
    assert (destination / "sparse").stat().st_blocks <= (source / "sparse").stat().st_blocks
    subprocess.run(["cmp", source / "sparse", destination / "sparse"], check=True)
    assert sum(told) == 300 << 20


def test_holes_that_are_a_whole_small_file(source: Path, destination: Path) -> None:
    for size in (1, BLOCK, (1 << 20) - 1, 1 << 20, (1 << 20) + 1):
        with (source / str(size)).open("wb") as file:
            file.truncate(size)
    fill(FillMode.COPY, source, destination)
    assert listing(destination) == listing(source)
    assert all(path.stat().st_blocks == 0 for path in destination.iterdir())


class Stop(Exception):
    pass


def stop(_: int) -> None:
    raise Stop


class BrokenDirectory(DiskDirectory):
    """A directory that cannot be listed, like one on a bad disk."""

    def children(self) -> Iterator[Child]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def enter(self, child: Child) -> DiskDirectory:
        return BrokenDirectory(os.open(child.name, os.O_RDONLY, dir_fd=child.at))


class DirectoryWithBroken(DiskDirectory):
    """A directory whose directories cannot be listed."""

    def enter(self, child: Child) -> DiskDirectory:
        return BrokenDirectory(os.open(child.name, os.O_RDONLY, dir_fd=child.at))


class TestFailureLeaksNothing:
    @pytest.fixture(autouse=True)
    def _descriptors(self) -> Iterator[None]:
        before = descriptors()
        yield
        assert descriptors() == before

    def test_stopped(self, source: Path, destination: Path) -> None:
        (source / "a" / "b" / "c").mkdir(parents=True)
        (source / "a" / "b" / "c" / "file").write_text("x")
        with pytest.raises(Stop):
            Filler(FillMode.COPY, False, stop).fill(DiskDirectory.open(source), destination)

    def test_stopped_in_a_large_file(self, source: Path, destination: Path) -> None:
        (source / "file").write_bytes(bytes(5 << 20))
        with pytest.raises(Stop):
            Filler(FillMode.COPY, False, stop).fill(DiskDirectory.open(source), destination)

    def test_destination_missing(self, source: Path, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            fill(FillMode.COPY, source, tmp_path / "missing")

    def test_destination_not_empty(self, source: Path, destination: Path) -> None:
        for name in ("directory", "other"):
            (source / name).mkdir()
        (destination / "directory").mkdir()
        with pytest.raises(FileExistsError):
            fill(FillMode.COPY, source, destination)

    def test_destination_with_a_link_where_a_file_goes(self, source: Path, destination: Path, tmp_path: Path) -> None:
        (source / "file").write_text("x")
        (destination / "file").symlink_to(tmp_path / "outside")
        with pytest.raises(FileExistsError):
            fill(FillMode.COPY, source, destination)
        assert not (tmp_path / "outside").exists()

    @pytest.mark.parametrize("kind", [BrokenDirectory, DirectoryWithBroken])
    def test_source_unreadable(self, source: Path, destination: Path, kind: type[DiskDirectory]) -> None:
        (source / "directory").mkdir()
        with pytest.raises(OSError, match="Input/output error"):
            Filler(FillMode.COPY, False, lambda _: None).fill(kind.open(source), destination)

    def test_merged_directory_missing(self, source: Path, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            MergedDirectory.open([source, tmp_path / "missing"])

    def test_merged_directories(self, source: Path, destination: Path, tmp_path: Path) -> None:
        for root in (source, tmp_path / "other"):
            (root / "a" / "b").mkdir(parents=True)
            (root / "a" / "b" / root.name).touch()
        filler = Filler(FillMode.COPY, True, lambda _: None)
        filler.fill(MergedDirectory.open([source, tmp_path / "other"]), destination)
        assert {path.name for path in (destination / "a" / "b").iterdir()} == {"source", "other"}


_DEEP = """
import os, resource, sys
from pathlib import Path
from transship.files.fill import Filler, FillMode
from transship.files.tree import DiskDirectory
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
at = os.open(sys.argv[1], os.O_RDONLY)
for number in range(1500):
    os.mkdir("deeper", dir_fd=at)
    below = os.open("deeper", os.O_RDONLY, dir_fd=at)
    os.close(at)
    at = below
os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at))
Filler(FillMode.COPY, False, lambda count: None).fill(DiskDirectory.open(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_path_longer_than_the_system_takes(source: Path, destination: Path) -> None:
    subprocess.run([sys.executable, "-c", _DEEP, source, destination], check=True)
    at = os.open(destination, os.O_RDONLY)
    for _ in range(1500):
        below = os.open("deeper", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    assert stat.S_ISREG(os.stat("file", dir_fd=at).st_mode)
    os.close(at)
    for place in (source, destination):
        subprocess.run(["rm", "-rf", place], check=True)
