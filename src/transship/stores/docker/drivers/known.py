"""The graph drivers whose layers can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.stores.docker.drivers.aufs import Aufs
from transship.stores.docker.drivers.full_trees import FullTrees
from transship.stores.docker.drivers.overlay2 import Overlay2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transship.stores.docker.drivers.driver import Driver

_DRIVERS: tuple[Driver, ...] = (
    Overlay2(),
    FullTrees("btrfs", "btrfs/subvolumes"),
    Aufs(),
    FullTrees("overlay", "overlay", "root"),
    FullTrees("vfs", "vfs/dir"),
)

DRIVERS: Mapping[str, Driver] = {driver.name: driver for driver in _DRIVERS}
"""By name."""
