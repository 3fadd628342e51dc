"""A live containerd as the place that images are moved to."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from transship.errors import TargetError, TargetFull, TargetRefused
from transship.files.durable import SharedSync
from transship.stores.containerd.content import ContainerdContent
from transship.stores.containerd.images import ContainerdImages
from transship.stores.containerd.leases import Leases
from transship.stores.containerd.plugins import Plugins
from transship.stores.containerd.rpc import Connection
from transship.stores.containerd.snapshots import ContainerdSnapshotter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from transship.formats.digest import Digest
    from transship.stores.interfaces import ContentStore, ImageStore, Snapshotter


class ContainerdTarget:
    """containerd on ``socket``, one of its namespaces and one of its snapshotters, as ``Target``. For containerd 1.6 to 2.x."""

    content: ContentStore
    images: ImageStore
    snapshots: Snapshotter | None

    def __init__(self, socket: Path, namespace: str = "moby", snapshotter: str = "overlayfs") -> None:
        """Connects to nothing yet. Raises TargetRefused for a snapshotter other than overlayfs and native."""
        self._connection = Connection(socket, namespace)
        self._leases = Leases(self._connection)
        self._snapshotter = snapshotter
        self._plugins: Plugins | None = None
        self._syncs: list[SharedSync] = []
        self.content = ContainerdContent(self._connection, self._leases)
        self.images = ContainerdImages(self._connection)
        self.snapshots = ContainerdSnapshotter(self._connection, self._leases, snapshotter)

    def open(self) -> None:
        """Connect and check that containerd has what is needed. Raises TargetUnavailable, TargetRefused."""
        self._connection.open()
        self._plugins = Plugins(self._connection, self._snapshotter)
        with _mapped("containerd's directories"):
            file_systems = {path.stat().st_dev: path for path in self._plugins.stores}
        self._syncs = [SharedSync(path) for path in file_systems.values()]

    def close(self) -> None:
        """Disconnect. What is stored stays."""
        self._connection.close()

    def hold(self, run: str) -> None:
        """Protect what is stored until ``release``; call it again every few hours while the run lasts (``leases``)."""
        self._leases.hold(run)

    def release(self, run: str) -> None:
        """End the protection and collect what nothing refers to."""
        self._leases.release(run)

    def collect(self, digests: frozenset[Digest], snapshots: frozenset[str]) -> None:  # noqa: ARG002
        """Have containerd collect: it knows itself what nothing refers to, named here or not."""
        self._leases.collect()

    def durable(self) -> None:
        """Return when all that was stored before the call would survive a power cut. Raises TargetFull, TargetRefused."""
        self._opened()
        for sync in self._syncs:
            with _mapped("sync of containerd's file systems"):
                sync.wait()

    def file_systems(self) -> Mapping[str, Path]:
        """Where bytes will land."""
        return self._opened().landing

    def _opened(self) -> Plugins:
        if self._plugins is None:
            raise self._connection.unavailable(f"not connected to containerd on {self._connection.socket}")
        return self._plugins


@contextmanager
def _mapped(about: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        kind: type[TargetError] = TargetFull if full else TargetRefused
        raise kind(f"{about}: {error}") from error
