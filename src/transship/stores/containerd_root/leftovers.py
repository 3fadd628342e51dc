"""Files below containerd's root that no record speaks of: removed as containerd's garbage collector removes them.

Sources: ``garbageCollect`` in containerd ``metadata/content.go``, ``Cleanup`` in ``snapshots/overlay/overlay.go``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transship.files.remove import remove
from transship.formats import digest as digests
from transship.stores.containerd_db import metadata
from transship.stores.containerd_db.objects import encoded
from transship.stores.containerd_db.snapshotter import Snapshots, number_of
from transship.stores.containerd_root.places import META

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transship.formats.bolt.draft import Draft
    from transship.formats.digest import Digest
    from transship.stores.containerd_root.places import Root


@dataclass
class Dropped:
    """What had a record until it was removed: digests of blobs, numbers of snapshots."""

    blobs: set[Digest] = field(default_factory=set)
    numbers: set[int] = field(default_factory=set)

    def clear(self) -> None:
        """Forget them."""
        self.blobs.clear()
        self.numbers.clear()


def remove_dropped(root: Root, snapshotter: str, drafts: Mapping[str, Draft], dropped: Dropped) -> None:
    """Remove the files of what was dropped and is not in the databases, in whatever namespace. Raises OSError."""
    if dropped.blobs:
        for digest in dropped.blobs - _blobs(drafts[META]):
            (root.blobs / digests.hex_part(digest)).unlink(missing_ok=True)
    if dropped.numbers:
        for number in dropped.numbers - _numbers(drafts[snapshotter]):
            remove(root.trees(snapshotter) / str(number))
    dropped.clear()


def sweep(root: Root, drafts: Mapping[str, Draft]) -> None:
    """Remove all files that no record speaks of: blobs, ingests, and snapshots of all snapshotters drafted. Raises OSError."""
    keep = {digests.hex_part(digest) for digest in _blobs(drafts[META])}
    for name in _names_in(root.blobs) - keep:
        remove(root.blobs / name)
    keep = {ingest_name(reference) for reference in _references(drafts[META])}
    for name in _names_in(root.ingests) - keep:
        remove(root.ingests / name)
    for snapshotter in drafts.keys() - {META}:
        keep = {str(number) for number in _numbers(drafts[snapshotter])}
        for name in _names_in(root.trees(snapshotter)) - keep:
            remove(root.trees(snapshotter) / name)


def ingest_name(reference: str) -> str:
    """Return the name of the directory of an ingest (containerd ``content/local/store.go``, ``ingestRoot``)."""
    return digests.hex_part(digests.of(encoded(reference)))


def _names_in(directory: Path) -> set[str]:
    try:
        return set(os.listdir(directory))  # noqa: PTH208 - names are all that is wanted
    except FileNotFoundError:
        return set()


def _blobs(meta: Draft) -> set[Digest]:
    """Return the digests of sha256 of all namespaces' blobs, and of those that an ingest shares."""
    found: set[Digest] = set()
    for name in metadata.namespaces(meta):
        namespace = metadata.Namespace(meta, name)
        shared = (metadata.expected_by(ingest) for _, ingest in namespace.ingests())
        found |= {digests.parse(text) for text in (*namespace.digests(), *shared) if digests.is_digest(text)}
    return found


def _references(meta: Draft) -> set[str]:
    namespaces = (metadata.Namespace(meta, name) for name in metadata.namespaces(meta))
    return {metadata.reference_of(ingest) for namespace in namespaces for _, ingest in namespace.ingests()}


def _numbers(snapshots: Draft) -> set[int]:
    return {number_of(record) for _, record in Snapshots(snapshots).all()}
