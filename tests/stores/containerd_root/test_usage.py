"""What a tree takes up, as containerd counts it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from transship.stores.containerd_root.usage import usage

if TYPE_CHECKING:
    from pathlib import Path


def blocks(*paths: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in paths)


def test_empty_directory_counts(tmp_path: Path) -> None:
    assert usage(tmp_path) == (blocks(tmp_path), 1)


def test_each_inode_counts_once(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (below / "file").write_bytes(bytes(100_000))
    (tmp_path / "again").hardlink_to(below / "file")
    (tmp_path / "link").symlink_to("/etc")
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 30)
    paths = [tmp_path, *tmp_path.rglob("*")]
    paths.remove(tmp_path / "again")
    assert usage(tmp_path) == (blocks(*paths), 6)


def test_deep_tree(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(500):
        os.mkdir("x" * 100, dir_fd=descriptor)
        below = os.open("x" * 100, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    assert usage(tmp_path)[1] == 501


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        usage(tmp_path / "missing")
