"""Steps that store layers' content: a blob for each diff ID."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from transship.engine.step import Cost, Resource, Result, Step
from transship.errors import LayerMismatch, SourceCorrupt, SourceError, TargetNotFound
from transship.formats import digest
from transship.formats.digest import Digest
from transship.formats.oci import Descriptor
from transship.legs.containerd.voyage import RECIPE_LABEL, UNCOMPRESSED_LABEL
from transship.stores.blob import compress
from transship.stores.docker import tar_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transship.engine.step import Context
    from transship.legs.containerd.voyage import Voyage
    from transship.stores.docker.layers import Layer


class LayerBlob(msgspec.Struct, frozen=True):
    """What a blob step leaves. ``chain_id`` is the layer whose files were read: they are known to be whole."""

    digest: Digest
    size: int
    media_type: str
    chain_id: Digest

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, self.size)


def blob_key(diff_id: Digest) -> str:
    """Return the key of the step that stores the blob of a layer's content."""
    return f"blob:{diff_id}"


def blob_step(voyage: Voyage, diff_id: Digest, layers: Sequence[Layer], threads: int) -> Step:
    """Return the step that stores the blob of ``diff_id``, read from the first of ``layers`` that is whole.

    ``threads`` compress it, which changes how long it takes and nothing else.
    """
    return Step(
        key=blob_key(diff_id),
        title=f"layer {short(diff_id)}",
        resource=Resource.CPU,
        run=lambda context: _store_blob(voyage, diff_id, layers, threads, context),
        check=lambda value: present(lambda: voyage.target.content.info(msgspec.convert(value, LayerBlob).digest)),
        cost=Cost(layers[0].size, tar_stream.estimated_files(layers[0].tar_split)),
    )


def present(look_up: Callable[[], object]) -> bool:
    """Tell whether ``look_up`` finds what it looks for in the target."""
    try:
        look_up()
    except TargetNotFound:
        return False
    return True


def _store_blob(voyage: Voyage, diff_id: Digest, layers: Sequence[Layer], threads: int, context: Context) -> Result:
    first_error: SourceError | None = None
    for layer in layers:
        try:
            return _store_layer(voyage, layer, threads, context)
        except SourceError as error:
            first_error = first_error or error
    raise first_error or SourceCorrupt(f"no layer has the diff ID {diff_id}")


def _store_layer(voyage: Voyage, layer: Layer, threads: int, context: Context) -> Result:
    ref = f"transship-{digest.hex_part(layer.diff_id)}-{voyage.recipe.codec.value}"
    with voyage.target.content.writer(ref) as writer:
        made = compress(_counted(layer, context), voyage.recipe.compressor(threads), writer.write)
        if made.diff_id != layer.diff_id:
            raise mismatch(layer, made.diff_id)
        created = writer.commit(made.digest, made.size, {UNCOMPRESSED_LABEL: layer.diff_id, RECIPE_LABEL: voyage.recipe.name})
    voyage.target.durable()
    blob = LayerBlob(made.digest, made.size, voyage.recipe.media_type, layer.chain_id)
    return Result(msgspec.to_builtins(blob), created)


def _counted(layer: Layer, context: Context) -> Iterator[memoryview]:
    for chunk in read(layer):
        yield chunk
        context.advance(len(chunk))


def read(layer: Layer) -> Iterator[memoryview]:
    """Yield a layer's tar stream; see ``tar_stream.read``. Raises SourceCorrupt, LayerMismatch."""
    try:
        yield from tar_stream.read(layer.tar_split, layer.driver_directory)
    except OSError as error:
        raise _unreadable(layer, error) from error


def _unreadable(layer: Layer, error: OSError) -> SourceCorrupt:
    return SourceCorrupt(
        f"layer {layer.chain_id}: {layer.driver_directory} cannot be read: {error.strerror or error}",
        remedy="check the disk and that transship runs as root",
    )


def mismatch(layer: Layer, found: Digest) -> LayerMismatch:
    """Return the error for a layer whose files give the diff ID ``found``, naming the file that has changed."""
    reason = tar_stream.first_difference(layer.tar_split, layer.driver_directory)
    return LayerMismatch(
        f"layer {layer.chain_id}: its files give {found} instead of diff ID {layer.diff_id}: {reason}",
        remedy=tar_stream.RESTORE_HINT,
    )


def short(identifier: Digest) -> str:
    """Return as much of a digest as people read."""
    return digest.hex_part(identifier)[:12]
