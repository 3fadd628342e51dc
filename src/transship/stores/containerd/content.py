"""Blobs in containerd's content store."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from transship.errors import TargetRefused
from transship.formats import digest as digests
from transship.stores.containerd import rpc
from transship.stores.containerd.api import content_pb2 as api
from transship.stores.containerd.ingest import Ingest
from transship.stores.containerd.leases import Resource
from transship.stores.interfaces import ContentInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transship.formats.digest import Digest
    from transship.stores.containerd.leases import Leases
    from transship.stores.interfaces import ContentWriter, Labels

_SERVICE = api.DESCRIPTOR.services_by_name["Content"]
_INFO = rpc.method(_SERVICE, "Info", api.InfoRequest, api.InfoResponse)
_UPDATE = rpc.method(_SERVICE, "Update", api.UpdateRequest, api.UpdateResponse)
_LIST = rpc.method(_SERVICE, "List", api.ListContentRequest, api.ListContentResponse)
_READ = rpc.method(_SERVICE, "Read", api.ReadContentRequest, api.ReadContentResponse)


class ContainerdContent:
    """The content store of one namespace, as ``ContentStore``. While a run is held, what is looked up is kept for it."""

    def __init__(self, connection: rpc.Connection, leases: Leases) -> None:
        self._connection = connection
        self._leases = leases

    def info(self, digest: Digest) -> ContentInfo:
        """Describe a stored blob. Raises TargetNotFound."""
        info = self._info(digest)
        if self._leases.keep(Resource("content", digest)):
            info = self._info(digest)  # it may have been collected just before it was leased
        return info

    def list(self) -> Iterator[ContentInfo]:
        """Yield every stored blob with a sha256 digest; containerd may have others, that cannot be of Docker's."""
        for answer in self._connection.stream(_LIST, api.ListContentRequest(), "list of blobs"):
            for info in answer.info:
                if info.digest.startswith("sha256:"):
                    yield ContentInfo(digests.parse(info.digest), info.size, dict(info.labels))

    def writer(self, ref: str) -> ContentWriter:
        """Start the ingest called ``ref``; the ``with`` statement aborts a stale one of that name first."""
        return Ingest(self._connection, self._leases, ref, self.add_labels)

    def read(self, digest: Digest) -> Iterator[bytes]:
        """Yield the blob's bytes. Raises TargetNotFound at once, TargetRefused at the end if they are not the blob's."""
        return self._verified(digest, self._info(digest).size)

    def add_labels(self, digest: Digest, labels: Labels) -> None:
        """Set ``labels`` on a stored blob, keep its others. Raises TargetNotFound."""
        self._leases.keep(Resource("content", digest))
        if not labels:
            self._info(digest)
            return
        request = api.UpdateRequest(
            info=api.Info(digest=digest, labels=labels),
            update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
        )
        self._connection.call(_UPDATE, request, f"blob {digest}")

    def _info(self, digest: Digest) -> ContentInfo:
        info = self._connection.call(_INFO, api.InfoRequest(digest=digest), f"blob {digest}").info
        return ContentInfo(digest, info.size, dict(info.labels))

    def _verified(self, digest: Digest, size: int) -> Iterator[bytes]:
        hasher = hashlib.sha256()
        count = 0
        for answer in self._connection.stream(_READ, api.ReadContentRequest(digest=digest), f"blob {digest}"):
            hasher.update(answer.data)
            count += len(answer.data)
            yield answer.data
        if (count, hasher.hexdigest()) != (size, digests.hex_part(digest)):
            raise TargetRefused(
                f"blob {digest} is damaged: {count} of {size} bytes, of digest sha256:{hasher.hexdigest()}",
                remedy="remove it from containerd, then run again",
            )
