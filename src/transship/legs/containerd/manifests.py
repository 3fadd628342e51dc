"""Steps that write manifests: an image's config, unchanged, and the list of its layers' blobs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from transship.engine.step import Resource, Result, Step
from transship.formats import digest, oci
from transship.formats.digest import Digest
from transship.legs.containerd.layers import LayerBlob, blob_key, present
from transship.legs.containerd.voyage import GC_CONFIG_LABEL, GC_LAYER_LABEL, GC_SNAPSHOT_LABEL

if TYPE_CHECKING:
    from transship.engine.step import Context, Value
    from transship.legs.containerd.voyage import Voyage
    from transship.stores.docker.images import Image
    from transship.stores.interfaces import Labels

# Labels by which dockerd's classic builder finds the config that an instruction ran with (moby
# ``daemon/containerd/image_builder.go``).
_CONTAINER_CONFIG_LABEL = "containerd.io/gc.ref.content.moby/container.config"
_CONTENT_IMAGE_LABEL = "org.mobyproject.content.image"


class StoredManifest(msgspec.Struct, frozen=True):
    """What a manifest step leaves.

    ``container_config`` is the blob with the classic builder's config, ``blobs`` are all that belong to the image itself,
    ``stored`` those of them that were not in the target before.
    """

    digest: Digest
    size: int
    container_config: Digest | None = None
    blobs: tuple[Digest, ...] = ()
    stored: tuple[Digest, ...] = ()


def manifest_key(image_id: Digest) -> str:
    """Return the key of the step that stores an image's manifest."""
    return f"manifest:{image_id}"


def manifest_step(voyage: Voyage, image: Image) -> Step:
    """Return the step that stores the manifest of ``image``."""
    return Step(
        key=manifest_key(image.id),
        title=f"manifest of {title(image)}",
        resource=Resource.REMOTE,
        run=lambda context: _store_manifest(voyage, image, context),
        check=lambda value: _is_stored(voyage, value),
        needs=tuple(dict.fromkeys(blob_key(diff_id) for diff_id in image.config.diff_ids)),
    )


def title(image: Image) -> str:
    """Return what a person calls the image: its first name, or the start of its ID."""
    return image.references[0] if image.references else digest.hex_part(image.id)[:12]


def stored_manifest(value: Value) -> StoredManifest:
    """Return the value of a manifest step, typed."""
    return msgspec.convert(value, StoredManifest)


def _is_stored(voyage: Voyage, value: Value) -> bool:
    return all(present(partial(voyage.target.content.info, blob)) for blob in stored_manifest(value).blobs)


def _store_manifest(voyage: Voyage, image: Image, context: Context) -> Result:
    layers = [msgspec.convert(context.value(blob_key(diff_id)), LayerBlob).descriptor for diff_id in image.config.diff_ids]
    manifest = oci.encode_manifest(oci.Descriptor(oci.CONFIG, image.id, len(image.raw)), layers)
    manifest_digest = digest.of(manifest)
    config_labels: dict[str, str] = {}
    if voyage.target.snapshots is not None and image.chain_ids:
        config_labels[GC_SNAPSHOT_LABEL + voyage.target.snapshots.name] = image.chain_ids[-1]
    # Where no dockerd builds on images, nothing would lead to it.
    builds = voyage.target.snapshots is not None and was_built_here(voyage, image)
    container_config = image.config.container_config if builds else None
    blobs: list[tuple[bytes, Labels]] = []
    if container_config is not None:
        config_labels[_CONTAINER_CONFIG_LABEL] = digest.of(container_config)
        blobs.append((container_config, {_CONTENT_IMAGE_LABEL: manifest_digest}))
    blobs.append((image.raw, config_labels))
    references = {GC_CONFIG_LABEL: image.id} | {f"{GC_LAYER_LABEL}{n}": layer.digest for n, layer in enumerate(layers)}
    blobs.append((manifest, references))
    created = {digest.of(data): store_blob(voyage, data, labels, manifest_key(image.id)) for data, labels in blobs}
    voyage.target.durable()
    stored = StoredManifest(
        manifest_digest,
        len(manifest),
        digest.of(container_config) if container_config is not None else None,
        tuple(created),
        tuple(name for name, is_new in created.items() if is_new),
    )
    return Result(msgspec.to_builtins(stored), bool(stored.stored))


def store_blob(voyage: Voyage, data: bytes, labels: Labels, step: str) -> bool:
    """Store a small blob; return whether it was not there before.

    ``step`` is the key of the step that does: another one may be storing the same bytes, and an ingest has one writer.
    """
    name = digest.of(data)
    with voyage.target.content.writer(
        f"transship-{digest.hex_part(name)}-{digest.hex_part(digest.of(step.encode()))}"
    ) as writer:
        writer.write(data)
        return writer.commit(name, len(data), labels)


def was_built_here(voyage: Voyage, image: Image) -> bool:
    """Tell whether the classic builder made the image on this host, so that its cache may use it.

    Docker says so itself only since 24.0.9. Before, a parent link says it; and for the first step of a build FROM scratch,
    which has no parent, that it is another image's parent and was never given a name.
    """
    if image.built_locally or image.parent is not None:
        return True
    nameless = not image.references and not image.digest_references
    return nameless and any(other.parent == image.id for other in voyage.store.images.values())
