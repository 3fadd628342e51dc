"""Steps that make snapshots: one for each chain ID, parents first.

A snapshot can be prepared only when its parent is committed. A layer of many files would have to wait for all below it, so its
tree is made aside first, in an active snapshot of its own, in a process of its own, and takes its place by one rename.
"""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from transship.engine.step import Cost, Resource, Result, Step
from transship.errors import SourceCorrupt, TargetFull, TargetUnavailable
from transship.formats.digest import Digest
from transship.legs.containerd.layers import LayerBlob, blob_key, mismatch, present, read, short
from transship.stores.docker import tar_stream, trees

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transship.engine.step import Context, Value
    from transship.errors import SourceError
    from transship.legs.containerd.voyage import Voyage
    from transship.stores.docker.layers import Layer
    from transship.stores.interfaces import Snapshotter

MANY_FILES = 1000
"""Files from which on a tree is made aside. Making files is many short system calls, which in a thread would fight the threads
that read and compress layers over Python's lock; starting a process is not worth it for a few."""


class TreeAside(msgspec.Struct, frozen=True):
    """What a tree step leaves: the active snapshot with the layer's tree, and the directory that it is in."""

    key: str
    directory: str


def snapshot_key(chain_id: Digest) -> str:
    """Return the key of the step that makes the snapshot of a layer on its parents."""
    return f"snapshot:{chain_id}"


def tree_key(chain_id: Digest) -> str:
    """Return the key of the step that makes a layer's tree aside."""
    return f"tree:{chain_id}"


def snapshot_steps(voyage: Voyage, snapshots: Snapshotter, layer: Layer) -> Iterator[Step]:
    """Yield the step that makes the snapshot of ``layer`` and, before it, the one that makes its tree if it has many files."""
    files = tar_stream.estimated_files(layer.tar_split)
    aside = files >= MANY_FILES
    if aside:
        yield Step(
            key=tree_key(layer.chain_id),
            title=f"tree {short(layer.chain_id)}",
            resource=Resource.DISK,
            run=lambda context: _make_tree(voyage, snapshots, layer, context),
            check=lambda value: _is_made(snapshots, layer, value),
            needs=(blob_key(layer.diff_id),),
            cost=Cost(0, files),
        )
    before = (tree_key(layer.chain_id),) if aside else ()
    parent = (snapshot_key(layer.parent),) if layer.parent else ()
    yield Step(
        key=snapshot_key(layer.chain_id),
        title=f"snapshot {short(layer.chain_id)}",
        resource=Resource.REMOTE if aside else Resource.DISK,
        run=lambda context: _make_snapshot(voyage, snapshots, layer, context, aside=aside),
        check=lambda _: present(lambda: snapshots.stat(layer.chain_id)),
        needs=(blob_key(layer.diff_id), *before, *parent),
        cost=Cost(0, 0 if aside else files),
    )


def _make_tree(voyage: Voyage, snapshots: Snapshotter, layer: Layer, context: Context) -> Result:
    key = f"transship-tree-{layer.chain_id}"
    if present(lambda: snapshots.stat(layer.chain_id)):
        return Result(msgspec.to_builtins(TreeAside(key, "")), created=False)
    _ensure_whole(layer, context)
    directory = snapshots.prepare(key, None)
    origin = trees.Origin.of(voyage.store, layer, snapshots.form)
    try:
        context.in_process(trees.fill, origin, directory, voyage.fill)
    except OSError as error:
        raise _unfillable(layer, directory, error) from error
    voyage.target.durable()
    # Not "created": the snapshot takes it over, and if none does, it goes with the run's protection from garbage collection.
    return Result(msgspec.to_builtins(TreeAside(key, str(directory))), created=False)


def _is_made(snapshots: Snapshotter, layer: Layer, value: Value) -> bool:
    """Tell whether the tree is there, aside or, by now, in its snapshot. A kill between rename and commit leaves neither."""
    if present(lambda: snapshots.stat(layer.chain_id)):
        return True
    aside = msgspec.convert(value, TreeAside)
    return present(lambda: snapshots.stat(aside.key)) and bool(aside.directory) and Path(aside.directory).is_dir()


def _make_snapshot(voyage: Voyage, snapshots: Snapshotter, layer: Layer, context: Context, *, aside: bool) -> Result:
    if present(lambda: snapshots.stat(layer.chain_id)):
        return Result({}, created=False)
    key = f"transship-{layer.chain_id}"
    if not aside:
        _ensure_whole(layer, context)
    directory = snapshots.prepare(key, layer.parent)
    try:
        if aside:
            tree = msgspec.convert(context.value(tree_key(layer.chain_id)), TreeAside)
            Path(tree.directory).rename(directory)
        else:
            origin = trees.Origin.of(voyage.store, layer, snapshots.form)
            trees.fill(origin, directory, voyage.fill, context.check_cancelled)
    except OSError as error:
        raise _unfillable(layer, directory, error) from error
    voyage.target.durable()
    created = snapshots.commit(layer.chain_id, key, {})
    if aside:
        snapshots.remove(tree.key)
    return Result({}, created)


def _ensure_whole(layer: Layer, context: Context) -> None:
    """Check the layer's files against its diff ID, unless the blob was made from these very files."""
    blob = context.value(blob_key(layer.diff_id))
    if blob is not None and msgspec.convert(blob, LayerBlob).chain_id == layer.chain_id:
        return
    plain = hashlib.sha256()
    for chunk in read(layer):
        plain.update(chunk)
        context.check_cancelled()
    found = Digest(f"sha256:{plain.hexdigest()}")
    if found != layer.diff_id:
        raise mismatch(layer, found)


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
