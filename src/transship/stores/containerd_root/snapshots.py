"""Snapshots of containerd's ``overlayfs`` and ``native`` snapshotters: a directory each, records in both databases.

Sources: containerd ``metadata/snapshot.go``, ``snapshots/{overlay/overlay,native/native}.go``, ``snapshots/snapshotter.go``.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from transship.errors import TargetExists, TargetNotFound, TargetRefused
from transship.files.remove import remove
from transship.stores.containerd_db import metadata, objects
from transship.stores.containerd_db.snapshotter import ACTIVE, COMMITTED, VIEW, kind_of, number_of
from transship.stores.containerd_root.collect import snapshots_of
from transship.stores.containerd_root.labels import check_labels
from transship.stores.containerd_root.places import make_directory
from transship.stores.containerd_root.usage import usage
from transship.stores.interfaces import SnapshotInfo, SnapshotKind, TreeForm
from transship.stores.mapped import mapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.formats.bolt.draft import Draft
    from transship.stores.containerd_root.lease import Resource
    from transship.stores.containerd_root.store import Store
    from transship.stores.interfaces import Labels

_FORMS = {"overlayfs": TreeForm.DIFF, "native": TreeForm.FULL}
_KINDS = {ACTIVE: SnapshotKind.ACTIVE, COMMITTED: SnapshotKind.COMMITTED, VIEW: SnapshotKind.VIEW}


class RootSnapshotter:
    """One snapshotter of one namespace, as ``Snapshotter``. While a run is held, what is looked up is kept for it."""

    def __init__(self, store: Store, name: str) -> None:
        """Raises TargetRefused if ``name`` is a snapshotter whose directories transship cannot fill."""
        if name not in _FORMS:
            raise TargetRefused(f"cannot fill snapshots of {name!r}", remedy="use the snapshotter overlayfs or native")
        self.name = name
        self.form = _FORMS[name]
        self._store = store
        self._lock = threading.Lock()
        self._parents: dict[str, str | None] = {}  # of active snapshots that get theirs when committed

    def stat(self, name: str) -> SnapshotInfo:
        """Describe a snapshot. Raises TargetNotFound."""
        with self._store.use():
            info = self._info(name, self._record(name))
            self._store.lease.keep(self._store.namespace, self._resource(name))
            return info

    def list(self) -> Iterator[SnapshotInfo]:
        """Yield every snapshot."""
        with self._store.databases.read():
            records = list(self._store.namespace.snapshots(self.name))
            infos = [self._info(name, record) for name, record in records if self._inner(record) is not None]
        yield from infos

    def prepare(self, key: str, parent: str | None) -> Path:
        """Make an active snapshot, in place of a stale one of that key, and return the empty directory to fill.

        Raises TargetExists if a committed snapshot is called ``key``, TargetNotFound if there is no ``parent``.
        """
        with self._store.databases.change():
            above = self._of_kind(parent, COMMITTED) if parent is not None else None
            if self.form is TreeForm.FULL:
                # As with a live containerd, where a parent's files would be copied, and what this layer deleted be back.
                with self._lock:
                    self._parents[key] = parent
                parent = above = None
            lower = self._inner(above) if above is not None else None
            self._remove_stale(key)
            inner = self._store.namespace.add_snapshot(self.name, key, parent, {})
            number = self._store.snapshots.add(inner, ACTIVE, metadata.key_of(above) if above is not None else None, {})
            self._store.lease.keep(self._store.namespace, self._resource(key))
            with mapped(f"snapshot {key}"):
                self._make_directory(number, number_of(lower) if lower is not None else None)
        return self._tree(number)

    def commit(self, name: str, key: str, labels: Labels) -> bool:
        """Turn the active snapshot ``key`` into the committed ``name``; False if there is one (``key`` is then removed)."""
        with self._lock:
            parent = self._parents.pop(key, None)
        if parent is not None:
            # Nothing else tells containerd that the one below is needed.
            labels = {**labels, f"containerd.io/gc.ref.snapshot.{self.name}": parent}
        check_labels(f"snapshot {name}", labels)
        with self._store.databases.read():
            tree = self._tree(number_of(self._there(key, self._record(key))))
        with mapped(tree):
            size = usage(tree)
        with self._store.databases.change():
            namespace = self._store.namespace
            is_new = namespace.snapshot(self.name, name) is None
            if is_new:
                before = metadata.key_of(self._of_kind(key, ACTIVE))
                after = namespace.commit_snapshot(self.name, name, key, labels)
                self._store.snapshots.commit(before, after, size, _inherited(labels))
                self._store.lease.forget(namespace, self._resource(key))
            else:
                self._remove(key)
            self._store.lease.keep(namespace, self._resource(name))
        self._store.databases.durable()  # its files are; now that it is committed
        return is_new

    def directory(self, name: str) -> Path:
        """Return the directory that holds a committed snapshot's own files, for reading only. Raises TargetNotFound."""
        with self._store.databases.read():
            tree = self._tree(number_of(self._there(name, self._record(name))))
        if not tree.is_dir():
            raise TargetNotFound(f"snapshot {name}: its directory {tree} is missing")
        return tree

    def remove(self, key: str) -> None:
        """Remove a snapshot; one that is not there is success. Raises TargetRefused while it has children.

        Its directory goes with the next checkpoint.
        """
        with self._store.databases.read():
            if self._store.namespace.snapshot(self.name, key) is None:
                return
        with self._store.databases.change():
            self._remove(key)

    def _resource(self, name: str) -> Resource:
        return snapshots_of(self.name), name

    def _record(self, name: str) -> Draft:
        record = self._store.namespace.snapshot(self.name, name)
        if record is None:
            raise TargetNotFound(f"snapshot {name} is not in {self._store.root.directory}")
        return record

    def _of_kind(self, name: str, kind: int) -> Draft:
        record = self._record(name)
        if kind_of(self._there(name, record)) != kind:
            raise TargetRefused(f"snapshot {name} is not {_KINDS[kind].value}")
        return record

    def _inner(self, record: Draft) -> Draft | None:
        """Return what the snapshotter itself knows of a snapshot."""
        return self._store.snapshots.get(metadata.key_of(record))

    def _there(self, name: str, record: Draft) -> Draft:
        inner = self._inner(record)
        if inner is None:
            raise TargetNotFound(f"snapshot {name} is not known to the snapshotter in {self._store.root.directory}")
        return inner

    def _info(self, name: str, record: Draft) -> SnapshotInfo:
        inner = self._there(name, record)
        kind = _KINDS.get(kind_of(inner))
        if kind is None:
            raise ValueError(f"snapshot {name} is of kind {kind_of(inner)}")
        return SnapshotInfo(name, kind, metadata.parent_of(record), {**objects.labels(inner), **objects.labels(record)})

    def _remove_stale(self, key: str) -> None:
        record = self._store.namespace.snapshot(self.name, key)
        if record is None:
            return
        inner = self._inner(record)
        if inner is not None and kind_of(inner) == COMMITTED:
            raise TargetExists(f"snapshot {key} is in {self._store.root.directory} already")
        self._remove(key)

    def _remove(self, key: str) -> None:
        remove_snapshot(self._store, self.name, key)

    def _make_directory(self, number: int, lower: int | None) -> None:
        """Make the directory of an active snapshot, as its snapshotter does. ``lower``: the number of the one below it."""
        directory = self._store.root.trees(self.name) / str(number)
        remove(directory)  # left by a containerd that was killed: its numbers go on where its records end
        if self.form is TreeForm.FULL:
            make_directory(directory, 0o755)
            return
        make_directory(directory, 0o700)
        make_directory(directory / "fs", 0o755)
        make_directory(directory / "work", 0o711)
        if lower is not None:
            status = self._tree(lower).stat()
            os.chown(directory / "fs", status.st_uid, status.st_gid)

    def _tree(self, number: int) -> Path:
        directory = self._store.root.trees(self.name) / str(number)
        return directory if self.form is TreeForm.FULL else directory / "fs"


def remove_snapshot(store: Store, snapshotter: str, name: str) -> None:
    """Remove a snapshot's records, and its directory with the next checkpoint. Raises TargetRefused while it has children."""
    record = store.namespace.snapshot(snapshotter, name)
    if record is None:
        return
    if metadata.has_children(record):
        raise TargetRefused(f"snapshot {name} has others on it")
    key = metadata.key_of(record)
    inner = store.snapshots.get(key)
    if inner is not None:
        store.databases.dropped.numbers.add(number_of(inner))
        store.snapshots.remove(key)
    store.namespace.remove_snapshot(snapshotter, name)
    store.lease.forget(store.namespace, (snapshots_of(snapshotter), name))


def _inherited(labels: Labels) -> Labels:
    """Return the labels that the snapshotter itself is told of."""
    return {
        key: value
        for key, value in labels.items()
        if key == "containerd.io/snapshot.ref" or key.startswith("containerd.io/snapshot/")
    }
