"""What holds the snapshots and blobs of a cache, for each kind of cache."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from transship.errors import SourceUnsupported
from transship.stores.buildkit.embedded import EmbeddedHolder
from transship.stores.buildkit.graph_driver import GraphDriverHolder
from transship.stores.buildkit.places import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.stores.buildkit.holder import Holder
    from transship.stores.buildkit.places import Cache


@contextmanager
def opened(cache: Cache, containerd: Path | None, namespace: str) -> Iterator[Holder]:
    """Have what holds the snapshots and blobs of ``cache``.

    Of a containerd worker's cache that is the containerd that listens on the socket ``containerd``, in ``namespace``; others
    have all in the cache's directory, and know one namespace. Raises what ``Holder`` does; SourceUnsupported without socket.
    """
    with closing(_holder(cache, containerd, namespace)) as holder:
        yield holder


def _holder(cache: Cache, containerd: Path | None, namespace: str) -> Holder:
    if cache.kind is Kind.EMBEDDED:
        return EmbeddedHolder(cache)
    if cache.kind is Kind.GRAPH_DRIVER:
        return GraphDriverHolder(cache)
    if containerd is None:
        raise SourceUnsupported(
            f"{cache.place}: what this cache needs is in a containerd", remedy="name its socket: --target containerd:SOCKET"
        )
    # With it comes gRPC, which other caches do without.
    from transship.stores.buildkit.live import LiveHolder  # noqa: PLC0415

    return LiveHolder(cache, containerd, namespace)
