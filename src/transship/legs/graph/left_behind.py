"""Images that Docker 1.10's migration has left behind in a root that it upgraded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.legs.graph.mapping import SavedMapping
from transship.legs.left_out import LeftOut
from transship.stores.docker import small_files
from transship.stores.graph.images import SHORT_ID
from transship.stores.graph.store import layers_by_driver

if TYPE_CHECKING:
    from transship.stores.root import Place


def left_behind(place: Place) -> tuple[LeftOut, ...]:
    """Say which v1 images are in the root of a content-addressable store, and not in that store. Raises SourceError."""
    ids = [entry.name for entry in small_files.entries(place.root / "graph") if SHORT_ID.fullmatch(entry.name)]
    mapping = SavedMapping(place.root)
    left = sorted(v1_id for v1_id in layers_by_driver(place.root, ids).get(place.driver, ()) if mapping.get(v1_id) is None)
    if not left:
        return ()
    shown = ", ".join(v1_id[:12] for v1_id in left[:10]) + (" and others" if len(left) > 10 else "")
    reason = f"{len(left)} images of Docker 1.9 or older have not been upgraded by Docker since, and are not moved: {shown}"
    remedy = "see them with `transship graph ls`; `transship migrate --target docker` upgrades them, then move all"
    return (LeftOut(str(place.root / "graph"), reason, remedy, lost=False),)
