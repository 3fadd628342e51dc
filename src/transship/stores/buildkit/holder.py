"""What holds a cache's snapshots and blobs, and keeps them from being collected: the same for BuildKit and for Docker.

BuildKit 0.6 and older mark what is to be kept with the label ``containerd.io/gc.root``, newer ones have a lease for each record
(containerd ``docs/garbage-collection.md``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTENT = "content"
"""The kind of blobs, among what a lease holds."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot: the name of the one that it stands on, and whether it is ``committed``, hence not changed any more."""

    parent: str | None
    committed: bool


@dataclass(frozen=True)
class Lease:
    """What is to be kept under the name ``id``: kinds (``snapshots/<snapshotter>``, ``content``) and names."""

    id: str
    resources: tuple[tuple[str, str], ...]


class Holder(Protocol):
    """One that holds snapshots and blobs. Used by one thread at a time.

    ``lease`` and ``unroot`` write nothing. They work out changes, which are bytes that another holder of the same cache
    understands, later too; no bytes if there is nothing to change. Raises SourceBusy while another program has the cache open,
    SourceError, SourceCorrupt for what cannot be read, TargetError for what cannot be written.
    """

    @property
    def snapshotter(self) -> str:
        """The name of what makes snapshots: ``overlayfs``, ``native``, …; ``default`` for Docker's graph driver."""
        ...

    def snapshot(self, name: str) -> Snapshot | None:
        """Describe a snapshot, None if it is not there."""
        ...

    def has_blob(self, digest: str) -> bool:
        """Tell whether a blob is recorded; not whether its file is there."""
        ...

    def lease(self, leases: Sequence[Lease]) -> bytes:
        """Work out what is lacking: leases are made if they are not there, and get what they lack if they are."""
        ...

    def unroot(self, snapshots: Sequence[str], blobs: Sequence[str]) -> bytes:
        """Work out which of these lose the label that keeps them for their own sake; so does every view, whose it was."""
        ...

    def apply(self, changes: bytes) -> None:
        """Make changes; they are durable when this returns. What was made before, or has become something else, stays."""
        ...

    def revert(self, changes: bytes) -> bool:
        """Take changes back. Return False if some was left, since it has become something else."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...
