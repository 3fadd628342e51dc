"""The parts of containerd within BuildKit, while it does not run: its OCI worker's databases.

``containerdmeta.db`` is containerd's, with the namespace ``buildkit``; ``snapshots/metadata.db`` is the snapshotter's (BuildKit
``worker/runc/runc.go``). What changes is what containerd changes in ``metadata/{leases,snapshot,content}.go``.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from transship.formats.bolt.draft import Draft
from transship.stores.buildkit.databases import InDatabases
from transship.stores.buildkit.holder import Snapshot
from transship.stores.buildkit.leasing import NAMESPACE, add_leases
from transship.stores.buildkit.places import CONTAINERD_METADATA, OCI
from transship.stores.containerd_db import metadata, objects, snapshotter
from transship.stores.containerd_db.snapshotter import Snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transship.stores.buildkit.holder import Lease
    from transship.stores.buildkit.places import Cache

_SNAPSHOTS = "snapshots/metadata.db"


class EmbeddedHolder(InDatabases):
    """The parts of containerd in a worker's directory, as ``Holder``."""

    def __init__(self, cache: Cache) -> None:
        """Opens nothing yet."""
        super().__init__(cache.place)
        self._directory = cache.place.resolve().name

    @cached_property
    def snapshotter(self) -> str:
        """The snapshotter's name: that in the database, which has one if it has snapshots; else the directory has it."""
        root = self._databases.draft(CONTAINERD_METADATA)
        with self._databases.read(CONTAINERD_METADATA):
            place = root.bucket(b"v1", objects.encoded(NAMESPACE), b"snapshots")
            names = [objects.decoded(name) for name, _ in place.buckets()] if place is not None else []
        return names[0] if len(names) == 1 else self._directory.removeprefix(OCI)

    def snapshot(self, name: str) -> Snapshot | None:
        """Describe a snapshot, which both databases have to know."""
        with self._databases.read(CONTAINERD_METADATA):
            record = self._namespace().snapshot(self.snapshotter, name)
            if record is None:
                return None
            key, parent = metadata.key_of(record), metadata.parent_of(record)
        with self._databases.read(_SNAPSHOTS):
            held = Snapshots(self._databases.draft(_SNAPSHOTS)).get(key)
            return Snapshot(parent, snapshotter.kind_of(held) == snapshotter.COMMITTED) if held is not None else None

    def has_blob(self, digest: str) -> bool:
        """Tell whether a blob is recorded."""
        with self._databases.read(CONTAINERD_METADATA):
            return self._namespace().blob(digest) is not None

    def lease(self, leases: Sequence[Lease]) -> bytes:
        """Work out which leases to make or to add to."""
        root = self._databases.draft(CONTAINERD_METADATA)
        with self._databases.read(CONTAINERD_METADATA):
            add_leases(root, leases)
        return self._databases.changes({CONTAINERD_METADATA: root})

    def unroot(self, snapshots: Sequence[str], blobs: Sequence[str]) -> bytes:
        """Work out which snapshots, views and blobs lose their label. The snapshotter takes note, too, as if it was told."""
        root, below = self._databases.draft(CONTAINERD_METADATA), self._snapshots()
        namespace, held = metadata.Namespace(root, NAMESPACE), Snapshots(below)
        with self._databases.read(CONTAINERD_METADATA):
            for digest in dict.fromkeys(blobs):
                _unroot(namespace.blob(digest))
            for name in dict.fromkeys([*snapshots, *self._views()]):
                record = namespace.snapshot(self.snapshotter, name)
                if record is not None and _unroot(record):
                    with self._databases.read(_SNAPSHOTS):
                        _touch(held.get(metadata.key_of(record)))
        return self._databases.changes({_SNAPSHOTS: below, CONTAINERD_METADATA: root})

    def _namespace(self) -> metadata.Namespace:
        return metadata.Namespace(self._databases.draft(CONTAINERD_METADATA), NAMESPACE)

    def _snapshots(self) -> Draft:
        """Return the snapshotter's database, which is there from the first snapshot on."""
        return self._databases.draft_if_there(_SNAPSHOTS) or Draft(None)

    def _views(self) -> Iterator[str]:
        """Yield the names of views: keys of snapshots are ``<namespace>/<number>/<name>``."""
        with self._databases.read(_SNAPSHOTS):
            for key, record in Snapshots(self._snapshots()).all():
                if snapshotter.kind_of(record) == snapshotter.VIEW:
                    yield key.split("/", 2)[-1]


def _unroot(record: Draft | None) -> bool:
    """Remove the label from an object in ``containerdmeta.db``, if it has it."""
    labels = record.bucket(b"labels") if record is not None else None
    if record is None or labels is None or labels.value(_ROOT) is None:
        return False
    labels.delete(_ROOT)
    objects.mark_updated(record)
    return True


def _touch(record: Draft | None) -> None:
    """Note in the snapshotter's database what it notes when it is told of a label that goes."""
    if record is not None:
        record.made(b"labels").delete(_ROOT)
        objects.mark_updated(record)


_ROOT = objects.encoded(objects.GC_ROOT)
