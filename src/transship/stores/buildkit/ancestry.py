"""What the snapshots of a cache stand on: version 1 of the metadata does not say it, its snapshotter does.

Sources: containerd ``metadata/snapshot.go`` (``containerdmeta.db`` of an OCI worker); moby
``builder/builder-next/adapters/snapshot/snapshot.go`` (``snapshots.db``: a name may have been committed from another, and is a
layer's then, or a build step's).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.errors import SourceMissing
from transship.formats.bolt.reader import Bucket
from transship.stores import bolt_file
from transship.stores.buildkit.places import CONTAINERD_METADATA, DOCKER_SNAPSHOTS, Kind

if TYPE_CHECKING:
    from transship.stores.buildkit.places import Cache

_NAMESPACE = b"buildkit"


def parents_of_snapshots(cache: Cache) -> dict[str, str]:
    """Return by name what each snapshot of a cache stands on; bases are not among them.

    Nothing is known of snapshots in a containerd that is not the cache's own. Raises SourceBusy, SourceError, SourceCorrupt.
    """
    of_docker = cache.kind is Kind.GRAPH_DRIVER
    try:
        with bolt_file.opened(cache.place / (DOCKER_SNAPSHOTS if of_docker else CONTAINERD_METADATA)) as database:
            return _of_docker(database.root) if of_docker else _of_worker(database.root)
    except SourceMissing:
        return {}


def _of_worker(root: Bucket) -> dict[str, str]:
    found: dict[str, str] = {}
    snapshotters = _below(root, b"v1", _NAMESPACE, b"snapshots")
    for snapshotter in snapshotters.values() if snapshotters is not None else ():
        for name, snapshot in snapshotter.items() if isinstance(snapshotter, Bucket) else ():
            parent = snapshot.get(b"parent") if isinstance(snapshot, Bucket) else None
            if isinstance(parent, bytes) and parent:
                found[_text(name)] = _text(parent)
    return found


def _of_docker(root: Bucket) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, snapshot in root.items():
        if not isinstance(snapshot, Bucket):
            continue
        committed = snapshot.get(b"committed")
        source = root.get(committed) if isinstance(committed, bytes) and committed else snapshot
        parent = source.get(b"parent") if isinstance(source, Bucket) else None
        if isinstance(parent, bytes) and parent:
            found[_text(name)] = _text(parent)
    return found


def _below(bucket: Bucket, *path: bytes) -> Bucket | None:
    for name in path:
        below = bucket.get(name)
        if not isinstance(below, Bucket):
            return None
        bucket = below
    return bucket


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
