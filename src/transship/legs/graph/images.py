"""Steps that make images of the content-addressable store out of those of the v1 store, and their layers, parents first.

Source of what is written, and how: moby v1.10.3 ``migrate/v1/migratev1.go`` (migrateImage), ``layer/filestore.go`` and
``layer/migration.go``, ``image/fs.go``, ``distribution/metadata/v2_metadata_service.go``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from transship.engine.step import Resource, Result, Step
from transship.errors import SourceCorrupt
from transship.files.changes import Copy, Directory, File
from transship.formats import digest, docker_image, v1_image
from transship.formats.digest import Digest
from transship.legs.graph.checksums import LayerSum, recorded_data
from transship.stores.docker import small_files
from transship.stores.graph.images import ID, RESTORE_HINT, SHORT_ID

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transship.engine.step import Context, Value
    from transship.files.changes import Change
    from transship.legs.graph.mapping import SavedMapping
    from transship.legs.graph.workspace import Workspace
    from transship.stores.graph.images import GraphImage

MAPPING_KEY = "v1-mapping:images"
"""Under which the ledger has the mapping: it is written with every image, and taken back once."""
_STORE_KEY = "v1-store:image"
_MOST_REGISTRY_BLOBS = 50
"""What Docker keeps for one layer."""
_METADATA_LIMIT = 1024 * 1024


class NewImage(msgspec.Struct, frozen=True):
    """What a step leaves: the image's ID, and the chain ID of its topmost layer."""

    image_id: Digest
    chain_id: Digest


@dataclass(frozen=True)
class _Parent:
    """What an image stands on. All empty for a base."""

    image_id: Digest | None = None
    chain_id: Digest | None = None
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[bytes, ...] = ()


def image_key(image_id: str) -> str:
    """Return the key of the step that makes the new image of a v1 image."""
    return f"v1-image:{image_id}"


def image_steps(
    workspace: Workspace, mapping: SavedMapping, images: Sequence[GraphImage], sums: Mapping[str, LayerSum]
) -> Iterator[Step]:
    """Yield the steps for ``images``, parents before children, whose layers' ``sums`` are known.

    They run one after the other, in this order: of layers that are alike the first gives its files to all, and registries'
    digests are kept in the order in which they were met.
    """
    yield Step(_STORE_KEY, "store", Resource.DISK, partial(_make_store, workspace), lambda _: False)
    before = _STORE_KEY
    for image in images:
        parent = () if image.parent is None else (image_key(image.parent),)
        yield Step(
            key=image_key(image.id),
            title=f"image {image.id[:12]}",
            resource=Resource.DISK,
            run=partial(_make_image, workspace, mapping, image, sums[image.id]),
            check=partial(_stands, workspace, mapping, image),
            needs=(_STORE_KEY,),
            after=(before, *parent),  # were it needed, a failed one would set free what comes after this, out of order
        )
        before = image_key(image.id)


def unreadable(image: GraphImage) -> SourceCorrupt | None:
    """Return why Docker 1.10 and later, which name a layer in place after its image, could not read it; None if they can."""
    if ID.fullmatch(image.id):
        return None
    return SourceCorrupt(
        f"image {image.id}: Docker 1.10 and later do not read layers with so short an ID",
        remedy="give a target other than `docker`: there it arrives",
    )


def _make_store(workspace: Workspace, _context: Context) -> Result:
    root = workspace.image_root
    changes = [
        *workspace.directories(f"{root}/distribution", 0o700),
        *workspace.directories(f"{root}/imagedb/content/sha256", 0o700),
        *workspace.directories(f"{root}/imagedb/metadata/sha256", 0o700),
        *workspace.directories(f"{root}/layerdb", 0o700),
        *workspace.directories(f"{root}/layerdb/sha256", 0o755),
        *workspace.directories(f"{root}/layerdb/tmp", 0o755),
    ]
    return Result({}, workspace.make(_STORE_KEY, changes))


def _stands(workspace: Workspace, mapping: SavedMapping, image: GraphImage, value: Value) -> bool:
    made = msgspec.convert(value, NewImage)
    cache_id = small_files.read_text(f"{workspace.place}/{_layer_entry(workspace, made.chain_id)}/cache-id")
    if mapping.get(image.id) != made.image_id or not _has_files(workspace, cache_id or ""):
        return False
    content = small_files.read(str(workspace.place / _content(workspace, made.image_id)), docker_image.SIZE_LIMIT)
    return content is not None and digest.of(content) == made.image_id


def _make_image(workspace: Workspace, mapping: SavedMapping, image: GraphImage, layer: LayerSum, context: Context) -> Result:
    parent = _Parent() if image.parent is None else _parent(workspace, image, context.value(image_key(image.parent)))
    chain_id = digest.chain(parent.chain_id, layer.diff_id)
    diff_ids = (*parent.diff_ids, layer.diff_id)
    try:
        history = (*parent.history, v1_image.history_entry(image.raw))
        config = v1_image.image_config(image.raw, diff_ids, history)
        docker_image.parse_config(config)  # else nobody could read it
    except ValueError as error:
        raise SourceCorrupt(f"image {image.id}: {image.directory}/json: {error}", remedy=RESTORE_HINT) from error
    image_id = digest.of(config)
    changes = [
        *_layer_changes(workspace, image, layer, parent.chain_id),
        *_registry_changes(workspace, image, layer.diff_id),
        File(_content(workspace, image_id), config, 0o600),
        *_parent_changes(workspace, image_id, parent.image_id),
    ]
    created = workspace.make(image_key(image.id), changes)
    created |= workspace.make(MAPPING_KEY, [mapping.with_image(image.id, image_id)])
    return Result(msgspec.to_builtins(NewImage(image_id, chain_id)), created)


