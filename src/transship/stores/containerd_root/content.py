"""Blobs in containerd's root: a file each, and a record for each in every namespace that has it.

Source: containerd ``content/local/{store,writer}.go``, ``metadata/content.go``. A record without a whole file, which a power
cut may leave, counts as none.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import IO, TYPE_CHECKING

from transship.errors import TargetNotFound, TargetRefused
from transship.files.beneath import FILE_FLAGS
from transship.formats import digest as digests
from transship.stores.containerd_db import objects
from transship.stores.containerd_db.metadata import size_of
from transship.stores.containerd_root.collect import CONTENT
from transship.stores.containerd_root.ingest import Ingest
from transship.stores.containerd_root.labels import check_labels
from transship.stores.interfaces import ContentInfo
from transship.stores.mapped import mapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.formats.bolt.draft import Draft
    from transship.formats.digest import Digest
    from transship.stores.containerd_root.store import Store
    from transship.stores.interfaces import ContentWriter, Labels

_CHUNK = 1 << 20


class RootContent:
    """The blobs of one namespace, as ``ContentStore``. While a run is held, what is looked up is kept for it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def info(self, digest: Digest) -> ContentInfo:
        """Describe a stored blob. Raises TargetNotFound."""
        with self._store.use():
            record = self._found(digest)
            self._store.lease.keep(self._store.namespace, (CONTENT, digest))
            return ContentInfo(digest, size_of(record), objects.labels(record))

    def list(self) -> Iterator[ContentInfo]:
        """Yield every stored blob with a sha256 digest; containerd may have others, that cannot be of Docker's."""
        with self._store.databases.read():
            records = [(name, size_of(record), objects.labels(record)) for name, record in self._store.namespace.blobs()]
        for name, size, labels in records:
            if digests.is_digest(name) and self._is_whole(digests.parse(name), size):
                yield ContentInfo(digests.parse(name), size, labels)

    def writer(self, ref: str) -> ContentWriter:
        """Start the ingest called ``ref``; the ``with`` statement removes a stale one of that name first."""
        return Ingest(self._store, ref, self._add)

    def read(self, digest: Digest) -> Iterator[bytes]:
        """Yield the blob's bytes. Raises TargetNotFound before the first, TargetRefused after the last if they are not the
        blob's.
        """
        with self._store.databases.read():
            record = self._store.namespace.blob(digest)
            if record is None or not digests.is_digest(digest):
                raise self._missing(digest)
            size = size_of(record)
        hasher = hashlib.sha256()
        count = 0
        with mapped(digest), self._opened(digest) as file:
            while data := file.read(_CHUNK):
                hasher.update(data)
                count += len(data)
                yield data
        if (count, hasher.hexdigest()) != (size, digests.hex_part(digest)):
            raise TargetRefused(
                f"blob {digest} is damaged: {count} of {size} bytes, of digest sha256:{hasher.hexdigest()}",
                remedy=f"remove {self._path(digest)}, then run again",
            )

    def add_labels(self, digest: Digest, labels: Labels) -> None:
        """Set ``labels`` on a stored blob, keep its others. Raises TargetNotFound."""
        check_labels(f"blob {digest}", labels)
        with self._store.databases.change():
            record = self._found(digest)
            _add_labels(record, labels)
            self._store.lease.keep(self._store.namespace, (CONTENT, digest))

    def _add(self, aside: Path, digest: Digest, size: int, labels: Labels) -> bool:
        """Make the file ``aside``, which is durable, a blob; return whether it was none before."""
        check_labels(f"blob {digest}", labels)
        with self._store.databases.change():
            namespace = self._store.namespace
            record = namespace.blob(digest)
            whole = self._is_whole(digest, size)
            if not whole:
                aside.rename(self._path(digest))
            if record is None or size_of(record) != size:
                namespace.add_blob(digest, size, labels)
            else:
                _add_labels(record, labels)
            self._store.lease.keep(namespace, (CONTENT, digest))
        return record is None or not whole

    def _found(self, digest: Digest) -> Draft:
        record = self._store.namespace.blob(digest)
        if record is None or not digests.is_digest(digest) or not self._is_whole(digest, size_of(record)):
            raise self._missing(digest)
        return record

    def _is_whole(self, digest: Digest, size: int) -> bool:
        try:
            status = self._path(digest).lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == size

    def _opened(self, digest: Digest) -> IO[bytes]:
        try:
            descriptor = os.open(self._path(digest), FILE_FLAGS)
        except FileNotFoundError as error:
            raise self._missing(digest) from error
        return open(descriptor, "rb", buffering=0)  # noqa: PTH123 - a path would follow a link; the caller closes it

    def _path(self, digest: Digest) -> Path:
        return self._store.root.blobs / digests.hex_part(digest)

    def _missing(self, digest: Digest) -> TargetNotFound:
        return TargetNotFound(f"blob {digest} is not in {self._store.root.directory}")


def _add_labels(record: Draft, labels: Labels) -> None:
    before = objects.labels(record)
    after = {**before, **labels}
    if after != before:
        objects.set_labels(record, after)
        objects.mark_updated(record)
