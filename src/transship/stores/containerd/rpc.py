"""Calls to containerd: its socket, the headers it wants, and its errors as ours.

Services and fields are those of containerd's ``api/``; the headers ``containerd-namespace`` and ``containerd-lease`` those of
its ``pkg/namespaces`` and ``core/leases``. Every call has a deadline. Nothing of grpc's is raised out of this module.
"""

from __future__ import annotations

import os
import queue
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import quote

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # we fork only to run other programs; its handlers would write to stderr

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from transship.errors import TargetError, TargetExists, TargetFull, TargetNotFound, TargetRefused, TargetUnavailable
from transship.stores.containerd.api import version_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from google.protobuf.descriptor import ServiceDescriptor

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

FIRST_TIMEOUT = 10.0
"""Seconds for the first answer of what may not be containerd at all."""
TIMEOUT = 300.0
"""Seconds for an ordinary call: containerd answers at once, unless it syncs to a busy disk or collects garbage meanwhile."""
LONG_TIMEOUT = 24 * 3600.0
"""Seconds for a stream of any length and for calls that walk or remove whole trees."""

_OPTIONS = (
    ("grpc.default_authority", "localhost"),  # Go's servers reject what grpc would derive from a path
    ("grpc.max_receive_message_length", 256 << 20),  # images are listed in one message
    ("grpc.use_local_subchannel_pool", 1),  # a new connection does not wait for what an old one is waiting for
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # the default would miss a restarted containerd for two minutes
)


@dataclass(frozen=True)
class Method(Generic[Q, R]):
    """A method of containerd's API, with the types of its messages."""

    path: str
    request: type[Q]
    response: type[R]


def method(service: ServiceDescriptor, name: str, request: type[Q], response: type[R]) -> Method[Q, R]:
    """Return the method ``name`` of ``service``. Raises TypeError if these are not its message types."""
    descriptor = service.methods_by_name[name]
    if (descriptor.input_type, descriptor.output_type) != (request.DESCRIPTOR, response.DESCRIPTOR):
        raise TypeError(f"{service.full_name}.{name} is not from {request.__name__} to {response.__name__}")
    return Method(f"/{service.full_name}/{name}", request, response)


_VERSION = method(version_pb2.DESCRIPTOR.services_by_name["Version"], "Version", Empty, version_pb2.VersionResponse)


