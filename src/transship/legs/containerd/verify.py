"""Holding the target against the source: names, configs, manifests, every blob's bytes, every snapshot's tree.

Nothing that a migration has written down is believed: what to look for comes from the source, what is there from the target.
A check is a step of a run of its own, which fails with what differs.
"""

from __future__ import annotations

import hashlib
import itertools
from functools import partial
from typing import TYPE_CHECKING

from transship.engine.plan import Plan
from transship.engine.step import Cost, Resource, Result, Step
from transship.errors import SourceCorrupt, TargetError, TargetNotFound, TargetRefused, VerificationFailed
from transship.files.compare import Comparison
from transship.formats import digest, oci
from transship.formats.compression import decompressed
from transship.formats.digest import Digest
from transship.legs.containerd.manifests import title
from transship.stores.docker import tar_stream, trees
from transship.stores.interfaces import TreeForm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from transship.engine.step import Context
    from transship.stores.docker.images import Image
    from transship.stores.docker.layers import Layer
    from transship.stores.docker.store import Store
    from transship.stores.interfaces import ImageRecord, Snapshotter, Target

LEG = "verify"
_MOST_DIFFERENCES = 20
_REMEDY = "migrate again into a fresh namespace or layout, or remove what differs and run `transship migrate` again"


def plan_verification(store: Store, target: Target, images: Sequence[Image]) -> Plan:
    """Return the checks of ``images``. Reads names and manifests, which say what blobs to check. Raises TargetError."""
    records = list(target.images.list())
    by_name = {record.name: record for record in records}
    by_config = _by_config(target, records)
    blobs: dict[tuple[Digest, oci.Descriptor], Layer] = {}
    steps = []
    for image in images:
        manifests = [by_name[name] for name in image.references if name in by_name]
        if not image.references:
            # A name with a registry's digest leads to a manifest whose blobs are elsewhere: see digest_reference_step.
            manifests = [record for record in by_config.get(image.id, []) if record.name not in image.digest_references][:1]
        steps.append(
            _step(f"image:{image.id}", f"image {title(image)}", partial(_check_image, target, image, by_name, manifests))
        )
        for layers in (_layers(target, record) for record in manifests):
            for chain_id, descriptor in zip(image.chain_ids, layers, strict=False):
                layer = store.layers[chain_id]
                blobs.setdefault((layer.diff_id, descriptor), layer)
    for (diff_id, descriptor), layer in blobs.items():
        check = partial(_check_blob, target, diff_id, descriptor)
        steps.append(
            _step(f"blob:{diff_id}:{descriptor.digest}", f"blob {descriptor.digest[7:19]}", check, layer, Resource.CPU)
        )
    if target.snapshots is not None:
        for chain_id in dict.fromkeys(itertools.chain.from_iterable(image.chain_ids for image in images)):
            layer = store.layers[chain_id]
            check = partial(_check_snapshot, store, target.snapshots, layer)
            steps.append(_step(f"snapshot:{chain_id}", f"snapshot {chain_id[7:19]}", check, layer, Resource.DISK))
    return Plan(steps)


def _step(
    key: str,
    what: str,
    find: Callable[[Context], Iterable[str]],
    layer: Layer | None = None,
    resource: Resource = Resource.REMOTE,
) -> Step:
    def run(context: Context) -> Result:
        found = list(itertools.islice(find(context), _MOST_DIFFERENCES + 1))
        if found:
            more = "; and more" if len(found) > _MOST_DIFFERENCES else ""
            raise VerificationFailed(f"{'; '.join(found[:_MOST_DIFFERENCES])}{more}", remedy=_REMEDY)
        return Result({}, created=False)

    cost = Cost(layer.size, tar_stream.estimated_files(layer.tar_split)) if layer else Cost()
    return Step(key, what, resource, run, lambda _: False, cost=cost)


