"""How much a tree takes up, as containerd notes it of a snapshot (containerd/continuity ``fs/du_unix.go``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.files.tree import DiskDirectory

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from transship.files.tree import Child

_BLOCK = 512


def usage(path: Path) -> tuple[int, int]:
    """Return the bytes and inodes that the directory ``path`` takes up with all that is in it, each inode counted once.

    Follows no link, whatever the names, however deep. Raises OSError.
    """
    size = 0
    inodes: set[tuple[int, int]] = set()

    def count(status: os.stat_result) -> None:
        nonlocal size
        if (status.st_dev, status.st_ino) not in inodes:
            inodes.add((status.st_dev, status.st_ino))
            size += status.st_blocks * _BLOCK

    stack: list[tuple[DiskDirectory, list[Child]]] = []
    try:
        directory = DiskDirectory.open(path)
        while True:
            stack.append((directory, []))
            count(directory.status)
            for child in directory.children():
                if child.is_directory:
                    stack[-1][1].append(child)
                elif child.status is not None:
                    count(child.status)
            while stack and not stack[-1][1]:
                stack.pop()[0].close()
            if not stack:
                return size, len(inodes)
            above, waiting = stack[-1]
            directory = above.enter(waiting.pop())
    finally:
        for directory, _ in stack:
            directory.close()
