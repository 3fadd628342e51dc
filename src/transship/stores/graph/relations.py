"""How the images of a v1 store stand on each other, and which of them Docker 1.9 itself would have taken.

Source: moby v1.9.1 ``graph/graph.go`` (loadImage, ByParent, Heads) and ``image/image.go`` (ValidateID).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt
from transship.formats import go_json
from transship.stores.graph.images import ID, RESTORE_HINT

if TYPE_CHECKING:
    from transship.stores.graph.images import GraphImage
    from transship.stores.graph.store import Graph


def children(graph: Graph) -> dict[str, list[GraphImage]]:
    """Return, for each image that others stand on directly, these, by ID. One whose parent is not there is nobody's child."""
    found: dict[str, list[GraphImage]] = {}
    for image in sorted(graph.images.values(), key=lambda image: image.id):
        if image.parent in graph.images:
            found.setdefault(image.parent, []).append(image)
    return found


def heads(graph: Graph) -> list[GraphImage]:
    """Return the images on which no other stands, by ID."""
    parents = children(graph)
    return sorted((image for image in graph.images.values() if image.id not in parents), key=lambda image: image.id)


def ensure_loadable(image: GraphImage) -> None:
    """Return if Docker 1.9 would have loaded an image; a size that is not known is no obstacle.

    Raises SourceCorrupt if its ``json`` is that of another image or its ID is none, or its ``layersize`` is no number.
    """
    ensure_stated(image.id, image.raw)
    if not ID.fullmatch(image.id):
        raise SourceCorrupt(f"image {image.id}: not an ID of 64 hexadecimal digits", remedy=RESTORE_HINT)
    _ = image.size


def ensure_stated(image_id: str, raw: bytes) -> None:
    """Return if ``raw`` can be the ``json`` of the image ``image_id``: has that ID or, as those of registry v2, none.

    Raises SourceCorrupt.
    """
    try:
        ids = [value for key, value in go_json.members(raw) if go_json.fold(key) == "id" and value != b"null"]
        stated = go_json.string(ids[-1]) if ids else ""
    except ValueError as error:
        raise SourceCorrupt(f"image {image_id}: its json: {error}", remedy=RESTORE_HINT) from error
    if stated not in {"", image_id}:
        raise SourceCorrupt(f"image {image_id}: its json is that of {stated[:100]!r}", remedy=RESTORE_HINT)
