"""Removing what strangers made."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.files.trees import descriptors
from transship.files.remove import remove

if TYPE_CHECKING:
    from pathlib import Path


def test_a_tree_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / "tree" / name).mkdir(parents=True)
    (tmp_path / "tree/a/b/file").write_bytes(b"x")
    os.mkfifo(tmp_path / "tree/a/fifo")
    (tmp_path / os.fsdecode(b"tree/a/\xff")).write_bytes(b"")
    before = descriptors()
    remove(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []
    assert descriptors() == before


def test_what_links_lead_to_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_bytes(b"x")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/link").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "tree")
    remove(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept/file").exists()


def test_a_file_goes_and_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    remove(tmp_path / "file")
    remove(tmp_path / "file")
    remove(tmp_path / "nowhere/file")
    assert list(tmp_path.iterdir()) == []


def test_a_tree_deeper_than_calls_and_paths_may_be(tmp_path: Path) -> None:
    depth = sys.getrecursionlimit() + 200
    top = os.open(tmp_path, os.O_RDONLY)
    here = os.dup(top)
    try:
        for _ in range(depth):
            os.mkdir("longer than a letter", dir_fd=here)
            below = os.open("longer than a letter", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)
        os.close(top)
    remove(tmp_path / "longer than a letter")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_is_an_error_that_leaves_nothing_open(tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(OSError, match=r"not permitted|denied"):
        remove(type(tmp_path)("/proc/self/fdinfo"))
    assert descriptors() == before
