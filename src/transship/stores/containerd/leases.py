"""Protection from containerd's garbage collector, for as long as a run lasts.

A lease is a named set of resources that are kept (containerd ``docs/garbage-collection.md``). A run's lease ends by itself a
day after it was made, so that a run that never comes back does not fill the disk for ever. containerd cannot extend a lease:
a new one takes over, and the old one goes when the last call that carries it has ended.
"""

from __future__ import annotations

import secrets
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty

from transship.errors import TargetNotFound
from transship.stores.containerd import rpc
from transship.stores.containerd.api import leases_pb2 as api

if TYPE_CHECKING:
    from collections.abc import Iterator

_SERVICE = api.DESCRIPTOR.services_by_name["Leases"]
_CREATE = rpc.method(_SERVICE, "Create", api.CreateRequest, api.CreateResponse)
_DELETE = rpc.method(_SERVICE, "Delete", api.DeleteRequest, Empty)
_LIST = rpc.method(_SERVICE, "List", api.ListRequest, api.ListResponse)
_ADD = rpc.method(_SERVICE, "AddResource", api.AddResourceRequest, Empty)
_RESOURCES = rpc.method(_SERVICE, "ListResources", api.ListResourcesRequest, api.ListResourcesResponse)

LIFETIME = timedelta(hours=24)
_RUN_LABEL = "transship.run"
_EXPIRE_LABEL = "containerd.io/gc.expire"


@dataclass(frozen=True)
class Resource:
    """What a lease can keep: ``kind`` is ``content``, ``ingests`` or ``snapshots/<snapshotter>``, ``name`` its key there."""

    kind: str
    name: str


@dataclass
class Lease:
    """A lease, how many calls under way carry it, and some of what it is known to keep."""

    id: str
    users: int = 0
    kept: set[Resource] = field(default_factory=set)


class Leases:
    """The lease of the run that is under way, if any. Safe to use from several threads."""

    def __init__(self, connection: rpc.Connection) -> None:
        self._connection = connection
        self._turn = threading.Lock()  # one change of lease at a time
        self._lock = threading.Lock()  # guards what follows; never held during a call
        self._current: Lease | None = None
        self._in_use: dict[str, Lease] = {}

    @contextmanager
    def current(self) -> Iterator[Lease | None]:
        """Give the lease for calls to carry inside the ``with`` block, or None; it stays valid until the block ends."""
        with self._lock:
            lease = self._current
            if lease is not None:
                lease.users += 1
                self._in_use[lease.id] = lease
        try:
            yield lease
        finally:
            if lease is not None:
                with self._lock:
                    lease.users -= 1
                    if lease.users == 0:
                        del self._in_use[lease.id]

    def keep(self, resource: Resource) -> bool:
        """Have the current lease keep ``resource``. Returns False if there is no lease, or it is known to keep it."""
        with self.current() as lease:
            if lease is None or resource in lease.kept:
                return False
            self._add(lease, resource)
            return True

    def forget(self, resource: Resource) -> None:
        """Take note that ``resource`` was removed."""
        with self._lock:
            if self._current is not None:
                self._current.kept.discard(resource)

    def hold(self, run: str) -> None:
        """Make a fresh lease for ``run`` the current one; it takes over what earlier leases of that run keep.

        Writes under way go on with the lease that they began with. It lasts until the hold after they ended, so hold again
        several times within ``LIFETIME``.
        """
        with self._turn:
            earlier = self._of_run(run)
            number = max((_number(run, name) for name in earlier), default=0) + 1
            lease = Lease(f"transship-{run}-{number}")
            self._create(lease.id, {_RUN_LABEL: run}, LIFETIME)
            with self._lock:
                self._current = lease
            for name in earlier:
                self._take_over(name, lease)

    def release(self, run: str) -> None:
        """Delete all leases of ``run`` and return when containerd has collected what nothing refers to any more."""
        with self._turn:
            with self._lock:
                self._current = None
            names = self._of_run(run)
            for name in names[:-1]:
                self._delete(name)
            for name in names[-1:]:
                self._delete(name, collect=True)

    def collect(self) -> None:
        """Return when containerd has collected what nothing refers to."""
        name = f"transship-collect-{secrets.token_hex(8)}"
        self._create(name, {}, timedelta(hours=1))
        self._delete(name, collect=True)  # the only way to have it collect now

    def _take_over(self, earlier: str, lease: Lease) -> None:
        with self._lock:
            idle = earlier not in self._in_use  # asked first: nothing is added to an idle one while it is copied
        try:
            answer = self._connection.call(_RESOURCES, api.ListResourcesRequest(id=earlier), f"lease {earlier}")
        except TargetNotFound:
            return  # it expired
        for resource in answer.resources:
            self._add(lease, Resource(resource.type, resource.id))
        if idle:
            self._delete(earlier)

    def _add(self, lease: Lease, resource: Resource) -> None:
        request = api.AddResourceRequest(id=lease.id, resource=api.Resource(type=resource.kind, id=resource.name))
        self._connection.call(_ADD, request, f"lease {lease.id} of {resource.kind} {resource.name}")
        lease.kept.add(resource)

    def _of_run(self, run: str) -> list[str]:
        """Return the IDs of the leases of ``run``, oldest first."""
        answer = self._connection.call(_LIST, api.ListRequest(), f"leases of run {run}")
        names = [lease.id for lease in answer.leases if lease.labels.get(_RUN_LABEL) == run]
        return sorted(names, key=lambda name: _number(run, name))

    def _create(self, name: str, labels: dict[str, str], lifetime: timedelta) -> None:
        expiry = (datetime.now(UTC) + lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        request = api.CreateRequest(id=name, labels={**labels, _EXPIRE_LABEL: expiry})
        self._connection.call(_CREATE, request, f"lease {name}")

    def _delete(self, name: str, *, collect: bool = False) -> None:
        timeout = rpc.LONG_TIMEOUT if collect else rpc.TIMEOUT
        try:
            self._connection.call(_DELETE, api.DeleteRequest(id=name, sync=collect), f"lease {name}", timeout=timeout)
        except TargetNotFound:
            return  # it expired, and was collected with all it kept


def _number(run: str, name: str) -> int:
    text = name.removeprefix(f"transship-{run}-")
    return int(text) if text.isascii() and text.isdigit() else 0
