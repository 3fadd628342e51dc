"""What is to be known of a graph driver so that its layers can be read."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Protocol

from transship.errors import SourceCorrupt
from transship.stores.docker import small_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transship.files.tree import Directory

RESTORE_HINT = "pull or rebuild the images that have this layer, or leave them out"


class Driver(Protocol):
    """A graph driver. Has no state: it is looked up by its name in any process.

    ``directories`` are what ``find`` returned for a layer and for those below it, the layer's own first.
    """

    @property
    def name(self) -> str:
        """What Docker calls it: ``storage-driver`` in its daemon.json."""
        ...

    def find(self, root: Path, cache_id: str) -> Path:
        """Return the directory with the files of the layer ``cache_id`` in the data root ``root``. Raises SourceCorrupt."""
        ...

    def diff(self, directories: Sequence[Path], metadata: Path) -> Directory:
        """Open what a layer changed, in overlayfs' form (``TreeForm.DIFF``); the caller closes it.

        ``metadata`` is its tar-split data. Raises OSError, SourceCorrupt.
        """
        ...

    def full(self, directories: Sequence[Path]) -> Directory:
        """Open the tree that a container on the layer sees; the caller closes it. Raises OSError, SourceError."""
        ...


def ensure_directory(path: Path) -> None:
    """Return if ``path`` is a directory, and not a link to one. Raises SourceCorrupt."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError as error:
        raise SourceCorrupt(f"{path} is missing", remedy=RESTORE_HINT) from error
    except OSError as error:
        raise SourceCorrupt(f"cannot read {path}: {error.strerror}", remedy=small_files.READ_REMEDY) from error
    if not stat.S_ISDIR(mode):
        raise SourceCorrupt(f"{path} is not a directory", remedy=RESTORE_HINT)
