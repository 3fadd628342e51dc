"""Leases as BuildKit makes them, one for each record. Source: BuildKit ``cache/migrate_v2.go``, ``util/leaseutil``."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from transship.stores.containerd_db import metadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transship.formats.bolt.draft import Draft
    from transship.stores.buildkit.holder import Lease

NAMESPACE = "buildkit"
"""The namespace of all that BuildKit has in databases of its own."""
FLAT = "containerd.io/gc.flat"
"""The label of a lease that holds what it names, not what that refers to."""
_NANOSECONDS = 1_000_000_000


def moment() -> str:
    """Return the time, as Go writes it with ``time.RFC3339Nano``."""
    seconds, rest = divmod(time.time_ns(), _NANOSECONDS)
    fraction = f".{rest:09}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"


def add_leases(root: Draft, leases: Sequence[Lease]) -> None:
    """Make leases in the ``containerdmeta.db`` that is drafted in ``root``; those that are there get what they lack."""
    namespace = metadata.Namespace(root, NAMESPACE)
    for lease in leases:
        place = namespace.lease(lease.id)
        if place is None:
            place = namespace.add_lease(lease.id, {FLAT: moment()})
        for kind, name in lease.resources:
            metadata.hold(place, kind, name)
