"""What a migration moves, and in which steps; and what it cannot move, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.engine.plan import Plan
from transship.errors import SourceCorrupt, UsageError
from transship.formats import digest, oci, references
from transship.legs.containerd.damage import find_damage
from transship.legs.containerd.images import digest_reference_step, image_steps
from transship.legs.containerd.layers import blob_step, present
from transship.legs.containerd.manifests import manifest_step
from transship.legs.containerd.snapshots import snapshot_steps
from transship.legs.left_out import LeftOut, lost_step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from transship.engine.step import Step, Value
    from transship.formats.digest import Digest
    from transship.legs.containerd.voyage import Voyage
    from transship.stores.docker.images import Image
    from transship.stores.docker.layers import Layer
    from transship.stores.docker.store import Store

_SHORT_ID = 12
"""Digits of an image ID that Docker shows, and the fewest accepted here for one."""


@dataclass(frozen=True)
class Itinerary:
    """The images to be moved, the layers that they need, the steps, and what is left out."""

    images: tuple[Image, ...]
    layers: tuple[Layer, ...]
    plan: Plan
    left_out: tuple[LeftOut, ...]


def plan_voyage(voyage: Voyage, images: Sequence[Image], known: Mapping[str, Value], *, damage: bool) -> Itinerary:
    """Plan the move of ``images``. ``known`` are the values of steps that earlier runs have done.

    ``damage``: what is damaged in the store counts as left out, since all of it was asked for. Raises TargetError.
    """
    store = voyage.store
    layers = _layers_of(store, images)
    steps = list(_layer_steps(voyage, layers))
    left_out = list(find_damage(store)) if damage else []
    for image in images:
        steps.append(manifest_step(voyage, image))
        steps.extend(image_steps(voyage, image, known))
        for reference in image.digest_references:
            kept = _original_manifest(voyage, image, reference)
            if isinstance(kept, LeftOut):
                left_out.append(kept)
            else:
                steps.append(digest_reference_step(voyage, image, reference, kept, known))
    steps += [lost_step(left) for left in left_out if left.lost]
    return Itinerary(tuple(images), tuple(layers), Plan(steps), tuple(left_out))


def select(store: Store, wanted: Sequence[str]) -> list[Image]:
    """Return all images, or those ``wanted`` (names or image IDs) with the images that they were built from, in a stable order.

    Raises UsageError for one that is not in the source or not the only one meant, SourceCorrupt for a damaged one.
    """
    chosen = set(store.images)
    if wanted:
        chosen = {ancestor for text in wanted for ancestor in _with_ancestors(store, _find(store, text))}
    return [store.images[image_id] for image_id in sorted(chosen)]


def _find(store: Store, text: str) -> Digest:
    """Return the ID of the image that a person calls ``text``. Raises UsageError, SourceCorrupt."""
    found = {image_id for name, image_id in store.references.items() if _is_called(text, name)}
    if not found and len(text.removeprefix("sha256:")) >= _SHORT_ID:
        prefix = f"sha256:{text.removeprefix('sha256:')}"
        found = {image_id for image_id in {*store.images, *store.broken} if image_id.startswith(prefix)}
    if len(found) != 1:
        problem = "is in the source" if not found else "is the only one meant"
        raise UsageError(f"no image {text!r} {problem}", remedy="give a name or an image ID as `docker images -a` shows it")
    image_id = found.pop()
    if image_id in store.broken:
        raise store.broken[image_id]
    if image_id not in store.images:
        raise SourceCorrupt(f"{text} stands for image {image_id}, which is not in the store", remedy="pull or build it again")
    return image_id


def _is_called(text: str, name: str) -> bool:
    try:
        return references.matches(text, name)
    except ValueError:
        return False


def _with_ancestors(store: Store, image_id: Digest) -> Iterator[Digest]:
    seen: set[Digest] = set()
    current: Digest | None = image_id
    while current is not None and current not in seen:
        seen.add(current)
        yield current
        current = store.images[current].parent


def _layers_of(store: Store, images: Iterable[Image]) -> list[Layer]:
    """Return the layers of ``images``, each once, parents before children."""
    return [store.layers[chain_id] for chain_id in dict.fromkeys(chain for image in images for chain in image.chain_ids)]


def _layer_steps(voyage: Voyage, layers: Sequence[Layer]) -> Iterator[Step]:
    by_content: dict[Digest, list[Layer]] = {}
    for layer in layers:
        by_content.setdefault(layer.diff_id, []).append(layer)
    total = sum(same[0].size for same in by_content.values())
    for diff_id, same in by_content.items():
        # A layer that alone is more than the share of one job would still be at it when the others are done.
        threads = os.cpu_count() or 1 if same[0].size * voyage.jobs > total else 1
        yield blob_step(voyage, diff_id, same, threads)
    if voyage.target.snapshots is not None:
        for layer in layers:
            yield from snapshot_steps(voyage, voyage.target.snapshots, layer)


def _original_manifest(voyage: Voyage, image: Image, reference: str) -> bytes | LeftOut:
    """Return the registry's manifest that ``reference`` names, from the target or from what dockerd kept beside its store."""
    if voyage.target.snapshots is None:
        return LeftOut(
            reference,
            "an OCI layout cannot keep a manifest whose layers are compressed anew",
            "map.json has its new digest",
            lost=False,
        )
    try:
        name = digest.parse(reference.partition("@")[2])
    except ValueError as error:
        return LeftOut(reference, str(error), "pull the image by a SHA-256 digest where it is needed", lost=False)
    try:
        if present(lambda: voyage.target.content.info(name)):
            data: bytes | None = _bounded(voyage.target.content.read(name))
        else:
            data = voyage.store.original_manifest(name)
        if data is not None and oci.decode_manifest(data).config.digest == image.id:
            return data
    except (SourceCorrupt, ValueError) as error:
        return LeftOut(reference, f"its manifest is damaged: {error}", "pull the image by this digest again", lost=False)
    return LeftOut(
        reference,
        "the registry's manifest was not kept by this Docker, so that the digest cannot resolve without the registry",
        "pull the image by this digest again where it is needed",
        lost=False,
    )


def _bounded(chunks: Iterable[bytes]) -> bytes:
    data = b""
    for chunk in chunks:
        data += chunk
        if len(data) > oci.MAX_MANIFEST:
            raise ValueError(f"longer than {oci.MAX_MANIFEST} bytes")
    return data
