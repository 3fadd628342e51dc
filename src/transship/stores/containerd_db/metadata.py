"""``meta.db``: what containerd knows of one namespace.

Source: containerd ``metadata/buckets.go`` (which describes it), ``metadata/{db,content,images,leases,snapshot}.go``. Version 3
is that of containerd 1.2 to 1.7; containerd 2 reads it, and makes it version 4, where sandboxes are among a namespace's objects
rather than in a bucket of the namespace's name beside ``v1`` (``migrations.go``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.formats import go_binary
from transship.stores.containerd_db import objects
from transship.stores.containerd_db.objects import decoded, encoded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transship.formats.bolt.draft import Draft

_VERSION, _LATEST_VERSION = 3, 4
_SCHEMA = b"v1"
_BLOBS, _INGESTS = (b"content", b"blob"), (b"content", b"ingests")
_IMAGES, _LEASES, _SNAPSHOTS = b"images", b"leases", b"snapshots"
_NAME, _PARENT, _CHILDREN, _SIZE = b"name", b"parent", b"children", b"size"


@dataclass(frozen=True)
class ImageTarget:
    """What an image name points at; ``size`` in bytes."""

    media_type: str
    digest: str
    size: int


def mark_version(root: Draft) -> None:
    """Write the schema's version into a database that is new."""
    place = root.made(_SCHEMA)
    if place.value(b"version") is None:
        place.put(b"version", go_binary.varint(_VERSION))


def check_version(root: Draft) -> None:
    """Return if the database is of a version known here, or new. Raises ValueError."""
    place = root.bucket(_SCHEMA)
    if place is None and next(root.keys(), None) is None:
        return
    written = place.value(b"version") if place is not None else None
    version = go_binary.read_varint(written) if written is not None else 0
    if not _VERSION <= version <= _LATEST_VERSION:
        raise ValueError(f"version {version} of meta.db, of which {_VERSION} and {_LATEST_VERSION} are known")


def namespaces(root: Draft) -> list[str]:
    """Return the names of the namespaces in a ``meta.db``."""
    place = root.bucket(_SCHEMA)
    return [decoded(name) for name, _ in place.buckets()] if place is not None else []


class Namespace:
    """The namespace ``name`` in the ``meta.db`` that is drafted in ``root``.

    Objects are handed out as their buckets. Raises Damage, and ValueError for what containerd would not have written.
    """

    def __init__(self, root: Draft, name: str) -> None:
        self.name = name
        self._root = root
        self._path = (_SCHEMA, encoded(name))

    def blob(self, digest: str) -> Draft | None:
        """Return the record of a blob."""
        return self._root.bucket(*self._path, *_BLOBS, encoded(digest))

    def blobs(self) -> Iterator[tuple[str, Draft]]:
        """Yield digests and records of all blobs."""
        return self._all(*_BLOBS)

    def add_blob(self, digest: str, size: int, labels: Mapping[str, str]) -> None:
        """Record a blob of ``size`` bytes that was not recorded."""
        record = self._root.made(*self._path, *_BLOBS, encoded(digest))
        record.put(_SIZE, go_binary.varint(size))
        objects.mark_created(record)
        objects.set_labels(record, labels)

    def remove_blob(self, digest: str) -> None:
        """Remove a blob's record."""
        self._remove(*_BLOBS, name=digest)

    def digests(self) -> Iterator[str]:
        """Yield the digests of all blobs. Takes no memory for each."""
        place = self._root.bucket(*self._path, *_BLOBS)
        return (decoded(key) for key in place.keys()) if place is not None else iter(())  # noqa: SIM118

    def ingests(self) -> Iterator[tuple[str, Draft]]:
        """Yield references and records of all blobs on their way in."""
        return self._all(*_INGESTS)

    def image(self, name: str) -> Draft | None:
        """Return the record of an image."""
        return self._root.bucket(*self._path, _IMAGES, encoded(name))

    def images(self) -> Iterator[tuple[str, Draft]]:
        """Yield names and records of all images."""
        return self._all(_IMAGES)

    def put_image(self, name: str, target: ImageTarget, labels: Mapping[str, str]) -> None:
        """Make a name, or point it at something else."""
        record = self.image(name)
        if record is None:
            record = self._root.made(*self._path, _IMAGES, encoded(name))
            objects.mark_created(record)
        else:
            objects.mark_updated(record)
        objects.set_labels(record, labels)
        record.delete(b"annotations")
        place = record.made(b"target")
        place.put(b"digest", encoded(target.digest))
        place.put(b"mediatype", encoded(target.media_type))
        place.put(_SIZE, go_binary.varint(target.size))

    def remove_image(self, name: str) -> None:
        """Remove a name."""
        self._remove(_IMAGES, name=name)

    def snapshot(self, snapshotter: str, name: str) -> Draft | None:
        """Return the record of a snapshot."""
        return self._root.bucket(*self._path, _SNAPSHOTS, encoded(snapshotter), encoded(name))

    def snapshots(self, snapshotter: str) -> Iterator[tuple[str, Draft]]:
        """Yield names and records of all snapshots."""
        return self._all(_SNAPSHOTS, encoded(snapshotter))

    def add_snapshot(self, snapshotter: str, name: str, parent: str | None, labels: Mapping[str, str]) -> str:
        """Record a snapshot that was not recorded; return the key that the snapshotter is to know it by."""
        place = self._root.made(*self._path, _SNAPSHOTS, encoded(snapshotter))
        key = f"{self.name}/{place.next_sequence()}/{name}"
        record = place.made(encoded(name))
        record.put(_NAME, encoded(key))
        objects.mark_created(record)
        objects.set_labels(record, labels)
        if parent is not None:
            record.put(_PARENT, encoded(parent))
            place.made(encoded(parent), _CHILDREN).put(encoded(name), b"")
        return key

    def commit_snapshot(self, snapshotter: str, name: str, record_of: str, labels: Mapping[str, str]) -> str:
        """Make the active snapshot ``record_of`` the committed ``name``; return the snapshotter's key of it."""
        active = self.snapshot(snapshotter, record_of)
        if active is None:
            raise ValueError(f"no snapshot {record_of}")
        parent = parent_of(active)
        self.remove_snapshot(snapshotter, record_of)
        return self.add_snapshot(snapshotter, name, parent, labels)

    def remove_snapshot(self, snapshotter: str, name: str) -> None:
        """Remove the record of a snapshot that has no children."""
        record = self.snapshot(snapshotter, name)
        above = parent_of(record) if record is not None else None
        self._remove(_SNAPSHOTS, encoded(snapshotter), name=name)
        siblings = self.snapshot(snapshotter, above) if above is not None else None
        children = siblings.bucket(_CHILDREN) if siblings is not None else None
        if children is not None:
            children.delete(encoded(name))

    def lease(self, identifier: str) -> Draft | None:
        """Return a lease."""
        return self._root.bucket(*self._path, _LEASES, encoded(identifier))

    def leases(self) -> Iterator[tuple[str, Draft]]:
        """Yield all leases by ID."""
        return self._all(_LEASES)

    def add_lease(self, identifier: str, labels: Mapping[str, str]) -> Draft:
        """Make a lease that was not there."""
        lease = self._root.made(*self._path, _LEASES, encoded(identifier))
        objects.mark_made(lease)
        objects.set_labels(lease, labels)
        return lease

    def remove_lease(self, identifier: str) -> None:
        """Remove a lease; what it held is for the garbage collector."""
        self._remove(_LEASES, name=identifier)

    def _all(self, *path: bytes) -> Iterator[tuple[str, Draft]]:
        place = self._root.bucket(*self._path, *path)
        for key, record in place.buckets() if place is not None else ():
            yield decoded(key), record

    def _remove(self, *path: bytes, name: str) -> None:
        place = self._root.bucket(*self._path, *path)
        if place is not None:
            place.delete(encoded(name))


