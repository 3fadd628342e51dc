"""``repositories``, the names of images before there were drivers, becomes that of the driver aufs.

Source: moby v1.9.1 ``daemon/graphdriver/aufs/migrate.go`` (migrateRepositories). It replaced the names that the driver had
already; here both are kept.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import msgspec

from transship.errors import SourceCorrupt
from transship.files.changes import File, Move
from transship.legs.left_out import LeftOut
from transship.stores.graph.names import read_file

if TYPE_CHECKING:
    from pathlib import Path

    from transship.files.changes import Change

OLD = "repositories"
_NEW = "repositories-aufs"
_ASIDE = "repositories.merged"
"""What the old file is called when its names are among the new: under its own name Docker would take it for these again."""


def name_changes(root: Path) -> list[Change]:
    """Return what brings the names to the driver's file. Raises SourceCorrupt."""
    if not stat.S_ISREG(os.lstat(root / OLD).st_mode):
        raise SourceCorrupt(f"{root / OLD} is not a regular file", remedy="restore it from a backup")
    if not os.path.lexists(root / _NEW):
        return [Move(_NEW, OLD)]
    if os.path.lexists(root / _ASIDE):
        raise SourceCorrupt(f"{root / _ASIDE} is in the way of {root / OLD}", remedy="move it elsewhere, and run again")
    merged = read_file(root / OLD)
    for repository, keys in read_file(root / _NEW).items():
        merged[repository] = merged.get(repository, {}) | keys
    return [File(_NEW, msgspec.json.encode({"Repositories": merged}, order="sorted"), 0o600), Move(_ASIDE, OLD)]


def disputed_names(root: Path) -> list[LeftOut]:
    """Return the names that stand for different images in both files: the driver's file is the newer. Raises SourceCorrupt."""
    old, new = read_file(root / OLD), read_file(root / _NEW)
    names = [(repository, key, image_id) for repository in sorted(old) for key, image_id in sorted(old[repository].items())]
    disputed = []
    for repository, key, image_id in names:
        known = new.get(repository, {}).get(key, image_id)
        if known != image_id:
            name = f"{repository[:300]}{'@' if ':' in key else ':'}{key[:150]}"
            reason = f"{root / OLD}: {name} stands for {image_id[:64]}, but for {known[:64]} in the newer {root / _NEW}"
            disputed.append(LeftOut(name, reason, "tag the image again, by another name", lost=True))
    return disputed
