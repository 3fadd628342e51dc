"""Docker's builder with a graph driver, while dockerd does not run: its own snapshots, and layers of images.

Source: moby ``builder/builder-next/adapters/snapshot/{snapshot,leasemanager}.go``; ``layer/{layer_store,filestore}.go`` for
layers. In ``snapshots.db`` each snapshot is a bucket. One whose name is a chain ID is a layer; one that was made a layer of has
its ``chainid``; one that was committed is ``committed`` from another, which has the ``parent``. Leases are in
``containerdmeta.db``, which only dockerd 20.10 and newer have. No snapshot has labels.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt
from transship.formats import digest as digests
from transship.formats.bolt.draft import Draft
from transship.stores.buildkit.databases import InDatabases
from transship.stores.buildkit.holder import Snapshot
from transship.stores.buildkit.leasing import NAMESPACE, add_leases
from transship.stores.buildkit.places import CONTAINERD_METADATA, DOCKER_SNAPSHOTS
from transship.stores.containerd_db.metadata import Namespace
from transship.stores.containerd_db.objects import decoded, encoded
from transship.stores.docker import small_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from transship.formats.digest import Digest
    from transship.stores.buildkit.holder import Lease
    from transship.stores.buildkit.places import Cache

_PARENT, _COMMITTED, _CHAIN_ID = b"parent", b"committed", b"chainid"


class GraphDriverHolder(InDatabases):
    """The snapshots of Docker's builder, as ``Holder``."""

    snapshotter = "default"

    def __init__(self, cache: Cache) -> None:
        """Opens nothing yet."""
        super().__init__(cache.place)
        self._images = cache.place.resolve().parent / "image"

    def snapshot(self, name: str) -> Snapshot | None:
        """Describe a snapshot or layer."""
        with self._databases.read(DOCKER_SNAPSHOTS):
            root = self._databases.draft(DOCKER_SNAPSHOTS)
            if digests.is_digest(name):
                return self._layers.get(name)
            chain_id = _layer_of(root, name)
            layer = self._layers.get(chain_id)
            if chain_id and layer is None:
                return None  # dockerd has an error for it, then
            committed = _text(root.bucket(encoded(name)), _COMMITTED)
            place = root.bucket(encoded(committed or name))
            if place is None or place.value(_PARENT) is None:
                bare = Snapshot(None, committed=bool(committed)) if place is not None else None
                return layer or bare
            return Snapshot(_text(place, _PARENT) or None, committed=bool(committed))

    def has_blob(self, digest: str) -> bool:
        """Tell whether a blob is recorded, which none is but by dockerd 20.10 and newer."""
        root = self._databases.draft_if_there(CONTAINERD_METADATA)
        with self._databases.read(CONTAINERD_METADATA):
            return root is not None and Namespace(root, NAMESPACE).blob(digest) is not None

    def lease(self, leases: Sequence[Lease]) -> bytes:
        """Work out which leases to make or to add to, and what dockerd notes of layers when they are leased."""
        root = self._databases.draft_if_there(CONTAINERD_METADATA) or Draft(None)
        with self._databases.read(CONTAINERD_METADATA):
            add_leases(root, leases)
        snapshots = self._databases.draft(DOCKER_SNAPSHOTS)
        with self._databases.read(DOCKER_SNAPSHOTS):
            for lease in leases:
                for kind, name in lease.resources:
                    if kind == f"snapshots/{self.snapshotter}":
                        self._note_layer(snapshots, lease.id, name)
        return self._databases.changes({DOCKER_SNAPSHOTS: snapshots, CONTAINERD_METADATA: root})

    def unroot(self, snapshots: Sequence[str], blobs: Sequence[str]) -> bytes:  # noqa: ARG002
        """Nothing has labels here."""
        return b""

    @cached_property
    def _layers(self) -> _Layers:
        with self._databases.read(DOCKER_SNAPSHOTS):
            return _Layers(self._images, set(self._mentioned()))

    def _note_layer(self, snapshots: Draft, lease: str, name: str) -> None:
        layer = name if digests.is_digest(name) else _layer_of(snapshots, name)
        if self._layers.get(layer) is not None:
            snapshots.made(encoded(layer))
        if digests.is_digest(name):
            snapshots.made(encoded(lease)).put(_CHAIN_ID, encoded(name))

    def _mentioned(self) -> Iterator[str]:
        """Yield the chain IDs that snapshots have, or stand on."""
        for _, place in self._databases.draft(DOCKER_SNAPSHOTS).buckets():
            for key in (_CHAIN_ID, _PARENT):
                if digests.is_digest(name := _text(place, key)):
                    yield name


class _Layers:
    """The layers that dockerd has of images, of that graph driver in ``images`` which has the most of those ``mentioned``."""

    def __init__(self, images: Path, mentioned: set[str]) -> None:
        drivers = [images / entry.name / "layerdb" / "sha256" for entry in small_files.entries(images)]
        digits = {digests.hex_part(digests.parse(name)) for name in mentioned}
        found = [(len(digits & {entry.name for entry in small_files.entries(each)}), each) for each in drivers]
        self._directory = max(found)[1] if found else None
        self._known: dict[str, Snapshot | None] = {}

    def get(self, chain_id: str) -> Snapshot | None:
        """Return a layer that dockerd would load, with its parent: all below it are there, too."""
        read: dict[str, Snapshot] = {}
        todo: str | None = chain_id
        while todo is not None and todo not in self._known:
            self._known[todo] = None  # as it stays, if one below is not there, or it stands on itself
            layer = self._read(todo)
            if layer is None:
                return None
            read[todo] = layer
            todo = layer.parent
        if todo is None or self._known[todo] is not None:
            self._known.update(read)
        return self._known[chain_id]

    def _read(self, chain_id: str) -> Snapshot | None:
        if self._directory is None or not digests.is_digest(chain_id):
            return None
        entry = self._directory / digests.hex_part(digests.parse(chain_id))
        try:
            parts = [small_files.read_text(f"{entry}/{name}") for name in ("diff", "size", "cache-id")]
            parent = _parsed(small_files.read_text(f"{entry}/parent"))
        except (SourceCorrupt, ValueError):
            return None
        return Snapshot(parent, committed=True) if all(parts) else None


def _parsed(text: str | None) -> Digest | None:
    return digests.parse(text) if text is not None else None


def _layer_of(snapshots: Draft, name: str) -> str:
    """Return the chain ID of the layer that was made of a snapshot; nothing if there is none."""
    return _text(snapshots.bucket(encoded(name)), _CHAIN_ID)


def _text(place: Draft | None, key: bytes) -> str:
    value = place.value(key) if place is not None else None
    return decoded(value) if value is not None else ""