def _by_config(target: Target, records: Iterable[ImageRecord]) -> dict[Digest, list[ImageRecord]]:
    """Return the image records by the config that their manifest names; those whose manifest cannot be read are left out."""
    found: dict[Digest, list[ImageRecord]] = {}
    for record in records:
        try:
            found.setdefault(Digest(_manifest(target, record).config.digest), []).append(record)
        except (TargetNotFound, TargetRefused, ValueError):
            continue  # someone else's, or found missing when its image is checked
    return found


def _manifest(target: Target, record: ImageRecord) -> oci.Manifest:
    if record.target.size > oci.MAX_MANIFEST:
        raise ValueError(f"manifest of {record.target.size} bytes")
    return oci.decode_manifest(b"".join(target.content.read(record.target.digest)))


def _layers(target: Target, record: ImageRecord) -> tuple[oci.Descriptor, ...]:
    try:
        return _manifest(target, record).layers
    except (TargetNotFound, TargetRefused, ValueError):
        return ()  # told by the check of the image


def _check_image(
    target: Target, image: Image, by_name: dict[str, ImageRecord], manifests: Sequence[ImageRecord], _context: Context
) -> Iterator[str]:
    for name in image.references:
        if name not in by_name:
            yield f"the name {name} is missing"
    if not manifests:
        if not image.references:
            yield "no name in the target leads to it"
        return
    originals = [by_name[name] for name in image.digest_references if name in by_name]
    for record in [*manifests, *originals]:
        try:
            manifest = _manifest(target, record)
        except (TargetError, ValueError) as error:
            yield f"manifest of {record.name}: {error}"
            continue
        if manifest.config.digest != image.id:
            yield f"{record.name} is image {manifest.config.digest}, should be {image.id}"
        elif len(manifest.layers) != len(image.chain_ids):
            yield f"{record.name} has {len(manifest.layers)} layers, should have {len(image.chain_ids)}"
    try:
        if b"".join(target.content.read(image.id)) != image.raw:
            yield "config differs"
    except TargetError as error:
        yield f"config: {error}"


def _check_blob(target: Target, diff_id: Digest, descriptor: oci.Descriptor, context: Context) -> Iterator[str]:
    plain = hashlib.sha256()
    size = 0

    def packed() -> Iterator[bytes]:
        nonlocal size
        for chunk in target.content.read(digest.parse(descriptor.digest)):
            size += len(chunk)
            yield chunk

    try:
        for chunk in decompressed(packed(), descriptor.media_type):
            plain.update(chunk)
            context.advance(len(chunk))
    except (TargetNotFound, TargetRefused, ValueError) as error:
        yield str(error)
        return
    if size != descriptor.size:
        yield f"has {size} bytes, its manifest says {descriptor.size}"
    if plain.hexdigest() != digest.hex_part(diff_id):
        yield f"its content is sha256:{plain.hexdigest()}, should be {diff_id}"


def _check_snapshot(store: Store, snapshots: Snapshotter, layer: Layer, context: Context) -> Iterator[str]:
    try:
        info = snapshots.stat(layer.chain_id)
        place = snapshots.directory(layer.chain_id)
    except TargetNotFound:
        yield "is missing"
        return
    if snapshots.form is TreeForm.DIFF and info.parent != layer.parent:
        yield f"has the parent {info.parent}, should have {layer.parent}"
    plain = hashlib.sha256()
    try:
        for chunk in tar_stream.read(layer.tar_split, place, layer.driver_directory):
            plain.update(chunk)
            context.check_cancelled()
    except SourceCorrupt as error:
        yield error.message
        return
    if plain.hexdigest() != digest.hex_part(layer.diff_id):
        reason = tar_stream.first_difference(layer.tar_split, place, layer.driver_directory)
        yield f"its files give sha256:{plain.hexdigest()} instead of {layer.diff_id}: {reason}"
    comparison = Comparison(full=snapshots.form is TreeForm.FULL, check_cancelled=context.check_cancelled)
    yield from comparison.differences(trees.open_tree(trees.Origin.of(store, layer, snapshots.form)), place)