def _parent(workspace: Workspace, image: GraphImage, value: Value | None) -> _Parent:
    """Return what the new image of a parent says; ``value`` is what its step left. Raises SourceCorrupt if it failed."""
    if value is None:
        raise blocked(image)
    made = msgspec.convert(value, NewImage)
    raw = small_files.read(str(workspace.place / _content(workspace, made.image_id)), docker_image.SIZE_LIMIT)
    if raw is None:
        raise SourceCorrupt(f"image {made.image_id}, which was just made, has gone", remedy="run again")
    config = docker_image.parse_config(raw)
    return _Parent(made.image_id, made.chain_id, config.diff_ids, tuple(v1_image.history_of(raw)))


def blocked(image: GraphImage) -> SourceCorrupt:
    """Return the error that says that an image is lost with its parent."""
    reason = f"image {image.id} stands on {image.parent}, which could not be carried over"
    return SourceCorrupt(reason, remedy="see what is said of that one")


def _layer_changes(workspace: Workspace, image: GraphImage, layer: LayerSum, parent: Digest | None) -> Iterator[Change]:
    """Yield what makes the layer's entry, unless the same layer on the same parents has one, whoever made that."""
    if workspace.in_place and (error := unreadable(image)):
        raise error
    chain_id = digest.chain(parent, layer.diff_id)
    entry = _layer_entry(workspace, chain_id)
    if _is_whole(workspace, entry, layer.diff_id, parent):
        return
    yield Directory(entry, 0o700)
    yield File(f"{entry}/cache-id", image.id.encode(), 0o644)
    yield File(f"{entry}/diff", layer.diff_id.encode(), 0o644)
    yield File(f"{entry}/size", str(layer.size).encode(), 0o644)
    if parent is not None:
        yield File(f"{entry}/parent", parent.encode(), 0o644)
    tar_data = recorded_data(workspace, image) if layer.recorded else image.tar_data
    yield Copy(f"{entry}/tar-split.json.gz", tar_data, 0o644)


def _is_whole(workspace: Workspace, entry: str, diff_id: Digest, parent: Digest | None) -> bool:
    place = workspace.place / entry
    texts = {name: small_files.read_text(f"{place}/{name}") for name in ("diff", "parent", "cache-id", "size")}
    has_data = (place / "tar-split.json.gz").is_file()
    if texts["diff"] != diff_id or texts["parent"] != parent or not texts["size"] or not has_data:
        return False
    return _has_files(workspace, texts["cache-id"] or "")


def _has_files(workspace: Workspace, cache_id: str) -> bool:
    """Tell whether the driver still has a layer's files: an entry outlives them when an image was removed by Docker 1.9."""
    try:
        return SHORT_ID.fullmatch(cache_id) is not None and workspace.graph.layer_directory(cache_id).is_dir()
    except SourceCorrupt:
        return False


def _registry_changes(workspace: Workspace, image: GraphImage, diff_id: Digest) -> Iterator[Change]:
    """Yield what tells Docker that a registry has this layer, so that it is not uploaded again."""
    try:
        registry_digest = image.registry_digest
    except SourceCorrupt:  # it only saves uploads
        return
    if registry_digest is None:
        return
    algorithm, _, hex_part = registry_digest.partition(":")
    by_diff_id = f"{workspace.image_root}/distribution/v2metadata-by-diffid/sha256"
    by_digest = f"{workspace.image_root}/distribution/diffid-by-digest/{algorithm}"
    known = _registry_blobs(workspace, f"{by_diff_id}/{digest.hex_part(diff_id)}")
    new = {"Digest": registry_digest, "SourceRepository": ""}
    blobs = [*(blob for blob in known if blob != new), new][-_MOST_REGISTRY_BLOBS:]
    yield from workspace.directories(by_diff_id, 0o755)
    yield from workspace.directories(by_digest, 0o755)
    yield File(f"{by_diff_id}/{digest.hex_part(diff_id)}", json.dumps(blobs, separators=(",", ":")).encode(), 0o644)
    yield File(f"{by_digest}/{hex_part}", diff_id.encode(), 0o644)


def _registry_blobs(workspace: Workspace, path: str) -> list[dict[str, str]]:
    raw = small_files.read(str(workspace.place / path), _METADATA_LIMIT)
    try:
        return [] if raw is None else msgspec.json.decode(raw, type=list[dict[str, str]] | None) or []
    except (ValueError, RecursionError):  # Docker began anew, too: it only saves uploads
        return []


def _parent_changes(workspace: Workspace, image_id: Digest, parent: Digest | None) -> Iterator[Change]:
    if parent is not None:
        metadata = f"{workspace.image_root}/imagedb/metadata/sha256/{digest.hex_part(image_id)}"
        yield Directory(metadata, 0o700)
        yield File(f"{metadata}/parent", parent.encode(), 0o600)


def _content(workspace: Workspace, image_id: Digest) -> str:
    return f"{workspace.image_root}/imagedb/content/sha256/{digest.hex_part(image_id)}"


def _layer_entry(workspace: Workspace, chain_id: Digest) -> str:
    return f"{workspace.image_root}/layerdb/sha256/{digest.hex_part(chain_id)}"
