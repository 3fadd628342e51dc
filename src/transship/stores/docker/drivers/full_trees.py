"""Drivers that keep each layer's whole tree: vfs copies, overlay links the files of the layer below, btrfs snapshots it.

Source: moby ``daemon/graphdriver/{vfs,overlay,btrfs}``; overlay's is in Docker up to 23.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.files.tree import Directory, DiskDirectory
from transship.stores.docker.drivers.cut import CutDirectory
from transship.stores.docker.drivers.driver import ensure_directory
from transship.stores.docker.drivers.opaque_root import OpaqueRoot

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class FullTrees:
    """See ``Driver``. Trees are at ``<above>/<cache-id>`` in the data root, or in ``below`` there."""

    name: str
    above: str
    below: str = ""

    def find(self, root: Path, cache_id: str) -> Path:
        place = root / self.above / cache_id
        ensure_directory(place)
        if self.below:
            place /= self.below
            ensure_directory(place)
        return place

    def diff(self, directories: Sequence[Path], metadata: Path) -> Directory:
        tree = CutDirectory.open(directories[0], metadata)
        if not tree.opaque or len(directories) == 1:
            return tree
        return OpaqueRoot(tree, os.listdir(directories[1]))  # noqa: PTH208 - names

    def full(self, directories: Sequence[Path]) -> Directory:
        return DiskDirectory.open(directories[0])
