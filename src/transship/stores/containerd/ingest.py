"""Writing one blob into containerd's content store.

The protocol (containerd ``api/services/content/v1/content.proto``, ``plugins/services/content/contentserver``): a stream of
writes under a ref, each answered with the offset and digest reached, ended by a commit that names size and digest.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from google.protobuf.empty_pb2 import Empty

from transship.errors import TargetError, TargetExists, TargetNotFound, TargetRefused
from transship.formats.go_binary import uvarint  # which is protobuf's, too
from transship.stores.containerd import rpc
from transship.stores.containerd.api import content_pb2 as api

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from transship.formats.digest import Digest
    from transship.stores.containerd.leases import Leases
    from transship.stores.interfaces import Labels

_SERVICE = api.DESCRIPTOR.services_by_name["Content"]
_WRITE = rpc.method(_SERVICE, "Write", api.WriteContentRequest, api.WriteContentResponse)
_ABORT = rpc.method(_SERVICE, "Abort", api.AbortRequest, Empty)

_CHUNK = 1 << 20
"""Bytes that are collected before they are sent; containerd takes messages of up to 16 MiB."""
_UNANSWERED = 4
"""Messages on their way at once: enough to keep containerd busy, few enough to need little memory."""
_DATA_TAG = bytes([api.WriteContentRequest.DATA_FIELD_NUMBER << 3 | 2])


class Ingest:
    """One ingest, as ``ContentWriter``. Used by one thread at a time."""

    def __init__(
        self, connection: rpc.Connection, leases: Leases, ref: str, add_labels: Callable[[Digest, Labels], None]
    ) -> None:
        """``add_labels`` is called with what turns out to be stored already: it labels it and keeps it."""
        self._connection = connection
        self._leases = leases
        self._ref = ref
        self._about = f"ingest {ref}"
        self._add_labels = add_labels
        self._parts: list[memoryview] = []
        self._collected = 0
        self._sent = 0
        self._unanswered = 0
        self._committed = False
        self._answer = api.WriteContentResponse()

    def __enter__(self) -> Self:
        self._abort()
        with ExitStack() as stack:
            lease = stack.enter_context(self._leases.current())
            self._exchange = self._connection.exchange(_WRITE, self._about, lease=lease.id if lease else None)
            stack.callback(self._exchange.close)
            self._send(api.WriteContentRequest(action=api.WRITE, ref=self._ref).SerializeToString())
            self._settle()
            self._resources = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._resources.close()
        if self._committed:
            return
        try:
            self._abort()
        except TargetError:
            if error is None:  # else that error matters more, and what is left goes with the next ingest or the lease
                raise

    def write(self, data: bytes) -> None:
        """Append ``data``. Raises TargetUnavailable or TargetFull, perhaps for bytes of an earlier call."""
        view = memoryview(data)
        for start in range(0, len(view), _CHUNK):
            part = view[start : start + _CHUNK]
            self._parts.append(part)
            self._collected += len(part)
            if self._collected >= _CHUNK:
                self._flush()

    def commit(self, digest: Digest, size: int, labels: Labels) -> bool:
        """Verify and store what was written; see ``ContentWriter.commit``."""
        self._flush()
        self._settle()
        # containerd does not look at what was written if it has a blob of that digest, nor at the size if it is 0.
        if (self._answer.digest, self._answer.offset) != (digest, size):
            raise TargetRefused(
                f"{self._about}: {self._answer.offset} bytes of digest {self._answer.digest} arrived, not {size} of {digest}"
            )
        # Without the digest, which has just been compared: told it, containerd throws the ingest away if it has a record of
        # such a blob, even one whose file a power cut took. Not told, it puts the file in place.
        request = api.WriteContentRequest(action=api.COMMIT, ref=self._ref, offset=size, total=size, labels=labels)
        try:
            self._send(request.SerializeToString())
            self._settle()
            created = True
        except TargetExists:
            created = False
        self._committed = True
        if not created:
            self._add_labels(digest, labels)
        return created

    def _flush(self) -> None:
        if self._collected == 0:
            return
        head = api.WriteContentRequest(action=api.WRITE, offset=self._sent).SerializeToString()
        # Serialised by hand: protobuf takes 40 times as long over a large field, and holds Python's lock meanwhile.
        request = b"".join((head, _DATA_TAG, uvarint(self._collected), *self._parts))
        self._sent += self._collected
        self._parts.clear()
        self._collected = 0
        self._send(request)

    def _send(self, request: bytes) -> None:
        self._exchange.send(request)
        self._unanswered += 1
        while self._unanswered > _UNANSWERED:
            self._receive()

    def _settle(self) -> None:
        while self._unanswered > 0:
            self._receive()

    def _receive(self) -> None:
        self._answer = self._exchange.receive()
        self._unanswered -= 1

    def _abort(self) -> None:
        try:
            self._connection.call(_ABORT, api.AbortRequest(ref=self._ref), self._about)
        except TargetNotFound:
            return  # as it should be
