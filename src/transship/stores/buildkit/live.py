"""A containerd that runs and holds what the cache of a containerd worker has.

Source: containerd ``api/services/{leases,snapshots,content}/v1``; BuildKit ``worker/containerd/containerd.go``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

from transship.errors import SourceUnsupported, TargetExists, TargetNotFound
from transship.stores.buildkit.holder import CONTENT, Snapshot
from transship.stores.buildkit.leasing import FLAT, moment
from transship.stores.buildkit.places import CONTAINERD
from transship.stores.containerd import rpc
from transship.stores.containerd.api import content_pb2, leases_pb2, snapshots_pb2
from transship.stores.containerd_db.objects import GC_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from transship.stores.buildkit.holder import Lease
    from transship.stores.buildkit.places import Cache

_LEASES = leases_pb2.DESCRIPTOR.services_by_name["Leases"]
_CREATE = rpc.method(_LEASES, "Create", leases_pb2.CreateRequest, leases_pb2.CreateResponse)
_DELETE = rpc.method(_LEASES, "Delete", leases_pb2.DeleteRequest, Empty)
_LEASE_LIST = rpc.method(_LEASES, "List", leases_pb2.ListRequest, leases_pb2.ListResponse)
_ADD = rpc.method(_LEASES, "AddResource", leases_pb2.AddResourceRequest, Empty)
_TAKE = rpc.method(_LEASES, "DeleteResource", leases_pb2.DeleteResourceRequest, Empty)
_RESOURCES = rpc.method(_LEASES, "ListResources", leases_pb2.ListResourcesRequest, leases_pb2.ListResourcesResponse)
_SNAPSHOTS = snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"]
_STAT = rpc.method(_SNAPSHOTS, "Stat", snapshots_pb2.StatSnapshotRequest, snapshots_pb2.StatSnapshotResponse)
_UPDATE = rpc.method(_SNAPSHOTS, "Update", snapshots_pb2.UpdateSnapshotRequest, snapshots_pb2.UpdateSnapshotResponse)
_SNAPSHOT_LIST = rpc.method(_SNAPSHOTS, "List", snapshots_pb2.ListSnapshotsRequest, snapshots_pb2.ListSnapshotsResponse)
_CONTENT = content_pb2.DESCRIPTOR.services_by_name["Content"]
_INFO = rpc.method(_CONTENT, "Info", content_pb2.InfoRequest, content_pb2.InfoResponse)
_RELABEL = rpc.method(_CONTENT, "Update", content_pb2.UpdateRequest, content_pb2.UpdateResponse)
_MASK = FieldMask(paths=[f"labels.{GC_ROOT}"])


class _Made(msgspec.Struct, frozen=True, tag="lease"):
    """A lease that is made. ``flat`` is its label's value, by which it is known again."""

    lease: str
    flat: str


class _Held(msgspec.Struct, frozen=True, tag="resource"):
    """What a lease is to hold."""

    lease: str
    kind: str
    name: str


class _Unrooted(msgspec.Struct, frozen=True, tag="label"):
    """A snapshot or blob that loses its label, whose value is ``before``."""

    kind: str
    name: str
    before: str


_Change: TypeAlias = _Made | _Held | _Unrooted


class _Labelled(Protocol):
    @property
    def labels(self) -> Mapping[str, str]: ...


