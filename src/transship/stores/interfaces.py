"""What a store must do to be written to, whatever it is made of.

A blob's life: ``writer(ref)`` starts an *ingest*, bytes are written to it, ``commit`` turns it into immutable *content*
under its digest; ``abort`` throws it away. A snapshot's life: ``prepare`` makes an *active* snapshot, whose directory is
filled, ``commit`` turns it into an immutable *committed* one under another name. An image is a name for a manifest.

All methods block and are called from worker threads; all are safe to call from several threads at once. "Stored" means that
the content is there, not that this call put it there: the calls that create return whether they did.

Errors: ``TargetNotFound`` (nothing of that name), ``TargetExists`` (where a call cannot treat that as success),
``TargetUnavailable`` and ``TargetFull`` (end the run), ``TargetRefused`` (everything else). Nothing else escapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from transship.formats.digest import Digest

Labels = Mapping[str, str]


@dataclass(frozen=True)
class ContentInfo:
    """A stored blob: its digest, its size in bytes, its labels."""

    digest: Digest
    size: int
    labels: Labels = field(default_factory=dict)


class ContentWriter(Protocol):
    """One ingest. Leaving the ``with`` block without ``commit`` aborts it and leaves nothing behind."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def write(self, data: bytes) -> None:
        """Append ``data``, of any length."""
        ...

    def commit(self, digest: Digest, size: int, labels: Labels) -> bool:
        """Verify what was written against ``digest`` and ``size`` (bytes) and store it, durably, with ``labels``.

        Returns True if this call stored it; False if it was there already, in which case ``labels`` are added to it and it
        is protected from garbage collection like the rest. Raises TargetRefused if digest or size differ.
        """
        ...


class ContentStore(Protocol):
    """Immutable blobs by digest."""

    def info(self, digest: Digest) -> ContentInfo:
        """Describe a stored blob. Raises TargetNotFound."""
        ...

    def list(self) -> Iterator[ContentInfo]:
        """Yield every stored blob, in no particular order."""
        ...

    def writer(self, ref: str) -> ContentWriter:
        """Start the ingest called ``ref``. A stale ingest of that name is aborted first, never appended to."""
        ...

    def read(self, digest: Digest) -> Iterator[bytes]:
        """Yield the blob's bytes in chunks of at most about 1 MiB. Raises TargetNotFound before the first chunk and
        TargetRefused after the last if digest or size do not match what was read.
        """
        ...

    def add_labels(self, digest: Digest, labels: Labels) -> None:
        """Set ``labels`` on a stored blob, keep its others. Raises TargetNotFound."""
        ...


class SnapshotKind(Enum):
    """The states of a snapshot."""

    ACTIVE = "active"
    COMMITTED = "committed"
    VIEW = "view"


@dataclass(frozen=True)
class SnapshotInfo:
    """A snapshot: its name (key, if active), its parent's name or None, its labels."""

    name: str
    kind: SnapshotKind
    parent: str | None = None
    labels: Labels = field(default_factory=dict)


class TreeForm(Enum):
    """What a snapshotter's (or graph driver's) directory holds."""

    DIFF = "diff"
    """Only what the layer changed, in overlayfs form: whiteouts are character devices 0/0, opaque directories have an xattr."""
    FULL = "full"
    """The whole tree, parents' files included."""


class Snapshotter(Protocol):
    """Directory trees, stacked."""

    name: str
    form: TreeForm

    def stat(self, name: str) -> SnapshotInfo:
        """Describe a snapshot. Raises TargetNotFound."""
        ...

    def list(self) -> Iterator[SnapshotInfo]:
        """Yield every snapshot."""
        ...

    def prepare(self, key: str, parent: str | None) -> Path:
        """Make an active snapshot and return the empty directory to fill. Raises TargetExists, TargetNotFound (parent)."""
        ...

    def commit(self, name: str, key: str, labels: Labels) -> bool:
        """Turn the active snapshot ``key`` into the committed ``name``, durably. The caller has made its files durable.

        Returns False if ``name`` exists already (``key`` is then removed).
        """
        ...

    def directory(self, name: str) -> Path:
        """Return the directory that holds a committed snapshot's own files, for reading only. Raises TargetNotFound."""
        ...

    def remove(self, key: str) -> None:
        """Remove a snapshot; one that is not there is success. Raises TargetRefused while it has children."""
        ...


@dataclass(frozen=True)
class ImageDescriptor:
    """What an image name points at (OCI image-spec ``descriptor.md``); ``size`` in bytes."""

    media_type: str
    digest: Digest
    size: int


@dataclass(frozen=True)
class ImageRecord:
    """An image name and what it points at."""

    name: str
    target: ImageDescriptor
    labels: Labels = field(default_factory=dict)


class ImageStore(Protocol):
    """Names of manifests."""

    def get(self, name: str) -> ImageRecord:
        """Look a name up. Raises TargetNotFound."""
        ...

    def list(self) -> Iterator[ImageRecord]:
        """Yield every record."""
        ...

    def put(self, record: ImageRecord) -> None:
        """Create the name, or point it at the record's target and labels if it exists, durably."""
        ...

    def delete(self, name: str) -> None:
        """Remove a name; one that is not there is success. What it pointed at stays until ``Target.collect``."""
        ...


class Target(Protocol):
    """A store that images are moved to."""

    content: ContentStore
    images: ImageStore
    snapshots: Snapshotter | None
    """None where a store keeps no unpacked trees (an OCI image layout)."""

    def open(self) -> None:
        """Make ready and check that it can be used. Raises TargetUnavailable, TargetRefused."""
        ...

    def close(self) -> None:
        """Let go of connections. What is stored stays."""
        ...

    def hold(self, run: str) -> None:
        """Protect from garbage collection, under the run's name, all that is stored until ``release``; resumes an
        earlier hold of that name with what it protects. Called again while a run lasts, it extends the protection.
        """
        ...

    def release(self, run: str) -> None:
        """End the protection and collect, before returning, what nothing refers to. No hold of that name is success."""
        ...

    def collect(self, digests: frozenset[Digest], snapshots: frozenset[str]) -> None:
        """Remove, before returning, those of the blobs and snapshots named that no image and no lease refers to."""
        ...

    def durable(self) -> None:
        """Return when all that was stored before the call would survive a power cut."""
        ...

    def file_systems(self) -> Mapping[str, Path]:
        """Where bytes will land, for free-space estimates: ``content`` and, if there are snapshots, ``snapshots``."""
        ...
