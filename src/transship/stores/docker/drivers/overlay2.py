"""The driver overlay2: ``overlay2/<cache-id>/diff`` holds what a layer changed, as overlayfs keeps it.

Source: moby ``daemon/graphdriver/overlay2``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.files.tree import Directory, DiskDirectory, MergedDirectory
from transship.stores.docker.drivers.driver import ensure_directory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Overlay2:
    """See ``Driver``."""

    name = "overlay2"

    def find(self, root: Path, cache_id: str) -> Path:
        place = root / self.name / cache_id
        ensure_directory(place)
        ensure_directory(place / "diff")
        return place / "diff"

    def diff(self, directories: Sequence[Path], metadata: Path) -> Directory:  # noqa: ARG002
        return DiskDirectory.open(directories[0])

    def full(self, directories: Sequence[Path]) -> Directory:
        return MergedDirectory.open(directories)
