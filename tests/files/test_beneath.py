"""Opening files below a directory that a stranger has filled."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.files.trees import descriptors
from transship.files.beneath import MAX_LINKS, Beneath

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = b"outside"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory, with something beside it that must not be read."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "secret").write_bytes(SECRET)
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def files(root: Path) -> Iterator[Beneath]:
    before = descriptors()
    with Beneath(root) as files:
        yield files
    assert descriptors() == before


def content(files: Beneath, path: bytes) -> bytes:
    descriptor = files.open_file(path)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


def fails(files: Beneath, path: bytes, number: int) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number tells
        files.open_file(path)
    assert caught.value.errno == number


@pytest.mark.parametrize(
    "path",
    [
        b"a/b/file",
        b"/a/b/file",
        b"./a/b/file",
        b"a//b///file",
        b"a/./b/./file",
        b"a/b/../b/file",
        b"../../a/b/file",
        b"a/../a/b/file",
    ],
)
def test_plain_paths(root: Path, files: Beneath, path: bytes) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("inside")
    assert content(files, path) == b"inside"


def test_files_in_the_root(root: Path, files: Beneath) -> None:
    (root / "file").write_text("inside")
    for path in (b"file", b"/file", b"./file", b"//file"):
        assert content(files, path) == b"inside"


@pytest.mark.parametrize("path", [b"file/", b"file/.", b"./file//./", b"a/../file/"])
def test_names_that_end_in_slash_or_dot(root: Path, files: Beneath, path: bytes) -> None:
    (root / "file").write_text("inside")
    (root / "a").mkdir()
    assert content(files, path) == b"inside"


@pytest.mark.parametrize("path", [b"", b"/", b".", b"./", b"..", b"a/..", b"../..", b"//..//", b"a/../..", b"a/../"])
def test_paths_without_a_name(root: Path, files: Beneath, path: bytes) -> None:
    (root / "a").mkdir()
    fails(files, path, errno.ENOENT)


@pytest.mark.parametrize("path", [b"\0", b"a\0", b"a\0b/file", b"a/\0", b"a/b\0c", b"a\0/"])
def test_names_with_nul(root: Path, files: Beneath, path: bytes) -> None:
    (root / "a").mkdir()
    fails(files, path, errno.ENOENT)
    with pytest.raises(FileNotFoundError):
        files.resolve(path)


@pytest.mark.parametrize(
    "path",
    [b"missing", b"a/missing", b"missing/file", b"missing/../a/file", b"a/missing/../file", b"link/missing", b"dangling/file"],
)
def test_missing(root: Path, files: Beneath, path: bytes) -> None:
    (root / "a").mkdir()
    (root / "a" / "file").touch()
    (root / "link").symlink_to("a")
    (root / "dangling").symlink_to("nowhere")
    fails(files, path, errno.ENOENT)


@pytest.mark.parametrize("path", [b"file/x", b"file/../file", b"link/x", b"file/x/y", b"fifo/x"])
def test_file_in_the_middle(root: Path, files: Beneath, path: bytes) -> None:
    (root / "file").touch()
    (root / "link").symlink_to("file")
    os.mkfifo(root / "fifo")
    fails(files, path, errno.ENOTDIR)


@pytest.mark.parametrize("name", [b"x" * 256, b"x" * 5000])
def test_names_too_long(files: Beneath, name: bytes) -> None:
    fails(files, name, errno.ENAMETOOLONG)
    fails(files, name + b"/file", errno.ENAMETOOLONG)


@pytest.mark.parametrize("target", ["../secret", "../../../../../../etc/passwd", "/etc/passwd", "/", ".", "link", "file"])
def test_link_at_the_end_is_not_followed(root: Path, files: Beneath, target: str) -> None:
    (root / "file").touch()
    (root / "link").symlink_to(target)
    (root / "absolute").symlink_to(root.parent / "secret")
    for path in (b"link", b"absolute", b"./link", b"/link", b"link/", b"link/."):
        fails(files, path, errno.ELOOP)


@pytest.mark.parametrize(
    "target",
    ["..", "../..", "../directory", "a/../../directory", "../root/../directory", "{outside}/directory", "{outside}", "/"],
)
def test_no_link_leads_outside(root: Path, files: Beneath, target: str) -> None:
    (root / "a").mkdir()
    (root / "link").symlink_to(target.format(outside=root.parent))
    (root / "a" / "link").symlink_to("../link")
    for path in (
        b"link/secret",
        b"link/../secret",
        b"a/link/secret",
        b"a/../link/secret",
        b"link/directory/secret",
        b"../secret",
    ):
        fails(files, path, errno.ENOENT)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("a/b", b"link/file"),
        ("/a/b", b"link/file"),
        ("/", b"link/a/b/file"),
        ("..", b"link/a/b/file"),
        ("../../../a/b/", b"link/file"),
        ("./a/./b/.", b"link/file"),
        ("a/b/../b", b"link/file"),
        ("a/up/b", b"link/file"),
        ("second", b"link/file"),
        ("a", b"link/b/../b/file"),
    ],
)
def test_links_in_the_middle_lead_where_a_root_there_would(root: Path, files: Beneath, target: str, path: bytes) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("inside")
    (root / "a" / "up").symlink_to("../a")
    (root / "second").symlink_to("/a/up/b")
    (root / "link").symlink_to(target)
    assert content(files, path) == b"inside"
    assert files.resolve(path.rpartition(b"/")[0]) == b"a/b"


def test_loops(root: Path, files: Beneath) -> None:
    (root / "self").symlink_to("self")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("/one")
    (root / "growing").symlink_to("growing/growing")
    for path in (b"self/x", b"one/x", b"two/./x", b"growing/x"):
        fails(files, path, errno.ELOOP)


def test_as_many_links_as_the_kernel_follows(root: Path, files: Beneath) -> None:
    (root / "link-0").mkdir()
    (root / "link-0" / "file").write_text("inside")
    for number in range(1, MAX_LINKS + 2):
        (root / f"link-{number}").symlink_to(f"link-{number - 1}")
    assert content(files, b"link-%d/file" % MAX_LINKS) == b"inside"
    fails(files, b"link-%d/file" % (MAX_LINKS + 1), errno.ELOOP)


def test_fifo_does_not_wait(root: Path, files: Beneath) -> None:
    os.mkfifo(root / "fifo")
    os.close(files.open_file(b"fifo"))


def test_names_that_are_not_text(root: Path, files: Beneath) -> None:
    directory = os.fsencode(root) + b"/\xff\xfe"
    Path(os.fsdecode(directory)).mkdir()
    Path(os.fsdecode(directory + b"/\x80")).write_bytes(b"inside")
    assert content(files, b"\xff\xfe/\x80") == b"inside"
    fails(files, b"\xff\xfe/\x81", errno.ENOENT)


def test_path_longer_than_the_system_takes(root: Path, files: Beneath) -> None:
    name = b"x" * 250
    at = os.open(root, os.O_RDONLY)
    for _ in range(30):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    descriptor = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at)
    os.write(descriptor, b"inside")
    os.close(descriptor)
    os.symlink("../" * 30, "up", dir_fd=at)
    os.close(at)
    deep = (name + b"/") * 30
    assert content(files, deep + b"file") == b"inside"
    assert content(files, deep + b"up/" + deep + b"file") == b"inside"


def test_many_directories_keep_few_open(root: Path, files: Beneath) -> None:
    before = descriptors()
    for number in range(100):
        (root / str(number)).mkdir()
        (root / str(number) / "file").write_text(str(number))
        assert content(files, b"%d/file" % number) == b"%d" % number
    assert descriptors() <= before + 10
    assert [content(files, b"%d/file" % number) for number in range(100)] == [b"%d" % number for number in range(100)]


def test_directory_serves_again(root: Path, files: Beneath) -> None:
    (root / "a").mkdir()
    assert files.directory(b"a") == files.directory(b"a")
    assert os.path.samestat(os.fstat(files.directory(b"")), root.stat())


def test_root_that_is_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(NotADirectoryError):
        Beneath(tmp_path / "link")


_PIECES = st.sampled_from([b"a", b"b", b"file", b"up", b"out", b"rooted", b"loop", b"..", b".", b"", b"\0", b"\xff"])


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outside = tmp_path_factory.mktemp("maze")
    root = outside / "root"
    for directory in (root, root / "a", root / "a" / "b"):
        directory.mkdir()
        (directory / "file").write_bytes(b"inside")
        (directory / "up").symlink_to("..")
        (directory / "out").symlink_to("../../..")
        (directory / "rooted").symlink_to("/a")
        (directory / "loop").symlink_to("loop/loop")
    for directory in (outside, outside.parent):
        (directory / "file").write_bytes(SECRET)
    return root


@settings(deadline=None)
@given(st.lists(_PIECES, max_size=8).map(b"/".join))
def test_no_path_leads_outside(maze: Path, path: bytes) -> None:
    before = descriptors()
    with Beneath(maze) as files:
        try:
            descriptor = files.open_file(path)
        except OSError:
            pass
        else:
            try:
                assert maze in Path(f"/proc/self/fd/{descriptor}").readlink().parents
            finally:
                os.close(descriptor)
    assert descriptors() == before
