"""Image names in containerd's root."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.errors import TargetNotFound, TargetRefused
from transship.formats.digest import Digest
from transship.stores.containerd_db import objects
from transship.stores.containerd_db.metadata import ImageTarget, target_of
from transship.stores.containerd_root.collect import CONTENT
from transship.stores.containerd_root.labels import check_labels
from transship.stores.containerd_root.lease import have_wait
from transship.stores.interfaces import ImageDescriptor, ImageRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transship.formats.bolt.draft import Draft
    from transship.stores.containerd_root.store import Store


class RootImages:
    """The image names of one namespace, as ``ImageStore``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, name: str) -> ImageRecord:
        """Look a name up. Raises TargetNotFound."""
        with self._store.databases.read():
            record = self._store.namespace.image(name) if name else None
            if record is None:
                raise TargetNotFound(f"image {name} is not in {self._store.root.directory}")
            return _record(name, record)

    def list(self) -> Iterator[ImageRecord]:
        """Yield every record."""
        with self._store.databases.read():
            records = [_record(name, record) for name, record in self._store.namespace.images()]
        yield from records

    def put(self, record: ImageRecord) -> None:
        """Create the name, or point it at the record's target and labels, durably."""
        target = record.target
        if not record.name or not target.media_type or target.size <= 0:
            raise TargetRefused(f"image {record.name!r}: containerd takes none without a name, a media type or a size")
        check_labels(f"image {record.name}", record.labels)
        with self._store.databases.change():
            wanted = ImageTarget(target.media_type, target.digest, target.size)
            self._store.namespace.put_image(record.name, wanted, record.labels)
        self._store.databases.durable()

    def delete(self, name: str) -> None:
        """Remove a name, durably; one that is not there is success. What it pointed at waits for ``collect``."""
        with self._store.databases.read():
            if not name or self._store.namespace.image(name) is None:
                return
        with self._store.databases.change():
            namespace = self._store.namespace
            record = namespace.image(name)
            if record is not None:
                have_wait(namespace, (CONTENT, target_of(record).digest))
                namespace.remove_image(name)
        self._store.databases.durable()


def _record(name: str, record: Draft) -> ImageRecord:
    target = target_of(record)
    # Not parsed: one image of another tool with a digest other than sha256 must not spoil the list.
    descriptor = ImageDescriptor(target.media_type, Digest(target.digest), target.size)
    return ImageRecord(name, descriptor, objects.labels(record))
