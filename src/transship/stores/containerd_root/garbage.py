"""Removing what nothing refers to any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.formats import digest as digests
from transship.stores.containerd_db import metadata
from transship.stores.containerd_root.collect import CONTENT, Graph, Node, snapshots_of
from transship.stores.containerd_root.lease import waiting
from transship.stores.containerd_root.snapshots import remove_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transship.stores.containerd_root.lease import Resource
    from transship.stores.containerd_root.store import Store


def remove_garbage(store: Store, snapshotter: str, named: Iterable[Resource]) -> None:
    """Remove what is ``named``, what removed names pointed at, and what all that refers to, unless containerd would keep it.

    Called while the databases are to be changed. Files go with the next checkpoint.
    """
    candidates = {*named, *waiting(store.namespace)}
    graph = Graph(store.databases.meta)
    reached = graph.reached(Node(kind, store.name, name) for kind, name in candidates)
    garbage = reached - graph.kept()
    for node in garbage:
        if node.kind == CONTENT and digests.is_digest(node.name):
            store.namespace.remove_blob(node.name)
            store.databases.dropped.blobs.add(digests.parse(node.name))
    kind = snapshots_of(snapshotter)
    todo = [node.name for node in garbage if node.kind == kind]
    while todo:
        name = todo.pop()
        record = store.namespace.snapshot(snapshotter, name)
        if record is None or metadata.has_children(record):  # looked at again when the last of them is gone
            continue
        parent = metadata.parent_of(record)
        remove_snapshot(store, snapshotter, name)
        if parent is not None and Node(kind, store.name, parent) in garbage:
            todo.append(parent)
