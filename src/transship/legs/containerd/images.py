"""Steps that write image records: names of manifests, by which everything else is kept from garbage collection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from transship.engine.step import Resource, Result, Step
from transship.errors import SourceCorrupt, TargetExists, TargetNotFound
from transship.formats import digest, oci
from transship.formats.digest import Digest
from transship.legs.containerd import naming
from transship.legs.containerd.manifests import manifest_key, store_blob, stored_manifest, title, was_built_here
from transship.legs.containerd.snapshots import snapshot_key
from transship.legs.containerd.voyage import GC_CONFIG_LABEL, RUN_LABEL
from transship.stores.interfaces import ImageDescriptor, ImageRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transship.engine.step import Context, Value
    from transship.legs.containerd.voyage import Voyage
    from transship.stores.docker.images import Image
    from transship.stores.interfaces import Labels

# The classic builder's labels (moby ``daemon/containerd/image_builder.go``).
_PARENT_LABEL = "org.mobyproject.image.parent"
_CONTAINER_CONFIG_LABEL = "org.mobyproject.image.containerconfig"
_FROM_SCRATCH_LABEL = "org.mobyproject.image.fromscratch"


class Previous(msgspec.Struct, frozen=True):
    """What a name pointed at before a run of ours pointed it elsewhere."""

    media_type: str
    digest: Digest
    size: int
    labels: dict[str, str]


class NamedImage(msgspec.Struct, frozen=True):
    """What an image step leaves: the record's name, the source's image ID, the manifest, and what undo has to restore."""

    name: str
    image_id: Digest
    digest: Digest
    parent: Digest | None = None
    previous: Previous | None = None


def image_key(name: str) -> str:
    """Return the key of the step that writes the record called ``name`` (an image ID for one without a tag)."""
    return f"image:{name}"


def image_steps(voyage: Voyage, image: Image, known: Mapping[str, Value]) -> list[Step]:
    """Return a step for each name of ``image``. ``known`` are values of steps done by earlier runs."""
    return [_image_step(voyage, image, name, known) for name in image.references or (None,)]


def digest_reference_step(voyage: Voyage, image: Image, reference: str, manifest: bytes, known: Mapping[str, Value]) -> Step:
    """Return the step that keeps ``repository@sha256:…`` resolving, to the manifest as the registry gave it.

    That manifest's layers are not here: recompressed, they have other digests. dockerd runs, inspects and commits such an image
    by its config and snapshots, but cannot push or save it.
    """
    return Step(
        key=image_key(reference),
        title=f"name {reference}",
        resource=Resource.REMOTE,
        run=lambda _: _name_original(voyage, image, reference, manifest, known.get(image_key(reference))),
        check=lambda value: _is_named(voyage, value, image.id, None),
        needs=(manifest_key(image.id),),
    )


def _image_step(voyage: Voyage, image: Image, name: str | None, known: Mapping[str, Value]) -> Step:
    snapshot = (snapshot_key(image.chain_ids[-1]),) if voyage.target.snapshots is not None and image.chain_ids else ()
    parent = (manifest_key(image.parent),) if image.parent else ()
    return Step(
        key=image_key(name or image.id),
        title=f"name {name or title(image)}",
        resource=Resource.REMOTE,
        run=lambda context: _name_image(voyage, image, name, known, context),
        check=lambda value: _is_named(voyage, value, image.id, image.parent),
        needs=(manifest_key(image.id), *snapshot),
        after=parent,
    )


def _is_named(voyage: Voyage, value: Value, image_id: Digest, parent: Digest | None) -> bool:
    named = msgspec.convert(value, NamedImage)
    if named.image_id != image_id or named.parent != parent:
        return False
    try:
        return voyage.target.images.get(named.name).target.digest == named.digest
    except TargetNotFound:
        return False


def _name_image(voyage: Voyage, image: Image, name: str | None, known: Mapping[str, Value], context: Context) -> Result:
    manifest = stored_manifest(context.value(manifest_key(image.id)) or {})
    labels = {**naming.labels(voyage.namespace), RUN_LABEL: voyage.run}
    parent = context.value(manifest_key(image.parent)) if image.parent else None
    if parent is not None:
        labels[_PARENT_LABEL] = stored_manifest(parent).digest
    elif was_built_here(voyage, image):
        labels[_FROM_SCRATCH_LABEL] = "1"
    if manifest.container_config is not None:
        labels[_CONTAINER_CONFIG_LABEL] = manifest.container_config
    record = ImageRecord(
        name or naming.untagged(voyage.namespace, image.id, manifest.digest),
        ImageDescriptor(oci.MANIFEST, manifest.digest, manifest.size),
        labels,
    )
    return _put(voyage, image, record, image.parent if parent is not None else None, known.get(image_key(name or image.id)))


def _name_original(voyage: Voyage, image: Image, reference: str, manifest: bytes, known: Value | None) -> Result:
    decoded = oci.decode_manifest(manifest)
    if decoded.config.digest != image.id:
        raise SourceCorrupt(f"{reference}: its manifest belongs to image {decoded.config.digest}, not to {image.id}")
    store_blob(voyage, manifest, {GC_CONFIG_LABEL: image.id}, image_key(reference))
    record = ImageRecord(
        reference,
        ImageDescriptor(decoded.media_type, digest.of(manifest), len(manifest)),
        {**naming.labels(voyage.namespace), RUN_LABEL: voyage.run},
    )
    return _put(voyage, image, record, None, known)


def _put(voyage: Voyage, image: Image, record: ImageRecord, parent: Digest | None, known: Value | None) -> Result:
    """Write a record, unless the name is taken by something that no run of ours put there. Raises TargetExists."""
    images = voyage.target.images
    previous: Previous | None = None
    created = True
    try:
        found = images.get(record.name)
    except TargetNotFound:
        pass
    else:
        if found.target.digest == record.target.digest:
            created = found.labels.get(RUN_LABEL) == voyage.run  # by this run, before it was killed
            record = _added_to(record, found.labels)
        elif known is None or msgspec.convert(known, NamedImage).digest != found.target.digest:
            raise _taken(found)
        else:
            previous = Previous(found.target.media_type, found.target.digest, found.target.size, dict(found.labels))
    images.put(record)
    voyage.target.durable()
    named = NamedImage(record.name, image.id, record.target.digest, parent, previous)
    return Result(msgspec.to_builtins(named), created)


def _taken(found: ImageRecord) -> TargetExists:
    run = found.labels.get(RUN_LABEL)
    return TargetExists(
        f"{found.name} is already the name of {found.target.digest} in the target",
        remedy=f"run {run} wrote it, from another source or with another compression: roll that run back, then run again"
        if run
        else "names that transship did not write are left alone: remove or rename that image, then run again",
    )


def _added_to(record: ImageRecord, labels: Labels) -> ImageRecord:
    """Return ``record`` with its labels added to those that the name has. Whose run wrote the name stays as it was."""
    added = {key: value for key, value in record.labels.items() if key != RUN_LABEL}
    return ImageRecord(record.name, record.target, {**labels, **added})
