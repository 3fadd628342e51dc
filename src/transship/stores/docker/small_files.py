"""Reading the small files that a store's metadata is made of: bounded, never through a link, never waiting.

A store may have been damaged, or restored by hand, in any way: what should be a file of 71 bytes may be a fifo, a link to a
device, or 100 MB long.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt, SourceError
from transship.files.beneath import FILE_FLAGS, open_unseen

if TYPE_CHECKING:
    from pathlib import Path

READ_REMEDY = "run as root, and check the disk if that is not it"


def read(path: str, limit: int) -> bytes | None:
    """Return what the file at ``path`` holds, None if nothing is there.

    Raises SourceCorrupt if it is not a regular file, is longer than ``limit`` bytes, or cannot be read.
    """
    try:
        descriptor = open_unseen(path, FILE_FLAGS)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SourceCorrupt(f"{path} is not a regular file", remedy="restore it from a backup")
            if status.st_size > limit:
                message = f"{path} has {status.st_size} bytes, over the limit of {limit}"
                raise SourceCorrupt(message, remedy="restore it from a backup")
            data = _read_all(descriptor, status.st_size + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceCorrupt(f"cannot read {path}: {error.strerror}", remedy=READ_REMEDY) from error
    if len(data) != status.st_size:
        raise SourceCorrupt(f"{path} changed while it was read", remedy="stop whatever writes to the store")
    return data


def read_text(path: str, limit: int = 4096) -> str | None:
    """Return the text of the file at ``path`` without white space around it, None if nothing is there.

    Raises SourceCorrupt like ``read``, and if it is not ASCII.
    """
    data = read(path, limit)
    if data is None:
        return None
    try:
        return data.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise SourceCorrupt(f"{path} is not text", remedy="restore it from a backup") from error


def entries(path: Path) -> list[os.DirEntry[str]]:
    """Return what is in the directory at ``path``, by name; nothing if it is not there. Raises SourceError if unreadable."""
    try:
        with os.scandir(path) as found:
            return sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}", remedy=READ_REMEDY) from error


def shown(path: str) -> str:
    """Return ``path`` for a message, with bytes that are not text escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _read_all(descriptor: int, length: int) -> bytes:
    """Read up to ``length`` bytes; one more than the file has makes sure that it has no more."""
    data = os.read(descriptor, length)
    if not data or len(data) == length:
        return data
    parts = [data]
    left = length - len(data)
    while left and (data := os.read(descriptor, left)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)
