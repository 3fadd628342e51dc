"""Removing trees that strangers have made: however deep, whatever their names, without following a link."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from transship.files.beneath import DIRECTORY_FLAGS

if TYPE_CHECKING:
    from pathlib import Path


def remove(path: Path) -> None:
    """Remove what is at ``path``, a directory with all that is in it; without effect if nothing is there. Raises OSError."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        _empty(path)
        path.rmdir()
    else:
        path.unlink()


def _empty(path: Path) -> None:
    """Remove all that is in a directory. No recursion, and no long paths: each open directory is on the stack."""
    stack = [_Frame(os.open(path, DIRECTORY_FLAGS))]
    try:
        while stack:
            frame = stack[-1]
            if frame.directories:
                stack.append(_Frame(os.open(frame.directories[-1], DIRECTORY_FLAGS, dir_fd=frame.descriptor)))
                continue
            os.close(stack.pop().descriptor)
            if stack:
                os.rmdir(stack[-1].directories.pop(), dir_fd=stack[-1].descriptor)
    finally:
        for frame in stack:
            os.close(frame.descriptor)


class _Frame:
    """An open directory, taken over, or closed if this fails. Its files are removed, ``directories`` are there still."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.directories: list[str] = []
        try:
            with os.scandir(descriptor) as entries:
                for entry in list(entries):
                    if entry.is_dir(follow_symlinks=False):
                        self.directories.append(entry.name)
                    else:
                        os.unlink(entry.name, dir_fd=descriptor)
        except BaseException:
            os.close(descriptor)
            raise
