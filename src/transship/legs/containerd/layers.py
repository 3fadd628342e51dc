"""Steps that move layers: a blob for each diff ID, a snapshot for each chain ID."""

from __future__ import annotations

import errno
import hashlib
from typing import TYPE_CHECKING

import msgspec

from transship.engine.step import Cost, Resource, Result, Step
from transship.errors import LayerMismatch, SourceCorrupt, SourceError, TargetFull, TargetNotFound, TargetUnavailable
from transship.formats import digest
from transship.formats.digest import Digest
from transship.formats.oci import Descriptor
from transship.legs.containerd.voyage import RECIPE_LABEL, UNCOMPRESSED_LABEL
from transship.stores.blob import compress
from transship.stores.docker import tar_stream, trees

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from transship.engine.step import Context
    from transship.legs.containerd.voyage import Voyage
    from transship.stores.docker.layers import Layer
    from transship.stores.interfaces import Snapshotter

_MANY_FILES = 1000
"""Files from which on a snapshot is filled in a process of its own. Making files is many short system calls, which in a thread
would fight the threads that read and compress layers over Python's lock; starting a process is not worth it for a few."""
_BYTES_PER_METADATA_ENTRY = 70
"""What a file takes up in tar-split data on average, packed; used to estimate how many there are without reading it."""


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


def snapshot_key(chain_id: Digest) -> str:
    """Return the key of the step that makes the snapshot of a layer on its parents."""
    return f"snapshot:{chain_id}"


def estimated_files(layer: Layer) -> int:
    """Return about how many files a layer has, from the size of its tar-split data; 0 if it has none."""
    try:
        return layer.tar_split.stat().st_size // _BYTES_PER_METADATA_ENTRY
    except OSError:
        return 0


def blob_step(voyage: Voyage, diff_id: Digest, layers: Sequence[Layer], threads: int) -> Step:
    """Return the step that stores the blob of ``diff_id``, read from the first of ``layers`` that is whole.

    ``threads`` compress it, which changes how long it takes and nothing else.
    """
    return Step(
        key=blob_key(diff_id),
        title=f"layer {_short(diff_id)}",
        resource=Resource.CPU,
        run=lambda context: _store_blob(voyage, diff_id, layers, threads, context),
        check=lambda value: present(lambda: voyage.target.content.info(msgspec.convert(value, LayerBlob).digest)),
        cost=Cost(layers[0].size, estimated_files(layers[0])),
    )


def snapshot_step(voyage: Voyage, snapshots: Snapshotter, layer: Layer) -> Step:
    """Return the step that makes the snapshot of ``layer``."""
    parent = (snapshot_key(layer.parent),) if layer.parent else ()
    return Step(
        key=snapshot_key(layer.chain_id),
        title=f"snapshot {_short(layer.chain_id)}",
        resource=Resource.DISK,
        run=lambda context: _make_snapshot(voyage, snapshots, layer, context),
        check=lambda _: present(lambda: snapshots.stat(layer.chain_id)),
        needs=(blob_key(layer.diff_id), *parent),
        cost=Cost(0, estimated_files(layer)),
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
            raise _mismatch(layer, made.diff_id)
        created = writer.commit(made.digest, made.size, {UNCOMPRESSED_LABEL: layer.diff_id, RECIPE_LABEL: voyage.recipe.name})
    voyage.target.durable()
    blob = LayerBlob(made.digest, made.size, voyage.recipe.media_type, layer.chain_id)
    return Result(msgspec.to_builtins(blob), created)


def _counted(layer: Layer, context: Context) -> Iterator[memoryview]:
    for chunk in _read(layer):
        yield chunk
        context.advance(len(chunk))


def _read(layer: Layer) -> Iterator[memoryview]:
    try:
        yield from tar_stream.read(layer.tar_split, layer.driver_directory)
    except OSError as error:
        raise _unreadable(layer, error) from error


def _unreadable(layer: Layer, error: OSError) -> SourceCorrupt:
    return SourceCorrupt(
        f"layer {layer.chain_id}: {layer.driver_directory} cannot be read: {error.strerror or error}",
        remedy="check the disk and that transship runs as root",
    )


def _mismatch(layer: Layer, found: Digest) -> LayerMismatch:
    reason = tar_stream.first_difference(layer.tar_split, layer.driver_directory)
    return LayerMismatch(
        f"layer {layer.chain_id}: its files give {found} instead of diff ID {layer.diff_id}: {reason}",
        remedy=tar_stream.RESTORE_HINT,
    )


def _make_snapshot(voyage: Voyage, snapshots: Snapshotter, layer: Layer, context: Context) -> Result:
    if present(lambda: snapshots.stat(layer.chain_id)):
        return Result({}, created=False)
    _ensure_whole(layer, context)
    key = f"transship-{layer.chain_id}"
    directory = snapshots.prepare(key, layer.parent)
    origin = trees.Origin.of(voyage.store, layer, snapshots.form)
    try:
        if estimated_files(layer) < _MANY_FILES:
            trees.fill(origin, directory, voyage.fill, context.check_cancelled)
        else:
            context.in_process(trees.fill, origin, directory, voyage.fill)
    except OSError as error:
        raise _unfillable(layer, directory, error) from error
    voyage.target.durable()
    return Result({}, snapshots.commit(layer.chain_id, key, {}))


def _ensure_whole(layer: Layer, context: Context) -> None:
    """Check the layer's files against its diff ID, unless the blob was made from these very files."""
    blob = context.value(blob_key(layer.diff_id))
    if blob is not None and msgspec.convert(blob, LayerBlob).chain_id == layer.chain_id:
        return
    plain = hashlib.sha256()
    for chunk in _read(layer):
        plain.update(chunk)
        context.check_cancelled()
    found = Digest(f"sha256:{plain.hexdigest()}")
    if found != layer.diff_id:
        raise _mismatch(layer, found)


def _unfillable(layer: Layer, directory: Path, error: OSError) -> SourceError | TargetFull | TargetUnavailable:
    """Say what kept a snapshot from being filled: which side it was shows in the error's number."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return TargetFull(f"no room for snapshot {layer.chain_id} in {directory}", remedy="free some space and run again")
    if error.errno == errno.EROFS:
        return TargetUnavailable(f"{directory} is read-only", remedy="make it writable and run again")
    return SourceCorrupt(
        f"layer {layer.chain_id} cannot be put into {directory}: {error}",
        remedy="check that both file systems are healthy, and that the target's knows extended attributes",
    )


def _short(identifier: Digest) -> str:
    return digest.hex_part(identifier)[:12]
