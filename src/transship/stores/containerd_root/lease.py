"""Leases: what a run makes, and finds, is kept for it, until it ends or a day has passed.

A run that is never brought to its end is no burden so: containerd, once it runs, collects what the run has left.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from transship.stores.containerd_db import metadata, objects

if TYPE_CHECKING:
    from transship.formats.bolt.draft import Draft
    from transship.stores.containerd_db.metadata import Namespace

LIFETIME = timedelta(hours=24)
_WAITING = "transship-waiting"
"""The lease of what names pointed at that are removed, until it is seen whether anything else refers to it."""
_RUN_LABEL = "transship.run"
_EXPIRE_LABEL = "containerd.io/gc.expire"

Resource = tuple[str, str]
"""What a lease keeps: kind (``content``, ``snapshots/<snapshotter>``) and name."""


class Lease:
    """The lease of the run that is under way, if any. Called while the databases are to be changed."""

    def __init__(self) -> None:
        self._name: str | None = None

    @property
    def held(self) -> bool:
        """Whether a run is under way."""
        return self._name is not None

    def hold(self, namespace: Namespace, run: str) -> None:
        """Keep what is used from now on for ``run``, for a day; what it kept before stays kept."""
        names = runs_leases(namespace, run)
        name = names[-1] if names else f"transship-{run}-1"
        _renewed(namespace, name, {_RUN_LABEL: run})
        self._name = name

    def keep(self, namespace: Namespace, resource: Resource) -> None:
        """Keep something for the run that is under way, if any."""
        record = self._record(namespace)
        if record is not None:
            metadata.hold(record, *resource)

    def forget(self, namespace: Namespace, resource: Resource) -> None:
        """Keep something no longer, which is removed."""
        record = self._record(namespace)
        if record is not None:
            metadata.let_go(record, *resource)

    def release(self, namespace: Namespace, run: str) -> set[Resource]:
        """Remove the leases of ``run``; return what they kept."""
        self._name = None
        return {resource for name in runs_leases(namespace, run) for resource in _ended(namespace, name)}

    def _record(self, namespace: Namespace) -> Draft | None:
        return namespace.lease(self._name) if self._name is not None else None


def runs_leases(namespace: Namespace, run: str) -> list[str]:
    """Return the IDs of the leases of ``run``."""
    return [name for name, record in namespace.leases() if objects.labels(record).get(_RUN_LABEL) == run]


def have_wait(namespace: Namespace, resource: Resource) -> None:
    """Take note of something that a name has pointed at which is removed."""
    metadata.hold(_renewed(namespace, _WAITING, {}), *resource)


def waiting(namespace: Namespace) -> set[Resource]:
    """Return what such names pointed at, which nothing keeps any more on their account."""
    return _ended(namespace, _WAITING)


def _renewed(namespace: Namespace, name: str, labels: dict[str, str]) -> Draft:
    """Return the lease of that name, made if it is not there, which ends in a day."""
    record = namespace.lease(name) or namespace.add_lease(name, {})
    expiry = (datetime.now(UTC) + LIFETIME).strftime("%Y-%m-%dT%H:%M:%SZ")
    objects.set_labels(record, {**labels, _EXPIRE_LABEL: expiry})
    return record


def _ended(namespace: Namespace, name: str) -> set[Resource]:
    """Remove a lease; return what it kept."""
    record = namespace.lease(name)
    kept = set(metadata.held_by(record)) if record is not None else set()
    namespace.remove_lease(name)
    return kept
