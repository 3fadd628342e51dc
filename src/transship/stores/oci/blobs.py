"""Blobs of an OCI image layout: one file each, named by its digest."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, Self

from transship.errors import TargetNotFound, TargetRefused
from transship.files import durable
from transship.formats import digest as digests
from transship.stores.directories import Arriving
from transship.stores.interfaces import ContentInfo
from transship.stores.mapped import mapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from transship.formats.digest import Digest
    from transship.stores.interfaces import ContentWriter, Labels
    from transship.stores.oci.claims import Claims
    from transship.stores.oci.layout import Layout

_CHUNK = 1 << 20


class LayoutContent:
    """The blobs of a layout, as ``ContentStore``. A layout has no place for their labels: these are let go."""

    def __init__(self, layout: Layout, claims: Claims) -> None:
        self._layout = layout
        self._claims = claims

    def info(self, digest: Digest) -> ContentInfo:
        """Describe a stored blob. Raises TargetNotFound."""
        with mapped(digest):
            try:
                status = self._path(digest).stat()
            except FileNotFoundError as error:
                raise self._missing(digest) from error
        if not stat.S_ISREG(status.st_mode):
            raise TargetRefused(f"{self._path(digest)} is not a regular file", remedy="remove it, then run again")
        return ContentInfo(digest, status.st_size)

    def list(self) -> Iterator[ContentInfo]:
        """Yield every stored blob."""
        with mapped(self._layout.blobs):
            try:
                names = os.listdir(self._layout.blobs)  # noqa: PTH208 - names are all that is wanted
            except FileNotFoundError:
                return
        for name in names:
            try:
                yield self.info(digests.from_hex(name))
            except (ValueError, TargetNotFound):  # not a blob, or removed by now
                continue

    def writer(self, ref: str) -> ContentWriter:
        """Start the ingest called ``ref``. Stale ones, of whatever name, are removed first."""
        return _Ingest(self._layout, self._claims, ref)

    def read(self, digest: Digest) -> Iterator[bytes]:
        """Yield the blob's bytes. Raises TargetNotFound before the first, TargetRefused after the last if they are not the
        blob's.
        """
        self.info(digest)
        hasher = hashlib.sha256()
        with mapped(digest):
            try:
                file = self._path(digest).open("rb")
            except FileNotFoundError as error:
                raise self._missing(digest) from error
            with file:
                while data := file.read(_CHUNK):
                    hasher.update(data)
                    yield data
        if hasher.hexdigest() != digests.hex_part(digest):
            raise TargetRefused(
                f"blob {digest} is damaged: its bytes have the digest sha256:{hasher.hexdigest()}",
                remedy=f"remove {self._path(digest)}, then run again",
            )

    def add_labels(self, digest: Digest, labels: Labels) -> None:  # noqa: ARG002
        """See that the blob is there. Raises TargetNotFound."""
        self.info(digest)

    def _path(self, digest: Digest) -> Path:
        return self._layout.blobs / digests.hex_part(digest)

    def _missing(self, digest: Digest) -> TargetNotFound:
        return TargetNotFound(f"blob {digest} is not in {self._layout.directory}")


class _Ingest:
    """A blob on its way in, as ``ContentWriter``: a file beside the layout's own. Used by one thread at a time."""

    def __init__(self, layout: Layout, claims: Claims, ref: str) -> None:
        self._layout = layout
        self._claims = claims
        self._about = f"{layout.directory}: {ref}"
        self._renamed = False

    def __enter__(self) -> Self:
        self._layout.make()
        with mapped(self._about):
            self._layout.remove_stale_ingests()
            self._descriptor, self._aside = self._layout.create_aside()
        self._arriving = Arriving(self._descriptor, self._about)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with mapped(self._about):
            try:
                if not self._renamed:
                    self._aside.unlink(missing_ok=True)
            finally:
                os.close(self._descriptor)

    def write(self, data: bytes) -> None:
        """Append ``data``. Raises TargetFull, TargetUnavailable."""
        self._arriving.write(data)

    def commit(self, digest: Digest, size: int, labels: Labels) -> bool:  # noqa: ARG002
        """Verify and store what was written; see ``ContentWriter.commit``. A blob there of another size is replaced.

        True too for a blob that an earlier attempt at the run stored.
        """
        self._arriving.ensure(digest, size)
        path = self._layout.blobs / digests.hex_part(digest)
        with mapped(self._about):
            os.fsync(self._descriptor)
            with self._layout.locked():
                if _is_whole(path, size):
                    _sync_file(path)  # whoever stored it may not have
                else:
                    self._claims.add(digest)
                    os.fchmod(
                        self._descriptor, 0o444
                    )  # last: one that is left behind read-only, only root could lock and remove
                    self._aside.rename(path)
                    self._renamed = True
                durable.sync_directory(path.parent)
        return self._renamed or self._claims.from_earlier(digest)


def _is_whole(path: Path, size: int) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