def size_of(blob: Draft) -> int:
    """Return the size in bytes that is recorded of a blob."""
    return go_binary.read_varint(blob.value(_SIZE) or b"")


def target_of(image: Draft) -> ImageTarget:
    """Return what an image name points at."""
    place = image.bucket(b"target")
    if place is None:
        raise ValueError("an image without a target")
    digest, media_type = place.value(b"digest") or b"", place.value(b"mediatype") or b""
    return ImageTarget(decoded(media_type), decoded(digest), go_binary.read_varint(place.value(_SIZE) or b""))


def key_of(snapshot: Draft) -> str:
    """Return the key by which the snapshotter knows a snapshot."""
    return decoded(snapshot.value(_NAME) or b"")


def parent_of(snapshot: Draft) -> str | None:
    """Return the name of the snapshot that this one stands on."""
    parent = snapshot.value(_PARENT)
    return decoded(parent) if parent else None


def has_children(snapshot: Draft) -> bool:
    """Tell whether others stand on a snapshot."""
    children = snapshot.bucket(_CHILDREN)
    return children is not None and next(children.keys(), None) is not None


def expected_by(ingest: Draft) -> str:
    """Return the digest of the blob that an ingest shares with another namespace, empty if it shares none."""
    return decoded(ingest.value(b"expected") or b"")


def reference_of(ingest: Draft) -> str:
    """Return the reference by which the content store knows an ingest."""
    return decoded(ingest.value(b"ref") or b"")


def held_by(lease: Draft) -> Iterator[tuple[str, str]]:
    """Yield what a lease holds: kind (``content``, ``ingests``, ``snapshots/<snapshotter>``) and name."""
    for kind, place in lease.buckets():
        if kind == _SNAPSHOTS:
            for snapshotter, names in place.buckets():
                yield from ((f"{decoded(kind)}/{decoded(snapshotter)}", decoded(name)) for name in names.keys())  # noqa: SIM118
        elif kind != b"labels":
            yield from ((decoded(kind), decoded(name)) for name in place.keys())  # noqa: SIM118


def hold(lease: Draft, kind: str, name: str) -> None:
    """Have a lease hold something."""
    lease.made(*map(encoded, kind.split("/"))).put(encoded(name), b"")


def let_go(lease: Draft, kind: str, name: str) -> None:
    """Have a lease hold something no longer."""
    place = lease.bucket(*map(encoded, kind.split("/")))
    if place is not None:
        place.delete(encoded(name))
