"""Snapshots of containerd's ``overlayfs`` and ``native`` snapshotters.

The directory of a snapshot is read off the mount that containerd answers with (containerd
``plugins/snapshots/{overlay,native}``): a bind mount of it, or an overlay mount that has it as upper or first lower directory.
"""

from __future__ import annotations

import secrets
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty

from transship.errors import TargetExists, TargetNotFound, TargetRefused
from transship.stores.containerd import rpc
from transship.stores.containerd.api import snapshots_pb2 as api
from transship.stores.containerd.leases import Resource
from transship.stores.interfaces import SnapshotInfo, SnapshotKind, TreeForm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transship.stores.containerd.api.types_pb2 import Mount
    from transship.stores.containerd.leases import Leases
    from transship.stores.interfaces import Labels

_SERVICE = api.DESCRIPTOR.services_by_name["Snapshots"]
_PREPARE = rpc.method(_SERVICE, "Prepare", api.PrepareSnapshotRequest, api.PrepareSnapshotResponse)
_VIEW = rpc.method(_SERVICE, "View", api.ViewSnapshotRequest, api.ViewSnapshotResponse)
_COMMIT = rpc.method(_SERVICE, "Commit", api.CommitSnapshotRequest, Empty)
_REMOVE = rpc.method(_SERVICE, "Remove", api.RemoveSnapshotRequest, Empty)
_STAT = rpc.method(_SERVICE, "Stat", api.StatSnapshotRequest, api.StatSnapshotResponse)
_LIST = rpc.method(_SERVICE, "List", api.ListSnapshotsRequest, api.ListSnapshotsResponse)

_MOST_LEFTOVERS = 16
_FORMS = {"overlayfs": TreeForm.DIFF, "native": TreeForm.FULL}
_KINDS = {api.ACTIVE: SnapshotKind.ACTIVE, api.COMMITTED: SnapshotKind.COMMITTED, api.VIEW: SnapshotKind.VIEW}