class Connection:
    """One containerd and one of its namespaces. Safe to use from several threads."""

    def __init__(self, socket: Path, namespace: str) -> None:
        self.socket = socket.absolute()
        self._namespace = namespace
        self._channel: grpc.Channel | None = None

    def open(self) -> str:
        """Connect, anew if need be, and return containerd's version. Raises TargetUnavailable, TargetRefused."""
        self._look_at_socket()
        self.close()
        self._channel = grpc.insecure_channel(f"unix:{quote(str(self.socket))}", options=_OPTIONS)
        try:
            return self.call(_VERSION, Empty(), "version", timeout=FIRST_TIMEOUT).version
        except TargetRefused as error:
            raise TargetRefused(
                f"what listens on {self.socket} is not containerd: {error.message}", remedy="name containerd's own socket"
            ) from error

    def close(self) -> None:
        """Disconnect. Calls under way fail."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def call(self, to: Method[Q, R], request: Q, about: str, *, lease: str | None = None, timeout: float = TIMEOUT) -> R:
        """Send ``request`` and return the answer. ``about`` names the thing concerned in errors, which are TargetErrors."""
        with self.mapped(about):
            multi = self._connected().unary_unary(to.path, to.request.SerializeToString, to.response.FromString)
            return multi(request, timeout=timeout, metadata=self._metadata(lease))

    def stream(self, to: Method[Q, R], request: Q, about: str) -> Iterator[R]:
        """Send ``request`` and yield the answers. Raises TargetErrors that name ``about``."""
        with self.mapped(about):
            multi = self._connected().unary_stream(to.path, to.request.SerializeToString, to.response.FromString)
            answers = multi(request, timeout=LONG_TIMEOUT, metadata=self._metadata(None))
            try:
                yield from answers
            finally:
                answers.cancel()

    def exchange(self, to: Method[Q, R], about: str, *, lease: str | None) -> Exchange[R]:
        """Start a call that sends and receives any number of messages."""
        multi: grpc.StreamStreamMultiCallable[bytes, R]
        multi = self._connected().stream_stream(to.path, None, to.response.FromString)
        return Exchange(self, about, lambda requests: multi(requests, timeout=LONG_TIMEOUT, metadata=self._metadata(lease)))

    def unavailable(self, problem: str) -> TargetUnavailable:
        """Return the error for ``problem`` with this connection, with its remedy."""
        return TargetUnavailable(problem, remedy=f"see that containerd runs and answers on {self.socket}, then run again")

    def _connected(self) -> grpc.Channel:
        if self._channel is None:
            raise self.unavailable(f"not connected to containerd on {self.socket}")
        return self._channel

    def _metadata(self, lease: str | None) -> tuple[tuple[str, str], ...]:
        namespace = ("containerd-namespace", self._namespace)
        return (namespace,) if lease is None else (namespace, ("containerd-lease", lease))

    def _look_at_socket(self) -> None:
        try:
            mode = self.socket.stat().st_mode
        except OSError as error:
            raise self.unavailable(f"no containerd socket at {self.socket}: {error.strerror}") from error
        if not stat.S_ISSOCK(mode):
            raise TargetRefused(f"{self.socket} is not a socket", remedy="name containerd's own socket")

    @contextmanager
    def mapped(self, about: str) -> Iterator[None]:
        """Raise grpc's errors as TargetErrors that name ``about``."""
        try:
            yield
        except grpc.RpcError as error:
            raise self._error(about, error.code(), error.details() or "") from error

    def _error(self, about: str, code: grpc.StatusCode, details: str) -> TargetError:
        message = f"{about}: {details}"
        if "no space left on device" in details or "disk quota exceeded" in details:
            return TargetFull(message, remedy="make room on containerd's file system, then run again")
        if code is grpc.StatusCode.UNAVAILABLE and " locked for " in details:  # containerd itself: another stream has the ref
            return TargetRefused(message, remedy="let the other run that writes it end, then run again")
        match code:
            case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.CANCELLED:
                return self.unavailable(message)
            case grpc.StatusCode.NOT_FOUND:
                return TargetNotFound(message)
            case grpc.StatusCode.ALREADY_EXISTS:
                return TargetExists(message)
            case _:
                return TargetRefused(f"{message} ({code.name})")


class Exchange(Generic[R]):
    """A call with messages in both directions. Used by one thread at a time; ``close`` it when done, whatever happened.

    What is sent waits in a queue; ``receive`` is where a broken stream shows, so the caller bounds the queue by receiving.
    """

    def __init__(self, connection: Connection, about: str, start: Callable[[Iterator[bytes]], Iterator[R]]) -> None:
        self._connection = connection
        self._about = about
        # grpc takes messages out of the queue in a thread of its own, where an exception would be lost: it can only wait.
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers = start(iter(self._requests.get, None))

    def send(self, request: bytes) -> None:
        """Queue a serialised message."""
        self._requests.put(request)

    def receive(self) -> R:
        """Wait for the next answer. Raises TargetErrors, TargetRefused too if there is none to come."""
        with self._connection.mapped(self._about):
            for answer in self._answers:
                return answer
        raise TargetRefused(f"{self._about}: containerd ended the call early")

    def close(self) -> None:
        """Send no more, and wait until containerd has ended the call and let go of what it locked for it."""
        self._requests.put(None)
        with suppress(grpc.RpcError):  # whoever waited for an answer was told
            for _ in self._answers:
                pass