class LiveHolder:
    """One namespace of a containerd, as ``Holder``. What is taken back is as it was but for times at which things changed."""

    def __init__(self, cache: Cache, socket: Path, namespace: str) -> None:
        """Connects. Raises SourceUnsupported, TargetUnavailable, TargetRefused."""
        directory = cache.place.resolve().name
        if not directory.startswith(CONTAINERD):
            raise SourceUnsupported(
                f"{cache.place}: its name does not say which snapshotter it belongs to",
                remedy=f"call it as BuildKit does, {CONTAINERD}<snapshotter>",
            )
        self.snapshotter = directory.removeprefix(CONTAINERD)
        self._connection = rpc.Connection(socket, namespace)
        try:
            self._connection.open()
        except BaseException:
            self._connection.close()
            raise

    def snapshot(self, name: str) -> Snapshot | None:
        """Describe a snapshot."""
        info = self._snapshot(name)
        return None if info is None else Snapshot(info.parent or None, committed=info.kind == snapshots_pb2.COMMITTED)

    def has_blob(self, digest: str) -> bool:
        """Tell whether a blob is recorded."""
        return self._blob(digest) is not None

    def lease(self, leases: Sequence[Lease]) -> bytes:
        """Work out which leases to make or to add to."""
        answer = self._connection.call(_LEASE_LIST, leases_pb2.ListRequest(), "list of leases")
        there = {lease.id for lease in answer.leases}
        changes: list[_Change] = []
        for lease in leases:
            held = self._held_by(lease.id) if lease.id in there else None
            if held is None:
                changes.append(_Made(lease.id, moment()))
            changes += (_Held(lease.id, kind, name) for kind, name in lease.resources if (kind, name) not in (held or ()))
        return _encoded(changes)

    def unroot(self, snapshots: Sequence[str], blobs: Sequence[str]) -> bytes:
        """Work out which snapshots, views and blobs lose their label."""
        names = [(CONTENT, digest) for digest in dict.fromkeys(blobs)]
        names += [(f"snapshots/{self.snapshotter}", name) for name in dict.fromkeys([*snapshots, *self._views()])]
        labels = [(kind, name, self._root_of(kind, name)) for kind, name in names]
        return _encoded([_Unrooted(kind, name, label) for kind, name, label in labels if label])

    def apply(self, changes: bytes) -> None:
        """Make changes, one after the other."""
        for change in _decoded(changes):
            match change:
                case _Made():
                    self._make(change)
                case _Held():
                    self._hold(change)
                case _Unrooted():
                    if self._root_of(change.kind, change.name) == change.before:
                        self._relabel(change, "")

    def revert(self, changes: bytes) -> bool:
        """Take changes back, the last one first."""
        whole = True
        for change in reversed(_decoded(changes)):
            match change:
                case _Made():
                    whole &= self._unmake(change)
                case _Held():
                    self._let_go(change)
                case _Unrooted():
                    label = self._root_of(change.kind, change.name)
                    if label == "":
                        self._relabel(change, change.before)
                    whole &= label in {"", change.before}
        return whole

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def _make(self, change: _Made) -> None:
        request = leases_pb2.CreateRequest(id=change.lease, labels={FLAT: change.flat})
        try:
            self._connection.call(_CREATE, request, f"lease {change.lease}")
        except TargetExists:
            return

    def _unmake(self, change: _Made) -> bool:
        """Delete a lease, if it is the one that was made, and holds nothing that others have given to it."""
        answer = self._connection.call(_LEASE_LIST, leases_pb2.ListRequest(filters=[_by_id(change.lease)]), "list of leases")
        for lease in answer.leases:
            if lease.labels.get(FLAT) != change.flat or self._held_by(change.lease):
                return False
            self._connection.call(_DELETE, leases_pb2.DeleteRequest(id=change.lease), f"lease {change.lease}")
        return True

    def _hold(self, change: _Held) -> None:
        resource = leases_pb2.Resource(id=change.name, type=change.kind)
        request = leases_pb2.AddResourceRequest(id=change.lease, resource=resource)
        self._connection.call(_ADD, request, f"lease {change.lease} of {change.name}")

    def _let_go(self, change: _Held) -> None:
        resource = leases_pb2.Resource(id=change.name, type=change.kind)
        request = leases_pb2.DeleteResourceRequest(id=change.lease, resource=resource)
        try:
            self._connection.call(_TAKE, request, f"lease {change.lease} of {change.name}")
        except TargetNotFound:
            return

    def _held_by(self, lease: str) -> set[tuple[str, str]] | None:
        try:
            answer = self._connection.call(_RESOURCES, leases_pb2.ListResourcesRequest(id=lease), f"lease {lease}")
        except TargetNotFound:
            return None
        return {(resource.type, resource.id) for resource in answer.resources}

    def _root_of(self, kind: str, name: str) -> str | None:
        """Return the label that keeps something for its own sake; the empty text without it, None if the thing is gone."""
        info: _Labelled | None = self._blob(name) if kind == CONTENT else self._snapshot(name)
        return None if info is None else info.labels.get(GC_ROOT, "")

    def _relabel(self, change: _Unrooted, label: str) -> None:
        about = f"{change.kind} {change.name}"
        labels = {GC_ROOT: label}  # containerd removes a label without value
        try:
            if change.kind == CONTENT:
                blob = content_pb2.Info(digest=change.name, labels=labels)
                self._connection.call(_RELABEL, content_pb2.UpdateRequest(info=blob, update_mask=_MASK), about)
            else:
                snapshot = snapshots_pb2.Info(name=change.name, labels=labels)
                request = snapshots_pb2.UpdateSnapshotRequest(snapshotter=self.snapshotter, info=snapshot, update_mask=_MASK)
                self._connection.call(_UPDATE, request, about)
        except TargetNotFound:
            return  # collected meanwhile

    def _snapshot(self, name: str) -> snapshots_pb2.Info | None:
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=self.snapshotter, key=name)
        try:
            return self._connection.call(_STAT, request, f"snapshot {name}").info
        except TargetNotFound:
            return None

    def _blob(self, digest: str) -> content_pb2.Info | None:
        try:
            return self._connection.call(_INFO, content_pb2.InfoRequest(digest=digest), f"blob {digest}").info
        except TargetNotFound:
            return None

    def _views(self) -> Iterator[str]:
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=self.snapshotter)
        for answer in self._connection.stream(_SNAPSHOT_LIST, request, f"list of {self.snapshotter} snapshots"):
            yield from (info.name for info in answer.info if info.kind == snapshots_pb2.VIEW)


def _by_id(lease: str) -> str:
    return f"id=={msgspec.json.encode(lease).decode()}"


def _encoded(changes: Sequence[_Change]) -> bytes:
    return msgspec.json.encode(changes) if changes else b""


def _decoded(changes: bytes) -> list[_Change]:
    return msgspec.json.decode(changes, type=list[_Change]) if changes else []