class ContainerdSnapshotter:
    """One snapshotter of one namespace, as ``Snapshotter``. While a run is held, what is looked up is kept for it."""

    def __init__(self, connection: rpc.Connection, leases: Leases, name: str) -> None:
        """Raises TargetRefused if ``name`` is a snapshotter whose directories transship cannot fill."""
        if name not in _FORMS:
            raise TargetRefused(f"cannot fill snapshots of {name!r}", remedy="use the snapshotter overlayfs or native")
        self.name = name
        self.form = _FORMS[name]
        self._connection = connection
        self._leases = leases
        self._lock = threading.Lock()
        self._parents: dict[str, str | None] = {}  # of active snapshots that get theirs when committed

    def stat(self, name: str) -> SnapshotInfo:
        """Describe a snapshot. Raises TargetNotFound."""
        info = self._stat(name)
        if self._leases.keep(self._resource(name)):
            info = self._stat(name)  # it may have been collected just before it was leased
        return info

    def list(self) -> Iterator[SnapshotInfo]:
        """Yield every snapshot."""
        request = api.ListSnapshotsRequest(snapshotter=self.name)
        for answer in self._connection.stream(_LIST, request, f"list of {self.name} snapshots"):
            yield from map(_info, answer.info)

    def prepare(self, key: str, parent: str | None) -> Path:
        """Make an active snapshot, in place of a stale one of that key, and return the empty directory to fill.

        Raises TargetExists if a committed snapshot is called ``key``, TargetNotFound if there is no ``parent``.
        """
        if self.form is TreeForm.FULL:
            # containerd would copy the parent's files, and what this layer deleted would be back: it gets it at commit.
            if parent is not None:
                self._stat(parent)
            with self._lock:
                self._parents[key] = parent
            parent = None
        try:
            mounts = self._prepare(key, parent)
        except TargetExists:
            if self._is_committed(key):
                raise
            self.remove(key)
            mounts = self._prepare(key, parent)
        return self._directory(key, mounts, "upperdir=")

    def commit(self, name: str, key: str, labels: Labels) -> bool:
        """Turn the active snapshot ``key`` into the committed ``name``; False if there is one (``key`` is then removed)."""
        with self._lock:
            parent = self._parents.pop(key, None)
        if parent is not None:
            # containerd before 2.2 does not take a parent here; the label keeps it from being collected all the same.
            labels = {**labels, f"containerd.io/gc.ref.snapshot.{self.name}": parent}
        request = api.CommitSnapshotRequest(snapshotter=self.name, name=name, key=key, labels=labels, parent=parent)
        try:
            with self._leases.current() as lease:
                # It adds up the sizes of all files before it answers.
                self._connection.call(
                    _COMMIT, request, f"snapshot {key}", lease=lease.id if lease else None, timeout=rpc.LONG_TIMEOUT
                )
        except TargetExists:
            self.stat(name)
            self.remove(key)
            return False
        return True

    def directory(self, name: str) -> Path:
        """Return the directory that holds a committed snapshot's own files, for reading only. Raises TargetNotFound."""
        # Without a lease: one that is left behind by a kill is collected.
        key = f"transship-view-{name}-{secrets.token_hex(8)}"
        request = api.ViewSnapshotRequest(snapshotter=self.name, key=key, parent=name)
        mounts = _made(lambda: self._connection.call(_VIEW, request, f"snapshot {name}").mounts)
        self._remove(key)
        return self._directory(name, mounts, "lowerdir=")

    def remove(self, key: str) -> None:
        """Remove a snapshot; one that is not there is success. Raises TargetRefused while it has children."""
        with self._leases.current() as lease:
            self._remove(key, lease.id if lease else None)
        self._leases.forget(self._resource(key))

    def _resource(self, key: str) -> Resource:
        return Resource(f"snapshots/{self.name}", key)

    def _stat(self, name: str) -> SnapshotInfo:
        request = api.StatSnapshotRequest(snapshotter=self.name, key=name)
        return _info(self._connection.call(_STAT, request, f"snapshot {name}").info)

    def _prepare(self, key: str, parent: str | None) -> Sequence[Mount]:
        request = api.PrepareSnapshotRequest(snapshotter=self.name, key=key, parent=parent)
        with self._leases.current() as lease:
            holder = lease.id if lease else None
            return _made(lambda: self._connection.call(_PREPARE, request, f"snapshot {key}", lease=holder).mounts)

    def _is_committed(self, key: str) -> bool:
        try:
            return self._stat(key).kind is SnapshotKind.COMMITTED
        except TargetNotFound:  # containerd was killed while it committed this one: the key is left, and nothing by it
            return False

    def _remove(self, key: str, lease: str | None = None) -> None:
        request = api.RemoveSnapshotRequest(snapshotter=self.name, key=key)
        try:
            self._connection.call(_REMOVE, request, f"snapshot {key}", lease=lease)
        except TargetNotFound:
            return

    def _directory(self, name: str, mounts: Sequence[Mount], option: str) -> Path:
        if len(mounts) == 1 and mounts[0].type == "bind":
            return Path(mounts[0].source)
        if len(mounts) == 1 and mounts[0].type == "overlay":
            for text in mounts[0].options:
                if text.startswith(option):
                    return Path(text.removeprefix(option).partition(":")[0])
        types = ", ".join(mount.type for mount in mounts)
        raise TargetRefused(f"snapshot {name}: {self.name} mounts it in a way not known here ({types})")


def _made(make: Callable[[], Sequence[Mount]]) -> Sequence[Mount]:
    """Call ``make``, a call to containerd that makes a snapshot, until no leftover is in its way; return what it returns.

    When containerd is killed, or the power fails, while it makes a snapshot, a directory may stay behind of which it knows
    nothing. The next snapshot gets the same number and fails because of it; but then containerd removes that directory.
    """
    for _ in range(_MOST_LEFTOVERS):
        try:
            return make()
        except TargetRefused as error:
            if "failed to rename" not in error.message or "file exists" not in error.message:
                raise
    return make()


def _info(info: api.Info) -> SnapshotInfo:
    return SnapshotInfo(info.name, _KINDS[info.kind], info.parent or None, dict(info.labels))
