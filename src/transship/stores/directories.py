"""What stores that are directories have in common: how bytes come into a file of theirs, and what else is in them."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from transship.errors import TargetRefused
from transship.stores.mapped import mapped

if TYPE_CHECKING:
    from pathlib import Path

    from transship.formats.digest import Digest

_HARMLESS = {"lost+found"}
"""What a directory may hold and still count as empty: mkfs makes it."""


class Arriving:
    """The bytes of a blob on their way into the file ``descriptor``, which ``about`` tells of. Used by one thread at a time."""

    def __init__(self, descriptor: int, about: str) -> None:
        self._descriptor = descriptor
        self._about = about
        self._hasher = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append ``data``. Raises TargetFull, TargetUnavailable."""
        self._hasher.update(data)
        self._size += len(data)
        left = memoryview(data)
        with mapped(self._about):
            while left:
                left = left[os.write(self._descriptor, left) :]

    def ensure(self, digest: Digest, size: int) -> None:
        """Return if the bytes have this digest and size. Raises TargetRefused."""
        found = f"sha256:{self._hasher.hexdigest()}"
        if (found, self._size) != (digest, size):
            raise TargetRefused(f"{self._about}: {self._size} bytes of digest {found} arrived, not {size} of {digest}")


def names_in(directory: Path) -> set[str]:
    """Return what is in a directory, nothing if it is not there. Raises TargetRefused if it is none, TargetUnavailable."""
    with mapped(directory):
        try:
            return set(os.listdir(directory)) - _HARMLESS  # noqa: PTH208 - names are all that is wanted
        except FileNotFoundError:
            return set()
        except NotADirectoryError as error:
            raise TargetRefused(f"{directory} is not a directory", remedy="give a new or empty directory") from error
